/*
 * verify/verify.h
 *		Two relations compared as multisets, by key, at one snapshot: what verify, compare and repair ask.
 */
#ifndef CQRS_VERIFY_H
#define CQRS_VERIFY_H

#include "postgres.h"

#include "access/attnum.h"
#include "access/htup.h"
#include "access/tupdesc.h"
#include "registry/registry.h"
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

/*
 * The left relation's columns are compared with those of the same names in the right one.  Rows are told apart by the key columns
 * (attribute numbers of the left one; none: all rows have one key), nulls being equal, and compared column by column: float4 within 1e-5 and
 * float8 within 1e-9, relative, everything else by its binary image.
 */
typedef struct CqrsComparison
{
	Oid			left;
	Oid			right;
	int			nkeys;
	const AttrNumber *key;
	CqrsDifferenceSink sink;
	void	   *argument;		/* for the sink */
} CqrsComparison;

/*
 * Compare under 'snapshot', as the user and under the settings in force; opens an SPI nesting of its own.  The caller has locked both relations.
 */
extern void cqrs_verify_merge(const CqrsComparison *comparison, Snapshot snapshot);

/*
 * Compare a version's table with its definition under 'snapshot', as its owner and under its settings: a row of 'result_desc' (key jsonb, difference
 * text, expected jsonb, found jsonb) into 'result' for each difference.  The caller has locked the version and what it reads, and has applied
 * its window up to the snapshot.
 */
extern void cqrs_verify_compare(const CqrsVersion *version, TupleDesc result_desc, Tuplestorestate *result,
								Snapshot snapshot);

#endif							/* CQRS_VERIFY_H */
