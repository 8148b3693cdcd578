/*
 * plan/unique.c
 *		Proofs that rows of a query are told apart by some of its columns.
 *
 * A grouped query's rows are told apart by what it groups by, a DISTINCT one's by all columns.  A join's rows are told apart once every relation in it is
 * determined: by a unique key of its own among the columns, or by one that conditions equate with what is determined already (many to one).  Nulls count
 * as one value.
 *
 * A proof is about rows at one moment, and rests on constraints as they are now.  Takes ACCESS SHARE on the indexes it looks at, and releases it.  Memory is
 * CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "base/compat.h"
#include "catalog/pg_class.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "registry/registry.h"
#include "storage/lockdefs.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

/* A column that a condition equates with an expression of other relations. */
typedef struct Equation
{
	Var		   *column;
	Relids		others;			/* relations in the expression; empty if it is the same for all rows */
	bool		matched_only;	/* the condition holds only where an outer join has matched */
} Equation;

/* What is known in a proof about a join. */
typedef struct Proof
{
	Query	   *tree;
	List	   *given;			/* of Var *: columns whose values are fixed */
	List	   *equations;		/* of Equation * */
	bool		outer_joins;	/* may equations that hold only on a match be used? */
	Relids		determined;
} Proof;

/*
 * is_equality tells whether a condition is an equality by which an index keeps the column's values apart.
 */
static bool
is_equality(const OpExpr *clause, const Var *column)
{
	TypeCacheEntry *type = lookup_type_cache(column->vartype, TYPECACHE_BTREE_OPFAMILY);

	return clause->inputcollid == column->varcollid && OidIsValid(type->btree_opf) &&
		get_op_opfamily_strategy(clause->opno, type->btree_opf) == BTEqualStrategyNumber;
}

/*
 * add_equation notes that a side of an equality is a column which the other side determines.
 *
 * 'sides' are the relations whose columns the condition may determine.
 */
static void
add_equation(Proof *proof, OpExpr *clause, Node *side, Node *other, Relids sides, bool matched_only)
{
	Equation   *equation;
	Var		   *column;

	while (IsA(side, RelabelType))
		side = (Node *) ((RelabelType *) side)->arg;
	column = (Var *) side;
	if (!IsA(side, Var) || column->varlevelsup > 0 || !bms_is_member(column->varno, sides) ||
		!is_equality(clause, column))
		return;
	equation = palloc(sizeof(Equation));
	equation->column = column;
	equation->others = pull_varnos(NULL, other);
	equation->matched_only = matched_only;
	if (!bms_is_member(column->varno, equation->others))
		proof->equations = lappend(proof->equations, equation);
}

/*
 * add_equations collects what the conditions of a join tree equate.
 *
 * An outer join's own condition determines its nullable side only; a full join's, neither.
 */
static void
add_equations(Proof *proof, const CqrsJoin *join)
{
	Relids		sides = join->relations;
	ListCell   *cell;

	foreach(cell, join->children)
		add_equations(proof, lfirst(cell));
	if (join->type == JOIN_FULL)
		return;
	if (join->type != JOIN_INNER)
		sides = ((CqrsJoin *) (join->type == JOIN_LEFT ? lsecond(join->children) : linitial(join->children)))->relations;
	foreach(cell, join->conjuncts)
	{
		OpExpr	   *clause = (OpExpr *) ((CqrsConjunct *) lfirst(cell))->clause;

		if (!IsA(clause, OpExpr) || list_length(clause->args) != 2)
			continue;
		add_equation(proof, clause, linitial(clause->args), lsecond(clause->args), sides, join->type != JOIN_INNER);
		add_equation(proof, clause, lsecond(clause->args), linitial(clause->args), sides, join->type != JOIN_INNER);
	}
}

/*
 * index_columns returns the columns that an index keeps unique and not null, or NULL.
 */
