/*
 * plan/relation.c
 *		Which relations a projection's query may read, and why not the others.
 *
 * Reads the system caches and our own registry; takes no locks beyond those of whoever analyzed the query.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/names.h"
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "plan/query.h"
#include "registry/registry.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

/* A refusal in words: what the relation is, why that cannot be, what to do. */
typedef struct Refusal
{
	const char *what;
	const char *why;
	const char *hint;
} Refusal;

static const Refusal foreign = {
	.what = "foreign table",
	.why = "Its changes happen elsewhere and cannot be captured.",
	.hint = "Keep a local copy, for instance by logical replication, and read that.",
};
static const Refusal materialized = {
	.what = "materialized view",
	.why = "REFRESH replaces its rows without triggers.",
	.hint = "Write its query into the projection's.",
};
static const Refusal sequence = {
	.what = "sequence",
	.why = "Its changes are not transactional and cannot be captured.",
	.hint = "Leave it out of the query.",
};
static const Refusal temporary = {
	.what = "temporary relation",
	.why = "It belongs to one session; the read model is maintained by others.",
	.hint = "Use a permanent table.",
};
static const Refusal unlogged = {
	.what = "unlogged table",
	.why = "A crash empties it, and no trigger would tell.",
	.hint = "Make it logged with ALTER TABLE … SET LOGGED.",
};
static const Refusal catalog = {
	.what = "system catalog",
	.why = "Changes of system catalogs cannot be captured.",
	.hint = "Compute what you need of them in a view above the projection.",
};
static const Refusal ours = {
	.what = "relation of the extension",
	.why = "What the extension keeps for itself is not captured.",
	.hint = "Read it in a view above the projection.",
};
static const Refusal version = {
	.what = "table or definition of a version",
	.why = "Another version may serve the projection tomorrow.",
	.hint = "Read the projection's serving view.",
};
static const Refusal secured = {
	.what = "table with row security",
	.why = "Its row security applies to the owner of the projection, who would see some of its rows only.",
	.hint = "Exempt the owner with BYPASSRLS, or filter rows in the query or in a view above the projection.",
};

/*
 * is_of_version tells whether a relation is the table or definition of a version.
 */
static bool
is_of_version(Oid relation)
{
	ListCell   *cell;

	foreach(cell, cqrs_version_list(0))
	{
		CqrsVersion *version = lfirst(cell);

		if (version->table == relation || version->definition == relation)
			return true;
	}
	return false;
}

/*
 * is_ours tells whether a relation lives in a schema of the extension.
 */
static bool
is_ours(Oid relation)
{
	char	   *schema = get_namespace_name(get_rel_namespace(relation));

	return schema != NULL && (strcmp(schema, "cqrs") == 0 || strcmp(schema, "cqrs_internal") == 0);
}

/*
 * refusal_of_kind returns what is against a relation by its row in pg_class, or NULL.
 */
static const Refusal *
refusal_of_kind(Oid relation, Form_pg_class form)
{
	switch (form->relkind)
	{
		case RELKIND_FOREIGN_TABLE:
			return &foreign;
		case RELKIND_MATVIEW:
			return &materialized;
		case RELKIND_SEQUENCE:
			return &sequence;
		case RELKIND_VIEW:
			return form->relpersistence == RELPERSISTENCE_TEMP ? &temporary : NULL;
	}
	if (IsSystemClass(relation, form))
		return &catalog;
	if (form->relpersistence == RELPERSISTENCE_TEMP)
		return &temporary;
	if (form->relpersistence == RELPERSISTENCE_UNLOGGED)
		return &unlogged;
	return NULL;
}

/*
 * refusal_of_part returns what is against a relation by the kind that it is now, or NULL.
 */
static const Refusal *
refusal_of_part(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	const Refusal *refusal;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	refusal = refusal_of_kind(relation, (Form_pg_class) GETSTRUCT(tuple));
	ReleaseSysCache(tuple);
	return refusal;
}

/*
 * refusal_of_tree returns what is against a relation or one below it, or NULL; 'part' gets which.
 */
static const Refusal *
refusal_of_tree(Oid relation, Oid *part)
{
	const Refusal *refusal = refusal_of_part(relation);
	ListCell   *cell;

	*part = relation;
	if (refusal != NULL)
		return refusal;
	foreach(cell, cqrs_tree_members(relation))
	{
		*part = lfirst_oid(cell);
		refusal = refusal_of_part(*part);
		if (refusal != NULL)
			return refusal;
	}
	*part = relation;
	return NULL;
}

/*
 * refusal_of returns what is against a relation as a source for an owner, or NULL; 'part' gets what it is about.
 */
static const Refusal *
refusal_of(Oid relation, Oid owner, Oid *part)
{
	const Refusal *refusal = refusal_of_tree(relation, part);

	if (refusal != NULL)
		return refusal;
	if (is_of_version(relation))
		return &version;
	if (is_ours(relation))
		return &ours;
	if (check_enable_rls(relation, owner, true) == RLS_ENABLED)
		return &secured;
	return NULL;
}

/*
 * read_through says, for a detail, how a relation that is not in the user's text comes to be read.
 */
static const char *
read_through(Oid relation, Oid part, Oid view)
{
	const char *below = part == relation ? "" : psprintf(" It is read as a part of %s.", cqrs_name_shown(relation));

	return OidIsValid(view) ? psprintf("%s It is read through the view %s.", below, cqrs_name_shown(view)) : below;
}

/*
 * cqrs_relation_check refuses what cannot be a source, with the view that brought it in, if one did.
 */
void
cqrs_relation_check(const CqrsCheck *check, Oid relation, Oid owner, int place, Oid through)
{
	Oid			part;
	const Refusal *refusal = refusal_of(relation, owner, &part);

	if (refusal == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a projection cannot read %s %s", refusal->what, cqrs_name_shown(part)),
			 errdetail("%s%s", refusal->why, read_through(relation, part, through)),
			 errhint("%s", refusal->hint),
			 cqrs_check_position(check, place)));
}

/*
 * cqrs_relation_recheck refuses a source that was fit when the projection was created and has changed its kind since, or got a part that is not.
 *
 * The version fails meanwhile, exact at its old checkpoint, and heals when the change is taken back.
 */
void
cqrs_relation_recheck(Oid relation)
{
	Oid			part;
	const Refusal *refusal = refusal_of_tree(relation, &part);

	if (refusal == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a projection cannot read %s %s", refusal->what, cqrs_name_shown(part)),
			 part == relation ?
			 errdetail("%s It was another kind of relation when the projection was created.", refusal->why) :
			 errdetail("%s%s It was not, or was another kind of relation, when the projection was created.", refusal->why,
					   read_through(relation, part, InvalidOid)),
			 errhint("Take the change back, or drop the projection.")));
}
