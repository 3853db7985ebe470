//! What a client asks for in one go, as far as it decides which server may do it.
//!
//! A unit is a Query, or a batch up to its Sync: it runs on one server. What it is comes from its texts,
//! also of statements that were prepared long ago; nothing here knows which servers there are.
//!
//! Invariant: a unit is a [`Kind::Read`] only if every text in it is a proved read, and every message of
//! it was seen.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    Batch, HOLD_LIMIT, ServerState, Session,
    stall::Stall,
    statements::{Source, Statement},
};
use crate::{
    protocol::{
        FrontendTag,
        backend::TransactionStatus,
        frame::{self, HEADER},
        frontend::{self, Bind, Parse, Target},
    },
    sql::{
        self, Class, Detail, Effects, Facts, Isolation, Parameter, Reason, TxControl,
        hint::{self, Own, OwnStatement},
    },
};

/// What a unit needs of a server, in the order of how much: of several, the last one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// It changes nothing and answers alike wherever the data is the same.
    Read,
    /// It begins a transaction that can only read.
    ReadOnlyTransaction,
    /// It needs the primary, and yet changes no data: a lone COMMIT, LISTEN.
    Control,
    /// It may change data.
    Write,
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::Read,
        Self::ReadOnlyTransaction,
        Self::Control,
        Self::Write,
    ];

    /// What a batch is of which `self` is the beginning and `next` what follows.
    fn followed_by(self, next: Self, ends: bool) -> Self {
        match (self, next) {
            (Self::ReadOnlyTransaction, Self::Read) => self,
            // Its own end, or a savepoint.
            (Self::ReadOnlyTransaction, Self::Control) if ends => self,
            (Self::ReadOnlyTransaction, Self::ReadOnlyTransaction) => Self::Control,
            _ => self.max(next),
        }
    }
}

/// What is wished for a unit in comments of its statements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `primary`, `replica` or `auto`.
    pub route: Option<Box<[u8]>>,
    /// `eventual`, `session`, `strong` or `primary`.
    pub consistency: Option<Box<[u8]>>,
    /// With whom it shares freshness.
    pub key: Option<Box<[u8]>>,
    /// How fresh it must be.
    pub token: Option<Box<[u8]>>,
}

/// What a client asks for in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// What it needs.
    pub kind: Kind,
    /// Why; `None` where a message was too long to be looked at, or had no text.
    pub reason: Option<Reason>,
    /// What its comments wish.
    pub hints: Option<Box<Hints>>,
    /// Whether it asks for `pgweir.token`.
    pub shows_token: bool,
    /// Its length in bytes, if all of it is there and it stands alone.
    pub size: Option<usize>,
}

/// What one statement adds to a unit.
#[derive(Clone, Copy)]
struct Part {
    kind: Kind,
    reason: Reason,
    /// Whether it is transaction control that a read-only transaction may hold: not another BEGIN.
    ends: bool,
}

/// What a prepared statement was found to be, and in which world: computed at its first use in each.
#[derive(Debug, Default)]
pub(super) struct Verdict(AtomicU64);

impl Verdict {
    const KNOWN: u64 = 1 << 15;
    const COMMENT: u64 = 1 << 14;
    const ENDS: u64 = 1 << 13;
    const SHOWS: u64 = 1 << 12;

    #[inline]
    fn get(&self, world: u64) -> Option<(Part, u64)> {
        let packed = self.0.load(Ordering::Relaxed);
        if packed >> 16 != world || packed & Self::KNOWN == 0 {
            return None;
        }
        let kind = Kind::ALL[usize::try_from(packed >> 8 & 3).unwrap_or(3)];
        let reason = Reason::ALL.get(usize::try_from(packed & 0xff).unwrap_or(0));
        let part = Part {
            kind,
            reason: *reason?,
            ends: packed & Self::ENDS != 0,
        };
        Some((part, packed))
    }

    #[inline]
    fn is_read(&self, world: u64) -> bool {
        self.get(world)
            .is_some_and(|(part, _)| part.kind == Kind::Read)
    }

    /// A replica has refused it.
    pub(super) fn refuse(&self, world: u64) {
        let part = Part {
            kind: Kind::Write,
            reason: Reason::RefusedByReplica,
            ends: false,
        };
        self.set(world, part, 0);
    }

    fn set(&self, world: u64, part: Part, flags: u64) {
        let ends = if part.ends { Self::ENDS } else { 0 };
        let packed =
            world << 16 | Self::KNOWN | ends | flags | (part.kind as u64) << 8 | part.reason as u64;
        self.0.store(packed, Ordering::Relaxed);
    }
}

