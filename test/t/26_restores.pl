# Dumps are restored beside a worker that never rests, in every way that pg_dump and pg_restore know, and statement by statement, so that the worker has looked at
# each state there is in between.  If it acted on the first rows of the catalog, or made a trigger that it misses, the restore would fail at what it is to make
# itself; if it let go of a segment before it knows who needs it, events would be lost; if it never began again, read models would stay as they were.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('restores', q{cqrs.naptime = '5ms'}, q{cqrs.retention = 0}, q{cqrs.segment_size = '64kB'}, q{cqrs.buffer_size = '8kB'},
	q{cqrs.retry_initial = '20ms'});
my $folder = PostgreSQL::Test::Utils::tempdir();
my %queries = (
	pages => 'SELECT s.id, s.n, a.n AS m FROM app.stock s LEFT JOIN stock a ON a.id = s.id',
	days => 'SELECT day, count(*) AS times FROM part GROUP BY day',
	late => 'SELECT id, n FROM app.stock',);

# Captured tables in schemas that are restored before and after the catalog; read models that serve, one that another reads, two made of events.
$node->safe_psql('postgres', qq{
	CREATE SCHEMA app;
	CREATE TABLE app.stock (id integer PRIMARY KEY, n integer);
	CREATE TABLE stock (id integer PRIMARY KEY, n integer);
	CREATE TABLE part (id integer PRIMARY KEY, day integer) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
	INSERT INTO app.stock SELECT i, i FROM generate_series(1, 50) i;
	INSERT INTO stock VALUES (1, 0), (2, 0);
	INSERT INTO part SELECT i, i % 7 FROM generate_series(1, 90) i;
	SELECT cqrs.capture('stock');
	CREATE FUNCTION taste(n text) RETURNS text LANGUAGE plpgsql AS \$\$ BEGIN IF n = 'bad' THEN RAISE 'poison'; END IF; RETURN n; END \$\$;
	SELECT cqrs.create_projection('trails', columns => 'id text PRIMARY KEY, trail text', handlers => jsonb_build_object('Went',
		\$h\$ INSERT INTO trails AS t SELECT aggregate_id, public.taste(payload->>'n') FROM event
			ON CONFLICT (id) DO UPDATE SET trail = t.trail || ' ' || excluded.trail \$h\$));
	SELECT cqrs.create_projection('journal', columns => 'id text PRIMARY KEY, n integer, changes integer', seed => 'SELECT id::text, n, 0 FROM public.stock',
		handlers => jsonb_build_object('public.stock', \$h\$ UPDATE journal SET n = (new_row->>'n')::int, changes = changes + 1 FROM event WHERE id = aggregate_id \$h\$));
	SELECT cqrs.create_projection('pages', '$queries{pages}', key => '{id}', indexes => ARRAY['(n)']);
	SELECT cqrs.create_projection('days', '$queries{days}');
	SELECT cqrs.create_projection('upper', 'SELECT p.n, count(*) AS times FROM pages p JOIN days d ON d.day = p.n % 7 GROUP BY p.n')});
ok(caught_up($node, $_), "$_ serves") foreach qw(trails journal pages days upper);

# One more walk of each, and a change of each row.
sub went
{
	$node->safe_psql('postgres', qq{SELECT cqrs.emit('Went', 'walker', 'a', '{"n": "$_"}'), cqrs.emit('Went', 'walker', 'b', '{"n": "$_"}'); UPDATE stock SET n = n + 1}) foreach @_;
	return;
}

went(1, 2);
$node->safe_psql('postgres', q{SELECT cqrs.emit('Went', 'walker', 'b', '{"n": "bad"}')});
ok(caught_up($node, $_), "$_ is applied") foreach qw(trails journal);

