-- Commands: the events by which they say what happened, and the versions of what they happened to.

CREATE TABLE cqrs_internal.aggregate (
    type    text COLLATE "C" NOT NULL,
    id      text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT aggregate_pkey PRIMARY KEY (type, id)
) WITH (fillfactor = 80);
COMMENT ON TABLE cqrs_internal.aggregate IS 'how many events each aggregate has had: its version';

-- Whoever may emit can tell read models anything about any aggregate, and fill the outbox: nobody may unless it is granted.
CREATE FUNCTION cqrs.emit(event_type text, aggregate_type text, aggregate_id text, payload jsonb DEFAULT '{}',
                          expected_version bigint DEFAULT NULL, metadata jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_emit';
COMMENT ON FUNCTION cqrs.emit(text, text, text, jsonb, bigint, jsonb) IS
'append a domain event to the outbox, if its aggregate is at the expected version; returns the version it has then';
REVOKE EXECUTE ON FUNCTION cqrs.emit(text, text, text, jsonb, bigint, jsonb) FROM PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.aggregate', '');
