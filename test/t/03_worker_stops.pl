# The server stops: smart, fast, immediately, or its postmaster dies.  Launcher and workers must go with it at once, whatever they do, or a shutdown hangs and
# an orphan goes on writing to a database that another server has opened; and what they were doing must be taken up after the start.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);


# In seconds: whoever does not heed a shutdown is waited for much longer, and killed 5 seconds after an immediate one.
my %quick = (smart => 20, fast => 20, immediate => 4.5);
my $query = 'SELECT id, upper(name) AS name FROM thing';
my $node = new_server('stops');

$node->safe_psql('postgres', qq{CREATE TABLE thing (id integer PRIMARY KEY, name text);
	INSERT INTO thing SELECT i, 'thing ' || i FROM generate_series(1, 1000) i;
	SELECT cqrs.create_projection('page', '$query')});
ok(caught_up($node, 'page'), 'it serves');

# The process ids of launcher and worker.
sub processes
{
	worker_pid($node);
	return split(/\n/, $node->safe_psql('postgres', 'SELECT pid FROM cqrs.workers'));
}

# Ends the server by the code given, starts it again and compares.
sub ends
{
	my ($what, $end, $mode) = @_;
	my $quick = $quick{ $mode // 'fast' };
	my @pids = processes();
	my $began = time();

	$end->();
	my $stopped = time() - $began;
	sleep(0.05) while grep({ kill(0, $_) } @pids) && time() - $began < 30;
	cmp_ok($stopped, '<', $quick, "$what stops at once");
	cmp_ok(time() - $began, '<', $quick, "$what leaves none of our processes behind");
	$node->start;
	$node->safe_psql('postgres', q{UPDATE thing SET name = name || '.' WHERE id % 7 = 0});
	ok(caught_up($node, 'page'), "it goes on after $what");
	return is_equal($node, 'page', $query, "it is right after $what");
}

foreach my $mode (qw(smart fast immediate))
{
	ends("a $mode shutdown", sub { $node->stop($mode) }, $mode);
}
ends('a fast shutdown with changes just committed', sub {
	$node->safe_psql('postgres', q{UPDATE thing SET name = lower(name)});
	$node->stop('fast');
});
ends('the death of the postmaster', sub { $node->kill9 });

# The same in the middle of a fill that takes minutes.
$node->safe_psql('postgres', q{SELECT cqrs.create_projection('pairs',
	'SELECT a.id % 10 AS id, count(*) AS n FROM thing a, thing b, thing c WHERE a.name || b.name <> c.name GROUP BY 1', key => ARRAY['id'])});
foreach my $mode (qw(smart fast immediate))
{
	ok(defined until_true($node, q{SELECT EXISTS (SELECT FROM cqrs.workers WHERE phase = 'fill')}), "the worker fills before a $mode shutdown");
	my $began = time();
	$node->stop($mode);
	cmp_ok(time() - $began, '<', $quick{$mode}, "a $mode shutdown does not wait for a fill");
	$node->start;
}
ok(defined until_true($node, q{SELECT EXISTS (SELECT FROM cqrs.workers WHERE phase = 'fill')}), 'the fill begins anew after each');
is($node->safe_psql('postgres', q{SELECT status || ' ' || (error IS NULL) FROM cqrs.versions WHERE projection = 'pairs'::regclass}), 'running true',
	'and has not failed');
$node->stop('fast');
done_testing();
