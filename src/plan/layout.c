/*
 * plan/layout.c
 *		Strategy delta: the hidden columns of a version's table, from which its visible ones are computed, so that changes can be added to a row.
 *
 * A row of a grouped query is told by a few components: how many rows the group has, and of each aggregate what adds up (a count of values that are not
 * null, a sum) or nearly so (the least or greatest value).  Components have columns of their own in the table, behind the query's.  Whatever the query
 * makes of its aggregates is an expression over them, and so is HAVING: groups that fail it are kept, and the serving view hides them.
 *
 * A layout depends on the query's own text only, never on what may change under it, such as a primary key: the table is made for it once.
 *
 * The sum of a numeric looks as precise as the most precise value in it, so 1.50 - 1.00 is 0.5 where 1.00 leaves last.  Where the scale of the values is not
 * the same for all, as it is in a numeric(10,2), a component counts the values of each scale, as digits of one number: CQRS_SCALE_DIGITS for each scale.
 *
 * Pure but for catalogs.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "plan/query.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/syscache.h"

/* What a numeric's typmod says of its scale, as in the server's numeric.c. */
#define TYPMOD_SCALE(typmod) ((((int) ((typmod) - (int32) VARHDRSZ) & 0x7ff) ^ 1024) - 1024)

/* A layout in the making. */
typedef struct Maker
{
	CqrsLayout *layout;
	Query	   *tree;
	const char *obstacle;
} Maker;

/* ---- expressions ---- */

/*
 * replace_params puts expressions in place of parameters.
 */
static Node *
replace_params(Node *node, List *arguments)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Param))
		return copyObject(list_nth(arguments, ((Param *) node)->paramid - 1));
	return expression_tree_mutator(node, replace_params, arguments);
}

/*
 * from_text makes an expression from its text, in which $1 and so on stand for the arguments; names in it are qualified.
 */
static Node *
from_text(const char *text, List *arguments)
{
	char	   *statement = psprintf("SELECT %s", text);
	Oid		   *types = palloc(sizeof(Oid) * list_length(arguments));
	Query	   *query;
	ListCell   *cell;

	foreach(cell, arguments)
		types[foreach_current_index(cell)] = exprType(lfirst(cell));
	query = parse_analyze_fixedparams(linitial_node(RawStmt, raw_parser(statement, RAW_PARSE_DEFAULT)), statement, types,
									  list_length(arguments), NULL);
	return replace_params((Node *) linitial_node(TargetEntry, query->targetList)->expr, arguments);
}

/*
 * scale_of_operation returns the scale of what a numeric operator or function yields, given that of its arguments, or -1.
 */
static int
scale_of_operation(Oid function, List *arguments)
{
	int			left = cqrs_layout_scale(linitial(arguments));
	int			right = list_length(arguments) == 2 ? cqrs_layout_scale(lsecond(arguments)) : left;

	switch (function)
	{
		case F_NUMERIC_ADD:
		case F_NUMERIC_SUB:
		case F_NUMERIC_UMINUS:
		case F_NUMERIC_UPLUS:
		case F_NUMERIC_ABS:
		case F_ABS_NUMERIC:
			return left < 0 || right < 0 ? -1 : Max(left, right);
		case F_NUMERIC_MUL:
			return left < 0 || right < 0 ? -1 : left + right;
		case F_NUMERIC_INT2:
		case F_NUMERIC_INT4:
		case F_NUMERIC_INT8:
			return 0;
		default:
			return -1;
	}
}

/*
 * scale_of_all returns the scale that all of some expressions have, nulls aside, or -1.
 */
static int
scale_of_all(List *expressions)
{
	int			scale = -1;
	ListCell   *cell;

	foreach(cell, expressions)
	{
		Node	   *expression = lfirst(cell);
		int			own;

		if (IsA(expression, CaseWhen))
			expression = (Node *) ((CaseWhen *) expression)->result;
		if (IsA(expression, Const) && ((Const *) expression)->constisnull)
			continue;
		own = cqrs_layout_scale(expression);
		if (own < 0 || (scale >= 0 && own != scale))
			return -1;
		scale = own;
	}
	return scale;
}

