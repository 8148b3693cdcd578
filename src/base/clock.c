/*
 * base/clock.c
 *		The one clock, and the arithmetic of deadlines and backoff.
 *
 * Leaves to others what to do at a deadline.  No transaction needed, nothing allocated.
 */
#include "postgres.h"

#include "base/clock.h"
#include "common/pg_prng.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

/*
 * cqrs_clock_now returns the wall clock.  Wall time and not a monotonic clock, since lag is compared with times that transactions recorded.
 */
TimestampTz
cqrs_clock_now(void)
{
	return GetCurrentTimestamp();
}

/*
 * cqrs_clock_deadline turns a timeout into the time it ends.
 *
 * Errors: 22023 where it is negative, 22008 where it reaches beyond the calendar.
 */
TimestampTz
cqrs_clock_deadline(const Interval *timeout)
{
	Interval	none = {0};

	if (DatumGetBool(DirectFunctionCall2(interval_lt, IntervalPGetDatum(timeout), IntervalPGetDatum(&none))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative"),
				 errdetail("The timeout given is %s.",
						   DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(timeout)))),
				 errhint("Use '0' to ask without waiting.")));
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(cqrs_clock_now()),
												   IntervalPGetDatum(timeout)));
}

/*
 * cqrs_clock_until returns the milliseconds left until 'deadline', rounded up, so that who sleeps that long does not wake early.
 */
long
cqrs_clock_until(TimestampTz deadline)
{
	return TimestampDifferenceMilliseconds(cqrs_clock_now(), deadline);
}

/*
 * cqrs_clock_backoff returns when to try again after 'attempts' failures in a row.
 *
 * The delay doubles from 'initial' to 'max' milliseconds and loses up to a quarter by chance, so that what failed together does not come back
 * together.
 */
TimestampTz
cqrs_clock_backoff(int attempts, int initial, int max)
{
	double		delay = initial;

	for (int i = 1; i < attempts && delay < max; i++)
		delay *= 2;
	if (delay > max)
		delay = max;
	delay *= 1 - 0.25 * pg_prng_double(&pg_global_prng_state);
	return TimestampTzPlusMilliseconds(cqrs_clock_now(), (int64) delay);
}
