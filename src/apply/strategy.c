/*
 * apply/strategy.c
 *		The strategies at run time: affected keys, compute, merge; or a full evaluation and its differences.
 *
 * Keys of a definition of more than one level can be recomputed all at once or one by one, or it can be evaluated as a whole; the planner's estimates decide.
 *
 * Keys are handled by null pattern (a bit for each key column that is null), since equality does not find nulls: all rows of one pattern go through
 * statements made for it.  Almost always there is one pattern, without nulls.
 *
 * Runs inside a nesting of SPI, under the owner's identity and the batch's snapshot.  Compute and merge are two statements: rows
 * reach SQL through the named relations of base/spi.h only.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/parts.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* What costs less than this, in the planner's units, is not held against a full evaluation: there is nothing to be gained. */
#define CHEAP_COST 10000.0

/* What a computed row costs when it is held against the table, changed or not. */
#define MERGE_ROW_COST 0.25

/* The planner charges each look-up as if no other had been made before and nothing were in memory; but what is looked at was just written. */
#define ONE_BY_ONE_DISCOUNT 0.2

/* Rows split by null pattern. */
typedef struct Pattern
{
	uint32		nulls;
	Tuplestorestate *rows;
	int64		nrows;
	CqrsStatementKind compute;	/* by which statement they are recomputed */
} Pattern;

/*
 * new_store makes a tuplestore for one batch.
 */
static Tuplestorestate *
new_store(void)
{
	return tuplestore_begin_heap(false, false, work_mem);
}

/*
 * pattern_of finds or makes the pattern in the list.
 */
static Pattern *
pattern_of(List **patterns, uint32 nulls)
{
	ListCell   *cell;
	Pattern    *pattern;

	foreach(cell, *patterns)
	{
		pattern = lfirst(cell);
		if (pattern->nulls == nulls)
			return pattern;
	}
	pattern = palloc(sizeof(Pattern));
	pattern->nulls = nulls;
	pattern->rows = new_store();
	pattern->nrows = 0;
	pattern->compute = CQRS_STATEMENT_COMPUTE;
	*patterns = lappend(*patterns, pattern);
	return pattern;
}

/*
 * nulls_of returns the null pattern of a row whose key columns are 'key' (NULL: its first ones).
 */
static uint32
nulls_of(TupleTableSlot *slot, const AttrNumber *key, int nkeys)
{
	uint32		nulls = 0;

	for (int i = 0; i < nkeys; i++)
		if (slot_attisnull(slot, key ? key[i] : i + 1))
			nulls |= 1u << i;
	return nulls;
}

/*
 * split puts a store's rows into patterns; where the key cannot be null the store is the one pattern as it is.
 */
static List *
split(const CqrsProgram *program, Tuplestorestate *store, int64 nrows, TupleDesc desc, const AttrNumber *key)
{
	List	   *patterns = NIL;
	TupleTableSlot *slot;

	if (bms_is_empty(program->key_nullable))
	{
		Pattern    *whole = palloc(sizeof(Pattern));

		whole->nulls = 0;
		whole->rows = store;
		whole->nrows = nrows;
		whole->compute = CQRS_STATEMENT_COMPUTE;
		return list_make1(whole);
	}
	slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(store, true, false, slot))
	{
		Pattern    *pattern = pattern_of(&patterns, nulls_of(slot, key, program->nkeys));

		tuplestore_puttupleslot(pattern->rows, slot);
		pattern->nrows++;
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(store);
	return patterns;
}

/*
 * select_into runs the read-only statements of a key, one after the other, into a store; returns the rows.
 */
static int64
select_into(List *statements, Snapshot snapshot, Tuplestorestate *into)
{
	int64		nrows = 0;
	ListCell   *cell;

	foreach(cell, statements)
		nrows += cqrs_spi_select(lfirst(cell), snapshot, into);
	return nrows;
}

/*
 * raise_duplicate names a key that the definition yields twice, given its columns as text[].
 */
