//! What a pool has under its lock: idle servers, waiting clients, and what decides whether more
//! connections are made.
//!
//! Wakes nobody: it answers who is to be woken, and the pool does that once the lock is free. Whoever looks
//! for an idle server closes the dead ones on the way, and sends those that were idle for long to a check.

use std::{collections::VecDeque, sync::Arc, task::Waker, time::Duration};

use hashbrown::HashMap;
use tokio::{runtime::Id as WorkerId, time::Instant};

use super::{CheckoutError, Pool, Ticket};
use crate::{
    config::PoolSettings,
    server::{Server, ServerLogin, ServerRecord, login::Parameters},
    session::Settings,
};

/// What the lock of a pool guards.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) settings: Arc<PoolSettings>,
    pub(super) login: Arc<ServerLogin>,
    pub(super) gate: Gate,
    pub(super) idle: VecDeque<Box<Server>>,
    pub(super) waiters: VecDeque<Waiter>,
    /// All connections, in the making or made.
    pub(super) total: usize,
    pub(super) connecting: usize,
    pub(super) back_off: Option<BackOff>,
    pub(super) welcome: Option<Parameters>,
    /// What servers report under settings that they have accepted.
    pub(super) proved: HashMap<Arc<Settings>, Parameters>,
    pub(super) records: HashMap<u64, Arc<ServerRecord>>,
    /// Counts RECONNECT: servers of an earlier count are closed when they come back.
    pub(super) generation: u64,
    /// Since when it has been seen without connections and waiters.
    pub(super) unused_since: Option<Instant>,
}

/// A client in the queue.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) since: Instant,
    pub(super) ticket: Arc<Ticket>,
}

/// Whether servers are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// PAUSE: clients wait.
    Paused,
    /// Nobody will be served any more.
    Closed,
}

/// After a failed connect: how long not to try again, and what to tell meanwhile.
#[derive(Debug)]
pub(super) struct BackOff {
    pub(super) until: Instant,
    pub(super) delay: Duration,
    pub(super) error: Arc<CheckoutError>,
}

/// How much longer than their own clients those of another pool must have waited for a connection
/// under a shared limit to be closed for them: each time costs a login.
const TURN: Duration = Duration::from_millis(100);

/// The first pause after a failed connect; doubled up to `server_login_retry`.
const FIRST_RETRY: Duration = Duration::from_millis(100);

impl Inner {
    /// Without connections.
    pub(super) fn new(settings: Arc<PoolSettings>, login: Arc<ServerLogin>) -> Self {
        Self {
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
        }
    }

    /// An idle server that nothing speaks against, preferably of `worker`'s reactor.
    pub(super) fn take_idle(
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
    pub(super) fn hand_over(&mut self, mut server: Box<Server>) -> Result<Waker, Box<Server>> {
        while let Some(waiter) = self.waiters.pop_front() {
            match waiter.ticket.serve(server) {
                Ok(waker) => return Ok(waker),
                Err(unwanted) => server = unwanted,
            }
        }
        Err(server)
    }

    /// Since when the oldest of the present waiters has waited.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiters.front().map(|waiter| waiter.since)
    }

    /// Whether its clients let those of another pool go first, who have waited since `rival` for a
    /// connection under a shared limit.
    pub(super) fn yields_to(&self, rival: Instant) -> bool {
        let own = self.waiting_since();
        own.is_none_or(|own| rival + TURN <= own)
    }

    /// Since when a client has waited, if a further connection would help and could be made.
    pub(super) fn starved_since(&self) -> Option<Instant> {
        let since = self.waiting_since()?;
        let is_helpless = self.gate != Gate::Open || self.total >= self.room() || self.backs_off();
        (!is_helpless).then_some(since)
    }

    pub(super) fn forget(&mut self, server: &Server) {
        self.forget_record(&server.record);
    }

    pub(super) fn forget_record(&mut self, record: &ServerRecord) {
        self.records.remove(&record.id);
        self.total -= 1;
    }

    /// `server_lifetime`, less a part of its jitter that differs from one connection to the next.
    pub(super) fn lifetime(&self, id: u64) -> Duration {
        let settings = &self.settings;
        let jitter = settings.server_lifetime_jitter.of(settings.server_lifetime);
        // The fractional part of multiples of the golden ratio spreads evenly.
        let spread = (f64::from(u32::try_from(id & 0xffff).unwrap_or(0)) * 0.618_034).fract();
        settings
            .server_lifetime
            .saturating_sub(jitter.mul_f64(spread))
    }

    /// All present connections are to be replaced when they are next given back.
    pub(super) fn supersede(&mut self) {
        self.generation += 1;
        for record in self.records.values() {
            record.need_close();
        }
    }

    /// How many connections should be in the making.
    pub(super) fn wanted(&self) -> usize {
        let minimum = self
            .settings
            .min_pool_size
            .saturating_sub(self.total - self.connecting);
        self.waiters.len().max(minimum)
    }

    /// How many connections there may be now.
    pub(super) fn room(&self) -> usize {
        let reserve = match (self.waiting_since(), self.settings.reserve_pool_timeout) {
            (Some(since), Some(delay)) if since.elapsed() >= delay => {
                self.settings.reserve_pool_size
            }
            _ => 0,
        };
        self.settings.pool_size + reserve
    }

    pub(super) fn backs_off(&self) -> bool {
        self.back_off
            .as_ref()
            .is_some_and(|back_off| Instant::now() < back_off.until)
    }

    /// The error for a new waiter, when there is no connection and none can be made now.
    pub(super) fn hopeless(&self) -> Option<Arc<CheckoutError>> {
        let back_off = self.back_off.as_ref()?;
        (self.total == 0 && Instant::now() < back_off.until).then(|| Arc::clone(&back_off.error))
    }

    /// Lengthens the back-off; answers the waiters that there is no hope for.
    pub(super) fn on_connect_failed(&mut self, error: &Arc<CheckoutError>) -> VecDeque<Waiter> {
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
