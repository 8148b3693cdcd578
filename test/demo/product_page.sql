SELECT p.product_id, p.product_name, p.unit_price, p.discontinued, s.company_name AS supplier, g.category_name AS category,
       count(d.order_id) AS orders,
       coalesce(sum(d.quantity), 0) AS units_sold,
       sum(d.unit_price * d.quantity * (1 - d.discount)) AS revenue,
       max(o.order_date) AS last_order
  FROM products p
  LEFT JOIN suppliers s ON s.supplier_id = p.supplier_id
  LEFT JOIN categories g ON g.category_id = p.category_id
  LEFT JOIN order_details d ON d.product_id = p.product_id
  LEFT JOIN orders o ON o.order_id = d.order_id
 GROUP BY p.product_id, s.supplier_id, g.category_id
