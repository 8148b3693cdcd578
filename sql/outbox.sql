-- The outbox: what is written to it, when, and how it decodes.  If this fails, a change of a committed transaction is missing, one of a rolled-back
-- transaction is there, or a row comes out other than it went in.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA outbox_test;
SET search_path = outbox_test;

-- What came since the last look, in order.
CREATE TABLE looked (upto bigint);
INSERT INTO looked SELECT coalesce(max(position), 0) FROM cqrs.outbox;
CREATE VIEW news AS
SELECT o.kind, o.source, o.old_row, o.new_row FROM cqrs.outbox AS o, looked WHERE o.position > upto ORDER BY o.position;
\set news 'TABLE news; UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);'

-- New images less old images must be the rows of the table: returns those that are not.
CREATE FUNCTION differences(tab regclass) RETURNS TABLE (copies bigint, found jsonb) LANGUAGE plpgsql AS $$
DECLARE
    columns text := (SELECT string_agg(format('%L, %I::text', attname, attname), ', ') FROM pg_attribute
                     WHERE attrelid = tab AND attnum > 0 AND NOT attisdropped);
BEGIN
    RETURN QUERY EXECUTE format($sql$
        SELECT sum(weight), r FROM (
            SELECT 1 AS weight, new_row AS r FROM cqrs.outbox WHERE source = %1$L::regclass AND new_row IS NOT NULL
            UNION ALL SELECT -1, old_row FROM cqrs.outbox WHERE source = %1$L::regclass AND old_row IS NOT NULL
            UNION ALL SELECT -1, jsonb_build_object(%2$s) FROM %1$s) AS w
        GROUP BY r HAVING sum(weight) <> 0$sql$, tab, columns);
END$$;

CREATE TABLE orders (id integer PRIMARY KEY, customer text, total numeric(10, 2), placed date DEFAULT '2026-01-01');
CREATE TABLE lines (order_id integer, line smallint, what text);
SELECT cqrs.capture('orders'), cqrs.capture('lines');

-- Every kind of change, with the images it has.
INSERT INTO orders VALUES (1, 'ann', 10, DEFAULT), (2, 'bob', 20.5, DEFAULT), (3, NULL, NULL, NULL);
UPDATE orders SET total = total + 1 WHERE id < 3;
DELETE FROM orders WHERE id = 3;
:news
COPY lines FROM stdin;
1	1	hammer
1	2	\N
2	1	nail
\.
TRUNCATE lines;
:news

-- A chunk carries the id of its top-level transaction, and a time within it.
SELECT clock_timestamp() AS before \gset
BEGIN;
SAVEPOINT a;
INSERT INTO lines VALUES (1, 1, 'saw');
SELECT pg_current_xact_id() AS xid \gset
COMMIT;
SELECT kind, captured_at BETWEEN :'before' AND clock_timestamp() AS in_time FROM cqrs.outbox WHERE xid = :'xid';
SELECT source, event_type, aggregate_type, aggregate_id, aggregate_version, payload, metadata FROM cqrs.outbox WHERE xid = :'xid';

-- Several sources in one transaction come in one chunk, in the order of the changes.
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);
BEGIN;
INSERT INTO orders VALUES (4, 'cy', 4);
INSERT INTO lines VALUES (4, 1, 'axe');
UPDATE orders SET total = 5 WHERE id = 4;
SELECT pg_current_xact_id() AS xid \gset
COMMIT;
:news
SELECT count(*), sum(changes), sum(cardinality(sources)) AS sources FROM cqrs_internal.outbox_1 WHERE xid = :'xid';

-- More sources than the list of one chunk holds.
DO $$
BEGIN
    FOR i IN 1..70 LOOP
        EXECUTE format('CREATE TABLE many_%s (id integer)', i);
        PERFORM cqrs.capture(('many_' || i)::regclass);
    END LOOP;
END$$;
BEGIN;
SELECT pg_current_xact_id() AS xid \gset
DO $$
BEGIN
    FOR i IN 1..140 LOOP
        EXECUTE format('INSERT INTO many_%s VALUES (%s)', i % 70 + 1, i);
    END LOOP;
END$$;
COMMIT;
SELECT count(*) > 1 AS several, max(cardinality(sources)) AS sources, sum(changes) AS changes FROM cqrs_internal.outbox_1 WHERE xid = :'xid';
SELECT count(*), count(DISTINCT source) AS sources FROM cqrs.outbox WHERE xid = :'xid';
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);

