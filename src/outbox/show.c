/*
 * outbox/show.c
 *		The outbox for people: cqrs.outbox shows every change that is committed, rows as JSON objects of texts, events as they were given.
 *
 * Values become text by their types' output functions and by nothing else.  A cast to json, or to_jsonb of a type of the user's, could run a function of
 * the user's as the reader, who is a superuser more often than not.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "base/attempt.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "outbox/parts.h"
#include "registry/registry.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

enum
{
	COL_POSITION, COL_XID, COL_CAPTURED_AT, COL_KIND, COL_SOURCE, COL_EVENT_TYPE, COL_AGGREGATE_TYPE, COL_AGGREGATE_ID,
	COL_AGGREGATE_VERSION, COL_OLD_ROW, COL_NEW_ROW, COL_PAYLOAD, COL_METADATA, COL_COMMAND, COL_COUNT
};

/* How to print images of one shape. */
typedef struct Printer
{
	int32		shape;			/* hash key */
	TupleDesc	desc;
	FmgrInfo   *output;			/* by attribute; fn_oid is InvalidOid where there is nothing to print */
	Datum	   *values;
	bool	   *nulls;
} Printer;

/* One call of outbox_rows. */
typedef struct Show
{
	ReturnSetInfo *result;
	MemoryContext memory;		/* of the call */
	MemoryContext row;			/* of a row of the result */
	HTAB	   *printers;
	List	   *sources;		/* of CqrsSource */
} Show;

/* One chunk's part of a call. */
typedef struct Work
{
	Show	   *show;
	const CqrsChunk *chunk;
} Work;

/*
 * cqrs_outbox_kind_name returns how people call a kind of change.
 */
const char *
cqrs_outbox_kind_name(CqrsChangeKind kind)
{
	switch (kind)
	{
		case CQRS_CHANGE_INSERT:
			return "insert";
		case CQRS_CHANGE_UPDATE:
			return "update";
		case CQRS_CHANGE_DELETE:
			return "delete";
		case CQRS_CHANGE_TRUNCATE:
			return "truncate";
		case CQRS_CHANGE_ALTER:
			return "alter";
		case CQRS_CHANGE_ERASED:
			return "erased";
		case CQRS_CHANGE_EVENT:
			return "event";
	}
	elog(ERROR, "unknown kind of change %d", kind);
	return NULL;
}

/*
 * fill_printer looks up the output functions of a shape's types.  A type that was dropped since has none: its values print as null.
 */
static void
fill_printer(Show *show, Printer *printer, TupleDesc desc)
{
	MemoryContext caller = MemoryContextSwitchTo(show->memory);
	FmgrInfo   *output = palloc0(sizeof(FmgrInfo) * desc->natts);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Oid			function;
		bool		varlena;

		if (att->attisdropped || !SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(att->atttypid)))
			continue;
		getTypeOutputInfo(att->atttypid, &function, &varlena);
		fmgr_info(function, &output[i]);
	}
	printer->values = palloc(sizeof(Datum) * desc->natts);
	printer->nulls = palloc(sizeof(bool) * desc->natts);
	printer->output = output;
	printer->desc = desc;
	MemoryContextSwitchTo(caller);
}

/*
 * printer_of returns the printer of a shape.
 */
static Printer *
printer_of(Show *show, int32 shape)
{
	bool		found;
	Printer    *printer = hash_search(show->printers, &shape, HASH_ENTER, &found);

	if (!found)
		printer->desc = NULL;
	if (printer->desc == NULL)
		fill_printer(show, printer, cqrs_outbox_shape(shape)->desc);
	return printer;
}

/*
 * push_string adds a string to a jsonb under construction.
 */
static void
push_string(JsonbParseState **state, JsonbIteratorToken token, const char *string)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, string);
	value.val.string.len = strlen(string);
	(void) pushJsonbValue(state, token, &value);
}

/*
 * print_image makes an image a jsonb object: column name to text, or to null.
 */
