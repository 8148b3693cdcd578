/*
 * outbox/table.c
 *		The tables of segments: make one, empty it, drop it, measure what it holds.
 *
 * Below SQL: the event triggers and default privileges of users have no say in what happens within a writer's commit.  A table belongs to the bootstrap
 * superuser and goes with the extension, but is no member of it, so that a dump holds it as any other table.
 *
 * Wants a transaction, and the right to change what segments there are (cqrs_segment_lock).  Chunks of about a page stay in line; the row of one that holds a
 * larger change points to the table for large values.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "base/compat.h"
#include "base/snapshot.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "catalog/toasting.h"
#include "commands/comment.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "outbox/parts.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#define TOAST_TARGET	8160	/* as large as a row can be in a page of its own */
#define TABLE_COMMENT	"a segment of the outbox"
#define INDEX_COMMENT	"finds the chunks of a window"

static const struct
{
	const char *name;
	Oid			type;
	char		storage;		/* 0: the type's */
}			columns[CQRS_SEGMENT_COLUMNS] = {
	[CQRS_SEGMENT_NUMBER] = {"number", INT8OID, 0},
	[CQRS_SEGMENT_XID] = {"xid", XID8OID, 0},
	[CQRS_SEGMENT_SOURCES] = {"sources", INT4ARRAYOID, TYPSTORAGE_PLAIN},
	[CQRS_SEGMENT_CHANGES] = {"changes", INT4OID, 0},
	[CQRS_SEGMENT_CAPTURED_AT] = {"captured_at", TIMESTAMPTZOID, 0},
	[CQRS_SEGMENT_BODY] = {"body", BYTEAOID, TYPSTORAGE_EXTERNAL},
};

/*
 * describe makes the descriptor of a segment's rows.
 */
static TupleDesc
describe(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(CQRS_SEGMENT_COLUMNS);

	for (int i = 0; i < CQRS_SEGMENT_COLUMNS; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		TupleDescInitEntry(desc, i + 1, columns[i].name, columns[i].type, -1, 0);
		att->attnotnull = true;
		if (columns[i].storage != 0)
			att->attstorage = columns[i].storage;
	}
	return desc;
}

/*
 * create_heap makes the table itself, and the one for large values.
 */
static Oid
create_heap(const char *name, Oid namespace)
{
	List	   *options = list_make1(makeDefElem("toast_tuple_target", (Node *) makeInteger(TOAST_TARGET), -1));
	Datum		reloptions = transformRelOptions((Datum) 0, options, NULL, NULL, false, false);
	Oid			relation;

	relation = heap_create_with_catalog(name, namespace, InvalidOid, InvalidOid, InvalidOid, InvalidOid,
										BOOTSTRAP_SUPERUSERID, HEAP_TABLE_AM_OID, describe(), NIL, RELKIND_RELATION,
										RELPERSISTENCE_PERMANENT, false, false, ONCOMMIT_NOOP, reloptions, false, false,
										true, InvalidOid, NULL);
	CommandCounterIncrement();
	NewRelationCreateToastTable(relation, (Datum) 0);
	return relation;
}

/*
 * create_index makes the index on xid; built apart, so that nobody plans how many processes are to help.
 *
 * Its entries come in nearly the order of their keys, so pages are filled before the next one is begun; and mostly each has another key, so there is nothing
 * to be gained from looking for those that could share it.
 */
static Oid
create_index(Relation heap)
{
	IndexInfo  *info = cqrs_compat_index_info();
	Oid			class[1] = {GetDefaultOpClass(XID8OID, BTREE_AM_OID)};
	Oid			collation[1] = {InvalidOid};
	int16		options[1] = {0};
	List	   *storage = list_make2(makeDefElem("fillfactor", (Node *) makeInteger(100), -1),
									 makeDefElem("deduplicate_items", (Node *) makeBoolean(false), -1));
	Datum		reloptions = transformRelOptions((Datum) 0, storage, NULL, NULL, false, false);
	char	   *name = psprintf("%s_xid", RelationGetRelationName(heap));
	Oid			index;
	Relation	rel;

	info->ii_IndexAttrNumbers[0] = CQRS_SEGMENT_XID + 1;
	index = cqrs_compat_index_create(heap, name, info, list_make1("xid"), collation, class, options,
									 reloptions, INDEX_CREATE_SKIP_BUILD);
	rel = index_open(index, AccessExclusiveLock);
	index_build(heap, rel, info, false, false);
	index_close(rel, NoLock);
	return index;
}

/*
 * cqrs_segment_table_belong has a table go with the extension, and with nothing else; one that came by a restore does not know any more.
 *
 * It is a part of the list of segments, as a toast table is of its table: nobody can drop it by hand.
 */
void
cqrs_segment_table_belong(Oid relation)
{
	Oid			extension = get_extension_oid("cqrs", false);
	ObjectAddress table;
	ObjectAddress owner;

	if (list_member_oid(getAutoExtensionsOfObject(RelationRelationId, relation), extension))
		return;
	ObjectAddressSet(table, RelationRelationId, relation);
	ObjectAddressSet(owner, ExtensionRelationId, extension);
	recordDependencyOn(&table, &owner, DEPENDENCY_AUTO_EXTENSION);
	ObjectAddressSet(owner, RelationRelationId, cqrs_registry_relation(CQRS_CAT_SEGMENT));
	recordDependencyOn(&table, &owner, DEPENDENCY_INTERNAL);
	CommandCounterIncrement();
}

