-- What the rounds of capture.pl need of a database: types of every layout, values, the independent log, triggers that write, and random DDL.
-- Columns whose names begin with x are for DDL; statements name the others only.
CREATE EXTENSION cqrs;
CREATE EXTENSION hstore;
CREATE SCHEMA fuzz;

CREATE TYPE fuzz.mood AS ENUM ('sad', 'so so', 'glad');
CREATE TYPE fuzz.pair AS (x integer, y text);
CREATE TYPE fuzz.span AS RANGE (subtype = float8);
CREATE DOMAIN fuzz.positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN fuzz.line AS text CHECK (VALUE !~ '\n');
CREATE SEQUENCE fuzz.stamps;
CREATE SEQUENCE fuzz.names;

-- Text that does not compress.
CREATE FUNCTION fuzz.noise(length integer, seed integer) RETURNS text IMMUTABLE LANGUAGE sql
AS $$SELECT left(string_agg(md5(seed || '.' || i), ''), length) FROM generate_series(1, length / 32 + 1) AS i$$;

-- The independent log: every row that a plain trigger saw, its columns as the text their types print.
CREATE TABLE fuzz.log (id bigserial, xid xid8, label text, kind text, old_row jsonb, new_row jsonb);
-- What was said to have happened: a row for each event, in the same statement.
CREATE TABLE fuzz.event (xid xid8, aggregate text, version bigint, payload jsonb);
CREATE FUNCTION fuzz.emit(aggregate text, payload jsonb) RETURNS void LANGUAGE sql AS $$
INSERT INTO fuzz.event SELECT pg_current_xact_id(), aggregate, cqrs.emit('Happened', 'thing', aggregate, payload), payload$$;

-- The sources: what is imaged and watched of them; null if it is all.
CREATE TABLE fuzz.root (label text PRIMARY KEY, relation oid, imaged text[], watched text[]);

-- Is a table in the tree of another?
CREATE FUNCTION fuzz.belongs(part oid, root oid) RETURNS boolean LANGUAGE sql AS $$
WITH RECURSIVE above AS (SELECT part AS relation UNION SELECT inhparent FROM pg_inherits JOIN above ON inhrelid = above.relation)
SELECT root IN (TABLE above)$$;

