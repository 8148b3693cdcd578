/*
 * apply/feed.c
 *		What a batch changes in a version's table, kept for the versions of the batch that read it.
 *
 * An AFTER ROW trigger of ours on the table notes each row that comes or goes while a feed of that table is open, so any statement feeds the readers,
 * whatever the strategy.  The trigger is made when a first version reads the table, by whoever holds the lock of the version that the table is of: then nobody
 * else writes to it.  While no feed is open it does nothing.
 *
 * A feed lives as long as the batch, in its memory and with its resource owner.  Leaves what readers make of the rows to delta.c.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "apply/parts.h"
#include "base/locks.h"
#include "base/spi.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "settings/settings.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#define FEED_TRIGGER	"cqrs_feed"
#define AT_ONCE_MS		50		/* as in batch.c */

PG_FUNCTION_INFO_V1(cqrs_feed_row);

static CqrsFeed *fed = NULL;	/* the open one */
static bool watching = false;	/* for subtransactions that are rolled back */

/*
 * has_trigger tells whether a table feeds its readers.
 */
static bool
has_trigger(Oid table)
{
	Relation	relation = relation_open(table, AccessShareLock);
	const TriggerDesc *triggers = relation->trigdesc;
	bool		found = false;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		found = found || (strcmp(triggers->triggers[i].tgname, FEED_TRIGGER) == 0 &&
						  triggers->triggers[i].tgenabled == TRIGGER_FIRES_ALWAYS);
	relation_close(relation, NoLock);
	return found;
}

/*
 * make_trigger makes the trigger by which a table feeds its readers, in place of one that was disabled.
 */
static void
make_trigger(Oid table)
{
	CreateTrigStmt *statement = makeNode(CreateTrigStmt);
	CqrsIdentity saved;

	statement->replace = true;
	statement->trigname = FEED_TRIGGER;
	statement->funcname = list_make2(makeString("cqrs_internal"), makeString("feed"));
	statement->row = true;
	statement->timing = TRIGGER_TYPE_AFTER;
	statement->events = TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE;
	cqrs_identity_enter_system(&saved);
	(void) CreateTriggerFiringOn(statement, NULL, table, InvalidOid, InvalidOid, InvalidOid, InvalidOid, InvalidOid, NULL,
								 false, false, TRIGGER_FIRES_ALWAYS);
	cqrs_identity_leave(&saved);
	CommandCounterIncrement();
}

/*
 * cqrs_feed_ensure has a version's table feed its readers from now on; without 'wait' false if the lock that takes could not be had at once.
 */
bool
cqrs_feed_ensure(Oid table, bool wait)
{
	if (has_trigger(table))
		return true;
	if (wait)
		cqrs_locks_take(list_make1_oid(table), ShareRowExclusiveLock, cqrs_setting_lock_timeout);
	else if (!cqrs_locks_try(list_make1_oid(table), ShareRowExclusiveLock, AT_ONCE_MS, NULL))
		return false;
	make_trigger(table);
	return true;
}

/*
 * on_subtransaction notices that rows which were fed are rolled back: the feed cannot be told which.
 */
static void
on_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *argument)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && fed != NULL && fed->last >= mine)
		fed->broken = true;
}

/*
 * cqrs_feed_make makes a feed for what will change in a table.
 */
CqrsFeed *
cqrs_feed_make(Oid table)
{
	Relation	relation = relation_open(table, AccessShareLock);
	CqrsFeed   *feed = palloc0(sizeof(CqrsFeed));
	int			natts = RelationGetDescr(relation)->natts;

	feed->table = table;
	feed->desc = CreateTemplateTupleDesc(natts + 1);
	for (int i = 1; i <= natts; i++)
		TupleDescCopyEntry(feed->desc, i, RelationGetDescr(relation), i);
	TupleDescInitEntry(feed->desc, natts + 1, "kind", INT4OID, -1, 0);
	feed->rows = tuplestore_begin_heap(false, false, work_mem);
	feed->values = palloc(sizeof(Datum) * (natts + 1));
	feed->nulls = palloc(sizeof(bool) * (natts + 1));
	relation_close(relation, NoLock);
	return feed;
}

/*
 * cqrs_feed_open has the rows that change from now on in the feed's table put into it, until cqrs_feed_close, which errors need too; NULL is no feed.
 */
void
cqrs_feed_open(CqrsFeed *feed)
{
	if (!watching)
		RegisterSubXactCallback(on_subtransaction, NULL);
	watching = true;
	fed = feed;
}

/*
 * cqrs_feed_close ends what cqrs_feed_open began.
 */
void
cqrs_feed_close(void)
{
	fed = NULL;
}

/*
 * cqrs_apply_feed_truncate notices that a table is truncated: no row tells of it.
 */
void
cqrs_apply_feed_truncate(Oid table)
{
	if (fed != NULL && fed->table == table)
		fed->broken = true;
}

/*
 * put_row puts one image of a row into the feed.
 */
static void
put_row(CqrsFeed *feed, TupleTableSlot *slot, CqrsFeedKind kind)
{
	int			natts = feed->desc->natts - 1;

	slot_getallattrs(slot);
	for (int i = 0; i < natts; i++)
	{
		feed->nulls[i] = i >= slot->tts_nvalid || slot->tts_isnull[i] || TupleDescAttr(feed->desc, i)->attisdropped;
		feed->values[i] = feed->nulls[i] ? (Datum) 0 : slot->tts_values[i];
	}
	feed->values[natts] = Int32GetDatum((int32) kind);
	feed->nulls[natts] = false;
	tuplestore_putvalues(feed->rows, feed->desc, feed->values, feed->nulls);
	feed->count++;
	feed->last = Max(feed->last, GetCurrentSubTransactionId());
}

/*
 * cqrs_internal.feed() RETURNS trigger
 *
 * Notes a row that a batch changes in a version's table for the versions that read it.
 */
Datum
cqrs_feed_row(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"feed\" was not called by trigger manager")));
	if (fed == NULL || fed->table != RelationGetRelid(trigger->tg_relation) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		put_row(fed, trigger->tg_trigslot, CQRS_FEED_INSERTED);
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		put_row(fed, trigger->tg_trigslot, CQRS_FEED_DELETED);
	else
	{
		put_row(fed, trigger->tg_trigslot, CQRS_FEED_BEFORE);
		put_row(fed, trigger->tg_newslot, CQRS_FEED_AFTER);
	}
	return PointerGetDatum(NULL);
}
