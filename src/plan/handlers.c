/*
 * plan/handlers.c
 *		What defines a version without a query: columns, handlers and a seed, checked and made statements.
 *
 * Everything is looked up as the current user, under the settings in force; what is wrong is an error that points into the user's text.  Statements are
 * prepared to be checked, never run.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/compat.h"
#include "base/names.h"
#include "base/position.h"
#include "base/spi.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_func.h"
#include "plan/plan.h"
#include "plan/query.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

#define POLICY_KEY "*"

static const char *const policies[] = {"ignore", "warn", "halt"};

/* What a statement refers to. */
typedef struct Reference
{
	bool		one;			/* relation event */
	bool		run;			/* relation events */
} Reference;

/* Which columns of our relations are used. */
typedef struct Use
{
	List	   *levels;			/* of Bitmapset *: where they are in range tables, of the innermost query first */
	Bitmapset  *columns;		/* by number; 0: all of them */
} Use;

/*
 * identifiers_of takes text apart that is nothing but a possibly qualified identifier; NIL for any other.
 */
static List *
identifiers_of(const char *text)
{
	List	   *names;

	if (!SplitIdentifierString(pstrdup(text), '.', &names))
		return NIL;
	return names;
}

/*
 * check_policy refuses what is no policy for events that no handler takes.
 */
static void
check_policy(const char *policy)
{
	for (int i = 0; i < (int) lengthof(policies); i++)
		if (strcmp(policy, policies[i]) == 0)
			return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown policy \"%s\" for events without a handler", policy),
			 errhint("\"*\" is one of ignore, warn and halt.")));
}

/*
 * table_named returns the table that a key of handlers names, or InvalidOid if it is an event type.
 *
 * A key of two parts is a table if there is a schema of the name of the first: so a table misspelled is not taken for an event type that never comes.
 */
static Oid
table_named(const char *key)
{
	List	   *names = identifiers_of(key);
	Oid			schema;
	Oid			relation;

	if (list_length(names) != 2 || !OidIsValid(schema = get_namespace_oid(linitial(names), true)))
		return InvalidOid;
	relation = get_relname_relid(lsecond(names), schema);
	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" of a handler does not exist", key),
				 errdetail("The key \"%s\" names a table, since there is a schema \"%s\".", key, (char *) linitial(names)),
				 errhint("Correct the name; or give the event type one that does not begin with a schema's.")));
	return relation;
}

/*
 * set_taken has a handler take what its key names: events of a type, or changes of a captured table.
 */
static void
set_taken(CqrsHandler *handler, const char *key)
{
	Oid			relation;
	CqrsSource *source;

	if (key[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an event type of handlers is empty")));
	relation = table_named(key);
	if (!OidIsValid(relation))
	{
		handler->event_type = pstrdup(key);
		return;
	}
	source = cqrs_source_of_relation(relation);
	if (source == NULL || !source->captured)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("changes of \"%s\" are not captured for handlers", key),
				 errdetail("Handlers see whole rows, which are captured only if that is asked for."),
				 errhint("Call cqrs.capture(%s) first.", cqrs_name_literal(key))));
	handler->source = source->id;
}

/*
 * function_names returns the name in a text that names a function, with or without "(cqrs.event)" behind it; NIL if it is SQL.
 */
static List *
function_names(const char *text)
{
	static const char arguments[] = "(cqrs.event)";
	char	   *name = pstrdup(text);
	int			length = strlen(name);

	while (length > 0 && isspace((unsigned char) name[length - 1]))
		name[--length] = '\0';
	if (length > (int) strlen(arguments) && strcmp(name + length - strlen(arguments), arguments) == 0)
		name[length - strlen(arguments)] = '\0';
	return identifiers_of(name);
}

/*
 * check_function refuses a function that is no handler, or that the user may not execute.
 */
static void
check_function(Oid function, const char *text)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	bool		fits;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	fits = form->prokind == PROKIND_FUNCTION && form->prorettype == VOIDOID && !form->proretset;
	ReleaseSysCache(tuple);
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s is no handler", text),
				 errhint("A handler is a function (cqrs.event) RETURNS void.")));
	if (!cqrs_compat_may_execute(function, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", text),
				 errhint("Ask its owner to GRANT EXECUTE on it.")));
}

/*
 * set_action has a handler do what its text says: SQL, or the name of a function.
 */
static void
set_action(CqrsHandler *handler, const char *text)
{
	List	   *names = function_names(text);
	Oid			event = cqrs_registry_event_type();
	List	   *parts = NIL;
	ListCell   *cell;

	if (names == NIL)
	{
		handler->statement = pstrdup(text);
		return;
	}
	foreach(cell, names)
		parts = lappend(parts, makeString(lfirst(cell)));
	handler->function = LookupFuncName(parts, 1, &event, true);
	if (!OidIsValid(handler->function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s(cqrs.event) does not exist", text),
				 errhint("A handler is SQL, or the name of a function (cqrs.event) RETURNS void.")));
	check_function(handler->function, text);
}

