/*
 * registry/registry.h
 *		Rows of our own catalog as structs: read, write, lock.  No policy.
 *
 * Reads use a catalog snapshot (never the transaction's: an applier reads here before it takes its snapshot), see this transaction's own
 * earlier commands, and return structs in CurrentMemoryContext.  Writes go through the catalog routines and are visible after
 * the CommandCounterIncrement they end with.  Whoever writes a row holds its lock (see below).
 */
#ifndef CQRS_REGISTRY_H
#define CQRS_REGISTRY_H

#include "postgres.h"

#include "access/attnum.h"
#include "access/transam.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"
#include "utils/reltrigger.h"
#include "window/window.h"

/* Our tables, for cqrs_registry_relation(); also the class of object locks. */
typedef enum CqrsCatalog
{
	CQRS_CAT_PROJECTION,
	CQRS_CAT_VERSION,
	CQRS_CAT_VERSION_SOURCE,
	CQRS_CAT_VERSION_READ,
	CQRS_CAT_VERIFICATION,
	CQRS_CAT_CHECKPOINT,
	CQRS_CAT_SOURCE,
	CQRS_CAT_SHAPE,
	CQRS_CAT_SEGMENT,
	CQRS_CAT_HISTORY,
	CQRS_CAT_AGGREGATE,
	CQRS_CAT_EVENT_TYPE,
	CQRS_CAT_EVENT_COUNT,
	CQRS_CAT_UPCASTER,
	CQRS_CAT_COMMAND,
	CQRS_CAT_COMMAND_CALL,
	CQRS_CAT_COMMAND_REPLAY,
	CQRS_CAT_EVENT_DEFINITION,
	CQRS_CAT_HANDLER,
	CQRS_CAT_DEAD_LETTER,
	CQRS_CAT_COUNT
} CqrsCatalog;

typedef enum CqrsState
{
	CQRS_STATE_BUILDING,
	CQRS_STATE_SHADOW,
	CQRS_STATE_SERVING,
	CQRS_STATE_STANDBY,
	CQRS_STATE_RETIRED
} CqrsState;

typedef enum CqrsStatus
{
	CQRS_STATUS_RUNNING,
	CQRS_STATUS_STALE,			/* its next batch is a full evaluation */
	CQRS_STATUS_FAILING,		/* will retry at retry_at */
	CQRS_STATUS_HALTED			/* needs a person */
} CqrsStatus;

/* Whether a version that is a shadow is to serve by itself. */
typedef enum CqrsRebuild
{
	CQRS_REBUILD_NONE,
	CQRS_REBUILD_WANTED,		/* once it has been compared with its definition */
	CQRS_REBUILD_EQUAL			/* it was found equal, and is to be switched to */
} CqrsRebuild;

typedef struct CqrsProjection
{
	int32		id;
	Oid			view;			/* serving view; its owner owns the projection */
	bool		paused;
	Interval   *max_lag;		/* NULL: none */
	char	   *on_error;		/* park or halt */
	char	   *row_filter;		/* or NULL */
	char	   *description;	/* or NULL */
	int32		last_version;	/* number of its newest version */
	List	   *former;			/* OIDs of serving views that were made anew: whoever still knows the projection by one finds it */
} CqrsProjection;

typedef struct CqrsVersion
{
	int32		id;
	int32		projection;		/* id of its projection */
	int32		number;			/* 1, 2, 3 … within the projection */
	CqrsState	state;
	CqrsStatus	status;
	char	   *error;			/* of a failing or halted one, or NULL */
	TimestampTz retry_at;		/* of a failing one, else 0 */
	int32		attempts;		/* failures in a row */
	Oid			schema;
	Oid			table;
	Oid			definition;		/* the definition view; InvalidOid: handlers define it (cqrs_version_is_events) */
	int			nkeys;
	AttrNumber *key;			/* attribute numbers in table and definition */
	List	   *indexes;		/* List of char *, as given by the user */
	List	   *settings;		/* List of String nodes: name, value, name, value … as recorded at creation */
	TimestampTz created_at;
	TimestampTz state_since;	/* kept by insert and update, as the next */
	TimestampTz status_since;
	FullTransactionId filled_xid;	/* of the transaction that filled it; invalid: not filled */
	TimestampTz filled_at;		/* not before that was committed; 0: nobody has looked since */
	CqrsRebuild rebuild;
	TimestampTz retire_at;		/* when it is retired by itself; 0: never */
} CqrsVersion;

