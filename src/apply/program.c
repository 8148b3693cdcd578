/*
 * apply/program.c
 *		Programs of versions and their prepared statements, cached for the backend's life.
 *
 * A program is derived by plan/ from the definition's query tree; here it is kept until a relation it names, or the name of
 * anything, changes.  The invalidation callbacks only set flags; what is invalid is derived again at its next use, in a context
 * that replaces the old one only when it is whole.
 *
 * Wants an active snapshot, and the identity and settings of the version's owner: texts are made and parsed under the same search_path.
 */
#include "postgres.h"

#include "apply/parts.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

typedef struct Statement
{
	CqrsStatementKey key;
	double		rows;			/* that it was planned for */
	List	   *prepared;		/* of CqrsStatement * */
} Statement;

struct CqrsProgramEntry
{
	int32		version;		/* hash key */
	bool		valid;
	MemoryContext context;		/* of all below; NULL while there is nothing */
	CqrsProgram *program;
	List	   *statements;		/* of Statement * */
};

static HTAB *entries = NULL;
static bool changed_meanwhile;	/* any invalidation since a derivation began */

/*
 * names_relation tells whether a program depends on a relation.
 */
static bool
names_relation(const CqrsProgram *program, Oid relid)
{
	return relid == InvalidOid || relid == program->definition || relid == program->table ||
		list_member_oid(program->relations, relid);
}

/*
 * on_relation_change marks programs that name the relation.
 */
static void
on_relation_change(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS all;
	CqrsProgramEntry *entry;

	changed_meanwhile = true;
	hash_seq_init(&all, entries);
	while ((entry = hash_seq_search(&all)) != NULL)
		if (entry->context != NULL && names_relation(entry->program, relid))
			entry->valid = false;
}

/*
 * on_name_change marks all programs: a schema, function or operator that a text names may have got another name.
 */
static void
on_name_change(Datum arg, int cacheid, uint32 hashvalue)
{
	on_relation_change(arg, InvalidOid);
}

/*
 * init_entries makes the cache and registers the callbacks, once.
 */
static void
init_entries(void)
{
	HASHCTL		control = {.keysize = sizeof(int32), .entrysize = sizeof(CqrsProgramEntry), .hcxt = CacheMemoryContext};

	if (entries != NULL)
		return;
	entries = hash_create("cqrs programs", 32, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, on_name_change, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, on_name_change, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, on_name_change, (Datum) 0);
}

/*
 * discard frees what an entry holds.
 */
static void
discard(CqrsProgramEntry *entry)
{
	ListCell   *cell;
	ListCell   *inner;

	if (entry->context == NULL)
		return;
	foreach(cell, entry->statements)
	{
		foreach(inner, ((Statement *) lfirst(cell))->prepared)
			cqrs_spi_free(lfirst(inner));
	}
	MemoryContextDelete(entry->context);
	entry->context = NULL;
	entry->program = NULL;
	entry->statements = NIL;
	entry->valid = false;
}

/*
 * derive has plan/ make the program anew.
 */
static void
derive(CqrsProgramEntry *entry, const CqrsVersion *version)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cqrs program", ALLOCSET_DEFAULT_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	CqrsProgram *program;

	changed_meanwhile = false;
	program = cqrs_plan_derive(version->definition, version->table, version->key, version->nkeys);
	MemoryContextSwitchTo(before);

	MemoryContextSetParent(context, CacheMemoryContext);
	entry->context = context;
	entry->program = program;
	entry->statements = NIL;
	entry->valid = !changed_meanwhile;
}

/*
 * cqrs_program_entry returns the cache's entry of a version, with a program that is up to date.
 */
CqrsProgramEntry *
cqrs_program_entry(const CqrsVersion *version)
{
	CqrsProgramEntry *entry;
	bool		found;

	init_entries();
	AcceptInvalidationMessages();
	entry = hash_search(entries, &version->id, HASH_ENTER, &found);
	if (!found)
	{
		entry->valid = false;
		entry->context = NULL;
	}
	if (!entry->valid || entry->program->definition != version->definition || entry->program->table != version->table)
	{
		discard(entry);
		derive(entry, version);
	}
	return entry;
}

/*
 * cqrs_program_of returns an entry's program.
 */
const CqrsProgram *
cqrs_program_of(CqrsProgramEntry *entry)
{
	return entry->program;
}

/*
 * cqrs_apply_program returns a version's program, from the cache or derived again.
 */
const CqrsProgram *
cqrs_apply_program(const CqrsVersion *version)
{
	return cqrs_program_entry(version)->program;
}

/*
 * cqrs_program_forget drops a version's program and statements.
 */
void
cqrs_program_forget(int32 version)
{
	CqrsProgramEntry *entry = entries ? hash_search(entries, &version, HASH_FIND, NULL) : NULL;

	if (entry != NULL)
		entry->valid = false;
}

/*
 * sources_of returns the sources that a mask has bits for, and those that it has no place for.
 */
