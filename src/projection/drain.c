/*
 * projection/drain.c
 *		Working a projection from one's own session: drain, wait until it serves.
 *
 * drain does what the worker does, through the same code, in the caller's transaction; it works without any worker.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "apply/apply.h"
#include "base/arguments.h"
#include "base/attempt.h"
#include "base/clock.h"
#include "base/names.h"
#include "base/spi.h"
#include "build/build.h"
#include "capture/capture.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "outbox/outbox.h"
#include "plan/plan.h"
#include "projection/parts.h"
#include "registry/registry.h"
#include "shared/shared.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Progress is announced, but the end of a process that would have made it is not. */
#define LOOK_AGAIN_MS 250

PG_FUNCTION_INFO_V1(cqrs_drain);
PG_FUNCTION_INFO_V1(cqrs_wait_until_serving);

/*
 * raise_halted raises what stopped a version.
 */
static void
raise_halted(const CqrsProjection *projection, const CqrsVersion *version)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("projection \"%s\" is halted", cqrs_name_shown(projection->view)),
			 errdetail("Version %d: %s", version->number, version->error ? version->error : "no error was recorded"),
			 errhint("Mend what the error names, then call cqrs.resume.")));
}

/*
 * raise_paused refuses to apply changes to a paused projection.
 */
static void
raise_paused(const CqrsProjection *projection)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("projection \"%s\" is paused", cqrs_name_shown(projection->view)),
			 errhint("Call cqrs.resume first.")));
}

/*
 * check_below refuses to drain a version that a projection below it holds back.
 */
static void
check_below(const CqrsVersion *version)
{
	CqrsVersion *by = cqrs_version_held_by(version);
	CqrsProjection *projection = by ? cqrs_projection_get(by->projection, false) : NULL;

	if (projection == NULL || (!projection->paused && by->status != CQRS_STATUS_HALTED))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("projection \"%s\" is %s", cqrs_name_shown(projection->view), projection->paused ? "paused" : "halted"),
			 errdetail("Projection \"%s\" reads it, and waits for it.",
					   cqrs_name_shown(cqrs_projection_get(version->projection, false)->view)),
			 projection->paused ? errhint("Call cqrs.resume first.") :
			 errhint("Its owner sees why in the view cqrs.versions.")));
}

/*
 * build_here does what is left of a build, once the sources are captured, in this transaction.
 */
static void
build_here(int32 version)
{
	(void) cqrs_build_fill(version, true);
	(void) cqrs_build_finish(version, true);
}

/*
 * serve_rebuilt has a version serve that is to serve by itself, if it is equal to its definition.
 */
static void
serve_rebuilt(void *argument)
{
	const CqrsVersion *version = argument;

	(void) cqrs_build_compare(version->id, true);
	(void) cqrs_build_take_over(version->id, true);
}

/*
 * rebuild_here has a version serve that is to serve by itself, as a worker would; the projection is locked.
 *
 * What was applied stays so if others are in the way of that: a long report would have every drain fail.
 */
static void
rebuild_here(const CqrsVersion *version)
{
	ErrorData  *error;

	if (version->rebuild == CQRS_REBUILD_NONE)
		return;
	error = cqrs_attempt(serve_rebuilt, unconstify(CqrsVersion *, version), true);
	if (error == NULL)
		return;
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("%s", error->message),
			 error->detail ? errdetail("%s", error->detail) : 0,
			 errhint("A worker, or the next cqrs.drain, tries again.")));
}

/*
 * lock_to_rebuild locks a projection one of whose versions is to serve by itself: before versions, as everybody does who changes which one serves.
 */
static void
lock_to_rebuild(const CqrsProjection *projection)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_list(projection->id))
		if (((CqrsVersion *) lfirst(cell))->rebuild != CQRS_REBUILD_NONE)
		{
			(void) cqrs_projection_lock(projection->id, false);
			return;
		}
}

/*
 * raise_not_ready says why a version that was ready when we began to wait for it is not, now that we have it.  'name' is the projection's, of before.
 */
static void
raise_not_ready(int32 version, const char *name)
{
	CqrsVersion *now = cqrs_version_get(version, true);
	CqrsProjection *projection = now ? cqrs_projection_get(now->projection, false) : NULL;

	if (projection == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("projection \"%s\" was dropped", name),
				 errdetail("Another session dropped it while this one waited for it.")));
	if (projection->paused)
		raise_paused(projection);
	if (now->status == CQRS_STATUS_HALTED)
		raise_halted(projection, now);
	check_below(now);
}

/*
 * build_below builds the projections that a version reads and that are still being built, those below first, then the version itself.
 */
static void
build_below(const CqrsVersion *version)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_lowers(version))
		build_below(lfirst(cell));
	(void) cqrs_build_attach(version->id, true);
	if (version->state == CQRS_STATE_BUILDING)
		build_here(version->id);
}

