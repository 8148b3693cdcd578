/*
 * projection/guard.c
 *		What keeps read models whole: the gate of a view with nothing to serve, the guard of version tables, the guard of serving views, and what a
 *		change of their owner entails.
 *
 * The guards of serving views are event triggers, and not hooks, so that they also stand in sessions into which the library has not been loaded.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply.h"
#include "base/names.h"
#include "base/spi.h"
#include "commands/event_trigger.h"
#include "commands/schemacmds.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "plan/plan.h"
#include "projection/parts.h"
#include "registry/registry.h"
#include "shared/shared.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(cqrs_gate);
PG_FUNCTION_INFO_V1(cqrs_guard_table);
PG_FUNCTION_INFO_V1(cqrs_guard_drop);
PG_FUNCTION_INFO_V1(cqrs_guard_replace);
PG_FUNCTION_INFO_V1(cqrs_follow_owner);
PG_FUNCTION_INFO_V1(cqrs_follow_definition);

/*
 * Versions whose definitions are made of what a command created, replaced or altered: views, functions, and types, also those that are made of these, with
 * operators and aggregates.  A composite type is one with a relation, of which nothing depends.
 */
static const char *const redefined_versions =
	"WITH RECURSIVE redefined (classid, objid) AS ("
	"    SELECT c.classid, c.objid FROM pg_catalog.pg_event_trigger_ddl_commands() c"
	"    UNION"
	"    SELECT n.classid, n.objid FROM redefined b,"
	"      LATERAL (SELECT 'pg_catalog.pg_class'::regclass::oid, r.ev_class FROM pg_catalog.pg_depend d"
	"                 JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid"
	"                WHERE d.refclassid = b.classid AND d.refobjid = b.objid"
	"               UNION ALL"
	"               SELECT d.classid, d.objid FROM pg_catalog.pg_depend d"
	"                WHERE d.refclassid = b.classid AND d.refobjid = b.objid"
	"                  AND ((b.classid = 'pg_catalog.pg_type'::regclass"
	"                        AND d.classid IN ('pg_catalog.pg_type'::regclass, 'pg_catalog.pg_class'::regclass))"
	"                       OR (b.classid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_operator'::regclass)"
	"                           AND d.classid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_operator'::regclass)))"
	"               UNION ALL"
	"               SELECT 'pg_catalog.pg_type'::regclass::oid, t.oid FROM pg_catalog.pg_type t"
	"                WHERE b.classid = 'pg_catalog.pg_class'::regclass AND t.oid ="
	"                      (SELECT c.reltype FROM pg_catalog.pg_class c WHERE c.oid = b.objid)) AS n (classid, objid)) "
	"SELECT v.id FROM cqrs_internal.version v JOIN redefined n ON n.objid = v.definition "
	"WHERE n.classid = 'pg_catalog.pg_class'::regclass ORDER BY 1";

/*
 * cqrs_internal.gate(projection integer) RETURNS boolean
 *
 * Stands in the serving view's WHERE while there is nothing to serve.  Stable, not volatile: so the executor asks it once before
 * the scan, and it raises also where the table is empty.
 *
 * Errors: 55000, always.
 */
Datum
cqrs_gate(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = cqrs_projection_get(PG_GETARG_INT32(0), false);
	CqrsVersion *version = cqrs_version_serving(projection->id);

	if (version != NULL && version->status == CQRS_STATUS_HALTED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" could not be built", cqrs_name_shown(projection->view)),
				 errhint("Its owner sees why in the view cqrs.versions.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("projection \"%s\" is still being built", cqrs_name_shown(projection->view)),
			 errhint("Wait with cqrs.wait_until_serving, or build it in this session with cqrs.drain.")));
}

/*
 * cqrs_internal.guard_table() RETURNS trigger
 *
 * Refuses writes to a version's table from anyone but the applier.
 *
 * Errors: 42809.
 */
Datum
cqrs_guard_table(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"guard_table\" was not called by trigger manager")));
	if (!cqrs_apply_writing(RelationGetRelid(trigger->tg_relation)))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("read model \"%s\" is derived; write to its sources",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("The table holds what a query yields, and follows changes of the tables which that query reads.")));
	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		cqrs_apply_feed_truncate(RelationGetRelid(trigger->tg_relation));
	return PointerGetDatum(NULL);
}

/*
 * serving_views_among returns the serving views among an event trigger's objects, which 'objects' yields: their 'field's as List of char *.
 *
 * The registry still knows a view that was dropped by hand: cqrs.drop_projection takes it out first.
 */
static List *
serving_views_among(const char *field, const char *objects)
{
	return cqrs_spi_collect_texts(psprintf("SELECT DISTINCT %s FROM cqrs_internal.projection p JOIN %s o ON o.objid = p.view "
										   "WHERE o.classid = 'pg_catalog.pg_class'::regclass AND o.objsubid = 0 ORDER BY 1",
										   field, objects));
}

/*
 * check_called_as_event_trigger raises unless a function was called by an event trigger.
 */
static void
check_called_as_event_trigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by event trigger manager", get_func_name(fcinfo->flinfo->fn_oid))));
}

/*
 * cqrs_internal.guard_drop() RETURNS event_trigger
 *
 * Refuses, on sql_drop, that a serving view goes by any other way than cqrs.drop_projection.
 *
 * Errors: 2BP01.
 */
Datum
cqrs_guard_drop(PG_FUNCTION_ARGS)
{
	List	   *views;

	check_called_as_event_trigger(fcinfo);
	if (!cqrs_registry_exists())
		PG_RETURN_NULL();
	views = serving_views_among("o.object_identity", "pg_catalog.pg_event_trigger_dropped_objects()");
	if (views != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop the serving view %s of a projection", (char *) linitial(views)),
				 errdetail("The projection would go on without anybody being able to read or name it."),
				 errhint("Use cqrs.drop_projection.")));
	PG_RETURN_NULL();
}

