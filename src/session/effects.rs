//! What a client's statements may leave behind on a server.

use std::sync::Arc;

use super::{
    Mode, Session,
    named::is_ours,
    probe::PinReason,
    settings::is_read_by_parser,
    statements::{Source, Statement},
};
use crate::sql::{self, Builtins, Class, Detail, Effects};

/// Effects that leave session state behind which a probe can find.
const PROBED: Effects = Effects::SETS
    .with(Effects::SET_CONFIG)
    .with(Effects::SET_ROLE)
    .with(Effects::LISTEN)
    .with(Effects::ADVISORY_LOCK)
    .with(Effects::TEMP_OBJECT)
    .with(Effects::HOLD_CURSOR)
    .with(Effects::PREPARE)
    .with(Effects::DISCARD)
    .with(Effects::OPAQUE)
    .with(Effects::UNKNOWN_FUNCTION)
    .with(Effects::UNKNOWN);

/// Effects behind which settings of names that we never saw may hide: a function can make
/// `app.tenant` up, and `pg_settings` lists no such name. They are reset for whoever comes next.
pub(super) const HIDING: Effects = Effects::OPAQUE
    .with(Effects::UNKNOWN_FUNCTION)
    .with(Effects::UNKNOWN);

/// Effects that may end the reason for a pin.
const UNPINNING: Effects = Effects::UNLISTEN
    .with(Effects::ADVISORY_UNLOCK)
    .with(Effects::DROP)
    .with(Effects::CLOSE_CURSOR)
    .with(Effects::DEALLOCATE);

/// Effects that leave session state behind which nothing shows.
const OPAQUE_STATE: Effects = Effects::LOAD.with(Effects::SETSEED);

/// Effects that may take prepared statements of ours from a server.
pub(super) const DEALLOCATING: Effects = Effects::DISCARD
    .with(Effects::DEALLOCATE)
    .with(Effects::PREPARE)
    .with(Effects::UNKNOWN);

/// Effects that change settings, perhaps for the transaction only.
const SETTING: Effects = Effects::SETS
    .with(Effects::SETS_LOCAL)
    .with(Effects::SET_CONFIG);

/// How many settings of its own making a client may have before it keeps its server.
const CUSTOM_SETTINGS_LIMIT: usize = 64;

/// What running a statement may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs {
    pub(super) effects: Effects,
    /// Whether it may use sequences, as whatever writes may.
    pub(super) may_write: bool,
}

impl Default for Runs {
    fn default() -> Self {
        Self {
            effects: Effects::NONE,
            may_write: false,
        }
    }
}

impl Runs {
    /// Anything at all.
    pub(super) const UNKNOWN: Self = Self {
        effects: Effects::UNKNOWN,
        may_write: true,
    };
}

impl From<&sql::Facts> for Runs {
    fn from(facts: &sql::Facts) -> Self {
        const RUNS_OTHERS: Effects = Effects::CURSOR.with(Effects::LOAD);
        let may_write = match facts.class {
            Class::Read | Class::Empty | Class::Begin | Class::Transaction | Class::Set => false,
            Class::Session => facts.effects.intersects(RUNS_OTHERS),
            // What it shows need not be the same everywhere.
            Class::Write => !matches!(facts.detail, Detail::Show { .. }),
            Class::Execute | Class::Unknown => true,
        };
        Self {
            effects: facts.effects,
            may_write,
        }
    }
}

/// Whether a single statement may change what other texts mean when they are prepared.
fn sets_what_parser_reads(text: &[u8], facts: &sql::Facts) -> bool {
    match facts.detail {
        Detail::Set { parameter, .. }
        | Detail::Reset {
            parameter: Some(parameter),
        } => is_read_by_parser(&parameter.name(text)),
        Detail::SetConfig {
            name: Some(name), ..
        } => sql::plain_literal(name.of(text)).is_none_or(is_read_by_parser),
        _ => true,
    }
}

impl Session {
    /// What running the statement of that name may do, which is this one of the client's, if any.
    #[inline]
    pub(super) fn runs_of(&self, name: &[u8], statement: Option<&Statement>) -> Runs {
        match statement {
            Some(statement) => Runs::from(&statement.facts),
            None if name.is_empty() => self.unnamed.runs,
            None if self.is_servers_own(name) => Runs::UNKNOWN,
            None => Runs::default(),
        }
    }

    /// Whether a name may be that of a statement which only the server knows: a PREPARE among other
    /// statements, or inside of a function, names one there.
    pub(super) fn is_servers_own(&self, name: &[u8]) -> bool {
        let prepares = self.pins.contains(PinReason::PreparedStatement) || !self.touched.is_empty();
        prepares && !name.is_empty() && !is_ours(name) && self.statements.named(name).is_none()
    }

