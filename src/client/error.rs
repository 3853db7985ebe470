//! How a failure is told to the client: which SQLSTATE, whose fault, which setting decides it.
//!
//! An error of the server's own is passed on with its code and words; everything else is made here.

use std::{borrow::Cow, io, time::Duration};

use super::routing::Nobody;
use crate::{
    config::describe,
    pool::{CheckoutError, ClientRecord, Pool},
    protocol::{
        FrameError, SqlState,
        backend::ErrorFields,
        encode::{self, Report, Severity},
    },
    server::{Server, connect_error::ConnectFailure, recover::RecoverError},
    session::{ServerFault, Violation},
};

/// Reasons of our own to refuse or to end something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// `query_wait_notify` has passed.
    WaitNotice,
    /// `query_wait_timeout` has passed.
    QueryWait,
    /// `query_timeout` has passed.
    QueryTime,
    /// `idle_transaction_timeout` has passed.
    IdleInTransaction,
    /// `transaction_timeout` has passed.
    TransactionTime,
    /// `client_idle_timeout` has passed.
    ClientIdle,
    /// KILL or KILL_CLIENT.
    Killed,
    /// The pooler shuts down.
    Shutdown,
    /// Its server is closed while it keeps it.
    Superseded,
    /// Another server has become the primary while it kept the old one.
    Deposed,
    /// BEGIN in statement mode.
    TransactionInStatementMode,
}

/// A failure as the client is told it.
#[derive(Clone, Debug)]
pub struct Failure {
    severity: Severity,
    sqlstate: SqlState,
    message: Cow<'static, str>,
    detail: String,
    hint: &'static str,
}

impl Failure {
    /// A failure for a reason of ours, without a time limit.
    pub fn new(cause: Cause) -> Self {
        Self::timeout(cause, Duration::ZERO)
    }

    /// A failure for a reason of ours; `limit` is the time that has passed, where one has.
    pub fn timeout(cause: Cause, limit: Duration) -> Self {
        let fatal = Severity::Fatal;
        let (severity, sqlstate, message, setting, hint) = match cause {
            Cause::WaitNotice => (
                Severity::Notice,
                SqlState::SUCCESSFUL_COMPLETION,
                "no server connection available, the query is waiting",
                "query_wait_notify",
                "All server connections of the pool are in use: see default_pool_size.",
            ),
            Cause::QueryWait => (
                Severity::Error,
                SqlState::TOO_MANY_CONNECTIONS,
                "query_wait_timeout",
                "query_wait_timeout",
                "All server connections of the pool are in use: see default_pool_size.",
            ),
            Cause::QueryTime => (
                fatal,
                SqlState::QUERY_CANCELED,
                "canceling statement due to query_timeout",
                "query_timeout",
                "",
            ),
            Cause::IdleInTransaction => (
                fatal,
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "terminating connection due to idle_transaction_timeout",
                "idle_transaction_timeout",
                "",
            ),
            Cause::TransactionTime => (
                fatal,
                SqlState::TRANSACTION_TIMEOUT,
                "terminating connection due to transaction_timeout",
                "transaction_timeout",
                "",
            ),
            Cause::ClientIdle => (
                fatal,
                SqlState::IDLE_SESSION_TIMEOUT,
                "terminating connection due to client_idle_timeout",
                "client_idle_timeout",
                "",
            ),
            Cause::Killed => (
                fatal,
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command",
                "",
                "",
            ),
            Cause::Shutdown => (
                fatal,
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection because the pooler is shutting down",
                "",
                "Connect again.",
            ),
            Cause::Superseded => (
                fatal,
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection because its server connection is replaced",
                "",
                "Connect again. The setting server_fast_close decides this.",
            ),
            Cause::Deposed => (
                fatal,
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection because its server is not the primary any more",
                "",
                "Connect again. SHOW REPLICAS in the console tells which server is.",
            ),
            Cause::TransactionInStatementMode => (
                fatal,
                SqlState::FEATURE_NOT_SUPPORTED,
                "transaction blocks are not allowed in statement pooling mode",
                "",
                "The setting pool_mode decides this.",
            ),
        };
        let detail = match setting {
            "" => String::new(),
            setting => format!("{setting} is {limit:?}."),
        };
        Self {
            severity,
            sqlstate,
            message: message.into(),
            detail,
            hint,
        }
    }

