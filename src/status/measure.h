/*
 * status/measure.h
 *		How fresh a version is, measured by whoever asks; private to status/.
 */
#ifndef CQRS_STATUS_MEASURE_H
#define CQRS_STATUS_MEASURE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "registry/registry.h"

typedef struct CqrsMeasure
{
	const char *state;
	const char *status;
	const char *health;
	CqrsCheckpoint *checkpoint; /* NULL before the fill */
	bool		known;			/* pending and lag mean something: filled, and not stale */
	int64		pending;		/* changes it reads and has not applied, counted up to a limit */
	Interval	lag;			/* how long the oldest of them has waited */
	bool		has_objective;
	bool		within_objective;	/* false where the lag is not known */
} CqrsMeasure;

/* The status users see: that of the version's row, or what is known of it besides: paused, stale, or halted without a definition. */
extern const char *cqrs_status_shown(const CqrsVersion *version);

/* How long ago a change was captured; zero for 0, and where clocks disagree. */
extern Interval cqrs_status_lag_since(TimestampTz captured_at);

/* The composite result of a function with OUT arguments. */
extern Datum cqrs_status_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls);

extern void cqrs_status_measure(const CqrsProjection *projection, const CqrsVersion *version, CqrsMeasure *measure);

#endif							/* CQRS_STATUS_MEASURE_H */
