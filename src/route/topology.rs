//! What is known of the servers of one database, right now.
//!
//! The monitor writes it, every decision reads it; each fact is one atomic, so neither waits for the
//! other. Roles are observed, never believed: a host serves nothing that it was not seen to be, with one
//! exception: until somebody has looked, the host that the configuration calls the primary is it.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use super::{Lsn, Poll, Polls, token::History};
use crate::config::{Role, Server};

/// The index of a server among those of its database.
pub type HostId = usize;

/// Stands for "no host".
const NOBODY: usize = usize::MAX;

/// What a host was last seen to be, with the names of `SHOW REPLICAS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HostState {
    /// Nobody has looked yet.
    Unknown,
    /// It takes writes.
    Primary,
    /// A standby that serves reads.
    Replica,
    /// A standby that is further behind than `max_lag` allows.
    Lagging,
    /// A standby that failed too often, and is left out for a time.
    Ejected,
    /// It cannot be reached, or does not answer.
    Down,
    /// It takes writes and must not get any: another primary has a newer timeline, or the
    /// configuration calls this one a replica.
    Fenced,
    /// A standby of another system, or on another timeline than the primary: its positions mean
    /// nothing.
    Foreign,
}

impl HostState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Primary,
        Self::Replica,
        Self::Lagging,
        Self::Ejected,
        Self::Down,
        Self::Fenced,
        Self::Foreign,
    ];

    /// As the console spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Lagging => "lagging",
            Self::Ejected => "ejected",
            Self::Down => "down",
            Self::Fenced => "fenced",
            Self::Foreign => "foreign",
        }
    }
}

/// The full share of the reads, in thousandths.
pub const FULL_SHARE: u32 = 1000;

/// One server.
#[derive(Debug)]
pub struct Host {
    /// Where it is, for people.
    pub name: Box<str>,
    /// What the configuration says it is.
    pub role: Role,
    /// Its share of the reads; 0 serves none.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<Box<str>>,
    state: AtomicU8,
    replayed: AtomicU64,
    /// How far it is behind the primary: bytes, and microseconds.
    lag: (AtomicU64, AtomicU64),
    /// In thousandths; less than all while it starts slowly.
    share: AtomicU32,
    timeline: AtomicU32,
    /// How long a read takes on it, smoothed, in microseconds; 0 until one was seen.
    latency: AtomicU64,
    /// Units of work that it was given: reads, and others.
    begun: (AtomicU64, AtomicU64),
    /// Those of them that are over.
    ended: AtomicU64,
    incarnation: AtomicU32,
}

impl Host {
    /// A host that nobody has looked at.
    pub fn new(name: &str, role: Role, weight: u32, zone: Option<&str>) -> Self {
        Self {
            name: name.into(),
            role,
            weight,
            zone: zone.map(Into::into),
            state: AtomicU8::new(HostState::Unknown as u8),
            replayed: AtomicU64::new(0),
            lag: (AtomicU64::new(0), AtomicU64::new(0)),
            share: AtomicU32::new(FULL_SHARE),
            timeline: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            begun: (AtomicU64::new(0), AtomicU64::new(0)),
            ended: AtomicU64::new(0),
            incarnation: AtomicU32::new(0),
        }
    }

    /// One of the configuration's, that nobody has looked at.
    pub fn of(server: &Server) -> Self {
        let name = server.to_string();
        Self::new(&name, server.role, server.weight, server.zone.as_deref())
    }

    /// What it was last seen to be.
    #[inline]
    pub fn state(&self) -> HostState {
        HostState::ALL[usize::from(self.state.load(Ordering::Acquire))]
    }

