/*
 * event/types.c
 *		What people say of types of events: what they mean, whose they are, and how old payloads become new.
 *
 * A type need not be described to be emitted.  Upcasters say what every reader finds in a payload, so whoever may not execute these functions may not define
 * them, and a type that somebody has described is its owner's.  Changes are made one at a time.
 */
#include "postgres.h"

#include "base/arguments.h"
#include "base/call.h"
#include "base/compat.h"
#include "catalog/pg_proc.h"
#include "event/event.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

enum
{
	ARG_EVENT_TYPE, ARG_FROM_VERSION, ARG_UPCASTER
};

enum
{
	ARG_DESCRIPTION = 1, ARG_OWNER
};

enum
{
	ARG_PAYLOAD = 1, ARG_METADATA
};

/*
 * check_owner refuses a type that is another's.  A role that is gone owns nothing, so its types are left to superusers.
 */
static void
check_owner(const CqrsEventType *type)
{
	Oid			owner = get_role_oid(NameStr(type->owner), true);

	if (superuser() || (OidIsValid(owner) && has_privs_of_role(GetUserId(), owner)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of event type \"%s\"", type->type),
			 errdetail("Its owner is \"%s\".", NameStr(type->owner)),
			 errhint("Have the owner do it, or a superuser.")));
}

/*
 * own_type returns a type that the current user may change, and makes it known if nobody has described it yet.  No other session changes one until this
 * transaction ends.
 */
static CqrsEventType *
own_type(char *name)
{
	CqrsEventType *type;

	LockRelationOid(cqrs_registry_relation(CQRS_CAT_EVENT_TYPE), ShareRowExclusiveLock);
	type = cqrs_event_type_find(name);
	if (type != NULL)
	{
		check_owner(type);
		return type;
	}
	type = palloc0(sizeof(CqrsEventType));
	type->type = name;
	type->version = 1;
	namestrcpy(&type->owner, GetUserNameFromId(GetUserId(), false));
	cqrs_event_type_insert(type);
	return type;
}

PG_FUNCTION_INFO_V1(cqrs_describe_event_type);

/*
 * cqrs.describe_event_type(event_type text, description text DEFAULT NULL, owner regrole DEFAULT NULL) RETURNS void
 *
 * Says what a type of event means, and whose it is; null leaves as is.  A type nobody has described yet becomes the current user's.
 *
 * Errors: 42501 it is another's, or its new owner is no role that the current user could become; 22004 no type, 22023 an empty one, 22001 too long.
 */
Datum
cqrs_describe_event_type(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(cqrs_arguments_key(fcinfo, ARG_EVENT_TYPE, "event_type"));
	CqrsEventType *type = own_type(name);

	if (!PG_ARGISNULL(ARG_DESCRIPTION))
		type->description = text_to_cstring(PG_GETARG_TEXT_PP(ARG_DESCRIPTION));
	if (!PG_ARGISNULL(ARG_OWNER))
	{
		cqrs_compat_check_role(GetUserId(), PG_GETARG_OID(ARG_OWNER));
		namestrcpy(&type->owner, GetUserNameFromId(PG_GETARG_OID(ARG_OWNER), false));
	}
	cqrs_event_type_update(type);
	PG_RETURN_VOID();
}

/*
 * check_upcaster refuses a function that is no upcaster.  What it makes of an event must not depend on when that is handled.
 */
static void
check_upcaster(Oid function)
{
	cqrs_call_check(function, "upcaster");
	cqrs_call_check_owner(function);
	if (func_volatile(function) != PROVOLATILE_IMMUTABLE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("upcaster %s is not immutable", format_procedure(function)),
				 errdetail("An event that is handled again must have the payload that it had before."),
				 errhint("If the result depends on the argument alone, declare it IMMUTABLE.")));
}

/*
 * version_argument returns the version from which an upcaster leads.
 */
