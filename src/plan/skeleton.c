/*
 * plan/skeleton.c
 *		One level of joins that stands for a whole definition where affected keys are looked for.
 *
 * A change of a table can reach a row of the definition only through rows that are joined with it: in its own query, by that query's conditions, and from there
 * in the query around it, by conditions on what it puts out.  So subqueries, views and WITH queries are put in place of their names, with what they put out
 * written as expressions over their tables.  Grouping falls away, since a group is found by any row of it.  What cannot be written so, as an aggregate, is
 * unknown: a condition on it is left out, which only finds more keys, and a key of it cannot be found at all.
 *
 * A table in a branch of a set operation, or under one grouping set, is seen with that choice made: there is a skeleton for each choice.
 *
 * Takes ACCESS SHARE on what the definition reads, to the end of the transaction.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/names.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parse_agg.h"
#include "parser/parse_coerce.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "utils/lsyscache.h"

/* More choices among branches than this, and there would be too many statements. */
#define CHOICES_LIMIT 16

/* A column that a query puts out, over the skeleton's relations; or NULL and why it is not known, in words that follow its name. */
typedef struct Output
{
	Node	   *expression;
	const char *why;
	bool		loose;			/* what it puts out is equal to the expression, but may look different */
} Output;

/* What an entry of a query's range table is in the skeleton. */
typedef struct Leaf
{
	Index		relation;		/* a table, or 0 */
	List	   *outputs;		/* of Output *: a subquery's */
	const char *why;			/* nothing is known of its columns */
} Leaf;

/* A query being put into the skeleton. */
typedef struct Level
{
	struct Level *above;		/* the query around it, or NULL */
	Query	   *tree;
	Leaf	   *leaves;			/* by range table index */
	int			depth;
	bool		nullable;		/* an outer join may null-extend its rows */
	List	   *positive;		/* of SubLink *: x = ANY (SELECT …), AND-ed in WHERE or an inner join's condition */
	List	   *set;			/* of integer: what is grouped by, with grouping sets */
} Level;

/* A skeleton in the making. */
typedef struct Builder
{
	CqrsProgram *program;
	CqrsSkeleton *skeleton;
	Query	   *tree;			/* the definition */
	List	   *forks;			/* of integer: the number of branches at each place met so far where there is a choice */
	List	   *choices;		/* of integer: the branches taken, those of places to come included */
	const char *obstacle;
} Builder;

/* State of writing an expression anew. */
typedef struct Rewriting
{
	Level	   *level;
	List	   *answers;		/* of Output *: what the subquery of an ANY puts out */
	List	   *blind;			/* of Node *: columns in it of which only matters what they are equal to */
	const char *why;			/* why it cannot be written, once that is found */
	bool		loose;			/* it mentions a column that is loose */
} Rewriting;

static CqrsJoin *build_query(Builder *builder, Level *level, List **outputs);

/* ---- choices ---- */

/*
 * choose takes one of so many branches: the one that is the turn of.
 */
static int
choose(Builder *builder, int nbranches)
{
	int			place = list_length(builder->forks);

	builder->forks = lappend_int(builder->forks, nbranches);
	if (place == list_length(builder->choices))
		builder->choices = lappend_int(builder->choices, 0);
	return list_nth_int(builder->choices, place);
}

/*
 * choose_next turns to the next combination of branches; false if there is none.
 */
static bool
choose_next(Builder *builder)
{
	for (int place = list_length(builder->forks) - 1; place >= 0; place--)
	{
		int			next = list_nth_int(builder->choices, place) + 1;

		builder->choices = list_truncate(builder->choices, place);
		if (next == list_nth_int(builder->forks, place))
			continue;
		builder->choices = lappend_int(builder->choices, next);
		return true;
	}
	return false;
}

/* ---- expressions ---- */

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
take_output(const Output *output, bool blind, Rewriting *rewriting)
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
rewrite_alias(Level *level, const RangeTblEntry *entry, AttrNumber attnum, bool blind, Rewriting *rewriting)
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
	Level	   *level = rewriting->level;
	bool		blind = list_member_ptr(rewriting->blind, var);
	RangeTblEntry *entry;
	Leaf	   *leaf;

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
rewrite_grouping(const GroupingFunc *grouping, const Level *level)
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
 * rewrite writes an expression of a query over the skeleton, or says why it cannot be.
 */
