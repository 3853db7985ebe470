//! From the text of `pooler.toml` to a [`Draft`]: every key read, typed and placed.
//!
//! Knows the sections and where each key stands, not what settings mean together ([`super::check`]).
//! Invariants: goes on after a problem, so one run shows them all; no problem quotes a secret.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    Config, check,
    database::{AuthOverrides, Database, Host, Peer, Server, User},
    error::{ConfigError, Fault, Location, Problem, nearest},
    keys::{self, Section},
    pool_settings::{PoolOverrides, PoolSettings},
    process::Process,
    reader::{Item, Reader},
    secret::{self, Secret},
    table::Settings as _,
    types::Role,
    userlist,
    value::{Context, Wrong, text},
};

/// The names under which the console is reached; no database can have them.
pub(crate) const CONSOLE_NAMES: [&str; 2] = ["pgbouncer", "pgweir"];

/// The name of the database that serves every name without one of its own.
pub(crate) const FALLBACK: &str = "*";

/// A configuration whose parts are valid, before they are looked at together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    pub(crate) process: Process,
    pub(crate) pool: PoolSettings,
    pub(crate) databases: BTreeMap<String, Database>,
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) peers: BTreeMap<u16, Peer>,
}

/// The parts of a database or user that are no pool settings.
#[derive(Default)]
struct Login {
    passwords: Vec<Secret>,
    /// The key that gave them.
    given_by: Option<&'static str>,
}

/// Reads a text and looks at it as a whole.
///
/// # Errors
/// All problems, in the file's order.
pub(crate) fn read(
    text: &str,
    file: Option<&Path>,
    context: Context<'_>,
) -> Result<Config, ConfigError> {
    let mut reader = Reader::new(text, file, context);
    let draft = draft(&mut reader);
    let findings = check::check(&draft);
    if reader.problems.is_empty() {
        for (key, fault) in findings.faults {
            reader.fault_at(&key, fault);
        }
    }
    if let Some(file) = file
        && reader.holds_secret
    {
        reader.warn_if_world_readable(file);
    }
    if !reader.problems.is_empty() {
        reader
            .problems
            .sort_by_key(|problem| (problem.at.line, problem.at.column));
        return Err(ConfigError::Invalid(reader.problems));
    }
    let mut config = Config::assemble(draft, findings.tls);
    config.source = file.map(Path::to_path_buf);
    config.warnings = reader.warnings;
    config.warnings.extend(findings.warnings);
    Ok(config)
}

/// Reads the whole text. What could not be read has its default in the draft, and a problem.
fn draft(reader: &mut Reader<'_>) -> Draft {
    let mut draft = Draft::default();
    let root = match DeTable::parse(reader.text) {
        Ok(root) => root.into_inner(),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            reader.problem(at, Fault::Syntax(error.message().replace('\n', ", ")));
            return draft;
        }
    };
    for (name, item) in &root {
        let at = name.span();
        match name.get_ref().as_ref() {
            "pgweir" => process(reader, item, &mut draft.process),
            "pool" => pool(reader, item, &mut draft.pool),
            "databases" => reader.each_table("databases", item, |reader, path, name, table| {
                let database = database(reader, path, name, table);
                draft.databases.insert(name.to_owned(), database);
            }),
            "users" => reader.each_table("users", item, |reader, path, name, table| {
                let user = user(reader, path, name, table);
                draft.users.insert(name.to_owned(), user);
            }),
            "peers" => reader.each_table("peers", item, |reader, path, name, table| {
                if let Some(peer) = peer(reader, path, name, table) {
                    draft.peers.insert(peer.id, peer);
                }
            }),
            other => {
                let hint = section_hint(other);
                reader.problem(
                    at.start,
                    Fault::UnknownKey {
                        key: other.to_owned(),
                        hint,
                    },
                );
            }
        }
    }
    userlist(reader, &mut draft);
    draft
}

fn process(reader: &mut Reader<'_>, item: &Item<'_>, process: &mut Process) {
    let Some(table) = reader.table("pgweir", item) else {
        return;
    };
    reader.each_key(
        "pgweir",
        table,
        Section::Process,
        |reader, key, name, item| {
            let set = process.set(name, item.get_ref(), &reader.context);
            reader.outcome(key, item, set);
        },
    );
}

fn pool(reader: &mut Reader<'_>, item: &Item<'_>, pool: &mut PoolSettings) {
    let Some(table) = reader.table("pool", item) else {
        return;
    };
    reader.each_key("pool", table, Section::Pool, |reader, key, name, item| {
        let set = pool.set(name, item.get_ref(), &reader.context);
        reader.outcome(key, item, set);
    });
}

