# Another library writes to a source after our buffer was written out: it was loaded before us, so the server calls its work before commit after ours.  If this
# fails, such changes are in the table but never reach a read model.  And a crash between two chunks: numbers must go on, never come again.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $truth = 'SELECT shop, count(*) AS sales, sum(amount) AS total FROM sale GROUP BY shop';
my $folder = PostgreSQL::Test::Utils::tempdir();

# The library: late_write(sql) has a statement run before this transaction's commit or prepare.
PostgreSQL::Test::Utils::append_to_file("$folder/late.c", <<'C');
#include "postgres.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(late_write);
void _PG_init(void);

static char *statement = NULL;

static void
before_commit(XactEvent event, void *arg)
{
	char	   *sql = statement;

	statement = NULL;
	if (sql == NULL || (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE))
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	SPI_execute(sql, false, 0);
	SPI_finish();
	PopActiveSnapshot();
}

Datum
late_write(PG_FUNCTION_ARGS)
{
	statement = MemoryContextStrdup(TopMemoryContext, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_VOID();
}

void
_PG_init(void)
{
	RegisterXactCallback(before_commit, NULL);
}
C
my ($include, $cc) = split(/\n/, qx(pg_config --includedir-server --cc));
is(system("$cc -shared -fPIC -I$include -o $folder/late.so $folder/late.c"), 0, 'the other library compiles');

my $node = new_server('late', "shared_preload_libraries = '$folder/late, cqrs'");
$node->safe_psql('postgres', qq{
	CREATE FUNCTION late_write(text) RETURNS void LANGUAGE c AS '$folder/late';
	CREATE TABLE sale (id integer PRIMARY KEY, shop text, amount integer);
	INSERT INTO sale VALUES (1, 'north', 1);
	SELECT cqrs.create_projection('shops', \$\$$truth\$\$)});
ok(caught_up($node, 'shops'), 'it serves');

# Runs a transaction, waits, compares.
sub follows
{
	my ($what, $sql) = @_;

	$node->safe_psql('postgres', $sql);
	ok(caught_up($node, 'shops'), "$what arrives");
	return is_equal($node, 'shops', $truth, "$what is right");
}

follows('a late change alone', q{SELECT late_write('INSERT INTO sale VALUES (2, ''late'', 2)')});
follows('a late change of a row changed before', q{BEGIN; INSERT INTO sale VALUES (3, 'early', 3);
	SELECT late_write('UPDATE sale SET shop = ''late'' WHERE id = 3'); COMMIT});
follows('many late changes', q{BEGIN; DELETE FROM sale WHERE id = 1;
	SELECT late_write('INSERT INTO sale SELECT i, ''many'', i FROM generate_series(100, 5000) i'); COMMIT});
follows('a late change with subtransactions', q{SELECT late_write($late$DO $$BEGIN
	INSERT INTO sale VALUES (10, 'outside', 1);
	BEGIN INSERT INTO sale VALUES (11, 'gone', 1); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN UPDATE sale SET amount = 5 WHERE id = 10; END;
	BEGIN INSERT INTO sale VALUES (12, 'inside', 1); EXCEPTION WHEN division_by_zero THEN NULL; END;
	END$$$late$)});
follows('a late change before PREPARE', q{BEGIN; INSERT INTO sale VALUES (20, 'prepared', 1);
	SELECT late_write('INSERT INTO sale VALUES (21, ''prepared'', 1)'); PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'});
isnt($node->psql('postgres', q{BEGIN; INSERT INTO sale VALUES (30, 'failed', 1); SELECT late_write('SELECT 1/0'); COMMIT}), 0, 'a late error rolls back');
follows('the transaction after it', q{INSERT INTO sale VALUES (31, 'after', 1)});

# Numbers of chunks after a crash.
$node->stop('immediate');
$node->start;
follows('a change after a crash', q{INSERT INTO sale VALUES (40, 'crash', 1)});
$node->safe_psql('postgres', 'CHECKPOINT');
follows('a change after a checkpoint', q{INSERT INTO sale VALUES (41, 'crash', 1)});
$node->stop('immediate');
$node->start;
follows('a change after another crash', q{INSERT INTO sale VALUES (42, 'crash', 1)});
is($node->safe_psql('postgres', q{SELECT count(*) - count(DISTINCT number) FROM cqrs_internal.outbox_1}), 0, 'no number was drawn twice');
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM (SELECT position < lag(position) OVER (ORDER BY xid) AS back FROM cqrs.outbox WHERE new_row ->> 'shop' = 'crash') AS o
	WHERE back}), 0, 'and none goes back');
$node->stop;
done_testing();
