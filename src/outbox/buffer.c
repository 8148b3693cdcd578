/*
 * outbox/buffer.c
 *		A transaction's changes, from the trigger to pre-commit.
 *
 * Records lie back to back in one arena.  Every nesting level that has captured something has a mark where its records begin: rolling a subtransaction
 * back cuts the arena there, releasing it hands the records up.  At pre-commit all goes to the active segment as chunks.  A transaction too large for the
 * buffer writes early, but only what the current level captured and as part of it, so that a rollback takes it along; what outer levels hold is
 * sealed first, that is, cut into chunks that have their numbers, and stays in memory.
 *
 * Leaves encoding to record.c and writing to chunk.c.  The arena lives in a context of its own for the backend's life and is small between transactions.
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/names.h"
#include "outbox/parts.h"
#include "registry/registry.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "utils/memutils.h"

#define INITIAL_SIZE		(16 * 1024) /* of the arena, and what it is between transactions */
#define INITIAL_MARKS		8
#define PATIENCE			4	/* times the buffer's size that it takes at most to keep changes of one row together */
#define LENGTH_SIZE			5	/* a record's leading length takes no more */
#define MAX_RECORD			(MaxAllocSize - BLCKSZ) /* so that its chunk's row can be put together in memory */

/* Where a nesting level's records begin. */
typedef struct Mark
{
	int			level;
	Size		start;
	int64		written;		/* changes it has in the segment already */
	bool		events;			/* some of its changes, written or not, are events */
} Mark;

/* Which source a shape is of, for shapes met in this transaction. */
typedef struct ShapeSource
{
	int32		shape;
	int32		source;
} ShapeSource;

static struct
{
	MemoryContext context;		/* of all below */
	MemoryContext images;		/* of values fetched, until they are in their image */
	MemoryContext writing;		/* of writing chunks, until done */
	Oid			outbox;			/* what it is for: the list of segments, as OIDs go */
	char	   *data;			/* the arena */
	Size		used;
	Size		size;
	Mark	   *marks;			/* outermost level first; none without changes */
	int			nmarks;
	int			max_marks;
	CqrsDraft  *sealed;			/* chunks cut already, from the arena's beginning; none lies across a mark */
	int			nsealed;
	int			max_sealed;
	ShapeSource *shapes;
	int			nshapes;
	int			max_shapes;
	int			shape;			/* index of the one met last */
	CommandId	command;		/* of the last record */
	bool		disordered;		/* some record is of an earlier command than the one before it ... */
	CommandId	outer;			/* ... the earliest such of this one */
	bool		late;			/* past pre-commit: write at once */
	bool		wrote;			/* something: there is news for the worker if we commit */
} buffer;

/*
 * prepare makes the contexts at first use.
 */
static void
prepare(void)
{
	MemoryContext context;

	if (buffer.context != NULL)
		return;
	context = AllocSetContextCreate(TopMemoryContext, "cqrs outbox buffer", ALLOCSET_DEFAULT_SIZES);
	buffer.images = AllocSetContextCreate(context, "cqrs outbox images", ALLOCSET_DEFAULT_SIZES);
	buffer.writing = AllocSetContextCreate(context, "cqrs outbox writing", ALLOCSET_DEFAULT_SIZES);
	buffer.context = context;
}

/*
 * grow_array makes room for one more element in an array of the buffer's.
 */
static void *
grow_array(void *array, int used, int *max, Size element)
{
	int			size = *max == 0 ? INITIAL_MARKS : *max * 2;

	if (used < *max)
		return array;
	array = array == NULL ? MemoryContextAlloc(buffer.context, size * element) : repalloc(array, size * element);
	*max = size;
	return array;
}

/*
 * reserve makes room in the arena for a record.
 *
 * The arena grows by doubling up to cqrs.buffer_size, and past it only by what a record needs.
 */
static char *
reserve(Size record)
{
	Size		needed = buffer.used + record;

	if (needed > buffer.size)
	{
		Size		limit = (Size) cqrs_setting_buffer_size * 1024;
		Size		size = Max(buffer.size * 2, INITIAL_SIZE);

		size = Max(Min(size, limit), needed);
		buffer.data = buffer.data == NULL ? MemoryContextAllocHuge(buffer.context, size) :
			repalloc_huge(buffer.data, size);
		buffer.size = size;
	}
	return buffer.data + buffer.used;
}

/*
 * check_outbox raises if what is in the buffer is for an outbox that was dropped since, and another made.  'outbox' is the one there is.
 *
 * Ids begin anew with it: of the two kinds of changes none could be told from the other.
 */
static void
check_outbox(Oid outbox)
{
	if (buffer.nmarks == 0)
		buffer.outbox = outbox;
	if (buffer.outbox != outbox)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot capture a change in this transaction any more"),
				 errdetail("It captured changes before it dropped the extension cqrs and created it again."),
				 errhint("Commit after DROP EXTENSION.")));
}