/* What was done to come to a checkpoint. */
typedef struct CqrsEffort
{
	const char *strategy;		/* fill, or how changes were applied; NULL: there was nothing to do */
	int64		changes;
	int64		keys;			/* recomputed; -1: it went by other things than keys */
	int64		written;		/* rows of the version's table */
	int64		microseconds;
} CqrsEffort;

/* A checkpoint with the identity of the cluster and database that it speaks of. */
typedef struct CqrsCheckpoint
{
	int32		version;
	int64		number;
	CqrsSnapshot *snapshot;
	int64		position;		/* of the last change applied */
	TimestampTz as_of;			/* when its snapshot was taken */
	bool		ours;			/* false: written in another cluster or database, or lies in the future: the version is stale */
	CqrsEffort	effort;
	Datum		origin[3];		/* as in its row: where it was written */
} CqrsCheckpoint;

typedef struct CqrsSource
{
	int32		id;
	Oid			relation;
	bool		attached;		/* its trigger is there and its plan is in force */
	bool		captured;		/* whole rows, asked for by cqrs.capture: all columns are watched and imaged, whatever the sets say */
	Bitmapset  *watched;		/* in force: attribute numbers of the columns whose change is captured */
	Bitmapset  *imaged;			/* and of those that images hold; each is watched, too */
} CqrsSource;

/* What defines a version beside its handlers. */
typedef struct CqrsEventDefinition
{
	int32		version;
	char	   *columns;		/* as given */
	char	   *seed;			/* or NULL */
	char	   *unknown;		/* what to do about events that no handler takes: ignore, warn or halt */
	List	   *aggregate_types;	/* of char *: those of the events that handlers were to take so far */
} CqrsEventDefinition;

/* What is done about events of a type, or about changes of a captured table. */
typedef struct CqrsHandler
{
	int32		version;
	int32		number;			/* from 0 */
	char	   *event_type;		/* or NULL */
	int32		source;			/* or 0 */
	Oid			function;		/* or InvalidOid */
	char	   *statement;		/* or NULL */
} CqrsHandler;

/* An event that has not been applied, because it failed or waits behind one that did.  Ids tell the order in which they are to be applied. */
typedef struct CqrsDeadLetter
{
	int64		id;
	int32		version;
	List	   *aggregates;		/* of char *: keys of what it concerns, as of apply/ */
	int64		behind;			/* the letter that it waits for; 0: it failed itself */
	Datum		event;			/* of type cqrs.event */
	char	   *error;			/* or NULL */
	char	   *context;		/* of the error, or NULL */
	int32		attempts;
	TimestampTz parked_at;
	TimestampTz tried_at;		/* 0: never */
} CqrsDeadLetter;

typedef struct CqrsVersionSource
{
	int32		version;
	int32		source;
	Bitmapset  *watched;		/* attribute numbers of the columns the definition reads */
	Bitmapset  *imaged;			/* and of those it must find in images */
} CqrsVersionSource;

/* That a version reads a projection: the table of the version that serves it. */
typedef struct CqrsRead
{
	int32		version;
	int32		projection;
	int32		over;			/* id of the version over which the reader's table was computed; 0: none yet */
} CqrsRead;

/* How the images of a source's rows are laid out: what its columns were when a chunk was written.  Columns go by number. */
typedef struct CqrsShape
{
	int32		id;
	int32		source;			/* id */
	TupleDesc	desc;			/* the columns that are imaged; none is dropped */
	AttrNumber *columns;		/* the number in the source of each of them */
	int			nnoted;
	AttrNumber *noted;			/* numbers of the columns that are watched, but not imaged: an update tells which of them changed */
} CqrsShape;

/*
 * A table that holds a part of the outbox.  Opened ones hold chunks; a spare is empty and waits for its turn.  One that is sealed is no longer written to by
 * anybody, and says what it holds.
 */
typedef struct CqrsSegment
{
	int32		number;			/* in the order of opening; a spare has the one of its last turn */
	int32		oldest;			/* number of the oldest one that was not consumed when it was opened */
	Oid			relation;
	TimestampTz opened_at;		/* 0: a spare */
	TimestampTz closed_at;		/* 0: the active one */
	TimestampTz consumed_at;	/* since when no version needs it; 0: one does, or nobody has looked */
	bool		sealed;
	FullTransactionId first_xid;	/* of its committed chunks, when sealed; invalid if there are none */
	FullTransactionId last_xid;
	int64		first_position;
	int64		last_position;
	int64		changes;
	int64		bytes;
	bool		ours;			/* false: its chunks were written in another cluster or database, and came by a restore */
	Datum		origin[3];		/* as in its row: where from */
} CqrsSegment;

