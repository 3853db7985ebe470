//! What the sessions of a run have in common: where to connect, the clock, and what they leave behind.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use std::net::SocketAddr;

use crate::{
    history::{Clock, Event, SessionId, Values},
    script::{Part, SHARED_KEYS},
};

/// The servers, by the name that each of them has in its configuration.
pub(crate) const SERVERS: [&str; 3] = ["primary", "replica0", "replica1"];

pub(crate) struct World {
    pub(crate) pooler: SocketAddr,
    pub(crate) primary: SocketAddr,
    pub(crate) cast: Vec<Part>,
    /// Whether sessions say what they expect: else they expect all the same.
    pub(crate) is_honest: bool,
    pub(crate) clock: Clock,
    /// A token, and what its giver knew.
    pub(crate) token: Mutex<Option<(String, Values)>>,
    sessions: AtomicUsize,
    is_over: AtomicBool,
    direct_writers_leave: AtomicBool,
    /// Which server was the primary, from which tick of the clock on.
    primaries: Mutex<Vec<(u64, usize)>>,
    history: Mutex<Vec<Event>>,
    counts: Mutex<BTreeMap<String, usize>>,
}

impl World {
    pub(crate) fn new(
        pooler: SocketAddr,
        primary: SocketAddr,
        cast: Vec<Part>,
        is_honest: bool,
    ) -> Self {
        Self {
            pooler,
            primary,
            cast,
            is_honest,
            clock: Clock::default(),
            token: Mutex::default(),
            sessions: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            direct_writers_leave: AtomicBool::new(false),
            primaries: Mutex::new(vec![(0, 0)]),
            history: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// How many counters there are: some for all, and one for each of the cast.
    pub(crate) fn keys(&self) -> usize {
        SHARED_KEYS + self.cast.len()
    }

    pub(crate) fn next_session(&self) -> SessionId {
        self.sessions.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn direct_writers_are_gone(&self) -> bool {
        self.is_over() || self.direct_writers_leave.load(Ordering::SeqCst)
    }

    /// Before the primary becomes another one.
    pub(crate) fn send_direct_writers_away(&self) {
        self.direct_writers_leave.store(true, Ordering::SeqCst);
    }

    pub(crate) fn on_promotion(&self, server: usize) {
        lock(&self.primaries).push((self.clock.tick(), server));
    }

    pub(crate) fn primaries(&self) -> Vec<(u64, usize)> {
        lock(&self.primaries).clone()
    }

    /// The events of a session whose connection has ended.
    pub(crate) fn record(&self, events: Vec<Event>) {
        lock(&self.history).extend(events);
    }

    pub(crate) fn take_history(&self) -> Vec<Event> {
        std::mem::take(&mut lock(&self.history))
    }

    pub(crate) fn count(&self, what: impl Into<String>) {
        *lock(&self.counts).entry(what.into()).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        lock(&self.counts).clone()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
