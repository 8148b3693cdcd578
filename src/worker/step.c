/*
 * worker/step.c
 *		One step of a worker, in a transaction of its own.
 *
 * A failure aborts that transaction only and is handed to the caller, so that one bad projection never stops the others.  No transaction is open before
 * or after a step.  What outlives a step is in the turn's memory; the batch's memory is the transaction's.
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/names.h"
#include "jit/jit.h"
#include "pgstat.h"
#include "storage/lock.h"
#include "utils/memutils.h"
#include "worker/parts.h"

/*
 * begin opens the step's transaction, without a snapshot, and tells the world what we do; false while our catalog is being restored.
 */
static bool
begin(CqrsTask *task, const CqrsStep *step)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (step->one_snapshot)
		XactIsoLevel = XACT_REPEATABLE_READ;
	if (!cqrs_worker_extension_there())
		cqrs_worker_leave();
	if (!cqrs_restore_exclude())
	{
		pgstat_report_activity(STATE_RUNNING, "cqrs: wait for the end of a session that restores");
		return false;
	}
	if (task == NULL)
	{
		pgstat_report_activity(STATE_RUNNING, step->activity);
		cqrs_shared_report(CQRS_PHASE_IDLE, 0, 0);
		return true;
	}
	if (task->name == NULL)
		task->name = MemoryContextStrdup(cqrs_worker_turn, cqrs_name_shown(task->view));
	pgstat_report_activity(STATE_RUNNING, psprintf("%s %s version %d", step->activity, task->name, task->version->number));
	cqrs_shared_report(step->phase, task->version->projection, task->version->id);
	return true;
}

/*
 * abandon aborts the step's transaction and returns the error.
 */
static ErrorData *
abandon(void)
{
	ErrorData  *error;

	MemoryContextSwitchTo(cqrs_worker_turn);
	error = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	jit_reset_after_error();
	return error;
}

/*
 * cqrs_worker_step runs one step.
 *
 * Session locks that users' code took and left are released, whether it failed or not.
 */
CqrsStepResult
cqrs_worker_step(CqrsTask *task, const CqrsStep *step, ErrorData **error)
{
	volatile CqrsStepResult result = CQRS_STEP_FAILED;

	*error = NULL;
	PG_TRY();
	{
		result = begin(task, step) && step->work(task) ? CQRS_STEP_DONE : CQRS_STEP_BUSY;
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		*error = abandon();
		result = CQRS_STEP_FAILED;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cqrs_worker_turn);
	LockReleaseSession(USER_LOCKMETHOD);
	return result;
}
