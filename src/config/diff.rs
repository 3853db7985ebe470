//! What a reload or a `SET` changes.
//!
//! Knows what a change *needs* (a new connection, a restart), not how it is done. Invariants: a
//! configuration that replaces a running one keeps what only a restart can change, so it always says
//! what is true; no description holds a secret.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use toml::de::DeValue;

use super::{
    Config, PoolSettings, check,
    database::{Database, User},
    error::{Fault, nearest},
    file::{Draft, FALLBACK},
    keys::{self, Reload, Section},
    table::Settings as _,
    value::{Context, Wrong},
};

/// What differs between the running configuration and the one that replaces it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys of `[pgweir]` and `[pool]`.
    pub settings: Vec<SettingChange>,
    /// Databases by name; `"*"` is one of them.
    pub databases: BTreeMap<String, DatabaseChange>,
    /// Users by name.
    pub users: BTreeMap<String, UserChange>,
    /// Later client handshakes use other settings, keys or certificates.
    pub client_tls: bool,
    /// Server connections under TLS were made with other settings, keys or certificates.
    pub server_tls: bool,
}

/// One key with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingChange {
    /// The key.
    pub key: &'static str,
    /// The running value, as `SHOW CONFIG` prints it.
    pub from: String,
    /// The value of the file.
    pub to: String,
    /// Whether it holds now, or only after a restart.
    pub reload: Reload,
}

/// What became of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseChange {
    /// It is new.
    Added,
    /// It is gone: its clients and servers are to go too.
    Removed,
    /// It is there, with differences.
    Changed {
        /// Another name, user, password or `connect_query` on the servers: every server connection
        /// is to be replaced.
        login: bool,
        /// Other servers, roles, weights or zones: connections to servers that left are to be closed.
        servers: bool,
        /// Other limits or other rules of authentication; connections stay.
        settings: bool,
    },
}

/// What became of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserChange {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is there, with differences.
    Changed {
        /// Other passwords: for logins from now on.
        passwords: bool,
        /// Other limits.
        settings: bool,
    },
}

/// Why one setting cannot be changed at run time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// There is no such setting.
    #[error("unknown setting `{key}`{}", hint.as_ref().map_or_else(String::new, |near| format!("; did you mean `{near}`?")))]
    Unknown {
        /// As written.
        key: String,
        /// The nearest one.
        hint: Option<&'static str>,
    },
    /// Only a restart can change it.
    #[error("`{0}` can be changed by a restart only")]
    NeedsRestart(&'static str),
    /// The value cannot be had, or not beside the others.
    #[error("{0}")]
    Refused(String),
}

impl Changes {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether connections to this database were made with another name, user, password or
    /// `connect_query`.
    pub fn is_other_login(&self, database: &Database) -> bool {
        let name = if database.is_fallback {
            FALLBACK
        } else {
            &database.name
        };
        matches!(
            self.databases.get(name),
            Some(DatabaseChange::Changed { login: true, .. })
        )
    }

    /// The keys that wait for a restart.
    pub fn pending_restart(&self) -> impl Iterator<Item = &SettingChange> {
        self.settings
            .iter()
            .filter(|change| change.reload == Reload::Restart)
    }

    /// One line per difference, for the log and for `RELOAD`.
    pub fn describe(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.settings.iter().map(SettingChange::to_string).collect();
        for (name, change) in &self.databases {
            lines.push(format!("database {name}: {change}"));
        }
        for (name, change) in &self.users {
            lines.push(format!("user {name}: {change}"));
        }
        for (changed, leg) in [(self.client_tls, "client"), (self.server_tls, "server")] {
            if changed {
                lines.push(format!("TLS of the {leg} side changed"));
            }
        }
        lines
    }
}

impl std::fmt::Display for SettingChange {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{}: \"{}\" becomes \"{}\"",
            self.key, self.from, self.to
        )?;
        match self.reload {
            Reload::Now => Ok(()),
            Reload::Restart => out.write_str(" after a restart"),
        }
    }
}

impl std::fmt::Display for DatabaseChange {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Added => out.write_str("added"),
            Self::Removed => out.write_str("removed"),
            Self::Changed {
                login,
                servers,
                settings,
            } => listed(
                out,
                &[
                    (login, "login to its servers"),
                    (servers, "servers"),
                    (settings, "settings"),
                ],
            ),
        }
    }
}

impl std::fmt::Display for UserChange {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Added => out.write_str("added"),
            Self::Removed => out.write_str("removed"),
            Self::Changed {
                passwords,
                settings,
            } => listed(out, &[(passwords, "passwords"), (settings, "settings")]),
        }
    }
}

fn listed(out: &mut std::fmt::Formatter<'_>, parts: &[(bool, &str)]) -> std::fmt::Result {
    let parts: Vec<_> = parts
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, what)| *what)
        .collect();
    write!(out, "{} changed", parts.join(", "))
}

