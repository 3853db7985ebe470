//! The tables of SHOW.
//!
//! [`VIEWS`] is the one list of them: name, columns in wire order, and a function that makes the rows
//! from what the console sees. DATABASES, POOLS, STATS* and LISTS are frozen as in PgBouncer 1.25.2:
//! exporters read them and fail on a column that they do not know. What is new goes into a new view.

mod objects;
mod pins;
mod pools;
mod process;
mod routing;
mod sockets;
mod stats;

pub(super) use self::{objects::database_names, sockets::shown_id};
use super::{
    Console,
    table::{Column, Rows, Value, i, n, q, s},
};

/// One table of SHOW.
#[derive(Debug)]
pub(super) struct View {
    /// What SHOW calls it, in lower case.
    pub(super) name: &'static str,
    /// Its columns.
    pub(super) columns: &'static [Column],
    /// Makes its rows.
    pub(super) rows: fn(&Console) -> Rows,
}

/// The view of that name, in lower case.
pub(super) fn view(name: &str) -> Option<&'static View> {
    VIEWS.iter().find(|view| view.name == name)
}

/// What SHOW HELP says.
pub(super) const HELP: &str = "
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW PEERS|PEER_POOLS
\tSHOW SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE
\tSHOW DNS_HOSTS|DNS_ZONES
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSHOW PINS|REPLICAS|ROUTES
\tEXPLAIN ROUTE [FOR <db> [AS <user>]] <statement>
\tSET key = arg
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tKILL [<db>]
\tKILL_CLIENT <client_id>
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS
\tWAIT_CLOSE [<db>]";

/// Every table.
pub(super) const VIEWS: &[View] = &[
    View {
        name: "active_sockets",
        columns: SOCKETS,
        rows: sockets::active_sockets,
    },
    View {
        name: "clients",
        columns: CONNECTIONS,
        rows: sockets::clients,
    },
    View {
        name: "config",
        columns: &[s("key"), s("value"), s("default"), s("changeable")],
        rows: process::config,
    },
    View {
        name: "databases",
        columns: &[
            s("name"),
            s("host"),
            i("port"),
            s("database"),
            s("force_user"),
            i("pool_size"),
            i("min_pool_size"),
            i("reserve_pool_size"),
            i("server_lifetime"),
            s("pool_mode"),
            s("load_balance_hosts"),
            i("max_connections"),
            i("current_connections"),
            i("max_client_connections"),
            i("current_client_connections"),
            i("paused"),
            i("disabled"),
        ],
        rows: objects::databases,
    },
    View {
        name: "dns_hosts",
        columns: &[s("hostname"), q("ttl"), s("addrs")],
        rows: process::dns_hosts,
    },
    View {
        name: "dns_zones",
        columns: &[s("zonename"), q("serial"), i("count")],
        // Zone serials are for a resolver of one's own; ours is the system's.
        rows: |_| none(),
    },
    View {
        name: "lists",
        columns: &[s("list"), i("items")],
        rows: process::lists,
    },
    View {
        name: "mem",
        columns: &[s("name"), i("size"), i("used"), i("free"), i("memtotal")],
        rows: process::mem,
    },
    View {
        name: "peer_pools",
        columns: &[
            i("peer_id"),
            i("cl_active_cancel_req"),
            i("cl_waiting_cancel_req"),
            i("sv_active_cancel"),
            i("sv_login"),
        ],
        rows: objects::peer_pools,
    },
    View {
        name: "peers",
        columns: &[i("peer_id"), s("host"), i("port"), i("pool_size")],
        rows: objects::peers,
    },
    View {
        name: "pins",
        columns: &[
            i("client_id"),
            s("user"),
            s("database"),
            s("pin"),
            s("since"),
            q("for_ms"),
            s("reasons"),
        ],
        rows: pins::pins,
    },
    View {
        name: "pools",
        columns: &[
            s("database"),
            s("user"),
            i("cl_active"),
            i("cl_waiting"),
            i("cl_active_cancel_req"),
            i("cl_waiting_cancel_req"),
            i("sv_active"),
            i("sv_active_cancel"),
            i("sv_being_canceled"),
            i("sv_idle"),
            i("sv_used"),
            i("sv_tested"),
            i("sv_login"),
            i("maxwait"),
            i("maxwait_us"),
            s("pool_mode"),
            s("load_balance_hosts"),
        ],
        rows: pools::pools,
    },
    View {
        name: "replicas",
        columns: &[
            s("database"),
            s("host"),
            s("role"),
            s("state"),
            q("lag_bytes"),
            q("lag_us"),
            s("lsn"),
            q("timeline"),
            i("active"),
            q("served"),
            q("reads"),
            i("reads_percent"),
            q("latency_us"),
            q("weight"),
            i("share_percent"),
            s("zone"),
            q("incarnation"),
        ],
        rows: routing::replicas,
    },
    View {
        name: "routes",
        columns: &[s("database"), s("target"), s("reason"), q("count")],
        rows: routing::routes,
    },
    View {
        name: "servers",
        columns: CONNECTIONS,
        rows: sockets::servers,
    },
    View {
        name: "sockets",
        columns: SOCKETS,
        rows: sockets::sockets,
    },
    View {
        name: "state",
        columns: &[s("key"), s("value")],
        rows: process::state,
    },
    View {
        name: "stats",
        columns: STATS,
        rows: stats::stats,
    },
    View {
        name: "stats_averages",
        columns: STATS_AVERAGES,
        rows: stats::averages,
    },
    View {
        name: "stats_totals",
        columns: STATS_TOTALS,
        rows: stats::totals,
    },
    View {
        name: "totals",
        columns: &[s("name"), n("value")],
        rows: stats::sums,
    },
    View {
        name: "users",
        columns: &[
            s("name"),
            s("pool_size"),
            s("reserve_pool_size"),
            s("pool_mode"),
            i("max_user_connections"),
            i("current_connections"),
            i("max_user_client_connections"),
            i("current_client_connections"),
        ],
        rows: objects::users,
    },
    View {
        name: "version",
        columns: &[s("version")],
        rows: process::version,
    },
    // Settings of PostgreSQL that drivers ask for by habit.
    View {
        name: "client_encoding",
        columns: &[s("client_encoding")],
        rows: |_| one("UTF-8"),
    },
    View {
        name: "datestyle",
        columns: &[s("datestyle")],
        rows: |_| one("ISO"),
    },
    View {
        name: "default_transaction_isolation",
        columns: &[s("default_transaction_isolation")],
        rows: |_| one("read committed"),
    },
    View {
        name: "standard_conforming_strings",
        columns: &[s("standard_conforming_strings")],
        rows: |_| one("on"),
    },
    View {
        name: "timezone",
        columns: &[s("timezone")],
        rows: |_| one("GMT"),
    },
];

