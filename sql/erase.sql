-- Erasing: what is erased is in no retained chunk any more, everything else is as it was, and read models have lost nothing by it.  If this fails, data that had to
-- go is still there, data that had to stay is gone, or a read model misses a change.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA erase_test;
SET search_path = erase_test;

-- All that is retained of a source, by position.
CREATE FUNCTION retained(what regclass) RETURNS TABLE (kind text, old_row jsonb, new_row jsonb) LANGUAGE sql AS $$
    SELECT o.kind, o.old_row, o.new_row FROM cqrs.outbox AS o WHERE o.source = what ORDER BY o.position$$;
-- Is a text anywhere in a chunk that is visible?
CREATE FUNCTION found(what text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    segment regclass;
    result boolean := false;
BEGIN
    FOR segment IN SELECT relation FROM cqrs_internal.segment WHERE opened_at IS NOT NULL LOOP
        EXECUTE format('SELECT $1 OR EXISTS (SELECT FROM %s WHERE position(convert_to($2, %L) in body) > 0)', segment, 'utf8') USING result, what INTO result;
    END LOOP;
    RETURN result;
END$$;

CREATE TABLE person (id integer PRIMARY KEY, name text, born date, score numeric, note text);
CREATE TABLE other (id integer, name text);
SELECT cqrs.capture('person'), cqrs.capture('other');
SELECT cqrs.create_projection('names', 'SELECT id, name FROM person');
SELECT cqrs.create_projection('others', 'SELECT id, name FROM other', key => '{id}');
SELECT cqrs.drain();

-- Every kind of change of a row, in chunks with others, of other transactions and of one that changed both tables.
BEGIN;
INSERT INTO person VALUES (1, 'ann', '1980-01-01', 1.0, 'a'), (2, 'Bob-secret', '1981-02-03', 2.50, 'b'), (3, 'cy', NULL, NULL, NULL);
INSERT INTO other VALUES (2, 'not Bob');
UPDATE person SET note = 'changed';
COMMIT;
UPDATE person SET name = 'Bob-secret-too' WHERE id = 2;
BEGIN;
UPDATE person SET id = 20 WHERE id = 2;
UPDATE person SET note = 'last' WHERE id = 1;
COMMIT;
DELETE FROM person WHERE id = 20;
TRUNCATE other;
CREATE TABLE before AS SELECT position, xid, captured_at, kind, source, old_row, new_row FROM cqrs.outbox;
SELECT count(*) FROM before WHERE source = 'person'::regclass;
SELECT cqrs.erase('person'::regclass, '{"id": 2}', 'asked for by the person');
SELECT * FROM retained('person');
-- The change of the key from 2 to 20 went with it; the row's end goes by the other key.
SELECT cqrs.erase('person'::regclass, '{"id": 20}', 'asked for by the person');
SELECT found('Bob-secret');
SELECT * FROM retained('other');
-- Positions, transactions and times are what they were, and what was not erased is untouched.
SELECT count(*) FILTER (WHERE o.kind = 'erased') AS erased, count(*) FILTER (WHERE o.kind <> 'erased') AS others,
       bool_and((o.xid, o.captured_at, o.source) = (b.xid, b.captured_at, b.source)) AS same_place,
       bool_and(o.kind = 'erased' OR (o.kind, o.old_row, o.new_row) IS NOT DISTINCT FROM (b.kind, b.old_row, b.new_row)) AS same
FROM cqrs.outbox AS o FULL JOIN before AS b USING (position) WHERE coalesce(o.source, b.source) IN ('person'::regclass, 'other'::regclass);
-- Read models had applied all before: what was pending is counted there, and they are exact.
SELECT pending FROM cqrs.freshness('names');
TABLE names;
SELECT * FROM cqrs.verify('names');
SELECT * FROM cqrs.verify('others');
-- Twice finds nothing more.
SELECT cqrs.erase('person'::regclass, '{"id": 2}', 'again');

-- Changes that are pending are applied first, those of the erased row too; versions of other sources are left alone.
INSERT INTO person VALUES (4, 'Dan-secret', '1999-09-09', 4, 'd');
INSERT INTO other VALUES (4, 'four');
SELECT cqrs.erase('person'::regclass, '{"id": 4}', 'early');
SELECT * FROM names WHERE id = 4;
SELECT pending FROM cqrs.freshness('names');
SELECT pending FROM cqrs.freshness('others');
-- The read model holds the row as long as the table does, and follows it.
DELETE FROM person WHERE id = 4;
SELECT cqrs.erase('person'::regclass, '{"id": 4}', 'and its end');
SELECT count(*) FROM names WHERE id = 4;
SELECT found('Dan-secret');
SELECT * FROM cqrs.verify('names');

-- Keys: of several columns, by any column that is captured, by the types' equality.
INSERT INTO person VALUES (5, 'eve', '2000-02-29', 1.50, 'e1'), (6, 'eve', '2000-02-29', 2.50, 'e2'), (7, 'eve', NULL, 1.5, 'e3');
SELECT cqrs.erase('person'::regclass, '{"name": "eve", "score": 1.500, "born": "Feb 29, 2000"}', 'several');
SELECT cqrs.erase('person'::regclass, '{"score": "1.5"}', 'a number as text');
SELECT new_row ->> 'id' AS id FROM retained('person') WHERE new_row ->> 'name' = 'eve';
CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE DOMAIN email AS text COLLATE caseless CHECK (VALUE LIKE '%@%');
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TYPE pair AS (x integer, y text);
CREATE TABLE kinds (id bigint, mail email, m mood, a integer[], r int4range, p pair, b boolean, j jsonb, u uuid, ch char(5), "Odd ""name" text, js json);
SELECT cqrs.capture('kinds');
INSERT INTO kinds SELECT 1, 'Ann@Example.org', 'glad', '{1,2}', '[1,3)', (1, 'one')::pair, true, '{"k": [1, 2]}', '00000000-0000-0000-0000-000000000001', 'ab', 'odd', '{}'
FROM generate_series(1, 12);
SELECT cqrs.erase('kinds'::regclass, '{"mail": "ann@EXAMPLE.org", "id": 2}', 'not this one');
DO $$
DECLARE
    key jsonb;
BEGIN
    FOREACH key IN ARRAY ARRAY['{"id": 1, "mail": "ann@EXAMPLE.org"}', '{"m": "glad"}', '{"a": "{1,2}"}', '{"r": "[1,2]"}', '{"p": "(1,one)"}', '{"b": true}',
        '{"j": {"k": [1, 2]}}', '{"u": "00000000-0000-0000-0000-000000000001"}', '{"ch": "ab"}', '{"Odd \"name": "odd"}']::jsonb[] LOOP
        RAISE NOTICE '%: %', key, cqrs.erase('kinds'::regclass, key, 'each');
        INSERT INTO kinds SELECT 1, 'Ann@Example.org', 'glad', '{1,2}', '[1,3)', (1, 'one')::pair, true, '{"k": [1, 2]}', '00000000-0000-0000-0000-000000000001', 'ab', 'odd', '{}';
        COMMIT;
    END LOOP;
END$$;
SELECT cqrs.erase('kinds'::regclass, '{"js": {}}', 'no equality');
-- A value that is null is nobody's.
INSERT INTO kinds (id) VALUES (77);
SELECT cqrs.erase('kinds'::regclass, '{"mail": "x@y", "id": 77}', 'null');
SELECT count(*) FROM retained('kinds') WHERE kind = 'insert';

-- Tables change: columns go by number, whatever they were called, and values become what the column's type was.
CREATE TABLE shifty (gone text, id integer PRIMARY KEY, name text);
SELECT cqrs.capture('shifty');
INSERT INTO shifty VALUES ('x', 1, 'Eli-secret'), ('y', 2, 'fay');
ALTER TABLE shifty DROP COLUMN gone;
ALTER TABLE shifty RENAME COLUMN id TO number;
ALTER TABLE shifty ADD COLUMN id text DEFAULT '2';
UPDATE shifty SET name = 'Eli-secret-too' WHERE number = 1;
ALTER TABLE shifty ALTER COLUMN number TYPE text;
UPDATE shifty SET number = 'one' WHERE number = '1';
ALTER TABLE shifty RENAME TO moved;
SELECT cqrs.erase('moved'::regclass, '{"id": "2"}', 'a column that is newer');
SELECT cqrs.erase('moved'::regclass, '{"number": "one"}', 'no number');
SELECT cqrs.erase('moved'::regclass, '{"number": 1}', 'a number once');
SELECT found('Eli-secret');
SELECT kind, new_row FROM retained('moved');

-- Changes larger than a page, and many in a transaction that wrote early.
CREATE TABLE documents (id integer PRIMARY KEY, body text);
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL;
SELECT cqrs.capture('documents');
INSERT INTO documents VALUES (1, repeat('large-secret ', 5000)), (2, repeat('large-other ', 5000));
SET cqrs.buffer_size = '64kB';
INSERT INTO documents SELECT i, repeat(CASE WHEN i % 10 = 0 THEN 'tenth-secret ' ELSE 'other ' END, 20) FROM generate_series(3, 2000) AS i;
RESET cqrs.buffer_size;
UPDATE documents SET body = body || 'x' WHERE id <= 100;
SELECT cqrs.erase('documents'::regclass, '{"id": 1}', 'large');
SELECT found('large-secret') AS secret, found('large-other') AS other;
SELECT sum(cqrs.erase('documents'::regclass, jsonb_build_object('id', i), 'many')) FROM generate_series(10, 2000, 10) AS i;
SELECT found('tenth-secret');
SELECT kind, count(*) FROM retained('documents') GROUP BY kind ORDER BY kind;
SELECT count(*) FROM retained('documents') AS r WHERE kind = 'insert' AND new_row ->> 'body' NOT IN (repeat('other ', 20), repeat('large-other ', 5000));

-- A savepoint that rolls back takes the erasure back.
BEGIN;
SAVEPOINT a;
SELECT cqrs.erase('documents'::regclass, '{"id": 2}', 'in vain');
ROLLBACK TO a;
COMMIT;
SELECT found('large-other');
SELECT count(*) FROM cqrs.history WHERE reason = 'in vain';
-- Two in one statement, the second after the first.
SELECT cqrs.erase('documents'::regclass, '{"id": 3}', 'both'), cqrs.erase('documents'::regclass, '{"id": 4}', 'both');

-- Trees: one source is the root, another a leaf; both lose the row, and a leaf of a captured root is refused.
CREATE TABLE measured (id integer, at date, value text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE measured_old (value text, at date NOT NULL, id integer NOT NULL);
ALTER TABLE measured ATTACH PARTITION measured_old FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE measured_new PARTITION OF measured FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
SELECT cqrs.capture('measured_old');
INSERT INTO measured VALUES (1, '2019-01-01', 'leaf-secret');
SELECT cqrs.capture('measured');
INSERT INTO measured VALUES (1, '2019-02-02', 'both-secret'), (1, '2021-01-01', 'root-secret'), (2, '2021-01-01', 'other value');
SELECT cqrs.erase('measured_old'::regclass, '{"id": 1}', 'the leaf');
SELECT cqrs.erase('measured'::regclass, '{"id": 1}', 'the tree');
SELECT found('leaf-secret'), found('both-secret'), found('root-secret'), found('other value');
SELECT cqrs.uncapture('measured_old'), cqrs.uncapture('measured');

-- An aggregate: its events go, others stay, and its version goes on.
SELECT cqrs.emit('Joined', 'member', '1', '{"name": "Gus-secret"}'), cqrs.emit('Joined', 'member', '11', '{"name": "hal"}');
BEGIN;
SELECT cqrs.emit('Moved', 'member', '1', '{"to": "Gus-secret street"}');
INSERT INTO other VALUES (5, 'five');
SELECT cqrs.emit('Joined', 'guest', '1', '{"name": "ida"}');
COMMIT;
SELECT cqrs.erase('member', '1', 'asked for by the member');
SELECT cqrs.emit('Joined', 'member', '1', '{"name": "new"}', 2);
SELECT kind, source, event_type, aggregate_id, aggregate_version AS version, payload FROM cqrs.outbox
WHERE position > (SELECT max(position) FROM before) AND (source IS NULL OR source = 'other'::regclass) ORDER BY position;
SELECT found('Gus-secret');
SELECT * FROM cqrs.verify('others');

-- What the history says: who, of what, why, how many; not which.
SELECT actor = SESSION_USER AS by_us, projection, event, source, changes, reason FROM cqrs.history
WHERE event = 'erased' AND reason NOT IN ('many', 'each') AND source ~ 'erase_test|member' ORDER BY at;
SELECT count(*) FROM cqrs_internal.history AS h WHERE h::text ~ 'secret' OR h::text ~ '"id"';

-- A projection that stands still may need what is to go.
INSERT INTO person VALUES (8, 'pat', NULL, NULL, NULL);
SELECT cqrs.pause('names');
SELECT cqrs.erase('person'::regclass, '{"id": 8}', 'paused');
SELECT cqrs.erase('other'::regclass, '{"id": 5}', 'which reads something else');
SELECT cqrs.resume('names');
SELECT cqrs.create_projection('twice', 'SELECT name, 1 / (id - 9) AS ratio, id FROM person');
SELECT cqrs.drain('twice');
INSERT INTO person VALUES (9, 'zero', NULL, NULL, NULL);
-- One that fails says why, and whose error it is.
DO $$
DECLARE
    context text;
BEGIN
    PERFORM cqrs.erase('person'::regclass, '{"id": 9}', 'failing');
EXCEPTION WHEN division_by_zero THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    RAISE NOTICE '%: %', sqlerrm, substring(context from 'applying .* yet');
END$$;
DELETE FROM person WHERE id = 9;
SELECT cqrs.erase('person'::regclass, '{"id": 9}', 'mended');
-- A stale one is evaluated anew, whatever was erased; one that is not filled yet holds nothing.
SET client_min_messages = error;
ALTER TABLE person DISABLE TRIGGER USER;
RESET client_min_messages;
SELECT cqrs.erase('person'::regclass, '{"id": 8}', 'which is found not to be captured');
SELECT status FROM cqrs.versions WHERE projection = 'names'::regclass;
UPDATE person SET name = 'not captured' WHERE id = 8;
SELECT cqrs.pause('names');
SELECT cqrs.create_projection('unfilled', 'SELECT id, note FROM person');
SELECT cqrs.erase('person'::regclass, '{"id": 3}', 'stale and unfilled');
SELECT cqrs.resume('names');
SELECT cqrs.drain();
SELECT status FROM cqrs.versions WHERE projection = 'names'::regclass;
SELECT * FROM cqrs.verify('names');
SELECT * FROM cqrs.verify('twice');
SELECT * FROM cqrs.verify('unfilled');

-- Bad input.
SELECT cqrs.erase('person'::regclass, '{"id": 1}', '');
SELECT cqrs.erase('person'::regclass, '{"id": 1}', NULL);
SELECT cqrs.erase('person'::regclass, NULL, 'x');
SELECT cqrs.erase(NULL::regclass, '{}', 'x');
SELECT cqrs.erase(0::regclass, '{"id": 1}', 'x');
SELECT cqrs.erase('person'::regclass, '{}', 'x');
SELECT cqrs.erase('person'::regclass, '[1]', 'x');
SELECT cqrs.erase('person'::regclass, '5', 'x');
SELECT cqrs.erase('person'::regclass, '{"id": null}', 'x');
SELECT cqrs.erase('person'::regclass, '{"nobody": 1}', 'x');
SELECT cqrs.erase('person'::regclass, '{"ctid": "(0,1)"}', 'x');
SELECT cqrs.erase('person'::regclass, '{"id": "one"}', 'x');
SELECT cqrs.erase('before'::regclass, '{"position": 1}', 'x');
SELECT cqrs.erase('pg_class'::regclass, '{"oid": 1}', 'x');
SELECT cqrs.erase('names'::regclass, '{"id": 1}', 'x');
SELECT cqrs.erase('member', '', 'x');
SELECT cqrs.erase('', '1', 'x');
SELECT cqrs.erase('member', '1', '');
SELECT cqrs.erase('member', 'unheard of', 'x');
-- Without a cast both forms could be meant, and the server takes the other one.
SELECT cqrs.erase('person', '{"id": 1}', 'x');
SELECT cqrs.erase(source => 'person', key => '{"id": 1000}', reason => 'by name');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.erase('person'::regclass, '{"id": 1}', 'x');
ROLLBACK;
BEGIN READ ONLY;
SELECT cqrs.erase('person'::regclass, '{"id": 1}', 'x');
ROLLBACK;
BEGIN;
UPDATE person SET note = 'own change' WHERE id = 1;
SELECT cqrs.erase('person'::regclass, '{"id": 1}', 'x');
ROLLBACK;
-- A column that was not captured is not to be found in what was.
CREATE TABLE partly (id integer PRIMARY KEY, name text, secret text);
SELECT cqrs.create_projection('parts', 'SELECT id, name FROM partly');
SELECT cqrs.drain('parts');
INSERT INTO partly VALUES (1, 'one', 's'), (2, 'two', 's');
SELECT cqrs.erase('partly'::regclass, '{"secret": "s"}', 'not captured');
SELECT cqrs.erase('partly'::regclass, '{"id": 1}', 'the primary key is');
SELECT kind, new_row FROM retained('partly');

-- Rights: the table's owner may; an aggregate has none.
CREATE ROLE erase_owner;
CREATE ROLE erase_stranger;
GRANT USAGE, CREATE ON SCHEMA erase_test TO erase_owner, erase_stranger;
ALTER TABLE partly OWNER TO erase_owner;
GRANT ALL ON partly TO erase_stranger;
SET ROLE erase_stranger;
SELECT cqrs.erase('erase_test.partly'::regclass, '{"id": 2}', 'x');
SELECT cqrs.erase('member', '1', 'x');
SET ROLE erase_owner;
SELECT cqrs.erase('erase_test.partly'::regclass, '{"id": 2}', 'mine');
RESET ROLE;
GRANT EXECUTE ON FUNCTION cqrs.erase(text, text, text) TO erase_stranger;
SET ROLE erase_stranger;
SELECT cqrs.erase('member', '11', 'granted');
RESET ROLE;
SELECT source, changes FROM cqrs.history WHERE reason IN ('mine', 'granted') ORDER BY at;
-- The types are the owner's, and so is the identity under which they are at work: not that of a superuser who erases for them.
SET ROLE erase_owner;
CREATE FUNCTION tell() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'ran as %', current_user; RETURN true; END$$;
CREATE DOMAIN told AS text CHECK (erase_test.tell());
CREATE TYPE telling AS (x told);
RESET ROLE;
ALTER TABLE partly ADD COLUMN t telling;
SELECT cqrs.capture('partly');
SELECT cqrs.erase('partly'::regclass, '{"t": "(x)"}', 'as the owner');

-- A damaged chunk is an error that names it, and nothing is erased.
CREATE TABLE damaged (id integer PRIMARY KEY, name text);
SELECT cqrs.capture('damaged');
INSERT INTO damaged VALUES (1, 'one');
INSERT INTO damaged VALUES (1000, 'two');
DO $$
DECLARE
    chunk bigint := (SELECT max(position) >> 16 FROM cqrs.outbox WHERE source = 'damaged'::regclass);
    segment regclass := (SELECT relation FROM cqrs_internal.segment WHERE closed_at IS NULL AND opened_at IS NOT NULL);
BEGIN
    EXECUTE format('UPDATE %s SET body = set_byte(body, 15, get_byte(body, 15) # 1) WHERE number = %s', segment, chunk);
    PERFORM cqrs.erase('damaged'::regclass, '{"id": 1}', 'damaged');
EXCEPTION WHEN data_corrupted THEN
    RAISE NOTICE '%', replace(sqlerrm, chunk::text, 'N');
END$$;
SELECT kind, new_row FROM retained('damaged');

SELECT cqrs.drop_projection('names'), cqrs.drop_projection('others'), cqrs.drop_projection('twice'), cqrs.drop_projection('unfilled'), cqrs.drop_projection('parts');
SET client_min_messages = warning;
DROP SCHEMA erase_test CASCADE;
DROP OWNED BY erase_owner, erase_stranger;
DROP ROLE erase_owner, erase_stranger;
