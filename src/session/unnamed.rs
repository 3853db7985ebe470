//! The unnamed statement: a client has one, a server has one, and they need not be the same.
//!
//! It is given to a server together with the message that uses it, when the server has another one;
//! a client that has none never gets another client's.

use std::sync::Arc;

use super::{
    Outbox, ServerState, Session,
    effects::Runs,
    expected::{Disposition, Expected, OnBehalf, Request, Subject},
    named::Rewritten,
    revoke::Revoke,
    server_state::{Unnamed, UnnamedId},
    statements::Statement,
};
use crate::{
    protocol::{encode, frame::HEADER, frontend::Parse},
    sql,
};

/// A kept Parse message gives back its memory when it needs less than a quarter of it.
const SPARE_CAPACITY: usize = 1024;

/// A client's unnamed statement.
#[derive(Debug, Default)]
pub(super) struct UnnamedStatement {
    pub(super) serial: u64,
    pub(super) source: Source,
    /// The statement that this one executes by its name (`EXECUTE`).
    pub(super) needs: Option<Arc<Statement>>,
    pub(super) runs: Runs,
    /// Whether it was made, or dropped, in the batch that is open.
    pub(super) is_of_batch: bool,
}

/// What a client's unnamed statement is made from.
#[derive(Debug, Default)]
pub(super) enum Source {
    /// There is none.
    #[default]
    None,
    /// This Parse message.
    Parse(Vec<u8>),
    /// A Parse message that was too large to be kept: only the server that got it has it.
    Streamed,
}

impl UnnamedStatement {
    /// Whether there is none.
    pub(super) fn is_none(&self) -> bool {
        matches!(self.source, Source::None)
    }

    /// Its text, if that is kept.
    pub(super) fn text(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Parse(message) => Parse::read(message.get(HEADER..)?).ok().map(|p| p.text),
            Source::None | Source::Streamed => None,
        }
    }
}

impl Session {
    /// An unnamed statement that does not exist yet, or no longer.
    pub(super) fn next_unnamed(&mut self) -> UnnamedStatement {
        self.unnamed_serial += 1;
        UnnamedStatement {
            serial: self.unnamed_serial,
            ..UnnamedStatement::default()
        }
    }

    fn unnamed_id(&self) -> UnnamedId {
        UnnamedId {
            client: self.id,
            serial: self.unnamed.serial,
        }
    }

    /// Drops the unnamed statement, as a Query and a Close do (manual, "Extended Query"). The answer
    /// is what to take back if that is not carried out, which only an earlier error in the same
    /// batch can bring about.
    pub(super) fn drop_unnamed(&mut self, server: &mut ServerState) -> Option<Revoke> {
        let next = self.next_unnamed();
        let previous = std::mem::replace(&mut self.unnamed, next);
        let before = std::mem::replace(&mut server.unnamed, Unnamed::None);
        server.pipeline.may_be_ignored().then_some(Revoke::Unnamed {
            serial: self.unnamed.serial,
            previous,
            before,
        })
    }

    /// A Parse of the unnamed statement, unchanged; `message` is all of it.
    #[inline]
    pub(super) fn parse_unnamed(
        &mut self,
        message: &[u8],
        facts: &sql::Facts,
        server: &mut ServerState,
    ) {
        let mut kept = match &mut self.unnamed.source {
            Source::Parse(kept) if !server.pipeline.may_be_ignored() => std::mem::take(kept),
            _ => Vec::new(),
        };
        if kept.capacity() > SPARE_CAPACITY + 4 * message.len() {
            kept = Vec::new();
        }
        kept.clear();
        kept.extend_from_slice(message);
        self.replace_unnamed(Source::Parse(kept), facts.into(), None, server);
    }

    /// A Parse of the unnamed statement whose text was changed.
    pub(super) fn parse_rewritten(
        &mut self,
        parse: &Parse<'_>,
        rewritten: Rewritten,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        let mut message = Vec::new();
        encode::parse(&mut message, b"", &rewritten.text, parse.types);
        out.own().extend_from_slice(&message);
        let source = Source::Parse(message);
        let runs = Runs::from(&rewritten.facts);
        self.replace_unnamed(source, runs, rewritten.revoke, server);
        self.unnamed.needs = rewritten.needs;
    }

    /// A Parse of the unnamed statement that is too large to be kept.
    pub(super) fn parse_streamed(&mut self, server: &mut ServerState) {
        self.replace_unnamed(Source::Streamed, Runs::UNKNOWN, None, server);
    }

    fn replace_unnamed(
        &mut self,
        source: Source,
        runs: Runs,
        revoke: Option<Revoke>,
        server: &mut ServerState,
    ) {
        let drops = self.drop_unnamed(server);
        self.unnamed.source = source;
        self.unnamed.runs = runs;
        self.unnamed.is_of_batch = true;
        server.unnamed = Unnamed::Is(self.unnamed_id());
        server.pipeline.push_expected(
            Expected::new(Request::Parse, Disposition::Forward)
                .about(Subject::Unnamed(self.unnamed.serial))
                .revoking(drops)
                .revoking(revoke),
        );
    }

    /// Gives the server the client's unnamed statement, or takes away somebody else's.
    pub(super) fn ensure_unnamed(&mut self, server: &mut ServerState, out: &mut Outbox<'_>) {
        if let Some(needed) = self.unnamed.needs.clone() {
            self.ensure(&needed, server, out);
        }
        let wanted = Unnamed::Is(self.unnamed_id());
        if server.unnamed == wanted {
            return;
        }
        let on_behalf = Disposition::Skip(OnBehalf::Statement);
        let (expected, wanted) = match &self.unnamed.source {
            Source::Parse(message) => {
                out.own().extend_from_slice(message);
                let subject = Subject::Unnamed(self.unnamed.serial);
                (
                    Expected::new(Request::Parse, on_behalf).about(subject),
                    wanted,
                )
            }
            Source::None | Source::Streamed if server.unnamed == Unnamed::None => return,
            Source::None | Source::Streamed => {
                encode::close_statement(out.own(), b"");
                (Expected::new(Request::Close, on_behalf), Unnamed::None)
            }
        };
        let before = std::mem::replace(&mut server.unnamed, wanted);
        let may_be_ignored = server.pipeline.may_be_ignored();
        let revoke = may_be_ignored.then_some(Revoke::ServerUnnamed(before));
        server.pipeline.push_expected(expected.revoking(revoke));
    }
}
