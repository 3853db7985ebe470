//! Session state in transaction mode, on real PostgreSQL: what a client sets goes with it from server to
//! server and never to another client; what cannot go with it keeps the server, for as long as it is there.

mod support;

use support::{
    raw::{Raw, bind, execute, message, parse, query, sync},
    seats::Seats,
};

/// How a statement is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Simple,
    Unnamed,
    Named,
    /// Behind another statement in the same string.
    Second,
    InTransaction,
}

const WAYS: [Way; 5] = [
    Way::Simple,
    Way::Unnamed,
    Way::Named,
    Way::Second,
    Way::InTransaction,
];

fn run(client: &mut Raw, way: Way, sql: &str) {
    let extended = |name: &str| vec![parse(name, sql), bind(name, &[]), execute(), sync()];
    let answers = match way {
        Way::Simple => client.query(sql),
        Way::Unnamed => client.ask(&extended("")),
        Way::Named => client.ask(&extended(sql)),
        Way::Second => client.query(&format!("SELECT 1; {sql}")),
        Way::InTransaction => {
            client.run("BEGIN");
            client.run(sql);
            client.query("COMMIT")
        }
    };
    let failed = answers.iter().any(|answer| answer.starts_with('E'));
    assert!(!failed, "{way:?} {sql}: {}", client.last_error);
}

/// All that a session may find set: names and values that differ from those of a new session.
const OWN_SETTINGS: &str = "SELECT coalesce(string_agg(name || '=' || setting, ' ' ORDER BY name), '') \
     || current_user || '/' || session_user FROM pg_settings WHERE source = 'session'";

/// No client that comes now finds a setting of another one, on either server.
fn nobody_finds_anything(seats: &mut Seats, what: &str) {
    for _ in 0..2 {
        let mut fresh = seats.client();
        let found = fresh.value(OWN_SETTINGS);
        assert_eq!(found, "postgres/postgres", "left by {what}");
        fresh.terminate();
        seats.switch();
    }
}

/// What sets something, how it is asked for, and what it is then.
const SETTINGS: [(&str, &str, &str); 24] = [
    ("SET work_mem = '5MB'", "SHOW work_mem", "5MB"),
    ("SET SESSION work_mem TO 5120", "SHOW work_mem", "5MB"),
    ("SET TIME ZONE 'Asia/Tokyo'", "SHOW timezone", "Asia/Tokyo"),
    (
        "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",
        "SHOW timezone",
        "<-08>+08",
    ),
    ("SET NAMES 'LATIN1'", "SHOW client_encoding", "LATIN1"),
    ("SET SCHEMA 'elsewhere'", "SHOW search_path", "elsewhere"),
    (
        "SET search_path = \"$user\", 'od\"d', public",
        "SHOW search_path",
        "\"$user\", \"od\"\"d\", public",
    ),
    ("SET DateStyle = 'SQL, DMY'", "SHOW datestyle", "SQL, DMY"),
    ("SET XML OPTION DOCUMENT", "SHOW xmloption", "document"),
    ("SET enable_seqscan = off", "SHOW enable_seqscan", "off"),
    ("SET \"work_mem\" = '5MB'", "SHOW work_mem", "5MB"),
    (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE",
        "SELECT current_setting('transaction_read_only') || current_setting('transaction_isolation')",
        "onserializable",
    ),
    (
        "SELECT set_config('work_mem', '6MB', false)",
        "SHOW work_mem",
        "6MB",
    ),
    (
        "SELECT set_config(n, '6MB', false) FROM (VALUES ('work_mem')) v (n)",
        "SHOW work_mem",
        "6MB",
    ),
    (
        "SET app.tenant = 'it''s \\ me'",
        "SHOW app.tenant",
        "it's \\ me",
    ),
    (
        "SET \"App\".\"Tenant\" TO 'x'",
        "SELECT current_setting('app.tenant')",
        "x",
    ),
    (
        "SELECT set_config('app.tenant', 'y', false)",
        "SHOW app.tenant",
        "y",
    ),
    ("SELECT sets_work_mem('7MB')", "SHOW work_mem", "7MB"),
    (
        "DO $$ BEGIN SET work_mem = '8MB'; END $$",
        "SHOW work_mem",
        "8MB",
    ),
    (
        "UPDATE pg_settings SET setting = '9MB' WHERE name = 'work_mem'",
        "SHOW work_mem",
        "9MB",
    ),
    ("SET ROLE it_role", "SELECT current_user", "it_role"),
    ("SET role = 'it_role'", "SELECT current_user", "it_role"),
    (
        "SET SESSION AUTHORIZATION it_role",
        "SELECT session_user",
        "it_role",
    ),
    (
        "SELECT set_config('role', 'it_role', false)",
        "SELECT current_user",
        "it_role",
    ),
];

