//! The vocabulary: what one look at a query string tells the pooler and the router.
//!
//! Values only. How they are found is told in [`super::statement`] and its neighbours.

use std::ops::Range;

use super::effects::Effects;

/// A range of bytes of the classified text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset behind the last byte.
    pub end: u32,
}

impl Span {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "texts are shorter than 4 GiB"
    )]
    pub(super) const fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    /// As a range, for slicing the text.
    pub const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The bytes themselves. `text` must be the text that was classified.
    pub fn of(self, text: &[u8]) -> &[u8] {
        &text[self.range()]
    }
}

/// What a query string is, for whoever must choose a server for it.
///
/// A string of several statements has the class that they share, if that is Read, Set or Session; else it is
/// [`Class::Write`], and [`Class::Unknown`] as soon as one of them is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// No statement: blanks and comments only.
    Empty,
    /// Proved to change nothing and to answer alike on every server that holds the same data.
    Read,
    /// May change something, or may answer differently elsewhere; [`Facts::reason`] says which.
    Write,
    /// Opens a transaction block: see [`TxControl::Begin`].
    Begin,
    /// Any other statement that controls transactions: COMMIT, SAVEPOINT, SET TRANSACTION … (`PREPARE TRANSACTION` and
    /// its kin are here too).
    Transaction,
    /// SET, RESET: changes a setting of the session or transaction and nothing else.
    Set,
    /// EXECUTE of a prepared statement, alone or under EXPLAIN: as harmless as the statement it names.
    Execute,
    /// Concerns the server connection, not the data: LISTEN, cursors, PREPARE, DEALLOCATE, DISCARD, LOAD.
    Session,
    /// Cannot be told; must be treated as anything at all.
    Unknown,
}

impl Class {
    /// A stable name for the console.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Read => "read",
            Self::Write => "write",
            Self::Begin => "begin",
            Self::Transaction => "transaction",
            Self::Set => "set",
            Self::Execute => "execute",
            Self::Session => "session",
            Self::Unknown => "unknown",
        }
    }
}

/// Defines [`Reason`] with one stable name per variant; what is documented here is what people are told.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal,)+) => {
        /// Why a string got its class.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// All of them, in the order of their discriminants.
            pub const ALL: [Self; [$(Self::$name),+].len()] = [$(Self::$name),+];

            /// A stable name for metrics and the console.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// What it means.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Every statement is a proved read.
    ProvedRead = "proved_read",
    /// There is no statement.
    NoStatement = "no_statement",
    /// INSERT, UPDATE, DELETE, MERGE, TRUNCATE, COPY … FROM.
    DataModifying = "data_modifying",
    /// `WITH x AS (INSERT …)`.
    DataModifyingCte = "data_modifying_cte",
    /// `SELECT … INTO table`.
    SelectInto = "select_into",
    /// FOR UPDATE, FOR NO KEY UPDATE, FOR SHARE, FOR KEY SHARE.
    LockingClause = "locking_clause",
    /// CREATE, ALTER, DROP, GRANT and the like.
    DataDefinition = "data_definition",
    /// VACUUM, ANALYZE, CHECKPOINT and the like; LOCK; NOTIFY; REFRESH.
    ServerCommand = "server_command",
    /// COPY to or from a file or program of the server.
    ServerFile = "server_file",
    /// CALL and DO: the text of the statement does not show what is done.
    Procedure = "procedure",
    /// A built-in function that writes, or acts on the server.
    VolatileFunction = "volatile_function",
    /// nextval, setval, currval, lastval.
    SequenceFunction = "sequence_function",
    /// Any `pg_advisory_*` function: a lock on a replica excludes nobody.
    AdvisoryLock = "advisory_lock",
    /// `lo_*` functions.
    LargeObject = "large_object",
    /// A function that assigns or inspects transaction ids, or exports a snapshot.
    TransactionId = "transaction_id",
    /// A function or relation that answers for this very server or session (pg_is_in_recovery, pg_stat_activity).
    ServerLocal = "server_local",
    /// A function that runs SQL given to it as a string (query_to_xml).
    SqlInString = "sql_in_string",
    /// set_config, setseed.
    SessionFunction = "session_function",
    /// A function that nothing is known about.
    UnknownFunction = "unknown_function",
    /// A function that the catalogue knows to be volatile.
    CatalogueFunction = "catalogue_function",
    /// A relation, type or operator that the catalogue knows a standby cannot serve or a read may write through.
    CatalogueObject = "catalogue_object",
    /// A name is written with escapes (`U&"…"`), so what it names is not seen.
    EscapedName = "escaped_name",
    /// A temporary relation, by `pg_temp`.
    TemporaryRelation = "temporary_relation",
    /// Transaction control.
    TransactionControl = "transaction_control",
    /// SET, RESET.
    Setting = "setting",
    /// A prepared statement is executed.
    PreparedStatement = "prepared_statement",
    /// The server connection is concerned.
    SessionStatement = "session_statement",
    /// Several statements that do not share a class.
    MixedStatements = "mixed_statements",
    /// A string, comment or quoted name does not end.
    Unterminated = "unterminated",
    /// No version of PostgreSQL accepts this text.
    Malformed = "malformed",
    /// The first word begins no known statement.
    UnknownStatement = "unknown_statement",
    /// Longer than 64 KiB.
    TooLong = "too_long",
    /// `standard_conforming_strings` is off and a plain string holds a backslash.
    BackslashInString = "backslash_in_string",
    /// A replica has refused this very text before.
    RefusedByReplica = "refused_by_replica",
    /// The client encoding has bytes that look like ASCII inside characters, and the text is not pure ASCII.
    UnsafeEncoding = "unsafe_encoding",
}