/// The unit so far.
struct Gathered {
    unit: Unit,
    is_begun: bool,
    /// Whether it makes an unnamed statement of its own.
    parses_unnamed: bool,
    /// What it may change, if it changes anything.
    writes: Writes,
    /// Whether it changes a setting of pgweir's own, and whether something stands behind that.
    own_setting: OwnSetting,
}

/// Whether a unit changes what its session wishes of its routing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnSetting {
    Untouched,
    Changed,
    /// And something is done after that, to which it applies.
    ChangedBefore,
}

impl Gathered {
    const fn new() -> Self {
        let unit = Unit {
            kind: Kind::Read,
            reason: None,
            hints: None,
            shows_token: false,
            size: None,
        };
        Self {
            unit,
            is_begun: false,
            parses_unnamed: false,
            writes: Writes::Data,
            own_setting: OwnSetting::Untouched,
        }
    }

    fn add(&mut self, part: Part) {
        if self.own_setting == OwnSetting::Changed {
            self.own_setting = OwnSetting::ChangedBefore;
        }
        let unit = &mut self.unit;
        let kind = if self.is_begun {
            unit.kind.followed_by(part.kind, part.ends)
        } else {
            part.kind
        };
        // The statement that decided gives the reason.
        if !self.is_begun || kind != unit.kind {
            unit.reason = Some(part.reason);
        }
        unit.kind = kind;
        self.is_begun = true;
    }

    fn add_unseen(&mut self) {
        self.unit.kind = Kind::Write;
        self.unit.reason = None;
        self.is_begun = true;
    }

    /// All of it is there. What it was decided by does not hold any more behind a SET of it: only the primary is right for
    /// whatever is wished by then. And a standby refuses to be serializable.
    fn finish(mut self, is_serializable: bool) -> Unit {
        let unit = &mut self.unit;
        let needs_primary = is_serializable || self.own_setting == OwnSetting::ChangedBefore;
        if needs_primary && unit.kind < Kind::Control {
            unit.kind = Kind::Control;
            unit.reason = Some(Reason::Setting);
        }
        self.unit
    }

    fn add_hints(&mut self, text: &[u8]) {
        let found = hint::hints(text);
        if found.is_empty() {
            return;
        }
        let hints = self.unit.hints.get_or_insert_default();
        for (place, wish) in [
            (&mut hints.route, found.route),
            (&mut hints.consistency, found.consistency),
            (&mut hints.key, found.key),
            (&mut hints.token, found.token),
        ] {
            if let Some(wish) = wish {
                *place = Some((*wish).into());
            }
        }
    }
}

impl Session {
    /// Looks at the unit that `data` begins with.
    pub fn unit(&self, data: &[u8]) -> Unit {
        let mut gathered = Gathered::new();
        if !self.tracks() {
            // Its server is its own, whatever it does.
            gathered.unit.kind = Kind::Control;
            return gathered.unit;
        }
        let mut rest = data;
        let mut is_batch = self.batch.is_open();
        loop {
            let Some((first, body, behind)) = frame::whole(rest) else {
                gathered.add_unseen();
                return gathered.unit;
            };
            let tag = FrontendTag::from_byte(first);
            let is_seen = match tag {
                _ if HEADER + body.len() > HOLD_LIMIT => false,
                Some(FrontendTag::Query) if is_batch => false,
                Some(FrontendTag::Query) => self.add_query(body, &mut gathered),
                Some(FrontendTag::Parse) => self.add_parse(body, &mut gathered),
                Some(FrontendTag::Bind) => self.add_bind(body, &mut gathered),
                Some(FrontendTag::Describe) => self.add_describe(body, &mut gathered),
                Some(FrontendTag::Execute | FrontendTag::Close | FrontendTag::Sync) => true,
                // A batch that goes on after a Flush shows only its beginning.
                _ => false,
            };
            if !is_seen {
                gathered.add_unseen();
                return gathered.unit;
            }
            if matches!(tag, Some(FrontendTag::Query | FrontendTag::Sync)) {
                gathered.unit.size = behind.is_empty().then_some(data.len());
                return gathered.finish(self.is_serializable);
            }
            is_batch = true;
            rest = behind;
        }
    }

    fn add_query(&self, body: &[u8], gathered: &mut Gathered) -> bool {
        let Ok(text) = frontend::query(body) else {
            return false;
        };
        self.add_text(text, gathered);
        true
    }

