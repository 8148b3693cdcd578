/*
 * registry/versions.c
 *		Rows of versions, of what they read, and of their checkpoints.
 */
#include "postgres.h"

#include "access/transam.h"
#include "base/arguments.h"
#include "base/clock.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "registry/registry.h"
#include "registry/rows.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

enum
{
	COL_ID, COL_PROJECTION, COL_NUMBER, COL_STATE, COL_STATUS, COL_ERROR, COL_RETRY_AT, COL_ATTEMPTS, COL_SCHEMA, COL_TABLE,
	COL_DEFINITION, COL_KEY, COL_INDEXES, COL_SETTINGS, COL_CREATED_AT, COL_STATE_SINCE, COL_STATUS_SINCE, COL_FILLED_XID,
	COL_FILLED_AT, COL_REBUILD, COL_RETIRE_AT, COL_COUNT
};

enum
{
	CHECKPOINT_VERSION, CHECKPOINT_NUMBER, CHECKPOINT_SNAPSHOT, CHECKPOINT_POSITION, CHECKPOINT_AS_OF, CHECKPOINT_SYSTEM,
	CHECKPOINT_DATABASE, CHECKPOINT_REGISTRY, CHECKPOINT_STRATEGY, CHECKPOINT_CHANGES, CHECKPOINT_KEYS, CHECKPOINT_WRITTEN,
	CHECKPOINT_DURATION, CHECKPOINT_COUNT
};

/* So many checkpoints are kept, for cqrs.explain to show what the last batches were. */
#define CHECKPOINTS_KEPT 10

static const char *const state_names[] = {"building", "shadow", "serving", "standby", "retired"};
static const char *const rebuild_names[] = {NULL, "wanted", "equal"};
static const char *const status_names[] = {"running", "stale", "failing", "halted"};

/*
 * find_name returns the index of a stored name in its list.
 */
static int
find_name(const char *name, const char *const *names, int count)
{
	for (int i = 0; i < count; i++)
		if (names[i] != NULL && strcmp(name, names[i]) == 0)
			return i;
	elog(ERROR, "unknown state or status \"%s\" in the catalog of cqrs", name);
}

/*
 * cqrs_state_name names a state as users read it.
 */
const char *
cqrs_state_name(CqrsState state)
{
	return state_names[state];
}

/*
 * cqrs_status_name names a status as users read it.
 */
const char *
cqrs_status_name(CqrsStatus status)
{
	return status_names[status];
}

/*
 * nodes_of makes String nodes of strings.
 */
static List *
nodes_of(List *strings)
{
	List	   *nodes = NIL;
	ListCell   *cell;

	foreach(cell, strings)
		nodes = lappend(nodes, makeString(lfirst(cell)));
	return nodes;
}

/*
 * strings_in returns the strings of String nodes.
 */
static List *
strings_in(List *nodes)
{
	List	   *strings = NIL;
	ListCell   *cell;

	foreach(cell, nodes)
		strings = lappend(strings, strVal(lfirst(cell)));
	return strings;
}

/*
 * read_version makes a CqrsVersion of a row.
 */
