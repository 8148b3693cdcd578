/*
 * registry/commands.c
 *		Rows of commands, of those that were executed, and of their being asked for again.
 *
 * Rows of calls are inserted and deleted, never updated.  Leaves to command/ what an id is good for, and who may execute what.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "base/clock.h"
#include "base/compat.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "registry/rows.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#define MAX_NAME 1004			/* bytes of a command's name with its end; there are 1000 at most */

enum
{
	COMMAND_NAME, COMMAND_HANDLER, COMMAND_COUNT
};

enum
{
	CALL_ID, CALL_COMMAND, CALL_ACTOR, CALL_ROLE, CALL_AT, CALL_MICROSECONDS, CALL_PAYLOAD_HASH, CALL_RESULT, CALL_TOKEN,
	CALL_SYSTEM, CALL_DATABASE, CALL_REGISTRY, CALL_COUNT
};

enum
{
	REPLAY_ID, REPLAY_AT, REPLAY_ACTOR, REPLAY_COUNT
};

/* The function that handles a command. */
typedef struct Handler
{
	char		name[MAX_NAME]; /* key */
	Oid			function;
} Handler;

static HTAB *handlers = NULL;	/* those asked for */
static Oid	handlers_table = InvalidOid; /* whose rows they were read from */
static Oid	calls_table = InvalidOid;	/* the one beside it */
static uint64 changes = 1;		/* of commands that we were told of */
static uint64 handlers_at = 0;	/* how many of these had been when the cache was begun */

/*
 * read_handler takes the handler out of a command's row.
 */
static void *
read_handler(const Datum *values, const bool *nulls)
{
	Oid		   *handler = palloc(sizeof(Oid));

	*handler = DatumGetObjectId(values[COMMAND_HANDLER]);
	return handler;
}

/*
 * by_name starts a scan for one command.
 */
static CqrsRowScan
by_name(const char *name)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_COMMAND,.index = "command_pkey"};

	cqrs_rows_key_text(&scan, COMMAND_NAME + 1, name);
	return scan;
}

/*
 * note_change counts that commands have changed.
 */
static void
note_change(Datum argument, Oid relation)
{
	if (relation == handlers_table || !OidIsValid(relation))
		changes++;
}

/*
 * forget_handlers empties the cache of handlers, if commands have changed since it was begun.
 */
