/*
 * base/locks.c
 *		Relation locks asked for in short tries, so that writers never queue behind us for long.
 *
 * A request that waits makes every later conflicting one wait behind it.  So each is given up after a moment, with all the locks taken before it in
 * the same try, and tried again after a pause in which writers pass.
 *
 * Wants a transaction; locks got stay to its end.
 */
#include "postgres.h"

#include "base/attempt.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/locks.h"
#include "base/names.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/sinvaladt.h"
#include "utils/backend_status.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define TRY_WAIT_MS		50		/* how long one lock is waited for within a try */
#define TRY_PAUSE_MS	20		/* between tries, with no lock held */

/*
 * sorted_oids copies a list of OIDs in ascending order without duplicates: everybody locks in that order, so nobody deadlocks.
 */
static List *
sorted_oids(List *relids)
{
	List	   *sorted = list_copy(relids);

	list_sort(sorted, list_oid_cmp);
	list_deduplicate_oid(sorted);
	return sorted;
}

/*
 * lock_at_once takes all of 'sorted' without waiting for any; if one cannot be had, it gives back those it got.
 */
static bool
lock_at_once(List *sorted, LOCKMODE mode)
{
	for (int i = 0; i < list_length(sorted); i++)
	{
		if (ConditionalLockRelationOid(list_nth_oid(sorted, i), mode))
			continue;
		while (--i >= 0)
			UnlockRelationOid(list_nth_oid(sorted, i), mode);
		return false;
	}
	return true;
}

/* What lock_in_turn is to lock, and how far it got. */
typedef struct Turn
{
	List	   *relids;
	LOCKMODE	mode;
	int			wait_ms;
	CqrsLocksList list;			/* what must still return the same once all are locked; or NULL */
	void	   *argument;
	Oid			current;
} Turn;

/*
 * is_still tells whether what was locked is what is listed now.
 */
static bool
is_still(const Turn *turn)
{
	return turn->list == NULL || equal(turn->relids, sorted_oids(turn->list(turn->argument)));
}

/*
 * lock_in_turn takes locks one by one, joining the queue for each for at most a moment.
 *
 * Errors: 55P03 if one cannot be had, or if the list has changed meanwhile.
 */
static void
lock_in_turn(void *argument)
{
	Turn	   *turn = argument;
	int			saved_timeout = LockTimeout;
	ListCell   *cell;

	PG_TRY();
	{
		LockTimeout = turn->wait_ms;
		foreach(cell, turn->relids)
		{
			turn->current = lfirst_oid(cell);
			LockRelationOid(turn->current, turn->mode);
		}
	}
	PG_FINALLY();
	{
		LockTimeout = saved_timeout;
	}
	PG_END_TRY();
	if (!is_still(turn))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("what is to be locked has changed meanwhile")));
}

/*
 * lock_queueing takes all of the turn's relations, joining the queue for each for a moment; if one cannot be had, it releases all.
 *
 * A lock that busy writers hold by turns is never free, so it must be queued for; they wait behind us no longer than that.  The server's lock
 * timeout is an error, hence the attempt, whose end also gives back the locks.
 */
static bool
lock_queueing(Turn *turn, Oid *blocked_on)
{
	ErrorData  *error = cqrs_attempt(lock_in_turn, turn, true);

	if (error == NULL)
		return true;
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	FreeErrorData(error);
	if (blocked_on)
		*blocked_on = turn->current;
	return false;
}

/*
 * try_once makes one try at all of the turn's relations: true with all of them locked, or false with none.
 */
static bool
try_once(Turn *turn, Oid *blocked_on)
{
	ListCell   *cell;

	if (!lock_at_once(turn->relids, turn->mode))
		return lock_queueing(turn, blocked_on);
	if (is_still(turn))
		return true;
	foreach(cell, turn->relids)
		UnlockRelationOid(lfirst_oid(cell), turn->mode);
	if (blocked_on)
		*blocked_on = linitial_oid(turn->relids);
	return false;
}

/*
 * cqrs_locks_try makes one try at all of 'relids': true with all of them locked, or false with none.
 *
 * A relation that is gone is an error 42P01.  'blocked_on', if given, gets the one that could not be had.
 */
bool
cqrs_locks_try(List *relids, LOCKMODE mode, int wait_ms, Oid *blocked_on)
{
	Turn		turn = {.relids = sorted_oids(relids), .mode = mode, .wait_ms = wait_ms};
	bool		held = try_once(&turn, blocked_on);
	ListCell   *cell;

	foreach(cell, turn.relids)
	{
		if (held && !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(cell))))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", lfirst_oid(cell))));
	}
	list_free(turn.relids);
	return held;
}

/*
 * lock_listed makes one try at what 'list' returns; false with nothing locked, also where it returns something else once all are locked.
 */
