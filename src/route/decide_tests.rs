//! What is decided, case by case and for whatever may be the case.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use proptest::prelude::*;

use super::*;
use crate::{
    config::Role,
    route::{Candidacy, History, Host, Lsn, Token, Visit, candidates},
};

const HISTORY: History = History {
    system: 7,
    timeline: 1,
    started: 100,
};

const WRITE: Reason = Reason::Statement(sql::Reason::DataModifying);

/// Servers and a question about them.
///
/// At first `p` is the primary, `a` and `b` are replicas. Polls 1 to 4 found the positions 10, 20, 30 and
/// 40, poll 5 is under way, poll 6 will be the next; both replicas have replayed to 40. A clean session
/// asks for a read.
struct Scene {
    topology: Topology,
    need: Need,
    wishes: Wishes,
    freshness: Freshness,
    shared: Poll,
    asked: Poll,
    is_pinned: bool,
    avoid: Option<HostId>,
    patience: Patience,
    policy: Policy<'static>,
}

const P: HostId = 0;
const A: HostId = 1;
const B: HostId = 2;

const AUTO: Wishes = Wishes {
    route: RouteTo::Auto,
    consistency: Consistency::Session,
    by_comment: false,
};

const POLICY: Policy<'_> = Policy {
    on_lag: OnLag::Primary,
    load_balance: LoadBalance::RoundRobin,
    primary_reads: PrimaryReads::Fallback,
    zone: None,
};

const CHANCE: Chance = Chance {
    turn: 0,
    dice: 0,
    client: 0,
};

impl Scene {
    fn new() -> Self {
        let host = |(name, role, zone)| Host::new(name, role, 1, Some(zone));
        let hosts = [
            ("p", Role::Primary, "east"),
            ("a", Role::Replica, "east"),
            ("b", Role::Replica, "west"),
        ];
        let topology = Topology::new(hosts.into_iter().map(host).collect());
        topology.set_history(HISTORY);
        for _ in 0..4 {
            let poll = topology.polls.send();
            topology.polls.answer(poll, Lsn(10 * poll));
        }
        topology.polls.send();
        topology.hosts()[P].set_state(HostState::Primary);
        for replica in [A, B] {
            topology.hosts()[replica].set_state(HostState::Replica);
            topology.hosts()[replica].set_replayed(Lsn(40));
        }
        Self {
            topology,
            need: Need::Read,
            wishes: AUTO,
            freshness: Freshness::default(),
            shared: 0,
            asked: 6,
            is_pinned: false,
            avoid: None,
            patience: Patience::Lag,
            policy: POLICY,
        }
    }

    fn host(&self, id: HostId) -> &Host {
        &self.topology.hosts()[id]
    }

    fn replayed(&self, a: u64, b: u64) {
        self.host(A).set_replayed(Lsn(a));
        self.host(B).set_replayed(Lsn(b));
    }

    fn states(&self, p: HostState, a: HostState, b: HostState) {
        for (id, state) in [p, a, b].into_iter().enumerate() {
            self.host(id).set_state(state);
        }
    }

    fn visited(&mut self, host: HostId) {
        let incarnation = self.host(host).incarnation();
        self.freshness.visit = Some(Visit { host, incarnation });
    }

    fn told(&mut self, history: History, position: u64) {
        let position = Lsn(position);
        self.freshness.token = Some(Token { history, position });
    }

    fn wish(&mut self, route: RouteTo, by_comment: bool) {
        self.wishes.route = route;
        self.wishes.by_comment = by_comment;
    }

    fn verdict(&self) -> Verdict {
        let question = Question {
            need: self.need,
            wishes: self.wishes,
            freshness: &self.freshness,
            shared: self.shared,
            asked: self.asked,
            is_pinned: self.is_pinned,
            avoid: self.avoid,
            patience: self.patience,
        };
        decide(&question, &self.policy, &self.topology, CHANCE)
    }

    /// `a proved_read`, `wait 5 strong`, `no primary`, `no replica`.
    fn told_verdict(&self) -> String {
        match self.verdict() {
            Verdict::Go(decision) => {
                let name = &self.host(decision.host).name;
                format!("{name} {}", decision.reason.code())
            }
            Verdict::Wait { poll, reason } => format!("wait {poll} {}", reason.code()),
            Verdict::NoPrimary => "no primary".to_owned(),
            Verdict::NoReplica => "no replica".to_owned(),
        }
    }
}

/// What is the case, how it differs from a new scene, what is decided.
type Case = (&'static str, fn(&mut Scene), &'static str);