fn functions(seats: &Seats) {
    seats.direct(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'it_role') THEN
             CREATE ROLE it_role; END IF; EXCEPTION WHEN unique_violation OR duplicate_object THEN END $$;
         CREATE FUNCTION sets_work_mem(value text) RETURNS text LANGUAGE sql
             AS $$ SELECT set_config('work_mem', value, false) $$;
         CREATE FUNCTION logs_in(value text) RETURNS text LANGUAGE sql
             AS $$ SELECT set_config('secret.user', value, false) $$;",
    );
}

#[test]
fn settings_go_with_their_client_and_to_nobody_else() {
    let mut seats = Seats::new();
    functions(&seats);
    for (number, (sets, asks, value)) in SETTINGS.into_iter().enumerate() {
        // Every statement in one way, and some in all.
        let ways = if number % 6 == 0 {
            &WAYS[..]
        } else {
            &WAYS[number % 5..][..1]
        };
        for &way in ways {
            let what = format!("{sets} ({way:?})");
            let mut client = seats.client();
            run(&mut client, way, sets);
            assert_eq!(client.value(asks), value, "on the same server: {what}");
            if seats.pins().is_empty() {
                seats.switch();
                assert_eq!(client.value(asks), value, "on another server: {what}");
            }
            client.terminate();
            nobody_finds_anything(&mut seats, &what);
        }
    }
}

#[test]
fn what_is_undone_for_the_client_is_undone_everywhere() {
    let mut seats = Seats::new();
    for (sql, value) in [
        ("BEGIN; SET work_mem = '5MB'; ROLLBACK", "4MB"),
        ("BEGIN; SET LOCAL work_mem = '5MB'; COMMIT", "4MB"),
        ("SET LOCAL work_mem = '5MB'", "4MB"),
        ("SELECT set_config('work_mem', '5MB', true)", "4MB"),
        (
            "BEGIN; SAVEPOINT a; SET work_mem = '5MB'; ROLLBACK TO a; COMMIT",
            "4MB",
        ),
        (
            "BEGIN; SET work_mem = '5MB'; SAVEPOINT a; SET work_mem = '6MB'; ROLLBACK TO a; COMMIT",
            "5MB",
        ),
        (
            "BEGIN; SAVEPOINT a; SET work_mem = '5MB'; RELEASE a; COMMIT",
            "5MB",
        ),
        (
            "BEGIN; SAVEPOINT a; SET work_mem = '5MB'; RELEASE a; ROLLBACK",
            "4MB",
        ),
        (
            "BEGIN; SET work_mem = '5MB'; SET LOCAL work_mem = '6MB'; COMMIT",
            "5MB",
        ),
        (
            "BEGIN; SET work_mem = '5MB'; COMMIT AND CHAIN; SET work_mem = '6MB'; ROLLBACK",
            "5MB",
        ),
        ("SET work_mem = '5MB'; RESET work_mem", "4MB"),
        ("SET work_mem = '5MB'; SET work_mem TO DEFAULT", "4MB"),
        ("SET work_mem = '5MB'; RESET ALL", "4MB"),
        (
            "SET work_mem = '5MB'; BEGIN; RESET work_mem; ROLLBACK",
            "5MB",
        ),
    ] {
        let mut client = seats.client();
        for statement in sql.split("; ") {
            client.run(statement);
        }
        assert_eq!(
            client.value("SHOW work_mem"),
            value,
            "on the same server: {sql}"
        );
        seats.switch();
        assert_eq!(
            client.value("SHOW work_mem"),
            value,
            "on another server: {sql}"
        );
        client.terminate();
        nobody_finds_anything(&mut seats, sql);
    }
    // A failed transaction, and a string whose last statement fails.
    let mut client = seats.client();
    assert_eq!(client.error("SET work_mem = '5MB'; SELECT 1/0"), "22012");
    client.run("BEGIN; SET work_mem = '5MB'");
    assert_eq!(client.error("SELECT 1/0"), "22012");
    client.run("COMMIT");
    seats.switch();
    assert_eq!(client.value("SHOW work_mem"), "4MB");
    nobody_finds_anything(&mut seats, "a failure");
}

