/*
 * plan/merge.c
 *		Bringing a version's table in line with computed rows: delete what vanished, update what differs, insert what is new.
 *
 * Statements are made for one null pattern of the key, because equality does not find nulls.  Rows that did not change in any byte are not written.
 * Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/names.h"
#include "lib/stringinfo.h"
#include "plan/query.h"

/*
 * append_not_computed writes the condition that no computed row has the key of row 'row'.
 */
static void
append_not_computed(StringInfo sql, const CqrsProgram *program, uint32 nulls, char row)
{
	appendStringInfo(sql, "NOT EXISTS (SELECT FROM %s AS c", CQRS_COMPUTED);
	cqrs_match_append_equal(sql, program, nulls, 'c', row, " WHERE ");
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
	separator = cqrs_match_append_pattern(&sql, program, nulls, 't', " WHERE ");
	appendStringInfoString(&sql, separator);
	if (full)
		append_not_computed(&sql, program, nulls, 't');
	else
	{
		appendStringInfo(&sql, "EXISTS (SELECT FROM %s AS a WHERE ", CQRS_AFFECTED);
		separator = cqrs_match_append_equal(&sql, program, nulls, 'a', 't', "");
		appendStringInfoString(&sql, separator);
		append_not_computed(&sql, program, nulls, 'a');
		appendStringInfoChar(&sql, ')');
	}
	return sql.data;
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
	separator = cqrs_match_append_equal(&sql, program, nulls, 'c', 't', "");
	separator = cqrs_match_append_pattern(&sql, program, nulls, 't', separator);
	if (*separator == '\0')
		appendStringInfoString(&sql, "true");

	appendStringInfoString(&sql, " WHEN MATCHED AND ROW(");
	cqrs_match_append_columns(&sql, program, "t.");
	appendStringInfoString(&sql, ")::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW(");
	cqrs_match_append_columns(&sql, program, "c.");
	appendStringInfoString(&sql, ")::pg_catalog.record THEN UPDATE SET ");
	for (int i = 0; i < program->stored->natts; i++)
		appendStringInfo(&sql, "%s%s = c.%s", i ? ", " : "", cqrs_match_column(program, i + 1), cqrs_match_column(program, i + 1));

	appendStringInfoString(&sql, " WHEN NOT MATCHED THEN INSERT (");
	cqrs_match_append_columns(&sql, program, "");
	appendStringInfoString(&sql, ") VALUES (");
	cqrs_match_append_columns(&sql, program, "c.");
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
		appendStringInfo(&sql, "%sc.%s::pg_catalog.text", i ? ", " : "", cqrs_match_column(program, program->key[i]));
	appendStringInfo(&sql, "]::pg_catalog.text[] FROM %s AS c", CQRS_COMPUTED);
	for (int i = 0; i < program->nkeys; i++)
		appendStringInfo(&sql, "%sc.%s", i ? ", " : " GROUP BY ", cqrs_match_column(program, program->key[i]));
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
						 cqrs_match_column(program, program->key[key]), cqrs_match_null_test(program, key, true),
						 INT64CONST(1) << key);
		separator = " OPERATOR(pg_catalog.|) ";
	}
	appendStringInfo(&sql, " FROM %s AS t", cqrs_name_relation(program->table));
	return sql.data;
}
