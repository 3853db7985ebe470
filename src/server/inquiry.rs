//! A connection of our own for questions to a server: what its users may log in with, what it is, how far it has replayed,
//! what its catalogue holds.
//!
//! Never a pool's connection: no client's settings reach it (CVE-2025-12819), its search_path is `pg_catalog`, and it can
//! only read. One question at a time, each a transaction of its own; answers are bounded in bytes, and bounded in time by who asks.
//! Knows no question and nothing of what an answer means.
//!
//! Invariant: an answer belongs to the question it is handed out for. After a failure, or when a question was dropped
//! half-way, every later one is [`InquiryError::Abandoned`]; the server's own refusal alone leaves the connection good.

use super::ServerLogin;
use super::connect::{self, Connected};
use super::connect_error::{ConnectError, ConnectFailure, ServerRefusal, Step};
use crate::net::{Framed, Message, ReadError};
use crate::protocol::backend::{self, TransactionStatus};
use crate::protocol::{BackendTag, Malformed, frame};
use bytes::BytesMut;
use postgres_protocol::{IsNull, message::frontend};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

/// What every such session is: independent of the settings of its role, its database and whoever else uses the server.
const OWN_SETTINGS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("search_path", "pg_catalog"),
    ("default_transaction_read_only", "on"),
    // A standby refuses everything in a serializable transaction.
    ("default_transaction_isolation", "read committed"),
    ("standard_conforming_strings", "on"),
    // Costs more than it saves in all that is asked here, and takes workers from the clients' queries.
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
];