static Datum
print_image(Printer *printer, HeapTuple image)
{
	JsonbParseState *state = NULL;
	JsonbValue	null = {.type = jbvNull};

	heap_deform_tuple(image, printer->desc, printer->values, printer->nulls);
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < printer->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(printer->desc, i);

		if (att->attisdropped)
			continue;
		push_string(&state, WJB_KEY, NameStr(att->attname));
		if (printer->nulls[i] || !OidIsValid(printer->output[i].fn_oid))
			(void) pushJsonbValue(&state, WJB_VALUE, &null);
		else
			push_string(&state, WJB_VALUE, OutputFunctionCall(&printer->output[i], printer->values[i]));
	}
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/*
 * relation_of returns the table a source is; InvalidOid if it was dropped since.
 */
static Oid
relation_of(const Show *show, int32 source)
{
	ListCell   *cell;

	foreach(cell, show->sources)
		if (((CqrsSource *) lfirst(cell))->id == source)
			return ((CqrsSource *) lfirst(cell))->relation;
	return InvalidOid;
}

/*
 * put_value sets a column of a row of the result.
 */
static void
put_value(Datum *values, bool *nulls, int column, Datum value)
{
	values[column] = value;
	nulls[column] = false;
}

/*
 * put_event sets the columns that only events have.
 */
static void
put_event(Datum *values, bool *nulls, const CqrsChange *change)
{
	CqrsEvent	event;

	cqrs_outbox_event(change, &event);
	put_value(values, nulls, COL_EVENT_TYPE, PointerGetDatum(event.type));
	put_value(values, nulls, COL_AGGREGATE_TYPE, PointerGetDatum(event.aggregate_type));
	put_value(values, nulls, COL_AGGREGATE_ID, PointerGetDatum(event.aggregate_id));
	put_value(values, nulls, COL_AGGREGATE_VERSION, Int64GetDatum(event.version));
	put_value(values, nulls, COL_PAYLOAD, JsonbPGetDatum(event.payload));
	put_value(values, nulls, COL_METADATA, JsonbPGetDatum(event.metadata));
}

/*
 * show_change adds a row of the result.
 */
static void
show_change(Show *show, const CqrsChunk *chunk, const CqrsChange *change)
{
	MemoryContext caller = MemoryContextSwitchTo(show->row);
	Oid			relation = relation_of(show, change->source);
	Datum		values[COL_COUNT] = {0};
	bool		nulls[COL_COUNT];

	memset(nulls, true, sizeof(nulls));
	put_value(values, nulls, COL_POSITION, Int64GetDatum(change->position));
	put_value(values, nulls, COL_XID, FullTransactionIdGetDatum(chunk->xid));
	put_value(values, nulls, COL_CAPTURED_AT, TimestampTzGetDatum(chunk->captured_at));
	put_value(values, nulls, COL_KIND, CStringGetTextDatum(cqrs_outbox_kind_name(change->kind)));
	put_value(values, nulls, COL_COMMAND, Int64GetDatum(change->command));
	if (OidIsValid(relation))
		put_value(values, nulls, COL_SOURCE, ObjectIdGetDatum(relation));
	if (change->kind == CQRS_CHANGE_EVENT)
		put_event(values, nulls, change);
	else
	{
		if (change->old_tuple)
			put_value(values, nulls, COL_OLD_ROW, print_image(printer_of(show, change->shape), change->old_tuple));
		if (change->new_tuple)
			put_value(values, nulls, COL_NEW_ROW, print_image(printer_of(show, change->shape), change->new_tuple));
	}
	tuplestore_putvalues(show->result->setResult, show->result->setDesc, values, nulls);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(show->row);
}

/*
 * show_changes adds the rows of one chunk; called in a subtransaction.
 */
static void
show_changes(void *arg)
{
	Work	   *work = arg;
	CqrsChangeReader *reader = cqrs_outbox_read_begin(work->chunk);
	CqrsChange	change;

	while (cqrs_outbox_read_next(reader, &change))
	{
		CHECK_FOR_INTERRUPTS();
		show_change(work->show, work->chunk, &change);
	}
	cqrs_outbox_read_end(reader);
}

