//! The SQL of the conversations.
//!
//! Every client has a schema of its own with a table, a sequence and functions, so that what one is told does not depend
//! on the others.

use crate::support::dice::Dice;

pub(crate) struct Words {
    pub(crate) client: u64,
    /// Whether reads may go to a replica.
    pub(crate) replicas: bool,
    /// Whether the startup packet has settings. Then nothing is reset: inside of a transaction block it would get the
    /// server's own default, and outside of one the client is told of that first and then of its own
    /// (docs/session-state.md, "What is not covered").
    pub(crate) has_startup: bool,
}

/// How a statement comes to the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The only one of a Query.
    Alone,
    /// Among others of a Query: there the names of prepared statements are not the client's (docs/session-state.md). What
    /// discards others' sequence values in front of it may have been its transaction's first query.
    Joined,
    /// By the extended protocol: a PREPARE gives no name of the client's either, and the names that are taken away there
    /// are known to be gone a little earlier or later. What is prepared again on the client's behalf in front of a BEGIN
    /// may have been its transaction's first query, so that its isolation cannot be set any more.
    Bound,
}

/// What a client of that number has from the beginning.
pub(crate) fn schema(client: u64) -> String {
    format!(
        "CREATE SCHEMA c{client};
         CREATE TABLE c{client}.t (a int PRIMARY KEY, b text DEFAULT 'none');
         CREATE SEQUENCE c{client}.s;
         CREATE FUNCTION c{client}.bump(int) RETURNS int LANGUAGE sql AS
             $$ UPDATE c{client}.t SET b = b || '!' WHERE a = $1 RETURNING a $$;
         CREATE FUNCTION c{client}.seen(int) RETURNS text STABLE LANGUAGE sql AS
             $$ SELECT b FROM c{client}.t WHERE a = $1 $$;
         CREATE FUNCTION c{client}.path() RETURNS text STABLE SET search_path = c{client} LANGUAGE sql AS
             $$ SELECT current_setting('search_path') $$;
         CREATE FUNCTION c{client}.local(text) RETURNS text LANGUAGE sql AS
             $$ SELECT set_config('app.local', $1, true) $$;
         CREATE PROCEDURE c{client}.commits(int) LANGUAGE plpgsql AS $$ BEGIN
             UPDATE c{client}.t SET b = 'committed' WHERE a = $1; COMMIT;
             UPDATE c{client}.t SET b = 'rolled back' WHERE a = $1; ROLLBACK; END $$;
         GRANT ALL ON SCHEMA c{client} TO pg_monitor;
         GRANT ALL ON c{client}.t, c{client}.s TO pg_monitor;"
    )
}

/// Settings of a startup packet, most often none.
pub(crate) fn startup(client: u64, dice: &mut Dice) -> Vec<(&'static str, String)> {
    if !dice.once_in(3) {
        return Vec::new();
    }
    let all = [
        ("application_name", format!("app{client}")),
        ("DateStyle", "German".to_owned()),
        ("client_encoding", "LATIN1".to_owned()),
        ("TimeZone", "Asia/Tokyo".to_owned()),
        (
            "options",
            format!("-c search_path=c{client} -c work_mem=7MB"),
        ),
        (
            "options",
            "-c app.x=start --statement-timeout=70s".to_owned(),
        ),
        ("IntervalStyle", "iso_8601".to_owned()),
    ];
    let first = dice.below(all.len());
    let mut chosen = vec![all[first].clone()];
    if dice.once_in(2) && first > 0 {
        chosen.push(all[dice.below(first)].clone());
    }
    chosen.dedup_by_key(|it| it.0);
    chosen
}

impl Words {
    /// Puts everything into the state in which a conversation finds it. Does not tell what was left by one that could not be
    /// compared to its end.
    pub(crate) fn reset(&self) -> String {
        let c = self.client;
        format!(
            "WITH gone AS (DELETE FROM c{c}.t) SELECT 1; \
             INSERT INTO c{c}.t SELECT n, 'row ' || n FROM generate_series(1, 9) n; \
             SELECT setval('c{c}.s', 1)"
        )
    }

    /// A single statement, whatever it does, without parameters.
    pub(crate) fn statement(&self, way: Way, dice: &mut Dice, status: char) -> String {
        loop {
            let text = self.any_statement(way, dice, status);
            let resets = ["RESET", "DEFAULT", "DISCARD ALL"];
            if !self.has_startup || !resets.iter().any(|it| text.contains(it)) {
                return text;
            }
        }
    }

