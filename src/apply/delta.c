/*
 * apply/delta.c
 *		From chunks of the outbox to one delta a source: typed rows with a weight.
 *
 * Reads the window between a version's checkpoint and the batch's snapshot.  An update gives an old image of weight -1 and a new one of +1, or if
 * they are the same one of weight 0; one that changes no column the definition reads gives none.  Rows hold the columns by which affected keys are
 * found, no others.  Leaves what to do with deltas to strategy.c.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/parts.h"
#include "miscadmin.h"
#include "outbox/outbox.h"
#include "utils/datum.h"
#include "utils/memutils.h"

/* How to turn images of one source into rows of its delta. */
typedef struct Reader
{
	const CqrsProgramSource *source;
	const CqrsShape *shape;		/* the last one checked, NULL for none */
	bool		fits;			/* does it tell of every column what the version needs, with today's type? */
	int		   *imaged;			/* by column of the delta: which column of the images */
	int			nwatched;
	int		   *watched;		/* columns of the images whose change counts */
	int			nnoted;
	int		   *noted;			/* noted columns whose change counts */
	int			space;			/* columns that there is room for: */
	Datum	   *values[2];		/* of the old and new image */
	bool	   *nulls[2];
	Datum	   *row;			/* of the delta */
	bool	   *row_nulls;
} Reader;

/*
 * init_reader prepares to read one source's images.
 */
static void
init_reader(Reader *reader, const CqrsProgramSource *source)
{
	int			nwatched = bms_num_members(source->watched);

	memset(reader, 0, sizeof(Reader));
	reader->source = source;
	reader->imaged = palloc(sizeof(int) * source->delta->natts);
	reader->watched = palloc(sizeof(int) * (nwatched + 1));
	reader->noted = palloc(sizeof(int) * (nwatched + 1));
	reader->row = palloc(sizeof(Datum) * source->delta->natts);
	reader->row_nulls = palloc0(sizeof(bool) * source->delta->natts);
}

/*
 * find_column returns the index of a column in a list of attribute numbers, or -1.
 */
static int
find_column(const AttrNumber *columns, int count, AttrNumber column)
{
	for (int i = 0; i < count; i++)
		if (columns[i] == column)
			return i;
	return -1;
}

/*
 * find_imaged finds the delta's columns in images; false if one is not in them, or had another type.
 */
static bool
find_imaged(Reader *reader, const CqrsShape *shape)
{
	const CqrsProgramSource *source = reader->source;

	for (int i = 0; i < source->delta->natts - 1; i++)
	{
		int			column = find_column(shape->columns, shape->desc->natts, source->delta_attnum[i]);

		if (column < 0 || TupleDescAttr(shape->desc, column)->atttypid != TupleDescAttr(source->delta, i)->atttypid)
			return false;
		reader->imaged[i] = column;
	}
	return true;
}

/*
 * find_watched finds out by what changes of the columns that the definition reads can be told; false if one was not watched.
 */
static bool
find_watched(Reader *reader, const CqrsShape *shape)
{
	int			attnum = -1;

	reader->nwatched = reader->nnoted = 0;
	while ((attnum = bms_next_member(reader->source->watched, attnum)) >= 0)
	{
		int			imaged = find_column(shape->columns, shape->desc->natts, attnum);
		int			noted = find_column(shape->noted, shape->nnoted, attnum);

		if (imaged >= 0)
			reader->watched[reader->nwatched++] = imaged;
		else if (noted >= 0)
			reader->noted[reader->nnoted++] = noted;
		else
			return false;
	}
	return true;
}

/*
 * check_shape finds out whether changes recorded in a shape tell all that the version needs; they do not if a column was added, or got another type, since.
 */
static void
check_shape(Reader *reader, const CqrsShape *shape)
{
	for (int side = 0; side < 2 && shape->desc->natts > reader->space; side++)
	{
		reader->values[side] = palloc(sizeof(Datum) * shape->desc->natts);
		reader->nulls[side] = palloc(sizeof(bool) * shape->desc->natts);
	}
	reader->space = Max(reader->space, shape->desc->natts);
	reader->shape = shape;
	reader->fits = find_imaged(reader, shape) && find_watched(reader, shape);
}

/*
 * same_columns tells whether old and new image agree in some of their columns.
 *
 * It compares bytes: to take equal values for different costs a little work, nothing else.
 */
