//! Settings of the process: section `[pgweir]`.
//!
//! A table, nothing else; see [`super::table`] for how to read it. What PgBouncer has keeps its name.
//! Defaults that differ from PgBouncer's: `listen_addr`, `max_client_conn`, `auth_type`,
//! `listen_backlog` and the TCP keepalive, and there is no Unix socket unless one is asked for.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use toml::de::DeValue;

use super::{
    keys::{Key, Reload, Scope, Section},
    table::{Settings, default_of, settings},
    types::{AuthType, SslMode, SslNegotiation, TlsProtocols},
    value::{Context, FileMode, Value, Wrong},
};

settings! {
    /// Settings of the whole process.
    pub struct Process in Process {
        "Listening" {
            /// TCP addresses: one, a list, "*" for all, an empty list for none.
            listen_addr: Vec<String> = "127.0.0.1", restart, pgbouncer;
            /// TCP port; 0 lets the system choose one.
            listen_port: u16 = 6432, restart, pgbouncer;
            /// Directory of the Unix socket; "" for none. Not /tmp: others could put a socket there first.
            unix_socket_dir: Option<PathBuf> = "", restart, pgbouncer;
            /// Permissions of the Unix socket.
            unix_socket_mode: FileMode = "0777", restart, pgbouncer;
            /// Group of the Unix socket; "" for that of the process.
            unix_socket_group: Option<String> = "", restart, pgbouncer;
            /// Connections that the kernel may hold before they are accepted.
            listen_backlog: u32 = 1024, restart, pgbouncer;
            /// Let several processes listen on the same port, for restarts without a gap.
            so_reuseport: bool = false, restart, pgbouncer;
            /// Threads that serve clients; 0 for the number that measured best.
            workers: usize = 0, restart, ours;
            /// Number of this process among `[peers]`, for cancel requests; 0 for none.
            peer_id: u16 = 0, restart, pgbouncer;
            /// Address of /metrics, /livez and /readyz, such as "127.0.0.1:9127"; "" for none.
            metrics_listen: Option<SocketAddr> = "", restart, ours;
        }
        "Clients" {
            /// Client connections at the same time.
            max_client_conn: usize = 10000, reload, pgbouncer;
            /// Time a client has to log in.
            client_login_timeout: Option<Duration> = "60s", reload, pgbouncer;
            /// Longest message, of clients and of servers.
            max_packet_size: u64 = 2147483647, reload, pgbouncer;
        }
        "Authentication" {
            /// How clients prove who they are: trust, plain, md5, scram-sha-256, cert or hba.
            auth_type: AuthType = "scram-sha-256", reload, pgbouncer;
            /// File of users and passwords in PgBouncer's userlist.txt form; `[users]` come first.
            auth_file: Option<PathBuf> = "", reload, pgbouncer;
            /// File of rules in pg_hba.conf form, for auth_type = "hba".
            auth_hba_file: Option<PathBuf> = "", reload, pgbouncer;
            /// File of user name maps in pg_ident.conf form.
            auth_ident_file: Option<PathBuf> = "", reload, pgbouncer;
            /// Ask the database for users that are in no file, as this user; "" asks nobody.
            auth_user: Option<String> = "", reload, pgbouncer;
            /// The query for it, with search_path = pg_catalog: user name in, name and password (NULL if expired) out.
            auth_query: String = "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin", reload, pgbouncer;
            /// The database to ask; "" for the one the client wants.
            auth_dbname: Option<String> = "", reload, pgbouncer;
            /// Time after which the answer of auth_query is asked for again; 0 asks every time.
            auth_query_cache_ttl: Option<Duration> = "30s", reload, ours;
            /// The same for "no such user".
            auth_query_negative_ttl: Option<Duration> = "5s", reload, ours;
            /// Time auth_query may take.
            auth_query_timeout: Duration = "10s", reload, ours;
            /// As whom servers are watched, where a database has several; "" as the users who come. Its password is in `[users]`.
            monitor_user: Option<String> = "", reload, ours;
            /// Iterations of SCRAM secrets made here from plain passwords.
            scram_iterations: u32 = 4096, reload, pgbouncer;
            /// Users who may do everything in the console.
            admin_users: Vec<String> = [], reload, pgbouncer;
            /// Users who may run SHOW in the console.
            stats_users: Vec<String> = [], reload, pgbouncer;
        }
        "Cancel and shutdown" {
            /// Time a cancel request may wait for a connection to its server.
            cancel_wait_timeout: Option<Duration> = "10s", reload, pgbouncer;
            /// Time a graceful shutdown waits for transactions to end; 0 waits for ever.
            shutdown_timeout: Option<Duration> = "60s", reload, ours;
            /// Time it then waits for the queries it has cancelled.
            shutdown_cancel_timeout: Duration = "5s", reload, ours;
            /// Time after which a pool that "*" made and nobody uses is forgotten.
            autodb_idle_timeout: Option<Duration> = "3600s", reload, pgbouncer;
        }
        "TCP and names" {
            /// Send keepalives to clients and servers.
            tcp_keepalive: bool = true, reload, pgbouncer;
            /// Keepalives without an answer before the connection is given up; 0 for the system's.
            tcp_keepcnt: u32 = 4, reload, pgbouncer;
            /// Silence before the first keepalive; 0 for the system's.
            tcp_keepidle: Option<Duration> = "120s", reload, pgbouncer;
            /// Time between keepalives; 0 for the system's.
            tcp_keepintvl: Option<Duration> = "30s", reload, pgbouncer;
            /// Time sent data may stay unacknowledged; also ends clients that stop reading. Write the unit.
            tcp_user_timeout: Option<Duration> = 0, reload, pgbouncer;
            /// Longest time the addresses of a host name are kept.
            dns_max_ttl: Duration = "15s", reload, pgbouncer;
            /// Time "no such host" is kept.
            dns_nxdomain_ttl: Duration = "15s", reload, pgbouncer;
        }
        "Logging and statistics" {
            /// error, warn, info, debug or trace, also per module: "info,pgweir::pool=debug".
            log_level: String = "info", restart, ours;
            /// Log each login.
            log_connections: bool = true, reload, pgbouncer;
            /// Log each disconnect with its reason.
            log_disconnections: bool = true, reload, pgbouncer;
            /// Log errors that pgweir sends to clients.
            log_pooler_errors: bool = true, reload, pgbouncer;
            /// Log a line of statistics every stats_period.
            log_stats: bool = true, reload, pgbouncer;
            /// Time over which averages are taken.
            stats_period: Duration = "60s", reload, pgbouncer;
        }
    }
    nested {
        /// TLS towards clients.
        client_tls: ClientTls,
        /// TLS towards servers.
        server_tls: ServerTls,
    }
}

