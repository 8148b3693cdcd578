-- Segments of the outbox: when one is closed and another opened, what holds a closed one back, and what becomes of an outbox that is full.  If this fails,
-- the outbox grows without bound, a change is removed that is still needed, or a command fails for what is the outbox's business.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS cqrs_segments;
DROP ROLE IF EXISTS cqrs_segments_user;
CREATE DATABASE cqrs_segments;
\c cqrs_segments
\set SHOW_CONTEXT never
\set VERBOSITY terse
CREATE EXTENSION cqrs;
RESET client_min_messages;

-- What is shown is as of now, which no plan that runs in parallel has.
SET force_parallel_mode = on;
SELECT count(*) >= 0 AS shown FROM cqrs.segments;
RESET force_parallel_mode;

-- Whatever users have set up for tables of their own has no say in segments.
CREATE ROLE cqrs_segments_user;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
CREATE TABLE commands (tag text);
CREATE FUNCTION note_command() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.commands VALUES (tg_tag || ' ' || tg_event);
END$$;

-- Settings out of range.
SET cqrs.segment_size = '1kB';
SET cqrs.segment_size = '1TB';
SET cqrs.retention = -2;
SET cqrs.max_outbox_size = 0;
SHOW cqrs.segment_size;
SHOW cqrs.retention;
SHOW cqrs.max_outbox_size;

-- None is made before something is captured; then one is, as a table that goes with the extension and nobody can drop.
SELECT * FROM cqrs.segments;
CREATE TABLE item (id integer PRIMARY KEY, kind integer, filler text);
CREATE TABLE other (id integer PRIMARY KEY, filler text);
SELECT cqrs.create_projection('items', 'SELECT id, kind FROM item');
SELECT cqrs.create_projection('kinds', 'SELECT kind, count(*) AS items FROM item GROUP BY kind');
SELECT cqrs.create_projection('others', 'SELECT id, filler FROM other');
SELECT cqrs.capture('item');
SELECT cqrs.drain();
SELECT segment, changes, held_by FROM cqrs.segments;
CREATE EVENT TRIGGER note_command ON ddl_command_end EXECUTE FUNCTION note_command();
CREATE EVENT TRIGGER note_drop ON sql_drop EXECUTE FUNCTION note_command();
SELECT relname, pg_get_userbyid(relowner) = (SELECT rolname FROM pg_roles WHERE oid = 10) AS owner, relacl, reloptions,
       obj_description(oid, 'pg_class'), reltoastrelid <> 0 AS toast
FROM pg_class WHERE oid = 'cqrs_internal.outbox_1'::regclass;
SELECT attname, attstorage, attnotnull FROM pg_attribute WHERE attrelid = 'cqrs_internal.outbox_1'::regclass AND attnum > 0;
SELECT pg_get_indexdef(indexrelid), obj_description(indexrelid, 'pg_class') FROM pg_index WHERE indrelid = 'cqrs_internal.outbox_1'::regclass;
DROP TABLE cqrs_internal.outbox_1;

-- What holds each, without times.
CREATE VIEW held AS
SELECT segment, changes, first_position > lag(last_position) OVER (ORDER BY segment) AS in_order,
       ARRAY(SELECT regexp_replace(h, 'until .*', 'until …') FROM unnest(held_by) AS h) AS held_by
FROM cqrs.segments ORDER BY segment;
-- The launcher looks at the database when a projection is made; until it has, a worker may be on its way, to whom writers leave full segments.
CREATE PROCEDURE fill(low integer, high integer) LANGUAGE plpgsql AS $$
BEGIN
    WHILE (SELECT health FROM cqrs.lag WHERE projection = 'items'::regclass) <> 'no worker' LOOP
        PERFORM pg_sleep(0.01);
        ROLLBACK;
    END LOOP;
    FOR i IN low..high LOOP
        INSERT INTO item SELECT i * 1000 + j, i % 5, repeat('x', 100) FROM generate_series(1, 200) AS j;
        COMMIT;
    END LOOP;
END$$;
-- What one drain closes the next one seals and frees; for a version that reads nothing of it, the one in between moves on.
CREATE PROCEDURE settle() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..3 LOOP
        PERFORM cqrs.drain();
        COMMIT;
    END LOOP;
END$$;
CREATE FUNCTION differences() RETURNS bigint LANGUAGE sql AS $$
    SELECT (SELECT count(*) FROM cqrs.verify('items')) + (SELECT count(*) FROM cqrs.verify('kinds')) + (SELECT count(*) FROM cqrs.verify('others'));
$$;

