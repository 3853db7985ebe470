//! The client's bytes on their way to an attached server.
//!
//! For every message that will be answered an [`Expected`] reply is entered; messages that name a
//! statement are translated by [`super::named`]; all else is forwarded as it came. A message that
//! rests on what an earlier batch may yet take back is not taken before that is settled.

use std::sync::Arc;

use super::{
    Batch, HOLD_LIMIT, LastRun, Outbox, ServerState, Session, Violation,
    effects::{DEALLOCATING, Runs},
    expected::{Disposition, Expected, Fake, Request},
    revoke::Revoke,
    server_state::Streaming,
    stall::Stall,
};
use crate::{
    protocol::{
        Frame, FrontendTag, Malformed,
        backend::TransactionStatus,
        encode,
        frame::{self, HEADER},
        frontend::{self, Bind, Parse, Target},
    },
    sql::Effects,
};

/// The longest Parse message that is held to give its statement a name of its own.
const PREPARED_TEXT_LIMIT: usize = 16 * 1024 * 1024;

/// What became of a client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// So many bytes are done with.
    pub consumed: usize,
    /// The client has said goodbye.
    pub terminate: bool,
}

/// One message, or as much of it as is at hand, and where it lies in the bytes read.
pub(super) struct Message<'a> {
    frame: Frame<'a, FrontendTag>,
    at: usize,
}

impl Message<'_> {
    fn malformed(&self) -> impl Fn(Malformed) -> Violation {
        let tag = self.frame.tag;
        move |fault| Violation::Malformed { tag, fault }
    }

    /// Whether it is small enough to be looked at and kept. Does not depend on how much of it has
    /// arrived, so that what a message means does not depend on how it was cut in pieces.
    fn is_small(&self) -> bool {
        self.frame.size <= HOLD_LIMIT
    }
}

impl Session {
    /// Takes what the client sent. What goes on to the server is put into `out`, whose input `data`
    /// is; answers of our own that need no server go to `to_client`.
    ///
    /// Not all of it is taken when the last message is not whole, or when [`Session::is_stalled`].
    pub fn on_client_bytes(
        &mut self,
        data: &[u8],
        max_packet_size: u32,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
        to_client: &mut Vec<u8>,
    ) -> Result<Taken, Violation> {
        self.stalled = Stall::No;
        let mut at = 0;
        while at < data.len() {
            if let Some(streaming) = &mut self.streaming {
                let size = streaming.remaining.min(data.len() - at);
                if streaming.forward {
                    out.forward(at..at + size);
                }
                streaming.remaining -= size;
                if streaming.remaining == 0 {
                    self.streaming = None;
                }
                at += size;
                continue;
            }
            let Some(frame) = frame::frontend(&data[at..], max_packet_size)? else {
                break;
            };
            if self.holds_back(&frame, &data[at..], max_packet_size, server)? {
                break;
            }
            if !frame.is_whole() && !self.may_stream(&frame)? {
                break;
            }
            if frame.tag == FrontendTag::Terminate {
                return Ok(Taken {
                    consumed: at + frame.size,
                    terminate: true,
                });
            }
            self.stalled = self.stall(&frame, &data[at..], server);
            if self.is_stalled() {
                if self.stalled == Stall::Full {
                    encode::flush(out.own());
                }
                break;
            }
            self.keep(&frame, server);
            let message = Message { frame, at };
            let forward = self.on_message(&message, server, out, to_client)?;
            let at_hand = frame.bytes.len();
            if at_hand < frame.size {
                self.streaming = Some(Streaming {
                    remaining: frame.size - at_hand,
                    forward,
                });
            }
            at += at_hand;
        }
        if self.has_questions(server) {
            self.ask(server, out.own());
        }
        if self.is_stalled() || server.pipeline.owes_faked_round() {
            Self::give_fakes(server, to_client);
        }
        Ok(Taken {
            consumed: at,
            terminate: false,
        })
    }

