//! The checker itself, with histories made by hand.

use crate::{
    check::{Case, Ledger, Promise, check, check_ledger},
    history::{Consistency, Event, Fate, Group, Read, SessionId, What, Write},
};

const PRIMARY: usize = 0;
const REPLICA: usize = 1;

/// A history that is told in the order of its clock.
#[derive(Default)]
struct Tale {
    events: Vec<Event>,
    now: u64,
}

impl Tale {
    fn add(mut self, session: SessionId, group: Option<Group>, what: What) -> Self {
        self.now += 2;
        self.events.push(Event {
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

    /// The last event was on the primary.
    fn on_the_primary(mut self) -> Self {
        if let Some(What::Read(read)) = self.events.last_mut().map(|event| &mut event.what) {
            read.server = PRIMARY;
        }
        self
    }

    /// The last event began when the one before it had not ended.
    fn at_the_same_time(mut self) -> Self {
        let last = self.events.len() - 1;
        self.events[last].began = self.events[last - 1].began;
        self
    }

    fn breaks(&self) -> Vec<Promise> {
        let violations = check(&Case {
            history: &self.events,
            keys: 1,
            primaries: &[(0, PRIMARY)],
        });
        violations.iter().map(|it| it.promise).collect()
    }
}

#[test]
fn a_session_reads_its_own_writes() {
    assert_eq!(Tale::default().writes(1, 1).reads(1, 1).breaks(), []);
    let stale = Tale::default().writes(1, 1).reads(1, 0);
    assert_eq!(stale.breaks(), [Promise::OwnWrites]);
    let of_another = Tale::default().writes(1, 1).reads(2, 0);
    assert_eq!(of_another.breaks(), []);
    let eventual = Tale::default().writes(1, 1);
    let eventual = eventual.reads_as(1, None, 0, Consistency::Eventual);
    assert_eq!(eventual.breaks(), []);
    let undone = Tale::default().writes_in(1, None, 1, Fate::RolledBack);
    assert_eq!(undone.reads(1, 0).breaks(), []);
}

#[test]
fn time_does_not_run_backwards_for_a_session() {
    let tale = || Tale::default().writes(1, 1).reads(2, 1);
    assert_eq!(tale().reads(3, 0).reads(2, 1).breaks(), []);
    assert_eq!(tale().reads(2, 0).breaks(), [Promise::Monotonic]);
    let after_eventual = Tale::default().writes(1, 1);
    let after_eventual = after_eventual.reads_as(2, None, 1, Consistency::Eventual);
    assert_eq!(after_eventual.reads(2, 0).breaks(), [Promise::Monotonic]);
}

#[test]
fn a_replica_may_be_ahead_of_the_primary_by_what_nobody_was_told() {
    let under_way = || {
        let tale = Tale::default().writes_in(1, None, 1, Fate::Unknown);
        tale.reads(2, 1).reads(2, 0)
    };
    assert_eq!(under_way().breaks(), [Promise::Monotonic]);
    assert_eq!(under_way().on_the_primary().breaks(), []);
    let told = || Tale::default().writes(1, 1).reads(2, 1).reads(2, 0);
    assert_eq!(told().on_the_primary().breaks(), [Promise::Monotonic]);
    let twice = Tale::default().writes_in(1, None, 1, Fate::Unknown);
    let twice = twice.reads(2, 1).on_the_primary().reads(2, 0);
    assert_eq!(twice.on_the_primary().breaks(), [Promise::Monotonic]);
}

#[test]
fn a_strong_read_is_not_older_than_its_question() {
    let tale = || Tale::default().writes(1, 1);
    let read = |tale: Tale, value| tale.reads_as(2, None, value, Consistency::Strong);
    assert_eq!(read(tale(), 1).breaks(), []);
    assert_eq!(read(tale(), 0).breaks(), [Promise::Strong]);
    assert_eq!(read(tale(), 0).at_the_same_time().breaks(), []);
}

#[test]
fn those_of_a_group_read_each_others_writes() {
    let tale = || Tale::default().writes_in(1, Some(7), 1, Fate::Acknowledged);
    let read = |tale: Tale, group| tale.reads_as(2, group, 0, Consistency::Session);
    assert_eq!(read(tale(), Some(7)).breaks(), [Promise::Shared]);
    assert_eq!(read(tale(), Some(8)).breaks(), []);
    assert_eq!(read(tale(), Some(7)).at_the_same_time().breaks(), []);
}

#[test]
fn a_token_makes_as_fresh_as_its_giver() {
    let tale = || Tale::default().writes(1, 1);
    let told = tale().add(2, None, What::Token([1].into())).reads(2, 0);
    assert_eq!(told.breaks(), [Promise::Token]);
    let mut by_comment = tale().reads(2, 0);
    if let What::Read(read) = &mut by_comment.events[1].what {
        read.token = Some([1].into());
    }
    assert_eq!(by_comment.breaks(), [Promise::Token]);
}

#[test]
fn nothing_is_read_that_nobody_has_written_and_no_result_comes_twice() {
    let invented = Tale::default().reads(1, 1).writes(1, 1);
    assert_eq!(invented.breaks(), [Promise::NothingInvented]);
    let twice = Tale::default().writes(1, 1).writes(2, 1);
    assert_eq!(twice.breaks(), [Promise::NothingDoubled]);
}

#[test]
fn the_ledger_has_what_was_acknowledged_once() {
    let line = (1, 1);
    let tale = |fate| Tale::default().writes_in(1, None, 1, fate).events;
    let found = |fate, ledger: &Ledger| -> Vec<Promise> {
        let violations = check_ledger(&tale(fate), ledger);
        violations.iter().map(|it| it.promise).collect()
    };
    let [none, one, two] = [0, 1, 2].map(|count| Ledger::from([(line, count)]));
    assert_eq!(found(Fate::Acknowledged, &one), []);
    assert_eq!(found(Fate::Acknowledged, &none), [Promise::NothingLost]);
    assert_eq!(found(Fate::Acknowledged, &two), [Promise::NothingDoubled]);
    assert_eq!(found(Fate::Unknown, &none), []);
    assert_eq!(found(Fate::Unknown, &one), []);
    assert_eq!(found(Fate::Unknown, &two), [Promise::NothingDoubled]);
    assert_eq!(found(Fate::RolledBack, &none), []);
    assert_eq!(found(Fate::RolledBack, &one), [Promise::NothingInvented]);
    let strange = Ledger::from([(line, 1), ((9, 9), 1)]);
    assert_eq!(
        found(Fate::Acknowledged, &strange),
        [Promise::NothingInvented]
    );
}