-- Savepoints: what is rolled back is gone, what is released stays, and so does what came before them.
BEGIN;
INSERT INTO lines VALUES (5, 1, 'before');
SAVEPOINT a;
INSERT INTO lines VALUES (5, 2, 'gone');
SAVEPOINT b;
INSERT INTO lines VALUES (5, 3, 'gone with the outer one');
RELEASE b;
ROLLBACK TO a;
INSERT INTO lines VALUES (5, 4, 'after the rollback');
SAVEPOINT c;
SAVEPOINT d;
INSERT INTO lines VALUES (5, 5, 'released twice');
RELEASE d;
RELEASE c;
SAVEPOINT e;
ROLLBACK TO e;
COMMIT;
:news
BEGIN;
INSERT INTO lines VALUES (6, 1, 'all gone');
SAVEPOINT a;
INSERT INTO lines VALUES (6, 2, 'all gone');
ROLLBACK;
SELECT count(*) FROM news;

-- An exception block is a subtransaction.
DO $$
BEGIN
    INSERT INTO lines VALUES (7, 1, 'before the block');
    BEGIN
        INSERT INTO lines VALUES (7, 2, 'in the block');
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        INSERT INTO lines VALUES (7, 3, 'in the handler');
    END;
    BEGIN
        INSERT INTO lines VALUES (7, 4, 'in a good block');
    EXCEPTION WHEN others THEN
        RAISE;
    END;
END$$;
:news

-- Procedures commit as they go.
CREATE PROCEDURE three_times() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..3 LOOP
        INSERT INTO lines VALUES (8, i, 'in a procedure');
        IF i = 2 THEN ROLLBACK; ELSE COMMIT; END IF;
    END LOOP;
END$$;
CALL three_times();
:news

-- A prepared transaction shows nothing until it commits, and never if it does not.
BEGIN;
INSERT INTO lines VALUES (9, 1, 'prepared');
PREPARE TRANSACTION 'outbox_test_1';
BEGIN;
INSERT INTO lines VALUES (9, 2, 'prepared in vain');
PREPARE TRANSACTION 'outbox_test_2';
INSERT INTO lines VALUES (9, 3, 'meanwhile');
SELECT * FROM news;
ROLLBACK PREPARED 'outbox_test_2';
COMMIT PREPARED 'outbox_test_1';
SELECT new_row FROM news ORDER BY new_row ->> 'line';
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);

-- A transaction larger than the buffer writes early: each nesting level its own, so that savepoints mean what they mean.
SET cqrs.buffer_size = '64kB';
CREATE TABLE big (id integer, level text, filler text);
SELECT cqrs.capture('big');
BEGIN;
SELECT pg_current_xact_id() AS xid \gset
INSERT INTO big SELECT i, 'outer', repeat('o', 100) FROM generate_series(1, 200) AS i;
SAVEPOINT a;
INSERT INTO big SELECT i, 'a', repeat('a', 100) FROM generate_series(1, 800) AS i;
SAVEPOINT b;
INSERT INTO big SELECT i, 'b', repeat('b', 100) FROM generate_series(1, 800) AS i;
UPDATE big SET filler = 'changed' WHERE id % 2 = 0;
SELECT count(*) > 10 AS written_early FROM cqrs_internal.outbox_1 WHERE xid = :'xid';
-- What is written early is not to be seen either, before the commit.
SELECT count(*) FROM cqrs.outbox WHERE xid = :'xid';
ROLLBACK TO b;
DELETE FROM big WHERE level = 'outer' AND id > 50;
SAVEPOINT c;
UPDATE big SET filler = 'changed within' WHERE level = 'outer';
INSERT INTO big SELECT i, 'c', repeat('c', 100) FROM generate_series(1, 800) AS i;
RELEASE c;
RELEASE a;
INSERT INTO big SELECT i, 'last', 'l' FROM generate_series(1, 3) AS i;
COMMIT;
SELECT kind, coalesce(new_row, old_row) ->> 'level' AS level, count(*) FROM cqrs.outbox WHERE xid = :'xid' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM differences('big');
-- In position order every row comes before it changes or goes, also if the level that changed it wrote early.
SELECT count(*) AS before_they_came FROM cqrs.outbox AS o
WHERE xid = :'xid' AND old_row IS NOT NULL AND NOT EXISTS
    (SELECT FROM cqrs.outbox AS n WHERE n.xid = :'xid' AND n.new_row = o.old_row AND n.position < o.position);
