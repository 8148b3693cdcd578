/*
 * outbox/chunk.c
 *		From records to rows of the active segment: draws numbers, writes chunks.
 *
 * Writes below SQL and asks for no right of the current user: who may change a source may have it captured.  Wants a transaction; runs at pre-commit
 * too, when no snapshot is left.  Leaves finding the active segment to segment.c, and index entries to entry.c.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "base/clock.h"
#include "base/index.h"
#include "base/sequence.h"
#include "base/snapshot.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "outbox/parts.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/*
 * is_on_xid tells whether an index is the one that segments are made with, or one that REINDEX CONCURRENTLY is about to put in its place: ascending in the
 * order of the type itself, as entry.c takes for granted.
 */
static bool
is_on_xid(Relation index)
{
	Form_pg_index form = index->rd_index;

	return index->rd_rel->relam == BTREE_AM_OID && form->indnatts == 1 && form->indkey.values[0] == CQRS_SEGMENT_XID + 1 &&
		index->rd_opcintype[0] == XID8OID && index->rd_support[0] == F_XID8CMP && index->rd_indoption[0] == 0 &&
		!form->indisunique && heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
}

/*
 * open_indexes opens the indexes of the segment.
 *
 * Others than ours are somebody else's, but are to be kept whole, too.
 */
static void
open_indexes(CqrsChunkWriter *writer)
{
	List	   *oids = RelationGetIndexList(writer->heap);
	ListCell   *cell;

	writer->others = false;
	writer->indexes = palloc(list_length(oids) * sizeof(Relation));
	writer->nindexes = 0;
	foreach(cell, oids)
	{
		Relation	index = index_open(lfirst_oid(cell), RowExclusiveLock);

		writer->others |= !is_on_xid(index);
		writer->indexes[writer->nindexes++] = index;
	}
	list_free(oids);
}

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
	open_indexes(writer);
	writer->last = 0;
	writer->large = false;
	return true;
}

/*
 * cqrs_chunk_close closes the segment; its lock stays.
 */
