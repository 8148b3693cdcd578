/*
 * token/token.h
 *		Tokens: the xid8 of a command's transaction, and the question whether a version has caught up with it.
 */
#ifndef CQRS_TOKEN_H
#define CQRS_TOKEN_H

#include "postgres.h"

#include "access/transam.h"
#include "registry/registry.h"

/*
 * The newest checkpoint that tells what the version's table holds, or NULL where none does: it is not filled or stale, a source's changes are not
 * captured, or the definition is gone.  Waits for no lock.
 */
extern CqrsCheckpoint *cqrs_token_checkpoint(const CqrsVersion *version);

/* Can nothing move the version on but a person?  It is halted, or its definition was dropped. */
extern bool cqrs_token_stuck(const CqrsVersion *version);

/* Is every change with an id up to 'token' that the version reads, and that this server can see now, in its checkpoint? */
extern bool cqrs_token_applied(const CqrsVersion *version, FullTransactionId token);

#endif							/* CQRS_TOKEN_H */