static void *
read_version(const Datum *values, const bool *nulls)
{
	CqrsVersion *version = palloc0(sizeof(CqrsVersion));

	version->id = DatumGetInt32(values[COL_ID]);
	version->projection = DatumGetInt32(values[COL_PROJECTION]);
	version->number = DatumGetInt32(values[COL_NUMBER]);
	version->state = find_name(TextDatumGetCString(values[COL_STATE]), state_names, lengthof(state_names));
	version->status = find_name(TextDatumGetCString(values[COL_STATUS]), status_names, lengthof(status_names));
	version->error = cqrs_rows_string(values, nulls, COL_ERROR);
	version->retry_at = nulls[COL_RETRY_AT] ? 0 : DatumGetTimestampTz(values[COL_RETRY_AT]);
	version->attempts = DatumGetInt32(values[COL_ATTEMPTS]);
	version->schema = DatumGetObjectId(values[COL_SCHEMA]);
	version->table = DatumGetObjectId(values[COL_TABLE]);
	version->definition = DatumGetObjectId(values[COL_DEFINITION]);
	version->key = cqrs_rows_int2s(values[COL_KEY], &version->nkeys);
	version->indexes = cqrs_rows_texts(values[COL_INDEXES]);
	version->settings = nodes_of(cqrs_rows_texts(values[COL_SETTINGS]));
	version->created_at = DatumGetTimestampTz(values[COL_CREATED_AT]);
	version->state_since = DatumGetTimestampTz(values[COL_STATE_SINCE]);
	version->status_since = DatumGetTimestampTz(values[COL_STATUS_SINCE]);
	version->filled_xid = nulls[COL_FILLED_XID] ? InvalidFullTransactionId : DatumGetFullTransactionId(values[COL_FILLED_XID]);
	version->filled_at = nulls[COL_FILLED_AT] ? 0 : DatumGetTimestampTz(values[COL_FILLED_AT]);
	version->rebuild = nulls[COL_REBUILD] ? CQRS_REBUILD_NONE :
		find_name(TextDatumGetCString(values[COL_REBUILD]), rebuild_names, lengthof(rebuild_names));
	version->retire_at = nulls[COL_RETIRE_AT] ? 0 : DatumGetTimestampTz(values[COL_RETIRE_AT]);
	return version;
}

/*
 * form_version makes the row of a CqrsVersion.
 */
static void
form_version(const CqrsVersion *version, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * COL_COUNT);
	values[COL_ID] = Int32GetDatum(version->id);
	values[COL_PROJECTION] = Int32GetDatum(version->projection);
	values[COL_NUMBER] = Int32GetDatum(version->number);
	values[COL_STATE] = CStringGetTextDatum(state_names[version->state]);
	values[COL_STATUS] = CStringGetTextDatum(status_names[version->status]);
	values[COL_ERROR] = cqrs_rows_text(version->error, &nulls[COL_ERROR]);
	values[COL_RETRY_AT] = TimestampTzGetDatum(version->retry_at);
	nulls[COL_RETRY_AT] = version->retry_at == 0;
	values[COL_ATTEMPTS] = Int32GetDatum(version->attempts);
	values[COL_SCHEMA] = ObjectIdGetDatum(version->schema);
	values[COL_TABLE] = ObjectIdGetDatum(version->table);
	values[COL_DEFINITION] = ObjectIdGetDatum(version->definition);
	values[COL_KEY] = cqrs_rows_int2_array(version->key, version->nkeys);
	values[COL_INDEXES] = cqrs_arguments_array(version->indexes);
	values[COL_SETTINGS] = cqrs_arguments_array(strings_in(version->settings));
	values[COL_CREATED_AT] = TimestampTzGetDatum(version->created_at);
	values[COL_STATE_SINCE] = TimestampTzGetDatum(version->state_since);
	values[COL_STATUS_SINCE] = TimestampTzGetDatum(version->status_since);
	values[COL_FILLED_XID] = FullTransactionIdGetDatum(version->filled_xid);
	nulls[COL_FILLED_XID] = !FullTransactionIdIsValid(version->filled_xid);
	values[COL_FILLED_AT] = TimestampTzGetDatum(version->filled_at);
	nulls[COL_FILLED_AT] = version->filled_at == 0;
	values[COL_REBUILD] = cqrs_rows_text(rebuild_names[version->rebuild], &nulls[COL_REBUILD]);
	values[COL_RETIRE_AT] = TimestampTzGetDatum(version->retire_at);
	nulls[COL_RETIRE_AT] = version->retire_at == 0;
}

/*
 * by_id starts a scan for one version.
 */
static CqrsRowScan
by_id(int32 id)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_VERSION, .index = "version_pkey"};

	cqrs_rows_key_int4(&scan, COL_ID + 1, id);
	return scan;
}

/*
 * of_version starts a scan for the rows of one version in the tables that hang on it.
 */
