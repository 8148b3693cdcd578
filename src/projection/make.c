/*
 * projection/make.c
 *		Making a version: its schema, definition and table, of what was asked for; nothing is filled yet.
 *
 * Everything here is part of the user's transaction and undone with it.  What is wrong with the query, the key's columns or the indexes is refused
 * here; the fill, which a worker or drain does, finds what only data can tell.  No lock is taken on a source but ACCESS SHARE.
 *
 * Whoever asks has checked that a version may be made at all; rights to what it reads are checked here, as the current user's.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/xact.h"
#include "apply/apply.h"
#include "base/attempt.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/names.h"
#include "base/spi.h"
#include "build/build.h"
#include "capture/capture.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "commands/view.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "parser/parser.h"
#include "plan/plan.h"
#include "projection/parts.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

/* How full the pages of a version's table are filled, in percent. */
#define FILLFACTOR 90

/* What a query's answer may depend on besides data: recorded, and in force whenever the query runs. */
static const char *const recorded_settings[] = {
	"TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "lc_monetary", "lc_numeric", "lc_time",
	"bytea_output", "xmlbinary", "default_text_search_config",
};

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
 * record_settings returns the settings a version runs under, as names and values in turn; 'schema', if given, comes first in search_path.
 */
static List *
record_settings(const char *schema)
{
	List	   *settings = NIL;
	char	   *path = current_search_path();

	for (int i = 0; i < (int) lengthof(recorded_settings); i++)
	{
		settings = lappend(settings, makeString(pstrdup(recorded_settings[i])));
		settings = lappend(settings, makeString(pstrdup(GetConfigOption(recorded_settings[i], false, false))));
	}
	if (schema != NULL)
		path = psprintf("%s, %s", cqrs_name_identifier(schema), path);
	settings = lappend(settings, makeString("search_path"));
	return lappend(settings, makeString(path));
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
 * create_table makes a version's table by a statement, and has the guard refuse writes to it.
 */
static Oid
create_table(const char *schema, const char *name, const char *statement)
{
	char	   *table = cqrs_name_qualified(schema, name);
	CqrsIdentity saved;

	cqrs_spi_connect();
	cqrs_spi_run(statement);
	cqrs_identity_enter_system(&saved);
	cqrs_spi_run(psprintf("CREATE TRIGGER cqrs_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s "
						  "FOR EACH STATEMENT EXECUTE FUNCTION cqrs_internal.guard_table()", table));
	cqrs_identity_leave(&saved);
	cqrs_spi_finish();
	return get_relname_relid(name, get_namespace_oid(schema, false));
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
 * make_reads records which projections a version reads.
 *
 * Errors: 42P17 if one of them reads the version's own.
 */
static void
make_reads(const CqrsVersion *version, List *projections)
{
	ListCell   *cell;

	foreach(cell, projections)
	{
		CqrsProjection *read = cqrs_projection_get(lfirst_int(cell), false);
		CqrsProjection *own;

		if (!cqrs_projection_reads(read->id, version->projection))
			continue;
		own = cqrs_projection_get(version->projection, false);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("projection \"%s\" cannot read itself", cqrs_name_shown(own->view)),
				 read->id == own->id ? errdetail("Its query names its own serving view.") :
				 errdetail("Its query reads projection \"%s\", which reads it.", cqrs_name_shown(read->view)),
				 errhint("Read the tables that those projections read.")));
	}
	cqrs_read_set(version->id, projections);
}

/*
 * register_source records that a version reads a table.
 */
static void
register_source(const CqrsVersion *version, const CqrsProgramSource *source)
{
	CqrsVersionSource row = {.version = version->id,.watched = source->watched,.imaged = source->imaged};

	cqrs_capture_check(source->relation);
	check_trigger_right(source->relation);
	row.source = cqrs_source_insert(source->relation)->id;
	cqrs_version_source_insert(&row);
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

	cqrs_plan_notify(program);	/* before they are put into another order, which statements would not know */
	make_reads(version, program->projections);
	qsort(program->sources, program->nsources, sizeof(CqrsProgramSource), compare_relations);
	for (int i = 0; i < program->nsources; i++)
		if (program->sources[i].projection == 0)
			register_source(version, &program->sources[i]);
}

