//! Calls: which parentheses are the arguments of a function, and what is known of it.
//!
//! A parenthesis behind a word is a call unless what stands around the word proves that it is not: the column list of an
//! alias or of WITH, the modifier of a type, syntax. A call of something unknown is no read.
//!
//! Part of the walk (see [`super::walk`]); knows tokens and names, no grammar beyond the neighbours of a name.

use super::builtins::{self, Group};
use super::effects::Effects;
use super::facts::{Detail, Reason};
use super::lexer::Kind;
use super::walk::{Mode, Prev, Walk};
use super::words::{Category, Kw};
use super::{Known, MAX_NAME, plain_literal};

impl Walk<'_, '_> {
    /// Keywords that may name functions, where grammar puts a parenthesis behind them. Each line must hold against a
    /// user's function of that name.
    pub(super) fn is_syntax(&self, kw: Kw) -> bool {
        let Prev::Keyword(before, _) = self.before else {
            return self.is_grouping(kw);
        };
        match kw {
            Kw::By => matches!(before, Kw::Order | Kw::Group | Kw::Partition),
            Kw::Join => before == Kw::JoinType,
            Kw::Sets => before == Kw::Grouping,
            Kw::Zone => before == Kw::Time,
            Kw::Varying => before == Kw::Character,
            Kw::First | Kw::Next => before == Kw::Fetch,
            Kw::Conflict => before == Kw::On && self.mode == Mode::Modify && !self.joined,
            _ => self.is_grouping(kw),
        }
    }

    /// ROLLUP and CUBE are syntax as items of GROUP BY, and calls deeper inside of them.
    fn is_grouping(&self, kw: Kw) -> bool {
        let starts_item = matches!(
            self.before,
            Prev::Comma | Prev::Keyword(Kw::By | Kw::All | Kw::Distinct, _)
        );
        matches!(kw, Kw::Rollup | Kw::Cube) && starts_item && self.group_by == Some(self.depth)
    }

    /// At the parenthesis behind a name.
    pub(super) fn call(&mut self) {
        let no_call = match self.before {
            Prev::Name | Prev::Value | Prev::Close | Prev::Cast => true,
            Prev::Keyword(
                Kw::As
                | Kw::With
                | Kw::Into
                | Kw::Tablesample
                | Kw::Recursive
                | Kw::Execute
                | Kw::Prepare
                | Kw::Copy
                | Kw::Ordinality,
                _,
            ) => true,
            // A keyword as a name: `FROM data d (a, b)`.
            Prev::Keyword(kw, Category::Unreserved) => !kw.precedes_expression(),
            _ => false,
        };
        if no_call || self.with_list & 1 == 1 || self.mode == Mode::CopyOptions {
            return;
        }
        self.function();
    }

    fn function(&mut self) {
        let text = self.scanner.text;
        let (mut buffer, mut schema_buffer) = (Folded::default(), Folded::default());
        let schema = self.qualifier.map(|q| schema_buffer.fold(q.of(text)));
        let name = buffer.fold(self.name.of(text));
        let (Some(name), false) = (name, schema == Some(None)) else {
            return self.unknown_function(Reason::UnknownFunction);
        };
        let schema = schema.flatten();
        let group = match schema {
            None | Some(b"pg_catalog") => builtins::group(name, self.scanner.server_version),
            Some(_) => None,
        };
        let known = self.scanner.knowledge.function(schema, name);
        match (group, known) {
            (Some(group), known) => {
                self.scanner.facts.effects |= group.effects();
                self.builtin(group, known);
            }
            (None, Known::Safe | Known::Exempt) => {
                self.scanner.facts.effects |= Effects::UNKNOWN_FUNCTION;
            }
            (None, Known::Volatile) => self.unknown_function(Reason::CatalogueFunction),
            (None, Known::Nothing) => self.unknown_function(Reason::UnknownFunction),
        }
    }

