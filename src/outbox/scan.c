/*
 * outbox/scan.c
 *		The chunks of a window, segment by segment, and how many changes wait in one.
 *
 * A window is what a snapshot sees and a checkpoint does not: chunks of transactions that were in progress at the checkpoint, looked up one by one, and of
 * all that began later, a range of the index on xid.  Visibility is the server's: nothing here asks who is still running.
 *
 * Wants a snapshot that is registered or active.  Takes ACCESS SHARE on one segment after the other and gives it back; a caller that needs it longer holds
 * its own.  The scan's memory is a child of CurrentMemoryContext.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "base/attempt.h"
#include "base/compat.h"
#include "catalog/pg_index.h"
#include "outbox/parts.h"
#include "registry/registry.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

struct CqrsOutboxScan
{
	Snapshot	snapshot;
	const CqrsSnapshot *checkpoint; /* NULL: all that is visible */
	FullTransactionId upto;		/* invalid: any */
	List	   *segments;		/* that are not open yet */
	int			probe;			/* of the segment in hand: index into checkpoint->xip, and then the range */
	Relation	heap;			/* the segment in hand, or NULL */
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	MemoryContext memory;		/* of the scan */
	MemoryContext chunk_memory; /* of the chunk in hand */
	CqrsChunk	chunk;
};

/* What is counted in one chunk. */
typedef struct Count
{
	const CqrsChunk *chunk;
	const int32 *sources;
	int			nsources;
	int64		found;
} Count;

/*
 * cqrs_outbox_concerns tells whether a segment can hold chunks of a window.
 *
 * A sealed one says what it holds, and nobody adds to it: so one that the checkpoint has seen is passed over without being looked at, however many such are
 * retained.  The transactions of a restored one are not of this cluster, and in no window here.
 */
bool
cqrs_outbox_concerns(const CqrsSegment *segment, const CqrsSnapshot *checkpoint, FullTransactionId upto)
{
	if (!segment->sealed)
		return segment->ours || checkpoint == NULL;
	if (!FullTransactionIdIsValid(segment->last_xid))
		return false;
	if (checkpoint == NULL)
		return true;
	if (!segment->ours || (FullTransactionIdIsValid(upto) && FullTransactionIdPrecedes(upto, segment->first_xid)))
		return false;
	if (!FullTransactionIdPrecedes(segment->last_xid, checkpoint->xmax))
		return true;
	for (int i = 0; i < checkpoint->nxip; i++)
		if (!FullTransactionIdPrecedes(checkpoint->xip[i], segment->first_xid) &&
			!FullTransactionIdPrecedes(segment->last_xid, checkpoint->xip[i]))
			return true;
	return false;
}

/*
 * cqrs_outbox_segments lists the segments that can hold chunks of a window, oldest first.
 *
 * One that is consumed holds nothing that a checkpoint has not seen: none that there was then, and later ones have seen more.
 */
List *
cqrs_outbox_segments(const CqrsSnapshot *checkpoint, FullTransactionId upto)
{
	List	   *segments = NIL;
	ListCell   *cell;

	foreach(cell, checkpoint ? cqrs_segment_unconsumed() : cqrs_segment_list())
		if (cqrs_outbox_concerns(lfirst(cell), checkpoint, upto))
			segments = lappend(segments, lfirst(cell));
	return segments;
}

/*
 * begin_scan starts to read a window of some segments.
 */
static CqrsOutboxScan *
begin_scan(List *segments, Snapshot snapshot, const CqrsSnapshot *checkpoint, FullTransactionId upto)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext, "cqrs outbox scan", ALLOCSET_DEFAULT_SIZES);
	CqrsOutboxScan *scan = MemoryContextAllocZero(memory, sizeof(CqrsOutboxScan));

	scan->snapshot = snapshot;
	scan->checkpoint = checkpoint;
	scan->upto = upto;
	scan->segments = segments;
	scan->memory = memory;
	scan->chunk_memory = AllocSetContextCreate(memory, "cqrs outbox chunk", ALLOCSET_DEFAULT_SIZES);
	cqrs_shapes_check();
	return scan;
}

