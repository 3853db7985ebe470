//! Why a unit of work went where it went: counted, and shown by the console.

use crate::sql;

/// Defines [`Reason`]; what is documented here is what people are told.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal,)+) => {
        /// Why.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            /// What the statement is: a read to a replica, anything else to the primary.
            Statement(sql::Reason),
            $($(#[doc = $doc])+ $name,)+
        }

        /// Those that are not a statement's, in the order of their indices.
        const OTHERS: &[(Reason, &str, &str)] =
            &[$((Reason::$name, $code, concat!($($doc),+).trim_ascii()),)+];
    };
}

reasons! {
    /// A transaction that only reads.
    ReadOnlyTransaction = "read_only_transaction",
    /// A comment of the statement says so.
    Hint = "hint",
    /// `route` says so: of the session, the user or the database.
    Route = "route_setting",
    /// `consistency = "primary"`.
    Consistency = "consistency_primary",
    /// `primary_reads = "always"`.
    PrimaryReads = "primary_reads",
    /// No replica has replayed what the session wrote.
    OwnWrites = "own_writes",
    /// No replica has replayed what the session has seen elsewhere.
    Monotonic = "monotonic",
    /// No replica has replayed to the moment at which the read was asked.
    Strong = "strong",
    /// No replica has replayed to the session's token.
    Token = "token",
    /// It wrote less than `pin_after_write` ago.
    PinAfterWrite = "pin_after_write",
    /// No replica serves reads.
    NoReplica = "no_replica",
    /// A replica refused or cancelled it, or died before its first row.
    Rerun = "rerun",
    /// A message too long to be looked at, or a FunctionCall.
    Unseen = "unseen",
    /// `pool_mode = "session"`: a session has one server for all that it does.
    SessionMode = "session_mode",
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = sql::Reason::ALL.len() + OTHERS.len();

    /// Its place among all of them, below [`Reason::COUNT`].
    #[inline]
    pub fn index(self) -> usize {
        match self {
            Self::Statement(reason) => reason as usize,
            other => {
                let place = OTHERS.iter().position(|(reason, ..)| *reason == other);
                sql::Reason::ALL.len() + place.unwrap_or(0)
            }
        }
    }

    /// All of them, by index.
    pub fn all() -> impl Iterator<Item = Self> {
        let statements = sql::Reason::ALL.into_iter().map(Self::Statement);
        statements.chain(OTHERS.iter().map(|(reason, ..)| *reason))
    }

    /// A stable name for metrics and the console.
    pub fn code(self) -> &'static str {
        match self {
            Self::Statement(reason) => reason.code(),
            other => other.told().0,
        }
    }

    /// What it means.
    pub fn about(self) -> &'static str {
        match self {
            Self::Statement(reason) => reason.about(),
            other => other.told().1,
        }
    }

    /// Name and meaning of one that is not a statement's.
    fn told(self) -> (&'static str, &'static str) {
        let known = OTHERS.iter().find(|(reason, ..)| *reason == self);
        known.map_or_else(Default::default, |(_, code, about)| (*code, *about))
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
            let is_sentence = reason.about().ends_with('.') && !reason.about().contains("  ");
            assert!(is_sentence, "{reason:?}: {}", reason.about());
            // In the console nobody follows a link.
            assert!(!reason.about().contains("[`"), "{reason:?}");
        }
    }

    #[test]
    fn the_documented_tables_are_these() {
        let page = include_str!("../../docs/routing.md");
        let (_, page) = page.split_once("## Reasons").expect("a section of its own");
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let told = |reason: Reason| format!("| `{}` | {} |", reason.code(), reason.about());
        assert_eq!(
            rows.collect::<Vec<_>>(),
            Reason::all().map(told).collect::<Vec<_>>()
        );
    }
}