/*
 * tell_companions tells of projections that were to be applied together with one and failed: an error if that one could not be without them.
 */
static void
tell_companions(const CqrsBatch *batch)
{
	ListCell   *cell;

	if (batch->outcome != CQRS_APPLIED)
		cqrs_apply_raise_companion(batch);
	foreach(cell, batch->companions)
	{
		const CqrsCompanion *companion = lfirst(cell);
		CqrsVersion *version;

		if (companion->error == NULL)
			continue;
		version = cqrs_version_get(companion->version, false);
		ereport(WARNING,
				(errcode(companion->error->sqlerrcode),
				 errmsg("projection \"%s\" could not be drained together with what it reads: %s",
						cqrs_name_shown(cqrs_projection_get(version->projection, false)->view), companion->error->message),
				 errdetail("It stays as it was, and will be evaluated anew.")));
	}
}

/*
 * drain_version brings one version up to date; false if others have dropped or stopped it while it was waited for.
 *
 * A batch finds out only once it has begun if a view that the query reads has been replaced by one that reads other projections, and is then begun again.
 */
static bool
drain_version(const CqrsVersion *version, CqrsBatch *batch)
{
	(void) cqrs_group_lock(version->id, false);
	build_below(version);
	batch->wait = true;
	cqrs_apply_batch(version->id, batch);
	if (batch->outcome == CQRS_BUSY)
		cqrs_apply_batch(version->id, batch);
	tell_companions(batch);
	return batch->outcome == CQRS_APPLIED;
}

/*
 * cqrs_drain_check refuses a version that cannot be brought to a snapshot now.
 */
void
cqrs_drain_check(const CqrsProjection *projection, const CqrsVersion *version)
{
	if (projection->paused)
		raise_paused(projection);
	if (version->status == CQRS_STATUS_HALTED)
		raise_halted(projection, version);
	check_below(version);
	if (version->state == CQRS_STATE_RETIRED || !cqrs_build_filled(version->id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("version %d of projection \"%s\" is %s", version->number, cqrs_name_shown(projection->view),
						cqrs_state_name(version->state)),
				 errhint("Only a version that has been filled can be compared with anything.")));
}

/*
 * cqrs_drain_version brings a version that is filled up to the batch's snapshot, or raises why that cannot be.
 */
void
cqrs_drain_version(const CqrsProjection *projection, const CqrsVersion *version, CqrsBatch *batch)
{
	char	   *name = cqrs_name_shown(projection->view);

	cqrs_drain_check(projection, version);
	if (drain_version(version, batch))
		return;
	raise_not_ready(version->id, name);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("version %d of projection \"%s\" could not be brought up to date", version->number, name),
			 errdetail("It, or one that it is compared with, was stopped or retired meanwhile."),
			 errhint("See the view cqrs.versions.")));
}

/*
 * drain_projection brings all versions of a projection up to date; 'strict' raises if one of them was stopped meanwhile, else it is left out.
 */
static int64
drain_projection(const CqrsProjection *projection, bool strict)
{
	char	   *name = cqrs_name_shown(projection->view);
	int64		changes = 0;
	ListCell   *cell;

	lock_to_rebuild(projection);
	foreach(cell, cqrs_version_list(projection->id))
	{
		CqrsVersion *version = lfirst(cell);
		CqrsBatch	batch = {0};

		if (version->state == CQRS_STATE_RETIRED)
			continue;
		if (version->status == CQRS_STATUS_HALTED)
		{
			ereport(NOTICE,
					(errmsg("version %d of projection \"%s\" is halted and was not drained", version->number, name)));
			continue;
		}
		if (strict)
			check_below(version);
		if (!drain_version(version, &batch) && strict)
			raise_not_ready(version->id, name);
		if (batch.snapshot != NULL)
			UnregisterSnapshot(batch.snapshot);
		changes += batch.changes;
		rebuild_here(version);
	}
	return changes;
}

/*
 * halted_version returns the version that readers get, or are to get, if it is halted; else NULL.
 */
static CqrsVersion *
halted_version(const CqrsProjection *projection)
{
	CqrsVersion *version = cqrs_version_serving(projection->id);

	return version != NULL && version->status == CQRS_STATUS_HALTED ? version : NULL;
}

/*
 * standing_still says why a projection stands still, by itself or because of one that it reads; NULL if it does not.
 */
static const char *
standing_still(const CqrsProjection *projection)
{
	ListCell   *cell;

	if (projection->paused)
		return "paused";
	if (halted_version(projection) != NULL)
		return "halted";
	foreach(cell, cqrs_version_list(projection->id))
	{
		CqrsVersion *by = cqrs_version_held_by(lfirst(cell));
		CqrsProjection *below = by ? cqrs_projection_get(by->projection, false) : NULL;

		if (below != NULL && (below->paused || by->status == CQRS_STATUS_HALTED))
			return psprintf("held back by projection \"%s\"", cqrs_name_shown(below->view));
	}
	return NULL;
}