    /// Whether a batch that `rest` begins with waits for its end, so that a client in the middle of
    /// one keeps no server that it would give back otherwise: as in [`Session::plan`].
    fn holds_back(
        &mut self,
        first: &Frame<'_, FrontendTag>,
        rest: &[u8],
        max_packet_size: u32,
        server: &ServerState,
    ) -> Result<bool, Violation> {
        let scanned = std::mem::take(&mut self.scanned);
        let begins_batch = self.batch == Batch::Closed
            && matches!(
                first.tag,
                FrontendTag::Parse
                    | FrontendTag::Bind
                    | FrontendTag::Describe
                    | FrontendTag::Close
                    | FrontendTag::Execute
            );
        let is_kept_anyway = !self.tracks()
            || !self.pins.is_empty()
            || server.status != TransactionStatus::Idle
            || rest.len() >= HOLD_LIMIT;
        if !begins_batch || is_kept_anyway {
            return Ok(false);
        }
        let mut at = scanned;
        while let Some(frame) = frame::frontend(&rest[at..], max_packet_size)? {
            if !frame.is_whole() {
                // One that is too long is refused at once, whatever else is waited for.
                self.is_held_whole(&frame)?;
                break;
            }
            if matches!(
                frame.tag,
                FrontendTag::Sync
                    | FrontendTag::Flush
                    | FrontendTag::Query
                    | FrontendTag::FunctionCall
                    | FrontendTag::Terminate
            ) {
                return Ok(false);
            }
            at += frame.size;
        }
        self.scanned = at;
        Ok(true)
    }

    /// Whether a message that has not arrived whole may pass through by pieces.
    fn may_stream(&self, frame: &Frame<'_, FrontendTag>) -> Result<bool, Violation> {
        match frame.tag {
            FrontendTag::CopyData => Ok(true),
            FrontendTag::Parse if self.is_held_whole(frame)? => Ok(false),
            _ => Ok(frame.bytes.len() >= HOLD_LIMIT),
        }
    }

    /// Whether this is a statement with a name, which is kept under a name of ours and so must be at
    /// hand whole, however long it is.
    pub(super) fn is_held_whole(&self, frame: &Frame<'_, FrontendTag>) -> Result<bool, Violation> {
        let has_name = frame.bytes.get(HEADER).is_some_and(|byte| *byte != 0);
        if frame.tag != FrontendTag::Parse || !has_name || !self.tracks() {
            return Ok(false);
        }
        if frame.size > PREPARED_TEXT_LIMIT {
            let limit = PREPARED_TEXT_LIMIT;
            return Err(Violation::StatementTooLong {
                size: frame.size,
                limit,
            });
        }
        Ok(true)
    }

    /// Handles one message; answers whether what is still to come of it is forwarded.
    fn on_message(
        &mut self,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
        to_client: &mut Vec<u8>,
    ) -> Result<bool, Violation> {
        let tag = message.frame.tag;
        if server.pipeline.ignores_until_sync() && tag != FrontendTag::Sync {
            return Ok(false);
        }
        match tag {
            FrontendTag::Sync => {
                if std::mem::take(&mut self.last_run) == LastRun::Query
                    && server.status == TransactionStatus::InTransaction
                    && !server.pipeline.is_copy_in()
                    && !server.pipeline.ignores_until_sync()
                {
                    server.let_sync_commit(out.own());
                }
                let is_answered = server.pipeline.push_sync(Disposition::Forward);
                Self::forward(message, out);
                if is_answered {
                    self.close_batch();
                }
                self.fence(server, out);
            }
            FrontendTag::Flush => {
                Self::give_fakes(server, to_client);
                Self::forward(message, out);
            }
            FrontendTag::CopyData => Self::forward(message, out),
            FrontendTag::CopyDone | FrontendTag::CopyFail => {
                server.pipeline.end_copy_in();
                Self::forward(message, out);
            }
            FrontendTag::Password | FrontendTag::Terminate => {
                return Err(Violation::Unexpected(tag));
            }
            FrontendTag::Query | FrontendTag::FunctionCall => {
                self.fence(server, out);
                self.on_round(message, server, out)?;
                if self.tracks() && self.batch.is_open() {
                    self.last_run = LastRun::Query;
                }
                self.close_batch();
            }
            FrontendTag::Parse
            | FrontendTag::Bind
            | FrontendTag::Describe
            | FrontendTag::Execute
            | FrontendTag::Close => {
                self.fence(server, out);
                self.on_extended(message, server, out)?;
                self.batch = match self.batch {
                    Batch::Closed | Batch::Closing if tag == FrontendTag::Close => Batch::Closing,
                    _ => Batch::Open,
                };
                if !matches!(tag, FrontendTag::Parse | FrontendTag::Close) {
                    self.last_run = LastRun::Other;
                }
            }
        }
        Ok(true)
    }

