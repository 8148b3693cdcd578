/*
 * base/clock.h
 *		The one clock.  Deadlines, backoff and lag take their time from here, so that a test could own it.
 */
#ifndef CQRS_BASE_CLOCK_H
#define CQRS_BASE_CLOCK_H

#include "postgres.h"

#include "datatype/timestamp.h"

extern TimestampTz cqrs_clock_now(void);

/* When a wait of 'timeout' from now ends.  Errors: 22023 where it is negative, 22008 where it reaches beyond the calendar. */
extern TimestampTz cqrs_clock_deadline(const Interval *timeout);

/* Milliseconds from now until 'deadline', 0 if past. */
extern long cqrs_clock_until(TimestampTz deadline);

/* The next retry after 'attempts' failures: exponential from 'initial' ms to 'max' ms, with up to a quarter of jitter. */
extern TimestampTz cqrs_clock_backoff(int attempts, int initial, int max);

#endif							/* CQRS_BASE_CLOCK_H */
