/*
 * plan/delta.c
 *		Strategy delta: which sources of a definition it can follow, and the rows that go between its statements.
 *
 * With all else as it is, a grouped query over inner joins is linear in each table that it joins: what a change adds to each group is the query itself over the
 * change.  So a source is followed by delta if all its occurrences are joined in the definition's own FROM.  A table that is read in a subquery, or on
 * which columns depend that are in no group, is followed by keys; where both kinds have changed, groups that keys finds are recomputed, and changes
 * are added to the others.
 *
 * Takes ACCESS SHARE on what the definition reads, to the end of the transaction.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/sysattr.h"
#include "base/compat.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "storage/lockdefs.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* A search for an occurrence of a table as a whole. */
typedef struct WholeRow
{
	Index		relation;
	Index		depth;			/* of the query that it is looked for in, below the definition's own */
} WholeRow;

/*
 * spread takes a part of FROM apart into what it joins and its conditions; false if a join is not an inner one.
 */
static bool
spread(Node *node, List **leaves, List **conditions)
{
	ListCell   *cell;

	if (IsA(node, RangeTblRef))
	{
		*leaves = lappend(*leaves, node);
		return true;
	}
	if (IsA(node, FromExpr))
	{
		foreach(cell, ((FromExpr *) node)->fromlist)
			if (!spread(lfirst(cell), leaves, conditions))
				return false;
		if (((FromExpr *) node)->quals != NULL)
			*conditions = lappend(*conditions, ((FromExpr *) node)->quals);
		return true;
	}
	if (castNode(JoinExpr, node)->jointype != JOIN_INNER || !spread(((JoinExpr *) node)->larg, leaves, conditions) ||
		!spread(((JoinExpr *) node)->rarg, leaves, conditions))
		return false;
	if (((JoinExpr *) node)->quals != NULL)
		*conditions = lappend(*conditions, ((JoinExpr *) node)->quals);
	return true;
}

/*
 * forget_join makes the entry of a join one that is nothing, so that numbers of others stay.
 */
static void
forget_join(RangeTblEntry *entry)
{
	memset(entry, 0, sizeof(RangeTblEntry));
	NodeSetTag(entry, T_RangeTblEntry);
	entry->rtekind = RTE_RESULT;
	entry->eref = makeAlias("nothing", NIL);
}

/*
 * make_plain makes the query without its grouping, its joins in one FROM and no column known by a join's alias; NULL if a join is not an inner one.
 */
static Query *
make_plain(const CqrsLayout *layout)
{
	Query	   *tree = copyObject(layout->tree);
	List	   *leaves = NIL;
	List	   *conditions = NIL;
	ListCell   *cell;

	if (!spread(cqrs_compat_flatten_joins(tree, (Node *) tree->jointree), &leaves, &conditions))
		return NULL;
	foreach(cell, tree->rtable)
	{
		RangeTblEntry *entry = lfirst(cell);

		if (entry->rtekind == RTE_SUBQUERY)
			entry->subquery = castNode(Query, cqrs_compat_flatten_joins(tree, (Node *) entry->subquery));
		entry->functions = (List *) cqrs_compat_flatten_joins(tree, (Node *) entry->functions);
		entry->values_lists = (List *) cqrs_compat_flatten_joins(tree, (Node *) entry->values_lists);
	}
	tree->targetList = NIL;
	tree->groupClause = NIL;
	tree->hasAggs = false;
	tree->jointree = makeFromExpr(leaves, (Node *) make_ands_explicit(conditions));
	if (conditions == NIL)
		tree->jointree->quals = NULL;
	return tree;
}

/*
 * flattened returns an expression of the query without columns known by a join's alias.
 */
static Node *
flattened(const CqrsLayout *layout, Node *expression)
{
	return cqrs_compat_flatten_joins(layout->tree, copyObject(expression));
}

/*
 * forget_names_walker has columns of the query's own level known by their relation's name also where they were written with that of a join.
 */
static bool
forget_names_walker(Node *node, Index *depth)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == *depth)
	{
		((Var *) node)->varnosyn = ((Var *) node)->varno;
		((Var *) node)->varattnosyn = ((Var *) node)->varattno;
	}
	if (IsA(node, Query))
	{
		(*depth)++;
		(void) query_tree_walker((Query *) node, forget_names_walker, depth, 0);
		(*depth)--;
		return false;
	}
	return expression_tree_walker(node, forget_names_walker, depth);
}

/*
 * flatten makes the plain query and forgets the aliases of joins, in what is computed from it, too.
 */
