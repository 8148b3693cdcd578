# Builds, switches, switches back, rebuilds and retires in a loop, under writers and readers.  If this fails, a reader got an error, nothing, or rows of the past
# while a read model changed; or a writer waited for a build; or changes were lost on the way.  CQRS_SECONDS sets how long it goes on.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seconds = $ENV{CQRS_SECONDS} // 15;
my $node = new_server('versions', 'log_lock_waits = on', q{deadlock_timeout = '120ms'}, 'log_min_messages = warning');
my %queries = (
	page => q{SELECT o.id, o.customer, o.total, c.name FROM sale o JOIN buyer c ON c.id = o.customer},
	sums => q{SELECT customer, count(*) AS sales, sum(total) AS total FROM sale GROUP BY customer});

$node->safe_psql('postgres', q{
	CREATE TABLE buyer (id integer PRIMARY KEY, name text);
	CREATE TABLE sale (id integer PRIMARY KEY, customer integer NOT NULL, total integer);
	CREATE INDEX ON sale (customer);
	INSERT INTO buyer SELECT i, 'buyer ' || i FROM generate_series(1, 500) i;
	INSERT INTO sale SELECT i, 1 + i % 500, i % 100 FROM generate_series(1, 20000) i});
foreach my $name (sort keys %queries)
{
	$node->safe_psql('postgres', "SELECT cqrs.create_projection('$name', \$q\$$queries{$name}\$q\$); SELECT cqrs.wait_until_serving('$name')");
}

# Readers: the sums of all totals in the two models are those of one moment each; there is never nothing.  In one transaction of one snapshot, too.
my $folder = PostgreSQL::Test::Utils::tempdir();
my %scripts = (
	write => [ 'w', 2, q{
		\set id random(1, 20000)
		\set c random(1, 500)
		UPDATE sale SET total = total + 1 WHERE id = :id;
		UPDATE sale SET customer = :c WHERE id = :id;
		UPDATE buyer SET name = 'buyer again ' || :id WHERE id = :c;
		} ],
	read => [ 'r', 2, q{
		SELECT 1 / (count(*) = 20000)::integer FROM page;
		SELECT 1 / (sum(sales) = 20000)::integer FROM sums;
		} ],
	prepared => [ 'r', 1, q{
		SELECT 1 / (count(*) = 1)::integer FROM (SELECT id, customer, total, name FROM page WHERE id = 77) p;
		} ],
	snapshot => [ 'r', 1, q{
		BEGIN ISOLATION LEVEL REPEATABLE READ;
		SELECT 1 / (count(*) > 0)::integer FROM buyer;
		\sleep 300 ms
		SELECT 1 / (count(*) = 20000)::integer FROM page;
		SELECT 1 / (sum(sales) = 20000)::integer FROM sums;
		END;
		} ],
	own_writes => [ 'r', 1, q{
		\set id random(1, 20000)
		UPDATE sale SET total = total + 1 WHERE id = :id RETURNING total AS wrote \gset
		SELECT cqrs.token() AS token \gset
		SELECT 1 / cqrs.wait_for('page', ':token', '200 s')::integer;
		SELECT 1 / (total >= :wrote)::integer FROM page WHERE id = :id;
		} ]);
my @running;
foreach my $name (sort keys %scripts)
{
	my ($kind, $clients, $script) = @{ $scripts{$name} };
	my %run = (name => $name, output => '', timeout => IPC::Run::timeout($seconds + 300));

	$script =~ s/^\s+//mg;
	append_to_file("$folder/$name", $script);
	$run{handle} = IPC::Run::start(
		[ 'pgbench', '-n', '-c', $clients, '-j', 1, '-T', $seconds, '-M', $name eq 'prepared' ? 'prepared' : 'simple', '-f', "$folder/$name", $node->connstr('postgres') ],
		'>', \$run{output}, '2>&1', $run{timeout});
	push @running, \%run;
}