impl Config {
    /// Makes this newly loaded configuration the successor of `running`: what only a restart can
    /// change keeps its running value. Returns it with what changes.
    #[must_use]
    pub fn replacing(mut self, running: &Self) -> (Self, Changes) {
        let mut changes = Changes::default();
        for key in keys::all() {
            let (from, to) = match key.section {
                Section::Process => (running.process.show(key.name), self.process.show(key.name)),
                Section::Pool => (
                    running.defaults.show(key.name),
                    self.defaults.show(key.name),
                ),
                _ => continue,
            };
            let (Some(from), Some(to)) = (from, to) else {
                continue;
            };
            if from == to {
                continue;
            }
            if key.reload == Reload::Restart {
                self.process.copy_from(&running.process, key.name);
            }
            changes.settings.push(SettingChange {
                key: key.name,
                from,
                to,
                reload: key.reload,
            });
        }
        changes.databases = compared(
            &running.databases,
            &self.databases,
            [DatabaseChange::Added, DatabaseChange::Removed],
            database_change,
        );
        changes.users = compared(
            &running.users,
            &self.users,
            [UserChange::Added, UserChange::Removed],
            user_change,
        );
        changes.client_tls = self.process.client_tls != running.process.client_tls
            || self.tls.client != running.tls.client;
        changes.server_tls = self.process.server_tls != running.process.server_tls
            || self.tls.server != running.tls.server;
        (self, changes)
    }

    /// The same configuration with one setting of `[pgweir]` or `[pool]` changed, as `SET` does.
    ///
    /// # Errors
    /// Why not; the running configuration stays as it is.
    pub fn with_setting(&self, key: &str, value: &str) -> Result<Self, SetError> {
        let name = keys::canonical(key);
        let candidates =
            || keys::all().filter(|key| matches!(key.section, Section::Process | Section::Pool));
        let Some(known) = candidates().find(|known| known.name == name) else {
            let hint = nearest(key, candidates().map(|known| known.name));
            return Err(SetError::Unknown {
                key: key.to_owned(),
                hint,
            });
        };
        if known.reload == Reload::Restart {
            return Err(SetError::NeedsRestart(known.name));
        }
        let mut draft = self.draft();
        let value = DeValue::String(value.into());
        let base_dir = self
            .source
            .as_deref()
            .and_then(Path::parent)
            .unwrap_or_else(|| Path::new(""));
        let context = Context {
            base_dir,
            variable: &|_| None,
        };
        let set = draft
            .process
            .set(name, &value, &context)
            .or_else(|| draft.pool.set(name, &value, &context));
        if let Some(Err(wrong)) = set {
            return Err(SetError::Refused(refusal(known.name, wrong)));
        }
        let findings = check::check(&draft);
        let of_files = |fault: &Fault| matches!(fault, Fault::File { .. });
        let is_path = name.ends_with("_file");
        if let Some((_, fault)) = findings
            .faults
            .into_iter()
            .find(|(_, fault)| is_path || !of_files(fault))
        {
            return Err(SetError::Refused(fault.to_string()));
        }
        let mut changed = Self::assemble(draft, findings.tls);
        changed.source.clone_from(&self.source);
        Ok(changed)
    }

    fn draft(&self) -> Draft {
        let owned = |databases: &BTreeMap<String, Arc<Database>>| {
            databases
                .iter()
                .map(|(name, it)| (name.clone(), Database::clone(it)))
                .collect()
        };
        Draft {
            process: self.process.clone(),
            pool: PoolSettings::clone(&self.defaults),
            databases: owned(&self.databases),
            users: self
                .users
                .iter()
                .map(|(name, it)| (name.clone(), User::clone(it)))
                .collect(),
            peers: self.peers.clone(),
        }
    }
}

fn refusal(key: &str, wrong: Wrong) -> String {
    let key = key.to_owned();
    match wrong {
        Wrong::Value {
            found,
            allowed,
            hint,
        } => Fault::Value {
            key,
            found,
            allowed,
            hint,
        },
        Wrong::Environment(variable) => Fault::Environment { key, variable },
    }
    .to_string()
}

fn database_change(old: &Database, new: &Database) -> Option<DatabaseChange> {
    let login = |database: &Database| {
        let Database {
            dbname,
            user,
            password,
            connect_query,
            ..
        } = database;
        (
            dbname.clone(),
            user.clone(),
            password.clone(),
            connect_query.clone(),
        )
    };
    let login = login(old) != login(new);
    let servers = old.servers != new.servers;
    let settings = old.settings != new.settings || old.auth != new.auth;
    (login || servers || settings).then_some(DatabaseChange::Changed {
        login,
        servers,
        settings,
    })
}

fn user_change(old: &User, new: &User) -> Option<UserChange> {
    let passwords = old.passwords != new.passwords;
    let settings = old.overrides != new.overrides;
    (passwords || settings).then_some(UserChange::Changed {
        passwords,
        settings,
    })
}

fn compared<T, C: Copy>(
    old: &BTreeMap<String, Arc<T>>,
    new: &BTreeMap<String, Arc<T>>,
    [added, removed]: [C; 2],
    compare: impl Fn(&T, &T) -> Option<C>,
) -> BTreeMap<String, C> {
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let gone = gone.map(|name| (name.clone(), removed));
    let kept = new.iter().filter_map(|(name, new)| {
        let change = match old.get(name) {
            Some(old) => compare(old, new)?,
            None => added,
        };
        Some((name.clone(), change))
    });
    gone.chain(kept).collect()
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
