/*
 * capture/attach.c
 *		Attaching tables as sources and letting them go: their triggers, and whether their plan is in force.
 *
 * Leaves to the registry what a source is, and to cache.c what a plan says.  Every lock on a source table is asked for in short tries, so that writers never
 * queue behind us for long.  A source's own lock (cqrs_source_lock) comes before those of its table.  The caller has checked the user's right; the
 * work is done under the system's identity.
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

/* The two triggers of a source. */
static const struct
{
	const char *name;
	bool		row;
	int16		events;
}			triggers[] = {
	{"cqrs_capture", true, TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE},
	{"cqrs_capture_truncate", false, TRIGGER_TYPE_TRUNCATE},
};

/*
 * exists tells whether a relation is still there.
 */
static bool
exists(Oid relation)
{
	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation));
}

/*
 * find_trigger returns the OID of our trigger of that name, and when it fires; InvalidOid if there is none or it is somebody else's.
 */
static Oid
find_trigger(Relation rel, const char *name, Oid function, char *enabled)
{
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &rel->trigdesc->triggers[i];

		if (trigger->tgfoid == function && strcmp(trigger->tgname, name) == 0)
		{
			*enabled = trigger->tgenabled;
			return trigger->tgoid;
		}
	}
	return InvalidOid;
}

/*
 * create_trigger makes one of our triggers, firing also for changes that replication applies.
 */
static void
create_trigger(Relation rel, int which, Oid function)
{
	CreateTrigStmt *statement = makeNode(CreateTrigStmt);

	statement->trigname = pstrdup(triggers[which].name);
	statement->funcname = list_make2(makeString("cqrs_internal"), makeString("capture"));
	statement->row = triggers[which].row;
	statement->timing = TRIGGER_TYPE_AFTER;
	statement->events = triggers[which].events;
	(void) CreateTriggerFiringOn(statement, NULL, RelationGetRelid(rel), InvalidOid, InvalidOid, InvalidOid, function,
								 InvalidOid, NULL, false, false, TRIGGER_FIRES_ALWAYS);
}

/*
 * ensure_triggers makes the table's triggers be there and fire always.
 *
 * Errors: 42710, by the server, if the table has another trigger of the name.
 */
static void
ensure_triggers(Relation rel)
{
	Oid			function = cqrs_registry_capture_function();

	for (int i = 0; i < lengthof(triggers); i++)
	{
		char		enabled;

		if (!OidIsValid(find_trigger(rel, triggers[i].name, function, &enabled)))
			create_trigger(rel, i, function);
		else if (enabled != TRIGGER_FIRES_ALWAYS)
			EnableDisableTrigger(rel, triggers[i].name, TRIGGER_FIRES_ALWAYS, false, ShareRowExclusiveLock);
	}
	CommandCounterIncrement();
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
 * distrust_readers makes all versions stale that read a source: what they missed is in no window, and from now on the triggers do not tell.
 *
 * Errors: 55P03 if another process is at work on one of them; what was written is taken back with the rest.
 */
static void
distrust_readers(int32 source)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_source_list(0))
	{
		CqrsVersionSource *reads = lfirst(cell);
		CqrsVersion *version;

		if (reads->source != source)
			continue;
		if (!cqrs_version_lock(reads->version, true))
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("a version that reads the same source is held by another process"),
					 errhint("Try again when it is done.")));
		version = cqrs_version_get(reads->version, true);
		if (version != NULL)
			cqrs_version_distrust(version, "capture triggers of a source were disabled or dropped");
	}
}

/*
 * attach_one puts one source's plan in force, whose table is locked.
 *
 * If it was in force, the source has not been captured for a while without anybody having asked for that.
 */
