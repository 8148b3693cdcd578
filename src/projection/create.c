/*
 * projection/create.c
 *		cqrs.create_projection: from a query to a projection with a version that waits to be built.
 *
 * Everything here is one transaction of the user's and undone with it.  What is wrong with the query, the key's columns or the indexes is refused
 * here; the fill, which a worker or drain does, finds what only data can tell.  No lock is taken on a source but ACCESS SHARE.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply.h"
#include "base/arguments.h"
#include "base/attempt.h"
#include "base/clock.h"
#include "base/names.h"
#include "base/spi.h"
#include "build/build.h"
#include "capture/capture.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/view.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "parser/parser.h"
#include "plan/plan.h"
#include "registry/registry.h"
#include "shared/shared.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(cqrs_create_projection);

/* What a query's answer may depend on besides data: recorded, and in force whenever the query runs. */
static const char *const recorded_settings[] = {
	"TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "lc_monetary", "lc_numeric", "lc_time",
	"bytea_output", "xmlbinary", "default_text_search_config",
};

/* The arguments, checked. */
typedef struct Request
{
	char	   *name;			/* of the view, without schema */
	Oid			namespace;
	char	   *query;
	bool		key_given;
	List	   *key;			/* of char * */
	List	   *indexes;		/* of char * */
	Interval   *max_lag;
	char	   *description;
} Request;

/*
 * resolve_name finds the schema for the new view, and refuses a name that is taken or a schema where the user may not create.
 */
static void
resolve_name(Request *request, const char *text)
{
	RangeVar   *name = makeRangeVarFromNameList(cqrs_name_parse(text));

	request->namespace = RangeVarGetAndCheckCreationNamespace(name, NoLock, NULL);
	request->name = name->relname;
	if (isAnyTempNamespace(request->namespace))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a projection cannot be temporary"),
				 errhint("Name a schema that is not pg_temp.")));
	if (OidIsValid(get_relname_relid(request->name, request->namespace)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists", request->name),
				 errdetail("The serving view of a projection needs a name of its own in schema \"%s\".",
						   get_namespace_name(request->namespace)),
				 errhint("Choose another name, or drop what has it.")));
}

/*
 * read_request checks the arguments that need no look at the query.
 */
