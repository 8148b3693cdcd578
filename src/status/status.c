/*
 * status/status.c
 *		The functions behind the views, and cqrs.freshness.
 *
 * Each is executed as whoever reads the view, on a standby too, and tells nothing of any row's contents.  A view to look at trouble with must not wait
 * for it: what needs a relation's lock that cannot be had at once is null.
 *
 * Leaves measuring to measure.c, and what plain SQL over the catalog can say to the views themselves.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/apply.h"
#include "base/names.h"
#include "base/spi.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "plan/plan.h"
#include "registry/registry.h"
#include "shared/shared.h"
#include "status/measure.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define MAX_PROCESSES	1024	/* as many slots as are asked for; there are far fewer */

PG_FUNCTION_INFO_V1(cqrs_freshness);
PG_FUNCTION_INFO_V1(cqrs_measure);
PG_FUNCTION_INFO_V1(cqrs_shown_status);
PG_FUNCTION_INFO_V1(cqrs_shown_hold);
PG_FUNCTION_INFO_V1(cqrs_shown_strategy);
PG_FUNCTION_INFO_V1(cqrs_table_bytes);
PG_FUNCTION_INFO_V1(cqrs_workers);

static const char *const phase_names[] = {
	[CQRS_PHASE_STARTING] = "starting",
	[CQRS_PHASE_IDLE] = "idle",
	[CQRS_PHASE_ATTACH] = "attach",
	[CQRS_PHASE_FILL] = "fill",
	[CQRS_PHASE_APPLY] = "apply",
	[CQRS_PHASE_SERVE] = "serve",
	[CQRS_PHASE_VERIFY] = "verify",
	[CQRS_PHASE_COMPARE] = "compare",
	[CQRS_PHASE_RETIRE] = "retire",
};

/*
 * cqrs_status_row makes the composite result of a function with OUT arguments.
 */
Datum
cqrs_status_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/*
 * cqrs.freshness(projection regclass) RETURNS (version integer, state text, status text, as_of timestamptz, lag interval, pending bigint,
 *		position bigint, within_objective boolean)
 *
 * Tells how fresh the serving version is; all null where there is none.  Errors: 42809 where the relation is no projection.
 */
Datum
cqrs_freshness(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = cqrs_projection_argument(PG_GETARG_OID(0));
	CqrsVersion *version = cqrs_version_serving(projection->id);
	CqrsMeasure measure = {0};
	Datum		values[8] = {0};
	bool		nulls[8];

	memset(nulls, version == NULL, sizeof(nulls));
	if (version != NULL)
	{
		cqrs_status_measure(projection, version, &measure);
		values[0] = Int32GetDatum(version->number);
		values[1] = CStringGetTextDatum(measure.state);
		values[2] = CStringGetTextDatum(measure.status);
		nulls[3] = nulls[6] = measure.checkpoint == NULL;
		if (measure.checkpoint != NULL)
		{
			values[3] = TimestampTzGetDatum(measure.checkpoint->as_of);
			values[6] = Int64GetDatum(measure.checkpoint->position);
		}
		values[4] = IntervalPGetDatum(&measure.lag);
		values[5] = Int64GetDatum(measure.pending);
		nulls[4] = nulls[5] = !measure.known;
		values[7] = BoolGetDatum(measure.within_objective);
		nulls[7] = !measure.has_objective;
	}
	return cqrs_status_row(fcinfo, values, nulls);
}

/*
 * cqrs_internal.measure(version integer) RETURNS (health text, lag interval, pending bigint, as_of timestamptz, within_objective boolean)
 *
 * Tells how fresh a version, given by its id, is; null where it has just been dropped.
 */
Datum
cqrs_measure(PG_FUNCTION_ARGS)
{
	CqrsVersion *version = cqrs_version_get(PG_GETARG_INT32(0), true);
	CqrsProjection *projection = version ? cqrs_projection_get(version->projection, true) : NULL;
	CqrsMeasure measure;
	Datum		values[5] = {0};
	bool		nulls[5] = {false};

	if (projection == NULL)
		PG_RETURN_NULL();
	cqrs_status_measure(projection, version, &measure);
	values[0] = CStringGetTextDatum(measure.health);
	values[1] = IntervalPGetDatum(&measure.lag);
	values[2] = Int64GetDatum(measure.pending);
	nulls[1] = nulls[2] = !measure.known;
	nulls[3] = measure.checkpoint == NULL;
	if (measure.checkpoint != NULL)
		values[3] = TimestampTzGetDatum(measure.checkpoint->as_of);
	values[4] = BoolGetDatum(measure.within_objective);
	nulls[4] = !measure.has_objective;
	return cqrs_status_row(fcinfo, values, nulls);
}

/*
 * cqrs_internal.shown_status(version integer) RETURNS text
 *
 * Names the status of a version, given by its id, as users see it; null where it has just been dropped.
 */
Datum
cqrs_shown_status(PG_FUNCTION_ARGS)
{
	CqrsVersion *version = cqrs_version_get(PG_GETARG_INT32(0), true);

	if (version == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(cqrs_status_shown(version)));
}

/*
 * cqrs_internal.shown_hold(version integer) RETURNS text
 *
 * Says which projection below a version, given by its id, keeps it from moving on; null where none does.
 */
