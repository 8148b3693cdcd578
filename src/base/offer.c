/*
 * base/offer.c
 *		Rows on offer to SQL, and what the planner is told of them: how many distinct values their columns have.
 *
 * Of a tuplestore the planner knows nothing but the number of rows, and takes any column of it to have two hundred values.  So it would not see that a hundred
 * thousand changes affect a hundred thousand keys, nor that it pays to remember what was looked up for one.  The server asks a hook for the statistics of
 * any relation; ours answers for rows that are described from a look at the first of them, taken when a statement is planned and not each time that it runs.
 *
 * Keys that are about to be looked up are not described: taking what changes have just touched for not in memory, the planner would rather read whole tables.
 *
 * Offers live in their caller's memory, as a rule that of a nesting of SPI, and are forgotten with it, however that ends.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "base/offer.h"
#include "catalog/pg_statistic.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "lib/hyperloglog.h"
#include "lib/ilist.h"
#include "nodes/pathnodes.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/selfuncs.h"

/* So many rows are looked at. */
#define SAMPLE_ROWS 30000

/* Registers of a count of distinct values: 2 to the power of this many, for an error of about 2%. */
#define COUNT_WIDTH 11

/* Values of which so few are repetitions are taken for unique: fewer cannot be told apart from the error. */
#define UNIQUE 0.95

/* A column as it is being looked at. */
typedef struct Column
{
	hyperLogLogState distinct;
	uint32		last;			/* hash of the row before, and */
	double		runs;			/* how often it was another one */
	double		nulls;
} Column;

typedef struct Offer
{
	EphemeralNamedRelationData relation;	/* the first, so that the server's pointer is ours */
	dlist_node	link;
	bool		listed;
	bool		described;
	float4	   *distinct;		/* by column, as stadistinct; NULL until asked for */
	float4	   *nullfrac;
	MemoryContext context;
	MemoryContextCallback callback;
} Offer;

static dlist_head offers = DLIST_STATIC_INIT(offers);	/* the newest first */
static get_relation_stats_hook_type next_hook = NULL;

/*
 * unlist forgets an offer; the callback of its memory.
 */
static void
unlist(void *argument)
{
	Offer	   *offer = argument;

	if (offer->listed)
		dlist_delete(&offer->link);
	offer->listed = false;
}

/*
 * find returns the newest offer of a name, or NULL.
 */
static Offer *
find(const char *name)
{
	dlist_iter	iter;

	dlist_foreach(iter, &offers)
	{
		Offer	   *offer = dlist_container(Offer, link, iter.cur);

		if (strcmp(offer->relation.md.name, name) == 0)
			return offer;
	}
	return NULL;
}

/*
 * look takes a row's columns into account.
 */
static void
look(Column *columns, TupleTableSlot *slot, bool first)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;

	slot_getallattrs(slot);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		uint32		hash = 0;

		if (slot->tts_isnull[i])
			columns[i].nulls++;
		else
		{
			hash = datum_image_hash(slot->tts_values[i], att->attbyval, att->attlen);
			addHyperLogLog(&columns[i].distinct, hash);
		}
		if (first || hash != columns[i].last)
			columns[i].runs++;
		columns[i].last = hash;
	}
}

/*
 * look_at_first looks at the first rows on offer; returns how many these are.
 */
static double
look_at_first(const Offer *offer, Column *columns)
{
	Tuplestorestate *rows = offer->relation.reldata;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(offer->relation.md.tupdesc, &TTSOpsMinimalTuple);
	int			pointer = tuplestore_alloc_read_pointer(rows, EXEC_FLAG_REWIND);
	int			count = 0;

	tuplestore_select_read_pointer(rows, pointer);
	tuplestore_rescan(rows);
	while (count < SAMPLE_ROWS && tuplestore_gettupleslot(rows, true, false, slot))
		look(columns, slot, count++ == 0);
	tuplestore_select_read_pointer(rows, 0);
	ExecDropSingleTupleTableSlot(slot);
	return count;
}

/*
 * extrapolate returns how many distinct values there are in all rows, as stadistinct, if 'sample' of 'all' rows hold so many.
 *
 * Images of a row before and after a change lie next to each other, and as a rule agree: what is counted are runs of a value.  All values are taken to be
 * equally frequent.  Of D values n draws then find D (1 - exp(-n/D)).
 */
static double
extrapolate(double distinct, double runs, double sample, double all)
{
	double		low = 0;
	double		high = 1;
	double		values;

	if (sample >= all)
		return Max(distinct, 1);
	if (distinct >= UNIQUE * runs)
		return -distinct / sample;
	while ((1 - exp(-high)) / high > distinct / runs)
		high *= 2;
	for (int i = 0; i < 30; i++)
	{
		double		middle = (low + high) / 2;

		if ((1 - exp(-middle)) / middle > distinct / runs)
			low = middle;
		else
			high = middle;
	}
	values = runs / high;
	return Max(values * (1 - exp(-runs * (all / sample) / values)), 1);
}

