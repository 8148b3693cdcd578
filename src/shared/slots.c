/*
 * shared/slots.c
 *		How launcher and workers come by their slots, and what becomes of a slot when its process ends.
 *
 * A process gives its slot back when it exits, by itself: the launcher that started it may be gone by then.  Only a process that ends before it took its
 * slot is the launcher's to notice.  A crash restarts the server and makes all of this anew.
 */
#include "postgres.h"

#include "base/clock.h"
#include "miscadmin.h"
#include "settings/settings.h"
#include "shared/slots.h"
#include "shared/state.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#define STARTING_MS 5000		/* a start that takes longer does not keep others waiting */

/*
 * launcher_exit gives the launcher's place back.
 */
static void
launcher_exit(int code, Datum arg)
{
	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	cqrs_shared_state->launcher = NULL;
	cqrs_shared_state->launcher_pid = 0;
	cqrs_shared_state->launcher_since = cqrs_clock_now();
	LWLockRelease(cqrs_shared_state->lock);
}

/*
 * cqrs_slots_attach_launcher makes this process the one that requests are sent to.
 */
void
cqrs_slots_attach_launcher(void)
{
	on_shmem_exit(launcher_exit, (Datum) 0);
	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	cqrs_shared_state->launcher = MyProc;
	cqrs_shared_state->launcher_pid = MyProcPid;
	cqrs_shared_state->launcher_since = cqrs_clock_now();
	cqrs_shared_state->everywhere = true;
	LWLockRelease(cqrs_shared_state->lock);
}

/*
 * cqrs_slots_look_everywhere has all databases looked at in the launcher's next turn.
 */
void
cqrs_slots_look_everywhere(void)
{
	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	cqrs_shared_state->everywhere = true;
	LWLockRelease(cqrs_shared_state->lock);
}

/*
 * cqrs_slots_take_requests takes what sessions have asked for since the last call.
 */
int
cqrs_slots_take_requests(Oid *databases, int max, bool *everywhere)
{
	int			count;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	count = Min(max, cqrs_shared_state->nrequests);
	memcpy(databases, cqrs_shared_state->requests, count * sizeof(Oid));
	*everywhere = cqrs_shared_state->everywhere || count < cqrs_shared_state->nrequests;
	cqrs_shared_state->nrequests = 0;
	cqrs_shared_state->everywhere = false;
	if (count > 0 || *everywhere)
		cqrs_shared_state->looking = true;
	LWLockRelease(cqrs_shared_state->lock);
	return count;
}

/*
 * cqrs_slots_report_looking says whether any database is still to be looked at.
 */
void
cqrs_slots_report_looking(bool looking)
{
	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	cqrs_shared_state->looking = looking;
	LWLockRelease(cqrs_shared_state->lock);
}

/*
 * cqrs_slots_look_again marks a database's slot for another look; false if it has none.
 */
bool
cqrs_slots_look_again(Oid database)
{
	CqrsSlot   *slot;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	slot = cqrs_shared_find(database);
	if (slot != NULL && slot->state == CQRS_SLOT_WAITING)
	{
		slot->start_at = cqrs_clock_now();
		slot->failures = 0;
	}
	else if (slot != NULL)
		slot->again = true;
	LWLockRelease(cqrs_shared_state->lock);
	return slot != NULL;
}

/*
 * cqrs_slots_due returns a database whose slot waits no longer, and when the next one's time comes.
 *
 * Held ones are nobody's turn: who ends a hold wakes the launcher.
 */
Oid
cqrs_slots_due(TimestampTz *next)
{
	TimestampTz now = cqrs_clock_now();
	Oid			due = InvalidOid;

	*next = DT_NOEND;
	LWLockAcquire(cqrs_shared_state->lock, LW_SHARED);
	for (int i = 0; i < CQRS_MAX_DATABASES; i++)
	{
		const CqrsSlot *slot = &cqrs_shared_state->slots[i];

		if (!OidIsValid(slot->database) || slot->state != CQRS_SLOT_WAITING || cqrs_shared_held(slot->database))
			continue;
		if (slot->start_at > now)
			*next = Min(*next, slot->start_at);
		else
			due = slot->database;
	}
	LWLockRelease(cqrs_shared_state->lock);
	return due;
}

