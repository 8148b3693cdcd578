-- How far behind one key is.  If this fails, a reader is told that what he looks at is up to date while a change of it waits, or the other way round; or he
-- is told of rows that he may not see.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA entity_test;
SET search_path = entity_test;
CREATE TABLE customer (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE purchase (id integer PRIMARY KEY, customer integer REFERENCES customer, amount numeric, region text);
CREATE INDEX ON purchase (customer);
CREATE INDEX ON purchase (region);
INSERT INTO customer SELECT i, 'c' || i FROM generate_series(1, 10) AS i;
INSERT INTO purchase SELECT i, i % 5 + 1, i, CASE WHEN i % 3 > 0 THEN 'r' || i % 3 END FROM generate_series(1, 20) AS i;
SELECT cqrs.create_projection('cards', $$SELECT c.id, c.name, (SELECT sum(p.amount) FROM purchase p WHERE p.customer = c.id) AS amount FROM customer c$$);
SELECT cqrs.create_projection('regions', 'SELECT region, count(*) AS purchases FROM purchase GROUP BY region');
SELECT cqrs.create_projection('total', 'SELECT sum(amount) AS amount FROM purchase', '{}');
SET client_min_messages = warning;
SELECT cqrs.create_projection('dearest', 'SELECT id, amount FROM purchase ORDER BY amount DESC LIMIT 3', '{id}');
RESET client_min_messages;
CREATE VIEW mine AS SELECT projection FROM cqrs.projections WHERE projection IN (SELECT oid FROM pg_class WHERE relnamespace = 'entity_test'::regnamespace);
SELECT * FROM cqrs.entity_lag('cards', '{"id": 1}');
SELECT count(cqrs.drain(projection)) FROM mine;
SELECT * FROM cqrs.entity_lag('cards', '{"id": 1}');

-- What waits is counted for the keys that it concerns: where a row was and where it is now, through other tables, and no others.
CREATE VIEW behind AS SELECT k ->> 'id' AS id, l.pending, l.lag > '0' AS waits, l.status
	FROM (SELECT jsonb_build_object('id', i) AS k FROM generate_series(1, 6) AS i) ks, cqrs.entity_lag('cards', k) l WHERE l.pending > 0;
SELECT * FROM behind;
UPDATE customer SET name = 'new' WHERE id = 2;
UPDATE purchase SET customer = 3 WHERE customer = 4 AND id < 10;
SELECT * FROM behind ORDER BY id;
-- A row that is not there yet, and one that is not there any more.
INSERT INTO customer VALUES (11, 'c11');
DELETE FROM customer WHERE id = 10;
SELECT k, l.pending, l.status FROM unnest(ARRAY['{"id": 10}', '{"id": 11}', '{"id": 12}']::jsonb[]) k, cqrs.entity_lag('cards', k) l;
-- Changes in one transaction count each by itself; null keys, one row, a source that is evaluated as a whole.
UPDATE purchase SET region = NULL WHERE id <= 3;
SELECT k, l.pending FROM unnest(ARRAY['{"region": null}', '{"region": "r1"}', '{"region": "r2"}', '{"region": "r3"}']::jsonb[]) k, cqrs.entity_lag('regions', k) l;
SELECT pending FROM cqrs.entity_lag('total', '{}');
UPDATE purchase SET amount = 0 WHERE id = 20;
SELECT pending FROM cqrs.entity_lag('total', '{}');
SELECT pending FROM cqrs.entity_lag('dearest', '{"id": 1}');
-- Applied: nothing waits any more.
SELECT count(cqrs.drain(projection)) FROM mine;
SELECT * FROM behind;
SELECT pending, lag, status FROM cqrs.entity_lag('total', '{}');
-- A table emptied concerns all.
BEGIN;
TRUNCATE purchase;
COMMIT;
SELECT pending FROM cqrs.entity_lag('cards', '{"id": 7}');
SELECT cqrs.drain('cards');
-- What cannot be told is null.
SELECT cqrs.pause('cards');
UPDATE customer SET name = 'paused' WHERE id = 1;
SELECT pending, status FROM cqrs.entity_lag('cards', '{"id": 1}');
SELECT cqrs.resume('cards');

-- Made of events: the versions are the aggregate's, as it is and as the read model shows it, whatever types of events there are; what is parked waits.
SELECT cqrs.create_projection('baskets', columns => 'basket text PRIMARY KEY, n int NOT NULL', seed => 'SELECT NULL, 0 WHERE false', handlers => jsonb_build_object(
	'EntityPut', 'INSERT INTO baskets AS b SELECT aggregate_id, (payload->>''n'')::int FROM event ON CONFLICT (basket) DO UPDATE SET n = b.n + excluded.n'));
SELECT cqrs.drain('baskets');
CREATE FUNCTION put(basket text, n text, type text DEFAULT 'entity basket', event text DEFAULT 'EntityPut') RETURNS bigint LANGUAGE sql AS
	$$ SELECT cqrs.emit(event, type, basket, jsonb_build_object('n', n)) $$;
CREATE FUNCTION lags() RETURNS TABLE (basket text, command_version bigint, query_version bigint, pending bigint, waits boolean) LANGUAGE sql AS $$
	SELECT b, l.command_version, l.query_version, l.pending, l.lag > '0' FROM unnest('{a,b,c}'::text[]) b, cqrs.entity_lag('baskets', jsonb_build_object('basket', b)) l $$;
SELECT * FROM lags();
SELECT put('a', '1'), put('a', '2'), put('b', '1');
SELECT * FROM lags();
SELECT cqrs.drain('baskets');
SELECT * FROM lags();
SELECT put('a', '1', event => 'EntityUnheard'), put('a', '3'), put('a', 'many'), put('b', '1', event => 'EntityUnheard');
BEGIN;
SELECT put('b', '1');
SELECT * FROM lags();
ROLLBACK;
SELECT * FROM lags();
SET client_min_messages = error;
SELECT cqrs.drain('baskets');
RESET client_min_messages;
SELECT * FROM lags();
SELECT put('a', '4');
SELECT * FROM lags();
SELECT cqrs.drain('baskets');
SELECT * FROM lags();
SELECT cqrs.discard(min(id), 'not a number') FROM cqrs.dead_letters WHERE projection = 'baskets'::regclass;
SELECT * FROM lags();
-- Aggregates of types that it does not handle are none of its business; two that it does are too many to be told apart.
SELECT put('a', '1', 'entity parcel', 'EntityUnheard'), put('c', '1', 'entity parcel', 'EntityUnheard');
SELECT * FROM lags();
SELECT put('b', '1', 'entity parcel');
SELECT * FROM lags();
SELECT cqrs.drain('baskets');
SELECT * FROM lags();
SELECT * FROM cqrs.entity_lag('baskets', '{"basket": null}');
-- Of rows it goes by their keys.
CREATE TABLE slip (id integer PRIMARY KEY, region text);
SELECT cqrs.capture('slip');
SELECT cqrs.create_projection('diary', columns => 'id integer, region text, n int, PRIMARY KEY (id)', seed => 'SELECT NULL::int, NULL::text, 0 WHERE false',
	handlers => '{"entity_test.slip": "INSERT INTO diary AS d SELECT aggregate_id::int, new_row->>''region'', 1 FROM event ON CONFLICT (id) DO UPDATE SET n = d.n + 1"}');
SELECT cqrs.drain('diary');
INSERT INTO slip VALUES (30, 'r'), (31, 'r');
UPDATE slip SET id = 32 WHERE id = 30;
SELECT i, l.* FROM generate_series(30, 33) i, LATERAL (SELECT command_version, query_version, pending, status FROM cqrs.entity_lag('diary', jsonb_build_object('id', i))) l;
TRUNCATE slip;
SELECT i, l.* FROM generate_series(30, 33) i, LATERAL (SELECT command_version, query_version, pending, status FROM cqrs.entity_lag('diary', jsonb_build_object('id', i))) l;
SET client_min_messages = error;
SELECT cqrs.drain('diary');
RESET client_min_messages;
SELECT pending FROM cqrs.entity_lag('diary', '{"id": 33}');
SELECT cqrs.drop_projection('diary');

-- Who may read the projection may ask, but where it hides rows: what waits would tell of them.
CREATE ROLE regress_cqrs_entity;
GRANT USAGE ON SCHEMA entity_test TO regress_cqrs_entity;
SET ROLE regress_cqrs_entity;
SELECT pending FROM cqrs.entity_lag('cards', '{"id": 1}');
RESET ROLE;
GRANT SELECT ON cards TO regress_cqrs_entity;
SET ROLE regress_cqrs_entity;
SELECT pending FROM cqrs.entity_lag('cards', '{"id": 1}');
RESET ROLE;
SELECT cqrs.alter_projection('cards', row_filter => 'id > 5');
SET ROLE regress_cqrs_entity;
SELECT pending FROM cqrs.entity_lag('cards', '{"id": 1}');
RESET ROLE;
SELECT pending FROM cqrs.entity_lag('cards', '{"id": 1}');

-- Bad input.
SELECT * FROM cqrs.entity_lag('cards', '{"name": "x"}');
SELECT * FROM cqrs.entity_lag('cards', '[1]');
SELECT * FROM cqrs.entity_lag('cards', '1');
SELECT * FROM cqrs.entity_lag('cards', '{"id": "x"}');
SELECT * FROM cqrs.entity_lag('total', '{"id": 1}');
SELECT * FROM cqrs.entity_lag('customer', '{"id": 1}');

DROP VIEW behind, mine;
SELECT count(cqrs.drop_projection(projection)) FROM cqrs.projections
WHERE projection IN (SELECT oid FROM pg_class WHERE relnamespace = 'entity_test'::regnamespace);
SET client_min_messages = warning;
DROP SCHEMA entity_test CASCADE;
DROP ROLE regress_cqrs_entity;
