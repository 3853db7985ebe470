//! One client's protocol state: what it has asked, what it is owed, what session state it has.
//!
//! Sans-IO: bytes and a [`ServerState`] in; bytes for either side and decisions out. No socket, no
//! clock, no pool. The relay drives it in this order:
//!
//! ```text
//!             plan ──NeedServer──▶ attach ──▶ on_client_bytes ◀──▶ on_server_bytes ──▶ release
//!              ▲  (no server yet)                                        │  Return      │ Keep
//!              └─────────────────────────────────────────────────────────┴──────────────┘
//! ```
//!
//! Invariants:
//! * every request of the client gets exactly one reply, in order, whoever gives it;
//! * a server is returned only when it owes nothing, is between transactions, and either has no
//!   session state or has exactly the settings that [`ServerState::settings`] says;
//! * a message is forwarded unchanged unless it names a prepared statement.

mod client_bytes;
mod dialect;
mod effects;
pub mod expected;
mod named;
pub mod outbox;
pub mod pipeline;
pub mod probe;
pub mod refusal;
mod retry;
mod revoke;
mod sequences;
mod server_bytes;
pub mod server_state;
pub mod settings;
pub mod stake;
mod stall;
pub mod statements;
pub mod texts;
pub mod unit;
mod unnamed;

use std::sync::{Arc, atomic::AtomicBool};

pub use client_bytes::Taken;
pub use outbox::Outbox;
pub use probe::{PinReason, Pins};
pub use server_bytes::ServerFault;
pub use server_state::ServerState;
pub use settings::{Settings, SettingsInterner};
pub use statements::StatementInterner;
pub use texts::{Texts, World};
pub use unit::{Kind, Place, Unit};

use self::{
    dialect::Dialect, probe::StateCheck, revoke::Cause, server_state::Streaming, stall::Stall,
    statements::ClientStatements, unit::Writes, unnamed::UnnamedStatement,
};
use crate::{
    protocol::{
        FrameError, FrontendTag, Malformed,
        backend::TransactionStatus,
        encode::{self, Report},
        frame,
    },
    sql::Effects,
};

/// Bytes of one client that are held while it has no server, and the largest message that is looked
/// at whole. Beyond it a message is streamed.
pub const HOLD_LIMIT: usize = 64 * 1024;

/// How long a server stays with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As long as the client is connected; nothing is tracked or rewritten.
    Session,
    /// For a transaction.
    Transaction,
    /// For a statement; transaction blocks are refused.
    Statement,
}

/// What all sessions of one pool share.
#[derive(Debug, Default)]
pub struct Interners {
    /// Prepared statements: of this pool, for what one database accepts another may not.
    pub statements: StatementInterner,
    /// Sets of settings: of the whole process.
    pub settings: Arc<SettingsInterner>,
    /// Whether anybody has ever used currval or lastval.
    pub sequences_are_asked_for: AtomicBool,
}

/// A client broke the protocol, or asked for what its pool mode does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The bytes are no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message does not have the shape its tag promises.
    #[error("malformed {tag:?} message: {fault}")]
    Malformed {
        /// Which message.
        tag: FrontendTag,
        /// What is wrong with it.
        fault: Malformed,
    },
    /// A message that has no place after authentication.
    #[error("unexpected {0:?} message")]
    Unexpected(FrontendTag),
    /// A statement too long to be prepared by name.
    #[error("statement text of {size} bytes is too long to be prepared by name (at most {limit})")]
    StatementTooLong {
        /// Size of the message.
        size: usize,
        /// The limit.
        limit: usize,
    },
}

/// What to do next for a client that has no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Wait for more bytes; the first so many are done with.
    Wait(usize),
    /// Get a server; the first so many bytes are done with.
    NeedServer(usize),
    /// The client has said goodbye.
    Terminate,
}

/// Whether a server goes back to its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It stays with the client.
    Keep,
    /// It is proved clean.
    Return,
}

/// How much of a client's world an event destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The client has been told and can go on.
    Statement,
    /// The session cannot go on.
    Session,
}

/// Where the client is in an extended-query batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Batch {
    /// Between batches.
    #[default]
    Closed,
    /// It has none but Close messages, which run nothing and cannot fail: a batch of ours may come before the rest.
    Closing,
    /// Messages were sent to the server whose Sync was not.
    Open,
    /// It failed without a server: everything up to the Sync is dropped.
    Discarding,
}

