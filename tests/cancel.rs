//! Cancelling, and clients that go away: whoever is meant is cancelled, nobody else ever, and what a client
//! leaves behind is ended on the server.

#![expect(clippy::panic, reason = "a test stops at what it did not expect")]

mod support;

use std::thread;

use support::{
    Pgweir, eventually, postgres,
    raw::{PROTOCOL_3_0, PROTOCOL_3_2, Raw, bind, cancel, copy_data, execute, parse, query, sync},
    seats::database,
};

/// A pooler with one server, and its database.
struct Single {
    pooler: Pgweir,
    database: String,
}

impl Single {
    fn new() -> Self {
        Self::with(1)
    }

    fn with(pool_size: usize) -> Self {
        Self {
            pooler: Pgweir::builder(postgres())
                .pgweir("workers", "1")
                .pool_size(pool_size)
                // Nothing here is to be ended by a lack of patience.
                .pool("server_recovery_timeout", "\"600s\"")
                .start(),
            database: database(),
        }
    }

    fn client(&self) -> Raw {
        Raw::connect(self.pooler.address(), &self.database)
    }

    /// Waits until the condition on `pg_stat_activity` of this database holds for as many servers.
    fn wait_activity(&self, condition: &str, count: usize) {
        let condition = format!(
            "(SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' \
              AND backend_type = 'client backend' AND {condition}) = {count}",
            self.database
        );
        let primary = postgres().primary();
        let outcome = primary.wait_until(&condition);
        outcome.unwrap_or_else(|error| panic!("{condition}: {error}"));
    }

    fn wait_running(&self, what: &str) {
        self.wait_activity(&format!("state = 'active' AND query LIKE '%{what}%'"), 1);
    }

    /// Waits until so many clients are in the queue.
    fn wait_queue(&self, count: usize) {
        let mut console = Raw::connect(self.pooler.address(), "pgbouncer");
        eventually("a client is in the queue", || {
            let clients = console.rows("SHOW CLIENTS");
            let waiting = clients.iter().filter(|row| row.contains("|waiting|"));
            waiting.count() == count
        });
    }

