# Whose rights count, and for what.  A projection must not read what its owner may not; a reader needs nothing but the serving view; nobody writes to what is derived; the outbox,
# which holds the rows of all sources, is for few; and whoever can create functions must not get one of ours to call them.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('security', 'cqrs.retry_initial = 100ms', 'cqrs.retry_max = 500ms');

# Runs SQL as a role; returns its output, or its error with the SQLSTATE in front.
sub as
{
	my ($role, $sql) = @_;
	my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nSET SESSION AUTHORIZATION $role;\n$sql", on_error_stop => 1);

	return $output if $status == 0;
	return $error =~ /(?:ERROR|FATAL):\s+(\w{5}): (.*)/ ? "$1 $2" : $error;
}

$node->safe_psql('postgres', q{
	CREATE ROLE owner; CREATE ROLE reader; CREATE ROLE stranger; CREATE ROLE auditor IN ROLE pg_read_all_data; CREATE ROLE writer;
	CREATE SCHEMA shop; GRANT USAGE ON SCHEMA shop TO PUBLIC; GRANT CREATE ON SCHEMA shop TO owner;
	CREATE TABLE shop.customer (id integer PRIMARY KEY, name text, card text);
	CREATE TABLE shop.sale (id integer PRIMARY KEY, customer integer, amount integer);
	CREATE TABLE shop.secret (id integer PRIMARY KEY, word text);
	INSERT INTO shop.customer VALUES (1, 'ann', '1234'), (2, 'bob', '5678');
	INSERT INTO shop.sale VALUES (1, 1, 10), (2, 2, 20);
	INSERT INTO shop.secret VALUES (1, 'swordfish');
	GRANT SELECT, TRIGGER ON shop.sale TO owner;
	GRANT SELECT (id, name), TRIGGER ON shop.customer TO owner;
	GRANT INSERT, UPDATE, DELETE, TRUNCATE, SELECT ON ALL TABLES IN SCHEMA shop TO writer;});
my $query = 'SELECT s.id, s.amount, c.name FROM shop.sale s JOIN shop.customer c ON c.id = s.customer';

# Creating.
is(as('owner', "SELECT cqrs.create_projection('shop.page', '$query', key => ARRAY['id'])"), 1, 'SELECT on the columns and TRIGGER are enough');
like(as('owner', q{SELECT cqrs.create_projection('shop.cards', 'SELECT id, card FROM shop.customer')}), qr/^42501/, 'a column one may not read is refused');
like(as('owner', q{SELECT cqrs.create_projection('shop.words', 'SELECT id, word FROM shop.secret')}), qr/^42501/, 'so is a table');
like(as('stranger', q{SELECT cqrs.create_projection('shop.mine', 'SELECT 1 AS one', key => ARRAY['one'])}), qr/^42501/, 'so is a schema one may not create in');
$node->safe_psql('postgres', 'GRANT SELECT ON shop.secret TO owner');
like(as('owner', q{SELECT cqrs.create_projection('shop.words', 'SELECT id, word FROM shop.secret')}), qr/^42501.*(capture|trigger)/i, 'without TRIGGER it is refused');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'cqrs\_words%' OR nspname LIKE 'cqrs\_cards%'}), 0, 'what is refused leaves nothing');
like(as('stranger', q{SELECT cqrs.capture('shop.sale')}), qr/^42501/, 'capture needs the right to');
ok(caught_up($node, 'shop.page'), 'the worker fills as the owner');