    /// A client waits, or has waited too long, for a server of this pool.
    pub fn wait(cause: Cause, limit: Duration, pool: &Pool) -> Self {
        let failure = Self::timeout(cause, limit);
        match pool.is_paused() {
            true => Self {
                hint: "PAUSE holds the database; RESUME in the console lets it go.",
                ..failure
            },
            false => failure,
        }
    }

    /// DISABLE keeps clients from this database.
    pub fn disabled(database: &str) -> Self {
        Self {
            severity: Severity::Fatal,
            sqlstate: SqlState::CANNOT_CONNECT_NOW,
            message: format!("database \"{database}\" is disabled").into(),
            detail: String::new(),
            hint: "ENABLE in the console opens it.",
        }
    }

    /// There are as many clients as `setting` allows.
    pub fn too_many(setting: &'static str, limit: usize) -> Self {
        Self {
            severity: Severity::Fatal,
            sqlstate: SqlState::TOO_MANY_CONNECTIONS,
            message: format!("no more connections allowed ({setting})").into(),
            detail: format!("{setting} is {limit}."),
            hint: "",
        }
    }

    /// The client has broken the protocol.
    pub fn violation(violation: &Violation) -> Self {
        let (sqlstate, hint) = match violation {
            Violation::StatementTooLong { .. } => (
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                "Send it as a simple query, or with the unnamed statement.",
            ),
            Violation::Frame(FrameError::TooLong { .. }) => (SqlState::PROGRAM_LIMIT_EXCEEDED, ""),
            _ => (SqlState::PROTOCOL_VIOLATION, ""),
        };
        Self {
            severity: Severity::Fatal,
            sqlstate,
            message: violation.to_string().into(),
            detail: String::new(),
            hint,
        }
    }

    /// The client gets no server.
    pub fn checkout(error: &CheckoutError) -> Self {
        let (sqlstate, detail, hint) = match error {
            CheckoutError::Canceled => (SqlState::QUERY_CANCELED, String::new(), ""),
            CheckoutError::Shutdown => (SqlState::ADMIN_SHUTDOWN, String::new(), ""),
            CheckoutError::Timeout(_) => (SqlState::TOO_MANY_CONNECTIONS, String::new(), ""),
            CheckoutError::Connect(connect) => {
                if let ConnectFailure::Refused(refusal) = &connect.failure {
                    let message = match refusal.text.as_str() {
                        "" => "the server refused the connection without saying why",
                        text => text,
                    };
                    return Self {
                        severity: Severity::Error,
                        sqlstate: connect.sqlstate(),
                        message: message.to_owned().into(),
                        detail: format!("{connect}."),
                        hint: "",
                    };
                }
                (
                    SqlState::CANNOT_CONNECT_NOW,
                    format!("{}.", describe(&connect.failure)),
                    "server_login_retry decides how often it is tried again.",
                )
            }
        };
        let message = error.to_string().into();
        Self {
            severity: Severity::Error,
            sqlstate,
            message,
            detail,
            hint,
        }
    }

    /// A login cannot be completed, because a server does not take the client's settings.
    pub fn login(pool: &Pool, error: &RecoverError) -> Self {
        let refused = match error {
            RecoverError::Fault(ServerFault::SettingsRefused(body)) => {
                Some(ErrorFields::read(body))
            }
            _ => None,
        };
        let what = match refused {
            Some(fields) => words(fields.message),
            None => "cannot apply the settings of the startup packet".to_owned(),
        };
        Self {
            severity: Severity::Fatal,
            sqlstate: refused
                .and_then(|fields| fields.sqlstate)
                .unwrap_or(SqlState::CONNECTION_FAILURE),
            message: what.into(),
            detail: format!("Server of pool {}: {}.", pool.name, describe(error)),
            hint: "",
        }
    }

