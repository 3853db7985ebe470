//! Servers die, come back, take over; clients go on.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use ::pgweir::sandbox::{Node, StopMode};

use crate::{
    stage::{console, database, own, pooler, pooler_by_observation},
    support::{
        eventually,
        raw::{Raw, bind, execute, parse, query, sync},
        servers::{WHO, await_writes},
    },
};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY);
                     INSERT INTO t SELECT generate_series(1, 1000)";

/// Reads by one client in one way until told to stop, each of which must succeed.
fn read_until(over: &AtomicBool, mut raw: Raw, number: usize, count: &[AtomicUsize; 2]) {
    let sql = format!("{WHO}, id FROM t WHERE id = 7");
    if number % 3 == 2 {
        raw.ask(&[parse("p", &sql), sync()]);
    }
    while !over.load(Ordering::SeqCst) {
        let unit = match number % 3 {
            0 => vec![query(&sql)],
            1 => vec![parse("", &sql), bind("", &[]), execute(), sync()],
            _ => vec![bind("p", &[]), execute(), sync()],
        };
        let answers = raw.ask(&unit);
        let row = answers.iter().find_map(|it| it.strip_prefix("D "));
        let row = row.unwrap_or_else(|| panic!("{answers:?} {}", raw.last_error));
        let (server, found) = row.split_once('|').unwrap();
        assert_eq!(found, "7");
        count[usize::from(server == "primary")].fetch_add(1, Ordering::SeqCst);
    }
}

/// Ends what waits for it, also when the test has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_replica_is_killed_and_no_reader_hears_of_it() {
    const CLIENTS: usize = 32;
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| it);
    let over = AtomicBool::new(false);
    let count = [const { AtomicUsize::new(0) }; 2];
    let total = |of: usize| count[of].load(Ordering::SeqCst);
    thread::scope(|scope| {
        let ends = Over(&over);
        for number in 0..CLIENTS {
            let raw = Raw::connect(pooler.address(), &name);
            let (over, count) = (&over, &count);
            scope.spawn(move || read_until(over, raw, number, count));
        }
        let await_more = |of: usize| {
            let before = total(of);
            eventually("more reads", || {
                assert!(!over.load(Ordering::SeqCst), "a reader has failed");
                total(of) > before + 500
            });
        };
        await_more(0);
        for index in [0, 1, 0, 1] {
            cluster.replica(index).kill9().unwrap();
            await_more(0);
            cluster.replica(index).start().unwrap();
            await_more(0);
        }
        // All replicas gone: the primary serves.
        for replica in cluster.replicas() {
            replica.kill9().unwrap();
        }
        await_more(1);
        for replica in cluster.replicas() {
            replica.start().unwrap();
        }
        await_more(0);
        drop(ends);
    });
    println!(
        "{} reads on replicas, {} on the primary",
        total(0),
        total(1)
    );
    println!("{:#?}", console(&pooler, "SHOW ROUTES"));
}

/// What nobody has begun waits for a primary, as long as it is allowed to.
#[test]
fn writes_wait_for_the_new_primary_and_none_goes_to_the_old_one() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler_by_observation(&cluster, &name, |it| it);
    let [mut first, mut second] = [(); 2].map(|()| Raw::connect(pooler.address(), &name));
    first.run("INSERT INTO t VALUES (1001)");
    let old = cluster.primary();
    old.stop(StopMode::Fast).unwrap();
    let (new, other) = (cluster.replica(0), cluster.replica(1));
    thread::scope(|scope| {
        let write = scope.spawn(|| first.query("INSERT INTO t VALUES (1002)"));
        // Reads go on. This session has written nothing.
        for _ in 0..50 {
            assert_ne!(second.value(WHO), "primary");
        }
        new.promote().unwrap();
        assert_eq!(write.join().unwrap(), ["C INSERT 0 1", "Z I"]);
    });
    assert_eq!(
        first.value(&format!("{WHO}, count(*) FROM t")),
        "replica0|1002"
    );
    other.follow(new).unwrap();

    // The old one comes back as if nothing had happened, and takes writes for all it knows.
    old.start().unwrap();
    eventually("it is seen to be fenced", || {
        let replicas = console(&pooler, "SHOW REPLICAS");
        replicas.iter().any(|line| line.contains("fenced"))
    });
    for id in 1003..1053 {
        let mut raw = Raw::connect(pooler.address(), &name);
        raw.run(&format!("INSERT INTO t VALUES ({id})"));
        let seen = raw.value(&format!("{WHO}, count(*) FROM t"));
        assert!(
            seen.ends_with(&format!("|{id}")) && !seen.starts_with("primary"),
            "{seen}"
        );
    }
    let count = |node: &Node| {
        let sql = "SELECT count(*) FROM t";
        node.psql_in(&name, sql).unwrap()
    };
    assert_eq!(
        (count(old), count(new)),
        ("1001".to_owned(), "1052".to_owned())
    );
}

