/*
 * window/window.c
 *		Snapshot arithmetic: making checkpoints of server snapshots, and asking what they have seen.
 *
 * Pure but for one look at the next transaction id, which widens ids to 64 bits.  Leaves storing checkpoints to registry/ and reading windows
 * to outbox/.  Memory is the caller's CurrentMemoryContext.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "window/window.h"

/*
 * widen turns an id of a live snapshot into its 64-bit form: the last one not after 'next', as xid8funcs.c does.
 */
static FullTransactionId
widen(TransactionId xid, FullTransactionId next)
{
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return FullTransactionIdFromEpochAndXid(epoch, xid);
}

/*
 * compare_xids orders full transaction ids for qsort and bsearch.
 */
static int
compare_xids(const void *left, const void *right)
{
	uint64		l = U64FromFullTransactionId(*(const FullTransactionId *) left);
	uint64		r = U64FromFullTransactionId(*(const FullTransactionId *) right);

	return l < r ? -1 : l > r;
}

/*
 * cqrs_window_checkpoint makes the checkpoint that says "all that 'snapshot' sees is applied".
 *
 * A snapshot leaves its own transaction out of those in progress.  If ours has an id below xmax (drain, in a transaction that wrote something else
 * before), leaving it out would count all it has yet to do as applied, for ever; so it is put back in.
 */
CqrsSnapshot *
cqrs_window_checkpoint(Snapshot snapshot)
{
	FullTransactionId next = ReadNextFullTransactionId();
	FullTransactionId own = GetTopFullTransactionIdIfAny();
	CqrsSnapshot *checkpoint = palloc(sizeof(CqrsSnapshot));

	if (snapshot->takenDuringRecovery)
		elog(ERROR, "a checkpoint cannot be made during recovery");

	checkpoint->xmin = widen(snapshot->xmin, next);
	checkpoint->xmax = widen(snapshot->xmax, next);
	checkpoint->nxip = 0;
	checkpoint->xip = palloc(sizeof(FullTransactionId) * (snapshot->xcnt + 1));
	for (uint32 i = 0; i < snapshot->xcnt; i++)
		checkpoint->xip[checkpoint->nxip++] = widen(snapshot->xip[i], next);
	if (FullTransactionIdIsValid(own) && FullTransactionIdPrecedes(own, checkpoint->xmax))
	{
		checkpoint->xip[checkpoint->nxip++] = own;
		if (FullTransactionIdPrecedes(own, checkpoint->xmin))
			checkpoint->xmin = own;
	}
	qsort(checkpoint->xip, checkpoint->nxip, sizeof(FullTransactionId), compare_xids);
	return checkpoint;
}

/*
 * cqrs_window_equal tells whether two snapshots have seen the same transactions.
 */
bool
cqrs_window_equal(const CqrsSnapshot *left, const CqrsSnapshot *right)
{
	return FullTransactionIdEquals(left->xmin, right->xmin) && FullTransactionIdEquals(left->xmax, right->xmax) &&
		left->nxip == right->nxip && memcmp(left->xip, right->xip, sizeof(FullTransactionId) * left->nxip) == 0;
}

/*
 * cqrs_window_sees tells whether a (committed) transaction's effects are in the snapshot.
 */
bool
cqrs_window_sees(const CqrsSnapshot *snapshot, FullTransactionId xid)
{
	if (FullTransactionIdPrecedes(xid, snapshot->xmin))
		return true;
	if (!FullTransactionIdPrecedes(xid, snapshot->xmax))
		return false;
	return bsearch(&xid, snapshot->xip, snapshot->nxip, sizeof(FullTransactionId), compare_xids) == NULL;
}

/*
 * cqrs_window_text writes the snapshot as type pg_snapshot prints it.
 */
char *
cqrs_window_text(const CqrsSnapshot *snapshot)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, UINT64_FORMAT ":" UINT64_FORMAT ":",
					 U64FromFullTransactionId(snapshot->xmin), U64FromFullTransactionId(snapshot->xmax));
	for (int i = 0; i < snapshot->nxip; i++)
		appendStringInfo(&text, "%s" UINT64_FORMAT, i ? "," : "", U64FromFullTransactionId(snapshot->xip[i]));
	return text.data;
}

/*
 * cqrs_window_datum makes the pg_snapshot value, through the type's own input function: its layout is private to the server.
 */
Datum
cqrs_window_datum(const CqrsSnapshot *snapshot)
{
	char	   *text = cqrs_window_text(snapshot);
	Datum		datum = DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(text));

	pfree(text);
	return datum;
}

/*
 * parse_xid reads one id of a pg_snapshot's text and steps over the separator behind it.
 */
static FullTransactionId
parse_xid(char **cursor)
{
	FullTransactionId xid = FullTransactionIdFromU64(strtou64(*cursor, cursor, 10));

	if (**cursor != '\0')
		(*cursor)++;
	return xid;
}

/*
 * cqrs_window_from_datum reads a pg_snapshot value, through the type's own output function.
 */
CqrsSnapshot *
cqrs_window_from_datum(Datum pg_snapshot)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(pg_snapshot_out, pg_snapshot));
	char	   *cursor = text;
	CqrsSnapshot *snapshot = palloc(sizeof(CqrsSnapshot));

	snapshot->xmin = parse_xid(&cursor);
	snapshot->xmax = parse_xid(&cursor);
	snapshot->nxip = 0;
	snapshot->xip = palloc(sizeof(FullTransactionId) * (strlen(cursor) / 2 + 1));
	while (*cursor != '\0')
		snapshot->xip[snapshot->nxip++] = parse_xid(&cursor);
	pfree(text);
	return snapshot;
}
