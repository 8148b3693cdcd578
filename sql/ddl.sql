-- DDL on sources: what is harmless just works, what changes contents without changing rows is followed by one full evaluation, what would break a read
-- model is refused by the server's own rules.  If this fails, a read model misses rows that came or went with their table, or decodes a row by a layout
-- that it was not written in.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA ddl;
SET search_path = ddl;
\getenv abs_srcdir PG_ABS_SRCDIR
\set followed :abs_srcdir '/test/followed.sql'
\set ECHO none
\i :followed
\set ECHO all

-- The triggers that tables have, by source.
CREATE VIEW triggered AS
SELECT t.tgrelid::regclass::text AS on, s.relation AS for, count(*), string_agg(DISTINCT t.tgenabled::text, '') AS enabled FROM pg_trigger AS t
JOIN cqrs_internal.source AS s ON t.tgfoid = 'cqrs_internal.capture'::regproc AND t.tgargs = convert_to(s.id::text, 'UTF8') || '\x00'
GROUP BY 1, 2;

CREATE TABLE kind (id integer PRIMARY KEY, name text, spare text);
INSERT INTO kind VALUES (0, 'even'), (1, 'odd');
CREATE TABLE part (id integer PRIMARY KEY, kind integer, name text, spare integer) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
INSERT INTO part SELECT n, n % 2, 'part ' || n FROM generate_series(1, 9) AS n;
SELECT project('parts', 'SELECT p.id AS key, p.name, k.name AS kind FROM part AS p LEFT JOIN kind AS k ON k.id = p.kind', NULL);
SELECT project('kinds', 'SELECT kind AS key, count(*) AS parts, max(name) AS last FROM part GROUP BY kind', NULL);
SELECT cqrs.drain();

-- A new partition is captured in the transaction that makes it; being empty it changes nothing.
BEGIN;
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (100) TO (200);
INSERT INTO part VALUES (100, 0, 'into a new one'), (101, 1, 'into a new one');
SAVEPOINT s;
CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM (200) TO (300);
INSERT INTO part VALUES (200, 0, 'into one that is taken back');
ROLLBACK TO s;
UPDATE part SET id = 102 WHERE id = 2;
COMMIT;
SELECT * FROM followed();
-- By whoever makes it, however: in a schema of its own, with partitions below it, as a copy of a table without its triggers.
CREATE ROLE ddl_owner;
GRANT ALL ON SCHEMA ddl TO ddl_owner;
ALTER TABLE part OWNER TO ddl_owner;
SET ROLE ddl_owner;
CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM (200) TO (300) PARTITION BY RANGE (id);
CREATE TABLE part_3_0 PARTITION OF part_3 FOR VALUES FROM (200) TO (250);
INSERT INTO part VALUES (201, 0, 'two levels down');
RESET ROLE;
CREATE SCHEMA ddl_else CREATE TABLE part_3_1 PARTITION OF ddl.part_3 FOR VALUES FROM (250) TO (300);
INSERT INTO part VALUES (252, 1, 'in another schema');
CREATE TABLE part_4 (LIKE part_1 INCLUDING ALL);
SELECT * FROM followed();
SELECT * FROM triggered ORDER BY 1, 2;

-- ATTACH: of an empty table, of a full one, of a tree of its own with other columns in between.
ALTER TABLE part ATTACH PARTITION part_4 FOR VALUES FROM (300) TO (400);
INSERT INTO part VALUES (301, 1, 'attached empty');
SELECT * FROM followed();
CREATE TABLE part_5 (name text, gone integer, spare integer, kind integer, id integer NOT NULL);
ALTER TABLE part_5 DROP COLUMN gone;
INSERT INTO part_5 VALUES ('came along', NULL, 1, 401), ('came along', NULL, 0, 402);
BEGIN;
ALTER TABLE part ATTACH PARTITION part_5 FOR VALUES FROM (400) TO (500);
INSERT INTO part VALUES (403, 1, 'in the same transaction');
COMMIT;
SELECT * FROM followed();
UPDATE part SET name = name || '!' WHERE id > 400;
SELECT * FROM followed();
CREATE TABLE part_6 (spare integer, id integer NOT NULL, kind integer, name text) PARTITION BY RANGE (id);
CREATE TABLE part_6_0 PARTITION OF part_6 FOR VALUES FROM (500) TO (501);
CREATE TABLE part_6_rest PARTITION OF part_6 DEFAULT;
INSERT INTO part_6 VALUES (1, 500, 0, 'a tree'), (2, 501, 1, 'a tree');
ALTER TABLE part ATTACH PARTITION part_6 FOR VALUES FROM (500) TO (600);
SELECT * FROM followed();
UPDATE part SET kind = 1 - kind WHERE id IN (500, 501, 402);
SELECT * FROM followed();

