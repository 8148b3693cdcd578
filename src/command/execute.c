/*
 * command/execute.c
 *		cqrs.execute: a command, done once for each id.
 *
 * Whoever comes with an id first has it locked while its handler runs, and leaves a row that says what came of it.  Whoever comes later waits for the lock,
 * or finds the row and waits for its transaction, and then returns what the row says; if the first failed there is no row, and it is the first itself.  So no
 * lock is held longer than the handler runs, however many commands a transaction executes.
 *
 * The handler runs as the caller.  Rows are written below SQL: nobody but us may write them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/arguments.h"
#include "base/call.h"
#include "base/clock.h"
#include "base/compat.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "command/command.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#define PRUNE_EVERY 64			/* executions, where no worker prunes */
#define PRUNE_ROWS	200

enum
{
	ARG_COMMAND, ARG_PAYLOAD, ARG_COMMAND_ID
};

/* A command whose handler is running, and the one within which. */
typedef struct Running
{
	text	   *id;
	struct Running *outer;
} Running;

static Running *running = NULL;

/*
 * cqrs_command_running tells which command is being executed.
 */
bool
cqrs_command_running(text **id, text **outermost)
{
	Running    *first = running;

	if (running == NULL)
		return false;
	while (first->outer != NULL)
		first = first->outer;
	*id = running->id;
	*outermost = first->id;
	return true;
}

/*
 * same_bytes tells whether two values of variable length are equal.
 */
static bool
same_bytes(const void *left, const void *right)
{
	return VARSIZE_ANY_EXHDR(left) == VARSIZE_ANY_EXHDR(right) &&
		memcmp(VARDATA_ANY(left), VARDATA_ANY(right), VARSIZE_ANY_EXHDR(left)) == 0;
}

/*
 * check_recursion refuses a command that is to be executed within itself: it would wait for its own end.
 */
static void
check_recursion(text *id)
{
	check_stack_depth();
	for (Running *within = running; within != NULL; within = within->outer)
		if (same_bytes(within->id, id))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("command with id \"%s\" is being executed by this transaction", text_to_cstring(id)),
					 errhint("Give a command that another one executes an id of its own.")));
}

/*
 * handler_of returns the function that handles a command, which the current user may execute.
 */
static Oid
handler_of(const char *name)
{
	Oid			handler = cqrs_command_handler(name);

	if (!OidIsValid(handler))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("command \"%s\" does not exist", name),
				 errhint("Create it with cqrs.create_command.")));
	if (!cqrs_call_fits(handler))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler of command \"%s\" is gone", name),
				 errhint("Drop the command with cqrs.drop_command and create it again.")));
	if (!cqrs_compat_may_execute(handler, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(handler));
	InvokeFunctionExecuteHook(handler);
	return handler;
}

/*
 * hash_of returns the SHA-256 of a payload's text, which is the same for all that jsonb holds equal but for trailing zeros of numbers.
 */
static bytea *
hash_of(Jsonb *payload)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoSpaces(&text, VARHDRSZ);
	(void) JsonbToCString(&text, &payload->root, VARSIZE(payload));
	SET_VARSIZE(text.data, text.len);
	return DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, PointerGetDatum(text.data)));
}

/*
 * refuse_conflict raises for an id that is another call's.
 */
static void
refuse_conflict(const CqrsCommandCall *there, const char *whose, const char *why)
{
	ereport(ERROR,
			(errcode(CQRS_ERRCODE_COMMAND_CONFLICT),
			 errmsg("command id \"%s\" was used %s", text_to_cstring(there->id), whose),
			 errdetail("%s", why),
			 errhint("Give every command an id of its own, and repeat the whole of it when retrying.")));
}

/*
 * may_replay tells whether the current user is, or could become, who executed a command: nobody else gets its result.
 */
static bool
may_replay(const CqrsCommandCall *there)
{
	Oid			role = get_role_oid(text_to_cstring(there->role), true);

	return superuser() || (OidIsValid(role) && has_privs_of_role(GetUserId(), role));
}

