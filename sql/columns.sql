-- Which columns of a source are captured: those that somebody reads are watched, those by which affected keys are found are imaged.  If this fails, updates
-- that nobody reads cost something, images hold more than they need or less, or a read model misses a change of a column that is not in images.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA columns_test;
SET search_path = columns_test;
CREATE TABLE looked (upto bigint);
INSERT INTO looked SELECT coalesce(max(position), 0) FROM cqrs.outbox;
CREATE VIEW news AS
SELECT o.kind, o.source, o.old_row, o.new_row FROM cqrs.outbox AS o, looked WHERE o.position > upto ORDER BY o.position;
\set news 'TABLE news; UPDATE looked SET upto = (SELECT coalesce(max(position), 0) FROM cqrs.outbox);'
CREATE VIEW sets AS
SELECT source, watched, imaged, why FROM cqrs.sources
WHERE source IN (SELECT oid FROM pg_class WHERE relnamespace = 'columns_test'::regnamespace) ORDER BY source::text;

CREATE TABLE orders (id integer PRIMARY KEY, customer integer, gone text, status text, total numeric, note text, seen_at timestamptz);
ALTER TABLE orders DROP COLUMN gone;
ALTER TABLE orders ALTER COLUMN note SET STORAGE EXTERNAL;
CREATE TABLE customer (id integer PRIMARY KEY, name text, city text);
INSERT INTO customer VALUES (1, 'ann', 'Oslo'), (2, 'bob', 'Rome');
INSERT INTO orders SELECT i, 1 + i % 2, 'new', i * 10, repeat('note ', 1000) || i FROM generate_series(1, 4) AS i;

-- Keys, conditions and the primary key are imaged; what is only shown or added up is watched; what nobody reads is neither.  Before the fill nothing is.
SELECT cqrs.create_projection('page', 'SELECT o.id, o.status, o.total, c.name FROM orders o JOIN customer c ON c.id = o.customer', '{id}');
TABLE sets;
SELECT cqrs.drain('page');
TABLE sets;

-- An update of what nobody reads is no change; nor is one that writes what was there.
UPDATE orders SET seen_at = '2026-01-01', note = 'short';
UPDATE orders SET status = status, total = total + 0;
UPDATE customer SET city = upper(city);
:news
-- One of what is watched gives images of what is imaged.
UPDATE orders SET status = 'paid' WHERE id = 1;
UPDATE orders SET customer = 1 WHERE id = 3;
UPDATE customer SET name = 'eve' WHERE id = 2;
DELETE FROM orders WHERE id = 4;
INSERT INTO orders VALUES (5, 2, 'new', 50, NULL, NULL);
:news
SELECT cqrs.drain('page');
SELECT * FROM page ORDER BY id;
SELECT * FROM cqrs.verify('page');

-- Another read model asks for more: both sets grow.  What was captured before is read as it was written.
UPDATE orders SET total = total + 1;
SELECT cqrs.create_projection('notes', 'SELECT status, sum(length(note)) AS length, count(DISTINCT note) FROM orders GROUP BY status', '{status}');
SELECT cqrs.drain('notes');
TABLE sets;
UPDATE orders SET status = 'sent' WHERE id = 2;
:news
SELECT cqrs.drain('page');
SELECT * FROM cqrs.verify('page');
-- A value out of line that is not imaged stays where it is, and its change counts all the same; left alone it is no change.
UPDATE orders SET note = repeat('longer ', 2000) WHERE id = 1;
SELECT pg_column_size(note) > 10000 AS out_of_line FROM orders WHERE id = 1;
UPDATE orders SET seen_at = '2026-01-02' WHERE id = 1;
SELECT kind, old_row, new_row FROM news;
SELECT cqrs.drain('notes');
SELECT * FROM notes ORDER BY status;
SELECT * FROM cqrs.verify('notes');
-- A change that only one of them reads is none to the other.
UPDATE orders SET total = 0 WHERE id = 2;
SELECT cqrs.drain();
SELECT * FROM cqrs.verify('page');
SELECT * FROM cqrs.verify('notes');

-- Dropped, it takes back what it asked for, and no more.
SELECT cqrs.drop_projection('notes');
TABLE sets;
SELECT array_agg(attname ORDER BY attnum) AS fires_for FROM pg_trigger JOIN pg_attribute ON attrelid = tgrelid AND attnum = ANY (tgattr)
WHERE tgrelid = 'orders'::regclass;
UPDATE looked SET upto = (SELECT coalesce(max(position), 0) FROM cqrs.outbox);
UPDATE orders SET note = 'not read any more', status = 'new' WHERE id = 2;
:news

-- cqrs.capture asks for whole rows, of columns added later too; uncapture takes that back.
SELECT cqrs.capture('orders');
TABLE sets;
ALTER TABLE orders ADD COLUMN weight integer DEFAULT 7;
SELECT watched, imaged FROM sets WHERE source = 'orders'::regclass;
UPDATE orders SET seen_at = '2026-01-03' WHERE id = 2;
UPDATE orders SET seen_at = seen_at WHERE id = 2;
:news
SELECT cqrs.uncapture('orders');
TABLE sets;
UPDATE orders SET seen_at = '2026-01-04', weight = 8 WHERE id = 2;
:news
SELECT cqrs.drain('page');
SELECT * FROM cqrs.verify('page');

