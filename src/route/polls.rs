//! The numbered polls of the primary's WAL position, and what they found.
//!
//! Whoever must not read anything older than now takes the number of the poll that will be *sent* next:
//! what it finds lies at or behind everything that has been answered by now. A poll under way does not
//! count, for it may have looked before. Written by the one monitor of a database, read by all of its
//! sessions without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Lsn;

/// The number of a poll; 0 stands for "any time".
pub type Poll = u64;

/// So many polls are remembered: five seconds of them at the fastest. Of an older one, a later one's
/// position is told, which is on the safe side.
const KEPT: u64 = 1024;

/// See the module.
#[derive(Debug)]
pub struct Polls {
    sent: AtomicU64,
    done: AtomicU64,
    /// The first poll of the present history; what was found by earlier ones is not comparable.
    first: AtomicU64,
    positions: Box<[AtomicU64]>,
}

impl Default for Polls {
    fn default() -> Self {
        Self {
            sent: AtomicU64::new(0),
            done: AtomicU64::new(0),
            first: AtomicU64::new(1),
            positions: (0..KEPT).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Polls {
    /// The poll whose position will be at or behind everything that was answered before this call.
    #[inline]
    pub fn next(&self) -> Poll {
        // Sequentially consistent, as is the count in `send`: a poll with this number is sent later
        // than what its caller has received.
        self.sent.load(Ordering::SeqCst) + 1
    }

    /// The last poll that was answered.
    #[inline]
    pub fn last_done(&self) -> Poll {
        self.done.load(Ordering::Acquire)
    }

    /// Where the primary was at that poll; `None` if that is not known yet.
    #[inline]
    pub fn position(&self, poll: Poll) -> Option<Lsn> {
        if poll == 0 {
            return Some(Lsn(0));
        }
        loop {
            let done = self.done.load(Ordering::Acquire);
            let first = self.first.load(Ordering::Acquire);
            let wanted = poll.max(first);
            if wanted > done {
                return None;
            }
            // A poll that came KEPT later, or comes right now, may have its place: a later position of
            // the same history.
            let known = self.at(wanted).load(Ordering::Acquire);
            if self.first.load(Ordering::Acquire) == first {
                return Some(Lsn(known));
            }
        }
    }

    fn at(&self, poll: Poll) -> &AtomicU64 {
        let index = usize::try_from(poll % KEPT).unwrap_or(0);
        &self.positions[index]
    }

    // ── The monitor's side ───────────────────────────────────────────────────────────────────

    /// A poll is about to be sent; answers its number.
    pub fn send(&self) -> Poll {
        self.sent.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A poll was answered. Those before it that never were are answered with it.
    pub fn answer(&self, poll: Poll, position: Lsn) {
        let done = self.done.load(Ordering::Relaxed);
        for unanswered in (done + 1).max(poll.saturating_sub(KEPT - 1))..=poll {
            self.at(unanswered).store(position.0, Ordering::Release);
        }
        self.done.store(poll.max(done), Ordering::Release);
    }

    /// Another history has begun (another primary, or the same one restarted): no earlier position
    /// means anything, and whoever waits for one waits for the first of the new ones.
    pub fn begin_history(&self) {
        self.first.store(self.next(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_under_way_does_not_count() {
        let polls = Polls::default();
        assert_eq!(polls.position(0), Some(Lsn(0)));
        let under_way = polls.send();
        let mine = polls.next();
        polls.answer(under_way, Lsn(10));
        assert_eq!(polls.position(under_way), Some(Lsn(10)));
        assert_eq!(polls.position(mine), None);
        let next = polls.send();
        assert_eq!(next, mine);
        polls.answer(next, Lsn(20));
        assert_eq!(polls.position(mine), Some(Lsn(20)));
        assert_eq!(
            polls.position(under_way),
            Some(Lsn(10)),
            "each keeps its own"
        );
    }

    #[test]
    fn a_poll_that_got_no_answer_has_that_of_the_next() {
        let polls = Polls::default();
        let lost = polls.send();
        let answered = polls.send();
        polls.answer(answered, Lsn(7));
        assert_eq!(polls.position(lost), Some(Lsn(7)));
    }

    /// A primary that is down is asked again and again.
    #[test]
    fn polls_without_an_answer_take_nothing_away() {
        let polls = Polls::default();
        let answered = polls.send();
        polls.answer(answered, Lsn(7));
        (0..3 * KEPT).for_each(|_| {
            polls.send();
        });
        assert_eq!(polls.position(answered), Some(Lsn(7)));
        let next = polls.send();
        polls.answer(next, Lsn(9));
        for poll in [1, 2, next - KEPT, next - 1, next] {
            assert_eq!(polls.position(poll), Some(Lsn(9)), "{poll}");
        }
    }

    /// Positions are read while the monitor goes on; each poll found its own number.
    #[test]
    fn no_position_is_older_than_its_poll() {
        let polls = Polls::default();
        polls.answer(polls.send(), Lsn(1));
        std::thread::scope(|scope| {
            let monitor = scope.spawn(|| {
                for _ in 0..200 * KEPT {
                    let poll = polls.send();
                    polls.answer(poll, Lsn(poll));
                }
            });
            while !monitor.is_finished() {
                let done = polls.last_done();
                for poll in [1, done.saturating_sub(KEPT - 1), done] {
                    let position = polls.position(poll);
                    assert!(position >= Some(Lsn(poll)), "{poll}: {position:?}");
                }
            }
        });
    }

    #[test]
    fn what_is_too_old_has_a_later_position() {
        let polls = Polls::default();
        for _ in 0..3 * KEPT {
            let poll = polls.send();
            polls.answer(poll, Lsn(poll));
        }
        let position = polls.position(1).unwrap();
        assert!(
            position > Lsn(2 * KEPT) && position <= Lsn(2 * KEPT + 4),
            "{position:?}"
        );
    }

    #[test]
    fn no_position_outlives_its_history() {
        let polls = Polls::default();
        let old = polls.send();
        polls.answer(old, Lsn(1000));
        polls.begin_history();
        assert_eq!(polls.position(old), None);
        let new = polls.send();
        polls.answer(new, Lsn(500));
        assert_eq!(polls.position(old), Some(Lsn(500)));
    }
}