-- Where no worker runs, the writer that finds a segment full opens the next when it commits: not within its transaction, however large that is.
SET cqrs.segment_size = '64kB';
SET cqrs.retention = 0;
CALL fill(1, 0);
BEGIN;
INSERT INTO item SELECT -i, i % 5, repeat('large ', 20) FROM generate_series(1, 20000) AS i;
SAVEPOINT a;
INSERT INTO item SELECT -i, i % 5, repeat('large ', 20) FROM generate_series(20001, 40000) AS i;
ROLLBACK TO a;
SELECT segment, changes, held_by FROM cqrs.segments;
COMMIT;
SELECT * FROM held;
CALL fill(1, 40);
SELECT count(*) > 3 AS several, bool_and(in_order IS NOT FALSE) AS in_order, sum(changes) AS changes FROM held;
-- None is much larger than it should be, but the one that one transaction filled.
SELECT max(bytes) < 3 * 64 * 1024 AS small FROM cqrs.segments WHERE segment > 1;
SELECT count(*) FROM cqrs.outbox;
SELECT DISTINCT held_by FROM held ORDER BY 1;
-- Nobody's event trigger fired for it, nor did anybody get a right.
SELECT * FROM commands;
SELECT count(*) FROM pg_class WHERE relnamespace = 'cqrs_internal'::regnamespace AND relname LIKE 'outbox%' AND relacl IS NOT NULL;

-- A prepared transaction is no place to open one: others would wait for it.
BEGIN;
INSERT INTO item SELECT -i, i % 5, repeat('large ', 20) FROM generate_series(20001, 24000) AS i;
PREPARE TRANSACTION 'cqrs_segments';
SELECT count(*) AS before FROM held \gset
INSERT INTO item VALUES (0, 0, 'small');
SELECT count(*) - :before AS opened FROM held;
-- Nor is the segment sealed that it has written to, or freed; others are.
SELECT cqrs.drain() > 0 AS drained;
SELECT held_by FROM held;
COMMIT PREPARED 'cqrs_segments';
SELECT cqrs.drain();
SELECT held_by FROM held;
SELECT differences();
-- Freed ones are empty, and wait for their turn; not more than two of them.
SELECT count(*), sum(pg_relation_size(relation)) AS bytes FROM cqrs_internal.segment WHERE opened_at IS NULL;
SELECT count(*) FROM pg_class WHERE relnamespace = 'cqrs_internal'::regnamespace AND relkind = 'r' AND relname LIKE 'outbox%';

-- A paused projection holds what it has not applied, and says so; dropped, it lets go.
SELECT cqrs.pause('kinds');
SELECT cqrs.create_projection('extra', 'SELECT kind, max(id) AS last FROM item GROUP BY kind');
SELECT cqrs.drain('extra');
SELECT cqrs.pause('extra');
CALL fill(41, 50);
SELECT cqrs.drain('items') AS drained, cqrs.drain('others');
SELECT DISTINCT held_by FROM held ORDER BY 1;
SELECT cqrs.resume('kinds');
SELECT cqrs.drain('kinds');
SELECT DISTINCT held_by FROM held ORDER BY 1;
SELECT cqrs.drop_projection('extra');
SELECT cqrs.drain();
SELECT held_by FROM held;
SELECT differences();

-- Ten of one source stop one after the other, and go on from the last to the first: what the slowest needs is kept, also while all others have it, and then it goes.
SET client_min_messages = warning;
SELECT count(cqrs.create_projection('fan_' || n, format('SELECT id, kind FROM item WHERE id %% 10 >= %s', n))) FROM generate_series(0, 9) AS n;
SELECT cqrs.drain() AS filled;
CREATE PROCEDURE fan() LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 0..9 LOOP
        PERFORM cqrs.pause(('fan_' || n)::regclass);
        CALL fill(450 + n, 450 + n);
        PERFORM cqrs.drain();
        COMMIT;
    END LOOP;
    IF (SELECT count(*) < 4 OR NOT bool_and(held_by::text LIKE '%fan_0 %' OR held_by = '{active}') FROM held) THEN
        RAISE WARNING 'what the slowest needs is not kept for it: %', (SELECT array_agg(held_by::text) FROM held);
    END IF;
    FOR n IN REVERSE 9..0 LOOP
        PERFORM cqrs.resume(('fan_' || n)::regclass);
        PERFORM cqrs.drain();
        COMMIT;
        IF EXISTS (SELECT FROM cqrs.verify(('fan_' || n)::regclass)) OR (SELECT status <> 'running' FROM cqrs.versions WHERE projection = ('fan_' || n)::regclass) THEN
            RAISE WARNING 'fan_% has not followed', n;
        END IF;
        COMMIT;
        IF n > 0 AND (SELECT count(*) < 4 FROM held WHERE held_by::text LIKE '%fan_0 %') THEN
            RAISE WARNING 'beside fan_% what the slowest needs is gone', n;
        END IF;
    END LOOP;
