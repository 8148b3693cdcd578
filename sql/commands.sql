-- Commands: each id is executed once, by whoever may, and what came of it is known.  If this fails, a retry does something twice, or not at all, or somebody
-- does or sees what he has no right to.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA commands_test;
SET search_path = commands_test;
CREATE VIEW calls AS SELECT id, command, actor, role, result, replayed FROM cqrs.commands ORDER BY at;

CREATE TABLE accounts (id text PRIMARY KEY, balance integer NOT NULL CHECK (balance >= 0));
INSERT INTO accounts VALUES ('ada', 10), ('bob', 0);
CREATE FUNCTION transfer(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    amount integer := payload ->> 'amount';
    left_over integer;
BEGIN
    UPDATE accounts SET balance = balance + amount WHERE id = payload ->> 'to';
    UPDATE accounts SET balance = balance - amount WHERE id = payload ->> 'from' RETURNING balance INTO left_over;
    PERFORM cqrs.emit('Transferred', 'account', payload ->> 'from', payload);
    RETURN jsonb_build_object('left', left_over);
END$$;
SELECT cqrs.create_command('transfer', 'transfer(jsonb)');
SELECT * FROM cqrs.command_handlers WHERE command = 'transfer';

-- Once, however often it is asked for; the token is that of the first transaction.
BEGIN;
SELECT cqrs.token() AS token \gset
SELECT cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 3}', 't-1') - 'token' AS answer;
COMMIT;
SELECT answer - 'token' AS answer, answer ->> 'token' = :'token' AS same_token, jsonb_typeof(answer -> 'token') AS type
FROM cqrs.execute('transfer', '{"amount": 3, "to": "bob", "from": "ada"}', 't-1') AS answer;
SELECT (cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 3}', 't-1'))['replayed'];
TABLE accounts;
TABLE calls;
SELECT token::text = :'token' AS token, payload_hash = sha256(convert_to('{"to": "bob", "from": "ada", "amount": 3}'::jsonb::text, 'UTF8')) AS hash,
       duration > '0' AS took_time, at BETWEEN now() - interval '1 min' AND clock_timestamp() AS just_now
FROM cqrs.commands WHERE id = 't-1';

-- Another payload, another command: an error, and nothing done.
SELECT cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 4}', 't-1');
CREATE FUNCTION nothing(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
SELECT cqrs.create_command('nothing', 'nothing(jsonb)');
\set VERBOSITY sqlstate
SELECT cqrs.execute('nothing', '{"from": "ada", "to": "bob", "amount": 3}', 't-1');
\set VERBOSITY default
SELECT cqrs.execute('nothing', '{"from": "ada", "to": "bob", "amount": 3}', 't-1');
TABLE accounts;

-- A command that failed left nothing behind, and may be retried under its id, also with another payload.
SELECT cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 30}', 't-2');
SELECT count(*) FROM calls WHERE id = 't-2';
SELECT cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 2}', 't-2') - 'token' AS answer;
BEGIN;
SELECT cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 1}', 't-3') - 'token' AS answer;
ROLLBACK;
SELECT cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 1}', 't-3') - 'token' AS answer;
-- In one transaction: after an error, after a savepoint, and again.
BEGIN;
SAVEPOINT s;
SELECT cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 30}', 't-4');
ROLLBACK TO s;
SELECT cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 1}', 't-4') - 'token' AS answer;
ROLLBACK TO s;
SELECT cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 2}', 't-4') - 'token' AS answer;
SELECT cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 2}', 't-4') - 'token' AS answer;
COMMIT;
TABLE accounts;
SELECT count(*) AS transferred FROM cqrs.outbox WHERE aggregate_type = 'account';

