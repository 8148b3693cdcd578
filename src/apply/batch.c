/*
 * apply/batch.c
 *		What a batch does for one version: locks, then at the batch's snapshot window and statements.
 *
 * The caller opened the transaction: a worker a fresh REPEATABLE READ one that has read nothing but catalogs, drain its user's READ COMMITTED one.
 * Locks are kept to its end.  Table and checkpoint commit together, so each change is applied exactly once, whatever crashes when.
 *
 * Leaves to group.c which versions a batch is for, in which order, and their checkpoints; deciding when to run, and what to do about an error, to worker/
 * and projection/.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "apply/parts.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/locks.h"
#include "base/names.h"
#include "catalog/pg_class.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "outbox/outbox.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define AT_ONCE_MS 50			/* how long a worker waits for a lock before it turns to other versions */

static bool writing = false;
static Oid	writes_only = InvalidOid;	/* InvalidOid: the table of any version */

/*
 * cqrs_apply_writing tells whether a write to a version's table is ours.
 */
bool
cqrs_apply_writing(Oid table)
{
	return writing && (writes_only == InvalidOid || writes_only == table);
}

/*
 * cqrs_apply_write_only keeps handlers from writing to other versions' tables.
 */
void
cqrs_apply_write_only(Oid table)
{
	writes_only = table;
}

/*
 * cqrs_apply_write runs one statement that writes a version's table.
 */
uint64
cqrs_apply_write(CqrsStatement *statement, Snapshot snapshot)
{
	uint64		processed = 0;

	writing = true;
	PG_TRY();
	{
		processed = cqrs_spi_modify(statement, snapshot);
	}
	PG_FINALLY();
	{
		writing = false;
	}
	PG_END_TRY();
	cqrs_effort_written(processed);
	return processed;
}

/*
 * cqrs_apply_empty empties a version's table.
 */
void
cqrs_apply_empty(Relation table)
{
	writing = true;
	PG_TRY();
	{
		cqrs_compat_truncate(table);
	}
	PG_FINALLY();
	{
		writing = false;
	}
	PG_END_TRY();
}

/*
 * cqrs_apply_check_caller refuses a transaction in which a batch would not be exact.
 *
 * Under a snapshot kept for the whole transaction the batch would read the past; and changes of our own that are not committed are in no window.
 */
void
cqrs_apply_check_caller(const char *command)
{
	PreventCommandDuringRecovery(command);
	PreventCommandIfReadOnly(command);
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s works only in READ COMMITTED", command),
				 errdetail("This transaction sees the database as it was when it began."),
				 errhint("Call it in a transaction of its own.")));
	if (writing)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot be called by a handler", command),
				 errdetail("This session is applying changes already."),
				 errhint("Leave it to the worker; what handlers change is applied after them.")));
	if (cqrs_outbox_pending())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run in a transaction that has captured changes", command),
				 errdetail("Its own changes are not committed yet, so they are in no window."),
				 errhint("Commit first.")));
}

/*
 * cqrs_apply_become_owner takes on the identity and settings under which a version's statements run.
 */
Oid
cqrs_apply_become_owner(const CqrsVersion *version, CqrsIdentity *saved)
{
	Oid			owner = cqrs_projection_owner(cqrs_projection_get(version->projection, false));

	cqrs_identity_enter(saved, owner, version->settings);
	return owner;
}

/*
 * check_exists raises if the definition, or anything else without which the version cannot go on, was dropped by a cascade.
 */
static void
check_exists(const CqrsVersion *version, Oid relation, const char *what)
{
	if (get_rel_relkind(relation) != '\0')
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("%s of version %d of projection \"%s\" was dropped", what, version->number,
					cqrs_name_shown(cqrs_projection_get(version->projection, false)->view)),
			 errhint("Drop the projection with cqrs.drop_projection, and create it again over what is there now.")));
}

/*
 * trees lists the sources of a version with all that is below them.
 */
static List *
trees(const CqrsVersion *version)
{
	List	   *relations = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_version_source_list(version->id))
	{
		CqrsSource *source = cqrs_source_get(((CqrsVersionSource *) lfirst(cell))->source);

		check_exists(version, source->relation, "a source");
		relations = list_concat(relations, cqrs_tree_members(source->relation));
	}
	return relations;
}

/*
 * readable lists what a batch of a version, given as 'argument', reads: sources with their trees, definition, segments.
 */