/*
 * enter_level returns the mark of the current nesting level.
 *
 * Levels are the server's own: the library may be loaded, and a first change captured, within a savepoint.
 */
static Mark *
enter_level(void)
{
	int			level = GetCurrentTransactionNestLevel();

	check_outbox(cqrs_segment_outbox());
	if (buffer.nmarks == 0 || buffer.marks[buffer.nmarks - 1].level < level)
	{
		buffer.marks = grow_array(buffer.marks, buffer.nmarks, &buffer.max_marks, sizeof(Mark));
		buffer.marks[buffer.nmarks].level = level;
		buffer.marks[buffer.nmarks].start = buffer.used;
		buffer.marks[buffer.nmarks].written = 0;
		buffer.marks[buffer.nmarks].events = false;
		buffer.nmarks++;
	}
	return &buffer.marks[buffer.nmarks - 1];
}

/*
 * find_shape returns the index of a shape among those met, or their number.  Mostly it is the last one met.
 */
static inline int
find_shape(int32 shape)
{
	int			index = 0;

	if (buffer.nshapes > 0 && buffer.shapes[buffer.shape].shape == shape)
		return buffer.shape;
	while (index < buffer.nshapes && buffer.shapes[index].shape != shape)
		index++;
	return index;
}

/*
 * note_shape remembers which source a shape is of.
 */
static inline void
note_shape(int32 shape, int32 source)
{
	int			index = find_shape(shape);

	if (index == buffer.nshapes)
	{
		buffer.shapes = grow_array(buffer.shapes, buffer.nshapes, &buffer.max_shapes, sizeof(ShapeSource));
		buffer.shapes[index].shape = shape;
		buffer.shapes[index].source = source;
		buffer.nshapes++;
	}
	buffer.shape = index;
}

/*
 * source_of returns the source a shape is of.
 */
static inline int32
source_of(int32 shape)
{
	buffer.shape = find_shape(shape);
	return buffer.shapes[buffer.shape].source;
}

/*
 * sealed_end returns the end of what is sealed.
 */
static Size
sealed_end(void)
{
	return buffer.nsealed == 0 ? 0 : buffer.sealed[buffer.nsealed - 1].end;
}

/*
 * cut_arena drops what lies behind 'end', a mark's beginning.
 */
static void
cut_arena(Size end)
{
	buffer.used = end;
	while (buffer.nsealed > 0 && sealed_end() > end)
		buffer.nsealed--;
}

/*
 * add_source puts a source among a draft's; false if it is full.
 */
static bool
add_source(CqrsDraft *draft, int32 source)
{
	for (int i = draft->nsources - 1; i >= 0; i--)
		if (draft->sources[i] == source)
			return true;
	if (draft->nsources == CQRS_CHUNK_SOURCES)
		return false;
	draft->sources[draft->nsources++] = source;
	return true;
}

/*
 * cut_draft makes a draft of as many records from 'start' on as fit into a page, of one at least, up to 'limit'.
 *
 * Mostly a record has the shape of the one before it, and often all of a transaction have the same.
 */
static void
cut_draft(CqrsDraft *draft, Size start, Size limit)
{
	int32		last = -1;
	Size		room = 0;

	draft->start = start;
	draft->end = start;
	draft->changes = 0;
	draft->nsources = 0;
	while (draft->end < limit)
	{
		const char *record = buffer.data + draft->end;
		Size		end = cqrs_record_end(record) - buffer.data;
		int			nsources = draft->nsources;

		if (draft->changes == 0 || buffer.nshapes > 1)
		{
			int32		shape;

			(void) cqrs_record_skip(record, &shape, NULL);
			if (shape != last || draft->changes == 0)
			{
				if (!add_source(draft, source_of(shape)))
					break;
				room = cqrs_chunk_room(draft->nsources);
				last = shape;
			}
		}
		if (draft->changes > 0 && end - start > room)
		{
			draft->nsources = nsources;
			break;
		}
		draft->end = end;
		draft->changes++;
	}
}

/*
 * put_in_order puts the records that are about to be cut into the order of their commands, if they are not.
 */
static void
put_in_order(Size start, Size end)
{
	if (buffer.disordered && start < end)
		cqrs_order_records(buffer.data + start, end - start);
}

/*
 * seal_outer seals what the levels outside the current one have captured, each level by itself.
 *
 * Numbers so follow the order of changes, and a level's rollback never cuts a sealed chunk in two.
 */
