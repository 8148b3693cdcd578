/*
 * plan/key.c
 *		The key of a projection: the user's, or one inferred from the query; its equality and its nulls.
 *
 * Takes ACCESS SHARE on what the definition reads, to the end of the transaction.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/relation.h"
#include "base/compat.h"
#include "catalog/pg_class.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "registry/registry.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/*
 * cqrs_key_equality returns the operator by which the unique index on the key tells values apart.
 */
Oid
cqrs_key_equality(Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY | TYPECACHE_EQ_OPR);

	return OidIsValid(entry->btree_opf) ? entry->eq_opr : InvalidOid;
}

/*
 * cqrs_key_exact tells whether equal values are the same in every byte, as an index must know before it merges them.
 */
bool
cqrs_key_exact(Oid type, Oid collation)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY);
	Oid			support;

	if (!OidIsValid(entry->btree_opf))
		return false;
	support = get_opfamily_proc(entry->btree_opf, entry->btree_opintype, entry->btree_opintype, BTEQUALIMAGE_PROC);
	return OidIsValid(support) &&
		DatumGetBool(OidFunctionCall1Coll(support, collation, ObjectIdGetDatum(entry->btree_opintype)));
}

/*
 * cqrs_key_of_version finds the key of a version's table that no constraint tells of: it is still being built and has none, or it holds one row.
 */
bool
cqrs_key_of_version(Oid table, Bitmapset **columns)
{
	CqrsVersion *version = cqrs_version_of_table(table);

	*columns = NULL;
	if (version == NULL || cqrs_version_is_events(version) || (version->nkeys > 0 && version->state != CQRS_STATE_BUILDING))
		return false;
	for (int i = 0; i < version->nkeys; i++)
	{
		if (cqrs_key_nullable(cqrs_query_of_view(version->definition), version->key[i]))
			return false;
		*columns = bms_add_member(*columns, version->key[i]);
	}
	return true;
}

/*
 * attribute_nullable tells whether a table's column can be null.
 */
static bool
attribute_nullable(Oid relid, AttrNumber attnum)
{
	HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(attnum));
	Bitmapset  *key;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for attribute %d of relation %u", attnum, relid);
	result = !((Form_pg_attribute) GETSTRUCT(tuple))->attnotnull;
	ReleaseSysCache(tuple);
	return result && !(cqrs_key_of_version(relid, &key) && bms_is_member(attnum, key));
}

/*
 * tree_nullable tells whether a column can be null in a table or in an inheritance child of it, which can drop a NOT NULL that it has inherited.
 */
static bool
tree_nullable(Oid relid, AttrNumber attnum)
{
	const char *name = get_attname(relid, attnum, false);
	ListCell   *cell;

	foreach(cell, cqrs_tree_tables(relid))
	{
		AttrNumber	number = get_attnum(lfirst_oid(cell), name);

		if (number != InvalidAttrNumber && attribute_nullable(lfirst_oid(cell), number))
			return true;
	}
	return false;
}

/*
 * column_nullable tells whether a column of a relation in FROM can be null in a row of that relation.
 */
static bool
column_nullable(const RangeTblEntry *entry, AttrNumber attnum)
{
	if (entry->rtekind == RTE_SUBQUERY)
		return cqrs_key_nullable(entry->subquery, attnum);
	if (entry->rtekind != RTE_RELATION)
		return true;
	if (entry->relkind == RELKIND_VIEW)
		return cqrs_key_nullable(cqrs_query_of_view(entry->relid), attnum);
	if (entry->relkind == RELKIND_RELATION && entry->inh)
		return tree_nullable(entry->relid, attnum);
	return attribute_nullable(entry->relid, attnum);
}

/*
 * expression_nullable tells whether an expression over the rows of a query can be null.
 */
static bool
expression_nullable(Query *tree, Node *expression)
{
	Var		   *var = (Var *) expression;
	ListCell   *cell;

	switch (nodeTag(expression))
	{
		case T_Var:
			return var->varlevelsup > 0 || var->varattno <= 0 ||
				!bms_is_member(var->varno, cqrs_join_reduce(cqrs_join_build(tree), NULL, NULL)) ||
				column_nullable(rt_fetch(var->varno, tree->rtable), var->varattno);
		case T_Const:
			return ((Const *) expression)->constisnull;
		case T_RelabelType:
			return expression_nullable(tree, (Node *) ((RelabelType *) expression)->arg);
		case T_CoalesceExpr:
			foreach(cell, ((CoalesceExpr *) expression)->args)
				if (!expression_nullable(tree, lfirst(cell)))
					return false;
			return true;
		case T_Aggref:
			return ((Aggref *) expression)->aggfnoid != F_COUNT_ && ((Aggref *) expression)->aggfnoid != F_COUNT_ANY;
		case T_WindowFunc:
			return ((WindowFunc *) expression)->winfnoid != F_ROW_NUMBER;
		default:
			return true;
	}
}

