//! Answers for texts that were looked at before.
//!
//! For one worker, so without locks. The whole text is the key: two texts never share an answer, whatever they hash to.
//! The caller's `world` stands for everything else that the answer depends on: the generation of the catalogue, the
//! session's string syntax and the like; an entry of another world is replaced.
//!
//! Bounded by bytes. When there is no room, a hand goes round and throws out what was not asked for since it last came
//! by (CLOCK), so a run of texts that are never seen again costs at most one turn of the hand.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use super::Facts;

/// Longer texts are seldom seen twice, and a few of them would fill the cache.
pub const MAX_TEXT: usize = 4096;

/// What an entry costs beside its text, in bytes.
const OVERHEAD: usize = size_of::<Entry>() + 16;

/// See the module.
pub struct Cache {
    hasher: RandomState,
    /// Positions in `entries`, by hash of the text.
    index: HashTable<u32>,
    entries: Vec<Entry>,
    hand: usize,
    bytes: usize,
    budget: usize,
}

struct Entry {
    text: Box<[u8]>,
    hash: u64,
    world: u64,
    facts: Facts,
    used: bool,
}

/// How full a cache is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Texts in memory.
    pub entries: usize,
    /// What they take, in bytes.
    pub bytes: usize,
}

impl Cache {
    /// A cache that takes at most about `budget` bytes; 0 keeps nothing.
    pub fn new(budget: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            index: HashTable::new(),
            entries: Vec::new(),
            hand: 0,
            bytes: 0,
            budget,
        }
    }

    /// What was found about `text` in that world.
    #[inline]
    pub fn find(&mut self, text: &[u8], world: u64) -> Option<Facts> {
        if self.entries.is_empty() {
            return None;
        }
        let position = *self.position(text, self.hasher.hash_one(text))?;
        let entry = &mut self.entries[position as usize];
        if entry.world != world {
            return None;
        }
        entry.used = true;
        Some(entry.facts)
    }

    /// Keeps what was found about `text`, in place of what was found in another world.
    pub fn keep(&mut self, text: &[u8], world: u64, facts: Facts) {
        if text.len() > MAX_TEXT || text.len() + OVERHEAD > self.budget {
            return;
        }
        self.forget(text);
        let hash = self.hasher.hash_one(text);
        self.insert(Entry {
            text: text.into(),
            hash,
            world,
            facts,
            used: false,
        });
    }

    /// Forgets what was found about `text`.
    pub fn forget(&mut self, text: &[u8]) {
        let hash = self.hasher.hash_one(text);
        if let Some(&position) = self.position(text, hash) {
            self.remove(position as usize);
        }
    }

    /// How full it is.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            entries: self.entries.len(),
            bytes: self.bytes,
        }
    }

    fn position(&self, text: &[u8], hash: u64) -> Option<&u32> {
        self.index
            .find(hash, |&p| *self.entries[p as usize].text == *text)
    }

    fn insert(&mut self, entry: Entry) {
        while self.bytes + entry.text.len() + OVERHEAD > self.budget {
            self.evict();
        }
        let Ok(position) = u32::try_from(self.entries.len()) else {
            return;
        };
        self.bytes += entry.text.len() + OVERHEAD;
        let entries = &self.entries;
        self.index
            .insert_unique(entry.hash, position, |&p| entries[p as usize].hash);
        self.entries.push(entry);
    }

    /// Throws out the next entry that was not used since the hand last passed.
    fn evict(&mut self) {
        loop {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            let entry = &mut self.entries[self.hand];
            let kept = std::mem::take(&mut entry.used);
            self.hand += 1;
            if !kept {
                // What takes the place of the removed entry has its turn in the next round.
                return self.remove(self.hand - 1);
            }
        }
    }

    /// Removes one entry; the last one takes its place.
    fn remove(&mut self, position: usize) {
        let is = |wanted: usize| move |&p: &u32| p as usize == wanted;
        let last = self.entries.len() - 1;
        let gone = self.entries.swap_remove(position);
        self.bytes -= gone.text.len() + OVERHEAD;
        if let Ok(slot) = self.index.find_entry(gone.hash, is(position)) {
            slot.remove();
        }
        if position != last
            && let Some(moved) = self.index.find_mut(self.entries[position].hash, is(last))
            && let Ok(new) = u32::try_from(position)
        {
            *moved = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Env, classify};

    fn text(number: usize) -> Vec<u8> {
        format!("select {number:0>130}").into_bytes()
    }

    /// Asks for a text, and keeps what was found; answers whether it was there.
    fn ask(cache: &mut Cache, text: &[u8], world: u64) -> bool {
        let facts = classify(text, &Env::default());
        let found = cache.find(text, world);
        if let Some(found) = found {
            assert_eq!(found, facts);
        } else {
            cache.keep(text, world, facts);
        }
        found.is_some()
    }

    #[test]
    fn a_text_is_looked_at_once_in_each_world() {
        let mut cache = Cache::new(1 << 20);
        let asked = [(1, 0), (1, 0), (2, 0), (1, 1), (1, 1), (1, 0)];
        let found = asked.map(|(number, world)| ask(&mut cache, &text(number), world));
        assert_eq!(found, [false, true, false, false, true, false]);
        assert_eq!(cache.stats().entries, 2);
    }

    #[test]
    fn long_texts_are_not_kept_and_without_a_budget_none() {
        for (budget, length) in [(1 << 20, MAX_TEXT + 1), (0, 10)] {
            let mut cache = Cache::new(budget);
            assert!(!ask(&mut cache, &vec![b' '; length], 0));
            assert_eq!(cache.stats(), CacheStats::default());
        }
    }

    #[test]
    fn the_budget_holds_and_what_is_used_stays() {
        let budget = 10 * (text(0).len() + OVERHEAD);
        let mut cache = Cache::new(budget);
        ask(&mut cache, &text(0), 0);
        for number in 1..1000 {
            ask(&mut cache, &text(number), 0);
            assert!(ask(&mut cache, &text(0), 0), "lost at {number}");
            assert!(cache.stats().bytes <= budget && cache.index.len() == cache.entries.len());
        }
        assert_eq!(cache.stats().entries, 10);
        assert!(
            ask(&mut cache, &text(999), 0),
            "the newest text was not kept"
        );
    }
}
