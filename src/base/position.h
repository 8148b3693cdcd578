/*
 * base/position.h
 *		Places in texts that users give as arguments.
 */
#ifndef CQRS_BASE_POSITION_H
#define CQRS_BASE_POSITION_H

#include "postgres.h"

/* An error context's callback: the place that an error names is one in 'text', a char *, and not in the statement that was sent. */
extern void cqrs_position_move(void *text);

#endif							/* CQRS_BASE_POSITION_H */
