//! The table of keys: name, section, default, what it means, what a reload does with it.
//!
//! The table is written once, by the `settings!` blocks of [`super::process`] and
//! [`super::pool_settings`] (and by hand below for the keys of a database, a server and a user); the
//! typed structs, the reader, `pooler.toml.example`, `SHOW CONFIG`, the reload's verdict and the
//! suggestions for unknown keys are all made from it. Invariant: a default is TOML text that its own
//! type reads, so code and documentation cannot differ.

/// One key of the configuration file.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file, which is PgBouncer's where PgBouncer has it.
    pub name: &'static str,
    /// Where it stands.
    pub section: Section,
    /// The heading under which the example lists it.
    pub group: &'static str,
    /// What it means, in one line.
    pub doc: &'static str,
    /// The default as TOML; for keys without one, an example.
    pub default: &'static str,
    /// What a reload does with a new value.
    pub reload: Reload,
    /// Where else a pool key may be repeated.
    pub scope: Scope,
    /// Whether PgBouncer has a key of this name.
    pub in_pgbouncer: bool,
}

/// The tables of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `[pgweir]`: the process.
    Process,
    /// `[pool]`: defaults of every pool.
    Pool,
    /// `[databases.NAME]`.
    Database,
    /// An entry of a database's `servers`.
    Server,
    /// `[users.NAME]`.
    User,
    /// `[peers.ID]`.
    Peer,
}

/// What a reload does with a new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It holds from then on.
    Now,
    /// It waits for a restart.
    Restart,
}

/// Where a key of `[pool]` may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Not at all.
    Process,
    /// In databases and in users.
    Anywhere,
    /// In databases: it belongs to their servers.
    NotUser,
    /// In users: it counts over all databases.
    NotDatabase,
}

impl Section {
    /// The table's name as in the file.
    pub fn table(self) -> &'static str {
        match self {
            Self::Process => "[pgweir]",
            Self::Pool => "[pool]",
            Self::Database => "[databases.NAME]",
            Self::Server => "an entry of `servers`",
            Self::User => "[users.NAME]",
            Self::Peer => "[peers.ID]",
        }
    }
}

impl Key {
    /// Whether the key may stand in `section`, be it its own or a repetition.
    pub fn allowed_in(&self, section: Section) -> bool {
        self.section == section
            || match section {
                Section::Database => matches!(self.scope, Scope::Anywhere | Scope::NotUser),
                Section::User => matches!(self.scope, Scope::Anywhere | Scope::NotDatabase),
                _ => false,
            }
    }
}

/// A second name of a key: PgBouncer calls the pool size `pool_size` in a database, and
/// `default_pool_size` in general.
pub(crate) fn canonical(name: &str) -> &str {
    match name {
        "pool_size" => "default_pool_size",
        name => name,
    }
}

/// Every key there is.
pub(crate) fn all() -> impl Iterator<Item = &'static Key> {
    super::process::Process::KEYS
        .iter()
        .chain(super::process::ClientTls::KEYS)
        .chain(super::process::ServerTls::KEYS)
        .chain(super::pool_settings::PoolSettings::KEYS)
        .chain(OF_DATABASE)
        .chain(OF_SERVER)
        .chain(OF_USER)
        .chain(OF_PEER)
}

/// Every key that may stand in `section`.
pub(crate) fn allowed_in(section: Section) -> impl Iterator<Item = &'static Key> {
    all().filter(move |key| key.allowed_in(section))
}

const fn named(
    section: Section,
    name: &'static str,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        name,
        section,
        group: "",
        doc,
        default,
        reload: Reload::Now,
        scope: Scope::Process,
        in_pgbouncer: false,
    }
}

const OF_DATABASE: &[Key] = &[
    named(
        Section::Database,
        "servers",
        r#"[{ host = "10.0.0.1", port = 5432, role = "primary" }]"#,
        "The PostgreSQL servers of this database: one primary and its replicas, or all `auto`.",
    ),
    named(
        Section::Database,
        "dbname",
        r#""app_production""#,
        "Its name on the servers, if another.",
    ),
    named(
        Section::Database,
        "user",
        r#""app""#,
        "Log in to the servers as this user, whoever the client is.",
    ),
    named(
        Section::Database,
        "password",
        r#""${APP_PASSWORD}""#,
        "The password of `user`.",
    ),
    named(
        Section::Database,
        "password_file",
        r#""app.password""#,
        "A file with the password of `user`.",
    ),
    named(
        Section::Database,
        "auth_user",
        r#""pgweir_auth""#,
        "Ask this database for unknown users as this user; else `auth_user` of [pgweir].",
    ),
    named(
        Section::Database,
        "auth_query",
        r#""SELECT * FROM pgweir.lookup($1)""#,
        "The query for it; else `auth_query` of [pgweir].",
    ),
    named(
        Section::Database,
        "auth_dbname",
        r#""postgres""#,
        "The database to ask; else `auth_dbname` of [pgweir], else this one.",
    ),
    named(
        Section::Database,
        "connect_query",
        r#""SET jit = off""#,
        "SQL that every new server connection runs first.",
    ),
];

