/*
 * apply/events.c
 *		The batch of a version that handlers define: its window's events, each applied once, in order; or parked, or the version halts.
 *
 * A version that can no longer trust its window begins anew from its seed, or halts: what it has lost no handler can make up for.  A batch that fails is tried
 * again, and then by halves in subtransactions down to the events that fail.  In drain, which has nobody to note a failure for it, that is done at once.
 *
 * Everything here is a member's part of a batch (group.c), or of a fill: the version and what it reads are locked before the snapshot.  What handlers
 * capture in turn, by cqrs.emit or writing to captured tables, belongs to the batch's transaction and is in the window of a later one.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/events_parts.h"
#include "base/attempt.h"
#include "base/blame.h"
#include "base/clock.h"
#include "base/locks.h"
#include "base/names.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "outbox/outbox.h"
#include "plan/plan.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define AT_ONCE_MS 50			/* as in batch.c: how long a worker waits for a lock */

/* Events that are tried in a subtransaction. */
typedef struct Attempt
{
	CqrsEventRun *run;
	Tuplestorestate *events;
	TupleTableSlot *slot;
	const char *on_error;
	int64		from;
	int64		to;				/* the one after the last */
} Attempt;

static List *halting = NIL;		/* ids of versions whose last batch met what they have to halt at; for the process's life */

/*
 * cqrs_events_halts tells whether the error that a version's batch has just ended with is one at which it halts.
 */
bool
cqrs_events_halts(int32 version)
{
	return list_member_int(halting, version);
}

/*
 * note_halting notes that a version has to halt, or not.
 */
static void
note_halting(int32 version, bool halts)
{
	MemoryContext caller = MemoryContextSwitchTo(CacheMemoryContext);

	halting = halts ? list_append_unique_int(halting, version) : list_delete_int(halting, version);
	MemoryContextSwitchTo(caller);
}

/*
 * view_of names a version's projection.
 */
static char *
view_of(const CqrsVersion *version)
{
	return cqrs_name_shown(cqrs_projection_get(version->projection, false)->view);
}

/*
 * cqrs_events_check_history refuses a replay from the outbox's beginning, if that has been freed.
 *
 * Segments are numbered from 1 in the order of their opening.
 */
void
cqrs_events_check_history(void)
{
	List	   *segments = cqrs_segment_list();
	CqrsSegment *oldest = segments != NIL ? linitial(segments) : NULL;

	if (oldest == NULL || oldest->number == 1)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("events cannot be replayed from the beginning"),
			 FullTransactionIdIsValid(oldest->first_xid) ?
			 errdetail("The outbox reaches back to position %lld; what was before was removed.", (long long) oldest->first_position) :
			 errdetail("The outbox has none left of those that were before its segment %d.", oldest->number),
			 errhint("Give a seed; one that yields no rows begins with the events to come.")));
}

/*
 * take_range hands the events of an attempt to their handlers.
 */
static void
take_range(void *argument)
{
	Attempt    *attempt = argument;

	tuplestore_rescan(attempt->events);
	if (attempt->from > 0 && !tuplestore_skiptuples(attempt->events, attempt->from, true))
		elog(ERROR, "events of a window were lost");
	for (int64 i = attempt->from; i < attempt->to; i++)
	{
		if (!tuplestore_gettupleslot(attempt->events, true, false, attempt->slot))
			elog(ERROR, "events of a window were lost");
		cqrs_events_take(attempt->run, attempt->slot);
	}
	cqrs_events_flush(attempt->run);
}

/*
 * halt_at has the version halt at an event: what the batch did is undone, and nothing behind the event is applied.
 */
static void
halt_at(const Attempt *attempt, ErrorData *error)
{
	bool		isnull;
	int64		position = DatumGetInt64(slot_getattr(attempt->slot, EVENT_POSITION + 1, &isnull));

	note_halting(attempt->run->version->id, true);
	error->detail = error->detail ? psprintf("%s  It is at the event at position %lld.", error->detail, (long long) position) :
		psprintf("The event is at position %lld.", (long long) position);
	ReThrowError(error);
}

/*
 * park writes down the one event of an attempt that failed; later events of its aggregates wait behind it.  If that fails, so does the batch.
 */
