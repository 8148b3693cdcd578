-- Read models of a wholesaler, over Northwind: what its people look at all day.  Each is named, with its key and with what is hard about it; what stands before
-- the first is made first.  Money is real in Northwind: it becomes numeric here, whose sums do not depend on the order of addition.
CREATE VIEW sold_lines AS
SELECT d.order_id, d.product_id, d.quantity, (d.unit_price::numeric * d.quantity * (1 - d.discount::numeric))::numeric(12,2) AS amount
  FROM order_details d;
CREATE VIEW sold_orders AS
SELECT o.order_id, o.customer_id, o.employee_id, o.order_date, count(l.product_id) AS lines, coalesce(sum(l.amount), 0) AS total
  FROM orders o LEFT JOIN sold_lines l ON l.order_id = o.order_id
 GROUP BY o.order_id;
CREATE FUNCTION band(amount numeric) RETURNS text LANGUAGE sql IMMUTABLE AS
$$SELECT CASE WHEN amount IS NULL THEN 'none' WHEN amount < 500 THEN 'small' WHEN amount < 2000 THEN 'middle' ELSE 'large' END$$;

-- order_page (order_id): left joins of six tables, grouped by primary keys
SELECT o.order_id, o.order_date, o.shipped_date, c.company_name AS customer, c.country, e.first_name || ' ' || e.last_name AS employee,
       s.company_name AS shipper, count(d.product_id) AS lines, sum((d.unit_price::numeric * d.quantity)::numeric(12,2)) AS gross,
       (array_agg(p.product_name ORDER BY d.unit_price DESC, p.product_id))[1] AS dearest_product
  FROM orders o
  LEFT JOIN customers c ON c.customer_id = o.customer_id
  LEFT JOIN employees e ON e.employee_id = o.employee_id
  LEFT JOIN shippers s ON s.shipper_id = o.ship_via
  LEFT JOIN order_details d ON d.order_id = o.order_id
  LEFT JOIN products p ON p.product_id = d.product_id
 GROUP BY o.order_id, c.customer_id, e.employee_id, s.shipper_id;

-- customer_card (customer_id): scalar and ARRAY subqueries, a view over a view
SELECT c.customer_id, c.company_name, c.country,
       (SELECT count(*) FROM orders o WHERE o.customer_id = c.customer_id) AS orders,
       (SELECT max(o.order_date) FROM orders o WHERE o.customer_id = c.customer_id) AS last_order,
       (SELECT sum(v.total) FROM sold_orders v WHERE v.customer_id = c.customer_id) AS spent,
       ARRAY(SELECT DISTINCT p.product_name::text FROM orders o JOIN order_details d ON d.order_id = o.order_id JOIN products p ON p.product_id = d.product_id
              WHERE o.customer_id = c.customer_id ORDER BY 1) AS bought
  FROM customers c;

-- product_search (product_id): a search document, tsvector and jsonb
SELECT p.product_id, to_tsvector('english', concat_ws(' ', p.product_name, g.category_name, g.description, s.company_name)) AS words,
       jsonb_build_object('name', p.product_name, 'category', g.category_name, 'price', p.unit_price::numeric(10,2),
                          'supplier', CASE WHEN s.supplier_id IS NOT NULL THEN jsonb_build_object('name', s.company_name, 'country', s.country) END) AS document
  FROM products p LEFT JOIN categories g ON g.category_id = p.category_id LEFT JOIN suppliers s ON s.supplier_id = p.supplier_id;

-- shipping_queue (order_id): a work queue, EXISTS and a subquery that counts
SELECT o.order_id, o.required_date, o.ship_country, c.company_name, (SELECT count(*) FROM order_details d WHERE d.order_id = o.order_id) AS lines
  FROM orders o JOIN customers c ON c.customer_id = o.customer_id
 WHERE o.shipped_date IS NULL AND EXISTS (SELECT FROM order_details d WHERE d.order_id = o.order_id AND d.quantity > 0);

