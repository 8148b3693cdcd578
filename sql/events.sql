-- Projections that handlers define: what is refused, one event and runs of them, captured tables, seeds and replays, what fails and what waits behind it.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
SET client_min_messages = notice;
\pset null '-'
ALTER SEQUENCE cqrs_internal.dead_letter_id RESTART;

CREATE SCHEMA ev;
SET search_path = ev;

-- What is wrong with handlers shows at creation, with the place and what to do.
\set VERBOSITY default
\set ON_ERROR_STOP off
CREATE FUNCTION ev.no_handler(jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION ev.returns(cqrs.event) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE TABLE ev.plain (id integer PRIMARY KEY);
CREATE FUNCTION ev.try(columns text, handlers jsonb, seed text DEFAULT NULL) RETURNS integer LANGUAGE sql
AS $$ SELECT cqrs.create_projection('ev.wrong', columns => columns, handlers => handlers, seed => seed) $$;
SELECT cqrs.create_projection('ev.wrong');
SELECT cqrs.create_projection('ev.wrong', 'SELECT 1 AS a', handlers => '{}');
SELECT cqrs.create_projection('ev.wrong', columns => 'a int');
SELECT cqrs.create_projection('ev.wrong', handlers => '{"A": "SELECT 1"}');
SELECT cqrs.create_projection('ev.wrong', columns => 'a int', handlers => '{"A": "SELECT 1"}', key => '{a}');
SELECT cqrs.create_projection('ev.wrong', columns => 'a int', handlers => '{"A": "SELECT 1"}', on_error => 'shrug');
SELECT ev.try('a int', '[]');
SELECT ev.try('a int', '{}');
SELECT ev.try('a int', '{"*": "warn"}');
SELECT ev.try('a int', '{"A": 1}');
SELECT ev.try('a int', '{"": "SELECT 1"}');
SELECT ev.try('a int', '{"A": "SELECT 1", "*": "panic"}');
SELECT ev.try('a int', '{"A": ""}');
SELECT ev.try('a int', '{"A": "SELEC 1"}');
SELECT ev.try('a int', '{"A": "INSERT INTO wrong SELECT b FROM event"}');
SELECT ev.try('a int', '{"A": "INSERT INTO nowhere SELECT 1 FROM event"}');
SELECT ev.try('a int', '{"A": "INSERT INTO event SELECT 1"}');
SELECT ev.try('a int', '{"A": "INSERT INTO wrong SELECT 1 FROM event, events"}');
SELECT ev.try('a int', '{"A": "COMMIT"}');
SELECT ev.try('a int', '{"A": "missing"}');
SELECT ev.try('a int', '{"A": "ev.no_handler"}');
SELECT ev.try('a int', '{"A": "ev.returns(cqrs.event)"}');
SELECT ev.try('a int', '{"ev.nowhere": "SELECT 1"}');
SELECT ev.try('a int', '{"ev.plain": "SELECT 1"}');
SELECT ev.try('a int) INHERITS (ev.plain', '{"A": "SELECT 1"}');
SELECT ev.try('a int REFERENCES ev.plain', '{"A": "SELECT 1"}');
SELECT ev.try('a int, UNIQUE (a) DEFERRABLE', '{"A": "SELECT 1"}');
SELECT ev.try('a int', '{"A": "SELECT 1"}', 'DELETE FROM ev.plain');
\set VERBOSITY terse

DO $$ DECLARE bad text[] := ARRAY['a int, b', NULL, 'a int', 'SELECT ''x''::text', 'a int', 'SELECT nothing']; BEGIN
	FOR i IN 1 .. 5 BY 2 LOOP
		BEGIN PERFORM ev.try(bad[i], '{"A": "SELECT 1"}', bad[i + 1]);
		EXCEPTION WHEN others THEN RAISE NOTICE '%', sqlerrm; END;
	END LOOP;
END $$;

-- Nothing of it is left.
SELECT count(*) FROM cqrs.projections WHERE projection::text LIKE '%wrong%';
SELECT nspname FROM pg_namespace WHERE nspname LIKE 'cqrs\_wrong%';

-- One event at a time, runs of them, a function; a type without a handler is passed over.  The replay of what was before fills the first version.
CREATE FUNCTION ev.cancel(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
$$ BEGIN UPDATE order_summary SET state = 'cancelled', last = e.position WHERE order_id = e.aggregate_id; END $$;
SELECT count(*) FROM (SELECT cqrs.emit('Placed', 'order', 'o' || i) FROM generate_series(1, 3) i) e;
SELECT cqrs.create_projection('order_summary',
	columns => 'order_id text PRIMARY KEY, total numeric NOT NULL DEFAULT 0, lines int NOT NULL DEFAULT 0, state text, last bigint -- of events',
	handlers => jsonb_build_object(
		'Placed', 'INSERT INTO order_summary (order_id, state) SELECT aggregate_id, ''placed'' FROM event',
		'Line', 'UPDATE order_summary o SET total = o.total + s.total, lines = o.lines + s.lines
			FROM (SELECT aggregate_id, sum((payload->>''price'')::numeric) AS total, count(*) AS lines FROM events GROUP BY 1) s
			WHERE s.aggregate_id = o.order_id',
		'Paid', 'UPDATE order_summary SET state = ''paid'' FROM event WHERE order_id = aggregate_id AND state = ''placed''',
		'Cancelled', 'ev.cancel'),
	indexes => '{(state)}', description => 'what became of orders');
SELECT * FROM order_summary;
SELECT cqrs.drain('order_summary');
SELECT order_id, total, lines, state FROM order_summary ORDER BY 1;
SELECT count(*) FROM (SELECT cqrs.emit('Line', 'order', 'o' || i, jsonb_build_object('price', i + j)) FROM generate_series(1, 3) i, generate_series(1, 4) j) e;
SELECT cqrs.emit('Paid', 'order', 'o2'), cqrs.emit('Unheard', 'order', 'o2'), cqrs.emit('Cancelled', 'order', 'o3'), cqrs.emit('Paid', 'order', 'o3');
SELECT cqrs.drain('order_summary');
SELECT order_id, total, lines, state, last IS NOT NULL AS last FROM order_summary ORDER BY 1;
SELECT projection, kind, version, on_error FROM cqrs.projections WHERE projection = 'order_summary'::regclass;
SELECT projection, state, status, strategy FROM cqrs.versions WHERE projection = 'order_summary'::regclass;
SELECT pending FROM cqrs.lag WHERE projection = 'order_summary'::regclass;
SELECT cqrs.explain('order_summary') LIMIT 7;
INSERT INTO order_summary VALUES ('by hand');
SELECT cqrs.verify('order_summary');
SELECT cqrs.repair('order_summary', 'why not');

-- Every event is applied once: nothing is left to do.
SELECT cqrs.drain('order_summary');
SELECT order_id, total, lines, state FROM order_summary ORDER BY 1;

-- A poison event among others: the others go on, each once; what comes for its aggregate waits behind it, in order.
SELECT cqrs.emit('Line', 'order', 'o1', '{"price": 100}'), cqrs.emit('Line', 'order', 'o1', '{"price": "much"}'),
	cqrs.emit('Line', 'order', 'o2', '{"price": 100}'), cqrs.emit('Line', 'order', 'o1', '{"price": 10}');
SELECT cqrs.drain('order_summary');
SELECT order_id, total, lines, state FROM order_summary ORDER BY 1;
SELECT id, version, (event).event_type, (event).aggregate_id, error, attempts, behind, waiting FROM cqrs.dead_letters;
SELECT context LIKE '%handler of "Line", event at position %' AS context FROM cqrs.dead_letters WHERE error IS NOT NULL;
SELECT cqrs.emit('Paid', 'order', 'o1'), cqrs.emit('Line', 'order', 'o3', '{"price": 100}');
SELECT cqrs.drain('order_summary');
SELECT cqrs.drain('order_summary');
SELECT id, (event).event_type, (event).aggregate_id, attempts, behind, waiting FROM cqrs.dead_letters;
SELECT order_id, total, lines, state FROM order_summary ORDER BY 1;

-- It fails again as long as it is not mended; what waits does not overtake it.
SELECT cqrs.retry(1);
SELECT cqrs.retry(2);
SELECT cqrs.retry(99);
SELECT id, attempts, behind, waiting FROM cqrs.dead_letters;
SELECT cqrs.discard(1, NULL);
SELECT cqrs.discard(1, '');
SELECT cqrs.discard(1, 'much is no price');
SELECT id FROM cqrs.dead_letters;
SELECT order_id, total, lines, state FROM order_summary ORDER BY 1;
SELECT event, reason FROM cqrs.history WHERE event IN ('discarded', 'retried') AND at >= (SELECT min(created_at) FROM cqrs.versions) ORDER BY at;

-- What is mended is replayed in order.
CREATE TABLE ev.rate (unit text PRIMARY KEY, factor numeric NOT NULL);
CREATE FUNCTION ev.in_units(unit text, amount numeric) RETURNS numeric LANGUAGE plpgsql AS
$$ DECLARE f numeric; BEGIN SELECT factor INTO STRICT f FROM ev.rate r WHERE r.unit = $1; RETURN f * amount; END $$;
SELECT cqrs.create_projection('account', columns => 'id text PRIMARY KEY, balance numeric NOT NULL, trail text NOT NULL', handlers => jsonb_build_object(
	'Moved', $$ INSERT INTO account AS a SELECT aggregate_id, ev.in_units(payload->>'unit', (payload->>'amount')::numeric), payload->>'amount' FROM event
		ON CONFLICT (id) DO UPDATE SET balance = a.balance + excluded.balance, trail = a.trail || ' ' || excluded.trail $$));
SELECT cqrs.drain('account');
SELECT cqrs.emit('Moved', 'purse', a, jsonb_build_object('unit', u, 'amount', n))
FROM (VALUES ('a', 'euro', 1), ('b', 'mark', 2), ('a', 'mark', 3), ('b', 'euro', 4), ('a', 'euro', 5), ('c', 'franc', 6), ('c', 'mark', 7)) v (a, u, n);
SELECT cqrs.drain('account');
INSERT INTO ev.rate VALUES ('euro', 1);
SELECT cqrs.retry_all('account');
SELECT * FROM account ORDER BY id;
SELECT id, (event).aggregate_id, error, attempts, behind, waiting FROM cqrs.dead_letters ORDER BY id;
INSERT INTO ev.rate VALUES ('mark', 0.5);
SELECT cqrs.emit('Moved', 'purse', 'a', '{"unit": "euro", "amount": 8}');
SELECT cqrs.drain('account');
SELECT cqrs.retry((SELECT min(id) FROM cqrs.dead_letters WHERE (event).aggregate_id = 'a'));
SELECT * FROM account ORDER BY id;
SELECT cqrs.retry_all('account');
SELECT cqrs.discard((SELECT min(id) FROM cqrs.dead_letters WHERE (event).aggregate_id = 'c'), 'francs are gone');
SELECT * FROM account ORDER BY id;
SELECT count(*) FROM cqrs.dead_letters;

-- A failure to write a dead letter down is loud: the batch fails, and nothing of it stays.
SELECT cqrs.emit('Moved', 'purse', 'd', '{"unit": "peso", "amount": 1}'), cqrs.emit('Moved', 'purse', 'a', '{"unit": "euro", "amount": 9}');
INSERT INTO cqrs_internal.dead_letter SELECT last_value + 1, 0, '{}', NULL, ROW(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::cqrs.event,
	NULL, NULL, 0, now(), NULL FROM cqrs_internal.dead_letter_id;
SELECT cqrs.drain('account');
SELECT id, trail FROM account WHERE id IN ('a', 'd');
DELETE FROM cqrs_internal.dead_letter WHERE version = 0;
SELECT cqrs.drain('account');
SELECT id, trail FROM account WHERE id IN ('a', 'd');
SELECT cqrs.drop_projection('account');
SELECT count(*) FROM cqrs_internal.dead_letter;

-- Columns that a handler does not look at are not handed to it, whatever way it looks at the others.
CREATE TABLE ev.dim (k text PRIMARY KEY, v int);
INSERT INTO ev.dim VALUES ('looked', 7);
SELECT cqrs.create_projection('looks', columns => 'a text, b text, c text, d text', seed => 'SELECT NULL, NULL, NULL, NULL WHERE false', handlers => jsonb_build_object(
	'J1', 'INSERT INTO looks SELECT aggregate_id, (SELECT e.payload->>''n'' FROM (SELECT 1) q), (WITH w AS (SELECT e.event_type AS t) SELECT t FROM w), d.v::text
		FROM event e JOIN ev.dim d ON d.k = e.aggregate_type',
	'J2', 'INSERT INTO looks SELECT (e).aggregate_id, row_to_json(e)->>''event_type'', e.metadata->>''actor'' = session_user, ''w'' FROM events e',
	'J3', 'INSERT INTO looks SELECT aggregate_id, aggregate_type, v::text, (SELECT string_agg(event_type, '','') FROM events i WHERE i.aggregate_id = events.aggregate_id)
		FROM events JOIN (SELECT k AS aggregate_type, v FROM ev.dim) z USING (aggregate_type)',
	'J4', 'INSERT INTO looks SELECT q.aggregate_id, q.x, q.event_type, NULL FROM (SELECT *, payload->>''n'' AS x FROM events) q',
	'J5', 'INSERT INTO looks SELECT ''j5'', count(*)::text FROM events'));
SELECT cqrs.drain('looks');
SELECT cqrs.emit('J' || i, 'looked', i::text, '{"n": 1}') FROM generate_series(1, 5) i;
SELECT cqrs.drain('looks');
SELECT * FROM looks ORDER BY a;
SELECT cqrs.drop_projection('looks');

-- What is erased leaves dead letters, too; what waited behind it waits for nothing any more.
CREATE TABLE ev.person (id int PRIMARY KEY, name text);
SELECT cqrs.capture('ev.person');
SELECT cqrs.create_projection('failing', columns => 'n int', seed => 'SELECT 0', handlers => '{"Bad": "INSERT INTO failing SELECT 1 / 0 FROM event", "ev.person": "INSERT INTO failing SELECT 1 / 0 FROM event"}');
SELECT cqrs.drain('failing');
SELECT cqrs.emit('Bad', 'person', 'p1'), cqrs.emit('Bad', 'person', 'p2');
INSERT INTO person VALUES (1, 'ann'), (2, 'bob');
UPDATE person SET id = 3 WHERE id = 1;
UPDATE person SET name = 'carl' WHERE id = 3;
SET client_min_messages = error;
SELECT cqrs.drain('failing');
SET client_min_messages = notice;
SELECT (event).aggregate_type, (event).aggregate_id, behind IS NOT NULL AS behind FROM cqrs.dead_letters;
SELECT cqrs.erase('person', 'p1', 'asked to'), cqrs.erase('ev.person'::regclass, '{"id": 1}', 'asked to');
SELECT (event).aggregate_type, (event).aggregate_id, behind IS NOT NULL AS behind FROM cqrs.dead_letters;
SELECT cqrs.drop_projection('failing');

-- Halting at an event: nothing of the batch stays, and after it was mended nothing is lost.
SELECT cqrs.create_projection('halting', columns => 'id text PRIMARY KEY, n int NOT NULL', on_error => 'halt', handlers => jsonb_build_object(
	'Counted', $$ INSERT INTO halting AS h SELECT aggregate_id, ev.in_units(payload->>'unit', 1) FROM event
		ON CONFLICT (id) DO UPDATE SET n = h.n + excluded.n $$));
SELECT cqrs.drain('halting');
SELECT cqrs.emit('Counted', 'thing', 't', '{"unit": "euro"}'), cqrs.emit('Counted', 'thing', 't', '{"unit": "yen"}');
SELECT cqrs.drain('halting');
SELECT * FROM halting;
INSERT INTO ev.rate VALUES ('yen', 100);
SELECT cqrs.drain('halting');
SELECT * FROM halting;
SELECT cqrs.drop_projection('halting');

-- Unknown types, under each policy.
SELECT cqrs.create_projection('warning', columns => 'n int', handlers => '{"Known": "INSERT INTO warning VALUES (1)", "*": "warn"}', seed => 'SELECT 0');
SELECT cqrs.create_projection('ignoring', columns => 'n int', handlers => '{"Known": "INSERT INTO ignoring VALUES (1)", "*": "ignore"}', seed => 'SELECT 0');
SELECT cqrs.create_projection('stopping', columns => 'n int', handlers => '{"Known": "INSERT INTO stopping VALUES (1)", "*": "halt"}', seed => 'SELECT 0');
SELECT cqrs.drain();
SELECT cqrs.emit('Known', 'x', '1'), cqrs.emit('Strange', 'x', '1'), cqrs.emit('Strange', 'x', '2');
SELECT cqrs.drain('warning');
SELECT cqrs.drain('ignoring');
SELECT cqrs.drain('stopping');
SELECT cqrs.emit('Strange', 'x', '1');
SELECT cqrs.drain('warning');
SELECT (SELECT array_agg(n ORDER BY n) FROM warning), (SELECT array_agg(n ORDER BY n) FROM ignoring), (SELECT array_agg(n ORDER BY n) FROM stopping);
SELECT cqrs.drop_projection('warning'), cqrs.drop_projection('ignoring'), cqrs.drop_projection('stopping');

-- Captured tables: whole rows, in order; a key that changes concerns both aggregates; TRUNCATE.
CREATE TABLE ev.stock (sku text, shop int, n int, note text, PRIMARY KEY (sku, shop));
SELECT cqrs.capture('ev.stock');
SELECT cqrs.create_projection('journal', columns => 'position bigint PRIMARY KEY, kind text, id text, old_n int, new_n int', seed => 'SELECT 0, ''seed''',
	handlers => jsonb_build_object('ev.stock', $$ INSERT INTO journal SELECT position, kind, aggregate_id, (old_row->>'n')::int, (new_row->>'n')::int FROM events
		WHERE coalesce(new_row->>'note', '') <> 'poison' OR (new_row->>'note')::int > 0 $$));
SELECT cqrs.drain('journal');
INSERT INTO stock VALUES ('a', 1, 10), ('b', 1, 20);
UPDATE stock SET n = n + 1 WHERE sku = 'a';
UPDATE stock SET sku = 'c' WHERE sku = 'b';
DELETE FROM stock WHERE sku = 'a';
SELECT cqrs.drain('journal');
SELECT kind, id, old_n, new_n FROM journal ORDER BY position;
UPDATE stock SET note = 'poison' WHERE sku = 'c';
INSERT INTO stock VALUES ('d', 1, 1);
UPDATE stock SET sku = 'e', note = NULL WHERE sku = 'c';
INSERT INTO stock VALUES ('e', 2, 5);
UPDATE stock SET n = 2 WHERE sku = 'e' AND shop = 1;
TRUNCATE stock;
INSERT INTO stock VALUES ('f', 1, 1);
SELECT cqrs.drain('journal');
SELECT kind, id, old_n, new_n FROM journal ORDER BY position;
SELECT (event).kind, (event).aggregate_type, (event).aggregate_id, error, behind IS NOT NULL AS behind, waiting FROM cqrs.dead_letters ORDER BY id;
SELECT cqrs.uncapture('ev.stock');
SELECT cqrs.discard((SELECT min(id) FROM cqrs.dead_letters), 'notes are not ours');
SELECT kind, id, old_n, new_n FROM journal ORDER BY position;
SELECT count(*) FROM cqrs.dead_letters;

-- What leads from one aggregate to another can be given up in the midst: what waited because of it goes on with the letter that it waits behind.
CREATE TABLE ev.crate (sku text PRIMARY KEY, n int);
SELECT cqrs.capture('ev.crate');
SELECT cqrs.create_projection('linked', columns => 'id text, n int', seed => 'SELECT ''seed'', 0',
	handlers => jsonb_build_object('ev.crate', 'INSERT INTO linked SELECT aggregate_id, 12 / (new_row->>''n'')::int FROM event'));
SELECT cqrs.drain('linked');
INSERT INTO crate VALUES ('x', 0), ('y', 1);
UPDATE crate SET n = 2 WHERE sku = 'x';
UPDATE crate SET sku = 'z' WHERE sku = 'x';
UPDATE crate SET n = 3 WHERE sku = 'z';
SELECT cqrs.drain('linked');
SELECT (event).aggregate_id, (event).new_row->>'n' AS n, behind IS NOT NULL AS behind, waiting FROM cqrs.dead_letters;
SELECT cqrs.discard(id, 'it only moves') FROM cqrs.dead_letters WHERE (event).old_row->>'sku' <> (event).new_row->>'sku';
SELECT (event).aggregate_id, (event).new_row->>'n' AS n, behind IS NOT NULL AS behind, waiting FROM cqrs.dead_letters;
SELECT cqrs.discard(min(id), 'no') FROM cqrs.dead_letters;
SELECT (event).aggregate_id, (event).new_row->>'n' AS n, behind IS NOT NULL AS behind, waiting FROM cqrs.dead_letters;
SELECT * FROM linked ORDER BY id, n DESC;
SELECT cqrs.drop_projection('linked');

-- A table that gets another name is the same table: what waits goes on waiting in order; and what is called as it was before is another.
SELECT cqrs.create_projection('renamed', columns => 'id text, n int', seed => 'SELECT ''seed'', 0',
	handlers => jsonb_build_object('ev.crate', 'INSERT INTO renamed SELECT aggregate_id, 12 / (new_row->>''n'')::int FROM event'));
SELECT cqrs.drain('renamed');
INSERT INTO crate VALUES ('p', 0), ('q', 1);
SELECT cqrs.drain('renamed');
ALTER TABLE crate RENAME TO box;
UPDATE box SET n = 2 WHERE sku IN ('p', 'q');
SELECT cqrs.drain('renamed');
SELECT (event).aggregate_type, (event).aggregate_id, (event).new_row->>'n' AS n, behind IS NOT NULL AS behind FROM cqrs.dead_letters;
SELECT cqrs.discard(min(id), 'no') FROM cqrs.dead_letters;
SELECT * FROM renamed ORDER BY id, n DESC;
SELECT cqrs.drop_projection('renamed');
SELECT cqrs.uncapture('ev.box');

-- A table that is not captured for a while: what was missed is nowhere, so it begins anew from its seed.
-- Without one it halts, and says why; nor can another be filled by a replay.
SELECT cqrs.create_projection('seedless', columns => 'kind text', handlers => '{"ev.stock": "INSERT INTO seedless SELECT kind FROM event"}');
SELECT cqrs.drain('seedless');
SELECT kind, count(*) FROM seedless GROUP BY kind ORDER BY kind;
ALTER TABLE stock DISABLE TRIGGER USER;
INSERT INTO stock VALUES ('g', 1, 1);
SELECT cqrs.drain('journal');
SELECT kind, id, old_n, new_n FROM journal ORDER BY position;
SELECT cqrs.drain('seedless');
SELECT cqrs.resume('seedless');
SELECT cqrs.drain('seedless');
SELECT kind, count(*) FROM seedless GROUP BY kind ORDER BY kind;
SELECT cqrs.create_projection('another', columns => 'kind text', handlers => '{"ev.stock": "INSERT INTO another SELECT kind FROM event"}');
SELECT cqrs.drain('another');
SELECT cqrs.drop_projection('seedless'), cqrs.drop_projection('another');
SELECT cqrs.drop_projection('journal');
SELECT cqrs.uncapture('ev.stock');

-- A handler may write to other tables and emit: what it emits is applied in a later batch, and one that emits what it handles does not loop within one.
CREATE TABLE ev.log (what text);
SELECT cqrs.create_projection('echo', columns => 'n int PRIMARY KEY', handlers => jsonb_build_object('Ping',
	$$ INSERT INTO echo SELECT (payload->>'n')::int FROM event; INSERT INTO ev.log SELECT 'pinged ' || (payload->>'n') FROM event;
	   SELECT cqrs.emit('Ping', 'ping', aggregate_id, jsonb_build_object('n', (payload->>'n')::int + 1)) FROM event $$));
SELECT cqrs.drain('echo');
SELECT cqrs.emit('Ping', 'ping', 'p', '{"n": 1}');
SELECT cqrs.drain('echo');
SELECT cqrs.drain('echo');
SELECT cqrs.drain('echo');
SELECT array_agg(n ORDER BY n) FROM echo;
SELECT * FROM ev.log ORDER BY 1;
BEGIN;
SELECT cqrs.drain('echo');
SELECT cqrs.drain('echo');
ROLLBACK;
SELECT cqrs.drop_projection('echo');

-- A handler that calls drain, that writes to another's table, that leaves settings behind.
SELECT cqrs.create_projection('victim', 'SELECT id FROM ev.plain');
SELECT cqrs.create_projection('bad', columns => 'n int', handlers => jsonb_build_object(
	'Drains', 'SELECT cqrs.drain()', 'Writes', 'INSERT INTO ev.thief SELECT 1',
	'Sets', 'INSERT INTO bad SELECT 1 FROM set_config(''search_path'', ''pg_catalog'', false) s, set_config(''TimeZone'', ''Asia/Tokyo'', false) t, event'));
CREATE FUNCTION ev.steal(cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('INSERT INTO %s VALUES (1)', (SELECT "table" FROM cqrs_internal.version v
	JOIN cqrs_internal.projection p ON p.id = v.projection WHERE p.view = 'ev.victim'::regclass)); END $$;
SELECT cqrs.create_projection('bad', columns => 'n int', handlers => jsonb_build_object('Drains', 'SELECT cqrs.drain()', 'Writes', 'ev.steal',
	'Sets', 'INSERT INTO bad SELECT 1 FROM set_config(''search_path'', ''pg_catalog'', false) s, set_config(''TimeZone'', ''Asia/Tokyo'', false) t, event'));
SET TimeZone = 'UTC';
SELECT cqrs.emit('Drains', 'x', 'drains'), cqrs.emit('Writes', 'x', 'writes'), cqrs.emit('Sets', 'x', 'sets'), cqrs.emit('Sets', 'x', 'sets');
SELECT cqrs.drain();
SELECT (event).event_type, error FROM cqrs.dead_letters ORDER BY id;
SELECT * FROM bad;
SELECT cqrs.drain('victim');
SELECT * FROM victim;
SHOW search_path;
SHOW TimeZone;
SELECT cqrs.drop_projection('bad'), cqrs.drop_projection('victim');

-- Who may: events are read by who may read the outbox, tables by who may read them.
CREATE ROLE regress_ev;
GRANT ALL ON SCHEMA ev TO regress_ev;
GRANT CREATE ON DATABASE :DBNAME TO regress_ev;
SELECT cqrs.emit('Seen', 'x', 's');
SET ROLE regress_ev;
SELECT cqrs.create_projection('ev.seen', columns => 'n int', handlers => '{"Seen": "INSERT INTO seen SELECT 1 FROM event"}');
RESET ROLE;
GRANT SELECT ON cqrs.outbox TO regress_ev;
SET ROLE regress_ev;
SELECT cqrs.create_projection('ev.seen', columns => 'n int', handlers => '{"Seen": "INSERT INTO seen SELECT 1 / (CASE WHEN aggregate_id = ''z'' THEN 0 ELSE 1 END) FROM event"}');
SELECT cqrs.drain('ev.seen');
SELECT * FROM ev.seen;
RESET ROLE;
SELECT cqrs.emit('Seen', 'x', 'z');
REVOKE SELECT ON cqrs.outbox FROM regress_ev;
SELECT cqrs.drain('ev.seen');
GRANT SELECT ON cqrs.outbox TO regress_ev;
SELECT cqrs.drain('ev.seen');
CREATE ROLE regress_ev_other;
GRANT USAGE ON SCHEMA ev TO regress_ev_other;
SET ROLE regress_ev_other;
SELECT projection::text, event, error, context FROM cqrs.dead_letters;
SELECT cqrs.retry((SELECT id FROM cqrs.dead_letters));
SELECT cqrs.discard((SELECT id FROM cqrs.dead_letters), 'mine');
SELECT cqrs.retry_all('ev.seen');
RESET ROLE;
SELECT cqrs.drop_projection('ev.seen');
REVOKE ALL ON cqrs.outbox FROM regress_ev;

-- What a handler cannot do for any event is none's fault: nothing is parked for it, and it is applied once that is mended.  In a function it may be this event's.
CREATE TABLE ev.elsewhere (id text);
CREATE FUNCTION ev.writes(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO ev.elsewhere VALUES (e.aggregate_id); END $$;
GRANT SELECT ON cqrs.outbox TO regress_ev;
GRANT INSERT ON ev.elsewhere TO regress_ev;
SET ROLE regress_ev;
SELECT cqrs.create_projection('ev.outside', columns => 'id text', seed => 'SELECT ''seed''',
	handlers => '{"Table": "INSERT INTO ev.elsewhere SELECT aggregate_id FROM event", "Function": "ev.writes"}');
SELECT cqrs.drain('ev.outside');
RESET ROLE;
SELECT cqrs.emit('Table', 'x', 't1'), cqrs.emit('Function', 'x', 'f1');
SELECT cqrs.drain('ev.outside');
REVOKE INSERT ON ev.elsewhere FROM regress_ev;
SELECT cqrs.emit('Table', 'x', 't2'), cqrs.emit('Table', 'x', 't3');
SELECT cqrs.drain('ev.outside');
SELECT count(*) FROM cqrs.dead_letters;
GRANT INSERT ON ev.elsewhere TO regress_ev;
SELECT cqrs.drain('ev.outside');
REVOKE EXECUTE ON FUNCTION ev.writes FROM PUBLIC;
SELECT cqrs.emit('Function', 'x', 'f2');
SELECT cqrs.drain('ev.outside');
SELECT count(*) FROM cqrs.dead_letters;
GRANT EXECUTE ON FUNCTION ev.writes TO PUBLIC;
REVOKE INSERT ON ev.elsewhere FROM regress_ev;
SELECT cqrs.drain('ev.outside');
SELECT (event).aggregate_id, error, attempts FROM cqrs.dead_letters;
REVOKE EXECUTE ON FUNCTION ev.writes FROM PUBLIC;
SELECT cqrs.retry_all('ev.outside');
SELECT (event).aggregate_id, error, attempts FROM cqrs.dead_letters;
GRANT EXECUTE ON FUNCTION ev.writes TO PUBLIC;
GRANT INSERT ON ev.elsewhere TO regress_ev;
SELECT cqrs.retry_all('ev.outside');
DROP FUNCTION ev.writes;
SELECT cqrs.emit('Table', 'x', 't4'), cqrs.emit('Function', 'x', 'f4'), cqrs.emit('Table', 'x', 't5');
SELECT cqrs.drain('ev.outside');
SELECT count(*) FROM cqrs.dead_letters;
SELECT array_agg(id ORDER BY id) FROM ev.elsewhere;
SELECT cqrs.drop_projection('ev.outside');
REVOKE ALL ON cqrs.outbox FROM regress_ev;

-- Without a primary key the whole row tells rows apart, for publications.
SELECT cqrs.create_projection('bag', columns => 'n int', handlers => '{"Never": "INSERT INTO bag SELECT 1"}');
SELECT c.relreplident FROM cqrs_internal.version v JOIN pg_class c ON c.oid = v.table WHERE c.relname = 'bag';
SELECT cqrs.drop_projection('bag');

SELECT cqrs.drop_projection('order_summary');
SET client_min_messages = warning;
DROP SCHEMA ev CASCADE;
DROP OWNED BY regress_ev, regress_ev_other;
DROP ROLE regress_ev, regress_ev_other;

-- Made again, the extension's ids begin again: handlers of an older one, and what was counted for it, are not taken for the new one's.
SELECT current_database() AS here \gset
CREATE DATABASE cqrs_events_test;
\c cqrs_events_test
SET client_min_messages = warning;
CREATE EXTENSION cqrs;
SELECT cqrs.create_projection('old', columns => 'what text', handlers => '{"Seen": "INSERT INTO old SELECT ''old'' FROM event"}');
SELECT cqrs.drain('old');
SELECT cqrs.emit('Seen', 'x', '1');
SELECT cqrs.drain('old');
SELECT * FROM old;
DROP EXTENSION cqrs CASCADE;
CREATE EXTENSION cqrs;
SELECT cqrs.create_projection('new', columns => 'what text', handlers => '{"Seen": "INSERT INTO new SELECT ''new'' FROM event"}');
SELECT cqrs.drain('new');
SELECT cqrs.emit('Seen', 'x', '1');
SELECT cqrs.drain('new');
SELECT * FROM new;
BEGIN;
SELECT cqrs.emit('Seen', 'x', '1');
DROP EXTENSION cqrs CASCADE;
CREATE EXTENSION cqrs;
SELECT cqrs.emit('Seen', 'x', '1'), cqrs.emit('Seen', 'x', '1');
ROLLBACK;
\c :here
DROP DATABASE cqrs_events_test;