static void
seal_outer(const CqrsChunkWriter *writer)
{
	for (int i = 1; i < buffer.nmarks; i++)
	{
		put_in_order(sealed_end(), buffer.marks[i].start);
		while (sealed_end() < buffer.marks[i].start)
		{
			buffer.sealed = grow_array(buffer.sealed, buffer.nsealed, &buffer.max_sealed, sizeof(CqrsDraft));
			cut_draft(&buffer.sealed[buffer.nsealed], sealed_end(), buffer.marks[i].start);
			cqrs_chunk_seal(writer, &buffer.sealed[buffer.nsealed]);
			buffer.nsealed++;
		}
	}
}

/*
 * write_own writes what the current level has captured: chunks sealed while it was an outer level, then the rest.
 */
static void
write_own(CqrsChunkWriter *writer, Mark *own)
{
	int			first = buffer.nsealed;
	Size		at;

	while (first > 0 && buffer.sealed[first - 1].start >= own->start)
		first--;
	for (int i = first; i < buffer.nsealed; i++)
	{
		cqrs_chunk_write(writer, &buffer.sealed[i], buffer.data);
		own->written += buffer.sealed[i].changes;
	}
	at = Max(own->start, sealed_end());
	put_in_order(at, buffer.used);
	while (at < buffer.used)
	{
		CqrsDraft	draft;

		cut_draft(&draft, at, buffer.used);
		cqrs_chunk_seal(writer, &draft);
		cqrs_chunk_write(writer, &draft, buffer.data);
		own->written += draft.changes;
		at = draft.end;
	}
	buffer.wrote = true;
}

/*
 * write_out writes the current level's changes to the active segment and takes them from the arena.
 *
 * If the extension was dropped in this transaction, triggers and all, there is nowhere to write and nobody to read, even if it was created again.
 */
static void
write_out(void)
{
	Mark	   *own = &buffer.marks[buffer.nmarks - 1];
	MemoryContext caller = MemoryContextSwitchTo(buffer.writing);
	CqrsChunkWriter writer;

	if (buffer.outbox == cqrs_segment_outbox() && cqrs_chunk_open(&writer))
	{
		seal_outer(&writer);
		write_own(&writer, own);
		cqrs_chunk_close(&writer);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(buffer.writing);
	cut_arena(own->start);
	if (buffer.used == 0)
		buffer.disordered = false;
}

/*
 * refuse_size raises for a change that no chunk can hold.
 */
static void
refuse_size(int32 source, Size length)
{
	if (source == CQRS_EVENT_SOURCE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("event is too large"),
				 errdetail("With its metadata it takes %zu bytes.", length),
				 errhint("Keep values of this size in a table, and name their row in the event.")));
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("change of a row of \"%s\" is too large to capture",
					cqrs_name_shown(cqrs_source_get(source)->relation)),
			 errdetail("The row's old and new image together take %zu bytes.", length),
			 errhint("Keep values of this size in a table that is not captured.")));
}

/*
 * is_full tells whether the buffer is to be written before so much is appended.
 *
 * Where triggers change their rows again, what they do is captured before the change that fired them.  The two are to be written together, so the buffer then
 * waits for the end of what was done for a row, if that is not too far off.
 */
static bool
is_full(Size length)
{
	Size		limit = (Size) cqrs_setting_buffer_size * 1024;
	Size		needed = buffer.used + length;

	return needed > limit && (!buffer.disordered || buffer.command <= buffer.outer || needed > PATIENCE * limit);
}

/*
 * put_record appends a record to the arena, after making room by writing if the buffer is full.
 *
 * A level that holds less than a page does not write yet, or every savepoint of a large transaction would leave a page nearly empty.
 */
static void
put_record(CqrsRecord *record, int32 source)
{
	Size		length = cqrs_record_measure(record);
	Mark	   *own;

	if (length > MAX_RECORD)
		refuse_size(source, length);
	own = enter_level();
	own->events |= source == CQRS_EVENT_SOURCE;
	if (buffer.used - own->start >= BLCKSZ && is_full(length) && cqrs_segment_there())
		write_out();
	buffer.used = cqrs_record_write(record, length, reserve(CQRS_RECORD_ROOM(length + LENGTH_SIZE))) - buffer.data;
	if (record->command < buffer.command)
	{
		buffer.outer = buffer.disordered ? Min(buffer.outer, record->command) : record->command;
		buffer.disordered = true;
	}
	buffer.command = record->command;
}

/*
 * cqrs_outbox_append captures a change of one row.
 *
 * Needs nothing but memory in the common case.  Errors: 54000 for a change too large for a chunk.
 */
