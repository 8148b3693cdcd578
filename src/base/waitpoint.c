/*
 * base/waitpoint.c
 *		Where tests stop processes.
 */
#include "postgres.h"

#include "base/waitpoint.h"

#ifdef USE_ASSERT_CHECKING

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"

/*
 * key_of hashes a name as hashtext does.
 */
static uint32
key_of(const char *name)
{
	return DatumGetUInt32(hash_any((const unsigned char *) name, strlen(name)));
}

/*
 * cqrs_wait_point waits until nobody holds the lock of that name, however long that takes.
 */
void
cqrs_wait_point(const char *name)
{
	int			timeout = LockTimeout;
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, key_of("cqrs"), key_of(name), 2);
	LockTimeout = 0;
	(void) LockAcquire(&tag, ShareLock, true, false);
	LockTimeout = timeout;
	LockRelease(&tag, ShareLock, true);
}

#endif							/* USE_ASSERT_CHECKING */
