-- Row filters.  If this fails, a reader sees rows that the projection's filter hides from him, by reading, by a function that tells, by an error or by a
-- plan; or the filter is lost, or says something else, once what it names is renamed.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA filter_test;
SET search_path = filter_test;
CREATE ROLE regress_cqrs_ann;
CREATE ROLE regress_cqrs_bob;
GRANT USAGE, CREATE ON SCHEMA filter_test TO regress_cqrs_ann, regress_cqrs_bob;

CREATE TABLE account (id integer PRIMARY KEY, seller name NOT NULL, balance integer, code text);
INSERT INTO account VALUES (1, 'regress_cqrs_ann', 10, '11'), (2, 'regress_cqrs_bob', 20, 'x2'), (3, 'regress_cqrs_ann', 30, '33');
CREATE TABLE auditor (who name PRIMARY KEY);

-- A serving view's query, without the numbers in the name of its version's schema.
CREATE FUNCTION shown(view regclass) RETURNS text LANGUAGE sql AS $$ SELECT regexp_replace(pg_get_viewdef(view), '_\d+_v\d+', '_n_v1') $$;

-- Given at creation it holds from the first row on; the gate comes first.
SELECT cqrs.create_projection('accounts', 'SELECT id, seller, balance, code FROM account', row_filter => 'seller = current_user');
GRANT SELECT ON accounts TO regress_cqrs_ann, regress_cqrs_bob;
SELECT * FROM accounts;
SELECT cqrs.drain('accounts');
SELECT row_filter FROM cqrs.projections WHERE projection = 'accounts'::regclass;
SELECT shown('accounts'), (SELECT reloptions FROM pg_class WHERE oid = 'accounts'::regclass);

-- Every reader is filtered, the owner and a superuser too; who they are is asked when they read.
SELECT id FROM accounts;
SET ROLE regress_cqrs_ann;
SELECT id FROM accounts ORDER BY id;
SET ROLE regress_cqrs_bob;
SELECT id FROM accounts ORDER BY id;

