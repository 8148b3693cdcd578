/*
 * status/entity.c
 *		cqrs.entity_lag: how far behind a projection is for one key.
 */
#include "postgres.h"

#include "apply/apply.h"
#include "base/names.h"
#include "command/command.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "status/measure.h"
#include "token/token.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "verify/verify.h"

PG_FUNCTION_INFO_V1(cqrs_entity_lag);

#define PENDING_LIMIT	10000	/* looking further costs more than it tells */

/* What there is to say of a key. */
typedef struct Answer
{
	CqrsEntity	entity;
	bool		aggregate;		/* it is the id of one */
	int64		command_version;	/* that aggregate's */
	int64		query_version;	/* that up to which the read model shows it; -1: not known */
} Answer;

/*
 * check_reader lets pass who may read the projection; where it hides rows, its owner alone, for what is pending tells that there is a row.
 */
static void
check_reader(const CqrsProjection *projection)
{
	if (pg_class_aclcheck(projection->view, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(projection->view, GetUserId(), ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, get_rel_name(projection->view));
	if (projection->row_filter != NULL)
		cqrs_projection_check_owner(projection);
}

/*
 * id_of makes the id that an aggregate with the key would have; NULL if it can have none.
 */
static char *
id_of(const CqrsVersion *version, const CqrsEntity *entity)
{
	List	   *texts = NIL;

	for (int i = 0; i < version->nkeys; i++)
	{
		Oid			output;
		bool		varlena;

		if (entity->nulls[i])
			return NULL;
		getTypeOutputInfo(get_atttype(version->table, version->key[i]), &output, &varlena);
		texts = lappend(texts, OidOutputFunctionCall(output, entity->values[i]));
	}
	return texts != NIL ? cqrs_events_id(texts) : NULL;
}

/*
 * look_at_events finds out what concerns the key of a version that handlers define, and the versions of its aggregate, if there is one with that id and no
 * other.  False if it cannot tell what concerns it.
 */
static bool
look_at_events(const CqrsVersion *version, const CqrsCheckpoint *checkpoint, Snapshot snapshot, Answer *answer)
{
	CqrsAggregates aggregates = {.id = id_of(version, &answer->entity),.entity = &answer->entity};
	int			count = 0;
	ListCell   *cell;

	if (aggregates.id == NULL || !cqrs_events_look_for(version, checkpoint, snapshot, &aggregates))
		return false;
	foreach(cell, aggregates.list)
	{
		const CqrsAggregate *aggregate = lfirst(cell);
		int64		there = cqrs_aggregate_version(cstring_to_text(aggregate->type), cstring_to_text(aggregates.id), snapshot);

		if (there == 0)
			continue;
		answer->aggregate = ++count == 1;
		answer->command_version = there;
		answer->query_version = aggregate->first ? Min(aggregate->first - 1, there) : aggregates.cut ? -1 : there;
	}
	return true;
}

/*
 * look finds out what concerns the key, unless the version cannot tell; false if it cannot.
 *
 * What this transaction has done counts for nothing before it commits.
 */
static bool
look(const CqrsVersion *version, Answer *answer)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CqrsCheckpoint *trusted = cqrs_read_list(version->id) == NIL ? cqrs_token_checkpoint(version) : NULL;
	bool		can = trusted != NULL;

	snapshot->curcid = FirstCommandId;
	if (can && cqrs_version_is_events(version))
		can = look_at_events(version, trusted, snapshot, answer);
	else if (can)
		cqrs_apply_look_for(version, trusted->snapshot, snapshot, &answer->entity);
	UnregisterSnapshot(snapshot);
	return can;
}

/*
 * cqrs.entity_lag(projection regclass, key jsonb) RETURNS (command_version bigint, query_version bigint, pending bigint, lag interval, status text)
 *
 * Tells how many of the changes that the serving version has not applied concern a key, counted up to 10,000 changes, and how long the oldest of them has
 * waited; null where the version cannot tell.  Of a version that handlers define, those that wait as dead letters count, and the versions are those of the
 * aggregate whose id the key is: its own, and that of its last event before the first that is not applied.  Null where no aggregate of the types that
 * handlers took events of has that id, or more than one.
 *
 * Errors: 42809 not a projection; 42501 no right to read it, or not its owner where it hides rows; 22023 a key that is none.
 */
Datum
cqrs_entity_lag(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = cqrs_projection_argument(PG_GETARG_OID(0));
	CqrsVersion *version = cqrs_version_serving(projection->id);
	Answer		answer = {.entity.limit = PENDING_LIMIT};
	Datum		values[5] = {0};
	bool		nulls[5];

	check_reader(projection);
	memset(nulls, true, sizeof(nulls));
	if (version != NULL)
	{
		Interval	lag;

		answer.entity.values = palloc0(sizeof(Datum) * Max(version->nkeys, 1));
		answer.entity.nulls = palloc0(sizeof(bool) * Max(version->nkeys, 1));
		cqrs_verify_read_key(version, PG_GETARG_JSONB_P(1), answer.entity.values, answer.entity.nulls);
		nulls[2] = nulls[3] = !look(version, &answer);
		nulls[0] = !answer.aggregate;
		nulls[1] = !answer.aggregate || answer.query_version < 0;
		values[0] = Int64GetDatum(answer.command_version);
		values[1] = Int64GetDatum(answer.query_version);
		lag = cqrs_status_lag_since(answer.entity.oldest);
		values[2] = Int64GetDatum(answer.entity.changes);
		values[3] = IntervalPGetDatum(&lag);
		values[4] = CStringGetTextDatum(cqrs_status_shown(version));
		nulls[4] = false;
	}
	return cqrs_status_row(fcinfo, values, nulls);
}
