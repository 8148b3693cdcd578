/*
 * worker/work.c
 *		What a worker does for one version: the steps of a build, or a batch.
 *
 * Each step takes the version's lock first, and looks again what is left to do; where another process has the version, it is left alone.
 */
#include "postgres.h"

#include "base/blame.h"
#include "base/clock.h"
#include "build/build.h"
#include "commands/vacuum.h"
#include "nodes/makefuncs.h"
#include "settings/settings.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/parts.h"

#define ATTACH_SLICE_MS		250	/* what one try to attach takes of cqrs.lock_timeout, so that other versions have their turn */
#define ATTACH_SLICE		"250ms"

/*
 * cqrs_worker_limit_lock_timeout makes one try to attach short: other versions wait for their turn.  How often it is tried is the scheduler's business.
 */
void
cqrs_worker_limit_lock_timeout(void)
{
	if (cqrs_setting_lock_timeout > ATTACH_SLICE_MS)
		(void) set_config_option("cqrs.lock_timeout", ATTACH_SLICE, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
								 false);
}

/*
 * work_attach captures the version's sources.
 */
static bool
work_attach(CqrsTask *task)
{
	cqrs_worker_limit_lock_timeout();
	return cqrs_build_attach(task->version->id, false);
}

/*
 * work_fill fills the version's table.
 */
static bool
work_fill(CqrsTask *task)
{
	bool		done;

	task->filling = true;
	done = cqrs_build_fill(task->version->id, false);
	task->filling = false;
	return done;
}

/*
 * cqrs_worker_vacuum vacuums tables, those that can be locked at once.
 *
 * VACUUM commits the transaction and opens another; what it is told must outlive that.
 */
void
cqrs_worker_vacuum(List *relations, bool truncate)
{
	VacuumStmt *statement;
	ListCell   *cell;

	MemoryContextSwitchTo(cqrs_worker_turn);
	statement = makeNode(VacuumStmt);
	statement->is_vacuumcmd = true;
	statement->options = list_make2(makeDefElem("skip_locked", NULL, -1),
									makeDefElem("truncate", (Node *) makeString(truncate ? "on" : "off"), -1));
	foreach(cell, relations)
		statement->rels = lappend(statement->rels, makeVacuumRelation(NULL, lfirst_oid(cell), NIL));
	ExecVacuum(NULL, statement, true);
}

/*
 * work_vacuum vacuums the table of a version that handlers have filled, before it serves: pages all of whose rows are visible to all need not be visited by
 * index-only scans.  Other fills see to that themselves.
 */
static bool
work_vacuum(CqrsTask *task)
{
	CqrsVersion *version = cqrs_version_get(task->version->id, true);

	if (version != NULL && version->state == CQRS_STATE_BUILDING && version->filled_at == 0 && cqrs_version_is_events(version))
		cqrs_worker_vacuum(list_make1_oid(version->table), true);
	return true;
}

/*
 * work_finish makes a shadow of what was filled, or has it serve where nothing does.
 */
static bool
work_finish(CqrsTask *task)
{
	return cqrs_build_finish(task->version->id, false);
}

/*
 * work_compare compares a version that is to serve by itself with its definition.
 */
static bool
work_compare(CqrsTask *task)
{
	return cqrs_build_compare(task->version->id, false);
}

/*
 * work_take_over switches to a version that was found equal.
 */
static bool
work_take_over(CqrsTask *task)
{
	return cqrs_build_take_over(task->version->id, false);
}

/*
 * work_retire drops a standby whose time has come, unless it serves again.
 */
static bool
work_retire(CqrsTask *task)
{
	CqrsVersion *version;

	if (!cqrs_projection_lock(task->version->projection, true))
		return false;
	version = cqrs_version_get(task->version->id, true);
	if (version == NULL || version->state != CQRS_STATE_STANDBY || version->retire_at == 0)
		return true;
	return cqrs_build_retire(version->id, false, "cqrs.standby_retention has passed");
}

/*
 * work_apply applies what was committed up to now.
 */
