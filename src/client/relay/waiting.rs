//! Getting a server: whose it has to be, and the wait for it.
//!
//! A client that wants a server is either undecided (which host serves its unit is not known yet, or
//! nobody can) or in one pool's queue. Whatever it sends meanwhile is kept. Here too is what becomes of a
//! unit whose server has failed it: somebody else runs it, if its client has heard nothing of it.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use tokio::time::Instant;

use super::{Ended, Phase, Relay};
use crate::{
    client::{error::Failure, routing::Choice, time_limits::Doing},
    pool::{CheckoutError, ClientState, Pool},
};

impl Relay {
    /// Chooses whose server the unit gets that `data` begins with; `false` if that has to wait, or if it
    /// gets none: then [`Relay::pump_undecided`] goes on with it.
    pub(super) fn choose_pool(&mut self, cx: &Context<'_>, data: &[u8], now: Instant) -> bool {
        let Some(routing) = &mut self.routing else {
            return true;
        };
        match routing.choose(&mut self.session, data, &self.settings, now) {
            Choice::Go(pool) => {
                if !Arc::ptr_eq(&self.pool, pool) {
                    self.pool = Arc::clone(pool);
                }
                if self.phase == Phase::Undecided {
                    self.phase = Phase::Idle;
                }
                true
            }
            Choice::Wait => {
                routing.wait_for_news(cx.waker());
                self.begin_wait(Phase::Undecided, now);
                false
            }
            Choice::Nobody(nobody) => {
                self.begin_wait(Phase::Refused(nobody), now);
                false
            }
        }
    }

    /// Goes on with a unit of which it was not known whose server it gets.
    pub(super) fn pump_undecided(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        match self.phase {
            Phase::Undecided => {
                self.take_received(cx)?;
                Ok(self.phase != Phase::Undecided)
            }
            Phase::Refused(nobody) => {
                self.refuse(cx, &Failure::nobody(nobody))?;
                Ok(true)
            }
            Phase::Idle | Phase::Waiting { .. } | Phase::Attached { .. } => Ok(false),
        }
    }

    pub(super) fn is_at_stake(&self) -> bool {
        self.server
            .as_ref()
            .is_some_and(|server| server.state.stake.is_on())
    }

    /// The unit has failed where it is, and its client has heard nothing of it: somebody else runs it.
    pub(super) fn run_elsewhere(
        &mut self,
        cx: &mut Context<'_>,
        is_refusal: bool,
    ) -> Result<(), Ended> {
        let (Some(mut server), Some(routing)) = (self.server.take(), &mut self.routing) else {
            return Ok(());
        };
        let unit = self.session.take_back_stake(&mut server.state);
        if is_refusal {
            self.session.learn_refusal(&unit);
        } else {
            routing.on_lost();
        }
        routing.on_failure();
        self.phase = Phase::Idle;
        self.record.set_state(ClientState::Idle);
        self.record.server.store(0, Ordering::Relaxed);
        self.pool.discard(server);
        let behind = std::mem::replace(&mut self.received, unit);
        self.received.extend_from_slice(&behind);
        self.take_received(cx)
    }

    /// No connection can be made to the server that was chosen.
    pub(super) fn on_no_connection(
        &mut self,
        cx: &mut Context<'_>,
        error: &CheckoutError,
    ) -> Result<(), Ended> {
        let now = Instant::now();
        if let Some(routing) = &mut self.routing {
            let is_undecided = if routing.may_try_elsewhere() {
                // Whether the server is there is the monitor's to say: this may be an old failure, that
                // the pool waits after.
                routing.on_failure();
                true
            } else {
                error.is_absence() && routing.waits_for_primary(&self.settings, now)
            };
            if is_undecided {
                self.phase = Phase::Undecided;
                return self.take_received(cx);
            }
            routing.on_give_up();
        }
        self.refuse(cx, &Failure::checkout(error))
    }

    pub(super) fn enter_queue(&mut self, cx: &mut Context<'_>, since: Instant) {
        let ticket = self.ticket.get_or_insert_default();
        self.pool.wait(ticket, cx.waker(), since);
        self.begin_wait(Phase::Waiting { since }, since);
    }

    pub(super) fn begin_wait(&mut self, phase: Phase, since: Instant) {
        let is_new = !self.is_waiting();
        self.phase = phase;
        if is_new {
            self.record.set_state(ClientState::Waiting);
            self.record
                .requested_at
                .store(self.worker.clients.at(since), Ordering::Relaxed);
            self.turn_to(Doing::Waiting { notified: false }, since);
        }
    }

    pub(super) fn leave_queue(&mut self) {
        if let (Phase::Waiting { .. }, Some(ticket)) = (self.phase, &self.ticket) {
            self.pool.give_up(ticket);
        }
        if self.is_waiting() {
            self.phase = Phase::Idle;
            self.record.set_state(ClientState::Idle);
            if let Some(routing) = &mut self.routing {
                routing.on_give_up();
            }
        }
    }

    pub(super) fn pump_queue(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let (Phase::Waiting { since }, Some(ticket)) = (self.phase, &self.ticket) else {
            return Ok(false);
        };
        let holds = self.routing.as_ref().is_none_or(|it| it.holds());
        match Pool::poll_wait(ticket, cx) {
            Poll::Pending if holds => Ok(false),
            Poll::Pending => {
                self.pool.give_up(ticket);
                self.choose_again(cx)?;
                Ok(true)
            }
            Poll::Ready(Ok(server)) if !holds => {
                self.pool.release(server);
                self.choose_again(cx)?;
                Ok(true)
            }
            Poll::Ready(Ok(server)) => {
                self.attach(server, since, Instant::now())?;
                self.take_received(cx)?;
                Ok(true)
            }
            // The failure of a server that is none of the cluster's any more is not the answer.
            Poll::Ready(Err(_)) if !holds => {
                self.choose_again(cx)?;
                Ok(true)
            }
            Poll::Ready(Err(error)) => {
                self.on_no_connection(cx, &error)?;
                Ok(true)
            }
        }
    }

    /// The servers have changed since the client entered the queue: the one that it waits for may not be
    /// the one that its unit must go to.
    fn choose_again(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        if let Some(routing) = &mut self.routing {
            routing.undecide();
        }
        self.phase = Phase::Undecided;
        self.take_received(cx)
    }

    /// Tells the client that it gets no server for what it asked.
    pub(super) fn refuse(&mut self, cx: &mut Context<'_>, failure: &Failure) -> Result<(), Ended> {
        self.phase = Phase::Idle;
        self.record.set_state(ClientState::Idle);
        self.turn_to(Doing::Idle, Instant::now());
        failure.log(&self.record);
        let kept = std::mem::take(&mut self.received);
        let mut answers = Vec::new();
        let done = self
            .session
            .refuse(&kept, self.max_packet_size, &failure.report(), &mut answers)
            .map_err(|violation| Ended::failed(Failure::violation(&violation)))?;
        self.send_to_client(cx, &answers)?;
        self.received = kept;
        self.received.drain(..done);
        self.take_received(cx)
    }
}
