/*
 * base/position.h
 *		Places in texts that users give as arguments.
 */
#ifndef CQRS_BASE_POSITION_H
#define CQRS_BASE_POSITION_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* An error context's callback: the place that an error names is one in 'text', a char *, and not in the statement that was sent. */
extern void cqrs_position_move(void *text);

/* The raw statements in a user's text. */
extern List *cqrs_position_parse(const char *text);

#endif							/* CQRS_BASE_POSITION_H */
