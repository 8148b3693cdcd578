/*
 * plan/query.c
 *		Walking a definition: what it reads; and the pieces of which query trees are made by hand.
 *
 * Takes ACCESS SHARE on what it reads and keeps it to the end of the transaction.  Trees are copied out of the relation cache before they are looked
 * at, so nothing here touches cached ones.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/sysattr.h"
#include "base/compat.h"
#include "catalog/pg_class.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_relation.h"
#include "plan/query.h"
#include "registry/registry.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lockdefs.h"
#include "utils/rel.h"

/* State of the walk that collects sources. */
typedef struct Collector
{
	CqrsProgram *program;
	List	   *sources;		/* of CqrsProgramSource * */
	Oid			view;			/* whose query is being walked */
	const Query *query;			/* the level being walked */
	const CqrsProjection *projection;	/* that it serves, or NULL */
} Collector;

/* A search for what reads whole rows of a table. */
typedef struct RowSearch
{
	Oid			view;			/* whose query is being walked */
	const Query *query;			/* the level being walked */
	Oid			table;
} RowSearch;

/*
 * cqrs_query_of_view copies the query of a view.
 */
Query *
cqrs_query_of_view(Oid view)
{
	Relation	relation = relation_open(view, AccessShareLock);
	Query	   *tree = copyObject(get_view_query(relation));

	relation_close(relation, NoLock);
	AcquireRewriteLocks(tree, false, false);
	return tree;
}

/*
 * cqrs_query_placeholder recognizes the entries "old" and "new" of a view's rule.
 */
bool
cqrs_query_placeholder(const RangeTblEntry *entry, Oid view)
{
	return entry->rtekind == RTE_RELATION && entry->relid == view;
}

/*
 * live_columns returns all columns of a relation that are there.
 */
static Bitmapset *
live_columns(Oid relid)
{
	Relation	relation = relation_open(relid, NoLock);
	Bitmapset  *columns = NULL;

	for (int i = 0; i < RelationGetNumberOfAttributes(relation); i++)
		if (!TupleDescAttr(RelationGetDescr(relation), i)->attisdropped)
			columns = bms_add_member(columns, i + 1);
	relation_close(relation, NoLock);
	return columns;
}

/*
 * columns_read returns the columns that an entry reads, as the parser noted them for the check of privileges.
 */
static Bitmapset *
columns_read(const Query *query, const RangeTblEntry *entry)
{
	const Bitmapset *selected = cqrs_compat_columns_read(query, entry);
	Bitmapset  *columns = NULL;
	int			member = -1;

	while ((member = bms_next_member(selected, member)) >= 0)
	{
		AttrNumber	attnum = member + FirstLowInvalidHeapAttributeNumber;

		if (attnum == InvalidAttrNumber)
			columns = bms_join(columns, live_columns(entry->relid));
		else if (attnum > 0)
			columns = bms_add_member(columns, attnum);
	}
	return columns;
}

/*
 * source_of finds or makes the source for a table.
 */
static CqrsProgramSource *
source_of(Collector *collector, Oid relid)
{
	CqrsProgramSource *source;
	ListCell   *cell;

	foreach(cell, collector->sources)
	{
		source = lfirst(cell);
		if (source->relation == relid)
			return source;
	}
	source = palloc0(sizeof(CqrsProgramSource));
	source->relation = relid;
	source->strategy = CQRS_STRATEGY_FULL;
	collector->sources = lappend(collector->sources, source);
	return source;
}

static bool collect_walker(Node *node, Collector *collector);

/*
 * collect_view walks into a view, and notes a projection that it serves.
 */
static void
collect_view(Collector *collector, Oid view)
{
	CqrsProgram *program = collector->program;
	Oid			outer = collector->view;
	const CqrsProjection *outer_projection = collector->projection;

	collector->view = view;
	collector->projection = cqrs_projection_of_view(view);
	if (collector->projection != NULL)
	{
		program->projections = list_append_unique_int(program->projections, collector->projection->id);
		if (outer == program->definition)
			program->named = list_append_unique_oid(program->named, view);
	}
	collect_walker((Node *) cqrs_query_of_view(view), collector);
	collector->view = outer;
	collector->projection = outer_projection;
}

/*
 * collect_relation notes a table, or walks into a view.
 *
 * The executor checks the tables of a view as the view's owner, who is not ours to check; those that the definition names, and those of security
 * invoker views, it checks as the projection's.
 */
static void
collect_relation(Collector *collector, const RangeTblEntry *entry)
{
	CqrsProgram *program = collector->program;

	program->relations = list_append_unique_oid(program->relations, entry->relid);
	if (entry->relkind == RELKIND_VIEW)
		collect_view(collector, entry->relid);
	else
	{
		CqrsProgramSource *source = source_of(collector, entry->relid);

		source->watched = bms_join(source->watched, columns_read(collector->query, entry));
		if (collector->projection != NULL && cqrs_projection_holds(collector->projection, entry->relid))
			source->projection = collector->projection->id;
		if (collector->view == program->definition || !OidIsValid(cqrs_compat_reader(collector->query, entry)))
			source->direct = true;
	}
}

