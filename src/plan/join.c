/*
 * plan/join.c
 *		The join tree: which relations are sure to be present, which conditions then hold, and how relations are linked by them.
 *
 * This is the part of the rule for affected keys that knows about outer joins.  A condition takes part only if it is strict (not true when any
 * relation it mentions is null-extended) and stands AND-ed in WHERE or in a join that is inner or is known to have matched; the ON of a join that stays
 * outer says nothing about its preserved side, filters included.
 *
 * Pure: works on the tree it is given and takes no locks.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/compat.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "plan/query.h"

/* What is known so far. */
typedef struct Reduction
{
	Relids		present;
	List	   *conjuncts;
} Reduction;

/* How a search for a path came to a relation: from which one, by which condition. */
typedef struct Step
{
	Index		from;			/* 0: not reached yet */
	CqrsConjunct *by;			/* NULL for the start */
} Step;

/*
 * whole_row_walker finds variables that stand for whole rows.
 */
static bool
whole_row_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return ((Var *) node)->varattno == InvalidAttrNumber;
	return expression_tree_walker(node, whole_row_walker, context);
}

/*
 * cqrs_join_whole_row tells whether an expression mentions a whole row, which a delta cannot stand in for.
 */
bool
cqrs_join_whole_row(Node *node)
{
	return whole_row_walker(node, NULL);
}

/*
 * cqrs_join_conjuncts takes a condition apart at its ANDs.
 */
List *
cqrs_join_conjuncts(List *conjuncts, Node *condition, int depth)
{
	CqrsConjunct *conjunct;
	ListCell   *cell;

	if (condition == NULL)
		return conjuncts;
	if (is_andclause(condition))
	{
		foreach(cell, ((BoolExpr *) condition)->args)
			conjuncts = cqrs_join_conjuncts(conjuncts, lfirst(cell), depth);
		return conjuncts;
	}
	conjunct = palloc(sizeof(CqrsConjunct));
	conjunct->clause = condition;
	conjunct->depth = depth;
	conjunct->relations = pull_varnos(NULL, condition);
	conjunct->strict = !bms_is_empty(conjunct->relations) && !whole_row_walker(condition, NULL) &&
		bms_is_subset(conjunct->relations, find_nonnullable_rels(condition));
	return lappend(conjuncts, conjunct);
}

static CqrsJoin *build(Node *node);

/*
 * add_child hangs a part of FROM under a join.
 */
static void
add_child(CqrsJoin *join, Node *node)
{
	CqrsJoin   *child = build(node);

	join->children = lappend(join->children, child);
	join->relations = bms_add_members(join->relations, child->relations);
}

/*
 * build makes the node for a part of FROM.
 */
static CqrsJoin *
build(Node *node)
{
	CqrsJoin   *join = palloc0(sizeof(CqrsJoin));
	ListCell   *cell;

	join->type = JOIN_INNER;
	if (IsA(node, RangeTblRef))
	{
		join->leaf = ((RangeTblRef *) node)->rtindex;
		join->relations = bms_make_singleton(join->leaf);
	}
	else if (IsA(node, FromExpr))
	{
		foreach(cell, ((FromExpr *) node)->fromlist)
			add_child(join, lfirst(cell));
		join->conjuncts = cqrs_join_conjuncts(NIL, ((FromExpr *) node)->quals, 0);
	}
	else
	{
		JoinExpr   *expr = castNode(JoinExpr, node);

		join->type = expr->jointype;
		add_child(join, expr->larg);
		add_child(join, expr->rarg);
		join->conjuncts = cqrs_join_conjuncts(NIL, expr->quals, 0);
	}
	return join;
}

/*
 * cqrs_join_build makes the join tree of a query, with WHERE at its root and join aliases resolved.
 */
CqrsJoin *
cqrs_join_build(Query *tree)
{
	return build(cqrs_compat_flatten_joins(tree, (Node *) copyObject(tree->jointree)));
}

/*
 * apply_conjuncts notes the conditions of a join whose sides are both present.
 */
static void
apply_conjuncts(const CqrsJoin *join, Reduction *reduction)
{
	ListCell   *cell;

	foreach(cell, join->conjuncts)
	{
		CqrsConjunct *conjunct = lfirst(cell);

		if (!conjunct->strict)
			continue;
		reduction->conjuncts = lappend(reduction->conjuncts, conjunct);
		reduction->present = bms_add_members(reduction->present, conjunct->relations);
	}
}

