/*
 * plan/plan.h
 *		From a definition to statements.  Reads catalogs, never executes.
 *
 * A program is derived from the query tree of the version's definition view, never from old text.  Its statements are SQL text, valid under the
 * search_path in force while deriving; whoever prepares them does so under the same (the version's recorded settings).
 */
#ifndef CQRS_PLAN_H
#define CQRS_PLAN_H

#include "postgres.h"

#include "access/attnum.h"
#include "access/tupdesc.h"
#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "registry/registry.h"

typedef enum CqrsStrategy
{
	CQRS_STRATEGY_DELTA,		/* add what changed */
	CQRS_STRATEGY_KEYS,			/* recompute what was touched */
	CQRS_STRATEGY_FULL			/* diff against a fresh evaluation */
} CqrsStrategy;

extern const char *cqrs_plan_strategy_name(CqrsStrategy strategy);

/* Names under which rows reach statements (see base/spi.h).  A delta's is CQRS_DELTA_PREFIX followed by the source's index in the program. */
#define CQRS_DELTA_PREFIX	"cqrs_delta_"
#define CQRS_AFFECTED		"cqrs_affected"
#define CQRS_COMPUTED		"cqrs_computed"
#define CQRS_CHANGE			"cqrs_change"

/* The hidden column that tells whether a row is one of the query's: its group may fail HAVING. */
#define CQRS_SHOWN			"cqrs_shown"

/* Strategy delta adds up a window in which so many occurrences of tables in the query have changed, no more. */
#define CQRS_OCCURRENCES_LIMIT 3

/* What is to be done with a group that has changed: the last column of what cqrs_plan_combine yields. */
typedef enum CqrsVerdict
{
	CQRS_VERDICT_WRITE,
	CQRS_VERDICT_GONE,			/* its last row has left */
	CQRS_VERDICT_RECOMPUTE		/* what it is now cannot be told from what it was */
} CqrsVerdict;

/* Names under which handlers see one event, and a run of events of their type. */
#define CQRS_EVENT		"event"
#define CQRS_EVENTS		"events"

/* One base table the definition reads. */
typedef struct CqrsProgramSource
{
	Oid			relation;
	Bitmapset  *watched;		/* attribute numbers the definition reads (empty set allowed: count(*)) */
	Bitmapset  *imaged;			/* those of them that statements must find in images: by them affected keys are found; none with full */
	CqrsStrategy strategy;		/* what a change of it asks for */
	const char *reason;			/* why not a better one than full; NULL otherwise */
	const char *obstacle;		/* why not delta; NULL if it is, or if the query has no groups to add to */
	bool		keys;			/* affected keys can be found, too, or only */
	bool		readable;		/* the owner may read it without the views through which the definition does */
	bool		direct;			/* named by the definition itself (not through another view): the owner's SELECT on it is checked each batch */
	int32		projection;		/* id of the one whose version's table it is, read through its serving view: not captured; 0: a table of the user's */

	/*
	 * The delta's row type: column i (from 0) is attribute delta_attnum[i] of the source, one of those imaged; the last column is the weight (bigint):
	 * +1 of a row that has come, -1 of one that has gone, 0 of one that is as it was in these columns and has changed in others.
	 */
	TupleDesc	delta;
	AttrNumber *delta_attnum;
} CqrsProgramSource;

typedef struct CqrsProgram
{
	Oid			definition;
	Oid			table;
	CqrsStrategy strategy;		/* the best of the sources' */
	const char *reason;			/* why the whole definition is full, or NULL */
	TupleDesc	row;			/* the definition's columns */
	TupleDesc	stored;			/* the table's: the definition's, and hidden ones behind them if any; of the computed rows */
	TupleDesc	change;			/* what changes add to groups, key first; NULL unless a source is followed by delta */
	int			nkeys;
	AttrNumber *key;			/* into row */
	TupleDesc	affected;		/* the key's columns, in key order, under names of our own */
	Bitmapset  *key_nullable;	/* indexes into key (from 0) of columns that can be null */
	bool		nested;			/* the definition has more than one level: how to recompute keys, and whether to, is a matter of cost */
	bool		spreads;		/* a change of one row affects all those that are compared with it: how many, the planner can tell */
	bool		key_unique;		/* proved by the query (GROUP BY, primary key): no need to look for duplicates */
	int			nsources;
	CqrsProgramSource *sources;
	List	   *relations;		/* OIDs of all sources with their trees and views read; without table and definition */
	List	   *projections;	/* ids of those whose serving views are read */
	List	   *named;			/* OIDs of those of their serving views that the definition names itself: the owner's SELECT is checked each batch */
	struct CqrsQuery *query;	/* private to plan/ */
} CqrsProgram;

