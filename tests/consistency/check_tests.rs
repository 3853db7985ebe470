//! The checker itself, with histories made by hand.

use crate::{
    check::{Ledger, Promise, check, check_ledger},
    history::{
        Consistency, Crash, Event, Fate, Group, History, Read, SessionId, TokenId, What, Write,
    },
};

const PRIMARY: usize = 0;
const REPLICA: usize = 1;

/// A history that is told in the order of its clock; of one counter.
struct Tale {
    history: History,
    now: u64,
}

fn tale() -> Tale {
    let history = History {
        primaries: vec![(0, PRIMARY)],
        ..History::default()
    };
    Tale { history, now: 0 }
}

impl Tale {
    fn add(mut self, session: SessionId, group: Option<Group>, what: What) -> Self {
        self.now += 2;
        self.history.events.push(Event {
            session,
            group,
            began: self.now,
            ended: self.now + 1,
            how: "hand",
            what,
        });
        self
    }

    fn writes(self, session: SessionId, value: u32) -> Self {
        self.writes_in(session, None, value, Fate::Acknowledged)
    }

    fn writes_in(self, session: SessionId, group: Option<Group>, value: u32, fate: Fate) -> Self {
        let write = Write {
            key: 0,
            number: value,
            value: Some(value),
            is_durable: true,
            fate,
        };
        self.add(session, group, What::Write(write))
    }

    fn reads(self, session: SessionId, value: u32) -> Self {
        self.reads_as(session, None, value, Consistency::Session)
    }

    fn reads_as(
        self,
        session: SessionId,
        group: Option<Group>,
        value: u32,
        consistency: Consistency,
    ) -> Self {
        let read = Read {
            values: [value].into(),
            server: REPLICA,
            consistency,
            token: None,
        };
        self.add(session, group, What::Read(read))
    }

    fn last_read(&mut self) -> &mut Read {
        match self.history.events.last_mut().map(|event| &mut event.what) {
            Some(What::Read(read)) => read,
            other => panic!("no read: {other:?}"),
        }
    }

    /// The last event was on the primary.
    fn on_the_primary(mut self) -> Self {
        self.last_read().server = PRIMARY;
        self
    }

    fn with_token(mut self, token: TokenId) -> Self {
        self.last_read().token = Some(token);
        self
    }

    /// The last event began when the one before it had not ended.
    fn at_the_same_time(mut self) -> Self {
        let events = &mut self.history.events;
        let last = events.len() - 1;
        events[last].began = events[last - 1].began;
        self
    }

    fn crashes_to(mut self, value: u32, is_same_server: bool) -> Self {
        self.now += 2;
        self.history.crashes.push(Crash {
            from: self.now,
            to: self.now + 1,
            values: [value].into(),
            is_same_server,
        });
        self
    }

    fn breaks(&self) -> Vec<Promise> {
        let violations = check(&self.history, 1);
        violations.iter().map(|it| it.promise).collect()
    }

    fn breaks_with(&self, ledger: &Ledger) -> Vec<Promise> {
        let violations = check_ledger(&self.history, ledger);
        violations.iter().map(|it| it.promise).collect()
    }
}

#[test]
fn a_session_reads_its_own_writes() {
    assert_eq!(tale().writes(1, 1).reads(1, 1).breaks(), []);
    let stale = tale().writes(1, 1).reads(1, 0);
    assert_eq!(stale.breaks(), [Promise::OwnWrites]);
    assert_eq!(stale.on_the_primary().breaks(), [Promise::OwnWrites]);
    assert_eq!(tale().writes(1, 1).reads(2, 0).breaks(), []);
    let eventual = tale().writes(1, 1);
    let eventual = eventual.reads_as(1, None, 0, Consistency::Eventual);
    assert_eq!(eventual.breaks(), []);
    let undone = tale().writes_in(1, None, 1, Fate::RolledBack);
    assert_eq!(undone.reads(1, 0).breaks(), []);
}

#[test]
fn time_does_not_run_backwards_for_a_session() {
    let seen = || tale().writes(1, 1).reads(2, 1);
    assert_eq!(seen().reads(3, 0).reads(2, 1).breaks(), []);
    assert_eq!(seen().reads(2, 0).breaks(), [Promise::Monotonic]);
    let after_eventual = tale().writes(1, 1);
    let after_eventual = after_eventual.reads_as(2, None, 1, Consistency::Eventual);
    assert_eq!(after_eventual.reads(2, 0).breaks(), [Promise::Monotonic]);
}

#[test]
fn a_replica_may_be_ahead_of_the_primary_by_what_nobody_was_told() {
    let under_way = || {
        let under_way = tale().writes_in(1, None, 1, Fate::Unknown);
        under_way.reads(2, 1).reads(2, 0)
    };
    assert_eq!(under_way().breaks(), [Promise::Monotonic]);
    assert_eq!(under_way().on_the_primary().breaks(), []);
    let told = tale().writes(1, 1).reads(2, 1).reads(2, 0);
    assert_eq!(told.on_the_primary().breaks(), [Promise::Monotonic]);
    let twice = tale().writes_in(1, None, 1, Fate::Unknown);
    let twice = twice.reads(2, 1).on_the_primary().reads(2, 0);
    assert_eq!(twice.on_the_primary().breaks(), [Promise::Monotonic]);
}

