//! The set of effects that a text may have on the session that runs it.

use std::ops::{BitOr, BitOrAssign};

/// What a text may do to the state of the server session that runs it, as a set.
///
/// May name an effect that does not happen (that costs a look at the server); never misses one that the text itself
/// causes. What a trigger, view or rule does behind the text is not seen here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Effects(u32);

macro_rules! effects {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl Effects {
            /// No effect.
            pub const NONE: Self = Self(0);
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
        }

        impl std::fmt::Debug for Effects {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut set = f.debug_set();
                $(if self.contains(Self::$name) {
                    set.entry(&format_args!(stringify!($name)));
                })*
                set.finish()
            }
        }
    };
}

effects! {
    /// SET, RESET, SET SESSION CHARACTERISTICS for the session (not SET LOCAL, not SET TRANSACTION).
    SETS = 0;
    /// SET LOCAL: gone at the end of the transaction.
    SETS_LOCAL = 1;
    /// set_config(), for the session unless its third argument was seen to be true.
    SET_CONFIG = 2;
    /// SET/RESET ROLE, SET/RESET SESSION AUTHORIZATION, in any spelling.
    SET_ROLE = 3;
    /// LISTEN.
    LISTEN = 4;
    /// UNLISTEN.
    UNLISTEN = 5;
    /// A session-level advisory lock may be taken (not the transaction-level ones).
    ADVISORY_LOCK = 6;
    /// A session-level advisory lock may be given back.
    ADVISORY_UNLOCK = 7;
    /// A temporary table, view, sequence, function or replication slot may come to be.
    TEMP_OBJECT = 8;
    /// DECLARE … WITH HOLD.
    HOLD_CURSOR = 9;
    /// CLOSE.
    CLOSE_CURSOR = 10;
    /// PREPARE name AS ….
    PREPARE = 11;
    /// EXECUTE, also inside EXPLAIN and CREATE TABLE AS.
    EXECUTE = 12;
    /// DEALLOCATE.
    DEALLOCATE = 13;
    /// DISCARD.
    DISCARD = 14;
    /// LOAD.
    LOAD = 15;
    /// nextval or setval, which give the session something to ask for with currval and lastval.
    SEQUENCE_USED = 16;
    /// currval or lastval, which ask for what an earlier nextval left in this session.
    SEQUENCE_STATE = 17;
    /// setseed.
    SETSEED = 18;
    /// DO, CALL, a function that runs SQL from a string, and built-ins with session state of their own: anything.
    OPAQUE = 19;
    /// A call of a function that is no built-in: whatever its body does.
    UNKNOWN_FUNCTION = 20;
    /// The schema may change.
    DDL = 21;
    /// Objects may vanish (DROP).
    DROP = 22;
    /// A cursor is declared, fetched from or moved.
    CURSOR = 23;
    /// Contains transaction control, so that a later statement may run in another transaction than an earlier one.
    TRANSACTION = 24;
    /// The text could not be understood: anything.
    UNKNOWN = 25;
    /// Transactions to come may be serializable: `default_transaction_isolation` is set or reset, in any spelling.
    SETS_ISOLATION = 26;
}

impl Effects {
    /// Are all effects of `other` in this set?
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is any effect of `other` in this set?
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Nothing at all?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Both together, where `|` cannot be used.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOr for Effects {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.with(other);
    }
}
