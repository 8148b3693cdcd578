-- Projections that read projections: a stack must be its queries over the tables at one snapshot, whatever befalls one of its storeys.  Worker off; drain does
-- the work.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
CREATE SCHEMA groups_test;
SET search_path = groups_test, public;
\set SHOW_CONTEXT never

CREATE TABLE item (id integer PRIMARY KEY, grp integer NOT NULL, v integer);
CREATE TABLE grp (id integer PRIMARY KEY, name text NOT NULL);
CREATE INDEX ON item (grp);
INSERT INTO grp SELECT g, 'g' || g FROM generate_series(1, 5) g;
INSERT INTO item SELECT i, i % 5 + 1, i FROM generate_series(1, 20) i;

-- How each storey fares.
CREATE VIEW state AS
SELECT v.projection, v.version, v.state, v.status, regexp_replace(v.error, '_\d+_v', '_N_v', 'g') AS error, l.pending
  FROM cqrs.versions v JOIN cqrs.lag l USING (projection, version) ORDER BY v.projection::text, v.version;
-- Three storeys, the third through a view, and a diamond over all of them, made before any of them is built: keys are inferred all the same.
SELECT cqrs.create_projection('sums', 'SELECT grp, count(*) AS n, sum(v) AS total FROM item GROUP BY grp');
SELECT cqrs.create_projection('named', 'SELECT s.grp, g.name, s.total FROM sums s JOIN grp g ON g.id = s.grp');
CREATE VIEW large AS SELECT * FROM named WHERE total > 30;
SELECT cqrs.create_projection('top', 'SELECT count(*) AS n, sum(total) AS total FROM large');
SELECT cqrs.create_projection('diamond', 'SELECT s.grp, s.n, n.name, t.total FROM sums s JOIN named n USING (grp) CROSS JOIN top t');
-- Whether each is the same as over the tables themselves.
CREATE FUNCTION same() RETURNS TABLE (storey text, missing bigint, extra bigint) LANGUAGE sql AS $$
    WITH s AS (SELECT grp, count(*) AS n, sum(v) AS total FROM item GROUP BY grp),
         n AS (SELECT s.grp, g.name, s.total FROM s JOIN grp g ON g.id = s.grp),
         t AS (SELECT count(*) AS n, sum(total) AS total FROM n WHERE total > 30),
         d AS (SELECT s.grp, s.n, n.name, t.total FROM s JOIN n USING (grp) CROSS JOIN t)
    SELECT 'sums', (SELECT count(*) FROM (TABLE s EXCEPT ALL TABLE sums) x), (SELECT count(*) FROM (TABLE sums EXCEPT ALL TABLE s) x)
    UNION ALL SELECT 'named', (SELECT count(*) FROM (TABLE n EXCEPT ALL TABLE named) x), (SELECT count(*) FROM (TABLE named EXCEPT ALL TABLE n) x)
    UNION ALL SELECT 'top', (SELECT count(*) FROM (TABLE t EXCEPT ALL TABLE top) x), (SELECT count(*) FROM (TABLE top EXCEPT ALL TABLE t) x)
    UNION ALL SELECT 'diamond', (SELECT count(*) FROM (TABLE d EXCEPT ALL TABLE diamond) x), (SELECT count(*) FROM (TABLE diamond EXCEPT ALL TABLE d) x)
$$;
SELECT * FROM state;

-- The upper ones wait for those below; drain builds them in their order, and says so of itself where it cannot.
SELECT * FROM named;
SELECT cqrs.drain('named');
SELECT * FROM state;
SELECT cqrs.drain('diamond');
SELECT * FROM same();
SELECT count(DISTINCT snapshot::text) AS checkpoints FROM cqrs.checkpoints;

-- What is read through a projection counts as pending, and as a token's, of everyone who reads it; cqrs.sources knows the tables only.
UPDATE item SET v = v + 1 WHERE id = 3;
SELECT cqrs.token() AS token \gset
SELECT projection, pending FROM state;
SELECT cqrs.caught_up('diamond', :'token'), cqrs.caught_up('top', :'token'), cqrs.caught_up('sums', :'token');
SELECT source, watched FROM cqrs.sources WHERE source::text ~ '^(item|grp|groups_test)' ORDER BY 1;

