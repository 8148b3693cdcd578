/*
 * capture/attach.c
 *		Attaching tables as sources and letting them go: whether their plan is in force, and when their triggers come and go.
 *
 * Leaves to the registry what a source is, to cache.c what a plan says, and to triggers.c the triggers themselves.  Every lock on a source table is asked
 * for in short tries, so that writers never queue behind us for long.  A source's own lock (cqrs_source_lock) comes before those of its tables.  The
 * caller has checked the user's right; the work is done under the system's identity.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "base/clock.h"
#include "base/locks.h"
#include "base/names.h"
#include "base/spi.h"
#include "capture/parts.h"
#include "catalog/dependency.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "outbox/outbox.h"
#include "registry/registry.h"
#include "settings/settings.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define TIDY_WAIT_MS	50		/* for the lock that dropping a trigger takes */
#define TIDY_MORE_MS	1		/* the same, with other tables locked already */

/*
 * exists tells whether a relation is still there.
 */
static bool
exists(Oid relation)
{
	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation));
}

/*
 * is_attached tells whether changes of a source are captured right now, of all the columns that are asked for.
 */
static bool
is_attached(const CqrsSource *source)
{
	Bitmapset  *watched;
	Bitmapset  *imaged;

	cqrs_capture_demand(source, &watched, &imaged);
	return bms_is_subset(watched, source->watched) && bms_is_subset(imaged, source->imaged) &&
		cqrs_source_covers(source, watched, imaged);
}

/*
 * grow has the source captured for all that is asked of it, and no less than before.
 */
static void
grow(CqrsSource *source)
{
	Bitmapset  *watched;
	Bitmapset  *imaged;

	cqrs_capture_demand(source, &watched, &imaged);
	source->watched = bms_add_members(watched, source->watched);
	source->imaged = bms_add_members(imaged, source->imaged);
}

/*
 * distrust_readers makes the versions stale that have read a source: what they missed is in no window.
 *
 * One without a checkpoint has read nothing, unless another process is filling it just now; that one finds an alter record in its first window.
 *
 * Errors: 55P03 if another process is at work on one of them; what was written is taken back with the rest.
 */
static void
distrust_readers(const CqrsSource *source)
{
	bool		filling = false;
	ListCell   *cell;

	foreach(cell, cqrs_version_source_list(0))
	{
		CqrsVersionSource *reads = lfirst(cell);
		CqrsVersion *version;

		if (reads->source != source->id)
			continue;
		if (!cqrs_version_lock(reads->version, true))
		{
			if (cqrs_checkpoint_latest(reads->version) != NULL)
				ereport(ERROR,
						(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						 errmsg("a version that reads the same source is held by another process"),
						 errhint("Try again when it is done.")));
			filling = true;
			continue;
		}
		version = cqrs_version_get(reads->version, true);
		if (version != NULL && cqrs_checkpoint_latest(version->id) != NULL)
			cqrs_version_distrust(version, "a source was not captured for a while");
	}
	if (filling)
		cqrs_capture_append_alter(source);
}

/*
 * attach_one puts one source's plan in force, whose tables are locked.
 *
 * One that was captured before, and is not as it should be, has not been captured for a while.
 */
static void
attach_one(int32 id)
{
	CqrsSource *source = cqrs_source_get(id);
	CqrsSource	read = *source;
	ListCell   *cell;

	read.captured = false;		/* whole rows are of no concern to those who read a few columns */
	if (!source->attached || !cqrs_source_intact(&read))
		distrust_readers(source);
	cqrs_capture_check(source->relation);
	source->attached = true;
	grow(source);
	foreach(cell, cqrs_tree_tables(source->relation))
		cqrs_capture_make_triggers(lfirst_oid(cell), source);
	(void) cqrs_capture_shape(source);
	cqrs_source_update(source);
}

/*
 * compare_relations orders sources by their tables, the order in which everybody locks.
 */
static int
compare_relations(const ListCell *left, const ListCell *right)
{
	Oid			l = ((const CqrsSource *) lfirst(left))->relation;
	Oid			r = ((const CqrsSource *) lfirst(right))->relation;

	return l < r ? -1 : l > r;
}

/*
 * not_attached returns those of the sources that have to be attached, by table.
 */
