//! One statement, by its first word.
//!
//! Knows the shape of each statement as far as its class, its effects and the places worth rewriting need it; what
//! contains expressions is handed to [`super::walk`], transaction control to [`super::transaction`], settings to
//! [`super::settings`]. Does not check grammar beyond that: PostgreSQL does, before anything runs.
//!
//! Invariant: whatever the text, [`Scanner::statement`] moves behind the next semicolon or to the end.

use super::builtins;
use super::effects::Effects;
use super::facts::{Class, Detail, Discard, Facts, Reason, Span, TxControl};
use super::lexer::{Kind, Lexer, Token};
use super::settings::mentions_pg_temp;
use super::walk::{Mode, Walk};
use super::words::Kw;
use super::{Env, Knowledge, NameFilter, nothing};

pub(super) struct Scanner<'a> {
    pub(super) text: &'a [u8],
    pub(super) knowledge: &'a dyn Knowledge,
    pub(super) server_version: u16,
    pub(super) lexer: Lexer<'a>,
    /// The token that is looked at.
    pub(super) token: Token,
    /// What is known of the statement so far.
    pub(super) facts: Facts,
    pub(super) watched_names: Option<&'a NameFilter>,
    pub(super) watches_operators: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a [u8], env: &'a Env<'a>) -> Self {
        let mut lexer = Lexer::new(text, !env.standard_conforming_strings);
        let token = lexer.next();
        let knowledge = env.knowledge;
        Self {
            text,
            knowledge,
            server_version: env.server_version.max(builtins::OLDEST_VERSION),
            lexer,
            token,
            facts: nothing(),
            watched_names: knowledge.watched_names(),
            watches_operators: knowledge.watches_operators(),
        }
    }

    /// The next statement that is not empty, with the bytes it covers.
    pub(super) fn statement(&mut self) -> Option<(Span, Facts)> {
        while self.token.kind == Kind::Semicolon {
            self.advance();
        }
        if self.token.kind == Kind::End && self.lexer.fault.is_none() {
            return None;
        }
        let start = self.token.span.start;
        self.facts = Facts {
            statements: 1,
            ..nothing()
        };
        if self.token.kind != Kind::End {
            self.dispatch();
            debug_assert!(self.at_end(), "a statement handler stopped early");
        }
        if let Some(reason) = self.lexer.fault.take() {
            self.unknown(reason);
        }
        let span = Span {
            start,
            end: self.token.span.start,
        };
        Some((span, self.facts))
    }

    pub(super) fn advance(&mut self) {
        self.token = self.lexer.next();
    }

    /// Takes the token if it is this keyword.
    pub(super) fn take(&mut self, kw: Kw) -> bool {
        let found = self.token.is(kw);
        if found {
            self.advance();
        }
        found
    }

    /// Takes the token if it can be a name.
    pub(super) fn take_name(&mut self) -> Option<Span> {
        self.token.is_name().then(|| {
            let span = self.token.span;
            self.advance();
            span
        })
    }

    /// At the end of the statement?
    pub(super) fn at_end(&self) -> bool {
        matches!(self.token.kind, Kind::Semicolon | Kind::End)
    }

    pub(super) fn set(&mut self, class: Class, reason: Reason) {
        self.facts.class = class;
        self.facts.reason = reason;
    }

    /// Gives up on the statement: it may be anything.
    pub(super) fn unknown(&mut self, reason: Reason) {
        self.set(Class::Unknown, reason);
        self.facts.evidence = self.token.span;
        self.facts.effects |= Effects::UNKNOWN;
        self.facts.detail = Detail::None;
        self.facts.transaction = None;
    }

    /// Ends a statement of which every word has been taken; anything left makes it unknown.
    pub(super) fn finish(&mut self) {
        if !self.at_end() {
            self.unknown(Reason::Malformed);
            self.skip();
        }
    }

    /// Goes to the end of the statement, looking for effects on the way.
    pub(super) fn skip(&mut self) {
        Walk::new(self, Mode::Other).run();
    }

    fn dispatch(&mut self) {
        let first = self.token;
        if first.kind == Kind::Open {
            return self.query();
        }
        match first.kw {
            Kw::Select | Kw::Values | Kw::Table | Kw::With => self.query(),
            Kw::Insert | Kw::Update | Kw::Delete | Kw::Merge => self.modify(),
            Kw::Begin
            | Kw::Start
            | Kw::Commit
            | Kw::End
            | Kw::Rollback
            | Kw::Abort
            | Kw::Savepoint
            | Kw::Release => self.transaction(),
            Kw::Set => self.set_statement(),
            Kw::Reset => self.reset(),
            Kw::Show => self.show(),
            Kw::Explain => self.explain(),
            Kw::Copy => self.copy(),
            Kw::Prepare => self.prepare(),
            Kw::Execute => self.execute(),
            Kw::Declare => self.declare(),
            Kw::Create => self.create(),
            Kw::Drop => self.plain(Reason::DataDefinition, Effects::DDL.with(Effects::DROP)),
            Kw::Alter
            | Kw::Grant
            | Kw::Revoke
            | Kw::Comment
            | Kw::Security
            | Kw::Import
            | Kw::Reassign => self.plain(Reason::DataDefinition, Effects::DDL),
            Kw::Truncate => self.plain(Reason::DataModifying, Effects::NONE),
            Kw::Do | Kw::Call => self.plain(Reason::Procedure, Effects::OPAQUE),
            Kw::Vacuum
            | Kw::Analyze
            | Kw::Checkpoint
            | Kw::Cluster
            | Kw::Reindex
            | Kw::Lock
            | Kw::Notify
            | Kw::Refresh => self.plain(Reason::ServerCommand, Effects::NONE),
            _ => self.session_statement(),
        }
    }

    /// A statement that is a write by its first word.
    fn plain(&mut self, reason: Reason, effects: Effects) {
        self.set(Class::Write, reason);
        self.facts.effects |= effects;
        self.skip();
    }

    /// SELECT, VALUES, TABLE, WITH, in any number of parentheses.
    fn query(&mut self) {
        self.set(Class::Read, Reason::ProvedRead);
        Walk::new(self, Mode::Query).run();
    }

    /// INSERT, UPDATE, DELETE, MERGE.
    fn modify(&mut self) {
        self.set(Class::Write, Reason::DataModifying);
        Walk::new(self, Mode::Modify).run();
    }

    fn explain(&mut self) {
        self.advance();
        let analyze = if self.token.kind == Kind::Open && !self.is_query_in_parentheses() {
            self.explain_options()
        } else {
            let analyze = self.take(Kw::Analyze);
            self.take(Kw::Verbose);
            analyze
        };
        match self.token.kw {
            Kw::Execute => self.execute(),
            Kw::Select | Kw::Values | Kw::Table | Kw::With => self.query(),
            Kw::Insert | Kw::Update | Kw::Delete | Kw::Merge => self.modify(),
            Kw::Create => self.create(),
            Kw::Declare => self.declare(),
            Kw::Refresh => self.plain(Reason::ServerCommand, Effects::NONE),
            _ if self.token.kind == Kind::Open => self.query(),
            _ => {
                self.unknown(Reason::Malformed);
                self.skip();
            }
        }
        // Nothing is executed, but the relations must exist and be readable where it is planned.
        let planned_anywhere = self.facts.class == Class::Write
            && !matches!(
                self.facts.reason,
                Reason::CatalogueObject | Reason::TemporaryRelation
            )
            && !self.facts.effects.intersects(Effects::EXECUTE);
        if !analyze && planned_anywhere {
            self.set(Class::Read, Reason::ProvedRead);
            self.facts.evidence = Span::default();
        }
    }

    /// Does the parenthesis at hand open a query (`EXPLAIN (SELECT 1)`) rather than options?
    fn is_query_in_parentheses(&self) -> bool {
        let mut ahead = self.lexer.clone();
        loop {
            let token = ahead.next();
            if token.kind != Kind::Open {
                return matches!(token.kw, Kw::Select | Kw::Values | Kw::Table | Kw::With);
            }
        }
    }

    /// `( option [value], … )`; true unless ANALYZE is absent or plainly off.
    fn explain_options(&mut self) -> bool {
        let mut analyze = false;
        let mut starts_option = true;
        self.advance();
        while !self.at_end() && self.token.kind != Kind::Close {
            let option = std::mem::replace(&mut starts_option, self.token.kind == Kind::Comma);
            let name = self.token.span.of(self.text);
            let named = [&b"analyze"[..], b"analyse", b"\"analyze\""]
                .iter()
                .any(|n| n.eq_ignore_ascii_case(name))
                || self.token.kind == Kind::QuotedUnicode;
            self.advance();
            if option && named {
                let value = self.token.span.of(self.text);
                analyze |= !(self.token.is(Kw::Off) || self.token.is(Kw::False) || value == b"0");
            }
        }
        self.advance();
        analyze
    }

    fn copy(&mut self) {
        self.set(Class::Read, Reason::ProvedRead);
        Walk::new(self, Mode::Copy).run();
    }

    fn prepare(&mut self) {
        self.advance();
        if self.token.is(Kw::Transaction) {
            self.advance();
            return self.global_transaction(TxControl::PrepareTransaction);
        }
        self.set(Class::Session, Reason::SessionStatement);
        self.facts.effects |= Effects::PREPARE;
        let name = self.take_name();
        if self.token.kind == Kind::Open {
            let mut depth = 0_u32;
            while !self.at_end() {
                match self.token.kind {
                    Kind::Open => depth += 1,
                    Kind::Close => depth -= 1,
                    _ => {}
                }
                self.advance();
                if depth == 0 {
                    break;
                }
            }
        }
        if let Some(name) = name
            && self.take(Kw::As)
        {
            let start = self.token.span.start;
            Walk::new(self, Mode::Modify).run();
            let body = self.span_to_here(start);
            self.facts.detail = Detail::Prepare { name, body };
        } else {
            self.unknown(Reason::Malformed);
            self.skip();
        }
    }

    /// From `start` to the end of the statement, without blanks at its end.
    pub(super) fn span_to_here(&self, start: u32) -> Span {
        let mut end = self.token.span.start.max(start);
        while end > start && self.text[end as usize - 1].is_ascii_whitespace() {
            end -= 1;
        }
        Span { start, end }
    }

    fn execute(&mut self) {
        self.facts.effects |= Effects::EXECUTE;
        self.set(Class::Read, Reason::ProvedRead);
        let mut walk = Walk::new(self, Mode::Query);
        walk.step();
        let name = walk.scanner.token;
        walk.run();
        if !name.is_name() {
            return self.unknown(Reason::Malformed);
        }
        self.facts.detail = Detail::Execute { name: name.span };
        if self.facts.class == Class::Read {
            self.set(Class::Execute, Reason::PreparedStatement);
        }
    }

    fn declare(&mut self) {
        self.advance();
        self.set(Class::Session, Reason::SessionStatement);
        self.facts.effects |= Effects::CURSOR;
        let name = self.take_name();
        while !self.at_end() && !self.token.is(Kw::Cursor) {
            self.advance();
        }
        self.advance();
        let hold = self.token.is(Kw::With);
        while !self.at_end() && !self.token.is(Kw::For) {
            self.advance();
        }
        self.advance();
        if hold {
            self.facts.effects |= Effects::HOLD_CURSOR;
        }
        let start = self.token.span.start;
        Walk::new(self, Mode::Modify).run();
        let query = self.span_to_here(start);
        match name {
            Some(name) => self.facts.detail = Detail::Declare { name, hold, query },
            None => self.unknown(Reason::Malformed),
        }
    }

    fn create(&mut self) {
        self.set(Class::Write, Reason::DataDefinition);
        self.facts.effects |= Effects::DDL;
        // CREATE [OR REPLACE] [LOCAL | GLOBAL] [TEMP] [RECURSIVE] kind …
        for _ in 0..5 {
            self.advance();
            match self.token.kw {
                Kw::Temp => self.facts.effects |= Effects::TEMP_OBJECT,
                Kw::Table | Kw::View | Kw::Function | Kw::Procedure => break,
                _ if self.token.kind != Kind::Word => break,
                // CREATE TYPE pg_temp.name
                _ if mentions_pg_temp(self.token.span.of(self.text)) => {
                    self.facts.effects |= Effects::TEMP_OBJECT;
                }
                _ => {}
            }
        }
        self.skip();
    }

    /// Statements about the server connection.
    fn session_statement(&mut self) {
        let kw = self.token.kw;
        self.set(Class::Session, Reason::SessionStatement);
        match kw {
            Kw::Fetch | Kw::Move => {
                self.facts.effects |= Effects::CURSOR;
                self.skip();
            }
            Kw::Load => {
                self.facts.effects |= Effects::LOAD;
                self.skip();
            }
            Kw::Listen | Kw::Unlisten | Kw::Close | Kw::Deallocate | Kw::Discard => {
                self.advance();
                self.named_session_statement(kw);
                self.finish();
            }
            _ => {
                self.unknown(Reason::UnknownStatement);
                self.skip();
            }
        }
    }

    fn named_session_statement(&mut self, kw: Kw) {
        let all = self.token.is(Kw::All);
        let (effects, detail) = match kw {
            Kw::Listen => {
                let Some(channel) = self.take_name() else {
                    return self.unknown(Reason::Malformed);
                };
                (Effects::LISTEN, Detail::Listen { channel })
            }
            Kw::Unlisten => {
                let channel = self.take_name();
                if channel.is_none() {
                    self.advance();
                }
                (Effects::UNLISTEN, Detail::Unlisten { channel })
            }
            Kw::Close => {
                let name = self.take_name().filter(|_| !all);
                (Effects::CLOSE_CURSOR, Detail::Close { name })
            }
            Kw::Deallocate => {
                let mut all = all;
                let mut name = self.take_name();
                if name.is_some_and(|n| n.of(self.text).eq_ignore_ascii_case(b"prepare")) {
                    all = self.token.is(Kw::All);
                    name = self.take_name().or(name);
                }
                (
                    Effects::DEALLOCATE,
                    Detail::Deallocate {
                        name: name.filter(|_| !all),
                    },
                )
            }
            _ => {
                let what = match self.token.kw {
                    Kw::All => Discard::All,
                    Kw::Plans => Discard::Plans,
                    Kw::Sequences => Discard::Sequences,
                    Kw::Temp => Discard::Temp,
                    _ => return self.unknown(Reason::Malformed),
                };
                self.advance();
                (Effects::DISCARD, Detail::Discard(what))
            }
        };
        self.facts.effects |= effects;
        self.facts.detail = detail;
    }
}
