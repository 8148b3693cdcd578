/*
 * apply/strategy.c
 *		The strategies at run time: what is cheapest for a window, by the planner's estimates; affected keys; or a full evaluation and its differences.
 *
 * A window of a definition that is followed by delta can be added up (delta_add.c), its keys can be recomputed, all at once or one by one, or the definition
 * can be evaluated as a whole.
 *
 * Runs inside a nesting of SPI, under the owner's identity and the batch's snapshot.  Compute and merge are two statements: rows
 * reach SQL through the named relations of base/spi.h only.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/parts.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "utils/float.h"
#include "utils/lsyscache.h"

/* What costs less than this, in the planner's units, is not held against a full evaluation: there is nothing to be gained. */
#define CHEAP_COST 10000.0

/* What it costs to read a change out of the outbox and do the least that can be done about it: look its key up, or only add it up. */
#define CHANGE_COST 0.3
#define ADDED_CHANGE_COST 0.15

/* What a computed row costs when it is held against the table, changed or not. */
#define MERGE_ROW_COST 0.25

/* What a changed group costs when it is looked up in the table, put together with it, and merged. */
#define ADD_ROW_COST 0.5

/* The planner charges each look-up as if no other had been made before and nothing were in memory; but what is looked at was just written. */
#define ONE_BY_ONE_DISCOUNT 0.2

/*
 * add_table_patterns adds, without rows, the null patterns that occur in the table only: all their rows must go.
 */
static void
add_table_patterns(CqrsProgramEntry *entry, List **patterns, Snapshot snapshot)
{
	Tuplestorestate *found = cqrs_pattern_store();
	TupleDesc	desc = CreateTemplateTupleDesc(1);
	TupleTableSlot *slot;

	TupleDescInitEntry(desc, 1, "nulls", INT8OID, -1, 0);
	(void) cqrs_pattern_select(cqrs_program_statements(entry, CQRS_STATEMENT_PATTERNS, 0, 0, 0), snapshot, found);
	slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(found, true, false, slot))
	{
		bool		isnull;

		(void) cqrs_pattern_of(patterns, DatumGetInt64(slot_getattr(slot, 1, &isnull)));
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(found);
}

/*
 * cqrs_strategy_full evaluates the definition and merges all differences.
 */
void
cqrs_strategy_full(CqrsProgramEntry *entry, Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	Tuplestorestate *computed = cqrs_pattern_store();
	int64		ncomputed = cqrs_culprit_evaluate(entry, snapshot, computed);
	List	   *patterns = cqrs_pattern_split(program, computed, ncomputed, program->stored, program->key);
	ListCell   *cell;

	cqrs_effort_strategy("full");
	if (!bms_is_empty(program->key_nullable))
		add_table_patterns(entry, &patterns, snapshot);
	foreach(cell, patterns)
	{
		CqrsPattern    *pattern = lfirst(cell);

		cqrs_pattern_merge(entry, pattern, CQRS_STATEMENT_DELETE_FULL, pattern->nrows, snapshot);
		tuplestore_end(pattern->rows);
	}
}

/*
 * each_once takes repetitions out of the affected keys, which statements for several sources may have found.
 */
static int64
each_once(CqrsProgramEntry *entry, Tuplestorestate **affected, int64 naffected, Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	Tuplestorestate *once = cqrs_pattern_store();
	int64		nonce;

	cqrs_spi_offer(CQRS_AFFECTED, program->affected, *affected, naffected);
	nonce = cqrs_pattern_select(cqrs_program_statements(entry, CQRS_STATEMENT_DISTINCT, 0, 0, naffected), snapshot, once);
	cqrs_spi_withdraw(CQRS_AFFECTED);
	tuplestore_end(*affected);
	*affected = once;
	return nonce;
}

/*
 * full_cost returns what a full evaluation costs.
 */
static double
full_cost(CqrsProgramEntry *entry)
{
	CqrsEstimate full = cqrs_program_estimate(entry, CQRS_STATEMENT_EVALUATE, 0, 0, 0);

	return full.cost + MERGE_ROW_COST * full.rows;
}

