/*
 * worker/launcher.c
 *		The launcher: sees to it that each database that has the extension has a worker.
 *
 * It is connected to no database, so it cannot see extensions: it starts a worker, which looks for itself and leaves where it is not wanted.  Only one
 * looks at a time, as the server's background processes are few.  What is to be done comes through shared memory (shared/slots.h); the launcher
 * sleeps until it is asked, a worker ends, or one is due to be started again.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "base/clock.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "shared/slots.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/parts.h"
#include "worker/worker.h"

#define LAUNCHER_NAME	"cqrs launcher"
#define RESTART_S		1		/* after which the server starts a launcher that ended */
#define LIBRARY_NAME	"cqrs"
#define STUCK_MS		5000	/* a start that takes so long is looked after */

/* A process that was started and has not ended, as far as we know. */
typedef struct Child
{
	CqrsTicket	ticket;
	BackgroundWorkerHandle *handle;
} Child;

static MemoryContext life;		/* the launcher's */
static MemoryContext turn;		/* one turn of its loop */
static List *pending = NIL;		/* OIDs of databases to look at, in memory of life */
static List *children = NIL;	/* of Child *, likewise */
static List *roomless = NIL;	/* OIDs of databases whose worker the server had no room for, likewise */

/*
 * fill_entry fills in what launcher and workers have in common as background processes.
 */
static void
fill_entry(BackgroundWorker *entry, const char *name, const char *function)
{
	memset(entry, 0, sizeof(BackgroundWorker));
	entry->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	entry->bgw_start_time = BgWorkerStart_RecoveryFinished;
	strlcpy(entry->bgw_library_name, LIBRARY_NAME, sizeof(entry->bgw_library_name));
	strlcpy(entry->bgw_function_name, function, sizeof(entry->bgw_function_name));
	strlcpy(entry->bgw_name, name, sizeof(entry->bgw_name));
	strlcpy(entry->bgw_type, name, sizeof(entry->bgw_type));
}

/*
 * cqrs_worker_init has the server run the launcher, and watches commands; nothing of it in a binary upgrade, where all must stay as it is.
 */
void
cqrs_worker_init(void)
{
	BackgroundWorker entry;

	if (IsBinaryUpgrade)
		return;
	fill_entry(&entry, LAUNCHER_NAME, "cqrs_launcher_main");
	entry.bgw_restart_time = RESTART_S;
	RegisterBackgroundWorker(&entry);
	cqrs_worker_watch_utility();
}

/*
 * eligible_databases lists the databases that could have a worker, in the turn's memory: those that anybody may connect to, templates aside.
 */
static List *
eligible_databases(void)
{
	List	   *databases = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!form->datallowconn || form->datistemplate || database_is_invalid_form(form))
			continue;
		old = MemoryContextSwitchTo(turn);
		databases = lappend_oid(databases, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(turn);
	return databases;
}

/*
 * want_look notes that a database is to be looked at, unless its slot takes care of that.
 */
static void
want_look(Oid database)
{
	MemoryContext old;

	if (cqrs_slots_look_again(database))
		return;
	old = MemoryContextSwitchTo(life);
	pending = list_append_unique_oid(pending, database);
	MemoryContextSwitchTo(old);
}

/*
 * take_requests turns what sessions asked for into databases to look at; after a look at all of them, slots of those that are gone are given up.
 */
static void
take_requests(void)
{
	Oid			requests[CQRS_MAX_DATABASES];
	Oid			slots[CQRS_MAX_DATABASES];
	bool		everywhere;
	int			count = cqrs_slots_take_requests(requests, CQRS_MAX_DATABASES, &everywhere);
	List	   *databases;
	ListCell   *cell;

	for (int i = 0; i < count; i++)
		want_look(requests[i]);
	if (!everywhere)
		return;
	databases = eligible_databases();
	foreach(cell, databases)
		want_look(lfirst_oid(cell));
	count = cqrs_slots_databases(slots);
	for (int i = 0; i < count; i++)
		if (!list_member_oid(databases, slots[i]))
			cqrs_slots_give_up(slots[i]);
}

/*
 * hurry_roomless has those tried again at once that the server had no room for.
 */
static void
hurry_roomless(void)
{
	ListCell   *cell;

	foreach(cell, roomless)
		(void) cqrs_slots_look_again(lfirst_oid(cell));
	list_free(roomless);
	roomless = NIL;
}

/*
 * reap forgets the processes that have ended, which makes room for others; those that never took their slot are tried again.
 */
static void
reap(void)
{
	bool		room = false;
	ListCell   *cell;

	foreach(cell, children)
	{
		Child	   *child = lfirst(cell);
		pid_t		pid;

		if (GetBackgroundWorkerPid(child->handle, &pid) != BGWH_STOPPED)
			continue;
		cqrs_slots_failed(&child->ticket);
		children = foreach_delete_current(children, cell);
		pfree(child->handle);
		pfree(child);
		room = true;
	}
	if (room)
		hurry_roomless();
}

