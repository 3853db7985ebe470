//! One client's routing: which of its database's servers each of its units goes to.
//!
//! Holds what the decisions of [`crate::route`] need to know of one session (how fresh it must be, what
//! it wishes, what it waits for) and turns them into a pool. Reads no bytes itself and touches no
//! connection. Clients of a database with one server have none of this.

mod token;
mod wished;

use std::{
    hash::BuildHasher,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use foldhash::fast::FixedState;
use tokio::time::Instant;

use self::wished::Wished;
use crate::{
    config::{Consistency, ConsistencyScope, OnLag, PoolMode, PoolSettings, RouteTo},
    pool::{ClientRecord, Cluster, Hosts, Pool, Watch, clients::Origin, watch::SharedWrite},
    route::{
        self, Chance, Decision, Freshness, HostId, Need, Patience, Policy, Poll, Question, Reason,
        Token, Verdict, Visit, Wishes,
    },
    session::{Kind, Place, Session, Unit},
    sql,
};

/// How often a unit is run elsewhere before its failure is told.
const MAX_RERUNS: u8 = 3;

/// How soon a primary that could not be reached is tried again for the same unit.
const RETRY: Duration = Duration::from_millis(100);

/// What to do with a unit.
#[derive(Debug)]
pub enum Choice<'a> {
    /// Send it to a server of this pool.
    Go(&'a Arc<Pool>),
    /// Ask again when the watch has found something out.
    Wait,
    /// No server can have it.
    Nobody(Nobody),
}

/// Why no server can have a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// It needs the primary, and there is none.
    Primary(Duration),
    /// It must go to a replica, and none can have it.
    Replica,
    /// It asks for a token, and where the primary is cannot be found out.
    Token,
}

/// On which host the client counts as being at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    None,
    /// It is to get a server there, for a read or for something else, and may have to wait for it.
    Wanted {
        host: HostId,
        is_read: bool,
    },
    /// It has one.
    UnderWay(HostId),
}

/// A primary to which no connection could be made.
#[derive(Clone, Copy, Debug)]
struct Unreachable {
    host: HostId,
    since: Instant,
    tried: Instant,
}

/// One client's routing.
#[derive(Debug)]
pub struct Routing {
    cluster: Arc<Cluster>,
    hosts: Arc<Hosts>,
    watch: Arc<Watch>,
    freshness: Freshness,
    wished: Wished,
    /// What it was last told by `SHOW pgweir.token`.
    told: Option<Token>,
    /// What the present unit's comments wish to share its freshness with.
    shared_by_comment: Option<Arc<SharedWrite>>,
    /// Where the present unit was sent, and why.
    decision: Option<Decision>,
    /// The topology's epoch in which that was decided.
    epoch: u64,
    /// As what that host was chosen.
    place: Place,
    work: Work,
    /// Whether the present unit is proved to be a read that stands alone, and its length.
    stake: Option<usize>,
    /// Since when the present unit waits for a decision, and the poll that was next then.
    waiting: Option<(Instant, Poll)>,
    /// The host that failed at the present unit, and how many have.
    avoid: Option<HostId>,
    reruns: u8,
    /// The primary that could not be reached for the present unit.
    unreachable: Option<Unreachable>,
    /// When it last wrote, where `pin_after_write` asks for that.
    wrote_at: Option<Instant>,
    /// It wrote, and the console does not know yet when.
    is_undated: bool,
    /// What the console shows of the client.
    record: Arc<ClientRecord>,
    /// Stands for the client's address.
    origin: u64,
    turn: u64,
}

impl Routing {
    /// For a client of these servers; `None` if there is nothing to choose.
    pub fn new(
        cluster: &Arc<Cluster>,
        settings: &PoolSettings,
        session: &Session,
        record: &Arc<ClientRecord>,
    ) -> Option<Box<Self>> {
        let hosts = cluster.hosts();
        let watch = Arc::clone(hosts.watch.as_ref()?);
        let wished = Wished::read(session.settings(), settings, &watch);
        Some(Box::new(Self {
            cluster: Arc::clone(cluster),
            hosts,
            watch,
            freshness: Freshness {
                token: wished::own_token(session.settings()),
                ..Freshness::default()
            },
            wished,
            told: None,
            shared_by_comment: None,
            decision: None,
            epoch: 0,
            place: Place::Replica,
            work: Work::None,
            stake: None,
            waiting: None,
            avoid: None,
            reruns: 0,
            unreachable: None,
            wrote_at: None,
            is_undated: false,
            record: Arc::clone(record),
            origin: hash_of(record.origin),
            turn: record.id,
        }))
    }