    fn any_statement(&self, way: Way, dice: &mut Dice, status: char) -> String {
        match status {
            'E' if dice.once_in(2) => self.transaction(way, dice, status),
            _ => match dice.below(22) {
                0..=5 => self.read(dice),
                6..=8 => self.write(dice),
                20 => self.rare(way, dice),
                21 => self.inward(dice),
                9 => self.mistake(dice),
                10..=12 => self.transaction(way, dice, status),
                13..=14 => self.setting(dice),
                15..=16 => self.prepared(way, dice),
                17 => self.cursor(dice, status),
                18 => self.session(dice),
                _ => self.temporary(dice),
            },
        }
    }

    pub(crate) fn read(&self, dice: &mut Dice) -> String {
        let (c, n) = (self.client, dice.below(12));
        let texts = [
            format!("SELECT {n}"),
            format!("SELECT a, b FROM c{c}.t ORDER BY a LIMIT {n}"),
            format!("SELECT count(*) FROM c{c}.t WHERE a < {n}"),
            "TABLE seen_nowhere".to_owned(),
            // What was set once and is no more, some servers remember as empty.
            "SELECT coalesce(current_setting('app.x', true), '')".to_owned(),
            "SHOW search_path".to_owned(),
            "SHOW DateStyle".to_owned(),
            "SHOW work_mem".to_owned(),
            "SHOW transaction_read_only".to_owned(),
            "SHOW transaction_isolation".to_owned(),
            "SELECT '2020-02-03'::date, '1 day 2 hours'::interval".to_owned(),
            "SELECT 'a\\\\b', 'it''s', $$do$$, E'\\n' AS \"A B\"".to_owned(),
            "SELECT current_user, session_user, current_schema()".to_owned(),
            "VALUES (1, 'x'), (2, NULL)".to_owned(),
            format!("SELECT c{c}.seen({n})"),
            format!("SELECT * FROM t WHERE a = {n}"),
            format!("SELECT a FROM c{c}.t WHERE a = {n} FOR UPDATE"),
            format!("SELECT b FROM c{c}.t WHERE a = {n} /* a comment; */ -- another"),
            format!("WITH w AS (SELECT a FROM c{c}.t) SELECT sum(a) FROM w"),
            format!("COPY (SELECT a, b FROM c{c}.t ORDER BY a) TO STDOUT"),
            "EXPLAIN (COSTS OFF) SELECT 1".to_owned(),
        ];
        dice.pick(&texts).clone()
    }

    fn write(&self, dice: &mut Dice) -> String {
        let (c, n) = (self.client, dice.below(20));
        let texts = [
            format!("INSERT INTO c{c}.t VALUES ({n}, 'new')"),
            format!("INSERT INTO c{c}.t (a) VALUES ({n}) RETURNING a, b"),
            format!(
                "INSERT INTO c{c}.t VALUES ({n}, 'up') ON CONFLICT (a) DO UPDATE SET b = excluded.b"
            ),
            format!("UPDATE c{c}.t SET b = 'updated' WHERE a = {n} RETURNING *"),
            format!("DELETE FROM c{c}.t WHERE a = {n}"),
            format!(
                "WITH w AS (UPDATE c{c}.t SET b = 'cte' WHERE a = {n} RETURNING a) SELECT * FROM w"
            ),
            format!("SELECT c{c}.bump({n})"),
            format!("SELECT nextval('c{c}.s')"),
            format!(
                "DO $$ BEGIN UPDATE c{c}.t SET b = 'done' WHERE a = {n}; RAISE NOTICE 'done {n}'; END $$"
            ),
            format!("SELECT a INTO c{c}.copied FROM c{c}.t"),
            format!("DROP TABLE IF EXISTS c{c}.copied"),
            format!("TRUNCATE c{c}.t"),
        ];
        dice.pick(&texts).clone()
    }

