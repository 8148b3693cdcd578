/*
 * projection/versions.c
 *		Versions of a projection: create another, rebuild, switch, switch back, retire.
 *
 * Each takes the projection's lock, checks the right to manage it, and wakes the worker at commit.  What is asked for is done by build/.
 */
#include "postgres.h"

#include "apply/apply.h"
#include "base/arguments.h"
#include "base/names.h"
#include "base/spi.h"
#include "build/build.h"
#include "fmgr.h"
#include "nodes/value.h"
#include "projection/parts.h"
#include "shared/shared.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(cqrs_create_version);
PG_FUNCTION_INFO_V1(cqrs_rebuild);
PG_FUNCTION_INFO_V1(cqrs_switch);
PG_FUNCTION_INFO_V1(cqrs_switch_back);
PG_FUNCTION_INFO_V1(cqrs_retire);

/*
 * version_in_state returns a projection's version in a state, the one that has come into it last; or NULL.
 */
static CqrsVersion *
version_in_state(const CqrsProjection *projection, CqrsState state)
{
	CqrsVersion *found = NULL;
	ListCell   *cell;

	foreach(cell, cqrs_version_list(projection->id))
	{
		CqrsVersion *version = lfirst(cell);

		if (version->state == state && (found == NULL || version->state_since >= found->state_since))
			found = version;
	}
	return found;
}

/*
 * numbered returns a projection's version by number.
 */
static CqrsVersion *
numbered(const CqrsProjection *projection, int32 number)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_list(projection->id))
		if (((CqrsVersion *) lfirst(cell))->number == number)
			return lfirst(cell);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("projection \"%s\" has no version %d", cqrs_name_shown(projection->view), number),
			 errhint("See the view cqrs.versions.")));
}

/*
 * check_no_build refuses a second build at once.
 */
static void
check_no_build(const CqrsProjection *projection)
{
	CqrsVersion *building = version_in_state(projection, CQRS_STATE_BUILDING);

	if (building == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("version %d of projection \"%s\" is still being built", building->number, cqrs_name_shown(projection->view)),
			 building->error ? errdetail_internal("%s", building->error) : 0,
			 version_in_state(projection, CQRS_STATE_SERVING) ?
			 errhint("Wait until it is a shadow, or cancel its build with cqrs.retire.") :
			 errhint("Wait until it serves; or drop the projection with cqrs.drop_projection and create it anew.")));
}

/*
 * inherited_key returns the names of the columns that are a version's key.
 */
static List *
inherited_key(const CqrsVersion *version)
{
	List	   *names = NIL;

	for (int i = 0; i < version->nkeys; i++)
		names = lappend(names, get_attname(version->table, version->key[i], false));
	return names;
}

/*
 * inherited_settings returns the settings under which a version was made: those it keeps, without the schema of its own that is first in its search_path where
 * handlers define it.
 */
static List *
inherited_settings(const CqrsVersion *version)
{
	List	   *settings = list_copy(version->settings);
	char	   *own = psprintf("%s, ", cqrs_name_identifier(get_namespace_name(version->schema)));

	for (int i = 0; i + 1 < list_length(settings); i += 2)
	{
		char	   *value = strVal(list_nth(settings, i + 1));

		if (strcmp(strVal(list_nth(settings, i)), "search_path") == 0 && strncmp(value, own, strlen(own)) == 0)
			lfirst(list_nth_cell(settings, i + 1)) = makeString(value + strlen(own));
	}
	return settings;
}

/*
 * inherit fills in what was not asked for, as it is in the serving version.  A query that is its own is written as it reads under the settings in force.
 */
static void
inherit(CqrsRequest *request, const CqrsVersion *serving)
{
	bool		handled = request->columns != NULL || request->handlers != NULL || request->seed != NULL;
	CqrsEventDefinition *definition;

	request->name = get_rel_name(serving->table);
	if (cqrs_version_is_events(serving) && request->query == NULL)
	{
		definition = cqrs_event_definition_get(serving->id);
		request->columns = request->columns ? request->columns : definition->columns;
		request->handlers = request->handlers ? request->handlers : cqrs_handlers_jsonb(serving->id);
		request->seed = request->seed ? request->seed : definition->seed;
		return;
	}
	if (request->query == NULL && !handled)
		request->query = TextDatumGetCString(DirectFunctionCall1(pg_get_viewdef, ObjectIdGetDatum(serving->definition)));
	request->inherits_key = !request->key_given && !cqrs_version_is_events(serving);
	if (request->inherits_key)
		request->inherited_key = inherited_key(serving);
}

