/*
 * projection/verify.c
 *		Verifying, comparing and mending versions of a projection from one's own session.
 *
 * All bring the version up to a snapshot first, in the caller's transaction, so that what has only not been applied yet is no difference.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/apply.h"
#include "base/arguments.h"
#include "base/names.h"
#include "base/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "projection/parts.h"
#include "shared/shared.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "verify/verify.h"

PG_FUNCTION_INFO_V1(cqrs_verify);
PG_FUNCTION_INFO_V1(cqrs_repair);
PG_FUNCTION_INFO_V1(cqrs_compare);

/*
 * version_argument returns the version that is asked for: the serving one, or a number.
 */
static CqrsVersion *
version_argument(const CqrsProjection *projection, bool given, int32 number)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_list(projection->id))
	{
		CqrsVersion *version = lfirst(cell);

		if (given ? version->number == number : version->state == CQRS_STATE_SERVING)
			return version;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 given ? errmsg("projection \"%s\" has no version %d", cqrs_name_shown(projection->view), number) :
			 errmsg("projection \"%s\" is not serving yet", cqrs_name_shown(projection->view)),
			 errhint("See the view cqrs.versions.")));
}

/*
 * check_has_query refuses to compare a version with a query that it does not have; a retired one, of which nothing is left, is refused for that.
 */
static void
check_has_query(const CqrsProjection *projection, const CqrsVersion *version)
{
	if (cqrs_version_is_events(version) && version->state != CQRS_STATE_RETIRED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("version %d of projection \"%s\" is defined by handlers, not by a query", version->number,
						cqrs_name_shown(projection->view)),
				 errdetail("What it should hold is known only to its handlers."),
				 errhint("Make a version anew with cqrs.rebuild, and hold it against this one with cqrs.compare.")));
}

/*
 * share_argument returns which share of the keys is to be verified.
 */
static double
share_argument(FunctionCallInfo fcinfo, int number)
{
	double		share;

	if (PG_ARGISNULL(number))
		cqrs_arguments_refuse_null("sample");
	share = PG_GETARG_FLOAT8(number);
	if (!(share > 0 && share <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for argument \"sample\": %g", share),
				 errhint("It is the share of the keys to verify: more than 0, and at most 1.")));
	return share;
}

/*
 * cqrs.verify(projection regclass, sample float8 DEFAULT 1.0, version integer DEFAULT NULL)
 *			RETURNS TABLE(key jsonb, difference text, expected jsonb, found jsonb)
 *
 * Compares a version's table with its query at one snapshot, up to which it first applies all changes: no row means that they are equal.  With a 'sample'
 * below 1 about that share of the keys, picked at random.  'difference' is missing (in the query only), extra (in the table only) or different.
 *
 * Errors: as cqrs.drain; 22004 and 22023 for a sample that is none; 42704 no such version; 55000 a version that has not been filled;
 * 0A000 one that handlers define.
 */
Datum
cqrs_verify(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	CqrsProjection *projection;
	CqrsVersion *version;
	CqrsBatch	batch = {0};
	CqrsDifferenceRows rows;
	CqrsVerify	verify = {.sink = cqrs_verify_put, .argument = &rows};

	if (PG_ARGISNULL(0))
		cqrs_arguments_refuse_null("projection");
	verify.share = share_argument(fcinfo, 1);
	cqrs_apply_check_caller("cqrs.verify()");
	projection = cqrs_projection_argument(PG_GETARG_OID(0));
	cqrs_projection_check_owner(projection);
	version = version_argument(projection, !PG_ARGISNULL(2), PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2));
	check_has_query(projection, version);
	InitMaterializedSRF(fcinfo, 0);
	cqrs_drain_version(projection, version, &batch);
	rows.desc = result->setDesc;
	rows.rows = result->setResult;
	cqrs_verify_version(version, &verify, batch.snapshot);
	cqrs_apply_check_locked(version, batch.locked);
	cqrs_verify_record(version, &verify);
	UnregisterSnapshot(batch.snapshot);
	return (Datum) 0;
}

/*
 * note_key is the sink that notes the keys that have drifted, in a store.
 */
static void
note_key(void *argument, const CqrsDifferentRows *rows)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(rows->key_desc->natts, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(rows->key_desc->natts, 1));

	heap_deform_tuple(rows->key, rows->key_desc, values, nulls);
	tuplestore_putvalues(argument, rows->key_desc, values, nulls);
}

/*
 * repair_version mends one version; returns how many keys had drifted.
 */
static int64
repair_version(const CqrsProjection *projection, const CqrsVersion *version, const char *reason)
{
	CqrsBatch	batch = {0};
	Tuplestorestate *keys = tuplestore_begin_heap(false, false, work_mem);
	CqrsVerify	verify = {.share = 1, .sink = note_key, .argument = keys};
	CqrsVerify	mended = {.share = 1};

	check_has_query(projection, version);
	cqrs_drain_version(projection, version, &batch);
	cqrs_verify_version(version, &verify, batch.snapshot);
	if (verify.drifted > 0)
	{
		cqrs_apply_repair(version, keys, verify.drifted, batch.snapshot);
		cqrs_apply_distrust_readers(version, "a projection that it reads was repaired");
	}
	cqrs_apply_check_locked(version, batch.locked);
	UnregisterSnapshot(batch.snapshot);
	cqrs_verify_record(version, &mended);
	cqrs_history_insert_drift(version, "repaired", verify.drifted, reason);
	return verify.drifted;
}

