/*
 * apply/apply.h
 *		One batch: the window of one version, and of those connected with it because one reads another, applied in the transaction that is open.
 */
#ifndef CQRS_APPLY_H
#define CQRS_APPLY_H

#include "postgres.h"

#include "plan/plan.h"
#include "registry/registry.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

typedef enum CqrsOutcome
{
	CQRS_APPLIED,				/* all that its snapshot sees is in the table */
	CQRS_BUSY,					/* another process holds the version, or a lock could not be had at once */
	CQRS_NOT_READY				/* gone, retired, not filled yet, paused or halted */
} CqrsOutcome;

/* What became of another version that was applied together with the one asked for. */
typedef struct CqrsCompanion
{
	int32		version;
	bool		full;			/* it was a full evaluation */
	ErrorData  *error;			/* why it stays at its old checkpoint, with those that read it; or NULL: it was applied */
} CqrsCompanion;

typedef struct CqrsBatch
{
	bool		wait;			/* in: wait for the version and for locks (drain), or give up at once (worker) */
	List	   *with;			/* in: ids of more versions, of other groups, to be brought to the same snapshot; the outcome is theirs, too */
	CqrsOutcome outcome;		/* out, as all below: of the version asked for */
	int64		changes;		/* applied by this batch, to all its versions */
	bool		full;			/* it was a full evaluation */
	bool		moved;			/* a checkpoint moved on */
	Snapshot	snapshot;		/* the batch's, registered; the caller unregisters it.  NULL unless applied */
	List	   *locked;			/* as of cqrs_apply_lock */
	List	   *companions;		/* of CqrsCompanion *, in the caller's memory: the others that were applied or failed */
} CqrsBatch;

/* Refuse a user's transaction in which a batch would not be exact: 25001 in another isolation level than READ COMMITTED, or after captured changes. */
extern void cqrs_apply_check_caller(const char *command);

/*
 * Lock the version's group, then its relations, take the snapshot, apply the windows, those below first, insert the checkpoints.  The transaction is a fresh
 * REPEATABLE READ one that has taken no snapshot yet (worker), or READ COMMITTED (drain).  Errors of the version's query are raised
 * as they are; one of another version's query leaves that one, and those that read it, out of the batch.
 */
extern void cqrs_apply_batch(int32 version, CqrsBatch *batch);

/*
 * The same for a version that is to be filled, without itself: APPLIED if all the projections that it reads are exact at the batch's snapshot, which their
 * checkpoints say.
 */
extern void cqrs_apply_below(int32 version, CqrsBatch *batch);

/* Raise the error of a companion, if there is one: of a batch in which the version asked for could not be applied. */
extern void cqrs_apply_raise_companion(const CqrsBatch *batch);

/*
 * A version's table was written otherwise than by a batch: what changed there has reached none of those that read it, which have to be evaluated anew.  Wants
 * the locks of the version's group.
 */
extern void cqrs_apply_distrust_readers(const CqrsVersion *version, const char *reason);

/*
 * The program of a version from the backend's cache, derived again if anything it names has changed.  Wants an active snapshot,
 * and the owner's identity under the version's settings.  Valid until the next call.
 */
extern const CqrsProgram *cqrs_apply_program(const CqrsVersion *version);

/*
 * All locks that must come before the snapshot, shared by batch and fill: the sources with their trees and the definition (ACCESS SHARE), the segments
 * (ACCESS SHARE), the table (ROW EXCLUSIVE).  Without 'wait' false if one could not be had at once.  If the definition or a source is gone: error
 * 42P01.  'locked' gets the OIDs of what the version reads.
 */
extern bool cqrs_apply_lock(const CqrsVersion *version, bool wait, List **locked);

/*
 * Is everything that the version reads among 'locked' still?  A table can join a tree under ACCESS SHARE; an evaluation that met it read the tree of one
 * moment at the snapshot of another.  Asked once the evaluation is done.
 */
extern bool cqrs_apply_still_locked(const CqrsVersion *version, List *locked);

/* Raises 40001 unless it is. */
extern void cqrs_apply_check_locked(const CqrsVersion *version, List *locked);

/* The snapshot that all of a batch or fill reads, registered: the transaction's in REPEATABLE READ, a fresh one in READ COMMITTED. */
extern Snapshot cqrs_apply_snapshot(void);

/* Become the version's owner under its recorded settings (see cqrs_identity_enter); returns the owner. */
struct CqrsIdentity;
extern Oid	cqrs_apply_become_owner(const CqrsVersion *version, struct CqrsIdentity *saved);

/* Run one statement that writes the version's table under the snapshot, with the table's guard told so. */
struct _SPI_plan;
extern uint64 cqrs_apply_write(struct _SPI_plan *statement, Snapshot snapshot);