-- DETACH: what goes on with the table is nobody's business then; all in one transaction; to another place in the tree.
ALTER TABLE part DETACH PARTITION part_5;
DELETE FROM part_5 WHERE id = 402;
INSERT INTO part_5 VALUES ('on its own', NULL, 1, 404);
SELECT count(*) FROM triggered WHERE "on" = 'part_5';
SELECT * FROM followed();
BEGIN;
ALTER TABLE part ATTACH PARTITION part_5 FOR VALUES FROM (400) TO (500);
ALTER TABLE part DETACH PARTITION part_6;
UPDATE part_6 SET name = 'gone';
DELETE FROM part WHERE id = 404;
COMMIT;
SELECT * FROM followed();
BEGIN;
ALTER TABLE part DETACH PARTITION part_5;
UPDATE part_5 SET name = 'taken back';
ROLLBACK;
SELECT * FROM followed();
-- One takes the place of another, and its name.
CREATE TABLE part_2_new (LIKE part_2 INCLUDING ALL);
INSERT INTO part_2_new SELECT id, kind, 'new ' || name FROM part_2;
BEGIN;
ALTER TABLE part DETACH PARTITION part_2;
ALTER TABLE part ATTACH PARTITION part_2_new FOR VALUES FROM (100) TO (200);
ALTER TABLE part_2 RENAME TO part_2_old;
ALTER TABLE part_2_new RENAME TO part_2;
COMMIT;
UPDATE part_2_old SET name = 'out of the way';
UPDATE part_2 SET name = name || '!' WHERE id = 101;
SELECT * FROM followed();
DROP TABLE part_2_old;
SELECT * FROM followed();
-- Who may not is refused, without a word of what would have become of it.
CREATE ROLE ddl_stranger;
GRANT USAGE ON SCHEMA ddl TO ddl_stranger;
SET ROLE ddl_stranger;
ALTER TABLE part DETACH PARTITION part_1 CONCURRENTLY;
RESET ROLE;
REVOKE USAGE ON SCHEMA ddl FROM ddl_stranger;
DROP ROLE ddl_stranger;
SELECT * FROM followed();
ALTER TABLE part DETACH PARTITION part_1 CONCURRENTLY;
INSERT INTO part_1 VALUES (50, 0, 'no part any more');
SELECT count(*) FROM triggered WHERE "on" = 'part_1';
SELECT * FROM followed();
INSERT INTO part VALUES (103, 1, 'elsewhere');
SELECT * FROM followed();
-- A session that has rows of the table in its hands cannot take its triggers; they do nothing then.
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT * FROM part_4 LOOP
        EXECUTE 'ALTER TABLE part DETACH PARTITION part_4';
    END LOOP;
END$$;
SELECT count(*) FROM triggered WHERE "on" = 'part_4';
SELECT max(position) AS upto FROM cqrs.outbox \gset
UPDATE part_4 SET name = 'changed outside';
SELECT count(*) FROM cqrs.outbox WHERE position > :upto;
SELECT * FROM followed();
SELECT cqrs.capture('kind'), cqrs.uncapture('kind');
SELECT count(*) FROM triggered WHERE "on" = 'part_4';

-- One that leaves where no event trigger fires is found by its triggers.
ALTER TABLE part ATTACH PARTITION part_4 FOR VALUES FROM (300) TO (400);
SELECT * FROM followed();
ALTER EVENT TRIGGER cqrs_follow_tables DISABLE;
ALTER TABLE part DETACH PARTITION part_4;
ALTER EVENT TRIGGER cqrs_follow_tables ENABLE ALWAYS;
SELECT cqrs.capture('kind'), cqrs.uncapture('kind');
SELECT * FROM followed();
SELECT count(*) FROM triggered WHERE "on" = 'part_4';