/* ---- the catalog itself ---- */

/* Is the extension created in this database (visible to a catalog snapshot)? */
extern bool cqrs_registry_exists(void);

/* OID of one of our tables; an error if the extension is not created. */
extern Oid	cqrs_registry_relation(CqrsCatalog catalog);

/* Does an origin, as rows of checkpoints and segments hold it, name this cluster and database? */
extern bool cqrs_registry_is_ours(const Datum *origin);

/* OID of the function that capture's triggers call. */
extern Oid	cqrs_registry_capture_function(void);

/* Next value of cqrs_internal.registry_id, the ids of projections, versions, sources and shapes. */
extern int32 cqrs_registry_next_id(void);

/* Do three columns, passed by value (system identifier, database, OID of a table of ours), say that a row speaks of this database's transactions? */
extern bool cqrs_registry_is_ours(const Datum *values);

/* ---- object locks: heavyweight, held to the end of the transaction ---- */

/* Lifecycle of a projection (create, alter, drop, pause, switch); exclusive.  With nowait false if another process holds it. */
extern bool cqrs_projection_lock(int32 projection, bool nowait);

/* A version, by whoever fills or applies or drops it; exclusive.  With nowait false if another process holds it. */
extern bool cqrs_version_lock(int32 version, bool nowait);

/* A relation's being a source, by whoever registers, attaches or releases it; exclusive.  With nowait false if another process holds it. */
extern bool cqrs_source_lock(Oid relation, bool nowait);

/*
 * This process waits for projections to be built or to catch up, to the end of the wait or of the transaction: nobody need wait for the snapshot of its
 * statement, by which it reads nothing afterwards.  False where that is not so.  Shown in pg_locks as an object of the table of projections with the id 0.
 */
extern bool cqrs_waiting_begin(void);
extern void cqrs_waiting_end(void);

/* ---- restore.c: our catalog is being restored from a dump; workers do nothing meanwhile ---- */

/* This session restores, to its end or until it waits for a projection; waits for what workers do just now. */
extern void cqrs_restore_note(void);
extern void cqrs_restore_end(void);

/* Have nobody begin to restore before the transaction ends; false if somebody restores. */
extern bool cqrs_restore_exclude(void);

/* ---- projections ---- */
extern CqrsProjection *cqrs_projection_get(int32 id, bool missing_ok);

/* By serving view; NULL if the relation is none. */
extern CqrsProjection *cqrs_projection_of_view(Oid view);

/* By serving view, for SQL entry points: an error with hint if the relation is no serving view. */
extern CqrsProjection *cqrs_projection_argument(Oid view);
extern List *cqrs_projection_list(void);	/* by id */
extern void cqrs_projection_insert(const CqrsProjection *projection);
extern void cqrs_projection_update(const CqrsProjection *projection);
extern void cqrs_projection_delete(int32 id);

/* Owner of a relation; InvalidOid if it is gone. */
extern Oid	cqrs_relation_owner(Oid relation);

/* Owner of the projection: of its serving view.  The check raises 42501 unless the current user is it, or a member. */
extern Oid	cqrs_projection_owner(const CqrsProjection *projection);
extern bool cqrs_projection_owned(const CqrsProjection *projection);
extern void cqrs_projection_check_owner(const CqrsProjection *projection);

/* ---- versions ---- */
extern CqrsVersion *cqrs_version_get(int32 id, bool missing_ok);
extern List *cqrs_version_list(int32 projection);	/* of one projection, or of all with 0; by id; retired ones too */
extern CqrsVersion *cqrs_version_serving(int32 projection); /* the serving one, else the newest building one, else NULL */
extern void cqrs_version_insert(CqrsVersion *version);
extern void cqrs_version_update(CqrsVersion *version);
extern void cqrs_version_strip(int32 id);	/* of what it reads, and its checkpoints */
extern void cqrs_version_delete(int32 id);	/* with its sources and checkpoints */

/* Make a version that runs or fails stale, recorded with a reason; a halted one stays so, unless it has halted at an event. */
extern void cqrs_version_distrust(CqrsVersion *version, const char *reason);

/* Did its last step fail, so that it waits for the next try?  Also true of a stale one whose full evaluation failed. */
extern bool cqrs_version_fails(const CqrsVersion *version);
extern const char *cqrs_state_name(CqrsState state);
extern const char *cqrs_status_name(CqrsStatus status);

