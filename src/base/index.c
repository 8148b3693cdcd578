/*
 * base/index.c
 *		Entries of a row in indexes that somebody else has made.
 *
 * The server's routine for catalogs knows neither predicates nor expressions, and its executor's wants more of a table than there is below SQL.
 */
#include "postgres.h"

#include "base/index.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "utils/rel.h"

/*
 * insert adds the row to an index that takes it.
 */
static bool
insert(Relation index, Relation heap, TupleTableSlot *slot, IndexUniqueCheck check, bool unchanged, EState *estate)
{
	IndexInfo  *info = BuildIndexInfo(index);
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	bool		unique;

	GetPerTupleExprContext(estate)->ecxt_scantuple = slot;
	if (!ExecQual(ExecPrepareQual(info->ii_Predicate, estate), GetPerTupleExprContext(estate)))
		return true;
	if (!info->ii_Unique)
		check = UNIQUE_CHECK_NO;
	FormIndexDatum(info, slot, estate, values, nulls);
	unique = index_insert(index, values, nulls, &slot->tts_tid, heap, check, unchanged, info);
	return unique || check != UNIQUE_CHECK_PARTIAL;
}

/*
 * cqrs_index_insert adds a row to an index, unless that is not ready for it: whoever builds it will find the row.
 */
bool
cqrs_index_insert(Relation index, Relation heap, TupleTableSlot *slot, IndexUniqueCheck check, bool unchanged)
{
	EState	   *estate;
	bool		unique;

	if (!index->rd_index->indisready)
		return true;
	estate = CreateExecutorState();
	unique = insert(index, heap, slot, check, unchanged, estate);
	FreeExecutorState(estate);
	return unique;
}
