/*
 * plan/change.c
 *		Strategy delta: the statements that compute what changes add to groups, and put it together with what the table holds.
 *
 * With R the state now and D the signed rows that have come and gone, the state before is R - D.  So what has changed of a join, taken over the occurrences
 * of changed tables in it, is the sum over all sets of some of them, with alternating signs, of the join with these replaced by their deltas and the
 * others as they are now.  Each such set is a SELECT of key, arguments of aggregates and weight; they are united and grouped.
 *
 * What groups gain and what they lose is added up apart, by the query's own aggregates: so no value is ever multiplied by a weight, and what was lost can be
 * looked at.  For the least and greatest values rows that have both come and gone are taken out first, where equal values are the same.
 *
 * Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/names.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

/* A relation with keys, dependents and components in the statement that combines. */
#define COMBINED "cqrs_combined"

/* The column with a CqrsVerdict in it. */
#define VERDICT "cqrs_verdict"

/* Where a query's tables are to be replaced by deltas. */
typedef struct Redirection
{
	const CqrsProgram *program;
	const int  *source_of;		/* by relation: the source whose delta stands for it, or -1 */
	Index		depth;
} Redirection;

/* ---- changes ---- */

/*
 * redirect writes an expression, or a query below, for deltas in place of tables.
 */
static Node *
redirect(Node *node, Redirection *redirection)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = copyObject((Var *) node);
		int			source;

		if (var->varlevelsup != redirection->depth)
			return (Node *) var;
		source = redirection->source_of[var->varno];
		if (source >= 0)
		{
			var->varattno = cqrs_affected_column(&redirection->program->sources[source], var->varattno);
			var->varattnosyn = var->varattno;
		}
		return (Node *) var;
	}
	if (IsA(node, Query))
	{
		Query	   *query;

		redirection->depth++;
		query = query_tree_mutator((Query *) node, redirect, redirection, 0);
		redirection->depth--;
		return (Node *) query;
	}
	return expression_tree_mutator(node, redirect, redirection);
}

/*
 * occurrences lists the relations of the plain query that are of some sources.
 */
static List *
occurrences(const CqrsProgram *program, Bitmapset *changed)
{
	Query	   *plain = program->query->plain;
	List	   *result = NIL;
	int			source = -1;
	ListCell   *cell;

	foreach(cell, plain->jointree->fromlist)
	{
		Index		relation = ((RangeTblRef *) lfirst(cell))->rtindex;
		RangeTblEntry *entry = rt_fetch(relation, plain->rtable);

		source = -1;
		while ((source = bms_next_member(changed, source)) >= 0)
			if (entry->rtekind == RTE_RELATION && entry->relid == program->sources[source].relation)
				result = lappend_int(result, relation);
	}
	return result;
}

/*
 * cqrs_plan_occurrences counts the occurrences of sources.
 */
int
cqrs_plan_occurrences(const CqrsProgram *program, Bitmapset *changed)
{
	return list_length(occurrences(program, changed));
}

/*
 * multiply makes the product of two expressions of type bigint, or the first if the second is NULL.
 */
static Expr *
multiply(Expr *left, Expr *right)
{
	List	   *times = list_make2(makeString("pg_catalog"), makeString("*"));

	if (right == NULL)
		return left;
	return make_opclause(OpernameGetOprid(times, INT8OID, INT8OID), INT8OID, false, left, right, InvalidOid, InvalidOid);
}

/*
 * weight makes the weight of a row joined of some deltas, as an integer; negative for an even number of them.
 */
static Expr *
weight(const CqrsProgram *program, const int *source_of, int nrelations)
{
	Expr	   *product = NULL;
	int			count = 0;

	for (int relation = 1; relation <= nrelations; relation++)
		if (source_of[relation] >= 0)
		{
			AttrNumber	attnum = program->sources[source_of[relation]].delta->natts;

			product = multiply((Expr *) makeVar(relation, attnum, INT8OID, -1, InvalidOid, 0), product);
			count++;
		}
	if (count % 2 == 0)
		product = multiply((Expr *) makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(-1), false,
											  FLOAT8PASSBYVAL), product);
	return (Expr *) makeFuncExpr(F_INT4_INT8, INT4OID, list_make1(product), InvalidOid, InvalidOid, COERCE_EXPLICIT_CAST);
}

