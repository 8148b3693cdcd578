/*
 * registry/projections.c
 *		Rows of projections.
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/names.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "registry/rows.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

enum
{
	COL_ID, COL_VIEW, COL_PAUSED, COL_MAX_LAG, COL_ON_ERROR, COL_ROW_FILTER, COL_DESCRIPTION, COL_LAST_VERSION, COL_FORMER,
	COL_COUNT
};

/*
 * read_oids reads an array of OIDs.
 */
static List *
read_oids(Datum array)
{
	Datum	   *elements;
	int			count;
	List	   *oids = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), OIDOID, sizeof(Oid), true, TYPALIGN_INT, &elements, NULL, &count);
	for (int i = 0; i < count; i++)
		oids = lappend_oid(oids, DatumGetObjectId(elements[i]));
	return oids;
}

/*
 * form_oids makes an array of OIDs.
 */
static Datum
form_oids(List *oids)
{
	Datum	   *elements = palloc(sizeof(Datum) * (list_length(oids) + 1));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, oids)
		elements[count++] = ObjectIdGetDatum(lfirst_oid(cell));
	return PointerGetDatum(construct_array(elements, count, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

/*
 * read_projection makes a CqrsProjection of a row.
 */
static void *
read_projection(const Datum *values, const bool *nulls)
{
	CqrsProjection *projection = palloc0(sizeof(CqrsProjection));

	projection->id = DatumGetInt32(values[COL_ID]);
	projection->view = DatumGetObjectId(values[COL_VIEW]);
	projection->paused = DatumGetBool(values[COL_PAUSED]);
	if (!nulls[COL_MAX_LAG])
	{
		projection->max_lag = palloc(sizeof(Interval));
		*projection->max_lag = *DatumGetIntervalP(values[COL_MAX_LAG]);
	}
	projection->on_error = cqrs_rows_string(values, nulls, COL_ON_ERROR);
	projection->row_filter = cqrs_rows_string(values, nulls, COL_ROW_FILTER);
	projection->description = cqrs_rows_string(values, nulls, COL_DESCRIPTION);
	projection->last_version = DatumGetInt32(values[COL_LAST_VERSION]);
	projection->former = read_oids(values[COL_FORMER]);
	return projection;
}

/*
 * form_projection makes the row of a CqrsProjection.
 */
static void
form_projection(const CqrsProjection *projection, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * COL_COUNT);
	values[COL_ID] = Int32GetDatum(projection->id);
	values[COL_VIEW] = ObjectIdGetDatum(projection->view);
	values[COL_PAUSED] = BoolGetDatum(projection->paused);
	values[COL_MAX_LAG] = PointerGetDatum(projection->max_lag);
	nulls[COL_MAX_LAG] = projection->max_lag == NULL;
	values[COL_ON_ERROR] = cqrs_rows_text(projection->on_error, &nulls[COL_ON_ERROR]);
	values[COL_ROW_FILTER] = cqrs_rows_text(projection->row_filter, &nulls[COL_ROW_FILTER]);
	values[COL_DESCRIPTION] = cqrs_rows_text(projection->description, &nulls[COL_DESCRIPTION]);
	values[COL_LAST_VERSION] = Int32GetDatum(projection->last_version);
	values[COL_FORMER] = form_oids(projection->former);
}

/*
 * by_id starts a scan for one projection.
 */
static CqrsRowScan
by_id(int32 id)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_PROJECTION, .index = "projection_pkey"};

	cqrs_rows_key_int4(&scan, COL_ID + 1, id);
	return scan;
}

/*
 * cqrs_projection_get returns a projection by id.
 */
CqrsProjection *
cqrs_projection_get(int32 id, bool missing_ok)
{
	CqrsRowScan scan = by_id(id);
	CqrsProjection *projection = cqrs_rows_read_one(&scan, read_projection);

	if (projection == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection %d does not exist", id)));
	return projection;
}

/*
 * formerly_served returns the projection that a view served which is gone, or NULL.
 */
static CqrsProjection *
formerly_served(Oid view)
{
	ListCell   *cell;

	if (get_rel_relkind(view) != '\0')
		return NULL;
	foreach(cell, cqrs_projection_list())
		if (list_member_oid(((CqrsProjection *) lfirst(cell))->former, view))
			return lfirst(cell);
	return NULL;
}

/*
 * cqrs_projection_of_view returns the projection that a view serves, or NULL.
 *
 * A switch may have made the view anew while the caller, who was given its OID, was waiting.
 */
CqrsProjection *
cqrs_projection_of_view(Oid view)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_PROJECTION, .index = "projection_view_key"};
	CqrsProjection *projection;

	cqrs_rows_key_oid(&scan, COL_VIEW + 1, view);
	projection = cqrs_rows_read_one(&scan, read_projection);
	return projection ? projection : formerly_served(view);
}

/*
 * cqrs_projection_argument returns the projection that a user named by its serving view.
 *
 * Errors: 42809 where the relation serves none.
 */
CqrsProjection *
cqrs_projection_argument(Oid view)
{
	CqrsProjection *projection = cqrs_projection_of_view(view);

	if (projection == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a projection", cqrs_name_shown(view)),
				 errdetail("A projection is named by its serving view."),
				 errhint("See the view cqrs.projections for those that exist.")));
	return projection;
}

/*
 * cqrs_projection_list returns all projections, by id.
 */
List *
cqrs_projection_list(void)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_PROJECTION, .index = "projection_pkey"};

	return cqrs_rows_read(&scan, read_projection);
}

/*
 * cqrs_projection_insert adds a projection.
 */
void
cqrs_projection_insert(const CqrsProjection *projection)
{
	Datum		values[COL_COUNT];
	bool		nulls[COL_COUNT];

	form_projection(projection, values, nulls);
	cqrs_rows_insert(CQRS_CAT_PROJECTION, values, nulls);
}

/*
 * cqrs_projection_update replaces a projection's row; the caller holds its lock.
 */
void
cqrs_projection_update(const CqrsProjection *projection)
{
	CqrsRowScan scan = by_id(projection->id);
	Datum		values[COL_COUNT];
	bool		nulls[COL_COUNT];

	form_projection(projection, values, nulls);
	cqrs_rows_update(&scan, values, nulls);
}

/*
 * cqrs_projection_delete removes a projection's row; its versions are the caller's to remove first.
 */
void
cqrs_projection_delete(int32 id)
{
	CqrsRowScan scan = by_id(id);

	(void) cqrs_rows_delete(&scan);
}

/*
 * cqrs_relation_owner returns the owner of a relation, or InvalidOid if it is gone.
 */
Oid
cqrs_relation_owner(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * cqrs_projection_owner returns who owns the projection: the owner of its serving view.
 */
Oid
cqrs_projection_owner(const CqrsProjection *projection)
{
	Oid			owner = cqrs_relation_owner(projection->view);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the serving view of projection %d does not exist", projection->id)));
	return owner;
}

/*
 * cqrs_projection_owned tells whether the current user may manage the projection.
 */
bool
cqrs_projection_owned(const CqrsProjection *projection)
{
	return cqrs_compat_owns_relation(projection->view, GetUserId());
}

/*
 * cqrs_projection_check_owner lets pass who may manage the projection.
 *
 * Errors: 42501.
 */
void
cqrs_projection_check_owner(const CqrsProjection *projection)
{
	if (!cqrs_projection_owned(projection))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of projection \"%s\"", cqrs_name_shown(projection->view)),
				 errdetail("The owner of the serving view owns the projection.")));
}
