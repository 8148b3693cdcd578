/*
 * verify/common.c
 *		The columns in which two relations can be compared.
 *
 * Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/relation.h"
#include "lib/stringinfo.h"
#include "utils/rel.h"
#include "verify/verify.h"

/*
 * cqrs_verify_columns describes the columns of a relation that are not dropped.
 */
TupleDesc
cqrs_verify_columns(Oid relation)
{
	Relation	rel = relation_open(relation, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	TupleDesc	result;
	AttrNumber	live = 0;

	for (int i = 0; i < desc->natts; i++)
		live += TupleDescAttr(desc, i)->attisdropped ? 0 : 1;
	result = CreateTemplateTupleDesc(live);
	live = 0;
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			TupleDescCopyEntry(result, ++live, desc, i + 1);
	relation_close(rel, NoLock);
	return result;
}

/*
 * cqrs_verify_column returns the number of the column of a name, or 0.
 */
AttrNumber
cqrs_verify_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) == 0)
			return i + 1;
	return 0;
}

/*
 * is_common tells whether a column is there on the other side, with the same type.
 */
static bool
is_common(Form_pg_attribute column, TupleDesc other)
{
	AttrNumber	number = cqrs_verify_column(other, NameStr(column->attname));

	return number != 0 && TupleDescAttr(other, number - 1)->atttypid == column->atttypid;
}

/*
 * note_others tells of columns of a side that are not compared, as the other does not have them, or with other types.
 */
static void
note_others(TupleDesc desc, TupleDesc other, bool of_other_types, const char *why)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);

		if (!is_common(TupleDescAttr(desc, i), other) && (cqrs_verify_column(other, name) != 0) == of_other_types)
			appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "", name);
	}
	if (names.len > 0)
		ereport(NOTICE,
				(errmsg("not compared, since %s: %s", why, names.data)));
}

/*
 * cqrs_verify_common describes the columns that two sides have with the same name and type, in the order of the right one.
 */
TupleDesc
cqrs_verify_common(TupleDesc left, const char *left_name, TupleDesc right, const char *right_name)
{
	TupleDesc	common = CreateTemplateTupleDesc(right->natts);
	AttrNumber	count = 0;

	for (int i = 0; i < right->natts; i++)
		if (is_common(TupleDescAttr(right, i), left))
			TupleDescCopyEntry(common, ++count, right, i + 1);
	common->natts = count;
	note_others(left, right, false, psprintf("only %s has them", left_name));
	note_others(right, left, false, psprintf("only %s has them", right_name));
	note_others(right, left, true, "their types differ");
	return common;
}
