SELECT o.order_id, o.order_date, o.shipped_date, c.company_name AS customer, c.country,
       e.first_name || ' ' || e.last_name AS employee, s.company_name AS shipper,
       count(d.product_id) AS lines,
       sum(d.unit_price * d.quantity * (1 - d.discount)) AS total,
       (array_agg(p.product_name ORDER BY d.unit_price DESC, p.product_id))[1] AS dearest_product
  FROM orders o
  LEFT JOIN customers c ON c.customer_id = o.customer_id
  LEFT JOIN employees e ON e.employee_id = o.employee_id
  LEFT JOIN shippers s ON s.shipper_id = o.ship_via
  LEFT JOIN order_details d ON d.order_id = o.order_id
  LEFT JOIN products p ON p.product_id = d.product_id
 GROUP BY o.order_id, c.customer_id, e.employee_id, s.shipper_id
