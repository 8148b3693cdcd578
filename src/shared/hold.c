/*
 * shared/hold.c
 *		Keeping workers out of a database while a command needs it empty, and out of the way of one that needs a version.
 *
 * DROP DATABASE and its like refuse a database that others are connected to, and wait only a few seconds for them.  A hold makes the worker leave
 * and keeps the launcher from starting another, to the end of the holder's transaction: when it is over, however it ends, the launcher looks
 * again at what is there.
 */
#include "postgres.h"

#include <signal.h>

#include "base/clock.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shared/shared.h"
#include "shared/state.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#define LEAVE_MS 5000			/* as long as the server itself waits for others to leave */

static bool holding = false;

/*
 * cqrs_shared_held tells whether anybody holds a database.
 */
bool
cqrs_shared_held(Oid database)
{
	for (int i = 0; i < CQRS_MAX_HOLDS; i++)
		if (cqrs_shared_state->holds[i].database == database)
			return true;
	return false;
}

/*
 * cqrs_shared_ask asks a slot's process to leave, which is not counted as a failure.
 */
void
cqrs_shared_ask(CqrsSlot *slot)
{
	slot->asked = true;
	if (slot->pid != 0)
		(void) kill(slot->pid, SIGTERM);
}

/*
 * cqrs_shared_wake_holders tells who holds the database that its worker has left.
 */
void
cqrs_shared_wake_holders(Oid database)
{
	for (int i = 0; i < CQRS_MAX_HOLDS; i++)
		if (cqrs_shared_state->holds[i].database == database)
			SetLatch(&cqrs_shared_state->holds[i].proc->procLatch);
}

/*
 * cqrs_shared_release ends this session's holds.
 */
void
cqrs_shared_release(void)
{
	if (!holding)
		return;
	holding = false;
	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < CQRS_MAX_HOLDS; i++)
		if (cqrs_shared_state->holds[i].proc == MyProc)
			memset(&cqrs_shared_state->holds[i], 0, sizeof(CqrsHold));
	LWLockRelease(cqrs_shared_state->lock);
	cqrs_shared_wake_launcher();
}

/*
 * take_hold enters a hold and asks the worker to leave; false if there is no room.
 */
static bool
take_hold(Oid database)
{
	CqrsSlot   *slot;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < CQRS_MAX_HOLDS; i++)
	{
		if (OidIsValid(cqrs_shared_state->holds[i].database))
			continue;
		cqrs_shared_state->holds[i].database = database;
		cqrs_shared_state->holds[i].proc = MyProc;
		holding = true;
		break;
	}
	slot = cqrs_shared_find(database);
	if (holding && slot != NULL)
		cqrs_shared_ask(slot);
	LWLockRelease(cqrs_shared_state->lock);
	return holding;
}

/*
 * has_left tells whether no worker is connected to a database that we hold.
 *
 * One that is on its way without a process in its slot will find the hold when it takes the slot, before it connects.
 */
static bool
has_left(Oid database)
{
	CqrsSlot   *slot;
	bool		left;

	LWLockAcquire(cqrs_shared_state->lock, LW_SHARED);
	slot = cqrs_shared_find(database);
	left = slot == NULL || slot->pid == 0;
	LWLockRelease(cqrs_shared_state->lock);
	return left;
}

/*
 * cqrs_shared_hold keeps workers out of a database to the end of this transaction.
 *
 * A worker that does not leave in time is no error here: the command that needs the database will say so.
 */
void
cqrs_shared_hold(Oid database)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(cqrs_clock_now(), LEAVE_MS);

	if (cqrs_shared_state == NULL)
		return;
	cqrs_shared_watch_transaction();
	if (!take_hold(database))
		return;
	while (!has_left(database) && cqrs_clock_until(deadline) > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, cqrs_clock_until(deadline),
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * cqrs_shared_interrupt_worker has this database's worker give up what it does for a version.
 *
 * It says what it does before it does it, and may be at something else when the signal comes: then that is done again.
 */
void
cqrs_shared_interrupt_worker(int32 version)
{
	CqrsSlot   *slot;

	if (cqrs_shared_state == NULL)
		return;
	LWLockAcquire(cqrs_shared_state->lock, LW_SHARED);
	slot = cqrs_shared_find(MyDatabaseId);
	if (slot != NULL && slot->pid != 0 && slot->pid != MyProcPid && slot->version != 0 &&
		(version == 0 || slot->version == version))
		(void) kill(slot->pid, SIGINT);
	LWLockRelease(cqrs_shared_state->lock);
}
