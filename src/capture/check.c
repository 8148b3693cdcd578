/*
 * capture/check.c
 *		Which relations can be captured, and why not.
 *
 * Looks at the system catalogs only and takes no lock on the relation: whoever attaches it asks again under one.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "base/names.h"
#include "capture/capture.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "registry/registry.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/*
 * refuse raises the error that says why a relation cannot be captured.
 */
static void
refuse(Oid relation, int sqlstate, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("changes of \"%s\" cannot be captured", cqrs_name_shown(relation)),
			 errdetail_internal("%s", detail),
			 hint ? errhint("%s", hint) : 0));
}

/*
 * check_kind refuses what is no plain table.
 */
static void
check_kind(Oid relation, char kind)
{
	switch (kind)
	{
		case RELKIND_RELATION:
			break;
		case RELKIND_PARTITIONED_TABLE:
			refuse(relation, ERRCODE_FEATURE_NOT_SUPPORTED, "It is a partitioned table.",
				   "Partitioned tables are not supported yet.");
			break;
		case RELKIND_FOREIGN_TABLE:
			refuse(relation, ERRCODE_FEATURE_NOT_SUPPORTED,
				   "It is a foreign table: what other sessions of its server change fires no trigger here.",
				   "Replicate it into a table of this database.");
			break;
		case RELKIND_MATVIEW:
			refuse(relation, ERRCODE_FEATURE_NOT_SUPPORTED, "It is a materialized view: REFRESH fires no trigger.",
				   "Use the tables that it reads.");
			break;
		case RELKIND_VIEW:
			refuse(relation, ERRCODE_WRONG_OBJECT_TYPE, "It is a view.", "Use the tables that it reads.");
			break;
		default:
			refuse(relation, ERRCODE_WRONG_OBJECT_TYPE, "It is not a table.", NULL);
	}
}

/*
 * check_storage refuses tables whose rows can come and go without a trigger.
 */
static void
check_storage(Oid relation, Form_pg_class form)
{
	if (form->relpersistence == RELPERSISTENCE_TEMP)
		refuse(relation, ERRCODE_FEATURE_NOT_SUPPORTED, "It is a temporary table: other sessions do not see its rows.",
			   "Use a permanent table.");
	if (form->relpersistence == RELPERSISTENCE_UNLOGGED)
		refuse(relation, ERRCODE_FEATURE_NOT_SUPPORTED,
			   "It is an unlogged table: a crash empties it, and no trigger fires.",
			   "Use ALTER TABLE ... SET LOGGED.");
	if (form->relam != HEAP_TABLE_AM_OID)
		refuse(relation, ERRCODE_FEATURE_NOT_SUPPORTED, "Its access method is not heap.", NULL);
}

/*
 * has_relatives tells whether a table has an inheritance parent, or children.
 */
static bool
has_relatives(Oid relation, Form_pg_class form)
{
	return form->relispartition || has_superclass(relation) ||
		(form->relhassubclass && find_inheritance_children(relation, NoLock) != NIL);
}

/*
 * is_version_table tells whether a table is a version's.
 */
static bool
is_version_table(Oid relation)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_list(0))
		if (((CqrsVersion *) lfirst(cell))->table == relation)
			return true;
	return false;
}

/*
 * cqrs_capture_check refuses a relation whose changes cannot be captured.
 *
 * Errors: 42P01 if there is none, 42809 if it holds no rows of its own, 0A000 for the rest.
 */
void
cqrs_capture_check(Oid relation)
{
	HeapTuple	tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relation));
	Form_pg_class form;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relation)));
	form = (Form_pg_class) GETSTRUCT(tuple);
	check_kind(relation, form->relkind);
	if (relation < FirstNormalObjectId || IsToastNamespace(form->relnamespace))
		refuse(relation, ERRCODE_FEATURE_NOT_SUPPORTED, "It is a system catalog.", NULL);
	if (form->relnamespace == get_rel_namespace(cqrs_registry_relation(CQRS_CAT_SOURCE)))
		refuse(relation, ERRCODE_FEATURE_NOT_SUPPORTED, "It belongs to the extension cqrs itself.", NULL);
	check_storage(relation, form);
	if (has_relatives(relation, form))
		refuse(relation, ERRCODE_FEATURE_NOT_SUPPORTED, "It is a partition, or has an inheritance parent or children.",
			   "Partitions and inheritance are not supported yet.");
	if (is_version_table(relation))
		refuse(relation, ERRCODE_FEATURE_NOT_SUPPORTED, "It is the table of a projection.",
			   "Use the tables that the projection reads.");
	heap_freetuple(tuple);
}
