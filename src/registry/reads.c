/*
 * registry/reads.c
 *		Versions that read projections, and the groups that they make.
 *
 * A version whose query names the serving view of a projection reads the table of the version that serves it.  Versions so connected are a group: they are
 * applied in one transaction, so those that have kept up have one checkpoint.  From that, and from the version over which a table was computed, anybody can
 * tell whether a reader has missed changes of what it reads; nobody needs to be told.
 *
 * No policy: what becomes of a group is apply/'s business.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/names.h"
#include "miscadmin.h"
#include "registry/registry.h"
#include "registry/rows.h"

enum
{
	COL_VERSION, COL_PROJECTION, COL_OVER, COL_COUNT
};

/*
 * read_row makes a CqrsRead of a row.
 */
static void *
read_row(const Datum *values, const bool *nulls)
{
	CqrsRead   *row = palloc(sizeof(CqrsRead));

	row->version = DatumGetInt32(values[COL_VERSION]);
	row->projection = DatumGetInt32(values[COL_PROJECTION]);
	row->over = DatumGetInt32(values[COL_OVER]);
	return row;
}

/*
 * of_version starts a scan for what one version reads.
 */
static CqrsRowScan
of_version(int32 version)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_VERSION_READ, .index = "version_read_pkey"};

	if (version != 0)
		cqrs_rows_key_int4(&scan, COL_VERSION + 1, version);
	return scan;
}

/*
 * cqrs_read_list returns what a version reads, or with 0 all versions.
 */
List *
cqrs_read_list(int32 version)
{
	CqrsRowScan scan = of_version(version);

	return cqrs_rows_read(&scan, read_row);
}

/*
 * insert_read writes a row.
 */
static void
insert_read(int32 version, int32 projection, int32 over)
{
	Datum		values[COL_COUNT];
	bool		nulls[COL_COUNT] = {false};

	values[COL_VERSION] = Int32GetDatum(version);
	values[COL_PROJECTION] = Int32GetDatum(projection);
	values[COL_OVER] = Int32GetDatum(over);
	cqrs_rows_insert(CQRS_CAT_VERSION_READ, values, nulls);
}

/*
 * cqrs_read_delete removes all that is recorded of the projections that a version reads.
 */
void
cqrs_read_delete(int32 version)
{
	CqrsRowScan scan = of_version(version);

	(void) cqrs_rows_delete(&scan);
}

/*
 * over_of returns over which version of a projection rows were computed, 0 if none.
 */
static int32
over_of(List *reads, int32 projection)
{
	ListCell   *cell;

	foreach(cell, reads)
		if (((CqrsRead *) lfirst(cell))->projection == projection)
			return ((CqrsRead *) lfirst(cell))->over;
	return 0;
}

/*
 * cqrs_read_set records which projections a version reads; over which versions it was computed is kept where it still reads them.
 */
void
cqrs_read_set(int32 version, List *projections)
{
	List	   *before = cqrs_read_list(version);
	ListCell   *cell;

	cqrs_read_delete(version);
	foreach(cell, projections)
		insert_read(version, lfirst_int(cell), over_of(before, lfirst_int(cell)));
}

/*
 * cqrs_read_equals tells whether a version is recorded to read just these projections.
 */
bool
cqrs_read_equals(int32 version, List *projections)
{
	List	   *recorded = cqrs_read_list(version);
	ListCell   *cell;

	foreach(cell, recorded)
		if (!list_member_int(projections, ((CqrsRead *) lfirst(cell))->projection))
			return false;
	return list_length(recorded) == list_length(projections);
}

/*
 * cqrs_read_settle records that a version's table is computed over those that serve now; true if that is news.
 */
bool
cqrs_read_settle(int32 version)
{
	List	   *before = cqrs_read_list(version);
	bool		news = false;
	ListCell   *cell;

	foreach(cell, before)
	{
		CqrsRead   *row = lfirst(cell);
		CqrsVersion *serving = cqrs_version_serving(row->projection);

		news = news || serving == NULL || serving->id != row->over;
		row->over = serving ? serving->id : 0;
	}
	if (!news)
		return false;
	cqrs_read_delete(version);
	foreach(cell, before)
	{
		CqrsRead   *row = lfirst(cell);

		insert_read(version, row->projection, row->over);
	}
	return true;
}

