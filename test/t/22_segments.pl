# The outbox under load, with autovacuum off and segments so small that they come and go many times a second: it must stay as small as what is still needed, with a
# worker and without; forget nothing when the server is killed while segments come and go; and let itself be dumped and restored with changes in many segments.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my @small = ("autovacuum = off", "cqrs.segment_size = '64kB'", "cqrs.retention = 0", "synchronous_commit = off");
my $node = new_server('segments', @small);
my $pages = 'SELECT i.id, i.amount, k.name FROM item i LEFT JOIN kind k ON k.id = i.kind';
my $kinds = 'SELECT kind, count(*) AS items, sum(amount) AS amount FROM item GROUP BY kind';
my $script = PostgreSQL::Test::Utils::tempdir() . '/write.sql';

append_to_file($script, q{
\set id random(1, 5000)
\set kind random(1, 20)
INSERT INTO item VALUES (:id, :kind, 1, repeat('x', 200)) ON CONFLICT (id) DO UPDATE SET amount = item.amount + 1, kind = excluded.kind;
});

# Starts pgbench for some seconds; returns what to finish it with.
sub load
{
	my ($seconds, @more) = @_;

	return IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-j', 2, '-T', $seconds, '-f', $script, @more, $node->connstr('postgres') ], '>', \my $out, '2>', \my $error);
}

# Size of the outbox in kB, of all that is there: segments, spares, what is emptied.
sub outbox_size
{
	return $node->safe_psql('postgres', q{SELECT sum(pg_total_relation_size(oid)) / 1024 FROM pg_class WHERE relname LIKE 'outbox%' AND relkind = 'r' AND relnamespace = 'cqrs_internal'::regnamespace});
}

# The greatest size of the outbox while something runs for that many seconds.
sub greatest
{
	my ($seconds) = @_;
	my ($began, $greatest) = (time(), 0);

	while (time() - $began < $seconds)
	{
		my $size = int(outbox_size());

		$greatest = $size if $size > $greatest;
		sleep(0.1);
	}
	return $greatest;
}

sub all_equal
{
	my ($when) = @_;

	ok(caught_up($node, $_), "$_ catches up $when") foreach 'pages', 'kinds';
	is_equal($node, 'pages', $pages, "pages are right $when");
	is_equal($node, 'kinds', $kinds, "kinds are right $when");
	return;
}

sub opened
{
	return $node->safe_psql('postgres', 'SELECT max(number) FROM cqrs_internal.segment');
}

$node->safe_psql('postgres', qq{
	CREATE TABLE kind (id integer PRIMARY KEY, name text);
	CREATE TABLE item (id integer PRIMARY KEY, kind integer, amount integer, filler text);
	INSERT INTO kind SELECT i, 'kind ' || i FROM generate_series(1, 15) i;
	SELECT cqrs.create_projection('pages', '$pages', ARRAY['id']);
	SELECT cqrs.create_projection('kinds', '$kinds');});
ok($node->safe_psql('postgres', "SELECT cqrs.wait_until_serving('$_')") eq 't', "$_ is served") foreach 'pages', 'kinds';
$node->safe_psql('postgres', q{SELECT cqrs.capture('item'); SELECT cqrs.capture('kind')});

# With a worker: flat, however much goes through it.
my $run = load(3, '-R', 1500);
my $size = greatest(3);
$run->finish;
my $segments = opened();
all_equal('after the load');
cmp_ok($segments, '>', 5, "many segments were opened ($segments)");
cmp_ok($size, '<', 4000, "the outbox stayed small ($size kB)");
ok(until_true($node, q{SELECT count(*) = 1 FROM cqrs.segments}, 10), 'what is consumed is freed, though nobody writes any more');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM cqrs_internal.segment}), '<=', 3, 'and few are kept for later');

# A dump, or whoever reads a segment, keeps that one, and nothing else; what is freed later, is freed without another commit.
my $reader = $node->background_psql('postgres');
$reader->query_safe(q{BEGIN; SELECT count(*) FROM } . $node->safe_psql('postgres', 'SELECT relation FROM cqrs_internal.segment WHERE opened_at IS NOT NULL ORDER BY number LIMIT 1'));
$run = load(2, '-R', 1500);
$size = greatest(2);
$run->finish;
cmp_ok($size, '<', 4000, "a reader keeps what it reads, and nothing else ($size kB)");
ok(until_true($node, q{SELECT count(*) = 2 AND bool_or(held_by::text LIKE '%process%') FROM cqrs.segments}, 10), 'which it is said to hold');
$reader->query_safe('COMMIT');
ok(until_true($node, q{SELECT count(*) = 1 FROM cqrs.segments}, 20), 'until it ends');
$reader->quit;

# A long transaction with an id, and a snapshot, that writes nothing: it holds nothing, and batches cost no more for it.
$reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id(); SELECT count(*) FROM item');
$run = load(2, '-R', 1500);
$size = greatest(2);
$run->finish;
all_equal('beside a long transaction');
cmp_ok($size, '<', 4000, "a long transaction that wrote nothing holds nothing ($size kB)");
$reader->query_safe('COMMIT');
$reader->quit;

