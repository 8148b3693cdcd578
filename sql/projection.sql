-- Projections: their life and their guards.  Worker off; drain does the work.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
CREATE SCHEMA projection_test;
SET search_path = projection_test, public;
\set SHOW_CONTEXT never

CREATE TABLE seller (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE product (id integer PRIMARY KEY, seller integer NOT NULL REFERENCES seller, title text, price numeric(10,2));
INSERT INTO seller VALUES (1, 'Ada'), (2, 'Bob');
INSERT INTO product VALUES (1, 1, 'pen', 1.50), (2, 1, 'ink', 3.00), (3, 2, 'pad', 2.25);

-- A projection is registered at once, but reading it before it is built is an error, not an empty answer: also where the table is empty.
SELECT cqrs.create_projection('product_page',
    'SELECT p.id, p.title, p.price, s.name AS seller FROM product p JOIN seller s ON s.id = p.seller',
    key => '{id}', indexes => ARRAY['(seller, price DESC)', '(price) WHERE price > 2'],
    max_lag => '1 s', description => 'one row a product');
SELECT * FROM product_page;
SELECT count(*) FROM product_page;
-- Nobody will build it here: no worker runs, and waiting says so at once.
SELECT cqrs.wait_until_serving('product_page');

-- drain builds it, and then has nothing to do.
SELECT cqrs.drain('product_page');
SELECT cqrs.wait_until_serving('product_page');
SELECT * FROM product_page ORDER BY id;
SELECT cqrs.drain('product_page');

-- The version's table has the primary key and the indexes asked for, and was analyzed before it served (a table taken for empty plans badly).
SELECT pg_get_indexdef(indexrelid) ~ 'UNIQUE' AS is_unique, indisprimary,
       regexp_replace(pg_get_indexdef(indexrelid), '^.* USING', 'USING') AS definition
  FROM pg_index WHERE indrelid = (SELECT "table" FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection
                                   WHERE p.view = 'product_page'::regclass) ORDER BY 3;
SELECT reltuples FROM pg_class WHERE oid = (SELECT "table" FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection
                                             WHERE p.view = 'product_page'::regclass);

-- Changes of both sides of the join arrive, counted once each.
BEGIN;
UPDATE product SET price = 9.99 WHERE id = 1;
UPDATE seller SET name = 'Eve' WHERE id = 2;
DELETE FROM product WHERE id = 2;
INSERT INTO product VALUES (4, 2, 'cap', NULL);
COMMIT;
SELECT cqrs.drain('product_page');
SELECT * FROM product_page ORDER BY id;
SELECT * FROM cqrs.verify('product_page');

-- TRUNCATE is a change like any other.
BEGIN;
TRUNCATE product;
INSERT INTO product VALUES (5, 1, 'new', 5);
COMMIT;
SELECT cqrs.drain('product_page') > 0 AS applied;
SELECT * FROM product_page ORDER BY id;

-- Only the applier writes read models.
DO $$ DECLARE t regclass; BEGIN
  SELECT "table" INTO t FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection WHERE p.view = 'product_page'::regclass;
  EXECUTE format('DELETE FROM %s', t);
END $$;
DO $$ DECLARE t regclass; BEGIN
  SELECT "table" INTO t FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection WHERE p.view = 'product_page'::regclass;
  EXECUTE format('TRUNCATE %s', t);
END $$;

-- Serving views go by drop_projection only, and are not replaced; renaming them and moving them is fine, and the projection goes on.
DROP VIEW product_page;
DROP VIEW product_page CASCADE;
CREATE OR REPLACE VIEW product_page AS SELECT 1 AS id, 'x'::text AS title, 1.5::numeric(10,2) AS price, 'y'::text AS seller;
\set VERBOSITY terse
DROP SCHEMA projection_test CASCADE;
\set VERBOSITY default
CREATE SCHEMA projection_test_2;
ALTER VIEW product_page RENAME TO page;
ALTER VIEW page SET SCHEMA projection_test_2;
INSERT INTO product VALUES (6, 2, 'moved', 6);
SELECT cqrs.drain('projection_test_2.page');
SELECT * FROM projection_test_2.page ORDER BY id;
ALTER VIEW projection_test_2.page SET SCHEMA projection_test;
ALTER VIEW page RENAME TO product_page;
DROP SCHEMA projection_test_2;

-- A new owner of the view owns the projection and all of it; readers and batches go on.  Whom the sources are closed to, for him it fails.
CREATE ROLE projection_owner;
GRANT USAGE ON SCHEMA projection_test TO projection_owner;
GRANT CREATE ON SCHEMA projection_test TO projection_owner;
GRANT SELECT ON product TO projection_owner;
ALTER VIEW product_page OWNER TO projection_owner;
SELECT DISTINCT pg_get_userbyid(c.relowner) AS owner, pg_get_userbyid(n.nspowner) AS schema_owner
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname LIKE 'cqrs\_product\_page\_%' AND c.relkind IN ('r', 'v');
SELECT count(*) FROM product_page;
UPDATE product SET title = 'owned' WHERE id = 6;
SELECT cqrs.drain('product_page');
GRANT SELECT ON seller TO projection_owner;
SELECT cqrs.drain('product_page');
SELECT title FROM product_page WHERE id = 6;
ALTER VIEW product_page OWNER TO CURRENT_USER;
DROP OWNED BY projection_owner;
DROP ROLE projection_owner;

-- pause stops applying and nothing else; resume goes on without a loss.
SELECT cqrs.pause('product_page');
INSERT INTO product VALUES (7, 1, 'while paused', 7);
SELECT cqrs.drain('product_page');
SELECT cqrs.drain();
SELECT count(*) FROM product_page;
SELECT cqrs.resume('product_page');
SELECT cqrs.drain();
SELECT count(*) FROM product_page;

-- alter: what is not given stays.
SELECT cqrs.alter_projection('product_page', max_lag => '5 s');
SELECT max_lag, description FROM cqrs.projections WHERE projection = 'product_page'::regclass;
SELECT cqrs.alter_projection('product_page', description => 'the page');
SELECT max_lag, description FROM cqrs.projections WHERE projection = 'product_page'::regclass;
SELECT cqrs.alter_projection('product_page', max_lag => '-1 s');
SELECT cqrs.alter_projection(NULL);

-- Nullable keys and the one-row key: the unique index takes nulls for equal, and the whole row identifies it to publications.
SELECT cqrs.create_projection('by_price', 'SELECT price, count(*) AS n FROM product GROUP BY price', key => '{price}');
SELECT cqrs.create_projection('totals', 'SELECT count(*) AS n, sum(price) AS total FROM product', key => '{}');
SELECT cqrs.drain();
INSERT INTO product VALUES (8, 1, 'null price', NULL), (9, 1, 'null price', NULL);
SELECT cqrs.drain() > 0 AS applied;
SELECT * FROM by_price ORDER BY price;
SELECT * FROM totals;
DELETE FROM product WHERE price IS NULL;
SELECT cqrs.drain() > 0 AS applied;
SELECT * FROM by_price ORDER BY price;
SELECT * FROM totals;
SELECT c.relname, c.relreplident FROM pg_class c JOIN cqrs_internal.version v ON v."table" = c.oid ORDER BY 1;
SELECT * FROM cqrs.verify('by_price');
SELECT * FROM cqrs.verify('totals');

-- A key that is not unique is found by the fill, which names it; nothing is left behind but a projection that can be dropped.
SELECT cqrs.create_projection('by_seller', 'SELECT seller, title FROM product', key => '{seller}');
SELECT cqrs.drain('by_seller');
SELECT cqrs.drop_projection('by_seller');
-- One that stops being unique later fails with its name, and heals with the data.
SELECT cqrs.create_projection('by_title', 'SELECT title, price FROM product', key => '{title}');
SELECT cqrs.drain('by_title');
INSERT INTO product VALUES (10, 1, 'new', 1);
SELECT cqrs.drain('by_title');
DELETE FROM product WHERE id = 10;
SELECT cqrs.drain('by_title') > 0 AS applied;
SELECT * FROM cqrs.verify('by_title');

-- A view or function that the query is made of is replaced: the answer is another, though no source has changed.
CREATE FUNCTION dear(numeric) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 5';
CREATE VIEW cheap AS SELECT id, price FROM product WHERE NOT dear(price);
CREATE VIEW cheaper AS SELECT id FROM cheap;
SELECT cqrs.create_projection('bargains', 'SELECT id FROM cheaper', key => '{id}');
SELECT cqrs.drain('bargains');
SELECT * FROM bargains ORDER BY id;
CREATE OR REPLACE FUNCTION dear(numeric) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 6';
SELECT status FROM cqrs.versions WHERE projection = 'bargains'::regclass;
SELECT cqrs.drain('bargains');
SELECT * FROM bargains ORDER BY id;
CREATE OR REPLACE VIEW cheap AS SELECT id, price FROM product WHERE price < 6;
SELECT cqrs.drain('bargains');
-- Affected keys are found by the price now, which is not imaged before the first drain has asked for it.
SELECT cqrs.drain('bargains');
SELECT * FROM bargains ORDER BY id;
SELECT status FROM cqrs.versions WHERE projection = 'bargains'::regclass;
SELECT cqrs.drop_projection('bargains');

-- What depends on a projection is in the way of dropping it, unless told otherwise.
CREATE VIEW dear AS SELECT * FROM product_page WHERE price > 5;
SELECT cqrs.drop_projection('product_page');
SELECT cqrs.drop_projection('product_page', cascade => true);
SELECT to_regclass('product_page'), to_regclass('dear');
SELECT cqrs.drop_projection('by_price');
SELECT cqrs.drop_projection('totals');
SELECT cqrs.drop_projection('by_title');
SELECT projection FROM cqrs.projections;
SELECT nspname FROM pg_namespace WHERE nspname LIKE 'cqrs\_%\_v1';
SELECT tgname FROM pg_trigger WHERE tgrelid IN ('product'::regclass, 'seller'::regclass) AND NOT tgisinternal;

-- Bad input: each a clear error, nothing half made.
SELECT cqrs.create_projection(NULL, 'SELECT 1');
SELECT cqrs.create_projection('x', NULL);
SELECT cqrs.create_projection('', 'SELECT id FROM product');
SELECT cqrs.create_projection('a.b.c.d', 'SELECT id FROM product');
SELECT cqrs.create_projection('nowhere.x', 'SELECT id FROM product');
SELECT cqrs.create_projection('product', 'SELECT id FROM product');
SELECT cqrs.create_projection('pg_temp.x', 'SELECT id FROM product');
SELECT cqrs.create_projection('x', 'SELEC id FROM product');
SELECT cqrs.create_projection('x', 'SELECT nope FROM product');
SELECT cqrs.create_projection('x', 'SELECT id FROM product', key => '{nope}');
SELECT cqrs.create_projection('x', 'SELECT id FROM product', key => '{id,id}');
SELECT cqrs.create_projection('x', 'SELECT id FROM product', key => '{NULL}');
SELECT cqrs.create_projection('x', 'SELECT title FROM product');
SELECT cqrs.create_projection('x', 'SELECT id FROM product', indexes => '{"(nope)"}');
SELECT cqrs.create_projection('x', 'SELECT id FROM product', indexes => '{"UNIQUE (id)"}');
SELECT cqrs.create_projection('x', 'SELECT id FROM product', indexes => '{"(id); DROP TABLE product"}');
SELECT cqrs.create_projection('x', 'SELECT id FROM product', max_lag => '0');
SELECT cqrs.drain('product');
SELECT cqrs.pause('seller');
SELECT cqrs.wait_until_serving('seller');
SELECT cqrs.explain('seller');
SELECT * FROM cqrs.verify('seller');
SELECT projection FROM cqrs.projections;
SELECT nspname FROM pg_namespace WHERE nspname LIKE 'cqrs\_%\_v1';

-- drain and verify refuse transactions in which they could not be exact.
SELECT cqrs.create_projection('p', 'SELECT id, title FROM product');
SELECT cqrs.drain('p');
SELECT cqrs.wait_until_serving('p', '-1 s');
SELECT * FROM cqrs.verify('p', 0.5);
SELECT * FROM cqrs.verify('p', version => 7);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.drain('p');
ROLLBACK;
BEGIN;
UPDATE product SET title = 'own' WHERE id = 7;
SELECT cqrs.drain('p');
ROLLBACK;
BEGIN READ ONLY;
SELECT cqrs.drain('p');
ROLLBACK;
BEGIN READ ONLY;
SELECT cqrs.create_projection('q', 'SELECT id FROM product');
ROLLBACK;
-- A change that was rolled back to a savepoint is none: drain goes on.
BEGIN;
SAVEPOINT s;
UPDATE product SET title = 'own' WHERE id = 7;
ROLLBACK TO s;
SELECT cqrs.drain('p');
COMMIT;

-- A drain in a transaction with an id of its own must leave room for what this transaction changes later.
CREATE TABLE elsewhere (n integer);
BEGIN;
INSERT INTO elsewhere VALUES (1);
SELECT cqrs.drain('p');
UPDATE product SET title = 'after the drain' WHERE id = 7;
COMMIT;
SELECT cqrs.drain('p');
SELECT * FROM p WHERE id = 7;

-- Create, build and read in one transaction, and roll it all back.
BEGIN;
SELECT cqrs.create_projection('q', 'SELECT id FROM product');
SELECT cqrs.drain('q');
SELECT count(*) > 0 AS filled FROM q;
ROLLBACK;
SELECT to_regclass('q');

-- Names that need quotes, and one that is as long as names get.
SELECT cqrs.create_projection('"Odd name"', 'SELECT id AS "Id ""quoted""" FROM product');
SELECT cqrs.create_projection('definition', 'SELECT id FROM product');
SELECT cqrs.create_projection('a23456789012345678901234567890123456789012345678901234567890123', 'SELECT id FROM product');
SELECT cqrs.drain();
SELECT count(*) FROM "Odd name";
SELECT count(*) FROM definition;
SELECT cqrs.drop_projection('"Odd name"');
SELECT cqrs.drop_projection('definition');
SELECT cqrs.drop_projection('a23456789012345678901234567890123456789012345678901234567890123');
-- History keeps what happened, also to projections that are gone.
SELECT event, count(*) FROM cqrs.history WHERE projection LIKE 'projection_test.%' OR projection = 'p' GROUP BY 1 ORDER BY 1;
SELECT cqrs.drop_projection('p');
DROP SCHEMA projection_test CASCADE;
