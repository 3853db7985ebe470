//! Run-time parameters of a session, and the statements that turn one set into another.
//!
//! A [`Settings`] holds what differs from the server connection's own defaults. Sets are interned, so
//! "does this server have this client's settings?" is a pointer comparison in the steady state, and
//! ten thousand clients with the same settings share one copy. Values are what the server itself
//! reported or what the client's startup packet said; SQL text is never parsed for them.
//!
//! Does not know when a set is applied, nor on which server.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use hashbrown::HashSet;

use crate::protocol::encode;

/// Names to values. Names are ASCII-lower-cased, for PostgreSQL compares them without case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings(BTreeMap<Box<[u8]>, Box<[u8]>>);

/// Parameters that are not plain settings: they change whose privileges all later ones are set with.
const ROLE: &[u8] = b"role";
const SESSION_AUTHORIZATION: &[u8] = b"session_authorization";
const CLIENT_ENCODING: &[u8] = b"client_encoding";
/// Begins a change of settings, which is made whole or is the end of the connection.
const BEGIN: &[u8] = b"BEGIN;SET LOCAL exit_on_error=on;";
/// Settings that decide what a text means when it is prepared: how its bytes and its constants are
/// read. PostgreSQL does not read it again when they change.
const READ_BY_PARSER: [&[u8]; 11] = [
    b"array_nulls",
    b"backslash_quote",
    CLIENT_ENCODING,
    b"datestyle",
    b"intervalstyle",
    b"lc_monetary",
    b"standard_conforming_strings",
    b"timezone",
    b"timezone_abbreviations",
    b"transform_null_equals",
    b"xmloption",
];
/// Settings on whose change PostgreSQL reads it again, so that a statement for each is the faster.
const READ_BY_PLANNER: [&[u8]; 3] = [b"search_path", ROLE, SESSION_AUTHORIZATION];

impl Settings {
    /// Sets `name`; a later value wins.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        self.0
            .insert(name.to_ascii_lowercase().into(), value.into());
    }

    /// The value of `name`, which must be in lower case.
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.get(name).map(AsRef::as_ref)
    }

    /// Whether transactions are serializable unless they say otherwise.
    pub fn is_serializable(&self) -> bool {
        let value = self.value(b"default_transaction_isolation");
        value.is_some_and(|value| value.eq_ignore_ascii_case(b"serializable"))
    }

    /// Whether nothing differs from the defaults.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Adds what `other` has and this has not.
    pub fn fill_from(&mut self, other: &Self) {
        for (name, value) in other.iter() {
            if self.value(name).is_none() {
                self.insert(name, value);
            }
        }
    }

    /// All but `name`.
    pub fn without(&self, name: &[u8]) -> Self {
        let mut rest = self.clone();
        rest.0.remove(name);
        rest
    }

    /// Those that RESET ALL does not reset: who the session is.
    pub(super) fn identity(&self) -> Self {
        let mut identity = self.clone();
        identity
            .0
            .retain(|name, _| [ROLE, SESSION_AUTHORIZATION].contains(&&**name));
        identity
    }

    /// The part that decides what a statement's text means, for the key of prepared statements.
    pub fn planner_relevant(&self) -> Box<[u8]> {
        let mut key = Vec::new();
        for name in READ_BY_PARSER.into_iter().chain(READ_BY_PLANNER) {
            if let Some(value) = self.value(name) {
                key.extend_from_slice(name);
                key.push(0);
                key.extend_from_slice(value);
                key.push(0);
            }
        }
        key.into()
    }

    /// The Query messages that turn a server with the settings `from` into one with `to`, appended to
    /// `out`; answers how many.
    ///
    /// All but the encoding travel in one transaction block. A refusal ends the connection
    /// (`exit_on_error`): whatever was sent behind must not run under somebody else's settings, and a
    /// failed block would not prevent that, because the client's own ROLLBACK would end it. The
    /// encoding goes first and alone, because it decides how the bytes of the other values are read.
    pub fn reconcile(from: &Self, to: &Self, out: &mut Vec<u8>) -> usize {
        let mut queries = 0;
        let encoding = to.value(CLIENT_ENCODING);
        if from.value(CLIENT_ENCODING) != encoding {
            let mut text = BEGIN.to_vec();
            match encoding {
                Some(value) => append_set(&mut text, CLIENT_ENCODING, value),
                None => append_reset(&mut text, CLIENT_ENCODING),
            }
            text.extend_from_slice(b"COMMIT");
            encode::query(out, &text);
            queries += 1;
        }
        let mut text = BEGIN.to_vec();
        let head = text.len();
        Self::append_changes(from, to, &mut text);
        if text.len() > head {
            text.extend_from_slice(b"COMMIT");
            encode::query(out, &text);
            queries += 1;
        }
        queries
    }

    fn append_changes(from: &Self, to: &Self, text: &mut Vec<u8>) {
        // Identities are undone first and taken last: everything between runs with the privileges
        // of the connection's own user.
        let identity_changes = [SESSION_AUTHORIZATION, ROLE]
            .iter()
            .any(|name| from.value(name) != to.value(name));
        if identity_changes {
            for name in [ROLE, SESSION_AUTHORIZATION] {
                if from.value(name).is_some() {
                    append_reset(text, name);
                }
            }
        }
        let plain = |name: &[u8]| ![CLIENT_ENCODING, ROLE, SESSION_AUTHORIZATION].contains(&name);
        for (name, _) in from.iter().filter(|(name, _)| plain(name)) {
            if to.value(name).is_none() {
                append_reset(text, name);
            }
        }
        for (name, value) in to.iter().filter(|(name, _)| plain(name)) {
            if from.value(name) != Some(value) {
                append_set(text, name, value);
            }
        }
        if identity_changes {
            for name in [SESSION_AUTHORIZATION, ROLE] {
                if let Some(value) = to.value(name) {
                    append_set(text, name, value);
                }
            }
        }
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Settings {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut settings = Self::default();
        for (name, value) in pairs {
            settings.insert(name.as_ref(), value.as_ref());
        }
        settings
    }
}

