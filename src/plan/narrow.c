/*
 * plan/narrow.c
 *		Strategy keys: what parts of a definition that are evaluated by themselves need to hold where some keys are recomputed.
 *
 * A condition on the key does not get into a subquery with groups or windows that is joined on another column, so all of it would be evaluated.  But of its
 * rows only those matter that conditions of the query around link with rows of the affected keys, and these are found as affected keys are, the other way
 * round: by a path of conditions from the affected keys to what the subquery is joined with.  That is said of columns only which keep its groups and
 * partitions apart, so those that are wanted are whole.  Rows that a window compares are linked in that way with those that are computed.
 *
 * Only conditions that cannot fail take part: they are asked of other rows here than where the definition is evaluated.
 *
 * Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/compat.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "rewrite/rewriteManip.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

/* A column of a part, and what it must equal: an expression over the skeleton, which may be a key's column. */
typedef struct Link
{
	const CqrsPartColumn *column;
	Node	   *other;
	Oid			operator;
	Oid			collation;
	bool		commuted;		/* the other comes first */
	int			key;			/* -1 if it is none */
} Link;

/* A part being narrowed. */
typedef struct Narrowing
{
	const CqrsProgram *program;
	const CqrsSkeleton *skeleton;
	const CqrsPart *part;
	List	   *keys;			/* of Var *, or NULL where a key's column is null or no column */
	List	   *conjuncts;		/* of CqrsConjunct *: what holds for rows of the part and of the keys */
	List	   *links;			/* of Link * */
	Relids		path;
	int		   *position;		/* by relation: its index in the condition's query */
} Narrowing;

/* What came of it. */
typedef enum Outcome
{
	NARROWED,
	NARROWED_BY_KEY,			/* to the affected keys themselves, as a key that is a parameter of the definition narrows it, too */
	AS_IT_WAS,
	EMPTY						/* none of its rows is of these keys */
} Outcome;

/*
 * column_of returns the column that an expression is, or NULL.
 */
static Var *
column_of(Node *node)
{
	return node != NULL && IsA(node, Var) ? (Var *) node : NULL;
}

/*
 * is_harmless tells whether a condition can be asked of any row: it is an equality of columns, or made of what never fails.
 */
static bool
is_harmless(Node *clause)
{
	OpExpr	   *operation = (OpExpr *) clause;

	if (IsA(clause, OpExpr) && list_length(operation->args) == 2 && column_of(linitial(operation->args)) != NULL &&
		column_of(lsecond(operation->args)) != NULL && op_mergejoinable(operation->opno, exprType(linitial(operation->args))))
		return true;
	return !contain_leaked_vars(clause);
}

/*
 * key_relations returns the relations of the key's columns that are known not to be null.
 */
static Relids
key_relations(const Narrowing *narrowing)
{
	return pull_varnos(NULL, (Node *) narrowing->keys);
}

/*
 * take_conjuncts finds out what holds for rows of the part that rows of the keys are made of; false if nothing is sure.
 */
static bool
take_conjuncts(Narrowing *narrowing, uint32 nulls)
{
	Relids		present = cqrs_join_reduce(narrowing->part->join, NULL, NULL);
	List	   *conjuncts;
	ListCell   *cell;

	if (bms_is_empty(present))
		return false;
	foreach(cell, narrowing->skeleton->keys)
	{
		Var		   *column = column_of(lfirst(cell));
		int			key = foreach_current_index(cell);
		Oid			type = TupleDescAttr(narrowing->program->affected, key)->atttypid;

		if ((nulls >> key) & 1 || (column != NULL && column->vartype != type))
			column = NULL;
		narrowing->keys = lappend(narrowing->keys, column);
	}
	present = bms_union(present, key_relations(narrowing));
	(void) cqrs_join_reduce(narrowing->skeleton->join, present, &conjuncts);
	foreach(cell, conjuncts)
		if (is_harmless(((CqrsConjunct *) lfirst(cell))->clause))
			narrowing->conjuncts = lappend(narrowing->conjuncts, lfirst(cell));
	return !bms_is_empty(key_relations(narrowing));
}

/*
 * key_like finds the key's column that an expression is sure to equal; -1 if there is none.
 */
static int
key_like(const Narrowing *narrowing, Node *expression)
{
	Var		   *column = column_of(expression);
	ListCell   *cell;

	foreach(cell, narrowing->keys)
	{
		Var		   *key = lfirst(cell);

		if (column != NULL && key != NULL &&
			(equal(column, key) || equal(column, cqrs_keys_equated(key, column->varno, narrowing->conjuncts))))
			return foreach_current_index(cell);
	}
	return -1;
}

