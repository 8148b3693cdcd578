/*
 * projection/parts.h
 *		What the files of this room share.
 */
#ifndef CQRS_PROJECTION_PARTS_H
#define CQRS_PROJECTION_PARTS_H

#include "postgres.h"

#include "apply/apply.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "registry/registry.h"
#include "utils/jsonb.h"

/* What a version is to be.  Query-defined by 'query', or event-defined by 'columns' and 'handlers'. */
typedef struct CqrsRequest
{
	char	   *name;			/* of its table: that of the serving view, without schema */
	char	   *query;			/* or NULL */
	bool		key_given;		/* else it is inferred */
	List	   *key;			/* of char * */
	bool		inherits_key;	/* not inferred as long as the query has all columns of this: */
	List	   *inherited_key;
	char	   *columns;		/* or NULL */
	Jsonb	   *handlers;		/* or NULL */
	char	   *seed;			/* or NULL */
	bool		indexes_given;
	List	   *indexes;		/* of char * */
} CqrsRequest;

/* Read it from the arguments that create_projection and create_version have in common, in the same places. */
extern void cqrs_request_read(FunctionCallInfo fcinfo, CqrsRequest *request);

/* Refuse one that is defined by neither a query nor handlers, by both, or by half of one. */
extern void cqrs_request_check(const CqrsRequest *request);

/*
 * Make a version's schema, definition, table and source rows of what was asked for, as the current user and under the settings in force, which it
 * keeps.  Returns it, building; what is wrong with the request is an error.  Its row is not written yet.
 */
extern CqrsVersion *cqrs_make_version(const CqrsRequest *request, int32 projection, int32 number);

/* Record what a version has come to read since a view that its query names was replaced; 42P17 if a projection would read itself. */
extern void cqrs_make_follow(CqrsVersion *version);

/*
 * The serving view of a projection was given another query: check the queries of those that read it again, and have them evaluated anew.  Errors: those
 * of the check.
 */
extern void cqrs_projection_redefined(const CqrsProjection *projection);

/*
 * Put on a new version's table what users have put on another's; what cannot be is told in notices.  Returns the indexes beside those asked for, which are made
 * after the fill; if some were asked for, without those that were for the other version.
 */
extern List *cqrs_carry_over(const CqrsVersion *from, const CqrsVersion *to, bool indexes_given);

/* Write its row, what it reads, and that it was made, for a projection served by 'view'. */
extern void cqrs_make_known(CqrsVersion *version, Oid view);

/* The projection served by 'view', locked for a change by its owner; 'command' names the function for errors. */
extern CqrsProjection *cqrs_projection_open(Oid view, const char *command);

/*
 * Bring a version, which must be filled, up to the snapshot of a batch, in this transaction: the batch is applied, and its snapshot the caller's to
 * unregister.  The caller has had cqrs_apply_check_caller say that this is possible here.  Errors as of cqrs.drain.
 */
extern void cqrs_drain_version(const CqrsProjection *projection, const CqrsVersion *version, CqrsBatch *batch);

/* Raise why a version cannot be brought up to a snapshot now, if that is known already. */
extern void cqrs_drain_check(const CqrsProjection *projection, const CqrsVersion *version);

/* What to do where a handler fails: park or halt; 22023 for anything else. */
extern char *cqrs_projection_on_error(const text *argument);

/* A row filter as given; NULL for an empty one, which is none. */
extern char *cqrs_projection_filter(const text *argument);

/* Refuse an argument that means nothing here, with 0A000. */
extern void cqrs_projection_refuse_argument(const char *argument);

#endif							/* CQRS_PROJECTION_PARTS_H */