-- Draining any of them drains all, at one snapshot, and a token applied in one is applied in all.
SELECT cqrs.drain('top');
SELECT cqrs.caught_up('diamond', :'token'), cqrs.caught_up('top', :'token'), cqrs.caught_up('sums', :'token');
SELECT * FROM same();
SELECT count(DISTINCT snapshot::text) AS checkpoints FROM cqrs.checkpoints;
SELECT projection, pending, status, as_of = (cqrs.freshness('sums')).as_of AS as_of_same FROM cqrs.lag JOIN cqrs.versions USING (projection, version) ORDER BY projection::text;

-- The upper ones take what the lower ones' statements changed: recomputed keys, not full evaluations; groups die, are born and move between keys.
BEGIN;
DELETE FROM item WHERE grp = 2;
INSERT INTO item VALUES (100, 6, 7), (101, 1, NULL);
INSERT INTO grp VALUES (6, 'g6');
UPDATE item SET grp = 3 WHERE id = 5;
UPDATE grp SET name = 'four' WHERE id = 4;
SAVEPOINT s;
DELETE FROM item;
ROLLBACK TO s;
COMMIT;
SELECT cqrs.drain('sums') > 0 AS applied;
SELECT * FROM same();
SELECT line FROM cqrs.explain('named') line WHERE line ~ '^(strategy|key|reads|source|images)';
SELECT regexp_replace(line, 'batch of .*: (.*), [\d.]+ ms', '\1') AS batch FROM cqrs.explain('named') line WHERE line ~ '^batch' LIMIT 1;
SELECT * FROM cqrs.verify('diamond');
-- Sums over sums take what was added below: serving views, and views over them, are taken for the tables that they show.
SELECT line FROM cqrs.explain('top') line WHERE line ~ '^(strategy|reads)';

-- Full evaluations below feed the upper ones as well: what changed, and nothing else.
TRUNCATE item;
INSERT INTO item SELECT i, i % 4 + 1, i * 2 FROM generate_series(1, 20) i;
SELECT cqrs.drain('named') > 0 AS applied;
SELECT * FROM same();
SELECT regexp_replace(line, 'batch of .*: (.*), [\d.]+ ms', '\1') AS batch FROM cqrs.explain('named') line WHERE line ~ '^batch' LIMIT 1;

-- What changes no row below costs the upper ones nothing; their checkpoints move together all the same.
UPDATE item SET v = v + 1 WHERE id IN (4, 8);
UPDATE item SET v = v - 1 WHERE id IN (4, 8);
SELECT cqrs.drain('diamond');
SELECT count(DISTINCT snapshot::text) AS checkpoints FROM cqrs.checkpoints;
SELECT * FROM same();

-- A paused one below holds back those that read it, which say so; nobody is stale after that, for nobody has missed anything.
SELECT cqrs.pause('sums');
UPDATE item SET v = v + 1 WHERE id = 3;
SELECT * FROM state;
SELECT cqrs.drain('sums');
SELECT cqrs.drain('diamond');
SELECT cqrs.verify('top');
SELECT cqrs.drain();
SELECT cqrs.token() AS held \gset
SELECT cqrs.wait_for('diamond', :'held');
SELECT cqrs.resume('sums');
SELECT status FROM state;
SELECT cqrs.drain('diamond');
SELECT regexp_replace(line, 'batch of .*: (.*), [\d.]+ ms', '\1') AS batch FROM cqrs.explain('named') line WHERE line ~ '^batch' LIMIT 1;
SELECT * FROM same();

-- A paused upper one leaves the group: those below it go on, and it has missed their changes; it and who reads it are stale then, and evaluated anew.
SELECT cqrs.pause('named');
SELECT cqrs.drain('sums');
SELECT projection, status FROM state;
UPDATE item SET v = v + 1 WHERE id = 3;
SELECT cqrs.drain('sums');
SELECT * FROM same();
SELECT projection, status, error, pending FROM state;
SELECT cqrs.resume('named');
SELECT projection, status, error, pending FROM state;
SELECT cqrs.caught_up('named', :'token'), cqrs.caught_up('sums', :'token');
SELECT cqrs.drain('top');
SELECT projection, status FROM state;
SELECT regexp_replace(line, 'batch of .*: (.*), [\d.]+ ms', '\1') AS batch FROM cqrs.explain('named') line WHERE line ~ '^batch' LIMIT 1;
SELECT * FROM same();

