/*
 * capture/ddl.c
 *		Following what DDL does to sources: tables that join or leave their trees, and triggers of ours that are touched.
 *
 * Event triggers, and not hooks, so that they also stand in sessions into which the library has not been loaded.  A table that joins a tree gets its
 * triggers in the same command, so that rows written next in the same transaction are captured.  What changes contents without changing rows puts an
 * alter record into the outbox, in the DDL's own transaction: the window that sees that transaction, no other, is evaluated anew.  No version's row is
 * touched, so no DDL ever waits for an applier.
 *
 * Runs as whoever runs the DDL, with the DDL's locks held.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "base/compat.h"
#include "base/names.h"
#include "base/spi.h"
#include "capture/parts.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "outbox/outbox.h"
#include "plan/plan.h"
#include "storage/bufmgr.h"
#include "tcop/deparse_utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#define JOINED_OR_LEFT	"A table joined or left it, with all its rows."
#define RESHAPED		"They read whole rows of it, whose columns have other names or types now."

PG_FUNCTION_INFO_V1(cqrs_follow_detach);
PG_FUNCTION_INFO_V1(cqrs_follow_tables);
PG_FUNCTION_INFO_V1(cqrs_follow_drop);

/* A trigger that was dropped. */
typedef struct Dropped
{
	char	   *name;
	char	   *schema;			/* of its table */
	char	   *table;
} Dropped;

/*
 * cqrs_capture_follows raises unless a function was called by an event trigger; false if there is nothing to follow yet.
 *
 * Errors: 39P01.
 */
bool
cqrs_capture_follows(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by event trigger manager", get_func_name(fcinfo->flinfo->fn_oid))));
	return cqrs_registry_exists();
}

/* ---- telling ---- */

/*
 * readers_of lists the projections that read a source, for a message; NULL if there are none.
 */
static char *
readers_of(const CqrsSource *source)
{
	List	   *views = NIL;
	StringInfoData names;
	ListCell   *cell;

	foreach(cell, cqrs_version_source_list(0))
	{
		CqrsVersionSource *reads = lfirst(cell);
		CqrsVersion *version = reads->source == source->id ? cqrs_version_get(reads->version, true) : NULL;

		if (version != NULL && version->state != CQRS_STATE_RETIRED)
			views = list_append_unique_oid(views, cqrs_projection_get(version->projection, false)->view);
	}
	if (views == NIL)
		return NULL;
	initStringInfo(&names);
	foreach(cell, views)
		appendStringInfo(&names, "%s%s", foreach_current_index(cell) ? ", " : "", cqrs_name_shown(lfirst_oid(cell)));
	return names.data;
}

/*
 * cqrs_capture_append_alter notes in the outbox that what a source holds has changed without changes of rows.
 *
 * A source without a shape was never captured, and nobody has read it yet.
 */
void
cqrs_capture_append_alter(const CqrsSource *source)
{
	CqrsShape  *shape = cqrs_shape_latest(source->id);

	if (shape != NULL)
		cqrs_outbox_append_mark(CQRS_CHANGE_ALTER, source->id, shape->id);
}

/*
 * tell_altered notes that a source's contents have changed, and says so; 'how' says by what.
 */
static void
tell_altered(const CqrsSource *source, const char *how)
{
	char	   *readers = readers_of(source);

	cqrs_capture_append_alter(source);
	if (readers != NULL)
		ereport(NOTICE,
				(errmsg("projections that read \"%s\" will be evaluated anew: %s", cqrs_name_shown(source->relation), readers),
				 errdetail("%s", how)));
}

/*
 * tell_unfit has the projections that read a source notice that it cannot be captured as it is, and says so.
 */
static void
tell_unfit(const CqrsSource *source)
{
	char	   *readers = readers_of(source);

	cqrs_capture_append_alter(source);
	if (readers != NULL)
		ereport(NOTICE,
				(errmsg("projections that read \"%s\" will fail until that is taken back: %s", cqrs_name_shown(source->relation),
						readers)));
}

/*
 * remedy makes the hint how a source whose triggers do not fire is captured again; 'statement' restores one that is still there.
 */
