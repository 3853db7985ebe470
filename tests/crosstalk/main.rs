//! The cross-talk test: hundreds of clients on a few servers, among them broken, hostile and dying ones. Every row
//! carries the name of the client that asked and the settings of its session; no client may ever see another's, be
//! cancelled by another, or lose or double a write.
//!
//! `PGWEIR_TEST_SEED=n` repeats the decisions of a run (not its timing), `PGWEIR_TEST_SECONDS=n` makes it longer,
//! `PGWEIR_TEST_DIRECT=1` runs it on PostgreSQL alone, which must pass too.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics, and says what it did"
)]

#[path = "../support/mod.rs"]
mod support;

mod polite;
mod raw;
#[path = "../drivers/session.rs"]
mod session;
mod vandal;
mod wire;
mod world;

use std::{env, panic::resume_unwind, process, sync::Arc, time::Duration};

use ::pgweir::sandbox::{Cluster, Node};
use futures_util::future::join_all;
use tokio::{
    task::{JoinSet, LocalSet},
    time::Instant,
};

use crate::{
    session::Session,
    support::{Pgweir, dice::Dice},
    world::{Fate, SCHEMAS, Settings, World, tagged_rows},
};

const CLIENTS: u64 = 300;
const POOL_SIZE: usize = 6;
const DATABASE: &str = "crosstalk";

/// What must have happened often enough for the test to mean something.
const KINDS: usize = 24;

#[test]
fn no_client_ever_sees_anothers_rows_or_settings() {
    // Not side by side: each is as much as two cores can do.
    for replicas in [0, 2] {
        run(replicas);
    }
}

/// Runs it on a primary and so many replicas, that serve what reads.
fn run(replicas: usize) {
    let number = |name| env::var_os(name).map(|v| v.into_string().unwrap().parse().unwrap());
    let seed = number("PGWEIR_TEST_SEED").unwrap_or_else(|| u64::from(process::id()));
    let seconds = number("PGWEIR_TEST_SECONDS").unwrap_or(20);
    println!("PGWEIR_TEST_SEED={seed}, {replicas} replicas");

    // More than the clients, so that the test can be tried without the pooler.
    let builder = Cluster::builder(support::binaries()).setting("max_connections", "400");
    let cluster = support::start(builder.replicas(replicas));
    set_up(cluster.primary());
    let pooler = env::var_os("PGWEIR_TEST_DIRECT").is_none().then(|| {
        let builder = Pgweir::builder(&cluster).pool_size(POOL_SIZE);
        builder.pool("max_prepared_statements", "5").start()
    });
    let url = match &pooler {
        Some(pooler) => pooler.url("postgres", DATABASE),
        None => cluster.primary().url("postgres", DATABASE),
    };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let end = runtime.block_on(async { Instant::now() + Duration::from_secs(seconds) });
    let version = cluster.binaries().version;
    let world = Arc::new(World::new(&url, DATABASE, end, version));
    LocalSet::new().block_on(&runtime, crowd(Arc::clone(&world), seed));

    println!("{} rows; {:#?}", world.rows(), world.counts());
    assert_eq!(
        world.counts().len(),
        KINDS,
        "something was never tried: {:?}",
        world.counts()
    );
    nothing_is_left(cluster.primary(), pooler.is_some());
    LocalSet::new().block_on(&runtime, servers_are_clean(&world));
    ledger_is_right(cluster.primary(), &world);
}

fn set_up(primary: &Node) {
    primary
        .psql(&format!("CREATE DATABASE {DATABASE}"))
        .unwrap();
    let mut sql = "CREATE TABLE ledger (tag text NOT NULL, n int4 NOT NULL);".to_owned();
    for schema in SCHEMAS {
        sql += &format!(
            "CREATE SCHEMA IF NOT EXISTS {schema}; CREATE TABLE {schema}.who AS SELECT '{schema}' AS me;"
        );
    }
    primary.psql_in(DATABASE, &sql).unwrap();
}

