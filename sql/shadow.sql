-- A legacy query held against the read model that is to replace it.  If this fails, a team takes over a query for which the read model answers otherwise, or
-- a reader learns by comparing what the serving view would not show him, or a query that only compares has written something.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA shadow_test;
SET search_path = shadow_test;
CREATE TABLE customer (id integer PRIMARY KEY, name text NOT NULL, region text);
CREATE TABLE purchase (id integer PRIMARY KEY, customer integer REFERENCES customer, amount numeric);
INSERT INTO customer SELECT i, 'c' || i, CASE WHEN i % 3 > 0 THEN 'r' || i % 3 END FROM generate_series(1, 30) AS i;
INSERT INTO purchase SELECT i, i % 20 + 1, i FROM generate_series(1, 200) AS i;
SET client_min_messages = warning;
SELECT cqrs.create_projection('cards', $$SELECT c.id AS customer_id, c.name, count(p.id) AS purchases, sum(p.amount) AS amount
	FROM customer c LEFT JOIN purchase p ON p.customer = c.id GROUP BY c.id$$);
SELECT cqrs.create_projection('regions', 'SELECT region, min(name) AS first, count(*) AS customers FROM customer GROUP BY region');
SELECT cqrs.create_projection('everybody', 'SELECT count(*) AS customers FROM customer', '{}');
RESET client_min_messages;
SELECT cqrs.drain('cards'), cqrs.drain('regions'), cqrs.drain('everybody');

-- No row means that they agree.  The query finds the keys in $1; a column that only one side has is named; null is a key.
SELECT * FROM cqrs.shadow_read('cards', $$SELECT c.id AS customer_id, c.name, 0 AS age,
		(SELECT count(*) FROM purchase p WHERE p.customer = c.id) AS purchases
	FROM customer c WHERE c.id IN (SELECT (k ->> 'customer_id')::integer FROM jsonb_array_elements($1) k)$$,
	'[{"customer_id": 3}, {"customer_id": 25}, {"customer_id": 3}, {"customer_id": 999}]');
SELECT * FROM cqrs.shadow_read('regions', 'SELECT region, count(*) AS customers, min(name) AS first FROM customer GROUP BY region;', '[{"region": null}, {"region": "r1"}]');
SELECT * FROM cqrs.shadow_read('everybody', 'SELECT count(*) AS customers FROM customer -- all', '[{}]');
SELECT * FROM cqrs.shadow_read('everybody', 'SELECT count(*) + 1 AS customers FROM customer', '[{}]');
SELECT * FROM cqrs.shadow_read('everybody', 'SELECT count(*) + 1 AS customers FROM customer', '[]');

-- Each kind of difference; rows of keys that were not asked for do not count, a row twice does.
SELECT * FROM cqrs.shadow_read('cards', $$SELECT id AS customer_id, upper(name) AS name FROM customer WHERE id <> 2
	UNION ALL SELECT 40, 'new' UNION ALL SELECT 4, 'c4' UNION ALL SELECT 4, 'c4'$$,
	'[{"customer_id": 1}, {"customer_id": 2}, {"customer_id": 4}, {"customer_id": 40}]');

-- What has not been applied is among the differences, and a notice says so.
UPDATE customer SET name = 'renamed' WHERE id = 5;
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id, name FROM customer', '[{"customer_id": 5}]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id, name FROM customer', '[{"customer_id": 6}]');
SELECT cqrs.drain('cards');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id, name FROM customer', '[{"customer_id": 5}]');

-- With the caller's rights, both sides: what the row filter hides from him is not there, also for a function or cast that would tell.
CREATE ROLE regress_cqrs_reader;
GRANT USAGE ON SCHEMA shadow_test TO regress_cqrs_reader;
GRANT SELECT ON cards TO regress_cqrs_reader;
SELECT cqrs.alter_projection('cards', row_filter => 'customer_id > 10');
SET ROLE regress_cqrs_reader;
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id, name FROM customer', '[{"customer_id": 1}]');
SELECT * FROM cqrs.shadow_read('cards', $$SELECT i AS customer_id, 'x' AS name FROM generate_series(9, 11) AS i$$, '[{"customer_id": 9}, {"customer_id": 10}, {"customer_id": 11}]');
SELECT * FROM cqrs.shadow_read('regions', $$SELECT 'r1' AS region$$, '[{"region": "r1"}]');
RESET ROLE;
SELECT cqrs.alter_projection('cards', row_filter => '');

