//! SET, RESET and SHOW (the manual's SET, SET ROLE, SET SESSION AUTHORIZATION, SET TRANSACTION, SET CONSTRAINTS, RESET,
//! SHOW).
//!
//! Does not know which parameters exist, nor what a value means.

use super::builtins;
use super::effects::Effects;
use super::facts::{Class, Detail, Parameter, Reason, SetScope, Span, TxControl, TxModes};
use super::lexer::Kind;
use super::statement::Scanner;
use super::words::Kw;
use super::{fold_name, plain_literal};

impl Scanner<'_> {
    pub(super) fn set_statement(&mut self) {
        self.advance();
        let mut scope = SetScope::Session;
        // SET SESSION and SET LOCAL, unless that word is the parameter itself.
        if matches!(self.token.kw, Kw::Session | Kw::Local) && !self.next_is_assignment() {
            let next = self.lexer.clone().next();
            let is_phrase = self.token.is(Kw::Session)
                && matches!(next.kw, Kw::Characteristics | Kw::Authorization);
            if !is_phrase {
                if self.token.is(Kw::Local) {
                    scope = SetScope::Local;
                }
                self.advance();
            }
        }
        if self.next_is_assignment() {
            return self.set_parameter(scope);
        }
        match self.token.kw {
            Kw::Transaction => self.set_transaction(),
            Kw::Session => self.set_session(scope),
            Kw::Time => {
                self.advance();
                if !self.take(Kw::Zone) {
                    return self.give_up();
                }
                self.assign(scope, Parameter::TimeZone);
            }
            Kw::Names => self.phrase(scope, Parameter::ClientEncoding),
            Kw::Schema => self.phrase(scope, Parameter::SearchPath),
            Kw::Role => self.phrase(scope, Parameter::Role),
            Kw::Xml => {
                self.advance();
                self.phrase(scope, Parameter::XmlOption);
            }
            _ if self
                .token
                .span
                .of(self.text)
                .eq_ignore_ascii_case(b"constraints") =>
            {
                // SET CONSTRAINTS may run deferred triggers.
                self.set(Class::Write, Reason::ServerCommand);
                self.skip();
            }
            _ => self.set_parameter(scope),
        }
    }

    /// Is the token behind this one `=`, `TO`, or the dot of a custom parameter?
    fn next_is_assignment(&self) -> bool {
        let next = self.lexer.clone().next();
        next.is(Kw::To) || next.kind == Kind::Dot || next.span.of(self.text) == b"="
    }

    fn set_transaction(&mut self) {
        self.advance();
        if self.take(Kw::Snapshot) {
            self.advance();
            self.control(Class::Transaction, TxControl::SetSnapshot);
        } else {
            let modes = self.transaction_modes();
            self.control(Class::Transaction, TxControl::SetTransaction(modes));
        }
        self.finish();
    }

    /// SESSION CHARACTERISTICS AS TRANSACTION … or SESSION AUTHORIZATION ….
    fn set_session(&mut self, scope: SetScope) {
        self.advance();
        if self.take(Kw::Characteristics) {
            if !(self.take(Kw::As) && self.take(Kw::Transaction)) {
                return self.give_up();
            }
            let modes = self.transaction_modes();
            let local = scope == SetScope::Local;
            self.set(Class::Set, Reason::Setting);
            self.facts.effects |= scope.effect();
            self.facts.transaction = Some(TxControl::SetSessionCharacteristics { modes, local });
            if modes.isolation.is_some() {
                self.facts.effects |= Effects::SETS_ISOLATION;
            }
            self.finish();
        } else if self.token.is(Kw::Authorization) {
            self.phrase(scope, Parameter::SessionAuthorization);
        } else {
            self.give_up();
        }
    }

    /// At the last word of a phrase that is followed by the value.
    fn phrase(&mut self, scope: SetScope, parameter: Parameter) {
        self.advance();
        self.assign(scope, parameter);
    }

    fn set_parameter(&mut self, scope: SetScope) {
        let Some(name) = self.parameter_name() else {
            return self.give_up();
        };
        if self.token.is(Kw::To) || self.token.span.of(self.text) == b"=" {
            self.advance();
            self.assign(scope, Parameter::Named(name));
        } else {
            self.give_up();
        }
    }

    /// `name` or `name.name…`; `None` also for what is written with escapes, for nobody knows what that names.
    fn parameter_name(&mut self) -> Option<Span> {
        let is_hidden = |it: &Self| it.token.kind == Kind::QuotedUnicode;
        if is_hidden(self) {
            return None;
        }
        let mut name = self.take_name()?;
        while self.token.kind == Kind::Dot {
            self.advance();
            if is_hidden(self) {
                return None;
            }
            name.end = self.take_name()?.end;
        }
        Some(name)
    }

    /// At the first word of the value.
    fn assign(&mut self, scope: SetScope, parameter: Parameter) {
        let first = self.token;
        let mut temporary = false;
        while !self.at_end() {
            temporary |= mentions_pg_temp(self.token.span.of(self.text));
            self.advance();
        }
        let value = self.span_to_here(first.span.start);
        if value.of(self.text).is_empty() {
            return self.unknown(Reason::Malformed);
        }
        let single = self.text[first.span.end as usize..value.end as usize].is_empty();
        let resets = single
            && (first.is(Kw::Default) || (parameter == Parameter::TimeZone && first.is(Kw::Local)));
        match self.as_transaction_mode(parameter, value) {
            Some(modes) => self.control(Class::Transaction, TxControl::SetTransaction(modes)),
            None => {
                self.set(Class::Set, Reason::Setting);
                self.facts.effects |= scope.effect();
            }
        }
        if scope == SetScope::Session && is_identity(parameter, self.text) {
            self.facts.effects |= Effects::SET_ROLE;
        }
        if is_isolation(parameter, self.text) {
            self.facts.effects |= Effects::SETS_ISOLATION;
        }
        if temporary {
            // What is created next without a schema would be temporary.
            self.facts.effects |= Effects::TEMP_OBJECT;
        }
        self.facts.detail = Detail::Set {
            scope,
            parameter,
            value: (!resets).then_some(value),
        };
    }

    /// `SET transaction_read_only = on` and the like mean the current transaction only.
    fn as_transaction_mode(&self, parameter: Parameter, value: Span) -> Option<TxModes> {
        let Parameter::Named(name) = parameter else {
            return None;
        };
        let mut modes = TxModes::default();
        let value = value.of(self.text);
        match &*fold_name(name.of(self.text)).to_ascii_lowercase() {
            b"transaction_read_only" => modes.read_only = truth(value),
            b"transaction_deferrable" => modes.deferrable = truth(value),
            b"transaction_isolation" => {}
            _ => return None,
        }
        Some(modes)
    }

    pub(super) fn reset(&mut self) {
        self.advance();
        let Some(parameter) = self.parameter_or_all() else {
            return self.give_up();
        };
        self.set(Class::Set, Reason::Setting);
        self.facts.effects |= Effects::SETS;
        // RESET ALL leaves role and session_authorization alone.
        if parameter.is_some_and(|p| is_identity(p, self.text)) {
            self.facts.effects |= Effects::SET_ROLE;
        }
        if parameter.is_some_and(|p| is_isolation(p, self.text)) {
            self.facts.effects |= Effects::SETS_ISOLATION;
        }
        self.facts.detail = Detail::Reset { parameter };
        self.finish();
    }

    pub(super) fn show(&mut self) {
        self.advance();
        let place = self.token.span;
        let Some(parameter) = self.parameter_or_all() else {
            return self.give_up();
        };
        let local = parameter.is_none_or(|p| builtins::is_server_local_setting(&p.name(self.text)));
        if local {
            self.set(Class::Write, Reason::ServerLocal);
            self.facts.evidence = place;
        } else {
            self.set(Class::Read, Reason::ProvedRead);
        }
        self.facts.detail = Detail::Show { parameter };
        self.finish();
    }

    /// What RESET and SHOW name; the inner `None` is ALL.
    fn parameter_or_all(&mut self) -> Option<Option<Parameter>> {
        if self.take(Kw::All) {
            return Some(None);
        }
        let first = self.token.kw;
        let name = self.parameter_name()?;
        if self.at_end() {
            return Some(Some(Parameter::Named(name)));
        }
        let parameter = match first {
            Kw::Time if self.take(Kw::Zone) => Parameter::TimeZone,
            Kw::Session if self.take(Kw::Authorization) => Parameter::SessionAuthorization,
            Kw::Transaction if self.take(Kw::Isolation) && self.take(Kw::Level) => {
                Parameter::TransactionIsolation
            }
            _ => return None,
        };
        Some(Some(parameter))
    }
}

