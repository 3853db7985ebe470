//! The limits on time that a client is under: which one is due next.
//!
//! Pure: it is told what the client does and the time at which that changed. Each limit counts from
//! its own beginning: a query's from its request, or from the answer to the one before it in a
//! pipeline; a transaction's from its first request, however long the server is kept.

use std::time::Duration;

use tokio::time::Instant;

use super::error::Cause;
use crate::config::PoolSettings;

/// What a client does, as far as limits tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing.
    Idle,
    /// It waits for a server, and has been told so or not.
    Waiting {
        /// Whether it has been told.
        notified: bool,
    },
    /// A request of its is under way.
    Running,
    /// It is in a transaction or a batch, and nothing is under way.
    Between,
}

/// What a client does, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Activity {
    doing: Doing,
    since: Instant,
    /// When the transaction began; of no meaning while it is idle or waits.
    began: Instant,
    /// Answers that it had by then.
    answered: u32,
}

/// A limit that a client is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// When it is reached.
    pub(super) due: Instant,
    /// What it is set to.
    pub(super) after: Duration,
    /// What happens then.
    pub(super) cause: Cause,
}

/// Whether any limit is set that counts while a client is not in the queue.
pub(super) fn has_limits(settings: &PoolSettings) -> bool {
    settings.query_timeout.is_some()
        || settings.idle_transaction_timeout.is_some()
        || settings.transaction_timeout.is_some()
        || settings.client_idle_timeout.is_some()
}

impl Activity {
    /// A client that begins to do this.
    pub(super) fn new(doing: Doing, now: Instant) -> Self {
        Self {
            doing,
            since: now,
            began: now,
            answered: 0,
        }
    }

    /// Whether this is known: it does the same, and has had no further answer.
    pub(super) fn is(&self, doing: Doing, answered: u32) -> bool {
        self.doing == doing && self.answered == answered
    }

    /// The client does something else, or has had an answer; `in_block` if that was not the end of a
    /// transaction.
    pub(super) fn turn(&mut self, doing: Doing, answered: u32, in_block: bool, now: Instant) {
        let was_out = matches!(self.doing, Doing::Idle | Doing::Waiting { .. });
        if was_out || (answered != self.answered && !in_block) {
            self.began = now;
        }
        self.doing = doing;
        self.since = now;
        self.answered = answered;
    }

    /// A client that waits has been told so.
    pub(super) fn notify(&mut self) {
        self.doing = Doing::Waiting { notified: true };
    }

    /// The limit that is reached first, if there is any.
    pub(super) fn next(&self, settings: &PoolSettings) -> Option<Limit> {
        let limit = |from: Instant, after: Option<Duration>, cause| {
            let after = after?;
            let due = from.checked_add(after)?;
            Some(Limit { due, after, cause })
        };
        let since = self.since;
        let whole = || {
            let after = settings.transaction_timeout;
            limit(self.began, after, Cause::TransactionTime)
        };
        match self.doing {
            Doing::Idle => limit(since, settings.client_idle_timeout, Cause::ClientIdle),
            Doing::Waiting { notified } => {
                let notify = settings.query_wait_notify.filter(|_| !notified);
                earlier(
                    limit(since, notify, Cause::WaitNotice),
                    limit(since, settings.query_wait_timeout, Cause::QueryWait),
                )
            }
            Doing::Running => earlier(
                limit(since, settings.query_timeout, Cause::QueryTime),
                whole(),
            ),
            Doing::Between => {
                let after = settings.idle_transaction_timeout;
                earlier(limit(since, after, Cause::IdleInTransaction), whole())
            }
        }
    }
}

fn earlier(a: Option<Limit>, b: Option<Limit>) -> Option<Limit> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.due < a.due { b } else { a }),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn next(activity: &Activity, settings: &PoolSettings, start: Instant) -> (Duration, Cause) {
        let limit = activity.next(settings).expect("a limit is set");
        (limit.due - start, limit.cause)
    }

    #[test]
    fn each_limit_counts_from_its_own_beginning() {
        let settings = PoolSettings {
            query_timeout: Some(seconds(10)),
            idle_transaction_timeout: Some(seconds(20)),
            transaction_timeout: Some(seconds(60)),
            client_idle_timeout: Some(seconds(300)),
            ..PoolSettings::default()
        };
        let start = Instant::now();
        let mut activity = Activity::new(Doing::Idle, start);
        assert_eq!(
            next(&activity, &settings, start),
            (seconds(300), Cause::ClientIdle)
        );
        activity.turn(Doing::Running, 0, false, start + seconds(100));
        assert_eq!(
            next(&activity, &settings, start),
            (seconds(110), Cause::QueryTime)
        );
        activity.turn(Doing::Between, 1, true, start + seconds(105));
        assert_eq!(
            next(&activity, &settings, start),
            (seconds(125), Cause::IdleInTransaction)
        );
        activity.turn(Doing::Running, 1, true, start + seconds(120));
        assert_eq!(
            next(&activity, &settings, start),
            (seconds(130), Cause::QueryTime)
        );
        // The next one of a pipeline, in the same transaction.
        activity.turn(Doing::Running, 2, true, start + seconds(129));
        assert_eq!(
            next(&activity, &settings, start),
            (seconds(139), Cause::QueryTime)
        );
        activity.turn(Doing::Between, 3, true, start + seconds(150));
        assert_eq!(
            next(&activity, &settings, start),
            (seconds(160), Cause::TransactionTime)
        );
        // The server is kept, and the next transaction begins.
        activity.turn(Doing::Idle, 4, false, start + seconds(155));
        activity.turn(Doing::Running, 4, false, start + seconds(400));
        activity.turn(Doing::Between, 5, true, start + seconds(401));
        assert_eq!(
            next(&activity, &settings, start),
            (seconds(421), Cause::IdleInTransaction)
        );
        // Transactions of one query each, in a pipeline.
        activity.turn(Doing::Running, 6, false, start + seconds(455));
        assert_eq!(
            next(&activity, &settings, start),
            (seconds(465), Cause::QueryTime)
        );
    }

    #[test]
    fn whoever_waits_is_told_once_and_then_sent_away() {
        let settings = PoolSettings {
            query_wait_notify: Some(seconds(5)),
            query_wait_timeout: Some(seconds(30)),
            ..PoolSettings::default()
        };
        let start = Instant::now();
        let mut activity = Activity::new(Doing::Waiting { notified: false }, start);
        assert_eq!(
            next(&activity, &settings, start),
            (seconds(5), Cause::WaitNotice)
        );
        activity.notify();
        assert_eq!(
            next(&activity, &settings, start),
            (seconds(30), Cause::QueryWait)
        );
    }
}
