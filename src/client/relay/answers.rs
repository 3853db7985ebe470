//! The server's side: what it is given to do is somebody else's; here it is attached, read from, lost, and
//! given back.

use std::{
    rc::Rc,
    sync::atomic::Ordering,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{Counted, Ended, Phase, Relay};
use crate::{
    client::{
        error::{Cause, Failure},
        time_limits::Doing,
    },
    pool::ClientState,
    protocol::backend::TransactionStatus,
    server::{
        Server, ServerState, connection,
        recover::{Leftover, Unfinished},
    },
    session::{Damage, Outbox, Pins, Release, ServerFault},
};

impl Relay {
    pub(super) fn attach(
        &mut self,
        server: Box<Server>,
        since: Instant,
        now: Instant,
    ) -> Result<(), Ended> {
        let mut server = self.worker.adopt(server, &self.pool).map_err(|error| {
            let failure = Failure::server_lost(&self.record, Some(&error));
            Ended::failed(failure)
        })?;
        let stats = &self.record.pool.stats;
        stats.server_assignment_count.add(1);
        stats.wait_time.add_time(now.duration_since(since));
        self.phase = Phase::Attached { since: now };
        self.record.set_state(ClientState::Active);
        self.record
            .server
            .store(server.record.id, Ordering::Relaxed);
        server.record.set_state(ServerState::Active);
        server
            .record
            .client
            .store(self.record.id, Ordering::Relaxed);
        server.idle_since = now;
        server.state.max_packet_size = self.max_packet_size;
        self.server = Some(server);
        if let Some(routing) = &mut self.routing {
            routing.on_attach();
        }
        // Also ends the limits of the wait, if there was one.
        self.turn_to(Doing::Running, now);
        Ok(())
    }

    pub(super) fn pump_server(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let Some(server) = &mut self.server else {
            return Ok(false);
        };
        if let Poll::Ready(Err(error)) = server.poll_flush(cx) {
            self.on_server_lost(cx, &Failure::server_lost(&self.record, Some(&error)))?;
            return Ok(true);
        }
        let worker = Rc::clone(&self.worker);
        let mut buffer = worker.buffers.read.borrow_mut();
        let size = match server.stream.poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => {
                self.on_server_lost(cx, &Failure::server_lost(&self.record, None))?;
                return Ok(true);
            }
            Poll::Ready(Ok(size)) => size,
            Poll::Ready(Err(error)) => {
                self.on_server_lost(cx, &Failure::server_lost(&self.record, Some(&error)))?;
                return Ok(true);
            }
        };
        if server.received.is_empty() {
            self.take_from_server(cx, &buffer[..size])?;
        } else {
            let mut kept = std::mem::take(&mut server.received);
            kept.extend_from_slice(&buffer[..size]);
            self.take_from_server(cx, &kept)?;
        }
        Ok(true)
    }

    pub(super) fn take_from_server(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Result<(), Ended> {
        let worker = Rc::clone(&self.worker);
        let mut composed = worker.buffers.composed.borrow_mut();
        let mut to_server = Vec::new();
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        let mut out = Outbox::new(data, &mut composed);
        let answered = self.session.answered();
        let taken = self
            .session
            .on_server_bytes(data, &mut server.state, &mut out, &mut to_server);
        if let Ok(done) = &taken {
            server.received.extend_from_slice(&data[*done..]);
        }
        if let Some(routing) = &mut self.routing {
            let is_over = self.session.answered() != answered;
            // Before the client is told: whoever hears of it from the client must not read older data.
            let changes_schema = self.session.has_changed_schema();
            if is_over && self.session.take_writes(&server.state) {
                routing.on_write(changes_schema, &self.settings);
                routing.share_write(&server.state.keys);
            }
        }
        let refused = server.state.stake.refused();
        let to_client = out.finish();
        if !to_client.is_empty() {
            self.record
                .pool
                .stats
                .bytes_sent
                .add(to_client.len() as u64);
            connection::send(&mut self.stream, &mut self.unsent, cx, to_client)
                .map_err(|error| Ended::Lost(Some(error)))?;
        }
        drop(composed);
        if let Err(fault) = taken {
            return self.on_server_fault(cx, &fault);
        }
        if let Some(sqlstate) = refused {
            let is_refusal = sqlstate.is_refusal_of_standby();
            return self.run_elsewhere(cx, is_refusal);
        }
        if !to_server.is_empty() {
            let sent = self
                .server
                .as_mut()
                .map_or(Ok(()), |s| s.send(cx, &to_server));
            if let Err(error) = sent {
                let failure = Failure::server_lost(&self.record, Some(&error));
                return self.on_server_lost(cx, &failure);
            }
        }
        self.refuse_transaction_block()?;
        self.return_if_clean();
        Ok(())
    }

    /// In statement mode a transaction block is the end of the session.
    pub(super) fn refuse_transaction_block(&self) -> Result<(), Ended> {
        let Some(server) = &self.server else {
            return Ok(());
        };
        let is_in_block = self.settings.pool_mode == crate::config::PoolMode::Statement
            && server.state.status != TransactionStatus::Idle
            && server.state.pipeline.is_empty();
        if is_in_block {
            return Err(Ended::failed(Failure::new(
                Cause::TransactionInStatementMode,
            )));
        }
        Ok(())
    }

    /// Gives the server back when the client is through with it.
    #[inline]
    pub(super) fn return_if_clean(&mut self) {
        let Some(server) = &self.server else { return };
        let clients = &self.worker.clients;
        self.record.set_pins(self.session.pins(), || clients.now());
        if self.session.release(&server.state) == Release::Keep || !server.is_flushed() {
            if let Some(routing) = &mut self.routing {
                routing.date_write(|| clients.now());
            }
            let is_clean = server.is_clean();
            self.account_kept(is_clean);
            return;
        }
        let Some(server) = self.server.take() else {
            return;
        };
        let now = Instant::now();
        self.account(&server, now);
        self.phase = Phase::Idle;
        self.record.set_state(ClientState::Idle);
        self.record.server.store(0, Ordering::Relaxed);
        if server.is_clean() {
            self.give_back(server, now);
        } else {
            // It has begun to say something that nobody has asked for.
            self.pool.discard(server);
        }
    }

    /// Gives back a server that is proved clean.
    #[inline]
    pub(super) fn give_back(&self, server: Box<Server>, now: Instant) {
        let pool = &self.pool;
        if self.settings.server_reset_query_always {
            pool.recover(server, Unfinished::Finish, Leftover::Nothing);
        } else {
            pool.release_at(server, now);
        }
    }

    /// Counts what was done on a server that the client keeps.
    fn account_kept(&mut self, is_transaction_over: bool) {
        self.count_queries();
        if is_transaction_over
            && self.counted.is_amid_transaction
            && let Phase::Attached { since } = self.phase
        {
            self.count_transaction(since.elapsed());
        }
    }

    /// Counts what was answered since this was last called.
    fn count_queries(&mut self) {
        let answered = self.session.answered();
        let fresh = answered.saturating_sub(self.counted.queries);
        if fresh > 0 {
            self.counted.queries = answered;
            self.counted.is_amid_transaction = true;
            let stats = &self.record.pool.stats;
            stats.query_count.add(u64::from(fresh));
        }
    }

    fn count_transaction(&mut self, time: Duration) {
        self.counted.is_amid_transaction = false;
        let stats = &self.record.pool.stats;
        stats.xact_count.add(1);
        stats.xact_time.add_time(time);
        stats.query_time.add_time(time);
    }

    /// Counts what was done on a server that is given back.
    pub(super) fn account(&mut self, server: &Server, now: Instant) {
        self.count_queries();
        // One that was never answered is one as well.
        let is_uncounted = self.counted.is_amid_transaction || self.counted.queries == 0;
        self.session.take_answered();
        if let Phase::Attached { since } = self.phase {
            let held = now.duration_since(since);
            if is_uncounted {
                self.count_transaction(held);
            }
            if let Some(routing) = &mut self.routing {
                routing.on_release(held, &self.settings);
                routing.date_write(|| self.worker.clients.at(now));
            }
        }
        self.counted = Counted::default();
        let statements = server.state.statements.len();
        server
            .record
            .prepared_statements
            .store(statements, Ordering::Relaxed);
        let prepared = self.session.prepared_statements();
        self.record
            .prepared_statements
            .store(prepared, Ordering::Relaxed);
    }

    pub(super) fn on_server_fault(
        &mut self,
        cx: &mut Context<'_>,
        fault: &ServerFault,
    ) -> Result<(), Ended> {
        let failure = Failure::server_fault(&self.record, self.server.as_deref(), fault);
        self.on_server_lost(cx, &failure)
    }

    /// The server is of no use any more: the client is told what that means for it.
    pub(super) fn on_server_lost(
        &mut self,
        cx: &mut Context<'_>,
        failure: &Failure,
    ) -> Result<(), Ended> {
        if self.is_at_stake() {
            failure.log(&self.record);
            return self.run_elsewhere(cx, false);
        }
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        failure.log(&self.record);
        if let Some(routing) = &mut self.routing {
            // Whether it was carried out, nobody knows.
            if self.session.has_written() {
                let changes_schema = self.session.has_changed_schema();
                routing.on_write(changes_schema, &self.settings);
                routing.share_write(&server.state.keys);
            }
            self.session.forget_writes();
            routing.on_lost();
            routing.on_failure();
            routing.begin_anew();
            routing.date_write(|| self.worker.clients.now());
        }
        self.phase = Phase::Idle;
        self.record.set_state(ClientState::Idle);
        self.record.server.store(0, Ordering::Relaxed);
        self.record.set_pins(Pins::NONE, || 0);
        let mut answers = Vec::new();
        let damage =
            self.session
                .on_server_lost(&mut server.state, &failure.report(), &mut answers);
        let mid_message = server.state.is_mid_message();
        self.pool.discard(server);
        self.send_to_client(cx, &answers)?;
        match damage {
            Damage::Statement => Ok(()),
            Damage::Session if mid_message => Err(Ended::Cut(Box::new(failure.clone()))),
            Damage::Session => Err(Ended::SessionLost),
        }
    }
}
