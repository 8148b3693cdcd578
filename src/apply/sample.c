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
 * run does the work inside SPI.
 */
static void
run(const CqrsVersion *version, const Work *work)
{
	CqrsProgramEntry *entry;

	PushActiveSnapshot(work->snapshot);
	entry = cqrs_program_entry(version);
	PopActiveSnapshot();
	if (work->sample != NULL)
		cqrs_strategy_sample(entry, work->sample, work->snapshot);
	else
		cqrs_strategy_repair(entry, work->keys, work->nkeys, work->snapshot);
}

/*
 * run_as_owner does the work as the version's owner; a program that failed is made anew.
 */
static void
run_as_owner(const CqrsVersion *version, const Work *work)
{
	CqrsIdentity saved;

	(void) cqrs_apply_become_owner(version, &saved);
	cqrs_spi_connect();
	PG_TRY();
	{
		run(version, work);
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
 * cqrs_apply_sample picks keys of a version, and reads what there is of them.
 */
void
cqrs_apply_sample(const CqrsVersion *version, CqrsSample *sample, Snapshot snapshot)
{
	Work		work = {.sample = sample, .snapshot = snapshot};

	sample->nexpected = sample->nfound = 0;
	run_as_owner(version, &work);
}

/*
 * cqrs_apply_repair recomputes some keys of a version, and writes what differs.
 */
void
cqrs_apply_repair(const CqrsVersion *version, Tuplestorestate *keys, int64 nkeys, Snapshot snapshot)
{
	Work		work = {.keys = keys, .nkeys = nkeys, .snapshot = snapshot};

	run_as_owner(version, &work);
}
