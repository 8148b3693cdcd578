/*
 * plan/match.c
 *		Conditions between rows, written as text: of the version's table, the definition, computed rows and affected keys.
 *
 * Conditions are for one null pattern of the key, because equality does not find nulls.  Names and operators come out in a form that no search_path changes.
 * Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/names.h"
#include "lib/stringinfo.h"
#include "plan/query.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

/*
 * cqrs_match_column returns the quoted name of column 'attnum' of the table, and of the definition if it has it.
 */
const char *
cqrs_match_column(const CqrsProgram *program, AttrNumber attnum)
{
	return cqrs_name_identifier(NameStr(TupleDescAttr(program->stored, attnum - 1)->attname));
}

/*
 * equality returns the operator by which a key column's values are the same, in a form that no search_path changes.
 */
static char *
equality(const CqrsProgram *program, int key)
{
	return cqrs_name_operator(cqrs_key_equality(TupleDescAttr(program->affected, key)->atttypid));
}

/*
 * cqrs_match_null_test returns the test for null that is also true to a row type's nulls: a row of nulls is no null.
 */
const char *
cqrs_match_null_test(const CqrsProgram *program, int key, bool null)
{
	if (type_is_rowtype(TupleDescAttr(program->affected, key)->atttypid))
		return null ? "IS NOT DISTINCT FROM NULL" : "IS DISTINCT FROM NULL";
	return null ? "IS NULL" : "IS NOT NULL";
}

/*
 * cqrs_match_append_pattern writes the condition that a row of the table or the definition is of the null pattern; returns the separator for what follows.
 */
const char *
cqrs_match_append_pattern(StringInfo sql, const CqrsProgram *program, uint32 nulls, char row, const char *separator)
{
	for (int i = 0; i < program->nkeys; i++)
	{
		bool		null = (nulls >> i) & 1;

		if (!null && !bms_is_member(i, program->key_nullable))
			continue;
		appendStringInfo(sql, "%s%c.%s %s", separator, row, cqrs_match_column(program, program->key[i]),
						 cqrs_match_null_test(program, i, null));
		separator = " AND ";
	}
	return separator;
}

/*
 * key_column returns the name of key column 'key' in the row "t" of the table, "q" of the definition, "c" of the computed, "a" or "x" of the affected.
 */
static const char *
key_column(const CqrsProgram *program, int key, char row)
{
	if (row == 'a' || row == 'x')
		return NameStr(TupleDescAttr(program->affected, key)->attname);
	return cqrs_match_column(program, program->key[key]);
}

/*
 * cqrs_match_append_equal writes the condition that two rows, called as key_column does, have the same key in the columns that are not null.
 */
const char *
cqrs_match_append_equal(StringInfo sql, const CqrsProgram *program, uint32 nulls, char left, char right, const char *separator)
{
	for (int i = 0; i < program->nkeys; i++)
	{
		if ((nulls >> i) & 1)
			continue;
		appendStringInfo(sql, "%s%c.%s %s %c.%s", separator, left, key_column(program, i, left), equality(program, i),
						 right, key_column(program, i, right));
		separator = " AND ";
	}
	return separator;
}

/*
 * cqrs_match_definition returns what stands in FROM for the rows that the table is to hold: the definition, or where there are hidden columns its query.
 */
const char *
cqrs_match_definition(const CqrsProgram *program)
{
	if (program->query->layout == NULL)
		return cqrs_name_relation(program->definition);
	return psprintf("(%s)", pg_get_querydef(copyObject(program->query->tree), false));
}

/*
 * cqrs_match_append_columns writes all columns, each behind a prefix.
 */
void
cqrs_match_append_columns(StringInfo sql, const CqrsProgram *program, const char *prefix)
{
	for (int i = 0; i < program->stored->natts; i++)
		appendStringInfo(sql, "%s%s%s", i ? ", " : "", prefix, cqrs_match_column(program, i + 1));
}

/*
 * cqrs_match_chosen makes the statement that picks from 'relation' the rows of the affected keys of one null pattern.
 */
char *
cqrs_match_chosen(const CqrsProgram *program, const char *relation, uint32 nulls)
{
	StringInfoData sql;
	StringInfoData equal;
	const char *separator;

	initStringInfo(&sql);
	initStringInfo(&equal);
	appendStringInfoString(&sql, "SELECT ");
	cqrs_match_append_columns(&sql, program, "q.");
	appendStringInfo(&sql, " FROM %s AS q", relation);
	separator = cqrs_match_append_pattern(&sql, program, nulls, 'q', " WHERE ");
	(void) cqrs_match_append_equal(&equal, program, nulls, 'a', 'q', " WHERE ");
	if (equal.len > 0)
		appendStringInfo(&sql, "%sEXISTS (SELECT FROM %s AS a%s)", separator, CQRS_AFFECTED, equal.data);
	return sql.data;
}
