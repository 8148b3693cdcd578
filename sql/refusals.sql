-- What a projection's query cannot hold or read: each refusal names the construct, where it is in the query, why, and the way round.  If this fails, somebody is left
-- alone with "not supported".
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
CREATE SCHEMA refusals_test;
SET search_path = refusals_test, public;
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on

CREATE TABLE orders (id integer PRIMARY KEY, customer integer, placed date, note text);
CREATE FUNCTION drawn() RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT 4';
CREATE SEQUENCE numbers;
CREATE MATERIALIZED VIEW stored AS SELECT 1 AS id;
CREATE UNLOGGED TABLE fleeting (id integer PRIMARY KEY);
CREATE TEMPORARY TABLE own (id integer PRIMARY KEY);
CREATE FOREIGN DATA WRAPPER refusals_wrapper;
CREATE SERVER refusals_nowhere FOREIGN DATA WRAPPER refusals_wrapper;
CREATE FOREIGN TABLE far (id integer) SERVER refusals_nowhere;
CREATE TABLE parted (id integer PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE parted_here PARTITION OF parted FOR VALUES IN (1);
CREATE UNLOGGED TABLE parted_fleeting PARTITION OF parted FOR VALUES IN (2);
CREATE TABLE scattered (id integer) PARTITION BY LIST (id);
CREATE FOREIGN TABLE scattered_far PARTITION OF scattered DEFAULT SERVER refusals_nowhere;
CREATE VIEW recent AS SELECT id, placed FROM orders WHERE placed > current_date - 7;
CREATE VIEW over_fleeting AS SELECT f.id FROM fleeting f;
CREATE TABLE guarded (id integer PRIMARY KEY, owner text);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON guarded USING (owner = 'me');
SET client_min_messages = notice;

-- ---- answers that change without a change of a source

SELECT cqrs.create_projection('refused', 'SELECT id, random() AS r FROM orders');
SELECT cqrs.create_projection('refused', 'SELECT id, drawn() AS d FROM orders');
SELECT cqrs.create_projection('refused', 'SELECT o.id, nextval(''numbers'') AS n FROM orders o');
SELECT cqrs.create_projection('refused', 'SELECT id FROM orders WHERE placed < now()');
SELECT cqrs.create_projection('refused', 'SELECT id FROM orders WHERE placed < current_date');
SELECT cqrs.create_projection('refused', 'SELECT id, age(placed) AS age FROM orders');
SELECT cqrs.create_projection('refused', 'SELECT id, ''today''::text AS day, txid_current() AS t FROM orders');
SELECT cqrs.create_projection('refused', 'SELECT id FROM orders WHERE note = current_user');
SELECT cqrs.create_projection('refused', 'SELECT id, current_setting(''work_mem'') AS s FROM orders');
SELECT cqrs.create_projection('refused', 'SELECT id, pg_relation_size(''orders'') AS s FROM orders');
SELECT cqrs.create_projection('refused', 'SELECT id FROM recent');

-- ---- what is not data

SELECT cqrs.create_projection('refused', 'SELECT id, ctid AS place FROM orders');
SELECT cqrs.create_projection('refused', 'SELECT id, o.xmin::text AS x FROM orders o');
SELECT cqrs.create_projection('refused', 'SELECT s.id FROM orders AS s TABLESAMPLE system (10)');
SELECT cqrs.create_projection('refused', 'SELECT id FROM orders
    FOR UPDATE');
SELECT cqrs.create_projection('refused', 'SELECT id FROM (SELECT id FROM orders FOR SHARE) s');
SELECT cqrs.create_projection('refused', 'WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone');

-- ---- what nobody can capture

SELECT cqrs.create_projection('refused', 'SELECT o.id FROM orders o JOIN far USING (id)');
SELECT cqrs.create_projection('refused', 'SELECT id FROM scattered');
SELECT cqrs.create_projection('refused', 'SELECT o.id FROM orders o WHERE EXISTS (SELECT FROM own WHERE own.id = o.id)');
SELECT cqrs.create_projection('refused', 'SELECT id FROM fleeting');
SELECT cqrs.create_projection('refused', 'SELECT id FROM over_fleeting');
SELECT cqrs.create_projection('refused', 'SELECT id FROM parted');
SELECT cqrs.create_projection('refused', 'SELECT o.id, c.relname FROM orders o JOIN pg_class c ON c.oid = o.customer');
SELECT cqrs.create_projection('refused', 'SELECT id FROM stored');
SELECT cqrs.create_projection('refused', 'SELECT last_value AS id FROM numbers');
SELECT cqrs.create_projection('refused', 'SELECT id FROM cqrs_internal.version');

-- ---- what would be wrong for others, or for ever

CREATE ROLE regress_refusals;
GRANT USAGE, CREATE ON SCHEMA refusals_test TO regress_refusals;
GRANT SELECT, TRIGGER ON guarded TO regress_refusals;
GRANT SELECT ON orders TO regress_refusals;
DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO regress_refusals', current_database()); END $$;
SET ROLE regress_refusals;
SELECT cqrs.create_projection('refused', 'SELECT id FROM guarded');
SELECT cqrs.create_projection('refused', 'SELECT id FROM orders');
RESET ROLE;
SELECT cqrs.create_projection('refused', 'SELECT id, note FROM orders', indexes => ARRAY['UNIQUE (note)']);
SELECT cqrs.create_projection('refused', 'SELECT id, note FROM orders', indexes => ARRAY['(note); DROP TABLE orders']);
SELECT cqrs.create_projection('refused', 'SELECT note FROM orders');
SELECT cqrs.create_projection('refused', 'SELECT id, note FROM orders', key => '{id, nte}');
SELECT cqrs.create_projection('refused', 'SELECT id, to_json(note) AS j FROM orders', key => '{j}');
SELECT cqrs.create_projection('pg_temp.refused', 'SELECT id FROM orders');

SET client_min_messages = warning;
RESET search_path;
DROP SCHEMA refusals_test CASCADE;
DROP FOREIGN DATA WRAPPER refusals_wrapper CASCADE;
DROP OWNED BY regress_refusals;
DROP ROLE regress_refusals;