/*
 * is_events tells whether handlers define a projection's versions.
 */
static bool
is_events(const CqrsProjection *projection)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_list(projection->id))
		if (cqrs_version_is_events(lfirst(cell)))
			return true;
	return false;
}

/*
 * drain_all drains every projection of a kind that the user may manage; those that stand still are named in a notice.
 *
 * Handlers may change captured tables.  These changes are in no window yet, so those whose queries would see them are drained before.
 */
static int64
drain_all(bool events)
{
	int64		changes = 0;
	ListCell   *cell;

	foreach(cell, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(cell);
		const char *why;

		if (is_events(projection) != events)
			continue;
		if (cqrs_projection_of_view(projection->view) == NULL || !cqrs_projection_owned(projection))
			continue;
		why = standing_still(projection);
		if (why == NULL && !events && cqrs_outbox_pending())
			why = "behind what handlers have just changed";
		if (why != NULL)
			ereport(NOTICE,
					(errmsg("projection \"%s\" is %s and was not drained", cqrs_name_shown(projection->view), why)));
		else
			changes += drain_projection(projection, false);
	}
	return changes;
}

/*
 * drain_one drains one projection, or raises why it stands still.
 */
static int64
drain_one(const CqrsProjection *projection)
{
	CqrsVersion *halted = halted_version(projection);

	cqrs_projection_check_owner(projection);
	if (projection->paused)
		raise_paused(projection);
	if (halted != NULL)
		raise_halted(projection, halted);
	return drain_projection(projection, true);
}

/*
 * upkeep looks after the outbox as a worker would.
 */
static void
upkeep(void *argument)
{
	CqrsUpkeep	result;

	cqrs_capture_resume();
	cqrs_outbox_upkeep(&result);
}

/*
 * look_after_outbox has the outbox looked after, unless the caller's transaction goes on: it would keep the locks.
 *
 * What goes wrong does not concern the caller.
 */
static void
look_after_outbox(void)
{
	ErrorData  *error;

	if (IsTransactionBlock())
		return;
	error = cqrs_attempt(upkeep, NULL, true);
	if (error != NULL)
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("cqrs could not look after the outbox: %s", error->message)));
}

/*
 * cqrs.drain(projection regclass DEFAULT NULL) RETURNS bigint
 *
 * Applies, here and now, everything committed before the call to one projection, or with NULL to all that the user owns, filling and serving those
 * that are building.  Waits for a process that holds the version, and holds it until the end of the caller's transaction.  Returns the changes
 * applied by this call.
 *
 * Errors: 25001 in another isolation level than READ COMMITTED, or after captured changes of one's own; 42809 not a projection; 42501 not its
 * owner; 55000 paused or halted (with NULL a notice); 55P03 a lock not got within cqrs.lock_timeout; 40001 a table joined what is read while it was being
 * read; and those of the query.
 */
Datum
cqrs_drain(PG_FUNCTION_ARGS)
{
	int64		changes;

	cqrs_apply_check_caller("cqrs.drain()");
	if (PG_ARGISNULL(0))
	{
		changes = drain_all(false);
		changes += drain_all(true);
	}
	else
		changes = drain_one(cqrs_projection_argument(PG_GETARG_OID(0)));
	look_after_outbox();
	PG_RETURN_INT64(changes);
}

/*
 * serves tells whether the projection answers; raises if it never will without a person.
 */
static bool
serves(Oid view)
{
	CqrsProjection *projection = cqrs_projection_argument(view);
	CqrsVersion *version = cqrs_version_serving(projection->id);

	if (version != NULL && version->status == CQRS_STATUS_HALTED)
		raise_halted(projection, version);
	return version != NULL && version->state == CQRS_STATE_SERVING;
}

/*
 * cqrs.wait_until_serving(projection regclass, timeout interval DEFAULT '1 min') RETURNS boolean
 *
 * Waits until the projection has been built and answers; false if it does not within the timeout, or at once where no worker runs to build it.
 *
 * Errors: 42809 not a projection, 22023 a negative timeout, 55000 the build was halted (the detail says by what).
 */
Datum
cqrs_wait_until_serving(PG_FUNCTION_ARGS)
{
	Oid			view = PG_GETARG_OID(0);
	TimestampTz deadline = cqrs_clock_deadline(PG_GETARG_INTERVAL_P(1));
	bool		noted = cqrs_waiting_begin();
	bool		answer;

	for (;;)
	{
		uint64		seen = cqrs_shared_progress();
		long		left = cqrs_clock_until(deadline);

		answer = serves(view);
		if (answer || left <= 0 || (!RecoveryInProgress() && !cqrs_shared_worker_runs()))
			break;
		cqrs_shared_wait_progress(seen, Min(left, LOOK_AGAIN_MS));
	}
	if (noted)
		cqrs_waiting_end();
	PG_RETURN_BOOL(answer);
}
