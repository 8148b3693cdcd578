/*
 * plan/suppose.c
 *		What the planner would do with a statement if a table had an index that it does not have.
 *
 * Statements are planned and never run; deltas and affected keys are supposed to hold one row.  A table is read whole where its plan scans it without looking
 * anything up.  Such tables are planned for again as if each of their columns had an index, and the planner says itself which one it would look up by, and
 * whether it would.  Its hooks for what it knows of a table are ours only while it plans for us.
 *
 * Wants an active snapshot.  Takes ACCESS SHARE on what statements read.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "base/spi.h"
#include "catalog/pg_am.h"
#include "catalog/pg_statistic.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/plannodes.h"
#include "nodes/value.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/plancat.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "rewrite/rewriteManip.h"
#include "storage/bufmgr.h"
#include "tcop/tcopprot.h"
#include "utils/lsyscache.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/selfuncs.h"

/* Tables of fewer pages are read whole whatever indexes they have. */
#define FEW_PAGES 32

/* What a table holds that is supposed to be large, and in each column of it how many different values to a row. */
#define LARGE_ROWS 1000000.0
#define LARGE_PAGES 20000
#define LARGE_DISTINCT 0.1

/* Without an index a statement must cost so many times as much for its lack to be told. */
#define WORTH 1.5

/* Supposed indexes have OIDs from the top of the range, where no real one is. */
#define LAST_OID ((Oid) 0xFFFFFFFF)

/* An index that is only supposed, by its OID. */
typedef struct Supposed
{
	Oid			oid;
	CqrsLacking lacking;
} Supposed;

/* What the hook is to make the planner believe. */
typedef struct Belief
{
	bool		large;			/* that tables are */
	List	   *wanting;		/* OIDs of tables that get an index on each column */
	List	   *expressions;	/* of CqrsLacking *: and on these */
	List	   *indexes;		/* of Supposed *: those made */
} Belief;

static Belief *belief;			/* while we plan */
static get_relation_info_hook_type next_hook;
static get_relation_stats_hook_type next_column_hook;
static get_index_stats_hook_type next_expression_hook;

/*
 * enlarge has the planner take a table, and its indexes, for large.
 */
static void
enlarge(RelOptInfo *table)
{
	ListCell   *cell;

	table->pages = LARGE_PAGES;
	table->tuples = LARGE_ROWS;
	foreach(cell, table->indexlist)
	{
		IndexOptInfo *index = lfirst(cell);

		index->pages = LARGE_PAGES / 4;
		index->tuples = LARGE_ROWS;
		index->tree_height = 2;
	}
}

/*
 * set_operators gives an index the operators of its type's default class; false if there is none.
 */
static bool
set_operators(IndexOptInfo *index, Oid type, Oid collation)
{
	Oid			class = OidIsValid(type) ? GetDefaultOpClass(getBaseType(type), BTREE_AM_OID) : InvalidOid;

	if (!OidIsValid(class))
		return false;
	index->indexcollations = palloc(sizeof(Oid));
	index->indexcollations[0] = collation;
	index->opfamily = palloc(sizeof(Oid));
	index->opfamily[0] = get_opclass_family(class);
	index->opcintype = palloc(sizeof(Oid));
	index->opcintype[0] = get_opclass_input_type(class);
	return true;
}

/*
 * give_index has the planner find an index on a column, or on an expression over the first relation: one to look up by, not to read in order.
 */
