-- What there is to see: views for everybody, which tell nothing of any row's contents.

CREATE FUNCTION cqrs_internal.measure(version integer, OUT health text, OUT lag interval, OUT pending bigint, OUT as_of timestamptz,
                                      OUT within_objective boolean)
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'cqrs_measure';
COMMENT ON FUNCTION cqrs_internal.measure(integer) IS 'how fresh a version, given by its id, is';

CREATE FUNCTION cqrs_internal.shown_status(version integer) RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED STRICT
AS 'MODULE_PATHNAME', 'cqrs_shown_status';
COMMENT ON FUNCTION cqrs_internal.shown_status(integer) IS 'status of a version, given by its id, as users see it';

CREATE FUNCTION cqrs_internal.shown_hold(version integer) RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED STRICT
AS 'MODULE_PATHNAME', 'cqrs_shown_hold';
COMMENT ON FUNCTION cqrs_internal.shown_hold(integer) IS
'which projection below a version, given by its id, keeps it from moving on; null where none does';

CREATE FUNCTION cqrs_internal.shown_strategy(version integer) RETURNS text
LANGUAGE c STABLE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'cqrs_shown_strategy';
COMMENT ON FUNCTION cqrs_internal.shown_strategy(integer) IS
'how a version, given by its id, is maintained; null while a lock keeps us from looking';

CREATE FUNCTION cqrs_internal.table_bytes(relation regclass) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL RESTRICTED STRICT
AS 'MODULE_PATHNAME', 'cqrs_table_bytes';
COMMENT ON FUNCTION cqrs_internal.table_bytes(regclass) IS
'size of a table with its indexes; null while a lock keeps us from looking';

CREATE FUNCTION cqrs_internal.workers()
RETURNS TABLE(pid integer, datname name, role text, projection regclass, version integer, phase text, since timestamptz)
LANGUAGE c VOLATILE PARALLEL RESTRICTED STRICT ROWS 10
AS 'MODULE_PATHNAME', 'cqrs_workers';
COMMENT ON FUNCTION cqrs_internal.workers() IS 'the processes of cqrs on this server';

CREATE FUNCTION cqrs.freshness(projection regclass, OUT version integer, OUT state text, OUT status text, OUT as_of timestamptz,
                               OUT lag interval, OUT pending bigint, OUT "position" bigint, OUT within_objective boolean)
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'cqrs_freshness';
COMMENT ON FUNCTION cqrs.freshness(regclass) IS 'how fresh a projection is, as the reader finds it in outbox and checkpoint';

CREATE FUNCTION cqrs.entity_lag(projection regclass, key jsonb, OUT command_version bigint, OUT query_version bigint, OUT pending bigint,
                                OUT lag interval, OUT status text)
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'cqrs_entity_lag';
COMMENT ON FUNCTION cqrs.entity_lag(regclass, jsonb) IS
'how far behind a projection is for one key: the changes not applied yet that concern it, how long the oldest of them waits, and an aggregate''s versions';

CREATE VIEW cqrs.projections AS
SELECT p.view AS projection,
       pg_catalog.pg_get_userbyid(c.relowner) AS owner,
       CASE WHEN EXISTS (SELECT FROM cqrs_internal.version v JOIN cqrs_internal.event_definition d ON d.version = v.id
                         WHERE v.projection = p.id AND v.number = p.last_version)
            THEN 'event' ELSE 'query' END AS kind,
       (SELECT v.number FROM cqrs_internal.version v
        WHERE v.projection = p.id AND v.state IN ('serving', 'building')
        ORDER BY v.state = 'serving' DESC, v.number DESC LIMIT 1) AS version,
       p.max_lag, p.on_error, p.row_filter, p.description
FROM cqrs_internal.projection p
LEFT JOIN pg_catalog.pg_class c ON c.oid = p.view;
COMMENT ON VIEW cqrs.projections IS 'read models, each with the version that readers get';

CREATE VIEW cqrs.versions AS
SELECT p.view AS projection,
       v.number AS version,
       v.state,
       cqrs_internal.shown_status(v.id) AS status,
       cqrs_internal.shown_strategy(v.id) AS strategy,
       coalesce(CASE WHEN pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_data', 'USAGE')
                     THEN v.error END, cqrs_internal.shown_hold(v.id)) AS error,
       v.retry_at, v.created_at,
       cqrs_internal.table_bytes(v."table") AS bytes
FROM cqrs_internal.version v
JOIN cqrs_internal.projection p ON p.id = v.projection
LEFT JOIN pg_catalog.pg_class c ON c.oid = p.view;
COMMENT ON VIEW cqrs.versions IS
'definitions of read models and how each fares; errors, which may quote data, are shown to the owner and to members of pg_read_all_data';

CREATE VIEW cqrs.checkpoints AS
SELECT p.view AS projection, v.number AS version, k.snapshot, k.position, k.as_of
FROM cqrs_internal.version v
JOIN cqrs_internal.projection p ON p.id = v.projection
CROSS JOIN LATERAL (SELECT c.snapshot, c.position, c.as_of FROM cqrs_internal.checkpoint c
                    WHERE c.version = v.id ORDER BY c.number DESC LIMIT 1) k;
