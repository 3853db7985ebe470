-- What a database holds beyond what every server has built in, as far as it decides whether a statement may run on a
-- standby. One statement, so one snapshot. It reads nothing but system catalogues, which every user may read, and takes
-- no lock but theirs: expressions are looked at as stored trees, since the functions that print them would lock every
-- relation that is mentioned, and wait for whoever alters one.
--
-- Rows: kind, oid, schema, name, note, further (see the reader). 16384 is the first oid that is not made by initdb.
WITH RECURSIVE
-- Functions whose declaration alone does not clear them.
suspect AS (
    SELECT oid FROM pg_proc
    WHERE CASE WHEN oid >= 16384 THEN provolatile = 'v' OR prolang NOT IN (12, 13) ELSE provolatile = 'v' END
),
tree (kind, oid, tree) AS (
    SELECT 'mf', oid, proargdefaults::text FROM pg_proc WHERE oid >= 16384 AND proargdefaults IS NOT NULL
    UNION ALL
    SELECT 'mf', oid, prosqlbody::text FROM pg_proc WHERE oid >= 16384 AND prosqlbody IS NOT NULL
    UNION ALL
    SELECT 'mr', r.ev_class, r.ev_action::text FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
    WHERE r.ev_type = '1' AND c.relkind = 'v' AND c.oid >= 16384 AND c.relpersistence <> 't'
    UNION ALL
    SELECT 'mr', p.polrelid, p.polqual::text FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
    WHERE c.relrowsecurity AND p.polcmd IN ('r', '*') AND p.polqual IS NOT NULL
    UNION ALL
    SELECT 'mt', contypid, conbin::text FROM pg_constraint WHERE contypid >= 16384 AND conbin IS NOT NULL
),
-- What a tree mentions: it is stored as `{OPEXPR :opno 96 :opfuncid 65 …}`, and blanks in names are escaped there. Cutting it
-- takes a quarter of the time of regexp_matches. A builtin operator is found by its function.
field (kind, oid, name, value) AS MATERIALIZED (
    SELECT t.kind, t.oid, split_part(field, ' ', 1), rtrim(split_part(field, ' ', 2), ')}')
    FROM tree t, string_to_table(t.tree, ' :') field
    WHERE split_part(field, ' ', 1) IN ('funcid', 'opfuncid', 'aggfnoid', 'winfnoid', 'opno', 'eqop', 'sortop', 'relid', 'resulttype', 'rowMarks')
),
mention (kind, oid, mentioned) AS (
    SELECT kind, oid, string_agg(DISTINCT CASE
            WHEN name IN ('opno', 'eqop', 'sortop') THEN 'o'
            WHEN name = 'relid' THEN 'r'
            WHEN name = 'resulttype' THEN 't'
            WHEN name = 'rowMarks' THEN '!'
            ELSE 'f' END || value, ' ')
    FROM field
    WHERE value NOT IN ('0', '<>')
    GROUP BY kind, oid
),
-- Types whose values may call a suspect function where nothing is written that names it.
seed (oid, function) AS (
    SELECT u.oid, f.oid FROM (
        SELECT t.oid, unnest(ARRAY[t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout]::oid[])
        FROM pg_type t WHERE t.typtype = 'b' AND t.typinput >= 16384
        UNION SELECT rngtypid, unnest(ARRAY[rngcanonical, rngsubdiff]::oid[]) FROM pg_range
        UNION SELECT amproclefttype, amproc FROM pg_amproc WHERE amproclefttype >= 16384
    ) u (oid, function) JOIN suspect f ON f.oid = u.function
),
operator AS (
    SELECT o.* FROM pg_operator o JOIN suspect f ON f.oid = o.oprcode WHERE o.oid >= 16384
),
-- What a row becomes by itself.
row_cast (oid) AS (
    SELECT c.casttarget FROM pg_cast c JOIN pg_type t ON t.oid = c.castsource
    WHERE c.castcontext = 'i' AND c.oid >= 16384 AND t.typtype = 'c'
),
conversion AS (
    SELECT c.* FROM pg_cast c JOIN suspect f ON f.oid = c.castfunc
),
part (part, letter, whole) AS (
    SELECT typelem, 't', oid FROM pg_type WHERE typelem >= 16384
    UNION ALL SELECT typbasetype, 't', oid FROM pg_type WHERE typbasetype >= 16384
    UNION ALL SELECT rngsubtype, 't', rngtypid FROM pg_range WHERE rngsubtype >= 16384
    UNION ALL SELECT rngtypid, 't', rngmultitypid FROM pg_range WHERE rngtypid >= 16384
    UNION ALL
    SELECT a.atttypid, x.letter, x.oid
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid, LATERAL (VALUES ('t', c.reltype), ('r', c.oid)) x (letter, oid)
    WHERE a.atttypid >= 16384 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND c.relpersistence <> 't'
),
-- Types and relations that hold values of such a type, at any depth.
holder (seed, letter, oid) AS (
    SELECT s.oid, 't', s.oid FROM (
        SELECT oid FROM seed
        UNION SELECT oprleft FROM operator UNION SELECT oprright FROM operator
        UNION SELECT castsource FROM conversion UNION SELECT casttarget FROM conversion
    ) s WHERE s.oid >= 16384
    UNION
    SELECT h.seed, p.letter, p.whole FROM holder h JOIN part p ON h.letter = 't' AND p.part = h.oid
),
-- A parent is read with its children.
child AS (
    SELECT i.inhparent, i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE c.relkind IN ('r', 'p', 'f')
        AND (c.relkind <> 'r' OR c.relpersistence = 'u' OR EXISTS (SELECT FROM pg_inherits j WHERE j.inhparent = c.oid))
)
SELECT 'e' AS kind, NULL::oid AS oid, NULL AS schema, getdatabaseencoding()::text AS name, NULL AS note, NULL AS further
UNION ALL
SELECT 'b', p.oid, NULL, p.proname::text,
    p.provolatile::text || CASE WHEN p.prolang IN (12, 13, 14) THEN '' ELSE '!' END, NULL