/*
 * add_target adds a column to a query.
 */
static void
add_target(Query *query, Node *expression, char *name)
{
	query->targetList = lappend(query->targetList,
								makeTargetEntry((Expr *) expression, list_length(query->targetList) + 1, name, false));
}

/*
 * argument_name returns the name of a component's argument in changed rows.
 */
static char *
argument_name(int component)
{
	return psprintf("cqrs_argument_%d", component);
}

/*
 * presence returns the condition that the values which a component counts are there, if that takes less than their sum, which is computed anyway; or NULL.
 */
static Node *
presence(const CqrsLayout *layout, int index)
{
	const CqrsComponent *component = list_nth(layout->components, index);
	bool		summed = false;
	List	   *columns = NIL;
	ListCell   *cell;

	foreach(cell, layout->components)
	{
		const CqrsComponent *sum = lfirst(cell);

		summed = summed || (sum->kind == CQRS_COMPONENT_SUM && sum->count == index);
	}
	if (component->kind != CQRS_COMPONENT_COUNT || !summed || IsA(component->argument, Var) ||
		!cqrs_layout_operands(component->argument, &columns))
		return NULL;
	return cqrs_layout_all_there(columns);
}

/*
 * value_of returns what changed rows show of a component: its argument, or of one that only counts whether that is there.
 */
static Node *
value_of(const CqrsLayout *layout, int index)
{
	Node	   *condition = presence(layout, index);

	return condition != NULL ? condition : ((CqrsComponent *) list_nth(layout->components, index))->argument;
}

/*
 * change_column returns the name of a column of program->change.
 */
static const char *
change_column(const CqrsProgram *program, int column)
{
	return NameStr(TupleDescAttr(program->change, column)->attname);
}

/*
 * changed_rows makes the SELECT of what rows the query's groups are made of if some relations stand for their deltas.
 */
static char *
changed_rows(const CqrsProgram *program, const int *source_of)
{
	const CqrsLayout *layout = program->query->layout;
	Query	   *query = copyObject(program->query->plain);
	Redirection redirection = {.program = program, .source_of = source_of};
	int			nrelations = list_length(query->rtable);
	int			column = 0;
	ListCell   *cell;

	foreach(cell, layout->keys)
		add_target(query, lfirst(cell), pstrdup(change_column(program, column++)));
	foreach(cell, layout->dependents)
		add_target(query, lfirst(cell), pstrdup(change_column(program, column++)));
	foreach(cell, layout->components)
		if (((CqrsComponent *) lfirst(cell))->argument != NULL)
			add_target(query, value_of(layout, foreach_current_index(cell)), argument_name(foreach_current_index(cell)));
	query->targetList = (List *) redirect((Node *) query->targetList, &redirection);
	query->jointree = (FromExpr *) redirect((Node *) query->jointree, &redirection);
	query->rtable = range_table_mutator(query->rtable, redirect, &redirection, 0);
	add_target(query, (Node *) weight(program, source_of, nrelations), "cqrs_weight");
	for (int relation = 1; relation <= nrelations; relation++)
	{
		RangeTblEntry *entry = rt_fetch(relation, query->rtable);

		if (source_of[relation] >= 0)
			list_nth_cell(query->rtable, relation - 1)->ptr_value =
				cqrs_affected_delta(program, source_of[relation], entry->eref->aliasname);
	}
	return pg_get_querydef(query, false);
}

/*
 * all_changed_rows unites the SELECTs for all sets of occurrences that have changed.
 */
static char *
all_changed_rows(const CqrsProgram *program, Bitmapset *changed)
{
	List	   *relations = occurrences(program, changed);
	int			nrelations = list_length(program->query->plain->rtable);
	int		   *source_of = palloc(sizeof(int) * (nrelations + 1));
	StringInfoData sql;

	initStringInfo(&sql);
	for (uint32 set = 1; set < (1u << list_length(relations)); set++)
	{
		ListCell   *cell;

		for (int relation = 0; relation <= nrelations; relation++)
			source_of[relation] = -1;
		foreach(cell, relations)
		{
			Oid			relid = rt_fetch(lfirst_int(cell), program->query->plain->rtable)->relid;

			for (int i = 0; i < program->nsources && (set >> foreach_current_index(cell)) & 1; i++)
				if (program->sources[i].relation == relid)
					source_of[lfirst_int(cell)] = i;
		}
		appendStringInfo(&sql, "%s(%s)", set > 1 ? " UNION ALL " : "", changed_rows(program, source_of));
	}
	return sql.data;
}

