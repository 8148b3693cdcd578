/*
 * apply/events_read.c
 *		From chunks of the outbox to the events that a version's handlers take, in the order in which they are applied.
 *
 * That order: transactions by the positions at which they end, within a transaction by command, and then by position.  Whatever two transactions do to one row
 * or aggregate, all of the first is numbered before the second can begin, so each row's changes and each aggregate's events come as they happened; and a
 * transaction's events come together.
 *
 * Wants an active snapshot, the owner's identity and the version's settings: rows become JSON as the owner would have them.  Chunks are met in no order, so
 * where they are is gathered and sorted first.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "apply/events_parts.h"
#include "base/compat.h"
#include "base/names.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "outbox/outbox.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

/* A transaction, of this cluster or one that was restored from. */
typedef struct Transaction
{
	uint64		xid;			/* key, with the next */
	Datum		origin[3];
	int64		turn;			/* number of its last chunk */
} Transaction;

/* How to read images of one shape. */
typedef struct Images
{
	int32		shape;			/* key */
	TupleDesc	desc;			/* blessed; NULL: not yet */
	bool		whole;			/* it has all columns that the table has now */
	int			nkeys;			/* columns of the primary key; 0 if there is none, or it is not imaged */
	int		   *keys;			/* among the images' columns, from 0 */
	FmgrInfo   *output;
	Datum		type;			/* text: how the aggregates are called */
	Oid			relation;
} Images;

/* A chunk of the window. */
typedef struct Place
{
	int64		turn;			/* of its transaction */
	int64		number;
	Transaction *transaction;
	const CqrsSegment *segment;
	ItemPointerData place;
} Place;

/* One reading of a window. */
typedef struct Reading
{
	const CqrsEventScope *scope;
	CqrsEventWindow *window;
	CqrsEventSink sink;
	void	   *argument;		/* of the sink */
	List	   *handlers;		/* of CqrsHandler */
	const char *unknown;		/* the policy */
	int32	   *sources;
	int			nsources;
	FullTransactionId own;
	int32		since;			/* number of the oldest segment from where the checkpoint is; 0 if there is none */
	HTAB	   *transactions;
	int			nplaces;
	int			room;			/* for so many */
	Place	   *places;
	HTAB	   *images;
	TupleTableSlot *slot;
	MemoryContext memory;		/* of one event */
	Tuplesortstate *sort;		/* of all events, or NULL: each goes to the sink as it is met */
} Reading;

static List *warned = NIL;		/* types of events that this process has warned of: char *, for its life */

/*
 * same_origin tells whether two rows speak of one cluster and database.
 */
static bool
same_origin(const Datum *left, const Datum *right)
{
	return memcmp(left, right, sizeof(Datum) * 3) == 0;
}

/*
 * is_pending tells whether a chunk belongs to the window.
 *
 * Where the checkpoint is from elsewhere, what came from there with it is pending unless the checkpoint has seen it; what is older came from somewhere else
 * yet, and was applied before that checkpoint's life there began; what is younger is all pending.
 */
static bool
is_pending(const Reading *reading, const CqrsChunk *chunk)
{
	const CqrsCheckpoint *checkpoint = reading->scope->checkpoint;

	if (chunk->segment->ours && FullTransactionIdEquals(chunk->xid, reading->own))
		return false;
	if (checkpoint == NULL || checkpoint->ours)
		return true;
	if (same_origin(chunk->segment->origin, checkpoint->origin))
		return !cqrs_window_sees(checkpoint->snapshot, chunk->xid);
	if (reading->since != 0)
		return chunk->segment->number > reading->since;
	return chunk->number > checkpoint->position >> CQRS_POSITION_BITS;
}

/*
 * transaction_of finds or makes the entry of a chunk's transaction.
 */
static Transaction *
transaction_of(const Reading *reading, const CqrsChunk *chunk)
{
	Transaction key;
	Transaction *transaction;
	bool		found;

	memset(&key, 0, sizeof(key));
	key.xid = U64FromFullTransactionId(chunk->xid);
	memcpy(key.origin, chunk->segment->origin, sizeof(key.origin));
	transaction = hash_search(reading->transactions, &key, HASH_ENTER, &found);
	if (!found)
		transaction->turn = 0;
	return transaction;
}

