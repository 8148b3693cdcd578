/*
 * erase/parts.h
 *		What the files of erase/ share; private to the room.
 */
#ifndef CQRS_ERASE_PARTS_H
#define CQRS_ERASE_PARTS_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "outbox/outbox.h"
#include "utils/jsonb.h"

/* Which rows are meant: values by column, as a user gave them. */
typedef struct CqrsRowMatch CqrsRowMatch;

/* Read a key that is meant for a table, checked against its columns as they are now. */
extern CqrsRowMatch *cqrs_match_begin(Oid relation, Jsonb *key);

/* Is the change one of such a row, before it or after?  A CqrsErasable; the argument is a CqrsRowMatch. */
extern bool cqrs_match_row(const CqrsChange *change, void *argument);

/* ---- settle.c: seeing to it that nobody needs what goes ---- */

/* Refuse if a version that reads one of the sources (List of ids) stands still, but needs what it has not applied. */
extern void cqrs_settle_check(List *sources);

/* Bring all versions that read one of the sources up to date, and keep others from them to the end of the transaction. */
extern void cqrs_settle(List *sources);

/* ---- letters.c: dead letters, which hold events beyond the outbox ---- */
extern void cqrs_letters_erase_aggregate(text *type, text *id);
extern void cqrs_letters_erase_rows(Oid source, Jsonb *key);

#endif							/* CQRS_ERASE_PARTS_H */