COMMENT ON VIEW cqrs.checkpoints IS 'up to which snapshot each version has applied all changes';

CREATE VIEW cqrs.lag AS
SELECT p.view AS projection, v.number AS version, m.health, m.lag, m.pending, m.as_of, p.max_lag, m.within_objective,
       (SELECT l.pid FROM pg_catalog.pg_locks l
        WHERE l.locktype = 'object' AND l.granted AND l.classid = 'cqrs_internal.version'::pg_catalog.regclass
              AND l.objid = v.id::oid AND l.objsubid = 0
              AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
        LIMIT 1) AS held_by,
       f.at AS verified_at, f.drifted
FROM cqrs_internal.version v
JOIN cqrs_internal.projection p ON p.id = v.projection
LEFT JOIN cqrs_internal.verification f ON f.version = v.id
CROSS JOIN LATERAL cqrs_internal.measure(v.id) m
WHERE v.state <> 'retired';
COMMENT ON VIEW cqrs.lag IS
'how far each version is behind its sources, measured by the reader; held_by is the process that holds the version just now; and how many keys are known to have drifted from its query';

CREATE FUNCTION cqrs_internal.column_names(relation oid, columns smallint[]) RETURNS name[]
LANGUAGE sql STABLE PARALLEL SAFE STRICT
RETURN ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum = ANY (columns)
             ORDER BY a.attnum);
COMMENT ON FUNCTION cqrs_internal.column_names(oid, smallint[]) IS
'names of those of the columns, given by number, that a relation has';

CREATE VIEW cqrs.sources AS
SELECT s.relation AS source,
       cqrs_internal.column_names(s.relation, force.watched) AS watched,
       cqrs_internal.column_names(s.relation, force.imaged) AS imaged,
       pg_catalog.concat_ws('; ',
             (SELECT pg_catalog.string_agg(
                         pg_catalog.format('%s version %s reads %s%s', p.view, v.number,
                                           coalesce(nullif(pg_catalog.array_to_string(names.watched, ', '), ''), 'its rows'),
                                           ' and finds keys by ' || nullif(pg_catalog.array_to_string(names.imaged, ', '), '')),
                         '; ' ORDER BY p.view::text, v.number)
              FROM cqrs_internal.version_source r
              JOIN cqrs_internal.version v ON v.id = r.version
              JOIN cqrs_internal.projection p ON p.id = v.projection
              CROSS JOIN LATERAL (SELECT cqrs_internal.column_names(s.relation, r.watched) AS watched,
                                         cqrs_internal.column_names(s.relation, r.imaged) AS imaged) names
              WHERE r.source = s.id AND v.state <> 'retired'),
             (SELECT 'primary key: ' || pg_catalog.array_to_string(cqrs_internal.column_names(s.relation, i.indkey), ', ')
              FROM pg_catalog.pg_index i WHERE i.indrelid = s.relation AND i.indisprimary),
             CASE WHEN s.captured THEN 'cqrs.capture: all' END) AS why
FROM cqrs_internal.source s
CROSS JOIN LATERAL (SELECT CASE WHEN NOT s.attached THEN '{}'
                                WHEN s.captured THEN ARRAY(SELECT a.attnum FROM pg_catalog.pg_attribute a WHERE a.attrelid = s.relation)
                                ELSE s.watched END AS watched,
                           CASE WHEN NOT s.attached THEN '{}'
                                WHEN s.captured THEN ARRAY(SELECT a.attnum FROM pg_catalog.pg_attribute a WHERE a.attrelid = s.relation)
                                ELSE s.imaged END AS imaged) force;
COMMENT ON VIEW cqrs.sources IS
'tables whose changes are captured: the columns whose change counts, those of them that are stored, and why';

CREATE FUNCTION cqrs_internal.table_progress()
RETURNS TABLE (relation oid, pid integer, phase text, done bigint, expected bigint, started_at timestamptz)
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog ROWS 10
BEGIN ATOMIC
    SELECT p.relid, p.pid, p.phase, p.done, p.expected, a.xact_start
    FROM (SELECT c.relid, c.pid, 'filling' AS phase, c.param3 AS done, c.param11 AS expected
          FROM pg_catalog.pg_stat_get_progress_info('COPY') c
          WHERE c.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
          UNION ALL
          SELECT i.relid, i.pid, 'indexing', i.param13, i.param12
          FROM pg_catalog.pg_stat_get_progress_info('CREATE INDEX') i
          WHERE i.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
          UNION ALL
          SELECT z.relid, z.pid, 'analyzing', NULL, NULL
          FROM pg_catalog.pg_stat_get_progress_info('ANALYZE') z
          WHERE z.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
          UNION ALL
          SELECT v.relid, v.pid, 'vacuuming', NULL, NULL
          FROM pg_catalog.pg_stat_get_progress_info('VACUUM') v
          WHERE v.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())) p
    CROSS JOIN LATERAL pg_catalog.pg_stat_get_activity(p.pid) a
    WHERE p.relid IN (SELECT v."table" FROM cqrs_internal.version v WHERE v.state = 'building');
