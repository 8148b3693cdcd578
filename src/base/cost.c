/*
 * base/cost.c
 *		What the planner thinks that a plan costs, and what it would think if it knew that a look-up by key finds one row.
 *
 * Pure: reads a finished plan.
 */
#include "postgres.h"

#include "base/cost.h"
#include "nodes/nodeFuncs.h"

/*
 * call_cost_walker adds up what the subqueries in expressions cost each time.
 */
static bool
call_cost_walker(Node *node, double *cost)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubPlan))
		*cost += ((SubPlan *) node)->per_call_cost;
	return expression_tree_walker(node, call_cost_walker, cost);
}

/*
 * excess returns what a plan was charged for subqueries in the columns of more rows than one.
 */
static double
excess(const Plan *plan)
{
	double		result = 0;

	for (; plan != NULL; plan = plan->lefttree)
	{
		double		call_cost = 0;

		(void) call_cost_walker((Node *) plan->targetlist, &call_cost);
		if (plan->plan_rows > 1)
			result += (plan->plan_rows - 1) * call_cost;
		if (!IsA(plan, Material) && !IsA(plan, Memoize) && !IsA(plan, Result) && !IsA(plan, Sort))
			break;
	}
	return result;
}

/*
 * cqrs_cost_estimate returns the planner's estimates for a statement.
 *
 * With 'one_row' the statement is a loop that looks rows up by key.  For a subquery grouped by the key the planner expects several rows where there is one, and
 * charges what is done with each of them; that part is taken off.
 */
CqrsEstimate
cqrs_cost_estimate(const PlannedStmt *statement, bool one_row)
{
	const Plan *plan = statement->planTree;
	CqrsEstimate estimate = {.cost = plan->total_cost, .rows = plan->plan_rows};
	const Plan *inner;

	if (!one_row || !IsA(plan, NestLoop))
		return estimate;
	inner = plan->righttree;
	if (IsA(inner, SubqueryScan))
		inner = ((SubqueryScan *) inner)->subplan;
	estimate.rows = Min(estimate.rows, plan->lefttree->plan_rows);
	estimate.cost = Max(estimate.cost - plan->lefttree->plan_rows * excess(inner), plan->startup_cost);
	return estimate;
}
