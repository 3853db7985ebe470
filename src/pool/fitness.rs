//! Whether a standby that holds the right data is fit to serve reads: how far behind it is, how often it
//! has failed, how long it has been back.
//!
//! Facts and times in, verdicts out. Knows nothing of the other servers but where the primary was, and
//! when.
//!
//! The age of what a standby shows is measured by our own clock: it lies between the age of the newest
//! position of the primary that it has reached and that of the oldest one that it has not. What the
//! standby says itself is believed within these bounds only, for after an hour without a write it takes
//! the first one for an hour of delay.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::{
    config::PoolSettings,
    route::{Lsn, topology::FULL_SHARE},
};

/// Positions of the primary that a standby has yet to reach, at most.
const SAMPLES: usize = 32;
/// They are apart by this part of the time that they span, at least.
const MAX_PART: u32 = 16;
/// An absence that is shorter leaves its caches warm, and does not make it start slowly.
const BRIEF: Duration = Duration::from_secs(1);
/// The share with which a slow start begins, in thousandths.
const FIRST_SHARE: u32 = FULL_SHARE / 10;
/// `ejection_time` grows to this many times itself.
const LONGEST_EJECTION: u32 = 10;

/// How far a standby is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// In bytes of WAL.
    pub bytes: u64,
    /// The age of what it shows.
    pub age: Duration,
}

/// One standby.
#[derive(Debug, Default)]
pub struct Fitness {
    replayed: Lsn,
    /// Where the primary was last, and when.
    primary: Option<(Lsn, Instant)>,
    /// When the primary was at the newest position that this one has reached.
    reached: Option<Instant>,
    /// Where the primary was at what times, as far as this one has not got there: oldest first.
    ahead: VecDeque<(Lsn, Instant)>,
    /// What it says itself.
    delay: Option<Duration>,
    is_lagging: bool,
    failures: u32,
    failed: Option<Instant>,
    /// How long it was left out last, in multiples of `ejection_time`.
    multiple: u32,
    ejected: Option<(Instant, Duration)>,
    away: Option<Instant>,
    restarted: bool,
    starts: Option<Instant>,
}

impl Fitness {
    // ── How far behind ───────────────────────────────────────────────────────────────────────

    /// The primary was at `position` when `now` was taken, or later.
    pub fn on_primary(&mut self, position: Lsn, now: Instant) {
        self.primary = Some((position, now));
        if self.replayed >= position {
            self.on_reached(now);
            return;
        }
        let first = self.ahead.front().map_or(now, |(_, first)| *first);
        if self.ahead.len() == SAMPLES {
            // The oldest one stays, for it says since when. From now on they come further apart.
            let mut is_even = false;
            self.ahead.retain(|_| {
                is_even = !is_even;
                is_even
            });
        }
        let span = now.saturating_duration_since(first);
        let last = self.ahead.back().map(|(_, last)| *last);
        let gap = last.map(|last| now.saturating_duration_since(last));
        if gap.is_none_or(|gap| gap >= span / MAX_PART) {
            self.ahead.push_back((position, now));
        }
    }

    /// It has replayed up to `position`.
    pub fn on_replayed(&mut self, position: Lsn) {
        self.replayed = position;
        while let Some((_, then)) = self.ahead.pop_front_if(|(there, _)| *there <= position) {
            self.on_reached(then);
        }
        if let Some((_, then)) = self.primary.filter(|(there, _)| *there <= position) {
            self.on_reached(then);
        }
    }

    fn on_reached(&mut self, then: Instant) {
        self.reached = self.reached.max(Some(then));
    }

    /// What it says itself of the age of what it shows.
    pub fn on_delay(&mut self, delay: Option<Duration>) {
        self.delay = delay;
    }

    /// Positions of another history mean nothing.
    pub fn forget_positions(&mut self) {
        self.replayed = Lsn::default();
        self.primary = None;
        self.reached = None;
        self.ahead.clear();
    }