/*
 * cqrs_outbox_scan_begin starts to read a window; snapshot and checkpoint must stay until its end.
 */
CqrsOutboxScan *
cqrs_outbox_scan_begin(Snapshot snapshot, const CqrsSnapshot *checkpoint, FullTransactionId upto)
{
	return begin_scan(cqrs_outbox_segments(checkpoint, upto), snapshot, checkpoint, upto);
}

/*
 * cqrs_outbox_scan_segment starts to read one segment; the snapshot must stay until its end.
 */
CqrsOutboxScan *
cqrs_outbox_scan_segment(const CqrsSegment *segment, Snapshot snapshot)
{
	return begin_scan(list_make1(unconstify(CqrsSegment *, segment)), snapshot, NULL, InvalidFullTransactionId);
}

/*
 * cqrs_outbox_probe tells whether a segment holds a chunk of a window.
 */
bool
cqrs_outbox_probe(const CqrsSegment *segment, Snapshot snapshot, const CqrsSnapshot *checkpoint)
{
	CqrsOutboxScan *scan = begin_scan(list_make1(unconstify(CqrsSegment *, segment)), snapshot, checkpoint,
									  InvalidFullTransactionId);
	bool		found = cqrs_outbox_scan_next(scan) != NULL;

	cqrs_outbox_scan_end(scan);
	return found;
}

/*
 * look_up positions the index scan at chunks with an xid from 'low' to 'high'.
 */
static void
look_up(CqrsOutboxScan *scan, FullTransactionId low, FullTransactionId high)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_XID8GE, FullTransactionIdGetDatum(low));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_XID8LE, FullTransactionIdGetDatum(high));
	index_rescan(scan->scan, keys, lengthof(keys), NULL, 0);
}

/*
 * next_lookup goes on to the next transaction that was in progress at the checkpoint, or last to the range behind it; false if all are done.
 */
static bool
next_lookup(CqrsOutboxScan *scan)
{
	const CqrsSnapshot *checkpoint = scan->checkpoint;
	int			nprobes = checkpoint ? checkpoint->nxip : 0;
	FullTransactionId last = FullTransactionIdIsValid(scan->upto) ? scan->upto : FullTransactionIdFromU64(PG_UINT64_MAX);

	for (; scan->probe < nprobes; scan->probe++)
	{
		FullTransactionId xid = checkpoint->xip[scan->probe];

		if (FullTransactionIdPrecedes(last, xid))
			continue;
		look_up(scan, xid, xid);
		scan->probe++;
		return true;
	}
	if (scan->probe++ > nprobes)
		return false;
	look_up(scan, checkpoint ? checkpoint->xmax : InvalidFullTransactionId, last);
	return true;
}

/*
 * index_on_xid finds a segment's btree on xid; while it is being built anew there are two, of which one is valid.
 */
static Oid
index_on_xid(Relation rel)
{
	Oid			found = InvalidOid;
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(rel))
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
		Form_pg_index index;

		if (!HeapTupleIsValid(tuple))
			continue;
		index = (Form_pg_index) GETSTRUCT(tuple);
		if (index->indisvalid && index->indkey.values[0] == CQRS_SEGMENT_XID + 1)
			found = lfirst_oid(cell);
		ReleaseSysCache(tuple);
	}
	if (!OidIsValid(found))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("outbox segment \"%s\" has no valid index on its column \"xid\"", RelationGetRelationName(rel)),
				 errhint("Reindex the table.")));
	return found;
}

/*
 * next_segment opens the table of the next segment; false after the last.
 *
 * One that was freed since it was listed may even have been dropped.  Who needed what it held has seen to it that it was not.
 */
static bool
next_segment(CqrsOutboxScan *scan)
{
	while (scan->heap == NULL && scan->segments != NIL)
	{
		const CqrsSegment *segment = linitial(scan->segments);

		scan->segments = list_delete_first(scan->segments);
		scan->heap = try_table_open(segment->relation, AccessShareLock);
		scan->chunk.segment = segment;
		scan->chunk.closed = segment->closed_at != 0;
	}
	return scan->heap != NULL;
}

