/*
 * plan/skeleton.h
 *		What the makers of skeletons share: the queries of a definition, from the outermost down, while they are put into a skeleton.
 */
#ifndef CQRS_PLAN_SKELETON_H
#define CQRS_PLAN_SKELETON_H

#include "plan/query.h"

/* A column that a query puts out, over the skeleton's relations; or NULL and why it is not known, in words that follow its name. */
typedef struct CqrsOutput
{
	Node	   *expression;
	const char *why;
	bool		loose;			/* what it puts out is equal to the expression, but may look different */
} CqrsOutput;

/* What an entry of a query's range table is in the skeleton. */
typedef struct CqrsLeaf
{
	Index		relation;		/* a table, or 0 */
	List	   *outputs;		/* of CqrsOutput *: a subquery's */
	const char *why;			/* nothing is known of its columns */
} CqrsLeaf;

/* A query being put into the skeleton. */
typedef struct CqrsLevel
{
	struct CqrsLevel *above;	/* the query around it, or NULL */
	Query	   *tree;
	CqrsLeaf   *leaves;			/* by range table index */
	int			depth;
	bool		placed;			/* it is in FROM, and in FROM of all around it: */
	List	   *place;			/* of integer: by these range table indexes, from the definition's own down */
	bool		single;			/* a row of the definition is made of one row of it */
	bool		peers;			/* these are its rows beside those that they are chosen from or compared with */
	bool		nullable;		/* an outer join may null-extend its rows */
	List	   *positive;		/* of SubLink *: x = ANY (SELECT …), AND-ed in WHERE or an inner join's condition */
	List	   *set;			/* of integer: what is grouped by, with grouping sets */
} CqrsLevel;

/* ---- express.c ---- */

/* Writes an expression of a query over the skeleton; in it, 'answers' (List of CqrsOutput *) are what the subquery of an ANY puts out. */
extern CqrsOutput cqrs_express(CqrsLevel *level, Node *node, List *answers);

#endif							/* CQRS_PLAN_SKELETON_H */
