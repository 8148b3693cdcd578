/*
 * plan/express.c
 *		Expressions of a definition's queries, written over the tables of a skeleton.
 *
 * What a subquery puts out is replaced by the expression that it is there, down to columns of tables.  What cannot be written so has a reason why.
 *
 * Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "plan/skeleton.h"

/* State of writing an expression anew. */
typedef struct Rewriting
{
	CqrsLevel	   *level;
	List	   *answers;		/* of CqrsOutput *: what the subquery of an ANY puts out */
	List	   *blind;			/* of Node *: columns in it of which only matters what they are equal to */
	const char *why;			/* why it cannot be written, once that is found */
	bool		loose;			/* it mentions a column that is loose */
} Rewriting;

static Node *rewrite_mutator(Node *node, Rewriting *rewriting);

/*
 * blind_to_looks lists the columns in an expression of which it sees only what they are equal to: itself, or the sides of an equality.
 */
static List *
blind_to_looks(Node *expression)
{
	OpExpr	   *operation = (OpExpr *) expression;

	if (IsA(expression, Var))
		return list_make1(expression);
	if (IsA(expression, OpExpr) && list_length(operation->args) == 2 &&
		operation->opno == cqrs_key_equality(exprType(linitial(operation->args))))
		return list_copy(operation->args);
	return NIL;
}

/*
 * take_output writes what a subquery puts out.
 */
static Node *
take_output(const CqrsOutput *output, bool blind, Rewriting *rewriting)
{
	rewriting->why = output->why;
	if (output->loose && !blind)
		rewriting->why = "depends on how equal values of a group look";
	rewriting->loose = rewriting->loose || output->loose;
	return copyObject(output->expression);
}

/*
 * rewrite_alias writes what a column of a join's alias stands for.
 */
static Node *
rewrite_alias(CqrsLevel *level, const RangeTblEntry *entry, AttrNumber attnum, bool blind, Rewriting *rewriting)
{
	Rewriting	inner = {.level = level};
	Node	   *result;

	if (attnum == InvalidAttrNumber)
	{
		rewriting->why = "is made of a whole row";
		return NULL;
	}
	inner.blind = blind ? blind_to_looks(list_nth(entry->joinaliasvars, attnum - 1)) : NIL;
	result = rewrite_mutator(list_nth(entry->joinaliasvars, attnum - 1), &inner);
	rewriting->why = inner.why;
	rewriting->loose = rewriting->loose || inner.loose;
	return result;
}

/*
 * rewrite_column writes a column over the skeleton.
 */
static Node *
rewrite_column(const Var *var, Rewriting *rewriting)
{
	CqrsLevel	   *level = rewriting->level;
	bool		blind = list_member_ptr(rewriting->blind, var);
	RangeTblEntry *entry;
	CqrsLeaf	   *leaf;

	for (Index up = 0; up < var->varlevelsup; up++)
		level = level->above;
	entry = rt_fetch(var->varno, level->tree->rtable);
	if (entry->rtekind == RTE_JOIN)
		return rewrite_alias(level, entry, var->varattno, blind, rewriting);
	leaf = &level->leaves[var->varno];
	if (leaf->relation != 0)
		return (Node *) makeVar(leaf->relation, var->varattno, var->vartype, var->vartypmod, var->varcollid, 0);
	rewriting->why = leaf->why;
	if (leaf->why == NULL && var->varattno == InvalidAttrNumber)
		rewriting->why = "is made of a whole row";
	if (rewriting->why != NULL)
		return NULL;
	return take_output(list_nth(leaf->outputs, var->varattno - 1), blind, rewriting);
}

/*
 * rewrite_grouping writes what GROUPING answers under the grouping set chosen: a bit for each of its arguments that is left out.
 */
static Node *
rewrite_grouping(const GroupingFunc *grouping, const CqrsLevel *level)
{
	int32		answer = 0;
	ListCell   *cell;

	for (Index up = 0; up < grouping->agglevelsup; up++)
		level = level->above;
	foreach(cell, level->tree->groupingSets != NIL ? grouping->refs : NIL)
		answer = answer << 1 | !list_member_int(level->set, lfirst_int(cell));
	return (Node *) makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(answer), false, true);
}

/*
 * unknown_kind names what a node computes that no expression over rows of tables can, or NULL.
 */
static const char *
unknown_kind(Node *node)
{
	switch (nodeTag(node))
	{
		case T_Aggref:
			return "is an aggregate";
		case T_WindowFunc:
			return "is a window function's answer";
		case T_SubLink:
			return "is a subquery's answer";
		case T_Param:
			return "is a parameter";
		case T_FuncExpr:
			return ((FuncExpr *) node)->funcretset ? "is a set-returning function's answer" : NULL;
		case T_OpExpr:
			return ((OpExpr *) node)->opretset ? "is a set-returning function's answer" : NULL;
		default:
			return NULL;
	}
}

/*
 * rewrite_mutator writes an expression of a query over the skeleton, as far as it is possible.
 */
static Node *
rewrite_mutator(Node *node, Rewriting *rewriting)
{
	if (node == NULL || rewriting->why != NULL)
		return NULL;
	if (IsA(node, Var))
		return rewrite_column((Var *) node, rewriting);
	if (IsA(node, Param) && rewriting->answers != NIL && ((Param *) node)->paramkind == PARAM_SUBLINK)
		return take_output(list_nth(rewriting->answers, ((Param *) node)->paramid - 1),
						   list_member_ptr(rewriting->blind, node), rewriting);
	if (IsA(node, GroupingFunc))
		return rewrite_grouping((GroupingFunc *) node, rewriting->level);
	rewriting->why = unknown_kind(node);
	if (rewriting->why != NULL)
		return NULL;
	return expression_tree_mutator(node, rewrite_mutator, rewriting);
}

/*
 * cqrs_express writes an expression of a query over the skeleton, or says why it cannot be.
 */
CqrsOutput
cqrs_express(CqrsLevel *level, Node *node, List *answers)
{
	Rewriting	rewriting = {.level = level, .answers = answers, .blind = blind_to_looks(node)};
	CqrsOutput		result;

	result.expression = rewrite_mutator(node, &rewriting);
	result.why = rewriting.why;
	result.loose = rewriting.loose;
	return result;
}