impl SetScope {
    const fn effect(self) -> Effects {
        match self {
            Self::Session => Effects::SETS,
            Self::Local => Effects::SETS_LOCAL,
        }
    }
}

/// Does the parameter say on whose behalf statements run?
fn is_identity(parameter: Parameter, text: &[u8]) -> bool {
    match parameter {
        Parameter::Role | Parameter::SessionAuthorization => true,
        Parameter::Named(name) => {
            let name = fold_name(name.of(text)).to_ascii_lowercase();
            matches!(&*name, b"role" | b"session_authorization")
        }
        _ => false,
    }
}

/// Does the parameter say how transactions to come are isolated?
fn is_isolation(parameter: Parameter, text: &[u8]) -> bool {
    let Parameter::Named(name) = parameter else {
        return false;
    };
    fold_name(name.of(text)).eq_ignore_ascii_case(b"default_transaction_isolation")
}

pub(super) fn mentions_pg_temp(value: &[u8]) -> bool {
    value.windows(7).any(|w| w.eq_ignore_ascii_case(b"pg_temp"))
}

/// A boolean value as PostgreSQL reads it, if it is one of the usual spellings.
fn truth(value: &[u8]) -> Option<bool> {
    let value = plain_literal(value).unwrap_or(value);
    let is = |words: &[&str]| {
        words
            .iter()
            .any(|w| w.as_bytes().eq_ignore_ascii_case(value))
    };
    if is(&["on", "true", "yes", "1", "t", "y"]) {
        Some(true)
    } else if is(&["off", "false", "no", "0", "f", "n"]) {
        Some(false)
    } else {
        None
    }
}
