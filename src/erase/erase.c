/*
 * erase/erase.c
 *		cqrs.erase: what must not be kept leaves the outbox, be it a row's images or an aggregate's events.
 *
 * In this order: wait until those have ended who are writing what is to go, so that nothing of it is on its way still; lock the segments, so that none is freed
 * and no other erasure runs; take the snapshot that says which chunks are looked through; have all versions that read them apply all they have not (settle.c);
 * write the chunks anew; and record that it was done, without what was erased.  Versions thus have applied all that the snapshot sees; what is written
 * after it stays.
 *
 * Wants a READ COMMITTED transaction without captured changes of its own.  All locks stay to its end.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply.h"
#include "base/arguments.h"
#include "base/compat.h"
#include "base/locks.h"
#include "base/names.h"
#include "base/spi.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "command/command.h"
#include "erase/parts.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "settings/settings.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

/* A source, and which of its rows are meant. */
typedef struct Target
{
	int32		source;
	CqrsRowMatch *match;
} Target;

/* An aggregate. */
typedef struct Aggregate
{
	text	   *type;
	text	   *id;
} Aggregate;

/*
 * relation_argument checks the table, and the user's right to it.
 */
static Oid
relation_argument(FunctionCallInfo fcinfo, int number)
{
	Oid			relation;

	if (PG_ARGISNULL(number))
		cqrs_arguments_refuse_null("source");
	relation = PG_GETARG_OID(number);
	if (get_rel_name(relation) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relation)));
	if (!cqrs_compat_owns_relation(relation, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of \"%s\" to erase what was captured of it", cqrs_name_shown(relation)),
				 errhint("Ask the owner of the table.")));
	return relation;
}

/*
 * check_tree refuses a table whose rows are captured through another one, too.
 */
static void
check_tree(Oid relation)
{
	ListCell   *cell;

	foreach(cell, cqrs_tree_ancestors(relation))
		if (cqrs_source_of_relation(lfirst_oid(cell)) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("rows of \"%s\" are captured as rows of \"%s\", too", cqrs_name_shown(relation),
							cqrs_name_shown(lfirst_oid(cell))),
					 errhint("Erase from \"%s\": that erases from all tables below it.", cqrs_name_shown(lfirst_oid(cell)))));
}

/*
 * find_targets reads the key for the table and for all below it that are sources of their own.
 *
 * Errors: 42704 if none is, and those of cqrs_match_begin.
 */
static List *
find_targets(Oid relation, Jsonb *key)
{
	List	   *targets = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_tree_members(relation))
	{
		CqrsSource *source = cqrs_source_of_relation(lfirst_oid(cell));
		Target	   *target;

		if (source == NULL)
			continue;
		target = palloc(sizeof(Target));
		target->source = source->id;
		target->match = cqrs_match_begin(lfirst_oid(cell), key);
		targets = lappend(targets, target);
	}
	if (targets == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("changes of \"%s\" have not been captured", cqrs_name_shown(relation)),
				 errhint("See the view cqrs.sources.")));
	return targets;
}

/*
 * is_of_row tells whether a change is one of the rows that are meant; the argument is a List of Target.
 */
static bool
is_of_row(const CqrsChange *change, void *argument)
{
	ListCell   *cell;

	foreach(cell, (List *) argument)
	{
		Target	   *target = lfirst(cell);

		if (target->source == change->source)
			return cqrs_match_row(change, target->match);
	}
	return false;
}

/*
 * is_of_aggregate tells whether an event is one of the aggregate.
 */
static bool
is_of_aggregate(const CqrsChange *change, void *argument)
{
	const Aggregate *aggregate = argument;
	CqrsEvent	event;

	cqrs_outbox_event(change, &event);
	return DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID, PointerGetDatum(event.aggregate_type),
												PointerGetDatum(aggregate->type))) &&
		DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID, PointerGetDatum(event.aggregate_id),
											 PointerGetDatum(aggregate->id)));
}

/*
 * erase does the work, once those have ended who were writing what is to go; returns how many changes went.
 *
 * The snapshot comes before the versions' batches, which see no less, and after the locks, so that it sees what other erasures have written.
 */
