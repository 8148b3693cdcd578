-- The outbox.  Its segments are tables that are made when they are needed; none is before the first table is captured.

CREATE SEQUENCE cqrs_internal.chunk_number AS bigint;
COMMENT ON SEQUENCE cqrs_internal.chunk_number IS 'numbers of chunks, drawn when a chunk is sealed';

-- The outbox holds the data of every source: for superusers and pg_read_all_data only.
CREATE FUNCTION cqrs_internal.outbox_rows()
RETURNS TABLE ("position" bigint, xid xid8, captured_at timestamptz, kind text, source regclass, event_type text, aggregate_type text,
               aggregate_id text, aggregate_version bigint, old_row jsonb, new_row jsonb, payload jsonb, metadata jsonb, command bigint)
LANGUAGE C STABLE STRICT PARALLEL UNSAFE ROWS 10000
AS 'MODULE_PATHNAME', 'cqrs_outbox_rows';
COMMENT ON FUNCTION cqrs_internal.outbox_rows() IS 'decodes every chunk of the outbox';
REVOKE EXECUTE ON FUNCTION cqrs_internal.outbox_rows() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cqrs_internal.outbox_rows() TO pg_read_all_data;

CREATE VIEW cqrs.outbox AS
SELECT r.position, r.xid, r.captured_at, r.kind, r.source, r.event_type, r.aggregate_type, r.aggregate_id, r.aggregate_version,
       r.old_row, r.new_row, r.payload, r.metadata, r.command
FROM cqrs_internal.outbox_rows() AS r;
COMMENT ON VIEW cqrs.outbox IS 'all changes captured and not yet removed, decoded; values of rows as the text their types print; a row of kind damaged for each chunk that cannot be read; in the order of position, and within a transaction of command and position';

-- Where the outbox is and what keeps it there tells nothing of any row: for everybody.
CREATE FUNCTION cqrs_internal.segments()
RETURNS TABLE (segment integer, first_position bigint, last_position bigint, changes bigint, bytes bigint, held_by text[])
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'cqrs_outbox_segments_shown';
COMMENT ON FUNCTION cqrs_internal.segments() IS 'the segments of the outbox, oldest first, and what keeps each from being freed';

CREATE VIEW cqrs.segments AS
SELECT segment, first_position, last_position, changes, bytes, held_by FROM cqrs_internal.segments();
COMMENT ON VIEW cqrs.segments IS 'the segments of the outbox: what each holds, and what keeps it from being freed';

GRANT EXECUTE ON FUNCTION cqrs_internal.segments() TO PUBLIC;
GRANT SELECT ON cqrs.segments TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.chunk_number', '');
