/*
 * projection/verify.c
 *		Verifying and mending a projection from one's own session.
 *
 * Both bring the version up to a snapshot first, in the caller's transaction, so that what has only not been applied yet is no difference.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/apply.h"
#include "base/arguments.h"
#include "base/names.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "projection/parts.h"
#include "shared/shared.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "verify/verify.h"

PG_FUNCTION_INFO_V1(cqrs_verify);
PG_FUNCTION_INFO_V1(cqrs_repair);

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
 * Errors: as cqrs.drain; 22004 and 22023 for a sample that is none; 42704 no such version; 55000 a version that has not been filled.
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
 * reason_argument returns why something is done, which must not be nothing.
 */
static char *
reason_argument(FunctionCallInfo fcinfo, int number)
{
	return text_to_cstring(cqrs_arguments_text(fcinfo, number, "reason"));
}

/*
 * cqrs.repair(projection regclass, reason text) RETURNS bigint
 *
 * Finds, at one snapshot, the keys for which the projection's tables differ from its queries, and computes those again; in all its versions that are
 * maintained.  Returns how many there were.
 *
 * Errors: as cqrs.drain; 22004 and 22023 without a reason.
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
	reason = reason_argument(fcinfo, 1);
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
