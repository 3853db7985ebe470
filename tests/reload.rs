//! A reload changes what it says it changes, for pools that exist already.
#![expect(clippy::unwrap_used, reason = "a test panics")]

mod support;

use std::{process::Command, time::Duration};

use pgweir::sandbox::{Cluster, Waited};
use support::{
    Pgweir, PgweirBuilder, eventually,
    raw::{Raw, query},
    servers::{WHO, await_service, name_servers},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// What `psql` prints: rows, or the error.
fn psql(pgweir: &Pgweir, database: &str, sql: &str) -> String {
    let output = Command::new(support::binaries().client_program("psql").unwrap())
        .args(["-XAtqc", sql])
        .arg(pgweir.url("postgres", database))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).unwrap().trim().to_owned()
}

fn reload(pgweir: &Pgweir, change: impl FnOnce(String) -> String) {
    pgweir.rewrite_config(change);
    let mark = pgweir.log().mark();
    pgweir.signal("HUP");
    let reloaded = pgweir
        .log()
        .wait_for(mark, PATIENCE, |line| line.contains("reloaded"));
    assert!(matches!(reloaded, Waited::Line(_)), "{reloaded:?}");
}

#[test]
fn a_changed_password_is_used_and_connections_of_the_old_one_are_replaced() {
    let cluster = support::start(
        Cluster::builder(support::binaries()).hba("host all all 127.0.0.1/32 scram-sha-256"),
    );
    let primary = cluster.primary();
    primary
        .psql("CREATE ROLE bob LOGIN PASSWORD 'one'")
        .unwrap();
    let port = primary.port();
    let pgweir = PgweirBuilder::without_servers()
        .extra(&format!(
            "[databases.postgres]\nuser = \"bob\"\npassword = \"one\"\n\
             servers = [{{ host = \"127.0.0.1\", port = {port}, role = \"primary\" }}]"
        ))
        .start();
    let backend = || psql(&pgweir, "postgres", "SELECT pg_backend_pid()");
    let first = backend();
    assert_eq!(backend(), first, "one connection serves both");

    primary.psql("ALTER ROLE bob PASSWORD 'two'").unwrap();
    reload(&pgweir, |text| text.replace("\"one\"", "\"two\""));
    let second = backend();
    assert!(second.parse::<u32>().is_ok(), "{second}");
    assert_ne!(second, first, "the connection of the old password serves");
}

#[test]
fn another_server_serves_from_the_next_transaction_on() {
    let (old, new) = (
        support::start(Cluster::builder(support::binaries())),
        support::start(Cluster::builder(support::binaries())),
    );
    let pgweir = Pgweir::builder(&old).start();
    let port = || psql(&pgweir, "postgres", "SHOW port");
    let (old, new) = (old.primary().port(), new.primary().port());
    assert_eq!(port(), old.to_string());
    reload(&pgweir, |text| {
        text.replace(&old.to_string(), &new.to_string())
    });
    assert_eq!(port(), new.to_string());
}

#[test]
fn with_a_lifetime_of_zero_every_connection_serves_once() {
    let pgweir = Pgweir::builder(support::postgres())
        .pool("server_lifetime", "0")
        .start();
    let backend = || psql(&pgweir, "postgres", "SELECT pg_backend_pid()");
    let (first, second) = (backend(), backend());
    assert!(first.parse::<u32>().is_ok(), "{first}");
    assert!(second.parse::<u32>().is_ok(), "{second}");
    assert_ne!(first, second);
}

#[test]
fn a_database_that_is_removed_and_comes_back_is_served_again() {
    let port = support::postgres().primary().port();
    let pgweir = PgweirBuilder::without_servers()
        .extra(&format!(
            "[databases.postgres]\nservers = [{{ host = \"127.0.0.1\", port = {port} }}]"
        ))
        .start();
    let mut old = Raw::connect(pgweir.address(), "postgres");
    assert_eq!(old.value("SELECT 1"), "1");
    reload(&pgweir, |text| {
        text.replace("[databases.postgres]", "[databases.other]")
    });
    assert_eq!(old.answers(), ["E 57P01", "closed"]);
    let gone = psql(&pgweir, "postgres", "SELECT 1");
    assert!(gone.contains("does not exist"), "{gone}");
    reload(&pgweir, |text| {
        text.replace("[databases.other]", "[databases.postgres]")
    });
    assert_eq!(psql(&pgweir, "postgres", "SELECT 2"), "2");
}

#[test]
fn who_waits_for_a_server_that_is_removed_is_served_by_another() {
    let cluster = support::start(Cluster::builder(support::binaries()).replicas(1));
    name_servers(&cluster);
    let pgweir = Pgweir::builder(&cluster).pool_size(1).start();
    await_service(pgweir.address(), "postgres");
    let client = || {
        let mut client = Raw::connect(pgweir.address(), "postgres");
        client.run("SET pgweir.route = 'replica'");
        client
    };
    let (mut busy, mut waiting) = (client(), client());
    busy.run("BEGIN READ ONLY");
    assert_eq!(busy.value(WHO), "replica0");
    waiting.send(&query(WHO));
    eventually("it waits", || {
        let clients = Raw::connect(pgweir.address(), "pgbouncer").rows("SHOW CLIENTS");
        clients.iter().any(|row| row.contains("|waiting|"))
    });
    let replica = cluster.replica(0).port().to_string();
    reload(&pgweir, |text| {
        let lines = text.lines().filter(|line| !line.contains(&replica));
        lines.collect::<Vec<_>>().join("\n")
    });
    assert_eq!(waiting.answers()[1], "D primary");
    // Its transaction is not disturbed.
    assert_eq!(busy.value(WHO), "replica0");
}
