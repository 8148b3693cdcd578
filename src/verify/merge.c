/*
 * verify/merge.c
 *		Two sides as two ordered streams, merged by key into their differences.
 *
 * Both are read once, in the order of the key, so memory holds one key's rows at a time.  A key may have several rows on either side; then every row
 * must find its equal.  Leaves what equal means to equal.c, and what becomes of a difference to the caller's sink.
 *
 * Wants a transaction and all that is read locked.  Works in SPI's memory, freed at the end.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/names.h"
#include "base/spi.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"
#include "verify/equal.h"
#include "verify/verify.h"

/* One column of the key: where it stands in the rows, and the order both streams come in. */
typedef struct KeyColumn
{
	AttrNumber	position;
	TypeCacheEntry *type;
	Oid			collation;
} KeyColumn;

/* One relation's stream; 'next' is the first row not taken yet, NULL at the end. */
typedef struct Side
{
	CqrsStatement *statement;
	CqrsCursor *cursor;
	HeapTuple	next;
	List	   *rows;			/* of the key in hand that have found no equal */
} Side;

typedef struct Merge
{
	const CqrsComparison *comparison;
	TupleDesc	row;			/* the columns compared */
	int			nkeys;
	KeyColumn  *key;
	TupleDesc	key_desc;
	Side		sides[2];		/* left, right */
	MemoryContext group;		/* of the rows of one key */
} Merge;

/* Names under which rows in stores are read. */
static const char *const offered[] = {"cqrs_left", "cqrs_right"};

/*
 * copy_column describes column 'position' of one of our rows as a column of those compared.
 */
static void
copy_column(TupleDesc desc, AttrNumber position, Form_pg_attribute column)
{
	TupleDescInitEntry(desc, position, NameStr(column->attname), column->atttypid, column->atttypmod, column->attndims);
	TupleDescInitEntryCollation(desc, position, column->attcollation);
}

/*
 * add_key makes column 'position' of the rows number 'index' of the key.
 */
static void
add_key(Merge *merge, int index, AttrNumber position, Form_pg_attribute column)
{
	KeyColumn  *key = &merge->key[index];

	key->position = position;
	key->collation = column->attcollation;
	key->type = lookup_type_cache(column->atttypid, TYPECACHE_CMP_PROC_FINFO);
	if (!OidIsValid(key->type->cmp_proc_finfo.fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("could not identify a comparison function for type %s", format_type_be(column->atttypid)),
				 errdetail("Column \"%s\" of the key has that type.", NameStr(column->attname))));
	copy_column(merge->key_desc, index + 1, column);
}

/*
 * key_index_of returns which column of the comparison's key a column of the rows is, or -1.
 */
static int
key_index_of(const CqrsComparison *comparison, AttrNumber position)
{
	for (int i = 0; i < comparison->nkeys; i++)
		if (comparison->key[i] == position)
			return i;
	return -1;
}

/*
 * describe makes the types of the rows and of their key, known to whoever is handed one.
 */
static void
describe(Merge *merge)
{
	TupleDesc	desc = merge->comparison->row;

	merge->row = CreateTemplateTupleDesc(desc->natts);
	merge->nkeys = merge->comparison->nkeys;
	merge->key = palloc0(sizeof(KeyColumn) * Max(merge->nkeys, 1));
	merge->key_desc = CreateTemplateTupleDesc(merge->nkeys);
	for (AttrNumber position = 1; position <= desc->natts; position++)
	{
		int			key_index = key_index_of(merge->comparison, position);

		copy_column(merge->row, position, TupleDescAttr(desc, position - 1));
		if (key_index >= 0)
			add_key(merge, key_index, position, TupleDescAttr(desc, position - 1));
	}
	BlessTupleDesc(merge->row);
	BlessTupleDesc(merge->key_desc);
}

/*
 * select_text writes the SELECT that streams a side: the merge's columns, in the order of its key.
 *
 * The collation is spelled out: a definition's column may have none that ORDER BY could take by itself.
 */