# Reading and writing.
like(as('reader', 'TABLE shop.page'), qr/^42501/, 'a reader without a grant reads nothing');
as('owner', 'GRANT SELECT ON shop.page TO reader');
is(as('reader', 'SELECT count(*) FROM shop.page'), 2, 'SELECT on the serving view is all that a reader needs');
my $table = $node->safe_psql('postgres', q{SELECT "table" FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection WHERE p.view = 'shop.page'::regclass});
my $definition = $table =~ s/\.page$/.definition/r;
like(as('reader', "TABLE $table"), qr/^42501/, 'the table behind it is not for readers');
like(as('reader', "TABLE $definition"), qr/^42501/, 'nor is the definition');
foreach my $role ('owner', 'postgres')
{
	foreach my $write ("INSERT INTO %s VALUES (9, 9, 'x')", 'UPDATE %s SET amount = 0', 'DELETE FROM %s', 'TRUNCATE %s')
	{
		foreach my $target ($table, 'shop.page')
		{
			next if $write =~ /TRUNCATE/ && $target eq 'shop.page';
			like(as($role, sprintf($write, $target)), qr/^42809 read model "page" is derived/, sprintf($write, $target) . " is refused to $role");
		}
	}
}
like(as('owner', "COPY $table FROM stdin;\n9\t9\tx\n\\.\n"), qr/^42809/, 'COPY too');
like(as('owner', 'DROP VIEW shop.page'), qr/^2BP01/, 'DROP VIEW is refused');
like(as('owner', q{CREATE OR REPLACE VIEW shop.page AS SELECT 1 AS id, 2 AS amount, 'x'::text AS name}), qr/^42809/, 'CREATE OR REPLACE VIEW is refused');
like(as('owner', 'DROP SCHEMA shop CASCADE'), qr/^42501/, 'the schema is not his to drop');
like(as('postgres', 'DROP SCHEMA shop CASCADE'), qr/^2BP01/, 'and dropping it does not take a serving view along');
like(as('postgres', 'DROP OWNED BY owner CASCADE'), qr/^2BP01/, 'nor does dropping all that is his');

# Managing.
foreach my $call (q{pause('shop.page')}, q{resume('shop.page')}, q{drain('shop.page')}, q{verify('shop.page')}, q{drop_projection('shop.page')}, q{explain('shop.page')}, q{alter_projection('shop.page', description => 'mine')})
{
	like(as('reader', "SELECT cqrs.$call"), qr/^42501/, "$call needs the owner");
}
is(as('reader', q{SELECT cqrs.drain()}), 0, 'drain without a name leaves alone what is not one\'s own');
like(as('reader', q{SELECT (SELECT count(*) FROM cqrs.lag) || (SELECT count(*) FROM cqrs.versions) || (SELECT count(*) FROM cqrs.projections) || (SELECT count(*) FROM cqrs.checkpoints)
	|| (SELECT count(*) FROM cqrs.sources) || (SELECT count(*) >= 0 FROM cqrs.workers) || (SELECT count(*) > 0 FROM cqrs.history) || (SELECT count(*) FROM cqrs.freshness('shop.page'))}), qr/^\d/, 'freshness and lag are for everybody');
is(as('writer', q{INSERT INTO shop.sale VALUES (3, 1, 30); SELECT cqrs.token() AS token \gset
	SELECT cqrs.wait_for('shop.page', :'token')}), 't', 'so are tokens and waits');

# The catalog and the outbox.
foreach my $relation (qw(projection version source version_source version_read verification shape checkpoint segment history aggregate outbox_1))
{
	foreach my $role (qw(owner writer stranger))
	{
		like(as($role, "SELECT * FROM cqrs_internal.$relation"), qr/^42501/, "$role cannot read cqrs_internal.$relation");
	}
	like(as('owner', "INSERT INTO cqrs_internal.$relation DEFAULT VALUES"), qr/^42501/, "nor write to cqrs_internal.$relation");
}
like(as($_, 'SELECT * FROM cqrs.outbox'), qr/^42501/, "$_ cannot read cqrs.outbox") foreach qw(owner writer stranger);
is(as('auditor', 'SELECT count(*) > 0 FROM cqrs.outbox'), 't', 'pg_read_all_data can');
like(as('owner', q{SELECT cqrs_internal.capture()}), qr/^(42501|0A000|39P01)/, 'the trigger function is not to be called');
like(as('stranger', q{CREATE TEMP TABLE t (id integer); CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION cqrs_internal.capture(); INSERT INTO t VALUES (1)}), qr/^(42501|39P01|$)/, 'a trigger of a stranger captures nothing');
is($node->safe_psql('postgres', q{
	SELECT string_agg(p.oid::regprocedure::text, ' ' ORDER BY 1) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('cqrs', 'cqrs_internal') AND p.prosecdef AND p.proconfig IS NULL}), '', 'no function with its definer\'s rights has an open search_path');

