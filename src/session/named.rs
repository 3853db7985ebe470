//! Named statements: the client's names, and what a server has for them.
//!
//! Whatever names a statement, in the protocol or in SQL (PREPARE, EXECUTE, DEALLOCATE), is translated
//! to the name that the server knows; a statement that the server lacks is prepared first, in the same
//! write. Nothing here lets one client reach another's statement by its name on the server.

use std::{borrow::Cow, sync::Arc};

use super::{
    Batch, Outbox, ServerState, Session,
    client_bytes::Message,
    effects::{DEALLOCATING, Runs},
    expected::{Disposition, Expected, Fake, OnBehalf, Request, Subject},
    refusal::Refusal,
    revoke::Revoke,
    server_state::Unnamed,
    statements::{NAME_PREFIX, Presence, Source, Statement},
};
use crate::{
    protocol::{Frame, FrontendTag, backend::TransactionStatus, encode, frame, frontend::Parse},
    sql::{self, Detail, Discard, Effects, Facts, Span},
};

/// Effects of texts that name a statement of the client's.
const NAMING: Effects = Effects::PREPARE
    .with(Effects::EXECUTE)
    .with(Effects::DEALLOCATE);

/// A statement that exists whenever its name is used: PostgreSQL says with it, in its own words, that
/// a name is taken, or drops it in place of a statement that others need.
pub(super) const TAKEN: &[u8] = b"pgweir_taken";

/// Stands before a name of the client's that looks like one of ours. No statement has such a name.
pub(super) const REFUSED: &[u8] = b"~";

/// The statement, and portal, by which a PREPARE is run inside a batch.
const PREPARE: &[u8] = b"pgweir_prepare";

const ON_BEHALF: Disposition = Disposition::Skip(OnBehalf::Statement);

/// Whether a name looks like one of ours.
pub(super) fn is_ours(name: &[u8]) -> bool {
    name.starts_with(NAME_PREFIX.as_bytes())
}

/// What a statement name of the client's became.
pub(super) enum Resolved {
    /// The server knows it, or refuses it, under the name that was sent.
    AsSent,
    /// The server knows it under a name of ours.
    Managed(Arc<Statement>),
    /// The server refuses it under this name.
    Renamed(Box<[u8]>),
}

impl Resolved {
    /// The name to send, if it is another.
    #[inline]
    pub(super) fn name(&self) -> Option<&[u8]> {
        match self {
            Self::AsSent => None,
            Self::Managed(statement) => Some(&statement.name),
            Self::Renamed(name) => Some(name),
        }
    }

    #[inline]
    pub(super) fn subject(&self) -> Subject {
        match self {
            Self::Managed(statement) => Subject::Statement(statement.id),
            Self::AsSent | Self::Renamed(_) => Subject::None,
        }
    }
}

/// An SQL text in which a name of the client's was replaced.
pub(super) struct Rewritten {
    pub(super) text: Vec<u8>,
    /// What the text is, now that its own name is dealt with.
    pub(super) facts: Facts,
    /// The statement that it executes.
    pub(super) needs: Option<Arc<Statement>>,
    /// What to take back if it is not carried out.
    pub(super) revoke: Option<Revoke>,
}

impl Rewritten {
    fn new(text: &[u8], facts: &Facts, span: Span, name: &[u8]) -> Self {
        let range = span.range();
        Self {
            text: [&text[..range.start], name, &text[range.end..]].concat(),
            facts: Facts {
                effects: facts.effects.without(NAMING),
                detail: Detail::None,
                ..*facts
            },
            needs: None,
            revoke: None,
        }
    }
}

