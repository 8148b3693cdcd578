/*
 * projection/create.c
 *		cqrs.create_projection: a serving view, and a first version that waits to be built.
 *
 * Everything here is one transaction of the user's and undone with it.
 */
#include "postgres.h"

#include "base/arguments.h"
#include "base/names.h"
#include "build/build.h"
#include "catalog/namespace.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "projection/parts.h"
#include "shared/shared.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(cqrs_create_projection);

/* The arguments, by number. */
enum
{
	ARG_NAME, ARG_QUERY, ARG_KEY, ARG_COLUMNS, ARG_HANDLERS, ARG_SEED, ARG_INDEXES, ARG_ROW_FILTER, ARG_MAX_LAG, ARG_ON_ERROR,
	ARG_DESCRIPTION
};

/*
 * check_name refuses a name that is taken, or a schema where the user may not create; returns the name's last part.
 */
static char *
check_name(const char *text, Oid *namespace)
{
	RangeVar   *name = makeRangeVarFromNameList(cqrs_name_parse(text));

	*namespace = RangeVarGetAndCheckCreationNamespace(name, NoLock, NULL);
	if (isAnyTempNamespace(*namespace))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a projection cannot be temporary"),
				 errhint("Name a schema that is not pg_temp.")));
	if (OidIsValid(get_relname_relid(name->relname, *namespace)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists", name->relname),
				 errdetail("The serving view of a projection needs a name of its own in schema \"%s\".",
						   get_namespace_name(*namespace)),
				 errhint("Choose another name, or drop what has it.")));
	return name->relname;
}

/*
 * cqrs_projection_refuse_argument refuses an argument that means nothing here.
 */
void
cqrs_projection_refuse_argument(const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("argument \"%s\" is not supported", argument),
			 errdetail("Projections are defined by queries here."),
			 errhint("Leave it out.")));
}

/*
 * cqrs_request_check refuses a projection that is defined by neither a query nor handlers, by both, or by half of one.
 */
void
cqrs_request_check(const CqrsRequest *request)
{
	bool		handled = request->columns != NULL || request->handlers != NULL || request->seed != NULL;

	if (request->query == NULL && !handled)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a projection needs a query, or columns and handlers"),
				 errhint("Give the SELECT whose rows it is to hold; or its columns, and what events do to them.")));
	if (request->query != NULL && handled)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a projection is defined by a query or by handlers, not by both"),
				 errhint("Leave out columns, handlers and seed, or the query.")));
	if (request->query != NULL)
		return;
	if (request->columns == NULL || request->handlers == NULL)
		cqrs_arguments_refuse_null(request->columns == NULL ? "columns" : "handlers");
	if (request->key_given)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"key\" is for queries"),
				 errhint("Declare a PRIMARY KEY among the columns.")));
}

/*
 * cqrs_request_read reads what a version is to be from the arguments that create_projection and create_version have in common.
 */
void
cqrs_request_read(FunctionCallInfo fcinfo, CqrsRequest *request)
{
	if (!PG_ARGISNULL(ARG_QUERY))
		request->query = text_to_cstring(PG_GETARG_TEXT_PP(ARG_QUERY));
	request->key_given = !PG_ARGISNULL(ARG_KEY);
	if (request->key_given)
		request->key = cqrs_arguments_names(PG_GETARG_ARRAYTYPE_P(ARG_KEY), "key");
	if (!PG_ARGISNULL(ARG_COLUMNS))
		request->columns = text_to_cstring(PG_GETARG_TEXT_PP(ARG_COLUMNS));
	if (!PG_ARGISNULL(ARG_HANDLERS))
		request->handlers = cqrs_arguments_object(fcinfo, ARG_HANDLERS, "handlers");
	if (!PG_ARGISNULL(ARG_SEED))
		request->seed = text_to_cstring(PG_GETARG_TEXT_PP(ARG_SEED));
	request->indexes_given = !PG_ARGISNULL(ARG_INDEXES);
	if (request->indexes_given)
		request->indexes = cqrs_arguments_texts(PG_GETARG_ARRAYTYPE_P(ARG_INDEXES), "indexes");
}

/*
 * read_projection reads what concerns all versions.
 */
static void
read_projection(FunctionCallInfo fcinfo, CqrsProjection *projection)
{
	if (!PG_ARGISNULL(ARG_ROW_FILTER))
		projection->row_filter = cqrs_projection_filter(PG_GETARG_TEXT_PP(ARG_ROW_FILTER));
	if (!PG_ARGISNULL(ARG_MAX_LAG))
		projection->max_lag = cqrs_arguments_positive(PG_GETARG_INTERVAL_P(ARG_MAX_LAG), "max_lag");
	projection->on_error = PG_ARGISNULL(ARG_ON_ERROR) ? "park" : cqrs_projection_on_error(PG_GETARG_TEXT_PP(ARG_ON_ERROR));
	if (!PG_ARGISNULL(ARG_DESCRIPTION))
		projection->description = text_to_cstring(PG_GETARG_TEXT_PP(ARG_DESCRIPTION));
}

/*
 * cqrs.create_projection(name text, query text DEFAULT NULL, key name[] DEFAULT NULL, columns text DEFAULT NULL, handlers jsonb DEFAULT NULL,
 *						  seed text DEFAULT NULL, indexes text[] DEFAULT '{}', row_filter text DEFAULT NULL, max_lag interval DEFAULT NULL,
 *						  on_error text DEFAULT 'park', description text DEFAULT NULL) RETURNS integer
 *
 * Creates the serving view 'name' over 'query', or over a table of 'columns' that 'handlers' keep, and registers its first version, which a worker, or
 * cqrs.drain, fills and serves.  'key' are the columns that tell rows of a query apart ('{}' for one row; inferred where it can be), 'seed' a SELECT that
 * fills a new version of handlers, 'on_error' what is done with events that they fail at, 'indexes' what follows CREATE INDEX ON table,
 * 'row_filter' a condition on what readers see, 'max_lag' the freshness objective.  Returns the version, 1.
 *
 * Errors: 42P07 name taken, 42501 a missing right, 42703 unknown key column, 42P10 no key can be inferred, 0A000 and 42P17 what section "what is
 * refused" of the README lists, 22023 a bad argument, 55000 a table that is not captured, or history that is gone, and the server's own for a query or
 * handler that does not parse.
 */
Datum
cqrs_create_projection(PG_FUNCTION_ARGS)
{
	CqrsRequest request = {0};
	CqrsProjection projection = {0};
	CqrsVersion *version;
	Oid			namespace;

	PreventCommandDuringRecovery("cqrs.create_projection()");
	PreventCommandIfReadOnly("cqrs.create_projection()");
	if (PG_ARGISNULL(ARG_NAME))
		cqrs_arguments_refuse_null("name");
	request.name = check_name(text_to_cstring(PG_GETARG_TEXT_PP(ARG_NAME)), &namespace);
	cqrs_request_read(fcinfo, &request);
	cqrs_request_check(&request);
	read_projection(fcinfo, &projection);

	projection.id = cqrs_registry_next_id();
	version = cqrs_make_version(&request, projection.id, 1);
	projection.view = cqrs_build_create_view(get_namespace_name(namespace), request.name, version, GetUserId());
	if (projection.row_filter != NULL)
		cqrs_build_filter_view(&projection, version, true, projection.row_filter);
	projection.last_version = version->number;
	cqrs_projection_insert(&projection);
	cqrs_make_known(version, projection.view);
	cqrs_shared_look_at_commit();
	cqrs_shared_wake_at_commit();
	PG_RETURN_INT32(version->number);
}
