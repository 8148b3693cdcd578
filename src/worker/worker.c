/*
 * worker/worker.c
 *		A worker's life: take the slot, connect, force the session, look whether it is wanted, loop.
 *
 * Leaves what is done in a round to schedule.c.  An error that gets as far as here ends the process, and the launcher starts another after a while.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "base/clock.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "registry/registry.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "shared/slots.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "worker/parts.h"
#include "worker/worker.h"

/* What no ALTER DATABASE or ALTER ROLE SET shall have a say in: name and value in turn. */
static const char *const forced_settings[][2] = {
	{"application_name", CQRS_WORKER_NAME},
	{"default_transaction_deferrable", "off"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"idle_in_transaction_session_timeout", "0"},
	{"lock_timeout", "0"},
	{"row_security", "off"},
	{"search_path", "pg_catalog"},
	{"session_replication_role", "origin"},
	{"standard_conforming_strings", "on"},
	{"statement_timeout", "0"},
	{"transform_null_equals", "off"},
	{"zero_damaged_pages", "off"}
};

MemoryContext cqrs_worker_memory = NULL;
MemoryContext cqrs_worker_turn = NULL;

static Oid	extension = InvalidOid; /* that this worker serves */
static volatile sig_atomic_t told_to_leave = false;
static volatile sig_atomic_t busy = true;	/* not asleep in the loop */

/*
 * handle_sigterm ends what is being done, as in any session; asleep, where nothing need be interrupted, it just wakes us to leave quietly.
 */
static void
handle_sigterm(SIGNAL_ARGS)
{
	int			saved_errno = errno;

	told_to_leave = true;
	cqrs_slots_told_to_leave();
	if (busy)
		die(postgres_signal_arg);
	else
		SetLatch(MyLatch);
	errno = saved_errno;
}

/*
 * force sets one setting so that nothing but another call changes it.
 */
static void
force(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * force_session makes the session what the code of a worker counts on.
 */
static void
force_session(void)
{
	for (int i = 0; i < lengthof(forced_settings); i++)
		force(forced_settings[i][0], forced_settings[i][1]);
	force("synchronous_commit", GetConfigOption("cqrs.synchronous_commit", false, false));
}

/*
 * cqrs_worker_extension_there tells whether the extension is the one we began with, and keeps it to the end of the transaction.
 *
 * DROP EXTENSION locks it first, too: without the lock we would come upon tables that go away one after the other.
 */
bool
cqrs_worker_extension_there(void)
{
	LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
	return get_extension_oid("cqrs", true) == extension;
}

/*
 * wanted tells whether this database is to have a worker, and shows which database that is.
 */
static bool
wanted(void)
{
	bool		exists;

	StartTransactionCommand();
	set_ps_display(get_database_name(MyDatabaseId));
	exists = cqrs_registry_exists();
	if (exists)
		extension = get_extension_oid("cqrs", false);
	CommitTransactionCommand();
	return exists && cqrs_setting_max_workers > 0;
}

/*
 * cqrs_worker_leave ends this process for good.
 *
 * If the extension was dropped and created again since, what we keep of it in memory is of another time; another worker takes over.
 */
void
cqrs_worker_leave(void)
{
	bool		exists;

	AbortCurrentTransaction();
	StartTransactionCommand();
	exists = cqrs_registry_exists();
	CommitTransactionCommand();
	if (exists)
		(void) cqrs_slots_look_again(MyDatabaseId);
	cqrs_slots_resign();
	proc_exit(0);
}

/*
 * serve_interrupts does what was asked of us while we slept.
 */
static void
serve_interrupts(void)
{
	if (told_to_leave)
		proc_exit(0);
	QueryCancelPending = false; /* there is nothing to cancel */
	CHECK_FOR_INTERRUPTS();
	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	force("synchronous_commit", GetConfigOption("cqrs.synchronous_commit", false, false));
	if (cqrs_setting_max_workers == 0)
		cqrs_worker_leave();
}

/*
 * work_until_idle does rounds until nobody has woken us during the last one; returns when to look again.
 */
static TimestampTz
work_until_idle(void)
{
	TimestampTz next;

	(void) cqrs_slots_woken();
	do
	{
		serve_interrupts();
		MemoryContextReset(cqrs_worker_turn);
		MemoryContextSwitchTo(cqrs_worker_turn);
		next = cqrs_worker_round();
	} while (cqrs_slots_woken() || next <= cqrs_clock_now());
	MemoryContextSwitchTo(cqrs_worker_memory);
	cqrs_shared_report(CQRS_PHASE_IDLE, 0, 0);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	return next;
}

/*
 * sleep_until sleeps until the latch is set or a time has come.
 */
static void
sleep_until(TimestampTz next)
{
	busy = false;
	if (!told_to_leave)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, cqrs_clock_until(next),
						 PG_WAIT_EXTENSION);
	busy = true;
	ResetLatch(MyLatch);
}

/*
 * cqrs_worker_main is where the server enters a worker.
 */
void
cqrs_worker_main(Datum main_arg)
{
	CqrsTicket	ticket;

	memcpy(&ticket, MyBgworkerEntry->bgw_extra, sizeof(CqrsTicket));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, handle_sigterm);
	if (!cqrs_slots_attach(&ticket))
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(ticket.database, InvalidOid, 0);
	force_session();
	cqrs_worker_memory = AllocSetContextCreate(TopMemoryContext, "cqrs worker", ALLOCSET_DEFAULT_SIZES);
	cqrs_worker_turn = AllocSetContextCreate(cqrs_worker_memory, "cqrs worker turn", ALLOCSET_DEFAULT_SIZES);
	if (!wanted())
	{
		cqrs_slots_resign();
		proc_exit(0);
	}
	cqrs_slots_settle();
	for (;;)
		sleep_until(work_until_idle());
}
