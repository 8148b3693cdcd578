-- The oracle itself.  If this fails, a read model that has drifted from its query is called equal, or an equal one is said to differ, and every other
-- test's verdict means nothing.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA verify_test;
SET search_path = verify_test;

-- Drift is made as a superuser would by mistake: with the table's guard off.
CREATE PROCEDURE drift(projection regclass, change text) LANGUAGE plpgsql AS $$
DECLARE
	target regclass := (SELECT v."table" FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection
						WHERE p.view = drift.projection);
BEGIN
	SET LOCAL session_replication_role = replica;
	EXECUTE replace(change, '%T', target::text);
	SET LOCAL session_replication_role = origin;
END $$;

-- All that is pending is applied before the comparison; the table is then the query's answer.
CREATE TABLE item (id integer PRIMARY KEY, grp text, price numeric, weight float8, size float4, tags text[], doc jsonb);
INSERT INTO item SELECT i, CASE WHEN i % 5 > 0 THEN 'g' || i % 5 END, i * 1.10, i / 7.0, i / 3.0, ARRAY['t' || i], jsonb_build_object('i', i)
FROM generate_series(1, 100) AS i;
SELECT cqrs.create_projection('items', 'SELECT id, grp, price, weight, size, tags, doc FROM item', ARRAY['id']);
SELECT cqrs.create_projection('groups', 'SELECT grp, count(*) AS n, sum(price) AS total FROM item GROUP BY grp');
SELECT cqrs.create_projection('whole', 'SELECT count(*) AS n, max(id) AS newest FROM item', '{}');
SELECT cqrs.drain('items'), cqrs.drain('groups'), cqrs.drain('whole');
SELECT * FROM cqrs.verify('items');
SELECT * FROM cqrs.verify('groups');
SELECT * FROM cqrs.verify('whole');
DELETE FROM item WHERE id > 90;
UPDATE item SET grp = NULL WHERE id = 1;
SELECT * FROM cqrs.verify('items');
SELECT * FROM cqrs.verify('groups', 1.0);
SELECT * FROM cqrs.verify('whole', version => 1);
SELECT (SELECT count(*) FROM items) AS items, (SELECT n FROM groups WHERE grp IS NULL) AS nulls, (SELECT n FROM whole) AS whole;

-- Each kind of difference, by its key; a null key is a key.
CALL drift('groups', 'DELETE FROM %T WHERE grp = ''g1''');
CALL drift('groups', 'UPDATE %T SET n = n + 1 WHERE grp IS NULL');
CALL drift('groups', 'INSERT INTO %T VALUES (''nobody'', 1, 1)');
SELECT * FROM cqrs.verify('groups');
CALL drift('whole', 'DELETE FROM %T');
SELECT * FROM cqrs.verify('whole');

-- Floats may differ in their last digits, by column type and not further; a numeric's scale, an array's float and a null are no float's last digits.
CALL drift('items', 'UPDATE %T SET weight = weight * (1 + 1e-10), size = (size * (1 + 1e-6))::float4');
SELECT * FROM cqrs.verify('items');
CALL drift('items', 'UPDATE %T SET weight = weight * (1 + 1e-8) WHERE id = 10');
CALL drift('items', 'UPDATE %T SET size = (size * (1 + 1e-4))::float4 WHERE id = 11');
CALL drift('items', 'UPDATE %T SET weight = NULL WHERE id = 12');
CALL drift('items', 'UPDATE %T SET weight = ''NaN'' WHERE id = 13');
CALL drift('items', 'UPDATE %T SET price = price::numeric(10, 5) WHERE id = 14');
CALL drift('items', 'UPDATE %T SET doc = doc || ''{"more": null}'' WHERE id = 15');
CALL drift('items', 'UPDATE %T SET tags = tags || NULL::text WHERE id = 16');
CALL drift('items', 'UPDATE %T SET id = 1000 WHERE id = 17');
SELECT key, difference FROM cqrs.verify('items');
SELECT expected -> 'price' AS expected, found -> 'price' AS found FROM cqrs.verify('items') WHERE key = '{"id": 14}';

-- Floats that are no numbers; zero is zero.
CREATE TABLE odd (id integer PRIMARY KEY, x float8, y float4);
INSERT INTO odd VALUES (1, 'NaN', 'NaN'), (2, 'Infinity', '-Infinity'), (3, 0, 0), (4, 1e300, 1), (5, 0, 1);
SELECT cqrs.create_projection('odds', 'SELECT id, x, y FROM odd', ARRAY['id']);
SELECT cqrs.drain('odds');
CALL drift('odds', 'UPDATE %T SET x = ''-0'', y = ''-0'' WHERE id = 3');
SELECT * FROM cqrs.verify('odds');
CALL drift('odds', 'UPDATE %T SET x = ''Infinity'' WHERE id = 4');
CALL drift('odds', 'UPDATE %T SET x = 1e-300 WHERE id = 5');
SELECT key, difference FROM cqrs.verify('odds');