    fn direct(&self, sql: &str) -> String {
        let outcome = postgres().primary().psql_in(&self.database, sql);
        outcome.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}

#[test]
fn a_running_query_is_cancelled_and_the_session_goes_on() {
    let single = Single::new();
    let mut client = single.client();
    let server = client.pid();
    let sleep = "SELECT pg_sleep(600)";
    for messages in [
        vec![query(sleep)],
        vec![parse("", sleep), bind("", &[]), execute(), sync()],
        vec![parse("s", sleep), bind("s", &[]), execute(), sync()],
        vec![query("SELECT count(*) FROM generate_series(1, 1000000000)")],
    ] {
        client.send(&messages.concat());
        single.wait_activity("state = 'active'", 1);
        client.cancel();
        let answers = client.answers();
        let end = &answers[answers.len() - 2..];
        assert_eq!(end, ["E 57014", "Z I"], "{answers:?}");
        assert_eq!(client.pid(), server);
    }
    client.run("BEGIN");
    client.send(&query(sleep));
    single.wait_running("pg_sleep");
    client.cancel();
    assert_eq!(client.answers()[1..], ["E 57014", "Z E"]);
    assert_eq!(client.query("COMMIT"), ["C ROLLBACK", "Z I"]);
}

#[test]
fn a_client_in_the_queue_is_cancelled_where_it_is() {
    let single = Single::new();
    let mut holder = single.client();
    holder.run("BEGIN");
    let mut client = single.client();
    for messages in [
        vec![query("SELECT 1")],
        vec![parse("", "SELECT 1"), bind("", &[]), execute(), sync()],
    ] {
        client.send(&messages.concat());
        single.wait_queue(1);
        client.cancel();
        assert_eq!(
            client.answers(),
            ["E 57014", "Z I"],
            "{}",
            client.last_error
        );
    }
    // Only the first of two is meant.
    client.send(&[query("SELECT 1"), query("SELECT 2")].concat());
    single.wait_queue(1);
    client.cancel();
    assert_eq!(client.answers(), ["E 57014", "Z I"]);
    single.wait_queue(1);
    holder.run("COMMIT");
    assert_eq!(client.answers(), ["T ?column?", "D 2", "C SELECT 1", "Z I"]);
    assert_eq!(holder.value("SELECT 3"), "3");
}

#[test]
fn a_key_that_is_not_right_cancels_nothing() {
    let single = Single::new();
    for protocol in [PROTOCOL_3_0, PROTOCOL_3_2] {
        let address = single.pooler.address();
        let connect = || Raw::try_connect(address, protocol, &single.database, &[]);
        let mut client = connect().expect("everybody is trusted");
        let other = connect().expect("everybody is trusted");
        assert_eq!(client.key.len() > 8, protocol == PROTOCOL_3_2);
        client.send(&query("SELECT pg_sleep(600)"));
        single.wait_running("pg_sleep");
        let mut wrong = Vec::new();
        for byte in 0..client.key.len() {
            let mut key = client.key.clone();
            key[byte] ^= 0x10;
            wrong.push(key);
        }
        // The server's own process number, another client's key, too short, too long.
        let backend =
            single.direct("SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'");
        let backend: i32 = backend.parse().expect("one process");
        wrong.push([&backend.to_be_bytes(), &client.key[4..]].concat());
        wrong.push(other.key.clone());
        wrong.push(client.key[..client.key.len() - 1].to_vec());
        if protocol == PROTOCOL_3_2 {
            // What would be the whole of it in protocol 3.0.
            wrong.push(client.key[..8].to_vec());
        }
        wrong.push([&client.key[..], &[0]].concat());
        wrong.push(Vec::new());
        for key in wrong {
            cancel(address, &key);
        }
        single.wait_running("pg_sleep");
        client.cancel();
        assert_eq!(client.answers()[1..], ["E 57014", "Z I"]);
        client.terminate();
        other.terminate();
    }
}

#[test]
fn a_late_cancel_hits_nobody() {
    let single = Single::new();
    let mut client = single.client();
    let mut next = single.client();
    assert_eq!(client.pid(), next.pid());
    for _ in 0..50 {
        client.cancel();
        assert_eq!(client.value("SELECT 1"), "1");
        client.cancel();
        assert_eq!(next.value("SELECT 2 FROM pg_sleep(0.001)"), "2");
    }
}

#[test]
fn a_cancel_never_hits_the_next_client_of_the_server() {
    let single = Single::new();
    let address = single.pooler.address();
    let mut client = single.client();
    let mut next = single.client();
    let mut cancelled = 0;
    for round in 0..300 {
        let key = client.key.clone();
        // Short enough to end about when the request arrives.
        let length = f64::from(round % 30) / 20_000.0;
        client.send(&query(&format!("SELECT 1 FROM pg_sleep({length})")));
        let canceller = thread::spawn(move || cancel(address, &key));
        next.send(&query("SELECT 2 FROM pg_sleep(0.002)"));
        let own = client.answers();
        cancelled += usize::from(own.contains(&"E 57014".to_owned()));
        assert!(own.last().is_some_and(|answer| answer == "Z I"), "{own:?}");
        assert_eq!(
            next.answers(),
            ["T ?column?", "D 2", "C SELECT 1", "Z I"],
            "round {round}: {}",
            next.last_error
        );
        canceller.join().expect("it does not fail");
    }
    assert!(
        cancelled > 0,
        "no cancel request ever came in time: the test shows nothing"
    );
}

/// PostgreSQL closes the connection of the request when the signal is sent; whoever waits for that may go on.
#[test]
fn a_cancel_that_was_waited_for_never_hits_the_next_query() {
    let single = Single::new();
    let address = single.pooler.address();
    let mut client = single.client();
    // It keeps its server, so that the next query runs where the request goes to.
    client.run("LISTEN kept");
    let mut cancelled = 0;
    for round in 0..300 {
        let key = client.key.clone();
        let length = f64::from(round % 30) / 20_000.0;
        client.send(&query(&format!("SELECT 1 FROM pg_sleep({length})")));
        let canceller = thread::spawn(move || cancel(address, &key));
        let own = client.answers();
        cancelled += usize::from(own.contains(&"E 57014".to_owned()));
        canceller.join().expect("it does not fail");
        let next = client.query("SELECT 2 FROM pg_sleep(0.002)");
        assert_eq!(
            next,
            ["T ?column?", "D 2", "C SELECT 1", "Z I"],
            "round {round}"
        );
    }
    assert!(
        (1..300).contains(&cancelled),
        "{cancelled} of 300 came in time: the test shows nothing"
    );
}

#[test]
fn the_query_of_a_client_that_has_gone_is_cancelled_and_its_server_used_again() {
    let single = Single::new();
    let mut next = single.client();
    let server = next.pid();
    for messages in [
        vec![query("SELECT pg_sleep(600)")],
        vec![
            parse("", "SELECT pg_sleep(600)"),
            bind("", &[]),
            execute(),
            sync(),
        ],
        // Without a Sync.
        vec![
            parse("", "SELECT pg_sleep(600)"),
            bind("", &[]),
            execute(),
            support::raw::flush(),
        ],
        vec![query("BEGIN"), query("SELECT pg_sleep(600)")],
        vec![
            query("SELECT 1"),
            query("SELECT pg_sleep(600)"),
            query("SELECT pg_sleep(601)"),
        ],
    ] {
        let mut client = single.client();
        client.send(&messages.concat());
        single.wait_running("pg_sleep");
        client.vanish();
        single.wait_activity("state = 'active'", 0);
        assert_eq!(next.pid(), server, "its server was not used again");
        assert_eq!(next.value("SELECT 5"), "5");
    }
}

#[test]
fn a_transaction_that_nobody_ends_is_rolled_back() {
    let single = Single::new();
    single.direct("CREATE TABLE t (a int)");
    let mut next = single.client();
    let server = next.pid();
    let head: &[u8] = &query("SELECT 1")[..9];
    for rest in [
        Vec::new(),
        query("INSERT INTO nowhere VALUES (1)"),
        head.to_vec(),
    ] {
        let mut client = single.client();
        client.run("BEGIN");
        client.run("LOCK TABLE t");
        client.run("INSERT INTO t VALUES (1)");
        client.run("SET work_mem = '5MB'");
        client.send(&rest);
        client.vanish();
        // It takes the server, and needs the lock.
        next.run("INSERT INTO t VALUES (2)");
        assert_eq!(next.pid(), server);
        assert_eq!(next.value("SHOW work_mem"), "4MB");
    }
    assert_eq!(single.direct("SELECT DISTINCT a FROM t"), "2");
}

#[test]
fn a_copy_that_nobody_ends_is_ended() {
    let single = Single::new();
    single.direct("CREATE TABLE t (a text)");
    let mut next = single.client();
    let server = next.pid();
    let lines = copy_data("line\n".repeat(1000).as_bytes());
    let copy_in = [
        parse("", "COPY t FROM STDIN"),
        bind("", &[]),
        execute(),
        sync(),
    ]
    .concat();
    for begins in [query("COPY t FROM STDIN"), copy_in] {
        // In the middle of the data, behind a whole message of it.
        let mut client = single.client();
        client.send(&begins);
        let answer = client.answer();
        assert!(["G", "1"].contains(&&*answer), "{answer}");
        client.send(&lines);
        client.vanish();
        assert_eq!(next.pid(), server);
    }
    // In the middle of a message: what the server has got cannot be completed.
    let mut client = single.client();
    client.send(&query("COPY t FROM STDIN"));
    assert_eq!(client.answer(), "G");
    client.send(&lines[..500]);
    client.vanish();
    let server = next.pid();
    // Out: more than fits between the server and a client that does not read.
    for count in [1_000_000, 3_000_000] {
        let mut client = single.client();
        client.send(&query(&format!(
            "COPY (SELECT repeat('x', 1000) FROM generate_series(1, {count})) TO STDOUT"
        )));
        assert_eq!(client.answer(), "H");
        assert!(client.answer().starts_with("d xxx"));
        client.vanish();
        assert_eq!(next.pid(), server, "its server was not used again");
    }
    assert_eq!(single.direct("SELECT count(*) FROM t"), "0");
    single.wait_activity("state <> 'idle'", 0);
}

#[test]
fn a_request_that_comes_to_a_peer_is_passed_on() {
    let builder = |peer_id| Pgweir::builder(postgres()).pgweir("peer_id", peer_id);
    let own = builder("7").start();
    let port = own.port();
    let to_own =
        format!("[peers.7]\nhost = \"127.0.0.1\"\nport = {port}\n[peers.8]\nhost = \"::1\"");
    let other = builder("16383").extra(&to_own).start();
    for protocol in [PROTOCOL_3_0, PROTOCOL_3_2] {
        let mut client = Raw::try_connect(own.address(), protocol, "postgres", &[])
            .unwrap_or_else(|refused| panic!("cannot log in: {refused}"));
        client.send(&query("SELECT pg_sleep(600)"));
        let key = client.key.clone();
        // Not by who does not know the secret.
        let mut wrong = key.clone();
        wrong[4] ^= 1;
        cancel(other.address(), &wrong);
        eventually("it is cancelled", || {
            cancel(other.address(), &key);
            let mut console = Raw::connect(own.address(), "pgbouncer");
            let clients = console.rows("SHOW CLIENTS");
            clients
                .iter()
                .any(|row| row.contains("|postgres|none|idle|"))
        });
        assert_eq!(client.answers()[1..], ["E 57014", "Z I"]);
        assert_eq!(client.value("SELECT 1"), "1");
        client.terminate();
        eventually("it has left", || {
            let mut console = Raw::connect(own.address(), "pgbouncer");
            console.rows("SHOW CLIENTS").len() == 1
        });
    }
}
