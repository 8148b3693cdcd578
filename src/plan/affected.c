/*
 * plan/affected.c
 *		Strategy keys: the statements that find affected keys, made from terms.
 *
 * A relation on a term's path stands for its current state united with the window's old images.  The union is multiplied out, a statement for each
 * choice, because the planner cannot use an index below an append over a named relation; beyond a few such relations it is a subquery.
 *
 * Statements are query trees until the server's deparser writes them out.  Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "parser/parsetree.h"
#include "plan/query.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/ruleutils.h"

/* Up to so many relations of a path that have old images, a statement is made for each choice. */
#define CHOICES_LIMIT 4

/* What a relation of the definition is in a statement. */
typedef enum Form
{
	FORM_ABSENT,				/* not in it */
	FORM_CURRENT,				/* the table */
	FORM_DELTA,					/* old and new images */
	FORM_NET,					/* what has come or gone of a term's net columns */
	FORM_OLD,					/* old images */
	FORM_EITHER					/* the table united with old images */
} Form;

/* A statement in the making. */
typedef struct Writer
{
	const CqrsProgram *program;
	const CqrsTerm *term;
	const Form *forms;			/* by relation */
	int		   *position;		/* by relation: its index in the statement */
	Query	   *query;
} Writer;

/*
 * source_behind returns the source that a relation of the definition is an occurrence of.
 */
static CqrsProgramSource *
source_behind(const CqrsProgram *program, const CqrsTerm *term, Index relation)
{
	return &program->sources[term->skeleton->source_of[relation]];
}

/*
 * cqrs_affected_column returns where a delta holds a column of its source.
 */
AttrNumber
cqrs_affected_column(const CqrsProgramSource *source, AttrNumber attnum)
{
	for (int i = 0; i < source->delta->natts - 1; i++)
		if (source->delta_attnum[i] == attnum)
			return i + 1;
	elog(ERROR, "column %d of relation %u is not in its delta", attnum, source->relation);
	return InvalidAttrNumber;
}

/*
 * restate rewrites an expression of the definition for the statement.
 */
static Node *
restate(Node *node, Writer *writer)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;
		AttrNumber	attnum = var->varattno;

		if (writer->forms[var->varno] == FORM_NET)
			attnum = bms_member_index(writer->term->net, attnum) + 1;
		else if (writer->forms[var->varno] != FORM_CURRENT)
			attnum = cqrs_affected_column(source_behind(writer->program, writer->term, var->varno), attnum);
		return (Node *) makeVar(writer->position[var->varno], attnum, var->vartype, var->vartypmod, var->varcollid, 0);
	}
	return expression_tree_mutator(node, restate, writer);
}

/*
 * cqrs_affected_delta makes the range table entry of a source's delta.
 *
 * The deparser knows no named relations, but writes a reference to a WITH query just as one is written.
 */
RangeTblEntry *
cqrs_affected_delta(const CqrsProgram *program, int source, char *alias)
{
	TupleDesc	delta = program->sources[source].delta;
	RangeTblEntry *entry = makeNode(RangeTblEntry);
	List	   *columns = NIL;

	for (int i = 0; i < delta->natts; i++)
		columns = lappend(columns, makeString(pstrdup(NameStr(TupleDescAttr(delta, i)->attname))));
	entry->rtekind = RTE_CTE;
	entry->ctename = psprintf("%s%d", CQRS_DELTA_PREFIX, source);
	entry->alias = makeAlias(alias, NIL);
	entry->eref = makeAlias(alias, columns);
	entry->inFromCl = true;
	return entry;
}

/*
 * delta_entry makes the entry of the delta of a relation's source.
 */
static RangeTblEntry *
delta_entry(const Writer *writer, Index relation)
{
	return cqrs_affected_delta(writer->program, writer->term->skeleton->source_of[relation],
							   rt_fetch(relation, writer->term->skeleton->rtable)->eref->aliasname);
}

/*
 * old_images makes the condition that a row of a delta is an old image.
 */
static Node *
old_images(const CqrsProgramSource *source, int position)
{
	List	   *less = list_make2(makeString("pg_catalog"), makeString("<"));
	Var		   *weight = makeVar(position, source->delta->natts, INT8OID, -1, InvalidOid, 0);
	Const	   *zero = makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(0), false, true);

	return (Node *) make_opclause(OpernameGetOprid(less, INT8OID, INT4OID), BOOLOID, false, (Expr *) weight,
								  (Expr *) zero, InvalidOid, InvalidOid);
}