# The owner loses a right.
$node->safe_psql('postgres', q{REVOKE SELECT ON shop.sale FROM owner; INSERT INTO shop.sale VALUES (4, 2, 40)});
ok(defined until_true($node, q{SELECT status = 'failing' FROM cqrs.versions WHERE projection = 'shop.page'::regclass}), 'an owner who may not read a source any more gets nothing more of it');
is(as('reader', 'SELECT count(*) FROM shop.page'), 3, 'what was there stays');
like($node->safe_psql('postgres', q{SELECT error FROM cqrs.versions WHERE projection = 'shop.page'::regclass}), qr/permission denied/, 'with the reason');
is(as('stranger', q{SELECT error IS NULL FROM cqrs.versions WHERE projection = 'shop.page'::regclass}), 't', 'which strangers do not see');
is(as('writer', 'INSERT INTO shop.sale VALUES (5, 2, 50) RETURNING id'), 5, 'writers do not notice');
$node->safe_psql('postgres', 'GRANT SELECT ON shop.sale TO owner');
ok(caught_up($node, 'shop.page'), 'it heals when the right is given back');
is_equal($node, 'shop.page', $query, 'and is right');
$node->safe_psql('postgres', q{REVOKE SELECT (name) ON shop.customer FROM owner; UPDATE shop.customer SET name = 'robert' WHERE id = 2});
ok(defined until_true($node, q{SELECT status = 'failing' FROM cqrs.versions WHERE projection = 'shop.page'::regclass}), 'so with a column');
$node->safe_psql('postgres', 'GRANT SELECT (name) ON shop.customer TO owner');
ok(caught_up($node, 'shop.page'), 'and back');

# Row security that comes to apply.
$node->safe_psql('postgres', q{CREATE POLICY few ON shop.sale FOR SELECT TO owner USING (id < 3); ALTER TABLE shop.sale ENABLE ROW LEVEL SECURITY; INSERT INTO shop.sale VALUES (6, 1, 60)});
ok(defined until_true($node, q{SELECT status = 'failing' FROM cqrs.versions WHERE projection = 'shop.page'::regclass}), 'row security that applies to the owner is an error, not fewer rows');
like(as('owner', q{SELECT cqrs.create_projection('shop.filtered', 'SELECT id FROM shop.sale')}), qr/^(42501|0A000)/, 'and refused to begin with');
$node->safe_psql('postgres', 'ALTER TABLE shop.sale DISABLE ROW LEVEL SECURITY');
ok(caught_up($node, 'shop.page'), 'and back');
is_equal($node, 'shop.page', $query, 'all rows are there');

# Statements run as the owner: also in the worker, and also when a superuser drains.
$node->safe_psql('postgres', q{CREATE FUNCTION shop.who(integer) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN current_user || ' ' || session_user; END $$;
	CREATE TABLE shop.plain (id integer PRIMARY KEY); GRANT SELECT, TRIGGER, INSERT ON shop.plain TO owner});
