/*
 * plan/check.c
 *		What a projection's query must not hold, and what it may hold with a notice.
 *
 * The read model must equal its query whoever evaluates it, whenever: so nothing in the query may answer from the clock, the transaction, the role, the
 * session or chance, and everything it reads must be captured.  Walks through views.  Places are shown in the user's own text only.
 *
 * Takes ACCESS SHARE on what the query reads, to the end of the transaction.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/transam.h"
#include "base/compat.h"
#include "base/names.h"
#include "catalog/heap.h"
#include "catalog/namespace.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "registry/registry.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

/* State of the walk. */
typedef struct Walk
{
	const CqrsCheck *check;
	Oid			view;			/* whose query is being walked; invalid in the user's text */
	const CqrsProjection *projection;	/* that it serves, or NULL */
	int			place;			/* in a view: where the user's text names what leads to it, or -1 */
	Query	   *query;			/* the level being walked */
	Node	   *node;			/* whose functions are being looked at */
} Walk;

/* Search for a table's name in the user's text. */
typedef struct Place
{
	Oid			relation;
	int			location;
} Place;

/*
 * cqrs_check_position points at a byte of the text.
 */
int
cqrs_check_position(const CqrsCheck *check, int location)
{
	if (check->text == NULL || location < 0)
		return 0;
	internalerrquery(check->text);
	return internalerrposition(pg_mbstrlen_with_len(check->text, location) + 1);
}

/*
 * place_walker looks for the first mention of a relation.
 */
static bool
place_walker(Node *node, Place *place)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeVar) && RangeVarGetRelid((RangeVar *) node, NoLock, true) == place->relation)
	{
		place->location = ((RangeVar *) node)->location;
		return true;
	}
	return raw_expression_tree_walker(node, place_walker, place);
}

/*
 * place_of_relation finds where the text names a relation, or the view that leads to it; -1 if it does not.
 */
static int
place_of_relation(const Walk *walk, Oid relation)
{
	Place		place = {.relation = relation, .location = -1};

	if (OidIsValid(walk->view))
		return walk->place;
	if (walk->check->raw != NULL && OidIsValid(relation))
		(void) place_walker(walk->check->raw->stmt, &place);
	return place.location;
}

/*
 * place_in_text returns where in the text something is: in a view, where the view is named.
 */
static int
place_in_text(const Walk *walk, int location)
{
	return OidIsValid(walk->view) ? walk->place : location;
}

/*
 * through says, for a detail, which view brought in what is refused.
 */
static const char *
through(const Walk *walk)
{
	return OidIsValid(walk->view) ? psprintf(" It is in the view %s.", cqrs_name_shown(walk->view)) : "";
}

/*
 * refuse raises about something in the query.
 */
static void
refuse(const Walk *walk, const char *what, const char *why, const char *hint, int location)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the query of a projection cannot have %s", what),
			 errdetail("%s%s", why, through(walk)),
			 errhint("%s", hint),
			 cqrs_check_position(walk->check, place_in_text(walk, location))));
}

/*
 * refuse_source raises about an expression that answers from more than data.
 */
static void
refuse_source(const Walk *walk, const char *expression, const char *from)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("the query of a projection cannot call %s", expression),
			 errdetail("Its answer comes from %s, so it changes without any change of a source.%s", from, through(walk)),
			 errhint("Compute it in a view above the projection."),
			 cqrs_check_position(walk->check, place_in_text(walk, exprLocation(walk->node)))));
}

/*
 * notify tells about something that is accepted but may surprise.
 */
static void
notify(const Walk *walk, const char *message, const char *detail, const char *hint, int location)
{
	if (!walk->check->notices)
		return;
	ereport(NOTICE,
			(errmsg("%s", message),
			 errdetail("%s%s", detail, through(walk)),
			 errhint("%s", hint),
			 cqrs_check_position(walk->check, place_in_text(walk, location))));
}

/* ---- functions ---- */

/*
 * is_ours tells whether a function belongs to the extension.
 */
static bool
is_ours(Oid function)
{
	char	   *schema = get_namespace_name(get_func_namespace(function));

	return schema != NULL && (strcmp(schema, "cqrs") == 0 || strcmp(schema, "cqrs_internal") == 0);
}

/*
 * is_gate tells whether a function is the gate of a serving view that has nothing to serve yet.
 */
static bool
is_gate(const Walk *walk, Oid function)
{
	return walk->projection != NULL && strcmp(get_func_name(function), "gate") == 0;
}

static bool check_function(Oid function, void *context);

/*
 * check_aggregate looks at the functions that a user's aggregate is made of.
 */
static void
check_aggregate(Oid function, void *context)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(function));
	Oid			transition;
	Oid			final;

	if (!HeapTupleIsValid(tuple))
		return;
	transition = ((Form_pg_aggregate) GETSTRUCT(tuple))->aggtransfn;
	final = ((Form_pg_aggregate) GETSTRUCT(tuple))->aggfinalfn;
	ReleaseSysCache(tuple);
	(void) check_function(transition, context);
	if (OidIsValid(final))
		(void) check_function(final, context);
}