-- A column added with a default is in rows that were never written again, and so in their images.
SELECT cqrs.create_projection('weights', 'SELECT weight, count(*) FROM orders GROUP BY weight', '{weight}');
SELECT cqrs.drain('weights');
UPDATE orders SET weight = 9 WHERE id = 5;
DELETE FROM orders WHERE id = 3;
:news
SELECT cqrs.drain('weights');
SELECT * FROM weights ORDER BY weight;
SELECT * FROM cqrs.verify('weights');
SELECT cqrs.drop_projection('weights');

-- A view that a query reads is replaced by one that reads another column: from then on that one is captured.
CREATE VIEW amount AS SELECT id, total AS amount FROM orders;
SELECT cqrs.create_projection('amounts', 'SELECT id, amount FROM amount', '{id}');
SELECT cqrs.drain('amounts');
CREATE OR REPLACE VIEW amount AS SELECT id, total * weight AS amount FROM orders;
SELECT cqrs.drain('amounts');
SELECT cqrs.drain('amounts');
SELECT watched, imaged, why FROM sets WHERE source = 'orders'::regclass;
SELECT status FROM cqrs.versions WHERE projection = 'amounts'::regclass;
UPDATE orders SET weight = 2;
SELECT cqrs.drain('amounts') AS changes;
SELECT * FROM amounts ORDER BY id;
SELECT * FROM cqrs.verify('amounts');
-- Replaced by one that reads less, it goes on with what is captured, and asks for less.
CREATE OR REPLACE VIEW amount AS SELECT id, total AS amount FROM orders;
UPDATE orders SET weight = 3, total = total + 5 WHERE id = 1;
SELECT cqrs.drain('amounts') AS changes;
SELECT status FROM cqrs.versions WHERE projection = 'amounts'::regclass;
SELECT why FROM sets WHERE source = 'orders'::regclass;
SELECT * FROM cqrs.verify('amounts');
SELECT cqrs.drop_projection('amounts');

-- Columns of all layouts as keys, in images that leave out what lies between them; with nulls, and beside long values.
CREATE TYPE pair AS (x integer, y text);
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE types (skip1 text, c "char", skip2 bigint, i2 smallint, f float8, skip3 text, n numeric, nm name, ch char(5), vb varbit, arr integer[], p pair,
    m mood, skip4 boolean, d date, r int4range, b bytea, u uuid, long text);