/*
 * cqrs_strategy_limit returns how many changes it can be cheaper to apply than a full evaluation, at most: more cost more to read.
 */
int64
cqrs_strategy_limit(CqrsProgramEntry *entry)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	double		cost = CHANGE_COST;

	for (int i = 0; i < program->nsources; i++)
		if (program->sources[i].strategy == CQRS_STRATEGY_DELTA)
			cost = ADDED_CHANGE_COST;
	return (int64) (full_cost(entry) / cost);
}

/*
 * is_worth_it tells whether something of a cost is better done than a full evaluation.
 */
static bool
is_worth_it(CqrsProgramEntry *entry, double cost)
{
	return cost < CHEAP_COST || cost < full_cost(entry);
}

/*
 * compute_cost returns what it costs to recompute so many keys of a pattern, of which the rows are offered, and by which statement that is.
 *
 * One by one is a way for definitions of more than one level only.
 */
static double
compute_cost(CqrsProgramEntry *entry, uint32 nulls, double nrows, CqrsStatementKind *compute)
{
	double		at_once = cqrs_program_estimate(entry, CQRS_STATEMENT_COMPUTE, 0, nulls, nrows).cost;
	double		one_by_one;

	*compute = CQRS_STATEMENT_COMPUTE;
	if (!cqrs_program_of(entry)->nested)
		return at_once + MERGE_ROW_COST * nrows;
	one_by_one = ONE_BY_ONE_DISCOUNT * cqrs_program_estimate(entry, CQRS_STATEMENT_COMPUTE_EACH, 0, nulls, nrows).cost;
	if (one_by_one < at_once)
		*compute = CQRS_STATEMENT_COMPUTE_EACH;
	return Min(one_by_one, at_once) + MERGE_ROW_COST * nrows;
}

/*
 * cqrs_strategy_choose decides how the keys of each null pattern are recomputed; false if a full evaluation is cheaper.
 */
bool
cqrs_strategy_choose(CqrsProgramEntry *entry, List *patterns)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	double		cost = 0;
	ListCell   *cell;

	foreach(cell, patterns)
	{
		CqrsPattern *pattern = lfirst(cell);

		if (pattern->nrows == 0)
			continue;
		cqrs_spi_offer(CQRS_AFFECTED, program->affected, pattern->rows, pattern->nrows);
		cost += compute_cost(entry, pattern->nulls, pattern->nrows, &pattern->compute);
		cqrs_spi_withdraw(CQRS_AFFECTED);
	}
	return is_worth_it(entry, cost);
}

/*
 * affected_estimate returns what the planner expects of finding the keys that changes of some sources affect.
 */
static CqrsEstimate
affected_estimate(const CqrsWork *work, CqrsStatementKind kind, uint64 sources)
{
	CqrsEstimate sum = {0};

	for (int i = 0; i < work->window->nsources; i++)
		if (work->window->deltas[i].nrows > 0 && (i >= 64 || sources & (UINT64CONST(1) << i)))
		{
			CqrsEstimate estimate = cqrs_program_estimate(work->entry, kind, i, work->old, work->window->deltas[i].nrows);

			sum.cost += estimate.cost;
			sum.rows += estimate.rows;
		}
	return sum;
}

/*
 * cqrs_strategy_find has the statements of some of the changed sources find affected keys, each once where that matters; -1 if a full evaluation is
 * cheaper, or they fail.
 *
 * They see rows as they were between two changes, and what some of these held may be what the query fails on: a full evaluation sees only what there is now.
 */
int64
cqrs_strategy_find(const CqrsWork *work, CqrsStatementKind kind, uint64 sources, Tuplestorestate **affected)
{
	const CqrsProgram *program = cqrs_program_of(work->entry);
	bool		worth_it = is_worth_it(work->entry, affected_estimate(work, kind, sources).cost);
	int64		naffected = 0;

	*affected = cqrs_pattern_store();
	for (int i = 0; worth_it && i < work->window->nsources; i++)
		if (work->window->deltas[i].nrows > 0 && (i >= 64 || sources & (UINT64CONST(1) << i)))
			worth_it = cqrs_culprit_try(cqrs_program_statements(work->entry, kind, i, work->old, work->window->deltas[i].nrows),
										work->snapshot, *affected, &naffected);
	if (!worth_it)
		return -1;
	if (program->nested && program->nkeys > 0 && naffected > 1)
		return each_once(work->entry, affected, naffected, work->snapshot);
	return naffected;
}