/* ---- changes, added up ---- */

/*
 * is_netted tells whether a component is of values of which those that have both come and gone are taken out first.
 */
static bool
is_netted(const CqrsComponent *component)
{
	return component->kind == CQRS_COMPONENT_EXTREMUM && component->exact;
}

/*
 * append_gains writes what a group gains in a component, and what it loses, from changed rows "d".
 */
static void
append_gains(StringInfo sql, const CqrsLayout *layout, int index)
{
	const CqrsComponent *component = list_nth(layout->components, index);
	const char *argument = argument_name(index);
	const char *null = " IS NOT NULL";
	const char *function;

	switch (component->kind)
	{
		case CQRS_COMPONENT_ROWS:
			appendStringInfo(sql, ", COALESCE(pg_catalog.sum(d.cqrs_weight), 0) AS %s", component->name);
			return;
		case CQRS_COMPONENT_COUNT:
			if (presence(layout, index) != NULL)
				null = "";
			else if (type_is_rowtype(exprType(component->argument)))
				null = " IS DISTINCT FROM NULL";
			appendStringInfo(sql, ", COALESCE(pg_catalog.sum(d.cqrs_weight) FILTER (WHERE d.%s%s), 0) AS %s", argument, null,
							 component->name);
			return;
		case CQRS_COMPONENT_SCALES:
			appendStringInfo(sql, ", COALESCE(pg_catalog.sum(d.%s) FILTER (WHERE d.cqrs_weight OPERATOR(pg_catalog.>) 0), 0) "
								  "OPERATOR(pg_catalog.-) "
								  "COALESCE(pg_catalog.sum(d.%s) FILTER (WHERE d.cqrs_weight OPERATOR(pg_catalog.<) 0), 0) AS %s",
							 argument, argument, component->name);
			return;
		default:
			function = component->kind == CQRS_COMPONENT_SUM ? "sum" : get_func_name(component->function);
			appendStringInfo(sql, ", pg_catalog.%s(d.%s) FILTER (WHERE d.cqrs_weight OPERATOR(pg_catalog.>) 0) AS %s_plus"
								  ", pg_catalog.%s(d.%s) FILTER (WHERE d.cqrs_weight OPERATOR(pg_catalog.<) 0) AS %s_minus",
							 function, argument, component->name, function, argument, component->name);
	}
}

/*
 * append_gains_of_net writes the same from the groups "e" of rows that agree in all values that are netted.
 */
static void
append_gains_of_net(StringInfo sql, const CqrsComponent *component, int index)
{
	const char *function;
	const char *cast = "";

	switch (component->kind)
	{
		case CQRS_COMPONENT_ROWS:
		case CQRS_COMPONENT_COUNT:
			appendStringInfo(sql, ", COALESCE(pg_catalog.sum(e.%s), 0)::pg_catalog.int8 AS %s", component->name, component->name);
			return;
		case CQRS_COMPONENT_SCALES:
			appendStringInfo(sql, ", COALESCE(pg_catalog.sum(e.%s), 0) AS %s", component->name, component->name);
			return;
		case CQRS_COMPONENT_SUM:
			function = "sum";
			if (exprType(component->stored) == INT8OID)
				cast = "::pg_catalog.int8";
			break;
		default:
			function = get_func_name(component->function);
	}
	if (is_netted(component))
		appendStringInfo(sql, ", pg_catalog.%s(e.%s) FILTER (WHERE e.cqrs_rows OPERATOR(pg_catalog.>) 0) AS %s_plus"
							  ", pg_catalog.%s(e.%s) FILTER (WHERE e.cqrs_rows OPERATOR(pg_catalog.<) 0) AS %s_minus",
						 function, argument_name(index), component->name, function, argument_name(index), component->name);
	else
		appendStringInfo(sql, ", pg_catalog.%s(e.%s_plus)%s AS %s_plus, pg_catalog.%s(e.%s_minus)%s AS %s_minus", function,
						 component->name, cast, component->name, function, component->name, cast, component->name);
}