static bool
same_columns(const Reader *reader, const int *columns, int count)
{
	for (int i = 0; i < count; i++)
	{
		int			column = columns[i];
		Form_pg_attribute att = TupleDescAttr(reader->shape->desc, column);

		if (reader->nulls[0][column] != reader->nulls[1][column])
			return false;
		if (!reader->nulls[0][column] &&
			!datumIsEqual(reader->values[0][column], reader->values[1][column], att->attbyval, att->attlen))
			return false;
	}
	return true;
}

/*
 * concerns tells whether an update changes any column that the definition reads.
 */
static bool
concerns(const Reader *reader, const CqrsChange *change)
{
	for (int i = 0; i < reader->nnoted; i++)
		if (cqrs_outbox_noted(change->noted, reader->noted[i]))
			return true;
	return !same_columns(reader, reader->watched, reader->nwatched);
}

/*
 * put_row puts the old (side 0) or new image into the delta.
 */
static void
put_row(Reader *reader, CqrsDelta *delta, int side, int64 weight)
{
	TupleDesc	desc = reader->source->delta;
	int			ncolumns = desc->natts - 1;

	for (int i = 0; i < ncolumns; i++)
	{
		reader->row[i] = reader->values[side][reader->imaged[i]];
		reader->row_nulls[i] = reader->nulls[side][reader->imaged[i]];
	}
	reader->row[ncolumns] = Int64GetDatum(weight);
	tuplestore_putvalues(delta->rows, desc, reader->row, reader->row_nulls);
	delta->nrows++;
}

/*
 * add_update puts an update into its source's delta.
 *
 * One that changes nothing of what statements look for in images neither comes nor goes for them: a single row says where it was.  Its old image would lead
 * nowhere that this one, or the old one of a later change, does not.
 */
static void
add_update(Reader *reader, CqrsDelta *delta, const CqrsChange *change)
{
	if (!concerns(reader, change))
		return;
	if (same_columns(reader, reader->imaged, reader->source->delta->natts - 1))
	{
		put_row(reader, delta, 1, 0);
		return;
	}
	put_row(reader, delta, 0, -1);
	put_row(reader, delta, 1, 1);
	delta->has_old = true;
}

/*
 * add_change puts one change into its source's delta; false if it does not tell all that the version needs.
 */
static bool
add_change(Reader *reader, CqrsDelta *delta, const CqrsChange *change)
{
	const CqrsShape *shape = cqrs_outbox_shape(change->shape);

	if (reader->shape != shape)
		check_shape(reader, shape);
	if (!reader->fits)
		return false;

	if (change->old_tuple)
		heap_deform_tuple(change->old_tuple, shape->desc, reader->values[0], reader->nulls[0]);
	if (change->new_tuple)
		heap_deform_tuple(change->new_tuple, shape->desc, reader->values[1], reader->nulls[1]);
	if (change->kind == CQRS_CHANGE_UPDATE)
		add_update(reader, delta, change);
	else if (change->kind == CQRS_CHANGE_INSERT)
		put_row(reader, delta, 1, 1);
	else if (change->kind == CQRS_CHANGE_DELETE)
	{
		put_row(reader, delta, 0, -1);
		delta->has_old = true;
	}
	return true;
}

/*
 * index_of_source finds a source's index in the program, or -1.
 */
static int
index_of_source(const CqrsWindow *window, int32 source)
{
	for (int i = 0; i < window->nsources; i++)
		if (window->deltas[i].source == source)
			return i;
	return -1;
}

#define ALL_CHANGES (-1)

/* From so many changes on it is worth asking the planner whether so many are worth applying. */
#define LARGE_WINDOW 10000

/*
 * pass_over counts the changes of a chunk without reading them, if all of them are of the version's sources and only a full evaluation is right anyway.
 *
 * For large windows: the rest of one would take longer to read than the query to evaluate.  Whether what a source holds was altered is not looked up either.
 */
static bool
pass_over(const CqrsChunk *chunk, CqrsWindow *window)
{
	if (!window->needs_full || window->changes <= LARGE_WINDOW || chunk->nsources == CQRS_SOURCES_DAMAGED)
		return false;
	for (int i = 0; i < chunk->nsources; i++)
		if (index_of_source(window, chunk->sources[i]) < 0)
			return false;
	window->changes += chunk->changes;
	window->position = Max(window->position, (chunk->number << CQRS_POSITION_BITS) + chunk->changes - 1);
	window->altered = true;
	return true;
}

