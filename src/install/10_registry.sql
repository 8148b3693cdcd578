-- The catalog.  Columns that name objects are reg* types, so that a logical restore resolves them by name.

CREATE SEQUENCE cqrs_internal.registry_id AS integer;
COMMENT ON SEQUENCE cqrs_internal.registry_id IS 'ids of projections, versions, sources and shapes';

CREATE TABLE cqrs_internal.projection (
    id           integer NOT NULL,
    view         regclass NOT NULL,
    paused       boolean NOT NULL,
    max_lag      interval,
    on_error     text NOT NULL,
    row_filter   text,
    description  text,
    last_version integer NOT NULL,
    former       oid[] NOT NULL,
    CONSTRAINT projection_pkey PRIMARY KEY (id),
    CONSTRAINT projection_view_key UNIQUE (view)
);
COMMENT ON TABLE cqrs_internal.projection IS 'named read models, each known by the serving view through which users read it';

CREATE TABLE cqrs_internal.version (
    id         integer NOT NULL,
    projection integer NOT NULL,
    number     integer NOT NULL,
    state      text NOT NULL,
    status     text NOT NULL,
    error      text,
    retry_at   timestamptz,
    attempts   integer NOT NULL,
    schema     regnamespace NOT NULL,
    "table"    regclass NOT NULL,
    definition regclass NOT NULL,
    key        smallint[] NOT NULL,
    indexes    text[] NOT NULL,
    settings   text[] NOT NULL,
    created_at timestamptz NOT NULL,
    state_since  timestamptz NOT NULL,
    status_since timestamptz NOT NULL,
    filled_xid   xid8,
    filled_at    timestamptz,
    rebuild      text,
    retire_at    timestamptz,
    CONSTRAINT version_pkey PRIMARY KEY (id),
    CONSTRAINT version_projection_key UNIQUE (projection, number)
);
COMMENT ON TABLE cqrs_internal.version IS 'definitions of projections, each with its own table';

CREATE TABLE cqrs_internal.event_definition (
    version integer NOT NULL,
    columns text NOT NULL,
    seed    text,
    unknown text NOT NULL,
    aggregate_types text[] NOT NULL,
    CONSTRAINT event_definition_pkey PRIMARY KEY (version)
);
COMMENT ON TABLE cqrs_internal.event_definition IS
'versions that handlers define: columns and seed as given, what to do about events that no handler takes, and of which types of aggregates there were any';

CREATE TABLE cqrs_internal.handler (
    version    integer NOT NULL,
    number     integer NOT NULL,
    event_type text,
    source     integer,
    "function" regprocedure,
    statement  text,
    CONSTRAINT handler_pkey PRIMARY KEY (version, number)
);
COMMENT ON TABLE cqrs_internal.handler IS 'what is done about events of a type, or about changes of a captured table: a function, or SQL';

CREATE SEQUENCE cqrs_internal.dead_letter_id AS bigint;
COMMENT ON SEQUENCE cqrs_internal.dead_letter_id IS 'ids of dead letters, in the order in which their events are to be applied';

CREATE TABLE cqrs_internal.dead_letter (
    id         bigint NOT NULL,
    version    integer NOT NULL,
    aggregates text[] NOT NULL,
    behind     bigint,
    event      cqrs.event NOT NULL,
    error      text,
    context    text,
    attempts   integer NOT NULL,
    parked_at  timestamptz NOT NULL,
    tried_at   timestamptz,
    CONSTRAINT dead_letter_pkey PRIMARY KEY (id),
    CONSTRAINT dead_letter_version_key UNIQUE (version, id)
);
COMMENT ON TABLE cqrs_internal.dead_letter IS 'events that a version''s handlers failed at, and later ones of the same aggregates, which wait behind them';

CREATE TABLE cqrs_internal.source (
    id       integer NOT NULL,
    relation regclass NOT NULL,
    attached boolean NOT NULL,
    captured boolean NOT NULL,
    watched  smallint[] NOT NULL,
    imaged   smallint[] NOT NULL,
    CONSTRAINT source_pkey PRIMARY KEY (id),
    CONSTRAINT source_relation_key UNIQUE (relation)
);
COMMENT ON TABLE cqrs_internal.source IS 'command-side tables whose changes are captured, and of which columns';

CREATE TABLE cqrs_internal.version_source (
    version integer NOT NULL,
    source  integer NOT NULL,
    watched smallint[] NOT NULL,
    imaged  smallint[] NOT NULL,
    CONSTRAINT version_source_pkey PRIMARY KEY (version, source)
);
COMMENT ON TABLE cqrs_internal.version_source IS 'which columns of which sources a version reads, and which of them it must find in images';