-- A rolled-back level takes along what it had written, also when nothing else was.
BEGIN;
SAVEPOINT a;
INSERT INTO big SELECT i, 'gone', repeat('g', 100) FROM generate_series(1, 800) AS i;
ROLLBACK TO a;
COMMIT;
SELECT * FROM differences('big');
-- So do exceptions, many of them, in one transaction that goes on.
DO $$
BEGIN
    FOR i IN 1..60 LOOP
        BEGIN
            INSERT INTO big SELECT i, 'loop', repeat('x', 200) FROM generate_series(1, 20);
            IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
        EXCEPTION WHEN division_by_zero THEN
            DELETE FROM big WHERE id = i - 1 AND level = 'loop';
        END;
    END LOOP;
END$$;
SELECT * FROM differences('big');
-- A trigger that changes its row again is captured before the change that fired it: so also where the buffer is full in between.
CREATE TABLE counted (id integer, v integer, filler text);
CREATE FUNCTION count_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE counted SET v = v + 1 WHERE id = NEW.id;
    RETURN NULL;
END$$;
CREATE TRIGGER again AFTER UPDATE ON counted FOR EACH ROW WHEN (NEW.v % 3 <> 0) EXECUTE FUNCTION count_again();
SELECT cqrs.capture('counted');
INSERT INTO counted SELECT g, 0, repeat('x', 300) FROM generate_series(1, 600) AS g;
UPDATE counted SET v = v + 1, filler = repeat('y', 300);
SELECT count(*), count(DISTINCT chunk) > 3 AS many_chunks, count(*) FILTER (WHERE old_v <> before) AS misplaced
FROM (SELECT position >> 16 AS chunk, (old_row ->> 'v')::integer AS old_v,
          lag((new_row ->> 'v')::integer) OVER (PARTITION BY new_row ->> 'id' ORDER BY position) AS before
      FROM cqrs.outbox WHERE source = 'counted'::regclass) AS changes;
RESET cqrs.buffer_size;

-- Chunks stay in line: nothing so far is larger than a page.
SELECT reltoastrelid::regclass AS toast FROM pg_class WHERE oid = 'cqrs_internal.outbox_1'::regclass \gset
SELECT count(*) AS toasted FROM :toast \gset
-- A change larger than a page gets a chunk of its own; its neighbours do not grow.
CREATE TABLE documents (id integer, body text, note text);
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL;
SELECT cqrs.capture('documents');
BEGIN;
SELECT pg_current_xact_id() AS xid \gset
INSERT INTO documents VALUES (1, 'small', 'first');
INSERT INTO documents VALUES (2, repeat('0123456789', 5000), 'large');
INSERT INTO documents VALUES (3, 'small', 'last');
COMMIT;
SELECT changes, octet_length(body) > 8192 AS large FROM cqrs_internal.outbox_1 WHERE xid = :'xid' ORDER BY number;
SELECT count(*) > :toasted AS toasted FROM :toast;
SELECT new_row ->> 'id' AS id, length(new_row ->> 'body'), new_row ->> 'note' AS note FROM cqrs.outbox WHERE xid = :'xid' ORDER BY position;

-- A value stored out of line that an UPDATE leaves alone is in both images; the row may be gone when they are read.
UPDATE documents SET note = 'changed' WHERE id = 2;
DELETE FROM documents WHERE id = 2;
VACUUM documents;
SELECT kind, md5(old_row ->> 'body') = md5(repeat('0123456789', 5000)) AS old_body,
       md5(new_row ->> 'body') = md5(repeat('0123456789', 5000)) AS new_body
FROM cqrs.outbox WHERE source = 'documents'::regclass AND coalesce(old_row, new_row) ->> 'id' = '2' ORDER BY position;
-- Compressed in line, or compressed and out of line.
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTENDED;
INSERT INTO documents VALUES (4, repeat('compressible ', 500)), (5, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) AS i));
UPDATE documents SET note = 'x';
SELECT * FROM differences('documents');

-- Columns come and go: rows written before the change decode as they were.
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);
CREATE TABLE shifty (id integer, a text, b integer);
SELECT cqrs.capture('shifty');
INSERT INTO shifty VALUES (1, 'one', 1), (2, 'two', 2);
ALTER TABLE shifty ADD COLUMN c text DEFAULT 'added';
ALTER TABLE shifty ADD COLUMN d integer;
UPDATE shifty SET b = 10 WHERE id = 1;
ALTER TABLE shifty DROP COLUMN a;
UPDATE shifty SET b = 11 WHERE id = 1;
ALTER TABLE shifty RENAME COLUMN b TO renamed;
ALTER TABLE shifty ALTER COLUMN d TYPE text USING 'd' || id;
UPDATE shifty SET renamed = 12;
DELETE FROM shifty WHERE id = 2;
:news