#[test]
fn a_function_may_set_what_nobody_has_heard_of() {
    let mut seats = Seats::new();
    functions(&seats);
    let mut client = seats.client();
    for (number, way) in WAYS.into_iter().enumerate() {
        run(
            &mut client,
            way,
            &format!("SELECT logs_in('alice {number}')"),
        );
        run(
            &mut client,
            way,
            "DO $$ BEGIN PERFORM set_config('secret.' || 'key', 'k', false); END $$",
        );
        if !seats.pins().is_empty() {
            client.terminate();
            client = seats.client();
        }
        for _ in 0..2 {
            let mut other = seats.client();
            for name in ["secret.user", "secret.key"] {
                let found = other.value(&format!(
                    "SELECT coalesce(current_setting('{name}', true), '')"
                ));
                assert_eq!(found, "", "another client's {name} ({way:?})");
            }
            other.terminate();
            seats.switch();
        }
    }
}

#[test]
fn what_a_function_has_set_leaves_with_what_kept_the_server() {
    let mut seats = Seats::new();
    functions(&seats);
    let asks = "SELECT coalesce(current_setting('secret.user', true), '')";
    for (makes, ends) in [
        ("LISTEN it", "UNLISTEN it"),
        ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"),
    ] {
        let mut client = seats.client();
        client.run(makes);
        client.run("SELECT logs_in('alice')");
        assert_eq!(client.value(asks), "alice", "the server is its own");
        client.run(ends);
        assert!(!seats.is_pinned(&mut client), "{ends}");
        for _ in 0..2 {
            assert_eq!(seats.client().value(asks), "", "behind {ends}");
            seats.switch();
        }
        client.terminate();
    }
}

/// In SJIS the second byte of U+8868 is that of a backslash: nothing of a value may be taken for an
/// escape, or for the end of its literal.
#[test]
fn a_value_is_the_same_elsewhere_whatever_the_bytes_of_its_characters() {
    const HEX: &str = "SELECT encode(convert_to(current_setting('app.word'), 'UTF8'), 'hex')";
    let mut seats = Seats::new();
    let mut client = seats.client();
    client.run("SET client_encoding = 'SJIS'");
    for (value, hex) in [
        (r"\8868", "e8a1a8"),
        (
            r"\8868'',false);SET work_mem=''3MB'';--",
            "e8a1a8272c66616c7365293b53455420776f726b5f6d656d3d27334d42273b2d2d",
        ),
    ] {
        client.run(&format!(
            "SELECT set_config('app.word', U&'{value}', false)"
        ));
        seats.switch();
        assert_eq!(client.value(HEX), hex);
        nobody_finds_anything(&mut seats, value);
    }
}

#[test]
fn a_statement_prepared_long_ago_sets_what_is_asked_for_later() {
    let mut seats = Seats::new();
    let mut client = seats.client();
    let sets = "SELECT set_config('late.setting', 'x', false)";
    client.ask(&[parse("late", sets), parse("", sets), sync()]);
    client.run("SET work_mem = '5MB'");
    for name in ["late", ""] {
        if name == "late" {
            client.run("SET work_mem = '6MB'");
            client.ask(&[parse("", sets), sync()]);
            client.ask(&[bind("late", &[]), execute(), sync()]);
        } else {
            client.ask(&[bind("", &[]), execute(), sync()]);
        }
        for _ in 0..2 {
            let mut other = seats.client();
            let asks = "SELECT coalesce(current_setting('late.setting', true), '')";
            assert_eq!(other.value(asks), "", "statement {name:?}");
            seats.switch();
            assert_eq!(client.value(asks), "x", "statement {name:?}");
            other.terminate();
        }
    }
}

/// `pg_settings` says that SET TRANSACTION had set something for the session, which a transaction refuses to have set.
#[test]
fn what_was_set_for_a_transaction_is_not_taken_for_the_sessions() {
    let seats = Seats::new();
    let mut one = seats.client();
    one.run("BEGIN");
    one.run("SET TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE, DEFERRABLE");
    one.run("COMMIT");
    let mut two = seats.client();
    two.run("SET default_transaction_read_only = on");
    two.run("SET default_transaction_isolation = 'repeatable read'");
    assert_eq!(one.value("SHOW transaction_read_only"), "off");
    assert_eq!(one.value("SHOW transaction_isolation"), "read committed");
    assert_eq!(two.value("SHOW transaction_read_only"), "on");
}

