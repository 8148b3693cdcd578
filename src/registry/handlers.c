/*
 * registry/handlers.c
 *		Rows of what defines a version by handlers, and of dead letters.
 *
 * Handlers never change: a version with others is another version.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/arguments.h"
#include "base/names.h"
#include "base/sequence.h"
#include "catalog/namespace.h"
#include "registry/registry.h"
#include "registry/rows.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

enum
{
	DEFINITION_VERSION, DEFINITION_COLUMNS, DEFINITION_SEED, DEFINITION_UNKNOWN, DEFINITION_AGGREGATE_TYPES, DEFINITION_COUNT
};

enum
{
	HANDLER_VERSION, HANDLER_NUMBER, HANDLER_EVENT_TYPE, HANDLER_SOURCE, HANDLER_FUNCTION, HANDLER_STATEMENT, HANDLER_COUNT
};

enum
{
	LETTER_ID, LETTER_VERSION, LETTER_AGGREGATES, LETTER_BEHIND, LETTER_EVENT, LETTER_ERROR, LETTER_CONTEXT, LETTER_ATTEMPTS,
	LETTER_PARKED_AT, LETTER_TRIED_AT, LETTER_COUNT
};

/*
 * of_version starts a scan for the rows of one version.
 */
static CqrsRowScan
of_version(CqrsCatalog catalog, const char *index, AttrNumber column, int32 version)
{
	CqrsRowScan scan = {.catalog = catalog, .index = index};

	cqrs_rows_key_int4(&scan, column, version);
	return scan;
}

/*
 * cqrs_version_is_events tells whether handlers define a version, and no query.
 */
bool
cqrs_version_is_events(const CqrsVersion *version)
{
	return !OidIsValid(version->definition);
}

/*
 * cqrs_version_at_event tells whether a version has halted at an event: by a failure, which is counted.  One that has lost changes halts without.
 */
bool
cqrs_version_at_event(const CqrsVersion *version)
{
	return cqrs_version_is_events(version) && version->status == CQRS_STATUS_HALTED && version->attempts > 0;
}

/*
 * cqrs_version_restored tells whether a version that handlers define came from another cluster or database.  A checkpoint of this one that lies in the future
 * tells nothing.
 */
bool
cqrs_version_restored(const CqrsVersion *version, const CqrsCheckpoint *checkpoint)
{
	return cqrs_version_is_events(version) && !checkpoint->ours && !cqrs_registry_is_ours(checkpoint->origin);
}

/*
 * cqrs_registry_event_type returns the OID of cqrs.event.
 */
Oid
cqrs_registry_event_type(void)
{
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("event"),
						   ObjectIdGetDatum(get_namespace_oid("cqrs", false)));
}

/*
 * read_definition makes a CqrsEventDefinition of a row.
 */
static void *
read_definition(const Datum *values, const bool *nulls)
{
	CqrsEventDefinition *definition = palloc0(sizeof(CqrsEventDefinition));

	definition->version = DatumGetInt32(values[DEFINITION_VERSION]);
	definition->columns = cqrs_rows_string(values, nulls, DEFINITION_COLUMNS);
	definition->seed = cqrs_rows_string(values, nulls, DEFINITION_SEED);
	definition->unknown = cqrs_rows_string(values, nulls, DEFINITION_UNKNOWN);
	definition->aggregate_types = cqrs_rows_texts(values[DEFINITION_AGGREGATE_TYPES]);
	return definition;
}

/*
 * cqrs_event_definition_get returns what defines a version beside its handlers; NULL if it is defined by a query.
 */
CqrsEventDefinition *
cqrs_event_definition_get(int32 version)
{
	CqrsRowScan scan = of_version(CQRS_CAT_EVENT_DEFINITION, "event_definition_pkey", DEFINITION_VERSION + 1, version);

	return cqrs_rows_read_one(&scan, read_definition);
}

/*
 * form_definition makes the row of a CqrsEventDefinition.
 */
