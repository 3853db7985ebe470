//! How long a server stays with its client: session, transaction and statement mode.

mod support;

use std::process::Command;

use support::{
    Pgweir, PgweirBuilder, binaries, eventually, postgres,
    raw::{PROTOCOL_3_0, Raw, bind, copy_done, execute, parse, query, sync},
    seats::database,
};

fn builder(mode: &str, pool_size: usize) -> PgweirBuilder {
    Pgweir::builder(postgres())
        .pgweir("workers", "1")
        .pool_mode(mode)
        .pool_size(pool_size)
}

/// State of every kind, by statements that each succeed.
const LEAVINGS: [&str; 8] = [
    "SET work_mem = '5MB'",
    "SET my.own = 'x'",
    "PREPARE mine AS SELECT 1",
    "CREATE TEMP TABLE mine (a int)",
    "SELECT pg_advisory_lock(4711)",
    "LISTEN mine",
    "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
    "SET ROLE it_mode",
];

/// Everything of it that a session finds.
const FOUND: &str = "SELECT current_setting('work_mem') || '/' || coalesce(current_setting('my.own', true), '') \
    || '/' || (SELECT count(*) FROM pg_prepared_statements) \
    || '/' || (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()) \
    || '/' || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) \
    || '/' || (SELECT count(*) FROM pg_listening_channels()) \
    || '/' || (SELECT count(*) FROM pg_cursors WHERE is_holdable) || '/' || current_user";

const ALL: &str = "5MB/x/1/1/1/1/1/it_mode";
const NOTHING: &str = "4MB//0/0/0/0/0/postgres";

fn role() {
    let create = "DO $$ BEGIN CREATE ROLE it_mode; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$";
    postgres()
        .primary()
        .psql(create)
        .expect("postgres may do this");
}

/// Queries and transactions of the database, as the console counts them.
fn counts(pooler: &Pgweir, database: &str) -> [u64; 2] {
    let rows = Raw::connect(pooler.address(), "pgbouncer").rows("SHOW STATS_TOTALS");
    let row = rows.iter().find(|row| row.starts_with(database));
    let columns: Vec<_> = row.expect("it was used").split('|').collect();
    [3, 2].map(|column: usize| columns[column].parse().expect("a number"))
}

/// A client that keeps its server for hours is not to be missed until it leaves.
#[test]
fn what_is_done_on_a_kept_server_is_counted_as_it_is_done() {
    for mode in ["session", "transaction"] {
        let database = database();
        let pooler = builder(mode, 1).start();
        let mut client = Raw::connect(pooler.address(), &database);
        let [queries, transactions] = counts(&pooler, &database);
        let moved = |by: [u64; 2]| [queries + by[0], transactions + by[1]];
        client.run("BEGIN");
        client.run("SELECT 1");
        assert_eq!(counts(&pooler, &database), moved([2, 0]), "{mode}");
        client.run("COMMIT");
        assert_eq!(counts(&pooler, &database), moved([3, 1]), "{mode}");
        client.run("LISTEN something");
        for _ in 0..3 {
            client.run("SELECT 1");
        }
        assert_eq!(counts(&pooler, &database), moved([7, 5]), "{mode}");
        drop(client);
        eventually("the server is given back", || {
            let mut console = Raw::connect(pooler.address(), "pgbouncer");
            console.rows("SHOW CLIENTS").len() == 1
        });
        assert_eq!(counts(&pooler, &database), moved([7, 5]), "{mode}");
    }
}

#[test]
fn in_session_mode_the_server_is_the_clients_own() {
    role();
    let database = database();
    let pooler = builder("session", 2).start();
    let mut client = Raw::connect(pooler.address(), &database);
    let mut other = Raw::connect(pooler.address(), &database);
    let server = client.pid();
    let others = other.pid();
    assert_ne!(server, others);
    for sql in LEAVINGS {
        client.run(sql);
        assert_eq!((client.pid(), other.pid()), (server, others));
    }
    assert_eq!(client.value(FOUND), ALL);
    assert_eq!(client.value("EXECUTE mine"), "1");
    assert_eq!(other.value(FOUND), NOTHING);
    // A statement of the protocol is there under the client's own name, and nothing is rewritten.
    client.ask(&[parse("by protocol", "SELECT 2"), sync()]);
    assert_eq!(
        client.rows("SELECT name FROM pg_prepared_statements ORDER BY 1"),
        ["by protocol", "mine"]
    );
    client.run("CREATE SEQUENCE pg_temp.s; SELECT nextval('pg_temp.s')");
    assert_eq!(client.value("SELECT lastval()"), "1");
    // A third one waits until somebody leaves, and finds nothing of him.
    let address = pooler.address();
    client.terminate();
    let mut third = Raw::connect(address, &database);
    assert_eq!(third.pid(), server, "its server was not used again");
    assert_eq!(third.value(FOUND), NOTHING);
    // However he leaves.
    third.run("BEGIN");
    for sql in LEAVINGS {
        third.run(sql);
    }
    third.vanish();
    let mut fourth = Raw::connect(address, &database);
    assert_eq!(fourth.pid(), server, "its server was not used again");
    assert_eq!(fourth.value(FOUND), NOTHING);
}

