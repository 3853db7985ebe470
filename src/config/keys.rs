//! The table of keys: name, section, default, what it means, what a reload does with it.
//!
//! The table is written once, by the `settings!` blocks of [`super::process`] and
//! [`super::pool_settings`] (and by hand below for the keys of a database, a server and a user); the
//! typed structs, the reader, `pooler.toml.example`, `SHOW CONFIG`, the reload's verdict and the
//! suggestions for unknown keys are all made from it. Invariant: a default is TOML text that its own
//! type reads, so code and documentation cannot differ.

use std::path::Path;

use toml::de::DeValue;

use super::value::{Context, Value, Wrong};

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

/// A struct of settings that can be reached by key, as `settings!` makes them.
pub(crate) trait Settings {
    /// Sets one key; `None` if there is no such key here.
    fn set(
        &mut self,
        key: &str,
        value: &DeValue<'_>,
        context: &Context<'_>,
    ) -> Option<Result<(), Wrong>>;

    /// What `SHOW CONFIG` prints for one key; `None` if there is no such key here.
    fn show(&self, key: &str) -> Option<String>;

    /// Takes the value of one key from `other`.
    fn copy_from(&mut self, other: &Self, key: &str);
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
        "Several that are valid at once, to change one without downtime; servers get the first.",
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

/// The typed value of a default.
pub(crate) fn default_of<T: Value>(toml: &str) -> T {
    let context = Context {
        base_dir: Path::new(""),
        variable: &|_| None,
    };
    let value = DeValue::parse(toml).expect("defaults are TOML: tests read them all");
    T::read(value.get_ref(), &context).expect("defaults fit their type: tests read them all")
}

/// Defines one struct of settings: fields, defaults, and its part of the table of keys.
///
/// ```text
/// /// What it means, in one line.
/// field (as "key")? : Type = default, reload|restart, pgbouncer|ours (, scope)?;
/// ```
macro_rules! settings {
    (
        $(#[$about:meta])*
        pub struct $name:ident in $section:ident { $($groups:tt)+ }
        $(nested { $($(#[$nested_doc:meta])+ $nested:ident : $nested_type:ty,)+ })?
    ) => {
        settings!(@fields [$(#[$about])*] $name $section { $($groups)+ }
            { $($($(#[$nested_doc])+ $nested: $nested_type,)+)? });
    };

    (@fields [$(#[$about:meta])*] $name:ident $section:ident
        { $($group:literal { $(
            $(#[doc = $doc:literal])+
            $field:ident $(as $key:literal)? : $type:ty = $default:tt, $reload:ident, $origin:ident
            $(, $scope:ident)? ;
        )+ })+ }
        { $($(#[$nested_doc:meta])+ $nested:ident : $nested_type:ty,)* }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($( $(#[doc = $doc])+ pub $field: $type, )+)+
            $( $(#[$nested_doc])+ pub $nested: $nested_type, )*
        }

        impl $name {
            pub(crate) const KEYS: &'static [Key] = &[$($(Key {
                name: settings!(@key $field $($key)?),
                section: Section::$section,
                group: $group,
                doc: concat!($($doc),+).trim_ascii_start(),
                default: stringify!($default),
                reload: settings!(@reload $reload),
                scope: settings!(@scope $section $($scope)?),
                in_pgbouncer: settings!(@origin $origin),
            },)+)+];
        }

        impl Settings for $name {
            fn set(
                &mut self,
                key: &str,
                value: &DeValue<'_>,
                context: &Context<'_>,
            ) -> Option<Result<(), Wrong>> {
                match key {
                    $($( settings!(@key $field $($key)?) => {
                        Some(Value::read(value, context).map(|value| self.$field = value))
                    } )+)+
                    _ => {
                        $( if let Some(done) = self.$nested.set(key, value, context) {
                            return Some(done);
                        } )*
                        None
                    }
                }
            }

            fn show(&self, key: &str) -> Option<String> {
                match key {
                    $($( settings!(@key $field $($key)?) => Some(self.$field.show()), )+)+
                    _ => {
                        $( if let Some(shown) = self.$nested.show(key) {
                            return Some(shown);
                        } )*
                        None
                    }
                }
            }

            fn copy_from(&mut self, other: &Self, key: &str) {
                match key {
                    $($( settings!(@key $field $($key)?) => {
                        self.$field.clone_from(&other.$field);
                    } )+)+
                    _ => { $( self.$nested.copy_from(&other.$nested, key); )* }
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($( $field: default_of(stringify!($default)), )+)+
                    $( $nested: <$nested_type>::default(), )*
                }
            }
        }
    };

    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
    (@reload reload) => { Reload::Now };
    (@reload restart) => { Reload::Restart };
    (@origin pgbouncer) => { true };
    (@origin ours) => { false };
    (@scope Process) => { Scope::Process };
    (@scope Pool) => { Scope::Anywhere };
    (@scope Pool not_user) => { Scope::NotUser };
    (@scope Pool not_database) => { Scope::NotDatabase };
}

/// Defines the struct of values that a database or a user has of its own: the same fields, each
/// optional. Takes the groups of a `settings!` block.
macro_rules! overrides {
    (
        $(#[$about:meta])*
        pub struct $name:ident of $base:ident;
        $($group:literal { $(
            $(#[doc = $doc:literal])+
            $field:ident $(as $key:literal)? : $type:ty = $default:tt, $reload:ident, $origin:ident
            $(, $scope:ident)? ;
        )+ })+
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($( $(#[doc = $doc])+ pub $field: Option<$type>, )+)+ }

        impl $name {
            /// Sets one key; `None` if there is no such key.
            pub(crate) fn set(
                &mut self,
                key: &str,
                value: &DeValue<'_>,
                context: &Context<'_>,
            ) -> Option<Result<(), Wrong>> {
                match key {
                    $($( settings!(@key $field $($key)?) => {
                        Some(Value::read(value, context).map(|value| self.$field = Some(value)))
                    } )+)+
                    _ => None,
                }
            }

            /// Whether there is no override at all.
            pub fn is_empty(&self) -> bool {
                $($( self.$field.is_none() )&&+)&&+
            }

            /// `base` with these values in place of its own.
            pub fn over(&self, base: &$base) -> $base {
                $base { $($(
                    $field: self.$field.clone().unwrap_or_else(|| base.$field.clone()),
                )+)+ }
            }
        }
    };
}

pub(crate) use {overrides, settings};

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
