//! Prepared statements: what a client calls them, what a server has of them.
//!
//! A client's name maps to a [`Statement`] that is shared by everybody who prepared the same text
//! with the same parameter types under the same planner-relevant settings. On a server it has a name
//! of ours, so that one parse serves every client. Which server has which statements is a
//! [`ServerStatements`], bounded, the least recently used one going first.
//!
//! Entries are made when a Parse is sent, and taken back when it is not carried out.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use hashbrown::{Equivalent, HashMap};

use super::unit::Verdict;
use crate::sql;

/// How every server-side statement name of ours begins.
pub const NAME_PREFIX: &str = "pgweir_";

/// Identity of a [`Statement`] within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatementId(u64);

/// A prepared statement, shared by all who prepared the same.
#[derive(Debug)]
pub struct Statement {
    /// Its identity.
    pub id: StatementId,
    /// Its name on every server that has it.
    pub name: Box<[u8]>,
    /// Its source.
    pub source: Source,
    /// What its text was found to be, once, when it was prepared.
    pub facts: sql::Facts,
    /// The statement that its text executes by name (`EXECUTE`).
    pub needs: Option<Arc<Self>>,
    /// What kind of server it needs.
    pub(super) verdict: Verdict,
    /// Whether a server has ever accepted it.
    accepted: AtomicBool,
}

/// What a statement is made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A Parse message.
    Parse {
        /// The text.
        text: Box<[u8]>,
        /// Parameter types as in the message.
        types: Box<[u8]>,
        /// Planner-relevant settings at that time.
        settings: Box<[u8]>,
    },
    /// An SQL `PREPARE`, cut where its name stood.
    Prepare {
        /// The text up to the name.
        before: Box<[u8]>,
        /// The text behind the name.
        after: Box<[u8]>,
        /// Planner-relevant settings at that time.
        settings: Box<[u8]>,
    },
}

impl Source {
    /// Planner-relevant settings at that time.
    pub(super) fn settings(&self) -> &[u8] {
        match self {
            Self::Parse { settings, .. } | Self::Prepare { settings, .. } => settings,
        }
    }

    fn with_settings(&self, settings: Box<[u8]>) -> Self {
        let mut source = self.clone();
        match &mut source {
            Self::Parse { settings: old, .. } | Self::Prepare { settings: old, .. } => {
                *old = settings;
            }
        }
        source
    }
}

impl Statement {
    /// A server has answered its Parse with ParseComplete.
    pub(super) fn accept(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    fn is_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The text of the `PREPARE` that makes this statement, if that is how it is made.
    pub fn prepare_text(&self) -> Option<Vec<u8>> {
        match &self.source {
            Source::Parse { .. } => None,
            Source::Prepare { before, after, .. } => {
                Some([&**before, &*self.name, &**after].concat())
            }
        }
    }
}

/// A [`Source::Parse`] that owns nothing, to look one up without an allocation.
#[derive(Hash)]
struct ParseKey<'a> {
    text: &'a [u8],
    types: &'a [u8],
    settings: &'a [u8],
}

#[derive(PartialEq, Eq, Debug)]
struct Key(Source);

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match &self.0 {
            Source::Parse {
                text,
                types,
                settings,
            } => {
                ParseKey {
                    text,
                    types,
                    settings,
                }
                .hash(state);
            }
            Source::Prepare {
                before,
                after,
                settings,
            } => {
                ParseKey {
                    text: before,
                    types: after,
                    settings,
                }
                .hash(state);
            }
        }
    }
}

impl Equivalent<Key> for ParseKey<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        matches!(&key.0, Source::Parse { text, types, settings }
            if **text == *self.text && **types == *self.types && **settings == *self.settings)
    }
}

/// Every statement that some client or server holds, once. Touched by Parse, never by Bind.
#[derive(Debug, Default)]
pub struct StatementInterner {
    statements: Mutex<HashMap<Key, Arc<Statement>, foldhash::quality::RandomState>>,
    next: AtomicU64,
}

/// Below this many statements, unused ones are not looked for.
const PRUNE_ABOVE: usize = 256;