/*
 * select_columns makes the SELECT of a delta's columns from an entry: the table itself or the delta's old images.
 */
static Query *
select_columns(const CqrsProgramSource *source, RangeTblEntry *entry, bool old)
{
	Query	   *query = cqrs_query_select();

	cqrs_query_add_entry(query, entry);
	for (int i = 0; i < source->delta->natts - 1; i++)
	{
		Form_pg_attribute column = TupleDescAttr(source->delta, i);
		Var		   *var = makeVar(1, old ? i + 1 : source->delta_attnum[i], column->atttypid, column->atttypmod,
								  column->attcollation, 0);

		query->targetList = lappend(query->targetList,
									makeTargetEntry((Expr *) var, i + 1, pstrdup(NameStr(column->attname)), false));
	}
	if (old)
		query->jointree->quals = old_images(source, 1);
	return query;
}

/*
 * net_weight makes the condition that the weights of a group's rows do not cancel out.
 */
static Node *
net_weight(const CqrsProgramSource *source)
{
	List	   *differs = list_make2(makeString("pg_catalog"), makeString("<>"));
	Datum		zero = DirectFunctionCall1(int4_numeric, Int32GetDatum(0));
	Aggref	   *sum = makeNode(Aggref);
	Var		   *weight = makeVar(1, source->delta->natts, INT8OID, -1, InvalidOid, 0);

	sum->aggfnoid = F_SUM_INT8;
	sum->aggtype = NUMERICOID;
	sum->aggargtypes = list_make1_oid(INT8OID);
	sum->args = list_make1(makeTargetEntry((Expr *) weight, 1, NULL, false));
	sum->aggkind = AGGKIND_NORMAL;
	sum->aggsplit = AGGSPLIT_SIMPLE;
	sum->location = -1;
	return (Node *) make_opclause(OpernameGetOprid(differs, NUMERICOID, NUMERICOID), BOOLOID, false, (Expr *) sum,
								  (Expr *) makeConst(NUMERICOID, -1, InvalidOid, -1, zero, false, false),
								  InvalidOid, InvalidOid);
}

/*
 * select_net makes the SELECT of what has come or gone of some columns of a delta.
 */
static Query *
select_net(const CqrsProgramSource *source, RangeTblEntry *entry, Bitmapset *columns)
{
	Query	   *query = cqrs_query_select();
	int			attnum = -1;

	cqrs_query_add_entry(query, entry);
	while ((attnum = bms_next_member(columns, attnum)) >= 0)
	{
		int			number = list_length(query->targetList) + 1;
		AttrNumber	at = cqrs_affected_column(source, attnum);
		Form_pg_attribute column = TupleDescAttr(source->delta, at - 1);
		Var		   *var = makeVar(1, at, column->atttypid, column->atttypmod, column->attcollation, 0);
		TargetEntry *target = makeTargetEntry((Expr *) var, number, pstrdup(NameStr(column->attname)), false);
		SortGroupClause *group = makeNode(SortGroupClause);

		target->ressortgroupref = number;
		group->tleSortGroupRef = number;
		query->targetList = lappend(query->targetList, target);
		query->groupClause = lappend(query->groupClause, group);
	}
	query->hasAggs = true;
	query->havingQual = net_weight(source);
	return query;
}

/*
 * subquery_entry makes the entry of a subquery in FROM.
 */
static RangeTblEntry *
subquery_entry(Query *subquery, char *alias)
{
	RangeTblEntry *entry = makeNode(RangeTblEntry);
	List	   *columns = NIL;
	ListCell   *cell;

	foreach(cell, subquery->targetList)
		columns = lappend(columns, makeString(((TargetEntry *) lfirst(cell))->resname));
	entry->rtekind = RTE_SUBQUERY;
	entry->subquery = subquery;
	entry->alias = makeAlias(alias, NIL);
	entry->eref = makeAlias(alias, columns);
	entry->inFromCl = true;
	return entry;
}

/*
 * either_entry makes the entry of a table united with its old images.
 */
