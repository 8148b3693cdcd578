/*
 * shared/slots.h
 *		The table of databases that have, or are to have, a worker; for the launcher and the workers themselves.
 *
 * A slot belongs to one database.  The launcher takes one when it starts a worker, which settles in it or leaves; after a worker has left that
 * was wanted, the slot waits for the next start.
 */
#ifndef CQRS_SHARED_SLOTS_H
#define CQRS_SHARED_SLOTS_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* The right to take a slot, handed from the launcher to the process it starts. */
typedef struct CqrsTicket
{
	int			slot;			/* -1: none to be had */
	uint32		generation;
	Oid			database;
} CqrsTicket;

/* ---- the launcher ---- */

/* Become the launcher, to the end of this process.  All databases are to be looked at then. */
extern void cqrs_slots_attach_launcher(void);

/* Take what was asked for: databases to look at (returns how many, at most 'max'), or all of them. */
extern int	cqrs_slots_take_requests(Oid *databases, int max, bool *everywhere);

/* Have all databases looked at. */
extern void cqrs_slots_look_everywhere(void);

/* Say whether any database is still to be looked at. */
extern void cqrs_slots_report_looking(bool looking);

/* A database that has a slot is looked at again when its worker leaves, or now if it waits; false if it has none. */
extern bool cqrs_slots_look_again(Oid database);

/* The next slot whose time has come, as its database, or InvalidOid; 'next' gets when another's time comes (DT_NOEND: never). */
extern Oid	cqrs_slots_due(TimestampTz *next);

/* Is a process on its way that has not settled yet? */
extern bool cqrs_slots_starting(void);

/* Take a slot for a start, the database's own or a free one; none if it is held or runs, or the table is full. */
extern CqrsTicket cqrs_slots_begin(Oid database);

/* The process could not be started, or has ended: tried again later, unless it took its slot in time. */
extern void cqrs_slots_failed(const CqrsTicket *ticket);

/* The database is not to have a worker: ask one to leave, forget its slot. */
extern void cqrs_slots_give_up(Oid database);

/* Databases that have slots; returns how many, at most CQRS_MAX_DATABASES. */
extern int	cqrs_slots_databases(Oid *databases);

/* Is a slot free? */
extern bool cqrs_slots_room(void);

/* ---- a worker ---- */

/* Take the slot, to the end of this process; false if it should leave instead. */
extern bool cqrs_slots_attach(const CqrsTicket *ticket);

/* It is wanted here, and stays. */
extern void cqrs_slots_settle(void);

/* Somebody has asked it to leave, which is no failure of its; safe in a signal handler. */
extern void cqrs_slots_told_to_leave(void);

/* It is not wanted here, and will leave: the slot is free then. */
extern void cqrs_slots_resign(void);

/* Has anybody woken it since the last call?  Whatever was committed before that is visible after this call. */
extern bool cqrs_slots_woken(void);

#endif							/* CQRS_SHARED_SLOTS_H */
