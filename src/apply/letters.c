/*
 * apply/letters.c
 *		Dead letters: cqrs.retry, cqrs.retry_all and cqrs.discard go on with what was parked.
 *
 * What waits behind a letter is applied after it, in order, each event in a subtransaction of its own; what fails stays, and what concerns the same aggregates
 * stays behind it.  The version's lock is held meanwhile, so events that arrive are applied after these, or parked behind those that are left.
 *
 * Runs in the caller's READ COMMITTED transaction, which holds the version to its end.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "apply/events_parts.h"
#include "base/arguments.h"
#include "base/attempt.h"
#include "base/clock.h"
#include "base/names.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "shared/shared.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(cqrs_retry);
PG_FUNCTION_INFO_V1(cqrs_retry_all);
PG_FUNCTION_INFO_V1(cqrs_discard);

/* What is to be replayed of one version's dead letters. */
typedef struct Replay
{
	CqrsVersion *version;
	Snapshot	snapshot;
	int64		target;			/* the letter to begin with; 0: all */
	bool		discard;		/* it is not applied, but gone */
	int64		applied;

	CqrsEventRun run;
	TupleTableSlot *slot;		/* of the event in hand */
	CqrsParked *active;			/* aggregates that are gone on with */
	CqrsParked *blocked;		/* and those that wait still */
} Replay;

/*
 * get_letter returns a dead letter of a version that the user may manage.
 */
static CqrsDeadLetter *
get_letter(int64 id, CqrsProjection **projection)
{
	CqrsDeadLetter *letter = cqrs_dead_letter_get(id);

	if (letter == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("dead letter %lld does not exist", (long long) id),
				 errhint("See the view cqrs.dead_letters.")));
	*projection = cqrs_projection_get(cqrs_version_get(letter->version, false)->projection, false);
	cqrs_projection_check_owner(*projection);
	return letter;
}

/*
 * handler_of finds the handler that takes a letter's event.
 */
static int
handler_of(const Replay *replay, TupleTableSlot *slot)
{
	char	   *type = slot->tts_isnull[EVENT_TYPE] ? NULL : TextDatumGetCString(slot->tts_values[EVENT_TYPE]);
	ListCell   *cell;

	foreach(cell, cqrs_handler_list(replay->version->id))
	{
		const CqrsHandler *handler = lfirst(cell);

		if (type != NULL && handler->event_type != NULL && strcmp(handler->event_type, type) == 0)
			return handler->number;
		if (type == NULL && handler->event_type == NULL &&
			cqrs_source_get(handler->source)->relation == DatumGetObjectId(slot->tts_values[EVENT_SOURCE]))
			return handler->number;
	}
	elog(ERROR, "no handler takes the event of a dead letter");
}

/*
 * put_event puts a letter's event into the slot, as if it had just been found.
 */
static void
put_event(Replay *replay, const CqrsDeadLetter *letter)
{
	TupleTableSlot *slot = replay->slot;
	HeapTupleHeader event = DatumGetHeapTupleHeader(letter->event);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(event),.t_data = event};
	TupleDesc	row = cqrs_handlers_row();

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, sizeof(bool) * FOUND_COLUMNS);
	heap_deform_tuple(&tuple, row, slot->tts_values + EVENT_FIRST, slot->tts_isnull + EVENT_FIRST);
	slot->tts_values[FOUND_HANDLER] = Int32GetDatum(handler_of(replay, slot));
	slot->tts_isnull[FOUND_HANDLER] = false;
	ExecStoreVirtualTuple(slot);
}

/*
 * take_event hands the event in the slot to its handler.
 */
static void
take_event(void *argument)
{
	Replay	   *replay = argument;

	cqrs_events_take(&replay->run, replay->slot);
	cqrs_events_flush(&replay->run);
}

/*
 * keep_failed notes on a letter that its event has failed again.
 */
static void
keep_failed(CqrsDeadLetter *letter, const ErrorData *error)
{
	letter->behind = 0;
	letter->error = error->detail ? psprintf("%s (%s)", error->message, error->detail) : error->message;
	letter->context = error->context;
	letter->attempts++;
	letter->tried_at = cqrs_clock_now();
	cqrs_dead_letter_update(letter);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("dead letter %lld failed again: %s", (long long) letter->id, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 errhint("Mend what the error names and call cqrs.retry(%lld), or cqrs.discard it.", (long long) letter->id)));
}

