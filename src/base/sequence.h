/*
 * base/sequence.h
 *		Numbers from a sequence of ours, drawn without the caller's session noticing.
 */
#ifndef CQRS_BASE_SEQUENCE_H
#define CQRS_BASE_SEQUENCE_H

#include "postgres.h"

/*
 * The next value of a sequence (ascending by 1, without cache).  Unlike nextval it leaves lastval() and currval() of the session
 * alone and works in a transaction that has been declared read-only after it wrote: a trigger must not change what its caller
 * sees.  Takes the lock that nextval takes.
 */
extern int64 cqrs_sequence_next(Oid sequence);

/* The same without that lock, for who holds one on a table that goes whenever the sequence does: DROP EXTENSION locks all it drops before it drops any. */
extern int64 cqrs_sequence_next_kept(Oid sequence);

#endif							/* CQRS_BASE_SEQUENCE_H */
