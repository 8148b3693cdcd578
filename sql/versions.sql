-- Versions: built beside the one that serves, switched to, back, rebuilt and retired; with what users have put on view and tables.  If this fails, readers get an
-- error, an empty table or another's rows while a read model changes, or lose what they were granted; or what was asked for wrongly does harm.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA versions_test;
SET search_path = versions_test;
CREATE ROLE cqrs_versions_owner;
CREATE ROLE cqrs_versions_reader;
GRANT CREATE, USAGE ON SCHEMA versions_test TO cqrs_versions_owner;
GRANT USAGE ON SCHEMA versions_test TO cqrs_versions_reader;
CREATE TABLE item (id integer PRIMARY KEY, name text, price integer, stock integer);
GRANT SELECT, TRIGGER ON item TO cqrs_versions_owner;
INSERT INTO item SELECT i, 'item ' || i, i % 10, i FROM generate_series(1, 1000) i;

-- What differs between the view and a query, both ways.
CREATE FUNCTION differences(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM ((TABLE versions_test.items EXCEPT ALL %1$s) UNION ALL (%1$s EXCEPT ALL TABLE versions_test.items)) d', query) INTO found;
    RETURN found;
END$$;
-- The versions, as users see them.
CREATE VIEW seen AS SELECT version, state, status FROM cqrs.versions WHERE projection = to_regclass('versions_test.items') ORDER BY version;
GRANT SELECT ON seen TO cqrs_versions_owner;

SET ROLE cqrs_versions_owner;
SELECT cqrs.create_projection('items', 'SELECT id, name, price FROM item', indexes => '{(price)}', row_filter => 'id > 0');
-- Neither a second build, nor a switch to what is not built, nor retiring what readers are to get.
SELECT cqrs.create_version('items');
SELECT cqrs.rebuild('items');
SELECT cqrs.switch('items');
SELECT cqrs.switch('items', 1);
SELECT cqrs.retire('items', 1);
SELECT projection, version, phase, rows_done, rows_expected FROM cqrs.build_progress WHERE projection = 'items'::regclass;
SELECT cqrs.drain('items');
SELECT count(*) FROM cqrs.build_progress WHERE projection = 'items'::regclass;
SELECT cqrs.switch('items');
SELECT cqrs.switch('items', 1);
SELECT cqrs.switch('items', 7);
SELECT cqrs.switch_back('items');
SELECT cqrs.retire('items', 1);
SELECT cqrs.retire('items', 2);

-- What users put on view and table.
GRANT SELECT ON items TO cqrs_versions_reader WITH GRANT OPTION;
SET ROLE cqrs_versions_reader;
GRANT SELECT (name) ON items TO pg_monitor;
SET ROLE cqrs_versions_owner;
COMMENT ON VIEW items IS 'what is for sale';
COMMENT ON COLUMN items.price IS 'in cents';
RESET ROLE;
SELECT v.schema AS old FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection WHERE p.view = 'items'::regclass \gset
SET ROLE cqrs_versions_owner;
CREATE INDEX ON :old.items (name);
CREATE INDEX by_lower ON :old.items (lower(name)) WITH (fillfactor = 80) WHERE price > 3;
CREATE UNIQUE INDEX once ON :old.items (name);
CREATE STATISTICS :old.both (ndistinct, mcv) ON name, price FROM :old.items;
ALTER TABLE :old.items SET (fillfactor = 70, toast.autovacuum_enabled = off);
ALTER TABLE :old.items ALTER price SET STATISTICS 500, ALTER name SET STORAGE EXTERNAL, ALTER name SET (n_distinct = 7);
ALTER TABLE :old.items ADD CONSTRAINT positive CHECK (id > 0);
COMMENT ON TABLE :old.items IS 'the table';
COMMENT ON COLUMN :old.items.name IS 'its name';
COMMENT ON INDEX :old.by_lower IS 'for those who shout';
COMMENT ON INDEX :old.items_pkey IS 'its key';
COMMENT ON STATISTICS :old.both IS 'what goes together';
GRANT USAGE ON SCHEMA :old TO cqrs_versions_reader;
GRANT SELECT ON :old.items TO cqrs_versions_reader;
GRANT SELECT (price) ON :old.items TO pg_monitor;
SELECT cqrs.create_version('items', 'SELECT id, name, price, name || price AS label FROM item');
DROP INDEX :old.once;
SELECT * FROM seen;
SELECT cqrs.create_version('items');
SELECT cqrs.switch('items');
SELECT cqrs.switch('items', 2);
RESET ROLE;
UPDATE item SET price = 77 WHERE id = 1;
INSERT INTO item VALUES (1001, 'new', 5, 1);
SET ROLE cqrs_versions_owner;
SELECT cqrs.drain('items');
SELECT * FROM seen;
SELECT * FROM cqrs.verify('items', version => 2);
SELECT replace(:'old', '_v1', '_v2') AS new \gset
SELECT replace(indexdef, :'new', 'new') AS index FROM pg_indexes WHERE schemaname = :'new' ORDER BY 1;
SELECT relname, obj_description(oid, 'pg_class') FROM pg_class WHERE relnamespace = :'new'::regnamespace AND relkind = 'i' AND obj_description(oid, 'pg_class') IS NOT NULL ORDER BY 1;
SELECT stxname, stxkind, stxkeys, obj_description(oid, 'pg_statistic_ext') FROM pg_statistic_ext WHERE stxrelid = (:'new' || '.items')::regclass;
SELECT reloptions FROM pg_class WHERE oid = (:'new' || '.items')::regclass;
SELECT attname, attstattarget, attstorage, coalesce('n_distinct=7' = ANY (attoptions), false) AS has_options, attacl, col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = (:'new' || '.items')::regclass AND attnum > 0;
SELECT obj_description((:'new' || '.items')::regclass, 'pg_class'), relacl FROM pg_class WHERE oid = (:'new' || '.items')::regclass;
SELECT nspacl FROM pg_namespace WHERE nspname = :'new';

-- Columns added at the end: the view stays what it is, with all that depends on it; but then there is no way back.
CREATE VIEW cheap AS SELECT id, name FROM items WHERE price < 5;
SELECT cqrs.switch('items');
SELECT * FROM seen;
SELECT 'items'::regclass::oid AS view \gset
SELECT cqrs.switch('items', force => true);
SELECT * FROM seen;
SELECT 'items'::regclass::oid = :view AS same;
SELECT * FROM items WHERE id = 1;
SELECT count(*) FROM cheap;
SELECT cqrs.switch_back('items');
DROP VIEW cheap;
-- Both have followed: nothing is lost on the way back, and the view has what it had.
RESET ROLE;
DELETE FROM item WHERE id = 2;
UPDATE item SET price = 78 WHERE id = 1;
SET ROLE cqrs_versions_owner;
SELECT cqrs.switch_back('items');
SELECT * FROM seen;
SELECT * FROM items WHERE id IN (1, 2);
SELECT differences('SELECT id, name, price FROM versions_test.item');
SELECT 'items'::regclass::oid = :view AS same;
SELECT relacl, reloptions, obj_description(oid, 'pg_class'), pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'items'::regclass;
SELECT attname, attacl, col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = 'items'::regclass AND attnum > 0;
SELECT pg_get_viewdef('items'::regclass) ~ 'id > 0' AS filtered;
SET ROLE cqrs_versions_reader;
SELECT count(*) FROM items;
SET ROLE cqrs_versions_owner;
SELECT cqrs.switch_back('items');
SELECT * FROM seen;
SELECT cqrs.switch('items', 1);

-- Another type and another order of columns: made anew, unless something would go with it.
\set VERBOSITY terse
SELECT cqrs.create_version('items', 'SELECT id, price::bigint AS price FROM item');
SELECT cqrs.drain('items');
\set VERBOSITY default
CREATE FUNCTION count_items() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM items; END;
SELECT cqrs.switch('items');
SELECT cqrs.switch('items', force => true);
DROP FUNCTION count_items();
CREATE FUNCTION name_of(item items) RETURNS text LANGUAGE sql AS 'SELECT item.name';
SELECT cqrs.switch('items');
DROP FUNCTION name_of;
CREATE RULE nothing AS ON INSERT TO items DO INSTEAD NOTHING;
SELECT cqrs.switch('items');
DROP RULE nothing ON items;
PREPARE prices AS SELECT sum(price) > 0 FROM items;
EXECUTE prices;
SELECT cqrs.switch('items');
EXECUTE prices;
DEALLOCATE prices;
SELECT differences('SELECT id, price::bigint FROM versions_test.item');
SELECT * FROM seen;

-- A key and indexes of its own.
SELECT cqrs.create_version('items', 'SELECT price, count(*) AS n FROM item GROUP BY price', key => '{price}', indexes => '{(n), (m)}');
SELECT cqrs.create_version('items', 'SELECT price, count(*) AS n FROM item GROUP BY price', key => '{prize}');
SELECT cqrs.create_version('items', 'SELECT price, now() AS n FROM item GROUP BY price');
SELECT cqrs.create_version('items', 'SELECT price, count(*) AS n FROM item GROUP BY price', indexes => '{(n)}');
SELECT cqrs.retire('items', 4);
SELECT * FROM cqrs.verify('items', version => 4);
SELECT * FROM seen;
SELECT cqrs.create_version('items', 'SELECT price, count(*) AS n FROM item GROUP BY price', key => '{price}', indexes => '{(n)}');
SELECT cqrs.drain('items');
RESET ROLE;
SELECT replace(indexdef, replace(:'old', '_v1', '_v5'), 'new') AS index FROM pg_indexes WHERE schemaname = replace(:'old', '_v1', '_v5') ORDER BY 1;
SET ROLE cqrs_versions_owner;
-- A key that is none is found by the fill; what serves is untouched.
SELECT cqrs.retire('items', 5);
SELECT cqrs.create_version('items', 'SELECT price, name FROM item', key => '{price}');
SELECT cqrs.drain('items');
SELECT * FROM seen;
SELECT differences('SELECT id, price::bigint FROM versions_test.item');
SELECT cqrs.retire('items', 6);

-- Far behind, paused: not now.
SELECT cqrs.create_version('items');
SELECT cqrs.drain('items');
RESET ROLE;
INSERT INTO item SELECT i, 'many', 1, 1 FROM generate_series(2001, 12000) i;
SET ROLE cqrs_versions_owner;
SELECT cqrs.switch('items');
SELECT cqrs.drain('items');
SELECT cqrs.pause('items');
SELECT cqrs.switch('items');
SELECT cqrs.resume('items');

-- Not in a transaction that sees the past, or has changes of its own; whole or not at all.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.switch('items');
ROLLBACK;
RESET ROLE;
BEGIN;
DELETE FROM item WHERE id > 5000;
SELECT cqrs.switch('items');
ROLLBACK;
SET ROLE cqrs_versions_owner;
BEGIN;
SELECT cqrs.switch('items');
SELECT * FROM seen;
ROLLBACK;
SELECT * FROM seen;
-- Only the owner.
SET ROLE cqrs_versions_reader;
SELECT cqrs.create_version('items');
SELECT cqrs.rebuild('items');
SELECT cqrs.switch('items');
SELECT cqrs.switch_back('items');
SELECT cqrs.retire('items', 1);
SET ROLE cqrs_versions_owner;
SELECT cqrs.switch('items');

-- A token means what it meant: what is applied in the old version is applied in the new one.
RESET ROLE;
UPDATE item SET price = 99 WHERE id = 3;
SELECT cqrs.token() AS token \gset
SELECT cqrs.caught_up('items', :'token'::xid8);
SELECT cqrs.switch('items', 3);
SELECT cqrs.caught_up('items', :'token'::xid8), price FROM items WHERE id = 3;

-- A rebuild serves by itself: here by drain, in one go; the one before is retired in a day.
SET ROLE cqrs_versions_owner;
SELECT cqrs.retire('items', version) FROM seen WHERE state IN ('shadow', 'standby');
SELECT cqrs.rebuild('items');
SELECT cqrs.drain('items');
SELECT * FROM seen;
RESET ROLE;
SELECT number, date_trunc('hour', retire_at - state_since + '1 min') AS retired_in FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection WHERE p.view = 'items'::regclass AND retire_at IS NOT NULL;
-- One that differs from its query is halted, and the one that serves goes on: here since the query gives another answer each time.
CREATE FUNCTION moody() RETURNS integer LANGUAGE sql STABLE AS $$SELECT pg_backend_pid() % 7 + (random() * 1000000)::integer$$;
SET client_min_messages = warning;
SELECT cqrs.create_version('items', 'SELECT id, versions_test.moody() AS price FROM versions_test.item');
SELECT cqrs.drain('items');
SELECT cqrs.switch('items');
SELECT cqrs.rebuild('items');
SELECT cqrs.drain('items');
RESET client_min_messages;
SELECT * FROM seen;
SELECT error ~ 'the rebuilt table differs from the query in \d+ keys' FROM cqrs.versions WHERE projection = 'items'::regclass AND status = 'halted';
\set VERBOSITY terse
SELECT cqrs.switch('items', (SELECT max(version) FROM seen WHERE status = 'halted'));
\set VERBOSITY default
SELECT cqrs.drain('items');

-- What was retired is gone, but for its row; history tells of each change of state.
SELECT count(*) FROM pg_namespace WHERE nspname LIKE replace(:'old', '_v1', '_v%');
SELECT event, version, from_state, to_state, lasted IS NOT NULL AS lasted, reason, actor = session_user AS by_me FROM cqrs.history
WHERE projection = 'items' OR projection = 'versions_test.items' LIMIT 24;

-- Publications of all tables: updates pass, whether a key can be null or there is none.
CREATE PUBLICATION cqrs_versions_all FOR ALL TABLES;
SELECT cqrs.create_projection('by_stock', 'SELECT stock, count(*) AS n FROM item GROUP BY stock', key => '{stock}');
SELECT cqrs.create_projection('total', 'SELECT count(*) AS n FROM item', key => '{}');
SELECT cqrs.drain('by_stock'), cqrs.drain('total');
SELECT cqrs.rebuild('by_stock'), cqrs.rebuild('total');
SELECT cqrs.drain('by_stock'), cqrs.drain('total');
UPDATE item SET stock = NULL WHERE id < 5;
SELECT cqrs.drain('by_stock'), cqrs.drain('total');
SELECT cqrs.switch_back('by_stock'), cqrs.switch_back('total');
SELECT * FROM cqrs.verify('by_stock');
SELECT c.relreplident FROM cqrs_internal.version v JOIN pg_class c ON c.oid = v."table" WHERE c.relname IN ('by_stock', 'total');
DROP PUBLICATION cqrs_versions_all;

SELECT cqrs.drop_projection('by_stock');
SELECT cqrs.drop_projection('total');
SELECT cqrs.drop_projection('items');
SET client_min_messages = warning;
DROP SCHEMA versions_test CASCADE;
DROP OWNED BY cqrs_versions_owner, cqrs_versions_reader;
DROP ROLE cqrs_versions_owner, cqrs_versions_reader;
