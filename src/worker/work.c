/*
 * worker/work.c
 *		What a worker does for one version: the steps of a build, or a batch.
 *
 * Each step takes the version's lock first, and looks again what is left to do; where another process has the version, it is left alone.
 */
#include "postgres.h"

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
 * work_vacuum vacuums the version's table: pages all of whose rows are visible to all need not be visited by index-only scans.
 */
static bool
work_vacuum(CqrsTask *task)
{
	cqrs_worker_vacuum(list_make1_oid(task->version->table), true);
	return true;
}

/*
 * work_serve opens the serving view.
 */
static bool
work_serve(CqrsTask *task)
{
	return cqrs_build_serve(task->version->id, false);
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
static const CqrsStep serve_step = {work_serve, CQRS_PHASE_SERVE, "cqrs: serve", false};
static const CqrsStep apply_step = {work_apply, CQRS_PHASE_APPLY, "cqrs: apply", true};

/*
 * cqrs_worker_build goes through the steps of a build.
 */
CqrsStepResult
cqrs_worker_build(CqrsTask *task, bool *vacuumed)
{
	CqrsStepResult result = cqrs_worker_step(task, &attach_step, &task->error);

	if (result == CQRS_STEP_DONE)
		result = cqrs_worker_step(task, &fill_step, &task->error);
	if (result == CQRS_STEP_DONE && !*vacuumed)
	{
		result = cqrs_worker_step(task, &vacuum_step, &task->error);
		*vacuumed = result == CQRS_STEP_DONE;
	}
	if (result == CQRS_STEP_DONE)
		result = cqrs_worker_step(task, &serve_step, &task->error);
	return result;
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
