//! Which tables of SHOW are metrics, and what these are called.
//!
//! A table, nothing else. Names that begin with `pgbouncer_` are those of prometheus-community's
//! `pgbouncer_exporter` (`collector.go`, version 0.12), with its labels, so that its dashboards and alerts
//! work as they are; the others are ours.

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
    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Counter,
            unit: Unit::One,
            help,
        }
    }

    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Gauge,
            unit: Unit::One,
            help,
        }
    }

    const fn of(self, unit: Unit) -> Self {
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

const LISTS: &[(&str, Metric)] = &[
    (
        "databases",
        Metric::gauge("pgbouncer_databases", "Databases, with the console."),
    ),
    (
        "users",
        Metric::gauge("pgbouncer_users", "Users that the configuration knows."),
    ),
    (
        "pools",
        Metric::gauge("pgbouncer_pools", "Pools: pairs of database and user."),
    ),
    (
        "free_clients",
        Metric::gauge("pgbouncer_free_clients", "Always 0."),
    ),
    (
        "used_clients",
        Metric::gauge("pgbouncer_used_clients", "Client connections."),
    ),
    (
        "login_clients",
        Metric::gauge(
            "pgbouncer_login_clients",
            "Client connections that have not logged in yet.",
        ),
    ),
    (
        "free_servers",
        Metric::gauge("pgbouncer_free_servers", "Idle server connections."),
    ),
    (
        "used_servers",
        Metric::gauge("pgbouncer_used_servers", "Other server connections."),
    ),
    (
        "dns_names",
        Metric::gauge(
            "pgbouncer_cached_dns_names",
            "Host names that were looked up.",
        ),
    ),
    (
        "dns_zones",
        Metric::gauge("pgbouncer_cached_dns_zones", "Always 0."),
    ),
    (
        "dns_queries",
        Metric::gauge("pgbouncer_in_flight_dns_queries", "Always 0."),
    ),
];

const CONFIG: &[(&str, Metric)] = &[
    (
        "max_client_conn",
        Metric::gauge(
            "pgbouncer_config_max_client_connections",
            "The setting max_client_conn.",
        ),
    ),
    (
        "max_user_connections",
        Metric::gauge(
            "pgbouncer_config_max_user_connections",
            "The setting max_user_connections; 0 for no limit.",
        ),
    ),
];

const DATABASES: &[(&str, Metric)] = &[
    (
        "pool_size",
        Metric::gauge(
            "pgbouncer_databases_pool_size",
            "Most server connections of a pool, to each server.",
        ),
    ),
    (
        "reserve_pool_size",
        Metric::gauge(
            "pgbouncer_databases_reserve_pool",
            "Server connections beyond them, while a client has waited long.",
        ),
    ),
    (
        "max_connections",
        Metric::gauge(
            "pgbouncer_databases_max_connections",
            "Most connections to each server of this database; 0 for no limit.",
        ),
    ),
    (
        "current_connections",
        Metric::gauge(
            "pgbouncer_databases_current_connections",
            "Server connections of this database.",
        ),
    ),
    (
        "paused",
        Metric::gauge("pgbouncer_databases_paused", "1 if it is paused."),
    ),
    (
        "disabled",
        Metric::gauge(
            "pgbouncer_databases_disabled",
            "1 if it lets no new clients in.",
        ),
    ),
];

const STATS_TOTALS: &[(&str, Metric)] = &[
    (
        "server_assignment_count",
        Metric::counter(
            "pgbouncer_stats_totals_server_assignments_total",
            "How often a server connection was given to a client.",
        ),
    ),
    (
        "xact_count",
        Metric::counter(
            "pgbouncer_stats_totals_sql_transactions_pooled_total",
            "Transactions.",
        ),
    ),
    (
        "query_count",
        Metric::counter("pgbouncer_stats_totals_queries_pooled_total", "Queries."),
    ),
    (
        "bytes_received",
        Metric::counter(
            "pgbouncer_stats_totals_received_bytes_total",
            "Received from clients.",
        ),
    ),
    (
        "bytes_sent",
        Metric::counter(
            "pgbouncer_stats_totals_sent_bytes_total",
            "Sent to clients.",
        ),
    ),
    (
        "xact_time",
        Metric::counter(
            "pgbouncer_stats_totals_server_in_transaction_seconds_total",
            "Time that clients held a server connection.",
        )
        .of(Unit::Microseconds),
    ),
    (
        "query_time",
        Metric::counter(
            "pgbouncer_stats_totals_queries_duration_seconds_total",
            "Time that servers worked on queries.",
        )
        .of(Unit::Microseconds),
    ),
    (
        "wait_time",
        Metric::counter(
            "pgbouncer_stats_totals_client_wait_seconds_total",
            "Time that clients waited for a server connection.",
        )
        .of(Unit::Microseconds),
    ),
    (
        "client_parse_count",
        Metric::counter(
            "pgbouncer_stats_totals_client_parses_total",
            "Named prepared statements that clients made.",
        ),
    ),
    (
        "server_parse_count",
        Metric::counter(
            "pgbouncer_stats_totals_server_parses_total",
            "Named prepared statements that were made on servers.",
        ),
    ),
    (
        "bind_count",
        Metric::counter(
            "pgbouncer_stats_totals_binds_total",
            "Named prepared statements that were bound.",
        ),
    ),
];

const POOLS: &[(&str, Metric)] = &[
    (
        "cl_active",
        Metric::gauge(
            "pgbouncer_pools_client_active_connections",
            "Clients that have a server connection, or want none.",
        ),
    ),
    (
        "cl_active_cancel_req",
        Metric::gauge(
            "pgbouncer_pools_client_active_cancel_connections",
            "Always 0.",
        ),
    ),
    (
        "cl_waiting",
        Metric::gauge(
            "pgbouncer_pools_client_waiting_connections",
            "Clients that wait for a server connection.",
        ),
    ),
    (
        "cl_waiting_cancel_req",
        Metric::gauge(
            "pgbouncer_pools_client_waiting_cancel_connections",
            "Always 0.",
        ),
    ),
    (
        "sv_active",
        Metric::gauge(
            "pgbouncer_pools_server_active_connections",
            "Server connections that a client has.",
        ),
    ),
    (
        "sv_active_cancel",
        Metric::gauge(
            "pgbouncer_pools_server_active_cancel_connections",
            "Always 0.",
        ),
    ),
    (
        "sv_being_canceled",
        Metric::gauge(
            "pgbouncer_pools_server_being_canceled_connections",
            "Server connections that wait for the end of a cancel request.",
        ),
    ),
    (
        "sv_idle",
        Metric::gauge(
            "pgbouncer_pools_server_idle_connections",
            "Server connections nobody has.",
        ),
    ),
    (
        "sv_used",
        Metric::gauge("pgbouncer_pools_server_used_connections", "Always 0."),
    ),
    (
        "sv_tested",
        Metric::gauge(
            "pgbouncer_pools_server_testing_connections",
            "Server connections that are checked or reset.",
        ),
    ),
    (
        "sv_login",
        Metric::gauge(
            "pgbouncer_pools_server_login_connections",
            "Server connections in the making.",
        ),
    ),
    (
        "maxwait",
        Metric::gauge(
            "pgbouncer_pools_client_maxwait_seconds",
            "How long the client waits that waits longest.",
        ),
    ),
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
            "Units of work that clients have on it now.",
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
