# Who waits for his own writes, and what is to serve, while versions are built and switched.  If this fails, he waits for as long as somebody else's switch, build
# or retirement does, or is told that nothing can arrive although it can; or a read model never serves.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('own_writes', q{cqrs.lock_timeout = '200s'});

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# Writes and waits for it as often as that; returns how often it has arrived.
sub arrived
{
	my ($times) = @_;
	my $arrived = 0;

	foreach (1 .. $times)
	{
		sql('UPDATE item SET price = price + 1 WHERE id = 7');
		$arrived++ if sql(q{SELECT cqrs.token() AS token \gset
			SELECT cqrs.wait_for('items', :'token', '60 s');
			SELECT (SELECT price FROM items WHERE id = 7) = (SELECT price FROM item WHERE id = 7)}) eq "t\nt";
	}
	return $arrived;
}

# Starts a statement in a session of its own.
sub start
{
	my ($statement) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_until(qr/started/, "\\echo started\n$statement;\n");
	return $session;
}

sql(q{CREATE TABLE item (id integer PRIMARY KEY, name text, price integer);
	INSERT INTO item SELECT i, 'item ' || i, i % 10 FROM generate_series(1, 3000) i;
	SELECT cqrs.create_projection('items', 'SELECT id, name, price FROM item');
	SELECT cqrs.wait_until_serving('items');
	SELECT cqrs.create_version('items');});
until_true($node, q{SELECT count(*) = 1 FROM cqrs.versions WHERE state = 'shadow'});

# While a session of its own holds what the statement wants, that waits, and writes arrive; then it goes on, and makes the condition true.
sub keeps_nobody
{
	my ($statement, $holding, $condition, $what) = @_;
	my $holder = $node->background_psql('postgres');
	my $session;

	$holder->query_safe("BEGIN; $holding");
	$session = start($statement);
	until_true($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT cqrs.%' AND state = 'active' AND pid <> pg_backend_pid()});
	is(arrived(5), 5, "while a $what, writes arrive");
	is(sql("SELECT $condition"), 'f', 'and it waits still');
	$holder->query_safe('COMMIT');
	ok(until_true($node, "SELECT $condition", 200), 'it goes on when that has ended');
	$session->quit;
	return $holder->quit;
}

# The state of a version.
sub state_of
{
	my ($name, $version) = @_;

	return "(SELECT state FROM cqrs.versions WHERE projection = '$name'::regclass AND version = $version)";
}

# ---- a long report, or a dump, keeps waiting who changes versions, and nobody else
keeps_nobody(q{SELECT cqrs.switch('items')}, 'SELECT count(*) FROM items', state_of('items', 2) . q{ = 'serving'}, 'switch waits for a long report');
sql(q{SELECT cqrs.create_projection('above', 'SELECT price, count(*) AS items FROM items GROUP BY price');
	SELECT cqrs.wait_until_serving('above');
	SELECT cqrs.create_version('above');});
until_true($node, 'SELECT ' . state_of('above', 2) . q{ = 'shadow'});
my $table = sql(q{SELECT oid::regclass FROM pg_class WHERE relname = 'above' AND relnamespace::regnamespace::text LIKE 'cqrs%v2'});
keeps_nobody(q{SELECT cqrs.retire('above', 2)}, "LOCK TABLE $table IN ACCESS SHARE MODE", state_of('above', 2) . q{ = 'retired'}, 'version above is retired beside a dump');
keeps_nobody(q{SELECT cqrs.alter_projection('items', row_filter => 'id > 0')}, 'SELECT count(*) FROM items',
	q{row_filter IS NOT NULL FROM cqrs.projections WHERE projection = 'items'::regclass}, 'row filter waits for a long report on what others read');

# ---- the version that serves is retired behind the back of who looks whether it has arrived
sql(q{SELECT cqrs.create_version('items')});
until_true($node, q{SELECT count(*) = 1 FROM cqrs.versions WHERE state = 'shadow'});
my $stop = stop_at($node, 'look');
my $wait = start(q{SELECT 'was ' || cqrs.wait_for('items', '3', '100 s') AS answer});
stopped_at($node, 'look');
sql(q{SELECT cqrs.switch('items'); SELECT cqrs.retire('items', 2)});
$stop->quit;
like($wait->query_until(qr/was \w+/, "\n"), qr/was true/, 'who waits is not told that nothing can arrive');
$wait->quit;

# ---- a build at whose end somebody was in the way goes on, though what it reads is applied in each round
$stop = stop_at($node, 'finish');
sql(q{SELECT cqrs.create_projection('totals', 'SELECT count(*) AS items FROM items', '{}')});
stopped_at($node, 'finish');
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; LOCK TABLE ONLY totals IN ACCESS SHARE MODE');
$stop->quit;
is(arrived(2), 2, 'while somebody keeps a first version from serving, writes arrive');
$reader->query_safe('COMMIT');
is(sql(q{SELECT cqrs.wait_until_serving('totals', '100 s')}), 't', 'it serves when he has gone');
$reader->quit;

is_equal($node, 'items', 'SELECT id, name, price FROM item', 'the read model equals its query');
$node->stop;
done_testing();
