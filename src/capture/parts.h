/*
 * capture/parts.h
 *		What the files of capture/ share; private to the room.
 */
#ifndef CQRS_CAPTURE_PARTS_H
#define CQRS_CAPTURE_PARTS_H

#include "postgres.h"

#include "capture/capture.h"
#include "outbox/outbox.h"
#include "utils/relcache.h"
#include "utils/reltrigger.h"

/* ---- demand.c ---- */

/* Have sources captured for no more than is asked of them. */
extern void cqrs_capture_shrink(void);

/* ---- shape.c ---- */

/* The shape, without an id, that images of a source should have: by its columns as they are now, and the sets in force. */
extern CqrsShape *cqrs_capture_wanted_shape(const CqrsSource *source);

/* Do two shapes differ in no more than their ids? */
extern bool cqrs_capture_same_shape(const CqrsShape *left, const CqrsShape *right);

/* ---- cache.c ---- */

/* A column whose change counts. */
typedef struct CqrsWatchedColumn
{
	int16		from;			/* index among the row's attributes, from 0 */
	int16		length;			/* as attlen */
	int16		noted;			/* index among the noted columns, or -1: it is imaged */
	bool		by_value;
} CqrsWatchedColumn;

/* What to do with changes that a trigger tells of. */
typedef struct CqrsCapturePlan
{
	Oid			trigger;		/* hash key: one is of one source and one table */
	Oid			relation;		/* the table */
	int			state;			/* private to cache.c */
	bool		captures;		/* false: nothing, no source is attached here */
	CqrsImaging imaging;
	int			nwatched;
	CqrsWatchedColumn *watched; /* in the order of the row's attributes */
	int			deformed;		/* attributes of a row up to the last one watched */
} CqrsCapturePlan;

/* The plan of a trigger of 'rel', from the backend's cache.  Valid until the next call. */
extern const CqrsCapturePlan *cqrs_capture_plan(const Trigger *trigger, Relation rel);

/* The shape in which images of a source are to be recorded: its latest, or a new one if the table, or what is asked of it, has changed since. */
extern const CqrsShape *cqrs_capture_shape(const CqrsSource *source);

#endif							/* CQRS_CAPTURE_PARTS_H */
