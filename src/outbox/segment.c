/*
 * outbox/segment.c
 *		The segment that is written to: finding it, opening the first, closing it when it is full and opening the next.
 *
 * A writer's lock on the active segment is kept to the end of its transaction, so that nobody empties it under a writer.  A worker is told when a segment is
 * full; where there is none, or it is late, the writer itself turns over to the next one, at pre-commit only and only if it need not wait for that.  What
 * goes wrong then does not concern the command.
 *
 * Leaves to retain.c what becomes of closed segments.  Wants a transaction; runs at pre-commit too, when no snapshot is left.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "base/attempt.h"
#include "base/clock.h"
#include "base/locks.h"
#include "catalog/namespace.h"
#include "outbox/parts.h"
#include "registry/registry.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/smgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define SHARE_OF_OUTBOX	4		/* a segment is no larger than this part of cqrs.max_outbox_size */
#define LATE			2		/* times the size of a segment at which writers no longer leave it to a worker */
#define MB				(INT64CONST(1024) * 1024)

/* What this backend knows of where to write.  Invalidation only clears the flag. */
static struct
{
	bool		valid;
	bool		registered;		/* the callback is */
	Oid			segments;		/* the list itself */
	Oid			heap;			/* the active one; InvalidOid if there is none */
	Oid			sequence;		/* chunk numbers */
} active;

/* How full a segment was when this transaction wrote to it, if it is to be closed. */
static struct
{
	Oid			heap;			/* InvalidOid: it is not */
	int64		bytes;
} full;

/*
 * forget_active is called when a relation changes: it has the active segment looked up again before it is next written to.
 *
 * Whoever opens a segment invalidates the list's relation.
 */
static void
forget_active(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == active.segments || relid == active.heap || relid == active.sequence)
		active.valid = false;
}

/*
 * find_active looks up where chunks go; false if the extension is gone.
 */
static bool
find_active(void)
{
	CqrsSegment *segment;

	if (!active.registered)
	{
		CacheRegisterRelcacheCallback(forget_active, (Datum) 0);
		active.registered = true;
	}
	if (!cqrs_registry_exists())
		return false;
	active.segments = cqrs_registry_relation(CQRS_CAT_SEGMENT);
	active.sequence = get_relname_relid("chunk_number", get_rel_namespace(active.segments));
	active.valid = true;		/* first, so that an invalidation while we read the list is not lost */
	segment = cqrs_segment_active();
	active.heap = segment ? segment->relation : InvalidOid;
	if (segment != NULL && !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(active.heap)))
		elog(ERROR, "segment %d of the outbox has lost its table", segment->number);
	return true;
}

/*
 * cqrs_segment_outbox returns the list of segments, which tells one creation of the extension from another; InvalidOid if it is gone.
 */
Oid
cqrs_segment_outbox(void)
{
	return active.valid || find_active() ? active.segments : InvalidOid;
}

/*
 * cqrs_segment_there tells whether there is a segment to write to, or at least nobody to write one for.
 *
 * A restored outbox has none of ours until somebody commits: until then changes stay in memory, for who opens the first holds up all others.
 */
bool
cqrs_segment_there(void)
{
	return (!active.valid && !find_active()) || OidIsValid(active.heap);
}

/*
 * cqrs_segment_open_active locks and opens the active segment, makes one if there is none; NULL if the extension was dropped with its triggers.
 *
 * The lock is taken first, and with it word of what others have changed: the segment may have become an older one, or be gone, while we waited.  Mostly
 * the word is of something else, and it is still the active one; to wait for silence could take for ever.
 */
Relation
cqrs_segment_open_active(Oid *sequence)
{
	for (;;)
	{
		Oid			heap;

		if (!active.valid && !find_active())
			return NULL;
		if (!OidIsValid(active.heap))
			cqrs_segment_ensure();
		heap = active.heap;
		LockRelationOid(heap, RowExclusiveLock);
		if (active.valid || (find_active() && active.heap == heap))
		{
			*sequence = active.sequence;
			return table_open(heap, NoLock);
		}
		UnlockRelationOid(heap, RowExclusiveLock);
	}
}

/*
 * next_number returns the number of a segment that is opened now.
 */
static int32
next_number(List *opened, List *spares)
{
	int32		last = 0;

	if (opened != NIL)
		last = ((CqrsSegment *) llast(opened))->number;
	if (spares != NIL)
		last = Max(last, ((CqrsSegment *) llast(spares))->number);
	return last + 1;
}

/*
 * adopt closes what a restore has brought: its chunks are not of this cluster or database, so ours must not come among them.
 */
static void
adopt(List *opened)
{
	TimestampTz now = cqrs_clock_now();
	ListCell   *cell;

	foreach(cell, opened)
	{
		CqrsSegment *segment = lfirst(cell);

		if (segment->ours)
			continue;
		cqrs_segment_table_belong(segment->relation);
		if (segment->closed_at != 0 && segment->consumed_at != 0)
			continue;
		segment->closed_at = segment->closed_at ? segment->closed_at : now;
		segment->consumed_at = now;
		cqrs_segment_update(segment);
	}
}

