-- How many orders there are, how many of their pages differ from a fold of their events by plain SQL, and how many events are parked still.
WITH folded AS (
    SELECT aggregate_id AS order_id,
           max(payload ->> 'product') AS product,
           max((payload ->> 'total')::numeric) AS total,
           coalesce(max((payload ->> 'amount')::numeric), 0) AS paid,
           coalesce(max(replace(payload ->> 'tip', ',', '.')::numeric), 0) AS tip,
           (array_agg(lower(substr(event_type, 6)) ORDER BY position DESC))[1] AS status,
           max(aggregate_version) AS version
      FROM cqrs.outbox WHERE aggregate_type = 'order' GROUP BY aggregate_id
)
SELECT count(*), count(*) FILTER (WHERE f IS DISTINCT FROM s), (SELECT count(*) FROM cqrs.dead_letters)
  FROM (SELECT order_id, row(product, total, paid, tip, status, version) AS f FROM folded) AS folded
  FULL JOIN (SELECT order_id, row(product, total, paid, tip, status, version) AS s FROM order_summary) AS summary USING (order_id);