# Pending when it is dumped are events and changes of rows, and versions that nobody has begun to build, one of them from all events.
$node->safe_psql('postgres', q{ALTER DATABASE postgres SET cqrs.max_workers = 0; SELECT pg_terminate_backend(pid, 10000) FROM cqrs.workers WHERE role = 'worker' AND datname = 'postgres'});
until_true($node, q{SELECT count(*) = 0 FROM cqrs.workers WHERE role = 'worker' AND datname = 'postgres'});
went(3);
$node->safe_psql('postgres', qq{UPDATE app.stock SET n = n + 1 WHERE id < 9;
	SELECT cqrs.create_projection('late', '$queries{late}');
	SELECT cqrs.create_projection('replayed', columns => 'id text PRIMARY KEY, trail text', handlers => jsonb_build_object('Went',
		\$h\$ INSERT INTO replayed AS t SELECT aggregate_id, payload->>'n' FROM event
			ON CONFLICT (id) DO UPDATE SET trail = t.trail || ' ' || excluded.trail \$h\$));
	SELECT cqrs.rebuild('days')});
command_ok([ 'pg_dump', '-Fd', '-f', "$folder/dump", $node->connstr('postgres') ], 'the database is dumped');

# Makes a database to restore into, with a procedure that returns once the worker has looked around twice, if there is one yet.
sub make_copy
{
	my ($name) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, q{
		CREATE SCHEMA probe;
		CREATE PROCEDURE probe.look() LANGUAGE plpgsql SET search_path = pg_catalog AS $$
		DECLARE began timestamptz := clock_timestamp(); looked timestamptz := began; times integer := 0; idle timestamptz;
		BEGIN
			WHILE times < 2 AND EXISTS (SELECT FROM pg_extension WHERE extname = 'cqrs') LOOP
				PERFORM pg_sleep(0.002), pg_stat_clear_snapshot();
				SELECT state_change INTO idle FROM pg_stat_activity
					WHERE backend_type = 'cqrs worker' AND datname = current_database() AND state = 'idle' AND state_change > looked;
				IF FOUND THEN looked := idle; times := times + 1; END IF;
				IF clock_timestamp() > began + interval '1 min' THEN RAISE 'no worker looks around'; END IF;
			END LOOP;
		END $$});
	return;
}

# The script that restores what the options of pg_restore ask for; without 'quick' the worker looks around after each statement.
sub script
{
	my ($quick, @options) = @_;
	my ($out) = run_command([ 'pg_restore', @options, '-f', '-', "$folder/dump" ]);

	if (!$quick)
	{
		$out =~ s/;\n\n/;\nCALL probe.look();\n\n/g;
		$out =~ s/^\\\.$/\\.\nCALL probe.look();/mg;
	}
	return "$out\n";
}

