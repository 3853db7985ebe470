//! The walk through everything that contains expressions: one pass over the tokens of a statement, which finds calls,
//! data-modifying WITH, INTO, locking clauses and names of interest.
//!
//! There is no tree, so two facts per open parenthesis are kept in bit stacks of 64 levels; deeper down they read as zero,
//! which is always the cautious answer. What is a call is decided in [`super::call`].
//!
//! Knows no statement: [`super::statement`] says where a walk begins.

use super::builtins;
use super::call::Folded;
use super::effects::Effects;
use super::facts::{Class, Detail, Reason, Span};
use super::lexer::{Kind, Token};
use super::statement::Scanner;
use super::words::{Category, Kw};

/// What a walk is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Something that would be a read: look for what makes it a write.
    Query,
    /// COPY: as `Query`, until its direction is known.
    Copy,
    /// Behind FROM of COPY: effects only.
    CopyFrom,
    /// Behind the destination of COPY … TO: options, in which names before parentheses are no calls.
    CopyOptions,
    /// INSERT and its kin, and the bodies of PREPARE and DECLARE: effects only.
    Modify,
    /// Definitions and the rest: effects only, and unknown functions are none.
    Other,
}

/// The token before the one at hand, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Prev {
    Start,
    /// A name: no keyword, or a keyword that can only be a name where it stands.
    Name,
    /// A literal, a parameter, a closing bracket.
    Value,
    Keyword(Kw, Category),
    Open,
    /// A closing parenthesis behind which no expression can begin.
    Close,
    /// A closing parenthesis behind which one can: that of DISTINCT ON, or one that was opened too deep to be known.
    OpenClose,
    Dot,
    Cast,
    Comma,
    Symbol,
}

pub(super) struct Walk<'s, 'a> {
    pub(super) scanner: &'s mut Scanner<'a>,
    pub(super) mode: Mode,
    pub(super) prev: Prev,
    /// What stood before the dotted name or keyword at hand.
    pub(super) before: Prev,
    /// The last part of the name at hand, and the part before it.
    pub(super) name: Span,
    pub(super) qualifier: Option<Span>,
    pub(super) depth: u32,
    /// Bit stacks, the innermost parenthesis lowest. Parentheses behind which no expression begins …
    closed: u64,
    /// … and levels at which a list of WITH queries stands, where names before parentheses are no calls.
    pub(super) with_list: u64,
    /// Keywords like INSERT can be statements only in a text with WITH.
    with_seen: bool,
    /// The depth at which the items of GROUP BY stand, if they are at hand.
    pub(super) group_by: Option<u32>,
    /// A JOIN was seen, whose ON may be followed by anything.
    pub(super) joined: bool,
    /// Inside CREATE FUNCTION … BEGIN ATOMIC … END, where semicolons do not end the statement.
    atomic: u32,
}

impl<'s, 'a> Walk<'s, 'a> {
    pub(super) fn new(scanner: &'s mut Scanner<'a>, mode: Mode) -> Self {
        Self {
            scanner,
            mode,
            prev: Prev::Start,
            before: Prev::Start,
            name: Span::default(),
            qualifier: None,
            depth: 0,
            closed: 0,
            with_list: 0,
            with_seen: false,
            group_by: None,
            joined: false,
            atomic: 0,
        }
    }

    /// From the token at hand to the end of the statement.
    pub(super) fn run(mut self) {
        while !self.scanner.at_end() || self.is_inner_semicolon() {
            self.step();
        }
        if self.depth != 0 && self.scanner.lexer.fault.is_none() {
            self.scanner.unknown(Reason::Malformed);
        }
        if self.mode == Mode::Copy {
            self.scanner.unknown(Reason::Malformed);
        }
    }

    /// A semicolon inside BEGIN ATOMIC or the parentheses of CREATE RULE does not end the statement; in other
    /// parentheses no version of PostgreSQL accepts one.
    fn is_inner_semicolon(&self) -> bool {
        self.scanner.token.kind == Kind::Semicolon
            && self.mode == Mode::Other
            && (self.depth > 0 || self.atomic > 0)
    }

