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
pub mod health;
pub mod limit;
pub mod monitor;
pub mod pools;
pub mod seats;
pub mod wait;
pub mod watch;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use hashbrown::HashMap;
use tokio::{runtime::Id as WorkerId, time::Instant};
use tokio_util::task::TaskTracker;

pub use self::{
    clients::{ClientRecord, ClientState, Clients, Signal},
    cluster::{Cluster, Hosts},
    limit::Limit,
    pools::{Pools, Servers},
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
#[derive(Debug)]
struct Inner {
    settings: Arc<PoolSettings>,
    login: Arc<ServerLogin>,
    gate: Gate,
    idle: VecDeque<Box<Server>>,
    waiters: VecDeque<Waiter>,
    /// All connections, in the making or made.
    total: usize,
    connecting: usize,
    back_off: Option<BackOff>,
    welcome: Option<Parameters>,
    /// What servers report under settings that they have accepted.
    proved: HashMap<Arc<Settings>, Parameters>,
    records: HashMap<u64, Arc<ServerRecord>>,
    /// Counts RECONNECT: servers of an earlier count are closed when they come back.
    generation: u64,
    /// Since when it has been seen without connections and waiters.
    unused_since: Option<Instant>,
}

/// A client in the queue.
#[derive(Debug)]
struct Waiter {
    since: Instant,
    ticket: Arc<Ticket>,
}

/// Whether servers are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// PAUSE: clients wait.
    Paused,
    /// Nobody will be served any more.
    Closed,
}

/// After a failed connect: how long not to try again, and what to tell meanwhile.
#[derive(Debug)]
struct BackOff {
    until: Instant,
    delay: Duration,
    error: Arc<CheckoutError>,
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

/// How much longer than their own clients those of another pool must have waited for a connection
/// under a shared limit to be closed for them: each time costs a login.
const TURN: Duration = Duration::from_millis(100);

/// The first pause after a failed connect; doubled up to `server_login_retry`.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// What a pool looks like at one moment, for the console.
#[derive(Clone, Debug, Default)]
pub struct PoolView {
    /// Idle server connections.
    pub idle: usize,
    /// Connections being made.
    pub connecting: usize,
    /// Connections in all, made or in the making.
    pub total: usize,
    /// Clients in the queue.
    pub waiting: usize,
    /// How long the oldest of them has waited.
    pub max_wait: Duration,
    /// Whether PAUSE holds it.
    pub paused: bool,
    /// Every connection.
    pub servers: Vec<Arc<ServerRecord>>,
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
            inner: Mutex::new(Inner {
                settings,
                login,
                gate: Gate::Open,
                idle: VecDeque::new(),
                waiters: VecDeque::new(),
                total: 0,
                connecting: 0,
                back_off: None,
                welcome: None,
                proved: HashMap::new(),
                records: HashMap::new(),
                generation: 0,
                unused_since: None,
            }),
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
        let yields = rival.is_some_and(|rival| {
            let own = inner.waiting_since();
            own.is_none_or(|own| rival + TURN <= own)
        });
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

    /// A connection was closed: whoever waits for its place may go on.
    fn on_closed(self: &Arc<Self>) {
        self.give_back_limits();
        let contended = self.contended_limits();
        let mut pools: Vec<_> = contended.flat_map(|limit| limit.siblings()).collect();
        if pools.is_empty() {
            return self.kick();
        }
        pools.push(Arc::clone(self));
        // The place goes to whoever has waited longest.
        pools.sort_by_cached_key(|pool| {
            let since = pool.lock().starved_since();
            (since.is_none(), since)
        });
        pools.iter().for_each(Self::kick);
    }

    fn contended_limits(&self) -> impl Iterator<Item = &Arc<Limit>> {
        let limits = [&self.database_limit, &self.user_limit];
        limits.into_iter().filter(|limit| limit.is_contended())
    }