-- A new layout that is first written in a subtransaction that rolls back has to be recorded again.
BEGIN;
SAVEPOINT a;
ALTER TABLE shifty ADD COLUMN e integer DEFAULT 5;
INSERT INTO shifty (id) VALUES (3);
ROLLBACK TO a;
INSERT INTO shifty (id) VALUES (4);
COMMIT;
ALTER TABLE shifty ADD COLUMN f integer DEFAULT 6;
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
INSERT INTO shifty (id) VALUES (5);
RELEASE b;
ROLLBACK TO a;
INSERT INTO shifty (id) VALUES (6);
COMMIT;
ALTER TABLE shifty ADD COLUMN g integer DEFAULT 7;
BEGIN;
INSERT INTO shifty (id) VALUES (7);
ROLLBACK;
INSERT INTO shifty (id) VALUES (8);
ALTER TABLE shifty ADD COLUMN h integer DEFAULT 8;
BEGIN;
INSERT INTO shifty (id) VALUES (9);
PREPARE TRANSACTION 'outbox_test_3';
INSERT INTO shifty (id) VALUES (10);
ROLLBACK PREPARED 'outbox_test_3';
INSERT INTO shifty (id) VALUES (11);
:news

-- Rows of all sizes: no columns at all, more nulls than a byte of the bitmap holds, many columns.
CREATE TABLE empty ();
CREATE TABLE nulls (a bool, b bool, c bool, d bool, e bool, f bool, g bool, h bool, i bool, j text);
SELECT cqrs.capture('empty'), cqrs.capture('nulls');
INSERT INTO empty DEFAULT VALUES;
INSERT INTO nulls DEFAULT VALUES;
UPDATE nulls SET j = 'set';
UPDATE nulls SET a = true, i = false, j = NULL;
:news
DO $$
BEGIN
    EXECUTE (SELECT format('CREATE TABLE wide (%s)', string_agg(format('c%s integer DEFAULT %s', i, i), ', ')) FROM generate_series(1, 1000) AS i);
END$$;
SELECT cqrs.capture('wide');
INSERT INTO wide DEFAULT VALUES;
UPDATE wide SET c500 = NULL, c1000 = 0;
SELECT kind, md5(old_row::text) = md5(lag(new_row) OVER (ORDER BY position)::text) AS follows, (new_row ->> 'c999')::integer AS c999,
       new_row -> 'c500' AS c500, new_row ->> 'c1000' AS c1000
FROM cqrs.outbox WHERE source = 'wide'::regclass ORDER BY position;

-- Types of all layouts, and an update that shares everything with the old row, and is none, or something or nothing.
CREATE TYPE pair AS (x integer, y text);
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TABLE types (c "char", i2 smallint, i8 bigint, f float8, n numeric, t timestamptz, iv interval, u uuid, nm name, ch char(5),
    vb varbit, j jsonb, arr integer[], p pair, ps pair[], m mood, d positive, r int4range, b bytea, x xml);
SELECT cqrs.capture('types');
SET TimeZone = 'UTC';
INSERT INTO types VALUES ('c', -2, 9007199254740993, 'NaN', 'Infinity', '2026-02-03 04:05:06.789+01', '1 mon 2 days', '00000000-0000-0000-0000-000000000001',
    'name', 'ab', B'10101', '{"k": [1, null]}', '{1,NULL,3}', (1, 'why'), ARRAY[(2, NULL)::pair], 'glad', 7, '[1,5)', '\x00ff', '<a/>');
UPDATE types SET i8 = i8;
UPDATE types SET c = 'd', x = '<b/>';
UPDATE types SET arr = NULL, nm = 'a longer name', d = 8;
SELECT jsonb_pretty(new_row) FROM cqrs.outbox WHERE source = 'types'::regclass AND kind = 'insert';
SELECT (SELECT jsonb_object_agg(key, value) FROM (SELECT * FROM jsonb_each(new_row) EXCEPT SELECT * FROM jsonb_each(old_row)) AS e) AS changed
FROM cqrs.outbox WHERE source = 'types'::regclass AND kind = 'update' ORDER BY position;
RESET TimeZone;

