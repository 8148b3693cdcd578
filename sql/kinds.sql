-- Every kind of source and value, captured and followed by a read model.  If this fails, rows of that kind come out of the outbox other than they went in, or a
-- read model is not what its query says.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA kinds_test;
SET search_path = kinds_test;
SET TimeZone = 'UTC';

-- What is followed, and by which query.
CREATE TABLE followed (source regclass PRIMARY KEY, query text, upto bigint);
CREATE FUNCTION columns_of(tab regclass) RETURNS text LANGUAGE sql
AS $$SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = tab AND attnum > 0 AND NOT attisdropped$$;
CREATE FUNCTION follow(tab regclass, key text DEFAULT NULL, query text DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    query := coalesce(query, format('SELECT %s FROM %s', columns_of(tab), tab));
    PERFORM cqrs.capture(tab);
    PERFORM cqrs.create_projection(tab || '_model', query, key::name[]);
    INSERT INTO followed SELECT tab, query, coalesce(max(position), 0) FROM cqrs.outbox;
END$$;

-- What has been captured of a table since the last look, and what is wrong: rows that the outbox does not add up to, differences of the read model.
CREATE FUNCTION look(tab regclass, OUT captured text, OUT wrong text) LANGUAGE plpgsql AS $$
DECLARE
    f followed := (SELECT f FROM followed AS f WHERE source = tab);
    texts text := (SELECT string_agg(format('%L, CASE WHEN num_nulls(%I) = 0 THEN format(''%%s'', %2$I) END', attname, attname), ', ')
                   FROM pg_attribute WHERE attrelid = tab AND attnum > 0 AND NOT attisdropped);
    n bigint;
BEGIN
    SELECT string_agg(kind || ' ' || count, ', ') INTO captured FROM (
        SELECT kind, count(*) FROM cqrs.outbox WHERE source = tab AND position > f.upto GROUP BY kind ORDER BY kind) AS k;
    UPDATE followed SET upto = (SELECT coalesce(max(position), 0) FROM cqrs.outbox) WHERE source = tab;
    EXECUTE format($sql$
        WITH last AS (SELECT coalesce(max(position) FILTER (WHERE kind = 'truncate'), 0) AS position FROM cqrs.outbox WHERE source = %1$L::regclass),
             news AS (SELECT o.* FROM cqrs.outbox AS o, last WHERE o.source = %1$L::regclass AND o.position > last.position)
        SELECT count(*) FROM (
            SELECT r FROM (SELECT 1 AS weight, new_row AS r FROM news WHERE new_row IS NOT NULL
                           UNION ALL SELECT -1, old_row FROM news WHERE old_row IS NOT NULL
                           UNION ALL SELECT -1, jsonb_build_object(%2$s) FROM %1$s) AS w
            GROUP BY r HAVING sum(weight) <> 0) AS d$sql$, tab, texts) INTO n;
    wrong := CASE WHEN n > 0 THEN n || ' rows do not add up' END;
    PERFORM cqrs.drain(tab || '_model');
    SELECT count(*) INTO n FROM cqrs.verify((tab || '_model')::regclass);
    wrong := concat_ws(', ', nullif(wrong, ''), CASE WHEN n > 0 THEN n || ' found by verify' END);
    EXECUTE format($sql$
        WITH ours AS (SELECT m::text FROM %1$s_model AS m), truth AS (SELECT q::text FROM (%2$s) AS q)
        SELECT count(*) FROM ((TABLE ours EXCEPT ALL TABLE truth) UNION ALL (TABLE truth EXCEPT ALL TABLE ours)) AS d$sql$, tab, f.query) INTO n;
    wrong := concat_ws(', ', nullif(wrong, ''), CASE WHEN n > 0 THEN n || ' differ from the query' END);
END$$;
CREATE FUNCTION noise(length integer, seed integer) RETURNS text IMMUTABLE LANGUAGE sql
AS $$SELECT left(string_agg(md5(seed || '.' || i), ''), length) FROM generate_series(1, length / 32 + 1) AS i$$;

-- Values of every layout: by value, by reference, varlena with short and long headers, C strings; of types of users' own.
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TYPE pair AS (x integer, y text);
CREATE TYPE pairs AS (one pair, many pair[]);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN short AS text CHECK (length(VALUE) < 10);
CREATE DOMAIN moods AS mood[];
CREATE TABLE of_types (id integer PRIMARY KEY, c "char", b boolean, i2 smallint, i8 bigint, f4 float4, f8 float8, n numeric, mo money, ch char(5), nm name,
    t timestamptz, tz timetz, iv interval, u uuid, mac macaddr, ip inet, bits bit(5), vb varbit, p point, box box, js json, jb jsonb, arr integer[], arr2 text[],
    e mood, es moods, pr pair, prs pairs, d positive, s short, r int4range, mr datemultirange, sp span, b2 bytea, x xml, ts tsvector, tq tsquery, o regclass, l pg_lsn);
SELECT follow('of_types', '{id}');
INSERT INTO of_types VALUES
    (1, 'c', true, -2, 9007199254740993, 0.1, 'NaN', 'Infinity', 12.34, 'ab', 'a name', '2026-02-03 04:05:06.789+01', '04:05:06+02', '1 mon 2 days', '00000000-0000-0000-0000-000000000001',
     '08:00:2b:01:02:03', '10.0.0.1/8', B'10101', B'101', '(1,2)', '(3,4),(1,2)', '{"k" : [1, null]}', '{"k": [1, null]}', '[2:3]={1,NULL}', '{"q\"",NULL}', 'glad', '{sad,glad}', (1, 'why'),
     ((2, NULL), ARRAY[(3, 'q"')::pair, NULL]), 7, 'short', '[1,5)', '{[2026-01-01,2026-02-01)}', '(,2.5]', '\x00ff', '<a/>', 'a fat cat', 'fat & rat', 'of_types', '16/B374D848');
INSERT INTO of_types (id) VALUES (2);
UPDATE of_types SET c = 'd', f8 = '-0', n = 1.00, pr = NULL, es = NULL, js = '[]', o = NULL WHERE id = 1;
UPDATE of_types SET n = 1.0 WHERE id = 1;
UPDATE of_types SET f8 = 0 WHERE id = 1;
UPDATE of_types SET t = 'infinity', e = 'sad', d = 1, s = '', prs = (NULL, '{}') WHERE id = 2;
UPDATE of_types SET pr = (NULL, NULL) WHERE id = 1;
SELECT * FROM look('of_types');
-- Types that users have made grow, and what was captured before stays readable.
ALTER TYPE mood ADD VALUE 'in between' BEFORE 'glad';
ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';
ALTER TYPE pair ADD ATTRIBUTE z date;
ALTER DOMAIN positive DROP CONSTRAINT positive_check;
UPDATE of_types SET e = 'in between', pr = (1, 'two', '2026-01-03'), d = -1 WHERE id = 2;
UPDATE of_types SET pr = (4, 'five', NULL) WHERE id = 1;
DELETE FROM of_types WHERE id = 2;
SELECT * FROM look('of_types');
SELECT kind, new_row -> 'e' AS e, new_row -> 'pr' AS pr, new_row -> 'd' AS d FROM cqrs.outbox WHERE source = 'of_types'::regclass ORDER BY position;

-- Rows without a key, many of them the same: each counts.
CREATE TABLE alike (a integer, b text);
SELECT follow('alike', NULL, 'SELECT a, b, count(*) AS n FROM alike GROUP BY a, b');
INSERT INTO alike SELECT i % 2, nullif('b' || i % 3, 'b2') FROM generate_series(1, 24) AS i;
DELETE FROM alike WHERE ctid = (SELECT min(ctid) FROM alike WHERE a = 1);
UPDATE alike SET b = 'b0' WHERE ctid = (SELECT max(ctid) FROM alike WHERE b IS NULL);
UPDATE alike SET a = 1 - a;
SELECT * FROM look('alike');
DELETE FROM alike;
INSERT INTO alike VALUES (NULL, NULL), (NULL, NULL);
SELECT * FROM look('alike');

-- Columns that make themselves, and columns that are gone.
CREATE TABLE made (gone integer, id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, gone_too text, loud text GENERATED ALWAYS AS (upper(name)) STORED,
    seq serial, width integer GENERATED ALWAYS AS (length(name)) STORED, at date DEFAULT '2026-01-01');
INSERT INTO made (gone, name, gone_too) VALUES (1, 'before', 'x');
ALTER TABLE made DROP COLUMN gone, DROP COLUMN gone_too;
TRUNCATE made;
SELECT follow('made', NULL, 'SELECT loud, count(*) AS n, sum(width) AS width, max(seq) AS newest FROM made GROUP BY loud');
INSERT INTO made (name) VALUES ('ann'), ('bob'), (NULL);
UPDATE made SET name = name || '!' WHERE id > 2;
UPDATE made SET name = upper(name);
UPDATE made SET id = DEFAULT WHERE name IS NULL;
SELECT * FROM look('made');
ALTER TABLE made ADD COLUMN added text DEFAULT 'was there', ADD COLUMN twice integer GENERATED ALWAYS AS (seq * 2) STORED;
UPDATE made SET at = at + 1;
SELECT captured FROM look('made');
SELECT old_row, new_row FROM cqrs.outbox WHERE source = 'made'::regclass AND kind = 'update' ORDER BY position DESC LIMIT 1;
SELECT count(*) FROM cqrs.verify('made_model');

-- Values of all sizes, in each storage, changed and left alone; rows wider than a page.
CREATE TABLE sizes (id integer PRIMARY KEY, external text, main text, extended text, doc jsonb, raw bytea, small integer);
ALTER TABLE sizes ALTER COLUMN external SET STORAGE EXTERNAL, ALTER COLUMN main SET STORAGE MAIN;
SELECT follow('sizes', '{id}');
INSERT INTO sizes SELECT i, noise(length, i), noise(length / 4, i), repeat('compressible ', length / 10), jsonb_build_object('k', noise(length, i)),
    decode(md5(i::text), 'hex'), i FROM unnest(ARRAY[0, 1, 126, 127, 128, 1990, 2040, 8000, 8200, 20000, 100000]) AS length, LATERAL (SELECT length % 97) AS u(i);
UPDATE sizes SET id = s.n FROM (SELECT id, 100 + row_number() OVER (ORDER BY length(external)) AS n FROM sizes) AS s WHERE s.id = sizes.id;
UPDATE sizes SET small = -small;
UPDATE sizes SET external = external || 'x' WHERE id % 2 = 0;
UPDATE sizes SET doc = NULL, extended = external WHERE id % 3 = 0;
UPDATE sizes SET main = repeat('m', 10000), raw = convert_to(external, 'UTF8') WHERE id % 4 = 0;
DELETE FROM sizes WHERE id > 109;
VACUUM sizes;
SELECT * FROM look('sizes');
-- A value that is written again as it was is the same, wherever it was stored anew.
UPDATE sizes SET external = external || '', extended = extended || '';
ALTER TABLE sizes ALTER COLUMN extended SET STORAGE EXTERNAL;
ALTER TABLE sizes ALTER COLUMN extended SET COMPRESSION pglz;
UPDATE sizes SET extended = extended || '', small = 0;
SELECT wrong FROM look('sizes');

-- Every way of writing a row that a read model follows.
CREATE TABLE town (id integer PRIMARY KEY, name text UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE person (id integer PRIMARY KEY, town integer REFERENCES town ON UPDATE CASCADE ON DELETE SET NULL, chief integer REFERENCES person ON DELETE CASCADE
    DEFERRABLE INITIALLY DEFERRED, n integer DEFAULT 0);
SELECT follow('person', NULL, 'SELECT t.name, count(*) AS people, sum(p.n) AS n, count(c.id) AS led FROM person p LEFT JOIN town t ON t.id = p.town
    LEFT JOIN person c ON c.id = p.chief GROUP BY t.name');
SELECT follow('town', NULL, 'SELECT t.id, t.name, count(p.id) AS people FROM town t LEFT JOIN person p ON p.town = t.id GROUP BY t.id');
INSERT INTO town VALUES (1, 'Oslo'), (2, 'Rome');
INSERT INTO person VALUES (1, 1, NULL), (2, 1, 1), (3, 2, 2), (4, 2, 3);
INSERT INTO person VALUES (4, 1, NULL, 7), (5, NULL, 1, 1) ON CONFLICT (id) DO UPDATE SET n = excluded.n, town = excluded.town;
INSERT INTO person VALUES (5, 2, NULL, 100) ON CONFLICT DO NOTHING;
MERGE INTO person p USING (VALUES (1, 5), (5, NULL), (6, 6)) AS v (id, n) ON p.id = v.id
    WHEN MATCHED AND v.n IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET n = v.n WHEN NOT MATCHED THEN INSERT (id, town, n) VALUES (v.id, 2, v.n);
COPY person (id, town, n) FROM stdin;
7	1	3
8	\N	4
\.
SELECT (look('person')).*;
SELECT (look('town')).*;
-- Cascades: of keys that change, of rows that go, along a table's own rows.
UPDATE town SET id = id + 10;
DELETE FROM town WHERE id = 12;
DELETE FROM person WHERE id = 1;
SELECT * FROM look('person');
SELECT * FROM look('town');
-- Names swap in one statement under a deferred constraint; what violates it at the commit never happened.
INSERT INTO town VALUES (20, 'Rome');
UPDATE town SET name = CASE name WHEN 'Rome' THEN 'Oslo' ELSE 'Rome' END;
BEGIN;
UPDATE town SET name = 'Oslo';
COMMIT;
-- A row changed several times in one transaction, made and gone in one, and by deferred triggers at the commit.
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE town SET name = name || '+' WHERE id = new.town AND length(name) < 9;
    UPDATE person SET n = n + 1 WHERE id = new.id AND n < 3;
    RETURN NULL;
END$$;
CREATE CONSTRAINT TRIGGER count_up AFTER INSERT OR UPDATE ON person DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_up();
BEGIN;
INSERT INTO person VALUES (30, 20, NULL, 0), (31, 11, NULL, 0), (32, 11, 30, 5);
UPDATE person SET town = 11 WHERE id = 30;
UPDATE person SET id = 33 WHERE id = 31;
DELETE FROM person WHERE id = 32;
UPDATE person SET n = -1 WHERE id = 33;
COMMIT;
SELECT * FROM look('person');
SELECT * FROM look('town');
SELECT old_row ->> 'n' AS old_n, new_row ->> 'n' AS new_n FROM cqrs.outbox WHERE source = 'person'::regclass AND new_row ->> 'id' = '33' ORDER BY position;
DROP TRIGGER count_up ON person;

-- The same in a transaction larger than the buffer: what a trigger changed again may be written before what it followed, and command tells so.
CREATE TABLE again (id integer, v integer, filler text);
SELECT follow('again', NULL, 'SELECT v, count(*) AS n FROM again GROUP BY v');
CREATE FUNCTION change_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE again SET v = v + 1 WHERE id IN (new.id, new.id + 1) AND v % 3 > 0;
    RETURN NULL;
END$$;
CREATE TRIGGER a_before_ours AFTER UPDATE ON again FOR EACH ROW WHEN (pg_trigger_depth() < 3) EXECUTE FUNCTION change_again();
INSERT INTO again SELECT i, 0, 'filler' FROM generate_series(1, 300) AS i;
SET cqrs.buffer_size = '8kB';
UPDATE again SET v = v + 1, filler = repeat('f', 500) WHERE id % 2 = 0;
RESET cqrs.buffer_size;
SELECT count(*) AS changes, count(*) FILTER (WHERE by_command <> old) AS disordered
FROM (SELECT old_row ->> 'v' AS old,
             lag(new_row ->> 'v') OVER (PARTITION BY new_row ->> 'id' ORDER BY last, command, position) AS by_command
      FROM (SELECT *, max(position) OVER (PARTITION BY xid) AS last FROM cqrs.outbox WHERE source = 'again'::regclass) AS o) AS c;
SELECT * FROM look('again');

-- Partitions whose columns lie in other orders, at two levels; rows that move; one that is written to and emptied by itself; that come and go.
CREATE TABLE sale (id integer, region text, month integer, amount numeric, gone text, note text DEFAULT 'none', PRIMARY KEY (id, region, month)) PARTITION BY LIST (region);
ALTER TABLE sale DROP COLUMN gone;
CREATE TABLE sale_north PARTITION OF sale FOR VALUES IN ('north');
CREATE TABLE sale_south (note text DEFAULT 'south', junk integer, amount numeric, month integer NOT NULL, id integer NOT NULL, region text NOT NULL);
ALTER TABLE sale_south DROP COLUMN junk;
ALTER TABLE sale ATTACH PARTITION sale_south FOR VALUES IN ('south');
CREATE TABLE sale_rest PARTITION OF sale DEFAULT PARTITION BY RANGE (month);
CREATE TABLE sale_early PARTITION OF sale_rest FOR VALUES FROM (MINVALUE) TO (6);
CREATE TABLE sale_late (region text NOT NULL, id integer NOT NULL, note text, month integer NOT NULL, amount numeric);
ALTER TABLE sale_rest ATTACH PARTITION sale_late FOR VALUES FROM (6) TO (MAXVALUE);
SELECT follow('sale', NULL, 'SELECT region, month, count(*) AS n, sum(amount) AS amount, max(note) AS note FROM sale GROUP BY region, month');
INSERT INTO sale SELECT i, (ARRAY['north', 'south', 'east'])[1 + i % 3], 1 + i % 12, i * 1.5 FROM generate_series(1, 36) AS i;
UPDATE sale SET region = 'south', note = 'moved' WHERE id < 7;
UPDATE sale SET month = 13 - month WHERE region = 'east';
INSERT INTO sale_south VALUES ('direct', 7, 3, 100, 'south');
UPDATE sale_late SET amount = amount + 1;
DELETE FROM sale_north WHERE id > 20;
MERGE INTO sale s USING (VALUES (8, 'north'), (9, 'none')) AS v (id, region) ON s.id = v.id WHEN MATCHED THEN UPDATE SET region = v.region WHEN NOT MATCHED THEN DO NOTHING;
SELECT * FROM look('sale');
TRUNCATE sale_early;
SELECT captured FROM look('sale');
SELECT count(*) FROM cqrs.verify('sale_model');
-- What comes and goes with a partition changes the answer without a row's change.
CREATE TABLE sale_west (LIKE sale INCLUDING DEFAULTS);
INSERT INTO sale_west VALUES (1000, 'west', 1, 5), (1001, 'west', 2, 6);
ALTER TABLE sale ATTACH PARTITION sale_west FOR VALUES IN ('west');
INSERT INTO sale VALUES (1002, 'west', 2, 7);
SELECT captured FROM look('sale');
SELECT count(*) FROM cqrs.verify('sale_model');
ALTER TABLE sale DETACH PARTITION sale_north;
INSERT INTO sale_north VALUES (2000, 'north', 1, 1);
UPDATE sale SET amount = 0 WHERE id = 1002;
SELECT captured FROM look('sale');
SELECT count(*) FROM cqrs.verify('sale_model');
SELECT count(*) FROM ((TABLE sale_model EXCEPT ALL SELECT region, month, count(*), sum(amount), max(note) FROM sale GROUP BY region, month)
    UNION ALL (SELECT region, month, count(*), sum(amount), max(note) FROM sale GROUP BY region, month EXCEPT ALL TABLE sale_model)) AS d;

-- Parents and children that have more columns, or theirs in another order; rows with the same key in several of them.
CREATE TABLE city (id integer, name text, people integer);
CREATE TABLE capital (state text) INHERITS (city);
SET client_min_messages = warning;
CREATE TABLE seat (people integer, since date, state text, name text, id integer) INHERITS (capital);
RESET client_min_messages;
SELECT follow('city', NULL, 'SELECT name, count(*) AS n, sum(people) AS people FROM city GROUP BY name');
INSERT INTO city VALUES (1, 'Bergen', 100);
INSERT INTO capital VALUES (1, 'Oslo', 200, 'N'), (2, 'Rome', 300, 'I');
INSERT INTO seat (id, name, people, state, since) VALUES (2, 'Rome', 1, 'I', '2026-01-01'), (3, 'Bonn', 50, 'D', NULL);
UPDATE city SET people = people + 1;
UPDATE capital SET state = lower(state), name = upper(name) WHERE id = 2;
DELETE FROM ONLY capital WHERE id = 1;
SELECT * FROM look('city');
ALTER TABLE city ADD COLUMN area integer DEFAULT 3;
ALTER TABLE capital RENAME COLUMN state TO country;
UPDATE city SET area = id;
DELETE FROM city WHERE people > 299;
SELECT captured FROM look('city');
SELECT count(*) FROM cqrs.verify('city_model');
TRUNCATE ONLY capital;
SELECT captured FROM look('city');
ALTER TABLE seat NO INHERIT capital;
INSERT INTO seat (id, name) VALUES (4, 'no city');
SELECT captured FROM look('city');
SELECT count(*) FROM cqrs.verify('city_model');
SELECT * FROM city_model ORDER BY name;
-- A column that the parent drops or adds is in images from then on as the parent has it, though a grandchild, whose own it became, is left as it is.
CREATE TABLE root (id integer);
CREATE TABLE middle () INHERITS (root);
CREATE TABLE bottom () INHERITS (middle);
SELECT cqrs.capture('root');
SELECT coalesce(max(position), 0) AS before FROM cqrs.outbox \gset
ALTER TABLE root ADD COLUMN x integer;
INSERT INTO bottom VALUES (1, 1);
ALTER TABLE middle NO INHERIT root;
ALTER TABLE middle INHERIT root;
INSERT INTO bottom VALUES (2, 2);
ALTER TABLE root DROP COLUMN x;
INSERT INTO bottom VALUES (3, 3);
SET client_min_messages = warning;
ALTER TABLE root ADD COLUMN x integer;
RESET client_min_messages;
INSERT INTO bottom VALUES (4, 4);
SELECT kind, new_row FROM cqrs.outbox WHERE position > :before ORDER BY position;

-- Transactions of all kinds: they capture what they write, and those that may not write are not hindered.
CREATE TABLE noted (id integer PRIMARY KEY, what text);
SELECT follow('noted', '{id}');
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO noted SELECT max(id), 'serializable' FROM (SELECT 1 AS id UNION ALL SELECT id + 1 FROM noted) AS n;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO noted VALUES (10, 'repeatable');
SAVEPOINT a;
UPDATE noted SET what = 'undone' WHERE id = 10;
ROLLBACK TO a;
COMMIT;
BEGIN READ ONLY;
SELECT count(*) FROM noted;
SAVEPOINT a;
UPDATE noted SET what = 'never';
ROLLBACK TO a;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE;
SELECT count(*) FROM noted;
COMMIT;
-- Workers of a parallel query share a transaction that has captured changes, and leave them alone.
CREATE FUNCTION in_parallel(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
        IF line ~ 'Gather' THEN RETURN true; END IF;
    END LOOP;
    RETURN false;
END$$;
SET force_parallel_mode = on;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
BEGIN;
INSERT INTO noted SELECT i, 'before' FROM generate_series(100, 120) AS i;
SAVEPOINT a;
UPDATE noted SET what = 'between' WHERE id > 110;
SELECT in_parallel('SELECT count(*) FROM alike');
SELECT count(*) FROM alike;
INSERT INTO noted SELECT 200 + count(*), 'counted' FROM alike;
CREATE TABLE counted AS SELECT count(*) AS n FROM alike;
RELEASE a;
DELETE FROM noted WHERE id < 105;
COMMIT;
RESET force_parallel_mode;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
SELECT * FROM look('noted');
-- A cursor's row, a procedure that commits as it goes, a view that is written through, a rule, a function.
CREATE VIEW written AS SELECT id, what FROM noted WHERE id >= 300 WITH CHECK OPTION;
CREATE RULE also AS ON DELETE TO written WHERE old.id = 302 DO ALSO INSERT INTO noted VALUES (399, 'by a rule');
CREATE PROCEDURE stepwise() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 300..305 LOOP
        INSERT INTO written VALUES (i, 'step');
        IF i % 3 = 1 THEN ROLLBACK; ELSE COMMIT; END IF;
    END LOOP;
END$$;
CALL stepwise();
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM noted WHERE id >= 300 ORDER BY id FOR UPDATE;
MOVE 1 FROM c;
FETCH 1 FROM c;
UPDATE noted SET what = 'under the cursor' WHERE CURRENT OF c;
CLOSE c;
COMMIT;
DELETE FROM written WHERE id = 302;
SELECT * FROM look('noted');
SELECT * FROM noted_model WHERE id >= 200 ORDER BY id;

SELECT count(cqrs.drop_projection((source || '_model')::regclass)) FROM followed;
SET client_min_messages = warning;
DROP SCHEMA kinds_test CASCADE;
