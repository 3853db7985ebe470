//! Who takes part, and what they say: the table, and the statements on it.

use crate::history::{Consistency, Group};

/// Counters that everybody writes; each of the cast has one of its own besides.
pub(crate) const SHARED_KEYS: usize = 4;

/// One of the cast: a thread that makes one connection after the other.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Of the pooler; `None` for the primary itself.
    pub(crate) database: Option<&'static str>,
    pub(crate) user: &'static str,
    /// `pgweir.key`.
    pub(crate) key: Option<&'static str>,
    pub(crate) group: Option<Group>,
    pub(crate) consistency: Consistency,
    /// Whether it is handed tokens.
    pub(crate) takes_tokens: bool,
}

const PLAIN: Part = Part {
    database: Some("plain"),
    user: "postgres",
    key: None,
    group: None,
    consistency: Consistency::Session,
    takes_tokens: false,
};

/// The databases of the pooler, which are one on the servers, and the scope of each.
pub(crate) const DATABASES: [(&str, &str); 5] = [
    ("plain", ""),
    ("waiting", "on_lag = \"wait\"\nlag_wait_timeout = \"50ms\""),
    ("by_key", "consistency_scope = \"key\""),
    ("by_user", "consistency_scope = \"user\""),
    ("by_database", "consistency_scope = \"database\""),
];

pub(crate) fn cast() -> Vec<Part> {
    let strong = Part {
        consistency: Consistency::Strong,
        ..PLAIN
    };
    let of_key = |key: &'static str, group| Part {
        database: Some("by_key"),
        key: Some(key),
        group: Some(group),
        ..PLAIN
    };
    let of_user = |user: &'static str, group| Part {
        database: Some("by_user"),
        user,
        group: Some(group),
        ..PLAIN
    };
    let of_database = |user: &'static str| Part {
        database: Some("by_database"),
        user,
        group: Some(4),
        ..PLAIN
    };
    let waiting = Part {
        database: Some("waiting"),
        ..PLAIN
    };
    let direct = Part {
        database: None,
        ..PLAIN
    };
    let with_token = Part {
        takes_tokens: true,
        ..PLAIN
    };
    vec![
        PLAIN,
        PLAIN,
        PLAIN,
        PLAIN,
        waiting,
        strong.clone(),
        strong,
        of_key("a", 0),
        of_key("a", 0),
        of_key("b", 1),
        of_user("alice", 2),
        of_user("alice", 2),
        of_user("bob", 3),
        of_database("alice"),
        of_database("bob"),
        with_token.clone(),
        with_token,
        direct.clone(),
        direct,
    ]
}

/// The table, and everything that writes it. `test.server` is a setting of each server.
pub(crate) fn schema(keys: usize) -> String {
    format!(
        "CREATE TABLE registers (key int PRIMARY KEY, value int NOT NULL) WITH (fillfactor = 10);
         INSERT INTO registers SELECT key, 0 FROM generate_series(0, {keys} - 1) AS key;
         CREATE TABLE ledger (session int, number int);
         CREATE TABLE bumps (key int, session int, number int);
         CREATE FUNCTION bump(k int, s int, n int) RETURNS int LANGUAGE plpgsql AS $$
         DECLARE result int;
         BEGIN
             INSERT INTO ledger VALUES (s, n);
             UPDATE registers SET value = value + 1 WHERE key = k RETURNING value INTO result;
             RETURN result;
         END $$;
         CREATE FUNCTION bump_row() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM bump(NEW.key, NEW.session, NEW.number);
             RETURN NULL;
         END $$;
         CREATE TRIGGER bump AFTER INSERT ON bumps FOR EACH ROW EXECUTE FUNCTION bump_row();
         CREATE PROCEDURE bump_and_fail(k int, s int, n int) LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM bump(k, s, n);
             COMMIT;
             RAISE EXCEPTION 'behind the commit';
         END $$;
         CREATE ROLE alice LOGIN SUPERUSER;
         CREATE ROLE bob LOGIN SUPERUSER;"
    )
}

/// All counters, and who says so.
pub(crate) const READ: &str =
    "SELECT current_setting('test.server'), array_agg(value ORDER BY key) FROM registers";

/// One more for a counter, with numbers or parameters for the session, its write and the key.
pub(crate) fn write(session: &str, number: &str, key: &str) -> String {
    format!(
        "WITH line AS (INSERT INTO ledger VALUES ({session}, {number})) \
         UPDATE registers SET value = value + 1 WHERE key = {key} RETURNING value"
    )
}
