/*
 * capture/triggers.c
 *		The triggers of sources: made, found, dropped.
 *
 * A source has a pair on every table of its tree that holds rows: one for rows, one for TRUNCATE.  They are made on each table, and not cloned from a
 * partitioned one by the server, so that a table which is in two sources' trees has two pairs.  A trigger's one argument is its source's id; its name
 * says so too, for people.
 *
 * Leaves to attach.c and ddl.c when.  Whoever makes or drops has locked the table; the work is done under the identity in force.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "base/compat.h"
#include "capture/parts.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "registry/registry.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* The two triggers of a source. */
static const struct
{
	const char *prefix;			/* of its name; the source's id follows */
	int16		row;			/* TRIGGER_TYPE_ROW, or 0 for a statement's */
	int16		events;
}			pair[] = {
	{"cqrs_capture_", TRIGGER_TYPE_ROW, TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE},
	{"cqrs_capture_truncate_", 0, TRIGGER_TYPE_TRUNCATE},
};

/*
 * find_trigger returns the trigger of a source, or NULL; a copy, since the relation's own may be replaced whenever catalogs are read.
 */
static Trigger *
find_trigger(Relation rel, int which, int32 source)
{
	TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if ((trigger->tgtype & TRIGGER_TYPE_ROW) == pair[which].row && cqrs_source_of_trigger(trigger) == source)
			return trigger;
	}
	return NULL;
}

/*
 * create_trigger makes one of a source's triggers, firing also for changes that replication applies.
 */
static void
create_trigger(Oid table, int which, int32 source)
{
	CreateTrigStmt *statement = makeNode(CreateTrigStmt);

	statement->trigname = psprintf("%s%d", pair[which].prefix, source);
	statement->funcname = list_make2(makeString("cqrs_internal"), makeString("capture"));
	statement->args = list_make1(makeString(psprintf("%d", source)));
	statement->row = pair[which].row != 0;
	statement->timing = TRIGGER_TYPE_AFTER;
	statement->events = pair[which].events;
	(void) CreateTriggerFiringOn(statement, NULL, table, InvalidOid, InvalidOid, InvalidOid,
								 cqrs_registry_capture_function(), InvalidOid, NULL, false, false, TRIGGER_FIRES_ALWAYS);
}

/*
 * set_columns has a trigger fire for updates that name one of these columns; for all, if there are none.
 *
 * Without the dependencies on them that CREATE TRIGGER would record: columns may be dropped or get another type, as far as those who read them allow it.
 */
static void
set_columns(Relation rel, Oid trigger, const Bitmapset *columns)
{
	Relation	catalog = table_open(TriggerRelationId, RowExclusiveLock);
	Datum		values[Natts_pg_trigger] = {0};
	bool		nulls[Natts_pg_trigger] = {false};
	bool		replaced[Natts_pg_trigger] = {false};
	int16	   *numbers = palloc(sizeof(int16) * (bms_num_members(columns) + 1));
	int			count = 0;
	int			number = -1;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	while ((number = bms_next_member(columns, number)) >= 0)
		numbers[count++] = number;
	values[Anum_pg_trigger_tgattr - 1] = PointerGetDatum(buildint2vector(numbers, count));
	replaced[Anum_pg_trigger_tgattr - 1] = true;
	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
	scan = systable_beginscan(catalog, TriggerOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "could not find tuple for trigger %u", trigger);
	tuple = heap_modify_tuple(tuple, RelationGetDescr(catalog), values, nulls, replaced);
	CatalogTupleUpdate(catalog, &tuple->t_self, tuple);
	systable_endscan(scan);
	table_close(catalog, RowExclusiveLock);
	(void) deleteDependencyRecordsForClass(TriggerRelationId, trigger, RelationRelationId, DEPENDENCY_NORMAL);
	CacheInvalidateRelcache(rel);
}

/*
 * fit_trigger has the trigger for rows fire for the updates that concern its source, and for no others.
 *
 * That is up to the server, which then neither keeps such an update in mind nor fetches its rows again.  To have it fire for more takes a lock that keeps
 * writers out, since one in flight might not know; without that lock it stays, and cqrs_source_intact tells.
 */
static void
fit_trigger(Relation rel, const CqrsSource *source)
{
	Trigger    *trigger = find_trigger(rel, 0, source->id);
	Bitmapset  *present = NULL;
	Bitmapset  *columns;
	Oid			oid;

	if (trigger == NULL)
		return;
	oid = trigger->tgoid;
	for (int i = 0; i < trigger->tgnattr; i++)
		present = bms_add_member(present, trigger->tgattr[i]);
	(void) cqrs_source_fires_for(source, rel, &columns);
	if (bms_equal(present, columns))
		return;
	if ((columns != NULL && (present == NULL || bms_is_subset(columns, present))) ||
		CheckRelationLockedByMe(rel, ShareRowExclusiveLock, true))
		set_columns(rel, oid, columns);
}

/*
 * cqrs_capture_make_triggers has a source's triggers be on a table, fire always, and fit what is captured of it.
 *
 * Errors: 42710, by the server, if the table has another trigger of the name.
 */
