/*
 * base/locks.h
 *		Locks asked for so that nobody queues behind us.
 */
#ifndef CQRS_BASE_LOCKS_H
#define CQRS_BASE_LOCKS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

/*
 * Lock all of 'relids' in 'mode', in OID order, in short tries: each lock is waited for at most 50 ms, and all are released
 * between tries, up to 'timeout_ms' (the caller's cqrs.lock_timeout: settings are a floor above).  Then an error 55P03 that names
 * the relation and who holds it.  A relation that is gone is an error 42P01.  Locks are held to the end of the transaction.
 */
extern void cqrs_locks_take(List *relids, LOCKMODE mode, int timeout_ms);

/*
 * The same after 'first', which takes other locks that nobody is to be kept from for long: they are given back between slices of a quarter of a
 * second, for a second at least, and for as long as somebody has one of the relations.  Each slice calls 'first' again, in a subtransaction, after all that
 * it did was undone.
 */
typedef void (*CqrsLocksFirst) (void *argument);
extern void cqrs_locks_take_after(CqrsLocksFirst first, void *argument, List *relids, LOCKMODE mode, int timeout_ms);

/*
 * The same for relations that are listed anew for each try, and once more when all are locked: true if those locked are all that 'list' returns by
 * then.  One that is gone is listed anew, too; what must be there is the list's to check.  'locked', if given, gets what is locked, in OID order.
 */
typedef List *(*CqrsLocksList) (void *argument);
extern bool cqrs_locks_try_listed(CqrsLocksList list, void *argument, LOCKMODE mode, int wait_ms, List **locked);
extern List *cqrs_locks_take_listed(CqrsLocksList list, void *argument, LOCKMODE mode, int timeout_ms);

/*
 * Do work(argument), which waits for locks that nobody would queue for behind us; false, with all that it did undone, if one could not be had within
 * 'wait_ms'.
 */
extern bool cqrs_locks_await(void (*work) (void *), void *argument, int wait_ms);

/*
 * Wait, without asking for a lock, until all transactions have ended that write to the relations now, prepared ones too, up to 'timeout_ms'; then an error
 * 55P03 that names one.  This transaction's own writes do not count.
 */
extern void cqrs_locks_outwait(List *relids, int timeout_ms);

/* Between tries at any lock: a pause with nothing held, in which interrupts are served.  False, at once, if the deadline is past. */
extern bool cqrs_locks_pause(TimestampTz deadline);

/* One try without waiting longer than 'wait_ms' a lock: true if all are held, else none is. */
extern bool cqrs_locks_try(List *relids, LOCKMODE mode, int wait_ms, Oid *blocked_on);

/* Who holds locks that conflict with 'mode': List of char *, "process 123 (app)" or "a prepared transaction"; not this process. */
struct LOCKTAG;
extern List *cqrs_locks_held(const struct LOCKTAG *tag, LOCKMODE mode);

/* The same for a relation, as text for an error's detail: "process 123 (app), process 124 (app)". */
extern char *cqrs_locks_holders(Oid relid, LOCKMODE mode);

#endif							/* CQRS_BASE_LOCKS_H */