/*
 * check_function refuses a function that may answer differently without a change of data, and tells about those that nobody can know.
 */
static bool
check_function(Oid function, void *context)
{
	Walk	   *walk = context;
	char		volatility = func_volatile(function);
	const char *name = format_procedure(function);
	const char *from;

	if (is_ours(function) && !is_gate(walk, function))
		refuse_source(walk, name, "the state of projections");
	if (function >= FirstUnpinnedObjectId)
		check_aggregate(function, context);
	if (volatility == PROVOLATILE_IMMUTABLE)
		return false;
	if (is_gate(walk, function))
		return false;
	from = cqrs_function_answers_from(function);
	if (from != NULL)
		refuse_source(walk, name, from);
	if (volatility == PROVOLATILE_VOLATILE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("the query of a projection cannot call volatile function %s", name),
				 errdetail("Two evaluations over the same data could differ.%s", through(walk)),
				 function >= FirstUnpinnedObjectId ?
				 errhint("Declare the function STABLE or IMMUTABLE if it is, or compute it in a view above the projection.") :
				 errhint("Compute it in a view above the projection."),
				 cqrs_check_position(walk->check, place_in_text(walk, exprLocation(walk->node)))));
	if (function >= FirstUnpinnedObjectId)
		notify(walk, psprintf("function %s is taken on trust", name),
			   "It is declared STABLE. If it reads tables or the clock, the read model will not follow.",
			   "Make sure that its answer depends on its arguments and settings only.", exprLocation(walk->node));
	return false;
}

/*
 * check_value_function refuses CURRENT_DATE, CURRENT_USER and their like.
 */
static void
check_value_function(Walk *walk, const SQLValueFunction *function)
{
	switch (function->op)
	{
		case SVFOP_CURRENT_ROLE:
		case SVFOP_CURRENT_USER:
		case SVFOP_USER:
		case SVFOP_SESSION_USER:
			refuse_source(walk, "current_user or a function like it", "the role");
			break;
		case SVFOP_CURRENT_CATALOG:
		case SVFOP_CURRENT_SCHEMA:
			refuse_source(walk, "current_catalog or current_schema", "the session");
			break;
		default:
			refuse_source(walk, "current_timestamp or a function like it", "the clock");
	}
}

/*
 * tell_order tells about an aggregate or window function whose answer depends on an order that the query does not fix.
 */
static void
tell_order(const Walk *walk, Oid function, int location)
{
	if (cqrs_function_wants_order(function))
		notify(walk, psprintf("the order of rows decides the answer of %s", get_func_name(function)),
			   "Without ORDER BY two correct evaluations can differ, and verify would report that.",
			   "Order its input, for instance with ORDER BY inside its parentheses or in OVER.", location);
}

/*
 * check_answer looks at what decides an aggregate's answer beside the values it is given: their order, or how those look that are equal.
 *
 * Floats are compared within a tolerance anyway.
 */
static void
check_answer(const Walk *walk, const Aggref *aggregate)
{
	const char *name = get_func_name(aggregate->aggfnoid);
	Node	   *argument;
	Oid			type;

	if (aggregate->aggorder == NIL && aggregate->aggdistinct == NIL)
		tell_order(walk, aggregate->aggfnoid, aggregate->location);
	if (!cqrs_layout_extremum(aggregate->aggfnoid))
		return;
	argument = (Node *) linitial_node(TargetEntry, aggregate->args)->expr;
	type = getBaseType(exprType(argument));
	if (type == FLOAT4OID || type == FLOAT8OID || cqrs_layout_exact(argument))
		return;
	notify(walk, psprintf("the order of rows decides which of equal values %s shows", name),
		   psprintf("Values of type %s can be equal and look different; two correct evaluations can then differ, and verify would report that.",
					format_type_be(type)),
		   type == NUMERICOID ? "Give it a scale, by its column's type or by a cast as to numeric(12,2)." :
		   "Ask for something whose equal values look the same.", aggregate->location);
}

/*
 * check_window looks at a window function's order.
 */
static void
check_window(const Walk *walk, const WindowFunc *function)
{
	ListCell   *cell;

	foreach(cell, walk->query->windowClause)
	{
		WindowClause *window = lfirst(cell);

		if (window->winref == function->winref && window->orderClause == NIL)
			tell_order(walk, function->winfnoid, function->location);
	}
}

/* ---- relations and clauses ---- */

static bool check_walker(Node *node, Walk *walk);

/*
 * check_view walks into a view.
 */
static void
check_view(const Walk *walk, Oid view)
{
	Walk		inner = {.check = walk->check, .view = view};

	inner.projection = cqrs_projection_of_view(view);
	inner.place = place_of_relation(walk, view);
	check_walker((Node *) cqrs_query_of_view(view), &inner);
}

/*
 * check_entry looks at one thing in FROM.
 *
 * The tables of a view are read with the rights of the view's owner, as its tree says.
 */