static void
give_index(RelOptInfo *table, const CqrsLacking *lacking, Expr *expression)
{
	IndexAmRoutine *method = GetIndexAmRoutineByAmId(BTREE_AM_OID, false);
	IndexOptInfo *index = makeNode(IndexOptInfo);
	Supposed   *supposed = palloc(sizeof(Supposed));

	if (!set_operators(index, exprType((Node *) expression), exprCollation((Node *) expression)))
		return;
	ChangeVarNodes((Node *) expression, 1, table->relid, 0);
	supposed->oid = LAST_OID - list_length(belief->indexes);
	supposed->lacking = *lacking;
	belief->indexes = lappend(belief->indexes, supposed);
	index->indexoid = supposed->oid;
	index->rel = table;
	index->reltablespace = table->reltablespace;
	index->pages = Max(table->pages / 4, 1);
	index->tuples = table->tuples;
	index->tree_height = table->pages > 1000 ? 2 : 1;
	index->ncolumns = index->nkeycolumns = 1;
	index->indexkeys = palloc0(sizeof(int));
	index->indexkeys[0] = lacking->column;
	index->indexprs = lacking->column == InvalidAttrNumber ? list_make1(expression) : NIL;
	index->indextlist = list_make1(makeTargetEntry(expression, 1, NULL, false));
	index->reverse_sort = palloc0(sizeof(bool));
	index->nulls_first = palloc0(sizeof(bool));
	index->canreturn = palloc0(sizeof(bool));
	index->relam = BTREE_AM_OID;
	index->hypothetical = true;
	index->immediate = true;
	index->amoptionalkey = method->amoptionalkey;
	index->amsearcharray = method->amsearcharray;
	index->amsearchnulls = method->amsearchnulls;
	index->amhasgettuple = true;
	index->amhasgetbitmap = true;
	index->amcostestimate = method->amcostestimate;
	table->indexlist = lappend(table->indexlist, index);
}

/*
 * leads tells whether a column is the first of a real index of all rows.
 */
static bool
leads(const RelOptInfo *table, AttrNumber column)
{
	ListCell   *cell;

	foreach(cell, table->indexlist)
	{
		IndexOptInfo *index = lfirst(cell);

		if (!index->hypothetical && index->indpred == NIL && index->indexkeys[0] == column &&
			(index->relam == BTREE_AM_OID || index->relam == HASH_AM_OID))
			return true;
	}
	return false;
}

/*
 * give_indexes has the planner find an index on each column of a table, and on each expression asked for, unless it has one.
 */
static void
give_indexes(Oid relation, RelOptInfo *table)
{
	ListCell   *cell;

	for (AttrNumber column = 1; column <= table->max_attr; column++)
	{
		CqrsLacking lacking = {.table = relation, .column = column};
		Oid			type;
		int32		typmod;
		Oid			collation;

		if (get_attname(relation, column, true) == NULL || leads(table, column))
			continue;
		get_atttypetypmodcoll(relation, column, &type, &typmod, &collation);
		give_index(table, &lacking, (Expr *) makeVar(1, column, type, typmod, collation, 0));
	}
	foreach(cell, belief->expressions)
	{
		const CqrsLacking *lacking = lfirst(cell);

		if (lacking->table == relation)
			give_index(table, lacking, (Expr *) copyObject(lacking->expression));
	}
}

/*
 * tell is the planner's hook for what it knows of a table.
 */
static void
tell(PlannerInfo *root, Oid relation, bool parent, RelOptInfo *table)
{
	if (next_hook != NULL)
		next_hook(root, relation, parent, table);
	if (belief == NULL || parent)
		return;
	if (belief->large)
		enlarge(table);
	if (list_member_oid(belief->wanting, relation))
		give_indexes(relation, table);
}

/*
 * tell_large answers what is in a column of a large table: many values, so that looking one up finds few rows.
 */
static void
tell_large(VariableStatData *column)
{
	Relation	statistics = relation_open(StatisticRelationId, AccessShareLock);
	Datum		values[Natts_pg_statistic] = {0};
	bool		nulls[Natts_pg_statistic] = {false};

	for (int slot = 0; slot < STATISTIC_NUM_SLOTS; slot++)
		nulls[Anum_pg_statistic_stanumbers1 + slot - 1] = nulls[Anum_pg_statistic_stavalues1 + slot - 1] = true;
	values[Anum_pg_statistic_stawidth - 1] = Int32GetDatum(sizeof(int64));
	values[Anum_pg_statistic_stadistinct - 1] = Float4GetDatum(-LARGE_DISTINCT);
	column->statsTuple = heap_form_tuple(RelationGetDescr(statistics), values, nulls);
	column->freefunc = heap_freetuple;
	column->acl_ok = true;
	relation_close(statistics, AccessShareLock);
}

