/*
 * capture/capture.h
 *		From a row trigger to the outbox's buffer; attaching sources and letting them go.
 */
#ifndef CQRS_CAPTURE_H
#define CQRS_CAPTURE_H

#include "postgres.h"

#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "registry/registry.h"

/*
 * Make sure every source (List of source ids, as integers) is captured from now on: creates its triggers, or puts its plan in
 * force again, under SHARE ROW EXCLUSIVE asked for in short tries (cqrs_locks_take), so that no writer in flight has captured too
 * little.  Sources that are attached already, with triggers as we made them (cqrs_source_intact), take no lock.  Returns true if
 * anything was changed (a worker then commits before it fills).
 */
extern bool cqrs_capture_attach(List *sources);

/* Capture again what cqrs.capture asked for and a full outbox has suspended. */
extern void cqrs_capture_resume(void);

/*
 * The columns of a source that are to be watched and imaged: all that versions not retired ask for, and its primary key; with cqrs.capture all.
 * Takes ACCESS SHARE on the source while it looks.
 */
extern void cqrs_capture_demand(const CqrsSource *source, Bitmapset **watched, Bitmapset **imaged);

/*
 * Let go of sources that no version reads and cqrs.capture has not asked for: their plan is emptied at once, and one try is made to
 * drop their triggers; what is left goes later, by cqrs_capture_tidy.  A source that another session is just registering or attaching is passed over.
 */
extern void cqrs_capture_release(void);

/*
 * Have sources captured for no more than is asked of them, and drop the triggers of released ones, without waiting longer than a short try; true if
 * any are left for later.  A source's row stays as long as its table, since chunks name it.  Within a transaction block no trigger is dropped: the
 * table would be locked to the block's end.
 */
extern bool cqrs_capture_tidy(void);

/*
 * Refuses with SQLSTATE, detail and hint a relation whose changes cannot be captured (view, foreign, temporary, unlogged, system,
 * partitioned or inherited for now …).
 */
extern void cqrs_capture_check(Oid relation);

#endif							/* CQRS_CAPTURE_H */