/*
 * is_registered tells whether a table is among the sources of a version.
 */
static bool
is_registered(const CqrsVersion *version, Oid relation)
{
	CqrsSource *source = cqrs_source_of_relation(relation);
	ListCell   *cell;

	foreach(cell, cqrs_version_source_list(version->id))
		if (source != NULL && ((CqrsVersionSource *) lfirst(cell))->source == source->id)
			return true;
	return false;
}

/*
 * register_more records the tables that a version, given as 'argument', has come to read, as its owner.
 */
static void
register_more(void *argument)
{
	const CqrsVersion *version = argument;
	CqrsIdentity saved;
	CqrsProgram *program;

	(void) cqrs_apply_become_owner(version, &saved);
	program = cqrs_plan_derive(version->definition, version->table, version->key, version->nkeys);
	qsort(program->sources, program->nsources, sizeof(CqrsProgramSource), compare_relations);
	for (int i = 0; i < program->nsources; i++)
		if (program->sources[i].projection == 0 && !is_registered(version, program->sources[i].relation))
			register_source(version, &program->sources[i]);
	cqrs_identity_leave(&saved);
}

/*
 * cqrs_make_follow records what a version has come to read since a view that its query names was replaced.
 *
 * What is wrong with that is no error here, but for a circle: whoever replaces a view need not know of read models.  The version's next batch says it.
 */
void
cqrs_make_follow(CqrsVersion *version)
{
	make_reads(version, cqrs_plan_projections(version->definition));
	(void) cqrs_attempt(register_more, version, true);
}

/*
 * register_captured records which captured tables a version's handlers take changes of.  They are captured whole, whatever is asked of them.
 */
static void
register_captured(const CqrsVersion *version)
{
	ListCell   *cell;

	foreach(cell, cqrs_handler_list(version->id))
	{
		CqrsVersionSource row = {.version = version->id,.source = ((CqrsHandler *) lfirst(cell))->source};

		if (row.source != 0)
			cqrs_version_source_insert(&row);
	}
}

/*
 * primary_key finds the columns of a table's primary key; none if it has none.  Then the whole row identifies it to publications.
 */
static AttrNumber *
primary_key(Oid table, int *nkeys)
{
	Relation	relation = relation_open(table, AccessShareLock);
	Oid			index = cqrs_compat_primary_key(relation);
	AttrNumber *key = palloc(sizeof(AttrNumber) * INDEX_MAX_KEYS);

	*nkeys = 0;
	if (OidIsValid(index))
	{
		Relation	opened = index_open(index, AccessShareLock);

		for (; *nkeys < IndexRelationGetNumberOfKeyAttributes(opened); (*nkeys)++)
			key[*nkeys] = opened->rd_index->indkey.values[*nkeys];
		index_close(opened, NoLock);
	}
	relation_close(relation, NoLock);
	return key;
}

/*
 * identify_rows has the whole row of a table without a primary key identify it to publications.
 */
static void
identify_rows(Oid table)
{
	cqrs_spi_connect();
	cqrs_spi_run(psprintf("ALTER TABLE %s REPLICA IDENTITY FULL", cqrs_name_relation(table)));
	cqrs_spi_finish();
}

/*
 * check_seed has the server look at a seed as it would when it is run.
 */
static void
check_seed(Oid table, const char *seed)
{
	cqrs_spi_connect();
	cqrs_spi_free(cqrs_spi_prepare(cqrs_handlers_seed(cqrs_name_relation(table), seed), 0, NULL, false));
	cqrs_spi_finish();
}

/*
 * define_by_handlers makes a version's table of columns as given, and records its handlers once the server has looked at them.
 */
