/*
 * base/offer.h
 *		Rows on offer to SQL, and what the planner is told of them.  For base/spi.c.
 */
#ifndef CQRS_BASE_OFFER_H
#define CQRS_BASE_OFFER_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "utils/queryenvironment.h"
#include "utils/tuplestore.h"

/* Has the planner ask for the statistics of rows on offer; when the library is loaded. */
extern void cqrs_offer_init(void);

/* Rows under a name, in CurrentMemoryContext and known to the planner for as long as that lives, or until they are forgotten. */
extern EphemeralNamedRelation cqrs_offer_make(const char *name, TupleDesc desc, Tuplestorestate *rows, double nrows);

/* Put other rows in place of these. */
extern void cqrs_offer_refill(EphemeralNamedRelation relation, Tuplestorestate *rows, double nrows);

/* Let the planner know how many distinct values their columns have. */
extern void cqrs_offer_describe(EphemeralNamedRelation relation);

/* Forget the last offer of a name. */
extern void cqrs_offer_forget(const char *name);

#endif							/* CQRS_BASE_OFFER_H */