    /// Whether session state is tracked, and names of statements are translated.
    #[inline]
    pub(super) fn tracks(&self) -> bool {
        self.mode != Mode::Session
    }

    /// Remembers what a statement that is on its way may do to the server.
    #[inline]
    pub(super) fn touch(&mut self, effects: Effects) {
        if !self.tracks() {
            return;
        }
        if effects.intersects(PROBED) || (effects.intersects(UNPINNING) && !self.pins.is_empty()) {
            self.touched |= effects;
        }
        if effects.intersects(OPAQUE_STATE) {
            self.pins.insert(PinReason::Opaque);
        }
    }

    /// Remembers which settings a text sets that is about to be run: those that a probe would not be
    /// told of, and those that decide what other texts mean.
    #[inline]
    pub(super) fn note_settings(&mut self, text: &[u8], facts: &sql::Facts) {
        if !self.tracks() || !facts.effects.intersects(SETTING) {
            return;
        }
        if facts.statements == 1 {
            return self.note_setting(text, facts);
        }
        // What is set does not depend on what the catalogue knows.
        let env = self.dialect().env(&Builtins);
        for (_, facts) in sql::statements(text, &env) {
            self.note_setting(text, &facts);
        }
    }

    /// The same for a prepared statement that is about to be run.
    #[inline]
    pub(super) fn note_settings_of(&mut self, name: &[u8], runs: Runs) {
        if runs.effects.intersects(SETTING) {
            self.look_up_settings_of(name);
        }
    }

    #[cold]
    fn look_up_settings_of(&mut self, name: &[u8]) {
        if let Some(statement) = self.statements.named(name).map(Arc::clone) {
            return self.note_settings_of_statement(&statement);
        }
        if let Some(needed) = self.unnamed.needs.clone() {
            self.note_settings_of_statement(&needed);
        }
        if let Some(text) = self.unnamed.text().map(<[u8]>::to_vec) {
            let facts = self.look(&text);
            self.note_settings(&text, &facts);
        }
    }

    /// The same for a statement that is about to be run, and for the one that it executes.
    pub(super) fn note_settings_of_statement(&mut self, statement: &Statement) {
        if let Some(needed) = &statement.needs {
            self.note_settings_of_statement(needed);
        }
        match &statement.source {
            Source::Parse { text, .. } => self.note_settings(text, &statement.facts),
            Source::Prepare { .. } => self.note_setting(b"", &statement.facts),
        }
    }

    fn note_setting(&mut self, text: &[u8], facts: &sql::Facts) {
        if facts.effects.intersects(SETTING) && sets_what_parser_reads(text, facts) {
            self.unsettle();
        }
        self.note_custom_setting(text, facts);
    }

    /// What other texts mean is not known from now on, until the settings have been asked for.
    pub(super) fn unsettle(&mut self) {
        self.unsettled += 1;
        self.is_settled = false;
    }

    /// The key of a statement that is prepared now. While it is not known with which settings its
    /// text will be read, nobody else's statement is the same.
    pub(super) fn parse_key(&self) -> Box<[u8]> {
        let key = self.settings.planner_relevant();
        if self.is_settled {
            return key;
        }
        let own = [self.id.to_be_bytes(), self.unsettled.to_be_bytes()];
        [&key[..], b"\0", &own.concat()].concat().into()
    }

    fn note_custom_setting(&mut self, text: &[u8], facts: &sql::Facts) {
        let name: Vec<u8> = match facts.detail {
            Detail::Set {
                parameter,
                scope: sql::SetScope::Session,
                ..
            } => parameter.name(text),
            Detail::SetConfig {
                local: Some(true), ..
            } => return,
            Detail::SetConfig {
                name: Some(name), ..
            } => match sql::plain_literal(name.of(text)) {
                Some(name) => name.to_vec(),
                None => return self.pins.insert(PinReason::Opaque),
            },
            // A name that is computed may be one that no probe knows to ask for.
            _ if facts.effects.contains(Effects::SET_CONFIG) => {
                return self.pins.insert(PinReason::Opaque);
            }
            _ => return,
        };
        if name.eq_ignore_ascii_case(b"seed") {
            return self.pins.insert(PinReason::Opaque);
        }
        if !name.contains(&b'.') {
            return;
        }
        let name: Box<[u8]> = name.to_ascii_lowercase().into();
        if self.custom_settings.contains(&name) {
            return;
        }
        if self.custom_settings.len() < CUSTOM_SETTINGS_LIMIT {
            self.custom_settings.push(name);
        } else {
            self.pins.insert(PinReason::Opaque);
        }
    }
}