static Output
rewrite(Level *level, Node *node, List *answers)
{
	Rewriting	rewriting = {.level = level, .answers = answers, .blind = blind_to_looks(node)};
	Output		result;

	result.expression = rewrite_mutator(node, &rewriting);
	result.why = rewriting.why;
	result.loose = rewriting.loose;
	return result;
}

/*
 * take_conditions appends those parts of a condition that can be written over the skeleton.
 */
static List *
take_conditions(Builder *builder, Level *level, Node *condition, List *answers, List *conjuncts)
{
	Output		clause;
	ListCell   *cell;

	if (condition == NULL)
		return conjuncts;
	if (is_andclause(condition))
	{
		foreach(cell, ((BoolExpr *) condition)->args)
			conjuncts = take_conditions(builder, level, lfirst(cell), answers, conjuncts);
		return conjuncts;
	}
	clause = rewrite(level, condition, answers);
	if (clause.why == NULL)
		return cqrs_join_conjuncts(conjuncts, clause.expression, level->depth);
	builder->skeleton->partial = true;
	return conjuncts;
}

/* ---- FROM ---- */

/*
 * optional hangs a part of the skeleton on a left join: its relations are not sure to be present.
 */
static CqrsJoin *
optional(CqrsJoin *part)
{
	CqrsJoin   *join = palloc0(sizeof(CqrsJoin));
	CqrsJoin   *nothing = palloc0(sizeof(CqrsJoin));

	nothing->type = JOIN_INNER;
	join->type = JOIN_LEFT;
	join->children = list_make2(nothing, part);
	join->relations = bms_copy(part->relations);
	return join;
}

/*
 * named_like_ours tells whether a table's name would be taken for a relation that the applier offers.
 */
static bool
named_like_ours(const char *name)
{
	return strncmp(name, CQRS_DELTA_PREFIX, strlen(CQRS_DELTA_PREFIX)) == 0 ||
		strcmp(name, CQRS_AFFECTED) == 0 || strcmp(name, CQRS_COMPUTED) == 0;
}

/*
 * add_table adds a table to the skeleton.
 *
 * One that the projection's owner may read through a view only is there, but nothing is known of it: statements name tables themselves.
 */
static CqrsJoin *
add_table(Builder *builder, Leaf *leaf, RangeTblEntry *entry)
{
	CqrsSkeleton *skeleton = builder->skeleton;
	CqrsJoin   *join = palloc0(sizeof(CqrsJoin));
	int			source = 0;

	if (named_like_ours(get_rel_name(entry->relid)))
		builder->obstacle = psprintf("the table %s is named as a relation of the applier is", cqrs_name_shown(entry->relid));
	while (builder->program->sources[source].relation != entry->relid)
		source++;
	skeleton->rtable = lappend(skeleton->rtable, copyObject(entry));
	join->leaf = list_length(skeleton->rtable);
	join->type = JOIN_INNER;
	join->relations = bms_make_singleton(join->leaf);
	skeleton->source_of = repalloc(skeleton->source_of, sizeof(int) * (join->leaf + 1));
	skeleton->source_of[join->leaf] = source;
	if (builder->program->sources[source].readable)
		leaf->relation = join->leaf;
	else
		leaf->why = "is of a table that the owner of the projection may not read itself";
	return join;
}

/*
 * add_subquery puts a subquery in place of its name.
 */
static CqrsJoin *
add_subquery(Builder *builder, Leaf *leaf, Query *tree, Level *above, int depth, bool nullable)
{
	Level		level = {.above = above, .tree = tree, .depth = depth, .nullable = nullable};

	builder->skeleton->partial = true;
	return build_query(builder, &level, &leaf->outputs);
}

/*
 * add_with puts a WITH query in place of its name.
 */
static CqrsJoin *
add_with(Builder *builder, Leaf *leaf, const RangeTblEntry *entry, Level *level, bool nullable)
{
	CommonTableExpr *with = NULL;
	int			depth = level->depth + 1;
	ListCell   *cell;

	for (Index up = 0; up < entry->ctelevelsup; up++)
		level = level->above;
	foreach(cell, level->tree->cteList)
	{
		with = lfirst(cell);
		if (strcmp(with->ctename, entry->ctename) == 0)
			break;
	}
	if (with == NULL || with->cterecursive)
	{
		builder->obstacle = "the query is recursive";
		leaf->why = "is of a recursive query";
		return palloc0(sizeof(CqrsJoin));
	}
	return add_subquery(builder, leaf, (Query *) with->ctequery, level, depth, nullable);
}

/*
 * build_leaf makes the skeleton of something in FROM.
 */
