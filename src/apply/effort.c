/*
 * apply/effort.c
 *		What a batch or a fill does, counted while it is done: for its checkpoint, where cqrs.explain finds it.
 *
 * One version is worked on at a time.  Whoever begins and does not come to an end has raised an error; the next one begins anew.
 */
#include "postgres.h"

#include "apply/apply.h"
#include "apply/parts.h"
#include "portability/instr_time.h"

static CqrsEffort effort;
static instr_time began;

/*
 * cqrs_effort_begin starts the count for a version.
 */
void
cqrs_effort_begin(void)
{
	memset(&effort, 0, sizeof(effort));
	effort.keys = -1;
	INSTR_TIME_SET_CURRENT(began);
}

/*
 * cqrs_effort_strategy says how it is done; the last word counts, as a strategy may come to another one.
 */
void
cqrs_effort_strategy(const char *strategy)
{
	effort.strategy = strategy;
	effort.keys = -1;
}

/*
 * cqrs_effort_keys counts keys that are recomputed.
 */
void
cqrs_effort_keys(int64 keys)
{
	effort.keys = Max(effort.keys, 0) + keys;
}

/*
 * cqrs_effort_written counts rows of the version's table that were written.
 */
void
cqrs_effort_written(int64 rows)
{
	effort.written += rows;
}

/*
 * cqrs_effort_end returns what was done for so many changes.
 */
CqrsEffort
cqrs_effort_end(int64 changes)
{
	instr_time	took;

	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, began);
	effort.changes = changes;
	effort.microseconds = INSTR_TIME_GET_MICROSEC(took);
	return effort;
}
