/*
 * projection/carry.c
 *		What users have put on the table of the version that serves, put on the table of a new one: indexes, statistics objects, storage parameters,
 *		comments, grants.
 *
 * The new table is empty yet, so all but the indexes are made at once; those are made after the fill, with their names and comments, and only tried
 * here.  What cannot be made, because a column is gone or is of another type, is told in a notice.  Statements are written by the server's own functions, as
 * the system, and run as the owner.
 */
#include "postgres.h"

#include "base/attempt.h"
#include "base/names.h"
#include "base/spi.h"
#include "build/build.h"
#include "projection/parts.h"
#include "utils/lsyscache.h"

/* Something on a table, and how to put it on another. */
typedef struct Attached
{
	char	   *what;
	char	   *statement;		/* or NULL */
	bool		possible;
} Attached;

static const char *const attachments_query =
	"SELECT what, statement, statement IS NOT NULL FROM cqrs_internal.table_settings(%1$u, %2$u) "
	"UNION ALL SELECT what, statement, statement IS NOT NULL FROM cqrs_internal.table_attachments(%1$u, %2$u)";
static const char *const indexes_query = "SELECT what, statement, possible FROM cqrs_internal.table_indexes(%u)";

/* An index tried on an empty table. */
typedef struct Trial
{
	Oid			table;
	const char *index;			/* what follows CREATE INDEX ON table */
	MemoryContext memory;
	char	   *written;		/* the same, as the server writes it */
} Trial;

/*
 * read_item reads a row.
 */
static void *
read_item(uint64 row, MemoryContext caller)
{
	Attached   *item = MemoryContextAlloc(caller, sizeof(Attached));

	item->what = cqrs_spi_text(row, 1, caller);
	item->statement = cqrs_spi_text(row, 2, caller);
	item->possible = strcmp(cqrs_spi_text(row, 3, caller), "t") == 0;
	return item;
}

/*
 * tell tells what is not carried over.
 */
static void
tell(const CqrsVersion *from, const char *what, const char *why)
{
	ereport(NOTICE,
			(errmsg("not carried over from version %d: %s", from->number, what),
			 why ? errdetail_internal("%s", why) : 0));
}

/*
 * run runs one statement for cqrs_attempt.
 */
static void
run(void *statement)
{
	cqrs_spi_connect();
	cqrs_spi_run(statement);
	cqrs_spi_finish();
}

/*
 * tail_of returns what follows CREATE INDEX ... ON table in the statement that the server writes for an index.
 */
static char *
tail_of(const char *definition, Oid table)
{
	char	   *on = psprintf(" ON %s ", cqrs_name_relation(table));
	char	   *found = strstr(definition, on);

	return found ? pstrdup(found + strlen(on)) : NULL;
}

/*
 * try_index creates an index on an empty table, for cqrs_attempt, to see whether it can be, and how the server writes it.
 */
static void
try_index(void *argument)
{
	Trial	   *trial = argument;
	List	   *found;
	MemoryContext before;

	cqrs_spi_connect();
	cqrs_spi_run(cqrs_build_index_statement(trial->table, trial->index));
	cqrs_spi_finish();
	found = cqrs_spi_collect(psprintf(indexes_query, trial->table), read_item);
	before = MemoryContextSwitchTo(trial->memory);
	trial->written = tail_of(((Attached *) llast(found))->statement, trial->table);
	MemoryContextSwitchTo(before);
}

/*
 * written returns how the server writes an index on a version's table, which is empty; NULL if it cannot be made, with 'why'.
 */
static char *
written(const CqrsVersion *version, const char *index, char **why)
{
	Trial		trial = {.table = version->table, .index = index, .memory = CurrentMemoryContext};
	ErrorData  *error = cqrs_attempt(try_index, &trial, false);

	*why = error ? error->message : NULL;
	return error ? NULL : trial.written;
}

/*
 * contains tells whether a text is in a list of them.
 */
static bool
contains(List *texts, const char *text)
{
	ListCell   *cell;

	foreach(cell, texts)
		if (lfirst(cell) != NULL && strcmp(lfirst(cell), text) == 0)
			return true;
	return false;
}

/*
 * all_written returns how the server writes indexes on a version's table.
 */
static List *
all_written(const CqrsVersion *version, List *indexes)
{
	List	   *texts = NIL;
	char	   *why;
	ListCell   *cell;

	foreach(cell, indexes)
		texts = lappend(texts, written(version, lfirst(cell), &why));
	return texts;
}

/*
 * carried_indexes returns the indexes to be made on the new table beside those asked for: what is on the old one, but, if indexes were given, not those that
 * were asked for there.
 */
static List *
carried_indexes(const CqrsVersion *from, const CqrsVersion *to, bool given)
{
	List	   *left_out = all_written(to, to->indexes);
	List	   *carried = NIL;
	ListCell   *cell;

	if (given)
		left_out = list_concat(left_out, all_written(to, from->indexes));
	foreach(cell, cqrs_spi_collect(psprintf(indexes_query, from->table), read_item))
	{
		Attached   *item = lfirst(cell);
		char	   *index = item->possible ? tail_of(item->statement, from->table) : NULL;
		char	   *why = "It is unique, or not valid.";
		char	   *text = index ? written(to, index, &why) : NULL;

		if (text == NULL)
			tell(from, item->what, why);
		else if (!contains(left_out, text))
			carried = lappend(carried, text);
	}
	return carried;
}

/*
 * cqrs_carry_over puts on a new version's table what is on another's, and returns the indexes that are to be made after the fill.
 */
List *
cqrs_carry_over(const CqrsVersion *from, const CqrsVersion *to, bool indexes_given)
{
	char	   *sql = psprintf(attachments_query, from->table, to->table);
	ListCell   *cell;

	foreach(cell, cqrs_spi_collect(sql, read_item))
	{
		Attached   *item = lfirst(cell);
		ErrorData  *error = item->possible ? cqrs_attempt(run, item->statement, true) : NULL;

		if (error != NULL || !item->possible)
			tell(from, item->what, error ? error->message : NULL);
	}
	return carried_indexes(from, to, indexes_given);
}
