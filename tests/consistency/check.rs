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
    pub(crate) why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.why)
    }
}

/// Everything in the history that was promised not to be.
pub(crate) fn check(history: &[Event], keys: usize) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_sessions(history, keys, &mut violations);
    check_among_sessions(history, keys, &mut violations);
    check_writes(history, &mut violations);
    violations
}

/// What one session knows, by how it got to know it.
struct Known {
    written: Vec<u32>,
    seen: Vec<u32>,
    told: Vec<u32>,
}

impl Known {
    fn nothing(keys: usize) -> Self {
        Self {
            written: vec![0; keys],
            seen: vec![0; keys],
            told: vec![0; keys],
        }
    }
}

/// Each session by itself, in the order in which it was answered.
fn check_sessions(history: &[Event], keys: usize, violations: &mut Vec<Violation>) {
    let mut sessions: HashMap<SessionId, Known> = HashMap::new();
    for event in history {
        let known = sessions
            .entry(event.session)
            .or_insert_with(|| Known::nothing(keys));
        match &event.what {
            What::Write(write) => {
                if let (Fate::Acknowledged, Some(value)) = (write.fate, write.value) {
                    raise_one(&mut known.written, write.key, value);
                }
            }
            What::Token(values) => raise(&mut known.told, values),
            What::Read(read) => {
                if read.consistency != Consistency::Eventual {
                    let token = read.token.as_deref().unwrap_or_default();
                    for (promise, wanted) in [
                        (Promise::OwnWrites, &*known.written),
                        (Promise::Monotonic, &known.seen),
                        (Promise::Token, &known.told),
                        (Promise::Token, token),
                    ] {
                        expect(promise, event, read, wanted, violations);
                    }
                }
                raise(&mut known.seen, &read.values);
            }
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
fn check_among_sessions(history: &[Event], keys: usize, violations: &mut Vec<Violation>) {
    let mut moments: Vec<(u64, Moment, usize)> = Vec::with_capacity(2 * history.len());
    for (index, event) in history.iter().enumerate() {
        moments.push((event.began, Moment::Begins, index));
        moments.push((event.ended, Moment::Ends, index));
    }
    moments.sort_unstable();
    let mut progress = Progress {
        acknowledged: vec![0; keys],
        of_groups: HashMap::new(),
        asked: vec![0; keys],
    };
    for (_, moment, index) in moments {
        let event = &history[index];
        match (&event.what, moment) {
            (What::Write(write), Moment::Begins) => progress.asked[write.key] += 1,
            (What::Write(write), Moment::Ends) => {
                if let (Fate::Acknowledged, Some(value)) = (write.fate, write.value) {
                    raise_one(&mut progress.acknowledged, write.key, value);
                    if let Some(group) = event.group {
                        let of_group = progress.of_groups.entry(group);
                        let of_group = of_group.or_insert_with(|| vec![0; keys]);
                        raise_one(of_group, write.key, value);
                    }
                }
            }
            (What::Read(read), Moment::Begins) => {
                if read.consistency == Consistency::Eventual {
                    continue;
                }
                let of_group = event.group.and_then(|it| progress.of_groups.get(&it));
                if let Some(wanted) = of_group {
                    expect(Promise::Shared, event, read, wanted, violations);
                }
                if read.consistency == Consistency::Strong {
                    let wanted = &progress.acknowledged;
                    expect(Promise::Strong, event, read, wanted, violations);
                }
            }
            (What::Read(read), Moment::Ends) => {
                for (key, (found, asked)) in read.values.iter().zip(&progress.asked).enumerate() {
                    if found > asked {
                        violations.push(Violation {
                            promise: Promise::NothingInvented,
                            why: format!(
                                "{}, which was asked for {asked} times: {key} is {found}",
                                place(event, read)
                            ),
                        });
                    }
                }
            }
            (What::Token(_), _) => {}
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
            why: format!("{event:?} is in the ledger {count} times"),
        });
    }
    for line in ledger.keys().filter(|line| !known.contains(*line)) {
        violations.push(Violation {
            promise: Promise::NothingInvented,
            why: format!("{line:?} is in the ledger, and nobody has written it"),
        });
    }
    violations
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
