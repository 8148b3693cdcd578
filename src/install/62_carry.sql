-- What users have put on a version's table, as statements that put it on another; for the extension alone.

CREATE FUNCTION cqrs_internal.table_settings(old regclass, new regclass) RETURNS TABLE (what text, statement text)
LANGUAGE sql STABLE PARALLEL SAFE STRICT
BEGIN ATOMIC
    SELECT 'storage parameters'::text,
           pg_catalog.format('ALTER TABLE %s SET (%s)', new,
                             pg_catalog.string_agg(pg_catalog.format('%s%I = %L', o.prefix, o.option_name, o.option_value), ', '))
    FROM (SELECT '' AS prefix, p.option_name, p.option_value
          FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.pg_options_to_table(c.reloptions) p
          WHERE c.oid = old
          UNION ALL
          SELECT 'toast.', p.option_name, p.option_value
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid
          CROSS JOIN LATERAL pg_catalog.pg_options_to_table(t.reloptions) p
          WHERE c.oid = old) o
    HAVING pg_catalog.count(*) > 0
    UNION ALL
    SELECT 'tablespace', pg_catalog.format('ALTER TABLE %s SET TABLESPACE %I', new, s.spcname)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
    WHERE c.oid = old
    UNION ALL
    SELECT pg_catalog.format('settings of column "%s"', a.attname),
           pg_catalog.format('ALTER TABLE %s %s', new, pg_catalog.concat_ws(', ',
               CASE WHEN a.attstattarget >= 0
                    THEN pg_catalog.format('ALTER COLUMN %I SET STATISTICS %s', a.attname, a.attstattarget) END,
               CASE WHEN a.attstorage <> t.typstorage
                    THEN pg_catalog.format('ALTER COLUMN %I SET STORAGE %s', a.attname,
                                           CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'
                                                WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END) END,
               CASE WHEN a.attcompression <> ''
                    THEN pg_catalog.format('ALTER COLUMN %I SET COMPRESSION %s', a.attname,
                                           CASE a.attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END) END,
               (SELECT pg_catalog.format('ALTER COLUMN %I SET (%s)', a.attname,
                                         pg_catalog.string_agg(pg_catalog.format('%I = %L', p.option_name, p.option_value), ', '))
                FROM pg_catalog.pg_options_to_table(a.attoptions) p
                WHERE p.option_name LIKE 'n\_distinct%'
                HAVING pg_catalog.count(*) > 0)))
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = old AND a.attnum > 0 AND NOT a.attisdropped AND a.attname NOT LIKE 'cqrs\_%'
          AND (a.attstattarget >= 0 OR a.attstorage <> t.typstorage OR a.attcompression <> ''
               OR EXISTS (SELECT FROM pg_catalog.pg_options_to_table(a.attoptions) p WHERE p.option_name LIKE 'n\_distinct%'))
    UNION ALL
    SELECT pg_catalog.format('statistics object "%s"', s.stxname),
           pg_catalog.format('CREATE STATISTICS %I.%I %sON %s FROM %s', n.nspname, s.stxname,
               (SELECT '(' || pg_catalog.string_agg(CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' ELSE 'mcv' END, ', ') || ') '
                FROM pg_catalog.unnest(s.stxkind) k WHERE k <> 'e'),
               pg_catalog.pg_get_statisticsobjdef_columns(s.oid), new)
    FROM pg_catalog.pg_statistic_ext s
    CROSS JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
    WHERE s.stxrelid = old AND c.oid = new
    UNION ALL
    SELECT pg_catalog.format('statistics target of "%s"', s.stxname),
           pg_catalog.format('ALTER STATISTICS %I.%I SET STATISTICS %s', n.nspname, s.stxname, s.stxstattarget)
    FROM pg_catalog.pg_statistic_ext s
    CROSS JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
    WHERE s.stxrelid = old AND c.oid = new AND s.stxstattarget >= 0;
END;
COMMENT ON FUNCTION cqrs_internal.table_settings(regclass, regclass) IS
'statements that give a table the storage parameters and statistics objects of another';