/*
 * note_place notes a chunk of the window, and that its transaction does not end before.
 */
static void
note_place(Reading *reading, const CqrsChunk *chunk)
{
	Place	   *place;

	if (reading->nplaces == reading->room)
	{
		reading->room = Max(reading->room * 2, 64);
		reading->places = reading->places ? repalloc_huge(reading->places, reading->room * sizeof(Place)) :
			palloc(reading->room * sizeof(Place));
	}
	place = &reading->places[reading->nplaces++];
	place->number = chunk->number;
	place->transaction = transaction_of(reading, chunk);
	place->segment = chunk->segment;
	place->place = chunk->place;
	place->transaction->turn = Max(place->transaction->turn, chunk->number);
}

/*
 * compare_places orders chunks by where their transactions end, and then by number.
 */
static int
compare_places(const void *left, const void *right)
{
	const Place *l = left;
	const Place *r = right;

	if (l->turn != r->turn)
		return l->turn < r->turn ? -1 : 1;
	return l->number < r->number ? -1 : l->number > r->number;
}

/*
 * find_places finds the chunks of the window, in the order in which their events are applied.
 */
static void
find_places(Reading *reading)
{
	const CqrsCheckpoint *checkpoint = reading->scope->checkpoint;
	bool		ours = checkpoint != NULL && checkpoint->ours;
	CqrsOutboxScan *scan = cqrs_outbox_scan_begin(reading->scope->snapshot, ours ? checkpoint->snapshot : NULL,
												  InvalidFullTransactionId);
	CqrsChunk  *chunk;

	while ((chunk = cqrs_outbox_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (!is_pending(reading, chunk))
			continue;
		if (cqrs_outbox_chunk_has(chunk, reading->sources, reading->nsources))
			note_place(reading, chunk);
		else
		{
			reading->window->passed_over++;
			reading->window->lets_go |= chunk->closed;
		}
	}
	cqrs_outbox_scan_end(scan);
	for (int i = 0; i < reading->nplaces; i++)
		reading->places[i].turn = reading->places[i].transaction->turn;
	if (reading->nplaces > 1)
		qsort(reading->places, reading->nplaces, sizeof(Place), compare_places);
}

/*
 * handler_of_source finds the handler of a captured table's changes.
 */
static const CqrsHandler *
handler_of_source(const Reading *reading, int32 source)
{
	ListCell   *cell;

	foreach(cell, reading->handlers)
		if (((CqrsHandler *) lfirst(cell))->event_type == NULL && ((CqrsHandler *) lfirst(cell))->source == source)
			return lfirst(cell);
	return NULL;
}

/*
 * cqrs_names_text tells whether a name and a text are the same.
 */
bool
cqrs_names_text(const char *name, const text *value)
{
	Size		length = VARSIZE_ANY_EXHDR(value);

	return strlen(name) == length && memcmp(name, VARDATA_ANY(value), length) == 0;
}

/*
 * handler_of_type finds the handler of events of a type; NULL if there is none.
 */
static const CqrsHandler *
handler_of_type(const Reading *reading, const text *type)
{
	ListCell   *cell;

	foreach(cell, reading->handlers)
	{
		const CqrsHandler *handler = lfirst(cell);

		if (handler->event_type != NULL && cqrs_names_text(handler->event_type, type))
			return handler;
	}
	return NULL;
}

/*
 * meet_unknown does as the policy says about a type that no handler takes: it warns of it once, or has the version halt.
 */
static void
meet_unknown(Reading *reading, const text *type)
{
	char	   *name = text_to_cstring(type);
	MemoryContext caller;
	ListCell   *cell;

	if (strcmp(reading->unknown, "halt") == 0 && reading->window->unknown == NULL)
		reading->window->unknown = MemoryContextStrdup(GetMemoryChunkContext(reading->slot), name);
	if (strcmp(reading->unknown, "warn") != 0)
		return;
	name = psprintf("%d %s", reading->scope->version->id, name);
	foreach(cell, warned)
		if (strcmp(lfirst(cell), name) == 0)
			return;
	caller = MemoryContextSwitchTo(CacheMemoryContext);
	warned = lappend(warned, pstrdup(name));
	MemoryContextSwitchTo(caller);
	ereport(WARNING,
			(errmsg("projection \"%s\" has no handler for events of type \"%s\"",
					cqrs_name_shown(cqrs_projection_get(reading->scope->version->projection, false)->view),
					text_to_cstring(type)),
			 errdetail("They are passed over; this is said once.")));
}

/*
 * describe_images makes the row type of a shape's images; columns of types that are gone since are left out.
 */
static TupleDesc
describe_images(const CqrsShape *shape)
{
	TupleDesc	desc = CreateTupleDescCopy(shape->desc);

	for (int i = 0; i < desc->natts; i++)
		if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(TupleDescAttr(desc, i)->atttypid)))
			TupleDescAttr(desc, i)->attisdropped = true;
	return BlessTupleDesc(desc);
}

