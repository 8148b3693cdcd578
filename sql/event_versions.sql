-- Versions of read models that handlers define: rebuilt from the outbox, changed, switched to and back, each with its dead letters.  If this fails, an event is lost to
-- one of them, or counted twice, on the way.
SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS cqrs;
CREATE SCHEMA event_versions;
SET search_path = event_versions;

CREATE FUNCTION paid(account text, amount text) RETURNS void LANGUAGE sql AS $$
    SELECT cqrs.emit('EventVersionsPaid', 'event_versions', account, jsonb_build_object('amount', amount)) $$;
CREATE VIEW states AS SELECT version, state, status FROM cqrs.versions WHERE projection::text = 'totals' ORDER BY version;
CREATE VIEW truth AS
    SELECT aggregate_id AS id, count(*)::integer AS n, sum((payload ->> 'amount')::numeric) AS total
    FROM cqrs.outbox WHERE event_type = 'EventVersionsPaid' GROUP BY 1;

SELECT cqrs.create_projection('totals', columns => 'id text PRIMARY KEY, n integer, total numeric', handlers => '{"EventVersionsPaid":
    "INSERT INTO totals AS t SELECT aggregate_id, count(*), sum((payload ->> ''amount'')::numeric) FROM events GROUP BY 1 ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n, total = t.total + excluded.total"}');
SELECT count(paid((g % 5)::text, g::text)) FROM generate_series(1, 20) g;
DO $$ BEGIN PERFORM cqrs.drain('totals'); END $$;
SELECT * FROM totals ORDER BY id;

-- Rebuilt, it replays what the outbox retains.
SELECT cqrs.rebuild('totals');
SELECT paid('1', '100');
DO $$ BEGIN PERFORM cqrs.drain('totals'); END $$;
SELECT * FROM states;
SELECT count(*) AS differences FROM (TABLE totals EXCEPT ALL TABLE truth UNION ALL (TABLE truth EXCEPT ALL TABLE totals)) d;
SELECT * FROM cqrs.compare('totals', 1);

-- With other handlers and a column more, beside the one that serves.
SELECT cqrs.create_version('totals', columns => 'id text PRIMARY KEY, n integer, total numeric, latest numeric', handlers => '{"EventVersionsPaid":
    "INSERT INTO totals AS t SELECT aggregate_id, 1, amount, amount FROM (SELECT aggregate_id, (payload ->> ''amount'')::numeric AS amount FROM event) e ON CONFLICT (id) DO UPDATE SET n = t.n + 1, total = t.total + excluded.total, latest = excluded.latest"}');
DO $$ BEGIN PERFORM cqrs.drain('totals'); END $$;
SELECT * FROM states;
SELECT * FROM cqrs.compare('totals', 3);
SELECT paid('2', '7');
SELECT cqrs.switch('totals');
SELECT * FROM totals ORDER BY id;

-- What one cannot digest is parked for each, and waits for each.
SELECT paid('1', 'a lot'), paid('1', '5'), paid('3', '1');
DO $$ BEGIN PERFORM cqrs.drain('totals'); END $$;
SELECT version, (event).aggregate_id, (event).payload, error, waiting FROM cqrs.dead_letters WHERE (event).event_type = 'EventVersionsPaid' ORDER BY id;
SELECT id, n, total FROM totals WHERE id IN ('1', '3') ORDER BY id;
SELECT cqrs.discard(min(id), 'not an amount') FROM cqrs.dead_letters WHERE version = 3 AND (event).event_type = 'EventVersionsPaid';
SELECT id, n, total, latest FROM totals WHERE id = '1';

-- Back again: it lacks nothing but what waits behind its own dead letter.
SELECT cqrs.switch_back('totals');
SELECT id, n, total FROM totals WHERE id IN ('1', '2', '3') ORDER BY id;
SELECT cqrs.discard(min(id), 'not an amount') FROM cqrs.dead_letters WHERE version = 2 AND (event).event_type = 'EventVersionsPaid';
SELECT id, n, total FROM totals WHERE id = '1';
SELECT * FROM cqrs.compare('totals', 3);

SELECT cqrs.retire('totals', 1);
SELECT count(*) AS letters_of_the_retired FROM cqrs.dead_letters WHERE version = 1 AND (event).event_type = 'EventVersionsPaid';
SELECT * FROM states;
SELECT version, event, from_state, to_state, reason FROM cqrs.history
WHERE projection = 'totals' AND from_state IS NOT NULL AND at >= (SELECT min(created_at) FROM cqrs.versions WHERE projection::text = 'totals');

-- What one has parked goes with it, and history says so.
SELECT paid('9', 'a lot'), paid('9', '1');
DO $$ BEGIN PERFORM cqrs.drain('totals'); END $$;
SELECT cqrs.retire('totals', 3);
SELECT version, event, reason FROM cqrs.history WHERE event = 'discarded' ORDER BY at DESC LIMIT 1;
SELECT version, (event).aggregate_id, waiting FROM cqrs.dead_letters WHERE error IS NOT NULL AND (event).event_type = 'EventVersionsPaid' ORDER BY id;

SELECT cqrs.drop_projection('totals');
DROP SCHEMA event_versions CASCADE;
