//! The hot loop: a client's bytes to its server, the server's bytes to its client.
//!
//! One task owns the client's connection and, while it has one, the server's. It is a hand-written
//! poll function and not an `async fn`, so that an idle client costs the size of this struct and no
//! transaction needs an allocation. Bytes are read into the worker's buffer, which is borrowed only
//! inside of a poll, and written at once; what the peer does not take is kept, and until it has been
//! taken, nothing more is read from the other side.
//!
//! What the bytes mean is [`Session`]'s business; which server is given, [`Pool`]'s.

mod answers;
mod signals;
mod waiting;

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{runtime::Id as WorkerId, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    buffers::Buffers,
    error::{Cause, Failure},
    routing::{Nobody, Routing},
    time_limits::{Activity, Doing},
};
use crate::{
    config::{PoolSettings, StatefulPolicy},
    net::Stream,
    pool::{ClientRecord, Clients, Pool, Ticket},
    server::{
        Server, connection,
        recover::{Leftover, Unfinished},
    },
    session::{HOLD_LIMIT, Mode, Outbox, Plan, Release, Session, Texts, refusal::Refusal},
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
    /// What its session was to the server is gone with that, and it has been told.
    SessionLost,
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
    counted: Counted,
    max_packet_size: u32,
    registered: bool,
    drain: bool,
}

/// An idle client is to cost at most 1.5 KiB (docs/benchmarks.md): this, its record, its task, and what the
/// allocator adds. What not every client needs goes in a box, as `routing` does.
const _: () = assert!(size_of::<Relay>() <= 512);

/// What the statistics have of the client's work on its present server.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    /// Answered requests.
    queries: u32,
    /// Whether some of them are of a transaction that is not counted yet.
    is_amid_transaction: bool,
}

/// Where the client is, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has no server and wants none.
    Idle,
    /// It wants a server, and which is not known yet.
    Undecided,
    /// It wants a server, and is about to be told why it gets none.
    Refused(Nobody),
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
            counted: Counted::default(),
            max_packet_size,
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
            // It expects nothing any more, and closing says the rest.
            Ended::Terminated if self.unsent.is_empty() && self.stream.tls().is_none() => {}
            Ended::Terminated | Ended::SessionLost => self.say_goodbye(&[]).await,
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
            Ended::Lost(_) | Ended::SessionLost | Ended::Failed(_) | Ended::Cut(_) => {
                Unfinished::Cancel
            }
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
            self.set_deadline();
            if !self.received.is_empty() {
                self.take_received(cx)?;
            }
        }
        if self.record.has_signals() {
            self.on_signals(cx)?;
        }
        if self.routing.as_ref().is_some_and(|it| it.is_deposed()) {
            return Err(Ended::failed(Failure::new(Cause::Deposed)));
        }
        loop {
            let is_client_ready = self.poll_flush_client(cx)?;
            let mut progress = false;
            if is_client_ready {
                // A server that was given back has nothing more to say.
                progress |= self.pump_server(cx)? && self.server.is_some();
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
            (Phase::Waiting { .. } | Phase::Undecided | Phase::Refused(_), _) => false,
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
            Phase::Waiting { .. } | Phase::Undecided | Phase::Refused(_) => {
                self.received.len() < HOLD_LIMIT
            }
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
        matches!(
            self.phase,
            Phase::Waiting { .. } | Phase::Undecided | Phase::Refused(_)
        )
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
                            self.enter_queue(cx, now);
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
            if self.counted.queries > 0 {
                // It has kept its server, and begins something new.
                self.phase = Phase::Attached {
                    since: Instant::now(),
                };
                if let Some(routing) = &mut self.routing {
                    routing.on_kept(&mut self.session, data, &self.settings);
                }
            }
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
        // Whatever comes now may be to send the same elsewhere.
        drop(composed);
        let taken = taken.map_err(|violation| Ended::failed(Failure::violation(&violation)))?;
        if let Err(error) = sent {
            self.on_server_lost(cx, &Failure::server_lost(&self.record, Some(&error)))?;
            return Ok(taken.consumed);
        }
        self.send_to_client(cx, &answers)?;
        if taken.terminate {
            return Err(Ended::Terminated);
        }
        self.return_if_clean();
        Ok(taken.consumed)
    }
}

/// A client that ends has given back what it had. What a panic leaves is nobody's any more: the server is in
/// no state that is known, but its place in the pool is to be had again.
impl Drop for Relay {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.leave_queue();
        if let Some(server) = self.server.take() {
            self.pool.discard(server);
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