/*
 * Count what is done for a version, from its beginning to its checkpoint: cqrs_apply_write counts the rows written.  'strategy' is a constant, fill or what
 * users know.
 */
extern void cqrs_effort_begin(void);
extern void cqrs_effort_strategy(const char *strategy);
extern void cqrs_effort_written(int64 rows);	/* by other means than that */
extern CqrsEffort cqrs_effort_end(int64 changes);

/* Raise an error that came of evaluating a version's definition, having found out for which key it is raised, where that can be told.  Inside SPI. */
extern void cqrs_apply_raise(const CqrsVersion *version, Snapshot snapshot, ErrorData *error);

/* A version's table is being truncated by the applier: those who read it cannot be told row by row. */
extern void cqrs_apply_feed_truncate(Oid table);

/* Empty a version's table, which gets new files; the caller has ACCESS EXCLUSIVE. */
extern void cqrs_apply_empty(Relation table);

/* Is the applier writing right now, and may it write to this table?  Asked by the trigger that guards version tables. */
extern bool cqrs_apply_writing(Oid table);

/* ---- versions that handlers define ---- */

/* Refuse with 55000 a replay from the beginning of an outbox whose beginning has been freed. */
extern void cqrs_events_check_history(void);

/*
 * Fill a new version's table at a snapshot, from its seed or by a replay.  Returns the position of the last change seen, 0 if none.  What the seed reads was
 * locked by cqrs_apply_lock.  Errors of handlers, once events that they fail at are to be found, are dealt with as the projection's on_error says.
 */
extern int64 cqrs_events_fill(CqrsVersion *version, Snapshot snapshot, bool wait);

/* Give up all dead letters of a version, which are of no use any more; history tells how many, and why. */
extern void cqrs_events_discard_all(const CqrsVersion *version, const char *why);

/* Is the error that a version's batch or fill has just ended with one at which it has to halt? */
extern bool cqrs_events_halts(int32 version);

/* ---- some keys of a version, apart from any window; the caller has brought it to the snapshot, and holds the locks for that ---- */

/* Keys picked at random, and what there is of them.  The stores are the caller's, rows as program->row. */
typedef struct CqrsSample
{
	int64		seed;			/* in: which keys are picked */
	int64		below;			/* in: how many, as a bound on a hash that is spread over all of int64 */
	Tuplestorestate *expected;	/* what the definition yields for them */
	int64		nexpected;
	Tuplestorestate *found;		/* what the table holds */
	int64		nfound;
	int64		keys;
} CqrsSample;

/* Pick keys of a version whose key has columns. */
extern void cqrs_apply_sample(const CqrsVersion *version, CqrsSample *sample, Snapshot snapshot);

/* A key, and what of the outbox concerns it. */
typedef struct CqrsEntity
{
	Datum	   *values;			/* in: the key's columns, in their order */
	bool	   *nulls;
	int64		limit;			/* in: how many changes to look at */
	int64		changes;		/* out: of those in the window, how many can change what the definition yields for the key */
	TimestampTz oldest;			/* out: when the oldest of these was captured; 0: there is none */
} CqrsEntity;

/*
 * Look through a version's window for what concerns a key; writes nothing, and wants no locks.  Changes of a source that has no better strategy than full
 * concern every key.  Rows of projections that the version reads are not looked at.
 */
extern void cqrs_apply_look_for(const CqrsVersion *version, const CqrsSnapshot *checkpoint, Snapshot snapshot,
								CqrsEntity *entity);

/* An aggregate whose events handlers take. */
typedef struct CqrsAggregate
{
	const char *type;
	int64		first;			/* the version of its first event that is not applied; 0: none is known of */
} CqrsAggregate;

/* The aggregates with an id, and what of the outbox and the dead letters concerns them. */
typedef struct CqrsAggregates
{
	const char *id;				/* in */
	CqrsEntity *entity;			/* in: the limit; out: changes and oldest */
	List	   *list;			/* out: of CqrsAggregate *, one of each type that handlers took events of */
	bool		cut;			/* out: the limit was reached */
} CqrsAggregates;

/* The id that handlers know a row by, given the texts of its key's columns: List of char *. */
extern char *cqrs_events_id(List *texts);

/* Look for what concerns aggregates in the window of a version that handlers define; false if the window does not tell. */
extern bool cqrs_events_look_for(const CqrsVersion *version, const CqrsCheckpoint *checkpoint, Snapshot snapshot,
								 CqrsAggregates *aggregates);

/* Recompute some keys, rows of the key's columns in their order, and write what differs.  The store is used up. */
extern void cqrs_apply_repair(const CqrsVersion *version, Tuplestorestate *keys, int64 nkeys, Snapshot snapshot);

#endif							/* CQRS_APPLY_H */