fn database(reader: &mut Reader<'_>, path: &str, name: &str, table: &DeTable<'_>) -> Database {
    let mut servers = Vec::new();
    let (mut dbname, mut user, mut connect_query) = (None, None, None);
    let (mut auth, mut login) = (AuthOverrides::default(), Login::default());
    let mut overrides = PoolOverrides::default();
    reader.each_key(
        path,
        table,
        Section::Database,
        |reader, key, name, item| match name {
            "servers" => servers = server_list(reader, key, item),
            "dbname" => dbname = reader.value(key, item).flatten(),
            "user" => user = reader.value(key, item).flatten(),
            "password" | "password_file" => password(reader, key, name, item, &mut login),
            "auth_user" => auth.user = reader.value(key, item).flatten(),
            "auth_query" => auth.query = reader.value(key, item).flatten(),
            "auth_dbname" => auth.dbname = reader.value(key, item).flatten(),
            "connect_query" => connect_query = reader.value(key, item).flatten(),
            _ => {
                let set = overrides.set(name, item.get_ref(), &reader.context);
                reader.outcome(key, item, set);
            }
        },
    );
    if CONSOLE_NAMES.contains(&name) {
        reader.contradiction(path, "is the name of the console; choose another");
    }
    if !reader.places.contains_key(&format!("{path}.servers")) {
        let why = "has no servers; write servers = [{ host = \"…\", port = 5432 }]";
        reader.contradiction(path, why);
    }
    Database {
        name: name.to_owned(),
        dbname,
        servers,
        user,
        password: login.passwords.pop(),
        auth,
        connect_query,
        is_fallback: name == FALLBACK,
        overrides,
        settings: Default::default(),
    }
}