static void
forget_handlers(void)
{
	HASHCTL		control = {.keysize = MAX_NAME,.entrysize = sizeof(Handler),.hcxt = CacheMemoryContext};

	if (handlers_at == changes)
		return;
	if (handlers == NULL)
		CacheRegisterRelcacheCallback(note_change, (Datum) 0);
	else
		hash_destroy(handlers);
	handlers = hash_create("cqrs handlers", 32, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	handlers_table = cqrs_registry_relation(CQRS_CAT_COMMAND);
	calls_table = cqrs_registry_relation(CQRS_CAT_COMMAND_CALL);
	handlers_at = changes;
}

/*
 * cqrs_command_handler returns the function that handles a command; kept for the backend's life, since it is asked for each execution.
 */
Oid
cqrs_command_handler(const char *name)
{
	Handler    *known;
	CqrsRowScan scan;
	Oid		   *handler;
	uint64		now;

	forget_handlers();
	known = hash_search(handlers, name, HASH_FIND, NULL);
	if (known != NULL)
		return known->function;
	now = changes;
	scan = by_name(name);
	handler = cqrs_rows_read_one(&scan, read_handler);
	if (handler == NULL)
		return InvalidOid;
	if (now == changes)
	{
		known = hash_search(handlers, name, HASH_ENTER, NULL);
		known->function = *handler;
	}
	return *handler;
}

/*
 * cqrs_command_insert adds a command.
 */
void
cqrs_command_insert(const char *name, Oid handler)
{
	Datum		values[COMMAND_COUNT];
	bool		nulls[COMMAND_COUNT] = {0};

	values[COMMAND_NAME] = CStringGetTextDatum(name);
	values[COMMAND_HANDLER] = ObjectIdGetDatum(handler);
	cqrs_rows_insert(CQRS_CAT_COMMAND, values, nulls);
	CacheInvalidateRelcacheByRelid(cqrs_registry_relation(CQRS_CAT_COMMAND));
	CommandCounterIncrement();
}

/*
 * cqrs_command_delete deletes a command; false if there is none.
 */
bool
cqrs_command_delete(const char *name)
{
	CqrsRowScan scan = by_name(name);
	bool		there = cqrs_rows_delete(&scan) > 0;

	CacheInvalidateRelcacheByRelid(cqrs_registry_relation(CQRS_CAT_COMMAND));
	CommandCounterIncrement();
	return there;
}

/*
 * read_call makes a CqrsCommandCall of a row.
 */
static void
read_call(TupleTableSlot *slot, CqrsCommandCall *call)
{
	Datum	   *values = slot->tts_values;

	slot_getallattrs(slot);
	call->id = DatumGetTextPCopy(values[CALL_ID]);
	call->command = DatumGetTextPCopy(values[CALL_COMMAND]);
	call->actor = DatumGetTextPCopy(values[CALL_ACTOR]);
	call->role = DatumGetTextPCopy(values[CALL_ROLE]);
	call->at = DatumGetTimestampTz(values[CALL_AT]);
	call->microseconds = DatumGetInt64(values[CALL_MICROSECONDS]);
	call->payload_hash = DatumGetByteaPCopy(values[CALL_PAYLOAD_HASH]);
	call->result = slot->tts_isnull[CALL_RESULT] ? NULL : DatumGetJsonbPCopy(values[CALL_RESULT]);
	call->token = DatumGetFullTransactionId(values[CALL_TOKEN]);
	call->ours = cqrs_registry_is_ours(&values[CALL_SYSTEM]);
}

/*
 * is_seen tells whether the transaction's one snapshot, if it has one, shows a row that is committed or its own.
 */
static bool
is_seen(Relation rel, TupleTableSlot *slot)
{
	bool		isnull;
	Datum		writer = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);

	if (!IsolationUsesXactSnapshot() || TransactionIdIsCurrentTransactionId(DatumGetTransactionId(writer)))
		return true;
	return table_tuple_satisfies_snapshot(rel, slot, GetTransactionSnapshot());
}

/*
 * next_call goes on to the next row with the id; the index knows hashes only.
 */
static bool
next_call(IndexScanDesc scan, text *id, TupleTableSlot *slot)
{
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		Datum		there = slot_getattr(slot, CALL_ID + 1, &isnull);

		if (DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID, there, PointerGetDatum(id))))
			return true;
	}
	return false;
}

/*
 * cqrs_command_call_find looks for the call with the id; there is one at most, since who makes one has the lock on the id, and has looked.
 *
 * By a snapshot that shows what is not committed yet: under the transaction's own a call could be missing that another has made just now.  One that is being
 * deleted is there still.
 */