/*
 * cqrs_key_expression_nullable tells whether an expression over the rows of a query can be null.
 */
bool
cqrs_key_expression_nullable(Query *tree, Node *expression)
{
	return expression_nullable(tree, cqrs_compat_flatten_joins(tree, copyObject(expression)));
}

/*
 * cqrs_key_nullable tells whether an output column can be null.
 */
bool
cqrs_key_nullable(Query *tree, AttrNumber column)
{
	Node	   *expression;

	if (tree->setOperations != NULL || tree->groupingSets != NIL)
		return true;
	expression = (Node *) get_tle_by_resno(tree->targetList, column)->expr;
	return cqrs_key_expression_nullable(tree, expression);
}

/*
 * check_column refuses a key column by whose type no index can tell values apart.
 */
static void
check_column(TupleDesc row, AttrNumber attnum)
{
	Form_pg_attribute column = TupleDescAttr(row, attnum - 1);

	if (!OidIsValid(cqrs_key_equality(column->atttypid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("column \"%s\" of type %s cannot be part of a key", NameStr(column->attname),
						format_type_be(column->atttypid)),
				 errdetail("The type has no equality that a btree index could use."),
				 errhint("Choose other columns, or cast the column to a type that has one in the query.")));
}

/*
 * read_names looks up the key's columns by the names that the user gave.
 */
static AttrNumber *
read_names(TupleDesc row, List *names, int *nkeys)
{
	AttrNumber *key = palloc(sizeof(AttrNumber) * Max(list_length(names), 1));
	ListCell   *cell;

	*nkeys = 0;
	foreach(cell, names)
	{
		const char *name = lfirst(cell);
		int			at = 0;

		while (at < row->natts && strcmp(NameStr(TupleDescAttr(row, at)->attname), name) != 0)
			at++;
		if (at == row->natts)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("key column \"%s\" does not exist", name),
					 errdetail("The query has no column of that name."),
					 errhint("Name columns as the query puts them out; give them names with AS.")));
		for (int i = 0; i < *nkeys; i++)
			if (key[i] == at + 1)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("key column \"%s\" is named twice", name),
						 errdetail("A key is a list of different columns."),
						 errhint("Name it once.")));
		key[(*nkeys)++] = at + 1;
	}
	return key;
}

/*
 * infer proves a key from the query.
 */
static AttrNumber *
infer(Oid definition, int *nkeys)
{
	Bitmapset  *columns;
	AttrNumber *key;
	int			column = -1;

	if (!cqrs_unique_infer(cqrs_query_of_view(definition), &columns))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("no key can be inferred from the query"),
				 errdetail("Its columns do not hold what it groups by, nor a primary key of the tables it joins."),
				 errhint("Name the columns that tell its rows apart in the argument \"key\", or '{}' if it has one row.")));
	key = palloc(sizeof(AttrNumber) * Max(bms_num_members(columns), 1));
	*nkeys = 0;
	while ((column = bms_next_member(columns, column)) >= 0)
		key[(*nkeys)++] = column;
	return key;
}

/*
 * cqrs_plan_key returns the key of a definition.
 */
AttrNumber *
cqrs_plan_key(Oid definition, bool given, List *names, int *nkeys)
{
	Relation	relation = relation_open(definition, AccessShareLock);
	TupleDesc	row = RelationGetDescr(relation);
	AttrNumber *key = given ? read_names(row, names, nkeys) : infer(definition, nkeys);

	if (*nkeys > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("a key cannot have more than %d columns", INDEX_MAX_KEYS),
				 errdetail("The key has %d.", *nkeys),
				 errhint("Name fewer columns that still tell rows apart.")));
	for (int i = 0; i < *nkeys; i++)
		check_column(row, key[i]);
	relation_close(relation, NoLock);
	return key;
}
