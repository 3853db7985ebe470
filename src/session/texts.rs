//! Looking at SQL texts, once each.
//!
//! What one worker's sessions share: the cache of answers for long texts and for shapes, and the answers for
//! the most recent texts, so that the decision where a text goes and the bookkeeping of what it may leave behind
//! cost one look together. What the catalogue knows comes in as a [`World`].

use std::{cell::RefCell, hash::BuildHasher, rc::Rc, sync::Arc};

use foldhash::quality::RandomState;
use hashbrown::HashSet;

use super::{Session, dialect::Dialect, statements::Source};
use crate::{
    protocol::{
        FrontendTag, frame,
        frontend::{self, Bind, Parse},
    },
    sql::{
        self, Builtins, Class, Detail, Env, Facts, Knowledge, Reason, Span, cache::Cache,
        recent::Recent,
    },
};

/// What a worker's cache of texts may take, in bytes.
const CACHE_BUDGET: usize = 8 << 20;

/// Shorter texts without a shape are looked at anew: that costs no more than asking the cache.
const CACHED_FROM: usize = 128;

/// So many texts that were refused are remembered; then all are forgotten.
const MAX_REFUSED: usize = 10_000;

/// What is known of a database's functions and relations. Worlds of different numbers, of whatever
/// databases, are never confused.
pub struct World {
    /// Never used twice within the process, and never 0: that is the world of the built-in functions.
    pub number: u64,
    /// What is known.
    pub knowledge: Arc<dyn Knowledge>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// What the sessions of one worker share.
#[derive(Debug, Clone)]
pub struct Texts(Rc<RefCell<Looks>>);

struct Looks {
    cache: Cache,
    recent: Recent,
    /// Room for a shape.
    shape: Vec<u8>,
    /// Texts that a replica has refused although they had been found to be reads: hashes of the text
    /// and its key.
    refused: HashSet<u64, RandomState>,
}

impl std::fmt::Debug for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Looks")
            .field("cache", &self.cache.stats())
            .finish_non_exhaustive()
    }
}

impl Texts {
    /// For the sessions of one worker.
    pub fn of_worker() -> Self {
        Self::with_budget(CACHE_BUDGET)
    }

    fn with_budget(budget: usize) -> Self {
        Self(Rc::new(RefCell::new(Looks {
            cache: Cache::new(budget),
            recent: Recent::default(),
            shape: Vec::new(),
            refused: HashSet::default(),
        })))
    }

    #[inline]
    fn facts(&self, text: &[u8], key: u64, env: &Env<'_>) -> Facts {
        let mut looks = self.0.borrow_mut();
        let known = looks.recent.find(text, key);
        known.unwrap_or_else(|| looks.facts(text, key, env))
    }
}

/// What a text is remembered by: its shape, where it has one.
fn remembered<'a>(text: &'a [u8], shape: &'a mut Vec<u8>) -> (&'a [u8], bool) {
    let has_shape = text.len() <= sql::cache::MAX_TEXT && sql::shape(text, shape);
    (if has_shape { shape } else { text }, has_shape)
}

impl Looks {
    fn facts(&mut self, text: &[u8], key: u64, env: &Env<'_>) -> Facts {
        let Self {
            cache,
            recent,
            shape,
            refused,
        } = self;
        let (remembered, has_shape) = remembered(text, shape);
        if (has_shape || text.len() >= CACHED_FROM)
            && let Some(facts) = cache.find(remembered, key)
        {
            recent.keep(text, key, facts, has_shape);
            return facts;
        }
        let mut facts = sql::classify(text, env);
        if !refused.is_empty() && refused.contains(&refused.hasher().hash_one((key, remembered))) {
            facts.class = Class::Unknown;
            facts.reason = Reason::RefusedByReplica;
        }
        let holds_for_shape = has_shape && facts.statements == 1 && facts.detail == Detail::None;
        if holds_for_shape {
            // Places in the text are not those in another of its shape.
            facts.evidence = Span::default();
        }
        if holds_for_shape || !has_shape && text.len() >= CACHED_FROM {
            cache.keep(remembered, key, facts);
        }
        recent.keep(text, key, facts, holds_for_shape);
        facts
    }

    /// A replica has refused the text.
    fn refuse(&mut self, text: &[u8], key: u64) {
        if self.refused.len() >= MAX_REFUSED {
            self.refused.clear();
        }
        let (remembered, _) = remembered(text, &mut self.shape);
        let hash = self.refused.hasher().hash_one((key, remembered));
        self.refused.insert(hash);
        self.recent.clear();
        self.cache.forget(remembered);
    }
}

impl Default for Texts {
    /// Keeps nothing but the most recent texts.
    fn default() -> Self {
        Self::with_budget(0)
    }
}

impl Session {
    /// With the worker's memory of texts.
    pub fn sharing(mut self, texts: Texts) -> Self {
        self.texts = texts;
        self
    }

    /// The number of the world that texts are read in now.
    #[inline]
    pub fn world(&self) -> u64 {
        self.world.as_ref().map_or(0, |world| world.number)
    }

    /// From now on, texts are read with what this world knows.
    pub fn set_world(&mut self, world: Arc<World>) {
        self.world = Some(world);
    }

    /// What a text is, as the session would have it read now.
    #[inline]
    pub fn look(&self, text: &[u8]) -> Facts {
        let knowledge: &dyn Knowledge = match &self.world {
            Some(world) => &*world.knowledge,
            None => &Builtins,
        };
        let env = self.dialect.env(knowledge);
        self.texts.facts(text, self.dialect.key(self.world()), &env)
    }

    /// A replica has refused the unit `data`, which had been found to be a read: whatever text it holds,
    /// and any of its shape, is not taken for one again, as long as the catalogue knows nothing new.
    pub fn learn_refusal(&self, data: &[u8]) {
        let key = self.dialect.key(self.world());
        let mut rest = data;
        while let Ok(Some(frame)) = frame::frontend(rest, u32::MAX) {
            let body = frame.body();
            let text = match frame.tag {
                FrontendTag::Query => frontend::query(body).ok(),
                FrontendTag::Parse => Parse::read(body).ok().map(|parse| parse.text),
                _ => None,
            };
            if let Some(text) = text {
                self.texts.0.borrow_mut().refuse(text, key);
            }
            if let (FrontendTag::Bind, Ok(bind)) = (frame.tag, Bind::read(body)) {
                self.learn_refusal_of(bind.statement, key);
            }
            rest = rest.get(frame.size..).unwrap_or_default();
        }
    }

    fn learn_refusal_of(&self, name: &[u8], key: u64) {
        if let Some(statement) = self.statements.named(name) {
            statement.verdict.refuse(self.world());
            if let Source::Parse { text, .. } = &statement.source {
                self.texts.0.borrow_mut().refuse(text, key);
            }
        } else if let Some(text) = self.unnamed.text() {
            self.texts.0.borrow_mut().refuse(text, key);
        }
    }

    /// What is known without looking at any text: the session's own way of writing.
    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }
}