static Bitmapset *
sources_of(const CqrsProgram *program, uint64 mask)
{
	Bitmapset  *sources = NULL;

	for (int i = 0; i < program->nsources; i++)
		if (i >= 64 || (mask & (UINT64CONST(1) << i)))
			sources = bms_add_member(sources, i);
	return sources;
}

/*
 * texts_of asks plan/ for the statements of a key, as a List of char *.
 */
static List *
texts_of(const CqrsProgram *program, const CqrsStatementKey *key)
{
	switch (key->kind)
	{
		case CQRS_STATEMENT_AFFECTED:
			return cqrs_plan_affected(program, key->which, sources_of(program, key->mask));
		case CQRS_STATEMENT_AFFECTED_UNITED:
			return cqrs_plan_affected_united(program, key->which, sources_of(program, key->mask));
		case CQRS_STATEMENT_CHANGE:
			return list_make1(cqrs_plan_change(program, sources_of(program, key->mask)));
		case CQRS_STATEMENT_COMBINE:
			return list_make1(cqrs_plan_combine(program, key->mask, key->which != 0));
		case CQRS_STATEMENT_DISTINCT:
			return list_make1(cqrs_plan_distinct(program));
		case CQRS_STATEMENT_COMPUTE:
			return list_make1(cqrs_plan_compute(program, key->mask));
		case CQRS_STATEMENT_COMPUTE_EACH:
			return list_make1(cqrs_plan_compute_each(program, key->mask));
		case CQRS_STATEMENT_EVALUATE:
			return list_make1(cqrs_plan_evaluate(program));
		case CQRS_STATEMENT_DELETE:
			return list_make1(cqrs_plan_delete(program, key->mask, false));
		case CQRS_STATEMENT_DELETE_FULL:
			return list_make1(cqrs_plan_delete(program, key->mask, true));
		case CQRS_STATEMENT_MERGE:
			return list_make1(cqrs_plan_merge(program, key->mask));
		case CQRS_STATEMENT_DUPLICATE:
			return list_make1(cqrs_plan_duplicate(program, key->mask));
		case CQRS_STATEMENT_PATTERNS:
			return list_make1(cqrs_plan_patterns(program));
	}
	return NIL;
}

/*
 * magnitude_of returns the order of magnitude of a number of rows: a plan made for one row crawls over a million.
 */
static int
magnitude_of(double rows)
{
	int			magnitude = 0;

	for (; rows >= 10; rows /= 10)
		magnitude++;
	return magnitude;
}

/*
 * prepare makes the prepared statements of a key.
 */
static Statement *
prepare(CqrsProgramEntry *entry, const CqrsStatementKey *key, double rows)
{
	MemoryContext before = MemoryContextSwitchTo(entry->context);
	Statement  *statement = palloc(sizeof(Statement));
	List	   *texts = texts_of(entry->program, key);
	ListCell   *cell;

	statement->key = *key;
	statement->rows = rows;
	statement->prepared = NIL;
	foreach(cell, texts)
		statement->prepared = lappend(statement->prepared, cqrs_spi_prepare(lfirst(cell), 0, NULL, true));
	entry->statements = lappend(entry->statements, statement);
	list_free_deep(texts);
	MemoryContextSwitchTo(before);
	return statement;
}

/*
 * statement_of returns the prepared statements for a kind, what it is of, its mask and the rows it will meet.
 */
static Statement *
statement_of(CqrsProgramEntry *entry, CqrsStatementKind kind, int which, uint64 mask, double rows)
{
	CqrsStatementKey key;
	ListCell   *cell;

	memset(&key, 0, sizeof(key));
	key.kind = kind;
	key.which = which;
	key.mask = mask;
	key.magnitude = magnitude_of(rows);
	foreach(cell, entry->statements)
	{
		Statement  *statement = lfirst(cell);

		if (memcmp(&statement->key, &key, sizeof(key)) == 0)
			return statement;
	}
	return prepare(entry, &key, rows);
}

/*
 * cqrs_program_statements returns the statements to run.
 */
List *
cqrs_program_statements(CqrsProgramEntry *entry, CqrsStatementKind kind, int which, uint64 mask, double rows)
{
	return statement_of(entry, kind, which, mask, rows)->prepared;
}

/*
 * cqrs_program_estimate returns what the planner expects of statements.
 *
 * Its estimates are for the rows that they were planned for, which are of the same magnitude only.  What is done for each row costs in proportion.
 */
CqrsEstimate
cqrs_program_estimate(CqrsProgramEntry *entry, CqrsStatementKind kind, int which, uint64 mask, double rows)
{
	Statement  *statement = statement_of(entry, kind, which, mask, rows);
	bool		each = kind == CQRS_STATEMENT_COMPUTE_EACH;
	CqrsEstimate sum = {0};
	ListCell   *cell;

	foreach(cell, statement->prepared)
	{
		CqrsEstimate estimate = cqrs_spi_estimate(lfirst(cell), each);

		sum.cost += estimate.cost;
		sum.rows += estimate.rows;
	}
	if (each)
		sum.cost *= rows / Max(statement->rows, 1);
	return sum;
}