static CqrsJoin *
build_leaf(Builder *builder, Level *level, Index index, bool nullable)
{
	RangeTblEntry *entry = rt_fetch(index, level->tree->rtable);
	Leaf	   *leaf = &level->leaves[index];

	switch (entry->rtekind)
	{
		case RTE_RELATION:
			if (entry->relkind != RELKIND_VIEW)
				return add_table(builder, leaf, entry);
			return add_subquery(builder, leaf, cqrs_query_of_view(entry->relid), NULL, level->depth + 1, nullable);
		case RTE_SUBQUERY:
			return add_subquery(builder, leaf, entry->subquery, level, level->depth + 1, nullable);
		case RTE_CTE:
			return add_with(builder, leaf, entry, level, nullable);
		default:
			builder->skeleton->partial = true;
			leaf->why = "is of a function or VALUES in FROM";
			return palloc0(sizeof(CqrsJoin));
	}
}

static CqrsJoin *build_from(Builder *builder, Level *level, Node *node, bool nullable);

/*
 * add_child hangs a part of FROM under a join.
 */
static void
add_child(CqrsJoin *join, CqrsJoin *child)
{
	join->children = lappend(join->children, child);
	join->relations = bms_add_members(join->relations, child->relations);
}

/*
 * note_positive notes the parts of a condition that are x = ANY (SELECT …).
 */
static void
note_positive(Level *level, Node *condition)
{
	ListCell   *cell;

	if (condition == NULL)
		return;
	if (IsA(condition, SubLink) && ((SubLink *) condition)->subLinkType == ANY_SUBLINK)
		level->positive = lappend(level->positive, condition);
	if (!is_andclause(condition))
		return;
	foreach(cell, ((BoolExpr *) condition)->args)
		note_positive(level, lfirst(cell));
}

/*
 * build_join makes the skeleton of a JOIN.
 */
static CqrsJoin *
build_join(Builder *builder, Level *level, JoinExpr *expr, bool nullable)
{
	CqrsJoin   *join = palloc0(sizeof(CqrsJoin));

	join->type = expr->jointype;
	add_child(join, build_from(builder, level, expr->larg,
							   nullable || join->type == JOIN_RIGHT || join->type == JOIN_FULL));
	add_child(join, build_from(builder, level, expr->rarg,
							   nullable || join->type == JOIN_LEFT || join->type == JOIN_FULL));
	if (join->type == JOIN_INNER)
		note_positive(level, expr->quals);
	join->conjuncts = take_conditions(builder, level, expr->quals, NIL, NIL);
	return join;
}

/*
 * build_from makes the skeleton of a part of FROM.
 */
static CqrsJoin *
build_from(Builder *builder, Level *level, Node *node, bool nullable)
{
	CqrsJoin   *join;
	FromExpr   *from;
	ListCell   *cell;

	check_stack_depth();
	if (IsA(node, RangeTblRef))
		return build_leaf(builder, level, ((RangeTblRef *) node)->rtindex, nullable);
	if (IsA(node, JoinExpr))
		return build_join(builder, level, (JoinExpr *) node, nullable);
	from = castNode(FromExpr, node);
	join = palloc0(sizeof(CqrsJoin));
	join->type = JOIN_INNER;
	foreach(cell, from->fromlist)
		add_child(join, build_from(builder, level, lfirst(cell), nullable));
	note_positive(level, from->quals);
	join->conjuncts = take_conditions(builder, level, from->quals, NIL, NIL);
	return join;
}

/* ---- subqueries in expressions ---- */

/*
 * collect_sublinks finds the subqueries in the expressions of one query, but not those in them.
 */
static bool
collect_sublinks(Node *node, List **sublinks)
{
	if (node == NULL || IsA(node, Query))
		return false;
	if (IsA(node, SubLink))
	{
		*sublinks = lappend(*sublinks, node);
		return collect_sublinks(((SubLink *) node)->testexpr, sublinks);
	}
	return expression_tree_walker(node, collect_sublinks, sublinks);
}

/*
 * add_sublinks hangs the subqueries of a query's expressions under its joins.
 *
 * What one answers for a row changes only with rows that it reads for that row.  Only where it must be true for the row to be there at all, and null counts as
 * false, does a row that it reads have to equal the other side of an ANY: NOT IN changes with any null.
 */