# Runs scripts one after the other, each in a session of its own.
sub restore
{
	my ($name, $how, @scripts) = @_;

	foreach my $number (0 .. $#scripts)
	{
		PostgreSQL::Test::Utils::append_to_file("$folder/$name.$number", $scripts[$number]);
		command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$folder/$name.$number", $node->connstr($name) ], "restored $how, script $number");
	}
	return;
}

# All is there and goes on; %other says what differs from what a restore of all brings.
sub is_whole
{
	my ($name, $how, %other) = @_;

	ok(defined until_true($node, q{SELECT bool_and(status = 'running' AND state <> 'building') FROM cqrs.versions}, 60, $name), "every version runs, restored $how");
	is($node->safe_psql($name, q{SELECT string_agg(id || ': ' || trail, ', ' ORDER BY id) FROM trails}), 'a: 1 2 3, b: 1 2', 'each pending event was applied once');
	is($node->safe_psql($name, q{SELECT string_agg(id || ': ' || trail, ', ' ORDER BY id) FROM replayed}), 'a: 1 2 3, b: 1 2 bad 3', 'or all of them');
	is($node->safe_psql($name, q{SELECT string_agg((event).payload->>'n', ' ' ORDER BY id) FROM cqrs.dead_letters}), 'bad 3', 'unless they were parked');
	is($node->safe_psql($name, q{SELECT string_agg(n || ' ' || changes, ', ') FROM journal}), $other{journal} // '3 3, 3 3', 'and each row');
	$node->safe_psql($name, q{UPDATE stock SET n = n + 1; UPDATE app.stock SET n = n + 1; DELETE FROM part WHERE id = 7});
	ok(caught_up($node, $_, $name), "$_ catches up") foreach qw(journal pages days upper late);
	is_equal($node, $_, $queries{$_}, "$_ is right", $name) foreach sort keys %queries;
	is($node->safe_psql($name, q{SELECT string_agg(DISTINCT n::text, ', ') FROM journal}), 4, 'and goes on');
	is($node->safe_psql($name, q{SELECT count(*) FROM cqrs.verify('upper')}), 0, 'upper is right');
	is($node->safe_psql($name, q{SELECT count(*), count(*) FILTER (WHERE tgenabled = 'A') FROM pg_trigger WHERE tgname LIKE 'cqrs\_capture%'}), '6|6', 'all is captured');
	$node->safe_psql('postgres', "DROP DATABASE $name");
	return;
}

make_copy('whole');
restore('whole', 'statement by statement', script(1, '--section=pre-data') . script(0, '--section=data') . script(0, '--section=post-data'));
is_whole('whole', 'statement by statement');

make_copy('parts');
restore('parts', 'in sections', script(1, '--section=pre-data'), script(1, '--section=data'), "CALL probe.look();\n", script(0, '--section=post-data'));
is_whole('parts', 'in sections');

# Data alone: triggers are disabled meanwhile, and fire only for what is not replicated afterwards.
make_copy('data');
restore('data', 'the schema first', script(1, '--schema-only'), "CALL probe.look();\n", script(1, '--data-only', '--disable-triggers'));
is_whole('data', 'the schema first', journal => '3 0, 3 0');

# Triggers that never come, and others that come disabled.
make_copy('bare');
my $bare = script(1);
is($bare =~ s/^CREATE TRIGGER cqrs_capture\S* [^;]* ON app\.stock [^;]*;\s+ALTER TABLE app\.stock [^;]*;\n//mg, 2, 'two triggers are left out');
is($bare =~ s/^(ALTER TABLE public\.part_1) ENABLE ALWAYS( TRIGGER cqrs_capture_\d+);/$1 DISABLE$2;/mg, 1, 'one is disabled');
restore('bare', 'without some triggers', $bare);
# As long as a session lasts that restores, workers say that they wait for it; it may say itself that it is done.
my $session = $node->background_psql('bare');
my $says = q{EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'cqrs worker' AND datname = 'bare' AND query LIKE '%restores')};
$session->query_safe('INSERT INTO cqrs_internal.segment SELECT * FROM cqrs_internal.segment WHERE false');
ok(defined until_true($node, "SELECT $says", 30), 'a worker waits for a session that restores');
$node->safe_psql('bare', 'DELETE FROM app.stock WHERE id = 8');
is($node->safe_psql('bare', 'SELECT count(*) FROM pages WHERE id = 8'), 1, 'and does nothing meanwhile');
$session->query_safe('DISCARD ALL');
ok(defined until_true($node, "SELECT NOT $says", 30), 'then it goes on');
$session->quit;
is_whole('bare', 'without some triggers');

$node->safe_psql('postgres', 'CREATE DATABASE parallel');
command_ok([ 'pg_restore', '-e', '-j4', '-d', $node->connstr('parallel'), "$folder/dump" ], 'restored in parallel');
is_whole('parallel', 'in parallel');

# Who waits in the session that has restored does so for no longer than it takes.
$node->safe_psql('postgres', 'CREATE DATABASE waiting');
restore('waiting', 'and waited for', script(1) . "\nSELECT 1 / cqrs.wait_until_serving('public.late', '1 min')::integer;\n");
is_whole('waiting', 'and waited for');
$node->stop;
done_testing();
