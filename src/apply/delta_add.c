/*
 * apply/delta_add.c
 *		Strategy delta at run time: what a window adds to each group, put together with the table's rows.
 *
 * Changes of sources that are not followed by delta have their affected keys found, and these groups are recomputed; so are those that cannot be told from
 * what they were and what was added.  All else is a row of the table looked up, and written if it differs, however many rows its group is made of.
 *
 * Everything is read before anything is written.  Runs inside a nesting of SPI, under the owner's identity and the batch's snapshot.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/parts.h"
#include "executor/tuptable.h"

/* The groups of one null pattern that have changed. */
typedef struct Changed
{
	CqrsPattern written;		/* rows as the table is to hold them */
	CqrsPattern gone;			/* keys */
	CqrsPattern again;			/* keys to be recomputed */
} Changed;

/*
 * put_values puts some columns of a row into a store of a pattern.
 */
static void
put_values(CqrsPattern *pattern, TupleDesc desc, Datum *values, bool *nulls)
{
	tuplestore_putvalues(pattern->rows, desc, values, nulls);
	pattern->nrows++;
}

/*
 * put_key puts the key of a row into a store of a pattern.
 */
static void
put_key(CqrsPattern *pattern, const CqrsProgram *program, TupleTableSlot *slot)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(program->nkeys, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(program->nkeys, 1));

	for (int i = 0; i < program->nkeys; i++)
	{
		values[i] = slot->tts_values[program->key[i] - 1];
		nulls[i] = slot->tts_isnull[program->key[i] - 1];
	}
	put_values(pattern, program->affected, values, nulls);
	pfree(values);
	pfree(nulls);
}

/*
 * sort_out puts the rows of changed groups where their verdicts say.
 */
static void
sort_out(const CqrsProgram *program, Tuplestorestate *combined, Changed *changed)
{
	int			ncolumns = program->stored->natts;
	TupleDesc	desc = CreateTemplateTupleDesc(ncolumns + 1);
	TupleTableSlot *slot;

	for (int i = 1; i <= ncolumns; i++)
		TupleDescCopyEntry(desc, i, program->stored, i);
	TupleDescInitEntry(desc, ncolumns + 1, "verdict", INT4OID, -1, 0);
	slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(combined, true, false, slot))
	{
		slot_getallattrs(slot);
		switch ((CqrsVerdict) DatumGetInt32(slot->tts_values[ncolumns]))
		{
			case CQRS_VERDICT_WRITE:
				put_values(&changed->written, program->stored, slot->tts_values, slot->tts_isnull);
				break;
			case CQRS_VERDICT_GONE:
				put_key(&changed->gone, program, slot);
				break;
			case CQRS_VERDICT_RECOMPUTE:
				put_key(&changed->again, program, slot);
				break;
		}
	}
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * combine puts changes of groups of one null pattern together with the table's rows.
 */
static Changed *
combine(const CqrsWork *work, const CqrsPattern *changes, const CqrsPattern *affected)
{
	const CqrsProgram *program = cqrs_program_of(work->entry);
	Changed    *changed = palloc0(sizeof(Changed));
	Tuplestorestate *combined = cqrs_pattern_store();
	bool		except = affected != NULL && affected->nrows > 0;

	changed->written.rows = cqrs_pattern_store();
	changed->gone.rows = cqrs_pattern_store();
	changed->again.rows = cqrs_pattern_store();
	changed->written.nulls = changed->gone.nulls = changed->again.nulls = changes->nulls;
	if (except)
		cqrs_spi_offer(CQRS_AFFECTED, program->affected, affected->rows, affected->nrows);
	cqrs_spi_offer(CQRS_CHANGE, program->change, changes->rows, changes->nrows);
	(void) cqrs_pattern_select(cqrs_program_statements(work->entry, CQRS_STATEMENT_COMBINE, except, changes->nulls,
													   changes->nrows),
							   work->snapshot, combined);
	cqrs_spi_withdraw(CQRS_CHANGE);
	if (except)
		cqrs_spi_withdraw(CQRS_AFFECTED);
	sort_out(program, combined, changed);
	tuplestore_end(combined);
	return changed;
}

/*
 * find_pattern returns the pattern in a list, or NULL.
 */
