/*
 * token/token.c
 *		Tokens: the id of a command's transaction, and waiting until a projection shows what it covers.
 *
 * A token covers its transaction and all that committed before it was drawn.  The reader itself computes the answer, from the outbox and the
 * checkpoint, under a snapshot taken after the token's transaction was seen to have ended; nobody is asked and nothing is written, so it works on a
 * hot standby.  There running ids stand in a snapshot's subxip, so a live snapshot is only ever asked through the server's own visibility functions;
 * snapshot arithmetic is for stored checkpoints.
 *
 * Leaves waking to shared/, and the applying to appliers.  Takes ACCESS SHARE on the outbox's segments for a moment and keeps no snapshot while
 * it waits.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/clock.h"
#include "base/names.h"
#include "base/waitpoint.h"
#include "fmgr.h"
#include "outbox/outbox.h"
#include "registry/registry.h"
#include "shared/shared.h"
#include "storage/lmgr.h"
#include "token/token.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

/* How long a waiter sleeps where nobody announces what it waits for: another transaction's end, or replay on a standby. */
#define UNANNOUNCED_NAP_MS	10

/* How long it sleeps where an applier announces progress: only the applier's death passes unannounced. */
#define ANNOUNCED_NAP_MS	250

/* Ids further apart than this cannot be compared as 32-bit ids, and the older one ended long ago: the server would have stopped first. */
#define XID_HORIZON			(UINT64CONST(1) << 31)

/* What one question asks, and what it knows so far. */
typedef struct Question
{
	FullTransactionId token;
	MemoryContext context;		/* of 'pending' */
	int32		version;		/* whose pending transactions are listed; 0: the token's transaction has not been seen to end */
	int			npending;
	FullTransactionId *pending; /* transactions with changes the version reads and has not applied */
} Question;

PG_FUNCTION_INFO_V1(cqrs_token);
PG_FUNCTION_INFO_V1(cqrs_caught_up);
PG_FUNCTION_INFO_V1(cqrs_wait_for);

/*
 * check_token refuses ids for which there is nothing to wait, or for ever.
 *
 * Errors: 22023 for no id at all, and on a primary for one not given out yet; 25001 for this session's own open transaction.
 */
static void
check_token(FullTransactionId token)
{
	FullTransactionId next = ReadNextFullTransactionId();

	if (!FullTransactionIdIsValid(token))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("token 0 names no transaction"),
				 errhint("Take tokens from cqrs.token().")));
	if (!FullTransactionIdPrecedes(token, next))
	{
		if (RecoveryInProgress())
			return;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("token %llu has not been given out yet", (unsigned long long) U64FromFullTransactionId(token)),
				 errdetail("The next transaction will have the id %llu.",
						   (unsigned long long) U64FromFullTransactionId(next)),
				 errhint("Take tokens from cqrs.token() in this cluster.")));
	}
	if (U64FromFullTransactionId(next) - U64FromFullTransactionId(token) < XID_HORIZON &&
		TransactionIdIsCurrentTransactionId(XidFromFullTransactionId(token)))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("token %llu is of this transaction, which is still open",
						(unsigned long long) U64FromFullTransactionId(token)),
				 errdetail("What a transaction changes reaches projections after it commits."),
				 errhint("Commit first, then wait.")));
}

/*
 * has_ended tells whether the token's transaction had ended when 'snapshot', one just taken, was taken.
 */
static bool
has_ended(FullTransactionId token, FullTransactionId next, Snapshot snapshot)
{
	if (!FullTransactionIdPrecedes(token, next))
		return false;
	if (U64FromFullTransactionId(next) - U64FromFullTransactionId(token) >= XID_HORIZON)
		return true;
	return !XidInMVCCSnapshot(XidFromFullTransactionId(token), snapshot);
}

/*
 * list_pending returns the ids, up to the token, of transactions visible in 'snapshot' with changes that the version reads and its checkpoint has not
 * seen; allocated in 'context'.
 *
 * Chunks of this session's own transaction are none of them: they are not committed, and never will be while it waits.
 */
