/*
 * apply/group.c
 *		A batch: the versions of a group, at one snapshot, in one transaction, lower ones first.
 *
 * Versions that read projections are applied together with those that serve them: what the lower ones' statements change in their tables is the upper ones'
 * delta, and all have one checkpoint.  So what reads several of them sees one state of the sources.  A version that reads no projection, and is read by
 * none, is a group of one.
 *
 * A version that stands still (paused, halted, failing until its next try, not filled) takes no part, and neither do those that read it: they stay exact at
 * their old checkpoint, and go on from there.  Those below it go on without it; it has missed their deltas by then, which it will find by its checkpoint
 * not being theirs, and is evaluated anew.  One that fails in the batch is undone alone, by a subtransaction, and treated likewise.
 *
 * Memory is CurrentMemoryContext's; feeds, temporary files and all, are freed at the end.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/parts.h"
#include "base/attempt.h"
#include "base/blame.h"
#include "base/clock.h"
#include "base/names.h"
#include "shared/shared.h"
#include "utils/snapmgr.h"

/* Chunks that concern others may pile up between checkpoint and snapshot before moving the checkpoint is cheaper than passing over them. */
#define PASSED_OVER_LIMIT 64

typedef struct GroupBatch
{
	CqrsBatch  *batch;
	List	   *members;		/* of CqrsMember *, by id */
	CqrsMember *asked;			/* the first one that the batch is for */
	bool		below;			/* without itself: for its fill */
} GroupBatch;

/* One member's turn, for cqrs_attempt. */
typedef struct Turn
{
	GroupBatch	   *group;
	CqrsMember *member;
	bool		busy;			/* out, of locking */
} Turn;

/*
 * find_member finds a version's member, or NULL.
 */
static CqrsMember *
find_member(const GroupBatch *group, int32 version)
{
	ListCell   *cell;

	foreach(cell, group->members)
	{
		CqrsMember *member = lfirst(cell);

		if (member->version != NULL && member->version->id == version)
			return member;
	}
	return NULL;
}

/*
 * find_lowers finds the members that a member reads; false if one is missing, because nothing serves the projection.
 */
static bool
find_lowers(const GroupBatch *group, CqrsMember *member)
{
	List	   *reads = cqrs_read_list(member->version->id);
	ListCell   *cell;

	foreach(cell, cqrs_version_lowers(member->version))
	{
		CqrsMember *lower = find_member(group, ((CqrsVersion *) lfirst(cell))->id);

		if (lower != NULL)
			member->lowers = lappend(member->lowers, lower);
	}
	return list_length(member->lowers) == list_length(reads);
}

/*
 * is_ready tells whether a version by itself can be applied to.
 *
 * One that is failing waits for its next try, unless it is the one asked for, or somebody waits for the outcome.
 */
static bool
is_ready(const GroupBatch *group, const CqrsMember *member)
{
	const CqrsVersion *version = member->version;

	return version != NULL && version->state != CQRS_STATE_RETIRED && version->status != CQRS_STATUS_HALTED &&
		member->checkpoint != NULL && !cqrs_projection_get(version->projection, false)->paused &&
		(version->retry_at <= cqrs_clock_now() || member->asked || group->batch->wait);
}

/*
 * hold_back takes out of the batch, level by level, who reads what takes no part.
 */
static void
hold_back(GroupBatch *group)
{
	bool		changed;
	ListCell   *cell;
	ListCell   *inner;

	do
	{
		changed = false;
		foreach(cell, group->members)
		{
			CqrsMember *member = lfirst(cell);

			foreach(inner, member->lowers)
			{
				if (!member->ready || ((CqrsMember *) lfirst(inner))->ready)
					continue;
				member->ready = false;
				changed = true;
			}
		}
	} while (changed);
}

/*
 * add_members reads the versions of the group, which are locked, and finds out who takes part.
 */
static void
add_members(GroupBatch *group, List *asked)
{
	ListCell   *cell;

	foreach(cell, cqrs_groups_members(asked))
	{
		CqrsMember *member = palloc0(sizeof(CqrsMember));

		member->version = cqrs_version_get(lfirst_int(cell), true);
		if (member->version != NULL)
			member->checkpoint = cqrs_checkpoint_latest(member->version->id);
		member->asked = list_member_int(asked, lfirst_int(cell));
		if (lfirst_int(cell) == linitial_int(asked))
			group->asked = member;
		group->members = lappend(group->members, member);
	}
	foreach(cell, group->members)
	{
		CqrsMember *member = lfirst(cell);

		member->ready = is_ready(group, member) && find_lowers(group, member);
	}
	hold_back(group);
}

/*
 * lock_member takes the locks that a member needs before the snapshot.
 */
static void
lock_member(void *argument)
{
	Turn	   *turn = argument;

	turn->busy = !cqrs_apply_lock(turn->member->version, turn->group->batch->wait, &turn->member->locked);
}

