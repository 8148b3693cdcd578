/*
 * apply/entity.c
 *		What of a version's window concerns one key: how far behind a reader of that key is.
 *
 * Looks at each chunk by itself, with the statements by which a batch finds affected keys, and writes nothing.  A batch has the old images of the whole
 * window at hand where a way leads through other tables, here there are those of the chunk: what only these would lead to is counted by the changes that
 * broke the way.
 *
 * Runs as the version's owner, under its settings; the snapshot is the caller's.
 */
#include "postgres.h"

#include "apply/parts.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "outbox/outbox.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

/* A look through a window. */
typedef struct Look
{
	int32		version;
	const CqrsSnapshot *checkpoint;
	CqrsProgramEntry *entry;
	CqrsEntity *entity;
	Snapshot	snapshot;
	TypeCacheEntry **types;		/* of the key's columns */
	MemoryContext context;		/* of what is read of a chunk */
} Look;

/*
 * is_entity tells whether a key found is the one that is looked for; nulls are equal.
 */
static bool
is_entity(const Look *look, TupleTableSlot *slot)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;

	slot_getallattrs(slot);
	for (int i = 0; i < desc->natts; i++)
	{
		if (slot->tts_isnull[i] != look->entity->nulls[i])
			return false;
		if (!slot->tts_isnull[i] &&
			!DatumGetBool(FunctionCall2Coll(&look->types[i]->eq_opr_finfo, TupleDescAttr(desc, i)->attcollation,
											slot->tts_values[i], look->entity->values[i])))
			return false;
	}
	return true;
}

/*
 * affects_all tells whether a chunk's changes affect every key, for all that is known.
 */
static bool
affects_all(const CqrsProgram *program, const CqrsWindow *window)
{
	for (int i = 0; i < window->nsources; i++)
		if (window->deltas[i].nrows > 0 && program->sources[i].strategy == CQRS_STRATEGY_FULL)
			return true;
	return window->needs_full;
}

/*
 * finds_entity tells whether the key is among those that a chunk's changes are found to affect.
 */
static bool
finds_entity(const Look *look, const CqrsWindow *window)
{
	const CqrsProgram *program = cqrs_program_of(look->entry);
	Tuplestorestate *affected;
	TupleTableSlot *slot;
	bool		found = false;

	affected = cqrs_strategy_affected(look->entry, window, look->snapshot);
	slot = MakeSingleTupleTableSlot(program->affected, &TTSOpsMinimalTuple);
	while (!found && tuplestore_gettupleslot(affected, true, false, slot))
		found = is_entity(look, slot);
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(affected);
	return found;
}

/*
 * is_affected tells whether the key is among those that a chunk's changes affect, and frees what was read of the chunk.
 */
static bool
is_affected(const Look *look, CqrsWindow *window)
{
	bool		result = affects_all(cqrs_program_of(look->entry), window) || finds_entity(look, window);

	cqrs_delta_free(window);
	return result;
}

/*
 * read_chunk reads a chunk, or one change in it, in memory that goes with it: what is offered to statements must be SPI's.
 */
static CqrsWindow *
read_chunk(const Look *look, const CqrsChunk *chunk, int only)
{
	MemoryContext before = MemoryContextSwitchTo(look->context);
	CqrsWindow *window = cqrs_delta_chunk(cqrs_program_of(look->entry), chunk, only);

	MemoryContextSwitchTo(before);
	return window;
}

/*
 * count_changes counts the changes in a chunk that concern the key; those that do only together are one.
 */
static int64
count_changes(const Look *look, const CqrsChunk *chunk, int64 *seen)
{
	CqrsWindow *window = read_chunk(look, chunk, -1);
	int64		changes = window->changes;
	int64		count = 0;

	*seen += changes;
	if (!is_affected(look, window))
		return 0;
	for (int i = 0; i < changes; i++)
		if (is_affected(look, read_chunk(look, chunk, i)))
			count++;
	return Max(count, 1);
}

/*
 * look_through looks through the window, inside SPI; what a chunk takes is freed after it.
 */
static void
look_through(Look *look)
{
	CqrsOutboxScan *scan = cqrs_outbox_scan_begin(look->snapshot, look->checkpoint, InvalidFullTransactionId);
	int			nsources;
	int32	   *sources = cqrs_version_source_ids(look->version, &nsources);
	int64		seen = 0;
	CqrsChunk  *chunk;

	while (seen < look->entity->limit && (chunk = cqrs_outbox_scan_next(scan)) != NULL)
	{
		int64		count = cqrs_outbox_chunk_has(chunk, sources, nsources) ? count_changes(look, chunk, &seen) : 0;

		CHECK_FOR_INTERRUPTS();
		look->entity->changes += count;
		if (count > 0 && (look->entity->oldest == 0 || chunk->captured_at < look->entity->oldest))
			look->entity->oldest = chunk->captured_at;
		MemoryContextReset(look->context);
	}
	cqrs_outbox_scan_end(scan);
}

/*
 * look_for looks for the key with the version's program.
 */
static void
look_for(CqrsProgramEntry *entry, void *argument)
{
	Look	   *look = argument;
	const CqrsProgram *program = cqrs_program_of(entry);

	look->entry = entry;
	look->context = AllocSetContextCreate(CurrentMemoryContext, "cqrs chunk", ALLOCSET_DEFAULT_SIZES);
	look->types = palloc(sizeof(TypeCacheEntry *) * Max(program->nkeys, 1));
	for (int i = 0; i < program->nkeys; i++)
		look->types[i] = lookup_type_cache(TupleDescAttr(program->affected, i)->atttypid, TYPECACHE_EQ_OPR_FINFO);
	look_through(look);
}

/*
 * cqrs_apply_look_for looks through a version's window for what concerns a key.
 */
void
cqrs_apply_look_for(const CqrsVersion *version, const CqrsSnapshot *checkpoint, Snapshot snapshot, CqrsEntity *entity)
{
	Look		look = {.version = version->id, .checkpoint = checkpoint, .entity = entity, .snapshot = snapshot};

	entity->changes = 0;
	entity->oldest = 0;
	cqrs_program_run(version, snapshot, look_for, &look);
}