/*
 * add_link notes a column of the part and what it equals.
 */
static void
add_link(Narrowing *narrowing, const CqrsPartColumn *column, Node *other, OpExpr *clause)
{
	Link	   *link = palloc0(sizeof(Link));

	link->column = column;
	link->other = other;
	link->operator = clause != NULL ? clause->opno : column->equality;
	link->collation = clause != NULL ? clause->inputcollid : exprCollation(column->expression);
	link->commuted = clause != NULL && other == linitial(clause->args);
	link->key = key_like(narrowing, other);
	narrowing->links = lappend(narrowing->links, link);
}

/*
 * tells_apart tells whether rows that an operator takes for different are never in one group or partition.
 */
static bool
tells_apart(const OpExpr *clause, Node *expression)
{
	return cqrs_key_exact(exprType(expression), exprCollation(expression)) ||
		(clause->opno == cqrs_key_equality(exprType(expression)) && clause->inputcollid == exprCollation(expression));
}

/*
 * link_column looks for conditions that link a column of the part with what is outside of it.
 */
static void
link_column(Narrowing *narrowing, const CqrsPartColumn *column)
{
	ListCell   *cell;

	foreach(cell, narrowing->keys)
	{
		Var		   *key = lfirst(cell);

		if (key != NULL && equal(key, column->expression))
		{
			Node	   *matches = cqrs_compute_matches(narrowing->program, foreach_current_index(cell), 1, (Node *) key);
			OpExpr	   *clause = (OpExpr *) matches;

			linitial(clause->args) = key;
			if (tells_apart(clause, column->expression))
				add_link(narrowing, column, (Node *) key, clause);
		}
	}
	foreach(cell, narrowing->conjuncts)
	{
		OpExpr	   *clause = (OpExpr *) ((CqrsConjunct *) lfirst(cell))->clause;

		if (!IsA(clause, OpExpr) || list_length(clause->args) != 2 || !tells_apart(clause, column->expression))
			continue;
		for (int side = 0; side < 2; side++)
		{
			Var		   *other = column_of(list_nth(clause->args, side));

			if (other != NULL && equal(list_nth(clause->args, 1 - side), column->expression) &&
				!bms_is_member(other->varno, narrowing->part->join->relations))
				add_link(narrowing, column, (Node *) other, clause);
		}
	}
}

/*
 * choose_links keeps those links that take the fewest relations to follow: those with the key itself, or else with one relation.
 */
static void
choose_links(Narrowing *narrowing)
{
	List	   *kept = NIL;
	ListCell   *cell;

	foreach(cell, narrowing->links)
		if (((Link *) lfirst(cell))->key >= 0)
			kept = lappend(kept, lfirst(cell));
	foreach(cell, kept == NIL ? narrowing->links : NIL)
	{
		Link	   *link = lfirst(cell);

		if (kept == NIL || column_of(link->other)->varno == column_of(((Link *) linitial(kept))->other)->varno)
			kept = lappend(kept, link);
	}
	narrowing->links = kept;
}

/*
 * find_links finds what the part's columns are linked with; says whether that is something, nothing, or something that no row of the keys has.
 *
 * Of rows that are compared, all columns count: rows that differ in one of them are not compared.
 */
static Outcome
find_links(Narrowing *narrowing, uint32 nulls)
{
	ListCell   *cell;
	ListCell   *key;

	foreach(cell, narrowing->part->columns)
	{
		const CqrsPartColumn *column = lfirst(cell);

		if (!is_harmless(column->expression) || contain_leaked_vars(column->written))
			continue;
		if (!narrowing->part->peers)
			link_column(narrowing, column);
		else
			add_link(narrowing, column, column->peer, NULL);
		foreach(key, narrowing->part->peers ? narrowing->skeleton->keys : NIL)
			if (equal(lfirst(key), column->peer) && column->null != ((nulls >> foreach_current_index(key)) & 1))
				return EMPTY;
	}
	if (!narrowing->part->peers)
		choose_links(narrowing);
	else if (list_length(narrowing->links) < list_length(narrowing->part->columns))
		return AS_IT_WAS;
	return narrowing->links != NIL ? NARROWED : AS_IT_WAS;
}

/*
 * is_followed tells whether a link leads to something else than a key's column.
 */
static bool
is_followed(const Link *link)
{
	return link->key < 0 || link->column->null;
}

/*
 * bring_near replaces key columns by columns of a relation that are sure to equal them.
 */
