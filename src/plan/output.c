/*
 * plan/output.c
 *		Which columns of a query's rows can be told from the rows that it reads.
 *
 * A row of a table that comes or goes changes rows of the queries that read it.  They have what that row has in the columns that grouping, DISTINCT, windows
 * and set operations keep apart; of the other columns nothing is known.  Values that are taken for equal there can look different, so a row that stays may put
 * on the looks of another.
 *
 * Pure, but for looks into system caches.
 */
#include "postgres.h"

#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "plan/query.h"

/*
 * names tells whether a clause names an output column.
 */
static bool
names(List *clause, const TargetEntry *target)
{
	ListCell   *cell;

	foreach(cell, clause)
		if (((SortGroupClause *) lfirst(cell))->tleSortGroupRef == target->ressortgroupref)
			return true;
	return false;
}

/*
 * is_exact tells whether equal values of an expression are the same.
 */
static bool
is_exact(Node *expression)
{
	return cqrs_key_exact(exprType(expression), exprCollation(expression));
}

/*
 * looks_kept tells whether rows that a clause takes for equal look the same in an output column; false only says that they may not.
 */
static bool
looks_kept(Query *tree, List *clause, const TargetEntry *target)
{
	ListCell   *cell;

	if (names(clause, target))
		return is_exact((Node *) target->expr);
	foreach(cell, clause)
		if (!is_exact((Node *) get_sortgroupclause_tle(lfirst(cell), tree->targetList)->expr))
			return false;
	return true;
}

/*
 * keep works out how rows that a clause takes for equal agree in an output column.
 */
static CqrsAgreement
keep(Query *tree, List *clause, const TargetEntry *target)
{
	if (looks_kept(tree, clause, target))
		return CQRS_SAME;
	return names(clause, target) ? CQRS_EQUAL : CQRS_STRAYS;
}

/*
 * cqrs_output_one_row recognizes a query that aggregates all its rows into one.
 */
bool
cqrs_output_one_row(const Query *tree)
{
	return (tree->hasAggs || tree->havingQual != NULL) && tree->groupClause == NIL && tree->groupingSets == NIL;
}

/*
 * cqrs_output_mixed says why a column is of rows that are chosen or compared with others, whatever they have in it; NULL if it is not.
 */
const char *
cqrs_output_mixed(Query *tree, const TargetEntry *target)
{
	ListCell   *cell;

	if (tree->limitCount != NULL || tree->limitOffset != NULL)
		return "is of rows that LIMIT or OFFSET chooses";
	if (tree->hasDistinctOn && !names(tree->distinctClause, target))
		return "is not among those that DISTINCT ON names";
	foreach(cell, tree->hasWindowFuncs ? tree->windowClause : NIL)
		if (!names(((WindowClause *) lfirst(cell))->partitionClause, target))
			return "is not in the PARTITION BY of every window";
	return NULL;
}

/*
 * cqrs_output_peers tells whether a query's rows are chosen from others or compared with others, and which these are can be told from the rows: by a column
 * that all windows and DISTINCT ON name, or because the query is of one row of another.
 */
bool
cqrs_output_peers(Query *tree)
{
	bool		limited = tree->limitCount != NULL || tree->limitOffset != NULL;
	ListCell   *cell;

	if ((!limited && !tree->hasDistinctOn && !tree->hasWindowFuncs) || tree->groupingSets != NIL || cqrs_output_one_row(tree))
		return false;
	if (contain_vars_of_level((Node *) tree, 1))
		return true;
	foreach(cell, tree->targetList)
		if (cqrs_output_mixed(tree, lfirst(cell)) == NULL)
			return true;
	return false;
}

/*
 * cqrs_output_partition_equality returns the operator by which such a column of all windows and DISTINCT ON is the same.
 */
Oid
cqrs_output_partition_equality(Query *tree, const TargetEntry *target)
{
	List	   *clause = tree->distinctClause;
	ListCell   *cell;

	if (tree->hasWindowFuncs)
		clause = ((WindowClause *) linitial(tree->windowClause))->partitionClause;
	foreach(cell, clause)
	{
		SortGroupClause *column = lfirst(cell);

		if (column->tleSortGroupRef == target->ressortgroupref)
			return column->eqop;
	}
	elog(ERROR, "column %d is in no partition", target->resno);
	return InvalidOid;
}

/*
 * cqrs_output_agrees looks through what a query makes of its rows.
 */
CqrsAgreement
cqrs_output_agrees(Query *tree, const TargetEntry *target, bool peers, const char **why)
{
	CqrsAgreement result;
	ListCell   *cell;

	*why = peers ? NULL : cqrs_output_mixed(tree, target);
	if (*why == NULL && cqrs_output_one_row(tree))
		*why = "is of the one row of an aggregate";
	result = keep(tree, tree->groupClause, target);
	if (!peers || !tree->hasDistinctOn)
		result = Max(result, keep(tree, tree->distinctClause, target));
	foreach(cell, tree->hasWindowFuncs && !peers ? tree->windowClause : NIL)
		result = Max(result, keep(tree, ((WindowClause *) lfirst(cell))->partitionClause, target));
	if (*why == NULL && result == CQRS_STRAYS)
		*why = "depends on how equal values of a group look";
	return *why == NULL ? result : CQRS_STRAYS;
}

/*
 * compares_rows tells whether a set operation, or one below it, takes rows for equal.
 */
static bool
compares_rows(Node *node)
{
	SetOperationStmt *operation = (SetOperationStmt *) node;

	return IsA(node, SetOperationStmt) &&
		(operation->op != SETOP_UNION || !operation->all || compares_rows(operation->larg) || compares_rows(operation->rarg));
}

/*
 * cqrs_output_set_agrees looks at what a set operation makes of a branch's rows.
 */
CqrsAgreement
cqrs_output_set_agrees(Query *tree, int column, Node *expression, const char **why)
{
	SetOperationStmt *operation = castNode(SetOperationStmt, tree->setOperations);

	*why = NULL;
	if (tree->limitCount != NULL || tree->limitOffset != NULL)
		*why = "is of rows that LIMIT or OFFSET chooses";
	else if (exprType(expression) != list_nth_oid(operation->colTypes, column) ||
			 exprCollation(expression) != list_nth_oid(operation->colCollations, column))
		*why = "is of other types or collations in the branches of a set operation";
	if (*why != NULL)
		return CQRS_STRAYS;
	return compares_rows((Node *) operation) && !is_exact(expression) ? CQRS_EQUAL : CQRS_SAME;
}
