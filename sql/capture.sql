-- Capture: which tables, by whom, and that no way of changing a row goes unseen, or seen twice.  If this fails, a read model misses changes, or a command
-- is disturbed by being captured.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
\set VERBOSITY default
CREATE SCHEMA capture_test;
SET search_path = capture_test;
CREATE TABLE looked (upto bigint);
INSERT INTO looked SELECT coalesce(max(position), 0) FROM cqrs.outbox;
CREATE VIEW news AS
SELECT o.kind, o.source, o.old_row, o.new_row FROM cqrs.outbox AS o, looked WHERE o.position > upto ORDER BY o.position;
\set news 'TABLE news; UPDATE looked SET upto = (SELECT coalesce(max(position), 0) FROM cqrs.outbox);'

-- Capturing makes two triggers that fire always; doing it twice, or undoing what was not done, is an error.
CREATE TABLE t (id integer PRIMARY KEY, v text);
SELECT cqrs.capture('t');
SELECT regexp_replace(tgname, '\d+', 'N'), tgenabled, tgfoid::regproc FROM pg_trigger WHERE tgrelid = 't'::regclass ORDER BY 1;
SELECT cqrs.capture('t');
INSERT INTO t VALUES (1, 'captured');
SELECT cqrs.uncapture('t');
SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass;
INSERT INTO t VALUES (2, 'not captured');
SELECT cqrs.uncapture('t');
SELECT cqrs.capture('t');
INSERT INTO t VALUES (3, 'captured again');
:news

-- What cannot be captured.
CREATE VIEW a_view AS SELECT 1 AS one;
CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS one;
CREATE SEQUENCE a_sequence;
CREATE TYPE a_type AS (x integer);
CREATE TEMPORARY TABLE a_temporary (x integer);
CREATE UNLOGGED TABLE an_unlogged (x integer);
CREATE TABLE a_partitioned (x integer) PARTITION BY LIST (x);
CREATE UNLOGGED TABLE a_partition PARTITION OF a_partitioned DEFAULT;
CREATE TABLE a_parent (x integer);
CREATE TEMPORARY TABLE a_child () INHERITS (a_parent);
CREATE FOREIGN DATA WRAPPER capture_test;
CREATE SERVER capture_test FOREIGN DATA WRAPPER capture_test;
CREATE FOREIGN TABLE a_foreign (x integer) SERVER capture_test;
SELECT cqrs.capture('a_view');
SELECT cqrs.capture('a_matview');
SELECT cqrs.capture('a_sequence');
SELECT cqrs.capture('t_pkey');
SELECT cqrs.capture('a_type');
SELECT cqrs.capture('a_temporary');
SELECT cqrs.capture('an_unlogged');
SELECT cqrs.capture('a_partitioned');
SELECT cqrs.capture('a_partition');
SELECT cqrs.capture('a_parent');
SELECT cqrs.capture('a_child');
SELECT cqrs.capture('a_foreign');
DROP TABLE a_partition;
CREATE FOREIGN TABLE a_partition PARTITION OF a_partitioned DEFAULT SERVER capture_test;
SELECT cqrs.capture('a_partitioned');
SELECT cqrs.capture('pg_class');
SELECT cqrs.capture('information_schema.sql_features');
SELECT cqrs.capture('cqrs_internal.source');
SELECT cqrs.capture('cqrs_internal.outbox_1');
SELECT cqrs.capture(NULL);
SELECT cqrs.uncapture(NULL);
SELECT cqrs.capture(4294967295::oid::regclass);
SELECT cqrs.uncapture(4294967295::oid::regclass);
SELECT cqrs.capture('no_such_table');
-- A parent that has lost what could not be captured can be.
DROP TABLE a_child;
SELECT cqrs.capture('a_parent');
-- Another's trigger of the same name is in the way, and nothing is left half done.
CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TABLE taken (x integer);
SELECT cqrs.capture('taken');
SELECT cqrs.uncapture('taken');
SELECT 'cqrs_capture_' || id AS trigger FROM cqrs_internal.source WHERE relation = 'taken'::regclass \gset
CREATE TRIGGER :trigger AFTER INSERT ON taken FOR EACH ROW EXECUTE FUNCTION theirs();
DO $$
BEGIN
    PERFORM cqrs.capture('taken');