is(as('owner', q{SELECT cqrs.create_projection('shop.whoami', 'SELECT id, split_part(shop.who(id), '' '', 1) AS who FROM shop.plain')}), 1, 'a function that tells who asks');
$node->safe_psql('postgres', 'INSERT INTO shop.plain VALUES (1)');
ok(caught_up($node, 'shop.whoami'), 'the worker applies');
$node->safe_psql('postgres', q{SELECT cqrs.pause('shop.whoami'); INSERT INTO shop.plain VALUES (2); SELECT cqrs.resume('shop.whoami'); SELECT cqrs.drain('shop.whoami')});
is($node->safe_psql('postgres', 'SELECT string_agg(DISTINCT who, $$ $$) FROM shop.whoami'), 'owner', 'all of it ran as the owner');
$node->safe_psql('postgres', q{CREATE FUNCTION shop.climb(integer) RETURNS integer LANGUAGE plpgsql STABLE AS $$ BEGIN
		PERFORM set_config('role', 'postgres', true); RETURN $1; END $$;
	CREATE FUNCTION shop.drops(integer) RETURNS integer LANGUAGE plpgsql STABLE AS $$ BEGIN
		PERFORM set_config('session_authorization', 'postgres', true); RETURN $1; END $$});
foreach my $function (qw(climb drops))
{
	my $answer = as('owner', "SELECT cqrs.create_projection('shop.$function\_page', 'SELECT id, shop.$function(id) AS x FROM shop.plain')");

	next if $answer ne '1';
	ok(defined until_true($node, "SELECT error IS NOT NULL FROM cqrs.versions WHERE projection = 'shop.$function\_page'::regclass"), "a function that would be another fails ($function)");
	is($node->safe_psql('postgres', "SELECT state FROM cqrs.versions WHERE projection = 'shop.$function\_page'::regclass"), 'building', 'and yields nothing');
	$node->safe_psql('postgres', "SELECT cqrs.drop_projection('shop.$function\_page')");
}

# A function that comes to stand in front of the one that the query meant.
$node->safe_psql('postgres', q{CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC; SET search_path = evil, pg_catalog, shop;
	SELECT cqrs.create_projection('shop.names', 'SELECT id, upper(name) || lower(name) AS name FROM customer')});
ok(caught_up($node, 'shop.names'), 'a projection whose path names a schema before pg_catalog');