/* ---- verifications: the last one of each version ---- */

/* What is known of a version's equality with its definition. */
typedef struct CqrsVerification
{
	int32		version;
	TimestampTz at;				/* when it was looked at last, all of it or a sample */
	int64		drifted;		/* keys known to differ */
} CqrsVerification;

extern CqrsVerification *cqrs_verification_get(int32 version);	/* NULL if it never was */
extern void cqrs_verification_set(const CqrsVerification *verification);	/* the caller holds the version's lock */
extern void cqrs_verification_delete(int32 version);
/* ---- versions that handlers define ---- */
extern bool cqrs_version_is_events(const CqrsVersion *version);

/* Has a version that handlers define halted at an event?  Then it has lost nothing, goes on where it stopped, and holds what it has not applied. */
extern bool cqrs_version_at_event(const CqrsVersion *version);

/* Did such a version come from another cluster or database?  What its checkpoint has not seen came with it, and is pending still. */
extern bool cqrs_version_restored(const CqrsVersion *version, const CqrsCheckpoint *checkpoint);
extern CqrsEventDefinition *cqrs_event_definition_get(int32 version);
extern void cqrs_event_definition_insert(const CqrsEventDefinition *definition);
extern void cqrs_event_definition_update(const CqrsEventDefinition *definition);
extern List *cqrs_handler_list(int32 version);	/* by number */
extern void cqrs_handler_insert(const CqrsHandler *handler);

/* The handlers as create_projection takes them, under the names that things have now. */
extern Jsonb *cqrs_handlers_jsonb(int32 version);

/* The type cqrs.event. */
extern Oid	cqrs_registry_event_type(void);

/* ---- dead letters; whoever writes holds the version's lock ---- */
extern List *cqrs_dead_letter_list(int32 version, bool whole);	/* by id; without 'whole' ids, aggregates and what they wait behind only */
extern CqrsDeadLetter *cqrs_dead_letter_get(int64 id);	/* NULL if none */
extern void cqrs_dead_letter_insert(CqrsDeadLetter *letter);	/* sets its id */
extern void cqrs_dead_letter_update(const CqrsDeadLetter *letter);
extern void cqrs_dead_letter_delete(int64 id);
extern int	cqrs_dead_letter_delete_all(int32 version);

/* ---- checkpoints: inserted, never updated, newest first ---- */
extern CqrsCheckpoint *cqrs_checkpoint_latest(int32 version);	/* NULL before the fill */

/* The newest few, oldest first. */
extern List *cqrs_checkpoint_list(int32 version);

/* Insert the next one for the version and prune old ones it can see no reader of (all but the newest few). */
extern void cqrs_checkpoint_insert(int32 version, const CqrsSnapshot *snapshot, int64 position, TimestampTz as_of,
								   const CqrsEffort *effort);

/* ---- sources ---- */
extern CqrsSource *cqrs_source_get(int32 id);
extern CqrsSource *cqrs_source_find(int32 id);	/* NULL if none */
extern CqrsSource *cqrs_source_of_relation(Oid relation);	/* NULL if none */
extern List *cqrs_source_list(void);
extern CqrsSource *cqrs_source_insert(Oid relation);	/* not attached yet; the row there is if another session was first */
extern void cqrs_source_update(const CqrsSource *source);	/* sends the relation's relcache invalidation */
extern void cqrs_source_delete(int32 id);

/* Whose changes a trigger captures: the id of a source, or 0 if the trigger is none of ours. */
extern int32 cqrs_source_of_trigger(const Trigger *trigger);

/*
 * For which columns, if an UPDATE names one, does a table of the source's tree have to fire the source's trigger?  False: for each UPDATE, because all columns
 * are captured, or another trigger may change columns that the UPDATE does not name.
 */
extern bool cqrs_source_fires_for(const CqrsSource *source, Relation table, Bitmapset **columns);

/* Are the source's capture triggers (rows, TRUNCATE) on every table of its tree, and fire always? */
extern bool cqrs_source_intact(const CqrsSource *source);

/* Is the source captured well enough for who needs these columns: attached, its triggers intact, the sets in force no smaller?  NULL is not. */
extern bool cqrs_source_covers(const CqrsSource *source, const Bitmapset *watched, const Bitmapset *imaged);

/* Are all sources of a version captured as it needs?  One whose table a lock keeps us from looking at counts as captured. */
extern bool cqrs_version_covered(int32 version);

/* ---- trees: a partitioned table or inheritance parent and all below it, as the catalogs say now, without locks ---- */