/*
 * cqrs_handlers_parse reads handlers as create_projection takes them, and the policy for events that none of them takes.
 *
 * What no handler takes is ignored unless the user says otherwise: others may emit what this projection has never heard of.
 */
List *
cqrs_handlers_parse(Jsonb *handlers, const char **unknown)
{
	JsonbIterator *iterator = JsonbIteratorInit(&handlers->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	List	   *result = NIL;
	char	   *key = NULL;

	*unknown = policies[0];
	(void) JsonbIteratorNext(&iterator, &value, false);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) == WJB_KEY || token == WJB_VALUE)
	{
		CqrsHandler *handler;
		char	   *text;

		if (token == WJB_VALUE && value.type != jbvString)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the handler of \"%s\" is not a string", key),
					 errhint("A handler is SQL, or the name of a function (cqrs.event) RETURNS void.")));
		text = pnstrdup(value.val.string.val, value.val.string.len);
		if (token == WJB_KEY)
		{
			key = text;
			continue;
		}
		if (strcmp(key, POLICY_KEY) == 0)
		{
			check_policy(text);
			*unknown = text;
			continue;
		}
		handler = palloc0(sizeof(CqrsHandler));
		handler->number = list_length(result);
		set_taken(handler, key);
		set_action(handler, text);
		result = lappend(result, handler);
	}
	if (result == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there are no handlers"),
				 errhint("Give SQL or a function for at least one event type or captured table.")));
	return result;
}

/*
 * cqrs_handlers_check_rights refuses handlers of things that their owner may not read: events, and whole rows of captured tables.
 *
 * Nothing else checks this: what handlers see are relations of our making.
 */
void
cqrs_handlers_check_rights(List *handlers, const char *unknown, Oid owner)
{
	bool		events = strcmp(unknown, policies[0]) != 0;
	Oid			outbox;
	ListCell   *cell;

	foreach(cell, handlers)
	{
		CqrsHandler *handler = lfirst(cell);
		Oid			relation;

		if (handler->event_type != NULL)
		{
			events = true;
			continue;
		}
		relation = cqrs_source_get(handler->source)->relation;
		if (pg_class_aclcheck(relation, owner, ACL_SELECT) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(relation));
		if (check_enable_rls(relation, owner, true) == RLS_ENABLED)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("row security of \"%s\" applies to the owner of the projection", cqrs_name_shown(relation)),
					 errhint("Exempt the owner from it, or give the projection another owner.")));
	}
	outbox = get_relname_relid("outbox", get_namespace_oid("cqrs", false));
	if (events && pg_class_aclcheck(outbox, owner, ACL_SELECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to handle events"),
				 errdetail("Role \"%s\" may not read the outbox, in which events of all types are.", GetUserNameFromId(owner, false)),
				 errhint("GRANT SELECT ON cqrs.outbox to the owner of the projection.")));
}

/*
 * columns_of returns the CREATE TABLE of a list of columns, if that is what the text is and no more.
 */
static CreateStmt *
columns_of(const char *statement, const char *columns)
{
	List	   *parsed = cqrs_position_parse(statement);
	CreateStmt *create;

	create = list_length(parsed) == 1 ? (CreateStmt *) linitial_node(RawStmt, parsed)->stmt : NULL;
	if (create == NULL || !IsA(create, CreateStmt) || create->inhRelations != NIL || create->partspec != NULL ||
		create->options != NIL || create->tableElts == NIL || create->tablespacename != NULL || create->accessMethod != NULL ||
		create->oncommit != ONCOMMIT_NOOP)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid columns: %s", columns),
				 errdetail("Columns are given as the text between the parentheses of CREATE TABLE."),
				 errhint("For example 'order_id text PRIMARY KEY, total numeric NOT NULL DEFAULT 0'.")));
	return create;
}

/*
 * check_constraint refuses a constraint that needs triggers: on the referenced table they would be in the way of commands, and deferred they do not fire.
 */
static void
check_constraint(Node *node)
{
	ConstrType	type;

	if (!IsA(node, Constraint))
		return;
	type = ((Constraint *) node)->contype;
	if (type == CONSTR_FOREIGN)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a read model cannot have a foreign key"),
				 errdetail("It would make commands on the referenced table wait for the read model, and fail."),
				 errhint("Leave out REFERENCES; what is referenced is checked where it is written.")));
	if (type == CONSTR_ATTR_DEFERRABLE || type == CONSTR_ATTR_DEFERRED || ((Constraint *) node)->deferrable)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a constraint of a read model cannot be deferrable"),
				 errdetail("It would be checked after the handlers, when no event is at fault any more."),
				 errhint("Leave out DEFERRABLE.")));
}

