//! From `pgbouncer.ini` and `userlist.txt` to `pooler.toml`.
//!
//! Knows both languages; [`super::ini`] knows the syntax of the first. Invariants: where our default
//! differs from PgBouncer's in what clients notice, PgBouncer's is written out, so that the result
//! behaves as before; whatever has no equivalent is named in a warning; no warning holds a secret.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use super::{
    Config,
    file::{CONSOLE_NAMES, FALLBACK},
    ini::{self, Entry, IniError},
    keys::{self, Scope, Section},
    types::{AuthType, PoolMode},
    userlist,
};

/// The result of an import.
#[derive(Debug)]
pub struct Imported {
    /// The text of a `pooler.toml`.
    pub toml: String,
    /// What has no equivalent, and what to look at; one sentence each.
    pub warnings: Vec<String>,
}

/// PgBouncer's defaults that clients would miss under ours.
const DEFAULTS: [(&str, &str); 5] = [
    ("listen_addr", ""),
    ("unix_socket_dir", "/tmp"),
    ("auth_type", "md5"),
    ("max_client_conn", "100"),
    ("pool_mode", "session"),
];

/// Keys and values, as TOML, in the order they are written.
type Table = Vec<(String, String)>;

#[derive(Default)]
struct Import {
    directory: PathBuf,
    process: Table,
    pool: Table,
    databases: BTreeMap<String, Table>,
    users: BTreeMap<String, Table>,
    peers: BTreeMap<String, Table>,
    /// PgBouncer reaches servers without a host through this directory.
    socket_directory: String,
    warnings: Vec<String>,
}

/// Reads a `pgbouncer.ini`, what it includes, and its `auth_file`.
///
/// # Errors
/// The file that cannot be read, or the line that is no ini file's.
pub fn import_pgbouncer(path: &Path) -> Result<Imported, IniError> {
    let entries = ini::read(path)?;
    let mut import = Import {
        directory: path.parent().unwrap_or_else(|| Path::new("")).to_path_buf(),
        ..Import::default()
    };
    let last = |name: &str| {
        let mut of_pgbouncer = entries.iter().filter(|entry| entry.section == "pgbouncer");
        of_pgbouncer
            .rfind(|entry| entry.key == name)
            .map(|entry| entry.value.clone())
    };
    import.socket_directory = last("unix_socket_dir")
        .filter(|dir| !dir.is_empty())
        .unwrap_or_else(|| "/tmp".to_owned());
    for (name, value) in DEFAULTS {
        if last(name).is_none() {
            import.general(name, value, "");
        }
    }
    for entry in &entries {
        import.entry(entry);
    }
    let toml = import.toml(path);
    match Config::parse(&toml, &import.directory, &|_| None) {
        Ok(config) => import.warnings.extend(config.warnings),
        Err(error) => {
            let lines = error.to_string();
            let told = lines
                .lines()
                .map(|line| format!("the result needs your hand: {line}"));
            import.warnings.extend(told);
        }
    }
    Ok(Imported {
        toml,
        warnings: import.warnings,
    })
}

impl Import {
    fn entry(&mut self, entry: &Entry) {
        let Entry {
            section,
            key,
            value,
            at,
        } = entry;
        if section == "pgbouncer" {
            return self.general(&key.to_lowercase(), value, at);
        }
        let Some(pairs) = ini::connection_string(value) else {
            return self.warn(at, key, "is no list of name=value pairs; left out");
        };
        match section.as_str() {
            "databases" => self.database(key, pairs, at),
            "users" => self.user(key, pairs, at),
            "peers" => self.peer(key, pairs, at),
            _ => self.warn(at, section, "is a section without an equivalent"),
        }
    }

    fn warn(&mut self, at: &str, what: &str, why: &str) {
        let space = if at.is_empty() { "" } else { ": " };
        self.warnings.push(format!("{at}{space}{what} {why}"));
    }

