/*
 * projection/alter.c
 *		Changes to a projection's life: alter, pause, resume, drop.
 *
 * Each takes the projection's lock, checks the right to manage it, and wakes the worker at commit.
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/arguments.h"
#include "base/locks.h"
#include "base/names.h"
#include "build/build.h"
#include "capture/capture.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "projection/parts.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(cqrs_alter_projection);
PG_FUNCTION_INFO_V1(cqrs_pause);
PG_FUNCTION_INFO_V1(cqrs_resume);
PG_FUNCTION_INFO_V1(cqrs_drop_projection);

/*
 * cqrs_projection_open returns the projection that the first argument names, locked, for its owner; 'command' names the function for errors.
 *
 * Read twice: what it is may change while the lock is waited for.
 */
CqrsProjection *
cqrs_projection_open(Oid view, const char *command)
{
	CqrsProjection *projection;

	PreventCommandDuringRecovery(command);
	PreventCommandIfReadOnly(command);
	projection = cqrs_projection_argument(view);
	cqrs_projection_check_owner(projection);
	cqrs_projection_lock(projection->id);
	return cqrs_projection_argument(view);
}

/*
 * cqrs_projection_filter returns a row filter as it was given; NULL if there is nothing in it.
 */
char *
cqrs_projection_filter(const text *argument)
{
	char	   *filter = text_to_cstring(argument);

	return filter[strspn(filter, " \t\r\n")] == '\0' ? NULL : filter;
}

/*
 * change_filter has the serving view enforce another row filter, or none (NULL).
 *
 * Which version it shows, and whether it shows one yet, is asked once nobody can change it.
 */
static void
change_filter(CqrsProjection *projection, char *filter)
{
	CqrsVersion *version;

	cqrs_locks_take(list_make1_oid(projection->view), AccessExclusiveLock, cqrs_setting_lock_timeout);
	version = cqrs_version_serving(projection->id);
	cqrs_build_filter_view(projection, version, version->state != CQRS_STATE_SERVING, filter);
	projection->row_filter = filter;
}

/*
 * read_on_error returns what is to become of events that fail.
 */
static char *
read_on_error(const text *argument)
{
	char	   *on_error = text_to_cstring(argument);

	if (strcmp(on_error, "park") != 0 && strcmp(on_error, "halt") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for argument \"on_error\": \"%s\"", on_error),
				 errhint("It is \"park\" or \"halt\".")));
	return on_error;
}

/*
 * cqrs.alter_projection(projection regclass, max_lag interval DEFAULT NULL, on_error text DEFAULT NULL, row_filter text DEFAULT NULL,
 *						 description text DEFAULT NULL) RETURNS void
 *
 * Changes what is given; NULL leaves as is.  An empty row filter takes away the one there is.
 *
 * Errors: 42809 not a projection; 42501 not its owner; 22023 an objective that is not more than zero, or on_error neither park nor halt; for the row filter
 * the server's own, 42601 if it is not one expression, 0A000 if it looks at whole rows, and 55P03 if readers do not let go of the view.
 */
Datum
cqrs_alter_projection(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection;

	if (PG_ARGISNULL(0))
		cqrs_arguments_refuse_null("projection");
	projection = cqrs_projection_open(PG_GETARG_OID(0), "cqrs.alter_projection()");
	if (!PG_ARGISNULL(1))
		projection->max_lag = cqrs_arguments_positive(PG_GETARG_INTERVAL_P(1), "max_lag");
	if (!PG_ARGISNULL(2))
		projection->on_error = read_on_error(PG_GETARG_TEXT_PP(2));
	if (!PG_ARGISNULL(3))
		change_filter(projection, cqrs_projection_filter(PG_GETARG_TEXT_PP(3)));
	if (!PG_ARGISNULL(4))
		projection->description = text_to_cstring(PG_GETARG_TEXT_PP(4));
	cqrs_projection_update(projection);
	cqrs_history_insert(projection->id, projection->view, 0, "altered", NULL, NULL, NULL);
	PG_RETURN_VOID();
}

/*
 * cqrs.pause(projection regclass) RETURNS void
 *
 * Stops applying changes to the projection until cqrs.resume.  Its sources go on being captured.
 *
 * Errors: 42809 not a projection, 42501 not its owner.
 */