fn server_list(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Vec<Server> {
    let Some(list) = item.get_ref().as_array() else {
        let wrong = Wrong::new(
            item.get_ref(),
            "a list such as [{ host = \"…\", port = 5432 }]",
        );
        reader.wrong(key, item.span(), wrong);
        return Vec::new();
    };
    let mut servers = Vec::new();
    for (index, item) in list.iter().enumerate() {
        let path = format!("{key}[{index}]");
        reader.places.insert(path.clone(), item.span().start);
        let Some(table) = reader.table(&path, item) else {
            continue;
        };
        servers.extend(server(reader, &path, table));
    }
    servers
}

fn server(reader: &mut Reader<'_>, path: &str, table: &DeTable<'_>) -> Option<Server> {
    let mut host = None;
    let (mut port, mut role, mut weight, mut zone) = (5432, Role::Auto, 1, None);
    reader.each_key(
        path,
        table,
        Section::Server,
        |reader, key, name, item| match name {
            "host" => host = Some(server_host(reader, key, item)),
            "port" => port = port_to(reader, key, item),
            "role" => role = reader.value(key, item).unwrap_or(role),
            "weight" => weight = reader.value(key, item).unwrap_or(weight),
            _ => zone = reader.value(key, item).flatten(),
        },
    );
    if host.is_none() {
        reader.contradiction(path, "has no host");
    }
    Some(Server {
        host: host.flatten()?,
        port,
        role,
        weight,
        zone,
    })
}

fn server_host(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Host> {
    let text: String = reader.value(key, item)?;
    match host(&text) {
        Ok(host) => Some(host),
        Err(hint) => {
            let allowed = "a host name, an address, or the directory of a Unix socket";
            let mut wrong = Wrong::new(item.get_ref(), allowed);
            if let Wrong::Value { hint: told, .. } = &mut wrong {
                *told = hint.map(str::to_owned);
            }
            reader.wrong(key, item.span(), wrong);
            None
        }
    }
}

/// A port to connect to, which unlike one to listen on cannot be 0.
fn port_to(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> u16 {
    let port = reader.value(key, item);
    if port == Some(0) {
        reader.wrong(
            key,
            item.span(),
            Wrong::new(item.get_ref(), "a port from 1 to 65535"),
        );
    }
    port.unwrap_or(5432)
}

fn user(reader: &mut Reader<'_>, path: &str, name: &str, table: &DeTable<'_>) -> User {
    let mut login = Login::default();
    let mut overrides = PoolOverrides::default();
    reader.each_key(
        path,
        table,
        Section::User,
        |reader, key, name, item| match name {
            "password" | "password_file" | "passwords" => {
                password(reader, key, name, item, &mut login);
            }
            _ => {
                let set = overrides.set(name, item.get_ref(), &reader.context);
                reader.outcome(key, item, set);
            }
        },
    );
    User {
        name: name.to_owned(),
        passwords: login.passwords,
        overrides,
    }
}

fn peer(reader: &mut Reader<'_>, path: &str, name: &str, table: &DeTable<'_>) -> Option<Peer> {
    let (mut host, mut port) = (None, 6432);
    reader.each_key(
        path,
        table,
        Section::Peer,
        |reader, key, name, item| match name {
            "host" => host = server_host(reader, key, item),
            _ => port = port_to(reader, key, item),
        },
    );
    let Some(id) = name.parse().ok().filter(|id| *id > 0) else {
        reader.contradiction(
            path,
            "is no peer: its name must be a number from 1 to 65535",
        );
        return None;
    };
    if host.is_none() && !reader.places.contains_key(&format!("{path}.host")) {
        reader.contradiction(path, "has no host");
    }
    Some(Peer {
        id,
        host: host?,
        port,
    })
}

/// `password`, `password_file` or `passwords` of a database or user.
fn password(reader: &mut Reader<'_>, key: &str, name: &str, item: &Item<'_>, login: &mut Login) {
    let name = match name {
        "password" => "password",
        "password_file" => "password_file",
        _ => "passwords",
    };
    if let Some(before) = login.given_by.replace(name) {
        reader.contradiction(key, &format!("and `{before}` say the same thing; keep one"));
    }
    match (name, item.get_ref()) {
        ("password_file", _) => login
            .passwords
            .extend(password_from_file(reader, key, item)),
        ("passwords", DeValue::Array(list)) => {
            for (index, item) in list.iter().enumerate() {
                let key = format!("{key}[{index}]");
                login.passwords.extend(secret(reader, &key, item));
            }
        }
        ("passwords", value) => {
            let wrong = Wrong::Value {
                found: format!("of type {}", value.type_str()),
                allowed: "a list of strings".to_owned(),
                hint: None,
            };
            reader.wrong(key, item.span(), wrong);
        }
        _ => login.passwords.extend(secret(reader, key, item)),
    }
}

fn secret(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Secret> {
    let written = item.get_ref();
    let read = match text(written, &reader.context) {
        Err(Wrong::Value { .. }) => Err(Wrong::secret(written)),
        read => read,
    };
    match read {
        Ok(text) if text.is_empty() => {
            reader.contradiction(key, "is empty");
            None
        }
        Ok(text) => {
            reader.holds_secret |= written.as_str() == Some(&text);
            Some(Secret::new(&text))
        }
        Err(wrong) => {
            reader.wrong(key, item.span(), wrong);
            None
        }
    }
}

fn password_from_file(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Secret> {
    let path: PathBuf = reader.value(key, item).flatten()?;
    match secret::read_file(&path) {
        Ok(text) if text.is_empty() => {
            reader.contradiction(key, "names an empty file");
            None
        }
        Ok(text) => {
            reader.warn_if_world_readable(&path);
            Some(Secret::new(&text))
        }
        Err(reason) => {
            let fault = Fault::File {
                key: key.to_owned(),
                path,
                reason,
            };
            reader.problem(item.span().start, fault);
            None
        }
    }
}

/// Adds the users of `auth_file` that `[users]` does not give a password.
fn userlist(reader: &mut Reader<'_>, draft: &mut Draft) {
    let Some(path) = draft.process.auth_file.clone() else {
        return;
    };
    let key = "pgweir.auth_file";
    let text = match secret::read_text(&path, secret::LONGEST_USERLIST) {
        Ok(text) => text,
        Err(reason) => {
            reader.fault_at(
                key,
                Fault::File {
                    key: key.to_owned(),
                    path,
                    reason,
                },
            );
            return;
        }
    };
    reader.warn_if_world_readable(&path);
    match userlist::parse(&text) {
        Ok(users) => {
            for (name, password) in users {
                let user = draft.users.entry(name.clone()).or_insert_with(|| User {
                    name,
                    passwords: Vec::new(),
                    overrides: PoolOverrides::default(),
                });
                if user.passwords.is_empty() && !password.is_empty() {
                    user.passwords.push(Secret::new(&password));
                }
            }
        }
        Err((offset, expected)) => reader.problems.push(Problem {
            at: Location::of(Some(&path), &text, offset),
            fault: Fault::Syntax(format!("expected {expected}")),
        }),
    }
}

/// Reads a host; the error is a hint, if there is one to give.
pub(crate) fn host(text: &str) -> Result<Host, Option<&'static str>> {
    if text.starts_with(['/', '@']) && text.len() > 1 {
        return Ok(Host::new(text));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(Host::Tcp(bare.to_owned()));
    }
    match text {
        _ if text.contains("://") => Err(Some("write host, port and role, not a URL")),
        _ if text.contains(':') => Err(Some("the port is a key of its own")),
        _ if text.contains(',') => Err(Some("write one entry per server")),
        _ if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c == '/') => Err(None),
        _ => Ok(Host::Tcp(text.to_owned())),
    }
}

fn section_hint(written: &str) -> Option<String> {
    let sections = ["pgweir", "pool", "databases", "users", "peers"];
    if let Some(key) = keys::all().find(|key| key.name == keys::canonical(written)) {
        return Some(format!("it belongs in {}", key.section.table()));
    }
    Some(match nearest(written, sections) {
        Some(section) => format!("did you mean [{section}]?"),
        None => format!("the sections are {}", sections.join(", ")),
    })
}