impl StatementInterner {
    /// The shared statement of a Parse message. A text that executes another statement names it as the
    /// server does, so the same text always needs the same.
    pub fn parse(
        &self,
        text: &[u8],
        types: &[u8],
        settings: &[u8],
        facts: sql::Facts,
        needs: Option<Arc<Statement>>,
    ) -> Arc<Statement> {
        let statements = self
            .statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = statements.get(&ParseKey {
            text,
            types,
            settings,
        }) {
            return Arc::clone(statement);
        }
        drop(statements);
        let source = Source::Parse {
            text: text.into(),
            types: types.into(),
            settings: settings.into(),
        };
        self.add(source, facts, needs)
    }

    /// The statement of a Parse message, if it is known and a server has accepted it.
    pub(super) fn accepted(
        &self,
        text: &[u8],
        types: &[u8],
        settings: &[u8],
    ) -> Option<Arc<Statement>> {
        let statements = self
            .statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let statement = statements.get(&ParseKey {
            text,
            types,
            settings,
        })?;
        statement.is_accepted().then(|| Arc::clone(statement))
    }

    /// The same statement, read under other settings.
    pub(super) fn under(&self, statement: &Statement, settings: Box<[u8]>) -> Arc<Statement> {
        let source = statement.source.with_settings(settings);
        self.add(source, statement.facts, statement.needs.clone())
    }

    /// The shared statement of an SQL `PREPARE` whose name stood between `before` and `after`.
    pub fn prepare(
        &self,
        before: &[u8],
        after: &[u8],
        settings: Box<[u8]>,
        facts: sql::Facts,
    ) -> Arc<Statement> {
        let source = Source::Prepare {
            before: before.into(),
            after: after.into(),
            settings,
        };
        self.add(source, facts, None)
    }