impl Batch {
    /// Whether the client has begun one and not ended it.
    fn is_open(self) -> bool {
        matches!(self, Self::Closing | Self::Open)
    }

    /// Whether a batch of ours, with its Sync, may come now: nothing was sent for this one whose failure would make the
    /// server ignore what follows.
    fn may_follow_ours(self) -> bool {
        matches!(self, Self::Closed | Self::Closing)
    }
}

/// What was last run of the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LastRun {
    /// Nothing, or something of the extended protocol.
    #[default]
    Other,
    /// A Query in its middle, which may have left a transaction open.
    Query,
}

/// One client's protocol state.
#[derive(Debug)]
pub struct Session {
    id: u64,
    mode: Mode,
    interners: Arc<Interners>,
    statements: ClientStatements,
    unnamed: UnnamedStatement,
    /// The last serial number of an unnamed statement.
    unnamed_serial: u64,
    settings: Arc<Settings>,
    /// Whether its transactions are serializable unless they say otherwise.
    is_serializable: bool,
    startup: Arc<Settings>,
    dialect: Dialect,
    texts: Texts,
    world: Option<Arc<World>>,
    batch: Batch,
    last_run: LastRun,
    streaming: Option<Streaming>,
    /// How far the messages that are held back have been scanned for the end of their batch.
    scanned: usize,
    /// Whether a whole message waits for what the server answers to an earlier one, and why.
    stalled: Stall,
    /// What the statements since the last probe may have done to the server's session state.
    touched: Effects,
    /// Whether it is known with which settings the server reads a text.
    is_settled: bool,
    /// How often that became unknown.
    unsettled: u64,
    /// Names of settings that a probe has to ask for one by one.
    custom_settings: Vec<Box<[u8]>>,
    check: StateCheck,
    pins: Pins,
    /// Effects of statements that are not let through.
    refused: Effects,
    /// Requests that were answered since this was last asked for.
    answered: u32,
    /// The error of a statement that we prepared for the client, to be told in place of the next.
    deferred_error: Option<Box<[u8]>>,
    /// Queries that the server ignores because of a failure of ours.
    unanswered: u32,
    place: Place,
    writes: Writes,
}

/// Each idle client has one, and is to cost at most 1.5 KiB in all: see `client::relay`.
const _: () = assert!(size_of::<Session>() <= 272);

impl Session {
    /// A session that begins with the settings of its startup packet. `id` is never used twice.
    pub fn new(id: u64, mode: Mode, interners: Arc<Interners>, startup: Arc<Settings>) -> Self {
        let mut dialect = Dialect::default();
        for (name, value) in startup.iter() {
            dialect.on_parameter_status(name, value);
        }
        Self {
            id,
            mode,
            interners,
            statements: ClientStatements::default(),
            unnamed: UnnamedStatement::default(),
            unnamed_serial: 0,
            is_serializable: startup.is_serializable(),
            settings: Arc::clone(&startup),
            startup,
            dialect,
            texts: Texts::default(),
            world: None,
            batch: Batch::Closed,
            last_run: LastRun::Other,
            streaming: None,
            scanned: 0,
            stalled: Stall::No,
            touched: Effects::NONE,
            is_settled: true,
            unsettled: 0,
            custom_settings: Vec::new(),
            check: StateCheck::None,
            pins: Pins::NONE,
            refused: Effects::NONE,
            answered: 0,
            deferred_error: None,
            unanswered: 0,
            place: Place::Only,
            writes: Writes::None,
        }
    }

