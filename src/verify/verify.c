/*
 * verify/verify.c
 *		A version's table against its definition, as rows for SQL.
 *
 * Leaves locks, the snapshot and bringing the table up to it to the caller: only then is what the comparison says the truth.  Runs as the
 * projection's owner, so row_to_json may call casts that the owner could call anyway.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "verify/verify.h"

/* Where differences go. */
typedef struct Output
{
	TupleDesc	desc;
	Tuplestorestate *rows;
} Output;

static const char *const difference_names[] = {"missing", "extra", "different"};

/*
 * row_jsonb makes a jsonb object of a row; 'isnull' where there is none.
 */
static Datum
row_jsonb(HeapTuple tuple, TupleDesc desc, bool *isnull)
{
	Datum		json;

	*isnull = tuple == NULL;
	if (tuple == NULL)
		return (Datum) 0;
	json = DirectFunctionCall1(row_to_json, heap_copy_tuple_as_datum(tuple, desc));
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(json)));
}

/*
 * put_difference is the sink that adds a row to verify's result.
 */
static void
put_difference(void *argument, const CqrsDifferentRows *rows)
{
	Output	   *output = argument;
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = row_jsonb(rows->key, rows->key_desc, &nulls[0]);
	values[1] = CStringGetTextDatum(difference_names[rows->difference]);
	values[2] = row_jsonb(rows->left, rows->row_desc, &nulls[2]);
	values[3] = row_jsonb(rows->right, rows->row_desc, &nulls[3]);
	tuplestore_putvalues(output->rows, output->desc, values, nulls);
}

/*
 * cqrs_verify_compare puts the differences between a version's definition (expected) and its table (found) into 'result'.
 */
void
cqrs_verify_compare(const CqrsVersion *version, TupleDesc result_desc, Tuplestorestate *result, Snapshot snapshot)
{
	Oid			owner = cqrs_projection_owner(cqrs_projection_get(version->projection, false));
	Output		output = {.desc = result_desc, .rows = result};
	CqrsComparison comparison = {
		.left = version->definition,
		.right = version->table,
		.nkeys = version->nkeys,
		.key = version->key,
		.sink = put_difference,
		.argument = &output,
	};
	CqrsIdentity saved;

	cqrs_identity_enter(&saved, owner, version->settings);
	cqrs_verify_merge(&comparison, snapshot);
	cqrs_identity_leave(&saved);
}
