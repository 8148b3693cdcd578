/*
 * base/arguments.c
 *		Arguments of SQL functions, checked.
 *
 * Leaves what they mean to the functions.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "base/arguments.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#define MAX_KEY 1000			/* bytes of a type or an id: two of them fit into an entry of the index on aggregates */

/*
 * cqrs_arguments_refuse_null raises for an argument that must not be null.
 */
void
cqrs_arguments_refuse_null(const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("argument \"%s\" must not be null", argument)));
}

/*
 * cqrs_arguments_text returns a text that says something.
 */
text *
cqrs_arguments_text(FunctionCallInfo fcinfo, int number, const char *argument)
{
	text	   *value;

	if (PG_ARGISNULL(number))
		cqrs_arguments_refuse_null(argument);
	value = PG_GETARG_TEXT_PP(number);
	if (VARSIZE_ANY_EXHDR(value) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must not be empty", argument)));
	return value;
}

/*
 * cqrs_arguments_reason returns the text that says why something is done: one of nothing but blanks says nothing.
 */
char *
cqrs_arguments_reason(FunctionCallInfo fcinfo, int number)
{
	char	   *reason = text_to_cstring(cqrs_arguments_text(fcinfo, number, "reason"));

	if (strspn(reason, " \t\r\n\f\v") == strlen(reason))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must not be empty", "reason")));
	return reason;
}

/*
 * cqrs_arguments_key returns a text that two of fit into an index entry.
 */
text *
cqrs_arguments_key(FunctionCallInfo fcinfo, int number, const char *argument)
{
	text	   *key = cqrs_arguments_text(fcinfo, number, argument);

	if (VARSIZE_ANY_EXHDR(key) > MAX_KEY)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("argument \"%s\" is too long", argument),
				 errdetail("It has %zu bytes; there is room for %d.", (Size) VARSIZE_ANY_EXHDR(key), MAX_KEY)));
	return key;
}

/*
 * cqrs_arguments_object returns a JSON object.
 */
Jsonb *
cqrs_arguments_object(FunctionCallInfo fcinfo, int number, const char *argument)
{
	Jsonb	   *value;

	if (PG_ARGISNULL(number))
		cqrs_arguments_refuse_null(argument);
	value = PG_GETARG_JSONB_P(number);
	if (!JB_ROOT_IS_OBJECT(value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must be a JSON object", argument),
				 errdetail("It is %s.", JB_ROOT_IS_SCALAR(value) ? "a scalar" : "an array"),
				 errhint("Give each value a name: jsonb_build_object('name', ...).")));
	return value;
}

/*
 * elements takes a flat array apart.
 */
static Datum *
elements(ArrayType *array, const char *argument, int *count)
{
	Oid			type = ARR_ELEMTYPE(array);
	Datum	   *values;
	bool	   *nulls;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("argument \"%s\" must be a one-dimensional array", argument)));
	if (type == NAMEOID)
		deconstruct_array(array, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &values, &nulls, count);
	else
		deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, count);
	for (int i = 0; i < *count; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" must not contain nulls", argument)));
	return values;
}

/*
 * cqrs_arguments_names returns the elements of a name[].
 */
List *
cqrs_arguments_names(ArrayType *array, const char *argument)
{
	int			count;
	Datum	   *values = elements(array, argument, &count);
	List	   *names = NIL;

	for (int i = 0; i < count; i++)
		names = lappend(names, pstrdup(NameStr(*DatumGetName(values[i]))));
	return names;
}

/*
 * cqrs_arguments_texts returns the elements of a text[].
 */
List *
cqrs_arguments_texts(ArrayType *array, const char *argument)
{
	int			count;
	Datum	   *values = elements(array, argument, &count);
	List	   *texts = NIL;

	for (int i = 0; i < count; i++)
		texts = lappend(texts, TextDatumGetCString(values[i]));
	return texts;
}

/*
 * cqrs_arguments_array makes a text[] of strings.
 */
Datum
cqrs_arguments_array(List *strings)
{
	Datum	   *elements = palloc(sizeof(Datum) * (list_length(strings) + 1));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, strings)
		elements[count++] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * sign_of compares an interval with zero.
 */
static int
sign_of(const Interval *interval)
{
	static const Interval zero = {0};

	return DatumGetInt32(DirectFunctionCall2(interval_cmp, IntervalPGetDatum(interval), IntervalPGetDatum(&zero)));
}

/*
 * cqrs_arguments_positive copies an interval that must be more than zero.
 */
Interval *
cqrs_arguments_positive(const Interval *interval, const char *argument)
{
	Interval   *copy = palloc(sizeof(Interval));

	if (sign_of(interval) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must be more than zero", argument)));
	*copy = *interval;
	return copy;
}
