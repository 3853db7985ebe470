//! The promise, end to end: a simulated primary, replicas, monitor and sessions, of which everything but
//! the freshness and the decisions is simple enough to be right.
//!
//! What happens next is a matter of chance: a session goes on with its read or write, a replica replays
//! some records, a poll is sent, looks, or is answered, a server restarts. A read sees everything up to a
//! position; each answer is checked against what its session had the right to see. Faults, built in on
//! purpose, show that the check would notice.
//!
//! A replica that restarts may be further back than it was. It is taken for granted that this is noticed
//! before a connection is made to its next life.

use crate::{
    config::{Consistency, LoadBalance, OnLag, PrimaryReads, Role, RouteTo},
    route::{
        Chance, Decision, Freshness, History, Host, HostId, HostState, Lsn, Need, Patience, Policy,
        Poll, Question, Reason, Token, Topology, Verdict, Visit, Wishes, decide,
    },
};

/// What is done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// The poll under way counts as one that is sent later.
    PollUnderWayCounts,
    /// Positions are taken as the primary tells them.
    Unrounded,
    /// What has reached the disk is taken for what was written.
    FlushedPosition,
    WritesUnnoted,
    ReadsUnnoted,
    RestartsUnnoticed,
    /// A visit is to the host as it is when its answer is noted.
    VisitsNotedLate,
    /// A read with eventual consistency is a visit.
    StaleVisits,
}

/// What was promised and not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    OwnWrites,
    Monotonic,
    Token,
    Strong,
    /// All replicas have replayed everything, and still a session is kept from them.
    Stuck,
}

const PRIMARY: HostId = 0;
const HOSTS: usize = 4;
const SESSIONS: usize = 8;
/// Sessions of the same group share their freshness.
const GROUPS: usize = 5;

/// `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.roll() % count as u64).unwrap()
    }

    fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// The primary's log, as pages with headers.
struct Wal {
    /// Where each record ends, which is where replay stands after it.
    ends: Vec<u64>,
}

impl Wal {
    const PAGE: u64 = 8192;
    /// Of the segments, a few pages long here so that there are many.
    const SEGMENT: u64 = 4 * Self::PAGE;

    fn new() -> Self {
        let ends = vec![Self::PAGE + 1000];
        Self { ends }
    }

    fn header(position: u64) -> u64 {
        if position.is_multiple_of(Self::SEGMENT) {
            40
        } else {
            24
        }
    }

    /// Where the last record ends.
    fn end(&self) -> u64 {
        *self.ends.last().unwrap()
    }

    /// `pg_current_wal_insert_lsn()`: where the next record will begin.
    fn insert(&self) -> u64 {
        let end = self.end();
        if end.is_multiple_of(Self::PAGE) {
            end + Self::header(end)
        } else {
            end
        }
    }

    /// Writes a record; answers where it ends.
    fn write(&mut self, dice: &mut Dice) -> u64 {
        let begin = self.insert();
        let left_on_page = Self::PAGE - begin % Self::PAGE;
        let end = if dice.once_in(12) {
            begin + left_on_page
        } else {
            let length = 32 + 8 * (dice.roll() % 300);
            match length.checked_sub(left_on_page) {
                None | Some(0) => begin + length,
                Some(over) => {
                    let next = begin + left_on_page;
                    next + Self::header(next) + over
                }
            }
        };
        self.ends.push(end);
        end
    }
}

/// A replica, as it is.
#[derive(Clone, Copy, Default)]
struct Replica {
    /// So many records are replayed.
    replayed: usize,
    /// What a poll has found, which is not answered yet.
    found: Option<u64>,
    is_paused: bool,
}

/// The poll of the primary.
#[derive(Clone, Copy)]
enum Polling {
    No,
    Sent(Poll),
    Found(Poll, u64),
}

#[derive(Clone, Copy)]
struct Read {
    consistency: Consistency,
    asked: Poll,
    /// What it must see, and for what reason.
    must_see: [(u64, Broken); 4],
    tries: usize,
    avoid: Option<HostId>,
}