/*
 * has_keys tells whether affected keys can be found for all that has changed.
 */
static bool
has_keys(const CqrsWork *work)
{
	for (int i = 0; i < work->window->nsources; i++)
		if (work->window->deltas[i].nrows > 0 && !cqrs_program_of(work->entry)->sources[i].keys)
			return false;
	return true;
}

/*
 * recompute_cost returns what it costs, as far as that can be told before the keys are found.
 */
static double
recompute_cost(const CqrsWork *work)
{
	const CqrsProgram *program = cqrs_program_of(work->entry);
	CqrsEstimate found;
	CqrsStatementKind compute;
	Tuplestorestate *none;
	double		cost;

	if (!has_keys(work))
		return get_float8_infinity();
	found = affected_estimate(work, CQRS_STATEMENT_AFFECTED, ~UINT64CONST(0));
	if (program->nkeys == 0)
		return found.cost + full_cost(work->entry);
	none = cqrs_pattern_store();
	cqrs_spi_describe(cqrs_spi_offer(CQRS_AFFECTED, program->affected, none, Max(found.rows, 1)));
	cost = found.cost + compute_cost(work->entry, 0, Max(found.rows, 1), &compute);
	cqrs_spi_withdraw(CQRS_AFFECTED);
	tuplestore_end(none);
	return cost;
}

/*
 * recompute finds the keys that a window affects, and recomputes those only; returns whether it came to a full evaluation.
 *
 * The one row of a definition without a key is evaluated if anything affects it.  Where a change of one row can affect many others, keys are not even looked
 * for if recomputing as many as the planner expects is not worth it.
 */
static bool
recompute(const CqrsWork *work)
{
	const CqrsProgram *program = cqrs_program_of(work->entry);
	Tuplestorestate *affected;
	int64		naffected;
	List	   *patterns = NIL;
	bool		full;
	ListCell   *cell;

	if (program->spreads && !is_worth_it(work->entry, recompute_cost(work)))
	{
		cqrs_strategy_full(work->entry, work->snapshot);
		return true;
	}
	naffected = cqrs_strategy_find(work, CQRS_STATEMENT_AFFECTED, ~UINT64CONST(0), &affected);
	full = naffected < 0;
	cqrs_effort_strategy("keys");
	cqrs_effort_keys(Max(naffected, 0));
	if (naffected > 0 && program->nkeys > 0)
	{
		patterns = cqrs_pattern_split(program, affected, naffected, program->affected, NULL);
		full = !cqrs_strategy_choose(work->entry, patterns);
	}
	else
		tuplestore_end(affected);
	if (full || (naffected > 0 && program->nkeys == 0))
		cqrs_strategy_full(work->entry, work->snapshot);
	foreach(cell, patterns)
	{
		CqrsPattern *pattern = lfirst(cell);

		if (!full)
			cqrs_pattern_recompute(work->entry, pattern, work->snapshot);
		tuplestore_end(pattern->rows);
	}
	return full;
}

/*
 * find_added finds out which of the changed sources may be added up; none if they occur in the query too often for that.
 */
static void
find_added(CqrsWork *work)
{
	const CqrsProgram *program = cqrs_program_of(work->entry);
	Bitmapset  *added = NULL;

	for (int i = 0; i < program->nsources && i < 64; i++)
		if (work->window->deltas[i].nrows > 0 && program->sources[i].strategy == CQRS_STRATEGY_DELTA)
		{
			work->added |= UINT64CONST(1) << i;
			work->nadded += work->window->deltas[i].nrows;
			added = bms_add_member(added, i);
		}
	if (program->nsources > 64 || (added != NULL && cqrs_plan_occurrences(program, added) > CQRS_OCCURRENCES_LIMIT))
		work->added = 0;
}

/*
 * cheapest decides how a window is applied.
 */
