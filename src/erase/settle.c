/*
 * erase/settle.c
 *		Before anything is erased: every version that reads it has applied it, and nobody else is at work on such a version.
 *
 * A version's lock is held from its last batch to the end of the transaction.  So no batch runs beside the erasure whose snapshot is older than the erasure's
 * own and whose checkpoint has not seen what goes: batches before had committed when the lock was got, and batches after begin with the checkpoint made here.
 * A version that is filled beside us for the first time sees that something was erased in its window, and evaluates all anew.
 *
 * Versions belong to others, too: their batches run as their owners, and their errors are raised as they are.
 */
#include "postgres.h"

#include "apply/apply.h"
#include "base/locks.h"
#include "base/names.h"
#include "erase/parts.h"
#include "registry/registry.h"
#include "settings/settings.h"
#include "utils/snapmgr.h"

/*
 * readers lists the ids of the versions that read one of the sources, in the order of their ids.
 */
static List *
readers(List *sources)
{
	List	   *versions = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_version_list(0))
	{
		int32		version = ((CqrsVersion *) lfirst(cell))->id;
		int			count;
		int32	   *ids = cqrs_version_source_ids(version, &count);

		for (int i = 0; i < count; i++)
			if (list_member_int(sources, ids[i]))
				versions = list_append_unique_int(versions, version);
	}
	return versions;
}

/*
 * needs_window tells whether a version trusts its window: one that is not filled, or is evaluated anew next time, does not.
 */
static bool
needs_window(const CqrsVersion *version)
{
	return version != NULL && version->state != CQRS_STATE_RETIRED && version->status != CQRS_STATUS_STALE &&
		cqrs_checkpoint_latest(version->id) != NULL;
}

/*
 * check_moves refuses a version that stands still.
 */
static void
check_moves(const CqrsVersion *version)
{
	CqrsProjection *projection = cqrs_projection_get(version->projection, false);
	bool		halted = version->status == CQRS_STATUS_HALTED;
	CqrsVersion *by = cqrs_version_held_by(version);

	if (by != NULL)
		check_moves(by);
	if (!halted && !projection->paused)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("projection \"%s\" is %s and may need what is to be erased", cqrs_name_shown(projection->view),
					halted ? "halted" : "paused"),
			 errdetail("Version %d reads the source, and has to apply its changes before they are erased.", version->number),
			 halted ? errhint("Mend what stopped it and call cqrs.resume; or drop it with cqrs.drop_projection.") :
			 errhint("Call cqrs.resume, or drop it with cqrs.drop_projection, and try again.")));
}

/*
 * cqrs_settle_check refuses at once what cqrs_settle would refuse later.
 */
void
cqrs_settle_check(List *sources)
{
	ListCell   *cell;

	foreach(cell, readers(sources))
	{
		CqrsVersion *version = cqrs_version_get(lfirst_int(cell), true);

		if (needs_window(version))
			check_moves(version);
	}
}

/*
 * take_version waits for a version's lock.
 */
static void
take_version(void *id)
{
	(void) cqrs_version_lock(*(int32 *) id, false);
}

/*
 * lock_version takes a version from whoever fills or applies it, up to cqrs.lock_timeout.
 */
static void
lock_version(int32 id)
{
	CqrsVersion *version;

	if (cqrs_locks_await(take_version, &id, cqrs_setting_lock_timeout))
		return;
	version = cqrs_version_get(id, false);
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("projection \"%s\" could not be had within cqrs.lock_timeout",
					cqrs_name_shown(cqrs_projection_get(version->projection, false)->view)),
			 errdetail("Another process is filling or applying its version %d.", version->number),
			 errhint("See held_by in the view cqrs.lag.")));
}

/*
 * name_projection tells an error of a batch whose it is.
 */
static void
name_projection(void *view)
{
	errcontext("applying what projection \"%s\" has not applied yet", (const char *) view);
}

/*
 * settle_version applies what a version, which is locked, has pending.
 */
static void
settle_version(const CqrsVersion *version)
{
	CqrsBatch	batch = {.wait = true};
	ErrorContextCallback callback = {.callback = name_projection};

	check_moves(version);
	callback.arg = cqrs_name_shown(cqrs_projection_get(version->projection, false)->view);
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	cqrs_apply_batch(version->id, &batch);
	if (batch.outcome != CQRS_APPLIED)
		cqrs_apply_raise_companion(&batch);
	if (batch.outcome != CQRS_APPLIED)
		elog(ERROR, "version %d could not be brought up to date: outcome %d", version->id, (int) batch.outcome);
	error_context_stack = callback.previous;
	UnregisterSnapshot(batch.snapshot);
}

/*
 * cqrs_settle brings the sources' readers up to date.
 *
 * Errors: 55000 one that is paused or halted, 55P03 one that another process holds, and those of the versions' queries.
 */
void
cqrs_settle(List *sources)
{
	ListCell   *cell;

	foreach(cell, readers(sources))
	{
		CqrsVersion *version;

		lock_version(lfirst_int(cell));
		version = cqrs_version_get(lfirst_int(cell), true);
		if (needs_window(version))
			settle_version(version);
	}
}