static void
check_entry(const Walk *walk, const RangeTblEntry *entry)
{
	Oid			reader = walk->check->owner;
	int			place;

	if (entry->rtekind != RTE_RELATION || cqrs_query_placeholder(entry, walk->view))
		return;
	if (OidIsValid(walk->view) && OidIsValid(cqrs_compat_reader(walk->query, entry)))
		reader = cqrs_compat_reader(walk->query, entry);
	place = place_of_relation(walk, entry->relid);
	if (entry->tablesample != NULL)
		refuse(walk, "TABLESAMPLE", "A sample is not a function of the data.", "Leave it out.", place);
	if (walk->projection != NULL && cqrs_projection_holds(walk->projection, entry->relid))
		return;
	cqrs_relation_check(walk->check, entry->relid, reader, place, walk->view);
	if (entry->relkind == RELKIND_VIEW)
		check_view(walk, entry->relid);
}

/*
 * check_level looks at what belongs to a query level as a whole.
 */
static void
check_level(const Walk *walk, Query *tree)
{
	ListCell   *cell;

	foreach(cell, tree->cteList)
	{
		CommonTableExpr *cte = lfirst(cell);

		if (IsA(cte->ctequery, Query) && ((Query *) cte->ctequery)->commandType != CMD_SELECT)
			refuse(walk, "WITH queries that write", "A read model is derived; its query only reads.",
				   "Write in commands of their own.", cte->location);
	}
	if (tree->rowMarks != NIL)
		refuse(walk, "FOR UPDATE or FOR SHARE", "A read model is filled without locking rows.", "Leave it out.",
			   place_of_relation(walk, rt_fetch(((RowMarkClause *) linitial(tree->rowMarks))->rti, tree->rtable)->relid));
	if (tree->hasDistinctOn && !cqrs_unique_ordered(tree))
		notify(walk, "the order of rows decides which ones DISTINCT ON keeps",
			   "Among rows that ORDER BY ranks equal, two correct evaluations can choose differently.",
			   "Order by columns that tell the rows apart.", exprLocation((Node *) tree->distinctClause));
	if ((tree->limitCount != NULL || tree->limitOffset != NULL) && !cqrs_unique_ordered(tree) &&
		(tree->limitOption != LIMIT_OPTION_WITH_TIES || tree->limitOffset != NULL))
		notify(walk, "the order of rows decides which ones LIMIT or OFFSET keeps",
			   "Among rows that ORDER BY ranks equal, two correct evaluations can choose differently.",
			   "Order by columns that tell the rows apart.",
			   exprLocation(tree->limitCount ? tree->limitCount : tree->limitOffset));
}

/*
 * check_column refuses columns that the server keeps for itself.
 */
static void
check_column(const Walk *walk, const Var *column)
{
	if (column->varattno >= 0)
		return;
	refuse(walk, psprintf("system column \"%s\"", NameStr(SystemAttributeDefinition(column->varattno)->attname)),
		   "It says where a row is stored, not what it holds.", "Use a column of the table.", column->location);
}

/*
 * check_query_level walks one level and what is below.
 */
static bool
check_query_level(Query *tree, Walk *walk)
{
	Walk		level = *walk;

	level.query = tree;
	check_level(&level, tree);
	return query_tree_walker(tree, check_walker, &level, QTW_EXAMINE_RTES_BEFORE | QTW_IGNORE_JOINALIASES);
}

/*
 * check_walker looks at every node of the query.
 */
static bool
check_walker(Node *node, Walk *walk)
{
	if (node == NULL)
		return false;
	walk->node = node;
	switch (nodeTag(node))
	{
		case T_Query:
			return check_query_level((Query *) node, walk);
		case T_RangeTblEntry:
			check_entry(walk, (RangeTblEntry *) node);
			return false;
		case T_Var:
			check_column(walk, (Var *) node);
			break;
		case T_SQLValueFunction:
			check_value_function(walk, (SQLValueFunction *) node);
			break;
		case T_Aggref:
			check_answer(walk, (Aggref *) node);
			break;
		case T_WindowFunc:
			check_window(walk, (WindowFunc *) node);
			break;
		default:
			break;
	}
	(void) check_functions_in_node(node, check_function, walk);
	return expression_tree_walker(node, check_walker, walk);
}

/*
 * cqrs_check_query refuses what is wrong with a query: the user's text as analyzed, or with 'definition' the query of that view.
 */
void
cqrs_check_query(const CqrsCheck *check, Query *tree, Oid definition)
{
	Walk		walk = {.check = check, .view = definition, .place = -1};

	if (ExecCleanTargetListLength(tree->targetList) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a projection must have columns"),
				 errdetail("A read model without columns would have nothing to show."),
				 errhint("Select at least one column.")));
	check_walker((Node *) tree, &walk);
}

/*
 * cqrs_plan_check refuses a definition that cannot be kept equal to its query, and tells about what may surprise.
 */
void
cqrs_plan_check(Oid definition, const char *text, Oid owner, bool notices)
{
	CqrsCheck	check = {.text = text, .owner = owner, .notices = notices};

	if (text != NULL)
		cqrs_check_query(&check, cqrs_parse_analyze(text, &check.raw), InvalidOid);
	else
		cqrs_check_query(&check, cqrs_query_of_view(definition), definition);
}
