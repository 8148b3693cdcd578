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