# The life of versions, as a person would have it.  What cannot be done just now is done later.
my %done;
my %wrong;
sub act
{
	my ($what, $sql) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql);

	if ($status == 0)
	{
		$done{$what}++;
		return $out;
	}
	$wrong{"$what: $1"}++ if $err !~ /is behind|is stale|is still being built|older than its fill|has no shadow|has no standby/ && $err =~ /ERROR:\s+(.*)/;
	return;
}

# For as long as the others, and on a slow machine until each has been done.
my @acts = (qw(create rebuild switch), 'switch back', 'retire');
my $end = time() + $seconds;
my $round = 0;
while (time() < $end || (grep { !$done{$_} } @acts) && time() < $end + 200)
{
	my $name = (sort keys %queries)[$round++ % 2];

	if ($round % 3 == 0)
	{
		act('rebuild', "SELECT cqrs.rebuild('$name')");
		until_true($node, "SELECT NOT EXISTS (SELECT FROM cqrs.versions WHERE projection = '$name'::regclass AND state IN ('building', 'shadow'))", 200);
	}
	else
	{
		my $more = $round % 2 ? ', 1 AS more' : '';
		(my $query = $queries{$name}) =~ s/ FROM /$more FROM /;

		act('create', "SELECT cqrs.create_version('$name', \$q\$$query\$q\$)");
		if ($round % 7 == 4)
		{
			act('cancel', "SELECT cqrs.retire('$name', version) FROM cqrs.versions WHERE projection = '$name'::regclass AND state IN ('building', 'shadow')");
		}
		until_true($node, "SELECT NOT EXISTS (SELECT FROM cqrs.versions WHERE projection = '$name'::regclass AND state = 'building')", 200);
		act('switch', "SELECT cqrs.switch('$name')");
		act('switch back', "SELECT cqrs.switch_back('$name')") if $round % 2;
	}
	act('retire', "SELECT cqrs.retire('$name', version) FROM cqrs.versions WHERE projection = '$name'::regclass AND state IN ('shadow', 'standby') ORDER BY version DESC OFFSET 1");
}

foreach my $run (@running)
{
	ok(IPC::Run::finish($run->{handle}), "$run->{name}: nobody met an error") || diag($run->{output});
	my ($count) = $run->{output} =~ /number of transactions actually processed: (\d+)/;
	cmp_ok($count // 0, '>', 0, "$run->{name}: and all went on");
	my ($failed) = $run->{output} =~ /number of failed transactions: (\d+)/;
	is($failed // 0, 0, "$run->{name}: no transaction failed");
}
is(join('; ', %wrong), '', 'the versions met no other errors than those that say that it is not time yet');
foreach my $what (@acts)
{
	cmp_ok($done{$what} // 0, '>', 0, "there was at least one $what");
}
diag(join(', ', map { "$_ $done{$_}" } sort keys %done));

# Who waited for a lock on a source, did so for no longer than a try of ours takes: deadlock_timeout is more than that.
my $log = slurp_file($node->logfile);
my %sources = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', q{SELECT oid FROM pg_class WHERE relname IN ('sale', 'buyer')});
my @waits = grep { $sources{$_} } $log =~ /still waiting for \w+ on relation (\d+)/g;
is(scalar @waits, 0, 'nobody waited long for a lock on a source');
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'nothing fell');

foreach my $name (sort keys %queries)
{
	my $query = $queries{$name};

	ok(caught_up($node, $name), "$name catches up");
	$query =~ s/ FROM /, 1 AS more FROM / if $node->safe_psql('postgres', "SELECT count(*) FROM pg_attribute WHERE attrelid = '$name'::regclass AND attname = 'more'");
	is_equal($node, $name, $query, "$name equals its query");
	foreach my $version (split /\n/, $node->safe_psql('postgres', "SELECT version FROM cqrs.versions WHERE projection = '$name'::regclass AND state NOT IN ('building', 'retired')"))
	{
		is($node->safe_psql('postgres', "SELECT * FROM cqrs.verify('$name', version => $version) LIMIT 3"), '', "version $version of $name equals its query");
	}
}
$node->stop;
done_testing();
