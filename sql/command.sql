-- Domain events: what is emitted is in the outbox if and only if it was committed, in order with row changes, and each counts its aggregate by one.  If this
-- fails, events are lost, doubled, out of order, or emitted against a version that the command never saw.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA command_test;
SET search_path = command_test;

-- What came since the last look, in order.
CREATE TABLE looked (upto bigint);
INSERT INTO looked SELECT coalesce(max(position), 0) FROM cqrs.outbox;
CREATE VIEW news AS
SELECT o.kind, o.source, o.new_row, o.event_type, o.aggregate_type, o.aggregate_id, o.aggregate_version AS version, o.payload
FROM cqrs.outbox AS o, looked WHERE o.position > upto ORDER BY o.position;
\set news 'TABLE news; UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);'

-- An event, with defaults and without; versions count by aggregate, and a type is part of what an aggregate is.
SELECT cqrs.emit('OrderPlaced', 'order', '7', '{"customer": 1, "lines": [{"product": "tea", "quantity": 2}]}', 0);
SELECT cqrs.emit('OrderPaid', 'order', '7', expected_version => 1);
SELECT cqrs.emit('OrderPlaced', 'order', '8');
SELECT cqrs.emit('OrderPlaced', 'invoice', '7');
SELECT cqrs.emit('OrderShipped', 'order', '7');
:news

-- Metadata: as given, with an id, who and when; nobody may say these.
BEGIN;
SELECT clock_timestamp() AS before \gset
SELECT cqrs.emit('A', 'meta', '1', metadata => '{"correlation_id": "c-1", "causation_id": "e-1", "nested": {"a": [1, {"b": null}]}, "n": 1.50}');
SELECT cqrs.emit('A', 'meta', '1');
SELECT pg_current_xact_id() AS xid \gset
COMMIT;
SELECT metadata - '{event_id,occurred_at}'::text[] AS metadata, (metadata ->> 'event_id')::uuid IS NOT NULL AS has_id,
       (metadata ->> 'occurred_at')::timestamptz BETWEEN :'before' AND captured_at AS in_time, metadata ->> 'occurred_at' LIKE '%T%+00:00' AS in_utc
FROM cqrs.outbox WHERE xid = :'xid' ORDER BY position;
SELECT count(DISTINCT metadata ->> 'event_id') AS ids FROM cqrs.outbox WHERE xid = :'xid';
SELECT cqrs.emit('A', 'meta', '1', metadata => '{"event_id": "x"}');
SELECT cqrs.emit('A', 'meta', '1', metadata => '{"actor": null}');
SELECT cqrs.emit('A', 'meta', '1', metadata => '{"occurred_at": "yesterday"}');

-- The actor is who is logged in.
CREATE ROLE command_clerk;
CREATE ROLE command_app;
GRANT USAGE ON SCHEMA command_test TO command_clerk, command_app;
GRANT EXECUTE ON FUNCTION cqrs.emit(text, text, text, jsonb, bigint, jsonb) TO command_clerk;
SET SESSION AUTHORIZATION command_clerk;
SELECT cqrs.emit('A', 'meta', 'clerk');
RESET SESSION AUTHORIZATION;
SELECT aggregate_version, metadata ->> 'actor' AS actor FROM cqrs.outbox WHERE aggregate_id = 'clerk';

-- Nobody may emit unless it is granted, not even who reads everything; nor write or read what counts.
SET ROLE command_app;
SELECT cqrs.emit('A', 'meta', '1');
SELECT count(*) FROM cqrs_internal.aggregate;
RESET ROLE;

-- A function that runs as its owner lends the right for just what it does.
CREATE FUNCTION ship(id text) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = cqrs, pg_temp AS $$
    SELECT cqrs.emit('Shipped', 'parcel', id, '{}', NULL, '{"by": "ship"}')$$;
SET SESSION AUTHORIZATION command_app;
SELECT command_test.ship('1');
RESET SESSION AUTHORIZATION;
SELECT metadata - '{event_id,occurred_at}'::text[] AS metadata FROM cqrs.outbox WHERE aggregate_type = 'parcel';

