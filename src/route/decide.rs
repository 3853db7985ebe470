//! Which server a unit of work goes to, and why.
//!
//! A function of facts: what the unit needs, what is wished for it, how fresh it must be, and what is
//! known of the servers. It never waits and never asks anybody; when what it needs to know is on its
//! way, it says what to wait for and for how long at most.
//!
//! Invariants: only a proved read, a transaction that can only read, or what was told to go to a replica
//! by name goes to one. The primary is fresh enough for everything.

use super::{
    Host, HostId, Lsn, Poll, Reason, Token, Topology,
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

/// Decides. As a function of its own it would cost a transaction 70 instructions more.
#[inline(always)]
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
    // Again, if the monitor finds something out between the look for a host and the look for what keeps them all.
    loop {
        let search = Search::new(question, policy, topology);
        if let Some(visit) = search.pick(chance) {
            let is_primary = Some(visit.host) == topology.primary();
            let reason = if is_primary {
                Reason::PrimaryReads
            } else {
                reason
            };
            return Verdict::Go(Decision {
                host: visit.host,
                reason,
                visit: search.is_held(visit).then_some(visit),
            });
        }
        if let Some(verdict) = search.without_candidate(must_be_replica) {
            return verdict;
        }
    }
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

/// The search for a host that may serve a read.
pub(super) struct Search<'a> {
    question: &'a Question<'a>,
    policy: &'a Policy<'a>,
    topology: &'a Topology,
    /// How far the replica must have replayed that the session last read from.
    there: Lsn,
    /// And any other one.
    elsewhere: Lsn,
}

/// What a replica must have replayed, in the order in which people are told what it lacks.
struct Bounds {
    pinned: Bound,
    written: Bound,
    asked: Bound,
    token: Bound,
    /// Unless it was seen on that very host: there, time does not run backwards.
    seen: Bound,
}

/// A position that a replica must have replayed.
#[derive(Clone, Copy)]
struct Bound {
    /// Behind everything, if it is not known or none is enough.
    position: Lsn,
    /// The poll that has to be done before it is known.
    poll: Poll,
}

/// A host, and what a read from it would be.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) host: &'a Host,
    pub(super) visit: Visit,
}

/// What keeps a read from a replica that is up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Obstacle {
    pub(super) reason: Reason,
    /// The poll that has to be done first, if it is not.
    poll: Poll,
}

impl Bound {
    const NONE: Self = Self::at(Lsn(0));
    const NEVER: Self = Self::at(Lsn(u64::MAX));

    const fn at(position: Lsn) -> Self {
        Self { position, poll: 0 }
    }

    /// Where the primary was at that poll.
    #[inline]
    fn of(poll: Poll, topology: &Topology) -> Self {
        match topology.position(poll) {
            Some(position) => Self::at(position),
            None => Self {
                poll,
                ..Self::NEVER
            },
        }
    }

    #[inline]
    fn of_token(token: Token, topology: &Topology) -> Self {
        if topology.history() == Some(token.history) {
            Self::at(token.position)
        } else {
            Self::NEVER
        }
    }
}

impl Bounds {
    /// To be taken before a host is asked what it has replayed: that is then of the same history or of a later
    /// one, in which whatever it does not hold is lost.
    #[inline(always)]
    fn of(question: &Question<'_>, topology: &Topology) -> Self {
        let none = Bound::NONE;
        let consistency = question.wishes.consistency;
        if consistency == Consistency::Eventual {
            return Self {
                pinned: none,
                written: none,
                asked: none,
                token: none,
                seen: none,
            };
        }
        let freshness = question.freshness;
        let is_strong = consistency == Consistency::Strong;
        Self {
            pinned: if question.is_pinned {
                Bound::NEVER
            } else {
                none
            },
            written: Bound::of(freshness.written.max(question.shared), topology),
            asked: Bound::of(if is_strong { question.asked } else { 0 }, topology),
            token: freshness
                .token
                .map_or(none, |token| Bound::of_token(token, topology)),
            seen: Bound::of(freshness.seen, topology),
        }
    }
}

impl<'a> Search<'a> {
    #[inline]
    pub(super) fn new(
        question: &'a Question<'a>,
        policy: &'a Policy<'a>,
        topology: &'a Topology,
    ) -> Self {
        let bounds = Bounds::of(question, topology);
        let anywhere = [bounds.pinned, bounds.written, bounds.asked, bounds.token];
        let there = anywhere.map(|bound| bound.position).into_iter().max();
        let there = there.unwrap_or_default();
        Self {
            question,
            policy,
            topology,
            there,
            elsewhere: there.max(bounds.seen.position),
        }
    }

    /// The one of the hosts that may serve the read, by the pool's rule.
    #[inline]
    fn pick(&self, chance: Chance) -> Option<Visit> {
        let (mut near, mut far) = (SomeHosts::default(), SomeHosts::default());
        let mut incarnations = [0; MAX_HOSTS];
        let hosts = self.topology.hosts();
        for (id, host) in hosts.iter().enumerate().take(MAX_HOSTS) {
            let candidate = Candidate::of(id, host);
            if !self.may_serve(candidate) {
                continue;
            }
            incarnations[id] = candidate.visit.incarnation;
            let is_near = self.policy.zone.is_none() || self.policy.zone == host.zone.as_deref();
            if is_near { &mut near } else { &mut far }.insert(id);
        }
        let rule = self.policy.load_balance;
        let of = |ids: SomeHosts| balance::pick(rule, hosts, ids, chance);
        let host = of(near).or_else(|| of(far))?;
        let incarnation = incarnations[host];
        Some(Visit { host, incarnation })
    }

