//! The hot loop: a client's bytes to its server, the server's bytes to its client.
//!
//! One task owns the client's connection and, while it has one, the server's. It is a hand-written
//! poll function and not an `async fn`, so that an idle client costs the size of this struct and no
//! transaction needs an allocation. Bytes are read into the worker's buffer, which is borrowed only
//! inside of a poll, and written at once; what the peer does not take is kept, and until it has been
//! taken, nothing more is read from the other side.
//!
//! What the bytes mean is [`Session`]'s business; which server is given, [`Pool`]'s.

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{runtime::Id as WorkerId, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    buffers::Buffers,
    error::{Cause, Failure},
    routing::{Choice, Nobody, Routing},
    time_limits::{self, Activity, Doing, Limit},
};
use crate::{
    config::{PoolSettings, StatefulPolicy},
    net::Stream,
    pool::{CheckoutError, ClientRecord, ClientState, Clients, Pool, Signal, Ticket},
    protocol::backend::TransactionStatus,
    server::{
        Server, ServerState, connection,
        recover::{Leftover, Unfinished},
    },
    session::{
        Damage, HOLD_LIMIT, Mode, Outbox, Plan, Release, ServerFault, Session, Texts,
        refusal::Refusal,
    },
};

/// What all clients of one worker share.
#[derive(Debug)]
pub struct Worker {
    /// Whose reactor their connections are registered with.
    pub id: WorkerId,
    /// Where bytes are read to and composed.
    pub buffers: Buffers,
    /// What its sessions know of texts.
    pub texts: Texts,
    /// Every task that a client starts.
    pub tasks: TaskTracker,
    /// All clients of the process.
    pub clients: Arc<Clients>,
}

impl Worker {
    /// Takes a server of the pool to this worker's reactor.
    pub fn adopt(&self, server: Box<Server>, pool: &Arc<Pool>) -> io::Result<Box<Server>> {
        if server.worker == self.id {
            return Ok(server);
        }
        let record = Arc::clone(&server.record);
        let moved = server.move_to(self.id);
        moved.inspect_err(|_| pool.on_lost(&record))
    }
}

/// How a client's session ended.
#[derive(Debug)]
pub enum Ended {
    /// It said goodbye.
    Terminated,
    /// It is gone without a goodbye.
    Lost(Option<io::Error>),
    /// We ended it, and it is owed an error for that.
    Failed(Box<Failure>),
    /// We ended it, and cannot tell it, because it is in the middle of a message.
    Cut(Box<Failure>),
}

impl Ended {
    fn failed(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// A client and, while it has one, its server.
#[derive(Debug)]
pub struct Relay {
    worker: Rc<Worker>,
    record: Arc<ClientRecord>,
    settings: Arc<PoolSettings>,
    stream: Stream,
    session: Session,
    /// What the client sent and is not done with.
    received: Vec<u8>,
    /// What the client has not taken yet.
    unsent: Vec<u8>,
    server: Option<Box<Server>>,
    /// Whose server it has, or had last, or waits for.
    pool: Arc<Pool>,
    /// Where there are several servers to choose from.
    routing: Option<Box<Routing>>,
    ticket: Option<Arc<Ticket>>,
    phase: Phase,
    activity: Activity,
    max_packet_size: u32,
    /// Why the unit that waits gets no server.
    nobody: Option<Nobody>,
    registered: bool,
    drain: bool,
}

/// Where the client is, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has no server and wants none.
    Idle,
    /// It wants a server, and which is not known yet.
    Undecided,
    /// It is in the queue for a server.
    Waiting { since: Instant },
    /// It has a server since.
    Attached { since: Instant },
}

impl Relay {
    /// A client that has just logged in.
    pub fn new(
        worker: Rc<Worker>,
        record: Arc<ClientRecord>,
        (stream, session, routing): (Stream, Session, Option<Box<Routing>>),
        max_packet_size: u32,
    ) -> Self {
        let settings = record.pool.settings();
        Self {
            pool: Arc::clone(&record.pool),
            routing,
            worker,
            record,
            settings,
            stream,
            session,
            received: Vec::new(),
            unsent: Vec::new(),
            server: None,
            ticket: None,
            phase: Phase::Idle,
            activity: Activity::new(Doing::Idle, Instant::now()),
            max_packet_size,
            nobody: None,
            registered: false,
            drain: false,
        }
    }

