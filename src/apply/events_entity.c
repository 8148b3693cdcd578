/*
 * apply/events_entity.c
 *		What of a version that handlers define concerns the aggregates with one id: how far behind a reader of that id is.
 *
 * Looks through the window as a batch does, and hands nothing to handlers; then through the dead letters, as they are by then.  What a batch parks in
 * between is counted twice, but never missed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/events_parts.h"
#include "base/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* A look for an id. */
typedef struct Look
{
	CqrsAggregates *aggregates;
	MemoryContext memory;		/* of their list */
} Look;

/*
 * aggregate_of finds or makes the aggregate of a type.
 */
static CqrsAggregate *
aggregate_of(Look *look, const text *type)
{
	CqrsAggregate *aggregate;
	MemoryContext caller;
	ListCell   *cell;

	foreach(cell, look->aggregates->list)
		if (cqrs_names_text(((CqrsAggregate *) lfirst(cell))->type, type))
			return lfirst(cell);
	caller = MemoryContextSwitchTo(look->memory);
	aggregate = palloc0(sizeof(CqrsAggregate));
	aggregate->type = text_to_cstring(type);
	look->aggregates->list = lappend(look->aggregates->list, aggregate);
	MemoryContextSwitchTo(caller);
	return aggregate;
}

/*
 * is_id tells whether a column holds the id that is looked for.
 */
static bool
is_id(const Look *look, const Datum *values, const bool *nulls, int column)
{
	return !nulls[column] && cqrs_names_text(look->aggregates->id, DatumGetTextPP(values[column]));
}

/*
 * count_event counts an event or a change that is not applied.
 */
static void
count_event(Look *look, const Datum *values, const bool *nulls)
{
	CqrsEntity *entity = look->aggregates->entity;
	TimestampTz captured_at = DatumGetTimestampTz(values[EVENT_CAPTURED_AT]);

	entity->changes++;
	if (entity->oldest == 0 || captured_at < entity->oldest)
		entity->oldest = captured_at;
	if (!nulls[EVENT_TYPE])
	{
		CqrsAggregate *aggregate = aggregate_of(look, DatumGetTextPP(values[EVENT_AGGREGATE_TYPE]));
		int64		version = DatumGetInt64(values[EVENT_AGGREGATE_VERSION]);

		aggregate->first = aggregate->first ? Min(aggregate->first, version) : version;
	}
}

/*
 * look_at_found is the sink for events of the window.  A change without an id concerns all rows.
 */
static void
look_at_found(void *argument, TupleTableSlot *found)
{
	const Datum *values = found->tts_values;
	const bool *nulls = found->tts_isnull;

	slot_getallattrs(found);
	if (nulls[EVENT_AGGREGATE_ID] || is_id(argument, values, nulls, EVENT_AGGREGATE_ID) ||
		is_id(argument, values, nulls, FOUND_OLD_ID))
		count_event(argument, values, nulls);
}

/*
 * look_at_letters looks through the dead letters.
 */
static void
look_at_letters(Look *look, const CqrsVersion *version)
{
	TupleDesc	row = cqrs_handlers_row();
	ListCell   *cell;

	foreach(cell, cqrs_dead_letter_list(version->id, true))
	{
		HeapTupleHeader event = DatumGetHeapTupleHeader(((CqrsDeadLetter *) lfirst(cell))->event);
		HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(event),.t_data = event};
		Datum		values[FOUND_COLUMNS];
		bool		nulls[FOUND_COLUMNS];

		heap_deform_tuple(&tuple, row, values + EVENT_FIRST, nulls + EVENT_FIRST);
		if (nulls[EVENT_AGGREGATE_ID] || is_id(look, values, nulls, EVENT_AGGREGATE_ID))
			count_event(look, values, nulls);
	}
}

/*
 * cqrs_events_look_for looks for what concerns the aggregates with an id.
 */
bool
cqrs_events_look_for(const CqrsVersion *version, const CqrsCheckpoint *checkpoint, Snapshot snapshot,
					 CqrsAggregates *aggregates)
{
	Look		look = {.aggregates = aggregates,.memory = CurrentMemoryContext};
	CqrsEventScope scope = {.version = version,.checkpoint = checkpoint,.snapshot = snapshot};
	CqrsEventWindow window;
	CqrsIdentity saved;
	ListCell   *cell;

	scope.limit = aggregates->entity->limit;
	aggregates->entity->changes = 0;
	aggregates->entity->oldest = 0;
	foreach(cell, cqrs_event_definition_get(version->id)->aggregate_types)
		(void) aggregate_of(&look, cstring_to_text(lfirst(cell)));
	(void) cqrs_apply_become_owner(version, &saved);
	PushActiveSnapshot(snapshot);
	cqrs_events_read(&scope, &window, look_at_found, &look);
	PopActiveSnapshot();
	cqrs_identity_leave(&saved);
	look_at_letters(&look, version);
	aggregates->cut = window.cut;
	return window.doubt == NULL;
}
