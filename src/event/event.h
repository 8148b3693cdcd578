/*
 * event/event.h
 *		Types of domain events, and payloads of old shapes made new.
 */
#ifndef CQRS_EVENT_H
#define CQRS_EVENT_H

#include "postgres.h"

#include "utils/jsonb.h"

/* What metadata calls the version of the shape that a payload has. */
#define CQRS_SCHEMA_VERSION "schema_version"

/*
 * A payload in the newest shape of its event type: what the type's upcasters make of it, from the version that the metadata says, or 1, on.  Without any it is
 * the payload itself.  Each upcaster runs as its owner.  Wants an active snapshot; the result is in CurrentMemoryContext, or is 'payload'.
 */
extern Jsonb *cqrs_upcast(const char *event_type, Jsonb *payload, const Jsonb *metadata);

/* Are there upcasters at all? */
extern bool cqrs_upcast_any(void);

/* The version of the shape that metadata says; 1 if it says none, 0 if what it says is none: a whole number from 1. */
extern int32 cqrs_event_schema_version(const Jsonb *metadata);

#endif							/* CQRS_EVENT_H */