/// A session for questions.
#[derive(Debug)]
pub struct Inquiry {
    framed: Framed,
    address: Option<SocketAddr>,
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// A question was sent whose answer has not been read whole.
    owed: bool,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum InquiryError {
    /// The server's own error; the next question may do better.
    #[error(transparent)]
    Refused(ServerRefusal),
    /// The connection failed, or the server broke the protocol.
    #[error("no answer")]
    Broken(#[source] ConnectFailure),
    /// The question itself cannot be sent.
    #[error("a question must not hold a NUL")]
    Nul,
    /// An earlier question failed or was given up: the connection is good for closing only.
    #[error("the connection was given up in the middle of an answer")]
    Abandoned,
}

/// A question that a session has prepared: the bytes that ask it again. Of use on that session only.
#[derive(Debug)]
pub struct Prepared(BytesMut);

impl Inquiry {
    /// Connects and logs in as `login` does, but with settings of its own, to which `settings` are added.
    ///
    /// # Errors
    /// As [`connect::connect`].
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub async fn open(
        login: &ServerLogin,
        application_name: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self, ConnectError> {
        let mut target = login.target.clone();
        let own = [("application_name", application_name)];
        let all = own.iter().chain(OWN_SETTINGS).chain(settings);
        target.parameters = all
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        let (resolver, derivations) = (&login.resolver, &login.derivations);
        let connected = connect::connect(&target, resolver, &login.credentials, derivations);
        Ok(Self::new(connected.await?))
    }

    /// On a new session. What the server may have sent behind its greeting can only be the news that it closes.
    pub(super) fn new(connected: Connected) -> Self {
        Self {
            framed: Framed::new(connected.stream),
            address: connected.address,
            parameters: connected.parameters,
            owed: !connected.received.is_empty(),
        }
    }

    /// Which of the host's addresses this is; `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What the server last reported of a parameter (manual, "Asynchronous Operations").
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        let mut reported = self.parameters.iter();
        let found = reported.find(|(known, _)| known == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// The server's major version; 0 if it does not tell.
    pub fn major_version(&self) -> u16 {
        let version = self.parameter("server_version").unwrap_or_default();
        let digits = version.iter().take_while(|b| b.is_ascii_digit()).take(4);
        digits.fold(0, |number, digit| number * 10 + u16::from(digit - b'0'))
    }

    /// Asks by the simple protocol. All rows of all statements, at most `limit` bytes of them.
    ///
    /// # Cancel safety
    /// Dropped half-way, the session is good for closing only, and says so.
    pub async fn ask(&mut self, sql: &str, limit: u32) -> Result<Rows, InquiryError> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).map_err(|_| InquiryError::Nul)?;
        self.exchange(&out, limit).await
    }

    /// Asks about `parameter`, which is `$1`. At most two rows come: enough to see that one is not the only one.
    ///
    /// # Cancel safety
    /// As [`Self::ask`].
    pub async fn ask_about(
        &mut self,
        sql: &str,
        parameter: &str,
        limit: u32,
    ) -> Result<Rows, InquiryError> {
        let mut out = BytesMut::new();
        let built = frontend::parse("", sql, [], &mut out)
            .and_then(|()| execution("", &[parameter], 2, &mut out));
        built.map_err(|_| InquiryError::Nul)?;
        self.exchange(&out, limit).await
    }

    /// Prepares a question under a name that is new to this session. Asking it is then one write and mostly one read, and costs
    /// the server no parsing.
    ///
    /// # Cancel safety
    /// As [`Self::ask`].
    pub async fn prepare(&mut self, name: &str, sql: &str) -> Result<Prepared, InquiryError> {
        let (mut out, mut request) = (BytesMut::new(), BytesMut::new());
        let built = frontend::parse(name, sql, [], &mut out)
            .and_then(|()| execution(name, &[], 0, &mut request));
        built.map_err(|_| InquiryError::Nul)?;
        frontend::sync(&mut out);
        self.exchange(&out, connect::MAX_LOGIN_MESSAGE).await?;
        Ok(Prepared(request))
    }

    /// Asks what was prepared on this session.
    ///
    /// # Cancel safety
    /// As [`Self::ask`].
    pub async fn ask_prepared(
        &mut self,
        question: &Prepared,
        limit: u32,
    ) -> Result<Rows, InquiryError> {
        self.exchange(&question.0, limit).await
    }

    /// Waits until the connection breaks while nothing is asked. What a server may say at any time is taken note of.
    ///
    /// # Cancel safety
    /// Dropped, it has lost nothing: the next question can be asked.
    pub async fn broken(&mut self) -> InquiryError {
        let mut unasked = Answer::default();
        // Nothing else may come unasked; rows would pile up here.
        let bound = |tag| match BackendTag::from_byte(tag) {
            Some(
                BackendTag::ErrorResponse
                | BackendTag::NoticeResponse
                | BackendTag::NotificationResponse
                | BackendTag::ParameterStatus,
            ) => Some(connect::MAX_LOGIN_MESSAGE),
            _ => None,
        };
        while !self.owed {
            let message = match self.framed.read_message(bound).await {
                Ok(message) => message,
                Err(error) => {
                    self.owed = true;
                    return InquiryError::Broken(unread(error, connect::MAX_LOGIN_MESSAGE));
                }
            };
            let heard = self.on_message(&message, &mut unasked);
            self.owed = unasked.refusal.is_some() || heard.is_err();
            if let Err(failure) = heard {
                return InquiryError::Broken(failure);
            }
        }
        let goodbye = unasked.refusal.map(InquiryError::Refused);
        goodbye.unwrap_or(InquiryError::Abandoned)
    }

    /// Sends a whole request and reads up to its one ReadyForQuery.
    async fn exchange(&mut self, request: &[u8], limit: u32) -> Result<Rows, InquiryError> {
        if std::mem::replace(&mut self.owed, true) {
            return Err(InquiryError::Abandoned);
        }
        let step = Step::Asking;
        let sent = self.framed.write(request).await;
        sent.map_err(|source| InquiryError::Broken(ConnectFailure::Send { step, source }))?;
        let mut answer = Answer::default();
        let mut left = limit;
        loop {
            let bound = |tag| BackendTag::from_byte(tag).map(|_| left);
            let message = self.framed.read_message(bound).await;
            let message = message.map_err(|error| InquiryError::Broken(unread(error, limit)))?;
            // Each was bounded by what is left; the header counts too, or empty messages could come for ever.
            let size = u32::try_from(message.body.len() + frame::HEADER).unwrap_or(u32::MAX);
            left = left.saturating_sub(size);
            let complete = self.on_message(&message, &mut answer);
            if complete.map_err(InquiryError::Broken)? {
                self.owed = false;
                return answer.refusal.map_or(Ok(answer.rows), |refusal| {
                    Err(InquiryError::Refused(refusal))
                });
            }
        }
    }

    /// Whether the answer is complete.
    fn on_message(
        &mut self,
        message: &Message,
        answer: &mut Answer,
    ) -> Result<bool, ConnectFailure> {
        let malformed = |message| move |source| ConnectFailure::Body { message, source };
        match BackendTag::from_byte(message.tag) {
            Some(BackendTag::DataRow) => {
                let pushed = answer.rows.push(&message.body);
                pushed.map_err(malformed("DataRow"))?;
            }
            Some(BackendTag::ErrorResponse) => {
                answer
                    .refusal
                    .get_or_insert_with(|| ServerRefusal::of(message));
            }
            Some(BackendTag::ParameterStatus) => {
                let (name, value) = backend::parameter_status(&message.body)
                    .map_err(malformed("ParameterStatus"))?;
                self.report(name, value);
            }
            Some(BackendTag::ReadyForQuery)
                if backend::ready_for_query(&message.body) == Ok(TransactionStatus::Idle) =>
            {
                return Ok(true);
            }
            Some(
                BackendTag::ParseComplete
                | BackendTag::BindComplete
                | BackendTag::RowDescription
                | BackendTag::CommandComplete
                | BackendTag::PortalSuspended
                | BackendTag::EmptyQueryResponse
                | BackendTag::NoticeResponse
                | BackendTag::NotificationResponse,
            ) => {}
            _ => {
                return Err(ConnectFailure::Unexpected {
                    tag: message.tag,
                    step: Step::Asking,
                });
            }
        }
        Ok(false)
    }

    /// Only names that the greeting had: a server cannot make this grow.
    fn report(&mut self, name: &[u8], value: &[u8]) {
        let mut reported = self.parameters.iter_mut();
        if let Some((_, known)) = reported.find(|(known, _)| known == name) {
            *known = value.to_vec();
        }
    }
}

/// Bind, Execute and Sync of a statement, all in text format; `most` rows, 0 for all.
fn execution(
    statement: &str,
    parameters: &[&str],
    most: i32,
    out: &mut BytesMut,
) -> std::io::Result<()> {
    let value = |text: &&str, out: &mut BytesMut| {
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    };
    let bound = frontend::bind("", statement, [], parameters, value, [], out);
    bound.map_err(|_| std::io::ErrorKind::InvalidInput)?;
    frontend::execute("", most, out)?;
    frontend::sync(out);
    Ok(())
}

fn unread(source: ReadError, limit: u32) -> ConnectFailure {
    let step = Step::Asking;
    match source {
        ReadError::Length {
            length,
            limit: left,
        } if length > left => ConnectFailure::TooMuch {
            step,
            limit: limit as usize,
        },
        source => ConnectFailure::Receive { step, source },
    }
}

#[derive(Default)]
struct Answer {
    rows: Rows,
    refusal: Option<ServerRefusal>,
}

/// The rows of an answer, in text format, in two allocations for all of them.
#[derive(Default)]
pub struct Rows {
    bytes: Vec<u8>,
    /// Where in `bytes` each column of each row is; `None` is NULL.
    cells: Vec<Option<Range<u32>>>,
    columns: usize,
    len: usize,
}

/// One row of them.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    bytes: &'a [u8],
    cells: &'a [Option<Range<u32>>],
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The row at this place, counted from 0.
    pub fn at(&self, index: usize) -> Option<Row<'_>> {
        let cells = (index < self.len).then(|| &self.cells[index * self.columns..][..self.columns]);
        let bytes = &self.bytes;
        cells.map(|cells| Row { bytes, cells })
    }

