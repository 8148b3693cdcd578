# Partitions and children come, go, are emptied and lose their triggers while many sessions write through the root and to parts of it, and a worker follows.  If a table joined or left unseen,
# or a batch read the tree of one moment at the snapshot of another, a read model would differ from its query, for ever or in between.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_server('trees', q{cqrs.naptime = '2s'});
my $seed = $ENV{SEED} // int(rand(1_000_000));
my $seconds = $ENV{SECONDS} // 8;
my %queries = (
	parts => 'SELECT p.id, p.v, k.name FROM part p LEFT JOIN kind k ON k.id = p.kind',
	kinds => 'SELECT k.id, k.name, p.id AS part FROM kind k LEFT JOIN part p ON p.kind = k.id',
	totals => 'SELECT kind, count(*) AS parts, sum(v) AS total FROM part GROUP BY kind',
	leaf => 'SELECT id, v FROM part_1',
	beasts => 'SELECT name, count(*) AS beasts, max(v) AS best FROM beast GROUP BY name',
	alone => 'SELECT id, name, v FROM ONLY beast');
my %keys = (parts => q{ARRAY['id']}, kinds => q{ARRAY['id', 'part']}, leaf => q{ARRAY['id']}, alone => q{ARRAY['id']});

note("SEED=$seed SECONDS=$seconds");
srand($seed);
$node->safe_psql('postgres', q{
	CREATE TABLE kind (id integer PRIMARY KEY, name text);
	INSERT INTO kind SELECT i, 'kind ' || i FROM generate_series(0, 9) i;
	CREATE TABLE part (id integer PRIMARY KEY, kind integer, v integer, note text) PARTITION BY RANGE (id);
	CREATE TABLE part_0 PARTITION OF part FOR VALUES FROM (0) TO (100);
	CREATE TABLE part_1 (note text, v integer, kind integer, id integer NOT NULL);
	ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES FROM (100) TO (200);
	CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (200) TO (400) PARTITION BY RANGE (id);
	CREATE TABLE part_2a PARTITION OF part_2 FOR VALUES FROM (200) TO (300);
	CREATE TABLE part_2b PARTITION OF part_2 FOR VALUES FROM (300) TO (400);
	INSERT INTO part SELECT i, i % 10, i FROM generate_series(0, 399, 3) i;
	CREATE TABLE beast (id integer, name text, v integer);
	CREATE TABLE bird (wings integer, v integer, name text, id integer);
	ALTER TABLE bird INHERIT beast;
	INSERT INTO bird SELECT i % 3, i, 'bird ' || i % 5, i FROM generate_series(1, 50) i;
	CREATE SEQUENCE numbers;
	-- One change, wherever it may go just now.
	CREATE FUNCTION change(what integer, a integer, b integer) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		CASE what % 9
			WHEN 0, 1 THEN INSERT INTO part VALUES (a, b % 10, b) ON CONFLICT (id) DO UPDATE SET v = excluded.v, kind = excluded.kind;
			WHEN 2 THEN UPDATE part SET id = b WHERE id = a;
			WHEN 3 THEN UPDATE part SET v = v + 1, kind = (kind + 1) % 10 WHERE id BETWEEN a AND a + 20;
			WHEN 4 THEN DELETE FROM part WHERE id = a;
			WHEN 5 THEN UPDATE part_1 SET v = b WHERE id = a;
			WHEN 6 THEN UPDATE kind SET name = 'kind ' || b WHERE id = a % 10;
			WHEN 7 THEN INSERT INTO beast VALUES (nextval('numbers'), 'beast ' || a % 5, b);
			ELSE UPDATE beast SET v = b, name = 'bird ' || b % 5 WHERE id % 50 = a % 50;
		END CASE;
	EXCEPTION WHEN check_violation OR unique_violation OR undefined_table OR deadlock_detected THEN
	END $$});
foreach my $name (sort keys %queries)
{
	my $key = $keys{$name} // 'NULL';

	$node->safe_psql('postgres', "SELECT cqrs.create_projection('$name', '$queries{$name}', $key)");
}
ok(caught_up($node, $_), "$_ is built") foreach sort keys %queries;