static void
park(const Attempt *attempt, const ErrorData *error)
{
	CqrsEventRun *run = attempt->run;
	CqrsDeadLetter letter = {.version = run->version->id,.attempts = 1};

	letter.aggregates = cqrs_parked_aggregates(attempt->slot);
	letter.event = cqrs_events_datum(run, attempt->slot);
	letter.error = error->detail ? psprintf("%s (%s)", error->message, error->detail) : error->message;
	letter.context = error->context;
	letter.parked_at = letter.tried_at = cqrs_clock_now();
	cqrs_dead_letter_insert(&letter);
	cqrs_parked_add(run->parked, letter.aggregates, letter.id);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("an event was parked as dead letter %lld of projection \"%s\": %s", (long long) letter.id,
					view_of(run->version), error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 errhint("Mend what the error names and call cqrs.retry(%lld), or cqrs.discard it.", (long long) letter.id)));
}

/*
 * take_or_split takes events in a subtransaction; if that fails, by halves, down to the events that fail by themselves.
 */
static void
take_or_split(Attempt *attempt)
{
	CqrsEventRun *run = attempt->run;
	int			mark = cqrs_parked_mark(run->parked);
	int64		applied = run->applied;
	int64		waiting = run->waiting;
	int64		from = attempt->from;
	int64		to = attempt->to;
	int64		middle = from + (to - from) / 2;
	ErrorData  *error;

	CHECK_FOR_INTERRUPTS();
	if (from == to)
		return;
	error = cqrs_attempt(take_range, attempt, true);
	if (error == NULL)
		return;
	cqrs_events_forget(run);
	cqrs_parked_undo(run->parked, mark);
	run->applied = applied;
	run->waiting = waiting;
	if (to - from == 1 ? cqrs_events_blameless(run, attempt->slot, error) : cqrs_blame(error) != CQRS_BLAME_WORK)
		ReThrowError(error);
	if (to - from == 1)
	{
		if (strcmp(attempt->on_error, "halt") == 0)
			halt_at(attempt, error);
		park(attempt, error);
	}
	else
	{
		attempt->to = middle;
		take_or_split(attempt);
		attempt->from = middle;
		attempt->to = to;
		take_or_split(attempt);
	}
	FreeErrorData(error);
}

/* One batch, for those who work within. */
typedef struct Work
{
	CqrsVersion *version;
	CqrsEventScope scope;
	bool		careful;
	CqrsEventWindow window;
	CqrsEventRun run;
} Work;

/*
 * take_found is the sink that hands events to their handlers.
 */
static void
take_found(void *argument, TupleTableSlot *found)
{
	cqrs_events_take(argument, found);
}

/*
 * take_all reads the window and hands all its events to their handlers.
 */
static void
take_all(void *argument)
{
	Work	   *work = argument;

	cqrs_events_read(&work->scope, &work->window, take_found, &work->run);
	cqrs_events_flush(&work->run);
}

/*
 * keep_found is the sink that keeps events.
 */
static void
keep_found(void *argument, TupleTableSlot *found)
{
	Attempt    *attempt = argument;

	tuplestore_puttupleslot(attempt->events, found);
	attempt->to++;
}

/*
 * take_carefully takes a window's events in subtransactions: all of them, and if that fails by halves, to find those that do.
 */
static void
take_carefully(Work *work)
{
	int			mark = cqrs_parked_mark(work->run.parked);
	ErrorData  *error = cqrs_attempt(take_all, work, true);
	Attempt		attempt = {.run = &work->run};

	if (error == NULL)
		return;
	cqrs_events_forget(&work->run);
	cqrs_parked_undo(work->run.parked, mark);
	work->run.applied = work->run.waiting = 0;
	if (cqrs_blame(error) != CQRS_BLAME_WORK)
		ReThrowError(error);
	attempt.slot = MakeSingleTupleTableSlot(cqrs_events_found_row(), &TTSOpsMinimalTuple);
	attempt.on_error = cqrs_projection_get(work->version->projection, false)->on_error;
	attempt.events = tuplestore_begin_heap(true, false, Max(work_mem, maintenance_work_mem));
	cqrs_events_read(&work->scope, &work->window, keep_found, &attempt);
	take_or_split(&attempt);
	tuplestore_end(attempt.events);
	ExecDropSingleTupleTableSlot(attempt.slot);
}

