//! Why a unit of work went where it went: counted, and shown by the console.

use crate::sql;

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// What the statement is: a read to a replica, anything else to the primary.
    Statement(sql::Reason),
    /// A transaction that only reads.
    ReadOnlyTransaction,
    /// A comment of the statement says so.
    Hint,
    /// `route` says so: of the session, the user or the database.
    Route,
    /// `consistency = "primary"`.
    Consistency,
    /// `primary_reads = "always"`.
    PrimaryReads,
    /// No replica has replayed what the session wrote.
    OwnWrites,
    /// No replica has replayed what the session has seen elsewhere.
    Monotonic,
    /// No replica has replayed to the moment at which the read was asked.
    Strong,
    /// No replica has replayed to the session's token.
    Token,
    /// It wrote less than `pin_after_write` ago.
    PinAfterWrite,
    /// No replica serves reads.
    NoReplica,
    /// A replica refused or cancelled it, or died before its first row.
    Rerun,
    /// A message too long to be looked at, or a FunctionCall.
    Unseen,
}

/// Those that are not a statement's, in the order of their indices.
const OTHERS: [(Reason, &str); 13] = [
    (Reason::ReadOnlyTransaction, "read_only_transaction"),
    (Reason::Hint, "hint"),
    (Reason::Route, "route_setting"),
    (Reason::Consistency, "consistency_primary"),
    (Reason::PrimaryReads, "primary_reads"),
    (Reason::OwnWrites, "own_writes"),
    (Reason::Monotonic, "monotonic"),
    (Reason::Strong, "strong"),
    (Reason::Token, "token"),
    (Reason::PinAfterWrite, "pin_after_write"),
    (Reason::NoReplica, "no_replica"),
    (Reason::Rerun, "rerun"),
    (Reason::Unseen, "unseen"),
];

impl Reason {
    /// How many there are.
    pub const COUNT: usize = sql::Reason::ALL.len() + OTHERS.len();

    /// Its place among all of them, below [`Reason::COUNT`].
    #[inline]
    pub fn index(self) -> usize {
        match self {
            Self::Statement(reason) => reason as usize,
            other => {
                let place = OTHERS.iter().position(|(reason, _)| *reason == other);
                sql::Reason::ALL.len() + place.unwrap_or(0)
            }
        }
    }

    /// All of them, by index.
    pub fn all() -> impl Iterator<Item = Self> {
        let statements = sql::Reason::ALL.into_iter().map(Self::Statement);
        statements.chain(OTHERS.into_iter().map(|(reason, _)| reason))
    }

    /// A stable name for metrics and the console.
    pub fn code(self) -> &'static str {
        match self {
            Self::Statement(reason) => reason.code(),
            other => {
                let known = OTHERS.iter().find(|(reason, _)| *reason == other);
                known.map_or("", |(_, code)| code)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_and_a_name_of_its_own() {
        let all: Vec<_> = Reason::all().collect();
        assert_eq!(all.len(), Reason::COUNT);
        let mut codes = std::collections::HashSet::new();
        for (index, reason) in all.into_iter().enumerate() {
            assert_eq!(reason.index(), index, "{reason:?}");
            assert!(codes.insert(reason.code()), "{reason:?}");
        }
    }
}
