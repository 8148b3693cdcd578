# What goes wrong while versions are built and switched: processes die at every point of it, the disk is full, a build is cancelled, a key is none, old transactions
# are open.  If this fails, a read model is left that nobody can use, remove or build again, or the one that serves suffers from it.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('versions_fail', q{cqrs.retry_initial = '20ms'}, q{cqrs.retry_max = '500ms'}, q{cqrs.lock_timeout = '60s'});
my $query = 'SELECT id, name, price FROM item';
my $began;

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# The error that a statement ends with.
sub failure
{
	my ($status, $out, $err) = $node->psql('postgres', $_[0]);

	return $status == 0 ? 'none' : $err =~ /ERROR:\s+(.*)/ ? $1 : $err;
}

sub states
{
	return sql(q{SELECT string_agg(version || ' ' || state || CASE WHEN status <> 'running' THEN ' ' || status ELSE '' END, ', ' ORDER BY version)
		FROM cqrs.versions WHERE projection = 'items'::regclass AND state <> 'retired'});
}

sub becomes
{
	my ($states, $what) = @_;

	until_true($node, qq{SELECT '$states' = (SELECT string_agg(version || ' ' || state || CASE WHEN status <> 'running' THEN ' ' || status ELSE '' END, ', ' ORDER BY version)
		FROM cqrs.versions WHERE projection = 'items'::regclass AND state <> 'retired')});
	return is(states(), $states, $what);
}

sub create_version
{
	return sql("SELECT cqrs.create_version('items')");
}

sql(q{CREATE TABLE item (id integer PRIMARY KEY, name text, price integer);
	INSERT INTO item SELECT i, 'item ' || i, i % 10 FROM generate_series(1, 3000) i;
	SELECT cqrs.create_projection('items', 'SELECT id, name, price FROM item');});

# ---- the first one serves at once; a transaction that is older than its fill sees what that has written, and not nothing
my $old = $node->background_psql('postgres');
sql("SELECT cqrs.drop_projection('items')");
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM item');
sql("SELECT cqrs.create_projection('items', 'SELECT id, name, price FROM item')");
$began = time();
is(sql("SELECT cqrs.wait_until_serving('items')"), 't', 'a first version serves while a transaction is open that is older than its fill');
cmp_ok(time() - $began, '<', 30, 'at once, whoever waits for it');
is($old->query_safe('SELECT count(*) FROM items'), '3000', 'and that finds no empty table');
$old->query_safe('COMMIT');
becomes('1 serving', 'it goes on');

# ---- nor is one switched to, unless by force, and then the old transaction reads what the fill has written
create_version();
becomes('1 serving, 2 shadow', 'a version is built beside it');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM item');
sql("SELECT cqrs.switch('items')");
pass('a transaction that began after the fill is not waited for');
$old->query_safe('COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM item');
my $number = create_version();
becomes('1 standby, 2 serving, 3 shadow', 'another is built');
$began = time();
like(failure("SET cqrs.lock_timeout = '3s'; SELECT cqrs.switch('items')"), qr/was not switched to version 3, because transactions are open that are older than its fill/, 'an old transaction is in the way of a switch');
cmp_ok(time() - $began, '>', 2, 'which has waited for it for as long as locks are waited for');
is(states(), '1 standby, 2 serving, 3 shadow', 'and has left all as it was');
sql("SELECT cqrs.switch('items', force => true)");
is($old->query_safe('SELECT count(*) FROM items'), '3000', 'force does not wait, and even then the old transaction finds no empty table');
$old->query_safe('COMMIT');
sql("SELECT cqrs.switch_back('items'); SELECT cqrs.retire('items', 1); SELECT cqrs.retire('items', 3)");

# ---- a build is cancelled in the middle of the fill, and writers and readers do not notice any of it
my $stop = stop_at($node, 'fill');
$number = create_version();
my $pid = stopped_at($node, 'fill');
is(sql("SELECT phase FROM cqrs.build_progress WHERE version = $number"), 'filling', 'build_progress shows a fill');
sql("SET statement_timeout = '2s'; UPDATE item SET price = price + 1 WHERE id < 10; SELECT count(*) FROM items");
sql("SET statement_timeout = '20s'; SELECT cqrs.retire('items', $number)");
becomes('2 serving', 'a build is cancelled while a worker fills');
is(sql("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'cqrs_items_%'"), '1', 'and nothing is left of it');
is(worker_pid($node), $pid, 'by the same worker, which goes on');
$stop->quit;
ok(caught_up($node, 'items'), 'and catches up');

