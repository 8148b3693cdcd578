# What the TAP tests share: servers that load the library, the oracle, clients, and a storm of writers.
package CqrsTest;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  new_server differences is_equal caught_up until_true worker_pid stop_at stopped_at
  make_storm storm_projections storm_start storm_finish storm_equal
);

# A running server with the library preloaded, an extension in database postgres, and a worker that never wakes without a reason: what
# arrives at all, arrives because somebody was woken for it.  There is a superuser postgres, whoever runs the tests.
sub new_server
{
	my ($name, @settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '-E', 'UTF8' ]);
	$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'cqrs'
max_prepared_transactions = 50
restart_after_crash = on
cqrs.naptime = '1h'
log_statement = none
CONF
	$node->append_conf('postgresql.conf', "$_\n") foreach @settings;
	$node->start;
	$node->safe_psql('postgres', q{DO $$ BEGIN CREATE ROLE postgres SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
		CREATE EXTENSION cqrs});
	return $node;
}

# The oracle that is not our own: how many rows of view and query differ, as multisets, both ways, at one snapshot.
sub differences
{
	my ($node, $view, $query, $database) = @_;

	return $node->safe_psql(
		$database // 'postgres', qq{
		WITH ours AS (TABLE $view), truth AS ($query)
		SELECT count(*) FROM ((TABLE ours EXCEPT ALL TABLE truth) UNION ALL (TABLE truth EXCEPT ALL TABLE ours)) d});
}

# View and query are equal, by that oracle and by cqrs.verify.
sub is_equal
{
	my ($node, $view, $query, $what, $database) = @_;
	my $found = differences($node, $view, $query, $database);
	my $verified = $node->safe_psql($database // 'postgres', "SELECT * FROM cqrs.verify('$view') LIMIT 5");

	return is("$found difference(s) [$verified]", '0 difference(s) []', $what);
}

# Waits until the view shows all that is committed now; false if it does not within 100 seconds.
sub caught_up
{
	my ($node, $view, $database) = @_;

	return $node->safe_psql($database // 'postgres', qq{
		SELECT cqrs.token() AS token \\gset
		SELECT cqrs.wait_for('$view', :'token', '100 s');}) eq 't';
}