    pub(super) fn unknown_function(&mut self, reason: Reason) {
        if self.mode != Mode::Other {
            self.scanner.facts.effects |= Effects::UNKNOWN_FUNCTION;
        }
        self.deny(reason, self.name);
    }

    fn builtin(&mut self, group: Group, known: Known) {
        let safe = match group {
            Group::CurrentSetting => self.asks_for_shared_setting(),
            Group::SetConfig => {
                self.set_config();
                false
            }
            _ => group.reason().is_none(),
        };
        match (safe, known) {
            (_, Known::Exempt) | (true, Known::Nothing | Known::Safe) => {}
            // A function of the user's that has the name of a built-in one.
            (true, Known::Volatile) => self.unknown_function(Reason::CatalogueFunction),
            (false, _) => {
                let reason = group.reason().unwrap_or(Reason::VolatileFunction);
                self.deny(reason, self.name);
            }
        }
    }

    /// `current_setting('name'…` with a name that means the same on every server.
    fn asks_for_shared_setting(&self) -> bool {
        let mut ahead = self.scanner.lexer.clone();
        let name = ahead.next();
        let ends = matches!(ahead.next().kind, Kind::Comma | Kind::Close);
        let literal = plain_literal(name.span.of(self.scanner.text));
        ends && literal.is_some_and(|name| !builtins::is_server_local_setting(name))
    }

    /// The arguments of set_config, as far as they are literals.
    fn set_config(&mut self) {
        let mut ahead = self.scanner.lexer.clone();
        let text = self.scanner.text;
        let mut literals = [None; 2];
        let mut local = None;
        for argument in 0..3 {
            let token = ahead.next();
            let end = ahead.next();
            if !matches!(end.kind, Kind::Comma | Kind::Close) {
                break;
            }
            match literals.get_mut(argument) {
                Some(place) => *place = plain_literal(token.span.of(text)).map(|_| token.span),
                None => local = truth(token.kw),
            }
        }
        let facts = &mut self.scanner.facts;
        let first = facts.detail == Detail::None;
        facts.detail = Detail::SetConfig {
            name: literals[0].filter(|_| first),
            value: literals[1].filter(|_| first),
            local: local.filter(|_| first),
        };
        let names = literals[0].and_then(|name| plain_literal(name.of(text)));
        if names.is_none_or(|n| {
            [&b"role"[..], b"session_authorization"]
                .iter()
                .any(|r| r.eq_ignore_ascii_case(n))
        }) {
            facts.effects |= Effects::SET_ROLE;
        }
        if names.is_none_or(|n| n.eq_ignore_ascii_case(b"search_path")) {
            let path = literals[1].map_or(&b"pg_temp"[..], |v| v.of(text));
            if path.windows(7).any(|w| w.eq_ignore_ascii_case(b"pg_temp")) {
                facts.effects |= Effects::TEMP_OBJECT;
            }
        }
    }
}

fn truth(kw: Kw) -> Option<bool> {
    match kw {
        Kw::True => Some(true),
        Kw::False => Some(false),
        _ => None,
    }
}

/// Room for a folded name, so that looking one up needs no allocation.
pub(super) struct Folded([u8; MAX_NAME]);

impl Default for Folded {
    fn default() -> Self {
        Self([0; MAX_NAME])
    }
}

impl Folded {
    /// The name as the catalogue spells it; `None` for what has escapes, doubled quotes or more than 63 bytes.
    pub(super) fn fold(&mut self, written: &[u8]) -> Option<&[u8]> {
        let quoted = written.first() == Some(&b'"');
        let name = if quoted {
            written.get(1..written.len() - 1)?
        } else {
            written
        };
        let room = self.0.get_mut(..name.len())?;
        room.copy_from_slice(name);
        if quoted {
            return (!room.contains(&b'"')).then_some(room);
        }
        room.make_ascii_lowercase();
        (!room.contains(&b'"')).then_some(room)
    }
}
