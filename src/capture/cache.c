/*
 * capture/cache.c
 *		The backend's cache of capture plans, by relation.
 *
 * A plan is filled from the registry under a catalog snapshot, never the transaction's: a transaction older than a projection must capture for it, too.
 * Whoever changes a plan invalidates the relation's cache entry; the callback only marks plans, so that filling survives an error or another
 * invalidation half way.
 *
 * A writer that finds the table's columns changed records a new shape in its own transaction.  If that is rolled back the shape is gone, and plans that
 * name it with it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "capture/parts.h"
#include "registry/registry.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

enum
{
	PLAN_STALE, PLAN_FILLING, PLAN_READY
};

static HTAB *plans = NULL;
static CqrsCapturePlan *last = NULL;	/* the one asked for last */
static int	shape_level = 0;	/* the deepest nesting level whose rollback takes a shape with it; 0 if none does */

/*
 * forget_all marks all plans.
 */
static void
forget_all(void)
{
	HASH_SEQ_STATUS status;
	CqrsCapturePlan *plan;

	hash_seq_init(&status, plans);
	while ((plan = hash_seq_search(&status)) != NULL)
		plan->state = PLAN_STALE;
}

/*
 * forget_relation is called when a relation changes: it marks its plan.
 */
static void
forget_relation(Datum arg, Oid relation)
{
	CqrsCapturePlan *plan;

	if (!OidIsValid(relation))
	{
		forget_all();
		return;
	}
	plan = hash_search(plans, &relation, HASH_FIND, NULL);
	if (plan != NULL)
		plan->state = PLAN_STALE;
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

	info.hcxt = AllocSetContextCreate(TopMemoryContext, "cqrs capture plans", ALLOCSET_SMALL_SIZES);
	plans = hash_create("cqrs capture plans", 32, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}

/*
 * same_column tells whether a column of the table is as its shape says.
 */
static bool
same_column(Form_pg_attribute left, Form_pg_attribute right)
{
	if (left->attisdropped != right->attisdropped || left->attlen != right->attlen || left->attalign != right->attalign)
		return false;
	return left->attisdropped ||
		(left->atttypid == right->atttypid &&
		 left->atttypmod == right->atttypmod &&
		 left->attcollation == right->attcollation &&
		 left->attbyval == right->attbyval &&
		 strcmp(NameStr(left->attname), NameStr(right->attname)) == 0);
}

/*
 * same_layout tells whether rows of the table are as the shape says.
 */
static bool
same_layout(TupleDesc left, TupleDesc right)
{
	if (left->natts != right->natts)
		return false;
	for (int i = 0; i < left->natts; i++)
		if (!same_column(TupleDescAttr(left, i), TupleDescAttr(right, i)))
			return false;
	return true;
}

/*
 * cqrs_capture_shape returns the shape for the table as it is now; records it, in the current (sub)transaction, if it is new.
 *
 * Two writers that are the first after an ALTER TABLE may both record one: the same twice does no harm.
 */
int32
cqrs_capture_shape(int32 source, Relation rel)
{
	CqrsShape  *latest = cqrs_shape_latest(source);

	if (latest != NULL && same_layout(RelationGetDescr(rel), latest->desc))
		return latest->id;
	if (plans == NULL)
		make_cache();
	shape_level = Max(shape_level, GetCurrentTransactionNestLevel());
	return cqrs_shape_insert(source, RelationGetDescr(rel));
}

/*
 * fill_plan reads a relation's plan.
 *
 * If it is invalidated on the way it is good for this change, whose writer holds a lock on the table that nobody attaches under, and is read again for the
 * next.
 */
static void
fill_plan(CqrsCapturePlan *plan, Relation rel)
{
	CqrsSource *source;

	plan->state = PLAN_FILLING;
	source = cqrs_registry_exists() ? cqrs_source_of_relation(plan->relation) : NULL;
	if (source != NULL && source->attached)
	{
		plan->shape = cqrs_capture_shape(source->id, rel);
		plan->source = source->id;
	}
	else
		plan->source = 0;
	if (plan->state == PLAN_FILLING)
		plan->state = PLAN_READY;
}

/*
 * cqrs_capture_plan returns what to do with changes of a relation.
 */
const CqrsCapturePlan *
cqrs_capture_plan(Relation rel)
{
	Oid			relation = RelationGetRelid(rel);
	bool		found;

	if (last != NULL && last->relation == relation && last->state == PLAN_READY)
		return last;
	if (plans == NULL)
		make_cache();
	last = hash_search(plans, &relation, HASH_ENTER, &found);
	if (!found)
		last->state = PLAN_STALE;
	if (last->state != PLAN_READY)
		fill_plan(last, rel);
	return last;
}
