/*
 * build/switch.c
 *		Having another version of a projection serve, in one transaction: readers get the old or the new one, never neither and never an empty one.
 *
 * Who has a snapshot older than the version's fill is waited for first, without a lock.  Then, with the locks of both versions and all that are applied with
 * them, the new one is brought up to date, so that it is no older than the one before: what a reader has waited for, or seen, stays.  Last of all the
 * serving view is locked, in short tries; where it cannot be had soon everything is let go of for a while and tried again, since nothing is applied meanwhile.
 *
 * The caller holds the projection's lock, and has checked rights and its transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply.h"
#include "base/clock.h"
#include "base/locks.h"
#include "base/names.h"
#include "base/waitpoint.h"
#include "build/build.h"
#include "build/parts.h"
#include "lib/stringinfo.h"
#include "outbox/outbox.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "storage/lock.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define BEHIND_CHANGES	10000	/* more than these are applied before a switch, not within it */

/* A switch under way. */
typedef struct Switch
{
	CqrsProjection *projection;
	int32		target;			/* id of the version that is to serve */
	CqrsSwitchOptions options;
	CqrsVersion *before;		/* that serves, once it is locked */
	CqrsVersion *version;		/* the target, once it is up to date */
} Switch;

/*
 * refuse raises why a version cannot be switched to.
 */
static void
refuse(const CqrsProjection *projection, const CqrsVersion *version, const char *why, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("version %d of projection \"%s\" %s", version->number, cqrs_name_shown(projection->view), why),
			 detail ? errdetail_internal("%s", detail) : 0,
			 errhint("%s", hint)));
}

/*
 * check_state refuses versions of other states than those that are kept up to date beside the serving one.
 */
static void
check_state(const CqrsProjection *projection, const CqrsVersion *version)
{
	switch (version->state)
	{
		case CQRS_STATE_BUILDING:
			refuse(projection, version, "is still being built", version->error,
				   "It can be switched to once it is a shadow: see the views cqrs.versions and cqrs.build_progress.");
			break;
		case CQRS_STATE_SERVING:
			refuse(projection, version, "serves already", NULL, "See the view cqrs.versions for the others.");
			break;
		case CQRS_STATE_RETIRED:
			refuse(projection, version, "is retired", NULL, "Its table is gone; create another with cqrs.create_version.");
			break;
		default:
			break;
	}
}

/*
 * check_status refuses versions that are not kept up to date.
 */
static void
check_status(const CqrsProjection *projection, const CqrsVersion *version)
{
	if (projection->paused)
		refuse(projection, version, "is paused", "The projection is paused, so its versions do not follow.", "Call cqrs.resume first.");
	if (version->status == CQRS_STATUS_HALTED)
		refuse(projection, version, "is halted", version->error, "Mend what the error names, then call cqrs.resume.");
	if (cqrs_version_fails(version))
		refuse(projection, version, "is failing", version->error, "It is tried again by itself; mend what the error names.");
	if (version->status == CQRS_STATUS_STALE)
		refuse(projection, version, "is stale", "It has to be evaluated anew before it can be trusted.",
			   "That is done by itself, or by cqrs.drain.");
}

/*
 * check_pending refuses a version that has fallen far behind: the switch would take as long as it needs to catch up.
 */
static void
check_pending(const CqrsProjection *projection, const CqrsVersion *version)
{
	CqrsCheckpoint *checkpoint = cqrs_checkpoint_latest(version->id);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TimestampTz oldest = 0;
	int			count;
	int32	   *sources = cqrs_version_source_ids(version->id, &count);
	int64		pending = cqrs_outbox_count_pending(snapshot, checkpoint->snapshot, sources, count, BEHIND_CHANGES, &oldest);

	UnregisterSnapshot(snapshot);
	if (pending >= BEHIND_CHANGES)
		refuse(projection, version, "is behind",
			   psprintf("It has not applied %d changes or more; switched to now, it would show readers the past.", BEHIND_CHANGES),
			   "Wait until it has caught up, or call cqrs.drain.");
}

/*
 * cqrs_switch_check refuses versions that cannot be switched to.
 */
void
cqrs_switch_check(const CqrsProjection *projection, const CqrsVersion *version)
{
	check_state(projection, version);
	check_status(projection, version);
	check_pending(projection, version);
}

/*
 * raise_older raises that transactions older than the fill did not end.
 */
static void
raise_older(const CqrsProjection *projection, const CqrsVersion *version, List *older)
{
	StringInfoData shown;
	ListCell   *cell;

	initStringInfo(&shown);
	foreach(cell, older)
		appendStringInfo(&shown, "%s%s", shown.len ? ", " : "", (char *) lfirst(cell));
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("projection \"%s\" was not switched to version %d, because transactions are open that are older than its fill",
					cqrs_name_shown(projection->view), version->number),
			 errdetail("They would not see what it holds as of their time: %s.", shown.data),
			 errhint("Switch when they have ended; or with force => true, and they read what the fill has written.")));
}