    /// Since when somebody of another pool has waited for a connection that a shared limit denies.
    fn rival_waiting_since(self: &Arc<Self>) -> Option<Instant> {
        let mut rival = None;
        for limit in self.contended_limits() {
            let mut is_contended = false;
            for pool in limit.siblings() {
                let Some(since) = pool.lock().starved_since() else {
                    continue;
                };
                is_contended = true;
                if !Arc::ptr_eq(&pool, self) {
                    rival = Some(rival.map_or(since, |rival: Instant| rival.min(since)));
                }
            }
            limit.set_contended(is_contended);
        }
        rival
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

    fn connect_missing(self: &Arc<Self>, inner: &mut Inner) {
        let concurrency = inner.settings.server_connect_concurrency;
        while inner.wanted() > inner.connecting && inner.connecting < concurrency {
            if inner.total >= inner.room() || inner.backs_off() || !self.take_limits(inner) {
                return;
            }
            inner.total += 1;
            inner.connecting += 1;
            let pool = Arc::clone(self);
            let login = Arc::clone(&inner.login);
            let generation = inner.generation;
            self.shared.tasks.spawn(async move {
                let id = pool.shared.next_server.fetch_add(1, Ordering::Relaxed);
                let outcome = login.log_in(id, &pool.shared.defaults).await;
                pool.on_connected(outcome, generation);
            });
        }
    }

    fn on_connected(
        self: &Arc<Self>,
        outcome: Result<(Box<Server>, Parameters), ConnectError>,
        generation: u64,
    ) {
        let mut inner = self.lock();
        inner.connecting -= 1;
        match outcome {
            Ok((mut server, parameters)) => {
                inner.back_off = None;
                inner.welcome = Some(parameters);
                // The same moment for both: with a lifetime of 0 it still serves once.
                let now = Instant::now();
                server.expires_at = now + inner.lifetime(server.record.id);
                server.generation = generation;
                inner
                    .records
                    .insert(server.record.id, Arc::clone(&server.record));
                drop(inner);
                self.release_at(server, now);
                self.kick();
            }
            Err(error) => {
                inner.total -= 1;
                let reason = describe(&error);
                tracing::warn!(pool = %self.name, reason, "cannot connect to server");
                let error = Arc::new(CheckoutError::Connect(error));
                let failed = inner.on_connect_failed(&error);
                drop(inner);
                self.give_back_limits();
                for waiter in failed {
                    wake(waiter.ticket.fail(Arc::clone(&error)));
                }
                self.retry_later();
            }
        }
    }

    /// Tries again when the back-off is over, if somebody waits then.
    fn retry_later(self: &Arc<Self>) {
        let Some(until) = self.lock().back_off.as_ref().map(|back_off| back_off.until) else {
            return;
        };
        let pool = Arc::clone(self);
        self.shared.tasks.spawn(async move {
            tokio::time::sleep_until(until).await;
            pool.kick();
        });
    }

    /// Counts a connection against the limits that pools share; makes room for a client that waits by
    /// closing an idle connection of a sibling.
    fn take_limits(self: &Arc<Self>, inner: &Inner) -> bool {
        let is_awaited = !inner.waiters.is_empty();
        if !self.take_limit(&self.database_limit, is_awaited) {
            return false;
        }
        if !self.take_limit(&self.user_limit, is_awaited) {
            self.database_limit.give_back();
            return false;
        }
        true
    }

    fn take_limit(self: &Arc<Self>, limit: &Limit, is_awaited: bool) -> bool {
        if limit.take() {
            return true;
        }
        if !is_awaited {
            return false;
        }
        let siblings = limit.siblings();
        let mut others = siblings.iter().filter(|pool| !Arc::ptr_eq(pool, self));
        let taken = others.any(|sibling| sibling.evict_idle()) && limit.take();
        if !taken {
            limit.set_contended(true);
        }
        taken
    }

    /// Closes the connection that has been idle longest, if nobody waits for it.
    fn evict_idle(&self) -> bool {
        // A sibling that is busy with its own queue has no idle connection to spare.
        let Ok(mut inner) = self.inner.try_lock() else {
            return false;
        };
        let Some(server) = inner.idle.pop_front() else {
            return false;
        };
        inner.forget(&server);
        drop(inner);
        self.give_back_limits();
        server.close();
        true
    }

    fn give_back_limits(&self) {
        self.database_limit.give_back();
        self.user_limit.give_back();
    }

    /// PAUSE: nobody gets a server any more; idle ones are closed, the others as they come back.
    pub fn pause(self: &Arc<Self>) {
        let mut inner = self.lock();
        if inner.gate == Gate::Open {
            inner.gate = Gate::Paused;
        }
        drop(inner);
        self.close_idle(|_| true);
    }

    /// RESUME.
    pub fn resume(self: &Arc<Self>) {
        let mut inner = self.lock();
        if inner.gate == Gate::Paused {
            inner.gate = Gate::Open;
        }
        drop(inner);
        self.kick();
    }

    /// RECONNECT: every connection is replaced when it is next given back.
    pub fn reconnect(self: &Arc<Self>) {
        self.lock().supersede();
        self.close_idle(|_| true);
    }

    /// The end: waiting clients are told, idle connections are closed, the others as they come back.
    pub fn shut_down(self: &Arc<Self>) {
        let mut inner = self.lock();
        inner.gate = Gate::Closed;
        let waiters = std::mem::take(&mut inner.waiters);
        drop(inner);
        let error = Arc::new(CheckoutError::Shutdown);
        for waiter in waiters {
            wake(waiter.ticket.fail(Arc::clone(&error)));
        }
        self.close_idle(|_| true);
    }

    /// Closes idle connections that `unwanted` picks.
    fn close_idle(self: &Arc<Self>, mut unwanted: impl FnMut(&mut Server) -> bool) {
        let mut inner = self.lock();
        let (closing, kept): (Vec<_>, VecDeque<_>) = {
            let mut closing = Vec::new();
            let mut kept = VecDeque::new();
            for mut server in inner.idle.drain(..) {
                if unwanted(&mut server) {
                    closing.push(server)
                } else {
                    kept.push_back(server)
                }
            }
            (closing, kept)
        };
        inner.idle = kept;
        for server in &closing {
            inner.forget(server);
        }
        drop(inner);
        for server in closing {
            server.close();
            self.on_closed();
        }
    }

    /// What time brings: old and long idle connections are closed, missing ones made.
    pub fn tend(self: &Arc<Self>, now: Instant) {
        let settings = self.settings();
        let minimum = settings.min_pool_size;
        let total = self.lock().total;
        let mut surplus = total.saturating_sub(minimum);
        self.close_idle(|server| {
            let idle_too_long = settings
                .server_idle_timeout
                .is_some_and(|limit| now.duration_since(server.idle_since) >= limit);
            // Whatever an idle server has to say, it is of no use any more.
            let is_useless = now >= server.expires_at || server.has_pending_input();
            let close = is_useless || (idle_too_long && surplus > 0);
            surplus -= usize::from(close && surplus > 0);
            close
        });
        let mut inner = self.lock();
        let is_unused = inner.total == 0 && inner.waiters.is_empty();
        inner.unused_since = is_unused.then(|| inner.unused_since.unwrap_or(now));
        drop(inner);
        self.kick();
    }

    /// Servers that are to be closed even while a client keeps them (`server_fast_close`).
    pub fn to_close_fast(&self) -> Vec<u64> {
        let inner = self.lock();
        if !inner.settings.server_fast_close {
            return Vec::new();
        }
        let records = inner.records.values();
        let superseded = records.filter(|record| record.is_close_needed());
        superseded.map(|record| record.id).collect()
    }

    /// The server can be reached again, as somebody else has found out. A login that it has refused, it
    /// would refuse again.
    pub(super) fn forgive(self: &Arc<Self>) {
        let mut inner = self.lock();
        let back_off = inner.back_off.as_ref();
        if back_off.is_some_and(|it| it.error.is_absence()) {
            inner.back_off = None;
            drop(inner);
            self.kick();
        }
    }

    /// Whether it has no connection and could not make one lately.
    pub fn is_stuck(&self) -> bool {
        let inner = self.lock();
        inner.total == 0 && inner.back_off.is_some()
    }

    /// How long it has had no connection and no waiter, as far as [`Pool::tend`] has seen.
    pub fn unused_for(&self, now: Instant) -> Duration {
        let unused_since = self.lock().unused_since;
        unused_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// Whether it has no connection and nobody waits.
    pub fn is_unused(&self) -> bool {
        let inner = self.lock();
        inner.total == 0 && inner.waiters.is_empty()
    }

    /// How it looks now.
    pub fn view(&self) -> PoolView {
        let inner = self.lock();
        PoolView {
            idle: inner.idle.len(),
            connecting: inner.connecting,
            total: inner.total,
            waiting: inner.waiters.len(),
            max_wait: inner
                .waiting_since()
                .map(|since| since.elapsed())
                .unwrap_or_default(),
            paused: inner.gate == Gate::Paused,
            servers: inner.records.values().map(Arc::clone).collect(),
        }
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

impl Inner {
    /// An idle server that nothing speaks against, preferably of `worker`'s reactor.
    fn take_idle(
        &mut self,
        pool: &Arc<Pool>,
        worker: Option<WorkerId>,
        now: Instant,
    ) -> Option<Box<Server>> {
        loop {
            let newest = self.idle.len().checked_sub(1)?;
            let chosen = if self.settings.server_round_robin {
                0
            } else {
                worker
                    .and_then(|id| self.idle.iter().rposition(|server| server.worker == id))
                    .unwrap_or(newest)
            };
            let mut server = self.idle.remove(chosen)?;
            if server.has_pending_input() {
                // Whatever an idle server has to say, it is a goodbye or cannot be attributed.
                self.forget(&server);
                server.close();
                pool.give_back_limits();
                continue;
            }
            match &self.settings.server_check_query {
                Some(query)
                    if now.duration_since(server.idle_since) > self.settings.server_check_delay =>
                {
                    pool.check(server, query.clone(), self.settings.server_connect_timeout);
                }
                _ => return Some(server),
            }
        }
    }

    /// Gives a server to the oldest waiter; answers whom to wake, or the server if nobody waits.
    fn hand_over(&mut self, mut server: Box<Server>) -> Result<Waker, Box<Server>> {
        while let Some(waiter) = self.waiters.pop_front() {
            match waiter.ticket.serve(server) {
                Ok(waker) => return Ok(waker),
                Err(unwanted) => server = unwanted,
            }
        }
        Err(server)
    }

    /// Since when the oldest of the present waiters has waited.
    fn waiting_since(&self) -> Option<Instant> {
        self.waiters.front().map(|waiter| waiter.since)
    }

    /// The same, if a further connection would help and could be made.
    fn starved_since(&self) -> Option<Instant> {
        let since = self.waiting_since()?;
        let is_helpless = self.gate != Gate::Open || self.total >= self.room() || self.backs_off();
        (!is_helpless).then_some(since)
    }

    fn forget(&mut self, server: &Server) {
        self.forget_record(&server.record);
    }

    fn forget_record(&mut self, record: &ServerRecord) {
        self.records.remove(&record.id);
        self.total -= 1;
    }

    /// `server_lifetime`, less a part of its jitter that differs from one connection to the next.
    fn lifetime(&self, id: u64) -> Duration {
        let settings = &self.settings;
        let jitter = settings.server_lifetime_jitter.of(settings.server_lifetime);
        // The fractional part of multiples of the golden ratio spreads evenly.
        let spread = (f64::from(u32::try_from(id & 0xffff).unwrap_or(0)) * 0.618_034).fract();
        settings
            .server_lifetime
            .saturating_sub(jitter.mul_f64(spread))
    }

    /// All present connections are to be replaced when they are next given back.
    fn supersede(&mut self) {
        self.generation += 1;
        for record in self.records.values() {
            record.need_close();
        }
    }

    /// How many connections should be in the making.
    fn wanted(&self) -> usize {
        let minimum = self
            .settings
            .min_pool_size
            .saturating_sub(self.total - self.connecting);
        self.waiters.len().max(minimum)
    }

    /// How many connections there may be now.
    fn room(&self) -> usize {
        let reserve = match (self.waiting_since(), self.settings.reserve_pool_timeout) {
            (Some(since), Some(delay)) if since.elapsed() >= delay => {
                self.settings.reserve_pool_size
            }
            _ => 0,
        };
        self.settings.pool_size + reserve
    }

    fn backs_off(&self) -> bool {
        self.back_off
            .as_ref()
            .is_some_and(|back_off| Instant::now() < back_off.until)
    }

    /// The error for a new waiter, when there is no connection and none can be made now.
    fn hopeless(&self) -> Option<Arc<CheckoutError>> {
        let back_off = self.back_off.as_ref()?;
        (self.total == 0 && Instant::now() < back_off.until).then(|| Arc::clone(&back_off.error))
    }

    /// Lengthens the back-off; answers the waiters that there is no hope for.
    fn on_connect_failed(&mut self, error: &Arc<CheckoutError>) -> VecDeque<Waiter> {
        let longest = self.settings.server_login_retry;
        let delay = match &self.back_off {
            Some(before) => (before.delay * 2).min(longest),
            None => FIRST_RETRY.min(longest),
        };
        let until = Instant::now() + delay;
        self.back_off = Some(BackOff {
            until,
            delay,
            error: Arc::clone(error),
        });
        if self.total > self.connecting {
            return VecDeque::new();
        }
        std::mem::take(&mut self.waiters)
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
