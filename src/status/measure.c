/*
 * status/measure.c
 *		How fresh a version is.
 *
 * Computed by the reader from outbox and checkpoint, never reported by the process whose death it should reveal.  What cannot be known is not
 * reported as zero: a version that is not filled or is stale has no lag and no number of pending changes, and is not within its objective.
 *
 * Takes a fresh snapshot, also in REPEATABLE READ, since the registry is read afresh too; and ACCESS SHARE on the outbox's segments for a moment.
 * Works on a hot standby, where it tells what this server has replayed.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "base/clock.h"
#include "outbox/outbox.h"
#include "shared/shared.h"
#include "status/measure.h"
#include "token/token.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define PENDING_LIMIT	10000	/* counting further costs more than it tells */

/*
 * status_of names a status: what asks for a person first, then what keeps the version from moving, then what it does.
 *
 * A version that reads projections moves with those that serve them, or not at all: what keeps one of them from moving is its status, too.
 */
static const char *
status_of(const CqrsVersion *version, bool stale)
{
	if (version->state == CQRS_STATE_RETIRED)
		return cqrs_status_name(version->status);
	if (cqrs_token_stuck(version))
		return cqrs_status_name(CQRS_STATUS_HALTED);
	if (cqrs_version_any(version, cqrs_version_paused))
		return "paused";
	if (cqrs_version_any(version, cqrs_version_fails))
		return cqrs_status_name(CQRS_STATUS_FAILING);
	return cqrs_status_name(stale ? CQRS_STATUS_STALE : CQRS_STATUS_RUNNING);
}

/*
 * is_stale tells whether the version's next batch is a full evaluation: it is filled, but its checkpoint does not tell what it holds.
 */
static bool
is_stale(const CqrsVersion *version)
{
	return cqrs_checkpoint_latest(version->id) != NULL && cqrs_token_checkpoint(version) == NULL;
}

/*
 * cqrs_status_shown names the status users see.
 */
const char *
cqrs_status_shown(const CqrsVersion *version)
{
	return status_of(version, is_stale(version));
}

/*
 * count_pending counts what the version has not applied of the sources it reads, and tells since when the oldest waits (0: nothing does).
 *
 * The snapshot is older than the checkpoint, so what was applied in between is not counted.
 */
static int64
count_pending(int32 version, const CqrsCheckpoint *checkpoint, Snapshot snapshot, TimestampTz *oldest)
{
	int			count;
	int32	   *sources = cqrs_version_source_ids(version, &count);

	*oldest = 0;
	return cqrs_outbox_count_pending(snapshot, checkpoint->snapshot, sources, count, PENDING_LIMIT, oldest);
}

/*
 * cqrs_status_lag_since returns how long ago a change was captured; zero where clocks disagree.
 */
Interval
cqrs_status_lag_since(TimestampTz captured_at)
{
	Interval	none = {0};
	TimestampTz now = cqrs_clock_now();

	if (captured_at == 0 || captured_at > now)
		return none;
	return *DatumGetIntervalP(DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(now),
												  TimestampTzGetDatum(captured_at)));
}

/*
 * health_of says in one word what a person would want to know first.
 *
 * A standby has no worker of its own and needs none: the primary's applies for it.
 */
static const char *
health_of(const CqrsVersion *version, const CqrsMeasure *measure)
{
	if (cqrs_token_stuck(version))
		return "halted";
	if (cqrs_version_any(version, cqrs_version_paused))
		return "paused";
	if (!RecoveryInProgress() && !cqrs_shared_worker_runs())
		return "no worker";
	if (cqrs_version_any(version, cqrs_version_fails))
		return "failing";
	if (version->state == CQRS_STATE_BUILDING)
		return "building";
	if (!measure->known)
		return "stale";
	return measure->pending > 0 ? "behind" : "idle";
}

/*
 * cqrs_status_measure measures a version.
 */
void
cqrs_status_measure(const CqrsProjection *projection, const CqrsVersion *version, CqrsMeasure *measure)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CqrsCheckpoint *trusted = cqrs_token_checkpoint(version);
	TimestampTz oldest = 0;

	memset(measure, 0, sizeof(CqrsMeasure));
	measure->checkpoint = trusted ? trusted : cqrs_checkpoint_latest(version->id);
	measure->known = trusted != NULL;
	if (measure->known)
		measure->pending = count_pending(version->id, trusted, snapshot, &oldest);
	UnregisterSnapshot(snapshot);
	measure->lag = cqrs_status_lag_since(oldest);
	measure->state = cqrs_state_name(version->state);
	measure->status = status_of(version, !measure->known && measure->checkpoint != NULL);
	measure->health = health_of(version, measure);
	measure->has_objective = projection->max_lag != NULL;
	measure->within_objective = measure->has_objective && measure->known &&
		DatumGetBool(DirectFunctionCall2(interval_le, IntervalPGetDatum(&measure->lag),
										 IntervalPGetDatum(projection->max_lag)));
}