/*
 * apply_member applies a member's window, and keeps what that changes in its table for those that read it.
 */
static void
apply_member(void *argument)
{
	Turn	   *turn = argument;

	cqrs_feed_open(turn->member->feed);
	PG_TRY();
	{
		cqrs_member_apply(turn->member, turn->group->batch);
	}
	PG_FINALLY();
	{
		cqrs_feed_close();
	}
	PG_END_TRY();
}

/*
 * note_companion notes what became of a member that is not the one asked for.
 */
static void
note_companion(GroupBatch *group, const CqrsMember *member, ErrorData *error)
{
	CqrsCompanion *companion = palloc(sizeof(CqrsCompanion));

	companion->version = member->version->id;
	companion->full = member->full;
	companion->error = error;
	group->batch->companions = lappend(group->batch->companions, companion);
}

/*
 * take_turn does a member's work; what goes wrong with one that is not asked for is undone alone, and takes it out of the batch with those that read it.
 */
static void
take_turn(Turn *turn, void (*work) (void *))
{
	ErrorData  *error;

	if (turn->member->asked)
	{
		work(turn);
		return;
	}
	error = cqrs_attempt(work, turn, true);
	if (error == NULL)
		return;
	if (cqrs_blame(error) == CQRS_BLAME_OTHERS)
		ReThrowError(error);
	note_companion(turn->group, turn->member, error);
	turn->member->done = false;
	turn->member->ready = false;
	hold_back(turn->group);
}

/*
 * lock_members takes the locks of all who take part; false if one cannot be had at once.
 */
static bool
lock_members(GroupBatch *group)
{
	ListCell   *cell;

	foreach(cell, group->members)
	{
		Turn		turn = {.group = group,.member = lfirst(cell)};

		if (turn.member->ready)
			take_turn(&turn, lock_member);
		if (turn.busy)
			return false;
	}
	return true;
}

/*
 * prepare_feeds has those feed their readers that are read in this batch; false if a lock for that cannot be had at once.
 */
static bool
prepare_feeds(GroupBatch *group)
{
	ListCell   *cell;
	ListCell   *inner;

	foreach(cell, group->members)
	{
		CqrsMember *member = lfirst(cell);

		foreach(inner, member->lowers)
			((CqrsMember *) lfirst(inner))->read |= member->ready;
	}
	foreach(cell, group->members)
	{
		CqrsMember *member = lfirst(cell);

		if (!member->ready || !member->read)
			continue;
		if (!cqrs_feed_ensure(member->version->table, group->batch->wait))
			return false;
		member->feed = cqrs_feed_make(member->version->table);
	}
	return true;
}

/*
 * next_member returns a member whose turn it is: all that it reads is done.  NULL if there is none left.
 */
static CqrsMember *
next_member(const GroupBatch *group, List *had)
{
	ListCell   *cell;
	ListCell   *inner;

	foreach(cell, group->members)
	{
		CqrsMember *member = lfirst(cell);
		bool		next = member->ready && !list_member_ptr(had, member);

		foreach(inner, member->lowers)
			next = next && ((CqrsMember *) lfirst(inner))->done;
		if (next)
			return member;
	}
	return NULL;
}

/*
 * apply_members has all take their turn, in the order of who reads whom.
 */
static void
apply_members(GroupBatch *group)
{
	Turn		turn = {.group = group};
	List	   *had = NIL;

	while ((turn.member = next_member(group, had)) != NULL)
	{
		had = lappend(had, turn.member);
		take_turn(&turn, apply_member);
	}
}

/*
 * is_to_move tells whether the checkpoints are to move on: something was applied, or is not to be looked at again, or segments wait for it.
 */
static bool
is_to_move(const GroupBatch *group)
{
	ListCell   *cell;

	if (group->below)
		return true;
	foreach(cell, group->members)
	{
		const CqrsMember *member = lfirst(cell);

		if (member->done && (member->full || member->window.changes > 0 || member->window.lets_go ||
							 member->window.passed_over >= PASSED_OVER_LIMIT))
			return true;
	}
	return false;
}

/*
 * move_on sets the checkpoints of all that are done: the same one, so that anybody can tell that they belong together.
 */
static void
move_on(GroupBatch *group, TimestampTz as_of)
{
	CqrsSnapshot *snapshot = cqrs_window_checkpoint(group->batch->snapshot);
	ListCell   *cell;

	foreach(cell, group->members)
	{
		CqrsMember *member = lfirst(cell);
		bool		anew = member->done && (member->window.position > 0 || !member->checkpoint->ours);

		if (member->done)
			cqrs_checkpoint_insert(member->version->id, snapshot,
								   anew ? member->window.position : member->checkpoint->position, as_of, &member->effort);
	}
	cqrs_shared_announce_at_commit();
	if (group->batch->wait)
		cqrs_shared_ask_upkeep_at_commit();
	group->batch->moved = true;
}

