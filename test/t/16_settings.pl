# The creator's settings are part of a query; the database's, the owner's and those that a function leaves behind are not.  A worker under other settings would write other texts
# than the creator meant, and a hostile default would stop it; what one query leaves behind would change what the next one yields.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('settings', q{timezone = 'UTC'}, q{datestyle = 'ISO, MDY'}, 'cqrs.retry_max = 300ms', 'autovacuum = off');
my $texts = q{SELECT id, at::text AS plain, to_jsonb(at) AS json, concat(day) AS day, span::text AS span, format('%s', bytes) AS bytes,
	to_char(at, 'HH24') AS hour, real AS real, to_tsvector(words)::text AS words FROM event};

# The creator's session is in Tokyo, with everything else unusual, too.
my $creator = q{SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German, DMY'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = -3;
	SET bytea_output = 'escape'; SET default_text_search_config = 'pg_catalog.german'; SET search_path = shop, public;};

$node->safe_psql('postgres', qq{
	CREATE SCHEMA shop;
	CREATE TABLE shop.event (id integer PRIMARY KEY, at timestamptz, day date, span interval, bytes bytea, real float8, words text);
	INSERT INTO shop.event VALUES (1, '2026-03-01 20:00:00Z', '2026-03-01', '1 day 2 hours', '\\x4142ff', 0.1 + 0.2, 'die Häuser und die Bäume');
	CREATE FUNCTION shop.label(integer) RETURNS text LANGUAGE sql STABLE AS \$\$ SELECT 'right ' || \$1 \$\$;
	CREATE FUNCTION public.label(integer) RETURNS text LANGUAGE sql STABLE AS \$\$ SELECT 'wrong ' || \$1 \$\$;
	$creator
	SELECT cqrs.create_projection('shop.texts', \$q\$$texts\$q\$);
	SELECT cqrs.create_projection('shop.labels', 'SELECT id, label(id) AS label FROM event');
	CREATE VIEW shop.truth AS $texts;});
ok(caught_up($node, 'shop.texts'), 'the worker fills');

# Compares under the creator's settings.
sub is_creators
{
	my ($when) = @_;

	is($node->safe_psql('postgres', qq{$creator
		SELECT count(*) FROM ((TABLE shop.texts EXCEPT ALL TABLE shop.truth) UNION ALL (TABLE shop.truth EXCEPT ALL TABLE shop.texts)) d}),
		0, "$when: as its creator saw it");
	is($node->safe_psql('postgres', q{SELECT * FROM cqrs.verify('shop.texts')}), '', "$when: verify agrees, under whatever settings it is asked");
	return;
}

is_creators('filled by the worker');
is($node->safe_psql('postgres', 'SELECT json FROM shop.texts'), '"2026-03-02T05:00:00+09:00"', 'the time is of Tokyo');
$node->safe_psql('postgres', q{INSERT INTO shop.event SELECT i, '2026-01-01Z'::timestamptz + i * interval '7 hours', '2026-01-01'::date + i, i * interval '25 hours',
	decode(lpad(to_hex(i), 4, '0'), 'hex'), i / 3.0, 'Häuser ' || i FROM generate_series(2, 50) i; UPDATE shop.event SET words = 'Baum' WHERE id = 1});
ok(caught_up($node, 'shop.texts'), 'the worker applies');
is_creators('applied by the worker');
$node->safe_psql('postgres', q{SET TimeZone = 'America/Lima'; SET DateStyle = 'SQL, DMY'; SET extra_float_digits = 3; SET search_path = public;
	BEGIN; SELECT cqrs.pause('shop.texts'); COMMIT; UPDATE shop.event SET at = at + interval '1 hour', real = real * 2;
	SELECT cqrs.resume('shop.texts'); SELECT cqrs.drain('shop.texts')});
is_creators('applied by another session');
ok(caught_up($node, 'shop.labels'), 'names are resolved as its creator resolved them');
is($node->safe_psql('postgres', q{SELECT count(*) FROM shop.labels WHERE label <> 'right ' || id}), 0, 'also in another search_path');

# Defaults of the database and of the owner that would stop a worker or have it write nonsense.  Our own sessions are spared.
$ENV{PGOPTIONS} = '-c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed'
	. ' -c idle_in_transaction_session_timeout=0 -c session_replication_role=origin -c default_transaction_deferrable=off';
