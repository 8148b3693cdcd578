/*
 * window/window.h
 *		Snapshot arithmetic, pure: what a checkpoint has seen, and what a window must read.
 *
 * A CqrsSnapshot is a pg_snapshot in memory: all transactions below xmin, and those below xmax that are not in xip, are seen.
 * No catalog, no locks; memory is the caller's CurrentMemoryContext.
 */
#ifndef CQRS_WINDOW_H
#define CQRS_WINDOW_H

#include "postgres.h"

#include "access/transam.h"
#include "utils/snapshot.h"

typedef struct CqrsSnapshot
{
	FullTransactionId xmin;
	FullTransactionId xmax;
	int			nxip;
	FullTransactionId *xip;		/* sorted */
} CqrsSnapshot;

/*
 * The checkpoint for a server snapshot: its ids widened to 64 bits and, if this transaction's own id lies below xmax, that one added to
 * those in progress (a snapshot leaves its own transaction out, so later changes of it would count as applied).
 * The only maker of checkpoints.
 */
extern CqrsSnapshot *cqrs_window_checkpoint(Snapshot snapshot);

/* Do two checkpoints say the same? */
extern bool cqrs_window_equal(const CqrsSnapshot *left, const CqrsSnapshot *right);

extern bool cqrs_window_sees(const CqrsSnapshot *snapshot, FullTransactionId xid);

/* Text form and back, as type pg_snapshot does it; and the pg_snapshot datum. */
extern char *cqrs_window_text(const CqrsSnapshot *snapshot);
extern Datum cqrs_window_datum(const CqrsSnapshot *snapshot);
extern CqrsSnapshot *cqrs_window_from_datum(Datum pg_snapshot);

#endif							/* CQRS_WINDOW_H */
