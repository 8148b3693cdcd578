/*
 * plan/merge.c
 *		Bringing a version's table in line with computed rows: delete what vanished, update what differs, insert what is new.
 *
 * Statements are made for one null pattern of the key, because equality does not find nulls.  Rows that did not change in any byte are not written.
 * Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/names.h"
#include "catalog/pg_operator.h"
#include "lib/stringinfo.h"
#include "plan/query.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/*
 * column returns the quoted name of column 'attnum' of the definition, and of the table.
 */
static const char *
column(const CqrsProgram *program, AttrNumber attnum)
{
	return cqrs_name_identifier(NameStr(TupleDescAttr(program->row, attnum - 1)->attname));
}

/*
 * equality returns the operator by which a key column's values are the same, in a form that no search_path changes.
 */
static char *
equality(const CqrsProgram *program, int key)
{
	Oid			operator = cqrs_key_equality(TupleDescAttr(program->affected, key)->atttypid);
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)", cqrs_name_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

/*
 * null_test returns the test for null that is also true to a row type's nulls: a row of nulls is no null.
 */
static const char *
null_test(const CqrsProgram *program, int key, bool null)
{
	if (type_is_rowtype(TupleDescAttr(program->affected, key)->atttypid))
		return null ? "IS NOT DISTINCT FROM NULL" : "IS DISTINCT FROM NULL";
	return null ? "IS NULL" : "IS NOT NULL";
}

/*
 * append_pattern writes the condition that the table's row "t" is of the null pattern; returns the separator for what follows.
 */
static const char *
append_pattern(StringInfo sql, const CqrsProgram *program, uint32 nulls, const char *separator)
{
	for (int i = 0; i < program->nkeys; i++)
	{
		bool		null = (nulls >> i) & 1;

		if (!null && !bms_is_member(i, program->key_nullable))
			continue;
		appendStringInfo(sql, "%st.%s %s", separator, column(program, program->key[i]), null_test(program, i, null));
		separator = " AND ";
	}
	return separator;
}

/*
 * key_column returns the name of key column 'key' in the row "t" of the table, "c" of the computed or "a" of the affected ones.
 */
static const char *
key_column(const CqrsProgram *program, int key, char row)
{
	return row == 'a' ? NameStr(TupleDescAttr(program->affected, key)->attname) : column(program, program->key[key]);
}

/*
 * append_match writes the condition that two rows, called as key_column does, have the same key in the columns that are not null.
 */
static const char *
append_match(StringInfo sql, const CqrsProgram *program, uint32 nulls, char left, char right, const char *separator)
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
 * append_not_computed writes the condition that no computed row has the key of row 'row'.
 */
static void
append_not_computed(StringInfo sql, const CqrsProgram *program, uint32 nulls, char row)
{
	appendStringInfo(sql, "NOT EXISTS (SELECT FROM %s AS c", CQRS_COMPUTED);
	append_match(sql, program, nulls, 'c', row, " WHERE ");
	appendStringInfoChar(sql, ')');
}

/*
 * cqrs_plan_delete makes the statement that deletes rows of a pattern which were not computed.
 *
 * Affected keys are held against the computed ones first: the table is looked into only for those that vanished, as a rule few.
 */
char *
cqrs_plan_delete(const CqrsProgram *program, uint32 nulls, bool full)
{
	StringInfoData sql;
	const char *separator;

	initStringInfo(&sql);
	appendStringInfo(&sql, "DELETE FROM %s AS t", cqrs_name_relation(program->table));
	separator = append_pattern(&sql, program, nulls, " WHERE ");
	appendStringInfoString(&sql, separator);
	if (full)
		append_not_computed(&sql, program, nulls, 't');
	else
	{
		appendStringInfo(&sql, "EXISTS (SELECT FROM %s AS a WHERE ", CQRS_AFFECTED);
		separator = append_match(&sql, program, nulls, 'a', 't', "");
		appendStringInfoString(&sql, separator);
		append_not_computed(&sql, program, nulls, 'a');
		appendStringInfoChar(&sql, ')');
	}
	return sql.data;
}