END;
COMMENT ON FUNCTION cqrs_internal.table_progress() IS 'what the server says of those who fill, index or analyze tables of versions that are being built';

CREATE VIEW cqrs.build_progress AS
SELECT p.view AS projection, v.number AS version,
       coalesce(t.phase,
                CASE WHEN w.phase = 'attach' THEN 'attaching'
                     WHEN w.phase = 'fill' THEN 'filling'
                     WHEN w.phase = 'compare' THEN 'comparing'
                     WHEN w.phase = 'serve' AND v.state = 'shadow' THEN 'switching'
                     WHEN w.phase = 'serve' THEN 'catching up'
                     ELSE 'waiting' END) AS phase,
       t.done AS rows_done, t.expected AS rows_expected,
       coalesce(t.started_at, w.since) AS started_at
FROM cqrs_internal.version v
JOIN cqrs_internal.projection p ON p.id = v.projection
LEFT JOIN cqrs_internal.table_progress() t ON t.relation = v."table"
LEFT JOIN (SELECT w.projection, w.version, w.phase, w.since FROM cqrs_internal.workers() w
           WHERE w.datname = pg_catalog.current_database()) w ON w.projection = p.view AND w.version = v.number
WHERE v.state = 'building' OR (v.state = 'shadow' AND v.rebuild IS NOT NULL);
COMMENT ON VIEW cqrs.build_progress IS
'versions on their way: what is being done for each just now, and how many rows of how many expected that has come to';

CREATE VIEW cqrs.workers AS
SELECT pid, datname, role, projection, version, phase, since FROM cqrs_internal.workers();
COMMENT ON VIEW cqrs.workers IS 'the processes of cqrs on this server; none where the library is not preloaded';

CREATE VIEW cqrs.history AS
SELECT h.at, h.actor, coalesce(c.oid::pg_catalog.regclass::text, h.name) AS projection, h.version, h.event, h.from_state, h.to_state, h.lasted,
       CASE WHEN pg_catalog.pg_has_role('pg_read_all_data', 'USAGE') OR pg_catalog.pg_has_role(c.relowner, 'USAGE')
                 OR h.actor = SESSION_USER
            THEN h.reason END AS reason,
       h.source, h.changes
FROM cqrs_internal.history h
LEFT JOIN cqrs_internal.projection p ON p.id = h.projection
LEFT JOIN pg_catalog.pg_class c ON c.oid = p.view
ORDER BY h.id;
COMMENT ON VIEW cqrs.history IS
'what happened to projections, what was erased from the outbox, when and by whom; reasons, which may quote data, are shown to the owner, the actor and members of pg_read_all_data';

GRANT SELECT ON cqrs.projections, cqrs.versions, cqrs.checkpoints, cqrs.lag, cqrs.sources, cqrs.workers, cqrs.build_progress, cqrs.history TO PUBLIC;
GRANT EXECUTE ON FUNCTION cqrs.freshness(regclass), cqrs_internal.measure(integer), cqrs_internal.shown_status(integer),
    cqrs_internal.shown_hold(integer),     cqrs_internal.shown_strategy(integer), cqrs_internal.table_bytes(regclass), cqrs_internal.workers(), cqrs_internal.table_progress(),
    cqrs_internal.column_names(oid, smallint[]) TO PUBLIC;

-- Types of events.  Sealed segments were counted when they were; those that are still written to are counted now, under the same snapshot.
CREATE VIEW cqrs.event_types AS
WITH counts AS (
    SELECT e.type, min(e.first_at) AS first_seen, max(e.last_at) AS last_seen, sum(e.count)::bigint AS count
    FROM (SELECT k.type, k.count, k.first_at, k.last_at FROM cqrs_internal.event_count k
          UNION ALL
          SELECT k.type, k.count, k.first_at, k.last_at
          FROM cqrs_internal.segment s CROSS JOIN LATERAL cqrs_internal.count_events(s.number, s.relation) k
          WHERE s.opened_at IS NOT NULL AND s.bytes IS NULL) e
    GROUP BY e.type),
readers AS (
    SELECT h.event_type AS type, pg_catalog.array_agg(DISTINCT p.view ORDER BY p.view) AS handled_by
    FROM cqrs_internal.handler h
    JOIN cqrs_internal.version v ON v.id = h.version AND v.state <> 'retired'
    JOIN cqrs_internal.projection p ON p.id = v.projection
    WHERE h.event_type IS NOT NULL
    GROUP BY h.event_type)
SELECT type, c.first_seen, c.last_seen, coalesce(c.count, 0) AS count, coalesce(r.handled_by, '{}') AS handled_by,
       coalesce(t.version, 1) AS schema_version, t.description, t.owner
FROM counts c
FULL JOIN cqrs_internal.event_type t USING (type)
FULL JOIN readers r USING (type);
COMMENT ON VIEW cqrs.event_types IS
'types of domain events that were emitted, described, or have handlers: how many, when, whose projections handle them, the newest schema version of their payloads, what they mean, and whose they are';
GRANT SELECT ON cqrs.event_types TO PUBLIC;