/*
 * try_letter applies a letter's event and removes the letter, or keeps it with the error.  Errors that say nothing of the event are raised.
 */
static void
try_letter(Replay *replay, CqrsDeadLetter *place)
{
	CqrsDeadLetter *letter = cqrs_dead_letter_get(place->id);
	ErrorData  *error;

	put_event(replay, letter);
	error = cqrs_attempt(take_event, replay, true);
	if (error == NULL)
	{
		cqrs_dead_letter_delete(letter->id);
		replay->applied++;
		return;
	}
	cqrs_events_forget(&replay->run);
	if (cqrs_events_blameless(&replay->run, replay->slot, error))
		ReThrowError(error);
	keep_failed(letter, error);
	cqrs_parked_add(replay->blocked, letter->aggregates, letter->id);
}

/*
 * pass_by leaves a letter where it is; one that waits behind another letter than before says so.
 */
static void
pass_by(Replay *replay, CqrsDeadLetter *place, int64 behind)
{
	if (behind != 0 && behind != place->behind)
	{
		CqrsDeadLetter *letter = cqrs_dead_letter_get(place->id);

		letter->behind = behind;
		cqrs_dead_letter_update(letter);
		place->behind = behind;
	}
	cqrs_parked_add(replay->blocked, place->aggregates, place->behind ? place->behind : place->id);
}

/*
 * is_active tells whether a letter is one to go on with: the target, what waits behind it, and what concerns the same aggregates.
 *
 * What waits behind it may concern others, if what led from one to the other was discarded.
 */
static bool
is_active(const Replay *replay, const CqrsDeadLetter *place)
{
	return replay->target == 0 || place->id == replay->target || place->behind == replay->target ||
		cqrs_parked_behind(replay->active, place->aggregates) != 0;
}

/*
 * replay_letters goes through a version's letters, in order.
 */
static void
replay_letters(void *argument)
{
	Replay	   *replay = argument;
	ListCell   *cell;

	replay->run.version = replay->version;
	replay->run.snapshot = replay->snapshot;
	cqrs_events_begin(&replay->run);
	replay->run.parked = cqrs_parked_make();	/* here it is decided what waits */
	replay->active = cqrs_parked_make();
	replay->blocked = cqrs_parked_make();
	replay->slot = MakeSingleTupleTableSlot(cqrs_events_found_row(), &TTSOpsVirtual);
	foreach(cell, cqrs_dead_letter_list(replay->version->id, false))
	{
		CqrsDeadLetter *place = lfirst(cell);
		bool		target = place->id == replay->target;
		bool		active = is_active(replay, place);
		int64		behind = active ? cqrs_parked_behind(replay->blocked, place->aggregates) : 0;

		CHECK_FOR_INTERRUPTS();
		if (active)
			cqrs_parked_add(replay->active, place->aggregates, place->id);
		if (target && replay->discard)
			cqrs_dead_letter_delete(place->id);
		else if (active && behind == 0)
			try_letter(replay, place);
		else
			pass_by(replay, place, behind);
	}
	ExecDropSingleTupleTableSlot(replay->slot);
	cqrs_events_end(&replay->run);
}

/*
 * check_ready refuses to go on with a version that stands still, or begins anew.
 */
static void
check_ready(const CqrsProjection *projection, const CqrsVersion *version)
{
	if (version->state != CQRS_STATE_RETIRED && version->status != CQRS_STATUS_STALE && !projection->paused)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("version %d of projection \"%s\" is %s", version->number, cqrs_name_shown(projection->view),
					projection->paused ? "paused" : version->state == CQRS_STATE_RETIRED ? "retired" : "stale"),
			 projection->paused ? errhint("Call cqrs.resume first.") :
			 errhint("Its dead letters are of no use any more: it is not maintained, or begins anew from its seed.")));
}

/*
 * replay_version goes on with letters of a version whose lock is held.
 */
