//! What is known of one database's own objects: which functions may run on a replica, and which names and operators reach
//! something that may not.
//!
//! ```text
//! survey    what a server told of its objects, and which of them reach one that no standby may run
//! body      the texts of functions: does one call what it must not?
//! names     a compact table of names
//! ```
//!
//! **What is believed.** A function is safe if it and all its namesakes are declared stable or immutable, and reach nothing
//! volatile as far as the catalogue tells: through default arguments, parsed or textual SQL bodies, aggregates, operators,
//! casts, domains and views, however deep. Beyond that the declaration is believed: PostgreSQL itself refuses writes
//! inside a function that is not volatile ("is not allowed in a non-volatile function"), and a standby refuses them a second
//! time (25006), upon which the statement is run on the primary. What neither notices is a function that is declared stable
//! and takes advisory locks, or speaks to another server, by way of dynamic SQL or a language other than SQL and PL/pgSQL;
//! the words of PL/pgSQL bodies are looked through for just that. Such a function is declared wrongly, and
//! `write_functions` is there for it.
//!
//! **What is not seen**, since it is written nowhere in a statement: operators that stand behind keywords (IN, BETWEEN,
//! CASE) if an operator of that spelling over two built-in types is volatile; the CHECK constraints of a domain that a
//! function like `json_populate_record` fills in. The refusal of the standby remains for them.
//!
//! Temporary objects of sessions are left out: who has one is pinned to its server, and nobody else can name it.
//!
//! An immutable snapshot without a lock; knows no server and no clock. Names are compared as bytes of UTF-8: see
//! [`Catalogue::has_names_beyond_ascii`].

mod body;
mod names;
mod survey;

pub use survey::{Body, Call, Cast, Function, Object, Operator, Survey};

use super::{Knowledge, Known, NameFilter, builtins};
use names::{Names, NamesBuilder};
use std::fmt;
use survey::Unsafe;

/// What the catalogue knows, as [`Knowledge`].
pub struct Catalogue {
    generation: u64,
    digest: u64,
    functions: Names<Verdict>,
    unsafe_names: Names<()>,
    watched: Option<NameFilter>,
    unsafe_operators: Box<[Box<[u8]>]>,
    distrust: Option<Distrust>,
    utf8: bool,
}

/// Why a statement that names anything at all is no read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Distrust {
    /// What is not mentioned may be unsafe.
    #[error("the database has more objects than are looked at")]
    Cut,
    /// No text would show where it runs.
    #[error(
        "a cast between built-in types calls \"{0}\", which is volatile or reaches a volatile function"
    )]
    Cast(String),
}

/// Of all functions of one schema and name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Safe,
    Volatile,
    Exempt,
}

impl From<Verdict> for Known {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Safe => Self::Safe,
            Verdict::Volatile => Self::Volatile,
            Verdict::Exempt => Self::Exempt,
        }
    }
}

/// What the operator of the system says of functions: `read_only_functions` and `write_functions`. Each is a `name`, which
/// means every function of that name, or `schema.name`; both spelled as in the catalogue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Declared<'a> {
    /// May run on a replica, whatever the catalogue says.
    pub read_only: &'a [String],
    /// Must not.
    pub write: &'a [String],
}

impl Declared<'_> {
    /// What is said of this function, if anything: with its schema before without.
    fn verdict(self, schema: &[u8], name: &[u8]) -> Option<Verdict> {
        let qualified = [schema, b".", name].concat();
        [qualified.as_slice(), name].into_iter().find_map(|said| {
            let among = |list: &[String]| list.iter().any(|entry| entry.as_bytes() == said);
            match (among(self.write), among(self.read_only)) {
                (true, _) => Some(Verdict::Volatile),
                (false, true) => Some(Verdict::Exempt),
                (false, false) => None,
            }
        })
    }
}

/// How often bodies of functions are judged anew because others turned out to be unsafe. What still changes then is a chain
/// of calls that is longer, and all that is on it counts as unsafe.
const MAX_ROUNDS: usize = 32;

