/*
 * outbox/segment.c
 *		The segments of the outbox: which one is written to.
 *
 * A writer's lock on the active segment is kept to the end of its transaction, so that nobody empties it under a writer.  Wants a transaction; runs at
 * pre-commit too, when no snapshot is left.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "outbox/parts.h"
#include "registry/registry.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

/* What this backend knows of where to write.  Invalidation only clears the flag. */
static struct
{
	bool		valid;
	bool		registered;		/* the callback is */
	Oid			segments;		/* the list itself */
	Oid			heap;			/* the active one */
	Oid			sequence;		/* chunk numbers */
} active;

/*
 * forget_active is called when a relation changes: it has the active segment looked up again before it is next written to.
 *
 * Whoever adds a segment invalidates the list's relation.
 */
static void
forget_active(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == active.segments || relid == active.heap || relid == active.sequence)
		active.valid = false;
}

/*
 * find_active looks up where chunks go; false if the extension is gone.
 */
static bool
find_active(void)
{
	if (!active.registered)
	{
		CacheRegisterRelcacheCallback(forget_active, (Datum) 0);
		active.registered = true;
	}
	if (!cqrs_registry_exists())
		return false;
	active.segments = cqrs_registry_relation(CQRS_CAT_SEGMENT);
	active.sequence = get_relname_relid("chunk_number", get_rel_namespace(active.segments));
	active.valid = true;		/* first, so that an invalidation while we read the list is not lost */
	active.heap = ((CqrsSegment *) llast(cqrs_segment_list()))->relation;
	return true;
}

/*
 * cqrs_segment_open_active locks and opens the active segment; NULL if there is none, because the extension was dropped with its triggers.
 *
 * The lock is taken first and then the segment looked at again: it may have become an older one while we waited.
 */
Relation
cqrs_segment_open_active(Oid *sequence)
{
	for (;;)
	{
		Relation	heap;

		if (!active.valid && !find_active())
			return NULL;
		heap = try_table_open(active.heap, RowExclusiveLock);
		*sequence = active.sequence;
		if (heap != NULL && active.valid)
			return heap;
		if (heap != NULL)
			table_close(heap, RowExclusiveLock);
		active.valid = false;
	}
}