    fn add_parse(&self, body: &[u8], gathered: &mut Gathered) -> bool {
        let Ok(parse) = Parse::read(body) else {
            return false;
        };
        gathered.parses_unnamed |= parse.name.is_empty();
        self.add_text(parse.text, gathered);
        true
    }

    fn add_bind(&self, body: &[u8], gathered: &mut Gathered) -> bool {
        let Ok(bind) = Bind::read(body) else {
            return false;
        };
        self.add_statement(bind.statement, gathered)
    }

    /// What is described is not run; but a session that prepares here will run there.
    fn add_describe(&self, body: &[u8], gathered: &mut Gathered) -> bool {
        match Target::read(body) {
            Ok(Target::Statement(name)) => self.add_statement(name, gathered),
            Ok(Target::Portal(_)) => true,
            Err(_) => false,
        }
    }

    /// A statement that was prepared, by its name. One that was prepared in the same batch has been
    /// added there.
    #[inline]
    fn add_statement(&self, name: &[u8], gathered: &mut Gathered) -> bool {
        if let Some(statement) = self.statements.named(name) {
            self.add_prepared(statement, gathered);
            return true;
        }
        if !name.is_empty() {
            // A name that the batch has just given, or nobody's: then the server says so.
            return true;
        }
        if gathered.parses_unnamed {
            return true;
        }
        match self.unnamed.text() {
            Some(text) => self.add_text(text, gathered),
            None if self.unnamed.is_none() => {}
            None => return false,
        }
        true
    }

    #[inline]
    fn add_prepared(&self, statement: &Statement, gathered: &mut Gathered) {
        let world = self.world();
        if let Some((part, flags)) = statement.verdict.get(world)
            && flags & Verdict::COMMENT == 0
        {
            gathered.unit.shows_token |= flags & Verdict::SHOWS != 0;
            if part.kind == Kind::Write {
                gathered.writes = gathered.writes.max(Writes::of(&statement.facts));
            }
            return gathered.add(part);
        }
        self.judge(statement, gathered);
    }

    /// Looks at a statement of which it is not known yet what it adds.
    #[cold]
    fn judge(&self, statement: &Statement, gathered: &mut Gathered) {
        let world = self.world();
        match &statement.source {
            Source::Parse { text, .. } => {
                let facts = self.look(text);
                let part = self.add_facts(text, &facts, gathered);
                let comment = if facts.comment { Verdict::COMMENT } else { 0 };
                let shows = if shows_token(text, &facts) {
                    Verdict::SHOWS
                } else {
                    0
                };
                // What it executes by name may change; what it says of itself does not.
                let is_lasting = !matches!(facts.class, Class::Execute | Class::Begin)
                    && !changes_own(text, &facts);
                if let Some(part) = part.filter(|_| is_lasting) {
                    statement.verdict.set(world, part, comment | shows);
                }
            }
            Source::Prepare { after, .. } => self.add_body(after, gathered),
        }
    }

    /// What an SQL `PREPARE` prepares, whose text behind the name is `after`.
    fn add_body(&self, after: &[u8], gathered: &mut Gathered) {
        let text = [b"PREPARE x", after].concat();
        let facts = self.look(&text);
        match facts.detail {
            Detail::Prepare { body, .. } => self.add_text(body.of(&text), gathered),
            _ => gathered.add_unseen(),
        }
    }

    fn add_text(&self, text: &[u8], gathered: &mut Gathered) {
        let facts = self.look(text);
        self.add_facts(text, &facts, gathered);
    }

    fn add_facts(&self, text: &[u8], facts: &Facts, gathered: &mut Gathered) -> Option<Part> {
        if facts.comment {
            gathered.add_hints(text);
        }
        gathered.unit.shows_token |= shows_token(text, facts);
        gathered.writes = gathered.writes.max(Writes::of(facts));
        if let (Class::Execute, Detail::Execute { name }) = (facts.class, facts.detail) {
            let name = sql::fold_name(name.of(text));
            match self.statements.named(&name) {
                Some(statement) if statement.needs.is_none() => {
                    self.add_prepared(statement, gathered);
                }
                _ => gathered.add(self.part(facts)),
            }
            return None;
        }
        let part = self.part(facts);
        gathered.add(part);
        if changes_own(text, facts) && gathered.own_setting == OwnSetting::Untouched {
            gathered.own_setting = OwnSetting::Changed;
        }
        Some(part)
    }

