/*
 * plan/query.h
 *		What the files of this room share: the definition taken apart.
 *
 * Relations are known by their index in the query's range table, from 1.  Trees are copies that belong to the program; none is modified once made.
 */
#ifndef CQRS_PLAN_QUERY_H
#define CQRS_PLAN_QUERY_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"
#include "nodes/pathnodes.h"
#include "nodes/pg_list.h"
#include "plan/plan.h"

/* One AND-ed condition of WHERE or of a join. */
typedef struct CqrsConjunct
{
	Node	   *clause;			/* without join aliases */
	Relids		relations;
	bool		strict;			/* not true if any of its relations is null-extended */
	int			depth;			/* of the query level it is from: the definition's own has 0 */
} CqrsConjunct;

/* A node of the join tree: a leaf, or a join of its children (two of them unless it is inner) under its conditions. */
typedef struct CqrsJoin
{
	Index		leaf;			/* a relation, or 0 for a join */
	JoinType	type;
	List	   *children;		/* of CqrsJoin * */
	List	   *conjuncts;		/* of CqrsConjunct * */
	Relids		relations;		/* all below */
} CqrsJoin;

/* A relation that others must not match for a null-extended row to be there, and the whole condition of the join between them. */
typedef struct CqrsUnmatched
{
	Index		relation;
	Relids		others;
	List	   *clauses;		/* of Node * */
} CqrsUnmatched;

/* A column of a part of the definition. */
typedef struct CqrsPartColumn
{
	Node	   *written;		/* as its query writes it */
	Node	   *expression;		/* over the skeleton */
	Node	   *peer;			/* the same of the rows that are computed, over the skeleton: where rows are compared; else NULL */
	Oid			equality;		/* by which the two are the same, */
	bool		null;			/* or both are null */
} CqrsPartColumn;

/* A query in FROM of the definition, or the definition itself, of whose rows only some are wanted where keys are recomputed. */
typedef struct CqrsPart
{
	List	   *place;			/* of integer: how to get to it from the definition, by range table indexes */
	const CqrsJoin *join;		/* what it reads */
	List	   *columns;		/* of CqrsPartColumn *: what keeps its rows apart, so that others do not matter to them */
	bool		peers;			/* it computes rows of others that they are compared with */
	bool		split;			/* a column may be null: other skeletons have the rest of its rows */
} CqrsPart;

/*
 * What stands for a definition where affected keys are looked for: one level of joins of all the tables that it reads at whatever depth, without grouping.
 *
 * A subquery in FROM is there as the joins that it is made of; one in an expression, or one that aggregates to a single row, hangs on a left join whose left
 * side is empty, so that its tables are never sure to be present.  What cannot be told of a table's row, such as an aggregate, is in no condition.
 */
typedef struct CqrsSkeleton
{
	List	   *rtable;			/* of RangeTblEntry *: tables; relations are numbers into it, from 1 */
	CqrsJoin   *join;
	List	   *keys;			/* of Node *: the key's columns */
	int		   *source_of;		/* by relation: index of its source in the program */
	bool		partial;		/* it is not the whole of the definition, but for its grouping */
	List	   *parts;			/* of CqrsPart * */
} CqrsSkeleton;

/*
 * One way in which a change of one relation reaches keys: the relation's delta, joined with others under conditions, and the key computed from that.
 */
typedef struct CqrsTerm
{
	const CqrsSkeleton *skeleton;	/* whose relations these are */
	Index		relation;		/* whose delta is read */
	Relids		path;			/* the relations it is joined with */
	List	   *clauses;		/* of Node * */
	List	   *keys;			/* of Node *, an expression for each key column, with nulls for what is null-extended */
	bool		united;			/* relations on the path stand for their current state united with old images */
	List	   *unmatched;		/* of CqrsUnmatched *: rows that match these now do not count */
	bool		netted;			/* only the columns of 'net' count, and only where what they hold has come or gone */
	Bitmapset  *net;
	bool		constant;		/* the key does not depend on any row */
} CqrsTerm;

/* What is kept of a group so that changes can be added to it. */
typedef enum CqrsComponentKind
{
	CQRS_COMPONENT_ROWS,		/* how many rows it has */
	CQRS_COMPONENT_COUNT,		/* how many values of the argument are not null */
	CQRS_COMPONENT_SUM,			/* their sum, null if there are none */
	CQRS_COMPONENT_SCALES,		/* how many there are of each scale, in one number; the argument is what one of them adds */
	CQRS_COMPONENT_EXTREMUM		/* the least or greatest of them, null if there are none */
} CqrsComponentKind;