/*
 * reduce walks down the parts of a join tree that are present.
 */
static void
reduce(const CqrsJoin *join, Reduction *reduction)
{
	CqrsJoin   *left;
	CqrsJoin   *right;
	bool		left_met;
	bool		right_met;
	ListCell   *cell;

	if (join->leaf != 0)
	{
		reduction->present = bms_add_member(reduction->present, join->leaf);
		return;
	}
	if (join->type == JOIN_INNER)
	{
		apply_conjuncts(join, reduction);
		foreach(cell, join->children)
			reduce(lfirst(cell), reduction);
		return;
	}
	left = linitial(join->children);
	right = lsecond(join->children);
	left_met = bms_overlap(reduction->present, left->relations);
	right_met = bms_overlap(reduction->present, right->relations);
	if ((join->type == JOIN_LEFT || left_met) && (join->type == JOIN_RIGHT || right_met))
		apply_conjuncts(join, reduction);
	if (join->type == JOIN_LEFT || left_met)
		reduce(left, reduction);
	if (join->type == JOIN_RIGHT || right_met)
		reduce(right, reduction);
}

/*
 * cqrs_join_reduce works out what is present, given what is supposed to be, as the planner does when it reduces outer joins.
 */
Relids
cqrs_join_reduce(const CqrsJoin *join, Relids present, List **conjuncts)
{
	Reduction	reduction = {.present = bms_copy(present)};
	int			before;

	do
	{
		before = bms_num_members(reduction.present);
		reduction.conjuncts = NIL;
		reduce(join, &reduction);
	} while (bms_num_members(reduction.present) > before);
	if (conjuncts != NULL)
		*conjuncts = reduction.conjuncts;
	return reduction.present;
}

/*
 * search goes out from one relation, step by step through the conditions, until it meets another.
 */
static bool
search(List *conjuncts, Index start, Index goal, Step *steps)
{
	List	   *reached = list_make1_int(start);
	ListCell   *at;
	ListCell   *cell;

	steps[start].from = start;
	foreach(at, reached)
	{
		if (steps[goal].from != 0)
			return true;
		foreach(cell, conjuncts)
		{
			CqrsConjunct *conjunct = lfirst(cell);
			int			next = -1;

			if (!bms_is_member(lfirst_int(at), conjunct->relations))
				continue;
			while ((next = bms_next_member(conjunct->relations, next)) >= 0)
			{
				if (steps[next].from != 0)
					continue;
				steps[next].from = lfirst_int(at);
				steps[next].by = conjunct;
				reached = lappend_int(reached, next);
			}
		}
	}
	return steps[goal].from != 0;
}

/*
 * highest returns the greatest relation that a path may meet.
 */
static int
highest(List *conjuncts, Index from, Relids targets)
{
	Relids		all = bms_add_member(bms_copy(targets), from);
	int			member = -1;
	int			result = 0;
	ListCell   *cell;

	foreach(cell, conjuncts)
		all = bms_add_members(all, ((CqrsConjunct *) lfirst(cell))->relations);
	while ((member = bms_next_member(all, member)) >= 0)
		result = member;
	return result;
}

/*
 * cqrs_join_path links 'from' with the targets, each by a shortest way.
 *
 * A condition about three relations links all of them.  The search begins at the target, so that ways to one target from several relations agree.
 */
bool
cqrs_join_path(List *conjuncts, Index from, Relids targets, Relids *path, bool *pairs)
{
	int			nsteps = highest(conjuncts, from, targets) + 1;
	int			target = -1;

	*path = bms_make_singleton(from);
	*pairs = true;
	while ((target = bms_next_member(targets, target)) >= 0)
	{
		Step	   *steps = palloc0(sizeof(Step) * nsteps);

		if (bms_is_member(target, *path))
			continue;
		if (!search(conjuncts, target, from, steps))
			return false;
		for (Index at = from; steps[at].by != NULL; at = steps[at].from)
		{
			*path = bms_add_members(*path, steps[at].by->relations);
			if (bms_num_members(steps[at].by->relations) > 2)
				*pairs = false;
		}
	}
	return true;
}
