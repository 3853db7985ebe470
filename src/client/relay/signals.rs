//! What others want of a client, and what time does to it.

use std::{sync::Arc, task::Context};

use tokio::time::Instant;

use super::{Ended, Relay};
use crate::{
    client::{
        error::{Cause, Failure},
        time_limits::{self, Activity, Doing, Limit},
    },
    config::PoolSettings,
    pool::{CancelAsked, CheckoutError, Signal},
    protocol::backend::TransactionStatus,
};

impl Relay {
    pub(super) fn on_signals(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let signals = self.record.take_signals();
        if signals.contains(Signal::Kill) {
            return Err(Ended::failed(Failure::new(Cause::Killed)));
        }
        if signals.contains(Signal::Drain) {
            self.drain = true;
        }
        if signals.contains(Signal::Settings) {
            self.on_settings();
        }
        if signals.contains(Signal::Cancel) {
            let asked = self.worker.clients.take_cancels(self.record.id);
            self.cancel(cx, asked)?;
        }
        if signals.contains(Signal::Deadline) {
            self.on_deadline(cx)?;
        }
        Ok(())
    }

    /// A reload has changed the settings of the pool. What the session was made with, it keeps.
    fn on_settings(&mut self) {
        let settings = self.record.pool.settings();
        let (mode, reset) = (settings.pool_mode, settings.server_reset_query_always);
        let own = &self.settings;
        let had_limits = time_limits::has_limits(own);
        self.settings = if (mode, reset) == (own.pool_mode, own.server_reset_query_always) {
            settings
        } else {
            Arc::new(PoolSettings {
                pool_mode: own.pool_mode,
                server_reset_query_always: own.server_reset_query_always,
                ..PoolSettings::clone(&settings)
            })
        };
        if had_limits || self.is_waiting() {
            self.set_deadline();
        } else {
            // Nobody has looked since when.
            self.turn_to(self.doing(), Instant::now());
        }
    }

    /// Cancels what the client is waiting for: its place in the queue, or what its server runs. Those who have asked for it
    /// are told when no request can hit what the client does next.
    pub(super) fn cancel(
        &mut self,
        cx: &mut Context<'_>,
        asked: Vec<CancelAsked>,
    ) -> Result<(), Ended> {
        if self.is_waiting() {
            self.leave_queue();
            return self.refuse(cx, &Failure::checkout(&CheckoutError::Canceled));
        }
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        if !server.fence.is_down() {
            let fence = server.fence.clone();
            self.worker.tasks.spawn(async move {
                fence.lowered().await;
                drop(asked);
            });
        } else if !server.state.pipeline.is_empty() {
            let under_way = server.fence.raise();
            let target = server.cancel.clone();
            let id = server.record.id;
            self.worker.tasks.spawn(async move {
                if let Err(error) = target.cancel().await {
                    let reason = crate::config::describe(&error);
                    tracing::warn!(server = id, reason, "cancel request failed");
                }
                drop((under_way, asked));
            });
        }
        Ok(())
    }

    /// What the client does, as far as limits tell it apart.
    pub(super) fn doing(&self) -> Doing {
        match &self.server {
            None => Doing::Idle,
            Some(server) if !server.state.pipeline.is_empty() => Doing::Running,
            Some(server) if self.session.is_busy(&server.state) => Doing::Between,
            Some(_) => Doing::Idle,
        }
    }

    /// Notices what the client does now. Costs no clock call where no limit is set.
    pub(super) fn watch_time(&mut self) {
        if self.is_waiting() || !time_limits::has_limits(&self.settings) {
            return;
        }
        let (doing, answered) = (self.doing(), self.session.answered());
        if self.activity.is(doing, answered) {
            return;
        }
        let status = self.server.as_ref().map(|server| server.state.status);
        let in_block = status.is_some_and(|status| status != TransactionStatus::Idle);
        let now = Instant::now();
        self.activity.turn(doing, answered, in_block, now);
        self.set_deadline();
    }

    /// The client begins something now.
    pub(super) fn turn_to(&mut self, doing: Doing, now: Instant) {
        self.activity = Activity::new(doing, now);
        self.set_deadline();
    }

    pub(super) fn set_deadline(&self) {
        let next = self.activity.next(&self.settings);
        let due = next.map(|limit| self.worker.clients.at(limit.due));
        self.record.set_deadline(due);
    }

    pub(super) fn on_deadline(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let now = Instant::now();
        let next = self.activity.next(&self.settings);
        let Some(Limit { after, cause, .. }) = next.filter(|limit| limit.due <= now) else {
            // The client has gone on since the signal was sent.
            self.set_deadline();
            return Ok(());
        };
        match cause {
            Cause::WaitNotice => {
                self.activity.notify();
                self.set_deadline();
                self.send_to_client(cx, &Failure::wait(cause, after, &self.pool).notice())
            }
            Cause::QueryWait => {
                self.leave_queue();
                let failure = Failure::wait(cause, after, &self.pool);
                self.refuse(cx, &failure)
            }
            _ => Err(Ended::failed(Failure::timeout(cause, after))),
        }
    }
}
