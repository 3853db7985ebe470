//! Every client of the process: what the console shows of it, and how it is poked.
//!
//! A client is served by one task, which alone touches its connections. Whoever wants something of it
//! (a cancel request, a timeout, KILL_CLIENT, shutdown) sets a signal and wakes the task. The lock of
//! the registry is taken at login and logout and by those who look at all clients, never by a query.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};

use hashbrown::HashMap;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::{sync::oneshot, time::Instant};

use super::Pool;
use crate::{
    config::MAX_PEER_ID,
    protocol::startup::Replication,
    session::{PinReason, Pins},
};

/// Something that a client's task is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Signal {
    /// Cancel what the client is running or waiting for.
    Cancel = 1,
    /// Its deadline has passed.
    Deadline = 2,
    /// End it when it is between transactions.
    Drain = 4,
    /// End it now.
    Kill = 8,
    /// Its server is to be closed, or not the primary any more: look whether it may be kept.
    Superseded = 16,
    /// The settings of its pool are others.
    Settings = 32,
}

/// Signals that have been set and not been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals(u8);

impl Signals {
    /// Whether there is none.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `signal` is among them.
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & signal as u8 != 0
    }
}

/// What a client is doing, with the names of `SHOW CLIENTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ClientState {
    /// It has no server and wants none.
    Idle,
    /// It waits for a server.
    Waiting,
    /// It has a server.
    Active,
}

impl ClientState {
    const ALL: [Self; 3] = [Self::Idle, Self::Waiting, Self::Active];

    /// As `SHOW CLIENTS` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Active => "active",
        }
    }
}

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A TCP connection.
    Tcp {
        /// Its address.
        peer: SocketAddr,
        /// Ours.
        local: SocketAddr,
    },
    /// A Unix socket.
    Unix,
}

/// One client.
#[derive(Debug)]
pub struct ClientRecord {
    /// Never used twice within the process.
    pub id: u64,
    /// Its pool, with the names of its database and user.
    pub pool: Arc<Pool>,
    /// Where it comes from.
    pub origin: Origin,
    /// TLS protocol and cipher; empty without TLS.
    pub tls: Box<str>,
    /// When it logged in, in seconds since 1970.
    pub connected_at_unix: u64,
    /// What it called itself at login.
    pub application_name: Box<str>,
    /// Whether it speaks the replication protocol.
    pub replication: Option<Replication>,
    /// Bytes of the secret that it is told.
    pub secret_length: u8,
    /// When it last asked for a server, in milliseconds of [`Clients::now`].
    pub requested_at: AtomicU64,
    /// The server it has; 0 for none.
    pub server: AtomicU64,
    /// Statements that it has prepared by name.
    pub prepared_statements: AtomicUsize,
    /// The poll behind its last write, of its database's watch; 0 if it has not written, or if there is
    /// nothing to choose.
    pub written: AtomicU64,
    /// When that was, in milliseconds of [`Clients::now`].
    pub written_at: AtomicU64,
    /// Since when it keeps its server beyond the transaction, likewise.
    pub pinned_at: AtomicU64,
    /// Why: bits of [`crate::session::Pins`].
    pins: AtomicU8,
    state: AtomicU8,
    signals: AtomicU8,
    /// When [`Signal::Deadline`] is due, in milliseconds of [`Clients::now`]; 0 for never.
    deadline: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

/// Each idle client has one, and is to cost at most 1.5 KiB in all: see `client::relay`.
const _: () = assert!(size_of::<ClientRecord>() <= 208);

impl ClientRecord {
    /// What it is doing.
    pub fn state(&self) -> ClientState {
        ClientState::ALL[usize::from(self.state.load(Ordering::Relaxed))]
    }

    /// Why it keeps its server beyond the transaction, with the names of `SHOW PINS`.
    pub fn pin_reasons(&self) -> impl Iterator<Item = &'static str> {
        let pins = Pins::from_bits(self.pins.load(Ordering::Relaxed));
        pins.iter().map(PinReason::as_str)
    }

    /// Says why it keeps its server beyond the transaction; `now` is only asked when that begins.
    #[inline]
    pub fn set_pins(&self, pins: Pins, now: impl FnOnce() -> u64) {
        let before = self.pins.load(Ordering::Relaxed);
        if before == pins.bits() {
            return;
        }
        if before == 0 {
            self.pinned_at.store(now(), Ordering::Relaxed);
        }
        self.pins.store(pins.bits(), Ordering::Relaxed);
    }

