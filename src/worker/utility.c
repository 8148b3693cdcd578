/*
 * worker/utility.c
 *		Utility commands that concern workers: those that need a database empty, and those after which the launcher or a worker should look.
 *
 * Says nothing and refuses nothing: the server does.  Runs in the session of the command, before and after it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "registry/registry.h"
#include "shared/shared.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "worker/parts.h"

static ProcessUtility_hook_type previous_hook = NULL;

/*
 * option returns the value of a command's option, or NULL.
 */
static char *
option(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *element = lfirst_node(DefElem, cell);

		if (strcmp(element->defname, name) == 0 && element->arg != NULL)
			return defGetString(element);
	}
	return NULL;
}

/*
 * owns_database tells whether the user may do with a database what needs it empty.
 */
static bool
owns_database(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool		owns;

	if (!HeapTupleIsValid(tuple))
		return false;
	owns = has_privs_of_role(GetUserId(), ((Form_pg_database) GETSTRUCT(tuple))->datdba);
	ReleaseSysCache(tuple);
	return owns;
}

/*
 * hold keeps workers out of a database that a command of its owner needs empty.
 */
static void
hold(const char *name)
{
	Oid			database = name ? get_database_oid(name, true) : InvalidOid;

	if (OidIsValid(database) && owns_database(database))
		cqrs_shared_hold(database);
}

/*
 * template_of returns the name of the database that a new one is made from.
 */
static const char *
template_of(CreatedbStmt *command)
{
	const char *name = option(command->options, "template");

	return name ? name : "template1";
}

/*
 * drops_us tells whether a command drops the extension, and the user may.
 */
static bool
drops_us(DropStmt *command)
{
	ListCell   *cell;

	if (command->removeType != OBJECT_EXTENSION)
		return false;
	foreach(cell, command->objects)
	{
		if (strcmp(strVal(lfirst(cell)), "cqrs") == 0)
			return superuser();
	}
	return false;
}

/*
 * make_room holds the database that a command refuses with others in it, and stops work that DROP EXTENSION would wait for.
 *
 * But for RENAME, the server refuses commands that need a database empty in a transaction block; then nobody need leave.
 */
static void
make_room(Node *command, bool alone)
{
	if (!alone && !IsA(command, RenameStmt) && !IsA(command, DropStmt))
		return;
	switch (nodeTag(command))
	{
		case T_DropdbStmt:
			hold(castNode(DropdbStmt, command)->dbname);
			break;
		case T_CreatedbStmt:
			hold(template_of(castNode(CreatedbStmt, command)));
			break;
		case T_RenameStmt:
			if (castNode(RenameStmt, command)->renameType == OBJECT_DATABASE)
				hold(castNode(RenameStmt, command)->subname);
			break;
		case T_AlterDatabaseStmt:
			if (option(castNode(AlterDatabaseStmt, command)->options, "tablespace"))
				hold(castNode(AlterDatabaseStmt, command)->dbname);
			break;
		case T_DropStmt:
			if (drops_us(castNode(DropStmt, command)))
				cqrs_shared_interrupt_worker(0);
			break;
		default:
			break;
	}
}

/*
 * ask_restart lets a database's worker start anew when settings of ours are changed for it.
 */
static void
ask_restart(AlterDatabaseSetStmt *command)
{
	Oid			database = get_database_oid(command->dbname, true);

	if (OidIsValid(database) &&
		(command->setstmt->kind == VAR_RESET_ALL || pg_strncasecmp(command->setstmt->name, "cqrs.", 5) == 0))
		cqrs_shared_restart_at_commit(database);
}

/*
 * changes_triggers tells whether a command enables or disables triggers.
 */
static bool
changes_triggers(AlterTableStmt *command)
{
	ListCell   *cell;

	foreach(cell, command->cmds)
	{
		AlterTableType type = lfirst_node(AlterTableCmd, cell)->subtype;

		if (type >= AT_EnableTrig && type <= AT_DisableTrigUser)
			return true;
	}
	return false;
}

/*
 * ask tells launcher and workers what to look at once the command has committed.
 */
static void
ask(Node *command)
{
	switch (nodeTag(command))
	{
		case T_CreatedbStmt:
		case T_AlterDatabaseStmt:
			cqrs_shared_look_everywhere_at_commit();
			break;
		case T_AlterDatabaseSetStmt:
			ask_restart(castNode(AlterDatabaseSetStmt, command));
			break;
		case T_AlterTableStmt:
			if (changes_triggers(castNode(AlterTableStmt, command)))
				cqrs_shared_wake_at_commit();
			break;
		case T_DropStmt:
		case T_DropOwnedStmt:
			cqrs_shared_wake_at_commit();
			break;
		default:
			break;
	}
}

/*
 * commits_prepared tells whether a command is COMMIT PREPARED.
 */
static bool
commits_prepared(Node *command)
{
	return IsA(command, TransactionStmt) && castNode(TransactionStmt, command)->kind == TRANS_STMT_COMMIT_PREPARED;
}

/*
 * after_commit_prepared makes up for what a prepared transaction could not ask for: whoever commits it, its changes are there now.
 */
static void
after_commit_prepared(void)
{
	if (!cqrs_registry_exists())
		return;
	cqrs_shared_wake_at_commit();
	cqrs_shared_announce_at_commit();
	if (!cqrs_shared_worker_runs())
		cqrs_shared_look_at_commit();
}

/*
 * watch stands around every utility command.
 *
 * The command's tree may be gone after it has run.
 */
static void
watch(PlannedStmt *statement, const char *text, bool keep_tree, ProcessUtilityContext context, ParamListInfo params,
	  QueryEnvironment *environment, DestReceiver *receiver, QueryCompletion *completion)
{
	bool		prepared = commits_prepared(statement->utilityStmt);

	make_room(statement->utilityStmt, context == PROCESS_UTILITY_TOPLEVEL && !IsTransactionBlock());
	ask(statement->utilityStmt);
	if (previous_hook)
		previous_hook(statement, text, keep_tree, context, params, environment, receiver, completion);
	else
		standard_ProcessUtility(statement, text, keep_tree, context, params, environment, receiver, completion);
	if (prepared)
		after_commit_prepared();
}

/*
 * cqrs_worker_watch_utility installs the hook.
 */
void
cqrs_worker_watch_utility(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = watch;
}