-- A partition goes: by itself, with its schema, with its owner's things, with what it depends on; or stays after all.
DROP TABLE part_5;
SELECT * FROM followed();
BEGIN;
DROP TABLE part_2;
ROLLBACK;
SELECT * FROM followed();
DROP SCHEMA ddl_else CASCADE;
SELECT * FROM followed();
CREATE ROLE ddl_other;
GRANT ALL ON SCHEMA ddl TO ddl_other;
ALTER TABLE part_3_0 OWNER TO ddl_other;
DROP OWNED BY ddl_other CASCADE;
SELECT * FROM followed();
DROP TABLE part_3;
SELECT * FROM followed();
SELECT * FROM triggered ORDER BY 1, 2;

-- Inheritance: a child is made, comes with children of its own, leaves.
CREATE TABLE animal (id integer, name text, spare text);
INSERT INTO animal VALUES (1, 'animal');
SELECT project('animals', 'SELECT id AS key, name FROM animal', '{key}');
SELECT cqrs.drain();
BEGIN;
CREATE TABLE bird (wings integer) INHERITS (animal);
INSERT INTO bird (id, name) VALUES (2, 'bird');
COMMIT;
SELECT * FROM followed() WHERE view = 'animals'::regclass;
CREATE TABLE fish (fins integer, name text, spare text, id integer);
CREATE TABLE shark () INHERITS (fish);
INSERT INTO fish VALUES (2, 'fish', NULL, 3);
INSERT INTO shark VALUES (5, 'shark', NULL, 4);
ALTER TABLE fish INHERIT animal;
UPDATE animal SET name = upper(name) WHERE id > 2;
SELECT * FROM followed() WHERE view = 'animals'::regclass;
UPDATE shark SET name = 'Shark';
SELECT * FROM followed() WHERE view = 'animals'::regclass;
TABLE animals ORDER BY 1;
ALTER TABLE fish NO INHERIT animal, INHERIT bird;
ALTER TABLE fish ADD COLUMN wings integer, INHERIT bird;
SELECT * FROM followed() WHERE view = 'animals'::regclass;
ALTER TABLE fish NO INHERIT animal;
UPDATE shark SET name = 'still an animal';
SELECT * FROM followed() WHERE view = 'animals'::regclass;
ALTER TABLE fish NO INHERIT bird;
UPDATE shark SET name = 'no animal';
SELECT * FROM followed() WHERE view = 'animals'::regclass;
DROP TABLE bird;
SELECT * FROM followed() WHERE view = 'animals'::regclass;
SELECT * FROM triggered WHERE "for" = 'animal'::regclass;

-- What cannot be captured joins a tree: the version fails, exact as it was, and heals once it has left.
CREATE TEMPORARY TABLE pet () INHERITS (animal);
SELECT cqrs.drain('animals');
DROP TABLE pet;
SELECT * FROM followed() WHERE view = 'animals'::regclass;
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE TABLE loose (id integer, name text) PARTITION BY RANGE (id);
CREATE TABLE loose_1 PARTITION OF loose FOR VALUES FROM (0) TO (100);
INSERT INTO loose VALUES (1, 'loose');
SELECT project('loosely', 'SELECT id AS key, name FROM loose', '{key}');
SELECT cqrs.drain('loosely');
CREATE FOREIGN TABLE far PARTITION OF loose FOR VALUES FROM (100) TO (200) SERVER nowhere;
UPDATE loose_1 SET name = 'meanwhile';
SELECT cqrs.drain('loosely');
TABLE loosely;
ALTER TABLE loose DETACH PARTITION far;
SELECT * FROM followed() WHERE view = 'loosely'::regclass;
ALTER TABLE loose ATTACH PARTITION far FOR VALUES FROM (100) TO (200);
ALTER FOREIGN TABLE far RENAME TO away;
DROP FOREIGN TABLE away;
SELECT * FROM followed() WHERE view = 'loosely'::regclass;
ALTER TABLE part_2 SET UNLOGGED;
UPDATE part SET name = 'unlogged' WHERE id = 100;
SELECT cqrs.drain('parts');
ALTER TABLE part_2 SET LOGGED;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
ALTER TABLE kind SET UNLOGGED;
SELECT cqrs.drain('parts');
ALTER TABLE kind SET LOGGED;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);

