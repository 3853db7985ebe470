//! Asking a server what session state it was left with.
//!
//! Whether a SET was rolled back, an advisory lock released or a temporary table dropped is known to
//! PostgreSQL and hard to derive from outside (savepoints, functions, `ON COMMIT DROP`). So nothing is
//! derived: text only tells that there *may* be state, and then one query at the end of the
//! transaction answers for all of it. What it reports is either tracked (settings) or pins.
//! (docs/adr/0004)

use crate::protocol::{Malformed, backend};

use super::settings::{Settings, append_literal};

/// Kinds of session state that keep a server with its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PinReason {
    /// Session-level advisory locks are held.
    AdvisoryLock,
    /// Temporary tables or other temporary objects exist.
    TemporaryObject,
    /// Cursors declared WITH HOLD are open.
    HoldCursor,
    /// Channels are listened on.
    Listen,
    /// Statements were prepared in a way that could not be followed.
    PreparedStatement,
    /// State that no query shows: LOAD, setseed, dblink connections.
    Opaque,
    /// The server could not be asked what state it has.
    Unproved,
}

impl PinReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::AdvisoryLock,
        Self::TemporaryObject,
        Self::HoldCursor,
        Self::Listen,
        Self::PreparedStatement,
        Self::Opaque,
        Self::Unproved,
    ];

    /// The stable name that the console and the metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdvisoryLock => "advisory_lock",
            Self::TemporaryObject => "temporary_object",
            Self::HoldCursor => "hold_cursor",
            Self::Listen => "listen",
            Self::PreparedStatement => "prepared_statement",
            Self::Opaque => "opaque",
            Self::Unproved => "unproved",
        }
    }

    fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

/// The reasons for which a server is kept with its client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u8);

impl Pins {
    /// None.
    pub const NONE: Self = Self(0);

    /// As one number, for those who pass it on.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// From such a number.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `reason` is among them.
    pub fn contains(self, reason: PinReason) -> bool {
        self.0 & reason.bit() != 0
    }

    /// Adds a reason.
    pub fn insert(&mut self, reason: PinReason) {
        self.0 |= reason.bit();
    }

    /// The reasons.
    pub fn iter(self) -> impl Iterator<Item = PinReason> {
        PinReason::ALL
            .into_iter()
            .filter(move |reason| self.contains(*reason))
    }
}

/// The text of the probe. `login_user` is whom the server connection logged in as; `custom` are the
/// names of settings that `pg_settings` may not list, because no extension has declared them; such a
/// setting is empty after its RESET, which is taken for not being set.
///
/// It runs under the client's `search_path`, in which the client may have operators of its own: so
/// operators are named with their schema, too. Everything in the temporary schema depends on it.
pub fn query<'a>(login_user: &[u8], custom: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut text = b"SELECT 's', name::pg_catalog.text, setting FROM pg_catalog.pg_settings \
          WHERE source OPERATOR(pg_catalog.=) 'session' \
        UNION ALL SELECT 's', 'role', r FROM pg_catalog.current_setting('role') r \
          WHERE r OPERATOR(pg_catalog.<>) 'none' \
        UNION ALL SELECT 's', 'session_authorization', u FROM \
          pg_catalog.current_setting('session_authorization') u WHERE u OPERATOR(pg_catalog.<>) "
        .to_vec();
    append_literal(&mut text, login_user);
    for name in custom {
        text.extend_from_slice(b" UNION ALL SELECT 's', ");
        append_literal(&mut text, name);
        text.extend_from_slice(b", c FROM pg_catalog.current_setting(");
        append_literal(&mut text, name);
        text.extend_from_slice(b", true) c WHERE c OPERATOR(pg_catalog.<>) ''");
    }
    text.extend_from_slice(
        b" UNION ALL SELECT 'l', '', '' FROM pg_catalog.pg_locks \
             WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
               AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() \
          UNION ALL SELECT 't', '', '' FROM pg_catalog.pg_depend \
             WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
               AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
          UNION ALL SELECT 't', '', '' FROM pg_catalog.pg_replication_slots \
             WHERE temporary AND active_pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() \
          UNION ALL SELECT 'h', '', '' FROM pg_catalog.pg_cursors WHERE is_holdable \
          UNION ALL SELECT 'n', '', '' FROM pg_catalog.pg_listening_channels() \
          UNION ALL SELECT 'p', '', '' FROM pg_catalog.pg_prepared_statements \
             WHERE pg_catalog.left(name, 7) OPERATOR(pg_catalog.<>) 'pgweir_' \
          UNION ALL SELECT 'o', name, '' FROM pg_catalog.pg_prepared_statements \
             WHERE from_sql AND pg_catalog.left(name, 7) OPERATOR(pg_catalog.=) 'pgweir_'",
    );
    text
}