    /// What few applications say.
    fn rare(&self, way: Way, dice: &mut Dice) -> String {
        let (c, n) = (self.client, dice.below(12));
        let texts = [
            ";".to_owned(),
            "-- nothing".to_owned(),
            "/* nothing /* at all */ */".to_owned(),
            "SELECT /* one; /* two */ */ 1 -- ; SELECT 2".to_owned(),
            format!("SELECT repeat('wide', 20000), n FROM generate_series(1, {n}) n"),
            format!("SELECT n, 'row' FROM generate_series(1, 1500) n OFFSET {n}"),
            // Rows, and then an error.
            "SELECT 100 / (7 - n) FROM generate_series(1, 9) n".to_owned(),
            "COPY (SELECT 100 / (7 - n) FROM generate_series(1, 9) n) TO STDOUT".to_owned(),
            format!("COPY (SELECT a, b FROM c{c}.t ORDER BY a) TO STDOUT (FORMAT binary)"),
            format!("CALL c{c}.commits({n})"),
            format!("VACUUM c{c}.t"),
            format!("LOCK TABLE c{c}.t"),
            "ROLLBACK PREPARED 'nothing'".to_owned(),
            format!(
                "DO $$ BEGIN PERFORM 1 / {n} / 0; EXCEPTION WHEN OTHERS THEN RAISE WARNING 'caught {n}'; END $$"
            ),
            format!(
                "DO $$ BEGIN RAISE 'raised {n}' USING ERRCODE = 'P0{n:03}', HINT = 'a hint', DETAIL = 'a detail'; END $$"
            ),
            format!("CREATE OR REPLACE VIEW c{c}.v AS SELECT {n} AS n"),
            format!("SELECT n FROM c{c}.v"),
            format!("DROP VIEW IF EXISTS c{c}.v"),
            format!("SELECT lo_create({})", 70_000 + c),
            format!("SELECT lo_unlink({})", 70_000 + c),
            format!("SELECT lo_open({}, 131072)", 70_000 + c),
            format!("SELECT c{c}.local('l{n}'), c{c}.path(), current_setting('search_path')"),
            format!("SELECT n FROM generate_series(1, 3) n; SELECT {n}"),
            "SELECT 'Gr\u{fc}n', length('Gr\u{fc}n'), '\u{8868}'".to_owned(),
            "CREATE DATABASE c; SELECT 1".to_owned(),
        ];
        let text = dice.pick(&texts).clone();
        // Behind others in its batch it is refused, and we may have put something there: see the story of its own.
        if way == Way::Bound && text.starts_with("VACUUM") {
            return self.read(dice);
        }
        text
    }

    /// What tells about the session itself.
    fn inward(&self, dice: &mut Dice) -> String {
        let c = self.client;
        let texts = [
            "SELECT name, is_holdable FROM pg_cursors ORDER BY name".to_owned(),
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()".to_owned(),
            "SELECT count(*) FROM pg_listening_channels()".to_owned(),
            "SELECT relname FROM pg_class WHERE relname IN ('t', 'tt', 'tv') AND pg_table_is_visible(oid) ORDER BY 1".to_owned(),
            "SELECT coalesce(current_setting('app.local', true), '')".to_owned(),
            "SELECT coalesce(current_setting('app.y', true), '')".to_owned(),
            "SELECT coalesce(current_setting('app.x', true), '') || count(*) FROM generate_series(1, 3)".to_owned(),
            "SELECT txid_current_if_assigned() IS NULL".to_owned(),
            "SHOW client_encoding".to_owned(),
            "SHOW TimeZone".to_owned(),
            "SHOW SESSION AUTHORIZATION".to_owned(),
            "SHOW role".to_owned(),
            "SHOW statement_timeout".to_owned(),
            "SHOW default_transaction_isolation".to_owned(),
            "SELECT 1.1::float8, '\\x00ff'::bytea, 12.5::money".to_owned(),
            format!("SELECT current_schemas(false), 'c{c}.t'::regclass::text"),
        ];
        dice.pick(&texts).clone()
    }

    fn mistake(&self, dice: &mut Dice) -> String {
        let c = self.client;
        let texts = [
            "SELECT 1 / 0".to_owned(),
            "SELEKT 1".to_owned(),
            "SELECT * FROM nowhere".to_owned(),
            "SELECT nothing(1)".to_owned(),
            "SELECT 'unterminated".to_owned(),
            format!("INSERT INTO c{c}.t VALUES (1)"),
            "SELECT 1 +".to_owned(),
            "SET work_mem = 'much'".to_owned(),
            "SET no_such_parameter = 1".to_owned(),
            "COPY nowhere TO STDOUT".to_owned(),
            "SELECT CAST('x' AS int)".to_owned(),
        ];
        dice.pick(&texts).clone()
    }

    fn transaction(&self, way: Way, dice: &mut Dice, status: char) -> String {
        let begin = [
            "BEGIN",
            "START TRANSACTION",
            "BEGIN READ ONLY",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "begin isolation level serializable, read only",
        ];
        // On a replica they cannot do all that they could on the primary (docs/routing.md, "Limits").
        let begin = match (self.replicas, way) {
            (true, _) => &begin[..2],
            (false, Way::Bound | Way::Joined) => &begin[..3],
            (false, Way::Alone) => &begin,
        };
        let within = [
            "COMMIT",
            "END",
            "ROLLBACK",
            "ABORT",
            "SAVEPOINT s1",
            "SAVEPOINT s2",
            "ROLLBACK TO s1",
            "RELEASE s1",
            "RELEASE s2",
            "COMMIT AND CHAIN",
            "ROLLBACK AND CHAIN",
            "SET TRANSACTION READ ONLY",
        ];
        let usual = (status == 'I') != dice.once_in(8);
        (*dice.pick(if usual { begin } else { &within })).to_owned()
    }