static List *
not_attached(List *ids)
{
	List	   *sources = NIL;
	ListCell   *cell;

	foreach(cell, ids)
	{
		CqrsSource *source = cqrs_source_get(lfirst_int(cell));

		if (!is_attached(source))
			sources = lappend(sources, source);
	}
	list_sort(sources, compare_relations);
	return sources;
}

/*
 * lock_source takes a source's own lock, in tries: whoever has created a projection and not committed holds it, and a worker has others to attend to.
 */
static void
lock_source(const CqrsSource *source)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(cqrs_clock_now(), cqrs_setting_lock_timeout);

	while (!cqrs_source_lock(source->relation, true))
		if (!cqrs_locks_pause(deadline))
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not attach source \"%s\" within cqrs.lock_timeout", cqrs_name_shown(source->relation)),
					 errdetail("Another transaction that is still open has registered, attached or released it."),
					 errhint("Wait for that transaction to end.")));
}

/*
 * tables_of lists the tables of the trees of sources, given as a List of CqrsSource *; partitioned ones too, so that nothing joins them.
 */
static List *
tables_of(void *sources)
{
	List	   *tables = NIL;
	ListCell   *cell;

	foreach(cell, (List *) sources)
	{
		Oid			relation = ((CqrsSource *) lfirst(cell))->relation;

		if (!exists(relation))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", relation)));
		tables = list_concat(tables, cqrs_tree_members(relation));
	}
	return tables;
}

/*
 * cqrs_capture_attach has the sources captured from now on; true if that took a change.
 *
 * A source that looks attached is: only one that no version reads is ever released, under its lock, and whoever registers another version for it
 * takes that lock.
 *
 * Errors: 55P03 if a table could not be locked within cqrs.lock_timeout, 42P01 if one is gone, and those of cqrs_capture_check.
 */
bool
cqrs_capture_attach(List *ids)
{
	List	   *sources = not_attached(ids);
	CqrsIdentity identity;
	ListCell   *cell;

	if (sources == NIL)
		return false;
	cqrs_segment_ensure();
	foreach(cell, sources)
		lock_source(lfirst(cell));
	(void) cqrs_locks_take_listed(tables_of, sources, ShareRowExclusiveLock, cqrs_setting_lock_timeout);
	cqrs_identity_enter_system(&identity);
	foreach(cell, sources)
		attach_one(((CqrsSource *) lfirst(cell))->id);
	cqrs_identity_leave(&identity);
	return true;
}

/*
 * cqrs_capture_resume captures sources again that are wanted for themselves and whose capture was suspended, because the outbox was full.
 *
 * Those that versions read are captured again with the versions, which have to be evaluated anew.  Errors: as cqrs_capture_attach.
 */
void
cqrs_capture_resume(void)
{
	List	   *suspended = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_source_list())
	{
		CqrsSource *source = lfirst(cell);

		if (source->captured && !source->attached && exists(source->relation))
			suspended = lappend_int(suspended, source->id);
	}
	(void) cqrs_capture_attach(suspended);
}

/*
 * is_wanted tells whether anything asks for a source's changes: a version, or cqrs.capture.
 */
static bool
is_wanted(const CqrsSource *source)
{
	ListCell   *cell;

	if (source->captured && exists(source->relation))
		return true;
	foreach(cell, cqrs_version_source_list(0))
		if (((CqrsVersionSource *) lfirst(cell))->source == source->id)
			return true;
	return false;
}

/*
 * lock_unwanted takes a source's lock if it can be had at once, and returns the source as it is then, if nothing asks for it.
 *
 * A source whose lock another session holds is being registered or attached by it.
 */
static CqrsSource *
lock_unwanted(const CqrsSource *seen)
{
	CqrsSource *source;

	if (is_wanted(seen) || !cqrs_source_lock(seen->relation, true))
		return NULL;
	source = cqrs_source_of_relation(seen->relation);
	return source == NULL || is_wanted(source) ? NULL : source;
}

/*
 * cqrs_capture_release empties the plans of sources that nothing asks for, and makes one try to drop their triggers.
 */
void
cqrs_capture_release(void)
{
	ListCell   *cell;

	foreach(cell, cqrs_source_list())
	{
		CqrsSource *source = lfirst(cell);

		if (!source->attached)
			continue;
		source = lock_unwanted(source);
		if (source == NULL)
			continue;
		source->attached = false;
		cqrs_source_update(source);
	}
	(void) cqrs_capture_tidy();
}