static bool
flatten(CqrsQuery *query)
{
	CqrsLayout *layout = query->layout;
	Index		depth = 0;
	ListCell   *cell;

	query->plain = make_plain(layout);
	if (query->plain == NULL)
		return false;
	foreach(cell, layout->keys)
		lfirst(cell) = flattened(layout, lfirst(cell));
	foreach(cell, layout->dependents)
		lfirst(cell) = flattened(layout, lfirst(cell));
	foreach(cell, layout->components)
	{
		CqrsComponent *component = lfirst(cell);

		component->argument = flattened(layout, component->argument);
		(void) forget_names_walker(component->argument, &depth);
	}
	(void) forget_names_walker((Node *) layout->keys, &depth);
	(void) forget_names_walker((Node *) layout->dependents, &depth);
	(void) range_table_walker(query->plain->rtable, forget_names_walker, &depth, 0);
	(void) forget_names_walker(query->plain->jointree->quals, &depth);
	foreach(cell, query->plain->rtable)
		if (((RangeTblEntry *) lfirst(cell))->rtekind == RTE_JOIN)
			forget_join(lfirst(cell));
	return true;
}

/*
 * below_walker collects what is read in queries below the one it begins with.
 */
static bool
below_walker(Node *node, CqrsProgram *below)
{
	CqrsProgram found = {.definition = below->definition};

	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, below_walker, below);
	cqrs_query_collect(&found, (Query *) node);
	for (int i = 0; i < found.nsources; i++)
		below->relations = list_append_unique_oid(below->relations, found.sources[i].relation);
	return false;
}

/*
 * read_below lists the tables that are read in subqueries, WITH queries and views.
 */
static List *
read_below(const CqrsProgram *program)
{
	Query	   *plain = program->query->plain;
	CqrsProgram below = {.definition = program->definition};
	ListCell   *cell;

	foreach(cell, plain->rtable)
	{
		RangeTblEntry *entry = lfirst(cell);

		(void) below_walker((Node *) entry->subquery, &below);
		(void) below_walker((Node *) entry->functions, &below);
		(void) below_walker((Node *) entry->values_lists, &below);
		if (entry->rtekind == RTE_RELATION && entry->relkind == RELKIND_VIEW &&
			!cqrs_query_placeholder(entry, program->definition))
			(void) below_walker((Node *) cqrs_query_of_view(entry->relid), &below);
	}
	foreach(cell, plain->cteList)
		(void) below_walker(((CommonTableExpr *) lfirst(cell))->ctequery, &below);
	(void) below_walker(plain->jointree->quals, &below);
	foreach(cell, program->query->layout->keys)
		(void) below_walker(lfirst(cell), &below);
	foreach(cell, program->query->layout->components)
		(void) below_walker(((CqrsComponent *) lfirst(cell))->argument, &below);
	return below.relations;
}

/*
 * is_column tells whether an expression is a column of a relation.
 */
static bool
is_column(const Node *expression, Index relation, AttrNumber attnum)
{
	const Var  *var = (const Var *) expression;

	return IsA(expression, Var) && var->varno == relation && var->varattno == attnum;
}

/*
 * equals_key tells whether a column of a relation is in the key, or equal to what is by a condition of the query.
 */
static bool
equals_key(const CqrsProgram *program, Index relation, AttrNumber attnum, List *conjuncts)
{
	List	   *keys = program->query->layout->keys;
	ListCell   *cell;

	foreach(cell, keys)
		if (is_column(lfirst(cell), relation, attnum))
			return true;
	foreach(cell, conjuncts)
	{
		OpExpr	   *clause = (OpExpr *) ((CqrsConjunct *) lfirst(cell))->clause;
		Node	   *left;
		Node	   *right;

		if (!IsA(clause, OpExpr) || list_length(clause->args) != 2 ||
			clause->opno != cqrs_key_equality(exprType(linitial(clause->args))))
			continue;
		left = linitial(clause->args);
		right = lsecond(clause->args);
		if (!is_column(left, relation, attnum))
		{
			left = lsecond(clause->args);
			right = linitial(clause->args);
		}
		if (is_column(left, relation, attnum) && list_member(keys, right))
			return true;
	}
	return false;
}

/*
 * is_pinned tells whether the key determines the row of a relation, by its primary key.
 */
static bool
is_pinned(const CqrsProgram *program, Index relation, List *conjuncts)
{
	RangeTblEntry *entry = rt_fetch(relation, program->query->plain->rtable);
	Oid			constraint;
	Bitmapset  *columns;
	int			column = -1;

	if (entry->rtekind != RTE_RELATION || entry->relkind == RELKIND_VIEW)
		return false;
	columns = get_primary_key_attnos(entry->relid, false, &constraint);
	if (bms_is_empty(columns))
		return false;
	while ((column = bms_next_member(columns, column)) >= 0)
		if (!equals_key(program, relation, column + FirstLowInvalidHeapAttributeNumber, conjuncts))
			return false;
	return true;
}

