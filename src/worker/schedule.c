/*
 * worker/schedule.c
 *		A worker's round: which versions are due, and when to look again.
 *
 * What is to be done is in the registry, which is read anew each round; what to wait for, and how often we have, is in memory of our own.
 * Versions that serve come first, then those being built; what is verified by schedule comes last.  Leaves the work itself to work.c and verify.c.
 */
#include "postgres.h"

#include "base/blame.h"
#include "base/clock.h"
#include "capture/capture.h"
#include "settings/settings.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/parts.h"

#define BUSY_INITIAL_MS		50	/* until we ask again for what another process has just now */
#define BUSY_MAX_MS			1000

/* What we remember of a version between rounds. */
typedef struct Memory
{
	int32		version;		/* key */
	bool		seen;			/* in the round at hand */
	int			tries;			/* in a row that somebody was in the way of */
	TimestampTz in_the_way;		/* since when locks could not be had; 0: they could */
	TimestampTz until;			/* not to be tried before */
	int			mend_tries;		/* in a row that could not capture its sources again */
	TimestampTz mend_at;		/* not to be tried before */
	TimestampTz verify_at;		/* not to be verified before, because it was tried; 0: as the registry says */
	double		share;			/* of its keys that can be verified in time; 0: not known to be less than all */
	int			life_tries;		/* in a row that could not have it serve, or retire it */
	TimestampTz life_at;		/* not to be tried before */
} Memory;

static List *tasks = NIL;		/* of CqrsTask *, of the round at hand */
static HTAB *memories = NULL;
static TimestampTz tidy_at = 0;
static bool moved = false;		/* what holds segments back, in the round at hand */

/*
 * remember returns what we know of a version, nothing at first.
 */