    /// Says what it was seen to be.
    pub fn set_state(&self, state: HostState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Counts its restarts, as far as anybody has noticed: afterwards it may be further back.
    #[inline]
    pub fn incarnation(&self) -> u32 {
        self.incarnation.load(Ordering::Acquire)
    }

    /// A connection to it was lost: what was known of it is not known any more.
    pub fn doubt(&self) {
        if self.state() != HostState::Primary {
            self.set_state(HostState::Down);
        }
        self.set_replayed(Lsn(0));
        // Last: whoever sees that it is another life sees nothing of the one before.
        self.incarnation.fetch_add(1, Ordering::AcqRel);
    }

    /// How far it has certainly replayed.
    #[inline]
    pub fn replayed(&self) -> Lsn {
        Lsn(self.replayed.load(Ordering::Acquire))
    }

    /// Says how far it has replayed.
    pub fn set_replayed(&self, position: Lsn) {
        self.replayed.store(position.0, Ordering::Release);
    }

    /// How far it is behind the primary: in bytes, and in microseconds.
    pub fn lag(&self) -> (u64, u64) {
        let (bytes, time) = &self.lag;
        (bytes.load(Ordering::Relaxed), time.load(Ordering::Relaxed))
    }

    /// Says how far it is behind.
    pub fn set_lag(&self, bytes: u64, micros: u64) {
        self.lag.0.store(bytes, Ordering::Relaxed);
        self.lag.1.store(micros, Ordering::Relaxed);
    }

    /// Its share of the reads it would get otherwise, in thousandths.
    #[inline]
    pub fn share(&self) -> u32 {
        self.share.load(Ordering::Relaxed)
    }

    /// Sets that share.
    pub fn set_share(&self, thousandths: u32) {
        self.share
            .store(thousandths.min(FULL_SHARE), Ordering::Relaxed);
    }

    /// The timeline it was seen on; 0 for none.
    pub fn timeline(&self) -> u32 {
        self.timeline.load(Ordering::Relaxed)
    }

    /// Says which timeline it is on.
    pub fn set_timeline(&self, timeline: u32) {
        self.timeline.store(timeline, Ordering::Relaxed);
    }

    /// Units of work that clients have on it now, or wait for.
    #[inline]
    pub fn active(&self) -> u64 {
        // In this order: what has ended by now had begun before.
        let ended = self.ended.load(Ordering::Acquire);
        self.served().saturating_sub(ended)
    }

    /// Units of work that it was given.
    #[inline]
    pub fn served(&self) -> u64 {
        self.reads() + self.begun.1.load(Ordering::Relaxed)
    }

    /// Those that could have been given to a replica.
    #[inline]
    pub fn reads(&self) -> u64 {
        self.begun.0.load(Ordering::Relaxed)
    }

    /// A client gets it, for a read or for something else.
    #[inline]
    pub fn begin(&self, is_read: bool) {
        self.begun(is_read).fetch_add(1, Ordering::Relaxed);
    }

    /// A client that was to get it does not want it any more.
    pub fn withdraw(&self, is_read: bool) {
        self.begun(is_read).fetch_sub(1, Ordering::Relaxed);
    }

    fn begun(&self, is_read: bool) -> &AtomicU64 {
        let (reads, others) = &self.begun;
        if is_read { reads } else { others }
    }

    /// A client is through with it.
    #[inline]
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::Release);
    }

    /// How long a read takes on it, in microseconds; 0 if that is not known.
    pub fn latency(&self) -> u64 {
        self.latency.load(Ordering::Relaxed)
    }

    /// A read took so many microseconds: an eighth of the difference counts.
    #[inline]
    pub fn add_latency(&self, micros: u64) {
        let before = self.latency.load(Ordering::Relaxed);
        let after = match before {
            0 => micros.max(1),
            _ => (before - before / 8 + micros / 8).max(1),
        };
        self.latency.store(after, Ordering::Relaxed);
    }
}

/// The servers of one database.
#[derive(Debug)]
pub struct Topology {
    hosts: Box<[Host]>,
    primary: AtomicUsize,
    /// Where the primary was.
    pub polls: Polls,
    history: Mutex<Option<History>>,
    /// Counts changes of who is what: a connection that was made before one has to be looked at again.
    epoch: AtomicU64,
}

impl Topology {
    /// Servers that nobody has looked at.
    pub fn new(hosts: Vec<Host>) -> Self {
        let configured = hosts.iter().position(|host| host.role == Role::Primary);
        // A lone server is what it is asked to be.
        let only = (hosts.len() == 1).then_some(0);
        Self {
            hosts: hosts.into(),
            primary: AtomicUsize::new(configured.or(only).unwrap_or(NOBODY)),
            polls: Polls::default(),
            history: Mutex::new(None),
            epoch: AtomicU64::new(0),
        }
    }

    /// All of them.
    #[inline]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The one that takes writes.
    #[inline]
    pub fn primary(&self) -> Option<HostId> {
        let primary = self.primary.load(Ordering::Acquire);
        (primary != NOBODY).then_some(primary)
    }

