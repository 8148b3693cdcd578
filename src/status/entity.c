/*
 * status/entity.c
 *		cqrs.entity_lag: how far behind a projection is for one key.
 */
#include "postgres.h"

#include "apply/apply.h"
#include "base/names.h"
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
 * look finds out what concerns the key, unless the version cannot tell; false if it cannot.
 */
static bool
look(const CqrsVersion *version, CqrsEntity *entity)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		can = !cqrs_version_is_events(version) && cqrs_read_list(version->id) == NIL;
	CqrsCheckpoint *trusted = can ? cqrs_token_checkpoint(version) : NULL;

	if (trusted != NULL)
		cqrs_apply_look_for(version, trusted->snapshot, snapshot, entity);
	UnregisterSnapshot(snapshot);
	return trusted != NULL;
}

/*
 * cqrs.entity_lag(projection regclass, key jsonb) RETURNS (command_version bigint, query_version bigint, pending bigint, lag interval, status text)
 *
 * Tells how many of the changes that the serving version has not applied concern a key, counted up to 10,000 changes, and how long the oldest of them has
 * waited; null where the version cannot tell.  The versions are those of the aggregate that the key is the id of; null where it is none.
 *
 * Errors: 42809 not a projection; 42501 no right to read it, or not its owner where it hides rows; 22023 a key that is none.
 */
Datum
cqrs_entity_lag(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = cqrs_projection_argument(PG_GETARG_OID(0));
	CqrsVersion *version = cqrs_version_serving(projection->id);
	CqrsEntity	entity = {.limit = PENDING_LIMIT};
	Datum		values[5] = {0};
	bool		nulls[5];

	check_reader(projection);
	memset(nulls, true, sizeof(nulls));
	if (version != NULL)
	{
		Interval	lag;

		entity.values = palloc0(sizeof(Datum) * Max(version->nkeys, 1));
		entity.nulls = palloc0(sizeof(bool) * Max(version->nkeys, 1));
		cqrs_verify_read_key(version, PG_GETARG_JSONB_P(1), entity.values, entity.nulls);
		nulls[2] = nulls[3] = !look(version, &entity);
		lag = cqrs_status_lag_since(entity.oldest);
		values[2] = Int64GetDatum(entity.changes);
		values[3] = IntervalPGetDatum(&lag);
		values[4] = CStringGetTextDatum(cqrs_status_shown(version));
		nulls[4] = false;
	}
	return cqrs_status_row(fcinfo, values, nulls);
}
