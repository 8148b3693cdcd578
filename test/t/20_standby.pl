# Readers on a standby.  If this fails, a reader there is told that it sees what it does not (a transaction still running on the primary reads as
# finished in pg_current_snapshot() of a standby), or cannot ask at all.  Both clusters live in the second epoch of transaction ids, so that
# whatever takes ids for 32-bit numbers fails too.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant EPOCH => 1 << 32;

my $primary = PostgreSQL::Test::Cluster->new('primary');
my $standby = PostgreSQL::Test::Cluster->new('standby');

# One value, or an error that fails the test.
sub ask
{
	my ($node, $query) = @_;

	return $node->safe_psql('postgres', $query);
}

# The error of a statement that must fail.
sub refused
{
	my ($node, $statement) = @_;
	my ($status, undef, $error) = $node->psql('postgres', $statement);

	return $status == 0 ? 'no error' : $error;
}

# Runs statements as one transaction on the primary; returns its token.
sub change
{
	my ($statements) = @_;

	return ask($primary, "BEGIN; $statements; SELECT cqrs.token(); COMMIT;") =~ s/.*\n//sr;
}

# A session on the primary with an open transaction that has run the statements, and its token.
sub hold_open
{
	my ($statements) = @_;
	my $session = $primary->background_psql('postgres');

	$session->query_safe("BEGIN; $statements");
	return ($session, $session->query_safe('SELECT cqrs.token()'));
}

# What has been written on the primary is known on the standby, committed or not.
sub replay
{
	$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
	$primary->wait_for_catchup($standby);
}

sub caught_up { my ($node, $token) = @_; return ask($node, "SELECT cqrs.caught_up('seen', '$token')"); }

sub wait_for
{
	my ($node, $token, $timeout) = @_;

	return ask($node, "SELECT cqrs.wait_for('seen', '$token', '$timeout')");
}

$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'cqrs'\nmax_prepared_transactions = 10\n");
command_ok([ 'pg_resetwal', '--epoch=1', '-D', $primary->data_dir ], 'ids go past 32 bits');
$primary->start;
ask($primary, 'CREATE EXTENSION cqrs; CREATE TABLE thing (id integer PRIMARY KEY, n integer); CREATE TABLE other (id integer)');
ask($primary, q{SELECT cqrs.create_projection('seen', 'SELECT id, n FROM thing', ARRAY['id'], max_lag => '1 hour')});
is(ask($primary, q{SELECT cqrs.wait_until_serving('seen')}), 't', 'the projection is built');
$primary->backup('base');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# A command on the primary, its reader on the standby; the projection is there as soon as the answer is yes.
foreach my $n (1 .. 20)
{
	my $token = change("INSERT INTO thing VALUES ($n, $n)");
	my $read = ask($standby, "SELECT cqrs.wait_for('seen', '$token', '60 s'); SELECT n FROM seen WHERE id = $n");

	$read eq "t\n$n" or fail("reader $n got $read");
	$token > EPOCH or fail("token $token is of the first epoch");
}
pass('readers on the standby see what they waited for');
is(wait_for($primary, change('DELETE FROM thing WHERE id > 10'), '60 s'), 't', 'and so do those on the primary');

# Case 41, in plain: a transaction with changes that is still running.
my ($writer, $running) = hold_open('INSERT INTO thing VALUES (100, 100)');
my $later = change('INSERT INTO thing VALUES (101, 101)');
is(wait_for($standby, $later, '60 s'), 't', 'a later transaction is not held up by a running one');
replay();
is(ask($standby, "SELECT pg_visible_in_snapshot('$running', pg_current_snapshot())"),
	't', 'the server itself shows the running one as finished');
is(caught_up($standby, $running), 'f', 'it is not taken for finished');
is(wait_for($standby, $running, '300 ms'), 'f', 'and waited for no longer than asked');
is(caught_up($primary, $running), 'f', 'as on the primary');
$writer->query_safe('COMMIT');
is(wait_for($standby, $running, '60 s'), 't', 'it is waited for until it commits');
is(ask($standby, 'SELECT count(*) FROM seen WHERE id IN (100, 101)'), 2, 'and then read');
$writer->quit;

# What a session itself has written out and not committed is not what it waits for.
($writer, $running) = hold_open('INSERT INTO thing SELECT i, i FROM generate_series(1001, 60000) AS i');
$later = change('SELECT 1');
is($writer->query_safe("SELECT cqrs.caught_up('seen', '$later')"), 't', 'own changes are nothing to wait for');
$writer->query_safe('ROLLBACK');
$writer->quit;

# A transaction still running on the primary, where the standby cannot keep track of all its subtransactions.
($writer, $running) = hold_open(q{DO $$ BEGIN FOR i IN 200 .. 400 LOOP
	BEGIN INSERT INTO thing VALUES (i, i); EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END $$});
