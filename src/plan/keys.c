/*
 * plan/keys.c
 *		Strategy keys: which keys a change can affect, and their recomputation.
 *
 * For each occurrence T of a changed source and each null pattern N (a set of the key's relations that outer joins may null-extend, the empty one
 * included): suppose T's row and the key's relations outside N present, reduce outer joins under that supposition, and link T with those relations
 * through the strict conditions that then hold.  The key is computed with N null-extended.  T's row need not be present in the rows whose keys are
 * found that way: a row that leaves lets null-extended ones appear.  So conditions that are not strict must be left out, even as filters.  Two things
 * narrow this where they can be told: a row that has its match is not null-extended, and a relation that is absent matters by its conditions' columns only.
 *
 * Deriving finds the terms; statements are made from them when they are asked for, as query trees that the server's own deparser writes out, so that
 * quoting, qualification and operators are its business.  Statements are valid under the search_path in force while they are made.  Memory is
 * CurrentMemoryContext's.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "utils/lsyscache.h"

/* More of the key's relations than this on nullable sides, and a change would ask for too many statements. */
#define NULLABLE_LIMIT 4

/* The same for ways in which one source reaches the key. */
#define TERMS_LIMIT 64

/*
 * null_extend replaces the columns of absent relations by nulls, of base types: a domain may refuse a null that it does not refuse an outer join.
 */
static Node *
null_extend(Node *node, Relids absent)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && bms_is_member(((Var *) node)->varno, absent))
	{
		Var		   *var = (Var *) node;
		int32		typmod = var->vartypmod;
		Oid			type = getBaseTypeAndTypmod(var->vartype, &typmod);

		return (Node *) makeNullConst(type, typmod, var->varcollid);
	}
	return expression_tree_mutator(node, null_extend, absent);
}

/*
 * plain_column returns the column that an expression is, with only its type made another of the same representation, or NULL.
 */