/*
 * cqrs_layout_scale returns the scale that all finite values of a numeric expression have, or -1 if that is not known.
 */
int
cqrs_layout_scale(Node *expression)
{
	int32		typmod = exprTypmod(expression);
	Oid			type = getBaseTypeAndTypmod(exprType(expression), &typmod);

	if (type != NUMERICOID)
		return -1;
	if (typmod >= (int32) VARHDRSZ)
		return Max(TYPMOD_SCALE(typmod), 0);
	switch (nodeTag(expression))
	{
		case T_Const:
			if (((Const *) expression)->constisnull || numeric_is_nan(DatumGetNumeric(((Const *) expression)->constvalue)) ||
				numeric_is_inf(DatumGetNumeric(((Const *) expression)->constvalue)))
				return -1;
			return DatumGetInt32(DirectFunctionCall1(numeric_scale, ((Const *) expression)->constvalue));
		case T_OpExpr:
			return scale_of_operation(get_opcode(((OpExpr *) expression)->opno), ((OpExpr *) expression)->args);
		case T_FuncExpr:
			return scale_of_operation(((FuncExpr *) expression)->funcid, ((FuncExpr *) expression)->args);
		case T_CoalesceExpr:
			return scale_of_all(((CoalesceExpr *) expression)->args);
		case T_CaseExpr:
			return scale_of_all(lcons(((CaseExpr *) expression)->defresult, list_copy(((CaseExpr *) expression)->args)));
		default:
			return -1;
	}
}

/* ---- nulls ---- */

/*
 * is_number tells whether a type is one of those that sums are of.
 */
static bool
is_number(Oid type)
{
	return type == INT2OID || type == INT4OID || type == INT8OID || type == NUMERICOID;
}

/*
 * is_arithmetic tells whether an expression is null only if one of its arguments is: one of the server's operators and casts between numbers.
 */
static bool
is_arithmetic(Oid function, List *arguments)
{
	ListCell   *cell;

	foreach(cell, arguments)
		if (!is_number(exprType(lfirst(cell))))
			return false;
	return function < FirstUnpinnedObjectId && func_strict(function) && func_volatile(function) == PROVOLATILE_IMMUTABLE;
}

/*
 * cqrs_layout_operands lists the columns that make an expression null if, and only if, one of them is; false if that is not all there is to it.
 */
bool
cqrs_layout_operands(Node *expression, List **columns)
{
	List	   *arguments;
	ListCell   *cell;

	while (IsA(expression, RelabelType))
		expression = (Node *) ((RelabelType *) expression)->arg;
	if (IsA(expression, Const))
		return !((Const *) expression)->constisnull;
	if (!is_number(exprType(expression)))
		return false;
	if (IsA(expression, Var))
	{
		*columns = list_append_unique(*columns, expression);
		return true;
	}
	if (IsA(expression, OpExpr) && is_arithmetic(get_opcode(((OpExpr *) expression)->opno), ((OpExpr *) expression)->args))
		arguments = ((OpExpr *) expression)->args;
	else if (IsA(expression, FuncExpr) && ((FuncExpr *) expression)->funcformat != COERCE_EXPLICIT_CALL &&
			 is_arithmetic(((FuncExpr *) expression)->funcid, ((FuncExpr *) expression)->args))
		arguments = ((FuncExpr *) expression)->args;
	else
		return false;
	foreach(cell, arguments)
		if (!cqrs_layout_operands(lfirst(cell), columns))
			return false;
	return true;
}

/*
 * cqrs_layout_all_there makes the condition that no column of a list is null; NULL if there are none.
 */
