/*
 * build/view.c
 *		Serving views: plain views over a version's table, behind a gate while there is nothing to serve, and a security barrier where rows are hidden.
 *
 * Made through the server's own DefineView, not by SQL text run as a user: the guard on serving views then need not know ours
 * from others'.  The caller holds the lock on the view and has checked the right to it.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/reloptions.h"
#include "access/xact.h"
#include "base/names.h"
#include "base/spi.h"
#include "build/build.h"
#include "build/parts.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "commands/tablecmds.h"
#include "commands/view.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "plan/plan.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/*
 * cqrs_view_columns returns the relation whose columns a serving view shows.
 */
Oid
cqrs_view_columns(const CqrsVersion *version)
{
	return OidIsValid(version->definition) ? version->definition : version->table;
}

/*
 * view_query writes the view's SELECT: every column of the definition by name, from the version's table, behind the gate if asked, of the rows that are
 * the definition's, and of those that the filter lets pass (NULL: all).
 */
static char *
view_query(const CqrsVersion *version, bool gated, const char *filter)
{
	Relation	columns = relation_open(cqrs_view_columns(version), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(columns);
	const char *shown = cqrs_plan_shown(version->definition, version->table);
	StringInfoData sql;
	const char *separator = "";

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		appendStringInfo(&sql, "%s%s", separator, cqrs_name_identifier(NameStr(TupleDescAttr(desc, i)->attname)));
		separator = ", ";
	}
	appendStringInfo(&sql, " FROM %s", cqrs_name_relation(version->table));
	separator = " WHERE ";
	if (gated)
		appendStringInfo(&sql, "%scqrs_internal.gate(%d)", separator, version->projection);
	else if (shown != NULL)
		appendStringInfo(&sql, "%s%s", separator, shown);
	if (filter != NULL)
		appendStringInfo(&sql, "%s(%s)", gated || shown ? " AND " : separator, filter);
	relation_close(columns, AccessShareLock);
	return sql.data;
}

/*
 * options_of returns a view's options as they are, to be kept.
 */
static List *
options_of(Oid view)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(view));
	Datum		options;
	bool		isnull;
	List	   *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", view);
	options = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions, &isnull);
	result = isnull ? NIL : untransformRelOptions(options);
	ReleaseSysCache(tuple);
	return result;
}

/*
 * define has the server make or replace a view, as the system: whoever owns it stays its owner.
 */
static Oid
define(RangeVar *name, const char *query, bool replace, List *options)
{
	ViewStmt   *statement = makeNode(ViewStmt);
	RawStmt    *raw = linitial_node(RawStmt, raw_parser(query, RAW_PARSE_DEFAULT));
	CqrsIdentity saved;
	ObjectAddress address;

	statement->view = name;
	statement->query = raw->stmt;
	statement->replace = replace;
	statement->options = options;
	statement->withCheckOption = NO_CHECK_OPTION;
	cqrs_identity_enter_system(&saved);
	address = DefineView(statement, query, -1, 0);
	cqrs_identity_leave(&saved);
	CommandCounterIncrement();
	return address.objectId;
}

/*
 * make makes a serving view and gives it to its owner.
 */
static Oid
make(RangeVar *name, const char *query, List *options, Oid owner)
{
	Oid			view = define(name, query, false, options);
	CqrsIdentity saved;

	cqrs_identity_enter_system(&saved);
	ATExecChangeOwner(view, owner, false, AccessExclusiveLock);
	cqrs_identity_leave(&saved);
	CommandCounterIncrement();
	return view;
}

/*
 * cqrs_build_create_view makes the serving view of a new projection, gated, and gives it to its owner.
 */
Oid
cqrs_build_create_view(const char *schema, const char *name, const CqrsVersion *version, Oid owner)
{
	return make(makeRangeVar(pstrdup(schema), pstrdup(name), -1), view_query(version, true, NULL), NIL, owner);
}

/*
 * replace makes the serving view anew, under the name it has.
 */
static void
replace(Oid view, const char *query, List *options)
{
	(void) define(makeRangeVar(get_namespace_name(get_rel_namespace(view)), get_rel_name(view), -1), query, true, options);
}

/*
 * cqrs_build_view replaces the serving view with one over the version's table, behind the gate or open; its options and its row filter stay.
 */
void
cqrs_build_view(const CqrsProjection *projection, const CqrsVersion *version, bool gated)
{
	char	   *filter = cqrs_filter_of_view(projection->view, version);

	replace(projection->view, view_query(version, gated, filter), options_of(projection->view));
}

/*
 * cqrs_view_remake drops a serving view and makes it again over another version's table.
 */
Oid
cqrs_view_remake(Oid view, const CqrsVersion *version)
{
	char	   *filter = cqrs_filter_of_view(view, version);
	List	   *options = options_of(view);
	Oid			owner = cqrs_relation_owner(view);
	RangeVar   *name = makeRangeVar(get_namespace_name(get_rel_namespace(view)), get_rel_name(view), -1);
	ObjectAddress address;

	ObjectAddressSet(address, RelationRelationId, view);
	performDeletion(&address, DROP_RESTRICT, 0);
	CommandCounterIncrement();
	return make(name, view_query(version, false, filter), options, owner);
}

/*
 * barrier_options returns a view's options with 'security_barrier' as it is to be.
 */
static List *
barrier_options(Oid view, bool barrier)
{
	List	   *options = options_of(view);
	ListCell   *cell;

	foreach(cell, options)
		if (strcmp(lfirst_node(DefElem, cell)->defname, "security_barrier") == 0)
			options = foreach_delete_current(options, cell);
	if (barrier)
		options = lappend(options, makeDefElem("security_barrier", (Node *) makeString("true"), -1));
	return options;
}

/*
 * cqrs_build_filter_view gives the serving view a row filter, or takes away the one it has (NULL).
 */
void
cqrs_build_filter_view(const CqrsProjection *projection, const CqrsVersion *version, bool gated, const char *filter)
{
	char	   *condition = filter ? cqrs_filter_read(projection->view, filter, get_rel_name(version->table)) : NULL;

	replace(projection->view, view_query(version, gated, condition), barrier_options(projection->view, filter != NULL));
}
