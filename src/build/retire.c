/*
 * build/retire.c
 *		Dropping what versions are made of.
 *
 * The caller has checked that nobody is to read them any more, and holds the projection's lock.
 */
#include "postgres.h"

#include "apply/apply.h"
#include "base/locks.h"
#include "base/snapshot.h"
#include "build/build.h"
#include "build/parts.h"
#include "capture/capture.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "utils/lsyscache.h"

/*
 * add_relation adds a relation, if it is there, to what is to be dropped.
 */
static void
add_relation(ObjectAddresses *objects, Oid relation)
{
	ObjectAddress address;

	if (get_rel_relkind(relation) == '\0')
		return;
	ObjectAddressSet(address, RelationRelationId, relation);
	add_exact_object_address(&address, objects);
}

/*
 * cqrs_build_drop drops the views of projections, and tables, definitions and schemas of versions together: so they do not stand in each other's way, and
 * what users have built on them does, unless 'cascade'.
 */
void
cqrs_build_drop(List *projections, List *versions, bool cascade)
{
	ObjectAddresses *objects = new_object_addresses();
	ObjectAddress address;
	bool		held = cqrs_snapshot_hold();
	ListCell   *cell;

	foreach(cell, projections)
		add_relation(objects, ((CqrsProjection *) lfirst(cell))->view);
	foreach(cell, versions)
	{
		CqrsVersion *version = lfirst(cell);

		add_relation(objects, version->definition);
		add_relation(objects, version->table);
		if (get_namespace_name(version->schema) == NULL)
			continue;
		ObjectAddressSet(address, NamespaceRelationId, version->schema);
		add_exact_object_address(&address, objects);
	}
	performMultipleDeletions(objects, cascade ? DROP_CASCADE : DROP_RESTRICT, 0);
	cqrs_snapshot_let_go(held);
	free_object_addresses(objects);
}

/*
 * relations_of lists what is to be dropped and could be read by somebody.
 */
static List *
relations_of(const CqrsVersion *version)
{
	List	   *relations = NIL;

	if (get_rel_relkind(version->definition) != '\0')
		relations = lappend_oid(relations, version->definition);
	if (get_rel_relkind(version->table) != '\0')
		relations = lappend_oid(relations, version->table);
	return relations;
}

/*
 * lock_version locks a version, after what a worker does with it or its group was cancelled: a fill may take hours.
 */
static void
lock_version(void *argument)
{
	int32		id = *(int32 *) argument;
	ListCell   *cell;

	foreach(cell, cqrs_group_members(id))
		cqrs_shared_interrupt_worker(lfirst_int(cell));
	(void) cqrs_version_lock(id, false);
}

/*
 * lock_to_drop locks a version and its relations, so that nobody queues behind us: neither who would read them, nor who applies it with others.
 */
static bool
lock_to_drop(int32 id, bool wait)
{
	CqrsVersion *version = cqrs_version_get(id, true);

	if (version == NULL)
		return true;
	if (!wait)
		return cqrs_version_lock(id, true) &&
			cqrs_locks_try(relations_of(version), AccessExclusiveLock, CQRS_AT_ONCE_MS, NULL);
	cqrs_locks_take_after(lock_version, &id, relations_of(version), AccessExclusiveLock, cqrs_setting_lock_timeout);
	return true;
}

/*
 * cqrs_build_retire drops a version's table, unless it serves by now; its row stays and names nothing any more.
 */
bool
cqrs_build_retire(int32 id, bool wait, const char *reason)
{
	CqrsVersion *version;

	if (!lock_to_drop(id, wait))
		return false;
	version = cqrs_version_get(id, true);
	if (version == NULL || version->state == CQRS_STATE_RETIRED || version->state == CQRS_STATE_SERVING)
		return true;
	cqrs_build_drop(NIL, list_make1(version), false);
	cqrs_events_discard_all(version, "the version was retired");
	cqrs_version_strip(id);
	version->schema = version->table = version->definition = InvalidOid;
	version->status = CQRS_STATUS_RUNNING;
	version->error = NULL;
	version->retry_at = version->retire_at = 0;
	version->attempts = 0;
	version->rebuild = CQRS_REBUILD_NONE;
	cqrs_build_state(version, CQRS_STATE_RETIRED, reason);
	cqrs_capture_release();
	cqrs_shared_wake_at_commit();
	return true;
}
