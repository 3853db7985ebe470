//! What a history must not show.
//!
//! All reads are of all counters, and counters only grow: so one state of the database is older than
//! another if any of its counters is lower.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use crate::history::{Consistency, Event, Fate, Group, Key, Read, SessionId, What, raise};

/// What was promised and not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Promise {
    /// A session reads its own writes.
    OwnWrites,
    /// Time does not run backwards for a session.
    Monotonic,
    /// A session that was given a token is as fresh as the one that gave it.
    Token,
    /// Those who share their freshness read each other's writes.
    Shared,
    /// A strong read is not older than the moment at which it was asked.
    Strong,
    /// Nobody reads what was never written.
    NothingInvented,
    /// No two writes of a counter have the same result.
    NothingDoubled,
    /// What was acknowledged is there.
    NothingLost,
}

/// A promise that was not kept.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) promise: Promise,
    /// Whose; nobody's in particular, if `None`.
    pub(crate) session: Option<SessionId>,
    /// When, by the clock.
    pub(crate) at: u64,
    pub(crate) why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.why)
    }
}

/// A history, and what has to be known to judge it.
pub(crate) struct Case<'a> {
    pub(crate) history: &'a [Event],
    /// How many counters there are.
    pub(crate) keys: usize,
    /// Which server was the primary, from which tick of the clock on.
    pub(crate) primaries: &'a [(u64, usize)],
}

/// Everything in the history that was promised not to be.
pub(crate) fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let settled = check_among_sessions(case, &mut violations);
    check_sessions(case, &settled, &mut violations);
    check_writes(case.history, &mut violations);
    violations
}

impl Case<'_> {
    /// Whether the server was the primary at some time of the event.
    fn may_be_primary(&self, event: &Event, server: usize) -> bool {
        let ends = self.primaries.iter().skip(1).map(|(from, _)| *from);
        let reigns = self.primaries.iter().zip(ends.chain([u64::MAX]));
        let mut reigns = reigns.filter(|((_, primary), _)| *primary == server);
        reigns.any(|((from, _), to)| event.began < to && event.ended > *from)
    }
}

/// What one session knows, by how it got to know it.
struct Known {
    written: Vec<u32>,
    /// On the primary.
    seen_there: Vec<u32>,
    /// On a replica.
    seen_elsewhere: Vec<u32>,
    told: Vec<u32>,
}

impl Known {
    fn nothing(keys: usize) -> Self {
        let nothing = || vec![0; keys];
        Self {
            written: nothing(),
            seen_there: nothing(),
            seen_elsewhere: nothing(),
            told: nothing(),
        }
    }
}

/// For each read of the primary, by its place in the history: what had been acknowledged by then.
type Settled = HashMap<usize, Vec<u32>>;

/// Each session by itself, in the order in which it was answered.
///
/// A replica may show a commit that the primary does not show yet: PostgreSQL sends the record of the
/// commit to its standbys before it tells its own sessions that the transaction is over. So of what was
/// seen on a replica, a read of the primary must show what had been acknowledged to somebody.
fn check_sessions(case: &Case<'_>, settled: &Settled, violations: &mut Vec<Violation>) {
    let mut sessions: HashMap<SessionId, Known> = HashMap::new();
    for (index, event) in case.history.iter().enumerate() {
        let known = sessions
            .entry(event.session)
            .or_insert_with(|| Known::nothing(case.keys));
        match &event.what {
            What::Write(write) => {
                if let (Fate::Acknowledged, Some(value)) = (write.fate, write.value) {
                    raise_one(&mut known.written, write.key, value);
                }
            }
            What::Token(values) => raise(&mut known.told, values),
            What::Read(read) => {
                let settled = settled.get(&index).map(Vec::as_slice);
                if read.consistency != Consistency::Eventual {
                    expect_known(event, read, known, settled, violations);
                }
                let seen = match settled {
                    Some(_) => &mut known.seen_there,
                    None => &mut known.seen_elsewhere,
                };
                raise(seen, &read.values);
            }
        }
    }
}