static void
form_definition(const CqrsEventDefinition *definition, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * DEFINITION_COUNT);
	values[DEFINITION_VERSION] = Int32GetDatum(definition->version);
	values[DEFINITION_COLUMNS] = CStringGetTextDatum(definition->columns);
	values[DEFINITION_SEED] = cqrs_rows_text(definition->seed, &nulls[DEFINITION_SEED]);
	values[DEFINITION_UNKNOWN] = CStringGetTextDatum(definition->unknown);
	values[DEFINITION_AGGREGATE_TYPES] = cqrs_arguments_array(definition->aggregate_types);
}

/*
 * cqrs_event_definition_insert adds the row of a version.
 */
void
cqrs_event_definition_insert(const CqrsEventDefinition *definition)
{
	Datum		values[DEFINITION_COUNT];
	bool		nulls[DEFINITION_COUNT];

	form_definition(definition, values, nulls);
	cqrs_rows_insert(CQRS_CAT_EVENT_DEFINITION, values, nulls);
}

/*
 * cqrs_event_definition_update replaces the row of a version, whose lock the caller holds.
 */
void
cqrs_event_definition_update(const CqrsEventDefinition *definition)
{
	CqrsRowScan scan = of_version(CQRS_CAT_EVENT_DEFINITION, "event_definition_pkey", DEFINITION_VERSION + 1, definition->version);
	Datum		values[DEFINITION_COUNT];
	bool		nulls[DEFINITION_COUNT];

	form_definition(definition, values, nulls);
	cqrs_rows_update(&scan, values, nulls);
}

/*
 * read_handler makes a CqrsHandler of a row.
 */
static void *
read_handler(const Datum *values, const bool *nulls)
{
	CqrsHandler *handler = palloc0(sizeof(CqrsHandler));

	handler->version = DatumGetInt32(values[HANDLER_VERSION]);
	handler->number = DatumGetInt32(values[HANDLER_NUMBER]);
	handler->event_type = cqrs_rows_string(values, nulls, HANDLER_EVENT_TYPE);
	handler->source = nulls[HANDLER_SOURCE] ? 0 : DatumGetInt32(values[HANDLER_SOURCE]);
	handler->function = nulls[HANDLER_FUNCTION] ? InvalidOid : DatumGetObjectId(values[HANDLER_FUNCTION]);
	handler->statement = cqrs_rows_string(values, nulls, HANDLER_STATEMENT);
	return handler;
}

/*
 * cqrs_handler_list returns a version's handlers.
 */
List *
cqrs_handler_list(int32 version)
{
	CqrsRowScan scan = of_version(CQRS_CAT_HANDLER, "handler_pkey", HANDLER_VERSION + 1, version);

	return cqrs_rows_read(&scan, read_handler);
}

/*
 * cqrs_handler_insert adds a handler.
 */
void
cqrs_handler_insert(const CqrsHandler *handler)
{
	Datum		values[HANDLER_COUNT];
	bool		nulls[HANDLER_COUNT] = {false};

	values[HANDLER_VERSION] = Int32GetDatum(handler->version);
	values[HANDLER_NUMBER] = Int32GetDatum(handler->number);
	values[HANDLER_EVENT_TYPE] = cqrs_rows_text(handler->event_type, &nulls[HANDLER_EVENT_TYPE]);
	values[HANDLER_SOURCE] = Int32GetDatum(handler->source);
	nulls[HANDLER_SOURCE] = handler->event_type != NULL;
	values[HANDLER_FUNCTION] = ObjectIdGetDatum(handler->function);
	nulls[HANDLER_FUNCTION] = !OidIsValid(handler->function);
	values[HANDLER_STATEMENT] = cqrs_rows_text(handler->statement, &nulls[HANDLER_STATEMENT]);
	cqrs_rows_insert(CQRS_CAT_HANDLER, values, nulls);
}

/*
 * cqrs_handlers_take_events tells whether handlers of a version take events of a type.
 *
 * Where there is a policy for unknown types that does not ignore them, all events are looked at, too.
 */
