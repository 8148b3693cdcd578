/*
 * registry/sources.c
 *		Rows of sources.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "registry/registry.h"
#include "registry/rows.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

enum
{
	COL_ID, COL_RELATION, COL_ATTACHED, COL_CAPTURED, COL_WATCHED, COL_IMAGED, COL_COUNT
};

/* When a source was last found intact, in changes noted. */
typedef struct FoundIntact
{
	int64		source;			/* hash key: twice its id, and one more if whole rows are captured */
	uint64		at;
} FoundIntact;

static HTAB *intact_sources = NULL;
static uint64 changes_noted = 1;

/*
 * read_source makes a CqrsSource of a row.
 */
static void *
read_source(const Datum *values, const bool *nulls)
{
	CqrsSource *source = palloc(sizeof(CqrsSource));

	source->id = DatumGetInt32(values[COL_ID]);
	source->relation = DatumGetObjectId(values[COL_RELATION]);
	source->attached = DatumGetBool(values[COL_ATTACHED]);
	source->captured = DatumGetBool(values[COL_CAPTURED]);
	source->watched = cqrs_rows_columns(values[COL_WATCHED]);
	source->imaged = cqrs_rows_columns(values[COL_IMAGED]);
	return source;
}

/*
 * form_source makes the row of a CqrsSource.
 */
static void
form_source(const CqrsSource *source, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * COL_COUNT);
	values[COL_ID] = Int32GetDatum(source->id);
	values[COL_RELATION] = ObjectIdGetDatum(source->relation);
	values[COL_ATTACHED] = BoolGetDatum(source->attached);
	values[COL_CAPTURED] = BoolGetDatum(source->captured);
	values[COL_WATCHED] = cqrs_rows_columns_array(source->watched);
	values[COL_IMAGED] = cqrs_rows_columns_array(source->imaged);
}

/*
 * by_id starts a scan for one source.
 */
static CqrsRowScan
by_id(int32 id)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_SOURCE, .index = "source_pkey"};

	cqrs_rows_key_int4(&scan, COL_ID + 1, id);
	return scan;
}

/*
 * invalidate has every session forget, at commit, what it knows of how to capture the relation and all below it.
 */
static void
invalidate(Oid relation)
{
	ListCell   *cell;

	foreach(cell, cqrs_tree_members(relation))
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(cell))))
			CacheInvalidateRelcacheByRelid(lfirst_oid(cell));
}

/*
 * cqrs_source_find returns a source by id, or NULL.
 */
CqrsSource *
cqrs_source_find(int32 id)
{
	CqrsRowScan scan = by_id(id);

	return cqrs_rows_read_one(&scan, read_source);
}

/*
 * cqrs_source_get returns a source by id.
 */
CqrsSource *
cqrs_source_get(int32 id)
{
	CqrsSource *source = cqrs_source_find(id);

	if (source == NULL)
		elog(ERROR, "source %d does not exist", id);
	return source;
}

/*
 * cqrs_source_of_relation returns the source that a relation is, or NULL.
 */
CqrsSource *
cqrs_source_of_relation(Oid relation)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_SOURCE, .index = "source_relation_key"};

	cqrs_rows_key_oid(&scan, COL_RELATION + 1, relation);
	return cqrs_rows_read_one(&scan, read_source);
}

/*
 * cqrs_source_list returns all sources, by id.
 */
List *
cqrs_source_list(void)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_SOURCE, .index = "source_pkey"};

	return cqrs_rows_read(&scan, read_source);
}

/*
 * cqrs_source_insert registers a relation as a source, not attached yet, unless another session has just done so.
 */
CqrsSource *
cqrs_source_insert(Oid relation)
{
	CqrsSource *source;
	Datum		values[COL_COUNT];
	bool		nulls[COL_COUNT];

	(void) cqrs_source_lock(relation, false);
	source = cqrs_source_of_relation(relation);
	if (source != NULL)
		return source;
	source = palloc0(sizeof(CqrsSource));
	source->id = cqrs_registry_next_id();
	source->relation = relation;
	form_source(source, values, nulls);
	cqrs_rows_insert(CQRS_CAT_SOURCE, values, nulls);
	invalidate(relation);
	return source;
}

