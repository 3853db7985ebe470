//! A logged-in server connection, wherever it is: idle in a pool, with a client, or being cleaned.
//!
//! It is one box that changes hands; whoever holds it is its only user. What others may see of it
//! (the console) is its [`ServerRecord`].

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    runtime::{Handle, Id as WorkerId},
    time::Instant,
};

use super::cancel::{CancelFence, CancelTarget};
use crate::{net::Stream, protocol::encode, session};

/// What a server connection is doing, with the names of `SHOW SERVERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ServerState {
    /// In its pool.
    Idle,
    /// With a client.
    Active,
    /// Being checked or cleaned before its next use.
    Tested,
    /// Waiting for a cancel request to have reached its end.
    BeingCanceled,
}

impl ServerState {
    const ALL: [Self; 4] = [Self::Idle, Self::Active, Self::Tested, Self::BeingCanceled];

    /// As `SHOW SERVERS` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::Tested => "tested",
            Self::BeingCanceled => "being_canceled",
        }
    }
}

/// What the console sees of a server connection.
#[derive(Debug)]
pub struct ServerRecord {
    /// Never used twice within the process.
    pub id: u64,
    /// Where PostgreSQL is, as in the configuration.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Our own address and port; empty and 0 for a Unix socket.
    pub local: (String, u16),
    /// Process id of the backend.
    pub process_id: i32,
    /// TLS protocol and cipher; empty without TLS.
    pub tls: String,
    /// When it was logged in.
    pub connected_at: Instant,
    /// The same, in seconds since 1970.
    pub connected_at_unix: u64,
    state: AtomicU8,
    /// Id of the client that has it; 0 for none.
    pub client: AtomicU64,
    /// When it was last given to a client: microseconds since `connected_at`.
    pub used_at: AtomicU64,
    /// Prepared statements that it has.
    pub prepared_statements: AtomicUsize,
    close_needed: AtomicBool,
}

impl ServerRecord {
    /// What it is doing.
    pub fn state(&self) -> ServerState {
        ServerState::ALL[usize::from(self.state.load(Ordering::Relaxed))]
    }

    /// Whether it will be closed when it is next given back.
    pub fn is_close_needed(&self) -> bool {
        self.close_needed.load(Ordering::Relaxed)
    }

    /// Says that it will be closed when it is next given back.
    pub fn need_close(&self) {
        self.close_needed.store(true, Ordering::Relaxed);
    }

