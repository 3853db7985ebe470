//! How the demo shows its figures.
//!
//! A terminal gets a panel that is redrawn in place; anything else a table, one line a second.

use std::{
    fmt::{self, Display},
    io::{self, IsTerminal as _, Stdout, Write as _},
};

use super::{
    figures::{Figures, Grouped, Kilobytes, Milliseconds, Moment, Replica, Why},
    workload::Workload,
};
use crate::{app::Pooler, route::HostState};

/// Where the figures are shown.
#[derive(Debug)]
pub(super) struct Screen {
    out: Stdout,
    is_terminal: bool,
    /// Lines of the panel that stands on the terminal, or of the table.
    drawn: usize,
    start: Moment,
    before: Moment,
}

impl Screen {
    /// Figures count from now.
    pub(super) fn new(pooler: &Pooler) -> Self {
        let out = io::stdout();
        let now = Moment::now(pooler);
        Self {
            is_terminal: out.is_terminal(),
            out,
            drawn: 0,
            start: now.clone(),
            before: now,
        }
    }

    /// Shows what happened since this was last called.
    pub(super) fn show(&mut self, pooler: &Pooler, workload: &Workload) -> io::Result<()> {
        let now = Moment::now(pooler);
        let figures = now.since(&self.before, &self.start, (pooler, workload));
        self.before = now;
        let mut text = String::new();
        if self.is_terminal {
            let lines = figures.panel();
            if self.drawn > 0 {
                // CSI n F: to the beginning of the line n lines up (ECMA-48).
                text = format!("\x1b[{}F", self.drawn);
            }
            for line in &lines {
                // CSI K: erase to the end of the line.
                text.push_str(&format!("{line}\x1b[K\n"));
            }
            // CSI J: erase what a longer panel has left below.
            text.push_str("\x1b[J");
            self.drawn = lines.len();
        } else {
            if self.drawn.is_multiple_of(HEADER_EVERY) {
                text.push_str(HEADER);
            }
            text.push_str(&figures.row());
            self.drawn += 1;
        }
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

/// Lines of the table after which its header is repeated.
const HEADER_EVERY: usize = 20;
const HEADER: &str = " time  clients waiting  servers      tps  wait ms  writes  reads: primary replicas  lag ms  dirty     checked  stale errors  why\n";
/// Reasons of a line of the table, and of the panel.
const REASONS: usize = 3;
/// What of an error fits into a line.
const LONGEST_ERROR: usize = 50;

impl Figures {
    fn row(&self) -> String {
        let lag = self.replicas.iter().map(|replica| replica.lag_us).max();
        let why = self.why.iter().take(REASONS);
        let why: Vec<_> = why.map(|why| why.to_string()).collect();
        format!(
            "{:>4}s  {:>7} {:>7}  {:>7}  {:>7}  {:>7}  {:>6}  {:>14} {:>8}  {:>6}  {:>5}  {:>10}  {:>5} {:>6}  {}\n",
            self.since_start.as_secs_f64().round(),
            self.clients,
            self.clients_waiting,
            self.servers,
            Grouped(self.rates.xact_count),
            Milliseconds(self.rates.wait_time),
            Grouped(self.writes),
            Grouped(self.reads_by_primary),
            Grouped(self.reads_by_replicas()),
            lag.unwrap_or(0) / 1000,
            self.dirty,
            Grouped(self.checked),
            self.stale,
            self.errors,
            why.join(", "),
        )
    }

    /// Lines that fit a terminal of 80 columns.
    fn panel(&self) -> Vec<String> {
        let busy = self.clients_active + self.clients_waiting;
        let mut lines = vec![
            String::new(),
            line(
                "clients",
                self.clients as u64,
                &format!(
                    "{} with a server, {} waiting for one, {} idle",
                    self.clients_active,
                    self.clients_waiting,
                    self.clients.saturating_sub(busy),
                ),
            ),
            line(
                "servers",
                self.servers as u64,
                &format!(
                    "connections, {} with a client, {} idle",
                    self.servers_active, self.servers_idle
                ),
            ),
            line(
                "transactions",
                self.rates.xact_count,
                &format!(
                    "a second; mean wait for a server {} ms",
                    Milliseconds(self.rates.wait_time)
                ),
            ),
            line(
                "traffic",
                self.rates.bytes_received / 1024,
                &format!("kB a second in, {} out", Kilobytes(self.rates.bytes_sent)),
            ),
        ];
        lines.extend(self.routing());
        lines.push(line(
            "transfers",
            self.transfers,
            &format!(
                "{} reads compared with them, {} stale",
                Grouped(self.checked),
                Grouped(self.stale)
            ),
        ));
        let error = self.last_error.iter().flat_map(|error| error.chars());
        let error: String = error.take(LONGEST_ERROR).collect();
        lines.push(line("errors", self.errors, &error));
        lines.push(format!(
            "  {} s; Ctrl-C ends",
            self.since_start.as_secs_f64().round()
        ));
        lines
    }

    /// Nothing, where there is nothing to choose.
    fn routing(&self) -> Vec<String> {
        if self.replicas.is_empty() {
            return Vec::new();
        }
        let percent = |part: u64| (part * 100).checked_div(self.reads()).unwrap_or(0);
        let by_replicas = percent(self.reads_by_replicas());
        let mut lines = vec![
            line(
                "writes",
                self.writes,
                "a second, and whatever else needs the primary",
            ),
            line(
                "reads",
                self.reads(),
                &format!("a second: {by_replicas} % by replicas, the others by the primary"),
            ),
        ];
        for (number, replica) in self.replicas.iter().enumerate() {
            let name = format!("  replica {}", number + 1);
            lines.push(line(&name, replica.reads, &replica.about()));
        }
        for place in 0..REASONS {
            lines.push(match self.why.get(place) {
                Some(Why {
                    reason,
                    target,
                    units,
                }) => line(
                    if place == 0 { "why" } else { "" },
                    *units,
                    &format!("to the {target}: {reason}"),
                ),
                None => String::new(),
            });
        }
        lines.push(line(
            "dirty",
            self.dirty as u64,
            "sessions that wrote what no replica has replayed yet",
        ));
        lines
    }
}

fn line(what: &str, count: u64, about: &str) -> String {
    format!("  {what:<13} {:>7}   {about}", Grouped(count))
}

impl Replica {
    fn about(&self) -> String {
        let lag = format!(
            "reads; {} ms, {} kB behind",
            Milliseconds(self.lag_us),
            Kilobytes(self.lag_bytes)
        );
        match self.state {
            HostState::Replica => lag,
            other => format!("{lag}: {}", other.as_str()),
        }
    }
}

impl Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.reason, Grouped(self.units))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stats::Totals;