/*
 * cqrs_source_update replaces a source's row.
 */
void
cqrs_source_update(const CqrsSource *source)
{
	CqrsRowScan scan = by_id(source->id);
	Datum		values[COL_COUNT];
	bool		nulls[COL_COUNT];

	form_source(source, values, nulls);
	cqrs_rows_update(&scan, values, nulls);
	invalidate(source->relation);
}

/*
 * cqrs_source_delete removes a source's row.  Its shapes stay: chunks that name them may be retained.
 */
void
cqrs_source_delete(int32 id)
{
	CqrsRowScan scan = by_id(id);
	CqrsSource *source = cqrs_source_get(id);

	(void) cqrs_rows_delete(&scan);
	invalidate(source->relation);
}

/*
 * cqrs_source_of_trigger returns the id of the source whose changes a trigger captures, which is the trigger's one argument; 0 if it is not ours.
 *
 * Whatever its name: that can be altered.
 */
int32
cqrs_source_of_trigger(const Trigger *trigger)
{
	if (trigger->tgfoid != cqrs_registry_capture_function() || trigger->tgnargs != 1)
		return 0;
	return pg_strtoint32(trigger->tgargs[0]);
}

/*
 * changes_more tells whether a table has a trigger that may change other columns of a row than an UPDATE names: enabled or not, it may be both in turn.
 */
static bool
changes_more(Relation table)
{
	for (int i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
	{
		int16		type = table->trigdesc->triggers[i].tgtype;

		if (TRIGGER_FOR_ROW(type) && TRIGGER_FOR_BEFORE(type) && TRIGGER_FOR_UPDATE(type))
			return true;
	}
	return false;
}

/*
 * cqrs_source_fires_for finds the columns of a table of the source's tree for which an UPDATE has to fire its trigger; false if each UPDATE has to.
 *
 * Tables of one tree may have their columns in different orders; they are the same by name.
 */
bool
cqrs_source_fires_for(const CqrsSource *source, Relation table, Bitmapset **columns)
{
	Bitmapset  *concerned = bms_union(source->watched, source->imaged);
	int			number = -1;

	*columns = NULL;
	if (source->captured || changes_more(table))
		return false;
	while ((number = bms_next_member(concerned, number)) >= 0)
	{
		char	   *name = get_attname(source->relation, number, true);
		AttrNumber	found = name ? get_attnum(RelationGetRelid(table), name) : InvalidAttrNumber;

		if (found > 0)
			*columns = bms_add_member(*columns, found);
	}
	return true;
}

/*
 * fires tells whether a trigger fires for each UPDATE that concerns its source.
 */
static bool
fires(const Trigger *trigger, Relation table, const CqrsSource *source)
{
	Bitmapset  *columns;

	if (trigger->tgnattr == 0)
		return true;
	if (!cqrs_source_fires_for(source, table, &columns))
		return false;
	for (int i = 0; i < trigger->tgnattr; i++)
		columns = bms_del_member(columns, trigger->tgattr[i]);
	return bms_is_empty(columns);
}

/*
 * is_intact tells whether a table's capture triggers for a source are there and fire always: one for rows, one for TRUNCATE.
 *
 * A superuser can disable them, and a restore with triggers disabled resets them; changes made meanwhile are in no outbox.  Nor are those that another trigger
 * made, which came while the event trigger that looks for such ones was disabled.
 */
static bool
is_intact(Oid table, const CqrsSource *source)
{
	Relation	rel = try_table_open(table, AccessShareLock);
	TriggerDesc *triggers;
	bool		rows = false;
	bool		truncates = false;

	if (rel == NULL)
		return true;			/* gone, with its rows */
	triggers = CopyTriggerDesc(rel->trigdesc);	/* the original may be replaced while catalogs are read */
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (trigger->tgenabled != TRIGGER_FIRES_ALWAYS || cqrs_source_of_trigger(trigger) != source->id)
			continue;
		rows |= TRIGGER_FOR_ROW(trigger->tgtype) && fires(trigger, rel, source);
		truncates |= TRIGGER_FOR_TRUNCATE(trigger->tgtype);
	}
	FreeTriggerDesc(triggers);
	table_close(rel, AccessShareLock);
	return rows && truncates;
}