typedef struct CqrsComponent
{
	CqrsComponentKind kind;
	char	   *name;			/* of the hidden column */
	Node	   *argument;		/* NULL for rows */
	Node	   *stored;			/* the expression over a group that yields it */
	int			count;			/* of a sum: the component that counts its values */
	int			scales;			/* of a sum: the component with their scales, or -1 where all have the same */
	Oid			function;		/* of an extremum: the aggregate, */
	Oid			order;			/* the operator by which it is the first, */
	bool		exact;			/* and whether values that are equal look the same */
} CqrsComponent;

/* How a grouped query is told by components: see layout.c. */
typedef struct CqrsLayout
{
	Query	   *tree;			/* yields what the table holds: the query's columns, those of components, and CQRS_SHOWN if there is HAVING */
	bool		grouped;
	List	   *keys;			/* of Node *: as the query writes them */
	List	   *dependents;		/* of Node *: what depends on the key, by which or of which the query groups or shows, too */
	List	   *components;		/* of CqrsComponent *; the first is the rows */
	List	   *visible;		/* of Node *: the query's columns, over a relation 1 of keys, dependents and components */
	Node	   *shown;			/* likewise what CQRS_SHOWN is, or NULL */
} CqrsLayout;

typedef struct CqrsQuery
{
	Query	   *tree;			/* the definition's own level, without ORDER BY; with a layout, its tree */
	CqrsLayout *layout;			/* NULL if the table has no hidden columns */
	Query	   *plain;			/* with a layout: the level with all joins in one FROM and no grouping, from which changes are computed */
	List	   *keys;			/* of Node *: the key's columns as written, join aliases and all */
	Oid			owner;			/* of the definition */
	bool		filtered;		/* a condition on the key may be added to WHERE */
	List	   *skeletons;		/* of CqrsSkeleton *: one for each choice among branches of set operations and grouping sets; NIL if there is none */
	bool		apart;			/* what one skeleton is of, no other is: they can be recomputed each by itself */
	List	  **terms;			/* by source: List of CqrsTerm *, NIL for those that are full */
} CqrsQuery;

/* ---- query.c ---- */

/* A copy of a view's query that is safe to modify, what it reads locked in ACCESS SHARE to the end of the transaction. */
extern Query *cqrs_query_of_view(Oid view);

/* Is the range table entry a placeholder that the server keeps in the rule of the view, rather than something the query reads? */
extern bool cqrs_query_placeholder(const RangeTblEntry *entry, Oid view);

/* All that a definition reads, through views too, in the order in which it appears: sets sources and relations. */
extern void cqrs_query_collect(CqrsProgram *program, Query *tree);

/* A query tree made by hand: an empty SELECT, another thing in its FROM, and the condition that it has rows for which all of some conditions hold. */
extern Query *cqrs_query_select(void);
extern void cqrs_query_add_entry(Query *query, RangeTblEntry *entry);
extern Node *cqrs_query_exists(Query *query, List *conditions);

/* The test whether an expression is null, or is not. */
extern Node *cqrs_query_null_test(Node *expression, NullTestType type);

/* ---- join.c ---- */
extern CqrsJoin *cqrs_join_build(Query *tree);

/* Takes a condition of a query level apart at its ANDs, and appends the parts. */
extern List *cqrs_join_conjuncts(List *conjuncts, Node *condition, int depth);

/* Does the expression mention a whole row? */
extern bool cqrs_join_whole_row(Node *node);

/* Relations sure to be present, given that 'present' are; with 'conjuncts', the strict conditions that then hold, as List of CqrsConjunct *. */
extern Relids cqrs_join_reduce(const CqrsJoin *join, Relids present, List **conjuncts);

/*
 * A small set of relations that links 'from' with each of 'targets' through the conjuncts.  False if one cannot be reached.  'pairs' tells whether
 * every conjunct that links them is about exactly two relations.
 */
extern bool cqrs_join_path(List *conjuncts, Index from, Relids targets, Relids *path, bool *pairs);

/* ---- unique.c ---- */

/* Are the rows of the query told apart by the output columns 'columns' (target list numbers)?  A proof: false means not known. */
extern bool cqrs_unique_by(Query *tree, Bitmapset *columns);

/* Does ORDER BY leave no ties among the rows that DISTINCT ON and LIMIT choose from? */
extern bool cqrs_unique_ordered(Query *tree);

/* A set of output columns that tells rows apart; false if none can be proved. */
extern bool cqrs_unique_infer(Query *tree, Bitmapset **columns);

/* ---- key.c ---- */

/* Can the output column, or an expression over the query's rows, be null?  False is a proof. */
extern bool cqrs_key_nullable(Query *tree, AttrNumber column);
extern bool cqrs_key_expression_nullable(Query *tree, Node *expression);

