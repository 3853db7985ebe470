//! From the text of `pooler.toml` to a [`Draft`]: every key read, typed and placed.
//!
//! Knows the sections and where each key stands, not what settings mean together ([`super::check`]).
//! Invariants: goes on after a problem, so one run shows them all; no problem quotes a secret.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    database::{AuthOverrides, Database, Host, LONGEST_NAME, Peer, Server, User},
    error::{ConfigError, Fault, Location, Problem, nearest},
    keys::{self, Scope, Section, Settings as _},
    pool_settings::{PoolOverrides, PoolSettings},
    process::Process,
    secret::{self, Secret},
    types::Role,
    value::{Context, Value, Wrong, text},
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

type Item<'t> = Spanned<DeValue<'t>>;

/// Reads one text; collects problems and warnings on the way.
pub(crate) struct Reader<'a> {
    text: &'a str,
    file: Option<&'a Path>,
    context: Context<'a>,
    /// Where each key stands, by its whole path.
    places: HashMap<String, usize>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<String>,
    /// Whether a password is written in this very text.
    pub(crate) holds_secret: bool,
}

/// The parts of a database or user that are no pool settings.
#[derive(Default)]
struct Login {
    passwords: Vec<Secret>,
    /// The key that gave them.
    given_by: Option<&'static str>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str, file: Option<&'a Path>, context: Context<'a>) -> Self {
        Self {
            text,
            file,
            context,
            places: HashMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            holds_secret: false,
        }
    }

    /// Reads the whole text. What could not be read has its default in the draft, and a problem.
    pub(crate) fn read(&mut self) -> Draft {
        let mut draft = Draft::default();
        let root = match DeTable::parse(self.text) {
            Ok(root) => root.into_inner(),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                self.problem(at, Fault::Syntax(error.message().replace('\n', ", ")));
                return draft;
            }
        };
        for (name, item) in &root {
            let at = name.span();
            match name.get_ref().as_ref() {
                "pgweir" => self.process(item, &mut draft.process),
                "pool" => self.pool(item, &mut draft.pool),
                "databases" => self.each_table("databases", item, |reader, path, name, table| {
                    if let Some(database) = reader.database(path, name, table) {
                        draft.databases.insert(name.to_owned(), database);
                    }
                }),
                "users" => self.each_table("users", item, |reader, path, name, table| {
                    let user = reader.user(path, name, table);
                    draft.users.insert(name.to_owned(), user);
                }),
                "peers" => self.each_table("peers", item, |reader, path, name, table| {
                    if let Some(peer) = reader.peer(path, name, table) {
                        draft.peers.insert(peer.id, peer);
                    }
                }),
                other => {
                    let hint = section_hint(other);
                    self.problem(
                        at.start,
                        Fault::UnknownKey {
                            key: other.to_owned(),
                            hint,
                        },
                    );
                }
            }
        }
        self.userlist(&mut draft);
        draft
    }

    /// Records what [`super::check`] found about the key at `path`.
    pub(crate) fn fault_at(&mut self, path: &str, fault: Fault) {
        let mut known = path;
        let at = loop {
            if let Some(at) = self.places.get(known) {
                break *at;
            }
            match known.rfind(['.', '[']) {
                Some(end) => known = &known[..end],
                None => break 0,
            }
        };
        self.problem(at, fault);
    }

    fn problem(&mut self, offset: usize, fault: Fault) {
        let at = Location::of(self.file, self.text, offset);
        self.problems.push(Problem { at, fault });
    }

    fn wrong(&mut self, key: &str, span: Range<usize>, wrong: Wrong) {
        let key = key.to_owned();
        let fault = match wrong {
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
        };
        self.problem(span.start, fault);
    }

    fn value<T: Value>(&mut self, key: &str, item: &Item<'_>) -> Option<T> {
        T::read(item.get_ref(), &self.context)
            .map_err(|wrong| self.wrong(key, item.span(), wrong))
            .ok()
    }

    fn process(&mut self, item: &Item<'_>, process: &mut Process) {
        let Some(table) = self.table("pgweir", item) else {
            return;
        };
        self.each_key(
            "pgweir",
            table,
            Section::Process,
            |reader, key, name, item| {
                let set = process.set(name, item.get_ref(), &reader.context);
                reader.outcome(key, item, set);
            },
        );
    }

    fn pool(&mut self, item: &Item<'_>, pool: &mut PoolSettings) {
        let Some(table) = self.table("pool", item) else {
            return;
        };
        self.each_key("pool", table, Section::Pool, |reader, key, name, item| {
            let set = pool.set(name, item.get_ref(), &reader.context);
            reader.outcome(key, item, set);
        });
    }

    fn database(&mut self, path: &str, name: &str, table: &DeTable<'_>) -> Option<Database> {
        let mut servers = Vec::new();
        let (mut dbname, mut user, mut connect_query) = (None, None, None);
        let (mut auth, mut login) = (AuthOverrides::default(), Login::default());
        let mut overrides = PoolOverrides::default();
        self.each_key(
            path,
            table,
            Section::Database,
            |reader, key, name, item| match name {
                "servers" => servers = reader.servers(key, item),
                "dbname" => dbname = reader.value(key, item).flatten(),
                "user" => user = reader.value(key, item).flatten(),
                "password" | "password_file" => reader.password(key, name, item, &mut login),
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
            self.contradiction(path, "is the name of the console; choose another");
        }
        if !self.places.contains_key(&format!("{path}.servers")) {
            let why = "has no servers; write servers = [{ host = \"…\", port = 5432 }]";
            self.contradiction(path, why);
        }
        Some(Database {
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
        })
    }

    fn servers(&mut self, key: &str, item: &Item<'_>) -> Vec<Server> {
        let Some(list) = item.get_ref().as_array() else {
            let wrong = Wrong::new(
                item.get_ref(),
                "a list such as [{ host = \"…\", port = 5432 }]",
            );
            self.wrong(key, item.span(), wrong);
            return Vec::new();
        };
        let mut servers = Vec::new();
        for (index, item) in list.iter().enumerate() {
            let path = format!("{key}[{index}]");
            self.places.insert(path.clone(), item.span().start);
            let Some(table) = self.table(&path, item) else {
                continue;
            };
            servers.extend(self.server(&path, table));
        }
        servers
    }

    fn server(&mut self, path: &str, table: &DeTable<'_>) -> Option<Server> {
        let mut host = None;
        let (mut port, mut role, mut weight, mut zone) = (5432, Role::Auto, 1, None);
        self.each_key(
            path,
            table,
            Section::Server,
            |reader, key, name, item| match name {
                "host" => host = Some(reader.host(key, item)),
                "port" => port = reader.port(key, item),
                "role" => role = reader.value(key, item).unwrap_or(role),
                "weight" => weight = reader.value(key, item).unwrap_or(weight),
                _ => zone = reader.value(key, item).flatten(),
            },
        );
        if host.is_none() {
            self.contradiction(path, "has no host");
        }
        Some(Server {
            host: host.flatten()?,
            port,
            role,
            weight,
            zone,
        })
    }

    fn host(&mut self, key: &str, item: &Item<'_>) -> Option<Host> {
        let text: String = self.value(key, item)?;
        match host(&text) {
            Ok(host) => Some(host),
            Err(hint) => {
                let allowed = "a host name, an address, or the directory of a Unix socket";
                let mut wrong = Wrong::new(item.get_ref(), allowed);
                if let Wrong::Value { hint: told, .. } = &mut wrong {
                    *told = hint.map(str::to_owned);
                }
                self.wrong(key, item.span(), wrong);
                None
            }
        }
    }

    /// A port to connect to, which unlike one to listen on cannot be 0.
    fn port(&mut self, key: &str, item: &Item<'_>) -> u16 {
        let port = self.value(key, item);
        if port == Some(0) {
            self.wrong(
                key,
                item.span(),
                Wrong::new(item.get_ref(), "a port from 1 to 65535"),
            );
        }
        port.unwrap_or(5432)
    }

    fn user(&mut self, path: &str, name: &str, table: &DeTable<'_>) -> User {
        let mut login = Login::default();
        let mut overrides = PoolOverrides::default();
        self.each_key(
            path,
            table,
            Section::User,
            |reader, key, name, item| match name {
                "password" | "password_file" | "passwords" => {
                    reader.password(key, name, item, &mut login);
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

    fn peer(&mut self, path: &str, name: &str, table: &DeTable<'_>) -> Option<Peer> {
        let (mut host, mut port) = (None, 6432);
        self.each_key(
            path,
            table,
            Section::Peer,
            |reader, key, name, item| match name {
                "host" => host = reader.host(key, item),
                _ => port = reader.port(key, item),
            },
        );
        let Some(id) = name.parse().ok().filter(|id| *id > 0) else {
            self.contradiction(
                path,
                "is no peer: its name must be a number from 1 to 65535",
            );
            return None;
        };
        if host.is_none() && !self.places.contains_key(&format!("{path}.host")) {
            self.contradiction(path, "has no host");
        }
        Some(Peer {
            id,
            host: host?,
            port,
        })
    }

    /// `password`, `password_file` or `passwords` of a database or user.
    fn password(&mut self, key: &str, name: &str, item: &Item<'_>, login: &mut Login) {
        let name = match name {
            "password" => "password",
            "password_file" => "password_file",
            _ => "passwords",
        };
        if let Some(before) = login.given_by.replace(name) {
            self.contradiction(key, &format!("and `{before}` say the same thing; keep one"));
        }
        match (name, item.get_ref()) {
            ("password_file", _) => login.passwords.extend(self.password_from_file(key, item)),
            ("passwords", DeValue::Array(list)) => {
                for (index, item) in list.iter().enumerate() {
                    let key = format!("{key}[{index}]");
                    login.passwords.extend(self.secret(&key, item));
                }
            }
            ("passwords", value) => {
                let wrong = Wrong::Value {
                    found: format!("of type {}", value.type_str()),
                    allowed: "a list of strings".to_owned(),
                    hint: None,
                };
                self.wrong(key, item.span(), wrong);
            }
            _ => login.passwords.extend(self.secret(key, item)),
        }
    }

    fn secret(&mut self, key: &str, item: &Item<'_>) -> Option<Secret> {
        let written = item.get_ref();
        let read = match text(written, &self.context) {
            Err(Wrong::Value { .. }) => Err(Wrong::secret(written)),
            read => read,
        };
        match read {
            Ok(text) if text.is_empty() => {
                self.contradiction(key, "is empty");
                None
            }
            Ok(text) => {
                self.holds_secret |= written.as_str() == Some(&text);
                Some(Secret::new(&text))
            }
            Err(wrong) => {
                self.wrong(key, item.span(), wrong);
                None
            }
        }
    }

    fn password_from_file(&mut self, key: &str, item: &Item<'_>) -> Option<Secret> {
        let path: PathBuf = self.value(key, item).flatten()?;
        match secret::read_file(&path) {
            Ok(text) if text.is_empty() => {
                self.contradiction(key, "names an empty file");
                None
            }
            Ok(text) => {
                self.warn_if_world_readable(&path);
                Some(Secret::new(&text))
            }
            Err(reason) => {
                let fault = Fault::File {
                    key: key.to_owned(),
                    path,
                    reason,
                };
                self.problem(item.span().start, fault);
                None
            }
        }
    }

    /// Adds the users of `auth_file` that `[users]` does not give a password.
    fn userlist(&mut self, draft: &mut Draft) {
        let Some(path) = draft.process.auth_file.clone() else {
            return;
        };
        let key = "pgweir.auth_file";
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(reason) => {
                self.fault_at(
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
        self.warn_if_world_readable(&path);
        match super::userlist::parse(&text) {
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
            Err((offset, expected)) => self.problems.push(Problem {
                at: Location::of(Some(&path), &text, offset),
                fault: Fault::Syntax(format!("expected {expected}")),
            }),
        }
    }

    fn warn_if_world_readable(&mut self, path: &Path) {
        if secret::is_world_readable(path) {
            let file = path.display();
            self.warnings.push(format!(
                "{file} holds passwords and every local user may read it"
            ));
        }
    }

    fn contradiction(&mut self, path: &str, why: &str) {
        let fault = Fault::Contradiction {
            key: path.to_owned(),
            why: why.to_owned(),
        };
        self.fault_at(path, fault);
    }

    fn table<'t>(&mut self, path: &str, item: &'t Item<'t>) -> Option<&'t DeTable<'t>> {
        let table = item.get_ref().as_table();
        if table.is_none() {
            self.wrong(path, item.span(), Wrong::new(item.get_ref(), "a table"));
        }
        table
    }

    /// Visits the tables of `[databases.…]`, `[users.…]` or `[peers.…]`.
    fn each_table(
        &mut self,
        section: &str,
        item: &Item<'_>,
        mut visit: impl FnMut(&mut Self, &str, &str, &DeTable<'_>),
    ) {
        let Some(tables) = self.table(section, item) else {
            return;
        };
        for (name, item) in tables {
            let at = name.span().start;
            let name = name.get_ref().as_ref();
            let path = format!("{section}.{name}");
            self.places.insert(path.clone(), at);
            if name.is_empty() || name.len() > LONGEST_NAME {
                let why = "needs a name of 1 to 63 bytes, as in PostgreSQL";
                self.contradiction(&path, why);
            }
            if let Some(table) = self.table(&path, item) {
                visit(self, &path, name, table);
            }
        }
    }

    /// Visits the keys of a table that may stand there; refuses the others.
    fn each_key(
        &mut self,
        path: &str,
        table: &DeTable<'_>,
        section: Section,
        mut visit: impl FnMut(&mut Self, &str, &str, &Item<'_>),
    ) {
        for (written, item) in table {
            let at = written.span().start;
            let written = written.get_ref().as_ref();
            let name = keys::canonical(written);
            let key = format!("{path}.{written}");
            if !keys::allowed_in(section).any(|known| known.name == name) {
                let hint = key_hint(written, section);
                self.problem(at, Fault::UnknownKey { key, hint });
                continue;
            }
            self.places.insert(key.clone(), at);
            if name != written && self.places.insert(format!("{path}.{name}"), at).is_some() {
                self.contradiction(&key, &format!("and `{name}` are the same key; keep one"));
            }
            visit(self, &key, name, item);
        }
    }

    fn outcome(&mut self, key: &str, item: &Item<'_>, set: Option<Result<(), Wrong>>) {
        if let Some(Err(wrong)) = set {
            self.wrong(key, item.span(), wrong);
        }
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

/// What to say about a key that `section` does not have.
fn key_hint(written: &str, section: Section) -> Option<String> {
    if section == Section::Database && matches!(written, "host" | "port") {
        return Some("write servers = [{ host = \"…\", port = 5432, role = \"auto\" }]".to_owned());
    }
    if let Some((_, why)) = keys::NO_EQUIVALENT
        .iter()
        .find(|(name, _)| *name == written)
    {
        return Some((*why).to_owned());
    }
    let elsewhere = keys::all().find(|key| key.name == keys::canonical(written));
    match elsewhere.map(|key| (key.scope, key.section)) {
        Some((Scope::NotUser, _)) => Some("it belongs in [pool] or [databases.NAME]".to_owned()),
        Some((Scope::NotDatabase, _)) => Some("it belongs in [pool] or [users.NAME]".to_owned()),
        Some((_, at)) if at != Section::Server => Some(format!("it belongs in {}", at.table())),
        _ => {
            let near = nearest(written, keys::allowed_in(section).map(|key| key.name));
            near.map(|name| format!("did you mean `{name}`?"))
        }
    }
}

/// Reads a text and looks at it as a whole.
///
/// # Errors
/// All problems, in the file's order.
pub(crate) fn read(
    text: &str,
    file: Option<&Path>,
    context: Context<'_>,
) -> Result<super::Config, ConfigError> {
    let mut reader = Reader::new(text, file, context);
    let draft = reader.read();
    let findings = super::check::check(&draft);
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
    let mut config = super::Config::assemble(draft, findings.tls);
    config.source = file.map(Path::to_path_buf);
    config.warnings = reader.warnings;
    config.warnings.extend(findings.warnings);
    Ok(config)
}
