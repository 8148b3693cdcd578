/*
 * outbox/outbox.h
 *		The durable, transactional log of changes: buffer, chunk format, write, scan.
 *
 * Writers append changes to a transaction-local buffer, which reaches the active segment as chunks at pre-commit.  Readers scan
 * chunks of a window under a snapshot and decode them.
 */
#ifndef CQRS_OUTBOX_H
#define CQRS_OUTBOX_H

#include "postgres.h"

#include "access/htup.h"
#include "access/transam.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "nodes/pg_list.h"
#include "registry/registry.h"
#include "storage/itemptr.h"
#include "utils/jsonb.h"
#include "utils/snapshot.h"
#include "window/window.h"

typedef enum CqrsChangeKind
{
	CQRS_CHANGE_INSERT = 1,
	CQRS_CHANGE_UPDATE = 2,
	CQRS_CHANGE_DELETE = 3,
	CQRS_CHANGE_TRUNCATE = 4,
	CQRS_CHANGE_ALTER = 5,		/* what the source holds has changed without changes of rows */
	CQRS_CHANGE_ERASED = 6,		/* what it was is nobody's business any more */
	CQRS_CHANGE_EVENT = 7		/* a domain event */
} CqrsChangeKind;

/* Events have a shape and a source that are in no table. */
#define CQRS_EVENT_SHAPE	0
#define CQRS_EVENT_SOURCE	0

/* A domain event; no field is NULL. */
typedef struct CqrsEvent
{
	text	   *type;
	text	   *aggregate_type;
	text	   *aggregate_id;
	int64		version;		/* of the aggregate, from 1 */
	Jsonb	   *payload;		/* an object, as is metadata */
	Jsonb	   *metadata;
} CqrsEvent;

/* position = chunk number shifted left by this, plus the change's ordinal in the chunk */
#define CQRS_POSITION_BITS 16

/* ---- writing: called by capture ---- */

/* Bytes that a bit for each of so many columns takes. */
#define CQRS_NOTED_SIZE(columns)	(((columns) + 7) / 8)

/* A column of images, and where a row of the table has it. */
typedef struct CqrsImagingColumn
{
	int16		from;			/* index among the row's attributes, from 0 */
	int16		length;			/* as attlen */
	uint8		alignment;		/* in bytes */
	bool		by_value;
} CqrsImagingColumn;

/* Bytes of a row's data that are the same in its image, as far as the columns before and in it are not null. */
typedef struct CqrsImagingRun
{
	uint16		from;			/* where the row has them */
	uint16		to;				/* where the image does */
	uint16		length;
} CqrsImagingRun;

/* How the rows of a table become images of a shape. */
typedef struct CqrsImaging
{
	int32		source;
	int32		shape;
	int			ncolumns;		/* as the shape has them */
	CqrsImagingColumn *columns;
	int			deformed;		/* attributes of a row up to the last one imaged */
	int			nruns;			/* of which images are made if nothing is null up to there; 0: they cannot be */
	CqrsImagingRun *runs;
	int			nnoted;			/* columns whose change an update only notes, as the shape has them */
	bool		whole;			/* a row is laid out as an image: it is copied as it is ... */
	bool		missing;		/* ... unless it is shorter, and the table keeps values for rows that lack them */
} CqrsImaging;

/* A row as triggers get it. */
typedef struct CqrsRow
{
	HeapTuple	tuple;
	TupleTableSlot *slot;		/* holds it; what is deformed already is used */
} CqrsRow;

/*
 * Append one change of a row to this transaction's buffer; NULL where the kind has no old or new row.  'noted' has a bit set for each noted column that an
 * update changed, NULL for other kinds.  Values stored out of line are fetched.  Spills by nesting level past cqrs.buffer_size.
 */
extern void cqrs_outbox_append(CqrsChangeKind kind, const CqrsImaging *imaging, const CqrsRow *old_row, const CqrsRow *new_row,
							   const uint8 *noted);

/* Append a change that is of no row; 'shape' is the source's latest. */
extern void cqrs_outbox_append_mark(CqrsChangeKind kind, int32 source, int32 shape);

/* Append an event, behind what was appended before it by the same or an earlier command. */
extern void cqrs_outbox_append_event(const CqrsEvent *event);

/* Has this transaction captured changes, still in the buffer or written early, that are not rolled back? */
extern bool cqrs_outbox_pending(void);

/* There is a segment to write to, or an error (55P03); cheap when there is one.  Before anything is captured for the first time. */
extern void cqrs_segment_ensure(void);

/* Registers the transaction callbacks, once a backend. */
extern void cqrs_outbox_init(void);

/* ---- reading ---- */

#define CQRS_SOURCES_DAMAGED	(-1)	/* in place of a number of sources: it is not known whose changes a chunk holds */

/* One chunk's row, without its body decoded. */
typedef struct CqrsChunk
{
	int64		number;
	FullTransactionId xid;
	int32	   *sources;
	int			nsources;
	int32		changes;		/* how many it holds */
	TimestampTz captured_at;
	const CqrsSegment *segment; /* in which it is, and where */
	ItemPointerData place;
	bool		closed;			/* that is, so the chunk waits to be consumed */
	struct varlena *body;		/* as stored, in the scan's hands: read it with cqrs_outbox_read_begin before the next chunk */
} CqrsChunk;

/* One decoded change.  Tuples are of the shape's descriptor and valid until the next change is read. */
typedef struct CqrsChange
{
	CqrsChangeKind kind;
	int32		source;
	int32		shape;
	CommandId	command;
	int64		position;
	HeapTuple	old_tuple;		/* or NULL */
	HeapTuple	new_tuple;		/* or NULL; of an event see cqrs_outbox_event */
	const uint8 *noted;			/* of an update: a bit for each noted column of the shape, set where it changed; NULL if it has none */
} CqrsChange;

