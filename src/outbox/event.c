/*
 * outbox/event.c
 *		Domain events as records: an event is the row of a table that does not exist.
 *
 * Its layout is the shape with the number 0, of the source 0, known to every backend and never stored.  So events go through buffer, chunks and reader as
 * inserted rows do, in one order with them, and are checked like them.  Leaves versions and metadata to command/.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "outbox/parts.h"
#include "utils/memutils.h"

enum
{
	EVENT_TYPE, EVENT_AGGREGATE_TYPE, EVENT_AGGREGATE_ID, EVENT_VERSION, EVENT_PAYLOAD, EVENT_METADATA, EVENT_COLUMNS
};

/*
 * cqrs_event_shape returns the shape of events, made at first need for the backend's life.
 */
const CqrsShape *
cqrs_event_shape(void)
{
	static const struct
	{
		const char *name;
		Oid			type;
	}			columns[EVENT_COLUMNS] = {
		[EVENT_TYPE] = {"event_type", TEXTOID},
		[EVENT_AGGREGATE_TYPE] = {"aggregate_type", TEXTOID},
		[EVENT_AGGREGATE_ID] = {"aggregate_id", TEXTOID},
		[EVENT_VERSION] = {"aggregate_version", INT8OID},
		[EVENT_PAYLOAD] = {"payload", JSONBOID},
		[EVENT_METADATA] = {"metadata", JSONBOID},
	};
	static AttrNumber numbers[EVENT_COLUMNS];
	static CqrsShape shape = {.id = CQRS_EVENT_SHAPE,.source = CQRS_EVENT_SOURCE,.columns = numbers};
	MemoryContext caller;
	TupleDesc	desc;

	if (shape.desc != NULL)
		return &shape;
	caller = MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "cqrs event", ALLOCSET_SMALL_SIZES));
	desc = CreateTemplateTupleDesc(EVENT_COLUMNS);
	for (int i = 0; i < EVENT_COLUMNS; i++)
	{
		TupleDescInitEntry(desc, i + 1, columns[i].name, columns[i].type, -1, 0);
		numbers[i] = i + 1;
	}
	MemoryContextSwitchTo(caller);
	shape.desc = desc;
	return &shape;
}

/*
 * cqrs_outbox_append_event puts an event into this transaction's buffer, behind all that it has captured so far.
 *
 * Errors: 54000 for one too large for a chunk.
 */
void
cqrs_outbox_append_event(const CqrsEvent *event)
{
	Datum		values[EVENT_COLUMNS];
	bool		nulls[EVENT_COLUMNS] = {false};
	CqrsRecord	record = {.kind = CQRS_CHANGE_EVENT,.shape = CQRS_EVENT_SHAPE};
	HeapTuple	tuple;

	values[EVENT_TYPE] = PointerGetDatum(event->type);
	values[EVENT_AGGREGATE_TYPE] = PointerGetDatum(event->aggregate_type);
	values[EVENT_AGGREGATE_ID] = PointerGetDatum(event->aggregate_id);
	values[EVENT_VERSION] = Int64GetDatum(event->version);
	values[EVENT_PAYLOAD] = PointerGetDatum(event->payload);
	values[EVENT_METADATA] = PointerGetDatum(event->metadata);
	tuple = heap_form_tuple(cqrs_event_shape()->desc, values, nulls);
	record.has_new = true;
	record.new_image.natts = EVENT_COLUMNS;
	record.new_image.flags = CQRS_IMAGE_VARWIDTH;
	record.new_image.data = (const char *) tuple->t_data + tuple->t_data->t_hoff;
	record.new_image.length = tuple->t_len - tuple->t_data->t_hoff;
	cqrs_buffer_put(&record, CQRS_EVENT_SOURCE);
	heap_freetuple(tuple);
}

/*
 * read_object takes a payload or metadata, aligned as its readers want it; NULL if it is no object.
 *
 * What is inside was checked by the body's check sum.
 */
static Jsonb *
read_object(Datum value)
{
	Jsonb	   *object = DatumGetJsonbP(value);

	return VARSIZE(object) >= VARHDRSZ + sizeof(uint32) && JB_ROOT_IS_OBJECT(object) ? object : NULL;
}

/*
 * cqrs_outbox_event takes an event out of a change of that kind.  What it gives may point into the change, or be made in CurrentMemoryContext.
 *
 * Errors: XX001 if it is none that cqrs_outbox_append_event wrote.
 */
void
cqrs_outbox_event(const CqrsChange *change, CqrsEvent *event)
{
	Datum		values[EVENT_COLUMNS];
	bool		nulls[EVENT_COLUMNS];
	bool		whole = true;

	Assert(change->kind == CQRS_CHANGE_EVENT);
	heap_deform_tuple(change->new_tuple, cqrs_event_shape()->desc, values, nulls);
	for (int i = 0; i < EVENT_COLUMNS; i++)
		whole &= !nulls[i];
	if (whole)
	{
		event->type = DatumGetTextPP(values[EVENT_TYPE]);
		event->aggregate_type = DatumGetTextPP(values[EVENT_AGGREGATE_TYPE]);
		event->aggregate_id = DatumGetTextPP(values[EVENT_AGGREGATE_ID]);
		event->version = DatumGetInt64(values[EVENT_VERSION]);
		event->payload = read_object(values[EVENT_PAYLOAD]);
		event->metadata = read_object(values[EVENT_METADATA]);
	}
	if (!whole || event->payload == NULL || event->metadata == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("outbox chunk %lld is damaged", (long long) (change->position >> CQRS_POSITION_BITS)),
				 errdetail("The event at position %lld is not whole.", (long long) change->position)));
}
