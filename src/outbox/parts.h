/*
 * outbox/parts.h
 *		What the files of outbox/ share; private to the room.
 *
 * A chunk's body is a byte with the format's version, the CRC-32C of the rest in the byte order of the machine, then records back to back:
 *
 *		length of what follows, kind (a byte), shape, command id, then the old image (update, delete) and the new image (insert, update)
 *
 * with, in front of the images of an update, a bit for each noted column of its shape, lowest first, set if the column changed, in as many bytes as that
 * takes; and an image is a heap tuple of the columns that are imaged, without its header:
 *
 *		number of attributes with three flags below it, length of the data, null bitmap if there is one, data
 *
 * The new image of an update leaves out the data that it shares with the old one at the beginning and at the end, if that is worth it: then the lengths of
 * these two come before the length of the data between them.
 *
 * Numbers are varints: seven bits a byte, lowest first, the top bit set on all but the last.  The buffer of a transaction holds records in this same form.
 */
#ifndef CQRS_OUTBOX_PARTS_H
#define CQRS_OUTBOX_PARTS_H

#include "postgres.h"

#include "access/htup_details.h"
#include "outbox/outbox.h"
#include "port/pg_crc32c.h"
#include "utils/relcache.h"

#define CQRS_FORMAT			1	/* first byte of a body */

#define CQRS_BODY_HEAD		(1 + sizeof(pg_crc32c)) /* bytes before the records */

#define CQRS_IMAGE_NULLS	0x01	/* it has a null bitmap */
#define CQRS_IMAGE_VARWIDTH 0x02	/* HEAP_HASVARWIDTH */
#define CQRS_IMAGE_SHARES	0x04	/* it shares data with the old image */
#define CQRS_IMAGE_SHIFT	3	/* attributes are counted above the flags */

#define CQRS_CHUNK_SOURCES	64	/* different sources in one chunk, at most */

/*
 * cqrs_body_crc returns the check sum of a body's records.
 *
 * Values inside rows have lengths of their own, and only the types that made them could check those.
 */
static inline pg_crc32c
cqrs_body_crc(const char *records, Size length)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, records, length);
	FIN_CRC32C(crc);
	return crc;
}

/* ---- columns of a segment, from 0 ---- */

enum
{
	CQRS_SEGMENT_NUMBER, CQRS_SEGMENT_XID, CQRS_SEGMENT_SOURCES, CQRS_SEGMENT_CHANGES, CQRS_SEGMENT_CAPTURED_AT,
	CQRS_SEGMENT_BODY, CQRS_SEGMENT_COLUMNS
};

/* ---- segment.c: the segment that is written to ---- */

/* Which outbox there is; cheap. */
extern Oid	cqrs_segment_outbox(void);

/* Is there one?  If not, nothing is to be written before pre-commit.  True also if there is nothing to write for: the extension is gone. */
extern bool cqrs_segment_there(void);

/*
 * Lock the active segment for writing, to the end of the transaction, and open it; NULL if the extension is gone and there is nowhere to write.  Also gives
 * the sequence of chunk numbers.
 */
extern Relation cqrs_segment_open_active(Oid *sequence);

/*
 * Rows were written to it, up to that page; was any change larger than a page?  At pre-commit, if it is full, turn over to the next, of a transaction that
 * holds events or not; at the end forget that it was.
 */
extern void cqrs_segment_written(Relation heap, BlockNumber last, bool large);
extern void cqrs_segment_turn_over(bool events);
extern void cqrs_segment_forget(bool prepared);

/* Before it is prepared: its events must not be lost if the outbox is full. */
extern void cqrs_segment_check_events(void);

/* The size at which a segment is full; of all of them; and does a size exceed so many percent of cqrs.max_outbox_size? */
extern int64 cqrs_segment_limit(void);
extern int64 cqrs_segment_total(void);
extern bool cqrs_segment_over(int64 bytes, int percent);

/* Close the active segment if it is full or older than that (-1: never too old), and open the next; when to look again. */
extern TimestampTz cqrs_segment_rotate(int64 age_ms, bool *rotated);

/* ---- table.c: the tables of segments ---- */

