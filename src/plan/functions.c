/*
 * plan/functions.c
 *		What is known of the server's own functions: which answer from more than their arguments and settings, and which depend on the order of rows.
 *
 * Tables, and the look-up in them.  Functions of users cannot be known.  No memory is allocated, no lock taken.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "plan/query.h"
#include "utils/fmgroids.h"
#include "utils/syscache.h"

/* A name, or with a '*' at its end the beginning of names, and what such a function answers from; NULL: nothing. */
typedef struct Known
{
	const char *name;
	const char *from;
} Known;

/* The first entry that fits counts. */
static const Known known[] = {
	/* clock; age() of one argument is told by its OID */
	{"clock_timestamp", "the clock"},
	{"now", "the clock"},
	{"pg_conf_load_time", "the clock"},
	{"pg_postmaster_start_time", "the clock"},
	{"statement_timestamp", "the clock"},
	{"timeofday", "the clock"},
	{"transaction_timestamp", "the clock"},

	/* transaction */
	{"mxid_age", "the transaction"},
	{"pg_current_snapshot", "the transaction"},
	{"pg_current_xact_id*", "the transaction"},
	{"pg_xact_status", "the transaction"},
	{"txid_current*", "the transaction"},
	{"txid_status", "the transaction"},

	/* role */
	{"current_user", "the role"},
	{"getpgusername", "the role"},
	{"has_*", "the role"},
	{"pg_has_role", "the role"},
	{"row_security_active", "the role"},
	{"session_user", "the role"},

	/* session */
	{"current_*", "the session"},
	{"currval", "the session"},
	{"inet_client_*", "the session"},
	{"inet_server_*", "the session"},
	{"lastval", "the session"},
	{"pg_backend_pid", "the session"},
	{"pg_client_encoding", "the session"},
	{"pg_cursor", "the session"},
	{"pg_is_other_temp_schema", "the session"},
	{"pg_listening_channels", "the session"},
	{"pg_my_temp_schema", "the session"},
	{"pg_prepared_statement", "the session"},
	{"pg_trigger_depth", "the session"},
	{"set_config", "the session"},

	/* storage */
	{"pg_column_compression", "how values are stored"},
	{"pg_column_size", "how values are stored"},

	/* of pg_*, these answer from their arguments only */
	{"pg_char_to_encoding", NULL},
	{"pg_collation_for", NULL},
	{"pg_dependencies_*", NULL},
	{"pg_encoding_to_char", NULL},
	{"pg_get_keywords", NULL},
	{"pg_mcv_list_*", NULL},
	{"pg_ndistinct_*", NULL},
	{"pg_node_tree_*", NULL},
	{"pg_typeof", NULL},

	/* what the server knows of itself, which nothing captures */
	{"pg_*", "the system catalogs"},
	{"col_description", "the system catalogs"},
	{"database_to_xml*", "tables that it does not name"},
	{"format_type", "the system catalogs"},
	{"obj_description", "the system catalogs"},
	{"oidvectortypes", "the system catalogs"},
	{"regclass*", "the system catalogs"},
	{"regcollation*", "the system catalogs"},
	{"regconfig*", "the system catalogs"},
	{"regdictionary*", "the system catalogs"},
	{"regnamespace*", "the system catalogs"},
	{"regoper*", "the system catalogs"},
	{"regproc*", "the system catalogs"},
	{"regrole*", "the system catalogs"},
	{"regtype*", "the system catalogs"},
	{"schema_to_xml*", "tables that it does not name"},
	{"shobj_description", "the system catalogs"},
	{"table_to_xml*", "tables that it does not name"},
	{"to_reg*", "the system catalogs"},
	{"version", "the server's version"},
};

/* Functions over many rows whose answer depends on the order in which rows come. */
static const Oid ordered[] = {
	F_ARRAY_AGG_ANYNONARRAY, F_ARRAY_AGG_ANYARRAY, F_STRING_AGG_TEXT_TEXT, F_STRING_AGG_BYTEA_BYTEA,
	F_JSON_AGG, F_JSONB_AGG, F_JSON_OBJECT_AGG, F_JSONB_OBJECT_AGG, F_XMLAGG,
	F_ROW_NUMBER, F_NTILE, F_FIRST_VALUE, F_LAST_VALUE, F_NTH_VALUE,
	F_LAG_ANYELEMENT, F_LAG_ANYELEMENT_INT4, F_LAG_ANYCOMPATIBLE_INT4_ANYCOMPATIBLE,
	F_LEAD_ANYELEMENT, F_LEAD_ANYELEMENT_INT4, F_LEAD_ANYCOMPATIBLE_INT4_ANYCOMPATIBLE,
};

/*
 * fits tells whether a name is one that an entry means.
 */
static bool
fits(const char *pattern, const char *name)
{
	size_t		length = strlen(pattern);

	if (pattern[length - 1] == '*')
		return strncmp(pattern, name, length - 1) == 0;
	return strcmp(pattern, name) == 0;
}

/*
 * cqrs_function_answers_from looks a function up that is not immutable.
 */
const char *
cqrs_function_answers_from(Oid function)
{
	const char *result = NULL;
	HeapTuple	tuple;
	char	   *name;

	if (function == F_AGE_TIMESTAMP || function == F_AGE_TIMESTAMPTZ || function == F_AGE_XID)
		return function == F_AGE_XID ? "the transaction" : "the clock";
	if (function >= FirstUnpinnedObjectId)
		return NULL;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	name = NameStr(((Form_pg_proc) GETSTRUCT(tuple))->proname);
	for (int i = 0; i < (int) lengthof(known); i++)
	{
		if (!fits(known[i].name, name))
			continue;
		result = known[i].from;
		break;
	}
	ReleaseSysCache(tuple);
	return result;
}

/*
 * cqrs_function_wants_order tells whether an aggregate or window function depends on the order of rows.
 */
bool
cqrs_function_wants_order(Oid function)
{
	for (int i = 0; i < (int) lengthof(ordered); i++)
		if (ordered[i] == function)
			return true;
	return false;
}
