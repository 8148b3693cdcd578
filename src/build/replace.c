/*
 * build/replace.c
 *		Having the serving view show another version's table: in place where its columns stay and others may follow them, else by making it anew.
 *
 * A view made anew has the owner, grants, comments, options and row filter of the one before, and another OID: what depends on that would go, so it is refused
 * then.  Grants are copied as they are, with who granted them.
 *
 * Everything is the system's to do; the caller has checked rights and holds ACCESS EXCLUSIVE on the view.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "base/names.h"
#include "base/spi.h"
#include "build/build.h"
#include "build/parts.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "lib/stringinfo.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#define FORMER_KEPT 20			/* OIDs of views made anew, by which somebody may wait for the projection still */

/* What hangs on a view, or on one of its columns, and is carried over. */
typedef struct Attached
{
	char	   *column;			/* NULL: the view itself */
	Acl		   *grants;			/* NULL: the owner's alone */
	char	   *comment;		/* or NULL */
} Attached;

/* What depends on view %1$u, its row type %2$u or array type %3$u, and is not part of it; of a rule that makes a view, the view. */
static const char *const dependents_query =
	"SELECT DISTINCT CASE WHEN r.rulename = '_RETURN' THEN pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, r.ev_class, 0) "
	"                     ELSE pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) END "
	"FROM pg_catalog.pg_depend d "
	"LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid "
	"WHERE ((d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = %1$u) "
	"       OR (d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid IN (%2$u, %3$u))) "
	"AND d.deptype <> 'i' AND (r.rulename = '_RETURN' AND r.ev_class = %1$u) IS NOT TRUE ORDER BY 1";

/*
 * column_shown describes a column for people.
 */
static char *
column_shown(Form_pg_attribute column)
{
	return psprintf("\"%s\" %s", NameStr(column->attname), format_type_with_typemod(column->atttypid, column->atttypmod));
}

/*
 * shown_columns lists the columns that a version's view shows.
 */
static List *
shown_columns(TupleDesc table)
{
	List	   *columns = NIL;

	for (int i = 0; i < table->natts; i++)
		if (!TupleDescAttr(table, i)->attisdropped)
			columns = lappend(columns, TupleDescAttr(table, i));
	return columns;
}

/*
 * compare_columns lists in 'differences' what keeps the view from being replaced in place: columns of it that the table has not, or not at their
 * place, or of another type.  Returns whether the table has more columns.
 */
static bool
compare_columns(TupleDesc view, TupleDesc table, StringInfo differences)
{
	List	   *columns = shown_columns(table);

	for (int i = 0; i < view->natts; i++)
	{
		Form_pg_attribute ours = TupleDescAttr(view, i);
		Form_pg_attribute theirs = i < list_length(columns) ? list_nth(columns, i) : NULL;

		if (theirs != NULL && strcmp(NameStr(ours->attname), NameStr(theirs->attname)) == 0 &&
			ours->atttypid == theirs->atttypid && ours->atttypmod == theirs->atttypmod &&
			ours->attcollation == theirs->attcollation)
			continue;
		appendStringInfo(differences, "%s%s becomes %s", differences->len ? "; " : "", column_shown(ours),
						 theirs ? column_shown(theirs) : "nothing");
	}
	return list_length(columns) > view->natts;
}

/*
 * dependents describes what depends on a view and is not part of it, or would silently go with it; NULL if nothing does.
 */
static char *
dependents(Oid view)
{
	Oid			row = get_rel_type_id(view);
	StringInfoData shown;
	ListCell   *cell;

	initStringInfo(&shown);
	foreach(cell, cqrs_spi_collect_texts(psprintf(dependents_query, view, row, get_array_type(row))))
		appendStringInfo(&shown, "%s%s", shown.len ? ", " : "", (char *) lfirst(cell));
	return shown.len ? shown.data : NULL;
}

/*
 * refuse raises why the view cannot show another version.
 */
static void
refuse(const CqrsProjection *projection, const CqrsVersion *version, const char *differences, const char *depend)
{
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("projection \"%s\" cannot be switched to version %d, because other objects depend on its serving view",
					cqrs_name_shown(projection->view), version->number),
			 errdetail("Columns: %s.  Dependent: %s.", differences, depend),
			 errhint("Drop what depends on the view, switch, and make it again; or have the version keep these columns, and add others at the end.")));
}

/*
 * refuse_one_way raises that a switch could not be undone.
 */
static void
refuse_one_way(const CqrsProjection *projection, const CqrsVersion *version, const char *depend)
{
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("projection \"%s\" could not be switched back from version %d, because other objects depend on its serving view",
					cqrs_name_shown(projection->view), version->number),
			 errdetail("The version adds columns, which would have to go again.  Dependent: %s.", depend),
			 errhint("Switch with force => true if that need not be possible.")));
}

/*
 * acl_of copies an access control list; NULL for none.
 */
static Acl *
acl_of(Datum value, bool isnull)
{
	return isnull ? NULL : DatumGetAclPCopy(value);
}

/*
 * detach reads what hangs on a view and its columns: List of Attached *.
 */