static List *
readable(void *argument)
{
	const CqrsVersion *version = argument;
	List	   *relations = cqrs_version_is_events(version) ? trees(version) : lappend_oid(trees(version), version->definition);
	CqrsCheckpoint *checkpoint = cqrs_checkpoint_latest(version->id);
	List	   *segments;
	ListCell   *cell;

	segments = cqrs_outbox_segments(checkpoint && checkpoint->ours ? checkpoint->snapshot : NULL, InvalidFullTransactionId);
	foreach(cell, segments)
		relations = lappend_oid(relations, ((CqrsSegment *) lfirst(cell))->relation);
	return relations;
}

/*
 * cqrs_apply_lock takes all locks that must come before the snapshot.
 *
 * A rewrite or TRUNCATE that commits between snapshot and scan would read as an empty table.  Segments are not freed while they are needed by a checkpoint
 * that is committed, or by a transaction that says so: one that makes the first checkpoint, or the first after a version was stale, can only say so.
 */
bool
cqrs_apply_lock(const CqrsVersion *version, bool wait, List **locked)
{
	List	   *writes = list_make1_oid(version->table);

	if (!cqrs_version_is_events(version))
		check_exists(version, version->definition, "the definition");
	check_exists(version, version->table, "the table");
	if (!cqrs_outbox_need(wait))
		return false;
	if (cqrs_version_is_events(version) && cqrs_events_begins_anew(version) && !cqrs_events_lock_seed(version, wait))
		return false;
	if (!wait)
		return cqrs_locks_try_listed(readable, unconstify(CqrsVersion *, version), AccessShareLock, AT_ONCE_MS, locked) &&
			cqrs_locks_try(writes, RowExclusiveLock, AT_ONCE_MS, NULL);
	*locked = cqrs_locks_take_listed(readable, unconstify(CqrsVersion *, version), AccessShareLock, cqrs_setting_lock_timeout);
	cqrs_locks_take(writes, RowExclusiveLock, cqrs_setting_lock_timeout);
	return true;
}

/*
 * cqrs_apply_still_locked tells whether no table has joined what the version reads since it was locked.
 *
 * None can have joined and left again: to leave takes a lock that conflicts with ours, on the tree that it joined or, once it was read, on itself.
 */
bool
cqrs_apply_still_locked(const CqrsVersion *version, List *locked)
{
	return list_difference_oid(trees(version), locked) == NIL;
}

/*
 * cqrs_apply_check_locked raises if one has.
 */
void
cqrs_apply_check_locked(const CqrsVersion *version, List *locked)
{
	if (!cqrs_apply_still_locked(version, locked))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("a table joined what projection \"%s\" reads while it was being read",
						cqrs_name_shown(cqrs_projection_get(version->projection, false)->view)),
				 errdetail("A partition was attached, or a child added, to a table that the projection reads."),
				 errhint("Try again.")));
}

/*
 * cqrs_apply_snapshot returns the snapshot for a batch or fill, registered.
 */
Snapshot
cqrs_apply_snapshot(void)
{
	return RegisterSnapshot(GetTransactionSnapshot());
}

/*
 * check_select raises unless the owner may read the columns of a source.
 *
 * The executor checks relations that statements name, but deltas are not checked by anybody.
 */
static void
check_select(const CqrsProgramSource *source, Oid owner)
{
	int			column = -1;

	if (check_enable_rls(source->relation, owner, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row security of \"%s\" applies to the owner of the projection", cqrs_name_shown(source->relation)),
				 errhint("Exempt the owner from it, or give the projection another owner.")));
	if (pg_class_aclcheck(source->relation, owner, ACL_SELECT) == ACLCHECK_OK)
		return;
	if (bms_is_empty(source->watched) &&
		pg_attribute_aclcheck_all(source->relation, owner, ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(source->relation));
	while ((column = bms_next_member(source->watched, column)) >= 0)
		if (pg_attribute_aclcheck(source->relation, column, owner, ACL_SELECT) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(source->relation));
}

/*
 * needs_full tells whether a window asks for a full evaluation: by what happened, or because a changed source has no better strategy.
 */
static bool
needs_full(const CqrsProgram *program, const CqrsWindow *window)
{
	if (window->needs_full)
		return true;
	for (int i = 0; i < window->nsources; i++)
		if (window->deltas[i].nrows > 0 && program->sources[i].strategy == CQRS_STRATEGY_FULL)
			return true;
	return false;
}

