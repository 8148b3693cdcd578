# A stack of three read models with a diamond at its top, and another over accounts, under a storm of writers, with the worker and the server killed at times that
# nobody chose.  If the storeys were not applied together, or a delta could be lost or taken twice, a reader would see sums of one storey that are not those of
# the next, a token that one has passed and the other has not, or a stack that differs from its query for ever.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use constant MARK => 999999;	# an order that the storm leaves alone

my $node = new_server('stacks', 'cqrs.buffer_size = 8kB', 'cqrs.retry_max = 1s');

# In the order of the storeys: name, what the projection is, and the same over tables alone.
my $lines = 'SELECT orders, count(*) AS n, sum(quantity) AS q FROM line GROUP BY orders';
my $sums = "SELECT o.id, o.status, l.n, l.q FROM orders o LEFT JOIN ($lines) l ON l.orders = o.id";
my $statuses = "SELECT status, count(*) AS orders, sum(q) AS q FROM ($sums) o GROUP BY status";
my @storeys = (
	[ 'order_lines', $lines, $lines ],
	[ 'order_sums', 'SELECT o.id, o.status, l.n, l.q FROM orders o LEFT JOIN order_lines l ON l.orders = o.id', $sums ],
	[ 'status_sums', 'SELECT status, count(*) AS orders, sum(q) AS q FROM order_sums GROUP BY status', $statuses ],
	[ 'sides', q{SELECT o.status, count(*) AS orders, sum(l.q) AS q, max(s.orders) AS s_orders, max(s.q) AS s_q
		FROM order_sums o LEFT JOIN order_lines l ON l.orders = o.id JOIN status_sums s ON s.status = o.status GROUP BY o.status},
		"SELECT status, orders, q, orders AS s_orders, q AS s_q FROM ($statuses) s" ],
	[ 'balances', 'SELECT id, balance FROM account', 'SELECT id, balance FROM account' ],
	[ 'balance_groups', 'SELECT id % 7 AS g, sum(balance) AS total FROM balances GROUP BY id % 7', 'SELECT id % 7 AS g, sum(balance) AS total FROM account GROUP BY 1' ],
	[ 'balance_total', 'SELECT sum(total) AS total FROM balance_groups', 'SELECT sum(balance)::numeric AS total FROM account' ]);

# What must hold in every snapshot: how many times it does not.
my $broken = q{
	SELECT (SELECT count(*) FROM sides WHERE orders <> s_orders OR q IS DISTINCT FROM s_q)
		+ ((SELECT coalesce(sum(q), 0) FROM order_lines) <> (SELECT coalesce(sum(q), 0) FROM status_sums))::integer
		+ ((SELECT count(*) FROM order_sums) <> (SELECT sum(orders) FROM status_sums))::integer
		+ ((SELECT count(*) FROM sides) <> (SELECT count(*) FROM status_sums))::integer
		+ ((SELECT total FROM balance_total) <> 100000 OR (SELECT sum(balance) FROM balances) <> 100000)::integer};

# Marks an order, and says whether all storeys show the mark once the highest has passed the token; undef if the server went down, or no worker was there.
sub token_holds
{
	my ($number) = @_;
	my ($status, $answer) = $node->psql('postgres', qq{
		UPDATE orders SET status = 'token $number' WHERE id = ${\ MARK};
		SELECT cqrs.token() AS token \\gset
		SELECT cqrs.wait_for('sides', :'token', '20 s') AS shown \\gset
		SELECT EXISTS (SELECT FROM sides WHERE status = 'token $number') AND EXISTS (SELECT FROM status_sums WHERE status = 'token $number')
			AND EXISTS (SELECT FROM order_sums WHERE status = 'token $number') WHERE :'shown'}, timeout => 60);

	return $status == 0 && $answer =~ /^[tf]$/ ? $answer : undef;
}

# Ends what crashed clients left prepared: others would wait for its rows.
sub end_prepared
{
	$node->safe_psql('postgres', q{SELECT 'ROLLBACK PREPARED ' || quote_literal(gid) FROM pg_prepared_xacts \gexec});
	return;
}