/*
 * measure finds out what is to be known of the rows on offer.  Where there are none yet they are keys to come, each once.
 */
static void
measure(Offer *offer)
{
	int			ncolumns = offer->relation.md.tupdesc->natts;
	MemoryContext before = MemoryContextSwitchTo(offer->context);
	Column	   *columns = palloc0(sizeof(Column) * ncolumns);
	double		sample;

	offer->distinct = palloc(sizeof(float4) * ncolumns);
	offer->nullfrac = palloc0(sizeof(float4) * ncolumns);
	for (int i = 0; i < ncolumns; i++)
		initHyperLogLog(&columns[i].distinct, COUNT_WIDTH);
	sample = offer->relation.reldata == NULL ? 0 : look_at_first(offer, columns);
	for (int i = 0; i < ncolumns; i++)
	{
		double		distinct = Min(rint(estimateHyperLogLog(&columns[i].distinct)), columns[i].runs);

		offer->distinct[i] = sample == 0 ? -1 : extrapolate(distinct, columns[i].runs, sample, offer->relation.md.enrtuples);
		offer->nullfrac[i] = sample == 0 ? 0 : columns[i].nulls / sample;
		freeHyperLogLog(&columns[i].distinct);
	}
	pfree(columns);
	MemoryContextSwitchTo(before);
}

/*
 * make_statistics makes a row of pg_statistic that holds nothing but these two numbers.
 */
static HeapTuple
make_statistics(float4 distinct, float4 nullfrac)
{
	Size		header = MAXALIGN(SizeofHeapTupleHeader);
	HeapTuple	tuple = palloc0(HEAPTUPLESIZE + header + sizeof(FormData_pg_statistic));
	Form_pg_statistic statistics;

	tuple->t_len = header + sizeof(FormData_pg_statistic);
	tuple->t_data = (HeapTupleHeader) ((char *) tuple + HEAPTUPLESIZE);
	tuple->t_data->t_hoff = header;
	statistics = (Form_pg_statistic) GETSTRUCT(tuple);
	statistics->stadistinct = distinct;
	statistics->stanullfrac = nullfrac;
	return tuple;
}

/*
 * statistics_of tells the planner what there is to know of a column of rows on offer.
 */
static bool
statistics_of(PlannerInfo *root, RangeTblEntry *entry, AttrNumber attnum, VariableStatData *data)
{
	Offer	   *offer = entry->rtekind == RTE_NAMEDTUPLESTORE ? find(entry->enrname) : NULL;

	if (offer == NULL || !offer->described || attnum <= 0 || attnum > offer->relation.md.tupdesc->natts)
		return next_hook != NULL && next_hook(root, entry, attnum, data);
	if (offer->distinct == NULL)
		measure(offer);
	data->statsTuple = make_statistics(offer->distinct[attnum - 1], offer->nullfrac[attnum - 1]);
	data->freefunc = heap_freetuple;
	data->acl_ok = true;
	return true;
}

/*
 * cqrs_offer_init has the planner ask us.
 */
void
cqrs_offer_init(void)
{
	next_hook = get_relation_stats_hook;
	get_relation_stats_hook = statistics_of;
}

/*
 * cqrs_offer_make makes rows known to the planner by a name.
 */
EphemeralNamedRelation
cqrs_offer_make(const char *name, TupleDesc desc, Tuplestorestate *rows, double nrows)
{
	Offer	   *offer = palloc0(sizeof(Offer));

	offer->relation.md.name = pstrdup(name);
	offer->relation.md.reliddesc = InvalidOid;
	offer->relation.md.tupdesc = desc;
	offer->relation.md.enrtype = ENR_NAMED_TUPLESTORE;
	offer->context = CurrentMemoryContext;
	offer->callback.func = unlist;
	offer->callback.arg = offer;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &offer->callback);
	dlist_push_head(&offers, &offer->link);
	offer->listed = true;
	cqrs_offer_refill(&offer->relation, rows, nrows);
	return &offer->relation;
}

/*
 * cqrs_offer_refill puts other rows in place.
 */
void
cqrs_offer_refill(EphemeralNamedRelation relation, Tuplestorestate *rows, double nrows)
{
	relation->md.enrtuples = nrows;
	relation->reldata = rows;
	((Offer *) relation)->distinct = NULL;
}

/*
 * cqrs_offer_describe has the planner told of them.
 */
void
cqrs_offer_describe(EphemeralNamedRelation relation)
{
	((Offer *) relation)->described = true;
}

/*
 * cqrs_offer_forget forgets the newest offer of a name.
 */
void
cqrs_offer_forget(const char *name)
{
	Offer	   *offer = find(name);

	if (offer != NULL)
		unlist(offer);
}
