/*
 * erase/match.c
 *		Which images are of the rows that a user means by a key.
 *
 * A key is a JSON object of values by column.  They become values of the columns' types by the types' input functions, and are compared with those of
 * images by the types' default equality: 1.0 is 1.00, and a collation that ignores case ignores it here.  Columns go by number, so it matters not what
 * they were called when an image was made; where one had another type then, the value becomes one of that type, too.
 *
 * Types are the table's, so the caller has taken on the identity of its owner.  Memory is the one that is current when the key is read.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/attempt.h"
#include "base/names.h"
#include "catalog/pg_type.h"
#include "erase/parts.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* A column of the key. */
typedef struct KeyColumn
{
	char	   *name;
	char	   *text;			/* its value */
	AttrNumber	number;
	Oid			type;
} KeyColumn;

/* How a column is compared in images of one shape. */
typedef struct Comparison
{
	int			index;			/* among the shape's columns */
	FmgrInfo	equal;
	Oid			collation;
	Datum		value;
} Comparison;

/* How the key is compared with images of one shape. */
typedef struct ShapeMatch
{
	int32		shape;
	bool		possible;		/* can any image match? */
	Comparison *comparisons;	/* by column of the key */
} ShapeMatch;

struct CqrsRowMatch
{
	Oid			relation;
	int			ncolumns;
	KeyColumn  *columns;
	List	   *shapes;			/* of ShapeMatch, the one met last first */
	MemoryContext memory;
};

/* What convert is to do. */
typedef struct Conversion
{
	const char *text;
	Oid			type;
	Datum		value;
} Conversion;

/*
 * convert makes a value of a type from text, in CurrentMemoryContext.
 *
 * Of a domain the type below it: whether a value may be in the domain is not asked, and so nothing is run that its maker wrote.
 */
static void
convert(void *argument)
{
	Conversion *conversion = argument;
	Oid			function;
	Oid			parameter;

	getTypeInputInfo(getBaseType(conversion->type), &function, &parameter);
	conversion->value = OidInputFunctionCall(function, unconstify(char *, conversion->text), parameter, -1);
}

/*
 * text_of returns a value of a JSON object as the text that an input function reads.
 */
static char *
text_of(const JsonbValue *value, const char *column)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		case jbvBinary:
			return JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
		default:
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("column \"%s\" of the key must not be null", column),
					 errdetail("No row can be told from others by a null.")));
	}
	return NULL;
}

/*
 * read_column checks one column of the key.
 */
static void
read_column(CqrsRowMatch *match, KeyColumn *column, const JsonbValue *name, const JsonbValue *value)
{
	Conversion	conversion;

	column->name = pnstrdup(name->val.string.val, name->val.string.len);
	column->number = get_attnum(match->relation, column->name);
	if (column->number <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of \"%s\" does not exist", column->name, cqrs_name_shown(match->relation))));
	column->type = get_atttype(match->relation, column->number);
	column->text = text_of(value, column->name);
	conversion.text = column->text;
	conversion.type = column->type;
	convert(&conversion);
}

/*
 * cqrs_match_begin reads a key.
 *
 * Errors: 22023 an empty one, 22004 a null in it, 42703 a column that the table does not have, and those of input functions.
 */
CqrsRowMatch *
cqrs_match_begin(Oid relation, Jsonb *key)
{
	CqrsRowMatch *match = palloc0(sizeof(CqrsRowMatch));
	JsonbIterator *iterator = JsonbIteratorInit(&key->root);
	JsonbValue	name;
	JsonbValue	value;

	match->relation = relation;
	match->memory = CurrentMemoryContext;
	match->columns = palloc0(sizeof(KeyColumn) * (JB_ROOT_COUNT(key) + 1));
	if (JB_ROOT_COUNT(key) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"key\" must name a column"),
				 errhint("Give the primary key of the row: jsonb_build_object('id', 5).")));
	(void) JsonbIteratorNext(&iterator, &name, false);
	while (JsonbIteratorNext(&iterator, &name, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&iterator, &value, true);
		read_column(match, &match->columns[match->ncolumns++], &name, &value);
	}
	return match;
}

/*
 * index_in returns a column's index in a shape.
 */