/*
 * read_chunk takes the changes of the version's sources out of a chunk, or the one of them with a number; with 'decode' into their deltas.
 */
static void
read_chunk(const CqrsChunk *chunk, CqrsWindow *window, Reader *readers, bool decode, int only)
{
	CqrsChangeReader *changes = cqrs_outbox_read_begin(chunk);
	CqrsChange	change;
	int			number = 0;

	if (!decode || window->needs_full)
		cqrs_outbox_read_no_images(changes);
	while (cqrs_outbox_read_next(changes, &change))
	{
		int			index = index_of_source(window, change.source);

		if (index < 0 || (only != ALL_CHANGES && number++ != only))
			continue;
		window->changes++;
		window->position = Max(window->position, change.position);
		if (change.kind == CQRS_CHANGE_ALTER)
			window->altered = true;
		if (change.kind == CQRS_CHANGE_ALTER || change.kind == CQRS_CHANGE_TRUNCATE || change.kind == CQRS_CHANGE_ERASED)
			window->needs_full = true;
		else if (decode && !window->needs_full && !add_change(&readers[index], &window->deltas[index], &change))
			window->needs_full = true;
	}
	cqrs_outbox_read_end(changes);
}

/*
 * make_window lays out an empty window for a program's sources.
 */
static CqrsWindow *
make_window(const CqrsProgram *program)
{
	CqrsWindow *window = palloc0(sizeof(CqrsWindow));

	window->nsources = program->nsources;
	window->deltas = palloc0(sizeof(CqrsDelta) * (program->nsources + 1));
	for (int i = 0; i < program->nsources; i++)
	{
		bool		captured = program->sources[i].projection == 0;
		CqrsSource *source = captured ? cqrs_source_of_relation(program->sources[i].relation) : NULL;

		if (captured && source == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("relation with OID %u is read by a projection but not captured", program->sources[i].relation),
					 errdetail("A view that the definition reads was replaced by one that reads other tables."),
					 errhint("Drop the projection and create it again.")));
		window->deltas[i].source = captured ? source->id : 0;
		window->deltas[i].rows = tuplestore_begin_heap(false, false, work_mem);
	}
	return window;
}

/*
 * count returns about how many changes of some sources a window has: of a chunk that is about others, too, an equal share.
 */
static double
count(Snapshot snapshot, const CqrsSnapshot *checkpoint, const int32 *sources, int nsources)
{
	CqrsOutboxScan *scan = cqrs_outbox_scan_begin(snapshot, checkpoint, InvalidFullTransactionId);
	CqrsChunk  *chunk;
	double		changes = 0;

	while ((chunk = cqrs_outbox_scan_next(scan)) != NULL)
	{
		int			ours = 0;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < chunk->nsources; i++)
			for (int j = 0; j < nsources; j++)
				ours += chunk->sources[i] == sources[j];
		changes += (double) chunk->changes * ours / Max(chunk->nsources, 1);
	}
	cqrs_outbox_scan_end(scan);
	return changes;
}

/*
 * cqrs_delta_read reads a version's window into one delta a source.
 *
 * Of one that has more changes than can be cheaper to apply than a full evaluation the rest is only counted.
 */
CqrsWindow *
cqrs_delta_read(CqrsProgramEntry *entry, Snapshot snapshot, const CqrsSnapshot *checkpoint, bool decode)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	bool		counted = !decode;
	CqrsWindow *window = make_window(program);
	Reader	   *readers = palloc(sizeof(Reader) * (program->nsources + 1));
	int32	   *sources = palloc(sizeof(int32) * (program->nsources + 1));
	int			nsources = 0;
	CqrsOutboxScan *scan;
	CqrsChunk  *chunk;

	for (int i = 0; i < program->nsources; i++)
	{
		init_reader(&readers[i], &program->sources[i]);
		if (window->deltas[i].source != 0)
			sources[nsources++] = window->deltas[i].source;
	}
	scan = cqrs_outbox_scan_begin(snapshot, checkpoint, InvalidFullTransactionId);
	while ((chunk = cqrs_outbox_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (cqrs_outbox_chunk_has(chunk, sources, nsources))
		{
			if (!decode || !pass_over(chunk, window))
				read_chunk(chunk, window, readers, decode, ALL_CHANGES);
			if (window->changes > LARGE_WINDOW && !counted)
				window->needs_full |= count(snapshot, checkpoint, sources, nsources) > cqrs_strategy_limit(entry);
			counted = counted || window->changes > LARGE_WINDOW;
		}
		else
		{
			window->passed_over++;
			window->lets_go |= chunk->closed;
		}
	}
	cqrs_outbox_scan_end(scan);
	return window;
}

