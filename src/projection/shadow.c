/*
 * projection/shadow.c
 *		cqrs.shadow_read: a query that an application asks today, held against the read model that is to take its place.
 *
 * Both are read as the caller, with his rights, the read model through its serving view, in a read-only transaction and under one snapshot.  What the read
 * model has not applied yet is among the differences: the query looks at the sources themselves, and no one can ask it for their state of before.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/transam.h"
#include "base/arguments.h"
#include "base/names.h"
#include "base/position.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "registry/registry.h"
#include "token/token.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"
#include "verify/verify.h"

PG_FUNCTION_INFO_V1(cqrs_shadow_read);

/* One comparison. */
typedef struct Shadow
{
	CqrsProjection *projection;
	CqrsVersion *version;
	char	   *query;
	TupleDesc	ours;			/* the view's columns */
	TupleDesc	theirs;			/* the query's */
	TupleDesc	common;
	AttrNumber *key;			/* into common */
} Shadow;

/*
 * only_select returns the one SELECT in the text, without what ends it.
 */
static char *
only_select(const char *text)
{
	List	   *statements = cqrs_position_parse(text);
	RawStmt    *raw;

	if (list_length(statements) != 1 || !IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the query must be one SELECT"),
				 errhint("Give the query that the application asks; it finds the keys in $1, a jsonb array.")));
	raw = linitial_node(RawStmt, statements);
	if (raw->stmt_len == 0)
		return pstrdup(text + raw->stmt_location);
	return pnstrdup(text + raw->stmt_location, raw->stmt_len);
}

/*
 * find_key finds the key among the columns that both sides have.
 */
static void
find_key(Shadow *shadow)
{
	shadow->key = palloc(sizeof(AttrNumber) * Max(shadow->version->nkeys, 1));
	for (int i = 0; i < shadow->version->nkeys; i++)
	{
		char	   *name = get_attname(shadow->version->table, shadow->version->key[i], false);

		shadow->key[i] = cqrs_verify_column(shadow->common, name);
		if (shadow->key[i] == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("the query has no column \"%s\"", name),
					 errdetail("It is of the projection's key, by which rows are compared."),
					 errhint("Have the query select it.")));
	}
}

/*
 * check_types raises unless the columns that both sides have are of the same type on both.
 */
static void
check_types(const Shadow *shadow)
{
	for (int i = 0; i < shadow->ours->natts; i++)
	{
		Form_pg_attribute ours = TupleDescAttr(shadow->ours, i);
		AttrNumber	theirs = cqrs_verify_column(shadow->theirs, NameStr(ours->attname));
		Oid			type = theirs ? TupleDescAttr(shadow->theirs, theirs - 1)->atttypid : ours->atttypid;

		if (type != ours->atttypid)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" has another type in the query than in the projection", NameStr(ours->attname)),
					 errdetail("It is %s instead of %s.", format_type_be(type), format_type_be(ours->atttypid)),
					 errhint("Cast it in the query.")));
	}
}

/*
 * is_nullable tells whether a column of the version's table can be null.
 */
static bool
is_nullable(Oid table, AttrNumber column)
{
	Relation	relation = relation_open(table, AccessShareLock);
	bool		result = !TupleDescAttr(RelationGetDescr(relation), column - 1)->attnotnull;

	relation_close(relation, AccessShareLock);
	return result;
}

/*
 * append_equal writes the condition that a key column of row q is that of the key k; where it can be null, that it is likewise null.
 */
static void
append_equal(StringInfo sql, Form_pg_attribute column, bool nullable)
{
	const char *name = cqrs_name_identifier(NameStr(column->attname));
	Oid			operator = lookup_type_cache(column->atttypid, TYPECACHE_EQ_OPR)->eq_opr;

	appendStringInfo(sql, nullable ? "(k.%s %s q.%s OR k.%s IS NULL AND q.%s IS NULL)" : "k.%s %s q.%s", name,
					 cqrs_name_operator(operator), name, name, name);
}

/*
 * among_keys writes the condition that the key of row q is one of those given as $1.
 */
static char *
among_keys(const Shadow *shadow)
{
	StringInfoData equal;

	if (shadow->version->nkeys == 0)
		return "pg_catalog.jsonb_array_length($1) OPERATOR(pg_catalog.>) 0";
	initStringInfo(&equal);
	for (int i = 0; i < shadow->version->nkeys; i++)
	{
		Form_pg_attribute column = TupleDescAttr(shadow->common, shadow->key[i] - 1);

		appendStringInfoString(&equal, i ? " AND " : "");
		append_equal(&equal, column, is_nullable(shadow->version->table, shadow->version->key[i]));
	}
	return psprintf("EXISTS (SELECT FROM pg_catalog.jsonb_to_recordset($1) AS k(%s) WHERE %s)",
					cqrs_verify_key_columns(shadow->version), equal.data);
}

