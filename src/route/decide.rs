//! Which server a unit of work goes to, and why.
//!
//! A function of facts: what the unit needs, what is wished for it, how fresh it must be, and what is
//! known of the servers. It never waits and never asks anybody; when what it needs to know is on its
//! way, it says what to wait for and for how long at most.
//!
//! Invariants: only a proved read, a transaction that can only read, or what was told to go to a replica
//! by name goes to one. The primary is fresh enough for everything.

use std::ops::Range;

use super::{
    HostId, Poll, Reason, Topology,
    balance::{self, Chance, SomeHosts},
    freshness::{Freshness, Visit},
    topology::HostState,
};
use crate::{
    config::{Consistency, LoadBalance, OnLag, PoolSettings, PrimaryReads, RouteTo},
    session::Kind,
    sql,
};

/// The most servers a database may have.
pub const MAX_HOSTS: usize = crate::config::MAX_SERVERS;

/// What a unit of work is, to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It only reads: any server that is fresh enough.
    Read,
    /// A transaction that can only read, all of it on one server.
    ReadOnlyTransaction,
    /// It needs the primary.
    Primary(Reason),
}

impl Need {
    /// What a unit of this kind needs, and why if that is the primary.
    #[inline]
    pub fn of(kind: Kind, reason: Reason) -> Self {
        match kind {
            Kind::Read => Self::Read,
            Kind::ReadOnlyTransaction => Self::ReadOnlyTransaction,
            Kind::Control | Kind::Write => Self::Primary(reason),
        }
    }
}

/// What is wished for a unit, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Where it should run.
    pub route: RouteTo,
    /// How fresh it must be.
    pub consistency: Consistency,
    /// Whether a comment of the statement says where, and not a setting.
    pub by_comment: bool,
}

impl Wishes {
    /// Why a unit goes where the route says, if it says anything.
    pub(super) fn reason(self) -> Reason {
        if self.by_comment {
            Reason::Hint
        } else {
            Reason::Route
        }
    }

    /// Takes over what a comment of the statement wishes; words that mean nothing wish nothing.
    pub fn hint(&mut self, route: Option<&[u8]>, consistency: Option<&[u8]>) {
        let word = |wish: Option<&[u8]>| {
            let wish = str::from_utf8(wish?).ok()?;
            Some(wish.to_ascii_lowercase())
        };
        if let Some(route) = word(route).and_then(|word| RouteTo::from_word(&word)) {
            self.route = route;
            self.by_comment = true;
        }
        let consistency = word(consistency).and_then(|word| Consistency::from_word(&word));
        self.consistency = consistency.unwrap_or(self.consistency);
    }
}

/// What the operator has decided for the pool.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// When no replica is fresh enough.
    pub on_lag: OnLag,
    /// Which of several.
    pub load_balance: LoadBalance,
    /// Whether the primary serves reads.
    pub primary_reads: PrimaryReads,
    /// The zone of this process.
    pub zone: Option<&'a str>,
}

impl<'a> Policy<'a> {
    /// That of a pool with these settings.
    #[inline]
    pub fn of(settings: &'a PoolSettings) -> Self {
        Self {
            on_lag: settings.on_lag,
            load_balance: settings.load_balance,
            primary_reads: settings.primary_reads,
            zone: settings.zone.as_deref(),
        }
    }
}

/// A replica keeps up that is no further behind than so many polls. They are a millisecond apart or so while somebody waits
/// for them: a replica of which that is true has caught up within a few milliseconds.
const KEPT_UP: Poll = 8;

/// How much the asker would still wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Patience {
    /// Not at all.
    None,
    /// As long as `catch_up_wait` allows, for a replica that keeps up.
    Moment,
    /// As long as `lag_wait_timeout` allows.
    Lag,
}

/// All that is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What the unit is.
    pub need: Need,
    /// What is wished for it.
    pub wishes: Wishes,
    /// How fresh it must be.
    pub freshness: &'a Freshness,
    /// The poll behind the last write of those with whom the session shares its freshness.
    pub shared: Poll,
    /// The poll that was next when the unit arrived, for strong reads.
    pub asked: Poll,
    /// Whether it wrote less than `pin_after_write` ago.
    pub is_pinned: bool,
    /// A host that has just failed at this very unit.
    pub avoid: Option<HostId>,
    /// How much it has not waited yet.
    pub patience: Patience,
}

impl Question<'_> {
    /// Whether it is a transaction each of whose reads must see what was written until then. A replica can be chosen for its
    /// beginning only.
    pub(super) fn is_strong_throughout(&self) -> bool {
        self.need == Need::ReadOnlyTransaction
            && self.wishes.consistency == Consistency::Strong
            && self.wishes.route != RouteTo::Replica
    }
}