static CqrsRowScan
of_version(CqrsCatalog catalog, const char *index, int32 version)
{
	CqrsRowScan scan = {.catalog = catalog, .index = index};

	cqrs_rows_key_int4(&scan, 1, version);
	return scan;
}

/*
 * cqrs_version_get returns a version by id.
 */
CqrsVersion *
cqrs_version_get(int32 id, bool missing_ok)
{
	CqrsRowScan scan = by_id(id);
	CqrsVersion *version = cqrs_rows_read_one(&scan, read_version);

	if (version == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("version with id %d does not exist", id)));
	return version;
}

/*
 * cqrs_version_list returns the versions of a projection by number, or with 0 all by id; retired ones too.
 */
List *
cqrs_version_list(int32 projection)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_VERSION, .index = "version_pkey"};

	if (projection != 0)
	{
		scan.index = "version_projection_key";
		cqrs_rows_key_int4(&scan, COL_PROJECTION + 1, projection);
	}
	return cqrs_rows_read(&scan, read_version);
}

/*
 * cqrs_version_serving returns the version readers get, or else the newest that is being built for them, or NULL.
 */
CqrsVersion *
cqrs_version_serving(int32 projection)
{
	CqrsVersion *found = NULL;
	ListCell   *cell;

	foreach(cell, cqrs_version_list(projection))
	{
		CqrsVersion *version = lfirst(cell);

		if (version->state == CQRS_STATE_SERVING)
			return version;
		if (version->state == CQRS_STATE_BUILDING)
			found = version;
	}
	return found;
}

/*
 * cqrs_version_insert adds a version.
 */
void
cqrs_version_insert(CqrsVersion *version)
{
	Datum		values[COL_COUNT];
	bool		nulls[COL_COUNT];

	version->state_since = version->status_since = version->created_at;
	form_version(version, values, nulls);
	cqrs_rows_insert(CQRS_CAT_VERSION, values, nulls);
}

/*
 * cqrs_version_update replaces a version's row, and notes since when its state and status are what they are; the caller holds its lock.
 */
void
cqrs_version_update(CqrsVersion *version)
{
	CqrsRowScan scan = by_id(version->id);
	CqrsVersion *before = cqrs_version_get(version->id, false);
	Datum		values[COL_COUNT];
	bool		nulls[COL_COUNT];

	version->state_since = version->state != before->state ? cqrs_clock_now() : before->state_since;
	version->status_since = version->status != before->status ? cqrs_clock_now() : before->status_since;
	form_version(version, values, nulls);
	cqrs_rows_update(&scan, values, nulls);
}

/*
 * cqrs_version_strip removes all that hangs on a version: what it reads, and its checkpoints.
 */
void
cqrs_version_strip(int32 id)
{
	CqrsRowScan checkpoints = of_version(CQRS_CAT_CHECKPOINT, "checkpoint_pkey", id);

	cqrs_version_source_delete(id);
	cqrs_read_delete(id);
	cqrs_verification_delete(id);
	cqrs_handlers_delete(id);
	(void) cqrs_rows_delete(&checkpoints);
}

/*
 * cqrs_version_delete removes a version's row with all that hangs on it.
 */
void
cqrs_version_delete(int32 id)
{
	CqrsRowScan version = by_id(id);

	cqrs_version_strip(id);
	(void) cqrs_rows_delete(&version);
}

/*
 * cqrs_version_fails tells whether the version's last step failed.
 */
bool
cqrs_version_fails(const CqrsVersion *version)
{
	return version->status == CQRS_STATUS_FAILING || (version->status == CQRS_STATUS_STALE && version->error != NULL);
}

/*
 * cqrs_version_distrust makes a version stale, with a reason for history; the caller holds its lock.
 */
