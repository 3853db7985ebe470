//! The client's bytes on their way to an attached server.
//!
//! Statement names are translated, statements that the server lacks are prepared first, and for every
//! message that will be answered an [`Expected`](super::pipeline::Expected) reply is entered. All else
//! is forwarded as it came.

use std::sync::Arc;

use super::{
    Batch, HOLD_LIMIT, Mode, Outbox, ServerState, Session, Violation,
    pipeline::{Disposition, Fake, OnBehalf, Request},
    probe::PinReason,
    server_state::{Streaming, Unnamed},
    statements::{NAME_PREFIX, Source, Statement},
};
use crate::{
    protocol::{
        Frame, FrontendTag, Malformed,
        backend::TransactionStatus,
        encode,
        frame::{self, HEADER},
        frontend::{self, Bind, Parse, Target},
    },
    sql::{self, Detail, Effects},
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
struct Message<'a> {
    frame: Frame<'a, FrontendTag>,
    at: usize,
}

impl Message<'_> {
    fn malformed(&self) -> impl Fn(Malformed) -> Violation {
        let tag = self.frame.tag;
        move |fault| Violation::Malformed { tag, fault }
    }
}

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

/// Effects that may end the reason for a pin.
const UNPINNING: Effects = Effects::UNLISTEN
    .with(Effects::ADVISORY_UNLOCK)
    .with(Effects::DROP)
    .with(Effects::CLOSE_CURSOR)
    .with(Effects::DEALLOCATE);

/// Effects that leave session state behind which nothing shows.
const OPAQUE_STATE: Effects = Effects::LOAD.with(Effects::SETSEED);

impl Session {
    /// Takes what the client sent. What goes on to the server is put into `out`, whose input `data`
    /// is; answers of our own that need no server go to `to_client`.
    pub fn on_client_bytes(
        &mut self,
        data: &[u8],
        max_packet_size: u32,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
        to_client: &mut Vec<u8>,
    ) -> Result<Taken, Violation> {
        self.scanned = 0;
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
            if !frame.is_whole() && !Self::may_stream(&frame)? {
                break;
            }
            if frame.tag == FrontendTag::Terminate {
                return Ok(Taken {
                    consumed: at + frame.size,
                    terminate: true,
                });
            }
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
        if self.batch == Batch::Closed && server.pipeline.owes_only_fakes() {
            while let Some(fake) = server.pipeline.next_fake() {
                Self::give_fake(fake, server.status, to_client);
            }
        }
        Ok(Taken {
            consumed: at,
            terminate: false,
        })
    }

    /// Whether a message that has not arrived whole may pass through by pieces.
    fn may_stream(frame: &Frame<'_, FrontendTag>) -> Result<bool, Violation> {
        match frame.tag {
            FrontendTag::CopyData => Ok(true),
            FrontendTag::Parse
                if frame.size > HOLD_LIMIT && frame.bytes.get(HEADER).is_some_and(|b| *b != 0) =>
            {
                if frame.size > PREPARED_TEXT_LIMIT {
                    let limit = PREPARED_TEXT_LIMIT;
                    return Err(Violation::StatementTooLong {
                        size: frame.size,
                        limit,
                    });
                }
                Ok(false)
            }
            _ => Ok(frame.bytes.len() >= HOLD_LIMIT),
        }
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
            FrontendTag::Query => return self.on_query(message, server, out),
            FrontendTag::Parse => return self.on_parse(message, server, out),
            FrontendTag::Bind => self.on_bind(message, server, out)?,
            FrontendTag::Describe => self.on_describe(message, server, out)?,
            FrontendTag::Close => self.on_close(message, server, out)?,
            FrontendTag::Execute => {
                server.pipeline.push(Request::Execute, Disposition::Forward);
                self.batch = Batch::Open;
                Self::forward(message, out);
            }
            FrontendTag::Sync => {
                server.pipeline.push_sync();
                self.batch = Batch::Closed;
                Self::forward(message, out);
            }
            FrontendTag::Flush => {
                while let Some(fake) = server.pipeline.next_fake() {
                    Self::give_fake(fake, server.status, to_client);
                }
                Self::forward(message, out);
            }
            FrontendTag::FunctionCall => {
                self.touch(Effects::OPAQUE);
                server
                    .pipeline
                    .push(Request::FunctionCall, Disposition::Forward);
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
        }
        Ok(true)
    }

