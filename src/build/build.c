/*
 * build/build.c
 *		From a version's definition to a table that serves: capture its sources, fill, index, catch up, open the gate.
 *
 * The steps are transactions of their own when a worker takes them, and parts of the caller's when drain does.  Each begins with
 * the version's lock and looks again what is left to do, so that a crash between two of them, or two builders at once, cost
 * nothing but time.
 *
 * Leaves when to build, and what to do about an error, to worker/ and projection/.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "apply/apply.h"
#include "base/attempt.h"
#include "base/clock.h"
#include "base/locks.h"
#include "base/names.h"
#include "base/spi.h"
#include "base/waitpoint.h"
#include "build/build.h"
#include "build/parts.h"
#include "capture/capture.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/*
 * cqrs_build_filled tells whether a version has been filled: then it has a checkpoint.
 */
bool
cqrs_build_filled(int32 version)
{
	return cqrs_checkpoint_latest(version) != NULL;
}

/*
 * lock_building locks a version, with its group, and returns it if it is still being built; else NULL, with 'busy' telling why.
 */
static CqrsVersion *
lock_building(int32 id, bool wait, bool *busy)
{
	CqrsVersion *version;

	*busy = !cqrs_group_lock(id, !wait);
	if (*busy)
		return NULL;
	version = cqrs_version_get(id, true);
	return version && version->state == CQRS_STATE_BUILDING ? version : NULL;
}

/*
 * cqrs_build_attach has the version's sources captured from now on; also those of one that serves, if their triggers were disabled or dropped.
 *
 * Its own transaction in a worker: the lock that keeps writers out of the way lasts to the commit, and must not last as long as a fill.
 */
bool
cqrs_build_attach(int32 id, bool wait)
{
	CqrsVersion *version;
	List	   *sources = NIL;
	ListCell   *cell;

	if (!cqrs_version_lock(id, !wait))
		return false;
	version = cqrs_version_get(id, true);
	if (version == NULL || version->state == CQRS_STATE_RETIRED)
		return true;
	foreach(cell, cqrs_version_source_list(id))
	{
		CqrsSource *source = cqrs_source_get(((CqrsVersionSource *) lfirst(cell))->source);

		if (get_rel_relkind(source->relation) != '\0')
			sources = lappend_int(sources, source->id);
	}
	(void) cqrs_capture_attach(sources);
	CQRS_WAIT_POINT("attach");
	return true;
}

/* What fills a table, and the snapshot that it reads. */
typedef struct Filling
{
	Oid			table;
	char	   *query;
	Snapshot	snapshot;
	uint64		nrows;			/* that came of it */
} Filling;

/*
 * run_filling runs it.
 */
static void
run_filling(void *argument)
{
	Filling    *filling = argument;

	filling->nrows = cqrs_fill_table(filling->table, filling->query, filling->snapshot);
}

/*
 * fill_table inserts what the definition yields at the snapshot.
 *
 * In a subtransaction: where the query fails for some row, the transaction goes on for as long as it takes to find out which.
 */
static void
fill_table(const CqrsVersion *version, const CqrsProgram *program, Snapshot snapshot)
{
	Filling		filling = {.table = program->table, .query = cqrs_plan_evaluate(program), .snapshot = snapshot};
	ErrorData  *error = cqrs_attempt(run_filling, &filling, true);

	if (error != NULL)
		cqrs_apply_raise(version, snapshot, error);
	if (program->nkeys == 0 && filling.nrows > 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("the key of projection \"%s\" is not unique", get_rel_name(program->table)),
				 errdetail("Its query yields more than one row, and the key '{}' promises one."),
				 errhint("Define the projection with a key that tells its rows apart.")));
}

/*
 * key_columns lists the key's columns for an index.
 */
static char *
key_columns(const CqrsProgram *program)
{
	StringInfoData columns;

	initStringInfo(&columns);
	for (int i = 0; i < program->nkeys; i++)
		appendStringInfo(&columns, "%s%s", i ? ", " : "",
						 cqrs_name_identifier(NameStr(TupleDescAttr(program->row, program->key[i] - 1)->attname)));
	if (program->nkeys == 0)
		appendStringInfoString(&columns, "(true)");
	return columns.data;
}

/*
 * index_key makes the unique index on the key: the primary key, unless a column of it can be null or there is none.
 *
 * Without a primary key the whole row identifies it to publications.
 */
