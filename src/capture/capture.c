/*
 * capture/capture.c
 *		cqrs.capture and cqrs.uncapture: whole rows of a table for event handlers and outside consumers.
 *
 * Checks arguments and rights, sets what the source's row says, and leaves triggers to attach.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/compat.h"
#include "base/names.h"
#include "base/spi.h"
#include "capture/capture.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "shared/shared.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

/*
 * check_right refuses a user who may not have triggers on the table.
 */
static void
check_right(Oid relation)
{
	if (cqrs_compat_owns_relation(relation, GetUserId()) ||
		pg_class_aclcheck(relation, GetUserId(), ACL_TRIGGER) == ACLCHECK_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to capture changes of table \"%s\"", cqrs_name_shown(relation)),
			 errdetail("Capturing needs the TRIGGER privilege on the table."),
			 errhint("Ask the owner of the table to GRANT TRIGGER on it.")));
}

/*
 * source_argument checks what the user gave as a source, and where the command runs.
 */
static Oid
source_argument(FunctionCallInfo fcinfo, const char *command)
{
	Oid			relation;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("source must not be null"),
				 errhint("Name the table whose changes are meant.")));
	relation = PG_GETARG_OID(0);
	PreventCommandIfReadOnly(command);
	PreventCommandIfParallelMode(command);
	if (get_rel_name(relation) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relation)));
	return relation;
}

PG_FUNCTION_INFO_V1(cqrs_capture);

/*
 * cqrs.capture(source regclass) RETURNS void
 *
 * Captures whole rows of the table from now on, whether or not a projection reads it; again, if its triggers were disabled or dropped.
 *
 * Errors: 42501 without ownership or TRIGGER privilege, 42710 if it is captured already, 55P03 if writers keep the table locked longer than
 * cqrs.lock_timeout, and those of cqrs_capture_check.
 */
Datum
cqrs_capture(PG_FUNCTION_ARGS)
{
	Oid			relation = source_argument(fcinfo, "cqrs.capture()");
	CqrsSource *source;

	cqrs_capture_check(relation);
	check_right(relation);
	source = cqrs_source_insert(relation);
	if (source->captured && source->attached && cqrs_source_intact(source))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("changes of \"%s\" are captured already", cqrs_name_shown(relation))));
	source->captured = true;
	cqrs_source_update(source);
	(void) cqrs_capture_attach(list_make1_int(source->id));
	PG_RETURN_VOID();
}

/*
 * check_unhandled refuses to let go of whole rows that handlers take.
 */
static void
check_unhandled(const CqrsSource *source)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_source_list(0))
	{
		CqrsVersionSource *reads = lfirst(cell);
		CqrsVersion *version = reads->source == source->id ? cqrs_version_get(reads->version, true) : NULL;

		if (version != NULL && version->state != CQRS_STATE_RETIRED && cqrs_version_is_events(version))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("changes of \"%s\" are handled by projection \"%s\"", cqrs_name_shown(source->relation),
							cqrs_name_shown(cqrs_projection_get(version->projection, false)->view)),
					 errdetail("Its version %d sees whole rows.", version->number),
					 errhint("Drop the projection first, or retire the version.")));
	}
}

PG_FUNCTION_INFO_V1(cqrs_uncapture);

/*
 * cqrs.uncapture(source regclass) RETURNS void
 *
 * Undoes cqrs.capture.  A table that a projection reads goes on being captured for it.
 *
 * Errors: 42501 without ownership or TRIGGER privilege, 42704 if cqrs.capture was not called for it, 55006 if handlers take its changes.
 */
Datum
cqrs_uncapture(PG_FUNCTION_ARGS)
{
	Oid			relation = source_argument(fcinfo, "cqrs.uncapture()");
	CqrsSource *source;

	check_right(relation);
	(void) cqrs_source_lock(relation, false);
	source = cqrs_source_of_relation(relation);
	if (source == NULL || !source->captured)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("changes of \"%s\" are not captured by cqrs.capture", cqrs_name_shown(relation)),
				 source == NULL || !source->attached ? 0 :
				 errhint("It is captured for projections that read it, as long as they do.")));
	check_unhandled(source);
	source->captured = false;
	cqrs_source_update(source);
	cqrs_capture_release();
	cqrs_shared_wake_at_commit();
	PG_RETURN_VOID();
}
