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
	(void) cqrs_projection_lock(projection->id, false);
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
 * lock_readers takes the versions that read a projection from whoever fills or applies them, before its view is locked, which they read.
 */
static void
lock_readers(void *argument)
{
	const CqrsProjection *projection = argument;
	List	   *ids = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_projection_readers(projection->id))
		ids = lappend_int(ids, ((CqrsVersion *) lfirst(cell))->id);
	(void) cqrs_groups_lock(ids, false);
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

	cqrs_locks_take_after(lock_readers, projection, list_make1_oid(projection->view), AccessExclusiveLock,
						  cqrs_setting_lock_timeout);
	version = cqrs_version_serving(projection->id);
	cqrs_build_filter_view(projection, version, version->state != CQRS_STATE_SERVING, filter);
	cqrs_projection_redefined(projection);
	projection->row_filter = filter;
}

/*
 * cqrs_projection_on_error returns what is to become of events that fail.
 */
char *
cqrs_projection_on_error(const text *argument)
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
		projection->on_error = cqrs_projection_on_error(PG_GETARG_TEXT_PP(2));
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
 * One that had halted evaluates all anew: nobody looked after its sources meanwhile.  But one that had halted at an event goes on with that.
 */
static void
restart_version(const CqrsProjection *projection, int32 id)
{
	CqrsVersion *version;
	CqrsStatus	before;
	bool		goes_on;

	(void) cqrs_version_lock(id, false);
	version = cqrs_version_get(id, true);
	if (version == NULL || (version->status != CQRS_STATUS_HALTED && !cqrs_version_fails(version)))
		return;
	goes_on = version->status == CQRS_STATUS_FAILING || cqrs_version_at_event(version);
	before = version->status;
	version->status = goes_on ? CQRS_STATUS_RUNNING : CQRS_STATUS_STALE;
	if (version->status != before)
		cqrs_history_insert(projection->id, projection->view, version->number, "resumed", cqrs_status_name(before),
							cqrs_status_name(version->status), NULL);
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
		restart_version(projection, ((CqrsVersion *) lfirst(cell))->id);
	cqrs_history_insert(projection->id, projection->view, 0, "resumed", NULL, NULL, NULL);
	cqrs_shared_announce_at_commit();
	cqrs_shared_wake_at_commit();
	PG_RETURN_VOID();
}

/*
 * is_among tells whether a projection is in a list.
 */
static bool
is_among(List *projections, int32 id)
{
	ListCell   *cell;

	foreach(cell, projections)
		if (((CqrsProjection *) lfirst(cell))->id == id)
			return true;
	return false;
}

/*
 * with_readers returns the projection with all that read it, through others too, locked; without 'cascade' it is an error if any does.
 */
static List *
with_readers(CqrsProjection *projection, bool cascade)
{
	List	   *projections = list_make1(projection);
	ListCell   *cell;

	for (int i = 0; i < list_length(projections); i++)
	{
		CqrsProjection *read = list_nth(projections, i);

		foreach(cell, cqrs_projection_readers(read->id))
		{
			CqrsProjection *reader = cqrs_projection_get(((CqrsVersion *) lfirst(cell))->projection, false);

			if (!cascade)
				ereport(ERROR,
						(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
						 errmsg("cannot drop projection \"%s\" because another one reads it", cqrs_name_shown(read->view)),
						 errdetail("Version %d of projection \"%s\" reads it.", ((CqrsVersion *) lfirst(cell))->number,
								   cqrs_name_shown(reader->view)),
						 errhint("Drop that one first, or give cascade => true to drop both.")));
			if (is_among(projections, reader->id))
				continue;
			(void) cqrs_projection_lock(reader->id, false);
			ereport(NOTICE,
					(errmsg("drop cascades to projection %s", cqrs_name_shown(reader->view))));
			projections = lappend(projections, reader);
		}
	}
	return projections;
}

/*
 * compare_versions orders versions by id, the order in which everybody locks.
 */
static int
compare_versions(const ListCell *left, const ListCell *right)
{
	int32		l = ((const CqrsVersion *) lfirst(left))->id;
	int32		r = ((const CqrsVersion *) lfirst(right))->id;

	return l < r ? -1 : l > r;
}

/*
 * take_versions takes the versions of projections from whoever fills or applies them: a worker gives up what it does for them, or for others together
 * with them; another session is waited for.
 */
static List *
take_versions(List *projections)
{
	List	   *versions = NIL;
	ListCell   *cell;
	ListCell   *inner;

	foreach(cell, projections)
		versions = list_concat(versions, cqrs_version_list(((CqrsProjection *) lfirst(cell))->id));
	list_sort(versions, compare_versions);
	foreach(cell, versions)
	{
		int32		id = ((CqrsVersion *) lfirst(cell))->id;

		foreach(inner, cqrs_group_members(id))
			cqrs_shared_interrupt_worker(lfirst_int(inner));
		(void) cqrs_version_lock(id, false);
	}
	return versions;
}

/*
 * cqrs.drop_projection(projection regclass, cascade boolean DEFAULT false) RETURNS void
 *
 * Drops the projection with its serving view, versions and their tables, and stops capturing what nothing else reads; with cascade also the projections that
 * read it.  A fill or batch that the worker is at is cancelled; one of another session's drain is waited for.
 *
 * Errors: 42809 not a projection, 42501 not its owner, 2BP01 other projections read it or other objects depend on it (without cascade).
 */
Datum
cqrs_drop_projection(PG_FUNCTION_ARGS)
{
	bool		cascade = PG_GETARG_BOOL(1);
	List	   *projections = with_readers(cqrs_projection_open(PG_GETARG_OID(0), "cqrs.drop_projection()"), cascade);
	List	   *versions = take_versions(projections);
	ListCell   *cell;

	foreach(cell, projections)
	{
		CqrsProjection *projection = lfirst(cell);

		LockRelationOid(projection->view, AccessExclusiveLock);
		cqrs_history_insert(projection->id, projection->view, 0, "dropped", NULL, NULL, NULL);
	}
	foreach(cell, versions)
		cqrs_version_delete(((CqrsVersion *) lfirst(cell))->id);
	foreach(cell, projections)
		cqrs_projection_delete(((CqrsProjection *) lfirst(cell))->id);
	cqrs_build_drop(projections, versions, cascade);
	cqrs_capture_release();
	cqrs_shared_announce_at_commit();
	cqrs_shared_wake_at_commit();
	PG_RETURN_VOID();
}
