/*
 * base/call.c
 *		Functions of users that take one jsonb and return another.
 *
 * Leaves to callers whose identity they run under, and who may have them run.  Results are in CurrentMemoryContext.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/call.h"
#include "base/compat.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

/*
 * cqrs_call_fits tells whether a function takes one jsonb and returns one.
 */
bool
cqrs_call_fits(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	bool		fits;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_proc) GETSTRUCT(tuple);
	fits = form->prokind == PROKIND_FUNCTION && !form->proretset && form->prorettype == JSONBOID && form->pronargs == 1 &&
		form->proargtypes.values[0] == JSONBOID;
	ReleaseSysCache(tuple);
	return fits;
}

/*
 * cqrs_call_check refuses a function of another kind.
 */
void
cqrs_call_check(Oid function, const char *argument)
{
	if (cqrs_call_fits(function))
		return;
	if (!SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(function)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
			 errmsg("%s cannot be used as %s", format_procedure(function), argument),
			 errdetail("It is not a function that takes one jsonb and returns jsonb."),
			 errhint("Name one as 'schema.function(jsonb)'.")));
}

/*
 * cqrs_call_check_owner refuses another's function.
 */
void
cqrs_call_check_owner(Oid function)
{
	if (!cqrs_compat_owns_function(function, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_FUNCTION, get_func_name(function));
}

/*
 * cqrs_call calls a function as the executor would, and counts it in its statistics.
 */
Jsonb *
cqrs_call(FmgrInfo *function, Jsonb *argument)
{
	LOCAL_FCINFO(call, 1);
	PgStat_FunctionCallUsage usage;
	Datum		result;

	InitFunctionCallInfoData(*call, function, 1, InvalidOid, NULL, NULL);
	call->args[0].value = JsonbPGetDatum(argument);
	call->args[0].isnull = false;
	pgstat_init_function_usage(call, &usage);
	result = FunctionCallInvoke(call);
	pgstat_end_function_usage(&usage, true);
	return call->isnull ? NULL : DatumGetJsonbP(result);
}
