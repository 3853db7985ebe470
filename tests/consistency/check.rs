//! What a history must not show.
//!
//! All reads are of all counters, and counters only grow: so one state of the database is older than
//! another if any of its counters is lower. A crash takes back what was not saved; what began before it
//! and ended after it is not judged.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use crate::history::{
    Consistency, Crash, Event, Fate, Group, History, Key, Read, SessionId, TokenId, What, Write,
};

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

/// The counters, as they must be at least.
type Values = Vec<u32>;

/// What one session knows, by how it got to know it.
struct Known {
    written: Values,
    /// On the primary.
    seen_there: Values,
    /// On a replica.
    seen_elsewhere: Values,
    told: Values,
}

/// What happens at a tick of the clock, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Crash(usize),
    Begins(usize),
    Ends(usize),
}

/// What is known at a moment, to whom.
struct Judge<'a> {
    history: &'a History,
    nothing: Values,
    /// What was acknowledged to anybody.
    acknowledged: Values,
    of_groups: HashMap<Group, Values>,
    /// How many writes were asked for.
    asked: Values,
    sessions: HashMap<SessionId, Known>,
    tokens: HashMap<TokenId, Values>,
    /// For each read of the primary that has begun: what had been acknowledged by then.
    settled: HashMap<usize, Values>,
    results: HashSet<(Key, u32)>,
    violations: Vec<Violation>,
}

/// Everything in the history, which is of so many counters, that was promised not to be.
pub(crate) fn check(history: &History, keys: usize) -> Vec<Violation> {
    let mut moments = Vec::with_capacity(2 * history.events.len());
    for (index, event) in history.events.iter().enumerate() {
        moments.push((event.began, Moment::Begins(index)));
        moments.push((event.ended, Moment::Ends(index)));
    }
    for (index, crash) in history.crashes.iter().enumerate() {
        moments.push((crash.to, Moment::Crash(index)));
    }
    moments.sort_unstable();
    let mut judge = Judge {
        history,
        nothing: vec![0; keys],
        acknowledged: vec![0; keys],
        of_groups: HashMap::new(),
        asked: vec![0; keys],
        sessions: HashMap::new(),
        tokens: HashMap::new(),
        settled: HashMap::new(),
        results: HashSet::new(),
        violations: Vec::new(),
    };
    for (_, moment) in moments {
        match moment {
            Moment::Crash(index) => judge.crashes(&history.crashes[index]),
            Moment::Begins(index) => judge.begins(index, &history.events[index]),
            Moment::Ends(index) => judge.ends(index, &history.events[index]),
        }
    }
    judge.violations
}

