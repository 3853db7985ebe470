//! Why a client was not let in: its code, its words for the client, and what only the log may know.

use crate::auth::Denied;
use crate::auth::hba::ClientCertificate;
use crate::client::auth_query::AuthQueryFailure;
use crate::config::{SslMode, describe};
use crate::net::{HandshakeError, ReadError};
use crate::protocol::encode::{self, Report, Severity};
use crate::protocol::startup::ProtocolVersion;
use crate::protocol::{Malformed, SqlState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::options::OptionsError;

/// A client that was not let in. It has been told so, unless it was gone.
#[derive(Debug, thiserror::Error)]
#[error("login failed: user \"{}\", database \"{}\"", user.as_deref().unwrap_or("?"), database.as_deref().unwrap_or("?"))]
pub struct LoginError {
    /// The name it gave, if it got that far.
    pub user: Option<String>,
    /// The database it asked for.
    pub database: Option<String>,
    /// What went wrong.
    #[source]
    pub failure: LoginFailure,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum LoginFailure {
    /// It closed, or what it sent is no message.
    #[error("cannot read its message")]
    Receive(#[source] ReadError),
    /// It is gone.
    #[error("cannot answer it")]
    Send(#[source] io::Error),
    /// Too slow.
    #[error("login took longer than client_login_timeout, {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// A packet with a wrong body.
    #[error("malformed startup packet: {0}")]
    Startup(Malformed),
    /// SSLRequest or GSSENCRequest a second time, or inside of TLS.
    #[error("{0} where none may come")]
    Repeated(&'static str),
    /// Bytes behind a request whose answer they did not wait for: whoever put them there might not be the client (CVE-2021-3935).
    #[error("received unencrypted data after {0}")]
    PlaintextAfter(&'static str),
    /// TLS failed.
    #[error("TLS failed")]
    Tls(#[source] HandshakeError),
    /// TLS came, and there is none.
    #[error("direct TLS without TLS being configured")]
    NoTls,
    /// TLS did not come, and must.
    #[error("connection without TLS; client_tls_sslmode is \"{0}\"")]
    TlsRequired(SslMode),
    /// Another protocol.
    #[error("unsupported frontend protocol {}.{}: this server speaks 3.0 to 3.2", .0.major, .0.minor)]
    Version(ProtocolVersion),
    /// A startup packet without user.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// A name that cannot be looked up.
    #[error("the startup parameter \"{0}\" is not UTF-8")]
    NotUtf8(&'static str),
    /// `options`.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Another parameter.
    #[error("unrecognized configuration parameter \"{0}\"")]
    Parameter(String),
    /// `replication`.
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    Replication(String),
    /// Wrong password, wrong proof.
    #[error(transparent)]
    Denied(Denied),
    /// No line of `auth_hba_file` fits.
    #[error("no entry of auth_hba_file for {0}")]
    NoRule(String),
    /// A line says reject.
    #[error("auth_hba_file rejects, in line {line}, {who}")]
    Rejected {
        /// Of the file.
        line: usize,
        /// Host, user, database, encryption.
        who: String,
    },
    /// The method needs a certificate.
    #[error("connection requires a valid client certificate")]
    NoCertificate,
    /// The certificate is someone else's.
    #[error("certificate authentication failed for user \"{user}\"")]
    WrongCertificate {
        /// The name it gave.
        user: String,
        /// The certificate's common name; for the log.
        name: Option<String>,
        /// What the rule asks for.
        rule: ClientCertificate,
    },
    /// The operating system's user is someone else.
    #[error("peer authentication failed for user \"{user}\"")]
    WrongPeer {
        /// The name it gave.
        user: String,
        /// The peer's user id; for the log.
        uid: u32,
    },
    /// Nobody could say whether there is such a user.
    #[error("cannot look up user \"{user}\": auth_query failed")]
    AuthQuery {
        /// The name it gave.
        user: String,
        /// For the log.
        #[source]
        cause: Arc<AuthQueryFailure>,
    },
    /// It is who it says, and asks for what is not there.
    #[error("database \"{0}\" does not exist")]
    NoDatabase(String),
    /// It is who it says, and may not see the console.
    #[error("user \"{0}\" is not allowed to use the console")]
    NotForConsole(String),
    /// The operating system has no random numbers.
    #[error("no random numbers are to be had")]
    Random(#[source] getrandom::Error),
}

impl LoginFailure {
    /// Whether the client just went away, as psql does to ask its user for a password: nothing to tell, hardly anything to log.
    pub fn is_departure(&self) -> bool {
        match self {
            Self::Receive(error) => matches!(error, ReadError::Closed | ReadError::Io(_)),
            Self::Send(_) => true,
            _ => false,
        }
    }

    /// The code for the client, as PostgreSQL's in the same place.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::Receive(_)
            | Self::Send(_)
            | Self::Startup(_)
            | Self::Repeated(_)
            | Self::PlaintextAfter(_)
            | Self::Tls(_)
            | Self::NoTls
            | Self::NotUtf8(_) => SqlState::PROTOCOL_VIOLATION,
            Self::Timeout(_) => SqlState::QUERY_CANCELED,
            Self::Version(_) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::Options(OptionsError::Name(_)) | Self::Parameter(_) => SqlState::UNDEFINED_OBJECT,
            Self::Options(OptionsError::Switch(_)) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::Options(_) => SqlState::SYNTAX_ERROR,
            Self::Replication(_) => SqlState::INVALID_PARAMETER_VALUE,
            Self::Denied(denied) => denied.sqlstate(),
            Self::TlsRequired(_)
            | Self::NoUser
            | Self::NoRule(_)
            | Self::Rejected { .. }
            | Self::NoCertificate
            | Self::WrongCertificate { .. }
            | Self::WrongPeer { .. } => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::AuthQuery { .. } => SqlState::CONNECTION_FAILURE,
            Self::NoDatabase(_) => SqlState::INVALID_CATALOG_NAME,
            Self::NotForConsole(_) => SqlState::INSUFFICIENT_PRIVILEGE,
            Self::Random(_) => SqlState::INTERNAL_ERROR,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::TlsRequired(_) => "Connect with sslmode=require.",
            Self::NoDatabase(_) => {
                "Databases are configured as [databases.NAME]; [databases.\"*\"] serves all other names."
            }
            Self::NotForConsole(_) => "The settings admin_users and stats_users decide this.",
            Self::AuthQuery { .. } => "The reason is in the log of the pooler.",
            _ => "",
        }
    }

    /// The ErrorResponse that ends the connection.
    pub fn farewell(&self) -> Vec<u8> {
        // What is behind a malformed message is the client's own fault, and it is told.
        let message = match self {
            Self::Receive(error) => error.to_string(),
            other => other.to_string(),
        };
        let mut out = Vec::new();
        let report = Report {
            severity: Severity::Fatal,
            sqlstate: self.sqlstate(),
            message: &message,
            detail: "",
            hint: self.hint(),
        };
        encode::report(&mut out, &report);
        out
    }
}

impl LoginError {
    /// Everything that is known, for the log, in one line whatever names the client made up.
    pub fn chain(&self) -> String {
        let mut text = describe(self);
        match &self.failure {
            LoginFailure::Denied(Denied::Password { cause, .. }) => {
                text.push_str(&format!(" ({cause})"));
            }
            LoginFailure::WrongCertificate { name, .. } => {
                text.push_str(&format!(" (the certificate is of {name:?})"));
            }
            LoginFailure::WrongPeer { uid, .. } => {
                text.push_str(&format!(" (the peer's user id is {uid})"));
            }
            _ => {}
        }
        text.replace(char::is_control, "?")
    }
}