/*
 * has_all_columns tells whether images hold all columns that the table has now.
 */
static bool
has_all_columns(Relation relation, const CqrsShape *shape)
{
	for (int i = 0; i < RelationGetNumberOfAttributes(relation); i++)
	{
		bool		found = TupleDescAttr(RelationGetDescr(relation), i)->attisdropped;

		for (int j = 0; j < shape->desc->natts; j++)
			found |= shape->columns[j] == i + 1;
		if (!found)
			return false;
	}
	return true;
}

/*
 * find_key finds the primary key's columns in images.
 */
static void
find_key(Images *images, Relation relation, const CqrsShape *shape)
{
	Oid			index = cqrs_compat_primary_key(relation);
	Relation	opened;

	images->keys = palloc(sizeof(int) * INDEX_MAX_KEYS);
	images->output = palloc0(sizeof(FmgrInfo) * INDEX_MAX_KEYS);
	if (!OidIsValid(index))
		return;
	opened = index_open(index, AccessShareLock);
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(opened); i++)
	{
		for (int j = 0; j < shape->desc->natts; j++)
		{
			Oid			function;
			bool		varlena;

			if (shape->columns[j] != opened->rd_index->indkey.values[i])
				continue;
			getTypeOutputInfo(TupleDescAttr(shape->desc, j)->atttypid, &function, &varlena);
			fmgr_info(function, &images->output[images->nkeys]);
			images->keys[images->nkeys++] = j;
		}
	}
	if (images->nkeys < IndexRelationGetNumberOfKeyAttributes(opened))
		images->nkeys = 0;
	index_close(opened, AccessShareLock);
}

/*
 * images_of returns how to read images of a shape.
 */
static Images *
images_of(const Reading *reading, int32 id)
{
	bool		found;
	Images	   *images = hash_search(reading->images, &id, HASH_ENTER, &found);
	const CqrsShape *shape = cqrs_outbox_shape(id);
	MemoryContext caller;
	Relation	relation;

	if (!found)
		images->desc = NULL;
	if (images->desc != NULL)
		return images;
	caller = MemoryContextSwitchTo(GetMemoryChunkContext(reading->slot));
	images->relation = cqrs_source_get(shape->source)->relation;
	images->type = CStringGetTextDatum(cqrs_name_relation(images->relation));
	images->nkeys = 0;
	relation = relation_open(images->relation, AccessShareLock);
	images->whole = has_all_columns(relation, shape);
	find_key(images, relation, shape);
	relation_close(relation, NoLock);
	images->desc = describe_images(shape);
	MemoryContextSwitchTo(caller);
	return images;
}

/*
 * json_of makes an image a JSON object, as the server does: numbers are numbers in it.
 */
static Datum
json_of(const Images *images, HeapTuple image)
{
	Datum		row = heap_copy_tuple_as_datum(image, images->desc);

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(DirectFunctionCall1(row_to_json, row))));
}

/*
 * cqrs_events_id makes the id of a row's aggregate: the text of its key, or a JSON array of texts where it has several columns.
 */
char *
cqrs_events_id(List *texts)
{
	StringInfoData id;
	ListCell   *cell;

	if (list_length(texts) == 1)
		return linitial(texts);
	initStringInfo(&id);
	foreach(cell, texts)
	{
		appendStringInfoString(&id, id.len ? ", " : "[");
		escape_json(&id, lfirst(cell));
	}
	appendStringInfoChar(&id, ']');
	return id.data;
}