    /// Says what it is doing.
    pub fn set_state(&self, state: ClientState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Whom to wake when a signal is set.
    pub fn register(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    /// Asks the client's task for something.
    pub fn signal(&self, signal: Signal) {
        self.signals.fetch_or(signal as u8, Ordering::AcqRel);
        let waker = self
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether a signal is set.
    #[inline]
    pub fn has_signals(&self) -> bool {
        self.signals.load(Ordering::Acquire) != 0
    }

    /// Takes the signals that are set.
    pub fn take_signals(&self) -> Signals {
        Signals(self.signals.swap(0, Ordering::AcqRel))
    }

    /// Sets or clears the deadline, in milliseconds of [`Clients::now`].
    pub fn set_deadline(&self, deadline: Option<u64>) {
        self.deadline
            .store(deadline.unwrap_or(0), Ordering::Relaxed);
    }
}

/// What a client is known by when it logs in.
#[derive(Debug)]
pub struct NewClient {
    /// Its pool.
    pub pool: Arc<Pool>,
    /// Where it comes from.
    pub origin: Origin,
    /// TLS protocol and cipher; empty without TLS.
    pub tls: Box<str>,
    /// What it called itself.
    pub application_name: Box<str>,
    /// Whether it speaks the replication protocol.
    pub replication: Option<Replication>,
    /// Bytes of the secret that it is told.
    pub secret_length: u8,
    /// Seconds since 1970.
    pub connected_at_unix: u64,
}

/// A cancel key as BackendKeyData tells it to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientKey {
    /// Stands for the client and for this process.
    pub process_id: i32,
    /// A MAC over that and the client's number: 4 bytes of it are told in protocol 3.0, all in 3.2.
    pub secret: [u8; 32],
}

/// Bytes of the secret in protocol 3.0.
pub const SHORT_SECRET: u8 = 4;

/// Bytes of the secret in protocol 3.2.
pub const LONG_SECRET: u8 = 32;

/// Bits of a key that count clients where there are peers: more clients than that have no keys of their own.
const COUNTER_BITS: u32 = 17;

/// A `peer_id` takes the upper 14 of 31 bits, as in PgBouncer.
const _: () = assert!((MAX_PEER_ID as u32) < 1 << (31 - COUNTER_BITS));

/// Whose client a cancel request is for, where processes have numbers; `None` for the console's.
pub fn peer_of(process_id: i32) -> Option<u16> {
    let peer = u32::try_from(process_id).ok()? >> COUNTER_BITS;
    u16::try_from(peer).ok()
}

/// A CancelRequest that has not been dealt with; dropping it tells its sender that it can hit nothing any more.
#[derive(Debug)]
pub struct CancelAsked(#[expect(dead_code, reason = "only dropped")] oneshot::Sender<Infallible>);

/// Told when a CancelRequest can hit nothing any more.
#[derive(Debug)]
pub struct CancelOver(oneshot::Receiver<Infallible>);

impl CancelOver {
    /// Waits for that.
    pub async fn wait(self) {
        let Err(_dropped) = self.0.await;
    }
}

/// Those who are here.
#[derive(Debug, Default)]
struct Present {
    by_key: HashMap<u32, Arc<ClientRecord>>,
    /// By client.
    cancels: HashMap<u64, Vec<CancelAsked>>,
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    present: Mutex<Present>,
    next: AtomicU64,
    next_key: AtomicU32,
    /// What every key begins with: the number of this process among its peers.
    peer: u32,
    secret: [u8; 32],
    started: Instant,
}

impl Clients {
    /// None yet. `secret` is random and makes cancel keys unguessable; `peer_id` is at most [`MAX_PEER_ID`], or 0 for none.
    pub fn new(secret: [u8; 32], peer_id: u16) -> Self {
        Self {
            present: Mutex::default(),
            next: AtomicU64::new(1),
            next_key: AtomicU32::new(1),
            peer: u32::from(peer_id) << COUNTER_BITS,
            secret,
            started: Instant::now(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the process began; never 0.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// The same of a moment.
    pub fn at(&self, moment: Instant) -> u64 {
        let elapsed = moment.saturating_duration_since(self.started);
        u64::try_from(elapsed.as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<ClientRecord>> {
        self.lock().by_key.values().map(Arc::clone).collect()
    }

    /// A number that no client of the process has had, or will have.
    pub fn new_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters a client and gives it its cancel key.
    pub fn enter(&self, client: NewClient) -> (Arc<ClientRecord>, ClientKey) {
        let record = Arc::new(ClientRecord {
            id: self.new_id(),
            pool: client.pool,
            origin: client.origin,
            tls: client.tls,
            connected_at_unix: client.connected_at_unix,
            application_name: client.application_name,
            replication: client.replication,
            secret_length: client.secret_length,
            requested_at: AtomicU64::new(0),
            server: AtomicU64::new(0),
            prepared_statements: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            written_at: AtomicU64::new(0),
            pinned_at: AtomicU64::new(0),
            pins: AtomicU8::new(0),
            state: AtomicU8::new(ClientState::Idle as u8),
            signals: AtomicU8::new(0),
            deadline: AtomicU64::new(0),
            waker: Mutex::new(None),
        });
        let mut present = self.lock();
        let counted = match self.peer {
            0 => 0x7fff_ffff,
            _ => (1 << COUNTER_BITS) - 1,
        };
        let key = loop {
            let key = self.peer | self.next_key.fetch_add(1, Ordering::Relaxed) & counted;
            if key != 0 && !present.by_key.contains_key(&key) {
                break key;
            }
        };
        present.by_key.insert(key, Arc::clone(&record));
        drop(present);
        let process_id = i32::try_from(key).expect("31 bits");
        (
            record,
            ClientKey {
                process_id,
                secret: self.mac(process_id),
            },
        )
    }

    /// Takes a client out.
    pub fn leave(&self, key: &ClientKey) {
        if let Ok(key) = u32::try_from(key.process_id) {
            let mut present = self.lock();
            if let Some(client) = present.by_key.remove(&key) {
                present.cancels.remove(&client.id);
            }
        }
    }

    /// Asks the client that a CancelRequest means to cancel what it waits for. `None` unless the request's secret is
    /// right.
    pub fn cancel(&self, process_id: i32, secret: &[u8]) -> Option<CancelOver> {
        let expected = self.mac(process_id);
        let key = u32::try_from(process_id).ok()?;
        let (asked, over) = oneshot::channel();
        let mut present = self.lock();
        let client = present.by_key.get(&key).map(Arc::clone)?;
        // All that the client was told: a part of a long secret would be guessed like a short one.
        let told = &expected[..usize::from(client.secret_length)];
        if !bool::from(secret.ct_eq(told)) {
            return None;
        }
        let cancels = present.cancels.entry(client.id).or_default();
        cancels.push(CancelAsked(asked));
        drop(present);
        client.signal(Signal::Cancel);
        Some(CancelOver(over))
    }

    /// Takes the requests to cancel that a client was signalled of.
    pub fn take_cancels(&self, client: u64) -> Vec<CancelAsked> {
        self.lock().cancels.remove(&client).unwrap_or_default()
    }

    /// Signals every client that has one of these servers.
    pub fn signal_superseded(&self, servers: &[u64]) {
        let has_one =
            |client: &&Arc<ClientRecord>| servers.contains(&client.server.load(Ordering::Relaxed));
        let present = self.lock();
        let meant: Vec<_> = present.by_key.values().filter(has_one).cloned().collect();
        drop(present);
        for client in meant {
            client.signal(Signal::Superseded);
        }
    }

    /// Signals every client whose deadline has passed.
    pub fn signal_overdue(&self) {
        let now = self.now();
        let overdue: Vec<_> = self
            .lock()
            .by_key
            .values()
            .filter(|client| {
                let deadline = client.deadline.load(Ordering::Relaxed);
                deadline != 0 && deadline <= now
            })
            .map(Arc::clone)
            .collect();
        for client in overdue {
            client.set_deadline(None);
            client.signal(Signal::Deadline);
        }
    }

    /// A client's secret is never stored: it is computed from the key and the process's own secret.
    fn mac(&self, process_id: i32) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("any key length is fine");
        mac.update(&process_id.to_be_bytes());
        mac.finalize().into_bytes().into()
    }
}
