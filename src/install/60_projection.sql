-- Projections: create, alter, drop, work.

CREATE FUNCTION cqrs_internal.gate(projection integer) RETURNS boolean
    LANGUAGE C STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'cqrs_gate';
COMMENT ON FUNCTION cqrs_internal.gate(integer) IS 'raises while a projection has nothing to serve';

CREATE FUNCTION cqrs_internal.guard_table() RETURNS trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_guard_table';
COMMENT ON FUNCTION cqrs_internal.guard_table() IS 'refuses writes to read models from anyone but the applier';

CREATE FUNCTION cqrs_internal.feed() RETURNS trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_feed_row';
COMMENT ON FUNCTION cqrs_internal.feed() IS 'tells the versions that read a read model which of its rows a batch changes';

CREATE FUNCTION cqrs_internal.guard_drop() RETURNS event_trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_guard_drop';
COMMENT ON FUNCTION cqrs_internal.guard_drop() IS 'refuses to drop serving views by hand';

CREATE FUNCTION cqrs_internal.guard_replace() RETURNS event_trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_guard_replace';
COMMENT ON FUNCTION cqrs_internal.guard_replace() IS 'refuses to replace serving views by hand';

CREATE FUNCTION cqrs_internal.follow_owner() RETURNS event_trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_follow_owner';
COMMENT ON FUNCTION cqrs_internal.follow_owner() IS 'gives a projection''s versions to the new owner of its serving view';

CREATE FUNCTION cqrs_internal.follow_definition() RETURNS event_trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_follow_definition';
COMMENT ON FUNCTION cqrs_internal.follow_definition() IS 'has versions evaluated anew whose query uses a view or function that was replaced';

CREATE EVENT TRIGGER cqrs_guard_drop ON sql_drop EXECUTE FUNCTION cqrs_internal.guard_drop();
COMMENT ON EVENT TRIGGER cqrs_guard_drop IS 'keeps serving views of projections from being dropped by hand';

CREATE EVENT TRIGGER cqrs_guard_replace ON ddl_command_end WHEN TAG IN ('CREATE VIEW')
    EXECUTE FUNCTION cqrs_internal.guard_replace();
COMMENT ON EVENT TRIGGER cqrs_guard_replace IS 'keeps serving views of projections from being replaced by hand';

CREATE EVENT TRIGGER cqrs_follow_owner ON ddl_command_end WHEN TAG IN ('ALTER VIEW', 'ALTER TABLE')
    EXECUTE FUNCTION cqrs_internal.follow_owner();
ALTER EVENT TRIGGER cqrs_follow_owner ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cqrs_follow_owner IS 'has projections belong to the owners of their serving views';

CREATE EVENT TRIGGER cqrs_follow_definition ON ddl_command_end
    WHEN TAG IN ('CREATE VIEW', 'CREATE FUNCTION', 'ALTER FUNCTION', 'ALTER ROUTINE', 'CREATE AGGREGATE', 'ALTER TYPE')
    EXECUTE FUNCTION cqrs_internal.follow_definition();
ALTER EVENT TRIGGER cqrs_follow_definition ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cqrs_follow_definition IS 'has read models follow what their queries are made of';

CREATE FUNCTION cqrs.create_projection(
    name text, query text DEFAULT NULL, key name[] DEFAULT NULL, columns text DEFAULT NULL, handlers jsonb DEFAULT NULL,
    seed text DEFAULT NULL, indexes text[] DEFAULT '{}', row_filter text DEFAULT NULL, max_lag interval DEFAULT NULL,
    on_error text DEFAULT 'park', description text DEFAULT NULL) RETURNS integer
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_create_projection';
COMMENT ON FUNCTION cqrs.create_projection(text, text, name[], text, jsonb, text, text[], text, interval, text, text)
    IS 'creates a read model of a query, to be built and kept up to date; returns its version, 1';

CREATE FUNCTION cqrs.alter_projection(
    projection regclass, max_lag interval DEFAULT NULL, on_error text DEFAULT NULL, row_filter text DEFAULT NULL,
    description text DEFAULT NULL) RETURNS void
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_alter_projection';
COMMENT ON FUNCTION cqrs.alter_projection(regclass, interval, text, text, text)
    IS 'changes a projection''s freshness objective, what becomes of events that fail, its row filter or description; NULL leaves as is';