SELECT cqrs.create_projection('by_types', 'SELECT c, i2, f, n, nm, ch, vb, arr, p, m, d, r, b, u, long, count(*), sum(skip2)
    FROM types GROUP BY c, i2, f, n, nm, ch, vb, arr, p, m, d, r, b, u, long', '{c,i2,f,n,nm,ch,vb,arr,p,m,d,r,b,u,long}');
SELECT cqrs.drain('by_types');
INSERT INTO types VALUES ('left out', 'c', 1, -2, 'NaN', 'left out', 1.50, 'name', 'ab', B'10101', '{1,NULL,3}', (1, 'why'), 'glad', true, '2026-02-03', '[1,5)',
    '\x00ff', '00000000-0000-0000-0000-000000000001', repeat('long ', 3000));
INSERT INTO types DEFAULT VALUES;
INSERT INTO types VALUES (repeat('left out ', 3000), NULL, 2, 7, NULL, NULL, 2, NULL, '', NULL, '{}');
SELECT cqrs.drain('by_types');
SELECT * FROM cqrs.verify('by_types');
UPDATE types SET skip2 = coalesce(skip2, 0) + 1, skip1 = 'other';
UPDATE types SET arr = '{4,5}', nm = 'longer name', vb = NULL WHERE i2 = -2;
UPDATE types SET long = 'short' WHERE c = 'c';
DELETE FROM types WHERE c IS NULL AND i2 IS NULL;
SELECT kind, new_row ? 'skip1' OR new_row ? 'skip2' AS too_much, length(old_row ->> 'long') AS long, old_row - 'long' AS old_row
FROM news WHERE source = 'types'::regclass;
SELECT cqrs.drain('by_types') AS changes;
SELECT * FROM cqrs.verify('by_types');
SELECT count, sum FROM by_types ORDER BY sum;

-- Columns that stand in the same places in all rows, with gaps between them, unless something before them is null, or was dropped.
CREATE TABLE fixed (flag boolean, id bigint, skip integer, u uuid, gone integer, small smallint, d date, nm name, skip2 "char", last boolean, later text);
INSERT INTO fixed SELECT true, i, 77, '00000000-0000-0000-0000-0000000000ff', 88, i, '2026-01-01', 'name ' || i, 'x', false, 'before' FROM generate_series(1, 3) AS i;
ALTER TABLE fixed DROP COLUMN gone;
SELECT cqrs.create_projection('by_fixed', 'SELECT flag, id, u, small, d, nm, last, count(*), max(DISTINCT later) AS later FROM fixed GROUP BY 1, 2, 3, 4, 5, 6, 7',
    '{flag,id,u,small,d,nm,last}');
SELECT cqrs.create_projection('by_first', 'SELECT id, max(DISTINCT skip) AS skip, max(DISTINCT skip2) AS skip2 FROM fixed GROUP BY id', '{id}');
SELECT cqrs.drain() IS NULL AS filled;
INSERT INTO fixed SELECT true, i, 77, '00000000-0000-0000-0000-0000000000ee', i, '2026-02-02', 'name ' || i, 'y', true, 'after' FROM generate_series(4, 6) AS i;
INSERT INTO fixed (id) VALUES (7);
INSERT INTO fixed (flag, id, u, small, d, nm, last) VALUES (false, 8, '00000000-0000-0000-0000-000000000001', 2, '2026-03-03', 'no gap', true);
UPDATE fixed SET skip = 78, later = 'changed';
UPDATE fixed SET small = small + 100, nm = 'moved' WHERE id IN (2, 5, 8);
DELETE FROM fixed WHERE id IN (3, 6);
SELECT kind, coalesce(new_row, old_row) AS row FROM news WHERE source = 'fixed'::regclass;
SELECT cqrs.drain('by_fixed') AS changes, cqrs.drain('by_first') AS changes;
SELECT * FROM cqrs.verify('by_fixed');
SELECT * FROM cqrs.verify('by_first');
SELECT * FROM by_first ORDER BY id;
SET client_min_messages = warning;
SELECT cqrs.drop_projection('by_fixed'), cqrs.drop_projection('by_first');
RESET client_min_messages;

-- Tables of one tree hold the same columns in other places; images are the root's, and what is noted is of the same columns.
CREATE TABLE events (day date, kind text, gone integer, amount numeric, remark text, ref integer) PARTITION BY RANGE (day);
ALTER TABLE events DROP COLUMN gone;
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_2026 (ref integer, scrap text, remark text, scrap2 bigint, kind text, day date, amount numeric);
ALTER TABLE events_2026 DROP COLUMN scrap, DROP COLUMN scrap2;
ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
SELECT cqrs.create_projection('by_kind', 'SELECT kind, sum(amount) AS amount, max(DISTINCT length(remark)) AS longest, count(*) FROM events GROUP BY kind', '{kind}');
SELECT cqrs.create_projection('by_ref', 'SELECT ref, day, count(*), max(DISTINCT kind) AS kind FROM events GROUP BY ref, day', '{ref,day}');
SELECT cqrs.drain() AS changes;
SELECT watched, imaged FROM sets WHERE source = 'events'::regclass;
INSERT INTO events VALUES ('2025-05-05', 'a', 1, 'x', 1), ('2026-06-06', 'b', 2, 'y', 2), ('2026-07-07', 'a', 3, NULL, NULL);
UPDATE events SET amount = amount + 1 WHERE kind = 'a';
UPDATE events SET remark = repeat('long ', 2000) WHERE day = '2026-06-06';
UPDATE events SET kind = 'c' WHERE ref IS NULL;
UPDATE events SET day = '2025-12-12' WHERE kind = 'b';
UPDATE events SET ref = ref;
SELECT kind, source, old_row, new_row FROM news WHERE source = 'events'::regclass;
SELECT cqrs.drain() AS changes;
SELECT * FROM cqrs.verify('by_kind');
SELECT * FROM cqrs.verify('by_ref');
SELECT * FROM by_kind ORDER BY kind;
SELECT * FROM by_ref ORDER BY day;
SET client_min_messages = warning;
SELECT cqrs.drop_projection('by_kind'), cqrs.drop_projection('by_ref');
RESET client_min_messages;
CREATE TABLE base (a integer, b integer, c text);
CREATE TABLE derived (c text, z integer, a integer, b integer);
ALTER TABLE derived INHERIT base;
SELECT cqrs.create_projection('bases', 'SELECT a, sum(b) AS b, min(DISTINCT c) AS c FROM base GROUP BY a', '{a}');
SELECT cqrs.drain() AS changes;
INSERT INTO base VALUES (1, 1, 'base');
INSERT INTO derived VALUES ('derived', 1, 1, 2), ('other', 1, 2, 2);
UPDATE derived SET z = 3;
UPDATE base SET b = b + 1;
UPDATE base SET c = c || '!' WHERE a = 2;
SELECT kind, source, old_row, new_row FROM news WHERE source = 'base'::regclass;
SELECT cqrs.drain() AS changes;
SELECT * FROM cqrs.verify('bases');
SELECT * FROM bases ORDER BY a;

SET client_min_messages = warning;
SELECT cqrs.drop_projection('bases');
SELECT cqrs.drop_projection('by_types');
SELECT cqrs.drop_projection('page');
DROP SCHEMA columns_test CASCADE;