/*
 * cqrs_handlers_table returns the statement that makes a version's table of columns as given; what has no place in it is refused.
 *
 * The line's end keeps a comment from swallowing the parenthesis.
 */
char *
cqrs_handlers_table(const char *schema, const char *name, const char *columns)
{
	char	   *statement = psprintf("CREATE TABLE %s (%s\n)", cqrs_name_qualified(schema, name), columns);
	ListCell   *cell;
	ListCell   *inner;

	foreach(cell, columns_of(statement, columns)->tableElts)
	{
		check_constraint(lfirst(cell));
		if (IsA(lfirst(cell), ColumnDef))
			foreach(inner, ((ColumnDef *) lfirst(cell))->constraints)
				check_constraint(lfirst(inner));
	}
	return statement;
}

/*
 * cqrs_handlers_row returns the columns of the relations event and events.
 */
TupleDesc
cqrs_handlers_row(void)
{
	return lookup_rowtype_tupdesc_copy(cqrs_registry_event_type(), -1);
}

/*
 * taken_by names what a handler takes, for messages.
 */
static const char *
taken_by(const CqrsHandler *handler)
{
	return handler->event_type ? handler->event_type : cqrs_name_shown(cqrs_source_get(handler->source)->relation);
}

/*
 * cqrs_handlers_text returns the SQL of a handler; of a function a statement that calls it for the event.
 */
char *
cqrs_handlers_text(const CqrsHandler *handler)
{
	TupleDesc	desc;
	StringInfoData sql;

	if (handler->statement != NULL)
		return handler->statement;
	if (get_func_name(handler->function) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the function that handles \"%s\" was dropped", taken_by(handler)),
				 errhint("Make a version of the projection with a handler that is there.")));
	desc = cqrs_handlers_row();
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s(ROW(",
					 cqrs_name_qualified(get_namespace_name(get_func_namespace(handler->function)),
										 get_func_name(handler->function)));
	for (int i = 0; i < desc->natts; i++)
		appendStringInfo(&sql, "%se.%s", i ? ", " : "", cqrs_name_identifier(NameStr(TupleDescAttr(desc, i)->attname)));
	appendStringInfo(&sql, ")::cqrs.event) FROM %s AS e", CQRS_EVENT);
	return sql.data;
}

/*
 * places_of returns which entries of a range table are our relations.
 */
static Bitmapset *
places_of(List *rtable)
{
	Bitmapset  *places = NULL;
	ListCell   *cell;

	foreach(cell, rtable)
		if (((RangeTblEntry *) lfirst(cell))->rtekind == RTE_NAMEDTUPLESTORE)
			places = bms_add_member(places, foreach_current_index(cell) + 1);
	return places;
}

/*
 * find_references notes which of our relations a query refers to.
 */
static bool
find_references(Node *node, void *context)
{
	Reference  *reference = context;
	ListCell   *cell;

	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, find_references, context);
	foreach(cell, ((Query *) node)->rtable)
	{
		RangeTblEntry *entry = lfirst(cell);

		if (entry->rtekind != RTE_NAMEDTUPLESTORE)
			continue;
		reference->one |= strcmp(entry->enrname, CQRS_EVENT) == 0;
		reference->run |= strcmp(entry->enrname, CQRS_EVENTS) == 0;
	}
	return query_tree_walker((Query *) node, find_references, context, 0);
}

/*
 * find_columns notes which columns of our relations the expressions of a query use; their places in its range table, and in those around it, are at hand.
 */
static bool
find_columns(Node *node, void *context)
{
	Use		   *use = context;
	bool		result;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		const Var  *var = (const Var *) node;

		if (var->varlevelsup < (Index) list_length(use->levels) &&
			bms_is_member(var->varno, list_nth(use->levels, var->varlevelsup)))
			use->columns = bms_add_member(use->columns, Max(var->varattno, 0));
		return false;
	}
	if (!IsA(node, Query))
		return expression_tree_walker(node, find_columns, context);
	use->levels = lcons(places_of(((Query *) node)->rtable), use->levels);
	result = query_tree_walker((Query *) node, find_columns, context, 0);
	use->levels = list_delete_first(use->levels);
	return result;
}

/*
 * cqrs_handlers_columns tells which columns of event or events a prepared handler uses: what others hold need not be at hand.  NULL: it may use any.
 */
Bitmapset *
cqrs_handlers_columns(CqrsStatement *statement)
{
	Use			use = {0};
	ListCell   *cell;

	foreach(cell, cqrs_spi_queries(statement))
		(void) find_columns(lfirst(cell), &use);
	return bms_is_member(0, use.columns) ? NULL : bms_add_member(use.columns, 1);
}

