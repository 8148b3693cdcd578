/*
 * build/older.c
 *		Who has a snapshot that is older than a version's fill, and would not see what it holds.
 *
 * As the server's own CREATE INDEX CONCURRENTLY waits for such snapshots.  A snapshot that holds back the xmin of the server is not older for that alone: one
 * that was taken since the fill was committed is not, whatever transactions were open then.
 */
#include "postgres.h"

#include "access/transam.h"
#include "base/spi.h"
#include "build/parts.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* What the server's clock counts from, in seconds of the epoch. */
#define UNIX_OFFSET ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

/* One process: its id, and how it is shown. */
typedef struct Process
{
	int			pid;
	char	   *shown;
} Process;

/*
 * read_process reads a row of the query.
 */
static void *
read_process(uint64 row, MemoryContext caller)
{
	Process    *process = MemoryContextAlloc(caller, sizeof(Process));
	char	   *pid = cqrs_spi_text(row, 1, caller);

	process->pid = pg_strtoint32(pid);
	process->shown = cqrs_spi_text(row, 2, caller);
	return process;
}

/*
 * query_of asks for processes of this database whose snapshots may be older than the fill.
 *
 * VACUUM does not look at rows, nor does who waits for a projection.  When a transaction began is not known where activity is not tracked.
 */
static char *
query_of(const CqrsVersion *version)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT a.pid, "
					 "pg_catalog.format('process %%s%%s', a.pid, ' (' || NULLIF(a.application_name, '') || ')') "
					 "FROM pg_catalog.pg_stat_activity a "
					 "WHERE a.datid = %u AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_type <> 'autovacuum worker' "
					 "AND pg_catalog.age(a.backend_xmin) >= pg_catalog.age('%u'::pg_catalog.xid) "
					 "AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND l.locktype = 'object' AND l.database = %u "
					 "AND l.classid = %u AND l.objid = 0)",
					 MyDatabaseId, XidFromFullTransactionId(version->filled_xid), MyDatabaseId,
					 cqrs_registry_relation(CQRS_CAT_PROJECTION));
	if (version->filled_at != 0)
		appendStringInfo(&sql, " AND (a.xact_start IS NULL OR EXTRACT(epoch FROM a.xact_start) <= %lld.%06d)",
						 (long long) (version->filled_at / USECS_PER_SEC + UNIX_OFFSET),
						 (int) (version->filled_at % USECS_PER_SEC));
	return sql.data;
}

/*
 * is_past tells whether a transaction is so long past that no snapshot can be older, or is none of this server's.
 */
static bool
is_past(FullTransactionId xid)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());
	uint64		ours = U64FromFullTransactionId(xid);

	return ours >= next || next - ours > PG_INT32_MAX;
}

/*
 * cqrs_older_snapshots lists who has a snapshot older than a version's fill.
 */
List *
cqrs_older_snapshots(const CqrsVersion *version, List **known)
{
	List	   *shown = NIL;
	List	   *pids = NIL;
	ListCell   *cell;

	if (!FullTransactionIdIsValid(version->filled_xid) || is_past(version->filled_xid))
		return NIL;
	pgstat_clear_snapshot();	/* or we would be told again what we were told before */
	foreach(cell, cqrs_spi_collect(query_of(version), read_process))
	{
		Process    *process = lfirst(cell);

		if (*known != NIL && !list_member_int(*known, process->pid))
			continue;
		pids = lappend_int(pids, process->pid);
		shown = lappend(shown, process->shown);
	}
	*known = pids;
	return shown;
}
