-- Updates that concern nobody do not fire the capture trigger, which would cost most of what capturing them does.  If this fails, an update that does concern a
-- read model is missed, however the column came to be changed, or the server is asked for nothing.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA updates_test;
SET search_path = updates_test;
CREATE TABLE looked (upto bigint);
INSERT INTO looked SELECT coalesce(max(position), 0) FROM cqrs.outbox;
CREATE VIEW news AS SELECT o.kind, o.source, count(*) FROM cqrs.outbox AS o, looked WHERE o.position > upto GROUP BY 1, 2 ORDER BY 1, 2;
\set news 'TABLE news; UPDATE looked SET upto = (SELECT coalesce(max(position), upto) FROM cqrs.outbox);'
CREATE VIEW fired AS
SELECT tgrelid::regclass AS "table", regexp_replace(pg_get_triggerdef(oid), '.* AFTER (.*) ON .*', '\1') AS events
FROM pg_trigger WHERE tgfoid = 'cqrs_internal.capture'::regproc AND tgtype & 1 = 1 ORDER BY 1, 2;
CREATE FUNCTION raise_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.rank := NEW.rank + 1; RETURN NEW; END$$;

-- Only what is read counts, and what tells rows apart.
CREATE TABLE items (id integer PRIMARY KEY, name text UNIQUE, price integer, tax integer GENERATED ALWAYS AS (price / 10) STORED, rank integer DEFAULT 0, note text, seen integer);
INSERT INTO items (id, name, price, note, seen) SELECT g, 'item ' || g, g, 'note', 0 FROM generate_series(1, 10) AS g;
SELECT cqrs.create_projection('prices', 'SELECT id, tax, rank FROM items');
SELECT cqrs.drain('prices');
SELECT * FROM fired;
CREATE FUNCTION wrong() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM ((TABLE prices EXCEPT ALL SELECT id, tax, rank FROM items) UNION ALL (SELECT id, tax, rank FROM items EXCEPT ALL TABLE prices)) AS d$$;
\set check 'SELECT cqrs.drain(\'prices\'); SELECT wrong();'
:news
UPDATE items SET seen = seen + 1, note = 'seen';
:news

-- A generated column changes with the one it is made of, which the update names; upserts and MERGE name columns, too.
UPDATE items SET price = 100 WHERE id = 1;
INSERT INTO items (id, name) VALUES (2, 'item 2') ON CONFLICT (id) DO UPDATE SET price = 200;
INSERT INTO items (id, name) VALUES (2, 'item 2') ON CONFLICT (id) DO UPDATE SET note = 'again';
MERGE INTO items USING (VALUES (3), (99)) AS v (id) ON items.id = v.id
    WHEN MATCHED THEN UPDATE SET price = 300 WHEN NOT MATCHED THEN INSERT (id, name, price) VALUES (v.id, 'new', 990);
:news
:check

-- A trigger may change what an update does not name: in the transaction that made it, and from then on, disabled or not.
BEGIN;
CREATE TRIGGER raises BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION raise_it();
UPDATE items SET note = 'raised' WHERE id = 4;
COMMIT;
SELECT * FROM fired;
ALTER TABLE items DISABLE TRIGGER raises;
UPDATE items SET note = 'not raised' WHERE id = 5;
ALTER TABLE items ENABLE TRIGGER raises;
UPDATE items SET note = 'raised' WHERE id = 6;
:news
:check

-- So may one that was there first; and once the last such trigger is gone, whatever else is altered has fewer updates fire.
SELECT cqrs.drop_projection('prices');
SELECT cqrs.create_projection('prices', 'SELECT id, tax, rank FROM items');
SELECT cqrs.drain('prices');
SELECT * FROM fired;
UPDATE items SET note = 'raised' WHERE id = 7;
:check
DROP TRIGGER raises ON items;
ALTER TABLE items ALTER COLUMN note SET STATISTICS 10;
SELECT * FROM fired;

-- Whole rows are all columns, those that come later as well, and what is captured for oneself is nothing to those who read.
SELECT cqrs.drop_projection('prices');
SELECT cqrs.create_projection('prices', 'SELECT id, tax, rank FROM items');
SELECT cqrs.drain('prices');
SELECT cqrs.capture('items');
SELECT status FROM cqrs.versions WHERE projection = 'prices'::regclass;
SELECT * FROM fired;
ALTER TABLE items ADD COLUMN later integer;
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);
UPDATE items SET later = 1 WHERE id = 1;
:news
SELECT cqrs.uncapture('items');

