/*
 * base/arguments.h
 *		Arguments of SQL functions, checked.
 */
#ifndef CQRS_BASE_ARGUMENTS_H
#define CQRS_BASE_ARGUMENTS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/jsonb.h"

extern void cqrs_arguments_refuse_null(const char *argument);

/* A text that is neither null nor empty; a jsonb object that is not null.  Counted from 0. */
extern text *cqrs_arguments_text(FunctionCallInfo fcinfo, int number, const char *argument);
extern text *cqrs_arguments_key(FunctionCallInfo fcinfo, int number, const char *argument); /* and short enough for an index */
extern char *cqrs_arguments_reason(FunctionCallInfo fcinfo, int number);	/* "reason": likewise, nor only blanks */
extern Jsonb *cqrs_arguments_object(FunctionCallInfo fcinfo, int number, const char *argument);

/* Elements of a name[] or text[] as List of char *; a null element or a second dimension is an error 22023. */
extern List *cqrs_arguments_names(ArrayType *array, const char *argument);
extern List *cqrs_arguments_texts(ArrayType *array, const char *argument);

/* The reverse: a text[] of strings (List of char *). */
extern Datum cqrs_arguments_array(List *strings);

/* A copy of an interval that must be more than zero. */
extern Interval *cqrs_arguments_positive(const Interval *interval, const char *argument);

#endif							/* CQRS_BASE_ARGUMENTS_H */