static bool
work_apply(CqrsTask *task)
{
	memset(&task->batch, 0, sizeof(CqrsBatch));
	MemoryContextSwitchTo(cqrs_worker_turn);	/* what became of others outlives the transaction */
	cqrs_apply_batch(task->version->id, &task->batch);
	if (task->batch.snapshot)
		UnregisterSnapshot(task->batch.snapshot);
	return task->batch.outcome != CQRS_BUSY;
}

static const CqrsStep attach_step = {work_attach, CQRS_PHASE_ATTACH, "cqrs: attach the sources of", false};
static const CqrsStep fill_step = {work_fill, CQRS_PHASE_FILL, "cqrs: fill", true};
static const CqrsStep vacuum_step = {work_vacuum, CQRS_PHASE_FILL, "cqrs: vacuum", false};
static const CqrsStep finish_step = {work_finish, CQRS_PHASE_SERVE, "cqrs: catch up", false};
static const CqrsStep compare_step = {work_compare, CQRS_PHASE_COMPARE, "cqrs: compare", true};
static const CqrsStep take_over_step = {work_take_over, CQRS_PHASE_SERVE, "cqrs: switch to", false};
static const CqrsStep retire_step = {work_retire, CQRS_PHASE_RETIRE, "cqrs: retire", false};
static const CqrsStep apply_step = {work_apply, CQRS_PHASE_APPLY, "cqrs: apply", true};

/*
 * cqrs_worker_build goes through the steps of a build.
 */
CqrsStepResult
cqrs_worker_build(CqrsTask *task)
{
	CqrsStepResult result = cqrs_worker_step(task, &attach_step, &task->error);

	if (result == CQRS_STEP_DONE)
		result = cqrs_worker_step(task, &fill_step, &task->error);
	if (result == CQRS_STEP_DONE)
		result = cqrs_worker_step(task, &vacuum_step, &task->error);
	if (result == CQRS_STEP_DONE)
		result = cqrs_worker_step(task, &finish_step, &task->error);
	return result;
}

/*
 * only_busy takes what others are in the way of, however long, for no failure: the version goes on as it is.
 */
static CqrsStepResult
only_busy(const CqrsTask *task, CqrsStepResult result)
{
	return result == CQRS_STEP_FAILED && cqrs_blame(task->error) == CQRS_BLAME_OTHERS ? CQRS_STEP_BUSY : result;
}

/*
 * cqrs_worker_rebuild has a shadow serve that is to, once it is found equal to its definition.
 */
CqrsStepResult
cqrs_worker_rebuild(CqrsTask *task)
{
	CqrsStepResult result = only_busy(task, cqrs_worker_step(task, &compare_step, &task->error));

	if (result == CQRS_STEP_DONE)
		result = only_busy(task, cqrs_worker_step(task, &take_over_step, &task->error));
	return result;
}

/*
 * cqrs_worker_retire retires a standby whose time has come.
 */
CqrsStepResult
cqrs_worker_retire(CqrsTask *task)
{
	return only_busy(task, cqrs_worker_step(task, &retire_step, &task->error));
}

/*
 * log_batch logs a batch that took at least cqrs.log_min_duration; one that found nothing to do only if it took long for that.
 */
static void
log_batch(const CqrsTask *task, TimestampTz began)
{
	long		secs;
	int			usecs;
	int64		ms;

	TimestampDifference(began, cqrs_clock_now(), &secs, &usecs);
	ms = (int64) secs * 1000 + usecs / 1000;
	if (cqrs_setting_log_min_duration < 0 || ms < cqrs_setting_log_min_duration ||
		(cqrs_setting_log_min_duration == 0 && task->batch.changes == 0 && !task->batch.full))
		return;
	ereport(LOG,
			(errmsg("applied %lld changes to version %d of projection \"%s\" in " INT64_FORMAT ".%03d ms%s",
					(long long) task->batch.changes, task->version->number, task->name, ms, usecs % 1000,
					task->batch.full ? " by a full evaluation" : ""),
			 errhidestmt(true)));
}

/*
 * cqrs_worker_apply applies one batch.
 */
CqrsStepResult
cqrs_worker_apply(CqrsTask *task)
{
	TimestampTz began = cqrs_clock_now();
	CqrsStepResult result = cqrs_worker_step(task, &apply_step, &task->error);

	if (result == CQRS_STEP_DONE)
		log_batch(task, began);
	return result;
}
