/*
 * capture/parts.h
 *		What the files of capture/ share; private to the room.
 */
#ifndef CQRS_CAPTURE_PARTS_H
#define CQRS_CAPTURE_PARTS_H

#include "postgres.h"

#include "capture/capture.h"
#include "fmgr.h"
#include "outbox/outbox.h"
#include "registry/registry.h"
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
	Oid			root;			/* of the source's tree; InvalidOid if nothing is attached here */
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

/* ---- triggers.c ---- */

/* A trigger of ours. */
typedef struct CqrsTriggered
{
	Oid			table;
	int32		source;			/* id; there may be no such source any more */
	char	   *name;
} CqrsTriggered;

/* Have a source's triggers be on a table and fire always, but not for updates that concern nobody; takes SHARE ROW EXCLUSIVE on it. */
extern void cqrs_capture_make_triggers(Oid table, const CqrsSource *source);

/* After DDL on a table: have its triggers of ours fire for the updates that they have to fire for now. */
extern void cqrs_capture_fit_triggers(Oid table);

/* Drop a source's triggers from a table; takes ACCESS EXCLUSIVE on it.  False if this session is at work on the table. */
extern bool cqrs_capture_drop_triggers(Oid table, int32 source);

/* All triggers of ours: List of CqrsTriggered *. */
extern List *cqrs_capture_list_triggers(void);

/* What a trigger is for; false if it is none of ours. */
extern bool cqrs_capture_read_trigger(Oid trigger, CqrsTriggered *triggered);

/* The source that a trigger's name tells; 0 if it is not as names of ours are. */
extern int32 cqrs_capture_source_named(const char *name);

/* ---- check.c ---- */

/* As cqrs_capture_check, but only a WARNING for each thing, and false. */
extern bool cqrs_capture_warn(Oid relation);

/* ---- ddl.c ---- */

/* An error unless a function was called by an event trigger; false if there is nothing to follow yet. */
extern bool cqrs_capture_follows(FunctionCallInfo fcinfo);

/* Note in the outbox that what a source holds has changed without changes of rows: its readers evaluate all anew in the window that sees it. */
extern void cqrs_capture_append_alter(const CqrsSource *source);

#endif							/* CQRS_CAPTURE_PARTS_H */
