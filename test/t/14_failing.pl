# A projection fails: on a row that its query cannot bear, on a key that is not unique, on a right that was taken away, on a source that was dropped.  Commands must not
# notice, other projections go on, readers see the last good state and are told, and it heals by itself, or halts and says what a person must do.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = new_server('failing', 'cqrs.retry_initial = 100ms', 'cqrs.retry_max = 1s');
my $ratio = 'SELECT s.id, s.amount / s.pieces AS each FROM sale s';
my $shops = 'SELECT shop, count(*) AS sales, sum(amount) AS total FROM sale GROUP BY shop';

# One column of a version's row.
sub version
{
	my ($what, $view) = @_;

	return $node->safe_psql('postgres', "SELECT $what FROM cqrs.versions WHERE projection = '$view'::regclass");
}

$node->safe_psql('postgres', qq{
	CREATE TABLE sale (id integer PRIMARY KEY, shop text, amount integer, pieces integer);
	INSERT INTO sale SELECT i, 'shop ' || i % 3, i * 10, 1 + i % 4 FROM generate_series(1, 20) i;
	SELECT cqrs.create_projection('ratio', '$ratio');
	SELECT cqrs.create_projection('shops', '$shops');});
ok(caught_up($node, 'ratio') && caught_up($node, 'shops'), 'both serve');

# A row that the query cannot bear.
my $good = $node->safe_psql('postgres', 'SELECT id, each FROM ratio ORDER BY id');
my ($status, undef, $error) = $node->psql('postgres', q{UPDATE sale SET pieces = 0 WHERE id = 7; INSERT INTO sale VALUES (21, 'shop 0', 1, 1)});
is("$status $error", '0 ', 'the command that a projection cannot bear succeeds');
ok(caught_up($node, 'shops'), 'the other projection goes on');
is_equal($node, 'shops', $shops, 'and is right');
ok(defined until_true($node, q{SELECT status = 'failing' FROM cqrs.versions WHERE projection = 'ratio'::regclass}), 'it is failing');
like(version('error', 'ratio'), qr/division by zero.*\(id\)=\(7\)/, 'the error is shown, with the key');
is(version(q{retry_at IS NOT NULL AND retry_at < now() + '1 min'}, 'ratio'), 't', 'and when it is tried again');
is($node->safe_psql('postgres', 'SELECT id, each FROM ratio ORDER BY id'), $good, 'readers see the last good state');
is($node->safe_psql('postgres', q{SELECT health || ' ' || (pending > 0) || ' ' || (lag > '0') FROM cqrs.lag WHERE projection = 'ratio'::regclass}), 'failing true true', 'health says so');
foreach my $i (1 .. 20)
{
	$node->safe_psql('postgres', "UPDATE sale SET amount = amount + 1 WHERE id = $i");
}
ok(caught_up($node, 'shops'), 'commands and the other projection go on for long');
is(version('state', 'ratio'), 'serving', 'it goes on serving');
$node->safe_psql('postgres', 'UPDATE sale SET pieces = 2 WHERE id = 7');
ok(caught_up($node, 'ratio'), 'it heals by itself once the data is mended');
is_equal($node, 'ratio', $ratio, 'and is right');
is(version(q{status || ' ' || (error IS NULL) || ' ' || (retry_at IS NULL)}, 'ratio'), 'running true true', 'nothing of the failure is left');
like($node->safe_psql('postgres', q{SELECT string_agg(event, ' ' ORDER BY at) FROM cqrs.history WHERE projection LIKE '%ratio'}), qr/created .*failing recovered/, 'but in the history');
is($node->safe_psql('postgres', q{SELECT count(DISTINCT projection) FROM cqrs.history WHERE projection LIKE '%ratio'}), 1, 'which calls it by one name, whoever writes it');

# Long enough to grow the pauses: it is not tried all the time.
$node->safe_psql('postgres', 'UPDATE sale SET pieces = 0 WHERE id = 7');
ok(defined until_true($node, q{SELECT retry_at > now() + '500 ms' FROM cqrs.versions WHERE projection = 'ratio'::regclass}), 'pauses grow');
my $log_before = () = slurp_file($node->logfile) =~ /division by zero/g;
$node->safe_psql('postgres', "UPDATE sale SET amount = amount + 1 WHERE id = 1") foreach 1 .. 30;
my $log_after = () = slurp_file($node->logfile) =~ /division by zero/g;
cmp_ok($log_after - $log_before, '<', 10, 'commits do not have it tried before its time');
# drain raises it to whoever asks.
($status, undef, $error) = $node->psql('postgres', q{SELECT cqrs.drain('ratio')});
like($error, qr/division by zero/, 'drain raises it');
$node->safe_psql('postgres', 'UPDATE sale SET pieces = 3 WHERE id = 7');
$node->safe_psql('postgres', q{SELECT cqrs.drain('ratio')});		# which the worker may have been before
is_equal($node, 'ratio', $ratio, 'drain heals as the worker does');

