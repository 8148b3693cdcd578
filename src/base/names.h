/*
 * base/names.h
 *		The one door to quoting: identifiers, qualified names and literals for generated SQL and for messages.
 *
 * Everything is palloc'd in CurrentMemoryContext.
 */
#ifndef CQRS_BASE_NAMES_H
#define CQRS_BASE_NAMES_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* schema.relation, both quoted where needed, always qualified; for generated SQL. */
extern char *cqrs_name_relation(Oid relid);

/* The same for a relation that does not exist yet. */
extern char *cqrs_name_qualified(const char *schema, const char *name);

/* OPERATOR(schema.name). */
extern char *cqrs_name_operator(Oid operator);

/* A quoted identifier, a quoted literal. */
extern const char *cqrs_name_identifier(const char *name);
extern char *cqrs_name_literal(const char *value);

/* The name to show people, as regclass prints it; for messages.  A dropped one prints its number. */
extern char *cqrs_name_shown(Oid relid);

/* Parse a user's text as a possibly qualified identifier; errors with SQLSTATE 42602. */
extern List *cqrs_name_parse(const char *text);

#endif							/* CQRS_BASE_NAMES_H */