    fn part(&self, facts: &Facts) -> Part {
        let (kind, ends) = self.kind(facts);
        Part {
            kind,
            reason: facts.reason,
            ends,
        }
    }

    fn kind(&self, facts: &Facts) -> (Kind, bool) {
        let reads_by_default =
            || self.settings.value(b"default_transaction_read_only") == Some(b"on");
        // Alone, or among others of a text.
        let may_reset_all = matches!(
            facts.detail,
            Detail::Reset { parameter: None } | Detail::None
        );
        match facts.class {
            // It may be serializable again behind that.
            Class::Set if may_reset_all && self.startup.is_serializable() => (Kind::Control, false),
            Class::Begin => kind(facts, reads_by_default()),
            _ => kind(facts, false),
        }
    }

    /// Remembers whether what is on its way to the server may change data.
    #[inline]
    pub(super) fn note_write(&mut self, text: &[u8], facts: &Facts) {
        if self.place == Place::Only {
            return;
        }
        if let (Class::Execute, Detail::Execute { name }) = (facts.class, facts.detail) {
            let name = sql::fold_name(name.of(text));
            let statement = self.statements.named(&name).map(Arc::clone);
            return self.note_write_of(&name, statement.as_deref());
        }
        if kind(facts, false).0 == Kind::Write {
            self.writes = self.writes.max(Writes::of(facts));
        }
    }

    /// Remembers the key that a text names, by SET or, in the middle of a transaction, by a comment: nobody
    /// decides anew there, and yet whoever reads under that key must see what is written.
    #[inline]
    pub(super) fn note_key(&self, text: &[u8], facts: &Facts, server: &mut ServerState) {
        let sets = matches!(facts.detail, Detail::Set { .. });
        if self.place == Place::Only || !(sets || facts.comment) {
            return;
        }
        if let Some(OwnStatement::Set(Own::Key, Some(key))) = hint::own_statement(text, facts) {
            server.add_key(&key);
        }
        let is_amid = server.status != TransactionStatus::Idle || !server.pipeline.is_empty();
        if facts.comment
            && is_amid
            && let Some(key) = hint::hints(text).key
        {
            server.add_key(&key);
        }
    }

    /// As [`Session::note_write`], for the statement of that name that was prepared before, which is this one of the client's,
    /// if any.
    #[inline]
    pub(super) fn note_write_of(&mut self, name: &[u8], statement: Option<&Statement>) {
        let is_read = |statement: &Statement| statement.verdict.is_read(self.world());
        if self.place == Place::Only
            || self.writes == Writes::Schema
            || statement.is_some_and(is_read)
        {
            return;
        }
        let mut gathered = Gathered::new();
        if let Some(statement) = statement {
            self.add_prepared(statement, &mut gathered);
        } else if self.is_servers_own(name) || !self.add_statement(name, &mut gathered) {
            return self.note_unseen();
        }
        if gathered.unit.kind == Kind::Write {
            self.writes = self.writes.max(gathered.writes);
        }
    }

    /// Remembers that something is on its way of which nothing is known.
    pub(super) fn note_unseen(&mut self) {
        self.writes = self.writes.max(Writes::Data);
    }

    /// Whether something that may change data was sent, and is not known to be over.
    #[inline]
    pub fn has_written(&self) -> bool {
        self.writes != Writes::None
    }

    /// Whether that may have changed the schema.
    pub fn has_changed_schema(&self) -> bool {
        self.writes == Writes::Schema
    }

    /// Whether the client now learns that something is over that may have changed data: the server has
    /// just said that it is between transactions.
    pub fn take_writes(&mut self, server: &ServerState) -> bool {
        let is_over = self.has_written() && server.status == TransactionStatus::Idle;
        if is_over && server.pipeline.is_empty() {
            self.writes = Writes::None;
        }
        is_over
    }

    /// What was sent is over, or will never be answered.
    pub fn forget_writes(&mut self) {
        self.writes = Writes::None;
    }

    /// Says what kind of server the session gets next.
    #[inline]
    pub fn set_place(&mut self, place: Place) {
        self.place = if self.tracks() { place } else { Place::Only };
    }