/*
 * outcome_of finds out what came of those that the batch is for: for a fill, of those that the version reads.
 */
static CqrsOutcome
outcome_of(const GroupBatch *group)
{
	bool		done = true;
	bool		ready = !group->below;
	ListCell   *cell;

	if (group->below)
		foreach(cell, group->asked->lowers)
			done = done && ((CqrsMember *) lfirst(cell))->done;
	foreach(cell, group->members)
	{
		const CqrsMember *member = lfirst(cell);

		if (group->below || !member->asked)
			continue;
		done = done && member->done;
		ready = ready && member->ready;
	}
	return done ? CQRS_APPLIED : ready ? CQRS_BUSY : CQRS_NOT_READY;
}

/*
 * report tells the caller what came of it.
 */
static void
report(GroupBatch *group)
{
	CqrsBatch  *batch = group->batch;
	ListCell   *cell;

	foreach(cell, group->members)
	{
		CqrsMember *member = lfirst(cell);

		if (member->feed != NULL)
			tuplestore_end(member->feed->rows);
		if (member->asked)
			batch->locked = list_concat(batch->locked, member->locked);
		if (!member->done)
			continue;
		batch->changes += member->window.changes;
		if (!member->asked)
			note_companion(group, member, NULL);
	}
	batch->full = group->asked->full;
	batch->outcome = outcome_of(group);
}

/*
 * run applies the group's windows, once its versions are locked.
 */
static void
run(GroupBatch *group)
{
	CqrsBatch  *batch = group->batch;
	TimestampTz as_of;
	ListCell   *cell;

	if (!lock_members(group))
		return;
	foreach(cell, group->members)
		if (((CqrsMember *) lfirst(cell))->ready)
			cqrs_member_prepare(lfirst(cell));
	if (!prepare_feeds(group))
		return;
	as_of = cqrs_clock_now();
	batch->snapshot = cqrs_apply_snapshot();
	apply_members(group);
	if (is_to_move(group))
		move_on(group, as_of);
	report(group);
	if (batch->outcome != CQRS_APPLIED)
	{
		UnregisterSnapshot(batch->snapshot);
		batch->snapshot = NULL;
	}
}

/*
 * begin locks the group and finds out whether it has work; 'below' is for the fill of a version, which takes no part itself.
 */
static void
begin(int32 id, CqrsBatch *batch, bool below)
{
	GroupBatch	group = {.batch = batch,.below = below};
	List	   *asked = list_concat(list_make1_int(id), batch->with);
	bool		can = true;
	ListCell   *cell;

	batch->outcome = CQRS_BUSY;
	batch->changes = 0;
	batch->full = false;
	batch->moved = false;
	batch->snapshot = NULL;
	batch->locked = NIL;
	batch->companions = NIL;
	if (!cqrs_groups_lock(asked, !batch->wait))
		return;
	add_members(&group, asked);
	if (below)
	{
		can = group.asked->version != NULL && find_lowers(&group, group.asked);
		foreach(cell, group.asked->lowers)
			can = can && ((CqrsMember *) lfirst(cell))->ready;
	}
	else
		foreach(cell, group.members)
			can = can && (((CqrsMember *) lfirst(cell))->ready || !((CqrsMember *) lfirst(cell))->asked);
	if (can)
		run(&group);
	else
		batch->outcome = CQRS_NOT_READY;
}

/*
 * cqrs_apply_batch applies the window of one version, and of those connected with it.
 */
void
cqrs_apply_batch(int32 id, CqrsBatch *batch)
{
	begin(id, batch, false);
}

/*
 * cqrs_apply_below brings what a version reads to one snapshot, for its fill.
 */
void
cqrs_apply_below(int32 id, CqrsBatch *batch)
{
	begin(id, batch, true);
}

/*
 * cqrs_apply_raise_companion raises the first error of versions that were to be applied together.
 */
void
cqrs_apply_raise_companion(const CqrsBatch *batch)
{
	ListCell   *cell;

	foreach(cell, batch->companions)
		if (((CqrsCompanion *) lfirst(cell))->error != NULL)
			ReThrowError(((CqrsCompanion *) lfirst(cell))->error);
}

/*
 * cqrs_apply_distrust_readers makes those stale that read a version's table.
 */
void
cqrs_apply_distrust_readers(const CqrsVersion *version, const char *reason)
{
	const CqrsVersion *serving = cqrs_version_serving(version->projection);
	ListCell   *cell;

	if (serving == NULL || serving->id != version->id)
		return;
	foreach(cell, cqrs_projection_readers(version->projection))
		if (cqrs_checkpoint_latest(((CqrsVersion *) lfirst(cell))->id) != NULL)
			cqrs_version_distrust(lfirst(cell), reason);
}
