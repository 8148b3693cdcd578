-- Types of events: what people say of them, and payloads of old shapes made new.  If this fails, handlers meet shapes that they do not know, or somebody
-- decides what others read who has no right to.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA event_test;
SET search_path = event_test;

-- No upcaster: the payload as it is, whatever version it says.
SELECT cqrs.upcast('Priced', '{"amount": 1250}');
SELECT cqrs.upcast('Priced', '{"amount": 1250}', '{"schema_version": 7}');

-- A chain, made from version 1 on.  Each function sees what the one before has made.
CREATE FUNCTION in_units(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT payload - 'amount' || jsonb_build_object('price', (payload ->> 'amount')::numeric / 100)$$;
CREATE FUNCTION with_currency(payload jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN payload || jsonb_build_object('currency', 'EUR', 'price', (payload ->> 'price')::numeric(8,2));
END$$;
SELECT cqrs.create_upcaster('Priced', 2, 'in_units(jsonb)');
SELECT cqrs.create_upcaster('Priced', 1, 'in_units(jsonb)');
SELECT cqrs.upcast('Priced', '{"amount": 1250}');
SELECT cqrs.create_upcaster('Priced', 1, 'with_currency(jsonb)');
SELECT cqrs.create_upcaster('Priced', 2, 'with_currency(jsonb)');
SELECT cqrs.upcast('Priced', '{"amount": 1250}');
SELECT cqrs.upcast('Priced', '{"price": 3}', '{"schema_version": 2}');
SELECT cqrs.upcast('Priced', '{"price": 3}', '{"schema_version": 3}');
SELECT cqrs.upcast('Priced', '{"price": 3}', '{"schema_version": 4}');
SELECT cqrs.upcast('PricedToo', '{"amount": 1250}'), cqrs.upcast('Price', '{"amount": 1250}');
-- A function that is replaced is the new one at once; what it raises is told.
CREATE OR REPLACE FUNCTION in_units(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object('price', 1 / (payload ->> 'amount')::numeric)$$;
SELECT cqrs.upcast('Priced', '{"amount": 4}');
SELECT cqrs.upcast('Priced', '{"amount": 0}');
SELECT cqrs.upcast('Priced', '{"amount": 4}');
-- One that returns no object is refused when it does.
CREATE OR REPLACE FUNCTION in_units(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT NULL::jsonb';
SELECT cqrs.upcast('Priced', '{"amount": 4}');
CREATE OR REPLACE FUNCTION in_units(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT '[1]'::jsonb$$;
SELECT cqrs.upcast('Priced', '{"amount": 4}');
-- One that is gone is an error, not a payload of the old shape.
DROP FUNCTION with_currency(jsonb);
SELECT cqrs.upcast('Priced', '{"price": 3}', '{"schema_version": 2}');
-- Dropped from the newest on.
SELECT cqrs.drop_upcaster('Priced', 1);
SELECT cqrs.drop_upcaster('Priced', 2);
SELECT cqrs.drop_upcaster('Priced', 2);
SELECT cqrs.drop_upcaster('Priced', 1);
SELECT cqrs.upcast('Priced', '{"amount": 1250}');
-- Rolled back is as never made.
BEGIN;
CREATE OR REPLACE FUNCTION in_units(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT '{"made": 1}'::jsonb$$;
SELECT cqrs.create_upcaster('Priced', 1, 'in_units(jsonb)');
SELECT cqrs.upcast('Priced', '{}');
ROLLBACK;
SELECT cqrs.upcast('Priced', '{}');

-- One may ask for the newest shape of another type, and functions may change meanwhile; one that asks for its own type's goes on for ever, which is noticed.
CREATE FUNCTION changes_functions() RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'CREATE OR REPLACE FUNCTION event_test.any_function() RETURNS integer LANGUAGE sql AS ''SELECT 1''';
    RETURN 1;
END$$;
CREATE FUNCTION add_inner(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT payload || '{"inner": 1}'$$;
CREATE FUNCTION add_outer(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT event_test.changes_functions();
    SELECT cqrs.upcast('Inner', payload);
    SELECT length(repeat('x', i)) FROM generate_series(1, 1000) i;
    SELECT cqrs.upcast('Inner', payload) || '{"outer": 1}'$$;
CREATE FUNCTION asks_itself(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT cqrs.upcast('Itself', payload)$$;
SELECT cqrs.create_upcaster('Inner', 1, 'add_inner(jsonb)'), cqrs.create_upcaster('Outer', 1, 'add_outer(jsonb)'),
    cqrs.create_upcaster('Itself', 1, 'asks_itself(jsonb)');
SELECT cqrs.upcast('Outer', '{}') FROM generate_series(1, 3);
\set VERBOSITY sqlstate
SELECT cqrs.upcast('Itself', '{}');
\set VERBOSITY default
SELECT cqrs.drop_upcaster('Inner', 1), cqrs.drop_upcaster('Outer', 1), cqrs.drop_upcaster('Itself', 1);

-- It runs as its owner, whoever handles the event.
CREATE ROLE event_author;
CREATE ROLE event_reader;
GRANT CREATE, USAGE ON SCHEMA event_test TO event_author;
GRANT USAGE ON SCHEMA event_test TO event_reader;
GRANT EXECUTE ON FUNCTION cqrs.create_upcaster(text, integer, regprocedure), cqrs.drop_upcaster(text, integer),
    cqrs.describe_event_type(text, text, regrole) TO event_author, event_reader;
GRANT EXECUTE ON FUNCTION cqrs.upcast(text, jsonb, jsonb) TO event_reader;
SET ROLE event_author;
CREATE FUNCTION who(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT jsonb_build_object('user', current_user)$$;
SELECT cqrs.create_upcaster('Whose', 1, 'who(jsonb)');
SELECT cqrs.upcast('Whose', '{}');
SET ROLE event_reader;
SELECT cqrs.upcast('Whose', '{}'), current_user;
-- A type is its owner's, and so is a function.
SELECT cqrs.drop_upcaster('Whose', 1);
SELECT cqrs.create_upcaster('Whose', 2, 'who(jsonb)');
SELECT cqrs.create_upcaster('Mine', 1, 'who(jsonb)');
SELECT cqrs.describe_event_type('Whose', 'stolen');
SELECT cqrs.describe_event_type('Mine', 'what I say', 'event_author');
RESET ROLE;
SELECT cqrs.describe_event_type('Whose', 'who did it', 'event_reader');
SET ROLE event_reader;
SELECT cqrs.describe_event_type('Whose');
SELECT cqrs.drop_upcaster('Whose', 1);
RESET ROLE;
SELECT type, version, owner, description FROM cqrs_internal.event_type ORDER BY type;
-- Nobody may unless it is granted.
CREATE ROLE event_nobody;
GRANT USAGE ON SCHEMA event_test TO event_nobody;
SET ROLE event_nobody;
SELECT cqrs.describe_event_type('Mine', 'x');
SELECT cqrs.create_upcaster('Mine', 1, 'who(jsonb)');
SELECT cqrs.drop_upcaster('Mine', 1);
SELECT cqrs.upcast('Mine', '{}');
RESET ROLE;

-- Bad input.
CREATE FUNCTION no_object(payload jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'x'$$;
CREATE FUNCTION of_two(payload jsonb, more jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT payload';
CREATE FUNCTION many(payload jsonb) RETURNS SETOF jsonb LANGUAGE sql IMMUTABLE AS 'SELECT payload';
CREATE FUNCTION changing(payload jsonb) RETURNS jsonb LANGUAGE sql STABLE AS 'SELECT payload';
CREATE PROCEDURE procedure(INOUT payload jsonb) LANGUAGE sql AS 'SELECT payload';
SELECT cqrs.create_upcaster('Bad', 1, 'no_object(jsonb)');
SELECT cqrs.create_upcaster('Bad', 1, 'of_two(jsonb, jsonb)');
SELECT cqrs.create_upcaster('Bad', 1, 'many(jsonb)');
SELECT cqrs.create_upcaster('Bad', 1, 'changing(jsonb)');
SELECT cqrs.create_upcaster('Bad', 1, 'procedure(jsonb)');
SELECT cqrs.create_upcaster('Bad', 1, 'nothing(jsonb)');
SELECT cqrs.create_upcaster('Bad', 1, 0);
SELECT cqrs.create_upcaster('', 1, 'who(jsonb)');
SELECT cqrs.create_upcaster(NULL, 1, 'who(jsonb)');
SELECT cqrs.create_upcaster('Bad', NULL, 'who(jsonb)');
SELECT cqrs.create_upcaster('Bad', 1, NULL);
SELECT cqrs.create_upcaster('Bad', 0, 'who(jsonb)');
SELECT cqrs.create_upcaster(repeat('t', 1001), 1, 'who(jsonb)');
SELECT cqrs.drop_upcaster('Bad', NULL);
SELECT cqrs.describe_event_type('');
SELECT cqrs.describe_event_type('Bad', owner => 'nobody_at_all');
SELECT cqrs.upcast('Bad', '[]');
SELECT cqrs.upcast('Bad', NULL);
SELECT cqrs.emit('Bad', 'bad', '1', metadata => '{"schema_version": "2"}');
SELECT cqrs.emit('Bad', 'bad', '1', metadata => '{"schema_version": 0}');
SELECT cqrs.emit('Bad', 'bad', '1', metadata => '{"schema_version": 1.5}');
SELECT cqrs.emit('Bad', 'bad', '1', metadata => '{"schema_version": 1e20}');
SELECT cqrs.emit('Good', 'bad', '1', metadata => '{"schema_version": 2.0}');

DROP OWNED BY event_author, event_reader, event_nobody;
DROP ROLE event_author, event_reader, event_nobody;
\set VERBOSITY terse
SET client_min_messages = warning;
DROP SCHEMA event_test CASCADE;
