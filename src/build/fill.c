/*
 * build/fill.c
 *		The rows of a query into a version's table, fast: many at a time, as COPY does, and frozen.
 *
 * The table is emptied first, which gives it new files in this transaction: whatever an attempt that fails or is cancelled has written is gone with it.
 * It is why rows can be written frozen, too: no later VACUUM has to write them again, index-only scans need not look at them, and a
 * transaction whose snapshot is older than the fill finds in the table what the fill wrote, and not nothing.
 *
 * Progress is reported as COPY reports it.  Wants an SPI nesting, the owner's identity and settings, and ACCESS EXCLUSIVE on the table, to which nobody else
 * writes; indexes that somebody has put on it already are made anew at the end.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "apply/apply.h"
#include "base/names.h"
#include "base/spi.h"
#include "build/parts.h"
#include "commands/progress.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/backend_progress.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#define BATCH_ROWS	1000
#define BATCH_BYTES (64 * 1024)

/* Where in the progress of COPY, which does not use it, stands how many rows are expected. */
#define PROGRESS_EXPECTED	10

/* Receives a query's rows. */
typedef struct Filler
{
	DestReceiver receiver;
	Relation	table;
	BulkInsertState state;
	CommandId	command;
	MemoryContext memory;		/* of the slots */
	MemoryContext rows_memory;	/* of what writing a batch needs; reset with each */
	TupleTableSlot *slots[BATCH_ROWS];
	int			nrows;			/* of the batch at hand */
	Size		nbytes;
	uint64		done;
	double		expected;
} Filler;

/*
 * flush writes the batch at hand.
 */
static void
flush(Filler *filler)
{
	MemoryContext before = MemoryContextSwitchTo(filler->rows_memory);

	table_multi_insert(filler->table, filler->slots, filler->nrows, filler->command,
					   TABLE_INSERT_SKIP_FSM | TABLE_INSERT_FROZEN, filler->state);
	MemoryContextSwitchTo(before);
	MemoryContextReset(filler->rows_memory);
	for (int i = 0; i < filler->nrows; i++)
		ExecClearTuple(filler->slots[i]);
	filler->done += filler->nrows;
	filler->nrows = 0;
	filler->nbytes = 0;
	pgstat_progress_update_param(PROGRESS_COPY_TUPLES_PROCESSED, filler->done);
}

/*
 * start publishes what is to come.
 */
static void
start(DestReceiver *self, int operation, TupleDesc row)
{
	Filler	   *filler = (Filler *) self;

	pgstat_progress_update_param(PROGRESS_EXPECTED, (int64) filler->expected);
}

/*
 * receive takes one row.
 */
static bool
receive(TupleTableSlot *row, DestReceiver *self)
{
	Filler	   *filler = (Filler *) self;
	TupleTableSlot *slot;
	bool		should_free;

	if (filler->slots[filler->nrows] == NULL)
	{
		MemoryContext before = MemoryContextSwitchTo(filler->memory);

		filler->slots[filler->nrows] = table_slot_create(filler->table, NULL);
		MemoryContextSwitchTo(before);
	}
	slot = filler->slots[filler->nrows++];
	ExecCopySlot(slot, row);
	filler->nbytes += ExecFetchSlotHeapTuple(slot, false, &should_free)->t_len;
	if (filler->nrows == BATCH_ROWS || filler->nbytes >= BATCH_BYTES)
		flush(filler);
	return true;
}

/*
 * finish writes the last batch.
 */
static void
finish(DestReceiver *self)
{
	Filler	   *filler = (Filler *) self;

	if (filler->nrows > 0)
		flush(filler);
}

/*
 * destroy has nothing to free: the memory is the caller's.
 */
static void
destroy(DestReceiver *self)
{
}

/*
 * pour runs the query into the table; returns the number of rows.
 */
static uint64
pour(Relation table, const char *query, Snapshot snapshot)
{
	Filler	   *filler = palloc0(sizeof(Filler));
	uint64		done;

	filler->receiver.receiveSlot = receive;
	filler->receiver.rStartup = start;
	filler->receiver.rShutdown = finish;
	filler->receiver.rDestroy = destroy;
	filler->receiver.mydest = DestNone;
	filler->table = table;
	filler->state = GetBulkInsertState();
	filler->command = GetCurrentCommandId(true);
	filler->memory = CurrentMemoryContext;
	filler->rows_memory = AllocSetContextCreate(CurrentMemoryContext, "cqrs fill rows", ALLOCSET_DEFAULT_SIZES);

	done = cqrs_spi_pour(query, snapshot, &filler->receiver, &filler->expected);

	FreeBulkInsertState(filler->state);
	table_finish_bulk_insert(table, TABLE_INSERT_SKIP_FSM | TABLE_INSERT_FROZEN);
	for (int i = 0; i < BATCH_ROWS && filler->slots[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(filler->slots[i]);
	MemoryContextDelete(filler->rows_memory);
	pfree(filler);
	return done;
}

/*
 * cqrs_fill_table fills a version's table with what 'query' yields under the snapshot; its columns are the table's, in order.  Returns the number of rows.
 */
uint64
cqrs_fill_table(Oid relid, const char *query, Snapshot snapshot)
{
	const int	params[] = {PROGRESS_COPY_COMMAND, PROGRESS_COPY_TYPE};
	const int64 values[] = {PROGRESS_COPY_COMMAND_FROM, PROGRESS_COPY_TYPE_CALLBACK};
	Relation	table = table_open(relid, AccessExclusiveLock);
	bool		indexed = RelationGetIndexList(table) != NIL;
	uint64		done;

	cqrs_apply_empty(table);
	pgstat_progress_start_command(PROGRESS_COMMAND_COPY, relid);
	pgstat_progress_update_multi_param(lengthof(params), params, values);
	done = pour(table, query, snapshot);
	cqrs_effort_written(done);
	pgstat_progress_end_command();
	table_close(table, NoLock);
	CommandCounterIncrement();
	if (indexed)
		cqrs_spi_run(psprintf("REINDEX TABLE %s", cqrs_name_relation(relid)));
	return done;
}
