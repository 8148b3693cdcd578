# Events are folded by handlers while eight clients emit them, fail, roll back and collide, repeat commands, some events are poison, letters are retried all the time, and processes
# die by SIGKILL.  In the end every aggregate's summary must equal the fold of its events, in order, each once: by a handler that takes them one by one, by one
# that takes runs, and of rows of a captured table.  If this fails, an event was lost, applied twice, or overtaken by a later one.
#
# Then what a worker does about failures: it tries again, parks, halts where it is told to and goes on from there, and never parks for a reason that passes.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = new_server('handlers', 'cqrs.buffer_size = 8kB', 'cqrs.retry_initial = 50ms', 'cqrs.retry_max = 500ms', 'cqrs.segment_size = 256kB');
my $seconds = $ENV{CQRS_SECONDS} // 2;

# A step of the fold says if an event comes out of order, and fails at poison until that is mended.
$node->safe_psql('postgres', q{
	CREATE TABLE mended (what text PRIMARY KEY);
	CREATE FUNCTION fold_step(digest text, event text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT md5(digest || event)';
	CREATE AGGREGATE fold(text) (sfunc = fold_step, stype = text, initcond = '');
	CREATE FUNCTION taste(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
		IF payload ? 'poison' AND NOT EXISTS (SELECT FROM mended) THEN RAISE 'poison'; END IF;
		RETURN payload->>'n';
	END $$;
	CREATE FUNCTION check_next(id text, seen bigint, version bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
		IF version <> seen + 1 THEN RAISE 'event % of % came after %', version, id, seen; END IF;
		RETURN version;
	END $$;
	CREATE TABLE stock (id integer PRIMARY KEY, n integer);
	INSERT INTO stock SELECT i, 0 FROM generate_series(1, 20) i;
	SELECT cqrs.capture('stock');
	CREATE FUNCTION add(payload jsonb) RETURNS jsonb LANGUAGE sql AS
		$$ SELECT to_jsonb(cqrs.emit('Added', 'basket', payload->>'basket', payload)) $$;
	SELECT cqrs.create_command('add', 'add(jsonb)');
	CREATE FUNCTION take_one(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO one AS o VALUES (e.aggregate_id, e.aggregate_version, md5('' || taste(e.payload)))
		ON CONFLICT (id) DO UPDATE SET seen = check_next(o.id, o.seen, e.aggregate_version), digest = fold_step(o.digest, taste(e.payload));
		PERFORM pg_advisory_lock(4711), set_config('search_path', 'pg_catalog', false);
	END $$;
	SELECT cqrs.create_projection('one', columns => 'id text PRIMARY KEY, seen bigint, digest text',
		handlers => '{"Added": "take_one", "Taken": "take_one"}');
	SELECT cqrs.create_projection('runs', columns => 'id text PRIMARY KEY, events bigint, trail text', handlers => jsonb_build_object(
		'Added', $h$ INSERT INTO runs AS r SELECT aggregate_id, count(*), string_agg(taste(payload) || ';', '' ORDER BY aggregate_version) FROM events GROUP BY 1
			ON CONFLICT (id) DO UPDATE SET events = r.events + excluded.events, trail = r.trail || excluded.trail $h$,
		'Taken', $h$ INSERT INTO runs AS r SELECT aggregate_id, 1, taste(payload) || ';' FROM event
			ON CONFLICT (id) DO UPDATE SET events = r.events + 1, trail = r.trail || excluded.trail $h$));
	SELECT cqrs.create_projection('journal', columns => 'id text PRIMARY KEY, n integer, changes integer', seed => 'SELECT id::text, n, 0 FROM stock',
		handlers => jsonb_build_object('public.stock', $h$ INSERT INTO journal AS j SELECT aggregate_id, (new_row->>'n')::int, 1 FROM event
			ON CONFLICT (id) DO UPDATE SET n = CASE WHEN j.n = (SELECT (old_row->>'n')::int FROM event) THEN excluded.n ELSE -1000000 END,
				changes = j.changes + 1 $h$))});
ok(caught_up($node, $_), "$_ serves") foreach qw(one runs journal);

my %scripts = (
	emit => [ 8, q{
		\set a random(1, 40)
		\set n random(1, 1000000)
		\set p random(1, 150)
		SELECT cqrs.emit((ARRAY['Added', 'Taken', 'Unheard'])[1 + :n % 3], CASE :n % 3 WHEN 2 THEN 'other' ELSE 'basket' END, 'b' || :a,
			jsonb_build_object('n', :n) || CASE WHEN :p = 1 AND :n % 3 < 2 THEN '{"poison": true}' ELSE '{}' END::jsonb);} ],
	several => [ 4, q{
		\set a random(1, 40)
		\set b random(1, 40)
		\set n random(1, 1000000)
		BEGIN;
		UPDATE stock SET n = n + 1 WHERE id = 1 + :a % 20;
		SELECT cqrs.emit('Added', 'basket', 'b' || least(:a, :b), jsonb_build_object('n', i)) FROM generate_series(1, 5) i;
		\sleep 5 ms
		SELECT cqrs.emit('Taken', 'basket', 'b' || greatest(:a, :b), jsonb_build_object('n', -i)) FROM generate_series(1, 3) i;
		END;} ],
	undone => [ 2, q{
		\set a random(1, 40)
		BEGIN;
		SELECT cqrs.emit('Added', 'basket', 'b' || :a, '{"n": "kept"}');
		SAVEPOINT s;
		SELECT cqrs.emit('Added', 'basket', 'b' || :a, jsonb_build_object('n', 'undone ' || i, 'poison', true)) FROM generate_series(1, 30) i;
		ROLLBACK TO s;
		UPDATE stock SET n = n + 1 WHERE id = 1 + :a % 20;
		END;
		BEGIN;
		SELECT cqrs.emit('Taken', 'basket', 'b' || :a, '{"n": "rolled back"}');
		ROLLBACK;} ],
	large => [ 1, q{
		\set a random(1, 40)
		SELECT count(cqrs.emit('Added', 'basket', 'b' || :a, jsonb_build_object('n', i, 'filler', repeat('x', 100)))) FROM generate_series(1, 150) i;} ],
	conflict => [ 3, q{
		\set a random(1, 40)
		DO $$ BEGIN
			PERFORM cqrs.emit('Added', 'basket', 'b' || :a, '{"n": "expected"}', coalesce((SELECT seen FROM one WHERE id = 'b' || :a), 0));
		EXCEPTION WHEN SQLSTATE 'QC001' THEN NULL;
		END $$;} ],
	command => [ 4, q{
		\set c random(1, 300)
		SELECT cqrs.execute('add', jsonb_build_object('basket', 'b' || 1 + :c % 40, 'n', 'command ' || :c), 'command ' || :c);} ],
	late => [ 1, q{
		\set a random(41, 60)
		BEGIN;
		SELECT cqrs.emit('Added', 'basket', 'b' || :a, '{"n": "early"}');
		\sleep 200 ms
		SELECT cqrs.emit('Taken', 'basket', 'b' || :a, '{"n": "late"}');
		END;} ],
	rows => [ 4, q{
		\set a random(1, 20)
		UPDATE stock SET n = n + 1 WHERE id = :a;} ],
	retry => [ 1, q{
		DO $$ BEGIN PERFORM cqrs.retry(id) FROM cqrs.dead_letters WHERE behind IS NULL ORDER BY random() LIMIT 1;
		EXCEPTION WHEN object_not_in_prerequisite_state OR undefined_object OR lock_not_available OR deadlock_detected THEN NULL;
		END $$;
		\sleep 50 ms} ],
	drain => [ 1, q{
		DO $$ BEGIN PERFORM cqrs.drain('runs');
		EXCEPTION WHEN lock_not_available OR deadlock_detected OR object_not_in_prerequisite_state THEN NULL;
		END $$;
		\sleep 100 ms} ]);
my $folder = PostgreSQL::Test::Utils::tempdir();
my @files;

foreach my $name (sort keys %scripts)
{
	my ($weight, $script) = @{ $scripts{$name} };

	PostgreSQL::Test::Utils::append_to_file("$folder/$name", $script =~ s/^\s+//mgr . "\n");
	push @files, '-f', "$folder/$name\@$weight";
}

# Eight clients for a while, in the midst of which something happens.
sub storm
{
	my ($seconds, $happens) = @_;
	my $output = '';
	my $handle = IPC::Run::start([ 'pgbench', '-n', '-c', 8, '-j', 1, '-T', $seconds, '--max-tries=20', @files, $node->connstr('postgres') ],
		'>', \$output, '2>&1', IPC::Run::timeout(180 + $seconds));

	sleep($seconds / 2 + rand($seconds / 4));
	$happens->();
	IPC::Run::finish($handle);
	return $output;
}

# All is as if each event had been taken once, in order; as far as nothing waits.
sub equal_folds
{
	my ($when) = @_;
	my $fold = q{SELECT aggregate_id AS id, payload->>'n' AS n, aggregate_version AS v, event_type FROM cqrs.outbox
		WHERE event_type IN ('Added', 'Taken')};

	is($node->safe_psql('postgres', q{
		WITH emitted AS (SELECT metadata->>'causation_id' AS id, to_jsonb(aggregate_version) AS version FROM cqrs.outbox WHERE payload->>'n' ~ '^command'),
			executed AS (SELECT id, result FROM cqrs.commands)
		SELECT count(*) FROM ((TABLE emitted EXCEPT ALL TABLE executed) UNION ALL (TABLE executed EXCEPT ALL TABLE emitted)) d}),
		0, "each command has emitted once $when, however often it was asked for");
	is($node->safe_psql('postgres', 'SELECT string_agg(DISTINCT error, chr(10)) FROM cqrs.dead_letters WHERE error <> \'poison\''), '', "nothing but poison failed $when");
	ok(caught_up($node, $_), "$_ has caught up $when") foreach qw(one runs journal);
	is($node->safe_psql('postgres', qq{
		WITH truth AS (SELECT id, count(*) AS events, fold(n ORDER BY v) AS digest, string_agg(n || ';', '' ORDER BY v) AS trail FROM ($fold) e GROUP BY id),
			waits AS (SELECT v.projection, (d.event).aggregate_id AS id FROM cqrs.dead_letters d JOIN cqrs.versions v USING (projection, version))
		SELECT count(*) FILTER (WHERE NOT EXISTS (SELECT FROM waits w WHERE w.id = t.id AND w.projection = 'one'::regclass) AND o.digest IS DISTINCT FROM t.digest) || ' ' ||
			count(*) FILTER (WHERE NOT EXISTS (SELECT FROM waits w WHERE w.id = t.id AND w.projection = 'runs'::regclass)
				AND (r.trail IS DISTINCT FROM t.trail OR r.events <> t.events)) || ' ' ||
			count(*) FILTER (WHERE t.trail NOT LIKE coalesce(r.trail, '') || '%')
		FROM truth t LEFT JOIN one o USING (id) LEFT JOIN runs r USING (id)}), '0 0 0', "summaries equal the folds $when");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM stock s LEFT JOIN journal j ON j.id = s.id::text WHERE j.n IS DISTINCT FROM s.n OR j.changes <> s.n'), 0, "and the journal its table $when");
	return;
}

storm($seconds, sub { kill('KILL', worker_pid($node)) });
$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
equal_folds('after the worker was killed');
storm($seconds, sub { $node->stop('immediate') });
$node->start;
equal_folds('after a crash');
storm($seconds, sub { $node->safe_psql('postgres', q{SELECT cqrs.emit('Added', 'basket', 'b1', '{"n": 0, "poison": true}')}) });
ok(caught_up($node, $_), "$_ catches up") foreach qw(one runs);
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.dead_letters'), '>', 0, 'there was poison');
equal_folds('with events waiting');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = 4711}), 0, 'no lock that a handler took is left');
$node->safe_psql('postgres', q{INSERT INTO mended VALUES ('all'); SELECT cqrs.retry_all('one'); SELECT cqrs.retry_all('runs')});
is($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.dead_letters'), 0, 'all is mended');
equal_folds('at the end');

# Anew from the outbox, which has all of it.
my $count = q{INSERT INTO again AS r SELECT aggregate_id, count(*) FROM events GROUP BY 1 ON CONFLICT (id) DO UPDATE SET events = r.events + excluded.events};
is($node->safe_psql('postgres', qq{SELECT cqrs.create_projection('again', columns => 'id text PRIMARY KEY, events bigint',
	handlers => jsonb_build_object('Added', '$count', 'Taken', '$count'))}), 1, 'one more');
ok($node->safe_psql('postgres', q{SELECT cqrs.wait_until_serving('again')}) eq 't', 'is filled by a replay');
is($node->safe_psql('postgres', 'SELECT count(*) FROM (TABLE again EXCEPT SELECT id, events FROM runs) d'), 0, 'and counts the same events');
$node->safe_psql('postgres', q{SELECT cqrs.drop_projection(p) FROM unnest('{one,runs,journal,again}'::regclass[]) p; DELETE FROM mended});

# One column of a version's row.
sub version
{
	my ($what, $view) = @_;

	return $node->safe_psql('postgres', "SELECT $what FROM cqrs.versions WHERE projection = '$view'::regclass");
}

# A worker tries again before it parks; what goes on with others, it halts at where it is told to.
$node->safe_psql('postgres', q{
	SELECT cqrs.create_projection('parking', columns => 'id text, n text', handlers => '{"Fed": "INSERT INTO parking SELECT aggregate_id, taste(payload) FROM event"}');
	SELECT cqrs.create_projection('halting', columns => 'id text, n text', on_error => 'halt',
		handlers => '{"Fed": "INSERT INTO halting SELECT aggregate_id, taste(payload) FROM event"}')});
ok(caught_up($node, $_), "$_ serves") foreach qw(parking halting);
$node->safe_psql('postgres', q{SELECT cqrs.emit('Fed', 'cat', 'a', '{"n": 1}'), cqrs.emit('Fed', 'cat', 'b', '{"n": 1, "poison": true}'),
	cqrs.emit('Fed', 'cat', 'a', '{"n": 2}'), cqrs.emit('Fed', 'cat', 'b', '{"n": 2}')});
ok(caught_up($node, 'parking'), 'parking goes on');
is($node->safe_psql('postgres', q{SELECT string_agg(id || n, ' ' ORDER BY id, n) FROM parking}), 'a1 a2', 'with the others');
is($node->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE behind IS NULL) || ' ' || count(*) FILTER (WHERE behind IS NOT NULL) FROM cqrs.dead_letters}), '1 1', 'one event is parked, one waits');
like($node->safe_psql('postgres', q{SELECT string_agg(event, ' ' ORDER BY at) FROM cqrs.history WHERE projection LIKE '%parking'}), qr/failing.* recovered/, 'it was tried twice');
ok(defined until_true($node, q{SELECT status = 'halted' FROM cqrs.versions WHERE projection = 'halting'::regclass}), 'halting halts');
like(version('error', 'halting'), qr/^poison \(The event is at position \d+\.\)$/, 'and says at which event');
is($node->safe_psql('postgres', 'SELECT count(*) FROM halting'), 0, 'with nothing of the batch applied');
$node->safe_psql('postgres', q{SELECT cqrs.emit('Fed', 'cat', 'c', '{"n": 3}')});
$node->safe_psql('postgres', q{SET cqrs.retention = 0; DO $$ BEGIN FOR i IN 1..400 LOOP PERFORM cqrs.emit('Unheard', 'cat', 'x', jsonb_build_object('f', repeat('x', 1000))); END LOOP; END $$});
$node->append_conf('postgresql.conf', 'cqrs.retention = 0');
$node->reload;
ok(caught_up($node, 'parking'), 'the other goes on');
ok(defined until_true($node, q{SELECT bool_or(held_by::text LIKE '%halting version 1%') FROM cqrs.segments}), 'what it has not applied is held for it');
$node->safe_psql('postgres', q{INSERT INTO mended VALUES ('all'); SELECT cqrs.resume('halting')});
ok(caught_up($node, 'halting'), 'resumed, it goes on');
is($node->safe_psql('postgres', q{SELECT string_agg(id || n, ' ' ORDER BY id, n) FROM halting}), 'a1 a2 b1 b2 c3', 'with all of it');
is(version('status', 'halting'), 'running', 'and runs');

