/*
 * init.c
 *		What happens when the server loads the library: at its start where it is preloaded, else in the session that first calls one of its functions.
 *
 * Only a preloaded library has shared memory, a launcher and workers.  All else works in either.
 */
#include "postgres.h"

#include "base/offer.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "outbox/outbox.h"
#include "settings/settings.h"
#include "shared/shared.h"
#include "worker/worker.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

/*
 * _PG_init is called by the server when it loads the library.
 */
void
_PG_init(void)
{
	cqrs_settings_define();
	cqrs_offer_init();
	cqrs_outbox_init();
	if (!process_shared_preload_libraries_in_progress)
		return;
	cqrs_shared_init();
	cqrs_worker_init();
}