    #[inline]
    pub(super) fn may_serve(&self, candidate: Candidate<'_>) -> bool {
        match candidate.host.state() {
            HostState::Replica => self.takes_part(candidate) && self.is_fresh(candidate),
            HostState::Primary | HostState::Unknown => {
                self.policy.primary_reads == PrimaryReads::Always
                    && self.may_serve_as_one_of_many(candidate)
            }
            _ => false,
        }
    }

    /// Whether this replica has replayed what it must.
    #[inline]
    fn is_fresh(&self, candidate: Candidate<'_>) -> bool {
        let is_there = self.question.freshness.is_at(candidate.visit);
        let needed = if is_there { self.there } else { self.elsewhere };
        candidate.host.replayed() >= needed
    }

    /// Whether the primary takes part in the choice as if it were a replica. It is always fresh enough,
    /// and a session can leave it only when a poll has told what it saw there: if nothing kept a session
    /// from coming to it either, all would end up there.
    #[cold]
    fn may_serve_as_one_of_many(&self, candidate: Candidate<'_>) -> bool {
        let Question {
            wishes, freshness, ..
        } = self.question;
        let is_allowed = wishes.route != RouteTo::Replica
            && self.topology.primary() == Some(candidate.visit.host)
            && self.takes_part(candidate);
        if !is_allowed {
            return false;
        }
        if wishes.consistency != Consistency::Eventual && freshness.is_at(candidate.visit) {
            return true;
        }
        let is_eventual = wishes.consistency == Consistency::Eventual;
        let may_move = is_eventual || self.topology.position(freshness.seen).is_some();
        may_move && self.replicas().any(|it| self.is_fresh(it))
    }

    /// The replicas that are up.
    fn replicas(&self) -> impl Iterator<Item = Candidate<'a>> {
        let hosts = self.topology.hosts().iter().enumerate().take(MAX_HOSTS);
        let candidates = hosts.map(|(id, host)| Candidate::of(id, host));
        candidates.filter(|it| it.host.state() == HostState::Replica && self.takes_part(*it))
    }

    /// Whether nothing but its state can keep it from the reads altogether.
    #[inline]
    fn takes_part(&self, candidate: Candidate<'_>) -> bool {
        candidate.host.weight > 0 && self.question.avoid != Some(candidate.visit.host)
    }

    /// What keeps the read from this replica, if anything does: why [`Search::is_fresh`] says no.
    #[cold]
    pub(super) fn obstacle(&self, candidate: Candidate<'_>) -> Option<Obstacle> {
        let bounds = Bounds::of(self.question, self.topology);
        let is_there = self.question.freshness.is_at(candidate.visit);
        let seen = if is_there { Bound::NONE } else { bounds.seen };
        let replayed = candidate.host.replayed();
        let (reason, bound) = [
            (Reason::PinAfterWrite, bounds.pinned),
            (Reason::OwnWrites, bounds.written),
            (Reason::Strong, bounds.asked),
            (Reason::Token, bounds.token),
            (Reason::Monotonic, seen),
        ]
        .into_iter()
        .find(|(_, bound)| replayed < bound.position)?;
        let poll = bound.poll;
        Some(Obstacle { reason, poll })
    }

    /// Whether a read from this host counts as a visit: not if it was let back in time.
    #[inline]
    fn is_held(&self, visit: Visit) -> bool {
        self.question.wishes.consistency != Consistency::Eventual
            || self.topology.primary() == Some(visit.host)
            || self.question.freshness.is_at(visit)
    }

    /// No host may serve the read as things were: wait, or go to the primary. `None` if one may by now.
    #[cold]
    fn without_candidate(&self, must_be_replica: bool) -> Option<Verdict> {
        // The least of the obstacles: what stands in the way of the host that is nearest to serving.
        let mut least: Option<Obstacle> = None;
        for replica in self.replicas() {
            let obstacle = self.obstacle(replica)?;
            if least.is_none_or(|least| obstacle.nearness() >= least.nearness()) {
                least = Some(obstacle);
            }
        }
        Some(match least {
            Some(least) => self.behind(least, must_be_replica),
            None => self.without_replica(must_be_replica),
        })
    }

    /// The nearest replica is kept from the read by this.
    fn behind(&self, obstacle: Obstacle, must_be_replica: bool) -> Verdict {
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
        self.replicas().any(|it| it.host.replayed() >= position)
    }
}

impl<'a> Candidate<'a> {
    /// The host as it is now. The incarnation comes before anything else that is looked at: what is found
    /// out about one that restarts meanwhile is then no visit to its next life.
    #[inline]
    pub(super) fn of(id: HostId, host: &'a Host) -> Self {
        let incarnation = host.incarnation();
        let visit = Visit {
            host: id,
            incarnation,
        };
        Self { host, visit }
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