/* The key of a version's table that has no constraint for it: because it is still being built, if the key cannot be null, or holds one row. */
extern bool cqrs_key_of_version(Oid table, Bitmapset **columns);

/* The operator by which values of a type are one key; invalid if the type has none. */
extern Oid	cqrs_key_equality(Oid type);

/* Are values that are equal, by that operator and collation, the same to every function? */
extern bool cqrs_key_exact(Oid type, Oid collation);

/* ---- skeleton.c ---- */

/*
 * Makes the skeletons of a definition (query->skeletons); returns why there are none, or NULL.  'with_peers': rows that are chosen from others or compared
 * with others are there beside those, so that changes of these are seen to reach them; it makes for more statements.
 */
extern const char *cqrs_skeleton_derive(CqrsProgram *program, Query *tree, bool with_peers);

/* ---- output.c ---- */

/* How a row that a query puts out agrees in a column with a row that it reads and that, coming or going, changes it. */
typedef enum CqrsAgreement
{
	CQRS_SAME,
	CQRS_EQUAL,					/* but it may look different */
	CQRS_STRAYS					/* nothing is known */
} CqrsAgreement;

/* Why a row can change another one that differs from it in a column: LIMIT, DISTINCT ON or a window; NULL if it cannot. */
extern const char *cqrs_output_mixed(Query *tree, const TargetEntry *target);

/* Can it be told from a row which others it is chosen from or compared with?  And by which operator values of a column that tells it are the same. */
extern bool cqrs_output_peers(Query *tree);
extern Oid	cqrs_output_partition_equality(Query *tree, const TargetEntry *target);

/*
 * That of a column that depends on the columns read alone; if it strays, 'why' in words that follow the column's name.  With 'peers' a change of rows that
 * it is chosen from or compared with does not count.
 */
extern CqrsAgreement cqrs_output_agrees(Query *tree, const TargetEntry *target, bool peers, const char **why);

/* The same for a column of a set operation, given that of one of its branches. */
extern CqrsAgreement cqrs_output_set_agrees(Query *tree, int column, Node *expression, const char **why);

/* Does a query that aggregates without GROUP BY have its row even if it reads none? */
extern bool cqrs_output_one_row(const Query *tree);

/* ---- keys.c ---- */

/* Sets strategy, reason and terms of each source, from the skeletons; returns why there are none, or NULL. */
extern const char *cqrs_keys_derive(CqrsProgram *program);

/* The column of a relation that conditions equate with a key's column, by the equality that tells keys apart, or NULL. */
extern Var *cqrs_keys_equated(const Var *key, Index relation, List *conjuncts);

/* Has images hold what statements read of deltas if all relations on all paths stand for old images, too. */
extern void cqrs_keys_image_united(CqrsProgram *program);

/* ---- affected.c ---- */

/* The range table entry of a source's delta, under a name; where it holds a column of its source. */
extern RangeTblEntry *cqrs_affected_delta(const CqrsProgram *program, int source, char *alias);
extern AttrNumber cqrs_affected_column(const CqrsProgramSource *source, AttrNumber attnum);

/* ---- layout.c ---- */

/* Digits for the number of values of one scale in a component of scales. */
#define CQRS_SCALE_DIGITS 12

/* Scales from here on are counted as one: groups that have such a value are recomputed whenever they change. */
#define CQRS_SCALE_LIMIT 1000

/* Makes the layout of a definition that has been taken apart; if it has none returns NULL and says why, or NULL where nothing is added up. */
extern CqrsLayout *cqrs_layout_make(const CqrsProgram *program, const char **why);

/* An expression that is evaluated under a condition only, and otherwise null. */
extern Node *cqrs_layout_where(Node *condition, Node *expression);

/* Is this the server's min or max? */
extern bool cqrs_layout_extremum(Oid function);

/* The columns that make an expression null if, and only if, one is: List of Var *; false if that cannot be said.  The condition that none is null, or NULL. */
extern bool cqrs_layout_operands(Node *expression, List **columns);
extern Node *cqrs_layout_all_there(List *columns);

/* Do equal values of an expression always look the same? */
extern bool cqrs_layout_exact(Node *expression);

/* The scale that all finite values of a numeric expression have, or -1. */
extern int	cqrs_layout_scale(Node *expression);

/* ---- delta.c ---- */

/* Finds out which sources are followed by delta, and shapes the rows of the table and of changes. */
extern void cqrs_delta_derive(CqrsProgram *program);

/* Are keys of the definition recomputed in the ordinary course of things? */
extern bool cqrs_delta_recomputes(const CqrsProgram *program);