static int
index_in(const CqrsRowMatch *match, const KeyColumn *column, const CqrsShape *shape)
{
	for (int i = 0; i < shape->desc->natts; i++)
		if (shape->columns[i] == column->number &&
			SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(TupleDescAttr(shape->desc, i)->atttypid)))
			return i;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("column \"%s\" of \"%s\" is not in all changes that are retained", column->name,
					cqrs_name_shown(match->relation)),
			 errdetail("It was added, or captured, only later, or had a type that is gone."),
			 errhint("Name the primary key: it is always captured.")));
	return -1;
}

/*
 * value_in makes the key's value one of the type that the column has in a shape; false if it cannot be one.
 */
static bool
value_in(const KeyColumn *column, Oid type, Datum *value)
{
	Conversion	conversion = {.text = column->text,.type = type};
	ErrorData  *error;

	if (type == column->type)
		convert(&conversion);
	else
	{
		error = cqrs_attempt(convert, &conversion, true);
		if (error != NULL && ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
			ReThrowError(error);
		if (error != NULL)
			return false;
	}
	*value = conversion.value;
	return true;
}

/*
 * compare_column prepares to compare one column; false if no image of the shape can match.
 */
static bool
compare_column(const CqrsRowMatch *match, const KeyColumn *column, const CqrsShape *shape, Comparison *comparison)
{
	Form_pg_attribute att;
	TypeCacheEntry *type;

	comparison->index = index_in(match, column, shape);
	att = TupleDescAttr(shape->desc, comparison->index);
	type = lookup_type_cache(getBaseType(att->atttypid), TYPECACHE_EQ_OPR_FINFO);
	if (!OidIsValid(type->eq_opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("column \"%s\" of \"%s\" cannot be compared", column->name, cqrs_name_shown(match->relation)),
				 errdetail("Type %s has no equality.", format_type_be(att->atttypid)),
				 errhint("Name other columns, such as the primary key.")));
	fmgr_info_copy(&comparison->equal, &type->eq_opr_finfo, match->memory);
	comparison->collation = att->attcollation;
	return value_in(column, att->atttypid, &comparison->value);
}

/*
 * match_shape returns how to compare with images of a shape.
 */
static const ShapeMatch *
match_shape(CqrsRowMatch *match, int32 id)
{
	const CqrsShape *shape = cqrs_outbox_shape(id);
	MemoryContext caller;
	ShapeMatch *found;
	ListCell   *cell;

	foreach(cell, match->shapes)
		if (((ShapeMatch *) lfirst(cell))->shape == id)
			return lfirst(cell);
	caller = MemoryContextSwitchTo(match->memory);
	found = palloc0(sizeof(ShapeMatch));
	found->shape = id;
	found->possible = true;
	found->comparisons = palloc0(sizeof(Comparison) * match->ncolumns);
	for (int i = 0; i < match->ncolumns; i++)
		found->possible &= compare_column(match, &match->columns[i], shape, &found->comparisons[i]);
	match->shapes = lcons(found, match->shapes);
	MemoryContextSwitchTo(caller);
	return found;
}

/*
 * match_image tells whether an image is of such a row.
 */
static bool
match_image(const CqrsRowMatch *match, const ShapeMatch *how, HeapTuple image, TupleDesc desc)
{
	if (image == NULL)
		return false;
	for (int i = 0; i < match->ncolumns; i++)
	{
		Comparison *comparison = &how->comparisons[i];
		bool		isnull;
		Datum		value = heap_getattr(image, comparison->index + 1, desc, &isnull);

		if (isnull || !DatumGetBool(FunctionCall2Coll(&comparison->equal, comparison->collation, value, comparison->value)))
			return false;
	}
	return true;
}

/*
 * cqrs_match_row tells whether a change is one of such a row: either image counts, so a row that got another key is found by both.
 *
 * Errors: 55000 if a column of the key is not in its images, 42883 if one cannot be compared.
 */
bool
cqrs_match_row(const CqrsChange *change, void *argument)
{
	CqrsRowMatch *match = argument;
	const ShapeMatch *how;
	TupleDesc	desc;

	if (change->old_tuple == NULL && change->new_tuple == NULL)
		return false;
	how = match_shape(match, change->shape);
	desc = cqrs_outbox_shape(change->shape)->desc;
	return how->possible &&
		(match_image(match, how, change->old_tuple, desc) || match_image(match, how, change->new_tuple, desc));
}
