/*
 * command/aggregate.c
 *		The version of each aggregate: a row that counts its events.
 *
 * Two transactions that emit for one aggregate meet at its row.  The second waits for the first, and in READ COMMITTED then goes on from the version that
 * the first has left; a transaction with one snapshot for all fails to serialise instead, as it would by UPDATE.  Counting is INSERT ... ON CONFLICT DO
 * UPDATE, with the server's own algorithm, but below SQL: one look at the index and one write, which is a HOT update but for the first.
 *
 * A row that this transaction has written is remembered with where it is.  Looking it up would step over all the versions that the transaction has made of it,
 * so a load of many events for one aggregate would take the square of their number.
 *
 * Asks for no right of the current user.  Wants a transaction that may write; the lock on the table stays to its end.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "base/compat.h"
#include "base/index.h"
#include "base/locks.h"
#include "catalog/index.h"
#include "command/command.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#define MAX_WRITTEN		16384	/* rows remembered */

enum
{
	COL_TYPE, COL_ID, COL_VERSION, COL_COUNT
};

/* A row that this transaction has written. */
typedef struct Written
{
	uint64		hash;			/* key: of type and id */
	text	   *type;			/* NULL: none */
	text	   *id;
	ItemPointerData tid;
	int64		version;
} Written;

static HTAB *written = NULL;	/* NULL: none yet in this transaction */
static MemoryContext written_memory;
static Oid	written_file;		/* in which they are: another table, or this one written anew, has others there */

/* An aggregate about to be counted on. */
typedef struct Counter
{
	text	   *type;
	text	   *id;
	int64		expected;
	Relation	rel;
	Relation	key;			/* its primary key's index */
	TupleTableSlot *slot;		/* of the row found */
	ItemPointerData tid;
	int64		version;		/* of it */
} Counter;

/* What became of a try. */
typedef enum Try
{
	TRY_DONE,
	TRY_AGAIN					/* somebody else has changed the row */
} Try;

/* What a look at rows of transactions that are still open shows. */
typedef enum Others
{
	OTHERS_NONE,
	OTHERS_DONE,				/* a row that is committed */
	OTHERS_ENDED				/* there was a transaction at it, which has ended now */
} Others;

/*
 * forget_rows forgets all rows, and frees what they took: subtransactions may roll back any number of times in one transaction.
 */
static void
forget_rows(void)
{
	if (written == NULL)
		return;
	written = NULL;
	MemoryContextDelete(written_memory);
}

/*
 * forget_subtransaction forgets all rows when a subtransaction rolls back: it may have written some of them.
 */
static void
forget_subtransaction(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_rows();
}

/*
 * forget_transaction forgets all rows at the end of the transaction, whose memory goes with it.
 */
static void
forget_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE || event == XACT_EVENT_ABORT)
		written = NULL;
}

/*
 * begin_written makes the table of rows written, empty.
 */
static void
begin_written(Oid file)
{
	static bool registered = false;
	HASHCTL		info = {.keysize = sizeof(uint64),.entrysize = sizeof(Written)};

	if (!registered)
	{
		RegisterXactCallback(forget_transaction, NULL);
		RegisterSubXactCallback(forget_subtransaction, NULL);
		registered = true;
	}
	written_memory = AllocSetContextCreate(TopTransactionContext, "cqrs aggregates", ALLOCSET_DEFAULT_SIZES);
	info.hcxt = written_memory;
	written = hash_create("cqrs aggregates", 64, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	written_file = file;
}

/*
 * same_text tells whether two texts are equal, byte by byte.
 */
static bool
same_text(text *left, text *right)
{
	return VARSIZE_ANY_EXHDR(left) == VARSIZE_ANY_EXHDR(right) &&
		memcmp(VARDATA_ANY(left), VARDATA_ANY(right), VARSIZE_ANY_EXHDR(left)) == 0;
}

/*
 * hash_text hashes a text.
 */
static uint64
hash_text(text *value, uint64 seed)
{
	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), seed);
}

/*
 * hash_of hashes an aggregate.
 */
static uint64
hash_of(const Counter *counter)
{
	return hash_text(counter->id, hash_text(counter->type, 0));
}

/*
 * recall finds the aggregate's row among those this transaction has written.
 */
static bool
recall(Counter *counter)
{
	uint64		hash;
	Written    *row;

	if (written == NULL || written_file != counter->rel->rd_rel->relfilenode)
		return false;
	hash = hash_of(counter);
	row = hash_search(written, &hash, HASH_FIND, NULL);
	if (row == NULL || row->type == NULL || !same_text(row->type, counter->type) || !same_text(row->id, counter->id))
		return false;
	counter->tid = row->tid;
	counter->version = row->version;
	return true;
}

