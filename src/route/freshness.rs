//! How fresh a session's reads must be: what it wrote, and what it has seen.
//!
//! Kept as numbers of polls (see [`super::polls`]), so that noting it costs one atomic load and nothing
//! is asked of a server. Turned into positions only when a decision needs them.

use super::{Decision, HostId, Poll, Token, Topology};

/// The host that a session last read from, as long as it was the same one all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Which host.
    pub host: HostId,
    /// Its incarnation then: after a restart it may be further back than it was.
    pub incarnation: u32,
}

/// How fresh a session's reads must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// The poll behind its last write; 0 for none.
    pub written: Poll,
    /// The poll behind its last read; 0 for none.
    pub seen: Poll,
    /// Where that was, if it was chosen and was not behind what was seen before. The same host is always
    /// fresh enough for what was read from it.
    pub visit: Option<Visit>,
    /// What it was told by `SET pgweir.token`.
    pub token: Option<Token>,
}

impl Freshness {
    /// A unit that may have written was answered, or will never be.
    pub fn on_write(&mut self, topology: &Topology) -> Poll {
        self.written = topology.polls.next();
        // The position of that poll lies behind all that was read so far, too.
        self.seen = 0;
        self.written
    }

    /// A read that was decided like that was answered.
    #[inline]
    pub fn on_read(&mut self, decision: &Decision, topology: &Topology) {
        self.seen = topology.polls.next();
        // Not as the host is by now: it may have restarted since it answered.
        self.visit = decision.visit;
    }

    /// Whether the session last read from that very host.
    #[inline]
    pub fn is_at(&self, visit: Visit) -> bool {
        self.visit == Some(visit)
    }
}
