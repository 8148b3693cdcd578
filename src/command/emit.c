/*
 * command/emit.c
 *		cqrs.emit: a domain event, in the outbox beside the changes of the rows that it speaks of.
 *
 * Checks arguments, has the aggregate's version counted, completes the metadata, and gives the event to the transaction's buffer: it is committed
 * and rolled back with all else.  Whoever may execute the function may emit for any aggregate.
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/arguments.h"
#include "base/clock.h"
#include "catalog/pg_type.h"
#include "command/command.h"
#include "event/event.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "outbox/outbox.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

enum
{
	ARG_EVENT_TYPE, ARG_AGGREGATE_TYPE, ARG_AGGREGATE_ID, ARG_PAYLOAD, ARG_EXPECTED_VERSION, ARG_METADATA
};

/* What metadata has from us, and so from nobody else. */
static const char *const own_keys[] = {"event_id", "actor", "occurred_at"};

/*
 * version_argument checks the version expected.
 */
static int64
version_argument(FunctionCallInfo fcinfo)
{
	int64		version;

	if (PG_ARGISNULL(ARG_EXPECTED_VERSION))
		return CQRS_ANY_VERSION;
	version = PG_GETARG_INT64(ARG_EXPECTED_VERSION);
	if (version < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"expected_version\" must not be negative"),
				 errdetail("It is %lld.", (long long) version),
				 errhint("0 says that the aggregate must be new, null that any version will do.")));
	return version;
}

/*
 * push_text adds a string to a jsonb under construction.
 */
static void
push_text(JsonbParseState **state, JsonbIteratorToken token, const char *string)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, string);
	value.val.string.len = strlen(string);
	(void) pushJsonbValue(state, token, &value);
}

/*
 * push_given adds what the caller gave.
 */
static void
push_given(JsonbParseState **state, Jsonb *given)
{
	JsonbIterator *iterator = JsonbIteratorInit(&given->root);
	JsonbValue	value;
	JsonbIteratorToken token;

	(void) JsonbIteratorNext(&iterator, &value, false);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) == WJB_KEY || token == WJB_VALUE)
		(void) pushJsonbValue(state, token, &value);
}

/*
 * check_metadata refuses metadata with keys that are ours: nobody may say who emitted an event, or when; and a schema version that is none.
 */
static void
check_metadata(Jsonb *given)
{
	for (int i = 0; i < lengthof(own_keys); i++)
	{
		JsonbValue	buffer;

		if (getKeyJsonValueFromContainer(&given->root, own_keys[i], strlen(own_keys[i]), &buffer) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("metadata must not have the key \"%s\"", own_keys[i]),
					 errdetail("Every event gets its event_id, actor and occurred_at by itself."),
					 errhint("Choose another name for what you know of it.")));
	}
	if (cqrs_event_schema_version(given) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" in metadata must be a whole number from 1", CQRS_SCHEMA_VERSION),
				 errhint("It is the version of the shape that the payload has, for upcasters; leave it out where there is one shape only.")));
}

/*
 * push_command adds what the event has from the command that is being executed, unless the caller gave it.
 */
static void
push_command(JsonbParseState **state, Jsonb *given, const char *key, text *id)
{
	JsonbValue	buffer;

	if (getKeyJsonValueFromContainer(&given->root, key, strlen(key), &buffer) != NULL)
		return;
	push_text(state, WJB_KEY, key);
	push_text(state, WJB_VALUE, text_to_cstring(id));
}

/*
 * complete_metadata adds to what the caller gave an id for the event, the user who is logged in, and the time; within a command what has caused the event,
 * which is the command, and what it belongs to, which is the outermost one.
 */
static Jsonb *
complete_metadata(Jsonb *given)
{
	JsonbParseState *state = NULL;
	char		time[MAXDATELEN + 1];
	int			utc = 0;
	text	   *command;
	text	   *outermost;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (JB_ROOT_COUNT(given) > 0)
		push_given(&state, given);
	if (cqrs_command_running(&command, &outermost))
	{
		push_command(&state, given, "causation_id", command);
		push_command(&state, given, "correlation_id", outermost);
	}
	push_text(&state, WJB_KEY, "event_id");
	push_text(&state, WJB_VALUE,
			  DatumGetCString(DirectFunctionCall1(uuid_out, DirectFunctionCall1(gen_random_uuid, (Datum) 0))));
	push_text(&state, WJB_KEY, "actor");
	push_text(&state, WJB_VALUE, GetUserNameFromId(GetSessionUserId(), false));
	push_text(&state, WJB_KEY, "occurred_at");
	push_text(&state, WJB_VALUE, JsonEncodeDateTime(time, TimestampTzGetDatum(cqrs_clock_now()), TIMESTAMPTZOID, &utc));
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

PG_FUNCTION_INFO_V1(cqrs_emit);

/*
 * cqrs.emit(event_type text, aggregate_type text, aggregate_id text, payload jsonb DEFAULT '{}', expected_version bigint DEFAULT NULL,
 *			 metadata jsonb DEFAULT '{}') RETURNS bigint
 *
 * Appends a domain event to the outbox, as part of this transaction, and returns the version that its aggregate has with it: 1, 2, 3 ...  The version counts
 * as a change that the command made, so whatever the transaction does next is behind the event.
 *
 * Errors: QC001 if the aggregate is not at expected_version (0: new), 40001 if it has changed since a transaction's one snapshot, 22004 null, 22023 empty
 * or no object or negative, 22001 too long, 25006 in a read-only transaction, 54000 too large, 55P03 if another transaction has just made
 * the outbox's first segment and is still open.
 */
Datum
cqrs_emit(PG_FUNCTION_ARGS)
{
	CqrsEvent	event;
	int64		expected;

	event.type = cqrs_arguments_key(fcinfo, ARG_EVENT_TYPE, "event_type");
	event.aggregate_type = cqrs_arguments_key(fcinfo, ARG_AGGREGATE_TYPE, "aggregate_type");
	event.aggregate_id = cqrs_arguments_key(fcinfo, ARG_AGGREGATE_ID, "aggregate_id");
	event.payload = cqrs_arguments_object(fcinfo, ARG_PAYLOAD, "payload");
	expected = version_argument(fcinfo);
	event.metadata = cqrs_arguments_object(fcinfo, ARG_METADATA, "metadata");
	check_metadata(event.metadata);
	PreventCommandIfReadOnly("cqrs.emit()");
	PreventCommandIfParallelMode("cqrs.emit()");

	event.version = cqrs_aggregate_advance(event.aggregate_type, event.aggregate_id, expected);
	event.metadata = complete_metadata(event.metadata);
	cqrs_outbox_append_event(&event);
	CommandCounterIncrement();
	PG_RETURN_INT64(event.version);
}
