/*
 * base/waitpoint.h
 *		Named points at which a test stops a process, and lets it go on; compiled with assertions only.
 *
 * Whoever passes CQRS_WAIT_POINT("fill") waits there as long as a session holds the advisory lock of that name:
 *
 *		SELECT pg_advisory_lock(hashtext('cqrs'), hashtext('fill'));
 *
 * So pg_locks tells who has stopped where, isolationtester sees that a session waits, and the test may cancel the process or kill it.  Points stand
 * where waiting for such a lock is allowed: in a transaction, with no lightweight lock held, out of critical sections.
 */
#ifndef CQRS_BASE_WAITPOINT_H
#define CQRS_BASE_WAITPOINT_H

#include "postgres.h"

#ifdef USE_ASSERT_CHECKING
#define CQRS_WAIT_POINT(name) cqrs_wait_point(name)
extern void cqrs_wait_point(const char *name);
#else
#define CQRS_WAIT_POINT(name) ((void) 0)
#endif

#endif							/* CQRS_BASE_WAITPOINT_H */
