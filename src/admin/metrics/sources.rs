//! Which tables of SHOW are metrics, and what these are called.
//!
//! A table, nothing else. Names that begin with `pgbouncer_` are those of prometheus-community's
//! `pgbouncer_exporter` (`collector.go`, version 0.12), with its labels, so that its dashboards and alerts
//! work as they are; the others are ours.

use super::exporter::{CONFIG, DATABASES, LISTS, POOLS, STATS_TOTALS};
use crate::route::HostState;

/// What clients call themselves.
pub(super) const FREE_TEXT: &str = "application_name";
/// Bytes of it; as many as PostgreSQL keeps.
pub(super) const FREE_TEXT_LENGTH: usize = 63;
/// Groups of clients beyond which a new one has no `application_name`.
pub(super) const FREE_TEXT_GROUPS: usize = 1000;

/// How the numbers of a table become samples.
pub(super) enum Shape {
    /// A column is a metric, a row a sample.
    Columns(&'static [(&'static str, Metric)]),
    /// A row is a metric: the first column names it, the second has the number.
    Names(&'static [(&'static str, Metric)]),
    /// The number of rows that have the same labels.
    Count(Metric),
    /// What a row is in, as a sample for each state: 1 for that one, 0 for the others.
    States {
        column: &'static str,
        all: fn() -> Vec<&'static str>,
        label: &'static str,
        metric: Metric,
    },
}

/// A table.
pub(super) struct Source {
    /// As SHOW calls it.
    pub(super) view: &'static str,
    /// Columns that are labels, under the same names.
    pub(super) labels: &'static [&'static str],
    pub(super) shape: Shape,
}

/// A family of samples.
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Of the column; that of the metric is the base unit.
    pub(super) unit: Unit,
    pub(super) help: &'static str,
}

/// What may become of a number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// What SHOW counts in.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    One,
    Microseconds,
    Percent,
}

impl Metric {
    pub(super) const fn counter(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Counter,
            unit: Unit::One,
            help,
        }
    }

    pub(super) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Gauge,
            unit: Unit::One,
            help,
        }
    }

    pub(super) const fn of(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }
}

/// That there is an answer at all.
pub(super) const UP: Metric = Metric::gauge("pgbouncer_up", "1: the process has answered.");

/// All of them, in the order of the text.
pub(super) const SOURCES: &[Source] = &[
    Source {
        view: "version",
        labels: &["version"],
        shape: Shape::Count(Metric::gauge(
            "pgbouncer_version_info",
            "SHOW VERSION, as a label.",
        )),
    },
    Source {
        view: "lists",
        labels: &[],
        shape: Shape::Names(LISTS),
    },
    Source {
        view: "config",
        labels: &[],
        shape: Shape::Names(CONFIG),
    },
    Source {
        view: "clients",
        labels: &["database", "user", FREE_TEXT, "state"],
        shape: Shape::Count(Metric::gauge(
            "pgbouncer_client_connections",
            "Client connections; of very many groups, the later ones without their application_name.",
        )),
    },
    Source {
        view: "databases",
        labels: &[
            "name",
            "host",
            "port",
            "database",
            "force_user",
            "pool_mode",
        ],
        shape: Shape::Columns(DATABASES),
    },
    Source {
        view: "stats_totals",
        labels: &["database"],
        shape: Shape::Columns(STATS_TOTALS),
    },
    Source {
        view: "pools",
        labels: &["database", "user"],
        shape: Shape::Columns(POOLS),
    },
    Source {
        view: "routes",
        labels: &["database", "target", "reason"],
        shape: Shape::Columns(&[(
            "count",
            Metric::counter(
                "pgweir_routes_total",
                "Units of work by where they were sent, the primary or a replica, and why.",
            ),
        )]),
    },
    Source {
        view: "replicas",
        labels: &["database", "host"],
        shape: Shape::Columns(HOSTS),
    },
    Source {
        view: "replicas",
        labels: &["database", "host"],
        shape: Shape::States {
            column: "state",
            all: || HostState::ALL.map(HostState::as_str).into(),
            label: "state",
            metric: Metric::gauge(
                "pgweir_host_state",
                "1 for what the server was last seen to be, 0 for everything else.",
            ),
        },
    },
    Source {
        view: "replicas",
        labels: &["database", "host", "role", "zone"],
        shape: Shape::Count(Metric::gauge(
            "pgweir_host_info",
            "What the configuration says of the server, as labels.",
        )),
    },
    Source {
        view: "pins",
        labels: &["database", "user", "pin", "reasons"],
        shape: Shape::Count(Metric::gauge(
            "pgweir_pinned_clients",
            "Clients that keep their server beyond the transaction (pin=\"server\"), and those whose \
             reads need the primary because of what they wrote (pin=\"primary\").",
        )),
    },
];

const HOSTS: &[(&str, Metric)] = &[
    (
        "lag_bytes",
        Metric::gauge(
            "pgweir_host_lag_bytes",
            "WAL that the server has to replay until it is where the primary was; none if unknown.",
        ),
    ),
    (
        "lag_us",
        Metric::gauge("pgweir_host_lag_seconds", "The same as a time.").of(Unit::Microseconds),
    ),
    (
        "active",
        Metric::gauge(
            "pgweir_host_active_units",
            "Units of work that clients have on it now, or wait for.",
        ),
    ),
    (
        "served",
        Metric::counter(
            "pgweir_host_units_total",
            "Units of work that it was given.",
        ),
    ),
    (
        "reads",
        Metric::counter(
            "pgweir_host_reads_total",
            "Those of them that could have gone to a replica.",
        ),
    ),
    (
        "latency_us",
        Metric::gauge(
            "pgweir_host_latency_seconds",
            "How long a unit of work holds its connection, smoothed.",
        )
        .of(Unit::Microseconds),
    ),
    (
        "weight",
        Metric::gauge(
            "pgweir_host_weight",
            "Its weight among the servers that serve reads.",
        ),
    ),
    (
        "share_percent",
        Metric::gauge(
            "pgweir_host_share_ratio",
            "The part of its weight that counts at present: less than 1 while it starts slowly.",
        )
        .of(Unit::Percent),
    ),
    (
        "incarnation",
        Metric::counter(
            "pgweir_host_doubts_total",
            "How often its restart, or the loss of a connection to it, has made what was known void.",
        ),
    ),
];
