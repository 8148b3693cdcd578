/*
 * apply/culprit.c
 *		Queries that fail for some row: which key it is.
 *
 * What reads is run in a subtransaction.  If it fails as data can make it fail, the keys are bisected: half of them is computed again, in another one, and then
 * that half or the other is halved, until one is left.  An error that is there whatever is asked for tells nothing of a key, and then we say so.  The error is
 * raised as it was, with one more sentence in its detail.
 *
 * Runs as strategy.c does.  It ends in an error wherever more than one statement is run, so nothing is cleaned up.
 */
#include "postgres.h"

#include "apply/parts.h"
#include "base/attempt.h"
#include "base/names.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"

/* Recomputing keys one by one may cost so many times as much as a full evaluation for them to be searched. */
#define SEARCH_COST 20.0

/* Statements to try. */
typedef struct Trial
{
	List	   *statements;
	Snapshot	snapshot;
	Tuplestorestate *into;
	int64		nrows;
} Trial;

/* Keys of one null pattern, one of which makes the query fail. */
typedef struct Search
{
	CqrsProgramEntry *entry;
	Snapshot	snapshot;
	CqrsStatementKind kind;
	uint32		nulls;
	MinimalTuple *keys;
	int64		nkeys;
	bool		bears;			/* it was seen not to fail for some of them */
	TupleTableSlot *slot;
} Search;

/*
 * try_statements runs what is tried.
 */
static void
try_statements(void *argument)
{
	Trial	   *trial = argument;
	ListCell   *cell;

	foreach(cell, trial->statements)
		trial->nrows += cqrs_spi_select(lfirst(cell), trial->snapshot, trial->into);
}

/*
 * is_of_data tells whether an error may be due to what rows hold.
 */
static bool
is_of_data(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_CARDINALITY_VIOLATION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_SQL_ROUTINE_EXCEPTION:
		case ERRCODE_EXTERNAL_ROUTINE_EXCEPTION:
		case ERRCODE_PLPGSQL_ERROR:
			return true;
		default:
			return false;
	}
}

/*
 * raise_with raises an error again, with one more sentence in its detail.
 */
static void
raise_with(ErrorData *error, char *sentence)
{
	error->detail = error->detail ? psprintf("%s %s", error->detail, sentence) : sentence;
	ReThrowError(error);
}

/*
 * raise_for names a key and raises the error.
 */
static void
raise_for(const CqrsProgram *program, const Search *search, MinimalTuple key, ErrorData *error)
{
	StringInfoData names;
	StringInfoData values;

	initStringInfo(&names);
	initStringInfo(&values);
	ExecStoreMinimalTuple(key, search->slot, false);
	slot_getallattrs(search->slot);
	for (int i = 0; i < program->nkeys; i++)
	{
		const char *separator = i ? ", " : "";
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(TupleDescAttr(program->affected, i)->atttypid, &output, &varlena);
		appendStringInfo(&names, "%s%s", separator, NameStr(TupleDescAttr(program->row, program->key[i] - 1)->attname));
		appendStringInfo(&values, "%s%s", separator,
						 search->slot->tts_isnull[i] ? "null" : OidOutputFunctionCall(output, search->slot->tts_values[i]));
	}
	raise_with(error, psprintf("It is raised for key (%s)=(%s) of projection \"%s\".", names.data, values.data,
						  get_rel_name(program->table)));
}

/*
 * raise_untold raises an error of which it could not be told for which key it is raised.
 */
static void
raise_untold(const CqrsProgram *program, ErrorData *error)
{
	raise_with(error, psprintf("For which key of projection \"%s\" it is raised could not be told.", get_rel_name(program->table)));
}

/*
 * fails tells whether computing some of the keys fails.
 */
static bool
fails(Search *search, int64 from, int64 to)
{
	const CqrsProgram *program = cqrs_program_of(search->entry);
	Tuplestorestate *some = tuplestore_begin_heap(false, false, work_mem);
	Trial		trial = {.snapshot = search->snapshot,.into = tuplestore_begin_heap(false, false, work_mem)};
	ErrorData  *error;

	CHECK_FOR_INTERRUPTS();
	for (int64 i = from; i < to; i++)
	{
		ExecStoreMinimalTuple(search->keys[i], search->slot, false);
		tuplestore_puttupleslot(some, search->slot);
	}
	cqrs_spi_offer(CQRS_AFFECTED, program->affected, some, to - from);
	trial.statements = cqrs_program_statements(search->entry, search->kind, 0, search->nulls, to - from);
	error = cqrs_attempt(try_statements, &trial, false);
	cqrs_spi_withdraw(CQRS_AFFECTED);
	tuplestore_end(some);
	tuplestore_end(trial.into);
	if (error != NULL && !is_of_data(error))
		ReThrowError(error);
	search->bears = search->bears || error == NULL;
	return error != NULL;
}

/*
 * find_key bisects the keys; -1 if the error is there for others than the one that comes of it, too.
 */
static int64
find_key(Search *search)
{
	int64		from = 0;
	int64		to = search->nkeys;

	while (to - from > 1)
	{
		int64		middle = from + (to - from) / 2;

		if (fails(search, from, middle))
			to = middle;
		else
			from = middle;
	}
	if (!search->bears && search->nkeys > 1)
		(void) fails(search, search->nkeys - 1, search->nkeys);
	if (!search->bears && search->nkeys > 1)
		return -1;
	return search->nkeys == 1 || fails(search, from, to) ? from : -1;
}

/*
 * is_searchable tells whether computing the keys that are offered is worth its cost.
 */