impl Catalogue {
    /// Works out what `survey` and `declared` mean. `generation` is the caller's, to tell snapshots apart.
    pub fn new(generation: u64, survey: &Survey, declared: Declared<'_>) -> Self {
        let mut objects = Unsafe::new(survey, declared);
        let mut rounds = 0;
        loop {
            let catalogue = Self::of(generation, survey, &objects, declared);
            let open = survey.functions.iter().filter(|function| {
                let object = Object::Function(function.oid);
                !objects.contains(object) && !objects.is_exempt(object)
            });
            let found = open.filter(|function| match &function.body {
                Body::Declared | Body::Unseen => false,
                _ if rounds >= MAX_ROUNDS => true,
                Body::Sql(text) => !body::is_read(text, survey.version, &catalogue),
                Body::Procedural(text) => body::names_unsafe(text, survey.version, &catalogue),
            });
            let found: Vec<_> = found.map(|f| Object::Function(f.oid)).collect();
            if found.is_empty() {
                return catalogue;
            }
            objects.add(found);
            rounds += 1;
        }
    }

    fn of(generation: u64, survey: &Survey, objects: &Unsafe<'_>, declared: Declared<'_>) -> Self {
        let is_unsafe = |function: u32| objects.contains(Object::Function(function));
        let cast = survey.casts.iter().find(|cast| is_unsafe(cast.function));
        let distrust = match (survey.complete, cast) {
            (false, _) => Some(Distrust::Cut),
            (true, Some(cast)) => Some(Distrust::Cast(survey.name_of(cast.function))),
            (true, None) => None,
        };
        let operators = survey.operators.iter();
        let operators = operators.filter(|o| objects.contains(Object::Operator(o.oid)));
        let mut unsafe_operators: Vec<_> = operators.map(|o| o.name.clone()).collect();
        unsafe_operators.sort_unstable();
        unsafe_operators.dedup();
        let unsafe_names = unsafe_names(survey, objects);
        let watched = match &distrust {
            Some(_) => Some(NameFilter::everything()),
            None => (!unsafe_names.is_empty()).then(|| unsafe_names.filter()),
        };
        Self {
            generation,
            digest: survey.digest,
            functions: functions(survey, objects, declared),
            unsafe_names: unsafe_names.build(),
            watched,
            unsafe_operators: unsafe_operators.into(),
            distrust,
            utf8: survey.utf8,
        }
    }

    /// The number that it was made with.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// [`Survey::digest`] of what it was made from: an equal one need not replace it.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Why a statement that names anything at all is no read, if so; worth a warning.
    pub fn distrust(&self) -> Option<&Distrust> {
        self.distrust.as_ref()
    }

    /// Spellings of operators that make a statement a write, for a warning: `=` among them is worth one.
    pub fn unsafe_operators(&self) -> impl Iterator<Item = &[u8]> {
        self.unsafe_operators.iter().map(|name| &**name)
    }

    /// Numbers of (functions, unsafe names, unsafe operators) that it knows.
    pub fn counts(&self) -> [usize; 3] {
        [
            self.functions.len(),
            self.unsafe_names.len(),
            self.unsafe_operators.len(),
        ]
    }

    /// Does it know names that are not ASCII? Then texts in other client encodings than UTF8 must be ASCII to be compared
    /// with them (see [`super::Env::ascii_safe_encoding`]).
    pub fn has_names_beyond_ascii(&self) -> bool {
        self.functions.has_names_beyond_ascii() || self.unsafe_names.has_names_beyond_ascii()
    }

    /// Can this name be compared with those of the catalogue? A database in another encoding folds letters by rules of its own.
    fn is_comparable(&self, name: &[u8]) -> bool {
        name.is_ascii() || (self.utf8 && std::str::from_utf8(name).is_ok())
    }
}