/*
 * cqrs_version_lowers returns the versions that serve what a version reads, or are being built for that.
 */
List *
cqrs_version_lowers(const CqrsVersion *version)
{
	List	   *lowers = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_read_list(version->id))
	{
		CqrsVersion *serving = cqrs_version_serving(((CqrsRead *) lfirst(cell))->projection);

		if (serving != NULL)
			lowers = lappend(lowers, serving);
	}
	return lowers;
}

/*
 * cqrs_projection_readers returns the versions that read a projection, by id; none that is retired.
 */
List *
cqrs_projection_readers(int32 projection)
{
	List	   *readers = NIL;
	ListCell   *cell;

	foreach(cell, cqrs_read_list(0))
	{
		CqrsRead   *row = lfirst(cell);
		CqrsVersion *version = row->projection == projection ? cqrs_version_get(row->version, true) : NULL;

		if (version != NULL && version->state != CQRS_STATE_RETIRED)
			readers = lappend(readers, version);
	}
	return readers;
}

/*
 * table_among returns the version whose table a relation is, of those of a projection or with 0 of all, or NULL.
 */
static CqrsVersion *
table_among(int32 projection, Oid table)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_list(projection))
		if (((CqrsVersion *) lfirst(cell))->table == table)
			return lfirst(cell);
	return NULL;
}

/*
 * cqrs_version_of_table returns the version whose table a relation is, or NULL.
 */
CqrsVersion *
cqrs_version_of_table(Oid table)
{
	return table_among(0, table);
}

/*
 * cqrs_projection_holds tells whether a relation is the table of one of a projection's versions.
 */
bool
cqrs_projection_holds(const CqrsProjection *projection, Oid table)
{
	return table_among(projection->id, table) != NULL;
}

/*
 * cqrs_projection_reads tells whether a projection is, or reads through whatever others, another one.
 */
bool
cqrs_projection_reads(int32 projection, int32 other)
{
	ListCell   *cell;

	check_stack_depth();
	if (projection == other)
		return true;
	foreach(cell, cqrs_version_list(projection))
	{
		CqrsVersion *version = lfirst(cell);
		ListCell   *inner;

		if (version->state == CQRS_STATE_RETIRED)
			continue;
		foreach(inner, cqrs_read_list(version->id))
			if (cqrs_projection_reads(((CqrsRead *) lfirst(inner))->projection, other))
				return true;
	}
	return false;
}

/*
 * cqrs_version_in_step tells whether a version has missed nothing of what it reads: it was computed over the versions that serve now, and has their checkpoint.
 *
 * Of a version that reads no projection that is always so.  One that is not in step is evaluated anew.
 */
bool
cqrs_version_in_step(const CqrsVersion *version)
{
	List	   *reads = cqrs_read_list(version->id);
	CqrsCheckpoint *own = reads ? cqrs_checkpoint_latest(version->id) : NULL;
	ListCell   *cell;

	foreach(cell, reads)
	{
		CqrsRead   *row = lfirst(cell);
		CqrsVersion *serving = cqrs_version_serving(row->projection);
		CqrsCheckpoint *theirs = serving ? cqrs_checkpoint_latest(serving->id) : NULL;

		if (serving == NULL || serving->id != row->over || own == NULL || theirs == NULL ||
			!cqrs_window_equal(own->snapshot, theirs->snapshot))
			return false;
	}
	return true;
}

/*
 * cqrs_version_any asks something of a version and all below it.
 */
bool
cqrs_version_any(const CqrsVersion *version, bool (*test) (const CqrsVersion *))
{
	ListCell   *cell;

	check_stack_depth();
	if (test(version))
		return true;
	foreach(cell, cqrs_version_lowers(version))
		if (cqrs_version_any(lfirst(cell), test))
			return true;
	return false;
}

/*
 * cqrs_version_paused tells whether a version's projection is paused.
 */
bool
cqrs_version_paused(const CqrsVersion *version)
{
	CqrsProjection *projection = cqrs_projection_get(version->projection, true);

	return projection != NULL && projection->paused;
}