#[derive(Clone, Copy)]
enum Doing {
    Nothing,
    Asking(Read),
    Reading(Read, Decision, Option<u64>),
    /// And where its commit ends, once it is done.
    Writing(Option<u64>),
}

struct Session {
    group: usize,
    freshness: Freshness,
    doing: Doing,
    /// The newest position that it saw, and the one that its token stands for.
    seen: u64,
    told: u64,
}

/// How much of what has happened.
#[derive(Default, Debug)]
struct Tally {
    on_replicas: usize,
    on_primary: Vec<Reason>,
    waits: usize,
    restarts: usize,
}

struct World {
    fault: Fault,
    dice: Dice,
    topology: Topology,
    history: History,
    wal: Wal,
    polling: Polling,
    replicas: [Replica; HOSTS],
    sessions: Vec<Session>,
    /// Of each group: the poll behind its last write, and where its last acknowledged write ended.
    shared: [Poll; GROUPS],
    written: [u64; GROUPS],
    /// Where the last write ended that was acknowledged to anybody.
    acknowledged: u64,
    tally: Tally,
}

impl World {
    fn new(seed: u64, fault: Fault) -> Self {
        let host = |id| {
            let role = if id == PRIMARY {
                Role::Primary
            } else {
                Role::Replica
            };
            Host::new("h", role, 1, None)
        };
        let topology = Topology::new((0..HOSTS).map(host).collect());
        topology.hosts()[PRIMARY].set_state(HostState::Primary);
        let session = |id| Session {
            group: id % GROUPS,
            freshness: Freshness::default(),
            doing: Doing::Nothing,
            seen: 0,
            told: 0,
        };
        let history = History {
            system: 1,
            timeline: 1,
            started: 1,
        };
        topology.set_history(history);
        Self {
            fault,
            dice: Dice(seed),
            topology,
            history,
            wal: Wal::new(),
            polling: Polling::No,
            replicas: [Replica::default(); HOSTS],
            sessions: (0..SESSIONS).map(session).collect(),
            shared: [0; GROUPS],
            written: [0; GROUPS],
            acknowledged: 0,
            tally: Tally::default(),
        }
    }

    fn run(mut self, steps: usize) -> Result<Tally, Broken> {
        for _ in 0..steps {
            self.step()?;
        }
        Ok(self.tally)
    }

    fn step(&mut self) -> Result<(), Broken> {
        let replica = 1 + self.dice.below(HOSTS - 1);
        let session = self.dice.below(SESSIONS);
        match self.dice.below(1000) {
            0..450 => self.go_on(session)?,
            450..500 => {
                // Somebody else's, directly on the primary.
                let end = self.wal.write(&mut self.dice);
                self.acknowledged = end;
            }
            500..550 => {
                self.wal.write(&mut self.dice);
            }
            550..750 => self.replay(replica),
            750..870 => self.poll(),
            870..970 => self.poll_replica(replica),
            970..975 => self.replicas[replica].is_paused ^= true,
            975..980 => self.restart_replica(replica),
            980..982 => self.restart_primary(),
            982..992 => self.tell(session),
            _ => self.settle()?,
        }
        Ok(())
    }

    // ── Servers ──────────────────────────────────────────────────────────────────────────────

    fn replay(&mut self, id: HostId) {
        let some = self.dice.below(6);
        let replica = &mut self.replicas[id];
        if !replica.is_paused {
            replica.replayed = (replica.replayed + some).min(self.wal.ends.len());
        }
    }

    /// Where a read on that host would look.
    fn visible(&self, id: HostId) -> u64 {
        if id == PRIMARY {
            return self.wal.end();
        }
        let records = &self.wal.ends[..self.replicas[id].replayed];
        records.last().copied().unwrap_or(0)
    }

    fn restart_replica(&mut self, id: HostId) {
        let back = self.dice.below(30);
        let replica = &mut self.replicas[id];
        replica.replayed = replica.replayed.saturating_sub(back);
        replica.found = None;
        self.tally.restarts += 1;
        if self.fault != Fault::RestartsUnnoticed {
            self.topology.hosts()[id].doubt();
            self.lose_connections(id);
        }
    }

