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
INSERT INTO cqrs_internal.segment VALUES (1, 'cqrs_internal.outbox_1');

SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.chunk_number', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.outbox_1', '');
