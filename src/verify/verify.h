/*
 * verify/verify.h
 *		Two sides compared as multisets, by key, at one snapshot: what verify, compare, repair and shadow_read ask.
 */
#ifndef CQRS_VERIFY_H
#define CQRS_VERIFY_H

#include "postgres.h"

#include "access/attnum.h"
#include "access/htup.h"
#include "access/tupdesc.h"
#include "registry/registry.h"
#include "utils/jsonb.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

typedef enum CqrsDifference
{
	CQRS_MISSING,				/* in the left one only */
	CQRS_EXTRA,					/* in the right one only */
	CQRS_DIFFERENT				/* the same key with other values */
} CqrsDifference;

/* One difference: a key, and the row that each side has for it, NULL where it has none. */
typedef struct CqrsDifferentRows
{
	CqrsDifference difference;
	TupleDesc	key_desc;		/* the key's columns, in the order of the key */
	HeapTuple	key;
	TupleDesc	row_desc;		/* the columns compared; both descriptors are registered record types */
	HeapTuple	left;
	HeapTuple	right;
} CqrsDifferentRows;

/* Called for each difference, in the order of keys; all it is given is valid during the call only. */
typedef void (*CqrsDifferenceSink) (void *argument, const CqrsDifferentRows *rows);

/* Where the rows of a side are: in a store, as rows of the columns compared, or in what a SELECT's FROM, which calls it q, says. */
typedef struct CqrsSide
{
	Tuplestorestate *rows;		/* or NULL: */
	double		nrows;
	const char *from;			/* text, with what may follow FROM but ORDER BY */
	int			nargs;			/* parameters in it, none of them null */
	const Oid  *types;
	Datum	   *values;
} CqrsSide;

/*
 * Columns are found on both sides by their names in 'row'.  Rows are told apart by the key columns (numbers into 'row'; none: all rows have one key), nulls
 * being equal, and compared column by column: float4 within 1e-5 and float8 within 1e-9, relative, everything else by its binary image.
 */
typedef struct CqrsComparison
{
	CqrsSide	left;
	CqrsSide	right;
	TupleDesc	row;
	int			nkeys;
	const AttrNumber *key;
	CqrsDifferenceSink sink;
	void	   *argument;		/* for the sink */
} CqrsComparison;

/*
 * Compare under 'snapshot', as the user and under the settings in force; opens an SPI nesting of its own.  The caller has locked what is read.
 */
extern void cqrs_verify_merge(const CqrsComparison *comparison, Snapshot snapshot);

/* The columns of a relation that are not dropped, as a row to be compared; the number of one by its name, or 0. */
extern TupleDesc cqrs_verify_columns(Oid relation);
extern AttrNumber cqrs_verify_column(TupleDesc desc, const char *name);

/* The columns that two sides have with the same name and type; a notice names the others of each side. */
extern TupleDesc cqrs_verify_common(TupleDesc left, const char *left_name, TupleDesc right, const char *right_name);

/* Refuse a version that handlers define and that has no key (0A000). */
extern void cqrs_verify_check_keyed(const CqrsVersion *version);

/* Keys given as JSON: refuse what is no array of them; the key's columns with their types; and the values of one.  Errors: 22023, and those of the types. */
extern void cqrs_verify_check_keys(const CqrsVersion *version, Jsonb *keys);
extern char *cqrs_verify_key_columns(const CqrsVersion *version);
extern void cqrs_verify_read_key(const CqrsVersion *version, Jsonb *key, Datum *values, bool *nulls);

/* What a version's table shows to readers: its columns, and the FROM of its rows, as q. */
extern TupleDesc cqrs_verify_shown_columns(const CqrsVersion *version);
extern char *cqrs_verify_table(const CqrsVersion *version);

/* What there is to verify of a version, and what has come of it. */
typedef struct CqrsVerify
{
	double		share;			/* in: 1, or about that share of its keys, picked at random */
	CqrsDifferenceSink sink;	/* in: told of each difference, definition left and table right; may be NULL */
	void	   *argument;		/* in: for the sink */
	int64		drifted;		/* out: differences */
	char	   *first;			/* out: the key of the first of them, as JSON; NULL if there is none */
} CqrsVerify;

/*
 * Compare a version's definition with its table under 'snapshot', as its owner and under its settings, in time that goes with the share as far as the
 * definition allows.  The caller has locked the version and what it reads, and has applied its window up to the snapshot.
 */
extern void cqrs_verify_version(const CqrsVersion *version, CqrsVerify *verify, Snapshot snapshot);

/*
 * Record what has come of it, for cqrs.lag, and in history if drift is found that was not known.  A sample without drift says nothing of what was found
 * before.
 */
extern void cqrs_verify_record(const CqrsVersion *version, const CqrsVerify *verify);

/* A sink that makes rows for SQL of differences: key jsonb, difference text, left jsonb, right jsonb. */
typedef struct CqrsDifferenceRows
{
	TupleDesc	desc;
	Tuplestorestate *rows;
} CqrsDifferenceRows;

extern void cqrs_verify_put(void *difference_rows, const CqrsDifferentRows *rows);

/* A row as jsonb text; NULL for none. */
extern char *cqrs_verify_shown(HeapTuple tuple, TupleDesc desc);

#endif							/* CQRS_VERIFY_H */