/*
 * make makes a version beside the serving one, of what is asked for and, for the rest, like that.
 *
 * As the projection's owner, whoever of his role asks for it; and under the settings of the version whose query or handlers it takes.
 */
static CqrsVersion *
make(CqrsProjection *projection, CqrsRequest *request, CqrsRebuild rebuild)
{
	bool		same = request->query == NULL && request->handlers == NULL;
	CqrsVersion *serving;
	CqrsVersion *version;
	CqrsIdentity saved;

	check_no_build(projection);
	serving = version_in_state(projection, CQRS_STATE_SERVING);
	projection->last_version++;
	cqrs_projection_update(projection);
	cqrs_identity_enter(&saved, cqrs_projection_owner(projection), same ? inherited_settings(serving) : NIL);
	inherit(request, serving);
	cqrs_request_check(request);
	version = cqrs_make_version(request, projection->id, projection->last_version);
	version->rebuild = rebuild;
	version->indexes = list_concat(version->indexes, cqrs_carry_over(serving, version, request->indexes_given));
	cqrs_make_known(version, projection->view);
	cqrs_identity_leave(&saved);
	cqrs_shared_announce_at_commit();
	cqrs_shared_wake_at_commit();
	return version;
}

/*
 * cqrs.create_version(projection regclass, query text DEFAULT NULL, key name[] DEFAULT NULL, columns text DEFAULT NULL,
 *					   handlers jsonb DEFAULT NULL, seed text DEFAULT NULL, indexes text[] DEFAULT NULL) RETURNS integer
 *
 * Makes another version, which a worker, or cqrs.drain, fills beside the serving one and keeps up to date as a shadow, until cqrs.switch.  What is not given
 * is as in the serving version; what users have put on its table is carried over, as far as its columns are still there.  Returns the version's number.
 *
 * Errors: as of cqrs.create_projection; 42501 not the owner; 55000 another version is still being built.
 */
Datum
cqrs_create_version(PG_FUNCTION_ARGS)
{
	CqrsRequest request = {0};
	CqrsProjection *projection;

	if (PG_ARGISNULL(0))
		cqrs_arguments_refuse_null("projection");
	projection = cqrs_projection_open(PG_GETARG_OID(0), "cqrs.create_version()");
	cqrs_request_read(fcinfo, &request);
	PG_RETURN_INT32(make(projection, &request, CQRS_REBUILD_NONE)->number);
}

/*
 * cqrs.rebuild(projection regclass) RETURNS integer
 *
 * Makes a version of the same definition, which is built, compared with its definition at one snapshot, and serves then by itself; the one before is its
 * standby for cqrs.standby_retention.  Returns the version's number.
 *
 * Errors: 42809 not a projection, 42501 not its owner, 55000 another version is still being built.
 */
Datum
cqrs_rebuild(PG_FUNCTION_ARGS)
{
	CqrsRequest request = {0};
	CqrsProjection *projection = cqrs_projection_open(PG_GETARG_OID(0), "cqrs.rebuild()");

	PG_RETURN_INT32(make(projection, &request, CQRS_REBUILD_WANTED)->number);
}

/*
 * newest_shadow returns the version that a switch means which names none.
 */
static CqrsVersion *
newest_shadow(const CqrsProjection *projection)
{
	CqrsVersion *found = NULL;
	ListCell   *cell;

	foreach(cell, cqrs_version_list(projection->id))
		if (((CqrsVersion *) lfirst(cell))->state == CQRS_STATE_SHADOW)
			found = lfirst(cell);
	if (found == NULL)
		check_no_build(projection);
	if (found == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has no shadow to switch to", cqrs_name_shown(projection->view)),
				 errhint("Create a version with cqrs.create_version.")));
	return found;
}

