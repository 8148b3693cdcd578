# Where a worker should be, there must be one, and nowhere else: after CREATE EXTENSION and DROP EXTENSION however they are committed, after settings change,
# after the worker or the launcher was cancelled, terminated or killed, and after a restart.  A database that is forgotten stands still without a
# word; one that is looked at too often spends its server's few background processes.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('comes');
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'cqrs worker'};

# How many workers there are, once nothing changes any more; 'there' says what should be.
sub workers_are
{
	my ($number, $what) = @_;

	until_true($node, "SELECT ($workers) = $number", 10);
	select(undef, undef, undef, 0.3);
	return is($node->safe_psql('postgres', $workers), $number, $what);
}

# Another worker than the one with this process id comes to a database.
sub another_than
{
	my ($pid, $what, $database, $seconds) = @_;

	return ok(
		defined until_true(
			$node, "SELECT EXISTS (SELECT FROM cqrs.workers WHERE role = 'worker' AND datname = current_database() AND pid <> $pid)",
			$seconds // 20, $database),
		$what);
}

$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'cqrs'
max_prepared_transactions = 10
restart_after_crash = on
cqrs.naptime = '1h'
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE other');
ok(defined until_true($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'cqrs launcher'}), 'the launcher is there');
workers_are(0, 'without the extension there is no worker');

# ---- CREATE and DROP EXTENSION, however they end

$node->safe_psql('postgres', 'BEGIN; CREATE EXTENSION cqrs; ROLLBACK');
workers_are(0, 'nobody comes for what was rolled back');
$node->safe_psql('postgres', 'BEGIN; SAVEPOINT s; CREATE EXTENSION cqrs; RELEASE s; COMMIT');
workers_are(1, 'CREATE EXTENSION brings a worker');
$node->safe_psql('other', q{BEGIN; CREATE EXTENSION cqrs; PREPARE TRANSACTION 'create'});
workers_are(1, 'what is prepared is not there yet');
$node->safe_psql('other', q{COMMIT PREPARED 'create'});
workers_are(2, 'COMMIT PREPARED from another session brings the worker of another database');
is($node->safe_psql('other', q{SELECT string_agg(datname, ' ' ORDER BY datname) FROM cqrs.workers WHERE role = 'worker'}), 'other postgres',
	'each in its own');

$node->safe_psql('other', 'BEGIN; DROP EXTENSION cqrs CASCADE; ROLLBACK');
workers_are(2, 'a DROP EXTENSION that was rolled back ends no worker');
$node->safe_psql('other', 'DROP EXTENSION cqrs CASCADE');
workers_are(1, 'DROP EXTENSION lets the worker go');
$node->safe_psql('other', "CREATE EXTENSION cqrs;\nDROP EXTENSION cqrs;\nCREATE EXTENSION cqrs;\nDROP EXTENSION cqrs;\nCREATE EXTENSION cqrs;");
workers_are(2, 'hasty hands do not lose it');
my $pid = worker_pid($node, 'other');
$node->safe_psql('other', 'BEGIN; DROP EXTENSION cqrs; CREATE EXTENSION cqrs; COMMIT');
another_than($pid, 'an extension made anew has a new worker', 'other');

# ---- what a worker finds when it comes

$node->safe_psql($_, q{CREATE TABLE thing (id integer PRIMARY KEY, name text);
	INSERT INTO thing SELECT i, 'thing ' || i FROM generate_series(1, 100) i;}) foreach qw(postgres other);
$node->safe_psql('other', q{BEGIN; SELECT cqrs.create_projection('page', 'SELECT id, upper(name) AS name FROM thing');
	PREPARE TRANSACTION 'projection'});
$node->safe_psql('other', q{COMMIT PREPARED 'projection'});
is($node->safe_psql('other', q{SELECT cqrs.wait_until_serving('page', '20 s')}), 't', 'a projection that was prepared is built');
$node->safe_psql('postgres', q{SELECT cqrs.create_projection('page', 'SELECT id, upper(name) AS name FROM thing')});