/*
 * tell_column is the planner's hook for what is in a column of a table.
 */
static bool
tell_column(PlannerInfo *root, RangeTblEntry *entry, AttrNumber column, VariableStatData *data)
{
	if (belief != NULL && belief->large)
	{
		tell_large(data);
		return true;
	}
	return next_column_hook != NULL && next_column_hook(root, entry, column, data);
}

/*
 * tell_expression is the planner's hook for what is in an index on an expression.
 */
static bool
tell_expression(PlannerInfo *root, Oid index, AttrNumber column, VariableStatData *data)
{
	if (belief != NULL && belief->large)
	{
		tell_large(data);
		return true;
	}
	return next_expression_hook != NULL && next_expression_hook(root, index, column, data);
}

/*
 * offer tells the parser about a relation that the applier offers when it runs the statement.
 */
static void
offer(QueryEnvironment *environment, char *name, TupleDesc row)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = name;
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = row;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = 1;
	register_ENR(environment, relation);
}

/*
 * plan_statement plans one statement of a program.
 */
static PlannedStmt *
plan_statement(const CqrsProgram *program, const char *sql)
{
	QueryEnvironment *environment = create_queryEnv();
	List	   *queries;

	for (int i = 0; i < program->nsources; i++)
		offer(environment, psprintf("%s%d", CQRS_DELTA_PREFIX, i), program->sources[i].delta);
	offer(environment, CQRS_AFFECTED, program->affected);
	queries = pg_analyze_and_rewrite_fixedparams(linitial_node(RawStmt, raw_parser(sql, RAW_PARSE_DEFAULT)), sql, NULL, 0,
												 environment);
	return pg_plan_query(linitial_node(Query, queries), sql, CURSOR_OPT_PARALLEL_OK, NULL);
}

/*
 * plan_believing plans a statement while the planner is told what to believe.
 */
static PlannedStmt *
plan_believing(const CqrsProgram *program, const char *sql, Belief *what)
{
	PlannedStmt *plan = NULL;

	next_hook = get_relation_info_hook;
	next_column_hook = get_relation_stats_hook;
	next_expression_hook = get_index_stats_hook;
	get_relation_info_hook = tell;
	get_relation_stats_hook = tell_column;
	get_index_stats_hook = tell_expression;
	belief = what;
	PG_TRY();
	{
		plan = plan_statement(program, sql);
	}
	PG_FINALLY();
	{
		belief = NULL;
		get_relation_info_hook = next_hook;
		get_relation_stats_hook = next_column_hook;
		get_index_stats_hook = next_expression_hook;
	}
	PG_END_TRY();
	return plan;
}

/* ---- reading plans ---- */

/* What is read in a plan: of which tables all rows, and what is looked up by indexes that are only supposed. */
typedef struct Reading
{
	const PlannedStmt *statement;
	const Belief *belief;
	List	   *whole;			/* OIDs of tables */
	List	   *used;			/* of List of CqrsLacking *: those looked up together */
	List	   *together;		/* of CqrsLacking *: in the part of the plan that is being read */
} Reading;

/*
 * note_whole notes that all rows of a table are read, unless they are few.
 */
static void
note_whole(Reading *reading, Index index)
{
	Oid			relation = rt_fetch(index, reading->statement->rtable)->relid;
	Relation	table = relation_open(relation, NoLock);

	if (reading->belief->large || RelationGetNumberOfBlocks(table) >= FEW_PAGES)
		reading->whole = list_append_unique_oid(reading->whole, relation);
	relation_close(table, NoLock);
}

/*
 * is_equality tells whether a condition equates what it is about with a value that comes from elsewhere.
 */
static bool
is_equality(OpExpr *condition)
{
	return IsA(condition, OpExpr) && list_length(condition->args) == 2 && !IsA(lsecond(condition->args), Const) &&
		condition->opno == cqrs_key_equality(exprType(linitial(condition->args)));
}