Node *
cqrs_layout_all_there(List *columns)
{
	List	   *tests = NIL;
	ListCell   *cell;

	foreach(cell, columns)
		tests = lappend(tests, cqrs_query_null_test(copyObject(lfirst(cell)), IS_NOT_NULL));
	return tests == NIL ? NULL : (Node *) make_ands_explicit(tests);
}

/* ---- components ---- */

/*
 * aggregate_of makes the call of an aggregate of one argument, or none.
 */
static Aggref *
aggregate_of(Oid function, Oid type, Node *argument)
{
	Aggref	   *aggregate = makeNode(Aggref);

	aggregate->aggfnoid = function;
	aggregate->aggtype = type;
	if (argument != NULL)
	{
		aggregate->aggargtypes = list_make1_oid(exprType(argument));
		aggregate->args = list_make1(makeTargetEntry((Expr *) argument, 1, NULL, false));
		aggregate->inputcollid = exprCollation(argument);
	}
	aggregate->aggstar = argument == NULL;
	aggregate->aggkind = AGGKIND_NORMAL;
	aggregate->aggsplit = AGGSPLIT_SIMPLE;
	aggregate->location = -1;
	return aggregate;
}

/*
 * add_component returns the index of a component in the layout, adding it if it is not there.
 */
static int
add_component(CqrsLayout *layout, CqrsComponentKind kind, const char *name, Node *argument, Node *stored)
{
	CqrsComponent *component;
	ListCell   *cell;

	foreach(cell, layout->components)
	{
		component = lfirst(cell);
		if (component->kind == kind && equal(component->stored, stored))
			return foreach_current_index(cell);
	}
	component = palloc0(sizeof(CqrsComponent));
	component->kind = kind;
	component->argument = argument;
	component->stored = stored;
	component->name = layout->components == NIL ? pstrdup(name) : psprintf("%s_%d", name, list_length(layout->components));
	component->scales = -1;
	layout->components = lappend(layout->components, component);
	return list_length(layout->components) - 1;
}

/*
 * add_count adds the number of an argument's values that are not null.
 */
static int
add_count(CqrsLayout *layout, Node *argument)
{
	return add_component(layout, CQRS_COMPONENT_COUNT, "cqrs_count", argument,
						 (Node *) aggregate_of(F_COUNT_ANY, INT8OID, argument));
}

/*
 * add_scales adds the number of an argument's values of each scale.
 */
static int
add_scales(CqrsLayout *layout, Node *argument)
{
	const char *text = "pg_catalog.rpad('1', 1 OPERATOR(pg_catalog.+) (%d OPERATOR(pg_catalog.*) LEAST(pg_catalog.scale($1), %d)), '0')"
					   "::pg_catalog.numeric";
	Node	   *mark = from_text(psprintf(text, CQRS_SCALE_DIGITS, CQRS_SCALE_LIMIT), list_make1(argument));
	Node	   *sum = (Node *) aggregate_of(F_SUM_NUMERIC, NUMERICOID, mark);

	return add_component(layout, CQRS_COMPONENT_SCALES, "cqrs_scales", mark, from_text("COALESCE($1, 0)", list_make1(sum)));
}

/*
 * add_sum adds the sum of an argument, what it takes to know its scale, and how many values there are.
 */
static int
add_sum(CqrsLayout *layout, Node *argument)
{
	Oid			type = exprType(argument);
	Oid			function = type == INT2OID ? F_SUM_INT2 : type == INT4OID ? F_SUM_INT4 : type == INT8OID ? F_SUM_INT8 :
		F_SUM_NUMERIC;
	Oid			result = type == INT2OID || type == INT4OID ? INT8OID : NUMERICOID;
	int			count = add_count(layout, argument);
	int			scales = type == NUMERICOID && cqrs_layout_scale(argument) < 0 ? add_scales(layout, argument) : -1;
	int			sum = add_component(layout, CQRS_COMPONENT_SUM, "cqrs_sum", argument,
									(Node *) aggregate_of(function, result, argument));
	CqrsComponent *component = list_nth(layout->components, sum);

	component->count = count;
	component->scales = scales;
	return sum;
}