void
cqrs_capture_make_triggers(Oid table, const CqrsSource *source)
{
	Relation	rel = table_open(table, ShareRowExclusiveLock);

	for (int i = 0; i < lengthof(pair); i++)
	{
		Trigger    *trigger = find_trigger(rel, i, source->id);

		if (trigger == NULL)
			create_trigger(table, i, source->id);
		else if (trigger->tgenabled != TRIGGER_FIRES_ALWAYS)
			cqrs_compat_enable_trigger(rel, trigger->tgname, TRIGGER_FIRES_ALWAYS, ShareRowExclusiveLock);
	}
	CommandCounterIncrement();
	fit_trigger(rel, source);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/*
 * cqrs_capture_fit_triggers has all of a table's triggers of ours fit what is captured of it, after DDL on it.
 *
 * A table that another session holds is none that this command has changed.
 */
void
cqrs_capture_fit_triggers(Oid table)
{
	Relation	rel;
	TriggerDesc *triggers;
	List	   *sources = NIL;
	ListCell   *cell;

	if (!ConditionalLockRelationOid(table, AccessShareLock))
		return;
	rel = table_open(table, NoLock);
	triggers = CopyTriggerDesc(rel->trigdesc);
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (TRIGGER_FOR_ROW(triggers->triggers[i].tgtype))
			sources = lappend_int(sources, cqrs_source_of_trigger(&triggers->triggers[i]));
	foreach(cell, sources)
	{
		CqrsSource *source = lfirst_int(cell) ? cqrs_source_find(lfirst_int(cell)) : NULL;

		if (source == NULL)
			continue;
		fit_trigger(rel, source);
		CommandCounterIncrement();
	}
	table_close(rel, AccessShareLock);
}

/*
 * in_use tells whether this session itself is at work on the table, so that its triggers cannot be dropped now.
 */
static bool
in_use(Relation rel)
{
	return rel->rd_refcnt > 1 || AfterTriggerPendingOnRel(RelationGetRelid(rel));
}

/*
 * cqrs_capture_drop_triggers drops a source's triggers from a table, which takes ACCESS EXCLUSIVE; false if this session is at work on it.
 */
bool
cqrs_capture_drop_triggers(Oid table, int32 source)
{
	Relation	rel = try_table_open(table, AccessExclusiveLock);
	ObjectAddresses *objects;
	bool		busy;

	if (rel == NULL)
		return true;
	objects = new_object_addresses();
	busy = in_use(rel);
	for (int i = 0; i < lengthof(pair); i++)
	{
		Trigger    *trigger = find_trigger(rel, i, source);
		ObjectAddress address;

		if (trigger == NULL)
			continue;
		ObjectAddressSet(address, TriggerRelationId, trigger->tgoid);
		add_exact_object_address(&address, objects);
	}
	table_close(rel, NoLock);
	if (!busy)
		performMultipleDeletions(objects, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	free_object_addresses(objects);
	return !busy;
}

/*
 * read_argument returns the source that a trigger's row says it is for, or 0.
 */
static int32
read_argument(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		arguments = heap_getattr(tuple, Anum_pg_trigger_tgargs, desc, &isnull);

	if (isnull || ((Form_pg_trigger) GETSTRUCT(tuple))->tgnargs != 1)
		return 0;
	return pg_strtoint32(VARDATA_ANY(DatumGetByteaPP(arguments)));
}

/*
 * cqrs_capture_read_trigger reads what a trigger is for; false if it is none of ours.
 */
bool
cqrs_capture_read_trigger(Oid trigger, CqrsTriggered *triggered)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	triggered->source = 0;
	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
	scan = systable_beginscan(rel, TriggerOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple) && ((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid == cqrs_registry_capture_function())
	{
		triggered->source = read_argument(tuple, RelationGetDescr(rel));
		triggered->table = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
		triggered->name = pstrdup(NameStr(((Form_pg_trigger) GETSTRUCT(tuple))->tgname));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return triggered->source != 0;
}

/*
 * cqrs_capture_source_named returns the source that a name of a trigger of ours tells, or 0.
 */
int32
cqrs_capture_source_named(const char *name)
{
	int32		source = 0;

	for (int i = 0; i < lengthof(pair); i++)
		if (strncmp(name, pair[i].prefix, strlen(pair[i].prefix)) == 0)
			source = atoi(name + strlen(pair[i].prefix));
	return source;
}

/*
 * dependents lists the OIDs of triggers that call a function.
 */
static List *
dependents(Oid function)
{
	Relation	rel = table_open(DependRelationId, AccessShareLock);
	List	   *found = NIL;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(ProcedureRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(function));
	scan = systable_beginscan(rel, DependReferenceIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (((Form_pg_depend) GETSTRUCT(tuple))->classid == TriggerRelationId)
			found = lappend_oid(found, ((Form_pg_depend) GETSTRUCT(tuple))->objid);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * cqrs_capture_list_triggers lists all triggers of ours, without locking their tables: List of CqrsTriggered *.
 */
List *
cqrs_capture_list_triggers(void)
{
	List	   *found = NIL;
	ListCell   *cell;

	foreach(cell, dependents(cqrs_registry_capture_function()))
	{
		CqrsTriggered *triggered = palloc(sizeof(CqrsTriggered));

		if (cqrs_capture_read_trigger(lfirst_oid(cell), triggered))
			found = lappend(found, triggered);
	}
	return found;
}