# DDL, a statement a line; each may lose against the writers.
my @ddl = (
	q{ALTER TABLE part DETACH PARTITION part_0},
	q{ALTER TABLE part DETACH PARTITION part_0 CONCURRENTLY},
	q{ALTER TABLE part DETACH PARTITION part_0 FINALIZE},
	(q{ALTER TABLE part ATTACH PARTITION part_0 FOR VALUES FROM (0) TO (100)}) x 2,
	q{ALTER TABLE part DETACH PARTITION part_2},
	(q{ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (200) TO (400)}) x 2,
	q{ALTER TABLE part_2 DETACH PARTITION part_2b CONCURRENTLY},
	q{ALTER TABLE part_2 DETACH PARTITION part_2b FINALIZE},
	(q{ALTER TABLE part_2 ATTACH PARTITION part_2b FOR VALUES FROM (300) TO (400)}) x 2,
	q{UPDATE part_0 SET v = -v; INSERT INTO part_2b (id, kind, v) VALUES (399, 1, 1) ON CONFLICT DO NOTHING},
	q{BEGIN; CREATE TABLE part_4 PARTITION OF part FOR VALUES FROM (400) TO (500); INSERT INTO part VALUES (400, 1, 1), (401, 2, 2); COMMIT},
	q{DROP TABLE part_4},
	q{BEGIN; DROP TABLE part_4; ROLLBACK},
	q{TRUNCATE part_1}, q{TRUNCATE part_2a},
	q{ALTER TABLE part_1 DISABLE TRIGGER USER; UPDATE part_1 SET v = 0 WHERE id % 2 = 0},
	q{BEGIN; ALTER TABLE part_2a DISABLE TRIGGER ALL; DELETE FROM part_2a WHERE id % 3 = 0; ALTER TABLE part_2a ENABLE TRIGGER ALL; COMMIT},
	q{ALTER TABLE part ADD COLUMN more integer DEFAULT 5}, q{ALTER TABLE part DROP COLUMN more},
	q{ALTER TABLE part ALTER COLUMN note TYPE varchar}, q{ALTER TABLE part ALTER COLUMN note TYPE text},
	q{BEGIN; CREATE TABLE fish (fins integer) INHERITS (beast); INSERT INTO fish VALUES (1, 'fish', 1, 2); COMMIT},
	q{DROP TABLE fish},
	q{ALTER TABLE bird NO INHERIT beast}, q{UPDATE bird SET v = v + 1 WHERE id < 10}, (q{ALTER TABLE bird INHERIT beast}) x 2,
	q{WITH gone AS (DELETE FROM ONLY beast WHERE id % 4 = 0 RETURNING *) INSERT INTO bird (id, name, v) SELECT * FROM gone});

my $folder = PostgreSQL::Test::Utils::tempdir();
PostgreSQL::Test::Utils::append_to_file("$folder/write", '\set what random(0, 8)
\set a random(0, 420)
\set b random(0, 420)
SELECT change(:what, :a, :b);
');
my $output = '';
my $storm = IPC::Run::start([ 'pgbench', '-n', '-c', 6, '-j', 1, '-T', $seconds, '--max-tries=20', '-R', 300, '-f', "$folder/write", $node->connstr('postgres') ],
	'>', \$output, '2>&1', IPC::Run::timeout($seconds + 120));
my $began = time();
my (%found, %done);

while (time() - $began < $seconds - 1)
{
	my $ddl = $ddl[ rand @ddl ];
	my ($status, undef, $error) = $node->psql('postgres', "SET lock_timeout = '1s';\n" . join("\n", map { "$_;" } split(/;\s*/, $ddl)), on_error_stop => 1);

	$done{$ddl}++ if $status == 0;
	# It may find a tree that it cannot change so, or writers in the way, but nothing of ours.
	my @strange = grep { /ERROR/ && /cache lookup|could not open|could not find|tuple concurrently|unexpected|cqrs|captur|projection|source/ } split(/\n/, $error);

	$found{"$ddl: $_"}++ foreach @strange;
	if (rand() < 0.1)
	{
		my (undef, undef, $passing) = $node->psql('postgres', q{
			SET cqrs.lock_timeout = '2s';
			SELECT cqrs.create_projection('passing', 'SELECT kind, count(*) AS parts FROM part GROUP BY kind');
			SELECT cqrs.drain('passing');
			SELECT 1 / count(*) FROM (VALUES (1)) v WHERE NOT EXISTS (SELECT FROM cqrs.verify('passing'));
			SELECT cqrs.drop_projection('passing')});

		$found{"create, drain, verify, drop: $_"}++
		  foreach grep { /ERROR/ && !/joined what projection|could not lock|could not attach|deadlock detected|held by another process/ } split(/\n/, $passing);
	}
	next if rand() < 0.6;
	my $name = (sort keys %queries)[ rand keys %queries ];
	my ($failed, $answer, $why) = $node->psql('postgres', "SELECT * FROM cqrs.verify('$name') LIMIT 3");
	$found{"$name: $answer $why"}++ if $answer ne '' || ($failed != 0 && $why !~ /joined what projection|could not lock|deadlock detected|held by another process/);
}
is(join("\n", map { "$_ ($found{$_} times)" } sort keys %found), '', 'read models equal their queries while their trees change');
ok(IPC::Run::finish($storm), 'writers are not hindered') || diag($output);
cmp_ok(scalar keys %done, '>', 12, scalar(keys %done) . ' kinds of DDL were done');

# Whatever is left of it.
$node->psql('postgres', "ALTER TABLE part DETACH PARTITION part_0 FINALIZE; ALTER TABLE part_2 DETACH PARTITION part_2b FINALIZE");
foreach my $name (sort keys %queries)
{
	ok(caught_up($node, $name), "$name catches up");
	is_equal($node, $name, $queries{$name}, "$name equals its query");
}
$node->safe_psql('postgres', 'SELECT change(i % 9, i * 7 % 420, i * 13 % 420) FROM generate_series(1, 200) i');
foreach my $name (sort keys %queries)
{
	ok(caught_up($node, $name), "$name catches up again");
	is_equal($node, $name, $queries{$name}, "$name equals its query again");
}
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|was terminated by signal/, 'nothing crashed');
$node->stop;
done_testing();