static void
add_sublinks(Builder *builder, Level *level, CqrsJoin *join)
{
	List	   *sublinks = NIL;
	ListCell   *cell;

	(void) query_tree_walker(level->tree, collect_sublinks, &sublinks,
							 QTW_IGNORE_RT_SUBQUERIES | QTW_IGNORE_CTE_SUBQUERIES | QTW_IGNORE_JOINALIASES);
	foreach(cell, sublinks)
	{
		SubLink    *sublink = lfirst(cell);
		Level		inner = {.above = level, .tree = castNode(Query, sublink->subselect), .depth = level->depth + 1};
		List	   *answers;
		CqrsJoin   *part = build_query(builder, &inner, &answers);

		builder->skeleton->partial = true;
		if (list_member_ptr(level->positive, sublink))
		{
			List	   *conjuncts = take_conditions(builder, level, sublink->testexpr, answers, NIL);

			part->conjuncts = list_concat(part->conjuncts, conjuncts);
		}
		add_child(join, optional(part));
	}
}

/* ---- what queries put out ---- */

/*
 * grouped_away tells whether a column is null because the grouping set chosen leaves it out.
 */
static bool
grouped_away(const Level *level, const TargetEntry *target)
{
	ListCell   *cell;

	if (level->tree->groupingSets == NIL || list_member_int(level->set, target->ressortgroupref))
		return false;
	foreach(cell, level->tree->groupClause)
		if (((SortGroupClause *) lfirst(cell))->tleSortGroupRef == target->ressortgroupref)
			return true;
	return false;
}

/*
 * null_when_absent tells whether an expression is null where the relations are null-extended, so that it may stand for a subquery's column above an outer join.
 */
static bool
null_when_absent(Node *expression, Relids relations)
{
	return !contain_nonstrict_functions(expression) && bms_overlap(pull_varnos(NULL, expression), relations);
}

/*
 * depends_on_choices tells whether an expression may be another constant where other branches or another grouping set are chosen.
 */
static bool
depends_on_choices(Node *expression)
{
	return contain_vars_of_level(expression, 0) || contain_agg_clause(expression);
}

/*
 * make_output works out one column of a query.
 */
static Output *
make_output(Level *level, TargetEntry *target, Relids relations)
{
	Output	   *output = palloc0(sizeof(Output));
	Query	   *tree = level->tree;

	if (grouped_away(level, target))
	{
		output->expression = (Node *) makeNullConst(exprType((Node *) target->expr), exprTypmod((Node *) target->expr),
													exprCollation((Node *) target->expr));
		output->why = cqrs_output_mixed(tree, target);
		return output;
	}
	*output = rewrite(level, (Node *) target->expr, NIL);
	if (output->why == NULL && contain_vars_of_level(output->expression, 0))
	{
		output->loose |= cqrs_output_agrees(tree, target, &output->why) == CQRS_EQUAL;
		if (output->why == NULL && tree->groupingSets != NIL && !list_member_int(level->set, target->ressortgroupref))
			output->why = "is an expression over grouping sets";
	}
	else if (output->why == NULL && depends_on_choices((Node *) target->expr))
		output->why = cqrs_output_mixed(tree, target);
	if (output->why == NULL && level->nullable && !null_when_absent(output->expression, relations))
		output->why = "is an expression on the nullable side of an outer join";
	return output;
}

/*
 * make_outputs works out the columns of a query, as List of Output *.
 */
static List *
make_outputs(Level *level, Relids relations)
{
	List	   *outputs = NIL;
	ListCell   *cell;

	foreach(cell, level->tree->targetList)
		if (!((TargetEntry *) lfirst(cell))->resjunk)
			outputs = lappend(outputs, make_output(level, lfirst(cell), relations));
	return outputs;
}

/*
 * collect_branches lists the branches of a set operation by their range table indexes.
 */
static List *
collect_branches(List *branches, Node *node)
{
	if (IsA(node, RangeTblRef))
		return lappend_int(branches, ((RangeTblRef *) node)->rtindex);
	branches = collect_branches(branches, castNode(SetOperationStmt, node)->larg);
	return collect_branches(branches, ((SetOperationStmt *) node)->rarg);
}

/*
 * unite_output makes a branch's column one of its set operation.
 */
static void
unite_output(Query *tree, int column, Output *output)
{
	SetOperationStmt *operation = castNode(SetOperationStmt, tree->setOperations);
	Oid			collation = list_nth_oid(operation->colCollations, column);
	Node	   *before = output->expression;

	output->expression = coerce_to_common_type(NULL, before, list_nth_oid(operation->colTypes, column), "UNION");
	if (output->expression != before && exprCollation(before) == collation)
		exprSetCollation(output->expression, collation);
	if (cqrs_output_set_agrees(tree, column, output->expression, &output->why) == CQRS_EQUAL)
		output->loose = true;
}

