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
 * cqrs_needs_compare compares what the registry says of a version with what its program asks for.
 *
 * Asked of what the definition reads: what the registry says of it may not have been restored yet.
 */
CqrsNeeds
cqrs_needs_compare(const CqrsVersion *version, const CqrsProgram *program)
{
	List	   *rows = cqrs_version_source_list(version->id);
	int			ncaptured = 0;
	bool		equal = true;
	bool		more = false;

	if (!cqrs_read_equals(version->id, program->projections))
		return CQRS_NEEDS_OTHERS;
	for (int i = 0; i < program->nsources; i++)
	{
		const CqrsProgramSource *source = &program->sources[i];
		const CqrsVersionSource *row = source->projection ? NULL : needs_of(rows, source->relation);

		if (source->projection != 0)
			continue;
		if (row == NULL)
			return CQRS_NEEDS_OTHERS;
		ncaptured++;
		more = more || !bms_is_subset(source->watched, row->watched) || !bms_is_subset(source->imaged, row->imaged);
		equal = equal && bms_equal(row->watched, source->watched) && bms_equal(row->imaged, source->imaged);
	}
	if (more)
		return CQRS_NEEDS_MORE;
	equal = equal && list_length(rows) == ncaptured;
	return equal ? CQRS_NEEDS_RECORDED : CQRS_NEEDS_LESS;
}

/*
 * cqrs_needs_record has the registry say what a version's program asks for.
 */
void
cqrs_needs_record(const CqrsVersion *version, const CqrsProgram *program)
{
	cqrs_version_source_delete(version->id);
	cqrs_read_set(version->id, program->projections);
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
