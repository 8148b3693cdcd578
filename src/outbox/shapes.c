/*
 * outbox/shapes.c
 *		The backend's cache of shapes: how images in chunks are laid out.
 *
 * A shape never changes, so nothing is ever invalidated; only DROP EXTENSION ends them all, and ids may then begin again.  A shape recorded by a
 * transaction that rolled back is never asked for, since the chunks that name it are gone with it.  Descriptors stay allocated for the backend's life.
 */
#include "postgres.h"

#include "outbox/parts.h"
#include "registry/registry.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

typedef struct ShapeEntry
{
	int32		id;				/* hash key */
	int32		source;
	TupleDesc	desc;			/* NULL while it could not be read */
} ShapeEntry;

static MemoryContext context = NULL;
static HTAB *shapes = NULL;
static Oid	catalog = InvalidOid;	/* the table the shapes are of */

/*
 * make_cache begins an empty cache.
 */
static void
make_cache(void)
{
	HASHCTL		info = {.keysize = sizeof(int32),.entrysize = sizeof(ShapeEntry)};

	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "cqrs shapes", ALLOCSET_SMALL_SIZES);
	info.hcxt = context;
	shapes = hash_create("cqrs shapes", 32, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * cqrs_shapes_check begins an empty cache at first use, and when the extension is not the one the cached shapes are of.
 */
void
cqrs_shapes_check(void)
{
	Oid			current = cqrs_registry_relation(CQRS_CAT_SHAPE);

	if (shapes != NULL && current == catalog)
		return;
	make_cache();
	catalog = current;
}

/*
 * cqrs_outbox_shape_desc returns the descriptor of a shape, and its source if 'source' is given.
 *
 * Errors: XX001 if there is no such shape.
 */
TupleDesc
cqrs_outbox_shape_desc(int32 shape, int32 *source)
{
	ShapeEntry *entry;
	bool		found;

	if (shapes == NULL)
		cqrs_shapes_check();
	entry = hash_search(shapes, &shape, HASH_ENTER, &found);
	if (!found)
		entry->desc = NULL;
	if (entry->desc == NULL)
	{
		CqrsShape  *row = cqrs_shape_get(shape);
		MemoryContext caller = MemoryContextSwitchTo(context);

		entry->source = row->source;
		entry->desc = CreateTupleDescCopy(row->desc);
		MemoryContextSwitchTo(caller);
	}
	if (source)
		*source = entry->source;
	return entry->desc;
}