static char *
remedy(const char *statement, bool read)
{
	if (statement == NULL)
		return read ? "A worker, or cqrs.drain, makes it again." : "Call cqrs.capture again.";
	return psprintf(read ? "Use %s. A worker, or cqrs.drain, does so too." : "Use %s, or call cqrs.capture again.", statement);
}

/*
 * tell_unguarded notes that changes of one table of a source may go unseen from now on, and says so; 'statement' as for remedy.
 */
static void
tell_unguarded(const CqrsSource *source, Oid table, const char *statement)
{
	char	   *readers = readers_of(source);

	cqrs_capture_append_alter(source);
	ereport(WARNING,
			(errmsg("changes of \"%s\" are no longer captured", cqrs_name_shown(table)),
			 readers == NULL ? errdetail("A capture trigger on it was disabled or dropped.") :
			 errdetail("A capture trigger on it was disabled or dropped. Until it is restored, every batch of these projections is a full evaluation: %s.",
					   readers),
			 errhint("%s", remedy(statement, readers != NULL))));
}

/* ---- tables that join and leave ---- */

/*
 * attached_among lists those of the relations that are sources whose changes are captured: List of CqrsSource *.
 */
static List *
attached_among(List *relations)
{
	List	   *sources = NIL;
	ListCell   *cell;

	foreach(cell, relations)
	{
		CqrsSource *source = cqrs_source_of_relation(lfirst_oid(cell));

		if (source != NULL && source->attached)
			sources = lappend(sources, source);
	}
	return sources;
}

/*
 * above lists a relation and those in whose trees it is.
 */
static List *
above(Oid relation)
{
	return lappend_oid(cqrs_tree_ancestors(relation), relation);
}

/*
 * is_empty tells whether a relation has no rows, nor ever had.
 */
static bool
is_empty(Oid relation)
{
	Relation	rel;
	bool		result;

	if (get_rel_relkind(relation) == RELKIND_PARTITIONED_TABLE)
		return true;
	if (get_rel_relkind(relation) != RELKIND_RELATION)
		return false;
	rel = table_open(relation, AccessShareLock);
	result = RelationGetNumberOfBlocks(rel) == 0;
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * all_empty tells whether a tree has no rows.
 */
static bool
all_empty(Oid relation)
{
	ListCell   *cell;

	foreach(cell, cqrs_tree_members(relation))
		if (!is_empty(lfirst_oid(cell)))
			return false;
	return true;
}

/*
 * place_triggers gives a source's triggers to the tables of a tree that has joined its own, and takes them from those of one that has left.
 *
 * A table that this session is at work on keeps them for a while: their plan is empty.
 */
static void
place_triggers(const CqrsSource *source, Oid tree)
{
	List	   *inside = cqrs_tree_tables(source->relation);
	CqrsIdentity identity;
	ListCell   *cell;

	cqrs_identity_enter_system(&identity);
	foreach(cell, cqrs_tree_tables(tree))
		if (list_member_oid(inside, lfirst_oid(cell)))
			cqrs_capture_make_triggers(lfirst_oid(cell), source);
		else
			(void) cqrs_capture_drop_triggers(lfirst_oid(cell), source->id);
	cqrs_identity_leave(&identity);
}

/*
 * follow has sources follow a tree that has joined theirs, or left.  'told' says that they have been told of the change before.
 */
static void
follow(List *sources, Oid tree, bool told)
{
	bool		empty = sources != NIL && all_empty(tree);
	ListCell   *cell;

	foreach(cell, sources)
	{
		CqrsSource *source = lfirst(cell);

		place_triggers(source, tree);
		if (!cqrs_capture_warn(source->relation))
			tell_unfit(source);
		else if (told)
			cqrs_capture_append_alter(source);
		else if (!empty)
			tell_altered(source, JOINED_OR_LEFT);
	}
}

/* ---- triggers of ours that are touched ---- */

/*
 * restoring makes the statement that has a trigger fire again.
 */
static char *
restoring(Relation rel, const Trigger *trigger)
{
	return psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", cqrs_name_relation(RelationGetRelid(rel)),
					cqrs_name_identifier(trigger->tgname));
}