is(wait_for($standby, change('SELECT 1'), '60 s'), 't', 'a later one is not held up');
replay();
is(caught_up($standby, $running), 'f', 'a running transaction with many subtransactions is not taken for finished');
$writer->query_safe('COMMIT');
is(wait_for($standby, $running, '60 s'), 't', 'until it commits');
is(ask($standby, 'SELECT count(*) FROM seen WHERE id >= 200'), 201, 'all of it');
$writer->quit;

# Prepared: neither finished nor running in any process.
my $prepared = ask($primary, q{BEGIN; INSERT INTO thing VALUES (500, 500); SELECT cqrs.token(); PREPARE TRANSACTION 'held'});
replay();
is(caught_up($standby, $prepared), 'f', 'a prepared transaction is not taken for finished');
ask($primary, q{COMMIT PREPARED 'held'});
is(wait_for($standby, $prepared, '60 s'), 't', 'until it is committed');

# Nothing to wait for but the end of the transaction.
my $undone = ask($primary, 'BEGIN; INSERT INTO thing VALUES (600, 600); SELECT cqrs.token(); ROLLBACK');
is(wait_for($standby, $undone, '60 s'), 't', 'a transaction that was rolled back');
is(wait_for($standby, change('SELECT 1'), '60 s'), 't', 'a transaction that wrote nothing');
is(wait_for($standby, change('INSERT INTO other VALUES (1)'), '60 s'), 't', 'a transaction that wrote what is not read');

# A token the standby has not heard of yet is waited for.
ask($standby, 'SELECT pg_wal_replay_pause()');
$standby->poll_query_until('postgres', q{SELECT pg_get_wal_replay_pause_state() = 'paused'}) or die 'replay goes on';
my $unheard = change('INSERT INTO thing VALUES (700, 700)');
is(wait_for($primary, $unheard, '60 s'), 't', 'the primary has applied it');
is(caught_up($standby, $unheard), 'f', 'what is not replayed is not there');
is(wait_for($standby, $unheard, '300 ms'), 'f', 'nor waited for longer than asked');
my $reader = $standby->background_psql('postgres');
$reader->query_until(qr/waiting/, "\\echo waiting\nSELECT cqrs.wait_for('seen', '$unheard', '60 s');\n");
ask($standby, 'SELECT pg_wal_replay_resume()');
like($reader->query('SELECT n FROM seen WHERE id = 700'), qr/^(?:t\n)?700$/, 'it is waited for while it is replayed');
$reader->quit;

# What only a primary can do.
like(refused($standby, 'SELECT cqrs.token()'), qr/cannot take a token during recovery.*HINT:\s+Take the token where the command ran/s,
	'a standby gives out no tokens, and says where to get one');
like(refused($standby, q{SELECT cqrs.drain('seen')}), qr/cannot execute cqrs.drain\(\) during recovery/, 'nor drains');
like(refused($standby, q{SELECT * FROM cqrs.verify('seen')}), qr/cannot execute cqrs.verify\(\) during recovery/, 'nor verifies');
like(refused($standby, q{SELECT cqrs.wait_for('seen', '5', '-1 s')}), qr/timeout must not be negative/, 'timeouts are checked');

# A paused projection: the answer comes at once, and the views tell why.
ask($primary, q{SELECT cqrs.pause('seen')});
$reader = $standby->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM seen LIMIT 1');
my $pending = change('UPDATE thing SET n = n + 1 WHERE id <= 3');
replay();
is($reader->query_safe(q{SELECT pending FROM cqrs.freshness('seen')}), 3, 'lag is measured afresh also by who sees the past');
$reader->quit;
my $began = time;
is(wait_for($standby, $pending, '60 s'), 'f', 'nothing arrives while it is paused');
cmp_ok(time - $began, '<', 30, 'and nobody waits for it');
is(ask($standby, q{SELECT health, pending, lag >= '0', within_objective, held_by FROM cqrs.lag}), 'paused|3|t|t|', 'lag says so');
is(ask($standby, q{SELECT version, state, status, pending FROM cqrs.freshness('seen')}), '1|serving|paused|3', 'freshness too');
is(ask($standby, q{SELECT string_agg(l.pending::text, ' ' ORDER BY i) FROM generate_series(2, 5) AS i, cqrs.entity_lag('seen', jsonb_build_object('id', i)) AS l}),
	'1 1 0 0', 'what is pending for a key is told on the standby');
is(ask($standby, q{SELECT key ->> 'id', difference FROM cqrs.shadow_read('seen', 'SELECT id, n FROM thing', '[{"id": 3}, {"id": 4}]')}), '3|different',
	'a query is held against the read model there');
ask($primary, q{SELECT cqrs.resume('seen')});
replay();
is(wait_for($standby, $pending, '60 s'), 't', 'it arrives when it goes on');
is(ask($standby, 'SELECT health, pending, lag FROM cqrs.lag'), 'idle|0|00:00:00', 'and lag is none');