-- The columns of a row that are named; all if that is null.
CREATE FUNCTION fuzz.only(image jsonb, columns text[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN columns IS NULL OR image IS NULL THEN image
            ELSE coalesce((SELECT jsonb_object_agg(key, value) FROM jsonb_each(image) WHERE key = ANY (columns)), '{}') END$$;

-- Arguments: the label of the source, and whether the table is a child of it, which may have columns of its own; a column that its parent dropped while they were
-- apart is one.
CREATE FUNCTION fuzz.log_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    root oid := (SELECT relation FROM fuzz.root WHERE label = TG_ARGV[0]);
    names text[];
BEGIN
    IF root = TG_RELID OR fuzz.belongs(TG_RELID, root) THEN
        IF TG_NARGS > 1 THEN
            EXECUTE format('SELECT akeys(hstore(NULL::%s))', root::regclass) INTO names;
        END IF;
        INSERT INTO fuzz.log (xid, label, kind, old_row, new_row) VALUES (pg_current_xact_id(), TG_ARGV[0], lower(TG_OP),
            CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN fuzz.only(hstore_to_jsonb(hstore(old)), names) END,
            CASE WHEN TG_OP IN ('INSERT', 'UPDATE') THEN fuzz.only(hstore_to_jsonb(hstore(new)), names) END);
    END IF;
    RETURN NULL;
END$$;

-- Gives each version of a row a number of its own, by which its changes can be followed.
CREATE FUNCTION fuzz.stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    new.stamp := nextval('fuzz.stamps');
    RETURN new;
END$$;

-- Changes the row that was just written again, now and then, or deletes it.
CREATE FUNCTION fuzz.again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() > 3 THEN
        RETURN NULL;
    ELSIF new.stamp % 13 = 0 THEN
        EXECUTE format('DELETE FROM %s WHERE stamp = $1', TG_RELID::regclass) USING new.stamp;
    ELSIF new.stamp % 4 = 0 THEN
        EXECUTE format('UPDATE %s SET again = coalesce(again, 0) + 1 WHERE stamp = $1', TG_RELID::regclass) USING new.stamp;
    END IF;
    RETURN NULL;
END$$;

-- Changes, before it is written, what the statement does not speak of.
CREATE FUNCTION fuzz.meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.id % 3 = 1 THEN
        new.again := coalesce(new.again, 0) + 100;
    ELSIF new.id % 7 = 1 THEN
        new.part := (new.part + 1) % 5;
    END IF;
    RETURN new;
END$$;

-- Writes to another source; its argument is the table.
CREATE FUNCTION fuzz.other() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() <= 2 AND random() < 0.3 THEN
        EXECUTE format('UPDATE %s SET again = coalesce(again, 0) - 1 WHERE id = $1', TG_ARGV[0]) USING coalesce(new.id, old.id);
    END IF;
    RETURN NULL;
END$$;

-- A value of a type, as a literal.
CREATE FUNCTION fuzz.sample(type oid) RETURNS text LANGUAGE sql AS $$
SELECT CASE WHEN random() < 0.15 THEN 'NULL'
            WHEN type = 'integer'::regtype THEN (random() * 9)::integer::text
            WHEN type = 'numeric'::regtype THEN (random() * 9)::numeric(20, 10)::text
            WHEN type = 'jsonb'::regtype THEN format('%L::jsonb', jsonb_build_object('k', random()))
            WHEN type IN ('text'::regtype, 'varchar'::regtype) THEN
                 format('fuzz.noise(%s, %s)', CASE WHEN random() < 0.2 THEN 5000 ELSE 10 END, (random() * 1000)::integer)
            ELSE 'NULL' END$$;

-- One of the table's columns for DDL.
CREATE FUNCTION fuzz.shifty(relation regclass) RETURNS pg_attribute LANGUAGE sql AS $$
SELECT a FROM pg_attribute AS a WHERE attrelid = relation AND attnum > 0 AND attname ~ '^x' AND NOT attisdropped AND attgenerated = '' ORDER BY random() LIMIT 1$$;

-- Updates a column that DDL made.
CREATE FUNCTION fuzz.shake(relation regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    a pg_attribute := fuzz.shifty(relation);
BEGIN
    IF a.attname IS NOT NULL THEN
        EXECUTE format('UPDATE %s SET %I = %s WHERE id %% 3 = %s', relation, a.attname, fuzz.sample(a.atttypid), (random() * 2)::integer);
    END IF;
END$$;

-- Changes the table's columns.
CREATE FUNCTION fuzz.alter(relation regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    a pg_attribute := fuzz.shifty(relation);
    type text := (ARRAY['integer', 'text', 'numeric', 'jsonb', 'varchar(40)', 'fuzz.mood', 'fuzz.pair', 'integer[]'])[1 + floor(random() * 8)];
    new_name text := 'x' || nextval('fuzz.names');
    what text;
BEGIN
    what := CASE floor(random() * 10)
        WHEN 0 THEN format('ADD COLUMN %I %s DEFAULT %s', new_name, 'text', quote_literal(fuzz.noise((random() * 50)::integer, 1)))
        WHEN 1 THEN format('ADD COLUMN %I integer NOT NULL DEFAULT 7', new_name)
        WHEN 2 THEN format('ADD COLUMN %I float8 DEFAULT random()', new_name)
        WHEN 3 THEN format('ADD COLUMN %I %s', new_name, type)
        WHEN 4 THEN format('ADD COLUMN %I integer GENERATED ALWAYS AS (id * 2) STORED', new_name)
        ELSE CASE WHEN a.attname IS NULL THEN format('ADD COLUMN %I %s', new_name, type) ELSE CASE floor(random() * 6)
            WHEN 0 THEN format('DROP COLUMN %I', a.attname)
            WHEN 1 THEN format('RENAME COLUMN %I TO %I', a.attname, new_name)
            WHEN 2 THEN format('ALTER COLUMN %I DROP DEFAULT, ALTER COLUMN %1$I TYPE text USING %1$I::text', a.attname)
            WHEN 3 THEN format('ALTER COLUMN %I DROP DEFAULT, ALTER COLUMN %1$I TYPE jsonb USING to_jsonb(%1$I)', a.attname)
            WHEN 4 THEN format('ALTER COLUMN %I SET STORAGE %s', a.attname, (ARRAY['PLAIN', 'EXTERNAL', 'MAIN'])[1 + floor(random() * 3)])
            ELSE format('DROP COLUMN %I, ADD COLUMN %I %s', a.attname, new_name, type) END END
    END;
    EXECUTE format('ALTER TABLE %s %s', relation, what);
END$$;

-- A row as it is shown.
CREATE FUNCTION fuzz.brief(image jsonb) RETURNS text LANGUAGE sql AS $$
SELECT string_agg(key || '=' || CASE WHEN value IS NULL THEN '-' WHEN length(value) > 20 THEN left(value, 8) || '…' || length(value) ELSE value END, ' ') FROM jsonb_each_text(image)$$;

-- How log and outbox differ, as multisets.  Updates that change nothing watched are not to be captured.  They may where a value is large, as one that looks the
-- same may be stored anew; and where whole rows are captured, as those from before a column was added look the same and are not.
CREATE VIEW fuzz.seen AS
SELECT o.xid, r.label, o.kind, o.old_row, o.new_row
FROM cqrs.outbox AS o JOIN fuzz.root AS r ON r.relation = o.source::oid
WHERE o.kind IN ('insert', 'update', 'delete', 'truncate');
CREATE VIEW fuzz.logged AS
SELECT l.xid, r.label, l.kind, fuzz.only(l.old_row, r.imaged) AS old_row, fuzz.only(l.new_row, r.imaged) AS new_row,
       l.kind <> 'update' OR fuzz.only(l.old_row, r.watched) <> fuzz.only(l.new_row, r.watched) AS must,
       r.watched IS NULL OR length(l.new_row::text) > 1500 AS may
FROM fuzz.log AS l JOIN fuzz.root AS r USING (label);
CREATE VIEW fuzz.difference AS
WITH seen AS MATERIALIZED (TABLE fuzz.seen),
     logged AS MATERIALIZED (TABLE fuzz.logged),
     must AS (SELECT xid, label, kind, old_row, new_row FROM logged WHERE must),
     may AS (SELECT xid, label, kind, old_row, new_row FROM logged WHERE must OR may)
SELECT 'lost' AS what, d.* FROM (TABLE must EXCEPT ALL TABLE seen) AS d
UNION ALL SELECT 'invented', d.* FROM (TABLE seen EXCEPT ALL TABLE may) AS d;

-- The same for events; and those that are not in their aggregate's order, or whose version is not the next.
CREATE VIEW fuzz.event_difference AS
WITH seen AS MATERIALIZED (SELECT position, xid, aggregate_id AS aggregate, aggregate_version AS version, payload FROM cqrs.outbox WHERE kind = 'event')
SELECT 'lost event' AS what, d.* FROM (TABLE fuzz.event EXCEPT ALL SELECT xid, aggregate, version, payload FROM seen) AS d
UNION ALL SELECT 'invented event', d.* FROM (SELECT xid, aggregate, version, payload FROM seen EXCEPT ALL TABLE fuzz.event) AS d
UNION ALL SELECT 'event out of order', xid, aggregate, version, payload
    FROM (SELECT *, row_number() OVER (PARTITION BY aggregate ORDER BY position) AS next FROM seen) AS o WHERE version <> next;
