/*
 * registry/segments.c
 *		Rows of segments, and the locks of those who change, need and free them.
 *
 * Read each time, never from a cache: who takes a snapshot and then reads the list must find every segment in which that snapshot sees a chunk, and an
 * invalidation may arrive after the commit that it tells of has become visible.
 */
#include "postgres.h"

#include "base/locks.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "registry/rows.h"
#include "storage/lock.h"
#include "utils/inval.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

enum
{
	COL_NUMBER, COL_OLDEST, COL_RELATION, COL_OPENED_AT, COL_CLOSED_AT, COL_CONSUMED_AT, COL_FIRST_XID, COL_LAST_XID,
	COL_FIRST_POSITION, COL_LAST_POSITION, COL_CHANGES, COL_BYTES, COL_SYSTEM, COL_DATABASE, COL_REGISTRY, COL_COUNT
};

/*
 * read_segment makes a CqrsSegment of a row.
 */
static void *
read_segment(const Datum *values, const bool *nulls)
{
	CqrsSegment *segment = palloc0(sizeof(CqrsSegment));

	segment->number = DatumGetInt32(values[COL_NUMBER]);
	segment->oldest = DatumGetInt32(values[COL_OLDEST]);
	segment->relation = DatumGetObjectId(values[COL_RELATION]);
	segment->opened_at = nulls[COL_OPENED_AT] ? 0 : DatumGetTimestampTz(values[COL_OPENED_AT]);
	segment->closed_at = nulls[COL_CLOSED_AT] ? 0 : DatumGetTimestampTz(values[COL_CLOSED_AT]);
	segment->consumed_at = nulls[COL_CONSUMED_AT] ? 0 : DatumGetTimestampTz(values[COL_CONSUMED_AT]);
	memcpy(segment->origin, &values[COL_SYSTEM], sizeof(segment->origin));
	segment->ours = cqrs_registry_is_ours(segment->origin);
	segment->sealed = !nulls[COL_BYTES];
	if (!segment->sealed)
		return segment;
	segment->changes = DatumGetInt64(values[COL_CHANGES]);
	segment->bytes = DatumGetInt64(values[COL_BYTES]);
	if (nulls[COL_FIRST_XID])
		return segment;
	segment->first_xid = DatumGetFullTransactionId(values[COL_FIRST_XID]);
	segment->last_xid = DatumGetFullTransactionId(values[COL_LAST_XID]);
	segment->first_position = DatumGetInt64(values[COL_FIRST_POSITION]);
	segment->last_position = DatumGetInt64(values[COL_LAST_POSITION]);
	return segment;
}

/*
 * form_segment makes the row of a CqrsSegment.  One that came by a restore keeps saying where from.
 */
static void
form_segment(const CqrsSegment *segment, Datum *values, bool *nulls)
{
	bool		empty = !FullTransactionIdIsValid(segment->first_xid);

	memset(nulls, 0, sizeof(bool) * COL_COUNT);
	values[COL_NUMBER] = Int32GetDatum(segment->number);
	values[COL_OLDEST] = Int32GetDatum(segment->oldest);
	values[COL_RELATION] = ObjectIdGetDatum(segment->relation);
	values[COL_OPENED_AT] = TimestampTzGetDatum(segment->opened_at);
	values[COL_CLOSED_AT] = TimestampTzGetDatum(segment->closed_at);
	values[COL_CONSUMED_AT] = TimestampTzGetDatum(segment->consumed_at);
	values[COL_FIRST_XID] = FullTransactionIdGetDatum(segment->first_xid);
	values[COL_LAST_XID] = FullTransactionIdGetDatum(segment->last_xid);
	values[COL_FIRST_POSITION] = Int64GetDatum(segment->first_position);
	values[COL_LAST_POSITION] = Int64GetDatum(segment->last_position);
	values[COL_CHANGES] = Int64GetDatum(segment->changes);
	values[COL_BYTES] = Int64GetDatum(segment->bytes);
	nulls[COL_OPENED_AT] = segment->opened_at == 0;
	nulls[COL_CLOSED_AT] = segment->closed_at == 0;
	nulls[COL_CONSUMED_AT] = segment->consumed_at == 0;
	nulls[COL_FIRST_XID] = nulls[COL_LAST_XID] = nulls[COL_FIRST_POSITION] = nulls[COL_LAST_POSITION] = empty;
	nulls[COL_CHANGES] = nulls[COL_BYTES] = !segment->sealed;
	if (segment->ours)
		cqrs_registry_put_origin(&values[COL_SYSTEM]);
	else
		memcpy(&values[COL_SYSTEM], segment->origin, sizeof(segment->origin));
}

/*
 * by_relation starts a scan for one segment.
 */
static CqrsRowScan
by_relation(Oid relation)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_SEGMENT, .index = "segment_relation_key"};

	cqrs_rows_key_oid(&scan, COL_RELATION + 1, relation);
	return scan;
}

/*
 * of_kind returns the opened ones, or the spares, among segments.
 */