/*
 * build_branch puts one branch of a set operation in its place.
 *
 * A row of a branch that comes or goes changes rows of the set operation that equal it, whatever the operation.
 */
static CqrsJoin *
build_branch(Builder *builder, Level *level, List **outputs)
{
	List	   *branches = collect_branches(NIL, level->tree->setOperations);
	int			index = list_nth_int(branches, choose(builder, list_length(branches)));
	Level		branch = {.above = level, .depth = level->depth + 1, .nullable = level->nullable};
	CqrsJoin   *join;
	ListCell   *cell;

	branch.tree = rt_fetch(index, level->tree->rtable)->subquery;
	join = build_query(builder, &branch, outputs);
	foreach(cell, *outputs)
	{
		Output	   *output = lfirst(cell);

		if (output->why == NULL)
			unite_output(level->tree, foreach_current_index(cell), output);
	}
	builder->skeleton->partial = true;
	add_sublinks(builder, level, join);
	return join;
}

/*
 * build_query makes the skeleton of a query, and what it puts out.
 */
static CqrsJoin *
build_query(Builder *builder, Level *level, List **outputs)
{
	Query	   *tree = level->tree;
	CqrsJoin   *join;

	check_stack_depth();
	level->leaves = palloc0(sizeof(Leaf) * (list_length(tree->rtable) + 1));
	if (tree->setOperations != NULL)
		return build_branch(builder, level, outputs);
	if (tree->groupingSets != NIL)
	{
		List	   *sets = expand_grouping_sets(tree->groupingSets, tree->groupDistinct, -1);

		level->set = list_nth(sets, choose(builder, list_length(sets)));
	}
	join = build_from(builder, level, (Node *) tree->jointree, level->nullable);
	add_sublinks(builder, level, join);
	*outputs = make_outputs(level, join->relations);
	if (cqrs_output_one_row(tree) || (tree->groupingSets != NIL && level->set == NIL))
		return optional(join);
	return join;
}

/* ---- the whole ---- */

/*
 * take_keys keeps the key's columns; says why one of them is not known, if so.
 */
static const char *
take_keys(const CqrsProgram *program, CqrsSkeleton *skeleton, List *outputs)
{
	for (int i = 0; i < program->nkeys; i++)
	{
		Output	   *output = list_nth(outputs, program->key[i] - 1);
		const char *why = output->why;

		if (why == NULL && cqrs_join_whole_row(output->expression))
			why = "is made of a whole row";
		if (why != NULL)
			return psprintf("the key's column %s %s",
							cqrs_name_identifier(NameStr(TupleDescAttr(program->row, program->key[i] - 1)->attname)), why);
		skeleton->keys = lappend(skeleton->keys, output->expression);
	}
	return NULL;
}

/*
 * build makes the skeleton with the choices that it is the turn of; returns why it cannot be made, or NULL.
 */
static const char *
build(Builder *builder)
{
	Level		level = {.tree = builder->tree};
	CqrsSkeleton *skeleton = palloc0(sizeof(CqrsSkeleton));
	List	   *outputs;

	builder->skeleton = skeleton;
	builder->forks = NIL;
	skeleton->source_of = palloc0(sizeof(int));
	skeleton->join = build_query(builder, &level, &outputs);
	if (builder->obstacle == NULL && skeleton->rtable == NIL && builder->program->nsources == 0)
		builder->obstacle = "the query reads no table";
	if (builder->obstacle == NULL)
		builder->obstacle = take_keys(builder->program, skeleton, outputs);
	return builder->obstacle;
}

/*
 * cqrs_skeleton_derive makes the skeletons of a definition, one for each combination of choices.
 */
const char *
cqrs_skeleton_derive(CqrsProgram *program, Query *tree)
{
	CqrsQuery  *query = program->query;
	Builder		builder = {.program = program, .tree = tree};

	do
	{
		if (list_length(query->skeletons) == CHOICES_LIMIT)
			builder.obstacle = "the query has too many branches of set operations and grouping sets";
		else if (build(&builder) == NULL)
			query->skeletons = lappend(query->skeletons, builder.skeleton);
	} while (builder.obstacle == NULL && choose_next(&builder));
	if (builder.obstacle != NULL)
		query->skeletons = NIL;
	return builder.obstacle;
}