    fn add(
        &self,
        source: Source,
        facts: sql::Facts,
        needs: Option<Arc<Statement>>,
    ) -> Arc<Statement> {
        let mut statements = self
            .statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = statements.get(&Key(source.clone())) {
            return Arc::clone(statement);
        }
        if statements.len() >= PRUNE_ABOVE && statements.len() == statements.capacity() {
            statements.retain(|_, statement| Arc::strong_count(statement) > 1);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("{NAME_PREFIX}{id}").into_bytes().into();
        let statement = Arc::new(Statement {
            id: StatementId(id),
            name,
            source: source.clone(),
            facts,
            needs,
            verdict: Verdict::default(),
            accepted: AtomicBool::new(false),
        });
        statements.insert(Key(source), Arc::clone(&statement));
        statement
    }

    /// The text of this statement has come to mean something else: who prepares it from now on gets
    /// another one. Who has prepared it before still has the old one, and is told so by PostgreSQL.
    pub(super) fn retire(&self, statement: &Statement) {
        let key = Key(statement.source.clone());
        let mut statements = self
            .statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if statements
            .get(&key)
            .is_some_and(|known| known.id == statement.id)
        {
            statements.remove(&key);
        }
    }

    /// How many statements are held.
    pub fn len(&self) -> usize {
        self.statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A client's names for its statements. Empty and without heap until the first one.
#[derive(Debug, Default)]
pub struct ClientStatements {
    by_name: HashMap<Box<[u8]>, Arc<Statement>, foldhash::fast::RandomState>,
}

impl ClientStatements {
    /// The statement that the client calls `name`.
    #[inline]
    pub fn named(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.by_name.get(name)
    }

    /// Gives `name` to a statement.
    pub fn insert(&mut self, name: &[u8], statement: Arc<Statement>) {
        self.by_name.insert(name.into(), statement);
    }

    /// Takes `name` away.
    pub fn remove(&mut self, name: &[u8]) -> Option<Arc<Statement>> {
        self.by_name.remove(name)
    }

    /// Takes `name` away if it still means the statement `id`.
    pub fn remove_if(&mut self, name: &[u8], id: StatementId) {
        if self
            .by_name
            .get(name)
            .is_some_and(|statement| statement.id == id)
        {
            self.by_name.remove(name);
        }
    }

    /// Takes all names away, and answers them.
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Gives back the names that were taken away and are not in use again.
    pub fn restore(&mut self, taken: Self) {
        for (name, statement) in taken.by_name {
            self.by_name.entry(name).or_insert(statement);
        }
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// What the client calls the statement that a server calls `server_name`.
    pub fn client_name(&self, server_name: &[u8]) -> Option<&[u8]> {
        self.by_name
            .iter()
            .find(|(_, statement)| *statement.name == *server_name)
            .map(|(name, _)| &**name)
    }
}

/// How a server stands to a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has it, as far as we were told.
    Present,
    /// It may have it or not, or in a state that is of no use: close it before preparing it.
    Doubtful,
    /// It does not have it.
    Absent,
}

/// The statements that one server has, by use.
///
/// Doubt is always safe: it costs one Close and one Parse at the next use.
#[derive(Debug)]
pub struct ServerStatements {
    held: HashMap<StatementId, Held, foldhash::fast::RandomState>,
    limit: usize,
    clock: u64,
}

#[derive(Debug)]
struct Held {
    statement: Arc<Statement>,
    used: u64,
    is_doubtful: bool,
}

impl ServerStatements {
    /// None, and hardly ever more than `limit` (`max_prepared_statements`); at least two, because one
    /// may execute another.
    pub fn new(limit: usize) -> Self {
        Self {
            held: HashMap::default(),
            limit: limit.max(2),
            clock: 0,
        }
    }

    /// Whether the server has it; counts as a use.
    #[inline]
    pub fn touch(&mut self, id: StatementId) -> Presence {
        self.clock += 1;
        match self.held.get_mut(&id) {
            Some(held) => {
                held.used = self.clock;
                if held.is_doubtful {
                    Presence::Doubtful
                } else {
                    Presence::Present
                }
            }
            None => Presence::Absent,
        }
    }

    /// Enters a statement; answers the one that has to make room for it.
    pub fn insert(&mut self, statement: &Arc<Statement>) -> Option<Arc<Statement>> {
        self.clock += 1;
        let evicted = (self.held.len() >= self.limit && !self.held.contains_key(&statement.id))
            .then(|| {
                self.held
                    .iter()
                    .min_by_key(|(id, held)| (held.used, id.0))
                    .map(|(id, _)| *id)
            })
            .flatten()
            .and_then(|id| self.held.remove(&id));
        self.held.insert(
            statement.id,
            Held {
                statement: Arc::clone(statement),
                used: self.clock,
                is_doubtful: false,
            },
        );
        evicted.map(|held| held.statement)
    }

    /// Enters a statement that the server has perhaps not lost after all; above the limit if need be.
    pub fn insert_doubtful(&mut self, statement: &Arc<Statement>) {
        self.held.entry(statement.id).or_insert_with(|| Held {
            statement: Arc::clone(statement),
            used: 0,
            is_doubtful: true,
        });
    }

    /// The statement, if the server may have it.
    pub(super) fn held(&self, id: StatementId) -> Option<&Statement> {
        self.held.get(&id).map(|held| &*held.statement)
    }

    /// It is no longer certain that the server has this one.
    pub fn doubt(&mut self, id: StatementId) {
        if let Some(held) = self.held.get_mut(&id) {
            held.is_doubtful = true;
        }
    }

    /// It is no longer certain what the server has under these names.
    pub fn doubt_named(&mut self, names: &[Box<[u8]>]) {
        if names.is_empty() {
            return;
        }
        for held in self.held.values_mut() {
            held.is_doubtful |= names.contains(&held.statement.name);
        }
    }

    /// It is no longer certain that the server has any of them.
    pub fn doubt_all(&mut self) {
        for held in self.held.values_mut() {
            held.is_doubtful = true;
        }
    }

    /// Takes a statement back that turned out not to be there.
    pub fn remove(&mut self, id: StatementId) {
        self.held.remove(&id);
    }

    /// How many the server may have at least, and at most.
    pub fn bounds(&self) -> (usize, usize) {
        let certain = self.held.values().filter(|held| !held.is_doubtful);
        (certain.count(), self.held.len())
    }

    /// The server has dropped all of them.
    pub fn clear(&mut self) {
        self.held.clear();
    }

    /// How many the server has.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