static bool
is_searchable(Search *search)
{
	double		cost = cqrs_program_estimate(search->entry, search->kind, 0, search->nulls, search->nkeys).cost;

	return cost < SEARCH_COST * cqrs_program_estimate(search->entry, CQRS_STATEMENT_EVALUATE, 0, 0, 0).cost;
}

/*
 * take_keys takes the keys of the search's pattern out of a store that holds so many, of all patterns.
 */
static void
take_keys(Search *search, Tuplestorestate *keys, int64 nkeys)
{
	const CqrsProgram *program = cqrs_program_of(search->entry);

	search->slot = MakeSingleTupleTableSlot(program->affected, &TTSOpsMinimalTuple);
	search->keys = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(MinimalTuple) * Max(nkeys, 1));
	search->nkeys = 0;
	tuplestore_rescan(keys);
	while (tuplestore_gettupleslot(keys, true, false, search->slot))
	{
		uint32		nulls = 0;

		for (int i = 0; i < program->nkeys; i++)
			if (slot_attisnull(search->slot, i + 1))
				nulls |= 1u << i;
		if (nulls == search->nulls)
			search->keys[search->nkeys++] = ExecCopySlotMinimalTuple(search->slot);
	}
}

/*
 * search_keys raises the error for the key of one null pattern that makes the query fail; returns if it is none of them.
 */
static void
search_keys(Search *search, Tuplestorestate *keys, int64 nkeys, ErrorData *error)
{
	const CqrsProgram *program = cqrs_program_of(search->entry);
	bool		searchable;
	int64		key;

	search->kind = program->nested ? CQRS_STATEMENT_COMPUTE_EACH : CQRS_STATEMENT_COMPUTE;
	take_keys(search, keys, nkeys);
	if (search->nkeys == 0)
		return;
	cqrs_spi_offer(CQRS_AFFECTED, program->affected, keys, search->nkeys);
	searchable = is_searchable(search);
	cqrs_spi_withdraw(CQRS_AFFECTED);
	if (!searchable || (search->nkeys > 1 && !fails(search, 0, search->nkeys)))
		return;
	key = find_key(search);
	if (key >= 0)
		raise_for(program, search, search->keys[key], error);
}

/*
 * cqrs_culprit_try runs statements that read; false if they fail for what some row holds.
 */
bool
cqrs_culprit_try(List *statements, Snapshot snapshot, Tuplestorestate *into, int64 *nrows)
{
	Trial		trial = {.statements = statements,.snapshot = snapshot,.into = into};
	ErrorData  *error = cqrs_attempt(try_statements, &trial, true);

	if (error != NULL && !is_of_data(error))
		ReThrowError(error);
	*nrows += trial.nrows;
	return error == NULL;
}

/*
 * cqrs_culprit_compute runs the statement that recomputes the keys of one null pattern, which are offered; if it fails, the error names the key.
 */
int64
cqrs_culprit_compute(CqrsProgramEntry *entry, CqrsStatementKind kind, uint32 nulls, Tuplestorestate *keys, int64 nkeys,
					 Snapshot snapshot, Tuplestorestate *into)
{
	Trial		trial = {.snapshot = snapshot,.into = into};
	Search		search = {.entry = entry,.snapshot = snapshot,.nulls = nulls};
	ErrorData  *error;

	trial.statements = cqrs_program_statements(entry, kind, 0, nulls, nkeys);
	error = cqrs_attempt(try_statements, &trial, true);
	if (error == NULL)
		return trial.nrows;
	if (!is_of_data(error))
		ReThrowError(error);
	cqrs_spi_withdraw(CQRS_AFFECTED);
	search_keys(&search, keys, nkeys, error);
	raise_untold(cqrs_program_of(entry), error);
	return 0;
}

/*
 * raise_for_some raises an error of a full evaluation: all keys are candidates, if they can be had.
 */
static void
raise_for_some(CqrsProgramEntry *entry, Snapshot snapshot, ErrorData *error)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	Trial		trial = {.snapshot = snapshot,.into = tuplestore_begin_heap(false, false, work_mem)};

	if (!is_of_data(error))
		ReThrowError(error);
	if (program->nkeys == 0)
		raise_untold(program, error);
	trial.statements = list_make1(cqrs_spi_prepare(cqrs_plan_sample(program, false, 0, PG_INT64_MAX), 0, NULL, false));
	if (cqrs_attempt(try_statements, &trial, false) == NULL)
	{
		for (uint32 nulls = 0; nulls < (1u << program->nkeys); nulls++)
		{
			Search		search = {.entry = entry,.snapshot = snapshot,.nulls = nulls};

			if (nulls == 0 || !bms_is_empty(program->key_nullable))
				search_keys(&search, trial.into, trial.nrows, error);
		}
	}
	raise_untold(program, error);
}

/*
 * cqrs_culprit_evaluate evaluates the definition; if it fails, the error names the key where it can.
 */
int64
cqrs_culprit_evaluate(CqrsProgramEntry *entry, Snapshot snapshot, Tuplestorestate *into)
{
	Trial		trial = {.snapshot = snapshot,.into = into};
	ErrorData  *error;

	trial.statements = cqrs_program_statements(entry, CQRS_STATEMENT_EVALUATE, 0, 0, 0);
	error = cqrs_attempt(try_statements, &trial, true);
	if (error != NULL)
		raise_for_some(entry, snapshot, error);
	return trial.nrows;
}

/*
 * cqrs_apply_raise raises an error that came of evaluating a version's definition, with the key where it can be told.
 */
void
cqrs_apply_raise(const CqrsVersion *version, Snapshot snapshot, ErrorData *error)
{
	raise_for_some(cqrs_program_entry(version), snapshot, error);
}