/*
 * is_below tells whether a table is in a source's tree.
 */
static bool
is_below(Oid table, const CqrsSource *source)
{
	return table == source->relation || list_member_oid(cqrs_tree_ancestors(table), source->relation);
}

/*
 * tidy_table drops a table's triggers for a source; false if that has to wait.
 *
 * Asked again once the table is locked whether they have to go: it may have come back to the tree.  One that left the tree of a source that is wanted may
 * have done so where event triggers do not fire, so that nobody was told.
 */
static bool
tidy_table(Oid table, int32 id, int wait_ms)
{
	CqrsSource *source;

	if (IsTransactionBlock() || !cqrs_locks_try(list_make1_oid(table), AccessExclusiveLock, wait_ms, NULL))
		return false;
	source = cqrs_source_find(id);
	if (source != NULL && is_wanted(source))
	{
		if (is_below(table, source))
			return true;
		cqrs_capture_append_alter(source);
	}
	return cqrs_capture_drop_triggers(table, id);
}

/*
 * tidy_tables drops a source's triggers from those of the tables where they serve nothing; false if some have to wait.
 *
 * Those of a source that is wanted stay while the table is in its tree, even where its capture is suspended.  A source whose lock another session holds is
 * being registered or attached by it.  Whoever has locked one table hardly waits for the others.
 */
static bool
tidy_tables(int32 id, List *tables)
{
	CqrsSource *source = cqrs_source_find(id);
	bool		wanted = source != NULL && is_wanted(source);
	int			wait_ms = TIDY_WAIT_MS;
	bool		done = true;
	ListCell   *cell;

	foreach(cell, tables)
	{
		Oid			table = lfirst_oid(cell);

		if (!exists(table) || (wanted && is_below(table, source)))
			continue;
		if (source != NULL && !cqrs_source_lock(source->relation, true))
			return done;
		if (tidy_table(table, id, wait_ms))
			wait_ms = TIDY_MORE_MS;
		else
			done = false;
	}
	return done;
}

/*
 * compare_triggered orders triggers by source and table.
 */
static int
compare_triggered(const ListCell *left, const ListCell *right)
{
	const CqrsTriggered *l = lfirst(left);
	const CqrsTriggered *r = lfirst(right);

	if (l->source != r->source)
		return l->source < r->source ? -1 : 1;
	return l->table < r->table ? -1 : l->table > r->table;
}

/*
 * tidy_triggers drops triggers that serve no source; false if some have to wait.
 *
 * Where no source is known at all they may have been restored before the catalog is.
 */
static bool
tidy_triggers(void)
{
	List	   *triggers = cqrs_source_list() == NIL ? NIL : cqrs_capture_list_triggers();
	List	   *tables = NIL;
	bool		done = true;
	ListCell   *cell;

	list_sort(triggers, compare_triggered);
	foreach(cell, triggers)
	{
		CqrsTriggered *triggered = lfirst(cell);
		CqrsTriggered *next = lnext(triggers, cell) ? lfirst(lnext(triggers, cell)) : NULL;

		if (next != NULL && next->source == triggered->source && next->table == triggered->table)
			continue;
		tables = lappend_oid(tables, triggered->table);
		if (next != NULL && next->source == triggered->source)
			continue;
		done &= tidy_tables(triggered->source, tables);
		tables = NIL;
	}
	return done;
}

/*
 * tidy_source deletes the row of a source whose table is gone.
 */
static void
tidy_source(const CqrsSource *seen)
{
	CqrsSource *source = exists(seen->relation) ? NULL : lock_unwanted(seen);

	if (source != NULL)
		cqrs_source_delete(source->id);
}

/*
 * cqrs_capture_tidy has sources captured for no more than is asked of them, and drops triggers that serve none, each table's in one short try; true if
 * some are left.
 *
 * Within a transaction block it leaves them all: the table would stay locked until the block's end.
 */
bool
cqrs_capture_tidy(void)
{
	bool		done;
	CqrsIdentity identity;
	ListCell   *cell;

	cqrs_identity_enter_system(&identity);
	cqrs_capture_shrink();
	foreach(cell, cqrs_source_list())
		tidy_source(lfirst(cell));
	done = tidy_triggers();
	cqrs_identity_leave(&identity);
	return !done;
}