/*
 * describe makes a jsonb object of what is wrong.
 */
static Datum
describe(const ErrorData *error)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_string(&state, WJB_KEY, "error");
	push_string(&state, WJB_VALUE, error->message);
	push_string(&state, WJB_KEY, "detail");
	push_string(&state, WJB_VALUE, error->detail ? error->detail : "");
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/*
 * show_damage adds a row in place of what cannot be read of a chunk, so that nobody who reads the outbox takes what is missing for nothing.
 */
static void
show_damage(Show *show, const CqrsChunk *chunk, const ErrorData *error)
{
	Datum		values[COL_COUNT] = {0};
	bool		nulls[COL_COUNT];

	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg_internal("%s", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0));
	memset(nulls, true, sizeof(nulls));
	put_value(values, nulls, COL_POSITION, Int64GetDatum(chunk->number << CQRS_POSITION_BITS));
	put_value(values, nulls, COL_XID, FullTransactionIdGetDatum(chunk->xid));
	put_value(values, nulls, COL_CAPTURED_AT, TimestampTzGetDatum(chunk->captured_at));
	put_value(values, nulls, COL_KIND, CStringGetTextDatum("damaged"));
	put_value(values, nulls, COL_METADATA, describe(error));
	tuplestore_putvalues(show->result->setResult, show->result->setDesc, values, nulls);
}

/*
 * show_chunk adds the rows of one chunk; of a damaged one those before the damage, and one that says so, as the chunks after it are still readable.
 */
static void
show_chunk(Show *show, const CqrsChunk *chunk)
{
	Work		work = {.show = show,.chunk = chunk};
	ErrorData  *error = cqrs_attempt(show_changes, &work, true);

	if (error == NULL)
		return;
	if (error->sqlerrcode != ERRCODE_DATA_CORRUPTED)
		ReThrowError(error);
	show_damage(show, chunk, error);
	MemoryContextReset(show->row);
}

/*
 * begin_show prepares a call.
 */
static void
begin_show(Show *show, FunctionCallInfo fcinfo)
{
	HASHCTL		info = {.keysize = sizeof(int32),.entrysize = sizeof(Printer)};

	InitMaterializedSRF(fcinfo, 0);
	show->result = (ReturnSetInfo *) fcinfo->resultinfo;
	show->memory = CurrentMemoryContext;
	show->row = AllocSetContextCreate(CurrentMemoryContext, "cqrs outbox row", ALLOCSET_DEFAULT_SIZES);
	info.hcxt = CurrentMemoryContext;
	show->printers = hash_create("cqrs outbox printers", 32, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	show->sources = cqrs_source_list();
}

PG_FUNCTION_INFO_V1(cqrs_outbox_rows);

/*
 * cqrs_internal.outbox_rows() RETURNS TABLE (position bigint, xid xid8, captured_at timestamptz, kind text, source regclass, event_type text,
 *		aggregate_type text, aggregate_id text, aggregate_version bigint, old_row jsonb, new_row jsonb, payload jsonb, metadata jsonb, command bigint)
 *
 * Every change of a committed transaction that the statement sees, in no promised order.  What the current transaction has captured is not in it, whether
 * it is in the buffer still or in the segment.  A damaged chunk gives a warning and a row of kind 'damaged', whose metadata tells what is wrong.
 */
Datum
cqrs_outbox_rows(PG_FUNCTION_ARGS)
{
	FullTransactionId own = GetTopFullTransactionIdIfAny();
	Show		show;
	CqrsOutboxScan *scan;
	CqrsChunk  *chunk;

	begin_show(&show, fcinfo);
	scan = cqrs_outbox_scan_begin(GetActiveSnapshot(), NULL, InvalidFullTransactionId);
	while ((chunk = cqrs_outbox_scan_next(scan)) != NULL)
		if (!FullTransactionIdEquals(chunk->xid, own))
			show_chunk(&show, chunk);
	cqrs_outbox_scan_end(scan);
	return (Datum) 0;
}
