/*
 * plan/full.c
 *		Strategy full: evaluate the definition and merge the differences.
 *
 * It takes any query.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/names.h"
#include "lib/stringinfo.h"
#include "plan/query.h"
#include "utils/ruleutils.h"

/*
 * cqrs_full_derive makes every source full.
 */
void
cqrs_full_derive(CqrsProgram *program, const char *reason)
{
	program->reason = reason;
	for (int i = 0; i < program->nsources; i++)
	{
		program->sources[i].strategy = CQRS_STRATEGY_FULL;
		program->sources[i].reason = reason;
	}
}

/*
 * cqrs_plan_evaluate makes the statement that evaluates the whole definition.
 *
 * It goes through the view, so it is good for whatever the definition holds; where there are hidden columns it is the query with these.
 */
char *
cqrs_plan_evaluate(const CqrsProgram *program)
{
	StringInfoData sql;

	if (program->query->layout != NULL)
		return pg_get_querydef(copyObject(program->query->tree), false);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	cqrs_match_append_columns(&sql, program, "");
	appendStringInfo(&sql, " FROM %s", cqrs_name_relation(program->definition));
	return sql.data;
}