static void
raise_duplicate(const CqrsProgram *program, ArrayType *key)
{
	StringInfoData names;
	StringInfoData values;
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	deconstruct_array(key, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < program->nkeys; i++)
	{
		const char *separator = i ? ", " : "";

		appendStringInfo(&names, "%s%s", separator, NameStr(TupleDescAttr(program->row, program->key[i] - 1)->attname));
		appendStringInfo(&values, "%s%s", separator, nulls[i] ? "null" : TextDatumGetCString(elements[i]));
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("the key of projection \"%s\" is not unique", get_rel_name(program->table)),
			 program->nkeys == 0 ? errdetail("Its query yields more than one row, and the key '{}' promises one.") :
			 errdetail("Key (%s)=(%s) occurs more than once in its query.", names.data, values.data),
			 errhint("Mend the data, or define the projection with a key that tells its rows apart.")));
}

/*
 * check_duplicates makes sure the computed rows of a pattern have distinct keys, where the query does not prove it.
 */
static void
check_duplicates(CqrsProgramEntry *entry, const Pattern *computed, Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	Tuplestorestate *found;
	TupleTableSlot *slot;
	TupleDesc	desc;

	if (program->key_unique || computed->nrows < 2)
		return;
	found = new_store();
	if (select_into(cqrs_program_statements(entry, CQRS_STATEMENT_DUPLICATE, 0, computed->nulls, computed->nrows),
					snapshot, found) > 0)
	{
		desc = CreateTemplateTupleDesc(1);
		TupleDescInitEntry(desc, 1, "key", TEXTARRAYOID, -1, 0);
		slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
		(void) tuplestore_gettupleslot(found, true, false, slot);
		slot_getallattrs(slot);
		raise_duplicate(program, DatumGetArrayTypeP(slot->tts_values[0]));
	}
	tuplestore_end(found);
}

/*
 * write_all runs the writing statements of a key.
 */
static void
write_all(List *statements, Snapshot snapshot)
{
	ListCell   *cell;

	foreach(cell, statements)
		(void) cqrs_apply_write(lfirst(cell), snapshot);
}

/*
 * merge_pattern brings the table's rows of one null pattern in line with the computed ones.
 *
 * Vanished keys go first: a row that takes over a unique value must find it free.
 */
static void
merge_pattern(CqrsProgramEntry *entry, const Pattern *computed, CqrsStatementKind delete, double rows, Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);

	cqrs_spi_offer(CQRS_COMPUTED, program->row, computed->rows, computed->nrows);
	check_duplicates(entry, computed, snapshot);
	write_all(cqrs_program_statements(entry, delete, 0, computed->nulls, rows), snapshot);
	if (computed->nrows > 0)
		write_all(cqrs_program_statements(entry, CQRS_STATEMENT_MERGE, 0, computed->nulls, computed->nrows), snapshot);
	cqrs_spi_withdraw(CQRS_COMPUTED);
}

/*
 * recompute_pattern recomputes affected keys of one null pattern and merges what comes of them.
 */
static void
recompute_pattern(CqrsProgramEntry *entry, const Pattern *affected, Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	Pattern		computed = {.nulls = affected->nulls, .rows = new_store()};

	cqrs_spi_offer(CQRS_AFFECTED, program->affected, affected->rows, affected->nrows);
	computed.nrows = cqrs_culprit_compute(entry, affected->compute, affected->nulls, affected->rows, affected->nrows, snapshot,
										  computed.rows);
	merge_pattern(entry, &computed, CQRS_STATEMENT_DELETE, affected->nrows, snapshot);
	cqrs_spi_withdraw(CQRS_AFFECTED);
	tuplestore_end(computed.rows);
}

/*
 * add_table_patterns adds, without rows, the null patterns that occur in the table only: all their rows must go.
 */