static char *
select_text(const Merge *merge, const char *from)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < merge->row->natts; i++)
		appendStringInfo(&sql, "%sq.%s", i ? ", " : "",
						 cqrs_name_identifier(NameStr(TupleDescAttr(merge->row, i)->attname)));
	appendStringInfo(&sql, " FROM %s", from);
	for (int i = 0; i < merge->nkeys; i++)
	{
		const KeyColumn *key = &merge->key[i];

		appendStringInfo(&sql, "%sq.%s", i ? ", " : " ORDER BY ",
						 cqrs_name_identifier(NameStr(TupleDescAttr(merge->row, key->position - 1)->attname)));
		if (OidIsValid(key->collation))
			appendStringInfo(&sql, " COLLATE %s", generate_collation_name(key->collation));
		appendStringInfoString(&sql, " ASC NULLS LAST");
	}
	return sql.data;
}

/*
 * advance moves a side on by one row, and checks that it is of the types compared: both sides are read as rows of one descriptor.
 */
static void
advance(const Merge *merge, Side *side)
{
	MemoryContext caller = CurrentMemoryContext;
	TupleDesc	desc = NULL;

	side->next = cqrs_spi_fetch(side->cursor, &desc);
	MemoryContextSwitchTo(caller);	/* fetching leaves us in SPI's */
	if (side->next == NULL)
		return;
	for (int i = 0; i < merge->row->natts; i++)
		if (TupleDescAttr(desc, i)->atttypid != TupleDescAttr(merge->row, i)->atttypid)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" has another type on one side than on the other",
							NameStr(TupleDescAttr(desc, i)->attname)),
					 errdetail("It is %s instead of %s.", format_type_be(TupleDescAttr(desc, i)->atttypid),
							   format_type_be(TupleDescAttr(merge->row, i)->atttypid))));
}

/*
 * compare_keys orders two rows by key as the streams do: nulls last and equal to each other.
 */
static int
compare_keys(const Merge *merge, HeapTuple left, HeapTuple right)
{
	for (int i = 0; i < merge->nkeys; i++)
	{
		const KeyColumn *key = &merge->key[i];
		bool		left_null;
		bool		right_null;
		Datum		left_value = heap_getattr(left, key->position, merge->row, &left_null);
		Datum		right_value = heap_getattr(right, key->position, merge->row, &right_null);
		int			order;

		if (left_null || right_null)
			order = (int) left_null - (int) right_null;
		else
			order = DatumGetInt32(FunctionCall2Coll(&key->type->cmp_proc_finfo, key->collation,
													left_value, right_value));
		if (order != 0)
			return order;
	}
	return 0;
}

/*
 * take_rows moves the rows of key 'of' from a stream to the side's list, as copies in the group's memory.
 */
static void
take_rows(const Merge *merge, Side *side, HeapTuple of)
{
	while (side->next != NULL && compare_keys(merge, side->next, of) == 0)
	{
		CHECK_FOR_INTERRUPTS();
		side->rows = lappend(side->rows, heap_copytuple(side->next));
		advance(merge, side);
	}
}

/*
 * match_rows takes out of both lists the rows that find their equal.
 *
 * Each left one looks through the right ones.  Tables have a unique index on the key, so one of the lists has but a row, or two.
 */
static void
match_rows(Merge *merge)
{
	List	   *unmatched = NIL;
	ListCell   *left;
	ListCell   *right;

	foreach(left, merge->sides[0].rows)
	{
		bool		found = false;

		foreach(right, merge->sides[1].rows)
		{
			if (!cqrs_verify_rows_equal(merge->row, lfirst(left), lfirst(right)))
				continue;
			merge->sides[1].rows = foreach_delete_current(merge->sides[1].rows, right);
			found = true;
			break;
		}
		if (!found)
			unmatched = lappend(unmatched, lfirst(left));
	}
	merge->sides[0].rows = unmatched;
}

/*
 * form_key makes the key's tuple from a row.
 */