    fn forward(message: &Message<'_>, out: &mut Outbox<'_>) {
        out.forward(message.at..message.at + message.frame.bytes.len());
    }

    fn tracks(&self) -> bool {
        self.mode != Mode::Session
    }

    fn touch(&mut self, effects: Effects) {
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

    fn on_query(
        &mut self,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<bool, Violation> {
        self.batch = Batch::Closed;
        self.forget_unnamed(server);
        if !self.tracks() {
            server.pipeline.push(Request::Query, Disposition::Forward);
            Self::forward(message, out);
            return Ok(true);
        }
        if !message.frame.is_whole() {
            self.touch(Effects::UNKNOWN);
            server.pipeline.push(Request::Query, Disposition::Forward);
            Self::forward(message, out);
            return Ok(true);
        }
        let text = frontend::query(message.frame.body()).map_err(message.malformed())?;
        let facts = sql::classify(text, &self.dialect.env());
        self.touch(facts.effects);
        self.note_custom_setting(text, &facts);
        self.forget_sequences(&facts, server, out);
        if self.rewrite_named(text, &facts, server, out) {
            return Ok(true);
        }
        server.pipeline.push(Request::Query, Disposition::Forward);
        Self::forward(message, out);
        Ok(true)
    }

    /// SQL-level PREPARE, EXECUTE and DEALLOCATE of a single statement: the same names as on the
    /// protocol level. Answers whether the message was dealt with.
    fn rewrite_named(
        &mut self,
        text: &[u8],
        facts: &sql::Facts,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> bool {
        match facts.detail {
            Detail::Prepare { name, .. } => {
                let client_name = sql::fold_name(name.of(text));
                let range = name.range();
                let statement = match self.statements.named(&client_name) {
                    // Already taken: the server says so, under the name it knows.
                    Some(statement) => Arc::clone(statement),
                    None => {
                        let settings = self.settings.planner_relevant();
                        let (before, after) = (&text[..range.start], &text[range.end..]);
                        self.interners
                            .statements
                            .prepare(before, after, settings, *facts)
                    }
                };
                let is_new = self.statements.named(&client_name).is_none();
                if !is_new || server.statements.touch(statement.id) {
                    // The server must refuse a second PREPARE, or has it from another client: drop
                    // that one, so that this PREPARE is really run and really answered.
                    if is_new {
                        Self::drop_prepared(&statement, server, out);
                    } else {
                        self.ensure(&statement, server, out);
                    }
                }
                if is_new {
                    self.statements.insert(&client_name, Arc::clone(&statement));
                    Self::make_room(&statement, server, out);
                }
                Self::send_query(
                    &[&text[..range.start], &statement.name, &text[range.end..]],
                    out,
                );
                server.pipeline.push(Request::Query, Disposition::Forward);
                true
            }
            Detail::Execute { name } => {
                let client_name = sql::fold_name(name.of(text));
                let Some(statement) = self.statements.named(&client_name).map(Arc::clone) else {
                    return false;
                };
                self.touch(statement.facts.effects);
                self.ensure(&statement, server, out);
                let range = name.range();
                Self::send_query(
                    &[&text[..range.start], &statement.name, &text[range.end..]],
                    out,
                );
                server.pipeline.push(Request::Query, Disposition::Forward);
                true
            }
            Detail::Deallocate { name } => {
                if server.status == TransactionStatus::Failed || !self.pins.is_empty() {
                    return false;
                }
                let fake = match name {
                    None => {
                        self.statements.clear();
                        Fake::DeallocateAll
                    }
                    Some(name) => {
                        let client_name = sql::fold_name(name.of(text));
                        if self.statements.remove(&client_name).is_none() {
                            return false;
                        }
                        Fake::Deallocate
                    }
                };
                server
                    .pipeline
                    .push(Request::Query, Disposition::Fake(fake));
                true
            }
            _ => false,
        }
    }

    fn send_query(pieces: &[&[u8]], out: &mut Outbox<'_>) {
        encode::query(out.own(), &pieces.concat());
    }

    fn on_parse(
        &mut self,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<bool, Violation> {
        self.batch = Batch::Open;
        let plain = Request::Parse {
            statement: None,
            client_name: None,
        };
        if !self.tracks() {
            server.pipeline.push(plain, Disposition::Forward);
            Self::forward(message, out);
            return Ok(true);
        }
        if !message.frame.is_whole() {
            // An unnamed statement too long to be kept: it cannot be moved to another server.
            self.forget_unnamed(server);
            self.touch(Effects::UNKNOWN);
            server.pipeline.push(plain, Disposition::Forward);
            Self::forward(message, out);
            return Ok(true);
        }
        let parse = Parse::read(message.frame.body()).map_err(message.malformed())?;
        if parse.name.is_empty() {
            self.parse_unnamed(message, &parse, server, out);
        } else {
            self.parse_named(&parse, server, out);
        }
        Ok(true)
    }

    fn parse_unnamed(
        &mut self,
        message: &Message<'_>,
        parse: &Parse<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        let facts = sql::classify(parse.text, &self.dialect.env());
        self.note_custom_setting(parse.text, &facts);
        self.forget_sequences(&facts, server, out);
        self.unnamed.serial += 1;
        self.unnamed.effects = facts.effects;
        self.unnamed.parse.clear();
        self.unnamed.parse.extend_from_slice(message.frame.bytes);
        server.unnamed = Unnamed::Is(self.unnamed_id());
        server.pipeline.push(
            Request::Parse {
                statement: None,
                client_name: None,
            },
            Disposition::Forward,
        );
        Self::forward(message, out);
    }

    fn parse_named(&mut self, parse: &Parse<'_>, server: &mut ServerState, out: &mut Outbox<'_>) {
        if let Some(statement) = self.statements.named(parse.name).map(Arc::clone) {
            // The name is taken: the server says so, under the name it knows.
            self.ensure(&statement, server, out);
            encode::parse(out.own(), &statement.name, parse.text, parse.types);
            let request = Request::Parse {
                statement: None,
                client_name: None,
            };
            server.pipeline.push(request, Disposition::Forward);
            return;
        }
        let dialect = self.dialect;
        let statement = self.interners.statements.parse(
            parse.text,
            parse.types,
            &self.settings.planner_relevant(),
            || sql::classify(parse.text, &dialect.env()),
        );
        self.note_custom_setting(parse.text, &statement.facts);
        self.statements.insert(parse.name, Arc::clone(&statement));
        let request = Request::Parse {
            statement: Some(Arc::clone(&statement)),
            client_name: Some(parse.name.into()),
        };
        if server.statements.touch(statement.id) {
            server
                .pipeline
                .push(request, Disposition::Fake(Fake::ParseComplete));
        } else {
            Self::make_room(&statement, server, out);
            encode::parse(out.own(), &statement.name, parse.text, parse.types);
            server.pipeline.push(request, Disposition::Forward);
        }
    }

    fn on_bind(
        &mut self,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        self.batch = Batch::Open;
        if !self.tracks() {
            server
                .pipeline
                .push(Request::Bind { statement: None }, Disposition::Forward);
            Self::forward(message, out);
            return Ok(());
        }
        let bind = Bind::read(message.frame.body()).map_err(message.malformed())?;
        match self.resolve(bind.statement, server, out) {
            Resolved::AsSent => {
                server
                    .pipeline
                    .push(Request::Bind { statement: None }, Disposition::Forward);
                Self::forward(message, out);
            }
            Resolved::Managed(statement) => {
                self.touch(statement.facts.effects);
                let names = bind.portal.len() + bind.statement.len() + 2;
                let rest = message.frame.size - HEADER - names;
                encode::bind_head(out.own(), bind.portal, &statement.name, rest);
                let end = message.at + message.frame.bytes.len();
                out.forward(end - bind.rest.len()..end);
                server.pipeline.push(
                    Request::Bind {
                        statement: Some(statement),
                    },
                    Disposition::Forward,
                );
            }
            Resolved::Renamed(name) => {
                let names = bind.portal.len() + bind.statement.len() + 2;
                let rest = message.frame.size - HEADER - names;
                encode::bind_head(out.own(), bind.portal, &name, rest);
                let end = message.at + message.frame.bytes.len();
                out.forward(end - bind.rest.len()..end);
                server
                    .pipeline
                    .push(Request::Bind { statement: None }, Disposition::Forward);
            }
        }
        Ok(())
    }

    fn on_describe(
        &mut self,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        self.batch = Batch::Open;
        let target = Target::read(message.frame.body()).map_err(message.malformed())?;
        let name = match target {
            Target::Portal(_) => {
                server
                    .pipeline
                    .push(Request::DescribePortal, Disposition::Forward);
                Self::forward(message, out);
                return Ok(());
            }
            Target::Statement(name) => name,
        };
        if self.tracks() {
            match self.resolve(name, server, out) {
                Resolved::AsSent => Self::forward(message, out),
                Resolved::Managed(statement) => {
                    encode::describe_statement(out.own(), &statement.name);
                }
                Resolved::Renamed(name) => encode::describe_statement(out.own(), &name),
            }
        } else {
            Self::forward(message, out);
        }
        server
            .pipeline
            .push(Request::DescribeStatement, Disposition::Forward);
        Ok(())
    }

    fn on_close(
        &mut self,
        message: &Message<'_>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        self.batch = Batch::Open;
        let target = Target::read(message.frame.body()).map_err(message.malformed())?;
        match target {
            Target::Statement(b"") if self.tracks() => self.forget_unnamed(server),
            Target::Statement(name) if self.tracks() => {
                // The server keeps the statement for others; a name it does not know it may close.
                let restore = self
                    .statements
                    .remove(name)
                    .map(|statement| (name.into(), statement));
                let request = Request::Close { restore };
                server
                    .pipeline
                    .push(request, Disposition::Fake(Fake::CloseComplete));
                return Ok(());
            }
            _ => {}
        }
        server
            .pipeline
            .push(Request::Close { restore: None }, Disposition::Forward);
        Self::forward(message, out);
        Ok(())
    }

    /// Makes sure that the server has what the client calls `name`.
    fn resolve(&mut self, name: &[u8], server: &mut ServerState, out: &mut Outbox<'_>) -> Resolved {
        if name.is_empty() {
            self.ensure_unnamed(server, out);
            return Resolved::AsSent;
        }
        match self.statements.named(name).map(Arc::clone) {
            Some(statement) => {
                self.ensure(&statement, server, out);
                Resolved::Managed(statement)
            }
            // Nobody's name, so the server refuses it; but it must not be one of ours.
            None if name.starts_with(NAME_PREFIX.as_bytes()) => {
                Resolved::Renamed([b" ", name].concat().into())
            }
            None => Resolved::AsSent,
        }
    }

    /// Gives the server the statement if it lacks it.
    fn ensure(
        &mut self,
        statement: &Arc<Statement>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        if server.statements.touch(statement.id) {
            return;
        }
        Self::make_room(statement, server, out);
        let on_behalf = Disposition::Skip(OnBehalf::Statement);
        match &statement.source {
            Source::Parse { text, types, .. } => {
                encode::parse(out.own(), &statement.name, text, types);
                let request = Request::Parse {
                    statement: Some(Arc::clone(statement)),
                    client_name: None,
                };
                server.pipeline.push(request, on_behalf);
                if self.batch != Batch::Open {
                    // Without a Sync of its own, its failure would swallow the Query behind it.
                    encode::sync(out.own());
                    server.pipeline.push(Request::Sync, on_behalf);
                }
            }
            Source::Prepare { .. } => {
                let text = statement.prepare_text().unwrap_or_default();
                if self.batch == Batch::Open {
                    // A Query would end the batch's implicit transaction: prepare inside of it.
                    encode::prepare_in_batch(out.own(), &text);
                    for request in [
                        Request::Parse {
                            statement: None,
                            client_name: None,
                        },
                        Request::Bind {
                            statement: Some(Arc::clone(statement)),
                        },
                        Request::Execute,
                        Request::Close { restore: None },
                    ] {
                        server.pipeline.push(request, on_behalf);
                    }
                } else {
                    encode::query(out.own(), &text);
                    server.pipeline.push(Request::Query, on_behalf);
                }
            }
        }
    }

    /// Enters a statement that is about to be sent, and closes the one that has to go for it.
    fn make_room(statement: &Arc<Statement>, server: &mut ServerState, out: &mut Outbox<'_>) {
        if let Some(evicted) = server.statements.insert(statement) {
            Self::close_on_server(&evicted, server, out);
        }
    }

    fn drop_prepared(statement: &Arc<Statement>, server: &mut ServerState, out: &mut Outbox<'_>) {
        server.statements.remove(statement.id);
        Self::close_on_server(statement, server, out);
    }

    fn close_on_server(statement: &Statement, server: &mut ServerState, out: &mut Outbox<'_>) {
        encode::close_statement(out.own(), &statement.name);
        let request = Request::Close { restore: None };
        server
            .pipeline
            .push(request, Disposition::Skip(OnBehalf::Statement));
    }

    /// Gives the server the client's unnamed statement, or takes away somebody else's.
    fn ensure_unnamed(&mut self, server: &mut ServerState, out: &mut Outbox<'_>) {
        if self.unnamed.parse.is_empty() {
            if server.unnamed != Unnamed::None {
                encode::close_statement(out.own(), b"");
                let request = Request::Close { restore: None };
                server
                    .pipeline
                    .push(request, Disposition::Skip(OnBehalf::Statement));
                server.unnamed = Unnamed::None;
            }
            return;
        }
        self.touch(self.unnamed.effects);
        if server.unnamed != Unnamed::Is(self.unnamed_id()) {
            out.own().extend_from_slice(&self.unnamed.parse);
            let request = Request::Parse {
                statement: None,
                client_name: None,
            };
            server
                .pipeline
                .push(request, Disposition::Skip(OnBehalf::Statement));
            server.unnamed = Unnamed::Is(self.unnamed_id());
        }
    }

    /// A Query drops the unnamed statement (manual, "Message Flow", "Extended Query").
    pub(super) fn forget_unnamed(&mut self, server: &mut ServerState) {
        self.unnamed.parse = Vec::new();
        server.unnamed = Unnamed::None;
    }

    /// What an earlier client of this server left for currval and lastval must not be seen. Such a
    /// statement at the beginning of a transaction finds nothing, as in a new session.
    fn forget_sequences(&self, facts: &sql::Facts, server: &mut ServerState, out: &mut Outbox<'_>) {
        let begins = server.status == TransactionStatus::Idle
            && server.pipeline.is_quiescent()
            && self.pins.is_empty();
        if begins && facts.effects.contains(Effects::SEQUENCE_STATE) {
            encode::query(out.own(), b"DISCARD SEQUENCES");
            server
                .pipeline
                .push(Request::Query, Disposition::Skip(OnBehalf::Settings));
        }
    }

    /// Remembers the name of a setting that a probe would not be told of.
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
        if name.contains(&b'.') {
            let name: Box<[u8]> = name.to_ascii_lowercase().into();
            if !self.custom_settings.contains(&name) {
                self.custom_settings.push(name);
            }
        }
    }
}

/// What a statement name of the client's became.
enum Resolved {
    /// The server knows it, or refuses it, under the name that was sent.
    AsSent,
    /// The server knows it under a name of ours.
    Managed(Arc<Statement>),
    /// The server refuses it under this name.
    Renamed(Box<[u8]>),
}