static Bitmapset *
index_columns(Relation table, Oid index_oid)
{
	Relation	index = index_open(index_oid, AccessShareLock);
	Form_pg_index form = index->rd_index;
	Bitmapset  *columns = NULL;
	bool		good = form->indisunique && form->indimmediate && form->indisvalid &&
		RelationGetIndexPredicate(index) == NIL && RelationGetIndexExpressions(index) == NIL;

	for (int i = 0; good && i < form->indnkeyatts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(table), form->indkey.values[i] - 1);
		TypeCacheEntry *type = lookup_type_cache(attribute->atttypid, TYPECACHE_BTREE_OPFAMILY);

		good = attribute->attnotnull && index->rd_opfamily[i] == type->btree_opf &&
			index->rd_indcollation[i] == attribute->attcollation;
		columns = bms_add_member(columns, attribute->attnum);
	}
	index_close(index, AccessShareLock);
	return good ? columns : NULL;
}

/*
 * keys_of_table returns the sets of columns that are unique and not null in a table, as List of Bitmapset *, the primary key first.
 */
static List *
keys_of_table(Oid relid)
{
	Relation	table = relation_open(relid, AccessShareLock);
	Oid			primary;
	List	   *result = NIL;
	List	   *indexes = RelationGetIndexList(table);
	Bitmapset  *key;
	ListCell   *cell;

	primary = cqrs_compat_primary_key(table);
	foreach(cell, indexes)
	{
		Bitmapset  *columns = index_columns(table, lfirst_oid(cell));

		if (columns == NULL)
			continue;
		result = lfirst_oid(cell) == primary ? lcons(columns, result) : lappend(result, columns);
	}
	relation_close(table, NoLock);
	if (result == NIL && cqrs_key_of_version(relid, &key))
		result = list_make1(key);
	return result;
}

/*
 * keys_of returns the sets of columns that tell a relation's rows apart, as List of Bitmapset *.
 *
 * The index of a partitioned table tells the rows of all partitions apart; that of an inheritance parent those of the parent alone.
 */
static List *
keys_of(const RangeTblEntry *entry)
{
	Bitmapset  *columns;

	if (entry->rtekind == RTE_RELATION && entry->relkind == RELKIND_PARTITIONED_TABLE)
		return entry->inh ? keys_of_table(entry->relid) : NIL;
	if (entry->rtekind == RTE_RELATION && entry->relkind == RELKIND_RELATION)
		return entry->inh && list_length(cqrs_tree_members(entry->relid)) > 1 ? NIL : keys_of_table(entry->relid);
	if (entry->rtekind == RTE_RELATION && entry->relkind == RELKIND_VIEW)
		return cqrs_unique_infer(cqrs_query_of_view(entry->relid), &columns) ? list_make1(columns) : NIL;
	if (entry->rtekind == RTE_SUBQUERY)
		return cqrs_unique_infer(entry->subquery, &columns) ? list_make1(columns) : NIL;
	return NIL;
}

/*
 * is_fixed tells whether a column has one value, given what is determined.
 */
static bool
is_fixed(const Proof *proof, Index relation, AttrNumber attnum)
{
	ListCell   *cell;

	foreach(cell, proof->given)
	{
		Var		   *column = lfirst(cell);

		if (column->varno == relation && column->varattno == attnum)
			return true;
	}
	foreach(cell, proof->equations)
	{
		Equation   *equation = lfirst(cell);

		if (equation->column->varno == relation && equation->column->varattno == attnum &&
			(proof->outer_joins || !equation->matched_only) && bms_is_subset(equation->others, proof->determined))
			return true;
	}
	return false;
}

/*
 * is_determined tells whether a relation has one row, given what is determined.
 */
static bool
is_determined(const Proof *proof, Index relation)
{
	RangeTblEntry *entry = rt_fetch(relation, proof->tree->rtable);
	ListCell   *cell;

	if (entry->lateral && entry->rtekind == RTE_SUBQUERY &&
		!bms_is_subset(pull_varnos_of_level(NULL, (Node *) entry->subquery, 1), proof->determined))
		return false;
	foreach(cell, keys_of(entry))
	{
		int			column = -1;

		while ((column = bms_next_member(lfirst(cell), column)) >= 0)
			if (!is_fixed(proof, relation, column))
				break;
		if (column < 0)
			return true;
	}
	return false;
}

/*
 * determine works out which relations are determined, to the end.
 */