Datum
cqrs_pause(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = cqrs_projection_open(PG_GETARG_OID(0), "cqrs.pause()");

	if (projection->paused)
		PG_RETURN_VOID();
	projection->paused = true;
	cqrs_projection_update(projection);
	cqrs_history_insert(projection->id, projection->view, 0, "paused", NULL, NULL, NULL);
	cqrs_shared_announce_at_commit();
	PG_RETURN_VOID();
}

/*
 * restart_version has a version that failed or halted tried again at once.
 *
 * One that had halted evaluates all anew: nobody looked after its sources meanwhile.
 */
static void
restart_version(int32 id)
{
	CqrsVersion *version;

	(void) cqrs_version_lock(id, false);
	version = cqrs_version_get(id, true);
	if (version == NULL || (version->status != CQRS_STATUS_HALTED && !cqrs_version_fails(version)))
		return;
	version->status = version->status == CQRS_STATUS_FAILING ? CQRS_STATUS_RUNNING : CQRS_STATUS_STALE;
	version->error = NULL;
	version->retry_at = 0;
	version->attempts = 0;
	cqrs_version_update(version);
}

/*
 * cqrs.resume(projection regclass) RETURNS void
 *
 * Goes on with a paused projection; one that is failing or halted is tried again at once.
 *
 * Errors: 42809 not a projection, 42501 not its owner.
 */
Datum
cqrs_resume(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = cqrs_projection_open(PG_GETARG_OID(0), "cqrs.resume()");
	ListCell   *cell;

	projection->paused = false;
	cqrs_projection_update(projection);
	foreach(cell, cqrs_version_list(projection->id))
		restart_version(((CqrsVersion *) lfirst(cell))->id);
	cqrs_history_insert(projection->id, projection->view, 0, "resumed", NULL, NULL, NULL);
	cqrs_shared_announce_at_commit();
	cqrs_shared_wake_at_commit();
	PG_RETURN_VOID();
}

/*
 * drop_objects drops view, tables, definitions and schemas together: so they do not stand in each other's way, and what users have built on them
 * does, unless 'cascade'.
 */
static void
drop_objects(Oid view, List *versions, bool cascade)
{
	ObjectAddresses *objects = new_object_addresses();
	ObjectAddress address;
	ListCell   *cell;

	ObjectAddressSet(address, RelationRelationId, view);
	add_exact_object_address(&address, objects);
	foreach(cell, versions)
	{
		CqrsVersion *version = lfirst(cell);

		if (get_rel_relkind(version->definition) != '\0')
		{
			ObjectAddressSet(address, RelationRelationId, version->definition);
			add_exact_object_address(&address, objects);
		}
		if (get_rel_relkind(version->table) != '\0')
		{
			ObjectAddressSet(address, RelationRelationId, version->table);
			add_exact_object_address(&address, objects);
		}
		if (get_namespace_name(version->schema) != NULL)
		{
			ObjectAddressSet(address, NamespaceRelationId, version->schema);
			add_exact_object_address(&address, objects);
		}
	}
	performMultipleDeletions(objects, cascade ? DROP_CASCADE : DROP_RESTRICT, 0);
	free_object_addresses(objects);
}

/*
 * cqrs.drop_projection(projection regclass, cascade boolean DEFAULT false) RETURNS void
 *
 * Drops the projection with its serving view, versions and their tables, and stops capturing what nothing else reads.  A fill
 * or batch that the worker is at is cancelled; one of another session's drain is waited for.
 *
 * Errors: 42809 not a projection, 42501 not its owner, 2BP01 other objects depend on it (without cascade).
 */
Datum
cqrs_drop_projection(PG_FUNCTION_ARGS)
{
	Oid			view = PG_GETARG_OID(0);
	CqrsProjection *projection = cqrs_projection_open(view, "cqrs.drop_projection()");
	List	   *versions = cqrs_version_list(projection->id);
	ListCell   *cell;

	foreach(cell, versions)
	{
		cqrs_shared_interrupt_worker(((CqrsVersion *) lfirst(cell))->id);
		(void) cqrs_version_lock(((CqrsVersion *) lfirst(cell))->id, false);
	}
	LockRelationOid(view, AccessExclusiveLock);
	cqrs_history_insert(projection->id, view, 0, "dropped", NULL, NULL, NULL);
	foreach(cell, versions)
		cqrs_version_delete(((CqrsVersion *) lfirst(cell))->id);
	cqrs_projection_delete(projection->id);
	drop_objects(view, versions, PG_GETARG_BOOL(1));
	cqrs_capture_release();
	cqrs_shared_announce_at_commit();
	cqrs_shared_wake_at_commit();
	PG_RETURN_VOID();
}