    /// Whether what `rest` begins with must not be sent behind what the server still has to answer. On
    /// a replica only proved reads may that the same was decided for: anything else might find the
    /// transaction over by then in which it was sent, or belongs elsewhere. And a token tells of what is
    /// over when it is asked for. The settings that a server is given in front of a unit are no part of one.
    pub(super) fn must_not_follow(&self, rest: &[u8], server: &ServerState) -> bool {
        let may_wait = self.place != Place::Only
            && self.batch == Batch::Closed
            && server.pipeline.owes_more_than_settings()
            && rest
                .first()
                .and_then(|byte| FrontendTag::from_byte(*byte))
                .is_some_and(|tag| !matches!(tag, FrontendTag::Sync | FrontendTag::Flush));
        if !may_wait {
            return false;
        }
        let unit = self.unit(rest);
        let may_follow = match self.place {
            Place::Only | Place::Primary => true,
            Place::Replica => unit.kind == Kind::Read && unit.hints.is_none(),
            Place::ReplicaForOne => false,
        };
        unit.shows_token || !may_follow
    }

    /// The same, when it has been found so before.
    pub(super) fn waits_to_follow(&self, server: &ServerState) -> bool {
        self.stalled == Stall::MustNotFollow
            && self.batch == Batch::Closed
            && server.pipeline.owes_more_than_settings()
    }
}

/// What kind of server a session has, or had last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// There is only one kind: nothing needs to be known.
    #[default]
    Only,
    /// The primary.
    Primary,
    /// One that takes no writes.
    Replica,
    /// The same, chosen for what one unit has to see: the next one may have to see more.
    ReplicaForOne,
}

/// Whether something that may change data is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Writes {
    #[default]
    None,
    /// Of data.
    Data,
    /// Of the schema, as far as the text shows. What a procedure does, or a text that is not
    /// understood, is found by the timer: a bulk load must not have the catalogue read all the time.
    Schema,
}

impl Writes {
    fn of(facts: &Facts) -> Self {
        const SCHEMA: Effects = Effects::DDL.with(Effects::DROP);
        // Temporary objects keep their session on the primary.
        let is_temporary = facts.effects.contains(Effects::TEMP_OBJECT);
        if facts.effects.intersects(SCHEMA) && !is_temporary {
            Self::Schema
        } else {
            Self::Data
        }
    }
}

/// What a statement needs, and whether it may stand inside of a read-only transaction without needing
/// more. `reads_by_default`: `default_transaction_read_only` of its session.
pub fn kind(facts: &Facts, reads_by_default: bool) -> (Kind, bool) {
    let kind = match facts.class {
        // On a server that refuses to be serializable nothing could be asked any more, not even what was set.
        Class::Set if facts.effects.contains(Effects::SETS_ISOLATION) => Kind::Control,
        Class::Read | Class::Empty | Class::Set => Kind::Read,
        Class::Begin => match facts.transaction {
            Some(TxControl::Begin(modes))
                if modes.read_only.unwrap_or(reads_by_default)
                    && modes.isolation != Some(Isolation::Serializable) =>
            {
                Kind::ReadOnlyTransaction
            }
            _ => Kind::Control,
        },
        Class::Transaction => match facts.transaction {
            Some(
                TxControl::PrepareTransaction
                | TxControl::CommitPrepared
                | TxControl::RollbackPrepared,
            )
            | None => Kind::Write,
            Some(TxControl::SetTransaction(_) | TxControl::SetSessionCharacteristics { .. }) => {
                Kind::Control
            }
            Some(_) => return (Kind::Control, true),
        },
        Class::Session => match facts.detail {
            Detail::Deallocate { .. }
            | Detail::Discard(_)
            | Detail::Listen { .. }
            | Detail::Unlisten { .. }
            | Detail::Close { .. }
            | Detail::Prepare { .. } => Kind::Control,
            _ => Kind::Write,
        },
        Class::Write | Class::Execute | Class::Unknown => Kind::Write,
    };
    (kind, false)
}

/// Whether a text may set or reset a setting of pgweir's own.
fn changes_own(text: &[u8], facts: &Facts) -> bool {
    match facts.detail {
        Detail::Set { parameter, .. }
        | Detail::Reset {
            parameter: Some(parameter),
        } => {
            matches!(parameter, Parameter::Named(_))
                && Own::parameter(&parameter.name(text)).is_some()
        }
        Detail::Reset { parameter: None } => true,
        _ => false,
    }
}

/// Whether a text is `SHOW pgweir.token`.
fn shows_token(text: &[u8], facts: &Facts) -> bool {
    match facts.detail {
        Detail::Show {
            parameter: Some(parameter @ Parameter::Named(_)),
        } => Own::parameter(&parameter.name(text)) == Some(Own::Token),
        _ => false,
    }
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
