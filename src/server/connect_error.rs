//! Why a server could not be connected: which server, as whom, at which step, and the server's own words where it gave any.

use crate::auth::ServerExchangeError;
use crate::config::SslMode;
use crate::net::{self, HandshakeError, Message, ReadError};
use crate::protocol::backend::ErrorFields;
use crate::protocol::{Malformed, SqlState};
use std::fmt;
use std::io;
use std::time::Duration;

/// A failed login to a server.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to server {server} as user \"{user}\" to database \"{database}\"")]
pub struct ConnectError {
    /// `host:port`, or the path of the Unix socket.
    pub server: Box<str>,
    /// As whom.
    pub user: Box<str>,
    /// To which database.
    pub database: Box<str>,
    /// What went wrong.
    #[source]
    pub failure: ConnectFailure,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The session was made, and `connect_query` failed in it.
    #[error("connect_query failed")]
    ConnectQuery(#[source] Box<super::recover::RecoverError>),
    /// The server said so itself.
    #[error(transparent)]
    Refused(ServerRefusal),
    /// No socket: the name is unknown, or nobody listens.
    #[error(transparent)]
    Socket(net::ConnectError),
    /// The server closed, the network failed, or what came is no message.
    #[error("receiving failed while {step}")]
    Receive {
        /// In the middle of what.
        step: Step,
        /// What happened.
        #[source]
        source: ReadError,
    },
    /// The server closed, or the network failed.
    #[error("sending failed while {step}")]
    Send {
        /// In the middle of what.
        step: Step,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// Too slow.
    #[error("timed out while {step}: server_connect_timeout is {} s", limit.as_secs_f64())]
    Timeout {
        /// In the middle of what.
        step: Step,
        /// The setting.
        limit: Duration,
    },
    /// The server has no TLS and the setting demands it.
    #[error("the server does not support TLS, which server_tls_sslmode = \"{0}\" demands")]
    NoTls(SslMode),
    /// The setting demands TLS and none is configured: a bug of ours.
    #[error("TLS is demanded and not set up")]
    NoConnector,
    /// The TLS handshake failed.
    #[error("TLS failed")]
    Tls(#[source] HandshakeError),
    /// The server answered an SSLRequest with neither `S` nor `N`.
    #[error("it answered the SSLRequest with byte 0x{0:02x}: is this a PostgreSQL server?")]
    SslAnswer(u8),
    /// A frame with a wrong body.
    #[error("it sent a malformed {message} message")]
    Body {
        /// Which.
        message: &'static str,
        /// What is wrong.
        #[source]
        source: Malformed,
    },
    /// More than a login needs.
    #[error("it sent more than {limit} bytes while {step}")]
    TooMuch {
        /// In the middle of what.
        step: Step,
        /// The bound.
        limit: usize,
    },
    /// A message that has no place there.
    #[error("it sent an unexpected message \"{}\" while {step}", char::from(*tag))]
    Unexpected {
        /// Which.
        tag: u8,
        /// In the middle of what.
        step: Step,
    },
    /// NegotiateProtocolVersion with a version that we did not offer.
    #[error("it wants protocol version {major}.{minor}, which was not offered")]
    Version {
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
    /// Our side of the authentication.
    #[error("authentication failed")]
    Authentication(#[from] ServerExchangeError),
    /// The operating system has no random numbers.
    #[error("no random numbers are to be had")]
    Random(#[source] getrandom::Error),
}

/// An ErrorResponse in place of a session. The bytes go to waiting clients unchanged.
#[derive(Clone)]
pub struct ServerRefusal {
    /// The whole message, tag and length included.
    pub message: Vec<u8>,
    /// Its code, if it has one.
    pub sqlstate: Option<SqlState>,
    /// Field `M` for the log; what is not UTF-8 is escaped.
    pub text: String,
}

/// How far a login got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// SSLRequest and handshake.
    Encrypting,
    /// From StartupMessage to AuthenticationOk.
    Authenticating,
    /// From AuthenticationOk to ReadyForQuery.
    Settling,
    /// In a query of ours behind the login.
    Asking,
}

impl ConnectError {
    /// The server's own words, for the clients that wait for it.
    pub fn refusal(&self) -> Option<&ServerRefusal> {
        match &self.failure {
            ConnectFailure::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The server's own code, else that of a connection that could not be established.
    pub fn sqlstate(&self) -> SqlState {
        self.refusal()
            .and_then(|refusal| refusal.sqlstate)
            .unwrap_or(SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION)
    }
}

impl ServerRefusal {
    /// Of an ErrorResponse.
    pub(super) fn of(error: &Message) -> Self {
        let fields = ErrorFields::read(&error.body);
        let sqlstate = fields.sqlstate;
        let text = match std::str::from_utf8(fields.message) {
            Ok(text) => text.to_owned(),
            Err(_) => fields.message.escape_ascii().to_string(),
        };
        let length = u32::try_from(error.body.len() + 4).expect("bounded when it was read");
        let message = [&[error.tag][..], &length.to_be_bytes(), &error.body].concat();
        Self {
            message,
            sqlstate,
            text,
        }
    }
}

impl fmt::Display for ServerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sqlstate {
            Some(sqlstate) => write!(f, "it answered {sqlstate}: {}", self.text),
            None => write!(f, "it answered: {}", self.text),
        }
    }
}

impl fmt::Debug for ServerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerRefusal({self})")
    }
}

impl std::error::Error for ServerRefusal {}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encrypting => "negotiating TLS",
            Self::Authenticating => "authenticating",
            Self::Settling => "waiting for ReadyForQuery",
            Self::Asking => "waiting for the answer to a query",
        })
    }
}