/*
 * check_replay refuses to take a call for one that was executed, unless it is the same.
 */
static void
check_replay(const CqrsCommandCall *call, const CqrsCommandCall *there)
{
	if (!same_bytes(call->command, there->command))
		refuse_conflict(there, "for another command",
						psprintf("Now the command is \"%s\".", text_to_cstring(call->command)));
	if (!may_replay(there))
		refuse_conflict(there, "by another user", psprintf("Now the user is \"%s\".", text_to_cstring(call->role)));
	if (!same_bytes(call->payload_hash, there->payload_hash))
		refuse_conflict(there, "for another payload",
						psprintf("Command \"%s\" has another payload now.", text_to_cstring(call->command)));
}

/*
 * claim takes the right to execute the command with the call's id, to be given back; or, if it was executed, finds out what came of it and returns false.
 *
 * Errors: QC002 the id is another call's; 40001 the transaction's one snapshot is older than what it was used for.
 */
static bool
claim(const CqrsCommandCall *call, CqrsCommandCall *there)
{
	for (;;)
	{
		TransactionId writer;
		CqrsCallFound found;

		cqrs_command_lock(call->id);
		found = cqrs_command_call_find(call->id, there, &writer);
		if (found == CQRS_CALL_NONE)
			return true;
		cqrs_command_unlock(call->id);
		if (found == CQRS_CALL_OPEN)
		{
			XactLockTableWait(writer, NULL, NULL, XLTW_None);
			continue;
		}
		check_replay(call, there);
		if (found == CQRS_CALL_UNSEEN)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent execution"),
					 errdetail("The command with id \"%s\" was executed by another transaction.", text_to_cstring(call->id)),
					 errhint("The transaction might succeed if retried.")));
		return false;
	}
}

/*
 * run has the handler do the command; what it emits meanwhile knows the command's id.
 */
static Jsonb *
run(Oid handler, text *id, Jsonb *payload)
{
	Running		self = {.id = id,.outer = running};
	FmgrInfo	function;
	Jsonb	   *volatile result = NULL;

	fmgr_info(handler, &function);
	running = &self;
	PG_TRY();
	{
		result = cqrs_call(&function, payload);
	}
	PG_FINALLY();
	{
		running = self.outer;
	}
	PG_END_TRY();
	return result;
}

/*
 * perform does the command and records what came of it.
 */
static void
perform(Oid handler, Jsonb *payload, CqrsCommandCall *call)
{
	call->at = cqrs_clock_now();
	call->result = run(handler, call->id, payload);
	call->microseconds = cqrs_clock_now() - call->at;
	call->token = GetTopFullTransactionId();
	cqrs_command_call_insert(call);
}

/*
 * prune_sometimes takes part in forgetting what need not be known any more, where no worker does.
 *
 * Not under one snapshot for all: there others would fail to serialise because of it.
 */
static void
prune_sometimes(void)
{
	static int	executed = 0;

	if (++executed % PRUNE_EVERY == 0 && !IsolationUsesXactSnapshot() && !cqrs_shared_worker_runs())
		(void) cqrs_command_prune(PRUNE_ROWS);
}

/*
 * cqrs_command_prune deletes some of what is known of commands from before cqrs.command_retention.
 */
bool
cqrs_command_prune(int limit)
{
	if (cqrs_setting_command_retention < 0)
		return false;
	return cqrs_command_call_prune(cqrs_clock_now() - (int64) cqrs_setting_command_retention * USECS_PER_SEC, limit) >= limit;
}

/*
 * push_key adds a key to a jsonb object under construction.
 */
static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	value = {.type = jbvString,.val.string = {.len = strlen(key),.val = unconstify(char *, key)}};

	(void) pushJsonbValue(state, WJB_KEY, &value);
}

/*
 * push_result adds what the handler returned.
 */