/// Isolation levels as they are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Isolation {
    /// READ UNCOMMITTED (PostgreSQL treats it as READ COMMITTED).
    ReadUncommitted,
    /// READ COMMITTED
    ReadCommitted,
    /// REPEATABLE READ
    RepeatableRead,
    /// SERIALIZABLE, which a standby refuses.
    Serializable,
}

/// The modes a statement names; `None` where it is silent. Of a mode named twice the last one counts, as in PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TxModes {
    /// READ ONLY (true) or READ WRITE (false).
    pub read_only: Option<bool>,
    /// ISOLATION LEVEL.
    pub isolation: Option<Isolation>,
    /// DEFERRABLE or NOT DEFERRABLE.
    pub deferrable: Option<bool>,
}

/// Transaction control, whatever its spelling.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TxControl {
    /// BEGIN, START TRANSACTION.
    Begin(TxModes),
    /// COMMIT, END; `chain`: AND CHAIN.
    Commit {
        /// AND CHAIN: a new transaction begins at once.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN: a new transaction begins at once.
        chain: bool,
    },
    /// SAVEPOINT name.
    Savepoint {
        /// The name as written.
        name: Span,
    },
    /// ROLLBACK TO name.
    RollbackTo {
        /// The name as written.
        name: Span,
    },
    /// RELEASE name.
    Release {
        /// The name as written.
        name: Span,
    },
    /// PREPARE TRANSACTION.
    PrepareTransaction,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ROLLBACK PREPARED.
    RollbackPrepared,
    /// SET TRANSACTION modes: for the current transaction.
    SetTransaction(TxModes),
    /// SET TRANSACTION SNAPSHOT.
    SetSnapshot,
    /// SET SESSION CHARACTERISTICS AS TRANSACTION modes: for transactions to come. `local`: only until the end of this
    /// one (`SET LOCAL SESSION CHARACTERISTICS …`).
    SetSessionCharacteristics {
        /// The modes.
        modes: TxModes,
        /// SET LOCAL.
        local: bool,
    },
}