EXCEPTION WHEN duplicate_object THEN
    RAISE NOTICE '%', regexp_replace(SQLERRM, '\d+', 'N');
END$$;
INSERT INTO taken VALUES (1);
DROP TRIGGER :trigger ON taken;
SELECT cqrs.capture('taken');
-- In a read-only transaction, as everything that writes.
BEGIN READ ONLY;
SELECT cqrs.capture('t');
ROLLBACK;
BEGIN READ ONLY;
SELECT cqrs.uncapture('t');
ROLLBACK;
-- The trigger function is good for its own triggers only.
CREATE TABLE misused (x integer);
CREATE TRIGGER wrong BEFORE INSERT ON misused FOR EACH ROW EXECUTE FUNCTION cqrs_internal.capture();
INSERT INTO misused VALUES (1);
DROP TRIGGER wrong ON misused;
CREATE TRIGGER wrong AFTER INSERT ON misused FOR EACH STATEMENT EXECUTE FUNCTION cqrs_internal.capture();
INSERT INTO misused VALUES (1);
DROP TRIGGER wrong ON misused;
-- On a table that is no source it does nothing.
CREATE TRIGGER idle AFTER INSERT ON misused FOR EACH ROW EXECUTE FUNCTION cqrs_internal.capture();
INSERT INTO misused VALUES (1);
SELECT count(*) FROM news;

-- Rights: ownership or TRIGGER to capture; none at all to be captured.
CREATE ROLE capture_owner;
CREATE ROLE capture_trigger;
CREATE ROLE capture_writer;
GRANT USAGE ON SCHEMA capture_test TO PUBLIC;
CREATE TABLE owned (id integer, v text);
ALTER TABLE owned OWNER TO capture_owner;
GRANT TRIGGER ON owned TO capture_trigger;
GRANT INSERT ON owned TO capture_writer;
SET ROLE capture_writer;
SELECT cqrs.capture('owned');
SELECT cqrs.uncapture('owned');
SET ROLE capture_owner;
SELECT cqrs.capture('owned');
SELECT cqrs.uncapture('owned');
SET ROLE capture_trigger;
SELECT cqrs.capture('owned');
SET ROLE capture_writer;
INSERT INTO owned VALUES (1, 'by a stranger to the extension');
-- … also when it is the writer who has to record a new layout.
RESET ROLE;
ALTER TABLE owned ADD COLUMN w integer DEFAULT 5;
SET ROLE capture_writer;
SET search_path = pg_catalog;
INSERT INTO capture_test.owned VALUES (2, 'with nothing in search_path');
RESET ROLE;
SET search_path = capture_test;
:news
SELECT cqrs.uncapture('owned');
DROP TABLE owned;
REVOKE USAGE ON SCHEMA capture_test FROM PUBLIC;
DROP ROLE capture_owner, capture_trigger, capture_writer;

-- Changes that replication applies are captured too.
SET session_replication_role = replica;
INSERT INTO t VALUES (4, 'replicated');
TRUNCATE t;
RESET session_replication_role;
:news

-- Every way of changing rows, each row once.
CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (id integer PRIMARY KEY, parent integer REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE, twice integer GENERATED ALWAYS AS (id * 2) STORED);
SELECT cqrs.capture('parent'), cqrs.capture('child');
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (10, 1), (20, 2);
UPDATE parent SET id = 3 WHERE id = 1;
DELETE FROM parent WHERE id = 2;
:news
TRUNCATE parent CASCADE;
:news
INSERT INTO t VALUES (1, 'a'), (2, 'b');
INSERT INTO t VALUES (1, 'conflict'), (3, 'c') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
INSERT INTO t VALUES (1, 'dropped') ON CONFLICT DO NOTHING;
MERGE INTO t USING (VALUES (2, NULL), (3, 'merged'), (4, 'd')) AS m(id, v) ON t.id = m.id
    WHEN MATCHED AND m.v IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET v = m.v WHEN NOT MATCHED THEN INSERT VALUES (m.id, m.v);