    /// Without a crash: nothing that was written is lost.
    fn restart_primary(&mut self) {
        self.polling = Polling::No;
        self.history.started += 1;
        self.topology.hosts()[PRIMARY].doubt();
        self.lose_connections(PRIMARY);
    }

    fn lose_connections(&mut self, id: HostId) {
        for session in 0..SESSIONS {
            match self.sessions[session].doing {
                // What was answered may have arrived nevertheless.
                Doing::Reading(read, decision, answer)
                    if decision.host == id && (answer.is_none() || self.dice.once_in(2)) =>
                {
                    let avoid = Some(id);
                    self.sessions[session].doing = Doing::Asking(Read { avoid, ..read });
                }
                // Done or not, nobody knows.
                Doing::Writing(_) if id == PRIMARY => {
                    self.note_write(session);
                    self.sessions[session].doing = Doing::Nothing;
                }
                _ => {}
            }
        }
    }

    // ── The monitor ──────────────────────────────────────────────────────────────────────────

    fn poll(&mut self) {
        self.polling = match self.polling {
            Polling::No => Polling::Sent(self.topology.polls.send()),
            Polling::Sent(poll) => {
                let behind = if self.fault == Fault::FlushedPosition {
                    2000
                } else {
                    0
                };
                Polling::Found(poll, self.wal.insert() - behind)
            }
            Polling::Found(poll, found) => {
                self.topology.set_history(self.history);
                let position = match self.fault {
                    Fault::Unrounded => Lsn(found),
                    _ => Lsn(found).of_insert(8192),
                };
                self.topology.polls.answer(poll, position);
                Polling::No
            }
        };
    }

    fn poll_replica(&mut self, id: HostId) {
        let found = self.visible(id);
        let host = &self.topology.hosts()[id];
        match self.replicas[id].found.take() {
            None => self.replicas[id].found = Some(found),
            Some(found) => {
                host.set_replayed(Lsn(found));
                host.set_state(HostState::Replica);
            }
        }
    }

    /// The poll that is noted in place of this one.
    fn counted(&self, poll: Poll) -> Poll {
        let is_under_way = !matches!(self.polling, Polling::No);
        if self.fault == Fault::PollUnderWayCounts && is_under_way {
            poll - 1
        } else {
            poll
        }
    }

    // ── Sessions ─────────────────────────────────────────────────────────────────────────────

    fn go_on(&mut self, id: usize) -> Result<(), Broken> {
        let doing = match self.sessions[id].doing {
            Doing::Nothing if self.dice.once_in(3) => Doing::Writing(None),
            Doing::Nothing => Doing::Asking(self.ask(id)),
            Doing::Asking(read) => self.decide(id, read),
            Doing::Reading(read, decision, None) => {
                let answer = self.visible(decision.host);
                Doing::Reading(read, decision, Some(answer))
            }
            Doing::Reading(read, decision, Some(answer)) => {
                self.note_read(id, &read, decision, answer)?;
                Doing::Nothing
            }
            Doing::Writing(None) => Doing::Writing(Some(self.wal.write(&mut self.dice))),
            Doing::Writing(Some(end)) => {
                self.note_write(id);
                let written = &mut self.written[self.sessions[id].group];
                *written = end.max(*written);
                self.acknowledged = end.max(self.acknowledged);
                Doing::Nothing
            }
        };
        self.sessions[id].doing = doing;
        Ok(())
    }

    fn ask(&mut self, id: usize) -> Read {
        let session = &self.sessions[id];
        let (consistency, strong) = match self.dice.below(8) {
            0 | 1 => (Consistency::Strong, self.acknowledged),
            2 => (Consistency::Eventual, 0),
            _ => (Consistency::Session, 0),
        };
        let must_see = [
            (self.written[session.group], Broken::OwnWrites),
            (session.seen, Broken::Monotonic),
            (session.told, Broken::Token),
            (strong, Broken::Strong),
        ];
        Read {
            consistency,
            asked: self.counted(self.topology.polls.next()),
            must_see,
            tries: 0,
            avoid: None,
        }
    }