/*
 * cqrs_delta_chunk reads what a chunk holds of the version's sources, or of that the one change number 'only', as a window of its own.
 */
CqrsWindow *
cqrs_delta_chunk(const CqrsProgram *program, const CqrsChunk *chunk, int only)
{
	CqrsWindow *window = make_window(program);
	Reader	   *readers = palloc(sizeof(Reader) * (program->nsources + 1));

	for (int i = 0; i < program->nsources; i++)
		init_reader(&readers[i], &program->sources[i]);
	read_chunk(chunk, window, readers, true, only);
	return window;
}

/*
 * feed_shape describes the rows of a feed as if they were images: every column, under its number.
 */
static CqrsShape *
feed_shape(const CqrsFeed *feed)
{
	CqrsShape  *shape = palloc0(sizeof(CqrsShape));

	shape->desc = feed->desc;
	shape->columns = palloc(sizeof(AttrNumber) * feed->desc->natts);
	for (int i = 0; i < feed->desc->natts; i++)
		shape->columns[i] = i + 1;
	return shape;
}

/*
 * take_side deforms a feed's row as the old (side 0) or new image; what it points to is the slot's.
 */
static void
take_side(Reader *reader, int side, TupleTableSlot *slot)
{
	slot_getallattrs(slot);
	memcpy(reader->values[side], slot->tts_values, sizeof(Datum) * slot->tts_tupleDescriptor->natts);
	memcpy(reader->nulls[side], slot->tts_isnull, sizeof(bool) * slot->tts_tupleDescriptor->natts);
}

/*
 * add_fed puts one row of a feed into the delta; the old image of an update waits, in its slot, for the new one.
 */
static void
add_fed(Reader *reader, CqrsDelta *delta, TupleTableSlot *slot, CqrsFeedKind kind)
{
	static const CqrsChange update = {.kind = CQRS_CHANGE_UPDATE};

	take_side(reader, kind == CQRS_FEED_INSERTED || kind == CQRS_FEED_AFTER, slot);
	if (kind == CQRS_FEED_INSERTED)
		put_row(reader, delta, 1, 1);
	else if (kind == CQRS_FEED_AFTER)
		add_update(reader, delta, &update);
	else if (kind == CQRS_FEED_DELETED)
	{
		put_row(reader, delta, 0, -1);
		delta->has_old = true;
	}
}

/*
 * cqrs_delta_feed reads a feed into the delta of one source; a feed that does not tell all makes the window ask for a full evaluation.
 */
void
cqrs_delta_feed(const CqrsProgram *program, CqrsWindow *window, int index, CqrsFeed *feed)
{
	CqrsDelta  *delta = &window->deltas[index];
	TupleTableSlot *slots[2];	/* so that both images of an update are there at once */
	Reader		reader;
	bool		isnull;
	int			side = 0;

	window->needs_full = window->needs_full || feed->broken;
	if (feed->count == 0 || window->needs_full)
		return;
	init_reader(&reader, &program->sources[index]);
	check_shape(&reader, feed_shape(feed));
	if (!reader.fits)
		elog(ERROR, "what was fed of relation %u lacks columns that are read", feed->table);
	slots[0] = MakeSingleTupleTableSlot(feed->desc, &TTSOpsMinimalTuple);
	slots[1] = MakeSingleTupleTableSlot(feed->desc, &TTSOpsMinimalTuple);
	tuplestore_rescan(feed->rows);
	while (tuplestore_gettupleslot(feed->rows, true, true, slots[side]))
	{
		CqrsFeedKind kind = DatumGetInt32(slot_getattr(slots[side], feed->desc->natts, &isnull));

		add_fed(&reader, delta, slots[side], kind);
		side = kind == CQRS_FEED_BEFORE ? 1 : 0;
	}
	window->fed += delta->nrows;
	ExecDropSingleTupleTableSlot(slots[0]);
	ExecDropSingleTupleTableSlot(slots[1]);
}

/*
 * cqrs_delta_free frees a window's deltas.
 */
void
cqrs_delta_free(CqrsWindow *window)
{
	for (int i = 0; i < window->nsources; i++)
		tuplestore_end(window->deltas[i].rows);
	window->deltas = NULL;
}