void
cqrs_version_distrust(CqrsVersion *version, const char *reason)
{
	CqrsStatus	before = version->status;

	if (version->state == CQRS_STATE_RETIRED ||
		(before != CQRS_STATUS_RUNNING && before != CQRS_STATUS_FAILING && !cqrs_version_at_event(version)))
		return;
	cqrs_history_insert(version->projection, cqrs_projection_get(version->projection, false)->view, version->number,
						status_names[CQRS_STATUS_STALE], status_names[before], status_names[CQRS_STATUS_STALE], reason);
	version->status = CQRS_STATUS_STALE;
	cqrs_version_update(version);
}

/*
 * read_version_source makes a CqrsVersionSource of a row.
 */
static void *
read_version_source(const Datum *values, const bool *nulls)
{
	CqrsVersionSource *row = palloc0(sizeof(CqrsVersionSource));

	row->version = DatumGetInt32(values[0]);
	row->source = DatumGetInt32(values[1]);
	row->watched = cqrs_rows_columns(values[2]);
	row->imaged = cqrs_rows_columns(values[3]);
	return row;
}

/*
 * cqrs_version_source_insert records that a version reads columns of a source.
 */
void
cqrs_version_source_insert(const CqrsVersionSource *row)
{
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = Int32GetDatum(row->version);
	values[1] = Int32GetDatum(row->source);
	values[2] = cqrs_rows_columns_array(row->watched);
	values[3] = cqrs_rows_columns_array(row->imaged);
	cqrs_rows_insert(CQRS_CAT_VERSION_SOURCE, values, nulls);
}

/*
 * cqrs_version_source_delete removes all that is recorded of what a version reads.
 */
void
cqrs_version_source_delete(int32 version)
{
	CqrsRowScan scan = of_version(CQRS_CAT_VERSION_SOURCE, "version_source_pkey", version);

	(void) cqrs_rows_delete(&scan);
}

/*
 * cqrs_version_source_list returns what a version reads, or with 0 what each version reads.
 */
List *
cqrs_version_source_list(int32 version)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_VERSION_SOURCE, .index = "version_source_pkey"};

	if (version != 0)
		cqrs_rows_key_int4(&scan, 1, version);
	return cqrs_rows_read(&scan, read_version_source);
}

/*
 * add_source_ids adds the ids of the sources that a version reads, itself or through projections; that of events, 0, where handlers take events.
 */
static List *
add_source_ids(List *ids, const CqrsVersion *version)
{
	ListCell   *cell;

	check_stack_depth();
	foreach(cell, cqrs_version_source_list(version->id))
		ids = list_append_unique_int(ids, ((CqrsVersionSource *) lfirst(cell))->source);
	if (cqrs_handlers_take_events(version->id))
		ids = list_append_unique_int(ids, 0);
	foreach(cell, cqrs_version_lowers(version))
		ids = add_source_ids(ids, lfirst(cell));
	return ids;
}

/*
 * cqrs_version_source_ids returns the ids of the sources that a version reads.
 */
int32 *
cqrs_version_source_ids(int32 version, int *count)
{
	CqrsVersion reader = {.id = version};
	List	   *list = add_source_ids(NIL, &reader);
	int32	   *ids = palloc(sizeof(int32) * Max(list_length(list), 1));
	ListCell   *cell;

	*count = 0;
	foreach(cell, list)
		ids[(*count)++] = lfirst_int(cell);
	return ids;
}

/*
 * read_checkpoint makes a CqrsCheckpoint of a row, and tells whether it speaks of this cluster's and this database's transactions.
 */
