# A dump is restored: into another database of the same cluster, over and over, with changes pending in it.  Checkpoints and chunks then speak of another database's transactions: a
# version that trusted them would skip changes or apply strangers'.  It must be stale, evaluate its query once, and be right.  Columns have other numbers in
# the copy than where others were dropped before them.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

# A copy that nobody writes to is found by the next look around.
my $node = new_server('dump', q{cqrs.naptime = '2s'}, q{cqrs.segment_size = '64kB'});
my $pages = 'SELECT s.id, s.amount, o.name FROM shop.sale s LEFT JOIN shop.office o ON o.id = s.office';
my $visits = 'SELECT day, count(*) AS visits, min(page) AS first FROM shop.visit GROUP BY day';
my $totals = 'SELECT office, count(*) AS sales, sum(amount) AS total FROM shop.sale GROUP BY office';
# Two of them are read by another.
my $above = 'SELECT p.name, count(*) AS pages, sum(t.sales) AS sales FROM %s p JOIN %s t ON t.total > p.amount GROUP BY p.name';
my $stacked = sprintf($above, 'shop.pages', 'shop."Totals"');

sub equal_in
{
	my ($database, $when) = @_;

	foreach my $view ([ 'shop.pages', $pages ], [ 'shop."Totals"', $totals ], [ 'shop.visits', $visits ],
		[ 'shop.stacked', sprintf($above, "($pages)", "($totals)") ])
	{
		ok(caught_up($node, $view->[0], $database), "$view->[0] catches up $when");
		is_equal($node, @$view, "$view->[0] is right $when", $database);
	}
	return;
}

$node->safe_psql('postgres', qq{
	CREATE SCHEMA shop;
	CREATE ROLE reader;
	CREATE TABLE shop.office (id integer PRIMARY KEY, name text);
	CREATE TABLE shop.sale (scrap text, id integer PRIMARY KEY, more text, office integer REFERENCES shop.office, amount integer);
	ALTER TABLE shop.sale DROP COLUMN scrap, DROP COLUMN more;
	INSERT INTO shop.office SELECT i, 'office ' || i FROM generate_series(1, 5) i;
	INSERT INTO shop.sale SELECT i, 1 + i % 5, i FROM generate_series(1, 200) i;
	SELECT cqrs.create_projection('shop.pages', '$pages', key => ARRAY['id'], indexes => ARRAY['(name)'], row_filter => 'id > 0', max_lag => '1 min', description => 'dumped');
	SELECT cqrs.create_projection('shop."Totals"', '$totals');
	SELECT cqrs.create_projection('shop.stacked', '$stacked');
	CREATE TABLE shop.visit (id integer PRIMARY KEY, day integer, page text) PARTITION BY RANGE (id);
	CREATE TABLE shop.visit_1 PARTITION OF shop.visit FOR VALUES FROM (0) TO (100);
	CREATE TABLE shop.visit_2 (page text, id integer NOT NULL, day integer);
	ALTER TABLE shop.visit ATTACH PARTITION shop.visit_2 FOR VALUES FROM (100) TO (200);
	INSERT INTO shop.visit SELECT i, i % 7, 'page ' || i FROM generate_series(1, 99) i;
	SELECT cqrs.create_projection('shop.visits', '$visits');
	GRANT SELECT ON shop.pages TO reader;
	COMMENT ON VIEW shop.pages IS 'a comment';
	SELECT cqrs.emit('Dumped', 'aggregate', '1'), cqrs.emit('Dumped', 'aggregate', '1'), cqrs.emit('Dumped', 'aggregate', '2');});
equal_in('postgres', 'at first');

# With changes pending, and written to by the copy's own transactions before anybody looks.
$node->safe_psql('postgres', q{SELECT cqrs.pause('shop.pages'); UPDATE shop.sale SET amount = amount + 1000 WHERE id <= 50; DELETE FROM shop.office WHERE id = 9;
	SELECT cqrs.pause('shop.visits'); UPDATE shop.visit SET id = id + 100, page = 'moved' WHERE id % 3 = 0});
# And in several segments, most of them kept by retention alone, one that waits for its turn.
$node->safe_psql('postgres', q{SELECT cqrs.capture('shop.sale')});
$node->safe_psql('postgres', 'UPDATE shop.sale SET amount = amount + 1') foreach 1 .. 30;
ok(until_true($node, 'SELECT count(*) > 4 FROM cqrs.segments'), 'the outbox lies in several segments');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET cqrs.max_workers = 0');
until_true($node, q{SELECT count(*) = 0 FROM cqrs.workers WHERE role = 'worker' AND datname = 'postgres'});
$node->safe_psql('postgres', q{SET cqrs.retention = 0; DO $$ BEGIN FOR i IN 1..3 LOOP PERFORM cqrs.drain('shop."Totals"'); COMMIT; END LOOP; END $$});
$node->safe_psql('postgres', 'UPDATE shop.sale SET amount = amount + 1') foreach 1 .. 10;
my $outbox = $node->safe_psql('postgres', 'SELECT count(*), sum(position), sum(length(old_row::text)) FROM cqrs.outbox');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'the database is dumped');
$node->safe_psql('postgres', q{SELECT cqrs.resume('shop.pages'), cqrs.resume('shop.visits')});
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET cqrs.max_workers');

