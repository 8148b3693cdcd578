# A database with read models made of events is dumped and restored, with events that were not applied yet, some of transactions that were open at the last
# checkpoint, some parked; then a copy of the copy, and a template.  Transactions have other numbers there: an event that was pending must be applied once, before those of the copy,
# one that was applied not again.  If a checkpoint were trusted, or not trusted, the fold would have too few or too many.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('restored', q{cqrs.naptime = '1s'}, q{cqrs.retention = 0}, q{cqrs.segment_size = '64kB'}, q{cqrs.retry_initial = '20ms'}, q{cqrs.buffer_size = '8kB'});

# All of them keep a trail of what they were told: too much, too little and out of order show.
$node->safe_psql('postgres', q{
	CREATE TABLE stock (id integer PRIMARY KEY, n integer);
	INSERT INTO stock VALUES (1, 0), (2, 0);
	SELECT cqrs.capture('stock');
	CREATE FUNCTION taste(n text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
		IF n = 'bad' THEN RAISE 'poison'; END IF; RETURN n; END $$;
	SELECT cqrs.create_projection('trails', columns => 'id text PRIMARY KEY, trail text', handlers => jsonb_build_object('Went',
		$h$ INSERT INTO trails AS t SELECT aggregate_id, taste(payload->>'n') FROM event
			ON CONFLICT (id) DO UPDATE SET trail = t.trail || ' ' || excluded.trail $h$));
	SELECT cqrs.create_projection('journal', columns => 'id text PRIMARY KEY, n integer, changes integer', seed => 'SELECT id::text, n, 0 FROM stock',
		handlers => jsonb_build_object('public.stock', $h$ UPDATE journal SET n = (new_row->>'n')::int, changes = changes + 1 FROM event WHERE id = aggregate_id $h$))});
ok(caught_up($node, 'trails') && caught_up($node, 'journal'), 'both serve');

# Emits for an aggregate, one transaction each, and changes rows beside.
sub went
{
	my ($database, $id, @events) = @_;

	foreach my $n (@events)
	{
		$node->safe_psql($database, qq{SELECT cqrs.emit('Went', 'walker', '$id', '{"n": "$n"}'); UPDATE stock SET n = n + 1});
	}
	return;
}

# The trails are these, and the journal equals its table.
sub is_told
{
	my ($database, $trails, $when) = @_;

	ok(caught_up($node, 'trails', $database) && caught_up($node, 'journal', $database), "all is applied $when");
	is($node->safe_psql($database, q{SELECT string_agg(id || ': ' || trail, ', ' ORDER BY id) FROM trails}), $trails, "each event once, in order $when");
	is($node->safe_psql($database, 'SELECT count(*) FROM stock s FULL JOIN journal j ON j.id = s.id::text WHERE j.n IS DISTINCT FROM s.n'), 0, "and rows $when");
	return;
}

went('postgres', 'a', 1, 2);
went('postgres', 'b', 1, 'bad', 2);
is_told('postgres', 'a: 1 2, b: 1', 'at first');

# A transaction that is open at the last checkpoint, has written what it did first by then, and ends after it; others that are not applied, in several segments.
my $open = $node->background_psql('postgres');
$open->query_safe(q{BEGIN; SELECT cqrs.emit('Went', 'walker', 'late', '{"n": "1"}');
	SELECT count(cqrs.emit('Unheard', 'x', 'late', jsonb_build_object('f', repeat(md5(i::text), 30)))) FROM generate_series(1, 30) i});
went('postgres', 'a', 3);
is_told('postgres', 'a: 1 2 3, b: 1', 'beside an open transaction');
$node->safe_psql('postgres', q{SELECT cqrs.pause('trails'); SELECT cqrs.pause('journal')});
$open->query_safe(q{SELECT cqrs.emit('Went', 'walker', 'late', '{"n": "2"}'); COMMIT});
$open->quit;
$node->safe_psql('postgres', q{SELECT cqrs.emit('Unheard', 'x', 'x', jsonb_build_object('f', (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 60) j))) FROM generate_series(1, 100) i});
went('postgres', 'a', 4);
went('postgres', 'b', 3);
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';

# Dumps a database and restores it into another.
sub copy
{
	my ($from, $to) = @_;

	command_ok([ 'pg_dump', '-f', $dump, $node->connstr($from) ], "$from is dumped");
	$node->safe_psql('postgres', "CREATE DATABASE $to");
	command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr($to) ], "and restored as $to");
	return;
}

copy('postgres', 'one');
went('one', 'a', 5);
went('one', 'c', 1);
$node->safe_psql('one', q{SELECT cqrs.emit('Unheard', 'x', 'y')});
is($node->safe_psql('one', q{SELECT bool_and(held_by::text LIKE '%trails%') FROM cqrs.segments WHERE NOT held_by @> '{active}'}), 't', 'what came with a version is held for it');

# A copy of that, with events pending that are from the first still, and from the second.
copy('one', 'two');
went('two', 'c', 2);
foreach my $database ('two', 'one')
{
	$node->safe_psql($database, q{SELECT cqrs.resume('trails'); SELECT cqrs.resume('journal')});
	is_told($database, 'a: 1 2 3 4 5, b: 1, c: 1' . ($database eq 'two' ? ' 2' : '') . ', late: 1 2', "in $database");
	is($node->safe_psql($database, q{SELECT string_agg((event).payload->>'n', ' ' ORDER BY id) FROM cqrs.dead_letters}), 'bad 2 3', 'dead letters came along');
	went($database, 'b', 4);
	$node->safe_psql($database, q{SELECT cqrs.discard(min(id), 'bad') FROM cqrs.dead_letters}) if caught_up($node, 'trails', $database);
	is_told($database, 'a: 1 2 3 4 5, b: 1 2 3 4, c: 1' . ($database eq 'two' ? ' 2' : '') . ', late: 1 2', "in $database, replayed");
	is($node->safe_psql($database, q{SELECT string_agg(DISTINCT status, ' ') FROM cqrs.versions}), 'running', 'and run');
	ok(defined until_true($node, q{SELECT count(*) <= 2 FROM cqrs.segments}, 30, $database), 'and nothing is held any more');
}

# Once more, from a copy that has gone on, without and with pending events; and by files.
copy('two', 'three');
went('three', 'a', 6);
is_told('three', 'a: 1 2 3 4 5 6, b: 1 2 3 4, c: 1 2, late: 1 2', 'in a copy of a copy');
$node->safe_psql('three', q{SELECT cqrs.pause('trails')});
went('three', 'a', 7);
$node->safe_psql('postgres', 'CREATE DATABASE four TEMPLATE three');
went('four', 'a', 8);
$node->safe_psql('four', q{SELECT cqrs.resume('trails')});
is_told('four', 'a: 1 2 3 4 5 6 7 8, b: 1 2 3 4, c: 1 2, late: 1 2', 'in a copy of files');
$node->safe_psql('postgres', q{SELECT cqrs.resume('trails'); SELECT cqrs.resume('journal')});
is_told('postgres', 'a: 1 2 3 4, b: 1, late: 1 2', 'in the original');
$node->stop;
done_testing();
