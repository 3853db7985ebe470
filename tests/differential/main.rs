//! The differential test: random conversations, each held twice, with PostgreSQL alone and through the pooler, whose
//! pool is smaller than the number of clients. Every answer must be the same to the byte, but for what names an
//! object or a process of the one database or the other.
//!
//! Left out is what docs/session-state.md says to be different; [`words`] says where.
//! What differs, or hangs, is repeated with less and less of its conversation while it still does.
//!
//! `PGWEIR_TEST_SEED=n` repeats the conversations of a run (not its timing), `PGWEIR_TEST_SECONDS=n` makes it longer,
//! `PGWEIR_TEST_CLIENT=n` lets one client speak alone.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics, and says what it did"
)]

#[path = "../support/mod.rs"]
mod support;

mod heard;
mod pair;
mod talk;
mod words;

use std::{
    cell::Cell, env, net::SocketAddr, panic::resume_unwind, process, rc::Rc, time::Duration,
};

use ::pgweir::sandbox::Cluster;
use tokio::{
    task::{JoinSet, LocalSet},
    time::Instant,
};

use crate::{
    pair::{Pair, Peers, shrink},
    support::{Pgweir, dice::Dice, wire::Wire},
    talk::Talk,
    words::Words,
};

const CLIENTS: u64 = 12;
const POOL_SIZE: usize = 4;
/// Rounds of one conversation.
const ROUNDS: usize = 12;

/// The database of those who speak with PostgreSQL alone, and that of those who speak through the pooler.
const DATABASES: [&str; 2] = ["alone", "pooled"];

#[test]
fn a_client_is_told_what_postgresql_would_tell_it() {
    for replicas in [0, 2] {
        run(replicas);
    }
}

fn number(name: &str) -> Option<u64> {
    env::var_os(name).map(|value| value.into_string().unwrap().parse().unwrap())
}

fn run(replicas: usize) {
    let seed = number("PGWEIR_TEST_SEED").unwrap_or_else(|| u64::from(process::id()));
    let seconds = number("PGWEIR_TEST_SECONDS").unwrap_or(8);
    println!("PGWEIR_TEST_SEED={seed}, {replicas} replicas");
    let builder = Cluster::builder(support::binaries()).replicas(replicas);
    let cluster = support::start(builder);
    for database in DATABASES {
        cluster
            .primary()
            .psql(&format!("CREATE DATABASE {database}"))
            .unwrap();
        let schemas: String = (0..CLIENTS).map(words::schema).collect();
        cluster.primary().psql_in(database, &schemas).unwrap();
    }
    let pooler = Pgweir::builder(&cluster).pool_size(POOL_SIZE);
    let pooler = pooler
        .pool("max_prepared_statements", "5")
        .pool("query_wait_notify", "0")
        .start();
    let peers = [
        SocketAddr::from(([127, 0, 0, 1], cluster.primary().port())),
        pooler.address(),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let crowd = async {
        // The first in a pool that asks for such a value in mid-transaction may be refused (docs/session-state.md).
        if !has_batch_blocks() {
            let parameters = [("user", "postgres"), ("database", DATABASES[1])];
            let mut first = Wire::login(peers[1], &parameters).await;
            first.ask("SELECT lastval()").await;
        }
        let end = Instant::now() + Duration::from_secs(seconds);
        let has_failed = Rc::new(Cell::new(false));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            if number("PGWEIR_TEST_CLIENT").is_none_or(|alone| alone == client) {
                clients.spawn_local(converse(
                    peers,
                    client,
                    replicas > 0,
                    seed,
                    end,
                    Rc::clone(&has_failed),
                ));
            }
        }
        let mut count = 0;
        while let Some(done) = clients.join_next().await {
            count += done.unwrap_or_else(|failure| resume_unwind(failure.into_panic()));
        }
        count
    };
    let count = LocalSet::new().block_on(&runtime, crowd);
    println!("{count} rounds");
    assert!(count > 200, "only {count} rounds were spoken");
}

/// See [`Talk`].
fn has_batch_blocks() -> bool {
    support::binaries().version >= 18
}

/// Conversations of one client, one after the other; answers how many rounds they had.
async fn converse(
    peers: Peers,
    client: u64,
    replicas: bool,
    seed: u64,
    end: Instant,
    has_failed: Rc<Cell<bool>>,
) -> usize {
    let mut count = 0;
    for life in 0.. {
        if Instant::now() >= end && !has_failed.get() {
            break;
        }
        let mut dice = Dice::new(seed, (client << 32) + life);
        let startup = words::startup(client, &mut dice);
        let words = Words {
            client,
            replicas,
            has_startup: !startup.is_empty(),
        };
        let mut talk = Talk::new(words, has_batch_blocks());
        let mut said = vec![talk.greeting()];
        let mut pair = Pair::login(peers, &startup).await;
        let mut difference = pair.greetings().await;
        while difference.is_none() && said.len() <= ROUNDS {
            let round = said.last().unwrap();
            difference = pair.speak(round, talk.status).await;
            if pair.is_over() {
                assert!(
                    difference.is_some() || !pair.heard[0].hangs(),
                    "PostgreSQL hangs, client {client}, life {life}\n{}\n{:#?}",
                    pair::in_words(&said),
                    pair.heard
                );
                break;
            }
            talk.hear(&pair.heard[0]);
            said.push(talk.round(&mut dice));
            count += 1;
        }
        if let Some(difference) = difference {
            println!(
                "PGWEIR_TEST_SEED={seed}, client {client}, life {life}, round {}\n{difference}",
                said.len()
            );
            drop(pair);
            // The others go on, since it may not happen without them; one failure is looked at.
            if has_failed.replace(true) {
                return count;
            }
            let (said, difference) = shrink(peers, &startup, said, difference).await;
            panic!("{startup:?}\n{}\n{difference}", pair::in_words(&said));
        }
        pair.part(dice.once_in(4)).await;
    }
    count
}