-- A reader of the outbox runs nothing that a user wrote: casts of a type of theirs to json are not asked.
CREATE FUNCTION trap(mood) RETURNS json LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'ran as %', current_user; END$$;
CREATE FUNCTION trap(pair) RETURNS json LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'ran as %', current_user; END$$;
CREATE CAST (mood AS json) WITH FUNCTION trap(mood);
CREATE CAST (pair AS json) WITH FUNCTION trap(pair);
SELECT to_jsonb('glad'::mood);
SELECT new_row -> 'm' AS m, new_row -> 'p' AS p, new_row -> 'ps' AS ps FROM cqrs.outbox WHERE source = 'types'::regclass AND kind = 'insert';

-- A type that is gone leaves nulls; the rest of the row still reads.
ALTER TABLE types DROP COLUMN m;
SET client_min_messages = warning;
DROP TYPE mood CASCADE;
RESET client_min_messages;
SELECT new_row -> 'm' AS m, new_row -> 'i8' AS i8 FROM cqrs.outbox WHERE source = 'types'::regclass AND kind = 'insert';

-- So does a table that is gone: its changes stay readable.
INSERT INTO nulls (a) VALUES (true);
SELECT xid FROM cqrs.outbox WHERE source = 'nulls'::regclass ORDER BY position DESC LIMIT 1 \gset
DROP TABLE nulls;
SELECT kind, new_row -> 'a' AS a FROM cqrs.outbox WHERE xid = :'xid';

-- An index that somebody else put on a segment is kept whole, too.
SELECT relation AS segment FROM cqrs_internal.segment ORDER BY number DESC LIMIT 1 \gset
CREATE INDEX somebodys ON :segment (number) WHERE changes > 0;
INSERT INTO lines VALUES (7, 1, 'file'), (7, 2, 'rasp');
SET enable_seqscan = off;
SELECT changes FROM :segment WHERE changes > 0 AND number = (SELECT max(position) >> 16 FROM cqrs.outbox);
RESET enable_seqscan;
DROP INDEX cqrs_internal.somebodys;
-- Also one of an expression, or of some of its rows.
CREATE INDEX somebodys ON :segment ((changes + 1));
CREATE INDEX few ON :segment (number) WHERE changes + 0 = 1;
INSERT INTO lines VALUES (8, 1, 'file'), (8, 2, 'rasp');
SELECT array_agg(xid) AS two FROM (SELECT DISTINCT xid FROM cqrs.outbox WHERE position >> 16 = (SELECT max(position) >> 16 FROM cqrs.outbox)) AS o \gset
SET enable_seqscan = off;
SELECT changes FROM :segment WHERE changes + 1 = 3 AND xid = ANY (:'two');
SELECT count(*) FROM :segment WHERE changes + 0 = 1 AND number = (SELECT max(position) >> 16 FROM cqrs.outbox);
RESET enable_seqscan;
DROP INDEX cqrs_internal.somebodys, cqrs_internal.few;