static List *
detach(Oid view)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(view));
	Attached   *attached = palloc0(sizeof(Attached));
	List	   *all = list_make1(attached);
	Datum		value;
	bool		isnull;
	int			natts = ((Form_pg_class) GETSTRUCT(tuple))->relnatts;

	value = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relacl, &isnull);
	attached->grants = acl_of(value, isnull);
	attached->comment = GetComment(view, RelationRelationId, 0);
	ReleaseSysCache(tuple);
	for (AttrNumber number = 1; number <= natts; number++)
	{
		tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(view), Int16GetDatum(number));
		attached = palloc0(sizeof(Attached));
		attached->column = pstrdup(NameStr(((Form_pg_attribute) GETSTRUCT(tuple))->attname));
		value = SysCacheGetAttr(ATTNUM, tuple, Anum_pg_attribute_attacl, &isnull);
		attached->grants = acl_of(value, isnull);
		attached->comment = GetComment(view, RelationRelationId, number);
		ReleaseSysCache(tuple);
		all = lappend(all, attached);
	}
	return all;
}

/*
 * put_grants writes an access control list into a row of pg_class or pg_attribute, and who is named in it into the dependencies on roles.
 */
static void
put_grants(Oid catalog, HeapTuple tuple, int column, Acl *grants, Oid relation, AttrNumber attnum)
{
	Relation	rel = table_open(catalog, RowExclusiveLock);
	bool		was_null;
	Datum		was = heap_getattr(tuple, column, RelationGetDescr(rel), &was_null);
	Datum		values[Max(Natts_pg_class, Natts_pg_attribute)] = {0};
	bool		nulls[Max(Natts_pg_class, Natts_pg_attribute)] = {false};
	bool		replaces[Max(Natts_pg_class, Natts_pg_attribute)] = {false};
	Oid		   *before = NULL;
	Oid		   *after = NULL;
	int			nbefore = was_null ? 0 : aclmembers(DatumGetAclP(was), &before);
	int			nafter = grants ? aclmembers(grants, &after) : 0;
	HeapTuple	changed;

	values[column - 1] = PointerGetDatum(grants);
	nulls[column - 1] = grants == NULL;
	replaces[column - 1] = true;
	changed = heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replaces);
	CatalogTupleUpdate(rel, &changed->t_self, changed);
	updateAclDependencies(RelationRelationId, relation, attnum, cqrs_relation_owner(relation), nbefore, before, nafter, after);
	table_close(rel, RowExclusiveLock);
}

/*
 * attach puts on a view, or the column of that name if it still has one, what was on the one before.
 */
static void
attach(Oid view, const Attached *attached)
{
	AttrNumber	number = attached->column ? get_attnum(view, attached->column) : 0;
	HeapTuple	tuple;

	if (attached->column != NULL && number == InvalidAttrNumber)
		return;
	if (attached->comment != NULL)
		CreateComments(view, RelationRelationId, number, attached->comment);
	if (number == 0)
	{
		tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(view));
		put_grants(RelationRelationId, tuple, Anum_pg_class_relacl, attached->grants, view, 0);
	}
	else if (attached->grants != NULL)
	{
		tuple = SearchSysCacheCopy2(ATTNUM, ObjectIdGetDatum(view), Int16GetDatum(number));
		put_grants(AttributeRelationId, tuple, Anum_pg_attribute_attacl, attached->grants, view, number);
	}
}

/*
 * make_anew drops the serving view and makes it again over another version's table.
 */
static void
make_anew(CqrsProjection *projection, const CqrsVersion *version)
{
	List	   *all = detach(projection->view);
	CqrsIdentity saved;
	ListCell   *cell;

	if (list_length(projection->former) >= FORMER_KEPT)
		projection->former = list_delete_first(projection->former);
	projection->former = lappend_oid(projection->former, projection->view);
	projection->view = cqrs_view_remake(projection->view, version);
	cqrs_identity_enter_system(&saved);
	foreach(cell, all)
		attach(projection->view, lfirst(cell));
	cqrs_identity_leave(&saved);
	CommandCounterIncrement();
	cqrs_projection_update(projection);
}

/*
 * cqrs_view_switch has the serving view show another version's table.
 */
void
cqrs_view_switch(CqrsProjection *projection, const CqrsVersion *version, bool force)
{
	Relation	view = relation_open(projection->view, AccessExclusiveLock);
	Relation	table = relation_open(cqrs_view_columns(version), AccessShareLock);
	char	   *depend = dependents(projection->view);
	StringInfoData differences;
	bool		adds;

	initStringInfo(&differences);
	adds = compare_columns(RelationGetDescr(view), RelationGetDescr(table), &differences);
	relation_close(table, AccessShareLock);
	relation_close(view, NoLock);
	if (differences.len > 0 && depend != NULL)
		refuse(projection, version, differences.data, depend);
	if (adds && depend != NULL && !force)
		refuse_one_way(projection, version, depend);
	if (differences.len > 0)
		make_anew(projection, version);
	else
		cqrs_build_view(projection, version, false);
}
