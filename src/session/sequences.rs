//! What nextval leaves in a server's session for currval and lastval: never for another client.
//!
//! Whether a statement uses a sequence cannot be seen (a column's default does), so it is taken that
//! every client that had the server has left something. What others have left is discarded before the
//! client asks for it; and as that must come before the client's own use in the same transaction, it
//! comes, once anybody in this process has asked at all, before the first statement that may write.
//! A transaction that writes, and then asks for the first time, on a server on which it cannot be
//! told whose value that would be, gets an error.

use super::{
    Batch, HOLD_LIMIT, Outbox, ServerState, Session,
    effects::Runs,
    expected::{Disposition, Expected, OnBehalf, Request},
    refusal::Refusal,
    revoke::Revoke,
};
use crate::{
    protocol::{
        Frame, FrontendTag,
        backend::TransactionStatus,
        encode,
        frontend::{Bind, Parse},
    },
    sql::Effects,
};

use std::sync::atomic::Ordering;

/// Whose sequence values a server's session may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sequences {
    /// Nobody's.
    #[default]
    Nobodys,
    /// Those of the client with this number.
    Of(u64),
    /// Those of several clients, and the present one has added nothing yet.
    Others,
    /// Those of several clients, with what the present one may have added.
    Mixed,
}

impl Sequences {
    /// A client has got the server.
    #[inline]
    pub(super) fn attach(&mut self, client: u64) {
        *self = match *self {
            Self::Nobodys => Self::Of(client),
            Self::Of(same) if same == client => return,
            Self::Of(_) | Self::Others | Self::Mixed => Self::Others,
        };
    }
}

/// Whether a statement asks for sequence values, and whether it may do so; nothing, if it neither asks nor writes.
#[inline]
fn asking(runs: Runs) -> Option<(bool, bool)> {
    let asks = runs.effects.contains(Effects::SEQUENCE_STATE);
    // Nobody has looked at the text, so it may ask as well.
    let may_ask = asks || runs.effects.contains(Effects::UNKNOWN);
    (may_ask || runs.may_write).then_some((asks, may_ask))
}

const DISCARD: &[u8] = b"DISCARD SEQUENCES";

/// The statement, and portal, by which that is run.
const NAME: &[u8] = b"pgweir_sequences";

impl Session {
    /// Sees to it that a statement which is about to be sent finds no other client's values.
    #[inline]
    pub(super) fn guard_sequences(
        &self,
        runs: Runs,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), Refusal> {
        let Some(asking) = asking(runs) else {
            return Ok(());
        };
        self.guard(asking, server, out)
    }

    /// Whether others' values may have to be discarded, and it is not known if the transaction that this would be
    /// done in has failed: then what asks may be refused for another reason than the discarding would be.
    pub(super) fn awaits_status_for_sequences(server: &ServerState) -> bool {
        server.pipeline.is_status_open()
            && matches!(server.sequences, Sequences::Others | Sequences::Mixed)
    }

    /// Whether a message may have others' values discarded before it. A Query is refused as the discarding is.
    pub(super) fn may_discard_sequences(&self, frame: &Frame<'_, FrontendTag>) -> bool {
        let runs = match frame.tag {
            FrontendTag::Bind => Bind::read(frame.body()).map(|bind| {
                let statement = self.statements.named(bind.statement);
                self.runs_of(bind.statement, statement.map(AsRef::as_ref))
            }),
            FrontendTag::Parse if self.batch.may_follow_ours() && frame.size <= HOLD_LIMIT => {
                Parse::read(frame.body()).map(|parse| Runs::from(&self.look(parse.text)))
            }
            _ => return false,
        };
        runs.is_ok_and(|runs| asking(runs).is_some())
    }

    /// The same for a statement with whose Parse a batch begins: what others have left is discarded before the batch, since
    /// VACUUM and its like refuse to run behind anything else in theirs.
    pub(super) fn guard_sequences_of_batch(
        &self,
        runs: Runs,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        let Some((asks, may_ask)) = asking(runs).filter(|_| self.batch.may_follow_ours()) else {
            return;
        };
        let is_asked_for = self
            .interners
            .sequences_are_asked_for
            .load(Ordering::Relaxed);
        if server.sequences == Sequences::Others && (may_ask || is_asked_for) {
            let guarded = self.guard((asks, may_ask), server, out);
            debug_assert!(guarded.is_ok(), "it is refused where it is bound");
        }
    }

    /// The same as [`Session::guard_sequences`] for one of which nothing is known.
    pub(super) fn guard_sequences_from_unseen(
        &self,
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) {
        let guarded = self.guard((false, true), server, out);
        debug_assert!(guarded.is_ok(), "only who is seen to ask is refused");
    }

    fn guard(
        &self,
        (asks, may_ask): (bool, bool),
        server: &mut ServerState,
        out: &mut Outbox<'_>,
    ) -> Result<(), Refusal> {
        let is_asked_for = &self.interners.sequences_are_asked_for;
        if asks {
            is_asked_for.store(true, Ordering::Relaxed);
        }
        let begins = server.status == TransactionStatus::Idle
            && self.batch == Batch::Closed
            && server.pipeline.is_quiescent();
        match server.sequences {
            Sequences::Mixed if asks && !begins => return Err(Refusal::Sequences),
            Sequences::Others if may_ask || is_asked_for.load(Ordering::Relaxed) => {}
            Sequences::Others => {
                server.sequences = Sequences::Mixed;
                return Ok(());
            }
            // As in a new session: or it would depend on who else is about, whether it works.
            Sequences::Mixed | Sequences::Of(_) | Sequences::Nobodys
                if asks && begins && self.pins.is_empty() => {}
            _ => return Ok(()),
        }
        if server.status == TransactionStatus::Failed {
            return Ok(());
        }
        let before = std::mem::replace(&mut server.sequences, Sequences::Of(self.id));
        // A Query of ours would drop the unnamed statement, or portal, that the client goes on with.
        encode::run_in_batch(out.own(), NAME, DISCARD);
        let why = Disposition::Skip(OnBehalf::Sequences);
        for request in [Request::Close, Request::Parse, Request::Bind] {
            server.pipeline.push(request, why);
        }
        let expected = Expected::new(Request::Execute, why).revoking(Revoke::Sequences(before));
        server.pipeline.push_expected(expected);
        server.pipeline.push(Request::Close, why);
        if self.batch.may_follow_ours() {
            // In a batch of its own.
            encode::sync(out.own());
            server.pipeline.push(Request::Sync, why);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ones_own_until_another_has_had_it() {
        let mut sequences = Sequences::default();
        sequences.attach(1);
        sequences.attach(1);
        assert_eq!(sequences, Sequences::Of(1));
        for client in [2, 2, 1] {
            sequences.attach(client);
            assert_eq!(sequences, Sequences::Others);
        }
        sequences = Sequences::Mixed;
        sequences.attach(1);
        assert_eq!(sequences, Sequences::Others);
    }
}