    /// Says what it is doing.
    pub fn set_state(&self, state: ServerState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

/// A logged-in connection to PostgreSQL.
#[derive(Debug)]
pub struct Server {
    /// Its bytes.
    pub stream: Stream,
    /// What is known of its session.
    pub state: session::ServerState,
    /// The beginning of a message whose rest has not arrived.
    pub received: Vec<u8>,
    /// What the socket has not taken yet.
    unsent: Vec<u8>,
    /// How its queries are cancelled.
    pub cancel: CancelTarget,
    /// Cancel requests under way for it.
    pub fence: CancelFence,
    /// What the console sees.
    pub record: Arc<ServerRecord>,
    /// The worker whose reactor the stream is registered with.
    pub worker: WorkerId,
    /// When it was last put into its pool.
    pub idle_since: Instant,
    /// When it is too old to be used again.
    pub expires_at: Instant,
    /// The `RECONNECT` count of its pool when it was made.
    pub generation: u64,
}

/// What is needed to make a [`Server`] out of a login.
#[derive(Debug)]
pub struct LoggedIn {
    /// Its bytes.
    pub stream: Stream,
    /// Its session.
    pub state: session::ServerState,
    /// How its queries are cancelled.
    pub cancel: CancelTarget,
    /// What the console sees.
    pub record: ServerRecord,
}

impl ServerRecord {
    /// The record of a connection that was just made to `host` and `port`.
    pub fn new(id: u64, host: String, port: u16, process_id: i32, stream: &Stream) -> Self {
        let local = stream.local_addr().ok().flatten();
        Self {
            id,
            host,
            port,
            local: local.map_or_else(Default::default, |a| (a.ip().to_string(), a.port())),
            process_id,
            tls: stream.tls().map(|tls| tls.to_string()).unwrap_or_default(),
            connected_at: Instant::now(),
            connected_at_unix: unix_now(),
            state: AtomicU8::new(ServerState::Tested as u8),
            client: AtomicU64::new(0),
            used_at: AtomicU64::new(0),
            prepared_statements: AtomicUsize::new(0),
            close_needed: AtomicBool::new(false),
        }
    }
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl Server {
    /// A connection fresh from its login, on this worker.
    pub fn new(login: LoggedIn, expires_at: Instant, generation: u64) -> Box<Self> {
        Box::new(Self {
            stream: login.stream,
            state: login.state,
            received: Vec::new(),
            unsent: Vec::new(),
            cancel: login.cancel,
            fence: CancelFence::default(),
            record: Arc::new(login.record),
            worker: Handle::current().id(),
            idle_since: Instant::now(),
            expires_at,
            generation,
        })
    }

    /// Moves the connection to the reactor of the current worker if it is on another one.
    pub fn move_to(self: Box<Self>, worker: WorkerId) -> io::Result<Box<Self>> {
        if self.worker == worker {
            return Ok(self);
        }
        let Self { stream, .. } = *self;
        let stream = stream.into_portable()?.into_stream()?;
        Ok(Box::new(Self {
            stream,
            worker,
            ..*self
        }))
    }

    /// Writes at once what the socket takes; the rest is kept and sent by [`Server::poll_flush`].
    pub fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        send(&mut self.stream, &mut self.unsent, cx, bytes)
    }

    /// Writes what is left over from earlier sends.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        flush(&mut self.stream, &mut self.unsent, cx)
    }

    /// Whether something has arrived from an idle server, as far as the reactor knows.
    pub fn has_pending_input(&mut self) -> bool {
        self.stream.has_pending_input()
    }

    /// Whether everything given to it has been sent.
    pub fn is_flushed(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Whether it is proved clean: between transactions, nothing owed, nothing unread or unsent.
    pub fn is_clean(&self) -> bool {
        self.state.is_clean() && self.received.is_empty() && self.unsent.is_empty()
    }

    /// Says goodbye, as far as that goes without waiting, and closes.
    pub fn close(mut self: Box<Self>) {
        let mut goodbye = Vec::new();
        encode::terminate(&mut goodbye);
        let mut cx = Context::from_waker(Waker::noop());
        if self.unsent.is_empty()
            && let Poll::Ready(Err(error)) = self.stream.poll_write(&mut cx, &goodbye)
        {
            tracing::debug!(server = self.record.id, %error, "server was gone before the goodbye");
        }
    }
}

/// Writes `bytes` behind what is unsent: at once as far as the socket takes them, else kept.
pub fn send(
    stream: &mut Stream,
    unsent: &mut Vec<u8>,
    cx: &mut Context<'_>,
    mut bytes: &[u8],
) -> io::Result<()> {
    while unsent.is_empty() && !bytes.is_empty() {
        match stream.poll_write(cx, bytes)? {
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => bytes = &bytes[written..],
            Poll::Pending => break,
        }
    }
    unsent.extend_from_slice(bytes);
    Ok(())
}

/// Writes what is unsent; ready when all of it has left.
#[inline]
pub fn flush(
    stream: &mut Stream,
    unsent: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if !unsent.is_empty() {
        ready!(flush_unsent(stream, unsent, cx))?;
    }
    stream.poll_flush(cx)
}

fn flush_unsent(
    stream: &mut Stream,
    unsent: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let mut sent = 0;
    while sent < unsent.len() {
        match stream.poll_write(cx, &unsent[sent..])? {
            Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(written) => sent += written,
            Poll::Pending => {
                unsent.drain(..sent);
                return Poll::Pending;
            }
        }
    }
    // An idle connection owns no buffer.
    *unsent = Vec::new();
    Poll::Ready(Ok(()))
}