    fn setting(&self, dice: &mut Dice) -> String {
        let (c, n) = (self.client, 1 + dice.below(9));
        let texts = [
            format!("SET app.x = 'x{n}'"),
            format!("SET LOCAL app.x = 'local{n}'"),
            "RESET app.x".to_owned(),
            format!("SELECT set_config('app.x', 'c{n}', false)"),
            format!("SELECT set_config('app.x', 'c{n}', true)"),
            format!("SET search_path = c{c}, public"),
            format!("SET LOCAL search_path TO c{c}"),
            "SET search_path TO DEFAULT".to_owned(),
            "SET DateStyle = 'SQL, DMY'".to_owned(),
            "SET datestyle TO german".to_owned(),
            "SET IntervalStyle = 'iso_8601'".to_owned(),
            format!("SET work_mem = '{n}MB'"),
            "RESET work_mem".to_owned(),
            "SET standard_conforming_strings = off".to_owned(),
            "SET standard_conforming_strings = on".to_owned(),
            "SET escape_string_warning = off".to_owned(),
            "SET client_encoding = 'LATIN1'".to_owned(),
            "SET NAMES 'UTF8'".to_owned(),
            "SET TIME ZONE 'Europe/Berlin'".to_owned(),
            "SET client_encoding TO 'SJIS'".to_owned(),
            "SET TIME ZONE -3".to_owned(),
            format!("SET app.y TO 'it''s', 'two', {n}"),
            format!("SET SESSION \"app.x\" = 'quoted{n}'"),
            format!(
                "SELECT set_config('app.x', 'a' || {n}, false), set_config('app.y', 'b', true)"
            ),
            "SELECT set_config('search_path', 'public', false)".to_owned(),
            format!("UPDATE pg_settings SET setting = '{n}000' WHERE name = 'statement_timeout'"),
            "SET bytea_output = 'escape'".to_owned(),
            "SET extra_float_digits = 0".to_owned(),
            "SET CONSTRAINTS ALL DEFERRED".to_owned(),
            "SET LOCAL TIME ZONE 'Asia/Tokyo'".to_owned(),
            "SET LOCAL ROLE pg_monitor".to_owned(),
            "SET SESSION AUTHORIZATION pg_monitor".to_owned(),
            "RESET SESSION AUTHORIZATION".to_owned(),
            "SET ROLE none".to_owned(),
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
            "SET ROLE pg_monitor".to_owned(),
            "RESET ROLE".to_owned(),
            "SET application_name = 'differential'".to_owned(),
            "SET default_transaction_isolation = 'repeatable read'".to_owned(),
            "RESET ALL".to_owned(),
            "RESET default_transaction_read_only".to_owned(),
            "SET default_transaction_read_only = on".to_owned(),
        ];
        let end = texts.len() - usize::from(self.replicas);
        dice.pick(&texts[..end]).clone()
    }

    fn prepared(&self, way: Way, dice: &mut Dice) -> String {
        if way != Way::Alone {
            return self.read(dice);
        }
        let (c, n) = (self.client, dice.below(12));
        let names = ["P1", "\"P1\"", "p2", "a", "b"];
        let name = *dice.pick(&names);
        // Not what the protocol has prepared: PostgreSQL 18 ends the session of who executes a RELEASE so.
        let own = *dice.pick(&names[..3]);
        let texts = [
            format!("PREPARE {name} AS SELECT {n}, '{name}'"),
            format!(
                "PREPARE {name} (int) AS SELECT a, b FROM c{c}.t WHERE a > $1 ORDER BY a /* {name} */"
            ),
            format!(
                "PREPARE {name} AS UPDATE c{c}.t SET b = 'prepared' WHERE a = {n} /* {name} */"
            ),
            format!("PREPARE {name} AS SELECT '1.2.2020'::date, current_schema() /* {name} */"),
            format!("EXECUTE {own}"),
            format!("EXECUTE {own}"),
            format!("EXECUTE {own} ({n})"),
            format!("EXECUTE {own} ({n})"),
            "DISCARD PLANS".to_owned(),
            format!("EXPLAIN (COSTS OFF) EXECUTE {name}"),
            format!("CREATE TEMP TABLE made ON COMMIT DROP AS EXECUTE {name}"),
            format!("DEALLOCATE {name}"),
            format!("DEALLOCATE PREPARE {name}"),
            "DEALLOCATE ALL".to_owned(),
            "DISCARD ALL".to_owned(),
        ];
        dice.pick(&texts).clone()
    }