# A paused projection holds what it needs; dropped, it lets go.
$node->safe_psql('postgres', q{SELECT cqrs.create_projection('extra', 'SELECT kind, max(id) AS last FROM item GROUP BY kind')});
ok($node->safe_psql('postgres', q{SELECT cqrs.wait_until_serving('extra')}) eq 't', 'another is served');
$node->safe_psql('postgres', q{SELECT cqrs.pause('extra')});
load(2)->finish;
ok(caught_up($node, 'pages'), 'the others go on');
ok($node->safe_psql('postgres', q{SELECT count(*) > 3 AND bool_and(held_by = '{extra version 1 (paused)}' OR held_by = '{active}' OR held_by = '{}') FROM cqrs.segments}) eq 't', 'a paused projection holds segments');
$node->safe_psql('postgres', q{SELECT cqrs.drop_projection('extra')});
ok(until_true($node, q{SELECT count(*) = 1 FROM cqrs.segments}, 20), 'until it is dropped');

# Past the maximum it is made stale, and evaluated anew.
$node->safe_psql('postgres', q{SELECT cqrs.pause('kinds'); ALTER SYSTEM SET cqrs.max_outbox_size = '1MB'; SELECT pg_reload_conf()});
$run = load(5, '-R', 1500);
$size = greatest(5);
$run->finish;
cmp_ok($size, '<', 4000, "the maximum bounds the outbox ($size kB)");
# On a busy machine another may have been as far behind.
like($node->safe_psql('postgres', q{SELECT DISTINCT projection || ' ' || reason FROM cqrs.history WHERE event = 'stale'}), qr/^kinds the outbox exceeded cqrs.max_outbox_size$/m, 'the one that held it back is stale');
like(slurp_file($node->logfile), qr/WARNING: .*version 1 of projection "public.kinds" is stale: the outbox exceeded/, 'the log says so');
$node->safe_psql('postgres', q{SELECT cqrs.resume('kinds'); ALTER SYSTEM RESET cqrs.max_outbox_size; SELECT pg_reload_conf()});
all_equal('after that');

# Killed while segments come and go, again and again.
foreach my $round (1 .. 3)
{
	$run = load(30);
	sleep(0.7 + rand(0.5));
	$node->stop('immediate');
	$run->finish;
	$node->start;
	all_equal("after crash $round");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM cqrs_internal.segment WHERE opened_at IS NOT NULL AND closed_at IS NULL}), 1, 'and one segment is written to');
}
ok(until_true($node, q{SELECT count(*) = 1 FROM cqrs.segments}, 20), 'all else is freed')
  or diag($node->safe_psql('postgres', 'TABLE cqrs.segments; SELECT number, closed_at, consumed_at, bytes, now() FROM cqrs_internal.segment; TABLE cqrs.checkpoints; TABLE cqrs.workers'));

# Our own tables are vacuumed by the worker, since nobody else does.
$node->safe_psql('postgres', q{DO $$ BEGIN FOR i IN 1..30000 LOOP INSERT INTO cqrs_internal.checkpoint SELECT -1, i, '1:1:', 0, now(), 0, 0, 0, NULL, 0, NULL, 0, '0'; END LOOP; DELETE FROM cqrs_internal.checkpoint WHERE version = -1; END $$});
ok(until_true($node, q{WITH w AS (INSERT INTO kind VALUES (101, 'x') ON CONFLICT (id) DO UPDATE SET name = clock_timestamp()::text) SELECT vacuum_count > 0 FROM pg_stat_user_tables WHERE relname = 'checkpoint'}, 30), 'checkpoints are vacuumed');

# Without a worker writers open segments, and drain frees them.
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET cqrs.max_workers = 0');
until_true($node, q{SELECT count(*) = 0 FROM cqrs.workers WHERE role = 'worker'}, 20);
$run = load(3, '-R', 1500);
my $began = time();
my $greatest = 0;
while (time() - $began < 3)
{
	$node->safe_psql('postgres', 'SELECT cqrs.drain()');
	$size = outbox_size();
	$greatest = $size if $size > $greatest;
	sleep(0.2);
}
$run->finish;
cmp_ok($greatest, '<', 8000, "without a worker the outbox stays small, too ($greatest kB)");
$node->safe_psql('postgres', 'SELECT cqrs.drain()');
is_equal($node, 'pages', $pages, 'pages are right without a worker');
is_equal($node, 'kinds', $kinds, 'kinds are right without a worker');
# And bound it by themselves.
$node->safe_psql('postgres', q{ALTER SYSTEM SET cqrs.max_outbox_size = '1MB'; SELECT pg_reload_conf()});
$run = load(4);
$size = greatest(4);
$run->finish;
cmp_ok($size, '<', 2000, "without anybody to free it the outbox is bounded ($size kB)");
is($node->safe_psql('postgres', 'SELECT DISTINCT attached FROM cqrs_internal.source'), 'f', 'because capture is suspended');
# A worker that comes back captures again, and evaluates all anew.
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET cqrs.max_workers');
worker_pid($node);
$run = load(2);
ok(until_true($node, 'SELECT bool_and(attached) FROM cqrs_internal.source', 30), 'a worker captures again');
$run->finish;
all_equal('after capture was suspended');

$node->stop;
done_testing();
