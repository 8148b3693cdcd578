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
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "utils/backend_status.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define TRY_WAIT_MS		50		/* how long one lock is waited for within a try */
#define TRY_PAUSE_MS	20		/* between tries, with no lock held */
#define SLICE_MS		250		/* for which relations are asked for while something else is held */
#define REST_MS			1000	/* for which that is left to others after such a slice */

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

/* Work that waits for locks, each for at most so long. */
typedef struct Limited
{
	void		(*work) (void *);
	void	   *argument;
	int			wait_ms;
} Limited;

/*
 * work_limited does it.
 */
static void
work_limited(void *argument)
{
	Limited    *limited = argument;
	int			saved_timeout = LockTimeout;

	PG_TRY();
	{
		LockTimeout = Max(limited->wait_ms, 1);
		limited->work(limited->argument);
	}
	PG_FINALLY();
	{
		LockTimeout = saved_timeout;
	}
	PG_END_TRY();
}

/*
 * cqrs_locks_await does work that waits for locks; false, with all undone, if one took longer than that.
 *
 * The server's lock timeout is an error, hence the attempt, whose end also gives back the locks.
 */
bool
cqrs_locks_await(void (*work) (void *), void *argument, int wait_ms)
{
	Limited		limited = {.work = work,.argument = argument,.wait_ms = wait_ms};
	ErrorData  *error = cqrs_attempt(work_limited, &limited, true);

	if (error == NULL)
		return true;
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	FreeErrorData(error);
	return false;
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
 * lock_in_turn takes locks one by one, joining the queue for each.
 *
 * Errors: 55P03 if the list has changed meanwhile.
 */
static void
lock_in_turn(void *argument)
{
	Turn	   *turn = argument;
	ListCell   *cell;

	foreach(cell, turn->relids)
	{
		turn->current = lfirst_oid(cell);
		LockRelationOid(turn->current, turn->mode);
	}
	if (!is_still(turn))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("what is to be locked has changed meanwhile")));
}

/*
 * lock_queueing takes all of the turn's relations, joining the queue for each for a moment; if one cannot be had, it releases all.
 *
 * A lock that busy writers hold by turns is never free, so it must be queued for; they wait behind us no longer than that.
 */
static bool
lock_queueing(Turn *turn, Oid *blocked_on)
{
	bool		held = cqrs_locks_await(lock_in_turn, turn, turn->wait_ms);

	if (!held && blocked_on)
		*blocked_on = turn->current;
	return held;
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

/* What is held while relations are asked for, and these. */
typedef struct After
{
	CqrsLocksFirst first;
	void	   *argument;
	List	   *relids;
	LOCKMODE	mode;
	int			timeout_ms;		/* of a slice */
	bool		free;			/* they could just have been locked */
} After;

/*
 * take_after is one slice.
 */
static void
take_after(void *argument)
{
	After	   *after = argument;

	after->first(after->argument);
	cqrs_locks_take(after->relids, after->mode, after->timeout_ms);
}

/*
 * try_alone finds out whether the relations could be had.
 */
static void
try_alone(void *argument)
{
	After	   *after = argument;

	after->free = cqrs_locks_try(after->relids, after->mode, TRY_WAIT_MS, NULL);
}

/*
 * leave_alone waits with nothing held: so long that whoever was kept waiting has had its turn, and until the relations could be had, up to the deadline.
 */
static void
leave_alone(After *after, TimestampTz deadline)
{
	TimestampTz rested = TimestampTzPlusMilliseconds(cqrs_clock_now(), REST_MS);
	ErrorData  *error = NULL;

	after->free = false;
	while (error == NULL && !after->free && cqrs_locks_pause(deadline))
		if (cqrs_clock_until(rested) <= 0)
			error = cqrs_attempt(try_alone, after, false);
	if (error != NULL)
		ReThrowError(error);
}

/*
 * cqrs_locks_take_after tries until 'first' is done and then all of 'relids' are locked.
 *
 * What 'first' locks is held no longer than a slice, and not at all while somebody has the relations who will have them for long: it would keep others from
 * going on who have nothing to do with that.
 *
 * Errors: as cqrs_locks_take, and those of 'first'.
 */
void
cqrs_locks_take_after(CqrsLocksFirst first, void *argument, List *relids, LOCKMODE mode, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(cqrs_clock_now(), timeout_ms);
	After		after = {.first = first,.argument = argument,.relids = relids,.mode = mode};
	ErrorData  *error;

	after.timeout_ms = Min(timeout_ms, SLICE_MS);
	while ((error = cqrs_attempt(take_after, &after, true)) != NULL)
	{
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE || cqrs_clock_until(deadline) <= 0)
			ReThrowError(error);
		leave_alone(&after, deadline);
	}
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
 * is_vacuum tells whether a lock's holder is VACUUM, which changes no row.
 */
static bool
is_vacuum(VirtualTransactionId holder)
{
	PGPROC	   *process = cqrs_compat_lock_holder(holder);

	return process != NULL && cqrs_compat_local_xid(process) == holder.localTransactionId &&
		(process->statusFlags & PROC_IN_VACUUM);
}

/*
 * await_end waits for a transaction's end, given its virtual id, and if it was prepared for that of the prepared one.
 */
static void
await_end(void *argument)
{
	(void) VirtualXactLock(*(VirtualTransactionId *) argument, true);
}

/*
 * outwait_writers waits for those who write to one relation; false if it takes longer than until the deadline.
 */
static bool
outwait_writers(Oid relation, TimestampTz deadline)
{
	LOCKTAG		tag;
	VirtualTransactionId *writers;
	int			count;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
	writers = GetLockConflicts(&tag, ShareLock, &count);
	for (int i = 0; i < count; i++)
		if (!is_vacuum(writers[i]) && !VirtualXactLock(writers[i], false) &&
			!cqrs_locks_await(await_end, &writers[i], cqrs_clock_until(deadline)))
			return false;
	return true;
}

/*
 * cqrs_locks_outwait waits until all transactions have ended that write to one of the relations now.
 *
 * It waits for the transactions, not for their locks, so whoever comes next passes.
 *
 * Errors: 55P03, naming the relation and who writes to it.
 */
void
cqrs_locks_outwait(List *relids, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(cqrs_clock_now(), timeout_ms);
	ListCell   *cell;

	foreach(cell, relids)
		if (!outwait_writers(lfirst_oid(cell), deadline))
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("\"%s\" has been written to for longer than cqrs.lock_timeout", cqrs_name_shown(lfirst_oid(cell))),
					 errdetail("Its lock is held by %s.", cqrs_locks_holders(lfirst_oid(cell), ShareLock)),
					 errhint("Wait for these transactions to end, or end them, and try again.")));
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