static void
replay_version(const CqrsProjection *projection, Replay *replay)
{
	List	   *locked;

	replay->version = cqrs_version_get(replay->version->id, false);
	check_ready(projection, replay->version);
	(void) cqrs_apply_lock(replay->version, true, &locked);
	replay->snapshot = cqrs_apply_snapshot();
	cqrs_events_within(replay->version, replay->snapshot, replay_letters, replay);
	UnregisterSnapshot(replay->snapshot);
	if (replay->applied > 0)
	{
		cqrs_history_insert(projection->id, projection->view, replay->version->number, "retried", NULL, NULL,
							psprintf("%lld dead letters were applied", (long long) replay->applied));
		cqrs_apply_distrust_readers(replay->version, "dead letters of a projection that it reads were applied");
		cqrs_shared_wake_at_commit();
	}
	cqrs_shared_announce_at_commit();
}

/*
 * go_on_with replays a letter and what waits behind it, or discards it and replays that; returns how many events were applied.
 */
static int64
go_on_with(int64 id, const char *discard_reason)
{
	CqrsProjection *projection;
	CqrsDeadLetter *letter = get_letter(id, &projection);
	Replay		replay = {.target = id,.discard = discard_reason != NULL};

	replay.version = cqrs_version_get(letter->version, false);
	(void) cqrs_group_lock(letter->version, false);
	letter = get_letter(id, &projection);
	if (letter->behind != 0 && discard_reason == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dead letter %lld waits behind dead letter %lld", (long long) id, (long long) letter->behind),
				 errdetail("Events of an aggregate are applied in the order in which they happened."),
				 errhint("Call cqrs.retry(%lld).", (long long) letter->behind)));
	if (discard_reason != NULL)
		cqrs_history_insert(projection->id, projection->view, replay.version->number, "discarded", NULL, NULL,
							psprintf("dead letter %lld: %s", (long long) id, discard_reason));
	if (letter->behind != 0)
		cqrs_dead_letter_delete(id);
	else
		replay_version(projection, &replay);
	return replay.applied;
}

/*
 * cqrs.retry(dead_letter bigint) RETURNS bigint
 *
 * Hands the event of a dead letter to its handler again, and then what waits behind it, in order; returns how many events were applied.  An event that fails
 * again stays, with a warning, and what concerns the same aggregate stays behind it.
 *
 * Errors: 42704 no such letter; 42501 not the projection's owner; 55000 it waits behind another, or its version is paused, retired or stale; 25001 in another
 * isolation level than READ COMMITTED, or after captured changes of one's own.
 */
Datum
cqrs_retry(PG_FUNCTION_ARGS)
{
	cqrs_apply_check_caller("cqrs.retry()");
	PG_RETURN_INT64(go_on_with(PG_GETARG_INT64(0), NULL));
}

/*
 * cqrs.retry_all(projection regclass) RETURNS bigint
 *
 * Hands the events of all dead letters of a projection to their handlers again, in order; returns how many were applied.
 *
 * Errors: 42809 not a projection; and as of cqrs.retry.
 */
Datum
cqrs_retry_all(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection;
	int64		applied = 0;
	ListCell   *cell;

	cqrs_apply_check_caller("cqrs.retry_all()");
	projection = cqrs_projection_argument(PG_GETARG_OID(0));
	cqrs_projection_check_owner(projection);
	foreach(cell, cqrs_version_list(projection->id))
	{
		Replay		replay = {.version = lfirst(cell)};

		if (replay.version->state == CQRS_STATE_RETIRED || !cqrs_version_is_events(replay.version))
			continue;
		(void) cqrs_group_lock(replay.version->id, false);
		if (cqrs_dead_letter_list(replay.version->id, false) == NIL)
			continue;
		replay_version(projection, &replay);
		applied += replay.applied;
	}
	PG_RETURN_INT64(applied);
}

/*
 * cqrs.discard(dead_letter bigint, reason text) RETURNS bigint
 *
 * Gives up a dead letter, with a reason that history keeps, and applies what waits behind it, in order; returns how many events were.
 *
 * Errors: as of cqrs.retry; 22004 and 22023 without a reason.
 */
Datum
cqrs_discard(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		cqrs_arguments_refuse_null("dead_letter");
	cqrs_apply_check_caller("cqrs.discard()");
	PG_RETURN_INT64(go_on_with(PG_GETARG_INT64(0), cqrs_arguments_reason(fcinfo, 1)));
}