impl Judge<'_> {
    fn crashes(&mut self, crash: &Crash) {
        let sessions = self.sessions.values_mut().flat_map(|known| {
            [
                &mut known.written,
                &mut known.seen_there,
                &mut known.seen_elsewhere,
                &mut known.told,
            ]
        });
        let others = self.of_groups.values_mut().chain(self.tokens.values_mut());
        for values in sessions.chain(others).chain([&mut self.acknowledged]) {
            lower(values, &crash.values);
        }
        self.results
            .retain(|(key, value)| *value <= crash.values[*key]);
    }

    fn begins(&mut self, index: usize, event: &Event) {
        match &event.what {
            What::Write(write) => self.asked[write.key] += 1,
            What::Read(read) => {
                if self.may_be_primary(event, read.server) {
                    self.settled.insert(index, self.acknowledged.clone());
                }
                if self.is_judged(event) && read.consistency != Consistency::Eventual {
                    self.expect_what_others_know(event, read);
                }
            }
            What::Gives(_) | What::Takes(_) => {}
        }
    }

    fn ends(&mut self, index: usize, event: &Event) {
        let is_judged = self.is_judged(event);
        let known = self.sessions.entry(event.session);
        let known = known.or_insert_with(|| Known::new(&self.nothing));
        match &event.what {
            What::Write(write) => self.end_write(event, write, is_judged),
            What::Gives(token) => {
                let values = known.all();
                self.tokens.insert(*token, values);
            }
            What::Takes(token) => {
                let values = self.tokens.get(token).unwrap_or(&self.nothing);
                raise(&mut known.told, values);
            }
            What::Read(read) => {
                let settled = self.settled.remove(&index);
                if is_judged {
                    self.end_read(event, read, settled.as_deref());
                }
            }
        }
    }

    fn end_write(&mut self, event: &Event, write: &Write, is_judged: bool) {
        let (Fate::Acknowledged, Some(mut value)) = (write.fate, write.value) else {
            return;
        };
        if is_judged && !self.results.insert((write.key, value)) {
            let why = format!("{} made counter {} {value} again", event.how, write.key);
            self.break_promise(Promise::NothingDoubled, event, why);
        }
        for crash in &self.history.crashes {
            if event.began < crash.to && event.ended > crash.to {
                value = value.min(crash.values[write.key]);
            }
        }
        let of_group = event.group.map(|group| {
            let of_group = self.of_groups.entry(group);
            of_group.or_insert_with(|| self.nothing.clone())
        });
        let of_session = self.sessions.get_mut(&event.session);
        let of_session = of_session.map(|known| &mut known.written);
        let all = [Some(&mut self.acknowledged), of_group, of_session];
        for values in all.into_iter().flatten() {
            values[write.key] = values[write.key].max(value);
        }
    }

    fn end_read(&mut self, event: &Event, read: &Read, settled: Option<&[u32]>) {
        for (key, found) in read.values.iter().enumerate() {
            let asked = self.asked[key];
            if *found > asked {
                let place = place(event, read);
                let why = format!("{place}: counter {key} is {found}, {asked} were asked for");
                self.break_promise(Promise::NothingInvented, event, why);
            }
        }
        let Some(mut known) = self.sessions.remove(&event.session) else {
            return;
        };
        if read.consistency != Consistency::Eventual {
            self.expect_what_it_knows(event, read, &known, settled);
        }
        let seen = match settled {
            Some(_) => &mut known.seen_there,
            None => &mut known.seen_elsewhere,
        };
        raise(seen, &read.values);
        self.sessions.insert(event.session, known);
    }

    /// What has been acknowledged when the read is asked.
    fn expect_what_others_know(&mut self, event: &Event, read: &Read) {
        let of_group = event.group.and_then(|it| self.of_groups.get(&it));
        let shared = of_group.and_then(|wanted| missing(read, wanted));
        let is_strong = read.consistency == Consistency::Strong;
        let strong = missing(read, &self.acknowledged).filter(|_| is_strong);
        for (promise, missing) in [(Promise::Shared, shared), (Promise::Strong, strong)] {
            self.expect_nothing(promise, event, read, missing);
        }
    }

    /// A replica may show a commit that the primary does not show yet: PostgreSQL sends the record of
    /// the commit to its standbys before it tells its own sessions that the transaction is over. So of
    /// what was seen on a replica, a read of the primary must show what had been acknowledged.
    fn expect_what_it_knows(
        &mut self,
        event: &Event,
        read: &Read,
        known: &Known,
        settled: Option<&[u32]>,
    ) {
        let of_token = read.token.and_then(|it| self.tokens.get(&it)).cloned();
        let of_token = of_token.unwrap_or_default();
        for (promise, wanted, is_certain) in [
            (Promise::OwnWrites, &known.written, true),
            (Promise::Monotonic, &known.seen_there, true),
            (Promise::Monotonic, &known.seen_elsewhere, false),
            (Promise::Token, &known.told, false),
            (Promise::Token, &of_token, false),
        ] {
            let mut wanted = wanted.clone();
            if let (Some(settled), false) = (settled, is_certain) {
                lower(&mut wanted, settled);
            }
            self.expect_nothing(promise, event, read, missing(read, &wanted));
        }
    }

    fn expect_nothing(
        &mut self,
        promise: Promise,
        event: &Event,
        read: &Read,
        missing: Option<(Key, u32)>,
    ) {
        if let Some((key, wanted)) = missing {
            let (place, found) = (place(event, read), read.values[key]);
            let why = format!("{place}: counter {key} is {found}, must be {wanted} at least");
            self.break_promise(promise, event, why);
        }
    }

    fn break_promise(&mut self, promise: Promise, event: &Event, why: String) {
        self.violations.push(Violation {
            promise,
            session: Some(event.session),
            at: event.ended,
            why,
        });
    }

    fn is_judged(&self, event: &Event) -> bool {
        !self.history.crashes.iter().any(|crash| crash.cuts(event))
    }

    /// Whether the server was the primary at some time of the event.
    fn may_be_primary(&self, event: &Event, server: usize) -> bool {
        let primaries = &self.history.primaries;
        let ends = primaries.iter().skip(1).map(|(from, _)| *from);
        let mut reigns = primaries.iter().zip(ends.chain([u64::MAX]));
        reigns.any(|((from, primary), to)| {
            *primary == server && event.began < to && event.ended > *from
        })
    }
}