static CqrsStrategy
cheapest(const CqrsWork *work)
{
	CqrsEstimate change;
	double		add;
	double		recomputed;
	double		full;

	if (work->added == 0)
		return CQRS_STRATEGY_KEYS;
	change = cqrs_program_estimate(work->entry, CQRS_STATEMENT_CHANGE, 0, work->added, work->nadded);
	add = change.cost + ADD_ROW_COST * change.rows +
		affected_estimate(work, CQRS_STATEMENT_AFFECTED_UNITED, ~work->added).cost;
	if (add < CHEAP_COST)
		return CQRS_STRATEGY_DELTA;
	recomputed = recompute_cost(work);
	full = full_cost(work->entry);
	if (add < recomputed && add < full)
		return CQRS_STRATEGY_DELTA;
	return recomputed < full ? CQRS_STRATEGY_KEYS : CQRS_STRATEGY_FULL;
}

/*
 * offer_deltas makes the deltas of a window known to statements, and notes which have old images.
 */
static void
offer_deltas(CqrsWork *work)
{
	const CqrsProgram *program = cqrs_program_of(work->entry);

	for (int i = 0; i < work->window->nsources; i++)
	{
		const CqrsDelta *delta = &work->window->deltas[i];

		cqrs_spi_describe(cqrs_spi_offer(psprintf("%s%d", CQRS_DELTA_PREFIX, i), program->sources[i].delta, delta->rows,
										 delta->nrows));
		if (delta->has_old && i < 64)
			work->old |= UINT64CONST(1) << i;
	}
}

/*
 * withdraw_deltas takes them back.
 */
static void
withdraw_deltas(const CqrsWindow *window)
{
	for (int i = 0; i < window->nsources; i++)
		cqrs_spi_withdraw(psprintf("%s%d", CQRS_DELTA_PREFIX, i));
}

/*
 * cqrs_strategy_apply applies a window in the cheapest way that is exact; returns whether that was a full evaluation.
 *
 * What changes add to groups cannot always be computed: rows that were there only within the window, or never together, are in it, and the query may fail on
 * them.  Affected keys are found without computing anything of such rows but what leads to the key.
 */
bool
cqrs_strategy_apply(CqrsProgramEntry *entry, CqrsWindow *window, Snapshot snapshot)
{
	CqrsWork	work = {.entry = entry, .window = window, .snapshot = snapshot};
	CqrsStrategy strategy;
	bool		full = false;

	offer_deltas(&work);
	find_added(&work);
	strategy = cheapest(&work);
	if (strategy == CQRS_STRATEGY_DELTA && !cqrs_delta_add(&work, &full))
		strategy = CQRS_STRATEGY_KEYS;
	if (strategy == CQRS_STRATEGY_KEYS && has_keys(&work))
		full = recompute(&work);
	else if (strategy != CQRS_STRATEGY_DELTA)
	{
		full = true;
		cqrs_strategy_full(entry, snapshot);
	}
	withdraw_deltas(window);
	return full;
}

/*
 * patterns_of splits keys into patterns, with the cheaper way to recompute each.
 */
static List *
patterns_of(CqrsProgramEntry *entry, Tuplestorestate *keys, int64 nkeys)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	List	   *patterns = cqrs_pattern_split(program, keys, nkeys, program->affected, NULL);

	if (program->nested)
		(void) cqrs_strategy_choose(entry, patterns);
	return patterns;
}

/*
 * cqrs_strategy_repair recomputes some keys, given with columns as program->affected, and merges what comes of them.  The store is used up.
 */
void
cqrs_strategy_repair(CqrsProgramEntry *entry, Tuplestorestate *keys, int64 nkeys, Snapshot snapshot)
{
	ListCell   *cell;

	if (cqrs_program_of(entry)->nkeys == 0)
	{
		tuplestore_end(keys);
		cqrs_strategy_full(entry, snapshot);
		return;
	}
	nkeys = each_once(entry, &keys, nkeys, snapshot);
	foreach(cell, patterns_of(entry, keys, nkeys))
	{
		CqrsPattern    *pattern = lfirst(cell);

		cqrs_pattern_recompute(entry, pattern, snapshot);
		tuplestore_end(pattern->rows);
	}
}

