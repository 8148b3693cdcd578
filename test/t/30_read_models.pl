# Read models as applications have them, over Northwind and Chinook (test/models/*.sql), through a day of both shops: orders and prices, people who move, and
# what hurts: keys that swap, groups that die and return, whole tables emptied and filled again, nulls that come into keys, rolled back savepoints, and
# transactions that commit windows after they wrote.  If this fails, a read model somebody really wants does not equal its query, and it is named; or it is
# evaluated in full though it does not say that it must be.
# SEED chooses the day.
use strict;
use warnings;

use CqrsTest;
use Test::More;

use constant {
	WINDOWS => 14,
	LATE_FROM => 6,
	LATE_UNTIL => 10
};

my $seed = $ENV{SEED} // 20;
my $node = new_server('read_models', 'cqrs.max_workers = 0', 'fsync = off', 'autovacuum = off', 'jit = off', 'client_min_messages = warning',
	'lock_timeout = 10s');
my $number = 20000;		# of what is new

sub chance { return rand() < $_[0] }
sub pick { return $_[int(rand(@_))] }

# ---- Northwind: what happens in a day.  ALFKI and order 10248 belong to late transactions.

sub an_order { return 10249 + int(rand(829)) }
sub a_product { return 1 + int(rand(77)) }
sub a_date { return sprintf("date '1998-%02d-%02d'", 1 + int(rand(6)), 1 + int(rand(28))) }

sub a_customer
{
	return pick(qw(ANATR ANTON AROUT BERGS BLAUS BLONP BOLID BONAP BOTTM BSBEV CACTU CENTC CHOPS COMMI CONSH DRACD DUMON EASTC ERNSH FAMIA FISSA PARIS));
}