/*
 * cqrs_slots_starting tells whether a process is on its way, within reasonable time.
 */
bool
cqrs_slots_starting(void)
{
	TimestampTz now = cqrs_clock_now();
	bool		starting = false;

	LWLockAcquire(cqrs_shared_state->lock, LW_SHARED);
	for (int i = 0; i < CQRS_MAX_DATABASES; i++)
	{
		const CqrsSlot *slot = &cqrs_shared_state->slots[i];

		if (OidIsValid(slot->database) && slot->state == CQRS_SLOT_STARTING &&
			!TimestampDifferenceExceeds(slot->start_at, now, STARTING_MS))
			starting = true;
	}
	LWLockRelease(cqrs_shared_state->lock);
	return starting;
}

/*
 * claim returns the database's own slot if no process has it, or else a free one, made its own; NULL if there is none.
 */
static CqrsSlot *
claim(Oid database)
{
	CqrsSlot   *slot = cqrs_shared_find(database);

	if (slot != NULL)
		return slot->state == CQRS_SLOT_WAITING ? slot : NULL;
	slot = cqrs_shared_find(InvalidOid);
	if (slot != NULL)
	{
		uint32		generation = slot->generation;

		memset(slot, 0, sizeof(CqrsSlot));
		slot->generation = generation;
		slot->database = database;
	}
	return slot;
}

/*
 * cqrs_slots_begin takes a slot for a start.
 */
CqrsTicket
cqrs_slots_begin(Oid database)
{
	CqrsTicket	ticket = {.slot = -1,.database = database};
	CqrsSlot   *slot;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	slot = cqrs_shared_held(database) ? NULL : claim(database);
	if (slot != NULL)
	{
		slot->state = CQRS_SLOT_STARTING;
		slot->generation++;
		slot->start_at = cqrs_clock_now();
		slot->again = false;
		slot->asked = false;
		slot->resigned = false;
		ticket.slot = slot - cqrs_shared_state->slots;
		ticket.generation = slot->generation;
	}
	LWLockRelease(cqrs_shared_state->lock);
	return ticket;
}

/*
 * vacate decides what becomes of a slot that its process has left.  Wants the lock.
 */
static void
vacate(CqrsSlot *slot)
{
	TimestampTz now = cqrs_clock_now();
	bool		lasted = TimestampDifferenceExceeds(slot->start_at, now, cqrs_setting_retry_max);

	slot->pid = 0;
	slot->proc = NULL;
	if (slot->resigned && !slot->again)
	{
		slot->database = InvalidOid;
		return;
	}
	slot->state = CQRS_SLOT_WAITING;
	slot->start_at = now;
	if (slot->resigned || slot->asked)
		slot->failures = 0;
	else
	{
		slot->failures = lasted ? 1 : slot->failures + 1;
		slot->start_at = cqrs_clock_backoff(slot->failures, cqrs_setting_retry_initial, cqrs_setting_retry_max);
	}
}

/*
 * cqrs_slots_failed takes note that a process ended; if it never took its slot, that is tried again later.
 */
void
cqrs_slots_failed(const CqrsTicket *ticket)
{
	CqrsSlot   *slot = &cqrs_shared_state->slots[ticket->slot];

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	if (slot->database == ticket->database && slot->generation == ticket->generation &&
		slot->state == CQRS_SLOT_STARTING && slot->pid == 0)
		vacate(slot);
	LWLockRelease(cqrs_shared_state->lock);
}

/*
 * cqrs_slots_give_up makes a worker leave a database that is not to have one, and forgets its slot.
 */