static void
determine(Proof *proof, Relids relations)
{
	bool		progress;

	do
	{
		int			relation = -1;

		progress = false;
		while ((relation = bms_next_member(relations, relation)) >= 0)
		{
			if (bms_is_member(relation, proof->determined) || !is_determined(proof, relation))
				continue;
			proof->determined = bms_add_member(proof->determined, relation);
			progress = true;
		}
	} while (progress);
}

/*
 * expressions_of returns the output columns of a query without join aliases, as List of TargetEntry *.
 */
static List *
expressions_of(Query *tree)
{
	return (List *) cqrs_compat_flatten_joins(tree, (Node *) copyObject(tree->targetList));
}

/*
 * begin_proof starts a proof in which the output columns 'columns' are given; those that are expressions tell nothing.
 */
static void
begin_proof(Proof *proof, Query *tree, const CqrsJoin *join, Bitmapset *columns)
{
	ListCell   *cell;

	memset(proof, 0, sizeof(Proof));
	proof->tree = tree;
	foreach(cell, expressions_of(tree))
	{
		TargetEntry *target = lfirst(cell);
		Var		   *column = (Var *) target->expr;

		if (bms_is_member(target->resno, columns) && IsA(column, Var) && column->varlevelsup == 0)
			proof->given = lappend(proof->given, column);
	}
	add_equations(proof, join);
}

/*
 * joins_unique tells whether the columns tell the rows of FROM and WHERE apart.
 */
static bool
joins_unique(Query *tree, Bitmapset *columns)
{
	CqrsJoin   *join = cqrs_join_build(tree);
	Proof		proof;

	begin_proof(&proof, tree, join, columns);
	proof.outer_joins = true;
	determine(&proof, join->relations);
	return bms_is_subset(join->relations, proof.determined);
}

/*
 * is_output tells whether one of the columns is this expression.
 */
static bool
is_output(List *expressions, Bitmapset *columns, Node *expression)
{
	ListCell   *cell;

	foreach(cell, expressions)
	{
		TargetEntry *target = lfirst(cell);

		if (bms_is_member(target->resno, columns) && equal(target->expr, expression))
			return true;
	}
	return false;
}

/*
 * groups_unique tells whether the columns tell groups apart: they hold each grouping expression, or what determines it.
 *
 * A relation that only some rows of a group match must not count as determined, so outer joins' own conditions are no help here.
 */
static bool
groups_unique(Query *tree, Bitmapset *columns)
{
	CqrsJoin   *join = cqrs_join_build(tree);
	List	   *expressions = expressions_of(tree);
	Proof		proof;
	ListCell   *cell;

	begin_proof(&proof, tree, join, columns);
	determine(&proof, join->relations);
	foreach(cell, tree->groupClause)
	{
		Node	   *group = (Node *) get_sortgroupclause_tle(lfirst(cell), expressions)->expr;

		if (!is_output(expressions, columns, group) && !bms_is_subset(pull_varnos(NULL, group), proof.determined))
			return false;
	}
	return true;
}

/*
 * unique_before_distinct proves columns unique in what a query's FROM, WHERE, GROUP BY and HAVING yield.
 */
static bool
unique_before_distinct(Query *tree, Bitmapset *columns)
{
	if (tree->setOperations != NULL || tree->groupingSets != NIL || tree->hasTargetSRFs)
		return false;
	if (tree->groupClause != NIL)
		return groups_unique(tree, columns);
	if (tree->hasAggs || tree->havingQual != NULL)
		return true;
	return joins_unique(tree, columns);
}

/*
 * visible_columns returns all columns that a query puts out.
 */
static Bitmapset *
visible_columns(Query *tree)
{
	Bitmapset  *columns = NULL;
	ListCell   *cell;

	foreach(cell, tree->targetList)
	{
		TargetEntry *target = lfirst(cell);

		if (!target->resjunk)
			columns = bms_add_member(columns, target->resno);
	}
	return columns;
}

/*
 * listed_columns returns the columns that a list of SortGroupClause names, junk ones too.
 */