static void
add_table_patterns(CqrsProgramEntry *entry, List **patterns, Snapshot snapshot)
{
	Tuplestorestate *found = new_store();
	TupleDesc	desc = CreateTemplateTupleDesc(1);
	TupleTableSlot *slot;

	TupleDescInitEntry(desc, 1, "nulls", INT8OID, -1, 0);
	(void) select_into(cqrs_program_statements(entry, CQRS_STATEMENT_PATTERNS, 0, 0, 0), snapshot, found);
	slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(found, true, false, slot))
	{
		bool		isnull;

		(void) pattern_of(patterns, DatumGetInt64(slot_getattr(slot, 1, &isnull)));
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
	Tuplestorestate *computed = new_store();
	int64		ncomputed = cqrs_culprit_evaluate(entry, snapshot, computed);
	List	   *patterns = split(program, computed, ncomputed, program->row, program->key);
	ListCell   *cell;

	cqrs_effort_strategy("full");
	if (!bms_is_empty(program->key_nullable))
		add_table_patterns(entry, &patterns, snapshot);
	foreach(cell, patterns)
	{
		Pattern    *pattern = lfirst(cell);

		merge_pattern(entry, pattern, CQRS_STATEMENT_DELETE_FULL, pattern->nrows, snapshot);
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
	Tuplestorestate *once = new_store();
	int64		nonce;

	cqrs_spi_offer(CQRS_AFFECTED, program->affected, *affected, naffected);
	nonce = select_into(cqrs_program_statements(entry, CQRS_STATEMENT_DISTINCT, 0, 0, naffected), snapshot, once);
	cqrs_spi_withdraw(CQRS_AFFECTED);
	tuplestore_end(*affected);
	*affected = once;
	return nonce;
}

/*
 * is_worth_it tells whether something of a cost is better done than a full evaluation.
 */
static bool
is_worth_it(CqrsProgramEntry *entry, double cost)
{
	CqrsEstimate full;

	if (cost < CHEAP_COST)
		return true;
	full = cqrs_program_estimate(entry, CQRS_STATEMENT_EVALUATE, 0, 0, 0);
	return cost < full.cost + MERGE_ROW_COST * full.rows;
}

/*
 * choose_statements decides how the keys of each null pattern are recomputed; false if a full evaluation is cheaper.
 */
static bool
choose_statements(CqrsProgramEntry *entry, List *patterns)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	double		cost = 0;
	ListCell   *cell;

	foreach(cell, patterns)
	{
		Pattern    *pattern = lfirst(cell);
		double		at_once;
		double		one_by_one;

		cqrs_spi_offer(CQRS_AFFECTED, program->affected, pattern->rows, pattern->nrows);
		at_once = cqrs_program_estimate(entry, CQRS_STATEMENT_COMPUTE, 0, pattern->nulls, pattern->nrows).cost;
		one_by_one = ONE_BY_ONE_DISCOUNT *
			cqrs_program_estimate(entry, CQRS_STATEMENT_COMPUTE_EACH, 0, pattern->nulls, pattern->nrows).cost;
		cqrs_spi_withdraw(CQRS_AFFECTED);
		pattern->compute = one_by_one < at_once ? CQRS_STATEMENT_COMPUTE_EACH : CQRS_STATEMENT_COMPUTE;
		cost += Min(one_by_one, at_once) + MERGE_ROW_COST * pattern->nrows;
	}
	return is_worth_it(entry, cost);
}

/*
 * offer_deltas makes the deltas of a window known to statements; returns which have old images, as a mask.
 */
static uint64
offer_deltas(const CqrsProgram *program, const CqrsWindow *window)
{
	uint64		changed = 0;

	for (int i = 0; i < window->nsources; i++)
	{
		cqrs_spi_offer(psprintf("%s%d", CQRS_DELTA_PREFIX, i), program->sources[i].delta, window->deltas[i].rows,
					   window->deltas[i].nrows);
		if (window->deltas[i].has_old && i < 64)
			changed |= UINT64CONST(1) << i;
	}
	return changed;
}

/*
 * find_affected has the statements of all changed sources find affected keys, each once where that matters; -1 if a full evaluation is cheaper, or they fail.
 *
 * They see rows as they were between two changes, and what some of these held may be what the query fails on: a full evaluation sees only what there is now.
 */