/*
 * looks_up tells whether the conditions of an index scan look a value up.
 */
static bool
looks_up(List *conditions)
{
	ListCell   *cell;

	foreach(cell, conditions)
		if (is_equality(lfirst(cell)))
			return true;
	return false;
}

/*
 * note_index notes that a plan reads an index.
 */
static void
note_index(Reading *reading, Oid index, List *conditions)
{
	ListCell   *cell;

	foreach(cell, reading->belief->indexes)
		if (((Supposed *) lfirst(cell))->oid == index && looks_up(conditions))
			reading->together = lappend(reading->together, &((Supposed *) lfirst(cell))->lacking);
}

/*
 * note_column notes a column by which rows that were looked up are told apart further: the index is better with it.
 */
static void
note_column(Reading *reading, const Scan *scan, OpExpr *condition)
{
	const CqrsLacking *first = linitial(reading->together);
	CqrsLacking *column;
	Node	   *left;
	Node	   *right;
	ListCell   *cell;

	if (!is_equality(condition))
		return;
	left = linitial(condition->args);
	right = lsecond(condition->args);
	if (!IsA(left, Var))
	{
		left = right;
		right = linitial(condition->args);
	}
	if (!IsA(left, Var) || ((Var *) left)->varno != scan->scanrelid || !IsA(right, Param))
		return;
	foreach(cell, reading->together)
		if (((CqrsLacking *) lfirst(cell))->column == ((Var *) left)->varattno)
			return;
	column = palloc0(sizeof(CqrsLacking));
	column->table = first->table;
	column->column = ((Var *) left)->varattno;
	reading->together = lappend(reading->together, column);
}

/*
 * note_together notes what a scan looks rows up by.
 */
static void
note_together(Reading *reading, const Scan *scan)
{
	ListCell   *cell;

	if (reading->together == NIL)
		return;
	foreach(cell, scan->plan.qual)
		note_column(reading, scan, lfirst(cell));
	reading->used = lappend(reading->used, reading->together);
	reading->together = NIL;
}

static void read_plan(Reading *reading, const Plan *plan);

/*
 * read_plans reads several plans.
 */
static void
read_plans(Reading *reading, List *plans)
{
	ListCell   *cell;

	foreach(cell, plans)
		read_plan(reading, lfirst(cell));
}

/*
 * read_plan notes what a part of a plan, and all below it, reads.
 */
static void
read_plan(Reading *reading, const Plan *plan)
{
	if (plan == NULL)
		return;
	check_stack_depth();
	switch (nodeTag(plan))
	{
		case T_SeqScan:
			note_whole(reading, ((Scan *) plan)->scanrelid);
			break;
		case T_IndexScan:
			note_index(reading, ((IndexScan *) plan)->indexid, ((IndexScan *) plan)->indexqual);
			note_together(reading, (const Scan *) plan);
			if (((IndexScan *) plan)->indexqual == NIL)
				note_whole(reading, ((Scan *) plan)->scanrelid);
			break;
		case T_IndexOnlyScan:
			if (((IndexOnlyScan *) plan)->indexqual == NIL)
				note_whole(reading, ((Scan *) plan)->scanrelid);
			break;
		case T_BitmapIndexScan:
			note_index(reading, ((BitmapIndexScan *) plan)->indexid, ((BitmapIndexScan *) plan)->indexqual);
			break;
		case T_BitmapAnd:
			read_plans(reading, ((BitmapAnd *) plan)->bitmapplans);
			break;
		case T_BitmapOr:
			read_plans(reading, ((BitmapOr *) plan)->bitmapplans);
			break;
		case T_BitmapHeapScan:
			read_plan(reading, plan->lefttree);
			note_together(reading, (const Scan *) plan);
			return;
		case T_Append:
			read_plans(reading, ((Append *) plan)->appendplans);
			break;
		case T_MergeAppend:
			read_plans(reading, ((MergeAppend *) plan)->mergeplans);
			break;
		case T_SubqueryScan:
			read_plan(reading, ((SubqueryScan *) plan)->subplan);
			break;
		default:
			break;
	}
	read_plan(reading, plan->lefttree);
	read_plan(reading, plan->righttree);
}