#[test]
fn startup_options_are_what_reset_goes_back_to() {
    let mut seats = Seats::new();
    let startup = [
        ("options", "-c work_mem=6MB -c app.start=s"),
        ("TimeZone", "Asia/Tokyo"),
        ("application_name", "starter"),
    ];
    let mut client = seats.client_with(&startup);
    let all = "SELECT current_setting('work_mem') || current_setting('timezone') \
        || current_setting('application_name') || current_setting('app.start')";
    let started = "6MBAsia/Tokyostarters";
    assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo");
    for reset in ["RESET ALL", "DISCARD ALL", "SELECT 1; RESET ALL"] {
        client.run("SET work_mem = '7MB'; SET TIME ZONE 'UTC'; SET application_name = 'x'; SET app.start = 'y'");
        assert_eq!(client.parameters["TimeZone"], "UTC");
        seats.switch();
        assert_eq!(client.value(all), "7MBUTCxy");
        client.run(reset);
        for _ in 0..2 {
            assert_eq!(client.value(all), started, "after {reset}");
            assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo", "after {reset}");
            assert_eq!(client.parameters["application_name"], "starter");
            seats.switch();
        }
    }
    client.run("SET work_mem = '7MB'; SET app.start = 'y'");
    client.run("RESET work_mem; SET app.start TO DEFAULT");
    assert_eq!(client.value(all), started);
    client.terminate();
    nobody_finds_anything(&mut seats, "startup options");
}

#[test]
fn what_is_reported_is_what_holds_for_the_client() {
    let mut seats = Seats::new();
    let mut one = seats.client();
    let mut two = seats.client_with(&[("TimeZone", "Asia/Tokyo")]);
    one.run("SET TIME ZONE 'Europe/Paris'");
    assert_eq!(one.reports, ["TimeZone=Europe/Paris"]);
    one.run("BEGIN; SET TIME ZONE 'UTC'");
    assert_eq!(one.parameters["TimeZone"], "UTC");
    one.run("ROLLBACK");
    assert_eq!(one.parameters["TimeZone"], "Europe/Paris");
    one.reports.clear();
    for _ in 0..2 {
        assert_eq!(one.value("SHOW timezone"), "Europe/Paris");
        assert_eq!(two.value("SHOW timezone"), "Asia/Tokyo");
        seats.switch();
    }
    // What the servers were told between is nothing that concerns the clients.
    assert!(one.reports.is_empty() && two.reports.is_empty());
}

#[test]
fn nothing_of_a_query_runs_under_settings_that_a_server_refuses() {
    let mut seats = Seats::new();
    seats.direct(
        "CREATE ROLE it_doomed; CREATE TABLE witness (who text); GRANT ALL ON witness TO public",
    );
    let insert = "INSERT INTO witness SELECT current_user";
    let attempts: [&dyn Fn() -> Vec<Vec<u8>>; 7] = [
        &|| vec![query(insert)],
        &|| vec![query(&format!("ROLLBACK; {insert}"))],
        &|| vec![query(&format!("COMMIT; {insert}; COMMIT"))],
        &|| vec![query("ROLLBACK"), query(insert)],
        &|| vec![query(&format!("PREPARE TRANSACTION 'x'; {insert}"))],
        &|| vec![parse("", insert), bind("", &[]), execute(), sync()],
        &|| {
            let rollback = [parse("", "ROLLBACK"), bind("", &[]), execute(), sync()];
            let insert = [parse("", insert), bind("", &[]), execute(), sync()];
            [rollback, insert].concat()
        },
    ];
    for attempt in attempts {
        seats.direct("DROP ROLE IF EXISTS it_doomed; CREATE ROLE it_doomed; GRANT ALL ON witness TO it_doomed");
        let mut client = seats.client();
        client.run("SET ROLE it_doomed");
        client.run(insert);
        seats.switch();
        seats.direct("REVOKE ALL ON witness FROM it_doomed; DROP ROLE it_doomed");
        client.send(&attempt().concat());
        let answers = client.answers();
        assert_eq!(answers[0], "E 22023", "{answers:?}");
        assert!(
            client.last_error.contains("it_doomed"),
            "{}",
            client.last_error
        );
        client.vanish();
        assert_eq!(
            seats.direct("SELECT string_agg(DISTINCT who, ',') FROM witness"),
            "it_doomed"
        );
        seats = reseat(seats);
    }
}