    /// On a replica a cursor WITH HOLD is refused (docs/session-state.md).
    fn cursor(&self, dice: &mut Dice, status: char) -> String {
        let (c, n) = (self.client, dice.below(5));
        let texts = [
            format!("DECLARE k CURSOR FOR SELECT a, b FROM c{c}.t ORDER BY a"),
            format!("DECLARE k SCROLL CURSOR FOR SELECT generate_series(1, {n})"),
            format!("FETCH {n} FROM k"),
            format!("FETCH {n} FROM k"),
            "FETCH NEXT k".to_owned(),
            format!("MOVE {n} IN k"),
            "CLOSE k".to_owned(),
            "CLOSE ALL".to_owned(),
            format!("DECLARE h CURSOR WITH HOLD FOR SELECT a FROM c{c}.t ORDER BY a"),
            format!("FETCH {n} FROM h"),
            "CLOSE h".to_owned(),
        ];
        let end = if self.replicas { 8 } else { texts.len() };
        let text = dice.pick(&texts[..end]).clone();
        if status == 'I' && text.contains("DECLARE k") && !dice.once_in(4) {
            return format!("BEGIN; {text}");
        }
        text
    }

    /// Neither currval nor lastval: what a transaction has not used is not there (docs/session-state.md).
    fn session(&self, dice: &mut Dice) -> String {
        let (c, n) = (self.client, dice.below(3));
        let key = c * 10 + n as u64;
        let texts = [
            format!("LISTEN l{c}"),
            format!("UNLISTEN l{c}"),
            "UNLISTEN *".to_owned(),
            format!("NOTIFY l{c}, 'news {n}'"),
            format!("SELECT pg_notify('l{c}', 'called')"),
            format!("SELECT pg_advisory_lock({key})"),
            format!("SELECT pg_try_advisory_lock({key})"),
            format!("SELECT pg_advisory_unlock({key})"),
            "SELECT pg_advisory_unlock_all()".to_owned(),
            format!("SELECT pg_advisory_xact_lock({key})"),
            "DISCARD SEQUENCES".to_owned(),
        ];
        dice.pick(&texts).clone()
    }

    fn temporary(&self, dice: &mut Dice) -> String {
        let n = dice.below(9);
        let texts = [
            "CREATE TEMP TABLE tt (a int)".to_owned(),
            "CREATE TEMPORARY TABLE tt (a int) ON COMMIT DROP".to_owned(),
            "CREATE TEMP TABLE IF NOT EXISTS tt AS SELECT 1 AS a".to_owned(),
            format!("INSERT INTO tt VALUES ({n})"),
            "SELECT count(*), sum(a) FROM tt".to_owned(),
            "DROP TABLE tt".to_owned(),
            "CREATE TEMP TABLE t (a int, b text)".to_owned(),
            "CREATE TEMP VIEW tv AS SELECT 1 AS one".to_owned(),
            "DROP VIEW tv".to_owned(),
            "DISCARD TEMP".to_owned(),
        ];
        dice.pick(&texts).clone()
    }

    /// A statement with two parameters, the first an integer and the second a text.
    pub(crate) fn parametrized(&self, dice: &mut Dice) -> String {
        let c = self.client;
        let texts = [
            "SELECT $1::int + 1, $2::text".to_owned(),
            format!("SELECT a, b, $2::text FROM c{c}.t WHERE a > $1 ORDER BY a"),
            format!("INSERT INTO c{c}.t VALUES ($1, $2) RETURNING a"),
            format!("UPDATE c{c}.t SET b = $2 WHERE a = $1"),
            "SELECT set_config('app.x', $2 || $1::int, false)".to_owned(),
            "SELECT 10 / ($1::int - 3), $2::text".to_owned(),
            "SELECT $1::int, $2::text, coalesce(current_setting('app.x', true), '')".to_owned(),
            format!("SELECT c{c}.bump($1), $2::text"),
            "SELECT generate_series(1, $1::int), $2::text".to_owned(),
            "SELECT $1::int, $2::date".to_owned(),
        ];
        dice.pick(&texts).clone()
    }
}
