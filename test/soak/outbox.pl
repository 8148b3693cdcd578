# A steady load for a long time, without autovacuum: outbox.pl [SECONDS [SEED]], or SECONDS and SEED in the environment.
#
# Rows come, change and go at an even pace, and a worker follows.  The outbox must stop growing once its segments go round, and so must our own tables; and a batch
# must touch no more blocks in the end than in the beginning.  Then the same with a transaction left open that holds xmin, so that no dead row can be removed.  If
# this fails, an installation that nobody looks at fills its disk, or slows down from day to day.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use constant {
	PACE => 25,				# transactions a second
	SAMPLES => 12,				# of a phase
	LONG => 100,				# seconds of a phase from which on its ends are compared as closely as they must agree
};

my $seconds = $ARGV[0] // $ENV{SECONDS} // 60;
my $seed = $ARGV[1] // $ENV{SEED} // 1;
my $segment = $seconds >= LONG ? 256 : 64;	# kB
my $query = 'SELECT s.id, s.amount, s.note, h.name FROM sale s JOIN shop h ON h.id = s.shop';
my $node = new_server('soak', 'cqrs.max_workers = 1', 'autovacuum = off', 'synchronous_commit = off', "cqrs.segment_size = ${segment}kB", 'cqrs.retention = 0',
	'cqrs.naptime = 1s');
my $script = PostgreSQL::Test::Utils::tempdir() . '/load';

$node->safe_psql('postgres', qq{
	CREATE TABLE shop (id integer PRIMARY KEY, name text);
	INSERT INTO shop SELECT i, 'shop ' || i FROM generate_series(0, 99) i;
	CREATE TABLE sale (id bigint PRIMARY KEY, shop integer, amount integer, note text);
	INSERT INTO sale SELECT i, -i % 100, i, 'note ' || i FROM generate_series(-99999, 0) i;
	CREATE SEQUENCE sales;
	ANALYZE;
	SELECT cqrs.create_projection('sales_page', '$query', ARRAY['id'])});
ok(caught_up($node, 'sales_page'), 'a read model serves');
PostgreSQL::Test::Utils::append_to_file($script, <<'SQL');
SELECT 10 * nextval('sales') AS n \gset
BEGIN;
INSERT INTO sale SELECT i, i % 100, i, 'a note of some length ' || i FROM generate_series(:n - 9, :n) i;
UPDATE sale SET amount = amount + 1, note = 'another note ' || id WHERE id BETWEEN :n - 24 AND :n - 15;
DELETE FROM sale WHERE id BETWEEN :n - 100009 AND :n - 100000;
COMMIT;
SQL

# What there is to see: when, bytes of the outbox and its segments in use, bytes of our own tables, batches so far, blocks touched so far of all but the sources.
sub look
{
	my %seen;

	$node->safe_psql('postgres', 'SELECT pg_stat_force_next_flush()');
	@seen{qw(outbox segments own batches blocks)} = split(/\|/, $node->safe_psql('postgres', q{
		SELECT (SELECT sum(bytes) FROM cqrs.segments),
			(SELECT count(*) FROM cqrs.segments WHERE changes > 0),
			(SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = 'cqrs_internal'::regnamespace AND relkind = 'r' AND relname !~ '^outbox_'),
			(SELECT max(number) FROM cqrs_internal.checkpoint),
			(SELECT sum(coalesce(heap_blks_hit, 0) + coalesce(heap_blks_read, 0) + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0)
					+ coalesce(toast_blks_hit, 0) + coalesce(toast_blks_read, 0))
				FROM pg_statio_all_tables WHERE relname NOT IN ('sale', 'shop'))}));
	$seen{at} = time();
	return \%seen;
}

# Blocks touched a batch between two looks.
sub blocks_a_batch
{
	my ($from, $to) = @_;
	my $batches = $to->{batches} - $from->{batches};

	return $batches > 0 ? ($to->{blocks} - $from->{blocks}) / $batches : 0;
}

# The greatest and the least of a list.  The least of a few samples: on a busy machine some batches hold more transactions than others.
sub greatest { return (sort { $b <=> $a } @_)[0] }
sub least { return (sort { $a <=> $b } @_)[0] }

# Runs the load for some time and looks now and then.
sub phase
{
	my ($what, $time) = @_;
	my @looks = (look());
	my $output = '';
	my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 1, '-R', PACE, '-T', int($time), '-f', $script, "--random-seed=$seed", $node->connstr('postgres') ],
		'>', \$output, '2>&1', IPC::Run::timeout($time + 120));

	foreach my $sample (1 .. SAMPLES)
	{
		sleep($looks[0]{at} + $sample * $time / SAMPLES - time()) if $looks[0]{at} + $sample * $time / SAMPLES > time();
		push @looks, look();
		note(sprintf('%s, %3d s: outbox %d kB in %d segments, our tables %d kB, %d batches of %.1f blocks', $what, $looks[-1]{at} - $looks[0]{at},
			$looks[-1]{outbox} / 1024, $looks[-1]{segments}, $looks[-1]{own} / 1024, $looks[-1]{batches} - $looks[-2]{batches}, blocks_a_batch(@looks[ -2, -1 ])));
	}
	ok(IPC::Run::finish($load), "$what: the load ends well") || diag($output);
	return @looks;
}

# What must not have grown.
sub judge
{
	my ($what, $time, @looks) = @_;
	my $third = int(SAMPLES / 3);
	my @middle = @looks[ $third .. 2 * $third ];
	my @last = @looks[ 2 * $third + 1 .. $#looks ];
	my $first = least(map { blocks_a_batch(@looks[ $_, $_ + 1 ]) } 1 .. 3);
	my $final = least(map { blocks_a_batch(@looks[ $_ - 1, $_ ]) } -3 .. -1);
	my $limit = $time >= LONG ? 1.1 : 1.5;

	cmp_ok(greatest(map { $_->{outbox} } @last), '<=', 1.1 * greatest(map { $_->{outbox} } @middle) + $segment * 1024, "$what: the outbox does not grow");
	cmp_ok(greatest(map { $_->{own} } @last), '<=', 1.1 * greatest(map { $_->{own} } @middle) + 64 * 1024, "$what: our tables do not grow") unless $what =~ /xmin/;
	cmp_ok($final, '<=', $limit * $first, sprintf('%s: a batch touches %.1f blocks in the end, %.1f in the beginning', $what, $final, $first));
	ok(caught_up($node, 'sales_page'), "$what: the read model has followed");
	is_equal($node, 'sales_page', $query, "$what: and is right");
	return;
}

note("seed $seed, $seconds s");
judge('steady', $seconds / 3, phase('steady', $seconds / 3));
my $holder = IPC::Run::start([ 'psql', '-Xq', '-d', $node->connstr('postgres'), '-c', 'BEGIN ISOLATION LEVEL REPEATABLE READ', '-c', 'SELECT count(*) FROM shop',
	'-c', 'SELECT pg_sleep(1e6)' ], '>', \my $output, '2>&1');
until_true($node, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid())});
judge('xmin held', $seconds * 2 / 3, phase('xmin held', $seconds * 2 / 3));
$holder->kill_kill;
$node->stop;
done_testing();
