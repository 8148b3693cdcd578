-- Events that handlers failed at, and what waits behind them.

CREATE VIEW cqrs.dead_letters AS
SELECT l.id, p.view AS projection, v.number AS version,
       CASE WHEN may.see THEN l.event END AS event,
       CASE WHEN may.see THEN l.error END AS error,
       CASE WHEN may.see THEN l.context END AS context,
       l.attempts, l.behind, coalesce(w.waiting, 0) AS waiting, l.parked_at, l.tried_at
FROM cqrs_internal.dead_letter l
JOIN cqrs_internal.version v ON v.id = l.version
JOIN cqrs_internal.projection p ON p.id = v.projection
LEFT JOIN pg_catalog.pg_class c ON c.oid = p.view
LEFT JOIN (SELECT d.behind, count(*) AS waiting FROM cqrs_internal.dead_letter d GROUP BY d.behind) w ON w.behind = l.id
CROSS JOIN LATERAL (SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_data', 'USAGE') AS see) may
ORDER BY l.id;
COMMENT ON VIEW cqrs.dead_letters IS
'events that handlers failed at, and later ones of the same aggregates, behind which they wait; what is in them is shown to the owner and to members of pg_read_all_data';

CREATE FUNCTION cqrs.retry(dead_letter bigint) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_retry';
COMMENT ON FUNCTION cqrs.retry(bigint) IS
'hand the event of a dead letter to its handler again, and then what waits behind it; returns how many were applied';

CREATE FUNCTION cqrs.retry_all(projection regclass) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_retry_all';
COMMENT ON FUNCTION cqrs.retry_all(regclass) IS
'hand the events of all dead letters of a projection to their handlers again, in order; returns how many were applied';

CREATE FUNCTION cqrs.discard(dead_letter bigint, reason text) RETURNS bigint
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cqrs_discard';
COMMENT ON FUNCTION cqrs.discard(bigint, text) IS
'give up a dead letter, for a reason, and apply what waits behind it; returns how many were';

GRANT SELECT ON cqrs.dead_letters TO PUBLIC;
GRANT EXECUTE ON FUNCTION cqrs.retry(bigint), cqrs.retry_all(regclass), cqrs.discard(bigint, text) TO PUBLIC;