    /// How far it is behind.
    pub fn lag(&self, now: Instant) -> Lag {
        let newest = self.primary.filter(|(there, _)| self.replayed < *there);
        let Some((primary, newest)) = newest else {
            return Lag::default();
        };
        let since = self.ahead.front().map_or(newest, |(_, since)| *since);
        let least = now.saturating_duration_since(since);
        let said = self.delay.unwrap_or_default().max(least);
        let most = self.reached.map(|then| now.saturating_duration_since(then));
        Lag {
            bytes: self.replayed.behind(primary),
            age: most.map_or(said, |most| said.min(most)),
        }
    }

    /// Judges how far it is behind. Without a primary nothing is judged: who lagged when it was lost
    /// does so still, for there is nothing to catch up with.
    pub fn judge_lag(&mut self, now: Instant, settings: &PoolSettings) {
        let lag = self.lag(now);
        let is_old = settings.max_lag.is_some_and(|most| lag.age > most);
        let is_far = settings.max_lag_bytes.is_some_and(|most| lag.bytes > most);
        self.is_lagging = is_old || is_far;
    }

    /// Whether it is further behind than allowed.
    pub fn is_lagging(&self) -> bool {
        self.is_lagging
    }

    // ── How often it fails ───────────────────────────────────────────────────────────────────

    /// It failed while it was thought to be well.
    pub fn on_failure(&mut self, now: Instant, settings: &PoolSettings) {
        self.failures = self.failures.saturating_add(1);
        self.failed = Some(now);
        let most = u32::try_from(settings.ejection_failures).unwrap_or(u32::MAX);
        if most > 0 && self.failures >= most {
            self.failures = 0;
            self.multiple = (self.multiple * 2).clamp(1, LONGEST_EJECTION);
            let time = settings.ejection_time.saturating_mul(self.multiple);
            self.ejected = Some((now, time));
        }
    }

    /// It passed a check.
    pub fn on_success(&mut self, now: Instant, settings: &PoolSettings) {
        let calm = |since: Option<Instant>| {
            since.map_or(Duration::MAX, |since| now.saturating_duration_since(since))
        };
        // Checks that follow each other at once, as after a failure, prove nothing.
        if calm(self.failed) >= settings.health_check_interval {
            self.failures = 0;
        }
        let pause = settings.ejection_time.saturating_mul(self.multiple);
        let back = self.ejected.and_then(|(then, time)| then.checked_add(time));
        if !self.is_ejected(now) && calm(back.max(self.failed)) >= pause {
            self.multiple = 0;
        }
    }

    /// Whether it is left out.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.back_in(now).is_some()
    }

    /// How long it is still left out.
    pub fn back_in(&self, now: Instant) -> Option<Duration> {
        let (then, time) = self.ejected?;
        let left = time.saturating_sub(now.saturating_duration_since(then));
        (!left.is_zero()).then_some(left)
    }

    // ── How long it has been back ────────────────────────────────────────────────────────────

    /// It does not serve: down, or left out.
    pub fn on_away(&mut self, now: Instant) {
        self.away.get_or_insert(now);
        self.starts = None;
    }

    /// It was started anew: nothing is in its caches.
    pub fn on_restart(&mut self) {
        self.restarted = true;
    }

    /// It serves; answers its share in thousandths.
    pub fn share(&mut self, now: Instant, settings: &PoolSettings) -> u32 {
        if let Some(away) = self.away.take() {
            let is_cold = self.restarted || now.saturating_duration_since(away) > BRIEF;
            self.starts = is_cold.then_some(now);
        }
        self.restarted = false;
        let (Some(since), Some(time)) = (self.starts, settings.slow_start) else {
            return FULL_SHARE;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= time {
            self.starts = None;
            return FULL_SHARE;
        }
        let grown = u128::from(FULL_SHARE - FIRST_SHARE) * elapsed.as_micros();
        let grown = grown / time.as_micros().max(1);
        FIRST_SHARE + u32::try_from(grown).unwrap_or(0)
    }

    /// Whether its share is growing.
    pub fn is_starting(&self) -> bool {
        self.starts.is_some()
    }
}

#[cfg(test)]
#[path = "fitness_tests.rs"]
mod tests;