foreach my $copy ('copy_one', 'copy_two')
{
	$node->safe_psql('postgres', "CREATE DATABASE $copy");
	# The second is restored with no worker beside it, then changed, then looked at.
	$node->safe_psql('postgres', "ALTER DATABASE $copy SET cqrs.max_workers = 0") if $copy eq 'copy_two';
	command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr($copy) ], "$copy is restored without an error");
	is($node->safe_psql($copy, q{SELECT count(*) FROM cqrs.projections}), 4, "$copy has the projections");
	is($node->safe_psql($copy, q{SELECT max_lag || ' ' || description FROM cqrs.projections WHERE projection = 'shop.pages'::regclass}), '00:01:00 dumped', 'with what they are');
	is($node->safe_psql($copy, q{SELECT status || ' ' || state FROM cqrs.versions WHERE projection = 'shop.pages'::regclass}), 'paused serving', 'a paused one is paused still');
	$node->safe_psql($copy, q{INSERT INTO shop.sale SELECT i, 1, 5 FROM generate_series(1000, 1050) i; UPDATE shop.office SET name = 'moved' WHERE id = 2; DELETE FROM shop.sale WHERE id BETWEEN 60 AND 80;
		CREATE TABLE shop.visit_3 PARTITION OF shop.visit DEFAULT; UPDATE shop.visit SET id = id + 300 WHERE id % 4 = 0; DELETE FROM shop.visit_2 WHERE id < 110});
	is($node->safe_psql($copy, q{SELECT cqrs.emit('Copied', 'aggregate', '1', expected_version => 2)}), 3, 'an aggregate goes on from its version');
	is($node->safe_psql($copy, q{SELECT cqrs.erase('aggregate', '1', 'in the copy')}), 3, 'events that were restored can be erased');
	is($node->safe_psql($copy, q{SELECT count(*) FROM cqrs.outbox WHERE aggregate_type = 'aggregate'}), 1, 'and others stay');
	if ($copy eq 'copy_two')
	{
		is($node->safe_psql($copy, 'SELECT count(*), sum(position), sum(length(old_row::text)) FROM cqrs.outbox WHERE position <= (SELECT max(last_position) FROM cqrs.segments WHERE NOT held_by @> ARRAY[\'active\'])'), $outbox, 'what was in the outbox can be read');
		is($node->safe_psql($copy, q{SELECT count(*) FROM cqrs.segments WHERE held_by @> ARRAY['active']}), 1, 'changes of the copy go to a segment of its own');
		is($node->safe_psql($copy, q{SELECT status FROM cqrs.versions WHERE projection = 'shop."Totals"'::regclass}), 'stale', 'a version that finds itself elsewhere is stale');
		is($node->safe_psql($copy, q{SELECT pending IS NULL OR health IN ('stale', 'no worker') FROM cqrs.lag WHERE projection = 'shop."Totals"'::regclass}), 't', 'and does not say that nothing is pending');
		$node->safe_psql('postgres', "ALTER DATABASE $copy RESET cqrs.max_workers");
	}
	$node->safe_psql($copy, q{SELECT cqrs.resume('shop.pages'), cqrs.resume('shop.visits')});
	equal_in($copy, "in $copy");
	is($node->safe_psql($copy, q{SELECT string_agg(DISTINCT status, ' ') FROM cqrs.versions}), 'running', 'and running again');
	is($node->safe_psql($copy, q{SELECT count(*) FROM cqrs.segments WHERE held_by::text LIKE '%version%'}), 0, 'restored segments hold nothing of any version');
	$node->safe_psql($copy, q{SET cqrs.retention = 0; DO $$ BEGIN FOR i IN 1..3 LOOP PERFORM cqrs.drain(); COMMIT; PERFORM pg_sleep(0.1); END LOOP; END $$});
	is($node->safe_psql($copy, q{SELECT count(*) FROM cqrs.segments}), 1, 'and are freed when retention lets go of them');
	is($node->safe_psql($copy, q{SELECT count(*) FROM pg_stat_user_indexes WHERE schemaname LIKE 'cqrs\_pages%'}), 2, 'its indexes are there');
	is($node->safe_psql($copy, q{SELECT has_table_privilege('reader', 'shop.pages', 'SELECT') AND obj_description('shop.pages'::regclass) = 'a comment'}), 't', 'grants and comments, too');
	$node->safe_psql($copy, q{UPDATE shop.sale SET office = 6 - office WHERE id % 3 = 0; INSERT INTO shop.sale VALUES (2000, 3, 1);
		UPDATE shop.visit SET day = 1 WHERE id % 5 = 0; ALTER TABLE shop.visit DETACH PARTITION shop.visit_3});
	equal_in($copy, "in $copy, after more changes");
	is($node->safe_psql($copy, q{SELECT watched @> '{id,office,amount}' AND imaged @> '{id,office}' FROM cqrs.sources WHERE source = 'shop.sale'::regclass}), 't',
		'what is captured goes by the columns as they are numbered now');
	is($node->safe_psql($copy, q{SELECT reloptions, row_filter FROM pg_class JOIN cqrs.projections ON projection = oid WHERE oid = 'shop.pages'::regclass}), '{security_barrier=true}|id > 0', 'its row filter, too');
	$node->safe_psql($copy, q{SELECT cqrs.alter_projection('shop.pages', row_filter => 'id > 1')});
	is($node->safe_psql($copy, q{SELECT min(id) FROM shop.pages}), 2, 'which can be changed');
	my (undef, undef, $error) = $node->psql($copy, 'DELETE FROM shop.pages');
	like($error, qr/is derived/, 'and guarded');
	$node->safe_psql($copy, q{SELECT cqrs.drop_projection('shop.stacked')});
	(undef, undef, $error) = $node->psql($copy, 'DROP VIEW shop.pages');
	like($error, qr/drop_projection/, 'as before');
	is($node->safe_psql($copy, q{SELECT cqrs.create_projection('shop.more', 'SELECT id FROM shop.office')}), 1, 'and new ones can be made: ids go on');
	ok(caught_up($node, 'shop.more', $copy), 'which are filled');
	$node->safe_psql($copy, q{SELECT cqrs.drop_projection('shop.pages'); SELECT cqrs.drop_projection('shop.more')});
}
equal_in('postgres', 'in the original still');

