/*
 * worker/verify.c
 *		Verifying by schedule: every cqrs.verify_interval, a sample of each version's keys.
 *
 * It comes after everything else, one version a round, and takes no longer than cqrs.verify_timeout, which is how long others may have to wait for it.  What
 * took too long is given up: the next time, half as many keys are looked at.  What was found is in the registry, and drift in the log.
 */
#include "postgres.h"

#include "base/blame.h"
#include "base/clock.h"
#include "settings/settings.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "verify/verify.h"
#include "worker/parts.h"

/* What the step at hand is to do, and has done. */
static CqrsVerify verify;

/*
 * work_verify brings a version up to a snapshot, as a batch does, and compares it there.
 */
static bool
work_verify(CqrsTask *task)
{
	memset(&task->batch, 0, sizeof(CqrsBatch));
	cqrs_apply_batch(task->version->id, &task->batch);
	if (task->batch.outcome != CQRS_APPLIED || task->batch.snapshot == NULL)
		return false;
	cqrs_verify_version(task->version, &verify, task->batch.snapshot);
	cqrs_apply_check_locked(task->version, task->batch.locked);
	cqrs_verify_record(task->version, &verify);
	UnregisterSnapshot(task->batch.snapshot);
	if (verify.first != NULL)
		verify.first = MemoryContextStrdup(cqrs_worker_turn, verify.first);
	return true;
}

/*
 * warn tells the log of drift.
 */
static void
warn(const CqrsTask *task)
{
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("version %d of projection \"%s\" has drifted from its query in %lld of the keys looked at",
					task->version->number, task->name, (long long) verify.drifted),
			 errdetail_internal("The first key is %s.", verify.first),
			 errhint("See what cqrs.verify finds, and mend it with cqrs.repair.")));
}

/*
 * give_up halves the share of the keys that is looked at, after it took too long.
 */
static void
give_up(const CqrsTask *task, double *share)
{
	*share /= 2;
	ereport(LOG,
			(errmsg("verifying version %d of projection \"%s\" took longer than cqrs.verify_timeout and was given up",
					task->version->number, task->name),
			 errdetail("The next time a share of %g of its keys is looked at.", *share),
			 errhidestmt(true)));
}

/*
 * cqrs_worker_verify verifies a share of a version's keys, halved if that took too long.
 */
CqrsStepResult
cqrs_worker_verify(CqrsTask *task, double *share)
{
	static const CqrsStep step = {
		.work = work_verify, .phase = CQRS_PHASE_VERIFY, .activity = "cqrs: verify", .one_snapshot = true};
	CqrsStepResult result;
	bool		too_long;

	memset(&verify, 0, sizeof(verify));
	verify.share = *share;
	enable_timeout_after(STATEMENT_TIMEOUT, cqrs_setting_verify_timeout);
	result = cqrs_worker_step(task, &step, &task->error);
	too_long = !get_timeout_active(STATEMENT_TIMEOUT);
	disable_timeout(STATEMENT_TIMEOUT, false);
	if (result == CQRS_STEP_FAILED && too_long && task->error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		give_up(task, share);
	else if (result == CQRS_STEP_FAILED && cqrs_blame(task->error) != CQRS_BLAME_OTHERS)
		ereport(WARNING,
				(errcode(task->error->sqlerrcode),
				 errmsg("version %d of projection \"%s\" could not be verified: %s", task->version->number, task->name,
						task->error->message)));
	else if (result == CQRS_STEP_DONE && verify.drifted > 0)
		warn(task);
	return result;
}