fn expect_known(
    event: &Event,
    read: &Read,
    known: &Known,
    settled: Option<&[u32]>,
    violations: &mut Vec<Violation>,
) {
    let token = read.token.as_deref().unwrap_or_default();
    for (promise, wanted, is_certain) in [
        (Promise::OwnWrites, &*known.written, true),
        (Promise::Monotonic, &known.seen_there, true),
        (Promise::Monotonic, &known.seen_elsewhere, false),
        (Promise::Token, &known.told, false),
        (Promise::Token, token, false),
    ] {
        match settled {
            Some(settled) if !is_certain => {
                let wanted = wanted.iter().zip(settled);
                let wanted: Vec<u32> = wanted.map(|(it, settled)| *it.min(settled)).collect();
                expect(promise, event, read, &wanted, violations);
            }
            _ => expect(promise, event, read, wanted, violations),
        }
    }
}

/// What was acknowledged to anybody, and what was asked for, up to some moment.
struct Progress {
    acknowledged: Vec<u32>,
    of_groups: HashMap<Group, Vec<u32>>,
    asked: Vec<u32>,
}

/// What passes at a tick of the clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Begins,
    Ends,
}

/// All sessions together, in the order of the clock.
fn check_among_sessions(case: &Case<'_>, violations: &mut Vec<Violation>) -> Settled {
    let mut moments: Vec<(u64, Moment, usize)> = Vec::with_capacity(2 * case.history.len());
    for (index, event) in case.history.iter().enumerate() {
        moments.push((event.began, Moment::Begins, index));
        moments.push((event.ended, Moment::Ends, index));
    }
    moments.sort_unstable();
    let mut progress = Progress {
        acknowledged: vec![0; case.keys],
        of_groups: HashMap::new(),
        asked: vec![0; case.keys],
    };
    let mut settled = Settled::new();
    for (_, moment, index) in moments {
        let event = &case.history[index];
        match (&event.what, moment) {
            (What::Write(write), Moment::Begins) => progress.asked[write.key] += 1,
            (What::Write(write), Moment::Ends) => {
                if let (Fate::Acknowledged, Some(value)) = (write.fate, write.value) {
                    progress.acknowledge(event.group, write.key, value);
                }
            }
            (What::Read(read), Moment::Begins) => {
                if case.may_be_primary(event, read.server) {
                    settled.insert(index, progress.acknowledged.clone());
                }
                progress.expect_shared(event, read, violations);
            }
            (What::Read(read), Moment::Ends) => progress.expect_asked(event, read, violations),
            (What::Token(_), _) => {}
        }
    }
    settled
}

impl Progress {
    fn acknowledge(&mut self, group: Option<Group>, key: Key, value: u32) {
        raise_one(&mut self.acknowledged, key, value);
        if let Some(group) = group {
            let keys = self.acknowledged.len();
            let of_group = self.of_groups.entry(group);
            let of_group = of_group.or_insert_with(|| vec![0; keys]);
            raise_one(of_group, key, value);
        }
    }

    /// What others have been told by now.
    fn expect_shared(&self, event: &Event, read: &Read, violations: &mut Vec<Violation>) {
        if read.consistency == Consistency::Eventual {
            return;
        }
        let of_group = event.group.and_then(|it| self.of_groups.get(&it));
        if let Some(wanted) = of_group {
            expect(Promise::Shared, event, read, wanted, violations);
        }
        if read.consistency == Consistency::Strong {
            let wanted = &self.acknowledged;
            expect(Promise::Strong, event, read, wanted, violations);
        }
    }