foreach my $setting (
	q{statement_timeout = '1ms'}, q{lock_timeout = '1ms'}, q{idle_in_transaction_session_timeout = '1ms'},
	q{default_transaction_isolation = 'serializable'}, q{default_transaction_read_only = on}, q{default_transaction_deferrable = on},
	q{session_replication_role = replica}, q{row_security = off}, q{row_security = on}, q{search_path = pg_temp}, q{client_min_messages = error},
	q{check_function_bodies = off}, q{enable_nestloop = off}, q{work_mem = '64kB'}, q{temp_file_limit = 0}, q{array_nulls = off},
	q{default_table_access_method = nowhere}, q{default_tablespace = nowhere},
	q{standard_conforming_strings = off}, q{quote_all_identifiers = on}, q{transform_null_equals = on}, q{backslash_quote = off}, q{synchronous_commit = off},
	q{TimeZone = 'Asia/Kathmandu'}, q{jit_above_cost = 0}, q{plan_cache_mode = force_generic_plan})
{
	my ($status, undef, $error) = $node->psql('postgres', "ALTER DATABASE postgres SET $setting");

	next if $status != 0;			# this server does not take it at all
	my $pid = worker_pid($node);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	until_true($node, "SELECT EXISTS (SELECT FROM cqrs.workers WHERE role = 'worker' AND pid <> $pid)");
	$node->safe_psql('postgres', q{UPDATE shop.event SET words = words || '.', at = at + interval '1 minute' WHERE id % 5 = 0});
	ok(caught_up($node, 'shop.texts'), "the worker works under ALTER DATABASE SET $setting");
	(my $name = $setting) =~ s/ =.*//;
	$node->safe_psql('postgres', "ALTER DATABASE postgres RESET $name");
}
delete $ENV{PGOPTIONS};
is_creators('after all of them');

# With changes of session_replication_role = replica, as a subscription makes them.
$node->safe_psql('postgres', q{SET session_replication_role = replica; UPDATE shop.event SET words = 'replicated' WHERE id < 5; DELETE FROM shop.event WHERE id = 6});
ok(caught_up($node, 'shop.texts'), 'changes that replication applies count');
is_creators('applied by replication');

# Hostile defaults of the owner's role.
$node->safe_psql('postgres', q{CREATE ROLE keeper; GRANT CREATE, USAGE ON SCHEMA shop TO keeper; GRANT SELECT, TRIGGER ON shop.event TO keeper;
	ALTER ROLE keeper SET TimeZone = 'Asia/Kathmandu'; ALTER ROLE keeper SET statement_timeout = '1ms'; ALTER ROLE keeper SET search_path = 'pg_temp';
	ALTER ROLE keeper SET default_transaction_read_only = on;
	SET SESSION AUTHORIZATION keeper; SET TimeZone = 'Asia/Tokyo';
	SELECT cqrs.create_projection('shop.kept', 'SELECT id, at::text AS at FROM shop.event')});
ok(caught_up($node, 'shop.kept'), 'an owner may have defaults of his own');
$node->safe_psql('postgres', q{UPDATE shop.event SET at = at + interval '1 second'});
ok(caught_up($node, 'shop.kept'), 'which no batch runs under');
is($node->safe_psql('postgres', q{SET TimeZone = 'Asia/Tokyo'; SELECT count(*) FROM shop.kept k JOIN shop.event e ON e.id = k.id WHERE k.at <> e.at::text}), 0, 'but under those of the session that created it');
is_creators('with another owner beside');

# Functions in the query that leave things behind.
$node->safe_psql('postgres', q{
	CREATE TABLE thing (id integer PRIMARY KEY);
	CREATE TABLE clean (id integer PRIMARY KEY, at timestamptz);
	CREATE FUNCTION litter(value integer) RETURNS integer LANGUAGE plpgsql STABLE AS $$
	BEGIN
		PERFORM set_config('TimeZone', 'Asia/Kathmandu', false), set_config('search_path', 'pg_temp', false), set_config('DateStyle', 'German', false),
			set_config('work_mem', '64kB', false), set_config('statement_timeout', '1ms', false);
		PERFORM pg_advisory_lock(4712);
		RETURN value;
	END $$;
	SELECT cqrs.create_projection('clean_page', 'SELECT id, at::text AS at FROM clean');
	SELECT cqrs.create_projection('litter_page', 'SELECT id, litter(id) AS value FROM thing');});
