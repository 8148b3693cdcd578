/*
 * shared/shared.c
 *		Shared memory: made at server start, asked by sessions, and what they ask of workers when they commit.
 *
 * Leaves to slots.c how launcher and workers come by their slots, and to hold.c how sessions keep them out of a database.  No transaction needed,
 * except for what is said to happen at commit.  The lock is held for moments, and nothing is allocated or raised under it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/clock.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shared/shared.h"
#include "shared/state.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#define TRANCHE			"cqrs"
#define SOON_MS			1000	/* a worker due within that counts as running */
#define LAUNCHER_MS		5000	/* a launcher that is not there is waited for that long: the server starts it, and again */
#define NAP_MS			20		/* instead of waiting for progress, without shared memory */

/* What this transaction's commit is to do, as bits. */
#define AT_COMMIT_WAKE			0x01
#define AT_COMMIT_ANNOUNCE		0x02
#define AT_COMMIT_LOOK			0x04
#define AT_COMMIT_EVERYWHERE	0x08
#define AT_COMMIT_RESTART		0x10
#define AT_COMMIT_UPKEEP		0x20

CqrsSharedState *cqrs_shared_state = NULL;
CqrsSlot   *cqrs_shared_slot = NULL;

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;
static int	at_commit = 0;
static bool committed = false;
static Oid	restart_database = InvalidOid;

/*
 * request_memory asks the server for space and a lock.
 */
static void
request_memory(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(CqrsSharedState)));
	RequestNamedLWLockTranche(TRANCHE, 1);
}

/*
 * startup_memory makes the state, empty, when the server starts and again after a crash.
 */