# Looks at the stack while a storm goes on.
sub look
{
	my ($seconds, $seen) = @_;
	my $until = time() + $seconds;

	while (time() < $until)
	{
		my ($status, $answer) = $node->psql('postgres', $broken, timeout => 60);

		if ($status == 0)
		{
			$seen->{looks}++;
			$seen->{broken} += $answer;
		}
		my $held = token_holds(++$seen->{number});

		next unless defined $held;
		$seen->{tokens}++;
		$seen->{lost}++ if $held ne 't';
	}
	return;
}

# Every storey is what it is over the tables alone, by the plain query and by cqrs.verify.
sub all_equal
{
	my ($when) = @_;
	my @unequal = map { my ($name, undef, $truth) = @$_; qq{
		SELECT '$name', count(*) FROM (
			(TABLE $name EXCEPT ALL ($truth)) UNION ALL (($truth) EXCEPT ALL TABLE $name)) d HAVING count(*) > 0;
		SELECT '$name', 'verify', count(*) FROM cqrs.verify('$name') HAVING count(*) > 0;} } @storeys;

	ok(caught_up($node, $_), "$_ catches up $when") foreach qw(sides balance_total);
	is($node->safe_psql('postgres', join('', @unequal)), '', "all storeys equal their queries over the tables $when");
	is($node->safe_psql('postgres', $broken), '0', "they agree $when");
	return;
}

make_storm($node);
$node->safe_psql('postgres', sprintf("INSERT INTO orders VALUES (%d, NULL, 'mark')", MARK));
foreach my $storey (@storeys)
{
	$node->safe_psql('postgres', "SELECT cqrs.create_projection('$storey->[0]', \$q\$$storey->[1]\$q\$)");
}
ok($node->safe_psql('postgres', "SELECT cqrs.wait_until_serving('sides', '30 s') AND cqrs.wait_until_serving('balance_total', '30 s')") eq 't',
	'the worker builds the stacks, from below');
all_equal('at first');

my %seen = map { $_ => 0 } qw(looks broken tokens lost number);
foreach my $round (1 .. 3)
{
	my $storm = storm_start($node, 5, 3);

	look(1 + rand(0.5), \%seen);
	if ($round % 2)
	{
		ok(kill('KILL', worker_pid($node)), "round $round: the worker is killed");
		sleep(0.2);
		$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	storm_finish($storm, 1);
	end_prepared();
	$storm = storm_start($node, 5, 2);
	look(1.5, \%seen);
	storm_finish($storm, 1);
	end_prepared();
	all_equal("after round $round");
}
is($seen{broken}, 0, "all storeys agree in every snapshot ($seen{looks} looked at)");
is($seen{lost}, 0, "a token that the highest has passed all have passed ($seen{tokens} tried)");
cmp_ok($seen{tokens}, '>', 0, 'tokens were tried');

# One in the middle stands still, by a pause and by an error, while others go on; then it is evaluated anew.
my $storm = storm_start($node, 4, 3);

$node->safe_psql('postgres', q{SELECT cqrs.pause('status_sums')});
sleep(1);
ok(caught_up($node, 'order_sums'), 'those below a paused one go on');
is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT health, ',') FROM cqrs.lag WHERE projection IN ('status_sums', 'sides')}), 'paused',
	'a paused one, and who reads it, say so');
$node->safe_psql('postgres', q{SELECT cqrs.resume('status_sums')});
storm_finish($storm, 1);
all_equal('after a pause');

$node->safe_psql('postgres', q{SELECT cqrs.create_projection('ratios', 'SELECT id, 1 / (q - 777) AS ratio FROM order_sums');
	SELECT cqrs.wait_until_serving('ratios', '30 s')});
$node->safe_psql('postgres', sprintf('INSERT INTO line VALUES (%d, 1, 777)', MARK));
ok(defined until_true($node, q{SELECT health = 'failing' FROM cqrs.lag WHERE projection = 'ratios'::regclass}), 'one fails by itself, and is reported');
all_equal('beside one that fails');
$node->safe_psql('postgres', sprintf('UPDATE line SET quantity = 7 WHERE orders = %d', MARK));
ok(caught_up($node, 'ratios'), 'it heals with its data');
is($node->safe_psql('postgres', q{SELECT count(*) FROM cqrs.verify('ratios')}), '0', 'and has missed nothing');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP/, 'nothing crashed by itself');
$node->stop;
done_testing();
