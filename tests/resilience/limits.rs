//! Limits on time and on numbers: each gives the error that names its setting, when it is reached and not before.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::{
    console::Watch,
    support::{
        self, Pgweir,
        wire::{self, Fields, Wire, soon},
    },
};

fn pooler(setting: &str, value: &str) -> Pgweir {
    Pgweir::builder(support::postgres())
        .pool_size(1)
        .pool(setting, value)
        .start()
}

async fn client(pooler: &Pgweir) -> Wire {
    Wire::connect(pooler, "postgres").await
}

/// Reads the error of a limit on time; answers it.
async fn limited(client: &mut Wire, code: &str, severity: &str, setting: &str) -> Fields {
    let told = client.error().await;
    assert_eq!((told.code(), told.severity()), (code, severity), "{told:?}");
    assert!(told.words().contains(setting), "{told:?}");
    if severity == "FATAL" {
        assert_eq!(client.answer().await, "closed", "{told:?}");
    } else {
        assert_eq!(client.answer().await, "Z I", "{told:?}");
    }
    told
}

/// Holds the one server of a pool.
async fn holder(pooler: &Pgweir) -> Wire {
    let mut holder = client(pooler).await;
    assert_eq!(holder.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    holder
}

/// The next message must be the NOTICE that a client waits.
async fn notified(client: &mut Wire) {
    let (kind, body) = client.read().await.unwrap();
    let told = Fields::read(&body);
    assert_eq!((kind, told.severity()), (b'N', "NOTICE"), "{told:?}");
    assert!(told.words().contains("query_wait_notify"), "{told:?}");
}

#[tokio::test]
async fn query_wait_timeout_and_the_notice_before_it() {
    let pooler = Pgweir::builder(support::postgres())
        .pool_size(1)
        .pool("query_wait_timeout", "\"400ms\"")
        .pool("query_wait_notify", "\"100ms\"")
        .start();
    let mut holder = holder(&pooler).await;
    let mut waiting = client(&pooler).await;
    for sql in ["SELECT 1", "SELECT 2"] {
        waiting.send(&wire::query(sql)).await;
        notified(&mut waiting).await;
        limited(&mut waiting, "53300", "ERROR", "query_wait_timeout").await;
    }
    // A batch, and one that comes in two halves.
    let batch = [
        wire::parse("", "SELECT 3"),
        wire::bind("", &[]),
        wire::execute(),
        wire::sync(),
    ]
    .concat();
    let (first, second) = batch.split_at(batch.len() - 3);
    waiting.send(first).await;
    waiting.send(second).await;
    notified(&mut waiting).await;
    limited(&mut waiting, "53300", "ERROR", "query_wait_timeout").await;
    // Two queries at once are refused one after the other.
    waiting
        .send(&[wire::query("SELECT 4"), wire::query("SELECT 5")].concat())
        .await;
    for _ in 0..2 {
        notified(&mut waiting).await;
        limited(&mut waiting, "53300", "ERROR", "query_wait_timeout").await;
    }
    // Whoever is served in time is told nothing more.
    waiting.send(&wire::query("SELECT 6")).await;
    notified(&mut waiting).await;
    assert_eq!(holder.ask("COMMIT").await, ["C COMMIT", "Z I"]);
    assert_eq!(waiting.answers().await, ["T", "D 6", "C SELECT 1", "Z I"]);
    // Nor is the query that is under way.
    assert_eq!(
        waiting.scalar("SELECT 'long' FROM pg_sleep(0.6)").await,
        "long"
    );
}

#[tokio::test]
async fn a_login_that_needs_a_server_waits_no_longer_than_a_query() {
    let pooler = pooler("query_wait_timeout", "\"300ms\"");
    let holder = holder(&pooler).await;
    // Settings that no server was seen with: one has to say whether it takes them.
    let parameters = [
        ("user", "postgres"),
        ("database", "postgres"),
        ("options", "-c work_mem=5MB"),
    ];
    let told = Wire::try_login(pooler.address(), &parameters)
        .await
        .err()
        .unwrap();
    assert_eq!(
        (told.code(), told.severity()),
        ("53300", "FATAL"),
        "{told:?}"
    );
    assert!(told.words().contains("query_wait_timeout"), "{told:?}");
    drop(holder);
    let mut client = Wire::login(pooler.address(), &parameters).await;
    assert_eq!(client.scalar("SHOW work_mem").await, "5MB");
}

#[tokio::test]
async fn query_timeout() {
    let pooler = pooler("query_timeout", "\"300ms\"");
    let slowly = "SELECT generate_series(1, 1000), pg_sleep(0.05)";
    for before in [
        &[][..],
        &["BEGIN", "SELECT 'first' FROM pg_sleep(0.2)"],
        &["SELECT 'first'"],
    ] {
        for sql in ["SELECT pg_sleep(600)", slowly] {
            let mut client = client(&pooler).await;
            for sql in before {
                assert!(
                    client.ask(sql).await.last().unwrap().starts_with('Z'),
                    "{sql}"
                );
            }
            client.send(&wire::query(sql)).await;
            limited(&mut client, "57014", "FATAL", "query_timeout").await;
        }
    }
    // In a pipeline each has its own time; a transaction may be idle for longer.
    let mut client = client(&pooler).await;
    let short = wire::query("SELECT 'short' FROM pg_sleep(0.2)");
    client.send(&short.repeat(4)).await;
    for _ in 0..4 {
        assert_eq!(
            client.answers().await,
            ["T", "D short", "C SELECT 1", "Z I"]
        );
    }
    assert_eq!(client.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(client.ask("COMMIT").await, ["C COMMIT", "Z I"]);
}

#[tokio::test]
async fn idle_transaction_timeout() {
    let pooler = pooler("idle_transaction_timeout", "\"300ms\"");
    let batch = [wire::parse("", "SELECT 1"), wire::flush()].concat();
    for (bytes, last) in [
        (wire::query("BEGIN"), "Z T"),
        (wire::query("BEGIN; SELECT 1/0"), "Z E"),
        (batch, "1"),
    ] {
        let mut client = client(&pooler).await;
        client.send(&bytes).await;
        while client.answer().await != last {}
        limited(&mut client, "25P03", "FATAL", "idle_transaction_timeout").await;
    }
    // Not while something runs, nor between transactions.
    let mut client = client(&pooler).await;
    assert_eq!(client.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    for _ in 0..3 {
        let sql = "SELECT 'busy' FROM pg_sleep(0.4)";
        assert_eq!(client.scalar_in_transaction(sql).await, "busy");
    }
    assert_eq!(client.ask("COMMIT").await, ["C COMMIT", "Z I"]);
    sleep(Duration::from_millis(600)).await;
    assert_eq!(client.scalar("SELECT 'still here'").await, "still here");
}

#[tokio::test]
async fn transaction_timeout() {
    let pooler = pooler("transaction_timeout", "\"400ms\"");
    let mut running = client(&pooler).await;
    assert_eq!(running.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    running.send(&wire::query("SELECT pg_sleep(600)")).await;
    limited(&mut running, "25P04", "FATAL", "transaction_timeout").await;
    let mut idle = client(&pooler).await;
    assert_eq!(idle.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    limited(&mut idle, "25P04", "FATAL", "transaction_timeout").await;
    let mut busy = client(&pooler).await;
    assert_eq!(busy.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    let told = loop {
        busy.send(&wire::query("SELECT pg_sleep(0.02)")).await;
        let answers = busy.answers().await;
        if let Some(error) = answers.iter().find(|answer| answer.starts_with('E')) {
            break error.clone();
        }
    };
    assert_eq!(told, "E FATAL 25P04");
    // Each transaction has its own time, also on a server that is kept.
    let mut client = client(&pooler).await;
    assert_eq!(client.ask("LISTEN channel").await, ["C LISTEN", "Z I"]);
    sleep(Duration::from_millis(600)).await;
    for _ in 0..3 {
        assert_eq!(client.ask("BEGIN").await, ["C BEGIN", "Z T"]);
        assert_eq!(
            client
                .scalar_in_transaction("SELECT 'x' FROM pg_sleep(0.2)")
                .await,
            "x"
        );
        assert_eq!(client.ask("COMMIT").await, ["C COMMIT", "Z I"]);
    }
}

#[tokio::test]
async fn client_idle_timeout() {
    for mode in ["transaction", "session"] {
        let pooler = Pgweir::builder(support::postgres())
            .pool_size(2)
            .pool_mode(mode)
            .pool("client_idle_timeout", "\"300ms\"")
            .start();
        let mut silent = client(&pooler).await;
        limited(&mut silent, "57P05", "FATAL", "client_idle_timeout").await;
        let mut client = client(&pooler).await;
        // Not while it runs something, nor in a transaction, nor while it goes on.
        assert_eq!(
            client.scalar("SELECT 'slow' FROM pg_sleep(0.6)").await,
            "slow"
        );
        assert_eq!(client.ask("BEGIN").await, ["C BEGIN", "Z T"]);
        sleep(Duration::from_millis(600)).await;
        assert_eq!(client.ask("COMMIT").await, ["C COMMIT", "Z I"]);
        for _ in 0..5 {
            sleep(Duration::from_millis(120)).await;
            client.send(&wire::sync()).await;
            assert_eq!(client.answers().await, ["Z I"], "{mode}");
        }
        limited(&mut client, "57P05", "FATAL", "client_idle_timeout").await;
    }
}

#[tokio::test]
async fn client_login_timeout() {
    let pooler = Pgweir::builder(support::postgres())
        .pgweir("client_login_timeout", "\"300ms\"")
        .start();
    let mut client = Wire::dial(pooler.address()).await;
    let told = client.error().await;
    assert_eq!(
        (told.code(), told.severity()),
        ("57014", "FATAL"),
        "{told:?}"
    );
    assert!(told.words().contains("client_login_timeout"), "{told:?}");
    assert_eq!(client.answer().await, "closed");
}

#[tokio::test]
async fn server_idle_timeout_spares_min_pool_size() {
    let pooler = Pgweir::builder(support::postgres())
        .pool_size(4)
        .pool("min_pool_size", "2")
        .pool("server_idle_timeout", "\"500ms\"")
        .start();
    let mut clients = join_all((0..4).map(|_| client(&pooler))).await;
    for client in &mut clients {
        assert_eq!(client.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    }
    let mut watch = Watch::of(&pooler, "postgres").await;
    watch.until("sv_active", 4).await;
    for client in &mut clients {
        assert_eq!(client.ask("COMMIT").await, ["C COMMIT", "Z I"]);
    }
    watch.until("sv_idle", 2).await;
    watch.until_servers(2).await;
    let kept: Vec<_> = watch
        .servers()
        .await
        .iter()
        .map(|server| server["remote_pid"].clone())
        .collect();
    // They stay: the next ticks of the pool change nothing.
    for _ in 0..3 {
        sleep(Duration::from_millis(500)).await;
        let servers = watch.servers().await;
        let pids: Vec<_> = servers
            .iter()
            .map(|server| server["remote_pid"].clone())
            .collect();
        assert_eq!(pids, kept);
    }
}

#[tokio::test]
async fn min_pool_size_is_made_without_being_asked_for() {
    let pooler = pooler("min_pool_size", "1");
    let mut watch = Watch::of(&pooler, "postgres").await;
    let mut first = client(&pooler).await;
    watch.until("sv_idle", 1).await;
    let pid = first.scalar("SELECT pg_backend_pid()").await;
    support::postgres()
        .primary()
        .psql(&format!("SELECT pg_terminate_backend({pid}, 30000)"))
        .unwrap();
    // Somebody else's servers and ours: only ours counts.
    let other = async {
        loop {
            let servers = watch.servers().await;
            if servers.len() == 1 && servers[0]["remote_pid"] != pid {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    soon("a server in place of the one that died", other).await;
}

#[tokio::test]
async fn server_lifetime() {
    let pooler = Pgweir::builder(support::postgres())
        .pool_size(1)
        .pool("server_lifetime", "\"400ms\"")
        .pool("server_lifetime_jitter", "\"0%\"")
        .start();
    let mut client = client(&pooler).await;
    // Never in the middle of a transaction.
    assert_eq!(client.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    let first = client
        .scalar_in_transaction("SELECT pg_backend_pid()")
        .await;
    let again = client
        .scalar_in_transaction("SELECT pg_backend_pid() FROM pg_sleep(0.6)")
        .await;
    assert_eq!(first, again);
    assert_eq!(client.ask("COMMIT").await, ["C COMMIT", "Z I"]);
    let second = client.scalar("SELECT pg_backend_pid()").await;
    assert_ne!(first, second);
    // And while it is idle.
    let mut watch = Watch::of(&pooler, "postgres").await;
    watch.until_servers(0).await;
}

#[tokio::test]
async fn max_client_conn_leaves_room_for_the_console() {
    let pooler = Pgweir::builder(support::postgres())
        .pgweir("max_client_conn", "5")
        .start();
    let parameters = [("user", "postgres"), ("database", "postgres")];
    // All at once, while there is no server yet and every login waits for the first.
    let mut logins =
        join_all((0..12).map(|_| Wire::try_login(pooler.address(), &parameters))).await;
    let refused: Vec<_> = logins
        .iter()
        .filter_map(|login| login.as_ref().err())
        .collect();
    assert_eq!(refused.len(), 7);
    for told in refused {
        assert_eq!(
            (told.code(), told.severity()),
            ("53300", "FATAL"),
            "{told:?}"
        );
        assert!(told.words().contains("max_client_conn"), "{told:?}");
    }
    let mut console = Wire::console(&pooler).await;
    assert_eq!(
        console
            .table("SHOW CLIENTS")
            .await
            .iter()
            .filter(|row| row["database"] == "postgres")
            .count(),
        5
    );
    logins.clear();
    let mut watch = Watch::of(&pooler, "postgres").await;
    watch.until("cl_active", 0).await;
    let mut next = client(&pooler).await;
    assert_eq!(next.scalar("SELECT 1").await, "1");
}

#[tokio::test]
async fn limits_on_the_clients_of_a_database_and_of_a_user() {
    let cluster = support::postgres();
    cluster
        .primary()
        .psql("CREATE ROLE counted LOGIN; CREATE DATABASE counted")
        .unwrap();
    let pooler = Pgweir::builder(cluster)
        .pool("max_db_client_connections", "3")
        .extra("[users.counted]\nmax_user_client_connections = 2")
        .start();
    let login = |user: &'static str, database: &'static str| {
        let address = pooler.address();
        async move { Wire::try_login(address, &[("user", user), ("database", database)]).await }
    };
    let mut logins = join_all((0..4).map(|_| login("counted", "counted"))).await;
    logins.extend(join_all((0..4).map(|_| login("postgres", "counted"))).await);
    let told: Vec<_> = logins
        .iter()
        .filter_map(|login| login.as_ref().err())
        .map(|told| {
            (
                told.code(),
                told.words().contains("max_user_client_connections"),
                told.words().contains("max_db_client_connections"),
            )
        })
        .collect();
    assert_eq!(told.len(), 5);
    assert_eq!(told[..2], [("53300", true, false); 2]);
    assert_eq!(told[2..], [("53300", false, true); 3]);
    // The user is at its limit in every database, and others are not.
    assert!(login("counted", "postgres").await.is_err());
    assert!(login("postgres", "postgres").await.is_ok());
}

#[tokio::test]
async fn the_reserve_is_for_clients_that_have_waited() {
    let pooler = Pgweir::builder(support::postgres())
        .pool_size(1)
        .pool("reserve_pool_size", "1")
        .pool("reserve_pool_timeout", "\"300ms\"")
        .start();
    let mut watch = Watch::of(&pooler, "postgres").await;
    // Many who wait a little do not add up to one who waits for long.
    let mut busy = join_all((0..3).map(|_| client(&pooler))).await;
    join_all(busy.iter_mut().map(async |client| {
        for _ in 0..15 {
            assert_eq!(client.scalar("SELECT 'x' FROM pg_sleep(0.03)").await, "x");
        }
    }))
    .await;
    assert_eq!(watch.servers().await.len(), 1);

    let mut holder = holder(&pooler).await;
    let mut waiting = client(&pooler).await;
    assert_eq!(waiting.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    assert_eq!(watch.servers().await.len(), 2);
    // The reserve is used up as well.
    busy[0].send(&wire::query("SELECT 'third'")).await;
    watch.until("cl_waiting", 1).await;
    assert_eq!(holder.ask("COMMIT").await, ["C COMMIT", "Z I"]);
    assert_eq!(
        busy[0].answers().await,
        ["T", "D third", "C SELECT 1", "Z I"]
    );
}

#[tokio::test]
async fn max_db_connections_is_shared_by_the_users_of_a_database() {
    let cluster = support::postgres();
    cluster
        .primary()
        .psql("CREATE ROLE sharing LOGIN; CREATE DATABASE shared")
        .unwrap();
    let pooler = Pgweir::builder(cluster)
        .pool_size(5)
        .pool("max_db_connections", "1")
        .start();
    take_turns(&pooler, ("postgres", "shared"), ("sharing", "shared")).await;
}

#[tokio::test]
async fn max_user_connections_is_shared_by_the_databases_of_a_user() {
    let cluster = support::postgres();
    cluster
        .primary()
        .psql("CREATE ROLE roaming LOGIN; CREATE DATABASE roamed")
        .unwrap();
    let pooler = Pgweir::builder(cluster)
        .pool_size(5)
        .extra("[users.roaming]\nmax_user_connections = 1")
        .start();
    take_turns(&pooler, ("roaming", "postgres"), ("roaming", "roamed")).await;
}

/// Two pools that may have one connection between them: each gets it when the other can spare it, and only then.
async fn take_turns(pooler: &Pgweir, one: (&str, &str), other: (&str, &str)) {
    let login = |(user, database)| Wire::login_to(pooler, user, database);
    let mut first = login(one).await;
    let mut second = login(other).await;
    let mut third = login(one).await;
    let mut watch = Watch::of(pooler, other.1).await.of_user(other.0);
    for _ in 0..3 {
        assert_eq!(first.ask("BEGIN").await, ["C BEGIN", "Z T"]);
        second.send(&wire::query("SELECT 'second'")).await;
        watch.until("cl_waiting", 1).await;
        third.send(&wire::query("SELECT 'third'")).await;
        assert_eq!(first.ask("COMMIT").await, ["C COMMIT", "Z I"]);
        assert_eq!(
            second.answers().await,
            ["T", "D second", "C SELECT 1", "Z I"]
        );
        assert_eq!(third.answers().await, ["T", "D third", "C SELECT 1", "Z I"]);
    }
}

#[tokio::test]
async fn a_busy_pool_leaves_its_turn_to_one_that_shares_its_limit() {
    let cluster = support::postgres();
    cluster
        .primary()
        .psql("CREATE ROLE patient LOGIN; CREATE DATABASE contended")
        .unwrap();
    let pooler = Pgweir::builder(cluster)
        .pool_size(5)
        .pool("max_db_connections", "1")
        .start();
    // Never a moment at which nobody of the busy pool waits.
    let mut busy = join_all((0..4).map(|_| Wire::login_to(&pooler, "postgres", "contended"))).await;
    let work = join_all(busy.iter_mut().map(async |client| {
        loop {
            assert_eq!(client.scalar("SELECT 'x' FROM pg_sleep(0.01)").await, "x");
        }
    }));
    let served = async {
        let mut patient = Wire::login_to(&pooler, "patient", "contended").await;
        assert_eq!(patient.scalar("SELECT 'at last'").await, "at last");
    };
    tokio::select! {
        _ = work => {}
        () = served => {}
    }
}

#[tokio::test]
async fn max_packet_size_of_clients_and_of_servers() {
    const LARGEST: usize = 16_384;
    let pooler = Pgweir::builder(support::postgres())
        .pool_size(2)
        .pgweir("max_packet_size", &LARGEST.to_string())
        .start();
    // The length word counts itself and what is around the value: a count of columns and its length.
    let row = |length: usize| format!("SELECT repeat('x', {length})");
    let mut neighbour = client(&pooler).await;
    let mut reader = client(&pooler).await;
    for _ in 0..3 {
        let fits = LARGEST - 4 - 2 - 4;
        assert_eq!(reader.scalar(&row(fits)).await.len(), fits);
        reader.send(&wire::query(&row(fits + 1))).await;
        limited(&mut reader, "54000", "ERROR", "max_packet_size").await;
    }
    let copy = format!("COPY ({}) TO STDOUT", row(20_000));
    assert_eq!(reader.ask(&copy).await, ["H", "E ERROR 54000", "Z I"]);
    // What was held is lost with the server.
    assert_eq!(reader.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    reader.send(&wire::query(&row(20_000))).await;
    limited(&mut reader, "54000", "FATAL", "max_packet_size").await;

    let mut writer = client(&pooler).await;
    let fits = format!("SELECT 1 /* {}", "x".repeat(LARGEST - 4 - 1 - 14));
    let fits = format!("{fits}*/");
    assert_eq!(wire::query(&fits).len(), 1 + LARGEST);
    assert_eq!(writer.scalar(&fits).await, "1");
    writer.send(&wire::query(&format!("{fits} "))).await;
    limited(&mut writer, "54000", "FATAL", "max_packet_size").await;
    assert_eq!(neighbour.scalar("SELECT 1").await, "1");
}