FROM pg_proc p
WHERE p.oid < 16384 AND (p.provolatile <> 'i' OR p.prolang NOT IN (12, 13, 14))
UNION ALL
SELECT 'f', p.oid, n.nspname::text, p.proname::text,
    p.provolatile::text
        || CASE WHEN 2281 = ANY (p.proargtypes) OR n.nspname LIKE 'pg\_temp\_%' THEN 'h' ELSE '' END
        || CASE WHEN p.pronargs > 0 AND p.pronargs <= p.pronargdefaults + 1 AND (
            a.typtype IN ('c', 'd', 'p') OR p.provariadic <> 0 OR a.oid IN (SELECT oid FROM row_cast)) THEN 'a' ELSE '' END
        || CASE WHEN p.provolatile = 'v' OR p.prosqlbody IS NOT NULL THEN ''
            WHEN l.lanname = 'sql' THEN 'q' WHEN l.lanname = 'plpgsql' THEN 'p' ELSE '' END,
    CASE WHEN p.provolatile <> 'v' AND l.lanname IN ('sql', 'plpgsql') AND octet_length(p.prosrc) <= 65536 THEN p.prosrc END
FROM pg_proc p
    JOIN pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_language l ON l.oid = p.prolang
    LEFT JOIN pg_type a ON a.oid = p.proargtypes[0]
WHERE p.oid >= 16384 AND p.prokind <> 'p' AND p.prorettype NOT IN (2279, 3838)
UNION ALL
SELECT kind, oid, NULL, NULL, NULL, mentioned FROM mention
UNION ALL
SELECT 'mf', a.aggfnoid::oid, NULL, NULL, NULL,
    'f' || concat_ws(' f', a.aggtransfn::oid, a.aggfinalfn::oid, a.aggcombinefn::oid, a.aggserialfn::oid, a.aggdeserialfn::oid,
        a.aggmtransfn::oid, a.aggminvtransfn::oid, a.aggmfinalfn::oid)
FROM pg_aggregate a WHERE a.aggfnoid >= 16384
UNION ALL
SELECT 'mf', p.oid, NULL, NULL, NULL, string_agg(DISTINCT 't' || t.oid, ' ')
FROM pg_proc p, unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype) t (oid)
WHERE p.oid >= 16384 AND t.oid >= 16384 AND p.prorettype NOT IN (2279, 3838)
GROUP BY p.oid
UNION ALL
SELECT 'mT', s.oid, NULL, NULL, NULL, string_agg('f' || s.function, ' ' ORDER BY s.function) FROM seed s GROUP BY s.oid
UNION ALL
SELECT 'o', o.oid, NULL, o.oprname::text,
    CASE WHEN EXISTS (SELECT FROM pg_operator b WHERE b.oid < 16384 AND b.oprname = o.oprname) THEN 'b' ELSE '' END,
    concat_ws(' ', 'f' || o.oprcode::oid, 't' || o.oprleft, 't' || o.oprright)
FROM operator o
UNION ALL
SELECT 'c', c.oid, NULL, NULL, c.castcontext::text, 'f' || c.castfunc || ' t' || c.castsource || ' t' || c.casttarget
FROM conversion c
UNION ALL
SELECT 't', t.oid, n.nspname::text, t.typname::text, NULL, NULL
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.oid >= 16384 AND (
    t.typtype = 'd' OR t.oid IN (SELECT oid FROM holder WHERE letter = 't') OR t.oid IN (SELECT casttarget FROM conversion))
UNION ALL
SELECT 'u', h.seed, NULL, NULL, NULL, string_agg(h.letter || h.oid, ' ' ORDER BY h.letter, h.oid) FROM holder h GROUP BY h.seed
UNION ALL
SELECT 'mr', c.inhparent, NULL, NULL, NULL, string_agg('r' || c.inhrelid, ' ' ORDER BY c.inhrelid) FROM child c GROUP BY c.inhparent
UNION ALL
SELECT 'r', c.oid, n.nspname::text, c.relname::text,
    CASE WHEN c.relkind IN ('S', 'f') OR c.relpersistence = 'u' THEN '!' END, NULL
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND (
    c.relkind IN ('S', 'f')
    OR c.relkind = 'v' AND (c.oid >= 16384 OR n.nspname = 'pg_catalog')
    OR c.relkind IN ('r', 'p', 'm') AND (
        c.relpersistence = 'u' OR c.relrowsecurity
        OR c.oid IN (SELECT inhparent FROM child)
        OR c.oid IN (SELECT oid FROM holder WHERE letter = 'r')))