/*
 * halt_at_unknown has the version halt where its handlers meet an event that none of them takes.
 */
static void
halt_at_unknown(const CqrsVersion *version, const CqrsEventWindow *window)
{
	if (window->unknown == NULL)
		return;
	note_halting(version->id, true);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("projection \"%s\" has no handler for events of type \"%s\"", view_of(version), window->unknown),
			 errdetail("Its handlers say that it halts at them."),
			 errhint("Make a version of the projection whose handlers take events of this type.")));
}

/*
 * cqrs_events_within runs work as the version's owner, under its settings, inside SPI, with the snapshot active, and lets handlers write to its table only.
 */
void
cqrs_events_within(const CqrsVersion *version, Snapshot snapshot, void (*work) (void *), void *argument)
{
	CqrsIdentity saved;
	Oid			owner = cqrs_apply_become_owner(version, &saved);

	cqrs_handlers_check_rights(cqrs_handler_list(version->id), cqrs_event_definition_get(version->id)->unknown, owner);
	cqrs_spi_connect();
	PushActiveSnapshot(snapshot);
	cqrs_apply_write_only(version->table);
	PG_TRY();
	{
		work(argument);
	}
	PG_CATCH();
	{
		cqrs_apply_write_only(InvalidOid);
		cqrs_events_distrust(version->id);
		PG_RE_THROW();
	}
	PG_END_TRY();
	cqrs_apply_write_only(InvalidOid);
	PopActiveSnapshot();
	cqrs_spi_finish();
	cqrs_identity_leave(&saved);
}

/*
 * apply_window reads the window and applies it, unless it does not tell all that happened.
 *
 * A first try is made without subtransactions where the failure of it can be noted, so that the next one knows.
 */
static void
apply_window(void *argument)
{
	Work	   *work = argument;

	cqrs_events_begin(&work->run);
	if (work->careful || work->version->attempts > 0)
		take_carefully(work);
	else
		take_all(work);
	cqrs_events_end(&work->run);
	if (work->run.applied + work->run.waiting > 0 && work->scope.checkpoint != NULL)
		cqrs_effort_strategy("events");
	if (work->window.doubt == NULL)
		halt_at_unknown(work->version, &work->window);
}

/*
 * begin_work prepares a batch or fill of a version.
 */
static Work
begin_work(CqrsVersion *version, const CqrsCheckpoint *checkpoint, Snapshot snapshot, bool careful)
{
	Work		work = {.version = version,.careful = careful};

	work.scope.version = version;
	work.scope.checkpoint = checkpoint;
	work.scope.snapshot = snapshot;
	work.run.version = version;
	work.run.snapshot = snapshot;
	return work;
}

/*
 * seed_statement returns the statement that fills a version's table from its seed.
 */
static char *
seed_statement(const CqrsVersion *version)
{
	return cqrs_handlers_seed(cqrs_name_relation(version->table), cqrs_event_definition_get(version->id)->seed);
}

/*
 * has_seed tells whether a version has one.
 */
static bool
has_seed(const CqrsVersion *version)
{
	return cqrs_event_definition_get(version->id)->seed != NULL;
}

/*
 * run_write runs one statement that writes to the version's table, once.
 */
static void
run_write(const char *sql, Snapshot snapshot)
{
	CqrsStatement *statement = cqrs_spi_prepare(sql, 0, NULL, false);

	(void) cqrs_apply_write(statement, snapshot);
	cqrs_spi_free(statement);
}

/*
 * fill_from_seed puts what the seed yields into the table, in place of what is there.
 */
static void
fill_from_seed(void *argument)
{
	Work	   *work = argument;

	cqrs_effort_strategy("seed");
	run_write(psprintf("DELETE FROM %s", cqrs_name_relation(work->version->table)), work->scope.snapshot);
	run_write(seed_statement(work->version), work->scope.snapshot);
}

/*
 * add_relations adds the relations that a query names.
 */
static bool
add_relations(Node *node, void *relations)
{
	List	  **found = relations;
	ListCell   *cell;

	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, add_relations, relations);
	foreach(cell, ((Query *) node)->rtable)
		if (((RangeTblEntry *) lfirst(cell))->rtekind == RTE_RELATION)
			*found = list_append_unique_oid(*found, ((RangeTblEntry *) lfirst(cell))->relid);
	return query_tree_walker((Query *) node, add_relations, relations, 0);
}

