/*
 * build/view.c
 *		Serving views: plain views over a version's table, behind a gate while there is nothing to serve.
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
#include "catalog/pg_class.h"
#include "commands/tablecmds.h"
#include "commands/view.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/*
 * view_query writes the view's SELECT: every column by name, from the version's table, behind the gate if asked.
 */
static char *
view_query(const CqrsVersion *version, bool gated)
{
	Relation	table = relation_open(version->table, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(table);
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
	if (gated)
		appendStringInfo(&sql, " WHERE cqrs_internal.gate(%d)", version->projection);
	relation_close(table, AccessShareLock);
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
 * cqrs_build_create_view makes the serving view of a new projection, gated, and gives it to its owner.
 */
Oid
cqrs_build_create_view(const char *schema, const char *name, const CqrsVersion *version, Oid owner)
{
	Oid			view = define(makeRangeVar(pstrdup(schema), pstrdup(name), -1), view_query(version, true), false, NIL);
	CqrsIdentity saved;

	cqrs_identity_enter_system(&saved);
	ATExecChangeOwner(view, owner, false, AccessExclusiveLock);
	cqrs_identity_leave(&saved);
	CommandCounterIncrement();
	return view;
}

/*
 * cqrs_build_view replaces the serving view with one over the version's table, behind the gate or open; its options stay.
 */
void
cqrs_build_view(const CqrsProjection *projection, const CqrsVersion *version, bool gated)
{
	Oid			view = projection->view;
	RangeVar   *name = makeRangeVar(get_namespace_name(get_rel_namespace(view)), get_rel_name(view), -1);

	(void) define(name, view_query(version, gated), true, options_of(view));
}