/*
 * append_names writes columns that a statement groups by: those that tell groups apart, and where values are netted these, too.
 */
static void
append_names(StringInfo sql, const CqrsProgram *program, const char *prefix, bool netted, const char *separator)
{
	const CqrsLayout *layout = program->query->layout;
	int			ngroups = program->nkeys + list_length(layout->dependents);
	ListCell   *cell;

	for (int i = 0; i < ngroups; i++)
	{
		appendStringInfo(sql, "%s%s.%s", separator, prefix, change_column(program, i));
		separator = ", ";
	}
	foreach(cell, layout->components)
		if (netted && is_netted(lfirst(cell)))
		{
			appendStringInfo(sql, "%s%s.%s", separator, prefix, argument_name(foreach_current_index(cell)));
			separator = ", ";
		}
}

/*
 * drop_comma takes the first ", " of a list away.
 */
static const char *
drop_comma(const char *list)
{
	return strncmp(list, ", ", 2) == 0 ? list + 2 : list;
}

/*
 * cqrs_plan_change makes the statement that adds up what has changed.
 */
char *
cqrs_plan_change(const CqrsProgram *program, Bitmapset *changed)
{
	char	   *rows = all_changed_rows(program, changed);
	StringInfoData columns;
	StringInfoData groups;
	bool		netted = false;
	ListCell   *cell;

	foreach(cell, program->query->layout->components)
		netted = netted || is_netted(lfirst(cell));
	for (int round = netted ? 0 : 1; round < 2; round++)
	{
		bool		inner = round == 0;
		const char *prefix = inner || !netted ? "d" : "e";

		initStringInfo(&columns);
		initStringInfo(&groups);
		append_names(&columns, program, prefix, inner, ", ");
		append_names(&groups, program, prefix, inner, " GROUP BY ");
		foreach(cell, program->query->layout->components)
			if (inner && is_netted(lfirst(cell)))
				continue;
			else if (inner || !netted)
				append_gains(&columns, program->query->layout, foreach_current_index(cell));
			else
				append_gains_of_net(&columns, lfirst(cell), foreach_current_index(cell));
		rows = psprintf("%sSELECT %s FROM (%s) AS %s%s%s", inner ? "(" : "", drop_comma(columns.data), rows, prefix, groups.data,
						inner ? ")" : "");
	}
	return rows;
}

/* ---- changes, put together with the table ---- */

/*
 * is_open tells whether a value of a sum may be infinite or no number.
 */
static bool
is_open(const CqrsComponent *component)
{
	return component->kind == CQRS_COMPONENT_SUM && exprType(component->argument) == NUMERICOID;
}

/*
 * new_count writes how many rows, or values, a group has now.
 */
static char *
new_count(const CqrsComponent *component)
{
	return psprintf("(COALESCE(t.%s, 0) OPERATOR(pg_catalog.+) a.%s)", component->name, component->name);
}

/*
 * new_sum writes the sum of a group now, with the scale of what it is made of.
 */
static char *
new_sum(const CqrsLayout *layout, const CqrsComponent *component)
{
	const char *name = component->name;
	char	   *sum = psprintf("COALESCE(t.%s, 0) OPERATOR(pg_catalog.+) COALESCE(a.%s_plus, 0) OPERATOR(pg_catalog.-) COALESCE(a.%s_minus, 0)",
							   name, name, name);

	if (component->scales >= 0)
		sum = psprintf("pg_catalog.round(%s, (pg_catalog.length(%s::pg_catalog.text) OPERATOR(pg_catalog.-) 1) OPERATOR(pg_catalog./) %d)", sum,
					   new_count(list_nth(layout->components, component->scales)), CQRS_SCALE_DIGITS);
	return psprintf("CASE WHEN %s OPERATOR(pg_catalog.>) 0 THEN %s END", new_count(list_nth(layout->components, component->count)), sum);
}