static int64
erase(List *sources, CqrsErasable erasable, void *argument, Oid owner)
{
	List	   *segments = cqrs_outbox_lock_all();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int32	   *ids = palloc(sizeof(int32) * list_length(sources));
	CqrsIdentity identity;
	int64		erased;

	for (int i = 0; i < list_length(sources); i++)
		ids[i] = list_nth_int(sources, i);
	cqrs_settle(sources);
	cqrs_identity_enter(&identity, owner, NIL);
	erased = cqrs_outbox_erase(segments, snapshot, ids, list_length(sources), erasable, argument);
	cqrs_identity_leave(&identity);
	UnregisterSnapshot(snapshot);
	return erased;
}

/*
 * begin checks what both forms have in common, and returns the reason.
 */
static char *
begin(FunctionCallInfo fcinfo)
{
	char	   *reason = cqrs_arguments_reason(fcinfo, 2);

	cqrs_apply_check_caller("cqrs.erase()");
	PreventCommandIfParallelMode("cqrs.erase()");
	return reason;
}

PG_FUNCTION_INFO_V1(cqrs_erase_rows);

/*
 * cqrs.erase(source regclass, key jsonb, reason text) RETURNS bigint
 *
 * Erases from the outbox all changes captured of the rows of a table, and of the tables below it, whose columns have the key's values before or after the
 * change, and the dead letters of such changes.  Returns how many changes.  The rows themselves are not touched, nor are read models.
 *
 * Errors: 42501 not the table's owner, 42P01 no such table, 42704 a table that was not captured, 42703 or 42883 a column that is not there or cannot be
 * compared, 22023 or 22004 a key that is empty, null or no object, or no reason, 25001 as cqrs.drain, 55000 a version that reads the table is paused
 * or halted, the table is below another source, or a column is not in all changes retained, 55P03 a lock not got within cqrs.lock_timeout, XX001 a
 * damaged chunk.
 */
Datum
cqrs_erase_rows(PG_FUNCTION_ARGS)
{
	char	   *reason = begin(fcinfo);
	Oid			relation = relation_argument(fcinfo, 0);
	Jsonb	   *key = cqrs_arguments_object(fcinfo, 1, "key");
	Oid			owner = cqrs_relation_owner(relation);
	List	   *sources = NIL;
	List	   *targets;
	CqrsIdentity identity;
	ListCell   *cell;
	int64		erased;

	check_tree(relation);
	cqrs_identity_enter(&identity, owner, NIL);
	targets = find_targets(relation, key);
	cqrs_identity_leave(&identity);
	foreach(cell, targets)
		sources = lappend_int(sources, ((Target *) lfirst(cell))->source);
	cqrs_settle_check(sources);
	cqrs_locks_outwait(cqrs_tree_tables(relation), cqrs_setting_lock_timeout);
	erased = erase(sources, is_of_row, targets, owner);
	foreach(cell, targets)
		cqrs_letters_erase_rows(cqrs_source_get(((Target *) lfirst(cell))->source)->relation, key);
	cqrs_history_insert_erasure(cqrs_name_relation(relation), erased, reason);
	PG_RETURN_INT64(erased);
}

PG_FUNCTION_INFO_V1(cqrs_erase_aggregate);

/*
 * cqrs.erase(aggregate_type text, aggregate_id text, reason text) RETURNS bigint
 *
 * Erases from the outbox all events of an aggregate, and its dead letters, and returns how many events.  Its version stays, so that it goes on from there.
 *
 * Errors: 42704 an aggregate that has no events, and, as for rows, 22004, 22023, 25001, 55000, 55P03 and XX001.
 */
Datum
cqrs_erase_aggregate(PG_FUNCTION_ARGS)
{
	char	   *reason = begin(fcinfo);
	Aggregate	aggregate;
	List	   *sources = list_make1_int(CQRS_EVENT_SOURCE);
	int64		erased;

	aggregate.type = cqrs_arguments_text(fcinfo, 0, "aggregate_type");
	aggregate.id = cqrs_arguments_text(fcinfo, 1, "aggregate_id");
	cqrs_settle_check(sources);
	cqrs_aggregate_outwait(aggregate.type, aggregate.id, cqrs_setting_lock_timeout);
	erased = erase(sources, is_of_aggregate, &aggregate, GetUserId());
	cqrs_letters_erase_aggregate(aggregate.type, aggregate.id);
	cqrs_history_insert_erasure(psprintf("aggregate %s", text_to_cstring(aggregate.type)), erased, reason);
	PG_RETURN_INT64(erased);
}
