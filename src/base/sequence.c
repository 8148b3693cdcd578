/*
 * base/sequence.c
 *		Numbers from a sequence of ours, drawn without the caller's session noticing.
 *
 * nextval() remembers the sequence it was last called for, and lastval() answers from it: an application that asks lastval() after an INSERT would
 * get the number of a chunk.  So this does on the sequence's page and in the WAL what nextval_internal does, and nothing in the session.
 *
 * Wants a transaction; a lock that is taken on the sequence stays to its end.  Allocates nothing that lasts.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "base/compat.h"
#include "base/sequence.h"
#include "catalog/pg_class.h"
#include "catalog/pg_sequence.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#define LOGGED_AHEAD 32			/* values that one WAL record covers; those not drawn are lost in a crash, as with nextval */

/* The sequence drawn from last.  Nobody alters ours, so what is known of it stays true. */
static struct
{
	Oid			sequence;
	int64		greatest;
	Buffer		buffer;			/* where its page was, or invalid */
} last;

/*
 * greatest_value returns the last value a sequence can give.
 */
static int64
greatest_value(Relation rel)
{
	HeapTuple	tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(RelationGetRelid(rel)));
	int64		max;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for sequence %u", RelationGetRelid(rel));
	max = ((Form_pg_sequence) GETSTRUCT(tuple))->seqmax;
	ReleaseSysCache(tuple);
	return max;
}

/*
 * log_advance writes the WAL record after which recovery would go on behind 'last'; it leaves the tuple as recovery would find it.
 */
static void
log_advance(Relation rel, Buffer buffer, ItemId item, int64 last)
{
	Page		page = BufferGetPage(buffer);
	HeapTupleHeader tuple = (HeapTupleHeader) PageGetItem(page, item);
	Form_pg_sequence_data data = (Form_pg_sequence_data) ((char *) tuple + tuple->t_hoff);
	xl_seq_rec	record;
	XLogRecPtr	end;

	data->last_value = last;
	data->is_called = true;
	data->log_cnt = 0;
	cqrs_compat_log_sequence(record, rel);
	XLogBeginInsert();
	XLogRegisterBuffer(0, buffer, REGBUF_WILL_INIT);
	XLogRegisterData((char *) &record, sizeof(xl_seq_rec));
	XLogRegisterData((char *) tuple, ItemIdGetLength(item));
	end = XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG);
	PageSetLSN(page, end);
}

/*
 * advance draws the next value from the sequence's page, exclusively locked by the caller.
 *
 * As nextval does, it logs when the values logged ahead are used up, and after each checkpoint, since recovery starts from there.
 */
static int64
advance(Relation rel, Buffer buffer, int64 max)
{
	Page		page = BufferGetPage(buffer);
	ItemId		item = PageGetItemId(page, FirstOffsetNumber);
	HeapTupleHeader tuple = (HeapTupleHeader) PageGetItem(page, item);
	Form_pg_sequence_data data = (Form_pg_sequence_data) ((char *) tuple + tuple->t_hoff);
	int64		value = data->is_called ? data->last_value + 1 : data->last_value;
	int64		logged = data->log_cnt - 1;
	bool		log = !data->is_called || logged < 0 || PageGetLSN(page) <= GetRedoRecPtr();

	if (value > max)
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("reached maximum value of sequence \"%s\" (%lld)", RelationGetRelationName(rel), (long long) max)));
	if (log)
	{
		(void) GetTopTransactionId();	/* so that the commit flushes the record */
		logged = LOGGED_AHEAD;
	}

	START_CRIT_SECTION();
	MarkBufferDirty(buffer);
	if (log && RelationNeedsWAL(rel))
		log_advance(rel, buffer, item, value + LOGGED_AHEAD);
	data->last_value = value;
	data->is_called = true;
	data->log_cnt = logged;
	END_CRIT_SECTION();
	return value;
}

/*
 * read_page pins the sequence's only page: where it was last found, if it is there still, which saves looking for it.
 */
static Buffer
read_page(Relation rel)
{
	if (!BufferIsValid(last.buffer) || !cqrs_compat_read_recent(rel, 0, last.buffer))
		last.buffer = ReadBuffer(rel, 0);
	return last.buffer;
}

/*
 * draw draws the next value of an open sequence.
 */
static int64
draw(Relation rel)
{
	Buffer		buffer;
	int64		value;

	if (rel->rd_rel->relkind != RELKIND_SEQUENCE)
		elog(ERROR, "\"%s\" is not a sequence", RelationGetRelationName(rel));
	if (last.sequence != RelationGetRelid(rel))
	{
		last.buffer = InvalidBuffer;
		last.greatest = greatest_value(rel);
		last.sequence = RelationGetRelid(rel);
	}
	buffer = read_page(rel);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	value = advance(rel, buffer, last.greatest);
	UnlockReleaseBuffer(buffer);
	return value;
}

/*
 * cqrs_sequence_next draws the next value of a sequence of ours.
 */
int64
cqrs_sequence_next(Oid sequence)
{
	Relation	rel = relation_open(sequence, RowExclusiveLock);
	int64		value = draw(rel);

	relation_close(rel, NoLock);
	return value;
}

/*
 * cqrs_sequence_next_kept draws the next value of a sequence that stays without a lock of its own: to take and give back one costs as much as the drawing.
 */
int64
cqrs_sequence_next_kept(Oid sequence)
{
	Relation	rel = RelationIdGetRelation(sequence);
	int64		value;

	if (!RelationIsValid(rel))
		elog(ERROR, "could not open sequence with OID %u", sequence);
	value = draw(rel);
	RelationClose(rel);
	return value;
}