static int32
version_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(ARG_FROM_VERSION))
		cqrs_arguments_refuse_null("from_version");
	return PG_GETARG_INT32(ARG_FROM_VERSION);
}

PG_FUNCTION_INFO_V1(cqrs_create_upcaster);

/*
 * cqrs.create_upcaster(event_type text, from_version integer, upcaster regprocedure) RETURNS integer
 *
 * Has payloads of a schema version reach handlers as the next version, which is then the newest, and is returned.  Upcasters are made from version 1 on
 * without gaps.
 *
 * Errors: 42501 the type or the function is another's; 55000 from_version is not the newest version; 42P13 the function is no immutable one of jsonb;
 * 42883 there is none; 22004 null, 22023 empty, 22001 too long.
 */
Datum
cqrs_create_upcaster(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(cqrs_arguments_key(fcinfo, ARG_EVENT_TYPE, "event_type"));
	CqrsUpcaster upcaster = {.type = name,.from_version = version_argument(fcinfo)};
	CqrsEventType *type;

	if (PG_ARGISNULL(ARG_UPCASTER))
		cqrs_arguments_refuse_null("upcaster");
	upcaster.function = PG_GETARG_OID(ARG_UPCASTER);
	check_upcaster(upcaster.function);
	type = own_type(name);
	if (type->version != upcaster.from_version)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event type \"%s\" cannot have an upcaster from version %d", name, upcaster.from_version),
				 errdetail("Its newest schema version is %d.", type->version),
				 errhint("An upcaster leads from the newest version to a new one; older ones have theirs.")));
	type->version++;
	cqrs_event_type_update(type);
	cqrs_upcaster_insert(&upcaster);
	PG_RETURN_INT32(type->version);
}

PG_FUNCTION_INFO_V1(cqrs_drop_upcaster);

/*
 * cqrs.drop_upcaster(event_type text, from_version integer) RETURNS void
 *
 * Drops the newest upcaster of a type: the version that it led from is the newest again.
 *
 * Errors: 42501 the type is another's; 42704 there is no such upcaster; 2BP01 there is one from a later version; 22004 null, 22023 empty, 22001 too long.
 */
Datum
cqrs_drop_upcaster(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(cqrs_arguments_key(fcinfo, ARG_EVENT_TYPE, "event_type"));
	CqrsUpcaster upcaster = {.type = name,.from_version = version_argument(fcinfo)};
	CqrsEventType *type = own_type(name);

	if (upcaster.from_version < 1 || upcaster.from_version >= type->version)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("event type \"%s\" has no upcaster from version %d", name, upcaster.from_version),
				 errdetail("Its newest schema version is %d.", type->version)));
	if (upcaster.from_version != type->version - 1)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop upcaster of event type \"%s\" from version %d", name, upcaster.from_version),
				 errdetail("Payloads that it makes go through the one from version %d.", upcaster.from_version + 1),
				 errhint("Drop the newest one first, from version %d.", type->version - 1)));
	type->version--;
	cqrs_event_type_update(type);
	cqrs_upcaster_delete(&upcaster);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cqrs_upcast_sql);

/*
 * cqrs.upcast(event_type text, payload jsonb, metadata jsonb DEFAULT '{}') RETURNS jsonb
 *
 * An event's payload as handlers get it: for who follows the outbox, and for who tries an upcaster.
 *
 * Errors: as cqrs_upcast; 22004 null, 22023 empty or no object, 22001 too long.
 */
Datum
cqrs_upcast_sql(PG_FUNCTION_ARGS)
{
	text	   *type = cqrs_arguments_key(fcinfo, ARG_EVENT_TYPE, "event_type");
	Jsonb	   *payload = cqrs_arguments_object(fcinfo, ARG_PAYLOAD, "payload");

	PG_RETURN_JSONB_P(cqrs_upcast(text_to_cstring(type), payload, cqrs_arguments_object(fcinfo, ARG_METADATA, "metadata")));
}