WITH gone AS (DELETE FROM t WHERE id = 4 RETURNING *) INSERT INTO t SELECT id + 1, v FROM gone;
:news
-- Two keys swap in one statement.
CREATE TABLE swapped (id integer PRIMARY KEY DEFERRABLE, v text);
SELECT cqrs.capture('swapped');
INSERT INTO swapped VALUES (1, 'one'), (2, 'two');
UPDATE swapped SET id = 3 - id;
:news
-- A trigger that vetoes, and one that rewrites: what is captured is what is stored.
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.v = 'veto' THEN RETURN NULL; END IF;
    new.v := upper(new.v);
    RETURN new;
END$$;
CREATE TRIGGER meddle BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION meddle();
INSERT INTO t VALUES (6, 'veto'), (7, 'shout');
:news
DROP TRIGGER meddle ON t;
-- Rows that are frozen as they come.
BEGIN;
TRUNCATE t;
COPY t FROM stdin (FREEZE);
1	frozen
\.
COMMIT;
:news

-- A trigger that fires before ours and changes the new row again has its change captured first; it comes out in the order in which it happened.
CREATE TABLE again (id integer, v integer);
SELECT cqrs.capture('again');
CREATE FUNCTION change_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE again SET v = v + 1 WHERE id = new.id AND v < 3;
    IF new.v = 5 THEN DELETE FROM again WHERE id = new.id; END IF;
    RETURN NULL;
END$$;
CREATE TRIGGER a_before_ours AFTER INSERT OR UPDATE ON again FOR EACH ROW EXECUTE FUNCTION change_again();
INSERT INTO again VALUES (1, 1);
INSERT INTO again VALUES (2, 5);
UPDATE again SET v = 5 WHERE id = 1;
:news
SELECT count(*) FROM again;
-- What the application asks its session stays its answer.
CREATE TABLE numbered (id serial, v text);
SELECT cqrs.capture('numbered');
INSERT INTO numbered (v) VALUES ('a'), ('b');
SELECT lastval(), currval('numbered_id_seq');
BEGIN;
SET LOCAL cqrs.buffer_size = '64kB';
INSERT INTO numbered (v) SELECT repeat('x', 1000) FROM generate_series(1, 200);
SELECT lastval();
COMMIT;
SELECT lastval();
-- It may declare a transaction read-only after it wrote.
BEGIN;
INSERT INTO numbered (v) VALUES ('c');
SET TRANSACTION READ ONLY;
COMMIT;
SELECT count(*) FROM cqrs.outbox WHERE source = 'numbered'::regclass;
UPDATE looked SET upto = (SELECT max(position) FROM cqrs.outbox);

-- Capturing is transactional.
CREATE TABLE undone (id integer);
BEGIN;
SAVEPOINT a;
SELECT cqrs.capture('undone');
INSERT INTO undone VALUES (1);
ROLLBACK TO a;
INSERT INTO undone VALUES (2);
COMMIT;
BEGIN;
INSERT INTO undone VALUES (3);
SELECT cqrs.capture('undone');
INSERT INTO undone VALUES (4);
COMMIT;
BEGIN;
SELECT cqrs.uncapture('undone');
INSERT INTO undone VALUES (5);
ROLLBACK;
INSERT INTO undone VALUES (6);
:news