/// The server that has refused something was replaced: begin anew with the same database.
fn reseat(seats: Seats) -> Seats {
    seats.again()
}

/// What cannot move, why by the console, and what ends it.
const PINS: [(&str, &str, &str); 20] = [
    ("LISTEN it", "listen", "UNLISTEN it"),
    ("LISTEN it", "listen", "UNLISTEN *"),
    (
        "SELECT pg_advisory_lock(1)",
        "advisory_lock",
        "SELECT pg_advisory_unlock(1)",
    ),
    (
        "SELECT pg_try_advisory_lock_shared(1, 2)",
        "advisory_lock",
        "SELECT pg_advisory_unlock_all()",
    ),
    ("SELECT locks(3)", "advisory_lock", "SELECT unlocks(3)"),
    (
        "CREATE TEMP TABLE t (a int)",
        "temporary_object",
        "DROP TABLE t",
    ),
    (
        "CREATE TABLE pg_temp.t (a int)",
        "temporary_object",
        "DROP TABLE t",
    ),
    (
        "SELECT 1 AS a INTO TEMPORARY t",
        "temporary_object",
        "DISCARD TEMP",
    ),
    (
        "CREATE TEMP VIEW v AS SELECT 1",
        "temporary_object",
        "DROP VIEW v",
    ),
    (
        "CREATE TEMP SEQUENCE s",
        "temporary_object",
        "DROP SEQUENCE s",
    ),
    (
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "temporary_object",
        "DROP FUNCTION pg_temp.f()",
    ),
    (
        "CREATE TYPE pg_temp.e AS ENUM ('a')",
        "temporary_object",
        "DROP TYPE pg_temp.e",
    ),
    ("CALL makes_temp()", "temporary_object", "DROP TABLE made"),
    (
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "hold_cursor",
        "CLOSE c",
    ),
    (
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "hold_cursor",
        "CLOSE ALL",
    ),
    ("LOAD 'plpgsql'", "opaque", "DISCARD ALL"),
    ("SELECT setseed(0.5)", "opaque", "DISCARD ALL"),
    ("SET seed TO 0.5", "opaque", "DISCARD ALL"),
    ("LISTEN it", "listen", "DISCARD ALL"),
    ("SELECT pg_advisory_lock(1)", "advisory_lock", "DISCARD ALL"),
];

#[test]
fn state_that_cannot_move_keeps_the_server_until_it_is_gone() {
    let mut seats = Seats::new();
    functions(&seats);
    seats.direct(
        "CREATE FUNCTION locks(key int) RETURNS void LANGUAGE sql
             AS $$ SELECT pg_advisory_lock(key) $$;
         CREATE FUNCTION unlocks(key int) RETURNS bool LANGUAGE sql
             AS $$ SELECT pg_advisory_unlock(key) $$;
         CREATE PROCEDURE makes_temp() LANGUAGE plpgsql
             AS $$ BEGIN CREATE TEMP TABLE made (a int); END $$;",
    );
    for (makes, reason, ends) in PINS {
        for way in [Way::Simple, Way::Unnamed, Way::Named, Way::InTransaction] {
            if ends == "DISCARD ALL" && way == Way::InTransaction {
                continue;
            }
            let what = format!("{makes} … {ends} ({way:?})");
            let mut client = seats.client();
            run(&mut client, way, makes);
            assert!(seats.is_pinned(&mut client), "not kept: {what}");
            assert_eq!(seats.pins(), [reason], "{what}");
            run(&mut client, way, ends);
            assert!(!seats.is_pinned(&mut client), "still kept: {what}");
            assert!(seats.pins().is_empty(), "{what}");
            client.terminate();
        }
        // And without being ended.
        let mut client = seats.client();
        client.run(makes);
        client.terminate();
        seats.settle();
        let left = "SELECT (SELECT count(*) FROM pg_locks l JOIN pg_database d ON l.database = d.oid \
                WHERE locktype = 'advisory' AND datname = current_database()) \
            + (SELECT count(*) FROM pg_class WHERE relpersistence = 't') \
            + (SELECT count(*) FROM pg_cursors WHERE is_holdable) \
            + (SELECT count(*) FROM pg_listening_channels())";
        for _ in 0..2 {
            assert_eq!(seats.client().value(left), "0", "left by {makes}");
            seats.switch();
        }
    }
}