ok(caught_up($node, 'litter_page') && caught_up($node, 'clean_page'), 'a function may leave things behind in the fill');
foreach my $i (1 .. 5)
{
	$node->safe_psql('postgres', "INSERT INTO thing VALUES ($i)");
	ok(caught_up($node, 'litter_page'), "and in a batch, $i") if $i % 2;
	$node->safe_psql('postgres', "INSERT INTO clean VALUES ($i, '2026-01-01Z')");
}
ok(caught_up($node, 'clean_page'), 'others go on');
is_equal($node, 'clean_page', 'SELECT id, at::text AS at FROM clean', 'under their own settings');
is_equal($node, 'litter_page', 'SELECT id, id AS value FROM thing', 'and so does it');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid IN (SELECT pid FROM cqrs.workers)}), 0, 'no lock of it stays with the worker');
is($node->safe_psql('postgres', q{SELECT pg_try_advisory_lock(4712)}), 't', 'others can have it');
is($node->safe_psql('postgres', q{SET TimeZone = 'Europe/Rome'; SELECT cqrs.drain('litter_page'); INSERT INTO thing VALUES (100); SELECT cqrs.drain('litter_page');
	SELECT current_setting('TimeZone')}) =~ s/.*\n//sr, 'Europe/Rome', 'nor does a setting with a session that drains');

# Analyzed and vacuumed before it serves: a reader's first query is planned for a table of its size.
$node->safe_psql('postgres', q{CREATE TABLE big AS SELECT i AS id, i % 10 AS kind FROM generate_series(1, 20000) i; ALTER TABLE big ADD PRIMARY KEY (id)});
$node->safe_psql('postgres', q{SELECT cqrs.create_projection('big_page', 'SELECT id, kind FROM big', indexes => ARRAY['(kind)'])});
# Who asks here holds a snapshot meanwhile, which keeps VACUUM from calling rows visible to all; so it is asked from another database.
ok(defined until_true($node, q{SELECT bool_or(state = 'idle' AND query = 'cqrs: apply public.big_page version 1') FROM pg_stat_activity
	WHERE backend_type = 'cqrs worker' AND datname = 'postgres'}, 30, 'template1'), 'a large one is built');
is($node->safe_psql('postgres', q{SELECT state FROM cqrs.versions WHERE projection = 'big_page'::regclass}), 'serving', 'and serves');
is($node->safe_psql('postgres', q{
	SELECT (SELECT count(*) FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = c.relname) || ' ' || c.reltuples || ' ' || (c.relallvisible > 0.9 * c.relpages)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = 'big_page' AND c.relkind = 'r'}), '2 20000 true', 'analyzed and vacuumed');

# Settings have bounds, and the prefix is ours.
foreach my $bad ('cqrs.naptime = 0', 'cqrs.max_workers = -1', 'cqrs.buffer_size = 1kB', 'cqrs.retry_initial = -5', 'cqrs.lock_timeout = -1', q{cqrs.synchronous_commit = maybe}, 'cqrs.no_such_setting = 1')
{
	my ($status, undef, $error) = $node->psql('postgres', "ALTER SYSTEM SET $bad");

	isnt($status, 0, "$bad is refused");
}

# What is read-only stays so.
foreach my $call (q{cqrs.create_projection('no', 'SELECT id FROM thing')}, q{cqrs.drop_projection('clean_page')}, q{cqrs.pause('clean_page')}, q{cqrs.drain('clean_page')},
	q{cqrs.capture('thing')}, q{cqrs.alter_projection('clean_page', description => 'x')}, q{cqrs.verify('clean_page')}, q{cqrs.token()})
{
	my ($status, $out, $error) = $node->psql('postgres', "BEGIN READ ONLY; SELECT $call; ROLLBACK");

	if ($call =~ /token/)
	{
		is("$status $error", '0 ', 'a token can be drawn in a read-only transaction');
	}
	else
	{
		like($error, qr/read-only transaction/, "$call is refused in a read-only transaction");
	}
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM cqrs.projections WHERE projection::text = 'no'}), 0, 'and nothing is half made');
$node->stop;
done_testing();
