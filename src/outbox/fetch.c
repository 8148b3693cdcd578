/*
 * outbox/fetch.c
 *		Chunks one by one, from where a scan has met them: for readers that want them in another order than scans have.
 *
 * Wants the snapshot of the scan, registered or active.  Holds ACCESS SHARE on the segment in hand.  Memory is a child of CurrentMemoryContext.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "outbox/parts.h"
#include "utils/memutils.h"
#include "utils/rel.h"

struct CqrsOutboxFetch
{
	Snapshot	snapshot;
	Relation	heap;			/* of the segment in hand, or NULL */
	TupleTableSlot *slot;
	MemoryContext memory;		/* of all of this */
	MemoryContext chunk_memory; /* of the chunk in hand */
	CqrsChunk	chunk;
};

/*
 * cqrs_outbox_fetch_begin prepares to fetch chunks.
 */
CqrsOutboxFetch *
cqrs_outbox_fetch_begin(Snapshot snapshot)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext, "cqrs outbox fetch", ALLOCSET_DEFAULT_SIZES);
	CqrsOutboxFetch *fetch = MemoryContextAllocZero(memory, sizeof(CqrsOutboxFetch));

	fetch->snapshot = snapshot;
	fetch->memory = memory;
	fetch->chunk_memory = AllocSetContextCreate(memory, "cqrs outbox chunk", ALLOCSET_DEFAULT_SIZES);
	return fetch;
}

/*
 * let_go closes the segment in hand.
 */
static void
let_go(CqrsOutboxFetch *fetch)
{
	if (fetch->heap == NULL)
		return;
	ExecDropSingleTupleTableSlot(fetch->slot);
	table_close(fetch->heap, AccessShareLock);
	fetch->heap = NULL;
}

/*
 * cqrs_outbox_fetch returns the chunk at a place, in memory that the next call frees.
 */
const CqrsChunk *
cqrs_outbox_fetch(CqrsOutboxFetch *fetch, const CqrsSegment *segment, ItemPointer place)
{
	MemoryContext caller = MemoryContextSwitchTo(fetch->memory);

	if (fetch->heap != NULL && RelationGetRelid(fetch->heap) != segment->relation)
		let_go(fetch);
	if (fetch->heap == NULL)
	{
		fetch->heap = table_open(segment->relation, AccessShareLock);
		fetch->slot = table_slot_create(fetch->heap, NULL);
	}
	if (!table_tuple_fetch_row_version(fetch->heap, place, fetch->snapshot, fetch->slot))
		elog(ERROR, "a chunk of the outbox is gone");
	MemoryContextReset(fetch->chunk_memory);
	MemoryContextSwitchTo(fetch->chunk_memory);
	cqrs_chunk_read(&fetch->chunk, fetch->slot);
	fetch->chunk.segment = segment;
	fetch->chunk.closed = segment->closed_at != 0;
	MemoryContextSwitchTo(caller);
	return &fetch->chunk;
}

/*
 * cqrs_outbox_fetch_end lets go of what was fetched.
 */
void
cqrs_outbox_fetch_end(CqrsOutboxFetch *fetch)
{
	let_go(fetch);
	MemoryContextDelete(fetch->memory);
}