# Somebody's functions, operators and tables, named as what we use, in front of the path of whoever calls, or of the projection.
$node->safe_psql('postgres', q{
	CREATE TABLE public.trap (who text);
	GRANT INSERT ON public.trap TO PUBLIC;
	CREATE FUNCTION evil.sprung() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.trap VALUES (current_user); END $$;
	CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.sprung(); RETURN 'x'; END $$;
	CREATE FUNCTION evil.concat_ws(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.sprung(); RETURN 'x'; END $$;
	CREATE FUNCTION evil.pg_has_role(oid, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.sprung(); RETURN true; END $$;
	CREATE FUNCTION evil.upper(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.sprung(); RETURN 'x'; END $$;
	CREATE FUNCTION evil.both(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.sprung(); RETURN 'x'; END $$;
	CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.both);
	CREATE FUNCTION evil.count(integer) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.sprung(); RETURN 0; END $$;
	CREATE FUNCTION evil.int_eq(integer, integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.sprung(); RETURN false; END $$;
	CREATE OPERATOR evil.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.int_eq);
	CREATE FUNCTION evil.text_eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.sprung(); RETURN false; END $$;
	CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.text_eq);
	CREATE FUNCTION evil.record_ne(record, record) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.sprung(); RETURN false; END $$;
	CREATE OPERATOR evil.*<> (LEFTARG = record, RIGHTARG = record, FUNCTION = evil.record_ne);
	CREATE OPERATOR evil.= (LEFTARG = record, RIGHTARG = record, FUNCTION = evil.record_ne);
	CREATE TABLE evil.cqrs_affected (id integer); CREATE TABLE evil.cqrs_computed (id integer); CREATE TABLE evil.cqrs_delta_0 (id integer); CREATE TABLE evil.outbox_1 (id integer);
	GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC;});
my $path = q{SET search_path = evil, pg_catalog, shop, public;};
$node->safe_psql('postgres', "$path SELECT cqrs.create_projection('shop.trapped', 'SELECT s.customer, pg_catalog.count(*) AS sales FROM shop.sale s GROUP BY s.customer')");
ok(caught_up($node, 'shop.trapped'), 'a projection with a hostile path is filled');
$node->safe_psql('postgres', "$path UPDATE shop.sale SET customer = 3 OPERATOR(pg_catalog.-) customer; SELECT cqrs.drain('shop.trapped'); SELECT 1 FROM cqrs.verify('shop.trapped');
	SELECT 1 FROM cqrs.lag; SELECT 1 FROM cqrs.sources; SELECT 1 FROM cqrs.versions; SELECT 1 FROM cqrs.outbox; SELECT 1 FROM cqrs.history; SELECT 1 FROM cqrs.explain('shop.trapped');
	SELECT 1 FROM cqrs.freshness('shop.trapped'); SELECT cqrs.pause('shop.trapped'); SELECT cqrs.resume('shop.trapped'); SELECT cqrs.capture('shop.secret'); SELECT cqrs.uncapture('shop.secret')");
ok(caught_up($node, 'shop.trapped'), 'and applied to');
$node->safe_psql('postgres', q{UPDATE shop.customer SET name = name || '!'});
ok(caught_up($node, 'shop.names'), 'the one that was there before is applied to');
is_equal($node, 'shop.names', 'SELECT id, upper(name) || lower(name) AS name FROM shop.customer', 'by the functions that its query meant');
is($node->safe_psql('postgres', 'SELECT count(*) FROM trap'), 0, 'no function of theirs was called');
is_equal($node, 'shop.trapped', 'SELECT s.customer, count(*) AS sales FROM shop.sale s GROUP BY s.customer', 'and it is right');

# A user-defined cast to json, and a domain, on a value that the outbox shows to a superuser.
$node->safe_psql('postgres', q{
	CREATE TYPE shop.mood AS ENUM ('sad', 'glad');
	CREATE FUNCTION evil.mood_json(shop.mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.sprung(); RETURN '"trap"'; END $$;
	CREATE CAST (shop.mood AS json) WITH FUNCTION evil.mood_json(shop.mood);
	CREATE TABLE shop.feeling (id integer PRIMARY KEY, mood shop.mood);
	SELECT cqrs.capture('shop.feeling');
	INSERT INTO shop.feeling VALUES (1, 'glad');});
is($node->safe_psql('postgres', q{SELECT new_row->>'mood' FROM cqrs.outbox WHERE source = 'shop.feeling'::regclass}), 'glad', 'the outbox shows the value');
is($node->safe_psql('postgres', 'SELECT count(*) FROM trap'), 0, 'without a cast that a user made');

# Two owners: one cannot use the other's right by handing over a view.
$node->safe_psql('postgres', q{ALTER VIEW shop.page OWNER TO stranger});
$node->safe_psql('postgres', 'INSERT INTO shop.sale VALUES (7, 1, 70)');
ok(defined until_true($node, q{SELECT status = 'failing' FROM cqrs.versions WHERE projection = 'shop.page'::regclass}), 'a new owner without rights on the sources gets nothing more');
$node->safe_psql('postgres', q{GRANT SELECT ON shop.sale, shop.customer TO stranger});
ok(caught_up($node, 'shop.page'), 'and with them it goes on');
is_equal($node, 'shop.page', $query, 'right as ever');
$node->safe_psql('postgres', q{REASSIGN OWNED BY stranger TO owner; INSERT INTO shop.sale VALUES (8, 2, 80)});
is($node->safe_psql('postgres', q{SELECT owner FROM cqrs.projections WHERE projection = 'shop.page'::regclass}), 'owner', 'REASSIGN OWNED gives it away as well');
ok(caught_up($node, 'shop.page'), 'and it goes on');
is_equal($node, 'shop.page', $query, 'right as ever');
$node->stop;
done_testing();