#[test]
fn in_session_mode_the_operator_says_how_a_server_is_reset() {
    let database = database();
    let reset = "RESET work_mem; DEALLOCATE ALL";
    let pooler = builder("session", 1)
        .pool("server_reset_query", &format!("\"{reset}\""))
        .start();
    let mut client = Raw::connect(pooler.address(), &database);
    let server = client.pid();
    for sql in &LEAVINGS[..4] {
        client.run(sql);
    }
    client.terminate();
    let mut next = Raw::connect(pooler.address(), &database);
    assert_eq!(next.pid(), server);
    assert_eq!(next.value(FOUND), "4MB/x/0/1/0/0/0/postgres");
}

#[test]
fn in_transaction_mode_everything_that_is_left_is_cleaned_whatever_the_reset_query() {
    role();
    let database = database();
    let pooler = builder("transaction", 1)
        .pool("server_reset_query", "\"\"")
        .start();
    let address = pooler.address();
    let mut client = Raw::connect(address, &database);
    let server = client.pid();
    for sql in LEAVINGS {
        client.run(sql);
    }
    assert_eq!(client.value(FOUND), ALL);
    client.vanish();
    let mut next = Raw::connect(address, &database);
    assert_eq!(next.pid(), server, "its server was not used again");
    let found = next.value(FOUND);
    // The statement is ours and harmless; it is kept for whoever prepares the same.
    assert_eq!(found.replacen("/1/", "/0/", 1), NOTHING, "{found}");
}

#[test]
fn the_reset_query_runs_after_each_transaction_where_it_always_shall() {
    for (mode, always, count) in [
        ("transaction", true, "3"),
        ("statement", true, "3"),
        ("transaction", false, "0"),
    ] {
        let database = database();
        let direct = |sql: &str| postgres().primary().psql_in(&database, sql);
        direct("CREATE TABLE resets (a int)").expect("postgres may do this");
        let pooler = builder(mode, 1)
            .pool("server_reset_query", "\"INSERT INTO resets VALUES (1)\"")
            .pool("server_reset_query_always", &always.to_string())
            .start();
        let mut client = Raw::connect(pooler.address(), &database);
        let server = client.pid();
        client.run("BEGIN; SELECT 1; COMMIT");
        assert_eq!(client.pid(), server, "its server was not used again");
        let resets = || direct("SELECT count(*) FROM resets").expect("it is there");
        eventually("the server is reset", || resets() == count);
        client.terminate();
        assert_eq!(resets(), count, "{mode} {always}");
    }
}

#[test]
fn what_is_tracked_outlives_the_reset_query() {
    for reset in ["DISCARD ALL", "RESET ALL", "SELECT 1"] {
        let database = database();
        let pooler = builder("transaction", 1)
            .pool("server_reset_query", &format!("\"{reset}\""))
            .pool("server_reset_query_always", "true")
            .start();
        let mut one = Raw::connect(pooler.address(), &database);
        let mut two = Raw::connect(pooler.address(), &database);
        let server = one.pid();
        one.run("SET work_mem = '5MB'");
        one.ask(&[parse("by protocol", "SHOW work_mem"), sync()]);
        two.run("PREPARE mine AS SELECT 2");
        for _ in 0..2 {
            assert_eq!(two.value("SHOW work_mem"), "4MB", "{reset}");
            assert_eq!(two.value("EXECUTE mine"), "2", "{reset}");
            assert_eq!(one.value("SHOW work_mem"), "5MB", "{reset}");
            let answers = one.ask(&[bind("by protocol", &[]), execute(), sync()]);
            assert_eq!(answers, ["2", "D 5MB", "C SHOW", "Z I"], "{reset}");
        }
        assert_eq!(one.pid(), server, "{reset}");
    }
}