/*
 * open_segment opens the next segment; false after the last.
 *
 * The scan returns all rows, and visibility is asked of each: under an MVCC snapshot a SERIALIZABLE transaction would take predicate locks, and two
 * that ask how fresh a read model is and then write would fail for nothing.
 */
static bool
open_segment(CqrsOutboxScan *scan)
{
	MemoryContext caller = MemoryContextSwitchTo(scan->memory);

	if (!next_segment(scan))
	{
		MemoryContextSwitchTo(caller);
		return false;
	}
	scan->index = index_open(index_on_xid(scan->heap), AccessShareLock);
	scan->scan = cqrs_compat_index_beginscan(scan->heap, scan->index, SnapshotAny, 2);
	scan->slot = table_slot_create(scan->heap, NULL);
	scan->probe = 0;
	MemoryContextSwitchTo(caller);
	return true;
}

/*
 * close_segment closes the segment in hand and gives its lock back.
 */
static void
close_segment(CqrsOutboxScan *scan)
{
	ExecDropSingleTupleTableSlot(scan->slot);
	index_endscan(scan->scan);
	index_close(scan->index, AccessShareLock);
	table_close(scan->heap, AccessShareLock);
	scan->heap = NULL;
}

/*
 * read_sources copies a chunk's source ids; if they are damaged it says so by their number, for whoever reads the chunk to raise.
 */
static void
read_sources(CqrsChunk *chunk, Datum datum)
{
	ArrayType  *array = DatumGetArrayTypeP(datum);

	if (ARR_NDIM(array) != 1 || ARR_HASNULL(array) || ARR_DIMS(array)[0] < 0 ||
		ARR_DIMS(array)[0] > (ARR_SIZE(array) - ARR_OVERHEAD_NONULLS(1)) / sizeof(int32))
	{
		chunk->nsources = CQRS_SOURCES_DAMAGED;
		return;
	}
	chunk->nsources = ARR_DIMS(array)[0];
	chunk->sources = palloc(sizeof(int32) * chunk->nsources);
	memcpy(chunk->sources, ARR_DATA_PTR(array), sizeof(int32) * chunk->nsources);
}

/*
 * cqrs_chunk_read takes a chunk's row from a slot.
 */
void
cqrs_chunk_read(CqrsChunk *chunk, TupleTableSlot *slot)
{
	Datum	   *values = slot->tts_values;

	slot_getallattrs(slot);
	chunk->place = slot->tts_tid;
	chunk->number = DatumGetInt64(values[CQRS_SEGMENT_NUMBER]);
	chunk->xid = DatumGetFullTransactionId(values[CQRS_SEGMENT_XID]);
	chunk->changes = DatumGetInt32(values[CQRS_SEGMENT_CHANGES]);
	chunk->captured_at = DatumGetTimestampTz(values[CQRS_SEGMENT_CAPTURED_AT]);
	chunk->body = (struct varlena *) DatumGetPointer(values[CQRS_SEGMENT_BODY]);
	read_sources(chunk, values[CQRS_SEGMENT_SOURCES]);
}

/*
 * read_chunk takes the chunk's row from the scan's slot.
 */
static CqrsChunk *
read_chunk(CqrsOutboxScan *scan)
{
	MemoryContext caller;

	MemoryContextReset(scan->chunk_memory);
	caller = MemoryContextSwitchTo(scan->chunk_memory);
	cqrs_chunk_read(&scan->chunk, scan->slot);
	MemoryContextSwitchTo(caller);
	return &scan->chunk;
}

/*
 * in_window tells whether the chunk in the slot belongs to the window: the range may hold transactions that the checkpoint has seen.
 */
static bool
in_window(CqrsOutboxScan *scan)
{
	bool		isnull;
	Datum		xid = slot_getattr(scan->slot, CQRS_SEGMENT_XID + 1, &isnull);

	return scan->checkpoint == NULL || !cqrs_window_sees(scan->checkpoint, DatumGetFullTransactionId(xid));
}

/*
 * cqrs_outbox_scan_next returns the window's next chunk, or NULL.
 */