# A key that stops being unique.
$node->safe_psql('postgres', q{CREATE TABLE person (name text, city text); INSERT INTO person VALUES ('ann', 'Rome'), ('bob', 'Oslo');
	SELECT cqrs.create_projection('people', 'SELECT name, city FROM person', key => ARRAY['name'])});
ok(caught_up($node, 'people'), 'a key that only the data makes unique');
$node->safe_psql('postgres', q{INSERT INTO person VALUES ('ann', 'Bonn'), ('carl', 'Pisa')});
ok(defined until_true($node, q{SELECT status = 'failing' FROM cqrs.versions WHERE projection = 'people'::regclass}), 'a key that is not unique any more fails');
like(version('error', 'people'), qr/not unique/, 'and says so');
$node->safe_psql('postgres', q{DELETE FROM person WHERE city = 'Rome'});
ok(caught_up($node, 'people'), 'it heals');
is_equal($node, 'people', 'SELECT name, city FROM person', 'and is right');

# One that is not unique at the fill: halted, named, and mended by a person.
$node->safe_psql('postgres', q{CREATE TABLE town (name text, land text); INSERT INTO town VALUES ('Graz', 'A'), ('Linz', 'A'), ('Graz', 'B');
	SELECT cqrs.create_projection('halted', 'SELECT name, land FROM town', key => ARRAY['name'])});
ok(defined until_true($node, q{SELECT status = 'halted' FROM cqrs.versions WHERE projection = 'halted'::regclass}), 'a fill with a duplicate key halts');
foreach my $call ('wait_until_serving', 'drain')
{
	(undef, undef, $error) = $node->psql('postgres', "SELECT cqrs.$call('halted')");
	like($error, qr/Graz/, "$call names the key");
}
(undef, undef, $error) = $node->psql('postgres', 'TABLE halted');
like($error, qr/ERROR/, 'and reading it is an error, not an empty answer');
ok(caught_up($node, 'people'), 'the others go on');
$node->safe_psql('postgres', q{DELETE FROM town WHERE land = 'B'; SELECT cqrs.resume('halted')});
is($node->safe_psql('postgres', q{SELECT cqrs.wait_until_serving('halted', '10 s')}), 't', 'resume has it tried again');
is_equal($node, 'halted', 'SELECT name, land FROM town', 'and it is right');

# A fill that fails for a reason that may pass.
$node->safe_psql('postgres', q{UPDATE sale SET pieces = 0 WHERE id = 3; SELECT cqrs.create_projection('later', 'SELECT id, amount / pieces AS each FROM sale')});
ok(defined until_true($node, q{SELECT error LIKE '%division by zero%' FROM cqrs.versions WHERE projection = 'later'::regclass}), 'a fill that fails shows why');
ok(defined until_true($node, q{SELECT attempts >= 3 FROM cqrs_internal.version WHERE id = (SELECT max(id) FROM cqrs_internal.version)}), 'and counts its failures in a row, so that it is tried ever less often');
$node->safe_psql('postgres', 'UPDATE sale SET pieces = 1 WHERE id = 3');
is($node->safe_psql('postgres', q{SELECT cqrs.wait_until_serving('later', '10 s')}), 't', 'and is tried again by itself');

# A source becomes what could not have been one: its query would yield rows that nobody captures, or a crash would empty it without a trigger.
foreach my $change (
	[ 'gets an unlogged child', q{CREATE UNLOGGED TABLE offspring () INHERITS (kin); INSERT INTO offspring VALUES (10, 10)}, q{ALTER TABLE offspring NO INHERIT kin} ],
	[ 'is made unlogged', 'ALTER TABLE kin SET UNLOGGED', 'ALTER TABLE kin SET LOGGED' ])
{
	my ($what, $bad, $back) = @$change;

	$node->safe_psql('postgres', q{CREATE TABLE kin (id integer PRIMARY KEY, value integer); INSERT INTO kin VALUES (1, 1); SELECT cqrs.create_projection('kin_page', 'SELECT id, value FROM kin')});
	ok(caught_up($node, 'kin_page'), 'a projection of an ordinary table');
	$node->safe_psql('postgres', "$bad; INSERT INTO kin VALUES (2, 2)");
	ok(defined until_true($node, q{SELECT status = 'failing' FROM cqrs.versions WHERE projection = 'kin_page'::regclass}), "a source that $what: the projection fails");
	is($node->safe_psql('postgres', 'SELECT string_agg(id::text, $$ $$) FROM kin_page'), '1', 'and stays as it was');
	$node->safe_psql('postgres', $back);
	ok(caught_up($node, 'kin_page'), 'it heals');
	is_equal($node, 'kin_page', 'SELECT id, value FROM kin', 'and is right');
	$node->safe_psql('postgres', q{SELECT cqrs.drop_projection('kin_page'); DROP TABLE IF EXISTS offspring, kin});
}

