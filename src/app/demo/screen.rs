//! What the demo shows: the figures of the last second, from what the pooler itself counts.
//!
//! A terminal gets a panel that is redrawn in place; anything else a table, one line a second.

use std::{
    fmt::{self, Display},
    io::{self, IsTerminal as _, Stdout, Write as _},
    time::Duration,
};

use tokio::time::Instant;

use super::workload::Workload;
use crate::{
    app::Pooler,
    pool::ClientState,
    server::ServerState,
    stats::{Totals, averages::average},
};

/// The pooler at one moment.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Instant,
    totals: Totals,
}

impl Moment {
    fn now(pooler: &Pooler) -> Self {
        let totals = pooler.pools.totals().into_values();
        Self {
            at: Instant::now(),
            totals: totals.fold(Totals::default(), |sum, totals| sum + totals),
        }
    }
}

/// What is shown of one second.
#[derive(Debug)]
struct Figures {
    since_start: Duration,
    clients: usize,
    clients_active: usize,
    clients_waiting: usize,
    servers: usize,
    servers_active: usize,
    servers_idle: usize,
    /// Counts and bytes per second, microseconds per event.
    rates: Totals,
    transfers: u64,
    checked: u64,
    stale: u64,
    errors: u64,
    last_error: Option<String>,
}

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
            start: now,
            before: now,
        }
    }

    /// Shows what happened since this was last called.
    pub(super) fn show(&mut self, pooler: &Pooler, workload: &Workload) -> io::Result<()> {
        let now = Moment::now(pooler);
        let figures = self.figures(now, pooler, workload);
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

    fn figures(&self, now: Moment, pooler: &Pooler, workload: &Workload) -> Figures {
        let clients = pooler.clients.all();
        let in_state = |state| clients.iter().filter(|c| c.state() == state).count();
        let servers: Vec<_> = pooler
            .pools
            .all()
            .iter()
            .flat_map(|pool| pool.view().servers)
            .collect();
        let serving = |state| servers.iter().filter(|s| s.state() == state).count();
        Figures {
            since_start: now.at.duration_since(self.start.at),
            clients: clients.len(),
            clients_active: in_state(ClientState::Active),
            clients_waiting: in_state(ClientState::Waiting),
            servers: servers.len(),
            servers_active: serving(ServerState::Active),
            servers_idle: serving(ServerState::Idle),
            rates: average(
                self.before.totals,
                now.totals,
                now.at.duration_since(self.before.at),
            ),
            transfers: workload.transfers.value(),
            checked: workload.checked.value(),
            stale: workload.stale.value(),
            errors: workload.errors.value(),
            last_error: workload.last_error(),
        }
    }
}

/// Lines of the table after which its header is repeated.
const HEADER_EVERY: usize = 20;
const HEADER: &str = " time  clients active waiting  servers active idle      tps  wait ms   in kB/s  out kB/s     checked  stale errors\n";

impl Figures {
    fn row(&self) -> String {
        format!(
            "{:>4}s  {:>7} {:>6} {:>7}  {:>7} {:>6} {:>4}  {:>7}  {:>7}  {:>8}  {:>8}  {:>10}  {:>5} {:>6}\n",
            self.since_start.as_secs_f64().round(),
            self.clients,
            self.clients_active,
            self.clients_waiting,
            self.servers,
            self.servers_active,
            self.servers_idle,
            Grouped(self.rates.xact_count),
            Milliseconds(self.rates.wait_time),
            Kilobytes(self.rates.bytes_received),
            Kilobytes(self.rates.bytes_sent),
            Grouped(self.checked),
            self.stale,
            self.errors,
        )
    }

    /// Lines that fit a terminal of 80 columns.
    fn panel(&self) -> Vec<String> {
        let mut lines = vec![
            String::new(),
            format!(
                "  clients       {:>7}   {} with a server, {} waiting for one, {} idle",
                self.clients,
                self.clients_active,
                self.clients_waiting,
                self.clients
                    .saturating_sub(self.clients_active + self.clients_waiting),
            ),
            format!(
                "  servers       {:>7}   {} with a client, {} idle",
                self.servers, self.servers_active, self.servers_idle
            ),
            format!(
                "  transactions  {:>7}   a second; mean wait for a server {} ms",
                Grouped(self.rates.xact_count).to_string(),
                Milliseconds(self.rates.wait_time)
            ),
            format!(
                "  traffic       {:>7}   kB a second in, {} out",
                Kilobytes(self.rates.bytes_received).to_string(),
                Kilobytes(self.rates.bytes_sent)
            ),
            format!(
                "  transfers     {:>7}   {} reads compared with them, {} stale",
                Grouped(self.transfers).to_string(),
                Grouped(self.checked),
                Grouped(self.stale)
            ),
        ];
        lines.push(match &self.last_error {
            Some(error) => {
                let short: String = error.chars().take(LONGEST_ERROR).collect();
                format!("  errors        {:>7}   {short}", self.errors)
            }
            None => format!("  errors        {:>7}", self.errors),
        });
        lines.push(format!(
            "  {} s; Ctrl-C ends",
            self.since_start.as_secs_f64().round()
        ));
        lines
    }
}

/// What of an error fits into a line.
const LONGEST_ERROR: usize = 50;

/// A number with a comma between groups of three digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grouped(pub(super) u64);

impl Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

/// Microseconds, shown as milliseconds.
struct Milliseconds(u64);

impl Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:02}", self.0 / 1000, self.0 % 1000 / 10))
    }
}

/// Bytes, shown as kilobytes.
struct Kilobytes(u64);

impl Display for Kilobytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Grouped(self.0 / 1024).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_padded() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1234567, "1,234,567"),
        ] {
            assert_eq!(Grouped(number).to_string(), text);
        }
        assert_eq!(format!("{:>7}|", Grouped(1000)), "  1,000|");
        assert_eq!(format!("{:>6}|", Milliseconds(12_345)), " 12.34|");
    }

    #[test]
    fn the_table_is_aligned_and_the_panel_fits_a_terminal() {
        let figures = Figures {
            since_start: Duration::from_secs(3),
            clients: 16,
            clients_active: 4,
            clients_waiting: 3,
            servers: 4,
            servers_active: 4,
            servers_idle: 0,
            rates: Totals {
                xact_count: 123_456,
                wait_time: 1_234_567,
                bytes_received: 12_345_678,
                bytes_sent: 123_456_789,
                ..Totals::default()
            },
            transfers: 123_456,
            checked: 12_345_678,
            stale: 0,
            errors: 1,
            last_error: Some("connection lost: ".repeat(9)),
        };
        assert_eq!(figures.row().trim_end().len(), HEADER.trim_end().len());
        for line in figures.panel() {
            assert!(line.chars().count() < 80, "{line}");
        }
    }
}