/*
 * Before a version exists: parse 'text' as one SELECT, refuse what section 6.4 of the design refuses (errors with SQLSTATE, position,
 * detail and hint; notices for what is accepted with one) under the current user and settings.  Returns the raw statement for the view.
 */
extern RawStmt *cqrs_plan_parse(const char *text);

/* The analyzed definition: refuses what is wrong with it (6.4).  'text' for error positions, may be NULL.  Emits the notices if 'notices'. */
extern void cqrs_plan_check(Oid definition, const char *text, Oid owner, bool notices);

/*
 * The key by which the definition's rows are told apart, as attribute numbers: from the user's names (List of char *, already as
 * identifiers; unknown or repeated ones are errors 42703, 42701; an empty list with given = true is the one-row key) or inferred;
 * an error 42P10 with hint if it cannot be.
 */
extern AttrNumber *cqrs_plan_key(Oid definition, bool given, List *names, int *nkeys);

/* The ids of the projections that a definition reads, through views too. */
extern List *cqrs_plan_projections(Oid definition);

/* Does a view read whole rows of a table, and so the names and types of its columns?  Through other views too.  Takes no locks. */
extern bool cqrs_plan_reads_rows(Oid view, Oid table);

/* Derive the program, in CurrentMemoryContext, under the settings in force; 'table' is invalid before there is one.  Takes ACCESS SHARE on what it reads. */
extern CqrsProgram *cqrs_plan_derive(Oid definition, Oid table, const AttrNumber *key, int nkeys);

/*
 * Statements that compute the affected keys for a change of source 'source' (index): List of char *, one a term; their results
 * together are the affected keys, columns as program->affected (duplicates across terms are possible).  They read deltas (all
 * sources' must be offered).  'changed' holds the indexes of sources with old images in this window: only their old images need
 * uniting with current state.
 */
extern List *cqrs_plan_affected(const CqrsProgram *program, int source, Bitmapset *changed);

/* The same where what a change of other sources does is not looked for, but added up: these find all keys that a change of this one can affect. */
extern List *cqrs_plan_affected_united(const CqrsProgram *program, int source, Bitmapset *changed);

/*
 * Strategy delta.  How many occurrences of the sources in 'changed' there are; the statement that computes what their changes together add to each group
 * (columns as program->change), all others being as they are now; and the one that puts such changes of groups of one null pattern, offered as CQRS_CHANGE,
 * together with the table's rows: columns as program->stored and a CqrsVerdict (integer).  With 'except' groups among CQRS_AFFECTED are left out.
 */
extern int	cqrs_plan_occurrences(const CqrsProgram *program, Bitmapset *changed);
extern char *cqrs_plan_change(const CqrsProgram *program, Bitmapset *changed);
extern char *cqrs_plan_combine(const CqrsProgram *program, uint32 nulls, bool except);

/* The condition that a version's table has for rows that are the query's, without an alias; NULL if all are. */
extern const char *cqrs_plan_shown(Oid definition, Oid table);

/* The affected keys, offered as CQRS_AFFECTED, each once. */
extern char *cqrs_plan_distinct(const CqrsProgram *program);

/*
 * Null patterns: a bit for each key column that is null.  The statement that recomputes the affected keys of pattern 'nulls' (offered as
 * CQRS_AFFECTED, holding only keys of that pattern; not read if all columns are null); columns as program->stored.
 *
 * The first form recomputes them all at once, the second one by one, where each must be offered once only.  Whoever runs them chooses by their cost.  The key
 * has columns: a row without a key is evaluated.
 */
