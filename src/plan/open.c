/*
 * plan/open.c
 *		Views that show columns of one table, taken for the table: what a change of the table adds to a query is then told as for any table that it joins.
 *
 * Serving views are such views, and so are many of users'.  Where the owner may not read the table himself the view stays, since statements could not name
 * the table.  Done to the plain query of strategy delta only, and to what is computed from it.
 *
 * Takes ACCESS SHARE on what the views read, to the end of the transaction.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/compat.h"
#include "catalog/pg_class.h"
#include "nodes/makefuncs.h"
#include "optimizer/clauses.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "rewrite/rewriteManip.h"

/*
 * is_bare tells whether a query has no more than columns, one table and conditions.
 */
static bool
is_bare(const Query *tree)
{
	return !tree->hasAggs && !tree->hasWindowFuncs && !tree->hasTargetSRFs && !tree->hasSubLinks && !tree->hasDistinctOn &&
		tree->cteList == NIL && tree->groupClause == NIL && tree->groupingSets == NIL && tree->havingQual == NULL &&
		tree->distinctClause == NIL && tree->sortClause == NIL && tree->limitOffset == NULL && tree->limitCount == NULL &&
		tree->setOperations == NULL && tree->rowMarks == NIL && list_length(tree->jointree->fromlist) == 1 &&
		IsA(linitial(tree->jointree->fromlist), RangeTblRef);
}

/*
 * shows_columns tells whether all that a query puts out are columns of a relation.
 */
static bool
shows_columns(const Query *tree, Index relation)
{
	ListCell   *cell;

	foreach(cell, tree->targetList)
	{
		const TargetEntry *target = lfirst(cell);
		const Var  *column = (const Var *) target->expr;

		if (target->resjunk || !IsA(column, Var) || column->varno != relation || column->varattno <= 0)
			return false;
	}
	return true;
}

/*
 * is_readable tells whether statements may name a table.
 */
static bool
is_readable(const CqrsProgram *program, Oid table)
{
	for (int i = 0; i < program->nsources; i++)
		if (program->sources[i].relation == table)
			return program->sources[i].readable;
	return false;
}

/*
 * replace has an expression read the table's columns instead of the view's.
 */
static void *
replace(void *node, Index relation, RangeTblEntry *entry, List *columns)
{
	return node == NULL ? NULL :
		cqrs_compat_replace_columns(node, relation, entry, columns);
}

/*
 * replace_all does so in a list of expressions.
 */
static void
replace_all(List *expressions, Index relation, RangeTblEntry *entry, List *columns)
{
	ListCell   *cell;

	foreach(cell, expressions)
		lfirst(cell) = replace(lfirst(cell), relation, entry, columns);
}

/*
 * shown_entry returns what a view's query shows columns of, by its number, if that is all it does; or NULL.
 */
static RangeTblEntry *
shown_entry(Query *tree, Index *relation)
{
	RangeTblEntry *entry;

	if (!is_bare(tree))
		return NULL;
	*relation = ((RangeTblRef *) linitial(tree->jointree->fromlist))->rtindex;
	entry = rt_fetch(*relation, tree->rtable);
	return entry->rtekind == RTE_RELATION && entry->tablesample == NULL && shows_columns(tree, *relation) ? entry : NULL;
}

/*
 * is_openable tells whether a view, through others maybe, shows columns of one table that may be named.
 */
static bool
is_openable(const CqrsProgram *program, Oid view)
{
	Index		relation;
	RangeTblEntry *entry = shown_entry(cqrs_query_of_view(view), &relation);

	if (entry == NULL)
		return false;
	if (entry->relkind == RELKIND_VIEW)
		return is_openable(program, entry->relid);
	return (entry->relkind == RELKIND_RELATION || entry->relkind == RELKIND_PARTITIONED_TABLE) &&
		is_readable(program, entry->relid);
}

/*
 * open_view puts what a view shows in its place, until that is a table.
 */
static void
open_view(CqrsProgram *program, Index relation)
{
	CqrsQuery  *query = program->query;
	RangeTblEntry *entry = rt_fetch(relation, query->plain->rtable);
	Query	   *tree = cqrs_query_of_view(entry->relid);
	RangeTblEntry *shown;
	Index		inner;
	ListCell   *cell;

	shown = shown_entry(tree, &inner);
	ChangeVarNodes((Node *) tree->targetList, inner, relation, 0);
	ChangeVarNodes(tree->jointree->quals, inner, relation, 0);
	query->plain = replace(query->plain, relation, entry, tree->targetList);
	query->plain->jointree->quals = make_and_qual(query->plain->jointree->quals, tree->jointree->quals);
	replace_all(query->layout->keys, relation, entry, tree->targetList);
	replace_all(query->layout->dependents, relation, entry, tree->targetList);
	foreach(cell, query->layout->components)
	{
		CqrsComponent *component = lfirst(cell);

		component->argument = replace(component->argument, relation, entry, tree->targetList);
	}
	shown->alias = makeAlias(entry->eref->aliasname, NIL);
	shown->eref->aliasname = entry->eref->aliasname;
	list_nth_cell(query->plain->rtable, relation - 1)->ptr_value = shown;
	if (shown->relkind == RELKIND_VIEW)
		open_view(program, relation);
}

/*
 * cqrs_open_views opens the views that the plain query joins.
 */
void
cqrs_open_views(CqrsProgram *program)
{
	List	   *from = program->query->plain->jointree->fromlist;
	ListCell   *cell;

	foreach(cell, from)
	{
		Index		relation = ((RangeTblRef *) lfirst(cell))->rtindex;
		RangeTblEntry *entry = rt_fetch(relation, program->query->plain->rtable);

		if (entry->rtekind == RTE_RELATION && entry->relkind == RELKIND_VIEW && entry->tablesample == NULL &&
			!cqrs_delta_whole_row(program, relation) && is_openable(program, entry->relid))
			open_view(program, relation);
	}
}