#[test]
fn a_server_whose_reset_fails_is_not_used_again() {
    let database = database();
    let pooler = builder("transaction", 1)
        .pool("server_reset_query", "\"SELECT 1/0\"")
        .pool("server_reset_query_always", "true")
        .start();
    let mut client = Raw::connect(pooler.address(), &database);
    assert_ne!(client.pid(), client.pid());
}

#[test]
fn in_transaction_mode_a_server_is_shared_between_transactions() {
    let database = database();
    let pooler = builder("transaction", 1).start();
    let mut clients: Vec<_> = (0..20)
        .map(|_| Raw::connect(pooler.address(), &database))
        .collect();
    let server = clients[0].pid();
    for client in &mut clients {
        assert_eq!(client.pid(), server);
    }
    // Whoever is in a transaction has it until the end; the others wait for their turn.
    clients[0].run("BEGIN");
    for client in &mut clients[1..] {
        client.send(&query("SELECT 'served'"));
    }
    assert_eq!(clients[0].pid(), server);
    assert_eq!(clients[0].query("SELECT 1/0"), ["E 22012", "Z E"]);
    assert_eq!(clients[0].error("SELECT 1"), "25P02");
    clients[0].run("ROLLBACK");
    for client in &mut clients[1..] {
        assert_eq!(client.answers()[1], "D served");
    }
}

#[test]
fn in_statement_mode_a_transaction_block_is_refused() {
    let database = database();
    let pooler = builder("statement", 1).start();
    let address = pooler.address();
    let connect = || Raw::connect(address, &database);
    let mut client = connect();
    client.run("CREATE TABLE t (a int)");
    client.run("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)");
    client.run("SET work_mem = '5MB'");
    assert_eq!(connect().value("SHOW work_mem"), "4MB");
    assert_eq!(client.value("SHOW work_mem"), "5MB");
    client.ask(&[parse("s", "SELECT count(*) FROM t"), sync()]);
    let answers = client.ask(&[bind("s", &[]), execute(), sync()]);
    assert_eq!(answers, ["2", "D 2", "C SELECT 1", "Z I"]);
    for messages in [
        vec![query("BEGIN")],
        vec![query("START TRANSACTION READ ONLY")],
        vec![query("SELECT 1; BEGIN; INSERT INTO t VALUES (3)")],
        vec![parse("", "BEGIN"), bind("", &[]), execute(), sync()],
        vec![query("BEGIN"), query("INSERT INTO t VALUES (4)")],
    ] {
        let mut client = connect();
        client.send(&messages.concat());
        let mut answers = Vec::new();
        while answers.last().is_none_or(|answer| answer != "closed") {
            answers.push(client.answer());
        }
        assert!(
            answers.ends_with(&["E 0A000".to_owned(), "closed".to_owned()]),
            "{answers:?}"
        );
        assert!(
            client.last_error.contains("pool_mode"),
            "{}",
            client.last_error
        );
        // Nothing of it has happened, and the others go on.
        assert_eq!(connect().value("SELECT count(*) FROM t"), "2");
    }
    // A block that ends in the string that begins it is a statement like any other.
    connect().run("BEGIN; INSERT INTO t VALUES (5); COMMIT");
    assert_eq!(connect().value("SELECT count(*) FROM t"), "3");
}