static void
bring_near(Narrowing *narrowing, Index relation)
{
	ListCell   *cell;

	foreach(cell, narrowing->keys)
	{
		Var		   *near = lfirst(cell) ? cqrs_keys_equated(lfirst(cell), relation, narrowing->conjuncts) : NULL;

		if (near != NULL)
			lfirst(cell) = near;
	}
}

/*
 * find_path finds the relations that lead from the links to the key, without those of the part; false if there is no such way.
 */
static bool
find_path(Narrowing *narrowing)
{
	Relids		others = NULL;
	List	   *outside = NIL;
	bool		pairs;
	ListCell   *cell;

	foreach(cell, narrowing->links)
		if (is_followed(lfirst(cell)))
			others = bms_add_members(others, pull_varnos(NULL, ((Link *) lfirst(cell))->other));
	if (bms_is_empty(others))
		return true;
	if (bms_membership(others) == BMS_SINGLETON)
		bring_near(narrowing, bms_singleton_member(others));
	foreach(cell, narrowing->conjuncts)
		if (!bms_overlap(((CqrsConjunct *) lfirst(cell))->relations, narrowing->part->join->relations))
			outside = lappend(outside, lfirst(cell));
	narrowing->conjuncts = outside;
	return cqrs_join_path(outside, bms_next_member(others, -1), bms_union(others, key_relations(narrowing)), &narrowing->path,
						  &pairs);
}

/*
 * restate rewrites an expression over the skeleton for the condition's query.
 */
static Node *
restate(Node *node, const int *position)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = copyObject((Var *) node);

		var->varno = var->varnosyn = position[var->varno];
		return (Node *) var;
	}
	return expression_tree_mutator(node, restate, unconstify(int *, position));
}

/*
 * link_clause makes the condition that a column of the part, one query level up, equals what it is linked with.
 */
static Node *
link_clause(const Narrowing *narrowing, const Link *link)
{
	Form_pg_attribute key = link->key >= 0 ? TupleDescAttr(narrowing->program->affected, link->key) : NULL;
	Node	   *mine = copyObject(link->column->written);
	Node	   *other;

	if (link->column->null)
		return cqrs_query_null_test(restate(link->other, narrowing->position), IS_NULL);
	IncrementVarSublevelsUp(mine, 1, 0);
	other = key == NULL ? restate(link->other, narrowing->position) :
		(Node *) makeVar(1, link->key + 1, key->atttypid, key->atttypmod, key->attcollation, 0);
	return (Node *) make_opclause(link->operator, BOOLOID, false, (Expr *) (link->commuted ? other : mine),
								  (Expr *) (link->commuted ? mine : other), InvalidOid, link->collation);
}

/*
 * wanted makes the condition that rows of the part are linked with rows of the affected keys.
 */
static Node *
wanted(Narrowing *narrowing)
{
	Query	   *query = cqrs_query_select();
	List	   *conditions = NIL;
	int			relation = -1;
	ListCell   *cell;

	narrowing->position = palloc0(sizeof(int) * (list_length(narrowing->skeleton->rtable) + 1));
	cqrs_query_add_entry(query, cqrs_compute_affected(narrowing->program));
	while ((relation = bms_next_member(narrowing->path, relation)) >= 0)
	{
		cqrs_query_add_entry(query, copyObject(rt_fetch(relation, narrowing->skeleton->rtable)));
		narrowing->position[relation] = list_length(query->rtable);
	}
	foreach(cell, narrowing->keys)
		if (lfirst(cell) != NULL && narrowing->position[column_of(lfirst(cell))->varno] != 0)
			conditions = lappend(conditions, cqrs_compute_matches(narrowing->program, foreach_current_index(cell), 1,
																  restate(lfirst(cell), narrowing->position)));
	foreach(cell, narrowing->conjuncts)
		if (bms_is_subset(((CqrsConjunct *) lfirst(cell))->relations, narrowing->path))
			conditions = lappend(conditions, restate(((CqrsConjunct *) lfirst(cell))->clause, narrowing->position));
	foreach(cell, narrowing->links)
		conditions = lappend(conditions, link_clause(narrowing, lfirst(cell)));
	return cqrs_query_exists(query, conditions);
}

/*
 * open_entry has a range table entry be the subquery that it is the name of.
 */