-- Within a transaction block uncapture leaves the triggers for later: dropping them would lock the table to the block's end.
BEGIN;
SELECT cqrs.uncapture('undone');
INSERT INTO undone VALUES (7);
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'undone'::regclass AND mode = 'AccessExclusiveLock';
COMMIT;
INSERT INTO undone VALUES (8);
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'undone'::regclass;
SELECT count(*) FROM news;
-- They serve again if it is captured again …
SELECT cqrs.capture('undone');
INSERT INTO undone VALUES (9);
:news
-- … as they were made, whatever befell them.
BEGIN;
SELECT cqrs.uncapture('undone');
COMMIT;
SELECT id AS undone FROM cqrs_internal.source WHERE relation = 'undone'::regclass \gset
ALTER TABLE undone DISABLE TRIGGER cqrs_capture_:undone;
DROP TRIGGER cqrs_capture_truncate_:undone ON undone;
SELECT cqrs.capture('undone');
SELECT regexp_replace(tgname, '\d+', 'N'), tgenabled FROM pg_trigger WHERE tgrelid = 'undone'::regclass ORDER BY 1;
-- Uncapturing while the session itself reads the table leaves them, too; the next chance takes them.
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT id FROM undone LIMIT 1 LOOP
        PERFORM cqrs.uncapture('undone');
    END LOOP;
END$$;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'undone'::regclass;
SELECT cqrs.uncapture('taken');
SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('undone'::regclass, 'taken'::regclass);

-- A captured table can be dropped, renamed, moved; the source goes with it.
SELECT cqrs.capture('undone');
ALTER TABLE undone RENAME TO done;
CREATE SCHEMA capture_test_elsewhere;
ALTER TABLE done SET SCHEMA capture_test_elsewhere;
INSERT INTO capture_test_elsewhere.done VALUES (10);
:news
SELECT relation::oid AS gone FROM cqrs_internal.source WHERE relation = 'capture_test_elsewhere.done'::regclass \gset
DROP SCHEMA capture_test_elsewhere CASCADE;
SELECT cqrs.uncapture('misused');
SELECT cqrs.capture('taken'), cqrs.uncapture('taken');
SELECT count(*) FROM cqrs_internal.source WHERE relation = :gone;

-- The extension goes only with the triggers; what was captured in that transaction has nowhere to go and is in nobody's way.
SELECT current_database() AS here \gset
CREATE DATABASE cqrs_capture_test;
\c cqrs_capture_test
SET client_min_messages = warning;
CREATE EXTENSION cqrs;
CREATE TABLE t (id integer);
SELECT cqrs.capture('t');
INSERT INTO t VALUES (1);
SELECT kind, source, new_row FROM cqrs.outbox;
\set VERBOSITY terse
DROP EXTENSION cqrs;
\set VERBOSITY default
BEGIN;
INSERT INTO t VALUES (2);
DROP EXTENSION cqrs CASCADE;
INSERT INTO t VALUES (3);
COMMIT;
SELECT * FROM t;
-- Made again, its ids begin again; nothing of the old ones is remembered.
CREATE EXTENSION cqrs;
CREATE TABLE u (name text, id integer);
SELECT cqrs.capture('u');
INSERT INTO u VALUES ('new', 1);
SELECT kind, source, new_row FROM cqrs.outbox;
-- Made again in the transaction that has captured something, it knows nothing of that, and what would come to lie beside it is refused.
BEGIN;
INSERT INTO u VALUES ('old', 2);
DROP EXTENSION cqrs CASCADE;
CREATE EXTENSION cqrs;
COMMIT;
CREATE TABLE v (at date);
SELECT cqrs.capture('v');
INSERT INTO v VALUES ('2026-02-03');
SELECT kind, source, new_row FROM cqrs.outbox;
BEGIN;
INSERT INTO v VALUES ('2026-02-04');
SAVEPOINT before;
DROP EXTENSION cqrs CASCADE;
CREATE EXTENSION cqrs;
SELECT cqrs.capture('v');
INSERT INTO v VALUES ('2026-02-05');
ROLLBACK TO before;
COMMIT;
SELECT kind, source, new_row FROM cqrs.outbox;
\c :"here"
DROP DATABASE cqrs_capture_test;

SET client_min_messages = warning;
DROP SCHEMA capture_test CASCADE;
DROP FOREIGN DATA WRAPPER capture_test CASCADE;