/// Where a unit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which server.
    pub host: HostId,
    /// Why that one.
    pub reason: Reason,
    /// The host as it was when it was chosen, for [`Freshness::on_read`]. `None` if there was no choice, or
    /// if it may be further back than what the session has seen.
    pub visit: Option<Visit>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go there.
    Go(Decision),
    /// Ask again when the monitor has found something out, or with less patience when the time is over.
    /// The monitor is wanted to do this poll.
    Wait {
        /// The poll; 0 for any.
        poll: Poll,
        /// What for.
        reason: Reason,
    },
    /// No server takes writes, as far as is known.
    NoPrimary,
    /// Reads may only go to replicas, and there is none.
    NoReplica,
}

/// Decides.
pub fn decide(
    question: &Question<'_>,
    policy: &Policy<'_>,
    topology: &Topology,
    chance: Chance,
) -> Verdict {
    let wishes = question.wishes;
    let wished = wishes.reason();
    let (reason, must_be_replica) = match (wishes.route, question.need) {
        (RouteTo::Primary, _) => return primary(topology, wished),
        (RouteTo::Replica, _) => (wished, true),
        (RouteTo::Auto, Need::Primary(reason)) => return primary(topology, reason),
        (RouteTo::Auto, Need::Read) => (Reason::Statement(sql::Reason::ProvedRead), false),
        (RouteTo::Auto, Need::ReadOnlyTransaction) => (Reason::ReadOnlyTransaction, false),
    };
    if wishes.consistency == Consistency::Primary {
        return primary(topology, Reason::Consistency);
    }
    if question.is_strong_throughout() {
        return primary(topology, Reason::Strong);
    }
    let search = Search::new(question, policy, topology);
    if let Some(host) = search.pick(chance) {
        let is_primary = Some(host) == topology.primary();
        let reason = if is_primary {
            Reason::PrimaryReads
        } else {
            reason
        };
        let visit = search.visit(host);
        return Verdict::Go(Decision {
            host,
            reason,
            visit,
        });
    }
    search.without_candidate(must_be_replica)
}

fn primary(topology: &Topology, reason: Reason) -> Verdict {
    let Some(host) = topology.primary() else {
        return Verdict::NoPrimary;
    };
    Verdict::Go(Decision {
        host,
        reason,
        // It did not choose to be there, and goes back as soon as it can.
        visit: None,
    })
}

/// Of all hosts, before anything else is looked at: what is found out about one that restarts meanwhile
/// is then no visit to its next life.
fn incarnations(topology: &Topology) -> [u32; MAX_HOSTS] {
    let mut incarnations = [0; MAX_HOSTS];
    for (place, host) in incarnations.iter_mut().zip(topology.hosts()) {
        *place = host.incarnation();
    }
    incarnations
}

/// The search for a host that may serve a read.
pub(super) struct Search<'a> {
    question: &'a Question<'a>,
    policy: &'a Policy<'a>,
    topology: &'a Topology,
    incarnations: [u32; MAX_HOSTS],
}

