//! SQLSTATE codes (manual, appendix "PostgreSQL Error Codes").

use std::fmt;

/// A five-character error code.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

macro_rules! states {
    ($($name:ident = $code:literal),+ $(,)?) => {
        #[expect(missing_docs, reason = "the condition names of the manual's appendix")]
        impl SqlState { $(pub const $name: Self = Self(*$code);)+ }
    };
}

states! {
    SUCCESSFUL_COMPLETION = b"00000",
    CONNECTION_FAILURE = b"08006",
    SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION = b"08001",
    PROTOCOL_VIOLATION = b"08P01",
    FEATURE_NOT_SUPPORTED = b"0A000",
    READ_ONLY_SQL_TRANSACTION = b"25006",
    IN_FAILED_SQL_TRANSACTION = b"25P02",
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = b"25P03",
    TRANSACTION_TIMEOUT = b"25P04",
    INVALID_SQL_STATEMENT_NAME = b"26000",
    INVALID_CURSOR_NAME = b"34000",
    INVALID_AUTHORIZATION_SPECIFICATION = b"28000",
    INVALID_PASSWORD = b"28P01",
    INVALID_CATALOG_NAME = b"3D000",
    SERIALIZATION_FAILURE = b"40001",
    DEADLOCK_DETECTED = b"40P01",
    SYNTAX_ERROR = b"42601",
    INSUFFICIENT_PRIVILEGE = b"42501",
    UNDEFINED_OBJECT = b"42704",
    DUPLICATE_PREPARED_STATEMENT = b"42P05",
    INVALID_PARAMETER_VALUE = b"22023",
    TOO_MANY_CONNECTIONS = b"53300",
    CONFIGURATION_LIMIT_EXCEEDED = b"53400",
    PROGRAM_LIMIT_EXCEEDED = b"54000",
    OBJECT_NOT_IN_PREREQUISITE_STATE = b"55000",
    QUERY_CANCELED = b"57014",
    ADMIN_SHUTDOWN = b"57P01",
    CRASH_SHUTDOWN = b"57P02",
    CANNOT_CONNECT_NOW = b"57P03",
    IDLE_SESSION_TIMEOUT = b"57P05",
    CONFIG_FILE_ERROR = b"F0000",
    INTERNAL_ERROR = b"XX000",
}

impl SqlState {
    /// A code as received, if it is five printable ASCII characters.
    pub fn from_bytes(code: &[u8]) -> Option<Self> {
        let code: [u8; 5] = code.try_into().ok()?;
        code.iter()
            .all(u8::is_ascii_alphanumeric)
            .then_some(Self(code))
    }

    /// Whether the server was told to, rather than what was asked of it was wrong: class 57.
    pub fn is_operator_intervention(self) -> bool {
        self.0.starts_with(b"57")
    }

    /// Whether a standby says so of what only a primary does: writing, and what needs it to be over with
    /// recovery (measured; `read_only_sql_transaction`, `feature_not_supported` for unlogged tables and
    /// SERIALIZABLE, `object_not_in_prerequisite_state` for functions of the primary).
    pub fn is_refusal_of_standby(self) -> bool {
        [
            Self::READ_ONLY_SQL_TRANSACTION,
            Self::FEATURE_NOT_SUPPORTED,
            Self::OBJECT_NOT_IN_PREREQUISITE_STATE,
        ]
        .contains(&self)
    }

    /// Whether a standby has cancelled a query because what it replays gets in its way (manual,
    /// "Handling Query Conflicts").
    pub fn is_conflict_with_recovery(self) -> bool {
        [Self::SERIALIZATION_FAILURE, Self::DEADLOCK_DETECTED].contains(&self)
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("checked to be ASCII when made")
    }

    /// The first two characters: the class of the condition.
    pub fn class(&self) -> &str {
        &self.as_str()[..2]
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