-- reorder_queue (product_id): conditions over several columns, null arithmetic, a LEFT JOIN of a grouped subquery
SELECT p.product_id, p.product_name, p.units_in_stock, p.reorder_level, s.company_name AS supplier, s.phone, coalesce(open.ordered, 0) AS promised
  FROM products p
  LEFT JOIN suppliers s USING (supplier_id)
  LEFT JOIN (SELECT d.product_id, sum(d.quantity) AS ordered FROM order_details d JOIN orders o USING (order_id) WHERE o.shipped_date IS NULL GROUP BY d.product_id) open
         ON open.product_id = p.product_id
 WHERE p.discontinued = 0 AND p.units_in_stock + p.units_on_order - coalesce(open.ordered, 0) <= p.reorder_level;

-- idle_customers (customer_id): NOT EXISTS
SELECT c.customer_id, c.company_name, c.contact_name, c.phone
  FROM customers c
 WHERE NOT EXISTS (SELECT FROM orders o WHERE o.customer_id = c.customer_id AND o.order_date >= '1998-03-01');

-- untried_categories (customer_id, category_id): a cross join under NOT EXISTS
SELECT c.customer_id, g.category_id, c.company_name, g.category_name
  FROM customers c CROSS JOIN categories g
 WHERE NOT EXISTS (SELECT FROM orders o JOIN order_details d ON d.order_id = o.order_id JOIN products p ON p.product_id = d.product_id
                    WHERE o.customer_id = c.customer_id AND p.category_id = g.category_id);

-- monthly_sales (category_id, month): grouped by an expression, a key that can be null, HAVING
SELECT p.category_id, date_trunc('month', o.order_date::timestamp) AS month, count(DISTINCT o.order_id) AS orders, sum(l.amount) AS amount,
       avg(l.amount) AS mean, max(l.quantity) AS largest
  FROM orders o JOIN sold_lines l ON l.order_id = o.order_id JOIN products p ON p.product_id = l.product_id
 GROUP BY p.category_id, date_trunc('month', o.order_date::timestamp) HAVING sum(l.amount) > 1000;

-- country_leaderboard (country, customer_id): a leaderboard, rank over partitions of the key above a grouped subquery
SELECT c.country, c.customer_id, c.company_name, coalesce(t.total, 0) AS total, rank() OVER (PARTITION BY c.country ORDER BY t.total DESC NULLS LAST) AS place
  FROM customers c LEFT JOIN (SELECT customer_id, sum(total) AS total FROM sold_orders GROUP BY customer_id) t ON t.customer_id = c.customer_id;

-- reporting_line (employee_id), full: recursion
WITH RECURSIVE line (employee_id, depth, path) AS (
    SELECT employee_id, 0, last_name::text FROM employees WHERE reports_to IS NULL
    UNION ALL
    SELECT e.employee_id, l.depth + 1, l.path || ' / ' || e.last_name FROM employees e JOIN line l ON e.reports_to = l.employee_id WHERE l.depth < 5)
SELECT employee_id, depth, path FROM line;

-- employee_sales (employee_id): two grouped subqueries side by side, each joined by the key
SELECT e.employee_id, e.last_name, coalesce(s.orders, 0) AS orders, coalesce(s.total, 0) AS total, band(s.total / nullif(s.orders, 0)) AS size, t.territories
  FROM employees e
  LEFT JOIN (SELECT employee_id, count(*) AS orders, sum(total) AS total FROM sold_orders GROUP BY employee_id) s ON s.employee_id = e.employee_id
  LEFT JOIN (SELECT et.employee_id, array_agg(trim(x.territory_description) ORDER BY trim(x.territory_description), x.territory_id) AS territories
               FROM employee_territories et JOIN territories x USING (territory_id) GROUP BY et.employee_id) t ON t.employee_id = e.employee_id;

-- sales_rollup (category_name, country, totals): grouping sets
SELECT g.category_name, o.ship_country AS country, grouping(g.category_name, o.ship_country) AS totals, count(*) AS lines, sum(l.amount) AS amount
  FROM sold_lines l JOIN orders o ON o.order_id = l.order_id JOIN products p ON p.product_id = l.product_id JOIN categories g ON g.category_id = p.category_id
 GROUP BY ROLLUP (g.category_name, o.ship_country);

