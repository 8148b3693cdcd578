/*
 * registry/rows.c
 *		Scans and writes of our catalog's rows, through the server's routines for catalogs.
 *
 * No SPI: an applier reads here before it may take its transaction's snapshot, and SPI would take one.  Locks on our tables are released as soon as
 * a read ends, and kept to the end of the transaction by a write.  Leaves meaning to the files beside it.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "base/snapshot.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "registry/rows.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#define MAX_COLUMNS 32

/*
 * add_key adds an equality condition to a scan.
 */
static void
add_key(CqrsRowScan *scan, AttrNumber attnum, RegProcedure equals, Datum value)
{
	Assert(scan->nkeys < (int) lengthof(scan->keys));
	ScanKeyInit(&scan->keys[scan->nkeys++], attnum, BTEqualStrategyNumber, equals, value);
}

/*
 * cqrs_rows_key_int4 asks for rows whose integer column has the value.
 */
void
cqrs_rows_key_int4(CqrsRowScan *scan, AttrNumber attnum, int32 value)
{
	add_key(scan, attnum, F_INT4EQ, Int32GetDatum(value));
}

/*
 * cqrs_rows_key_int8 asks for rows whose bigint column has the value.
 */
void
cqrs_rows_key_int8(CqrsRowScan *scan, AttrNumber attnum, int64 value)
{
	add_key(scan, attnum, F_INT8EQ, Int64GetDatum(value));
}

/*
 * cqrs_rows_key_oid asks for rows whose reg* column has the value.
 */
void
cqrs_rows_key_oid(CqrsRowScan *scan, AttrNumber attnum, Oid value)
{
	add_key(scan, attnum, F_OIDEQ, ObjectIdGetDatum(value));
}

/*
 * cqrs_rows_key_text asks for rows whose text column has the value.
 */
void
cqrs_rows_key_text(CqrsRowScan *scan, AttrNumber attnum, const char *value)
{
	add_key(scan, attnum, F_TEXTEQ, CStringGetTextDatum(value));
}

/*
 * cqrs_rows_key_int4_from asks for rows whose integer column is no less than the value.
 */
void
cqrs_rows_key_int4_from(CqrsRowScan *scan, AttrNumber attnum, int32 value)
{
	Assert(scan->nkeys < (int) lengthof(scan->keys));
	ScanKeyInit(&scan->keys[scan->nkeys++], attnum, BTGreaterEqualStrategyNumber, F_INT4GE, Int32GetDatum(value));
}

/*
 * index_of finds a scan's index, by name in the schema of its table.
 */
static Oid
index_of(const CqrsRowScan *scan, Relation rel)
{
	return scan->index ? get_relname_relid(scan->index, RelationGetNamespace(rel)) : InvalidOid;
}

/*
 * begin starts a scan; copies the keys, since the scan rewrites their attribute numbers to the index's.
 */
static SysScanDesc
begin(const CqrsRowScan *scan, Relation rel, ScanKeyData *keys)
{
	memcpy(keys, scan->keys, sizeof(ScanKeyData) * scan->nkeys);
	return systable_beginscan(rel, index_of(scan, rel), scan->index != NULL, NULL, scan->nkeys, keys);
}

/*
 * read_tuple deforms a tuple and has the reader make its struct.
 */
static void *
read_tuple(HeapTuple tuple, Relation rel, CqrsRowReader reader)
{
	Datum		values[MAX_COLUMNS];
	bool		nulls[MAX_COLUMNS];

	Assert(RelationGetDescr(rel)->natts <= MAX_COLUMNS);
	heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
	return reader(values, nulls);
}

/*
 * cqrs_rows_read returns structs for all rows found, in the order of the scan's index.
 */
List *
cqrs_rows_read(const CqrsRowScan *scan, CqrsRowReader reader)
{
	Relation	rel = table_open(cqrs_registry_relation(scan->catalog), AccessShareLock);
	ScanKeyData keys[lengthof(scan->keys)];
	SysScanDesc cursor = begin(scan, rel, keys);
	List	   *result = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(cursor)))
		result = lappend(result, read_tuple(tuple, rel, reader));
	systable_endscan(cursor);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * cqrs_rows_read_one returns the struct of the first row found, or NULL.
 */
