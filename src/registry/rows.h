/*
 * registry/rows.h
 *		Reading and writing rows of our catalog; private to registry/.
 *
 * Scans use a catalog snapshot.  Values handed to readers are copied out by them: the tuple lives only during the call.
 */
#ifndef CQRS_REGISTRY_ROWS_H
#define CQRS_REGISTRY_ROWS_H

#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "registry/registry.h"

/* Makes a struct of a deformed row, in CurrentMemoryContext. */
typedef void *(*CqrsRowReader) (const Datum *values, const bool *nulls);

/* Where to look: a table, one of its indexes by name (NULL: all rows), and equality keys on the table's columns. */
typedef struct CqrsRowScan
{
	CqrsCatalog catalog;
	const char *index;
	int			nkeys;
	ScanKeyData keys[2];
} CqrsRowScan;

extern void cqrs_rows_key_int4(CqrsRowScan *scan, AttrNumber attnum, int32 value);
extern void cqrs_rows_key_int8(CqrsRowScan *scan, AttrNumber attnum, int64 value);
extern void cqrs_rows_key_oid(CqrsRowScan *scan, AttrNumber attnum, Oid value);
extern void cqrs_rows_key_text(CqrsRowScan *scan, AttrNumber attnum, const char *value);	/* of a column in collation C */
extern void cqrs_rows_key_int4_from(CqrsRowScan *scan, AttrNumber attnum, int32 value);	/* not less */

extern List *cqrs_rows_read(const CqrsRowScan *scan, CqrsRowReader reader);
extern void *cqrs_rows_read_one(const CqrsRowScan *scan, CqrsRowReader reader);	/* NULL if none */
extern void *cqrs_rows_read_last(const CqrsRowScan *scan, CqrsRowReader reader);	/* the last in index order */

extern void cqrs_rows_insert(CqrsCatalog catalog, const Datum *values, const bool *nulls);
extern void cqrs_rows_update(const CqrsRowScan *scan, const Datum *values, const bool *nulls);	/* the one row found */
extern int	cqrs_rows_delete(const CqrsRowScan *scan);	/* all rows found; how many */

/* Array and text values. */
extern Datum cqrs_rows_text(const char *value, bool *isnull);
extern char *cqrs_rows_string(const Datum *values, const bool *nulls, int index);
extern Datum cqrs_rows_int2_array(const int16 *values, int count);
extern int16 *cqrs_rows_int2s(Datum array, int *count);

extern List *cqrs_rows_texts(Datum array);

/* Sets of attribute numbers. */
extern Datum cqrs_rows_columns_array(const Bitmapset *columns);
extern Bitmapset *cqrs_rows_columns(Datum array);

/* Three columns, passed by value: system identifier, database, OID of a table of ours; see cqrs_registry_is_ours. */
extern void cqrs_registry_put_origin(Datum *values);

/* ---- handlers.c, for versions.c ---- */

/* Delete all that defines a version by handlers, and its dead letters; do its handlers take events of a type? */
extern void cqrs_handlers_delete(int32 version);
extern bool cqrs_handlers_take_events(int32 version);

#endif							/* CQRS_REGISTRY_ROWS_H */