/*
 * id_of makes the aggregate's id of an image's primary key; NULL without a key.
 */
static char *
id_of(const Images *images, HeapTuple image)
{
	List	   *texts = NIL;

	for (int i = 0; i < images->nkeys; i++)
	{
		bool		isnull;
		Datum		value = heap_getattr(image, images->keys[i] + 1, images->desc, &isnull);

		if (isnull)
			return NULL;
		texts = lappend(texts, OutputFunctionCall(&images->output[i], value));
	}
	return texts != NIL ? cqrs_events_id(texts) : NULL;
}

/*
 * put_value sets a column of an event.
 */
static void
put_value(TupleTableSlot *slot, int column, Datum value)
{
	slot->tts_values[column] = value;
	slot->tts_isnull[column] = false;
}

/*
 * put_row sets the columns of a change of a row.
 */
static void
put_row(Reading *reading, const CqrsChange *change)
{
	TupleTableSlot *slot = reading->slot;
	Images	   *images = images_of(reading, change->shape);
	char	   *old_id = change->old_tuple ? id_of(images, change->old_tuple) : NULL;
	char	   *id = change->new_tuple ? id_of(images, change->new_tuple) : old_id;

	if (reading->scope->checkpoint == NULL && !images->whole && reading->window->doubt == NULL)
		reading->window->doubt = MemoryContextStrdup(GetMemoryChunkContext(slot),
													 psprintf("the change at position %lld was captured without all columns of \"%s\"",
															  (long long) change->position, cqrs_name_shown(images->relation)));
	put_value(slot, EVENT_KIND, CStringGetTextDatum(cqrs_outbox_kind_name(change->kind)));
	put_value(slot, EVENT_SOURCE, ObjectIdGetDatum(images->relation));
	put_value(slot, FOUND_SOURCE, Int32GetDatum(change->source));
	put_value(slot, EVENT_AGGREGATE_TYPE, images->type);
	if (id != NULL)
		put_value(slot, EVENT_AGGREGATE_ID, CStringGetTextDatum(id));
	if (old_id != NULL && id != NULL && strcmp(old_id, id) != 0)
		put_value(slot, FOUND_OLD_ID, CStringGetTextDatum(old_id));
	if (change->old_tuple != NULL)
		put_value(slot, EVENT_OLD_ROW, json_of(images, change->old_tuple));
	if (change->new_tuple != NULL)
		put_value(slot, EVENT_NEW_ROW, json_of(images, change->new_tuple));
}

/*
 * put_event sets the columns of a domain event.
 */
static void
put_event(TupleTableSlot *slot, const CqrsEvent *event)
{
	put_value(slot, EVENT_KIND, CStringGetTextDatum(cqrs_outbox_kind_name(CQRS_CHANGE_EVENT)));
	put_value(slot, EVENT_TYPE, PointerGetDatum(event->type));
	put_value(slot, EVENT_AGGREGATE_TYPE, PointerGetDatum(event->aggregate_type));
	put_value(slot, EVENT_AGGREGATE_ID, PointerGetDatum(event->aggregate_id));
	put_value(slot, EVENT_AGGREGATE_VERSION, Int64GetDatum(event->version));
	put_value(slot, EVENT_PAYLOAD, JsonbPGetDatum(event->payload));
	put_value(slot, EVENT_METADATA, JsonbPGetDatum(event->metadata));
}

/*
 * find_handler returns the handler that takes a change, and sets the columns that are of its kind; NULL if none does.
 *
 * What was erased is nobody's business any more.  That what a table holds has changed without changes of rows is in no event, so nobody can handle it.
 */
