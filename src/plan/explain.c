/*
 * plan/explain.c
 *		A program in words: strategies and reasons, key, sources, and every statement.
 *
 * Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include <ctype.h>

#include "base/names.h"
#include "lib/stringinfo.h"
#include "plan/query.h"
#include "registry/registry.h"
#include "utils/lsyscache.h"

/*
 * cqrs_plan_strategy_name names a strategy as people see it.
 */
const char *
cqrs_plan_strategy_name(CqrsStrategy strategy)
{
	switch (strategy)
	{
		case CQRS_STRATEGY_DELTA:
			return "delta";
		case CQRS_STRATEGY_KEYS:
			return "keys";
		default:
			return "full";
	}
}

/*
 * strategy_line says by which strategy, and why not a better one.
 */
static char *
strategy_line(const char *what, CqrsStrategy strategy, const char *reason)
{
	const char *name = cqrs_plan_strategy_name(strategy);

	return reason ? psprintf("%s: %s, because %s", what, name, reason) : psprintf("%s: %s", what, name);
}

/*
 * one_line writes a statement of the deparser's without its line breaks and indentation; what is quoted stays as it is.
 */
static char *
one_line(const char *sql)
{
	StringInfoData line;
	char		quote = '\0';

	initStringInfo(&line);
	for (; *sql != '\0'; sql++)
	{
		if (quote == '\0' && (*sql == '\'' || *sql == '"'))
			quote = *sql;
		else if (*sql == quote)
			quote = '\0';
		if (quote != '\0' || !isspace((unsigned char) *sql))
			appendStringInfoChar(&line, *sql);
		else if (line.len > 0 && line.data[line.len - 1] != ' ')
			appendStringInfoChar(&line, ' ');
	}
	return line.data;
}

/*
 * key_name returns the quoted name of a key column.
 */
static const char *
key_name(const CqrsProgram *program, int key)
{
	return cqrs_name_identifier(NameStr(TupleDescAttr(program->row, program->key[key] - 1)->attname));
}

/*
 * key_line says what the key is, and what the query proves of it.
 */
static char *
key_line(const CqrsProgram *program)
{
	StringInfoData line;
	int			key = -1;

	initStringInfo(&line);
	appendStringInfoString(&line, "key: (");
	for (int i = 0; i < program->nkeys; i++)
		appendStringInfo(&line, "%s%s", i ? ", " : "", key_name(program, i));
	appendStringInfo(&line, "), %s", program->key_unique ? "proved unique" : "looked through for duplicates in each batch");
	while ((key = bms_next_member(program->key_nullable, key)) >= 0)
		appendStringInfo(&line, ", %s can be null", key_name(program, key));
	return line.data;
}

/*
 * column_names lists columns of a source.
 */
static char *
column_names(const CqrsProgramSource *source, const Bitmapset *columns)
{
	StringInfoData names;
	int			column = -1;

	initStringInfo(&names);
	while ((column = bms_next_member(columns, column)) >= 0)
		appendStringInfo(&names, "%s%s", names.len ? ", " : "",
						 cqrs_name_identifier(get_attname(source->relation, column, false)));
	return names.data;
}

/*
 * cqrs_explain_source names a source as users know it: the table of a projection's version by the projection.
 */
const char *
cqrs_explain_source(const CqrsProgramSource *source)
{
	CqrsProjection *projection = source->projection ? cqrs_projection_get(source->projection, true) : NULL;

	return cqrs_name_shown(projection ? projection->view : source->relation);
}

/*
 * source_line says which columns of a source are read, and how it is followed.
 */
static char *
source_line(const CqrsProgramSource *source)
{
	char	   *what = psprintf("%s %s (%s)", source->projection ? "reads projection" : "source", cqrs_explain_source(source),
							column_names(source, source->watched));

	if (source->strategy == CQRS_STRATEGY_KEYS && source->obstacle != NULL)
		return psprintf("%s, not delta because %s", strategy_line(what, source->strategy, NULL), source->obstacle);
	return strategy_line(what, source->strategy, source->reason);
}

/*
 * images_line says what is captured of a source's changes besides the fact that a column has changed, which statements find in deltas.
 */
static char *
images_line(const CqrsProgramSource *source)
{
	return psprintf("images of %s: (%s)", cqrs_explain_source(source), column_names(source, source->imaged));
}