/*
 * cqrs_segment_table_create makes the table of a segment.
 *
 * Nobody but us makes tables in this schema; but if somebody has, its name is left to it.  At pre-commit no snapshot is left.
 */
Oid
cqrs_segment_table_create(int32 number)
{
	Oid			namespace = get_rel_namespace(cqrs_registry_relation(CQRS_CAT_SEGMENT));
	char	   *name = psprintf("outbox_%d", number);
	Oid			relation;
	Oid			index;
	Relation	heap;
	bool		held = cqrs_snapshot_hold();

	for (int i = 1; OidIsValid(get_relname_relid(name, namespace)); i++)
		name = psprintf("outbox_%d_%d", number, i);
	relation = create_heap(name, namespace);
	heap = table_open(relation, NoLock);
	index = create_index(heap);
	table_close(heap, NoLock);
	CreateComments(relation, RelationRelationId, 0, TABLE_COMMENT);
	CreateComments(index, RelationRelationId, 0, INDEX_COMMENT);
	cqrs_segment_table_belong(relation);
	cqrs_snapshot_let_go(held);
	return relation;
}

/*
 * cqrs_segment_table_empty throws away what a table holds, by giving it new files; false if this session is reading it.  The caller holds ACCESS EXCLUSIVE.
 */
bool
cqrs_segment_table_empty(Oid relation)
{
	Relation	heap = table_open(relation, NoLock);
	bool		idle = heap->rd_refcnt == 1;

	if (idle)
		cqrs_compat_truncate(heap);
	table_close(heap, NoLock);
	return idle;
}

/*
 * cqrs_segment_table_drop drops a table that holds nothing.  The caller holds ACCESS EXCLUSIVE.
 */
void
cqrs_segment_table_drop(Oid relation)
{
	ObjectAddress address;
	bool		held = cqrs_snapshot_hold();

	(void) deleteDependencyRecordsForClass(RelationRelationId, relation, RelationRelationId, DEPENDENCY_INTERNAL);
	CommandCounterIncrement();
	ObjectAddressSet(address, RelationRelationId, relation);
	performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	cqrs_snapshot_let_go(held);
}

/*
 * note_chunk counts a chunk's row into what its segment holds.
 */
static void
note_chunk(CqrsSegment *segment, TupleTableSlot *slot)
{
	bool		isnull;
	int64		first = DatumGetInt64(slot_getattr(slot, CQRS_SEGMENT_NUMBER + 1, &isnull)) << CQRS_POSITION_BITS;
	FullTransactionId xid = DatumGetFullTransactionId(slot_getattr(slot, CQRS_SEGMENT_XID + 1, &isnull));
	int32		changes = DatumGetInt32(slot_getattr(slot, CQRS_SEGMENT_CHANGES + 1, &isnull));
	bool		only = !FullTransactionIdIsValid(segment->first_xid);

	if (only || FullTransactionIdPrecedes(xid, segment->first_xid))
		segment->first_xid = xid;
	if (only || FullTransactionIdPrecedes(segment->last_xid, xid))
		segment->last_xid = xid;
	segment->first_position = only ? first : Min(segment->first_position, first);
	segment->last_position = Max(segment->last_position, first + changes - 1);
	segment->changes += changes;
}

/*
 * cqrs_segment_table_measure fills in what a segment holds that the snapshot sees, and its size; the caller holds a lock on it.
 *
 * All rows are read and visibility is asked of each, so that a SERIALIZABLE transaction takes no predicate locks.
 */
void
cqrs_segment_table_measure(CqrsSegment *segment, Snapshot snapshot)
{
	Relation	heap = table_open(segment->relation, NoLock);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	TableScanDesc scan = table_beginscan(heap, SnapshotAny, 0, NULL);

	segment->first_xid = segment->last_xid = InvalidFullTransactionId;
	segment->first_position = segment->last_position = segment->changes = 0;
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (table_tuple_satisfies_snapshot(heap, slot, snapshot))
			note_chunk(segment, slot);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(heap, NoLock);
	segment->bytes = cqrs_segment_table_bytes(segment->relation);
}

/*
 * cqrs_segment_table_bytes returns the size of a table with its index and its large values; 0 if it is gone.
 */
int64
cqrs_segment_table_bytes(Oid relation)
{
	LOCAL_FCINFO(call, 1);
	Datum		size;

	InitFunctionCallInfoData(*call, NULL, 1, InvalidOid, NULL, NULL);
	call->args[0].value = ObjectIdGetDatum(relation);
	call->args[0].isnull = false;
	size = pg_total_relation_size(call);
	return call->isnull ? 0 : DatumGetInt64(size);
}

/*
 * cqrs_segment_table_begins returns when the first chunk of a segment was captured; 0 if it has none.
 */
TimestampTz
cqrs_segment_table_begins(Oid relation)
{
	Relation	heap = table_open(relation, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	TableScanDesc scan = table_beginscan_strat(heap, SnapshotAny, 0, NULL, false, false);
	TimestampTz begins = 0;
	bool		isnull;

	if (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		begins = DatumGetTimestampTz(slot_getattr(slot, CQRS_SEGMENT_CAPTURED_AT + 1, &isnull));
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(heap, AccessShareLock);
	return begins;
}
