//! Databases, their servers, users and peers, as validated values.
//!
//! Knows neither TOML nor limits; [`super::file`] makes these. Invariants: a database has at least one
//! server that is or may become its primary, and no server twice; names are not empty.

use std::{fmt, path::PathBuf, sync::Arc};

use super::{
    pool_settings::{PoolOverrides, PoolSettings},
    secret::Secret,
    types::Role,
};

/// The longest name of a database or user in PostgreSQL (`NAMEDATALEN - 1`), in bytes.
pub const LONGEST_NAME: usize = 63;

/// The most servers a database may have: each routing decision looks at all of them.
pub const MAX_SERVERS: usize = 32;

/// One database as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The name clients ask for.
    pub name: String,
    /// The name on the servers, if it is another; see [`Database::server_dbname`].
    pub dbname: Option<String>,
    /// The servers, in the file's order.
    pub servers: Vec<Server>,
    /// Log in to the servers as this user, whoever the client is.
    pub user: Option<String>,
    /// The password of `user`.
    pub password: Option<Secret>,
    /// Where this database's unknown users are asked for, where it differs from `[pgweir]`.
    pub auth: AuthOverrides,
    /// SQL that every new server connection runs first.
    pub connect_query: Option<String>,
    /// Whether this came from `[databases."*"]`.
    pub is_fallback: bool,
    /// What this database sets of its own.
    pub overrides: PoolOverrides,
    /// `[pool]` with the overrides: the settings of any user without settings of its own.
    pub settings: Arc<PoolSettings>,
}

/// `auth_user`, `auth_query` and `auth_dbname` of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthOverrides {
    /// As whom to ask.
    pub user: Option<String>,
    /// What to ask.
    pub query: Option<String>,
    /// Which database to ask.
    pub dbname: Option<String>,
}

/// How to ask a database for the password of a user that no file knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthQuery {
    /// As whom to ask.
    pub user: String,
    /// What to ask: `$1` is the user's name.
    pub query: String,
    /// The database of this configuration to ask.
    pub dbname: String,
}

/// One PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Where.
    pub host: Host,
    /// Its port, which also names the socket in a Unix socket's directory.
    pub port: u16,
    /// What it is said to be.
    pub role: Role,
    /// Its share of the reads; 0 serves none.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<String>,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A host name or an IP address.
    Tcp(String),
    /// The directory of a Unix socket, or `@name` of Linux's abstract ones.
    Unix(PathBuf),
}

/// One user that the file (or `auth_file`) names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The passwords a client may give, any of them; servers are given the first. Empty: none is
    /// known here, and only `trust`, `cert` or an HBA rule lets the user in.
    pub passwords: Vec<Secret>,
    /// What this user sets of its own.
    pub overrides: PoolOverrides,
}

/// Another pgweir process that shares our address; cancel requests that are its are passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its `peer_id`.
    pub id: u16,
    /// Where it listens.
    pub host: Host,
    /// Its port.
    pub port: u16,
}

impl Database {
    /// The name to ask the servers for.
    pub fn server_dbname(&self) -> &str {
        self.dbname.as_deref().unwrap_or(&self.name)
    }

    /// The server that is the primary, as far as the configuration says.
    pub fn primary(&self) -> Option<&Server> {
        let is = |role| self.servers.iter().find(move |server| server.role == role);
        is(Role::Primary).or_else(|| is(Role::Auto))
    }

    /// All servers: the primary, as far as the configuration says, then the others in the file's order.
    pub fn hosts(&self) -> impl Iterator<Item = &Server> {
        let primary = self.primary();
        let others = self
            .servers
            .iter()
            .filter(move |server| Some(*server) != primary);
        primary.into_iter().chain(others)
    }

    /// The same database under another name: how `"*"` serves a name.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..self.clone()
        }
    }
}

impl Host {
    /// A host as settings write it: what begins with `/` or `@` is a Unix socket.
    pub fn new(text: &str) -> Self {
        if text.starts_with(['/', '@']) {
            Self::Unix(text.into())
        } else {
            Self::Tcp(text.to_owned())
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name) => out.write_str(name),
            Self::Unix(directory) => write!(out, "{}", directory.display()),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(out, "[{name}]:{}", self.port),
            host => write!(out, "{host}:{}", self.port),
        }
    }
}