# A view that it reads through is replaced by one over another table.
$node->safe_psql('postgres', q{CREATE TABLE one (id integer PRIMARY KEY); CREATE TABLE two (id integer PRIMARY KEY); INSERT INTO one VALUES (1); INSERT INTO two VALUES (2);
	CREATE VIEW through AS SELECT id FROM one; SELECT cqrs.create_projection('viewed', 'SELECT id FROM through')});
ok(caught_up($node, 'viewed'), 'a projection through a view');
$node->safe_psql('postgres', q{CREATE OR REPLACE VIEW through AS SELECT id FROM two; INSERT INTO one VALUES (3); INSERT INTO two VALUES (4)});
ok(caught_up($node, 'viewed'), 'a view that reads another table now is followed');
is_equal($node, 'viewed', 'SELECT id FROM two', 'and the projection evaluated anew');
$node->safe_psql('postgres', q{CREATE OR REPLACE VIEW through AS SELECT id FROM one WHERE id > 1});
ok(caught_up($node, 'viewed'), 'so is one that reads the first again');
is_equal($node, 'viewed', 'SELECT id FROM one WHERE id > 1', 'and is right, though no row was written');

# A view or a function that its query is made of gets another meaning, and no row is written.
$node->safe_psql('postgres', q{CREATE FUNCTION meaning(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
	SELECT cqrs.create_projection('meant', 'SELECT id, meaning(id) AS value FROM one')});
ok(caught_up($node, 'meant'), 'a projection through a function');
$node->safe_psql('postgres', q{CREATE OR REPLACE VIEW through AS SELECT id FROM one WHERE id < 3});
ok(caught_up($node, 'viewed'), 'a view is replaced');
is_equal($node, 'viewed', 'SELECT id FROM one WHERE id < 3', 'and the projection evaluated anew');
$node->safe_psql('postgres', q{CREATE OR REPLACE FUNCTION meaning(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 3'});
ok(caught_up($node, 'meant'), 'a function is replaced');
is_equal($node, 'meant', 'SELECT id, id * 3 AS value FROM one', 'and the projection evaluated anew');

# Sources swap names under it.
$node->safe_psql('postgres', q{
	CREATE TABLE sale_new (LIKE sale INCLUDING ALL);
	INSERT INTO sale_new VALUES (999, 'wrong', 1, 1);
	BEGIN; ALTER TABLE sale RENAME TO sale_old; ALTER TABLE sale_new RENAME TO sale; COMMIT;
	UPDATE sale_old SET amount = amount + 5 WHERE id < 10;
	INSERT INTO sale VALUES (1000, 'wrong', 1, 0);});
ok(caught_up($node, 'shops') && caught_up($node, 'ratio'), 'both go on when tables swap names');
(my $old_shops = $shops) =~ s/FROM sale/FROM sale_old/;
is_equal($node, 'shops', $old_shops, 'following the table, not the name');

# A source goes, and takes the definition along.
$node->safe_psql('postgres', q{DROP TABLE sale_old CASCADE; INSERT INTO person VALUES ('eve', 'Wien')});
ok(defined until_true($node, q{SELECT status = 'halted' FROM cqrs.versions WHERE projection = 'shops'::regclass}), 'a dropped source halts');
like(version('error', 'shops'), qr/dropped/, 'with the reason');
is($node->safe_psql('postgres', 'SELECT count(*) > 0 FROM shops'), 't', 'the last state can be read still');
(undef, undef, $error) = $node->psql('postgres', q{SELECT cqrs.drain('shops')});
like($error, qr/halted.*dropped/s, 'drain says so');
ok(caught_up($node, 'people'), 'and the others go on');
$node->safe_psql('postgres', q{SELECT cqrs.drop_projection('shops'); SELECT cqrs.drop_projection('ratio'); SELECT cqrs.drop_projection('later')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'cqrs\_shops%'}), 0, 'it can be dropped, leaving nothing');
$node->safe_psql('postgres', q{SELECT cqrs.create_projection('shops', 'SELECT shop, count(*) FROM sale GROUP BY shop')});
ok(caught_up($node, 'shops'), 'and made again over what is there now');
is_equal($node, 'shops', 'SELECT shop, count(*) FROM sale GROUP BY shop', 'which is right');
$node->stop;
done_testing();
