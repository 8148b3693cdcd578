/*
 * outbox/needs.c
 *		Who needs a segment, and showing it: cqrs.segments.
 *
 * A version that trusts its window needs a segment of which its checkpoint has not seen all.  A stale or halted one begins anew when it begins, and so does
 * one that is not filled, or has missed changes of a projection that it reads.  A transaction that fills or evaluates anew says that it needs what it cannot
 * see, because its checkpoint is not committed.  And who reads or writes a segment keeps others from freeing it for as long.
 *
 * Wants a transaction.  Nothing here waits for a lock.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/arguments.h"
#include "base/clock.h"
#include "base/locks.h"
#include "base/names.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "outbox/parts.h"
#include "registry/registry.h"
#include "settings/settings.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

enum
{
	COL_SEGMENT, COL_FIRST_POSITION, COL_LAST_POSITION, COL_CHANGES, COL_BYTES, COL_HELD_BY, COL_COUNT
};

/*
 * is_to_replay tells whether a version waits to be filled from the outbox.
 */
static bool
is_to_replay(const CqrsVersion *version, const CqrsCheckpoint *checkpoint)
{
	return checkpoint == NULL && version->state == CQRS_STATE_BUILDING && version->status != CQRS_STATUS_HALTED &&
		cqrs_version_is_events(version) && cqrs_event_definition_get(version->id)->seed == NULL;
}

/*
 * trusts_window tells whether a version applies windows: what it has not seen of them must not be lost.
 */
static bool
trusts_window(const CqrsVersion *version, const CqrsCheckpoint *checkpoint)
{
	return version->state != CQRS_STATE_RETIRED && version->status != CQRS_STATUS_STALE &&
		(version->status != CQRS_STATUS_HALTED || cqrs_version_at_event(version)) && checkpoint != NULL &&
		(checkpoint->ours || cqrs_version_restored(version, checkpoint)) && cqrs_version_in_step(version);
}

/*
 * cqrs_needs_read reads which versions need segments at all.
 */
void
cqrs_needs_read(CqrsNeeds *needs)
{
	ListCell   *cell;

	memset(needs, 0, sizeof(CqrsNeeds));
	foreach(cell, cqrs_version_list(0))
	{
		CqrsVersion *version = lfirst(cell);
		CqrsCheckpoint *checkpoint = cqrs_checkpoint_latest(version->id);

		if (!trusts_window(version, checkpoint) && !is_to_replay(version, checkpoint))
			continue;
		needs->versions = lappend(needs->versions, version);
		needs->checkpoints = lappend(needs->checkpoints, checkpoint);
	}
}

/*
 * needed_by tells whether a checkpoint has not seen all that is in a segment.
 *
 * Exact: a transaction that was in progress at the checkpoint and has no changes in the segment holds nothing, however long it lasts.  The snapshot is taken
 * now: if the segment is sealed, after all who wrote to it have ended.
 */
static bool
needed_by(const CqrsSegment *segment, const CqrsSnapshot *checkpoint)
{
	Snapshot	snapshot;
	bool		needed;

	if (!cqrs_outbox_concerns(segment, checkpoint, InvalidFullTransactionId))
		return false;
	if (segment->sealed && !FullTransactionIdPrecedes(segment->last_xid, checkpoint->xmax))
		return true;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	needed = cqrs_outbox_probe(segment, snapshot, checkpoint);
	UnregisterSnapshot(snapshot);
	return needed;
}

/*
 * cqrs_needs_holders lists the versions that need a segment.
 *
 * One that is to be filled by a replay needs all that there is, and so does one that has come by a restore with what it had not applied.
 */
List *
cqrs_needs_holders(const CqrsSegment *segment, const CqrsNeeds *needs)
{
	List	   *result = NIL;
	ListCell   *version;
	ListCell   *checkpoint;

	forboth(version, needs->versions, checkpoint, needs->checkpoints)
	{
		const CqrsCheckpoint *seen = lfirst(checkpoint);

		if (seen == NULL || !seen->ours || needed_by(segment, seen->snapshot))
			result = lappend(result, lfirst(version));
	}
	return result;
}

/*
 * cqrs_needs_retained_until returns when a consumed segment may be freed.
 */
TimestampTz
cqrs_needs_retained_until(const CqrsSegment *segment)
{
	if (cqrs_setting_retention < 0)
		return DT_NOEND;
	return segment->consumed_at + cqrs_setting_retention * USECS_PER_SEC;
}

/*
 * shown_version says which version it is, and why it may not be moving on.
 */
