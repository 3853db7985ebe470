//! Settings of a pool: section `[pool]`, repeated in databases and users.
//!
//! A table, nothing else; see [`super::table`] for how to read it. A pool is what one user uses of one
//! database. `not_user` keys belong to a database's servers, `not_database` keys count over all
//! databases of a user.

use std::time::Duration;

use toml::de::DeValue;

use super::{
    keys::{Key, Reload, Scope, Section},
    table::{Settings, default_of, overrides, settings},
    types::{
        Consistency, ConsistencyScope, LoadBalance, OnLag, PoolMode, PrimaryReads, RouteTo,
        StatefulPolicy,
    },
    value::{Context, Percent, Value, Wrong},
};

/// Hands the same table to `settings!` and to `overrides!`.
macro_rules! pool_table {
    ($($groups:tt)+) => {
        settings! {
            /// The settings of one pool, fully resolved.
            pub struct PoolSettings in Pool { $($groups)+ }
        }

        overrides! {
            /// What a database or a user sets of its own.
            pub struct PoolOverrides of PoolSettings;
            $($groups)+
        }
    };
}

pool_table! {
    "Size" {
        /// When a server goes back to the pool: session, transaction or statement.
        pool_mode: PoolMode = "transaction", reload, pgbouncer;
        /// Server connections of a pool, per server of the database; also called pool_size.
        pool_size as "default_pool_size": usize = 20, reload, pgbouncer;
        /// Server connections that are kept open even when idle.
        min_pool_size: usize = 0, reload, pgbouncer;
        /// Further connections for a pool whose clients have waited for reserve_pool_timeout.
        reserve_pool_size: usize = 0, reload, pgbouncer;
        /// That time; 0 never uses the reserve.
        reserve_pool_timeout: Option<Duration> = "5s", reload, pgbouncer;
        /// Server connections of a database, over its users, per server; 0 for no limit.
        max_db_connections: Option<usize> = 0, reload, pgbouncer, not_user;
        /// Server connections of a user, over all databases; 0 for no limit.
        max_user_connections: Option<usize> = 0, reload, pgbouncer, not_database;
        /// Client connections of a database; 0 for no limit.
        max_db_client_connections: Option<usize> = 0, reload, pgbouncer, not_user;
        /// Client connections of a user; 0 for no limit.
        max_user_client_connections: Option<usize> = 0, reload, pgbouncer, not_database;
    }
    "Clients" {
        /// Time a query may wait for a server; 0 for ever.
        query_wait_timeout: Option<Duration> = "120s", reload, pgbouncer;
        /// Tell a client by a NOTICE that it is waiting, after this time; 0 never.
        query_wait_notify: Option<Duration> = "5s", reload, pgbouncer;
        /// Time a query may run; 0 for ever.
        query_timeout: Option<Duration> = 0, reload, pgbouncer;
        /// Time a client may be idle inside a transaction; 0 for ever.
        idle_transaction_timeout: Option<Duration> = 0, reload, pgbouncer;
        /// Time a transaction may take; 0 for ever.
        transaction_timeout: Option<Duration> = 0, reload, pgbouncer;
        /// Time a client may be idle outside a transaction; 0 for ever.
        client_idle_timeout: Option<Duration> = 0, reload, pgbouncer;
        /// Startup parameters to accept and ignore.
        ignore_startup_parameters: Vec<String> = [], reload, pgbouncer;
        /// Add the client's address to application_name.
        application_name_add_host: bool = false, reload, pgbouncer;
    }
    "Servers" {
        /// Time a server connection may take to be made and logged in.
        server_connect_timeout: Duration = "15s", reload, pgbouncer;
        /// Time after a failed connect or login before the next attempt.
        server_login_retry: Duration = "15s", reload, pgbouncer;
        /// Connections that may be in the making at the same time, per server.
        server_connect_concurrency: usize = 4, reload, ours, not_user;
        /// Time after which an idle connection is closed; 0 never.
        server_idle_timeout: Option<Duration> = "600s", reload, pgbouncer;
        /// Age at which a connection is replaced when it is next idle; 0 after each use.
        server_lifetime: Duration = "3600s", reload, pgbouncer;
        /// Part of server_lifetime by which connections differ, so that they do not all end at once.
        server_lifetime_jitter: Percent = "10%", reload, ours;
        /// Check a connection before use when it has been idle for longer than this; 0 always.
        server_check_delay: Duration = "30s", reload, pgbouncer;
        /// SQL of that check; ";" is the shortest, "" checks nothing.
        server_check_query: Option<String> = ";", reload, pgbouncer;
        /// SQL that cleans a connection when its client leaves in session mode; "" for none.
        server_reset_query: Option<String> = "DISCARD ALL", reload, pgbouncer;
        /// Run it in the other modes too, whenever a connection goes back to the pool.
        server_reset_query_always: bool = false, reload, pgbouncer;
        /// Time to clean up after a client that left in mid-transaction; then the connection is closed.
        server_recovery_timeout: Duration = "5s", reload, ours;
        /// Replace connections (RECONNECT, reload) at the end of the transaction, and end the clients that keep them.
        server_fast_close: bool = false, reload, pgbouncer;
        /// Use idle connections in turn, not the last used first.
        server_round_robin: bool = false, reload, pgbouncer;
    }
    "Prepared statements and session state (transaction and statement mode)" {
        /// Prepared statements kept on each server connection; the least recently used one goes first.
        max_prepared_statements: usize = 200, reload, pgbouncer;
        /// LISTEN: pin the server to the client, or refuse.
        on_listen: StatefulPolicy = "pin", reload, ours;
        /// Advisory locks of a session.
        on_advisory_lock: StatefulPolicy = "pin", reload, ours;
        /// Temporary tables.
        on_temp_table: StatefulPolicy = "pin", reload, ours;
        /// Cursors WITH HOLD.
        on_hold_cursor: StatefulPolicy = "pin", reload, ours;
    }
    "Routing" {
        /// Where statements go: auto (proved reads to replicas), primary or replica.
        route: RouteTo = "auto", reload, ours;
        /// How fresh reads are: eventual, session (own writes are seen), strong or primary.
        consistency: Consistency = "session", reload, ours;
        /// Whose writes a session must see: session, key (pgweir.key), user or database.
        consistency_scope: ConsistencyScope = "session", reload, ours;
        /// When no replica is fresh enough: primary, or wait for one.
        on_lag: OnLag = "primary", reload, ours;
        /// Whatever on_lag says, a read waits for a replica that keeps up, and so will soon be fresh enough; 0 for not at all.
        catch_up_wait: Duration = "10ms", reload, ours;
        /// Longest wait by on_lag = "wait"; then the primary serves.
        lag_wait_timeout: Duration = "1s", reload, ours;
        /// A replica further behind than this serves no reads; 0 for no limit.
        max_lag: Option<Duration> = "30s", reload, ours;
        /// The same in bytes of WAL; 0 for no limit.
        max_lag_bytes: Option<u64> = 0, reload, ours;
        /// Among replicas: round_robin, random, least_connections, weighted, client_hash or latency.
        load_balance: LoadBalance = "least_connections", reload, ours;
        /// Whether the primary serves reads: never, fallback (when no replica can) or always.
        primary_reads: PrimaryReads = "fallback", reload, ours;
        /// Read from the primary for this time after a write, where WAL positions cannot be had; 0 is off.
        pin_after_write: Option<Duration> = 0, reload, ours;
        /// Zone of this process: servers of the same zone are preferred; "" for none.
        zone: Option<String> = "", reload, ours;
        /// Send all to the primary and only count what routing would have done.
        shadow: bool = false, reload, ours;
        /// Run a read again elsewhere when its replica refused it, cancelled it or died before the first row.
        rerun_reads: bool = true, reload, ours;
        /// Functions that may run on a replica whatever the catalogue says: "name" or "schema.name".
        read_only_functions: Vec<String> = [], reload, ours;
        /// Functions that must run on the primary whatever the catalogue says.
        write_functions: Vec<String> = [], reload, ours;
    }
    "Health of servers" {
        /// Time between checks of a server's role, lag and health.
        health_check_interval: Duration = "5s", reload, ours, not_user;
        /// Time a check may take.
        health_check_timeout: Duration = "2s", reload, ours, not_user;
        /// Failures in a row after which a replica serves no reads.
        ejection_failures: usize = 3, reload, ours, not_user;
        /// Time it is left out, doubled each time up to tenfold.
        ejection_time: Duration = "10s", reload, ours, not_user;
        /// Time over which a replica that is back gets its full share again; 0 at once.
        slow_start: Option<Duration> = "10s", reload, ours, not_user;
        /// Time writes wait for a primary when there is none; 0 not at all.
        primary_wait_timeout: Option<Duration> = "10s", reload, ours;
        /// Time after which the catalogue of functions and relations is read again.
        catalog_refresh_interval: Duration = "60s", reload, ours, not_user;
    }
}