    fn verdict(&mut self, id: usize, read: &Read, patience: Patience) -> Verdict {
        let session = &self.sessions[id];
        let question = Question {
            need: Need::Read,
            wishes: Wishes {
                route: RouteTo::Auto,
                consistency: read.consistency,
                by_comment: false,
            },
            freshness: &session.freshness,
            shared: self.shared[session.group],
            asked: read.asked,
            is_pinned: false,
            avoid: read.avoid,
            patience,
        };
        let policy = Policy {
            on_lag: if id.is_multiple_of(2) {
                OnLag::Wait
            } else {
                OnLag::Primary
            },
            load_balance: LoadBalance::Random,
            primary_reads: if id.is_multiple_of(3) {
                PrimaryReads::Always
            } else {
                PrimaryReads::Fallback
            },
            zone: None,
        };
        let (turn, dice, client) = (self.dice.roll(), self.dice.roll(), 0);
        let chance = Chance { turn, dice, client };
        decide(&question, &policy, &self.topology, chance)
    }

    fn decide(&mut self, id: usize, mut read: Read) -> Doing {
        let patience = if read.tries < 4 {
            Patience::Lag
        } else {
            Patience::None
        };
        match self.verdict(id, &read, patience) {
            Verdict::Go(decision) => Doing::Reading(read, decision, None),
            Verdict::Wait { .. } => {
                assert_ne!(patience, Patience::None);
                self.tally.waits += 1;
                read.tries += 1;
                Doing::Asking(read)
            }
            other => panic!("{other:?} while the primary is there"),
        }
    }

    fn note_read(
        &mut self,
        id: usize,
        read: &Read,
        mut decision: Decision,
        answer: u64,
    ) -> Result<(), Broken> {
        if read.consistency != Consistency::Eventual {
            for (position, promise) in read.must_see {
                if answer < position {
                    return Err(promise);
                }
            }
        }
        if decision.host == PRIMARY {
            self.tally.on_primary.push(decision.reason);
        } else {
            self.tally.on_replicas += 1;
        }
        let host = decision.host;
        match (self.fault, read.consistency) {
            (Fault::VisitsNotedLate, _) => {
                let incarnation = self.topology.hosts()[host].incarnation();
                decision.visit = decision.visit.map(|_| Visit { host, incarnation });
            }
            (Fault::StaleVisits, Consistency::Eventual) => {
                let incarnation = self.topology.hosts()[host].incarnation();
                decision.visit = Some(Visit { host, incarnation });
            }
            _ => {}
        }
        let session = &mut self.sessions[id];
        session.seen = session.seen.max(answer);
        if self.fault != Fault::ReadsUnnoted {
            session.freshness.on_read(&decision, &self.topology);
            let seen = session.freshness.seen;
            self.sessions[id].freshness.seen = self.counted(seen);
        }
        Ok(())
    }

    fn note_write(&mut self, id: usize) {
        if self.fault == Fault::WritesUnnoted {
            return;
        }
        let poll = self.sessions[id].freshness.on_write(&self.topology);
        let poll = self.counted(poll);
        let session = &mut self.sessions[id];
        session.freshness.written = poll;
        let shared = &mut self.shared[session.group];
        *shared = poll.max(*shared);
    }

    /// The session tells another one its token, if that is known.
    fn tell(&mut self, from: usize) {
        let to = self.dice.below(SESSIONS);
        let session = &self.sessions[from];
        let poll = session.freshness.written.max(session.freshness.seen);
        let is_idle = matches!(self.sessions[to].doing, Doing::Nothing);
        let is_known = self.topology.history() == Some(self.history);
        let own = self.own_written(from);
        let told = own.max(session.seen).max(session.told);
        if poll == 0 || session.freshness.token.is_some() || !is_idle || !is_known {
            return;
        }
        let Some(position) = self.topology.position(poll) else {
            return;
        };
        let history = self.history;
        self.sessions[to].freshness.token = Some(Token { history, position });
        self.sessions[to].told = told;
    }