/*
 * sorts writes the condition that one value comes before another in the order of an extremum.
 */
static char *
sorts(const CqrsComponent *component, const char *first, const char *second)
{
	char	   *operator = get_opname(component->order);

	return psprintf("%s OPERATOR(pg_catalog.%s) %s", first, operator, second);
}

/*
 * new_extremum writes the least or greatest value of a group now, if it can be told.
 */
static char *
new_extremum(const CqrsComponent *component, const char *rows)
{
	char	   *held = psprintf("t.%s", component->name);
	char	   *gained = psprintf("a.%s_plus", component->name);

	return psprintf("CASE WHEN %s OPERATOR(pg_catalog.=) 0 THEN NULL WHEN %s IS NULL OR %s THEN %s ELSE %s END", rows, held,
					sorts(component, gained, held), gained, held);
}

/*
 * append_doubts writes the conditions under which a component cannot be told, each behind an OR.
 *
 * What takes part in an infinite sum, or is no number, hides what else was added.  A value that is lost may have been the last extreme one, unless what
 * is gained lies beyond; if values look different where they are equal, it must not even come near.
 */
static void
append_doubts(StringInfo sql, const CqrsComponent *component)
{
	char	   *held = psprintf("t.%s", component->name);
	char	   *gained = psprintf("a.%s_plus", component->name);
	char	   *lost = psprintf("a.%s_minus", component->name);

	if (is_open(component))
		appendStringInfo(sql, " OR %s IN ('NaN', 'Infinity', '-Infinity')", lost);
	if (component->kind != CQRS_COMPONENT_SUM && component->kind != CQRS_COMPONENT_EXTREMUM)
		appendStringInfo(sql, " OR %s OPERATOR(pg_catalog.<) 0", new_count(component));
	if (component->kind == CQRS_COMPONENT_SCALES)
		appendStringInfo(sql, " OR COALESCE(t.%s, 0) OPERATOR(pg_catalog.+) pg_catalog.abs(a.%s) OPERATOR(pg_catalog.>=) 1e%d",
						 component->name, component->name, CQRS_SCALE_DIGITS * CQRS_SCALE_LIMIT - 1);
	if (component->kind != CQRS_COMPONENT_EXTREMUM)
		return;
	if (component->exact)
		appendStringInfo(sql, " OR (%s IS NOT NULL AND (%s) IS NOT TRUE AND (%s) IS NOT TRUE)", lost, sorts(component, held, lost),
						 sorts(component, gained, held));
	else
		appendStringInfo(sql, " OR (%s IS NOT NULL AND (%s) IS NOT TRUE) OR (%s IS NOT NULL AND %s IS NOT NULL AND (%s) IS NOT TRUE)",
						 lost, sorts(component, held, lost), gained, held, sorts(component, held, gained));
}

/*
 * append_verdict writes what is to be done with a group.
 */
static void
append_verdict(StringInfo sql, const CqrsLayout *layout, const char *rows)
{
	ListCell   *cell;

	if (layout->grouped)
		appendStringInfo(sql, ", CASE WHEN %s OPERATOR(pg_catalog.=) 0 THEN %d WHEN false", rows, CQRS_VERDICT_GONE);
	else
		appendStringInfo(sql, ", CASE WHEN %s OPERATOR(pg_catalog.=) 0 THEN %d WHEN false", rows, CQRS_VERDICT_WRITE);
	foreach(cell, layout->components)
		append_doubts(sql, lfirst(cell));
	appendStringInfo(sql, " THEN %d ELSE %d END AS %s", CQRS_VERDICT_RECOMPUTE, CQRS_VERDICT_WRITE, VERDICT);
}

/*
 * combined makes the SELECT of keys, dependents, components and verdict of groups that have changed.
 */
