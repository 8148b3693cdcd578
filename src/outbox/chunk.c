/*
 * outbox/chunk.c
 *		From records to rows of the active segment: draws numbers, writes chunks.
 *
 * Writes below SQL and asks for no right of the current user: who may change a source may have it captured.  Wants a transaction; runs at pre-commit
 * too, when no snapshot is left.  Leaves finding the active segment to segment.c.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "base/clock.h"
#include "base/sequence.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "outbox/parts.h"
#include "utils/array.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

/*
 * cqrs_chunk_open locks and opens the active segment; false if there is none, because the extension was dropped with its triggers.
 */
bool
cqrs_chunk_open(CqrsChunkWriter *writer)
{
	writer->heap = cqrs_segment_open_active(&writer->sequence);
	if (writer->heap == NULL)
		return false;
	if (RelationGetDescr(writer->heap)->natts != CQRS_SEGMENT_COLUMNS)
		elog(ERROR, "outbox segment \"%s\" has %d columns", RelationGetRelationName(writer->heap),
			 RelationGetDescr(writer->heap)->natts);
	writer->indexes = CatalogOpenIndexes(writer->heap);
	writer->body = palloc(BLCKSZ);
	writer->large = false;
	return true;
}

/*
 * cqrs_chunk_close closes the segment; its lock stays.
 */
void
cqrs_chunk_close(CqrsChunkWriter *writer)
{
	cqrs_segment_written(writer->heap, writer->large);
	CatalogCloseIndexes(writer->indexes);
	table_close(writer->heap, NoLock);
	pfree(writer->body);
}

/*
 * cqrs_chunk_room returns the bytes of records that leave the row of a chunk small enough for one page.
 */
Size
cqrs_chunk_room(int nsources)
{
	Size		offset = 2 * sizeof(int64);	/* number, xid */

	offset += ARR_OVERHEAD_NONULLS(1) + nsources * sizeof(int32);
	offset = INTALIGN(offset) + sizeof(int32);	/* changes */
	offset = DOUBLEALIGN(offset) + sizeof(TimestampTz);
	offset += VARHDRSZ + CQRS_BODY_HEAD;
	return MaxHeapTupleSize - MAXALIGN(SizeofHeapTupleHeader) - offset;
}

/*
 * cqrs_chunk_seal gives a draft its number and its time.
 *
 * The rows it speaks of are locked still, so numbers follow the order in which changes of one row happened.
 */
void
cqrs_chunk_seal(const CqrsChunkWriter *writer, CqrsDraft *draft)
{
	draft->number = cqrs_sequence_next(writer->sequence);
	draft->captured_at = cqrs_clock_now();
}

/*
 * put_body puts a draft's body together: in the writer's page-sized space, or in memory of its own if it is larger.
 */
static struct varlena *
put_body(CqrsChunkWriter *writer, const CqrsDraft *draft, const char *buffer)
{
	Size		length = draft->end - draft->start;
	Size		size = VARHDRSZ + CQRS_BODY_HEAD + length;
	struct varlena *body = size <= BLCKSZ ? writer->body : palloc(size);
	pg_crc32c	crc = cqrs_body_crc(buffer + draft->start, length);

	SET_VARSIZE(body, size);
	VARDATA(body)[0] = CQRS_FORMAT;
	memcpy(VARDATA(body) + 1, &crc, sizeof(crc));
	memcpy(VARDATA(body) + CQRS_BODY_HEAD, buffer + draft->start, length);
	return body;
}

/*
 * form_chunk makes the row of a draft.
 */
static HeapTuple
form_chunk(CqrsChunkWriter *writer, const CqrsDraft *draft, struct varlena *body)
{
	Datum		values[CQRS_SEGMENT_COLUMNS];
	bool		nulls[CQRS_SEGMENT_COLUMNS] = {false};
	Datum		sources[CQRS_CHUNK_SOURCES];
	ArrayType  *array;
	HeapTuple	tuple;

	for (int i = 0; i < draft->nsources; i++)
		sources[i] = Int32GetDatum(draft->sources[i]);
	array = construct_array(sources, draft->nsources, INT4OID, sizeof(int32), true, TYPALIGN_INT);
	values[CQRS_SEGMENT_NUMBER] = Int64GetDatum(draft->number);
	values[CQRS_SEGMENT_XID] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	values[CQRS_SEGMENT_SOURCES] = PointerGetDatum(array);
	values[CQRS_SEGMENT_CHANGES] = Int32GetDatum(draft->changes);
	values[CQRS_SEGMENT_CAPTURED_AT] = TimestampTzGetDatum(draft->captured_at);
	values[CQRS_SEGMENT_BODY] = PointerGetDatum(body);
	tuple = heap_form_tuple(RelationGetDescr(writer->heap), values, nulls);
	pfree(array);
	return tuple;
}

/*
 * cqrs_chunk_write inserts a sealed draft's row and its index entries.
 *
 * By the server's routine for catalogs: the cheapest one that also serves an index that REINDEX CONCURRENTLY is about to put in place of ours.
 */
void
cqrs_chunk_write(CqrsChunkWriter *writer, const CqrsDraft *draft, const char *buffer)
{
	struct varlena *body = put_body(writer, draft, buffer);
	HeapTuple	tuple = form_chunk(writer, draft, body);

	CatalogTupleInsertWithInfo(writer->heap, tuple, writer->indexes);
	heap_freetuple(tuple);
	if (body == writer->body)
		return;
	writer->large = true;
	pfree(body);
}