static const CqrsHandler *
find_handler(Reading *reading, const CqrsChange *change)
{
	const CqrsHandler *handler;
	CqrsEvent	event;

	if (change->kind == CQRS_CHANGE_ERASED)
		return NULL;
	if (change->kind == CQRS_CHANGE_ALTER)
	{
		if (reading->window->doubt == NULL)
			reading->window->doubt = "what a captured table holds has changed without changes of rows";
		return NULL;
	}
	if (change->kind != CQRS_CHANGE_EVENT)
	{
		handler = handler_of_source(reading, change->source);
		if (handler != NULL)
			put_row(reading, change);
		return handler;
	}
	cqrs_outbox_event(change, &event);
	handler = handler_of_type(reading, event.type);
	if (handler == NULL)
		meet_unknown(reading, event.type);
	else
		put_event(reading->slot, &event);
	return handler;
}

/*
 * read_change gives a change to the sink, or to the sort before it, if a handler takes it.
 */
static void
read_change(Reading *reading, const CqrsChunk *chunk, const CqrsChange *change, int64 turn)
{
	TupleTableSlot *slot = reading->slot;
	const CqrsHandler *handler;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, sizeof(bool) * FOUND_COLUMNS);
	handler = find_handler(reading, change);
	if (handler == NULL || reading->window->unknown != NULL)
		return;
	put_value(slot, FOUND_TURN, Int64GetDatum(turn));
	put_value(slot, FOUND_COMMAND, Int64GetDatum(change->command));
	put_value(slot, EVENT_POSITION, Int64GetDatum(change->position));
	put_value(slot, EVENT_XID, FullTransactionIdGetDatum(chunk->xid));
	put_value(slot, EVENT_CAPTURED_AT, TimestampTzGetDatum(chunk->captured_at));
	put_value(slot, FOUND_HANDLER, Int32GetDatum(handler->number));
	ExecStoreVirtualTuple(slot);
	if (reading->sort != NULL)
		tuplesort_puttupleslot(reading->sort, slot);
	else
		reading->sink(reading->argument, slot);
}

/*
 * is_source tells whether a change is of one of the version's sources.
 */
static bool
is_source(const Reading *reading, int32 source)
{
	for (int i = 0; i < reading->nsources; i++)
		if (reading->sources[i] == source)
			return true;
	return false;
}

/*
 * read_chunk goes through a chunk's changes.
 */
static void
read_chunk(Reading *reading, const CqrsChunk *chunk, int64 turn)
{
	CqrsChangeReader *changes = cqrs_outbox_read_begin(chunk);
	CqrsChange	change;

	while (cqrs_outbox_read_next(changes, &change))
	{
		MemoryContext caller;

		if (!is_source(reading, change.source))
			continue;
		reading->window->seen++;
		reading->window->position = Max(reading->window->position, change.position);
		caller = MemoryContextSwitchTo(reading->memory);
		read_change(reading, chunk, &change, turn);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(reading->memory);
	}
	cqrs_outbox_read_end(changes);
}

/*
 * read_places goes through the window, in order.
 */
static void
read_places(Reading *reading)
{
	CqrsOutboxFetch *fetch = cqrs_outbox_fetch_begin(reading->scope->snapshot);

	for (int i = 0; i < reading->nplaces; i++)
	{
		Place	   *place = &reading->places[i];

		CHECK_FOR_INTERRUPTS();
		if (reading->scope->limit > 0 && reading->window->seen >= reading->scope->limit)
		{
			reading->window->cut = true;
			break;
		}
		read_chunk(reading, cqrs_outbox_fetch(fetch, place->segment, &place->place), place->turn);
	}
	cqrs_outbox_fetch_end(fetch);
}

/*
 * cqrs_events_found_row makes the row type of events found.
 */
TupleDesc
cqrs_events_found_row(void)
{
	TupleDesc	event = cqrs_handlers_row();
	TupleDesc	row = CreateTemplateTupleDesc(FOUND_COLUMNS);

	TupleDescInitEntry(row, FOUND_TURN + 1, "turn", INT8OID, -1, 0);
	TupleDescInitEntry(row, FOUND_COMMAND + 1, "command", INT8OID, -1, 0);
	for (int i = 0; i < EVENT_COLUMNS; i++)
		TupleDescCopyEntry(row, EVENT_FIRST + i + 1, event, i + 1);
	TupleDescInitEntry(row, FOUND_HANDLER + 1, "handler", INT4OID, -1, 0);
	TupleDescInitEntry(row, FOUND_OLD_ID + 1, "old_id", TEXTOID, -1, 0);
	TupleDescInitEntry(row, FOUND_SOURCE + 1, "source", INT4OID, -1, 0);
	return row;
}

