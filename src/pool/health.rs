//! What each server of a database is, from what was observed of all of them together.
//!
//! A function of facts; asks nobody and keeps nothing. Knows no lag and no failures: who is a standby
//! here may still be too far behind to serve ([`super::fitness`]).
//!
//! Invariants: at most one server takes writes. Who was seen to be behind in history never takes them
//! again, and nothing is compared with a server of other data.

use std::fmt;

use crate::{
    config::Role,
    route::{History, HostId},
    server::observe::Identity,
};

/// What the monitor's connection to a server has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Nobody has looked yet.
    Never,
    /// It cannot be reached, or does not answer.
    Lost,
    /// The connection has just broken and is being made again. It says little about a primary, for
    /// which there is no stand-in; a standby is as good as down.
    Broken(Identity),
    /// It answers.
    Met(Identity),
}

/// One server, as it is configured and as it was observed.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// What the configuration says it is.
    pub role: Role,
    /// What was observed.
    pub contact: Contact,
}

/// What held until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Who took writes.
    pub primary: Option<HostId>,
    /// The history of the last primary that was seen.
    pub history: Option<History>,
}

/// What holds from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Who takes writes. A configured primary does even while it is down, so that its clients hear its
    /// own error.
    pub primary: Option<HostId>,
    /// Whose positions compare now; that of the last primary while there is none.
    pub history: Option<History>,
    /// What each server is.
    pub standings: Vec<Standing>,
    /// Several take writes and nothing tells which one is right. An operator has to.
    pub is_disputed: bool,
}

/// What a server is among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not seen yet, or not to be told before the others are seen.
    Unknown,
    /// It takes writes.
    Primary,
    /// It holds the primary's data.
    Standby,
    /// It cannot be reached.
    Down,
    /// It takes writes and must not get any.
    Fenced(Fence),
    /// What it holds does not compare with the primary's.
    Foreign(Difference),
}

/// Why a server that takes writes gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// The configuration calls it a replica.
    ConfiguredReplica,
    /// A primary is, or was, on a newer timeline, or was there before.
    Superseded,
    /// Another one takes writes too, and neither is newer.
    Disputed,
}

/// What keeps a server's positions from being compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It belongs to another system.
    System {
        /// Its system identifier.
        own: u64,
        /// The primary's.
        expected: u64,
    },
    /// It is on another timeline, as far as it can be told.
    Timeline {
        /// Its timeline.
        own: u32,
        /// The primary's.
        expected: u32,
    },
}

/// What positions of this server belong to, if it tells.
pub fn history_of(identity: &Identity) -> Option<History> {
    Some(History {
        system: identity.system?,
        timeline: identity.timeline?,
        started: identity.started,
    })
}

/// Rules what each server is.
pub fn judge(hosts: &[Facts], before: Before) -> Ruling {
    let bench = Bench { hosts, before };
    let (winner, is_disputed) = match bench.candidates().as_slice() {
        [] => (None, false),
        [only] => (bench.may_win_alone(*only).then_some(*only), false),
        several => bench.newest(several),
    };
    let identity = winner.and_then(|winner| hosts[winner].contact.identity());
    let reference = match identity {
        Some(identity) => Reference::of(&identity),
        None => bench.reference(),
    };
    let court = Court {
        bench,
        winner,
        is_disputed,
        reference,
    };
    Ruling {
        primary: winner.or_else(|| bench.stand_in()),
        history: identity.as_ref().and_then(history_of).or(before.history),
        standings: (0..hosts.len()).map(|host| court.standing(host)).collect(),
        is_disputed,
    }
}

/// What others are compared with; unknown parts differ from nothing.
#[derive(Clone, Copy)]
struct Reference {
    system: Option<u64>,
    timeline: Option<u32>,
}

impl Reference {
    fn of(identity: &Identity) -> Self {
        Self {
            system: identity.system,
            timeline: identity.timeline,
        }
    }

    fn difference(&self, identity: &Identity) -> Option<Difference> {
        match (identity.system, self.system) {
            (Some(own), Some(expected)) if own != expected => {
                return Some(Difference::System { own, expected });
            }
            _ => {}
        }
        let (own, expected) = identity.timeline.zip(self.timeline)?;
        (own != expected).then_some(Difference::Timeline { own, expected })
    }
}

#[derive(Clone, Copy)]
struct Bench<'a> {
    hosts: &'a [Facts],
    before: Before,
}