/*
 * lower_of finds the member whose table a source of the program is, if it has been applied in this batch; or NULL.
 */
static const CqrsMember *
lower_of(const CqrsMember *member, const CqrsProgramSource *source)
{
	ListCell   *cell;

	foreach(cell, member->lowers)
	{
		const CqrsMember *lower = lfirst(cell);

		if (lower->done && lower->version->table == source->relation)
			return lower;
	}
	return NULL;
}

/*
 * is_joined tells whether all projections that the program reads are applied in this batch, before the member.
 *
 * If a view through which it reads was replaced where no event trigger told of it, the group was made without them.
 */
static bool
is_joined(const CqrsMember *member, const CqrsProgram *program)
{
	for (int i = 0; i < program->nsources; i++)
		if (program->sources[i].projection != 0 && lower_of(member, &program->sources[i]) == NULL)
			return false;
	return true;
}

/*
 * check_rights raises unless the owner may read what the definition names.
 */
static void
check_rights(const CqrsProgram *program, Oid owner)
{
	ListCell   *cell;

	for (int i = 0; i < program->nsources; i++)
		if (program->sources[i].direct)
			check_select(&program->sources[i], owner);
	foreach(cell, program->named)
		if (pg_class_aclcheck(lfirst_oid(cell), owner, ACL_SELECT) != ACLCHECK_OK &&
			pg_attribute_aclcheck_all(lfirst_oid(cell), owner, ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, get_rel_name(lfirst_oid(cell)));
}

/*
 * read_window reads what has changed in the member's sources, and what this batch has changed in the projections that it reads.
 */
static CqrsWindow *
read_window(const CqrsMember *member, CqrsProgramEntry *entry, const CqrsBatch *batch)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	const CqrsSnapshot *since = member->checkpoint->ours ? member->checkpoint->snapshot : NULL;
	CqrsWindow *window = cqrs_delta_read(entry, batch->snapshot, since, !member->full);

	for (int i = 0; i < program->nsources; i++)
		if (program->sources[i].projection != 0 && !member->full)
			cqrs_delta_feed(program, window, i, lower_of(member, &program->sources[i])->feed);
	return window;
}

/*
 * maintain brings the table from the checkpoint to the snapshot; returns the window, or NULL, having done nothing, while the member has to join another group
 * first.
 *
 * 'captured' tells whether all sources were captured as the registry says the version asks, when the snapshot was taken.  If the program asks for something
 * else by now the registry learns of it here, and if that is more the window is not to be trusted.
 */
static CqrsWindow *
maintain(CqrsMember *member, const CqrsBatch *batch, Oid owner, bool captured)
{
	const CqrsVersion *version = member->version;
	CqrsProgramEntry *entry;
	const CqrsProgram *program;
	CqrsWindow *window = NULL;
	CqrsNeeds	needs;

	PushActiveSnapshot(batch->snapshot);
	entry = cqrs_program_entry(version);
	program = cqrs_program_of(entry);
	needs = cqrs_needs_compare(version, program);
	captured = captured && needs != CQRS_NEEDS_OTHERS && needs != CQRS_NEEDS_MORE;
	if (needs != CQRS_NEEDS_RECORDED)
		cqrs_needs_record(version, program);
	if (!is_joined(member, program))
	{
		PopActiveSnapshot();
		return NULL;
	}
	check_rights(program, owner);

	member->full = member->full || !captured || version->status == CQRS_STATUS_STALE || !member->checkpoint->ours;
	window = read_window(member, entry, batch);
	window->captured = captured;
	member->full = member->full || needs_full(program, window);
	if (window->altered)
	{
		cqrs_program_forget(version->id);	/* plans may name partitions that are being detached */
		entry = cqrs_program_entry(version);
	}
	PopActiveSnapshot();
	if (member->full)
		cqrs_strategy_full(entry, batch->snapshot);
	else if (window->changes > 0 || window->fed > 0)
		member->full = cqrs_strategy_apply(entry, window, batch->snapshot);
	return window;
}

/*
 * run_window applies the window as the owner, inside SPI, and copies it out without its deltas; false if maintain did nothing.
 */