/*
 * cqrs_outbox_noted tells whether a column's bit is set.
 */
static inline bool
cqrs_outbox_noted(const uint8 *noted, int index)
{
	return noted[index / 8] & (1 << index % 8);
}

/*
 * The chunks of a window: visible in 'snapshot' and not seen by 'checkpoint' (NULL: all visible ones), with an xid of at most
 * 'upto' (invalid: any). Scans the xid index from the checkpoint's xmax up, plus one probe for each id it holds in progress; over
 * all segments, each already locked by the caller or locked here for the scan.  Snapshot and checkpoint must last as long as the
 * scan.  Chunks come in no promised order; sort by number where order matters.
 */
typedef struct CqrsOutboxScan CqrsOutboxScan;
extern CqrsOutboxScan *cqrs_outbox_scan_begin(Snapshot snapshot, const CqrsSnapshot *checkpoint, FullTransactionId upto);

/* The next chunk, in memory of the scan that the following call frees; NULL at the end.  The body is fetched only by cqrs_outbox_read_begin. */
extern CqrsChunk *cqrs_outbox_scan_next(CqrsOutboxScan *scan);
extern void cqrs_outbox_scan_end(CqrsOutboxScan *scan);

/*
 * To the end of the transaction, keep all segments that can hold changes a snapshot taken from now on does not see.  Without 'wait' false if
 * somebody is freeing one just now.
 */
extern bool cqrs_outbox_need(bool wait);

/* Chunks from where a scan under the same snapshot has met them.  A chunk lasts until the next one is fetched. */
typedef struct CqrsOutboxFetch CqrsOutboxFetch;
extern CqrsOutboxFetch *cqrs_outbox_fetch_begin(Snapshot snapshot);
extern const CqrsChunk *cqrs_outbox_fetch(CqrsOutboxFetch *fetch, const CqrsSegment *segment, ItemPointer place);
extern void cqrs_outbox_fetch_end(CqrsOutboxFetch *fetch);

/* The segments that can hold chunks of a window, oldest first; and whether one can. */
extern List *cqrs_outbox_segments(const CqrsSnapshot *checkpoint, FullTransactionId upto);
extern bool cqrs_outbox_concerns(const CqrsSegment *segment, const CqrsSnapshot *checkpoint, FullTransactionId upto);

/* Does the chunk hold changes of any of the sources? */
extern bool cqrs_outbox_chunk_has(const CqrsChunk *chunk, const int32 *sources, int nsources);

/* Iterate over a chunk's changes.  A damaged body is an error XX001 that names the chunk. */
typedef struct CqrsChangeReader CqrsChangeReader;
extern CqrsChangeReader *cqrs_outbox_read_begin(const CqrsChunk *chunk);
extern bool cqrs_outbox_read_next(CqrsChangeReader *reader, CqrsChange *change);

/* From now on pass over what changes hold, for who only counts them. */
extern void cqrs_outbox_read_no_images(CqrsChangeReader *reader);
extern void cqrs_outbox_read_end(CqrsChangeReader *reader);

/* How people call a kind of change. */
extern const char *cqrs_outbox_kind_name(CqrsChangeKind kind);

/* What a change of the kind event says; valid until the next change is read or CurrentMemoryContext is reset. */
extern void cqrs_outbox_event(const CqrsChange *change, CqrsEvent *event);

/* A shape, from a backend-local cache; stays valid for the backend's life (shapes never change). */
extern const CqrsShape *cqrs_outbox_shape(int32 id);

/*
 * What a version has not applied: counts changes of 'sources' in the window from 'checkpoint' to 'snapshot', up to 'limit'; and when the oldest of
 * those counted was captured (0 if none).
 */
extern int64 cqrs_outbox_count_pending(Snapshot snapshot, const CqrsSnapshot *checkpoint, const int32 *sources, int nsources,
									   int64 limit, TimestampTz *oldest);

/* ---- erasing ---- */

/* Is a change, of a row or an event, to be erased? */
typedef bool (*CqrsErasable) (const CqrsChange *change, void *argument);

/* Every opened segment, locked so that it is neither freed nor erased from by others to the end of the transaction, up to cqrs.lock_timeout. */
extern List *cqrs_outbox_lock_all(void);

/*
 * Erase changes of the sources, from chunks that the snapshot sees, in segments locked so (a List of OIDs): their places stay, and so do their source
 * and command.  Returns how many.  The caller has seen to it that nobody needs them.
 */
extern int64 cqrs_outbox_erase(List *segments, Snapshot snapshot, const int32 *sources, int nsources, CqrsErasable erasable,
							   void *argument);

/* ---- upkeep ---- */

/* What looking after the outbox has come to. */
typedef struct CqrsUpkeep
{
	int			freed;			/* segments */
	bool		rotated;		/* another segment is written to now */
	bool		busy;			/* others were in the way of something */
	bool		held;			/* versions need a closed segment */
	TimestampTz again;			/* when there will be something to do; DT_NOEND: not by itself */
} CqrsUpkeep;

/*
 * Close the active segment if it is due, seal closed ones, free those that are consumed and kept long enough, keep the outbox below its maximum.
 * Waits for nobody, but for a moment until no writer opens a segment.  In a READ COMMITTED transaction that is about to end: it may have locked out
 * readers of what it freed.
 */
extern void cqrs_outbox_upkeep(CqrsUpkeep *result);

#endif							/* CQRS_OUTBOX_H */