/*
 * dependent_on returns the relations that dependents are of; false if the key does not surely determine the rows of one.
 */
static bool
dependent_on(const CqrsProgram *program, Relids *relations)
{
	CqrsLayout *layout = program->query->layout;
	List	   *conjuncts;
	int			relation = -1;
	ListCell   *cell;

	*relations = pull_varnos(NULL, (Node *) layout->dependents);
	(void) cqrs_join_reduce(cqrs_join_build(program->query->plain), NULL, &conjuncts);
	while ((relation = bms_next_member(*relations, relation)) >= 0)
		if (!is_pinned(program, relation, conjuncts))
			return false;
	foreach(cell, layout->dependents)
		if (!OidIsValid(cqrs_key_equality(exprType(lfirst(cell)))))
			return false;
	return true;
}

/*
 * whole_row_of_walker finds variables that stand for the whole row of a relation, or for a column of the system's, at whatever depth.
 */
static bool
whole_row_of_walker(Node *node, WholeRow *sought)
{
	bool		found;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return ((Var *) node)->varno == sought->relation && ((Var *) node)->varlevelsup == sought->depth &&
			((Var *) node)->varattno <= 0;
	if (!IsA(node, Query))
		return expression_tree_walker(node, whole_row_of_walker, sought);
	sought->depth++;
	found = query_tree_walker((Query *) node, whole_row_of_walker, sought, 0);
	sought->depth--;
	return found;
}

/*
 * cqrs_delta_whole_row tells whether more of an occurrence is asked for than columns of its own, which are all that a delta holds.
 */
bool
cqrs_delta_whole_row(const CqrsProgram *program, Index relation)
{
	WholeRow	sought = {.relation = relation};
	Query	   *plain = program->query->plain;
	ListCell   *cell;

	if (range_table_walker(plain->rtable, whole_row_of_walker, &sought, 0) ||
		whole_row_of_walker(plain->jointree->quals, &sought) ||
		whole_row_of_walker((Node *) program->query->layout->keys, &sought))
		return true;
	foreach(cell, program->query->layout->components)
		if (whole_row_of_walker(((CqrsComponent *) lfirst(cell))->argument, &sought))
			return true;
	return false;
}

/*
 * obstacle_of says why a source cannot be followed by delta, or returns NULL.
 */
static const char *
obstacle_of(const CqrsProgram *program, int source, List *below, Relids dependent)
{
	Oid			relid = program->sources[source].relation;
	bool		found = false;
	ListCell   *cell;

	if (!program->sources[source].readable)
		return "the owner of the projection may not read it itself";
	if (list_member_oid(below, relid))
		return "it is read in a subquery or a view";
	foreach(cell, program->query->plain->jointree->fromlist)
	{
		Index		relation = ((RangeTblRef *) lfirst(cell))->rtindex;
		RangeTblEntry *entry = rt_fetch(relation, program->query->plain->rtable);

		if (entry->rtekind != RTE_RELATION || entry->relid != relid)
			continue;
		found = true;
		if (!entry->inh || entry->tablesample != NULL)
			return "the query reads a part of it";
		if (bms_is_member(relation, dependent))
			return "columns that are in no group depend on it";
		if (cqrs_delta_whole_row(program, relation))
			return "the query reads whole rows of it";
	}
	return found ? NULL : "the query does not join it";
}

/*
 * set_obstacles finds out which sources are followed by delta; returns whether one is.
 */
static bool
set_obstacles(CqrsProgram *program, const char *why)
{
	List	   *below = NIL;
	Relids		dependent = NULL;
	bool		any = false;

	if (why == NULL && !flatten(program->query))
		why = "it has an outer join";
	if (why == NULL)
		cqrs_open_views(program);
	if (why == NULL && !dependent_on(program, &dependent))
		why = "columns that are in no group depend on the key in more than one step";
	if (why == NULL)
		below = read_below(program);
	for (int i = 0; i < program->nsources; i++)
	{
		program->sources[i].obstacle = why != NULL ? why : obstacle_of(program, i, below, dependent);
		any = any || program->sources[i].obstacle == NULL;
	}
	return any;
}

/*
 * add_column adds a column of an expression's type to a row type.
 */
static void
add_column(TupleDesc desc, AttrNumber *number, const char *name, Node *expression)
{
	TupleDescInitEntry(desc, ++*number, name, exprType(expression), exprTypmod(expression), 0);
	TupleDescInitEntryCollation(desc, *number, exprCollation(expression));
}

/*
 * shape_stored makes the row type of the table.
 */
