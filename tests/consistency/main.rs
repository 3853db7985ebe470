//! The consistency checker: sessions write in every way there is and read at once, while replicas lag,
//! pause, die and are promoted. What they did and saw is a history, in which no promise may be broken:
//! a session reads its own writes, its time does not run backwards, strong reads are not older than
//! their question, those who share their freshness read each other's writes, tokens carry it on, and
//! nothing that was acknowledged is lost or doubled.
//!
//! The same cast before a pooler that was told to promise nothing must be caught: so the checker sees
//! what it looks for.
//!
//! `CONSISTENCY_SECONDS=n` makes it longer, `PGWEIR_TEST_SEED=n` repeats the decisions of a run.

#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test panics and prints, and real servers keep real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod check;
mod history;
mod script;
mod session;
mod stage;
mod world;

use std::{
    env, process,
    time::{Duration, Instant},
};

use ::pgweir::sandbox::Node;
use check::{Promise, Violation, check, check_ledger, lost, story, tally};
use history::{History, What};
use stage::{Stage, load};

fn number(name: &str) -> Option<u64> {
    let value = env::var_os(name)?.into_string().unwrap();
    Some(value.parse().unwrap())
}

/// Plays for a short time, or again and again for `CONSISTENCY_SECONDS`.
fn repeatedly(round: impl Fn(u64, Duration)) {
    let seed = number("PGWEIR_TEST_SEED").unwrap_or_else(|| u64::from(process::id()));
    println!("PGWEIR_TEST_SEED={seed}");
    let Some(seconds) = number("CONSISTENCY_SECONDS") else {
        return round(seed, Duration::from_millis(1500));
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let turns = (0..).take_while(|_| Instant::now() < end);
    turns.for_each(|turn| round(seed.wrapping_add(turn), Duration::from_secs(5)));
}

/// What is wrong with the history; `last` is the primary at its end.
fn judge(stage: &Stage, history: &History, last: &Node) -> Vec<Violation> {
    for (what, count) in stage.world.counts() {
        println!("{count:>8}  {what}");
    }
    let ledger = Stage::ledger(last);
    let (acknowledged, lost) = lost(history, &ledger);
    println!("{lost} of {acknowledged} acknowledged writes were lost by crashes");
    let mut violations = check(history, stage.world.keys());
    violations.extend(check_ledger(history, &ledger));
    println!("{:?}", tally(&violations));
    violations
}

fn promises_are_kept(stage: &Stage, last: &Node) {
    let history = stage.world.take_history();
    let violations = judge(stage, &history, last);
    for violation in violations.iter().take(20) {
        println!("{violation}");
        for event in story(&history, violation) {
            println!("    {event}");
        }
    }
    assert!(violations.is_empty(), "promises were broken");
    let reads = history.events.iter().filter_map(|event| match &event.what {
        What::Read(read) => Some(read.server),
        _ => None,
    });
    let (all, on_replicas) = (reads.clone().count(), reads.filter(|it| *it > 0).count());
    println!("{on_replicas} of {all} reads on replicas");
    assert!(on_replicas > all / 20, "replicas hardly served");
    assert!(on_replicas < all, "the primary was never needed");
}

#[test]
fn promises_are_kept_while_replicas_lag_pause_die_and_take_over() {
    repeatedly(|seed, part| {
        let stage = Stage::new(true);
        let [one, other] = [0, 1].map(|index| stage.cluster.replica(index));
        stage.perform(seed, || {
            load(part);
            stage.delay_replay([200, 20]);
            load(part);
            stage.delay_replay([0, 0]);
            one.pause_replay().unwrap();
            load(part / 2);
            other.pause_replay().unwrap();
            load(part / 2);
            one.resume_replay().unwrap();
            other.resume_replay().unwrap();
            load(part / 2);
            other.kill9().unwrap();
            load(part / 2);
            other.start().unwrap();
            load(part / 2);
            stage.switch_over();
            stage.await_writes();
            load(part / 2);
        });
        promises_are_kept(&stage, one);
    });
}

#[test]
fn promises_are_kept_when_the_primary_dies() {
    repeatedly(|seed, part| {
        let stage = Stage::new(true);
        let mut last = 0;
        stage.perform(seed, || {
            load(part / 2);
            stage.crash_and_recover();
            stage.await_writes();
            load(part / 2);
            last = stage.fail_over();
            stage.await_writes();
            load(part / 2);
        });
        promises_are_kept(&stage, stage.cluster.replica(last));
    });
}

/// What each read needs to be stale is a matter of luck, and on a busy machine of much of it: so this goes on,
/// longer each time, until everything has been caught once.
#[test]
fn without_promises_the_same_load_is_caught() {
    let mut missing = vec![
        Promise::OwnWrites,
        Promise::Monotonic,
        Promise::Token,
        Promise::Shared,
        Promise::Strong,
    ];
    for round in 1..=5 {
        let found = broken_without_promises(round);
        missing.retain(|promise| !found.contains(promise));
        if missing.is_empty() {
            return;
        }
    }
    panic!("not caught: {missing:?}");
}

fn broken_without_promises(round: u32) -> Vec<Promise> {
    let stage = Stage::new(false);
    stage.delay_replay([200, 0]);
    let seed = u64::from(process::id().wrapping_add(round));
    stage.perform(seed, || load(round * Duration::from_secs(2)));
    let history = stage.world.take_history();
    let violations = judge(&stage, &history, stage.cluster.primary());
    let found = tally(&violations);
    // Of what does not rest on promises, nothing is broken.
    for promise in [
        Promise::NothingInvented,
        Promise::NothingDoubled,
        Promise::NothingLost,
    ] {
        assert!(!found.contains_key(&promise), "{promise:?}");
    }
    found.into_keys().collect()
}