/*
 * check_armed looks, after triggers of a table were enabled or disabled, whether ours fire still.
 *
 * That one was disabled, and enabled again before anybody looked, shows in the record that is made now.
 */
static void
check_armed(Oid table)
{
	Relation	rel = table_open(table, AccessShareLock);
	TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);
	List	   *told = NIL;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];
		CqrsSource *source = cqrs_source_find(cqrs_source_of_trigger(trigger));

		if (trigger->tgenabled == TRIGGER_FIRES_ALWAYS || source == NULL || !source->attached ||
			list_member_int(told, source->id) || !cqrs_tree_contains(source->relation, table))
			continue;
		tell_unguarded(source, table, restoring(rel, trigger));
		told = lappend_int(told, source->id);
	}
	table_close(rel, AccessShareLock);
}

/*
 * check_name refuses another name for a trigger of ours: when it is dropped, its name is all that tells what it was.
 *
 * Errors: 42809.
 */
static void
check_name(Oid trigger)
{
	CqrsTriggered triggered;

	if (!cqrs_capture_read_trigger(trigger, &triggered) || cqrs_capture_source_named(triggered.name) == triggered.source)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("cannot rename a capture trigger of \"%s\"", cqrs_name_shown(triggered.table)),
			 errdetail("It is made, and dropped, by the extension cqrs.")));
}

/*
 * fit_triggers has the triggers of ours fit a table, and those below it, whose columns or other triggers may have changed.
 */
static void
fit_triggers(Oid relation)
{
	ListCell   *cell;

	foreach(cell, cqrs_tree_tables(relation))
		cqrs_capture_fit_triggers(lfirst_oid(cell));
}

/* ---- columns that are read as part of whole rows ---- */

/*
 * rows_are_read tells whether a query reads whole rows of a source.
 */
static bool
rows_are_read(const CqrsSource *source)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_source_list(0))
	{
		CqrsVersionSource *reads = lfirst(cell);
		CqrsVersion *version = reads->source == source->id ? cqrs_version_get(reads->version, true) : NULL;

		if (version != NULL && version->state != CQRS_STATE_RETIRED && get_rel_relkind(version->definition) == RELKIND_VIEW &&
			cqrs_plan_reads_rows(version->definition, source->relation))
			return true;
	}
	return false;
}

/*
 * follow_columns has what reads whole rows of a table, or of one below it, follow its columns, of which one has gone or got another name or type.
 *
 * Where a query names the column the server sees to that, and refuses what would change the answer.  A column that is added is asked of capture, which has not
 * told of it so far.
 */
static void
follow_columns(Oid table)
{
	ListCell   *cell;

	foreach(cell, attached_among(cqrs_tree_members(table)))
		if (rows_are_read(lfirst(cell)))
			tell_altered(lfirst(cell), RESHAPED);
}

/* ---- ddl_command_end ---- */

/*
 * follow_subcommand follows one part of ALTER TABLE.
 */
static void
follow_subcommand(Oid table, const CollectedATSubcmd *part)
{
	AlterTableCmd *command = castNode(AlterTableCmd, part->parsetree);
	PartitionCmd *partition = (PartitionCmd *) command->def;
	Oid			other = part->address.objectId;

	switch (command->subtype)
	{
		case AT_AttachPartition:
		case AT_DetachPartition:
		case AT_DetachPartitionFinalize:
			other = RangeVarGetRelid(partition->name, NoLock, false);
			follow(attached_among(above(table)), other,
				   partition->concurrent || command->subtype == AT_DetachPartitionFinalize);
			break;
		case AT_AddInherit:
		case AT_DropInherit:
			follow(attached_among(above(other)), table, false);
			break;
		case AT_EnableTrig:
		case AT_EnableAlwaysTrig:
		case AT_EnableReplicaTrig:
		case AT_DisableTrig:
		case AT_EnableTrigAll:
		case AT_DisableTrigAll:
		case AT_EnableTrigUser:
		case AT_DisableTrigUser:
			if (get_rel_namespace(table) == get_rel_namespace(cqrs_registry_relation(CQRS_CAT_VERSION)))
				cqrs_restore_note();	/* of data alone, before it comes */
			check_armed(table);
			break;
		case AT_SetUnLogged:
			follow(attached_among(above(table)), table, false);
			break;
		default:
			break;
	}
}