/* All relations of the tree under one, itself included, by OID; and those of them that hold rows themselves. */
extern List *cqrs_tree_members(Oid relation);
extern List *cqrs_tree_tables(Oid relation);

/* The relations in whose trees one is, without itself, by OID. */
extern List *cqrs_tree_ancestors(Oid relation);

/* Are the rows of a table rows of the relation?  Not those of a partition whose detaching is pending, or of its partitions. */
extern bool cqrs_tree_contains(Oid relation, Oid table);

/* Is the detaching of a partition of the tree pending? */
extern bool cqrs_tree_detaching(Oid relation);

/* ---- what versions read ---- */
extern void cqrs_version_source_insert(const CqrsVersionSource *row);
extern void cqrs_version_source_delete(int32 version);	/* all of a version's */
extern List *cqrs_version_source_list(int32 version);	/* List of CqrsVersionSource *; all versions' with 0 */

/* The ids of the sources a version reads, itself or through projections, as an array. */
extern int32 *cqrs_version_source_ids(int32 version, int *count);

/* ---- versions that read projections, and groups of them ---- */
extern List *cqrs_read_list(int32 version); /* List of CqrsRead *; all versions' with 0 */
extern void cqrs_read_set(int32 version, List *projections);	/* ids; what they replace is forgotten */
extern bool cqrs_read_equals(int32 version, List *projections);
extern bool cqrs_read_settle(int32 version);	/* its table is computed over what serves now; true if that is news */
extern void cqrs_read_delete(int32 version);

/* The versions that serve what a version reads, or are being built for that; and those that read a projection, none of them retired. */
extern List *cqrs_version_lowers(const CqrsVersion *version);
extern List *cqrs_projection_readers(int32 projection);

/* Is a relation the table of one of a projection's versions?  And the version whose table a relation is, or NULL. */
extern bool cqrs_projection_holds(const CqrsProjection *projection, Oid table);
extern CqrsVersion *cqrs_version_of_table(Oid table);

/* Is a projection the other one, or does any version of it read that, through whatever others? */
extern bool cqrs_projection_reads(int32 projection, int32 other);

/* Has a version missed nothing of the projections it reads?  Else its next batch is a full evaluation.  True of one that reads none. */
extern bool cqrs_version_in_step(const CqrsVersion *version);

/* Does something hold of a version, or of one that it reads, through whatever others? */
extern bool cqrs_version_any(const CqrsVersion *version, bool (*test) (const CqrsVersion *));

/* Is its projection paused? */
extern bool cqrs_version_paused(const CqrsVersion *version);

/* The version below, the lowest, that keeps one from moving on because it is paused, halted, failing or being built; or NULL. */
extern CqrsVersion *cqrs_version_held_by(const CqrsVersion *version);

/*
 * All versions that are applied together with one, or with any of several, by id, themselves included; and their locks, taken in that order.  With nowait
 * false if another process holds one.
 */
extern List *cqrs_group_members(int32 version);
extern bool cqrs_group_lock(int32 version, bool nowait);
extern List *cqrs_groups_members(List *versions);	/* ids */
extern bool cqrs_groups_lock(List *versions, bool nowait);

/* History: a projection's readers have to be evaluated anew, since another version serves it from now on. */
extern void cqrs_read_note_switch(const CqrsProjection *projection, int32 number);

/* ---- shapes ---- */
extern CqrsShape *cqrs_shape_get(int32 id);
extern CqrsShape *cqrs_shape_latest(int32 source);	/* NULL if none */
extern void cqrs_shape_insert(CqrsShape *shape);	/* sets its id */

/* ---- segments ---- */
/* Opened ones, oldest first; spares; the active one, NULL if there is none of ours. */
extern List *cqrs_segment_list(void);
extern List *cqrs_segment_unconsumed(void); /* those of them that a version may need, or a writer write to */
extern List *cqrs_segment_spares(void);
extern CqrsSegment *cqrs_segment_active(void);

/* By relation.  Each has all sessions look up the active one again. */
extern void cqrs_segment_insert(const CqrsSegment *segment);
extern void cqrs_segment_update(const CqrsSegment *segment);
extern void cqrs_segment_delete(Oid relation);

/* The right to change what segments there are; exclusive, to the end of the transaction.  With nowait false if another process has it. */
extern bool cqrs_segment_lock(bool nowait);
extern void cqrs_segment_unlock(void);		/* nothing was changed */

#define CQRS_SEGMENT_ANY (-1)	/* instead of a number: the first, whichever it will be */

