/*
 * registry/registry.c
 *		The catalog itself: whether it is there, its tables' OIDs, ids, object locks, history.
 *
 * Leaves rows of projections, versions, sources and segments to the files of these names.  Wants a transaction; memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/clock.h"
#include "base/names.h"
#include "base/sequence.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "registry/rows.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define SCHEMA "cqrs_internal"

/* Columns of history. */
enum
{
	HISTORY_ID, HISTORY_AT, HISTORY_ACTOR, HISTORY_PROJECTION, HISTORY_NAME, HISTORY_VERSION, HISTORY_EVENT, HISTORY_FROM,
	HISTORY_TO, HISTORY_LASTED, HISTORY_REASON, HISTORY_SOURCE, HISTORY_CHANGES, HISTORY_COUNT
};

static const char *const catalog_names[CQRS_CAT_COUNT] = {
	[CQRS_CAT_PROJECTION] = "projection",
	[CQRS_CAT_VERSION] = "version",
	[CQRS_CAT_VERSION_SOURCE] = "version_source",
	[CQRS_CAT_VERSION_READ] = "version_read",
	[CQRS_CAT_VERIFICATION] = "verification",
	[CQRS_CAT_CHECKPOINT] = "checkpoint",
	[CQRS_CAT_SOURCE] = "source",
	[CQRS_CAT_SHAPE] = "shape",
	[CQRS_CAT_SEGMENT] = "segment",
	[CQRS_CAT_HISTORY] = "history",
	[CQRS_CAT_AGGREGATE] = "aggregate",
	[CQRS_CAT_EVENT_TYPE] = "event_type",
	[CQRS_CAT_EVENT_COUNT] = "event_count",
	[CQRS_CAT_UPCASTER] = "upcaster",
	[CQRS_CAT_COMMAND] = "command",
	[CQRS_CAT_COMMAND_CALL] = "command_call",
	[CQRS_CAT_COMMAND_REPLAY] = "command_replay",
	[CQRS_CAT_EVENT_DEFINITION] = "event_definition",
	[CQRS_CAT_HANDLER] = "handler",
	[CQRS_CAT_DEAD_LETTER] = "dead_letter",
};

/*
 * relation_of returns the OID of a relation in our schema, or an error that says how to get one.
 */
static Oid
relation_of(const char *name)
{
	Oid			namespace = get_namespace_oid(SCHEMA, true);
	Oid			relid = OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"cqrs\" is not created in this database"),
				 errhint("Run CREATE EXTENSION cqrs.")));
	return relid;
}

/*
 * cqrs_registry_exists tells whether the extension is created in this database.
 */
bool
cqrs_registry_exists(void)
{
	return OidIsValid(get_extension_oid("cqrs", true)) && OidIsValid(get_namespace_oid(SCHEMA, true));
}

/*
 * cqrs_registry_relation returns the OID of one of our tables.
 */
Oid
cqrs_registry_relation(CqrsCatalog catalog)
{
	return relation_of(catalog_names[catalog]);
}

/*
 * cqrs_registry_capture_function returns the OID of the trigger function.
 *
 * Looked up in the cache and not by the parser's routines, which ask whether the user may use our schema.
 */
Oid
cqrs_registry_capture_function(void)
{
	oidvector  *no_arguments = buildoidvector(NULL, 0);

	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("capture"), PointerGetDatum(no_arguments),
						   ObjectIdGetDatum(get_namespace_oid(SCHEMA, false)));
}

/*
 * cqrs_registry_next_id draws an id.
 */
int32
cqrs_registry_next_id(void)
{
	return (int32) cqrs_sequence_next(relation_of("registry_id"));
}

/*
 * lock_object locks one object of our catalog to the end of the transaction; false only with 'nowait'.
 */
static bool
lock_object(CqrsCatalog catalog, uint32 id, bool nowait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, cqrs_registry_relation(catalog), id, 0);
	return LockAcquire(&tag, ExclusiveLock, false, nowait) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * waiting_tag is the lock that stands for waiting for some projection: no projection has the id 0.
 */
static LOCKTAG
waiting_tag(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, cqrs_registry_relation(CQRS_CAT_PROJECTION), 0, 0);
	return tag;
}

/*
 * cqrs_waiting_begin says that this process waits for projections, and reads nothing meanwhile.
 *
 * Where all of a transaction has one snapshot, it may read what it has waited for by that one.  Whoever waits for a worker has restored what he was to.
 */
