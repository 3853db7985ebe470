//! Configuration: `pooler.toml`, command-line URLs, and what a reload changes.
//!
//! The rest of the program sees [`Config`], an immutable value shared as `Arc<Config>`: every field is
//! typed and every contradiction was refused when it was made, so nothing downstream validates. It
//! knows no sockets, no clock and no other module. Files are read here and nowhere else while loading.
//!
//! Where to look: `process` and `pool_settings` are the tables of keys, `keys` what a key is,
//! `file` how sections are read, `check` the rules between settings.

mod check;
mod database;
mod diff;
mod error;
mod example;
mod file;
mod import_pgbouncer;
mod ini;
mod keys;
mod pool_settings;
mod process;
mod reader;
mod secret;
mod table;
mod types;
mod units;
mod url;
mod userlist;
mod value;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{
    check::TlsContents,
    file::{CONSOLE_NAMES, Draft, FALLBACK},
    table::Settings as _,
    value::Context,
};
pub use self::{
    database::{
        AuthOverrides, AuthQuery, Database, Host, LONGEST_NAME, MAX_SERVERS, Peer, Server, User,
    },
    diff::{Changes, DatabaseChange, SetError, SettingChange, UserChange},
    error::{ConfigError, Fault, Location, Problem, describe},
    import_pgbouncer::{Imported, import_pgbouncer},
    ini::IniError,
    keys::{Key, Reload, Scope, Section},
    pool_settings::{PoolOverrides, PoolSettings},
    process::{ClientTls, Process, ServerTls},
    secret::{PasswordForm, Secret},
    types::{
        AuthType, Consistency, ConsistencyScope, LoadBalance, OnLag, PoolMode, PrimaryReads, Role,
        RouteTo, SslMode, SslNegotiation, StatefulPolicy, TlsProtocols,
    },
    units::{LONGEST, parse_duration, parse_size, seconds},
    value::{FileMode, Percent},
};
pub use check::MAX_PEER_ID;

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[pgweir]`.
    pub process: Process,
    /// `[pool]`: what holds where neither database nor user say otherwise.
    pub defaults: Arc<PoolSettings>,
    /// The file this came from.
    pub source: Option<PathBuf>,
    /// What the user should know, one sentence each; to be logged once.
    pub warnings: Vec<String>,
    databases: BTreeMap<String, Arc<Database>>,
    users: BTreeMap<String, Arc<User>>,
    peers: BTreeMap<u16, Peer>,
    tls: TlsContents,
}

/// One row of `SHOW CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// PgBouncer's name, or ours where it has none.
    pub key: &'static str,
    /// As PgBouncer shows it: durations in seconds, sizes in bytes, booleans as 0 and 1.
    pub value: String,
    /// The value it has when the file says nothing.
    pub default: String,
    /// Whether `SET` and a reload can change it.
    pub changeable: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self::assemble(Draft::default(), TlsContents::default())
    }
}