static void
push_result(JsonbParseState **state, Jsonb *result)
{
	JsonbValue	value = {.type = jbvNull};

	push_key(state, "result");
	if (result != NULL && !(JB_ROOT_IS_SCALAR(result) && JsonbExtractScalar(&result->root, &value)))
	{
		value.type = jbvBinary;
		value.val.binary.data = &result->root;
		value.val.binary.len = VARSIZE(result) - VARHDRSZ;
	}
	(void) pushJsonbValue(state, WJB_VALUE, &value);
}

/*
 * answer makes what cqrs.execute returns.
 *
 * The token of a command that was executed before a restore speaks of another cluster or database.  Here it was visible from the beginning: this
 * transaction's own covers it.
 */
static Jsonb *
answer(const CqrsCommandCall *call, bool replayed)
{
	FullTransactionId token = call->ours ? call->token : GetTopFullTransactionId();
	JsonbParseState *state = NULL;
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = psprintf(UINT64_FORMAT, U64FromFullTransactionId(token));
	value.val.string.len = strlen(value.val.string.val);
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_result(&state, call->result);
	push_key(&state, "token");
	(void) pushJsonbValue(&state, WJB_VALUE, &value);
	push_key(&state, "replayed");
	value.type = jbvBool;
	value.val.boolean = replayed;
	(void) pushJsonbValue(&state, WJB_VALUE, &value);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

PG_FUNCTION_INFO_V1(cqrs_execute);

/*
 * cqrs.execute(command text, payload jsonb, command_id text DEFAULT NULL) RETURNS jsonb
 *
 * Has the command's handler do it, and returns {"result": what the handler returned, "token": as cqrs.token() says it, "replayed": false}.  If the command
 * with that id was executed before, nothing is done, and the answer is the same but for "replayed": true.  Without an id it gets one that nobody else has.
 *
 * Errors: 42704 no such command; 42883 its handler is gone; 42501 the current user may not execute that; QC002 the id was used for another command or
 * payload, or by another user; 40001 it was used after the transaction's one snapshot; 55006 it is that of a command within which this one is executed; 22004
 * null; 22023 empty or no object; 22001 too long; 25006 in a read-only transaction; and whatever the handler raises.
 */
Datum
cqrs_execute(PG_FUNCTION_ARGS)
{
	bool		named = !PG_ARGISNULL(ARG_COMMAND_ID);
	CqrsCommandCall call = {.command = cqrs_arguments_key(fcinfo, ARG_COMMAND, "command"),.ours = true};
	Jsonb	   *payload = cqrs_arguments_object(fcinfo, ARG_PAYLOAD, "payload");
	CqrsCommandCall there;
	Oid			handler;

	call.id = named ? cqrs_arguments_key(fcinfo, ARG_COMMAND_ID, "command_id") :
		cstring_to_text(DatumGetCString(DirectFunctionCall1(uuid_out, DirectFunctionCall1(gen_random_uuid, (Datum) 0))));
	PreventCommandIfReadOnly("cqrs.execute()");
	PreventCommandIfParallelMode("cqrs.execute()");
	check_recursion(call.id);
	handler = handler_of(text_to_cstring(call.command));
	call.payload_hash = hash_of(payload);
	call.actor = cstring_to_text(GetUserNameFromId(GetSessionUserId(), false));
	call.role = cstring_to_text(GetUserNameFromId(GetUserId(), false));
	if (named && !claim(&call, &there))
	{
		cqrs_command_replay_insert(call.id);
		PG_RETURN_JSONB_P(answer(&there, true));
	}
	perform(handler, payload, &call);
	if (named)
		cqrs_command_unlock(call.id);
	prune_sometimes();
	PG_RETURN_JSONB_P(answer(&call, false));
}

PG_FUNCTION_INFO_V1(cqrs_speaks_of_here);

/*
 * cqrs_internal.speaks_of_here(system_identifier bigint, database oid, registry oid) RETURNS boolean
 *
 * Whether a row that names transactions names those of this cluster and database.
 */
Datum
cqrs_speaks_of_here(PG_FUNCTION_ARGS)
{
	Datum		origin[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2)};

	PG_RETURN_BOOL(cqrs_registry_is_ours(origin));
}
