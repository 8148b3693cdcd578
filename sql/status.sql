-- What there is to see.  If this fails, somebody who looks is told that all is well when it is not, sees nothing, or sees what is not theirs to see.
-- No worker runs here, and the views must say so.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE ROLE regress_cqrs_owner;
CREATE ROLE regress_cqrs_reader;
CREATE SCHEMA status_test;
GRANT ALL ON SCHEMA status_test TO regress_cqrs_owner;
GRANT USAGE ON SCHEMA status_test TO regress_cqrs_reader;
SET search_path = status_test;

-- The columns are those that people's dashboards name.
SELECT c.relname AS view, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'cqrs'::regnamespace AND a.attnum > 0
	AND c.relname IN ('projections', 'versions', 'checkpoints', 'lag', 'sources', 'workers', 'build_progress', 'history')
GROUP BY c.relname ORDER BY c.relname;

SET ROLE regress_cqrs_owner;
CREATE TABLE customer (id integer PRIMARY KEY, name text, unread text);
CREATE TABLE "Order" (id integer PRIMARY KEY, customer integer, total numeric, secret text);
INSERT INTO customer SELECT i, 'c' || i FROM generate_series(1, 3) AS i;
INSERT INTO "Order" SELECT i, 1 + i % 3, i, 's' FROM generate_series(1, 9) AS i;
SELECT cqrs.create_projection('pages', 'SELECT o.id, c.name, o.total FROM "Order" o JOIN customer c ON c.id = o.customer',
							  ARRAY['id'], max_lag => '1 hour', description => 'a page an order');
SELECT cqrs.create_projection('top', 'SELECT total, id FROM "Order" ORDER BY total DESC, id LIMIT 3', ARRAY['id']);
RESET ROLE;
CREATE VIEW ours AS SELECT unnest(ARRAY['pages', 'top']::regclass[]) AS projection;
-- The launcher has been asked to look at this database; until it has, a worker may yet come.
DO $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXIT WHEN (SELECT bool_and(health = 'no worker') FROM cqrs.lag JOIN ours USING (projection));
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;

-- Before the fill there is nothing to measure, and nobody is within an objective.
SELECT projection, version, health, lag, pending, as_of, max_lag, within_objective FROM cqrs.lag JOIN ours USING (projection) ORDER BY 1;
SELECT projection, version, state, status, strategy, error, retry_at, bytes > 0 AS sized FROM cqrs.versions JOIN ours USING (projection) ORDER BY 1;
SELECT * FROM cqrs.checkpoints JOIN ours USING (projection);
SELECT * FROM cqrs.freshness('pages');
SELECT source, watched, imaged FROM cqrs.sources WHERE source IN ('"Order"'::regclass, 'customer') ORDER BY source::text;

SELECT cqrs.drain('pages'), cqrs.drain('top');
SELECT projection, owner, kind, version, max_lag, on_error, row_filter, description FROM cqrs.projections JOIN ours USING (projection) ORDER BY 1;
SELECT projection, version, state, status, strategy, error, retry_at, created_at <= now() AS created, bytes > 0 AS sized
FROM cqrs.versions JOIN ours USING (projection) ORDER BY 1;
SELECT projection, version, pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot()) AS past, position, as_of <= now() AS past
FROM cqrs.checkpoints JOIN ours USING (projection) ORDER BY 1;
SELECT source, watched, imaged, why FROM cqrs.sources WHERE source IN ('"Order"'::regclass, 'customer') ORDER BY source::text;

-- Lag is what the reader finds in the outbox: of the sources that the version reads, and of no others.
UPDATE "Order" SET total = total + 1 WHERE id <= 5;
UPDATE customer SET name = upper(name);
SELECT projection, version, health, lag > '0' AND lag < '1 hour' AS waits, pending, max_lag, within_objective
FROM cqrs.lag JOIN ours USING (projection) ORDER BY 1;
SELECT version, state, status, lag > '0' AS waits, pending, within_objective FROM cqrs.freshness('pages');
SELECT cqrs.drain('pages');
SELECT projection, health, lag > '0' AS waits, pending, within_objective FROM cqrs.lag JOIN ours USING (projection) ORDER BY 1;
SELECT version, state, status, lag, pending, position > 0 AS positioned, within_objective FROM cqrs.freshness('pages');

-- An objective that is missed.
SELECT cqrs.alter_projection('top', max_lag => '1 microsecond');
SELECT within_objective FROM cqrs.freshness('top');
SELECT cqrs.drain('top');
SELECT within_objective FROM cqrs.freshness('top');