/*
 * cqrs_internal.guard_replace() RETURNS event_trigger
 *
 * Refuses, on ddl_command_end of CREATE VIEW, that a serving view is replaced.
 *
 * Errors: 42809.
 */
Datum
cqrs_guard_replace(PG_FUNCTION_ARGS)
{
	List	   *views;

	check_called_as_event_trigger(fcinfo);
	views = serving_views_among("o.object_identity", "pg_catalog.pg_event_trigger_ddl_commands()");
	if (views != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot replace the serving view %s of a projection", (char *) linitial(views)),
				 errdetail("It shows what the projection's query yields."),
				 errhint("Drop the projection with cqrs.drop_projection and create it with another query.")));
	PG_RETURN_NULL();
}

/*
 * give_version gives a version's schema, table and definition to a new owner, as the system.
 */
static void
give_version(const CqrsVersion *version, Oid owner)
{
	CqrsIdentity saved;

	(void) cqrs_version_lock(version->id, false);
	cqrs_identity_enter_system(&saved);
	AlterSchemaOwner_oid(version->schema, owner);
	ATExecChangeOwner(version->table, owner, false, AccessExclusiveLock);
	if (get_rel_relkind(version->definition) != '\0')
		ATExecChangeOwner(version->definition, owner, false, AccessExclusiveLock);
	cqrs_identity_leave(&saved);
	CommandCounterIncrement();
}

/*
 * cqrs_internal.follow_owner() RETURNS event_trigger
 *
 * On ddl_command_end of what can give a serving view to another owner: gives the projection's versions to the same, since who owns the view owns the
 * projection, and its batches run as him.
 */
Datum
cqrs_follow_owner(PG_FUNCTION_ARGS)
{
	ListCell   *cell;
	ListCell   *inner;

	check_called_as_event_trigger(fcinfo);
	foreach(cell, serving_views_among("p.view::oid", "pg_catalog.pg_event_trigger_ddl_commands()"))
	{
		CqrsProjection *projection = cqrs_projection_of_view(atooid(lfirst(cell)));
		Oid			owner = cqrs_projection_owner(projection);

		foreach(inner, cqrs_version_list(projection->id))
		{
			CqrsVersion *version = lfirst(inner);
			Oid			before = cqrs_relation_owner(version->table);

			if (OidIsValid(before) && before != owner)
				give_version(version, owner);
		}
	}
	PG_RETURN_NULL();
}

/*
 * cqrs_projection_redefined makes the readers of a projection follow what its serving view has become.
 *
 * A reader's query reads the view as everybody does: a row filter is a condition of it, and must not answer from more than data.
 */
void
cqrs_projection_redefined(const CqrsProjection *projection)
{
	ListCell   *cell;

	foreach(cell, cqrs_projection_readers(projection->id))
	{
		CqrsVersion *version = lfirst(cell);
		CqrsIdentity saved;
		Oid			owner = cqrs_apply_become_owner(version, &saved);

		cqrs_plan_check(version->definition, NULL, owner, false);
		cqrs_identity_leave(&saved);
		(void) cqrs_version_lock(version->id, false);
		version = cqrs_version_get(version->id, true);
		if (version != NULL && cqrs_checkpoint_latest(version->id) != NULL)
			cqrs_version_distrust(version, "the serving view of a projection that it reads was replaced");
	}
	cqrs_shared_wake_at_commit();
}

/*
 * alters_values tells whether a command of those that concern types, or anything else, can have values or what is made of them look different.
 *
 * Types get new owners, schemas and names; enums get more labels, which no row has yet.
 */
static bool
alters_values(const Node *command)
{
	if (IsA(command, AlterEnumStmt))
		return ((const AlterEnumStmt *) command)->oldVal != NULL;
	if (IsA(command, RenameStmt))
		return ((const RenameStmt *) command)->renameType == OBJECT_ATTRIBUTE;
	return !IsA(command, AlterOwnerStmt) && !IsA(command, AlterObjectSchemaStmt) && !IsA(command, AlterTypeStmt);
}

/*
 * is_of_type tells whether a command, of those that follow_definition follows, alters a type.
 */
static bool
is_of_type(const Node *command)
{
	return IsA(command, AlterEnumStmt) || IsA(command, RenameStmt) || IsA(command, AlterTableStmt);
}

/*
 * cqrs_internal.follow_definition() RETURNS event_trigger
 *
 * On ddl_command_end of what can replace a view or a function, or alter a type: makes the versions stale whose definitions are made of it, since their
 * answer may be another now without any change of a source.
 *
 * Errors: 42P17 if a projection would read itself through a view.
 */
Datum
cqrs_follow_definition(PG_FUNCTION_ARGS)
{
	const Node *command;
	ListCell   *cell;

	check_called_as_event_trigger(fcinfo);
	command = ((EventTriggerData *) fcinfo->context)->parsetree;
	if (!alters_values(command))
		PG_RETURN_NULL();
	foreach(cell, cqrs_spi_collect_texts(redefined_versions))
	{
		int32		id = atoi(lfirst(cell));
		CqrsVersion *version;

		(void) cqrs_version_lock(id, false);
		version = cqrs_version_get(id, true);
		if (version == NULL || version->state == CQRS_STATE_RETIRED)
			continue;
		cqrs_make_follow(version);
		if (cqrs_checkpoint_latest(id) != NULL)
			cqrs_version_distrust(version, is_of_type(command) ? "a type that the query uses was altered" :
								  "a view or function that the query uses was replaced");
		cqrs_shared_wake_at_commit();
	}
	PG_RETURN_NULL();
}
