# The worker, or a session that drains, ends at a moment we choose: in the middle of a fill, of a batch, of a verify, between fill and serving.  A function in
# the query waits there for an advisory lock.  What was half done must be gone, and be done again by whoever comes next; the lock and settings that
# the function leaves behind must not stay with the worker.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_server('moments', 'cqrs.retry_max = 1s');
my $truth = 'SELECT shop, count(*) AS sales, sum(waits(amount)) AS total FROM sale GROUP BY shop';

$node->safe_psql('postgres', q{
	CREATE TABLE sale (id integer PRIMARY KEY, shop text, amount integer);
	INSERT INTO sale SELECT i, 'shop ' || i % 3, i FROM generate_series(1, 30) i;
	CREATE FUNCTION waits(value integer) RETURNS integer LANGUAGE plpgsql STABLE AS $$
	BEGIN
		PERFORM pg_advisory_xact_lock_shared(4711);
		RETURN value;
	END $$});

my $gate = $node->background_psql('postgres');
my $stopped = q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'advisory' AND %s)};
my $worker_stopped = sprintf($stopped, q{backend_type LIKE 'cqrs%'});
my $drain_stopped = sprintf($stopped, q{application_name = 'drainer'});

# Kills the worker where it is, and waits for the server to come back.
sub kill_worker
{
	my ($what) = @_;
	my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'cqrs%' AND wait_event = 'advisory'});

	ok($pid && kill('KILL', $pid), "the worker is killed $what");
	$gate->{run}->finish;					# the restart takes this session and its lock along
	sleep(0.2);
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	$gate = $node->background_psql('postgres');
	return;
}

# Starts a drain in a session of its own, to be stopped at the gate.
sub start_drain
{
	my ($sql) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_safe(q{SET application_name = 'drainer'});
	$session->{stdin} .= "$sql;\n\\echo done\n";
	$session->{run}->pump_nb;
	return $session;
}

# In the fill.
$gate->query_safe('SELECT pg_advisory_lock(4711)');
$node->safe_psql('postgres', "SELECT cqrs.create_projection('shops', \$q\$$truth\$q\$)");
ok(defined until_true($node, $worker_stopped), 'the worker is in the fill');
$node->safe_psql('postgres', q{INSERT INTO sale VALUES (100, 'shop 1', 100)});
kill_worker('in the fill');
ok(caught_up($node, 'shops'), 'the next one fills again');
is_equal($node, 'shops', $truth, 'all is there after a fill that was killed');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname = 'shops'}), 2, 'one table and one view');

# In a batch, between compute and merge, with changes before and during it.
$gate->query_safe('SELECT pg_advisory_lock(4711)');
$node->safe_psql('postgres', q{UPDATE sale SET amount = amount + 1 WHERE id = 1; DELETE FROM sale WHERE id = 2});
ok(defined until_true($node, $worker_stopped), 'the worker is in a batch');
$node->safe_psql('postgres', q{INSERT INTO sale VALUES (101, 'shop 2', 101); DELETE FROM sale WHERE shop = 'shop 0'});
kill_worker('in a batch');
ok(caught_up($node, 'shops'), 'the next one applies the window again');
is_equal($node, 'shops', $truth, 'all is there once after a batch that was killed');

# A worker that is asked to end, not killed: nothing else falls.
$gate->query_safe('SELECT pg_advisory_lock(4711)');
$node->safe_psql('postgres', q{UPDATE sale SET shop = 'shop 9' WHERE id < 10});
ok(defined until_true($node, $worker_stopped), 'the worker is in a batch');
my $before = worker_pid($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($before)");
ok(defined until_true($node, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $before)"), 'it goes when it is asked to');
$gate->query_safe('SELECT pg_advisory_unlock(4711)');
ok(caught_up($node, 'shops'), 'another one comes');
isnt(worker_pid($node), $before, 'with another process id');
is_equal($node, 'shops', $truth, 'nothing is lost');

# A session that drains is cancelled, terminated, or rolls back; the worker, which found the version held, takes over without being woken by a commit.
foreach my $how ('pg_cancel_backend', 'pg_terminate_backend')
{
	$node->safe_psql('postgres', 'ALTER SYSTEM SET cqrs.max_workers = 0');
	$node->reload;
	ok(defined until_true($node, q{SELECT NOT EXISTS (SELECT FROM cqrs.workers WHERE role = 'worker')}), 'the worker leaves where none is wanted');
	$gate->query_safe('SELECT pg_advisory_lock(4711)');
	$node->safe_psql('postgres', 'UPDATE sale SET amount = amount + 1');
	my $session = start_drain(q{SELECT cqrs.drain('shops')});
	ok(defined until_true($node, $drain_stopped), 'a session is in a batch');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET cqrs.max_workers');
	$node->reload;
	worker_pid($node);
	$node->safe_psql('postgres', qq{SELECT $how(pid) FROM pg_stat_activity WHERE application_name = 'drainer'});
	$gate->query_safe('SELECT pg_advisory_unlock(4711)');
	ok(caught_up($node, 'shops'), "the worker takes over after $how");
	is_equal($node, 'shops', $truth, "nothing is lost after $how");
	eval { $session->quit };
}

# It holds the version, waiting for nothing, and rolls back: nobody announces that, and the worker must not wait for the next commit.
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; SELECT cqrs.drain('shops')});
$node->safe_psql('postgres', 'UPDATE sale SET amount = amount + 1');
my $token = $node->safe_psql('postgres', 'SELECT cqrs.token()');
sleep(0.3);
$holder->query_safe('ROLLBACK');
is($node->safe_psql('postgres', "SELECT cqrs.wait_for('shops', '$token', '10 s')"), 't', 'the worker takes a version that a rolled-back drain held');
is_equal($node, 'shops', $truth, 'nothing is lost after a drain was rolled back');
$holder->quit;