/*
 * refuse_command raises for a statement that handlers cannot hold.
 */
static void
refuse_command(Node *statement)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a handler cannot hold %s", CreateCommandName(statement)),
			 errhint("A handler is made of SELECT, INSERT, UPDATE, DELETE and MERGE; call a function for what these cannot do.")));
}

/*
 * cqrs_handlers_take_runs tells whether a prepared handler takes runs of events, because it refers to events; it refuses what is no handler.
 */
bool
cqrs_handlers_take_runs(CqrsStatement *statement)
{
	List	   *queries = cqrs_spi_queries(statement);
	Reference	reference = {0};
	ListCell   *cell;

	foreach(cell, queries)
	{
		if (lfirst_node(Query, cell)->commandType == CMD_UTILITY)
			refuse_command(lfirst_node(Query, cell)->utilityStmt);
		(void) find_references(lfirst(cell), &reference);
	}
	if (queries == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("a handler holds no statement"),
				 errhint("Leave out its event type: events without a handler are ignored unless \"*\" says otherwise.")));
	if (reference.one && reference.run)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a handler cannot refer to both event and events"),
				 errdetail("With event it is run for each event, with events for a run of them."),
				 errhint("Name a table of that name with its schema.")));
	return reference.run;
}

/*
 * name_handler tells an error whose handler was looked at.
 */
static void
name_handler(void *handler)
{
	errcontext("handler of \"%s\"", taken_by(handler));
}

/*
 * prepare_and_look has the server look at one handler; an error that says nothing of what to do is told what a handler is.
 */
static void
prepare_and_look(const CqrsHandler *handler)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		CqrsStatement *statement = cqrs_spi_prepare(cqrs_handlers_text(handler), 0, NULL, false);

		(void) cqrs_handlers_take_runs(statement);
		cqrs_spi_free(statement);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		if (error->hint == NULL)
			error->hint = "A handler is SQL over the relation event, or events; or the name of a function (cqrs.event) RETURNS void.";
		ReThrowError(error);
	}
	PG_END_TRY();
}

/*
 * cqrs_handlers_check has the server look at handlers as it would when they are run, and tells in an error which one is wrong.
 *
 * Wants the version's table, and its settings and owner in force.
 */
void
cqrs_handlers_check(List *handlers)
{
	TupleDesc	row = cqrs_handlers_row();
	Tuplestorestate *none = tuplestore_begin_heap(false, false, work_mem);
	ListCell   *cell;

	cqrs_spi_connect();
	cqrs_spi_offer(CQRS_EVENT, row, none, 1);
	cqrs_spi_offer(CQRS_EVENTS, row, none, 1);
	foreach(cell, handlers)
	{
		ErrorContextCallback context = {.previous = error_context_stack,.callback = name_handler,.arg = lfirst(cell)};

		error_context_stack = &context;
		prepare_and_look(lfirst(cell));
		error_context_stack = context.previous;
	}
	cqrs_spi_finish();
	tuplestore_end(none);
}

/*
 * cqrs_handlers_seed returns the statement that fills a table from a seed, which must be one SELECT whose columns fit the table's.
 */
char *
cqrs_handlers_seed(const char *table, const char *seed)
{
	List	   *parsed = cqrs_position_parse(seed);

	if (list_length(parsed) != 1 || !IsA(linitial_node(RawStmt, parsed)->stmt, SelectStmt) ||
		((SelectStmt *) linitial_node(RawStmt, parsed)->stmt)->intoClause != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the seed of a projection must be one SELECT"),
				 errhint("Give the SELECT whose rows a new version begins with, in the order of its columns.")));
	return psprintf("INSERT INTO %s %s", table, seed);
}

/*
 * cqrs_handlers_explain says what defines a version: List of char *, one line each.
 */
List *
cqrs_handlers_explain(int32 version)
{
	CqrsEventDefinition *definition = cqrs_event_definition_get(version);
	List	   *lines = list_make1("strategy: events, each applied once by its handler");
	ListCell   *cell;

	foreach(cell, cqrs_handler_list(version))
	{
		CqrsHandler *handler = lfirst(cell);

		lines = lappend(lines, psprintf("handler of %s: %s",
										handler->event_type ? cqrs_name_literal(handler->event_type) :
										cqrs_name_relation(cqrs_source_get(handler->source)->relation),
										handler->statement ? handler->statement : format_procedure(handler->function)));
	}
	lines = lappend(lines, psprintf("events without a handler: %s", definition->unknown));
	return lappend(lines, psprintf("a new version begins with: %s",
								   definition->seed ? definition->seed : "a replay of the outbox from its beginning"));
}
