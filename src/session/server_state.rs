//! What is known of one server connection; it travels with the connection from client to client.

use std::sync::Arc;

use super::{
    expected::{Disposition, OnBehalf, Request},
    pipeline::{Pipeline, Step},
    retry::KeptBatch,
    revoke::Cause,
    sequences::Sequences,
    server_bytes::ServerFault,
    settings::Settings,
    stake::Stake,
    statements::ServerStatements,
};
use crate::protocol::{
    BackendTag, Frame,
    backend::{self, ErrorFields, TransactionStatus},
    encode, frame,
};

/// Which unnamed statement a server has: a number that is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnnamedId {
    pub(super) client: u64,
    pub(super) serial: u64,
}

/// A statement name that nothing has.
const FENCE: &[u8] = b"pgweir_fence";

/// What is known of one server connection.
#[derive(Debug)]
pub struct ServerState {
    /// As the last ReadyForQuery told.
    pub status: TransactionStatus,
    /// The replies it owes.
    pub pipeline: Pipeline,
    /// The statements it has.
    pub statements: ServerStatements,
    /// The settings it was given or was found with.
    pub settings: Arc<Settings>,
    /// The keys that its client has named since it was given it: while nobody decides where its units go.
    pub keys: Vec<Box<[u8]>>,
    /// The unnamed statement it has, if that is known.
    pub(super) unnamed: Unnamed,
    /// Whether it may have settings that no probe finds: of names of their own, set by a function.
    pub(super) may_hide_settings: bool,
    /// Whose sequence values it may have.
    pub(super) sequences: Sequences,
    /// The client's latest batch, to be sent again if need be.
    pub(super) kept: KeptBatch,
    /// The unit that can still be run elsewhere.
    pub stake: Stake,
    /// A message that is passing through by pieces.
    pub(super) streaming: Option<Streaming>,
    /// Whom the connection logged in as.
    pub login_user: Box<[u8]>,
    /// The longest message that is taken from it (`max_packet_size`).
    pub max_packet_size: u32,
}

/// The unnamed statement of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// There is none.
    None,
    /// This one.
    Is(UnnamedId),
    /// Any or none.
    Unknown,
}

/// The rest of a message that is too large to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Streaming {
    /// Bytes still to come.
    pub(super) remaining: usize,
    /// Whether they are forwarded or dropped.
    pub(super) forward: bool,
}

impl ServerState {
    /// A connection fresh from its login.
    pub fn new(login_user: &[u8], settings: Arc<Settings>, max_prepared_statements: usize) -> Self {
        Self {
            status: TransactionStatus::Idle,
            pipeline: Pipeline::default(),
            statements: ServerStatements::new(max_prepared_statements),
            settings,
            unnamed: Unnamed::None,
            may_hide_settings: false,
            sequences: Sequences::default(),
            kept: KeptBatch::default(),
            stake: Stake::default(),
            streaming: None,
            keys: Vec::new(),
            login_user: login_user.into(),
            max_packet_size: u32::MAX,
        }
    }

    /// Whether the client has got only a part of a message.
    pub fn is_mid_message(&self) -> bool {
        self.streaming.is_some_and(|streaming| streaming.forward)
    }

    /// Whether it is between transactions, owes nothing and is in the middle of nothing.
    #[inline]
    pub fn is_clean(&self) -> bool {
        self.status == TransactionStatus::Idle
            && self.pipeline.is_quiescent()
            && self.streaming.is_none()
    }
}

/// What a server without a client still has to be told before it can be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Nothing but to wait for the replies that it owes.
    Drain,
    /// It is in a transaction block.
    Rollback,
    /// Nothing.
    Done,
}

/// A transaction names no more keys than so many; what it writes is not shared under others.
const MAX_KEYS: usize = 64;

impl ServerState {
    /// Adds a key that its client has named.
    pub(super) fn add_key(&mut self, key: &[u8]) {
        let is_new = !key.is_empty() && self.keys.iter().all(|known| **known != *key);
        if is_new && self.keys.len() < MAX_KEYS {
            self.keys.push(key.into());
        }
    }

    /// Takes what the server sent while it has no client: every reply is dropped. Answers how many
    /// bytes are done with.
    pub fn discard(&mut self, data: &[u8]) -> Result<usize, ServerFault> {
        let mut at = 0;
        while at < data.len() {
            if let Some(streaming) = &mut self.streaming {
                let size = streaming.remaining.min(data.len() - at);
                streaming.remaining -= size;
                at += size;
                if streaming.remaining == 0 {
                    self.streaming = None;
                }
                continue;
            }
            let Some(frame) = frame::backend_within(&data[at..], self.max_packet_size)? else {
                break;
            };
            if frame.tag == BackendTag::ReadyForQuery && !frame.is_whole() {
                break;
            }
            self.discard_message(&frame)?;
            while self.pipeline.next_fake().is_some() {}
            let at_hand = frame.bytes.len();
            if at_hand < frame.size {
                let remaining = frame.size - at_hand;
                self.streaming = Some(Streaming {
                    remaining,
                    forward: false,
                });
            }
            at += at_hand;
        }
        Ok(at)
    }