-- Triggers of ours are disabled, made others, dropped: changes go unseen, and are found all the same.
CREATE FUNCTION trigger_of(text, text DEFAULT '') RETURNS name LANGUAGE sql AS
$$ SELECT tgname FROM pg_trigger WHERE tgrelid = $1::regclass AND tgfoid = 'cqrs_internal.capture'::regproc AND tgname ~ ('_' || $2 || '\d+$') ORDER BY tgname LIMIT 1 $$;
SELECT trigger_of('part_2') AS rows, trigger_of('part_2', 'truncate_') AS truncates \gset
\set VERBOSITY terse
ALTER TABLE part_2 DISABLE TRIGGER ALL;
UPDATE part SET name = 'unseen 1' WHERE id = 100;
SELECT * FROM followed() WHERE view = 'parts'::regclass;
SELECT * FROM triggered WHERE "on" = 'part_2';
UPDATE part SET name = 'seen again' WHERE id = 100;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
ALTER TABLE part_2 DISABLE TRIGGER USER;
UPDATE part SET name = 'unseen 2' WHERE id = 100;
ALTER TABLE part_2 ENABLE TRIGGER USER;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
ALTER TABLE part_2 ENABLE REPLICA TRIGGER :rows;
UPDATE part SET name = 'unseen 3' WHERE id = 100;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
DROP TRIGGER :rows ON part_2;
UPDATE part SET name = 'unseen 4' WHERE id = 100;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
DROP TRIGGER :truncates ON part_2;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
SELECT * FROM triggered WHERE "on" = 'part_2';
-- Disabled and enabled again before anybody looks, in one transaction or several.
BEGIN;
ALTER TABLE part_2 DISABLE TRIGGER :rows;
UPDATE part SET name = 'unseen 5' WHERE id = 100;
ALTER TABLE part_2 ENABLE ALWAYS TRIGGER :rows;
COMMIT;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
ALTER TABLE kind DISABLE TRIGGER ALL;
UPDATE kind SET name = 'unseen';
DO $$
BEGIN
    EXECUTE format('ALTER TABLE kind ENABLE ALWAYS TRIGGER %I', trigger_of('kind'));
    EXECUTE format('ALTER TABLE kind ENABLE ALWAYS TRIGGER %I', trigger_of('kind', 'truncate_'));
END$$;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
-- Other triggers are no business of ours; nor are those that a source leaves behind.
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TRIGGER theirs AFTER INSERT ON part_2 FOR EACH ROW EXECUTE FUNCTION nothing();
ALTER TABLE part_2 DISABLE TRIGGER theirs;
DROP TRIGGER theirs ON part_2;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
-- Their names stay.
DO $$
BEGIN
    EXECUTE format('ALTER TRIGGER %I ON part_2 RENAME TO mine', trigger_of('part_2'));
EXCEPTION WHEN wrong_object_type THEN
    RAISE NOTICE '%', SQLERRM;
END$$;
-- What is taken back was nothing.
BEGIN;
ALTER TABLE part_2 DISABLE TRIGGER :rows;
ROLLBACK;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);