    /// Between batches: makes sure that no answer can be mistaken for that of a Sync in doubt.
    #[inline]
    fn fence(&self, server: &mut ServerState, out: &mut Outbox<'_>) {
        let pipeline = &server.pipeline;
        if pipeline.wants_fence() && !pipeline.may_be_ignored() && self.batch == Batch::Closed {
            server.send_fence(out.own());
        }
    }

    fn close_batch(&mut self) {
        self.batch = Batch::Closed;
        self.unnamed.is_of_batch = false;
    }

    /// Query or FunctionCall.
    fn on_round(
        &mut self,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        if message.frame.tag == FrontendTag::FunctionCall {
            self.touch(Effects::OPAQUE);
            self.note_unseen();
            Self::pass(Request::FunctionCall, message, server, out);
            return Ok(());
        }
        if !self.tracks() || server.pipeline.is_copy_in() {
            Self::pass(Request::Query, message, server, out);
            return Ok(());
        }
        if message.is_small() {
            let text = frontend::query(message.frame.body()).map_err(message.malformed())?;
            return {
                self.on_query(text, message, server, out);
                Ok(())
            };
        }
        self.guard_sequences_from_unseen(server, out);
        self.touch(Effects::UNKNOWN);
        self.note_unseen();
        server.statements.doubt_all();
        let drops = self.drop_unnamed(server);
        let query = Expected::new(Request::Query, Disposition::Forward).revoking(drops);
        server.pipeline.push_expected(query);
        Self::forward(message, out);
        Ok(())
    }

    /// A message of the extended query protocol. As a function of its own it would cost 30 instructions more, four times a
    /// transaction.
    #[inline(always)]
    fn on_extended(
        &mut self,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let tag = message.frame.tag;
        let is_plain = !self.tracks() || server.pipeline.is_copy_in();
        match tag {
            FrontendTag::Parse if !is_plain => self.on_parse(message, server, out),
            FrontendTag::Bind if !is_plain => self.on_bind(message, server, out),
            FrontendTag::Describe => self.on_describe(message, is_plain, server, out),
            FrontendTag::Close if !is_plain => self.on_close(message, server, out),
            _ => {
                let request = match tag {
                    FrontendTag::Parse => Request::Parse,
                    FrontendTag::Bind => Request::Bind,
                    FrontendTag::Close => Request::Close,
                    _ => Request::Execute,
                };
                Self::pass(request, message, server, out);
                Ok(())
            }
        }
    }

    pub(super) fn forward(message: &Message<'_>, out: &mut Outbox<'_>) {
        out.forward(message.at..message.at + message.frame.bytes.len());
    }

    /// Forwards a message about which nothing needs to be known.
    fn pass(
        request: Request,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        server.pipeline.push(request, Disposition::Forward);
        Self::forward(message, out);
    }