void
cqrs_slots_give_up(Oid database)
{
	CqrsSlot   *slot;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	slot = cqrs_shared_find(database);
	if (slot != NULL)
	{
		slot->resigned = true;
		slot->again = false;
		cqrs_shared_ask(slot);
		if (slot->pid == 0)
			vacate(slot);
	}
	LWLockRelease(cqrs_shared_state->lock);
}

/*
 * cqrs_slots_databases lists the databases that have slots.
 */
int
cqrs_slots_databases(Oid *databases)
{
	int			count = 0;

	LWLockAcquire(cqrs_shared_state->lock, LW_SHARED);
	for (int i = 0; i < CQRS_MAX_DATABASES; i++)
		if (OidIsValid(cqrs_shared_state->slots[i].database))
			databases[count++] = cqrs_shared_state->slots[i].database;
	LWLockRelease(cqrs_shared_state->lock);
	return count;
}

/*
 * cqrs_slots_room tells whether a slot is free.
 */
bool
cqrs_slots_room(void)
{
	bool		room;

	LWLockAcquire(cqrs_shared_state->lock, LW_SHARED);
	room = cqrs_shared_find(InvalidOid) != NULL;
	LWLockRelease(cqrs_shared_state->lock);
	return room;
}

/*
 * worker_exit gives this worker's slot back.
 *
 * Registered before the worker connected, so it runs after the process has left its database.
 */
static void
worker_exit(int code, Datum arg)
{
	Oid			database = cqrs_shared_slot->database;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	vacate(cqrs_shared_slot);
	cqrs_shared_wake_holders(database);
	LWLockRelease(cqrs_shared_state->lock);
	cqrs_shared_slot = NULL;
	cqrs_shared_wake_launcher();
}

/*
 * cqrs_slots_attach takes the slot of a ticket, unless it has gone to another or the database is held.
 */
bool
cqrs_slots_attach(const CqrsTicket *ticket)
{
	CqrsSlot   *slot = &cqrs_shared_state->slots[ticket->slot];
	bool		mine;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	mine = slot->database == ticket->database && slot->generation == ticket->generation &&
		slot->state == CQRS_SLOT_STARTING && slot->pid == 0;
	if (mine && (slot->asked || cqrs_shared_held(ticket->database)))
	{
		slot->asked = true;
		vacate(slot);
		mine = false;
	}
	if (mine)
	{
		slot->pid = MyProcPid;
		slot->proc = MyProc;
		slot->phase = CQRS_PHASE_STARTING;
		slot->projection = 0;
		slot->version = 0;
		slot->since = cqrs_clock_now();
		cqrs_shared_slot = slot;
	}
	LWLockRelease(cqrs_shared_state->lock);
	if (mine)
		on_shmem_exit(worker_exit, (Datum) 0);
	else
		cqrs_shared_wake_launcher();
	return mine;
}

/*
 * cqrs_slots_settle says that this worker stays.
 */
void
cqrs_slots_settle(void)
{
	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	cqrs_shared_slot->state = CQRS_SLOT_RUNNING;
	LWLockRelease(cqrs_shared_state->lock);
	cqrs_shared_wake_launcher();
}

/*
 * cqrs_slots_told_to_leave notes that this worker ends because it was asked to, so that another can be started at once.
 */
void
cqrs_slots_told_to_leave(void)
{
	if (cqrs_shared_slot != NULL)
		cqrs_shared_slot->asked = true;
}

/*
 * cqrs_slots_resign says that this worker is not wanted and its slot is free when it has left.
 */
void
cqrs_slots_resign(void)
{
	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	cqrs_shared_slot->resigned = true;
	LWLockRelease(cqrs_shared_state->lock);
}

/*
 * cqrs_slots_woken takes the flag that those who commit set.
 *
 * Who finds it set leaves it to us: the barrier puts our next snapshot after its commit.
 */
bool
cqrs_slots_woken(void)
{
	bool		woken = cqrs_shared_slot->woken;

	cqrs_shared_slot->woken = false;
	pg_memory_barrier();
	return woken;
}