-- A key of several columns, in its own order; and collations that are not the database's, or for which different texts are equal.
CREATE COLLATION either_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE word (lang text COLLATE "C", word text COLLATE either_case, n integer, PRIMARY KEY (lang, word));
INSERT INTO word VALUES ('b', 'Zoo', 1), ('a', 'ant', 2), ('B', 'zoo', 3), ('a', 'Bee', 4);
SELECT cqrs.create_projection('words', 'SELECT n, word, lang FROM word', ARRAY['word', 'lang']);
SELECT cqrs.drain('words');
SELECT * FROM cqrs.verify('words');
CALL drift('words', 'UPDATE %T SET n = 0');
CALL drift('words', 'UPDATE %T SET word = ''ANT'' WHERE word = ''ant''');
SELECT * FROM cqrs.verify('words');

-- Values stored out of line are equal to those that are not.
CREATE TABLE long (id integer PRIMARY KEY, body text);
ALTER TABLE long ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO long VALUES (1, repeat('abc', 10000)), (2, 'short');
SELECT cqrs.create_projection('longs', 'SELECT id, body || id AS body FROM long', ARRAY['id']);
SELECT cqrs.drain('longs');
SELECT * FROM cqrs.verify('longs');

-- A composite value stored before its type got another attribute reads as one with a null there.
CREATE TYPE pair AS (a integer, b text);
CREATE TABLE paired (id integer PRIMARY KEY, p pair, ps pair[]);
INSERT INTO paired SELECT i, (i, 'x')::pair, ARRAY[(i, 'y')::pair, NULL] FROM generate_series(1, 3) AS i;
SELECT cqrs.create_projection('pairs', 'SELECT id, p, ps FROM paired', ARRAY['id']);
SELECT cqrs.drain('pairs');
ALTER TYPE pair ADD ATTRIBUTE c integer;
CALL drift('pairs', 'UPDATE %T SET p = (id, ''x'', NULL)::pair WHERE id < 3');
SELECT * FROM cqrs.verify('pairs');
CALL drift('pairs', 'UPDATE %T SET p.c = 4 WHERE id = 1');
CALL drift('pairs', 'UPDATE %T SET ps[1].b = ''z'' WHERE id = 2');
SELECT key, difference FROM cqrs.verify('pairs');

-- It runs under the settings of the projection's creator, whoever calls in whatever time zone.
CREATE TABLE happening (id integer PRIMARY KEY, at timestamptz);
INSERT INTO happening VALUES (1, '2024-01-01 12:00+00');
SET TimeZone = 'America/New_York';
SET DateStyle = 'German';
SELECT cqrs.create_projection('happenings', 'SELECT id, at::text AS shown, to_jsonb(at) AS doc FROM happening', ARRAY['id']);
RESET TimeZone;
RESET DateStyle;
SELECT cqrs.drain('happenings');
SELECT shown FROM happenings;
SELECT * FROM cqrs.verify('happenings');

-- An error of the query is the query's own, also here.
CREATE TABLE share (id integer PRIMARY KEY, part integer);
INSERT INTO share VALUES (1, 2);
SELECT cqrs.create_projection('shares', 'SELECT id, 10 / part AS share FROM share', ARRAY['id']);
SELECT cqrs.drain('shares');
INSERT INTO share VALUES (2, 0);
SELECT * FROM cqrs.verify('shares');
DELETE FROM share WHERE part = 0;
SELECT * FROM cqrs.verify('shares');

-- Bad input.
SELECT * FROM cqrs.verify('items', NULL);
SELECT * FROM cqrs.verify(NULL);
SELECT * FROM cqrs.verify('items', version => 2);
SELECT * FROM cqrs.verify('item');
SELECT * FROM cqrs.verify('no_such_view');
SELECT cqrs.create_projection('unbuilt', 'SELECT id FROM item', ARRAY['id']);
SELECT * FROM cqrs.verify('unbuilt');
SELECT cqrs.pause('odds');
SELECT * FROM cqrs.verify('odds');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM cqrs.verify('items');
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM cqrs.verify('items');
ROLLBACK;
BEGIN;
INSERT INTO item (id) VALUES (500);
SELECT * FROM cqrs.verify('items');
ROLLBACK;
CREATE ROLE regress_cqrs_verify;
GRANT USAGE ON SCHEMA verify_test TO regress_cqrs_verify;
SET ROLE regress_cqrs_verify;
SELECT * FROM cqrs.verify('items');
RESET ROLE;

SELECT count(cqrs.drop_projection(projection)) FROM cqrs.projections
WHERE projection IN (SELECT oid FROM pg_class WHERE relnamespace = 'verify_test'::regnamespace);
SET client_min_messages = warning;
DROP SCHEMA verify_test CASCADE;
DROP ROLE regress_cqrs_verify;
