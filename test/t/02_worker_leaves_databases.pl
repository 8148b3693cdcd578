# Commands that need a database empty, DROP, RENAME, SET TABLESPACE and use as a template, must not fail because our worker is connected to it, whatever
# it does at that moment; and it must be back when they are over, however they end.  If it did not leave, nobody could drop a database any more;
# if it did not come back, its projections would stand still.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $QUICK = 20;			# seconds; the server itself gives up when others are there for 5
my $node = new_server('leaves', q{cqrs.buffer_size = '1MB'});

# Makes a database with a projection that serves.
sub make_database
{
	my ($name) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, q{CREATE EXTENSION cqrs; CREATE TABLE thing (id integer PRIMARY KEY, name text);
		INSERT INTO thing SELECT i, 'thing ' || i FROM generate_series(1, 1000) i});
	$node->safe_psql($name, q{SELECT cqrs.create_projection('page', 'SELECT id, upper(name) AS name FROM thing')});
	die 'not built' unless $node->safe_psql($name, q{SELECT cqrs.wait_until_serving('page', '20 s')}) eq 't';
	return;
}

# A projection whose fill takes minutes.
sub make_busy
{
	my ($name) = @_;

	$node->safe_psql($name, q{SELECT cqrs.create_projection('pairs',
		'SELECT a.id % 10 AS id, count(*) AS n FROM thing a, thing b, thing c WHERE a.name || b.name <> c.name GROUP BY 1', key => ARRAY['id'])});
	die 'not busy' unless defined until_true($node, q{SELECT EXISTS (SELECT FROM cqrs.workers WHERE phase = 'fill')}, 20, $name);
	return;
}

# The command succeeds, and soon.
sub quick
{
	my ($command, $what) = @_;
	my $began = time();
	my ($status, undef, $error) = $node->psql('postgres', $command, on_error_stop => 1);
	my $took = time() - $began;

	is("$status $error", '0 ', $what);
	return cmp_ok($took, '<', $QUICK, "$what, soon");
}

# The database has a worker, and what is written there now arrives.
sub follows
{
	my ($database, $when) = @_;

	ok(worker_pid($node, $database), "$database has a worker $when");
	$node->safe_psql($database, q{UPDATE thing SET name = name || '.' WHERE id < 5; INSERT INTO thing SELECT max(id) + 1, 'new' FROM thing});
	ok(caught_up($node, 'page', $database), "$database follows $when");
	return is_equal($node, 'page', 'SELECT id, upper(name) AS name FROM thing', "$database is right $when", $database);
}

# ---- DROP DATABASE

make_database('victim');
quick('DROP DATABASE victim', 'DROP DATABASE with a worker that sleeps');
make_database('victim');
make_busy('victim');
quick('DROP DATABASE victim', 'DROP DATABASE with a worker that fills');
foreach my $round (1 .. 5)
{
	$node->safe_psql('postgres', 'CREATE DATABASE victim');
	$node->safe_psql('victim', 'CREATE EXTENSION cqrs');
	quick('DROP DATABASE victim', "DROP DATABASE with a worker that is just coming, round $round");
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'victim'}), 0, 'it is gone');

# ---- RENAME, SET TABLESPACE, TEMPLATE

make_database('shop');
quick('ALTER DATABASE shop RENAME TO store', 'ALTER DATABASE RENAME');
follows('store', 'after it was renamed');
make_busy('store');
quick('ALTER DATABASE store RENAME TO shop', 'ALTER DATABASE RENAME with a worker that fills');
quick('ALTER DATABASE shop SET cqrs.max_workers = 0', 'a worker that fills is called off');
quick(q{\c shop
	SELECT cqrs.drop_projection('pairs')}, 'which frees what it had locked');
quick('ALTER DATABASE shop RESET cqrs.max_workers', 'and called back');
follows('shop', 'after it was renamed back');
my $folder = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$folder'");
quick('ALTER DATABASE shop SET TABLESPACE elsewhere', 'ALTER DATABASE SET TABLESPACE');
follows('shop', 'after it moved');
$node->safe_psql('shop', 'UPDATE thing SET name = name || 1 WHERE id % 3 = 0');
quick('CREATE DATABASE copy TEMPLATE shop', 'CREATE DATABASE from a template that has a worker');
follows($_, 'after it was copied') foreach qw(shop copy);
quick('CREATE DATABASE copy_2 TEMPLATE shop STRATEGY file_copy', 'the same by files');
follows($_, 'after it was copied by files') foreach qw(shop copy_2);
quick("DROP DATABASE copy_2;\nDROP DATABASE copy WITH (FORCE)", 'the copies go');