/*
 * affected_lines shows the statements that a change of one source asks for, and whose old images would multiply them.
 */
static List *
affected_lines(List *lines, const CqrsProgram *program, int source)
{
	const char *name = cqrs_explain_source(&program->sources[source]);
	ListCell   *cell;
	StringInfoData also;

	foreach(cell, cqrs_plan_affected(program, source, NULL))
		lines = lappend(lines, psprintf("affected by %s: %s", name, one_line(lfirst(cell))));

	initStringInfo(&also);
	for (int i = 0; i < program->nsources; i++)
	{
		List	   *more = cqrs_plan_affected(program, source, bms_make_singleton(i));

		if (list_length(more) > list_length(cqrs_plan_affected(program, source, NULL)))
			appendStringInfo(&also, "%s%s", also.len ? ", " : "", cqrs_explain_source(&program->sources[i]));
	}
	if (also.len)
		lines = lappend(lines, psprintf("affected by %s: the same with old images of %s, if there are any", name, also.data));
	return lines;
}

/*
 * change_lines shows what computes what changes of each source add to groups; with others beside it there are more of its kind.
 */
static List *
change_lines(List *lines, const CqrsProgram *program)
{
	for (int i = 0; i < program->nsources; i++)
	{
		Bitmapset  *source = bms_make_singleton(i);

		if (program->sources[i].strategy == CQRS_STRATEGY_DELTA &&
			cqrs_plan_occurrences(program, source) <= CQRS_OCCURRENCES_LIMIT)
			lines = lappend(lines, psprintf("added by %s: %s", cqrs_explain_source(&program->sources[i]),
											one_line(cqrs_plan_change(program, source))));
	}
	return lines;
}

/*
 * pattern_lines shows the statements for one null pattern.
 */
static List *
pattern_lines(List *lines, const CqrsProgram *program, uint32 nulls, const char *of)
{
	if (program->strategy == CQRS_STRATEGY_DELTA)
		lines = lappend(lines, psprintf("combine%s: %s", of, one_line(cqrs_plan_combine(program, nulls, false))));
	if (program->strategy != CQRS_STRATEGY_FULL && program->nkeys > 0)
	{
		lines = lappend(lines, psprintf("compute%s: %s", of, one_line(cqrs_plan_compute(program, nulls))));
		if (program->nested)
			lines = lappend(lines, psprintf("compute one by one%s: %s", of, cqrs_plan_compute_each(program, nulls)));
		lines = lappend(lines, psprintf("delete%s: %s", of, cqrs_plan_delete(program, nulls, false)));
	}
	else
		lines = lappend(lines, psprintf("delete%s: %s", of, cqrs_plan_delete(program, nulls, true)));
	return lappend(lines, psprintf("merge%s: %s", of, cqrs_plan_merge(program, nulls)));
}

/*
 * cqrs_plan_explain shows a program.
 *
 * Of null patterns it shows those of one column; others are made alike.
 */
List *
cqrs_plan_explain(const CqrsProgram *program)
{
	List	   *lines = NIL;
	int			key = -1;
	ListCell   *cell;

	lines = lappend(lines, strategy_line("strategy", program->strategy, program->reason));
	lines = lappend(lines, key_line(program));
	for (int i = 0; i < program->nsources; i++)
		lines = lappend(lines, source_line(&program->sources[i]));
	for (int i = 0; i < program->nsources; i++)
		if (program->strategy != CQRS_STRATEGY_FULL)
			lines = lappend(lines, images_line(&program->sources[i]));
	foreach(cell, cqrs_plan_advice(program))
	{
		const CqrsAdvice *advice = lfirst(cell);

		lines = lappend(lines, psprintf("an index would help %s: %s;", advice->purpose, advice->statement));
	}
	for (int i = 0; i < program->nsources; i++)
		lines = affected_lines(lines, program, i);
	lines = change_lines(lines, program);
	lines = lappend(lines, psprintf("evaluate: %s", one_line(cqrs_plan_evaluate(program))));
	lines = pattern_lines(lines, program, 0, "");
	while ((key = bms_next_member(program->key_nullable, key)) >= 0)
		lines = pattern_lines(lines, program, 1u << key, psprintf(" where %s is null", key_name(program, key)));
	if (!program->key_unique)
		lines = lappend(lines, psprintf("duplicate: %s", cqrs_plan_duplicate(program, 0)));
	return lines;
}
