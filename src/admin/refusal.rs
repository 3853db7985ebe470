//! Why the console does not do what it was asked.

use crate::protocol::{
    SqlState,
    encode::{self, Report, Severity},
};

/// How much of an unknown command is repeated, in bytes.
const LONGEST_ECHO: usize = 512;

/// An ErrorResponse of the console.
///
/// PgBouncer sends SQLSTATE 08P01 with every one, and tools know a console by it (pgcli).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    sqlstate: SqlState,
    message: String,
    detail: String,
}

impl Refusal {
    /// With PgBouncer's code for everything.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            sqlstate: SqlState::PROTOCOL_VIOLATION,
            message: message.into(),
            detail: String::new(),
        }
    }

    /// There is no such command.
    pub(super) fn unknown(text: &str) -> Self {
        let end = text.floor_char_boundary(LONGEST_ECHO);
        Self::new(format!(
            "invalid command '{}', use SHOW HELP;",
            &text[..end]
        ))
    }

    /// With another code.
    pub(super) fn coded(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self {
            sqlstate,
            ..Self::new(message)
        }
    }

    /// The command was cancelled.
    pub(super) fn canceled() -> Self {
        let message = "canceling statement due to user request";
        Self::coded(SqlState::QUERY_CANCELED, message)
    }

    /// What is behind it.
    pub(super) fn with_detail(self, detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            ..self
        }
    }

    /// As an error after which the connection goes on.
    pub(super) fn report(&self, out: &mut Vec<u8>) {
        self.encode(out, Severity::Error);
    }

    /// As the last message of the connection.
    pub(super) fn farewell(&self, out: &mut Vec<u8>) {
        self.encode(out, Severity::Fatal);
    }

    fn encode(&self, out: &mut Vec<u8>, severity: Severity) {
        let report = Report {
            severity,
            sqlstate: self.sqlstate,
            message: &self.message,
            detail: &self.detail,
            hint: "",
        };
        encode::report(out, &report);
    }
}