/*
 * trees_of lists the relations that a seed, given as a list of them, reads, with all that is below them.
 */
static List *
trees_of(void *relations)
{
	List	   *members = NIL;
	ListCell   *cell;

	foreach(cell, (List *) relations)
		members = list_concat_unique_oid(members, cqrs_tree_members(lfirst_oid(cell)));
	return members;
}

/*
 * cqrs_events_lock_seed locks what a version's seed reads, before the snapshot is taken: a rewrite that commits between the two would read as an empty table.
 *
 * The server locks what the statement names when it looks at it; for that a snapshot of the catalog does, which is not the transaction's.
 */
bool
cqrs_events_lock_seed(const CqrsVersion *version, bool wait)
{
	CqrsIdentity saved;
	CqrsStatement *statement;
	List	   *relations = NIL;
	MemoryContext caller = CurrentMemoryContext;
	ListCell   *cell;
	bool		locked = true;

	if (!has_seed(version))
		return true;
	(void) cqrs_apply_become_owner(version, &saved);
	cqrs_spi_connect();
	PushActiveSnapshot(GetCatalogSnapshot(InvalidOid));
	statement = cqrs_spi_prepare(seed_statement(version), 0, NULL, false);
	MemoryContextSwitchTo(caller);
	foreach(cell, cqrs_spi_queries(statement))
		(void) add_relations(lfirst(cell), &relations);
	cqrs_spi_free(statement);
	PopActiveSnapshot();
	cqrs_spi_finish();
	cqrs_identity_leave(&saved);
	if (wait)
		(void) cqrs_locks_take_listed(trees_of, relations, AccessShareLock, cqrs_setting_lock_timeout);
	else
		locked = cqrs_locks_try_listed(trees_of, relations, AccessShareLock, AT_ONCE_MS, NULL);
	return locked;
}

/*
 * cqrs_events_fill fills a new version's table: from its seed, or by a replay of the outbox.  Returns the position of the last change that it has seen.
 */
int64
cqrs_events_fill(CqrsVersion *version, Snapshot snapshot, bool wait)
{
	Work		work = begin_work(version, NULL, snapshot, wait);

	note_halting(version->id, false);
	if (has_seed(version))
	{
		cqrs_events_within(version, snapshot, fill_from_seed, &work);
		return 0;
	}
	note_halting(version->id, true);	/* what is gone does not come back */
	cqrs_events_check_history();
	note_halting(version->id, false);
	cqrs_events_within(version, snapshot, apply_window, &work);
	if (work.window.doubt == NULL)
		return work.window.position;
	note_halting(version->id, true);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("events cannot be replayed from the beginning: %s", work.window.doubt),
			 errhint("Drop the version, and make another with a seed.")));
	return 0;
}

/*
 * record writes a version's new status, and what came to pass into history.
 */
static void
record(CqrsVersion *version, CqrsStatus status, const char *event, const char *reason, const char *error)
{
	if (version->status != status)
		cqrs_history_insert(version->projection, cqrs_projection_get(version->projection, false)->view, version->number,
							event, cqrs_status_name(version->status), cqrs_status_name(status), reason);
	else if (version->error == NULL && error == NULL)
		return;
	version->status = status;
	version->error = error ? pstrdup(error) : NULL;
	version->retry_at = 0;
	version->attempts = 0;
	cqrs_version_update(version);
	cqrs_shared_announce_at_commit();
}

/*
 * give_up halts a version that has lost changes and has no seed to begin from anew.
 */
static void
give_up(CqrsMember *member, const char *why)
{
	char	   *error = psprintf("changes that it had not applied are lost, and it has no seed: %s", why);

	record(member->version, CQRS_STATUS_HALTED, "halted", error, error);
	member->ready = false;
}

/*
 * cqrs_events_discard_all removes all dead letters of a version, and tells history why.
 */
void
cqrs_events_discard_all(const CqrsVersion *version, const char *why)
{
	int			letters = cqrs_dead_letter_delete_all(version->id);

	if (letters > 0)
		cqrs_history_insert(version->projection, cqrs_projection_get(version->projection, false)->view, version->number,
							"discarded", NULL, NULL, psprintf("%d dead letters: %s", letters, why));
}

