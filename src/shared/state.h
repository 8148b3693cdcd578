/*
 * shared/state.h
 *		What is in shared memory; private to this room.
 *
 * All of it is guarded by the lock, but for what commits and their waiters touch without one: where a process's latch is, whether it was
 * woken, and progress.
 */
#ifndef CQRS_SHARED_STATE_H
#define CQRS_SHARED_STATE_H

#include "postgres.h"

#include "port/atomics.h"
#include "shared/shared.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

#define CQRS_MAX_REQUESTS 64	/* more at a time: all databases are looked at */
#define CQRS_MAX_HOLDS 64		/* more at a time: the rest of the commands find out for themselves */
#define CQRS_PROGRESS_PARTS 16	/* databases share them by OID */

typedef enum CqrsSlotState
{
	CQRS_SLOT_WAITING,			/* for its next start */
	CQRS_SLOT_STARTING,			/* a process is on its way, or looks whether it is wanted */
	CQRS_SLOT_RUNNING			/* a process stays */
} CqrsSlotState;

typedef struct CqrsSlot
{
	Oid			database;		/* InvalidOid: free */
	CqrsSlotState state;
	uint32		generation;		/* of the last start */
	int			pid;			/* 0: no process */
	PGPROC	   *proc;			/* NULL likewise; its latch is the worker's */
	bool		woken;
	bool		upkeep;			/* the outbox is to be looked after */
	bool		again;			/* was asked for while a process was there */
	bool		asked;			/* to leave */
	bool		resigned;		/* does not want the slot again */
	int			failures;		/* ends in a row that nobody asked for */
	TimestampTz start_at;		/* waiting: not before; else when it was started */
	CqrsPhase	phase;
	int32		projection;
	int32		version;
	TimestampTz since;
} CqrsSlot;

/* A session that keeps workers out of a database. */
typedef struct CqrsHold
{
	Oid			database;		/* InvalidOid: free */
	PGPROC	   *proc;
} CqrsHold;

typedef struct CqrsProgress
{
	pg_atomic_uint64 counter;
	ConditionVariable moved;
} CqrsProgress;

typedef struct CqrsSharedState
{
	LWLock	   *lock;
	int			launcher_pid;	/* 0: none */
	PGPROC	   *launcher;
	TimestampTz launcher_since; /* it is there, or is not */
	bool		looking;		/* databases are still to be looked at */
	bool		everywhere;		/* at all */
	int			nrequests;
	Oid			requests[CQRS_MAX_REQUESTS];
	CqrsHold	holds[CQRS_MAX_HOLDS];
	CqrsSlot	slots[CQRS_MAX_DATABASES];
	CqrsProgress progress[CQRS_PROGRESS_PARTS];
} CqrsSharedState;

/* NULL: the library was not preloaded. */
extern CqrsSharedState *cqrs_shared_state;

/* This process's slot, or NULL. */
extern CqrsSlot *cqrs_shared_slot;

/* The slot of a database, or NULL; with the lock held, or for a look at the latch only. */
extern CqrsSlot *cqrs_shared_find(Oid database);

/* The end of this transaction is to be noticed: holds end there. */
extern void cqrs_shared_watch_transaction(void);

/* With the lock held: is a database held, by whom ever? */
extern bool cqrs_shared_held(Oid database);

/* With the lock held: a process that has a slot is to leave it. */
extern void cqrs_shared_ask(CqrsSlot *slot);

/* Wake the launcher; needs no lock. */
extern void cqrs_shared_wake_launcher(void);

/* Wakes all who hold the database: a worker has left it. */
extern void cqrs_shared_wake_holders(Oid database);

/* The session's holds end. */
extern void cqrs_shared_release(void);

#endif							/* CQRS_SHARED_STATE_H */