/// SHOW CLIENTS and SHOW SERVERS; SHOW SOCKETS goes on behind them.
const CONNECTIONS: &[Column] = SOCKETS.split_at(21).0;

const SOCKETS: &[Column] = &[
    s("type"),
    s("user"),
    s("database"),
    s("replication"),
    s("state"),
    s("addr"),
    i("port"),
    s("local_addr"),
    i("local_port"),
    s("connect_time"),
    s("request_time"),
    i("wait"),
    i("wait_us"),
    i("close_needed"),
    s("ptr"),
    s("link"),
    i("remote_pid"),
    s("tls"),
    s("application_name"),
    i("prepared_statements"),
    i("id"),
    i("recv_pos"),
    i("pkt_pos"),
    i("pkt_remain"),
    i("send_pos"),
    i("send_remain"),
    i("pkt_avail"),
    i("send_avail"),
];

const STATS: &[Column] = &[
    s("database"),
    n("total_server_assignment_count"),
    n("total_xact_count"),
    n("total_query_count"),
    n("total_received"),
    n("total_sent"),
    n("total_xact_time"),
    n("total_query_time"),
    n("total_wait_time"),
    n("total_client_parse_count"),
    n("total_server_parse_count"),
    n("total_bind_count"),
    n("avg_server_assignment_count"),
    n("avg_xact_count"),
    n("avg_query_count"),
    n("avg_recv"),
    n("avg_sent"),
    n("avg_xact_time"),
    n("avg_query_time"),
    n("avg_wait_time"),
    n("avg_client_parse_count"),
    n("avg_server_parse_count"),
    n("avg_bind_count"),
];

const STATS_TOTALS: &[Column] = &[
    s("database"),
    n("server_assignment_count"),
    n("xact_count"),
    n("query_count"),
    n("bytes_received"),
    n("bytes_sent"),
    n("xact_time"),
    n("query_time"),
    n("wait_time"),
    n("client_parse_count"),
    n("server_parse_count"),
    n("bind_count"),
];

/// The last three have `avg_` before their names in PgBouncer, and the others have not.
const STATS_AVERAGES: &[Column] = &[
    s("database"),
    n("server_assignment_count"),
    n("xact_count"),
    n("query_count"),
    n("bytes_received"),
    n("bytes_sent"),
    n("xact_time"),
    n("query_time"),
    n("wait_time"),
    n("avg_client_parse_count"),
    n("avg_server_parse_count"),
    n("avg_bind_count"),
];

fn none() -> Rows {
    Box::new(std::iter::empty())
}

fn one(value: impl Into<Value>) -> Rows {
    Box::new(std::iter::once(vec![value.into()]))
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
