//! A table of names, each in a schema or in any, with a word of knowledge beside it.
//!
//! Compact: all bytes in one allocation, some 20 bytes an entry beside them.

use super::super::NameFilter;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use std::collections::{BTreeMap, btree_map};
use std::hash::BuildHasher;

/// What a schema and a name lead to; `None` stands for any schema.
pub(super) struct Names<T> {
    bytes: Box<[u8]>,
    entries: HashTable<Entry<T>>,
    hasher: RandomState,
    beyond_ascii: bool,
}

struct Entry<T> {
    name: Place,
    schema: Option<Place>,
    known: T,
}

/// Names have at most 63 bytes.
#[derive(Clone, Copy)]
struct Place {
    start: u32,
    len: u8,
}

/// Names on their way into a table, each once.
pub(super) struct NamesBuilder<'n, T>(BTreeMap<(&'n [u8], Option<&'n [u8]>), T>);

impl<'n, T: Copy> NamesBuilder<'n, T> {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds a name; `merge` unites what is known of two of the same.
    pub(super) fn add(
        &mut self,
        schema: Option<&'n [u8]>,
        name: &'n [u8],
        known: T,
        merge: impl Fn(T, T) -> T,
    ) {
        match self.0.entry((name, schema)) {
            btree_map::Entry::Vacant(vacant) => drop(vacant.insert(known)),
            btree_map::Entry::Occupied(mut there) => {
                let merged = merge(*there.get(), known);
                there.insert(merged);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For all of them.
    pub(super) fn filter(&self) -> NameFilter {
        let mut filter = NameFilter::default();
        for (name, _) in self.0.keys() {
            filter.add(name);
        }
        filter
    }

    pub(super) fn build(self) -> Names<T> {
        let hasher = RandomState::default();
        let mut bytes = Vec::new();
        let mut entries = HashTable::with_capacity(self.0.len());
        let mut schemas = BTreeMap::new();
        let mut beyond_ascii = false;
        for ((name, schema), known) in self.0 {
            // Longer ones are found by no statement: the classifier does not ask for them.
            let Some(at) = place(&mut bytes, name) else {
                continue;
            };
            let schema = match schema {
                None => None,
                Some(schema) => {
                    let known = schemas.entry(schema);
                    let Some(at) = *known.or_insert_with(|| place(&mut bytes, schema)) else {
                        continue;
                    };
                    Some(at)
                }
            };
            beyond_ascii |= !name.is_ascii() || schema.is_some_and(|s| !of(&bytes, s).is_ascii());
            let entry = Entry {
                name: at,
                schema,
                known,
            };
            let hash = |entry: &Entry<T>| hasher.hash_one(of(&bytes, entry.name));
            entries.insert_unique(hash(&entry), entry, hash);
        }
        Names {
            bytes: bytes.into(),
            entries,
            hasher,
            beyond_ascii,
        }
    }
}

fn place(bytes: &mut Vec<u8>, name: &[u8]) -> Option<Place> {
    let start = u32::try_from(bytes.len()).ok()?;
    let len = u8::try_from(name.len()).ok()?;
    bytes.extend_from_slice(name);
    Some(Place { start, len })
}

fn of(bytes: &[u8], place: Place) -> &[u8] {
    let start = place.start as usize;
    &bytes[start..start + usize::from(place.len)]
}

impl<T: Copy> Names<T> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn has_names_beyond_ascii(&self) -> bool {
        self.beyond_ascii
    }

    /// What is known of a name, with the schema that it is known in.
    #[inline]
    pub(super) fn find(&self, name: &[u8]) -> impl Iterator<Item = (Option<&[u8]>, T)> {
        let entries = self.entries.iter_hash(self.hasher.hash_one(name));
        entries
            .filter(move |entry| of(&self.bytes, entry.name) == name)
            .map(|entry| (entry.schema.map(|at| of(&self.bytes, at)), entry.known))
    }
}