/*
 * collect_walker walks a tree, range table entries included.
 */
static bool
collect_walker(Node *node, Collector *collector)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *entry = (RangeTblEntry *) node;

		if (entry->rtekind == RTE_RELATION && !cqrs_query_placeholder(entry, collector->view))
			collect_relation(collector, entry);
		return false;
	}
	if (IsA(node, Query))
	{
		const Query *above = collector->query;

		collector->query = (Query *) node;
		query_tree_walker((Query *) node, collect_walker, collector, QTW_EXAMINE_RTES_BEFORE | QTW_IGNORE_JOINALIASES);
		collector->query = above;
		return false;
	}
	return expression_tree_walker(node, collect_walker, collector);
}

/*
 * cqrs_query_collect finds everything a definition reads.
 */
void
cqrs_query_collect(CqrsProgram *program, Query *tree)
{
	Collector	collector = {.program = program, .view = program->definition};
	ListCell   *cell;

	collect_walker((Node *) tree, &collector);
	program->nsources = list_length(collector.sources);
	program->sources = palloc0(sizeof(CqrsProgramSource) * Max(program->nsources, 1));
	foreach(cell, collector.sources)
		program->sources[foreach_current_index(cell)] = *(CqrsProgramSource *) lfirst(cell);
}

/*
 * cqrs_plan_projections lists the projections that a definition reads.
 */
List *
cqrs_plan_projections(Oid definition)
{
	CqrsProgram program = {.definition = definition};

	cqrs_query_collect(&program, cqrs_query_of_view(definition));
	return program.projections;
}

/*
 * rows_walker finds an entry by which whole rows of a table are read.
 */
static bool
rows_walker(Node *node, const RowSearch *search)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		const RangeTblEntry *entry = (RangeTblEntry *) node;

		if (entry->rtekind != RTE_RELATION || cqrs_query_placeholder(entry, search->view))
			return false;
		if (entry->relkind == RELKIND_VIEW)
			return cqrs_plan_reads_rows(entry->relid, search->table);
		return entry->relid == search->table &&
			bms_is_member(InvalidAttrNumber - FirstLowInvalidHeapAttributeNumber,
						  cqrs_compat_columns_read(search->query, entry));
	}
	if (IsA(node, Query))
	{
		RowSearch	level = *search;

		level.query = (Query *) node;
		return query_tree_walker((Query *) node, rows_walker, (void *) &level,
								 QTW_EXAMINE_RTES_BEFORE | QTW_IGNORE_JOINALIASES);
	}
	return expression_tree_walker(node, rows_walker, (void *) search);
}

/*
 * cqrs_plan_reads_rows tells whether a view reads whole rows of a table.
 */
bool
cqrs_plan_reads_rows(Oid view, Oid table)
{
	Relation	relation = RelationIdGetRelation(view);
	RowSearch	search = {.view = view, .table = table};
	Query	   *tree;

	if (!RelationIsValid(relation))
		return false;			/* somebody is dropping it */
	tree = copyObject(get_view_query(relation));
	RelationClose(relation);
	return rows_walker((Node *) tree, &search);
}

/*
 * cqrs_query_select makes an empty SELECT.
 */
Query *
cqrs_query_select(void)
{
	Query	   *query = makeNode(Query);

	query->commandType = CMD_SELECT;
	query->querySource = QSRC_ORIGINAL;
	query->canSetTag = true;
	query->jointree = makeFromExpr(NIL, NULL);
	return query;
}

/*
 * cqrs_query_add_entry puts a range table entry into a query's FROM.
 */
void
cqrs_query_add_entry(Query *query, RangeTblEntry *entry)
{
	RangeTblRef *reference = makeNode(RangeTblRef);

	query->rtable = lappend(query->rtable, entry);
	reference->rtindex = list_length(query->rtable);
	query->jointree->fromlist = lappend(query->jointree->fromlist, reference);
}

/*
 * cqrs_query_exists makes the condition that a query, which it completes, has rows.
 */
Node *
cqrs_query_exists(Query *query, List *conditions)
{
	SubLink    *exists = makeNode(SubLink);

	query->jointree->quals = (Node *) make_ands_explicit(conditions);
	exists->subLinkType = EXISTS_SUBLINK;
	exists->subselect = (Node *) query;
	exists->location = -1;
	return (Node *) exists;
}

/*
 * cqrs_query_null_test makes a test for null.
 */
Node *
cqrs_query_null_test(Node *expression, NullTestType type)
{
	NullTest   *test = makeNode(NullTest);

	test->arg = (Expr *) expression;
	test->nulltesttype = type;
	test->location = -1;
	return (Node *) test;
}