static void
attach_one(int32 id)
{
	CqrsSource *source = cqrs_source_get(id);
	Relation	rel;

	if (source->attached && !cqrs_source_intact(source->relation))
		distrust_readers(source->id);
	cqrs_capture_check(source->relation);
	rel = table_open(source->relation, NoLock);
	ensure_triggers(rel);
	table_close(rel, NoLock);
	source->attached = true;
	grow(source);
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
	List	   *relations = NIL;
	CqrsIdentity identity;
	ListCell   *cell;

	if (sources == NIL)
		return false;
	cqrs_segment_ensure();
	foreach(cell, sources)
	{
		CqrsSource *source = lfirst(cell);

		lock_source(source);
		relations = lappend_oid(relations, source->relation);
	}
	cqrs_locks_take(relations, ShareRowExclusiveLock, cqrs_setting_lock_timeout);
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
 * cqrs_capture_release empties the plans of sources that nothing asks for, and makes one try to drop their triggers; those of others shrink.
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
	cqrs_capture_shrink();
	(void) cqrs_capture_tidy();
}

/*
 * in_use tells whether this session itself is at work on the table, so that its triggers cannot be dropped now.
 */
static bool
in_use(Relation rel)
{
	return rel->rd_refcnt > 1 || AfterTriggerPendingOnRel(RelationGetRelid(rel));
}

/*
 * has_triggers tells whether any of our triggers is on the table; true also if that cannot be told without waiting.
 */
static bool
has_triggers(Oid relation)
{
	Oid			function = cqrs_registry_capture_function();
	Relation	rel;
	bool		found = false;
	char		enabled;

	if (!ConditionalLockRelationOid(relation, AccessShareLock))
		return true;
	rel = try_table_open(relation, NoLock);
	if (rel == NULL)
	{
		UnlockRelationOid(relation, AccessShareLock);
		return false;
	}
	for (int i = 0; i < lengthof(triggers); i++)
		found |= OidIsValid(find_trigger(rel, triggers[i].name, function, &enabled));
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * drop_triggers drops our triggers from a table that is locked; false if this session is at work on it.
 */
static bool
drop_triggers(Oid relation)
{
	Oid			function = cqrs_registry_capture_function();
	Relation	rel = table_open(relation, NoLock);
	bool		busy = in_use(rel);
	ObjectAddresses *objects = new_object_addresses();

	for (int i = 0; i < lengthof(triggers); i++)
	{
		ObjectAddress address;
		char		enabled;

		ObjectAddressSet(address, TriggerRelationId, find_trigger(rel, triggers[i].name, function, &enabled));
		if (OidIsValid(address.objectId))
			add_exact_object_address(&address, objects);
	}
	table_close(rel, NoLock);
	if (!busy)
		performMultipleDeletions(objects, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	free_object_addresses(objects);
	return !busy;
}

/*
 * tidy_one drops the triggers of a released source, or its row once the table is gone; false if that has to wait.
 */
static bool
tidy_one(const CqrsSource *seen)
{
	CqrsSource *source;

	if (seen->attached && exists(seen->relation))
		return true;
	if (exists(seen->relation) && !has_triggers(seen->relation))
		return true;
	source = lock_unwanted(seen);
	if (source == NULL)
		return true;
	if (!exists(source->relation))
	{
		cqrs_source_delete(source->id);
		return true;
	}
	if (IsTransactionBlock() ||
		!cqrs_locks_try(list_make1_oid(source->relation), AccessExclusiveLock, TIDY_WAIT_MS, NULL))
		return false;
	return drop_triggers(source->relation);
}

/*
 * cqrs_capture_tidy drops the triggers of released sources, each in one short try; true if some are left.
 *
 * Within a transaction block it leaves them all: the table would stay locked until the block's end.
 */
bool
cqrs_capture_tidy(void)
{
	bool		left = false;
	CqrsIdentity identity;
	ListCell   *cell;

	cqrs_identity_enter_system(&identity);
	foreach(cell, cqrs_source_list())
		left |= !tidy_one(lfirst(cell));
	cqrs_identity_leave(&identity);
	return left;
}