impl Bench<'_> {
    /// Who takes writes and is not known to be behind.
    fn candidates(&self) -> Vec<HostId> {
        let writes = |host: &HostId| {
            let facts = self.hosts[*host];
            let identity = facts.contact.identity();
            facts.role != Role::Replica && identity.is_some_and(|identity| !identity.in_recovery)
        };
        let all: Vec<_> = (0..self.hosts.len()).filter(writes).collect();
        let (Some(history), false) = (self.before.history, self.hosts.len() == 1) else {
            return all;
        };
        let of_system = |is_same: bool| {
            let is_it = |host: &&HostId| {
                let system = self.identity(**host).and_then(|identity| identity.system);
                system.is_none_or(|system| system == history.system) == is_same
            };
            all.iter().filter(is_it).copied().collect::<Vec<_>>()
        };
        let same = of_system(true);
        if !same.is_empty() {
            let is_current = |host: &HostId| {
                let timeline = self.identity(*host).and_then(|it| it.timeline);
                timeline.is_none_or(|timeline| timeline >= history.timeline)
            };
            return same.into_iter().filter(is_current).collect();
        }
        // Other data takes the place of the known ones only where the operator says so, or nobody is
        // left who might hold those.
        let is_left = |facts: &Facts| {
            let identity = facts.contact.identity();
            identity.is_none_or(|it| it.system.is_none_or(|system| system == history.system))
        };
        let mut others = of_system(false);
        if self.hosts.iter().any(is_left) {
            others.retain(|host| self.hosts[*host].role == Role::Primary);
        }
        others
    }

    /// Before any primary was seen, who is found first must not win over one that is yet to be seen.
    fn may_win_alone(&self, host: HostId) -> bool {
        let is_unseen =
            |facts: &Facts| facts.role != Role::Replica && matches!(facts.contact, Contact::Never);
        self.hosts[host].role == Role::Primary
            || self.before.history.is_some()
            || !self.hosts.iter().any(is_unseen)
    }

    /// Who of several wins, and whether that is disputed.
    fn newest(&self, candidates: &[HostId]) -> (Option<HostId>, bool) {
        let history = |host: &HostId| self.identity(*host).as_ref().and_then(history_of);
        let histories: Option<Vec<History>> = candidates.iter().map(history).collect();
        let comparable = histories.filter(|all| all.iter().all(|it| it.system == all[0].system));
        let best = comparable.map(|histories| {
            let newest = histories.iter().map(|it| it.timeline).max();
            let all = candidates.iter().zip(&histories);
            let best = all.filter(|(_, it)| Some(it.timeline) == newest);
            best.map(|(host, _)| *host).collect::<Vec<_>>()
        });
        let best = best.as_deref().unwrap_or(candidates);
        if let [winner] = best {
            return (self.may_win_alone(*winner).then_some(*winner), false);
        }
        let present = self.before.primary.filter(|host| best.contains(host));
        (present, true)
    }

    /// Who is asked for writes when nobody is seen to take them.
    fn stand_in(&self) -> Option<HostId> {
        if self.hosts.len() == 1 {
            return Some(0);
        }
        let is_it = |facts: &Facts| {
            let is_away = matches!(facts.contact, Contact::Never | Contact::Lost);
            facts.role == Role::Primary && is_away
        };
        self.hosts.iter().position(is_it)
    }

    /// Without a primary: the last one, or else whoever is there.
    fn reference(&self) -> Reference {
        if let Some(history) = self.before.history {
            return Reference {
                system: Some(history.system),
                timeline: Some(history.timeline),
            };
        }
        let mut systems = (0..self.hosts.len()).filter_map(|host| self.identity(host)?.system);
        Reference {
            system: systems.next(),
            timeline: None,
        }
    }

    fn identity(&self, host: HostId) -> Option<Identity> {
        self.hosts[host].contact.identity()
    }
}

struct Court<'a> {
    bench: Bench<'a>,
    winner: Option<HostId>,
    is_disputed: bool,
    reference: Reference,
}

impl Court<'_> {
    fn standing(&self, host: HostId) -> Standing {
        let facts = self.bench.hosts[host];
        let is_lone = self.bench.hosts.len() == 1;
        let identity = match facts.contact {
            Contact::Never => return Standing::Unknown,
            Contact::Lost => return Standing::Down,
            Contact::Broken(identity) if identity.in_recovery => return Standing::Down,
            Contact::Broken(identity) | Contact::Met(identity) => identity,
        };
        if self.winner == Some(host) {
            return Standing::Primary;
        }
        if identity.in_recovery {
            let difference = self.reference.difference(&identity);
            return difference
                .filter(|_| !is_lone)
                .map_or(Standing::Standby, Standing::Foreign);
        }
        if facts.role == Role::Replica {
            return Standing::Fenced(Fence::ConfiguredReplica);
        }
        match self.reference.difference(&identity) {
            Some(difference @ Difference::System { .. }) => Standing::Foreign(difference),
            _ if self.is_disputed => Standing::Fenced(Fence::Disputed),
            // Who may still turn out to be the primary is no stray.
            _ if self.winner.is_none() && self.bench.before.history.is_none() => Standing::Unknown,
            _ => Standing::Fenced(Fence::Superseded),
        }
    }
}

impl Contact {
    /// What it was last seen to be, unless it is away.
    pub fn identity(&self) -> Option<Identity> {
        match self {
            Self::Never | Self::Lost => None,
            Self::Broken(identity) | Self::Met(identity) => Some(*identity),
        }
    }
}

impl fmt::Display for Standing {
    /// Why, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not all servers have been seen yet"),
            Self::Primary => f.write_str("it takes writes"),
            Self::Standby => f.write_str("it is a standby of the primary's data"),
            Self::Down => f.write_str("it cannot be reached"),
            Self::Fenced(Fence::ConfiguredReplica) => {
                f.write_str("it takes writes, but role = \"replica\"")
            }
            Self::Fenced(Fence::Superseded) => {
                f.write_str("it takes writes, but another primary is newer")
            }
            Self::Fenced(Fence::Disputed) => {
                f.write_str("several servers take writes and none is newer than the others")
            }
            Self::Foreign(Difference::System { own, expected }) => {
                write!(f, "it is of system {own}, the primary of {expected}")
            }
            Self::Foreign(Difference::Timeline { own, expected }) => {
                write!(
                    f,
                    "it is known to be on timeline {own}, the primary is on {expected}"
                )
            }
        }
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