CREATE FUNCTION cqrs.drop_projection(projection regclass, cascade boolean DEFAULT false) RETURNS void
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_drop_projection';
COMMENT ON FUNCTION cqrs.drop_projection(regclass, boolean)
    IS 'drops a projection with its serving view and tables';

CREATE FUNCTION cqrs.create_version(
    projection regclass, query text DEFAULT NULL, key name[] DEFAULT NULL, columns text DEFAULT NULL, handlers jsonb DEFAULT NULL,
    seed text DEFAULT NULL, indexes text[] DEFAULT NULL) RETURNS integer
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_create_version';
COMMENT ON FUNCTION cqrs.create_version(regclass, text, name[], text, jsonb, text, text[])
    IS 'makes another version of a projection, to be built beside the one that serves; returns its number';

CREATE FUNCTION cqrs.rebuild(projection regclass) RETURNS integer
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_rebuild';
COMMENT ON FUNCTION cqrs.rebuild(regclass)
    IS 'makes a version of the same definition, which serves once it is equal to it; returns its number';

CREATE FUNCTION cqrs.switch(projection regclass, version integer DEFAULT NULL, force boolean DEFAULT false) RETURNS void
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_switch';
COMMENT ON FUNCTION cqrs.switch(regclass, integer, boolean)
    IS 'has readers of a projection get another version, the newest shadow unless told otherwise';

CREATE FUNCTION cqrs.switch_back(projection regclass) RETURNS void
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_switch_back';
COMMENT ON FUNCTION cqrs.switch_back(regclass) IS 'has readers of a projection get the version that served before';

CREATE FUNCTION cqrs.retire(projection regclass, version integer) RETURNS void
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_retire';
COMMENT ON FUNCTION cqrs.retire(regclass, integer) IS 'drops the table of a version, and cancels its build';

CREATE FUNCTION cqrs.wait_until_serving(projection regclass, timeout interval DEFAULT '1 min') RETURNS boolean
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_wait_until_serving';
COMMENT ON FUNCTION cqrs.wait_until_serving(regclass, interval)
    IS 'waits until a projection has been built and answers';

CREATE FUNCTION cqrs.pause(projection regclass) RETURNS void
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_pause';
COMMENT ON FUNCTION cqrs.pause(regclass) IS 'stops applying changes to a projection';

CREATE FUNCTION cqrs.resume(projection regclass) RETURNS void
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_resume';
COMMENT ON FUNCTION cqrs.resume(regclass) IS 'goes on with a paused projection; tries a failing or halted one again';

CREATE FUNCTION cqrs.drain(projection regclass DEFAULT NULL) RETURNS bigint
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_drain';
COMMENT ON FUNCTION cqrs.drain(regclass)
    IS 'applies everything committed so far, in this session; returns the changes applied';

CREATE FUNCTION cqrs.explain(projection regclass) RETURNS SETOF text
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_explain';
COMMENT ON FUNCTION cqrs.explain(regclass) IS 'how a projection is maintained: strategy, why, and every statement';

CREATE FUNCTION cqrs.verify(
    projection regclass, sample float8 DEFAULT 1.0, version integer DEFAULT NULL,
    OUT key jsonb, OUT difference text, OUT expected jsonb, OUT found jsonb) RETURNS SETOF record
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_verify';
COMMENT ON FUNCTION cqrs.verify(regclass, float8, integer)
    IS 'compares a read model with its query at one snapshot; no row means equal';

CREATE FUNCTION cqrs.compare(
    projection regclass, version integer, other integer DEFAULT NULL,
    OUT key jsonb, OUT difference text, OUT left_row jsonb, OUT right_row jsonb) RETURNS SETOF record
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_compare';
COMMENT ON FUNCTION cqrs.compare(regclass, integer, integer)
    IS 'compares a version of a read model with another, or with the serving one, at one snapshot; no row means equal';

CREATE FUNCTION cqrs.repair(projection regclass, reason text) RETURNS bigint
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_repair';
COMMENT ON FUNCTION cqrs.repair(regclass, text)
    IS 'computes again the keys for which a read model differs from its query; returns how many';

CREATE FUNCTION cqrs.shadow_read(
    projection regclass, query text, keys jsonb,
    OUT key jsonb, OUT difference text, OUT theirs jsonb, OUT ours jsonb) RETURNS SETOF record
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_shadow_read';
COMMENT ON FUNCTION cqrs.shadow_read(regclass, text, jsonb)
    IS 'compares what a query answers for some keys with what a read model does, as the caller; no row means equal';