static bool
run_window(CqrsMember *member, const CqrsBatch *batch, bool captured)
{
	CqrsIdentity saved;
	CqrsWindow *window = NULL;
	Oid			owner = cqrs_apply_become_owner(member->version, &saved);

	cqrs_spi_connect();
	PG_TRY();
	{
		window = maintain(member, batch, owner, captured);
	}
	PG_CATCH();
	{
		cqrs_program_forget(member->version->id);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (window != NULL)
	{
		cqrs_delta_free(window);
		member->window = *window;
	}
	cqrs_spi_finish();
	cqrs_identity_leave(&saved);
	return window != NULL;
}

/*
 * settle writes the status that a batch leaves a version in, without an error, and what came to pass into history.
 */
static void
settle(CqrsVersion *version, CqrsStatus status, const char *event, const char *reason)
{
	if (version->status != status)
		cqrs_history_insert(version->projection, cqrs_projection_get(version->projection, false)->view, version->number,
							event, cqrs_status_name(version->status), cqrs_status_name(status), reason);
	else if (version->error == NULL)
		return;
	version->status = status;
	version->error = NULL;
	version->retry_at = 0;
	version->attempts = 0;
	cqrs_version_update(version);
}

/*
 * is_detaching tells whether a partition of what the version reads is being detached.
 *
 * Until that is done, writers who began before it change rows that count no more, and their changes are in the window.
 */
static bool
is_detaching(const CqrsVersion *version)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_source_list(version->id))
		if (cqrs_tree_detaching(cqrs_source_get(((CqrsVersionSource *) lfirst(cell))->source)->relation))
			return true;
	return false;
}

/*
 * is_suspended tells whether the capture of what the version reads is suspended.
 */
static bool
is_suspended(const CqrsVersion *version)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_source_list(version->id))
		if (!cqrs_source_get(((CqrsVersionSource *) lfirst(cell))->source)->attached)
			return true;
	return false;
}

/*
 * cqrs_member_prepare finds out, before the snapshot, what must not be asked after it.
 */
void
cqrs_member_prepare(CqrsMember *member)
{
	if (cqrs_version_is_events(member->version))
		return;
	member->full = is_detaching(member->version) || /* now, too: what ends the detaching is in the window then */
		!cqrs_version_in_step(member->version);
	member->captured = cqrs_version_covered(member->version->id);	/* what a source is captured for may grow meanwhile */
}

/*
 * is_restored tells whether a restore has put a version's table where it was, with what comes after the data: triggers come last, with the guard among them.
 */
static bool
is_restored(const CqrsVersion *version)
{
	Relation	table = relation_open(version->table, AccessShareLock);
	bool		found = false;

	for (int i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
		found |= strcmp(table->trigdesc->triggers[i].tgname, "cqrs_guard") == 0;
	relation_close(table, NoLock);
	return found;
}

/*
 * cqrs_member_apply does the batch's work for one version once the locks are held and the snapshot is taken.
 *
 * A version that came by a restore of which only the data is there is left alone by a worker.
 *
 * Where a source is not captured the version is stale: not only this batch is a full evaluation, but the first one, too, that finds
 * it captured again, for what happened until then is in no window.
 */
void
cqrs_member_apply(CqrsMember *member, const CqrsBatch *batch)
{
	CqrsVersion *version = member->version;
	bool		captured;

	if (!member->checkpoint->ours && !batch->wait && !is_restored(version))
		return;
	if (cqrs_version_is_events(version))
	{
		cqrs_events_apply(member, batch);
		return;
	}
	captured = member->captured && !is_suspended(version);	/* after the snapshot: it may see what was changed since capture was suspended */
	cqrs_effort_begin();
	if (!run_window(member, batch, captured))
		return;
	if (member->full || member->window.changes > 0)
		cqrs_apply_check_locked(version, member->locked);
	member->done = true;
	member->effort = cqrs_effort_end(member->window.changes + member->window.fed);
	if (member->full && cqrs_read_settle(version->id) && version->status == CQRS_STATUS_RUNNING)
		cqrs_history_insert(version->projection, cqrs_projection_get(version->projection, false)->view, version->number,
							"recovered", cqrs_status_name(CQRS_STATUS_STALE), cqrs_status_name(CQRS_STATUS_RUNNING),
							"evaluated over the versions that serve what it reads");
	if (member->window.captured)
		settle(version, CQRS_STATUS_RUNNING, "recovered", version->error);
	else
		settle(version, CQRS_STATUS_STALE, "stale", "a source is not captured: its triggers are disabled or missing");
}
