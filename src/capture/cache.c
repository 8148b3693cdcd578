/*
 * capture/cache.c
 *		The backend's cache of capture plans, by trigger.
 *
 * A plan is filled from the registry under a catalog snapshot, never the transaction's: a transaction older than a projection must capture for it, too.
 * Whoever changes a plan invalidates the cache entries of its tables; the callback only marks plans, so that filling survives an error or another
 * invalidation half way.
 *
 * A writer that finds the table's columns changed records a new shape in its own transaction.  If that is rolled back the shape is gone, and plans that
 * name it with it.
 */
#include "postgres.h"

#include "access/tupmacs.h"
#include "access/xact.h"
#include "capture/parts.h"
#include "registry/registry.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

enum
{
	PLAN_STALE, PLAN_FILLING, PLAN_READY
};

static MemoryContext context = NULL;	/* of the plans */
static HTAB *plans = NULL;
static CqrsCapturePlan *last = NULL;	/* the one asked for last */
static int	shape_level = 0;	/* the deepest nesting level whose rollback takes a shape with it; 0 if none does */

/*
 * forget_relation is called when a relation changes, or with 0 when any may have: it marks plans of its triggers, and of those below it.  A column that the
 * root drops or adds may leave a table of its tree as it is, which has it for its own.
 */
static void
forget_relation(Datum arg, Oid relation)
{
	HASH_SEQ_STATUS status;
	CqrsCapturePlan *plan;

	hash_seq_init(&status, plans);
	while ((plan = hash_seq_search(&status)) != NULL)
		if (plan->relation == relation || plan->root == relation || !OidIsValid(relation))
			plan->state = PLAN_STALE;
}

/*
 * forget_all marks all plans.
 */
static void
forget_all(void)
{
	forget_relation((Datum) 0, InvalidOid);
}

/*
 * end_subtransaction follows the nesting level of shapes recorded in this transaction.
 */
static void
end_subtransaction(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (shape_level < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_all();
	if (event == SUBXACT_EVENT_ABORT_SUB || event == SUBXACT_EVENT_COMMIT_SUB)
		shape_level = level - 1;	/* others may have been recorded there */
}

/*
 * end_transaction forgets plans whose shapes are rolled back; or prepared, since nobody else can see them until the commit, if there is one.
 */
static void
end_transaction(XactEvent event, void *arg)
{
	if (shape_level == 0)
		return;
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		forget_all();
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE || event == XACT_EVENT_COMMIT)
		shape_level = 0;
}

/*
 * make_cache begins the cache at first use.
 */
static void
make_cache(void)
{
	HASHCTL		info = {.keysize = sizeof(Oid),.entrysize = sizeof(CqrsCapturePlan)};

	context = AllocSetContextCreate(TopMemoryContext, "cqrs capture plans", ALLOCSET_SMALL_SIZES);
	info.hcxt = context;
	plans = hash_create("cqrs capture plans", 32, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}

/*
 * cqrs_capture_shape returns the shape for a source as it is now; records it, in the current (sub)transaction, if it is new.
 *
 * Two writers that are the first after an ALTER TABLE may both record one: the same twice does no harm.
 */
const CqrsShape *
cqrs_capture_shape(const CqrsSource *source)
{
	CqrsShape  *wanted = cqrs_capture_wanted_shape(source);
	CqrsShape  *latest = cqrs_shape_latest(source->id);

	if (latest != NULL && cqrs_capture_same_shape(latest, wanted))
		return latest;
	if (plans == NULL)
		make_cache();
	shape_level = Max(shape_level, GetCurrentTransactionNestLevel());
	cqrs_shape_insert(wanted);
	return wanted;
}

/*
 * find_attribute returns where the rows of a table have a column of the source, as an index from 0.
 *
 * Tables of one tree may have their columns in different orders; they are the same by name.
 */
static int
find_attribute(const CqrsSource *source, AttrNumber attnum, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	char	   *name;

	if (source->relation == RelationGetRelid(rel))
		return attnum - 1;
	name = get_attname(source->relation, attnum, false);
	for (int i = 0; i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attisdropped || strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) != 0)
			continue;
		pfree(name);
		return i;
	}
	elog(ERROR, "table \"%s\" has no column \"%s\"", RelationGetRelationName(rel), name);
	return -1;
}

