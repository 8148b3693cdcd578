# Health that cannot lie.  The worker stands still, is gone, or is not wanted: lag and pending must grow all the same, because the reader computes them; waits must not
# last for ever on somebody who does not come.  And what was written meanwhile arrives when a worker is there again.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_server('health');
my $truth = 'SELECT id, amount FROM sale';
my $AT_ONCE = 30;			# seconds; whoever waits in vain here waits for a minute or for ever

# What cqrs.lag and cqrs.freshness say.
sub health
{
	my ($what) = @_;

	return $node->safe_psql('postgres', "SELECT $what FROM cqrs.lag WHERE projection = 'page'::regclass");
}

sub set_workers
{
	my ($n) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET cqrs.max_workers = $n");
	$node->reload;
	return;
}

$node->safe_psql('postgres', qq{CREATE TABLE sale (id integer PRIMARY KEY, amount integer);
	SELECT cqrs.create_projection('page', '$truth', max_lag => '500 ms')});
ok(caught_up($node, 'page'), 'it serves');
is(health(q{health || ' ' || pending || ' ' || lag || ' ' || within_objective}), 'idle 0 00:00:00 true', 'idle');

# Nothing to do, nothing done: it sleeps until it is woken.
ok(defined until_true($node, q{SELECT state = 'idle' AND clock_timestamp() - state_change > interval '1.5 s'
	FROM pg_stat_activity WHERE pid = (SELECT pid FROM cqrs.workers WHERE role = 'worker')}), 'an idle worker sleeps');

# The worker stands still; it is there, and cannot say anything.
my $pid = worker_pid($node);
ok(kill('STOP', $pid), 'the worker is stopped');
$node->safe_psql('postgres', 'INSERT INTO sale SELECT i, i FROM generate_series(1, 25) i');
sleep(0.7);
is(health(q{health || ' ' || pending || ' ' || (lag > '600 ms') || ' ' || within_objective}), 'behind 25 true false', 'behind, by 25 changes and more than the objective');
sleep(0.5);
is(health(q{lag > '1100 ms'}), 't', 'the lag grows');
is($node->safe_psql('postgres', q{SELECT pending || ' ' || (lag > '1 s') FROM cqrs.freshness('page')}), '25 true', 'freshness says the same');
my $began = time();
is($node->safe_psql('postgres', q{SELECT cqrs.token() AS token \gset
	SELECT cqrs.wait_for('page', :'token', '300 ms')}), 'f', 'a wait ends at its timeout');
cmp_ok(time() - $began, '<', $AT_ONCE, 'and not later');
ok(kill('CONT', $pid), 'the worker goes on');
ok(caught_up($node, 'page'), 'and all arrives');
is(health(q{health || ' ' || pending}), 'idle 0', 'idle again');

# None is wanted.
set_workers(0);
ok(defined until_true($node, q{SELECT NOT EXISTS (SELECT FROM cqrs.workers WHERE role = 'worker')}), 'the worker leaves');
is(health('pending'), '0', 'nothing is pending');
$node->safe_psql('postgres', 'UPDATE sale SET amount = amount + 1 WHERE id <= 10');
sleep(0.6);
is(health(q{health || ' ' || pending || ' ' || (lag > '500 ms') || ' ' || within_objective}), 'no worker 10 true false', 'no worker, and behind');
$began = time();
is($node->safe_psql('postgres', q{SELECT cqrs.token() AS token \gset
	SELECT cqrs.wait_for('page', :'token', '1 min')}), 'f', 'a wait for nobody is a no');
cmp_ok(time() - $began, '<', $AT_ONCE, 'at once');
$node->safe_psql('postgres', q{SELECT cqrs.create_projection('unbuilt', 'SELECT count(*) FROM sale', key => ARRAY[]::name[])});
$began = time();
is($node->safe_psql('postgres', q{SELECT cqrs.wait_until_serving('unbuilt', '1 min')}), 'f', 'so is a wait for a fill');
cmp_ok(time() - $began, '<', $AT_ONCE, 'at once');
my (undef, undef, $error) = $node->psql('postgres', 'TABLE unbuilt');
like($error, qr/still being built/, 'what is not built is an error to read');
set_workers(1);
ok(caught_up($node, 'page') && caught_up($node, 'unbuilt'), 'a worker comes when one is wanted, and takes up all');
is_equal($node, 'page', $truth, 'nothing is lost');
is_equal($node, 'unbuilt', 'SELECT count(*) FROM sale', 'what was waiting is built');

# In one database only.
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET cqrs.max_workers = 0');
ok(defined until_true($node, q{SELECT NOT EXISTS (SELECT FROM cqrs.workers WHERE role = 'worker')}), 'a database can go without');
$node->safe_psql('postgres', 'UPDATE sale SET amount = amount + 1 WHERE id <= 10');
is(health('health'), 'no worker', 'which its health says');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET cqrs.max_workers');
ok(caught_up($node, 'page'), 'and can have one again');

# It dies; another one comes, and until then nothing is hidden.
foreach my $round (1 .. 3)
{
	$pid = worker_pid($node);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	$node->safe_psql('postgres', "UPDATE sale SET amount = amount + $round WHERE id = $round");
	ok(caught_up($node, 'page'), "what is written while no worker runs arrives, round $round");
}
is_equal($node, 'page', $truth, 'nothing is lost');

# The launcher dies.
my $launcher = $node->safe_psql('postgres', q{SELECT pid FROM cqrs.workers WHERE role = 'launcher'});
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok(defined until_true($node, "SELECT EXISTS (SELECT FROM cqrs.workers WHERE role = 'launcher' AND pid <> $launcher)"), 'a launcher that died comes back');
$pid = worker_pid($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
$node->safe_psql('postgres', 'UPDATE sale SET amount = amount + 1');
ok(caught_up($node, 'page'), 'and starts workers as before');
is_equal($node, 'page', $truth, 'nothing is lost');

# The server stops at once, with a worker that sleeps for an hour, and with one that is at work.
$began = time();
$node->stop('fast');
cmp_ok(time() - $began, '<', $AT_ONCE, 'the server stops at once');
$node->start;
ok(caught_up($node, 'page'), 'and all goes on');
is($node->safe_psql('postgres', q{SELECT count(*) FROM cqrs.checkpoints WHERE projection = 'page'::regclass}), 1, 'one checkpoint is shown');
$node->stop;
done_testing();