static void
read_request(FunctionCallInfo fcinfo, Request *request)
{
	memset(request, 0, sizeof(Request));
	if (PG_ARGISNULL(0))
		cqrs_arguments_refuse_null("name");
	if (PG_ARGISNULL(1))
		cqrs_arguments_refuse_null("query");
	resolve_name(request, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	request->query = text_to_cstring(PG_GETARG_TEXT_PP(1));
	request->key_given = !PG_ARGISNULL(2);
	if (request->key_given)
		request->key = cqrs_arguments_names(PG_GETARG_ARRAYTYPE_P(2), "key");
	if (!PG_ARGISNULL(3))
		request->indexes = cqrs_arguments_texts(PG_GETARG_ARRAYTYPE_P(3), "indexes");
	if (!PG_ARGISNULL(4))
		request->max_lag = cqrs_arguments_positive(PG_GETARG_INTERVAL_P(4), "max_lag");
	if (!PG_ARGISNULL(5))
		request->description = text_to_cstring(PG_GETARG_TEXT_PP(5));
}

/*
 * schema_name makes the name of a version's schema: cqrs_<name>_<projection>_v<number>, the name cut to fit.
 */
static char *
schema_name(const char *name, int32 projection, int32 number)
{
	char	   *suffix = psprintf("_%d_v%d", projection, number);
	int			room = NAMEDATALEN - 1 - strlen("cqrs_") - strlen(suffix);

	return psprintf("cqrs_%.*s%s", pg_mbcliplen(name, strlen(name), room), name, suffix);
}

/*
 * current_search_path writes the schemas in force, fixed as they are now, with temporary ones last.
 *
 * Last and not left out: left out, the server would look into the temporary schema of whoever drains, first.
 */
static char *
current_search_path(void)
{
	StringInfoData path;
	ListCell   *cell;

	initStringInfo(&path);
	foreach(cell, fetch_search_path(false))
	{
		Oid			schema = lfirst_oid(cell);

		if (!isAnyTempNamespace(schema))
			appendStringInfo(&path, "%s, ", cqrs_name_identifier(get_namespace_name(schema)));
	}
	appendStringInfoString(&path, "pg_temp");
	return path.data;
}

/*
 * record_settings returns the settings a version runs under, as names and values in turn.
 */
static List *
record_settings(void)
{
	List	   *settings = NIL;

	for (int i = 0; i < (int) lengthof(recorded_settings); i++)
	{
		settings = lappend(settings, makeString(pstrdup(recorded_settings[i])));
		settings = lappend(settings, makeString(pstrdup(GetConfigOption(recorded_settings[i], false, false))));
	}
	settings = lappend(settings, makeString("search_path"));
	return lappend(settings, makeString(current_search_path()));
}

/*
 * define_view makes the definition view of the user's query, as the user.
 */
static Oid
define_view(const char *schema, const char *name, RawStmt *raw, const char *query)
{
	ViewStmt   *statement = makeNode(ViewStmt);
	ObjectAddress address;

	statement->view = makeRangeVar(pstrdup(schema), pstrdup(name), -1);
	statement->query = raw->stmt;
	statement->withCheckOption = NO_CHECK_OPTION;
	address = DefineView(statement, query, raw->stmt_location, raw->stmt_len);
	CommandCounterIncrement();
	return address.objectId;
}

/*
 * check_select has the server check, as it would for the query itself, that the user may read all it names.
 */
static void
check_select(Oid definition)
{
	cqrs_spi_connect();
	cqrs_spi_run(psprintf("SELECT 1 FROM %s LIMIT 0", cqrs_name_relation(definition)));
	cqrs_spi_finish();
}

/*
 * create_table makes the version's table, with the definition's columns, and has the guard refuse writes to it.
 */
static Oid
create_table(const char *schema, const char *name, Oid definition)
{
	char	   *table = cqrs_name_qualified(schema, name);
	CqrsIdentity saved;
	Oid			relid;

	cqrs_spi_connect();
	cqrs_spi_run(psprintf("CREATE TABLE %s AS TABLE %s WITH NO DATA", table, cqrs_name_relation(definition)));
	cqrs_identity_enter_system(&saved);
	cqrs_spi_run(psprintf("CREATE TRIGGER cqrs_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s "
						  "FOR EACH STATEMENT EXECUTE FUNCTION cqrs_internal.guard_table()", table));
	cqrs_identity_leave(&saved);
	cqrs_spi_finish();
	relid = get_relname_relid(name, get_namespace_oid(schema, false));
	return relid;
}

/*
 * check_index refuses a text that is not the tail of one CREATE INDEX that is not unique.
 */
static void
check_index(const char *index, const char *statement)
{
	List	   *parsed;
	IndexStmt  *node;

	if (pg_strncasecmp(index + strspn(index, " \t\r\n"), "unique", strlen("unique")) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("an index of a projection cannot be unique: %s", index),
				 errdetail("Two rows that swap their values in one batch would violate it, and fail for ever."),
				 errhint("The index on the key is unique; leave out UNIQUE here.")));
	parsed = raw_parser(statement, RAW_PARSE_DEFAULT);
	node = (IndexStmt *) linitial_node(RawStmt, parsed)->stmt;
	if (list_length(parsed) != 1 || !IsA(node, IndexStmt) || node->unique || node->concurrent)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid index: %s", index),
				 errdetail("An index is given as the text that follows CREATE INDEX ON table."),
				 errhint("For example '(seller_id, price DESC)' or 'USING gin (doc)'.")));
}

/*
 * run_statement runs one statement for cqrs_attempt.
 */
static void
run_statement(void *statement)
{
	cqrs_spi_connect();
	cqrs_spi_run(statement);
	cqrs_spi_finish();
}

/*
 * check_indexes tries each index on the empty table, so that a mistake shows now and not after a long fill.
 */
static void
check_indexes(Oid table, List *indexes)
{
	ListCell   *cell;

	foreach(cell, indexes)
	{
		char	   *statement = cqrs_build_index_statement(table, lfirst(cell));
		ErrorData  *error;

		check_index(lfirst(cell), statement);
		error = cqrs_attempt(run_statement, statement, false);
		if (error != NULL)
			ReThrowError(error);
	}
}

/*
 * check_trigger_right refuses a source on which the user may not have triggers created.
 */
static void
check_trigger_right(Oid relation)
{
	if (pg_class_aclcheck(relation, GetUserId(), ACL_TRIGGER) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to capture changes of table \"%s\"", cqrs_name_shown(relation)),
				 errdetail("A projection needs the TRIGGER privilege on the tables it reads."),
				 errhint("Ask the owner of the table to GRANT TRIGGER on it.")));
}

