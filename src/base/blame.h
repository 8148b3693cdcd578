/*
 * base/blame.h
 *		Whose fault an error is: so what is to be done about it.
 */
#ifndef CQRS_BASE_BLAME_H
#define CQRS_BASE_BLAME_H

#include "postgres.h"

typedef enum CqrsBlame
{
	CQRS_BLAME_WORK,			/* of what was being done: it will fail again */
	CQRS_BLAME_OTHERS,			/* who held a lock, wrote the same row or cancelled us, and will be gone in a moment */
	CQRS_BLAME_SERVER			/* a resource, a file, a connection: it passes, or a person mends it */
} CqrsBlame;

extern CqrsBlame cqrs_blame(const ErrorData *error);

/* Is something missing that the statement names, or may its user not use it? */
extern bool cqrs_blame_names(const ErrorData *error);

#endif							/* CQRS_BASE_BLAME_H */
