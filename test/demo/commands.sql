-- What the clients of the demo do: each function is one command, on rows drawn at random.  Nothing here knows of a read model.

CREATE SEQUENCE order_numbers START 11078;

-- Locks an order drawn at random and returns its number; null if the one drawn was cancelled meanwhile.
CREATE FUNCTION any_order() RETURNS smallint LANGUAGE plpgsql AS $$
DECLARE
    first integer := 10248 + floor(random() * ((SELECT last_value FROM order_numbers) - 10248));
    number smallint;
BEGIN
    SELECT order_id INTO number FROM orders WHERE order_id >= first ORDER BY order_id LIMIT 1 FOR UPDATE;
    RETURN number;
END $$;

CREATE FUNCTION place_order() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    number smallint := nextval('order_numbers');
    lines integer := 1 + floor(random() * 5);
BEGIN
    INSERT INTO orders (order_id, customer_id, employee_id, ship_via, order_date, required_date, freight)
    SELECT number, (SELECT customer_id FROM customers ORDER BY random() LIMIT 1), 1 + floor(random() * 9), 1 + floor(random() * 3),
           date '1998-05-06' + number / 50, date '1998-06-06' + number / 50, random() * 100;
    INSERT INTO order_details (order_id, product_id, unit_price, quantity, discount)
    SELECT number, product_id, unit_price, 1 + floor(random() * 40), floor(random() * 6) / 20
      FROM products ORDER BY random() LIMIT lines;
END $$;

CREATE FUNCTION change_order() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    number smallint := any_order();
    line smallint := (SELECT product_id FROM order_details WHERE order_id = number ORDER BY random() LIMIT 1);
BEGIN
    IF random() < 0.2 THEN
        DELETE FROM order_details WHERE order_id = number AND product_id = line;
    ELSE
        UPDATE order_details SET quantity = 1 + floor(random() * 40), discount = floor(random() * 6) / 20
         WHERE order_id = number AND product_id = line;
    END IF;
END $$;

CREATE FUNCTION ship_order() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    number smallint := any_order();
BEGIN
    UPDATE orders SET shipped_date = order_date + floor(random() * 9)::integer, ship_via = 1 + floor(random() * 3)
     WHERE order_id = number;
END $$;

CREATE FUNCTION cancel_order() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    number smallint := any_order();
BEGIN
    DELETE FROM order_details WHERE order_id = number;
    DELETE FROM orders WHERE order_id = number;
END $$;

CREATE FUNCTION change_price() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    product smallint := 1 + floor(random() * 77);
BEGIN
    UPDATE products SET unit_price = unit_price * (0.9 + random() * 0.2) WHERE product_id = product;
END $$;