const OF_SERVER: &[Key] = &[
    named(
        Section::Server,
        "host",
        r#""10.0.0.1""#,
        "A name, an address, or the directory of a Unix socket (it begins with /).",
    ),
    named(Section::Server, "port", "5432", "Its port."),
    named(
        Section::Server,
        "role",
        r#""auto""#,
        "primary, replica, or auto: as observed.",
    ),
    named(
        Section::Server,
        "weight",
        "1",
        "Its share of the reads, for load_balance = \"weighted\".",
    ),
    named(
        Section::Server,
        "zone",
        r#""""#,
        "Where it stands; compared with `zone` of the pool.",
    ),
];

const OF_USER: &[Key] = &[
    named(
        Section::User,
        "password",
        r#""${ALICE_PASSWORD}""#,
        "Plain, \"md5…\" or \"SCRAM-SHA-256$…\" as in pg_authid.",
    ),
    named(
        Section::User,
        "password_file",
        r#""alice.password""#,
        "A file with it.",
    ),
    named(
        Section::User,
        "passwords",
        r#"["new", "old"]"#,
        "Several that are valid at once, to change one without a gap; servers get the first.",
    ),
];

const OF_PEER: &[Key] = &[
    named(
        Section::Peer,
        "host",
        r#""10.0.1.2""#,
        "Where that process listens; / for a socket directory.",
    ),
    named(Section::Peer, "port", "6432", "Its port."),
];

/// PgBouncer's keys that have no equivalent here, and why: for its importer and for the hints of
/// unknown keys.
pub(crate) const NO_EQUIVALENT: &[(&str, &str)] = &[
    ("auth_ldap_options", "LDAP is not supported"),
    (
        "client_tls13_ciphers",
        "cipher suites are rustls's, all of them strong",
    ),
    (
        "client_tls_ciphers",
        "cipher suites are rustls's, all of them strong",
    ),
    (
        "client_tls_dheparams",
        "there are no finite-field Diffie-Hellman suites",
    ),
    ("client_tls_ecdhcurve", "curves are rustls's"),
    ("disable_pqexec", "simple queries cannot be switched off"),
    (
        "dns_zone_check_period",
        "names are resolved again every dns_max_ttl",
    ),
    (
        "job_name",
        "logs go to stderr; what collects them names the service",
    ),
    (
        "logfile",
        "logs go to stderr; let systemd or the container collect them",
    ),
    (
        "pidfile",
        "pgweir stays in the foreground; what starts it knows its process",
    ),
    ("pkt_buf", "buffers are sized by themselves"),
    ("resolv_conf", "names are resolved by the system"),
    ("sbuf_loopcnt", "fairness needs no setting"),
    (
        "server_tls13_ciphers",
        "cipher suites are rustls's, all of them strong",
    ),
    (
        "server_tls_ciphers",
        "cipher suites are rustls's, all of them strong",
    ),
    (
        "service_name",
        "logs go to stderr; what collects them names the service",
    ),
    ("stats_users_prefix", "write the users into stats_users"),
    (
        "suspend_timeout",
        "there is no SUSPEND; PAUSE holds clients, and so_reuseport lets a new process take over",
    ),
    (
        "syslog",
        "logs go to stderr; let systemd or the container collect them",
    ),
    (
        "syslog_facility",
        "logs go to stderr; let systemd or the container collect them",
    ),
    (
        "syslog_ident",
        "logs go to stderr; let systemd or the container collect them",
    ),
    (
        "tcp_defer_accept",
        "a client that connects and says nothing costs no buffer",
    ),
    ("tcp_socket_buffer", "the system sizes socket buffers"),
    ("track_extra_parameters", "every parameter is tracked"),
    ("user", "start pgweir as the user it shall be"),
    ("verbose", "set log_level = \"debug\""),
];
