//! How a pool grows and makes room: connections for those who wait, the limits that pools share, and what
//! a failure to connect means.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::Instant;

use super::{CheckoutError, Limit, Pool, inner::Inner, wake};
use crate::{
    config::describe,
    server::{Server, connect_error::ConnectError, login::Parameters},
};

impl Pool {
    /// A connection was closed: whoever waits for its place may go on.
    pub(super) fn on_closed(self: &Arc<Self>) {
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
    pub(super) fn rival_waiting_since(self: &Arc<Self>) -> Option<Instant> {
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

    pub(super) fn connect_missing(self: &Arc<Self>, inner: &mut Inner) {
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
        if taken {
            return true;
        }
        limit.set_contended(true);
        limit.take()
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

    pub(super) fn give_back_limits(&self) {
        self.database_limit.give_back();
        self.user_limit.give_back();
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
}
