/*
 * apply/events_run.c
 *		Handlers at work: each event, or run of events of one type, reaches SQL as a relation, and is taken by a prepared statement.
 *
 * Statements are kept for the backend's life: handlers of a version never change, and what they name is looked up again by the server when it has changed.
 * Each runs in a settings level of its own, so that nothing it sets outlives it.  Writes to a version's table are let through to this version's only.
 *
 * Runs inside a nesting of SPI, under the owner's identity and the version's settings, with an active snapshot.  Leaves order, failure and what waits to the
 * files beside it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/events_parts.h"
#include "base/attempt.h"
#include "base/blame.h"
#include "base/clock.h"
#include "base/names.h"
#include "base/position.h"
#include "event/event.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

/* Each scan of a tuplestore leaves a read pointer behind that its other users have to look at. */
#define STORE_USES	32

#define MAGNITUDES	20			/* of numbers of events in a run */

/* A handler, with the statements it is. */
typedef struct Handler
{
	CqrsHandler *handler;
	bool		prepared;
	bool		runs;			/* it takes runs of events */
	bool		uses[EVENT_COLUMNS];	/* which columns it looks at: others are not handed on */
	CqrsStatement *one;			/* of the magnitude 0, too */
	CqrsStatement *many[MAGNITUDES];	/* by order of magnitude of the run */
} Handler;

/* A version's handlers, for the backend's life. */
typedef struct Handlers
{
	int32		version;		/* hash key */
	bool		valid;
	Oid			registry;		/* the table that they were read from: ids of versions begin again in another */
	MemoryContext context;		/* of all below; NULL while there is nothing */
	int			count;
	Handler    *handlers;
} Handlers;

typedef struct CqrsRunner
{
	Handlers   *handlers;
	TupleDesc	row;			/* of cqrs.event */
	const char **taken;			/* for messages: what each handler takes */
	CqrsEventDefinition *definition;
	bool		new_types;		/* it has types of aggregates that its row has not */
	const char *type;			/* of the last event's aggregate, one of them */
	CqrsOffer  *event;
	CqrsOffer  *events;
	Tuplestorestate *one;		/* holds one event at a time */
	int			uses;			/* of that */
	Tuplestorestate *run;		/* the run being gathered, or NULL */
	int			handler;		/* that it is for */
	int64		nrun;
	int64		first;			/* position of its first event, and of the last event taken */
	int64		last;
	MemoryContext memory;		/* of one event */
	MemoryContext stores;		/* of both stores */
} CqrsRunner;

static HTAB *known = NULL;

/*
 * discard frees what is kept of a version's handlers.
 */
static void
discard(Handlers *handlers)
{
	for (int i = 0; handlers->context != NULL && i < handlers->count; i++)
	{
		Handler    *handler = &handlers->handlers[i];

		if (handler->one != NULL)
			cqrs_spi_free(handler->one);
		for (int m = 0; m < MAGNITUDES; m++)
			if (handler->many[m] != NULL)
				cqrs_spi_free(handler->many[m]);
	}
	if (handlers->context != NULL)
		MemoryContextDelete(handlers->context);
	handlers->context = NULL;
	handlers->count = 0;
}

/*
 * still_valid tells whether handlers can be used as they were read and prepared.
 *
 * The server would prepare a statement anew when it is run; but what is wrong with it by then is to be found before there is an event to blame.
 */
static bool
still_valid(const Handlers *handlers)
{
	if (!handlers->valid || handlers->registry != cqrs_registry_relation(CQRS_CAT_HANDLER))
		return false;
	for (int i = 0; i < handlers->count; i++)
		if (handlers->handlers[i].one != NULL && !cqrs_spi_is_valid(handlers->handlers[i].one))
			return false;
	return true;
}

/*
 * handlers_of returns a version's handlers, read at first need, after cqrs_events_distrust, and when what they name has changed.
 */