    /// All rows, in the server's order.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.len).filter_map(|index| self.at(index))
    }

    /// Adds the body of a DataRow; all have the same number of columns.
    fn push(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let before = self.cells.len();
        for value in backend::data_row(body)? {
            let start = end(&self.bytes)?;
            self.bytes.extend_from_slice(value.unwrap_or_default());
            let range = start..end(&self.bytes)?;
            self.cells.push(value.map(|_| range));
        }
        let columns = self.cells.len() - before;
        if self.len > 0 && columns != self.columns {
            return Err(Malformed::UndefinedValue("number of columns"));
        }
        self.columns = columns;
        self.len += 1;
        Ok(())
    }
}

/// Without what they hold: it may be a secret.
impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows({} rows of {} columns)", self.len, self.columns)
    }
}

/// Answers are bounded by a `u32` of bytes.
fn end(bytes: &[u8]) -> Result<u32, Malformed> {
    u32::try_from(bytes.len()).map_err(|_| Malformed::UndefinedValue("length"))
}

impl<'a> Row<'a> {
    /// Number of columns.
    pub fn columns(self) -> usize {
        self.cells.len()
    }

    /// The bytes of a column, counted from 0; `None` for NULL and for a column that is not there.
    pub fn bytes(self, column: usize) -> Option<&'a [u8]> {
        let range = self.cells.get(column)?.as_ref()?;
        self.bytes.get(range.start as usize..range.end as usize)
    }

    /// The same as text, if it is UTF-8: a database in SQL_ASCII has any bytes.
    pub fn text(self, column: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(column)?).ok()
    }
}

#[cfg(test)]
#[path = "inquiry_tests.rs"]
pub(super) mod tests;
