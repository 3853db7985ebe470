//! Counters. Everybody writes them; they read nobody, and nothing is ever decided by them.
//!
//! A counter is one relaxed atomic that is only added to. Averages and rates are made by whoever
//! shows them, from two snapshots.

pub mod averages;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Adds a time, in microseconds.
    #[inline]
    pub fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// The number now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What a pool has done since the process began, with PgBouncer's names (`SHOW STATS_TOTALS`).
        #[derive(Debug, Default)]
        pub struct PoolStats { $($(#[$doc])* pub $name: Counter),+ }

        /// [`PoolStats`] at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals { $($(#[$doc])* pub $name: u64),+ }

        impl PoolStats {
            /// All counters now.
            pub fn totals(&self) -> Totals {
                Totals { $($name: self.$name.value()),+ }
            }
        }

        impl std::ops::Add for Totals {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self { $($name: self.$name.wrapping_add(other.$name)),+ }
            }
        }

        impl std::ops::Sub for Totals {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self { $($name: self.$name.saturating_sub(other.$name)),+ }
            }
        }
    };
}

counters! {
    /// How often a server was given to a client.
    server_assignment_count,
    /// Transactions.
    xact_count,
    /// Queries: replies that ended with ReadyForQuery.
    query_count,
    /// Bytes received from clients.
    bytes_received,
    /// Bytes sent to clients.
    bytes_sent,
    /// Microseconds that clients held a server.
    xact_time,
    /// Microseconds that servers worked on queries.
    query_time,
    /// Microseconds that clients waited for a server.
    wait_time,
    /// Named prepared statements that clients made.
    client_parse_count,
    /// Named prepared statements that were made on servers.
    server_parse_count,
    /// Named prepared statements that were bound.
    bind_count,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_summed_and_compared_field_by_field() {
        let stats = PoolStats::default();
        stats.query_count.add(3);
        stats.wait_time.add_time(Duration::from_millis(2));
        let before = stats.totals();
        stats.query_count.add(4);
        let after = stats.totals();
        assert_eq!((after - before).query_count, 4);
        assert_eq!((after + before).wait_time, 4000);
    }
}
