/*
 * plan/sample.c
 *		Statements that pick some keys of a version, and read what its table holds for them.
 *
 * Keys are picked by a hash of what they look like, so that a key that both the table and the definition hold is picked from both, or from neither.  Equal
 * keys that look different may be picked from one side alone, which is good enough: rows are then read by the keys' equality.  The planner takes the
 * condition on the key, as far as it can, below joins and grouping, and leaves out what the key does not need.
 *
 * Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/names.h"
#include "lib/stringinfo.h"
#include "plan/query.h"

/*
 * cqrs_plan_sample makes the statement that picks keys of the version's table or its definition: those whose hash with 'seed' is less than 'below'.
 */
char *
cqrs_plan_sample(const CqrsProgram *program, bool of_table, int64 seed, int64 below)
{
	StringInfoData sql;
	StringInfoData key;

	initStringInfo(&sql);
	initStringInfo(&key);
	for (int i = 0; i < program->nkeys; i++)
		appendStringInfo(&key, "%sq.%s", i ? ", " : "", cqrs_match_column(program, program->key[i]));
	appendStringInfo(&sql, "SELECT %s FROM %s AS q WHERE pg_catalog.hashtextextended(ROW(%s)::pg_catalog.text COLLATE pg_catalog.\"C\", ",
					 key.data, cqrs_name_relation(of_table ? program->table : program->definition), key.data);
	appendStringInfo(&sql, "(" INT64_FORMAT ")::pg_catalog.int8) OPERATOR(pg_catalog.<) (" INT64_FORMAT ")::pg_catalog.int8", seed,
					 below);
	return sql.data;
}

/*
 * cqrs_plan_found makes the statement that reads the table's rows for the affected keys of one null pattern.
 */
char *
cqrs_plan_found(const CqrsProgram *program, uint32 nulls)
{
	return cqrs_match_chosen(program, cqrs_name_relation(program->table), nulls);
}
