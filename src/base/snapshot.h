/*
 * base/snapshot.h
 *		A snapshot to write under, where there is none.
 */
#ifndef CQRS_SNAPSHOT_H
#define CQRS_SNAPSHOT_H

#include "postgres.h"

/*
 * Have a snapshot be active, as the server wants of whoever writes to a table that can have values stored out of line, most catalogs among them.  Not the
 * transaction's: a batch takes that later.  Returns what cqrs_snapshot_let_go wants to know; an error lets go, too.
 */
extern bool cqrs_snapshot_hold(void);
extern void cqrs_snapshot_let_go(bool held);

#endif							/* CQRS_SNAPSHOT_H */
