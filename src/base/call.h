/*
 * base/call.h
 *		Functions of users that take one jsonb and return another: handlers of commands, upcasters of events.
 */
#ifndef CQRS_BASE_CALL_H
#define CQRS_BASE_CALL_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/jsonb.h"

/* Refuse what is no function(jsonb) returning jsonb, or what the current user does not own; 'argument' is whose value it is. */
extern void cqrs_call_check(Oid function, const char *argument);
extern void cqrs_call_check_owner(Oid function);

/* Is it a function(jsonb) returning jsonb?  One that is gone is none. */
extern bool cqrs_call_fits(Oid function);

/* Call it, as the current user and whatever rights that has; NULL for null. */
extern Jsonb *cqrs_call(FmgrInfo *function, Jsonb *argument);

#endif							/* CQRS_BASE_CALL_H */