static int64
find_affected(CqrsProgramEntry *entry, const CqrsWindow *window, Tuplestorestate **affected, Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	uint64		changed = offer_deltas(program, window);
	int64		naffected = 0;
	double		cost = 0;
	bool		worth_it;

	for (int i = 0; i < window->nsources; i++)
		if (window->deltas[i].nrows > 0)
			cost += cqrs_program_estimate(entry, CQRS_STATEMENT_AFFECTED, i, changed, window->deltas[i].nrows).cost;
	worth_it = is_worth_it(entry, cost);
	*affected = new_store();
	for (int i = 0; worth_it && i < window->nsources; i++)
		if (window->deltas[i].nrows > 0)
			worth_it = cqrs_culprit_try(cqrs_program_statements(entry, CQRS_STATEMENT_AFFECTED, i, changed,
																window->deltas[i].nrows),
										snapshot, *affected, &naffected);
	for (int i = 0; i < window->nsources; i++)
		cqrs_spi_withdraw(psprintf("%s%d", CQRS_DELTA_PREFIX, i));
	if (!worth_it)
		return -1;
	if (program->nested && program->nkeys > 0 && naffected > 1)
		return each_once(entry, affected, naffected, snapshot);
	return naffected;
}

/*
 * cqrs_strategy_keys finds the keys that a window's deltas affect, and recomputes those only.
 *
 * The one row of a definition without a key is evaluated if anything affects it.
 */
bool
cqrs_strategy_keys(CqrsProgramEntry *entry, CqrsWindow *window, Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	Tuplestorestate *affected;
	int64		naffected = find_affected(entry, window, &affected, snapshot);
	List	   *patterns = NIL;
	bool		full = naffected < 0;
	ListCell   *cell;

	cqrs_effort_strategy("keys");
	cqrs_effort_keys(Max(naffected, 0));
	if (naffected > 0 && program->nkeys > 0)
	{
		patterns = split(program, affected, naffected, program->affected, NULL);
		full = program->nested && !choose_statements(entry, patterns);
	}
	else
		tuplestore_end(affected);
	if (full || (naffected > 0 && program->nkeys == 0))
		cqrs_strategy_full(entry, snapshot);
	foreach(cell, patterns)
	{
		Pattern    *pattern = lfirst(cell);

		if (!full)
			recompute_pattern(entry, pattern, snapshot);
		tuplestore_end(pattern->rows);
	}
	return full;
}

/*
 * patterns_of splits keys into patterns, with the cheaper way to recompute each.
 */
static List *
patterns_of(CqrsProgramEntry *entry, Tuplestorestate *keys, int64 nkeys)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	List	   *patterns = split(program, keys, nkeys, program->affected, NULL);

	if (program->nested)
		(void) choose_statements(entry, patterns);
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
		Pattern    *pattern = lfirst(cell);

		recompute_pattern(entry, pattern, snapshot);
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

	*keys = new_store();
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
		Pattern    *pattern = lfirst(cell);

		cqrs_spi_offer(CQRS_AFFECTED, program->affected, pattern->rows, pattern->nrows);
		sample->nexpected += select_into(cqrs_program_statements(entry, pattern->compute, 0, pattern->nulls, pattern->nrows),
										 snapshot, sample->expected);
		sample->nfound += cqrs_spi_select(cqrs_spi_prepare(cqrs_plan_found(program, pattern->nulls), 0, NULL, false),
										  snapshot, sample->found);
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
	const CqrsProgram *program = cqrs_program_of(entry);
	uint64		changed = offer_deltas(program, window);
	Tuplestorestate *affected = new_store();

	for (int i = 0; i < window->nsources; i++)
		if (window->deltas[i].nrows > 0)
			(void) select_into(cqrs_program_statements(entry, CQRS_STATEMENT_AFFECTED, i, changed, window->deltas[i].nrows),
							   snapshot, affected);
	for (int i = 0; i < window->nsources; i++)
		cqrs_spi_withdraw(psprintf("%s%d", CQRS_DELTA_PREFIX, i));
	return affected;
}