CREATE FUNCTION cqrs_internal.table_attachments(old regclass, new regclass) RETURNS TABLE (what text, statement text)
LANGUAGE sql STABLE PARALLEL SAFE STRICT
BEGIN ATOMIC
    SELECT CASE d.objsubid WHEN 0 THEN 'comment' ELSE pg_catalog.format('comment on column "%s"', a.attname) END,
           CASE d.objsubid WHEN 0 THEN pg_catalog.format('COMMENT ON TABLE %s IS %L', new, d.description)
                ELSE pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', new, a.attname, d.description) END
    FROM pg_catalog.pg_description d
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
    WHERE d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objoid = old
    UNION ALL
    SELECT pg_catalog.format('comment on statistics object "%s"', s.stxname),
           pg_catalog.format('COMMENT ON STATISTICS %I.%I IS %L', n.nspname, s.stxname, d.description)
    FROM pg_catalog.pg_statistic_ext s
    JOIN pg_catalog.pg_description d ON d.classoid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass AND d.objoid = s.oid
    JOIN pg_catalog.pg_class t ON t.oid = new
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
    WHERE s.stxrelid = old
    UNION ALL
    SELECT CASE WHEN g.object = 'TABLE' AND g.columns IS NOT NULL THEN pg_catalog.format('grants on column "%s"', g.columns)
                ELSE 'grants' END,
           pg_catalog.format('GRANT %s%s ON %s %s TO %s%s', g.privilege_type, pg_catalog.format(' (' || pg_catalog.quote_ident(g.columns) || ')'),
                             g.object, g.target, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::pg_catalog.regrole::text END,
                             CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' END)
    FROM (SELECT 'TABLE' AS object, NULL::name AS columns, new::text AS target, c.relowner AS owner, e.*
          FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) e WHERE c.oid = old
          UNION ALL
          SELECT 'TABLE', a.attname, new::text, c.relowner, e.*
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
          CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) e WHERE c.oid = old
          UNION ALL
          SELECT 'SCHEMA', NULL, pg_catalog.quote_ident(m.nspname), n.nspowner, e.*
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) e
          CROSS JOIN (pg_catalog.pg_class t JOIN pg_catalog.pg_namespace m ON m.oid = t.relnamespace)
          WHERE c.oid = old AND t.oid = new) g
    WHERE g.grantee <> g.owner
    UNION ALL
    SELECT CASE WHEN t.oid IS NOT NULL THEN pg_catalog.format('trigger "%s"', t.tgname)
                WHEN o.oid IS NOT NULL THEN pg_catalog.format('constraint "%s"', o.conname)
                WHEN r.oid IS NOT NULL THEN pg_catalog.format('rule "%s"', r.rulename)
                ELSE pg_catalog.pg_describe_object(d.classid, d.objid, 0) END, NULL
    FROM pg_catalog.pg_depend d
    LEFT JOIN pg_catalog.pg_trigger t ON d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND t.oid = d.objid
    LEFT JOIN pg_catalog.pg_constraint o ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND o.oid = d.objid
    LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = d.objid
    WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = old
          AND (d.classid IN ('pg_catalog.pg_policy'::pg_catalog.regclass, 'pg_catalog.pg_publication_rel'::pg_catalog.regclass)
               OR (NOT t.tgisinternal AND t.tgname NOT LIKE 'cqrs\_%') OR o.contype <> 'p' OR r.ev_class = old)
    GROUP BY d.classid, d.objid, t.oid, t.tgname, o.oid, o.conname, r.oid, r.rulename;
END;
COMMENT ON FUNCTION cqrs_internal.table_attachments(regclass, regclass) IS
'statements that give a table the comments and grants of another; null for what cannot be given';

CREATE FUNCTION cqrs_internal.table_indexes(relation regclass) RETURNS TABLE (what text, statement text, possible boolean)
LANGUAGE sql STABLE PARALLEL SAFE STRICT
BEGIN ATOMIC
    SELECT pg_catalog.format('index "%s"', c.relname), pg_catalog.pg_get_indexdef(i.indexrelid), i.indisvalid AND NOT i.indisunique
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = relation AND NOT i.indisprimary AND NOT (i.indisunique AND i.indnullsnotdistinct)
    ORDER BY c.oid;
END;
COMMENT ON FUNCTION cqrs_internal.table_indexes(regclass) IS
'indexes of a version''s table but the one on its key, and whether others can have them: unique ones cannot';

CREATE FUNCTION cqrs_internal.index_names(old regclass, new regclass) RETURNS TABLE (statement text)
LANGUAGE sql STABLE PARALLEL SAFE STRICT
BEGIN ATOMIC
    WITH indexes AS (
        SELECT i.indrelid, c.relname, n.nspname, n.oid AS schema, d.written, pg_catalog.obj_description(c.oid, 'pg_class') AS comment,
               pg_catalog.row_number() OVER (PARTITION BY i.indrelid, d.written ORDER BY c.oid) AS nth
        FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
        CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_indexdef(c.oid) AS whole, pg_catalog.format(' ON %I.%I USING ', n.nspname, t.relname) AS mark) w
        CROSS JOIN LATERAL (SELECT pg_catalog.substr(w.whole, pg_catalog.strpos(w.whole, w.mark) + pg_catalog.length(w.mark)) AS written) d
        WHERE i.indrelid IN (old, new))
    SELECT s.statement
    FROM indexes o
    JOIN indexes n ON n.indrelid = new AND n.written = o.written AND n.nth = o.nth
    CROSS JOIN LATERAL (VALUES
        (pg_catalog.format('COMMENT ON INDEX %I.%I IS %L', n.nspname, n.relname, o.comment), o.comment IS NOT NULL),
        (pg_catalog.format('ALTER INDEX %I.%I RENAME TO %I', n.nspname, n.relname, o.relname),
         NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.schema AND c.relname = o.relname))) s (statement, wanted)
    WHERE o.indrelid = old AND s.wanted;
END;
COMMENT ON FUNCTION cqrs_internal.index_names(regclass, regclass) IS
'statements that give the indexes of a table the names and comments of those that are alike on another';
