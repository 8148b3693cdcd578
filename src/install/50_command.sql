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

-- A command is its handler's owner's; who may execute one is who may execute its handler, as whom it runs.
CREATE FUNCTION cqrs.create_command(name text, handler regprocedure) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_create_command';
COMMENT ON FUNCTION cqrs.create_command(text, regprocedure) IS 'name a command, and the function of jsonb that handles it';

CREATE FUNCTION cqrs.drop_command(name text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_drop_command';
COMMENT ON FUNCTION cqrs.drop_command(text) IS 'forget a command; what was executed of it stays recorded';

CREATE FUNCTION cqrs.execute(command text, payload jsonb, command_id text DEFAULT NULL) RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_execute';
COMMENT ON FUNCTION cqrs.execute(text, jsonb, text) IS
'execute a command, or return what came of it if its id says that it was executed before';

CREATE FUNCTION cqrs_internal.speaks_of_here(system_identifier bigint, database oid, registry oid) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cqrs_speaks_of_here';
COMMENT ON FUNCTION cqrs_internal.speaks_of_here(bigint, oid, oid) IS 'was a row that names transactions written in this cluster and database?';

CREATE VIEW cqrs.command_handlers AS
SELECT c.name AS command, c.handler, pg_catalog.pg_get_userbyid(p.proowner) AS owner
FROM cqrs_internal.command c
LEFT JOIN pg_catalog.pg_proc p ON p.oid = c.handler;
COMMENT ON VIEW cqrs.command_handlers IS 'commands, and the function that each is handled by, with its owner; null where it is gone';

-- Results hold data: for the role that executed the command, who owns it, and who may read everything.
CREATE VIEW cqrs.commands WITH (security_barrier) AS
SELECT c.id, c.command, c.actor::name AS actor, c.role::name AS role, c.at, c.microseconds * interval '1 microsecond' AS duration, c.payload_hash, c.result,
       CASE WHEN cqrs_internal.speaks_of_here(c.system_identifier, c.database, c.registry) THEN c.token END AS token,
       (SELECT count(*) FROM cqrs_internal.command_replay r WHERE r.id = c.id AND r.at >= c.at) AS replayed
FROM cqrs_internal.command_call c
WHERE pg_catalog.pg_has_role('pg_read_all_data', 'USAGE')
   OR (SELECT pg_catalog.pg_has_role(r.oid, 'USAGE') FROM pg_catalog.pg_roles r WHERE r.rolname = c.role)
   OR (SELECT pg_catalog.pg_has_role(p.proowner, 'USAGE') FROM cqrs_internal.command k
       JOIN pg_catalog.pg_proc p ON p.oid = k.handler WHERE k.name = c.command);
COMMENT ON VIEW cqrs.commands IS
'commands that were executed: by whom, when, of what payload, and what came of them; each for the role that executed it, who owns the command, and members of pg_read_all_data';

GRANT EXECUTE ON FUNCTION cqrs.create_command(text, regprocedure), cqrs.drop_command(text), cqrs.execute(text, jsonb, text),
    cqrs_internal.speaks_of_here(bigint, oid, oid) TO PUBLIC;
GRANT SELECT ON cqrs.command_handlers, cqrs.commands TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.aggregate', '');
