/*
 * command/command.h
 *		Commands: executed once for each id; and what they say: domain events, and the version of the aggregate that each is about.
 */
#ifndef CQRS_COMMAND_H
#define CQRS_COMMAND_H

#include "postgres.h"

/* The aggregate is not at the version that the caller expected. */
#define CQRS_ERRCODE_VERSION_CONFLICT MAKE_SQLSTATE('Q', 'C', '0', '0', '1')

/* The id of a command is that of another one. */
#define CQRS_ERRCODE_COMMAND_CONFLICT MAKE_SQLSTATE('Q', 'C', '0', '0', '2')

#define CQRS_ANY_VERSION	(-1)

/*
 * Count an aggregate's next version, and return it: 1 for a new one.  'expected' is the version it is to have before, 0 that it is to be new, or
 * CQRS_ANY_VERSION.  From here to the end of the transaction nobody else can; whoever tries waits.
 */
extern int64 cqrs_aggregate_advance(text *type, text *id, int64 expected);

/* An aggregate's version, as the snapshot shows it; 0 if it has no events. */
struct SnapshotData;
extern int64 cqrs_aggregate_version(text *type, text *id, struct SnapshotData *snapshot);

/*
 * Wait until the transaction that is just emitting for the aggregate has ended, up to 'timeout_ms'; then an error 55P03.  An aggregate that has no events is
 * an error 42704.
 */
extern void cqrs_aggregate_outwait(text *type, text *id, int timeout_ms);

/* The id of the command that is being executed, and of the outermost one that has led to it; false if there is none. */
extern bool cqrs_command_running(text **id, text **outermost);

/* Delete some of what cqrs.command_retention does not keep: true if there may be more.  Waits for nobody. */
extern bool cqrs_command_prune(int limit);

#endif							/* CQRS_COMMAND_H */
