/*
 * apply/sample.c
 *		Some keys of a version, apart from any window: picked to be verified, or recomputed because they have drifted.
 *
 * The caller has brought the version to the snapshot, in this transaction, and so holds its locks.  Runs as the version's owner, under its settings.
 */
#include "postgres.h"

#include "apply/parts.h"
#include "utils/snapmgr.h"

/* What is to be done with a version's program. */
typedef struct Work
{
	CqrsSample *sample;			/* to be filled, or NULL: */
	Tuplestorestate *keys;		/* to be recomputed */
	int64		nkeys;
	Snapshot	snapshot;
} Work;

/*
 * cqrs_program_run does work with a version's program inside SPI, as its owner; a program that failed is made anew.
 */
void
cqrs_program_run(const CqrsVersion *version, Snapshot snapshot, CqrsProgramWork work, void *argument)
{
	CqrsIdentity saved;
	CqrsProgramEntry *entry;

	(void) cqrs_apply_become_owner(version, &saved);
	cqrs_spi_connect();
	PG_TRY();
	{
		PushActiveSnapshot(snapshot);
		entry = cqrs_program_entry(version);
		PopActiveSnapshot();
		work(entry, argument);
	}
	PG_CATCH();
	{
		cqrs_program_forget(version->id);
		PG_RE_THROW();
	}
	PG_END_TRY();
	cqrs_spi_finish();
	cqrs_identity_leave(&saved);
}

/*
 * do_work samples or repairs.
 */
static void
do_work(CqrsProgramEntry *entry, void *argument)
{
	Work	   *work = argument;

	if (work->sample != NULL)
		cqrs_strategy_sample(entry, work->sample, work->snapshot);
	else
		cqrs_strategy_repair(entry, work->keys, work->nkeys, work->snapshot);
}

/*
 * cqrs_apply_sample picks keys of a version, and reads what there is of them.
 */
void
cqrs_apply_sample(const CqrsVersion *version, CqrsSample *sample, Snapshot snapshot)
{
	Work		work = {.sample = sample, .snapshot = snapshot};

	sample->nexpected = sample->nfound = 0;
	cqrs_program_run(version, snapshot, do_work, &work);
}

/*
 * cqrs_apply_repair recomputes some keys of a version, and writes what differs.
 */
void
cqrs_apply_repair(const CqrsVersion *version, Tuplestorestate *keys, int64 nkeys, Snapshot snapshot)
{
	Work		work = {.keys = keys, .nkeys = nkeys, .snapshot = snapshot};

	cqrs_program_run(version, snapshot, do_work, &work);
}
