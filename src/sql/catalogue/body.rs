//! The text of a function's body: does it call what it must not?
//!
//! SQL is judged as any statement. PL/pgSQL is looked through for calls and names only: its grammar is not known here, and
//! what it builds from strings cannot be seen.

use super::super::builtins::{self, Group};
use super::super::call::Folded;
use super::super::lexer::{Kind, Lexer, Token};
use super::super::{Class, Env, Knowledge, Known, classify};

/// Is this SQL a proved read?
pub(super) fn is_read(body: &[u8], server_version: u16, knowledge: &dyn Knowledge) -> bool {
    let env = Env {
        server_version,
        knowledge,
        ..Env::default()
    };
    matches!(classify(body, &env).class, Class::Read | Class::Empty)
}

/// Does this PL/pgSQL name anything that is known to be unsafe?
pub(super) fn names_unsafe(body: &[u8], server_version: u16, knowledge: &dyn Knowledge) -> bool {
    let mut scan = Scan {
        body,
        server_version,
        knowledge,
    };
    let mut lexer = Lexer::new(body, false);
    let mut qualifier = None;
    let mut token = lexer.next();
    while token.kind != Kind::End {
        let next = lexer.next();
        if token.is_name() && scan.is_unsafe(qualifier, token, next.kind == Kind::Open) {
            return true;
        }
        qualifier = match next.kind {
            Kind::Dot if token.is_name() => Some(token),
            _ => None,
        };
        token = if next.kind == Kind::Dot {
            lexer.next()
        } else {
            next
        };
    }
    lexer.fault.is_some()
}

struct Scan<'a> {
    body: &'a [u8],
    server_version: u16,
    knowledge: &'a dyn Knowledge,
}

impl Scan<'_> {
    fn is_unsafe(&mut self, qualifier: Option<Token>, token: Token, called: bool) -> bool {
        let (mut buffer, mut schema_buffer) = (Folded::default(), Folded::default());
        let escaped = |token: Token| token.kind == Kind::QuotedUnicode;
        let schema = qualifier.map(|q| schema_buffer.fold(q.span.of(self.body)));
        let name = buffer.fold(token.span.of(self.body));
        let hidden = escaped(token) || qualifier.is_some_and(escaped) || schema == Some(None);
        let (Some(name), false) = (name, hidden) else {
            return true;
        };
        let schema = schema.flatten();
        if self.knowledge.is_unsafe_name(schema, name) {
            return true;
        }
        called && self.is_unsafe_call(schema, name)
    }

    fn is_unsafe_call(&self, schema: Option<&[u8]>, name: &[u8]) -> bool {
        let builtin = schema.is_none_or(|schema| schema == b"pg_catalog");
        let group = builtin.then(|| builtins::group(name, self.server_version));
        match self.knowledge.function(schema, name) {
            Known::Volatile => true,
            Known::Exempt => false,
            Known::Safe | Known::Nothing => group
                .flatten()
                .is_some_and(|group| group != Group::CurrentSetting && group.reason().is_some()),
        }
    }
}