#[test]
fn a_server_that_is_replaced_is_left_at_once_where_that_is_wanted() {
    let port = postgres().primary().port();
    let database = |name: &str, mode: &str, fast: bool| {
        format!(
            "[databases.{name}]\nservers = [{{ host = \"127.0.0.1\", port = {port} }}]\ndbname = \"postgres\"\n\
             pool_mode = \"{mode}\"\nserver_fast_close = {fast}\n"
        )
    };
    let pooler = PgweirBuilder::without_servers()
        .extra(&database("fast", "session", true))
        .extra(&database("slow", "session", false))
        .extra(&database("shared", "transaction", true))
        .start();
    let connect = |database: &str| Raw::connect(pooler.address(), database);
    let [mut idle, mut inside, mut slow] = ["fast", "fast", "slow"].map(connect);
    let [mut pinned, mut shared] = ["shared", "shared"].map(connect);
    inside.run("BEGIN");
    pinned.run("LISTEN it");
    let before = [&mut idle, &mut inside, &mut slow].map(Raw::pid);
    shared.run("SELECT 1");
    connect("pgbouncer").run("RECONNECT");
    for client in [&mut idle, &mut pinned] {
        assert_eq!(client.answers(), ["E 57P01", "closed"]);
        assert!(
            client.last_error.contains("server_fast_close"),
            "{}",
            client.last_error
        );
    }
    // A transaction goes on to its end.
    assert_eq!(inside.pid(), before[1]);
    assert_eq!(inside.query("COMMIT"), ["C COMMIT", "Z I"]);
    assert_eq!(inside.answers(), ["E 57P01", "closed"]);
    // Who keeps no server, or is not to be disturbed, notices nothing.
    assert_eq!(shared.value("SELECT 2"), "2");
    assert_eq!(slow.pid(), before[2]);
    let mut next = connect("fast");
    assert!(!before.contains(&next.pid()), "a new server");
    assert_eq!(next.pid(), next.pid(), "which is kept");
    slow.terminate();
    connect("pgbouncer").run("WAIT_CLOSE");
}

#[test]
fn replication_connections_have_a_server_of_their_own() {
    let pooler = builder("session", 1).start();
    let system = "SELECT system_identifier FROM pg_control_system()";
    let system = postgres()
        .primary()
        .psql(system)
        .expect("postgres may do this");
    let psql = binaries().client_program("psql").expect("psql is there");
    let output = Command::new(psql)
        .args(["-XAtc", "IDENTIFY_SYSTEM"])
        .arg(format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres replication=database",
            pooler.port()
        ))
        .output()
        .expect("psql runs");
    let told = String::from_utf8(output.stdout.clone()).expect("ASCII");
    assert!(told.starts_with(&format!("{system}|")), "{told} {output:?}");
    // More of them than the pool has servers, beside ordinary clients.
    let connect = || {
        let parameters = [("replication", "database")];
        Raw::try_connect(pooler.address(), PROTOCOL_3_0, "postgres", &parameters)
            .expect("everybody is trusted")
    };
    let mut streams = [connect(), connect()];
    let mut client = Raw::connect(pooler.address(), "postgres");
    assert_eq!(client.value("SELECT 1"), "1");
    for stream in &mut streams {
        let identity = stream.rows("IDENTIFY_SYSTEM").concat();
        let position = identity.split('|').nth(2).expect("a position").to_owned();
        stream.send(&query(&format!("START_REPLICATION {position}")));
        assert_eq!(stream.answer(), "W");
        // WAL or a keepalive, whichever comes first.
        postgres()
            .primary()
            .psql("SELECT pg_logical_emit_message(true, 'it', 'x')")
            .expect("postgres may do this");
        let (kind, body) = stream.next().expect("WAL is streamed");
        assert!(
            kind == b'd' && [b'w', b'k'].contains(&body[0]),
            "{kind} {body:?}"
        );
        stream.send(&copy_done());
        let mut answers = Vec::new();
        eventually("the stream ends", || {
            let answer = stream.answer();
            answers.push(answer.clone());
            answer.starts_with('Z')
        });
        assert!(answers.contains(&"c".to_owned()), "{answers:?}");
    }
    let count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'";
    assert_eq!(client.value(count), "2");
    let mut console = Raw::connect(pooler.address(), "pgbouncer");
    let ids = |console: &mut Raw| -> Vec<String> {
        let clients = console.rows("SHOW CLIENTS");
        let replicating = clients
            .iter()
            .filter(|row| row.contains("|logical|active|"));
        let id = |row: &String| row.rsplit('|').next().expect("a row").to_owned();
        replicating.map(id).collect()
    };
    let [first, second] = &mut streams;
    first.send(&query("SELECT pg_sleep(600)"));
    first.cancel();
    assert!(first.answers().contains(&"E 57014".to_owned()));
    let shown = ids(&mut console);
    assert_eq!(shown.len(), 2, "{shown:?}");
    for id in shown {
        console.run(&format!("KILL_CLIENT {id}"));
    }
    assert_eq!(first.next(), None);
    assert_eq!(second.next(), None);
    assert!(ids(&mut console).is_empty());
    eventually("their servers are closed", || client.value(count) == "0");
}