/// Verdicts over all functions of each schema and name.
fn functions(survey: &Survey, objects: &Unsafe<'_>, declared: Declared<'_>) -> Names<Verdict> {
    let mut names = NamesBuilder::new();
    let worse = |a, b| match (a, b) {
        (Verdict::Volatile, _) | (_, Verdict::Volatile) => Verdict::Volatile,
        (Verdict::Safe, _) | (_, Verdict::Safe) => Verdict::Safe,
        (Verdict::Exempt, Verdict::Exempt) => Verdict::Exempt,
    };
    for function in survey.functions.iter().filter(|f| f.call != Call::Never) {
        let object = Object::Function(function.oid);
        let verdict = match (objects.contains(object), objects.is_exempt(object)) {
            (true, _) => Verdict::Volatile,
            (false, true) => Verdict::Exempt,
            (false, false) => Verdict::Safe,
        };
        // Of the built-in ones the classifier has its own table, and need only hear of what was altered.
        if !function.is_builtin()
            || verdict == Verdict::Volatile && builtins::is_safe(&function.name, survey.version)
        {
            names.add(Some(&function.schema), &function.name, verdict, worse);
        }
    }
    for (list, verdict) in [
        (declared.read_only, Verdict::Exempt),
        (declared.write, Verdict::Volatile),
    ] {
        for said in list {
            match said.split_once('.') {
                Some((schema, name)) => {
                    names.add(Some(schema.as_bytes()), name.as_bytes(), verdict, worse);
                }
                None => names.add(None, said.as_bytes(), verdict, worse),
            }
        }
    }
    names.build()
}

fn unsafe_names<'s>(survey: &'s Survey, objects: &Unsafe<'_>) -> NamesBuilder<'s, ()> {
    let mut names = NamesBuilder::new();
    let mut add = |schema, name| names.add(schema, name, (), |(), ()| ());
    for named in &survey.named {
        if objects.contains(named.object) {
            add(Some(&*named.schema), &*named.name);
        }
    }
    for function in &survey.functions {
        // `t.f`: what qualifies it is a table.
        if function.call == Call::Attribute && objects.contains(Object::Function(function.oid)) {
            add(None, &function.name);
        }
    }
    names
}

impl Knowledge for Catalogue {
    fn function(&self, schema: Option<&[u8]>, name: &[u8]) -> Known {
        if !self.is_comparable(name) || schema.is_some_and(|schema| !self.is_comparable(schema)) {
            return Known::Nothing;
        }
        let found = match schema {
            Some(schema) => self.qualified(schema, name),
            None => self.unqualified(name),
        };
        match found {
            Some(Verdict::Safe) if self.distrust.is_some() => Known::Nothing,
            found => found.map_or(Known::Nothing, Known::from),
        }
    }

    fn watched_names(&self) -> Option<&NameFilter> {
        self.watched.as_ref()
    }

    fn is_unsafe_name(&self, schema: Option<&[u8]>, name: &[u8]) -> bool {
        if self.distrust.is_some() {
            return true;
        }
        let in_schema = |there: Option<&[u8]>| match (schema, there) {
            (Some(asked), Some(there)) => asked == there || !self.is_comparable(asked),
            _ => true,
        };
        let mut found = self.unsafe_names.find(name);
        found.any(|(there, ())| in_schema(there))
            || self.unsafe_names.has_names_beyond_ascii() && !self.is_comparable(name)
    }

    fn watches_operators(&self) -> bool {
        !self.unsafe_operators.is_empty() || self.distrust.is_some()
    }

    fn is_unsafe_operator(&self, operator: &[u8]) -> bool {
        self.distrust.is_some() || self.unsafe_operators.iter().any(|name| **name == *operator)
    }
}

impl Catalogue {
    /// What is known in this very schema goes before what was declared for all.
    fn qualified(&self, schema: &[u8], name: &[u8]) -> Option<Verdict> {
        let mut anywhere = None;
        for (there, verdict) in self.functions.find(name) {
            match there {
                Some(there) if there == schema => return Some(verdict),
                Some(_) => {}
                None => anywhere = Some(verdict),
            }
        }
        anywhere
    }

    /// Whatever the search_path is: the worst of all schemas.
    fn unqualified(&self, name: &[u8]) -> Option<Verdict> {
        let (mut worst, mut exempt) = (None, false);
        for (there, verdict) in self.functions.find(name) {
            if verdict == Verdict::Volatile {
                return Some(verdict);
            }
            // pg_catalog comes first in every search_path that does not put it elsewhere.
            exempt |= verdict == Verdict::Exempt && there.is_none_or(|s| s == b"pg_catalog");
            worst = Some(Verdict::Safe);
        }
        if exempt { Some(Verdict::Exempt) } else { worst }
    }
}

impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [functions, names, operators] = self.counts();
        f.debug_struct("Catalogue")
            .field("generation", &self.generation)
            .field("functions", &functions)
            .field("unsafe_names", &names)
            .field("unsafe_operators", &operators)
            .field("distrust", &self.distrust)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
