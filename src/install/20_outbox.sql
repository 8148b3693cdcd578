-- The outbox: one segment for now, written and scanned as a list.  Chunks of about a page stay in line.

CREATE SEQUENCE cqrs_internal.chunk_number AS bigint;
COMMENT ON SEQUENCE cqrs_internal.chunk_number IS 'numbers of chunks, drawn when a chunk is sealed';

CREATE TABLE cqrs_internal.outbox_1 (
    number      bigint NOT NULL,
    xid         xid8 NOT NULL,
    sources     integer[] NOT NULL,
    changes     integer NOT NULL,
    captured_at timestamptz NOT NULL,
    body        bytea NOT NULL
) WITH (toast_tuple_target = 8160);
ALTER TABLE cqrs_internal.outbox_1 ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE cqrs_internal.outbox_1 ALTER COLUMN sources SET STORAGE PLAIN;
CREATE INDEX outbox_1_xid ON cqrs_internal.outbox_1 (xid);
COMMENT ON TABLE cqrs_internal.outbox_1 IS 'a segment of the outbox';
COMMENT ON INDEX cqrs_internal.outbox_1_xid IS 'finds the chunks of a window';
INSERT INTO cqrs_internal.segment VALUES (1, 'cqrs_internal.outbox_1');

-- The outbox holds the data of every source: for superusers and pg_read_all_data only.
CREATE FUNCTION cqrs_internal.outbox_rows()
RETURNS TABLE ("position" bigint, xid xid8, captured_at timestamptz, kind text, source regclass, old_row jsonb, new_row jsonb)
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 10000
AS 'MODULE_PATHNAME', 'cqrs_outbox_rows';
COMMENT ON FUNCTION cqrs_internal.outbox_rows() IS 'decodes every chunk of the outbox';
REVOKE EXECUTE ON FUNCTION cqrs_internal.outbox_rows() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cqrs_internal.outbox_rows() TO pg_read_all_data;

CREATE VIEW cqrs.outbox AS
SELECT r.position,
       r.xid,
       r.captured_at,
       r.kind,
       r.source,
       NULL::text AS event_type,
       NULL::text AS aggregate_type,
       NULL::text AS aggregate_id,
       NULL::bigint AS aggregate_version,
       r.old_row,
       r.new_row,
       NULL::jsonb AS payload,
       NULL::jsonb AS metadata
FROM cqrs_internal.outbox_rows() AS r;
COMMENT ON VIEW cqrs.outbox IS 'all changes captured and not yet removed, decoded; values as the text their types print';

SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.chunk_number', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.outbox_1', '');