impl Session {
    /// A Query small enough to be looked at.
    pub(super) fn on_query(
        &mut self,
        text: &[u8],
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        let facts = self.look(text);
        self.note_write(text, &facts);
        self.note_key(text, &facts, server);
        self.note_settings(text, &facts);
        if let Some(refusal) = self.refusal_of(text, &facts, server, out) {
            return self.refuse_query(refusal, server, out);
        }
        if let Detail::Deallocate { name: None } | Detail::Discard(Discard::All) = facts.detail {
            return self.on_discard(&facts, message, server, out);
        }
        let drops = self.drop_unnamed(server);
        let query = Expected::new(Request::Query, Disposition::Forward).revoking(drops);
        let rewritten = match facts.detail {
            Detail::Prepare { name, .. } => {
                Some(self.rewrite_prepare(text, &facts, name, server, out))
            }
            _ => self.rewrite_name(text, &facts, server, out),
        };
        let Some(rewritten) = rewritten else {
            self.touch(facts.effects);
            if facts.effects.intersects(DEALLOCATING) {
                server.statements.doubt_all();
            }
            server.pipeline.push_expected(query);
            return Self::forward(message, out);
        };
        self.touch(rewritten.facts.effects);
        let mut subject = Subject::None;
        if let Some(needed) = &rewritten.needs {
            self.note_settings_of_statement(needed);
            self.ensure(needed, server, out);
            subject = Subject::Statement(needed.id);
        }
        if self.batch == Batch::Closed && server.pipeline.ends_in_open_batch() {
            // Without a Sync of its own, a failure of ours would make the server ignore the Query.
            encode::sync(out.own());
            server.pipeline.push(Request::Sync, ON_BEHALF);
        }
        encode::query(out.own(), &rewritten.text);
        server
            .pipeline
            .push_expected(query.about(subject).revoking(rewritten.revoke));
        if rewritten.facts.effects.intersects(DEALLOCATING) {
            server.statements.doubt_all();
        }
    }