/*
 * note_change counts that something has changed which relations' cache entries tell.
 */
static void
note_change(Datum arg, Oid relation)
{
	changes_noted++;
}

/*
 * found_intact returns where it is noted when a source was last found intact; 0 if it was not.
 */
static uint64 *
found_intact(const CqrsSource *source)
{
	int64		key = (int64) source->id * 2 + source->captured;
	FoundIntact *entry;
	bool		found;

	if (intact_sources == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(int64),.entrysize = sizeof(FoundIntact),.hcxt = CacheMemoryContext};

		intact_sources = hash_create("cqrs intact sources", 32, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		CacheRegisterRelcacheCallback(note_change, (Datum) 0);
	}
	entry = hash_search(intact_sources, &key, HASH_ENTER, &found);
	if (!found)
		entry->at = 0;
	return &entry->at;
}

/*
 * cqrs_source_intact tells whether every table of a source's tree has its triggers.
 *
 * Found once, that holds until any relation changes: a tree may have thousands of tables, and every batch asks.
 */
bool
cqrs_source_intact(const CqrsSource *source)
{
	uint64	   *found = found_intact(source);
	uint64		at;
	ListCell   *cell;

	AcceptInvalidationMessages();
	at = changes_noted;
	if (*found == at)
		return true;
	foreach(cell, cqrs_tree_tables(source->relation))
		if (!is_intact(lfirst_oid(cell), source))
			return false;
	*found = at;
	return true;
}

/*
 * cqrs_source_covers tells whether a source is captured well enough for who needs these columns.
 */
bool
cqrs_source_covers(const CqrsSource *source, const Bitmapset *watched, const Bitmapset *imaged)
{
	if (source == NULL || !source->attached)
		return false;
	if (!source->captured && !(bms_is_subset(watched, source->watched) && bms_is_subset(imaged, source->imaged)))
		return false;
	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(source->relation)) && cqrs_source_intact(source);
}

/*
 * unlock_tree gives back the locks on the first 'count' of a tree's relations.
 */
static void
unlock_tree(List *members, int count)
{
	for (int i = 0; i < count; i++)
		UnlockRelationOid(list_nth_oid(members, i), AccessShareLock);
}

/*
 * lock_tree locks all of a tree's relations if it can do so at once; else none.
 */
static bool
lock_tree(List *members)
{
	ListCell   *cell;

	foreach(cell, members)
	{
		if (ConditionalLockRelationOid(lfirst_oid(cell), AccessShareLock))
			continue;
		unlock_tree(members, foreach_current_index(cell));
		return false;
	}
	return true;
}

/*
 * cqrs_version_covered tells whether all sources of a version are captured as it needs.
 *
 * Who waits for a table must not wait for locks on it: where somebody holds one that keeps us from looking, it is taken to be captured.
 */
bool
cqrs_version_covered(int32 version)
{
	bool		covered = true;
	ListCell   *cell;

	foreach(cell, cqrs_version_source_list(version))
	{
		CqrsVersionSource *needs = lfirst(cell);
		CqrsSource *source = cqrs_source_find(needs->source);
		List	   *members;

		if (source == NULL)
			return false;
		members = cqrs_tree_members(source->relation);
		if (!lock_tree(members))
			continue;
		covered = covered && cqrs_source_covers(source, needs->watched, needs->imaged);
		unlock_tree(members, list_length(members));
	}
	return covered;
}
