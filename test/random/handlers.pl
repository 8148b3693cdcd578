# Random small histories of events, and a fold in SQL as the judge: handlers.pl [SECONDS [SEED]], or SECONDS and SEED in the environment.
#
# Events of a few aggregates and changes of a few rows, in transactions that roll back to savepoints, are prepared and end late, or are larger than the buffer; some
# are poison, until that is mended.  Batches, retries and discards come in between.  After each of them, each aggregate's trail must be its events in order, each once, up to the
# first that waits, without those discarded; and what waits must be the others, in order.  Versions made of one handler for each event, and of runs, must agree.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ARGV[0] // $ENV{SECONDS} // 20;
my $seed = $ARGV[1] // $ENV{SEED} // int(rand(1_000_000_000));
my $node = new_server('random_handlers', 'cqrs.max_workers = 0', q{cqrs.buffer_size = '8kB'}, q{cqrs.segment_size = '64kB'});
my $ends = time() + $seconds;
my $rounds = 0;

diag("seed $seed");
srand($seed);
$node->safe_psql('postgres', q{
	CREATE TABLE item (id integer PRIMARY KEY, n integer);
	SELECT cqrs.capture('item');
	CREATE TABLE mended (n integer);
	CREATE TABLE discarded (projection regclass, position bigint);
	CREATE SEQUENCE mark;
	CREATE FUNCTION taste(food integer) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
		IF food % 7 = 0 AND NOT EXISTS (SELECT FROM mended m WHERE m.n = food % 21) THEN RAISE 'poison %', food; END IF;
		RETURN food;
	END $$;
	CREATE FUNCTION go(n integer, type text, id text, times integer DEFAULT 1) RETURNS void LANGUAGE sql AS $$
		SELECT cqrs.emit((ARRAY['A', 'B', 'C'])[1 + (n + i) % 3], type, id, jsonb_build_object('n', n + i)) FROM generate_series(1, times) i $$;
	CREATE FUNCTION give_up(letter bigint) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO discarded SELECT projection, (event).position FROM cqrs.dead_letters WHERE cqrs.dead_letters.id = letter;
		PERFORM cqrs.discard(letter, 'at random');
	END $$;
	CREATE VIEW happened AS SELECT position, aggregate_type || ' ' || aggregate_id AS id, payload->>'n' AS n, event_type AS type FROM cqrs.outbox
		WHERE position >= (SELECT last_value FROM mark) AND kind = 'event'
		UNION ALL SELECT position, 'public.item ' || (coalesce(new_row, old_row)->>'id'), coalesce(new_row, old_row)->>'n', 'row' FROM cqrs.outbox
		WHERE position >= (SELECT last_value FROM mark) AND kind IN ('insert', 'update', 'delete')});

# Where the projections differ from the fold, and why.
my $wrong = q{
	WITH letter AS (SELECT projection, (event).position, (event).aggregate_type || ' ' || (event).aggregate_id AS id, l.id AS number FROM cqrs.dead_letters l),
		pending AS (SELECT projection, snapshot FROM cqrs.checkpoints),
		due AS (SELECT p.projection, e.* FROM pending p, happened e JOIN cqrs.outbox o USING (position) WHERE pg_visible_in_snapshot(o.xid, p.snapshot) AND e.type <> 'C'
			AND NOT EXISTS (SELECT FROM discarded d WHERE d.projection = p.projection AND d.position = e.position)),
		expected AS (SELECT projection, id, string_agg(n, ' ' ORDER BY position) AS trail FROM due d
			WHERE NOT EXISTS (SELECT FROM letter l WHERE l.projection = d.projection AND l.id = d.id AND l.position <= d.position) GROUP BY 1, 2),
		found AS (SELECT 'ones'::regclass AS projection, * FROM ones UNION ALL SELECT 'runs', * FROM runs)
	SELECT 'trail', projection, id, e.trail, f.trail FROM expected e FULL JOIN found f USING (projection, id) WHERE e.trail IS DISTINCT FROM f.trail
	UNION ALL SELECT 'waiting', projection, id, string_agg(d.n, ' ' ORDER BY d.position), (SELECT string_agg(l.position::text, ' ' ORDER BY number) FROM letter l WHERE l.projection = d.projection AND l.id = d.id)
		FROM due d WHERE EXISTS (SELECT FROM letter l WHERE l.projection = d.projection AND l.id = d.id AND l.position <= d.position) GROUP BY projection, id
		HAVING array_agg(d.position ORDER BY d.position) IS DISTINCT FROM (SELECT array_agg(l.position ORDER BY number) FROM letter l WHERE l.projection = d.projection AND l.id = d.id)
	LIMIT 5;};

# One of several.
sub any
{
	return $_[ int(rand(@_)) ];
}

