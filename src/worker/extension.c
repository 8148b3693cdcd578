/*
 * worker/extension.c
 *		What CREATE EXTENSION asks of the processes: a worker for this database, or a word to the user that there will be none.
 */
#include "postgres.h"

#include "fmgr.h"
#include "shared/shared.h"

PG_FUNCTION_INFO_V1(cqrs_start_worker);

/*
 * cqrs_internal.start_worker() RETURNS void
 *
 * Asks the launcher to look at this database when the transaction has committed.  Called by the extension's script.  Without shared memory a notice says
 * that there is no worker, and how to get one.
 */
Datum
cqrs_start_worker(PG_FUNCTION_ARGS)
{
	if (cqrs_shared_available())
		cqrs_shared_look_at_commit();
	else
		ereport(WARNING,
				(errmsg("no worker will keep projections up to date, as cqrs is not in shared_preload_libraries"),
				 errhint("Add it there and restart the server; until then changes are applied by cqrs.drain.")));
	PG_RETURN_VOID();
}
