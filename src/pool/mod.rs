//! The server connections of one (database, user, host), and the clients that wait for one.
//!
//! ```text
//!                 connect                      checkout
//!   (nothing) ─────────────▶ idle ───────────────────────────────▶ with a client
//!                             ▲  │ idle for long: check               │
//!                             │  └────────────▶ tested ──────┐        │ release
//!                             └──────────────────────────────┴────────┤
//!                                                                     │ not clean: recover
//!   (closed) ◀── too old, superseded, surplus, unclean ◀──────────────┘
//! ```
//!
//! Waiters are served first come, first served, whichever worker they are on. A server goes from
//! hand to hand; the pool's lock is held for queue operations only, never across an await, and never
//! while a peer is written to or a client woken.
//!
//! Knows no client protocol: an error for waiting clients is a [`CheckoutError`].

pub mod clients;
pub mod cluster;
pub mod fitness;
mod growth;
pub mod health;
mod inner;
pub mod limit;
pub mod monitor;
pub mod pools;
pub mod seats;
mod upkeep;
pub mod wait;
pub mod watch;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{runtime::Id as WorkerId, time::Instant};
use tokio_util::task::TaskTracker;

use self::inner::{Gate, Inner, Waiter};
pub use self::{
    clients::{CancelAsked, ClientRecord, ClientState, Clients, Signal},
    cluster::{Cluster, Hosts},
    limit::Limit,
    pools::{Pools, Servers},
    upkeep::PoolView,
    wait::Ticket,
    watch::Watch,
};
use crate::{
    config::{PoolMode, PoolSettings, describe},
    server::{
        Server, ServerLogin, ServerRecord, ServerState,
        connect_error::{ConnectError, ConnectFailure},
        login::Parameters,
        prove,
        recover::{self, Leftover, RecoverError, Recovery, Unfinished},
    },
    session::{Interners, Settings, SettingsInterner},
    stats::PoolStats,
};

/// Why a client does not get a server.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// No server connection can be made.
    #[error(transparent)]
    Connect(ConnectError),
    /// The wait took longer than `query_wait_timeout`.
    #[error("no server connection within {0:?} (query_wait_timeout)")]
    Timeout(Duration),
    /// The client was cancelled while it waited.
    #[error("canceling statement due to user request")]
    Canceled,
    /// The pool is being shut down.
    #[error("the pooler is shutting down")]
    Shutdown,
}

impl CheckoutError {
    /// Whether the server is not there or not ready, rather than it refused the login: then it may be
    /// there a moment later, or another one in its place.
    pub fn is_absence(&self) -> bool {
        let Self::Connect(error) = self else {
            return false;
        };
        let is_refusal = matches!(error.failure, ConnectFailure::Refused(_));
        !is_refusal || error.sqlstate().is_operator_intervention()
    }
}

/// Names a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolName {
    /// The database as clients ask for it.
    pub database: Box<str>,
    /// The user whose pool it is.
    pub user: Box<str>,
}

/// Server connections of one database, user and host.
#[derive(Debug)]
pub struct Pool {
    /// Whose pool it is.
    pub name: PoolName,
    /// What it has done.
    pub stats: PoolStats,
    /// What its sessions share.
    pub interners: Arc<Interners>,
    shared: Arc<Shared>,
    database_limit: Arc<Limit>,
    user_limit: Arc<Limit>,
    inner: Mutex<Inner>,
}

/// What all pools of the process share.
#[derive(Debug)]
pub struct Shared {
    /// Every task that a pool starts.
    pub tasks: TaskTracker,
    /// Every set of settings.
    pub settings: Arc<SettingsInterner>,
    /// Settings of a server without any.
    pub defaults: Arc<Settings>,
    next_server: AtomicU64,
    /// Numbers what catalogues were found to know.
    pub worlds: Arc<AtomicU64>,
}

impl Shared {
    /// For a process that starts; tasks are counted by `tasks`.
    pub fn new(tasks: TaskTracker, settings: Arc<SettingsInterner>) -> Self {
        Self {
            tasks,
            defaults: settings.intern(Settings::default()),
            settings,
            next_server: AtomicU64::new(1),
            worlds: Arc::default(),
        }
    }
}
/// Sets of settings that are remembered as accepted; all are forgotten when there are more.
const MAX_PROVED: usize = 512;

/// A server in the hands of a future that may be dropped.
struct Held {
    pool: Arc<Pool>,
    server: Option<Box<Server>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.pool.discard(server);
        }
    }
}

