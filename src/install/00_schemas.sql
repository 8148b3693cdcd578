-- Schemas.  cqrs holds what users call and read; cqrs_internal holds the catalog and the outbox.
\echo Use "CREATE EXTENSION cqrs" to load this file. \quit

CREATE SCHEMA cqrs;
COMMENT ON SCHEMA cqrs IS 'read models that follow their sources: functions and views for users';
GRANT USAGE ON SCHEMA cqrs TO PUBLIC;

CREATE SCHEMA cqrs_internal;
COMMENT ON SCHEMA cqrs_internal IS 'catalog and outbox of cqrs; not for users';
