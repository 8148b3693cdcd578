/*
 * outbox/shapes.c
 *		The backend's cache of shapes: how images in chunks are laid out.
 *
 * A shape never changes, so nothing is ever invalidated; only DROP EXTENSION ends them all, and ids may then begin again.  A shape recorded by a
 * transaction that rolled back is never asked for, since the chunks that name it are gone with it.  They stay allocated for the backend's life.
 */
#include "postgres.h"

#include "outbox/parts.h"
#include "registry/registry.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

typedef struct ShapeEntry
{
	int32		id;				/* hash key */
	CqrsShape  *shape;			/* NULL while it could not be read */
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
 * copy_shape copies a shape into CurrentMemoryContext.
 */
static CqrsShape *
copy_shape(const CqrsShape *shape)
{
	CqrsShape  *copy = palloc(sizeof(CqrsShape));

	*copy = *shape;
	copy->desc = CreateTupleDescCopy(shape->desc);
	copy->columns = palloc(sizeof(AttrNumber) * Max(shape->desc->natts, 1));
	memcpy(copy->columns, shape->columns, sizeof(AttrNumber) * shape->desc->natts);
	copy->noted = palloc(sizeof(AttrNumber) * Max(shape->nnoted, 1));
	memcpy(copy->noted, shape->noted, sizeof(AttrNumber) * shape->nnoted);
	return copy;
}

/*
 * cqrs_outbox_shape returns a shape.
 *
 * Errors: XX001 if there is no such shape.
 */
const CqrsShape *
cqrs_outbox_shape(int32 id)
{
	ShapeEntry *entry;
	bool		found;

	if (id == CQRS_EVENT_SHAPE)
		return cqrs_event_shape();
	if (shapes == NULL)
		cqrs_shapes_check();
	entry = hash_search(shapes, &id, HASH_ENTER, &found);
	if (!found)
		entry->shape = NULL;
	if (entry->shape == NULL)
	{
		CqrsShape  *row = cqrs_shape_get(id);
		MemoryContext caller = MemoryContextSwitchTo(context);

		entry->shape = copy_shape(row);
		MemoryContextSwitchTo(caller);
	}
	return entry->shape;
}