static char *
combined(const CqrsProgram *program, uint32 nulls, bool except)
{
	const CqrsLayout *layout = program->query->layout;
	const char *rows = new_count(linitial(layout->components));
	StringInfoData sql;
	const char *separator;
	ListCell   *cell;

	initStringInfo(&sql);
	append_names(&sql, program, "a", false, ", ");
	foreach(cell, layout->components)
	{
		CqrsComponent *component = lfirst(cell);

		appendStringInfo(&sql, ", %s AS %s", component->kind == CQRS_COMPONENT_SUM ? new_sum(layout, component) :
						 component->kind == CQRS_COMPONENT_EXTREMUM ? new_extremum(component, rows) : new_count(component),
						 component->name);
	}
	append_verdict(&sql, layout, rows);
	appendStringInfo(&sql, " FROM %s AS a LEFT JOIN %s AS t ON ", CQRS_CHANGE, cqrs_name_relation(program->table));
	separator = cqrs_match_append_equal(&sql, program, nulls, 'a', 't', "");
	separator = cqrs_match_append_pattern(&sql, program, nulls, 't', separator);
	if (*separator == '\0')
		appendStringInfoString(&sql, "true");
	if (except)
	{
		appendStringInfo(&sql, " WHERE NOT EXISTS (SELECT FROM %s AS x", CQRS_AFFECTED);
		(void) cqrs_match_append_equal(&sql, program, nulls, 'x', 'a', " WHERE ");
		appendStringInfoChar(&sql, ')');
	}
	return psprintf("SELECT %s", drop_comma(sql.data));
}

/*
 * combined_entry makes the range table entry of that SELECT.
 */
static RangeTblEntry *
combined_entry(const CqrsProgram *program)
{
	const CqrsLayout *layout = program->query->layout;
	int			ngroups = program->nkeys + list_length(layout->dependents);
	RangeTblEntry *entry = makeNode(RangeTblEntry);
	List	   *columns = NIL;
	ListCell   *cell;

	for (int i = 0; i < ngroups; i++)
		columns = lappend(columns, makeString(pstrdup(change_column(program, i))));
	foreach(cell, layout->components)
		columns = lappend(columns, makeString(pstrdup(((CqrsComponent *) lfirst(cell))->name)));
	columns = lappend(columns, makeString(pstrdup(VERDICT)));
	entry->rtekind = RTE_CTE;
	entry->ctename = pstrdup(COMBINED);
	entry->eref = makeAlias(COMBINED, columns);
	entry->inFromCl = true;
	return entry;
}

/*
 * where_written has an expression evaluated for groups only that are to be written: of others it may fail.
 */
static Node *
where_written(Node *expression, const Var *verdict)
{
	List	   *equal = list_make2(makeString("pg_catalog"), makeString("="));
	Const	   *write = makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(CQRS_VERDICT_WRITE), false, true);

	if (IsA(expression, Var))
		return expression;
	return cqrs_layout_where((Node *) make_opclause(OpernameGetOprid(equal, INT4OID, INT4OID), BOOLOID, false,
													copyObject((Expr *) verdict), (Expr *) write, InvalidOid, InvalidOid),
							 expression);
}

/*
 * cqrs_plan_combine makes the statement that puts changes of groups together with the table's rows.
 */
char *
cqrs_plan_combine(const CqrsProgram *program, uint32 nulls, bool except)
{
	const CqrsLayout *layout = program->query->layout;
	int			ngroups = program->nkeys + list_length(layout->dependents);
	int			ncomponents = list_length(layout->components);
	Var		   *verdict = makeVar(1, ngroups + ncomponents + 1, INT4OID, -1, InvalidOid, 0);
	Query	   *query = cqrs_query_select();
	ListCell   *cell;

	cqrs_query_add_entry(query, combined_entry(program));
	foreach(cell, layout->visible)
		add_target(query, where_written(lfirst(cell), verdict),
				   pstrdup(NameStr(TupleDescAttr(program->row, foreach_current_index(cell))->attname)));
	foreach(cell, layout->components)
	{
		CqrsComponent *component = lfirst(cell);

		Var		   *column = makeVar(1, ngroups + foreach_current_index(cell) + 1, exprType(component->stored),
									 exprTypmod(component->stored), exprCollation(component->stored), 0);

		add_target(query, (Node *) column, component->name);
	}
	if (layout->shown != NULL)
		add_target(query, where_written(layout->shown, verdict), CQRS_SHOWN);
	add_target(query, (Node *) verdict, VERDICT);
	return psprintf("WITH %s AS (%s) %s", COMBINED, combined(program, nulls, except), pg_get_querydef(query, false));
}