    /// Takes one token.
    #[inline]
    pub(super) fn step(&mut self) {
        let token = self.scanner.token;
        match token.kind {
            Kind::Word => self.word(token),
            Kind::Quoted | Kind::QuotedUnicode => self.name(token),
            Kind::Open => self.open(),
            Kind::Close => self.close(),
            Kind::Dot => self.prev = Prev::Dot,
            Kind::Cast => self.prev = Prev::Cast,
            Kind::String | Kind::Number | Kind::Param | Kind::CloseBracket => self.value(token),
            Kind::Operator => {
                if self.scanner.watches_operators {
                    self.operator(token.span);
                }
                self.prev = Prev::Symbol;
            }
            Kind::Comma => self.prev = Prev::Comma,
            Kind::Bracket | Kind::Colon | Kind::Semicolon => self.prev = Prev::Symbol,
            Kind::End => return,
        }
        self.scanner.advance();
    }

    /// Notes why the statement is no proved read; the first reason stays.
    pub(super) fn deny(&mut self, reason: Reason, evidence: Span) {
        let facts = &mut self.scanner.facts;
        if facts.class == Class::Read {
            facts.class = Class::Write;
            facts.reason = reason;
            facts.evidence = evidence;
        }
    }

    #[inline]
    fn word(&mut self, token: Token) {
        if token.category == Category::Name
            || matches!(self.prev, Prev::Dot | Prev::Cast)
            || self.is_label(token.kw)
        {
            self.name(token);
        } else {
            self.keyword(token);
        }
    }

    /// Behind AS a keyword is only a name, unless a query or WITH's body follows it.
    fn is_label(&self, kw: Kw) -> bool {
        self.prev == Prev::Keyword(Kw::As, Category::Reserved)
            && match kw {
                Kw::Not | Kw::Materialized => false,
                Kw::Select
                | Kw::With
                | Kw::Values
                | Kw::Table
                | Kw::Execute
                | Kw::Insert
                | Kw::Update
                | Kw::Delete
                | Kw::Merge => self.proves_read(),
                _ => true,
            }
    }

    #[inline]
    fn name(&mut self, token: Token) {
        if self.prev == Prev::Dot {
            self.qualifier = Some(self.name);
        } else {
            self.before = self.prev;
            self.qualifier = None;
        }
        self.name = token.span;
        self.prev = Prev::Name;
        let written = token.span.of(self.scanner.text);
        let watched = self.scanner.watched_names;
        let may_be_special = match (token.kind, written) {
            (Kind::Word, name) | (Kind::Quoted, [b'"', name @ .., b'"']) => {
                is_pg_name(name) || watched.is_some_and(|watched| watched.may_hold(name))
            }
            _ => true,
        };
        if may_be_special {
            self.look_at_name(token);
        }
    }

    /// Is this a relation that must not be read on a replica, or a temporary one?
    #[cold]
    fn look_at_name(&mut self, token: Token) {
        let mut buffer = Folded::default();
        let mut schema_buffer = Folded::default();
        let text = self.scanner.text;
        let schema = self.qualifier.map(|q| schema_buffer.fold(q.of(text)));
        let (Some(name), false) = (
            buffer.fold(token.span.of(text)),
            token.kind == Kind::QuotedUnicode || schema == Some(None),
        ) else {
            // Not even its spelling is known.
            return self.deny(Reason::EscapedName, token.span);
        };
        let schema = schema.flatten();
        if name.starts_with(b"pg_temp") {
            self.scanner.facts.effects |= Effects::TEMP_OBJECT;
            self.deny(Reason::TemporaryRelation, token.span);
        }
        let builtin = schema.is_none_or(|s| s == b"pg_catalog");
        let called = self.scanner.lexer.clone().next().kind == Kind::Open;
        if builtin && name == b"pg_settings" && (self.mode != Mode::Query || self.with_seen) {
            // An UPDATE of it is a SET.
            self.scanner.facts.effects |= Effects::SETS;
        }
        if builtin && !called && builtins::is_server_local_relation(name) {
            self.deny(Reason::ServerLocal, token.span);
        }
        if self.scanner.watched_names.is_some()
            && self.scanner.knowledge.is_unsafe_name(schema, name)
        {
            self.deny(Reason::CatalogueObject, token.span);
        }
    }

