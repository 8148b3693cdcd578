/*
 * apply/parts.h
 *		What the files of apply/ share; private to the room.
 */
#ifndef CQRS_APPLY_PARTS_H
#define CQRS_APPLY_PARTS_H

#include "postgres.h"

#include "apply/apply.h"
#include "base/spi.h"
#include "utils/tuplestore.h"

/* ---- program.c: programs and their prepared statements, cached for the backend's life ---- */

typedef struct CqrsProgramEntry CqrsProgramEntry;

typedef enum CqrsStatementKind
{
	CQRS_STATEMENT_AFFECTED,	/* which: source; mask: sources with old images */
	CQRS_STATEMENT_AFFECTED_UNITED, /* likewise */
	CQRS_STATEMENT_CHANGE,		/* mask: sources that are added up */
	CQRS_STATEMENT_COMBINE,		/* which: 1 if but for affected keys; mask: null pattern */
	CQRS_STATEMENT_DISTINCT,
	CQRS_STATEMENT_COMPUTE,		/* mask: null pattern, as in all below */
	CQRS_STATEMENT_COMPUTE_EACH,
	CQRS_STATEMENT_EVALUATE,
	CQRS_STATEMENT_DELETE,
	CQRS_STATEMENT_DELETE_FULL,
	CQRS_STATEMENT_MERGE,
	CQRS_STATEMENT_DUPLICATE,
	CQRS_STATEMENT_PATTERNS
} CqrsStatementKind;

/* Which statement: plans are kept per order of magnitude of the rows they meet. */
typedef struct CqrsStatementKey
{
	CqrsStatementKind kind;
	int			which;
	uint64		mask;
	int			magnitude;
} CqrsStatementKey;

extern CqrsProgramEntry *cqrs_program_entry(const CqrsVersion *version);
extern const CqrsProgram *cqrs_program_of(CqrsProgramEntry *entry);

/* Prepared statements (List of CqrsStatement *) for the key, made at first need.  What they name must be offered already. */
extern List *cqrs_program_statements(CqrsProgramEntry *entry, CqrsStatementKind kind, int which, uint64 mask, double rows);

/* What the planner expects of them together, for so many rows. */
extern CqrsEstimate cqrs_program_estimate(CqrsProgramEntry *entry, CqrsStatementKind kind, int which, uint64 mask,
										  double rows);

/* Do work with a version's program inside SPI, as its owner and under its settings. */
typedef void (*CqrsProgramWork) (CqrsProgramEntry *entry, void *argument);
extern void cqrs_program_run(const CqrsVersion *version, Snapshot snapshot, CqrsProgramWork work, void *argument);

/* Forget a version's program: after an error, in case a statement is what has gone wrong. */
extern void cqrs_program_forget(int32 version);

/* ---- feed.c: what a batch changes in the table of a version that others read ---- */

/* Last column of a feed's rows: what became of the row.  One that was updated is two rows, one behind the other. */
typedef enum CqrsFeedKind
{
	CQRS_FEED_INSERTED,
	CQRS_FEED_DELETED,
	CQRS_FEED_BEFORE,
	CQRS_FEED_AFTER
} CqrsFeedKind;

typedef struct CqrsFeed
{
	Oid			table;
	TupleDesc	desc;			/* the table's columns, and the kind */
	Tuplestorestate *rows;
	int64		count;
	bool		broken;			/* it does not tell all that happened: readers evaluate all anew */
	SubTransactionId last;		/* the newest in which a row was fed */
	Datum	   *values;			/* for one row */
	bool	   *nulls;
} CqrsFeed;

/* Before the snapshot, the version's lock held: have the table feed its readers.  Without 'wait' false if a lock was not to be had. */
extern bool cqrs_feed_ensure(Oid table, bool wait);

/* A feed in CurrentMemoryContext and with the current resource owner.  What changes in its table between open and close goes into it. */
extern CqrsFeed *cqrs_feed_make(Oid table);
extern void cqrs_feed_open(CqrsFeed *feed);
extern void cqrs_feed_close(void);

/* ---- delta.c: from the outbox, and from feeds, to one delta a source ---- */

/* One source's part of a window. */
typedef struct CqrsDelta
{
	int32		source;			/* id; 0: the table of a projection's version */
	Tuplestorestate *rows;
	int64		nrows;
	bool		has_old;		/* it holds old images */
} CqrsDelta;