static Memory *
remember(int32 version)
{
	Memory	   *memory;
	bool		found;

	if (memories == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(int32),.entrysize = sizeof(Memory),.hcxt = cqrs_worker_memory};

		memories = hash_create("cqrs versions", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	memory = hash_search(memories, &version, HASH_ENTER, &found);
	if (!found)
	{
		memset(memory, 0, sizeof(Memory));
		memory->version = version;
	}
	return memory;
}

/*
 * forget_dropped forgets versions that the round at hand has not seen; sources of theirs may be left to let go of.
 */
static void
forget_dropped(void)
{
	HASH_SEQ_STATUS scan;
	Memory	   *memory;

	if (memories == NULL)
		return;
	hash_seq_init(&scan, memories);
	while ((memory = hash_seq_search(&scan)) != NULL)
	{
		if (memory->seen)
		{
			memory->seen = false;
			continue;
		}
		tidy_at = 0;
		moved = true;
		(void) hash_search(memories, &memory->version, HASH_REMOVE, NULL);
	}
}

/*
 * verified_at returns when a version was verified last, or since when it is what it is.
 */
static TimestampTz
verified_at(const CqrsVersion *version)
{
	CqrsVerification *last = cqrs_setting_verify_interval > 0 ? cqrs_verification_get(version->id) : NULL;

	return last ? last->at : version->state_since;
}

/*
 * work_read reads from the registry what versions there are.
 */
static bool
work_read(CqrsTask *task)
{
	ListCell   *projection_cell;

	MemoryContextSwitchTo(cqrs_worker_turn);
	foreach(projection_cell, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(projection_cell);
		ListCell   *cell;

		foreach(cell, cqrs_version_list(projection->id))
		{
			CqrsTask   *found = palloc0(sizeof(CqrsTask));

			found->version = lfirst(cell);
			found->view = projection->view;
			found->paused = projection->paused;
			found->verified_at = verified_at(found->version);
			remember(found->version->id)->seen = true;
			tasks = lappend(tasks, found);
		}
	}
	return true;
}

/*
 * read_tasks fills in the tasks; false if somebody was in the way, with 'again' telling when to try again: a restore may take hours.  Another error ends this
 * process: without the registry there is nothing to do.
 */
static bool
read_tasks(TimestampTz *again)
{
	static const CqrsStep step = {.work = work_read,.activity = "cqrs: look for work"};
	ErrorData  *error;
	CqrsStepResult result;

	tasks = NIL;
	result = cqrs_worker_step(NULL, &step, &error);
	if (result == CQRS_STEP_FAILED && cqrs_blame(error) != CQRS_BLAME_OTHERS)
		ReThrowError(error);
	*again = TimestampTzPlusMilliseconds(cqrs_clock_now(), result == CQRS_STEP_BUSY ? Min(BUSY_MAX_MS, cqrs_setting_naptime) :
										 BUSY_INITIAL_MS);
	if (result != CQRS_STEP_DONE)
		return false;
	forget_dropped();
	return true;
}

/*
 * wait_a_moment has a version tried again soon, and less and less soon.
 */
static TimestampTz
wait_a_moment(Memory *memory, int initial, int max)
{
	memory->tries++;
	memory->until = cqrs_clock_backoff(memory->tries, initial, max);
	return memory->until;
}

/*
 * after_failure decides what becomes of a version whose step failed; returns when to try again.
 *
 * That others hold a lock is no failure until it has lasted for cqrs.lock_timeout.  If not even the failure can be noted, only we know of it.
 */
static TimestampTz
after_failure(CqrsTask *task, Memory *memory)
{
	TimestampTz now = cqrs_clock_now();

	if (cqrs_blame(task->error) == CQRS_BLAME_OTHERS)
	{
		if (memory->in_the_way == 0)
			memory->in_the_way = now;
		if (!TimestampDifferenceExceeds(memory->in_the_way, now, cqrs_setting_lock_timeout))
			return wait_a_moment(memory, BUSY_INITIAL_MS, BUSY_MAX_MS);
	}
	switch (cqrs_worker_note_failure(task))
	{
		case CQRS_STEP_BUSY:
			return wait_a_moment(memory, BUSY_INITIAL_MS, BUSY_MAX_MS);
		case CQRS_STEP_FAILED:
			ereport(WARNING,
					(errcode(task->error->sqlerrcode),
					 errmsg("could not record that version %d of projection \"%s\" failed: %s", task->version->number,
							task->name ? task->name : "", task->error->message),
					 errdetail_internal("%s", task->failure->message)));
			return wait_a_moment(memory, cqrs_setting_retry_initial, cqrs_setting_retry_max);
		default:
			return task->retry_at != 0 ? task->retry_at : DT_NOEND;
	}
}

/*
 * after_full looks, after a batch that was a full evaluation, whether its sources have to be captured again; returns when to look again.
 *
 * A full evaluation is rare, and tells of broken triggers where there are any; other batches need not look.
 */
static TimestampTz
after_full(CqrsTask *task, Memory *memory)
{
	if (memory->mend_at > cqrs_clock_now())
		return memory->mend_at;
	if (cqrs_worker_mend(task) != CQRS_STEP_DONE)
	{
		memory->mend_tries++;
		memory->mend_at = cqrs_clock_backoff(memory->mend_tries, cqrs_setting_retry_initial, cqrs_setting_retry_max);
		return memory->mend_at;
	}
	memory->mend_tries = 0;
	memory->mend_at = 0;
	return task->mended ? cqrs_clock_now() : DT_NOEND;
}

/*
 * task_of returns the task of a version in the round at hand, or NULL.
 */
static CqrsTask *
task_of(int32 version)
{
	ListCell   *cell;

	foreach(cell, tasks)
		if (((CqrsTask *) lfirst(cell))->version->id == version)
			return lfirst(cell);
	return NULL;
}

/*
 * after_companions looks after the versions that were applied, or failed, together with the task's; returns when to look at one of them again.
 *
 * One that is being built is not done with that: it has come so far before, and somebody was in the way of the rest.
 */
static TimestampTz
after_companions(const CqrsTask *task)
{
	TimestampTz next = DT_NOEND;
	ListCell   *cell;

	foreach(cell, task->batch.companions)
	{
		CqrsCompanion *companion = lfirst(cell);
		CqrsTask   *other = task_of(companion->version);
		TimestampTz again = DT_NOEND;

		if (other == NULL)
			continue;
		other->attended = other->version->state != CQRS_STATE_BUILDING || companion->error != NULL;
		other->error = companion->error;
		if (companion->error != NULL)
			again = after_failure(other, remember(companion->version));
		else if (companion->full)
			again = after_full(other, remember(companion->version));
		next = Min(next, again);
	}
	return next;
}

/*
 * lives_on has a version serve, or retires it, if it is time; returns when to look again (DT_NOEND: nothing is to be done).
 *
 * What others are in the way of is tried again and again: the version goes on as it is meanwhile.
 */
static TimestampTz
lives_on(CqrsTask *task, Memory *memory)
{
	const CqrsVersion *version = task->version;
	bool		rebuilt = version->state == CQRS_STATE_SHADOW && version->rebuild != CQRS_REBUILD_NONE;
	bool		retires = version->state == CQRS_STATE_STANDBY && version->retire_at != 0;
	TimestampTz due = Max(memory->life_at, retires ? version->retire_at : 0);
	CqrsStepResult result;

	if (!rebuilt && !retires)
		return DT_NOEND;
	if (due > cqrs_clock_now())
		return due;
	if (version->status != CQRS_STATUS_RUNNING)
		return TimestampTzPlusMilliseconds(cqrs_clock_now(), BUSY_INITIAL_MS);	/* what it is by now, the next round will see */
	result = rebuilt ? cqrs_worker_rebuild(task) : cqrs_worker_retire(task);
	if (result == CQRS_STEP_DONE)
	{
		memory->life_tries = 0;
		memory->life_at = 0;
		return cqrs_clock_now();
	}
	if (result == CQRS_STEP_FAILED)
		ereport(WARNING,
				(errcode(task->error->sqlerrcode),
				 errmsg("version %d of projection \"%s\" could not be %s and is tried again: %s", version->number, task->name,
						rebuilt ? "switched to" : "retired", task->error->message),
				 task->error->detail ? errdetail_internal("%s", task->error->detail) : 0));
	memory->life_at = result == CQRS_STEP_FAILED ?
		cqrs_clock_backoff(++memory->life_tries, cqrs_setting_retry_initial, cqrs_setting_retry_max) :
		cqrs_clock_backoff(++memory->life_tries, BUSY_INITIAL_MS, BUSY_MAX_MS);
	return memory->life_at;
}

/*
 * attend does what is due for one version; returns when to look at it again (DT_NOEND: when woken).
 */
static TimestampTz
attend(CqrsTask *task)
{
	const CqrsVersion *version = task->version;
	Memory	   *memory = remember(version->id);
	TimestampTz until = Max(version->retry_at, memory->until);
	bool		building = version->state == CQRS_STATE_BUILDING;
	CqrsStepResult result;
	TimestampTz next;

	if (task->paused || version->state == CQRS_STATE_RETIRED || version->status == CQRS_STATUS_HALTED)
		return DT_NOEND;
	if (until > cqrs_clock_now())
		return until;
	result = building ? cqrs_worker_build(task) : cqrs_worker_apply(task);
	if (result == CQRS_STEP_FAILED)
		return after_failure(task, memory);
	memory->in_the_way = 0;
	if (result == CQRS_STEP_BUSY)
		return wait_a_moment(memory, BUSY_INITIAL_MS, BUSY_MAX_MS);
	memory->tries = 0;
	memory->until = 0;
	moved |= building || task->batch.moved;
	if (building)
		return cqrs_clock_now();	/* what was served just now is maintained from now on */
	until = after_companions(task);
	next = lives_on(task, memory);
	until = Min(until, next);
	next = task->batch.full ? after_full(task, memory) : DT_NOEND;
	return Min(until, next);
}

/*
 * verify_due returns when a version is to be verified: DT_NOEND for one that is not, just now.
 */
static TimestampTz
verify_due(const CqrsTask *task)
{
	const CqrsVersion *version = task->version;
	TimestampTz due = TimestampTzPlusMilliseconds(task->verified_at, (int64) cqrs_setting_verify_interval * 1000);

	if (task->paused || version->status != CQRS_STATUS_RUNNING || version->state == CQRS_STATE_BUILDING ||
		version->state == CQRS_STATE_RETIRED || cqrs_version_is_events(version))
		return DT_NOEND;
	return Max(due, remember(version->id)->verify_at);
}

/*
 * verify_one verifies the version that has waited for it longest, if it is time; returns when to look again.
 */
static TimestampTz
verify_one(void)
{
	TimestampTz first = DT_NOEND;
	CqrsTask   *task = NULL;
	Memory	   *memory;
	bool		busy;
	ListCell   *cell;

	if (cqrs_setting_verify_interval == 0)
		return DT_NOEND;
	foreach(cell, tasks)
	{
		TimestampTz due = verify_due(lfirst(cell));

		if (due >= first)
			continue;
		first = due;
		task = lfirst(cell);
	}
	if (first > cqrs_clock_now())
		return first;
	memory = remember(task->version->id);
	if (memory->share == 0 || memory->share > cqrs_setting_verify_sample)
		memory->share = cqrs_setting_verify_sample;
	busy = cqrs_worker_verify(task, &memory->share) == CQRS_STEP_BUSY;
	memory->verify_at = TimestampTzPlusMilliseconds(cqrs_clock_now(),
													busy ? BUSY_MAX_MS : (int64) cqrs_setting_verify_interval * 1000);
	return cqrs_clock_now();
}

/*
 * work_tidy lets go of sources that nobody reads any more.
 */
static bool
work_tidy(CqrsTask *task)
{
	return !cqrs_capture_tidy();
}

/*
 * tidy lets go of sources after something was dropped, and looks for what could not be had then every cqrs.naptime.
 */
static void
tidy(void)
{
	static const CqrsStep step = {.work = work_tidy,.activity = "cqrs: let go of sources"};
	ErrorData  *error;

	if (tidy_at > cqrs_clock_now())
		return;
	if (cqrs_worker_step(NULL, &step, &error) == CQRS_STEP_FAILED)
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("cqrs could not let go of sources and will try again: %s", error->message)));
	tidy_at = TimestampTzPlusMilliseconds(cqrs_clock_now(), cqrs_setting_naptime);
}

/*
 * cqrs_worker_round looks at every version once.
 */
TimestampTz
cqrs_worker_round(void)
{
	TimestampTz next;
	TimestampTz upkeep;
	ListCell   *cell;

	moved = false;
	if (!read_tasks(&next))
		return next;
	next = TimestampTzPlusMilliseconds(cqrs_clock_now(), cqrs_setting_naptime);
	for (int building = 0; building <= 1; building++)
	{
		foreach(cell, tasks)
		{
			CqrsTask   *task = lfirst(cell);
			TimestampTz again;

			if ((task->version->state == CQRS_STATE_BUILDING) != (building == 1) || task->error != NULL)
				continue;
			again = task->attended ? lives_on(task, remember(task->version->id)) : attend(task);
			next = Min(next, again);
		}
	}
	tidy();
	upkeep = cqrs_worker_maintain(moved);
	next = Min(next, upkeep);
	if (next > cqrs_clock_now())
	{
		TimestampTz due = verify_one();

		next = Min(next, due);
	}
	return next;
}
