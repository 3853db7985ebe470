//! Statements that are not let through, and what their client is told instead.
//!
//! The server gets something that fails in the place of such a statement, and the client our words
//! in the place of that failure: so a transaction is aborted, and the rest of a batch ignored, as
//! after any error, whatever the server's state was when the statement arrived.

use super::{
    Outbox, ServerState, Session,
    expected::{Disposition, Expected, Request},
    unit::Place,
};
use crate::{
    protocol::{
        SqlState, encode,
        encode::{Report, Severity},
    },
    sql::{
        Detail, Effects, Facts, Reason,
        hint::{self, Own, OwnStatement},
    },
};

/// Why a statement is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `on_listen = "refuse"`.
    Listen,
    /// `on_advisory_lock = "refuse"`.
    AdvisoryLock,
    /// `on_temp_table = "refuse"`.
    TempTable,
    /// `on_hold_cursor = "refuse"`.
    HoldCursor,
    /// currval or lastval might answer with another client's value.
    Sequences,
    /// `SET pgweir.route` to what is no route.
    Route,
    /// `SET pgweir.consistency` to what is no such level.
    Consistency,
    /// `SET pgweir.…` of a setting that pgweir does not have.
    OwnSetting,
    /// An advisory lock in a read-only transaction on a replica: it would exclude nobody.
    LockOnReplica,
    /// A cursor WITH HOLD there: the session would be kept where it cannot write.
    CursorOnReplica,
}

/// The statement that the server is asked for instead; there is none of this name, ever.
const NAME: &[u8] = b"pgweir_refused";

impl Refusal {
    /// Those that are a setting's doing, with the effect that each is about.
    const BY_SETTING: [(Self, Effects); 4] = [
        (Self::Listen, Effects::LISTEN),
        (Self::AdvisoryLock, Effects::ADVISORY_LOCK),
        (Self::TempTable, Effects::TEMP_OBJECT),
        (Self::HoldCursor, Effects::HOLD_CURSOR),
    ];

    /// The effect of a statement that is refused for this reason.
    pub fn effect(self) -> Effects {
        let mut all = Self::BY_SETTING.into_iter();
        all.find(|(refusal, _)| *refusal == self)
            .map_or(Effects::SEQUENCE_STATE, |(_, effect)| effect)
    }

    /// What the client is told.
    pub fn report(self) -> Report<'static> {
        let mut sqlstate = SqlState::FEATURE_NOT_SUPPORTED;
        let (message, hint) = match self {
            Self::Listen => (
                "LISTEN is not allowed by this pooler (on_listen)",
                "The setting on_listen decides this.",
            ),
            Self::AdvisoryLock => (
                "session-level advisory locks are not allowed by this pooler (on_advisory_lock)",
                "Use pg_advisory_xact_lock. The setting on_advisory_lock decides this.",
            ),
            Self::TempTable => (
                "temporary objects are not allowed by this pooler (on_temp_table)",
                "Use ON COMMIT DROP in a transaction. The setting on_temp_table decides this.",
            ),
            Self::HoldCursor => (
                "cursors WITH HOLD are not allowed by this pooler (on_hold_cursor)",
                "The setting on_hold_cursor decides this.",
            ),
            Self::Route => {
                sqlstate = SqlState::INVALID_PARAMETER_VALUE;
                (
                    "invalid value for parameter \"pgweir.route\"",
                    "It is auto, primary or replica.",
                )
            }
            Self::Consistency => {
                sqlstate = SqlState::INVALID_PARAMETER_VALUE;
                (
                    "invalid value for parameter \"pgweir.consistency\"",
                    "It is eventual, session, strong or primary.",
                )
            }
            Self::OwnSetting => {
                sqlstate = SqlState::UNDEFINED_OBJECT;
                (
                    "unrecognized configuration parameter of pgweir",
                    "There are pgweir.route, pgweir.consistency, pgweir.key and pgweir.token.",
                )
            }
            Self::LockOnReplica => {
                sqlstate = SqlState::READ_ONLY_SQL_TRANSACTION;
                (
                    "cannot take an advisory lock in a read-only transaction that runs on a replica",
                    "A lock there would exclude nobody. SET pgweir.route = 'primary' keeps the \
                     transaction on the primary.",
                )
            }
            Self::CursorOnReplica => {
                sqlstate = SqlState::READ_ONLY_SQL_TRANSACTION;
                (
                    "cannot declare a cursor WITH HOLD in a read-only transaction that runs on a replica",
                    "It would keep the session on a server that takes no writes. SET pgweir.route = \
                     'primary' keeps the transaction on the primary.",
                )
            }
            Self::Sequences => {
                return Report {
                    severity: Severity::Error,
                    sqlstate: SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    message: "currval and lastval are not known in this transaction",
                    detail: "The server connection was used by other clients, whose values must not be seen.",
                    hint: "Run the transaction again.",
                };
            }
        };
        Report {
            severity: Severity::Error,
            sqlstate,
            message,
            detail: "",
            hint,
        }
    }
}

