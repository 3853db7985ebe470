//! A server's bytes on their way to the client.
//!
//! Each message is fitted to the oldest expected reply, which says whether it is forwarded; what is
//! forwarded in a row leaves as one slice. Answers of our own are put in at their place.

use std::sync::Arc;

use super::{
    Batch, HOLD_LIMIT, Outbox, ServerState, Session,
    effects::HIDING,
    expected::{Disposition, Expected, Fake, OnBehalf},
    named::{REFUSED, TAKEN},
    pipeline::{Desync, Step},
    probe::{self, Findings, PinReason, Pins, StateCheck},
    revoke::{Cause, Revoke},
    server_state::Streaming,
    settings::is_read_by_parser,
    statements::NAME_PREFIX,
};
use crate::{
    protocol::{
        BackendTag, Frame, FrameError, Malformed, SqlState,
        backend::{self, ErrorFields, TransactionStatus},
        encode, frame,
    },
    sql::Effects,
};

/// So many statement names an error holds at most: a message and its detail name one.
const NAMES_IN_AN_ERROR: usize = 8;

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
                at += size;
                if streaming.remaining == 0 {
                    server.streaming = None;
                    Self::give_fakes_behind(server, out);
                }
                continue;
            }
            if let Some(with_description) = server.pipeline.forwards_rows()
                && !server.stake.is_on()
            {
                // No more than their headers tells one from the next: the request, and what becomes of its reply, are
                // the same for all of them.
                let rest = &data[at..];
                let rows = frame::rows(rest, with_description, server.max_packet_size);
                out.forward(at..at + rows);
                at += rows;
            }
            let Some(frame) = frame::backend_within(&data[at..], server.max_packet_size)? else {
                break;
            };
            if !frame.is_whole() && !Self::may_stream_to_client(&frame, server) {
                break;
            }
            let behind = data.get(at + frame.size);
            if Self::may_be_half_a_description(&frame) && behind.is_none() {
                break;
            }
            let is_ours = || matches!(server.pipeline.under_way(), Some(Disposition::Skip(_)));
            if server.stake.is_on() && !is_ours() && !server.stake.lets_through(&data[at..]) {
                break;
            }
            Self::give_fakes_behind(server, out);
            let forward = self.on_server_message(&frame, server, out)?
                && !(Self::may_be_half_a_description(&frame)
                    && behind == Some(&BackendTag::ErrorResponse.byte()));
            let at_hand = frame.bytes.len();
            if forward {
                out.forward(at..at + at_hand);
            }
            if at_hand < frame.size {
                server.streaming = Some(Streaming {
                    remaining: frame.size - at_hand,
                    forward,
                });
            }
            at += at_hand;
            Self::give_fakes_behind(server, out);
        }
        if self.has_questions(server) {
            self.ask(server, to_server);
        }
        Ok(at)
    }

    /// Whether a message that has not arrived whole may pass through by pieces: rows and COPY data
    /// at any size; everything else only when it is too large to be held.
    fn may_stream_to_client(frame: &Frame<'_, BackendTag>, server: &ServerState) -> bool {
        match frame.tag {
            BackendTag::DataRow | BackendTag::CopyData if !server.pipeline.is_probing() => true,
            _ => frame.bytes.len() >= HOLD_LIMIT,
        }
    }

    /// Whether this tells the parameters of a statement whose columns may not be told: if an error is
    /// behind it, the statement may be prepared anew and then have other parameters.
    fn may_be_half_a_description(frame: &Frame<'_, BackendTag>) -> bool {
        frame.tag == BackendTag::ParameterDescription && frame.size <= HOLD_LIMIT
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
            return self.on_server_error(frame, server, out);
        }
        // Before the request is taken for answered: a malformed answer is none.
        let ready = match tag {
            BackendTag::ReadyForQuery => Some(backend::ready_for_query(frame.body())?),
            _ => None,
        };
        let (disposition, is_done) = match server.pipeline.on_message(tag)? {
            Step::Within(disposition) => (disposition, false),
            Step::Done(disposition) => (disposition, true),
            Step::Unsolicited(disposition) => {
                return self.on_unsolicited(frame, disposition);
            }
            Step::Void(_) => return Ok(false),
        };
        if let Some(status) = ready {
            server.status = status;
            if matches!(disposition, Disposition::Forward | Disposition::Refuse(_)) {
                self.answered = self.answered.wrapping_add(1);
                self.deferred_error = None;
            }
        }
        match disposition {
            Disposition::Forward => {
                match tag {
                    BackendTag::CommandComplete => {
                        let tag = backend::command_complete(frame.body())?;
                        self.on_command_complete(tag, server);
                    }
                    // A COPY within a batch has swallowed the Syncs behind it: the batch goes on.
                    BackendTag::CopyInResponse | BackendTag::CopyBothResponse
                        if server.pipeline.ends_in_open_batch() =>
                    {
                        self.batch = Batch::Open;
                    }
                    _ => {}
                }
                Ok(true)
            }
            Disposition::Skip(OnBehalf::Probe) => {
                if tag == BackendTag::DataRow
                    && let StateCheck::Probing(findings) = &mut self.check
                {
                    if frame.is_whole() {
                        findings.add(frame.body())?;
                    } else {
                        findings.pins.insert(PinReason::Unproved);
                    }
                }
                if is_done {
                    self.apply_findings(server);
                }
                Ok(false)
            }
            Disposition::Refuse(_) => Ok(tag == BackendTag::ReadyForQuery),
            Disposition::Skip(_) | Disposition::Fake(_) => Ok(false),
        }
    }

    /// Tags of commands that change what we know of the server, however they were spelled.
    #[inline]
    fn on_command_complete(&mut self, tag: &[u8], server: &mut ServerState) {
        if !tag.starts_with(b"D") {
            return;
        }
        let is_discard = tag == b"DISCARD ALL";
        if is_discard || tag == b"DEALLOCATE ALL" {
            server.statements.doubt_all();
            if !server.pipeline.has_taken_names() {
                let taken = self.statements.take();
                for (name, statement) in server.pipeline.names_to_come() {
                    let is_kept = taken.named(name).is_some_and(|it| it.id == statement.id);
                    if is_kept {
                        self.statements.insert(name, Arc::clone(statement));
                    }
                }
            }
        }
        if is_discard {
            self.pins = Pins::NONE;
        }
    }

    fn on_unsolicited(
        &mut self,
        frame: &Frame<'_, BackendTag>,
        disposition: Option<Disposition>,
    ) -> Result<bool, ServerFault> {
        let on_behalf = matches!(disposition, Some(Disposition::Skip(_)));
        match frame.tag {
            // It is the client's own setting, of which it knows.
            BackendTag::ParameterStatus
                if disposition == Some(Disposition::Skip(OnBehalf::Settings)) =>
            {
                Ok(false)
            }
            BackendTag::ParameterStatus if !frame.is_whole() => Ok(true),
            BackendTag::ParameterStatus => {
                let (name, value) = backend::parameter_status(frame.body())?;
                self.dialect.on_parameter_status(name, value);
                if is_read_by_parser(name) {
                    self.unsettle();
                }
                // A setting changed; if no SET was seen, a function did it. Inside a transaction it
                // may also be a SET LOCAL, which the probe will find gone.
                if disposition == Some(Disposition::Forward) && self.tracks() {
                    self.touched |= Effects::SETS;
                }
                Ok(true)
            }
            BackendTag::NoticeResponse => Ok(!on_behalf),
            _ => Ok(true),
        }
    }

    /// Handles an ErrorResponse; answers whether it is forwarded as it is.
    fn on_server_error(
        &mut self,
        frame: &Frame<'_, BackendTag>,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<bool, ServerFault> {
        let body = frame.body();
        let fields = ErrorFields::read(body);
        if matches!(fields.severity, b"FATAL" | b"PANIC") {
            return Err(server.farewell(&fields, body));
        }
        let sqlstate = fields.sqlstate;
        match server.pipeline.on_message(BackendTag::ErrorResponse)? {
            Step::Within(disposition) => {
                let taken = self.on_refused(sqlstate, server);
                match disposition {
                    Disposition::Forward => {
                        return Ok(self.forward_error(
                            frame,
                            sqlstate,
                            taken.as_deref(),
                            server,
                            out,
                        ));
                    }
                    Disposition::Skip(why) if why.is_vital() => {
                        return Err(ServerFault::SettingsRefused(body.into()));
                    }
                    Disposition::Skip(OnBehalf::Probe) => {
                        if let StateCheck::Probing(findings) = &mut self.check {
                            findings.pins.insert(PinReason::Unproved);
                        }
                    }
                    Disposition::Skip(OnBehalf::Sequences) => {
                        return Self::on_sequences_kept(sqlstate, body);
                    }
                    Disposition::Refuse(refusal) => encode::report(out.own(), &refusal.report()),
                    Disposition::Skip(_) | Disposition::Fake(_) => {}
                }
            }
            Step::Void(voided) => {
                if Self::will_run_again(&voided, &fields, server) {
                    self.take_back(voided, sqlstate, server);
                    return Ok(false);
                }
                let is_ours = |e: &Expected| matches!(e.disposition, Disposition::Skip(_));
                let taken = voided.first().and_then(taken_name);
                let is_deferred = voided.iter().all(is_ours);
                let refused = voided.first().map(|e| e.disposition);
                // The failure of something that we did for a Query must not make the server ignore it.
                let is_for_query = voided.first().is_some_and(is_ours)
                    && voided
                        .iter()
                        .find(|e| !is_ours(e))
                        .is_some_and(Expected::is_round);
                if is_for_query && server.pipeline.ignores_until_sync() {
                    let rounds = voided.iter().filter(|e| e.is_round());
                    self.unanswered += rounds.map(|_| 1).sum::<u32>();
                }
                self.take_back(voided, sqlstate, server);
                if let Some(Disposition::Refuse(refusal)) = refused {
                    encode::report(out.own(), &refusal.report());
                    return Ok(false);
                }
                if is_deferred && refused == Some(Disposition::Skip(OnBehalf::Sequences)) {
                    return Self::on_sequences_kept(sqlstate, body);
                }
                if !is_deferred {
                    return Ok(self.forward_error(frame, sqlstate, taken.as_deref(), server, out));
                }
                self.deferred_error = frame.is_whole().then(|| frame.bytes.into());
            }
            Step::Unsolicited(_) => return Err(ServerFault::Fatal(body.into())),
            Step::Done(_) => {}
        }
        Ok(false)
    }

    /// Others' sequence values could not be discarded. In a failed transaction nothing runs, so nothing is seen.
    fn on_sequences_kept(sqlstate: Option<SqlState>, body: &[u8]) -> Result<bool, ServerFault> {
        if sqlstate == Some(SqlState::IN_FAILED_SQL_TRANSACTION) {
            Ok(false)
        } else {
            Err(ServerFault::SettingsRefused(body.into()))
        }
    }

    /// The oldest request was refused, and its reply goes on. Answers the client's name for what the
    /// server calls [`TAKEN`].
    fn on_refused(
        &mut self,
        sqlstate: Option<SqlState>,
        server: &mut ServerState,
    ) -> Option<Box<[u8]>> {
        let mut failed = server.pipeline.take_failing()?;
        let taken = taken_name(&failed);
        let cause = Cause::Refused(sqlstate);
        server.take_back(&failed, cause);
        self.take_back_one(&mut failed, cause);
        taken
    }

    /// Tells the client of an error: of the one that is behind it, where there is one; and with the
    /// client's own names for its statements. Answers whether it goes to the client as it is.
    fn forward_error(
        &mut self,
        frame: &Frame<'_, BackendTag>,
        sqlstate: Option<SqlState>,
        taken: Option<&[u8]>,
        server: &ServerState,
        out: &mut Outbox<'_>,
    ) -> bool {
        let is_about_names = matches!(
            sqlstate,
            Some(SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::DUPLICATE_PREPARED_STATEMENT)
        );
        let is_consequence =
            is_about_names || sqlstate == Some(SqlState::IN_FAILED_SQL_TRANSACTION);
        match self.deferred_error.take() {
            Some(error) if is_consequence => out.own().extend_from_slice(&error),
            _ => match self.translate(frame, taken, server) {
                Some(body) => encode::raw_error(out.own(), &body),
                None => return true,
            },
        }
        false
    }

    /// The body of an ErrorResponse in which statement names of ours are the client's again, if it holds any. More
    /// than a few of them are no name of a statement but somebody's text.
    fn translate(
        &self,
        frame: &Frame<'_, BackendTag>,
        taken: Option<&[u8]>,
        server: &ServerState,
    ) -> Option<Vec<u8>> {
        let prefix = NAME_PREFIX.as_bytes();
        let mut translated = Vec::new();
        let mut rest = frame.is_whole().then_some(frame.body())?;
        for _ in 0..NAMES_IN_AN_ERROR {
            let starts = |window: &[u8]| window == prefix;
            let Some(start) = rest.windows(prefix.len()).position(starts) else {
                break;
            };
            let length = rest[start..]
                .iter()
                .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
                .count();
            let (before, from) = rest.split_at(start);
            let (ours, behind) = from.split_at(length);
            let theirs = taken
                .filter(|_| ours == TAKEN)
                .or_else(|| server.pipeline.name_given_up(ours))
                .or_else(|| self.statements.client_name(ours));
            let refused = before.strip_suffix(REFUSED);
            translated.extend_from_slice(refused.unwrap_or(before));
            translated.extend_from_slice(theirs.filter(|_| refused.is_none()).unwrap_or(ours));
            rest = behind;
        }
        let holds_any = rest.len() < frame.body().len();
        translated.extend_from_slice(rest);
        holds_any.then_some(translated)
    }

    /// The replies of ours that come next, unless the client has got only a part of what is before.
    pub(super) fn give_fakes(server: &mut ServerState, to_client: &mut Vec<u8>) {
        while !server.is_mid_message()
            && let Some(fake) = server.pipeline.next_fake()
        {
            Self::give_fake(fake, server.status, to_client);
        }
    }

    /// As a function of its own it would cost 20 instructions more, twice a message.
    #[inline(always)]
    fn give_fakes_behind(server: &mut ServerState, out: &mut Outbox<'_>) {
        if server.pipeline.owes_fake() {
            Self::give_fakes(server, out.own());
        }
    }

    /// Whether the server has to be asked something on our own account. Never in the middle of a
    /// message of the client's.
    #[inline]
    pub(super) fn has_questions(&self, server: &ServerState) -> bool {
        let is_due = self.unanswered > 0
            || server.kept.is_to_run_again()
            || server.pipeline.is_empty()
                && (server.pipeline.wants_fence() || self.is_check_due(server));
        is_due && !self.is_mid_message()
    }

    /// Asks the server what has to be asked.
    pub(super) fn ask(&mut self, server: &mut ServerState, to_server: &mut Vec<u8>) {
        for _ in 0..std::mem::take(&mut self.unanswered) {
            // A preparation of ours has failed, and the Query behind it was ignored because of that:
            // its client waits for a ReadyForQuery.
            encode::sync(to_server);
            server.pipeline.push_sync(Disposition::Forward);
        }
        self.run_again(server, to_server);
        if server.pipeline.wants_fence() && server.pipeline.is_empty() {
            server.send_fence(to_server);
        }
        if self.is_check_due(server) {
            self.check_state(server, to_server);
        }
    }

    /// Whether a transaction has ended that may have left session state.
    #[inline]
    fn is_check_due(&self, server: &ServerState) -> bool {
        let is_due = match self.check {
            StateCheck::None => !self.touched.is_empty(),
            StateCheck::Due { .. } | StateCheck::Mending => true,
            StateCheck::Probing(_) => false,
        };
        is_due && self.batch == Batch::Closed && server.is_clean()
    }

    fn give_fake(fake: Fake, status: TransactionStatus, out: &mut Vec<u8>) {
        match fake {
            Fake::ParseComplete => encode::parse_complete(out),
            Fake::CloseComplete => encode::close_complete(out),
            Fake::DeallocateAll => {
                encode::command_complete(out, "DEALLOCATE ALL");
                encode::ready_for_query(out, status);
            }
        }
    }

    /// At the end of a transaction that may have left session state: asks the server which, and
    /// resets what it cannot say.
    fn check_state(&mut self, server: &mut ServerState, to_server: &mut Vec<u8>) {
        match self.check {
            StateCheck::None => self.probe(server, to_server),
            StateCheck::Due { reset, restore } => {
                self.check = StateCheck::Mending;
                if reset {
                    server.ask(b"RESET ALL", to_server);
                }
                if restore {
                    server.tell_settings(&self.settings, OnBehalf::Restore, to_server);
                }
            }
            StateCheck::Mending => self.check = StateCheck::None,
            StateCheck::Probing(_) => {}
        }
    }

    fn probe(&mut self, server: &mut ServerState, to_server: &mut Vec<u8>) {
        let touched = std::mem::replace(&mut self.touched, Effects::NONE);
        let known = self
            .settings
            .iter()
            .chain(server.settings.iter())
            .map(|(name, _)| name);
        let mut names: Vec<&[u8]> = known
            .filter(|name| name.contains(&b'.'))
            .chain(self.custom_settings.iter().map(|name| &**name))
            .collect();
        names.sort_unstable();
        names.dedup();
        encode::query(
            to_server,
            &probe::query(&server.login_user, names.into_iter()),
        );
        server.expect_own_query(OnBehalf::Probe);
        server.may_hide_settings |= touched.intersects(HIDING);
        self.check = StateCheck::Probing(Box::default());
    }

    fn apply_findings(&mut self, server: &mut ServerState) {
        let StateCheck::Probing(findings) = std::mem::take(&mut self.check) else {
            return;
        };
        self.is_settled = true;
        let Findings {
            mut settings,
            mut pins,
            made_by_sql,
            ..
        } = *findings;
        server.statements.doubt_named(&made_by_sql);
        if pins.contains(PinReason::Unproved) {
            self.pins.insert(PinReason::Unproved);
            return;
        }
        if self.pins.contains(PinReason::Opaque) {
            pins.insert(PinReason::Opaque);
        }
        self.pins = pins;
        // What was reset is at its startup value again, as it would be in a session of its own.
        let mut own = settings.clone();
        own.fill_from(&self.startup);
        let restore = own != settings;
        self.set_settings(own);
        let reset = server.may_hide_settings && self.pins.is_empty();
        if reset {
            server.may_hide_settings = false;
            settings = settings.identity();
        }
        server.settings = if settings == *self.settings {
            Arc::clone(&self.settings)
        } else {
            self.interners.settings.intern(settings)
        };
        if reset || restore {
            self.check = StateCheck::Due { reset, restore };
        }
    }
}

/// The client's name for what the server calls [`TAKEN`] in its answer.
fn taken_name(expected: &Expected) -> Option<Box<[u8]>> {
    expected.revokes.iter().find_map(|revoke| match revoke {
        Revoke::Taken(name) => Some(name.clone()),
        _ => None,
    })
}
