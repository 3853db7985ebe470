//! What the sessions of a run did and saw, with a clock of its own.
//!
//! The clock only counts: a tick before a message is sent, another one after its answer has come. So if
//! an event ended at a lower tick than another one began at, it was over before the other was asked.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// A counter in the table: it only ever grows, by one with each committed write.
pub(crate) type Key = usize;

/// The counters, each at its key.
pub(crate) type Values = Arc<[u32]>;

/// One connection, from its login to its end.
pub(crate) type SessionId = usize;

/// Those whose writes each other's reads must show.
pub(crate) type Group = u32;

/// The clock.
#[derive(Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// Something that a session did.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) session: SessionId,
    /// In whose company.
    pub(crate) group: Option<Group>,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    /// How it was done, for people.
    pub(crate) how: &'static str,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Write(Write),
    Read(Read),
    /// It was told by a token how fresh its reads must be from now on.
    Token(Values),
}

/// One more for a counter, and a line in the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) key: Key,
    /// Counts the writes of the session, and names the line in the ledger.
    pub(crate) number: u32,
    /// The counter after it, if that is known.
    pub(crate) value: Option<u32>,
    pub(crate) fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The session was told that it is done.
    Acknowledged,
    /// The session was told that it is undone, or has undone it.
    RolledBack,
    /// The session was told nothing, or that something failed.
    Unknown,
}

/// All counters, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) values: Values,
    /// The server that answered.
    pub(crate) server: usize,
    pub(crate) consistency: Consistency,
    /// What a token of this very statement asks for.
    pub(crate) token: Option<Values>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    Eventual,
    Session,
    Strong,
}

/// The later of two, counter by counter.
pub(crate) fn raise(values: &mut [u32], others: &[u32]) {
    for (value, other) in values.iter_mut().zip(others) {
        *value = (*value).max(*other);
    }
}