static RangeTblEntry *
either_entry(const Writer *writer, Index relation)
{
	CqrsProgramSource *source = source_behind(writer->program, writer->term, relation);
	RangeTblEntry *table = copyObject(rt_fetch(relation, writer->term->skeleton->rtable));
	Query	   *query = cqrs_query_select();
	SetOperationStmt *united = makeNode(SetOperationStmt);

	cqrs_query_add_entry(query, subquery_entry(select_columns(source, table, false), "current"));
	cqrs_query_add_entry(query, subquery_entry(select_columns(source, delta_entry(writer, relation), true), "old"));
	united->op = SETOP_UNION;
	united->all = true;
	united->larg = linitial(query->jointree->fromlist);
	united->rarg = lsecond(query->jointree->fromlist);
	query->jointree->fromlist = NIL;
	query->targetList = copyObject(((RangeTblEntry *) linitial(query->rtable))->subquery->targetList);
	query->setOperations = (Node *) united;
	return subquery_entry(query, table->eref->aliasname);
}

/*
 * add_relation puts a relation into the statement in its form.
 */
static void
add_relation(Writer *writer, Index relation)
{
	RangeTblEntry *entry;

	switch (writer->forms[relation])
	{
		case FORM_ABSENT:
			return;
		case FORM_CURRENT:
			entry = copyObject(rt_fetch(relation, writer->term->skeleton->rtable));
			break;
		case FORM_EITHER:
			entry = either_entry(writer, relation);
			break;
		case FORM_NET:
			entry = delta_entry(writer, relation);
			entry = subquery_entry(select_net(source_behind(writer->program, writer->term, relation), entry, writer->term->net),
								   entry->eref->aliasname);
			break;
		default:
			entry = delta_entry(writer, relation);
			break;
	}
	cqrs_query_add_entry(writer->query, entry);
	writer->position[relation] = list_length(writer->query->rtable);
}

/*
 * sink moves an expression one query level down, where the relation that had the index *front is the first.
 */
static Node *
sink(Node *node, int *front)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = copyObject((Var *) node);

		if (var->varno == *front)
			var->varno = var->varnosyn = 1;
		else
			var->varlevelsup = 1;
		return (Node *) var;
	}
	return expression_tree_mutator(node, sink, front);
}

/*
 * has_no_match makes the condition that nothing in a relation's current state matches.
 */
static Node *
has_no_match(const Writer *writer, const CqrsUnmatched *unmatched, int nrelations)
{
	Form	   *forms = palloc(sizeof(Form) * (nrelations + 1));
	Writer		inner = {.program = writer->program, .term = writer->term, .forms = forms};
	SubLink    *exists = makeNode(SubLink);
	int			front = nrelations + 1;
	Node	   *conditions;

	memcpy(forms, writer->forms, sizeof(Form) * (nrelations + 1));
	forms[unmatched->relation] = FORM_CURRENT;
	inner.position = palloc(sizeof(int) * (nrelations + 1));
	memcpy(inner.position, writer->position, sizeof(int) * (nrelations + 1));
	inner.query = cqrs_query_select();
	add_relation(&inner, unmatched->relation);
	inner.position[unmatched->relation] = front;
	conditions = sink(restate((Node *) unmatched->clauses, &inner), &front);
	inner.query->jointree->quals = (Node *) make_ands_explicit((List *) conditions);
	exists->subLinkType = EXISTS_SUBLINK;
	exists->subselect = (Node *) inner.query;
	exists->location = -1;
	return (Node *) make_notclause((Expr *) exists);
}

/*
 * add_conditions puts the term's conditions into WHERE, and picks old images where they are meant.
 */
static void
add_conditions(Writer *writer, int nrelations)
{
	List	   *conditions = NIL;
	ListCell   *cell;

	foreach(cell, writer->term->clauses)
		conditions = lappend(conditions, restate(lfirst(cell), writer));
	for (int relation = 1; relation <= nrelations; relation++)
		if (writer->forms[relation] == FORM_OLD)
			conditions = lappend(conditions, old_images(source_behind(writer->program, writer->term, relation),
														writer->position[relation]));
	foreach(cell, writer->term->unmatched)
		conditions = lappend(conditions, has_no_match(writer, lfirst(cell), nrelations));
	writer->query->hasSubLinks = writer->term->unmatched != NIL;
	if (conditions != NIL)
		writer->query->jointree->quals = (Node *) make_ands_explicit(conditions);
}

/*
 * add_keys makes the select list: the key, each once.
 */