static void
define_by_handlers(CqrsVersion *version, const CqrsRequest *request, const char *schema)
{
	CqrsEventDefinition definition = {.version = version->id,.columns = request->columns,.seed = request->seed};
	const char *unknown;
	List	   *handlers = cqrs_handlers_parse(request->handlers, &unknown);
	CqrsIdentity saved;
	ListCell   *cell;

	cqrs_handlers_check_rights(handlers, unknown, GetUserId());
	if (request->seed == NULL)
		cqrs_events_check_history();
	version->table = create_table(schema, request->name, cqrs_handlers_table(schema, request->name, request->columns));
	version->key = primary_key(version->table, &version->nkeys);
	if (version->nkeys == 0)
		identify_rows(version->table);
	version->settings = record_settings(schema);
	cqrs_identity_enter(&saved, GetUserId(), version->settings);
	cqrs_handlers_check(handlers);
	if (request->seed != NULL)
		check_seed(version->table, request->seed);
	cqrs_identity_leave(&saved);
	definition.unknown = pstrdup(unknown);
	cqrs_event_definition_insert(&definition);
	foreach(cell, handlers)
	{
		((CqrsHandler *) lfirst(cell))->version = version->id;
		cqrs_handler_insert(lfirst(cell));
	}
}

/*
 * has_columns tells whether a definition has columns of these names.
 */
static bool
has_columns(Oid definition, List *names)
{
	ListCell   *cell;

	foreach(cell, names)
		if (get_attnum(definition, lfirst(cell)) == InvalidAttrNumber)
			return false;
	return true;
}

/*
 * define_by_query makes a version's definition, and a table with its columns and hidden ones.
 *
 * Its pages are not filled up: a row that finds room in its own page is updated without an entry in any index.
 */
static void
define_by_query(CqrsVersion *version, const CqrsRequest *request, const char *schema)
{
	RawStmt    *raw = cqrs_plan_parse(request->query);
	const char *definition = strcmp(request->name, "definition") == 0 ? "query" : "definition";
	CqrsProgram *program;

	version->definition = define_view(schema, definition, raw, request->query);
	cqrs_plan_check(version->definition, request->query, GetUserId(), true);
	if (request->inherits_key && has_columns(version->definition, request->inherited_key))
		version->key = cqrs_plan_key(version->definition, true, request->inherited_key, &version->nkeys);
	else
		version->key = cqrs_plan_key(version->definition, request->key_given, request->key, &version->nkeys);
	check_select(version->definition);
	program = cqrs_plan_derive(version->definition, InvalidOid, version->key, version->nkeys);
	version->table = create_table(schema, request->name,
								  psprintf("CREATE TABLE %s WITH (fillfactor = %d) AS %s WITH NO DATA", cqrs_name_qualified(schema, request->name),
										   FILLFACTOR, cqrs_plan_evaluate(program)));
	version->settings = record_settings(NULL);
}

/*
 * cqrs_make_version makes a version's schema, definition and table; its row is the caller's to have written.
 */
CqrsVersion *
cqrs_make_version(const CqrsRequest *request, int32 projection, int32 number)
{
	CqrsVersion *version = palloc0(sizeof(CqrsVersion));
	char	   *schema = schema_name(request->name, projection, number);

	version->id = cqrs_registry_next_id();
	version->projection = projection;
	version->number = number;
	version->state = CQRS_STATE_BUILDING;
	version->status = CQRS_STATUS_RUNNING;
	version->schema = NamespaceCreate(schema, GetUserId(), false);
	CommandCounterIncrement();
	if (request->query != NULL)
		define_by_query(version, request, schema);
	else
		define_by_handlers(version, request, schema);
	check_indexes(version->table, request->indexes);
	version->indexes = request->indexes;
	version->created_at = cqrs_clock_now();
	return version;
}

/*
 * cqrs_make_known writes a version's row, what it reads, and that it was made.
 */
void
cqrs_make_known(CqrsVersion *version, Oid view)
{
	cqrs_version_insert(version);
	if (cqrs_version_is_events(version))
		register_captured(version);
	else
		register_sources(version);
	cqrs_history_insert(version->projection, view, version->number, "created", NULL, cqrs_state_name(version->state), NULL);
}