-- Columns come, go, and are renamed, in the root and so in its leaves, between changes of one window.
UPDATE part SET name = 'before' WHERE id = 101;
ALTER TABLE part ADD COLUMN added integer DEFAULT 7, ADD COLUMN more text NOT NULL DEFAULT 'more';
UPDATE part SET name = 'between' WHERE id IN (101, 102);
ALTER TABLE part DROP COLUMN spare;
INSERT INTO part (id, kind, name, added, more) VALUES (104, 0, 'without spare', 1, 'm');
ALTER TABLE part ALTER COLUMN added TYPE text USING 'x' || added;
DELETE FROM part WHERE id = 104;
INSERT INTO part VALUES (105, 1, 'other types', 'y', 'm');
ALTER TABLE part RENAME COLUMN name TO title;
UPDATE part SET title = title || '?';
ALTER TABLE part RENAME TO item;
ALTER TABLE item SET SCHEMA public;
UPDATE public.item SET title = title || '!' WHERE id <> 100;
ALTER TABLE part_2 RENAME TO item_2;
CREATE SCHEMA ddl_else CREATE TABLE item_7 PARTITION OF public.item FOR VALUES FROM (700) TO (800);
ALTER TABLE item_2 SET SCHEMA ddl_else;
INSERT INTO public.item VALUES (700, 1, 'new home', 'z', 'm'), (106, 1, 'old home', 'z', 'm');
ALTER TABLE public.item SET SCHEMA ddl;
ALTER TABLE item RENAME COLUMN title TO name;
ALTER TABLE item RENAME TO part;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
-- With rows that were written by other layouts.
SELECT project('added', 'SELECT id AS key, added, more FROM part', NULL);
SELECT cqrs.drain();
UPDATE part SET added = added || '+' WHERE id IN (100, 106);
UPDATE kind SET name = 'odd' WHERE id = 1;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
-- What is read stays, by the server's own rules.
ALTER TABLE part DROP COLUMN name;
ALTER TABLE part ALTER COLUMN name TYPE varchar;
ALTER TABLE part ALTER COLUMN id TYPE bigint;
DROP TABLE part;
DROP TABLE animal;
-- What reads whole rows reads the names and types of columns, too: by itself, through a view, and where the column is of the root.
CREATE TABLE mood_of (id integer PRIMARY KEY, amount numeric(10, 2), note text, spare integer) PARTITION BY RANGE (id);
CREATE TABLE mood_of_1 (spare integer, note text, gone integer, amount numeric(10, 2), id integer NOT NULL);
ALTER TABLE mood_of_1 DROP COLUMN gone;
ALTER TABLE mood_of ATTACH PARTITION mood_of_1 FOR VALUES FROM (0) TO (100);
INSERT INTO mood_of VALUES (1, 1.25, 'one', 1), (2, 2.75, 'two', 2);
CREATE VIEW noted AS SELECT m.id, m::text AS whole FROM mood_of_1 m;
SELECT project('moods', 'SELECT m.id AS key, row_to_json(m)::text AS doc FROM mood_of m', NULL);
SELECT project('notes', 'SELECT n.id AS key, n.whole FROM noted n', '{key}');
SELECT project('plain', 'SELECT id AS key, amount FROM mood_of WHERE id < 100', NULL);
SELECT cqrs.drain();
CREATE FUNCTION rows_followed() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', f.view, f.how, f.wrong, f.verified) FROM followed() AS f WHERE f.view::text IN ('moods', 'notes', 'plain')$$;
ALTER TABLE mood_of ALTER COLUMN note TYPE char(4);
SELECT rows_followed();
ALTER TABLE mood_of RENAME COLUMN note TO said;
SELECT rows_followed();
ALTER TABLE mood_of DROP COLUMN spare;
SELECT rows_followed();
ALTER TABLE mood_of ADD COLUMN added integer DEFAULT 7;
SELECT rows_followed();
UPDATE mood_of SET added = 8 WHERE id = 1;
SELECT rows_followed();
SELECT cqrs.drop_projection(view) FROM watched WHERE view::text IN ('moods', 'notes', 'plain');
DELETE FROM watched WHERE view::text NOT IN (SELECT view::text FROM cqrs_internal.projection);
-- A type's labels and attributes are part of what values look like, also in arrays, domains and rows of it.
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN feeling AS mood;
CREATE TYPE state AS (felt mood, since integer);
CREATE TABLE felt (id integer PRIMARY KEY, one mood, many mood[], own feeling, whole state, note text);
INSERT INTO felt VALUES (1, 'sad', '{sad,glad}', 'sad', '(sad,1)', 'sad');
SELECT project('one', 'SELECT id AS key, one::text FROM felt', NULL);
SELECT project('many', 'SELECT id AS key, many::text FROM felt', NULL);
SELECT project('own', 'SELECT id AS key, own::text FROM felt', NULL);
SELECT project('stated', 'SELECT id AS key, row_to_json(whole)::text AS doc FROM felt', NULL);
SELECT cqrs.drain();
CREATE FUNCTION felt_followed() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', f.view, f.how, f.wrong, f.verified) FROM followed() AS f WHERE f.view::text IN ('one', 'many', 'own', 'stated')$$;
ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';
SELECT felt_followed();
ALTER TYPE state RENAME ATTRIBUTE since TO from_day;
SELECT felt_followed();
ALTER TYPE state ADD ATTRIBUTE upto integer;
SELECT felt_followed();
-- Not so a label that is new, an owner and a name.
ALTER TYPE mood ADD VALUE 'calm';
ALTER TYPE mood OWNER TO CURRENT_USER;
ALTER TYPE mood RENAME TO humour;
SELECT felt_followed();
-- Functions count also where an operator, an aggregate or another function stands between them and the query.
CREATE FUNCTION plus(integer, integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
CREATE FUNCTION twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT plus($1, $1); END;
CREATE OPERATOR <+> (FUNCTION = plus, LEFTARG = integer, RIGHTARG = integer);
CREATE AGGREGATE adding (integer) (SFUNC = plus, STYPE = integer, INITCOND = '0');
SELECT project('operated', 'SELECT id AS key, id <+> 1 AS n FROM felt', NULL);
SELECT project('doubled', 'SELECT id AS key, twice(id) AS n FROM felt', NULL);
SELECT project('added_up', 'SELECT id AS key, adding(id) AS n FROM felt GROUP BY id', '{key}');
SELECT cqrs.drain();
CREATE OR REPLACE FUNCTION plus(integer, integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2 + 1000';
SELECT f.view, f.how, f.wrong, f.verified FROM followed() AS f WHERE f.view::text IN ('operated', 'doubled', 'added_up');
-- Also in sessions in which ordinary triggers rest.
SET session_replication_role = replica;
CREATE OR REPLACE FUNCTION plus(integer, integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2 + 2000';
ALTER TYPE humour RENAME VALUE 'blue' TO 'sad';
RESET session_replication_role;
SELECT f.view, f.how, f.wrong, f.verified FROM followed() AS f WHERE f.view::text IN ('one', 'many', 'operated', 'doubled', 'added_up');
SELECT cqrs.drop_projection(view) FROM watched WHERE view::text IN ('one', 'many', 'own', 'stated', 'operated', 'doubled', 'added_up');
DELETE FROM watched WHERE view::text NOT IN (SELECT view::text FROM cqrs_internal.projection);
-- Row security counts where it applies to the owner of the projection, and another owner of the table changes nothing.
ALTER TABLE part ENABLE ROW LEVEL SECURITY;
ALTER TABLE part_4 OWNER TO ddl_owner;
UPDATE part SET name = 'secured' WHERE id = 105;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);
ALTER TABLE part DISABLE ROW LEVEL SECURITY;
-- In sessions that apply what replication brings.
SET session_replication_role = replica;
CREATE TABLE part_8 PARTITION OF part FOR VALUES FROM (800) TO (900);
INSERT INTO part VALUES (800, 1, 'replicated', 'z', 'm');
RESET session_replication_role;
SELECT * FROM followed() WHERE view NOT IN ('animals'::regclass, 'loosely'::regclass);

\set VERBOSITY default
-- Of what is captured for others only, the outbox tells.
CREATE TABLE looked AS SELECT max(position) AS upto FROM cqrs.outbox;
CREATE TABLE log (id integer) PARTITION BY RANGE (id);
CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (1) TO (10);
SELECT cqrs.capture('log');
INSERT INTO log VALUES (1);
ALTER TABLE log DETACH PARTITION log_1;
SELECT o.kind, o.source, o.old_row, o.new_row FROM cqrs.outbox AS o, looked WHERE o.position > upto ORDER BY o.position;
\set VERBOSITY terse
CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM (10) TO (20);
ALTER TABLE log_2 DISABLE TRIGGER ALL;
SELECT cqrs.capture('log');
SELECT cqrs.capture('log');
INSERT INTO log VALUES (10);
SELECT o.kind, o.new_row FROM cqrs.outbox AS o, looked WHERE o.position > upto ORDER BY o.position;
-- With CASCADE the definition goes, and the version halts.
DROP TABLE part CASCADE;
SELECT cqrs.drain('parts');
SET client_min_messages = warning;
SELECT cqrs.drop_projection(view) FROM watched;
DROP SCHEMA ddl, ddl_else CASCADE;
DROP FOREIGN DATA WRAPPER nothing CASCADE;
DROP OWNED BY ddl_owner, ddl_other;
DROP ROLE ddl_owner, ddl_other;