static TupleDesc
shape_stored(const CqrsProgram *program, const CqrsLayout *layout)
{
	AttrNumber	number = program->row->natts;
	TupleDesc	desc = CreateTemplateTupleDesc(number + list_length(layout->components) + (layout->shown != NULL));
	ListCell   *cell;

	for (int i = 1; i <= number; i++)
		TupleDescCopyEntry(desc, i, program->row, i);
	foreach(cell, layout->components)
		add_column(desc, &number, ((CqrsComponent *) lfirst(cell))->name, ((CqrsComponent *) lfirst(cell))->stored);
	if (layout->shown != NULL)
		add_column(desc, &number, CQRS_SHOWN, layout->shown);
	return desc;
}

/*
 * is_signed tells whether what a component gains and what it loses are kept apart.
 */
static bool
is_signed(const CqrsComponent *component)
{
	return component->kind == CQRS_COMPONENT_SUM || component->kind == CQRS_COMPONENT_EXTREMUM;
}

/*
 * shape_change makes the row type of what changes add to groups.
 */
static TupleDesc
shape_change(const CqrsProgram *program, const CqrsLayout *layout)
{
	int			ncolumns = program->nkeys + list_length(layout->dependents) + list_length(layout->components);
	AttrNumber	number = program->nkeys;
	TupleDesc	desc;
	ListCell   *cell;

	foreach(cell, layout->components)
		ncolumns += is_signed(lfirst(cell));
	desc = CreateTemplateTupleDesc(ncolumns);
	for (int i = 1; i <= number; i++)
		TupleDescCopyEntry(desc, i, program->affected, i);
	foreach(cell, layout->dependents)
		add_column(desc, &number, psprintf("cqrs_dependent_%d", foreach_current_index(cell) + 1), lfirst(cell));
	foreach(cell, layout->components)
	{
		CqrsComponent *component = lfirst(cell);

		add_column(desc, &number, is_signed(component) ? psprintf("%s_plus", component->name) : component->name,
				   component->stored);
		if (is_signed(component))
			add_column(desc, &number, psprintf("%s_minus", component->name), component->stored);
	}
	return desc;
}

/*
 * is_made_for tells whether the version's table has the columns of a row type.
 */
static bool
is_made_for(Oid table, TupleDesc stored)
{
	for (int i = 0; i < stored->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(stored, i);
		AttrNumber	attnum = get_attnum(table, NameStr(column->attname));

		if (attnum == InvalidAttrNumber || get_atttype(table, attnum) != column->atttypid)
			return false;
	}
	return true;
}

/*
 * cqrs_delta_derive finds out which sources are followed by delta.
 *
 * A table that was made with hidden columns keeps them right even if no source is followed so any more; one that was made without them has none.
 */
void
cqrs_delta_derive(CqrsProgram *program)
{
	CqrsQuery  *query = program->query;
	const char *why;
	CqrsLayout *layout = cqrs_layout_make(program, &why);
	bool		any;

	query->layout = layout;
	if (layout == NULL && why == NULL)
		return;
	any = set_obstacles(program, why);
	if (layout == NULL)
		return;
	if (OidIsValid(program->table) ? !is_made_for(program->table, shape_stored(program, layout)) : !any)
	{
		query->layout = NULL;
		return;
	}
	program->stored = shape_stored(program, layout);
	query->tree = layout->tree;
	if (!any)
		return;
	program->change = shape_change(program, layout);
	for (int i = 0; i < program->nsources; i++)
	{
		CqrsProgramSource *source = &program->sources[i];

		if (source->obstacle != NULL)
			continue;
		source->strategy = CQRS_STRATEGY_DELTA;
		source->reason = NULL;
		source->imaged = bms_copy(source->watched);
	}
	cqrs_keys_image_united(program);
}

/*
 * cqrs_delta_recomputes tells whether keys are recomputed in the ordinary course of things: where a source is followed by keys, or an extreme value can leave.
 */
bool
cqrs_delta_recomputes(const CqrsProgram *program)
{
	ListCell   *cell;

	for (int i = 0; i < program->nsources; i++)
		if (program->sources[i].strategy == CQRS_STRATEGY_KEYS)
			return true;
	foreach(cell, program->change != NULL ? program->query->layout->components : NIL)
		if (((CqrsComponent *) lfirst(cell))->kind == CQRS_COMPONENT_EXTREMUM)
			return true;
	return false;
}

/*
 * cqrs_plan_shown returns the condition for rows of a version's table that are the query's.
 */
const char *
cqrs_plan_shown(Oid definition, Oid table)
{
	if (!OidIsValid(definition) || get_attnum(table, CQRS_SHOWN) == InvalidAttrNumber ||
		get_attnum(definition, CQRS_SHOWN) != InvalidAttrNumber)
		return NULL;
	return CQRS_SHOWN;
}
