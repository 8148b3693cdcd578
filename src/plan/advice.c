/*
 * plan/advice.c
 *		Which indexes on sources a read model lacks: to recompute its keys, and to find the keys that a change affects.
 *
 * Statements are planned as they would be for one key, or one changed row: that is what a batch costs at least, and it should not be a scan of a whole source.
 * Plans, and never executes.  Wants an active snapshot.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/attempt.h"
#include "base/names.h"
#include "lib/stringinfo.h"
#include "plan/query.h"
#include "registry/registry.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

/* A look-out for what a program lacks. */
typedef struct Lookout
{
	const CqrsProgram *program;
	bool		by_structure;
	bool		recompute;		/* only what recomputing a key lacks */
	List	   *advice;			/* of CqrsAdvice * */
} Lookout;

/*
 * source_of finds the source in whose tree a table is; the table itself if there is none.
 */
static Oid
source_of(const CqrsProgram *program, Oid table)
{
	for (int i = 0; i < program->nsources; i++)
		if (list_member_oid(cqrs_tree_members(program->sources[i].relation), table))
			return program->sources[i].relation;
	return table;
}

/*
 * compare_columns orders the columns of an index as they are in the table.
 */
static int
compare_columns(const ListCell *left, const ListCell *right)
{
	return ((CqrsLacking *) lfirst(left))->column - ((CqrsLacking *) lfirst(right))->column;
}

/*
 * statement_for writes the statement that makes an index.
 */
static char *
statement_for(Oid source, List *index)
{
	StringInfoData columns;
	ListCell   *cell;

	initStringInfo(&columns);
	list_sort(index, compare_columns);
	foreach(cell, index)
	{
		const CqrsLacking *column = lfirst(cell);
		List	   *context;

		appendStringInfoString(&columns, columns.len ? ", " : "");
		if (column->column != InvalidAttrNumber)
		{
			appendStringInfoString(&columns, cqrs_name_identifier(get_attname(column->table, column->column, false)));
			continue;
		}
		context = deparse_context_for(get_rel_name(column->table), column->table);
		appendStringInfo(&columns, "(%s)", deparse_expression(column->expression, context, false, false));
	}
	return psprintf("CREATE INDEX ON %s (%s)", cqrs_name_relation(source), columns.data);
}

/*
 * add_advice adds what is lacking for a purpose, each index once.
 */
static void
add_advice(Lookout *lookout, List *lacking, char *purpose)
{
	ListCell   *cell;
	ListCell   *known;

	foreach(cell, lacking)
	{
		List	   *index = lfirst(cell);
		CqrsAdvice *advice = palloc(sizeof(CqrsAdvice));

		advice->source = source_of(lookout->program, ((CqrsLacking *) linitial(index))->table);
		advice->purpose = purpose;
		advice->statement = statement_for(advice->source, index);
		foreach(known, lookout->advice)
			if (strcmp(((CqrsAdvice *) lfirst(known))->statement, advice->statement) == 0)
				break;
		if (known == NULL)
			lookout->advice = lappend(lookout->advice, advice);
	}
}

/*
 * look_at_source finds what statements for a change of one source lack.
 */
static void
look_at_source(Lookout *lookout, int source)
{
	const CqrsProgram *program = lookout->program;
	const char *name = cqrs_explain_source(&program->sources[source]);
	bool		added = program->sources[source].strategy == CQRS_STRATEGY_DELTA &&
		cqrs_plan_occurrences(program, bms_make_singleton(source)) <= CQRS_OCCURRENCES_LIMIT;
	List	   *statements = added ? list_make1(cqrs_plan_change(program, bms_make_singleton(source))) :
		cqrs_plan_affected(program, source, NULL);
	char	   *purpose = psprintf(added ? "to add up a change of %s" : "to find the keys that a change of %s affects", name);
	ListCell   *cell;

	foreach(cell, statements)
		add_advice(lookout, cqrs_suppose_lacking(program, list_make1(lfirst(cell)), lookout->by_structure), purpose);
}

/*
 * look finds what a program lacks.
 */
static void
look(void *argument)
{
	Lookout    *lookout = argument;
	const CqrsProgram *program = lookout->program;
	List	   *compute = NIL;

	if (program->nkeys > 0 && cqrs_delta_recomputes(program))
		compute = list_make1(cqrs_plan_compute(program, 0));
	if (compute != NIL && program->nested)
		compute = lappend(compute, cqrs_plan_compute_each(program, 0));
	if (compute != NIL)
		add_advice(lookout, cqrs_suppose_lacking(program, compute, lookout->by_structure), "to recompute a key");
	for (int i = 0; i < program->nsources && !lookout->recompute; i++)
		look_at_source(lookout, i);
}

/*
 * find looks in a subtransaction: a statement that cannot even be planned fails when it is run, and not here.
 */
static List *
find(const CqrsProgram *program, bool by_structure, bool recompute)
{
	Lookout		lookout = {.program = program, .by_structure = by_structure, .recompute = recompute};

	if (program->strategy == CQRS_STRATEGY_FULL)
		return NIL;
	if (cqrs_attempt(look, &lookout, false) != NULL)
		return NIL;
	return lookout.advice;
}

/*
 * cqrs_plan_advice finds the indexes that would help now, as large as tables are.
 */
List *
cqrs_plan_advice(const CqrsProgram *program)
{
	return find(program, false, false);
}

/*
 * cqrs_plan_notify tells who creates a projection which indexes recomputing a key will want once its sources are large.
 */
void
cqrs_plan_notify(const CqrsProgram *program)
{
	ListCell   *cell;

	foreach(cell, find(program, true, true))
	{
		const CqrsAdvice *advice = lfirst(cell);
		const CqrsVersion *version = cqrs_version_of_table(advice->source);

		if (version != NULL && version->state == CQRS_STATE_BUILDING)
			continue;			/* a projection that has no index yet will have one on its key at least */
		ereport(NOTICE,
				(errmsg("recomputing a key of projection \"%s\" scans the whole of \"%s\"", get_rel_name(program->table),
						cqrs_name_shown(version ? cqrs_projection_get(version->projection, false)->view : advice->source)),
				 errdetail("No index leads from the key to the rows that it is computed from."),
				 errhint("%s;", advice->statement)));
	}
}