CREATE TABLE cqrs_internal.verification (
    version integer NOT NULL,
    at      timestamptz NOT NULL,
    drifted bigint NOT NULL,
    CONSTRAINT verification_pkey PRIMARY KEY (version)
);
COMMENT ON TABLE cqrs_internal.verification IS 'when each version was last verified, all of it or a sample, and how many keys are known to have drifted since it was mended';

CREATE TABLE cqrs_internal.version_read (
    version    integer NOT NULL,
    projection integer NOT NULL,
    "over"     integer NOT NULL,
    CONSTRAINT version_read_pkey PRIMARY KEY (version, projection)
);
COMMENT ON TABLE cqrs_internal.version_read IS 'which projections a version reads, and over which of their versions its table was computed, 0 if none';

CREATE TABLE cqrs_internal.shape (
    id      integer NOT NULL,
    source  integer NOT NULL,
    noted   smallint[] NOT NULL,
    columns smallint[] NOT NULL,
    names   name[] NOT NULL,
    types   regtype[] NOT NULL,
    typmods integer[] NOT NULL,
    collations oid[] NOT NULL,
    lengths smallint[] NOT NULL,
    by_value boolean[] NOT NULL,
    alignments "char"[] NOT NULL,
    CONSTRAINT shape_pkey PRIMARY KEY (id),
    CONSTRAINT shape_source_key UNIQUE (source, id)
);
COMMENT ON TABLE cqrs_internal.shape IS 'how images of a source''s rows are laid out in chunks; a new one whenever the table, or what is asked of it, changes';

CREATE TABLE cqrs_internal.checkpoint (
    version           integer NOT NULL,
    number            bigint NOT NULL,
    snapshot          pg_snapshot NOT NULL,
    position          bigint NOT NULL,
    as_of             timestamptz NOT NULL,
    system_identifier bigint NOT NULL,
    database          oid NOT NULL,
    registry          oid NOT NULL,
    strategy          text,
    changes           bigint NOT NULL,
    keys              bigint,
    written           bigint NOT NULL,
    duration          interval NOT NULL,
    CONSTRAINT checkpoint_pkey PRIMARY KEY (version, number)
);
COMMENT ON TABLE cqrs_internal.checkpoint IS 'up to which snapshot each version has applied all changes, and whose transactions that snapshot speaks of, with what the batch was; inserted, never updated';

CREATE TABLE cqrs_internal.segment (
    number            integer NOT NULL,
    oldest            integer NOT NULL,
    relation          regclass NOT NULL,
    opened_at         timestamptz,
    closed_at         timestamptz,
    consumed_at       timestamptz,
    first_xid         xid8,
    last_xid          xid8,
    first_position    bigint,
    last_position     bigint,
    changes           bigint,
    bytes             bigint,
    system_identifier bigint NOT NULL,
    database          oid NOT NULL,
    registry          oid NOT NULL,
    CONSTRAINT segment_pkey PRIMARY KEY (number),
    CONSTRAINT segment_relation_key UNIQUE (relation)
);
COMMENT ON TABLE cqrs_internal.segment IS
'tables that hold the outbox, oldest first, and whose transactions they speak of; the one opened last is written to, one not opened waits for its turn';

