//! The tools that read `pooler.toml`: walks tables, types values, and remembers where each key stands.
//!
//! Knows keys by the table of [`keys`], not what sections mean ([`super::file`]). Invariants: a problem
//! never stops the reading, and none quotes a secret.

use std::{collections::HashMap, ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    database::LONGEST_NAME,
    error::{Fault, Location, Problem, nearest},
    keys::{self, Scope, Section},
    secret,
    value::{Context, Value, Wrong},
};

/// Problems that are told at once; the rest shows in the next run.
const MOST_PROBLEMS: usize = 50;

/// A value and where it stands.
pub(crate) type Item<'t> = Spanned<DeValue<'t>>;

/// Reads one text; collects problems and warnings on the way.
pub(crate) struct Reader<'a> {
    pub(crate) text: &'a str,
    pub(crate) file: Option<&'a Path>,
    pub(crate) context: Context<'a>,
    /// Where each key stands, by its whole path.
    pub(crate) places: HashMap<String, usize>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<String>,
    /// Whether a password is written in this very text.
    pub(crate) holds_secret: bool,
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

    pub(crate) fn problem(&mut self, offset: usize, fault: Fault) {
        if self.problems.len() < MOST_PROBLEMS {
            let at = Location::of(self.file, self.text, offset);
            self.problems.push(Problem { at, fault });
        }
    }

    pub(crate) fn wrong(&mut self, key: &str, span: Range<usize>, wrong: Wrong) {
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

    pub(crate) fn value<T: Value>(&mut self, key: &str, item: &Item<'_>) -> Option<T> {
        T::read(item.get_ref(), &self.context)
            .map_err(|wrong| self.wrong(key, item.span(), wrong))
            .ok()
    }

    pub(crate) fn warn_if_world_readable(&mut self, path: &Path) {
        if secret::is_world_readable(path) {
            let file = path.display();
            self.warnings.push(format!(
                "{file} holds passwords and every local user may read it"
            ));
        }
    }

    pub(crate) fn contradiction(&mut self, path: &str, why: &str) {
        let fault = Fault::Contradiction {
            key: path.to_owned(),
            why: why.to_owned(),
        };
        self.fault_at(path, fault);
    }

    pub(crate) fn table<'t>(&mut self, path: &str, item: &'t Item<'t>) -> Option<&'t DeTable<'t>> {
        let table = item.get_ref().as_table();
        if table.is_none() {
            self.wrong(path, item.span(), Wrong::new(item.get_ref(), "a table"));
        }
        table
    }

    /// Visits the tables of `[databases.…]`, `[users.…]` or `[peers.…]`.
    pub(crate) fn each_table(
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
    pub(crate) fn each_key(
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

    pub(crate) fn outcome(&mut self, key: &str, item: &Item<'_>, set: Option<Result<(), Wrong>>) {
        if let Some(Err(wrong)) = set {
            self.wrong(key, item.span(), wrong);
        }
    }
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
