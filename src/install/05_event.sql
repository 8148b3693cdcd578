-- An event, as handlers see it: a domain event, or a change of a captured row.

CREATE TYPE cqrs.event AS (
    "position"        bigint,
    xid               xid8,
    captured_at       timestamptz,
    event_type        text,
    aggregate_type    text,
    aggregate_id      text,
    aggregate_version bigint,
    payload           jsonb,
    metadata          jsonb,
    kind              text,
    source            regclass,
    old_row           jsonb,
    new_row           jsonb
);
COMMENT ON TYPE cqrs.event IS 'what a handler is given: a domain event, or a change of a row of a captured table';