/*
 * holds_back tells whether a version keeps those that read it from moving on.
 */
static bool
holds_back(const CqrsVersion *version)
{
	return version->status == CQRS_STATUS_HALTED || cqrs_version_paused(version) || cqrs_version_fails(version) ||
		version->state == CQRS_STATE_BUILDING;
}

/*
 * cqrs_version_held_by returns the version below that keeps one from moving on, the lowest there is: paused, halted, failing, or still being built; or NULL.
 */
CqrsVersion *
cqrs_version_held_by(const CqrsVersion *version)
{
	ListCell   *cell;

	check_stack_depth();
	foreach(cell, cqrs_version_lowers(version))
	{
		CqrsVersion *lower = lfirst(cell);
		CqrsVersion *by = cqrs_version_held_by(lower);

		if (by != NULL)
			return by;
		if (holds_back(lower))
			return lower;
	}
	return NULL;
}

/*
 * add_connected adds to a group what is connected with one of its versions in either direction.
 */
static List *
add_connected(List *members, int32 id, List *reads)
{
	CqrsVersion *version = cqrs_version_get(id, true);
	CqrsVersion *serving;
	ListCell   *cell;

	if (version == NULL || version->state == CQRS_STATE_RETIRED)
		return members;
	serving = cqrs_version_serving(version->projection);
	foreach(cell, reads)
	{
		CqrsRead   *row = lfirst(cell);
		CqrsVersion *other = NULL;

		if (row->version == id)
			other = cqrs_version_serving(row->projection);
		else if (row->projection == version->projection && serving != NULL && serving->id == id)
			other = cqrs_version_get(row->version, true);
		if (other != NULL && other->state != CQRS_STATE_RETIRED)
			members = list_append_unique_int(members, other->id);
	}
	return members;
}

/*
 * cqrs_groups_members returns the ids of the versions of some versions' groups, in the order of ids: those given, and all connected with them.
 */
List *
cqrs_groups_members(List *versions)
{
	List	   *members = list_copy(versions);
	List	   *reads = cqrs_read_list(0);

	for (int i = 0; reads != NIL && i < list_length(members); i++)
		members = add_connected(members, list_nth_int(members, i), reads);
	list_sort(members, list_int_cmp);
	return members;
}

/*
 * cqrs_group_members returns the ids of the versions of one version's group.
 */
List *
cqrs_group_members(int32 version)
{
	return cqrs_groups_members(list_make1_int(version));
}

/*
 * cqrs_groups_lock locks all versions of some versions' groups, in the order of ids, in which everybody does; with nowait false if another process holds one.
 *
 * Asked again once they are locked who belongs to them: somebody may have joined meanwhile.
 */
bool
cqrs_groups_lock(List *versions, bool nowait)
{
	List	   *locked = NIL;

	for (;;)
	{
		List	   *missing = list_difference_int(cqrs_groups_members(versions), locked);
		ListCell   *cell;

		if (missing == NIL)
			return true;
		foreach(cell, missing)
			if (!cqrs_version_lock(lfirst_int(cell), nowait))
				return false;
		locked = list_concat(locked, missing);
	}
}

/*
 * cqrs_group_lock locks all versions of one version's group.
 */
bool
cqrs_group_lock(int32 version, bool nowait)
{
	return cqrs_groups_lock(list_make1_int(version), nowait);
}

/*
 * cqrs_read_note_switch records in history that the readers of a projection have to be evaluated anew, because another version serves it from now on.
 *
 * That they have to nobody needs to be told: they are out of step by then.
 */
void
cqrs_read_note_switch(const CqrsProjection *projection, int32 number)
{
	char	   *reason = psprintf("projection \"%s\", which it reads, was switched to version %d",
								  cqrs_name_shown(projection->view), number);
	ListCell   *cell;

	foreach(cell, cqrs_projection_readers(projection->id))
	{
		CqrsVersion *reader = lfirst(cell);

		if (cqrs_checkpoint_latest(reader->id) != NULL)
			cqrs_history_insert(reader->projection, cqrs_projection_get(reader->projection, false)->view, reader->number,
								"stale", cqrs_status_name(reader->status), cqrs_status_name(CQRS_STATUS_STALE), reason);
	}
}