# ---- processes are killed at each point
foreach my $point (qw(attach fill finish compare switch))
{
	my $storm;

	$stop = stop_at($node, $point);
	sql("SELECT cqrs.rebuild('items')");
	$pid = stopped_at($node, $point);
	ok(kill('KILL', $pid), "the worker is killed at $point");
	eval { $stop->quit };
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	is(sql('SELECT count(*) FROM items'), '3000', "$point: the one that serves goes on");
	sql('UPDATE item SET price = price + 1 WHERE id % 7 = 0');
	until_true($node, q{SELECT count(*) = 1 FROM cqrs.versions WHERE projection = 'items'::regclass AND state = 'standby'
		AND NOT EXISTS (SELECT FROM cqrs.versions WHERE state IN ('building', 'shadow'))});
	like(states(), qr/^\d+ standby, \d+ serving$/, "$point: the rebuild is made good");
	ok(caught_up($node, 'items'), "$point: and catches up");
	is_equal($node, 'items', $query, "$point: and equals its query");
	sql("SELECT cqrs.retire('items', version) FROM cqrs.versions WHERE state = 'standby'");
	is(sql("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'cqrs_items_%'"), '1', "$point: nothing is left over");
}

# ---- what fails, and what halts
my $serves = sql("SELECT version FROM cqrs.versions WHERE state = 'serving'");
$number = $serves + 1;
sql("SELECT cqrs.create_version('items', 'SELECT id, name, 100 / (price - 1000) AS price FROM item')");
becomes("$serves serving, $number shadow", 'a version that can fail');
sql('UPDATE item SET price = 1000 WHERE id = 5');
becomes("$serves serving, $number shadow failing", 'fails');
like(failure("SELECT cqrs.switch('items')"), qr/^version $number of projection "items" is failing/, 'and is not switched to');
like(failure("SELECT cqrs.switch('items', $number)"), qr/is failing/, 'nor by its number');
ok(caught_up($node, 'items'), 'while the other goes on');
sql('UPDATE item SET price = 1001 WHERE id = 5');
becomes("$serves serving, $number shadow", 'it heals');
sql("SELECT cqrs.retire('items', $number)");
$number++;
sql("SELECT cqrs.create_version('items', 'SELECT name, price FROM item', key => '{price}')");
becomes("$serves serving, $number building halted", 'a key that is none halts the build');
like(failure("SELECT cqrs.switch('items', $number)"), qr/is still being built/, 'and is not switched to');
like(failure("SELECT cqrs.create_version('items')"), qr/version $number of projection "items" is still being built/, 'a second build waits for it to be retired');
sql("SELECT cqrs.retire('items', $number)");
becomes("$serves serving", 'which it can be');

# ---- the disk is full: files cannot become larger than 24 MB; the write-ahead log's have 16
$node->stop;
{
	my @command = ('bash', '-c', 'ulimit -f 24576 && exec "$@"', 'bash', 'pg_ctl', '-D', $node->data_dir, '-l', $node->logfile, '-w', '-s', 'start');
	is(system(@command), 0, 'the server starts with a small disk');
	$node->_update_pid(1);
}
sql("ALTER SYSTEM SET max_parallel_workers_per_gather = 0; SELECT pg_reload_conf()");
$number++;
sql(q{SELECT cqrs.create_version('items', 'SELECT i.id, n, repeat(md5(i.id::text || n), 50) AS padding FROM item i CROSS JOIN generate_series(1, 40) n', key => '{id,n}')});
becomes("$serves serving, $number building failing", 'a fill for which the disk is too small fails');
like(sql("SELECT error FROM cqrs.versions WHERE version = $number"), qr/could not extend file|could not write/, 'and says so');
cmp_ok(sql("SELECT bytes FROM cqrs.versions WHERE version = $number"), '<', 1_000_000, 'and gives back what it took');
sql('UPDATE item SET price = 3 WHERE id = 9');
ok(caught_up($node, 'items'), 'the one that serves goes on');
is_equal($node, 'items', $query, 'and equals its query');
ok(until_true($node, qq{SELECT count(*) > 0 FROM cqrs_internal.version WHERE number = $number AND attempts > 2}), 'it is tried again and again');
sql("SELECT cqrs.retire('items', $number)");
becomes("$serves serving", 'until it is retired');

# ---- what a rebuild leaves behind is retired by itself
sql(q{ALTER SYSTEM SET cqrs.standby_retention = '1s'});
$node->restart;
$number++;
sql("SELECT cqrs.rebuild('items')");
becomes("$number serving", 'a standby is retired when its time has come');
is(sql("SELECT reason FROM cqrs.history WHERE event = 'retired' AND version = $serves"), 'cqrs.standby_retention has passed', 'and history says why');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'nothing fell by itself');
$node->stop;
done_testing();