settings! {
    /// TLS towards clients.
    pub struct ClientTls in Process {
        "TLS to clients" {
            /// disable, allow and prefer (clients choose), require, verify-ca, verify-full (client certificates).
            sslmode as "client_tls_sslmode": SslMode = "disable", reload, pgbouncer;
            /// Private key, PEM.
            key_file as "client_tls_key_file": Option<PathBuf> = "", reload, pgbouncer;
            /// Certificate chain, PEM.
            cert_file as "client_tls_cert_file": Option<PathBuf> = "", reload, pgbouncer;
            /// Authorities of client certificates, PEM.
            ca_file as "client_tls_ca_file": Option<PathBuf> = "", reload, pgbouncer;
            /// TLS versions: "secure" (1.2 and 1.3), "tlsv1.2", "tlsv1.3".
            protocols as "client_tls_protocols": TlsProtocols = "secure", reload, pgbouncer;
        }
    }
}

settings! {
    /// TLS towards servers.
    pub struct ServerTls in Process {
        "TLS to servers" {
            /// disable, allow, prefer, require, verify-ca or verify-full; Unix sockets never use TLS.
            sslmode as "server_tls_sslmode": SslMode = "prefer", reload, pgbouncer;
            /// How TLS begins: "postgres" asks first; "direct" saves a round trip (PostgreSQL 17 and newer).
            negotiation as "server_tls_negotiation": SslNegotiation = "postgres", reload, ours;
            /// Private key of our client certificate, PEM.
            key_file as "server_tls_key_file": Option<PathBuf> = "", reload, pgbouncer;
            /// Our client certificate, PEM.
            cert_file as "server_tls_cert_file": Option<PathBuf> = "", reload, pgbouncer;
            /// Authorities of server certificates, PEM; "" for the public ones.
            ca_file as "server_tls_ca_file": Option<PathBuf> = "", reload, pgbouncer;
            /// TLS versions: "secure" (1.2 and 1.3), "tlsv1.2", "tlsv1.3".
            protocols as "server_tls_protocols": TlsProtocols = "secure", reload, pgbouncer;
        }
    }
}
