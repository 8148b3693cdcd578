/*
 * build/parts.h
 *		What the files of build/ share; private to the room.
 */
#ifndef CQRS_BUILD_PARTS_H
#define CQRS_BUILD_PARTS_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "apply/apply.h"
#include "registry/registry.h"
#include "utils/snapshot.h"

#define CQRS_AT_ONCE_MS 50		/* as in apply/: what a worker waits for a lock at most */

/* ---- fill.c ---- */

/* Fill a table with what a query yields, columns in order; returns the number of rows.  See there for what it wants. */
extern uint64 cqrs_fill_table(Oid relid, const char *query, Snapshot snapshot);

/* ---- build.c ---- */

/* Bring a filled version up to date in this transaction; what came of it. */
extern CqrsOutcome cqrs_build_catch_up(int32 version, bool wait);

/* Change a version's state, with its row in history; the caller holds its lock. */
extern void cqrs_build_state(CqrsVersion *version, CqrsState state, const char *reason);

/* ---- older.c ---- */

/*
 * Transactions, as texts, that have a snapshot older than a version's fill, but for those that wait for a projection: of those that are among 'known' (List of
 * int, process ids; NIL: all), whose list becomes that of those found.
 */
extern List *cqrs_older_snapshots(const CqrsVersion *version, List **known);

/* ---- view.c, replace.c: the serving view ---- */

/* The relation whose columns a version's serving view shows: the definition, or the table where there is none. */
extern Oid	cqrs_view_columns(const CqrsVersion *version);

/* Drop a serving view and make it again over another version's table, with its name, owner, options and row filter; returns the new one. */
extern Oid	cqrs_view_remake(Oid view, const CqrsVersion *version);

/*
 * Have the serving view show another version's table, changing projection->view if it has to be made anew.  Errors: 2BP01 where something depends on it that
 * cannot stay, or, without 'force', that would be in the way of going back.  The caller holds its lock.
 */
extern void cqrs_view_switch(CqrsProjection *projection, const CqrsVersion *version, bool force);

/* ---- filter.c: row filters as text for a WHERE, every name in it qualified but for columns of the table ---- */

/* As a user gives it, for a table that the query knows as 'alias': errors point into his text. */
extern char *cqrs_filter_read(Oid view, const char *text, const char *alias);

/* As a serving view holds it, for a version's table; NULL if it has none.  Errors: 42703 a column that it names is none of the version's. */
extern char *cqrs_filter_of_view(Oid view, const CqrsVersion *version);

#endif							/* CQRS_BUILD_PARTS_H */