    /// One key of `[pgbouncer]`.
    fn general(&mut self, name: &str, value: &str, at: &str) {
        if let Some((_, why)) = keys::NO_EQUIVALENT.iter().find(|(known, _)| *known == name) {
            return self.warn(at, name, &format!("has no equivalent: {why}"));
        }
        let known = keys::all().find(|key| {
            key.name == name && matches!(key.section, Section::Process | Section::Pool)
        });
        let Some(key) = known.filter(|key| key.in_pgbouncer) else {
            return self.warn(at, name, "is no setting that pgweir knows; left out");
        };
        let toml = match name {
            "max_prepared_statements" if value == "0" => {
                let why = "has no equivalent: prepared statements are always tracked";
                return self.warn(at, "max_prepared_statements = 0", why);
            }
            "auth_query" => {
                let why = "runs with search_path = pg_catalog: write the schemas of its functions and tables";
                self.warn(at, name, why);
                string(value)
            }
            "auth_file" => return self.userlist(value, at),
            "auth_type" => self.auth_type(value, at),
            "client_tls_protocols" | "server_tls_protocols" => self.protocols(name, value, at),
            "server_check_query" if value == "<empty>" => string(";"),
            "tcp_user_timeout" if value != "0" => string(&format!("{value}ms")),
            "unix_socket_dir" if value.is_empty() => string(""),
            _ => literal(key.default, value),
        };
        let table = if key.section == Section::Pool {
            &mut self.pool
        } else {
            &mut self.process
        };
        set(table, name, toml);
    }

    fn auth_type(&mut self, value: &str, at: &str) -> String {
        let word = match value {
            "any" => {
                self.warn(
                    at,
                    "auth_type = any",
                    "became \"trust\"; give each database a user",
                );
                "trust"
            }
            word if AuthType::from_word(word).is_some() => word,
            _ => {
                self.warn(
                    at,
                    value,
                    "is an auth_type without an equivalent; scram-sha-256 it is",
                );
                "scram-sha-256"
            }
        };
        string(word)
    }

    fn protocols(&mut self, name: &str, value: &str, at: &str) -> String {
        let mut kept = Vec::new();
        for word in value
            .split([',', ':'])
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            match word {
                "tlsv1.2" | "tlsv1.3" => kept.push(word),
                "secure" | "default" | "all" | "legacy" => kept = vec!["tlsv1.2", "tlsv1.3"],
                _ => self.warn(at, &format!("{word} of {name}"), "is not spoken; left out"),
            }
        }
        match kept.as_slice() {
            ["tlsv1.2"] => string("tlsv1.2"),
            ["tlsv1.3"] => string("tlsv1.3"),
            _ => string("secure"),
        }
    }

    /// The users of `auth_file` become `[users]`.
    fn userlist(&mut self, value: &str, at: &str) {
        if value.is_empty() {
            return;
        }
        let path = self.directory.join(value);
        let users = fs::read_to_string(&path)
            .map_err(|reason| reason.to_string())
            .and_then(|text| userlist::parse(&text).map_err(|(_, expected)| expected.to_owned()));
        match users {
            Ok(users) => {
                for (name, password) in users {
                    let table = self.users.entry(name).or_default();
                    if !password.is_empty() {
                        set(table, "password", string(&password));
                    }
                }
            }
            Err(why) => {
                let file = path.display();
                self.warn(
                    at,
                    &format!("auth_file {file}"),
                    &format!("could not be read: {why}"),
                );
                set(&mut self.process, "auth_file", string(value));
            }
        }
    }

    fn database(&mut self, name: &str, pairs: Vec<(String, String)>, at: &str) {
        if CONSOLE_NAMES.contains(&name) {
            return self.warn(at, name, "is the name of the console; rename that database");
        }
        let (mut hosts, mut port) = (self.socket_directory.clone(), "5432".to_owned());
        let mut table = Table::new();
        for (key, value) in pairs {
            match key.as_str() {
                "host" if value.is_empty() => {}
                "host" => hosts = value,
                "port" => port = value,
                "dbname" if value == name => {}
                "client_encoding" | "datestyle" | "timezone" => {
                    let why = "of a database has no equivalent: ALTER DATABASE … SET, or the client, sets it";
                    self.warn(at, &key, why);
                }
                "load_balance_hosts" => {
                    self.warn(
                        at,
                        &key,
                        "has no equivalent: the primary is found, replicas share the reads",
                    );
                }
                "reserve_pool" => set(&mut table, "reserve_pool_size", value),
                _ => self.own(Section::Database, &key, &value, &mut table, at),
            }
        }
        let hosts: Vec<_> = hosts.split(',').map(str::trim).collect();
        let servers = hosts
            .iter()
            .map(|host| format!("{{ host = {}, port = {port} }}", string(host)));
        let servers = format!("[{}]", servers.collect::<Vec<_>>().join(", "));
        table.insert(0, ("servers".to_owned(), servers));
        if hosts.len() > 1 {
            self.warn(at, name, "has several hosts: pgweir finds the primary and sends reads to replicas; set route = \"primary\" if they are not one cluster's");
        }
        self.databases.insert(name.to_owned(), table);
    }

    fn user(&mut self, name: &str, pairs: Vec<(String, String)>, at: &str) {
        let mut table = self.users.remove(name).unwrap_or_default();
        for (key, value) in pairs {
            self.own(Section::User, &key, &value, &mut table, at);
        }
        self.users.insert(name.to_owned(), table);
    }

    fn peer(&mut self, name: &str, pairs: Vec<(String, String)>, at: &str) {
        let mut table = Table::new();
        for (key, value) in pairs {
            match key.as_str() {
                "pool_size" => self.warn(at, "pool_size of a peer", "has no equivalent"),
                _ => self.own(Section::Peer, &key, &value, &mut table, at),
            }
        }
        self.peers.insert(name.to_owned(), table);
    }

    /// One key that a database, user or peer has of its own.
    fn own(&mut self, section: Section, key: &str, value: &str, table: &mut Table, at: &str) {
        match keys::allowed_in(section).find(|known| known.name == keys::canonical(key)) {
            Some(known) if known.scope == Scope::Process && known.name != "port" => {
                set(table, key, string(value));
            }
            Some(known) => set(table, key, literal(known.default, value)),
            None => self.warn(at, key, "has no equivalent there; left out"),
        }
    }

    fn toml(&self, source: &Path) -> String {
        let mut out = format!("# Made from {}.\n", source.display());
        write_table(&mut out, "pgweir", &self.process);
        write_table(&mut out, "pool", &self.pool);
        for (name, table) in &self.databases {
            write_table(&mut out, &format!("databases.{}", quoted_key(name)), table);
        }
        for (name, table) in &self.users {
            write_table(&mut out, &format!("users.{}", quoted_key(name)), table);
        }
        for (name, table) in &self.peers {
            write_table(&mut out, &format!("peers.{}", quoted_key(name)), table);
        }
        out
    }
}