static FullTransactionId *
list_pending(const CqrsVersion *version, const CqrsCheckpoint *checkpoint, FullTransactionId token, Snapshot snapshot,
			 MemoryContext context, int *count)
{
	FullTransactionId own = GetTopFullTransactionIdIfAny();
	int			nsources;
	int32	   *sources = cqrs_version_source_ids(version->id, &nsources);
	int			allocated = 16;
	FullTransactionId *pending = MemoryContextAlloc(context, sizeof(FullTransactionId) * allocated);
	CqrsOutboxScan *scan = cqrs_outbox_scan_begin(snapshot, checkpoint->snapshot, token);
	CqrsChunk  *chunk;

	*count = 0;
	while ((chunk = cqrs_outbox_scan_next(scan)) != NULL)
	{
		if (FullTransactionIdEquals(chunk->xid, own) || !cqrs_outbox_chunk_has(chunk, sources, nsources) ||
			(*count > 0 && FullTransactionIdEquals(chunk->xid, pending[*count - 1])))
			continue;
		if (*count == allocated)
		{
			allocated *= 2;
			pending = repalloc_huge(pending, sizeof(FullTransactionId) * allocated);
		}
		pending[(*count)++] = chunk->xid;
	}
	cqrs_outbox_scan_end(scan);
	return pending;
}

/*
 * has_definition tells whether nobody has dropped a version's definition, as a cascade from a source does.
 */
static bool
has_definition(const CqrsVersion *version)
{
	Oid			relation = cqrs_version_is_events(version) ? version->table : version->definition;

	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation));
}

/*
 * is_stuck tells whether nothing can move a version by itself on but a person.
 *
 * A definition that is gone counts even before anybody has come to halt the version: no change will tell that its source is gone.  Unless it is gone because
 * the version was retired after it was read: another serves by then.
 */
static bool
is_stuck(const CqrsVersion *version)
{
	const CqrsVersion *now;

	if (version->status == CQRS_STATUS_HALTED || has_definition(version))
		return version->status == CQRS_STATUS_HALTED;
	now = cqrs_version_get(version->id, true);
	return now != NULL && now->state != CQRS_STATE_RETIRED;
}

/*
 * cqrs_token_stuck tells whether nothing can move the version on but a person.
 */
bool
cqrs_token_stuck(const CqrsVersion *version)
{
	return cqrs_version_any(version, is_stuck);
}

/*
 * is_untold tells whether a version's checkpoint does not tell what its table holds.
 */
static bool
is_untold(const CqrsVersion *version)
{
	CqrsCheckpoint *checkpoint = cqrs_checkpoint_latest(version->id);

	return checkpoint == NULL || !checkpoint->ours || version->status == CQRS_STATUS_STALE || !has_definition(version) ||
		!cqrs_version_covered(version->id) || !cqrs_version_in_step(version);
}

/*
 * cqrs_token_checkpoint returns the version's newest checkpoint, or NULL where there is none that tells what its table holds.
 *
 * What the applier will find before its next batch, that it must evaluate all anew, the reader finds here before it: of the version, and of those it reads.
 */
CqrsCheckpoint *
cqrs_token_checkpoint(const CqrsVersion *version)
{
	return cqrs_version_any(version, is_untold) ? NULL : cqrs_checkpoint_latest(version->id);
}

/*
 * start lists what the version must still apply before the answer is yes; false while the token's transaction runs, or where no checkpoint tells.
 *
 * One snapshot serves both questions: has the transaction ended, and what is visible now that it has?  The checkpoint is read after the snapshot was
 * taken, so it may only have seen more.
 */
static bool
start(Question *question, const CqrsVersion *version)
{
	FullTransactionId next = ReadNextFullTransactionId();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CqrsCheckpoint *checkpoint = NULL;

	if (has_ended(question->token, next, snapshot))
		checkpoint = cqrs_token_checkpoint(version);
	if (checkpoint != NULL)
	{
		if (question->pending != NULL)
			pfree(question->pending);
		question->pending = list_pending(version, checkpoint, question->token, snapshot, question->context,
										 &question->npending);
		question->version = version->id;
	}
	UnregisterSnapshot(snapshot);
	return checkpoint != NULL;
}

/*
 * drop_applied shortens the list by what the version's newest checkpoint has seen; true once nothing is left.
 *
 * The version is read anew: if it has become stale since, what it had not applied may have been freed before it could be listed.
 */
static bool
drop_applied(Question *question, const CqrsVersion *version)
{
	CqrsVersion *now = cqrs_version_get(version->id, true);
	CqrsCheckpoint *checkpoint = now ? cqrs_token_checkpoint(now) : NULL;
	int			left = 0;

	if (checkpoint == NULL)
		return false;
	for (int i = 0; i < question->npending; i++)
		if (!cqrs_window_sees(checkpoint->snapshot, question->pending[i]))
			question->pending[left++] = question->pending[i];
	question->npending = left;
	return left == 0;
}

/*
 * applied answers the question for a version, as of now; asked again, it looks only at what was left.
 */
static bool
applied(Question *question, const CqrsVersion *version)
{
	if (question->version != version->id && !start(question, version))
		return false;
	return drop_applied(question, version);
}

