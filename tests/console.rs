//! The console of a running pooler, through psql and a driver.

#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a test panics, and its clients' tasks end with it"
)]

mod support;

use std::process::{Command, Output, Stdio};

use support::{Pgweir, eventually, postgres};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, types::Type};

fn pooler() -> Pgweir {
    Pgweir::builder(postgres())
        .pool_size(2)
        .pgweir("stats_users", "[\"monitor\"]")
        .start()
}

fn psql_command(pooler: &Pgweir, user: &str, database: &str) -> Command {
    let mut command = Command::new(
        support::binaries()
            .client_program("psql")
            .expect("psql is installed"),
    );
    command
        .args([
            "-X",
            "-A",
            "-t",
            "-w",
            "-h",
            "127.0.0.1",
            "-U",
            user,
            "-d",
            database,
        ])
        .arg("-p")
        .arg(pooler.port().to_string())
        .stdin(Stdio::null());
    command
}

fn psql(pooler: &Pgweir, user: &str, text: &str) -> Output {
    let output = psql_command(pooler, user, "pgbouncer")
        .args(["-c", text])
        .output();
    output.expect("psql was found")
}

/// What psql prints, which must succeed.
fn console(pooler: &Pgweir, text: &str) -> String {
    let output = psql(pooler, "alice", text);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{text}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The row of the pool of `postgres` in SHOW POOLS.
fn pool_of_postgres(pooler: &Pgweir) -> String {
    let pools = console(pooler, "SHOW POOLS");
    let row = pools
        .lines()
        .find(|line| line.starts_with("postgres|postgres|"));
    row.unwrap_or_else(|| panic!("no such pool: {pools}"))
        .to_owned()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

async fn connect(pooler: &Pgweir, user: &str, database: &str) -> Client {
    let url = pooler.url(user, database);
    let (client, connection) = tokio_postgres::connect(&url, NoTls)
        .await
        .expect("it lets us in");
    tokio::task::spawn(connection);
    client
}

/// The fields of the first row of a simple query.
async fn fields(client: &Client, text: &str) -> Vec<String> {
    let messages = client.simple_query(text).await.expect(text);
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.unwrap_or_else(|| panic!("{text}: no row"));
    let fields = (0..row.len()).map(|at| row.get(at).unwrap_or("-").to_owned());
    fields.collect()
}

#[test]
fn psql_shows_what_a_client_does() {
    let pooler = pooler();
    runtime().block_on(async {
        let client = connect(&pooler, "postgres", "postgres").await;
        client
            .batch_execute("begin; select 1")
            .await
            .expect("it runs");
        assert_eq!(
            pool_of_postgres(&pooler),
            "postgres|postgres|1|0|0|0|1|0|0|0|0|0|0|0|0|transaction|"
        );
        let servers = console(&pooler, "SHOW SERVERS");
        let server: Vec<_> = servers.trim().split('|').collect();
        assert_eq!(
            server[..6].join("|"),
            "S|postgres|postgres|none|active|127.0.0.1"
        );
        let clients = console(&pooler, "SHOW CLIENTS");
        let shown: Vec<_> = clients
            .lines()
            .next()
            .expect("a client")
            .split('|')
            .collect();
        assert_eq!(
            shown[..6].join("|"),
            "C|postgres|postgres|none|active|127.0.0.1"
        );
        assert_eq!(
            (server[14], server[15]),
            (shown[15], shown[14]),
            "linked both ways"
        );
        client.batch_execute("commit").await.expect("it runs");
        let pools = pool_of_postgres(&pooler);
        assert!(
            pools.starts_with("postgres|postgres|1|0|0|0|0|0|0|1|"),
            "{pools}"
        );
    });
    let totals = console(&pooler, "SHOW STATS_TOTALS");
    let counts: Vec<_> = totals
        .lines()
        .find(|l| l.starts_with("postgres|"))
        .expect(&totals)
        .split('|')
        .collect();
    assert_eq!(
        (counts[2], counts[3]),
        ("1", "2"),
        "transactions and queries: {totals}"
    );
    assert!(console(&pooler, "SHOW VERSION").starts_with("PgBouncer 1.25.2 (pgweir "));
    assert!(console(&pooler, "SHOW CONFIG").contains("\nmax_client_conn|10000|10000|yes\n"));
}

#[test]
fn errors_reach_psql_with_pgbouncers_code() {
    let pooler = pooler();
    let output = psql_command(&pooler, "alice", "pgweir")
        .args(["-v", "VERBOSITY=verbose", "-c", "SELECT 1"])
        .output()
        .expect("psql was found");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        stderr.contains("ERROR:  08P01: invalid command 'SELECT 1', use SHOW HELP;"),
        "{stderr}"
    );
}

#[test]
fn stats_users_look_only_and_others_stay_outside() {
    let pooler = pooler();
    assert!(psql(&pooler, "monitor", "SHOW STATS").status.success());
    let refused = psql(&pooler, "monitor", "PAUSE");
    let stderr = String::from_utf8(refused.stderr).expect("UTF-8");
    assert!(stderr.contains("ERROR:  admin access needed"), "{stderr}");
    assert!(!psql(&pooler, "mallory", "SHOW STATS").status.success());
}

#[test]
fn a_driver_uses_the_extended_protocol_and_binary_results() {
    let pooler = pooler();
    runtime().block_on(async {
        let client = connect(&pooler, "monitor", "pgbouncer").await;
        let rows = client.query("SHOW LISTS", &[]).await.expect("it runs");
        assert_eq!(rows[0].columns()[1].type_(), &Type::INT4);
        let pools = rows.iter().find(|row| row.get::<_, &str>(0) == "pools");
        assert_eq!(
            pools.expect("it is listed").get::<_, i32>(1),
            1,
            "the console's own"
        );
        let error = client
            .query("SELECT 1", &[])
            .await
            .expect_err("it is no database");
        assert_eq!(error.code().map(|code| code.code()), Some("08P01"));
        assert_eq!(
            client
                .query("SHOW STATE", &[])
                .await
                .expect("it goes on")
                .len(),
            3
        );
    });
}

#[test]
fn pause_waits_for_the_transaction_and_holds_the_next() {
    let pooler = pooler();
    runtime().block_on(async {
        let client = connect(&pooler, "postgres", "postgres").await;
        client.batch_execute("begin").await.expect("it runs");
        let pause = psql_command(&pooler, "alice", "pgbouncer")
            .args(["-c", "PAUSE"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql was found");
        eventually("paused", || {
            console(&pooler, "SHOW STATE").contains("paused|yes")
        });
        client.batch_execute("commit").await.expect("it may finish");
        assert!(pause.wait_with_output().expect("it ends").status.success());
        assert_eq!(console(&pooler, "SHOW SERVERS"), "");
        let held = client.batch_execute("select 1");
        let resume = async {
            let waits = || pool_of_postgres(&pooler).starts_with("postgres|postgres|0|1|");
            tokio::task::block_in_place(|| {
                eventually("it waits", waits);
                console(&pooler, "RESUME");
            });
        };
        tokio::join!(held, resume).0.expect("it goes on");
    });
}

#[test]
fn a_cancelled_pause_is_undone() {
    let pooler = pooler();
    runtime().block_on(async {
        let client = connect(&pooler, "postgres", "postgres").await;
        client.batch_execute("begin").await.expect("it runs");
        let admin = connect(&pooler, "alice", "pgbouncer").await;
        let cancel = admin.cancel_token();
        let pause = tokio::task::spawn(async move { admin.simple_query("PAUSE").await });
        eventually("paused", || {
            console(&pooler, "SHOW STATE").contains("paused|yes")
        });
        cancel.cancel_query(NoTls).await.expect("it is taken");
        let error = pause
            .await
            .expect("no panic")
            .expect_err("it was cancelled");
        assert_eq!(error.code().map(|code| code.code()), Some("57014"));
        assert!(console(&pooler, "SHOW STATE").contains("paused|no"));
        client
            .batch_execute("commit; select 1")
            .await
            .expect("nothing holds it");
    });
}

#[test]
fn reconnect_and_wait_close_replace_every_server() {
    let pooler = pooler();
    runtime().block_on(async {
        let client = connect(&pooler, "postgres", "postgres").await;
        let before = fields(&client, "begin; select pg_backend_pid()").await;
        console(&pooler, "RECONNECT");
        let servers = console(&pooler, "SHOW SERVERS");
        assert_eq!(
            servers.split('|').nth(13),
            Some("1"),
            "close_needed: {servers}"
        );
        let mut wait = psql_command(&pooler, "alice", "pgbouncer")
            .args(["-c", "WAIT_CLOSE"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql was found");
        eventually("psql has connected", || {
            console(&pooler, "SHOW CLIENTS").lines().count() > 2
        });
        assert!(
            wait.try_wait().expect("it is our child").is_none(),
            "one is still in use"
        );
        client.batch_execute("commit").await.expect("it may finish");
        assert!(wait.wait_with_output().expect("it ends").status.success());
        let after = fields(&client, "select pg_backend_pid()").await;
        assert_ne!(before, after);
    });
}

#[test]
fn kill_ends_clients_and_resume_lets_new_ones_in() {
    let pooler = pooler();
    runtime().block_on(async {
        let client = connect(&pooler, "postgres", "postgres").await;
        client.batch_execute("begin").await.expect("it runs");
        assert_eq!(console(&pooler, "KILL").trim(), "KILL");
        let error = client
            .batch_execute("select 1")
            .await
            .expect_err("it was killed");
        assert!(
            error.is_closed() || error.code().is_some_and(|c| c.code() == "57P01"),
            "{error}"
        );
        console(&pooler, "RESUME");
        let client = connect(&pooler, "postgres", "postgres").await;
        client.batch_execute("select 1").await.expect("it runs");
        let clients = console(&pooler, "SHOW CLIENTS");
        let id = clients
            .lines()
            .next()
            .and_then(|l| l.rsplit('|').next())
            .expect("an id");
        console(&pooler, &format!("KILL_CLIENT {id}"));
        client
            .batch_execute("select 1")
            .await
            .expect_err("it was killed");
    });
}

#[test]
fn a_disabled_database_lets_nobody_in() {
    let pooler = pooler();
    runtime().block_on(async {
        let inside = connect(&pooler, "postgres", "postgres").await;
        console(&pooler, "DISABLE postgres");
        let url = pooler.url("postgres", "postgres");
        assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
        inside
            .batch_execute("select 1")
            .await
            .expect("who is inside stays");
        console(&pooler, "ENABLE postgres");
        connect(&pooler, "postgres", "postgres").await;
    });
}

#[test]
fn pins_name_their_reason() {
    let pooler = pooler();
    runtime().block_on(async {
        let client = connect(&pooler, "postgres", "postgres").await;
        fields(&client, "select pg_advisory_lock(1) is null").await;
        let pins = console(&pooler, "SHOW PINS");
        let pin: Vec<_> = pins.trim().split('|').collect();
        assert_eq!(pin[1..4], ["postgres", "postgres", "server"], "{pins}");
        assert_eq!(pin[6..], ["advisory_lock"], "{pins}");
        fields(&client, "select pg_advisory_unlock(1)").await;
        assert_eq!(console(&pooler, "SHOW PINS"), "");
    });
}

#[test]
fn set_and_reload_change_settings() {
    let pooler = pooler();
    let value = || console(&pooler, "SHOW CONFIG").contains("\nmax_client_conn|77|");
    assert_eq!(
        console(&pooler, "SET max_client_conn = 77").trim(),
        "SET max_client_conn=77"
    );
    assert!(value());
    console(&pooler, "RELOAD");
    assert!(!value(), "the file does not say so");
    pooler.rewrite_config(|toml| toml.replace("[pool]", "max_client_conn = 77\n[pool]"));
    console(&pooler, "RELOAD");
    assert!(value());
    pooler.rewrite_config(|toml| toml.replace("max_client_conn", "max_klient_conn"));
    let output = psql(&pooler, "alice", "RELOAD");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(stderr.contains("max_klient_conn"), "{stderr}");
    assert!(value(), "a bad file changes nothing");
    let output = psql(&pooler, "alice", "SET listen_port = 1");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(stderr.contains("ERROR:  SET failed"), "{stderr}");
}

#[test]
fn shutdown_ends_the_process() {
    let mut pooler = pooler();
    // The connection closes without an answer, so psql fails.
    assert!(!psql(&pooler, "alice", "SHUTDOWN").status.success());
    assert!(pooler.wait_exit().success());

    let mut pooler = self::pooler();
    runtime().block_on(async {
        let client = connect(&pooler, "postgres", "postgres").await;
        assert_eq!(
            console(&pooler, "SHUTDOWN WAIT_FOR_CLIENTS").trim(),
            "SHUTDOWN"
        );
        client
            .batch_execute("select 1")
            .await
            .expect("who is inside stays");
    });
    assert!(pooler.wait_exit().success());
}

#[test]
fn the_console_is_open_when_the_pooler_is_full() {
    let pooler = Pgweir::builder(postgres())
        .pgweir("max_client_conn", "1")
        .start();
    runtime().block_on(async {
        let _only = connect(&pooler, "postgres", "postgres").await;
        let url = pooler.url("postgres", "postgres");
        assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
        assert!(console(&pooler, "SHOW LISTS").contains("used_clients|2"));
    });
}