/*
 * cqrs.repair(projection regclass, reason text) RETURNS bigint
 *
 * Finds, at one snapshot, the keys for which the projection's tables differ from its queries, and computes those again; in all its versions that are
 * maintained.  Returns how many there were.
 *
 * Errors: as cqrs.drain; 22004 and 22023 without a reason; 0A000 for versions that handlers define.
 */
Datum
cqrs_repair(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection;
	char	   *reason;
	int64		keys = 0;
	ListCell   *cell;

	if (PG_ARGISNULL(0))
		cqrs_arguments_refuse_null("projection");
	reason = cqrs_arguments_reason(fcinfo, 1);
	cqrs_apply_check_caller("cqrs.repair()");
	projection = cqrs_projection_argument(PG_GETARG_OID(0));
	cqrs_projection_check_owner(projection);
	foreach(cell, cqrs_version_list(projection->id))
	{
		CqrsVersion *version = lfirst(cell);

		if (version->state != CQRS_STATE_RETIRED && version->state != CQRS_STATE_BUILDING)
			keys += repair_version(projection, version, reason);
	}
	cqrs_shared_announce_at_commit();
	PG_RETURN_INT64(keys);
}

/*
 * find_key finds the key of the left version among the columns that both have, if it is the right one's, too.
 */
static AttrNumber *
find_key(const CqrsVersion *left, const CqrsVersion *right, TupleDesc common)
{
	AttrNumber *key = palloc(sizeof(AttrNumber) * Max(left->nkeys, 1));
	bool		same = left->nkeys == right->nkeys;

	for (int i = 0; i < left->nkeys && same; i++)
	{
		char	   *name = get_attname(left->table, left->key[i], false);

		key[i] = cqrs_verify_column(common, name);
		same = false;
		for (int j = 0; j < right->nkeys; j++)
			same |= key[i] != 0 && strcmp(name, get_attname(right->table, right->key[j], false)) == 0;
	}
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("versions %d and %d have different keys", left->number, right->number),
				 errdetail("Rows are compared by key, so its columns must have the same names and types in both."),
				 errhint("Compare each with its own query by cqrs.verify.")));
	return key;
}

/*
 * compare_tables compares the tables of two versions as the projection's owner.
 */
static void
compare_tables(const CqrsVersion *left, const CqrsVersion *right, ReturnSetInfo *result, Snapshot snapshot)
{
	CqrsDifferenceRows rows = {.desc = result->setDesc, .rows = result->setResult};
	CqrsComparison comparison = {.nkeys = left->nkeys, .sink = cqrs_verify_put, .argument = &rows};
	CqrsIdentity saved;

	comparison.row = cqrs_verify_common(cqrs_verify_shown_columns(left), psprintf("version %d", left->number),
										cqrs_verify_shown_columns(right), psprintf("version %d", right->number));
	comparison.key = find_key(left, right, comparison.row);
	comparison.left.from = cqrs_verify_table(left);
	comparison.right.from = cqrs_verify_table(right);
	(void) cqrs_apply_become_owner(left, &saved);
	cqrs_verify_merge(&comparison, snapshot);
	cqrs_identity_leave(&saved);
}

/*
 * cqrs.compare(projection regclass, version integer, other integer DEFAULT NULL)
 *			RETURNS TABLE(key jsonb, difference text, left_row jsonb, right_row jsonb)
 *
 * Compares the rows of a version (left) with those of another, or of the serving one (right), at one snapshot, up to which both have all changes applied, in
 * the columns that both have.  'difference' is missing (in the left one only), extra (in the right one only) or different.
 *
 * Errors: as cqrs.drain; 22004 no version; 22023 a version and itself; 42704 no such version; 42P10 different keys; 55000 a version that has
 * not been filled, or is retired.
 */
Datum
cqrs_compare(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection;
	CqrsVersion *left;
	CqrsVersion *right;
	CqrsBatch	batch = {0};

	if (PG_ARGISNULL(0))
		cqrs_arguments_refuse_null("projection");
	if (PG_ARGISNULL(1))
		cqrs_arguments_refuse_null("version");
	cqrs_apply_check_caller("cqrs.compare()");
	projection = cqrs_projection_argument(PG_GETARG_OID(0));
	cqrs_projection_check_owner(projection);
	left = version_argument(projection, true, PG_GETARG_INT32(1));
	right = version_argument(projection, !PG_ARGISNULL(2), PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2));
	if (left->id == right->id)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version %d cannot be compared with itself", left->number),
				 errhint("Name another version, or compare it with its query by cqrs.verify.")));
	cqrs_drain_check(projection, left);
	cqrs_drain_check(projection, right);
	cqrs_verify_check_keyed(left);
	InitMaterializedSRF(fcinfo, 0);
	batch.with = list_make1_int(right->id);
	(void) cqrs_groups_lock(list_make2_int(left->id, right->id), false);
	cqrs_drain_version(projection, left, &batch);
	compare_tables(left, right, (ReturnSetInfo *) fcinfo->resultinfo, batch.snapshot);
	UnregisterSnapshot(batch.snapshot);
	return (Datum) 0;
}