    /// With what the client was told of its server: how texts are read depends on it.
    pub fn told<'a>(mut self, parameters: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        for (name, value) in parameters {
            self.dialect.on_parameter_status(name, value);
        }
        self
    }

    /// Why the server is kept beyond the transaction.
    pub fn pins(&self) -> Pins {
        self.pins
    }

    /// How many statements the client has prepared by name.
    pub fn prepared_statements(&self) -> usize {
        self.statements.len()
    }

    /// How many requests were answered since [`Session::take_answered`] was called.
    pub fn answered(&self) -> u32 {
        self.answered
    }

    /// How many requests were answered since this was last asked: Query, FunctionCall, Sync.
    pub fn take_answered(&mut self) -> u32 {
        std::mem::take(&mut self.answered)
    }

    /// Whether a message of the client's is on its way to the server in pieces.
    pub fn is_mid_message(&self) -> bool {
        self.streaming.is_some_and(|streaming| streaming.forward)
    }

    /// Whether the server may have session state that is not known exactly.
    pub fn has_unproved_state(&self) -> bool {
        self.mode == Mode::Session
            || !self.touched.is_empty()
            || !self.pins.is_empty()
            || !matches!(self.check, StateCheck::None)
    }

    /// Sets something that the client has not set itself. The server is told of it like of any other
    /// setting.
    pub fn insert_setting(&mut self, name: &[u8], value: &[u8]) {
        let mut settings = (*self.settings).clone();
        settings.insert(name, value);
        self.set_settings(settings);
    }

    fn set_settings(&mut self, settings: Settings) {
        self.settings = self.interners.settings.intern(settings);
        self.is_serializable = self.settings.is_serializable();
    }

    /// The session's settings.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Looks at what a client without a server has sent. Local answers are appended to `to_client`.
    ///
    /// A server is asked for only when a whole unit has arrived (a Query, or a batch up to its Sync or
    /// Flush), so that half a message holds nothing; or when the unit is larger than [`HOLD_LIMIT`],
    /// but for the text of a statement with a name, which is needed whole in any case.
    pub fn plan(
        &mut self,
        data: &[u8],
        max_packet_size: u32,
        to_client: &mut Vec<u8>,
    ) -> Result<Plan, Violation> {
        self.stalled = Stall::No;
        let mut done = 0;
        let mut at = std::mem::take(&mut self.scanned);
        loop {
            if let Some(dropped) = self.drop_streaming(data.len() - done) {
                done += dropped;
                at = done;
                continue;
            }
            let Some(frame) = frame::frontend(&data[at..], max_packet_size)? else {
                break;
            };
            let is_first = at == done;
            match frame.tag {
                FrontendTag::Password => return Err(Violation::Unexpected(frame.tag)),
                FrontendTag::Terminate => return Ok(Plan::Terminate),
                _ if self.batch == Batch::Discarding => {
                    if frame.tag == FrontendTag::Sync {
                        self.batch = Batch::Closed;
                        encode::ready_for_query(to_client, TransactionStatus::Idle);
                    }
                    done += self.drop_message(frame.bytes.len(), frame.size);
                    at = done;
                    continue;
                }
                // COPY data that comes after its COPY has failed, as PostgreSQL ignores it.
                FrontendTag::CopyData | FrontendTag::CopyDone | FrontendTag::CopyFail
                    if is_first =>
                {
                    done += self.drop_message(frame.bytes.len(), frame.size);
                    at = done;
                    continue;
                }
                FrontendTag::Flush if is_first => {
                    done += frame.size.min(frame.bytes.len());
                    at = done;
                    continue;
                }
                FrontendTag::Sync if is_first => {
                    encode::ready_for_query(to_client, TransactionStatus::Idle);
                    done += frame.size;
                    at = done;
                    continue;
                }
                FrontendTag::Parse if is_first && frame.is_whole() => {
                    if let Some(size) = self.parse_locally(&frame, &data[at..], to_client) {
                        done += size;
                        at = done;
                        continue;
                    }
                }
                FrontendTag::Query
                | FrontendTag::FunctionCall
                | FrontendTag::Sync
                | FrontendTag::Flush
                    if frame.is_whole() =>
                {
                    // Whoever sends the unit on need not look for its end again.
                    self.scanned = at - done;
                    return Ok(Plan::NeedServer(done));
                }
                _ => {}
            }
            if !frame.is_whole() {
                if self.is_held_whole(&frame)? {
                    self.scanned = at - done;
                    return Ok(Plan::Wait(done));
                }
                break;
            }
            at += frame.size;
        }
        if data.len() - done >= HOLD_LIMIT {
            return Ok(Plan::NeedServer(done));
        }
        self.scanned = at - done;
        Ok(Plan::Wait(done))
    }

    /// Gives the session a server. What the server must be told first is put into `out`, so that it
    /// leaves in one write with the client's own message.
    #[inline]
    pub fn attach(&mut self, server: &mut ServerState, out: &mut Outbox<'_>) {
        debug_assert!(server.is_clean(), "only clean servers are handed out");
        server.sequences.attach(self.id);
        server.keys.clear();
        self.is_settled = true;
        if Arc::ptr_eq(&server.settings, &self.settings) {
            return;
        }
        server.give_settings(&self.settings, out.own());
    }

    /// Whether the server goes back to its pool now.
    #[inline]
    pub fn release(&mut self, server: &ServerState) -> Release {
        let keep = self.mode == Mode::Session
            || !server.is_clean()
            || self.batch != Batch::Closed
            || self.streaming.is_some()
            || !self.touched.is_empty()
            || !self.pins.is_empty();
        if keep { Release::Keep } else { Release::Return }
    }

    /// Whether the client is in a transaction, or in the middle of a request.
    pub fn is_busy(&self, server: &ServerState) -> bool {
        !server.is_clean() || self.batch != Batch::Closed || self.streaming.is_some()
    }

    /// The server is gone. Appends to `to_client` what the client is still owed: an error and a
    /// ReadyForQuery for each request under way; or the farewell, when the session's state is lost
    /// with the server.
    pub fn on_server_lost(
        &mut self,
        server: &mut ServerState,
        report: &Report<'_>,
        to_client: &mut Vec<u8>,
    ) -> Damage {
        if server.is_mid_message() {
            return Damage::Session;
        }
        let state_lost = server.status != TransactionStatus::Idle
            || !self.pins.is_empty()
            // The client was told that its SET was carried out; what it set was not learnt yet.
            || matches!(self.check, StateCheck::Probing(_))
            || self.mode == Mode::Session;
        if state_lost {
            encode::report(
                to_client,
                &Report {
                    severity: encode::Severity::Fatal,
                    ..*report
                },
            );
            return Damage::Session;
        }
        let awaited = server.pipeline.awaited();
        for _ in 0..awaited.ready_for_query {
            encode::report(to_client, report);
            encode::ready_for_query(to_client, TransactionStatus::Idle);
        }
        if awaited.open_batch || self.batch.is_open() {
            if !server.pipeline.ignores_until_sync() {
                encode::report(to_client, report);
            }
            self.batch = Batch::Discarding;
            self.scanned = 0;
        }
        for mut expected in server.pipeline.take_all().into_iter().rev() {
            self.take_back_one(&mut expected, Cause::Ignored);
        }
        if let Some(streaming) = &mut self.streaming {
            streaming.forward = false;
        }
        self.forget_attachment();
        Damage::Statement
    }

    /// No server can be had for what `data` begins with. Appends the error and, where the unit is
    /// whole, its ReadyForQuery; answers how many bytes are done with.
    pub fn refuse(
        &mut self,
        data: &[u8],
        max_packet_size: u32,
        report: &Report<'_>,
        to_client: &mut Vec<u8>,
    ) -> Result<usize, Violation> {
        encode::report(to_client, report);
        self.scanned = 0;
        self.stalled = Stall::No;
        let mut at = 0;
        while let Some(frame) = frame::frontend(&data[at..], max_packet_size)? {
            let is_first = at == 0;
            at += self.drop_message(frame.bytes.len(), frame.size);
            let ends = match frame.tag {
                // In the middle of a batch that has failed, they are ignored like all else.
                FrontendTag::Query | FrontendTag::FunctionCall => is_first,
                tag => tag == FrontendTag::Sync,
            };
            if ends {
                encode::ready_for_query(to_client, TransactionStatus::Idle);
                return Ok(at);
            }
        }
        self.batch = Batch::Discarding;
        Ok(at)
    }

    /// What was known of a server that is no longer attached.
    fn forget_attachment(&mut self) {
        self.touched = Effects::NONE;
        self.last_run = LastRun::Other;
        self.check = StateCheck::None;
        self.pins = Pins::NONE;
        self.deferred_error = None;
        self.unanswered = 0;
    }

    /// Drops what is at hand of a message that is not forwarded; the rest is dropped as it comes.
    fn drop_message(&mut self, at_hand: usize, size: usize) -> usize {
        if at_hand < size {
            self.streaming = Some(Streaming {
                remaining: size - at_hand,
                forward: false,
            });
        }
        at_hand
    }

    /// While a dropped message is passing through: how much of `available` bytes belongs to it.
    fn drop_streaming(&mut self, available: usize) -> Option<usize> {
        let streaming = self.streaming.as_mut()?;
        if available == 0 {
            return None;
        }
        let dropped = streaming.remaining.min(available);
        streaming.remaining -= dropped;
        if streaming.remaining == 0 {
            self.streaming = None;
        }
        Some(dropped)
    }
}