/// What a probe has reported so far.
#[derive(Debug, Default)]
pub struct Findings {
    /// Settings of the session.
    pub settings: Settings,
    /// What pins.
    pub pins: Pins,
    /// Statements with names of ours that SQL has made: ours, or what a function has put in their place.
    pub made_by_sql: Vec<Box<[u8]>>,
    /// Bytes of all rows.
    size: usize,
}

/// Settings that are each transaction's own. `SET TRANSACTION` leaves them behind as if the session had set them, to what
/// they are without it; a transaction that has begun refuses to have them set.
const OF_TRANSACTIONS: [&[u8]; 3] = [
    b"transaction_deferrable",
    b"transaction_isolation",
    b"transaction_read_only",
];

/// Bytes of an answer that are kept: far above what as many settings as can be tracked, and a server full of
/// statements, come to. What says more than that has not said what state it has.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

impl Findings {
    /// Takes the DataRow `body`.
    pub fn add(&mut self, body: &[u8]) -> Result<(), Malformed> {
        self.size = self.size.saturating_add(body.len());
        if self.size > MAX_ANSWER {
            *self = Self {
                size: self.size,
                ..Self::default()
            };
            self.pins.insert(PinReason::Unproved);
            return Ok(());
        }
        let row = backend::data_row(body)?;
        let [Some([kind]), Some(name), value] = row[..] else {
            return Err(Malformed::UndefinedValue("probe row"));
        };
        let reason = match kind {
            b's' if OF_TRANSACTIONS.contains(&name) => return Ok(()),
            b's' => {
                self.settings.insert(name, value.unwrap_or_default());
                return Ok(());
            }
            b'o' => {
                self.made_by_sql.push(name.into());
                return Ok(());
            }
            b'l' => PinReason::AdvisoryLock,
            b't' => PinReason::TemporaryObject,
            b'h' => PinReason::HoldCursor,
            b'n' => PinReason::Listen,
            b'p' => PinReason::PreparedStatement,
            _ => return Err(Malformed::UndefinedValue("probe row")),
        };
        self.pins.insert(reason);
        Ok(())
    }
}

/// How far a server has been asked what state its client's last transaction left on it.
#[derive(Debug, Default)]
pub(super) enum StateCheck {
    /// There is nothing to ask.
    #[default]
    None,
    /// The probe is under way.
    Probing(Box<Findings>),
    /// What is known now has to be put right.
    Due {
        /// There may be settings that no probe can find, and all are to be reset.
        reset: bool,
        /// What the client has reset is to get its startup value, of which the client is to be told.
        restore: bool,
    },
    /// That is being done.
    Mending,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_an_end_is_not_kept() {
        let mut findings = Findings::default();
        for number in 0_u32..70_000 {
            let mut row = vec![0, 3, 0, 0, 0, 1, b's', 0, 0, 0, 4];
            row.extend_from_slice(&number.to_be_bytes());
            row.extend_from_slice(&[0, 0, 0, 200]);
            row.extend_from_slice(&[b'x'; 200]);
            findings.add(&row).expect("well-formed");
        }
        assert!(findings.settings.is_empty());
        assert!(findings.pins.contains(PinReason::Unproved));
    }
}
