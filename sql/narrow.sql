-- Keys that changes reach through the groups and partitions they are in: subqueries grouped by another column than the key, windows over other columns, rows
-- chosen from those of another row.  If this fails, such a read model misses keys of the partition that a row left or came to, computes a group or a
-- partition from some of its rows only, or evaluates all of them where a few would do.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cqrs;
RESET client_min_messages;
CREATE SCHEMA narrow_test;
SET search_path = narrow_test, public;
SET jit = off;

CREATE TABLE customer (id integer PRIMARY KEY, region text, grade integer NOT NULL);
CREATE TABLE orders (id integer PRIMARY KEY, customer integer, region text, total integer);
CREATE TABLE item (id integer PRIMARY KEY, customer integer, amount integer);
CREATE VIEW spent AS SELECT customer, sum(amount) AS amount, count(*) AS n FROM item GROUP BY customer;
CREATE TABLE model (name text PRIMARY KEY, query text);
CREATE PROCEDURE follow(name text, key name[], query text) LANGUAGE plpgsql SET client_min_messages = warning AS $$
BEGIN
    INSERT INTO model VALUES (name, query);
    PERFORM cqrs.create_projection(name, query, key);
END$$;
-- Names the read models that differ from their query, with what differs.
CREATE FUNCTION differences() RETURNS TABLE (model text, which text, differing text) LANGUAGE plpgsql AS $$
BEGIN
    FOR model IN SELECT name FROM model ORDER BY name LOOP
        RETURN QUERY EXECUTE (SELECT format('WITH q AS MATERIALIZED (%2$s)
            SELECT %1$L, ''missing'', (d.*)::text FROM (TABLE q EXCEPT ALL TABLE %1$I) AS d
            UNION ALL SELECT %1$L, ''extra'', (d.*)::text FROM (TABLE %1$I EXCEPT ALL TABLE q) AS d', name, query)
            FROM model AS m WHERE m.name = differences.model);
    END LOOP;
END$$;

-- Groups joined by a column that is not the key: a subquery, a view, a WITH query that is read twice, groups of groups, by way of another table, outer joins.
CALL follow('of_customer', '{id}', 'SELECT o.id, o.total, t.amount FROM orders o JOIN (SELECT customer, sum(amount) AS amount FROM item GROUP BY customer) t ON t.customer = o.customer');
CALL follow('of_view', '{id}', 'SELECT o.id, s.amount, s.n FROM orders o LEFT JOIN spent s ON s.customer = o.customer');
CALL follow('of_with', '{id}', 'WITH t AS MATERIALIZED (SELECT customer, sum(amount) AS amount FROM item GROUP BY customer)
    SELECT o.id, t.amount, n.amount AS next FROM orders o LEFT JOIN t ON t.customer = o.customer LEFT JOIN t n ON n.customer = o.customer + 1');
CALL follow('of_groups', '{id}', 'SELECT o.id, r.amount, r.n FROM orders o LEFT JOIN (SELECT c.region, sum(t.amount) AS amount, count(*) AS n
    FROM customer c LEFT JOIN (SELECT customer, sum(amount) AS amount FROM item GROUP BY customer HAVING sum(amount) > 1) t ON t.customer = c.id GROUP BY c.region) r ON r.region = o.region');
CALL follow('of_other', '{id}', 'SELECT o.id, g.n, g.total FROM orders o JOIN customer c ON c.id = o.customer
    JOIN (SELECT x.region, count(*) AS n, sum(x.total) AS total FROM orders x GROUP BY x.region) g ON g.region = c.region');
CALL follow('of_either', '{id, customer}', 'SELECT o.id, t.customer, t.amount FROM orders o FULL JOIN (SELECT customer, sum(amount) AS amount FROM item GROUP BY customer) t ON t.customer = o.customer');
CALL follow('of_distinct', '{id}', 'SELECT o.id, d.region FROM orders o JOIN (SELECT DISTINCT id, region FROM customer WHERE grade > 0) d ON d.id = o.customer');
CALL follow('of_grade', '{grade}', 'SELECT c.grade, sum(s.amount) AS amount, count(*) AS n FROM customer c LEFT JOIN spent s ON s.customer = c.id GROUP BY c.grade');
CALL follow('of_both', '{grade}', 'SELECT c.grade, sum(o.total) AS total, count(*) AS n, max(s.amount) AS amount FROM customer c JOIN orders o ON o.customer = c.id JOIN spent s ON s.customer = c.id GROUP BY c.grade');
-- Windows: over a column that can be null and one that cannot, two of them, over groups, in a subquery, over what an outer join may not find.
CALL follow('rank_region', '{id}', 'SELECT id, total, rank() OVER (PARTITION BY region ORDER BY total) AS place, count(*) OVER (PARTITION BY region) AS n FROM orders');
CALL follow('rank_grade', '{id}', 'SELECT id, dense_rank() OVER (PARTITION BY grade ORDER BY region) AS place FROM customer');
CALL follow('rank_both', '{id}', 'SELECT id, rank() OVER (PARTITION BY region, customer ORDER BY total) AS place, sum(total) OVER (PARTITION BY region) AS total FROM orders');
CALL follow('rank_groups', '{region, id}', 'SELECT c.region, c.id, t.amount, rank() OVER (PARTITION BY c.region ORDER BY t.amount DESC NULLS LAST) AS place
    FROM customer c LEFT JOIN (SELECT customer, sum(amount) AS amount FROM item GROUP BY customer) t ON t.customer = c.id');
CALL follow('rank_grouped', '{customer, region}', 'SELECT customer, region, rank() OVER (PARTITION BY region ORDER BY sum(total), customer) AS place FROM orders GROUP BY customer, region HAVING count(*) < 9');
CALL follow('rank_first', '{id}', 'SELECT id, total, place FROM (SELECT id, total, row_number() OVER (PARTITION BY region ORDER BY total DESC, id) AS place FROM orders) w WHERE place < 3');
CALL follow('rank_outer', '{id}', 'SELECT o.id, sum(o.total) OVER (PARTITION BY c.grade) AS total FROM orders o LEFT JOIN customer c ON c.id = o.customer');
CALL follow('rank_sums', '{region}', 'SELECT region, sum(place) AS places FROM (SELECT region, rank() OVER (PARTITION BY customer ORDER BY total) AS place FROM orders) w GROUP BY region');
-- Rows chosen: the first of each group with a key of their own, the first few of another row's.
CALL follow('first_id', '{id}', 'SELECT DISTINCT ON (region) id, region, total FROM orders ORDER BY region, total, id');
CALL follow('first_few', '{customer, id}', 'SELECT c.id AS customer, l.id, l.total FROM customer c CROSS JOIN LATERAL (SELECT o.id, o.total FROM orders o WHERE o.customer = c.id ORDER BY o.total, o.id LIMIT 2) l');
CALL follow('first_ranks', '{customer, id}', 'SELECT c.id AS customer, l.id, l.place FROM customer c JOIN LATERAL (SELECT o.id, rank() OVER (ORDER BY o.total) AS place FROM orders o WHERE o.customer = c.id) l ON l.place < 3');
-- What is compared with all rows, or with others in each window, stays as it is.
CALL follow('rank_all', '{id}', 'SELECT id, rank() OVER (ORDER BY total) AS place FROM orders');
CALL follow('rank_apart', '{id}', 'SELECT id, count(*) OVER (PARTITION BY region) AS n, count(*) OVER (PARTITION BY customer) AS m FROM orders');
CALL follow('first_of_all', '{id}', 'SELECT c.id, sum(l.total) AS total FROM customer c JOIN (SELECT customer, total FROM orders ORDER BY total, id LIMIT 3) l ON l.customer = c.id GROUP BY c.id');
SELECT name, line FROM model, cqrs.explain(name::regclass) AS line WHERE line ~ '^(strategy|source .*(full|not))' ORDER BY name, line DESC;
\pset format unaligned
\pset tuples_only on
SELECT name, line FROM model, cqrs.explain(name::regclass) AS line WHERE name IN ('of_customer', 'of_view', 'of_with', 'of_groups', 'rank_region', 'rank_grade', 'rank_groups', 'rank_first')
    AND line ~ '^compute( where [a-z]+ is null)?:' ORDER BY name, line;
-- Only what a view's owner owns too is looked into: the text of a view may name what others may not.  A key that gets everywhere by itself is left to do so.
CREATE ROLE regress_narrow_owner;
GRANT SELECT ON item TO regress_narrow_owner;
GRANT CREATE, USAGE ON SCHEMA narrow_test TO regress_narrow_owner;
ALTER VIEW spent OWNER TO regress_narrow_owner;
SET ROLE regress_narrow_owner;
CREATE VIEW spent_by_some AS SELECT customer, sum(amount) AS amount FROM item GROUP BY customer;
RESET ROLE;
CREATE ROLE regress_narrow_reader;
GRANT SELECT, TRIGGER ON orders, item TO regress_narrow_reader;
GRANT SELECT ON spent_by_some TO regress_narrow_reader;
GRANT CREATE, USAGE ON SCHEMA narrow_test TO regress_narrow_reader;
SET ROLE regress_narrow_reader;
SELECT cqrs.create_projection('of_others', 'SELECT o.id, s.amount FROM orders o JOIN spent_by_some s ON s.customer = o.customer') \g /dev/null
SELECT cqrs.create_projection('by_key', 'SELECT o.id, s.amount FROM orders o LEFT JOIN (SELECT id, sum(amount) AS amount FROM item GROUP BY id) s ON s.id = o.id') \g /dev/null
SELECT line FROM cqrs.explain('of_others') AS line WHERE line ~ '^compute:' UNION ALL SELECT line FROM cqrs.explain('by_key') AS line WHERE line ~ '^compute:';
SELECT cqrs.drop_projection('of_others'), cqrs.drop_projection('by_key') \g /dev/null
RESET ROLE;
ALTER VIEW spent OWNER TO CURRENT_USER;

-- ---- windows of changes, computed one by one as a rule and, in a session of its own, all at once: without nested loops

CREATE PROCEDURE change(step integer) LANGUAGE plpgsql AS $$
BEGIN
    CASE step
    WHEN 0 THEN
        TRUNCATE customer, orders, item;
        INSERT INTO customer SELECT i, (ARRAY['n', 's', NULL])[1 + i % 3], i % 2 FROM generate_series(0, 7) i;
        INSERT INTO orders SELECT i, nullif(i % 9, 8), (ARRAY['n', 's', NULL, 'w'])[1 + i % 4], i % 5 FROM generate_series(0, 29) i;
        INSERT INTO item SELECT i, nullif(i % 10, 9), i % 4 FROM generate_series(0, 39) i;
    -- A row leaves one group or partition and comes to another, or to that of nulls, and back.
    WHEN 1 THEN
        UPDATE item SET customer = 3 WHERE id = 12;
        UPDATE orders SET region = NULL WHERE id = 4;
    WHEN 2 THEN
        UPDATE orders SET region = 's', total = 9 WHERE id = 4;
        UPDATE customer SET region = NULL, grade = 1 - grade WHERE id = 3;
    WHEN 3 THEN
        UPDATE item SET customer = NULL WHERE customer = 3;
        UPDATE orders SET customer = 3 WHERE customer = 4;
    -- Both sides move in one window; what they were joined with is gone.
    WHEN 4 THEN
        UPDATE orders SET customer = customer + 1 WHERE id < 10;
        UPDATE item SET customer = customer - 1 WHERE id > 20;
        DELETE FROM customer WHERE id IN (2, 3);
    WHEN 5 THEN
        DELETE FROM orders WHERE region = 's';
        DELETE FROM item WHERE customer = 5;
    WHEN 6 THEN
        INSERT INTO orders VALUES (40, 5, 's', 0), (41, NULL, NULL, NULL);
        INSERT INTO item VALUES (50, 5, 2), (51, 3, NULL);
        INSERT INTO customer VALUES (3, 's', 0);
    WHEN 7 THEN
        UPDATE orders SET id = id + 100 WHERE id IN (0, 41);
        UPDATE customer SET id = 20 - id;
    WHEN 8 THEN
        TRUNCATE item;
    END CASE;
END$$;
CREATE PROCEDURE try_changes() LANGUAGE plpgsql AS $$
DECLARE
    difference text;
BEGIN
    FOR step IN 0 .. 8 LOOP
        CALL change(step);
        COMMIT;
        PERFORM cqrs.drain();
        FOR difference IN SELECT format('%s %s: %s', which, d.model, count(*)) FROM differences() AS d GROUP BY which, d.model ORDER BY 1 LOOP
            RAISE WARNING 'step %: %', step, difference;
        END LOOP;
        COMMIT;
    END LOOP;
END$$;
CALL try_changes();
\c -
SET search_path = narrow_test, public;
SET jit = off;
SET enable_nestloop = off;
CALL try_changes();

-- A change costs what its groups do, not what all hold: the statements look a few rows up where the whole has thousands.
INSERT INTO orders SELECT i, i % 500, i % 500, i FROM generate_series(200, 5000) i;
INSERT INTO item SELECT i, i % 500, i FROM generate_series(200, 5000) i;
CREATE INDEX ON orders (customer);
CREATE INDEX ON orders (region);
CREATE INDEX ON item (customer);
SELECT cqrs.drain() > 0 AS applied;
ANALYZE customer, orders, item;
\c -
SET search_path = narrow_test, public;
SET jit = off;
UPDATE item SET amount = amount + 1 WHERE id = 300;
UPDATE orders SET total = total + 1 WHERE id = 300;
SELECT cqrs.drain() > 0 AS applied;
SELECT model, which, count(*) FROM differences() GROUP BY 1, 2;
SELECT name, substring(line FROM ': (keys, changes \d+, keys \d+), ') AS batch
  FROM model, LATERAL (SELECT line FROM cqrs.explain(name::regclass) AS line WHERE line LIKE 'batch%' LIMIT 1) b
 WHERE name IN ('of_customer', 'of_view', 'rank_region', 'rank_first', 'first_few') ORDER BY name;

SET client_min_messages = warning;
SELECT cqrs.drop_projection(name::regclass) FROM model \g /dev/null
DROP SCHEMA narrow_test CASCADE;
DROP ROLE regress_narrow_owner, regress_narrow_reader;