typedef struct CqrsWindow
{
	int			nsources;		/* as in the program */
	CqrsDelta  *deltas;
	int64		changes;		/* of the version's sources, each once */
	int64		fed;			/* rows of projections that it reads */
	int64		passed_over;	/* chunks that concern none of them */
	bool		lets_go;		/* some of these are in a closed segment, which waits for the checkpoint to move on */
	int64		position;		/* of the last change, 0 if none */
	bool		captured;		/* all sources are captured as they should be */
	bool		altered;		/* what a source holds has changed without changes of rows */
	bool		needs_full;		/* that, a TRUNCATE, or an image that no longer fits: only a full evaluation is right; or the cheaper way */
} CqrsWindow;

/* Read the window between checkpoint and snapshot.  With 'decode' false only count it. */
extern CqrsWindow *cqrs_delta_read(CqrsProgramEntry *entry, Snapshot snapshot, const CqrsSnapshot *checkpoint, bool decode);

/* What one chunk holds, as a window; or of that the change with a number from 0 on among those of the version's sources, -1 for all. */
struct CqrsChunk;
extern CqrsWindow *cqrs_delta_chunk(const CqrsProgram *program, const struct CqrsChunk *chunk, int only);

/* Put what was fed of the table of a projection's version, source 'index' of the program, into its delta. */
extern void cqrs_delta_feed(const CqrsProgram *program, CqrsWindow *window, int index, CqrsFeed *feed);

/* Free the deltas, their temporary files too. */
extern void cqrs_delta_free(CqrsWindow *window);

/* ---- needs.c: what a version asks of capture ---- */

/* Does the registry say of the version what its program asks for?  And have it say so. */
typedef enum CqrsNeeds
{
	CQRS_NEEDS_RECORDED,
	CQRS_NEEDS_LESS,			/* it says more */
	CQRS_NEEDS_MORE,			/* so the version may not have been captured for what it needs */
	CQRS_NEEDS_OTHERS			/* the registry does not know, or not yet, that it reads a source */
} CqrsNeeds;
extern CqrsNeeds cqrs_needs_compare(const CqrsVersion *version, const CqrsProgram *program);
extern void cqrs_needs_record(const CqrsVersion *version, const CqrsProgram *program);

/* ---- culprit.c: statements that fail for some key ---- */

/*
 * Run statements that read deltas, adding the rows that come of them to *nrows.  False if they fail for what some row holds: one that a change has made good
 * since, maybe, which only an evaluation of current rows can tell.
 */
extern bool cqrs_culprit_try(List *statements, Snapshot snapshot, Tuplestorestate *into, int64 *nrows);

/* Run the statement of a kind that recomputes the keys of a null pattern, which are offered already.  An error due to a row's values names its key. */
extern int64 cqrs_culprit_compute(CqrsProgramEntry *entry, CqrsStatementKind kind, uint32 nulls, Tuplestorestate *keys,
								  int64 nkeys, Snapshot snapshot, Tuplestorestate *into);

/* The same for the whole definition. */
extern int64 cqrs_culprit_evaluate(CqrsProgramEntry *entry, Snapshot snapshot, Tuplestorestate *into);

/* ---- effort.c: what a batch does, counted; more of it in apply.h ---- */
extern void cqrs_effort_keys(int64 keys);

/* ---- pattern.c: rows by the null pattern of their key ---- */

/* Rows split by null pattern. */
typedef struct CqrsPattern
{
	uint32		nulls;
	Tuplestorestate *rows;
	int64		nrows;
	CqrsStatementKind compute;	/* by which statement they are recomputed */
} CqrsPattern;

/* A tuplestore for one batch. */
extern Tuplestorestate *cqrs_pattern_store(void);

/* The pattern in the list, made and added if it is not there. */
extern CqrsPattern *cqrs_pattern_of(List **patterns, uint32 nulls);

/* Puts a store's rows, whose key columns are 'key' (NULL: its first ones), into patterns.  The store is used up. */
extern List *cqrs_pattern_split(const CqrsProgram *program, Tuplestorestate *store, int64 nrows, TupleDesc desc,
								const AttrNumber *key);

/* Runs the read-only statements of a key into a store; returns the rows. */
extern int64 cqrs_pattern_select(List *statements, Snapshot snapshot, Tuplestorestate *into);

