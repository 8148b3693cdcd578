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
#include "utils/snapshot.h"
#include "window/window.h"

typedef enum CqrsChangeKind
{
	CQRS_CHANGE_INSERT = 1,
	CQRS_CHANGE_UPDATE = 2,
	CQRS_CHANGE_DELETE = 3,
	CQRS_CHANGE_TRUNCATE = 4
} CqrsChangeKind;

/* position = chunk number shifted left by this, plus the change's ordinal in the chunk */
#define CQRS_POSITION_BITS 16

/* ---- writing: called by capture ---- */

/*
 * Append one change to this transaction's buffer.  'desc' is the shape's descriptor (the relation's own, with dropped columns); old and new are
 * whole heap tuples of it, NULL where the kind has none.  Values stored out of line are fetched.  Spills by nesting level past cqrs.buffer_size.
 */
extern void cqrs_outbox_append(CqrsChangeKind kind, int32 source, int32 shape, TupleDesc desc,
							   HeapTuple old_tuple, HeapTuple new_tuple);

/* Has this transaction captured changes, still in the buffer or written early, that are not rolled back? */
extern bool cqrs_outbox_pending(void);

/* Registers the transaction callbacks, once a backend. */
extern void cqrs_outbox_init(void);

/* ---- reading ---- */

/* One chunk's row, without its body decoded. */
typedef struct CqrsChunk
{
	int64		number;
	FullTransactionId xid;
	int32	   *sources;
	int			nsources;
	int32		changes;		/* how many it holds */
	TimestampTz captured_at;
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
	HeapTuple	new_tuple;		/* or NULL */
} CqrsChange;

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

/* Does the chunk hold changes of any of the sources? */
extern bool cqrs_outbox_chunk_has(const CqrsChunk *chunk, const int32 *sources, int nsources);

/* Iterate over a chunk's changes.  A damaged body is an error XX001 that names the chunk. */
typedef struct CqrsChangeReader CqrsChangeReader;
extern CqrsChangeReader *cqrs_outbox_read_begin(const CqrsChunk *chunk);
extern bool cqrs_outbox_read_next(CqrsChangeReader *reader, CqrsChange *change);
extern void cqrs_outbox_read_end(CqrsChangeReader *reader);

/* The descriptor of a shape, from a backend-local cache; stays valid for the backend's life (shapes never change). */
extern TupleDesc cqrs_outbox_shape_desc(int32 shape, int32 *source);

/*
 * What a version has not applied: counts changes of 'sources' in the window from 'checkpoint' to 'snapshot', up to 'limit'; and when the oldest of
 * those counted was captured (0 if none).
 */
extern int64 cqrs_outbox_count_pending(Snapshot snapshot, const CqrsSnapshot *checkpoint, const int32 *sources, int nsources,
									   int64 limit, TimestampTz *oldest);

#endif							/* CQRS_OUTBOX_H */