    /// What it means that the server has closed the connection with this error.
    pub(super) fn farewell(&self, error: &ErrorFields<'_>, body: &[u8]) -> ServerFault {
        let is_told = matches!(
            self.pipeline.under_way(),
            Some(Disposition::Skip(why)) if why.is_vital()
        );
        let is_operator = error
            .sqlstate
            .is_none_or(|code| code.is_operator_intervention());
        if is_told && !is_operator {
            ServerFault::SettingsRefused(body.into())
        } else {
            ServerFault::Fatal(body.into())
        }
    }

    fn discard_message(&mut self, frame: &Frame<'_, BackendTag>) -> Result<(), ServerFault> {
        let step = self.pipeline.on_message(frame.tag)?;
        if frame.tag == BackendTag::ReadyForQuery {
            self.status = backend::ready_for_query(frame.body())?;
        }
        if frame.tag != BackendTag::ErrorResponse {
            return Ok(());
        }
        let cause = Cause::Refused(ErrorFields::read(frame.body()).sqlstate);
        match step {
            Step::Unsolicited(_) => return Err(ServerFault::Fatal(frame.body().into())),
            // Its settings are not what they are believed to be, or it was not cleaned.
            Step::Within(Disposition::Skip(why)) if why.is_vital() => {
                return Err(ServerFault::SettingsRefused(frame.body().into()));
            }
            Step::Within(_) => {
                if let Some(failed) = self.pipeline.take_failing() {
                    self.take_back(&failed, cause);
                }
            }
            Step::Void(voided) => {
                let first = voided.len().saturating_sub(1);
                for (distance, expected) in voided.iter().rev().enumerate() {
                    let cause = if distance == first {
                        cause
                    } else {
                        Cause::Ignored
                    };
                    self.take_back(expected, cause);
                }
            }
            Step::Done(_) => {}
        }
        self.unnamed = Unnamed::Unknown;
        Ok(())
    }

    /// What has to be sent so that the server ends what its client began: a COPY, a batch. Whatever
    /// it answers is expected from now on.
    pub fn interrupt(&mut self, to_server: &mut Vec<u8>) {
        while self.pipeline.next_fake().is_some() {}
        if self.pipeline.is_copy_in() {
            encode::copy_fail(to_server, b"client has gone");
            self.pipeline.end_copy_in();
        }
        if self.pipeline.ends_in_open_batch() {
            encode::sync(to_server);
            let on_behalf = Disposition::Skip(OnBehalf::Fence);
            self.pipeline.push_sync(on_behalf);
        }
        if self.pipeline.wants_fence() {
            self.send_fence(to_server);
        }
    }

    /// Asks for an answer that cannot be mistaken for another.
    pub(super) fn send_fence(&mut self, to_server: &mut Vec<u8>) {
        encode::close_statement(to_server, FENCE);
        encode::sync(to_server);
        self.pipeline.push_fence();
    }

    /// Makes the Sync that comes next end the transaction that a Query in the middle of a batch has
    /// left open, by something that is run and does nothing. PostgreSQL 18 answers ReadyForQuery with
    /// `I` to that Sync and yet does not commit: the next statement, whoever's it is, fails with XX000
    /// and takes the transaction with it (measured with 18.4; up to 17 such a Query commits itself).
    pub(super) fn let_sync_commit(&mut self, to_server: &mut Vec<u8>) {
        encode::parse(to_server, FENCE, b"", &[0, 0]);
        encode::close_statement(to_server, FENCE);
        let on_behalf = Disposition::Skip(OnBehalf::Commit);
        self.pipeline.push(Request::Parse, on_behalf);
        self.pipeline.push(Request::Close, on_behalf);
    }

    /// What is left to do now.
    pub fn cleanup(&self) -> Cleanup {
        if !self.pipeline.is_quiescent() || self.streaming.is_some() {
            Cleanup::Drain
        } else if self.status == TransactionStatus::Idle {
            Cleanup::Done
        } else {
            Cleanup::Rollback
        }
    }

    /// Asks the server to run `text`; its reply is expected from now on.
    pub fn ask(&mut self, text: &[u8], to_server: &mut Vec<u8>) {
        encode::query(to_server, text);
        self.expect_own_query(OnBehalf::Settings);
    }

    /// A Query of ours was sent. Like any Query it drops the unnamed statement.
    pub(super) fn expect_own_query(&mut self, on_behalf: OnBehalf) {
        self.unnamed = Unnamed::None;
        self.pipeline
            .push(Request::Query, Disposition::Skip(on_behalf));
    }

    /// Gives the server other settings; its replies are expected from now on.
    pub fn give_settings(&mut self, wanted: &Arc<Settings>, to_server: &mut Vec<u8>) {
        self.tell_settings(wanted, OnBehalf::Settings, to_server);
    }

    pub(super) fn tell_settings(
        &mut self,
        wanted: &Arc<Settings>,
        why: OnBehalf,
        to_server: &mut Vec<u8>,
    ) {
        for _ in 0..Settings::reconcile(&self.settings, wanted, to_server) {
            self.expect_own_query(why);
        }
        self.settings = Arc::clone(wanted);
    }

    /// The server was reset, by DISCARD ALL or what the operator has put in its place: nothing is left
    /// of any session on it, save perhaps prepared statements.
    pub fn on_discard_all(&mut self, defaults: Arc<Settings>) {
        self.statements.doubt_all();
        self.unnamed = Unnamed::None;
        self.may_hide_settings = false;
        self.settings = defaults;
    }
}
