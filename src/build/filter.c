/*
 * build/filter.c
 *		Row filters: the condition that a serving view puts on what its readers see.
 *
 * A filter is read once, as a user gives it, under his search_path; from then on the serving view itself holds it, as the server understood it, so that
 * what it names may be renamed.  Where the view is made again the filter is written out of the old one, with every name in it qualified.
 *
 * The caller holds the lock on the view.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/relation.h"
#include "base/names.h"
#include "base/position.h"
#include "base/spi.h"
#include "build/parts.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/namespace.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "plan/plan.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

/* Where the walk through an expression is. */
typedef struct Walk
{
	int			depth;			/* queries that it is in */
	ParseState *pstate;			/* for the place of an error */
} Walk;

/* The same through a filter that a view holds over a table, and that is to hold for a version. */
typedef struct Kept
{
	int			depth;
	Oid			view;
	Oid			table;
	const CqrsVersion *version;
} Kept;

/*
 * refuse_text raises for a text that is not one expression.
 */
static void
refuse_text(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("a row filter must be one expression"),
			 errhint("Give what would follow WHERE, for example 'seller = current_user'.")));
}

/*
 * parse returns the one expression in the text.
 *
 * The server's own mode for expressions lets pass what may follow a SELECT list; there must be none of that.
 */
static Node *
parse(const char *text)
{
	RawStmt    *raw = linitial_node(RawStmt, raw_parser(text, RAW_PARSE_PLPGSQL_EXPR));
	SelectStmt *select = castNode(SelectStmt, raw->stmt);
	SelectStmt *alone = makeNode(SelectStmt);
	ResTarget  *target;

	alone->targetList = select->targetList;
	alone->limitOption = select->limitOption;
	if (list_length(select->targetList) != 1 || !equal(select, alone))
		refuse_text();
	target = linitial_node(ResTarget, select->targetList);
	if (target->name != NULL || target->indirection != NIL ||
		(IsA(target->val, ColumnRef) && IsA(llast(((ColumnRef *) target->val)->fields), A_Star)))
		refuse_text();
	return target->val;
}

/*
 * refuse_temporary raises for what would be gone with the session, and the filter with it.
 */
static void
refuse_temporary(const char *what, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a row filter cannot use temporary %s \"%s\"", what, name),
			 errhint("Other sessions could not read the projection; make it a lasting one.")));
}

/*
 * is_temporary tells whether a function is temporary.
 */
static bool
is_temporary(Oid function, void *context)
{
	return isAnyTempNamespace(get_func_namespace(function));
}

/*
 * check_relations refuses temporary tables that a subquery reads.
 */
static void
check_relations(const Query *query)
{
	ListCell   *cell;

	foreach(cell, query->rtable)
	{
		RangeTblEntry *entry = lfirst_node(RangeTblEntry, cell);

		if (entry->rtekind == RTE_RELATION && get_rel_persistence(entry->relid) == RELPERSISTENCE_TEMP)
			refuse_temporary("table", get_rel_name(entry->relid));
	}
}

/*
 * check refuses whole rows of the view, since one of a later version may have other columns, and what is temporary.
 */
static bool
check(Node *node, Walk *walk)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == walk->depth && ((Var *) node)->varattno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a row filter cannot look at the row as a whole"),
				 errhint("Name the columns that it depends on."),
				 parser_errposition(walk->pstate, ((Var *) node)->location)));
	if (check_functions_in_node(node, is_temporary, NULL))
		refuse_temporary("function", IsA(node, FuncExpr) ? get_func_name(((FuncExpr *) node)->funcid) : "");
	if (IsA(node, Query))
	{
		bool		result;

		check_relations((Query *) node);
		walk->depth++;
		result = query_tree_walker((Query *) node, check, walk, 0);
		walk->depth--;
		return result;
	}
	return expression_tree_walker(node, check, walk);
}

/*
 * write_out writes an expression over the relation, which it knows as number 1, with every name qualified; the relation's own columns as those of
 * 'alias' where they need it.
 */
static char *
write_out(Node *expression, Oid relation, const char *alias)
{
	CqrsIdentity saved;
	char	   *text;

	cqrs_identity_enter_system(&saved);
	text = deparse_expression(expression, deparse_context_for(alias, relation), false, false);
	cqrs_identity_leave(&saved);
	return text;
}