    fn value(&mut self, token: Token) {
        if self.depth == 0
            && matches!(self.mode, Mode::Copy | Mode::CopyFrom)
            && matches!(self.prev, Prev::Keyword(Kw::From | Kw::To, _))
        {
            self.server_file(token.span);
        }
        self.prev = Prev::Value;
    }

    fn operator(&mut self, span: Span) {
        let operator = match span.of(self.scanner.text) {
            // The same one, which the catalogue spells so.
            b"!=" => b"<>",
            other => other,
        };
        if self.scanner.knowledge.is_unsafe_operator(operator) {
            self.deny(Reason::CatalogueObject, span);
        }
    }

    fn keyword(&mut self, token: Token) {
        let kw = token.kw;
        if kw != Kw::Other && self.special(token) {
            return;
        }
        if token.category == Category::Reserved
            && self.group_by == Some(self.depth)
            && !matches!(kw, Kw::Group | Kw::All | Kw::Distinct)
        {
            self.group_by = None;
        }
        self.before = self.prev;
        self.qualifier = None;
        self.name = token.span;
        self.prev = Prev::Keyword(kw, token.category);
    }

    /// What a keyword means where it stands; true if it has been dealt with whole.
    fn special(&mut self, token: Token) -> bool {
        let query = self.proves_read();
        match token.kw {
            Kw::With
                if matches!(
                    self.prev,
                    Prev::Start | Prev::Open | Prev::Keyword(Kw::As, _)
                ) =>
            {
                self.with_seen = true;
                self.with_list |= 1;
            }
            Kw::Select | Kw::Values => self.with_list &= !1,
            Kw::Insert | Kw::Update | Kw::Delete | Kw::Merge => {
                self.with_list &= !1;
                if self.prev == FOR {
                    self.deny(Reason::LockingClause, token.span);
                } else if query && (self.with_seen || self.prev == Prev::Open) {
                    self.deny(Reason::DataModifyingCte, token.span);
                }
            }
            Kw::No | Kw::Key | Kw::Share if self.prev == FOR => {
                self.deny(Reason::LockingClause, token.span);
            }
            Kw::Into if query => self.deny(Reason::SelectInto, token.span),
            Kw::Temp
                if matches!(
                    self.prev,
                    Prev::Keyword(Kw::Into | Kw::Local | Kw::Global, _)
                ) =>
            {
                self.scanner.facts.effects |= Effects::TEMP_OBJECT;
            }
            Kw::Table => {
                self.with_list &= !1;
            }
            Kw::Operator => return self.qualified_operator(),
            Kw::Group => self.group_by = Some(self.depth),
            Kw::Join => self.joined = true,
            _ if self.depth == 0 && matches!(self.mode, Mode::Copy | Mode::CopyFrom) => {
                self.copy_keyword(token);
            }
            _ if self.mode == Mode::Other => self.definition_keyword(token.kw),
            _ => {}
        }
        false
    }

    /// Can the statement still be proved a read?
    fn proves_read(&self) -> bool {
        matches!(self.mode, Mode::Query | Mode::Copy)
    }

    /// COPY's own words, outside parentheses.
    fn copy_keyword(&mut self, token: Token) {
        match (token.kw, self.prev) {
            (Kw::From, _) if self.mode == Mode::Copy => {
                self.mode = Mode::CopyFrom;
                self.deny(Reason::DataModifying, token.span);
            }
            (Kw::Stdin | Kw::Stdout, Prev::Keyword(Kw::From, _)) => {
                self.scanner.facts.detail = Detail::CopyIn;
            }
            (Kw::Stdin | Kw::Stdout, Prev::Keyword(Kw::To, _)) => {
                self.mode = Mode::CopyOptions;
                self.scanner.facts.detail = Detail::CopyOut;
            }
            (Kw::Program, Prev::Keyword(Kw::From | Kw::To, _)) => self.server_file(token.span),
            _ => {}
        }
    }

