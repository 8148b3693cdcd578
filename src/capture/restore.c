/*
 * capture/restore.c
 *		Letting a restore make triggers that are there already.
 *
 * Where the triggers of a dump are restored apart from its data, a worker may have made them meanwhile, because it found them missing.  What the dump says they
 * are then replaces them.  The session that restores them says so, so that workers wait for the rest.
 *
 * An event trigger, and not a hook, so that it also stands in sessions into which the library has not been loaded.  Runs as whoever restores.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "base/compat.h"
#include "capture/parts.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"

PG_FUNCTION_INFO_V1(cqrs_follow_restore);

/*
 * function_of returns the function of our own that a statement's trigger is to call; InvalidOid if it is another's, or the user may not call it.
 */
static Oid
function_of(const CreateTrigStmt *statement)
{
	Oid			function;

	if (list_length(statement->funcname) != 2 || statement->isconstraint ||
		strcmp(strVal(linitial(statement->funcname)), "cqrs_internal") != 0)
		return InvalidOid;
	function = LookupFuncName(statement->funcname, 0, NULL, true);
	return OidIsValid(function) && cqrs_compat_may_execute(function, GetUserId()) ? function : InvalidOid;
}

/*
 * function_there returns the function that a table's trigger of a name calls; InvalidOid if there is none of that name.
 */
static Oid
function_there(Oid table, const char *name)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	Oid			function = InvalidOid;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(table));
	ScanKeyInit(&keys[1], Anum_pg_trigger_tgname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum(name));
	scan = systable_beginscan(rel, TriggerRelidNameIndexId, true, NULL, 2, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		function = ((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return function;
}

/*
 * is_restores tells whether nobody but a restore makes a trigger by a command: of captured tables none is made so, and the guard of a version's table is made
 * before the version is known.
 */
static bool
is_restores(const CreateTrigStmt *statement, Oid table)
{
	const char *function = strVal(lsecond(statement->funcname));

	return strcmp(function, "capture") == 0 || (strcmp(function, "guard_table") == 0 && cqrs_version_of_table(table) != NULL);
}

/*
 * cqrs_internal.follow_restore() RETURNS event_trigger
 *
 * On ddl_command_start of CREATE TRIGGER: one that calls a function of ours replaces what is there of the same name and calls the same.  Also where there is
 * none yet, for somebody may make it before the command comes to it.
 *
 * Errors: 39P01 if called otherwise.
 */
Datum
cqrs_follow_restore(PG_FUNCTION_ARGS)
{
	CreateTrigStmt *statement;
	Oid			function;
	Oid			there;
	Oid			table;

	if (!cqrs_capture_follows(fcinfo))
		PG_RETURN_NULL();
	statement = (CreateTrigStmt *) ((EventTriggerData *) fcinfo->context)->parsetree;
	if (!IsA(statement, CreateTrigStmt))
		PG_RETURN_NULL();
	function = function_of(statement);
	table = OidIsValid(function) ? RangeVarGetRelid(statement->relation, NoLock, true) : InvalidOid;
	if (!OidIsValid(table))
		PG_RETURN_NULL();
	there = function_there(table, statement->trigname);
	statement->replace = statement->replace || !OidIsValid(there) || there == function;
	if (is_restores(statement, table))
		cqrs_restore_note();
	PG_RETURN_NULL();
}
