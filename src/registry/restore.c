/*
 * registry/restore.c
 *		Knowing that our catalog is being restored from a dump.
 *
 * A restore puts the catalog's rows, the segments they speak of, tables of versions, indexes and triggers in place one after the other, and by several sessions
 * at once.  Whoever acted on the first of them would lose what is still to come, or make what the restore is to make.  No row tells that it was the last, and
 * a restore may fail; so who restores holds a lock to the end of his session, and workers do nothing meanwhile.
 *
 * An advisory lock of a kind that users cannot name: it outlives errors and transactions of the session, and DISCARD ALL gives it back.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "storage/lock.h"

#define KIND 3					/* of advisory locks; the server's functions take 1 and 2 */
#define RESTORER RowExclusiveLock	/* several restore together ... */
#define WORKER ShareLock		/* ... and several work together */

PG_FUNCTION_INFO_V1(cqrs_note_restore);

/*
 * restore_tag is the lock that stands for restoring the catalog.
 */
static LOCKTAG
restore_tag(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, cqrs_registry_relation(CQRS_CAT_VERSION), KIND);
	return tag;
}

/*
 * is_restoring tells whether this session restores.
 */
static bool
is_restoring(LOCKTAG tag)
{
	return LockHeldByMe(&tag, RESTORER);
}

/*
 * cqrs_restore_note says that this session restores; waits for what workers do just now.
 */
void
cqrs_restore_note(void)
{
	LOCKTAG		tag = restore_tag();

	if (!is_restoring(tag))
		(void) LockAcquire(&tag, RESTORER, true, false);
}

/*
 * cqrs_restore_end says that this session has restored what it was to.
 */
void
cqrs_restore_end(void)
{
	LOCKTAG		tag = restore_tag();

	if (is_restoring(tag))
		(void) LockRelease(&tag, RESTORER, true);
}

/*
 * cqrs_restore_exclude has nobody begin to restore before the transaction ends; false if somebody restores.
 */
bool
cqrs_restore_exclude(void)
{
	LOCKTAG		tag = restore_tag();

	return LockAcquire(&tag, WORKER, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * cqrs_internal.note_restore() RETURNS trigger
 *
 * Before rows of the catalog are inserted by SQL, which nobody does but a restore.  Errors: 39P01 if used otherwise.
 */
Datum
cqrs_note_restore(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"note_restore\" was not called by trigger manager")));
	cqrs_restore_note();
	return PointerGetDatum(NULL);
}
