//! The output of a child process: drained as it comes, kept bounded, and awaited as an event.
//!
//! A child whose pipe nobody reads blocks; so a thread reads it to its end whatever the owner does.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::account::text;

/// The latest lines that a process wrote. Older ones are forgotten beyond 5,000.
#[derive(Debug, Default)]
pub struct ProcessLog {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    /// Lines forgotten: the number of the first one kept.
    first: usize,
    ended: bool,
}

const KEPT_LINES: usize = 5000;

/// How [`ProcessLog::wait_for`] ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited {
    /// This line matched.
    Line(String),
    /// Every process that held the pipe has ended, and no line matched.
    Ended,
    /// Time ran out.
    TimedOut,
}

impl ProcessLog {
    /// Drains `pipe` on a thread of its own until its end.
    pub fn drain(pipe: impl Read + Send + 'static) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let writer = Arc::clone(&log);
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                let whole = text(std::mem::take(&mut line));
                writer.push(whole.trim_end().to_owned());
            }
            writer.lock().ended = true;
            writer.changed.notify_all();
        });
        log
    }

    /// The number of the next line: where [`Self::wait_for`] starts to see only what is new.
    pub fn mark(&self) -> usize {
        let lines = self.lock();
        lines.first + lines.kept.len()
    }

    /// Waits for the first line at or after `mark` that `matches`.
    pub fn wait_for(
        &self,
        mark: usize,
        timeout: Duration,
        matches: impl Fn(&str) -> bool,
    ) -> Waited {
        let mut seen = mark;
        let mut found = None;
        let (lines, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, |lines| {
                let from = seen.saturating_sub(lines.first);
                found = lines.kept.iter().skip(from).find(|l| matches(l)).cloned();
                seen = lines.first + lines.kept.len();
                found.is_none() && !lines.ended
            })
            .unwrap_or_else(PoisonError::into_inner);
        match found {
            Some(line) => Waited::Line(line),
            None if lines.ended => Waited::Ended,
            None => Waited::TimedOut,
        }
    }

    /// Waits until every process that held the pipe has ended; false when time ran out.
    pub fn wait_end(&self, timeout: Duration) -> bool {
        let (lines, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, |lines| !lines.ended)
            .unwrap_or_else(PoisonError::into_inner);
        lines.ended
    }

    /// All lines kept.
    pub fn text(&self) -> String {
        self.tail(KEPT_LINES)
    }

    /// The last `count` lines.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lock();
        let skip = lines.kept.len().saturating_sub(count);
        let tail: Vec<&str> = lines.kept.iter().skip(skip).map(String::as_str).collect();
        tail.join("\n")
    }

    fn push(&self, line: String) {
        let mut lines = self.lock();
        if lines.kept.len() == KEPT_LINES {
            lines.kept.pop_front();
            lines.first += 1;
        }
        lines.kept.push_back(line);
        drop(lines);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn finds_a_line_and_reports_the_end() {
        let log = ProcessLog::drain(&b"one\ntwo\nlast without newline"[..]);
        let two = log.wait_for(0, LONG, |l| l == "two");
        assert_eq!(two, Waited::Line("two".to_owned()));
        assert_eq!(log.wait_for(0, LONG, |l| l == "three"), Waited::Ended);
        assert!(log.wait_end(LONG));
        assert_eq!(log.tail(1), "last without newline");
    }

    #[test]
    fn a_mark_hides_what_is_older() {
        let log = ProcessLog::drain(&b"ready\n"[..]);
        assert!(log.wait_end(LONG));
        assert_eq!(
            log.wait_for(log.mark(), LONG, |l| l == "ready"),
            Waited::Ended
        );
    }

    #[test]
    fn forgets_the_oldest_lines() {
        let many = "x\n".repeat(KEPT_LINES) + "y\n";
        let log = ProcessLog::drain(std::io::Cursor::new(many));
        assert!(log.wait_end(LONG));
        assert_eq!(log.mark(), KEPT_LINES + 1);
        assert_eq!(log.text().lines().count(), KEPT_LINES);
        assert_eq!(log.tail(1), "y");
    }
}
