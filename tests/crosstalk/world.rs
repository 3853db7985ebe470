//! What all clients share: where to connect, what was written, whose keys are stale, and what has happened so far.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

/// Schemas that hold a table `who` with one row, the schema's name.
pub(crate) const SCHEMAS: [&str; 6] = ["public", "s1", "s2", "s3", "s4", "s5"];

/// Longer than anything may take that is not a hang.
const PATIENCE: Duration = Duration::from_secs(90);

/// What has become of one row of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Asked for, and no answer seen: both ends are right.
    Unknown,
    Committed,
    RolledBack,
}

pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    pub(crate) database: String,
    pub(crate) end: Instant,
    /// PostgreSQL's major version.
    pub(crate) server_version: u32,
    /// Clients that may hold a server beyond a transaction, at the same time.
    pub(crate) pins: Semaphore,
    ledger: Mutex<HashMap<(String, i32), Fate>>,
    stale_keys: Mutex<Vec<Vec<u8>>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    rows: AtomicU64,
}

impl World {
    pub(crate) fn new(url: &str, database: &str, end: Instant, server_version: u32) -> Self {
        let config: tokio_postgres::Config = url.parse().unwrap();
        Self {
            url: url.to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], config.get_ports()[0])),
            database: database.to_owned(),
            end,
            server_version,
            pins: Semaphore::new(2),
            ledger: Mutex::default(),
            stale_keys: Mutex::default(),
            counts: Mutex::default(),
            rows: AtomicU64::new(0),
        }
    }

    /// Notes that `what` was done, so that the end can tell a test from an idle one.
    pub(crate) fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().unwrap().clone()
    }

    pub(crate) fn count_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self, tag: &str, numbers: &[i32], fate: Fate) {
        let mut ledger = self.ledger.lock().unwrap();
        for number in numbers {
            ledger.insert((tag.to_owned(), *number), fate);
        }
    }

    pub(crate) fn ledger(&self) -> HashMap<(String, i32), Fate> {
        self.ledger.lock().unwrap().clone()
    }

    /// Keeps the cancel key of a session that has ended.
    pub(crate) fn bury(&self, key: Vec<u8>) {
        self.stale_keys.lock().unwrap().push(key);
    }

    pub(crate) fn stale_key(&self, choose: impl FnOnce(usize) -> usize) -> Option<Vec<u8>> {
        let keys = self.stale_keys.lock().unwrap();
        (!keys.is_empty()).then(|| keys[choose(keys.len())].clone())
    }

    pub(crate) fn over(&self) -> bool {
        Instant::now() >= self.end
    }
}

/// Awaits what must not hang.
pub(crate) async fn soon<T>(what: &str, who: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("{who} hangs: {what} is not done after {PATIENCE:?}"),
    }
}

/// The settings that a client has set, as its rows must show them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) custom: String,
    pub(crate) timeout: String,
    pub(crate) schema: &'static str,
}

impl Settings {
    pub(crate) fn fresh() -> Self {
        Self {
            custom: String::new(),
            timeout: "0".to_owned(),
            schema: SCHEMAS[0],
        }
    }

    /// The one column of a row of [`tagged_rows`].
    pub(crate) fn row(&self, asked: &str, tag: &str) -> String {
        let Self {
            custom,
            timeout,
            schema,
        } = self;
        format!("{asked}|{tag}|{custom}|{timeout}|{schema}|{schema}")
    }
}

/// A query whose rows name who asked (`what`, an SQL expression) and every setting of the session. Its text is the
/// same for all clients when `what` and `count` are parameters; what it means depends on the search_path.
pub(crate) fn tagged_rows(what: &str, count: &str) -> String {
    format!(
        "SELECT concat_ws('|', {what}, current_setting('application_name'), \
         coalesce(current_setting('xt.tag', true), ''), current_setting('statement_timeout'), \
         current_schema(), me) FROM who, generate_series(1, {count})"
    )
}