static char *
shown_version(const CqrsVersion *version)
{
	CqrsProjection *projection = cqrs_projection_get(version->projection, true);
	char	   *name = projection ? cqrs_name_shown(projection->view) : "";

	if (projection != NULL && projection->paused)
		return psprintf("%s version %d (paused)", name, version->number);
	if (cqrs_version_fails(version))
		return psprintf("%s version %d (failing)", name, version->number);
	return psprintf("%s version %d", name, version->number);
}

/*
 * add_processes adds who reads or writes a closed segment, and who says that it needs it or an older one.
 */
static List *
add_processes(List *held, const CqrsSegment *segment, List *segments)
{
	LOCKTAG		tag;
	ListCell   *cell;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, segment->relation);
	held = list_concat(held, cqrs_locks_held(&tag, AccessExclusiveLock));
	foreach(cell, segments)
	{
		const CqrsSegment *older = lfirst(cell);
		ListCell   *holder;

		if (older->number > segment->number)
			break;
		foreach(holder, cqrs_segment_needed_by(older->number))
		{
			bool		known = false;
			ListCell   *before;

			foreach(before, held)
				known |= strcmp(lfirst(before), lfirst(holder)) == 0;
			if (!known)
				held = lappend(held, lfirst(holder));
		}
	}
	return held;
}

/*
 * held_by lists what keeps a segment from being freed.
 */
static List *
held_by(const CqrsSegment *segment, List *segments, List *holders)
{
	List	   *held = NIL;
	TimestampTz until = segment->consumed_at ? cqrs_needs_retained_until(segment) : 0;
	ListCell   *cell;

	if (segment->closed_at == 0 && segment->ours)
		return list_make1("active");
	foreach(cell, holders)
		held = lappend(held, shown_version(lfirst(cell)));
	held = add_processes(held, segment, segments);
	if (until == DT_NOEND)
		held = lappend(held, "retention");
	else if (until > cqrs_clock_now())
		held = lappend(held, psprintf("retention until %s", timestamptz_to_str(until)));
	return held;
}

/*
 * lock_at_once takes ACCESS SHARE on a segment that is still there, if that needs no waiting.
 */
static bool
lock_at_once(Oid relation)
{
	if (!ConditionalLockRelationOid(relation, AccessShareLock))
		return false;
	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation)))
		return true;
	UnlockRelationOid(relation, AccessShareLock);
	return false;
}

/*
 * look_at finds out what a segment holds and who needs it; false if somebody keeps us from looking, or it is gone.
 */
static bool
look_at(CqrsSegment *segment, const CqrsNeeds *needs, List **holders)
{
	Snapshot	snapshot;

	*holders = NIL;
	if (!lock_at_once(segment->relation))
		return segment->sealed;
	if (!segment->sealed)
	{
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		cqrs_segment_table_measure(segment, snapshot);
		UnregisterSnapshot(snapshot);
	}
	*holders = cqrs_needs_holders(segment, needs);
	UnlockRelationOid(segment->relation, AccessShareLock);
	return true;
}

PG_FUNCTION_INFO_V1(cqrs_outbox_segments_shown);

/*
 * cqrs_internal.segments() RETURNS TABLE (segment integer, first_position bigint, last_position bigint, changes bigint, bytes bigint, held_by text[])
 *
 * Shows the segments of the outbox, oldest first, and what keeps each from being freed; what it holds is null while somebody keeps us from looking.
 */
Datum
cqrs_outbox_segments_shown(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *segments = cqrs_segment_list();
	CqrsNeeds	needs;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	cqrs_needs_read(&needs);
	foreach(cell, segments)
	{
		CqrsSegment *segment = lfirst(cell);
		List	   *holders;
		bool		known = look_at(segment, &needs, &holders);
		bool		empty = !known || !FullTransactionIdIsValid(segment->first_xid);
		Datum		values[COL_COUNT];
		bool		nulls[COL_COUNT] = {false};

		values[COL_SEGMENT] = Int32GetDatum(segment->number);
		values[COL_FIRST_POSITION] = Int64GetDatum(segment->first_position);
		values[COL_LAST_POSITION] = Int64GetDatum(segment->last_position);
		values[COL_CHANGES] = Int64GetDatum(segment->changes);
		values[COL_BYTES] = Int64GetDatum(segment->bytes);
		values[COL_HELD_BY] = cqrs_arguments_array(held_by(segment, segments, holders));
		nulls[COL_FIRST_POSITION] = nulls[COL_LAST_POSITION] = empty;
		nulls[COL_CHANGES] = nulls[COL_BYTES] = !known;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
