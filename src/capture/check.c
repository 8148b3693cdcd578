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
#include "capture/parts.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "registry/registry.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* What is looked at: a relation that is to be captured, and a part of its tree. */
typedef struct Subject
{
	Oid			relation;
	Oid			part;			/* the same, or one below it */
	int			level;			/* of the report: ERROR or WARNING */
	bool		fit;			/* nothing was found */
} Subject;

/*
 * refuse says why a relation cannot be captured.
 */
static void
refuse(Subject *subject, int sqlstate, const char *detail, const char *hint)
{
	subject->fit = false;
	if (subject->part == subject->relation)
		detail = psprintf("It is %s", detail);
	else
		detail = psprintf("\"%s\", which is below it, is %s", cqrs_name_shown(subject->part), detail);
	ereport(subject->level,
			(errcode(sqlstate),
			 errmsg("changes of \"%s\" cannot be captured", cqrs_name_shown(subject->relation)),
			 errdetail_internal("%s", detail),
			 hint ? errhint("%s", hint) : 0));
}

/*
 * check_kind refuses what is no table.
 */
static void
check_kind(Subject *subject, char kind)
{
	switch (kind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
			break;
		case RELKIND_FOREIGN_TABLE:
			refuse(subject, ERRCODE_FEATURE_NOT_SUPPORTED,
				   "a foreign table: what other sessions of its server change fires no trigger here.",
				   "Replicate it into a table of this database.");
			break;
		case RELKIND_MATVIEW:
			refuse(subject, ERRCODE_FEATURE_NOT_SUPPORTED, "a materialized view: REFRESH fires no trigger.",
				   "Use the tables that it reads.");
			break;
		case RELKIND_VIEW:
			refuse(subject, ERRCODE_WRONG_OBJECT_TYPE, "a view.", "Use the tables that it reads.");
			break;
		default:
			refuse(subject, ERRCODE_WRONG_OBJECT_TYPE, "not a table.", NULL);
	}
}

/*
 * check_storage refuses tables whose rows can come and go without a trigger.
 */
static void
check_storage(Subject *subject, Form_pg_class form)
{
	if (form->relpersistence == RELPERSISTENCE_TEMP)
		refuse(subject, ERRCODE_FEATURE_NOT_SUPPORTED, "a temporary table: other sessions do not see its rows.",
			   "Use a permanent table.");
	if (form->relpersistence == RELPERSISTENCE_UNLOGGED)
		refuse(subject, ERRCODE_FEATURE_NOT_SUPPORTED, "an unlogged table: a crash empties it, and no trigger fires.",
			   "Use ALTER TABLE ... SET LOGGED.");
	if (form->relkind == RELKIND_RELATION && form->relam != HEAP_TABLE_AM_OID)
		refuse(subject, ERRCODE_FEATURE_NOT_SUPPORTED, "not a heap.", NULL);
}

/*
 * check_part looks at one relation of the tree.
 */
static void
check_part(Subject *subject)
{
	HeapTuple	tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(subject->part));
	Form_pg_class form;

	if (!HeapTupleIsValid(tuple))
	{
		if (subject->part == subject->relation)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", subject->relation)));
		return;
	}
	form = (Form_pg_class) GETSTRUCT(tuple);
	check_kind(subject, form->relkind);
	if (subject->part < FirstNormalObjectId || IsToastNamespace(form->relnamespace))
		refuse(subject, ERRCODE_FEATURE_NOT_SUPPORTED, "a system catalog.", NULL);
	if (form->relnamespace == get_rel_namespace(cqrs_registry_relation(CQRS_CAT_SOURCE)))
		refuse(subject, ERRCODE_FEATURE_NOT_SUPPORTED, "a part of the extension cqrs itself.", NULL);
	check_storage(subject, form);
	heap_freetuple(tuple);
}

/*
 * version_table returns the table of a version that is among the relations, or InvalidOid.
 */
static Oid
version_table(List *relations)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_list(0))
		if (list_member_oid(relations, ((CqrsVersion *) lfirst(cell))->table))
			return ((CqrsVersion *) lfirst(cell))->table;
	return InvalidOid;
}

/*
 * check looks at a relation and all below it.
 */
static bool
check(Oid relation, int level)
{
	Subject		subject = {.relation = relation, .part = relation, .level = level, .fit = true};
	List	   *members;
	ListCell   *cell;

	check_part(&subject);
	members = cqrs_tree_members(relation);
	foreach(cell, members)
	{
		subject.part = lfirst_oid(cell);
		if (subject.part != relation)
			check_part(&subject);
	}
	subject.part = version_table(members);
	if (OidIsValid(subject.part))
		refuse(&subject, ERRCODE_FEATURE_NOT_SUPPORTED, "the table of a projection.",
			   "Use the tables that the projection reads.");
	return subject.fit;
}

/*
 * cqrs_capture_check refuses a relation whose changes cannot be captured, or that has something below it whose changes cannot.
 *
 * Errors: 42P01 if there is none, 42809 if it holds no rows of its own, 0A000 for the rest.
 */
void
cqrs_capture_check(Oid relation)
{
	(void) check(relation, ERROR);
}

/*
 * cqrs_capture_warn tells of the same where it cannot be refused.
 */
bool
cqrs_capture_warn(Oid relation)
{
	return check(relation, WARNING);
}