/* Make one; have it go with the extension; throw away what it holds (false if this session reads it); drop it. */
extern Oid	cqrs_segment_table_create(int32 number);
extern void cqrs_segment_table_belong(Oid relation);
extern bool cqrs_segment_table_empty(Oid relation);
extern void cqrs_segment_table_drop(Oid relation);

/* What it holds that a snapshot sees, into 'segment'; its size on disk; when its first chunk was captured (0: it has none). */
extern void cqrs_segment_table_measure(CqrsSegment *segment, Snapshot snapshot);
extern int64 cqrs_segment_table_bytes(Oid relation);
extern TimestampTz cqrs_segment_table_begins(Oid relation);

/* ---- count.c: how many events there are ---- */

/* Add the events of a segment that the snapshot sees to what the registry knows of their types: once, when it is sealed. */
extern void cqrs_segment_count_events(const CqrsSegment *segment, Snapshot snapshot);

/* ---- needs.c: who needs a segment ---- */

/* The versions that trust their windows, and their checkpoints. */
typedef struct CqrsNeeds
{
	List	   *versions;		/* of CqrsVersion */
	List	   *checkpoints;	/* of CqrsCheckpoint, theirs */
} CqrsNeeds;

extern void cqrs_needs_read(CqrsNeeds *needs);

/* The versions that need a segment; and until when a consumed one is retained (DT_NOEND: for ever). */
extern List *cqrs_needs_holders(const CqrsSegment *segment, const CqrsNeeds *needs);
extern TimestampTz cqrs_needs_retained_until(const CqrsSegment *segment);

/* ---- scan.c ---- */

/* Read all that a snapshot sees of one segment. */
extern CqrsOutboxScan *cqrs_outbox_scan_segment(const CqrsSegment *segment, Snapshot snapshot);

/* Does a segment hold a chunk of the window from a checkpoint to a snapshot? */
extern bool cqrs_outbox_probe(const CqrsSegment *segment, Snapshot snapshot, const CqrsSnapshot *checkpoint);

/* ---- image.c: rows to images ---- */

/* An image on its way into the buffer. */
typedef struct CqrsImage
{
	uint32		natts;
	uint32		flags;			/* CQRS_IMAGE_NULLS and CQRS_IMAGE_VARWIDTH */
	const bits8 *bits;			/* null bitmap, if there is one */
	const char *data;
	Size		length;			/* of data */
} CqrsImage;

/*
 * Make the old (side 0) or new (side 1) image of a row.  It points into the row, or into space of the side's that the next one uses again.  Values that are
 * fetched are allocated in CurrentMemoryContext, and not needed any more after the call.
 */
extern void cqrs_image_make(CqrsImage *image, int side, const CqrsImaging *imaging, const CqrsRow *row);

/* Give back what large rows took, at the end of a transaction. */
extern void cqrs_image_forget(void);

/* ---- record.c: changes to bytes ---- */

#define CQRS_NUMBERS		24		/* bytes that those in front of an image take at most, and some */

/* Bytes of room that a record is to be given when it is written: they are copied in one go, however few they are. */
#define CQRS_RECORD_ROOM(length)	((length) + CQRS_NUMBERS)

/*
 * cqrs_number_read reads a number of our own and returns the byte after it.
 */
static inline const char *
cqrs_number_read(const char *from, uint32 *value)
{
	uint32		result = 0;
	int			shift = 0;
	uint8		byte;

	do
	{
		byte = (uint8) *from++;
		result |= (uint32) (byte & 0x7f) << shift;
		shift += 7;
	} while (byte & 0x80);
	*value = result;
	return from;
}

/*
 * cqrs_record_end returns the byte after a record of our own.
 */
static inline const char *
cqrs_record_end(const char *record)
{
	uint32		length;

	record = cqrs_number_read(record, &length);
	return record + length;
}

/* Numbers put together, as they stand in a record. */
typedef struct CqrsNumbers
{
	Size		size;
	char		bytes[CQRS_NUMBERS];
} CqrsNumbers;

