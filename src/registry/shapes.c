/*
 * registry/shapes.c
 *		Rows of shapes: how images of a source's rows are laid out.
 *
 * A shape holds all that reading an image takes, so that it can be read when the table has changed since.  Columns are known by the numbers they have in the
 * source, whatever table of its tree a row was in.
 */
#include "postgres.h"

#include "base/compat.h"
#include "catalog/pg_type.h"
#include "registry/registry.h"
#include "registry/rows.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* SHAPE_COLUMNS to SHAPE_ALIGNMENTS are arrays with an element for each column that is imaged. */
enum
{
	SHAPE_ID, SHAPE_SOURCE, SHAPE_NOTED, SHAPE_COLUMNS, SHAPE_NAMES, SHAPE_TYPES, SHAPE_TYPMODS, SHAPE_COLLATIONS,
	SHAPE_LENGTHS, SHAPE_BY_VALUE, SHAPE_ALIGNMENTS, SHAPE_COUNT
};

/*
 * elements_of takes an array apart; what it returns points into the array.
 */
static Datum *
elements_of(Datum array, int expected)
{
	ArrayType  *value = DatumGetArrayTypePCopy(array);
	Oid			type = ARR_ELEMTYPE(value);
	int16		length;
	bool		by_value;
	char		alignment;
	Datum	   *elements;
	int			count;

	get_typlenbyvalalign(type, &length, &by_value, &alignment);
	deconstruct_array(value, type, length, by_value, alignment, &elements, NULL, &count);
	if (count != expected)
		elog(ERROR, "a shape's arrays differ in length");
	return elements;
}

/*
 * read_shape makes a CqrsShape of a row.
 */
static void *
read_shape(const Datum *values, const bool *nulls)
{
	CqrsShape  *shape = palloc0(sizeof(CqrsShape));
	int			natts;
	Datum	   *elements[SHAPE_COUNT];

	shape->id = DatumGetInt32(values[SHAPE_ID]);
	shape->source = DatumGetInt32(values[SHAPE_SOURCE]);
	shape->noted = cqrs_rows_int2s(values[SHAPE_NOTED], &shape->nnoted);
	shape->columns = cqrs_rows_int2s(values[SHAPE_COLUMNS], &natts);
	for (int c = SHAPE_NAMES; c < SHAPE_COUNT; c++)
		elements[c] = elements_of(values[c], natts);
	shape->desc = CreateTemplateTupleDesc(natts);
	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(shape->desc, i);

		memset(att, 0, ATTRIBUTE_FIXED_PART_SIZE);
		namestrcpy(&att->attname, NameStr(*DatumGetName(elements[SHAPE_NAMES][i])));
		att->attnum = i + 1;
		att->atttypid = DatumGetObjectId(elements[SHAPE_TYPES][i]);
		att->atttypmod = DatumGetInt32(elements[SHAPE_TYPMODS][i]);
		att->attcollation = DatumGetObjectId(elements[SHAPE_COLLATIONS][i]);
		att->attlen = DatumGetInt16(elements[SHAPE_LENGTHS][i]);
		att->attbyval = DatumGetBool(elements[SHAPE_BY_VALUE][i]);
		att->attalign = DatumGetChar(elements[SHAPE_ALIGNMENTS][i]);
		att->attstorage = TYPSTORAGE_PLAIN;
		cqrs_compat_column_made(shape->desc, i);
	}
	return shape;
}

/*
 * cqrs_shape_get returns a shape by id.
 */
CqrsShape *
cqrs_shape_get(int32 id)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_SHAPE, .index = "shape_pkey"};
	CqrsShape  *shape;

	cqrs_rows_key_int4(&scan, SHAPE_ID + 1, id);
	shape = cqrs_rows_read_one(&scan, read_shape);
	if (shape == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("shape %d does not exist", id)));
	return shape;
}

/*
 * cqrs_shape_latest returns a source's newest shape, or NULL.
 */
CqrsShape *
cqrs_shape_latest(int32 source)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_SHAPE, .index = "shape_source_key"};

	cqrs_rows_key_int4(&scan, SHAPE_SOURCE + 1, source);
	return cqrs_rows_read_last(&scan, read_shape);
}

/*
 * array_of makes an array value of a built-in type.
 */
static Datum
array_of(Datum *elements, int count, Oid type)
{
	int16		length;
	bool		by_value;
	char		alignment;

	get_typlenbyvalalign(type, &length, &by_value, &alignment);
	return PointerGetDatum(construct_array(elements, count, type, length, by_value, alignment));
}

/*
 * cqrs_shape_insert records how a source's images are laid out from now on; sets the shape's id.
 */
void
cqrs_shape_insert(CqrsShape *shape)
{
	static const Oid types[SHAPE_COUNT] = {
		[SHAPE_NAMES] = NAMEOID,[SHAPE_TYPES] = REGTYPEOID,[SHAPE_TYPMODS] = INT4OID,[SHAPE_COLLATIONS] = OIDOID,
		[SHAPE_LENGTHS] = INT2OID,[SHAPE_BY_VALUE] = BOOLOID,[SHAPE_ALIGNMENTS] = CHAROID,
	};
	TupleDesc	desc = shape->desc;
	Datum	   *elements[SHAPE_COUNT];
	Datum		values[SHAPE_COUNT];
	bool		nulls[SHAPE_COUNT] = {false};

	shape->id = cqrs_registry_next_id();
	for (int c = SHAPE_NAMES; c < SHAPE_COUNT; c++)
		elements[c] = palloc(sizeof(Datum) * (desc->natts + 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		elements[SHAPE_NAMES][i] = NameGetDatum(&att->attname);
		elements[SHAPE_TYPES][i] = ObjectIdGetDatum(att->atttypid);
		elements[SHAPE_TYPMODS][i] = Int32GetDatum(att->atttypmod);
		elements[SHAPE_COLLATIONS][i] = ObjectIdGetDatum(att->attcollation);
		elements[SHAPE_LENGTHS][i] = Int16GetDatum(att->attlen);
		elements[SHAPE_BY_VALUE][i] = BoolGetDatum(att->attbyval);
		elements[SHAPE_ALIGNMENTS][i] = CharGetDatum(att->attalign);
	}
	values[SHAPE_ID] = Int32GetDatum(shape->id);
	values[SHAPE_SOURCE] = Int32GetDatum(shape->source);
	values[SHAPE_NOTED] = cqrs_rows_int2_array(shape->noted, shape->nnoted);
	values[SHAPE_COLUMNS] = cqrs_rows_int2_array(shape->columns, desc->natts);
	for (int c = SHAPE_NAMES; c < SHAPE_COUNT; c++)
		values[c] = array_of(elements[c], desc->natts, types[c]);
	cqrs_rows_insert(CQRS_CAT_SHAPE, values, nulls);
}
