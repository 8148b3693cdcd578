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
#include "plan/skeleton.h"
#include "utils/lsyscache.h"

/* More choices among branches than this, and there would be too many statements. */
#define CHOICES_LIMIT 16

/* A skeleton in the making. */
typedef struct Builder
{
	CqrsProgram *program;
	CqrsSkeleton *skeleton;
	Query	   *tree;			/* the definition */
	List	   *forks;			/* of integer: the number of branches at each place met so far where there is a choice */
	List	   *choices;		/* of integer: the branches taken, those of places to come included */
	bool		entangled;		/* rows of the definition are made of more than one combination of branches */
	bool		with_peers;		/* rows that are chosen from others, or compared with others, are there beside those */
	const char *obstacle;
} Builder;

static CqrsJoin *build_query(Builder *builder, CqrsLevel *level, List **outputs);

/* ---- choices ---- */

/*
 * choose takes one of so many branches: the one that is the turn of.  'apart': each row of the definition is of one of them.
 */
static int
choose(Builder *builder, int nbranches, bool apart)
{
	int			place = list_length(builder->forks);

	builder->entangled = builder->entangled || !apart;
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

/* ---- conditions ---- */

/*
 * take_conditions appends those parts of a condition that can be written over the skeleton.
 */
static List *
take_conditions(Builder *builder, CqrsLevel *level, Node *condition, List *answers, List *conjuncts)
{
	CqrsOutput		clause;
	ListCell   *cell;

	if (condition == NULL)
		return conjuncts;
	if (is_andclause(condition))
	{
		foreach(cell, ((BoolExpr *) condition)->args)
			conjuncts = take_conditions(builder, level, lfirst(cell), answers, conjuncts);
		return conjuncts;
	}
	clause = cqrs_express(level, condition, answers);
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
add_table(Builder *builder, CqrsLeaf *leaf, RangeTblEntry *entry)
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
 * is_plain tells whether each row that a query puts out is one of the rows that it reads.
 */
static bool
is_plain(const Query *tree)
{
	return !tree->hasAggs && tree->havingQual == NULL && tree->groupClause == NIL && tree->groupingSets == NIL &&
		!tree->hasWindowFuncs && tree->distinctClause == NIL && tree->limitCount == NULL && tree->limitOffset == NULL &&
		tree->setOperations == NULL;
}

/*
 * add_subquery puts a subquery in place of its name, an entry of the range table; 'above' is the query around it whose columns it may name.
 */
static CqrsJoin *
add_subquery(Builder *builder, CqrsLevel *level, Index index, Query *tree, CqrsLevel *above, bool nullable)
{
	CqrsLevel	inner = {.above = above, .tree = tree, .depth = level->depth + 1, .nullable = nullable};

	inner.placed = level->placed;
	if (level->placed)
		inner.place = lappend_int(list_copy(level->place), index);
	inner.single = level->single && !nullable && is_plain(level->tree);
	builder->skeleton->partial = true;
	return build_query(builder, &inner, &level->leaves[index].outputs);
}

/*
 * add_with puts a WITH query in place of its name.
 */
static CqrsJoin *
add_with(Builder *builder, CqrsLevel *level, Index index, bool nullable)
{
	const RangeTblEntry *entry = rt_fetch(index, level->tree->rtable);
	CqrsLevel  *owner = level;
	CommonTableExpr *with = NULL;
	ListCell   *cell;

	for (Index up = 0; up < entry->ctelevelsup; up++)
		owner = owner->above;
	foreach(cell, owner->tree->cteList)
	{
		with = lfirst(cell);
		if (strcmp(with->ctename, entry->ctename) == 0)
			break;
	}
	if (with == NULL || with->cterecursive)
	{
		builder->obstacle = "the query is recursive";
		level->leaves[index].why = "is of a recursive query";
		return palloc0(sizeof(CqrsJoin));
	}
	return add_subquery(builder, level, index, (Query *) with->ctequery, owner, nullable);
}

/*
 * build_leaf makes the skeleton of something in FROM.
 */
static CqrsJoin *
build_leaf(Builder *builder, CqrsLevel *level, Index index, bool nullable)
{
	RangeTblEntry *entry = rt_fetch(index, level->tree->rtable);
	CqrsLeaf	   *leaf = &level->leaves[index];

	switch (entry->rtekind)
	{
		case RTE_RELATION:
			if (entry->relkind != RELKIND_VIEW)
				return add_table(builder, leaf, entry);
			return add_subquery(builder, level, index, cqrs_query_of_view(entry->relid), NULL, nullable);
		case RTE_SUBQUERY:
			return add_subquery(builder, level, index, entry->subquery, level, nullable);
		case RTE_CTE:
			return add_with(builder, level, index, nullable);
		default:
			builder->skeleton->partial = true;
			leaf->why = "is of a function or VALUES in FROM";
			return palloc0(sizeof(CqrsJoin));
	}
}

static CqrsJoin *build_from(Builder *builder, CqrsLevel *level, Node *node, bool nullable);

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
note_positive(CqrsLevel *level, Node *condition)
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
build_join(Builder *builder, CqrsLevel *level, JoinExpr *expr, bool nullable)
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
build_from(Builder *builder, CqrsLevel *level, Node *node, bool nullable)
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
add_sublinks(Builder *builder, CqrsLevel *level, CqrsJoin *join)
{
	List	   *sublinks = NIL;
	ListCell   *cell;

	(void) query_tree_walker(level->tree, collect_sublinks, &sublinks,
							 QTW_IGNORE_RT_SUBQUERIES | QTW_IGNORE_CTE_SUBQUERIES | QTW_IGNORE_JOINALIASES);
	foreach(cell, sublinks)
	{
		SubLink    *sublink = lfirst(cell);
		CqrsLevel	inner = {.above = level, .tree = castNode(Query, sublink->subselect), .depth = level->depth + 1};
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
grouped_away(const CqrsLevel *level, const TargetEntry *target)
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
static CqrsOutput *
make_output(CqrsLevel *level, TargetEntry *target, Relids relations)
{
	CqrsOutput	   *output = palloc0(sizeof(CqrsOutput));
	Query	   *tree = level->tree;

	if (grouped_away(level, target))
	{
		output->expression = (Node *) makeNullConst(exprType((Node *) target->expr), exprTypmod((Node *) target->expr),
													exprCollation((Node *) target->expr));
		output->why = cqrs_output_mixed(tree, target);
		return output;
	}
	*output = cqrs_express(level, (Node *) target->expr, NIL);
	if (output->why == NULL && contain_vars_of_level(output->expression, 0))
	{
		output->loose |= cqrs_output_agrees(tree, target, level->peers, &output->why) == CQRS_EQUAL;
		if (output->why == NULL && tree->groupingSets != NIL && !list_member_int(level->set, target->ressortgroupref))
			output->why = "is an expression over grouping sets";
	}
	else if (output->why == NULL && !level->peers && depends_on_choices((Node *) target->expr))
		output->why = cqrs_output_mixed(tree, target);
	if (output->why == NULL && level->nullable && !null_when_absent(output->expression, relations))
		output->why = "is an expression on the nullable side of an outer join";
	return output;
}

/*
 * make_outputs works out the columns of a query, as List of CqrsOutput *.
 */
static List *
make_outputs(CqrsLevel *level, Relids relations)
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
unite_output(Query *tree, int column, CqrsOutput *output)
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
build_branch(Builder *builder, CqrsLevel *level, List **outputs)
{
	List	   *branches = collect_branches(NIL, level->tree->setOperations);
	int			index = list_nth_int(branches, choose(builder, list_length(branches), false));
	CqrsLevel	branch = {.above = level, .depth = level->depth + 1, .nullable = level->nullable};
	CqrsJoin   *join;
	ListCell   *cell;

	branch.tree = rt_fetch(index, level->tree->rtable)->subquery;
	join = build_query(builder, &branch, outputs);
	foreach(cell, *outputs)
	{
		CqrsOutput	   *output = lfirst(cell);

		if (output->why == NULL)
			unite_output(level->tree, foreach_current_index(cell), output);
	}
	builder->skeleton->partial = true;
	add_sublinks(builder, level, join);
	return join;
}

/*
 * build_rows makes the skeleton of what a query reads.
 */
static CqrsJoin *
build_rows(Builder *builder, CqrsLevel *level)
{
	CqrsJoin   *join;

	level->leaves = palloc0(sizeof(CqrsLeaf) * (list_length(level->tree->rtable) + 1));
	join = build_from(builder, level, (Node *) level->tree->jointree, level->nullable);
	add_sublinks(builder, level, join);
	return join;
}

/*
 * note_part notes a subquery of which only some groups may be wanted, if that must be said in it: otherwise the planner finds its own ways.
 */
static void
note_part(Builder *builder, const CqrsLevel *level, const CqrsJoin *join, List *outputs)
{
	CqrsPart   *part = palloc0(sizeof(CqrsPart));
	ListCell   *cell;

	if (!level->placed || level->place == NIL || is_plain(level->tree))
		return;
	part->place = level->place;
	part->join = join;
	foreach(cell, outputs)
	{
		const CqrsOutput *output = lfirst(cell);
		CqrsPartColumn *column = palloc0(sizeof(CqrsPartColumn));

		if (output->why != NULL || !contain_vars_of_level(output->expression, 0))
			continue;
		column->written = (Node *) get_tle_by_resno(level->tree->targetList, foreach_current_index(cell) + 1)->expr;
		column->expression = output->expression;
		part->columns = lappend(part->columns, column);
	}
	builder->skeleton->parts = lappend(builder->skeleton->parts, part);
}

static CqrsJoin *build_peers(Builder *builder, CqrsLevel *level, List **outputs);

/*
 * build_query makes the skeleton of a query, and what it puts out.
 */
static CqrsJoin *
build_query(Builder *builder, CqrsLevel *level, List **outputs)
{
	Query	   *tree = level->tree;
	CqrsJoin   *join;

	check_stack_depth();
	if (tree->setOperations != NULL)
		return build_branch(builder, level, outputs);
	if (tree->groupingSets != NIL)
	{
		List	   *sets = expand_grouping_sets(tree->groupingSets, tree->groupDistinct, -1);

		level->set = list_nth(sets, choose(builder, list_length(sets), false));
	}
	if (builder->with_peers && cqrs_output_peers(tree))
		return build_peers(builder, level, outputs);
	join = build_rows(builder, level);
	*outputs = make_outputs(level, join->relations);
	note_part(builder, level, join, *outputs);
	if (cqrs_output_one_row(tree) || (tree->groupingSets != NIL && level->set == NIL))
		return optional(join);
	return join;
}

/* ---- rows that are chosen from others or compared with others ---- */

/*
 * both_null makes the condition that two expressions are null.
 */
static Node *
both_null(Node *one, Node *other)
{
	return (Node *) makeBoolExpr(AND_EXPR, list_make2(cqrs_query_null_test(copyObject(one), IS_NULL),
													  cqrs_query_null_test(copyObject(other), IS_NULL)), -1);
}

/*
 * add_link adds the condition that rows are of one partition, in one of its columns: equal, or both null, one after the other.
 *
 * It may be relied upon, though nulls pass it, where the rows that it is about are sure to be there.
 */
static void
add_link(Builder *builder, CqrsJoin *join, CqrsLevel *levels[2], TargetEntry *target, CqrsPart *part)
{
	CqrsPartColumn *column = palloc0(sizeof(CqrsPartColumn));
	CqrsConjunct *conjunct = palloc0(sizeof(CqrsConjunct));
	Node	   *sides[2];

	for (int i = 0; i < 2; i++)
	{
		CqrsOutput	side = cqrs_express(levels[i], (Node *) target->expr, NIL);

		if (side.why == NULL)
			(void) cqrs_output_agrees(levels[i]->tree, target, true, &side.why);
		if (side.why != NULL || cqrs_join_whole_row(side.expression) || type_is_rowtype(exprType(side.expression)))
			return;
		sides[i] = side.expression;
	}
	column->written = (Node *) target->expr;
	column->expression = sides[0];
	column->peer = sides[1];
	column->equality = cqrs_output_partition_equality(levels[0]->tree, target);
	if (cqrs_key_nullable(levels[0]->tree, target->resno))
	{
		part->split = true;
		column->null = choose(builder, 2, levels[0]->single) == 1;
	}
	part->columns = lappend(part->columns, column);
	conjunct->clause = column->null ? both_null(sides[0], sides[1]) :
		(Node *) make_opclause(column->equality, BOOLOID, false, copyObject((Expr *) sides[0]), copyObject((Expr *) sides[1]),
							   InvalidOid, exprCollation(sides[0]));
	conjunct->depth = levels[0]->depth;
	conjunct->relations = pull_varnos(NULL, conjunct->clause);
	conjunct->strict = bms_is_subset(conjunct->relations, cqrs_join_reduce(join, NULL, NULL));
	join->conjuncts = lappend(join->conjuncts, conjunct);
}

/*
 * build_peers makes the skeleton of a query whose rows are chosen from others or compared with others, as windows and LIMIT do.
 *
 * A row that it reads changes all that are in its partition, or of the same row of the query around.  So the rows that it reads are there twice: those that
 * are put out, and beside them those that these are chosen from or compared with.
 */
static CqrsJoin *
build_peers(Builder *builder, CqrsLevel *level, List **outputs)
{
	CqrsLevel	own = *level;
	CqrsLevel  *levels[2] = {level, &own};
	CqrsJoin   *join = palloc0(sizeof(CqrsJoin));
	CqrsPart   *part = palloc0(sizeof(CqrsPart));
	CqrsJoin   *rows;
	ListCell   *cell;

	builder->skeleton->partial = true;
	own.peers = true;
	own.placed = false;
	join->type = JOIN_INNER;
	part->place = level->place;
	part->join = build_rows(builder, level);
	part->peers = true;
	add_child(join, unconstify(CqrsJoin *, part->join));
	rows = build_rows(builder, &own);
	add_child(join, rows);
	*outputs = make_outputs(&own, rows->relations);
	if (level->tree->limitCount != NULL || level->tree->limitOffset != NULL)
		return join;
	foreach(cell, level->tree->targetList)
		if (cqrs_output_mixed(level->tree, lfirst(cell)) == NULL)
			add_link(builder, join, levels, lfirst(cell), part);
	if (level->placed)
		builder->skeleton->parts = lappend(builder->skeleton->parts, part);
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
		CqrsOutput	   *output = list_nth(outputs, program->key[i] - 1);
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
	CqrsLevel	level = {.tree = builder->tree, .placed = true, .single = true};
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
cqrs_skeleton_derive(CqrsProgram *program, Query *tree, bool with_peers)
{
	CqrsQuery  *query = program->query;
	Builder		builder = {.program = program, .tree = tree, .with_peers = with_peers};

	do
	{
		if (list_length(query->skeletons) == CHOICES_LIMIT)
			builder.obstacle = "the query has too many branches of set operations and grouping sets";
		else if (build(&builder) == NULL)
			query->skeletons = lappend(query->skeletons, builder.skeleton);
	} while (builder.obstacle == NULL && choose_next(&builder));
	if (builder.obstacle != NULL)
		query->skeletons = NIL;
	query->apart = !builder.entangled;
	return builder.obstacle;
}
