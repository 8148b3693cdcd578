/*
 * shared/shared.h
 *		Shared memory: which databases have workers, their latches and progress, and who waits for progress.
 *
 * Exists only when the library is preloaded; every function here is harmless without it and says so by its result.
 * What is asked for "at commit" happens after this transaction has become visible, and not at all if it aborts or is prepared.
 */
#ifndef CQRS_SHARED_H
#define CQRS_SHARED_H

#include "postgres.h"

#include "datatype/timestamp.h"

#define CQRS_MAX_DATABASES 64		/* with workers, at a time */

typedef enum CqrsPhase
{
	CQRS_PHASE_STARTING,
	CQRS_PHASE_IDLE,
	CQRS_PHASE_ATTACH,
	CQRS_PHASE_FILL,
	CQRS_PHASE_APPLY,
	CQRS_PHASE_SERVE,
	CQRS_PHASE_VERIFY,
	CQRS_PHASE_COMPARE,
	CQRS_PHASE_RETIRE
} CqrsPhase;

/* One process, as cqrs.workers shows it; a copy. */
typedef struct CqrsWorkerInfo
{
	int			pid;
	Oid			database;
	bool		is_launcher;
	int32		projection;		/* 0: none at the moment */
	int32		version;		/* version id, 0: none */
	CqrsPhase	phase;
	TimestampTz since;
} CqrsWorkerInfo;

/* Hooks for shared memory; called from _PG_init while preloading. */
extern void cqrs_shared_init(void);

/* Is shared memory there at all (the library was preloaded)? */
extern bool cqrs_shared_available(void);

/* Does this database have a worker, or will it within about a second?  False in recovery, where workers never run. */
extern bool cqrs_shared_worker_runs(void);

/* Wake this database's worker now; a no-op without one.  Safe in commit callbacks: raises nothing, allocates nothing. */
extern void cqrs_shared_wake_worker(void);

/* Wake it to look after the outbox: a segment is full.  Likewise safe.  The worker asks whether anybody did since it last asked. */
extern void cqrs_shared_ask_upkeep(void);
extern void cqrs_shared_ask_upkeep_at_commit(void);
extern bool cqrs_shared_upkeep_asked(void);

/* The same at this transaction's commit (does nothing on abort).  One flag; call as often as you like. */
extern void cqrs_shared_wake_at_commit(void);

/* Ask the launcher at commit to look whether this database should have a worker (CREATE or DROP EXTENSION, create_projection). */
extern void cqrs_shared_look_at_commit(void);

/* Ask it to look at every database (one was made, or may be connected to now). */
extern void cqrs_shared_look_everywhere_at_commit(void);

/* Let the database's worker start again at commit, under new settings. */
extern void cqrs_shared_restart_at_commit(Oid database);

/*
 * Keep workers out of a database until this transaction ends: asks its worker to leave and waits until it has, for a few seconds at most.  Not in a
 * transaction block.
 */
extern void cqrs_shared_hold(Oid database);

/*
 * Have this database's worker give up what it is doing for a version (0: for any), so that it lets go of its locks; it tries again in a moment, behind who
 * asks for them now.
 */
extern void cqrs_shared_interrupt_worker(int32 version);

/* All processes' slots, copied; returns how many were written to 'out' (at most 'max'). */
extern int	cqrs_shared_workers(CqrsWorkerInfo *out, int max);

/* This worker says what it does now. */
extern void cqrs_shared_report(CqrsPhase phase, int32 projection, int32 version);

/*
 * Progress: appliers (worker or drain) announce at commit that checkpoints or states moved; waiters sleep until then or 'timeout_ms'.
 * cqrs_shared_progress() reads a counter; cqrs_shared_wait_progress(seen, …) returns at once if it has moved past 'seen'.  Without shared
 * memory waiting is a short nap.  Interrupts are served while waiting.  Wakes without progress happen; callers look again.
 */
extern void cqrs_shared_announce_at_commit(void);
extern uint64 cqrs_shared_progress(void);
extern void cqrs_shared_wait_progress(uint64 seen, long timeout_ms);

#endif							/* CQRS_SHARED_H */
