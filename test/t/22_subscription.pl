# Changes that logical replication applies are captured: in a subscriber's own transactions and the first copy of tables, with rows whose old image the publisher
# did not send, with large values left alone, and TRUNCATE.  If this fails, a read model of replicated tables is not what its query says.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use Test::More;

my $truth = 'SELECT s.region, count(*) AS n, sum(l.amount) AS amount, max(length(l.note)) AS longest FROM line l LEFT JOIN shop s ON s.id = l.shop GROUP BY s.region';
my $tables = q{
	CREATE TABLE shop (id integer PRIMARY KEY, region text);
	CREATE TABLE line (id integer PRIMARY KEY, shop integer, amount numeric, note text, unread integer);
	ALTER TABLE line ALTER COLUMN note SET STORAGE EXTERNAL;
	CREATE TABLE plain (a integer, b text);
	ALTER TABLE plain REPLICA IDENTITY FULL};
my $visits = 'SELECT region, double, count(*) AS n, count(body) AS told FROM visit GROUP BY region, double';

my $publisher = new_server('publisher', 'wal_level = logical', 'max_wal_senders = 5', 'cqrs.max_workers = 0');
$publisher->safe_psql('postgres', qq{$tables;
	INSERT INTO shop SELECT i, 'region ' || i % 3 FROM generate_series(1, 9) i;
	INSERT INTO line SELECT i, 1 + i % 10, i, repeat('note', i * 10), 0 FROM generate_series(1, 300) i;
	INSERT INTO plain VALUES (1, 'one'), (1, 'one'), (2, NULL);
	CREATE TABLE visit (id integer, region text, n integer, body text, unread integer, PRIMARY KEY (id, region));
	CREATE PUBLICATION everything FOR TABLE shop, line, plain, visit});

my $node = new_server('subscriber', 'cqrs.max_workers = 1');
$node->safe_psql('postgres', qq{$tables;
	ALTER TABLE line ADD COLUMN here text DEFAULT 'of the subscriber alone';
	CREATE TABLE visit (id integer, region text, n integer, body text, unread integer, double integer GENERATED ALWAYS AS (n * 2) STORED, PRIMARY KEY (id, region))
		PARTITION BY LIST (region);
	CREATE TABLE visit_a (unread integer, region text NOT NULL, double integer GENERATED ALWAYS AS (n * 2) STORED, body text, n integer, id integer NOT NULL);
	ALTER TABLE visit ATTACH PARTITION visit_a FOR VALUES IN ('a');
	CREATE TABLE visit_rest PARTITION OF visit DEFAULT;
	SELECT cqrs.create_projection('visits', '$visits');
	SELECT cqrs.capture('plain');
	SELECT cqrs.create_projection('regions', \$\$$truth\$\$)});
ok(caught_up($node, 'regions'), 'a read model of empty tables');
my $connection = $publisher->connstr('postgres');
$node->safe_psql('postgres', "CREATE SUBSCRIPTION all_of_it CONNECTION \$\$$connection\$\$ PUBLICATION everything");
$node->wait_for_subscription_sync($publisher, 'all_of_it');

# What the publisher has committed arrives at the subscriber, and then in its read model.
sub follows
{
	my ($what, $sql) = @_;

	$publisher->safe_psql('postgres', $sql);
	$publisher->wait_for_catchup('all_of_it');
	ok(caught_up($node, $_), "$what arrives in $_") foreach qw(regions visits);
	is_equal($node, 'visits', $visits, "$what is right where it goes to partitions");
	return is_equal($node, 'regions', $truth, "$what is right");
}

# What the outbox says of the table without a key, since a position.
sub captured
{
	my ($since) = @_;

	return $node->safe_psql('postgres', qq{
		SELECT string_agg(concat_ws(' ', kind, old_row, new_row), ', ' ORDER BY position) FROM cqrs.outbox WHERE source = 'plain'::regclass AND position > $since});
}

follows('the first copy', 'SELECT 1');
is($node->safe_psql('postgres', q{SELECT sum((kind = 'insert')::integer), count(*) FROM cqrs.outbox WHERE source = 'plain'::regclass}), '3|3', 'rows of the first copy are captured');
my $position = $node->safe_psql('postgres', 'SELECT max(position) FROM cqrs.outbox');
follows('an insert', q{INSERT INTO line VALUES (1000, 1, 7, 'new', 0)});
follows('updates of keys, values and what is left alone', q{
	UPDATE line SET amount = amount + 1 WHERE id % 2 = 0;
	UPDATE line SET id = id + 2000 WHERE id < 10;
	UPDATE line SET note = repeat('long', 5000) WHERE id = 20;
	UPDATE line SET shop = 3 WHERE id = 20;
	UPDATE line SET unread = 1;
	UPDATE shop SET region = NULL WHERE id = 3});
follows('rows of partitions', q{INSERT INTO visit SELECT i, (ARRAY['a', 'b', 'c'])[1 + i % 3], i % 7, repeat('v', i * 100), 0 FROM generate_series(1, 90) i});
follows('updates of partitions', q{
	UPDATE visit SET n = n + 1 WHERE id % 4 = 0;
	UPDATE visit SET body = NULL WHERE id % 5 = 0;
	UPDATE visit SET region = 'a' WHERE id % 7 = 0;
	UPDATE visit SET unread = 1;
	DELETE FROM visit WHERE id > 80});
follows('deletes', 'DELETE FROM line WHERE id % 5 = 0; DELETE FROM shop WHERE id = 4');
follows('a transaction with savepoints', q{
	BEGIN; INSERT INTO line VALUES (3000, 1, 1); SAVEPOINT a; UPDATE line SET amount = 1000; ROLLBACK TO a; SAVEPOINT b; DELETE FROM shop WHERE id = 5; RELEASE b; COMMIT});
follows('a transaction larger than the buffer', q{INSERT INTO line SELECT i, i % 9, i, repeat('x', 200) FROM generate_series(10001, 13000) i});
follows('a truncation', q{TRUNCATE line; INSERT INTO line VALUES (1, 1, 1)});
$publisher->safe_psql('postgres', q{DELETE FROM plain WHERE ctid = (SELECT min(ctid) FROM plain); UPDATE plain SET b = 'two' WHERE a = 2; UPDATE plain SET b = b || '!' WHERE a = 1});
$publisher->wait_for_catchup('all_of_it');
is(captured($position), 'delete {"a": "1", "b": "one"}, update {"a": "2", "b": null} {"a": "2", "b": "two"}, '
	  . 'update {"a": "1", "b": "one"} {"a": "1", "b": "one!"}', 'rows without a key are captured as they were');
is($node->safe_psql('postgres', q{SELECT count(*) FROM cqrs.outbox WHERE source = 'line'::regclass AND kind = 'update' AND position > } . $position
	  . q{ AND old_row ->> 'unread' <> new_row ->> 'unread'}), 0, 'updates of what nobody reads are not captured');
$node->safe_psql('postgres', 'DROP SUBSCRIPTION all_of_it');
$publisher->stop;
$node->stop;
done_testing();
