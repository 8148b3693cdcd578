/*
 * projection/guard.c
 *		What keeps read models whole: the gate of a view with nothing to serve, the guard of version tables, and the guard of serving views.
 *
 * The guard of serving views is an event trigger, and not a hook, so that it also stands in sessions into which the library has not been loaded.
 */
#include "postgres.h"

#include "apply/apply.h"
#include "base/names.h"
#include "base/spi.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "registry/registry.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(cqrs_gate);
PG_FUNCTION_INFO_V1(cqrs_guard_table);
PG_FUNCTION_INFO_V1(cqrs_guard_drop);
PG_FUNCTION_INFO_V1(cqrs_guard_replace);

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
	if (!cqrs_apply_writing())
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("read model \"%s\" is derived; write to its sources",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("The table holds what a query yields, and follows changes of the tables which that query reads.")));
	return PointerGetDatum(NULL);
}

/*
 * serving_view_among returns the name of the first serving view among the event trigger's objects, which 'objects' yields; NULL if there is none.
 *
 * The registry still knows a view that was dropped by hand: cqrs.drop_projection takes it out first.
 */
static char *
serving_view_among(const char *objects)
{
	MemoryContext context = CurrentMemoryContext;
	CqrsIdentity saved;
	char	   *name = NULL;

	cqrs_identity_enter_system(&saved);
	cqrs_spi_connect();
	if (cqrs_spi_run(psprintf("SELECT o.object_identity FROM cqrs_internal.projection p JOIN %s o ON o.objid = p.view "
							  "WHERE o.classid = 'pg_catalog.pg_class'::regclass AND o.objsubid = 0 ORDER BY 1",
							  objects)) > 0)
		name = cqrs_spi_text(0, 1, context);
	cqrs_spi_finish();
	cqrs_identity_leave(&saved);
	return name;
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
	char	   *view;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"guard_drop\" was not called by trigger manager")));
	if (!cqrs_registry_exists())
		PG_RETURN_NULL();
	view = serving_view_among("pg_catalog.pg_event_trigger_dropped_objects()");
	if (view != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop the serving view %s of a projection", view),
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
	char	   *view;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"guard_replace\" was not called by trigger manager")));
	view = serving_view_among("pg_catalog.pg_event_trigger_ddl_commands()");
	if (view != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot replace the serving view %s of a projection", view),
				 errdetail("It shows what the projection's query yields."),
				 errhint("Drop the projection with cqrs.drop_projection and create it with another query.")));
	PG_RETURN_NULL();
}
