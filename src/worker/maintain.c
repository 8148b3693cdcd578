/*
 * worker/maintain.c
 *		Looking after the outbox and our own catalog: segments that are full, consumed or old, and what VACUUM would clear away.
 *
 * Nobody is waited for.  What others stood in the way of is tried again soon, and less and less soon; what versions hold back, when a round may have moved
 * them on.  Each part is a transaction of its own.
 */
#include "postgres.h"

#include "access/table.h"
#include "base/clock.h"
#include "capture/capture.h"
#include "outbox/outbox.h"
#include "settings/settings.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "worker/parts.h"

#define AGAIN_MS			200		/* between two looks, as long as something moves */
#define AGAIN_MAX_MS		10000	/* where somebody is in the way */
#define VACUUM_EVERY_MS		10000	/* a look at how large our tables have become */
#define VACUUM_PAGES		32		/* smaller ones are left alone */

/* Tables that are written to all the time: with autovacuum off nobody else would clear them. */
static const CqrsCatalog busy_tables[] = {
	CQRS_CAT_CHECKPOINT, CQRS_CAT_VERSION, CQRS_CAT_SEGMENT, CQRS_CAT_HISTORY, CQRS_CAT_SOURCE};

static CqrsUpkeep upkeep;		/* what the last look has come to */
static int	tries = 0;			/* in a row that somebody was in the way of */
static TimestampTz looked_at = 0;
static TimestampTz look_at = 0;
static TimestampTz vacuum_at = 0;
static BlockNumber vacuumed[lengthof(busy_tables)]; /* sizes after the last VACUUM */

/*
 * work_recapture captures sources again whose capture was suspended when the outbox was full.
 */
static bool
work_recapture(CqrsTask *task)
{
	cqrs_worker_limit_lock_timeout();
	cqrs_capture_resume();
	return true;
}

/*
 * work_upkeep looks after the outbox.
 */
static bool
work_upkeep(CqrsTask *task)
{
	cqrs_outbox_upkeep(&upkeep);
	return true;
}

/*
 * grown tells whether a table of ours has grown by half since it was last vacuumed.
 */
static bool
grown(int which)
{
	Relation	rel = table_open(cqrs_registry_relation(busy_tables[which]), AccessShareLock);
	BlockNumber size = RelationGetNumberOfBlocks(rel);

	table_close(rel, AccessShareLock);
	return size >= VACUUM_PAGES && size > vacuumed[which] + vacuumed[which] / 2;
}

/*
 * work_vacuum vacuums those of our tables that have grown.
 *
 * The end of a table is not given back to the system: that would lock out readers on standbys.
 */
static bool
work_vacuum(CqrsTask *task)
{
	List	   *tables = NIL;

	for (int i = 0; i < lengthof(busy_tables); i++)
		if (grown(i))
			tables = lappend_oid(tables, cqrs_registry_relation(busy_tables[i]));
	if (tables != NIL)
		cqrs_worker_vacuum(tables, false);
	return true;
}

/*
 * work_measure notes how large our tables are after VACUUM.
 */
static bool
work_measure(CqrsTask *task)
{
	for (int i = 0; i < lengthof(busy_tables); i++)
	{
		Relation	rel = table_open(cqrs_registry_relation(busy_tables[i]), AccessShareLock);

		vacuumed[i] = RelationGetNumberOfBlocks(rel);
		table_close(rel, AccessShareLock);
	}
	return true;
}

/*
 * take runs a step and tells of its failure; false if it failed.
 */
static bool
take(const CqrsStep *step)
{
	ErrorData  *error;

	if (cqrs_worker_step(NULL, step, &error) != CQRS_STEP_FAILED)
		return true;
	if (!cqrs_worker_in_the_way(error))
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("cqrs could not look after the outbox and will try again: %s", error->message)));
	return false;
}

/*
 * vacuum_tables vacuums our tables, if it is time to see whether they have grown.
 */
static void
vacuum_tables(void)
{
	static const CqrsStep vacuum_step = {.work = work_vacuum,.activity = "cqrs: vacuum the catalog of cqrs"};
	static const CqrsStep measure_step = {.work = work_measure,.activity = "cqrs: vacuum the catalog of cqrs"};

	if (vacuum_at > cqrs_clock_now())
		return;
	vacuum_at = TimestampTzPlusMilliseconds(cqrs_clock_now(), VACUUM_EVERY_MS);
	if (take(&vacuum_step))
		(void) take(&measure_step);
}

/*
 * due tells whether it is time to look after the outbox.
 */
static bool
due(void)
{
	TimestampTz now = cqrs_clock_now();

	if (cqrs_shared_upkeep_asked() || look_at <= now)
		return true;
	return (upkeep.held || upkeep.busy) && TimestampDifferenceExceeds(looked_at, now, AGAIN_MS);
}

/*
 * next_look returns when to look after the outbox again, if nobody asks before.
 */
static TimestampTz
next_look(bool failed)
{
	TimestampTz next = TimestampTzPlusMilliseconds(looked_at, cqrs_setting_naptime);

	if (upkeep.freed > 0 || upkeep.rotated)
		tries = 0;
	if (upkeep.busy || failed)
		next = Min(next, cqrs_clock_backoff(++tries, AGAIN_MS, Min(AGAIN_MAX_MS, cqrs_setting_naptime)));
	else
		tries = 0;
	return Min(next, upkeep.again);
}

/*
 * cqrs_worker_maintain looks after the outbox and our catalog, if it is time; returns when to look again.
 *
 * After a segment was closed, versions that read nothing of it have to move on past it: so another round follows at once.
 */
TimestampTz
cqrs_worker_maintain(void)
{
	static const CqrsStep upkeep_step = {.work = work_upkeep,.activity = "cqrs: look after the outbox"};
	static const CqrsStep recapture_step = {.work = work_recapture,.activity = "cqrs: capture sources again"};
	bool		failed;

	vacuum_tables();
	if (!due())
		return look_at;
	memset(&upkeep, 0, sizeof(upkeep));
	upkeep.again = DT_NOEND;
	failed = !take(&upkeep_step);
	failed |= !take(&recapture_step);
	looked_at = cqrs_clock_now();
	look_at = next_look(failed);
	return upkeep.rotated ? looked_at : look_at;
}