/*
 * sort_operator returns the operator by which an aggregate is the first value in an order, as min and max are, or invalid.
 */
static Oid
sort_operator(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(function));
	Oid			operator;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", function);
	operator = ((Form_pg_aggregate) GETSTRUCT(tuple))->aggsortop;
	ReleaseSysCache(tuple);
	return operator;
}

/*
 * cqrs_layout_extremum recognizes the server's min and max.
 */
bool
cqrs_layout_extremum(Oid function)
{
	const char *name = get_func_name(function);

	return get_func_namespace(function) == PG_CATALOG_NAMESPACE && OidIsValid(sort_operator(function)) &&
		(strcmp(name, "min") == 0 || strcmp(name, "max") == 0);
}

/*
 * add_extremum adds the least or greatest value of an argument.
 */
static int
add_extremum(CqrsLayout *layout, const Aggref *aggregate, Node *argument)
{
	Aggref	   *plain = copyObject(unconstify(Aggref *, aggregate));
	CqrsComponent *component;
	int			index;

	plain->args = list_make1(makeTargetEntry((Expr *) argument, 1, NULL, false));
	plain->aggfilter = NULL;
	plain->location = -1;
	index = add_component(layout, CQRS_COMPONENT_EXTREMUM, psprintf("cqrs_%s", get_func_name(aggregate->aggfnoid)), argument,
						  (Node *) plain);
	component = list_nth(layout->components, index);
	component->function = aggregate->aggfnoid;
	component->order = sort_operator(aggregate->aggfnoid);
	component->exact = cqrs_layout_exact(argument);
	return index;
}

/*
 * cqrs_layout_exact tells whether equal values of an expression always look the same.
 */
bool
cqrs_layout_exact(Node *expression)
{
	return cqrs_key_exact(getBaseType(exprType(expression)), exprCollation(expression)) || cqrs_layout_scale(expression) >= 0;
}

/* ---- what the query makes of its aggregates ---- */

/*
 * column_of makes a column of the relation that holds keys, dependents and components.
 */
static Node *
column_of(int number, Node *like)
{
	return (Node *) makeVar(1, number, exprType(like), exprTypmod(like), exprCollation(like), 0);
}

/*
 * component_column makes the column of a component.
 */
static Node *
component_column(const CqrsLayout *layout, int index)
{
	CqrsComponent *component = list_nth(layout->components, index);
	Node	   *column = column_of(0, component->stored);

	/* Numbered once all dependents are known: see number_components. */
	((Var *) column)->varno = 2;
	((Var *) column)->varattno = index + 1;
	return column;
}

/*
 * cqrs_layout_where makes an expression that is evaluated under a condition only, and otherwise null.
 */
Node *
cqrs_layout_where(Node *condition, Node *expression)
{
	CaseExpr   *guarded = makeNode(CaseExpr);
	CaseWhen   *when = makeNode(CaseWhen);

	when->expr = copyObject((Expr *) condition);
	when->result = (Expr *) expression;
	when->location = -1;
	guarded->casetype = exprType(expression);
	guarded->casecollid = exprCollation(expression);
	guarded->args = list_make1(when);
	guarded->defresult = (Expr *) makeNullConst(exprType(expression), exprTypmod(expression), exprCollation(expression));
	guarded->location = -1;
	return (Node *) guarded;
}

/*
 * argument_of returns what an aggregate is of, with its FILTER in it: the server's aggregates here pass over nulls.
 */
static Node *
argument_of(const Aggref *aggregate)
{
	Node	   *one = (Node *) makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(1), false, true);
	Node	   *argument = aggregate->args == NIL ? one : (Node *) linitial_node(TargetEntry, aggregate->args)->expr;

	return aggregate->aggfilter == NULL ? argument : cqrs_layout_where((Node *) aggregate->aggfilter, argument);
}