static void
add_keys(Writer *writer)
{
	Query	   *query = writer->query;
	ListCell   *cell;

	foreach(cell, writer->term->keys)
	{
		int			number = foreach_current_index(cell) + 1;
		char	   *name = NameStr(TupleDescAttr(writer->program->affected, number - 1)->attname);
		Expr	   *key = (Expr *) restate(lfirst(cell), writer);
		TargetEntry *target = makeTargetEntry(key, number, pstrdup(name), false);
		SortGroupClause *distinct = makeNode(SortGroupClause);

		target->ressortgroupref = number;
		distinct->tleSortGroupRef = number;
		query->targetList = lappend(query->targetList, target);
		query->distinctClause = lappend(query->distinctClause, distinct);
	}
	if (writer->term->keys == NIL || (writer->term->constant && query->jointree->quals == NULL))
	{
		query->distinctClause = NIL;
		query->limitCount = (Node *) makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(1), false,
											   FLOAT8PASSBYVAL);
		query->limitOption = LIMIT_OPTION_COUNT;
	}
}

/*
 * write_term makes the statement of a term in which relations have the given forms.
 */
static char *
write_term(const CqrsProgram *program, const CqrsTerm *term, const Form *forms)
{
	int			nrelations = list_length(term->skeleton->rtable);
	Writer		writer = {.program = program, .term = term, .forms = forms};

	writer.position = palloc0(sizeof(int) * (nrelations + 1));
	writer.query = cqrs_query_select();
	add_relation(&writer, term->relation);
	for (int relation = 1; relation <= nrelations; relation++)
		if (relation != term->relation)
			add_relation(&writer, relation);
	add_conditions(&writer, nrelations);
	add_keys(&writer);
	return pg_get_querydef(writer.query, false);
}

/*
 * with_old_images returns the relations of a term's path whose old images must be looked at.  A change of one that is full asks for no affected keys.
 */
static Relids
with_old_images(const CqrsProgram *program, const CqrsTerm *term, Bitmapset *changed, bool united)
{
	Relids		result = NULL;
	int			relation = -1;

	while (united && (relation = bms_next_member(term->path, relation)) >= 0)
		if (bms_is_member(term->skeleton->source_of[relation], changed) &&
			source_behind(program, term, relation)->strategy != CQRS_STRATEGY_FULL)
			result = bms_add_member(result, relation);
	return result;
}

/*
 * append_new appends a statement unless it is there already, as terms of different null patterns may make the same.
 */
static List *
append_new(List *statements, char *statement)
{
	ListCell   *cell;

	foreach(cell, statements)
		if (strcmp(lfirst(cell), statement) == 0)
			return statements;
	return lappend(statements, statement);
}

/*
 * write_choices appends the statements of a term: one for each choice between current state and old images.
 */
static List *
write_choices(List *statements, const CqrsProgram *program, const CqrsTerm *term, Bitmapset *changed, bool united)
{
	int			nrelations = list_length(term->skeleton->rtable);
	Form	   *forms = palloc0(sizeof(Form) * (nrelations + 1));
	Relids		either = with_old_images(program, term, changed, united);
	bool		multiply = bms_num_members(either) <= CHOICES_LIMIT;
	int			relation = -1;

	while ((relation = bms_next_member(term->path, relation)) >= 0)
		forms[relation] = FORM_CURRENT;
	forms[term->relation] = term->netted ? FORM_NET : FORM_DELTA;
	for (uint32 mask = 0; mask < (multiply ? 1u << bms_num_members(either) : 1u); mask++)
	{
		relation = -1;
		for (int i = 0; (relation = bms_next_member(either, relation)) >= 0; i++)
			forms[relation] = !multiply ? FORM_EITHER : mask & (1u << i) ? FORM_OLD : FORM_CURRENT;
		statements = append_new(statements, write_term(program, term, forms));
	}
	return statements;
}

/*
 * affected makes the statements of a source's terms, united with old images where they must be, or all of them.
 */
static List *
affected(const CqrsProgram *program, int source, Bitmapset *changed, bool united)
{
	List	   *statements = NIL;
	ListCell   *cell;

	if (!program->sources[source].keys)
		return NIL;
	foreach(cell, program->query->terms[source])
	{
		CqrsTerm   *term = lfirst(cell);

		statements = write_choices(statements, program, term, changed, united || term->united);
	}
	return statements;
}

/*
 * cqrs_plan_affected makes the statements that find the keys which a change of one source can affect.
 */
List *
cqrs_plan_affected(const CqrsProgram *program, int source, Bitmapset *changed)
{
	return affected(program, source, changed, false);
}

/*
 * cqrs_plan_affected_united makes the same where each source must find all keys that it can affect.
 *
 * Otherwise, where two sources changed, the one nearer to the key may be relied upon to find it.
 */
List *
cqrs_plan_affected_united(const CqrsProgram *program, int source, Bitmapset *changed)
{
	return affected(program, source, changed, true);
}
