/*
 * capture/trigger.c
 *		The one trigger function of all sources.
 *
 * Runs for every row that commands change, as whoever changes it, so it does next to nothing: the plan comes from cache.c, the change goes to the outbox's
 * buffer.  No SQL, no catalog, no memory in the common case.
 */
#include "postgres.h"

#include "capture/parts.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "outbox/outbox.h"

/*
 * check_call raises unless the function was called the way its triggers are made.
 */
static void
check_call(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (CALLED_AS_TRIGGER(fcinfo) && TRIGGER_FIRED_AFTER(trigger->tg_event) &&
		TRIGGER_FIRED_FOR_ROW(trigger->tg_event) != TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("function \"cqrs_internal.capture\" was not called by a trigger of its own"),
			 errhint("Use cqrs.capture to have the changes of a table captured.")));
}

PG_FUNCTION_INFO_V1(cqrs_capture_trigger);

/*
 * cqrs_internal.capture() RETURNS trigger
 *
 * Captures the change if the table is an attached source; a table that was let go keeps its triggers for a while.  Errors: 39P01 if used otherwise than by
 * the triggers of attach.c, and those of cqrs_outbox_append.
 */
Datum
cqrs_capture_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const CqrsCapturePlan *plan;
	TupleDesc	desc;

	check_call(fcinfo);
	plan = cqrs_capture_plan(trigger->tg_relation);
	if (plan->source == 0)
		return PointerGetDatum(NULL);

	desc = RelationGetDescr(trigger->tg_relation);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		cqrs_outbox_append(CQRS_CHANGE_INSERT, plan->source, plan->shape, desc, NULL, trigger->tg_trigtuple);
	else if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		cqrs_outbox_append(CQRS_CHANGE_UPDATE, plan->source, plan->shape, desc, trigger->tg_trigtuple, trigger->tg_newtuple);
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		cqrs_outbox_append(CQRS_CHANGE_DELETE, plan->source, plan->shape, desc, trigger->tg_trigtuple, NULL);
	else
		cqrs_outbox_append(CQRS_CHANGE_TRUNCATE, plan->source, plan->shape, desc, NULL, NULL);
	return PointerGetDatum(NULL);
}
