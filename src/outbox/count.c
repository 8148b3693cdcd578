/*
 * outbox/count.c
 *		How many events there are of each type.
 *
 * Writers do not count.  Who seals a segment has to go through it anyway, and nobody adds to it any more: then its events are counted into the registry, in
 * the transaction that says it is sealed.  Those in other segments are counted by whoever asks.  So every event is counted once, under any snapshot.
 *
 * An event that was erased before its segment was sealed is not counted, nor is what a damaged chunk holds.
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/attempt.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "outbox/parts.h"
#include "registry/registry.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define MAX_TYPE 1004			/* bytes of a type with its end; cqrs.emit takes 1000 */

enum
{
	ARG_SEGMENT, ARG_RELATION
};

enum
{
	COL_TYPE, COL_COUNT, COL_FIRST_AT, COL_LAST_AT, COLUMNS
};

/* What is counted of one type. */
typedef struct Entry
{
	char		type[MAX_TYPE]; /* key */
	CqrsEventCount count;
} Entry;

/* A chunk, and what is counted in all. */
typedef struct Work
{
	const CqrsChunk *chunk;
	HTAB	   *counts;
	MemoryContext memory;		/* of a change */
} Work;

/*
 * count_event counts one event.
 */
static void
count_event(Work *work, const CqrsChange *change)
{
	MemoryContext caller = MemoryContextSwitchTo(work->memory);
	TimestampTz at = work->chunk->captured_at;
	char		type[MAX_TYPE];
	CqrsEvent	event;
	Entry	   *entry;
	bool		found;

	cqrs_outbox_event(change, &event);
	text_to_cstring_buffer(event.type, type, sizeof(type));
	entry = hash_search(work->counts, type, HASH_ENTER, &found);
	if (!found)
		entry->count = (CqrsEventCount) {.type = entry->type,.first_at = at,.last_at = at};
	entry->count.count++;
	entry->count.first_at = Min(entry->count.first_at, at);
	entry->count.last_at = Max(entry->count.last_at, at);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(work->memory);
}

/*
 * count_chunk counts the events of one chunk; called in a subtransaction.
 */
static void
count_chunk(void *argument)
{
	Work	   *work = argument;
	CqrsChangeReader *reader = cqrs_outbox_read_begin(work->chunk);
	CqrsChange	change;

	while (cqrs_outbox_read_next(reader, &change))
	{
		CHECK_FOR_INTERRUPTS();
		if (change.kind == CQRS_CHANGE_EVENT)
			count_event(work, &change);
	}
	cqrs_outbox_read_end(reader);
}

/*
 * count_segment counts the events that a snapshot sees in a segment, in CurrentMemoryContext; not this transaction's own, of which some are in the buffer.
 */
static HTAB *
count_segment(const CqrsSegment *segment, Snapshot snapshot)
{
	static const int32 events[] = {CQRS_EVENT_SOURCE};
	HASHCTL		control = {.keysize = MAX_TYPE,.entrysize = sizeof(Entry),.hcxt = CurrentMemoryContext};
	Work		work = {.memory = AllocSetContextCreate(CurrentMemoryContext, "cqrs event count", ALLOCSET_DEFAULT_SIZES)};
	CqrsOutboxScan *scan = cqrs_outbox_scan_segment(segment, snapshot);
	FullTransactionId own = GetTopFullTransactionIdIfAny();
	CqrsChunk  *chunk;

	work.counts = hash_create("cqrs event counts", 32, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	while ((chunk = cqrs_outbox_scan_next(scan)) != NULL)
	{
		ErrorData  *error;

		if (FullTransactionIdEquals(chunk->xid, own) || !cqrs_outbox_chunk_has(chunk, events, lengthof(events)))
			continue;
		work.chunk = chunk;
		error = cqrs_attempt(count_chunk, &work, true);
		if (error != NULL && error->sqlerrcode != ERRCODE_DATA_CORRUPTED)
			ReThrowError(error);
	}
	cqrs_outbox_scan_end(scan);
	MemoryContextDelete(work.memory);
	return work.counts;
}

/*
 * cqrs_segment_count_events adds the events of a segment to what the registry knows of their types.
 */
void
cqrs_segment_count_events(const CqrsSegment *segment, Snapshot snapshot)
{
	HTAB	   *counts = count_segment(segment, snapshot);
	HASH_SEQ_STATUS status;
	Entry	   *entry;

	hash_seq_init(&status, counts);
	while ((entry = hash_seq_search(&status)) != NULL)
		cqrs_event_count_add(&entry->count);
	hash_destroy(counts);
}

/*
 * segment_of finds the segment with the number, whose table the caller has seen it to have.
 *
 * Its table may have been emptied since the caller's snapshot, which then shows a segment that nobody can read any more.
 */
static CqrsSegment *
segment_of(int32 number, Oid relation)
{
	ListCell   *cell;

	foreach(cell, cqrs_segment_list())
	{
		CqrsSegment *segment = lfirst(cell);

		if (segment->number == number && segment->relation == relation)
			return segment;
	}
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("segment %d of the outbox was freed just now", number),
			 errhint("Try again.")));
	return NULL;
}

PG_FUNCTION_INFO_V1(cqrs_count_events);

/*
 * cqrs_internal.count_events(segment integer, relation regclass) RETURNS TABLE (type text, count bigint, first_at timestamptz, last_at timestamptz)
 *
 * The events that the statement sees in a segment that is not sealed in its snapshot, by type.
 *
 * Errors: 40001 if the segment has been freed since the snapshot.
 */
Datum
cqrs_count_events(PG_FUNCTION_ARGS)
{
	int32		number = PG_GETARG_INT32(ARG_SEGMENT);
	Oid			relation = PG_GETARG_OID(ARG_RELATION);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	HASH_SEQ_STATUS status;
	HTAB	   *counts;
	Entry	   *entry;

	InitMaterializedSRF(fcinfo, 0);
	counts = count_segment(segment_of(number, relation), GetActiveSnapshot());
	(void) segment_of(number, relation);
	hash_seq_init(&status, counts);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		Datum		values[COLUMNS];
		bool		nulls[COLUMNS] = {0};

		values[COL_TYPE] = CStringGetTextDatum(entry->type);
		values[COL_COUNT] = Int64GetDatum(entry->count.count);
		values[COL_FIRST_AT] = TimestampTzGetDatum(entry->count.first_at);
		values[COL_LAST_AT] = TimestampTzGetDatum(entry->count.last_at);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