    /// No server can have what the client asks.
    pub fn nobody(nobody: Nobody) -> Self {
        let (message, detail) = match nobody {
            Nobody::Primary(limit) => (
                "no server of this database takes writes at present",
                format!("primary_wait_timeout is {limit:?}."),
            ),
            Nobody::Replica => (
                "no replica can serve this statement",
                "The route, or primary_reads, asks for a replica.".to_owned(),
            ),
            Nobody::Token => (
                "the primary does not tell its position, so there is no token",
                "It was waited for as long as lag_wait_timeout allows.".to_owned(),
            ),
        };
        Self {
            severity: Severity::Error,
            sqlstate: SqlState::CANNOT_CONNECT_NOW,
            message: message.into(),
            detail,
            hint: "SHOW REPLICAS in the console tells what each server was seen to be.",
        }
    }

    /// The operating system failed us.
    pub fn io(error: &io::Error) -> Self {
        Self {
            severity: Severity::Error,
            sqlstate: SqlState::INTERNAL_ERROR,
            message: "operating system error".into(),
            detail: format!("{error}."),
            hint: "",
        }
    }

    /// The server's connection broke.
    pub fn server_lost(client: &ClientRecord, error: Option<&io::Error>) -> Self {
        let reason = error.map_or_else(|| "it closed the connection".into(), io::Error::to_string);
        Self {
            severity: Severity::Error,
            sqlstate: SqlState::CONNECTION_FAILURE,
            message: "server connection was lost".into(),
            detail: format!(
                "Server of database \"{}\": {reason}.",
                client.pool.name.database
            ),
            hint: "",
        }
    }

    /// The server's connection cannot be used any longer.
    pub fn server_fault(
        client: &ClientRecord,
        server: Option<&Server>,
        fault: &ServerFault,
    ) -> Self {
        let whence = server.map_or_else(String::new, |server| {
            let record = &server.record;
            format!(
                "Server {}:{}, process {}",
                record.host, record.port, record.process_id
            )
        });
        match fault {
            ServerFault::Fatal(body) | ServerFault::SettingsRefused(body) => {
                let fields = ErrorFields::read(body);
                let what = match fault {
                    ServerFault::Fatal(_) => "closed the connection",
                    _ => "refused the settings of the session, and nothing was executed",
                };
                Self {
                    severity: Severity::Error,
                    sqlstate: fields.sqlstate.unwrap_or(SqlState::CONNECTION_FAILURE),
                    message: words(fields.message).into(),
                    detail: format!("{whence} {what}."),
                    hint: "",
                }
            }
            ServerFault::Frame(error @ FrameError::TooLong { .. }) => Self {
                severity: Severity::Error,
                sqlstate: SqlState::PROGRAM_LIMIT_EXCEEDED,
                message: "message of the server is too long (max_packet_size)".into(),
                detail: format!("{whence}: {error}."),
                hint: "",
            },
            _ => Self {
                severity: Severity::Error,
                sqlstate: SqlState::PROTOCOL_VIOLATION,
                message: "server connection was closed".into(),
                detail: format!("{whence}, user \"{}\": {fault}.", client.pool.name.user),
                hint: "",
            },
        }
    }

    /// As it goes over the wire.
    pub fn report(&self) -> Report<'_> {
        Report {
            severity: self.severity,
            sqlstate: self.sqlstate,
            message: &self.message,
            detail: &self.detail,
            hint: self.hint,
        }
    }

    /// The last message of a session.
    pub fn farewell(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode::report(
            &mut out,
            &Report {
                severity: Severity::Fatal,
                ..self.report()
            },
        );
        out
    }

    /// As a NoticeResponse.
    pub fn notice(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode::report(
            &mut out,
            &Report {
                severity: Severity::Notice,
                ..self.report()
            },
        );
        out
    }

    /// Logs that the client is told this.
    pub fn log(&self, client: &ClientRecord) {
        tracing::info!(
            client = client.id,
            pool = %client.pool.name,
            sqlstate = %self.sqlstate,
            detail = self.detail,
            "{}",
            self.message
        );
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.sqlstate)
    }
}

/// A server's words, whatever their encoding.
fn words(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}