/// A primary that is configured as such and restarts: what was not begun waits, and is done.
#[test]
fn a_restart_of_the_primary_costs_no_statement_that_was_not_begun() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| it);
    for round in 0..3 {
        cluster.primary().stop(StopMode::Fast).unwrap();
        thread::scope(|scope| {
            let mut raw = Raw::connect(pooler.address(), &name);
            let id = 2000 + round;
            let write = format!("INSERT INTO t VALUES ({id})");
            let write = scope.spawn(move || (raw.query(&write), raw));
            let mut reader = Raw::connect(pooler.address(), &name);
            for _ in 0..20 {
                assert_ne!(reader.value(WHO), "primary");
            }
            cluster.primary().start().unwrap();
            let (answers, mut raw) = write.join().unwrap();
            assert_eq!(answers, ["C INSERT 0 1", "Z I"], "{}", raw.last_error);
            assert_eq!(
                raw.value(&format!("SELECT count(*) FROM t WHERE id = {id}")),
                "1"
            );
        });
        await_writes(pooler.address(), &name);
    }
}

/// A client that is in the queue of the primary when another one takes over: the old one still takes
/// writes for all it knows, and must not get any.
#[test]
fn who_waits_for_a_primary_that_is_replaced_goes_to_the_new_one() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler_by_observation(&cluster, &name, |it| it.pool_size(1));
    let [mut holder, mut patient] = [(); 2].map(|()| Raw::connect(pooler.address(), &name));
    holder.run("BEGIN; INSERT INTO t VALUES (1001)");
    patient.send(&query("INSERT INTO t VALUES (1002)"));
    eventually("a client is in the queue", || {
        let clients = console(&pooler, "SHOW CLIENTS");
        clients.iter().any(|line| line.contains("|waiting|"))
    });
    let (old, new) = (cluster.primary(), cluster.replica(0));
    new.promote().unwrap();
    // Nobody gives the old one's connection back, and nobody has to.
    assert_eq!(patient.answers(), ["C INSERT 0 1", "Z I"]);
    let find = |node: &Node| {
        let sql = "SELECT string_agg(id::text, ' ') FROM t WHERE id > 1000";
        node.psql_in(&name, sql).unwrap()
    };
    assert_eq!((find(old), find(new)), (String::new(), "1002".to_owned()));
}

/// A client that keeps a server: in a transaction, or for something that lives in the server's session.
#[test]
fn who_keeps_a_primary_that_is_replaced_writes_nothing_to_it_any_more() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler_by_observation(&cluster, &name, |it| it);
    let [mut begun, mut pinned] = [(); 2].map(|()| Raw::connect(pooler.address(), &name));
    begun.run("BEGIN; INSERT INTO t VALUES (1001)");
    pinned.run("LISTEN something");
    let (old, new) = (cluster.primary(), cluster.replica(0));
    new.promote().unwrap();
    for client in [&mut begun, &mut pinned] {
        assert_eq!(client.answers(), ["E 57P01", "closed"]);
    }
    let mut other = Raw::connect(pooler.address(), &name);
    other.run("INSERT INTO t VALUES (1002)");
    let count = |node: &Node| node.psql_in(&name, "SELECT count(*) FROM t").unwrap();
    assert_eq!((count(old), count(new)), ("1000".into(), "1001".into()));
}

/// The same where all wait, as an operator has it who moves the primary between PAUSE and RESUME.
#[test]
fn who_waits_in_a_pause_writes_to_the_primary_that_is_there_then() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler_by_observation(&cluster, &name, |it| it);
    let mut clients = [(); 4].map(|()| Raw::connect(pooler.address(), &name));
    console(&pooler, "PAUSE");
    for (id, client) in (1001..).zip(&mut clients) {
        client.send(&query(&format!("INSERT INTO t VALUES ({id})")));
    }
    eventually("all are in the queue", || {
        let clients = console(&pooler, "SHOW CLIENTS");
        let waiting = clients.iter().filter(|line| line.contains("|waiting|"));
        waiting.count() == 4
    });
    cluster.replica(0).promote().unwrap();
    eventually("the old one is seen to be fenced", || {
        let replicas = console(&pooler, "SHOW REPLICAS");
        replicas.iter().any(|line| line.contains("fenced"))
    });
    console(&pooler, "RESUME");
    for client in &mut clients {
        assert_eq!(client.answers(), ["C INSERT 0 1", "Z I"]);
    }
    let count = |node: &Node| node.psql_in(&name, "SELECT count(*) FROM t").unwrap();
    assert_eq!(count(cluster.primary()), "1000");
    assert_eq!(count(cluster.replica(0)), "1004");
}