/// Whether the setting decides what a text means when it is prepared.
pub(super) fn is_read_by_parser(name: &[u8]) -> bool {
    READ_BY_PARSER
        .into_iter()
        .any(|known| known.eq_ignore_ascii_case(name))
}

fn append_set(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    text.extend_from_slice(b"SELECT pg_catalog.set_config(");
    append_literal(text, name);
    text.push(b',');
    append_literal(text, value);
    text.extend_from_slice(b",false);");
}

fn append_reset(text: &mut Vec<u8>, name: &[u8]) {
    text.extend_from_slice(b"RESET ");
    if name == SESSION_AUTHORIZATION {
        text.extend_from_slice(b"SESSION AUTHORIZATION");
    } else {
        for (part, piece) in name.split(|&b| b == b'.').enumerate() {
            if part > 0 {
                text.push(b'.');
            }
            append_identifier(text, piece);
        }
    }
    text.push(b';');
}

fn append_identifier(text: &mut Vec<u8>, name: &[u8]) {
    text.push(b'"');
    for &byte in name {
        if byte == b'"' {
            text.push(byte);
        }
        text.push(byte);
    }
    text.push(b'"');
}

/// Appends an expression for a string that means the same under both values of
/// `standard_conforming_strings`, and in every client encoding: in some of them a character may end with the
/// byte of a backslash, which must not be doubled.
pub(super) fn append_literal(text: &mut Vec<u8>, value: &[u8]) {
    let has_backslash = value.contains(&b'\\');
    if has_backslash && !value.is_ascii() {
        text.extend_from_slice(b"pg_catalog.convert_from(pg_catalog.decode('");
        for byte in value {
            text.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
        text.extend_from_slice(b"','hex'),pg_catalog.pg_client_encoding())");
        return;
    }
    if has_backslash {
        text.push(b'E');
    }
    text.push(b'\'');
    for &byte in value {
        if byte == b'\'' || byte == b'\\' {
            text.push(byte);
        }
        text.push(byte);
    }
    text.push(b'\'');
}

/// Every distinct set of settings in use, once.
#[derive(Debug, Default)]
pub struct SettingsInterner {
    sets: Mutex<HashSet<Arc<Settings>>>,
}

/// Below this many sets, unused ones are not looked for.
const PRUNE_ABOVE: usize = 64;

impl SettingsInterner {
    /// The shared copy of `settings`.
    pub fn intern(&self, settings: Settings) -> Arc<Settings> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = sets.get(&settings) {
            return Arc::clone(shared);
        }
        if sets.len() >= PRUNE_ABOVE && sets.len() == sets.capacity() {
            sets.retain(|shared| Arc::strong_count(shared) > 1);
        }
        let shared = Arc::new(settings);
        sets.insert(Arc::clone(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{frame, frontend};

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().copied().collect()
    }

    fn reconciled(from: &[(&str, &str)], to: &[(&str, &str)]) -> Vec<String> {
        let mut out = Vec::new();
        let count = Settings::reconcile(&settings(from), &settings(to), &mut out);
        let mut texts = Vec::new();
        let mut rest = &out[..];
        while let Some(frame) = frame::frontend(rest, u32::MAX).expect("valid") {
            let text = frontend::query(frame.body()).expect("well-formed");
            texts.push(String::from_utf8(text.to_vec()).expect("ASCII"));
            rest = &rest[frame.size..];
        }
        assert_eq!(texts.len(), count);
        texts
    }

    #[test]
    fn equal_sets_need_nothing() {
        assert!(reconciled(&[("timezone", "UTC")], &[("TimeZone", "UTC")]).is_empty());
    }

    #[test]
    fn differences_are_one_transaction_that_fails_as_a_whole() {
        assert_eq!(
            reconciled(
                &[
                    ("search_path", "a"),
                    ("app.tenant", "7"),
                    ("work_mem", "1MB")
                ],
                &[("search_path", "b, \"$user\""), ("work_mem", "1MB")],
            ),
            ["BEGIN;SET LOCAL exit_on_error=on;RESET \"app\".\"tenant\";\
              SELECT pg_catalog.set_config('search_path','b, \"$user\"',false);COMMIT"]
        );
    }

    #[test]
    fn roles_are_undone_first_and_taken_last() {
        assert_eq!(
            reconciled(
                &[("role", "alice")],
                &[("role", "bob"), ("work_mem", "2MB")]
            ),
            ["BEGIN;SET LOCAL exit_on_error=on;RESET \"role\";\
              SELECT pg_catalog.set_config('work_mem','2MB',false);\
              SELECT pg_catalog.set_config('role','bob',false);COMMIT"]
        );
    }

    #[test]
    fn the_encoding_goes_first_and_alone() {
        let texts = reconciled(&[], &[("client_encoding", "LATIN1"), ("a.b", "x")]);
        assert_eq!(texts.len(), 2);
        assert!(texts[0].contains("client_encoding") && !texts[1].contains("client_encoding"));
    }

    #[test]
    fn literals_hold_quotes_and_backslashes_whatever_the_string_mode() {
        let mut text = Vec::new();
        append_literal(&mut text, b"it's");
        text.push(b' ');
        append_literal(&mut text, b"a\\'b");
        assert_eq!(text, b"'it''s' E'a\\\\''b'");
        text.clear();
        append_literal(&mut text, b"\x95\\'");
        let expected = b"pg_catalog.convert_from(pg_catalog.decode('955c27','hex'),\
            pg_catalog.pg_client_encoding())";
        assert_eq!(text, expected);
    }

    #[test]
    fn interning_shares_equal_sets_and_forgets_unused_ones() {
        let interner = SettingsInterner::default();
        let a = interner.intern(settings(&[("a", "1")]));
        assert!(Arc::ptr_eq(&a, &interner.intern(settings(&[("A", "1")]))));
        for i in 0..10_000 {
            drop(interner.intern(settings(&[("n", &i.to_string())])));
        }
        assert!(interner.sets.lock().expect("no panic").len() < 1000);
        assert!(Arc::ptr_eq(&a, &interner.intern(settings(&[("a", "1")]))));
    }
}
