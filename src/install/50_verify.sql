-- The proof: a version's table against its definition.
CREATE FUNCTION cqrs.verify(projection regclass, sample float8 DEFAULT 1.0, version integer DEFAULT NULL)
RETURNS TABLE(key jsonb, difference text, expected jsonb, found jsonb)
LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'cqrs_verify';
COMMENT ON FUNCTION cqrs.verify(regclass, float8, integer) IS
'apply what is pending, then compare a version with its definition at one snapshot; a row for each difference';