/* Brings the table's rows of a pattern in line with computed ones; by the statement 'delete', made for so many 'rows', those that were not computed go. */
extern void cqrs_pattern_merge(CqrsProgramEntry *entry, const CqrsPattern *computed, CqrsStatementKind delete, double rows,
							   Snapshot snapshot);

/* Recomputes affected keys of a pattern and merges what comes of them. */
extern void cqrs_pattern_recompute(CqrsProgramEntry *entry, const CqrsPattern *affected, Snapshot snapshot);

/* ---- strategy.c: statements in order ---- */

/* The keys that a window's deltas affect, whatever that costs: columns as program->affected, repetitions possible. */
extern Tuplestorestate *cqrs_strategy_affected(CqrsProgramEntry *entry, const CqrsWindow *window, Snapshot snapshot);

/* A window being applied.  Masks have a bit for each source. */
typedef struct CqrsWork
{
	CqrsProgramEntry *entry;
	const CqrsWindow *window;	/* its deltas are offered */
	Snapshot	snapshot;
	uint64		old;			/* those with old images */
	uint64		added;			/* those whose changes may be added up */
	int64		nadded;			/* rows of their deltas */
} CqrsWork;

/* Applies a window; returns whether that was a full evaluation. */
extern bool cqrs_strategy_apply(CqrsProgramEntry *entry, CqrsWindow *window, Snapshot snapshot);

/* Keys that changes of some sources affect, by statements of a kind; -1 if a full evaluation is cheaper, or the statements fail. */
extern int64 cqrs_strategy_find(const CqrsWork *work, CqrsStatementKind kind, uint64 sources, Tuplestorestate **affected);

/* How many changes it can be cheaper to apply than a full evaluation, at most. */
extern int64 cqrs_strategy_limit(CqrsProgramEntry *entry);

/* Decides how the keys of each pattern are recomputed; false if a full evaluation is cheaper. */
extern bool cqrs_strategy_choose(CqrsProgramEntry *entry, List *patterns);

/* ---- delta_add.c: changes added up ---- */

/* Applies a window by adding what has changed; false, with nothing done, if that cannot be computed.  'full': it came to a full evaluation. */
extern bool cqrs_delta_add(const CqrsWork *work, bool *full);

extern void cqrs_strategy_full(CqrsProgramEntry *entry, Snapshot snapshot);
extern void cqrs_strategy_repair(CqrsProgramEntry *entry, Tuplestorestate *keys, int64 nkeys, Snapshot snapshot);
extern void cqrs_strategy_sample(CqrsProgramEntry *entry, CqrsSample *sample, Snapshot snapshot);

/* ---- batch.c: one version in a batch ---- */

/* A version of the group that a batch is for. */
typedef struct CqrsMember
{
	CqrsVersion *version;		/* NULL: it was dropped */
	CqrsCheckpoint *checkpoint; /* before the batch */
	List	   *lowers;			/* of CqrsMember *: those that it reads */
	bool		asked;			/* the batch is for it */
	bool		ready;			/* it takes part */
	bool		read;			/* another one that takes part reads it */
	List	   *locked;			/* as of cqrs_apply_lock */
	bool		captured;		/* its sources were, before the snapshot */
	bool		full;			/* it is, or has been, evaluated anew */
	bool		done;			/* it is exact at the batch's snapshot */
	CqrsFeed   *feed;			/* what changed in its table, or NULL */
	CqrsWindow	window;			/* what was applied, without deltas */
	CqrsEffort	effort;			/* what that took */
} CqrsMember;

extern void cqrs_member_prepare(CqrsMember *member);
extern void cqrs_member_apply(CqrsMember *member, const CqrsBatch *batch);

/* Until further notice (InvalidOid), let the applier's statements write to no other version's table than this. */
extern void cqrs_apply_write_only(Oid table);

/* ---- events.c ---- */

/* cqrs_member_apply of a version that handlers define. */
extern void cqrs_events_apply(CqrsMember *member, const CqrsBatch *batch);

/* Is its next batch or fill to begin from the seed, as far as can be told now? */
extern bool cqrs_events_begins_anew(const CqrsVersion *version);

/* Lock what a version's seed reads, before the snapshot.  Without 'wait' false if a lock could not be had at once. */
extern bool cqrs_events_lock_seed(const CqrsVersion *version, bool wait);

#endif							/* CQRS_APPLY_PARTS_H */