/*
 * copy_text copies a text beside the rows written.
 */
static text *
copy_text(text *value)
{
	text	   *copy = MemoryContextAlloc(written_memory, VARSIZE_ANY(value));

	memcpy(copy, value, VARSIZE_ANY(value));
	return copy;
}

/*
 * remember notes where the row now is.  With very many of them it begins anew.
 */
static void
remember(const Counter *counter, ItemPointer tid, int64 version)
{
	uint64		hash = hash_of(counter);
	Written    *row;
	bool		found;

	if (written != NULL && (hash_get_num_entries(written) >= MAX_WRITTEN || written_file != counter->rel->rd_rel->relfilenode))
		forget_rows();
	if (written == NULL)
		begin_written(counter->rel->rd_rel->relfilenode);
	row = hash_search(written, &hash, HASH_ENTER, &found);
	if (!found || row->type == NULL || !same_text(row->type, counter->type) || !same_text(row->id, counter->id))
	{
		row->type = NULL;
		row->id = copy_text(counter->id);
		row->type = copy_text(counter->type);
	}
	row->tid = *tid;
	row->version = version;
}

/*
 * refuse_version raises for an aggregate that is not at the version expected.
 *
 * A transaction that catches the error has learned something by it, and SERIALIZABLE has to know.
 */
static void
refuse_version(const Counter *counter, int64 version)
{
	const char *type = text_to_cstring(counter->type);
	const char *id = text_to_cstring(counter->id);

	if (IsolationIsSerializable())
		PredicateLockRelation(counter->rel, GetTransactionSnapshot());
	ereport(ERROR,
			(errcode(CQRS_ERRCODE_VERSION_CONFLICT),
			 version == 0 ? errmsg("aggregate %s \"%s\" has no events yet", type, id) :
			 counter->expected == 0 ? errmsg("aggregate %s \"%s\" is not new", type, id) :
			 counter->expected > version ? errmsg("aggregate %s \"%s\" has not reached the expected version", type, id) :
			 errmsg("aggregate %s \"%s\" has changed since the expected version", type, id),
			 errdetail("The expected version is %lld, the aggregate's version is %lld.", (long long) counter->expected,
					   (long long) version),
			 errhint("Read the aggregate as it is now, and decide again.")));
}

/*
 * refuse_serialization raises where the row was changed since the transaction's one snapshot.
 */
static void
refuse_serialization(const Counter *counter)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update"),
			 errdetail("Another transaction has emitted an event for the same aggregate."),
			 errhint("The transaction might succeed if retried.")));
}

/*
 * look_up finds the aggregate's row under a snapshot.
 *
 * In SERIALIZABLE it goes through all versions of the row and asks for each whether it is visible: an index scan under the transaction's snapshot would take
 * predicate locks on pages, and transactions that emit for different aggregates would fail for nothing.  What is read here is written next.
 */
static bool
look_up(Counter *counter, Snapshot snapshot)
{
	bool		any = IsolationIsSerializable() && IsMVCCSnapshot(snapshot);
	IndexScanDesc scan = cqrs_compat_index_beginscan(counter->rel, counter->key, any ? SnapshotAny : snapshot, 2);
	ScanKeyData keys[2];
	bool		found;
	bool		isnull;

	ScanKeyInit(&keys[0], COL_TYPE + 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(counter->type));
	ScanKeyInit(&keys[1], COL_ID + 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(counter->id));
	index_rescan(scan, keys, lengthof(keys), NULL, 0);
	do
		found = index_getnext_slot(scan, ForwardScanDirection, counter->slot);
	while (found && any && !table_tuple_satisfies_snapshot(counter->rel, counter->slot, snapshot));
	if (found)
	{
		counter->tid = counter->slot->tts_tid;
		counter->version = DatumGetInt64(slot_getattr(counter->slot, COL_VERSION + 1, &isnull));
	}
	index_endscan(scan);
	return found;
}

/*
 * find_writer looks for the row with what is not committed yet, and returns the transaction that is at it; invalid if there is none.  'dirty' gets what is
 * known of it.  False if there is no row at all.
 */
static bool
find_writer(Counter *counter, SnapshotData *dirty, TransactionId *writer)
{
	InitDirtySnapshot(*dirty);
	if (!look_up(counter, dirty))
		return false;
	ExecClearTuple(counter->slot);
	*writer = TransactionIdIsValid(dirty->xmin) ? dirty->xmin : dirty->xmax;
	return true;
}

/*
 * await_others looks for the row with what is not committed yet, and waits for the transaction that is at it.
 */
