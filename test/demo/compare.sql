-- Compares the read models with the plain queries, by key, in one snapshot: sums of floats within 1e-9, relative, as the order of addition
-- decides their last digits; everything else exactly.  Yields orders, products and how many of both differ.
SELECT orders, products, wrong_orders + wrong_products AS differences
  FROM (SELECT count(q.order_id) AS orders,
               count(*) FILTER (WHERE q.order_id IS NULL OR m.order_id IS NULL
                                   OR to_jsonb(q) - 'total' <> to_jsonb(m) - 'total'
                                   OR (q.total IS NULL) <> (m.total IS NULL)
                                   OR abs(q.total - m.total) > 1e-9 * greatest(abs(q.total), abs(m.total))) AS wrong_orders
          FROM order_page_query q FULL JOIN order_page m ON m.order_id = q.order_id) o,
       (SELECT count(q.product_id) AS products,
               count(*) FILTER (WHERE q.product_id IS NULL OR m.product_id IS NULL
                                   OR to_jsonb(q) - 'revenue' <> to_jsonb(m) - 'revenue'
                                   OR (q.revenue IS NULL) <> (m.revenue IS NULL)
                                   OR abs(q.revenue - m.revenue) > 1e-9 * greatest(abs(q.revenue), abs(m.revenue))) AS wrong_products
          FROM product_page_query q FULL JOIN product_page m ON m.product_id = q.product_id) p
