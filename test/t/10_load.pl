# Many writers at once, in every way that has broken read models: late commits, early ids, savepoints, prepared transactions, keys that swap, both sides of a join
# deleted, TRUNCATE, rewrites; against the worker and sessions that drain, verify, create and drop.  If a window were not exactly the transactions
# between two snapshots, a change would be lost or counted twice, and the read model would differ from its query, for ever.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_server('load', 'cqrs.buffer_size = 8kB');

make_storm($node);
storm_projections($node);
my $storm = storm_start($node, 12, 20);
my $began = time();
my ($rounds, $torn, %found) = (0, 0);

# While they write: every read model equals its query, as far as it has come, and no window cuts a transaction in two.
while (time() - $began < 17)
{
	foreach my $name (qw(order_page line_page region_sales everybody notes totals ranking account_page))
	{
		my ($status, $answer, $error) = $node->psql('postgres', "SELECT * FROM cqrs.verify('$name') LIMIT 3");

		$found{"$name: $answer $error"}++ if $status != 0 || $answer ne '';
	}
	foreach my $query ('SELECT sum(balance) FROM account_page', 'SELECT total FROM account_total')
	{
		my $total = $node->safe_psql('postgres', $query);

		$torn++ if $total ne '100000';
	}
	my ($status, undef, $error) = $node->psql('postgres', q{
		SELECT cqrs.create_projection('passing', 'SELECT status, count(*) FROM orders GROUP BY status');
		SELECT cqrs.drain('passing');
		SELECT count(*) FROM cqrs.verify('passing');
		SELECT cqrs.drop_projection('passing');}, on_error_stop => 1);
	$found{"create, drain, verify, drop: $error"}++ if $status != 0;
	foreach my $upkeep ('REINDEX TABLE CONCURRENTLY cqrs_internal.outbox_1', 'VACUUM (FULL, ANALYZE) cqrs_internal.outbox_1', 'VACUUM FULL cqrs_internal.checkpoint', 'REINDEX TABLE cqrs_internal.version')
	{
		my $limit = $upkeep =~ /CONCURRENTLY/ ? '' : q{SET lock_timeout = '300ms';};
		my ($failed, undef, $why) = $node->psql('postgres', "$limit\n$upkeep");

		$found{"$upkeep: $why"}++ if $failed != 0 && $why !~ /lock timeout|deadlock/;
	}
	$rounds++;
}
is(join("\n", map { "$_ ($found{$_} times)" } sort keys %found), '', 'read models equal their queries while writers write');
is($torn, 0, 'money is never seen on its way');
cmp_ok($rounds, '>', 3, "$rounds rounds were made");
my $transactions = storm_finish($storm);
cmp_ok($transactions // 0, '>', 500, 'writers were not hindered: ' . ($transactions // 'one failed') . ' transactions');
storm_equal($node, 'after the storm');
cmp_ok($node->safe_psql('postgres', 'SELECT max(n) FROM (SELECT count(*) AS n FROM cqrs_internal.checkpoint GROUP BY version) c'), '<', 50,
	'checkpoints do not pile up');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|was terminated by signal/, 'nothing crashed');
$node->stop;
done_testing();
