-- A query that begins to fail for some row: the error names the key, whichever way the read model was being computed, and the read model stays as it was; once the
-- data is mended it goes on by itself.  If this fails, somebody looks for one bad row among millions.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
CREATE SCHEMA failing_test;
SET search_path = failing_test, public;
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on

CREATE TABLE sale (id integer PRIMARY KEY, shop text, amount integer NOT NULL, pieces text NOT NULL);
CREATE TABLE shop (name text PRIMARY KEY, area integer NOT NULL);
INSERT INTO shop SELECT 's' || g, 1 + g FROM generate_series(0, 9) g;
INSERT INTO sale SELECT g, 's' || g % 10, g, 1 + g % 3 FROM generate_series(1, 1000) g;

-- One level; groups, one of them of a null; several levels; set operations; a key of two columns; a row without a key; full, and where the key cannot be told.
SELECT cqrs.create_projection('flat', 'SELECT id, amount / pieces::integer AS each FROM sale');
SELECT cqrs.create_projection('grouped', 'SELECT shop, max(amount / pieces::integer) AS most FROM sale GROUP BY shop');
SELECT cqrs.create_projection('nested', 'SELECT h.name, (SELECT max(s.amount / s.pieces::integer) FROM sale s WHERE s.shop = h.name) / h.area AS most FROM shop h');
SELECT cqrs.create_projection('united', 'SELECT id, 10 / pieces::integer AS each FROM sale UNION ALL SELECT -area, 1 / area FROM shop', '{id}');
SELECT cqrs.create_projection('paired', 'SELECT s.shop, s.pieces, max(h.area) / max(s.pieces::integer) AS n FROM sale s LEFT JOIN shop h ON h.name = s.shop GROUP BY s.shop, s.pieces');
SELECT cqrs.create_projection('alone', 'SELECT sum(amount / pieces::integer) AS total FROM sale', '{}');
SELECT cqrs.create_projection('latest', 'SELECT id, amount / pieces::integer AS each FROM sale ORDER BY id DESC LIMIT 500');
SELECT cqrs.create_projection('checked', 'SELECT id, shop FROM sale WHERE amount / pieces::integer >= 0');
SELECT cqrs.create_projection('named', 'SELECT pieces::integer AS pieces, count(*) AS n FROM sale GROUP BY 1');
SELECT cqrs.drain();

-- What draining each read model raises; and whether it is as it was.
CREATE FUNCTION raised() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    model regclass; state text; message text; detail text;
BEGIN
    FOR model IN SELECT projection FROM cqrs.projections ORDER BY projection::text LOOP
        BEGIN
            PERFORM cqrs.drain(model);
            RETURN NEXT model || ': applied';
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
            RETURN NEXT concat_ws(' ', model || ':', state, message || '.', detail);
        END;
    END LOOP;
END$$;
SELECT * FROM raised();

UPDATE sale SET pieces = '0' WHERE id = 777;
UPDATE sale SET amount = amount + 1 WHERE id > 500;
SELECT * FROM raised();
SELECT each FROM flat WHERE id = 777;
UPDATE sale SET pieces = 'two', shop = NULL WHERE id = 777;
SELECT * FROM raised();
UPDATE sale SET pieces = '2' WHERE id = 777;
SELECT * FROM raised();
SELECT each FROM flat WHERE id = 777;
SELECT count(*) AS differences FROM cqrs.projections p, cqrs.verify(p.projection) v;

-- One changed row only; and an error of a function of the user's.
UPDATE sale SET pieces = '0' WHERE id = 5;
SELECT * FROM raised();
-- A full evaluation of what is maintained by keys.
TRUNCATE shop;
SELECT * FROM raised();
UPDATE sale SET pieces = '1' WHERE id = 5;
SELECT * FROM raised();
CREATE FUNCTION strict_name(name text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN
    IF name = 's3' THEN RAISE 'we do not speak of %', name USING DETAIL = 'It was closed.'; END IF;
    RETURN upper(name);
END$$;

-- The fill.
SELECT cqrs.create_projection('spoken', 'SELECT name, strict_name(name) AS shown FROM shop');
SELECT cqrs.create_projection('doubled', 'SELECT shop, id FROM sale', '{shop}');
SELECT cqrs.create_projection('single', 'SELECT name, area FROM shop', '{}');
INSERT INTO shop SELECT 's' || g, 1 + g FROM generate_series(0, 9) g;
SELECT * FROM raised() AS line WHERE line ~ '^(spoken|doubled|single)';
SELECT cqrs.drop_projection('doubled'), cqrs.drop_projection('single');
DELETE FROM shop WHERE name = 's3';
SELECT * FROM raised() AS line WHERE line ~ '^spoken';

-- A key that stops being unique: by keys, and in a full evaluation.
CREATE TABLE person (name text, city text);
INSERT INTO person VALUES ('ann', 'Rome'), ('bob', 'Oslo'), (NULL, 'Bonn');
SELECT cqrs.create_projection('people', 'SELECT name, city FROM person', '{name}');
SELECT cqrs.create_projection('first_people', 'SELECT name, city FROM person ORDER BY city, name LIMIT 10', '{name}');
SELECT cqrs.create_projection('the_person', 'SELECT name, city FROM person WHERE city = ''Rome''', '{}');
SELECT cqrs.drain();
INSERT INTO person VALUES ('ann', 'Rome'), ('cid', 'Pisa');
SELECT * FROM raised() AS line WHERE line ~ 'pe(ople|rson)';
DELETE FROM person WHERE name = 'ann';
INSERT INTO person VALUES (NULL, 'Rome');
SELECT * FROM raised() AS line WHERE line ~ 'pe(ople|rson)';
DELETE FROM person WHERE name IS NULL;
SELECT * FROM raised() AS line WHERE line ~ 'pe(ople|rson)';
SELECT count(*) AS differences FROM cqrs.projections p, cqrs.verify(p.projection) v;

-- A unique index that somebody has made on the table: two rows that swap their values violate it half way.  The error names it, nothing is applied in part, and without it all is.
CREATE TABLE seat (id integer PRIMARY KEY DEFERRABLE, guest text);
INSERT INTO seat VALUES (1, 'ann'), (2, 'bob');
SELECT cqrs.create_projection('seats', 'SELECT id, guest FROM seat', '{id}');
SELECT cqrs.create_projection('guests', 'SELECT guest, id AS seat FROM seat', '{guest}');
SELECT cqrs.drain('seats'), cqrs.drain('guests');
SELECT v.schema FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection WHERE p.view = 'seats'::regclass \gset
CREATE UNIQUE INDEX once ON :schema.seats (guest);
UPDATE seat SET guest = CASE guest WHEN 'ann' THEN 'bob' ELSE 'ann' END;
INSERT INTO seat VALUES (3, 'carl');
\set VERBOSITY terse
SELECT cqrs.drain('seats');
\set VERBOSITY default
TABLE seats ORDER BY id;
DROP INDEX :schema.once;
SELECT cqrs.drain('seats');
TABLE seats ORDER BY id;
-- The index on the key bears that.
SELECT cqrs.drain('guests');
TABLE guests ORDER BY guest;
UPDATE seat SET id = 4 - id;
SELECT cqrs.drain('seats'), cqrs.drain('guests');
SELECT count(*) AS differences FROM cqrs.projections p, cqrs.verify(p.projection) v;

SELECT count(cqrs.drop_projection(projection)) FROM cqrs.projections;
RESET search_path;
DROP SCHEMA failing_test CASCADE;