/// What keeps a read from a replica that is up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Obstacle {
    pub(super) reason: Reason,
    /// The poll that has to be done first, if it is not.
    poll: Poll,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        question: &'a Question<'a>,
        policy: &'a Policy<'a>,
        topology: &'a Topology,
    ) -> Self {
        Self {
            question,
            policy,
            topology,
            incarnations: incarnations(topology),
        }
    }

    /// The one of the hosts that may serve the read, by the pool's rule.
    fn pick(&self, chance: Chance) -> Option<HostId> {
        let (mut near, mut far) = (SomeHosts::default(), SomeHosts::default());
        let hosts = self.topology.hosts();
        for (id, host) in hosts.iter().enumerate().take(MAX_HOSTS) {
            if !self.may_serve(id) {
                continue;
            }
            let is_near = self.policy.zone.is_none() || self.policy.zone == host.zone.as_deref();
            if is_near { &mut near } else { &mut far }.insert(id);
        }
        let rule = self.policy.load_balance;
        let of = |ids: SomeHosts| balance::pick(rule, hosts, ids, chance);
        of(near).or_else(|| of(far))
    }

    pub(super) fn may_serve(&self, id: HostId) -> bool {
        match self.topology.hosts()[id].state() {
            HostState::Replica => self.may_serve_as_replica(id),
            HostState::Primary | HostState::Unknown => self.may_serve_as_one_of_many(id),
            _ => false,
        }
    }

    fn may_serve_as_replica(&self, id: HostId) -> bool {
        self.is_up(id) && self.obstacle(id).is_none()
    }

    /// Whether the primary takes part in the choice as if it were a replica. It is always fresh enough,
    /// and a session can leave it only when a poll has told what it saw there: if nothing kept a session
    /// from coming to it either, all would end up there.
    fn may_serve_as_one_of_many(&self, id: HostId) -> bool {
        let Question {
            wishes, freshness, ..
        } = self.question;
        let is_allowed = self.policy.primary_reads == PrimaryReads::Always
            && wishes.route != RouteTo::Replica
            && self.topology.primary() == Some(id)
            && self.question.avoid != Some(id)
            && self.topology.hosts()[id].weight > 0;
        if !is_allowed {
            return false;
        }
        let is_eventual = wishes.consistency == Consistency::Eventual;
        if !is_eventual && freshness.is_at(self.at(id)) {
            return true;
        }
        let may_move = is_eventual || self.topology.position(freshness.seen).is_some();
        may_move && self.ids().any(|other| self.may_serve_as_replica(other))
    }

    /// All hosts.
    fn ids(&self) -> Range<HostId> {
        0..self.topology.hosts().len().min(MAX_HOSTS)
    }

    fn is_up(&self, id: HostId) -> bool {
        let host = &self.topology.hosts()[id];
        host.state() == HostState::Replica && host.weight > 0 && self.question.avoid != Some(id)
    }

    /// What keeps the read from this replica, if anything does.
    pub(super) fn obstacle(&self, id: HostId) -> Option<Obstacle> {
        let question = self.question;
        if question.wishes.consistency == Consistency::Eventual {
            return None;
        }
        let replayed = self.topology.hosts()[id].replayed();
        let behind = |poll: Poll, reason| match self.topology.position(poll) {
            Some(position) if replayed >= position => None,
            Some(_) => Some(Obstacle { reason, poll: 0 }),
            None => Some(Obstacle { reason, poll }),
        };
        if question.is_pinned {
            let reason = Reason::PinAfterWrite;
            return Some(Obstacle { reason, poll: 0 });
        }
        let freshness = question.freshness;
        let written = freshness.written.max(question.shared);
        behind(written, Reason::OwnWrites)
            .or_else(|| {
                let is_strong = question.wishes.consistency == Consistency::Strong;
                is_strong.then(|| behind(question.asked, Reason::Strong))?
            })
            .or_else(|| {
                let token = freshness.token?;
                let is_known = self.topology.history() == Some(token.history);
                let is_reached = is_known && replayed >= token.position;
                let reason = Reason::Token;
                (!is_reached).then_some(Obstacle { reason, poll: 0 })
            })
            .or_else(|| {
                // Where it read last, time does not run backwards.
                let moves = !freshness.is_at(self.at(id));
                moves.then(|| behind(freshness.seen, Reason::Monotonic))?
            })
    }

    fn at(&self, host: HostId) -> Visit {
        let incarnation = self.incarnations[host];
        Visit { host, incarnation }
    }

    /// The visit that a read from this host is, unless it was let back in time.
    fn visit(&self, host: HostId) -> Option<Visit> {
        let visit = self.at(host);
        let is_held = self.question.wishes.consistency != Consistency::Eventual
            || self.topology.primary() == Some(host)
            || self.question.freshness.is_at(visit);
        is_held.then_some(visit)
    }

    /// No host may serve the read as things are: wait, or go to the primary.
    fn without_candidate(&self, must_be_replica: bool) -> Verdict {
        let obstacles = self
            .ids()
            .filter(|id| self.is_up(*id))
            .filter_map(|id| self.obstacle(id));
        // The least of the obstacles: what stands in the way of the host that is nearest to serving.
        let Some(obstacle) = obstacles.max_by_key(|obstacle| obstacle.nearness()) else {
            return self.without_replica(must_be_replica);
        };
        let Obstacle { reason, poll } = obstacle;
        let may_wait = self.question.patience;
        let wait = Verdict::Wait { poll, reason };
        let waits_for_lag = self.policy.on_lag == OnLag::Wait && reason != Reason::PinAfterWrite;
        if may_wait == Patience::Lag && (waits_for_lag || must_be_replica) {
            return wait;
        }
        let is_worth_a_moment = match reason {
            Reason::Strong => true,
            Reason::Monotonic => self.is_keeping_up(),
            Reason::OwnWrites => {
                self.policy.primary_reads != PrimaryReads::Always && self.is_keeping_up()
            }
            _ => false,
        };
        if may_wait >= Patience::Moment && is_worth_a_moment {
            return wait;
        }
        if must_be_replica {
            return Verdict::NoReplica;
        }
        primary(self.topology, reason)
    }

    fn without_replica(&self, must_be_replica: bool) -> Verdict {
        let is_allowed = self.policy.primary_reads != PrimaryReads::Never && !must_be_replica;
        if is_allowed {
            primary(self.topology, Reason::NoReplica)
        } else {
            Verdict::NoReplica
        }
    }

    /// Whether some replica has been where the primary was shortly before: then it will be there in a moment, and
    /// a session that writes or reads all the time comes back to it. If none was, waiting would only cost time.
    fn is_keeping_up(&self) -> bool {
        let lately = self
            .topology
            .polls
            .last_done()
            .saturating_sub(KEPT_UP)
            .max(1);
        let Some(position) = self.topology.position(lately) else {
            return false;
        };
        let hosts = self.topology.hosts();
        self.ids()
            .any(|id| self.is_up(id) && hosts[id].replayed() >= position)
    }
}

impl Obstacle {
    /// The greater, the nearer its host is to serving the read.
    fn nearness(self) -> u8 {
        match self.reason {
            Reason::Monotonic => 3,
            Reason::Strong => 2,
            Reason::Token => 1,
            _ => 0,
        }
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