bool
cqrs_waiting_begin(void)
{
	LOCKTAG		tag = waiting_tag();

	cqrs_restore_end();
	return !IsolationUsesXactSnapshot() && LockAcquire(&tag, AccessShareLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * cqrs_waiting_end takes that back.
 */
void
cqrs_waiting_end(void)
{
	LOCKTAG		tag = waiting_tag();

	(void) LockRelease(&tag, AccessShareLock, false);
}

/*
 * cqrs_projection_lock waits for the right to change a projection's life.
 */
bool
cqrs_projection_lock(int32 projection, bool nowait)
{
	return lock_object(CQRS_CAT_PROJECTION, projection, nowait);
}

/*
 * cqrs_source_lock takes the right to register a relation as a source, or to let go of it.
 */
bool
cqrs_source_lock(Oid relation, bool nowait)
{
	return lock_object(CQRS_CAT_SOURCE, relation, nowait);
}

/*
 * cqrs_version_lock takes the right to fill, apply or drop a version.
 */
bool
cqrs_version_lock(int32 version, bool nowait)
{
	return lock_object(CQRS_CAT_VERSION, version, nowait);
}

/*
 * cqrs_registry_put_origin writes into a row whose transactions it speaks of: this cluster's and this database's.
 */
void
cqrs_registry_put_origin(Datum *values)
{
	values[0] = Int64GetDatum((int64) GetSystemIdentifier());
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	values[2] = ObjectIdGetDatum(cqrs_registry_relation(CQRS_CAT_VERSION));
}

/*
 * cqrs_registry_is_ours tells whether a row speaks of this cluster's and this database's transactions.
 */
bool
cqrs_registry_is_ours(const Datum *values)
{
	return (uint64) DatumGetInt64(values[0]) == GetSystemIdentifier() &&
		DatumGetObjectId(values[1]) == MyDatabaseId &&
		DatumGetObjectId(values[2]) == cqrs_registry_relation(CQRS_CAT_VERSION);
}

/*
 * insert_history writes a row of history: now, and by the session's user.
 *
 * The actor is the session user, not the identity in force: an applier works under the owner's.
 */
static void
insert_history(Datum *values, bool *nulls, const char *event, const char *reason)
{
	NameData	actor;

	namestrcpy(&actor, GetUserNameFromId(GetSessionUserId(), false));
	values[HISTORY_ID] = Int64GetDatum(cqrs_sequence_next(relation_of("history_id_seq")));
	values[HISTORY_AT] = TimestampTzGetDatum(cqrs_clock_now());
	values[HISTORY_ACTOR] = NameGetDatum(&actor);
	values[HISTORY_EVENT] = cqrs_rows_text(event, &nulls[HISTORY_EVENT]);
	values[HISTORY_REASON] = cqrs_rows_text(reason, &nulls[HISTORY_REASON]);
	nulls[HISTORY_ID] = nulls[HISTORY_AT] = nulls[HISTORY_ACTOR] = false;
	cqrs_rows_insert(CQRS_CAT_HISTORY, values, nulls);
}

/*
 * lasted tells how long the state or status that a version leaves has lasted, as its row still says; null of anything else.
 */
static Datum
lasted(int32 projection, int32 number, const char *from, TimestampTz now, bool *isnull)
{
	ListCell   *cell;

	*isnull = true;
	if (number == 0 || from == NULL)
		return (Datum) 0;
	foreach(cell, cqrs_version_list(projection))
	{
		CqrsVersion *version = lfirst(cell);
		bool		state = strcmp(from, cqrs_state_name(version->state)) == 0;

		if (version->number != number || (!state && strcmp(from, cqrs_status_name(version->status)) != 0))
			continue;
		*isnull = false;
		return DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(now),
								   TimestampTzGetDatum(state ? version->state_since : version->status_since));
	}
	return (Datum) 0;
}

/*
 * name_projection says, in a row of history in which there is nothing yet, what it is about.
 */
static void
name_projection(Datum *values, bool *nulls, int32 projection, Oid view, int32 version_number)
{
	memset(nulls, true, sizeof(bool) * HISTORY_COUNT);
	values[HISTORY_PROJECTION] = Int32GetDatum(projection);
	nulls[HISTORY_PROJECTION] = false;
	values[HISTORY_NAME] = cqrs_rows_text(OidIsValid(view) ? cqrs_name_relation(view) : NULL, &nulls[HISTORY_NAME]);
	values[HISTORY_VERSION] = Int32GetDatum(version_number);
	nulls[HISTORY_VERSION] = version_number == 0;
}

/*
 * cqrs_history_insert records what happened to a projection.
 */
void
cqrs_history_insert(int32 projection, Oid view, int32 version_number, const char *event,
					const char *from_state, const char *to_state, const char *reason)
{
	Datum		values[HISTORY_COUNT];
	bool		nulls[HISTORY_COUNT];

	name_projection(values, nulls, projection, view, version_number);
	values[HISTORY_FROM] = cqrs_rows_text(from_state, &nulls[HISTORY_FROM]);
	values[HISTORY_TO] = cqrs_rows_text(to_state, &nulls[HISTORY_TO]);
	values[HISTORY_LASTED] = lasted(projection, version_number, from_state, cqrs_clock_now(), &nulls[HISTORY_LASTED]);
	insert_history(values, nulls, event, reason);
}

/*
 * cqrs_history_insert_drift records that keys of a version were found to have drifted, or were mended.
 */
void
cqrs_history_insert_drift(const CqrsVersion *version, const char *event, int64 keys, const char *reason)
{
	Datum		values[HISTORY_COUNT];
	bool		nulls[HISTORY_COUNT];

	name_projection(values, nulls, version->projection, cqrs_projection_get(version->projection, false)->view, version->number);
	values[HISTORY_CHANGES] = Int64GetDatum(keys);
	nulls[HISTORY_CHANGES] = false;
	insert_history(values, nulls, event, reason);
}

/*
 * cqrs_history_insert_erasure records that changes were erased: of what, how many, why, but not which.
 */
void
cqrs_history_insert_erasure(const char *source, int64 changes, const char *reason)
{
	Datum		values[HISTORY_COUNT];
	bool		nulls[HISTORY_COUNT];

	memset(nulls, true, sizeof(nulls));
	values[HISTORY_SOURCE] = cqrs_rows_text(source, &nulls[HISTORY_SOURCE]);
	values[HISTORY_CHANGES] = Int64GetDatum(changes);
	nulls[HISTORY_CHANGES] = false;
	insert_history(values, nulls, "erased", reason);
}