-- A column that was read, and is not any more, goes like any other; so does its type.
SELECT cqrs.create_projection('notes', 'SELECT id, note, seen FROM items');
SELECT cqrs.drain('notes');
SELECT * FROM fired;
SELECT cqrs.drop_projection('notes');
ALTER TABLE items DROP COLUMN note;
ALTER TABLE items ALTER COLUMN seen TYPE bigint;
SELECT * FROM fired;
UPDATE items SET price = 7 WHERE id = 7;
:check
SELECT cqrs.drop_projection('prices');
DROP FUNCTION wrong();

-- Foreign keys name the column that they change.
CREATE TABLE owners (id integer PRIMARY KEY);
CREATE TABLE things (id integer PRIMARY KEY, owner integer REFERENCES owners ON UPDATE CASCADE ON DELETE SET NULL, note text);
INSERT INTO owners VALUES (1), (2);
INSERT INTO things VALUES (1, 1), (2, 2), (3, 2);
SELECT cqrs.create_projection('owned', 'SELECT owner, count(*) AS things FROM things GROUP BY owner');
SELECT cqrs.drain('owned');
SELECT * FROM fired;
UPDATE owners SET id = 3 WHERE id = 1;
DELETE FROM owners WHERE id = 2;
UPDATE things SET note = 'unread';
SELECT cqrs.drain('owned');
TABLE owned ORDER BY 1;

-- With nobody to notice that a trigger came, what it changes is missed, but not that it is: readers evaluate all anew, once, and then it fires.
CREATE FUNCTION take_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.owner := 3; RETURN NEW; END$$;
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);
ALTER EVENT TRIGGER cqrs_follow_tables DISABLE;
CREATE TRIGGER takes BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION take_it();
ALTER EVENT TRIGGER cqrs_follow_tables ENABLE ALWAYS;
UPDATE things SET note = 'taken unseen' WHERE id = 2;
:news
SELECT cqrs.drain('owned');
TABLE owned ORDER BY 1;
SELECT * FROM fired;
UPDATE things SET note = 'taken' WHERE id = 3;
:news
SELECT cqrs.drain('owned');
TABLE owned ORDER BY 1;
SELECT cqrs.drop_projection('owned');

-- Partitions have their columns at other places, and their root's triggers: those it has when they join, and those it gets later.
CREATE TABLE sales (id integer, region integer, rank integer, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE sales_1 (note text, dropped integer, rank integer, region integer NOT NULL, id integer NOT NULL, PRIMARY KEY (id, region));
ALTER TABLE sales_1 DROP COLUMN dropped;
ALTER TABLE sales ATTACH PARTITION sales_1 FOR VALUES IN (1);
CREATE TABLE sales_2 PARTITION OF sales FOR VALUES IN (2);
INSERT INTO sales SELECT g, 1 + g % 2, g, 'note' FROM generate_series(1, 8) AS g;
SELECT cqrs.create_projection('sold', 'SELECT id, region, rank FROM sales');
SELECT cqrs.drain('sold');
SELECT * FROM fired;
CREATE FUNCTION wrong() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM ((TABLE sold EXCEPT ALL SELECT id, region, rank FROM sales)
        UNION ALL (SELECT id, region, rank FROM sales EXCEPT ALL TABLE sold)) AS d$$;
\set check 'SELECT cqrs.drain(\'sold\'); SELECT wrong();'
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);
UPDATE sales SET note = 'unread';
:news
UPDATE sales SET rank = rank + 1 WHERE id < 3;
UPDATE sales SET region = 2 WHERE id = 4;
UPDATE sales_1 SET rank = 0 WHERE id = 6;
:check
CREATE TRIGGER raises BEFORE UPDATE ON sales_2 FOR EACH ROW EXECUTE FUNCTION raise_it();
UPDATE sales SET note = 'raised in one';
SELECT * FROM fired;
:check
CREATE TRIGGER raises_all BEFORE UPDATE ON sales FOR EACH ROW EXECUTE FUNCTION raise_it();
UPDATE sales SET note = 'raised in both';
CREATE TABLE sales_3 (LIKE sales INCLUDING ALL);
INSERT INTO sales_3 VALUES (9, 3, 9);
ALTER TABLE sales ATTACH PARTITION sales_3 FOR VALUES IN (3);
UPDATE sales SET note = 'raised in three' WHERE id = 9;
SELECT * FROM fired;
:check
SELECT cqrs.drop_projection('sold');

SET client_min_messages = warning;
DROP SCHEMA updates_test CASCADE;