-- Expected versions: 0 is new, another is that; too low, too high and negative are errors that tell both versions.
\set VERBOSITY sqlstate
SELECT cqrs.emit('OrderPlaced', 'order', '7', expected_version => 0);
\set VERBOSITY default
SELECT cqrs.emit('OrderPaid', 'order', '7', expected_version => 2);
SELECT cqrs.emit('OrderPaid', 'order', '7', expected_version => 4);
SELECT cqrs.emit('OrderPaid', 'order', 'unheard of', expected_version => 1);
SELECT cqrs.emit('OrderPaid', 'order', '7', expected_version => -1);
SELECT cqrs.emit('OrderPaid', 'order', '7', expected_version => 3);
-- The same within one transaction, and under one snapshot.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.emit('OrderPaid', 'order', '7', expected_version => 4);
SAVEPOINT s;
SELECT cqrs.emit('OrderPaid', 'order', '7', expected_version => 4);
ROLLBACK TO s;
SELECT cqrs.emit('OrderPaid', 'order', '7', expected_version => 5);
SELECT cqrs.emit('OrderPlaced', 'order', '9', expected_version => 0), cqrs.emit('OrderPaid', 'order', '9', expected_version => 1);
COMMIT;
SELECT aggregate_id, array_agg(aggregate_version ORDER BY position) FROM cqrs.outbox WHERE aggregate_type = 'order' GROUP BY 1 ORDER BY 1;

-- Bad input.
SELECT cqrs.emit('', 'order', '7');
SELECT cqrs.emit('A', '', '7');
SELECT cqrs.emit('A', 'order', '');
SELECT cqrs.emit(NULL, 'order', '7');
SELECT cqrs.emit('A', NULL, '7');
SELECT cqrs.emit('A', 'order', NULL);
SELECT cqrs.emit('A', 'order', '7', NULL);
SELECT cqrs.emit('A', 'order', '7', '[]');
SELECT cqrs.emit('A', 'order', '7', '7');
SELECT cqrs.emit('A', 'order', '7', 'null');
SELECT cqrs.emit('A', 'order', '7', metadata => '"x"');
SELECT cqrs.emit('A', 'order', '7', metadata => NULL);
SELECT cqrs.emit('A', 'order', repeat('é', 501));
SELECT cqrs.emit('A', repeat('t', 1001), '7');
SELECT cqrs.emit('A', repeat('t', 1000), (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 31) AS i));
BEGIN READ ONLY;
SELECT cqrs.emit('A', 'order', '7');
ROLLBACK;
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);

-- One order with row changes: by command, then as called.
CREATE TABLE orders (id integer PRIMARY KEY, state text);
SELECT cqrs.capture('orders');
BEGIN;
SELECT cqrs.emit('First', 'mixed', '1');
INSERT INTO orders VALUES (1, 'placed');
SELECT cqrs.emit('Second', 'mixed', '1'), cqrs.emit('Third', 'mixed', '1');
UPDATE orders SET state = 'paid';
SELECT cqrs.emit('Fourth', 'mixed', '1');
COMMIT;
:news
CREATE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cqrs.emit(tg_when || ' ' || tg_op, 'announced', new.id::text, to_jsonb(new));
    RETURN new;
END$$;
CREATE TRIGGER announce_after AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION announce();
CREATE TRIGGER a_announce_before BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION announce();
UPDATE orders SET state = 'shipped';
:news

-- Many in one statement, each seeing the ones before it.
SELECT cqrs.emit('Many', 'many', (g % 3)::text) AS version, g FROM generate_series(1, 7) AS g;
SELECT aggregate_id, version FROM news;
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);

