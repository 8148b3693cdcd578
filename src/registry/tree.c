/*
 * registry/tree.c
 *		Trees of tables: a partitioned table or inheritance parent with all that is below it.
 *
 * Reads pg_inherits under a catalog snapshot and takes no lock on the tables, so what it returns may be out of date at once: whoever needs it to stay
 * locks what it returns and asks again.  A partition whose detaching is pending still belongs to its tree: rows can still be routed to it.
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
 * parents_of lists the direct parents of a relation.
 */
static List *
parents_of(Oid relation)
{
	Relation	rel = table_open(InheritsRelationId, AccessShareLock);
	List	   *parents = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
	scan = systable_beginscan(rel, InheritsRelidSeqnoIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		parents = lappend_oid(parents, ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return parents;
}

/*
 * closure lists the relation and all that 'step' leads to from it, each once; nearer ones come first.
 */
static List *
closure(Oid relation, List *(*step) (Oid))
{
	List	   *found = list_make1_oid(relation);

	for (int i = 0; i < list_length(found); i++)
		found = list_concat_unique_oid(found, step(list_nth_oid(found, i)));
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
 * cqrs_tree_ancestors lists the relations in whose trees a relation is, without itself; nearer ones come first.
 */
List *
cqrs_tree_ancestors(Oid relation)
{
	return list_delete_first(closure(relation, parents_of));
}