-- Damage is told of in place of the changes, by the chunk's number, and the rest is still readable: never more.
SET client_min_messages = error;
CREATE FUNCTION damage(how text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    chunk bigint := (SELECT max(number) FROM cqrs_internal.outbox_1 WHERE changes = 3);
    others bigint := (SELECT count(*) FROM cqrs.outbox WHERE position >> 16 <> chunk);
    told text;
BEGIN
    EXECUTE format('UPDATE cqrs_internal.outbox_1 SET %s WHERE number = %s', how, chunk);
    SELECT replace(metadata ->> 'error', chunk::text, 'N') || ': ' || (metadata ->> 'detail') INTO told
    FROM cqrs.outbox WHERE kind = 'damaged' AND position = chunk << 16;
    told := concat(told, CASE WHEN (SELECT count(*) FROM cqrs.outbox WHERE position >> 16 <> chunk) <> others THEN ', and so are others' END);
    RAISE EXCEPTION 'take it back';
EXCEPTION WHEN raise_exception THEN
    RETURN told;
END$$;
INSERT INTO lines VALUES (11, 1, 'a'), (11, 2, 'b'), (11, 3, 'c');
SELECT damage($$body = ''$$);
SELECT damage($$body = '\x01'$$);
SELECT damage($$body = set_byte(body, 0, 77)$$);
SELECT damage($$body = set_byte(body, 20, get_byte(body, 20) # 1)$$);
SELECT damage($$body = substring(body, 1, 30)$$);
SELECT damage($$changes = 4$$);
SELECT damage($$changes = 2$$);
SELECT damage($$sources = '{{1,2},{3,4}}'$$);
SELECT count(new_row) > 0 AS well_again FROM cqrs.outbox;
-- So it is if the check sum fits: whatever byte is wrong, a change is read, right or wrong, or the chunk is damaged; nothing beyond its end is looked at.
CREATE FUNCTION checksum(data bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    sum bigint := 4294967295;
BEGIN
    FOR i IN 0 .. length(data) - 1 LOOP
        sum := sum # get_byte(data, i);
        FOR bit IN 1 .. 8 LOOP
            sum := CASE WHEN sum & 1 = 1 THEN (sum >> 1) # 2197175160 ELSE sum >> 1 END;
        END LOOP;
    END LOOP;
    sum := sum # 4294967295;
    RETURN set_byte(set_byte(set_byte(set_byte('\x00000000', 0, (sum & 255)::integer), 1, (sum >> 8 & 255)::integer), 2, (sum >> 16 & 255)::integer), 3,
                    (sum >> 24)::integer);
END$$;
CREATE FUNCTION distort(data bytea, OUT read bigint, OUT damaged bigint) LANGUAGE plpgsql AS $$
DECLARE
    chunk bigint := (SELECT max(number) FROM cqrs_internal.outbox_1 WHERE body = data);
    distorted bytea;
    value integer;
BEGIN
    read := 0;
    damaged := 0;
    FOR at IN 5 .. length(data) - 1 LOOP
        FOREACH value IN ARRAY ARRAY[0, 127, 255, (get_byte(data, at) + 1) % 256, (get_byte(data, at) + 255) % 256] LOOP
            distorted := set_byte(data, at, value);
            distorted := substring(data, 1, 1) || checksum(substring(distorted, 6)) || substring(distorted, 6);
            BEGIN
                UPDATE cqrs_internal.outbox_1 SET body = distorted WHERE number = chunk;
                IF EXISTS (SELECT FROM cqrs.outbox WHERE kind = 'damaged') THEN
                    damaged := damaged + 1;
                ELSE
                    read := read + 1;
                END IF;
                RAISE EXCEPTION 'take it back';
            EXCEPTION WHEN raise_exception THEN
                NULL;
            END;
        END LOOP;
    END LOOP;
END$$;
CREATE TABLE noted (id integer PRIMARY KEY, grp text, shown integer, added numeric);
SELECT cqrs.create_projection('noted_page', 'SELECT grp, max(shown) AS shown, sum(added) AS added FROM noted GROUP BY grp', '{grp}');
SELECT cqrs.drain('noted_page');
BEGIN;
INSERT INTO noted VALUES (1, 'a', 1, 1), (2, NULL, 2, 2);
UPDATE noted SET shown = 3 WHERE id = 1;
UPDATE noted SET grp = 'a long name', added = 0 WHERE id = 2;
DELETE FROM noted WHERE id = 1;
COMMIT;
SELECT body AS body FROM cqrs_internal.outbox_1 ORDER BY number DESC LIMIT 1 \gset
SELECT checksum(substring(:'body'::bytea, 6)) = substring(:'body'::bytea, 2, 4) AS checked;
BEGIN;
DELETE FROM cqrs_internal.outbox_1 WHERE body <> :'body';
SELECT read > 100 AS read, damaged > 100 AS damaged FROM distort(:'body');
ROLLBACK;
SELECT cqrs.drain('noted_page');
SELECT * FROM noted_page;
SELECT cqrs.drop_projection('noted_page');
RESET client_min_messages;

-- The outbox is for superusers and pg_read_all_data; not even a grant on the view opens it to others.
CREATE ROLE outbox_reader;
CREATE ROLE outbox_stranger;
GRANT pg_read_all_data TO outbox_reader;
GRANT SELECT ON cqrs.outbox TO outbox_stranger;
SET ROLE outbox_reader;
SELECT count(*) > 0 AS readable FROM cqrs.outbox;
SET ROLE outbox_stranger;
SELECT count(*) FROM cqrs.outbox;
SELECT count(*) FROM cqrs_internal.outbox_rows();
SELECT count(*) FROM cqrs_internal.outbox_1;
RESET ROLE;
REVOKE SELECT ON cqrs.outbox FROM outbox_stranger;
DROP ROLE outbox_reader, outbox_stranger;

SET client_min_messages = warning;
DROP SCHEMA outbox_test CASCADE;