-- One that fails by itself is left out; the others go on, and tell of it.  It heals with its data.
SELECT cqrs.create_projection('ratio', 'SELECT grp, 100 / (total - 999) AS ratio FROM sums');
SELECT cqrs.drain('ratio');
UPDATE item SET v = v + 999 - (SELECT total FROM sums WHERE grp = 1) WHERE id = 4;
SELECT cqrs.drain('sums');
SELECT cqrs.drain('ratio');
SELECT * FROM same();
SELECT projection, status FROM state;
UPDATE item SET v = v + 1 WHERE id = 4;
SELECT cqrs.drain('ratio');
SELECT projection, status FROM state;
SELECT * FROM cqrs.verify('ratio');

-- What fails below keeps the upper ones where they were, with its error; others go on.
SELECT cqrs.create_projection('inverse', 'SELECT id, 100 / v AS inverse FROM item');
SELECT cqrs.create_projection('inverses', 'SELECT i.id, i.inverse, s.n FROM inverse i JOIN item USING (id) JOIN sums s USING (grp)');
SELECT cqrs.drain('inverses');
UPDATE item SET v = 0 WHERE id = 7;
SELECT cqrs.drain('inverses');
SELECT cqrs.drain('sums');
SELECT * FROM same();
UPDATE item SET v = 70 WHERE id = 7;
SELECT cqrs.drain('inverses');
SELECT * FROM cqrs.verify('inverses');
SELECT projection, status FROM state;

-- Circles are refused where a view would close one, of whatever length.
CREATE OR REPLACE VIEW large AS SELECT grp, name, (SELECT n FROM top) AS total FROM named;
CREATE OR REPLACE VIEW large AS SELECT grp, name, (SELECT min(n) FROM diamond) AS total FROM named;
CREATE OR REPLACE VIEW large AS SELECT grp, name, total FROM named WHERE total > 30 AND grp IN (SELECT grp FROM sums WHERE n > 0);
SELECT projection, status FROM state WHERE status <> 'running';
SELECT cqrs.drain('diamond');
SELECT * FROM same();
SELECT line FROM cqrs.explain('top') line WHERE line ~ '^reads';
UPDATE item SET v = v + 1 WHERE id = 3;
SELECT cqrs.drain('top');
SELECT * FROM same();
-- Or from a read model to a table that nobody has captured yet, and back.
CREATE TABLE fresh (grp integer PRIMARY KEY, name text, total bigint);
CREATE OR REPLACE VIEW large AS SELECT grp, name, total FROM fresh;
SELECT cqrs.drain('top');
SELECT count(*) FROM cqrs_internal.version_read r JOIN cqrs_internal.version v ON v.id = r.version JOIN cqrs_internal.projection p ON p.id = v.projection
 WHERE p.view = 'top'::regclass;
INSERT INTO fresh VALUES (1, 'a', 40), (2, 'b', 50);
SELECT cqrs.drain('diamond');
SELECT n, total FROM top;
SELECT * FROM cqrs.verify('diamond');
CREATE OR REPLACE VIEW large AS SELECT * FROM named WHERE total > 30;
SELECT cqrs.drain('diamond');
SELECT * FROM same();

-- A row filter below is a condition of those that read it; one that asks who reads is refused while they do.
SELECT cqrs.alter_projection('named', row_filter => 'current_user = name');
SELECT cqrs.alter_projection('named', row_filter => 'grp <> 1');
SELECT projection, status FROM state WHERE status <> 'running';
SELECT cqrs.drain('diamond');
SELECT count(*) FROM diamond WHERE grp = 1;
SELECT * FROM cqrs.verify('diamond');
UPDATE item SET v = v + 1;
SELECT cqrs.drain('diamond');
SELECT count(*) FROM diamond WHERE grp = 1;
SELECT * FROM cqrs.verify('diamond');
SELECT cqrs.alter_projection('named', row_filter => '');
SELECT cqrs.drain('diamond');
SELECT * FROM same();