impl Config {
    /// Reads a file, the environment for `${NAME}`, and the files it names.
    ///
    /// # Errors
    /// Every problem of the file with its line and column, or why it cannot be read.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|reason| ConfigError::Read {
            path: path.to_path_buf(),
            reason,
        })?;
        #[expect(
            clippy::disallowed_methods,
            reason = "this is where the environment comes in"
        )]
        let variable = |name: &str| std::env::var(name).ok();
        let base_dir = path.parent().unwrap_or_else(|| Path::new(""));
        file::read(
            &text,
            Some(path),
            Context {
                base_dir,
                variable: &variable,
            },
        )
    }

    /// Reads a text; `${NAME}` asks `env`, relative paths start at `base_dir`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        text: &str,
        base_dir: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        file::read(
            text,
            None,
            Context {
                base_dir,
                variable: env,
            },
        )
    }

    /// What `--primary`, `--replica` and `--listen` mean without a file.
    ///
    /// The servers are those of the URLs. The database of the URL is configured under its name, and
    /// every other database of the servers is reached through `"*"`. The URL's user is the one user of
    /// pgweir, may use the console, and must give the URL's password, which is also what the servers
    /// are given. A URL without a password lets everybody in, so it is served on loopback only.
    /// Without a user in the URL, clients keep their own user names.
    ///
    /// # Errors
    /// The argument that cannot be used, and why.
    pub fn from_urls(
        primary: &str,
        replicas: &[String],
        listen: Option<&str>,
    ) -> Result<Self, ConfigError> {
        url::configuration(primary, replicas, listen)
    }

    /// The database a client asks for: the one of that name, or `"*"` under that name. A name that no
    /// PostgreSQL database can have is nobody's, whatever `"*"` says.
    pub fn database(&self, name: &str) -> Option<Arc<Database>> {
        if name.is_empty() || name.len() > LONGEST_NAME || name == FALLBACK {
            return None;
        }
        if let Some(database) = self.databases.get(name) {
            return Some(Arc::clone(database));
        }
        if CONSOLE_NAMES.contains(&name) {
            return None;
        }
        self.fallback()
            .map(|fallback| Arc::new(fallback.named(name)))
    }

    /// `[databases."*"]`.
    pub fn fallback(&self) -> Option<&Arc<Database>> {
        self.databases.get(FALLBACK)
    }

    /// The databases with a name, by name.
    pub fn databases(&self) -> impl Iterator<Item = &Arc<Database>> {
        self.databases
            .values()
            .filter(|database| !database.is_fallback)
    }

    /// The user of that name, from `[users]` or `auth_file`.
    pub fn user(&self, name: &str) -> Option<Arc<User>> {
        self.users.get(name).cloned()
    }

    /// All known users, by name.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    /// The other processes that share our address, by id.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// The settings of `user`'s pool in `database`: the user's own, else the database's, else
    /// `[pool]`'s. A minimum that the combination brings above the size is cut to it.
    pub fn pool(&self, database: &Database, user: &str) -> Arc<PoolSettings> {
        match self.users.get(user) {
            Some(user) if !user.overrides.is_empty() => {
                let mut settings = user.overrides.over(&database.settings);
                settings.min_pool_size = settings.min_pool_size.min(settings.pool_size);
                Arc::new(settings)
            }
            _ => Arc::clone(&database.settings),
        }
    }

    /// How to look up a user of `database` that no file knows; `None` if nobody shall be asked.
    pub fn auth_query(&self, database: &Database) -> Option<AuthQuery> {
        let (own, general) = (&database.auth, &self.process);
        let dbname = own.dbname.as_ref().or(general.auth_dbname.as_ref());
        Some(AuthQuery {
            user: own.user.as_ref().or(general.auth_user.as_ref())?.clone(),
            query: own.query.as_ref().unwrap_or(&general.auth_query).clone(),
            dbname: dbname.unwrap_or(&database.name).clone(),
        })
    }

    /// Every setting of the process and of `[pool]`, sorted by key; holds no secret.
    pub fn settings(&self) -> Vec<Setting> {
        let (process, pool) = (Process::default(), PoolSettings::default());
        let mut settings: Vec<_> = keys::all()
            .filter(|key| matches!(key.section, Section::Process | Section::Pool))
            .filter_map(|key| {
                let value = self
                    .process
                    .show(key.name)
                    .or_else(|| self.defaults.show(key.name))?;
                let default = process.show(key.name).or_else(|| pool.show(key.name))?;
                let changeable = key.reload == Reload::Now;
                Some(Setting {
                    key: key.name,
                    value,
                    default,
                    changeable,
                })
            })
            .collect();
        let source = self
            .source
            .as_ref()
            .map_or_else(String::new, |path| path.display().to_string());
        let conffile = Setting {
            key: "conffile",
            value: source,
            default: String::new(),
            changeable: false,
        };
        settings.push(conffile);
        settings.sort_by_key(|setting| setting.key);
        settings
    }

    /// The table of keys.
    pub fn keys() -> impl Iterator<Item = &'static Key> {
        keys::all()
    }

    /// The text of `pooler.toml.example`: every key with its default.
    pub fn example() -> String {
        example::text()
    }

    pub(crate) fn assemble(draft: Draft, tls: TlsContents) -> Self {
        let defaults = Arc::new(draft.pool);
        let finished = |mut database: Database| {
            database.settings = if database.overrides.is_empty() {
                Arc::clone(&defaults)
            } else {
                Arc::new(database.overrides.over(&defaults))
            };
            (database.name.clone(), Arc::new(database))
        };
        let databases = draft.databases.into_values().map(finished).collect();
        let users = draft
            .users
            .into_iter()
            .map(|(name, user)| (name, Arc::new(user)))
            .collect();
        Self {
            process: draft.process,
            defaults,
            source: None,
            warnings: Vec::new(),
            databases,
            users,
            peers: draft.peers,
            tls,
        }
    }
}

#[cfg(test)]
mod tests;
