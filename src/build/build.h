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
extern bool cqrs_build_finish(int32 version, bool wait);	/* caught up: a shadow, or serving where nothing serves yet */

/* How to switch. */
typedef struct CqrsSwitchOptions
{
	bool		wait;			/* for locks and older snapshots, up to cqrs.lock_timeout; else give up at once, by 55P03 */
	bool		force;			/* leave older snapshots alone, and do not mind that there is no way back */
	bool		retire_before;	/* retire the one that serves now once cqrs.standby_retention has passed */
	const char *reason;			/* for history */
} CqrsSwitchOptions;

/* Have a version serve that is a shadow or standby; projection->view may be another afterwards.  The caller holds the projection's lock. */
extern void cqrs_build_switch(CqrsProjection *projection, const CqrsVersion *version, const CqrsSwitchOptions *options);

/* Refuse a version that cannot be switched to, with 55000. */
extern void cqrs_switch_check(const CqrsProjection *projection, const CqrsVersion *version);

/* Compare a shadow that is to serve by itself with its definition, and switch to it if it is equal; false if something is in the way just now. */
extern bool cqrs_build_compare(int32 version, bool wait);
extern bool cqrs_build_take_over(int32 version, bool wait);

/* Drop a version's table and all that belongs to it; its row stays, retired.  False if something is in the way just now. */
extern bool cqrs_build_retire(int32 version, bool wait, const char *reason);

/* Drop the views of projections, and the tables, definitions and schemas of versions; not what others have built on them, unless 'cascade'. */
extern void cqrs_build_drop(List *projections, List *versions, bool cascade);

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
