/*
 * outbox/entry.c
 *		The entries of chunks in a segment's index on xid.
 *
 * Transaction ids grow, so an entry nearly always belongs on the page where the index ends, and close to that page's end.  There it is put as the server
 * would put it, with the same WAL record, but without a search key, a descent from the root and a binary search, of which the entry of a transaction that
 * changed one row would mostly consist.  Whatever is not as simple as that is left to the server: a full page, one that others have gone on from, an entry
 * that may belong on an earlier page.
 *
 * Wants a transaction, and the index open for writing.  Allocates nothing that lasts.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "access/nbtxlog.h"
#include "access/xloginsert.h"
#include "base/compat.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "outbox/parts.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/rel.h"
#include "utils/xid8.h"

#define STEPS 32				/* from the end of a page, in search of an entry's place; those are cheaper than the server's way */

/* An index tuple on xid: the server lays it out like this. */
typedef struct Entry
{
	IndexTupleData head;
	FullTransactionId xid;
} Entry;

StaticAssertDecl(sizeof(Entry) == MAXALIGN(sizeof(IndexTupleData)) + sizeof(FullTransactionId) &&
				 sizeof(Entry) == MAXALIGN(sizeof(Entry)),
				 "an entry is an index tuple of one xid8");

/* The page an entry was last put on, and where it was. */
static struct
{
	Oid			index;
	BlockNumber block;
	Buffer		buffer;
} last;

/*
 * is_end tells whether a page, locked by the caller, is the leaf where an index ends.  The last ones of a file need not be: a page may be on its way there, or
 * have stayed empty in a crash, or lead to others.
 */
static bool
is_end(Page page)
{
	BTPageOpaque opaque;

	if (PageIsNew(page))
		return false;
	opaque = BTPageGetOpaque(page);
	return P_ISLEAF(opaque) && P_RIGHTMOST(opaque) && !P_IGNORE(opaque);
}

/*
 * ends_at tells whether an index ends at a block.
 */
static bool
ends_at(Relation index, BlockNumber block)
{
	Buffer		buffer = ReadBuffer(index, block);
	bool		found;

	LockBuffer(buffer, BT_READ);
	found = is_end(BufferGetPage(buffer));
	UnlockReleaseBuffer(buffer);
	return found;
}

/*
 * aim finds the page where an index ends, and has the server try it first, too; false if it is not found at a glance.
 *
 * The server remembers that page by itself only in an index larger than those of segments are.  A page is made for the root after one for the last leaf, so it
 * is mostly one of the last two.
 */
static bool
aim(Relation index)
{
	BlockNumber pages;

	if (RelationGetTargetBlock(index) != InvalidBlockNumber)
		return true;
	pages = RelationGetNumberOfBlocks(index);
	for (BlockNumber block = pages; block > BTREE_METAPAGE + 1 && block + 2 > pages;)
		if (ends_at(index, --block))
		{
			RelationSetTargetBlock(index, block);
			return true;
		}
	return false;
}

/*
 * read_target pins the page aimed at: where it was last found, if it is there still, which saves looking for it.
 */
static Buffer
read_target(Relation index)
{
	BlockNumber block = RelationGetTargetBlock(index);

	if (last.index != RelationGetRelid(index) || last.block != block ||
		!cqrs_compat_read_recent(index, block, last.buffer))
		last.buffer = ReadBuffer(index, block);
	last.index = RelationGetRelid(index);
	last.block = block;
	return last.buffer;
}

/*
 * comes_before tells whether an entry comes before another: entries of one transaction are in the order of their rows' places.
 */
static inline bool
comes_before(const Entry *left, const Entry *right)
{
	if (FullTransactionIdEquals(left->xid, right->xid))
		return ItemPointerCompare(unconstify(ItemPointerData *, &left->head.t_tid),
								  unconstify(ItemPointerData *, &right->head.t_tid)) < 0;
	return FullTransactionIdPrecedes(left->xid, right->xid);
}

/*
 * find_place returns where on the page an entry belongs; InvalidOffsetNumber if that is not close to its end, or not on this page.
 *
 * An entry that comes behind another of the last page belongs on it.  One that is not as ours are stands for several rows, which only an index that somebody
 * else has made can have.
 */
static OffsetNumber
find_place(Page page, const Entry *entry)
{
	OffsetNumber offset = PageGetMaxOffsetNumber(page);

	for (int step = 0; step < STEPS && offset >= P_HIKEY; step++, offset--)
	{
		const Entry *other = (const Entry *) PageGetItem(page, PageGetItemId(page, offset));

		if (other->head.t_info != entry->head.t_info)
			break;
		if (comes_before(other, entry))
			return OffsetNumberNext(offset);
	}
	return InvalidOffsetNumber;
}

/*
 * put puts an entry in its place on a page, which is locked and has room for it.
 */
static void
put(Relation index, Buffer buffer, OffsetNumber place, const Entry *entry)
{
	Page		page = BufferGetPage(buffer);
	xl_btree_insert record = {.offnum = place};

	START_CRIT_SECTION();
	if (PageAddItem(page, (Item) unconstify(Entry *, entry), sizeof(Entry), place, false, false) == InvalidOffsetNumber)
		elog(PANIC, "failed to add an entry to block %u of index \"%s\"", BufferGetBlockNumber(buffer),
			 RelationGetRelationName(index));
	MarkBufferDirty(buffer);
	if (RelationNeedsWAL(index))
	{
		XLogRecPtr	end;

		XLogBeginInsert();
		XLogRegisterData((char *) &record, SizeOfBtreeInsert);
		XLogRegisterBuffer(0, buffer, REGBUF_STANDARD);
		XLogRegisterBufData(0, (char *) unconstify(Entry *, entry), sizeof(Entry));
		end = XLogInsert(RM_BTREE_ID, XLOG_BTREE_INSERT_LEAF);
		PageSetLSN(page, end);
	}
	END_CRIT_SECTION();
}

/*
 * put_last puts an entry on the page where the index ends; false if it is not for us to put.
 */
static bool
put_last(Relation index, const Entry *entry)
{
	OffsetNumber place = InvalidOffsetNumber;
	Buffer		buffer;
	Page		page;

	if (!aim(index))
		return false;
	buffer = read_target(index);
	page = BufferGetPage(buffer);
	LockBuffer(buffer, BT_WRITE);
	if (is_end(page) && PageGetFreeSpace(page) >= sizeof(Entry))
		place = find_place(page, entry);
	if (OffsetNumberIsValid(place))
	{
		CheckForSerializableConflictIn(index, NULL, BufferGetBlockNumber(buffer));
		put(index, buffer, place, entry);
	}
	UnlockReleaseBuffer(buffer);
	return OffsetNumberIsValid(place);
}

/*
 * cqrs_entry_insert puts the entry of a chunk's row into an index.
 */
void
cqrs_entry_insert(Relation heap, Relation index, FullTransactionId xid, ItemPointer place)
{
	static IndexInfo info = {.type = T_IndexInfo};	/* of which a btree needs nothing */
	Entry		entry = {.head = {.t_tid = *place,.t_info = sizeof(Entry)},.xid = xid};
	Datum		key = FullTransactionIdGetDatum(xid);
	bool		isnull = false;

	if (!put_last(index, &entry))
		index_insert(index, &key, &isnull, place, heap, UNIQUE_CHECK_NO, false, &info);
}
