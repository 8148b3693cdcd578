-- Read your own writes.  If this fails, a reader is told that a projection shows a command's changes when it does not, or waits where nothing
-- can come.  No worker runs here, so no wait may take any time.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA token_test;
SET search_path = token_test;
CREATE TABLE orders (id integer PRIMARY KEY, customer text, total numeric);
CREATE TABLE elsewhere (id integer);
INSERT INTO orders VALUES (1, 'ann', 10), (2, 'bob', 20);
SELECT cqrs.create_projection('totals', 'SELECT customer, sum(total) AS total FROM orders GROUP BY customer');
SELECT cqrs.create_projection('others', 'SELECT id FROM elsewhere', ARRAY['id']);
SELECT cqrs.token() AS first \gset

-- While it is being built it shows nothing, whatever the token; a wait does not last an hour for a worker that is not there.
SELECT cqrs.caught_up('totals', :'first'), cqrs.wait_for('totals', :'first', '1 hour');
SELECT cqrs.drain('totals'), cqrs.drain('others');
SELECT cqrs.caught_up('totals', :'first'), cqrs.wait_for('totals', :'first', '1 hour');

-- A token is its transaction's id, and stays the same in it.
BEGIN;
SELECT pg_typeof(cqrs.token()), cqrs.token() = pg_current_xact_id() AS own, cqrs.token() = cqrs.token() AS stays;
COMMIT;

-- A change is pending until it is applied.
BEGIN;
INSERT INTO orders VALUES (3, 'ann', 5);
SELECT cqrs.token() AS t \gset
COMMIT;
SELECT cqrs.caught_up('totals', :'t'), cqrs.wait_for('totals', :'t', '1 hour'), cqrs.wait_for('totals', :'t', '0');
SELECT cqrs.drain('totals');
SELECT cqrs.caught_up('totals', :'t'), cqrs.wait_for('totals', :'t', '0');
SELECT * FROM totals ORDER BY customer;

-- A token covers everything committed before it was drawn, also by transactions of their own.
UPDATE orders SET total = 6 WHERE id = 3;
SELECT cqrs.token() AS t \gset
SELECT cqrs.caught_up('totals', :'t');
SELECT cqrs.caught_up('totals', :'first');
SELECT cqrs.drain('totals');
SELECT cqrs.caught_up('totals', :'t');

-- A transaction that changed nothing, one that changed what the projection does not read, and one that rolled back leave nothing to wait for.
SELECT cqrs.token() AS nothing \gset
BEGIN;
INSERT INTO elsewhere VALUES (1);
SELECT cqrs.token() AS unread \gset
COMMIT;
BEGIN;
INSERT INTO orders VALUES (4, 'cy', 1);
SELECT cqrs.token() AS undone \gset
ROLLBACK;
SELECT cqrs.caught_up('totals', :'nothing'), cqrs.caught_up('totals', :'unread'), cqrs.caught_up('totals', :'undone');
SELECT cqrs.caught_up('others', :'unread');

-- A transaction that is prepared has not ended; and others' changes do not wait for it.
BEGIN;
INSERT INTO orders VALUES (5, 'dee', 1);
SELECT cqrs.token() AS prepared \gset
PREPARE TRANSACTION 'cqrs_token';
BEGIN;
INSERT INTO orders VALUES (6, 'eve', 1);
SELECT cqrs.token() AS later \gset
COMMIT;
SELECT cqrs.caught_up('totals', :'prepared'), cqrs.caught_up('totals', :'later');
SELECT cqrs.drain('totals');
SELECT cqrs.caught_up('totals', :'prepared'), cqrs.caught_up('totals', :'later');
COMMIT PREPARED 'cqrs_token';
SELECT cqrs.caught_up('totals', :'prepared');
SELECT cqrs.drain('totals');
SELECT cqrs.caught_up('totals', :'prepared'), cqrs.caught_up('totals', :'later');

-- Changes in savepoints are their top-level transaction's.
BEGIN;
SAVEPOINT a;
INSERT INTO orders VALUES (7, 'fay', 1);
SELECT cqrs.token() AS t \gset
RELEASE a;
SAVEPOINT b;
SELECT cqrs.token() = :'t' AS the_same;
ROLLBACK TO b;
COMMIT;
SELECT cqrs.caught_up('totals', :'t');
SELECT cqrs.drain('totals');
SELECT cqrs.caught_up('totals', :'t');

-- Paused: nothing can arrive, but what has arrived has.
SELECT cqrs.pause('totals');
SELECT cqrs.token() AS t \gset
SELECT cqrs.wait_for('totals', :'t', '1 hour');
INSERT INTO orders VALUES (8, 'hal', 1);
SELECT cqrs.token() AS t \gset
SELECT cqrs.wait_for('totals', :'t', '1 hour');
SELECT cqrs.resume('totals');
SELECT cqrs.drain('totals');
SELECT cqrs.caught_up('totals', :'t');

-- A read-only transaction may draw a token and ask.
BEGIN READ ONLY;
SELECT cqrs.token() IS NOT NULL AS drawn, cqrs.caught_up('totals', :'t');
COMMIT;

-- Anybody may, who can name the projection: nothing of any row is told.
CREATE ROLE regress_cqrs_token;
GRANT USAGE ON SCHEMA token_test TO regress_cqrs_token;
SET ROLE regress_cqrs_token;
SELECT cqrs.token() IS NOT NULL AS drawn, cqrs.caught_up('totals', :'t'), cqrs.wait_for('totals', :'t');
SELECT * FROM totals;
RESET ROLE;

-- Bad input: one's own open transaction, also inside a savepoint; and a token that nobody has been given.  Their numbers are not shown.
\set VERBOSITY sqlstate
BEGIN;
SELECT cqrs.caught_up('totals', cqrs.token());
ROLLBACK;
SELECT regexp_replace(:'LAST_ERROR_MESSAGE', '\d+', 'N') AS message;
BEGIN;
SAVEPOINT a;
SELECT cqrs.wait_for('totals', cqrs.token());
ROLLBACK;
SELECT cqrs.wait_for('totals', cqrs.token());
SELECT cqrs.caught_up('totals', ((:'t'::xid8)::text::numeric + 1000000)::text::xid8);
SELECT regexp_replace(:'LAST_ERROR_MESSAGE', '\d+', 'N') AS message;
SELECT cqrs.wait_for('totals', '18446744073709551615', '1 hour');
\set VERBOSITY default
SELECT cqrs.caught_up('totals', '0');
SELECT cqrs.caught_up('totals', '3');
SELECT cqrs.caught_up('totals', NULL) IS NULL AS nothing, cqrs.wait_for('totals', :'t', NULL) IS NULL AS nothing;

-- Bad input: a negative timeout, one beyond the calendar, no projection, no relation.
SELECT cqrs.wait_for('totals', :'t', '-1 ms');
SELECT cqrs.wait_for('totals', :'t', '1 month -31 days');
SELECT cqrs.wait_for('totals', :'t', '300000 years');
SELECT cqrs.caught_up('orders', :'t');
SELECT cqrs.wait_for('no_such_view', '5');
SELECT cqrs.wait_for(0::regclass, :'t');

SELECT cqrs.drop_projection('totals'), cqrs.drop_projection('others');
SET client_min_messages = warning;
DROP SCHEMA token_test CASCADE;
DROP ROLE regress_cqrs_token;