#[test]
fn state_that_ends_with_the_transaction_keeps_nothing() {
    let mut seats = Seats::new();
    for sql in [
        "BEGIN; LISTEN it; ROLLBACK",
        "BEGIN; LISTEN it; UNLISTEN it; COMMIT",
        "BEGIN; CREATE TEMP TABLE t (a int) ON COMMIT DROP; COMMIT",
        "BEGIN; CREATE TEMP TABLE t (a int); ROLLBACK",
        "BEGIN; SAVEPOINT a; CREATE TEMP TABLE t (a int); ROLLBACK TO a; COMMIT",
        "BEGIN; CREATE TEMP TABLE t (a int); DROP TABLE t; COMMIT",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; ROLLBACK",
        "BEGIN; DECLARE c CURSOR FOR SELECT 1; COMMIT",
        "BEGIN; SELECT pg_advisory_xact_lock(1); COMMIT",
        "BEGIN; SELECT pg_advisory_lock(1); SELECT pg_advisory_unlock(1); COMMIT",
    ] {
        let mut client = seats.client();
        for statement in sql.split("; ") {
            client.run(statement);
        }
        assert!(!seats.is_pinned(&mut client), "kept: {sql}");
        client.terminate();
    }
    // A session lock outlives the rollback, as PostgreSQL has it.
    let mut client = seats.client();
    client.run("BEGIN; SELECT pg_advisory_lock(1)");
    client.run("ROLLBACK");
    assert!(seats.is_pinned(&mut client));
    assert_eq!(seats.pins(), ["advisory_lock"]);
}

#[test]
fn notifications_arrive_at_who_listens() {
    let seats = Seats::new();
    let mut listener = seats.client();
    listener.run("LISTEN it");
    seats.direct("NOTIFY it, 'one'");
    assert_eq!(listener.notification(), "it one");
    listener.run("BEGIN");
    seats.direct("NOTIFY it, 'two'");
    listener.run("COMMIT");
    assert_eq!(listener.notification(), "it two");
    listener.run("UNLISTEN it");
    seats.direct("NOTIFY it, 'three'");
    let mut other = seats.client();
    assert_eq!(other.value("SELECT 1"), "1");
    assert!(other.notifications.is_empty() && listener.notifications.is_empty());
}

#[test]
fn two_clients_exclude_each_other_by_advisory_locks() {
    let mut seats = Seats::new();
    let mut one = seats.client();
    one.run("SELECT pg_advisory_lock(77)");
    let mut two = seats.client();
    assert!(seats.is_pinned(&mut one));
    // The same server would let it in.
    seats.release_all();
    assert_eq!(two.value("SELECT pg_try_advisory_lock(77)"), "f");
    one.run("SELECT pg_advisory_unlock(77)");
    assert_eq!(two.value("SELECT pg_try_advisory_lock(77)"), "t");
    two.vanish();
    seats
        .primary()
        .wait_until("NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 77)")
        .expect("a lock of a client that has gone is released");
}

const LAST: &str = "SELECT lastval()";

/// A way to ask for a sequence value: all answers.
type Ask = fn(&mut Raw) -> Vec<String>;

#[test]
fn sequence_values_of_another_client_are_never_seen() {
    let mut seats = Seats::new();
    seats.direct("CREATE SEQUENCE s; CREATE TABLE t (id serial, a int)");
    let asks: [Ask; 7] = [
        |c| c.query(LAST),
        |c| c.query("SELECT currval('s')"),
        |c| {
            c.run("BEGIN");
            let answers = c.query(LAST);
            c.run("ROLLBACK");
            answers
        },
        |c| c.query(&format!("BEGIN; {LAST}; COMMIT")),
        |c| c.ask(&[parse("", LAST), bind("", &[]), execute(), sync()]),
        |c| {
            c.ask(&[parse("p", LAST), sync()]);
            c.ask(&[bind("p", &[]), execute(), sync()])
        },
        |c| {
            c.run("PREPARE q AS SELECT currval('s')");
            c.query("EXECUTE q")
        },
    ];
    for (number, ask) in asks.into_iter().enumerate() {
        let mut one = seats.client();
        one.run("SELECT nextval('s')");
        one.run("INSERT INTO t (a) VALUES (1)");
        let mut two = seats.client();
        let answers = ask(&mut two);
        assert!(
            answers.iter().any(|answer| answer == "E 55000"),
            "way {number}: {answers:?}"
        );
        two.query("ROLLBACK");
        // One's own value is seen within a transaction.
        one.run("BEGIN");
        let own = one.value("SELECT nextval('s')");
        assert_eq!(one.value("SELECT currval('s')"), own);
        assert_eq!(one.value(LAST), own);
        one.run("COMMIT");
        seats.switch();
    }
}

