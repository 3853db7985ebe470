//! A well-behaved client beside all the others, which must notice nothing of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::support::{
    Pgweir,
    wire::{self, Wire},
};

/// Asks one thing after the other on a thread of its own, and takes nothing but the right answers.
pub(crate) struct Neighbour {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Neighbour {
    /// Connects to the database `postgres`, as the user `postgres`, and begins.
    pub(crate) fn of(pooler: &Pgweir) -> Self {
        let address = pooler.address();
        let is_over = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(live(address, &watched))
        });
        Self { is_over, thread }
    }

    /// Ends it; fails the test if anything was wrong.
    pub(crate) fn bid_farewell(self) {
        self.is_over.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(rounds) => assert_ne!(rounds, 0, "it asks at least once"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

async fn live(address: SocketAddr, is_over: &AtomicBool) -> u64 {
    let parameters = [("user", "postgres"), ("database", "postgres")];
    let mut client = Wire::login(address, &parameters).await;
    client
        .send(&[wire::parse("mine", "SELECT $1 || 'x'"), wire::sync()].concat())
        .await;
    assert_eq!(client.answers().await, ["1", "Z I"]);
    let mut rounds = 0;
    loop {
        rounds += 1;
        assert_eq!(
            client.scalar(&format!("SELECT {rounds}")).await,
            rounds.to_string()
        );
        let number = rounds.to_string();
        let batch = [
            wire::bind("mine", &[number.as_bytes()]),
            wire::execute(),
            wire::sync(),
        ];
        client.send(&batch.concat()).await;
        let row = format!("D {rounds}x");
        assert_eq!(client.answers().await, ["2", &row, "C SELECT 1", "Z I"]);
        client.send(&wire::query("BEGIN; SELECT 'in'")).await;
        let found = client.answers().await;
        assert_eq!(found, ["C BEGIN", "T", "D in", "C SELECT 1", "Z T"]);
        assert_eq!(client.ask("COMMIT").await, ["C COMMIT", "Z I"]);
        if is_over.load(Ordering::Relaxed) {
            return rounds;
        }
    }
}
