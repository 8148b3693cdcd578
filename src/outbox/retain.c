/*
 * outbox/retain.c
 *		What becomes of closed segments: sealed, consumed, kept for a while, freed.
 *
 * A closed segment is sealed once nobody writes to it any more: then it says what it holds.  It is freed when every version has consumed it, cqrs.retention has
 * passed since, and ACCESS EXCLUSIVE on it is there for the taking: nobody is ever waited for, so nobody queues behind us.  The lock comes first, then the look
 * at who needs it, then it is emptied.  Past cqrs.max_outbox_size versions do not hold segments, nor does retention.
 *
 * Leaves to needs.c who needs a segment.
 *
 * For who looks after the outbox, in a READ COMMITTED transaction that is about to end.
 */
#include "postgres.h"

#include "base/clock.h"
#include "base/locks.h"
#include "base/names.h"
#include "outbox/parts.h"
#include "registry/registry.h"
#include "settings/settings.h"
#include "storage/lmgr.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define PATIENCE_MS		500		/* for the right to change what segments there are, which writers have for moments */
#define SPARES			2		/* that are kept, empty, for their next turn */
#define AGE_SHARE		4		/* a segment holds changes of this part of cqrs.retention at most */
#define MIN_AGE_MS		(60 * 1000)
#define PATIENT_PERCENT	150		/* of cqrs.max_outbox_size */
#define OVERFLOW_REASON "the outbox exceeded cqrs.max_outbox_size"

/*
 * oldest_open returns the number of the oldest segment that may be written to still; else of the last one.
 */
static int32
oldest_open(void)
{
	int32		number = CQRS_SEGMENT_ANY;
	ListCell   *cell;

	foreach(cell, cqrs_segment_unconsumed())
	{
		CqrsSegment *segment = lfirst(cell);

		number = segment->number;
		if (!segment->sealed)
			break;
	}
	return number;
}

/*
 * cqrs_outbox_need keeps what a snapshot taken from now on may not see.
 *
 * Transactions whose changes are in sealed segments have ended.  The oldest other one is locked, then looked for again: it may have been sealed meanwhile.
 */
bool
cqrs_outbox_need(bool wait)
{
	int32		oldest = oldest_open();
	int32		locked;

	do
	{
		if (!cqrs_segment_need(oldest, !wait))
			return false;
		locked = oldest;
		oldest = oldest_open();
	} while (oldest != locked);
	return true;
}

/*
 * seal writes down what a closed segment holds, if nobody writes to it any more; false if somebody does.
 *
 * Who has closed it has gone, since we have the right to close segments now: so a writer that comes late finds out, when it gets its lock.
 */
static bool
seal(CqrsSegment *segment)
{
	Snapshot	snapshot;

	if (!ConditionalLockRelationOid(segment->relation, ShareLock))
		return false;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	cqrs_segment_table_measure(segment, snapshot);
	cqrs_segment_count_events(segment, snapshot);
	UnregisterSnapshot(snapshot);
	segment->sealed = true;
	cqrs_segment_update(segment);
	return true;
}

/*
 * forbid makes sure that nobody says he needs a segment, nor begins to; false if somebody does.
 */
static bool
forbid(const CqrsSegment *segment)
{
	ListCell   *cell;

	if (!cqrs_segment_forbid(CQRS_SEGMENT_ANY))
		return false;
	foreach(cell, cqrs_segment_list())
	{
		int32		number = ((CqrsSegment *) lfirst(cell))->number;

		if (number > segment->number)
			break;
		if (!cqrs_segment_forbid(number))
			return false;
	}
	return true;
}

/*
 * lock_out makes sure that nobody reads or writes a segment, either; false if somebody does.
 */
static bool
lock_out(const CqrsSegment *segment)
{
	return forbid(segment) && ConditionalLockRelationOid(segment->relation, AccessExclusiveLock);
}

/*
 * make_spare empties a segment that is locked out; one spare too many is dropped.  False if this session reads it.
 */
static bool
make_spare(CqrsSegment *segment)
{
	if (list_length(cqrs_segment_spares()) >= SPARES)
	{
		cqrs_segment_delete(segment->relation);
		cqrs_segment_table_drop(segment->relation);
		return true;
	}
	if (!cqrs_segment_table_empty(segment->relation))
		return false;
	segment->opened_at = segment->closed_at = segment->consumed_at = 0;
	segment->sealed = false;
	segment->first_xid = segment->last_xid = InvalidFullTransactionId;
	segment->ours = true;
	cqrs_segment_update(segment);
	return true;
}

/*
 * distrust makes the versions stale that hold a segment back; false, if one of them is at work just now.
 */