    fn on_parse(
        &mut self,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let is_unnamed = message.frame.body().first() == Some(&0);
        if is_unnamed && !message.is_small() {
            self.parse_streamed(server);
            self.note_unseen();
            Self::forward(message, out);
            return Ok(());
        }
        let parse = Parse::read(message.frame.body()).map_err(message.malformed())?;
        let facts = self.look(parse.text);
        self.note_write(parse.text, &facts);
        self.note_key(parse.text, &facts, server);
        if let Some(refusal) = self.refusal_of_statement(parse.text, &facts) {
            self.refuse_parse(refusal, is_unnamed, server, out);
            return Ok(());
        }
        self.guard_sequences_of_batch(Runs::from(&facts), server, out);
        if self.statements.named(parse.name).is_some() {
            Self::parse_taken(&parse, server, out);
            return Ok(());
        }
        let rewritten = self.rewrite_name(parse.text, &facts, server, out);
        if let Some(needed) = rewritten.as_ref().and_then(|it| it.needs.as_ref()) {
            // Already now: what an EXECUTE returns is looked up when it is parsed.
            self.ensure(needed, server, out);
        }
        if !is_unnamed {
            self.parse_named(&parse, &facts, rewritten, server, out);
        } else if let Some(rewritten) = rewritten {
            self.parse_rewritten(&parse, rewritten, server, out);
        } else {
            self.parse_unnamed(message.frame.bytes, &facts, server);
            Self::forward(message, out);
        }
        Ok(())
    }

    fn on_bind(
        &mut self,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let bind = Bind::read(message.frame.body()).map_err(message.malformed())?;
        let statement = self.statements.named(bind.statement).map(Arc::clone);
        let runs = self.runs_of(bind.statement, statement.as_deref());
        self.note_settings_of(bind.statement, runs);
        self.note_write_of(bind.statement, statement.as_deref());
        if let Some(refusal) = self.refusal_on_replica(runs.effects, false) {
            Self::refuse_bind(refusal, server, out);
            return Ok(());
        }
        if let Err(refusal) = self.guard_sequences(runs, server, out) {
            Self::refuse_bind(refusal, server, out);
            return Ok(());
        }
        let resolved = self.resolve(bind.statement, statement, server, out);
        let subject = resolved.subject();
        if let Some(name) = resolved.name() {
            let names = bind.portal.len() + bind.statement.len() + 2;
            let rest = message.frame.size - HEADER - names;
            encode::bind_head(out.own(), bind.portal, name, rest);
            let end = message.at + message.frame.bytes.len();
            out.forward(end - bind.rest.len()..end);
        } else {
            Self::forward(message, out);
        }
        let bound = Expected::new(Request::Bind, Disposition::Forward).about(subject);
        server.pipeline.push_expected(bound);
        self.touch(runs.effects);
        if runs.effects.intersects(DEALLOCATING) {
            server.statements.doubt_all();
        }
        Ok(())
    }

    fn on_describe(
        &mut self,
        message: &Message<'_>,
        is_plain: bool,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let target = Target::read(message.frame.body()).map_err(message.malformed())?;
        let Target::Statement(name) = target else {
            Self::pass(Request::DescribePortal, message, server, out);
            return Ok(());
        };
        if is_plain {
            Self::pass(Request::DescribeStatement, message, server, out);
            return Ok(());
        }
        let statement = self.statements.named(name).map(Arc::clone);
        let resolved = self.resolve(name, statement, server, out);
        match resolved.name() {
            Some(name) => encode::describe_statement(out.own(), name),
            None => Self::forward(message, out),
        }
        let described = Expected::new(Request::DescribeStatement, Disposition::Forward);
        server
            .pipeline
            .push_expected(described.about(resolved.subject()));
        Ok(())
    }

    fn on_close(
        &mut self,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let target = Target::read(message.frame.body()).map_err(message.malformed())?;
        let Target::Statement(name) = target else {
            Self::pass(Request::Close, message, server, out);
            return Ok(());
        };
        if name.is_empty() {
            let drops = self.drop_unnamed(server);
            self.unnamed.is_of_batch = true;
            let closed = Expected::new(Request::Close, Disposition::Forward).revoking(drops);
            server.pipeline.push_expected(closed);
            Self::forward(message, out);
            return Ok(());
        }
        if self.is_servers_own(name) {
            Self::pass(Request::Close, message, server, out);
            return Ok(());
        }
        let statement = self.statements.remove(name);
        // The server keeps the statement for others; a name it does not know may be closed.
        let closed = Expected::new(Request::Close, Disposition::Fake(Fake::CloseComplete))
            .revoking(statement.map(|statement| Revoke::Named {
                client_name: name.into(),
                statement,
            }));
        server.pipeline.push_expected(closed);
        Ok(())
    }
}