-- Many in one transaction and in one statement, more than the server has room for locks; each of them twice.
CREATE FUNCTION count_up(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    UPDATE accounts SET balance = balance + 1 WHERE id = 'bob';
    RETURN to_jsonb((SELECT balance FROM accounts WHERE id = 'bob'));
END$$;
SELECT cqrs.create_command('count', 'count_up(jsonb)');
SELECT count(*) FILTER (WHERE NOT (answer ->> 'replayed')::boolean) AS done, count(*) FILTER (WHERE (answer ->> 'replayed')::boolean) AS replayed
FROM generate_series(1, 20000) AS g, cqrs.execute('count', jsonb_build_object('n', g % 10000), 'many-' || g % 10000) AS answer;
SELECT balance FROM accounts WHERE id = 'bob';
SELECT count(*) FROM pg_locks WHERE classid = 'cqrs_internal.command_call'::regclass;
SELECT count(*), sum(replayed) FROM cqrs.commands WHERE command = 'count';

-- Without an id it is done each time, and has one of its own.
SELECT cqrs.execute('count', '{}') - 'token' AS answer FROM generate_series(1, 2);
SELECT count(DISTINCT id::uuid) FROM cqrs.commands WHERE command = 'count' AND id NOT LIKE 'many-%';

-- What a handler returns comes back as it is, the second time too.
CREATE FUNCTION echo(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT payload -> 'echo'$$;
SELECT cqrs.create_command('echo', 'echo(jsonb)');
SELECT cqrs.execute('echo', jsonb_build_object('echo', value), 'echo-' || n) -> 'result' AS first,
       cqrs.execute('echo', jsonb_build_object('echo', value), 'echo-' || n) -> 'result' AS second
FROM jsonb_array_elements('[null, true, 1.50, "text", [], {}, [1, {"a": [null]}], {"result": {"token": 1}}]') WITH ORDINALITY AS v (value, n);
SELECT cqrs.execute('echo', '{}', 'echo-none') - 'token' AS answer;
SELECT length((cqrs.execute('echo', jsonb_build_object('echo', repeat('x', 100000)), 'echo-large') -> 'result')::text),
       length((cqrs.execute('echo', jsonb_build_object('echo', repeat('x', 100000)), 'echo-large') -> 'result')::text);
-- Numbers that differ in their zeros are other payloads.
SELECT cqrs.execute('echo', '{"echo": 1.0}', 'zeros') -> 'result' AS answer;
SELECT cqrs.execute('echo', '{"echo": 1.00}', 'zeros') -> 'result' AS answer;

-- Commands within commands, each with its own id; events know which one caused them, and which one it began with.
CREATE FUNCTION pay_all(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cqrs.emit('PayDay', 'pay', 'all');
    PERFORM cqrs.execute('pay', jsonb_build_object('to', who), 'pay-' || who) FROM jsonb_array_elements_text(payload -> 'to') AS who;
    PERFORM cqrs.emit('PayDayOver', 'pay', 'all', metadata => '{"correlation_id": "mine"}');
    RETURN NULL;
END$$;
CREATE FUNCTION pay(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cqrs.emit('Paid', 'pay', payload ->> 'to');
    IF payload ->> 'to' = 'nobody' THEN
        RAISE EXCEPTION 'nobody is to be paid';
    END IF;
    RETURN to_jsonb(1);
END$$;
SELECT cqrs.create_command('pay', 'pay(jsonb)'), cqrs.create_command('pay all', 'pay_all(jsonb)');
SELECT cqrs.execute('pay all', '{"to": ["ada", "bob", "ada"]}', 'all-1') - 'token' AS answer;
SELECT cqrs.execute('pay all', '{"to": ["carl", "nobody"]}', 'all-2') - 'token' AS answer;
SELECT cqrs.emit('NotOfACommand', 'pay', 'none');
SELECT event_type, aggregate_id, metadata ->> 'causation_id' AS cause, metadata ->> 'correlation_id' AS correlation
FROM cqrs.outbox WHERE aggregate_type = 'pay' ORDER BY position;
SELECT id, command, replayed FROM calls WHERE command LIKE 'pay%';
-- Within itself it would wait for its own end.
CREATE FUNCTION again(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT cqrs.execute('again', payload, payload ->> 'id')$$;
SELECT cqrs.create_command('again', 'again(jsonb)');
SELECT cqrs.execute('again', '{"id": "again-1"}', 'again-1');
CREATE FUNCTION deeper(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT cqrs.execute('deeper', '{}')$$;
SELECT cqrs.create_command('deeper', 'deeper(jsonb)');
\set VERBOSITY sqlstate
SELECT cqrs.execute('deeper', '{}');
\set VERBOSITY default

-- Under one snapshot: what was executed before it is known; its own, too.
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT cqrs.execute('transfer', '{"from": "ada", "to": "bob", "amount": 3}', 't-1') - 'token' AS answer;
SELECT cqrs.execute('count', '{"a": 1}', 'serial-1') - 'token' AS answer;
SELECT cqrs.execute('count', '{"a": 1}', 'serial-1') - 'token' AS answer;
COMMIT;

-- A prepared transaction has executed its commands when it is committed; whoever asks meanwhile waits.
BEGIN;
SELECT cqrs.execute('count', '{"b": 1}', 'prepared-1') - 'token' AS answer;
SELECT cqrs.execute('count', '{"b": 2}', 'prepared-2') - 'token' AS answer;
PREPARE TRANSACTION 'commands_test';
SET lock_timeout = '50ms';
SELECT cqrs.execute('count', '{"b": 1}', 'prepared-1');
RESET lock_timeout;
COMMIT PREPARED 'commands_test';
SELECT cqrs.execute('count', '{"b": 1}', 'prepared-1') - 'token' AS answer;

-- Rights: EXECUTE on the handler, asked for each time; the handler runs as the caller unless its author wants otherwise.
CREATE ROLE commands_clerk;
CREATE ROLE commands_guest;
GRANT USAGE ON SCHEMA commands_test TO commands_clerk, commands_guest;
REVOKE EXECUTE ON FUNCTION count_up(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION count_up(jsonb) TO commands_clerk;
SET ROLE commands_guest;
SELECT cqrs.execute('count', '{}', 'rights-1');
SET ROLE commands_clerk;
SELECT cqrs.execute('count', '{}', 'rights-1');
RESET ROLE;
ALTER FUNCTION count_up(jsonb) SECURITY DEFINER SET search_path = commands_test;
SET ROLE commands_clerk;
SELECT cqrs.execute('count', '{}', 'rights-1') - 'token' AS answer;
SELECT count(*) FROM cqrs_internal.command_call;
INSERT INTO cqrs_internal.command_replay VALUES ('x', now(), 'x');
-- Results are for who executed a command, its owner, and who reads everything; replays are for him alone.
SELECT id, role, result IS NOT NULL AS result FROM cqrs.commands;
RESET ROLE;
GRANT EXECUTE ON FUNCTION count_up(jsonb) TO commands_guest;
SET ROLE commands_guest;
SELECT count(*) FROM cqrs.commands;
SELECT cqrs.execute('count', '{}', 'rights-1');
RESET ROLE;
ALTER FUNCTION count_up(jsonb) OWNER TO commands_guest;
SET ROLE commands_guest;
SELECT DISTINCT command FROM cqrs.commands;
RESET ROLE;
SET SESSION AUTHORIZATION commands_clerk;
SELECT id, role FROM cqrs.commands;
RESET SESSION AUTHORIZATION;

-- Making one needs the handler and CREATE on the database; a command is its handler's owner's.
SET ROLE commands_guest;
\set VERBOSITY sqlstate
SELECT cqrs.create_command('mine', 'count_up(jsonb)');
\set VERBOSITY default
SELECT cqrs.create_command('mine', 'echo(jsonb)');
SELECT cqrs.drop_command('echo');
SELECT cqrs.drop_command('count');
RESET ROLE;
GRANT CREATE ON DATABASE :DBNAME TO commands_guest;
SET ROLE commands_guest;
SELECT cqrs.create_command('count', 'count_up(jsonb)');
SELECT cqrs.create_command('count', 'count_up(jsonb)');
RESET ROLE;

-- A handler that is replaced is the command's; one that is dropped leaves a command that says so.
CREATE OR REPLACE FUNCTION nothing(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT '"something"'::jsonb$$;
SELECT cqrs.execute('nothing', '{}') -> 'result' AS answer;
DROP FUNCTION nothing(jsonb);
SELECT cqrs.execute('nothing', '{}');
SELECT owner IS NULL AS gone FROM cqrs.command_handlers WHERE command = 'nothing';
CREATE FUNCTION nothing(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT NULL::jsonb$$;
SELECT cqrs.create_command('nothing', 'nothing(jsonb)');
SET ROLE commands_guest;
\set VERBOSITY sqlstate
SELECT cqrs.drop_command('nothing');
\set VERBOSITY default
RESET ROLE;
SELECT cqrs.drop_command('nothing');
SELECT cqrs.drop_command('nothing');
SELECT cqrs.execute('nothing', '{}');

-- Bad input.
CREATE FUNCTION no_jsonb(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT 'x'$$;
CREATE FUNCTION of_json(payload json) RETURNS jsonb LANGUAGE sql AS 'SELECT payload::jsonb';
SELECT cqrs.create_command('bad', 'no_jsonb(jsonb)');
SELECT cqrs.create_command('bad', 'of_json(json)');
SELECT cqrs.create_command('', 'echo(jsonb)');
SELECT cqrs.create_command(NULL, 'echo(jsonb)');
SELECT cqrs.create_command('bad', NULL);
SELECT cqrs.create_command(repeat('c', 1001), 'echo(jsonb)');
SELECT cqrs.drop_command(NULL);
SELECT cqrs.execute('echo', NULL);
SELECT cqrs.execute('echo', '[]');
SELECT cqrs.execute('echo', '"x"');
SELECT cqrs.execute(NULL, '{}');
SELECT cqrs.execute('echo', '{}', '');
SELECT cqrs.execute('echo', '{}', repeat('i', 1001));
BEGIN READ ONLY;
SELECT cqrs.execute('echo', '{}', 'echo-none');
ROLLBACK;

-- What was executed longer ago than cqrs.command_retention is forgotten in small steps, and its id is free again.
SELECT count(*) > 10000 AS many FROM cqrs_internal.command_call;
SET cqrs.command_retention = -1;
SELECT count(cqrs.execute('echo', '{}')) FROM generate_series(1, 200);
SELECT count(*) > 10000 AS many FROM cqrs_internal.command_call;
SET cqrs.command_retention = 0;
SELECT pg_sleep(0.01);
DO $$
BEGIN
    FOR i IN 1..100 LOOP
        PERFORM cqrs.execute('echo', '{}') FROM generate_series(1, 100);
        COMMIT;
    END LOOP;
END$$;
RESET cqrs.command_retention;
SELECT count(*) < 10000 AS few, count(*) FILTER (WHERE id LIKE 'many-%') AS of_the_first FROM cqrs_internal.command_call;
SELECT count(*) FROM cqrs_internal.command_replay;
SELECT cqrs.execute('echo', '{"echo": 1.000}', 'zeros') - 'token' AS answer;

DROP OWNED BY commands_clerk, commands_guest;
DROP ROLE commands_clerk, commands_guest;
SELECT cqrs.drop_command(command) FROM cqrs.command_handlers;
SET client_min_messages = warning;
DROP SCHEMA commands_test CASCADE;
