/*
 * capture/shape.c
 *		The shape that images of a source's rows should have, by its columns as they are now and the sets in force.
 *
 * Reads the system catalogs without a lock on the source: a trigger on a leaf of its tree must not wait for the root, whose DDL may wait for that trigger's
 * transaction.  DDL that changes a column locks all tables that have it, so what is read here is what holds for the row at hand.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/compat.h"
#include "capture/parts.h"
#include "catalog/pg_class.h"
#include "utils/syscache.h"

/*
 * column_count returns how many columns a relation has, dropped ones included; 0 if it is gone.
 */
static int
column_count(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	int			count;

	if (!HeapTupleIsValid(tuple))
		return 0;
	count = ((Form_pg_class) GETSTRUCT(tuple))->relnatts;
	ReleaseSysCache(tuple);
	return count;
}

/*
 * copy_column copies what is known of a column; false if it is dropped.
 */
static bool
copy_column(Oid relation, AttrNumber attnum, Form_pg_attribute column)
{
	HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relation), Int16GetDatum(attnum));
	bool		live;

	if (!HeapTupleIsValid(tuple))
		return false;
	memcpy(column, GETSTRUCT(tuple), ATTRIBUTE_FIXED_PART_SIZE);
	live = !column->attisdropped;
	ReleaseSysCache(tuple);
	return live;
}

/*
 * cqrs_capture_wanted_shape returns the shape, without an id, that a source's images should have.
 */
CqrsShape *
cqrs_capture_wanted_shape(const CqrsSource *source)
{
	CqrsShape  *shape = palloc0(sizeof(CqrsShape));
	int			count = column_count(source->relation);
	FormData_pg_attribute *imaged = palloc0(sizeof(FormData_pg_attribute) * Max(count, 1));
	int			nimaged = 0;

	shape->source = source->id;
	shape->columns = palloc(sizeof(AttrNumber) * Max(count, 1));
	shape->noted = palloc(sizeof(AttrNumber) * Max(count, 1));
	for (AttrNumber attnum = 1; attnum <= count; attnum++)
	{
		bool		image = source->captured || bms_is_member(attnum, source->imaged);

		if ((!image && !bms_is_member(attnum, source->watched)) || !copy_column(source->relation, attnum, &imaged[nimaged]))
			continue;
		if (image)
			shape->columns[nimaged++] = attnum;
		else
			shape->noted[shape->nnoted++] = attnum;
	}
	shape->desc = CreateTemplateTupleDesc(nimaged);
	for (int i = 0; i < nimaged; i++)
	{
		memcpy(TupleDescAttr(shape->desc, i), &imaged[i], ATTRIBUTE_FIXED_PART_SIZE);
		TupleDescAttr(shape->desc, i)->attnum = i + 1;
		cqrs_compat_column_made(shape->desc, i);
	}
	return shape;
}

/*
 * same_column tells whether images hold a column alike.
 */
static bool
same_column(Form_pg_attribute left, Form_pg_attribute right)
{
	return left->atttypid == right->atttypid &&
		left->atttypmod == right->atttypmod &&
		left->attcollation == right->attcollation &&
		left->attlen == right->attlen &&
		left->attalign == right->attalign &&
		left->attbyval == right->attbyval &&
		strcmp(NameStr(left->attname), NameStr(right->attname)) == 0;
}

/*
 * cqrs_capture_same_shape tells whether two shapes differ in no more than their ids.
 */
bool
cqrs_capture_same_shape(const CqrsShape *left, const CqrsShape *right)
{
	if (left->desc->natts != right->desc->natts || left->nnoted != right->nnoted ||
		memcmp(left->noted, right->noted, sizeof(AttrNumber) * left->nnoted) != 0 ||
		memcmp(left->columns, right->columns, sizeof(AttrNumber) * left->desc->natts) != 0)
		return false;
	for (int i = 0; i < left->desc->natts; i++)
		if (!same_column(TupleDescAttr(left->desc, i), TupleDescAttr(right->desc, i)))
			return false;
	return true;
}
