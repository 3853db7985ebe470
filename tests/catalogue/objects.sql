-- A shop with everything that a statement can run without naming it.
CREATE SCHEMA app;
CREATE SCHEMA other;
CREATE TABLE journal (id bigserial, entry text);
CREATE TABLE goods (id int PRIMARY KEY, name text, price numeric, tenant int);
INSERT INTO goods VALUES (1, 'pear', 2, 1), (2, 'plum', 3, 2);
CREATE UNLOGGED TABLE scratch (id int);
CREATE SEQUENCE numbers;
CREATE SEQUENCE app.private_numbers;

-- Functions, as they are declared.
CREATE FUNCTION pure(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
CREATE FUNCTION price_of(int) RETURNS numeric LANGUAGE plpgsql STABLE AS
    $$ BEGIN RETURN (SELECT price FROM goods WHERE id = $1); END $$;
CREATE FUNCTION note(text) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO journal (entry) VALUES ($1); RETURN 1; END $$;
CREATE FUNCTION undeclared(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION app.only_here(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
-- One name, two volatilities, in one schema and in two.
CREATE FUNCTION mixed(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
CREATE FUNCTION mixed(text) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
CREATE FUNCTION app.twice(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
CREATE FUNCTION other.twice(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE FUNCTION "Quoted Name"(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
CREATE FUNCTION "größe"(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
-- A user's function of a built-in's name.
CREATE FUNCTION lower(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM note('lower'); RETURN 1; END $$;
CREATE FUNCTION upper(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';

-- Declared stable, and reaching volatile ones.
CREATE FUNCTION stable_calls(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT undeclared($1)';
CREATE FUNCTION stable_deep(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT public.stable_calls($1)';
CREATE FUNCTION stable_locks() RETURNS boolean LANGUAGE sql STABLE AS 'SELECT pg_try_advisory_xact_lock(1)';
CREATE FUNCTION stable_atomic(a int) RETURNS int LANGUAGE sql STABLE RETURN undeclared(a);
CREATE FUNCTION stable_atomic_lock() RETURNS boolean LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT pg_try_advisory_xact_lock(2); END;
CREATE FUNCTION stable_atomic_pure(a int) RETURNS int LANGUAGE sql STABLE RETURN pure(a);
CREATE FUNCTION stable_default(a int DEFAULT nextval('numbers')) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
CREATE FUNCTION stable_plpgsql() RETURNS boolean LANGUAGE plpgsql STABLE AS
    $$ BEGIN RETURN (SELECT pg_catalog.pg_try_advisory_xact_lock(3)); END $$;
CREATE FUNCTION stable_perform() RETURNS int LANGUAGE plpgsql STABLE AS
    $$ BEGIN PERFORM note('x'); RETURN 1; END $$;
CREATE FUNCTION stable_scratch() RETURNS bigint LANGUAGE plpgsql STABLE AS
    $$ BEGIN RETURN (SELECT count(*) FROM scratch); END $$;
CREATE FUNCTION stable_sequence() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT last_value FROM numbers';
CREATE FUNCTION stable_recursive(a int) RETURNS int LANGUAGE plpgsql STABLE AS
    $$ BEGIN RETURN CASE WHEN a > 0 THEN stable_recursive(a - 1) ELSE 0 END; END $$;
CREATE FUNCTION stable_mutual(a int) RETURNS int LANGUAGE plpgsql STABLE AS
    $$ BEGIN IF a > 0 THEN RETURN stable_other(a - 1); END IF; PERFORM note('x'); RETURN 0; END $$;
CREATE FUNCTION stable_other(a int) RETURNS int LANGUAGE plpgsql STABLE AS
    $$ BEGIN RETURN stable_mutual(a); END $$;
CREATE FUNCTION tenant() RETURNS int LANGUAGE sql STABLE AS $$ SELECT current_setting('app.tenant', true)::int $$;
CREATE FUNCTION words_only() RETURNS text LANGUAGE plpgsql STABLE AS
    $$ BEGIN /* note('x') */ RETURN 'note(''x'') nextval'; END $$;

-- Aggregates, which call themselves immutable whatever they run.
CREATE FUNCTION step(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN $1 + $2 + note('step'); END $$;
CREATE AGGREGATE noted_sum(int) (SFUNC = step, STYPE = int, INITCOND = '0');
CREATE FUNCTION pure_step(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
CREATE AGGREGATE pure_sum(int) (SFUNC = pure_step, STYPE = int, INITCOND = '0');

-- Attribute notation: goods.noted is a call, goods.described too.
CREATE FUNCTION noted(goods) RETURNS int LANGUAGE sql AS 'SELECT note($1.name)';
CREATE FUNCTION described(goods) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1.name';
CREATE FUNCTION noted_any(record) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN note('row'); END $$;
CREATE FUNCTION noted_all(VARIADIC goods[]) RETURNS int LANGUAGE sql AS $$ SELECT note('rows') $$;
-- A row that becomes something else by itself is the argument of functions of that.
CREATE TABLE notes (id int);
CREATE FUNCTION card_of(notes) RETURNS macaddr LANGUAGE sql IMMUTABLE AS $$ SELECT '08:00:2b:01:02:03'::macaddr $$;
CREATE CAST (notes AS macaddr) WITH FUNCTION card_of(notes) AS IMPLICIT;
CREATE FUNCTION noted_card(macaddr) RETURNS int LANGUAGE sql AS 'SELECT note($1::text)';

-- Views.
CREATE VIEW plain_view AS SELECT id, name FROM goods;
CREATE VIEW pure_view AS SELECT pure(id) AS id, price_of(id) FROM goods;
CREATE VIEW noting_view AS SELECT note(name) FROM goods;
CREATE VIEW view_of_view AS SELECT * FROM noting_view;
CREATE VIEW app.view_of_view_of_view AS SELECT * FROM view_of_view;
CREATE VIEW numbering_view AS SELECT nextval('numbers') AS n;
CREATE VIEW locking_view AS SELECT pg_try_advisory_xact_lock(id) FROM goods;
CREATE VIEW row_locks AS SELECT * FROM goods FOR UPDATE;
CREATE VIEW over_sequence AS SELECT last_value FROM numbers;
CREATE VIEW over_unlogged AS SELECT * FROM scratch;
CREATE VIEW over_locks AS SELECT * FROM pg_locks;
CREATE VIEW over_schema AS SELECT table_name FROM information_schema.tables;
CREATE VIEW over_time AS SELECT now() AS now, clock_timestamp() AS clock, random() AS r, current_user AS u;
CREATE VIEW over_sql_function AS SELECT stable_deep(id) FROM goods;
CREATE VIEW over_aggregate AS SELECT noted_sum(id) FROM goods;
CREATE VIEW in_subquery AS SELECT id FROM goods WHERE id IN (SELECT note('x') WHERE false);
CREATE VIEW in_order AS SELECT id FROM goods ORDER BY note('x');
CREATE VIEW sampled AS SELECT id FROM goods TABLESAMPLE bernoulli (100);
CREATE MATERIALIZED VIEW remembered AS SELECT undeclared(id) AS id FROM goods;
CREATE FUNCTION reads_view() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM noting_view';

-- Operators.
CREATE FUNCTION shout(text, text) RETURNS int LANGUAGE sql AS 'SELECT note($1 || $2)';
CREATE OPERATOR ### (LEFTARG = text, RIGHTARG = text, FUNCTION = shout);
CREATE OPERATOR @@@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = pure_step);
CREATE OPERATOR <#> (RIGHTARG = regclass, FUNCTION = nextval);
CREATE VIEW over_operator AS SELECT name ### name FROM goods;

-- A type of its own: = and < of it are volatile, by mere neglect.
CREATE TYPE money_amount AS (cents int, currency text);
CREATE FUNCTION money_eq(money_amount, money_amount) RETURNS boolean LANGUAGE sql AS
    'SELECT $1.cents OPERATOR(pg_catalog.=) $2.cents';
CREATE OPERATOR = (LEFTARG = money_amount, RIGHTARG = money_amount, FUNCTION = money_eq);
CREATE TABLE invoices (id int, total money_amount);
CREATE TABLE rebates (id int, totals money_amount[]);
CREATE VIEW invoice_view AS SELECT total FROM invoices;
CREATE FUNCTION total_of(int) RETURNS money_amount LANGUAGE sql STABLE AS 'SELECT ROW($1, $$EUR$$)::money_amount';
-- One of the same kind whose functions are declared well.
CREATE TYPE weight AS (grams int);
CREATE FUNCTION weight_eq(weight, weight) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    'SELECT $1.grams OPERATOR(pg_catalog.=) $2.grams';
CREATE OPERATOR = (LEFTARG = weight, RIGHTARG = weight, FUNCTION = weight_eq);
CREATE TABLE parcels (id int, w weight);

-- Casts and domains.
CREATE TYPE grade AS ENUM ('low', 'high');
CREATE FUNCTION to_grade(int) RETURNS grade LANGUAGE sql AS $$ SELECT 'low'::grade FROM note('grade') $$;
CREATE CAST (int AS grade) WITH FUNCTION to_grade(int);
CREATE TYPE colour AS ENUM ('red');
CREATE FUNCTION to_colour(int) RETURNS colour LANGUAGE sql IMMUTABLE AS $$ SELECT 'red'::colour $$;
CREATE CAST (int AS colour) WITH FUNCTION to_colour(int);
CREATE FUNCTION is_mail(text) RETURNS boolean LANGUAGE sql AS $$ SELECT note('mail') = 1 $$;
CREATE DOMAIN mail AS text CHECK (is_mail(VALUE));
CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
CREATE TABLE people (id int, address text, done percent);
CREATE FUNCTION greet(mail) RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'hello' $$;
CREATE VIEW casting_view AS SELECT address::mail FROM people;

-- Policies.
CREATE TABLE tenants (id int, tenant int);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON tenants FOR SELECT USING (tenant = current_setting('app.tenant')::int);
CREATE TABLE watched (id int);
ALTER TABLE watched ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON watched USING (note('seen') = 1);
CREATE TABLE watched_writes (id int);
ALTER TABLE watched_writes ENABLE ROW LEVEL SECURITY;
CREATE POLICY written ON watched_writes FOR INSERT WITH CHECK (note('written') = 1);
CREATE VIEW over_watched AS SELECT * FROM watched;

-- Relations that a standby cannot read, alone and as a part of others.
CREATE TABLE events (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE UNLOGGED TABLE events_new PARTITION OF events FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TABLE visits (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE visits_old PARTITION OF visits FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE FOREIGN DATA WRAPPER elsewhere;
CREATE SERVER far FOREIGN DATA WRAPPER elsewhere;
CREATE FOREIGN TABLE far_goods (id int) SERVER far;
CREATE VIEW far_view AS SELECT id FROM far_goods;

GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