-- Counting has an end.
INSERT INTO "Order" SELECT i, 1, 0 FROM generate_series(100, 20099) AS i;
SELECT pending FROM cqrs.freshness('pages');
DELETE FROM "Order" WHERE id >= 100;
SELECT cqrs.drain('pages') > 0, cqrs.drain('top') > 0;
SELECT count(*) AS differences FROM cqrs.verify('pages');

-- What is not committed is not pending, also in a transaction that asks after changes of its own.
BEGIN;
INSERT INTO "Order" VALUES (10, 1, 1);
SELECT pending, lag FROM cqrs.freshness('pages');
ROLLBACK;

-- Who holds a version is named.
BEGIN;
SELECT cqrs.drain('pages');
SELECT held_by = pg_backend_pid() AS mine FROM cqrs.lag WHERE projection = 'pages'::regclass;
COMMIT;
SELECT held_by FROM cqrs.lag JOIN ours USING (projection);

-- Paused, halted, failing, stale: as users read it, the worst first.
SELECT cqrs.pause('pages');
INSERT INTO "Order" VALUES (11, 1, 1);
SELECT health, pending FROM cqrs.lag WHERE projection = 'pages'::regclass;
SELECT status FROM cqrs.versions WHERE projection = 'pages'::regclass;
SELECT state, status, pending FROM cqrs.freshness('pages');
UPDATE cqrs_internal.version SET status = 'halted', error = 'key (id)=(7) is duplicated' WHERE "table"::text LIKE '%pages%';
SELECT health, pending, within_objective FROM cqrs.lag WHERE projection = 'pages'::regclass;
SELECT status, error FROM cqrs.versions WHERE projection = 'pages'::regclass;
SELECT cqrs.resume('pages');
UPDATE cqrs_internal.version SET status = 'failing', error = 'division by zero', retry_at = '2030-01-01 00:00+00' WHERE "table"::text LIKE '%pages%';
SELECT health FROM cqrs.lag WHERE projection = 'pages'::regclass;
SELECT status, error, retry_at = '2030-01-01 00:00+00' AS retried FROM cqrs.versions WHERE projection = 'pages'::regclass;

-- An error may quote data, so it is not everybody's; the rest is.
SET ROLE regress_cqrs_owner;
SELECT status, error FROM cqrs.versions WHERE projection = 'pages'::regclass;
SET ROLE regress_cqrs_reader;
SELECT status, error FROM cqrs.versions WHERE projection = 'pages'::regclass;
SELECT projection, version, health, pending FROM cqrs.lag WHERE projection = 'pages'::regclass;
SELECT version, state, status, pending FROM cqrs.freshness('pages');
SELECT count(*) > 0 AS seen FROM cqrs.projections;
SELECT count(*) > 0 AS seen FROM cqrs.checkpoints;
SELECT count(*) > 0 AS seen FROM cqrs.sources;
SELECT count(*) > 0 AS seen FROM cqrs.history;
SELECT count(*) >= 0 AS seen FROM cqrs.workers;
SELECT * FROM pages;
SELECT * FROM cqrs_internal.version;
SELECT cqrs_internal.measure(1);
RESET ROLE;
GRANT pg_read_all_data TO regress_cqrs_reader;
SET ROLE regress_cqrs_reader;
SELECT error FROM cqrs.versions WHERE projection = 'pages'::regclass;
RESET ROLE;

-- A stale version has no lag to speak of: what it holds is not what its checkpoint says.
UPDATE cqrs_internal.version SET status = 'stale', error = NULL, retry_at = NULL WHERE "table"::text LIKE '%pages%';
SELECT lag, pending, within_objective FROM cqrs.lag WHERE projection = 'pages'::regclass;
SELECT status FROM cqrs.versions WHERE projection = 'pages'::regclass;
SELECT status, lag, pending, within_objective FROM cqrs.freshness('pages');
SELECT cqrs.drain('pages') > 0 AS healed;
SELECT status FROM cqrs.versions WHERE projection = 'pages'::regclass;