static void
open_entry(RangeTblEntry *entry, Query *query)
{
	ListCell   *target = list_head(query->targetList);
	ListCell   *name;

	foreach(name, entry->eref->colnames)
	{
		if (target == NULL || ((TargetEntry *) lfirst(target))->resjunk)
			break;
		((TargetEntry *) lfirst(target))->resname = pstrdup(strVal(lfirst(name)));
		target = lnext(query->targetList, target);
	}
	entry->rtekind = RTE_SUBQUERY;
	entry->subquery = query;
	entry->relid = InvalidOid;
	entry->alias = makeAlias(entry->eref->aliasname, NIL);
}

/*
 * open_with returns a copy of a WITH query to be put in place of its name.
 */
static Query *
open_with(const RangeTblEntry *entry, List *levels)
{
	const Query *owner = list_nth(levels, list_length(levels) - 1 - entry->ctelevelsup);
	ListCell   *cell;

	foreach(cell, owner->cteList)
	{
		const CommonTableExpr *with = lfirst(cell);
		Node	   *result = copyObject(with->ctequery);

		if (strcmp(with->ctename, entry->ctename) != 0)
			continue;
		IncrementVarSublevelsUp(result, entry->ctelevelsup, 1);
		return (Query *) result;
	}
	return NULL;
}

/*
 * go_to returns the query in a place of a tree, in which the names on the way to it are replaced by what they stand for.
 *
 * NULL if that must not be: what a view of somebody else's reads and calls may not be for the owner of the projection to name.
 */
static Query *
go_to(const CqrsProgram *program, Query *tree, List *place)
{
	List	   *levels = list_make1(tree);
	ListCell   *cell;

	foreach(cell, place)
	{
		RangeTblEntry *entry = rt_fetch(lfirst_int(cell), tree->rtable);
		Query	   *query = entry->subquery;

		if (entry->rtekind == RTE_RELATION && cqrs_compat_owns_relation(entry->relid, program->query->owner))
			query = cqrs_query_of_view(entry->relid);
		else if (entry->rtekind == RTE_CTE)
			query = open_with(entry, levels);
		if (query == NULL)
			return NULL;
		if (entry->rtekind != RTE_SUBQUERY)
			open_entry(entry, query);
		tree = query;
		levels = lappend(levels, tree);
	}
	return tree;
}

/*
 * narrow_part narrows one part of a copy of the definition.
 */
static Outcome
narrow_part(const CqrsProgram *program, const CqrsSkeleton *skeleton, const CqrsPart *part, uint32 nulls, Query *tree)
{
	Narrowing	narrowing = {.program = program, .skeleton = skeleton, .part = part};
	bool		sure = take_conjuncts(&narrowing, nulls);
	Outcome		outcome = find_links(&narrowing, nulls);
	ListCell   *cell;

	if (outcome != NARROWED)
		return outcome;
	if (!sure || !find_path(&narrowing))
		return AS_IT_WAS;
	tree = go_to(program, tree, part->place);
	if (tree == NULL)
		return AS_IT_WAS;
	tree->jointree->quals = make_and_qual(tree->jointree->quals, wanted(&narrowing));
	tree->hasSubLinks = true;
	foreach(cell, narrowing.links)
	{
		const CqrsPartColumn *column = ((Link *) lfirst(cell))->column;

		if (column->null)
			tree->jointree->quals = make_and_qual(tree->jointree->quals,
												  cqrs_query_null_test(copyObject(column->written), IS_NULL));
	}
	return part->peers || narrowing.path != NULL ? NARROWED : NARROWED_BY_KEY;
}

/*
 * cqrs_narrow narrows what can be narrowed, in a copy of the definition for each skeleton.
 *
 * Not where the key gets to all these parts by itself once it is a parameter: looking keys up one by one is cheaper then than the planner thinks.
 */
List *
cqrs_narrow(const CqrsProgram *program, uint32 nulls)
{
	List	   *trees = NIL;
	bool		narrowed = false;
	ListCell   *cell;
	ListCell   *inner;

	foreach(cell, program->query->apart ? program->query->skeletons : NIL)
	{
		const CqrsSkeleton *skeleton = lfirst(cell);
		Query	   *tree = copyObject(program->query->tree);
		bool		empty = false;

		foreach(inner, skeleton->parts)
		{
			const CqrsPart *part = lfirst(inner);
			Outcome		outcome = narrow_part(program, skeleton, part, nulls, tree);

			if (outcome == AS_IT_WAS && part->split)
				return NIL;
			narrowed = narrowed || outcome == NARROWED;
			empty = empty || outcome == EMPTY;
		}
		if (!empty)
			trees = lappend(trees, tree);
	}
	return narrowed ? trees : NIL;
}
