/*
 * capture/parts.h
 *		What the files of capture/ share; private to the room.
 */
#ifndef CQRS_CAPTURE_PARTS_H
#define CQRS_CAPTURE_PARTS_H

#include "postgres.h"

#include "capture/capture.h"
#include "utils/relcache.h"

/* What to do with changes of a relation. */
typedef struct CqrsCapturePlan
{
	Oid			relation;		/* hash key */
	int			state;			/* private to cache.c */
	int32		source;			/* 0: nothing, no source is attached here */
	int32		shape;			/* in which its rows are recorded */
} CqrsCapturePlan;

/* The relation's plan, from the backend's cache.  Valid until the next call. */
extern const CqrsCapturePlan *cqrs_capture_plan(Relation rel);

/* The shape in which rows of 'rel' are to be recorded: the source's latest, or a new one if the table has changed since. */
extern int32 cqrs_capture_shape(int32 source, Relation rel);

#endif							/* CQRS_CAPTURE_PARTS_H */