-- company_totals (): one row, aggregates with FILTER
SELECT count(*) AS orders, count(*) FILTER (WHERE shipped_date IS NULL) AS open, count(DISTINCT customer_id) AS customers,
       max(order_date) AS last_order, percentile_disc(0.5) WITHIN GROUP (ORDER BY shipped_date - order_date) AS usual_days
  FROM orders;

-- last_orders (customer_id, order_id): LATERAL with LIMIT
SELECT c.customer_id, l.order_id, l.order_date, l.total
  FROM customers c CROSS JOIN LATERAL (SELECT v.order_id, v.order_date, v.total FROM sold_orders v WHERE v.customer_id = c.customer_id
                                        ORDER BY v.order_date DESC NULLS LAST, v.order_id DESC LIMIT 3) l;

-- address_book (kind, id): UNION ALL of three tables
SELECT 'customer' AS kind, customer_id::text AS id, company_name::text AS name, city, country FROM customers
UNION ALL
SELECT 'supplier', supplier_id::text, company_name, city, country FROM suppliers
UNION ALL
SELECT 'employee', employee_id::text, first_name || ' ' || last_name, city, country FROM employees;

-- buying_only (country, city): EXCEPT of places that repeat and can be null
SELECT country, city FROM customers EXCEPT SELECT country, city FROM suppliers;

-- best_seller (category_id): DISTINCT ON over a grouped subquery
SELECT DISTINCT ON (p.category_id) p.category_id, p.product_id, p.product_name, s.units
  FROM products p JOIN (SELECT product_id, sum(quantity) AS units FROM order_details GROUP BY product_id) s ON s.product_id = p.product_id
 ORDER BY p.category_id, s.units DESC, p.product_id;

-- order_timeline (order_id, event), full: a timeline, events out of columns
SELECT o.order_id, e.event, e.at, c.company_name AS customer
  FROM orders o LEFT JOIN customers c USING (customer_id)
 CROSS JOIN LATERAL (VALUES ('placed', o.order_date), ('promised', o.required_date), ('shipped', o.shipped_date)) e (event, at)
 WHERE e.at IS NOT NULL;

-- invoice_document (order_id): an invoice as one document, with its lines in order
SELECT o.order_id, jsonb_build_object('number', o.order_id, 'to', concat_ws(', ', c.company_name, o.ship_address, o.ship_city, o.ship_country), 'date', o.order_date,
       'lines', (SELECT jsonb_agg(jsonb_build_object('product', p.product_name, 'quantity', l.quantity, 'amount', l.amount) ORDER BY p.product_name, p.product_id)
                   FROM sold_lines l JOIN products p ON p.product_id = l.product_id WHERE l.order_id = o.order_id),
       'total', (SELECT sum(l.amount) FROM sold_lines l WHERE l.order_id = o.order_id)) AS invoice
  FROM orders o LEFT JOIN customers c ON c.customer_id = o.customer_id;

-- bought_together (product, other): a self-join, counted, with HAVING
SELECT a.product_id AS product, b.product_id AS other, count(*) AS orders
  FROM order_details a JOIN order_details b ON b.order_id = a.order_id AND b.product_id > a.product_id
 GROUP BY a.product_id, b.product_id HAVING count(*) >= 4;

-- territory_coverage (region_id, territory_id, employee_id): FULL and RIGHT joins, every part of the key can be null
SELECT r.region_id, t.territory_id, et.employee_id, trim(r.region_description) AS region, trim(t.territory_description) AS territory
  FROM employee_territories et RIGHT JOIN territories t ON t.territory_id = et.territory_id FULL JOIN region r ON r.region_id = t.region_id;

-- clearance_orders (order_id): IN, with what makes it true two joins away
SELECT o.order_id, o.order_date, o.ship_country FROM orders o
 WHERE o.order_id IN (SELECT d.order_id FROM order_details d JOIN products p ON p.product_id = d.product_id WHERE p.discontinued = 1);

-- category_customers (category_id, customer_id): DISTINCT over joins, the key comes from both ends
SELECT DISTINCT p.category_id, o.customer_id FROM orders o JOIN order_details d ON d.order_id = o.order_id JOIN products p ON p.product_id = d.product_id;