/*
 * outwait_older waits, without a lock, until nobody has a snapshot older than the version's fill; of those who have one now.
 *
 * Not of the fill's own transaction, where nobody could have another.
 */
static void
outwait_older(const CqrsProjection *projection, const CqrsVersion *version, TimestampTz deadline)
{
	List	   *known = NIL;
	List	   *older;

	if (TransactionIdIsCurrentTransactionId(XidFromFullTransactionId(version->filled_xid)))
		return;
	while ((older = cqrs_older_snapshots(version, &known)) != NIL)
		if (!cqrs_locks_pause(deadline))
			raise_older(projection, version, older);
}

/*
 * compare_ids orders ids.
 */
static int
compare_ids(const ListCell *left, const ListCell *right)
{
	return lfirst_int(left) < lfirst_int(right) ? -1 : lfirst_int(left) > lfirst_int(right);
}

/*
 * lock_versions takes the locks of both versions and of all that are applied with them, in the order of ids, as everybody does.
 */
static void
lock_versions(int32 target, int32 serving, bool nowait)
{
	List	   *ids = list_concat_unique_int(cqrs_group_members(target), cqrs_group_members(serving));
	ListCell   *cell;

	list_sort(ids, compare_ids);
	foreach(cell, ids)
		if (!cqrs_version_lock(lfirst_int(cell), nowait))
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("another process holds version with id %d", lfirst_int(cell))));
}

/*
 * bring_up_to_date applies to the version what it has not applied; an error if it is not fit for that any more.
 */
static CqrsVersion *
bring_up_to_date(const CqrsProjection *projection, int32 target, bool wait)
{
	CqrsVersion *version = cqrs_version_get(target, false);
	CqrsOutcome outcome;

	check_state(projection, version);
	check_status(projection, version);
	outcome = cqrs_build_catch_up(target, wait);
	if (outcome == CQRS_BUSY)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not lock what version %d of projection \"%s\" reads", version->number,
						cqrs_name_shown(projection->view))));
	version = cqrs_version_get(target, false);
	check_status(projection, version);
	if (outcome != CQRS_APPLIED)
		refuse(projection, version, "cannot be brought up to date", "What it reads does not follow, or is still being built.",
			   "See the view cqrs.lag.");
	return version;
}

/*
 * settle writes the new states.
 */
static void
settle(Switch *work, CqrsVersion *version, CqrsVersion *before)
{
	TimestampTz now = cqrs_clock_now();

	version->rebuild = CQRS_REBUILD_NONE;
	version->retire_at = 0;
	cqrs_build_state(version, CQRS_STATE_SERVING, work->options.reason);
	if (work->options.retire_before && cqrs_setting_standby_retention >= 0)
		before->retire_at = TimestampTzPlusMilliseconds(now, cqrs_setting_standby_retention * INT64CONST(1000));
	cqrs_build_state(before, CQRS_STATE_STANDBY, work->options.reason);
	cqrs_read_note_switch(work->projection, version->number);
	cqrs_shared_wake_at_commit();
}

/*
 * prepare locks the versions and brings the new one up to date.
 */
static void
prepare(void *argument)
{
	Switch	   *work = argument;

	work->before = cqrs_version_serving(work->projection->id);
	lock_versions(work->target, work->before->id, !work->options.wait);
	work->version = bring_up_to_date(work->projection, work->target, work->options.wait);
	CQRS_WAIT_POINT("switch");
}

/*
 * lock_view prepares the switch and locks the serving view.
 *
 * A worker gives up at once: it has the one snapshot of its transaction.
 */
static void
lock_view(Switch *work, TimestampTz deadline)
{
	List	   *view = list_make1_oid(work->projection->view);

	if (work->options.wait)
	{
		cqrs_locks_take_after(prepare, work, view, AccessExclusiveLock, cqrs_clock_until(deadline));
		return;
	}
	prepare(work);
	if (!cqrs_locks_try(view, AccessExclusiveLock, CQRS_AT_ONCE_MS, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not lock the serving view of projection \"%s\"", cqrs_name_shown(work->projection->view))));
}

/*
 * cqrs_build_switch has a version serve.
 */
void
cqrs_build_switch(CqrsProjection *projection, const CqrsVersion *version, const CqrsSwitchOptions *options)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(cqrs_clock_now(), options->wait ? cqrs_setting_lock_timeout : 0);
	Switch		work = {.projection = projection,.target = version->id,.options = *options};

	cqrs_switch_check(projection, version);
	if (!options->force)
		outwait_older(projection, version, deadline);
	lock_view(&work, deadline);
	cqrs_view_switch(projection, work.version, options->force);
	settle(&work, work.version, cqrs_version_get(work.before->id, false));
}