/*
 * bytes_of returns an alignment in bytes.
 */
static uint8
bytes_of(char alignment)
{
	switch (alignment)
	{
		case TYPALIGN_CHAR:
			return 1;
		case TYPALIGN_SHORT:
			return ALIGNOF_SHORT;
		case TYPALIGN_INT:
			return ALIGNOF_INT;
		default:
			return ALIGNOF_DOUBLE;
	}
}

/*
 * watch adds a column to those that are watched.
 */
static void
watch(CqrsCapturePlan *plan, Relation rel, int from, int noted)
{
	CqrsWatchedColumn *watched = &plan->watched[plan->nwatched++];

	watched->from = from;
	watched->length = TupleDescAttr(RelationGetDescr(rel), from)->attlen;
	watched->by_value = TupleDescAttr(RelationGetDescr(rel), from)->attbyval;
	watched->noted = noted;
	plan->deformed = Max(plan->deformed, from + 1);
}

/*
 * is_whole tells whether images have the layout of the table's rows.
 */
static bool
is_whole(const CqrsImaging *imaging, TupleDesc desc)
{
	if (imaging->ncolumns != desc->natts)
		return false;
	for (int i = 0; i < desc->natts; i++)
		if (imaging->columns[i].from != i)
			return false;
	return true;
}

/*
 * add_run has images take a column's bytes from where all rows have them; with the run before it where they stand behind it in both.
 */
static void
add_run(CqrsImaging *imaging, int column, uint16 from)
{
	CqrsImagingRun *last = imaging->nruns > 0 ? &imaging->runs[imaging->nruns - 1] : NULL;
	uint16		to = TYPEALIGN(imaging->columns[column].alignment, last ? last->to + last->length : 0);

	if (last != NULL && imaging->columns[column].from == imaging->columns[column - 1].from + 1 &&
		from - last->from == to - last->to)
		last->length = to + imaging->columns[column].length - last->to;
	else
	{
		imaging->runs[imaging->nruns].from = from;
		imaging->runs[imaging->nruns].to = to;
		imaging->runs[imaging->nruns].length = imaging->columns[column].length;
		imaging->nruns++;
	}
}

/*
 * find_runs finds out of what bytes of a row its image is made, if all columns that are imaged stand in the same places in all rows in which none up to them
 * is null: no column before them varies in length, nor do they.
 */
static void
find_runs(CqrsImaging *imaging, TupleDesc desc)
{
	uint32		offset = 0;
	int			column = 0;

	for (int i = 0; i < desc->natts && column < imaging->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attlen < 0)
			break;
		offset = att_align_nominal(offset, att->attalign);
		if (imaging->columns[column].from == i)
			add_run(imaging, column++, offset);
		offset += att->attlen;
	}
	if (column < imaging->ncolumns)
		imaging->nruns = 0;
}

/*
 * compare_watched orders watched columns as the row has them.
 */
static int
compare_watched(const void *left, const void *right)
{
	return ((const CqrsWatchedColumn *) left)->from - ((const CqrsWatchedColumn *) right)->from;
}

/*
 * lay_out fills a plan for a source that is attached, whose images have the shape.
 */