# Statements of a transaction: 'p' in names keeps what is prepared from being waited for.
sub changes
{
	my ($p) = @_;
	my @sql;

	foreach (1 .. 1 + int(rand(4)))
	{
		my $n = int(rand(40));
		my $id = $p ? 10 + int(rand(2)) : int(rand(4));

		push @sql, any(
			"SELECT go($n, 't', '$p$id');", "SELECT go($n, 't', '$p$id', @{[ 1 + int(rand(4)) ]});", "SELECT go($n, 'u', '$p$id');",
			"SELECT go($n, 't', '$p$id', 60);",
			"INSERT INTO item VALUES ($id, $n) ON CONFLICT (id) DO UPDATE SET n = excluded.n;", "UPDATE item SET n = $n WHERE id = $id;",
			"DELETE FROM item WHERE id = $id;",
			"SAVEPOINT s; SELECT go($n, 't', '$p$id', 3); UPDATE item SET n = n + 1 WHERE id = $id; ROLLBACK TO s;",
			"SAVEPOINT s; SELECT go($n, 'u', '$p$id', 2); RELEASE s;");
	}
	return @sql;
}

while (time() < $ends)
{
	my @sql = ('SET client_min_messages = error; TRUNCATE mended, discarded; DELETE FROM item;',
		q{SELECT setval('mark', coalesce(max(position), 0) + 1) FROM cqrs.outbox;},
		map { my ($name, $handler) = @$_; qq{SELECT cqrs.create_projection('$name', columns => 'id text PRIMARY KEY, trail text', seed => 'SELECT NULL, NULL WHERE false',
			handlers => jsonb_build_object('A', \$h\$$handler\$h\$, 'B', \$h\$$handler\$h\$, 'public.item', \$h\$$handler\$h\$)); SELECT cqrs.drain('$name');} }
		  [ 'ones', q{INSERT INTO ones AS f SELECT aggregate_type || ' ' || aggregate_id, taste(coalesce(payload->>'n', new_row->>'n', old_row->>'n')::int) FROM event
				ON CONFLICT (id) DO UPDATE SET trail = f.trail || ' ' || excluded.trail} ],
		  [ 'runs', q{INSERT INTO runs AS f SELECT aggregate_type || ' ' || aggregate_id, string_agg(taste(coalesce(payload->>'n', new_row->>'n', old_row->>'n')::int), ' ' ORDER BY position)
				FROM events GROUP BY 1 ON CONFLICT (id) DO UPDATE SET trail = f.trail || ' ' || excluded.trail} ]);
	my $prepared = 0;

	foreach (1 .. 60)
	{
		my $what = rand();

		if ($what < 0.5)
		{
			push @sql, 'BEGIN;', changes(''), any('COMMIT;', 'COMMIT;', 'COMMIT;', 'ROLLBACK;');
		}
		elsif ($what < 0.6)
		{
			push @sql, any('COMMIT', 'ROLLBACK') . " PREPARED 'p';" if $prepared;
			push @sql, 'BEGIN;', changes('p'), "PREPARE TRANSACTION 'p';";
			$prepared = 1;
		}
		elsif ($what < 0.85)
		{
			push @sql, any(q{SELECT cqrs.drain('ones');}, q{SELECT cqrs.drain('runs');}, 'SELECT cqrs.drain();');
			push @sql, "\\echo checked\n$wrong";
		}
		else
		{
			push @sql, any('INSERT INTO mended VALUES (' . int(rand(3)) * 7 . ');',
				q{SELECT cqrs.retry_all('ones');}, q{SELECT cqrs.retry_all('runs');},
				'SELECT cqrs.retry(id) FROM cqrs.dead_letters WHERE behind IS NULL ORDER BY md5(id::text) LIMIT 1;',
				'SELECT give_up(id) FROM cqrs.dead_letters ORDER BY md5(id::text) LIMIT 1;');
			push @sql, $wrong;
		}
	}
	push @sql, "COMMIT PREPARED 'p';" if $prepared;
	push @sql, 'INSERT INTO mended VALUES (0), (7), (14);', q{SELECT cqrs.drain(); SELECT cqrs.retry_all('ones'); SELECT cqrs.retry_all('runs');}, $wrong,
	  q{SELECT 'left', count(*), min(error) FROM cqrs.dead_letters HAVING count(*) > 0;}, q{SELECT cqrs.drop_projection('ones'); SELECT cqrs.drop_projection('runs');};
	my ($status, $found, $errors) = $node->psql('postgres', join("\n", @sql), on_error_stop => 0);
	my @bad = grep { /^(?:trail|waiting|left)\|/ } split /\n/, $found;

	$rounds++;
	is("@bad $errors", ' ', "round $rounds of seed $seed") or last;
}
cmp_ok($rounds, '>', 0, 'there were rounds');
diag("$rounds rounds");
$node->stop;
done_testing();