void
cqrs_chunk_close(CqrsChunkWriter *writer)
{
	cqrs_segment_written(writer->heap, writer->last, writer->large);
	for (int i = 0; i < writer->nindexes; i++)
		index_close(writer->indexes[i], NoLock);
	pfree(writer->indexes);
	table_close(writer->heap, NoLock);
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
 * The rows it speaks of are locked still, so numbers follow the order in which changes of one row happened.  The segment's lock is held, and keeps the
 * sequence, too.
 */
void
cqrs_chunk_seal(const CqrsChunkWriter *writer, CqrsDraft *draft)
{
	draft->number = cqrs_sequence_next_kept(writer->sequence);
	draft->captured_at = cqrs_clock_now();
}

/*
 * cqrs_body_write puts a body together and returns the byte after it.  Short ones have a short head, as wherever the server forms a row.
 */
char *
cqrs_body_write(const char *records, Size length, char *to)
{
	Size		size = CQRS_BODY_HEAD + length;
	pg_crc32c	crc = cqrs_body_crc(records, length);

	if (VARHDRSZ_SHORT + size <= VARATT_SHORT_MAX)
		SET_VARSIZE_SHORT(to, VARHDRSZ_SHORT + size);
	else
		SET_VARSIZE(to, VARHDRSZ + size);
	to = VARDATA_ANY(to);
	*to++ = CQRS_FORMAT;
	memcpy(to, &crc, sizeof(crc));
	memcpy(to + sizeof(crc), records, length);
	return to + sizeof(crc) + length;
}

/*
 * put_sources puts a draft's sources together as an array and returns the byte after it.
 */
static char *
put_sources(const CqrsDraft *draft, char *to)
{
	ArrayType  *array = (ArrayType *) to;
	Size		size = ARR_OVERHEAD_NONULLS(1) + draft->nsources * sizeof(int32);

	SET_VARSIZE(array, size);
	array->ndim = 1;
	array->dataoffset = 0;
	array->elemtype = INT4OID;
	ARR_DIMS(array)[0] = draft->nsources;
	ARR_LBOUND(array)[0] = 1;
	memcpy(ARR_DATA_PTR(array), draft->sources, draft->nsources * sizeof(int32));
	return to + size;
}

/*
 * form_chunk makes the row of a draft in 'tuple', whose data points to space enough.
 *
 * By hand, in the layout that cqrs_chunk_room reckons with: the server's routine would need the body put together elsewhere first.  A body with a long head
 * begins aligned behind captured_at.
 */
static void
form_chunk(const CqrsDraft *draft, const char *buffer, HeapTuple tuple)
{
	HeapTupleHeader header = tuple->t_data;
	char	   *start = (char *) header + MAXALIGN(SizeofHeapTupleHeader);
	uint64		xid = U64FromFullTransactionId(GetTopFullTransactionId());
	char	   *to = start;

	memset(header, 0, MAXALIGN(SizeofHeapTupleHeader));
	header->t_hoff = MAXALIGN(SizeofHeapTupleHeader);
	header->t_infomask = HEAP_HASVARWIDTH;
	HeapTupleHeaderSetNatts(header, CQRS_SEGMENT_COLUMNS);
	memcpy(to, &draft->number, sizeof(int64));
	memcpy(to + sizeof(int64), &xid, sizeof(xid));
	to = put_sources(draft, to + sizeof(int64) + sizeof(xid));
	memcpy(to, &draft->changes, sizeof(int32));
	memset(to + sizeof(int32), 0, sizeof(int32));	/* where captured_at needs to be aligned */
	to = start + DOUBLEALIGN(to + sizeof(int32) - start);
	memcpy(to, &draft->captured_at, sizeof(TimestampTz));
	to = cqrs_body_write(buffer + draft->start, draft->end - draft->start, to + sizeof(TimestampTz));
	tuple->t_len = to - (char *) header;
	ItemPointerSetInvalid(&tuple->t_self);
	tuple->t_tableOid = InvalidOid;
}

/*
 * wants_snapshot tells whether a row is to be inserted under a snapshot: where values may be stored out of line, or somebody's expressions looked at.  None is
 * left at pre-commit.
 *
 * A server built with assertions wants one for every row of a table that can have such values.
 */
static bool
wants_snapshot(bool large)
{
#ifdef USE_ASSERT_CHECKING
	large = true;
#endif
	return large;
}

/*
 * cqrs_chunk_index adds a row to all indexes of a segment.
 */
void
cqrs_chunk_index(Relation heap, HeapTuple tuple)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(heap), &TTSOpsHeapTuple);
	ListCell   *cell;

	ExecStoreHeapTuple(tuple, slot, false);
	foreach(cell, RelationGetIndexList(heap))
	{
		Relation	index = index_open(lfirst_oid(cell), RowExclusiveLock);

		(void) cqrs_index_insert(index, heap, slot, UNIQUE_CHECK_YES, false);
		index_close(index, NoLock);
	}
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * insert_row inserts a row and its index entries.  An index that is not ready yet, whoever builds it will find the row.
 */
static void
insert_row(const CqrsChunkWriter *writer, HeapTuple tuple)
{
	heap_insert(writer->heap, tuple, GetCurrentCommandId(true), 0, NULL);
	if (writer->others)
	{
		cqrs_chunk_index(writer->heap, tuple);
		return;
	}
	for (int i = 0; i < writer->nindexes; i++)
		if (writer->indexes[i]->rd_index->indisready)
			cqrs_entry_insert(writer->heap, writer->indexes[i], GetTopFullTransactionId(), &tuple->t_self);
}

/*
 * cqrs_chunk_write inserts a sealed draft's row and its index entries.
 *
 * The row is put together in space of the backend's, so that a transaction of few changes asks for no memory; one larger than a page in memory of its own.
 */
void
cqrs_chunk_write(CqrsChunkWriter *writer, const CqrsDraft *draft, const char *buffer)
{
	static PGAlignedBlock page;
	Size		length = draft->end - draft->start;
	bool		large = length > cqrs_chunk_room(draft->nsources);
	bool		held = wants_snapshot(large || writer->others) && cqrs_snapshot_hold();
	HeapTupleData tuple;

	tuple.t_data = large ? palloc(BLCKSZ + length) : (HeapTupleHeader) page.data;
	form_chunk(draft, buffer, &tuple);
	insert_row(writer, &tuple);
	cqrs_snapshot_let_go(held);
	if (large)
		pfree(tuple.t_data);
	writer->last = Max(writer->last, ItemPointerGetBlockNumber(&tuple.t_self));
	writer->large |= large;
}
