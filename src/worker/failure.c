/*
 * worker/failure.c
 *		What becomes of a version whose step failed: the error and the time of the next try, in its row and in the log.
 *
 * The failed step's transaction is gone; what is noted here is noted in another.
 */
#include "postgres.h"

#include "base/clock.h"
#include "settings/settings.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "worker/parts.h"

/*
 * warn logs why a task failed and what becomes of it.
 */
static void
warn(const CqrsTask *task)
{
	const ErrorData *error = task->failure;

	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("version %d of projection \"%s\" failed and %s: %s", task->version->number, task->name,
					task->retry_at == DT_NOEND ? "is halted" : "will be tried again", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0,
			 error->context ? errcontext("%s", error->context) : 0));
}

/*
 * shown_error is what users read of an error: its message and detail.
 */
static char *
shown_error(const ErrorData *error)
{
	if (error->detail == NULL)
		return pstrdup(error->message);
	return psprintf("%s (%s)", error->message, error->detail);
}

/*
 * hopeless tells whether trying again cannot help: the key is not unique, what the version cannot go on without was dropped, or it is to halt at an event.
 */
static bool
hopeless(const CqrsVersion *version, const CqrsTask *task)
{
	if (get_rel_relkind(version->table) == '\0')
		return true;
	if (cqrs_version_is_events(version))
		return cqrs_events_halts(version->id);
	return (task->filling && task->failure->sqlerrcode == ERRCODE_UNIQUE_VIOLATION) ||
		get_rel_relkind(version->definition) == '\0';
}

/*
 * fail writes a failure into a version's struct.
 *
 * A stale version stays stale, so that its next batch is a full one when it succeeds; the error and the time of the next try tell that it fails.  So
 * does one whose source has become a kind of relation that cannot be captured: what happened to it meanwhile is in no window.
 */
static void
fail(CqrsVersion *version, const CqrsTask *task)
{
	version->error = shown_error(task->failure);
	version->attempts++;
	if (hopeless(version, task))
	{
		version->status = CQRS_STATUS_HALTED;
		version->retry_at = 0;
		return;
	}
	if (task->failure->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED && !cqrs_version_is_events(version))
		version->status = CQRS_STATUS_STALE;
	else if (version->status != CQRS_STATUS_STALE)
		version->status = CQRS_STATUS_FAILING;
	version->retry_at = cqrs_clock_backoff(version->attempts, cqrs_setting_retry_initial, cqrs_setting_retry_max);
}

/*
 * work_note writes the failure into the registry, unless another process has the version, which will find out for itself.
 *
 * History tells when a version began to fail and when it halted, not each try.
 */
static bool
work_note(CqrsTask *task)
{
	CqrsVersion *version;
	CqrsStatus	before;

	task->retry_at = 0;
	if (!cqrs_version_lock(task->version->id, true))
		return false;
	version = cqrs_version_get(task->version->id, true);
	if (version == NULL || version->state == CQRS_STATE_RETIRED || version->status == CQRS_STATUS_HALTED)
		return true;
	before = version->status;
	fail(version, task);
	if (version->status != before)
		cqrs_history_insert(version->projection, task->view, version->number, cqrs_status_name(version->status),
							cqrs_status_name(before), cqrs_status_name(version->status), version->error);
	cqrs_version_update(version);
	cqrs_shared_announce_at_commit();
	task->retry_at = version->status == CQRS_STATUS_HALTED ? DT_NOEND : version->retry_at;
	return true;
}

/*
 * cqrs_worker_note_failure notes the task's error.
 */
CqrsStepResult
cqrs_worker_note_failure(CqrsTask *task)
{
	static const CqrsStep step = {.work = work_note,.phase = CQRS_PHASE_IDLE,.activity = "cqrs: note the failure of"};
	CqrsStepResult result;

	task->failure = task->error;
	result = cqrs_worker_step(task, &step, &task->error);
	if (result == CQRS_STEP_DONE && task->retry_at != 0)
		warn(task);
	return result;
}