static HeapTuple
form_key(const Merge *merge, HeapTuple row)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(merge->nkeys, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(merge->nkeys, 1));

	for (int i = 0; i < merge->nkeys; i++)
		values[i] = heap_getattr(row, merge->key[i].position, merge->row, &nulls[i]);
	return heap_form_tuple(merge->key_desc, values, nulls);
}

/*
 * report_rows hands what found no equal to the sink: the k-th of one side against the k-th of the other, then what is left of the longer.
 */
static void
report_rows(const Merge *merge, HeapTuple least)
{
	int			nleft = list_length(merge->sides[0].rows);
	int			nright = list_length(merge->sides[1].rows);
	CqrsDifferentRows rows = {.key_desc = merge->key_desc, .row_desc = merge->row};

	if (nleft == 0 && nright == 0)
		return;
	rows.key = form_key(merge, least);
	for (int k = 0; k < Max(nleft, nright); k++)
	{
		rows.left = k < nleft ? list_nth(merge->sides[0].rows, k) : NULL;
		rows.right = k < nright ? list_nth(merge->sides[1].rows, k) : NULL;
		if (rows.right == NULL)
			rows.difference = CQRS_MISSING;
		else if (rows.left == NULL)
			rows.difference = CQRS_EXTRA;
		else
			rows.difference = CQRS_DIFFERENT;
		merge->comparison->sink(merge->comparison->argument, &rows);
	}
}

/*
 * merge_key compares the rows of the least key that either stream still has; false when both are at their end.
 */
static bool
merge_key(Merge *merge)
{
	HeapTuple	left = merge->sides[0].next;
	HeapTuple	right = merge->sides[1].next;
	HeapTuple	least = left;

	if (left == NULL && right == NULL)
		return false;
	if (left == NULL || (right != NULL && compare_keys(merge, right, left) < 0))
		least = right;
	least = heap_copytuple(least);
	for (int side = 0; side < 2; side++)
	{
		merge->sides[side].rows = NIL;
		take_rows(merge, &merge->sides[side], least);
	}
	match_rows(merge);
	report_rows(merge, least);
	return true;
}

/*
 * open_side starts the stream of a side, number 'number'; rows that are in a store are offered under a name of our own.
 */
static void
open_side(Merge *merge, int number, const CqrsSide *from, Snapshot snapshot)
{
	Side	   *side = &merge->sides[number];
	const char *text = from->from;

	if (from->rows != NULL)
	{
		cqrs_spi_offer(offered[number], merge->row, from->rows, from->nrows);
		text = psprintf("%s AS q", offered[number]);
	}
	side->statement = cqrs_spi_prepare(select_text(merge, text), from->nargs, unconstify(Oid *, from->types), false);
	side->cursor = cqrs_spi_open(side->statement, from->nargs > 0 ? from->values : NULL, snapshot);
	advance(merge, side);
}

/*
 * close_side ends the stream of a side.
 */
static void
close_side(Merge *merge, int number, const CqrsSide *from)
{
	cqrs_spi_close(merge->sides[number].cursor);
	cqrs_spi_free(merge->sides[number].statement);
	if (from->rows != NULL)
		cqrs_spi_withdraw(offered[number]);
}

/*
 * cqrs_verify_merge compares two sides under a snapshot and hands each difference to the sink.
 */
void
cqrs_verify_merge(const CqrsComparison *comparison, Snapshot snapshot)
{
	Merge		merge = {.comparison = comparison};
	MemoryContext outer;

	cqrs_spi_connect();
	describe(&merge);
	open_side(&merge, 0, &comparison->left, snapshot);
	open_side(&merge, 1, &comparison->right, snapshot);
	merge.group = AllocSetContextCreate(CurrentMemoryContext, "cqrs verify key", ALLOCSET_DEFAULT_SIZES);
	outer = MemoryContextSwitchTo(merge.group);
	while (merge_key(&merge))
		MemoryContextReset(merge.group);
	MemoryContextSwitchTo(outer);
	close_side(&merge, 0, &comparison->left);
	close_side(&merge, 1, &comparison->right);
	cqrs_spi_finish();
}