CqrsChunk *
cqrs_outbox_scan_next(CqrsOutboxScan *scan)
{
	for (;;)
	{
		if (scan->heap == NULL && !(open_segment(scan) && next_lookup(scan)))
			return NULL;
		while (index_getnext_slot(scan->scan, ForwardScanDirection, scan->slot))
			if (in_window(scan) && table_tuple_satisfies_snapshot(scan->heap, scan->slot, scan->snapshot))
				return read_chunk(scan);
		if (!next_lookup(scan))
			close_segment(scan);
	}
}

/*
 * cqrs_outbox_scan_end ends the scan, at its end or before.
 */
void
cqrs_outbox_scan_end(CqrsOutboxScan *scan)
{
	if (scan->heap != NULL)
		close_segment(scan);
	MemoryContextDelete(scan->memory);
}

/*
 * cqrs_outbox_chunk_has tells whether a chunk holds changes of any of the sources; it may if it is not known whose it holds.
 */
bool
cqrs_outbox_chunk_has(const CqrsChunk *chunk, const int32 *sources, int nsources)
{
	if (chunk->nsources == CQRS_SOURCES_DAMAGED)
		return true;
	for (int i = 0; i < chunk->nsources; i++)
		for (int j = 0; j < nsources; j++)
			if (chunk->sources[i] == sources[j])
				return true;
	return false;
}

/*
 * has_others tells whether a chunk holds changes of sources other than these, too.
 */
static bool
has_others(const CqrsChunk *chunk, const int32 *sources, int nsources)
{
	for (int i = 0; i < chunk->nsources; i++)
	{
		int			j = 0;

		while (j < nsources && chunk->sources[i] != sources[j])
			j++;
		if (j == nsources)
			return true;
	}
	return false;
}

/*
 * count_read counts the changes of the sources in a chunk by reading them; called in a subtransaction.
 */
static void
count_read(void *arg)
{
	Count	   *count = arg;
	CqrsChangeReader *reader = cqrs_outbox_read_begin(count->chunk);
	CqrsChange	change;

	count->found = 0;
	while (cqrs_outbox_read_next(reader, &change))
		for (int i = 0; i < count->nsources; i++)
			count->found += change.source == count->sources[i];
	cqrs_outbox_read_end(reader);
}

/*
 * count_changes counts the changes of the sources in a chunk that holds others as well: all that it holds if it is damaged, as nobody will apply them.
 */
static int64
count_changes(const CqrsChunk *chunk, const int32 *sources, int nsources)
{
	Count		count = {.chunk = chunk,.sources = sources,.nsources = nsources};
	ErrorData  *error = cqrs_attempt(count_read, &count, true);

	if (error == NULL)
		return count.found;
	if (error->sqlerrcode != ERRCODE_DATA_CORRUPTED)
		ReThrowError(error);
	return chunk->changes;
}

/*
 * cqrs_outbox_count_pending counts the changes of the sources in a window, up to 'limit', and tells when the oldest of those counted was captured.
 *
 * Transactions are met in the order in which they began, so past the limit an older change may be left unseen only if its transaction began
 * later than others that took longer.
 */
int64
cqrs_outbox_count_pending(Snapshot snapshot, const CqrsSnapshot *checkpoint, const int32 *sources, int nsources,
						  int64 limit, TimestampTz *oldest)
{
	CqrsOutboxScan *scan = cqrs_outbox_scan_begin(snapshot, checkpoint, InvalidFullTransactionId);
	CqrsChunk  *chunk;
	int64		count = 0;

	*oldest = 0;
	while (count < limit && (chunk = cqrs_outbox_scan_next(scan)) != NULL)
	{
		if (!cqrs_outbox_chunk_has(chunk, sources, nsources))
			continue;
		count += has_others(chunk, sources, nsources) ? count_changes(chunk, sources, nsources) : chunk->changes;
		if (*oldest == 0 || chunk->captured_at < *oldest)
			*oldest = chunk->captured_at;
	}
	cqrs_outbox_scan_end(scan);
	return Min(count, limit);
}