    /// Why a Query is not let through, if so.
    fn refusal_of(
        &self,
        text: &[u8],
        facts: &Facts,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Option<Refusal> {
        let mut runs = Runs::from(facts);
        if let Detail::Execute { name } = facts.detail
            && let Some(statement) = self.statements.named(&sql::fold_name(name.of(text)))
        {
            runs = Runs::from(&statement.facts);
        }
        self.refusal_of_statement(text, facts)
            .or_else(|| self.refusal(runs.effects))
            .or_else(|| self.guard_sequences(runs, server, out).err())
    }

    /// DEALLOCATE ALL and DISCARD ALL, alone in a Query.
    fn on_discard(
        &mut self,
        facts: &Facts,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        let needs_server = matches!(facts.detail, Detail::Discard(_))
            || self.batch.is_open()
            || !server.pipeline.is_quiescent()
            // A transaction may have a portal without a name, which a Query drops, or have failed.
            || server.status != TransactionStatus::Idle
            || !self.touched.is_empty()
            || !self.pins.is_empty();
        let names = self.statements.take();
        if !needs_server {
            let _of_an_idle_server = self.drop_unnamed(server);
            // The client's is gone, as after any Query; but the server has not been told.
            server.unnamed = Unnamed::Unknown;
            let fake = Disposition::Fake(Fake::DeallocateAll);
            return server.pipeline.push(Request::Query, fake);
        }
        self.touch(facts.effects);
        server.statements.doubt_all();
        let drops = self.drop_unnamed(server);
        server.pipeline.push_expected(
            Expected::new(Request::Query, Disposition::Forward)
                .revoking(drops)
                .revoking(Revoke::Names(names)),
        );
        Self::forward(message, out);
    }

    /// The text of a PREPARE under a name of ours.
    fn rewrite_prepare(
        &mut self,
        text: &[u8],
        facts: &Facts,
        name: Span,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Rewritten {
        let client_name = sql::fold_name(name.of(text));
        if self.statements.named(&client_name).is_some() {
            Self::reserve(server, out);
            let mut rewritten = Rewritten::new(text, facts, name, TAKEN);
            rewritten.revoke = Some(Revoke::Taken(client_name.into()));
            return rewritten;
        }
        let mut rewritten = Rewritten::new(text, facts, name, b"");
        let range = name.range();
        let statement = self.interners.statements.prepare(
            &text[..range.start],
            &text[range.end..],
            self.parse_key(),
            rewritten.facts,
        );
        let before = server.statements.touch(statement.id);
        if before != Presence::Absent {
            // It may be there for another client: this PREPARE has to be really run and answered.
            Self::close_on_server(&statement.name, None, server, out);
        }
        Self::enter(&statement, server, out);
        self.statements.insert(&client_name, Arc::clone(&statement));
        rewritten
            .text
            .splice(range.start..range.start, statement.name.iter().copied());
        rewritten.revoke = Some(Revoke::Prepared {
            statement,
            client_name: Some(client_name.into()),
            before: Some(before),
        });
        rewritten
    }

    /// The text of an EXECUTE or DEALLOCATE with a name that the server knows, or refuses.
    pub(super) fn rewrite_name(
        &mut self,
        text: &[u8],
        facts: &Facts,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Option<Rewritten> {
        let (Detail::Execute { name } | Detail::Deallocate { name: Some(name) }) = facts.detail
        else {
            return None;
        };
        let client_name = sql::fold_name(name.of(text));
        let Some(statement) = self.statements.named(&client_name).map(Arc::clone) else {
            // Nobody's name, so the server refuses it; but it must not be one of ours.
            let refused = [b"\"", REFUSED, &*client_name, b"\""].concat();
            return is_ours(&client_name).then(|| Rewritten::new(text, facts, name, &refused));
        };
        if let Detail::Execute { .. } = facts.detail {
            if statement.needs.is_some() {
                return None;
            }
            let statement = self.as_read_now(&client_name, statement, server);
            let mut rewritten = Rewritten::new(text, facts, name, &statement.name);
            rewritten.facts.effects |= statement.facts.effects;
            rewritten.needs = Some(statement);
            return Some(rewritten);
        }
        self.statements.remove(&client_name);
        Self::reserve(server, out);
        let mut rewritten = Rewritten::new(text, facts, name, TAKEN);
        rewritten.revoke = Some(Revoke::Named {
            client_name: client_name.into(),
            statement,
        });
        Some(rewritten)
    }

    /// A Parse of a name that the client has given already.
    pub(super) fn parse_taken(parse: &Parse<'_>, server: &mut ServerState, out: &mut Outbox<'_>) {
        Self::reserve(server, out);
        encode::parse(out.own(), TAKEN, parse.text, parse.types);
        let parsed = Expected::new(Request::Parse, Disposition::Forward);
        let taken = Revoke::Taken(parse.name.into());
        server.pipeline.push_expected(parsed.revoking(taken));
    }

    /// A Parse of a named statement.
    pub(super) fn parse_named(
        &mut self,
        parse: &Parse<'_>,
        facts: &Facts,
        rewritten: Option<Rewritten>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        let (text, facts, needs, revoke) = match rewritten {
            Some(it) => (Cow::Owned(it.text), it.facts, it.needs, it.revoke),
            None => (Cow::Borrowed(parse.text), *facts, None, None),
        };
        let settings = self.parse_key();
        let statement =
            self.interners
                .statements
                .parse(&text, parse.types, &settings, facts, needs);
        self.statements.insert(parse.name, Arc::clone(&statement));
        let client_name = Some(parse.name.into());
        let before = server.statements.touch(statement.id);
        // In a failed transaction PostgreSQL refuses a Parse, and so it must be asked.
        let may_be_refused =
            server.status == TransactionStatus::Failed || server.pipeline.is_status_open();
        if before == Presence::Present && !may_be_refused {
            let faked = Disposition::Fake(Fake::ParseComplete);
            server.pipeline.push_expected(
                Expected::new(Request::Parse, faked)
                    .revoking(revoke)
                    .revoking(Revoke::Prepared {
                        statement,
                        client_name,
                        before: None,
                    }),
            );
            return;
        }
        if before != Presence::Absent {
            Self::close_on_server(&statement.name, None, server, out);
        }
        Self::enter(&statement, server, out);
        encode::parse(out.own(), &statement.name, &text, parse.types);
        server.pipeline.push_expected(
            Expected::new(Request::Parse, Disposition::Forward)
                .revoking(revoke)
                .revoking(Revoke::Prepared {
                    statement,
                    client_name,
                    before: Some(before),
                }),
        );
    }

    /// A Parse and its Sync, and nothing else, of a statement that a server of this pool has accepted
    /// before: answered without a server. Answers how many bytes of `data` that was.
    ///
    /// Clients exist that wait here for the answer while other clients of the same thread hold every
    /// server in open transactions (pgbench does): they would wait for ever.
    pub(super) fn parse_locally(
        &mut self,
        frame: &Frame<'_, FrontendTag>,
        data: &[u8],
        to_client: &mut Vec<u8>,
    ) -> Option<usize> {
        let next = frame::frontend(&data[frame.size..], u32::MAX).ok()??;
        if next.tag != FrontendTag::Sync || !self.tracks() || self.batch != Batch::Closed {
            return None;
        }
        let parse = Parse::read(frame.body()).ok()?;
        if parse.name.is_empty() || self.statements.named(parse.name).is_some() {
            return None;
        }
        let settings = self.parse_key();
        let known = &self.interners.statements;
        let statement = known.accepted(parse.text, parse.types, &settings)?;
        if statement.needs.is_some() || statement.facts.effects.intersects(NAMING) {
            return None;
        }
        self.statements.insert(parse.name, statement);
        encode::parse_complete(to_client);
        encode::ready_for_query(to_client, TransactionStatus::Idle);
        Some(frame.size + next.size)
    }

    /// Makes sure that the server has what the client calls `name`, which is this statement, if it is one of the client's.
    #[inline]
    pub(super) fn resolve(
        &mut self,
        name: &[u8],
        statement: Option<Arc<Statement>>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Resolved {
        if name.is_empty() {
            self.ensure_unnamed(server, out);
            return Resolved::AsSent;
        }
        match statement {
            Some(statement) => {
                let statement = self.as_read_now(name, statement, server);
                self.ensure(&statement, server, out);
                Resolved::Managed(statement)
            }
            // Nobody's name, so the server refuses it; but it must not be one of ours.
            None if is_ours(name) => Resolved::Renamed([REFUSED, name].concat().into()),
            None => Resolved::AsSent,
        }
    }

    /// The statement that the client calls `name`; or, if the server has to read its text again and
    /// would do so with other settings than it was read with, that of the settings that hold now.
    #[inline]
    fn as_read_now(
        &mut self,
        name: &[u8],
        statement: Arc<Statement>,
        server: &mut ServerState,
    ) -> Arc<Statement> {
        if server.statements.touch(statement.id) == Presence::Present {
            return statement;
        }
        let key = self.parse_key();
        if *statement.source.settings() == *key {
            return statement;
        }
        let statement = self.interners.statements.under(&statement, key);
        self.statements.insert(name, Arc::clone(&statement));
        statement
    }

    /// Gives the server the statement if it lacks it. In the batch that is open, or else in one whose
    /// Sync the caller sends.
    pub(super) fn ensure(
        &self,
        statement: &Arc<Statement>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        if let Some(needed) = &statement.needs {
            self.ensure(needed, server, out);
        }
        let before = server.statements.touch(statement.id);
        if before == Presence::Present {
            return;
        }
        if before == Presence::Doubtful {
            Self::close_on_server(&statement.name, None, server, out);
        }
        Self::enter(statement, server, out);
        let revoke = Revoke::Prepared {
            statement: Arc::clone(statement),
            client_name: None,
            before: Some(before),
        };
        match &statement.source {
            Source::Parse { text, types, .. } => {
                encode::parse(out.own(), &statement.name, text, types);
                server
                    .pipeline
                    .push_expected(Expected::new(Request::Parse, ON_BEHALF).revoking(revoke));
            }
            Source::Prepare { .. } => {
                let text = statement.prepare_text().unwrap_or_default();
                encode::run_in_batch(out.own(), PREPARE, &text);
                for request in [Request::Close, Request::Parse, Request::Bind] {
                    server.pipeline.push(request, ON_BEHALF);
                }
                server
                    .pipeline
                    .push_expected(Expected::new(Request::Execute, ON_BEHALF).revoking(revoke));
                server.pipeline.push(Request::Close, ON_BEHALF);
            }
        }
    }

    /// Enters a statement that is about to be sent, and closes the one that has to go for it.
    fn enter(statement: &Arc<Statement>, server: &mut ServerState, out: &mut Outbox<'_>) {
        if let Some(evicted) = server.statements.insert(statement) {
            let name = evicted.name.clone();
            Self::close_on_server(&name, Some(Revoke::Evicted(evicted)), server, out);
        }
    }

    fn close_on_server(
        name: &[u8],
        revoke: Option<Revoke>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        encode::close_statement(out.own(), name);
        server
            .pipeline
            .push_expected(Expected::new(Request::Close, ON_BEHALF).revoking(revoke));
    }

    /// Makes sure that [`TAKEN`] exists. An empty text can be prepared in any state.
    fn reserve(server: &mut ServerState, out: &mut Outbox<'_>) {
        Self::close_on_server(TAKEN, None, server, out);
        encode::parse(out.own(), TAKEN, b"", &[0, 0]);
        server.pipeline.push(Request::Parse, ON_BEHALF);
    }
}
