# Transaction ids run past 2^32 and begin again: with a writer and a prepared transaction open across that moment, checkpoints from before it, tokens on both sides.  The
# server's ids have 32 bits; ours 64, made from them.  If the upper half were guessed wrong, a window would skip every change for the next four billion transactions.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('ids', 'cqrs.max_workers = 1');
my $truth = 'SELECT shop, count(*) AS sales, sum(amount) AS total FROM sale GROUP BY shop';

# Moves the next transaction id ahead, as far as ids that are in use allow.
sub move_to
{
	my ($xid) = @_;
	my $segment = sprintf('%s/pg_xact/%04X', $node->data_dir, int($xid / (32 * 32768)));

	$node->safe_psql($_, 'VACUUM FREEZE') foreach qw(postgres template1);
	$node->safe_psql('postgres', 'ALTER DATABASE template0 ALLOW_CONNECTIONS true');
	$node->safe_psql('template0', 'VACUUM FREEZE');
	$node->safe_psql('postgres', 'ALTER DATABASE template0 ALLOW_CONNECTIONS false; CHECKPOINT');
	$node->stop;
	command_ok([ 'pg_resetwal', '-x', $xid, $node->data_dir ], "the next transaction id is $xid");
	PostgreSQL::Test::Utils::append_to_file($segment, "\0" x 262144) unless -f $segment;
	$node->start;
	return;
}

# Uses up ids, each in a subtransaction.
sub use_ids
{
	my ($n) = @_;

	$node->safe_psql('postgres', qq{
		DO \$\$ BEGIN
			FOR i IN 1 .. $n LOOP
				BEGIN
					INSERT INTO filler VALUES (i);
					RAISE EXCEPTION 'undone';
				EXCEPTION WHEN raise_exception THEN NULL;
				END;
			END LOOP;
		END \$\$});
	return;
}

$node->safe_psql('postgres', qq{
	CREATE TABLE sale (id integer PRIMARY KEY, shop text, amount integer);
	CREATE TABLE filler (id integer);
	INSERT INTO sale SELECT i, 'shop ' || i % 3, i FROM generate_series(1, 30) i;
	SELECT cqrs.create_projection('shops', '$truth')});
ok(caught_up($node, 'shops'), 'a projection from before');

# In steps: ids in use must lie within half of all.
foreach my $xid (1_500_000_000, 3_000_000_000, 4_294_967_296 - 1500)
{
	move_to($xid);
	$node->safe_psql('postgres', 'UPDATE sale SET amount = amount + 1 WHERE id % 5 = 0');
	ok(caught_up($node, 'shops'), 'changes arrive after the jump');
	is_equal($node, 'shops', $truth, 'and are right');
}
is($node->safe_psql('postgres', 'SELECT pg_current_xact_id()::text::bigint < 4294967296'), 't', 'ids have not wrapped yet');

# Open across the moment: a writer with an early id, one with a savepoint, a prepared transaction; and a window between.
my $long = $node->background_psql('postgres');
$long->query_safe(q{BEGIN; INSERT INTO sale VALUES (1000, 'shop 1', 1); SAVEPOINT s; INSERT INTO sale VALUES (1001, 'shop 2', 1)});
my $long_token = $long->query_safe('SELECT cqrs.token()');
$node->safe_psql('postgres', q{BEGIN; INSERT INTO sale VALUES (1002, 'shop 0', 1); PREPARE TRANSACTION 'across'});
my $before = $node->safe_psql('postgres', q{INSERT INTO sale VALUES (1003, 'shop 1', 1); SELECT cqrs.token()});
ok(caught_up($node, 'shops'), 'a window just before');
use_ids(2500);
cmp_ok($node->safe_psql('postgres', 'SELECT pg_current_xact_id()'), '>', 4294967296, 'ids have wrapped');
my $after = $node->safe_psql('postgres', q{INSERT INTO sale VALUES (1004, 'shop 2', 1); SELECT cqrs.token()});
ok(caught_up($node, 'shops'), 'a window across');
is_equal($node, 'shops', $truth, 'is right');
is($node->safe_psql('postgres', "SELECT cqrs.caught_up('shops', '$before') AND cqrs.caught_up('shops', '$after') AND NOT cqrs.caught_up('shops', '$long_token')"), 't', 'tokens from both sides are understood');
is($node->safe_psql('postgres', q{SELECT pending FROM cqrs.lag}), 0, 'nothing is pending but what is open');
$long->query_safe(q{UPDATE sale SET amount = amount + 7 WHERE id = 1; COMMIT});
is($node->safe_psql('postgres', "SELECT cqrs.wait_for('shops', '$long_token', '20 s')"), 't', 'a writer that began before and commits after');
$node->safe_psql('postgres', q{COMMIT PREPARED 'across'});
ok(caught_up($node, 'shops'), 'a prepared transaction from before');
is_equal($node, 'shops', $truth, 'both are there, once');
use_ids(200);
$node->safe_psql('postgres', 'UPDATE sale SET amount = amount - 1');
ok(caught_up($node, 'shops'), 'and on it goes');
is_equal($node, 'shops', $truth, 'right as before');
$node->restart;
$node->safe_psql('postgres', 'DELETE FROM sale WHERE id % 7 = 0');
ok(caught_up($node, 'shops'), 'also after a restart');
is_equal($node, 'shops', $truth, 'right as before');
$long->quit;
$node->stop;
done_testing();