/*
 * complain_of_room says once, until it changes, that there is no room for another worker.
 */
static void
complain_of_room(bool *complained, const char *message, const char *hint)
{
	if (!*complained)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("%s", message),
				 errhint("%s", hint)));
	*complained = true;
}

/*
 * start has the server start a worker for the ticket's database; false if it has no room for one.
 */
static bool
start(const CqrsTicket *ticket)
{
	static bool complained = false;
	BackgroundWorker entry;
	BackgroundWorkerHandle *handle;
	Child	   *child;
	MemoryContext old;

	fill_entry(&entry, CQRS_WORKER_NAME, "cqrs_worker_main");
	entry.bgw_restart_time = BGW_NEVER_RESTART;
	entry.bgw_notify_pid = MyProcPid;
	memcpy(entry.bgw_extra, ticket, sizeof(CqrsTicket));

	old = MemoryContextSwitchTo(life);
	if (RegisterDynamicBackgroundWorker(&entry, &handle))
	{
		child = palloc(sizeof(Child));
		child->ticket = *ticket;
		child->handle = handle;
		children = lappend(children, child);
		MemoryContextSwitchTo(old);
		complained = false;
		return true;
	}
	roomless = list_append_unique_oid(roomless, ticket->database);
	MemoryContextSwitchTo(old);
	cqrs_slots_failed(ticket);
	complain_of_room(&complained, "cqrs could not start a worker: all background processes of the server are in use",
					 "Increase max_worker_processes.");
	return false;
}

/*
 * next_start takes a slot for the database whose turn it is: one that waited for its time, or the first to look at that can be had.
 */
static bool
next_start(CqrsTicket *ticket, TimestampTz *next)
{
	static bool complained = false;
	Oid			due = cqrs_slots_due(next);
	ListCell   *cell;

	if (OidIsValid(due))
	{
		*ticket = cqrs_slots_begin(due);
		return ticket->slot >= 0;
	}
	if (pending == NIL)
		return false;
	if (!cqrs_slots_room())
	{
		complain_of_room(&complained, "cqrs has no room for workers of more databases",
						 "Drop the extension where it is not used.");
		return false;
	}
	complained = false;
	foreach(cell, pending)
	{
		*ticket = cqrs_slots_begin(lfirst_oid(cell));
		if (ticket->slot < 0)
			continue;
		pending = foreach_delete_current(pending, cell);
		return true;
	}
	return false;
}

/*
 * do_turn does what is to be done now; returns when to look again, if nobody wakes us before (DT_NOEND: never).
 */
static TimestampTz
do_turn(void)
{
	TimestampTz next = DT_NOEND;
	TimestampTz stuck;
	CqrsTicket	ticket;

	take_requests();
	reap();
	while (!cqrs_slots_starting() && next_start(&ticket, &next))
	{
		if (!list_member_oid(eligible_databases(), ticket.database))
			cqrs_slots_give_up(ticket.database);
		else if (!start(&ticket))
		{
			(void) cqrs_slots_due(&next);
			break;
		}
	}
	stuck = TimestampTzPlusMilliseconds(cqrs_clock_now(), STUCK_MS);
	if (cqrs_slots_starting())
		next = Min(next, stuck);
	cqrs_slots_report_looking(pending != NIL);
	return next;
}

/*
 * sleep_until sleeps until the latch is set or a time has come.
 */
static void
sleep_until(TimestampTz next)
{
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	long		timeout = -1;

	if (next != DT_NOEND)
	{
		events |= WL_TIMEOUT;
		timeout = cqrs_clock_until(next);
	}
	(void) WaitLatch(MyLatch, events, timeout, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/*
 * serve_interrupts does what the server asks of every process; a new cqrs.max_workers is a reason to look everywhere.
 */
static void
serve_interrupts(void)
{
	int			max_workers = cqrs_setting_max_workers;

	if (ShutdownRequestPending)
		proc_exit(1);			/* so that it is started again, unless the server stops */
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	if (cqrs_setting_max_workers != max_workers)
		cqrs_slots_look_everywhere();
}

/*
 * cqrs_launcher_main is where the server enters the launcher.
 */
void
cqrs_launcher_main(Datum main_arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	life = AllocSetContextCreate(TopMemoryContext, "cqrs launcher", ALLOCSET_DEFAULT_SIZES);
	turn = AllocSetContextCreate(life, "cqrs launcher turn", ALLOCSET_SMALL_SIZES);
	cqrs_slots_attach_launcher();
	for (;;)
	{
		TimestampTz next;

		serve_interrupts();
		MemoryContextReset(turn);
		MemoryContextSwitchTo(turn);
		next = do_turn();
		MemoryContextSwitchTo(life);
		sleep_until(next);
	}
}
