/*
 * apply/events_parts.h
 *		What the files share that apply events; private to the room.
 *
 * events_read.c finds the events of a window, in order; events_run.c has handlers take them; events_park.c knows which aggregates wait, and finds the event
 * that failed; events.c is the batch around them, letters.c goes on with what was parked, and events_entity.c looks for what concerns one aggregate.
 */
#ifndef CQRS_APPLY_EVENTS_PARTS_H
#define CQRS_APPLY_EVENTS_PARTS_H

#include "postgres.h"

#include "apply/parts.h"
#include "executor/tuptable.h"
#include "utils/hsearch.h"
#include "utils/tuplesort.h"

/*
 * An event on its way, from 0: what orders it, first, so that it is found without a look at what comes before it; the columns of cqrs.event; and what
 * else is known of it.
 */
enum
{
	FOUND_TURN,					/* of its transaction: where that ends */
	FOUND_COMMAND,				/* within the transaction */
	EVENT_POSITION, EVENT_XID, EVENT_CAPTURED_AT, EVENT_TYPE, EVENT_AGGREGATE_TYPE, EVENT_AGGREGATE_ID, EVENT_AGGREGATE_VERSION,
	EVENT_PAYLOAD, EVENT_METADATA, EVENT_KIND, EVENT_SOURCE, EVENT_OLD_ROW, EVENT_NEW_ROW,
	FOUND_HANDLER,				/* number of its handler */
	FOUND_OLD_ID,				/* the aggregate's id before a change of a row's key; else null */
	FOUND_SOURCE,				/* id of the source of a row; else null */
	FOUND_COLUMNS
};

#define EVENT_FIRST		EVENT_POSITION
#define EVENT_COLUMNS	(EVENT_NEW_ROW - EVENT_FIRST + 1)

/* ---- events_read.c ---- */

/* What a window holds for a version. */
typedef struct CqrsEventWindow
{
	int64		seen;			/* changes of the version's sources, whether or not a handler takes them */
	int64		passed_over;	/* chunks that hold none */
	bool		lets_go;		/* some of these are in a closed segment */
	int64		position;		/* of the last change seen, 0 if none */
	char	   *doubt;			/* why the window does not tell all that happened; or NULL */
	char	   *unknown;		/* the type of an event that no handler takes, and that halts the version; or NULL */
	bool		cut;			/* the limit was reached */
} CqrsEventWindow;

/* What is done with each event found, in order; it lasts as long as the call. */
typedef void (*CqrsEventSink) (void *argument, TupleTableSlot *found);

/* Which events to find. */
typedef struct CqrsEventScope
{
	const CqrsVersion *version;
	const CqrsCheckpoint *checkpoint;	/* NULL: all that the outbox holds */
	Snapshot	snapshot;
	int64		limit;			/* for who only looks: how many changes to go through, with no word of unknown types; 0: all */
} CqrsEventScope;

/*
 * Find the events that the snapshot sees and the checkpoint does not: of another cluster's or database's, too, where the checkpoint is from there.  If the
 * window is in doubt, none is given to the sink; from one on that halts the version, none either.
 */
extern void cqrs_events_read(const CqrsEventScope *scope, CqrsEventWindow *window, CqrsEventSink sink, void *argument);

/* Are a name and a text the same? */
extern bool cqrs_names_text(const char *name, const text *value);

/* The row type of events found. */
extern TupleDesc cqrs_events_found_row(void);

/* ---- events_park.c ---- */

/* The aggregates whose events wait, with the letters that they wait behind. */
typedef struct CqrsParked CqrsParked;

extern CqrsParked *cqrs_parked_make(void);
extern void cqrs_parked_add(CqrsParked *parked, List *aggregates, int64 letter);

/* The letter that who concerns these aggregates waits behind; 0: none. */
extern int64 cqrs_parked_behind(const CqrsParked *parked, List *aggregates);
extern bool cqrs_parked_empty(const CqrsParked *parked);

/* Go back to an earlier state: how many additions there were then. */
extern int	cqrs_parked_mark(const CqrsParked *parked);
extern void cqrs_parked_undo(CqrsParked *parked, int mark);

/* What an event found concerns: List of char *, keys of aggregates. */
extern List *cqrs_parked_aggregates(TupleTableSlot *found);

/* ---- events_run.c ---- */

/* Handlers at work on one version, for one batch. */
typedef struct CqrsEventRun
{
	const CqrsVersion *version;
	Snapshot	snapshot;
	CqrsParked *parked;
	int64		applied;		/* events that handlers have taken */
	int64		waiting;		/* that were put behind others */
	struct CqrsRunner *runner;	/* private to events_run.c */
} CqrsEventRun;

/* Within a nesting of SPI, under the owner's identity and the version's settings. */
extern void cqrs_events_begin(CqrsEventRun *run);
extern void cqrs_events_end(CqrsEventRun *run);

/* After an error: read and prepare a version's handlers anew. */
extern void cqrs_events_distrust(int32 version);

/* Hand an event to its handler; a run of them when it ends.  One that waits behind a letter is written down instead. */
extern void cqrs_events_take(CqrsEventRun *run, TupleTableSlot *found);
extern void cqrs_events_flush(CqrsEventRun *run);

/* Forget what was gathered: it was undone. */
extern void cqrs_events_forget(CqrsEventRun *run);

/*
 * Does an error at which a handler failed with an event say nothing of that event?  Others were in the way, or the server was, or the handler could take no
 * event at all.
 */
extern bool cqrs_events_blameless(CqrsEventRun *run, TupleTableSlot *found, const ErrorData *error);

/* The event found, as a Datum of cqrs.event. */
extern Datum cqrs_events_datum(const CqrsEventRun *run, TupleTableSlot *found);

/* ---- events.c ---- */

/* Run work as the version's owner, under its settings, inside SPI, with the snapshot active and its table open to handlers. */
extern void cqrs_events_within(const CqrsVersion *version, Snapshot snapshot, void (*work) (void *), void *argument);

#endif							/* CQRS_APPLY_EVENTS_PARTS_H */