impl Known {
    fn new(nothing: &Values) -> Self {
        Self {
            written: nothing.clone(),
            seen_there: nothing.clone(),
            seen_elsewhere: nothing.clone(),
            told: nothing.clone(),
        }
    }

    fn all(&self) -> Values {
        let mut all = self.written.clone();
        for values in [&self.seen_there, &self.seen_elsewhere, &self.told] {
            raise(&mut all, values);
        }
        all
    }
}

/// To the later of two, counter by counter.
fn raise(values: &mut [u32], others: &[u32]) {
    for (value, other) in values.iter_mut().zip(others) {
        *value = (*value).max(*other);
    }
}

/// To the earlier of two, counter by counter.
fn lower(values: &mut [u32], others: &[u32]) {
    for (value, other) in values.iter_mut().zip(others) {
        *value = (*value).min(*other);
    }
}

/// The first counter that is too low, and what it should be.
fn missing(read: &Read, wanted: &[u32]) -> Option<(Key, u32)> {
    let mut pairs = read.values.iter().zip(wanted).enumerate();
    let (key, (_, wanted)) = pairs.find(|(_, (found, wanted))| found < wanted)?;
    Some((key, *wanted))
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
pub(crate) fn check_ledger(history: &History, ledger: &Ledger) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut break_promise = |promise, event: Option<&Event>, why| {
        violations.push(Violation {
            promise,
            session: event.map(|event| event.session),
            at: event.map_or(u64::MAX, |event| event.ended),
            why,
        });
    };
    let mut known = HashSet::new();
    for event in &history.events {
        let What::Write(write) = &event.what else {
            continue;
        };
        let line = (event.session, write.number);
        known.insert(line);
        let count = ledger.get(&line).copied().unwrap_or(0);
        let promise = match (write.fate, count) {
            (Fate::Acknowledged, 1) | (Fate::RolledBack, 0) | (Fate::Unknown, 0 | 1) => continue,
            (Fate::Acknowledged, 0) if may_be_lost(history, event, write) => continue,
            (Fate::Acknowledged, 0) => Promise::NothingLost,
            (Fate::RolledBack, 1) => Promise::NothingInvented,
            _ => Promise::NothingDoubled,
        };
        let why = format!("{event:?} is in the ledger {count} times");
        break_promise(promise, Some(event), why);
    }
    for line in ledger.keys().filter(|line| !known.contains(*line)) {
        let why = format!("{line:?} is in the ledger, and nobody has written it");
        break_promise(Promise::NothingInvented, None, why);
    }
    violations
}

fn may_be_lost(history: &History, event: &Event, write: &Write) -> bool {
    let crashes = history.crashes.iter();
    crashes.into_iter().any(|it| it.may_lose(event, write))
}

/// How many writes were acknowledged, and how many of them are gone.
pub(crate) fn lost(history: &History, ledger: &Ledger) -> (usize, usize) {
    let writes = history.events.iter().filter_map(|event| match &event.what {
        What::Write(write) if write.fate == Fate::Acknowledged => {
            Some(ledger.contains_key(&(event.session, write.number)))
        }
        _ => None,
    });
    writes.fold((0, 0), |(all, lost), is_there| {
        (all + 1, lost + usize::from(!is_there))
    })
}

/// The last events of the session before and at the violation.
pub(crate) fn story(history: &History, violation: &Violation) -> Vec<String> {
    let is_of_session =
        |event: &&Event| Some(event.session) == violation.session && event.ended <= violation.at;
    let of_session = history.events.iter().filter(is_of_session);
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