static Others
await_others(Counter *counter)
{
	SnapshotData dirty;
	TransactionId writer;

	if (!find_writer(counter, &dirty, &writer))
		return OTHERS_NONE;
	if (!TransactionIdIsValid(writer))
		return OTHERS_DONE;
	if (dirty.speculativeToken != 0)
		SpeculativeInsertionWait(writer, dirty.speculativeToken);
	else
		XactLockTableWait(writer, counter->rel, &counter->tid, XLTW_InsertIndexUnique);
	return OTHERS_ENDED;
}

/*
 * make_row returns the aggregate's row with that version, to be written.
 */
static TupleTableSlot *
make_row(const Counter *counter, int64 version)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(counter->rel), &TTSOpsVirtual);

	slot->tts_values[COL_TYPE] = PointerGetDatum(counter->type);
	slot->tts_values[COL_ID] = PointerGetDatum(counter->id);
	slot->tts_values[COL_VERSION] = Int64GetDatum(version);
	memset(slot->tts_isnull, 0, sizeof(bool) * COL_COUNT);
	return ExecStoreVirtualTuple(slot);
}

/*
 * insert_key adds the row to the index of the primary key; a new row's is false if the key may be there already.
 *
 * A row that has moved has the key that it had: asking whether it is unique would be to step over all its versions.
 */
static bool
insert_key(const Counter *counter, TupleTableSlot *slot, bool moved)
{
	static IndexInfo info = {.type = T_IndexInfo};	/* of which a btree needs nothing */

	StaticAssertStmt(COL_TYPE == 0 && COL_ID == 1, "the key's columns come first");
	return index_insert(counter->key, slot->tts_values, slot->tts_isnull, &slot->tts_tid, counter->rel,
						moved ? UNIQUE_CHECK_NO : UNIQUE_CHECK_PARTIAL, moved, &info) || moved;
}

/*
 * insert_other adds the row to another index: one that is being built anew, or that somebody else has put there.
 */
static bool
insert_other(const Counter *counter, Oid oid, TupleTableSlot *slot, bool moved)
{
	Relation	index = index_open(oid, RowExclusiveLock);
	bool		unique = cqrs_index_insert(index, counter->rel, slot, moved ? UNIQUE_CHECK_NO : UNIQUE_CHECK_PARTIAL, moved);

	index_close(index, NoLock);
	return unique;
}

/*
 * insert_entries adds the row to all indexes; a new row's are false if the key may be there already.
 */
static bool
insert_entries(const Counter *counter, TupleTableSlot *slot, bool moved)
{
	bool		unique = true;
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(counter->rel))
		if (lfirst_oid(cell) == RelationGetRelid(counter->key))
			unique &= insert_key(counter, slot, moved);
		else
			unique &= insert_other(counter, lfirst_oid(cell), slot, moved);
	return unique;
}

/*
 * insert_row makes the aggregate's first row, unless somebody else has made one or is just doing so.
 */
static Try
insert_row(Counter *counter)
{
	TransactionId xid = GetCurrentTransactionId();
	uint32		token = SpeculativeInsertionLockAcquire(xid);
	TupleTableSlot *slot = make_row(counter, 1);
	bool		unique;

	table_tuple_insert_speculative(counter->rel, slot, GetCurrentCommandId(true), 0, NULL, token);
	unique = insert_entries(counter, slot, false);
	table_tuple_complete_speculative(counter->rel, slot, token, unique);
	SpeculativeInsertionLockRelease(xid);
	if (unique)
	{
		counter->version = 1;
		remember(counter, &slot->tts_tid, 1);
	}
	ExecDropSingleTupleTableSlot(slot);
	return unique ? TRY_DONE : TRY_AGAIN;
}

/*
 * changed says what follows from what befell the row since it was found.
 */
static Try
changed(const Counter *counter, TM_Result result)
{
	if (result != TM_Updated && result != TM_Deleted)
		elog(ERROR, "version of an aggregate cannot be written: result %d", (int) result);
	if (IsolationUsesXactSnapshot())
		refuse_serialization(counter);
	return TRY_AGAIN;
}

/*
 * update_row counts on from the row found.
 */
static Try
update_row(Counter *counter)
{
	TupleTableSlot *slot = make_row(counter, counter->version + 1);
	TM_FailureData failure;
	LockTupleMode mode;
	CqrsUpdateIndexes indexes;
	TM_Result	result;

	result = table_tuple_update(counter->rel, &counter->tid, slot, GetCurrentCommandId(true), InvalidSnapshot, InvalidSnapshot,
								true, &failure, &mode, &indexes);
	if (result == TM_Ok)
	{
		if (indexes)
			(void) insert_entries(counter, slot, true);
		counter->version++;
		remember(counter, &slot->tts_tid, counter->version);
	}
	ExecDropSingleTupleTableSlot(slot);
	return result == TM_Ok ? TRY_DONE : changed(counter, result);
}

