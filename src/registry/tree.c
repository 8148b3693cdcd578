/*
 * registry/tree.c
 *		Trees of tables: a partitioned table or inheritance parent with all that is below it.
 *
 * Reads pg_inherits under a catalog snapshot and takes no lock on the tables, so what it returns may be out of date at once: whoever needs it to stay
 * locks what it returns and asks again.  A partition whose detaching is pending is still listed: it keeps its triggers and locks to the end.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "registry/registry.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/*
 * has_storage tells whether a relation holds rows itself.
 */
static bool
has_storage(Oid relation)
{
	return get_rel_relkind(relation) == RELKIND_RELATION;
}

/*
 * children_of lists the direct children of a relation; none of one that is gone.
 */
static List *
children_of(Oid relation)
{
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation)))
		return NIL;
	return find_inheritance_children_extended(relation, false, NoLock, NULL, NULL);
}

/*
 * list_parents lists the direct parents of a relation, with 'pending' also those that it is being detached from.
 */
static List *
list_parents(Oid relation, bool pending)
{
	Relation	rel = table_open(InheritsRelationId, AccessShareLock);
	List	   *parents = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
	scan = systable_beginscan(rel, InheritsRelidSeqnoIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (pending || !((Form_pg_inherits) GETSTRUCT(tuple))->inhdetachpending)
			parents = lappend_oid(parents, ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return parents;
}

/*
 * parents_of lists all direct parents of a relation.
 */
static List *
parents_of(Oid relation)
{
	return list_parents(relation, true);
}

/*
 * parents_in_force lists the direct parents among whose rows those of a relation are.
 */
static List *
parents_in_force(Oid relation)
{
	return list_parents(relation, false);
}

/*
 * closure lists the relation and all that 'step' leads to from it, level by level, each once in a level.
 */
static List *
closure(Oid relation, List *(*step) (Oid))
{
	List	   *found = list_make1_oid(relation);
	List	   *level = found;

	while (level != NIL)
	{
		List	   *next = NIL;
		ListCell   *cell;

		foreach(cell, level)
			next = list_concat(next, step(lfirst_oid(cell)));
		list_sort(next, list_oid_cmp);
		list_deduplicate_oid(next);
		found = list_concat(list_copy(found), next);
		level = next;
	}
	return found;
}

/*
 * cqrs_tree_members lists all relations of the tree under a relation, itself included, those without storage too, by OID.
 */
List *
cqrs_tree_members(Oid relation)
{
	List	   *members = closure(relation, children_of);

	list_sort(members, list_oid_cmp);
	list_deduplicate_oid(members);
	return members;
}

/*
 * cqrs_tree_tables lists the tables of the tree that hold rows themselves, by OID.
 */
List *
cqrs_tree_tables(Oid relation)
{
	List	   *tables = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_tree_members(relation))
		if (has_storage(lfirst_oid(cell)))
			tables = lappend_oid(tables, lfirst_oid(cell));
	return tables;
}

/*
 * cqrs_tree_ancestors lists the relations in whose trees a relation is, without itself, by OID.
 */
List *
cqrs_tree_ancestors(Oid relation)
{
	List	   *ancestors = list_delete_first(closure(relation, parents_of));

	list_sort(ancestors, list_oid_cmp);
	list_deduplicate_oid(ancestors);
	return ancestors;
}

/*
 * cqrs_tree_contains tells whether rows of a table are rows of a relation.
 */
bool
cqrs_tree_contains(Oid relation, Oid table)
{
	return relation == table || list_member_oid(closure(table, parents_in_force), relation);
}

/*
 * cqrs_tree_detaching tells whether the detaching of a partition of the tree is pending.
 */
bool
cqrs_tree_detaching(Oid relation)
{
	ListCell   *cell;

	foreach(cell, cqrs_tree_members(relation))
	{
		bool		pending = false;
		TransactionId xmin;

		if (get_rel_relkind(lfirst_oid(cell)) == RELKIND_PARTITIONED_TABLE)
			(void) find_inheritance_children_extended(lfirst_oid(cell), true, NoLock, &pending, &xmin);
		if (pending)
			return true;
	}
	return false;
}