fn check(cases: &[Case]) {
    let mut wrong = Vec::new();
    for (name, arrange, expected) in cases {
        let mut scene = Scene::new();
        arrange(&mut scene);
        let found = scene.told_verdict();
        if found != *expected {
            wrong.push(format!("{name}: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// ── Case by case ─────────────────────────────────────────────────────────────────────────────

#[test]
fn what_a_unit_is_decides_first() {
    check(&[
        ("a read", |_| (), "a proved_read"),
        (
            "a write",
            |s| s.need = Need::Primary(WRITE),
            "p data_modifying",
        ),
        (
            "a transaction that can only read",
            |s| s.need = Need::ReadOnlyTransaction,
            "a read_only_transaction",
        ),
        (
            "what was not looked at",
            |s| s.need = Need::Primary(Reason::Unseen),
            "p unseen",
        ),
        (
            "a write without a primary",
            |s| {
                s.need = Need::Primary(WRITE);
                s.topology.set_primary(None);
            },
            "no primary",
        ),
        (
            "a read without a primary",
            |s| s.topology.set_primary(None),
            "a proved_read",
        ),
    ]);
}

#[test]
fn wishes_come_before_what_a_unit_is() {
    check(&[
        (
            "a read, told to go to the primary by a comment",
            |s| s.wish(RouteTo::Primary, true),
            "p hint",
        ),
        (
            "a read, told to go to the primary by a setting",
            |s| s.wish(RouteTo::Primary, false),
            "p route_setting",
        ),
        (
            "a write, told to go to a replica by a comment",
            |s| {
                s.need = Need::Primary(WRITE);
                s.wish(RouteTo::Replica, true);
            },
            "a hint",
        ),
        (
            "a write, told to go to a replica by a setting",
            |s| {
                s.need = Need::Primary(WRITE);
                s.wish(RouteTo::Replica, false);
            },
            "a route_setting",
        ),
        (
            "a read for which only the primary is fresh enough, by decree",
            |s| s.wishes.consistency = Consistency::Primary,
            "p consistency_primary",
        ),
        (
            "a wished replica does not loosen that",
            |s| {
                s.wishes.consistency = Consistency::Primary;
                s.wish(RouteTo::Replica, true);
            },
            "p consistency_primary",
        ),
        (
            "a wished replica must be fresh enough",
            |s| {
                s.wish(RouteTo::Replica, true);
                s.freshness.written = 4;
                s.replayed(39, 40);
            },
            "b hint",
        ),
        (
            "none is: it waits, even where others would not",
            |s| {
                s.wish(RouteTo::Replica, true);
                s.freshness.written = 4;
                s.replayed(39, 39);
            },
            "wait 0 own_writes",
        ),
        (
            "none is, and the time is over",
            |s| {
                s.wish(RouteTo::Replica, true);
                s.freshness.written = 4;
                s.replayed(39, 39);
                s.patience = Patience::None;
            },
            "no replica",
        ),
        (
            "a wished replica is not the primary, though that serves reads",
            |s| {
                s.wish(RouteTo::Replica, false);
                s.need = Need::Primary(WRITE);
                s.policy.primary_reads = PrimaryReads::Always;
                s.states(HostState::Primary, HostState::Down, HostState::Down);
            },
            "no replica",
        ),
    ]);
}

#[test]
fn a_session_reads_its_own_writes() {
    check(&[
        (
            "both have replayed them",
            |s| s.freshness.written = 4,
            "a proved_read",
        ),
        (
            "one has",
            |s| {
                s.freshness.written = 4;
                s.replayed(39, 40);
            },
            "b proved_read",
        ),
        (
            "none has, but they keep up",
            |s| {
                s.freshness.written = 4;
                s.replayed(39, 39);
            },
            "wait 0 own_writes",
        ),
        (
            "none has, and they do not keep up",
            |s| {
                s.freshness.written = 4;
                s.replayed(9, 9);
            },
            "p own_writes",
        ),
        (
            "none has, and the moment is over",
            |s| {
                s.freshness.written = 4;
                s.replayed(39, 39);
                s.patience = Patience::None;
            },
            "p own_writes",
        ),
        (
            "where they are is not known yet",
            |s| s.freshness.written = 5,
            "wait 5 own_writes",
        ),
        (
            "the replica it visited has not",
            |s| {
                s.freshness.written = 4;
                s.visited(A);
                s.replayed(39, 39);
            },
            "wait 0 own_writes",
        ),
        (
            "those with whom it shares its freshness wrote",
            |s| {
                s.freshness.written = 1;
                s.shared = 4;
                s.replayed(39, 39);
            },
            "wait 0 own_writes",
        ),
        (
            "it wrote a moment ago, and only time tells",
            |s| s.is_pinned = true,
            "p pin_after_write",
        ),
        (
            "and it would take anything",
            |s| {
                s.is_pinned = true;
                s.wishes.consistency = Consistency::Eventual;
            },
            "a proved_read",
        ),
        (
            "it would take anything",
            |s| {
                s.wishes.consistency = Consistency::Eventual;
                s.freshness.written = 6;
                s.freshness.seen = 6;
                s.told(HISTORY, 1000);
                s.replayed(0, 0);
            },
            "a proved_read",
        ),
        (
            "they were written in another history, and the present one is not known",
            |s| {
                s.freshness.written = 4;
                s.topology.set_history(History {
                    timeline: 2,
                    ..HISTORY
                });
            },
            "p own_writes",
        ),
    ]);
}

#[test]
fn for_a_session_time_does_not_run_backwards() {
    check(&[
        (
            "it reads where it has read",
            |s| {
                s.freshness.seen = 6;
                s.visited(B);
            },
            "b proved_read",
        ),
        (
            "another replica has replayed what it saw",
            |s| {
                s.freshness.seen = 3;
                s.visited(B);
                s.replayed(30, 20);
            },
            "a proved_read",
        ),
        (
            "the replica that it visited is down, the other one keeps up",
            |s| {
                s.freshness.seen = 6;
                s.visited(B);
                s.host(B).set_state(HostState::Down);
            },
            "wait 6 monotonic",
        ),
        (
            "the other one does not keep up",
            |s| {
                s.freshness.seen = 6;
                s.visited(B);
                s.host(B).set_state(HostState::Down);
                s.replayed(9, 40);
            },
            "p monotonic",
        ),
        (
            "the moment is over",
            |s| {
                s.freshness.seen = 6;
                s.visited(B);
                s.host(B).set_state(HostState::Down);
                s.patience = Patience::None;
            },
            "p monotonic",
        ),
        (
            "the replica that it visited has restarted",
            |s| {
                s.freshness.seen = 6;
                s.visited(A);
                s.host(A).doubt();
                s.states(HostState::Primary, HostState::Replica, HostState::Down);
            },
            "p monotonic",
        ),
        (
            "it has read from the primary",
            |s| {
                s.freshness.seen = 6;
                s.visited(P);
                s.patience = Patience::None;
            },
            "p monotonic",
        ),
    ]);
}

#[test]
fn a_strong_read_is_not_older_than_its_question() {
    check(&[
        (
            "where the primary is now is not known yet",
            |s| s.wishes.consistency = Consistency::Strong,
            "wait 6 strong",
        ),
        (
            "the moment is over",
            |s| {
                s.wishes.consistency = Consistency::Strong;
                s.patience = Patience::None;
            },
            "p strong",
        ),
        (
            "it is known, and one has replayed it",
            |s| {
                s.wishes.consistency = Consistency::Strong;
                s.asked = 4;
                s.replayed(39, 40);
            },
            "b proved_read",
        ),
        (
            "it is known, and none has replayed it",
            |s| {
                s.wishes.consistency = Consistency::Strong;
                s.asked = 4;
                s.replayed(39, 39);
            },
            "wait 0 strong",
        ),
        (
            "it reads where it has read: no exception",
            |s| {
                s.wishes.consistency = Consistency::Strong;
                s.asked = 4;
                s.visited(A);
                s.replayed(39, 39);
                s.patience = Patience::None;
            },
            "p strong",
        ),
        (
            "its own writes are not even there",
            |s| {
                s.wishes.consistency = Consistency::Strong;
                s.freshness.written = 4;
                s.replayed(39, 39);
            },
            "wait 0 own_writes",
        ),
    ]);
}

#[test]
fn a_token_makes_a_session_as_fresh_as_it_says() {
    check(&[
        ("it is reached", |s| s.told(HISTORY, 40), "a proved_read"),
        (
            "one has reached it",
            |s| {
                s.told(HISTORY, 30);
                s.replayed(29, 30);
            },
            "b proved_read",
        ),
        ("none has reached it", |s| s.told(HISTORY, 41), "p token"),
        (
            "it is of another timeline",
            |s| {
                s.told(
                    History {
                        timeline: 2,
                        ..HISTORY
                    },
                    1,
                );
            },
            "p token",
        ),
        (
            "the primary was restarted since",
            |s| {
                s.told(
                    History {
                        started: 1,
                        ..HISTORY
                    },
                    1,
                );
            },
            "p token",
        ),
        (
            "it is of another system",
            |s| {
                s.told(
                    History {
                        system: 1,
                        ..HISTORY
                    },
                    1,
                );
            },
            "p token",
        ),
    ]);
}

#[test]
fn who_would_rather_wait_waits_and_not_for_ever() {
    check(&[
        (
            "for its own writes, which are not found yet",
            |s| {
                s.policy.on_lag = OnLag::Wait;
                s.freshness.written = 6;
            },
            "wait 6 own_writes",
        ),
        (
            "for a replica to replay them",
            |s| {
                s.policy.on_lag = OnLag::Wait;
                s.freshness.written = 4;
                s.replayed(39, 39);
            },
            "wait 0 own_writes",
        ),
        (
            "for the nearest replica",
            |s| {
                s.policy.on_lag = OnLag::Wait;
                s.freshness.written = 2;
                s.freshness.seen = 6;
                s.replayed(19, 39);
            },
            "wait 6 monotonic",
        ),
        (
            "for the nearest replica, whichever it is",
            |s| {
                s.policy.on_lag = OnLag::Wait;
                s.freshness.written = 2;
                s.freshness.seen = 6;
                s.replayed(39, 19);
            },
            "wait 6 monotonic",
        ),
        (
            "for one that lacks a token rather than one that lacks its writes",
            |s| {
                s.policy.on_lag = OnLag::Wait;
                s.freshness.written = 2;
                s.told(HISTORY, 40);
                s.replayed(39, 19);
            },
            "wait 0 token",
        ),
        (
            "not for a token of another history longer than allowed",
            |s| {
                s.policy.on_lag = OnLag::Wait;
                s.told(
                    History {
                        timeline: 2,
                        ..HISTORY
                    },
                    1,
                );
                s.patience = Patience::Moment;
            },
            "p token",
        ),
        (
            "not while only time tells",
            |s| {
                s.policy.on_lag = OnLag::Wait;
                s.is_pinned = true;
            },
            "p pin_after_write",
        ),
        (
            "not when nobody is there to wait for",
            |s| {
                s.policy.on_lag = OnLag::Wait;
                s.freshness.written = 6;
                s.states(HostState::Primary, HostState::Down, HostState::Lagging);
            },
            "p no_replica",
        ),
        (
            "not longer than allowed",
            |s| {
                s.policy.on_lag = OnLag::Wait;
                s.freshness.written = 6;
                s.patience = Patience::None;
            },
            "p own_writes",
        ),
    ]);
}

#[test]
fn without_a_replica_the_primary_serves_as_it_is_allowed_to() {
    check(&[
        (
            "as a fallback",
            |s| s.states(HostState::Primary, HostState::Down, HostState::Ejected),
            "p no_replica",
        ),
        (
            "never",
            |s| {
                s.states(HostState::Primary, HostState::Down, HostState::Ejected);
                s.policy.primary_reads = PrimaryReads::Never;
            },
            "no replica",
        ),
        (
            "never, but it must see its own writes",
            |s| {
                s.policy.primary_reads = PrimaryReads::Never;
                s.freshness.written = 6;
                s.patience = Patience::None;
            },
            "p own_writes",
        ),
        (
            "always",
            |s| {
                s.states(HostState::Primary, HostState::Down, HostState::Ejected);
                s.policy.primary_reads = PrimaryReads::Always;
            },
            "p no_replica",
        ),
        (
            "nobody has looked yet, and the file says who is the primary",
            |s| s.states(HostState::Unknown, HostState::Unknown, HostState::Unknown),
            "p no_replica",
        ),
        (
            "there is no primary either",
            |s| {
                s.states(HostState::Fenced, HostState::Down, HostState::Foreign);
                s.topology.set_primary(None);
            },
            "no primary",
        ),
        (
            "a replica has failed at this very read",
            |s| s.avoid = Some(A),
            "b proved_read",
        ),
        (
            "the only replica has failed at this very read",
            |s| {
                s.avoid = Some(A);
                s.host(B).set_state(HostState::Down);
            },
            "p no_replica",
        ),
    ]);
}

#[test]
fn the_primary_is_one_of_many_if_it_always_serves_reads() {
    fn always(scene: &mut Scene) {
        scene.policy.primary_reads = PrimaryReads::Always;
    }
    check(&[
        ("a first read", always, "p primary_reads"),
        (
            "what was seen elsewhere is known by now",
            |s| {
                always(s);
                s.freshness.seen = 3;
                s.visited(A);
            },
            "p primary_reads",
        ),
        (
            "it is not known yet",
            |s| {
                always(s);
                s.freshness.seen = 6;
                s.visited(A);
            },
            "a proved_read",
        ),
        (
            "nor is it when the session has chosen the primary",
            |s| {
                always(s);
                s.freshness.seen = 6;
                s.visited(P);
            },
            "p primary_reads",
        ),
        (
            "the session has not chosen to be there, and goes back",
            |s| {
                always(s);
                s.freshness.seen = 6;
            },
            "wait 6 monotonic",
        ),
        (
            "it has written",
            |s| {
                always(s);
                s.freshness.written = 4;
                s.replayed(39, 39);
            },
            "p own_writes",
        ),
        (
            "not with weight 0",
            |s| {
                let hosts = [("p", Role::Primary, 0), ("a", Role::Replica, 1)];
                let host = |(name, role, weight)| Host::new(name, role, weight, None);
                s.topology = Topology::new(hosts.into_iter().map(host).collect());
                s.topology.hosts()[A].set_state(HostState::Replica);
                always(s);
            },
            "a proved_read",
        ),
    ]);
}

#[test]
fn what_is_near_comes_first() {
    check(&[
        ("of two", |s| s.policy.zone = Some("west"), "b proved_read"),
        (
            "unless it is not fresh enough",
            |s| {
                s.policy.zone = Some("west");
                s.freshness.written = 4;
                s.replayed(40, 39);
            },
            "a proved_read",
        ),
        (
            "nothing is near",
            |s| s.policy.zone = Some("north"),
            "a proved_read",
        ),
        (
            "the primary is nearer",
            |s| {
                s.policy.zone = Some("east");
                s.policy.primary_reads = PrimaryReads::Always;
                s.avoid = Some(A);
            },
            "p primary_reads",
        ),
    ]);
}

/// A read that was let back in time must not be where the next one finds everything it has seen.
#[test]
fn a_stale_read_is_no_visit() {
    let mut scene = Scene::new();
    let decide = |scene: &Scene| match scene.verdict() {
        Verdict::Go(decision) => decision,
        other => panic!("{other:?}"),
    };
    scene.need = Need::Primary(WRITE);
    let on_primary = decide(&scene);
    scene.freshness.on_read(&on_primary, &scene.topology);
    assert_eq!(scene.freshness.visit, None, "it had no choice");

    scene.need = Need::Read;
    scene.wishes.consistency = Consistency::Eventual;
    let stale = decide(&scene);
    assert_eq!((stale.host, stale.visit), (A, None));
    scene.freshness.on_read(&stale, &scene.topology);

    scene.wishes.consistency = Consistency::Session;
    scene.patience = Patience::None;
    assert_eq!(scene.told_verdict(), "p monotonic");
}

/// A replica may restart between its answer and the moment at which that is noted.
#[test]
fn a_visit_is_to_the_host_as_it_was() {
    let mut scene = Scene::new();
    let Verdict::Go(decision) = scene.verdict() else {
        panic!("a replica is there")
    };
    scene.host(A).doubt();
    scene.freshness.on_read(&decision, &scene.topology);
    scene.states(HostState::Primary, HostState::Replica, HostState::Down);
    scene.patience = Patience::None;
    assert_eq!(scene.told_verdict(), "p monotonic");
}

// ── Whatever may be the case ─────────────────────────────────────────────────────────────────

/// One server, as it may be.
#[derive(Clone, Debug)]
struct Server {
    state: HostState,
    replayed: u64,
    weight: u32,
    zone: Option<&'static str>,
    share: u32,
    restarts: u32,
}

/// The servers and what was found out by asking the primary: poll `n` found position `10 n`.
#[derive(Clone, Debug)]
struct World {
    servers: Vec<Server>,
    primary: Option<HostId>,
    answered: Poll,
    under_way: bool,
    /// After that poll the present history began.
    begun: Option<Poll>,
}

/// A question, owned.
#[derive(Clone, Copy, Debug)]
struct Asked {
    need: Need,
    wishes: Wishes,
    freshness: Freshness,
    shared: Poll,
    asked: Poll,
    is_pinned: bool,
    avoid: Option<HostId>,
    patience: Patience,
}

impl World {
    fn topology(&self) -> Topology {
        let host = |server: &Server| {
            let host = Host::new("h", Role::Auto, server.weight, server.zone);
            (0..server.restarts).for_each(|_| host.doubt());
            host.set_state(server.state);
            host.set_replayed(Lsn(server.replayed));
            host.set_share(server.share);
            host
        };
        let topology = Topology::new(self.servers.iter().map(host).collect());
        topology.set_primary(self.primary);
        if self.begun.is_none() {
            topology.set_history(HISTORY);
        }
        for _ in 0..self.answered {
            let poll = topology.polls.send();
            topology.polls.answer(poll, Lsn(10 * poll));
            if self.begun == Some(poll) {
                topology.set_history(HISTORY);
            }
        }
        if self.under_way {
            topology.polls.send();
        }
        topology
    }

    /// What a poll found, as the rule is told: the first one of the present history counts for all before.
    fn position(&self, poll: Poll) -> Option<u64> {
        if poll == 0 {
            return Some(0);
        }
        let counts = poll.max(self.begun.map_or(1, |begun| begun + 1));
        (counts <= self.answered).then_some(10 * counts)
    }

    fn has_replayed(&self, host: HostId, poll: Poll) -> bool {
        self.position(poll)
            .is_some_and(|position| self.servers[host].replayed >= position)
    }
}

impl Asked {
    fn question(&self) -> Question<'_> {
        Question {
            need: self.need,
            wishes: self.wishes,
            freshness: &self.freshness,
            shared: self.shared,
            asked: self.asked,
            is_pinned: self.is_pinned,
            avoid: self.avoid,
            patience: self.patience,
        }
    }

    fn verdict(&self, policy: &Policy<'_>, topology: &Topology, chance: Chance) -> Verdict {
        let question = self.question();
        decide(&question, policy, topology, chance)
    }

    fn candidates(&self, policy: &Policy<'_>, topology: &Topology) -> Vec<Candidacy> {
        let question = self.question();
        candidates(&question, policy, topology)
    }

    /// Whether only the primary will do, whatever is known of the servers.
    fn needs_primary(&self) -> bool {
        let is_write = matches!(self.need, Need::Primary(_));
        self.wishes.route == RouteTo::Primary
            || self.wishes.consistency == Consistency::Primary
            || (is_write && self.wishes.route == RouteTo::Auto)
            || self.is_strong_transaction()
    }

    /// What its later reads have to see nobody knows when it begins.
    fn is_strong_transaction(&self) -> bool {
        self.need == Need::ReadOnlyTransaction
            && self.wishes.consistency == Consistency::Strong
            && self.wishes.route != RouteTo::Replica
    }

    /// The promise, in its own words.
    fn is_fresh_enough(&self, world: &World, host: HostId) -> bool {
        let Freshness {
            written,
            seen,
            token,
            ..
        } = self.freshness;
        let is_visited = self.is_at(world, host);
        let own_writes = world.has_replayed(host, written) && world.has_replayed(host, self.shared);
        let monotonic = is_visited || world.has_replayed(host, seen);
        let token = token.is_none_or(|token| {
            token.history == HISTORY && Lsn(world.servers[host].replayed) >= token.position
        });
        let session = own_writes && monotonic && token && !self.is_pinned;
        match self.wishes.consistency {
            Consistency::Eventual => true,
            Consistency::Session => session,
            Consistency::Strong => session && world.has_replayed(host, self.asked),
            Consistency::Primary => false,
        }
    }

    fn is_at(&self, world: &World, host: HostId) -> bool {
        let incarnation = world.servers[host].restarts;
        self.freshness.visit == Some(Visit { host, incarnation })
    }

    /// As one of many, that is; where nothing else will do, it always may.
    fn may_be_at_primary(&self, world: &World, policy: &Policy<'_>, primary: HostId) -> bool {
        let serves = |host: HostId| {
            world.servers[host].state == HostState::Replica
                && self.may_be_served_by(world, policy, host)
        };
        let is_one_of_many = (0..world.servers.len()).any(serves);
        let knows_what_it_saw = world.topology().position(self.freshness.seen).is_some();
        match self.wishes.consistency {
            Consistency::Eventual => is_one_of_many,
            _ => self.is_at(world, primary) || (knows_what_it_saw && is_one_of_many),
        }
    }

    fn may_be_served_by(&self, world: &World, policy: &Policy<'_>, host: HostId) -> bool {
        let server = &world.servers[host];
        let is_candidate = match server.state {
            HostState::Replica => self.is_fresh_enough(world, host),
            HostState::Primary | HostState::Unknown => {
                world.primary == Some(host)
                    && policy.primary_reads == PrimaryReads::Always
                    && self.wishes.route != RouteTo::Replica
                    && self.may_be_at_primary(world, policy, host)
            }
            _ => false,
        };
        is_candidate && server.weight > 0 && self.avoid != Some(host)
    }
}

fn server() -> impl Strategy<Value = Server> {
    use HostState::{Down, Ejected, Fenced, Foreign, Lagging, Primary, Replica, Unknown};
    let state = prop_oneof![
        4 => Just(Replica),
        1 => prop::sample::select(vec![Unknown, Primary, Lagging, Ejected, Down, Fenced, Foreign]),
    ];
    let zone = prop::sample::select(vec![None, Some("east"), Some("west")]);
    let share = prop_oneof![2 => Just(1000), 1 => 0..=1000_u32];
    (state, 0..14_u64, 0..4_u32, zone, share, 0..2_u32).prop_map(
        |(state, replayed, weight, zone, share, restarts)| Server {
            state,
            replayed: replayed * 5,
            weight,
            zone,
            share,
            restarts,
        },
    )
}

fn world() -> impl Strategy<Value = World> {
    let servers = prop::collection::vec(server(), 1..6);
    let primary = prop::option::weighted(0.9, 0..6_usize);
    let begun = prop::option::weighted(0.3, 1..6_u64);
    (servers, primary, 0..6_u64, any::<bool>(), begun).prop_map(
        |(mut servers, primary, answered, under_way, begun)| {
            let primary = primary.map(|primary| primary % servers.len());
            // Whatever else it was seen to be, it was not seen to be a standby.
            if let Some(primary) = primary.map(|primary| &mut servers[primary])
                && primary.state == HostState::Replica
            {
                primary.state = HostState::Primary;
            }
            let begun = begun.filter(|begun| *begun <= answered);
            World {
                servers,
                primary,
                answered,
                under_way,
                begun,
            }
        },
    )
}

fn freshness() -> impl Strategy<Value = Freshness> {
    let visit = prop::option::of((0..6_usize, 0..2_u32));
    let token = prop::option::weighted(0.2, (1..3_u32, 0..70_u64));
    (0..8_u64, 0..8_u64, visit, token).prop_map(|(written, seen, visit, token)| Freshness {
        written,
        seen,
        visit: visit.map(|(host, incarnation)| Visit { host, incarnation }),
        token: token.map(|(timeline, position)| Token {
            history: History {
                timeline,
                ..HISTORY
            },
            position: Lsn(position),
        }),
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let need = prop_oneof![
        3 => Just(Need::Read),
        1 => Just(Need::ReadOnlyTransaction),
        1 => Just(Need::Primary(WRITE)),
    ];
    let route = prop_oneof![
        4 => Just(RouteTo::Auto),
        1 => Just(RouteTo::Primary),
        1 => Just(RouteTo::Replica),
    ];
    let consistency = prop_oneof![
        3 => Just(Consistency::Session),
        2 => Just(Consistency::Strong),
        1 => Just(Consistency::Eventual),
        1 => Just(Consistency::Primary),
    ];
    let patience = prop::sample::select(vec![Patience::None, Patience::Moment, Patience::Lag]);
    let wishes = (route, consistency, any::<bool>());
    let polls = (0..8_u64, 0..8_u64);
    let avoid = prop::option::weighted(0.2, 0..6_usize);
    let rest = (prop::bool::weighted(0.1), avoid, patience);
    (need, wishes, freshness(), polls, rest).prop_map(|(need, wishes, freshness, polls, rest)| {
        let (route, consistency, by_comment) = wishes;
        let (is_pinned, avoid, patience) = rest;
        Asked {
            need,
            wishes: Wishes {
                route,
                consistency,
                by_comment,
            },
            freshness,
            shared: polls.0,
            asked: polls.1,
            is_pinned,
            avoid,
            patience,
        }
    })
}

fn policy() -> impl Strategy<Value = Policy<'static>> {
    let rules: Vec<_> = LoadBalance::WORDS
        .iter()
        .filter_map(|word| LoadBalance::from_word(word))
        .collect();
    let reads = vec![
        PrimaryReads::Never,
        PrimaryReads::Fallback,
        PrimaryReads::Always,
    ];
    (
        prop::sample::select(vec![OnLag::Primary, OnLag::Wait]),
        prop::sample::select(rules),
        prop::sample::select(reads),
        prop::sample::select(vec![None, Some("east"), Some("west")]),
    )
        .prop_map(|(on_lag, load_balance, primary_reads, zone)| Policy {
            on_lag,
            load_balance,
            primary_reads,
            zone,
        })
}

fn chance() -> impl Strategy<Value = Chance> {
    any::<(u64, u64, u64)>().prop_map(|(turn, dice, client)| Chance { turn, dice, client })
}

/// The hosts among which the pool's rule would choose, near ones or else far ones.
fn all_choices(asked: &Asked, policy: &Policy<'_>, topology: &Topology) -> Vec<HostId> {
    let policy = Policy {
        load_balance: LoadBalance::RoundRobin,
        ..*policy
    };
    for host in topology.hosts() {
        host.set_share(crate::route::topology::FULL_SHARE);
    }
    let choice = |turn| match asked.verdict(&policy, topology, Chance { turn, ..CHANCE }) {
        Verdict::Go(decision) => Some(decision.host),
        _ => None,
    };
    let turns = 0..60; // divisible by every number of hosts
    let mut choices: Vec<_> = turns.filter_map(choice).collect();
    choices.sort_unstable();
    choices.dedup();
    choices
}

/// Decides again and again while another thread does `meanwhile`; what is found out between two looks at the same
/// fact must not show.
fn decide_while(scene: &Scene, meanwhile: impl Fn() + Sync, check: impl Fn(Verdict)) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                meanwhile();
            }
        });
        // Also when the check fails: or the other thread never ends.
        let checked = catch_unwind(AssertUnwindSafe(|| {
            (0..200_000).for_each(|_| check(scene.verdict()));
        }));
        is_over.store(true, Ordering::Relaxed);
        checked.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

#[test]
fn who_restarts_during_the_choice_is_not_visited_in_its_next_life() {
    let mut scene = Scene::new();
    scene.freshness.written = 4;
    scene.host(B).set_state(HostState::Down);
    // In every other life it has what was written.
    let restarts = || {
        for replayed in [0, 40] {
            scene.host(A).doubt();
            scene.host(A).set_replayed(Lsn(replayed));
            scene.host(A).set_state(HostState::Replica);
        }
    };
    decide_while(&scene, restarts, |verdict| {
        if let Verdict::Go(Decision {
            visit: Some(visit), ..
        }) = verdict
        {
            let has_it = visit.incarnation.is_multiple_of(2);
            // A visit to a life that is over serves for nothing.
            let is_over = scene.host(A).incarnation() != visit.incarnation;
            assert!(has_it || is_over, "{visit:?}");
        }
    });
}

#[test]
fn what_is_found_out_during_the_choice_is_no_lack_of_replicas() {
    let mut scene = Scene::new();
    scene.wish(RouteTo::Replica, false);
    scene.freshness.written = 4;
    let replays = || {
        scene.replayed(39, 39);
        scene.replayed(40, 40);
    };
    decide_while(&scene, replays, |verdict| {
        assert_ne!(verdict, Verdict::NoReplica);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_verdict_is_the_one_of_the_rule(
        world in world(), asked in asked(), policy in policy(), chance in chance(),
    ) {
        let verdict = asked.verdict(&policy, &world.topology(), chance);
        if asked.needs_primary() {
            match verdict {
                Verdict::Go(decision) => prop_assert_eq!(Some(decision.host), world.primary),
                other => prop_assert_eq!((other, world.primary), (Verdict::NoPrimary, None)),
            }
            return Ok(());
        }
        let may_serve = |host: &HostId| asked.may_be_served_by(&world, &policy, *host);
        let fit: Vec<_> = (0..world.servers.len()).filter(may_serve).collect();
        let is_near = |host: &HostId| world.servers[*host].zone == policy.zone;
        if !fit.is_empty() {
            let Verdict::Go(Decision { host, reason, .. }) = verdict else {
                return Err(TestCaseError::fail(format!("{fit:?} would do: {verdict:?}")));
            };
            prop_assert!(fit.contains(&host), "{} is not of {:?}", host, fit);
            prop_assert!(is_near(&host) || !fit.iter().any(is_near) || policy.zone.is_none());
            prop_assert_eq!(reason == Reason::PrimaryReads, Some(host) == world.primary);
            return Ok(());
        }
        match verdict {
            Verdict::Go(decision) => {
                prop_assert_eq!(Some(decision.host), world.primary);
                prop_assert_ne!(asked.wishes.route, RouteTo::Replica);
                let is_never = policy.primary_reads == PrimaryReads::Never;
                prop_assert!(!is_never || decision.reason != Reason::NoReplica);
            }
            Verdict::Wait { .. } => prop_assert!(asked.patience > Patience::None),
            Verdict::NoPrimary => {
                prop_assert_eq!(world.primary, None);
                prop_assert_ne!(asked.wishes.route, RouteTo::Replica);
            }
            Verdict::NoReplica => {
                let is_never = policy.primary_reads == PrimaryReads::Never;
                prop_assert!(is_never || asked.wishes.route == RouteTo::Replica);
            }
        }
    }

    #[test]
    fn a_write_goes_to_the_primary_unless_told_otherwise(
        world in world(), mut asked in asked(), policy in policy(), chance in chance(),
    ) {
        asked.need = Need::Primary(WRITE);
        let verdict = asked.verdict(&policy, &world.topology(), chance);
        let is_told = asked.wishes.route == RouteTo::Replica;
        if let (false, Verdict::Go(decision)) = (is_told, verdict) {
            prop_assert_eq!(Some(decision.host), world.primary);
        } else if !is_told {
            prop_assert_eq!(verdict, Verdict::NoPrimary);
        }
    }

    #[test]
    fn whatever_is_not_the_primary_is_a_replica_that_is_fresh_enough(
        world in world(), asked in asked(), policy in policy(), chance in chance(),
    ) {
        if let Verdict::Go(decision) = asked.verdict(&policy, &world.topology(), chance) {
            let server = &world.servers[decision.host];
            if Some(decision.host) != world.primary {
                prop_assert_eq!(server.state, HostState::Replica);
                prop_assert!(server.weight > 0);
                prop_assert_ne!(asked.avoid, Some(decision.host));
                prop_assert!(asked.is_fresh_enough(&world, decision.host));
            }
        }
    }

    #[test]
    fn who_has_no_patience_does_not_wait(
        world in world(), mut asked in asked(), policy in policy(), chance in chance(),
    ) {
        asked.patience = Patience::None;
        let verdict = asked.verdict(&policy, &world.topology(), chance);
        prop_assert!(!matches!(verdict, Verdict::Wait { .. }), "{:?}", verdict);
    }

    #[test]
    fn an_eventual_read_asks_for_no_freshness(
        world in world(), mut asked in asked(), policy in policy(), chance in chance(),
    ) {
        asked.wishes.consistency = Consistency::Eventual;
        let clean = Asked {
            freshness: Freshness::default(),
            shared: 0,
            asked: 0,
            is_pinned: false,
            ..asked
        };
        let place = |verdict| match verdict {
            Verdict::Go(Decision { host, reason, .. }) => Ok((host, reason)),
            other => Err(other),
        };
        let verdict = |asked: &Asked| asked.verdict(&policy, &world.topology(), chance);
        prop_assert_eq!(place(verdict(&asked)), place(verdict(&clean)));
    }

    #[test]
    fn a_replica_that_has_replayed_more_is_not_left_out(
        world in world(), asked in asked(), policy in policy(), more in 1..80_u64, which in 0..6_usize,
    ) {
        let which = which % world.servers.len();
        let topology = world.topology();
        let before = all_choices(&asked, &policy, &topology);
        topology.hosts()[which].set_replayed(Lsn(world.servers[which].replayed + more));
        let after = all_choices(&asked, &policy, &topology);
        prop_assert!(!before.contains(&which) || after.contains(&which), "{:?} {:?}", before, after);
    }

    /// No obstacle stays: once everything is polled and replayed, a read is at home on a replica.
    #[test]
    fn a_pin_ends(
        world in world(), mut asked in asked(), policy in policy(), chance in chance(),
    ) {
        asked.is_pinned = false;
        asked.freshness.token = asked.freshness.token.filter(|token| token.history == HISTORY);
        let topology = world.topology();
        topology.set_history(HISTORY);
        for _ in 0..9 {
            let poll = topology.polls.send();
            topology.polls.answer(poll, Lsn(10 * poll));
        }
        let mut is_served = false;
        for (id, host) in topology.hosts().iter().enumerate() {
            host.set_replayed(Lsn(1000));
            let is_up = host.state() == HostState::Replica && host.weight > 0;
            is_served |= is_up && asked.avoid != Some(id);
        }
        if is_served && !asked.needs_primary() {
            match asked.verdict(&policy, &topology, chance) {
                Verdict::Go(decision) => prop_assert_ne!(decision.reason, Reason::NoReplica),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn a_decision_knows_whom_it_visits(
        world in world(), asked in asked(), policy in policy(), chance in chance(),
    ) {
        if let Verdict::Go(Decision { host, visit, reason }) =
            asked.verdict(&policy, &world.topology(), chance)
        {
            let incarnation = world.servers[host].restarts;
            let present = Some(Visit { host, incarnation });
            let is_primary = Some(host) == world.primary;
            let is_held = if is_primary {
                reason == Reason::PrimaryReads
            } else {
                asked.wishes.consistency != Consistency::Eventual || asked.is_at(&world, host)
            };
            prop_assert_eq!(visit, if is_held { present } else { None });
        }
    }

    /// What people are told of each host is what the decision goes by.
    #[test]
    fn the_candidates_are_those_of_the_rule(
        world in world(), asked in asked(), policy in policy(),
    ) {
        let told = asked.candidates(&policy, &world.topology());
        prop_assert_eq!(told.len(), world.servers.len());
        for (host, (candidacy, server)) in told.into_iter().zip(&world.servers).enumerate() {
            let is_eligible = candidacy == Candidacy::Eligible;
            if asked.needs_primary() {
                prop_assert_eq!(is_eligible, world.primary == Some(host));
                continue;
            }
            prop_assert_eq!(is_eligible, asked.may_be_served_by(&world, &policy, host));
            let serves = server.state == HostState::Replica && server.weight > 0;
            let is_behind = matches!(candidacy, Candidacy::Behind(_));
            let is_late = serves && asked.avoid != Some(host) && !is_eligible;
            prop_assert_eq!(is_behind, is_late, "{:?}", candidacy);
        }
    }
}
