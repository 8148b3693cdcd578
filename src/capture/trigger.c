/*
 * capture/trigger.c
 *		The one trigger function of all sources.
 *
 * Runs for every row that commands change, as whoever changes it, so it does next to nothing: the plan comes from cache.c, the change goes to the outbox's
 * buffer.  No SQL, no catalog, no memory in the common case.
 */
#include "postgres.h"

#include "access/htup_details.h"
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

/*
 * same_row tells whether two rows are the same, byte for byte.
 */
static inline bool
same_row(HeapTuple left, HeapTuple right)
{
	return left->t_len == right->t_len &&
		HeapTupleHeaderGetNatts(left->t_data) == HeapTupleHeaderGetNatts(right->t_data) &&
		HeapTupleHasNulls(left) == HeapTupleHasNulls(right) &&
		memcmp(left->t_data->t_bits, right->t_data->t_bits, left->t_len - SizeofHeapTupleHeader) == 0;
}

/*
 * same_value tells whether two values of a column are the same, byte for byte.
 *
 * Values stored out of line are not fetched: one that an update leaves alone stays where it is.
 */
static inline bool
same_value(const CqrsWatchedColumn *column, Datum left, Datum right)
{
	if (column->by_value || left == right)
		return left == right;
	if (column->length > 0)
		return memcmp(DatumGetPointer(left), DatumGetPointer(right), column->length) == 0;
	if (column->length == -1)
		return VARSIZE_ANY(DatumGetPointer(left)) == VARSIZE_ANY(DatumGetPointer(right)) &&
			memcmp(DatumGetPointer(left), DatumGetPointer(right), VARSIZE_ANY(DatumGetPointer(left))) == 0;
	return strcmp(DatumGetCString(left), DatumGetCString(right)) == 0;
}

/*
 * changes_watched tells whether an update changes any watched column, and notes those changed that are not imaged.
 */
static bool
changes_watched(const CqrsCapturePlan *plan, TupleTableSlot *old_slot, TupleTableSlot *new_slot, uint8 *noted)
{
	bool		changed = false;

	if (plan->imaging.nnoted > 0)
		memset(noted, 0, CQRS_NOTED_SIZE(plan->imaging.nnoted));
	slot_getsomeattrs(old_slot, plan->deformed);
	slot_getsomeattrs(new_slot, plan->deformed);
	for (int i = 0; i < plan->nwatched; i++)
	{
		const CqrsWatchedColumn *column = &plan->watched[i];
		bool		isnull = old_slot->tts_isnull[column->from];

		if (isnull == new_slot->tts_isnull[column->from] &&
			(isnull || same_value(column, old_slot->tts_values[column->from], new_slot->tts_values[column->from])))
			continue;
		changed = true;
		if (plan->imaging.nnoted == 0)
			break;
		if (column->noted >= 0)
			noted[column->noted / 8] |= 1 << column->noted % 8;
	}
	return changed;
}

/*
 * capture_update captures an update, unless it changes no watched column.
 */
static void
capture_update(const CqrsCapturePlan *plan, const TriggerData *trigger)
{
	uint8		noted[CQRS_NOTED_SIZE(MaxHeapAttributeNumber)];
	CqrsRow		old_row = {trigger->tg_trigtuple, trigger->tg_trigslot};
	CqrsRow		new_row = {trigger->tg_newtuple, trigger->tg_newslot};
	bool		changed = plan->imaging.whole ? !same_row(old_row.tuple, new_row.tuple) :
		changes_watched(plan, old_row.slot, new_row.slot, noted);

	if (changed)
		cqrs_outbox_append(CQRS_CHANGE_UPDATE, &plan->imaging, &old_row, &new_row, noted);
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
	CqrsRow		row;

	check_call(fcinfo);
	plan = cqrs_capture_plan(trigger->tg_trigger, trigger->tg_relation);
	if (!plan->captures)
		return PointerGetDatum(NULL);

	row.tuple = trigger->tg_trigtuple;
	row.slot = trigger->tg_trigslot;
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		cqrs_outbox_append(CQRS_CHANGE_INSERT, &plan->imaging, NULL, &row, NULL);
	else if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		capture_update(plan, trigger);
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		cqrs_outbox_append(CQRS_CHANGE_DELETE, &plan->imaging, &row, NULL, NULL);
	else
		cqrs_outbox_append_mark(CQRS_CHANGE_TRUNCATE, plan->imaging.source, plan->imaging.shape);
	return PointerGetDatum(NULL);
}
