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
#[path = "../crosstalk/dice.rs"]
#[expect(dead_code, reason = "not every decision is of every kind")]
mod dice;
mod history;
mod script;
mod session;
mod stage;
mod world;

use std::{env, process, time::Duration};

use check::{Case, Promise, Violation, check, check_ledger, story, tally};
use history::{Event, What};
use stage::{Stage, load};
use world::World;

fn number(name: &str) -> Option<u64> {
    let value = env::var_os(name)?.into_string().unwrap();
    Some(value.parse().unwrap())
}

fn seed() -> u64 {
    let seed = number("PGWEIR_TEST_SEED").unwrap_or_else(|| u64::from(process::id()));
    println!("PGWEIR_TEST_SEED={seed}");
    seed
}

fn report(history: &[Event], violations: &[Violation], world: &World) {
    for (what, count) in world.counts() {
        println!("{count:>8}  {what}");
    }
    for violation in violations.iter().take(20) {
        println!("{violation}");
        for event in story(history, violation) {
            println!("    {event}");
        }
    }
    println!("{:?}", tally(violations));
}

fn judge(stage: &Stage, history: &[Event]) -> Vec<Violation> {
    check(&Case {
        history,
        keys: stage.world.keys(),
        primaries: &stage.world.primaries(),
    })
}

fn reads_on(history: &[Event], is_wanted: impl Fn(usize) -> bool) -> usize {
    let is_one = |event: &&Event| matches!(&event.what, What::Read(read) if is_wanted(read.server));
    history.iter().filter(is_one).count()
}

/// Everything that happens to the cluster, each part for this time.
fn events(stage: &Stage, part: Duration) {
    let [one, other] = [0, 1].map(|index| stage.cluster.replica(index));
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
}

fn round(seed: u64, part: Duration) {
    let stage = Stage::new(true);
    stage.perform(seed, |stage| events(stage, part));
    let history = stage.world.take_history();
    let mut violations = judge(&stage, &history);
    violations.extend(check_ledger(
        &history,
        &Stage::ledger(stage.cluster.replica(0)),
    ));
    report(&history, &violations, &stage.world);
    assert!(violations.is_empty(), "promises were broken");
    let (all, on_replicas) = (
        reads_on(&history, |_| true),
        reads_on(&history, |it| it > 0),
    );
    println!("{on_replicas} of {all} reads on replicas");
    assert!(on_replicas > all / 10, "replicas hardly served");
    assert!(on_replicas < all, "the primary was never needed");
}

#[test]
fn every_promise_is_kept() {
    let seed = seed();
    let Some(seconds) = number("CONSISTENCY_SECONDS") else {
        return round(seed, Duration::from_secs(2));
    };
    let end = std::time::Instant::now() + Duration::from_secs(seconds);
    for turn in 0.. {
        if std::time::Instant::now() > end {
            break;
        }
        round(seed.wrapping_add(turn), Duration::from_secs(6));
    }
}

#[test]
fn without_promises_the_same_load_is_caught() {
    let stage = Stage::new(false);
    stage.delay_replay([200, 0]);
    stage.perform(seed(), |_| load(Duration::from_secs(3)));
    let history = stage.world.take_history();
    let violations = judge(&stage, &history);
    report(&history, &violations, &stage.world);
    let found = tally(&violations);
    for promise in [
        Promise::OwnWrites,
        Promise::Monotonic,
        Promise::Token,
        Promise::Shared,
        Promise::Strong,
    ] {
        assert!(found.contains_key(&promise), "{promise:?} is not caught");
    }
    let ledger = Stage::ledger(stage.cluster.primary());
    let violations = check_ledger(&history, &ledger);
    assert!(violations.is_empty(), "{violations:?}");
}
