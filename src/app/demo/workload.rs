//! What the demo's clients do: each moves money between its own accounts, and reads.
//!
//! A client knows what its accounts must hold, as nobody else writes them, and compares every read
//! with it: a read that does not show the client's own last transfer is counted as stale. Locks are
//! never contended, so what is waited for is a server of the pool.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::wire::{Connection, WireError};
use crate::{config::describe, stats::Counter};

/// Name of the demo's user and of its database.
pub(super) const NAME: &str = "demo";
/// Clients that work.
pub(super) const CLIENTS: usize = 16;
const ACCOUNTS_EACH: usize = 10;
const FIRST_BALANCE: i64 = 1000;
/// Reads for each transfer.
const READS: usize = 9;
/// Between two steps of a client: it is small, so that a laptop stays cool.
const PAUSE: Duration = Duration::from_millis(4);
/// Before a client that failed comes back.
const RETRY: Duration = Duration::from_millis(500);

/// What has happened so far.
#[derive(Debug, Default)]
pub(super) struct Workload {
    /// Transfers that were committed.
    pub(super) transfers: Counter,
    /// Reads that were compared with what they had to show.
    pub(super) checked: Counter,
    /// Those that showed something older.
    pub(super) stale: Counter,
    /// Steps that failed.
    pub(super) errors: Counter,
    last_error: Mutex<Option<String>>,
    stopped: AtomicBool,
}

/// The demo cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the demo's database")]
pub(super) struct PrepareError(#[from] WireError);

/// Makes the user, the database and the accounts, directly on the primary.
pub(super) fn prepare(primary: SocketAddr) -> Result<(), PrepareError> {
    let mut server = Connection::open(primary, "postgres", "postgres")?;
    server.query(&format!("CREATE ROLE {NAME} LOGIN"))?;
    server.query(&format!("CREATE DATABASE {NAME} OWNER {NAME}"))?;
    let accounts = CLIENTS * ACCOUNTS_EACH;
    let mut owner = Connection::open(primary, NAME, NAME)?;
    owner.query("CREATE TABLE account (id integer PRIMARY KEY, balance bigint NOT NULL)")?;
    owner.query(&format!(
        "INSERT INTO account SELECT id, {FIRST_BALANCE} FROM generate_series(0, {accounts} - 1) id"
    ))?;
    Ok(())
}

impl Workload {
    /// Works as client `number` until [`Workload::stop`]; comes back after an error.
    pub(super) fn run(&self, pooler: SocketAddr, number: usize) {
        while !self.is_stopped() {
            if let Err(error) = self.work(pooler, number)
                && !self.is_stopped()
            {
                self.errors.add(1);
                *self.last() = Some(describe(&error));
                thread::sleep(RETRY);
            }
        }
    }

    /// Ends all clients, each after its step. One that waits for an answer ends with its connection.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// The latest error, if there was one.
    pub(super) fn last_error(&self) -> Option<String> {
        self.last().clone()
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn last(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, pooler: SocketAddr, number: usize) -> Result<(), WireError> {
        let mut client = Client {
            connection: Connection::open(pooler, NAME, NAME)?,
            first: number * ACCOUNTS_EACH,
            balances: Vec::new(),
        };
        client.take_stock()?;
        let mut account = 0;
        while !self.is_stopped() {
            client.transfer(account)?;
            self.transfers.add(1);
            for _ in 0..READS {
                // The first read is of the account that has just been paid into.
                account = (account + 1) % ACCOUNTS_EACH;
                self.checked.add(1);
                if !client.read(account)? {
                    self.stale.add(1);
                }
                thread::sleep(PAUSE);
                if self.is_stopped() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// One client, and what it knows of its accounts.
struct Client {
    connection: Connection,
    /// The number of its first account.
    first: usize,
    balances: Vec<i64>,
}

impl Client {
    /// Learns what its accounts hold: a connection that broke may have left a transfer undone or done.
    fn take_stock(&mut self) -> Result<(), WireError> {
        let (first, end) = (self.first, self.first + ACCOUNTS_EACH);
        // The lock makes it a write, which no replica may answer.
        let rows = self.connection.query(&format!(
            "SELECT balance FROM account WHERE id >= {first} AND id < {end} ORDER BY id FOR UPDATE"
        ))?;
        self.balances = rows.iter().map(|row| number(row)).collect();
        self.balances.resize(ACCOUNTS_EACH, FIRST_BALANCE);
        Ok(())
    }

    /// Pays 1 from `account` to the next.
    fn transfer(&mut self, account: usize) -> Result<(), WireError> {
        let next = (account + 1) % ACCOUNTS_EACH;
        self.connection.query("BEGIN")?;
        for (account, amount) in [(account, -1), (next, 1)] {
            self.connection.query(&format!(
                "UPDATE account SET balance = balance + ({amount}) WHERE id = {}",
                self.first + account
            ))?;
        }
        self.connection.query("COMMIT")?;
        self.balances[account] -= 1;
        self.balances[next] += 1;
        Ok(())
    }

    /// Reads `account`; answers whether it holds what it must.
    fn read(&mut self, account: usize) -> Result<bool, WireError> {
        let rows = self.connection.query(&format!(
            "SELECT balance FROM account WHERE id = {}",
            self.first + account
        ))?;
        Ok(rows.first().map(|row| number(row)) == Some(self.balances[account]))
    }
}

/// A number as PostgreSQL writes it; what is none is no balance either.
fn number(text: &[u8]) -> i64 {
    str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(i64::MIN)
}