-- Nothing can be written, by whatever means; and afterwards the caller can write as before.
CREATE FUNCTION note() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN INSERT INTO shadow_test.customer VALUES (100, 'x'); RETURN 1; END $$;
CREATE SEQUENCE numbers;
SELECT * FROM cqrs.shadow_read('cards', 'SELECT note() AS customer_id', '[{"customer_id": 1}]');
SELECT * FROM cqrs.shadow_read('cards', $$SELECT nextval('numbers')::integer AS customer_id$$, '[{"customer_id": 1}]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id FROM customer FOR UPDATE', '[{"customer_id": 1}]');
SELECT * FROM cqrs.shadow_read('cards', 'WITH d AS (DELETE FROM customer RETURNING id) SELECT id AS customer_id FROM d', '[{"customer_id": 1}]');
SELECT count(*) FROM customer;
BEGIN;
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id FROM customer', '[{"customer_id": 1}]');
INSERT INTO customer VALUES (100, 'x');
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id FROM customer', '[{"customer_id": 1}]');
ROLLBACK;

-- Key columns of types that jsonb does not know, with names that need quotes; floats within their tolerance.
CREATE TABLE day ("The Day" date, "select" float8, PRIMARY KEY ("The Day"));
INSERT INTO day SELECT date '2026-01-01' + i, 1 / (i + 3.0) FROM generate_series(0, 10) AS i;
SELECT cqrs.create_projection('days', 'SELECT "The Day", "select" FROM day');
SELECT cqrs.drain('days');
SELECT * FROM cqrs.shadow_read('days', 'SELECT "The Day", "select" * (1 + 1e-12) AS "select" FROM day', '[{"The Day": "2026-01-03"}, {"The Day": "2026-01-04"}]');
SELECT * FROM cqrs.shadow_read('days', 'SELECT "The Day", "select" * (1 + 1e-6) AS "select" FROM day', '[{"The Day": "2026-01-01"}]');

-- What handlers define is compared like anything else, if it has a key.
SELECT cqrs.create_projection('told', columns => 'id integer PRIMARY KEY, n integer', handlers => '{"Told": "INSERT INTO told SELECT (payload ->> ''id'')::integer, 1 FROM event"}');
SELECT cqrs.create_projection('heard', columns => 'n integer', handlers => '{"Told": "INSERT INTO heard SELECT 1 FROM event"}');
SELECT cqrs.emit('Told', 'shadow_thing', '1', '{"id": 1}');
SELECT cqrs.drain('told'), cqrs.drain('heard');
SELECT * FROM cqrs.shadow_read('told', 'SELECT 1 AS id, 2 AS n', '[{"id": 1}]');
SELECT * FROM cqrs.shadow_read('heard', 'SELECT 1 AS n', '[{}]');
SELECT * FROM cqrs.compare('told', 1, 2);
SELECT pending, status FROM cqrs.entity_lag('told', '{"id": 1}');

-- Bad input.  No row would mean that they agree.
SELECT * FROM cqrs.shadow_read('cards', 'SELECT 1', NULL);
SELECT * FROM cqrs.shadow_read('cards', NULL, '[]');
SELECT * FROM cqrs.shadow_read(NULL, 'SELECT 1', '[]');
SELECT * FROM cqrs.shadow_read('cards', 'DELETE FROM customer', '[]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT 1; SELECT 2', '[]');
SELECT * FROM cqrs.shadow_read('cards', '', '[]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT 1 AS customer_id) AS q; DROP TABLE customer; --', '[]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT name FROM customer', '[]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id, 1 AS purchases FROM customer', '[]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id FROM customer', '{"customer_id": 1}');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id FROM customer', '[1]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id FROM customer', '[[1]]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id FROM customer', '1');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id FROM customer', '[{"id": 1}]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id FROM customer', '[{"customer_id": 1, "name": "x"}]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT id AS customer_id FROM customer', '[{"customer_id": "x"}]');
SELECT * FROM cqrs.shadow_read('everybody', 'SELECT 1::bigint AS customers', '[1]');
SELECT * FROM cqrs.shadow_read('customer', 'SELECT 1', '[]');
SELECT * FROM cqrs.shadow_read('cards', 'SELECT 1 / 0 AS customer_id', '[{"customer_id": 1}]');
SELECT cqrs.create_projection('unbuilt', 'SELECT id FROM customer');
SELECT * FROM cqrs.shadow_read('unbuilt', 'SELECT id FROM customer', '[{"id": 1}]');

SELECT count(cqrs.drop_projection(projection)) FROM cqrs.projections
WHERE projection IN (SELECT oid FROM pg_class WHERE relnamespace = 'shadow_test'::regnamespace);
SET client_min_messages = warning;
DROP SCHEMA shadow_test CASCADE;
DROP ROLE regress_cqrs_reader;