static void
index_key(const CqrsProgram *program)
{
	char	   *table = cqrs_name_relation(program->table);

	if (program->nkeys > 0 && bms_is_empty(program->key_nullable))
	{
		cqrs_spi_run(psprintf("ALTER TABLE %s ADD PRIMARY KEY (%s)", table, key_columns(program)));
		return;
	}
	cqrs_spi_run(psprintf("CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT", table, key_columns(program)));
	cqrs_spi_run(psprintf("ALTER TABLE %s REPLICA IDENTITY FULL", table));
}

/*
 * cqrs_build_index_statement makes the statement for one of the indexes that a user asked for.
 */
char *
cqrs_build_index_statement(Oid table, const char *index)
{
	return psprintf("CREATE INDEX ON %s %s", cqrs_name_relation(table), index);
}

/*
 * index_table makes the indexes that were asked for or are carried over.
 *
 * Those that are on the table of the version that serves, too, get their names and comments.
 */
static void
index_table(const CqrsVersion *version)
{
	const CqrsVersion *serving = cqrs_version_serving(version->projection);
	ListCell   *cell;

	foreach(cell, version->indexes)
		cqrs_spi_run(cqrs_build_index_statement(version->table, lfirst(cell)));
	if (serving == NULL || serving->state != CQRS_STATE_SERVING)
		return;
	foreach(cell, cqrs_spi_collect_texts(psprintf("SELECT * FROM cqrs_internal.index_names(%u, %u)", serving->table, version->table)))
		cqrs_spi_run(lfirst(cell));
}

/*
 * fill_by_handlers has handlers fill the table, from where they find it empty; returns the position of the last change that is in it.
 */
static int64
fill_by_handlers(CqrsVersion *version, Snapshot snapshot, bool wait)
{
	Relation	table = table_open(version->table, AccessExclusiveLock);

	cqrs_apply_empty(table);
	table_close(table, NoLock);
	CommandCounterIncrement();
	return cqrs_events_fill(version, snapshot, wait);
}

/*
 * fill fills, indexes and analyzes the table, as the owner.
 *
 * Returns the position of the last change that is in it, where changes filled it.  Analyzed before it serves: a table of a million rows that the planner
 * takes for empty is worse than none.
 */
static int64
fill(CqrsVersion *version, Snapshot snapshot, bool wait)
{
	bool		events = cqrs_version_is_events(version);
	int64		position = events ? fill_by_handlers(version, snapshot, wait) : 0;
	CqrsIdentity saved;

	(void) cqrs_apply_become_owner(version, &saved);
	cqrs_spi_connect();
	PushActiveSnapshot(snapshot);
	if (!events)
		fill_table(version, cqrs_apply_program(version), snapshot);
	CommandCounterIncrement();
	CQRS_WAIT_POINT("fill");
	if (!events)
		index_key(cqrs_apply_program(version));
	index_table(version);
	cqrs_spi_run(psprintf("ANALYZE %s", cqrs_name_relation(version->table)));
	PopActiveSnapshot();
	cqrs_spi_finish();
	cqrs_identity_leave(&saved);
	return position;
}

/*
 * lock_table takes the version's table for the fill, to which nobody but us has a reason to come.
 */
static bool
lock_table(const CqrsVersion *version, bool wait)
{
	if (!wait)
		return cqrs_locks_try(list_make1_oid(version->table), AccessExclusiveLock, CQRS_AT_ONCE_MS, NULL);
	cqrs_locks_take(list_make1_oid(version->table), AccessExclusiveLock, cqrs_setting_lock_timeout);
	return true;
}

/*
 * fill_snapshot takes the snapshot of a fill, at which the projections that the version reads are exact; NULL if one does not serve yet, or stands still.
 *
 * They are brought to it in this transaction, and so are held until the fill is done: what they changed meanwhile would be no delta of a version that
 * is not filled.
 */
static Snapshot
fill_snapshot(const CqrsVersion *version, bool wait)
{
	CqrsBatch	batch = {.wait = wait};
	ListCell   *cell;

	if (cqrs_read_list(version->id) == NIL)
		return cqrs_apply_snapshot();
	foreach(cell, cqrs_version_lowers(version))
		if (((CqrsVersion *) lfirst(cell))->state != CQRS_STATE_SERVING)
			return NULL;
	cqrs_apply_below(version->id, &batch);
	if (wait && batch.outcome != CQRS_APPLIED)
		cqrs_apply_raise_companion(&batch);
	return batch.snapshot;
}

/*
 * cqrs_build_fill fills a version at one snapshot, which becomes its first checkpoint.
 */