/*
 * open_next opens a spare, or a segment newly made, after closing the active one if there is one.  The caller has the right to (cqrs_segment_lock).
 *
 * Writers in flight go on to write to the one that was closed, to the end of their transactions, if they have its lock.
 */
static void
open_next(CqrsSegment *closing)
{
	List	   *opened = cqrs_segment_list();
	List	   *spares = cqrs_segment_spares();
	CqrsSegment next = {.ours = true};

	if (closing != NULL)
	{
		closing->closed_at = cqrs_clock_now();
		cqrs_segment_update(closing);
	}
	adopt(opened);
	next.number = next_number(opened, spares);
	next.opened_at = cqrs_clock_now();
	opened = cqrs_segment_unconsumed();
	next.oldest = opened != NIL ? ((CqrsSegment *) linitial(opened))->number : next.number;
	if (spares == NIL)
	{
		next.relation = cqrs_segment_table_create(next.number);
		cqrs_segment_insert(&next);
		return;
	}
	next.relation = ((CqrsSegment *) linitial(spares))->relation;
	cqrs_segment_table_belong(next.relation);
	cqrs_segment_update(&next);
}

/*
 * cqrs_segment_ensure sees to it that there is a segment to write to.
 *
 * Errors: 55P03 if another transaction that is still open has just made the first one, or is about to.
 */
void
cqrs_segment_ensure(void)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(cqrs_clock_now(), cqrs_setting_lock_timeout);

	if (cqrs_segment_there())
		return;
	while (!cqrs_segment_lock(true))
		if (!cqrs_locks_pause(deadline))
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not open a segment of the outbox within cqrs.lock_timeout"),
					 errdetail("Another transaction that is still open has opened one."),
					 errhint("Wait for that transaction to end.")));
	if (cqrs_segment_active() == NULL)
		open_next(NULL);
	active.valid = false;
	(void) find_active();
}

/*
 * cqrs_segment_limit returns the size at which a segment is full: cqrs.segment_size, or a part of cqrs.max_outbox_size if that is less.
 */
int64
cqrs_segment_limit(void)
{
	int64		limit = (int64) cqrs_setting_segment_size * 1024;

	if (cqrs_setting_max_outbox_size > 0)
		limit = Min(limit, cqrs_setting_max_outbox_size * MB / SHARE_OF_OUTBOX);
	return limit;
}

/*
 * cqrs_segment_total returns the size of all segments together.
 */
int64
cqrs_segment_total(void)
{
	int64		total = 0;
	ListCell   *cell;

	foreach(cell, cqrs_segment_list())
	{
		CqrsSegment *segment = lfirst(cell);

		total += segment->sealed ? segment->bytes : cqrs_segment_table_bytes(segment->relation);
	}
	return total;
}

/*
 * cqrs_segment_over tells whether a size exceeds that many percent of cqrs.max_outbox_size.
 */
bool
cqrs_segment_over(int64 bytes, int percent)
{
	return cqrs_setting_max_outbox_size > 0 && bytes > cqrs_setting_max_outbox_size * MB / 100 * percent;
}

/*
 * cqrs_segment_written notes how full the segment is that a transaction has just written to: up to which page.
 *
 * Changes larger than a page are in the table for large values.
 */
void
cqrs_segment_written(Relation heap, BlockNumber last, bool large)
{
	int64		bytes = ((int64) last + 1) * BLCKSZ;

	if (large && OidIsValid(heap->rd_rel->reltoastrelid))
	{
		Relation	toast = table_open(heap->rd_rel->reltoastrelid, AccessShareLock);

		bytes += (int64) RelationGetNumberOfBlocks(toast) * BLCKSZ;
		table_close(toast, AccessShareLock);
	}
	if (bytes < cqrs_segment_limit())
		return;
	if (full.heap != RelationGetRelid(heap))
		cqrs_shared_ask_upkeep();
	full.heap = RelationGetRelid(heap);
	full.bytes = bytes;
}

/*
 * cqrs_segment_forget forgets, at the end of a transaction, what it has found full; of one that is prepared the session's next transaction is to know.
 */
void
cqrs_segment_forget(bool prepared)
{
	if (!prepared)
		full.heap = InvalidOid;
}

/*
 * suspend stops capturing anything, because the outbox can take no more; false, having changed nothing, if somebody is at work on a source.
 */
static bool
suspend(void)
{
	List	   *sources = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_source_list())
	{
		CqrsSource *source = lfirst(cell);

		if (!source->attached)
			continue;
		if (!cqrs_source_lock(source->relation, true))
			return false;
		sources = lappend(sources, source);
	}
	foreach(cell, sources)
	{
		CqrsSource *source = cqrs_source_get(((CqrsSource *) lfirst(cell))->id);

		source->attached = false;
		cqrs_source_update(source);
	}
	return sources != NIL;
}

