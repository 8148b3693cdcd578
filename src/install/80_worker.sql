-- The worker: asked for by the extension itself, whatever way it is created.
CREATE FUNCTION cqrs_internal.start_worker() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'cqrs_start_worker';
COMMENT ON FUNCTION cqrs_internal.start_worker() IS
'ask for a worker in this database when the transaction commits; a notice if there can be none';
REVOKE EXECUTE ON FUNCTION cqrs_internal.start_worker() FROM PUBLIC;

SELECT cqrs_internal.start_worker();