bool
cqrs_handlers_take_events(int32 version)
{
	CqrsEventDefinition *definition = cqrs_event_definition_get(version);
	ListCell   *cell;

	if (definition == NULL)
		return false;
	if (strcmp(definition->unknown, "ignore") != 0)
		return true;
	foreach(cell, cqrs_handler_list(version))
		if (((CqrsHandler *) lfirst(cell))->event_type != NULL)
			return true;
	return false;
}

/*
 * cqrs_handlers_delete removes what defines a version by handlers, and its dead letters.
 */
void
cqrs_handlers_delete(int32 version)
{
	CqrsRowScan definition = of_version(CQRS_CAT_EVENT_DEFINITION, "event_definition_pkey", DEFINITION_VERSION + 1, version);
	CqrsRowScan handlers = of_version(CQRS_CAT_HANDLER, "handler_pkey", HANDLER_VERSION + 1, version);

	(void) cqrs_rows_delete(&definition);
	(void) cqrs_rows_delete(&handlers);
	(void) cqrs_dead_letter_delete_all(version);
}

/*
 * push_string adds a string to a jsonb under construction.
 */
static void
push_string(JsonbParseState **state, JsonbIteratorToken token, const char *string)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, string);
	value.val.string.len = strlen(string);
	(void) pushJsonbValue(state, token, &value);
}

/*
 * cqrs_handlers_jsonb returns a version's handlers as create_projection takes them.
 */
Jsonb *
cqrs_handlers_jsonb(int32 version)
{
	JsonbParseState *state = NULL;
	ListCell   *cell;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	foreach(cell, cqrs_handler_list(version))
	{
		CqrsHandler *handler = lfirst(cell);

		push_string(&state, WJB_KEY,
					handler->event_type ? handler->event_type : cqrs_name_relation(cqrs_source_get(handler->source)->relation));
		push_string(&state, WJB_VALUE,
					handler->statement ? handler->statement : format_procedure_qualified(handler->function));
	}
	push_string(&state, WJB_KEY, "*");
	push_string(&state, WJB_VALUE, cqrs_event_definition_get(version)->unknown);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * read_letter makes a CqrsDeadLetter of a row.
 */
static void *
read_letter(const Datum *values, const bool *nulls)
{
	CqrsDeadLetter *letter = palloc0(sizeof(CqrsDeadLetter));

	letter->id = DatumGetInt64(values[LETTER_ID]);
	letter->version = DatumGetInt32(values[LETTER_VERSION]);
	letter->aggregates = cqrs_rows_texts(values[LETTER_AGGREGATES]);
	letter->behind = nulls[LETTER_BEHIND] ? 0 : DatumGetInt64(values[LETTER_BEHIND]);
	letter->event = PointerGetDatum(DatumGetHeapTupleHeaderCopy(values[LETTER_EVENT]));
	letter->error = cqrs_rows_string(values, nulls, LETTER_ERROR);
	letter->context = cqrs_rows_string(values, nulls, LETTER_CONTEXT);
	letter->attempts = DatumGetInt32(values[LETTER_ATTEMPTS]);
	letter->parked_at = DatumGetTimestampTz(values[LETTER_PARKED_AT]);
	letter->tried_at = nulls[LETTER_TRIED_AT] ? 0 : DatumGetTimestampTz(values[LETTER_TRIED_AT]);
	return letter;
}

/*
 * read_letter_place makes a CqrsDeadLetter of a row, of what tells its place only.
 */
static void *
read_letter_place(const Datum *values, const bool *nulls)
{
	CqrsDeadLetter *letter = palloc0(sizeof(CqrsDeadLetter));

	letter->id = DatumGetInt64(values[LETTER_ID]);
	letter->version = DatumGetInt32(values[LETTER_VERSION]);
	letter->aggregates = cqrs_rows_texts(values[LETTER_AGGREGATES]);
	letter->behind = nulls[LETTER_BEHIND] ? 0 : DatumGetInt64(values[LETTER_BEHIND]);
	return letter;
}

/*
 * form_letter makes the row of a CqrsDeadLetter.
 */
static void
form_letter(const CqrsDeadLetter *letter, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * LETTER_COUNT);
	values[LETTER_ID] = Int64GetDatum(letter->id);
	values[LETTER_VERSION] = Int32GetDatum(letter->version);
	values[LETTER_AGGREGATES] = cqrs_arguments_array(letter->aggregates);
	values[LETTER_BEHIND] = Int64GetDatum(letter->behind);
	nulls[LETTER_BEHIND] = letter->behind == 0;
	values[LETTER_EVENT] = letter->event;
	values[LETTER_ERROR] = cqrs_rows_text(letter->error, &nulls[LETTER_ERROR]);
	values[LETTER_CONTEXT] = cqrs_rows_text(letter->context, &nulls[LETTER_CONTEXT]);
	values[LETTER_ATTEMPTS] = Int32GetDatum(letter->attempts);
	values[LETTER_PARKED_AT] = TimestampTzGetDatum(letter->parked_at);
	values[LETTER_TRIED_AT] = TimestampTzGetDatum(letter->tried_at);
	nulls[LETTER_TRIED_AT] = letter->tried_at == 0;
}

