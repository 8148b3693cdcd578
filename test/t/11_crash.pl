# Processes die by SIGKILL in capture, apply and fill, under load: the worker, then the whole server, at times that nobody chose.  A table and its
# checkpoint commit together, so after every recovery each change is there once.  If they could part, changes would be lost or applied twice.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = new_server('crash', 'cqrs.buffer_size = 8kB', 'cqrs.retry_max = 2s');

# Ends what crashed clients left prepared: an open transaction would hold nobody up, but we want to compare.
sub end_prepared
{
	foreach my $gid (split /\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts'))
	{
		$node->safe_psql('postgres', (rand() < 0.5 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid'");
	}
	return;
}

# Kills the server itself, and waits until it is gone: its children follow by themselves.
sub kill_server
{
	my $pid = $node->{_pid};

	$node->kill9;
	sleep(0.05) while kill(0, $pid);
	return;
}

# A read model large enough to be killed in its fill.
sub begin_fill
{
	my ($number) = @_;

	$node->psql('postgres', "SELECT cqrs.create_projection('big_$number', 'SELECT id, id % 7 AS day, body FROM big WHERE id % 10 <> $number')");
	return;
}

make_storm($node);
$node->safe_psql('postgres', q{CREATE TABLE big AS SELECT i AS id, repeat('x', i % 50) AS body FROM generate_series(1, 100000) i;
	ALTER TABLE big ADD PRIMARY KEY (id)});
storm_projections($node);
storm_equal($node, 'at first');

# The worker alone; PostgreSQL then restarts all of its processes.
foreach my $round (1 .. 4)
{
	my $storm = storm_start($node, 6, 30);

	begin_fill($round);
	sleep(0.3 + rand(1.2));
	my $pid = worker_pid($node);
	ok(kill('KILL', $pid), "round $round: the worker is killed");
	storm_finish($storm, 1);
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	end_prepared();
	storm_equal($node, "after the worker was killed, round $round");
	ok(caught_up($node, "big_$round"), "round $round: the fill is made good");
	is_equal($node, "big_$round", "SELECT id, id % 7 AS day, body FROM big WHERE id % 10 <> $round", "round $round: the fill is whole");
}

# The whole server.
foreach my $round (5 .. 8)
{
	my $storm = storm_start($node, 6, 30);

	begin_fill($round);
	sleep(0.3 + rand(1.2));
	if ($round % 2)
	{
		$node->stop('immediate');
	}
	else
	{
		kill_server();
	}
	storm_finish($storm, 1);
	$node->start;
	end_prepared();
	storm_equal($node, "after the server was killed, round $round");
	next if $node->safe_psql('postgres', "SELECT to_regclass('big_$round') IS NULL") eq 't';	# it was killed before that commit
	ok(caught_up($node, "big_$round"), "round $round: the fill is made good");
	is_equal($node, "big_$round", "SELECT id, id % 7 AS day, body FROM big WHERE id % 10 <> $round", "round $round: the fill is whole");
}
unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'nothing fell by itself');
$node->stop;
done_testing();