/* A change on its way into the buffer; what comes behind 'noted_size' and is no image is record.c's. */
typedef struct CqrsRecord
{
	CqrsChangeKind kind;
	int32		shape;
	CommandId	command;
	const uint8 *noted;			/* or NULL */
	Size		noted_size;		/* in bytes */
	bool		has_old;
	bool		has_new;
	CqrsImage	old_image;
	CqrsImage	new_image;
	Size		prefix;			/* data that the new image shares with the old one: at its beginning */
	Size		suffix;			/* and at its end */
	CqrsNumbers head;			/* kind, shape and command */
	CqrsNumbers old_head;		/* what stands in front of the images' bitmaps and data */
	CqrsNumbers new_head;
} CqrsRecord;

/* The command that made the change. */
extern CommandId cqrs_record_command(CqrsChangeKind kind, HeapTuple old_tuple, HeapTuple new_tuple);

/* Find out what the images share, put the numbers together, and return how many bytes the record takes without its leading length. */
extern Size cqrs_record_measure(CqrsRecord *record);

/* Write a record measured so, with its leading length, where there is CQRS_RECORD_ROOM for both; returns the byte after it. */
extern char *cqrs_record_write(const CqrsRecord *record, Size length, char *to);

/* Step over a record of our own: the byte after it, and its shape and command where asked for. */
extern const char *cqrs_record_skip(const char *record, int32 *shape, CommandId *command);

/* ---- order.c: the order of records ---- */

/* Put the records in 'length' bytes into the order of their commands. */
extern void cqrs_order_records(char *records, Size length);

/* ---- chunk.c: records to rows of the active segment ---- */

/* A chunk about to be written; or sealed, with its number, and still in the buffer. */
typedef struct CqrsDraft
{
	Size		start;			/* where its records are in the buffer */
	Size		end;
	int64		number;
	TimestampTz captured_at;
	int32		changes;
	int			nsources;
	int32		sources[CQRS_CHUNK_SOURCES];
} CqrsDraft;

/* The active segment, open for writing. */
typedef struct CqrsChunkWriter
{
	Relation	heap;
	Oid			sequence;
	Relation   *indexes;
	int			nindexes;
	bool		others;			/* some of them are not ours */
	BlockNumber last;			/* page that was written to; small rows may go to pages before it that have room */
	bool		large;			/* some row did not fit into a page */
} CqrsChunkWriter;

/* Bytes of records that fit into one page, beside that many source ids. */
extern Size cqrs_chunk_room(int nsources);

/* Open the active segment and keep its lock; false if the extension is gone and there is nowhere to write.  Allocates in CurrentMemoryContext. */
extern bool cqrs_chunk_open(CqrsChunkWriter *writer);
extern void cqrs_chunk_close(CqrsChunkWriter *writer);

/* Draw the draft's number and take its time. */
extern void cqrs_chunk_seal(const CqrsChunkWriter *writer, CqrsDraft *draft);

/* Write a sealed draft, whose records lie in 'buffer'. */
extern void cqrs_chunk_write(CqrsChunkWriter *writer, const CqrsDraft *draft, const char *buffer);

/* Add a row of a segment to all indexes there are, ours or not. */
extern void cqrs_chunk_index(Relation heap, HeapTuple tuple);

/* Put a body of these records together and return the byte after it. */
extern char *cqrs_body_write(const char *records, Size length, char *to);

/* ---- entry.c: index entries of chunks ---- */

/* Put the entry of a chunk's row into an index on xid, which is open for writing. */
extern void cqrs_entry_insert(Relation heap, Relation index, FullTransactionId xid, ItemPointer place);

/* ---- scan.c ---- */

/* Take a chunk's row from a slot, into CurrentMemoryContext; its body stays where it is. */
extern void cqrs_chunk_read(CqrsChunk *chunk, struct TupleTableSlot *slot);

/* ---- buffer.c ---- */

/* Put a record that is of no row, as part of the command in progress, into the buffer. */
extern void cqrs_buffer_put(CqrsRecord *record, int32 source);

/* ---- event.c: domain events ---- */

/* The shape of events; stays valid for the backend's life. */
extern const CqrsShape *cqrs_event_shape(void);

/* ---- shapes.c: the backend's cache of shapes ---- */

/* Forget all shapes if they are of an extension that was dropped since. */
extern void cqrs_shapes_check(void);

#endif							/* CQRS_OUTBOX_PARTS_H */
