//! Servers that die, are restarted, are not there or do not let the pooler in.

use std::time::Duration;

use futures_util::future::join_all;
use pgweir::sandbox::{Cluster, StopMode};

use crate::{
    console::Watch,
    neighbour::Neighbour,
    support::{
        self, Pgweir, PgweirBuilder,
        wire::{self, Fields, Wire, soon},
    },
};

/// In front of a cluster that comes and goes, and is to be found soon when it is back.
fn before(cluster: &Cluster) -> PgweirBuilder {
    Pgweir::builder(cluster).pool("server_login_retry", "\"100ms\"")
}

fn own_cluster() -> Cluster {
    support::start(Cluster::builder(support::binaries()))
}

/// Asks until the answer comes, taking errors of a server that is not there yet.
async fn asked_until_answered(client: &mut Wire) {
    let answered = async {
        loop {
            match client.ask("SELECT 'back'").await.as_slice() {
                [_, row, _, _] if row == "D back" => return,
                [error, ready] if error.starts_with("E ERROR") && ready == "Z I" => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                other => panic!("{other:?}"),
            }
        }
    };
    soon("the server is used again", answered).await;
}

#[tokio::test]
async fn a_terminated_backend_costs_its_own_transaction_only() {
    let cluster = support::postgres();
    let pooler = Pgweir::builder(cluster).pool_size(3).start();
    let neighbour = Neighbour::of(&pooler);
    let mut other = Wire::connect(&pooler, "postgres").await;
    assert_eq!(other.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    let terminate = |pid: &str| {
        let sql = format!("SELECT pg_terminate_backend({pid}, 30000)");
        cluster.primary().psql(&sql).unwrap();
    };
    // While a query runs, between two queries of a transaction, and while it is idle in the pool.
    let mut client = Wire::connect(&pooler, "postgres").await;
    let mut victim = Wire::connect(&pooler, "postgres").await;
    victim
        .send(&wire::query("SELECT pg_sleep(600) /* victim */"))
        .await;
    let mut pids = Watch::of(&pooler, "postgres").await;
    pids.until("sv_active", 2).await;
    let sleeping = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%600) /* victim */'";
    let running = cluster.primary().psql(sleeping).unwrap();
    terminate(&running);
    let told = victim.error().await;
    assert_eq!(
        (told.code(), told.severity()),
        ("57P01", "ERROR"),
        "{told:?}"
    );
    assert_eq!(victim.answer().await, "Z I");
    assert_eq!(victim.scalar("SELECT 'goes on'").await, "goes on");

    assert_eq!(client.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    let held = client
        .scalar_in_transaction("SELECT pg_backend_pid()")
        .await;
    terminate(&held);
    let told = client.error().await;
    assert_eq!(
        (told.code(), told.severity()),
        ("57P01", "FATAL"),
        "{told:?}"
    );
    assert_eq!(client.answer().await, "closed");

    // Not the one of a neighbour who is in the middle of something.
    neighbour.bid_farewell();
    let idle = victim.scalar("SELECT pg_backend_pid()").await;
    terminate(&idle);
    assert_ne!(victim.scalar("SELECT pg_backend_pid()").await, idle);
    assert_eq!(other.ask("COMMIT").await, ["C COMMIT", "Z I"]);
}

#[tokio::test]
async fn a_killed_backend_costs_running_transactions_and_no_client_that_is_idle() {
    let cluster = own_cluster();
    let pooler = before(&cluster).pool_size(4).start();
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(Wire::connect(&pooler, "postgres").await);
    }
    let prepare = [wire::parse("mine", "SELECT 'prepared'"), wire::sync()].concat();
    idle[0].send(&prepare).await;
    assert_eq!(idle[0].answers().await, ["1", "Z I"]);
    assert_eq!(idle[1].ask("SET work_mem = '7MB'").await, ["C SET", "Z I"]);
    // Behind this the setting is known, and no longer lost with the server.
    assert_eq!(idle[1].scalar("SHOW work_mem").await, "7MB");
    let mut in_transaction = Wire::connect(&pooler, "postgres").await;
    assert_eq!(in_transaction.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    let pid = in_transaction
        .scalar_in_transaction("SELECT pg_backend_pid()")
        .await;

    cluster
        .primary()
        .kill_backend(pid.parse().unwrap())
        .unwrap();

    let told = in_transaction.error().await;
    assert_eq!(
        (told.code(), told.severity()),
        ("08006", "FATAL"),
        "{told:?}"
    );
    assert_eq!(in_transaction.answer().await, "closed");
    for client in &mut idle {
        asked_until_answered(client).await;
    }
    let batch = [wire::bind("mine", &[]), wire::execute(), wire::sync()].concat();
    idle[0].send(&batch).await;
    assert_eq!(
        idle[0].answers().await,
        ["2", "D prepared", "C SELECT 1", "Z I"]
    );
    assert_eq!(idle[1].scalar("SHOW work_mem").await, "7MB");
}

#[tokio::test]
async fn a_restarted_server_is_used_again_without_a_restart_of_the_pooler() {
    let cluster = own_cluster();
    let primary = cluster.primary();
    let pooler = before(&cluster).pool_size(3).start();
    let mut idle = Wire::connect(&pooler, "postgres").await;
    let prepare = [wire::parse("mine", "SELECT 'prepared'"), wire::sync()].concat();
    idle.send(&prepare).await;
    assert_eq!(idle.answers().await, ["1", "Z I"]);
    for (mode, codes) in [
        (StopMode::Fast, ["57P01", "57P01"]),
        // A server that aborts says so, or is just gone.
        (StopMode::Immediate, ["57P02", "08006"]),
    ] {
        let mut running = Wire::connect(&pooler, "postgres").await;
        let mut holding = Wire::connect(&pooler, "postgres").await;
        running.send(&wire::query("SELECT pg_sleep(600)")).await;
        assert_eq!(holding.ask("BEGIN").await, ["C BEGIN", "Z T"]);
        let mut watch = Watch::of(&pooler, "postgres").await;
        watch.until("sv_active", 2).await;

        primary.stop(mode).unwrap();

        let told = holding.error().await;
        assert!(
            codes.contains(&told.code()) && told.severity() == "FATAL",
            "{mode:?}: {told:?}"
        );
        assert_eq!(holding.answer().await, "closed", "{mode:?}");
        let told = running.error().await;
        assert!(
            codes.contains(&told.code()) && told.severity() == "ERROR",
            "{mode:?}: {told:?}"
        );
        assert_eq!(running.answer().await, "Z I", "{mode:?}");
        // While it is down: who asks is told which server it is about, and may stay.
        let told = idle.refusal("SELECT 1").await;
        names_the_server(&told, primary.port());
        assert_eq!(idle.answer().await, "Z I", "{mode:?}");
        idle.send(&[wire::bind("mine", &[]), wire::execute(), wire::sync()].concat())
            .await;
        names_the_server(&idle.error().await, primary.port());
        assert_eq!(idle.answer().await, "Z I", "{mode:?}");
        let parameters = [("user", "postgres"), ("database", "template1")];
        let stranger = Wire::try_login(pooler.address(), &parameters)
            .await
            .err()
            .unwrap();
        names_the_server(&stranger, primary.port());
        assert_eq!(stranger.severity(), "FATAL");

        primary.start().unwrap();

        for client in [&mut idle, &mut running] {
            asked_until_answered(client).await;
        }
        idle.send(&[wire::bind("mine", &[]), wire::execute(), wire::sync()].concat())
            .await;
        assert_eq!(
            idle.answers().await,
            ["2", "D prepared", "C SELECT 1", "Z I"],
            "{mode:?}"
        );
    }
}

fn names_the_server(told: &Fields, port: u16) {
    assert!(
        ["57P03", "08001", "08006"].contains(&told.code()),
        "{told:?}"
    );
    assert!(
        told.words().contains(&format!("127.0.0.1:{port}")),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_is_used_when_it_comes() {
    let cluster = own_cluster();
    let primary = cluster.primary();
    primary.stop(StopMode::Fast).unwrap();
    let pooler = before(&cluster).start();
    for _ in 0..3 {
        let parameters = [("user", "postgres"), ("database", "postgres")];
        let told = Wire::try_login(pooler.address(), &parameters)
            .await
            .err()
            .unwrap();
        names_the_server(&told, primary.port());
    }
    let mut console = Wire::console(&pooler).await;
    assert!(!console.table("SHOW DATABASES").await.is_empty());
    primary.start().unwrap();
    let parameters = [("user", "postgres"), ("database", "postgres")];
    let mut let_in = soon("a login", async {
        loop {
            match Wire::try_login(pooler.address(), &parameters).await {
                Ok(client) => return client,
                Err(told) => names_the_server(&told, primary.port()),
            }
        }
    })
    .await;
    assert_eq!(let_in.scalar("SELECT 1").await, "1");
}

#[tokio::test]
async fn a_host_that_there_is_not_is_named() {
    let pooler = PgweirBuilder::without_servers()
        .server_at("no-such-host.invalid", 5432, "primary")
        .start();
    let parameters = [("user", "postgres"), ("database", "postgres")];
    let told = Wire::try_login(pooler.address(), &parameters)
        .await
        .err()
        .unwrap();
    assert!(told.words().contains("no-such-host.invalid"), "{told:?}");
    assert_eq!(told.severity(), "FATAL");
}

#[tokio::test]
async fn the_servers_own_refusal_reaches_every_client_that_waits() {
    let builder = Cluster::builder(support::binaries())
        .hba("host all asked 127.0.0.1/32 scram-sha-256")
        .hba("host all all 127.0.0.1/32 trust");
    let cluster = support::start(builder);
    let primary = cluster.primary();
    primary.psql("CREATE ROLE asked LOGIN PASSWORD 'right'; CREATE ROLE limited LOGIN CONNECTION LIMIT 0; CREATE ROLE nologin").unwrap();
    let pooler = before(&cluster)
        .pool_size(2)
        .extra("[users.asked]\npassword = \"right\"")
        .start();
    let login = |user: &'static str, database: &'static str| {
        let address = pooler.address();
        async move { Wire::try_login(address, &[("user", user), ("database", database)]).await }
    };
    for (user, database, code, word) in [
        ("postgres", "no_such_database", "3D000", "no_such_database"),
        ("no_such_role", "postgres", "28000", "no_such_role"),
        ("nologin", "postgres", "28000", "not permitted to log in"),
        ("limited", "postgres", "53300", "too many connections"),
    ] {
        let refusals = join_all((0..8).map(|_| login(user, database))).await;
        for refusal in refusals {
            let told = refusal.err().unwrap();
            assert_eq!((told.code(), told.severity()), (code, "FATAL"), "{told:?}");
            assert!(told.field('M').contains(word), "{told:?}");
        }
    }

    // Clients that are logged in already, when the pooler's password becomes wrong.
    let mut clients = join_all((0..8).map(|_| login("asked", "postgres"))).await;
    let mut watch = Watch::of(&pooler, "postgres").await.of_user("asked");
    watch.until("sv_idle", 2).await;
    primary.psql("ALTER ROLE asked PASSWORD 'changed'").unwrap();
    primary
        .psql(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE usename = 'asked'",
        )
        .unwrap();
    let told = join_all(clients.iter_mut().map(async |client| {
        let client = client.as_mut().ok().unwrap();
        let told = client.refusal("SELECT 1").await;
        assert_eq!(client.answer().await, "Z I");
        told
    }))
    .await;
    for told in told {
        assert_eq!(
            (told.code(), told.severity()),
            ("28P01", "ERROR"),
            "{told:?}"
        );
        assert!(
            told.field('M').contains("password authentication failed"),
            "{told:?}"
        );
        assert!(
            told.words()
                .contains(&format!("127.0.0.1:{}", primary.port())),
            "{told:?}"
        );
    }
    primary.psql("ALTER ROLE asked PASSWORD 'right'").unwrap();
    for client in &mut clients {
        asked_until_answered(client.as_mut().ok().unwrap()).await;
    }
}