-- Savepoints: what is rolled back is gone, with its versions.
BEGIN;
SELECT cqrs.emit('Kept', 'saved', '1');
SAVEPOINT a;
SELECT cqrs.emit('Gone', 'saved', '1');
SELECT cqrs.emit('Gone', 'saved', '2');
SAVEPOINT b;
SELECT cqrs.emit('Gone', 'saved', '1');
RELEASE b;
ROLLBACK TO a;
SELECT cqrs.emit('Kept', 'saved', '1', expected_version => 1);
SELECT cqrs.emit('Kept', 'saved', '2', expected_version => 0);
SAVEPOINT c;
SELECT cqrs.emit('Kept', 'saved', '2', expected_version => 1);
RELEASE c;
SELECT cqrs.emit('Kept', 'saved', '2', expected_version => 2);
COMMIT;
SELECT event_type, aggregate_id, version FROM news;
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);
BEGIN;
SELECT cqrs.emit('Gone', 'saved', '3');
ROLLBACK;
SELECT cqrs.emit('Kept', 'saved', '3', expected_version => 0);
-- A conflict that is caught leaves nothing behind.
DO $$
BEGIN
    PERFORM cqrs.emit('Kept', 'saved', '3', expected_version => 1);
    BEGIN
        PERFORM cqrs.emit('Gone', 'saved', '3', expected_version => 1);
    EXCEPTION WHEN SQLSTATE 'QC001' THEN
        RAISE NOTICE 'caught: %', sqlerrm;
    END;
END$$;
SELECT event_type, aggregate_id, version FROM news;
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);

-- A prepared transaction holds the aggregate until it ends.
BEGIN;
SELECT cqrs.emit('Prepared', 'prepared', '1');
PREPARE TRANSACTION 'command_test_1';
SET lock_timeout = '50ms';
SELECT cqrs.emit('Meanwhile', 'prepared', '1');
RESET lock_timeout;
SELECT count(*) FROM news;
COMMIT PREPARED 'command_test_1';
SELECT cqrs.emit('After', 'prepared', '1', expected_version => 1);
SELECT event_type, version FROM news;

-- More than the buffer holds, in savepoints some of which roll back: versions of what stays have no gaps and stand in order.
SET cqrs.buffer_size = '64kB';
DO $$
BEGIN
    FOR i IN 1..60 LOOP
        BEGIN
            PERFORM cqrs.emit('Spilled', 'spilled', (g % 7)::text, jsonb_build_object('round', i, 'filler', repeat('x', 100))) FROM generate_series(1, 30) AS g;
            INSERT INTO orders VALUES (1000 + i, 'spilled');
            IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
        EXCEPTION WHEN division_by_zero THEN
            PERFORM cqrs.emit('Handled', 'spilled', '0');
        END;
    END LOOP;
END$$;
RESET cqrs.buffer_size;
SELECT aggregate_id, count(*), min(aggregate_version), max(aggregate_version), bool_and(step = 1) AS in_order
FROM (SELECT aggregate_id, aggregate_version, aggregate_version - lag(aggregate_version, 1, 0::bigint) OVER (PARTITION BY aggregate_id ORDER BY position) AS step
      FROM cqrs.outbox WHERE aggregate_type = 'spilled') AS o GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM cqrs.outbox WHERE source = 'orders'::regclass AND new_row ->> 'state' = 'spilled';
-- What counts agrees with what was emitted, for every aggregate of this test.
SELECT coalesce(o.aggregate_type, a.type) AS type, coalesce(o.aggregate_id, a.id) AS id, o.last, a.version
FROM (SELECT aggregate_type, aggregate_id, max(aggregate_version) AS last FROM cqrs.outbox WHERE kind = 'event' GROUP BY 1, 2) AS o
FULL JOIN cqrs_internal.aggregate AS a ON a.type = o.aggregate_type AND a.id = o.aggregate_id
WHERE o.last IS DISTINCT FROM a.version AND coalesce(o.aggregate_type, a.type) IN ('order', 'invoice', 'meta', 'mixed', 'announced', 'many', 'saved', 'spilled');