-- Drift that is mended below reaches the upper ones.
DO $$ DECLARE t regclass; BEGIN
  SELECT "table" INTO t FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection WHERE p.view = 'sums'::regclass;
  EXECUTE format('ALTER TABLE %s DISABLE TRIGGER cqrs_guard', t);
  EXECUTE format('UPDATE %s SET n = n + 1 WHERE grp = 1', t);
  EXECUTE format('ALTER TABLE %s ENABLE TRIGGER cqrs_guard', t);
END $$;
SELECT * FROM same();
SELECT cqrs.repair('sums', 'somebody wrote to it');
SELECT projection, status FROM state WHERE status <> 'running';
SELECT cqrs.drain('diamond');
SELECT * FROM same();

-- Without its trigger, or with a disabled one, a table feeds nobody; the batch makes it again, and loses nothing.
DO $$ DECLARE t regclass; BEGIN
  SELECT "table" INTO t FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection WHERE p.view = 'sums'::regclass;
  EXECUTE format('ALTER TABLE %s DISABLE TRIGGER cqrs_feed', t);
  SELECT "table" INTO t FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection WHERE p.view = 'named'::regclass;
  EXECUTE format('DROP TRIGGER cqrs_feed ON %s', t);
END $$;
UPDATE item SET v = v + 1;
SELECT cqrs.drain('diamond');
SELECT * FROM same();

-- Another version serves below, then the first one again, then a rebuilt one: from that very transaction on those that read it are stale, and exact over it after
-- the next batch.  What they read is what serves.
SELECT cqrs.create_version('sums', 'SELECT grp, count(*) AS n, sum(-v) AS total FROM item GROUP BY grp');
SELECT cqrs.drain('sums');
UPDATE item SET v = v + 1 WHERE id = 3;
BEGIN;
SELECT cqrs.switch('sums');
SELECT projection, status FROM state WHERE status <> 'running';
COMMIT;
SELECT cqrs.token() AS token \gset
SELECT cqrs.caught_up('sums', :'token'), cqrs.caught_up('named', :'token');
SELECT cqrs.drain('diamond');
SELECT (SELECT sum(total) FROM named) + (SELECT sum(v) FROM item JOIN grp g ON g.id = item.grp) AS opposite;
SELECT cqrs.switch_back('sums');
SELECT projection, status FROM state WHERE status <> 'running';
SELECT cqrs.drain('diamond');
SELECT * FROM same();
SELECT cqrs.rebuild('sums');
SELECT cqrs.drain('sums');
SELECT cqrs.drain('diamond');
SELECT * FROM same();
SELECT count(*) FROM cqrs.verify('top');

-- One that reads others has versions of its own; until it is switched, both follow what is below.
SELECT cqrs.create_version('top', 'SELECT count(*) AS n, sum(total) AS total FROM sums', '{}');
SET client_min_messages = warning;
SELECT cqrs.create_version('sums', 'SELECT v.grp, t.n, t.total FROM top t CROSS JOIN (VALUES (1)) v (grp)', '{grp}');
RESET client_min_messages;
SELECT cqrs.drain('top');
UPDATE item SET v = v + 1;
SELECT cqrs.drain('sums');
SELECT * FROM cqrs.verify('top', version => 2);
SELECT * FROM same();
SELECT cqrs.switch('top');
SELECT total = (SELECT sum(v) FROM item) AS "right" FROM top;
SELECT cqrs.switch_back('top');
SELECT cqrs.retire('top', 2);
SELECT cqrs.drain('diamond');
SELECT * FROM same();

-- Below may be what handlers define: what they write, run by run, and what becomes of an event that fails, reaches those that read it.
SELECT cqrs.create_projection('stock', columns => 'product text PRIMARY KEY, n integer NOT NULL CHECK (n >= 0)', handlers => jsonb_build_object(
    'In', 'INSERT INTO stock AS s SELECT aggregate_id, sum((payload->>''n'')::integer) FROM events GROUP BY 1 ON CONFLICT (product) DO UPDATE SET n = s.n + excluded.n',
    'Out', 'UPDATE stock SET n = n - (payload->>''n'')::integer FROM event WHERE product = aggregate_id',
    'Gone', 'DELETE FROM stock USING event WHERE product = aggregate_id'));