# Both follow, with nothing but commits to wake them.
sub both_follow
{
	my ($when) = @_;

	foreach my $database (qw(postgres other))
	{
		$node->safe_psql($database, q{UPDATE thing SET name = name || '.' WHERE id % 10 = 1;
			INSERT INTO thing SELECT max(id) + 1, 'new' FROM thing});
		ok(caught_up($node, 'page', $database), "$database follows $when");
		is_equal($node, 'page', 'SELECT id, upper(name) AS name FROM thing', "$database is right $when", $database);
	}
	return;
}

both_follow('at first');

# ---- settings

$node->safe_psql('postgres', 'ALTER DATABASE other SET cqrs.max_workers = 0');
workers_are(1, 'a database can do without a worker');
$node->safe_psql('postgres', 'ALTER DATABASE other RESET cqrs.max_workers');
workers_are(2, 'and have one again');
$node->safe_psql('postgres', 'ALTER SYSTEM SET cqrs.max_workers = 0');
$node->reload;
workers_are(0, 'so can a server');
$node->safe_psql('postgres', 'ALTER DATABASE other SET cqrs.max_workers = 1');
workers_are(1, 'but for one database');
$node->restart;
workers_are(1, 'also after a restart');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET cqrs.max_workers; ALTER DATABASE other RESET ALL');
$node->reload;
workers_are(2, 'and again');
both_follow('after settings changed');

# ---- signals

$pid = worker_pid($node);
ok($node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)") eq 't', 'the worker is cancelled while it has nothing to do');
both_follow('after a cancel');
is(worker_pid($node), $pid, 'which does not end it');
foreach my $round (1 .. 8)
{
	$pid = worker_pid($node);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 5000)");
	another_than($pid, "a worker that was terminated is replaced at once, however often: $round", 'postgres', 1);
}
both_follow('after the worker was terminated');
my $launcher = $node->safe_psql('postgres', q{SELECT pid FROM cqrs.workers WHERE role = 'launcher'});
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
$pid = worker_pid($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
another_than($pid, 'a worker that ends while there is no launcher is replaced, too');
workers_are(2, 'nobody else is');
both_follow('after the launcher was terminated');

# ---- SIGKILL: the server restarts all of its processes

$pid = worker_pid($node, 'other');
ok(kill('KILL', $pid), 'a worker is killed');
$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
another_than($pid, 'another comes', 'other');
workers_are(2, 'and that of the other database');
both_follow('after a crash');
$launcher = $node->safe_psql('postgres', q{SELECT pid FROM cqrs.workers WHERE role = 'launcher'});
ok(kill('KILL', $launcher), 'the launcher is killed');
$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
workers_are(2, 'both workers come back');
both_follow('after another crash');

# ---- few background processes

# One is the server's own, one the launcher.
$node->append_conf('postgresql.conf', 'max_worker_processes = 4');
$node->safe_psql('postgres', "CREATE DATABASE empty_$_") foreach 1 .. 4;
$node->restart;
both_follow('though many databases have to be looked at and few can be at a time');
$node->safe_psql('empty_1', 'CREATE EXTENSION cqrs');
both_follow('where there is no room for one more');
workers_are(2, 'more than there is room for cannot be');
$node->safe_psql('other', 'DROP EXTENSION cqrs CASCADE');
ok(defined until_true($node, q{SELECT count(*) = 1 FROM cqrs.workers WHERE datname = 'empty_1'}, 5, 'empty_1'), 'who waits for room gets it');

# What a worker does must not fill the log: nobody did anything wrong but those who sent signals.
$node->stop;
my @complaints = grep { /cqrs/ && /(?:ERROR|FATAL|PANIC|WARNING):/ && !/terminated by signal|all background processes|due to administrator command/ }
  split(/\n/, slurp_file($node->logfile));
is(join("\n", @complaints), '', 'the log is quiet');
done_testing();
