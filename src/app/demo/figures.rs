//! What the demo shows of one second, from what the pooler itself counts.
//!
//! Two moments and what lies between them; how it looks is [`super::screen`]'s.

use std::{
    fmt::{self, Display},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::workload::Workload;
use crate::{
    app::Pooler,
    pool::{ClientRecord, ClientState, Watch},
    route::{Host, HostState, Reason},
    server::ServerState,
    stats::{Totals, averages::average},
};

/// The pooler at one moment.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) at: Instant,
    totals: Totals,
    watch: Option<Arc<Watch>>,
    /// Reads, and everything else, by server.
    served: Vec<(u64, u64)>,
    routes: Vec<(Reason, u64, u64)>,
}

/// What is shown of one second. Counts are per second unless they say otherwise.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) since_start: Duration,
    pub(super) clients: usize,
    pub(super) clients_active: usize,
    pub(super) clients_waiting: usize,
    pub(super) servers: usize,
    pub(super) servers_active: usize,
    pub(super) servers_idle: usize,
    /// Counts and bytes per second, microseconds per event.
    pub(super) rates: Totals,
    pub(super) writes: u64,
    pub(super) reads_by_primary: u64,
    pub(super) replicas: Vec<Replica>,
    /// Why units went where they went, most frequent first.
    pub(super) why: Vec<Why>,
    /// Sessions that wrote what no replica has replayed yet, now.
    pub(super) dirty: usize,
    /// Of the whole demo.
    pub(super) transfers: u64,
    pub(super) checked: u64,
    pub(super) stale: u64,
    pub(super) errors: u64,
    pub(super) last_error: Option<String>,
}

/// One replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replica {
    pub(super) state: HostState,
    pub(super) reads: u64,
    pub(super) lag_bytes: u64,
    pub(super) lag_us: u64,
}

/// A reason, and how many units it sent where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Why {
    pub(super) reason: &'static str,
    pub(super) target: &'static str,
    pub(super) units: u64,
}

impl Moment {
    pub(super) fn now(pooler: &Pooler) -> Self {
        let totals = pooler.pools.totals().into_values();
        let clusters = pooler.pools.clusters();
        let watch = clusters.iter().find_map(|it| it.hosts().watch.clone());
        let hosts = watch.iter().flat_map(|watch| watch.topology.hosts());
        let served = |host: &Host| (host.reads(), host.served().saturating_sub(host.reads()));
        Self {
            at: Instant::now(),
            totals: totals.fold(Totals::default(), |sum, totals| sum + totals),
            served: hosts.map(served).collect(),
            routes: watch.iter().flat_map(|watch| watch.routes()).collect(),
            watch,
        }
    }

    /// What has happened since `before`.
    pub(super) fn since(
        &self,
        before: &Self,
        start: &Self,
        (pooler, workload): (&Pooler, &Workload),
    ) -> Figures {
        let clients = pooler.clients.all();
        let in_state = |state| clients.iter().filter(|c| c.state() == state).count();
        let pools = pooler.pools.all();
        let servers: Vec<_> = pools.iter().flat_map(|pool| pool.view().servers).collect();
        let serving = |state| servers.iter().filter(|s| s.state() == state).count();
        let over = self.at.duration_since(before.at);
        let mut figures = Figures {
            since_start: self.at.duration_since(start.at),
            clients: clients.len(),
            clients_active: in_state(ClientState::Active),
            clients_waiting: in_state(ClientState::Waiting),
            servers: servers.len(),
            servers_active: serving(ServerState::Active),
            servers_idle: serving(ServerState::Idle),
            rates: average(before.totals, self.totals, over),
            why: self.why(before, over),
            transfers: workload.transfers.value(),
            checked: workload.checked.value(),
            stale: workload.stale.value(),
            errors: workload.errors.value(),
            last_error: workload.last_error(),
            ..Figures::default()
        };
        if let Some(watch) = &self.watch {
            self.route(&mut figures, before, (watch, &clients), over);
        }
        figures
    }

    fn route(
        &self,
        figures: &mut Figures,
        before: &Self,
        (watch, clients): (&Watch, &[Arc<ClientRecord>]),
        over: Duration,
    ) {
        let topology = &watch.topology;
        for (id, host) in topology.hosts().iter().enumerate() {
            let (reads_before, others_before) = before.served.get(id).copied().unwrap_or_default();
            let (reads, others) = self.served.get(id).copied().unwrap_or_default();
            let reads = per_second(reads.saturating_sub(reads_before), over);
            figures.writes += per_second(others.saturating_sub(others_before), over);
            if topology.primary() == Some(id) {
                figures.reads_by_primary = reads;
                continue;
            }
            let (lag_bytes, lag_us) = host.lag();
            figures.replicas.push(Replica {
                state: host.state(),
                reads,
                lag_bytes,
                lag_us,
            });
        }
        let is_dirty = |client: &&Arc<ClientRecord>| {
            let written = client.written.load(Ordering::Relaxed);
            written > 0 && !topology.is_replayed(written)
        };
        figures.dirty = clients.iter().filter(is_dirty).count();
    }

    fn why(&self, before: &Self, over: Duration) -> Vec<Why> {
        let mut why = Vec::new();
        for (reason, primary, replicas) in &self.routes {
            let known = before.routes.iter().find(|(known, ..)| known == reason);
            let (_, primary_before, replicas_before) = known.copied().unwrap_or((*reason, 0, 0));
            for (target, count) in [
                ("primary", primary.saturating_sub(primary_before)),
                ("replica", replicas.saturating_sub(replicas_before)),
            ] {
                let units = per_second(count, over);
                let reason = reason.code();
                why.push(Why {
                    reason,
                    target,
                    units,
                });
            }
        }
        why.retain(|why| why.units > 0);
        why.sort_by_key(|why| std::cmp::Reverse(why.units));
        why
    }
}

impl Figures {
    /// All reads a second.
    pub(super) fn reads(&self) -> u64 {
        self.reads_by_primary + self.reads_by_replicas()
    }

    /// Those of replicas.
    pub(super) fn reads_by_replicas(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.reads).sum()
    }
}

fn per_second(count: u64, over: Duration) -> u64 {
    let rate = u128::from(count) * 1_000_000 / over.as_micros().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

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
pub(super) struct Milliseconds(pub(super) u64);

impl Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:02}", self.0 / 1000, self.0 % 1000 / 10))
    }
}

/// Bytes, shown as kilobytes.
pub(super) struct Kilobytes(pub(super) u64);

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
    fn the_most_frequent_reasons_come_first() {
        let moment = |routes| Moment {
            at: Instant::now(),
            totals: Totals::default(),
            watch: None,
            served: Vec::new(),
            routes,
        };
        let before = moment(vec![(Reason::OwnWrites, 10, 0)]);
        let after = moment(vec![
            (Reason::OwnWrites, 14, 0),
            (Reason::Strong, 0, 0),
            (Reason::Hint, 2, 20),
        ]);
        let why = after.why(&before, Duration::from_secs(2));
        let told: Vec<_> = why
            .iter()
            .map(|why| format!("{} {} {}", why.reason, why.target, why.units))
            .collect();
        let expected = ["hint replica 10", "own_writes primary 2", "hint primary 1"];
        assert_eq!(told, expected);
    }
}
