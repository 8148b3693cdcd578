-- Read models of a music shop, over Chinook: its pages, charts, queues and feeds.  Each is named, with its key and with what is hard about it; what stands before
-- the first is made first.
CREATE VIEW sales AS
SELECT l.invoice_line_id, i.invoice_id, i.customer_id, i.invoice_date, i.billing_country, l.track_id, l.quantity, l.unit_price * l.quantity AS amount
  FROM invoice_line l JOIN invoice i ON i.invoice_id = l.invoice_id;
CREATE VIEW track_names AS
SELECT t.track_id, t.name AS track, t.album_id, a.title AS album, a.artist_id, r.name AS artist, t.genre_id, t.milliseconds
  FROM track t LEFT JOIN album a ON a.album_id = t.album_id LEFT JOIN artist r ON r.artist_id = a.artist_id;
CREATE DOMAIN share AS numeric CHECK (VALUE BETWEEN 0 AND 1);
CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

-- track_page (track_id): a view over joins, joined with more
SELECT n.track_id, n.track, n.album, n.artist, g.name AS genre, m.name AS media, t.composer, t.unit_price
  FROM track_names n JOIN track t ON t.track_id = n.track_id JOIN media_type m ON m.media_type_id = t.media_type_id
  LEFT JOIN genre g ON g.genre_id = t.genre_id;

-- album_page (album_id): a document with its tracks in order
SELECT a.album_id, a.title, r.name AS artist, count(t.track_id) AS tracks, sum(t.milliseconds) AS milliseconds,
       jsonb_agg(jsonb_build_object('name', t.name, 'seconds', t.milliseconds / 1000) ORDER BY t.track_id) FILTER (WHERE t.track_id IS NOT NULL) AS list
  FROM album a JOIN artist r ON r.artist_id = a.artist_id LEFT JOIN track t ON t.album_id = a.album_id
 GROUP BY a.album_id, r.artist_id;

-- artist_search (artist_id): a search document out of two subqueries
SELECT r.artist_id, r.name, setweight(to_tsvector('simple', coalesce(r.name, '')), 'A') || to_tsvector('simple', coalesce(a.titles, '')) AS words, g.genres
  FROM artist r
  LEFT JOIN (SELECT artist_id, string_agg(title, ' ' ORDER BY title, album_id) AS titles FROM album GROUP BY artist_id) a ON a.artist_id = r.artist_id
  LEFT JOIN (SELECT n.artist_id, array_agg(DISTINCT g.name::text ORDER BY g.name::text) AS genres FROM track_names n JOIN genre g ON g.genre_id = n.genre_id
              GROUP BY n.artist_id) g ON g.artist_id = r.artist_id;

-- playlist_page (playlist_id): an aggregate of aggregates
SELECT p.playlist_id, p.name, coalesce(sum(x.tracks), 0) AS tracks, sum(x.milliseconds) AS milliseconds,
       jsonb_object_agg(x.genre, x.tracks ORDER BY x.genre) FILTER (WHERE x.genre IS NOT NULL) AS genres
  FROM playlist p
  LEFT JOIN (SELECT pt.playlist_id, coalesce(g.name, 'none') AS genre, count(*) AS tracks, sum(t.milliseconds) AS milliseconds
               FROM playlist_track pt JOIN track t ON t.track_id = pt.track_id LEFT JOIN genre g ON g.genre_id = t.genre_id
              GROUP BY pt.playlist_id, coalesce(g.name, 'none')) x ON x.playlist_id = p.playlist_id
 GROUP BY p.playlist_id;

-- customer_page (customer_id): the favourite genre by mode() WITHIN GROUP, totals by a scalar subquery
SELECT c.customer_id, c.first_name || ' ' || c.last_name AS name, e.last_name AS support,
       (SELECT sum(i.total) FROM invoice i WHERE i.customer_id = c.customer_id) AS spent,
       (SELECT mode() WITHIN GROUP (ORDER BY g.name) FROM sales s JOIN track t ON t.track_id = s.track_id JOIN genre g ON g.genre_id = t.genre_id
         WHERE s.customer_id = c.customer_id) AS favourite
  FROM customer c LEFT JOIN employee e ON e.employee_id = c.support_rep_id;

-- invoice_page (invoice_id): an invoice with its lines, checked against its total
SELECT i.invoice_id, i.invoice_date, c.email, i.total, i.total = coalesce(l.amount, 0) AS balanced, l.lines
  FROM invoice i JOIN customer c ON c.customer_id = i.customer_id
  LEFT JOIN LATERAL (SELECT sum(x.unit_price * x.quantity) AS amount,
                            jsonb_agg(jsonb_build_array(n.artist, n.track, x.quantity, x.unit_price) ORDER BY x.invoice_line_id) AS lines
                       FROM invoice_line x JOIN track_names n ON n.track_id = x.track_id WHERE x.invoice_id = i.invoice_id) l ON true;

-- unbalanced_invoices (invoice_id): a work queue, HAVING over an outer join
SELECT i.invoice_id, i.customer_id, i.total - coalesce(sum(l.unit_price * l.quantity), 0) AS missing
  FROM invoice i LEFT JOIN invoice_line l ON l.invoice_id = i.invoice_id
 GROUP BY i.invoice_id HAVING i.total <> coalesce(sum(l.unit_price * l.quantity), 0);