/*
 * describe finds the columns of both sides.
 */
static void
describe(Shadow *shadow)
{
	Oid			type = JSONBOID;
	MemoryContext caller = CurrentMemoryContext;

	shadow->ours = cqrs_verify_columns(shadow->projection->view);
	cqrs_spi_connect();
	MemoryContextSwitchTo(caller);
	shadow->theirs = cqrs_spi_columns(cqrs_spi_prepare(shadow->query, 1, &type, false));
	cqrs_spi_finish();
	check_types(shadow);
	shadow->common = cqrs_verify_common(shadow->theirs, "the query", shadow->ours, "the projection");
	find_key(shadow);
}

/*
 * newest_ended returns the newest transaction that had ended when a snapshot was taken, also one of a standby.
 */
static FullTransactionId
newest_ended(Snapshot snapshot)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32		ahead = XidFromFullTransactionId(next) - snapshot->xmax;
	FullTransactionId newest = FullTransactionIdFromU64(U64FromFullTransactionId(next) - ahead);

	FullTransactionIdRetreat(&newest);
	return newest;
}

/*
 * note_lag says that some differences may be gone in a moment.
 */
static void
note_lag(const Shadow *shadow)
{
	if (!cqrs_token_applied(shadow->version, newest_ended(GetActiveSnapshot())))
		ereport(NOTICE,
				(errmsg("projection \"%s\" has not applied all changes yet", cqrs_name_shown(shadow->projection->view)),
				 errdetail("What it has not applied may be among the differences."),
				 errhint("Wait for a token with cqrs.wait_for, and compare again.")));
}

/*
 * compare reads both sides, and puts the differences into the result.
 */
static void
compare(const Shadow *shadow, Datum keys, ReturnSetInfo *result)
{
	static const Oid types[] = {JSONBOID};
	char	   *condition = among_keys(shadow);
	CqrsDifferenceRows rows = {.desc = result->setDesc, .rows = result->setResult};
	CqrsSide	side = {.nargs = 1, .types = types, .values = &keys};
	CqrsComparison comparison = {
		.left = side,
		.right = side,
		.row = shadow->common,
		.nkeys = shadow->version->nkeys,
		.key = shadow->key,
		.sink = cqrs_verify_put,
		.argument = &rows,
	};

	comparison.left.from = psprintf("(\n%s\n) AS q WHERE %s", shadow->query, condition);
	comparison.right.from = psprintf("%s AS q WHERE %s", cqrs_name_relation(shadow->projection->view), condition);
	cqrs_verify_merge(&comparison, GetActiveSnapshot());
	if (tuplestore_tuple_count(rows.rows) > 0)
		note_lag(shadow);
}

/*
 * cqrs.shadow_read(projection regclass, query text, keys jsonb) RETURNS TABLE(key jsonb, difference text, theirs jsonb, ours jsonb)
 *
 * Runs a query, as the caller and without a right to write, and compares its rows for some keys with those of the projection, in the columns that both
 * have.  The query, which is given the keys as $1, may yield rows of other keys: they do not count.  'difference' is missing (the projection has no such
 * row), extra (the query has none) or different.
 *
 * Errors: 22004 a null; 42809 not a projection; 42601 not one SELECT; 22023 keys that are none; 42703 a column of the key is not in the query; 42804 a
 * column of another type; 25006 the query writes; 55000 a projection that does not serve yet; and the query's own.
 */
Datum
cqrs_shadow_read(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"projection", "query", "keys"};
	Shadow		shadow = {0};
	int			level = NewGUCNestLevel();

	for (int i = 0; i < (int) lengthof(names); i++)
		if (PG_ARGISNULL(i))
			cqrs_arguments_refuse_null(names[i]);
	(void) set_config_option("transaction_read_only", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	shadow.projection = cqrs_projection_argument(PG_GETARG_OID(0));
	shadow.version = cqrs_version_serving(shadow.projection->id);
	shadow.query = only_select(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	cqrs_verify_check_keyed(shadow.version);
	cqrs_verify_check_keys(shadow.version, PG_GETARG_JSONB_P(2));
	describe(&shadow);
	InitMaterializedSRF(fcinfo, 0);
	compare(&shadow, PG_GETARG_DATUM(2), (ReturnSetInfo *) fcinfo->resultinfo);
	AtEOXact_GUC(false, level);
	return (Datum) 0;
}