static bool
distrust(List *versions)
{
	ListCell   *cell;

	foreach(cell, versions)
		if (!cqrs_version_lock(((CqrsVersion *) lfirst(cell))->id, true))
			return false;
	foreach(cell, versions)
	{
		CqrsVersion *version = cqrs_version_get(((CqrsVersion *) lfirst(cell))->id, true);

		if (version == NULL)
			continue;
		cqrs_version_distrust(version, OVERFLOW_REASON);
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("version %d of projection \"%s\" is stale: %s", version->number,
						cqrs_name_shown(cqrs_projection_get(version->projection, false)->view), OVERFLOW_REASON),
				 errdetail("Changes that it had not applied were removed; its query is evaluated anew."),
				 errhint("See the view cqrs.segments for what holds segments back.")));
	}
	return true;
}

/*
 * release frees a sealed segment if it may be; past the outbox's maximum also one that versions need, if 'by_force'.
 */
static bool
release(CqrsSegment *segment, bool by_force)
{
	CqrsNeeds	needs;
	List	   *versions;

	if (!lock_out(segment))
		return false;
	cqrs_needs_read(&needs);
	versions = cqrs_needs_holders(segment, &needs);
	if (versions != NIL && !(by_force && distrust(versions)))
		return false;
	return make_spare(segment);
}

/*
 * consume notes that no version needs a sealed segment any more: it is not looked at again for a window.  False if one does, or may; 'held' tells of the first.
 *
 * Who needs it without our seeing it is looked for first, since his checkpoint may be committed in between.
 */
static bool
consume(CqrsSegment *segment, const CqrsNeeds *needs, bool *held)
{
	CqrsNeeds	now;

	if (cqrs_needs_holders(segment, needs) != NIL)
	{
		*held = true;
		return false;
	}
	if (!forbid(segment))
		return false;
	cqrs_needs_read(&now);
	if (cqrs_needs_holders(segment, &now) != NIL)
		return false;
	segment->consumed_at = cqrs_clock_now();
	cqrs_segment_update(segment);
	return true;
}

/*
 * look_after does what is to be done for one closed segment now, and notes in the result what is left.
 */
static void
look_after(CqrsSegment *segment, const CqrsNeeds *needs, CqrsUpkeep *result)
{
	TimestampTz until;
	bool		held = false;

	if ((!segment->sealed && !seal(segment)) || (segment->consumed_at == 0 && !consume(segment, needs, &held)))
	{
		result->held |= held;
		result->busy |= !held;
		return;
	}
	until = cqrs_needs_retained_until(segment);
	if (until > cqrs_clock_now())
		result->again = Min(result->again, until);
	else if (release(segment, false))
		result->freed++;
	else
		result->busy = true;
}

/*
 * shrink frees the oldest segments until the outbox is no larger than it may be: those only retention keeps first.
 *
 * If somebody just now keeps us from freeing the oldest that versions hold, newer ones are not taken from versions that have nearly caught up, unless
 * the outbox has become half as large again.
 */
static void
shrink(CqrsUpkeep *result)
{
	int64		total = cqrs_segment_total();

	for (int by_force = 0; by_force <= 1; by_force++)
	{
		ListCell   *cell;

		foreach(cell, cqrs_segment_list())
		{
			CqrsSegment *segment = lfirst(cell);

			if (!cqrs_segment_over(total, 100))
				return;
			if (segment->closed_at == 0 || !segment->sealed)
				continue;
			if (release(segment, by_force == 1))
			{
				total -= segment->bytes;
				result->freed++;
			}
			else if (by_force == 1 && !cqrs_segment_over(total, PATIENT_PERCENT))
				break;
		}
	}
	result->busy |= cqrs_segment_over(total, 100);
}

/*
 * age_limit returns for how long, in ms, changes may gather in one segment, so that retention has something to free; -1: for ever.
 */
static int64
age_limit(void)
{
	if (cqrs_setting_retention < 0)
		return -1;
	return Max((int64) cqrs_setting_retention * 1000 / AGE_SHARE, MIN_AGE_MS);
}

/*
 * cqrs_outbox_upkeep looks after the outbox.
 *
 * What it closes itself it does not seal yet: until that is committed there are writers who do not know.
 */
void
cqrs_outbox_upkeep(CqrsUpkeep *result)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(cqrs_clock_now(), PATIENCE_MS);
	TimestampTz due;
	CqrsNeeds	needs;
	ListCell   *cell;

	memset(result, 0, sizeof(CqrsUpkeep));
	result->again = DT_NOEND;
	while (!cqrs_segment_lock(true))
	{
		if (cqrs_locks_pause(deadline))
			continue;
		result->busy = true;
		return;
	}
	PushActiveSnapshot(GetLatestSnapshot());
	cqrs_needs_read(&needs);
	foreach(cell, cqrs_segment_list())
		if (((CqrsSegment *) lfirst(cell))->closed_at != 0)
			look_after(lfirst(cell), &needs, result);
	shrink(result);
	PopActiveSnapshot();
	due = cqrs_segment_rotate(age_limit(), &result->rotated);
	result->again = Min(result->again, due);
}
