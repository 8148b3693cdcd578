/*
 * projection/explain.c
 *		cqrs.explain: how a projection is maintained, and what its last batches were.
 *
 * Reads only; what there is to say of the query is plan/'s.
 */
#include "postgres.h"

#include "apply/apply.h"
#include "base/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "plan/plan.h"
#include "registry/registry.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(cqrs_explain);

/*
 * window_line says what one batch was.
 */
static char *
window_line(const CqrsCheckpoint *checkpoint)
{
	const CqrsEffort *effort = &checkpoint->effort;

	return psprintf("batch of %s: %s, changes " INT64_FORMAT "%s, rows written " INT64_FORMAT ", %.3f ms",
					timestamptz_to_str(checkpoint->as_of), effort->strategy, effort->changes,
					effort->keys < 0 ? "" : psprintf(", keys " INT64_FORMAT, effort->keys), effort->written,
					effort->microseconds / 1000.0);
}

/*
 * window_lines shows the last batches that had something to do, newest first.
 */
static List *
window_lines(const CqrsVersion *version)
{
	List	   *lines = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_checkpoint_list(version->id))
		if (((CqrsCheckpoint *) lfirst(cell))->effort.strategy != NULL)
			lines = lcons(window_line(lfirst(cell)), lines);
	return lines;
}

/*
 * cqrs.explain(projection regclass) RETURNS SETOF text
 *
 * How the projection is maintained: its strategy and why, what it reads, which indexes would help, every statement, and what its last batches were.
 *
 * Errors: 42809 not a projection, 42501 not its owner.
 */
Datum
cqrs_explain(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = cqrs_projection_argument(PG_GETARG_OID(0));
	CqrsVersion *version = cqrs_version_serving(projection->id);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	CqrsIdentity saved;
	List	   *lines;
	ListCell   *cell;

	cqrs_projection_check_owner(projection);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (version == NULL)
		return (Datum) 0;
	(void) cqrs_apply_become_owner(version, &saved);
	if (cqrs_version_is_events(version))
		lines = cqrs_handlers_explain(version->id);
	else
		lines = cqrs_plan_explain(cqrs_apply_program(version));
	cqrs_identity_leave(&saved);
	lines = list_concat(lines, window_lines(version));
	foreach(cell, lines)
	{
		Datum		value = CStringGetTextDatum(lfirst(cell));
		bool		isnull = false;

		tuplestore_putvalues(result->setResult, result->setDesc, &value, &isnull);
	}
	return (Datum) 0;
}
