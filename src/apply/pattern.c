/*
 * apply/pattern.c
 *		Rows by the null pattern of their key: split, recomputed, and merged into the version's table.
 *
 * Equality does not find nulls, so all rows of one pattern (a bit for each key column that is null) go through statements made for it.  Almost always
 * there is one pattern, without nulls.
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

/*
 * cqrs_pattern_store makes a tuplestore for one batch.
 */
Tuplestorestate *
cqrs_pattern_store(void)
{
	return tuplestore_begin_heap(false, false, work_mem);
}

/*
 * cqrs_pattern_of finds or makes the pattern in the list.
 */
CqrsPattern *
cqrs_pattern_of(List **patterns, uint32 nulls)
{
	ListCell   *cell;
	CqrsPattern    *pattern;

	foreach(cell, *patterns)
	{
		pattern = lfirst(cell);
		if (pattern->nulls == nulls)
			return pattern;
	}
	pattern = palloc(sizeof(CqrsPattern));
	pattern->nulls = nulls;
	pattern->rows = cqrs_pattern_store();
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
 * cqrs_pattern_split puts a store's rows into patterns; where the key cannot be null the store is the one pattern as it is.
 */
List *
cqrs_pattern_split(const CqrsProgram *program, Tuplestorestate *store, int64 nrows, TupleDesc desc, const AttrNumber *key)
{
	List	   *patterns = NIL;
	TupleTableSlot *slot;

	if (bms_is_empty(program->key_nullable))
	{
		CqrsPattern    *whole = palloc(sizeof(CqrsPattern));

		whole->nulls = 0;
		whole->rows = store;
		whole->nrows = nrows;
		whole->compute = CQRS_STATEMENT_COMPUTE;
		return list_make1(whole);
	}
	slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(store, true, false, slot))
	{
		CqrsPattern    *pattern = cqrs_pattern_of(&patterns, nulls_of(slot, key, program->nkeys));

		tuplestore_puttupleslot(pattern->rows, slot);
		pattern->nrows++;
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(store);
	return patterns;
}

/*
 * cqrs_pattern_select runs the read-only statements of a key, one after the other, into a store; returns the rows.
 */
int64
cqrs_pattern_select(List *statements, Snapshot snapshot, Tuplestorestate *into)
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
check_duplicates(CqrsProgramEntry *entry, const CqrsPattern *computed, Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	Tuplestorestate *found;
	TupleTableSlot *slot;
	TupleDesc	desc;

	if (program->key_unique || computed->nrows < 2)
		return;
	found = cqrs_pattern_store();
	if (cqrs_pattern_select(cqrs_program_statements(entry, CQRS_STATEMENT_DUPLICATE, 0, computed->nulls, computed->nrows),
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
 * cqrs_pattern_merge brings the table's rows of one null pattern in line with the computed ones.
 *
 * Vanished keys, if there can be any, go first: a row that takes over a unique value must find it free.
 */
void
cqrs_pattern_merge(CqrsProgramEntry *entry, const CqrsPattern *computed, CqrsStatementKind delete, double rows,
				   Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);

	cqrs_spi_offer(CQRS_COMPUTED, program->stored, computed->rows, computed->nrows);
	check_duplicates(entry, computed, snapshot);
	if (rows > 0 || delete == CQRS_STATEMENT_DELETE_FULL)
		write_all(cqrs_program_statements(entry, delete, 0, computed->nulls, rows), snapshot);
	if (computed->nrows > 0)
		write_all(cqrs_program_statements(entry, CQRS_STATEMENT_MERGE, 0, computed->nulls, computed->nrows), snapshot);
	cqrs_spi_withdraw(CQRS_COMPUTED);
}

/*
 * cqrs_pattern_recompute recomputes affected keys of one null pattern and merges what comes of them.
 */
void
cqrs_pattern_recompute(CqrsProgramEntry *entry, const CqrsPattern *affected, Snapshot snapshot)
{
	const CqrsProgram *program = cqrs_program_of(entry);
	CqrsPattern		computed = {.nulls = affected->nulls, .rows = cqrs_pattern_store()};

	cqrs_spi_offer(CQRS_AFFECTED, program->affected, affected->rows, affected->nrows);
	computed.nrows = cqrs_culprit_compute(entry, affected->compute, affected->nulls, affected->rows, affected->nrows, snapshot,
										  computed.rows);
	cqrs_pattern_merge(entry, &computed, CQRS_STATEMENT_DELETE, affected->nrows, snapshot);
	cqrs_spi_withdraw(CQRS_AFFECTED);
	tuplestore_end(computed.rows);
}