static List *
of_kind(List *segments, bool opened)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, segments)
		if ((((CqrsSegment *) lfirst(cell))->opened_at != 0) == opened)
			result = lappend(result, lfirst(cell));
	return result;
}

/*
 * all_segments returns all there are, by number.
 */
static List *
all_segments(void)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_SEGMENT, .index = "segment_pkey"};

	return cqrs_rows_read(&scan, read_segment);
}

/*
 * cqrs_segment_list returns the segments that hold the outbox, oldest first.
 */
List *
cqrs_segment_list(void)
{
	return of_kind(all_segments(), true);
}

/*
 * cqrs_segment_unconsumed returns those of them that are not consumed, oldest first.
 *
 * What only retention keeps is not read, so a batch costs the same however much that is; nor, while a dump holds an old xmin, are the dead rows of all
 * that were freed since: the last row says where to begin, and who is consumed stays so.
 */
List *
cqrs_segment_unconsumed(void)
{
	CqrsRowScan all = {.catalog = CQRS_CAT_SEGMENT, .index = "segment_pkey"};
	CqrsSegment *last = cqrs_rows_read_last(&all, read_segment);
	CqrsRowScan recent = all;
	List	   *segments = NIL;
	ListCell   *cell;

	if (last == NULL)
		return NIL;
	cqrs_rows_key_int4_from(&recent, COL_NUMBER + 1, last->oldest);
	foreach(cell, of_kind(cqrs_rows_read(&recent, read_segment), true))
		if (((CqrsSegment *) lfirst(cell))->consumed_at == 0)
			segments = lappend(segments, lfirst(cell));
	return segments;
}

/*
 * cqrs_segment_spares returns the segments that wait for their turn.
 */
List *
cqrs_segment_spares(void)
{
	return of_kind(all_segments(), false);
}

/*
 * cqrs_segment_active returns the segment that is written to, or NULL.
 */
CqrsSegment *
cqrs_segment_active(void)
{
	ListCell   *cell;

	foreach(cell, cqrs_segment_unconsumed())
	{
		CqrsSegment *segment = lfirst(cell);

		if (segment->closed_at == 0 && segment->ours)
			return segment;
	}
	return NULL;
}

/*
 * invalidate has every session look up the active segment again, at commit.
 */
static void
invalidate(void)
{
	CacheInvalidateRelcacheByRelid(cqrs_registry_relation(CQRS_CAT_SEGMENT));
}

/*
 * cqrs_segment_insert adds a segment.
 */
void
cqrs_segment_insert(const CqrsSegment *segment)
{
	Datum		values[COL_COUNT];
	bool		nulls[COL_COUNT];

	form_segment(segment, values, nulls);
	cqrs_rows_insert(CQRS_CAT_SEGMENT, values, nulls);
	invalidate();
}

/*
 * cqrs_segment_update replaces a segment's row.
 */
void
cqrs_segment_update(const CqrsSegment *segment)
{
	CqrsRowScan scan = by_relation(segment->relation);
	Datum		values[COL_COUNT];
	bool		nulls[COL_COUNT];

	form_segment(segment, values, nulls);
	cqrs_rows_update(&scan, values, nulls);
	invalidate();
}

/*
 * cqrs_segment_delete removes a segment's row.
 */
void
cqrs_segment_delete(Oid relation)
{
	CqrsRowScan scan = by_relation(relation);

	(void) cqrs_rows_delete(&scan);
	invalidate();
}

/*
 * tag_of makes the lock tag of a segment's number; 0 stands for all of them.
 */
static LOCKTAG
tag_of(int32 number)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, cqrs_registry_relation(CQRS_CAT_SEGMENT), (uint32) number, 0);
	return tag;
}

/*
 * lock_segment locks a segment's number.
 */
static bool
lock_segment(int32 number, LOCKMODE mode, bool nowait)
{
	LOCKTAG		tag = tag_of(number);

	return LockAcquire(&tag, mode, false, nowait) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * cqrs_segment_lock takes the right to open, close, seal and free segments.
 */
bool
cqrs_segment_lock(bool nowait)
{
	return lock_segment(0, ExclusiveLock, nowait);
}

/*
 * cqrs_segment_unlock gives the right back, before the end of the transaction, of who has made no use of it.
 */
void
cqrs_segment_unlock(void)
{
	LOCKTAG		tag = tag_of(0);

	(void) LockRelease(&tag, ExclusiveLock, false);
}

/*
 * cqrs_segment_need keeps a segment and all later ones from being freed.
 */
bool
cqrs_segment_need(int32 number, bool nowait)
{
	return lock_segment(number, ShareLock, nowait);
}

/*
 * cqrs_segment_forbid makes sure that nobody needs a segment in that way, nor begins to.
 */
bool
cqrs_segment_forbid(int32 number)
{
	return lock_segment(number, ExclusiveLock, true);
}

/*
 * cqrs_segment_needed_by lists who needs a segment in that way.
 */
List *
cqrs_segment_needed_by(int32 number)
{
	LOCKTAG		tag = tag_of(number);

	return cqrs_locks_held(&tag, ExclusiveLock);
}