fn write_table(out: &mut String, header: &str, table: &Table) {
    let _ = write!(out, "\n[{header}]\n");
    for (key, value) in table {
        let _ = writeln!(out, "{key} = {value}");
    }
}

/// Sets a key; the last value wins, as in PgBouncer.
fn set(table: &mut Table, key: &str, value: String) {
    match table.iter_mut().find(|(known, _)| known == key) {
        Some((_, known)) => *known = value,
        None => table.push((key.to_owned(), value)),
    }
}

/// A PgBouncer value as TOML, of the kind that our default has.
fn literal(default: &str, value: &str) -> String {
    let lower = value.to_ascii_lowercase();
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match default {
        "true" | "false" => match lower.as_str() {
            "1" | "on" | "yes" | "true" | "t" => "true".to_owned(),
            "0" | "off" | "no" | "false" | "f" => "false".to_owned(),
            _ => string(value),
        },
        list if list.starts_with('[') => {
            let items = value
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            format!("[{}]", items.map(string).collect::<Vec<_>>().join(", "))
        }
        "\"127.0.0.1\"" if value.is_empty() => "[]".to_owned(),
        // Seconds in both languages; written with their unit to be read by people.
        text if is_number
            && super::parse_duration(text.trim_matches('"')).is_some()
            && text.ends_with("s\"") =>
        {
            string(&format!("{value}s"))
        }
        text if text.starts_with('"') => string(value),
        _ if is_number => value.to_owned(),
        _ if PoolMode::from_word(&lower).is_some() => string(&lower),
        _ => string(value),
    }
}

/// A TOML string; `${` is doubled because our values expand variables.
fn string(text: &str) -> String {
    toml::Value::String(text.replace("${", "$${")).to_string()
}

fn quoted_key(name: &str) -> String {
    let is_bare = !name.is_empty()
        && name != FALLBACK
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if is_bare {
        name.to_owned()
    } else {
        toml::Value::String(name.to_owned()).to_string()
    }
}

#[cfg(test)]
#[path = "import_pgbouncer_tests.rs"]
mod tests;