void *
cqrs_rows_read_one(const CqrsRowScan *scan, CqrsRowReader reader)
{
	Relation	rel = table_open(cqrs_registry_relation(scan->catalog), AccessShareLock);
	ScanKeyData keys[lengthof(scan->keys)];
	SysScanDesc cursor = begin(scan, rel, keys);
	HeapTuple	tuple = systable_getnext(cursor);
	void	   *result = HeapTupleIsValid(tuple) ? read_tuple(tuple, rel, reader) : NULL;

	systable_endscan(cursor);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * cqrs_rows_read_last returns the struct of the row found last in the order of the index, or NULL.
 *
 * It steps back from the end, so rows before it that died but cannot be vacuumed yet are never met.
 */
void *
cqrs_rows_read_last(const CqrsRowScan *scan, CqrsRowReader reader)
{
	Relation	rel = table_open(cqrs_registry_relation(scan->catalog), AccessShareLock);
	Relation	index = index_open(index_of(scan, rel), AccessShareLock);
	ScanKeyData keys[lengthof(scan->keys)];
	SysScanDesc cursor;
	HeapTuple	tuple;
	void	   *result;

	memcpy(keys, scan->keys, sizeof(ScanKeyData) * scan->nkeys);
	cursor = systable_beginscan_ordered(rel, index, NULL, scan->nkeys, keys);
	tuple = systable_getnext_ordered(cursor, BackwardScanDirection);
	result = HeapTupleIsValid(tuple) ? read_tuple(tuple, rel, reader) : NULL;
	systable_endscan_ordered(cursor);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * cqrs_rows_insert adds a row.
 */
void
cqrs_rows_insert(CqrsCatalog catalog, const Datum *values, const bool *nulls)
{
	Relation	rel = table_open(cqrs_registry_relation(catalog), RowExclusiveLock);
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(rel), unconstify(Datum *, values), unconstify(bool *, nulls));
	bool		held = cqrs_snapshot_hold();

	CatalogTupleInsert(rel, tuple);
	cqrs_snapshot_let_go(held);
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/*
 * cqrs_rows_update replaces the one row found.
 */
void
cqrs_rows_update(const CqrsRowScan *scan, const Datum *values, const bool *nulls)
{
	Relation	rel = table_open(cqrs_registry_relation(scan->catalog), RowExclusiveLock);
	ScanKeyData keys[lengthof(scan->keys)];
	SysScanDesc cursor = begin(scan, rel, keys);
	HeapTuple	old = systable_getnext(cursor);
	bool		held = cqrs_snapshot_hold();
	HeapTuple	tuple;

	if (!HeapTupleIsValid(old))
		elog(ERROR, "no row to update in %s", RelationGetRelationName(rel));
	tuple = heap_form_tuple(RelationGetDescr(rel), unconstify(Datum *, values), unconstify(bool *, nulls));
	CatalogTupleUpdate(rel, &old->t_self, tuple);
	cqrs_snapshot_let_go(held);
	systable_endscan(cursor);
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/*
 * cqrs_rows_delete deletes all rows found and returns their number.
 */
int
cqrs_rows_delete(const CqrsRowScan *scan)
{
	Relation	rel = table_open(cqrs_registry_relation(scan->catalog), RowExclusiveLock);
	ScanKeyData keys[lengthof(scan->keys)];
	SysScanDesc cursor = begin(scan, rel, keys);
	bool		held = cqrs_snapshot_hold();
	int			count = 0;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(cursor)))
	{
		CatalogTupleDelete(rel, &tuple->t_self);
		count++;
	}
	cqrs_snapshot_let_go(held);
	systable_endscan(cursor);
	table_close(rel, NoLock);
	CommandCounterIncrement();
	return count;
}

/*
 * cqrs_rows_text makes a text value, or null of NULL.
 */
Datum
cqrs_rows_text(const char *value, bool *isnull)
{
	*isnull = value == NULL;
	return value ? CStringGetTextDatum(value) : (Datum) 0;
}

/*
 * cqrs_rows_string copies a text field out; NULL for null.
 */
char *
cqrs_rows_string(const Datum *values, const bool *nulls, int index)
{
	return nulls[index] ? NULL : TextDatumGetCString(values[index]);
}

/*
 * cqrs_rows_int2_array makes a smallint[] value.
 */
Datum
cqrs_rows_int2_array(const int16 *values, int count)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		elements[i] = Int16GetDatum(values[i]);
	return PointerGetDatum(construct_array(elements, count, INT2OID, sizeof(int16), true, TYPALIGN_SHORT));
}

/*
 * cqrs_rows_int2s copies a smallint[] out.
 */
int16 *
cqrs_rows_int2s(Datum array, int *count)
{
	Datum	   *elements;
	int16	   *result;

	deconstruct_array(DatumGetArrayTypeP(array), INT2OID, sizeof(int16), true, TYPALIGN_SHORT, &elements, NULL, count);
	result = palloc(sizeof(int16) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		result[i] = DatumGetInt16(elements[i]);
	return result;
}

/*
 * cqrs_rows_texts copies a text[] out, as char *.
 */
List *
cqrs_rows_texts(Datum array)
{
	Datum	   *elements;
	int			count;
	List	   *result = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &count);
	for (int i = 0; i < count; i++)
		result = lappend(result, TextDatumGetCString(elements[i]));
	return result;
}

/*
 * cqrs_rows_columns_array makes a smallint[] of a set of attribute numbers.
 */
Datum
cqrs_rows_columns_array(const Bitmapset *columns)
{
	int16	   *values = palloc(sizeof(int16) * (bms_num_members(columns) + 1));
	int			count = 0;
	int			column = -1;

	while ((column = bms_next_member(columns, column)) >= 0)
		values[count++] = column;
	return cqrs_rows_int2_array(values, count);
}

/*
 * cqrs_rows_columns makes a set of what cqrs_rows_columns_array made.
 */
Bitmapset *
cqrs_rows_columns(Datum array)
{
	int			count;
	int16	   *values = cqrs_rows_int2s(array, &count);
	Bitmapset  *columns = NULL;

	for (int i = 0; i < count; i++)
		columns = bms_add_member(columns, values[i]);
	return columns;
}