# History that is gone.
ok(defined until_true($node, q{SELECT min(segment) > 1 FROM cqrs.segments}), 'segments are freed');
my (undef, undef, $error) = $node->psql('postgres', q{SELECT cqrs.create_projection('late', columns => 'id text', handlers => '{"Fed": "INSERT INTO late SELECT aggregate_id FROM event"}')});
like($error, qr/cannot be replayed from the beginning.*(?:reaches back to position \d+|has none left).*Give a seed/s, 'a replay of what is gone is refused, with what is left');

# What passes by itself parks nothing: a lock, a deadlock, a serialization failure, no memory, a cancelled batch.
$node->safe_psql('postgres', q{DELETE FROM mended; SELECT cqrs.retry_all('parking');
	CREATE TABLE trouble (state text);
	CREATE FUNCTION meet_trouble() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE s text; BEGIN
		FOR s IN SELECT state FROM trouble LOOP RAISE 'trouble' USING errcode = s; END LOOP; RETURN NEW; END $$;
	CREATE TABLE elsewhere (id text);
	CREATE TRIGGER meet BEFORE INSERT ON elsewhere FOR EACH ROW EXECUTE FUNCTION meet_trouble();
	SELECT cqrs.create_projection('careful', columns => 'id text', handlers => '{"Walked": "INSERT INTO elsewhere SELECT aggregate_id FROM event; INSERT INTO careful SELECT aggregate_id FROM event"}',
		seed => 'SELECT NULL::text WHERE false')});
ok(caught_up($node, 'careful'), 'careful serves');
my $letters = $node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.dead_letters');
foreach my $state (qw(40001 40P01 55P03 53200 53100 57014 08006 58030))
{
	$node->safe_psql('postgres', "INSERT INTO trouble VALUES ('$state'); SELECT cqrs.emit('Walked', 'dog', '$state')");
	sleep(0.4);
	is($node->safe_psql('postgres', "SELECT count(*) FROM careful WHERE id = '$state'") . ' ' . $node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.dead_letters'),
		"0 $letters", "nothing is parked for $state");
	$node->safe_psql('postgres', 'DELETE FROM trouble');
	ok(caught_up($node, 'careful') && $node->safe_psql('postgres', "SELECT count(*) FROM careful WHERE id = '$state'") == 1, 'and all is well when it has passed');
}
$node->stop;
done_testing();