/*
 * begin_sort makes the sort that puts events into their order.
 */
static Tuplesortstate *
begin_sort(TupleDesc row)
{
	AttrNumber	columns[] = {FOUND_TURN + 1, FOUND_COMMAND + 1, EVENT_POSITION + 1};
	Oid			operators[] = {Int8LessOperator, Int8LessOperator, Int8LessOperator};
	Oid			collations[] = {InvalidOid, InvalidOid, InvalidOid};
	bool		nulls_first[] = {false, false, false};

	return tuplesort_begin_heap(row, lengthof(columns), columns, operators, collations, nulls_first, work_mem, NULL,
								TUPLESORT_NONE);
}

/*
 * finish_sort gives the events sorted to the sink, if there is no doubt.
 */
static void
finish_sort(Reading *reading, TupleDesc row)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(row, &TTSOpsMinimalTuple);

	tuplesort_performsort(reading->sort);
	while (reading->window->doubt == NULL && tuplesort_gettupleslot(reading->sort, true, false, slot, NULL))
		reading->sink(reading->argument, slot);
	ExecDropSingleTupleTableSlot(slot);
	tuplesort_end(reading->sort);
}

/*
 * take_tables tells whether any handler takes changes of a table.
 */
static bool
take_tables(List *handlers)
{
	ListCell   *cell;

	foreach(cell, handlers)
		if (((CqrsHandler *) lfirst(cell))->event_type == NULL)
			return true;
	return false;
}

/*
 * make_table makes a hash table of the reading's.
 */
static HTAB *
make_table(const char *name, Size key, Size entry)
{
	HASHCTL		control = {.keysize = key,.entrysize = entry,.hcxt = CurrentMemoryContext};

	return hash_create(name, 32, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * oldest_from finds the oldest segment that is from where the checkpoint is.
 */
static int32
oldest_from(const CqrsCheckpoint *checkpoint)
{
	ListCell   *cell;

	if (checkpoint == NULL || checkpoint->ours)
		return 0;
	foreach(cell, cqrs_segment_list())
		if (same_origin(((CqrsSegment *) lfirst(cell))->origin, checkpoint->origin))
			return ((CqrsSegment *) lfirst(cell))->number;
	return 0;
}

/*
 * cqrs_events_read finds the events of a window.
 *
 * Events by themselves are in order within their transaction, and need no sort.  Changes of rows may not be, where a transaction was larger than the
 * buffer; and what else happens to a table can put the window in doubt.
 */
void
cqrs_events_read(const CqrsEventScope *scope, CqrsEventWindow *window, CqrsEventSink sink, void *argument)
{
	Reading		reading = {.scope = scope,.window = window,.sink = sink,.argument = argument};
	TupleDesc	row = cqrs_events_found_row();

	memset(window, 0, sizeof(CqrsEventWindow));
	reading.handlers = cqrs_handler_list(scope->version->id);
	reading.unknown = scope->limit > 0 ? "ignore" : cqrs_event_definition_get(scope->version->id)->unknown;
	reading.sources = cqrs_version_source_ids(scope->version->id, &reading.nsources);
	reading.own = GetTopFullTransactionIdIfAny();
	reading.since = oldest_from(scope->checkpoint);
	reading.transactions = make_table("cqrs transactions", offsetof(Transaction, turn), sizeof(Transaction));
	reading.images = make_table("cqrs images", sizeof(int32), sizeof(Images));
	reading.slot = MakeSingleTupleTableSlot(row, &TTSOpsVirtual);
	reading.memory = AllocSetContextCreate(CurrentMemoryContext, "cqrs event found", ALLOCSET_DEFAULT_SIZES);
	if (take_tables(reading.handlers))
		reading.sort = begin_sort(row);
	find_places(&reading);
	read_places(&reading);
	if (reading.sort != NULL)
		finish_sort(&reading, row);
	ExecDropSingleTupleTableSlot(reading.slot);
	MemoryContextDelete(reading.memory);
	hash_destroy(reading.transactions);
	hash_destroy(reading.images);
}
