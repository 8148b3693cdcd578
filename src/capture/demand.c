/*
 * capture/demand.c
 *		Which columns of a source are to be captured: what the versions that read it ask for, and its primary key.
 *
 * Reads catalogs and takes no lock but ACCESS SHARE on the source while it looks.  What is in force is another matter: it grows when a source is attached,
 * under a lock that keeps writers out, and shrinks when nobody asks for so much any more.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/sysattr.h"
#include "capture/parts.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/relcache.h"

/*
 * live_columns returns all columns of a relation that are there.
 */
static Bitmapset *
live_columns(Relation relation)
{
	Bitmapset  *columns = NULL;

	for (int i = 0; i < RelationGetNumberOfAttributes(relation); i++)
		if (!TupleDescAttr(RelationGetDescr(relation), i)->attisdropped)
			columns = bms_add_member(columns, i + 1);
	return columns;
}

/*
 * key_columns returns the columns of a relation's primary key.
 */
static Bitmapset *
key_columns(Relation relation)
{
	Bitmapset  *numbers = RelationGetIndexAttrBitmap(relation, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	Bitmapset  *columns = NULL;
	int			number = -1;

	while ((number = bms_next_member(numbers, number)) >= 0)
		columns = bms_add_member(columns, number + FirstLowInvalidHeapAttributeNumber);
	return columns;
}

/*
 * cqrs_capture_demand finds the columns of a source to watch and to image.
 *
 * The primary key is among them so that every image tells whose it is.
 */
void
cqrs_capture_demand(const CqrsSource *source, Bitmapset **watched, Bitmapset **imaged)
{
	Relation	relation = try_relation_open(source->relation, AccessShareLock);
	ListCell   *cell;

	*watched = *imaged = NULL;
	if (relation == NULL)
		return;
	*imaged = source->captured ? live_columns(relation) : key_columns(relation);
	relation_close(relation, AccessShareLock);
	foreach(cell, cqrs_version_source_list(0))
	{
		CqrsVersionSource *needs = lfirst(cell);
		CqrsVersion *version;

		if (needs->source != source->id)
			continue;
		version = cqrs_version_get(needs->version, true);
		if (version == NULL || version->state == CQRS_STATE_RETIRED)
			continue;
		*watched = bms_add_members(*watched, needs->watched);
		*imaged = bms_add_members(*imaged, needs->imaged);
	}
	*watched = bms_add_members(*watched, *imaged);
}

/*
 * is_excessive tells whether more of a source is captured than anybody asks for, and what would do.  Where somebody holds a lock that keeps us from looking
 * it is not.
 */
static bool
is_excessive(const CqrsSource *source, Bitmapset **watched, Bitmapset **imaged)
{
	if (!source->attached || !ConditionalLockRelationOid(source->relation, AccessShareLock))
		return false;
	cqrs_capture_demand(source, watched, imaged);
	UnlockRelationOid(source->relation, AccessShareLock);
	return !bms_is_subset(source->watched, *watched) || !bms_is_subset(source->imaged, *imaged);
}

/*
 * narrow_triggers has the triggers of a source that has shrunk fire for no more updates than concern it; where a lock is in the way, for as many as before.
 *
 * The lock keeps others from changing the triggers at the same time, and no reader or writer out.
 */
static void
narrow_triggers(const CqrsSource *source)
{
	ListCell   *cell;

	foreach(cell, cqrs_tree_tables(source->relation))
		if (ConditionalLockRelationOid(lfirst_oid(cell), ShareUpdateExclusiveLock))
			cqrs_capture_fit_triggers(lfirst_oid(cell));
}

/*
 * cqrs_capture_shrink has sources captured for no more than is asked of them.
 *
 * Writers may go on to capture more for a while, which does no harm, so no table is locked.  A source whose own lock another session holds is being registered
 * or attached by it, and keeps what it has.
 */
void
cqrs_capture_shrink(void)
{
	ListCell   *cell;

	foreach(cell, cqrs_source_list())
	{
		CqrsSource *source = lfirst(cell);
		Bitmapset  *watched;
		Bitmapset  *imaged;

		if (!is_excessive(source, &watched, &imaged) || !cqrs_source_lock(source->relation, true))
			continue;
		source = cqrs_source_of_relation(source->relation);
		if (source == NULL || !is_excessive(source, &watched, &imaged))
			continue;
		source->watched = bms_intersect(source->watched, watched);
		source->imaged = bms_intersect(source->imaged, imaged);
		cqrs_source_update(source);
		narrow_triggers(source);
	}
}