/* What turn_over is to do. */
typedef struct Turn
{
	CqrsSegment *segment;		/* the one to close */
	bool		suspend;		/* instead of opening the next */
	bool		suspended;
} Turn;

/*
 * turn_over opens the next segment; or suspends capture.
 */
static void
turn_over(void *argument)
{
	Turn	   *turn = argument;

	if (turn->suspend)
		turn->suspended = suspend();
	else
		open_next(turn->segment);
}

/*
 * warn_suspended says that capture is suspended.
 */
static void
warn_suspended(void)
{
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("cqrs has stopped capturing changes: the outbox has reached cqrs.max_outbox_size"),
			 errdetail("No worker has freed segments in time.  Projections are stale until they are evaluated anew."),
			 errhint("Call cqrs.drain(), or let a worker run; or raise cqrs.max_outbox_size.")));
}

/*
 * refuse_event raises because an outbox that is full takes no more events.
 */
static void
refuse_event(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("event cannot be appended: the outbox has reached cqrs.max_outbox_size"),
			 errdetail("No worker has freed segments in time."),
			 errhint("Call cqrs.drain(), or let a worker run; or raise cqrs.max_outbox_size.")));
}

/*
 * is_due tells whether a segment that was found full is to be closed by who has found it so: no worker will do so soon.
 */
static bool
is_due(bool worker)
{
	return !(worker && full.bytes < LATE * cqrs_segment_limit());
}

/*
 * is_beyond tells whether nobody but a worker may open another segment.
 */
static bool
is_beyond(bool worker)
{
	return cqrs_segment_over(cqrs_segment_total() + cqrs_segment_limit(), worker ? LATE * 100 : 100);
}

/*
 * cqrs_segment_check_events refuses the events of a transaction that is about to be prepared, if capture would have to be suspended.
 *
 * Errors: 53400.
 */
void
cqrs_segment_check_events(void)
{
	bool		worker;

	if (!OidIsValid(full.heap))
		return;
	worker = cqrs_shared_worker_runs();
	if (is_due(worker) && is_beyond(worker))
		refuse_event();
}

/*
 * cqrs_segment_turn_over closes, at pre-commit, a segment that this transaction has found full, and opens the next.
 *
 * It does nothing if a worker will do so soon, or another session is at it.  Past cqrs.max_outbox_size nobody but a worker may open one: then capture is
 * suspended; and past twice that size also if there is a worker, which must be busy with something that takes long.
 *
 * A transaction that is prepared does neither, for others would wait for it.  It is made up for by the session's next one, mostly its COMMIT PREPARED.
 *
 * Errors: 53400 if the transaction holds events, for which nothing makes up, and capture would have to be suspended.
 */
void
cqrs_segment_turn_over(bool events)
{
	Turn		turn = {NULL, false, false};
	bool		worker;
	ErrorData  *error;

	if (!OidIsValid(full.heap))
		return;
	worker = cqrs_shared_worker_runs();
	if (!is_due(worker) || XactReadOnly || !cqrs_registry_exists() || !cqrs_segment_lock(true))
		return;
	turn.segment = cqrs_segment_active();
	if (turn.segment == NULL || turn.segment->relation != full.heap)
	{
		cqrs_segment_unlock();	/* somebody was quicker */
		return;
	}
	turn.suspend = is_beyond(worker);
	if (turn.suspend && events)
		refuse_event();
	error = cqrs_attempt(turn_over, &turn, true);
	if (error != NULL)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("cqrs could not open the next segment of the outbox: %s", error->message),
				 errdetail("The full one is written to until another transaction can.")));
	else if (turn.suspended)
		warn_suspended();
}

/*
 * cqrs_segment_rotate closes the active segment if it is full or has held chunks for too long, and opens the next; opens one where a restore has left none.
 *
 * For who looks after the outbox, in a transaction that is about to end.  Returns when to look again for the age of what the active one holds.
 */
TimestampTz
cqrs_segment_rotate(int64 age_ms, bool *rotated)
{
	CqrsSegment *segment = cqrs_segment_active();
	TimestampTz begins = segment ? cqrs_segment_table_begins(segment->relation) : 0;
	TimestampTz due = DT_NOEND;

	if (age_ms >= 0 && segment != NULL)
		due = TimestampTzPlusMilliseconds(begins ? begins : cqrs_clock_now(), age_ms);
	*rotated = due <= cqrs_clock_now() ||
		(segment ? cqrs_segment_table_bytes(segment->relation) >= cqrs_segment_limit() : cqrs_segment_list() != NIL);
	if (*rotated)
		open_next(segment);
	return due;
}