static void
startup_memory(void)
{
	bool		found;

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	cqrs_shared_state = ShmemInitStruct("cqrs", sizeof(CqrsSharedState), &found);
	if (!found)
	{
		memset(cqrs_shared_state, 0, sizeof(CqrsSharedState));
		cqrs_shared_state->lock = &GetNamedLWLockTranche(TRANCHE)->lock;
		cqrs_shared_state->launcher_since = cqrs_clock_now();
		cqrs_shared_state->looking = true;
		for (int i = 0; i < CQRS_PROGRESS_PARTS; i++)
		{
			pg_atomic_init_u64(&cqrs_shared_state->progress[i].counter, 0);
			ConditionVariableInit(&cqrs_shared_state->progress[i].moved);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * cqrs_shared_init installs the hooks for shared memory.
 */
void
cqrs_shared_init(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_memory;
}

/*
 * cqrs_shared_available tells whether the library was preloaded.
 */
bool
cqrs_shared_available(void)
{
	return cqrs_shared_state != NULL;
}

/*
 * cqrs_shared_find returns the slot of a database, or NULL.
 *
 * The last one found is looked at first, since nearly all who ask do so for their own database.
 */
CqrsSlot *
cqrs_shared_find(Oid database)
{
	static int	last = 0;

	if (cqrs_shared_state->slots[last].database == database)
		return &cqrs_shared_state->slots[last];
	for (int i = 0; i < CQRS_MAX_DATABASES; i++)
	{
		if (cqrs_shared_state->slots[i].database == database)
		{
			last = i;
			return &cqrs_shared_state->slots[i];
		}
		if (cqrs_shared_state->slots[i].generation == 0)
			break;				/* never taken, nor is any behind it */
	}
	return NULL;
}

/*
 * launcher_expected tells whether there is a launcher, or the server is about to start one.  Wants the lock.
 */
static bool
launcher_expected(void)
{
	return cqrs_shared_state->launcher_pid != 0 ||
		!TimestampDifferenceExceeds(cqrs_shared_state->launcher_since, cqrs_clock_now(), LAUNCHER_MS);
}

/*
 * launcher_asked tells whether the launcher is still to look at this database.  Wants the lock.
 */
static bool
launcher_asked(void)
{
	if (cqrs_shared_state->looking || cqrs_shared_state->everywhere)
		return true;
	for (int i = 0; i < cqrs_shared_state->nrequests; i++)
		if (cqrs_shared_state->requests[i] == MyDatabaseId)
			return true;
	return false;
}

/*
 * cqrs_shared_worker_runs tells whether something can be expected of a worker of this database.
 *
 * One that is due within a moment counts: after CREATE EXTENSION, a crash or a signal it is worth waiting for.
 */
bool
cqrs_shared_worker_runs(void)
{
	CqrsSlot   *slot;
	bool		runs;

	if (cqrs_shared_state == NULL || RecoveryInProgress())
		return false;
	LWLockAcquire(cqrs_shared_state->lock, LW_SHARED);
	slot = cqrs_shared_find(MyDatabaseId);
	if (slot != NULL && slot->pid != 0)
		runs = true;
	else if (!launcher_expected())
		runs = false;
	else if (slot == NULL || slot->state != CQRS_SLOT_WAITING)
		runs = slot != NULL || launcher_asked();
	else
		runs = slot->start_at <= TimestampTzPlusMilliseconds(cqrs_clock_now(), SOON_MS);
	LWLockRelease(cqrs_shared_state->lock);
	return runs;
}

/*
 * cqrs_shared_wake_launcher sets the launcher's latch; a latch that nobody owns any more takes it without harm.
 */
void
cqrs_shared_wake_launcher(void)
{
	PGPROC	   *launcher = *(PGPROC *volatile *) &cqrs_shared_state->launcher;

	if (launcher != NULL)
		SetLatch(&launcher->procLatch);
}

/*
 * cqrs_shared_wake_worker wakes this database's worker.
 *
 * Called by every commit that captured something, so without a lock: the commit is visible already, and the barrier sees to it that a worker
 * that clears the flag after we set it finds the commit in its next snapshot.
 */
void
cqrs_shared_wake_worker(void)
{
	CqrsSlot   *slot;
	PGPROC	   *proc;

	if (cqrs_shared_state == NULL || !OidIsValid(MyDatabaseId))
		return;
	pg_memory_barrier();
	slot = cqrs_shared_find(MyDatabaseId);
	if (slot == NULL)
		return;
	*(volatile bool *) &slot->woken = true;
	proc = *(PGPROC *volatile *) &slot->proc;
	if (proc != NULL)
		SetLatch(&proc->procLatch);
}

/*
 * cqrs_shared_ask_upkeep wakes this database's worker to look after the outbox.
 */
void
cqrs_shared_ask_upkeep(void)
{
	CqrsSlot   *slot = cqrs_shared_state && OidIsValid(MyDatabaseId) ? cqrs_shared_find(MyDatabaseId) : NULL;

	if (slot == NULL)
		return;
	*(volatile bool *) &slot->upkeep = true;
	cqrs_shared_wake_worker();
}

/*
 * cqrs_shared_upkeep_asked takes the flag; only for the worker.
 */
bool
cqrs_shared_upkeep_asked(void)
{
	bool		asked = cqrs_shared_slot->upkeep;

	cqrs_shared_slot->upkeep = false;
	pg_memory_barrier();
	return asked;
}

/*
 * ask_launcher leaves a request, or asks for all where there is no room for it.
 */
static void
ask_launcher(Oid database, bool everywhere, bool restart)
{
	CqrsSlot   *slot;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	slot = cqrs_shared_find(database);
	if (everywhere || cqrs_shared_state->nrequests == CQRS_MAX_REQUESTS)
		cqrs_shared_state->everywhere = true;
	else
		cqrs_shared_state->requests[cqrs_shared_state->nrequests++] = database;
	if (restart && slot != NULL)
		cqrs_shared_ask(slot);
	LWLockRelease(cqrs_shared_state->lock);
	cqrs_shared_wake_launcher();
}

/*
 * announce moves this database's progress on and wakes who waits for it.
 */
static void
announce(void)
{
	CqrsProgress *progress = &cqrs_shared_state->progress[MyDatabaseId % CQRS_PROGRESS_PARTS];

	pg_atomic_fetch_add_u64(&progress->counter, 1);
	ConditionVariableBroadcast(&progress->moved);
}

/*
 * after_commit does what the transaction asked for, now that others see what it did.
 */
static void
after_commit(int flags)
{
	if (flags & AT_COMMIT_WAKE)
		cqrs_shared_wake_worker();
	if (flags & AT_COMMIT_UPKEEP)
		cqrs_shared_ask_upkeep();
	if (flags & AT_COMMIT_ANNOUNCE)
		announce();
	if (flags & (AT_COMMIT_LOOK | AT_COMMIT_EVERYWHERE))
		ask_launcher(MyDatabaseId, (flags & AT_COMMIT_EVERYWHERE) != 0, false);
	if (flags & AT_COMMIT_RESTART)
		ask_launcher(restart_database, false, true);
}

/*
 * end_of_transaction notes how the transaction ended.
 *
 * A prepared transaction's requests are lost here; whoever watches COMMIT PREPARED makes up for them.
 */
static void
end_of_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT)
		committed = true;
	else if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		at_commit = 0;
}

/*
 * after_locks does what was asked for at commit, once others have been told what changed in the catalogs and can have our locks.
 *
 * The commit itself is too early: whom we wake then could look at what it remembers of a table that we have altered, and go to sleep again.  Called for
 * every resource owner of the transaction; the first call finds all.
 */
static void
after_locks(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	int			flags = at_commit;

	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	at_commit = 0;
	cqrs_shared_release();
	if (committed && flags != 0)
		after_commit(flags);
	committed = false;
}

/*
 * ask_at_commit notes what this transaction's commit is to do, and sees to it that it is told.
 */
static void
ask_at_commit(int flag)
{
	static bool registered = false;

	if (cqrs_shared_state == NULL)
		return;
	if (!registered)
	{
		RegisterXactCallback(end_of_transaction, NULL);
		RegisterResourceReleaseCallback(after_locks, NULL);
	}
	registered = true;
	at_commit |= flag;
}

/*
 * cqrs_shared_watch_transaction sees to it that the end of this transaction is noticed.
 */
void
cqrs_shared_watch_transaction(void)
{
	ask_at_commit(0);
}

/*
 * cqrs_shared_wake_at_commit wakes this database's worker at commit.
 */
void
cqrs_shared_wake_at_commit(void)
{
	ask_at_commit(AT_COMMIT_WAKE);
}

/*
 * cqrs_shared_ask_upkeep_at_commit has this database's worker look after the outbox at commit: what holds segments back has moved on.
 */
void
cqrs_shared_ask_upkeep_at_commit(void)
{
	ask_at_commit(AT_COMMIT_UPKEEP);
}

/*
 * cqrs_shared_look_at_commit lets the launcher look at this database at commit; a worker that runs is woken, to look for itself.
 */
void
cqrs_shared_look_at_commit(void)
{
	ask_at_commit(AT_COMMIT_LOOK | AT_COMMIT_WAKE);
}

/*
 * cqrs_shared_look_everywhere_at_commit lets the launcher look at all databases at commit.
 */
void
cqrs_shared_look_everywhere_at_commit(void)
{
	ask_at_commit(AT_COMMIT_EVERYWHERE);
}

/*
 * cqrs_shared_restart_at_commit lets a database's worker start again at commit.
 */
void
cqrs_shared_restart_at_commit(Oid database)
{
	ask_at_commit(AT_COMMIT_RESTART);
	restart_database = database;
}

/*
 * cqrs_shared_announce_at_commit wakes at commit who waits for progress.
 */
void
cqrs_shared_announce_at_commit(void)
{
	ask_at_commit(AT_COMMIT_ANNOUNCE);
}

/*
 * cqrs_shared_progress returns a number that grows whenever an applier of this database has committed.
 */
uint64
cqrs_shared_progress(void)
{
	if (cqrs_shared_state == NULL)
		return 0;
	return pg_atomic_read_u64(&cqrs_shared_state->progress[MyDatabaseId % CQRS_PROGRESS_PARTS].counter);
}

/*
 * cqrs_shared_wait_progress sleeps until progress has moved past 'seen', or 'timeout_ms' have gone by.
 *
 * We are in the queue before we compare, so a move in between wakes us.
 */
void
cqrs_shared_wait_progress(uint64 seen, long timeout_ms)
{
	CqrsProgress *progress;

	if (cqrs_shared_state == NULL)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, Min(timeout_ms, NAP_MS),
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		return;
	}
	progress = &cqrs_shared_state->progress[MyDatabaseId % CQRS_PROGRESS_PARTS];
	ConditionVariablePrepareToSleep(&progress->moved);
	if (pg_atomic_read_u64(&progress->counter) == seen)
		(void) ConditionVariableTimedSleep(&progress->moved, timeout_ms, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
}

/*
 * cqrs_shared_report says what this worker does now; in other processes it does nothing.
 */
void
cqrs_shared_report(CqrsPhase phase, int32 projection, int32 version)
{
	CqrsSlot   *slot = cqrs_shared_slot;

	if (slot == NULL)
		return;
	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	slot->phase = phase;
	slot->projection = projection;
	slot->version = version;
	slot->since = cqrs_clock_now();
	LWLockRelease(cqrs_shared_state->lock);
}

/*
 * cqrs_shared_workers copies what all processes say of themselves, the launcher first.
 */
int
cqrs_shared_workers(CqrsWorkerInfo *out, int max)
{
	int			count = 0;

	if (cqrs_shared_state == NULL)
		return 0;
	LWLockAcquire(cqrs_shared_state->lock, LW_SHARED);
	if (cqrs_shared_state->launcher_pid != 0 && max > 0)
	{
		memset(&out[0], 0, sizeof(CqrsWorkerInfo));
		out[0].pid = cqrs_shared_state->launcher_pid;
		out[0].is_launcher = true;
		out[0].phase = CQRS_PHASE_IDLE;
		out[0].since = cqrs_shared_state->launcher_since;
		count = 1;
	}
	for (int i = 0; i < CQRS_MAX_DATABASES && count < max; i++)
	{
		const CqrsSlot *slot = &cqrs_shared_state->slots[i];

		if (slot->pid == 0)
			continue;
		out[count].pid = slot->pid;
		out[count].database = slot->database;
		out[count].is_launcher = false;
		out[count].projection = slot->projection;
		out[count].version = slot->version;
		out[count].phase = slot->phase;
		out[count].since = slot->since;
		count++;
	}
	LWLockRelease(cqrs_shared_state->lock);
	return count;
}