#[test]
fn a_sequence_value_of_uncertain_origin_is_refused_once() {
    let seats = Seats::new();
    seats.direct("CREATE TABLE t (id serial, a int); CREATE TABLE plain (a int)");
    let insert = "INSERT INTO t (a) VALUES (1)";
    let mut one = seats.client();
    one.run(insert);
    // Nobody has asked so far, and this transaction has written before it asks.
    let mut two = seats.client();
    two.run("BEGIN");
    two.run("INSERT INTO plain VALUES (1)");
    assert_eq!(two.query("SELECT lastval()"), ["E 55000", "Z E"]);
    assert!(
        two.last_error.contains("Run the transaction again"),
        "{}",
        two.last_error
    );
    two.run("ROLLBACK");
    for (writes, answer) in [("INSERT INTO plain VALUES (1)", "E 55000"), (insert, "D 2")] {
        one.run("SELECT 1");
        two.run("BEGIN");
        two.run(writes);
        let asks = [
            parse("", "SELECT lastval()"),
            bind("", &[]),
            execute(),
            sync(),
        ];
        let answers = two.ask(&asks);
        assert!(answers.iter().any(|a| a == answer), "{answers:?}");
        two.run("ROLLBACK");
    }
    // In a batch, behind another statement.
    one.run(insert);
    let answers = two.ask(&[
        parse("", "SELECT 1"),
        bind("", &[]),
        execute(),
        parse("", "SELECT lastval()"),
        bind("", &[]),
        execute(),
        sync(),
    ]);
    assert_eq!(
        answers,
        ["1", "2", "D 1", "C SELECT 1", "1", "2", "E 55000", "Z I"]
    );
}

#[test]
fn what_the_operator_does_not_want_is_refused() {
    let seats = Seats::with(|builder| {
        [
            "on_listen",
            "on_advisory_lock",
            "on_temp_table",
            "on_hold_cursor",
        ]
        .into_iter()
        .fold(builder, |builder, key| builder.pool(key, "\"refuse\""))
    });
    seats.direct("CREATE TABLE witness (a int)");
    let mut client = seats.client();
    for (sql, setting) in [
        ("LISTEN it", "on_listen"),
        ("SELECT pg_advisory_lock(1)", "on_advisory_lock"),
        ("CREATE TEMP TABLE t (a int)", "on_temp_table"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "on_hold_cursor"),
        ("INSERT INTO witness VALUES (1); LISTEN it", "on_listen"),
        (
            "PREPARE p AS SELECT pg_advisory_lock(1)",
            "on_advisory_lock",
        ),
    ] {
        assert_eq!(client.error(sql), "0A000", "{sql}");
        assert!(client.last_error.contains(setting), "{}", client.last_error);
        let extended = [parse("", sql), bind("", &[]), execute(), sync()];
        assert_eq!(client.ask(&extended), ["E 0A000", "Z I"], "{sql}");
        let named = [parse("n", sql), sync()];
        assert_eq!(client.ask(&named), ["E 0A000", "Z I"], "{sql}");
        assert_eq!(
            client.ask(&[bind("n", &[]), execute(), sync()]),
            ["E 26000", "Z I"]
        );
        // As any error it ends the transaction, and what was sent behind it does not run.
        client.run("BEGIN");
        client.run("INSERT INTO witness VALUES (2)");
        assert_eq!(client.query(sql).last().map(String::as_str), Some("Z E"));
        assert_eq!(client.error("SELECT 1"), "25P02");
        client.run("COMMIT");
    }
    client.send(&[query("SELECT 1"), query("LISTEN it"), query("SELECT 2")].concat());
    assert_eq!(client.answers(), ["T ?column?", "D 1", "C SELECT 1", "Z I"]);
    assert_eq!(client.answers(), ["E 0A000", "Z I"]);
    assert_eq!(client.answers(), ["T ?column?", "D 2", "C SELECT 1", "Z I"]);
    assert_eq!(seats.direct("SELECT count(*) FROM witness"), "0");
    client.run("BEGIN; CREATE TEMP TABLE t (a int) ON COMMIT DROP; COMMIT");
    client.run("SELECT pg_advisory_xact_lock(1)");
    client.run("UNLISTEN *");
    assert!(seats.pins().is_empty());
}