/*
 * alters_columns tells whether ALTER TABLE takes columns away or gives them other types.
 */
static bool
alters_columns(const List *parts)
{
	ListCell   *cell;

	foreach(cell, parts)
	{
		AlterTableCmd *command = (AlterTableCmd *) ((CollectedATSubcmd *) lfirst(cell))->parsetree;

		if (IsA(command, AlterTableCmd) &&
			(command->subtype == AT_AlterColumnType || cqrs_compat_drops_column(command->subtype)))
			return true;
	}
	return false;
}

/*
 * follow_command follows one command that an event trigger tells of.
 */
static void
follow_command(const CollectedCommand *command)
{
	ListCell   *cell;

	if (command->type == SCT_AlterTable)
	{
		if (get_rel_relkind(command->d.alterTable.objectId) == '\0')
			return;
		foreach(cell, command->d.alterTable.subcmds)
			if (IsA(((CollectedATSubcmd *) lfirst(cell))->parsetree, AlterTableCmd))
				follow_subcommand(command->d.alterTable.objectId, lfirst(cell));
		if (alters_columns(command->d.alterTable.subcmds))
			follow_columns(command->d.alterTable.objectId);
		fit_triggers(command->d.alterTable.objectId);
	}
	else if (command->type == SCT_Simple)
	{
		const ObjectAddress *address = &command->d.simple.address;

		if (IsA(command->parsetree, RenameStmt) && address->classId == TriggerRelationId)
			check_name(address->objectId);
		else if (IsA(command->parsetree, RenameStmt) && ((RenameStmt *) command->parsetree)->renameType == OBJECT_COLUMN)
			follow_columns(address->objectId);
		else if (IsA(command->parsetree, CreateTrigStmt))
			fit_triggers(RangeVarGetRelid(((CreateTrigStmt *) command->parsetree)->relation, NoLock, false));
		else if (IsA(command->parsetree, CreateStmt) || IsA(command->parsetree, CreateForeignTableStmt))
			follow(attached_among(cqrs_tree_ancestors(address->objectId)), address->objectId, false);
	}
}

/*
 * read_command takes a command out of a row that tells of it.
 */
static void *
read_command(uint64 row, MemoryContext caller)
{
	bool		isnull;

	return DatumGetPointer(cqrs_spi_datum(row, 1, &isnull));
}

/*
 * is_alone tells whether a command makes a table that joins no tree, as most do.
 */
static bool
is_alone(Node *command)
{
	return IsA(command, CreateStmt) && ((CreateStmt *) command)->inhRelations == NIL;
}

/*
 * cqrs_internal.follow_tables() RETURNS event_trigger
 *
 * On ddl_command_end of what can have tables join or leave a tree, or touch triggers: keeps sources captured, and has their readers follow.
 */
Datum
cqrs_follow_tables(PG_FUNCTION_ARGS)
{
	ListCell   *cell;

	if (!cqrs_capture_follows(fcinfo) || is_alone(((EventTriggerData *) fcinfo->context)->parsetree))
		PG_RETURN_NULL();
	foreach(cell, cqrs_spi_collect("SELECT c.command FROM pg_catalog.pg_event_trigger_ddl_commands() c "
								   "WHERE c.classid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_trigger'::regclass)",
								   read_command))
		follow_command(lfirst(cell));
	PG_RETURN_NULL();
}

/* ---- ddl_command_start ---- */

/*
 * follow_detaching notes that a partition is about to be detached concurrently: it counts no more once the first of the two transactions commits.
 *
 * From then on its changes are not the tree's.
 */
static void
follow_detaching(Oid table, Oid partition)
{
	ListCell   *cell;

	foreach(cell, attached_among(above(table)))
		tell_altered(lfirst(cell), JOINED_OR_LEFT);
	foreach(cell, cqrs_tree_members(partition))
		CacheInvalidateRelcacheByRelid(lfirst_oid(cell));
}