# Somebody looks at a new view just when it is to be opened.  It is a storey above another, whose batches it is part of by then, and is opened later.
$node->safe_psql('postgres', q{CREATE TABLE seat (id integer PRIMARY KEY, price integer); SELECT cqrs.create_projection('seats', 'SELECT id, price FROM seat')});
ok(caught_up($node, 'seats'), 'a storey serves');
my $stop = stop_at($node, 'finish');
$node->safe_psql('postgres', q{SELECT cqrs.create_projection('prices', 'SELECT price, count(*) FROM seats GROUP BY price')});
stopped_at($node, 'finish');
$holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK TABLE prices IN ACCESS SHARE MODE');
$stop->quit;
ok(defined until_true($node, q{SELECT filled_at IS NOT NULL FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection
	WHERE p.view = 'prices'::regclass}), 'the one above is filled while somebody looks at its view');
$holder->query_safe('COMMIT');
is($node->safe_psql('postgres', q{SELECT cqrs.wait_until_serving('prices', '20 s')}), 't', 'and serves afterwards');
$node->safe_psql('postgres', q{SELECT cqrs.rebuild('prices')});
ok(defined until_true($node, q{SELECT bool_or(version = 2 AND state = 'serving') FROM cqrs.versions WHERE projection = 'prices'::regclass}), 'a rebuild takes over');
$holder->quit;

# A drop does not wait for what the worker is at: not for a fill, nor for a batch.
$node->safe_psql('postgres', 'CREATE TABLE brief (id integer PRIMARY KEY, amount integer); INSERT INTO brief VALUES (1, 1)');
foreach my $what ('fill', 'batch')
{
	$gate->query_safe('SELECT pg_advisory_lock(4711)') if $what eq 'fill';
	$node->safe_psql('postgres', q{SELECT cqrs.create_projection('brief_page', 'SELECT id, waits(amount) AS amount FROM brief')});
	if ($what eq 'batch')
	{
		ok(caught_up($node, 'brief_page'), 'a projection that is to be dropped serves');
		$gate->query_safe('SELECT pg_advisory_lock(4711)');
		$node->safe_psql('postgres', 'UPDATE brief SET amount = amount + 1');
	}
	ok(defined until_true($node, $worker_stopped), "the worker is in its $what");
	my ($status, undef, $error) = $node->psql('postgres', q{SET statement_timeout = '10s'; SELECT cqrs.drop_projection('brief_page')}, on_error_stop => 1);
	is("$status $error", '0 ', "it is dropped in the middle of its $what");
	$gate->query_safe('SELECT pg_advisory_unlock(4711)');
	$node->safe_psql('postgres', 'UPDATE sale SET amount = amount + 1');
	ok(caught_up($node, 'shops'), 'the worker goes on with the others');
	is_equal($node, 'shops', $truth, 'and does them right');
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'cqrs\_brief%'}), 0, 'nothing is left of it');

# In a verify, which applies too.
$gate->query_safe('SELECT pg_advisory_lock(4711)');
my $verify = start_drain(q{SELECT cqrs.verify('shops')});
ok(defined until_true($node, $drain_stopped), 'a session is in a verify');
$node->safe_psql('postgres', 'UPDATE sale SET amount = amount + 1');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'drainer'});
$gate->query_safe('SELECT pg_advisory_unlock(4711)');
ok(caught_up($node, 'shops'), 'the worker goes on after a verify that was terminated');
is_equal($node, 'shops', $truth, 'nothing is lost after a verify that was terminated');
eval { $verify->quit };
$gate->quit;
$node->stop;
done_testing();