/*
 * average writes avg as the server computes it.
 */
static Node *
average(CqrsLayout *layout, Node *argument)
{
	int			sum = add_sum(layout, argument);
	CqrsComponent *component = list_nth(layout->components, sum);

	return from_text("$1::pg_catalog.numeric OPERATOR(pg_catalog./) $2::pg_catalog.numeric",
					 list_make2(component_column(layout, sum), component_column(layout, component->count)));
}

/*
 * restate_aggregate writes an aggregate over components.
 */
static Node *
restate_aggregate(const Aggref *aggregate, Maker *maker)
{
	CqrsLayout *layout = maker->layout;
	Node	   *argument;

	if (aggregate->agglevelsup == 0 && aggregate->aggorder == NIL && aggregate->aggdistinct == NIL &&
		list_length(aggregate->args) <= 1)
	{
		argument = argument_of(aggregate);
		switch (aggregate->aggfnoid)
		{
			case F_COUNT_:
				return component_column(layout, aggregate->aggfilter == NULL ? 0 : add_count(layout, argument));
			case F_COUNT_ANY:
				return component_column(layout, add_count(layout, argument));
			case F_SUM_INT2:
			case F_SUM_INT4:
			case F_SUM_INT8:
			case F_SUM_NUMERIC:
				return component_column(layout, add_sum(layout, argument));
			case F_AVG_INT2:
			case F_AVG_INT4:
			case F_AVG_INT8:
			case F_AVG_NUMERIC:
				return average(layout, argument);
			default:
				if (cqrs_layout_extremum(aggregate->aggfnoid))
					return component_column(layout, add_extremum(layout, aggregate, argument));
		}
	}
	maker->obstacle = psprintf("%s%s cannot be added to", aggregate->aggdistinct != NIL ? "DISTINCT in " :
							   aggregate->aggorder != NIL ? "ORDER BY in " : "", get_func_name(aggregate->aggfnoid));
	return NULL;
}

/*
 * position_in returns where an expression stands in a list, or -1.
 */
static int
position_in(List *expressions, Node *expression)
{
	ListCell   *cell;

	foreach(cell, expressions)
		if (equal(lfirst(cell), expression))
			return foreach_current_index(cell);
	return -1;
}

/*
 * restate writes what the query puts out over keys, dependents and components.
 */
static Node *
restate(Node *node, Maker *maker)
{
	CqrsLayout *layout = maker->layout;
	int			position;

	if (node == NULL || maker->obstacle != NULL)
		return NULL;
	position = position_in(layout->keys, node);
	if (position >= 0)
		return column_of(position + 1, node);
	if (IsA(node, Var))
		layout->dependents = list_append_unique(layout->dependents, node);
	position = position_in(layout->dependents, node);
	if (position >= 0)
		return column_of(list_length(layout->keys) + position + 1, node);
	if (IsA(node, Aggref))
		return restate_aggregate((Aggref *) node, maker);
	if (IsA(node, SubLink))
		maker->obstacle = "it computes a column by a subquery";
	if (IsA(node, Var) && ((Var *) node)->varattno <= 0)
		maker->obstacle = "it shows a whole row";
	return expression_tree_mutator(node, restate, maker);
}

/*
 * number_components turns the columns of components into those behind keys and dependents.
 */
static Node *
number_components(Node *node, const CqrsLayout *layout)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && ((Var *) node)->varno == 2)
	{
		Var		   *column = copyObject((Var *) node);

		column->varno = column->varnosyn = 1;
		column->varattno += list_length(layout->keys) + list_length(layout->dependents);
		column->varattnosyn = column->varattno;
		return (Node *) column;
	}
	return expression_tree_mutator(node, number_components, unconstify(CqrsLayout *, layout));
}

