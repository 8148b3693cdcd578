/*
 * base/spi.c
 *		The one door to SQL from C: checked results, the owner's identity, named relations, cursors.
 *
 * Wants a transaction.  cqrs_spi_connect makes SPI's memory the current one; every other function leaves the current one as it
 * was, whatever SPI does.  What must live longer than the nesting is copied to memory of the caller's.  Identity and settings
 * that an error leaves changed are put back by the abort of the (sub)transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/offer.h"
#include "base/snapshot.h"
#include "base/spi.h"
#include "catalog/pg_authid.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/plancache.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#define CURSOR_FETCH_ROWS 1000

struct CqrsCursor
{
	Portal		portal;
	SPITupleTable *rows;		/* of the fetch in hand, or NULL */
	uint64		next;			/* into rows */
};

/*
 * check_result raises if an SPI call failed; 'what' says which, 'sql' may be NULL.
 */
static void
check_result(int result, const char *what, const char *sql)
{
	if (result < 0)
		elog(ERROR, "%s failed: %s%s%s", what, SPI_result_code_string(result), sql ? " in: " : "", sql ? sql : "");
}

/*
 * cqrs_identity_enter becomes 'owner' in a security-restricted context, under recorded settings.
 *
 * Settings are applied as the server's own SET LOCAL would, in a level of their own.  Row security that would filter rows is an error instead: a
 * read model of some of the rows would be silently wrong.  Compiling statements that run for a few rows at a time would take longer than running them.
 */
void
cqrs_identity_enter(CqrsIdentity *saved, Oid owner, List *settings)
{
	GetUserIdAndSecContext(&saved->user, &saved->sec_context);
	saved->guc_level = NewGUCNestLevel();
	saved->held = false;
	for (int i = 0; i + 1 < list_length(settings); i += 2)
		(void) set_config_option(strVal(list_nth(settings, i)), strVal(list_nth(settings, i + 1)),
								 PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	SetUserIdAndSecContext(owner, saved->sec_context | SECURITY_RESTRICTED_OPERATION);
}

/*
 * cqrs_identity_enter_system becomes the bootstrap superuser with a safe search_path, for work on our own catalog.
 */
void
cqrs_identity_enter_system(CqrsIdentity *saved)
{
	GetUserIdAndSecContext(&saved->user, &saved->sec_context);
	saved->guc_level = NewGUCNestLevel();
	saved->held = cqrs_snapshot_hold();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, saved->sec_context | SECURITY_LOCAL_USERID_CHANGE);
}

/*
 * cqrs_identity_leave puts back who we were and all settings changed since, by us or by the statements run.
 */
void
cqrs_identity_leave(const CqrsIdentity *saved)
{
	cqrs_snapshot_let_go(saved->held);
	AtEOXact_GUC(false, saved->guc_level);
	SetUserIdAndSecContext(saved->user, saved->sec_context);
}

/*
 * cqrs_spi_connect opens a nesting of SPI.
 */
void
cqrs_spi_connect(void)
{
	check_result(SPI_connect(), "SPI_connect", NULL);
}

/*
 * cqrs_spi_finish closes the nesting and frees what it allocated.
 */
void
cqrs_spi_finish(void)
{
	check_result(SPI_finish(), "SPI_finish", NULL);
}

/*
 * cqrs_spi_run runs one statement of any kind, as a volatile function would.
 */
uint64
cqrs_spi_run(const char *sql)
{
	MemoryContext caller = CurrentMemoryContext;

	check_result(SPI_execute(sql, false, 0), "SPI_execute", sql);
	MemoryContextSwitchTo(caller);
	return SPI_processed;
}

/*
 * cqrs_spi_run_args runs one statement with parameters.
 */
uint64
cqrs_spi_run_args(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	MemoryContext caller = CurrentMemoryContext;

	check_result(SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0), "SPI_execute_with_args", sql);
	MemoryContextSwitchTo(caller);
	return SPI_processed;
}

/*
 * cqrs_spi_text copies one field of the last result as text into 'context'; NULL for null.
 */
char *
cqrs_spi_text(uint64 row, int column, MemoryContext context)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(context, value) : NULL;
}

/*
 * cqrs_spi_datum returns one field of the last result, in SPI's memory.
 */
