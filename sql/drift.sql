-- Drift: found in a sample, mended, and told.  If this fails, verify by sample calls drift what is none or cannot find what is there, or repair leaves a
-- difference, touches rows that had none, or does not say who mended what, and why.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA drift_test;
SET search_path = drift_test;

-- Drift is made as a superuser would by mistake: with the table's guard off.
CREATE PROCEDURE drift(projection regclass, change text) LANGUAGE plpgsql AS $$
DECLARE
	target regclass := (SELECT v."table" FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection
						WHERE p.view = drift.projection ORDER BY v.number DESC LIMIT 1);
BEGIN
	SET LOCAL session_replication_role = replica;
	EXECUTE replace(change, '%T', target::text);
	SET LOCAL session_replication_role = origin;
END $$;

-- Read models of every kind of key and strategy: one level and more, keys of several columns and with nulls, a full evaluation, one row.
CREATE TABLE item (id integer PRIMARY KEY, grp text, sub integer, price numeric, weight float8);
INSERT INTO item SELECT i, CASE WHEN i % 7 > 0 THEN 'g' || i % 50 END, i % 11, i * 1.10, i / 7.0 FROM generate_series(1, 2000) AS i;
CREATE TABLE note (item integer, body text);
INSERT INTO note SELECT i % 900, 'n' || i FROM generate_series(1, 1500) AS i;
CREATE INDEX ON note (item);
ANALYZE item, note;
SET client_min_messages = warning;
SELECT cqrs.create_projection('items', 'SELECT id, grp, price, weight FROM item WHERE sub > 0');
SELECT cqrs.create_projection('pages', $$SELECT i.id, i.price, coalesce(n.notes, 0) AS notes, (SELECT max(o.body) FROM note o WHERE o.item = i.id) AS last
	FROM item i LEFT JOIN (SELECT item, count(*) AS notes FROM note GROUP BY item) n ON n.item = i.id$$, '{id}');
SELECT cqrs.create_projection('groups', 'SELECT grp, sub, count(*) AS n, sum(price) AS price FROM item GROUP BY grp, sub');
SELECT cqrs.create_projection('cheapest', 'SELECT id, price FROM item ORDER BY price LIMIT 100', '{id}');
SELECT cqrs.create_projection('whole', 'SELECT count(*) AS n, max(id) AS newest FROM item', '{}');
RESET client_min_messages;
SELECT count(cqrs.drain(projection)) FROM cqrs.projections WHERE projection IN (SELECT oid FROM pg_class WHERE relnamespace = 'drift_test'::regnamespace);

-- A sample of what is equal finds nothing, whatever is pending.
CREATE VIEW mine AS SELECT projection FROM cqrs.projections WHERE projection IN (SELECT oid FROM pg_class WHERE relnamespace = 'drift_test'::regnamespace);
UPDATE item SET price = price + 1, grp = NULL WHERE id % 10 = 0;
DELETE FROM note WHERE item < 100;
INSERT INTO item VALUES (3000, 'g1', 2, 1, 1);
SELECT projection, v.* FROM mine, cqrs.verify(projection, 0.3) v;
SELECT projection, v.* FROM mine, cqrs.verify(projection, 1e-9) v WHERE projection <> 'whole'::regclass;
SELECT projection, v.* FROM mine, cqrs.verify(projection) v;

-- Of what differs everywhere it finds about its share: 2000 keys, of which 200 are expected and fewer than 100 or more than 300 would not be in a lifetime.
CALL drift('pages', 'UPDATE %T SET notes = notes + 1');
SELECT count(*) BETWEEN 100 AND 300 AS about_a_tenth, count(*) = count(DISTINCT key) AS each_once, array_agg(DISTINCT difference) AS differences
FROM cqrs.verify('pages', 0.1);
SELECT count(*) FROM cqrs.verify('pages');
SELECT drifted, verified_at > now() - interval '1 hour' AS verified FROM cqrs.lag WHERE projection = 'pages'::regclass;
-- Keys are picked from both sides, so that what is missing is found and what is there too much; and anew by every call.
CALL drift('pages', 'DELETE FROM %T WHERE id <= 1000');
CALL drift('pages', 'UPDATE %T SET id = id + 10000 WHERE id > 1000');
SELECT difference, count(*) BETWEEN 40 AND 400 AS a_share FROM cqrs.verify('pages', 0.1) GROUP BY difference ORDER BY 1;
SELECT (SELECT array_agg(key) FROM cqrs.verify('pages', 0.05)) <> (SELECT array_agg(key) FROM cqrs.verify('pages', 0.05)) AS others;
-- Null keys, one row.
CALL drift('groups', 'UPDATE %T SET n = n + 1');
SELECT key -> 'grp' = 'null' AS of_null, count(*) > 0 AS found FROM cqrs.verify('groups', 0.5) GROUP BY 1 ORDER BY 1;
CALL drift('whole', 'UPDATE %T SET n = n + 1');
SELECT * FROM cqrs.verify('whole', 0.0001);
CALL drift('cheapest', 'UPDATE %T SET price = 0');
SELECT count(*) BETWEEN 20 AND 80 AS about_half FROM cqrs.verify('cheapest', 0.5);