# Asks until the query answers t, for at most that many seconds; returns after how many, or undef.
sub until_true
{
	my ($node, $query, $seconds, $database) = @_;
	my $began = time();

	while (time() - $began < ($seconds // 120))
	{
		my ($status, $answer) = $node->psql($database // 'postgres', $query);

		return time() - $began if $status == 0 && defined $answer && $answer eq 't';
		sleep(0.02);
	}
	diag("never true: $query");
	return;
}

# The process id of a database's worker, waited for.
sub worker_pid
{
	my ($node, $database) = @_;
	my $query = sprintf(
		q{SELECT pid FROM cqrs.workers WHERE role = 'worker' AND datname = '%s'}, $database // 'postgres');

	until_true($node, "SELECT EXISTS ($query)", 120, $database) // die 'no worker came';
	return $node->safe_psql($database // 'postgres', $query);
}

# Has processes wait at a point of base/waitpoint.h, until the session that is returned quits.
sub stop_at
{
	my ($node, $point, $database) = @_;
	my $session = $node->background_psql($database // 'postgres');

	$session->query_safe("SELECT pg_advisory_lock(hashtext('cqrs'), hashtext('$point'))");
	return $session;
}

# The process that waits there, waited for.
sub stopped_at
{
	my ($node, $point, $database) = @_;
	my $query = qq{SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (
		SELECT oid FROM pg_database WHERE datname = current_database()) AND objsubid = 2
		AND classid = (hashtext('cqrs')::bigint & 4294967295)::oid AND objid = (hashtext('$point')::bigint & 4294967295)::oid};

	until_true($node, "SELECT EXISTS ($query)", 120, $database) // die "nobody came to $point";
	return $node->safe_psql($database // 'postgres', "$query LIMIT 1");
}

# ---- the storm: a shop whose tables are written to in every way that has broken read models

# name => [query, key or undef, minimum strategy]
my %projections = (
	order_page => [ q{
		SELECT o.id, o.status, c.name AS customer, c.region, count(l.product) AS lines,
			sum(l.quantity * p.price) AS total, max(p.name) AS last_product
		FROM orders o
		LEFT JOIN customer c ON c.id = o.customer
		LEFT JOIN line l ON l.orders = o.id
		LEFT JOIN product p ON p.id = l.product
		GROUP BY o.id, c.id}, q{ARRAY['id']} ],
	line_page => [ q{
		SELECT l.orders, l.product, l.quantity, p.name, p.price, c.name AS customer, o.status
		FROM line l JOIN orders o ON o.id = l.orders JOIN product p ON p.id = l.product
		JOIN customer c ON c.id = o.customer WHERE o.status <> 'cancelled'}, q{ARRAY['orders', 'product']} ],
	region_sales => [ q{
		SELECT c.region, p.category, count(*) AS lines, sum(l.quantity) AS quantity, min(p.price) AS cheapest
		FROM line l JOIN orders o ON o.id = l.orders JOIN product p ON p.id = l.product
		LEFT JOIN customer c ON c.id = o.customer
		GROUP BY c.region, p.category HAVING sum(l.quantity) > 3}, undef ],
	everybody => [ q{
		SELECT c.id AS customer, o.id AS orders, c.name, o.status
		FROM customer c FULL JOIN orders o ON o.customer = c.id}, q{ARRAY['customer', 'orders']} ],
	notes => [ q{SELECT orders, body, count(*) AS times FROM note GROUP BY orders, body}, undef ],
	totals => [ q{SELECT count(*) AS lines, sum(quantity) AS quantity FROM line}, q{ARRAY[]::name[]} ],
	ranking => [ q{SELECT id, name, price, rank() OVER (ORDER BY price, id) AS place FROM product}, q{ARRAY['id']} ],
	account_page => [ q{SELECT id, balance FROM account}, undef ],
	account_total => [ q{SELECT sum(balance) AS total FROM account}, q{ARRAY[]::name[]} ],);

# Scripts of pgbench: name => [weight, script]
my %writers = (
	new_order => [ 8, q{
		\set o random(1, 400)
		\set c random(1, 45)
		BEGIN;
		INSERT INTO orders VALUES (:o, nullif(:c, 45), 'new') ON CONFLICT (id) DO UPDATE SET status = 'again', customer = excluded.customer;
		INSERT INTO line SELECT :o, 1 + (:o * i + :c) % 70, i FROM generate_series(1, 3) i ON CONFLICT DO NOTHING;
		INSERT INTO note SELECT :o, 'note ' || :c % 3 FROM generate_series(1, 2);
		END;} ],
	change => [ 8, q{
		\set o random(1, 400)
		\set p random(1, 60)
		\set c random(1, 40)
		UPDATE line SET quantity = 1 + (quantity + :c) % 9 WHERE orders = :o;
		UPDATE product SET price = 1 + (price * 7 + :c) % 100, category = nullif('cat ' || :c % 5, 'cat 4') WHERE id = :p;
		UPDATE orders SET customer = :c, status = (ARRAY['new', 'paid', 'cancelled'])[1 + :c % 3] WHERE id = :o;
		UPDATE customer SET region = nullif('region ' || :p % 4, 'region 3') WHERE id = :c;} ],
	both_sides => [ 6, q{
		\set o random(1, 400)
		\set p random(1, 60)
		\set c random(1, 40)
		BEGIN;
		DO $$ BEGIN
			UPDATE line SET product = product + 1 WHERE orders = :o AND product = :p;
		EXCEPTION WHEN unique_violation THEN NULL;
		END $$;
		DELETE FROM product WHERE id = :p;
		DELETE FROM orders WHERE id = :o;
		DELETE FROM customer WHERE id = :c;
		INSERT INTO customer VALUES (:c, 'again ' || :o, 'region ' || :p % 4) ON CONFLICT DO NOTHING;
		DO $$ BEGIN
			INSERT INTO product VALUES (:p, 'again ' || :o, :c, 'cat ' || :c % 5);
		EXCEPTION WHEN unique_violation THEN NULL;
		END $$;
		END;} ],
	late => [ 3, q{
		\set o random(1, 400)
		\set c random(1, 40)
		BEGIN;
		INSERT INTO note VALUES (:o, 'late');
		UPDATE customer SET name = 'late ' || :o WHERE id = :c;
		\sleep 150 ms
		UPDATE line SET quantity = quantity % 9 + 1 WHERE orders = :o;
		END;} ],
	early_id => [ 3, q{
		\set p random(1, 60)
		BEGIN;
		SELECT pg_current_xact_id();
		\sleep 50 ms
		UPDATE product SET price = price + 1, name = 'early' WHERE id = :p;
		END;} ],
	savepoints => [ 4, q{
		\set o random(1, 400)
		BEGIN;
		INSERT INTO note VALUES (:o, 'kept');
		SAVEPOINT a;
		DELETE FROM note WHERE orders = :o;
		UPDATE line SET quantity = 100 WHERE orders = :o;
		SAVEPOINT b;
		INSERT INTO note SELECT :o, 'never ' || i FROM generate_series(1, 40) i;
		RELEASE b;
		ROLLBACK TO a;
		UPDATE orders SET status = 'saved' WHERE id = :o;
		DO $$ BEGIN
			FOR i IN 1 .. 5 LOOP
				BEGIN
					UPDATE line SET quantity = quantity % 9 + 1 WHERE orders = i;
					IF i % 2 = 0 THEN RAISE EXCEPTION 'even'; END IF;
				EXCEPTION WHEN raise_exception THEN NULL;
				END;
			END LOOP;
		END $$;
		END;} ],
	rolled_back => [ 2, q{
		\set o random(1, 400)
		BEGIN;
		UPDATE line SET quantity = 1000 WHERE orders = :o;
		DELETE FROM orders WHERE id = :o;
		ROLLBACK;} ],
	prepared => [ 2, q{
		\set o random(1, 400)
		\set n random(1, 1000000000)
		BEGIN;
		INSERT INTO note VALUES (:o, 'prepared');
		UPDATE orders SET status = 'prepared' WHERE id = :o;
		PREPARE TRANSACTION 'p:n';
		\sleep 30 ms
		COMMIT PREPARED 'p:n';} ],
	swap => [ 3, q{
		\set p random(1, 59)
		DO $$ BEGIN
			UPDATE product SET id = CASE id WHEN :p THEN :p + 1 ELSE :p END WHERE id IN (:p, :p + 1);
		EXCEPTION WHEN unique_violation THEN NULL;
		END $$;
		\set o random(1, 400)
		DO $$ BEGIN
			UPDATE orders SET id = :o + 1000 WHERE id = :o;
		EXCEPTION WHEN unique_violation THEN NULL;
		END $$;
		DELETE FROM orders WHERE id > 1000 AND id % 2 = 0;} ],
	duplicates => [ 3, q{
		\set o random(1, 400)
		DELETE FROM note WHERE ctid = (SELECT min(ctid) FROM note WHERE orders = :o);
		UPDATE note SET body = 'same' WHERE ctid = (SELECT max(ctid) FROM note WHERE orders = :o);} ],
	transfer => [ 8, q{
		\set a random(1, 100)
		\set b random(1, 100)
		\set n random(1, 50)
		BEGIN;
		UPDATE account SET balance = balance - :n WHERE id = :a;
		UPDATE account SET balance = balance + :n WHERE id = :b;
		END;} ],
	watch => [ 2, q{
		SELECT count(health), sum(pending) FROM cqrs.lag;
		SELECT count(strategy), sum(bytes) FROM cqrs.versions;
		SELECT count(*) FROM cqrs.projections p JOIN cqrs.checkpoints c USING (projection) JOIN cqrs.sources s ON true;
		SELECT count(*) FROM cqrs.workers, cqrs.history;} ],
	truncate => [ 1, q{
		DO $$ BEGIN
			SET LOCAL lock_timeout = '500ms';
			TRUNCATE note;
			INSERT INTO note SELECT i % 20, 'after' FROM generate_series(1, 60) i;
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN NULL;
		END $$;
		\sleep 200 ms} ],
	rewrite => [ 1, q{
		DO $$ BEGIN
			SET LOCAL lock_timeout = '500ms';
			ALTER TABLE product DROP COLUMN IF EXISTS stamp, ADD COLUMN stamp float8 DEFAULT random();
			ALTER TABLE account DROP COLUMN IF EXISTS stamp, ADD COLUMN stamp float8 DEFAULT random();
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN NULL;
		END $$;
		\sleep 300 ms} ],);

# Makes the shop's tables.
sub make_storm
{
	my ($node) = @_;

	$node->safe_psql('postgres', q{
		CREATE TABLE customer (id integer PRIMARY KEY, name text, region text);
		CREATE TABLE product (id integer PRIMARY KEY DEFERRABLE, name text, price numeric, category text);
		CREATE TABLE orders (id integer PRIMARY KEY, customer integer, status text);
		CREATE TABLE line (orders integer REFERENCES orders ON UPDATE CASCADE ON DELETE CASCADE, product integer,
			quantity integer, PRIMARY KEY (orders, product));
		CREATE TABLE note (orders integer, body text);
		CREATE TABLE account (id integer PRIMARY KEY, balance integer);
		INSERT INTO customer SELECT i, 'customer ' || i, nullif('region ' || i % 4, 'region 3') FROM generate_series(1, 40) i;
		INSERT INTO product SELECT i, 'product ' || i, i % 17, nullif('cat ' || i % 5, 'cat 4') FROM generate_series(1, 60) i;
		INSERT INTO account SELECT i, 1000 FROM generate_series(1, 100) i;
		ALTER DATABASE postgres SET deadlock_timeout = '100ms'});
	return;
}

# Creates read models of the shop, all or those named, and waits until they serve.
sub storm_projections
{
	my ($node, @names) = @_;

	foreach my $name (@names ? @names : sort keys %projections)
	{
		my ($query, $key) = @{ $projections{$name} };

		$node->safe_psql('postgres', sprintf(q{SELECT cqrs.create_projection('%s', $q$%s$q$, key => %s)}, $name, $query, $key // 'NULL'));
	}
	return;
}

# Starts that many clients for that many seconds; returns what storm_finish wants.
sub storm_start
{
	my ($node, $clients, $seconds) = @_;
	my $folder = PostgreSQL::Test::Utils::tempdir();
	my @command = ('pgbench', '-n', '-c', $clients, '-j', 1, '-T', $seconds, '--max-tries=20');
	my %storm = (output => '');

	foreach my $name (sort keys %writers)
	{
		my ($weight, $script) = @{ $writers{$name} };

		# A command of pgbench ends with its line unless it is SQL, which ends with its semicolon.
		$script =~ s/^\s+//mg;
		PostgreSQL::Test::Utils::append_to_file("$folder/$name", "$script\n");
		push @command, '-f', "$folder/$name\@$weight";
	}
	$storm{timeout} = IPC::Run::timeout(180);
	$storm{handle} = IPC::Run::start([ @command, $node->connstr('postgres') ], '>', \$storm{output}, '2>&1', $storm{timeout});
	return \%storm;
}

# Waits for the clients; returns how many transactions they made, or undef with their last words shown if one of them failed.
sub storm_finish
{
	my ($storm, $may_fail) = @_;
	my $good = IPC::Run::finish($storm->{handle});

	if (!$good && !$may_fail)
	{
		diag($storm->{output});
		return;
	}
	return $storm->{output} =~ /number of transactions actually processed: (\d+)/ ? $1 : 0;
}

# Waits until the read models of the shop show all, and compares each with its query.
sub storm_equal
{
	my ($node, $when, @names) = @_;

	foreach my $name (@names ? @names : sort keys %projections)
	{
		ok(caught_up($node, $name), "$name catches up $when");
		is_equal($node, $name, $projections{$name}[0], "$name equals its query $when");
	}
	return;
}

1;
