//! SQL text → facts: what the pooler and the router need to know of a query string, from one look at its bytes.
//!
//! ```text
//! words     keywords by hash                     facts      the vocabulary of answers
//! lexer     bytes → tokens, as scan.l            builtins   which functions may run on a replica
//! statement one statement, by its first word     walk, call everything that contains expressions
//! hint      wishes of the client in comments     cache      answers for texts seen before
//! shape     a text without its numbers        catalogue  what one database holds of its own
//! ```
//!
//! There is no tree, no recursion and no allocation: time is linear in the text and the stack constant, whatever the
//! text is. Nothing here knows a socket, a session or a server; what a catalogue knows enters through [`Knowledge`].
//!
//! **Read only when proved.** [`Class::Read`] means: every statement of the string is of a kind that cannot write, has
//! no locking clause, no data-modifying WITH, no INTO, and calls only functions that are known to be safe on a
//! replica. The proof leans on one fact about PostgreSQL: a text that its grammar refuses has no effect at all, since
//! the whole string is parsed before any of it runs. So a rule need only be right for texts that are valid.

mod builtins;
pub mod cache;
mod call;
pub mod catalogue;
mod effects;
mod facts;
mod filter;
pub mod hint;
mod lexer;
pub mod recent;
mod settings;
mod shape;
mod statement;
mod transaction;
mod walk;
mod words;

pub use builtins::safe_functions;
pub use effects::Effects;
pub use filter::NameFilter;
pub use shape::shape;

pub use facts::{
    Class, Detail, Discard, Facts, Isolation, Parameter, Reason, SetScope, Span, TxControl, TxModes,
};

use std::borrow::Cow;

use lexer::Lexer;
use statement::Scanner;

/// Longest identifier in bytes; PostgreSQL cuts longer ones (`NAMEDATALEN - 1`).
const MAX_NAME: usize = 63;

/// What is known of a function beyond the table of built-ins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Nothing: a name that is no built-in counts as unsafe.
    Nothing,
    /// Every function that this name can mean is immutable or stable and reaches no volatile one.
    Safe,
    /// Some function that this name can mean is volatile, or reaches one that is.
    Volatile,
    /// Declared harmless by the operator of the system, whatever else is known.
    Exempt,
}

/// What a catalogue, or its absence, says about names. Names are passed as the catalogue spells them (folded, unquoted).
pub trait Knowledge: Send + Sync {
    /// Asked for each call. `schema` is `None` if the call is not qualified; a built-in of this name may exist.
    fn function(&self, schema: Option<&[u8]>, name: &[u8]) -> Known;

    /// Which names [`Self::is_unsafe_name`] may know, if any.
    fn watched_names(&self) -> Option<&NameFilter> {
        None
    }

    /// Is this the name of a relation that a standby cannot serve (temporary, unlogged, foreign, sequence) or a view that
    /// reaches a volatile function, of a type whose casts or constraints do, or of a volatile function of one row
    /// (`t.f` calls it)? Asked for every identifier that [`Self::watched_names`] lets through, since a token scan cannot tell
    /// a table from a column.
    fn is_unsafe_name(&self, _schema: Option<&[u8]>, _name: &[u8]) -> bool {
        false
    }

    /// Are there operators for [`Self::is_unsafe_operator`] to know?
    fn watches_operators(&self) -> bool {
        false
    }

    /// Does some operator of this spelling run a volatile function?
    fn is_unsafe_operator(&self, _operator: &[u8]) -> bool {
        false
    }
}

/// [`Knowledge`] without a catalogue: only built-in functions are known.
#[derive(Clone, Copy, Debug)]
pub struct Builtins;

impl Knowledge for Builtins {
    fn function(&self, _schema: Option<&[u8]>, _name: &[u8]) -> Known {
        Known::Nothing
    }
}

/// What a text means depends on these.
#[derive(Clone, Copy)]
pub struct Env<'k> {
    /// The setting of that name in the session that sends the text. `false` also where it is not known.
    pub standard_conforming_strings: bool,
    /// No character of the client encoding has an ASCII byte inside it: true for all but a few East Asian ones.
    pub ascii_safe_encoding: bool,
    /// The server's major version; what is built in depends on it. Below 14 counts as unknown, like 0: then only what all
    /// versions have is built in.
    pub server_version: u16,
    /// Longest text in bytes that is looked at; a longer one is [`Class::Unknown`].
    pub max_len: usize,
    /// What is known of functions and names beyond the built-in ones.
    pub knowledge: &'k dyn Knowledge,
}

impl Default for Env<'_> {
    /// A session as PostgreSQL starts it, without a catalogue; 1 MiB.
    fn default() -> Self {
        Self {
            standard_conforming_strings: true,
            ascii_safe_encoding: true,
            server_version: 0,
            max_len: 1 << 20,
            knowledge: &Builtins,
        }
    }
}

/// Looks at a whole query string: the text of a Query or Parse message, without its closing NUL.
pub fn classify(text: &[u8], env: &Env<'_>) -> Facts {
    let mut statements = statements(text, env);
    let Some((_, mut facts)) = statements.next() else {
        return Facts {
            comment: statements.comment(),
            ..nothing()
        };
    };
    for (_, next) in &mut statements {
        facts.absorb(&next);
    }
    facts.comment |= statements.comment();
    facts
}

