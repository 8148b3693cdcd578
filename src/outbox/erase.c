/*
 * outbox/erase.c
 *		Erasing changes from chunks that are committed: they are written anew, in place.
 *
 * Of a record that goes, a tombstone is left with its source and its command, so that the records behind it keep their positions.  A chunk's row is
 * updated as any row is: who reads under an older snapshot reads the old one, and it stays on its page until vacuum.  What else the row says, its
 * transaction too, stays as it was, so the chunk belongs to the same windows as before.
 *
 * Leaves to the caller who may erase, what, and that nobody needs it any more.  Segments are locked to the end of the transaction.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "base/compat.h"
#include "base/locks.h"
#include "miscadmin.h"
#include "outbox/parts.h"
#include "settings/settings.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* An erasure at work. */
typedef struct Eraser
{
	const int32 *sources;
	int			nsources;
	CqrsErasable erasable;
	void	   *argument;
	int64		erased;			/* so far */
} Eraser;

/*
 * list_segments lists the tables of all opened segments.
 */
static List *
list_segments(void *argument)
{
	List	   *relations = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_segment_list())
		relations = lappend_oid(relations, ((CqrsSegment *) lfirst(cell))->relation);
	return relations;
}

/*
 * cqrs_outbox_lock_all locks all segments.
 *
 * Writers and readers pass.  Two erasures do not: the second has to see what the first has written.
 */
List *
cqrs_outbox_lock_all(void)
{
	return cqrs_locks_take_listed(list_segments, NULL, ShareUpdateExclusiveLock, cqrs_setting_lock_timeout);
}

/*
 * is_ours tells whether a change is of one of the sources.
 */
static bool
is_ours(const Eraser *eraser, const CqrsChange *change)
{
	for (int i = 0; i < eraser->nsources; i++)
		if (eraser->sources[i] == change->source)
			return true;
	return false;
}

/*
 * find_changes returns what goes from a chunk, by ordinal.
 */
static Bitmapset *
find_changes(const Eraser *eraser, const CqrsChunk *chunk)
{
	CqrsChangeReader *reader = cqrs_outbox_read_begin(chunk);
	CqrsChange	change;
	Bitmapset  *goes = NULL;

	for (int i = 0; cqrs_outbox_read_next(reader, &change); i++)
		if (change.kind != CQRS_CHANGE_ERASED && is_ours(eraser, &change) && eraser->erasable(&change, eraser->argument))
			goes = bms_add_member(goes, i);
	cqrs_outbox_read_end(reader);
	return goes;
}

/*
 * put_tombstone writes what is left of a record, and returns the byte after it.
 */
static char *
put_tombstone(const char *record, char *to)
{
	CqrsRecord	tombstone = {.kind = CQRS_CHANGE_ERASED};

	(void) cqrs_record_skip(record, &tombstone.shape, &tombstone.command);
	return cqrs_record_write(&tombstone, cqrs_record_measure(&tombstone), to);
}

/*
 * rewrite_body returns a chunk's body without what goes.  The reader has been through it, so its records are sound.
 */
static struct varlena *
rewrite_body(const CqrsChunk *chunk, const Bitmapset *goes)
{
	struct varlena *old = pg_detoast_datum_packed(chunk->body);
	const char *record = VARDATA_ANY(old) + CQRS_BODY_HEAD;
	const char *end = VARDATA_ANY(old) + VARSIZE_ANY_EXHDR(old);
	char	   *records = palloc(CQRS_RECORD_ROOM(end - record));
	char	   *to = records;
	struct varlena *body;

	for (int i = 0; record < end; i++)
	{
		const char *next = cqrs_record_skip(record, NULL, NULL);

		if (bms_is_member(i, goes))
			to = put_tombstone(record, to);
		else
		{
			memcpy(to, record, next - record);
			to += next - record;
		}
		record = next;
	}
	body = palloc(VARHDRSZ + CQRS_BODY_HEAD + (to - records));
	(void) cqrs_body_write(records, to - records, (char *) body);
	return body;
}

/*
 * erase_from_chunk updates a chunk's row if anything in it goes.
 */
static void
erase_from_chunk(Eraser *eraser, Relation heap, TupleTableSlot *slot)
{
	Datum		values[CQRS_SEGMENT_COLUMNS] = {0};
	bool		nulls[CQRS_SEGMENT_COLUMNS] = {false};
	bool		replace[CQRS_SEGMENT_COLUMNS] = {[CQRS_SEGMENT_BODY] = true};
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, NULL);
	CqrsChunk	chunk;
	Bitmapset  *goes;

	cqrs_chunk_read(&chunk, slot);
	if (!cqrs_outbox_chunk_has(&chunk, eraser->sources, eraser->nsources))
		return;
	goes = find_changes(eraser, &chunk);
	if (bms_is_empty(goes))
		return;
	values[CQRS_SEGMENT_BODY] = PointerGetDatum(rewrite_body(&chunk, goes));
	tuple = heap_modify_tuple(tuple, RelationGetDescr(heap), values, nulls, replace);
	cqrs_compat_heap_update(heap, &slot->tts_tid, tuple);
	if (!HeapTupleIsHeapOnly(tuple))
		cqrs_chunk_index(heap, tuple);
	eraser->erased += bms_num_members(goes);
}

/*
 * erase_from_segment looks through one segment.
 */
static void
erase_from_segment(Eraser *eraser, Oid segment, Snapshot snapshot)
{
	Relation	heap = table_open(segment, NoLock);
	TableScanDesc scan = table_beginscan(heap, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext, "cqrs erase chunk", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(memory);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		erase_from_chunk(eraser, heap, slot);
		MemoryContextReset(memory);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(memory);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(heap, NoLock);
}

/*
 * cqrs_outbox_erase erases changes.
 *
 * Errors: XX001 for a damaged chunk of one of the sources, since nobody could tell whether anything of it is to go; and those of 'erasable'.
 */
int64
cqrs_outbox_erase(List *segments, Snapshot snapshot, const int32 *sources, int nsources, CqrsErasable erasable, void *argument)
{
	Eraser		eraser = {.sources = sources,.nsources = nsources,.erasable = erasable,.argument = argument};
	ListCell   *cell;

	cqrs_shapes_check();
	foreach(cell, segments)
		erase_from_segment(&eraser, lfirst_oid(cell), snapshot);
	return eraser.erased;
}
