/*
 * verify/equal.c
 *		When two rows count as equal.
 *
 * Two correct evaluations of one query may add floats in another order, so float columns are equal within a relative tolerance; everything else must
 * be the same to the bit, so that 1.0 is not 1.00.  Composite values carry marks of where they were read (hint bits, a tuple's address),
 * which are no part of the value: they are compared field by field.
 *
 * Pure but for the type cache.  Memory is CurrentMemoryContext's, for the caller to reset.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"
#include "verify/equal.h"

#include <math.h>

#define FLOAT4_TOLERANCE	1e-5
#define FLOAT8_TOLERANCE	1e-9

static bool values_identical(Oid type, Datum left, Datum right);

/*
 * floats_close tells whether two numbers differ by at most 'tolerance' of the greater one; NaN equals NaN.
 */
static bool
floats_close(double left, double right, double tolerance)
{
	if (isnan(left) || isnan(right))
		return isnan(left) && isnan(right);
	if (left == right)
		return true;
	if (isinf(left) || isinf(right))
		return false;
	return fabs(left - right) <= tolerance * Max(fabs(left), fabs(right));
}

/*
 * composites_identical compares two composite values field by field.
 */
static bool
composites_identical(Datum left, Datum right)
{
	HeapTupleHeader headers[2] = {DatumGetHeapTupleHeader(left), DatumGetHeapTupleHeader(right)};
	HeapTupleData tuples[2];
	Datum	   *values[2];
	bool	   *nulls[2];
	TupleDesc	desc;
	bool		same = true;

	if (HeapTupleHeaderGetTypeId(headers[0]) != HeapTupleHeaderGetTypeId(headers[1]) ||
		HeapTupleHeaderGetTypMod(headers[0]) != HeapTupleHeaderGetTypMod(headers[1]))
		return false;
	check_stack_depth();
	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(headers[0]), HeapTupleHeaderGetTypMod(headers[0]));
	for (int side = 0; side < 2; side++)
	{
		tuples[side].t_len = HeapTupleHeaderGetDatumLength(headers[side]);
		tuples[side].t_data = headers[side];
		values[side] = palloc(sizeof(Datum) * desc->natts);
		nulls[side] = palloc(sizeof(bool) * desc->natts);
		heap_deform_tuple(&tuples[side], desc, values[side], nulls[side]);
	}
	for (int i = 0; i < desc->natts && same; i++)
	{
		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		same = nulls[0][i] == nulls[1][i] &&
			(nulls[0][i] || values_identical(TupleDescAttr(desc, i)->atttypid, values[0][i], values[1][i]));
	}
	ReleaseTupleDesc(desc);
	return same;
}

/*
 * arrays_identical compares two arrays of composite values element by element.
 */
static bool
arrays_identical(Oid element, Datum left, Datum right)
{
	ArrayType  *arrays[2] = {DatumGetArrayTypeP(left), DatumGetArrayTypeP(right)};
	Datum	   *values[2];
	bool	   *nulls[2];
	int			counts[2];
	int16		length;
	bool		by_value;
	char		align;

	if (ARR_NDIM(arrays[0]) != ARR_NDIM(arrays[1]) ||
		memcmp(ARR_DIMS(arrays[0]), ARR_DIMS(arrays[1]), sizeof(int) * ARR_NDIM(arrays[0])) != 0 ||
		memcmp(ARR_LBOUND(arrays[0]), ARR_LBOUND(arrays[1]), sizeof(int) * ARR_NDIM(arrays[0])) != 0)
		return false;
	get_typlenbyvalalign(element, &length, &by_value, &align);
	for (int side = 0; side < 2; side++)
		deconstruct_array(arrays[side], element, length, by_value, align, &values[side], &nulls[side], &counts[side]);
	for (int i = 0; i < counts[0]; i++)
		if (nulls[0][i] != nulls[1][i] || (!nulls[0][i] && !values_identical(element, values[0][i], values[1][i])))
			return false;
	return true;
}

/*
 * values_identical tells whether two values of a type are the same to the bit.
 */
static bool
values_identical(Oid type, Datum left, Datum right)
{
	Oid			base = getBaseType(type);
	Oid			element = get_base_element_type(type);
	int16		length;
	bool		by_value;

	get_typlenbyval(base, &length, &by_value);
	if (datum_image_eq(left, right, by_value, length))
		return true;
	if (type_is_rowtype(base))
		return composites_identical(left, right);
	if (OidIsValid(element) && length == -1 && type_is_rowtype(element))
		return arrays_identical(element, left, right);
	return false;
}

/*
 * values_equal tells whether two values of one column count as equal; most are the same to the bit, which takes no look at the type.
 */
static bool
values_equal(Form_pg_attribute column, Datum left, Datum right)
{
	if (datum_image_eq(left, right, column->attbyval, column->attlen))
		return true;
	switch (getBaseType(column->atttypid))
	{
		case FLOAT4OID:
			return floats_close(DatumGetFloat4(left), DatumGetFloat4(right), FLOAT4_TOLERANCE);
		case FLOAT8OID:
			return floats_close(DatumGetFloat8(left), DatumGetFloat8(right), FLOAT8_TOLERANCE);
		default:
			return values_identical(column->atttypid, left, right);
	}
}

/*
 * cqrs_verify_rows_equal tells whether two rows of one descriptor count as equal.
 */
bool
cqrs_verify_rows_equal(TupleDesc desc, HeapTuple left, HeapTuple right)
{
	HeapTuple	tuples[2] = {left, right};
	Datum	   *values[2];
	bool	   *nulls[2];

	for (int side = 0; side < 2; side++)
	{
		values[side] = palloc(sizeof(Datum) * desc->natts);
		nulls[side] = palloc(sizeof(bool) * desc->natts);
		heap_deform_tuple(tuples[side], desc, values[side], nulls[side]);
	}
	for (int i = 0; i < desc->natts; i++)
		if (nulls[0][i] != nulls[1][i] ||
			(!nulls[0][i] && !values_equal(TupleDescAttr(desc, i), values[0][i], values[1][i])))
			return false;
	return true;
}