CREATE TABLE cqrs_internal.history (
    id         bigint GENERATED ALWAYS AS IDENTITY,
    at         timestamptz NOT NULL,
    actor      name NOT NULL,
    projection integer,
    name       text,
    version    integer,
    event      text NOT NULL,
    from_state text,
    to_state   text,
    lasted     interval,
    reason     text,
    source     text,
    changes    bigint,
    CONSTRAINT history_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE cqrs_internal.history IS 'what happened to projections and sources, when and by whom';
COMMENT ON SEQUENCE cqrs_internal.history_id_seq IS 'ids of rows of history';

CREATE TABLE cqrs_internal.event_type (
    type        text COLLATE "C" NOT NULL,
    version     integer NOT NULL,
    owner       name NOT NULL,
    description text,
    CONSTRAINT event_type_pkey PRIMARY KEY (type)
);
COMMENT ON TABLE cqrs_internal.event_type IS 'types of domain events that somebody has described, or whose old payloads are brought up to date';

CREATE TABLE cqrs_internal.event_count (
    type     text COLLATE "C" NOT NULL,
    count    bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at  timestamptz NOT NULL,
    CONSTRAINT event_count_pkey PRIMARY KEY (type)
);
COMMENT ON TABLE cqrs_internal.event_count IS 'domain events in segments of the outbox that were sealed, whether or not they have been freed since';

CREATE TABLE cqrs_internal.upcaster (
    type         text COLLATE "C" NOT NULL,
    from_version integer NOT NULL,
    function     regprocedure NOT NULL,
    CONSTRAINT upcaster_pkey PRIMARY KEY (type, from_version)
);
COMMENT ON TABLE cqrs_internal.upcaster IS 'functions that bring payloads of a type of event from one schema version to the next';

CREATE TABLE cqrs_internal.command (
    name    text COLLATE "C" NOT NULL,
    handler regprocedure NOT NULL,
    CONSTRAINT command_pkey PRIMARY KEY (name)
);
COMMENT ON TABLE cqrs_internal.command IS 'commands, and the function that each is handled by';

CREATE TABLE cqrs_internal.command_call (
    id                text COLLATE "C" NOT NULL,
    command           text COLLATE "C" NOT NULL,
    actor             text COLLATE "C" NOT NULL,
    role              text COLLATE "C" NOT NULL,
    at                timestamptz NOT NULL,
    microseconds      bigint NOT NULL,
    payload_hash      bytea NOT NULL,
    result            jsonb,
    token             xid8 NOT NULL,
    system_identifier bigint NOT NULL,
    database          oid NOT NULL,
    registry          oid NOT NULL
);
CREATE INDEX command_call_id ON cqrs_internal.command_call USING hash (id);
CREATE INDEX command_call_at ON cqrs_internal.command_call (at);
COMMENT ON INDEX cqrs_internal.command_call_id IS 'finds the command with an id; who executes one holds a lock on its id, so it need not be unique';
COMMENT ON TABLE cqrs_internal.command_call IS 'commands that were executed, what came of them, and whose transactions their tokens speak of';

CREATE TABLE cqrs_internal.command_replay (
    id    text COLLATE "C" NOT NULL,
    at    timestamptz NOT NULL,
    actor text COLLATE "C" NOT NULL
);
CREATE INDEX command_replay_id ON cqrs_internal.command_replay (id);
CREATE INDEX command_replay_at ON cqrs_internal.command_replay (at);
COMMENT ON TABLE cqrs_internal.command_replay IS 'when a command that had been executed was asked for again; inserted, never updated, so that those who ask do not wait for each other';

-- What a worker acts upon is inserted below SQL by the extension, and by SQL when a dump is restored.  Always: also by those who restore as replication does.
CREATE FUNCTION cqrs_internal.note_restore() RETURNS trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cqrs_note_restore';
COMMENT ON FUNCTION cqrs_internal.note_restore() IS 'has workers wait for the end of the session, which restores the catalog';

CREATE TRIGGER cqrs_restore BEFORE INSERT ON cqrs_internal.projection EXECUTE FUNCTION cqrs_internal.note_restore();
ALTER TABLE cqrs_internal.projection ENABLE ALWAYS TRIGGER cqrs_restore;
COMMENT ON TRIGGER cqrs_restore ON cqrs_internal.projection IS 'notes that read models are being restored';
CREATE TRIGGER cqrs_restore BEFORE INSERT ON cqrs_internal.version EXECUTE FUNCTION cqrs_internal.note_restore();
ALTER TABLE cqrs_internal.version ENABLE ALWAYS TRIGGER cqrs_restore;
COMMENT ON TRIGGER cqrs_restore ON cqrs_internal.version IS 'notes that versions are being restored';
CREATE TRIGGER cqrs_restore BEFORE INSERT ON cqrs_internal.source EXECUTE FUNCTION cqrs_internal.note_restore();
ALTER TABLE cqrs_internal.source ENABLE ALWAYS TRIGGER cqrs_restore;
COMMENT ON TRIGGER cqrs_restore ON cqrs_internal.source IS 'notes that sources are being restored';
CREATE TRIGGER cqrs_restore BEFORE INSERT ON cqrs_internal.segment EXECUTE FUNCTION cqrs_internal.note_restore();
ALTER TABLE cqrs_internal.segment ENABLE ALWAYS TRIGGER cqrs_restore;
COMMENT ON TRIGGER cqrs_restore ON cqrs_internal.segment IS 'notes that segments of the outbox are being restored';

SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.registry_id', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.projection', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.version', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.event_definition', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.handler', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.dead_letter_id', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.source', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.version_source', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.version_read', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.verification', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.shape', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.checkpoint', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.segment', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.history', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.history_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.event_type', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.upcaster', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.command', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.command_call', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.command_replay', '');
SELECT pg_catalog.pg_extension_config_dump('cqrs_internal.event_count', '');
