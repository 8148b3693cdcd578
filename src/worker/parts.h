/*
 * worker/parts.h
 *		What the files of this room share.
 */
#ifndef CQRS_WORKER_PARTS_H
#define CQRS_WORKER_PARTS_H

#include "postgres.h"

#include "apply/apply.h"
#include "base/compat.h"
#include "datatype/timestamp.h"
#include "registry/registry.h"
#include "shared/shared.h"

#define CQRS_WORKER_NAME	"cqrs worker"

/* One version in one round; lives as long as the round. */
typedef struct CqrsTask
{
	CqrsVersion *version;
	Oid			view;			/* its projection's */
	bool		paused;
	char	   *name;			/* the view's, once a step has begun */
	CqrsBatch	batch;			/* what the last batch did */
	ErrorData  *error;			/* of the last step, or NULL */
	ErrorData  *failure;		/* the error to be noted */
	bool		filling;		/* it came from the fill */
	bool		mended;			/* sources are captured again since just now */
	bool		attended;		/* in this round, together with another */
	TimestampTz retry_at;		/* of a failure that was noted; DT_NOEND: halted */
	TimestampTz verified_at;	/* or since when there is something to be verified */
} CqrsTask;

/* Part of the work, in a transaction of its own: false if somebody else is in the way just now.  Without a task for what is no version's. */
typedef bool (*CqrsWork) (CqrsTask *task);

typedef struct CqrsStep
{
	CqrsWork	work;
	CqrsPhase	phase;
	const char *activity;		/* for pg_stat_activity */
	bool		one_snapshot;	/* REPEATABLE READ, with no snapshot taken yet */
} CqrsStep;

typedef enum CqrsStepResult
{
	CQRS_STEP_DONE,
	CQRS_STEP_BUSY,
	CQRS_STEP_FAILED
} CqrsStepResult;

/* The memory of the round at hand, and that of the worker's life. */
extern MemoryContext cqrs_worker_turn;
extern MemoryContext cqrs_worker_memory;

/* Is the extension that this worker serves still there?  Keeps it from being dropped to the end of the transaction. */
extern bool cqrs_worker_extension_there(void);

/* End this process: the extension is gone, or no worker is wanted here any more. */
CQRS_COMPAT_NORETURN extern void cqrs_worker_leave(void);

/* Run one step in a transaction of its own; if it fails, 'error' gets why. */
extern CqrsStepResult cqrs_worker_step(CqrsTask *task, const CqrsStep *step, ErrorData **error);

/* Do what is due now; returns when to look again, if nobody wakes us before. */
extern TimestampTz cqrs_worker_round(void);

/* Bring a version that is being built, or any other, forward. */
extern CqrsStepResult cqrs_worker_build(CqrsTask *task);
extern CqrsStepResult cqrs_worker_apply(CqrsTask *task);

/* Compare a share of a version's keys with its query, for no longer than cqrs.verify_timeout; halves the share if that was not enough. */
extern CqrsStepResult cqrs_worker_verify(CqrsTask *task, double *share);

/* Have a shadow serve that is to; retire a standby whose time has come.  That others are in the way is no failure. */
extern CqrsStepResult cqrs_worker_rebuild(CqrsTask *task);
extern CqrsStepResult cqrs_worker_retire(CqrsTask *task);

/* Capture again sources whose triggers are not as they should be; the versions that read them are stale then. */
extern CqrsStepResult cqrs_worker_mend(CqrsTask *task);

/* VACUUM tables that can be locked at once; 'truncate' gives their empty ends back.  Ends the transaction and opens another. */
extern void cqrs_worker_vacuum(List *relations, bool truncate);

/* Look after the outbox and our catalog, if it is time, or if versions 'moved' that held segments back; returns when to look again. */
extern TimestampTz cqrs_worker_maintain(bool moved);

/* To the end of the transaction, ask for locks on sources no longer than a turn allows. */
extern void cqrs_worker_limit_lock_timeout(void);

/* Note the task's error in the registry and log it; retry_at says what becomes of it, 0 that there is nothing to note any more. */
extern CqrsStepResult cqrs_worker_note_failure(CqrsTask *task);

/* Watch the utility commands that concern workers. */
extern void cqrs_worker_watch_utility(void);

#endif							/* CQRS_WORKER_PARTS_H */