/*
 * cqrs_filter_read reads a filter as the user gives it, as a condition on the view's columns, and writes it for queries over 'alias'.
 */
char *
cqrs_filter_read(Oid view, const char *text, const char *alias)
{
	ErrorContextCallback context = {.previous = error_context_stack, .callback = cqrs_position_move, .arg = (void *) text};
	Relation	relation = relation_open(view, NoLock);
	ParseState *pstate = make_parsestate(NULL);
	Walk		walk = {.pstate = pstate};
	ParseNamespaceItem *item;
	Node	   *expression;

	error_context_stack = &context;
	pstate->p_sourcetext = text;
	item = addRangeTableEntryForRelation(pstate, relation, AccessShareLock, NULL, false, true);
	addNSItemToQuery(pstate, item, false, true, true);
	expression = transformWhereClause(pstate, parse(text), EXPR_KIND_WHERE, "row_filter");
	assign_expr_collations(pstate, expression);
	(void) check(expression, &walk);
	error_context_stack = context.previous;
	free_parsestate(pstate);
	relation_close(relation, NoLock);
	return write_out(expression, view, alias);
}

/*
 * is_ours tells whether an expression is a condition of our own on the rows of 'table': the call that keeps a view shut, or the mark of rows to be shown.
 *
 * Asked of the catalogs, not of the parser: whoever drains may not use our schema.
 */
static bool
is_ours(Node *node, Oid view, Oid table)
{
	Oid			function = IsA(node, FuncExpr) ? ((FuncExpr *) node)->funcid : InvalidOid;

	if (IsA(node, Var))
		return get_attnum(view, CQRS_SHOWN) == InvalidAttrNumber &&
			strcmp(get_attname(table, ((Var *) node)->varattno, false), CQRS_SHOWN) == 0;
	return OidIsValid(function) && get_func_namespace(function) == get_namespace_oid("cqrs_internal", false) &&
		strcmp(get_func_name(function), "gate") == 0;
}

/*
 * without_ours returns what is left of a view's condition without ours, which stands alone or before all the rest; NULL if nothing is.
 */
static Node *
without_ours(Node *condition, Oid view, Oid table)
{
	List	   *parts;

	if (condition == NULL || is_ours(condition, view, table))
		return NULL;
	if (!is_andclause(condition))
		return condition;
	parts = ((BoolExpr *) condition)->args;
	if (!is_ours(linitial(parts), view, table))
		return condition;
	return (Node *) make_ands_explicit(list_copy_tail(parts, 1));
}

/*
 * check_kept raises unless a version has all columns of the table's that a filter names.
 */
static bool
check_kept(Node *node, Kept *kept)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == kept->depth)
	{
		char	   *name = get_attname(kept->table, ((Var *) node)->varattno, false);
		Oid			columns = cqrs_version_is_events(kept->version) ? kept->version->table : kept->version->definition;

		if (get_attnum(columns, name) == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("the row filter of projection \"%s\" needs column \"%s\", which version %d does not have",
							cqrs_name_shown(kept->view), name, kept->version->number),
					 errhint("Change the row filter with cqrs.alter_projection before.")));
	}
	if (IsA(node, Query))
	{
		bool		result;

		kept->depth++;
		result = query_tree_walker((Query *) node, check_kept, kept, 0);
		kept->depth--;
		return result;
	}
	return expression_tree_walker(node, check_kept, kept);
}

/*
 * cqrs_filter_of_view writes the filter that a serving view holds for a query over a version's table; NULL if it has none.
 */
char *
cqrs_filter_of_view(Oid view, const CqrsVersion *version)
{
	Relation	relation = relation_open(view, AccessShareLock);
	Query	   *query = get_view_query(relation);
	int			number = linitial_node(RangeTblRef, query->jointree->fromlist)->rtindex;
	Oid			table = rt_fetch(number, query->rtable)->relid;
	Node	   *condition = without_ours(copyObject(query->jointree->quals), view, table);
	char	   *text = NULL;

	if (condition != NULL)
	{
		Kept		kept = {.view = view, .table = table, .version = version};

		ChangeVarNodes(condition, number, 1, 0);
		(void) check_kept(condition, &kept);
		text = write_out(condition, table, get_rel_name(version->table));
	}
	relation_close(relation, NoLock);
	return text;
}