/*
 * lock_owned locks a table that the current user may alter and returns it; InvalidOid if there is none of that name, or it is somebody else's: then the
 * command is about to be refused.
 */
static Oid
lock_owned(const RangeVar *name)
{
	Oid			table = RangeVarGetRelid(name, NoLock, true);

	if (!OidIsValid(table) || !cqrs_compat_owns_relation(table, GetUserId()))
		return InvalidOid;
	return RangeVarGetRelid(name, AccessShareLock, true);
}

/*
 * cqrs_internal.follow_detach() RETURNS event_trigger
 *
 * On ddl_command_start of ALTER TABLE: DETACH PARTITION CONCURRENTLY is two transactions, of which the first is that of the command's start.
 */
Datum
cqrs_follow_detach(PG_FUNCTION_ARGS)
{
	AlterTableStmt *statement;
	ListCell   *cell;

	if (!cqrs_capture_follows(fcinfo))
		PG_RETURN_NULL();
	statement = (AlterTableStmt *) ((EventTriggerData *) fcinfo->context)->parsetree;
	if (!IsA(statement, AlterTableStmt))
		PG_RETURN_NULL();
	foreach(cell, statement->cmds)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, cell);
		PartitionCmd *detach = (PartitionCmd *) command->def;
		Oid			table;
		Oid			partition;

		if (command->subtype != AT_DetachPartition || !detach->concurrent)
			continue;
		table = lock_owned(statement->relation);
		partition = OidIsValid(table) ? RangeVarGetRelid(detach->name, AccessShareLock, true) : InvalidOid;
		if (OidIsValid(partition))
			follow_detaching(table, partition);
	}
	PG_RETURN_NULL();
}

/* ---- sql_drop ---- */

/*
 * read_dropped makes a Dropped of a row.
 */
static void *
read_dropped(uint64 row, MemoryContext caller)
{
	Dropped    *dropped = MemoryContextAlloc(caller, sizeof(Dropped));

	dropped->name = cqrs_spi_text(row, 1, caller);
	dropped->schema = cqrs_spi_text(row, 2, caller);
	dropped->table = cqrs_spi_text(row, 3, caller);
	return dropped;
}

/*
 * table_of returns a dropped trigger's table, or InvalidOid if it is gone too.
 */
static Oid
table_of(const Dropped *dropped)
{
	Oid			schema = get_namespace_oid(dropped->schema, true);

	return OidIsValid(schema) ? get_relname_relid(dropped->table, schema) : InvalidOid;
}

/*
 * cqrs_internal.follow_drop() RETURNS event_trigger
 *
 * On sql_drop: a trigger of ours that goes with its table tells that the table leaves its source's tree, and one that goes alone that changes will go
 * unseen.  Of a source that is gone itself there is nothing to tell.
 */
Datum
cqrs_follow_drop(PG_FUNCTION_ARGS)
{
	List	   *told = NIL;
	ListCell   *cell;

	if (!cqrs_capture_follows(fcinfo))
		PG_RETURN_NULL();
	foreach(cell, cqrs_spi_collect("SELECT o.address_names[3], o.address_names[1], o.address_names[2] "
								   "FROM pg_catalog.pg_event_trigger_dropped_objects() o "
								   "WHERE o.classid = 'pg_catalog.pg_trigger'::regclass", read_dropped))
	{
		Dropped    *dropped = lfirst(cell);
		CqrsSource *source = cqrs_source_find(cqrs_capture_source_named(dropped->name));
		Oid			table = table_of(dropped);

		if (source == NULL || !source->attached || get_rel_relkind(source->relation) == '\0' ||
			list_member_int(told, source->id))
			continue;
		if (!OidIsValid(table))
			tell_altered(source, JOINED_OR_LEFT);
		else if (cqrs_tree_contains(source->relation, table))
			tell_unguarded(source, table, NULL);
		else
			continue;
		told = lappend_int(told, source->id);
	}
	PG_RETURN_NULL();
}