/*
 * begin_anew fills a version from its seed that can no longer trust its window, or halts it.  What the seed reads was locked before the snapshot.
 *
 * Its dead letters go: what they would have changed is in the seed, as far as it is true.
 */
static void
begin_anew(CqrsMember *member, Snapshot snapshot, const char *why)
{
	CqrsVersion *version = member->version;
	Work		work = begin_work(version, member->checkpoint, snapshot, false);

	if (!has_seed(version))
	{
		give_up(member, why);
		return;
	}
	cqrs_events_within(version, snapshot, fill_from_seed, &work);
	cqrs_events_discard_all(version, "the version began anew from its seed");
	member->full = true;
	member->done = true;
	member->effort = cqrs_effort_end(0);
	if (cqrs_version_covered(version->id))
		record(version, CQRS_STATUS_RUNNING, "recovered", why, NULL);
	else
		record(version, CQRS_STATUS_STALE, "stale", why, NULL);
}

/*
 * is_suspended tells whether the capture of a table that handlers take changes of is suspended.
 */
static bool
is_suspended(const CqrsVersion *version)
{
	ListCell   *cell;

	foreach(cell, cqrs_handler_list(version->id))
	{
		const CqrsHandler *handler = lfirst(cell);

		if (handler->event_type == NULL && !cqrs_source_get(handler->source)->attached)
			return true;
	}
	return false;
}

/*
 * reason_to_doubt tells why a version cannot trust its window; NULL if it can.
 *
 * A checkpoint from elsewhere is no reason: what it has not seen came with it.  One of this cluster that lies in the future is.
 */
static const char *
reason_to_doubt(const CqrsVersion *version, const CqrsCheckpoint *checkpoint)
{
	if (version->status == CQRS_STATUS_STALE)
		return version->error ? version->error : "it was stale";
	if (!checkpoint->ours && !cqrs_version_restored(version, checkpoint))
		return "its checkpoint lies in the future";
	if (!cqrs_version_covered(version->id) || is_suspended(version))
		return "a table is not captured: its triggers are disabled or missing";
	return NULL;
}

/*
 * cqrs_events_begins_anew tells whether a version can no longer trust its window, or is not filled yet.
 */
bool
cqrs_events_begins_anew(const CqrsVersion *version)
{
	CqrsCheckpoint *checkpoint = cqrs_checkpoint_latest(version->id);

	return checkpoint == NULL || reason_to_doubt(version, checkpoint) != NULL;
}

/*
 * finish notes what a batch did that could trust its window.  What no handler takes is not to be looked at again, either.
 */
static void
finish(CqrsMember *member, const Work *work)
{
	member->done = true;
	member->window.changes = work->run.applied;
	member->window.passed_over = work->window.passed_over;
	member->window.lets_go = work->window.lets_go || work->window.seen > 0 || !member->checkpoint->ours;
	member->window.position = Max(work->window.position, member->checkpoint->position);
	member->effort = cqrs_effort_end(work->run.applied);
	record(member->version, CQRS_STATUS_RUNNING, "recovered", member->version->error, NULL);
}

/*
 * cqrs_events_apply does the batch's work for a version that handlers define.
 *
 * A doubt that only the window raises makes the version stale, and the batch leaves it as it is: it begins anew in the next one, which has locked what the seed
 * reads before its snapshot.
 */
void
cqrs_events_apply(CqrsMember *member, const CqrsBatch *batch)
{
	CqrsVersion *version = member->version;
	Work		work = begin_work(version, member->checkpoint, batch->snapshot, batch->wait);
	const char *doubt;

	note_halting(version->id, false);
	cqrs_effort_begin();
	doubt = reason_to_doubt(version, member->checkpoint);
	if (doubt != NULL)
	{
		begin_anew(member, batch->snapshot, doubt);
		return;
	}
	cqrs_events_within(version, batch->snapshot, apply_window, &work);
	if (work.window.doubt == NULL)
		finish(member, &work);
	else
	{
		cqrs_version_distrust(version, work.window.doubt);
		cqrs_shared_wake_at_commit();
	}
}
