/*
 * build/parts.h
 *		What the files of build/ share; private to the room.
 */
#ifndef CQRS_BUILD_PARTS_H
#define CQRS_BUILD_PARTS_H

#include "postgres.h"

/* ---- filter.c: row filters as text for a WHERE, every name in it qualified but for columns of the table, which queries know as 'alias' ---- */

/* As a user gives it: errors point into his text. */
extern char *cqrs_filter_read(Oid view, const char *text, const char *alias);

/* As a serving view holds it; NULL if it has none. */
extern char *cqrs_filter_of_view(Oid view, const char *alias);

#endif							/* CQRS_BUILD_PARTS_H */
