/*
 * base/snapshot.c
 *		A snapshot to write under, where there is none: in a worker, which is in no query, and at pre-commit.
 */
#include "postgres.h"

#include "base/snapshot.h"
#include "utils/snapmgr.h"

/*
 * cqrs_snapshot_hold has a snapshot be active.
 */
bool
cqrs_snapshot_hold(void)
{
	if (ActiveSnapshotSet())
		return false;
	PushActiveSnapshot(GetCatalogSnapshot(InvalidOid));
	return true;
}

/*
 * cqrs_snapshot_let_go ends what cqrs_snapshot_hold began.
 */
void
cqrs_snapshot_let_go(bool held)
{
	if (held)
		PopActiveSnapshot();
}
