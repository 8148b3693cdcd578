-- Erasing: what must not be kept leaves the outbox.

CREATE FUNCTION cqrs.erase(source regclass, key jsonb, reason text) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_erase_rows';
COMMENT ON FUNCTION cqrs.erase(regclass, jsonb, text) IS
'erase the changes captured of a row from the outbox; returns how many';

-- An aggregate belongs to nobody, so nobody may erase its events unless it is granted.
CREATE FUNCTION cqrs.erase(aggregate_type text, aggregate_id text, reason text) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_erase_aggregate';
COMMENT ON FUNCTION cqrs.erase(text, text, text) IS
'erase the events of an aggregate from the outbox; returns how many';
REVOKE EXECUTE ON FUNCTION cqrs.erase(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cqrs.erase(regclass, jsonb, text) TO PUBLIC;