/*
 * Need what is in a segment and all later ones, to the end of the transaction; and forbid anybody to.  The one who fills a version has no checkpoint yet that
 * could tell.  With nowait false if another process does the opposite.
 */
extern bool cqrs_segment_need(int32 number, bool nowait);
extern bool cqrs_segment_forbid(int32 number);

/* Who says that it needs a segment and all later ones: texts, as of cqrs_locks_held. */
extern List *cqrs_segment_needed_by(int32 number);

/* ---- types of events ---- */

/* A type that somebody has described; its owner is a role by name, since roles are not restored with a database. */
typedef struct CqrsEventType
{
	char	   *type;
	int32		version;		/* of the newest shape of its payloads, from 1 */
	NameData	owner;
	char	   *description;	/* or NULL */
} CqrsEventType;

/* Brings payloads from a version to the next. */
typedef struct CqrsUpcaster
{
	char	   *type;
	int32		from_version;
	Oid			function;
} CqrsUpcaster;

extern CqrsEventType *cqrs_event_type_find(const char *type);	/* NULL if none */
extern void cqrs_event_type_insert(const CqrsEventType *type);
extern void cqrs_event_type_update(const CqrsEventType *type);

/* Events of a type. */
typedef struct CqrsEventCount
{
	char	   *type;
	int64		count;
	TimestampTz first_at;		/* when they were captured */
	TimestampTz last_at;
} CqrsEventCount;

/* Add to what is known of a type; by who has the right to change what segments there are. */
extern void cqrs_event_count_add(const CqrsEventCount *count);

/* All of them, by type and version.  A change tells all sessions that look at the relcache entry of the table. */
extern List *cqrs_upcaster_list(void);
extern void cqrs_upcaster_insert(const CqrsUpcaster *upcaster);
extern void cqrs_upcaster_delete(const CqrsUpcaster *upcaster);

/* ---- commands ---- */

/* The function that handles a command; InvalidOid if there is no such command. */
extern Oid	cqrs_command_handler(const char *name);
extern void cqrs_command_insert(const char *name, Oid handler);
extern bool cqrs_command_delete(const char *name);

/* A command that was executed.  Strings are as short as keys of indexes must be. */
typedef struct CqrsCommandCall
{
	text	   *id;
	text	   *command;
	text	   *actor;			/* who was logged in */
	text	   *role;			/* as whom it was executed */
	TimestampTz at;
	int64		microseconds;	/* it took */
	bytea	   *payload_hash;
	Jsonb	   *result;			/* NULL: null */
	FullTransactionId token;
	bool		ours;			/* false: the token is another cluster's or database's */
} CqrsCommandCall;

/* What a look for a call has come to. */
typedef enum CqrsCallFound
{
	CQRS_CALL_NONE,
	CQRS_CALL_THERE,
	CQRS_CALL_UNSEEN,			/* there, but the transaction's one snapshot does not show it */
	CQRS_CALL_OPEN				/* its transaction, 'writer', is still open */
} CqrsCallFound;

/* Look for the call with the id among all there are, committed or not; in CurrentMemoryContext. */
extern CqrsCallFound cqrs_command_call_find(text *id, CqrsCommandCall *call, TransactionId *writer);
extern void cqrs_command_call_insert(const CqrsCommandCall *call);

/* Record that the call with the id was asked for again. */
extern void cqrs_command_replay_insert(text *id);

/* The right to execute the command with the id, until it is given back or the transaction fails.  Ids can share one. */
extern void cqrs_command_lock(text *id);
extern void cqrs_command_unlock(text *id);

/* Delete calls, and the records of their being asked for again, from before a time, at most so many of each; those that others are at are passed over. */
extern int	cqrs_command_call_prune(TimestampTz before, int limit);

/* ---- history ---- */

/*
 * Records an event of a projection's life.  Strings may be NULL.  Of a version's change of state or status it is recorded, too, how long what it leaves
 * has lasted: its row is to be updated after this.
 */
extern void cqrs_history_insert(int32 projection, Oid view, int32 version_number, const char *event,
								const char *from_state, const char *to_state, const char *reason);

/* Records that keys of a version were found to have drifted, or were mended, as 'event' says, and how many. */
extern void cqrs_history_insert_drift(const CqrsVersion *version, const char *event, int64 keys, const char *reason);

/* Records that changes were erased from the outbox: of a table, or an aggregate type. */
extern void cqrs_history_insert_erasure(const char *source, int64 changes, const char *reason);

#endif							/* CQRS_REGISTRY_H */
