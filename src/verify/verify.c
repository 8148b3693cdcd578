/*
 * verify/verify.c
 *		A version's table against its definition, and differences as rows for SQL.
 *
 * Leaves locks, the snapshot and bringing the table up to it to the caller: only then is what the comparison says the truth.  Runs as the
 * projection's owner, so row_to_json may call casts that the owner could call anyway.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/apply.h"
#include "base/clock.h"
#include "base/names.h"
#include "base/spi.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "verify/verify.h"

/* A verification whose differences are counted. */
typedef struct Counting
{
	CqrsVerify *verify;
	MemoryContext context;		/* for what outlives it */
} Counting;

static const char *const difference_names[] = {"missing", "extra", "different"};

/*
 * cqrs_verify_shown makes the text of a jsonb object of a row.
 */
char *
cqrs_verify_shown(HeapTuple tuple, TupleDesc desc)
{
	if (tuple == NULL)
		return NULL;
	return TextDatumGetCString(DirectFunctionCall1(row_to_json, heap_copy_tuple_as_datum(tuple, desc)));
}

/*
 * row_jsonb makes a jsonb object of a row; 'isnull' where there is none.
 */
static Datum
row_jsonb(HeapTuple tuple, TupleDesc desc, bool *isnull)
{
	*isnull = tuple == NULL;
	if (tuple == NULL)
		return (Datum) 0;
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(cqrs_verify_shown(tuple, desc)));
}

/*
 * cqrs_verify_put is the sink that adds a row to a function's result.
 */
void
cqrs_verify_put(void *difference_rows, const CqrsDifferentRows *rows)
{
	CqrsDifferenceRows *output = difference_rows;
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = row_jsonb(rows->key, rows->key_desc, &nulls[0]);
	values[1] = CStringGetTextDatum(difference_names[rows->difference]);
	values[2] = row_jsonb(rows->left, rows->row_desc, &nulls[2]);
	values[3] = row_jsonb(rows->right, rows->row_desc, &nulls[3]);
	tuplestore_putvalues(output->rows, output->desc, values, nulls);
}

/*
 * cqrs_verify_shown_columns describes the columns that a version shows: those of its definition, or if handlers define it of its table.
 */
TupleDesc
cqrs_verify_shown_columns(const CqrsVersion *version)
{
	return cqrs_verify_columns(cqrs_version_is_events(version) ? version->table : version->definition);
}

/*
 * cqrs_verify_table writes the FROM of the rows that a version shows.
 */
char *
cqrs_verify_table(const CqrsVersion *version)
{
	const char *shown = cqrs_plan_shown(version->definition, version->table);

	return psprintf("%s AS q%s%s", cqrs_name_relation(version->table), shown ? " WHERE q." : "", shown ? shown : "");
}

/*
 * compare compares a version's definition with its table, or what the comparison has of them already.
 */
static void
compare(const CqrsVersion *version, CqrsComparison *comparison, Snapshot snapshot)
{
	CqrsIdentity saved;

	comparison->row = cqrs_verify_shown_columns(version);
	comparison->nkeys = version->nkeys;
	comparison->key = version->key;
	(void) cqrs_apply_become_owner(version, &saved);
	if (comparison->left.rows == NULL)
		comparison->left.from = psprintf("%s AS q", cqrs_name_relation(version->definition));
	if (comparison->right.rows == NULL)
		comparison->right.from = cqrs_verify_table(version);
	cqrs_verify_merge(comparison, snapshot);
	cqrs_identity_leave(&saved);
}

/*
 * below_of returns the bound that a share of hashes, spread over all of int64, lies below.
 */
static int64
below_of(double share)
{
	return (int64) ((uint64) (share * 18446744073709551616.0) ^ (UINT64CONST(1) << 63));
}

/*
 * compare_sample compares some keys of a version.
 */
static void
compare_sample(const CqrsVersion *version, double share, CqrsComparison *comparison, Snapshot snapshot)
{
	CqrsSample	sample = {.seed = (int64) pg_prng_uint64(&pg_global_prng_state), .below = below_of(share)};

	sample.expected = tuplestore_begin_heap(false, false, work_mem);
	sample.found = tuplestore_begin_heap(false, false, work_mem);
	cqrs_apply_sample(version, &sample, snapshot);
	comparison->left.rows = sample.expected;
	comparison->left.nrows = sample.nexpected;
	comparison->right.rows = sample.found;
	comparison->right.nrows = sample.nfound;
	compare(version, comparison, snapshot);
	tuplestore_end(sample.expected);
	tuplestore_end(sample.found);
}

/*
 * count is the sink that counts differences on their way to the caller's.
 */
static void
count(void *argument, const CqrsDifferentRows *rows)
{
	Counting   *counting = argument;

	if (counting->verify->drifted++ == 0)
		counting->verify->first = MemoryContextStrdup(counting->context, cqrs_verify_shown(rows->key, rows->key_desc));
	if (counting->verify->sink != NULL)
		counting->verify->sink(counting->verify->argument, rows);
}

/*
 * cqrs_verify_version compares a version, or a share of its keys, with its definition.
 *
 * A version with one row is compared as a whole.
 */
void
cqrs_verify_version(const CqrsVersion *version, CqrsVerify *verify, Snapshot snapshot)
{
	Counting	counting = {.verify = verify, .context = CurrentMemoryContext};
	CqrsComparison comparison = {.sink = count, .argument = &counting};

	verify->drifted = 0;
	verify->first = NULL;
	if (verify->share >= 1 || version->nkeys == 0)
	{
		verify->share = 1;
		compare(version, &comparison, snapshot);
	}
	else
		compare_sample(version, verify->share, &comparison, snapshot);
}

/*
 * cqrs_verify_record records what has come of a verification; no keys, which may be a person's: history is kept for ever.
 */
void
cqrs_verify_record(const CqrsVersion *version, const CqrsVerify *verify)
{
	CqrsVerification *before = cqrs_verification_get(version->id);
	int64		known = before ? before->drifted : 0;
	CqrsVerification now = {.version = version->id, .at = cqrs_clock_now()};

	now.drifted = verify->share < 1 ? Max(known, verify->drifted) : verify->drifted;
	cqrs_verification_set(&now);
	if (now.drifted > known)
		cqrs_history_insert_drift(version, "drifted", now.drifted, NULL);
}