    /// No more than what has been asked for by now.
    fn expect_asked(&self, event: &Event, read: &Read, violations: &mut Vec<Violation>) {
        let counters = read.values.iter().zip(&self.asked).enumerate();
        for (key, (found, asked)) in counters.filter(|(_, (found, asked))| found > asked) {
            violations.push(Violation {
                promise: Promise::NothingInvented,
                session: Some(event.session),
                at: event.ended,
                why: format!(
                    "{}: counter {key} is {found}, and {asked} were asked for",
                    place(event, read)
                ),
            });
        }
    }
}

fn check_writes(history: &[Event], violations: &mut Vec<Violation>) {
    let mut results: HashSet<(Key, u32)> = HashSet::new();
    for event in history {
        if let What::Write(write) = &event.what
            && let (Fate::Acknowledged, Some(value)) = (write.fate, write.value)
            && !results.insert((write.key, value))
        {
            violations.push(Violation {
                promise: Promise::NothingDoubled,
                session: Some(event.session),
                at: event.ended,
                why: format!("two writes made counter {} {value}", write.key),
            });
        }
    }
}

fn raise_one(values: &mut [u32], key: Key, value: u32) {
    values[key] = values[key].max(value);
}

fn expect(
    promise: Promise,
    event: &Event,
    read: &Read,
    wanted: &[u32],
    violations: &mut Vec<Violation>,
) {
    let mut pairs = read.values.iter().zip(wanted).enumerate();
    if let Some((key, (found, wanted))) = pairs.find(|(_, (found, wanted))| found < wanted) {
        violations.push(Violation {
            promise,
            session: Some(event.session),
            at: event.ended,
            why: format!(
                "{}: counter {key} is {found}, and must be {wanted} at least",
                place(event, read)
            ),
        });
    }
}

fn place(event: &Event, read: &Read) -> String {
    format!(
        "session {} at {}..{} by {} ({:?}) on server {}",
        event.session, event.began, event.ended, event.how, read.consistency, read.server
    )
}

/// The ledger: how often the line of each write is there.
pub(crate) type Ledger = HashMap<(SessionId, u32), u32>;

/// What is lost of what was acknowledged, and what is there that should not be.
pub(crate) fn check_ledger(history: &[Event], ledger: &Ledger) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut known = HashSet::new();
    for event in history {
        let What::Write(write) = &event.what else {
            continue;
        };
        let line = (event.session, write.number);
        known.insert(line);
        let count = ledger.get(&line).copied().unwrap_or(0);
        let promise = match (write.fate, count) {
            (Fate::Acknowledged, 1) | (Fate::RolledBack, 0) | (Fate::Unknown, 0 | 1) => continue,
            (Fate::Acknowledged, 0) => Promise::NothingLost,
            (Fate::RolledBack, 1) => Promise::NothingInvented,
            _ => Promise::NothingDoubled,
        };
        violations.push(Violation {
            promise,
            session: Some(event.session),
            at: event.ended,
            why: format!("{event:?} is in the ledger {count} times"),
        });
    }
    for line in ledger.keys().filter(|line| !known.contains(*line)) {
        violations.push(Violation {
            promise: Promise::NothingInvented,
            session: None,
            at: u64::MAX,
            why: format!("{line:?} is in the ledger, and nobody has written it"),
        });
    }
    violations
}

/// The last events of the session before and at the violation.
pub(crate) fn story(history: &[Event], violation: &Violation) -> Vec<String> {
    let of_session = history
        .iter()
        .filter(|event| Some(event.session) == violation.session && event.ended <= violation.at);
    let mut story: Vec<_> = of_session.map(|event| format!("{event:?}")).collect();
    story.split_off(story.len().saturating_sub(8))
}

/// How often each promise was broken.
pub(crate) fn tally(violations: &[Violation]) -> BTreeMap<Promise, usize> {
    let mut tally = BTreeMap::new();
    for violation in violations {
        *tally.entry(violation.promise).or_default() += 1;
    }
    tally
}

#[path = "check_tests.rs"]
mod tests;