/*
 * sample_keys picks keys of the table and of the definition, each once; returns how many.
 */
static int64
sample_keys(CqrsProgramEntry *entry, const CqrsSample *sample, Tuplestorestate **keys, Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	int64		nkeys = 0;

	*keys = cqrs_pattern_store();
	for (int of_table = 0; of_table <= 1; of_table++)
	{
		char	   *text = cqrs_plan_sample(program, of_table, sample->seed, sample->below);

		nkeys += cqrs_spi_select(cqrs_spi_prepare(text, 0, NULL, false), snapshot, *keys);
	}
	return each_once(entry, keys, nkeys, snapshot);
}

/*
 * check_types raises unless the table's columns still have the definition's types: its rows are to be read as rows of the definition.
 */
static void
check_types(const CqrsProgram *program)
{
	for (int i = 0; i < program->row->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(program->row, i);
		AttrNumber	attnum = get_attnum(program->table, NameStr(column->attname));

		if (attnum == InvalidAttrNumber || get_atttype(program->table, attnum) != column->atttypid)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of \"%s\" is not what the projection made it", NameStr(column->attname),
							get_rel_name(program->table))));
	}
}

/*
 * select_shown runs read-only statements whose rows are as the table holds them, and takes those that are the query's into a store; returns how many.
 */
static int64
select_shown(const CqrsProgram *program, List *statements, Snapshot snapshot, Tuplestorestate *into)
{
	int			last = program->stored->natts;
	Tuplestorestate *all;
	TupleTableSlot *slot;
	int64		nshown = 0;

	if (last == program->row->natts || strcmp(NameStr(TupleDescAttr(program->stored, last - 1)->attname), CQRS_SHOWN) != 0)
		return cqrs_pattern_select(statements, snapshot, into);
	all = cqrs_pattern_store();
	(void) cqrs_pattern_select(statements, snapshot, all);
	slot = MakeSingleTupleTableSlot(program->stored, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(all, true, false, slot))
	{
		bool		isnull;

		if (!DatumGetBool(slot_getattr(slot, last, &isnull)) || isnull)
			continue;
		tuplestore_puttupleslot(into, slot);
		nshown++;
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(all);
	return nshown;
}

/*
 * cqrs_strategy_sample picks keys, and puts what the definition yields for them and what the table holds into the sample's stores.
 */
void
cqrs_strategy_sample(CqrsProgramEntry *entry, CqrsSample *sample, Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	Tuplestorestate *keys;
	ListCell   *cell;

	check_types(program);
	sample->keys = sample_keys(entry, sample, &keys, snapshot);
	foreach(cell, patterns_of(entry, keys, sample->keys))
	{
		CqrsPattern *pattern = lfirst(cell);
		CqrsStatement *found;

		cqrs_spi_offer(CQRS_AFFECTED, program->affected, pattern->rows, pattern->nrows);
		sample->nexpected += select_shown(program, cqrs_program_statements(entry, pattern->compute, 0, pattern->nulls,
																		   pattern->nrows),
										  snapshot, sample->expected);
		found = cqrs_spi_prepare(cqrs_plan_found(program, pattern->nulls), 0, NULL, false);
		sample->nfound += select_shown(program, list_make1(found), snapshot, sample->found);
		cqrs_spi_withdraw(CQRS_AFFECTED);
		tuplestore_end(pattern->rows);
	}
}

/*
 * cqrs_strategy_affected finds the keys that a window's deltas affect, and does nothing about them.
 */
Tuplestorestate *
cqrs_strategy_affected(CqrsProgramEntry *entry, const CqrsWindow *window, Snapshot snapshot)
{
	CqrsWork	work = {.entry = entry, .window = window, .snapshot = snapshot};
	Tuplestorestate *affected = cqrs_pattern_store();

	offer_deltas(&work);
	for (int i = 0; i < window->nsources; i++)
		if (window->deltas[i].nrows > 0)
			(void) cqrs_pattern_select(cqrs_program_statements(entry, CQRS_STATEMENT_AFFECTED, i, work.old,
															   window->deltas[i].nrows),
									   snapshot, affected);
	withdraw_deltas(window);
	return affected;
}