static bool
lock_listed(CqrsLocksList list, void *argument, LOCKMODE mode, int wait_ms, List **locked, Oid *blocked_on)
{
	Turn		turn = {.mode = mode, .wait_ms = wait_ms, .list = list, .argument = argument};

	turn.relids = sorted_oids(list(argument));
	if (locked != NULL)
		*locked = turn.relids;
	return try_once(&turn, blocked_on);
}

/*
 * cqrs_locks_try_listed makes one try at relations that are listed anew.
 */
bool
cqrs_locks_try_listed(CqrsLocksList list, void *argument, LOCKMODE mode, int wait_ms, List **locked)
{
	return lock_listed(list, argument, mode, wait_ms, locked, NULL);
}

/*
 * cqrs_locks_pause waits a moment between tries; false if there is no time for another.
 */
bool
cqrs_locks_pause(TimestampTz deadline)
{
	if (cqrs_clock_until(deadline) <= 0)
		return false;
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, TRY_PAUSE_MS, PG_WAIT_LOCK);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return true;
}

/*
 * raise_blocked says which relation could not be locked in time, and why not.
 */
static void
raise_blocked(Oid blocked_on, LOCKMODE mode)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not lock \"%s\" within cqrs.lock_timeout", cqrs_name_shown(blocked_on)),
			 errdetail("It is held by %s.", cqrs_locks_holders(blocked_on, mode)),
			 errhint("Wait for these transactions to end, or end them, and try again.")));
}

/*
 * cqrs_locks_take tries until all of 'relids' are locked, up to 'timeout_ms' (the caller passes cqrs.lock_timeout).
 *
 * Errors: 55P03, naming the relation and who holds it.
 */
void
cqrs_locks_take(List *relids, LOCKMODE mode, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(cqrs_clock_now(), timeout_ms);
	Oid			blocked_on = InvalidOid;

	while (!cqrs_locks_try(relids, mode, TRY_WAIT_MS, &blocked_on))
		if (!cqrs_locks_pause(deadline))
			raise_blocked(blocked_on, mode);
}

/*
 * cqrs_locks_take_listed tries until all that 'list' returns is locked, and returns it.
 *
 * Errors: as cqrs_locks_take, and those of 'list'.
 */
List *
cqrs_locks_take_listed(CqrsLocksList list, void *argument, LOCKMODE mode, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(cqrs_clock_now(), timeout_ms);
	Oid			blocked_on = InvalidOid;
	List	   *locked;

	while (!lock_listed(list, argument, mode, TRY_WAIT_MS, &locked, &blocked_on))
		if (!cqrs_locks_pause(deadline))
			raise_blocked(blocked_on, mode);
	return locked;
}

/*
 * application_of returns the application name of a process, or NULL.
 */
static const char *
application_of(int pid)
{
	int			count = pgstat_fetch_stat_numbackends();

	for (int i = 1; i <= count; i++)
	{
		LocalPgBackendStatus *entry = cqrs_compat_backend_status(i);

		if (entry != NULL && entry->backendStatus.st_procpid == pid && entry->backendStatus.st_appname[0] != '\0')
			return entry->backendStatus.st_appname;
	}
	return NULL;
}

/*
 * cqrs_locks_held lists who holds locks that conflict with 'mode', as texts for people.
 */
List *
cqrs_locks_held(const LOCKTAG *tag, LOCKMODE mode)
{
	List	   *result = NIL;
	int			count;
	VirtualTransactionId *holders = GetLockConflicts(tag, mode, &count);

	for (int i = 0; i < count; i++)
	{
		PGPROC	   *proc = cqrs_compat_lock_holder(holders[i]);
		bool		prepared = proc == NULL || cqrs_compat_local_xid(proc) != holders[i].localTransactionId;
		int			pid = prepared ? 0 : proc->pid;
		const char *application = pid ? application_of(pid) : NULL;

		if (pid == 0)
			result = lappend(result, pstrdup("a prepared transaction"));
		else if (application == NULL)
			result = lappend(result, psprintf("process %d", pid));
		else
			result = lappend(result, psprintf("process %d (%s)", pid, application));
	}
	return result;
}

/*
 * cqrs_locks_holders lists whose locks on the relation conflict with 'mode', for an error's detail.
 */
char *
cqrs_locks_holders(Oid relid, LOCKMODE mode)
{
	LOCKTAG		tag;
	StringInfoData text;
	ListCell   *cell;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	initStringInfo(&text);
	foreach(cell, cqrs_locks_held(&tag, mode))
		appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", (char *) lfirst(cell));
	if (text.len == 0)
		appendStringInfoString(&text, "a process that has just ended");
	return text.data;
}