static void
lay_out(CqrsCapturePlan *plan, const CqrsSource *source, const CqrsShape *shape, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	CqrsImaging *imaging = &plan->imaging;

	imaging->source = source->id;
	imaging->shape = shape->id;
	imaging->ncolumns = shape->desc->natts;
	imaging->columns = palloc(sizeof(CqrsImagingColumn) * Max(imaging->ncolumns, 1));
	imaging->runs = palloc(sizeof(CqrsImagingRun) * Max(imaging->ncolumns, 1));
	imaging->nnoted = shape->nnoted;
	plan->watched = palloc(sizeof(CqrsWatchedColumn) * (imaging->ncolumns + shape->nnoted + 1));
	for (int i = 0; i < imaging->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(shape->desc, i);
		CqrsImagingColumn *column = &imaging->columns[i];

		column->from = find_attribute(source, shape->columns[i], rel);
		column->length = att->attlen;
		column->alignment = bytes_of(att->attalign);
		column->by_value = att->attbyval;
		imaging->deformed = Max(imaging->deformed, column->from + 1);
		watch(plan, rel, column->from, -1);
	}
	for (int i = 0; i < shape->nnoted; i++)
		watch(plan, rel, find_attribute(source, shape->noted[i], rel), i);
	qsort(plan->watched, plan->nwatched, sizeof(CqrsWatchedColumn), compare_watched);
	find_runs(imaging, desc);
	imaging->whole = is_whole(imaging, desc);
	imaging->missing = desc->constr != NULL && desc->constr->missing != NULL;
}

/*
 * source_of returns the source whose changes a trigger tells, if it is attached and the table is still of its tree, else NULL.
 *
 * A table that has left a tree keeps its triggers for a while.
 */
static CqrsSource *
source_of(const Trigger *trigger, Relation rel)
{
	CqrsSource *source;

	if (!cqrs_registry_exists())
		return NULL;
	source = cqrs_source_find(cqrs_source_of_trigger(trigger));
	return source != NULL && source->attached && cqrs_tree_contains(source->relation, RelationGetRelid(rel)) ? source : NULL;
}

/*
 * empty_plan takes all out of a plan.
 */
static void
empty_plan(CqrsCapturePlan *plan)
{
	if (plan->captures)
	{
		pfree(plan->imaging.columns);
		pfree(plan->imaging.runs);
		pfree(plan->watched);
	}
	memset(&plan->imaging, 0, sizeof(CqrsImaging));
	plan->captures = false;
	plan->watched = NULL;
	plan->nwatched = 0;
	plan->deformed = 0;
}

/*
 * fill_plan reads a plan.
 *
 * If it is invalidated on the way it is good for this change, whose writer holds a lock on the table that nobody attaches under, and is read again for the
 * next.
 */
static void
fill_plan(CqrsCapturePlan *plan, const Trigger *trigger, Relation rel)
{
	CqrsSource *source;

	empty_plan(plan);
	plan->relation = RelationGetRelid(rel);
	plan->root = InvalidOid;
	plan->state = PLAN_FILLING;
	source = source_of(trigger, rel);
	if (source != NULL)
	{
		const CqrsShape *shape;
		MemoryContext caller;

		plan->root = source->relation;
		shape = cqrs_capture_shape(source);
		caller = MemoryContextSwitchTo(context);
		lay_out(plan, source, shape, rel);
		plan->captures = true;
		MemoryContextSwitchTo(caller);
	}
	if (plan->state == PLAN_FILLING)
		plan->state = PLAN_READY;
}

/*
 * find_plan looks up a plan, and reads it if it is not known, or not any more.
 */
static pg_noinline void
find_plan(const Trigger *trigger, Relation rel)
{
	bool		found;

	if (plans == NULL)
		make_cache();
	last = hash_search(plans, &trigger->tgoid, HASH_ENTER, &found);
	if (!found)
	{
		last->captures = false;
		last->root = InvalidOid;
		last->state = PLAN_STALE;
	}
	if (last->state != PLAN_READY)
		fill_plan(last, trigger, rel);
}

/*
 * cqrs_capture_plan returns what to do with changes that a trigger tells of.  Mostly it is the trigger that was asked for last.
 */
const CqrsCapturePlan *
cqrs_capture_plan(const Trigger *trigger, Relation rel)
{
	if (last == NULL || last->trigger != trigger->tgoid || last->state != PLAN_READY)
		find_plan(trigger, rel);
	return last;
}