impl Session {
    /// With statements that are not let through from now on.
    pub fn refusing(mut self, refusals: impl IntoIterator<Item = Refusal>) -> Self {
        for refusal in refusals {
            self.refused |= refusal.effect();
        }
        self
    }

    /// Why a statement is not let through, if so.
    #[inline]
    pub(super) fn refusal_of_statement(&self, text: &[u8], facts: &Facts) -> Option<Refusal> {
        let is_about_own = matches!(facts.detail, Detail::Set { .. });
        let locks = facts.reason == Reason::AdvisoryLock;
        self.refusal(facts.effects)
            .or_else(|| self.refusal_on_replica(facts.effects, locks))
            .or_else(|| is_about_own.then(|| own_setting(text, facts))?)
    }

    /// Refuses what has no place on a replica: a lock would exclude nobody, and a cursor that outlives its
    /// transaction would keep the session there. Other units with these go to the primary, so this is about
    /// transactions that said that they only read.
    #[inline]
    pub(super) fn refusal_on_replica(&self, effects: Effects, locks: bool) -> Option<Refusal> {
        if !matches!(self.place, Place::Replica | Place::ReplicaForOne) {
            return None;
        }
        if locks || effects.contains(Effects::ADVISORY_LOCK) {
            return Some(Refusal::LockOnReplica);
        }
        let holds = effects.contains(Effects::HOLD_CURSOR);
        holds.then_some(Refusal::CursorOnReplica)
    }

    /// Why a statement with these effects is not let through, if so.
    #[inline]
    pub(super) fn refusal(&self, effects: Effects) -> Option<Refusal> {
        if !effects.intersects(self.refused) {
            return None;
        }
        Refusal::BY_SETTING
            .into_iter()
            .find(|(_, effect)| effects.intersects(*effect) && self.refused.intersects(*effect))
            .map(|(refusal, _)| refusal)
    }

    pub(super) fn refuse_query(
        &mut self,
        refusal: Refusal,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        let drops = self.drop_unnamed(server);
        encode::query(out.own(), &[b"EXECUTE ", NAME].concat());
        let query = Expected::new(Request::Query, Disposition::Refuse(refusal));
        server.pipeline.push_expected(query.revoking(drops));
    }

    pub(super) fn refuse_parse(
        &mut self,
        refusal: Refusal,
        is_unnamed: bool,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        let drops = if is_unnamed {
            self.drop_unnamed(server)
        } else {
            None
        };
        let name = if is_unnamed { b"" } else { NAME };
        encode::parse(out.own(), name, NAME, &[0, 0]);
        let parse = Expected::new(Request::Parse, Disposition::Refuse(refusal));
        server.pipeline.push_expected(parse.revoking(drops));
    }

    pub(super) fn refuse_bind(refusal: Refusal, server: &mut ServerState, out: &mut Outbox<'_>) {
        encode::bind_head(out.own(), b"", NAME, 6);
        out.own().extend_from_slice(&[0; 6]);
        let disposition = Disposition::Refuse(refusal);
        server.pipeline.push(Request::Bind, disposition);
    }
}

/// Why a SET of one of pgweir's own settings is not let through, if so: nobody else would notice that it
/// is misspelt.
#[cold]
fn own_setting(text: &[u8], facts: &Facts) -> Option<Refusal> {
    let Detail::Set { parameter, .. } = facts.detail else {
        return None;
    };
    let name = parameter.name(text);
    let is_own = name.get(..Own::PREFIX.len()) == Some(Own::PREFIX);
    match hint::own_statement(text, facts) {
        Some(OwnStatement::Set(own, Some(value))) => {
            let words = own.words()?;
            let is_word = words.iter().any(|word| word.as_bytes() == &*value);
            let refusal = if own == Own::Route {
                Refusal::Route
            } else {
                Refusal::Consistency
            };
            (!is_word).then_some(refusal)
        }
        Some(_) => None,
        None => is_own.then_some(Refusal::OwnSetting),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_refuses_its_own_effect_and_is_named() {
        for (refusal, effect) in Refusal::BY_SETTING {
            assert_eq!(refusal.effect(), effect);
            let report = refusal.report();
            assert_eq!(report.sqlstate, SqlState::FEATURE_NOT_SUPPORTED);
            assert!(report.message.contains("(on_") && report.hint.contains("setting on_"));
        }
    }
}