/// Looks at each statement of a query string by itself; a text that cannot be understood ends with an item of
/// [`Class::Unknown`]. Spans are offsets into `text`; an item's own span excludes its semicolon.
pub fn statements<'a>(text: &'a [u8], env: &'a Env<'a>) -> Statements<'a> {
    let refused = if text.len() > env.max_len.min(u32::MAX as usize) {
        Some(Reason::TooLong)
    } else if !env.ascii_safe_encoding && !text.is_ascii() {
        Some(Reason::UnsafeEncoding)
    } else {
        None
    };
    let text = if refused.is_some() { b"" } else { text };
    Statements {
        scanner: Scanner::new(text, env),
        refused,
    }
}

/// The statements of a string, in order.
pub struct Statements<'a> {
    scanner: Scanner<'a>,
    refused: Option<Reason>,
}

impl Statements<'_> {
    fn comment(&self) -> bool {
        self.scanner.lexer.comment
    }
}

impl Iterator for Statements<'_> {
    type Item = (Span, Facts);

    fn next(&mut self) -> Option<Self::Item> {
        match self.refused.take() {
            Some(reason) => Some((Span::default(), unknown(reason))),
            None => self.scanner.statement(),
        }
    }
}

const fn nothing() -> Facts {
    Facts {
        class: Class::Empty,
        reason: Reason::NoStatement,
        evidence: Span { start: 0, end: 0 },
        effects: Effects::NONE,
        statements: 0,
        transaction: None,
        detail: Detail::None,
        comment: false,
    }
}

const fn unknown(reason: Reason) -> Facts {
    Facts {
        class: Class::Unknown,
        reason,
        effects: Effects::UNKNOWN,
        statements: 1,
        // May hold one: nobody looked.
        comment: true,
        ..nothing()
    }
}

impl Facts {
    /// Adds what a later statement of the same string does.
    fn absorb(&mut self, next: &Self) {
        self.effects |= next.effects;
        self.statements = self.statements.saturating_add(next.statements);
        self.detail = Detail::None;
        // Two of these are more than one of them: each names something of its own.
        let alone = matches!(
            self.class,
            Class::Begin | Class::Transaction | Class::Execute
        );
        if self.class == Class::Unknown || (next.class == self.class && !alone) {
            return;
        }
        match (self.class, next.class) {
            (_, Class::Unknown) | (Class::Read, Class::Write) => {
                (self.class, self.reason, self.evidence) = (next.class, next.reason, next.evidence);
            }
            (Class::Write, _) => {}
            _ => {
                (self.class, self.reason) = (Class::Write, Reason::MixedStatements);
                self.evidence = Span::default();
            }
        }
    }
}

/// An identifier as PostgreSQL understands it: unquoted ones in lower case, quoted ones without their quotes, both cut to
/// 63 bytes (at a character of UTF-8).
pub fn fold_name(written: &[u8]) -> Cow<'_, [u8]> {
    let mut name = match written {
        [b'"', inside @ .., b'"'] => single_quotes(inside, b'"'),
        word if word.iter().any(u8::is_ascii_uppercase) => Cow::Owned(word.to_ascii_lowercase()),
        word => Cow::Borrowed(word),
    };
    if name.len() > MAX_NAME {
        let mut end = MAX_NAME;
        while end > 0 && name[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        match &mut name {
            Cow::Borrowed(bytes) => *bytes = &bytes[..end],
            Cow::Owned(bytes) => bytes.truncate(end),
        }
    }
    name
}

/// The content of a string literal `'…'`, with doubled quotes made single. For the literals of [`Detail`], which hold no
/// escapes.
pub fn fold_literal(written: &[u8]) -> Cow<'_, [u8]> {
    let inside = match written {
        [b'\'', inside @ .., b'\''] => inside,
        other => other,
    };
    single_quotes(inside, b'\'')
}

/// Makes each pair of `quote` one.
fn single_quotes(inside: &[u8], quote: u8) -> Cow<'_, [u8]> {
    if !inside.contains(&quote) {
        return Cow::Borrowed(inside);
    }
    let mut single = Vec::with_capacity(inside.len());
    let mut pending = false;
    for &byte in inside {
        pending = byte == quote && !pending;
        if !pending {
            single.push(byte);
        }
    }
    Cow::Owned(single)
}

/// The content of a string literal, if it is written plainly: `'…'` without doubled quotes, escapes or continuation.
pub fn plain_literal(written: &[u8]) -> Option<&[u8]> {
    match written {
        [b'\'', inside @ .., b'\''] if !inside.iter().any(|b| matches!(b, b'\'' | b'\\')) => {
            Some(inside)
        }
        _ => None,
    }
}

impl Parameter {
    /// The parameter's name in lower case, without quotes: `timezone`, `app.user_id`. `text` must be the text that was
    /// classified.
    pub fn name(self, text: &[u8]) -> Vec<u8> {
        let Self::Named(span) = self else {
            return self.fixed_name().to_vec();
        };
        let mut name = Vec::with_capacity(span.of(text).len());
        let mut lexer = Lexer::new(span.of(text), false);
        loop {
            let token = lexer.next();
            match token.kind {
                lexer::Kind::End => return name.to_ascii_lowercase(),
                lexer::Kind::Dot => name.push(b'.'),
                _ => name.extend_from_slice(&fold_name(token.span.of(span.of(text)))),
            }
        }
    }

    const fn fixed_name(self) -> &'static [u8] {
        match self {
            Self::Named(_) => b"",
            Self::TimeZone => b"timezone",
            Self::ClientEncoding => b"client_encoding",
            Self::SearchPath => b"search_path",
            Self::Role => b"role",
            Self::SessionAuthorization => b"session_authorization",
            Self::XmlOption => b"xmloption",
            Self::TransactionIsolation => b"transaction_isolation",
        }
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