    /// Wakes `waker` when there is something new to decide by.
    pub fn wait_for_news(&self, waker: &Waker) {
        self.watch.wait(waker);
        // Whoever replaced the servers meanwhile has told those who waited then.
        if !self.cluster.is_current(&self.hosts) {
            waker.wake_by_ref();
        }
    }

    /// Decides where the unit that `data` begins with goes.
    pub fn choose(
        &mut self,
        session: &mut Session,
        data: &[u8],
        settings: &PoolSettings,
        now: Instant,
    ) -> Choice<'_> {
        self.refresh(session, settings);
        let unit = session.unit(data);
        if unit.shows_token && !self.tell_token(session, settings) {
            return self.wait_until(settings.lag_wait_timeout, Nobody::Token, now);
        }
        // Before: a change that the decision may have missed is one behind it.
        self.epoch = self.watch.topology.epoch();
        let verdict = self.decide(&unit, settings, now);
        match verdict {
            Verdict::Go(decision) if self.is_tried(decision.host, now) => self.wait(now),
            Verdict::Go(decision) => {
                if decision.reason == Reason::Monotonic {
                    self.watch.want(self.freshness.seen);
                }
                Choice::Go(self.go(session, &unit, decision, settings))
            }
            Verdict::Wait { poll, .. } => {
                self.watch.want(poll);
                self.wait(now)
            }
            Verdict::NoPrimary => {
                let limit = settings.primary_wait_timeout.unwrap_or_default();
                self.wait_until(limit, Nobody::Primary(limit), now)
            }
            Verdict::NoReplica => {
                self.begin_anew();
                Choice::Nobody(Nobody::Replica)
            }
        }
    }

    fn wait(&mut self, now: Instant) -> Choice<'_> {
        let next = self.watch.topology.polls.next();
        self.waiting.get_or_insert((now, next));
        Choice::Wait
    }

    /// Waits for what may come about, but no longer than `limit`.
    fn wait_until(&mut self, limit: Duration, otherwise: Nobody, now: Instant) -> Choice<'_> {
        if self.waited(now) < limit {
            return self.wait(now);
        }
        self.begin_anew();
        Choice::Nobody(otherwise)
    }

    /// How long the present unit has waited.
    fn waited(&self, now: Instant) -> Duration {
        let since = self.waiting.map(|(since, _)| now.duration_since(since));
        since.unwrap_or_default()
    }

    #[inline]
    fn decide(&mut self, unit: &Unit, settings: &PoolSettings, now: Instant) -> Verdict {
        let topology = &self.watch.topology;
        let reason = match unit.reason {
            Some(reason) => Reason::Statement(reason),
            None if settings.pool_mode == PoolMode::Session => Reason::SessionMode,
            None => Reason::Unseen,
        };
        let need = Need::of(unit.kind, reason);
        let need = match need {
            // It has failed on too many replicas.
            Need::Read if self.reruns >= MAX_RERUNS => Need::Primary(Reason::Rerun),
            need => need,
        };
        let mut wishes = Wishes {
            route: self.wished.route,
            consistency: self.wished.consistency,
            by_comment: false,
        };
        let mut freshness = &self.freshness;
        let mut of_unit;
        let is_timed = settings.pin_after_write.is_some() && topology.hides_positions();
        if is_timed || unit.hints.is_some() {
            of_unit = *freshness;
            if is_timed {
                (of_unit.written, of_unit.seen) = (0, 0);
            }
            if let Some(hints) = &unit.hints {
                wished::read_hints(hints, &mut wishes, &mut of_unit);
            }
            freshness = &of_unit;
        }
        let key = unit.hints.as_ref().and_then(|hints| hints.key.as_deref());
        self.shared_by_comment = key.map(|key| self.watch.shared(key));
        let asked = self
            .waiting
            .map_or_else(|| topology.polls.next(), |(_, asked)| asked);
        let question = Question {
            need,
            wishes,
            freshness,
            // Others go on writing while it waits.
            shared: self.shared_write(settings).min(asked),
            asked,
            is_pinned: self.is_pinned(settings, now),
            avoid: self.avoid,
            patience: self.patience(wishes, settings, now),
        };
        let policy = Policy::of(settings);
        self.turn = self.turn.wrapping_add(1);
        let chance = Chance {
            turn: self.turn,
            dice: self.turn.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            client: self.origin,
        };
        route::decide(&question, &policy, topology, chance)
    }

    /// The poll behind the last write of those with whom the session shares its freshness.
    fn shared_write(&self, settings: &PoolSettings) -> Poll {
        let by_scope = match settings.consistency_scope {
            ConsistencyScope::Session => 0,
            ConsistencyScope::User => self.cluster.written.load(Ordering::Acquire),
            ConsistencyScope::Database => self.watch.written.poll(),
            ConsistencyScope::Key => self.wished.shared.as_ref().map_or(0, |it| it.poll()),
        };
        let by_comment = self.shared_by_comment.as_ref().map_or(0, |it| it.poll());
        by_scope.max(by_comment)
    }

    fn is_pinned(&self, settings: &PoolSettings, now: Instant) -> bool {
        let (Some(time), Some(at)) = (settings.pin_after_write, self.wrote_at) else {
            return false;
        };
        now.duration_since(at) < time
    }

    /// How much the present unit would still wait.
    fn patience(&self, wishes: Wishes, settings: &PoolSettings, now: Instant) -> Patience {
        let waited = self.waited(now);
        let waits_long = settings.on_lag == OnLag::Wait || wishes.route == RouteTo::Replica;
        if waits_long && waited < settings.lag_wait_timeout {
            Patience::Lag
        } else if waited < settings.catch_up_wait {
            Patience::Moment
        } else {
            Patience::None
        }
    }

    fn go(
        &mut self,
        session: &mut Session,
        unit: &Unit,
        mut decision: Decision,
        settings: &PoolSettings,
    ) -> &Arc<Pool> {
        if self.reruns > 0 {
            decision.reason = Reason::Rerun;
        }
        let only_reads = Reason::Statement(sql::Reason::ProvedRead);
        if let (Some(own), true) = (unit.reason, decision.reason == only_reads) {
            // What may run anywhere may do so for a reason of its own.
            decision.reason = Reason::Statement(own);
        }
        self.watch.count(decision);
        let primary = self.watch.topology.primary();
        if settings.shadow {
            decision.host = primary.unwrap_or(0);
            // It does not visit the host that was decided, nor shall a later read believe so.
            decision.visit = None;
        }
        self.begin_work(decision.host, unit.kind);
        let is_primary = primary == Some(decision.host);
        self.place = if is_primary {
            Place::Primary
        } else if unit.hints.is_some() || self.decides_each(settings) {
            Place::ReplicaForOne
        } else {
            Place::Replica
        };
        session.set_place(self.place);
        let is_read = unit.kind == Kind::Read && !is_primary && settings.rerun_reads;
        self.stake = unit.size.filter(|_| is_read);
        self.waiting = None;
        self.decision = Some(decision);
        self.hosts.pool(decision.host)
    }

    /// Whether what was decided would be decided again, as far as a wait for a server can have changed that:
    /// another host may be the primary now, or this one have restarted further back than it was.
    pub fn holds(&self) -> bool {
        let Some(decision) = self.decision else {
            return true;
        };
        let topology = &self.watch.topology;
        let is_same =
            |visit: Visit| topology.hosts()[visit.host].incarnation() == visit.incarnation;
        topology.epoch() == self.epoch
            && self.cluster.is_current(&self.hosts)
            && decision.visit.is_none_or(is_same)
    }

    /// What was decided holds no more.
    pub fn undecide(&mut self) {
        self.stop_work();
        self.decision = None;
    }

    /// Whether a read must see what others had written when it was asked.
    fn decides_each(&self, settings: &PoolSettings) -> bool {
        self.wished.consistency == Consistency::Strong
            || settings.consistency_scope != ConsistencyScope::Session
    }

    /// How many bytes of the present unit can be run elsewhere.
    pub fn stake(&mut self) -> Option<usize> {
        self.stake.take()
    }

    /// The client has got the server.
    pub fn on_attach(&mut self) {
        if let Work::Wanted { host, .. } = self.work {
            self.work = Work::UnderWay(host);
        }
    }

    /// Whether the server that it has was given to it as the primary, and another one is that now: what the
    /// old one still acknowledges is lost.
    #[inline]
    pub fn is_deposed(&self) -> bool {
        let Work::UnderWay(host) = self.work else {
            return false;
        };
        let primary = self.watch.topology.primary();
        self.place == Place::Primary && primary.is_some_and(|it| it != host)
    }

    /// Who waits counts as well: or all who come while every server is busy would wait for the same one.
    fn begin_work(&mut self, host: HostId, kind: Kind) {
        self.stop_work();
        let is_read = matches!(kind, Kind::Read | Kind::ReadOnlyTransaction);
        self.watch.topology.hosts()[host].begin(is_read);
        self.work = Work::Wanted { host, is_read };
    }

    fn stop_work(&mut self) {
        let hosts = self.watch.topology.hosts();
        match std::mem::replace(&mut self.work, Work::None) {
            Work::None => {}
            Work::Wanted { host, is_read } => hosts[host].withdraw(is_read),
            Work::UnderWay(host) => hosts[host].end(),
        }
    }

    /// The client learns that something is over that may have changed data. To be called before it is
    /// told, so that nobody who has heard of it reads from before it.
    pub fn on_write(&mut self, changes_schema: bool, settings: &PoolSettings) {
        if changes_schema {
            self.watch.on_schema_change();
        }
        let poll = self.begin_pin();
        match settings.consistency_scope {
            ConsistencyScope::Session => {}
            ConsistencyScope::User => self.cluster.on_write(poll),
            ConsistencyScope::Database => self.watch.written.on_write(poll),
            ConsistencyScope::Key => {
                if let Some(shared) = &self.wished.shared {
                    shared.on_write(poll);
                }
            }
        }
        if let Some(shared) = &self.shared_by_comment {
            shared.on_write(poll);
        }
        if settings.pin_after_write.is_some() {
            self.wrote_at = Some(Instant::now());
        }
    }

    /// What it has just written was written under these keys, too.
    pub fn share_write(&self, keys: &[Box<[u8]>]) {
        for key in keys {
            let shared = self.watch.shared(key);
            shared.on_write(self.freshness.written);
        }
    }

    /// Whatever the primary holds by now, the session may have written; answers the poll that tells.
    fn begin_pin(&mut self) -> Poll {
        let poll = self.freshness.on_write(&self.watch.topology);
        self.watch.want(poll);
        self.record.written.store(poll, Ordering::Relaxed);
        self.is_undated = true;
        poll
    }

    /// Tells the console when the session wrote, if it has; `now` is only asked if so.
    #[inline]
    pub fn date_write(&mut self, now: impl FnOnce() -> u64) {
        if std::mem::take(&mut self.is_undated) {
            self.record.written_at.store(now(), Ordering::Relaxed);
        }
    }

    /// The client has given its server back, after this time.
    pub fn on_release(&mut self, held: Duration, settings: &PoolSettings) {
        if let Work::UnderWay(host) = self.work {
            let micros = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
            self.watch.topology.hosts()[host].add_latency(micros);
        }
        self.stop_work();
        if let Some(decision) = self.decision.take() {
            let topology = &self.watch.topology;
            self.freshness.on_read(&decision, topology);
            // A view may write, which only the catalogue knows: until it was read, what was taken for
            // a read on the primary counts as a write.
            let is_primary = topology.primary() == Some(decision.host);
            if is_primary && self.watch.generation() == 0 {
                self.on_write(false, settings);
            }
        }
        self.begin_anew();
    }

    /// The server was lost, or has failed at the unit.
    pub fn on_failure(&mut self) {
        self.stop_work();
        self.avoid = self.decision.take().map(|decision| decision.host);
        self.reruns = self.reruns.saturating_add(1);
    }

    /// A connection to the present host was lost: what is known of it is doubted.
    pub fn on_lost(&self) {
        if let Some(decision) = self.decision
            && self.watch.topology.primary() != Some(decision.host)
        {
            self.watch.doubt(decision.host);
        }
    }

    /// Whether a unit that found no connection may try another server.
    pub fn may_try_elsewhere(&self) -> bool {
        let is_replica = self
            .decision
            .is_some_and(|it| self.watch.topology.primary() != Some(it.host));
        is_replica && self.reruns < MAX_RERUNS && self.wished.route != RouteTo::Replica
    }

    /// No connection can be made to the primary, which the monitor may not know yet. Whether the unit
    /// waits for one that can be reached, as it does when there is none.
    pub fn waits_for_primary(&mut self, settings: &PoolSettings, now: Instant) -> bool {
        let primary = self.watch.topology.primary();
        let Some(host) = primary.filter(|host| self.decision.is_some_and(|it| it.host == *host))
        else {
            return false;
        };
        let before = self.unreachable.filter(|before| before.host == host);
        let since = before.map_or(now, |before| before.since);
        if now.duration_since(since) >= settings.primary_wait_timeout.unwrap_or_default() {
            return false;
        }
        let tried = now;
        self.unreachable = Some(Unreachable { host, since, tried });
        self.stop_work();
        self.decision = None;
        true
    }

    /// Whether this host could not be reached a moment ago.
    fn is_tried(&self, host: HostId, now: Instant) -> bool {
        self.unreachable
            .is_some_and(|it| it.host == host && now.duration_since(it.tried) < RETRY)
    }

    /// A unit is over: the next one has not failed anywhere.
    pub fn begin_anew(&mut self) {
        self.unreachable = None;
        self.avoid = None;
        self.reruns = 0;
        self.waiting = None;
        self.stake = None;
    }

    /// The unit that was decided is not sent after all.
    pub fn on_give_up(&mut self) {
        self.stop_work();
        self.decision = None;
        self.begin_anew();
    }

    /// The session has kept its server and begins something new on it, `data`. What it has seen there is not
    /// known by a position, and what is asked of that server is not decided: so a token that is asked for is
    /// one that only the primary is fresh enough for.
    pub fn on_kept(&mut self, session: &mut Session, data: &[u8], settings: &PoolSettings) {
        self.read_wishes(session, settings);
        let unit = session.unit(data);
        let key = unit.hints.and_then(|hints| hints.key);
        self.shared_by_comment = key.map(|key| self.watch.shared(&key));
        if unit.shows_token {
            self.give_token(session, Token::BEYOND_ALL);
        }
    }

    /// Takes over what has changed: the servers, the catalogue, the session's settings.
    fn refresh(&mut self, session: &mut Session, settings: &PoolSettings) {
        if !self.cluster.is_current(&self.hosts) {
            self.take_over(session, settings);
        }
        if self.watch.generation() != session.world()
            && let Some(world) = self.watch.world()
        {
            session.set_world(world);
        }
        self.read_wishes(session, settings);
    }

    /// Another set of servers.
    #[cold]
    fn take_over(&mut self, session: &Session, settings: &PoolSettings) {
        self.hosts = self.cluster.hosts();
        let watch = self.hosts.watch.clone();
        if let Some(watch) = watch.filter(|watch| !Arc::ptr_eq(watch, &self.watch)) {
            self.stop_work();
            self.watch = watch;
            // Positions of polls that another watch has counted mean nothing to this one.
            self.freshness = Freshness {
                token: wished::own_token(session.settings()),
                ..Freshness::default()
            };
            self.begin_pin();
            self.wished = Wished::read(session.settings(), settings, &self.watch);
        }
    }

    fn read_wishes(&mut self, session: &Session, settings: &PoolSettings) {
        if !Arc::ptr_eq(&self.wished.of, session.settings()) {
            self.wished = Wished::read(session.settings(), settings, &self.watch);
            let token = wished::own_token(session.settings());
            // What it was told is no more than it has anyway, and must not outlive its history.
            if token.is_none() || token != self.told {
                self.freshness.token = token;
            }
        }
    }
}

impl Drop for Routing {
    fn drop(&mut self) {
        self.stop_work();
    }
}

/// The same for the same address, whatever the port; in every run, so that a restart moves nobody.
fn hash_of(origin: Origin) -> u64 {
    let bits = match origin {
        Origin::Tcp { peer, .. } => match peer.ip().to_canonical() {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        },
        Origin::Unix => 0,
    };
    FixedState::default().hash_one(bits)
}
