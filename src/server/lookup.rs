//! `auth_query`: asks a server for the secret of one user.
//!
//! The connection is its own, never a pool's: no client's settings reach it (CVE-2025-12819), its search_path is `pg_catalog`
//! ([`isolate`]), it can only read, and the user's name goes as a parameter, never into the text. Knows no cache and no policy.

use super::connect::{ConnectTarget, Connected, MAX_LOGIN_MESSAGE};
use super::connect_error::{ConnectFailure, ServerRefusal, Step};
use crate::net::{Framed, Message};
use crate::protocol::backend;
use crate::protocol::{BackendTag, frame};
use bytes::BytesMut;
use postgres_protocol::{IsNull, message::frontend};

/// What the server knows of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No row.
    NoSuchUser,
    /// A row whose password is NULL: none is set, or it has expired (VALID UNTIL).
    NoPassword,
    /// The text of the secret.
    Secret(SecretText),
}

/// A secret's text as the server keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// The text in clear.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// Why the question has no answer; the connection is of no more use, except after [`LookupError::Refused`].
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The server's own error.
    #[error("auth_query failed: {0}")]
    Refused(ServerRefusal),
    /// The connection failed, or the server broke the protocol.
    #[error("auth_query got no answer")]
    Broken(#[source] ConnectFailure),
    /// Not `user, password`, at most one row.
    #[error("auth_query must return at most one row of two columns, user name and password: {0}")]
    Shape(&'static str),
}

/// Makes the target's session independent of whoever else uses the server: fixed search_path, read-only, no surprises from the
/// role's or database's own settings.
pub fn isolate(target: &mut ConnectTarget) {
    let options = [
        (&b"application_name"[..], &b"pgweir auth_query"[..]),
        (b"client_encoding", b"UTF8"),
        (b"search_path", b"pg_catalog"),
        (b"default_transaction_read_only", b"on"),
    ];
    target.parameters = options
        .into_iter()
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect();
}

/// A session for such questions, one at a time.
#[derive(Debug)]
pub struct LookupSession(Framed);

impl LookupSession {
    /// On a new session whose target was [`isolate`]d.
    pub fn new(connected: Connected) -> Self {
        Self(Framed::new(connected.stream))
    }

    /// Asks for the secret of `user`. The caller bounds it in time (`auth_query_timeout`).
    ///
    /// # Cancel safety
    /// Dropped half-way, or after [`LookupError::Broken`], the session is good for closing only.
    pub async fn look_up(&mut self, query: &str, user: &str) -> Result<Found, LookupError> {
        let framed = &mut self.0;
        let step = Step::Asking;
        let sent = framed.write(&question(query, user)?).await;
        sent.map_err(|source| LookupError::Broken(ConnectFailure::Send { step, source }))?;
        let mut answer = Answer::default();
        let mut left = MAX_LOGIN_MESSAGE;
        loop {
            let limit = |tag| BackendTag::from_byte(tag).map(|_| left);
            let message = framed
                .read_message(limit)
                .await
                .map_err(|source| LookupError::Broken(ConnectFailure::Receive { step, source }))?;
            // Each was bounded by what is left; the header counts too, or empty messages could come for ever.
            let size = u32::try_from(message.body.len() + frame::HEADER).unwrap_or(u32::MAX);
            left = left.saturating_sub(size);
            if answer.on_message(message)? {
                return answer.verdict(user);
            }
        }
    }
}

/// Parse, Bind with the one parameter, Execute, Sync: one write, all in text format.
fn question(query: &str, user: &str) -> Result<BytesMut, LookupError> {
    let mut out = BytesMut::new();
    let built = frontend::parse("", query, [], &mut out).and_then(|()| {
        let value = |user: &str, out: &mut BytesMut| {
            out.extend_from_slice(user.as_bytes());
            Ok(IsNull::No)
        };
        let bound = frontend::bind("", "", [], [user], value, [], &mut out);
        bound.map_err(|_| std::io::ErrorKind::InvalidInput)?;
        frontend::execute("", 2, &mut out)
    });
    built.map_err(|_| LookupError::Shape("the query or the user's name holds a NUL"))?;
    frontend::sync(&mut out);
    Ok(out)
}

#[derive(Default)]
struct Answer {
    rows: Vec<BytesMut>,
    refusal: Option<ServerRefusal>,
}

impl Answer {
    /// Whether the answer is complete.
    fn on_message(&mut self, message: Message) -> Result<bool, LookupError> {
        match BackendTag::from_byte(message.tag) {
            Some(BackendTag::ReadyForQuery) => return Ok(true),
            Some(BackendTag::DataRow) => self.rows.push(message.body),
            Some(BackendTag::ErrorResponse) => {
                self.refusal
                    .get_or_insert_with(|| ServerRefusal::of(&message));
            }
            Some(
                BackendTag::ParseComplete
                | BackendTag::BindComplete
                | BackendTag::CommandComplete
                | BackendTag::PortalSuspended
                | BackendTag::EmptyQueryResponse
                | BackendTag::NoticeResponse
                | BackendTag::ParameterStatus
                | BackendTag::NotificationResponse,
            ) => {}
            _ => {
                return Err(LookupError::Broken(ConnectFailure::Unexpected {
                    tag: message.tag,
                    step: Step::Asking,
                }));
            }
        }
        Ok(false)
    }

    fn verdict(self, user: &str) -> Result<Found, LookupError> {
        if let Some(refusal) = self.refusal {
            return Err(LookupError::Refused(refusal));
        }
        let row = match self.rows.as_slice() {
            [] => return Ok(Found::NoSuchUser),
            [row] => row,
            _ => return Err(LookupError::Shape("it returned several rows")),
        };
        let columns = backend::data_row(row);
        let columns = columns.map_err(|_| LookupError::Shape("its row is malformed"))?;
        let [name, password, ..] = columns.as_slice() else {
            return Err(LookupError::Shape("it returned one column"));
        };
        match (name, password) {
            (None, _) => Ok(Found::NoSuchUser),
            // The answer for one name must never serve another.
            (Some(name), _) if *name != user.as_bytes() => {
                Err(LookupError::Shape("it returned another user's name"))
            }
            (Some(_), None | Some([])) => Ok(Found::NoPassword),
            (Some(_), Some(password)) => match std::str::from_utf8(password) {
                Ok(text) => Ok(Found::Secret(SecretText(text.to_owned()))),
                Err(_) => Err(LookupError::Shape("the password is not UTF-8")),
            },
        }
    }
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