/*
 * is_simple tells whether an expression cannot fail: a column, or a constant.
 */
static bool
is_simple(Node *expression)
{
	while (IsA(expression, RelabelType))
		expression = (Node *) ((RelabelType *) expression)->arg;
	return IsA(expression, Var) || IsA(expression, Const) || IsA(expression, Aggref);
}

/* ---- the whole ---- */

/*
 * adds_up tells whether a query puts several rows into one at all.
 */
static bool
adds_up(const Query *tree)
{
	return tree->hasAggs || tree->groupClause != NIL || tree->groupingSets != NIL || tree->havingQual != NULL ||
		tree->distinctClause != NIL;
}

/*
 * unfit says what keeps a query of one level from being told by components, or returns NULL.
 */
static const char *
unfit(const CqrsProgram *program, const Query *tree)
{
	if (tree->setOperations != NULL)
		return "it is a set operation";
	if (tree->groupingSets != NIL)
		return "it has grouping sets";
	if (tree->hasWindowFuncs)
		return "it has window functions";
	if (tree->limitCount != NULL || tree->limitOffset != NULL || tree->hasDistinctOn)
		return "it chooses among rows";
	if (tree->hasTargetSRFs)
		return "it has a set-returning function";
	if (tree->distinctClause != NIL && (tree->hasAggs || tree->groupClause != NIL || tree->havingQual != NULL))
		return "it has both DISTINCT and groups";
	for (int i = 0; i < program->row->natts; i++)
		if (strncmp(NameStr(TupleDescAttr(program->row, i)->attname), "cqrs_", strlen("cqrs_")) == 0)
			return "a column has a name that begins with cqrs_";
	return NULL;
}

/*
 * take_groups sorts what the query groups by into the key and what depends on it; false if the key is of something else.
 */
static bool
take_groups(const CqrsProgram *program, CqrsLayout *layout)
{
	Query	   *tree = layout->tree;
	ListCell   *cell;

	foreach(cell, program->query->keys)
	{
		Node	   *key = lfirst(cell);
		bool		found = false;
		ListCell   *inner;

		foreach(inner, tree->groupClause)
			found = found || equal(get_sortgroupclause_expr(lfirst(inner), tree->targetList), key);
		if (!found || !cqrs_layout_exact(key))
			return false;
		layout->keys = lappend(layout->keys, key);
	}
	foreach(cell, tree->groupClause)
	{
		Node	   *group = get_sortgroupclause_expr(lfirst(cell), tree->targetList);

		if (position_in(layout->keys, group) < 0)
			layout->dependents = list_append_unique(layout->dependents, group);
	}
	return (tree->groupClause == NIL) == (layout->keys == NIL);
}

/*
 * take_columns writes each column of the query, and HAVING, over components.
 */
static void
take_columns(Maker *maker)
{
	CqrsLayout *layout = maker->layout;
	ListCell   *cell;

	foreach(cell, layout->tree->targetList)
		if (!((TargetEntry *) lfirst(cell))->resjunk)
			layout->visible = lappend(layout->visible, restate((Node *) ((TargetEntry *) lfirst(cell))->expr, maker));
	if (layout->tree->havingQual != NULL)
		layout->shown = restate(layout->tree->havingQual, maker);
	if (maker->obstacle != NULL)
		return;
	layout->visible = (List *) number_components((Node *) layout->visible, layout);
	layout->shown = number_components(layout->shown, layout);
}

/*
 * append_hidden appends a hidden column to the query.
 */
static void
append_hidden(Query *tree, Node *expression, const char *name)
{
	tree->targetList = lappend(tree->targetList, makeTargetEntry((Expr *) expression, list_length(tree->targetList) + 1,
																 pstrdup(name), false));
}

/*
 * is_true makes the test of a condition that takes null for false.
 */