-- Counting is a HOT update: the row stays on its page, however often it is counted on.
SELECT cqrs.emit('Hot', 'hot', 'x');
-- Another session's snapshot may be in the way for a moment.
DO $$
DECLARE
    before tid;
    after tid;
BEGIN
    FOR try IN 1..100 LOOP
        before := (SELECT ctid FROM cqrs_internal.aggregate WHERE type = 'hot');
        FOR i IN 1..300 LOOP
            PERFORM cqrs.emit('Hot', 'hot', 'x');
            COMMIT;
        END LOOP;
        after := (SELECT ctid FROM cqrs_internal.aggregate WHERE type = 'hot');
        IF (before::text::point)[0] = (after::text::point)[0] THEN
            RAISE NOTICE 'on the same page';
            EXIT;
        END IF;
        PERFORM pg_sleep(0.1);
        COMMIT;
    END LOOP;
END$$;

-- Indexes are kept whole: the one of the key, built anew, and one that somebody else has made.
CREATE INDEX somebodys ON cqrs_internal.aggregate (version, id);
REINDEX TABLE CONCURRENTLY cqrs_internal.aggregate;
SELECT count(cqrs.emit('Indexed', 'indexed', (g % 50)::text)) FROM generate_series(1, 500) AS g;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT count(*) FROM cqrs_internal.aggregate WHERE version = 10 AND type = 'indexed';
SELECT count(*) FROM generate_series(0, 49) AS g, LATERAL (SELECT FROM cqrs_internal.aggregate WHERE type = 'indexed' AND id = g::text AND version = 10) AS a;
RESET enable_seqscan;
RESET enable_bitmapscan;
DROP INDEX cqrs_internal.somebodys;
CREATE INDEX somebodys ON cqrs_internal.aggregate (upper(id)) WHERE version > 2;
SELECT count(cqrs.emit('Indexed', 'partly', 'x' || g % 5)) FROM generate_series(1, 15) AS g;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT id, version FROM cqrs_internal.aggregate WHERE upper(id) = 'X1' AND version > 2 AND type = 'partly';
RESET enable_seqscan;
RESET enable_bitmapscan;
DROP INDEX cqrs_internal.somebodys;

-- A large payload comes back as it went in; so do keys in any script and numbers of any scale.
SELECT cqrs.emit('Large', 'large', '1', jsonb_build_object('text', repeat('0123456789', 5000), 'ключ', 'значение', 'n', 1.2300, 'deep', '[[[{"a": {}}]]]'::jsonb));
SELECT md5(payload ->> 'text') = md5(repeat('0123456789', 5000)) AS text, payload - 'text' AS rest FROM cqrs.outbox WHERE event_type = 'Large';

-- A projection passes over events, also where they share a chunk with its rows.
SELECT cqrs.create_projection('order_states', 'SELECT id, state FROM orders');
SELECT cqrs.drain('order_states');
SELECT cqrs.emit('Alone', 'passed', '1');
BEGIN;
SELECT cqrs.emit('Beside', 'passed', '1');
INSERT INTO orders VALUES (2, 'placed');
SELECT cqrs.emit('Beside', 'passed', '1');
COMMIT;
SELECT pending FROM cqrs.freshness('order_states');
SELECT cqrs.drain('order_states');
SELECT * FROM cqrs.verify('order_states');
SELECT sources FROM cqrs_internal.outbox_1 WHERE number = (SELECT position >> 16 FROM cqrs.outbox WHERE event_type = 'Alone');
SELECT cqrs.drop_projection('order_states');

