/*
 * plan/derive.c
 *		From a definition to a program: what it reads, by which strategy each source is followed, and the shapes of rows between the statements.
 *
 * Leaves the statements themselves to keys.c, full.c, change.c and merge.c, which make them when they are asked for.  Takes ACCESS SHARE on what the definition
 * reads, to the end of the transaction.  The program and all it points to is in CurrentMemoryContext.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "base/compat.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "registry/registry.h"
#include "storage/lockdefs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

/*
 * row_of returns the row type of a relation.
 */
static TupleDesc
row_of(Oid relid)
{
	Relation	relation = relation_open(relid, AccessShareLock);
	TupleDesc	row = CreateTupleDescCopy(RelationGetDescr(relation));

	relation_close(relation, NoLock);
	return row;
}

/*
 * weight_name finds a name for the weight that no column of the source has.
 */
static char *
weight_name(const CqrsProgramSource *source)
{
	char	   *name = pstrdup("cqrs_weight");

	while (get_attnum(source->relation, name) != InvalidAttrNumber)
		name = psprintf("%s_", name);
	return name;
}

/*
 * shape_delta makes the row type of a source's delta: the columns that are imaged, and the weight.
 */
static void
shape_delta(CqrsProgramSource *source)
{
	Relation	relation = relation_open(source->relation, AccessShareLock);
	int			ncolumns = bms_num_members(source->imaged);
	int			column = -1;
	int			i = 0;

	source->delta = CreateTemplateTupleDesc(ncolumns + 1);
	source->delta_attnum = palloc(sizeof(AttrNumber) * (ncolumns + 1));
	while ((column = bms_next_member(source->imaged, column)) >= 0)
	{
		source->delta_attnum[i++] = column;
		TupleDescCopyEntry(source->delta, i, RelationGetDescr(relation), column);
	}
	TupleDescInitEntry(source->delta, ncolumns + 1, weight_name(source), INT8OID, -1, 0);
	relation_close(relation, NoLock);
}

/*
 * shape_affected makes the row type of affected keys.
 *
 * The columns get names of our own: statements mention them beside names of the user's, which must not be mistaken for them.
 */
static void
shape_affected(CqrsProgram *program)
{
	program->affected = CreateTemplateTupleDesc(program->nkeys);
	for (int i = 0; i < program->nkeys; i++)
	{
		TupleDescCopyEntry(program->affected, i + 1, program->row, program->key[i]);
		namestrcpy(&TupleDescAttr(program->affected, i)->attname, psprintf("cqrs_key_%d", i + 1));
	}
}

/*
 * may_read tells whether a role may read the columns of a source that the definition reads, and all its rows.
 */
static bool
may_read(const CqrsProgramSource *source, Oid role)
{
	int			column = -1;

	if (check_enable_rls(source->relation, role, true) != RLS_NONE ||
		!cqrs_compat_may_use(get_rel_namespace(source->relation), role))
		return false;
	if (pg_class_aclcheck(source->relation, role, ACL_SELECT) == ACLCHECK_OK)
		return true;
	while ((column = bms_next_member(source->watched, column)) >= 0)
		if (pg_attribute_aclcheck(source->relation, column, role, ACL_SELECT) != ACLCHECK_OK)
			return false;
	return !bms_is_empty(source->watched);
}

/*
 * find_readable finds out which sources may stand in statements by themselves.
 *
 * Those that the definition names are checked whenever statements run; the others are read with the rights of the views' owners otherwise.
 */
static void
find_readable(CqrsProgram *program)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(program->definition));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", program->definition);
	program->query->owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	for (int i = 0; i < program->nsources; i++)
		program->sources[i].readable = program->sources[i].direct || may_read(&program->sources[i], program->query->owner);
}

/*
 * is_filtered tells whether a condition on the key may be added to WHERE: it keeps out no row that another one's is made of.
 */
static bool
is_filtered(const CqrsProgram *program, Query *tree)
{
	bool		result = tree->setOperations == NULL && tree->groupingSets == NIL;

	for (int i = 0; i < program->nkeys; i++)
		result = result && cqrs_output_mixed(tree, get_tle_by_resno(tree->targetList, program->key[i])) == NULL;
	return result;
}

/*
 * take_apart keeps what the statements that recompute keys are made from.
 */
static void
take_apart(CqrsProgram *program, Query *tree)
{
	CqrsQuery  *query = program->query;
	ListCell   *cell;

	if (!tree->hasDistinctOn)
		tree->sortClause = NIL;
	query->tree = tree;
	query->keys = NIL;
	query->filtered = is_filtered(program, tree);
	program->nested = !query->filtered;
	foreach(cell, query->skeletons)
		program->nested = program->nested || ((CqrsSkeleton *) lfirst(cell))->partial;
	for (int i = 0; i < program->nkeys; i++)
		query->keys = lappend(query->keys, get_tle_by_resno(tree->targetList, program->key[i])->expr);
}