END$$;
CALL fan();
SELECT count(*) AS evaluated FROM cqrs.history WHERE event = 'stale';
CALL settle();
SELECT held_by FROM held;
SELECT count(cqrs.drop_projection(format('fan_%s', n)::regclass)) FROM generate_series(0, 9) AS n;
RESET client_min_messages;
SELECT differences();

-- A version that reads nothing of what a segment holds moves on past it, however little that is.
INSERT INTO item VALUES (-50000, 1, 'x');
INSERT INTO other VALUES (1, 'x');
SELECT cqrs.drain();
INSERT INTO item SELECT -i, i % 5, repeat('x', 100) FROM generate_series(50001, 51000) AS i;
SELECT held_by FROM held;
CALL settle();
SELECT held_by FROM held;

-- A transaction that was in progress at a checkpoint and wrote nothing holds nothing.  It has an id, and is older than all that follows.
BEGIN;
SELECT pg_current_xact_id() IS NOT NULL AS has_id;
PREPARE TRANSACTION 'cqrs_segments';
CALL fill(51, 60);
CALL settle();
SELECT held_by FROM held;
COMMIT PREPARED 'cqrs_segments';

-- Within a transaction block nothing is freed: the locks would last.
CALL fill(61, 65);
BEGIN;
SELECT cqrs.drain() > 0 AS drained;
SELECT count(*) > 1 AS several FROM held;
COMMIT;
CALL settle();
SELECT held_by FROM held;

-- Retention keeps what is consumed: for a time, or for ever.
SET cqrs.retention = '1h';
CALL fill(66, 70);
CALL settle();
SELECT DISTINCT held_by FROM held ORDER BY 1;
SET cqrs.retention = -1;
CALL settle();
SELECT DISTINCT held_by FROM held ORDER BY 1;
SELECT count(*) FROM cqrs.outbox;
-- The maximum beats it: what only retention keeps goes first, the oldest of it, and no more than need be.
CALL fill(71, 120);
CALL settle();
SELECT sum(bytes) > 1024 * 1024 AS large, min(segment) AS oldest FROM cqrs.segments \gset
SELECT :'large' AS large;
SET cqrs.max_outbox_size = '1MB';
CALL settle();
SELECT sum(bytes) BETWEEN 512 * 1024 AND 1024 * 1024 AS bounded, count(*) > 3 AS several, min(segment) > :oldest AS newer FROM cqrs.segments;
SELECT DISTINCT held_by FROM held ORDER BY 1;
SELECT projection, status FROM cqrs.versions ORDER BY 1;
SELECT differences();

-- Past it versions hold nothing either: they are stale, and evaluated anew.
SET cqrs.retention = 0;
SET cqrs.max_outbox_size = -1;
CALL settle();
SELECT cqrs.pause('kinds');
CALL fill(121, 170);
SELECT cqrs.drain('items') > 0 AS drained, cqrs.drain('others');
SELECT DISTINCT held_by FROM held ORDER BY 1;
SET cqrs.max_outbox_size = '1MB';
SELECT cqrs.drain('items'), cqrs.drain('others');
SELECT sum(bytes) < 1024 * 1024 AS bounded FROM cqrs.segments;
SELECT projection, version, event, from_state, reason FROM cqrs.history WHERE event = 'stale';
SELECT projection, status FROM cqrs.versions ORDER BY 1;
SELECT cqrs.resume('kinds');
SELECT cqrs.drain() >= 0 AS drained;
SELECT projection, status FROM cqrs.versions ORDER BY 1;
SELECT differences();