/*
 * check_conflict raises for a row that is at another version than expected, once it is certain that it will stay there.
 */
static Try
check_conflict(Counter *counter)
{
	int64		version = counter->version;
	TM_FailureData failure;
	TM_Result	result;

	result = table_tuple_lock(counter->rel, &counter->tid, InvalidSnapshot, counter->slot, GetCurrentCommandId(false),
							  LockTupleNoKeyExclusive, LockWaitBlock, 0, &failure);
	if (result != TM_Ok)
		return changed(counter, result);
	refuse_version(counter, version);
	return TRY_DONE;
}

/*
 * begin_new counts an aggregate that the snapshot does not show.
 */
static Try
begin_new(Counter *counter)
{
	Others		others;

	if (counter->expected <= 0 && insert_row(counter) == TRY_DONE)
		return TRY_DONE;
	others = await_others(counter);
	if (others == OTHERS_NONE && counter->expected > 0)
		refuse_version(counter, 0);
	if (others == OTHERS_DONE && IsolationUsesXactSnapshot())
		refuse_serialization(counter);
	return TRY_AGAIN;
}

/*
 * try_advance makes one try to count on, from what is committed by now.
 */
static Try
try_advance(Counter *counter)
{
	bool		found = recall(counter);

	if (!found)
	{
		PushActiveSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot());
		found = look_up(counter, GetActiveSnapshot());
		PopActiveSnapshot();
	}
	if (!found)
		return begin_new(counter);
	if (counter->expected != CQRS_ANY_VERSION && counter->expected != counter->version)
		return check_conflict(counter);
	return update_row(counter);
}

/*
 * open_counter prepares to read or write an aggregate's row.
 */
static void
open_counter(Counter *counter, LOCKMODE mode)
{
	counter->rel = table_open(cqrs_registry_relation(CQRS_CAT_AGGREGATE), mode);
	counter->key = index_open(cqrs_compat_primary_key(counter->rel), mode);
	counter->slot = table_slot_create(counter->rel, NULL);
}

/*
 * close_counter ends that; a lock to write stays.
 */
static void
close_counter(Counter *counter)
{
	ExecDropSingleTupleTableSlot(counter->slot);
	index_close(counter->key, NoLock);
	table_close(counter->rel, NoLock);
}

/*
 * cqrs_aggregate_advance counts an aggregate's next version.
 *
 * Errors: QC001 if it is not at the expected version, 40001 in REPEATABLE READ and SERIALIZABLE if it has changed since the snapshot.
 */
int64
cqrs_aggregate_advance(text *type, text *id, int64 expected)
{
	Counter		counter = {.type = type, .id = id, .expected = expected};

	open_counter(&counter, RowExclusiveLock);
	while (try_advance(&counter) == TRY_AGAIN)
	{
		ExecClearTuple(counter.slot);
		CHECK_FOR_INTERRUPTS();
	}
	close_counter(&counter);
	return counter.version;
}

/*
 * cqrs_aggregate_version reads an aggregate's version.
 */
int64
cqrs_aggregate_version(text *type, text *id, Snapshot snapshot)
{
	Counter		counter = {.type = type,.id = id};

	open_counter(&counter, AccessShareLock);
	if (!look_up(&counter, snapshot))
		counter.version = 0;
	close_counter(&counter);
	return counter.version;
}

/*
 * await_end waits for a transaction's end, given its id.
 */
static void
await_end(void *xid)
{
	XactLockTableWait(*(TransactionId *) xid, NULL, NULL, XLTW_None);
}

/*
 * cqrs_aggregate_outwait waits until the transaction has ended that is emitting for an aggregate now.
 *
 * There is at most one, and it is at the row.  It waits for the transaction, not for the row, so who emits next passes.
 *
 * Errors: 42704 if there is no such aggregate, 55P03 if the transaction lasts longer than that.
 */
void
cqrs_aggregate_outwait(text *type, text *id, int timeout_ms)
{
	Counter		counter = {.type = type,.id = id};
	SnapshotData dirty;
	TransactionId writer;

	open_counter(&counter, AccessShareLock);
	if (!find_writer(&counter, &dirty, &writer))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("aggregate %s \"%s\" has no events", text_to_cstring(type), text_to_cstring(id)),
				 errhint("If a table is meant, say so: cqrs.erase(source => ..., key => ..., reason => ...).")));
	if (TransactionIdIsValid(writer) && !cqrs_locks_await(await_end, &writer, timeout_ms))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("aggregate %s \"%s\" has been emitted for by one transaction for longer than cqrs.lock_timeout",
						text_to_cstring(type), text_to_cstring(id)),
				 errdetail("Transaction %u is still open.", writer),
				 errhint("Wait for it to end, or end it, and try again.")));
	close_counter(&counter);
}