-- Damage is told of in place of the events, by the chunk's number, never more.  With 'mend' the check sum is made to agree, and what is read is nonsense.
CREATE FUNCTION crc32c(bytes bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    crc bigint := x'ffffffff'::bigint;
BEGIN
    FOR i IN 0..octet_length(bytes) - 1 LOOP
        crc := crc # get_byte(bytes, i);
        FOR b IN 1..8 LOOP
            crc := CASE WHEN crc & 1 = 1 THEN (crc >> 1) # x'82f63b78'::bigint ELSE crc >> 1 END;
        END LOOP;
    END LOOP;
    crc := crc # x'ffffffff'::bigint;
    RETURN reverse_bytes(decode(lpad(to_hex(crc), 8, '0'), 'hex'));
END$$;
CREATE FUNCTION reverse_bytes(bytes bytea) RETURNS bytea LANGUAGE sql AS $$
    SELECT substring(bytes, 4, 1) || substring(bytes, 3, 1) || substring(bytes, 2, 1) || substring(bytes, 1, 1)$$;
CREATE FUNCTION damage(how text, mend boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    chunk bigint := (SELECT max(number) FROM cqrs_internal.outbox_1 WHERE sources = '{0}');
    told text;
BEGIN
    EXECUTE format('UPDATE cqrs_internal.outbox_1 SET body = %s WHERE number = %s', how, chunk);
    IF mend THEN
        UPDATE cqrs_internal.outbox_1 SET body = substring(body, 1, 1) || crc32c(substring(body, 6)) || substring(body, 6) WHERE number = chunk;
    END IF;
    SELECT replace(metadata ->> 'error', chunk::text, 'N') || ': ' || (metadata ->> 'detail') INTO told FROM cqrs.outbox WHERE kind = 'damaged';
    IF told IS NULL THEN
        RETURN 'not noticed';
    END IF;
    RAISE EXCEPTION 'take it back';
EXCEPTION WHEN raise_exception THEN
    RETURN regexp_replace(told, 'position \d+', 'position P');
END$$;
SET client_min_messages = error;
SELECT cqrs.emit('Damaged', 'damaged', '1', '{"a": 1}');
SELECT damage('body', true);									-- sound: the check sum is made as it is here
SELECT damage('set_byte(body, 20, get_byte(body, 20) # 1)', false);
SELECT damage('set_byte(body, 7, 1)', true);					-- another kind: a row without a table
SELECT damage('set_byte(body, 7, 9)', true);					-- no kind
SELECT damage('set_byte(body, 8, 1)', true);					-- a shape of rows
SELECT damage('set_byte(body, 10, get_byte(body, 10) # 1)', true);	-- says that it has nulls
SELECT damage('set_byte(body, 10, 5 << 3 | 2)', true);			-- a column less
SELECT damage('set_byte(body, 10, 7 << 3 | 2)', true);			-- a column more
SELECT damage('set_byte(body, 13, 252)', true);					-- a text longer than all
SELECT damage('overlay(body placing ''\x00000000'' from position(''\x01000020''::bytea in body))', true);	-- a payload that is no object
SELECT damage('substring(body, 1, 60)', true);
SELECT damage('body || ''\x00''', true);
-- Whatever byte is changed, nothing crashes; and without a new check sum everything is noticed.
SELECT count(*) FILTER (WHERE noticed = 'not noticed') AS unnoticed, count(*) > 100 AS many
FROM (SELECT damage(format('set_byte(body, %s, get_byte(body, %1$s) # 64)', i), false) AS noticed
      FROM generate_series(0, (SELECT octet_length(body) - 1 FROM cqrs_internal.outbox_1 WHERE number = (SELECT max(number) FROM cqrs_internal.outbox_1))) AS i) AS d;
RESET client_min_messages;
SELECT payload FROM cqrs.outbox WHERE event_type = 'Damaged';

-- Subtransactions that fail leave nothing behind, however many there are.
DO $$ BEGIN
	FOR i IN 1..1000 LOOP
		BEGIN
			PERFORM cqrs.emit('Tried', 'try', (i % 3)::text);
			RAISE EXCEPTION 'never mind';
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
	RAISE NOTICE 'it takes %', CASE WHEN (SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name = 'cqrs aggregates') > 100000 THEN 'more and more' ELSE 'little' END;
END $$;

SET client_min_messages = warning;
DROP SCHEMA command_test CASCADE;
DROP OWNED BY command_clerk, command_app;
DROP ROLE command_clerk, command_app;
