# Eight clients execute commands with a few ids, often the same ones at once, and again and again as clients do that do not know what became of the first try.  Handlers fail at
# random, execute other commands, and the server is killed under them.  If an id has more or less than one effect (a row, an event), or if anybody was told a result that
# another one was told differently, a retry is not safe.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $ids = 600;
my $node = new_server('commands', 'cqrs.buffer_size = 8kB');

$node->safe_psql('postgres', q{
	CREATE TABLE done (id text, number bigint GENERATED ALWAYS AS IDENTITY);
	CREATE TABLE told (id integer, number bigint);
	CREATE TABLE failures (id integer);
	CREATE FUNCTION handle(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	DECLARE
		my_number bigint;
	BEGIN
		INSERT INTO done (id) VALUES (payload ->> 'id') RETURNING number INTO my_number;
		PERFORM cqrs.emit('Done', 'thing', payload ->> 'id', jsonb_build_object('number', my_number), 0);
		IF random() < 0.2 THEN
			RAISE EXCEPTION 'not today';
		END IF;
		PERFORM pg_sleep(0.002 * random());
		IF payload ? 'inner' THEN
			PERFORM cqrs.execute('handle', jsonb_build_object('id', payload -> 'inner'), payload ->> 'inner');
		END IF;
		RETURN to_jsonb(my_number);
	END $$;
	SELECT cqrs.create_command('handle', 'handle(jsonb)');
	CREATE FUNCTION act(id integer) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		RETURN cqrs.execute('handle', jsonb_build_object('id', id::text) || CASE WHEN id % 3 = 0 THEN jsonb_build_object('inner', 'inner ' || id / 6) ELSE '{}' END,
			id::text) ->> 'result';
	EXCEPTION WHEN raise_exception THEN
		RETURN -1;
	END $$;});

my $script = PostgreSQL::Test::Utils::tempdir() . '/act.sql';
append_to_file($script, "\\set id random(1, $ids)\nSELECT act(:id) AS number \\gset\n"
	  . "INSERT INTO told SELECT :id, :number WHERE :number > 0;\nINSERT INTO failures SELECT :id WHERE :number < 0;\n");

# Every command that is recorded was done once, with one event; nothing was done that is not recorded; and whoever was told a result was told that one.
sub commands_right
{
	my ($when) = @_;

	is($node->safe_psql('postgres', q{
		WITH done AS (SELECT id, number FROM done),
		     executed AS (SELECT id, result::text::bigint AS number FROM cqrs.commands),
		     emitted AS (SELECT aggregate_id AS id, (payload ->> 'number')::bigint AS number FROM cqrs.outbox WHERE event_type = 'Done')
		SELECT (SELECT count(*) FROM ((TABLE done EXCEPT ALL TABLE executed) UNION ALL (TABLE executed EXCEPT ALL TABLE done)) d),
		       (SELECT count(*) FROM ((TABLE done EXCEPT ALL TABLE emitted) UNION ALL (TABLE emitted EXCEPT ALL TABLE done)) d)}),
		'0|0', "each command has one effect $when");
	is($node->safe_psql('postgres', q{
		SELECT count(*) FROM told t LEFT JOIN cqrs.commands c ON c.id = t.id::text WHERE c.result IS DISTINCT FROM to_jsonb(t.number)}),
		0, "everybody was told what came of it $when");
	return;
}

foreach my $round (1 .. 3)
{
	my $reached = 50 + $node->safe_psql('postgres', 'SELECT count(*) FROM told');
	my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '8', '-j', '2', '-T', '60', '-R', '400', '-f', $script, $node->connstr('postgres') ],
		'>', '/dev/null', '2>', '/dev/null');

	until_true($node, "SELECT count(*) > $reached FROM told");
	sleep(rand(0.6));
	my $pid = $node->{_pid};
	$node->kill9;
	sleep(0.05) while kill(0, $pid);
	$load->finish;
	$node->start;
	commands_right("after crash $round");
}
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM failures'), '>', 0, 'some failed');

# Each client goes on until it knows.
$node->safe_psql('postgres', qq{
	DO \$\$
	BEGIN
		FOR i IN 1..$ids LOOP
			WHILE act(i) < 0 LOOP
			END LOOP;
			COMMIT;
		END LOOP;
	END \$\$});
commands_right('at the end');
cmp_ok($node->safe_psql('postgres', 'SELECT sum(replayed) FROM cqrs.commands'), '>', 0, 'some were asked for again that had been executed');
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT id) FROM done WHERE id !~ 'inner'}), "$ids|$ids", 'all are done once');
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT id) FROM done WHERE id ~ 'inner'}),
	join('|', ($ids / 6 + 1) x 2), 'so are those within others');

# A worker forgets what is old.
$node->safe_psql('postgres', q{ALTER SYSTEM SET cqrs.command_retention = 0});
$node->safe_psql('postgres', q{ALTER SYSTEM SET cqrs.naptime = '100ms'});
$node->reload;
ok(defined until_true($node, 'SELECT NOT EXISTS (TABLE cqrs.commands) AND NOT EXISTS (TABLE cqrs_internal.command_replay)'), 'what is old is forgotten');
$node->stop;
done_testing();