    /// What the token of a session stands for is its own freshness, without that of its group.
    fn own_written(&self, id: usize) -> u64 {
        let session = &self.sessions[id];
        let is_newest = session.freshness.written == self.shared[session.group];
        if is_newest {
            self.written[session.group]
        } else {
            0
        }
    }

    /// Everybody catches up and nobody writes: then no session may be kept from the replicas.
    fn settle(&mut self) -> Result<(), Broken> {
        for _ in 0..9 {
            self.poll();
        }
        while !matches!(self.polling, Polling::No) {
            self.poll();
        }
        for id in 1..HOSTS {
            self.replicas[id].replayed = self.wal.ends.len();
            self.replicas[id].found = None;
            self.poll_replica(id);
            self.poll_replica(id);
        }
        for id in 0..SESSIONS {
            let session = &mut self.sessions[id];
            let history = self.history;
            if session
                .freshness
                .token
                .is_some_and(|token| token.history != history)
            {
                (session.freshness.token, session.told) = (None, 0);
            }
            for consistency in [Consistency::Session, Consistency::Strong] {
                let read = Read {
                    consistency,
                    asked: self.topology.polls.last_done(),
                    must_see: [(0, Broken::Stuck); 4],
                    tries: 0,
                    avoid: Some(PRIMARY),
                };
                match self.verdict(id, &read, Patience::None) {
                    Verdict::Go(decision) if decision.host != PRIMARY => {}
                    _ => return Err(Broken::Stuck),
                }
            }
        }
        Ok(())
    }
}

#[test]
fn every_read_sees_what_it_must() {
    let mut on_replicas = 0;
    let mut on_primary = Vec::new();
    for seed in 0..8 {
        let tally = match World::new(seed, Fault::Nothing).run(40_000) {
            Ok(tally) => tally,
            Err(broken) => panic!("seed {seed}: {broken:?}"),
        };
        assert!(tally.waits > 100 && tally.restarts > 100, "seed {seed}");
        on_replicas += tally.on_replicas;
        on_primary.extend(tally.on_primary);
    }
    // It has been tried: many reads went each way, and each promise has kept some from the replicas.
    assert!(on_replicas > 10_000, "{on_replicas}");
    for reason in [
        Reason::OwnWrites,
        Reason::Monotonic,
        Reason::Strong,
        Reason::Token,
        Reason::PrimaryReads,
        Reason::NoReplica,
    ] {
        let count = on_primary.iter().filter(|it| **it == reason).count();
        assert!(count > 15, "{reason:?}: {count}");
    }
}

#[test]
fn the_check_notices_what_is_done_wrong() {
    use Broken::{Monotonic, OwnWrites, Strong, Stuck, Token};
    let faults: [(Fault, &[Broken]); 8] = [
        (
            Fault::PollUnderWayCounts,
            &[OwnWrites, Monotonic, Strong, Token],
        ),
        (Fault::Unrounded, &[Stuck]),
        (
            Fault::FlushedPosition,
            &[OwnWrites, Monotonic, Strong, Token],
        ),
        (Fault::WritesUnnoted, &[OwnWrites]),
        (Fault::ReadsUnnoted, &[Monotonic]),
        (
            Fault::RestartsUnnoticed,
            &[OwnWrites, Monotonic, Strong, Token],
        ),
        (Fault::VisitsNotedLate, &[Monotonic]),
        (Fault::StaleVisits, &[Monotonic]),
    ];
    for (fault, expected) in faults {
        let broken = (0..8).filter_map(|seed| World::new(seed, fault).run(40_000).err());
        let broken: Vec<_> = broken.collect();
        assert!(!broken.is_empty(), "{fault:?} goes unnoticed");
        let is_expected = broken.iter().all(|it| expected.contains(it));
        assert!(is_expected, "{fault:?}: {broken:?}");
    }
}