-- Only the sampled keys are computed, where the query allows: of 2001 keys about 40, each once.
CREATE FUNCTION counted(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM nextval('drift_test.calls'); RETURN $1; END $$;
CREATE SEQUENCE calls;
SELECT cqrs.create_projection('counts', 'SELECT i.id, (SELECT counted(count(*)::integer) FROM note n WHERE n.item = i.id) AS notes FROM item i');
SELECT cqrs.drain('counts');
SELECT setval('calls', 1) \g /dev/null
SELECT count(*) FROM cqrs.verify('counts', 0.02);
SELECT last_value < 200 AS few FROM calls;

-- Repair mends all that differs, and nothing else; history says who, when, why and how many.  Nobody else may write.
SELECT cqrs.repair('pages', 'a disk was exchanged');
SELECT cqrs.repair('groups', 'try');
SELECT cqrs.repair('whole', 'try');
SELECT cqrs.repair('cheapest', 'try');
SELECT projection, v.* FROM mine, cqrs.verify(projection) v;
SELECT projection, drifted FROM cqrs.lag JOIN mine USING (projection) ORDER BY projection::text;
SELECT cqrs.repair('pages', 'once more');
SELECT actor = current_user AS by_us, projection, version, event, reason, changes FROM cqrs.history WHERE event = 'repaired' AND projection = 'pages' ORDER BY at;
DO $$ BEGIN EXECUTE 'UPDATE ' || (SELECT "table" FROM cqrs_internal.version WHERE "table"::text LIKE '%pages' AND state = 'serving') || ' SET notes = 0'; END $$;
-- What is pending is applied first: it is no drift, and not counted.
CALL drift('items', 'UPDATE %T SET price = -1 WHERE id IN (1, 2, 3)');
CALL drift('items', 'INSERT INTO %T VALUES (-1, ''x'', 1, 1)');
UPDATE item SET price = price * 2 WHERE id > 1000;
BEGIN;
SELECT cqrs.repair('items', 'to be undone');
ROLLBACK;
SELECT key, difference FROM cqrs.verify('items');
SELECT cqrs.repair('items', 'in earnest');
SELECT * FROM cqrs.verify('items');
SELECT event, reason FROM cqrs.history WHERE reason = 'to be undone';
-- Rows that had not drifted are not written.
SELECT "table" AS items_table FROM cqrs_internal.version WHERE "table"::text LIKE '%items' \gset
CALL drift('items', 'UPDATE %T SET price = -1 WHERE id IN (1, 2, 3)');
BEGIN;
SELECT cqrs.repair('items', 'three of many');
SELECT count(*) AS written FROM :items_table WHERE xmin = pg_current_xact_id()::xid;
COMMIT;

-- Random damage, as many times as there are rounds: verify finds exactly the keys that differ, repair mends exactly these.  What differs is found here
-- by the server alone.  A failure names its seed.
CREATE FUNCTION damage(projection regclass, assignment text, key text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	many float8 := random() * random() * 0.05;
BEGIN
	CALL drift_test.drift(projection, format('UPDATE %%T SET %s WHERE random() < %s', assignment, many));
	CALL drift_test.drift(projection, format('DELETE FROM %%T WHERE random() < %s', many));
	CALL drift_test.drift(projection, format('UPDATE %%T SET %s WHERE random() < %s', key, many / 2));
END $$;
CREATE FUNCTION damage_round(projection regclass, query text, keys text, assignment text, key text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	seed float8 := random();
	differing bigint;
	found bigint;
	mended bigint;
BEGIN
	PERFORM cqrs.drain(projection), setseed(seed);
	PERFORM drift_test.damage(projection, assignment, key);
	EXECUTE format('CREATE TEMP TABLE differing ON COMMIT DROP AS SELECT DISTINCT to_jsonb(k) AS key FROM (SELECT %1$s FROM (
		(SELECT * FROM %2$s EXCEPT ALL SELECT * FROM (%3$s) q) UNION ALL (SELECT * FROM (%3$s) q EXCEPT ALL SELECT * FROM %2$s)) d) k', keys, projection, query);
	SELECT count(*) INTO differing FROM differing;
	SELECT count(*) INTO found FROM cqrs.verify(projection) v JOIN differing USING (key);
	mended := cqrs.repair(projection, 'round');
	DROP TABLE differing;
	IF found <> differing OR mended <> differing THEN
		RETURN format('%s differ, %s of them found, %s mended: seed %s', differing, found, mended, seed);
	END IF;
	EXECUTE format('SELECT count(*) FROM ((SELECT * FROM %1$s EXCEPT ALL SELECT * FROM (%2$s) q) UNION ALL (SELECT * FROM (%2$s) q EXCEPT ALL SELECT * FROM %1$s)) d',
		projection, query) INTO differing;
	RETURN CASE WHEN differing > 0 THEN format('%s differ still: seed %s', differing, seed) ELSE 'mended' END;
END $$;
SELECT DISTINCT damage_round('items', 'SELECT id, grp, price, weight FROM item WHERE sub > 0', 'id', 'price = price + 1', 'id = -id')
FROM generate_series(1, 10);
SELECT DISTINCT damage_round('pages', $$SELECT i.id, i.price, coalesce(n.notes, 0) AS notes, (SELECT max(o.body) FROM note o WHERE o.item = i.id) AS last
	FROM item i LEFT JOIN (SELECT item, count(*) AS notes FROM note GROUP BY item) n ON n.item = i.id$$, 'id', 'last = last || 1, notes = NULL', 'id = -id')
FROM generate_series(1, 3);
SELECT DISTINCT damage_round('groups', 'SELECT grp, sub, count(*) AS n, sum(price) AS price FROM item GROUP BY grp, sub', 'grp, sub', 'n = n + 1', 'grp = ''new'' || grp')
FROM generate_series(1, 10);

-- What cannot be mended now: an error, and nothing has changed.
SELECT cqrs.repair('items', NULL);
SELECT cqrs.repair('items', '');
SELECT cqrs.repair('items', E' \t\n');
SELECT cqrs.repair(NULL, 'why not');
SELECT cqrs.repair('item', 'no projection');
SELECT cqrs.pause('items');
SELECT cqrs.repair('items', 'paused');
SELECT * FROM cqrs.verify('items', 0.5);
SELECT cqrs.resume('items');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.repair('items', 'too old');
ROLLBACK;
BEGIN READ ONLY;
SELECT cqrs.repair('items', 'read only');
ROLLBACK;
BEGIN;
INSERT INTO item (id) VALUES (50000);
SELECT cqrs.repair('items', 'captured');
ROLLBACK;
SELECT cqrs.create_projection('unbuilt', 'SELECT id FROM item');
SELECT * FROM cqrs.verify('unbuilt', 0.5, 1);
CREATE ROLE regress_cqrs_drift;
GRANT USAGE ON SCHEMA drift_test TO regress_cqrs_drift;
GRANT SELECT ON items TO regress_cqrs_drift;
SET ROLE regress_cqrs_drift;
SELECT cqrs.repair('items', 'not mine');
RESET ROLE;
SELECT * FROM cqrs.compare('items', 1);
SELECT * FROM cqrs.compare('items', 2);
SELECT * FROM cqrs.compare('items', 1, 2);
SELECT * FROM cqrs.compare('items', NULL);
SELECT * FROM cqrs.compare('unbuilt', 1);
SELECT * FROM cqrs.verify('items', 0);
SELECT * FROM cqrs.verify('items', 1.5);
SELECT * FROM cqrs.verify('items', -1);
SELECT * FROM cqrs.verify('items', 'NaN');

SELECT count(cqrs.drop_projection(projection)) FROM cqrs.projections
WHERE projection IN (SELECT oid FROM pg_class WHERE relnamespace = 'drift_test'::regnamespace);
SET client_min_messages = warning;
DROP SCHEMA drift_test CASCADE;
DROP ROLE regress_cqrs_drift;