-- genre_chart (genre_id), full: a chart, a window over all rows
SELECT g.genre_id, g.name, coalesce(s.sold, 0) AS sold, dense_rank() OVER (ORDER BY s.sold DESC NULLS LAST) AS place,
       (coalesce(s.sold, 0) / nullif(sum(s.sold) OVER (), 0))::numeric(9,8)::share AS share
  FROM genre g LEFT JOIN (SELECT t.genre_id, sum(l.quantity) AS sold FROM invoice_line l JOIN track t ON t.track_id = l.track_id GROUP BY t.genre_id) s
    ON s.genre_id = g.genre_id;

-- artist_sales (artist_id): joins of five tables under one aggregate
SELECT r.artist_id, r.name, count(*) AS lines, sum(s.amount) AS amount, avg(s.amount) AS mean, min(s.invoice_date) AS first, max(s.invoice_date) AS last
  FROM sales s JOIN track t ON t.track_id = s.track_id JOIN album a ON a.album_id = t.album_id JOIN artist r ON r.artist_id = a.artist_id
 GROUP BY r.artist_id;

-- country_sales (country): a natural join, a key of folded text
SELECT billing_country COLLATE folded AS country, count(*) AS invoices, sum(total) AS total, count(*) FILTER (WHERE company IS NOT NULL) AS business
  FROM (SELECT customer_id, billing_country, total FROM invoice) i NATURAL JOIN (SELECT customer_id, company FROM customer) c
 GROUP BY billing_country COLLATE folded;

-- unsold_tracks (track_id): NOT IN
SELECT t.track_id, t.name, t.album_id FROM track t WHERE t.track_id NOT IN (SELECT l.track_id FROM invoice_line l);

-- whole_albums (playlist_id, album_id): HAVING with a correlated subquery
SELECT pt.playlist_id, t.album_id, count(*) AS tracks
  FROM playlist_track pt JOIN track t ON t.track_id = pt.track_id
 GROUP BY pt.playlist_id, t.album_id HAVING count(*) = (SELECT count(*) FROM track a WHERE a.album_id = t.album_id) AND count(*) > 9;

-- careful_support (employee_id): division by double NOT EXISTS
SELECT e.employee_id, e.last_name
  FROM employee e
 WHERE NOT EXISTS (SELECT FROM customer c WHERE c.support_rep_id = e.employee_id
                      AND NOT EXISTS (SELECT FROM invoice i WHERE i.customer_id = c.customer_id AND i.total > 15));

-- support_queue (support_rep_id, customer_id): a queue, row_number over the key
SELECT c.support_rep_id, c.customer_id, c.email, i.last, row_number() OVER (PARTITION BY c.support_rep_id ORDER BY i.last NULLS FIRST, c.customer_id) AS place
  FROM customer c LEFT JOIN (SELECT customer_id, max(invoice_date) AS last FROM invoice GROUP BY customer_id) i ON i.customer_id = c.customer_id;

-- monthly_revenue (month), full: a CTE and lag over all months
WITH months AS (SELECT date_trunc('month', invoice_date) AS month, sum(total) AS total FROM invoice GROUP BY 1)
SELECT month, total, total - lag(total) OVER (ORDER BY month) AS change FROM months;

-- genre_media (genre, media, totals): CUBE
SELECT g.name AS genre, m.name AS media, grouping(g.name, m.name) AS totals, count(*) AS tracks, sum(t.bytes::bigint) AS bytes
  FROM track t LEFT JOIN genre g ON g.genre_id = t.genre_id JOIN media_type m ON m.media_type_id = t.media_type_id
 GROUP BY CUBE (g.name, m.name);

-- recommendations (customer_id, artist_id): EXISTS beside NOT EXISTS, both deep
SELECT c.customer_id, a.artist_id, count(*) AS albums
  FROM customer c JOIN album a ON EXISTS (SELECT FROM sales s JOIN track_names n ON n.track_id = s.track_id WHERE s.customer_id = c.customer_id AND n.artist_id = a.artist_id)
 WHERE NOT EXISTS (SELECT FROM sales s JOIN track t ON t.track_id = s.track_id WHERE s.customer_id = c.customer_id AND t.album_id = a.album_id)
 GROUP BY c.customer_id, a.artist_id;

-- composers (composer), full: a function in FROM that splits a column
SELECT lower(trim(w.composer)) AS composer, count(DISTINCT t.track_id) AS tracks
  FROM track t CROSS JOIN LATERAL regexp_split_to_table(t.composer, '[,/;&]') AS w (composer)
 GROUP BY lower(trim(w.composer));

-- feed (kind, id): UNION ALL of joins, a feed
SELECT 'invoice' AS kind, i.invoice_id AS id, i.invoice_date AS at, c.last_name || ' bought for ' || i.total AS what
  FROM invoice i JOIN customer c ON c.customer_id = i.customer_id
UNION ALL
SELECT 'hired', e.employee_id, e.hire_date, e.last_name || ' joined ' || coalesce(b.last_name, 'us') FROM employee e LEFT JOIN employee b ON b.employee_id = e.reports_to;

-- eponymous (name): INTERSECT
SELECT name FROM artist INTERSECT SELECT title FROM album;

-- largest_invoices (invoice_id): ALL, with ties
SELECT i.invoice_id, i.customer_id, i.total FROM invoice i WHERE i.total >= ALL (SELECT o.total FROM invoice o WHERE o.customer_id = i.customer_id);

-- top_tracks (track_id), full: LIMIT, in a total order
SELECT t.track_id, t.name, s.sold FROM track t JOIN (SELECT track_id, sum(quantity) AS sold FROM invoice_line GROUP BY track_id) s ON s.track_id = t.track_id
 ORDER BY s.sold DESC, t.track_id LIMIT 10;