/// How long a SET lasts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SetScope {
    /// SET, SET SESSION: until the session ends or the transaction rolls back.
    Session,
    /// SET LOCAL: until the transaction ends.
    Local,
}

/// Which parameter a SET, RESET or SHOW means.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Parameter {
    /// By its name, as written: `work_mem`, `"TimeZone"`, `app.user_id`.
    Named(Span),
    /// `TIME ZONE`
    TimeZone,
    /// `NAMES`
    ClientEncoding,
    /// `SCHEMA`
    SearchPath,
    /// `ROLE`
    Role,
    /// `SESSION AUTHORIZATION`
    SessionAuthorization,
    /// `XML OPTION`
    XmlOption,
    /// `TRANSACTION ISOLATION LEVEL` (RESET and SHOW only)
    TransactionIsolation,
}

/// What DISCARD discards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Discard {
    /// ALL
    All,
    /// PLANS
    Plans,
    /// SEQUENCES
    Sequences,
    /// TEMP, TEMPORARY
    Temp,
}

/// The places of a statement that a pooler may have to read or rewrite. Spans of names are as written; see
/// [`super::fold_name`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Detail {
    /// Nothing of interest, or several statements.
    None,
    /// `PREPARE name [(types)] AS body`.
    Prepare {
        /// The statement's name.
        name: Span,
        /// From its first word to the end of the statement, without a closing semicolon.
        body: Span,
    },
    /// EXECUTE name, EXPLAIN … EXECUTE name, CREATE TABLE … AS EXECUTE name.
    Execute {
        /// The statement's name.
        name: Span,
    },
    /// `DEALLOCATE [PREPARE] name | ALL`.
    Deallocate {
        /// `None` for ALL.
        name: Option<Span>,
    },
    /// SET parameter = value.
    Set {
        /// For the session or the transaction.
        scope: SetScope,
        /// What is set.
        parameter: Parameter,
        /// The value as written, with its quotes and commas; `None` for DEFAULT.
        value: Option<Span>,
    },
    /// RESET parameter | ALL.
    Reset {
        /// `None` for ALL.
        parameter: Option<Parameter>,
    },
    /// SHOW parameter | ALL.
    Show {
        /// `None` for ALL.
        parameter: Option<Parameter>,
    },
    /// The only set_config() of the statement.
    SetConfig {
        /// The first argument, if it is a plain string literal, with its quotes.
        name: Option<Span>,
        /// The second argument, likewise.
        value: Option<Span>,
        /// The third argument, if it is the word TRUE or FALSE.
        local: Option<bool>,
    },
    /// LISTEN channel.
    Listen {
        /// The channel's name.
        channel: Span,
    },
    /// UNLISTEN channel | *.
    Unlisten {
        /// `None` for `*`.
        channel: Option<Span>,
    },
    /// DECLARE name … CURSOR.
    Declare {
        /// The cursor's name.
        name: Span,
        /// WITH HOLD.
        hold: bool,
        /// The query behind FOR.
        query: Span,
    },
    /// CLOSE name | ALL.
    Close {
        /// `None` for ALL.
        name: Option<Span>,
    },
    /// DISCARD.
    Discard(Discard),
    /// COPY … FROM STDIN: the client will send data.
    CopyIn,
    /// COPY … TO STDOUT.
    CopyOut,
}

/// Everything that one look at a query string tells.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Facts {
    /// What it is.
    pub class: Class,
    /// Why.
    pub reason: Reason,
    /// The bytes that decided: a function's name, a locking clause. Empty where no single place did.
    pub evidence: Span,
    /// What it may do to the server session.
    pub effects: Effects,
    /// Statements in the text; empty ones are not counted.
    pub statements: u32,
    /// Transaction control, if that is what the *first* statement is.
    pub transaction: Option<TxControl>,
    /// Places of interest, if there is exactly one statement.
    pub detail: Detail,
    /// The text holds a comment; hints live in comments.
    pub comment: bool,
}