static Handlers *
handlers_of(int32 version)
{
	Handlers   *handlers;
	MemoryContext caller;
	bool		found;
	List	   *rows;
	ListCell   *cell;

	if (known == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(int32),.entrysize = sizeof(Handlers),.hcxt = CacheMemoryContext};

		known = hash_create("cqrs handlers", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	handlers = hash_search(known, &version, HASH_ENTER, &found);
	if (found && still_valid(handlers))
		return handlers;
	if (!found)
		handlers->context = NULL;
	handlers->valid = false;
	discard(handlers);
	handlers->context = AllocSetContextCreate(CacheMemoryContext, "cqrs handlers", ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(handlers->context);
	rows = cqrs_handler_list(version);
	handlers->handlers = palloc0(sizeof(Handler) * Max(list_length(rows), 1));
	foreach(cell, rows)
		handlers->handlers[handlers->count++].handler = lfirst(cell);
	MemoryContextSwitchTo(caller);
	handlers->registry = cqrs_registry_relation(CQRS_CAT_HANDLER);
	handlers->valid = true;
	return handlers;
}

/*
 * cqrs_events_distrust has a version's handlers read and prepared anew: after an error, in case a statement is what has gone wrong.
 */
void
cqrs_events_distrust(int32 version)
{
	Handlers   *handlers = known ? hash_search(known, &version, HASH_FIND, NULL) : NULL;

	if (handlers != NULL)
		handlers->valid = false;
}

/*
 * prepare prepares the statement of a handler.
 */
static CqrsStatement *
prepare(const Handlers *handlers, const Handler *handler)
{
	MemoryContext caller = MemoryContextSwitchTo(handlers->context);
	CqrsStatement *statement = cqrs_spi_prepare(cqrs_handlers_text(handler->handler), 0, NULL, true);

	MemoryContextSwitchTo(caller);
	return statement;
}

/*
 * note_columns notes which columns of an event a handler looks at.
 */
static void
note_columns(Handler *handler)
{
	Bitmapset  *columns = cqrs_handlers_columns(handler->one);

	for (int i = 0; i < EVENT_COLUMNS; i++)
		handler->uses[i] = columns == NULL || bms_is_member(i + 1, columns);
	bms_free(columns);
}

/*
 * prepare_all has all handlers ready: what is wrong with one itself is no event's fault.
 */
static void
prepare_all(CqrsRunner *runner)
{
	for (int i = 0; i < runner->handlers->count; i++)
	{
		Handler    *handler = &runner->handlers->handlers[i];

		if (handler->prepared)
			continue;
		if (handler->one == NULL)
			handler->one = prepare(runner->handlers, handler);
		handler->runs = cqrs_handlers_take_runs(handler->one);
		note_columns(handler);
		handler->prepared = true;
	}
}

/*
 * names_of names what each handler takes, for messages: an error is no time to look anything up.
 */
static const char **
names_of(const Handlers *handlers)
{
	const char **names = palloc(sizeof(char *) * Max(handlers->count, 1));

	for (int i = 0; i < handlers->count; i++)
	{
		const CqrsHandler *handler = handlers->handlers[i].handler;

		names[i] = handler->event_type ? handler->event_type : cqrs_name_shown(cqrs_source_get(handler->source)->relation);
	}
	return names;
}

/*
 * read_parked finds out which aggregates wait.
 */
static CqrsParked *
read_parked(int32 version)
{
	CqrsParked *parked = cqrs_parked_make();
	ListCell   *cell;

	foreach(cell, cqrs_dead_letter_list(version, false))
	{
		CqrsDeadLetter *letter = lfirst(cell);

		cqrs_parked_add(parked, letter->aggregates, letter->behind ? letter->behind : letter->id);
	}
	return parked;
}

/*
 * cqrs_events_begin prepares to hand events to handlers.
 */
void
cqrs_events_begin(CqrsEventRun *run)
{
	CqrsRunner *runner = palloc0(sizeof(CqrsRunner));

	run->applied = run->waiting = 0;
	run->runner = runner;
	runner->row = cqrs_handlers_row();
	runner->handlers = handlers_of(run->version->id);
	runner->taken = names_of(runner->handlers);
	runner->definition = cqrs_event_definition_get(run->version->id);
	runner->memory = AllocSetContextCreate(CurrentMemoryContext, "cqrs event", ALLOCSET_DEFAULT_SIZES);
	runner->stores = GenerationContextCreate(CurrentMemoryContext, "cqrs events", ALLOCSET_DEFAULT_SIZES);
	runner->event = cqrs_spi_offer(CQRS_EVENT, runner->row, NULL, 1);
	runner->events = cqrs_spi_offer(CQRS_EVENTS, runner->row, NULL, 1);
	run->parked = read_parked(run->version->id);
	prepare_all(runner);
}

/*
 * cqrs_events_forget lets go of what was gathered: it was undone with the subtransaction that it belonged to, temporary files too.
 */
void
cqrs_events_forget(CqrsEventRun *run)
{
	run->runner->one = run->runner->run = NULL;
	run->runner->nrun = 0;
	MemoryContextReset(run->runner->stores);
}

/*
 * end_stores ends the stores of the events in hand, which belong to the subtransaction in which they were made.
 */
static void
end_stores(CqrsRunner *runner)
{
	if (runner->one != NULL)
		tuplestore_end(runner->one);
	if (runner->run != NULL)
		tuplestore_end(runner->run);
	runner->one = runner->run = NULL;
	runner->nrun = 0;
}

/*
 * cqrs_events_end takes back what cqrs_events_begin offered.
 */
void
cqrs_events_end(CqrsEventRun *run)
{
	cqrs_events_flush(run);
	if (run->runner->new_types)
		cqrs_event_definition_update(run->runner->definition);
	cqrs_spi_withdraw(CQRS_EVENT);
	cqrs_spi_withdraw(CQRS_EVENTS);
	MemoryContextDelete(run->runner->stores);
	MemoryContextDelete(run->runner->memory);
}

/*
 * name_events tells an error which events were being taken, by which handler.
 */
static void
name_events(void *argument)
{
	const CqrsRunner *runner = argument;
	const char *taken = runner->taken[runner->handler];

	if (runner->first == runner->last)
		errcontext("handler of \"%s\", event at position %lld", taken, (long long) runner->last);
	else
		errcontext("handler of \"%s\", events at positions %lld to %lld", taken, (long long) runner->first, (long long) runner->last);
}

/*
 * perform runs a handler's statement, in a settings level of its own.
 */
static void
perform(CqrsEventRun *run, CqrsStatement *statement)
{
	ErrorContextCallback context = {.previous = error_context_stack,.callback = name_events,.arg = run->runner};
	int			level;

	error_context_stack = &context;
	level = NewGUCNestLevel();
	(void) cqrs_apply_write(statement, run->snapshot);
	AtEOXact_GUC(false, level);
	error_context_stack = context.previous;
}

/*
 * magnitude_of returns the order of magnitude of a number of events.
 */
static int
magnitude_of(int64 count)
{
	int			magnitude = 0;

	for (; count >= 10; count /= 10)
		magnitude++;
	return magnitude;
}

/*
 * cqrs_events_flush has the run that was gathered taken, and ends the stores.
 */
void
cqrs_events_flush(CqrsEventRun *run)
{
	CqrsRunner *runner = run->runner;

	if (runner->nrun > 0)
	{
		Handler    *handler = &runner->handlers->handlers[runner->handler];
		CqrsStatement **statement = &handler->many[magnitude_of(runner->nrun)];

		cqrs_spi_refill(runner->events, runner->run, runner->nrun);
		if (*statement == NULL)
			*statement = prepare(runner->handlers, handler);
		perform(run, *statement);
		run->applied += runner->nrun;
	}
	end_stores(runner);
}

/*
 * upcast brings the payload of an event up to date.
 */
static void
upcast(Datum *values, const bool *nulls)
{
	Jsonb	   *payload;
	Jsonb	   *newest;

	if (nulls[EVENT_TYPE] || !cqrs_upcast_any())
		return;
	payload = DatumGetJsonbP(values[EVENT_PAYLOAD]);
	newest = cqrs_upcast(TextDatumGetCString(values[EVENT_TYPE]), payload, DatumGetJsonbP(values[EVENT_METADATA]));
	if (newest != payload)
		values[EVENT_PAYLOAD] = JsonbPGetDatum(newest);
}

/*
 * put_found puts an event found into a store, as handlers see it.
 */
static void
put_found(CqrsRunner *runner, TupleTableSlot *found, Tuplestorestate *store)
{
	const Handler *handler = &runner->handlers->handlers[runner->handler];
	Datum		values[FOUND_COLUMNS];
	bool		nulls[EVENT_COLUMNS];

	slot_getallattrs(found);
	memcpy(values, found->tts_values, sizeof(values));
	if (handler->uses[EVENT_PAYLOAD - EVENT_FIRST])
		upcast(values, found->tts_isnull);
	for (int i = 0; i < EVENT_COLUMNS; i++)
		nulls[i] = !handler->uses[i] || found->tts_isnull[EVENT_FIRST + i];
	tuplestore_putvalues(store, runner->row, values + EVENT_FIRST, nulls);
}

/*
 * new_store makes a store that outlives the event in hand.
 */
static Tuplestorestate *
new_store(CqrsRunner *runner)
{
	MemoryContext caller = MemoryContextSwitchTo(runner->stores);
	Tuplestorestate *store = tuplestore_begin_heap(false, false, Max(work_mem, maintenance_work_mem));

	MemoryContextSwitchTo(caller);
	return store;
}

/*
 * take_one hands an event to its handler at once.
 */
static void
take_one(CqrsEventRun *run, TupleTableSlot *found)
{
	CqrsRunner *runner = run->runner;

	if (runner->uses++ % STORE_USES == 0 && runner->one != NULL)
	{
		tuplestore_end(runner->one);
		runner->one = NULL;
	}
	if (runner->one == NULL)
		runner->one = new_store(runner);
	else
		tuplestore_clear(runner->one);
	put_found(runner, found, runner->one);
	cqrs_spi_refill(runner->event, runner->one, 1);
	perform(run, runner->handlers->handlers[runner->handler].one);
	run->applied++;
}

/*
 * put_behind writes an event down that waits behind a letter.
 */
static void
put_behind(CqrsEventRun *run, TupleTableSlot *found, List *aggregates, int64 behind)
{
	CqrsDeadLetter letter = {.version = run->version->id,.aggregates = aggregates,.behind = behind};

	letter.event = cqrs_events_datum(run, found);
	letter.parked_at = cqrs_clock_now();
	cqrs_dead_letter_insert(&letter);
	cqrs_parked_add(run->parked, aggregates, behind);
	run->waiting++;
}

/*
 * waits tells whether an event waits behind a letter, and writes it down then.
 */
static bool
waits(CqrsEventRun *run, TupleTableSlot *found)
{
	List	   *aggregates;
	int64		behind;

	if (cqrs_parked_empty(run->parked))
		return false;
	aggregates = cqrs_parked_aggregates(found);
	behind = cqrs_parked_behind(run->parked, aggregates);
	if (behind != 0)
		put_behind(run, found, aggregates, behind);
	return behind != 0;
}

/*
 * note_type notes of which type the aggregate of an event is.
 */
static void
note_type(CqrsRunner *runner, TupleTableSlot *found)
{
	bool		isnull;
	const text *type = DatumGetTextPP(slot_getattr(found, EVENT_AGGREGATE_TYPE + 1, &isnull));
	MemoryContext caller;
	ListCell   *cell;

	if (runner->type != NULL && cqrs_names_text(runner->type, type))
		return;
	foreach(cell, runner->definition->aggregate_types)
	{
		runner->type = lfirst(cell);
		if (cqrs_names_text(runner->type, type))
			return;
	}
	caller = MemoryContextSwitchTo(GetMemoryChunkContext(runner));
	runner->type = text_to_cstring(type);
	runner->definition->aggregate_types = lappend(runner->definition->aggregate_types, unconstify(char *, runner->type));
	runner->new_types = true;
	MemoryContextSwitchTo(caller);
}

/*
 * cqrs_events_take hands an event to its handler, or gathers it into a run.
 */
void
cqrs_events_take(CqrsEventRun *run, TupleTableSlot *found)
{
	CqrsRunner *runner = run->runner;
	MemoryContext caller = MemoryContextSwitchTo(runner->memory);
	bool		isnull;
	int			handler = DatumGetInt32(slot_getattr(found, FOUND_HANDLER + 1, &isnull));
	int64		position = DatumGetInt64(slot_getattr(found, EVENT_POSITION + 1, &isnull));

	CHECK_FOR_INTERRUPTS();
	if (!slot_attisnull(found, EVENT_TYPE + 1))
		note_type(runner, found);
	if (!waits(run, found))
	{
		if (runner->nrun > 0 && runner->handler != handler)
			cqrs_events_flush(run);
		runner->handler = handler;
		runner->last = position;
		if (runner->nrun == 0)
			runner->first = position;
		if (runner->handlers->handlers[handler].runs)
		{
			if (runner->run == NULL)
				runner->run = new_store(runner);
			put_found(runner, found, runner->run);
			runner->nrun++;
		}
		else
			take_one(run, found);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(runner->memory);
}

/*
 * cqrs_events_datum makes a value of type cqrs.event of an event found, with the payload that it was emitted with.
 */
Datum
cqrs_events_datum(const CqrsEventRun *run, TupleTableSlot *found)
{
	HeapTuple	tuple;

	slot_getallattrs(found);
	tuple = heap_form_tuple(run->runner->row, found->tts_values + EVENT_FIRST, found->tts_isnull + EVENT_FIRST);
	return heap_copy_tuple_as_datum(tuple, run->runner->row);
}

/* A handler to be looked at. */
typedef struct Look
{
	CqrsRunner *runner;
	const CqrsHandler *handler;
} Look;

/*
 * look_at_handler has the server begin each statement of a handler, without running it.
 */
static void
look_at_handler(void *argument)
{
	Look	   *look = argument;
	const char *text = cqrs_handlers_text(look->handler);
	ListCell   *cell;

	cqrs_spi_refill(look->runner->event, new_store(look->runner), 1);
	cqrs_spi_refill(look->runner->events, new_store(look->runner), 1);
	foreach(cell, cqrs_position_parse(text))
	{
		const RawStmt *statement = lfirst_node(RawStmt, cell);
		int			length = statement->stmt_len > 0 ? statement->stmt_len : strlen(text + statement->stmt_location);

		(void) cqrs_spi_run(psprintf("EXPLAIN %.*s", length, text + statement->stmt_location));
	}
}

/*
 * cqrs_events_blameless tells whether an error at which a handler failed says nothing of the event that it was to take.
 *
 * What is missing or not permitted may be so for this event only, as in a function's branch that others do not take.  It is the handler's own where the
 * server does not even begin its statements.
 */
bool
cqrs_events_blameless(CqrsEventRun *run, TupleTableSlot *found, const ErrorData *error)
{
	bool		isnull;
	Look		look = {.runner = run->runner};
	ErrorData  *own;

	if (cqrs_blame(error) != CQRS_BLAME_WORK)
		return true;
	if (!cqrs_blame_names(error))
		return false;
	look.handler = run->runner->handlers->handlers[DatumGetInt32(slot_getattr(found, FOUND_HANDLER + 1, &isnull))].handler;
	own = cqrs_attempt(look_at_handler, &look, false);
	cqrs_events_forget(run);
	return own != NULL && (cqrs_blame(own) != CQRS_BLAME_WORK || cqrs_blame_names(own));
}