#[test]
fn function_calls_of_the_protocol_are_looked_behind() {
    let mut seats = Seats::new();
    let mut client = seats.client();
    let oid: u32 = seats
        .direct("SELECT 'pg_advisory_lock(int8)'::regprocedure::oid")
        .parse()
        .expect("a number");
    let mut body = oid.to_be_bytes().to_vec();
    // No argument formats, one argument of 8 bytes, result in text.
    body.extend([0, 0, 0, 1, 0, 0, 0, 1, b'5', 0, 0]);
    let answers = client.ask(&[message(b'F', &body)]);
    assert_eq!(answers, ["V", "Z I"], "{}", client.last_error);
    assert!(seats.is_pinned(&mut client));
    assert_eq!(seats.pins(), ["advisory_lock"]);
}

#[test]
fn a_client_cannot_lie_about_its_state_by_operators_of_its_own() {
    let mut seats = Seats::new();
    functions(&seats);
    seats.direct(
        "CREATE SCHEMA evil;
         CREATE FUNCTION evil.never(a text, b text) RETURNS bool LANGUAGE sql AS 'SELECT false';
         CREATE FUNCTION evil.never(a int4, b int4) RETURNS bool LANGUAGE sql AS 'SELECT false';
         CREATE FUNCTION evil.never(a oid, b oid) RETURNS bool LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR evil.= (FUNCTION = evil.never, LEFTARG = text, RIGHTARG = text);
         CREATE OPERATOR evil.<> (FUNCTION = evil.never, LEFTARG = text, RIGHTARG = text);
         CREATE OPERATOR evil.= (FUNCTION = evil.never, LEFTARG = int4, RIGHTARG = int4);
         CREATE OPERATOR evil.= (FUNCTION = evil.never, LEFTARG = oid, RIGHTARG = oid);
         CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 0';
         CREATE VIEW evil.pg_settings AS SELECT '' AS name, '' AS setting, '' AS source WHERE false;",
    );
    let mut client = seats.client();
    client.run("SET search_path = evil, pg_catalog, public");
    client.run("SET my.own = 'mine'");
    client.run("SET ROLE it_role");
    assert!(!seats.is_pinned(&mut client));
    nobody_finds_anything(&mut seats, "a liar");
    for asks in ["SHOW my.own", "SELECT current_user", "SHOW search_path"] {
        assert!(["mine", "it_role", "evil, pg_catalog, public"].contains(&&*client.value(asks)));
        seats.switch();
    }
    for (makes, reason) in [
        ("SELECT pg_advisory_lock(1)", "advisory_lock"),
        (
            "RESET ROLE; CREATE TEMP TABLE t (a int)",
            "advisory_lock,temporary_object",
        ),
    ] {
        client.run(makes);
        assert!(seats.is_pinned(&mut client), "{makes}");
        assert_eq!(seats.pins(), [reason]);
    }
}

#[test]
fn statements_that_were_prepared_out_of_sight_keep_the_server() {
    let mut seats = Seats::new();
    for makes in [
        vec![
            parse("", "PREPARE hidden AS SELECT 1"),
            bind("", &[]),
            execute(),
            sync(),
        ],
        vec![query("SELECT 1; PREPARE hidden AS SELECT 1")],
        vec![query(
            "DO $$ BEGIN EXECUTE 'PREPARE hidden AS SELECT 1'; END $$",
        )],
    ] {
        let mut client = seats.client();
        client.ask(&makes);
        assert!(seats.is_pinned(&mut client));
        assert_eq!(seats.pins(), ["prepared_statement"]);
        assert_eq!(client.value("EXECUTE hidden"), "1");
        client.run("DEALLOCATE hidden");
        assert!(!seats.is_pinned(&mut client));
        client.terminate();
    }
    // Also before it could be asked about.
    let mut client = seats.client();
    client.run("BEGIN");
    client.run("SELECT 1; PREPARE hidden AS SELECT 1");
    client.run("DEALLOCATE ALL");
    assert_eq!(client.error("EXECUTE hidden"), "26000");
    client.run("ROLLBACK");
    assert!(!seats.is_pinned(&mut client));
    // In a Query of its own it is followed.
    client.run("PREPARE seen AS SELECT 1");
    assert!(!seats.is_pinned(&mut client));
}