    /// Says which one takes writes; a change begins another epoch and another history.
    pub fn set_primary(&self, primary: Option<HostId>) {
        let before = self
            .primary
            .swap(primary.unwrap_or(NOBODY), Ordering::AcqRel);
        if before != primary.unwrap_or(NOBODY) {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// How often who is what has changed.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The history whose positions compare now.
    pub fn history(&self) -> Option<History> {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the primary was seen and does not tell where it is, as some managed services do not:
    /// then freshness is a matter of time (`pin_after_write`).
    pub fn hides_positions(&self) -> bool {
        let primary = self.primary().and_then(|id| self.hosts.get(id));
        primary.is_some_and(|host| host.state() == HostState::Primary) && self.history().is_none()
    }

    /// Says to which history the primary's positions belong; what was known under another one is void.
    pub fn set_history(&self, history: History) {
        let mut present = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if *present != Some(history) {
            *present = Some(history);
            self.polls.begin_history();
        }
    }

    /// Where the primary was at that poll; `None` if that is not known yet.
    #[inline]
    pub fn position(&self, poll: Poll) -> Option<Lsn> {
        self.polls.position(poll)
    }

    /// Whether some replica that serves reads has replayed what that poll found.
    pub fn is_replayed(&self, poll: Poll) -> bool {
        let Some(position) = self.position(poll) else {
            return false;
        };
        let serves = |host: &&Host| host.state() == HostState::Replica && host.weight > 0;
        let mut hosts = self.hosts.iter().filter(serves);
        hosts.any(|host| host.replayed() >= position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(role: Role) -> Host {
        Host::new("h", role, 1, None)
    }

    #[test]
    fn only_a_configured_primary_is_believed_before_it_was_seen() {
        let primary = |roles: &[Role]| {
            Topology::new(roles.iter().map(|role| host(*role)).collect()).primary()
        };
        assert_eq!(primary(&[Role::Replica, Role::Primary]), Some(1));
        assert_eq!(primary(&[Role::Auto, Role::Auto]), None);
        assert_eq!(primary(&[Role::Auto]), Some(0));
    }

    #[test]
    fn a_new_primary_begins_another_epoch() {
        let topology = Topology::new(vec![host(Role::Primary), host(Role::Auto)]);
        topology.set_primary(Some(0));
        assert_eq!(topology.epoch(), 0);
        topology.set_primary(Some(1));
        assert_eq!((topology.epoch(), topology.primary()), (1, Some(1)));
        topology.set_primary(None);
        assert_eq!((topology.epoch(), topology.primary()), (2, None));
    }

    #[test]
    fn another_history_voids_what_was_known() {
        let topology = Topology::new(vec![host(Role::Primary)]);
        let history = |timeline| History {
            system: 1,
            timeline,
            started: 9,
        };
        topology.set_history(history(1));
        let poll = topology.polls.send();
        topology.polls.answer(poll, Lsn(5));
        topology.set_history(history(1));
        assert_eq!(topology.position(poll), Some(Lsn(5)));
        topology.set_history(history(2));
        assert_eq!(topology.position(poll), None);
    }

    #[test]
    fn a_primary_that_was_seen_and_has_no_history_hides_its_positions() {
        let topology = Topology::new(vec![host(Role::Primary)]);
        assert!(!topology.hides_positions(), "nobody has looked");
        topology.hosts()[0].set_state(HostState::Primary);
        assert!(topology.hides_positions());
        topology.set_history(History {
            system: 1,
            timeline: 1,
            started: 1,
        });
        assert!(!topology.hides_positions());
    }

    #[test]
    fn a_write_is_replayed_when_a_replica_that_serves_has_come_to_it() {
        let replica = |weight| Host::new("r", Role::Replica, weight, None);
        let topology = Topology::new(vec![host(Role::Primary), replica(1), replica(0)]);
        let [_, serving, spare] = topology.hosts() else {
            panic!("three hosts")
        };
        let poll = topology.polls.next();
        for it in [serving, spare] {
            it.set_state(HostState::Replica);
        }
        spare.set_replayed(Lsn(50));
        serving.set_replayed(Lsn(49));
        assert!(!topology.is_replayed(poll), "nobody has asked yet");
        topology.polls.answer(topology.polls.send(), Lsn(50));
        assert!(!topology.is_replayed(poll), "who has it serves nobody");
        serving.set_replayed(Lsn(50));
        assert!(topology.is_replayed(poll));
        serving.set_state(HostState::Lagging);
        assert!(!topology.is_replayed(poll), "nor does that one");
    }

    #[test]
    fn reads_are_counted_apart() {
        let host = host(Role::Primary);
        for is_read in [true, false, true] {
            host.begin(is_read);
        }
        assert_eq!((host.reads(), host.served(), host.active()), (2, 3, 3));
        host.end();
        host.withdraw(true);
        assert_eq!((host.reads(), host.served(), host.active()), (1, 2, 1));
    }

    #[test]
    fn latency_follows_what_is_measured() {
        let host = host(Role::Replica);
        host.add_latency(800);
        assert_eq!(host.latency(), 800);
        (0..100).for_each(|_| host.add_latency(100));
        assert!((90..200).contains(&host.latency()), "{}", host.latency());
    }
}
