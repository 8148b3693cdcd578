/*
 * apply/apply.h
 *		One batch: the window of one version, applied in the transaction that is open.
 */
#ifndef CQRS_APPLY_H
#define CQRS_APPLY_H

#include "postgres.h"

#include "plan/plan.h"
#include "registry/registry.h"
#include "utils/snapshot.h"

typedef enum CqrsOutcome
{
	CQRS_APPLIED,				/* its checkpoint is the snapshot taken (or what lies between does not concern it) */
	CQRS_BUSY,					/* another process holds the version, or a lock could not be had in time */
	CQRS_NOT_READY				/* gone, retired, building, paused, halted: nothing to apply */
} CqrsOutcome;

typedef struct CqrsBatch
{
	bool		wait;			/* in: wait for the version's and the relations' locks (drain), or not (worker) */
	bool		even_paused;	/* in: verify may apply a paused one? no caller yet sets it but verify */
	CqrsOutcome outcome;
	int64		changes;		/* out: applied by this batch */
	Snapshot	snapshot;		/* out: the batch's, registered in TopTransactionResourceOwner until the transaction ends; NULL unless applied */
} CqrsBatch;

/*
 * Lock the version, then its relations, take the snapshot, apply the window and insert the checkpoint.  The transaction must be fresh (worker, REPEATABLE READ,
 * nothing read yet) or READ COMMITTED (drain).  Errors of the user's query are raised as they are.
 */
extern void cqrs_apply_batch(int32 version, CqrsBatch *batch);

/* The program of a version from the backend's cache, derived again if anything it names has changed. */
extern const CqrsProgram *cqrs_apply_program(const CqrsVersion *version);

/* Everything in front of the snapshot, shared by batch, fill and verify: locks the program's relations, the table and the segments; false if one could not be had. */
extern bool cqrs_apply_lock(const CqrsVersion *version, bool wait, const CqrsProgram **program);

/* Take the snapshot all of the batch reads: the transaction's own in REPEATABLE READ, a registered fresh one in READ COMMITTED. */
extern Snapshot cqrs_apply_snapshot(void);

/* Is the applier writing right now?  Asked by the trigger that guards version tables. */
extern bool cqrs_apply_writing(void);
extern void cqrs_apply_set_writing(bool writing);

/* Set by the one that writes read models; see cqrs_apply_writing. */
extern void cqrs_apply_init(void);

#endif							/* CQRS_APPLY_H */