-- Where nobody frees anything, capture stops rather than commands; and says so.  Then all is evaluated anew.
CALL settle();
CALL fill(201, 260);
SELECT sum(bytes) < 1.3 * 1024 * 1024 AS bounded FROM cqrs.segments;
SELECT relation, attached FROM cqrs_internal.source ORDER BY 1;
SELECT projection, status FROM cqrs.versions ORDER BY 1;
SELECT projection, pending FROM cqrs.lag ORDER BY 1;
-- Nothing makes up for an event: a command that emits one fails instead.
SELECT cqrs.emit('Refused', 'item', '1');
INSERT INTO other VALUES (2, 'not captured');
DELETE FROM item WHERE id % 2 = 0;
SELECT cqrs.drain() >= 0 AS drained;
SELECT projection, status FROM cqrs.versions ORDER BY 1;
SELECT differences();
CALL settle();
SELECT held_by FROM held;
SELECT cqrs.emit('Accepted', 'item', '1');
SELECT event_type, aggregate_version FROM cqrs.outbox WHERE kind = 'event';
INSERT INTO other VALUES (3, 'captured');
DELETE FROM item WHERE id % 30 = 1;
SELECT cqrs.drain() > 0 AS drained;
SELECT differences();
-- An event that was rolled back is none: the command goes on without.
CALL settle();
BEGIN;
INSERT INTO item SELECT i, i % 5, repeat('large ', 20) FROM generate_series(500001, 512000) AS i;
SAVEPOINT s;
SELECT cqrs.emit('Rolled back', 'item', '3');
ROLLBACK TO s;
COMMIT;
SELECT sum(bytes) > 1.2 * 1024 * 1024 AS large FROM cqrs.segments;
SELECT relation, attached FROM cqrs_internal.source ORDER BY 1;
SELECT cqrs.drain() >= 0 AS drained;
SELECT differences();
-- One that was released is refused with the rest.
CALL settle();
BEGIN;
SAVEPOINT s;
SELECT cqrs.emit('Refused', 'item', '3', jsonb_build_object('filler', repeat('large ', 200000)));
RELEASE s;
DELETE FROM item WHERE id > 500000;
COMMIT;
SELECT count(*) AS still_there FROM item WHERE id > 500000;
-- Where all transactions are prepared, somebody has to do the same: who prepares one, when it is done with it.
CALL settle();
SELECT count(*) AS before FROM held \gset
SET client_min_messages = error;
SELECT 'BEGIN',
       format('INSERT INTO item SELECT -i, i %% 5, repeat(''large '', 20) FROM generate_series(%s, %s) AS i', n * 1000, n * 1000 + 999),
       'PREPARE TRANSACTION ''cqrs_segments''',
       'COMMIT PREPARED ''cqrs_segments'''
FROM generate_series(100, 111) AS n \gexec
RESET client_min_messages;
SELECT count(*) - :before > 2 AS opened, sum(bytes) < 1.3 * 1024 * 1024 AS bounded FROM cqrs.segments;
SELECT relation, attached FROM cqrs_internal.source ORDER BY 1;
BEGIN;
SELECT cqrs.emit('Refused', 'item', '2', jsonb_build_object('filler', repeat('large ', 200000)));
PREPARE TRANSACTION 'cqrs_segments';
ROLLBACK PREPARED 'cqrs_segments';
SELECT cqrs.drain() >= 0 AS drained;
SELECT differences();
-- So is a table that is captured for itself.
CREATE TABLE whole (id integer, filler text);
SELECT cqrs.capture('whole');
CALL settle();
CALL fill(261, 330);
SELECT relation, attached FROM cqrs_internal.source ORDER BY 1;
SELECT cqrs.drain() >= 0 AS drained;
INSERT INTO whole VALUES (1, 'captured');
SELECT new_row FROM cqrs.outbox WHERE source = 'whole'::regclass;
SELECT differences();
RESET cqrs.max_outbox_size;

-- What goes wrong in opening the next segment is not the command's concern.
CALL settle();
SET cqrs.retention = -1;
DO $$
BEGIN
    FOR i IN 1..(SELECT max(number) + 10 FROM cqrs_internal.segment) LOOP
        IF to_regtype('cqrs_internal.outbox_' || i) IS NULL THEN
            EXECUTE format('CREATE TYPE cqrs_internal.outbox_%s AS ENUM ()', i);
        END IF;
    END LOOP;
END$$;
CALL fill(331, 350);
SELECT count(*) FROM held;
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT typname FROM pg_type WHERE typnamespace = 'cqrs_internal'::regnamespace AND typtype = 'e' LOOP
        EXECUTE format('DROP TYPE cqrs_internal.%I', name);
    END LOOP;
END$$;
INSERT INTO item VALUES (0, 0, 'x') ON CONFLICT (id) DO UPDATE SET filler = 'x';
SELECT count(*) FROM held;
CALL settle();
SELECT differences();

-- Large changes count where they are: in the table for large values.
SELECT count(*) AS before FROM held \gset
INSERT INTO whole SELECT 1, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 4000) AS i);
SELECT count(*) - :before AS opened FROM held;

-- Anybody may see what there is, but not what is in it.
SET ROLE cqrs_segments_user;
SELECT count(*) > 0 AS seen FROM cqrs.segments;
SELECT count(*) FROM cqrs_internal.outbox_1;
RESET ROLE;

-- All go with the extension.
DROP EVENT TRIGGER note_command;
DROP EVENT TRIGGER note_drop;
SET client_min_messages = warning;
DROP EXTENSION cqrs CASCADE;
SELECT count(*) FROM pg_class WHERE relname LIKE 'outbox%';
CREATE EXTENSION cqrs;
SELECT cqrs.capture('item');
SELECT segment, changes, held_by FROM cqrs.segments;
RESET client_min_messages;
\c postgres
DROP DATABASE cqrs_segments;
DROP ROLE cqrs_segments_user;
