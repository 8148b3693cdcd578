/*
 * base/attempt.h
 *		Work that may fail or be undone without the transaction failing: a subtransaction around a function.
 */
#ifndef CQRS_BASE_ATTEMPT_H
#define CQRS_BASE_ATTEMPT_H

#include "postgres.h"

/*
 * Run work(argument) in a subtransaction.  If it raises, undo what it did, locks too, and return the error, in
 * CurrentMemoryContext.  Otherwise return NULL, having kept what it did, or undone it unless 'keep'.  Takes no snapshot and draws
 * no transaction id by itself.
 */
extern ErrorData *cqrs_attempt(void (*work) (void *), void *argument, bool keep);

#endif							/* CQRS_BASE_ATTEMPT_H */