#[test]
fn a_strong_read_is_not_older_than_its_question() {
    let read = |value| {
        let written = tale().writes(1, 1);
        written.reads_as(2, None, value, Consistency::Strong)
    };
    assert_eq!(read(1).breaks(), []);
    assert_eq!(read(0).breaks(), [Promise::Strong]);
    assert_eq!(read(0).at_the_same_time().breaks(), []);
}

#[test]
fn those_of_a_group_read_each_others_writes() {
    let read = |group| {
        let written = tale().writes_in(1, Some(7), 1, Fate::Acknowledged);
        written.reads_as(2, group, 0, Consistency::Session)
    };
    assert_eq!(read(Some(7)).breaks(), [Promise::Shared]);
    assert_eq!(read(Some(8)).breaks(), []);
    assert_eq!(read(Some(7)).at_the_same_time().breaks(), []);
}

#[test]
fn a_token_makes_as_fresh_as_its_giver() {
    let given = || {
        let written = tale().writes(1, 1).reads(2, 1);
        written.add(2, None, What::Gives(5))
    };
    let taken = given().add(3, None, What::Takes(5)).reads(3, 0);
    assert_eq!(taken.breaks(), [Promise::Token]);
    let by_comment = given().reads(3, 0).with_token(5);
    assert_eq!(by_comment.breaks(), [Promise::Token]);
    assert_eq!(given().reads(3, 0).breaks(), []);
    let of_nothing = tale().add(2, None, What::Gives(5)).writes(1, 1);
    assert_eq!(of_nothing.reads(3, 0).with_token(5).breaks(), []);
}

#[test]
fn nothing_is_read_that_nobody_has_written_and_no_result_comes_twice() {
    let invented = tale().reads(1, 1).writes(1, 1);
    assert_eq!(invented.breaks(), [Promise::NothingInvented]);
    let twice = tale().writes(1, 1).writes(2, 1);
    assert_eq!(twice.breaks(), [Promise::NothingDoubled]);
}

#[test]
fn a_crash_takes_back_what_was_not_saved_and_nothing_else() {
    let crashed = |value| tale().writes(1, 1).writes(1, 2).crashes_to(value, false);
    assert_eq!(crashed(1).reads(1, 1).writes(1, 2).breaks(), []);
    assert_eq!(crashed(1).reads(1, 0).breaks(), [Promise::OwnWrites]);
    assert_eq!(crashed(2).reads(1, 1).breaks(), [Promise::OwnWrites]);
    assert_eq!(crashed(2).writes(1, 2).breaks(), [Promise::NothingDoubled]);
    let mut across = crashed(1).reads(1, 0);
    across.history.events[2].began = across.history.crashes[0].from;
    assert_eq!(across.breaks(), [], "it may have been answered before");
}

#[test]
fn the_ledger_has_what_was_acknowledged_once() {
    let line = (1, 1);
    let found = |fate, ledger| tale().writes_in(1, None, 1, fate).breaks_with(ledger);
    let none = &Ledger::new();
    let [one, two] = &[1, 2].map(|count| Ledger::from([(line, count)]));
    assert_eq!(found(Fate::Acknowledged, one), []);
    assert_eq!(found(Fate::Acknowledged, none), [Promise::NothingLost]);
    assert_eq!(found(Fate::Acknowledged, two), [Promise::NothingDoubled]);
    assert_eq!(found(Fate::Unknown, none), []);
    assert_eq!(found(Fate::Unknown, one), []);
    assert_eq!(found(Fate::Unknown, two), [Promise::NothingDoubled]);
    assert_eq!(found(Fate::RolledBack, none), []);
    assert_eq!(found(Fate::RolledBack, one), [Promise::NothingInvented]);
    let strange = Ledger::from([(line, 1), ((9, 9), 1)]);
    assert_eq!(
        found(Fate::Acknowledged, &strange),
        [Promise::NothingInvented]
    );
}

#[test]
fn a_crash_loses_only_the_end() {
    let none = Ledger::new();
    let crashed = |value, is_same| tale().writes(1, 1).crashes_to(value, is_same);
    assert_eq!(crashed(0, false).breaks_with(&none), []);
    let counted = crashed(1, false).breaks_with(&none);
    assert_eq!(counted, [Promise::NothingLost]);
    let durable = crashed(0, true).breaks_with(&none);
    assert_eq!(durable, [Promise::NothingLost]);
    let later = tale().crashes_to(0, false).writes(1, 1);
    assert_eq!(later.breaks_with(&none), [Promise::NothingLost]);
}
