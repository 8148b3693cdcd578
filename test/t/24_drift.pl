# Verifying by schedule.  If this fails, drift goes unnoticed until somebody asks, or is told of where there is none; or the worker that looks for it keeps other
# read models waiting.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $log = 0;
my $node = new_server('drift', q{cqrs.verify_interval = '1s'}, 'cqrs.verify_sample = 1', q{cqrs.verify_timeout = '20s'});

# Damages the table of a read model, as a superuser would by mistake.
sub damage
{
	my ($view, $change) = @_;
	my $table = $node->safe_psql('postgres', qq{SELECT v."table" FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection
		WHERE p.view = '$view'::regclass});

	$node->safe_psql('postgres', "SET session_replication_role = replica; " . $change =~ s/%T/$table/r);
	return;
}

# Waits until a read model has been verified once more, or twice, so that it was seen as it is now.
sub verified_again
{
	my ($view) = @_;
	my $now = $node->safe_psql('postgres', 'SELECT clock_timestamp()');

	return until_true($node, "SELECT verified_at > '$now'::timestamptz FROM cqrs.lag WHERE projection = '$view'::regclass");
}

# Waits until the log says something, beginning where $log says.
sub logged
{
	my ($what) = @_;

	for (1 .. 1200)
	{
		return 1 if slurp_file($node->logfile, $log) =~ $what;
		sleep(0.1);
	}
	diag(slurp_file($node->logfile, $log));
	return 0;
}

# What cqrs.lag says.
sub known
{
	my ($view) = @_;

	return $node->safe_psql('postgres', "SELECT health, drifted FROM cqrs.lag WHERE projection = '$view'::regclass");
}

$node->safe_psql('postgres', q{CREATE TABLE item (id integer PRIMARY KEY, price numeric); INSERT INTO item SELECT i, i FROM generate_series(1, 100) i;
	SELECT cqrs.create_projection('page', 'SELECT id, price FROM item'), cqrs.create_projection('total', 'SELECT sum(price) AS price FROM item', '{}')});
ok(caught_up($node, 'page') && caught_up($node, 'total'), 'they serve');

# Nobody asks, nobody writes: it is verified all the same, and found equal.
ok(defined verified_again('page') && defined verified_again('total'), 'both are verified');
is(known('page') . ' ' . known('total'), 'idle|0 idle|0', 'and equal');
$node->safe_psql('postgres', 'UPDATE item SET price = price + 1');
ok(defined verified_again('page'), 'while writers write, too');
is(known('page'), 'idle|0', 'with no drift');

# Drift: a warning with the number and the first key, a row in history, the number in cqrs.lag; it goes on serving, and following.
$log = -s $node->logfile;
damage('page', 'UPDATE %T SET price = 0 WHERE id IN (7, 9)');
ok(defined until_true($node, q{SELECT drifted = 2 FROM cqrs.lag WHERE projection = 'page'::regclass}), 'drift is noticed');
ok(defined verified_again('page'), 'it is looked at again');
ok(logged(qr/WARNING:.*version 1 of projection "public.page" has drifted from its query in 2 of the keys.*\n.*DETAIL:.*\{"id":7\}/), 'the log has a warning');
is($node->safe_psql('postgres', q{SELECT version, changes, reason FROM cqrs.history WHERE event = 'drifted'}), '1|2|', 'history has it once');
$node->safe_psql('postgres', 'INSERT INTO item VALUES (1000, 1)');
ok(caught_up($node, 'page'), 'it goes on');
is($node->safe_psql('postgres', 'SELECT count(*) FROM page'), '101', 'and serves');
is(known('page') . ' ' . known('total'), 'idle|2 idle|0', 'the other has not drifted');

# What is mended is equal, and known to be.
is($node->safe_psql('postgres', q{SELECT cqrs.repair('page', 'test')}), '2', 'it is mended');
is(known('page'), 'idle|0', 'which is known at once');
ok(defined verified_again('page'), 'it is looked at again');
is(known('page'), 'idle|0', 'and equal');

# One that takes too long is given up, and another is not kept waiting by it.
$node->safe_psql('postgres', q{CREATE TABLE few (id integer PRIMARY KEY, n integer); INSERT INTO few VALUES (1, 1);
	CREATE FUNCTION quick(n integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT n';
	SELECT cqrs.create_projection('slowly', 'SELECT id, quick(n) AS n FROM few')});
ok(caught_up($node, 'slowly') && defined verified_again('slowly'), 'a third one serves');
$node->append_conf('postgresql.conf', q{cqrs.verify_timeout = '300ms'});
$node->reload;
$log = -s $node->logfile;
$node->safe_psql('postgres', 'SELECT cqrs.pause(projection) FROM cqrs.projections');
$node->safe_psql('postgres', q{CREATE OR REPLACE FUNCTION quick(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF EXISTS (SELECT FROM pg_stat_activity WHERE pid = pg_backend_pid() AND query LIKE 'cqrs: verify %') THEN PERFORM pg_sleep(3600); END IF;
	RETURN n; END $$});
$node->safe_psql('postgres', 'SELECT cqrs.resume(projection) FROM cqrs.projections');
ok(logged(qr/verifying version 1 of projection "public.slowly" took longer than cqrs.verify_timeout and was given up/), 'it is given up');
$node->safe_psql('postgres', 'UPDATE item SET price = 5');
ok(caught_up($node, 'page'), 'others go on');
ok(defined verified_again('page'), 'and are verified');
is(known('slowly'), 'idle|0', 'nothing is said of what was not looked at');

# Off: not looked at any more.
$node->append_conf('postgresql.conf', 'cqrs.verify_interval = 0');
$node->reload;
my ($before, $after) = ('', 'once more');
for (my $tries = 0; $before ne $after && $tries < 30; $tries++)
{
	$before = $after;
	sleep(2.5);
	$after = $node->safe_psql('postgres', 'SELECT max(verified_at) FROM cqrs.lag');
}
is($after, $before, 'it can be turned off');
$node->stop;
done_testing();
