-- Partitioned and inherited sources: a read model over a tree of tables follows what is written through the root, to a part of it, or from one part to another.
-- If this fails, rows of some partition or child are missed, counted twice, or read with their columns in the wrong order.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA trees;
SET search_path = trees;
\getenv abs_srcdir PG_ABS_SRCDIR
\set followed :abs_srcdir '/test/followed.sql'
\set ECHO none
\i :followed
\set ECHO all

-- A tree of two levels.  Its leaves have the root's columns in other orders, or columns dropped in between.
CREATE TABLE region (id integer PRIMARY KEY, name text);
INSERT INTO region VALUES (1, 'north'), (2, 'south'), (3, 'east');
CREATE TABLE sale (id integer, region integer, note text, amount numeric, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE sale_a PARTITION OF sale FOR VALUES FROM (0) TO (100);
CREATE TABLE sale_b (amount numeric, gone date, note text, id integer NOT NULL, region integer);
ALTER TABLE sale_b DROP COLUMN gone;
ALTER TABLE sale ATTACH PARTITION sale_b FOR VALUES FROM (100) TO (200);
CREATE TABLE sale_c PARTITION OF sale FOR VALUES FROM (200) TO (400) PARTITION BY RANGE (id);
CREATE TABLE sale_c1 PARTITION OF sale_c FOR VALUES FROM (200) TO (300);
CREATE TABLE sale_c2 (region integer, amount numeric, id integer NOT NULL, note text);
ALTER TABLE sale_c ATTACH PARTITION sale_c2 FOR VALUES FROM (300) TO (400);
CREATE TABLE sale_rest PARTITION OF sale DEFAULT;
INSERT INTO sale SELECT n * 10, n % 4, 'note ' || n, n FROM generate_series(1, 39) AS n;

-- The root's key tells rows of all partitions apart; the root, a partition that is partitioned, and a leaf are sources of their own.
SELECT project('sales', 'SELECT s.id AS key, s.note, s.amount, r.name FROM sale AS s LEFT JOIN region AS r ON r.id = s.region', NULL);
SELECT project('totals', 'SELECT region AS key, count(*) AS sales, sum(amount) AS total, min(note) AS first FROM sale GROUP BY region', NULL);
SELECT project('branch', 'SELECT id AS key, amount, note FROM sale_c', NULL);
SELECT project('leaf', 'SELECT id AS key, note, amount FROM sale_c2', NULL);
SELECT cqrs.drain();
SELECT * FROM followed();
SELECT t.tgrelid::regclass AS on, s.relation AS for, t.tgenabled, t.tgtype & 1 = 1 AS row FROM pg_trigger AS t JOIN cqrs_internal.source AS s
ON t.tgfoid = 'cqrs_internal.capture'::regproc AND t.tgargs = convert_to(s.id::text, 'UTF8') || '\x00'
ORDER BY t.tgrelid::regclass::text, s.relation::text, row;
SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('sale'::regclass, 'sale_c'::regclass) AND NOT tgisinternal;

-- Every way of writing, through the root and to a part of it.
INSERT INTO sale VALUES (1, 1, 'to a', 1.5), (101, 2, 'to b', 2.5), (201, 3, 'to c1', 3.5), (301, NULL, 'to c2', 4.5), (401, 1, 'to the rest', 5.5);
INSERT INTO sale_b VALUES (6.5, 'into b', 102, 3);
INSERT INTO sale_c VALUES (302, 1, 'into c', 7.5);
COPY sale FROM stdin;
2	2	copied to a	8.5
303	3	copied to c2	9.5
\.
COPY sale_c2 FROM stdin;
2	10.5	304	copied into c2
\.
SELECT * FROM followed();
UPDATE sale SET amount = amount + 1, note = NULL WHERE id % 3 = 0;
UPDATE sale_c2 SET region = 1 WHERE id < 305;
UPDATE region SET name = 'SOUTH' WHERE id = 2;
DELETE FROM sale WHERE id % 5 = 0 AND id < 250;
SELECT * FROM followed();
INSERT INTO sale VALUES (1, 2, 'a conflict', 0), (105, 2, 'no conflict', 0), (301, 3, 'a conflict', 0) ON CONFLICT (id) DO UPDATE SET note = excluded.note, region = excluded.region;
MERGE INTO sale USING (VALUES (105, 1), (106, 2), (302, NULL)) AS m (id, region) ON sale.id = m.id
WHEN MATCHED AND m.region IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET region = m.region WHEN NOT MATCHED THEN INSERT VALUES (m.id, m.region, 'merged', 1);
SELECT * FROM followed();

-- From one partition to another, in one UPDATE: up, down, to the rest and back, into a partition with another order of columns.
UPDATE sale SET id = id + 205 WHERE id IN (1, 101, 201, 401);
SELECT * FROM followed();
UPDATE sale SET id = id - 307, note = note || '!' WHERE id IN (306, 406, 606);
UPDATE sale SET id = id + 1000 WHERE region = 1;
UPDATE sale SET id = id - 1000 WHERE id > 1000;
SELECT * FROM followed();

-- What cascades, into partitions and from them, and a trigger that changes the same row and another partition's again.
CREATE TABLE item (sale integer REFERENCES sale ON UPDATE CASCADE ON DELETE CASCADE, n integer, above integer, name text, PRIMARY KEY (n),
    FOREIGN KEY (above) REFERENCES item ON DELETE CASCADE) PARTITION BY HASH (n);
CREATE TABLE item_0 PARTITION OF item FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE item_1 (name text, above integer, n integer NOT NULL, sale integer);
ALTER TABLE item ATTACH PARTITION item_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO item SELECT s.id, s.id * 10 + n, CASE WHEN n > 1 THEN s.id * 10 + n - 1 END, 'item ' || n FROM sale AS s, generate_series(1, 3) AS n WHERE s.id < 250;
SELECT project('items', 'SELECT i.n AS key, i.name, s.note, s.id AS sale FROM item AS i LEFT JOIN sale AS s ON s.id = i.sale', NULL);
SELECT cqrs.drain('items');
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE item SET name = name || '+' WHERE n = NEW.n OR above = NEW.n;
    RETURN NULL;
END$$;
CREATE TRIGGER a_again AFTER UPDATE OF sale ON item FOR EACH ROW EXECUTE FUNCTION again();
UPDATE sale SET id = id + 1 WHERE id = 250 OR id IN (SELECT min(id) FROM sale);
UPDATE sale SET id = id + 600 WHERE id BETWEEN 210 AND 220;
DELETE FROM sale WHERE id BETWEEN 60 AND 70;
DELETE FROM item WHERE above IS NULL AND sale < 40;
SELECT * FROM followed();
SELECT cqrs.drop_projection('items');
DELETE FROM watched WHERE view NOT IN (SELECT projection FROM cqrs.projections);
DROP TABLE item;

-- TRUNCATE of one leaf, of a partition with its own, and of all.
TRUNCATE sale_b;
SELECT * FROM followed();
BEGIN;
TRUNCATE sale_c;
INSERT INTO sale VALUES (210, 1, 'after the truncate', 1), (310, 2, 'after the truncate', 2);
COMMIT;
SELECT * FROM followed();
TRUNCATE sale;
INSERT INTO sale VALUES (3, 3, 'anew', 1), (103, 3, 'anew', 1), (203, 3, 'anew', 1), (303, 3, 'anew', 1), (403, 3, 'anew', 1);
SELECT * FROM followed();
TABLE sales ORDER BY 1;

-- What stands in the outbox is rows of the root, in its order, and of a leaf that is a source of its own as well; once for each.
CREATE TABLE looked AS SELECT max(position) AS upto FROM cqrs.outbox;
SELECT cqrs.capture('sale');
INSERT INTO sale VALUES (104, 1, 'captured', 1);
UPDATE sale SET id = 304, note = 'moved' WHERE id = 104;
UPDATE sale SET amount = 2 WHERE id = 304;
DELETE FROM sale_c2 WHERE id = 304;
SELECT o.kind, o.source, o.old_row, o.new_row FROM cqrs.outbox AS o, looked WHERE o.position > upto
ORDER BY o.source::text, o.position;
SELECT cqrs.uncapture('sale');
SELECT * FROM followed();

-- Inheritance: a child with the columns in another order, one that merges columns of two parents, and one below both.
CREATE TABLE base (id integer PRIMARY KEY, name text, v integer);
CREATE TABLE other_base (v integer, id integer, extra text);
CREATE TABLE child (note text, v integer, id integer NOT NULL, name text);
ALTER TABLE child INHERIT base;
CREATE TABLE both_bases (own text) INHERITS (other_base, base);
CREATE TABLE below () INHERITS (child, both_bases);
\d below
INSERT INTO base VALUES (1, 'base', 1);
INSERT INTO child (id, name, v, note) VALUES (2, 'child', 2, 'n');
INSERT INTO both_bases (id, name, v, extra, own) VALUES (3, 'both', 3, 'e', 'o');
INSERT INTO below (id, name, v) VALUES (4, 'below', 4);
-- A parent's key says nothing of its children's rows, nor does its NOT NULL.
SELECT cqrs.create_projection('wrong', 'SELECT id, name FROM base');
SELECT project('family', 'SELECT id AS key, name, v FROM base', '{key}');
SELECT project('alone', 'SELECT id AS key, name, v FROM ONLY base', NULL);
SELECT project('others', 'SELECT id AS key, v, extra FROM other_base', '{key}');
SELECT project('lower', 'SELECT id AS key, note, v FROM child', '{key}');
SELECT project('mixed', 'SELECT b.id AS key, b.name, o.v FROM base AS b LEFT JOIN ONLY base AS o ON o.id = b.id', '{key}');
SELECT project('outer', 'SELECT b.id AS key, o.id AS alone FROM region AS b LEFT JOIN ONLY base AS o ON o.id = b.id', '{key,alone}');
SELECT cqrs.drain();
SELECT * FROM followed();
INSERT INTO below (id, name, v, note, extra, own) VALUES (5, 'five', 5, 'n5', 'e5', 'o5');
UPDATE base SET v = v * 10, name = upper(name) WHERE id > 1;
UPDATE ONLY base SET v = -1;
UPDATE other_base SET id = id + 10 WHERE id = 5;
SELECT * FROM followed();
-- A row goes from the parent to a child with all that queries see of it: it is in the tree still, but not in ONLY the parent.
WITH gone AS (DELETE FROM ONLY base WHERE id = 1 RETURNING *) INSERT INTO child (id, name, v) SELECT * FROM gone;
SELECT * FROM followed();
WITH gone AS (DELETE FROM child WHERE id = 1 RETURNING *) INSERT INTO base SELECT id, name, v FROM gone;
SELECT * FROM followed();
TABLE "outer" ORDER BY key;
TRUNCATE ONLY base;
SELECT * FROM followed();
TRUNCATE child;
SELECT * FROM followed();
-- A child can hold nulls where its parent cannot, and the same key twice: the version fails then, and heals.
ALTER TABLE below ALTER COLUMN id DROP NOT NULL;
INSERT INTO both_bases (id, name) VALUES (15, 'again');
INSERT INTO below (id, name) VALUES (15, 'twice');
SELECT cqrs.drain('family');
DELETE FROM below WHERE name = 'twice';
SELECT * FROM followed();
SELECT projection, status FROM cqrs.versions JOIN watched ON view = projection WHERE status <> 'running';

-- Letting go of a tree takes the triggers from all of it, but not those of other sources.
DO $$
DECLARE
    gone regclass;
BEGIN
    FOR gone IN SELECT view FROM watched WHERE view NOT IN ('leaf'::regclass, 'others'::regclass) LOOP
        PERFORM cqrs.drop_projection(gone);
    END LOOP;
END$$;
SELECT cqrs.capture('region'), cqrs.uncapture('region');
SELECT t.tgrelid::regclass AS on, s.relation AS for, count(*) FROM pg_trigger AS t JOIN cqrs_internal.source AS s
ON t.tgfoid = 'cqrs_internal.capture'::regproc AND t.tgargs = convert_to(s.id::text, 'UTF8') || '\x00'
WHERE s.relation::text ~ 'sale|base|child|below' GROUP BY 1, 2, s.relation ORDER BY t.tgrelid::regclass::text, s.relation::text;
DELETE FROM watched WHERE view NOT IN (SELECT projection FROM cqrs.projections);
UPDATE sale SET amount = amount + 1;
UPDATE other_base SET v = 0;
SELECT * FROM followed();
SELECT cqrs.drop_projection('leaf'), cqrs.drop_projection('others');
SET client_min_messages = warning;
DROP SCHEMA trees CASCADE;
