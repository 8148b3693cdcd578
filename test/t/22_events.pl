# Eight clients emit for a few aggregates at once: with and without an expected version, in subtransactions that fail, for two aggregates in one transaction; the server is
# killed under them; and rows and aggregates are erased meanwhile.  Each event has a row in a plain table, written beside it: if the two differ, an event was lost,
# doubled, or given to a transaction that failed.  Versions count without gaps, in the order of the outbox.  Of what is erased nothing is left, and read
# models are right.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = new_server('events', 'cqrs.buffer_size = 8kB', 'cqrs.segment_size = 1MB');
my $people = 'SELECT id, name FROM person';
my $crowd = 'SELECT name, count(*) AS people FROM person GROUP BY name';

$node->safe_psql('postgres', qq{
	CREATE TABLE ledger (id text, version bigint);
	CREATE TABLE conflicts (id text);
	CREATE TABLE person (id integer PRIMARY KEY, name text);
	INSERT INTO person SELECT i, 'person ' || i FROM generate_series(1, 300) i;
	SELECT cqrs.create_projection('people', '$people'), cqrs.create_projection('crowd', '$crowd');
	SELECT cqrs.wait_until_serving('people'), cqrs.wait_until_serving('crowd'); } . q{
	CREATE FUNCTION note(id text, expected bigint DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
		INSERT INTO ledger VALUES (id, cqrs.emit('Noted', 'counter', id, jsonb_build_object('filler', repeat('x', 50)), expected)) $$;
	CREATE FUNCTION act(kind integer, a integer, b integer) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF kind = 1 THEN
			PERFORM note(a::text);
		ELSIF kind = 2 THEN
			BEGIN
				PERFORM note(a::text, (SELECT count(*) FROM ledger WHERE id = a::text));
			EXCEPTION WHEN SQLSTATE 'QC001' THEN
				INSERT INTO conflicts VALUES (a);
			END;
		ELSIF kind = 3 THEN
			BEGIN
				PERFORM note(a::text), note(a::text);
				PERFORM 1 / 0;
			EXCEPTION WHEN division_by_zero THEN
				PERFORM note(a::text);
			END;
		ELSIF kind = 4 THEN
			PERFORM note(least(a, b)::text), note(greatest(a, b)::text), note(least(a, b)::text);
			UPDATE person SET name = 'both ' || a WHERE id = a;
		ELSIF kind = 5 THEN
			PERFORM note('new ' || nextval('fresh'), 0);
		ELSE
			UPDATE person SET name = 'person ' || b WHERE id = a * 10 + b;
		END IF;
	END$$;
	CREATE SEQUENCE fresh;});

my $script = PostgreSQL::Test::Utils::tempdir() . '/act.sql';
append_to_file($script, "\\set kind random(1, 7)\n\\set a random(1, 5)\n\\set b random(1, 12)\nSELECT act(:kind, :a, :b);\n");

sub load_start
{
	my (@options) = @_;

	return IPC::Run::start([ 'pgbench', '-n', '-c', '8', '-j', '2', @options, '-f', $script, $node->connstr('postgres') ],
		'>', '/dev/null', '2>', '/dev/null');
}

# Every event that is not erased has its row, and the other way round; in the outbox each aggregate's versions stand in order.
sub events_right
{
	my ($when, $erased) = @_;
	my $left = join(', ', "''", map { "'$_'" } @$erased);

	is($node->safe_psql('postgres', qq{
		WITH events AS (SELECT aggregate_id, aggregate_version FROM cqrs.outbox WHERE aggregate_type = 'counter'),
		     noted AS (SELECT id, version FROM ledger WHERE id NOT IN ($left))
		SELECT count(*) FROM ((TABLE events EXCEPT ALL TABLE noted) UNION ALL (TABLE noted EXCEPT ALL TABLE events)) d}), 0, "events are what was noted $when");
	is($node->safe_psql('postgres', q{
		SELECT count(*) FROM (SELECT aggregate_version - lag(aggregate_version, 1, 0::bigint) OVER (PARTITION BY aggregate_id ORDER BY position) AS step
			FROM cqrs.outbox WHERE aggregate_type = 'counter') o WHERE step <> 1}), 0, "versions stand in order without gaps $when");
	is($node->safe_psql('postgres', q{
		SELECT count(*) FROM (SELECT id, max(version) FROM ledger GROUP BY id EXCEPT SELECT id, version FROM cqrs_internal.aggregate WHERE type = 'counter') d}),
		0, "aggregates count what was noted $when");
	return;
}

sub read_models_right
{
	my ($when) = @_;

	foreach my $view ([ 'people', $people ], [ 'crowd', $crowd ])
	{
		ok(caught_up($node, $view->[0]), "$view->[0] catches up $when");
		is_equal($node, @$view, "$view->[0] is right $when");
	}
	return;
}

my $load = load_start('-t', 150);
$load->finish;
events_right('after a load', []);
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM ledger'), '>', 100, 'there are some');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM conflicts'), '>', 0, 'there were conflicts');

foreach my $round (1, 2)
{
	my $reached = 100 + $node->safe_psql('postgres', 'SELECT count(*) FROM ledger');
	$load = load_start('-T', 60, '-R', '500');
	until_true($node, "SELECT count(*) > $reached FROM ledger");
	sleep(rand(1));
	my $pid = $node->{_pid};
	$node->kill9;
	sleep(0.05) while kill(0, $pid);
	$load->finish;
	$node->start;
	events_right("after crash $round", []);
}
read_models_right('after the crashes');

# Erasing under the load: rows that are gone from their table, and an aggregate whose last event has been.
$node->safe_psql('postgres', q{SELECT note('farewell') FROM generate_series(1, 50)});
$load = load_start('-T', 5, '-R', '500');
my ($rows, $refused) = (0, 0);
foreach my $id (200 .. 215)
{
	$node->safe_psql('postgres', "UPDATE person SET name = 'secret of $id' WHERE id = $id; DELETE FROM person WHERE id = $id");
	my ($failed, $erased, $why) = $node->psql('postgres', qq{SELECT cqrs.erase('person'::regclass, '{"id": $id}', 'under load')});
	$failed ? diag($why) : ($rows += $erased);
	$refused += $failed != 0;
}
my $events = $node->safe_psql('postgres', q{SELECT cqrs.erase('counter', 'farewell', 'under load')});
$load->finish;
is($refused, 0, 'no erasure is refused');
is($rows, 32, 'two changes of each row are erased');
is($events, 50, 'so are the events');
is($node->safe_psql('postgres', q{SELECT count(*) FROM cqrs.outbox WHERE (old_row ->> 'id')::integer BETWEEN 200 AND 215 OR (new_row ->> 'id')::integer BETWEEN 200 AND 215 OR aggregate_id = 'farewell'}),
	0, 'nothing of them is left');
events_right('after erasing', ['farewell']);
read_models_right('after erasing');
is($node->safe_psql('postgres', q{SELECT count(*) FROM cqrs.outbox WHERE kind = 'damaged'}), 0, 'no chunk is damaged');
is($node->safe_psql('postgres', q{SELECT count(*), sum(changes) FROM cqrs.history WHERE reason = 'under load'}), '17|82', 'the history tells');
$node->stop;
done_testing();
