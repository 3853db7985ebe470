//! The SQL of the conversations.
//!
//! Every client has a schema of its own with a table, a sequence and functions, so that what one is told does not depend
//! on the others.

use crate::support::dice::Dice;

pub(crate) struct Words {
    pub(crate) client: u64,
    /// Whether reads may go to a replica.
    pub(crate) replicas: bool,
}

/// How a statement comes to the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The only one of a Query.
    Alone,
    /// Among others of a Query: there the names of prepared statements are not the client's (docs/session-state.md).
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
         GRANT ALL ON SCHEMA c{client} TO pg_monitor;
         GRANT ALL ON c{client}.t, c{client}.s TO pg_monitor;"
    )
}

impl Words {
    /// Puts everything into the state in which a conversation finds it.
    pub(crate) fn reset(&self) -> String {
        let c = self.client;
        format!(
            "DELETE FROM c{c}.t; INSERT INTO c{c}.t SELECT n, 'row ' || n FROM generate_series(1, 9) n; \
             SELECT setval('c{c}.s', 1)"
        )
    }

    /// A single statement, whatever it does, without parameters.
    pub(crate) fn statement(&self, way: Way, dice: &mut Dice, status: char) -> String {
        match status {
            'E' if dice.once_in(2) => self.transaction(way, dice, status),
            _ => match dice.below(20) {
                0..=5 => self.read(dice),
                6..=8 => self.write(dice),
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
            (false, Way::Bound) => &begin[..3],
            (false, Way::Alone | Way::Joined) => &begin,
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
