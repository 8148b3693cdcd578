/*
 * command/command.h
 *		What commands say: domain events, and the version of the aggregate that each is about.
 */
#ifndef CQRS_COMMAND_H
#define CQRS_COMMAND_H

#include "postgres.h"

/* The aggregate is not at the version that the caller expected. */
#define CQRS_ERRCODE_VERSION_CONFLICT MAKE_SQLSTATE('Q', 'C', '0', '0', '1')

#define CQRS_ANY_VERSION	(-1)

/*
 * Count an aggregate's next version, and return it: 1 for a new one.  'expected' is the version it is to have before, 0 that it is to be new, or
 * CQRS_ANY_VERSION.  From here to the end of the transaction nobody else can; whoever tries waits.
 */
extern int64 cqrs_aggregate_advance(text *type, text *id, int64 expected);

#endif							/* CQRS_COMMAND_H */