/// Clients that come and go until the end; the first panic among them is the test's.
async fn crowd(world: Arc<World>, seed: u64) {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn_local(succession(Arc::clone(&world), seed, number));
    }
    while let Some(done) = clients.join_next().await {
        if let Err(failure) = done {
            resume_unwind(failure.into_panic());
        }
    }
}

async fn succession(world: Arc<World>, seed: u64, number: u64) {
    let mut dice = Dice::new(seed, number << 32);
    for life in 1.. {
        if world.over() {
            break;
        }
        let tag = format!("c{number}.{life}");
        let own = Dice::new(seed, (number << 32) + life);
        match dice.below(20) {
            0..=10 => Box::pin(polite::live(Arc::clone(&world), own, tag)).await,
            11..=16 => Box::pin(raw::live(Arc::clone(&world), own, tag)).await,
            _ => Box::pin(vandal::live(Arc::clone(&world), own, tag)).await,
        }
    }
}

/// Once all clients have gone, their transactions, locks and temporary tables are gone as well.
fn nothing_is_left(primary: &Node, pooled: bool) {
    let others = format!(
        "FROM pg_stat_activity WHERE datname = '{DATABASE}' AND pid <> pg_backend_pid() \
         AND application_name <> 'pgweir monitor'"
    );
    let count = |what: &str| {
        primary
            .psql_in(DATABASE, &format!("SELECT count(*) {what}"))
            .unwrap()
    };
    support::eventually("no transaction is open", || {
        count(&format!("{others} AND state <> 'idle'")) == "0"
    });
    support::eventually("no advisory lock is held", || {
        count("FROM pg_locks WHERE locktype = 'advisory'") == "0"
    });
    support::eventually("no temporary table is left", || {
        count("FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'") == "0"
    });
    if pooled {
        let servers: usize = count(&others).parse().unwrap();
        assert!(
            servers <= POOL_SIZE,
            "{servers} servers, although the pool has {POOL_SIZE}"
        );
    }
}

/// New clients on every server at once find nothing of those before them.
async fn servers_are_clean(world: &World) {
    let clients = (0..POOL_SIZE).map(async |_| {
        let session = Session::connect(&world.url).await;
        session.batch_execute("BEGIN").await.unwrap();
        let row: String = session.query_one_scalar(&tagged_rows("'last'", "1"), &[]).await.unwrap();
        assert_eq!(row, Settings::fresh().row("last", ""));
        let left = "SELECT (SELECT count(*) FROM pg_listening_channels()) + (SELECT count(*) FROM pg_cursors WHERE is_holdable)";
        assert_eq!(session.query_one_scalar::<i64, _>(left, &[]).await.unwrap(), 0);
        session
    });
    let sessions = join_all(clients).await;
    for session in sessions {
        session.batch_execute("COMMIT").await.unwrap();
    }
}

/// Every acknowledged write is there once; nothing that was rolled back is there, nor anything that nobody wrote.
fn ledger_is_right(primary: &Node, world: &World) {
    let found = primary
        .psql_in(
            DATABASE,
            "SELECT tag, n, count(*) FROM ledger GROUP BY 1, 2",
        )
        .unwrap();
    let mut ledger = world.ledger();
    for line in found.lines() {
        let [tag, number, count] = line
            .split('|')
            .collect::<Vec<_>>()
            .try_into()
            .expect("three columns");
        let entry = (tag.to_owned(), number.parse().unwrap());
        let fate = ledger.remove(&entry);
        assert!(
            matches!(fate, Some(Fate::Committed | Fate::Unknown)) && count == "1",
            "{entry:?} is there {count} times, and it should be {fate:?}"
        );
    }
    let lost: Vec<_> = ledger
        .iter()
        .filter(|(_, fate)| **fate == Fate::Committed)
        .collect();
    assert!(lost.is_empty(), "committed, and not there: {lost:?}");
}