extern char *cqrs_plan_compute(const CqrsProgram *program, uint32 nulls);
extern char *cqrs_plan_compute_each(const CqrsProgram *program, uint32 nulls);

/* The full evaluation: columns as program->stored. */
extern char *cqrs_plan_evaluate(const CqrsProgram *program);

/*
 * The merge of rows of one null pattern, offered as CQRS_COMPUTED: first the delete of rows of that pattern that vanished (among
 * CQRS_AFFECTED, or all with 'full'), then update of those that differ and insert of new ones.
 */
extern char *cqrs_plan_delete(const CqrsProgram *program, uint32 nulls, bool full);
extern char *cqrs_plan_merge(const CqrsProgram *program, uint32 nulls);

/* Finds one key of pattern 'nulls' that CQRS_COMPUTED holds twice: the key's columns as text[]; no row if none. */
extern char *cqrs_plan_duplicate(const CqrsProgram *program, uint32 nulls);

/* Null patterns that occur in the table: one bigint column, a row a pattern. */
extern char *cqrs_plan_patterns(const CqrsProgram *program);

/*
 * Some keys of the version, columns as program->affected: those in its table, or in its definition, whose hash with 'seed', which is spread over all of
 * bigint, is less than 'below'.  And the table's rows, columns as program->row, for the affected keys of pattern 'nulls'.  The key has columns.
 */
extern char *cqrs_plan_sample(const CqrsProgram *program, bool of_table, int64 seed, int64 below);
extern char *cqrs_plan_found(const CqrsProgram *program, uint32 nulls);

/* An index on a source that would spare scans of all of it. */
typedef struct CqrsAdvice
{
	Oid			source;
	const char *purpose;		/* in words that follow "would help" */
	const char *statement;		/* CREATE INDEX … */
} CqrsAdvice;

/* The indexes that would help now: List of CqrsAdvice *.  And a notice for each that recomputing a key will want once sources are large. */
extern List *cqrs_plan_advice(const CqrsProgram *program);
extern void cqrs_plan_notify(const CqrsProgram *program);

/* What cqrs.explain prints: List of char *, one line each. */
extern List *cqrs_plan_explain(const CqrsProgram *program);

/* ---- versions that handlers define ---- */

/*
 * Handlers as create_projection takes them, resolved for the current user: List of CqrsHandler *, and what to do about events that none takes.  Bad ones are
 * errors: 22023, 42P01 (a table), 42883, 42P13 (a function), 42501, 55000 (a table that is not captured).
 */
extern List *cqrs_handlers_parse(Jsonb *handlers, const char **unknown);

/* Refuse with 42501 handlers of what their owner may not read. */
extern void cqrs_handlers_check_rights(List *handlers, const char *unknown, Oid owner);

/* The CREATE TABLE of columns as given (errors 22023, 0A000, 42601); the INSERT of a seed into a table named in full (42601). */
extern char *cqrs_handlers_table(const char *schema, const char *name, const char *columns);
extern char *cqrs_handlers_seed(const char *table, const char *seed);

/* Has the server look at handlers, under the owner's identity and the version's settings: errors are its own, and name the handler. */
extern void cqrs_handlers_check(List *handlers);

struct _SPI_plan;

/* A handler's SQL, and whether it, prepared with CQRS_EVENT and CQRS_EVENTS on offer, takes runs. */
extern char *cqrs_handlers_text(const CqrsHandler *handler);
struct _SPI_plan;
extern bool cqrs_handlers_take_runs(struct _SPI_plan *statement);

/* The columns of these that such a handler uses, as attribute numbers; NULL: it may use any. */
extern Bitmapset *cqrs_handlers_columns(struct _SPI_plan *statement);

/* What cqrs.explain prints of such a version. */
extern List *cqrs_handlers_explain(int32 version);

/* The columns of the two relations. */
extern TupleDesc cqrs_handlers_row(void);

#endif							/* CQRS_PLAN_H */
