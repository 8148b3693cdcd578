-- cqrs.explain: the indexes that a read model lacks, what is captured for it, and what its last batches were.  If this fails, a read model is slow for want of an
-- index and nobody is told which, or an index is advised that would not be used.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
CREATE SCHEMA explain_test;
SET search_path = explain_test, public;
\pset format unaligned
\pset tuples_only on

CREATE TABLE customer (id integer PRIMARY KEY, name text NOT NULL, region text);
CREATE TABLE "Order" (id integer PRIMARY KEY, customer integer NOT NULL, placed timestamp, note text);
CREATE TABLE line ("order" integer NOT NULL, number integer NOT NULL, product integer, shop integer, quantity integer, PRIMARY KEY ("order", number));
CREATE TABLE reading (at date NOT NULL, sensor integer NOT NULL, value integer) PARTITION BY RANGE (at);
CREATE TABLE reading_old PARTITION OF reading FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
CREATE TABLE reading_new PARTITION OF reading FOR VALUES FROM ('2026-01-01') TO (MAXVALUE);

-- What is told of a read model: lines about indexes, images and batches, without times.
CREATE FUNCTION told(projection regclass, what text) RETURNS SETOF text LANGUAGE sql AS
$$SELECT regexp_replace(line, '(?<=^batch of ).*?(?=: [a-z])|[\d.]+(?= ms)', '...', 'g') FROM cqrs.explain(projection) AS line WHERE line ~ ('^' || what)$$;

-- ---- at creation: an index that leads from the key to its rows is missing, however small the tables are now

SET client_min_messages = notice;
SELECT cqrs.create_projection('customer_page', 'SELECT c.id, c.name, array_agg(o.id ORDER BY o.id) AS orders FROM customer c LEFT JOIN "Order" o ON o.customer = c.id GROUP BY c.id');
-- Of two columns together; of an expression; in a subquery, and below another one.
SELECT cqrs.create_projection('product_shop', 'SELECT product, shop, max(DISTINCT quantity) AS most FROM line GROUP BY product, shop');
SELECT cqrs.create_projection('month_page', 'SELECT date_trunc(''month'', placed) AS month, max(DISTINCT id) AS last FROM "Order" GROUP BY 1');
SELECT cqrs.create_projection('bought', 'SELECT c.id, (SELECT max(quantity) FROM line l WHERE l."order" IN (SELECT o.id FROM "Order" o WHERE o.customer = c.id)) AS most FROM customer c');
-- Of a partitioned table.
SELECT cqrs.create_projection('sensor_page', 'SELECT sensor, max(DISTINCT value) AS most FROM reading GROUP BY sensor');
-- What changes add is added up without it, until a row joins others; the queries above it are of what cannot be added to.
SELECT cqrs.create_projection('customer_sums', 'SELECT customer, count(*) AS orders, sum(id) AS ids FROM "Order" GROUP BY customer');
SELECT cqrs.create_projection('region_sums', 'SELECT count(*) AS orders, sum(o.id) AS ids FROM "Order" o JOIN customer c ON c.id = o.customer WHERE c.region <> ''r3''');
-- Nothing is missing: primary keys lead there; the one row is evaluated; it is full.
SELECT cqrs.create_projection('order_page', 'SELECT o.id, c.name FROM "Order" o LEFT JOIN customer c ON c.id = o.customer');
SELECT cqrs.create_projection('order_lines', 'SELECT "order", max(quantity) AS most FROM line GROUP BY "order"');
SELECT cqrs.create_projection('totals', 'SELECT max(quantity) AS most FROM line');
SELECT cqrs.create_projection('latest', 'SELECT id, placed FROM "Order" ORDER BY placed DESC, id LIMIT 3');
SET client_min_messages = warning;

-- ---- later: an index that would help, as large as the tables are

INSERT INTO customer SELECT g, 'c' || g, 'r' || g % 10 FROM generate_series(1, 2000) g;
INSERT INTO "Order" SELECT g, 1 + g % 2000, '2026-01-01'::timestamp + g * interval '1 hour', repeat('x', 100) FROM generate_series(1, 20000) g;
INSERT INTO line SELECT g, n, g % 97, g % 89, 1 FROM generate_series(1, 20000) g, generate_series(1, 2) n;
INSERT INTO reading SELECT '2025-12-31'::date + g % 2, g % 1000, g FROM generate_series(1, 20000) g;
VACUUM ANALYZE customer, "Order", line, reading;
SELECT cqrs.drain();
SELECT p.projection, told(p.projection, 'an index') FROM cqrs.projections p WHERE p.projection::text !~ '\.' ORDER BY 1::text;

-- They are used once they are there, and then nothing is lacking.
SELECT DISTINCT regexp_replace(line, '.*: ', '') FROM cqrs.projections p, cqrs.explain(p.projection) AS line WHERE line ~ '^an index' ORDER BY 1 \gexec
VACUUM ANALYZE "Order", line, reading;
SELECT p.projection, told(p.projection, 'an index') FROM cqrs.projections p WHERE p.projection::text !~ '\.' ORDER BY 1::text;
UPDATE customer SET name = upper(name) WHERE id = 7;
UPDATE "Order" SET placed = placed - interval '1 month' WHERE id = 8;
UPDATE line SET quantity = 2 WHERE "order" = 9;
UPDATE reading SET value = 0 WHERE sensor = 10;
SELECT cqrs.drain() > 0 AS applied;
SELECT pg_stat_force_next_flush();
SELECT indexrelid::regclass FROM pg_stat_user_indexes WHERE schemaname = 'explain_test' AND idx_scan = 0 AND indexrelid::regclass::text !~ 'pkey';
SELECT count(*) AS differences FROM cqrs.projections p, cqrs.verify(p.projection) v;

-- ---- what is captured for it, and what the last batches were

SELECT told('order_page', 'images');
SELECT told('order_page', 'batch');
UPDATE customer SET name = 'c' WHERE id IN (1, 2);
SELECT cqrs.drain('order_page');
TRUNCATE customer;
SELECT cqrs.drain('order_page');
SELECT told('order_page', 'batch');
-- Which strategy, and why not a better one, source by source; and all statements, with names of schemas that do not change.
SELECT told('order_page', '(strategy|source)');
SELECT told('latest', '(strategy|source)');
SELECT told('region_sums', '(strategy|source|images|added)');
-- Of a projection that reads a projection: a version's table is called as the projection is; an index on it is named in full.
SELECT cqrs.create_projection('name_page', 'SELECT name, array_agg(id ORDER BY id) AS orders FROM order_page GROUP BY name');
SELECT cqrs.drain('name_page');
SELECT regexp_replace(told('name_page', '(strategy|reads|images|an index|affected)'), 'cqrs_order_page_\d+_v1', 'cqrs_order_page_N_v1');
SELECT cqrs.drop_projection('name_page');
-- Ten are kept.
DO $$BEGIN FOR i IN 1 .. 12 LOOP PERFORM cqrs.drain('latest'); END LOOP; END$$;
SELECT count(*) <= 10 AS few FROM cqrs_internal.checkpoint k JOIN cqrs_internal.version v ON v.id = k.version WHERE v."table"::text ~ 'latest';

SELECT count(cqrs.drop_projection(projection)) FROM cqrs.projections;
RESET search_path;
DROP SCHEMA explain_test CASCADE;
