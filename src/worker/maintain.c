/*
 * worker/maintain.c
 *		Looking after the outbox and our own catalog: segments that are full, consumed or old, commands executed long ago, and what VACUUM would clear away.
 *
 * Nobody is waited for.  What others stood in the way of is tried again soon, and less and less soon; what versions hold back, when a round may have moved
 * them on.  Each part is a transaction of its own.
 */
#include "postgres.h"

#include "access/table.h"
#include "base/blame.h"
#include "base/clock.h"
#include "capture/capture.h"
#include "command/command.h"
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
#define PRUNE_EVERY_MS		10000	/* a look at commands that need not be known any more */
#define PRUNE_ROWS			1000	/* in one transaction */
#define PRUNE_STEPS			20		/* in one look */

/* Tables that are written to all the time: with autovacuum off nobody else would clear them. */
static const CqrsCatalog busy_tables[] = {
	CQRS_CAT_CHECKPOINT, CQRS_CAT_VERSION, CQRS_CAT_SEGMENT, CQRS_CAT_HISTORY, CQRS_CAT_SOURCE,
	CQRS_CAT_COMMAND_CALL, CQRS_CAT_COMMAND_REPLAY};

static CqrsUpkeep upkeep;		/* what the last look has come to */
static int	tries = 0;			/* in a row that somebody was in the way of */
static bool pending = false;	/* versions have moved on since */
static TimestampTz looked_at = 0;
static TimestampTz look_at = 0;
static TimestampTz vacuum_at = 0;
static TimestampTz prune_at = 0;
static bool prune_more = false; /* the last step left some */
static BlockNumber vacuumed[lengthof(busy_tables)]; /* sizes at the last VACUUM */

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
 * size_of returns the size of one of our tables, in pages.
 */
static BlockNumber
size_of(int which)
{
	Relation	rel = table_open(cqrs_registry_relation(busy_tables[which]), AccessShareLock);
	BlockNumber size = RelationGetNumberOfBlocks(rel);

	table_close(rel, AccessShareLock);
	return size;
}

/*
 * work_vacuum vacuums those of our tables that have grown by half since they were last vacuumed.
 *
 * The end of a table is not given back to the system: that would lock out readers on standbys.  So the size before VACUUM is the size after it.
 */
static bool
work_vacuum(CqrsTask *task)
{
	List	   *tables = NIL;

	for (int i = 0; i < lengthof(busy_tables); i++)
	{
		BlockNumber size = size_of(i);

		if (size < VACUUM_PAGES || size <= vacuumed[i] + vacuumed[i] / 2)
			continue;
		tables = lappend_oid(tables, cqrs_registry_relation(busy_tables[i]));
		vacuumed[i] = size;
	}
	if (tables != NIL)
		cqrs_worker_vacuum(tables, false);
	return true;
}

/*
 * work_prune forgets some commands that were executed long ago.
 */
static bool
work_prune(CqrsTask *task)
{
	prune_more = cqrs_command_prune(PRUNE_ROWS);
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
	if (cqrs_blame(error) != CQRS_BLAME_OTHERS)
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
	static const CqrsStep step = {.work = work_vacuum,.activity = "cqrs: vacuum the catalog of cqrs"};

	if (vacuum_at > cqrs_clock_now())
		return;
	vacuum_at = TimestampTzPlusMilliseconds(cqrs_clock_now(), VACUUM_EVERY_MS);
	(void) take(&step);
}

/*
 * prune_commands forgets commands that were executed long ago, if it is time; what a look leaves is left to the next.
 */
static void
prune_commands(void)
{
	static const CqrsStep step = {.work = work_prune,.activity = "cqrs: forget old commands"};
	int			steps = 0;

	if (prune_at > cqrs_clock_now())
		return;
	prune_at = TimestampTzPlusMilliseconds(cqrs_clock_now(), PRUNE_EVERY_MS);
	do
		prune_more = false;
	while (take(&step) && prune_more && ++steps < PRUNE_STEPS);
}

/*
 * due returns when to look after the outbox.  As long as versions move on, of which one holds a segment back, that is soon.
 */
static TimestampTz
due(bool moved)
{
	pending |= moved;
	if (cqrs_shared_upkeep_asked())
		return looked_at;
	if (pending && upkeep.held)
		return Min(look_at, TimestampTzPlusMilliseconds(looked_at, AGAIN_MS));
	return look_at;
}

/*
 * next_look returns when to look after the outbox again, if nobody asks before.
 *
 * After a segment was closed, at once: versions that read nothing of it move on past it in the round before.
 */
static TimestampTz
next_look(bool failed)
{
	TimestampTz next = TimestampTzPlusMilliseconds(looked_at, cqrs_setting_naptime);

	if (upkeep.rotated)
		return looked_at;
	if (upkeep.freed > 0 || !(upkeep.busy || failed))
		tries = 0;
	if (upkeep.busy || failed)
	{
		TimestampTz again = cqrs_clock_backoff(++tries, AGAIN_MS, Min(AGAIN_MAX_MS, cqrs_setting_naptime));

		next = Min(next, again);
	}
	return Min(next, upkeep.again);
}

/*
 * cqrs_worker_maintain looks after the outbox and our catalog, if it is time; returns when to look again.
 */
TimestampTz
cqrs_worker_maintain(bool moved)
{
	static const CqrsStep upkeep_step = {.work = work_upkeep,.activity = "cqrs: look after the outbox"};
	static const CqrsStep recapture_step = {.work = work_recapture,.activity = "cqrs: capture sources again"};
	TimestampTz when = due(moved);
	bool		failed;

	vacuum_tables();
	prune_commands();
	if (when > cqrs_clock_now())
		return when;
	memset(&upkeep, 0, sizeof(upkeep));
	upkeep.again = DT_NOEND;
	pending = false;
	failed = !take(&upkeep_step);
	failed |= !take(&recapture_step);
	looked_at = cqrs_clock_now();
	look_at = next_look(failed);
	return look_at;
}
