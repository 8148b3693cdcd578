/*
 * apply/delta.c
 *		From chunks of the outbox to one delta a source: typed rows with a weight.
 *
 * Reads the window between a version's checkpoint and the batch's snapshot.  An update gives an old image of weight -1 and a new one of +1; one
 * that changes no column the definition reads gives none.  Leaves what to do with deltas to strategy.c.  Memory is CurrentMemoryContext's.
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
	int32		shape;			/* the last one checked, 0 for none */
	bool		fits;			/* does it hold every column, with today's type? */
	Datum	   *values;			/* of an image, by attribute */
	bool	   *nulls;
	int			natts;
	Datum	   *rows[2];		/* old and new, of the delta */
	bool	   *row_nulls[2];
} Reader;

/*
 * init_reader prepares to read one source's images.
 */
static void
init_reader(Reader *reader, const CqrsProgramSource *source)
{
	memset(reader, 0, sizeof(Reader));
	reader->source = source;
	for (int side = 0; side < 2; side++)
	{
		reader->rows[side] = palloc0(sizeof(Datum) * source->delta->natts);
		reader->row_nulls[side] = palloc0(sizeof(bool) * source->delta->natts);
	}
}

/*
 * check_shape finds out whether images of a shape hold all that the delta needs; they do not if a column was added, or got another type, since.
 */
static void
check_shape(Reader *reader, int32 shape, TupleDesc desc)
{
	const CqrsProgramSource *source = reader->source;

	reader->shape = shape;
	reader->fits = true;
	for (int i = 0; i < source->delta->natts - 1; i++)
	{
		AttrNumber	attnum = source->delta_attnum[i];

		if (attnum > desc->natts ||
			TupleDescAttr(desc, attnum - 1)->atttypid != TupleDescAttr(source->delta, i)->atttypid)
			reader->fits = false;
	}
	if (desc->natts > reader->natts)
	{
		reader->natts = desc->natts;
		reader->values = palloc(sizeof(Datum) * desc->natts);
		reader->nulls = palloc(sizeof(bool) * desc->natts);
	}
}

/*
 * read_image takes the delta's columns out of one image.
 */
static void
read_image(Reader *reader, HeapTuple image, TupleDesc desc, int side)
{
	const CqrsProgramSource *source = reader->source;
	int			weight = source->delta->natts - 1;

	heap_deform_tuple(image, desc, reader->values, reader->nulls);
	for (int i = 0; i < weight; i++)
	{
		reader->rows[side][i] = reader->values[source->delta_attnum[i] - 1];
		reader->row_nulls[side][i] = reader->nulls[source->delta_attnum[i] - 1];
	}
	reader->rows[side][weight] = Int64GetDatum(side == 0 ? -1 : 1);
}

/*
 * same_rows tells whether old and new image agree in all columns of the delta.
 *
 * It compares bytes: to take equal values for different costs a little work, nothing else.
 */
static bool
same_rows(Reader *reader)
{
	TupleDesc	delta = reader->source->delta;

	for (int i = 0; i < delta->natts - 1; i++)
	{
		Form_pg_attribute att = TupleDescAttr(delta, i);

		if (reader->row_nulls[0][i] != reader->row_nulls[1][i])
			return false;
		if (!reader->row_nulls[0][i] &&
			!datumIsEqual(reader->rows[0][i], reader->rows[1][i], att->attbyval, att->attlen))
			return false;
	}
	return true;
}

/*
 * add_change puts one change into its source's delta; false if its images do not fit.
 */
static bool
add_change(Reader *reader, CqrsDelta *delta, const CqrsChange *change)
{
	TupleDesc	desc = cqrs_outbox_shape_desc(change->shape, NULL);

	if (reader->shape != change->shape)
		check_shape(reader, change->shape, desc);
	if (!reader->fits)
		return false;

	if (change->old_tuple)
		read_image(reader, change->old_tuple, desc, 0);
	if (change->new_tuple)
		read_image(reader, change->new_tuple, desc, 1);
	if (change->old_tuple && change->new_tuple && same_rows(reader))
		return true;
	for (int side = 0; side < 2; side++)
	{
		if ((side == 0 ? change->old_tuple : change->new_tuple) == NULL)
			continue;
		tuplestore_putvalues(delta->rows, reader->source->delta, reader->rows[side], reader->row_nulls[side]);
		delta->nrows++;
		delta->has_old |= side == 0;
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

/*
 * read_chunk takes the changes of the version's sources out of a chunk; with 'decode' into their deltas.
 */
static void
read_chunk(const CqrsChunk *chunk, CqrsWindow *window, Reader *readers, bool decode)
{
	CqrsChangeReader *changes = cqrs_outbox_read_begin(chunk);
	CqrsChange	change;

	while (cqrs_outbox_read_next(changes, &change))
	{
		int			index = index_of_source(window, change.source);

		if (index < 0)
			continue;
		window->changes++;
		window->position = Max(window->position, change.position);
		if (change.kind == CQRS_CHANGE_TRUNCATE)
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
		CqrsSource *source = cqrs_source_of_relation(program->sources[i].relation);

		if (source == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("relation with OID %u is read by a projection but not captured", program->sources[i].relation),
					 errdetail("A view that the definition reads was replaced by one that reads other tables."),
					 errhint("Drop the projection and create it again.")));
		window->deltas[i].source = source->id;
		window->deltas[i].rows = tuplestore_begin_heap(false, false, work_mem);
	}
	return window;
}

/*
 * cqrs_delta_read reads a version's window into one delta a source.
 */
CqrsWindow *
cqrs_delta_read(const CqrsProgram *program, int32 version, Snapshot snapshot, const CqrsSnapshot *checkpoint, bool decode)
{
	CqrsWindow *window = make_window(program);
	Reader	   *readers = palloc(sizeof(Reader) * (program->nsources + 1));
	int32	   *sources = palloc(sizeof(int32) * (program->nsources + 1));
	CqrsOutboxScan *scan;
	CqrsChunk  *chunk;

	for (int i = 0; i < program->nsources; i++)
	{
		init_reader(&readers[i], &program->sources[i]);
		sources[i] = window->deltas[i].source;
	}
	scan = cqrs_outbox_scan_begin(snapshot, checkpoint, InvalidFullTransactionId);
	while ((chunk = cqrs_outbox_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (cqrs_outbox_chunk_has(chunk, sources, program->nsources))
			read_chunk(chunk, window, readers, decode);
		else
			window->passed_over++;
	}
	cqrs_outbox_scan_end(scan);
	return window;
}