/*
 * plan_and_read plans the cheapest of some statements and notes what it reads.
 */
static void
plan_and_read(const CqrsProgram *program, List *statements, Belief *what, Reading *reading)
{
	ListCell   *cell;

	reading->belief = what;
	foreach(cell, statements)
	{
		PlannedStmt *plan = plan_believing(program, lfirst(cell), what);

		if (reading->statement == NULL || plan->planTree->total_cost < reading->statement->planTree->total_cost)
			reading->statement = plan;
	}
	read_plan(reading, reading->statement->planTree);
	read_plans(reading, reading->statement->subplans);
}

/*
 * key_expressions lists the key's columns that are computed of one table's columns, for all time the same.
 */
static List *
key_expressions(const CqrsProgram *program)
{
	List	   *expressions = NIL;
	ListCell   *cell;
	ListCell   *inner;

	foreach(cell, program->query->skeletons)
	{
		const CqrsSkeleton *skeleton = lfirst(cell);

		foreach(inner, skeleton->keys)
		{
			Relids		relations = pull_varnos(NULL, lfirst(inner));
			int			relation;
			CqrsLacking *lacking;

			if (IsA(lfirst(inner), Var) || !bms_get_singleton_member(relations, &relation) ||
				contain_mutable_functions(lfirst(inner)))
				continue;
			lacking = palloc0(sizeof(CqrsLacking));
			lacking->table = rt_fetch(relation, skeleton->rtable)->relid;
			lacking->expression = eval_const_expressions(NULL, copyObject(lfirst(inner)));
			ChangeVarNodes(lacking->expression, relation, 1, 0);
			expressions = lappend(expressions, lacking);
		}
	}
	return expressions;
}

/*
 * is_better tells whether a plan with supposed indexes is worth having them: fewer tables are read whole, or it costs much less.
 */
static bool
is_better(const Reading *then, const Reading *now, bool large)
{
	if (large)
		return list_length(then->whole) < list_length(now->whole);
	return then->statement->planTree->total_cost * WORTH < now->statement->planTree->total_cost;
}

/*
 * find_lacking finds the indexes by which the cheapest of some statements would look up what it finds by reading tables whole.
 *
 * As a rule they are on those tables; but a plan may read one whole for want of an index on another.
 */
static List *
find_lacking(const CqrsProgram *program, List *statements, bool large)
{
	Belief		as_is = {.large = large};
	Reading		now = {0};

	plan_and_read(program, statements, &as_is, &now);
	for (int all = 0; now.whole != NIL && all < 2; all++)
	{
		Belief		supposed = {.large = large,.wanting = all ? program->relations : now.whole};
		Reading		then = {0};

		supposed.expressions = key_expressions(program);
		plan_and_read(program, statements, &supposed, &then);
		if (then.used != NIL && is_better(&then, &now, large))
			return then.used;
	}
	return NIL;
}

/*
 * cqrs_suppose_lacking finds the indexes that the cheapest of some statements, which do the same, would be better with.
 *
 * By structure means that tables are taken for large, and everything that reads one whole for dear: what is found then does not depend on what they hold.
 */
List *
cqrs_suppose_lacking(const CqrsProgram *program, List *statements, bool by_structure)
{
	static const char *const dear[] = {"enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_material"};
	CqrsIdentity saved;
	List	   *settings = NIL;
	List	   *lacking;

	for (int i = 0; by_structure && i < (int) lengthof(dear); i++)
		settings = lappend(lappend(settings, makeString(pstrdup(dear[i]))), makeString("off"));
	cqrs_identity_enter(&saved, GetUserId(), settings);
	lacking = find_lacking(program, statements, by_structure);
	cqrs_identity_leave(&saved);
	return lacking;
}
