//! The console connections of a process: shown by SHOW CLIENTS, and found by their cancel keys.
//!
//! They count against no limit and belong to no pool, so they are not among the pools' clients. Their
//! process ids are negative; those of clients are positive, so neither can be taken for the other.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use subtle::ConstantTimeEq;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ConsoleLogin;
use crate::stats::PoolStats;

/// Bytes of a cancel key's secret: what protocol 3.0 prescribes and 3.2 allows.
const SECRET: usize = 4;

/// All console connections.
#[derive(Debug, Default)]
pub struct Sessions {
    /// What they have done, for SHOW STATS.
    pub stats: PoolStats,
    by_process_id: Mutex<BTreeMap<i32, Arc<SessionRecord>>>,
    next: AtomicU32,
}

/// One console connection.
#[derive(Debug)]
pub struct SessionRecord {
    /// Its number among all clients of the process.
    pub id: u64,
    /// Who it is.
    pub login: ConsoleLogin,
    /// When it logged in, in seconds since 1970.
    pub connected_at_unix: u64,
    /// When its last command began, in seconds since 1970.
    pub requested_at_unix: AtomicU64,
    /// The process id of its cancel key.
    pub process_id: i32,
    /// The secret of its cancel key.
    pub secret: [u8; SECRET],
    /// Wakes a command that waits, and nobody else.
    pub(super) canceled: Notify,
    /// Ends the connection.
    pub(super) killed: CancellationToken,
}

/// A console connection that is among the [`Sessions`] for as long as this lives.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    sessions: &'a Sessions,
    /// The connection.
    pub(super) record: Arc<SessionRecord>,
}

impl Sessions {
    /// Enters a connection under a number that no client has.
    pub(super) fn enter(
        &self,
        login: ConsoleLogin,
        id: u64,
        now_unix: u64,
    ) -> Result<Entered<'_>, getrandom::Error> {
        let mut secret = [0; SECRET];
        getrandom::fill(&mut secret)?;
        let mut by_process_id = self.lock();
        let process_id = loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff;
            let process_id = -1 - i32::try_from(number).expect("31 bits");
            if !by_process_id.contains_key(&process_id) {
                break process_id;
            }
        };
        let record = Arc::new(SessionRecord {
            id,
            login,
            connected_at_unix: now_unix,
            requested_at_unix: AtomicU64::new(now_unix),
            process_id,
            secret,
            canceled: Notify::new(),
            killed: CancellationToken::new(),
        });
        by_process_id.insert(process_id, Arc::clone(&record));
        Ok(Entered {
            sessions: self,
            record,
        })
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<SessionRecord>> {
        self.lock().values().map(Arc::clone).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Serves a CancelRequest; `false` if it means no console connection.
    pub fn cancel(&self, process_id: i32, secret: &[u8]) -> bool {
        let record = self.lock().get(&process_id).map(Arc::clone);
        let Some(record) = record.filter(|record| bool::from(record.secret.ct_eq(secret))) else {
            return false;
        };
        record.canceled.notify_waiters();
        true
    }

    /// Ends every console connection, for the end of the process.
    pub fn close(&self) {
        for record in self.all() {
            record.kill();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Arc<SessionRecord>>> {
        self.by_process_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionRecord {
    /// Ends the connection.
    pub fn kill(&self) {
        self.killed.cancel();
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.record.process_id);
    }
}