/*
 * cqrs_token_applied tells whether all changes up to the token that this server can see and the version reads are in its checkpoint; false while the
 * token's transaction runs, and for a version that is not filled or is stale.
 */
bool
cqrs_token_applied(const CqrsVersion *version, FullTransactionId token)
{
	Question	question = {.token = token, .context = CurrentMemoryContext};

	return applied(&question, version);
}

/*
 * shown answers the question for a projection: would a reader of its serving view, from now on, see all that the token covers?
 *
 * '*stuck' tells that no wait can turn a no into a yes: paused, halted, or on a primary no worker.  Reads the registry afresh each time.
 */
static bool
shown(Oid view, Question *question, bool *stuck)
{
	CqrsProjection *projection = cqrs_projection_argument(view);
	CqrsVersion *version = cqrs_version_serving(projection->id);

	check_token(question->token);
	CQRS_WAIT_POINT("look");
	*stuck = version == NULL || cqrs_version_any(version, cqrs_version_paused) || cqrs_token_stuck(version) ||
		(!RecoveryInProgress() && !cqrs_shared_worker_runs());
	return version != NULL && version->state == CQRS_STATE_SERVING && applied(question, version);
}

/*
 * nap_length returns for how long to sleep at most before the next look, given what is waited for.
 */
static long
nap_length(const Question *question, long left)
{
	bool		announced = question->version != 0 && !RecoveryInProgress();

	return Min(left, announced ? ANNOUNCED_NAP_MS : UNANNOUNCED_NAP_MS);
}

/*
 * wait_until_shown asks until the answer is yes, the deadline is past, or no wait helps.
 *
 * Each look has memory of its own: a wait may take hours.
 */
static bool
wait_until_shown(Oid view, Question *question, TimestampTz deadline)
{
	MemoryContext look = AllocSetContextCreate(CurrentMemoryContext, "cqrs token look", ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(look);
	bool		noted = cqrs_waiting_begin();
	bool		waited = false;
	bool		answer;

	for (;;)
	{
		uint64		progress = cqrs_shared_progress();
		bool		stuck;
		long		left;

		answer = shown(view, question, &stuck);
		left = cqrs_clock_until(deadline);
		if (answer || stuck || left <= 0)
			break;
		cqrs_shared_wait_progress(progress, nap_length(question, left));
		waited = true;
		MemoryContextReset(look);
	}
	if (noted)
		cqrs_waiting_end();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(look);
	if (answer && waited && IsolationUsesXactSnapshot())
		ereport(WARNING,
				(errmsg("projection \"%s\" has caught up, but this transaction cannot see it", cqrs_name_shown(view)),
				 errdetail("In REPEATABLE READ and SERIALIZABLE, what is applied after a transaction began to read is not visible in it."),
				 errhint("Wait in a transaction of its own, or in READ COMMITTED.")));
	return answer;
}

/*
 * cqrs.token() RETURNS xid8
 *
 * Returns the id of the current transaction, drawn if need be.  Errors: 25006 on a standby, which gives out none.
 */
Datum
cqrs_token(PG_FUNCTION_ARGS)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot take a token during recovery"),
				 errdetail("A standby gives out no transaction ids."),
				 errhint("Take the token where the command ran, and wait for it here.")));
	PG_RETURN_FULLTRANSACTIONID(GetTopFullTransactionId());
}

/*
 * cqrs.caught_up(projection regclass, token xid8) RETURNS boolean
 *
 * Tells whether the serving view shows now all that the token covers.  Errors: 42809 where the relation is no projection, and as check_token.
 */
Datum
cqrs_caught_up(PG_FUNCTION_ARGS)
{
	Question	question = {.token = PG_GETARG_FULLTRANSACTIONID(1), .context = CurrentMemoryContext};
	bool		stuck;

	PG_RETURN_BOOL(shown(PG_GETARG_OID(0), &question, &stuck));
}

/*
 * cqrs.wait_for(projection regclass, token xid8, timeout interval DEFAULT '5 s') RETURNS boolean
 *
 * Waits until the serving view shows all that the token covers; false at the timeout, and at once where nothing can arrive.  Errors: as
 * cqrs.caught_up, and 22023 for a negative timeout.
 */
Datum
cqrs_wait_for(PG_FUNCTION_ARGS)
{
	Question	question = {.token = PG_GETARG_FULLTRANSACTIONID(1), .context = CurrentMemoryContext};
	TimestampTz deadline = cqrs_clock_deadline(PG_GETARG_INTERVAL_P(2));

	PG_RETURN_BOOL(wait_until_shown(PG_GETARG_OID(0), &question, deadline));
}
