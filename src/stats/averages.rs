//! Averages over the recent past, from snapshots of the totals.
//!
//! Knows no clock: who takes a snapshot says when it was taken. Averages reach back at least one whole
//! `stats_period` and at most two, as PgBouncer's do, so that they neither jump when a period begins
//! nor stand still until it ends; before the first period has passed they reach back to the start.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::Totals;

/// What each database has done.
pub type ByDatabase = BTreeMap<Box<str>, Totals>;

/// The totals at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When they were taken.
    pub at: Instant,
    /// The totals.
    pub totals: ByDatabase,
}

/// The two snapshots that averages begin at, each a `stats_period` younger than the last.
#[derive(Debug)]
pub struct Window {
    older: Snapshot,
    newer: Snapshot,
}

impl Window {
    /// A window that begins now, with nothing done yet.
    pub fn new(now: Instant) -> Self {
        let start = Snapshot {
            at: now,
            totals: ByDatabase::new(),
        };
        Self {
            older: start.clone(),
            newer: start,
        }
    }

    /// A period has passed.
    pub fn roll(&mut self, now: Snapshot) {
        self.older = std::mem::replace(&mut self.newer, now);
    }

    /// The averages of every database of `now`.
    pub fn averages(&self, now: &Snapshot) -> ByDatabase {
        let over = now.at.saturating_duration_since(self.older.at);
        let mut averages = now.totals.clone();
        for (name, totals) in &mut averages {
            let before = self.older.totals.get(name).copied().unwrap_or_default();
            *totals = average(before, *totals, over);
        }
        averages
    }
}

/// What happened from `before` to `after`: counts and bytes per second, `xact_time` per transaction,
/// `query_time` per query and `wait_time` per server assignment, as in PgBouncer's `avg_*`.
pub fn average(before: Totals, after: Totals, over: Duration) -> Totals {
    let done = after - before;
    let per = |amount: u64, count: u64| amount.checked_div(count).unwrap_or(0);
    let per_second = |amount: u64| {
        let rate = u128::from(amount) * 1_000_000;
        let rate = rate.checked_div(over.as_micros()).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    };
    Totals {
        server_assignment_count: per_second(done.server_assignment_count),
        xact_count: per_second(done.xact_count),
        query_count: per_second(done.query_count),
        bytes_received: per_second(done.bytes_received),
        bytes_sent: per_second(done.bytes_sent),
        xact_time: per(done.xact_time, done.xact_count),
        query_time: per(done.query_time, done.query_count),
        wait_time: per(done.wait_time, done.server_assignment_count),
        client_parse_count: per_second(done.client_parse_count),
        server_parse_count: per_second(done.server_parse_count),
        bind_count: per_second(done.bind_count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTALS: Totals = Totals {
        server_assignment_count: 10,
        xact_count: 20,
        query_count: 40,
        bytes_received: 1000,
        bytes_sent: 5000,
        xact_time: 600,
        query_time: 800,
        wait_time: 90,
        client_parse_count: 4,
        server_parse_count: 2,
        bind_count: 8,
    };

    #[test]
    fn counts_are_per_second_and_times_per_event() {
        let expected = Totals {
            server_assignment_count: 5,
            xact_count: 10,
            query_count: 20,
            bytes_received: 500,
            bytes_sent: 2500,
            xact_time: 30,
            query_time: 20,
            wait_time: 9,
            client_parse_count: 2,
            server_parse_count: 1,
            bind_count: 4,
        };
        let after = TOTALS + TOTALS;
        assert_eq!(average(TOTALS, after, Duration::from_secs(2)), expected);
    }

    #[test]
    fn nothing_done_and_no_time_passed_are_zero() {
        let second = Duration::from_secs(1);
        assert_eq!(average(TOTALS, TOTALS, second), Totals::default());
        let at_once = average(Totals::default(), TOTALS, Duration::ZERO);
        assert_eq!((at_once.query_count, at_once.query_time), (0, 20));
    }

    #[test]
    fn averages_reach_back_one_to_two_periods() {
        let start = Instant::now();
        let after = |seconds: u64, queries| Snapshot {
            at: start + Duration::from_secs(seconds),
            totals: [(
                "app".into(),
                Totals {
                    query_count: queries,
                    ..Totals::default()
                },
            )]
            .into(),
        };
        let mut window = Window::new(start);
        let rate = |window: &Window, now| window.averages(&now)["app"].query_count;
        assert_eq!(rate(&window, after(1, 7)), 7, "from the start");
        window.roll(after(10, 100));
        assert_eq!(rate(&window, after(20, 400)), 20, "still from the start");
        window.roll(after(20, 400));
        assert_eq!(
            rate(&window, after(30, 1000)),
            45,
            "from the first period's end"
        );
    }
}