    /// What the client is still owed from its login, and what it has sent since.
    pub fn begin(&mut self, received: Vec<u8>, greeting: Vec<u8>) {
        self.received = received;
        self.unsent = greeting;
    }

    /// Gives back what the client leaves behind and sends what it is still owed.
    ///
    /// # Cancel safety
    /// Dropping the future closes the client's connection.
    pub async fn end(&mut self, ended: &Ended) {
        let server = self.server.as_ref().map(|server| &server.state);
        let is_mid_message = server.is_some_and(|state| state.is_mid_message());
        self.finish(ended);
        match ended {
            Ended::Lost(_) | Ended::Cut(_) => {}
            // It would be taken for the rest of the message.
            Ended::Failed(_) if is_mid_message => {}
            Ended::Failed(failure) => self.say_goodbye(&failure.farewell()).await,
            Ended::Terminated => self.say_goodbye(&[]).await,
        }
    }

    /// Sends what the client is still owed, as far as it takes it within a moment.
    async fn say_goodbye(&mut self, farewell: &[u8]) {
        self.unsent.extend_from_slice(farewell);
        let sending = std::future::poll_fn(|cx| {
            std::task::ready!(connection::flush(&mut self.stream, &mut self.unsent, cx))?;
            std::task::ready!(self.stream.poll_shutdown(cx))?;
            // Closing with input unread would reset the connection, and that may overtake the rest.
            let mut buffer = self.worker.buffers.read.borrow_mut();
            let mut drained = 0;
            while drained < DRAINED_AT_MOST
                && let Poll::Ready(Ok(size @ 1..)) = self.stream.poll_read(cx, &mut buffer)
            {
                drained += size;
            }
            Poll::Ready(Ok::<_, io::Error>(()))
        });
        let sent = tokio::time::timeout(GOODBYE_TIMEOUT, sending).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!(client = self.record.id, "client did not take its farewell");
        }
    }

    /// Gives back what the client leaves behind.
    fn finish(&mut self, ended: &Ended) {
        self.leave_queue();
        let Some(server) = self.server.take() else {
            return;
        };
        self.account(&server, Instant::now());
        let pool = &self.pool;
        let unfinished = match ended {
            Ended::Terminated => Unfinished::Finish,
            Ended::Lost(_) | Ended::Failed(_) | Ended::Cut(_) => Unfinished::Cancel,
        };
        let unusable = self.session.is_mid_message();
        if unusable {
            tracing::debug!(
                client = self.record.id,
                ?ended,
                "server closed in mid-message"
            );
            pool.discard(server);
        } else if self.session.has_unproved_state() {
            pool.recover(server, unfinished, Leftover::SessionState);
        } else if server.is_clean() && self.session.release(&server.state) == Release::Return {
            self.give_back(server, Instant::now());
        } else {
            pool.recover(server, unfinished, Leftover::Nothing);
        }
    }

    /// One round: everything that can be done without waiting. The end of the session is an `Err`.
    fn advance(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        if !self.registered {
            self.record.register(cx.waker());
            self.registered = true;
            self.set_deadline(Instant::now());
            if !self.received.is_empty() {
                self.take_received(cx)?;
            }
        }
        if self.record.has_signals() {
            self.on_signals(cx)?;
        }
        loop {
            let is_client_ready = self.poll_flush_client(cx)?;
            let mut progress = false;
            if is_client_ready {
                progress |= self.pump_server(cx)?;
            }
            progress |= self.pump_undecided(cx)?;
            progress |= self.pump_queue(cx)?;
            progress |= self.pump_kept(cx)?;
            progress |= self.pump_client(cx)?;
            if let Some(cause) = self.cause_to_end()
                && self.unsent.is_empty()
                && self.is_between_transactions()
            {
                return Err(Ended::failed(Failure::new(cause)));
            }
            if !progress {
                self.watch_time();
                return Ok(());
            }
        }
    }