SELECT cqrs.create_projection('stocks', 'SELECT count(*) AS products, sum(n) AS n FROM stock', key => '{}');
SELECT cqrs.create_projection('scarce', 'SELECT product, n FROM stock WHERE n < 5');
CREATE VIEW stock_truth AS SELECT (SELECT (count(*), sum(n)) FROM stock) = (SELECT (products, n) FROM stocks) AS stocks,
    NOT EXISTS ((SELECT product, n FROM stock WHERE n < 5) EXCEPT TABLE scarce) AND NOT EXISTS (TABLE scarce EXCEPT (SELECT product, n FROM stock WHERE n < 5)) AS scarce;
SELECT cqrs.drain('stocks'), cqrs.drain('scarce');
SELECT count(*) FROM (SELECT cqrs.emit('In', 'product', p, jsonb_build_object('n', n)) FROM (VALUES ('a', 3), ('b', 10), ('a', 4), ('c', 1)) v (p, n)) e;
SELECT cqrs.drain('scarce');
SELECT * FROM stocks, scarce, stock_truth;
SELECT cqrs.emit('Out', 'product', 'b', '{"n": 8}'), cqrs.emit('Out', 'product', 'a', '{"n": 100}'), cqrs.emit('Gone', 'product', 'c'), cqrs.emit('Out', 'product', 'a', '{"n": 1}');
SET client_min_messages = error;
SELECT cqrs.drain('stocks');
RESET client_min_messages;
SELECT * FROM stocks, scarce, stock_truth;
SELECT cqrs.discard((SELECT min(id) FROM cqrs.dead_letters WHERE projection = 'stock'::regclass), 'there never were so many') IS NOT NULL AS discarded;
SELECT projection, status FROM state WHERE status <> 'running';
SELECT cqrs.drain('stock'), cqrs.drain('scarce');
SELECT * FROM stocks, scarce, stock_truth;
DROP VIEW stock_truth;
SELECT cqrs.drop_projection('stock', cascade => true);

-- Who creates a projection over another needs SELECT on its serving view, at every batch; and not on its table, whose changes it follows by full evaluations then.
CREATE ROLE regress_groups_reader;
GRANT USAGE, CREATE ON SCHEMA groups_test TO regress_groups_reader;
SET ROLE regress_groups_reader;
SELECT cqrs.create_projection('theirs', 'SELECT grp, n FROM sums');
RESET ROLE;
GRANT SELECT ON sums TO regress_groups_reader;
SET ROLE regress_groups_reader;
SELECT cqrs.create_projection('theirs', 'SELECT grp, n FROM sums');
SELECT cqrs.drain('theirs');
SELECT line FROM cqrs.explain('theirs') line WHERE line ~ '^(strategy|reads)';
RESET ROLE;
INSERT INTO item VALUES (200, 3, 1);
SELECT cqrs.drain('theirs');
SELECT * FROM cqrs.verify('theirs');
REVOKE SELECT ON sums FROM regress_groups_reader;
INSERT INTO item VALUES (201, 3, 1);
SELECT cqrs.drain('theirs');
SELECT cqrs.drain('sums');
SELECT * FROM same();
SELECT cqrs.drop_projection('theirs');

-- History tells why each was evaluated anew.
SELECT projection, version, event, from_state, to_state, reason FROM cqrs.history
 WHERE projection IN ('named', 'top') AND event IN ('stale', 'recovered') ORDER BY at, projection, version;

-- What others read is not dropped under them, and takes them along if asked.
SELECT cqrs.drop_projection('named');
SELECT cqrs.drop_projection('named', cascade => true);
SELECT projection FROM state;
SELECT count(*) FROM cqrs_internal.version_read;
SELECT cqrs.drop_projection('sums', cascade => true);
SELECT cqrs.drop_projection('inverse');
SELECT count(*) FROM cqrs_internal.version_read;
DROP OWNED BY regress_groups_reader;
DROP ROLE regress_groups_reader;
DROP SCHEMA groups_test CASCADE;