/* Is more of an occurrence in the plain query asked for than columns of its own? */
extern bool cqrs_delta_whole_row(const CqrsProgram *program, Index relation);

/* ---- compute.c ---- */

/* The range table entry of the affected keys. */
extern RangeTblEntry *cqrs_compute_affected(const CqrsProgram *program);

/* The condition that a key's column, as it is written one query level down, equals that of the affected keys, the relation of that number. */
extern Node *cqrs_compute_matches(const CqrsProgram *program, int key, Index affected, Node *mine);

/* ---- narrow.c ---- */

/*
 * The definition, of which parts are narrowed to what the affected keys of one null pattern want: List of Query *, which together have all rows of
 * theirs, each once, and others; NIL if nothing can be narrowed.
 */
extern List *cqrs_narrow(const CqrsProgram *program, uint32 nulls);

/* ---- open.c ---- */

/* Puts tables in the place of views that show no more than columns of one table each, in the plain query and what is computed from it. */
extern void cqrs_open_views(CqrsProgram *program);

/* ---- match.c ---- */

/* What stands in FROM for the rows that the table is to hold. */
extern const char *cqrs_match_definition(const CqrsProgram *program);

/* The quoted name of a column of the definition, and of the table. */
extern const char *cqrs_match_column(const CqrsProgram *program, AttrNumber attnum);

/* The test that a key column is null, or is not. */
extern const char *cqrs_match_null_test(const CqrsProgram *program, int key, bool null);

/*
 * A row is of the null pattern; two rows have the same key in the columns that are not null.  What they return is the separator for what
 * follows.
 */
extern const char *cqrs_match_append_pattern(StringInfo sql, const CqrsProgram *program, uint32 nulls, char row,
											 const char *separator);
extern const char *cqrs_match_append_equal(StringInfo sql, const CqrsProgram *program, uint32 nulls, char left,
										   char right, const char *separator);

/* All columns of the table, each behind a prefix. */
extern void cqrs_match_append_columns(StringInfo sql, const CqrsProgram *program, const char *prefix);

/* The statement that picks from a relation the rows of the affected keys of one null pattern. */
extern char *cqrs_match_chosen(const CqrsProgram *program, const char *relation, uint32 nulls);

/* ---- full.c ---- */

/* Makes every source full, for one reason. */
extern void cqrs_full_derive(CqrsProgram *program, const char *reason);

/* ---- check.c ---- */

/* What a check reports about, and how. */
typedef struct CqrsCheck
{
	const char *text;			/* the user's, for positions, or NULL */
	RawStmt    *raw;			/* its parse, or NULL */
	Oid			owner;
	bool		notices;
} CqrsCheck;

extern void cqrs_check_query(const CqrsCheck *check, Query *tree, Oid definition);

/* For ereport: points at a place in the text, given in bytes; nothing if there is none. */
extern int	cqrs_check_position(const CqrsCheck *check, int location);

/* ---- parse.c ---- */

/* The statement in the text, and its analyzed tree. */
extern Query *cqrs_parse_analyze(const char *text, RawStmt **raw);

/* ---- relation.c ---- */

/* Refuses a relation that cannot be a source.  'owner' is who reads it; 'place' where its name stands in the check's text, 'through' a view or invalid. */
extern void cqrs_relation_check(const CqrsCheck *check, Oid relation, Oid owner, int place, Oid through);

/* The same for a source of a projection that exists, when its program is derived. */
extern void cqrs_relation_recheck(Oid relation);

/* ---- explain.c ---- */

/* A source's name as users know it. */
extern const char *cqrs_explain_source(const CqrsProgramSource *source);

/* ---- suppose.c ---- */

/* A column of an index that is not there. */
typedef struct CqrsLacking
{
	Oid			table;
	AttrNumber	column;
	Node	   *expression;		/* where there is no column: over the table as the first relation */
} CqrsLacking;

/*
 * The indexes by which the cheapest of some statements, which do the same for one key or one changed row, would look up what it finds by reading tables whole:
 * List of List of
 * CqrsLacking *, the columns of each.  By structure: whatever tables hold, as if they were large.
 */
extern List *cqrs_suppose_lacking(const CqrsProgram *program, List *statements, bool by_structure);

/* ---- functions.c ---- */

/* What a function of the server that is not immutable answers from besides its arguments and settings, in words; NULL if nothing. */
extern const char *cqrs_function_answers_from(Oid function);

/* Does the aggregate or window function depend on the order of its input? */
extern bool cqrs_function_wants_order(Oid function);

#endif							/* CQRS_PLAN_QUERY_H */
