/*
 * plan/compute.c
 *		Strategy keys: the statements that recompute affected keys, all at once or one by one.
 *
 * All at once: the definition with the affected keys as a semi-join, below its grouping where that is possible, and the planner chooses, by the number of keys,
 * between looking them up and hashing.  The statement is then the definition's own tree, written out by the server's deparser.
 *
 * One by one: the key is a parameter of the definition, and equality carries it into subqueries, where no semi-join gets to.
 *
 * Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/names.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "optimizer/clauses.h"
#include "plan/query.h"
#include "rewrite/rewriteManip.h"
#include "utils/ruleutils.h"

/*
 * cqrs_compute_affected makes the range table entry of the affected keys; see delta_entry in affected.c.
 */
RangeTblEntry *
cqrs_compute_affected(const CqrsProgram *program)
{
	RangeTblEntry *entry = makeNode(RangeTblEntry);
	List	   *columns = NIL;

	for (int i = 0; i < program->nkeys; i++)
		columns = lappend(columns, makeString(pstrdup(NameStr(TupleDescAttr(program->affected, i)->attname))));
	entry->rtekind = RTE_CTE;
	entry->ctename = pstrdup(CQRS_AFFECTED);
	entry->eref = makeAlias(CQRS_AFFECTED, columns);
	entry->inFromCl = true;
	return entry;
}

/*
 * cqrs_compute_matches makes the condition that a key's column equals that of the affected key.
 */
Node *
cqrs_compute_matches(const CqrsProgram *program, int key, Index affected, Node *mine)
{
	Form_pg_attribute column = TupleDescAttr(program->affected, key);
	Var		   *theirs = makeVar(affected, key + 1, column->atttypid, column->atttypmod, column->attcollation, 0);

	return (Node *) make_opclause(cqrs_key_equality(column->atttypid), BOOLOID, false, (Expr *) theirs, (Expr *) mine,
								  InvalidOid, column->attcollation);
}

/*
 * matches makes the condition, one query level down, that a key's column of the definition equals that of the affected key.
 */
static Node *
matches(const CqrsProgram *program, int key)
{
	Node	   *mine = copyObject(list_nth(program->query->keys, key));

	IncrementVarSublevelsUp(mine, 1, 0);
	return cqrs_compute_matches(program, key, 1, mine);
}

/*
 * is_among makes the condition that the key, in the columns that are not null, is one of those affected.
 *
 * EXISTS rather than IN: it can name an operator for each column, and nothing in it can be mistaken for a column of the subquery.
 */
static Node *
is_among(const CqrsProgram *program, List *conditions)
{
	Query	   *query = cqrs_query_select();

	cqrs_query_add_entry(query, cqrs_compute_affected(program));
	return cqrs_query_exists(query, conditions);
}

/*
 * compute_filtered makes the statement from the definition's tree, which it modifies.
 */
static char *
compute_filtered(const CqrsProgram *program, Query *tree, uint32 nulls)
{
	List	   *equalities = NIL;

	for (int i = 0; i < program->nkeys; i++)
	{
		if ((nulls >> i) & 1)
			tree->jointree->quals = make_and_qual(tree->jointree->quals,
												  cqrs_query_null_test(copyObject(list_nth(program->query->keys, i)), IS_NULL));
		else
			equalities = lappend(equalities, matches(program, i));
	}
	if (equalities != NIL)
	{
		tree->jointree->quals = make_and_qual(tree->jointree->quals, is_among(program, equalities));
		tree->hasSubLinks = true;
	}
	return pg_get_querydef(tree, false);
}

/*
 * compute_from makes the statement from the definition's tree, which it modifies, or from what it evaluates to.
 */
static char *
compute_from(const CqrsProgram *program, Query *tree, uint32 nulls)
{
	if (program->query->filtered)
		return compute_filtered(program, tree, nulls);
	return cqrs_match_chosen(program, psprintf("(%s)", pg_get_querydef(tree, false)), nulls);
}

/*
 * cqrs_plan_compute makes the statement that recomputes affected keys of one null pattern, all at once.
 */
char *
cqrs_plan_compute(const CqrsProgram *program, uint32 nulls)
{
	List	   *trees = cqrs_narrow(program, nulls);
	StringInfoData sql;
	ListCell   *cell;

	if (trees == NIL && !program->query->filtered)
		return cqrs_match_chosen(program, cqrs_match_definition(program), nulls);
	if (trees == NIL)
		trees = list_make1(copyObject(program->query->tree));
	initStringInfo(&sql);
	foreach(cell, trees)
		appendStringInfo(&sql, list_length(trees) > 1 ? "%s(%s)" : "%s%s", sql.len ? " UNION ALL " : "",
						 compute_from(program, lfirst(cell), nulls));
	return sql.data;
}

/*
 * cqrs_plan_compute_each makes the statement that recomputes affected keys of one null pattern, one by one.
 *
 * OFFSET 0 keeps the planner from making a join of it.
 */
char *
cqrs_plan_compute_each(const CqrsProgram *program, uint32 nulls)
{
	StringInfoData sql;
	StringInfoData equal;
	const char *separator;

	initStringInfo(&equal);
	separator = cqrs_match_append_equal(&equal, program, nulls, 'q', 'a', " WHERE ");
	if (equal.len == 0)
		return cqrs_match_chosen(program, cqrs_match_definition(program), nulls);
	(void) cqrs_match_append_pattern(&equal, program, nulls, 'q', separator);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	cqrs_match_append_columns(&sql, program, "c.");
	appendStringInfo(&sql, " FROM %s AS a CROSS JOIN LATERAL (SELECT ", CQRS_AFFECTED);
	cqrs_match_append_columns(&sql, program, "q.");
	appendStringInfo(&sql, " FROM %s AS q%s OFFSET 0) AS c", cqrs_match_definition(program), equal.data);
	return sql.data;
}

/*
 * cqrs_plan_distinct makes the statement that takes repetitions out of the affected keys.
 */
char *
cqrs_plan_distinct(const CqrsProgram *program)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT DISTINCT ");
	for (int i = 0; i < program->nkeys; i++)
		appendStringInfo(&sql, "%sa.%s", i ? ", " : "", NameStr(TupleDescAttr(program->affected, i)->attname));
	appendStringInfo(&sql, " FROM %s AS a", CQRS_AFFECTED);
	return sql.data;
}
