/*
 * base/spi.h
 *		The one door to SQL from C: SPI with every result code checked, the owner's identity, and named relations.
 *
 * Nobody else includes executor/spi.h.  All functions raise on failure; none returns an error code.
 */
#ifndef CQRS_BASE_SPI_H
#define CQRS_BASE_SPI_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "base/cost.h"
#include "nodes/pg_list.h"
#include "tcop/dest.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

typedef struct EphemeralNamedRelationData CqrsOffer;	/* a relation on offer */
typedef struct _SPI_plan CqrsStatement;		/* a prepared statement; kept ones live until cqrs_spi_free */

/* What cqrs_identity_enter changed and cqrs_identity_leave puts back.  On error the (sub)transaction's abort does it. */
typedef struct CqrsIdentity
{
	Oid			user;
	int			sec_context;
	int			guc_level;
	bool		held;			/* a snapshot */
} CqrsIdentity;

/*
 * Become 'owner' in a security-restricted context, under 'settings' (a List of String nodes, name and value in turn, as
 * registry keeps them; NIL: leave all as it is).
 */
extern void cqrs_identity_enter(CqrsIdentity *saved, Oid owner, List *settings);

/* Become the bootstrap superuser, for writes to our own catalog on behalf of a user whose right was checked already. */
extern void cqrs_identity_enter_system(CqrsIdentity *saved);
extern void cqrs_identity_leave(const CqrsIdentity *saved);

/*
 * A nesting of SPI.  cqrs_spi_connect makes SPI's memory current, all other functions leave the current context as it was;
 * results that must outlive the nesting go to memory of the caller's, by cqrs_spi_text(…, context) or a tuplestore of the
 * caller's.
 */
extern void cqrs_spi_connect(void);
extern void cqrs_spi_finish(void);

/* Run one statement (utility, DML, SELECT) with a fresh snapshot as any function would; returns rows processed. */
extern uint64 cqrs_spi_run(const char *sql);

/* The same with parameters.  nulls may be NULL; 'n' marks a null. */
extern uint64 cqrs_spi_run_args(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls);

/* Field 'column' (from 1) of row 'row' (from 0) of the last SELECT; text form copied into 'context', or NULL for null. */
extern char *cqrs_spi_text(uint64 row, int column, MemoryContext context);

/* The same as a Datum, valid until the nesting ends (by-reference values are SPI's). */
extern Datum cqrs_spi_datum(uint64 row, int column, bool *isnull);

/* Run a query as the system, in a nesting of its own; returns what 'read' makes of its rows, with memory of the caller's. */
extern List *cqrs_spi_collect(const char *query, void *(*read) (uint64 row, MemoryContext caller));

/* The same: its first column, List of char *. */
extern List *cqrs_spi_collect_texts(const char *query);

/* Prepare 'sql' and, if 'keep', let it outlive the nesting. */
extern CqrsStatement *cqrs_spi_prepare(const char *sql, int nargs, Oid *types, bool keep);
extern void cqrs_spi_free(CqrsStatement *statement);

/* Has nothing that a kept statement names changed since it was prepared? */
extern bool cqrs_spi_is_valid(CqrsStatement *statement);

/* The columns that a statement that returns rows returns, in the current context. */
extern TupleDesc cqrs_spi_columns(CqrsStatement *statement);
/* The analyzed queries of a prepared statement's text: List of Query *, theirs. */
extern List *cqrs_spi_queries(CqrsStatement *statement);

/* What the planner expects of a kept statement without parameters (see base/cost.h).  The relations it names are offered. */
extern CqrsEstimate cqrs_spi_estimate(CqrsStatement *statement, bool one_row);

/*
 * Run a read-only statement that returns rows under 'snapshot', with the effects of our own earlier commands visible, into
 * 'into' (made by the caller).  Returns the number of rows.
 */
extern uint64 cqrs_spi_select(CqrsStatement *statement, Snapshot snapshot, Tuplestorestate *into);

/*
 * Run a SELECT under 'snapshot', handing its rows to 'receiver'; 'expected' gets how many the planner expects before the first comes.  Returns the number of
 * rows.
 */
extern uint64 cqrs_spi_pour(const char *sql, Snapshot snapshot, DestReceiver *receiver, double *expected);

/* Run a statement that writes under 'snapshot', with our own earlier commands visible.  Returns rows processed. */
extern uint64 cqrs_spi_modify(CqrsStatement *statement, Snapshot snapshot);

/*
 * The door through which deltas and computed rows reach SQL: offers 'rows' as a relation 'name' to statements of this SPI
 * nesting, until withdrawn.  The caller keeps tuplestore and descriptor alive until then.
 */
extern CqrsOffer *cqrs_spi_offer(const char *name, TupleDesc desc, Tuplestorestate *rows, double nrows);

/* Have the planner told how many distinct values the columns of a relation on offer have. */
extern void cqrs_spi_describe(CqrsOffer *offer);

/* Put other rows, or none for the moment, in place of those of a relation on offer. */
extern void cqrs_spi_refill(CqrsOffer *offer, Tuplestorestate *rows, double nrows);
extern void cqrs_spi_withdraw(const char *name);

/*
 * A streaming read of one SELECT under 'snapshot' (own earlier commands visible), with parameters, none null, if it has any: open, fetch rows one at a
 * time (NULL at the end; the tuple is valid until the next fetch), close.
 */
typedef struct CqrsCursor CqrsCursor;
extern CqrsCursor *cqrs_spi_open(CqrsStatement *statement, Datum *values, Snapshot snapshot);
extern HeapTuple cqrs_spi_fetch(CqrsCursor *cursor, TupleDesc *desc);
extern void cqrs_spi_close(CqrsCursor *cursor);

#endif							/* CQRS_BASE_SPI_H */