static Var *
plain_column(Node *node)
{
	while (node != NULL && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return node != NULL && IsA(node, Var) && ((Var *) node)->varlevelsup == 0 ? (Var *) node : NULL;
}

/*
 * cqrs_keys_equated finds the column of 'relation' that the conditions equate with a key's column, by the equality that tells keys apart, or NULL.
 */
Var *
cqrs_keys_equated(const Var *key, Index relation, List *conjuncts)
{
	ListCell   *cell;

	foreach(cell, conjuncts)
	{
		OpExpr	   *clause = (OpExpr *) ((CqrsConjunct *) lfirst(cell))->clause;
		Var		   *left;
		Var		   *right;

		if (!IsA(clause, OpExpr) || list_length(clause->args) != 2 ||
			clause->opno != cqrs_key_equality(key->vartype) || clause->inputcollid != key->varcollid)
			continue;
		left = plain_column(linitial(clause->args));
		right = plain_column(lsecond(clause->args));
		if (left == NULL || right == NULL)
			continue;
		if (equal(right, key))
			right = left;
		else if (!equal(left, key))
			continue;
		if (right->varno == relation && right->vartype == key->vartype && right->vartypmod == key->vartypmod &&
			right->varcollid == key->varcollid)
			return right;
	}
	return NULL;
}

/*
 * bring_near replaces key columns by columns of the changed relation that are sure to equal them, so that no join is needed to find them.
 *
 * That may find keys that no row has, which does no harm; a null is no such key.
 */
static void
bring_near(CqrsTerm *term, List *conjuncts)
{
	ListCell   *cell;

	foreach(cell, term->keys)
	{
		Var		   *key = lfirst(cell);
		Var		   *near;

		if (!IsA(key, Var) || key->varno == term->relation)
			continue;
		near = cqrs_keys_equated(key, term->relation, conjuncts);
		if (near == NULL)
			continue;
		lfirst(cell) = near;
		term->clauses = list_append_unique(term->clauses, cqrs_query_null_test((Node *) near, IS_NOT_NULL));
	}
}

/*
 * add_unmatched notes that rows count only where 'there', an absent relation, has no match for those on the side 'here' of an outer join.
 *
 * That can be told where the relations that the join's condition is about are sure to be present, so that nothing but a missing match explains the
 * absence.  It is looked up in the current state: where the match came in this window, the change of the relation that it came to finds the key.
 */
static void
add_unmatched(CqrsTerm *term, const CqrsJoin *join, const CqrsJoin *here, const CqrsJoin *there, Relids implied)
{
	CqrsUnmatched *unmatched = palloc0(sizeof(CqrsUnmatched));
	ListCell   *cell;

	unmatched->relation = there->leaf;
	foreach(cell, join->conjuncts)
	{
		CqrsConjunct *conjunct = lfirst(cell);

		if (cqrs_join_whole_row(conjunct->clause))
			return;
		unmatched->clauses = lappend(unmatched->clauses, conjunct->clause);
		unmatched->others = bms_add_members(unmatched->others, conjunct->relations);
	}
	unmatched->others = bms_del_member(unmatched->others, there->leaf);
	if (bms_is_subset(unmatched->others, implied) &&
		(!bms_is_empty(unmatched->others) || bms_is_member(term->relation, here->relations)))
		term->unmatched = lappend(term->unmatched, unmatched);
}

/*
 * find_unmatched looks through the outer joins for absent relations whose absence means that they have no match.
 */
static void
find_unmatched(CqrsTerm *term, const CqrsJoin *join, Relids absent, Relids implied)
{
	CqrsJoin   *left;
	CqrsJoin   *right;
	ListCell   *cell;

	foreach(cell, join->children)
		find_unmatched(term, lfirst(cell), absent, implied);
	if (join->leaf != 0 || join->type == JOIN_INNER)
		return;
	left = linitial(join->children);
	right = lsecond(join->children);
	if (join->type != JOIN_RIGHT && bms_is_member(right->leaf, absent))
		add_unmatched(term, join, left, right, implied);
	if (join->type != JOIN_LEFT && bms_is_member(left->leaf, absent))
		add_unmatched(term, join, right, left, implied);
}

/*
 * add_condition_columns adds the columns of a relation that conditions mention.
 */
static void
add_condition_columns(const CqrsJoin *join, Index relation, Bitmapset **columns)
{
	ListCell   *cell;

	foreach(cell, join->children)
		add_condition_columns(lfirst(cell), relation, columns);
	foreach(cell, join->conjuncts)
		pull_varattnos(((CqrsConjunct *) lfirst(cell))->clause, relation, columns);
}

/*
 * net_out has the term look at no more of its relation than the columns that conditions mention, if equal values of them are the same.
 *
 * Rows in which the relation is absent come and go only with what conditions see of it.  An update of its other columns changes none of them.  Not so
 * for ONLY a table: its delta is of the whole tree, where a row that moves to a child cancels out.
 */
static void
net_out(CqrsTerm *term, const CqrsProgram *program)
{
	const CqrsSkeleton *skeleton = term->skeleton;
	CqrsProgramSource *source = &program->sources[skeleton->source_of[term->relation]];
	Bitmapset  *columns = NULL;
	int			member = -1;

	if (!rt_fetch(term->relation, skeleton->rtable)->inh)
		return;
	add_condition_columns(skeleton->join, term->relation, &columns);
	while ((member = bms_next_member(columns, member)) >= 0)
	{
		AttrNumber	attnum = member + FirstLowInvalidHeapAttributeNumber;
		Oid			type;
		int32		typmod;
		Oid			collation;

		if (attnum == InvalidAttrNumber)
			return;
		get_atttypetypmodcoll(source->relation, attnum, &type, &typmod, &collation);
		if (!cqrs_key_exact(type, collation))
			return;
		term->net = bms_add_member(term->net, attnum);
	}
	term->netted = true;
}

/*
 * find_path finds the relations that lead from the term's relation to the key, and to those whose match is looked for; false if nothing leads to the key.
 */
static bool
find_path(CqrsTerm *term, List *conjuncts, bool *pairs)
{
	Relids		key = pull_varnos(NULL, (Node *) term->keys);
	Relids		targets = bms_copy(key);
	ListCell   *cell;

	foreach(cell, term->unmatched)
		targets = bms_add_members(targets, ((CqrsUnmatched *) lfirst(cell))->others);
	if (cqrs_join_path(conjuncts, term->relation, targets, &term->path, pairs))
		return true;
	term->unmatched = NIL;
	return cqrs_join_path(conjuncts, term->relation, key, &term->path, pairs);
}

/*
 * add_clauses has a term fulfil the conditions about relations on its path.
 *
 * Those of inner queries come first, as they do where the definition is evaluated: what they keep out may be what others fail on.
 */
static void
add_clauses(CqrsTerm *term, List *conjuncts)
{
	int			deepest = 0;
	ListCell   *cell;

	foreach(cell, conjuncts)
		deepest = Max(deepest, ((CqrsConjunct *) lfirst(cell))->depth);
	for (int depth = deepest; depth >= 0; depth--)
	{
		foreach(cell, conjuncts)
		{
			CqrsConjunct *conjunct = lfirst(cell);

			if (conjunct->depth == depth && bms_is_subset(conjunct->relations, term->path))
				term->clauses = lappend(term->clauses, conjunct->clause);
		}
	}
}

/*
 * link_term finds the relations and conditions of a term; false if nothing leads to the key.
 *
 * Relations of the path need not be united with old images where the nearest change to the key finds it: if the key comes from one relation and every
 * condition is about two.  That does not hold for those that are there because of a match, and is not known of more than one query level.
 */
static bool
link_term(CqrsTerm *term, Relids present, Relids absent, bool one_relation)
{
	const CqrsSkeleton *skeleton = term->skeleton;
	List	   *conjuncts;
	bool		pairs;

	(void) cqrs_join_reduce(skeleton->join, bms_add_member(bms_copy(present), term->relation), &conjuncts);
	bring_near(term, conjuncts);
	if (!find_path(term, conjuncts, &pairs))
		return false;
	if (term->constant && !bms_is_empty(absent) && term->unmatched == NIL)
		return true;
	add_clauses(term, conjuncts);
	term->path = bms_del_member(term->path, term->relation);
	term->united = !(pairs && one_relation && term->unmatched == NIL);
	return true;
}

/*
 * make_term makes the term of one relation and null pattern.
 *
 * Sets *result to NULL where no row can have that pattern.  False if the key cannot be reached.  What narrows terms is about conditions that are all known.
 */
static bool
make_term(const CqrsProgram *program, const CqrsSkeleton *skeleton, Index relation, Relids absent, CqrsTerm **result)
{
	CqrsTerm   *term = palloc0(sizeof(CqrsTerm));
	Relids		all = pull_varnos(NULL, (Node *) skeleton->keys);
	Relids		present = bms_difference(all, absent);
	Relids		implied = cqrs_join_reduce(skeleton->join, present, NULL);

	*result = NULL;
	if (bms_overlap(implied, absent))
		return true;
	*result = term;
	term->skeleton = skeleton;
	term->relation = relation;
	term->keys = (List *) null_extend((Node *) skeleton->keys, absent);
	term->constant = bms_is_empty(present);
	if (skeleton->partial)
		return link_term(term, present, absent, false);
	if (bms_is_member(relation, absent))
		net_out(term, program);
	else if (bms_is_member(relation, implied))
		find_unmatched(term, skeleton->join, absent, implied);
	return link_term(term, present, absent, bms_membership(all) == BMS_SINGLETON);
}

/*
 * subset returns the members of 'set' that the bits of 'mask' pick.
 */
static Relids
subset(Relids set, uint32 mask)
{
	Relids		result = NULL;
	int			member = -1;

	for (int i = 0; (member = bms_next_member(set, member)) >= 0; i++)
		if (mask & (1u << i))
			result = bms_add_member(result, member);
	return result;
}

/*
 * add_terms adds the terms of one relation; false if the key cannot be reached in one of them.
 */
static bool
add_terms(const CqrsProgram *program, const CqrsSkeleton *skeleton, Index relation, List **terms)
{
	Relids		nullable = bms_difference(pull_varnos(NULL, (Node *) skeleton->keys),
										  cqrs_join_reduce(skeleton->join, NULL, NULL));
	CqrsTerm   *term;

	for (uint32 mask = 0; mask < (1u << bms_num_members(nullable)); mask++)
	{
		if (!make_term(program, skeleton, relation, subset(nullable, mask), &term))
			return false;
		if (term != NULL)
			*terms = lappend(*terms, term);
	}
	return true;
}

/*
 * image_columns has the columns of some relations that an expression mentions found in images.
 */
static void
image_columns(CqrsProgram *program, const CqrsSkeleton *skeleton, Node *node, Relids relations)
{
	int			relation = -1;

	while ((relation = bms_next_member(relations, relation)) >= 0)
	{
		CqrsProgramSource *source = &program->sources[skeleton->source_of[relation]];
		Bitmapset  *columns = NULL;
		int			member = -1;

		pull_varattnos(node, relation, &columns);
		while (source->strategy != CQRS_STRATEGY_FULL && (member = bms_next_member(columns, member)) >= 0)
			source->imaged = bms_add_member(source->imaged, member + FirstLowInvalidHeapAttributeNumber);
	}
}

/*
 * image_term has images hold what the statements of a term read of deltas: of its own relation's, and if it is united with old images those on its path.
 *
 * What the definition only computes of other columns is computed from the current state.
 */
static void
image_term(CqrsProgram *program, const CqrsTerm *term, bool united)
{
	CqrsProgramSource *source = &program->sources[term->skeleton->source_of[term->relation]];
	Relids		relations = bms_make_singleton(term->relation);
	ListCell   *cell;

	if (united)
		relations = bms_add_members(relations, term->path);
	image_columns(program, term->skeleton, (Node *) term->keys, relations);
	image_columns(program, term->skeleton, (Node *) term->clauses, relations);
	foreach(cell, term->unmatched)
	{
		const CqrsUnmatched *unmatched = lfirst(cell);

		image_columns(program, term->skeleton, (Node *) unmatched->clauses,
					  bms_del_member(bms_copy(relations), unmatched->relation));
	}
	source->imaged = bms_add_members(source->imaged, term->net);
}

/*
 * add_occurrences adds the terms of a source in a skeleton; says why it cannot be followed, if so.
 */
static const char *
add_occurrences(CqrsProgram *program, const CqrsSkeleton *skeleton, int source)
{
	int			nrelations = list_length(skeleton->rtable);

	for (int relation = 1; relation <= nrelations; relation++)
		if (skeleton->source_of[relation] == source &&
			!add_terms(program, skeleton, relation, &program->query->terms[source]))
			return psprintf("no condition links %s with the key", rt_fetch(relation, skeleton->rtable)->eref->aliasname);
	return NULL;
}

/*
 * follow finds the terms of one source; says why it cannot be followed, if so.
 */
static const char *
follow(CqrsProgram *program, int source)
{
	const char *reason = NULL;
	ListCell   *cell;

	if (!program->sources[source].readable)
		return "the owner of the projection may not read it itself";
	foreach(cell, program->query->skeletons)
		if (reason == NULL)
			reason = add_occurrences(program, lfirst(cell), source);
	if (reason == NULL && program->query->terms[source] == NIL)
		return "the query does not use it";
	if (reason == NULL && list_length(program->query->terms[source]) > TERMS_LIMIT)
		return "it reaches the key in too many ways";
	return reason;
}

/*
 * cqrs_keys_derive finds the terms of every source; one whose changes cannot be linked with the key is full.
 */
const char *
cqrs_keys_derive(CqrsProgram *program)
{
	CqrsQuery  *query = program->query;
	ListCell   *cell;

	foreach(cell, query->skeletons)
	{
		CqrsSkeleton *skeleton = lfirst(cell);

		if (bms_num_members(bms_difference(pull_varnos(NULL, (Node *) skeleton->keys),
										   cqrs_join_reduce(skeleton->join, NULL, NULL))) > NULLABLE_LIMIT)
			return "the key's columns come from too many relations on the nullable sides of outer joins";
	}
	query->terms = palloc0(sizeof(List *) * program->nsources);
	for (int i = 0; i < program->nsources; i++)
	{
		CqrsProgramSource *source = &program->sources[i];

		source->reason = follow(program, i);
		source->keys = source->reason == NULL;
		source->strategy = source->keys ? CQRS_STRATEGY_KEYS : CQRS_STRATEGY_FULL;
		if (source->reason != NULL)
			query->terms[i] = NIL;
	}
	for (int i = 0; i < program->nsources; i++)
	{
		ListCell   *cell;

		foreach(cell, query->terms[i])
			image_term(program, lfirst(cell), ((CqrsTerm *) lfirst(cell))->united);
	}
	return NULL;
}

/*
 * cqrs_keys_image_united has images hold what terms read if all of them are united with old images.
 */
void
cqrs_keys_image_united(CqrsProgram *program)
{
	ListCell   *cell;

	for (int i = 0; i < program->nsources; i++)
		foreach(cell, program->query->terms[i])
			image_term(program, lfirst(cell), true);
}