    fn figures() -> Figures {
        let replica = Replica {
            state: HostState::Lagging,
            reads: 12_345,
            lag_bytes: 99_456_789,
            lag_us: 9_123_456,
        };
        Figures {
            since_start: Duration::from_secs(3),
            clients: 16,
            clients_active: 4,
            clients_waiting: 3,
            servers: 12,
            servers_active: 4,
            servers_idle: 0,
            rates: Totals {
                xact_count: 123_456,
                wait_time: 1_234_567,
                bytes_received: 12_345_678,
                bytes_sent: 123_456_789,
                ..Totals::default()
            },
            writes: 1234,
            reads_by_primary: 12_345,
            replicas: vec![replica; 2],
            why: vec![Why {
                reason: "read_only_transaction",
                target: "primary",
                units: 123_456,
            }],
            dirty: 16,
            transfers: 123_456,
            checked: 12_345_678,
            stale: 0,
            errors: 1,
            last_error: Some("connection lost: ".repeat(9)),
        }
    }

    #[test]
    fn the_table_is_aligned_and_the_panel_fits_a_terminal() {
        let row = figures().row();
        let why = row.find("read_only_transaction 123,456").unwrap();
        assert_eq!(Some(why), HEADER.find("why"));
        for line in figures().panel() {
            assert!(line.chars().count() < 80, "{line}");
        }
    }

    #[test]
    fn a_panel_is_as_high_whatever_the_reasons_are() {
        let height = figures().panel().len();
        let none = Figures {
            why: Vec::new(),
            ..figures()
        };
        assert_eq!(none.panel().len(), height);
        let alone = Figures {
            replicas: Vec::new(),
            ..figures()
        };
        assert!(
            alone.panel().len() < height,
            "without replicas there is less to tell"
        );
    }
}