/*
 * letter_by_id starts a scan for one dead letter.
 */
static CqrsRowScan
letter_by_id(int64 id)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_DEAD_LETTER, .index = "dead_letter_pkey"};

	cqrs_rows_key_int8(&scan, LETTER_ID + 1, id);
	return scan;
}

/*
 * cqrs_dead_letter_list returns the dead letters of a version, in the order in which they are to be applied.
 */
List *
cqrs_dead_letter_list(int32 version, bool whole)
{
	CqrsRowScan scan = of_version(CQRS_CAT_DEAD_LETTER, "dead_letter_version_key", LETTER_VERSION + 1, version);

	return cqrs_rows_read(&scan, whole ? read_letter : read_letter_place);
}

/*
 * cqrs_dead_letter_get returns a dead letter, or NULL.
 */
CqrsDeadLetter *
cqrs_dead_letter_get(int64 id)
{
	CqrsRowScan scan = letter_by_id(id);

	return cqrs_rows_read_one(&scan, read_letter);
}

/*
 * cqrs_dead_letter_insert adds a dead letter, behind all that there are.
 */
void
cqrs_dead_letter_insert(CqrsDeadLetter *letter)
{
	Oid			letters = cqrs_registry_relation(CQRS_CAT_DEAD_LETTER);
	Datum		values[LETTER_COUNT];
	bool		nulls[LETTER_COUNT];

	letter->id = cqrs_sequence_next(get_relname_relid("dead_letter_id", get_rel_namespace(letters)));
	form_letter(letter, values, nulls);
	cqrs_rows_insert(CQRS_CAT_DEAD_LETTER, values, nulls);
}

/*
 * cqrs_dead_letter_update replaces the row of a dead letter.
 */
void
cqrs_dead_letter_update(const CqrsDeadLetter *letter)
{
	CqrsRowScan scan = letter_by_id(letter->id);
	Datum		values[LETTER_COUNT];
	bool		nulls[LETTER_COUNT];

	form_letter(letter, values, nulls);
	cqrs_rows_update(&scan, values, nulls);
}

/*
 * cqrs_dead_letter_delete removes a dead letter.
 */
void
cqrs_dead_letter_delete(int64 id)
{
	CqrsRowScan scan = letter_by_id(id);

	(void) cqrs_rows_delete(&scan);
}

/*
 * cqrs_dead_letter_delete_all removes all dead letters of a version, and returns how many there were.
 */
int
cqrs_dead_letter_delete_all(int32 version)
{
	CqrsRowScan scan = of_version(CQRS_CAT_DEAD_LETTER, "dead_letter_version_key", LETTER_VERSION + 1, version);

	return cqrs_rows_delete(&scan);
}
