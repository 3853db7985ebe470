//! The columns of PgBouncer's tables under the names of prometheus-community's `pgbouncer_exporter`.
//!
//! A table, nothing else; which labels they have is in [`super::sources`].

use super::sources::{Metric, Unit};

pub(super) const LISTS: &[(&str, Metric)] = &[
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

pub(super) const CONFIG: &[(&str, Metric)] = &[
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

pub(super) const DATABASES: &[(&str, Metric)] = &[
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

pub(super) const STATS_TOTALS: &[(&str, Metric)] = &[
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

pub(super) const POOLS: &[(&str, Metric)] = &[
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
