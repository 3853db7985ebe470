//! A server's bytes on their way to the client.
//!
//! Each message is fitted to the oldest expected reply, which says whether it is forwarded; what is
//! forwarded in a row leaves as one slice. Answers of our own are put in at their place.

use std::sync::Arc;

use super::{
    Batch, HOLD_LIMIT, Outbox, ServerState, Session,
    pipeline::{Desync, Disposition, Expected, Fake, OnBehalf, Request, Step},
    probe::{self, Findings, PinReason, Pins},
    server_state::{Streaming, Unnamed},
};
use crate::{
    protocol::{
        BackendTag, Frame, FrameError, Malformed, SqlState,
        backend::{self, ErrorFields, TransactionStatus},
        encode,
        frame::{self, HEADER},
    },
    sql::Effects,
};

/// Why a server connection cannot be used any longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerFault {
    /// Its bytes are no message.
    #[error("invalid message from the server: {0}")]
    Frame(#[from] FrameError),
    /// A message does not have the shape its tag promises.
    #[error("malformed message from the server: {0}")]
    Malformed(#[from] Malformed),
    /// A message that answers nothing that was asked.
    #[error("protocol out of step: {0}")]
    Desync(#[from] Desync),
    /// It said that it closes the connection; the body of its ErrorResponse.
    #[error("server closed the connection")]
    Fatal(Box<[u8]>),
    /// It refused the client's settings; the body of its ErrorResponse.
    #[error("server refused the session's settings")]
    SettingsRefused(Box<[u8]>),
}

impl Session {
    /// Takes what the server sent; answers how many bytes are done with. What goes on to the client is
    /// put into `out`, whose input `data` is; what we ask the server next is appended to `to_server`.
    pub fn on_server_bytes(
        &mut self,
        data: &[u8],
        server: &mut ServerState,
        out: &mut Outbox<'_>,
        to_server: &mut Vec<u8>,
    ) -> Result<usize, ServerFault> {
        let mut at = 0;
        while at < data.len() {
            if let Some(streaming) = &mut server.streaming {
                let size = streaming.remaining.min(data.len() - at);
                if streaming.forward {
                    out.forward(at..at + size);
                }
                streaming.remaining -= size;
                if streaming.remaining == 0 {
                    server.streaming = None;
                }
                at += size;
                continue;
            }
            let Some(frame) = frame::backend(&data[at..])? else {
                break;
            };
            if !frame.is_whole() && !Self::may_stream_to_client(&frame, server) {
                break;
            }
            self.give_fakes(server, out);
            let forward = self.on_server_message(&frame, server, out)?;
            let at_hand = frame.bytes.len();
            if forward {
                out.forward(at..at + at_hand);
            }
            if at_hand < frame.size {
                server.streaming = Some(Streaming {
                    remaining: frame.size - at_hand,
                    forward,
                });
            } else {
                self.give_fakes(server, out);
            }
            at += at_hand;
        }
        self.probe_if_touched(server, to_server);
        Ok(at)
    }

    /// Whether a message that has not arrived whole may pass through by pieces: rows and COPY data
    /// at any size; everything else only when it is too large to be held.
    fn may_stream_to_client(frame: &Frame<'_, BackendTag>, server: &ServerState) -> bool {
        match frame.tag {
            BackendTag::DataRow | BackendTag::CopyData => !server.pipeline.is_probing(),
            BackendTag::ReadyForQuery | BackendTag::CommandComplete => false,
            _ => frame.bytes.len() >= HOLD_LIMIT,
        }
    }

    /// Handles one message; answers whether it is forwarded.
    fn on_server_message(
        &mut self,
        frame: &Frame<'_, BackendTag>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<bool, ServerFault> {
        let tag = frame.tag;
        if tag == BackendTag::ErrorResponse {
            self.on_server_error(frame, server, out)?;
            return Ok(false);
        }
        let (disposition, expected) = match server.pipeline.on_message(tag)? {
            Step::Within(disposition) => (disposition, None),
            Step::Done(expected) => (expected.disposition, Some(expected)),
            Step::Unsolicited(disposition) => {
                return self.on_unsolicited(frame, disposition);
            }
            Step::Void(_) => return Ok(false),
        };
        if tag == BackendTag::ReadyForQuery {
            server.status = backend::ready_for_query(frame.body())?;
            if disposition == Disposition::Forward {
                self.answered = self.answered.wrapping_add(1);
            }
        }
        match disposition {
            Disposition::Forward => {
                if tag == BackendTag::CommandComplete {
                    let tag = backend::command_complete(frame.body())?;
                    self.on_command_complete(tag, server);
                }
                Ok(true)
            }
            Disposition::Skip(OnBehalf::Probe) => {
                if tag == BackendTag::DataRow
                    && let Some(findings) = &mut self.findings
                {
                    findings.add(frame.body())?;
                }
                if expected.is_some() {
                    self.apply_findings(server);
                }
                Ok(false)
            }
            Disposition::Skip(_) | Disposition::Fake(_) => Ok(false),
        }
    }

    /// Tags of commands that change what we know of the server, however they were spelled.
    #[inline]
    fn on_command_complete(&mut self, tag: &[u8], server: &mut ServerState) {
        if !tag.starts_with(b"D") {
            return;
        }
        match tag {
            b"DISCARD ALL" => {
                server.statements.clear();
                self.statements.clear();
                self.forget_unnamed(server);
                self.pins = Pins::NONE;
            }
            b"DEALLOCATE ALL" => {
                server.statements.clear();
                self.statements.clear();
            }
            _ => {}
        }
    }

    fn on_unsolicited(
        &mut self,
        frame: &Frame<'_, BackendTag>,
        disposition: Option<Disposition>,
    ) -> Result<bool, ServerFault> {
        let on_behalf = matches!(disposition, Some(Disposition::Skip(_)));
        match frame.tag {
            BackendTag::ParameterStatus if on_behalf => Ok(false),
            BackendTag::ParameterStatus => {
                let (name, value) = backend::parameter_status(frame.body())?;
                self.dialect.on_parameter_status(name, value);
                // A setting changed; if no SET was seen, a function did it. Inside a transaction it
                // may also be a SET LOCAL, which the probe will find gone.
                if disposition.is_some() && self.mode != super::Mode::Session {
                    self.touched |= Effects::SETS;
                }
                Ok(true)
            }
            BackendTag::NoticeResponse => Ok(!on_behalf),
            _ => Ok(true),
        }
    }

    fn on_server_error(
        &mut self,
        frame: &Frame<'_, BackendTag>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), ServerFault> {
        let bytes = frame.bytes;
        let body = frame.body();
        let fields = ErrorFields::read(body);
        if matches!(fields.severity, b"FATAL" | b"PANIC") {
            return Err(ServerFault::Fatal(body.into()));
        }
        match server.pipeline.on_message(BackendTag::ErrorResponse)? {
            Step::Within(Disposition::Forward) => self.forward_error(bytes, fields.sqlstate, out),
            Step::Within(Disposition::Skip(OnBehalf::Settings)) => {
                return Err(ServerFault::SettingsRefused(body.into()));
            }
            Step::Within(Disposition::Skip(OnBehalf::Probe)) => {
                if let Some(findings) = &mut self.findings {
                    findings.pins.insert(PinReason::Unproved);
                }
            }
            Step::Within(Disposition::Skip(OnBehalf::Statement)) => {
                self.deferred_error = Some(bytes.into());
            }
            Step::Void(voided) => {
                let awaited = voided
                    .iter()
                    .any(|e| !matches!(e.disposition, Disposition::Skip(_)));
                self.take_back(voided, server);
                if awaited {
                    self.forward_error(bytes, fields.sqlstate, out);
                } else if server.pipeline.ignores_until_sync() || self.batch == Batch::Open {
                    out.own().extend_from_slice(bytes);
                } else {
                    self.deferred_error = Some(bytes.into());
                }
            }
            Step::Unsolicited(_) => return Err(ServerFault::Fatal(body.into())),
            Step::Within(Disposition::Fake(_)) | Step::Done(_) => {}
        }
        Ok(())
    }

    /// Tells the client of an error: of the one that is behind it, where there is one; and with the
    /// client's own names for its statements.
    fn forward_error(&mut self, bytes: &[u8], sqlstate: Option<SqlState>, out: &mut Outbox<'_>) {
        let deferred = self.deferred_error.take();
        let is_about_names = sqlstate == Some(SqlState::INVALID_SQL_STATEMENT_NAME)
            || sqlstate == Some(SqlState::DUPLICATE_PREPARED_STATEMENT);
        match deferred {
            Some(error) if is_about_names => out.own().extend_from_slice(&error),
            _ if is_about_names => encode::raw_error(out.own(), &self.translate(&bytes[HEADER..])),
            _ => out.own().extend_from_slice(bytes),
        }
    }

    /// An ErrorResponse body in which statement names of ours are the client's again.
    fn translate(&self, body: &[u8]) -> Vec<u8> {
        let prefix = super::statements::NAME_PREFIX.as_bytes();
        let mut translated = Vec::with_capacity(body.len());
        let mut rest = body;
        while let Some(start) = rest
            .windows(prefix.len())
            .position(|window| window == prefix)
        {
            let digits = rest[start + prefix.len()..]
                .iter()
                .take_while(|b| b.is_ascii_digit())
                .count();
            let end = start + prefix.len() + digits;
            translated.extend_from_slice(&rest[..start]);
            let ours = &rest[start..end];
            translated.extend_from_slice(self.statements.client_name(ours).unwrap_or(ours));
            rest = &rest[end..];
        }
        translated.extend_from_slice(rest);
        translated
    }

    /// Undoes what was entered for requests that were never executed.
    fn take_back(&mut self, voided: Vec<Expected>, server: &mut ServerState) {
        for Expected {
            request,
            disposition,
        } in voided
        {
            match request {
                Request::Parse {
                    statement: Some(statement),
                    client_name,
                } => {
                    if !matches!(disposition, Disposition::Fake(_)) {
                        server.statements.remove(statement.id);
                    }
                    if let Some(name) = client_name {
                        self.statements.remove_if(&name, statement.id);
                    }
                }
                Request::Parse {
                    statement: None, ..
                } => {
                    server.unnamed = Unnamed::None;
                    self.unnamed.parse = Vec::new();
                }
                Request::Close {
                    restore: Some((name, statement)),
                } => {
                    self.statements.insert(&name, statement);
                }
                _ => {}
            }
        }
    }

    fn give_fakes(&mut self, server: &mut ServerState, out: &mut Outbox<'_>) {
        while let Some(fake) = server.pipeline.next_fake() {
            Self::give_fake(fake, server.status, out.own());
        }
    }

    pub(super) fn give_fake(fake: Fake, status: TransactionStatus, out: &mut Vec<u8>) {
        match fake {
            Fake::ParseComplete => encode::parse_complete(out),
            Fake::CloseComplete => encode::close_complete(out),
            Fake::Deallocate => {
                encode::command_complete(out, "DEALLOCATE");
                encode::ready_for_query(out, status);
            }
            Fake::DeallocateAll => {
                encode::command_complete(out, "DEALLOCATE ALL");
                encode::ready_for_query(out, status);
            }
        }
    }

    /// At the end of a transaction that may have left session state: asks the server which.
    fn probe_if_touched(&mut self, server: &mut ServerState, to_server: &mut Vec<u8>) {
        if self.touched.is_empty() || self.batch != Batch::Closed || !server.is_clean() {
            return;
        }
        self.touched = Effects::NONE;
        let custom = std::mem::take(&mut self.custom_settings);
        let known = self
            .settings
            .iter()
            .chain(server.settings.iter())
            .map(|(name, _)| name);
        let mut names: Vec<&[u8]> = known
            .filter(|name| name.contains(&b'.'))
            .chain(custom.iter().map(|name| &**name))
            .collect();
        names.sort_unstable();
        names.dedup();
        encode::query(
            to_server,
            &probe::query(&server.login_user, names.into_iter()),
        );
        server
            .pipeline
            .push(Request::Query, Disposition::Skip(OnBehalf::Probe));
        self.findings = Some(Box::default());
    }

    fn apply_findings(&mut self, server: &mut ServerState) {
        let Some(findings) = self.findings.take() else {
            return;
        };
        let Findings { settings, mut pins } = *findings;
        if pins.contains(PinReason::Unproved) {
            self.pins.insert(PinReason::Unproved);
            return;
        }
        if self.pins.contains(PinReason::Opaque) {
            pins.insert(PinReason::Opaque);
        }
        self.pins = pins;
        let interner = &self.interners.settings;
        // What was reset is at its startup value again, as it would be in a session of its own.
        let mut own = settings.clone();
        own.fill_from(&self.startup);
        self.settings = interner.intern(own);
        server.settings = if settings == *self.settings {
            Arc::clone(&self.settings)
        } else {
            interner.intern(settings)
        };
    }
}