-- So does one whose checkpoint speaks of another cluster's transactions, or of ones that are not there yet.
UPDATE cqrs_internal.checkpoint SET system_identifier = system_identifier + 1
WHERE version = (SELECT id FROM cqrs_internal.version WHERE "table"::text LIKE '%pages%');
SELECT lag, pending FROM cqrs.lag WHERE projection = 'pages'::regclass;
SELECT status FROM cqrs.versions WHERE projection = 'pages'::regclass;
SELECT cqrs.drain('pages') IS NOT NULL AS healed;
SELECT status FROM cqrs.versions WHERE projection = 'pages'::regclass;
-- Each part of what tells whose transactions they are counts: a copy has the same system identifier, and the same database where it is restored into its own; in a
-- younger cluster a checkpoint can be of the future.  What such a checkpoint says to be applied is pending, and is not lost.
SELECT statement FROM unnest(ARRAY['system_identifier = system_identifier + 1, snapshot = pg_current_snapshot()', 'database = 1, snapshot = pg_current_snapshot()',
	'registry = 1, snapshot = pg_current_snapshot()', 'snapshot = format(''%1$s:%1$s:'', pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 1000)::pg_snapshot']) AS change,
	LATERAL (VALUES ('UPDATE "Order" SET total = total + 1 WHERE id <= 5'),
		(format('UPDATE cqrs_internal.checkpoint SET %s WHERE version = (SELECT id FROM cqrs_internal.version WHERE "table"::text LIKE ''%%pages%%'')', change)),
		('SELECT v.status, l.lag, l.pending, cqrs.caught_up(''pages'', ''3'') FROM cqrs.lag l JOIN cqrs.versions v USING (projection) WHERE projection = ''pages''::regclass'),
		('SELECT cqrs.drain(''pages'') IS NOT NULL AS healed'),
		('SELECT status, (SELECT count(*) FROM cqrs.verify(''pages'')) AS differences FROM cqrs.versions WHERE projection = ''pages''::regclass')) AS s (statement) \gexec

-- Nor is one to be trusted while changes pass by its capture; whoever looks first sees it, not only the next batch.
SELECT cqrs.token() AS t \gset
SELECT cqrs.caught_up('pages', :'t');
SET client_min_messages = error;
ALTER TABLE "Order" DISABLE TRIGGER USER;
RESET client_min_messages;
UPDATE "Order" SET total = 77 WHERE id = 7;
SELECT projection, status FROM cqrs.versions JOIN ours USING (projection) ORDER BY 1;
SELECT lag, pending, within_objective FROM cqrs.lag WHERE projection = 'pages'::regclass;
SELECT cqrs.caught_up('pages', :'t');
SELECT cqrs.drain('pages') IS NOT NULL AS evaluated;
SELECT total FROM pages WHERE id = 7;
-- drain has it captured again; whoever else reads it is stale until a full evaluation of its own, or its changes would be lost to it.
SELECT projection, status FROM cqrs.versions JOIN ours USING (projection) ORDER BY 1;
SELECT cqrs.drain('top') IS NOT NULL AS evaluated;
SELECT projection, status FROM cqrs.versions JOIN ours USING (projection) ORDER BY 1;
SELECT cqrs.caught_up('pages', :'t'), cqrs.caught_up('top', :'t');
SELECT count(*) AS differences FROM cqrs.verify('pages');

-- Looking does not wait for who holds a lock: another session's is played by a prepared transaction.
BEGIN;
LOCK TABLE "Order" IN ACCESS EXCLUSIVE MODE;
PREPARE TRANSACTION 'cqrs_status';
SET statement_timeout = '20s';
SELECT projection, state, status, strategy, bytes > 0 AS sized FROM cqrs.versions JOIN ours USING (projection) ORDER BY 1;
SELECT projection, health, pending FROM cqrs.lag JOIN ours USING (projection) ORDER BY 1;
SELECT source, watched FROM cqrs.sources WHERE source = '"Order"'::regclass;
ROLLBACK PREPARED 'cqrs_status';
RESET statement_timeout;

DROP VIEW ours;

-- History keeps what happened, also of what is gone.
SET ROLE regress_cqrs_owner;
SELECT cqrs.drop_projection('top');
RESET ROLE;
SELECT actor = SESSION_USER AS by_us, projection, version, event, from_state, to_state, reason FROM cqrs.history
WHERE projection IN ('pages', 'status_test.top');

-- Bad input.
SELECT * FROM cqrs.freshness('pg_class');
SELECT * FROM cqrs.freshness('no_such_view');
SELECT * FROM cqrs.freshness(NULL);

-- A definition that went with its source stops the version, even before anybody has come to say so.
SET client_min_messages = warning;
DROP TABLE customer CASCADE;
RESET client_min_messages;
SELECT state, status, strategy FROM cqrs.versions WHERE projection = 'pages'::regclass;
SELECT health, lag, pending, within_objective FROM cqrs.lag WHERE projection = 'pages'::regclass;
SELECT status, lag, pending FROM cqrs.freshness('pages');
SELECT source IS NOT NULL AS listed, watched, imaged FROM cqrs.sources WHERE why LIKE 'pages%' ORDER BY watched;
SELECT cqrs.caught_up('pages', :'t'), cqrs.wait_for('pages', :'t', '1 hour');

SELECT cqrs.drop_projection('pages');
SET client_min_messages = warning;
DROP SCHEMA status_test CASCADE;
DROP OWNED BY regress_cqrs_owner;
DROP ROLE regress_cqrs_owner, regress_cqrs_reader;
