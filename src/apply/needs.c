/*
 * apply/needs.c
 *		What a version asks of capture, as the registry has it: kept equal to what its program, derived again after DDL, asks for.
 *
 * The registry's rows are what capture goes by.  A view that a definition reads may be replaced by one that reads other columns, and a restore may have given
 * columns other numbers.  Whoever calls holds the version's lock.
 */
#include "postgres.h"

#include "apply/parts.h"

/*
 * needs_of finds what the registry says a version asks of a relation, or NULL.
 */
static const CqrsVersionSource *
needs_of(List *rows, Oid relation)
{
	CqrsSource *source = cqrs_source_of_relation(relation);
	ListCell   *cell;

	foreach(cell, rows)
		if (source != NULL && ((CqrsVersionSource *) lfirst(cell))->source == source->id)
			return lfirst(cell);
	return NULL;
}

/*
 * cqrs_needs_recorded tells whether the registry says of a version what its program asks for.
 *
 * Asked of what the definition reads: what the registry says of it may not have been restored yet.
 */
bool
cqrs_needs_recorded(const CqrsVersion *version, const CqrsProgram *program)
{
	List	   *rows = cqrs_version_source_list(version->id);

	if (list_length(rows) != program->nsources)
		return false;
	for (int i = 0; i < program->nsources; i++)
	{
		const CqrsVersionSource *row = needs_of(rows, program->sources[i].relation);

		if (row == NULL || !bms_equal(row->watched, program->sources[i].watched) ||
			!bms_equal(row->imaged, program->sources[i].imaged))
			return false;
	}
	return true;
}

/*
 * cqrs_needs_record has the registry say what a version's program asks for.
 */
void
cqrs_needs_record(const CqrsVersion *version, const CqrsProgram *program)
{
	cqrs_version_source_delete(version->id);
	for (int i = 0; i < program->nsources; i++)
	{
		CqrsSource *source = cqrs_source_of_relation(program->sources[i].relation);
		CqrsVersionSource row = {.version = version->id};

		if (source == NULL)
			continue;
		row.source = source->id;
		row.watched = program->sources[i].watched;
		row.imaged = program->sources[i].imaged;
		cqrs_version_source_insert(&row);
	}
}
