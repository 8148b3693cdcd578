-- What tests of trees and DDL share: projections, and a look at how each was brought up to date and whether it is right then.

CREATE TABLE watched (view regclass, query text);

-- Makes a projection that 'followed' looks at.
CREATE FUNCTION project(name text, query text, key name[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cqrs.create_projection(name, query, key);
    INSERT INTO watched VALUES (name::regclass, query);
END$$;

-- Drains, and says of each projection how it was brought up to date and how many rows are wrong then, by the plain query and by cqrs.verify.
-- A row that is of no query is planted in each table first: a full evaluation takes it away, a window leaves it.
CREATE FUNCTION followed() RETURNS TABLE (view regclass, how text, wrong bigint, verified bigint) LANGUAGE plpgsql AS $$
DECLARE
    query text;
    model regclass;
    planted bigint;
BEGIN
    FOR view, query, model IN SELECT w.view, w.query, v."table" FROM watched w JOIN cqrs_internal.projection p ON p.view = w.view
        JOIN cqrs_internal.version v ON v.projection = p.id ORDER BY w.view::text
    LOOP
        SET LOCAL session_replication_role = replica;
        EXECUTE format('INSERT INTO %s (key) VALUES (-99)', model);
        SET LOCAL session_replication_role = origin;
        PERFORM cqrs.drain(view);
        SET LOCAL session_replication_role = replica;
        EXECUTE format('DELETE FROM %s WHERE key = -99', model);
        GET DIAGNOSTICS planted = ROW_COUNT;
        SET LOCAL session_replication_role = origin;
        how := CASE WHEN planted = 1 THEN 'window' ELSE 'full' END;
        EXECUTE format('SELECT count(*) FROM ((TABLE %1$s EXCEPT ALL (%2$s)) UNION ALL ((%2$s) EXCEPT ALL TABLE %1$s)) d', view, query) INTO wrong;
        SELECT count(*) INTO verified FROM cqrs.verify(view);
        RETURN NEXT;
    END LOOP;
END$$;
