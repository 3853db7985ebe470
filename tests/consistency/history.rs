//! What the sessions of a run did and saw, with a clock of its own.
//!
//! The clock only counts: a tick before a message is sent, another one after its answer has come. So if
//! an event ended at a lower tick than another one began at, it was over before the other was asked.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter in the table: it only ever grows, by one with each committed write.
pub(crate) type Key = usize;

/// One connection, from its login to its end.
pub(crate) type SessionId = usize;

/// A token that one session has handed to others.
pub(crate) type TokenId = usize;

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

/// What was done and seen, and what happened to the servers.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) events: Vec<Event>,
    /// Which server was the primary, from which tick on.
    pub(crate) primaries: Vec<(u64, usize)>,
    pub(crate) crashes: Vec<Crash>,
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
    /// It has handed out a token: whoever takes it is to be as fresh as it is now.
    Gives(TokenId),
    /// It has taken a token, for all that follows.
    Takes(TokenId),
}

/// One more for a counter, and a line in the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) key: Key,
    /// Counts the writes of the session, and names the line in the ledger.
    pub(crate) number: u32,
    /// The counter after it, if that is known.
    pub(crate) value: Option<u32>,
    /// Whether it was on disk before it was acknowledged.
    pub(crate) is_durable: bool,
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
    pub(crate) values: Box<[u32]>,
    /// The server that answered.
    pub(crate) server: usize,
    pub(crate) consistency: Consistency,
    /// A token of this very statement.
    pub(crate) token: Option<TokenId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    Eventual,
    Session,
    Strong,
}

/// The primary was killed, and what it had not saved is gone.
#[derive(Clone, Debug)]
pub(crate) struct Crash {
    /// A tick before it was killed.
    pub(crate) from: u64,
    /// A tick before anybody can have written again.
    pub(crate) to: u64,
    /// The counters with which it goes on.
    pub(crate) values: Box<[u32]>,
    /// Whether it goes on from its own disk, and not from what a replica has got of it.
    pub(crate) is_same_server: bool,
}

impl Crash {
    /// Whether the event may belong to either side.
    pub(crate) fn cuts(&self, event: &Event) -> bool {
        event.began < self.to && event.ended > self.from
    }

    /// Whether this may be gone, although it was acknowledged. Only the end of the WAL can be lost: what
    /// a counter shows is there.
    pub(crate) fn may_lose(&self, event: &Event, write: &Write) -> bool {
        let is_behind = write
            .value
            .is_none_or(|value| value > self.values[write.key]);
        event.began < self.to && is_behind && !(self.is_same_server && write.is_durable)
    }
}
