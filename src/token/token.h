/*
 * token/token.h
 *		Tokens: the xid8 of a command's transaction, and the question whether a version has caught up with it.
 */
#ifndef CQRS_TOKEN_H
#define CQRS_TOKEN_H

#include "postgres.h"

#include "access/transam.h"
#include "registry/registry.h"

/* Is every change with an id up to 'token' that the version reads, and that this server can see now, in its checkpoint? */
extern bool cqrs_token_applied(const CqrsVersion *version, FullTransactionId token);

#endif							/* CQRS_TOKEN_H */