static Node *
is_true(Node *condition)
{
	BooleanTest *test = makeNode(BooleanTest);

	test->arg = (Expr *) condition;
	test->booltesttype = IS_TRUE;
	test->location = -1;
	return (Node *) test;
}

/*
 * guard keeps columns from being computed for groups that fail HAVING: the query would not compute them, and may fail on them.
 */
static void
guard(CqrsLayout *layout)
{
	Node	   *having = layout->tree->havingQual;
	int			column = 0;
	ListCell   *cell;

	layout->shown = is_true(layout->shown);
	foreach(cell, layout->tree->targetList)
	{
		TargetEntry *target = lfirst(cell);
		ListCell   *visible;

		if (target->resjunk)
			continue;
		visible = list_nth_cell(layout->visible, column++);
		if (target->ressortgroupref != 0 || is_simple((Node *) target->expr))
			continue;
		target->expr = (Expr *) cqrs_layout_where(having, (Node *) target->expr);
		lfirst(visible) = cqrs_layout_where(layout->shown, lfirst(visible));
	}
}

/*
 * counted writes the count of an argument's values for the query: without the argument, as far as it can be told from columns whether that is null, for its sum
 * evaluates it, too.  What cannot be null is not looked at; a column that could be when a row was changed may not be able to by now.
 */
static Node *
counted(Query *tree, const CqrsComponent *component)
{
	Aggref	   *count = aggregate_of(F_COUNT_, INT8OID, NULL);
	List	   *columns = NIL;
	List	   *nullable = NIL;
	ListCell   *cell;

	if (component->kind != CQRS_COMPONENT_COUNT || !cqrs_layout_operands(component->argument, &columns))
		return copyObject(component->stored);
	foreach(cell, columns)
		if (cqrs_key_expression_nullable(tree, lfirst(cell)))
			nullable = lappend(nullable, lfirst(cell));
	if (nullable != NIL && IsA(component->argument, Var))
		return copyObject(component->stored);
	count->aggfilter = (Expr *) cqrs_layout_all_there(nullable);
	return (Node *) count;
}

/*
 * store makes the query that yields what the table holds: all groups, with the hidden columns.
 */
static void
store(CqrsLayout *layout)
{
	Query	   *tree = layout->tree;
	ListCell   *cell;

	if (tree->havingQual != NULL)
		guard(layout);
	foreach(cell, layout->components)
		append_hidden(tree, counted(tree, lfirst(cell)), ((CqrsComponent *) lfirst(cell))->name);
	if (tree->havingQual != NULL)
		append_hidden(tree, is_true(tree->havingQual), CQRS_SHOWN);
	tree->havingQual = NULL;
	tree->hasAggs = true;
}

/*
 * cqrs_layout_make makes the layout of a definition, or says why it has none, unless there is nothing to add up.
 */
CqrsLayout *
cqrs_layout_make(const CqrsProgram *program, const char **why)
{
	CqrsLayout *layout = palloc0(sizeof(CqrsLayout));
	Maker		maker = {.layout = layout};

	*why = adds_up(program->query->tree) ? unfit(program, program->query->tree) : NULL;
	if (*why != NULL || !adds_up(program->query->tree))
		return NULL;
	layout->tree = copyObject(program->query->tree);
	if (layout->tree->distinctClause != NIL)
	{
		layout->tree->groupClause = layout->tree->distinctClause;
		layout->tree->distinctClause = NIL;
	}
	layout->grouped = layout->tree->groupClause != NIL;
	(void) add_component(layout, CQRS_COMPONENT_ROWS, "cqrs_rows", NULL, (Node *) aggregate_of(F_COUNT_, INT8OID, NULL));
	if (!take_groups(program, layout))
		maker.obstacle = "its key is not what it groups by, or can look different where it is equal";
	else
		take_columns(&maker);
	*why = maker.obstacle;
	if (*why != NULL)
		return NULL;
	store(layout);
	return layout;
}
