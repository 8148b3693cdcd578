/*
 * shared/shared.h
 *		Shared memory: which databases have workers, their latches and progress, and who waits for progress.
 *
 * Exists only when the library is preloaded; every function here is harmless without it and says so by its result.
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
	CQRS_PHASE_SERVE
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

/* Does a worker of this database run right now (its process exists)? */
extern bool cqrs_shared_worker_runs(void);

/* Wake this database's worker now; a no-op without one.  Safe in commit callbacks: raises nothing, allocates nothing. */
extern void cqrs_shared_wake_worker(void);

/* The same at this transaction's commit (does nothing on abort).  One flag; call as often as you like. */
extern void cqrs_shared_wake_at_commit(void);

/* Ask the launcher at commit to look whether this database should have a worker (CREATE or DROP EXTENSION, create_projection). */
extern void cqrs_shared_look_at_commit(void);

/* All processes' slots, copied; returns how many were written to 'out' (at most 'max'). */
extern int	cqrs_shared_workers(CqrsWorkerInfo *out, int max);

/* This worker says what it does now. */
extern void cqrs_shared_report(CqrsPhase phase, int32 projection, int32 version);

/*
 * Progress: appliers (worker or drain) announce at commit that checkpoints or states moved; waiters sleep until then or 'timeout_ms'.
 * cqrs_shared_progress() reads a counter; cqrs_shared_wait_progress(seen, …) returns at once if it has moved past 'seen'.  Without shared
 * memory waiting is a short nap.  Interrupts are served while waiting.
 */
extern void cqrs_shared_announce_at_commit(void);
extern uint64 cqrs_shared_progress(void);
extern void cqrs_shared_wait_progress(uint64 seen, long timeout_ms);

#endif							/* CQRS_SHARED_H */