    /// Why the client is to be ended as soon as it is between transactions.
    #[inline]
    fn cause_to_end(&self) -> Option<Cause> {
        if self.drain {
            return Some(Cause::Shutdown);
        }
        let server = self.server.as_ref()?;
        let is_kept = self.settings.server_fast_close && self.session.has_unproved_state();
        (is_kept && server.record.is_close_needed()).then_some(Cause::Superseded)
    }

    fn is_between_transactions(&self) -> bool {
        match (self.phase, &self.server) {
            (Phase::Waiting { .. } | Phase::Undecided, _) => false,
            (_, Some(server)) => !self.session.is_busy(&server.state),
            (_, None) => true,
        }
    }

    // ── The client's side ────────────────────────────────────────────────────────────────────

    fn poll_flush_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let flushed = connection::flush(&mut self.stream, &mut self.unsent, cx);
        Ok(flushed
            .map_err(|error| Ended::Lost(Some(error)))?
            .is_ready())
    }

    fn send_to_client(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), Ended> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.record.pool.stats.bytes_sent.add(bytes.len() as u64);
        connection::send(&mut self.stream, &mut self.unsent, cx, bytes)
            .map_err(|error| Ended::Lost(Some(error)))
    }

    fn pump_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let may_read = match self.phase {
            Phase::Idle => self.unsent.is_empty(),
            Phase::Waiting { .. } | Phase::Undecided => self.received.len() < HOLD_LIMIT,
            Phase::Attached { .. } => {
                !self.session.is_stalled()
                    && self.is_server_flushed()
                    && self.unsent.len() < HOLD_LIMIT
            }
        };
        if !may_read {
            return Ok(false);
        }
        let worker = Rc::clone(&self.worker);
        let mut buffer = worker.buffers.read.borrow_mut();
        let size = match self.stream.poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => return Err(Ended::Lost(None)),
            Poll::Ready(Ok(size)) => size,
            Poll::Ready(Err(error)) => return Err(Ended::Lost(Some(error))),
        };
        self.record.pool.stats.bytes_received.add(size as u64);
        if self.phase == Phase::Idle && self.settings.client_idle_timeout.is_some() {
            self.turn_to(Doing::Idle, Instant::now());
        }
        if self.is_waiting() || !self.received.is_empty() {
            self.received.extend_from_slice(&buffer[..size]);
            if !self.is_waiting() {
                self.take_received(cx)?;
            }
        } else {
            let done = self.take(cx, &buffer[..size])?;
            self.received.extend_from_slice(&buffer[done..size]);
        }
        Ok(true)
    }

    /// Whether it wants a server and has none.
    fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. } | Phase::Undecided)
    }

    fn is_server_flushed(&self) -> bool {
        self.server
            .as_ref()
            .is_some_and(|server| server.is_flushed())
    }

    /// Takes what had to wait for an answer of the server's.
    fn pump_kept(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let server = self.server.as_ref().map(|server| &server.state);
        if !self.session.can_resume(server) {
            return Ok(false);
        }
        self.take_received(cx)?;
        Ok(true)
    }

    /// Takes what was kept. What is still kept then stays where it is: it may be long, and its end
    /// may come byte by byte.
    fn take_received(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let mut kept = std::mem::take(&mut self.received);
        let done = self.take(cx, &kept)?;
        if done < kept.len() {
            kept.drain(..done);
            self.received = kept;
        }
        Ok(())
    }

    /// Takes bytes of the client's; answers how many, the rest is to be kept.
    fn take(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Result<usize, Ended> {
        let mut at = 0;
        loop {
            if self.server.is_none() {
                match self.plan(cx, &data[at..])? {
                    Plan::Terminate => return Err(Ended::Terminated),
                    Plan::Wait(done) => return Ok(at + done),
                    Plan::NeedServer(done) => {
                        at += done;
                        // A clock call is shared by everything that needs the time.
                        let now = Instant::now();
                        if !self.choose_pool(cx, &data[at..], now) {
                            return Ok(at);
                        }
                        let Some(server) = self.pool.try_checkout(self.worker.id, now) else {
                            self.enter_queue(cx);
                            return Ok(at);
                        };
                        self.attach(server, now, now)?;
                    }
                }
            }
            let taken = self.forward(cx, &data[at..])?;
            at += taken;
            // Whole messages may be left only when the server was lost or given back meanwhile.
            if self.server.is_some() || at == data.len() || taken == 0 {
                return Ok(at);
            }
        }
    }

    fn plan(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Result<Plan, Ended> {
        let mut answers = Vec::new();
        let plan = self
            .session
            .plan(data, self.max_packet_size, &mut answers)
            .map_err(|violation| Ended::failed(Failure::violation(&violation)))?;
        self.send_to_client(cx, &answers)?;
        Ok(plan)
    }

    /// Sends client bytes on to the server; answers how many are done with.
    fn forward(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Result<usize, Ended> {
        let worker = Rc::clone(&self.worker);
        let mut composed = worker.buffers.composed.borrow_mut();
        let mut answers = Vec::new();
        let Some(server) = &mut self.server else {
            return Ok(0);
        };
        let mut out = Outbox::new(data, &mut composed);
        if let Some(routing) = &mut self.routing {
            server.state.stake.end();
            if routing.stake() == Some(data.len()) {
                server.state.stake.begin(data);
            }
        }
        if server.state.is_clean() {
            self.session.attach(&mut server.state, &mut out);
        }
        let taken = self.session.on_client_bytes(
            data,
            self.max_packet_size,
            &mut server.state,
            &mut out,
            &mut answers,
        );
        let sent = server.send(cx, out.finish());
        let taken = taken.map_err(|violation| Ended::failed(Failure::violation(&violation)))?;
        if let Err(error) = sent {
            self.on_server_lost(cx, &Failure::server_lost(&self.record, Some(&error)))?;
            return Ok(taken.consumed);
        }
        drop(composed);
        self.send_to_client(cx, &answers)?;
        if taken.terminate {
            return Err(Ended::Terminated);
        }
        self.return_if_clean();
        Ok(taken.consumed)
    }

    // ── The queue ────────────────────────────────────────────────────────────────────────────

    fn enter_queue(&mut self, cx: &mut Context<'_>) {
        let ticket = self.ticket.get_or_insert_default();
        let since = Instant::now();
        self.pool.wait(ticket, cx.waker(), since);
        self.begin_wait(Phase::Waiting { since }, since);
    }

    fn begin_wait(&mut self, phase: Phase, since: Instant) {
        let is_new = !self.is_waiting();
        self.phase = phase;
        if is_new {
            self.record.set_state(ClientState::Waiting);
            self.record
                .requested_at
                .store(self.worker.clients.now(), Ordering::Relaxed);
            self.turn_to(Doing::Waiting { notified: false }, since);
        }
    }

    fn leave_queue(&mut self) {
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

    fn pump_queue(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let (Phase::Waiting { since }, Some(ticket)) = (self.phase, &self.ticket) else {
            return Ok(false);
        };
        match Pool::poll_wait(ticket, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(server)) => {
                self.attach(server, since, Instant::now())?;
                self.take_received(cx)?;
                Ok(true)
            }
            Poll::Ready(Err(error)) => {
                self.on_no_connection(cx, &error)?;
                Ok(true)
            }
        }
    }

    /// Tells the client that it gets no server for what it asked.
    fn refuse(&mut self, cx: &mut Context<'_>, failure: &Failure) -> Result<(), Ended> {
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

    // ── Choosing a server ────────────────────────────────────────────────────────────────────

    /// Chooses whose server the unit gets that `data` begins with; `false` if that has to wait, or if it
    /// gets none: then [`Relay::pump_undecided`] goes on with it.
    fn choose_pool(&mut self, cx: &Context<'_>, data: &[u8], now: Instant) -> bool {
        let Some(routing) = &mut self.routing else {
            return true;
        };
        match routing.choose(&mut self.session, data, &self.settings, now) {
            Choice::Go(pool) => {
                self.pool = pool;
                if self.phase == Phase::Undecided {
                    self.phase = Phase::Idle;
                }
                true
            }
            Choice::Wait => {
                routing.watch().wait(cx.waker());
                self.begin_wait(Phase::Undecided, now);
                false
            }
            Choice::Nobody(nobody) => {
                self.begin_wait(Phase::Undecided, now);
                self.nobody = Some(nobody);
                false
            }
        }
    }

    /// Goes on with a unit of which it was not known whose server it gets.
    fn pump_undecided(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        if self.phase != Phase::Undecided {
            return Ok(false);
        }
        if let Some(nobody) = self.nobody.take() {
            self.refuse(cx, &Failure::nobody(nobody))?;
            return Ok(true);
        }
        self.take_received(cx)?;
        Ok(self.phase != Phase::Undecided || self.nobody.is_some())
    }

    fn is_at_stake(&self) -> bool {
        self.server
            .as_ref()
            .is_some_and(|server| server.state.stake.is_on())
    }

    /// The unit has failed where it is, and its client has heard nothing of it: somebody else runs it.
    fn run_elsewhere(&mut self, cx: &mut Context<'_>, is_refusal: bool) -> Result<(), Ended> {
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
    fn on_no_connection(
        &mut self,
        cx: &mut Context<'_>,
        error: &CheckoutError,
    ) -> Result<(), Ended> {
        match &mut self.routing {
            Some(routing) if routing.may_try_elsewhere() => {
                routing.on_lost();
                routing.on_failure();
                self.phase = Phase::Undecided;
                self.take_received(cx)
            }
            _ => self.refuse(cx, &Failure::checkout(error)),
        }
    }

    // ── The server's side ────────────────────────────────────────────────────────────────────

    fn attach(&mut self, server: Box<Server>, since: Instant, now: Instant) -> Result<(), Ended> {
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

    fn pump_server(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
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

    fn take_from_server(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Result<(), Ended> {
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
        self.record
            .pins
            .store(self.session.pins().bits(), Ordering::Relaxed);
        self.refuse_transaction_block()?;
        self.return_if_clean();
        Ok(())
    }

    /// In statement mode a transaction block is the end of the session.
    fn refuse_transaction_block(&self) -> Result<(), Ended> {
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
    fn return_if_clean(&mut self) {
        let Some(server) = &self.server else { return };
        let pins = self.session.pins().bits();
        self.record.pins.store(pins, Ordering::Relaxed);
        if self.session.release(&server.state) == Release::Keep || !server.is_flushed() {
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
    fn give_back(&self, server: Box<Server>, now: Instant) {
        let pool = &self.pool;
        if self.settings.server_reset_query_always {
            pool.recover(server, Unfinished::Finish, Leftover::Nothing);
        } else {
            pool.release_at(server, now);
        }
    }

    /// Counts what was done on a server that is given back.
    fn account(&mut self, server: &Server, now: Instant) {
        let stats = &self.record.pool.stats;
        stats.xact_count.add(1);
        stats
            .query_count
            .add(u64::from(self.session.take_answered()));
        if let Phase::Attached { since } = self.phase {
            let held = now.duration_since(since);
            stats.xact_time.add_time(held);
            stats.query_time.add_time(held);
            if let Some(routing) = &mut self.routing {
                routing.on_release(held, &self.settings);
            }
        }
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

    fn on_server_fault(&mut self, cx: &mut Context<'_>, fault: &ServerFault) -> Result<(), Ended> {
        let failure = Failure::server_fault(&self.record, self.server.as_deref(), fault);
        self.on_server_lost(cx, &failure)
    }

    /// The server is of no use any more: the client is told what that means for it.
    fn on_server_lost(&mut self, cx: &mut Context<'_>, failure: &Failure) -> Result<(), Ended> {
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
            }
            self.session.forget_writes();
            routing.on_lost();
            routing.on_failure();
            routing.begin_anew();
        }
        self.phase = Phase::Idle;
        self.record.set_state(ClientState::Idle);
        self.record.server.store(0, Ordering::Relaxed);
        self.record.pins.store(0, Ordering::Relaxed);
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
            Damage::Session => Err(Ended::Terminated),
        }
    }

    // ── Signals and time limits ──────────────────────────────────────────────────────────────

    fn on_signals(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let signals = self.record.take_signals();
        if signals.contains(Signal::Kill) {
            return Err(Ended::failed(Failure::new(Cause::Killed)));
        }
        if signals.contains(Signal::Drain) {
            self.drain = true;
        }
        if signals.contains(Signal::Cancel) {
            self.cancel(cx)?;
        }
        if signals.contains(Signal::Deadline) {
            self.on_deadline(cx)?;
        }
        Ok(())
    }

    /// Cancels what the client is waiting for: its place in the queue, or what its server runs.
    fn cancel(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        if self.is_waiting() {
            self.leave_queue();
            return self.refuse(cx, &Failure::checkout(&CheckoutError::Canceled));
        }
        if let Some(server) = &mut self.server
            && !server.state.pipeline.is_empty()
            && server.fence.is_down()
        {
            let under_way = server.fence.raise();
            let target = server.cancel.clone();
            let id = server.record.id;
            self.worker.tasks.spawn(async move {
                if let Err(error) = target.cancel().await {
                    let reason = crate::pool::describe(&error);
                    tracing::warn!(server = id, reason, "cancel request failed");
                }
                drop(under_way);
            });
        }
        Ok(())
    }

    /// What the client does, as far as limits tell it apart.
    fn doing(&self) -> Doing {
        match &self.server {
            None => Doing::Idle,
            Some(server) if !server.state.pipeline.is_empty() => Doing::Running,
            Some(server) if self.session.is_busy(&server.state) => Doing::Between,
            Some(_) => Doing::Idle,
        }
    }

    /// Notices what the client does now. Costs no clock call where no limit is set.
    fn watch_time(&mut self) {
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
        self.set_deadline(now);
    }

    /// The client begins something now.
    fn turn_to(&mut self, doing: Doing, now: Instant) {
        self.activity = Activity::new(doing, now);
        self.set_deadline(now);
    }

    fn set_deadline(&self, now: Instant) {
        let next = self.activity.next(&self.settings);
        let due = next.map(|limit| {
            let left = limit.due.saturating_duration_since(now);
            self.worker.clients.after(left)
        });
        self.record.set_deadline(due);
    }

    fn on_deadline(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let now = Instant::now();
        let next = self.activity.next(&self.settings);
        let Some(Limit { after, cause, .. }) = next.filter(|limit| limit.due <= now) else {
            // The client has gone on since the signal was sent.
            self.set_deadline(now);
            return Ok(());
        };
        match cause {
            Cause::WaitNotice => {
                self.activity.notify();
                self.set_deadline(now);
                self.send_to_client(cx, &Failure::timeout(cause, after).notice())
            }
            Cause::QueryWait => {
                self.leave_queue();
                self.refuse(cx, &Failure::timeout(cause, after))
            }
            _ => Err(Ended::failed(Failure::timeout(cause, after))),
        }
    }
}

impl Future for &mut Relay {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        match self.advance(cx) {
            Ok(()) => Poll::Pending,
            Err(ended) => Poll::Ready(ended),
        }
    }
}

/// Bytes that are read of a client that nobody listens to any more.
const DRAINED_AT_MOST: usize = 4 * 1024 * 1024;

/// How long a client may take to take its farewell.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

impl Relay {
    /// How the pool's mode appears to a session.
    pub fn mode(settings: &PoolSettings) -> Mode {
        match settings.pool_mode {
            crate::config::PoolMode::Session => Mode::Session,
            crate::config::PoolMode::Transaction => Mode::Transaction,
            crate::config::PoolMode::Statement => Mode::Statement,
        }
    }

    /// What the pool's clients may not do.
    pub fn refusals(settings: &PoolSettings) -> impl Iterator<Item = Refusal> {
        [
            (settings.on_listen, Refusal::Listen),
            (settings.on_advisory_lock, Refusal::AdvisoryLock),
            (settings.on_temp_table, Refusal::TempTable),
            (settings.on_hold_cursor, Refusal::HoldCursor),
        ]
        .into_iter()
        .filter(|(policy, _)| *policy == StatefulPolicy::Refuse)
        .map(|(_, refusal)| refusal)
    }
}