void
cqrs_outbox_append(CqrsChangeKind kind, const CqrsImaging *imaging, const CqrsRow *old_row, const CqrsRow *new_row,
				   const uint8 *noted)
{
	CqrsRecord	record;
	MemoryContext caller;

	prepare();
	note_shape(imaging->shape, imaging->source);
	record.kind = kind;
	record.shape = imaging->shape;
	record.command = cqrs_record_command(kind, old_row ? old_row->tuple : NULL, new_row ? new_row->tuple : NULL);
	record.noted = noted;
	record.noted_size = noted ? CQRS_NOTED_SIZE(imaging->nnoted) : 0;
	record.has_old = old_row != NULL;
	record.has_new = new_row != NULL;
	caller = MemoryContextSwitchTo(buffer.images);
	if (old_row)
		cqrs_image_make(&record.old_image, 0, imaging, old_row);
	if (new_row)
		cqrs_image_make(&record.new_image, 1, imaging, new_row);
	MemoryContextSwitchTo(caller);
	if (!buffer.images->isReset)
		MemoryContextReset(buffer.images);
	put_record(&record, imaging->source);
	if (buffer.late)
		write_out();
}

/*
 * cqrs_buffer_put captures what is not a change of a row.
 */
void
cqrs_buffer_put(CqrsRecord *record, int32 source)
{
	prepare();
	note_shape(record->shape, source);
	record->command = GetCurrentCommandId(false);
	put_record(record, source);
	if (buffer.late)
		write_out();
}

/*
 * cqrs_outbox_append_mark captures a change that is of no row.
 */
void
cqrs_outbox_append_mark(CqrsChangeKind kind, int32 source, int32 shape)
{
	CqrsRecord	record = {.kind = kind, .shape = shape};

	cqrs_buffer_put(&record, source);
}

/*
 * cqrs_outbox_pending tells whether this transaction has captured changes that are not rolled back.
 */
bool
cqrs_outbox_pending(void)
{
	for (int i = 0; i < buffer.nmarks; i++)
		if (buffer.marks[i].written > 0)
			return true;
	return buffer.used > 0;
}

/*
 * holds_events tells whether this transaction holds events that are not rolled back.
 */
static bool
holds_events(void)
{
	for (int i = 0; i < buffer.nmarks; i++)
		if (buffer.marks[i].events)
			return true;
	return false;
}

/*
 * hand_up gives the changes of a released subtransaction to the level above it.
 */
static void
hand_up(int level)
{
	Mark	   *own;

	if (buffer.nmarks == 0 || buffer.marks[buffer.nmarks - 1].level < level)
		return;
	own = &buffer.marks[buffer.nmarks - 1];
	if (buffer.nmarks > 1 && own[-1].level == level - 1)
	{
		own[-1].written += own->written;
		own[-1].events |= own->events;
		buffer.nmarks--;
	}
	else
		own->level = level - 1;
}

/*
 * take_back cuts off the changes of a rolled-back subtransaction.  What it had written is rolled back with it.
 */
static void
take_back(int level)
{
	while (buffer.nmarks > 0 && buffer.marks[buffer.nmarks - 1].level >= level)
	{
		cut_arena(buffer.marks[buffer.nmarks - 1].start);
		buffer.nmarks--;
	}
}

/*
 * forget empties the buffer at the end of a transaction and gives back what made it large.
 */
static void
forget(void)
{
	if (buffer.size > INITIAL_SIZE)
	{
		pfree(buffer.data);
		buffer.data = NULL;
		buffer.size = 0;
	}
	if (buffer.max_shapes > INITIAL_MARKS)
	{
		pfree(buffer.shapes);
		buffer.shapes = NULL;
		buffer.max_shapes = 0;
	}
	if (buffer.context != NULL)
	{
		MemoryContextReset(buffer.images);
		MemoryContextReset(buffer.writing);
	}
	cqrs_image_forget();
	buffer.used = 0;
	buffer.nmarks = 0;
	buffer.nsealed = 0;
	buffer.nshapes = 0;
	buffer.shape = 0;
	buffer.command = 0;
	buffer.disordered = false;
	buffer.late = false;
	buffer.wrote = false;
}

/*
 * end_subtransaction follows the server's subtransactions.
 */
static void
end_subtransaction(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		hand_up(GetCurrentTransactionNestLevel());
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		take_back(GetCurrentTransactionNestLevel());
}

/*
 * end_transaction writes the buffer before a commit or prepare and empties it after the transaction's end.
 *
 * What is captured between the two, by another extension's work before commit, is written at once.
 */
static void
end_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (buffer.used > 0)
				write_out();
			if (event == XACT_EVENT_PRE_COMMIT)
				cqrs_segment_turn_over(holds_events());
			else if (holds_events())
				cqrs_segment_check_events();
			buffer.late = true;
			break;
		case XACT_EVENT_COMMIT:
			if (buffer.wrote)
				cqrs_shared_wake_worker();
			/* FALLTHROUGH */
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			forget();
			cqrs_segment_forget(event == XACT_EVENT_PREPARE);
			break;
		default:
			break;
	}
}

/*
 * cqrs_outbox_init registers for the ends of transactions, once a backend.
 *
 * The server calls what was registered last first, so extensions loaded later do their work before commit ahead of us.
 */
void
cqrs_outbox_init(void)
{
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}