CqrsCallFound
cqrs_command_call_find(text *id, CqrsCommandCall *call, TransactionId *writer)
{
	Relation	rel = table_open(calls_table, RowExclusiveLock);
	Relation	ids = index_open(get_relname_relid("command_call_id", RelationGetNamespace(rel)), RowExclusiveLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	CqrsCallFound found = CQRS_CALL_NONE;
	SnapshotData dirty;
	IndexScanDesc scan;
	ScanKeyData condition;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&condition, CALL_ID + 1, HTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(id));
	scan = cqrs_compat_index_beginscan(rel, ids, &dirty, 1);
	index_rescan(scan, &condition, 1, NULL, 0);
	if (next_call(scan, id, slot))
	{
		found = CQRS_CALL_OPEN;
		*writer = dirty.xmin;
		if (!TransactionIdIsValid(dirty.xmin))
		{
			found = is_seen(rel, slot) ? CQRS_CALL_THERE : CQRS_CALL_UNSEEN;
			read_call(slot, call);
		}
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(ids, NoLock);
	table_close(rel, NoLock);
	return found;
}

/*
 * cqrs_command_call_insert adds a call.
 */
void
cqrs_command_call_insert(const CqrsCommandCall *call)
{
	Datum		values[CALL_COUNT];
	bool		nulls[CALL_COUNT] = {0};

	values[CALL_ID] = PointerGetDatum(call->id);
	values[CALL_COMMAND] = PointerGetDatum(call->command);
	values[CALL_ACTOR] = PointerGetDatum(call->actor);
	values[CALL_ROLE] = PointerGetDatum(call->role);
	values[CALL_AT] = TimestampTzGetDatum(call->at);
	values[CALL_MICROSECONDS] = Int64GetDatum(call->microseconds);
	values[CALL_PAYLOAD_HASH] = PointerGetDatum(call->payload_hash);
	values[CALL_RESULT] = PointerGetDatum(call->result);
	nulls[CALL_RESULT] = call->result == NULL;
	values[CALL_TOKEN] = FullTransactionIdGetDatum(call->token);
	cqrs_registry_put_origin(&values[CALL_SYSTEM]);
	cqrs_rows_insert(CQRS_CAT_COMMAND_CALL, values, nulls);
}

/*
 * cqrs_command_replay_insert records that a call was asked for again: now, and by who is logged in.
 */
void
cqrs_command_replay_insert(text *id)
{
	Datum		values[REPLAY_COUNT];
	bool		nulls[REPLAY_COUNT] = {0};

	values[REPLAY_ID] = PointerGetDatum(id);
	values[REPLAY_AT] = TimestampTzGetDatum(cqrs_clock_now());
	values[REPLAY_ACTOR] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), false));
	cqrs_rows_insert(CQRS_CAT_COMMAND_REPLAY, values, nulls);
}

/*
 * lock_of returns the lock that stands for an id, and for others with the same 48 bits of hash.
 */
static LOCKTAG
lock_of(text *id)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), 0);
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, calls_table, (uint32) hash, (uint16) (hash >> 32));
	return tag;
}

/*
 * cqrs_command_lock waits for the right to execute the command with the id.
 */
void
cqrs_command_lock(text *id)
{
	LOCKTAG		tag = lock_of(id);

	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/*
 * cqrs_command_unlock gives it back.
 */
void
cqrs_command_unlock(text *id)
{
	LOCKTAG		tag = lock_of(id);

	(void) LockRelease(&tag, ExclusiveLock, false);
}

/*
 * prune deletes rows from before a time, at most 'limit', found by an index on the column of times; returns how many.  Nobody is waited for.
 */
static int
prune(CqrsCatalog catalog, const char *index, AttrNumber column, TimestampTz before, int limit)
{
	Relation	rel = table_open(cqrs_registry_relation(catalog), RowExclusiveLock);
	Relation	times = index_open(get_relname_relid(index, RelationGetNamespace(rel)), RowExclusiveLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData condition;
	SysScanDesc scan;
	HeapTuple	tuple;
	int			count = 0;

	ScanKeyInit(&condition, column, BTLessStrategyNumber, F_TIMESTAMPTZ_LT, TimestampTzGetDatum(before));
	scan = systable_beginscan_ordered(rel, times, snapshot, 1, &condition);
	while (count < limit && HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		TM_FailureData failure;
		TM_Result	result;

		CHECK_FOR_INTERRUPTS();
		result = table_tuple_delete(rel, &tuple->t_self, GetCurrentCommandId(true), InvalidSnapshot, InvalidSnapshot, false,
									&failure, false);
		count += result == TM_Ok;
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(times, NoLock);
	table_close(rel, NoLock);
	return count;
}

/*
 * cqrs_command_call_prune deletes what is known of old calls; returns how many rows that were.
 */
int
cqrs_command_call_prune(TimestampTz before, int limit)
{
	return prune(CQRS_CAT_COMMAND_CALL, "command_call_at", CALL_AT + 1, before, limit) +
		prune(CQRS_CAT_COMMAND_REPLAY, "command_replay_at", REPLAY_AT + 1, before, limit);
}
