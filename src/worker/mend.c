/*
 * worker/mend.c
 *		Capturing a source again whose triggers were disabled, dropped or reset to fire as others do.
 *
 * A version that reads such a source gets no window that it could trust: each of its batches is a full evaluation, until somebody makes the triggers what
 * they were.
 *
 * In a transaction of its own, with nothing locked yet.
 */
#include "postgres.h"

#include "base/blame.h"
#include "base/locks.h"
#include "capture/capture.h"
#include "utils/lsyscache.h"
#include "worker/parts.h"

#define AT_ONCE_MS 50			/* what is waited for a lock at most */

/*
 * tree_of lists what there is to look at of a source.
 */
static List *
tree_of(void *source)
{
	return cqrs_tree_members(((CqrsSource *) source)->relation);
}

/*
 * broken_sources lists the ids of a version's sources that are not captured as they should be; 'busy' if one could not be looked at.
 */
static List *
broken_sources(int32 version, bool *busy)
{
	List	   *broken = NIL;
	ListCell   *cell;

	*busy = false;
	foreach(cell, cqrs_version_source_list(version))
	{
		CqrsVersionSource *needs = lfirst(cell);
		CqrsSource *source = cqrs_source_get(needs->source);

		if (source == NULL || get_rel_relkind(source->relation) == '\0')
			continue;
		if (!cqrs_locks_try_listed(tree_of, source, AccessShareLock, AT_ONCE_MS, NULL))
			*busy = true;
		else if (!cqrs_source_covers(source, needs->watched, needs->imaged))
			broken = lappend_int(broken, source->id);
	}
	return broken;
}

/*
 * work_mend captures the task's broken sources again.
 */
static bool
work_mend(CqrsTask *task)
{
	bool		busy;
	List	   *broken = broken_sources(task->version->id, &busy);

	task->mended = false;
	if (broken == NIL)
		return !busy;
	cqrs_worker_limit_lock_timeout();
	(void) cqrs_capture_attach(broken);
	cqrs_shared_announce_at_commit();
	task->mended = true;
	return true;
}

/*
 * cqrs_worker_mend captures the task's sources again where that is needed; task->mended says whether it was.
 */
CqrsStepResult
cqrs_worker_mend(CqrsTask *task)
{
	static const CqrsStep step = {work_mend, CQRS_PHASE_ATTACH, "cqrs: capture again the sources of", false};
	CqrsStepResult result = cqrs_worker_step(task, &step, &task->error);

	if (result == CQRS_STEP_FAILED && cqrs_blame(task->error) != CQRS_BLAME_OTHERS)
		ereport(WARNING,
				(errcode(task->error->sqlerrcode),
				 errmsg("sources of projection \"%s\" could not be captured again: %s", task->name, task->error->message),
				 errdetail("Their capture triggers were disabled or dropped; until they are restored, every batch is a full evaluation.")));
	return result;
}
