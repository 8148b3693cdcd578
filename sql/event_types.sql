-- How many events of each type there were: counted once each, while their segment is written to, when it is closed and sealed, and after it was freed.  If this fails,
-- cqrs.event_types loses or doubles events when segments come and go.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS cqrs_event_types;
CREATE DATABASE cqrs_event_types;
\c cqrs_event_types
\set SHOW_CONTEXT never
CREATE EXTENSION cqrs;
RESET client_min_messages;
SET cqrs.segment_size = '64kB';
SET cqrs.retention = 0;

SELECT * FROM cqrs.event_types;
SELECT cqrs.describe_event_type('Described', 'not emitted yet');
SELECT type, first_seen, count, schema_version, description, owner = current_user AS mine FROM cqrs.event_types;

-- Rounds of many events, so that segments fill, are sealed and freed; what was emitted is noted beside.
CREATE TABLE emitted (type text, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE filler (id integer PRIMARY KEY, text text);
SELECT cqrs.capture('filler');
CREATE PROCEDURE emit_many(round integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..300 LOOP
        INSERT INTO emitted VALUES (CASE i % 3 WHEN 0 THEN 'Third' ELSE 'Other ' || i % 2 END);
        PERFORM cqrs.emit(CASE i % 3 WHEN 0 THEN 'Third' ELSE 'Other ' || i % 2 END, 'a', (i % 50)::text, jsonb_build_object('text', repeat('x', 300)));
        INSERT INTO filler VALUES (round * 1000 + i, repeat('y', 200));
        IF i % 4 = 0 THEN
            ROLLBACK;
        ELSE
            COMMIT;
        END IF;
    END LOOP;
END$$;
CREATE VIEW wrong AS
SELECT type, c.count, e.count AS emitted
FROM cqrs.event_types c FULL JOIN (SELECT type, count(*) AS count, min(at) AS first, max(at) AS last FROM emitted GROUP BY type) e USING (type)
WHERE coalesce(c.count, 0) <> coalesce(e.count, 0) OR c.first_seen NOT BETWEEN e.first AND e.first + '1 min' OR c.last_seen NOT BETWEEN e.last AND e.last + '1 min';
CALL emit_many(1);
TABLE wrong;
SELECT count(*) FROM cqrs_internal.event_count;
SELECT cqrs.drain();
TABLE wrong;
CALL emit_many(2);
SELECT cqrs.drain();
TABLE wrong;
CALL emit_many(3);
SELECT cqrs.drain();
SELECT cqrs.drain();
TABLE wrong;
SELECT min(segment) > 1 AS some_are_freed FROM cqrs.segments;
SELECT count(*) AS counted FROM cqrs_internal.event_count;
SELECT type, count FROM cqrs.event_types ORDER BY type;

-- One's own events are not in it before they are committed.
CREATE TABLE before AS SELECT * FROM cqrs.event_types;
BEGIN;
SELECT cqrs.emit('Third', 'a', '1');
SELECT count(*) FROM (TABLE cqrs.event_types EXCEPT TABLE before) AS d;
ROLLBACK;

-- Who handles it, once each however many versions do; types that nobody has emitted are in it if somebody handles them.
SELECT cqrs.create_projection('thirds', columns => 'id text PRIMARY KEY', handlers => '{"Third": "INSERT INTO thirds SELECT aggregate_id FROM event ON CONFLICT DO NOTHING"}',
    seed => 'SELECT NULL::text WHERE false');
SELECT cqrs.create_projection('pair', columns => 'id text', seed => 'SELECT NULL::text WHERE false',
    handlers => '{"Third": "SELECT 1", "Fourth": "SELECT 4", "public.filler": "SELECT 0"}');
SELECT type, count, handled_by FROM cqrs.event_types WHERE handled_by <> '{}' ORDER BY type;
SELECT cqrs.drop_projection('pair');
SELECT type, count, handled_by FROM cqrs.event_types WHERE handled_by <> '{}' ORDER BY type;

-- A new shape, and everybody may look.
CREATE FUNCTION newer(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT payload';
SELECT cqrs.create_upcaster('Third', 1, 'newer(jsonb)');
CREATE ROLE event_types_guest;
SET ROLE event_types_guest;
SELECT type, count, schema_version FROM cqrs.event_types ORDER BY type;
RESET ROLE;
DROP ROLE event_types_guest;
\c postgres
SET client_min_messages = warning;
DROP DATABASE cqrs_event_types;