static Bitmapset *
listed_columns(Query *tree, List *clauses)
{
	Bitmapset  *columns = NULL;
	ListCell   *cell;

	foreach(cell, clauses)
		columns = bms_add_member(columns, get_sortgroupclause_tle(lfirst(cell), tree->targetList)->resno);
	return columns;
}

/*
 * cqrs_unique_by proves columns unique in a query's output.
 */
bool
cqrs_unique_by(Query *tree, Bitmapset *columns)
{
	SetOperationStmt *operation = (SetOperationStmt *) tree->setOperations;

	if (operation != NULL)
		return !operation->all && bms_is_subset(visible_columns(tree), columns);
	if (tree->distinctClause != NIL && bms_is_subset(listed_columns(tree, tree->distinctClause), columns))
		return true;
	return unique_before_distinct(tree, columns);
}

/*
 * cqrs_unique_ordered tells whether ORDER BY leaves no ties among the rows before any DISTINCT ON and LIMIT.
 */
bool
cqrs_unique_ordered(Query *tree)
{
	return cqrs_unique_by(tree, listed_columns(tree, tree->sortClause)) &&
		(!tree->hasDistinctOn || unique_before_distinct(tree, listed_columns(tree, tree->sortClause)));
}

/*
 * add_relation_key adds, for one relation, the output columns that hold a key of it, if they are there.
 */
static Bitmapset *
add_relation_key(Bitmapset *columns, Query *tree, Index relation, List *expressions)
{
	ListCell   *cell;
	ListCell   *inner;

	foreach(cell, keys_of(rt_fetch(relation, tree->rtable)))
	{
		Bitmapset  *missing = bms_copy(lfirst(cell));
		Bitmapset  *found = NULL;

		foreach(inner, expressions)
		{
			TargetEntry *target = lfirst(inner);
			Var		   *column = (Var *) target->expr;

			if (target->resjunk || !IsA(column, Var) || column->varlevelsup > 0 || column->varno != relation ||
				!bms_is_member(column->varattno, missing))
				continue;
			missing = bms_del_member(missing, column->varattno);
			found = bms_add_member(found, target->resno);
		}
		if (bms_is_empty(missing))
			return bms_add_members(columns, found);
	}
	return columns;
}

/*
 * candidates returns output columns from which a key might be made.
 */
static Bitmapset *
candidates(Query *tree)
{
	List	   *expressions = expressions_of(tree);
	Bitmapset  *columns = NULL;
	Relids		relations;
	int			relation = -1;
	ListCell   *cell;

	if (tree->setOperations != NULL || (tree->distinctClause != NIL && !tree->hasDistinctOn))
		return visible_columns(tree);
	if (tree->distinctClause != NIL)
		return bms_intersect(listed_columns(tree, tree->distinctClause), visible_columns(tree));
	foreach(cell, tree->groupClause)
	{
		Node	   *group = (Node *) get_sortgroupclause_tle(lfirst(cell), expressions)->expr;
		ListCell   *inner;

		foreach(inner, expressions)
		{
			TargetEntry *target = lfirst(inner);

			if (target->resjunk || !equal(target->expr, group))
				continue;
			columns = bms_add_member(columns, target->resno);
			break;
		}
	}
	if (tree->groupClause != NIL || tree->hasAggs || tree->havingQual != NULL)
		return columns;
	relations = cqrs_join_build(tree)->relations;
	while ((relation = bms_next_member(relations, relation)) >= 0)
		columns = add_relation_key(columns, tree, relation, expressions);
	return columns;
}

/*
 * cqrs_unique_infer finds columns that tell a query's rows apart, no more of them than needed, the first ones where there is a choice.
 */
bool
cqrs_unique_infer(Query *tree, Bitmapset **columns)
{
	*columns = candidates(tree);
	if (!cqrs_unique_by(tree, *columns))
		return false;
	for (int column = list_length(tree->targetList); column > 0; column--)
	{
		Bitmapset  *fewer;

		if (!bms_is_member(column, *columns))
			continue;
		fewer = bms_del_member(bms_copy(*columns), column);
		if (cqrs_unique_by(tree, fewer))
			*columns = fewer;
	}
	return true;
}