/*
 * append_columns writes all columns, each behind a prefix.
 */
static void
append_columns(StringInfo sql, const CqrsProgram *program, const char *prefix)
{
	for (int i = 0; i < program->row->natts; i++)
		appendStringInfo(sql, "%s%s%s", i ? ", " : "", prefix, column(program, i + 1));
}

/*
 * cqrs_plan_merge makes the statement that writes computed rows of a pattern.
 *
 * All columns are written, the key's too: equal values can look different, as 1.0 and 1.00 do.  Rows are compared as records, byte by byte, because
 * not every type has an equality; ROW alone would be compared column by column.
 */
char *
cqrs_plan_merge(const CqrsProgram *program, uint32 nulls)
{
	StringInfoData sql;
	const char *separator;

	initStringInfo(&sql);
	appendStringInfo(&sql, "MERGE INTO %s AS t USING %s AS c ON ", cqrs_name_relation(program->table), CQRS_COMPUTED);
	separator = append_match(&sql, program, nulls, 'c', 't', "");
	separator = append_pattern(&sql, program, nulls, separator);
	if (*separator == '\0')
		appendStringInfoString(&sql, "true");

	appendStringInfoString(&sql, " WHEN MATCHED AND ROW(");
	append_columns(&sql, program, "t.");
	appendStringInfoString(&sql, ")::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW(");
	append_columns(&sql, program, "c.");
	appendStringInfoString(&sql, ")::pg_catalog.record THEN UPDATE SET ");
	for (int i = 0; i < program->row->natts; i++)
		appendStringInfo(&sql, "%s%s = c.%s", i ? ", " : "", column(program, i + 1), column(program, i + 1));

	appendStringInfoString(&sql, " WHEN NOT MATCHED THEN INSERT (");
	append_columns(&sql, program, "");
	appendStringInfoString(&sql, ") VALUES (");
	append_columns(&sql, program, "c.");
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/*
 * cqrs_plan_duplicate makes the statement that finds a key computed twice, always the same one.
 */
char *
cqrs_plan_duplicate(const CqrsProgram *program, uint32 nulls)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ARRAY[");
	for (int i = 0; i < program->nkeys; i++)
		appendStringInfo(&sql, "%sc.%s::pg_catalog.text", i ? ", " : "", column(program, program->key[i]));
	appendStringInfo(&sql, "]::pg_catalog.text[] FROM %s AS c", CQRS_COMPUTED);
	for (int i = 0; i < program->nkeys; i++)
		appendStringInfo(&sql, "%sc.%s", i ? ", " : " GROUP BY ", column(program, program->key[i]));
	appendStringInfoString(&sql, " HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 ORDER BY 1 LIMIT 1");
	return sql.data;
}

/*
 * cqrs_plan_patterns makes the statement that lists the null patterns in the table.
 */
char *
cqrs_plan_patterns(const CqrsProgram *program)
{
	StringInfoData sql;
	const char *separator = "";
	int			key = -1;

	initStringInfo(&sql);
	if (bms_is_empty(program->key_nullable))
	{
		appendStringInfo(&sql, "SELECT 0::pg_catalog.int8 WHERE EXISTS (SELECT FROM %s)",
						 cqrs_name_relation(program->table));
		return sql.data;
	}
	appendStringInfoString(&sql, "SELECT DISTINCT ");
	while ((key = bms_next_member(program->key_nullable, key)) >= 0)
	{
		appendStringInfo(&sql, "%sCASE WHEN t.%s %s THEN " INT64_FORMAT "::pg_catalog.int8 ELSE 0 END", separator,
						 column(program, program->key[key]), null_test(program, key, true), INT64CONST(1) << key);
		separator = " OPERATOR(pg_catalog.|) ";
	}
	appendStringInfo(&sql, " FROM %s AS t", cqrs_name_relation(program->table));
	return sql.data;
}
