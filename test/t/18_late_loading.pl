# Without shared_preload_libraries.  Everything but the worker works, after a notice; and nothing pretends that a worker will come.  What was captured then is applied
# when the server preloads the library at last; and what was captured by a worker's server stays captured when it does no more.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = PostgreSQL::Test::Cluster->new('late');
my $truth = 'SELECT shop, count(*) AS sales, sum(amount) AS total FROM sale GROUP BY shop';
my $AT_ONCE = 30;			# seconds; whoever waits in vain here waits for a minute or for ever

$node->init;
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 5');
$node->start;
my ($status, undef, $error) = $node->psql('postgres', 'CREATE EXTENSION cqrs');
is($status, 0, 'the extension is created');
like($error, qr/(?:NOTICE|WARNING):.*preload/s, 'with a word that no worker will come');
$node->safe_psql('postgres', qq{CREATE TABLE sale (id integer PRIMARY KEY, shop text, amount integer); INSERT INTO sale VALUES (1, 'north', 1);
	SELECT cqrs.create_projection('shops', '$truth')});
my $began = time();
is($node->safe_psql('postgres', q{SELECT cqrs.wait_until_serving('shops', '1 min')}), 'f', 'nobody builds it');
cmp_ok(time() - $began, '<', $AT_ONCE, 'which is known at once');
$node->safe_psql('postgres', 'INSERT INTO sale SELECT i, $$shop $$ || i % 3, i FROM generate_series(2, 100) i');
is($node->safe_psql('postgres', q{SELECT cqrs.drain('shops') >= 0}), 't', 'drain builds');
is_equal($node, 'shops', $truth, 'it is right');

# The first change of a session loads the library: in a savepoint, in a rolled-back one, in a prepared transaction.
$node->safe_psql('postgres', q{BEGIN; SAVEPOINT a; INSERT INTO sale VALUES (200, 'a', 1); RELEASE a; COMMIT});
$node->safe_psql('postgres', q{BEGIN; SAVEPOINT a; INSERT INTO sale VALUES (201, 'b', 1); ROLLBACK TO a; INSERT INTO sale VALUES (202, 'c', 1); COMMIT});
$node->safe_psql('postgres', q{BEGIN; SAVEPOINT a; SAVEPOINT b; DELETE FROM sale WHERE id = 3; RELEASE b; SAVEPOINT c; DELETE FROM sale WHERE id = 4; ROLLBACK TO c; COMMIT});
$node->safe_psql('postgres', q{DO $$ BEGIN BEGIN UPDATE sale SET amount = 0 WHERE id = 5; RAISE EXCEPTION 'x'; EXCEPTION WHEN raise_exception THEN UPDATE sale SET amount = 7 WHERE id = 6; END; END $$});
$node->safe_psql('postgres', q{BEGIN; INSERT INTO sale VALUES (203, 'd', 1); PREPARE TRANSACTION 'one'});
is($node->safe_psql('postgres', q{SELECT health || ' ' || (pending > 0) FROM cqrs.lag}), 'no worker true', 'health says that nobody applies');
is($node->safe_psql('postgres', q{SELECT cqrs.drain('shops') > 0}), 't', 'drain applies');
is_equal($node, 'shops', $truth, 'all of it');
$node->safe_psql('postgres', q{COMMIT PREPARED 'one'});
is($node->safe_psql('postgres', q{SELECT cqrs.drain()}), 1, 'what was prepared, too');
is_equal($node, 'shops', $truth, 'and no more');
is($node->safe_psql('postgres', q{SELECT count(*) FROM cqrs.workers}), 0, 'no process of ours');
$began = time();
is($node->safe_psql('postgres', q{INSERT INTO sale VALUES (300, 'e', 1); SELECT cqrs.token() AS token \gset
	SELECT cqrs.wait_for('shops', :'token', '1 min')}), 'f', 'a wait for nobody is a no');
cmp_ok(time() - $began, '<', $AT_ONCE, 'at once');

# Triggers that did not fire for a while; and somebody who has them fire again, for a projection of his own.
$node->safe_psql('postgres', q{ALTER TABLE sale DISABLE TRIGGER ALL; UPDATE sale SET amount = amount + 100 WHERE id = 10; ALTER TABLE sale ENABLE TRIGGER ALL;
	SELECT cqrs.create_projection('later', 'SELECT id FROM sale'); SELECT cqrs.drain('later'); SELECT cqrs.drain('shops')});
is_equal($node, 'shops', $truth, 'a gap that another projection would hide is not hidden');
$node->safe_psql('postgres', q{ALTER TABLE sale DISABLE TRIGGER ALL; UPDATE sale SET amount = amount + 100 WHERE id = 11; ALTER TABLE sale ENABLE TRIGGER ALL;
	SELECT cqrs.capture('sale'); SELECT cqrs.uncapture('sale'); SELECT cqrs.drain()});
is_equal($node, 'shops', $truth, 'nor one that cqrs.capture would hide');
$node->safe_psql('postgres', q{ALTER TABLE sale DISABLE TRIGGER ALL; UPDATE sale SET amount = amount + 100 WHERE id = 12; ALTER TABLE sale ENABLE TRIGGER ALL; SELECT cqrs.drain()});
is_equal($node, 'shops', $truth, 'nor one that nobody else knows of');
$node->safe_psql('postgres', q{UPDATE sale SET amount = amount + 1 WHERE id = 13; SELECT cqrs.drain()});
is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT status, ' ') FROM cqrs.versions}), 'running', 'drain has them captured again, and trusted');
$node->safe_psql('postgres', q{SELECT cqrs.drop_projection('later')});

# Preloaded: the worker takes up what is pending.
$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'cqrs'});
$node->restart;
ok(caught_up($node, 'shops'), 'a server that preloads takes up what is pending');
is_equal($node, 'shops', $truth, 'and is right');
$node->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
$node->restart;
$node->safe_psql('postgres', q{UPDATE sale SET shop = 'z' WHERE id < 20});
is($node->safe_psql('postgres', q{SELECT cqrs.drain('shops') > 0}), 't', 'and back');
is_equal($node, 'shops', $truth, 'nothing is lost');
$node->safe_psql('postgres', q{SELECT cqrs.drop_projection('shops'); DROP EXTENSION cqrs; UPDATE sale SET shop = 'free'});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal}), 0, 'DROP EXTENSION leaves nothing on the tables');
$node->stop;
done_testing();