# Of a read model made of events: the aggregate's versions, too.
ask($primary, q{SELECT cqrs.create_projection('heard', columns => 'id text PRIMARY KEY, n integer', seed => 'SELECT NULL, 0 WHERE false',
	handlers => '{"Heard": "INSERT INTO heard AS h SELECT aggregate_id, 1 FROM event ON CONFLICT (id) DO UPDATE SET n = h.n + 1"}')});
ask($primary, q{SELECT cqrs.wait_until_serving('heard')});
my $heard = change(q{SELECT cqrs.emit('Heard', 'ear', 'e')});
ask($primary, "SELECT cqrs.wait_for('heard', '$heard', '60 s')");
ask($primary, q{SELECT cqrs.pause('heard')});
change(q{SELECT cqrs.emit('Heard', 'ear', 'e'), cqrs.emit('Heard', 'ear', 'e')});
replay();
is(ask($standby, q{SELECT command_version, query_version, pending FROM cqrs.entity_lag('heard', '{"id": "e"}')}), '3|1|2', "an aggregate's versions are told there");
ask($primary, q{SELECT cqrs.drop_projection('heard')});
replay();

# Everything there is to see, preloaded or not; and the primary's own answers.
my $views = join('; ', (map { "SELECT count(*) >= 0 FROM cqrs.$_" } qw(projections checkpoints sources workers history outbox)),
	q{SELECT strategy, bytes > 0 FROM cqrs.versions}, q{SELECT health FROM cqrs.lag});
is(ask($standby, $views), "t\nt\nt\nt\nt\nt\nkeys|t\nidle", 'all views answer on the standby');
is(ask($primary, 'SELECT count(*) FROM cqrs.verify(\'seen\')'), 0, 'the read model is the query');
$standby->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
$standby->restart;
is(ask($standby, $views), "t\nt\nt\nt\nt\nt\nkeys|t\nidle", 'also where the library is not preloaded');
is(wait_for($standby, change('INSERT INTO thing VALUES (800, 800)'), '60 s'), 't', 'and tokens are waited for');

# A reader in a transaction that sees the past gets the answer of now, and is warned.
my $token = change('INSERT INTO thing VALUES (801, 801)');
is(wait_for($standby, $token, '60 s'), 't', 'applied');
is(ask($standby, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT cqrs.caught_up('seen', '$token'); COMMIT"), 't', 'fresh');
ask($standby, 'SELECT pg_wal_replay_pause()');
$standby->poll_query_until('postgres', q{SELECT pg_get_wal_replay_pause_state() = 'paused'}) or die 'replay goes on';
$token = change('INSERT INTO thing VALUES (802, 802)');
$reader = $standby->background_psql('postgres', on_error_stop => 0);
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM seen LIMIT 1');
$reader->query_until(qr/waiting/, "\\echo waiting\nSELECT cqrs.wait_for('seen', '$token', '60 s');\n");
$standby->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'SELECT cqrs.wait_for%' AND state = 'active'});
ask($standby, 'SELECT pg_wal_replay_resume()');
like($reader->query('SELECT count(*) FROM seen WHERE id = 802'), qr/^(?:t\n)?0$/, 'the wait is over, the past is not');
like($reader->{stderr}, qr/has caught up, but this transaction cannot see it/, 'which the waiter is told');
$reader->quit;

# Ids so far apart that their last 32 bits compare the wrong way round.
my $ancient = $token - (1 << 31) - 100000;
is(caught_up($primary, $ancient), 't', 'an id of long ago has ended');
is(caught_up($standby, $ancient), 't', 'on the standby too');

# Promoted, it is a primary: with a worker of its own, and tokens that are not given out are errors.
$standby->append_conf('postgresql.conf', q{shared_preload_libraries = 'cqrs'});
$standby->restart;
$primary->wait_for_catchup($standby);
$primary->stop;
my $unknown = $token + 1000000;
$reader = $standby->background_psql('postgres', on_error_stop => 0);
$reader->query_until(qr/waiting/, "\\echo waiting\nSELECT cqrs.wait_for('seen', '$unknown', '60 s');\n");
$standby->promote;
$reader->query('SELECT 1');
like($reader->{stderr}, qr/token $unknown has not been given out yet/, 'who waits for a token that will not come is told at promotion');
$reader->quit;
$token = ask($standby, 'BEGIN; INSERT INTO thing VALUES (900, 900); SELECT cqrs.token(); COMMIT');
$standby->poll_query_until('postgres', "SELECT cqrs.wait_for('seen', '$token', '5 s')") or fail('no worker came');
is(ask($standby, 'SELECT n FROM seen WHERE id = 900'), 900, 'the new primary follows its own commands');
is(ask($standby, 'SELECT count(*) FROM cqrs.verify(\'seen\')'), 0, 'and the read model is still the query');
done_testing();