# ---- who may not, or cannot

my $pid = worker_pid($node, 'shop');
$node->safe_psql('postgres', 'CREATE ROLE stranger LOGIN CREATEDB; CREATE ROLE guest LOGIN');
foreach my $command ('DROP DATABASE shop', 'ALTER DATABASE shop RENAME TO mine', 'ALTER DATABASE shop SET TABLESPACE pg_default',
	'CREATE DATABASE mine TEMPLATE shop')
{
	my ($status, undef, $error) = $node->psql('postgres', $command, extra_params => [ '-U', 'stranger' ]);

	like($error, qr/must be owner|permission denied/, "$command is not for strangers");
	next if $command =~ /RENAME/;
	(undef, undef, $error) = $node->psql('postgres', "BEGIN; $command");
	like($error, qr/transaction block/, "$command is not for transaction blocks");
}
is(worker_pid($node, 'shop'), $pid, 'nobody left for that');
follows('shop', 'after strangers tried');
quick('BEGIN; ALTER DATABASE shop RENAME TO store; ROLLBACK', 'ALTER DATABASE RENAME in a transaction block');
follows('shop', 'after RENAME was rolled back');
(undef, undef, my $error) = $node->psql('postgres', 'DROP DATABASE nowhere');
like($error, qr/does not exist/, 'what does not exist is the server\'s to say');

# ---- commands that fail, and sessions that end, half way

my $guest = $node->background_psql('shop');
$guest->query_safe('SELECT 1');
(undef, undef, $error) = $node->psql('postgres', 'DROP DATABASE shop');
like($error, qr/being accessed by other users.*There is 1 other session/s, 'somebody else keeps DROP DATABASE from working, and nobody of ours');
follows('shop', 'after DROP DATABASE failed');
my $dropper = $node->background_psql('postgres', on_error_stop => 0);
my $dropper_pid = $dropper->query_safe('SELECT pg_backend_pid()');
$dropper->query_until(qr/begins/, "\\echo begins\nDROP DATABASE shop;\n");
ok(defined until_true($node, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'cqrs worker' AND datname = 'shop')}, 3),
	'the worker leaves while DROP DATABASE waits for others');
is($node->safe_psql('postgres', "SELECT pg_terminate_backend($dropper_pid, 5000)"), 't', 'the session that drops is terminated');
follows('shop', 'after that');
$guest->quit;
eval { $dropper->quit };

# ---- who may be connected to

$node->safe_psql('postgres', 'ALTER DATABASE shop ALLOW_CONNECTIONS false');
ok(defined until_true($node, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'shop')}), 'it leaves where no connections are allowed');
$node->safe_psql('postgres', 'ALTER DATABASE shop ALLOW_CONNECTIONS true');
follows('shop', 'when they are allowed again');
$node->safe_psql('postgres', 'ALTER DATABASE shop IS_TEMPLATE true');
ok(defined until_true($node, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'shop')}), 'it leaves a template');
quick('CREATE DATABASE copy TEMPLATE shop', 'CREATE DATABASE from it');
follows('copy', 'as a copy of a template');
$node->safe_psql('postgres', 'ALTER DATABASE shop IS_TEMPLATE false');
follows('shop', 'when it is one no longer');
make_busy('copy');
quick("\\c copy\nSET client_min_messages = warning;\nDROP EXTENSION cqrs CASCADE", 'DROP EXTENSION with a worker that fills');
ok(defined until_true($node, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'cqrs worker' AND datname = 'copy')}), 'which leaves');

# ---- many at once

my @clients = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 3;
$clients[$_]->query_until(qr/begins/, "\\echo begins\nCREATE DATABASE many_$_ TEMPLATE shop;\n") foreach 0 .. 2;
$clients[$_]->query("SELECT 1") foreach 0 .. 2;
$_->quit foreach @clients;
my $made = $node->safe_psql('postgres', q{SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname LIKE 'many%'});
isnt($made, '', "copies made at once: $made");
follows($_, 'after being made at once with others') foreach split(/ /, $made), 'shop';
quick(join("\n", map { "DROP DATABASE $_;" } split(/ /, $made)), 'all go');

$node->stop;
my @complaints = grep { /cqrs/ && /(?:ERROR|FATAL|PANIC|WARNING):/ && !/terminating background worker "cqrs worker" due to administrator command/ }
  split(/\n/, slurp_file($node->logfile));
is(join("\n", @complaints), '', 'the log is quiet');
done_testing();
