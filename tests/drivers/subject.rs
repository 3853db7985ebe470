//! What the checks connect to: a pooler of their own in front of the shared cluster, or the cluster itself.

use std::{
    env,
    io::{Write as _, stderr},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use futures_util::future::join_all;

use crate::support::{self, Pgweir, PgweirBuilder};

/// Servers of the pooler: fewer than any check has clients.
const POOL_SIZE: usize = 4;

/// Longer than the watchdogs of the scripts, which know more.
const WATCHDOG: Duration = Duration::from_secs(180);

/// Clients of the checks that bring many.
pub(crate) const CLIENTS: usize = 12;

/// A database of its own to connect to.
pub(crate) struct Subject {
    url: String,
    /// Past the pooler.
    direct_url: String,
    /// Its Drop ends the pooler.
    _pooler: Option<Pgweir>,
    /// Its Drop calls the watchdog off.
    _end: mpsc::Sender<()>,
}

impl Subject {
    pub(crate) fn new() -> Self {
        Self::with(|pooler| pooler)
    }

    /// With settings of the pooler that the check is about.
    pub(crate) fn with(configure: impl FnOnce(PgweirBuilder) -> PgweirBuilder) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let cluster = support::postgres();
        let database = format!("subject_{}", MADE.fetch_add(1, Ordering::Relaxed));
        let primary = cluster.primary();
        primary
            .psql(&format!("CREATE DATABASE {database}"))
            .unwrap();
        let direct_url = primary.url("postgres", &database);
        if env::var_os("PGWEIR_TEST_DIRECT").is_some() {
            return Self::watched(direct_url.clone(), direct_url, None);
        }
        let pooler = configure(Pgweir::builder(cluster).pool_size(POOL_SIZE)).start();
        let url = pooler.url("postgres", &database);
        Self::watched(url, direct_url, Some(pooler))
    }

    /// Behind a pooler a hang is the likeliest fault, and it must be told like any other.
    fn watched(url: String, direct_url: String, pooler: Option<Pgweir>) -> Self {
        let (end, ended) = mpsc::channel::<()>();
        let log = pooler.as_ref().map(Pgweir::log);
        let test = thread::current().name().unwrap_or("a test").to_owned();
        thread::spawn(move || {
            if ended.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
                let log = log.map(|log| log.tail(200)).unwrap_or_default();
                // Not eprintln!: what a test prints is held back, and would be lost.
                drop(writeln!(
                    stderr(),
                    "{test} hangs: not done after {WATCHDOG:?}\n--- log of pgweir ---\n{log}"
                ));
                std::process::abort();
            }
        });
        Self {
            url,
            direct_url,
            _pooler: pooler,
            _end: end,
        }
    }

    /// Runs `client(number, url)` as many times at once as there are clients.
    pub(crate) async fn together(&self, client: impl AsyncFn(usize, &str)) {
        join_all((0..CLIENTS).map(|number| client(number, &self.url))).await;
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn direct_url(&self) -> &str {
        &self.direct_url
    }
}
