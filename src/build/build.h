/*
 * build/build.h
 *		Fill a version's table at one snapshot, index it, and serve it.
 */
#ifndef CQRS_BUILD_H
#define CQRS_BUILD_H

#include "postgres.h"

#include "registry/registry.h"

/*
 * The steps of a build.  A worker runs each in a transaction of its own; drain runs them all in its caller's.  Each does nothing
 * if it is done already, and returns false where another process holds the version or a lock.
 */
extern bool cqrs_build_attach(int32 version, bool wait);	/* capture its sources */
extern bool cqrs_build_fill(int32 version, bool wait);		/* fill, checkpoint, indexes, ANALYZE; state stays building */
extern bool cqrs_build_serve(int32 version, bool wait);		/* open the gate: the serving view answers */

/* Has it been filled (it has a checkpoint)? */
extern bool cqrs_build_filled(int32 version);

/* The CREATE INDEX for one of the indexes a user asked for, as given: "(a, b DESC)", "USING gin (doc)". */
extern char *cqrs_build_index_statement(Oid table, const char *index);

/* Make the serving view of a new projection, gated and owned by 'owner'; the caller checked the right to create it. */
extern Oid	cqrs_build_create_view(const char *schema, const char *name, const CqrsVersion *version, Oid owner);

/* Replace the serving view with one over the version's table, behind the gate or open; its row filter stays.  The caller holds its lock. */
extern void cqrs_build_view(const CqrsProjection *projection, const CqrsVersion *version, bool gated);

/*
 * Give it a row filter: a condition on its columns, under the search_path in force; NULL takes away the one it has.  Errors: the server's own for what is
 * wrong with the condition, 42601 for what is none, 0A000 for one on whole rows.
 */
extern void cqrs_build_filter_view(const CqrsProjection *projection, const CqrsVersion *version, bool gated,
								   const char *filter);

#endif							/* CQRS_BUILD_H */