Datum
cqrs_spi_datum(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/*
 * cqrs_spi_collect runs a query as the system and returns what 'read' makes of its rows, in the caller's memory.
 *
 * The rest goes on as whoever asks: names are found, and shown, as he would write them.
 */
List *
cqrs_spi_collect(const char *query, void *(*read) (uint64 row, MemoryContext caller))
{
	MemoryContext caller = CurrentMemoryContext;
	CqrsIdentity identity;
	List	   *found = NIL;
	uint64		count;
	bool		pushed = !ActiveSnapshotSet();

	if (pushed)
		PushActiveSnapshot(GetTransactionSnapshot());	/* a worker is in no query */
	cqrs_identity_enter_system(&identity);
	cqrs_spi_connect();
	count = cqrs_spi_run(query);
	for (uint64 row = 0; row < count; row++)
	{
		void	   *made = read(row, caller);
		MemoryContext spi = MemoryContextSwitchTo(caller);

		found = lappend(found, made);
		MemoryContextSwitchTo(spi);
	}
	cqrs_spi_finish();
	cqrs_identity_leave(&identity);
	if (pushed)
		PopActiveSnapshot();
	return found;
}

/*
 * read_first reads a row's first column.
 */
static void *
read_first(uint64 row, MemoryContext caller)
{
	return cqrs_spi_text(row, 1, caller);
}

/*
 * cqrs_spi_collect_texts runs a query as the system and returns its first column.
 */
List *
cqrs_spi_collect_texts(const char *query)
{
	return cqrs_spi_collect(query, read_first);
}

/*
 * cqrs_spi_prepare plans a statement; with 'keep' it outlives the nesting, until cqrs_spi_free.
 */
CqrsStatement *
cqrs_spi_prepare(const char *sql, int nargs, Oid *types, bool keep)
{
	MemoryContext caller = CurrentMemoryContext;
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, nargs, types, CURSOR_OPT_PARALLEL_OK);

	if (plan == NULL)
		check_result(SPI_result, "SPI_prepare_cursor", sql);
	if (keep)
		check_result(SPI_keepplan(plan), "SPI_keepplan", sql);
	MemoryContextSwitchTo(caller);
	return plan;
}

/*
 * cqrs_spi_free lets go of a kept statement.
 */
void
cqrs_spi_free(CqrsStatement *statement)
{
	check_result(SPI_freeplan(statement), "SPI_freeplan", NULL);
}

/*
 * cqrs_spi_is_valid tells whether nothing that a statement names has changed, as far as this backend has been told.
 */
bool
cqrs_spi_is_valid(CqrsStatement *statement)
{
	return SPI_plan_is_valid(statement);
}

/*
 * cqrs_spi_columns returns the columns of a statement's rows.
 */
TupleDesc
cqrs_spi_columns(CqrsStatement *statement)
{
	return CreateTupleDescCopy(((CachedPlanSource *) linitial(SPI_plan_get_plan_sources(statement)))->resultDesc);
}

/*
 * cqrs_spi_queries returns what a statement's text was found to mean.
 */
List *
cqrs_spi_queries(CqrsStatement *statement)
{
	List	   *queries = NIL;
	ListCell   *cell;

	foreach(cell, SPI_plan_get_plan_sources(statement))
		queries = list_concat(queries, ((CachedPlanSource *) lfirst(cell))->query_list);
	return queries;
}

/*
 * cqrs_spi_estimate returns the planner's estimates for a statement; the plan is the one that will be run.
 */
CqrsEstimate
cqrs_spi_estimate(CqrsStatement *statement, bool one_row)
{
	MemoryContext caller = CurrentMemoryContext;
	CachedPlan *plan = SPI_plan_get_cached_plan(statement);
	CqrsEstimate estimate;

	if (plan == NULL)
		elog(ERROR, "statement has no single plan");
	estimate = cqrs_cost_estimate(linitial_node(PlannedStmt, plan->stmt_list), one_row);
	ReleaseCachedPlan(plan, CurrentResourceOwner);
	MemoryContextSwitchTo(caller);
	return estimate;
}

/*
 * push_snapshot makes a copy of 'snapshot' the active one, with the effects of our own commands so far in sight.
 */
static void
push_snapshot(Snapshot snapshot)
{
	CommandCounterIncrement();
	PushCopiedSnapshot(snapshot);
	UpdateActiveSnapshotCommandId();
}

/*
 * cqrs_spi_select runs a statement that only reads under 'snapshot', into a tuplestore of the caller's.
 */
uint64
cqrs_spi_select(CqrsStatement *statement, Snapshot snapshot, Tuplestorestate *into)
{
	MemoryContext caller = CurrentMemoryContext;
	DestReceiver *receiver = CreateTuplestoreDestReceiver();
	SPIExecuteOptions options = {0};

	SetTuplestoreDestReceiverParams(receiver, into, CurrentMemoryContext, false, NULL, NULL);
	options.read_only = true;
	options.must_return_tuples = true;
	options.dest = receiver;
	push_snapshot(snapshot);
	check_result(SPI_execute_plan_extended(statement, &options), "SPI_execute_plan_extended", NULL);
	PopActiveSnapshot();
	receiver->rDestroy(receiver);
	MemoryContextSwitchTo(caller);
	return SPI_processed;
}

