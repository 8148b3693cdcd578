/*
 * command/commands.c
 *		cqrs.create_command and cqrs.drop_command: which commands there are, and the function that handles each.
 *
 * A command is its handler's owner's.  Its name is the whole database's, and those who execute it run the handler as themselves: so who makes one needs
 * CREATE on the database, as for a schema.  Dropping a handler leaves a command that says so.
 */
#include "postgres.h"

#include "base/arguments.h"
#include "base/call.h"
#include "base/compat.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_database.h"
#include "catalog/pg_proc.h"
#include "command/command.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

enum
{
	ARG_NAME, ARG_HANDLER
};

/*
 * lock_commands keeps other sessions from making and dropping commands to the end of the transaction; executing them goes on.
 */
static void
lock_commands(void)
{
	LockRelationOid(cqrs_registry_relation(CQRS_CAT_COMMAND), ShareRowExclusiveLock);
}

PG_FUNCTION_INFO_V1(cqrs_create_command);

/*
 * cqrs.create_command(name text, handler regprocedure) RETURNS void
 *
 * Names a command, and the function(jsonb) RETURNS jsonb that handles it.
 *
 * Errors: 42501 the handler is another's, or no CREATE on the database; 42710 there is such a command; 42P13 a function of another kind, 42883 none; 22004
 * null, 22023 empty, 22001 too long.
 */
Datum
cqrs_create_command(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(cqrs_arguments_key(fcinfo, ARG_NAME, "name"));
	Oid			handler;
	Oid			there;

	if (PG_ARGISNULL(ARG_HANDLER))
		cqrs_arguments_refuse_null("handler");
	handler = PG_GETARG_OID(ARG_HANDLER);
	cqrs_call_check(handler, "handler");
	cqrs_call_check_owner(handler);
	if (!cqrs_compat_may_create(MyDatabaseId, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_DATABASE, get_database_name(MyDatabaseId));
	lock_commands();
	there = cqrs_command_handler(name);
	if (OidIsValid(there))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("command \"%s\" already exists", name),
				 SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(there)) ?
				 errdetail("It is handled by %s.", format_procedure(there)) : errdetail("Its handler is gone."),
				 errhint("Drop it with cqrs.drop_command, or replace its handler with CREATE OR REPLACE FUNCTION.")));
	cqrs_command_insert(name, handler);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_drop_command);

/*
 * cqrs.drop_command(name text) RETURNS void
 *
 * Forgets a command.  One whose handler is gone is the database's owner's.
 *
 * Errors: 42704 there is no such command; 42501 it is another's; 22004 null, 22023 empty, 22001 too long.
 */
Datum
cqrs_drop_command(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(cqrs_arguments_key(fcinfo, ARG_NAME, "name"));
	Oid			handler;

	lock_commands();
	handler = cqrs_command_handler(name);
	if (!OidIsValid(handler))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("command \"%s\" does not exist", name)));
	if (SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(handler)))
		cqrs_call_check_owner(handler);
	else if (!cqrs_compat_owns_database(MyDatabaseId, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_DATABASE, get_database_name(MyDatabaseId));
	(void) cqrs_command_delete(name);
	PG_RETURN_VOID();
}