# A dump of a copy, as an archive, restored in parallel.
my $archive = PostgreSQL::Test::Utils::tempdir() . '/dump';
command_ok([ 'pg_dump', '-Fd', '-j2', '-f', $archive, $node->connstr('postgres') ], 'dumped as an archive');
$node->safe_psql('postgres', 'CREATE DATABASE copy_three');
command_ok([ 'pg_restore', '-j2', '-d', $node->connstr('copy_three'), $archive ], 'restored in parallel');
equal_in('copy_three', 'in a parallel copy');

# With triggers disabled, as restores of data alone do it, and by hand.
$node->safe_psql('copy_three', q{ALTER TABLE shop.sale DISABLE TRIGGER ALL; UPDATE shop.sale SET amount = 3 WHERE id = 5; ALTER TABLE shop.sale ENABLE TRIGGER ALL});
$node->safe_psql('copy_three', q{UPDATE shop.sale SET amount = 4 WHERE id = 6});
equal_in('copy_three', 'after its triggers were disabled for a while');
is($node->safe_psql('copy_three', q{SELECT string_agg(DISTINCT status, ' ') FROM cqrs.versions}), 'running', 'and is trusted again');
is($node->safe_psql('copy_three', q{SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'shop.sale'::regclass AND tgenabled = 'A'}), 2, 'with its triggers as they were');
my $id = $node->safe_psql('copy_three', q{SELECT id FROM cqrs_internal.source WHERE relation = 'shop.sale'::regclass});
$node->safe_psql('copy_three', qq{ALTER TABLE shop.sale DISABLE TRIGGER cqrs_capture_$id; UPDATE shop.sale SET amount = 5 WHERE id = 5});
ok(!caught_up($node, 'shop.pages', 'copy_three') || differences($node, 'shop.pages', $pages, 'copy_three') == 0, 'nobody is told that all is shown when it is not');
equal_in('copy_three', 'after one was disabled');

# A template: the copy has the same OIDs, and another database's.
$node->safe_psql('postgres', 'CREATE DATABASE copy_four TEMPLATE copy_three');
ok(1, 'a database with a worker can be a template');
$node->safe_psql('copy_four', q{UPDATE shop.sale SET amount = amount * 2 WHERE id % 2 = 0; DELETE FROM shop.sale WHERE id = 7});
equal_in('copy_four', 'in a copy of files');
$node->safe_psql('copy_three', q{UPDATE shop.sale SET amount = amount * 3 WHERE id % 2 = 1});
equal_in('copy_three', 'in the one it was copied from');
$node->safe_psql('postgres', 'ALTER DATABASE copy_four RENAME TO copy_five');
$node->safe_psql('copy_five', q{UPDATE shop.sale SET amount = 1});
equal_in('copy_five', 'under another name');
$node->safe_psql('postgres', "DROP DATABASE $_") foreach qw(copy_one copy_two copy_three copy_five);
ok(1, 'databases with workers can be dropped');
equal_in('postgres', 'at the end');
$node->stop;
done_testing();