-- Nothing is told of hidden rows by a function that tells what it sees, by an error that quotes what it meets, or by an index that is looked into first.
CREATE FUNCTION tell(integer, text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE NOTICE 'saw % %', $1, $2; RETURN true; END $$;
SELECT id FROM accounts WHERE tell(id, code);
SELECT id FROM accounts WHERE code::integer > 0;
SET ROLE regress_cqrs_ann;
SELECT id FROM accounts WHERE code::integer > 0 ORDER BY id;
SELECT count(*) FROM accounts a JOIN accounts b ON a.code::integer = b.code::integer;
SELECT id FROM accounts WHERE 1 / (id - 2) IS NOT NULL ORDER BY id;
EXPLAIN (COSTS off) SELECT id FROM accounts WHERE tell(id, code);
-- An equality that tells nothing may go below the filter: the key's index is used.
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT id FROM accounts WHERE id = 2;
RESET enable_seqscan;
SELECT id FROM accounts WHERE id = 2;
RESET ROLE;

-- What was changed is there for those who may see it; verify and drain look at all rows.
UPDATE account SET seller = 'regress_cqrs_bob' WHERE id = 3;
SELECT cqrs.drain('accounts');
SELECT * FROM cqrs.verify('accounts');
SET ROLE regress_cqrs_bob;
SELECT id FROM accounts ORDER BY id;
RESET ROLE;

-- Changed by its owner alone; NULL leaves it as it is.  Options of the view, grants and dependent views stay.
CREATE VIEW rich AS SELECT id FROM accounts WHERE balance > 15;
GRANT SELECT ON rich TO regress_cqrs_bob;
SET ROLE regress_cqrs_bob;
SELECT cqrs.alter_projection('accounts', row_filter => 'true');
RESET ROLE;
SELECT cqrs.alter_projection('accounts', description => 'what sellers have');
SELECT row_filter, description FROM cqrs.projections WHERE projection = 'accounts'::regclass;
SELECT cqrs.alter_projection('accounts', row_filter => $$seller = current_user OR current_user IN (SELECT who FROM auditor)$$);
INSERT INTO auditor VALUES ('regress_cqrs_ann');
SET ROLE regress_cqrs_ann;
SELECT id FROM accounts ORDER BY id;
SET ROLE regress_cqrs_bob;
SELECT id FROM accounts ORDER BY id;
RESET ROLE;

-- What it names may be renamed, also by somebody who puts another table in its place: it stays what it was.
ALTER TABLE auditor RENAME TO inspector;
CREATE TABLE auditor (who name);
INSERT INTO auditor VALUES ('regress_cqrs_bob');
ALTER VIEW accounts RENAME TO ledger;
SELECT cqrs.alter_projection('ledger', max_lag => '1 s');
SET ROLE regress_cqrs_bob;
SELECT id FROM ledger ORDER BY id;
RESET ROLE;
SELECT shown('ledger');

-- A subquery that names the row's own columns, with names that clash; the table's name as a prefix.
SELECT cqrs.alter_projection('ledger', row_filter => 'EXISTS (SELECT 1 FROM account WHERE account.id = ledger.id AND account.balance > 15 AND ledger.balance > 15)');
SELECT id FROM ledger ORDER BY id;

-- An empty one takes it away, and the barrier with it.
SELECT cqrs.alter_projection('ledger', row_filter => ' ');
SELECT id FROM ledger ORDER BY id;
SELECT reloptions, pg_get_viewdef(oid) LIKE '%WHERE%' AS filtered FROM pg_class WHERE oid = 'ledger'::regclass;
SELECT row_filter FROM cqrs.projections WHERE projection = 'ledger'::regclass;
ALTER VIEW ledger SET (security_invoker = off);
SELECT cqrs.alter_projection('ledger', row_filter => 'balance < 25');
SELECT reloptions FROM pg_class WHERE oid = 'ledger'::regclass;
SELECT id FROM ledger ORDER BY id;
SELECT id FROM rich ORDER BY id;

-- Of what is still being built: the gate stays shut, and the filter is there when it opens, by what it was when it was given.
SELECT cqrs.create_projection('later', 'SELECT id, balance FROM account');
SELECT cqrs.alter_projection('later', row_filter => 'later.balance = 10 AND current_user NOT IN (SELECT who FROM auditor)');
SELECT * FROM later;
ALTER TABLE auditor RENAME TO examiner;
CREATE TABLE auditor AS SELECT current_user AS who;
SELECT cqrs.drain('later');
SELECT * FROM later;

-- A dump keeps it, being the view's own.
SELECT shown('later');

-- Tokens and freshness are about changes, not about who sees them.
SELECT cqrs.token() AS token \gset
SELECT cqrs.caught_up('later', :'token');

-- Bad input: each names the place, and changes nothing.
SELECT cqrs.alter_projection('later', row_filter => 'balnce = 10');
SELECT cqrs.alter_projection('later', row_filter => 'balance');
SELECT cqrs.alter_projection('later', row_filter => 'balance = ');
SELECT cqrs.alter_projection('later', row_filter => 'balance = 10; DROP TABLE account');
SELECT cqrs.alter_projection('later', row_filter => 'balance = 10) OR (true');
SELECT cqrs.alter_projection('later', row_filter => 'true FROM account');
SELECT cqrs.alter_projection('later', row_filter => 'true LIMIT 1');
SELECT cqrs.alter_projection('later', row_filter => 'true, false');
SELECT cqrs.alter_projection('later', row_filter => 'true AS hidden');
SELECT cqrs.alter_projection('later', row_filter => '*');
SELECT cqrs.alter_projection('later', row_filter => 'later.*');
SELECT cqrs.alter_projection('later', row_filter => '-- nothing');
SELECT cqrs.alter_projection('later', row_filter => 'count(*) > 1');
SELECT cqrs.alter_projection('later', row_filter => 'row_number() OVER () > 1');
SELECT cqrs.alter_projection('later', row_filter => 'generate_series(1, 2) > 1');
SELECT cqrs.alter_projection('later', row_filter => 'balance = $1');
SELECT cqrs.alter_projection('later', row_filter => 'ctid IS NOT NULL');
SELECT cqrs.alter_projection('later', row_filter => 'later IS NOT NULL');
SELECT cqrs.alter_projection('later', row_filter => '(SELECT later.* IS NOT NULL)');
SELECT cqrs.alter_projection('later', row_filter => 'id IN (SELECT id FROM nowhere)');
CREATE TEMP TABLE passing (who name);
CREATE FUNCTION pg_temp.passes() RETURNS boolean LANGUAGE sql AS 'SELECT true';
SELECT cqrs.alter_projection('later', row_filter => 'EXISTS (SELECT FROM passing)');
SELECT cqrs.alter_projection('later', row_filter => 'id > 1 AND (SELECT pg_temp.passes())');
SELECT cqrs.alter_projection('later', on_error => 'ignore');
SELECT cqrs.create_projection('never', 'SELECT id FROM account', row_filter => 'balance = 10');
SELECT shown('later'), (SELECT row_filter FROM cqrs.projections WHERE projection = 'later'::regclass);

SELECT count(cqrs.drop_projection(projection, true)) FROM cqrs.projections
WHERE projection IN (SELECT oid FROM pg_class WHERE relnamespace = 'filter_test'::regnamespace);
SET client_min_messages = warning;
DROP SCHEMA filter_test CASCADE;
DROP ROLE regress_cqrs_ann, regress_cqrs_bob;
