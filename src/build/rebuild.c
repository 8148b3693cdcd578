/*
 * build/rebuild.c
 *		A version that is to serve by itself: compared with its definition at one snapshot, then switched to.
 *
 * Two steps, transactions of their own in a worker: what was found equal is so whatever becomes of the switch.
 */
#include "postgres.h"

#include "apply/apply.h"
#include "base/waitpoint.h"
#include "build/build.h"
#include "build/parts.h"
#include "shared/shared.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "verify/verify.h"

/*
 * is_ready tells whether a version is to serve by itself, and has come so far with that.
 */
static bool
is_ready(const CqrsVersion *version, CqrsRebuild rebuild)
{
	return version != NULL && version->state == CQRS_STATE_SHADOW && version->rebuild == rebuild &&
		version->status == CQRS_STATUS_RUNNING;
}

/*
 * compare compares a version with its definition at a snapshot; NULL if they are equal, else what differs.
 */
static char *
compare(const CqrsVersion *version, Snapshot snapshot)
{
	CqrsVerify	verify = {.share = 1};

	cqrs_verify_version(version, &verify, snapshot);
	cqrs_verify_record(version, &verify);
	if (verify.drifted == 0)
		return NULL;
	return psprintf("the rebuilt table differs from the query in %lld keys, the first of which is %s", (long long) verify.drifted,
					verify.first);
}

/*
 * note_comparison writes into a version's row what came of it; history, which is kept for ever, is told no key, which may be a person's.
 */
static void
note_comparison(CqrsVersion *version, char *difference)
{
	if (difference == NULL)
	{
		version->rebuild = CQRS_REBUILD_EQUAL;
		cqrs_version_update(version);
		return;
	}
	cqrs_history_insert(version->projection, cqrs_projection_get(version->projection, false)->view, version->number,
						cqrs_status_name(CQRS_STATUS_HALTED), cqrs_status_name(version->status),
						cqrs_status_name(CQRS_STATUS_HALTED), "the rebuilt table differs from the query");
	version->status = CQRS_STATUS_HALTED;
	version->error = difference;
	cqrs_version_update(version);
	cqrs_shared_announce_at_commit();
}

/*
 * cqrs_build_compare compares a version that is to serve by itself with its definition; false if something is in the way just now.
 *
 * One that differs is halted: its definition gives other answers to the same question, and only a person can say whether that matters.
 */
bool
cqrs_build_compare(int32 id, bool wait)
{
	CqrsBatch	batch = {.wait = wait};
	CqrsVersion *version;

	if (!is_ready(cqrs_version_get(id, true), CQRS_REBUILD_WANTED))
		return true;
	cqrs_apply_batch(id, &batch);
	if (batch.outcome != CQRS_APPLIED)
		return batch.outcome == CQRS_NOT_READY;
	version = cqrs_version_get(id, false);
	if (is_ready(version, CQRS_REBUILD_WANTED) && cqrs_version_is_events(version))
		note_comparison(version, NULL); /* there is nothing but itself to compare it with */
	else if (is_ready(version, CQRS_REBUILD_WANTED))
	{
		CQRS_WAIT_POINT("compare");
		note_comparison(version, compare(version, batch.snapshot));
		cqrs_apply_check_locked(version, batch.locked);
	}
	UnregisterSnapshot(batch.snapshot);
	return true;
}

/*
 * cqrs_build_take_over switches to a version that was found equal; false if something is in the way just now.
 */
bool
cqrs_build_take_over(int32 id, bool wait)
{
	CqrsSwitchOptions options = {.wait = wait, .retire_before = true, .reason = "rebuilt, and equal to its definition"};
	CqrsVersion *version = cqrs_version_get(id, true);

	if (!is_ready(version, CQRS_REBUILD_EQUAL))
		return true;
	if (!cqrs_projection_lock(version->projection, !wait))
		return false;
	version = cqrs_version_get(id, true);
	if (!is_ready(version, CQRS_REBUILD_EQUAL))
		return true;
	if (cqrs_version_is_events(version))
		options.reason = "rebuilt by its handlers";
	cqrs_build_switch(cqrs_projection_get(version->projection, false), version, &options);
	return true;
}