/*
 * cqrs_spi_pour runs one SELECT under 'snapshot' and hands its rows to 'receiver', in parallel where the planner likes; 'expected' gets how many the planner
 * expects before the first comes.
 */
uint64
cqrs_spi_pour(const char *sql, Snapshot snapshot, DestReceiver *receiver, double *expected)
{
	MemoryContext caller = CurrentMemoryContext;
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, 0, NULL, CURSOR_OPT_PARALLEL_OK);
	SPIExecuteOptions options = {.read_only = true, .must_return_tuples = true, .dest = receiver};
	CachedPlan *cached;

	if (plan == NULL)
		check_result(SPI_result, "SPI_prepare_cursor", sql);
	push_snapshot(snapshot);
	cached = SPI_plan_get_cached_plan(plan);
	if (cached == NULL)
		elog(ERROR, "statement has no single plan");
	*expected = cqrs_cost_estimate(linitial_node(PlannedStmt, cached->stmt_list), false).rows;
	ReleaseCachedPlan(cached, NULL);
	check_result(SPI_execute_plan_extended(plan, &options), "SPI_execute_plan_extended", sql);
	PopActiveSnapshot();
	check_result(SPI_freeplan(plan), "SPI_freeplan", NULL);
	MemoryContextSwitchTo(caller);
	return SPI_processed;
}

/*
 * cqrs_spi_modify runs a statement that writes, under 'snapshot'.
 */
uint64
cqrs_spi_modify(CqrsStatement *statement, Snapshot snapshot)
{
	MemoryContext caller = CurrentMemoryContext;

	check_result(SPI_execute_snapshot(statement, NULL, NULL, snapshot, InvalidSnapshot, false, true, 0),
				 "SPI_execute_snapshot", NULL);
	SPI_freetuptable(SPI_tuptable);
	MemoryContextSwitchTo(caller);
	return SPI_processed;
}

/*
 * cqrs_spi_offer makes 'rows' a relation 'name' for the statements of this nesting.
 *
 * Today an ephemeral named relation, as transition tables are.
 */
CqrsOffer *
cqrs_spi_offer(const char *name, TupleDesc desc, Tuplestorestate *rows, double nrows)
{
	EphemeralNamedRelation relation = cqrs_offer_make(name, desc, rows, nrows);

	check_result(SPI_register_relation(relation), "SPI_register_relation", name);
	return relation;
}

/*
 * cqrs_spi_describe has the planner told what there is to know of a relation on offer.
 */
void
cqrs_spi_describe(CqrsOffer *offer)
{
	cqrs_offer_describe(offer);
}

/*
 * cqrs_spi_refill puts other rows in place of those that a relation was offered with.
 */
void
cqrs_spi_refill(CqrsOffer *offer, Tuplestorestate *rows, double nrows)
{
	cqrs_offer_refill(offer, rows, nrows);
}

/*
 * cqrs_spi_withdraw takes back what cqrs_spi_offer offered.
 */
void
cqrs_spi_withdraw(const char *name)
{
	check_result(SPI_unregister_relation(name), "SPI_unregister_relation", name);
	cqrs_offer_forget(name);
}

/*
 * cqrs_spi_open starts a streaming read of a SELECT under 'snapshot'.
 */
CqrsCursor *
cqrs_spi_open(CqrsStatement *statement, Datum *values, Snapshot snapshot)
{
	MemoryContext caller = CurrentMemoryContext;
	CqrsCursor *cursor = palloc0(sizeof(CqrsCursor));

	push_snapshot(snapshot);
	cursor->portal = SPI_cursor_open(NULL, statement, values, NULL, true);
	PopActiveSnapshot();
	MemoryContextSwitchTo(caller);
	return cursor;
}

/*
 * cqrs_spi_fetch returns the next row of a cursor, valid until the next call, or NULL after the last.
 */
HeapTuple
cqrs_spi_fetch(CqrsCursor *cursor, TupleDesc *desc)
{
	if (cursor->rows == NULL || cursor->next >= cursor->rows->numvals)
	{
		MemoryContext caller = CurrentMemoryContext;

		if (cursor->rows != NULL)
			SPI_freetuptable(cursor->rows);
		SPI_cursor_fetch(cursor->portal, true, CURSOR_FETCH_ROWS);
		cursor->rows = SPI_tuptable;
		cursor->next = 0;
		MemoryContextSwitchTo(caller);
		if (SPI_processed == 0)
			return NULL;
	}
	*desc = cursor->rows->tupdesc;
	return cursor->rows->vals[cursor->next++];
}

/*
 * cqrs_spi_close ends a streaming read.
 */
void
cqrs_spi_close(CqrsCursor *cursor)
{
	if (cursor->rows != NULL)
		SPI_freetuptable(cursor->rows);
	SPI_cursor_close(cursor->portal);
	pfree(cursor);
}