bool
cqrs_build_fill(int32 id, bool wait)
{
	bool		busy;
	CqrsVersion *version = lock_building(id, wait, &busy);
	TimestampTz as_of;
	Snapshot	snapshot;
	List	   *locked;
	CqrsEffort	effort;
	int64		position;

	if (version == NULL || cqrs_build_filled(id))
		return !busy;
	if (!cqrs_version_covered(id) || !cqrs_apply_lock(version, wait, &locked) || !lock_table(version, wait))
		return false;
	as_of = cqrs_clock_now();
	snapshot = fill_snapshot(version, wait);
	if (snapshot == NULL)
		return false;
	cqrs_effort_begin();
	cqrs_effort_strategy("fill");
	position = fill(version, snapshot, wait);
	effort = cqrs_effort_end(0);
	cqrs_checkpoint_insert(id, cqrs_window_checkpoint(snapshot), position, as_of, &effort);
	(void) cqrs_read_settle(id);
	UnregisterSnapshot(snapshot);
	if (!cqrs_apply_still_locked(version, locked))
		cqrs_version_distrust(version, "a table joined what the query reads during the fill");
	version = cqrs_version_get(id, false);
	version->filled_xid = GetTopFullTransactionId();
	version->filled_at = 0;
	cqrs_version_update(version);
	cqrs_history_insert(version->projection, cqrs_projection_get(version->projection, false)->view, version->number,
						"filled", NULL, NULL, NULL);
	ForceSyncCommit();			/* a crash may undo a batch, but not the work of hours */
	cqrs_shared_announce_at_commit();
	return true;
}

/*
 * cqrs_build_catch_up applies what was committed since the version's checkpoint.
 */
CqrsOutcome
cqrs_build_catch_up(int32 version, bool wait)
{
	CqrsBatch	batch = {.wait = wait};

	cqrs_apply_batch(version, &batch);
	if (batch.snapshot)
		UnregisterSnapshot(batch.snapshot);
	return batch.outcome;
}

/*
 * cqrs_build_state changes a version's state.
 */
void
cqrs_build_state(CqrsVersion *version, CqrsState state, const char *reason)
{
	cqrs_history_insert(version->projection, cqrs_projection_get(version->projection, false)->view, version->number,
						cqrs_state_name(state), cqrs_state_name(version->state), cqrs_state_name(state), reason);
	version->state = state;
	cqrs_version_update(version);
	cqrs_shared_announce_at_commit();
}

/*
 * serve_first opens the serving view of a projection that has not served yet; false if it could not be done now.
 *
 * A transaction whose snapshot is older than the fill sees of the table what the fill wrote, and nothing of what was applied since: the model at one
 * snapshot, as it should be, and no older one has been shown to it.  What handlers have written it would not see at all: there it is waited for, for a while.
 * drain cannot wait for it, since the fill may be part of its own transaction.
 */
static bool
serve_first(CqrsProjection *projection, CqrsVersion *version, bool wait)
{
	List	   *known = NIL;

	if (!wait && cqrs_version_is_events(version) &&
		cqrs_clock_until(TimestampTzPlusMilliseconds(version->filled_at, cqrs_setting_lock_timeout)) > 0 &&
		cqrs_older_snapshots(version, &known) != NIL)
		return false;
	if (wait)
		cqrs_locks_take(list_make1_oid(projection->view), AccessExclusiveLock, cqrs_setting_lock_timeout);
	else if (!cqrs_locks_try(list_make1_oid(projection->view), AccessExclusiveLock, CQRS_AT_ONCE_MS, NULL))
		return false;
	cqrs_build_view(projection, version, false);
	cqrs_build_state(version, CQRS_STATE_SERVING, NULL);
	return true;
}

/*
 * cqrs_build_finish brings a filled version up to date, in one transaction: one beside another is a shadow from then on, the first one serves.
 */
bool
cqrs_build_finish(int32 id, bool wait)
{
	bool		busy;
	CqrsVersion *version = lock_building(id, wait, &busy);
	CqrsVersion *serving;

	if (version == NULL)
		return !busy;
	if (!cqrs_build_filled(id) || cqrs_build_catch_up(id, wait) != CQRS_APPLIED)
		return false;
	version = cqrs_version_get(id, false);
	if (version->filled_at == 0 && !TransactionIdIsCurrentTransactionId(XidFromFullTransactionId(version->filled_xid)))
	{
		version->filled_at = cqrs_clock_now();
		cqrs_version_update(version);
	}
	CQRS_WAIT_POINT("finish");
	serving = cqrs_version_serving(version->projection);
	if (serving == NULL || serving->state != CQRS_STATE_SERVING)
		return serve_first(cqrs_projection_get(version->projection, false), version, wait);
	cqrs_build_state(version, CQRS_STATE_SHADOW, NULL);
	return true;
}