/*
 * compare_relations orders a program's sources by their tables.
 */
static int
compare_relations(const void *left, const void *right)
{
	Oid			l = ((const CqrsProgramSource *) left)->relation;
	Oid			r = ((const CqrsProgramSource *) right)->relation;

	return l < r ? -1 : l > r;
}

/*
 * register_sources records what the version reads.  Nothing is captured yet: whoever fills attaches first.
 *
 * In the order of the tables: registering takes a lock on each, and two sessions must not wait for one another.
 */
static void
register_sources(const CqrsVersion *version)
{
	CqrsProgram *program = cqrs_plan_derive(version->definition, version->table, version->key, version->nkeys);

	qsort(program->sources, program->nsources, sizeof(CqrsProgramSource), compare_relations);
	for (int i = 0; i < program->nsources; i++)
	{
		CqrsVersionSource row = {.version = version->id};

		cqrs_capture_check(program->sources[i].relation);
		check_trigger_right(program->sources[i].relation);
		row.watched = program->sources[i].watched;
		row.imaged = program->sources[i].imaged;
		row.source = cqrs_source_insert(program->sources[i].relation)->id;
		cqrs_version_source_insert(&row);
	}
}

/*
 * make_version makes the first version's schema, definition and table; its row is the caller's to insert.
 */
static CqrsVersion *
make_version(const Request *request, int32 projection, RawStmt *raw)
{
	CqrsVersion *version = palloc0(sizeof(CqrsVersion));
	char	   *schema = schema_name(request->name, projection, 1);
	const char *definition = strcmp(request->name, "definition") == 0 ? "query" : "definition";

	version->id = cqrs_registry_next_id();
	version->projection = projection;
	version->number = 1;
	version->state = CQRS_STATE_BUILDING;
	version->status = CQRS_STATUS_RUNNING;
	version->schema = NamespaceCreate(schema, GetUserId(), false);
	CommandCounterIncrement();
	version->definition = define_view(schema, definition, raw, request->query);
	cqrs_plan_check(version->definition, request->query, GetUserId(), true);
	version->key = cqrs_plan_key(version->definition, request->key_given, request->key, &version->nkeys);
	check_select(version->definition);
	version->table = create_table(schema, request->name, version->definition);
	check_indexes(version->table, request->indexes);
	version->indexes = request->indexes;
	version->settings = record_settings();
	version->created_at = cqrs_clock_now();
	return version;
}

/*
 * cqrs.create_projection(name text, query text, key name[] DEFAULT NULL, indexes text[] DEFAULT '{}', max_lag interval DEFAULT NULL,
 *						  description text DEFAULT NULL) RETURNS integer
 *
 * Creates the serving view 'name' over 'query' and registers its first version, which a worker, or cqrs.drain, fills and serves.
 * 'key' are the columns that tell rows apart ('{}' for one row; inferred where it can be), 'indexes' what follows CREATE INDEX ON
 * table, 'max_lag' the freshness objective.  Returns the version, 1.
 *
 * Errors: 42P07 name taken, 42501 a missing right, 42703 unknown key column, 42P10 no key can be inferred, 0A000 and 42P17 what section "what is
 * refused" of the README lists, 22023 a bad argument, and the server's own for a query that does not parse.
 */
Datum
cqrs_create_projection(PG_FUNCTION_ARGS)
{
	Request		request;
	CqrsProjection projection = {0};
	CqrsVersion *version;
	RawStmt    *raw;

	PreventCommandDuringRecovery("cqrs.create_projection()");
	PreventCommandIfReadOnly("cqrs.create_projection()");
	read_request(fcinfo, &request);
	raw = cqrs_plan_parse(request.query);

	projection.id = cqrs_registry_next_id();
	version = make_version(&request, projection.id, raw);
	projection.view = cqrs_build_create_view(get_namespace_name(request.namespace), request.name, version, GetUserId());
	projection.max_lag = request.max_lag;
	projection.on_error = "park";
	projection.description = request.description;
	projection.last_version = version->number;
	cqrs_projection_insert(&projection);
	cqrs_version_insert(version);
	register_sources(version);
	cqrs_history_insert(projection.id, projection.view, version->number, "created", NULL,
						cqrs_state_name(version->state), NULL);
	cqrs_shared_look_at_commit();
	cqrs_shared_wake_at_commit();
	PG_RETURN_INT32(version->number);
}
