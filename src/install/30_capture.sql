-- Capture: the trigger function of all sources, and capturing tables that no projection reads.

CREATE FUNCTION cqrs_internal.capture() RETURNS trigger
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_capture_trigger';
COMMENT ON FUNCTION cqrs_internal.capture() IS 'trigger function of captured tables';
REVOKE EXECUTE ON FUNCTION cqrs_internal.capture() FROM PUBLIC;

CREATE FUNCTION cqrs.capture(source regclass) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_capture';
COMMENT ON FUNCTION cqrs.capture(regclass) IS 'capture whole rows of a table into the outbox, whether or not a projection reads it';

CREATE FUNCTION cqrs.uncapture(source regclass) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_uncapture';
COMMENT ON FUNCTION cqrs.uncapture(regclass) IS 'stop what cqrs.capture began; projections that read the table keep it captured';

-- What DDL does to sources.  Always: also in sessions that apply what replication or a restore brings.
CREATE FUNCTION cqrs_internal.follow_tables() RETURNS event_trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_follow_tables';
COMMENT ON FUNCTION cqrs_internal.follow_tables() IS 'keeps sources captured when tables join or leave them, or triggers are touched';

CREATE FUNCTION cqrs_internal.follow_detach() RETURNS event_trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_follow_detach';
COMMENT ON FUNCTION cqrs_internal.follow_detach() IS 'has read models follow a partition that is detached concurrently';

CREATE FUNCTION cqrs_internal.follow_drop() RETURNS event_trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_follow_drop';
COMMENT ON FUNCTION cqrs_internal.follow_drop() IS 'has read models follow tables that are dropped out of sources, and tells of capture triggers dropped';

CREATE EVENT TRIGGER cqrs_follow_tables ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'CREATE FOREIGN TABLE', 'CREATE SCHEMA', 'ALTER TABLE', 'ALTER FOREIGN TABLE', 'ALTER TRIGGER', 'CREATE TRIGGER')
    EXECUTE FUNCTION cqrs_internal.follow_tables();
ALTER EVENT TRIGGER cqrs_follow_tables ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cqrs_follow_tables IS 'has sources follow what becomes of their tables';

CREATE EVENT TRIGGER cqrs_follow_detach ON ddl_command_start WHEN TAG IN ('ALTER TABLE')
    EXECUTE FUNCTION cqrs_internal.follow_detach();
ALTER EVENT TRIGGER cqrs_follow_detach ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cqrs_follow_detach IS 'has sources follow partitions that are detached concurrently';

CREATE FUNCTION cqrs_internal.follow_restore() RETURNS event_trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_follow_restore';
COMMENT ON FUNCTION cqrs_internal.follow_restore() IS 'has a restore replace capture triggers that were made meanwhile';

CREATE EVENT TRIGGER cqrs_follow_restore ON ddl_command_start WHEN TAG IN ('CREATE TRIGGER')
    EXECUTE FUNCTION cqrs_internal.follow_restore();
ALTER EVENT TRIGGER cqrs_follow_restore ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cqrs_follow_restore IS 'has a restore replace capture triggers that were made meanwhile';

CREATE EVENT TRIGGER cqrs_follow_drop ON sql_drop EXECUTE FUNCTION cqrs_internal.follow_drop();
ALTER EVENT TRIGGER cqrs_follow_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cqrs_follow_drop IS 'has sources follow tables and triggers that are dropped';