my @northwind = (
	sub {
		my $order = $number++;

		return ("INSERT INTO orders (order_id, customer_id, employee_id, ship_via, order_date, required_date, freight, ship_country) VALUES ($order, '"
			  . a_customer() . q{', } . (1 + int(rand(9))) . ', ' . pick(1, 2, 3, 'NULL') . ', ' . a_date() . ', ' . a_date() . ', 12.5, ' . pick(q{'France'}, 'NULL') . ')',
			"INSERT INTO order_details SELECT DISTINCT ON (p) $order, p, 10.5, 1 + p % 7, 0.05 FROM (VALUES (" . join('), (', map { a_product() } 1 .. 4) . ')) v (p)');
	},
	sub { return 'UPDATE order_details SET quantity = 1 + (quantity * 7) % 40, discount = ' . pick('0', '0.1', '0.25') . ' WHERE order_id = ' . an_order() },
	sub { return 'DELETE FROM order_details WHERE order_id = ' . an_order() . ' AND quantity > ' . int(rand(30)) },
	sub { my $order = an_order(); return ("DELETE FROM order_details WHERE order_id = $order", "DELETE FROM orders WHERE order_id = $order") },
	sub { return 'UPDATE orders SET shipped_date = ' . pick('NULL', a_date()) . ', ship_via = ' . pick(1, 2, 'NULL') . ' WHERE order_id = ' . an_order() },
	sub { return q{UPDATE orders SET customer_id = } . pick('NULL', q{'} . a_customer() . q{'}) . ' WHERE order_id = ' . an_order() },
	sub { return 'UPDATE orders SET order_date = ' . pick('NULL', a_date()) . ', ship_country = ' . pick('NULL', q{'Peru'}) . ' WHERE order_id = ' . an_order() },
	sub { return 'UPDATE products SET unit_price = unit_price + 0.25, units_in_stock = units_in_stock - 3 WHERE product_id = ' . a_product() },
	sub { return 'UPDATE products SET category_id = ' . pick('NULL', 1 .. 8) . ', supplier_id = ' . pick('NULL', 1 .. 29) . ' WHERE product_id = ' . a_product() },
	sub { return q{UPDATE customers SET country = } . pick('NULL', q{'Peru'}, q{'France'}) . ", city = 'Lima', company_name = 'new name' WHERE customer_id = '" . a_customer() . q{'} },
	sub { return 'UPDATE employees SET reports_to = ' . pick('NULL', 2, 5) . ' WHERE employee_id = ' . pick(1, 3, 4, 6, 7, 8, 9) },
	sub { return q{DELETE FROM employee_territories WHERE employee_id = } . (1 + int(rand(9))) },
	sub { return 'INSERT INTO employee_territories SELECT ' . (1 + int(rand(9))) . ', territory_id FROM territories WHERE region_id = ' . pick(1 .. 4) . ' ON CONFLICT DO NOTHING' },
	sub { return q{UPDATE territories SET region_id = } . pick(1 .. 4) . q{ WHERE territory_id LIKE '} . pick(0, 1, 4, 9) . q{%'} },
	sub { return 'SAVEPOINT s; DELETE FROM order_details WHERE order_id = ' . an_order() . '; UPDATE products SET category_id = NULL; ROLLBACK TO s' });

# What hurts, every other window; the fourth and fifth while a late transaction is open, the last in the last window.
my @northwind_hard = (
	[ q{UPDATE orders SET customer_id = CASE customer_id WHEN 'ANTON' THEN 'AROUT' ELSE 'ANTON' END WHERE customer_id IN ('ANTON', 'AROUT')} ],
	[ q{UPDATE products SET category_id = 9 - category_id} ],
	[ 'CREATE TEMPORARY TABLE kept AS TABLE order_details', 'TRUNCATE order_details', 'INSERT INTO order_details SELECT * FROM kept WHERE product_id % 2 = 0', 'DROP TABLE kept' ],
	[ 'DELETE FROM employee_territories', q{INSERT INTO employee_territories SELECT 1, territory_id FROM territories WHERE region_id = 1} ],
	[ q{DELETE FROM order_details WHERE product_id = 11 AND order_id <> 10248}, q{INSERT INTO order_details SELECT order_id, 11, 1, 1, 0 FROM orders WHERE order_id % 50 = 0 ON CONFLICT DO NOTHING} ],
	[ q{UPDATE customers SET country = NULL WHERE country = 'Germany' AND customer_id <> 'ALFKI'} ],
	[ 'TRUNCATE employee_territories' ],
	[ 'UPDATE orders SET shipped_date = NULL WHERE order_id % 3 = 0', 'UPDATE order_details SET quantity = quantity + 1' ]);
my @northwind_late = (
	q{UPDATE customers SET company_name = 'Alfreds', country = 'Chile' WHERE customer_id = 'ALFKI'}, q{UPDATE orders SET customer_id = 'ALFKI', shipped_date = NULL WHERE order_id = 10248},
	'DELETE FROM order_details WHERE order_id = 10248');

# ---- Chinook.  Customer 1, invoice 98 and track 3 belong to late transactions.

sub a_track { return 4 + int(rand(3500)) }
sub an_invoice { return 99 + int(rand(314)) }

my @chinook = (
	sub {
		my $invoice = $number++;

		return ("INSERT INTO invoice (invoice_id, customer_id, invoice_date, billing_country, total) VALUES ($invoice, " . (2 + int(rand(57)))
			  . ", timestamp '2025-0" . pick(1 .. 9) . "-11', " . pick(q{'Brazil'}, q{'BRAZIL'}, 'NULL') . ', ' . pick('1.98', '17.50') . ')',
			"INSERT INTO invoice_line SELECT 100 * $invoice + t % 97, $invoice, t, 0.99, 1 FROM (SELECT DISTINCT t % 97, max(t) FROM (VALUES ("
			  . join('), (', map { a_track() } 1 .. 3) . ')) v (t) GROUP BY 1) d (n, t)');
	},
	sub { my $invoice = an_invoice(); return ("DELETE FROM invoice_line WHERE invoice_id = $invoice", "DELETE FROM invoice WHERE invoice_id = $invoice") },
	sub { return 'DELETE FROM invoice_line WHERE invoice_id = ' . an_invoice() . ' AND invoice_line_id % 2 = 0' },
	sub { return 'UPDATE invoice_line SET quantity = 1 + quantity % 3, track_id = ' . a_track() . ' WHERE invoice_line_id = ' . (580 + int(rand(1600))) },
	sub { return 'UPDATE invoice SET total = total + ' . pick('0', '1.00', '5.00') . ', invoice_date = invoice_date + interval \'40 days\' WHERE invoice_id = ' . an_invoice() },
	sub { return 'UPDATE invoice SET customer_id = ' . (2 + int(rand(57))) . ' WHERE invoice_id = ' . an_invoice() },
	sub { return 'UPDATE track SET genre_id = ' . pick('NULL', 1 .. 25) . ', unit_price = 1.29 WHERE track_id = ' . a_track() },
	sub { return 'UPDATE track SET album_id = ' . pick('NULL', 1 .. 40) . ', composer = ' . pick('NULL', q{'Bach, J. S.'}, q{'bach/Handel'}) . ' WHERE track_id = ' . a_track() },
	sub { return q{UPDATE album SET title = 'Live', artist_id = } . (1 + int(rand(275))) . ' WHERE album_id = ' . (1 + int(rand(347))) },
	sub { return 'UPDATE artist SET name = ' . pick(q{'Live'}, 'NULL', q{'AC/DC'}) . ' WHERE artist_id = ' . (1 + int(rand(275))) },
	sub { return 'INSERT INTO playlist_track SELECT ' . (1 + int(rand(18))) . ', track_id FROM track WHERE album_id = ' . (1 + int(rand(347))) . ' ON CONFLICT DO NOTHING' },
	sub { return 'DELETE FROM playlist_track WHERE playlist_id = ' . pick(5, 8, 12, 17) . ' AND track_id % 11 = ' . int(rand(11)) },
	sub { return 'UPDATE customer SET support_rep_id = ' . pick('NULL', 3, 4, 5) . ', company = ' . pick('NULL', q{'Acme'}) . ' WHERE customer_id = ' . (2 + int(rand(57))) },
	sub { return 'UPDATE genre SET name = ' . pick(q{'Rock'}, 'NULL', q{'Polka'}) . ' WHERE genre_id = ' . (1 + int(rand(25))) },
	sub { return 'UPDATE employee SET reports_to = ' . pick('NULL', 1, 2) . ' WHERE employee_id = ' . (3 + int(rand(6))) },
	sub { return 'SAVEPOINT s; DELETE FROM invoice_line WHERE invoice_id = ' . an_invoice() . '; UPDATE genre SET name = NULL; ROLLBACK TO s; UPDATE track SET genre_id = 2 WHERE track_id = ' . a_track() });
my @chinook_hard = (
	[ 'UPDATE track SET album_id = CASE album_id WHEN 10 THEN 11 ELSE 10 END WHERE album_id IN (10, 11)', 'UPDATE album SET artist_id = 277 - artist_id WHERE artist_id BETWEEN 2 AND 275' ],
	[ 'TRUNCATE playlist_track', 'INSERT INTO playlist_track SELECT 1 + track_id % 18, track_id FROM track WHERE track_id % 3 = 0' ],
	[ q{DELETE FROM invoice_line WHERE track_id IN (SELECT track_id FROM track WHERE genre_id = 1) AND invoice_id <> 98} ],
	[ q{INSERT INTO invoice_line SELECT 900000 + track_id, 200 + track_id % 100, track_id, 0.99, 2 FROM track JOIN invoice ON invoice_id = 200 + track_id % 100 WHERE genre_id = 1 AND track_id % 5 = 0} ],
	[ 'UPDATE track SET genre_id = NULL WHERE genre_id = 3', 'UPDATE invoice SET total = 20 WHERE customer_id = 15' ],
	[ q{UPDATE invoice SET billing_country = upper(billing_country) WHERE invoice_id % 2 = 0 AND invoice_id <> 98} ],
	[ 'DELETE FROM playlist_track', 'DELETE FROM playlist', q{INSERT INTO playlist VALUES (7, 'again')}, 'INSERT INTO playlist_track SELECT 7, track_id FROM track WHERE album_id < 30' ],
	[ 'UPDATE invoice_line SET quantity = quantity + 1 WHERE invoice_id <> 98' ]);
my @chinook_late = (
	q{UPDATE customer SET first_name = 'Late', company = NULL, support_rep_id = 4 WHERE customer_id = 1}, 'UPDATE invoice SET total = 0, customer_id = 1 WHERE invoice_id = 98',
	'DELETE FROM invoice_line WHERE invoice_id = 98', q{UPDATE track SET name = 'Late', album_id = NULL WHERE track_id = 3});

# ---- running

# What a file of read models holds: what to run first, and a list of [name, key, ', full' if it can be nothing else, what is hard, query].
sub read_models
{
	my ($name) = @_;
	my ($first, @parts) = split(/^-- (\w+) \(([\w, ]*)\)(, full)?: (.*)\n/m, PostgreSQL::Test::Utils::slurp_file("test/models/$name.sql"));
	my @models;

	push @models, [ splice(@parts, 0, 5) ] while @parts;
	$_->[4] =~ s{;\s*\z}{} foreach @models;
	return ($first, @models);
}

# The transactions of a window, in the words of psql.  One that a constraint refuses, since rows it needs are gone by now, is rolled back.
sub window_script
{
	my ($changes, $hard, $late, $window) = @_;
	my @transactions = map { [ map { pick(@$changes)->() } 1 .. pick(1, 1, 2) ] } 1 .. 5;
	my $script = '';

	push @transactions, $hard->[ $window / 2 ] if $window % 2 && $window / 2 < @$hard;
	push @transactions, $hard->[-1] if $window == WINDOWS;
	$script .= 'BEGIN; ' . join('; ', @$late) . "; PREPARE TRANSACTION 'late';\n" if $window == LATE_FROM;
	$script .= 'BEGIN; ' . join('; ', @$_) . '; ' . (chance(0.9) ? 'COMMIT' : 'ROLLBACK') . ";\n" foreach @transactions;
	$script .= "COMMIT PREPARED 'late';\n" if $window == LATE_UNTIL;
	return "\\set ON_ERROR_STOP off\n$script\\set ON_ERROR_STOP on\n";
}

# A read model equals its query, at one snapshot, both ways.
sub comparison
{
	my ($name, $query) = @_;

	return "WITH ours AS MATERIALIZED (TABLE read_models.$name), truth AS MATERIALIZED ($query) SELECT '$name differs in', count(*) "
	  . "FROM ((TABLE ours EXCEPT ALL TABLE truth) UNION ALL (TABLE truth EXCEPT ALL TABLE ours)) d HAVING count(*) > 0;\n";
}

# Takes a shop through its day.
sub test_shop
{
	my ($database, $changes, $hard, $late) = @_;
	my ($first, @models) = read_models($database);
	my $compare = join('', map { comparison($_->[0], $_->[4]) } @models);
	my $create = "CREATE SCHEMA read_models;\n";

	$node->safe_psql($database, "CREATE EXTENSION cqrs; ANALYZE; $first");
	$create .= "SELECT cqrs.create_projection('read_models.$_->[0]', \$q\$$_->[4]\$q\$, key => '{$_->[1]}');\n" foreach @models;
	$node->safe_psql($database, "$create SELECT cqrs.drain();");
	is($node->safe_psql($database, $compare), '', "$database: read models equal their queries when filled");
	foreach my $window (1 .. WINDOWS)
	{
		my $script = window_script($changes, $hard, $late, $window);
		my $found = $node->safe_psql($database, "${script}SELECT cqrs.drain() > 0;\n$compare");

		is($found, 't', "$database: read models equal their queries after window $window") or diag("seed $seed\n$script");
	}
	foreach my $model (@models)
	{
		my ($name, $key, $full, $what) = @$model;
		my $strategy = $node->safe_psql($database, "SELECT strategy FROM cqrs.versions WHERE projection = 'read_models.$name'::regclass");

		is($node->safe_psql($database, "SELECT * FROM cqrs.verify('read_models.$name') LIMIT 3"), '', "$name is verified ($strategy): $what");
		is($strategy eq 'full', defined $full, "$name is maintained as well as it can be");
	}
	return scalar @models;
}

# README.md has a table of constructs: each has a read model that is tested, here, in sql/plan.sql, sql/delta.sql or sql/narrow.sql, and that is full only if the table says so.
sub test_table
{
	my ($table) = PostgreSQL::Test::Utils::slurp_file('README.md') =~ /^\| construct \| strategy \|.*?\n\|-.*?\n(.*?)\n\n/ms;
	my $statements = join('', map { PostgreSQL::Test::Utils::slurp_file("sql/$_.sql") } qw(plan delta narrow));
	my %full = map { $_->[0] => defined $_->[2] } map { my (undef, @models) = read_models($_); @models } qw(northwind chinook);

	foreach my $row (split(/\n/, $table))
	{
		my (undef, $construct, $strategy, $names) = map { s/^\s+|\s+$//gr } split(/(?<!\\)\|/, $row);
		my @names = $names =~ /`(\w+)`/g;

		isnt(scalar @names, 0, "README.md names a test of $construct");
		foreach my $name (@names)
		{
			like($statements, qr/\b$name\b/, "$name of README.md is tested in sql") unless exists $full{$name};
			like($strategy, qr/full/, "README.md says when $construct is full, as $name is") if $full{$name};
		}
	}
	return;
}

test_table();
note("seed $seed");
srand($seed);
$node->safe_psql('postgres', 'CREATE DATABASE northwind');
$node->safe_psql('northwind', PostgreSQL::Test::Utils::slurp_file('test/data/northwind.sql') . 'SET search_path = public');
$node->safe_psql('postgres', PostgreSQL::Test::Utils::slurp_file('test/data/chinook.sql'));
my $models = test_shop('northwind', \@northwind, \@northwind_hard, \@northwind_late) + test_shop('chinook', \@chinook, \@chinook_hard, \@chinook_late);

cmp_ok($models, '>=', 40, 'there are forty read models');
$node->stop;
done_testing();