static void *
read_checkpoint(const Datum *values, const bool *nulls)
{
	CqrsCheckpoint *checkpoint = palloc0(sizeof(CqrsCheckpoint));

	checkpoint->version = DatumGetInt32(values[CHECKPOINT_VERSION]);
	checkpoint->number = DatumGetInt64(values[CHECKPOINT_NUMBER]);
	checkpoint->snapshot = cqrs_window_from_datum(values[CHECKPOINT_SNAPSHOT]);
	checkpoint->position = DatumGetInt64(values[CHECKPOINT_POSITION]);
	checkpoint->as_of = DatumGetTimestampTz(values[CHECKPOINT_AS_OF]);
	memcpy(checkpoint->origin, &values[CHECKPOINT_SYSTEM], sizeof(checkpoint->origin));
	checkpoint->ours = cqrs_registry_is_ours(&values[CHECKPOINT_SYSTEM]) &&
		FullTransactionIdPrecedesOrEquals(checkpoint->snapshot->xmax, ReadNextFullTransactionId());
	checkpoint->effort.strategy = cqrs_rows_string(values, nulls, CHECKPOINT_STRATEGY);
	checkpoint->effort.changes = DatumGetInt64(values[CHECKPOINT_CHANGES]);
	checkpoint->effort.keys = nulls[CHECKPOINT_KEYS] ? -1 : DatumGetInt64(values[CHECKPOINT_KEYS]);
	checkpoint->effort.written = DatumGetInt64(values[CHECKPOINT_WRITTEN]);
	checkpoint->effort.microseconds = DatumGetIntervalP(values[CHECKPOINT_DURATION])->time;
	return checkpoint;
}

/*
 * cqrs_checkpoint_latest returns a version's newest checkpoint, or NULL before it is filled.
 */
CqrsCheckpoint *
cqrs_checkpoint_latest(int32 version)
{
	CqrsRowScan scan = of_version(CQRS_CAT_CHECKPOINT, "checkpoint_pkey", version);

	return cqrs_rows_read_last(&scan, read_checkpoint);
}

/*
 * cqrs_checkpoint_list returns the checkpoints of a version that are kept, oldest first.
 */
List *
cqrs_checkpoint_list(int32 version)
{
	CqrsRowScan scan = of_version(CQRS_CAT_CHECKPOINT, "checkpoint_pkey", version);

	return cqrs_rows_read(&scan, read_checkpoint);
}

/*
 * cqrs_checkpoint_insert sets a version's checkpoint, as a new row; the oldest of those that are kept is removed.
 *
 * Rows are never updated: while a dump holds an old xmin, every reader would walk over all the dead ones first.
 */
void
cqrs_checkpoint_insert(int32 version, const CqrsSnapshot *snapshot, int64 position, TimestampTz as_of, const CqrsEffort *effort)
{
	CqrsCheckpoint *latest = cqrs_checkpoint_latest(version);
	int64		number = latest ? latest->number + 1 : 1;
	CqrsRowScan old = of_version(CQRS_CAT_CHECKPOINT, "checkpoint_pkey", version);
	Interval	duration = {.time = effort->microseconds};
	Datum		values[CHECKPOINT_COUNT];
	bool		nulls[CHECKPOINT_COUNT] = {false};

	values[CHECKPOINT_VERSION] = Int32GetDatum(version);
	values[CHECKPOINT_NUMBER] = Int64GetDatum(number);
	values[CHECKPOINT_SNAPSHOT] = cqrs_window_datum(snapshot);
	values[CHECKPOINT_POSITION] = Int64GetDatum(position);
	values[CHECKPOINT_AS_OF] = TimestampTzGetDatum(as_of);
	cqrs_registry_put_origin(&values[CHECKPOINT_SYSTEM]);
	values[CHECKPOINT_STRATEGY] = cqrs_rows_text(effort->strategy, &nulls[CHECKPOINT_STRATEGY]);
	values[CHECKPOINT_CHANGES] = Int64GetDatum(effort->changes);
	values[CHECKPOINT_KEYS] = Int64GetDatum(effort->keys);
	nulls[CHECKPOINT_KEYS] = effort->keys < 0;
	values[CHECKPOINT_WRITTEN] = Int64GetDatum(effort->written);
	values[CHECKPOINT_DURATION] = IntervalPGetDatum(&duration);
	cqrs_rows_insert(CQRS_CAT_CHECKPOINT, values, nulls);

	cqrs_rows_key_int8(&old, CHECKPOINT_NUMBER + 1, number - CHECKPOINTS_KEPT);
	(void) cqrs_rows_delete(&old);
}
