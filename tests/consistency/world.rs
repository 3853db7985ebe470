//! What the sessions of a run have in common: where to connect, the clock, and what they leave behind.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{
    history::{Clock, Crash, Event, History, SessionId, TokenId},
    script::{Part, SHARED_KEYS},
    support,
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
    /// The token that was handed out last.
    pub(crate) token: Mutex<Option<(String, TokenId)>>,
    tokens: AtomicUsize,
    sessions: AtomicUsize,
    era: AtomicUsize,
    is_over: AtomicBool,
    direct_writers: AtomicUsize,
    direct_writers_leave: AtomicBool,
    history: Mutex<History>,
    counts: Mutex<BTreeMap<String, usize>>,
}

impl World {
    pub(crate) fn new(
        pooler: SocketAddr,
        primary: SocketAddr,
        cast: Vec<Part>,
        is_honest: bool,
    ) -> Self {
        let direct_writers = cast.iter().filter(|part| part.database.is_none()).count();
        Self {
            pooler,
            primary,
            cast,
            is_honest,
            clock: Clock::default(),
            token: Mutex::default(),
            tokens: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            era: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            direct_writers: AtomicUsize::new(direct_writers),
            direct_writers_leave: AtomicBool::new(false),
            history: Mutex::new(History {
                primaries: vec![(0, 0)],
                ..History::default()
            }),
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

    pub(crate) fn next_token(&self) -> TokenId {
        self.tokens.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Whether somebody is still to play this part.
    pub(crate) fn needs(&self, part: &Part) -> bool {
        let is_sent_away =
            part.database.is_none() && self.direct_writers_leave.load(Ordering::SeqCst);
        !self.is_over() && !is_sent_away
    }

    /// Somebody plays this part no longer.
    pub(crate) fn leave(&self, part: &Part) {
        if part.database.is_none() {
            self.direct_writers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Before the primary becomes another one, or dies: those who talk to it directly leave.
    pub(crate) fn send_direct_writers_away(&self) {
        self.direct_writers_leave.store(true, Ordering::SeqCst);
        support::eventually("those who write directly have left", || {
            self.direct_writers.load(Ordering::SeqCst) == 0
        });
    }

    /// How often a crash has begun or ended: what is known of counters does not outlast that.
    pub(crate) fn era(&self) -> usize {
        self.era.load(Ordering::SeqCst)
    }

    /// The primary is about to be killed.
    pub(crate) fn begin_crash(&self) -> u64 {
        let from = self.clock.tick();
        self.era.fetch_add(1, Ordering::SeqCst);
        from
    }

    /// Nobody can have written since the primary was killed; this is what is left.
    pub(crate) fn end_crash(&self, from: u64, values: Box<[u32]>, is_same_server: bool) {
        self.era.fetch_add(1, Ordering::SeqCst);
        let to = self.clock.tick();
        lock(&self.history).crashes.push(Crash {
            from,
            to,
            values,
            is_same_server,
        });
    }

    /// This server is about to become the primary.
    pub(crate) fn promote(&self, server: usize) {
        let now = self.clock.tick();
        lock(&self.history).primaries.push((now, server));
    }

    /// The events of a session whose connection has ended.
    pub(crate) fn record(&self, events: Vec<Event>) {
        lock(&self.history).events.extend(events);
    }

    pub(crate) fn take_history(&self) -> History {
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