/*
 * find_ways finds the ways in which changes reach keys; says why there are none, or NULL.
 */
static const char *
find_ways(CqrsProgram *program, Query *tree, bool with_peers)
{
	CqrsQuery	nothing = {.owner = program->query->owner};
	const char *obstacle;

	*program->query = nothing;
	program->nested = false;
	for (int i = 0; i < program->nsources; i++)
	{
		program->sources[i].imaged = NULL;
		program->sources[i].keys = false;
		program->sources[i].reason = NULL;
	}
	obstacle = cqrs_skeleton_derive(program, tree, with_peers);
	if (obstacle != NULL)
		return obstacle;
	take_apart(program, tree);
	return cqrs_keys_derive(program);
}

/*
 * without_way counts the sources whose changes reach keys in no known way.
 */
static int
without_way(const CqrsProgram *program, const char *obstacle)
{
	int			result = 0;

	for (int i = 0; i < program->nsources; i++)
		result += obstacle != NULL || !program->sources[i].keys;
	return result;
}

/*
 * choose_strategy decides how each source is followed.
 *
 * Where rows are chosen from others or compared with others, a change of those is looked for only if nothing else will do: it makes for more statements.
 */
static void
choose_strategy(CqrsProgram *program, Query *tree)
{
	const char *obstacle;
	int			lost;

	find_readable(program);
	obstacle = find_ways(program, tree, false);
	lost = without_way(program, obstacle);
	if (lost > 0)
	{
		const char *other = find_ways(program, tree, true);

		program->spreads = without_way(program, other) < lost;
		if (program->spreads)
			obstacle = other;
		else
			obstacle = find_ways(program, tree, false);
	}
	if (obstacle != NULL)
		cqrs_full_derive(program, obstacle);
	else
		cqrs_delta_derive(program);

	program->strategy = CQRS_STRATEGY_FULL;
	for (int i = 0; i < program->nsources; i++)
		program->strategy = Min(program->strategy, program->sources[i].strategy);
}

/*
 * holds_nulls tells whether the version's table was built with a key column that can be null.
 *
 * A source's column may have become NOT NULL since; the table, and changes not applied yet, may still hold nulls of before.  Its replica identity tells
 * how it was built: full where it has no primary key.
 */
static bool
holds_nulls(const CqrsProgram *program, AttrNumber column)
{
	Relation	table;
	bool		result;

	if (!OidIsValid(program->table))
		return false;
	table = relation_open(program->table, AccessShareLock);
	result = table->rd_rel->relreplident == REPLICA_IDENTITY_FULL &&
		!TupleDescAttr(RelationGetDescr(table), column - 1)->attnotnull;

	relation_close(table, NoLock);
	return result;
}

/*
 * prove_key finds out what the query says of its key.
 */
static void
prove_key(CqrsProgram *program, Query *tree)
{
	Bitmapset  *columns = NULL;

	for (int i = 0; i < program->nkeys; i++)
	{
		columns = bms_add_member(columns, program->key[i]);
		if (cqrs_key_nullable(tree, program->key[i]) || holds_nulls(program, program->key[i]))
			program->key_nullable = bms_add_member(program->key_nullable, i);
	}
	program->key_unique = cqrs_unique_by(tree, columns);
}

/*
 * cqrs_plan_derive makes the program of a version.
 */
CqrsProgram *
cqrs_plan_derive(Oid definition, Oid table, const AttrNumber *key, int nkeys)
{
	CqrsProgram *program = palloc0(sizeof(CqrsProgram));
	Query	   *tree = cqrs_query_of_view(definition);

	program->definition = definition;
	program->table = table;
	program->row = row_of(definition);
	program->stored = program->row;
	program->nkeys = nkeys;
	program->key = palloc(sizeof(AttrNumber) * Max(nkeys, 1));
	for (int i = 0; i < nkeys; i++)
		program->key[i] = key[i];
	program->query = palloc0(sizeof(CqrsQuery));

	cqrs_query_collect(program, tree);
	for (int i = 0; i < program->nsources; i++)
	{
		cqrs_relation_recheck(program->sources[i].relation);
		program->relations = list_concat_unique_oid(program->relations, cqrs_tree_members(program->sources[i].relation));
	}
	shape_affected(program);
	prove_key(program, tree);
	choose_strategy(program, tree);
	for (int i = 0; i < program->nsources; i++)
		shape_delta(&program->sources[i]);
	return program;
}
