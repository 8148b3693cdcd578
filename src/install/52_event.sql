-- Types of events.  Upcasters say what every reader finds in a payload: like cqrs.emit, nobody may define them unless it is granted.

CREATE FUNCTION cqrs.describe_event_type(event_type text, description text DEFAULT NULL, owner regrole DEFAULT NULL) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_describe_event_type';
COMMENT ON FUNCTION cqrs.describe_event_type(text, text, regrole) IS
'say what a type of event means, and whose it is; NULL leaves as is';

CREATE FUNCTION cqrs.create_upcaster(event_type text, from_version integer, upcaster regprocedure) RETURNS integer
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_create_upcaster';
COMMENT ON FUNCTION cqrs.create_upcaster(text, integer, regprocedure) IS
'have payloads of an old shape reach handlers as the next version''s; returns that version, the newest';

CREATE FUNCTION cqrs.drop_upcaster(event_type text, from_version integer) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_drop_upcaster';
COMMENT ON FUNCTION cqrs.drop_upcaster(text, integer) IS 'drop the newest upcaster of a type of event';

CREATE FUNCTION cqrs.upcast(event_type text, payload jsonb, metadata jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE C STABLE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_upcast_sql';
COMMENT ON FUNCTION cqrs.upcast(text, jsonb, jsonb) IS 'an event''s payload in the newest shape of its type, as handlers get it';

REVOKE EXECUTE ON FUNCTION cqrs.describe_event_type(text, text, regrole), cqrs.create_upcaster(text, integer, regprocedure),
    cqrs.drop_upcaster(text, integer), cqrs.upcast(text, jsonb, jsonb) FROM PUBLIC;

-- How many events of which type there were tells nothing of any: for everybody.
CREATE FUNCTION cqrs_internal.count_events(segment integer, relation regclass)
RETURNS TABLE (type text, count bigint, first_at timestamptz, last_at timestamptz)
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 20
AS 'MODULE_PATHNAME', 'cqrs_count_events';
COMMENT ON FUNCTION cqrs_internal.count_events(integer, regclass) IS 'the events in a segment of the outbox, by type';

GRANT EXECUTE ON FUNCTION cqrs_internal.count_events(integer, regclass) TO PUBLIC;