Datum
cqrs_shown_hold(PG_FUNCTION_ARGS)
{
	CqrsVersion *version = cqrs_version_get(PG_GETARG_INT32(0), true);
	CqrsVersion *by = version && version->state != CQRS_STATE_RETIRED ? cqrs_version_held_by(version) : NULL;
	CqrsProjection *projection = by ? cqrs_projection_get(by->projection, true) : NULL;

	if (projection == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("waits for projection \"%s\", which is %s", cqrs_name_shown(projection->view),
											  by->state == CQRS_STATE_BUILDING ? cqrs_state_name(by->state) :
											  cqrs_status_shown(by))));
}

/*
 * lock_at_once takes ACCESS SHARE on a relation that exists, if that needs no waiting.
 */
static bool
lock_at_once(Oid relation)
{
	return ConditionalLockRelationOid(relation, AccessShareLock) &&
		SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation));
}

/*
 * readable_at_once tells whether a version's definition can be looked at without waiting for anybody; takes the locks for that.
 */
static bool
readable_at_once(const CqrsVersion *version)
{
	CqrsProjection *projection = cqrs_projection_get(version->projection, true);
	ListCell   *cell;

	if (version->state == CQRS_STATE_RETIRED || projection == NULL || !lock_at_once(projection->view) ||
		(!cqrs_version_is_events(version) && !lock_at_once(version->definition)) || !lock_at_once(version->table))
		return false;
	foreach(cell, cqrs_version_source_list(version->id))
	{
		CqrsSource *source = cqrs_source_get(((CqrsVersionSource *) lfirst(cell))->source);

		if (source == NULL || !lock_at_once(source->relation))
			return false;
	}
	foreach(cell, cqrs_version_lowers(version))
	{
		CqrsVersion *lower = lfirst(cell);
		CqrsProjection *read = cqrs_projection_get(lower->projection, true);

		if (read == NULL || !lock_at_once(read->view) || !lock_at_once(lower->table))
			return false;
	}
	return true;
}

/*
 * cqrs_internal.shown_strategy(version integer) RETURNS text
 *
 * Names how a version, given by its id, is maintained; null where it is gone, its definition is, or somebody holds a lock that keeps us from looking.
 */
Datum
cqrs_shown_strategy(PG_FUNCTION_ARGS)
{
	CqrsVersion *version = cqrs_version_get(PG_GETARG_INT32(0), true);
	CqrsStrategy strategy;
	CqrsIdentity saved;

	if (version == NULL || !readable_at_once(version))
		PG_RETURN_NULL();
	if (cqrs_version_is_events(version))
		PG_RETURN_TEXT_P(cstring_to_text("events"));
	(void) cqrs_apply_become_owner(version, &saved);
	strategy = cqrs_apply_program(version)->strategy;
	cqrs_identity_leave(&saved);
	PG_RETURN_TEXT_P(cstring_to_text(cqrs_plan_strategy_name(strategy)));
}

/*
 * cqrs_internal.table_bytes(relation regclass) RETURNS bigint
 *
 * Returns the size of a table with its indexes; null where it is gone or locked, as it is while it is being filled.
 */
Datum
cqrs_table_bytes(PG_FUNCTION_ARGS)
{
	Oid			relation = PG_GETARG_OID(0);

	if (!OidIsValid(relation) || !lock_at_once(relation))
		PG_RETURN_NULL();
	return DirectFunctionCall1(pg_total_relation_size, ObjectIdGetDatum(relation));
}

/*
 * put_worker adds one process to the result.  What it works on has a name only in this database.
 */
static void
put_worker(ReturnSetInfo *result, const CqrsWorkerInfo *worker)
{
	bool		here = worker->database == MyDatabaseId;
	CqrsProjection *projection = here && worker->projection ? cqrs_projection_get(worker->projection, true) : NULL;
	CqrsVersion *version = here && worker->version ? cqrs_version_get(worker->version, true) : NULL;
	char	   *datname = OidIsValid(worker->database) ? get_database_name(worker->database) : NULL;
	Datum		values[7] = {0};
	bool		nulls[7] = {false};

	values[0] = Int32GetDatum(worker->pid);
	nulls[1] = datname == NULL;
	if (datname != NULL)
		values[1] = DirectFunctionCall1(namein, CStringGetDatum(datname));
	values[2] = CStringGetTextDatum(worker->is_launcher ? "launcher" : "worker");
	nulls[3] = projection == NULL;
	values[3] = ObjectIdGetDatum(projection ? projection->view : InvalidOid);
	nulls[4] = version == NULL;
	values[4] = Int32GetDatum(version ? version->number : 0);
	values[5] = CStringGetTextDatum(phase_names[worker->phase]);
	values[6] = TimestampTzGetDatum(worker->since);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * cqrs_internal.workers() RETURNS TABLE(pid integer, datname name, role text, projection regclass, version integer, phase text, since timestamptz)
 *
 * Lists the processes of cqrs on this server; none without preloading.
 */
Datum
cqrs_workers(PG_FUNCTION_ARGS)
{
	CqrsWorkerInfo *workers = palloc(sizeof(CqrsWorkerInfo) * MAX_PROCESSES);
	int			count = cqrs_shared_workers(workers, MAX_PROCESSES);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < count; i++)
		put_worker((ReturnSetInfo *) fcinfo->resultinfo, &workers[i]);
	return (Datum) 0;
}