impl Pool {
    /// A pool without connections.
    pub fn new(
        name: PoolName,
        settings: Arc<PoolSettings>,
        login: Arc<ServerLogin>,
        interners: Arc<Interners>,
        shared: Arc<Shared>,
        limits: (Arc<Limit>, Arc<Limit>),
    ) -> Arc<Self> {
        let (database_limit, user_limit) = limits;
        let pool = Arc::new(Self {
            name,
            stats: PoolStats::default(),
            interners,
            shared,
            database_limit,
            user_limit,
            inner: Mutex::new(Inner::new(settings, login)),
        });
        pool.database_limit.add_pool(&pool);
        pool.user_limit.add_pool(&pool);
        pool
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<PoolSettings> {
        Arc::clone(&self.lock().settings)
    }

    /// How the pool logs in to its host.
    pub fn login(&self) -> Arc<ServerLogin> {
        Arc::clone(&self.lock().login)
    }

    /// What a client with these settings is told at login; `None` until a server was seen with them.
    pub fn welcome(&self, settings: &Settings) -> Option<Parameters> {
        let inner = self.lock();
        if settings.is_empty() {
            return inner.welcome.clone();
        }
        inner.proved.get(settings).map(Arc::clone)
    }

    /// Tries settings on a server that was checked out, and remembers what the server reports.
    ///
    /// # Cancel safety
    /// Dropping the future closes the server.
    pub async fn prove(
        self: &Arc<Self>,
        server: Box<Server>,
        settings: &Arc<Settings>,
    ) -> Result<Parameters, RecoverError> {
        let mut held = Held {
            pool: Arc::clone(self),
            server: Some(server),
        };
        let told = self.lock().welcome.clone().unwrap_or_default();
        let timeout = self.settings().server_connect_timeout;
        let Some(server) = &mut held.server else {
            return Ok(told);
        };
        let defaults = &self.shared.defaults;
        let outcome = prove::prove(server, settings, defaults, &told, timeout).await;
        let server = held.server.take();
        match (&outcome, server) {
            (Ok(parameters), Some(server)) => {
                let mut inner = self.lock();
                if inner.proved.len() >= MAX_PROVED {
                    inner.proved.clear();
                }
                inner
                    .proved
                    .insert(Arc::clone(settings), Arc::clone(parameters));
                drop(inner);
                self.release(server);
            }
            (Err(_), Some(server)) => self.discard(server),
            (_, None) => {}
        }
        outcome
    }

    /// New settings, and a new way to log in. Connections that would be made otherwise now are
    /// replaced; that only a secret has changed is the caller's to know.
    pub fn reconfigure(self: &Arc<Self>, settings: Arc<PoolSettings>, login: Arc<ServerLogin>) {
        let mut inner = self.lock();
        let replaced = !inner.login.is_same(&login);
        if replaced {
            inner.supersede();
            inner.proved.clear();
        }
        // What has failed may work now.
        inner.back_off = None;
        inner.login = login;
        inner.settings = settings;
        drop(inner);
        if replaced {
            self.close_idle(|_| true);
        }
    }

    /// Another way to prove who we are, learned from a client.
    pub fn set_login(&self, login: Arc<ServerLogin>) {
        let mut inner = self.lock();
        inner.back_off = None;
        inner.login = login;
    }

    /// Takes an idle server, if nobody waits and there is one: for this worker's reactor first.
    pub fn try_checkout(self: &Arc<Self>, worker: WorkerId, now: Instant) -> Option<Box<Server>> {
        let mut inner = self.lock();
        if inner.gate != Gate::Open || !inner.waiters.is_empty() {
            return None;
        }
        inner.take_idle(self, Some(worker), now)
    }

    /// Enters the queue, now. The outcome is asked for by [`Pool::poll_wait`].
    pub fn wait(self: &Arc<Self>, ticket: &Arc<Ticket>, waker: &Waker, now: Instant) {
        let mut inner = self.lock();
        ticket.wait(waker.clone());
        match inner.gate {
            Gate::Closed => {
                drop(inner);
                wake(ticket.fail(Arc::new(CheckoutError::Shutdown)));
                return;
            }
            Gate::Open => {
                if let Some(error) = inner.hopeless() {
                    drop(inner);
                    wake(ticket.fail(error));
                    return;
                }
            }
            Gate::Paused => {}
        }
        inner.waiters.push_back(Waiter {
            since: now,
            ticket: Arc::clone(ticket),
        });
        let woken = self.serve_waiters(&mut inner);
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
    }

    /// The outcome of a wait.
    pub fn poll_wait(
        ticket: &Ticket,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Box<Server>, Arc<CheckoutError>>> {
        ticket.outcome(cx.waker())
    }

    /// Leaves the queue.
    pub fn give_up(self: &Arc<Self>, ticket: &Arc<Ticket>) {
        let mut inner = self.lock();
        inner
            .waiters
            .retain(|waiter| !Arc::ptr_eq(&waiter.ticket, ticket));
        let served = ticket.give_up();
        drop(inner);
        if let Some(server) = served {
            self.release(server);
        }
    }

    /// Wakes all who wait: the server may not be what it was when they came.
    pub(super) fn wake_waiters(&self) {
        let inner = self.lock();
        let waiters = inner.waiters.iter();
        let wakers: Vec<_> = waiters.filter_map(|waiter| waiter.ticket.waker()).collect();
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Takes back a server that is proved clean. A cancel request under way is waited for first.
    pub fn release(self: &Arc<Self>, server: Box<Server>) {
        self.release_at(server, Instant::now());
    }

    /// As [`Pool::release`], by who knows what time it is.
    pub fn release_at(self: &Arc<Self>, mut server: Box<Server>, now: Instant) {
        if !server.fence.is_down() {
            server.record.set_state(ServerState::BeingCanceled);
            let pool = Arc::clone(self);
            let timeout = self.settings().server_recovery_timeout;
            self.shared.tasks.spawn(async move {
                let lowered = tokio::time::timeout(timeout, server.fence.lowered()).await;
                match lowered {
                    Ok(()) => pool.release(server),
                    Err(_) => pool.discard(server),
                }
            });
            return;
        }
        let rival = self.rival_waiting_since();
        let mut inner = self.lock();
        let surplus = inner.total > inner.settings.pool_size + inner.settings.reserve_pool_size;
        let stale = server.generation != inner.generation || inner.gate == Gate::Closed;
        let yields = rival.is_some_and(|rival| inner.yields_to(rival));
        if surplus || yields || stale || now > server.expires_at || !server.is_clean() {
            inner.forget(&server);
            drop(inner);
            self.on_closed();
            server.close();
            return;
        }
        server.record.set_state(ServerState::Idle);
        server.record.client.store(0, Ordering::Relaxed);
        server.idle_since = now;
        if inner.gate == Gate::Open {
            match inner.hand_over(server) {
                Ok(waker) => {
                    drop(inner);
                    waker.wake();
                    return;
                }
                Err(unwanted) => server = unwanted,
            }
        }
        if inner.gate == Gate::Paused {
            inner.forget(&server);
            drop(inner);
            self.on_closed();
            server.close();
            return;
        }
        inner.idle.push_back(server);
    }

    /// Closes a server that cannot be used any longer.
    pub fn discard(self: &Arc<Self>, server: Box<Server>) {
        self.lock().forget(&server);
        server.close();
        self.on_closed();
    }

    /// A server is gone, and nothing but its record is left.
    pub fn on_lost(self: &Arc<Self>, record: &ServerRecord) {
        self.lock().forget_record(record);
        self.on_closed();
    }

    /// Takes back a server in whatever state its client has left it: cleans it if that can be done.
    pub fn recover(
        self: &Arc<Self>,
        server: Box<Server>,
        unfinished: Unfinished,
        leftover: Leftover,
    ) {
        server.record.set_state(ServerState::Tested);
        let settings = self.settings();
        let recovery = Recovery {
            // In session mode the operator decides how thorough a reset is. In the other modes a
            // server that is not known to be clean must not be given to anybody else.
            reset_query: match settings.pool_mode {
                PoolMode::Session => settings.server_reset_query.clone(),
                PoolMode::Transaction | PoolMode::Statement => Some("DISCARD ALL".to_owned()),
            },
            always: match settings.pool_mode {
                PoolMode::Transaction | PoolMode::Statement
                    if settings.server_reset_query_always =>
                {
                    settings.server_reset_query.clone()
                }
                _ => None,
            },
            timeout: settings.server_recovery_timeout,
            defaults: Arc::clone(&self.shared.defaults),
        };
        let pool = Arc::clone(self);
        let record = Arc::clone(&server.record);
        self.shared.tasks.spawn(async move {
            match recover::recover(server, unfinished, leftover, &recovery).await {
                Ok(server) => pool.release(server),
                Err(error) => {
                    let reason = describe(&error);
                    tracing::info!(server = record.id, reason, "server not recovered, closed");
                    pool.on_lost(&record);
                }
            }
        });
    }

    /// Serves whoever can be served now.
    pub fn kick(self: &Arc<Self>) {
        let mut inner = self.lock();
        let woken = self.serve_waiters(&mut inner);
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Gives idle servers to waiters and starts what connections are missing.
    fn serve_waiters(self: &Arc<Self>, inner: &mut Inner) -> Vec<Waker> {
        let mut woken = Vec::new();
        if inner.gate != Gate::Open {
            return woken;
        }
        let now = Instant::now();
        while !inner.waiters.is_empty() {
            let Some(server) = inner.take_idle(self, None, now) else {
                break;
            };
            match inner.hand_over(server) {
                Ok(waker) => woken.push(waker),
                Err(server) => inner.idle.push_back(server),
            }
        }
        self.connect_missing(inner);
        woken
    }

    /// Checks a server that has been idle for long, away from the clients.
    fn check(self: &Arc<Self>, server: Box<Server>, query: String, timeout: Duration) {
        server.record.set_state(ServerState::Tested);
        let pool = Arc::clone(self);
        let record = Arc::clone(&server.record);
        self.shared.tasks.spawn(async move {
            match recover::check(server, &query, timeout).await {
                Ok(server) => pool.release(server),
                Err(error) => {
                    let reason = describe(&error);
                    tracing::info!(server = record.id, reason, "idle server failed its check");
                    pool.on_lost(&record);
                }
            }
        });
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl std::fmt::Display for PoolName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.database, self.user)
    }
}
