//! What operators and time do to a pool: PAUSE, RESUME, RECONNECT, the end, and the closing of what is old.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{CheckoutError, Pool, inner::Gate, wake};
use crate::server::{Server, ServerRecord};

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
    /// PAUSE: nobody gets a server any more; idle ones are closed, the others as they come back.
    pub fn pause(self: &Arc<Self>) {
        let mut inner = self.lock();
        if inner.gate == Gate::Open {
            inner.gate = Gate::Paused;
        }
        drop(inner);
        self.close_idle(|_| true);
    }

    /// Whether PAUSE holds it.
    pub fn is_paused(&self) -> bool {
        self.lock().gate == Gate::Paused
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
    pub(super) fn close_idle(self: &Arc<Self>, mut unwanted: impl FnMut(&mut Server) -> bool) {
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
    pub(super) fn to_close_fast(&self) -> Vec<u64> {
        let inner = self.lock();
        if !inner.settings.server_fast_close {
            return Vec::new();
        }
        let records = inner.records.values();
        let superseded = records.filter(|record| record.is_close_needed());
        superseded.map(|record| record.id).collect()
    }

    /// The numbers of its server connections.
    pub(super) fn servers(&self) -> Vec<u64> {
        self.lock().records.keys().copied().collect()
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
}