    /// COPY reads or writes a file, or runs a program, of the server.
    fn server_file(&mut self, evidence: Span) {
        let facts = &mut self.scanner.facts;
        facts.class = Class::Write;
        facts.reason = Reason::ServerFile;
        facts.evidence = evidence;
        if self.mode == Mode::Copy {
            self.mode = Mode::CopyOptions;
        }
    }

    /// Words of definitions: the body of a function, a table made by EXECUTE.
    fn definition_keyword(&mut self, kw: Kw) {
        match kw {
            Kw::Atomic if matches!(self.prev, Prev::Keyword(Kw::Begin, _)) => self.atomic = 1,
            // ON COMMIT DROP: it is gone before anybody else has the server.
            Kw::Drop
                if matches!(self.prev, Prev::Keyword(Kw::Commit, _))
                    && matches!(self.before, Prev::Keyword(Kw::On, _)) =>
            {
                let facts = &mut self.scanner.facts;
                facts.effects = facts.effects.without(Effects::TEMP_OBJECT);
            }
            Kw::Case if self.atomic > 0 => self.atomic += 1,
            Kw::End if self.atomic > 0 => self.atomic -= 1,
            Kw::Execute if matches!(self.prev, Prev::Keyword(Kw::As, _)) => {
                self.scanner.facts.effects |= Effects::EXECUTE;
                let name = self.scanner.lexer.clone().next();
                if name.is_name() {
                    self.scanner.facts.detail = Detail::Execute { name: name.span };
                }
            }
            _ => {}
        }
    }

    /// `OPERATOR(schema.+)` stands for the operator; anything else in the parentheses would make it a call.
    fn qualified_operator(&mut self) -> bool {
        let mut ahead = self.scanner.lexer.clone();
        if ahead.next().kind != Kind::Open {
            return false;
        }
        let mut token = ahead.next();
        while token.is_name() && ahead.next().kind == Kind::Dot {
            token = ahead.next();
        }
        if token.kind != Kind::Operator || ahead.next().kind != Kind::Close {
            return false;
        }
        if self.scanner.watches_operators {
            self.operator(token.span);
        }
        // The step ends with an advance over the closing parenthesis.
        self.scanner.lexer = ahead;
        self.prev = Prev::Symbol;
        true
    }

    fn open(&mut self) {
        let mut closed = true;
        match self.prev {
            Prev::Name => self.call(),
            Prev::Keyword(Kw::On, _) => {
                closed = !matches!(self.before, Prev::Keyword(Kw::Distinct, _));
            }
            // Calls the function that has the type's name.
            Prev::Keyword(Kw::Treat, _) => self.unknown_function(Reason::UnknownFunction),
            Prev::Keyword(_, Category::Reserved | Category::Column) => {}
            Prev::Keyword(Kw::Copy, _) if self.before == Prev::Start => {}
            Prev::Keyword(kw, _) if self.is_syntax(kw) => {}
            Prev::Keyword(..) => self.call(),
            // The main query of WITH in parentheses.
            Prev::Close | Prev::OpenClose => self.with_list &= !1,
            _ => {}
        }
        self.depth = self.depth.saturating_add(1);
        self.closed = self.closed << 1 | u64::from(closed);
        self.with_list <<= 1;
        self.prev = Prev::Open;
    }

    fn close(&mut self) {
        match self.depth.checked_sub(1) {
            Some(depth) => self.depth = depth,
            None => self.scanner.unknown(Reason::Malformed),
        }
        self.prev = if self.closed & 1 == 1 {
            Prev::Close
        } else {
            Prev::OpenClose
        };
        self.closed >>= 1;
        self.with_list >>= 1;
        // The list ends with the parentheses that it stands in.
        self.group_by = self.group_by.filter(|depth| *depth <= self.depth);
    }
}

/// Names of system relations and temporary schemas begin with `pg_`.
fn is_pg_name(name: &[u8]) -> bool {
    name.len() > 3 && name[0] | 0x20 == b'p' && name[1] | 0x20 == b'g' && name[2] == b'_'
}

const FOR: Prev = Prev::Keyword(Kw::For, Category::Reserved);
