/*
 * base/cost.h
 *		Estimates of plans.
 */
#ifndef CQRS_BASE_COST_H
#define CQRS_BASE_COST_H

#include "postgres.h"

#include "nodes/plannodes.h"

/* What the planner expects, in its units and in rows. */
typedef struct CqrsEstimate
{
	double		cost;
	double		rows;
} CqrsEstimate;

/* With 'one_row': of a loop that looks rows up by key, one at most for each. */
extern CqrsEstimate cqrs_cost_estimate(const PlannedStmt *statement, bool one_row);

#endif							/* CQRS_BASE_COST_H */
