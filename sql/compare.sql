-- Versions held against each other, and what hides rows of any of them.  If this fails, two versions that answer differently are called equal, or lag is called a
-- difference, or a switch shows readers rows that they were not to see, or rows of the version that went.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
\set SHOW_CONTEXT never
CREATE SCHEMA compare_test;
SET search_path = compare_test;

-- Drift is made as a superuser would by mistake: with the table's guard off.
CREATE PROCEDURE drift(number integer, change text) LANGUAGE plpgsql AS $$
DECLARE
	target regclass := (SELECT v."table" FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection
						WHERE p.view = 'pages'::regclass AND v.number = drift.number);
BEGIN
	SET LOCAL session_replication_role = replica;
	EXECUTE replace(change, '%T', target::text);
	SET LOCAL session_replication_role = origin;
END $$;
CREATE TABLE item (id integer PRIMARY KEY, seller name NOT NULL, price numeric, weight float8);
CREATE TABLE note (id integer PRIMARY KEY, item integer, body text);
CREATE INDEX ON note (item);
INSERT INTO item SELECT i, CASE WHEN i % 2 = 0 THEN 'regress_cqrs_even' ELSE 'regress_cqrs_odd' END, i, i / 3.0 FROM generate_series(1, 20) AS i;
INSERT INTO note SELECT i, i % 15, 'n' || i FROM generate_series(1, 30) AS i;
CREATE ROLE regress_cqrs_even;
CREATE ROLE regress_cqrs_odd;
SELECT cqrs.create_projection('pages', 'SELECT id, seller, price, weight FROM item', row_filter => 'seller = current_user');
SELECT cqrs.drain('pages');
RESET client_min_messages;
GRANT USAGE ON SCHEMA compare_test TO regress_cqrs_even, regress_cqrs_odd;
GRANT SELECT ON pages TO regress_cqrs_even, regress_cqrs_odd;

-- One version has nothing to be compared with; one that is being built cannot be.
SELECT * FROM cqrs.compare('pages', 1);
SELECT cqrs.create_version('pages', $$SELECT i.id, i.seller, CASE WHEN i.id = 7 THEN 0 ELSE i.price END AS price, i.weight * (1 + 1e-12) AS weight,
	(SELECT count(*) FROM note n WHERE n.item = i.id) AS notes FROM item i WHERE i.id <> 9$$);
SELECT * FROM cqrs.compare('pages', 2);
SELECT * FROM cqrs.compare('pages', 1, 2);
SELECT * FROM cqrs.verify('pages', version => 2);
SELECT cqrs.drain('pages');
SELECT version, state FROM cqrs.versions WHERE projection = 'pages'::regclass ORDER BY 1;

-- By key and in the columns that both have; floats within their tolerance; what is pending is applied to both first, the filter does not count.
UPDATE item SET price = price + 1;
INSERT INTO item VALUES (100, 'nobody', 1, 1);
SELECT * FROM cqrs.compare('pages', 2);
SELECT * FROM cqrs.compare('pages', 1, 2);
SELECT count(DISTINCT snapshot::text) AS snapshots FROM cqrs.checkpoints WHERE projection = 'pages'::regclass;
-- Drift of one of them is a difference; each is verified by itself, and repair mends both.
CALL drift(1, 'UPDATE %T SET price = -1 WHERE id = 2');
CALL drift(2, 'DELETE FROM %T WHERE id = 3');
SELECT key, difference FROM cqrs.compare('pages', 2, 1);
SELECT key, difference FROM cqrs.verify('pages', version => 2);
SELECT key, difference FROM cqrs.verify('pages', 0.9999999, 1);
SELECT version, drifted FROM cqrs.lag WHERE projection = 'pages'::regclass ORDER BY 1;
SELECT cqrs.repair('pages', 'both');
SELECT version, event, changes, reason FROM cqrs.history WHERE event = 'repaired' AND reason = 'both' ORDER BY 1;
SELECT key, difference FROM cqrs.compare('pages', 2, 1);
SELECT version, drifted FROM cqrs.lag WHERE projection = 'pages'::regclass ORDER BY 1;

-- A switch keeps the filter, whichever version is shown, and back.
SELECT cqrs.switch('pages');
SET ROLE regress_cqrs_odd;
SELECT id, notes FROM pages ORDER BY id LIMIT 3;
SELECT count(*), count(DISTINCT seller) FROM pages;
RESET ROLE;
SELECT reloptions FROM pg_class WHERE oid = 'pages'::regclass;
SELECT cqrs.alter_projection('pages', row_filter => 'seller = current_user AND notes > 1');
SET ROLE regress_cqrs_odd;
SELECT count(*), min(notes) FROM pages;
RESET ROLE;
-- A version that lacks a column of the filter's cannot be shown; the one that is stays as it is.
SELECT cqrs.switch_back('pages');
SET ROLE regress_cqrs_odd;
SELECT count(*), min(notes) FROM pages;
RESET ROLE;
SELECT cqrs.alter_projection('pages', row_filter => 'seller = current_user AND price > 5');
SELECT cqrs.switch_back('pages');
SET ROLE regress_cqrs_even;
SELECT min(price), count(DISTINCT seller) FROM pages;
RESET ROLE;

-- Different keys and types; retired versions.
SET client_min_messages = warning;
SELECT cqrs.create_version('pages', 'SELECT seller, count(*) AS items FROM item GROUP BY seller', key => '{seller}');
SELECT cqrs.drain('pages');
SELECT cqrs.create_version('pages', 'SELECT id::bigint AS id, seller, price FROM item', key => '{id}');
SELECT cqrs.drain('pages');
SELECT cqrs.create_version('pages', 'SELECT id, seller, price::text AS price FROM item', key => '{id}');
SELECT cqrs.drain('pages');
RESET client_min_messages;
SELECT * FROM cqrs.compare('pages', 3);
SELECT * FROM cqrs.compare('pages', 4);
SELECT * FROM cqrs.compare('pages', 5);
SELECT cqrs.retire('pages', 5);
SELECT * FROM cqrs.compare('pages', 5);
SELECT * FROM cqrs.compare('pages', 1, 5);
SELECT * FROM cqrs.compare('pages', 1, 1);
SELECT * FROM cqrs.compare('pages', 7);
SELECT * FROM cqrs.compare('pages', NULL);
SELECT * FROM cqrs.compare(NULL, 1);
SET ROLE regress_cqrs_even;
SELECT * FROM cqrs.compare('pages', 2);
RESET ROLE;
SELECT cqrs.pause('pages');
SELECT * FROM cqrs.compare('pages', 2);
SELECT cqrs.resume('pages');
-- One whose query fails says so; nothing is compared with what it was.
SET client_min_messages = warning;
SELECT cqrs.create_version('pages', 'SELECT id, seller, 1 / (price - 1000) AS price FROM item', key => '{id}');
SELECT cqrs.drain('pages');
RESET client_min_messages;
INSERT INTO item VALUES (1000, 'nobody', 1000, 1);
SELECT * FROM cqrs.compare('pages', 6);
SELECT * FROM cqrs.compare('pages', 2);

SELECT count(cqrs.drop_projection('pages'));
SET client_min_messages = warning;
DROP SCHEMA compare_test CASCADE;
DROP ROLE regress_cqrs_even, regress_cqrs_odd;