/*
 * cqrs.switch(projection regclass, version integer DEFAULT NULL, force boolean DEFAULT false) RETURNS void
 *
 * Has readers get another version from the commit on: a shadow or standby, or with NULL the newest shadow.  It is brought up to date in the same
 * transaction, so tokens keep their meaning; the one before is standby then.  Transactions older than the version's fill are waited for, up to
 * cqrs.lock_timeout; 'force' does not wait, and does not mind that there would be no way back.
 *
 * Errors: 25001 in another isolation level than READ COMMITTED, or after captured changes of one's own; 42809 not a projection; 42501 not its owner; 42704
 * no such version; 55000 the version is building, behind, failing, stale, halted, paused or retired, or serves already; 2BP01 other objects depend on columns
 * of the view; 55P03 older transactions or readers did not end in time.
 */
Datum
cqrs_switch(PG_FUNCTION_ARGS)
{
	CqrsSwitchOptions options = {.wait = true, .reason = "switched"};
	CqrsProjection *projection;

	if (PG_ARGISNULL(0))
		cqrs_arguments_refuse_null("projection");
	options.force = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	if (options.force)
		options.reason = "switched by force";
	cqrs_apply_check_caller("cqrs.switch()");
	projection = cqrs_projection_open(PG_GETARG_OID(0), "cqrs.switch()");
	cqrs_build_switch(projection, PG_ARGISNULL(1) ? newest_shadow(projection) : numbered(projection, PG_GETARG_INT32(1)),
					  &options);
	PG_RETURN_VOID();
}

/*
 * cqrs.switch_back(projection regclass) RETURNS void
 *
 * Has readers get the standby again, the version that served before.  It has followed all changes, so nothing is lost; the one that served is standby then.
 *
 * Errors: as of cqrs.switch; 55000 there is no standby.
 */
Datum
cqrs_switch_back(PG_FUNCTION_ARGS)
{
	CqrsSwitchOptions options = {.wait = true, .force = true, .reason = "switched back"};
	CqrsProjection *projection;
	CqrsVersion *standby;

	cqrs_apply_check_caller("cqrs.switch_back()");
	projection = cqrs_projection_open(PG_GETARG_OID(0), "cqrs.switch_back()");
	standby = version_in_state(projection, CQRS_STATE_STANDBY);
	if (standby == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has no standby to switch back to", cqrs_name_shown(projection->view)),
				 errhint("A version is standby from when another was switched to until it is retired.")));
	cqrs_build_switch(projection, standby, &options);
	PG_RETURN_VOID();
}

/*
 * check_retirable refuses to retire what readers get, or are to get.
 */
static void
check_retirable(const CqrsProjection *projection, const CqrsVersion *version)
{
	const CqrsVersion *shown = cqrs_version_serving(projection->id);

	if (version->state != CQRS_STATE_RETIRED && (shown == NULL || shown->id != version->id))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 version->state == CQRS_STATE_RETIRED ?
			 errmsg("version %d of projection \"%s\" is retired already", version->number, cqrs_name_shown(projection->view)) :
			 errmsg("version %d of projection \"%s\" cannot be retired, because it is the one that serves", version->number,
					cqrs_name_shown(projection->view)),
			 version->state == CQRS_STATE_RETIRED ? errhint("See the view cqrs.versions.") :
			 errhint("Switch to another version first, or drop the projection with cqrs.drop_projection.")));
}

/*
 * cqrs.retire(projection regclass, version integer) RETURNS void
 *
 * Drops a version's table with all that belongs to it, and cancels its build; its row stays in cqrs.versions.  A fill or batch that the worker is at is
 * cancelled; one of another session's drain is waited for.
 *
 * Errors: 42809 not a projection; 42501 not its owner; 42704 no such version; 55000 it serves, or is retired; 2BP01 other objects depend on its table;
 * 55P03 somebody who reads the table did not let go of it within cqrs.lock_timeout.
 */
Datum
cqrs_retire(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = cqrs_projection_open(PG_GETARG_OID(0), "cqrs.retire()");
	CqrsVersion *version = numbered(projection, PG_GETARG_INT32(1));

	check_retirable(projection, version);
	(void) cqrs_build_retire(version->id, true, NULL);
	version = cqrs_version_get(version->id, false);
	if (version->state != CQRS_STATE_RETIRED)
		check_retirable(projection, version);	/* a first version serves as soon as it is filled, whatever we hold */
	PG_RETURN_VOID();
}