static CqrsPattern *
find_pattern(List *patterns, uint32 nulls)
{
	ListCell   *cell;

	foreach(cell, patterns)
		if (((CqrsPattern *) lfirst(cell))->nulls == nulls)
			return lfirst(cell);
	return NULL;
}

/*
 * combine_all puts all changes together with the table's rows, as List of Changed *.  'affected' are groups to be recomputed in any case.
 */
static List *
combine_all(const CqrsWork *work, Tuplestorestate *changes, int64 nchanges, List *affected)
{
	const CqrsProgram *program = cqrs_program_of(work->entry);
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_pattern_split(program, changes, nchanges, program->change, NULL))
	{
		CqrsPattern *pattern = lfirst(cell);

		result = lappend(result, combine(work, pattern, find_pattern(affected, pattern->nulls)));
		tuplestore_end(pattern->rows);
	}
	return result;
}

/*
 * find_affected finds the groups that changes of the other sources affect, by patterns; false if a full evaluation is cheaper.
 */
static bool
find_affected(const CqrsWork *work, List **affected, int64 *naffected)
{
	const CqrsProgram *program = cqrs_program_of(work->entry);
	Tuplestorestate *found;

	*naffected = cqrs_strategy_find(work, CQRS_STATEMENT_AFFECTED_UNITED, ~work->added, &found);
	*affected = NIL;
	if (*naffected < 0)
		return false;
	if (program->nkeys > 0 && *naffected > 0)
		*affected = cqrs_pattern_split(program, found, *naffected, program->affected, NULL);
	else
		tuplestore_end(found);
	return true;
}

/*
 * write_groups writes the groups of one null pattern that have changed.
 */
static void
write_groups(const CqrsWork *work, Changed *changed)
{
	cqrs_spi_offer(CQRS_AFFECTED, cqrs_program_of(work->entry)->affected, changed->gone.rows, changed->gone.nrows);
	cqrs_pattern_merge(work->entry, &changed->written, CQRS_STATEMENT_DELETE, changed->gone.nrows, work->snapshot);
	cqrs_spi_withdraw(CQRS_AFFECTED);
	tuplestore_end(changed->gone.rows);
	tuplestore_end(changed->written.rows);
}

/*
 * settle writes all that has changed, and recomputes what has to be; returns whether that came to a full evaluation.
 */
static bool
settle(const CqrsWork *work, List *changed, List *recomputed, int64 nrecomputed)
{
	bool		keyed = cqrs_program_of(work->entry)->nkeys > 0;
	bool		full = nrecomputed > 0 && (!keyed || !cqrs_strategy_choose(work->entry, recomputed));
	ListCell   *cell;

	if (full)
	{
		cqrs_strategy_full(work->entry, work->snapshot);
		return keyed;
	}
	foreach(cell, changed)
		write_groups(work, lfirst(cell));
	foreach(cell, recomputed)
	{
		cqrs_pattern_recompute(work->entry, lfirst(cell), work->snapshot);
		tuplestore_end(((CqrsPattern *) lfirst(cell))->rows);
	}
	return false;
}

/*
 * cqrs_delta_add applies a window by adding what has changed.
 */
bool
cqrs_delta_add(const CqrsWork *work, bool *full)
{
	Tuplestorestate *changes = cqrs_pattern_store();
	int64		nchanges = 0;
	List	   *recomputed;
	int64		nrecomputed;
	List	   *changed;
	ListCell   *cell;

	*full = false;
	if (!cqrs_culprit_try(cqrs_program_statements(work->entry, CQRS_STATEMENT_CHANGE, 0, work->added, work->nadded),
						  work->snapshot, changes, &nchanges))
		return false;
	cqrs_effort_strategy("delta");
	if (!find_affected(work, &recomputed, &nrecomputed))
	{
		cqrs_strategy_full(work->entry, work->snapshot);
		*full = true;
		return true;
	}
	changed = combine_all(work, changes, nchanges, recomputed);
	foreach(cell, changed)
	{
		Changed    *one = lfirst(cell);

		nrecomputed += one->again.nrows;
		if (one->again.nrows > 0)
			recomputed = lappend(recomputed, &one->again);
	}
	if (nrecomputed > 0)
		cqrs_effort_keys(nrecomputed);
	*full = settle(work, changed, recomputed, nrecomputed);
	return true;
}
