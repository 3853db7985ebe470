//! Running a batch again whose statement the server no longer has, or not as it was.
//!
//! A statement may have been prepared on this server long ago and for somebody else. When tables have
//! changed since, PostgreSQL refuses to run it ("cached plan must not change result type"), although
//! the client may have prepared it a moment ago; and a `DEALLOCATE ALL` that a function ran has taken
//! it away unseen. A session of the client's own would not know such errors, so the client is not told:
//! the batch is sent again with a fresh Parse. Only if nothing of it has been executed: the statement
//! was refused as it was bound or described, no transaction block is open, and all that the client has
//! been answered is that statements were prepared or closed.

use super::{
    Batch, Outbox, ServerState, Session,
    expected::{Disposition, Expected, OnBehalf, Request, Subject},
    revoke::Revoke,
};
use crate::protocol::{
    Frame, FrontendTag, SqlState,
    backend::{ErrorFields, TransactionStatus},
    encode, frame,
};

/// The longest batch that is kept, in bytes.
const LIMIT: usize = 8 * 1024;

/// The messages of the client's latest batch, kept with the server that they were sent to.
#[derive(Debug, Default)]
pub(super) struct KeptBatch {
    /// Its memory is used again from batch to batch.
    messages: Vec<u8>,
    state: State,
    /// Where the messages begin that are to be sent again.
    again_from: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It cannot be sent again.
    #[default]
    Off,
    /// Its Sync has not come.
    Open,
    /// It is whole.
    Ended,
}

impl KeptBatch {
    fn add(&mut self, message: &Frame<'_, FrontendTag>) {
        let fits = message.is_whole() && self.messages.len() + message.size <= LIMIT;
        self.state = match message.tag {
            FrontendTag::Sync if fits => State::Ended,
            FrontendTag::Parse
            | FrontendTag::Bind
            | FrontendTag::Describe
            | FrontendTag::Execute
            | FrontendTag::Close
            | FrontendTag::Flush
                if fits =>
            {
                State::Open
            }
            _ => State::Off,
        };
        if self.state != State::Off {
            self.messages.extend_from_slice(message.bytes);
        }
    }

    /// Whether the client asks in it what rows look like.
    fn asks_for_description(&self) -> bool {
        let mut rest = &self.messages[..];
        while let Ok(Some(frame)) = frame::frontend(rest, u32::MAX) {
            if frame.tag == FrontendTag::Describe {
                return true;
            }
            rest = rest.get(frame.size..).unwrap_or_default();
        }
        false
    }

    /// Whether it waits to be sent again.
    #[inline]
    pub(super) fn is_to_run_again(&self) -> bool {
        self.again_from.is_some()
    }

    /// Where the last `unanswered` requests begin, if what stands before them can be left as it was
    /// answered: statements that were prepared or closed.
    fn beginning_of(&self, unanswered: usize) -> Option<usize> {
        let is_request = |tag| !matches!(tag, FrontendTag::Sync | FrontendTag::Flush);
        let mut frames = Vec::new();
        let mut at = 0;
        while let Ok(Some(frame)) = frame::frontend(&self.messages[at..], u32::MAX) {
            if is_request(frame.tag) {
                frames.push((frame.tag, at));
            }
            at += frame.size;
        }
        let answered = frames.len().checked_sub(unanswered)?;
        let is_lasting = |tag| matches!(tag, FrontendTag::Parse | FrontendTag::Close);
        let (before, after) = frames.split_at(answered);
        let can_stay = before.iter().all(|(tag, _)| is_lasting(*tag));
        after.first().filter(|_| can_stay).map(|(_, at)| *at)
    }
}

/// Whether an error says that the server does not have a statement of ours, or not any longer as it
/// has to be.
fn is_stale(refused: &Expected, error: &ErrorFields<'_>) -> bool {
    let is_ours = matches!(refused.subject, Subject::Statement(_));
    match error.sqlstate {
        Some(SqlState::INVALID_SQL_STATEMENT_NAME) => is_ours,
        // The message is translated, the name of the routine is not.
        Some(SqlState::FEATURE_NOT_SUPPORTED) => {
            is_ours && error.routine == b"RevalidateCachedQuery"
        }
        // Somebody has used a name of ours.
        Some(SqlState::DUPLICATE_PREPARED_STATEMENT) => {
            let is_new = |revoke: &Revoke| matches!(revoke, Revoke::Prepared { .. });
            refused.request == Request::Parse && refused.revokes.iter().any(is_new)
        }
        _ => false,
    }
}

impl Session {
    /// Keeps a message that is about to be sent, if it belongs to a batch that could be sent again.
    #[inline]
    pub(super) fn keep(&self, message: &Frame<'_, FrontendTag>, server: &mut ServerState) {
        if server.kept.state != State::Open {
            server.kept.state = State::Off;
            let begins = match message.tag {
                FrontendTag::Bind | FrontendTag::Describe | FrontendTag::Close => true,
                FrontendTag::Parse => message.body().first() != Some(&0),
                _ => false,
            };
            let is_alone = self.batch == Batch::Closed
                && server.status == TransactionStatus::Idle
                && !server.pipeline.owes_client();
            if !(begins && is_alone && self.tracks()) {
                return;
            }
            server.kept.messages.clear();
        }
        server.kept.add(message);
    }

    /// Whether the batch of which `voided` is the rest is run again instead of being refused.
    pub(super) fn will_run_again(
        voided: &[Expected],
        error: &ErrorFields<'_>,
        server: &mut ServerState,
    ) -> bool {
        let is_last = match server.kept.state {
            State::Off => false,
            State::Open => server.pipeline.is_empty(),
            State::Ended => server.pipeline.len() == 1,
        };
        let is_clients = |e: &&Expected| !matches!(e.disposition, Disposition::Skip(_));
        let unanswered = voided.iter().filter(is_clients).count();
        if !is_last || !voided.first().is_some_and(|first| is_stale(first, error)) {
            return false;
        }
        // Other columns than the client was told of: unless it asks now, it would misread the rows.
        let has_changed = error.sqlstate == Some(SqlState::FEATURE_NOT_SUPPORTED);
        if has_changed && !server.kept.asks_for_description() {
            return false;
        }
        server.kept.again_from = server.kept.beginning_of(unanswered);
        if server.kept.again_from.is_some() && server.kept.state == State::Ended {
            server.pipeline.keep_from_client();
        }
        if let Some(Subject::Statement(id)) = voided.first().map(|refused| refused.subject) {
            server.statements.doubt(id);
        }
        server.kept.again_from.is_some()
    }

    /// Sends a batch again that is to be run again.
    pub(super) fn run_again(&mut self, server: &mut ServerState, to_server: &mut Vec<u8>) {
        let Some(from) = server.kept.again_from.take() else {
            return;
        };
        if server.kept.state == State::Open {
            encode::sync(to_server);
            let on_behalf = Disposition::Skip(OnBehalf::Statement);
            server.pipeline.push_sync(on_behalf);
        }
        let messages = std::mem::take(&mut server.kept.messages);
        // What waits for the answers goes on waiting.
        let (stalled, scanned) = (self.stalled, self.scanned);
        // It goes on with a batch that was let through once: nothing holds it back, or has it wait.
        self.batch = Batch::Open;
        let touched = std::mem::take(&mut self.touched);
        let (mut composed, mut to_client) = (Vec::new(), Vec::new());
        let mut out = Outbox::new(&messages[from..], &mut composed);
        let data = &messages[from..];
        let taken = self.on_client_bytes(data, u32::MAX, server, &mut out, &mut to_client);
        debug_assert!(
            taken.is_ok_and(|taken| taken.consumed == data.len()) && to_client.is_empty(),
            "what was taken once is taken again"
        );
        to_server.extend_from_slice(out.finish());
        self.touched |= touched;
        (self.stalled, self.scanned) = (stalled, scanned);
        // Once is enough.
        server.kept = KeptBatch::default();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::session::{Mode, Place, Settings};

    fn message((tag, body): &(u8, &[u8])) -> Vec<u8> {
        let mut message = vec![*tag];
        message.extend(u32::try_from(body.len() + 4).expect("short").to_be_bytes());
        message.extend_from_slice(body);
        message
    }

    fn messages(messages: &[(u8, &[u8])]) -> Vec<u8> {
        messages.iter().flat_map(message).collect()
    }

    fn kept(messages: &[(u8, &[u8])]) -> KeptBatch {
        let mut kept = KeptBatch::default();
        for it in messages {
            let message = message(it);
            let frame = frame::frontend(&message, u32::MAX).expect("valid");
            kept.add(&frame.expect("whole"));
        }
        kept
    }

    const PARSE: (u8, &[u8]) = (b'P', b"a\0\0\0\0");
    const DESCRIBE: (u8, &[u8]) = (b'D', b"Sa\0");
    const EXECUTE: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");
    const SYNC: (u8, &[u8]) = (b'S', b"");

    #[test]
    fn only_what_was_prepared_may_stay_answered() {
        let batch = kept(&[PARSE, DESCRIBE, EXECUTE, SYNC]);
        assert_eq!(batch.state, State::Ended);
        assert_eq!(batch.beginning_of(3), Some(0));
        assert_eq!(batch.beginning_of(2), Some(10));
        assert_eq!(batch.beginning_of(1), None, "the description was told");
        assert_eq!(batch.beginning_of(4), None);
    }

    #[test]
    fn what_is_too_long_or_of_another_kind_is_not_kept() {
        let long = vec![0; LIMIT];
        assert_eq!(kept(&[PARSE, (b'B', &long)]).state, State::Off);
        assert_eq!(kept(&[PARSE, (b'Q', b"SELECT 1\0")]).state, State::Off);
    }

    #[test]
    fn what_may_write_is_run_again_on_the_replica_that_was_asked_for() {
        let settings = Arc::<Settings>::default();
        let mut session = Session::new(1, Mode::Transaction, Arc::default(), settings);
        session.set_place(Place::Replica);
        let mut server = ServerState::new(b"u", Arc::default(), 100);
        let (bind, describe) = ((b'B', &b"\0a\0\0\0\0\0\0\0"[..]), (b'D', &b"P\0"[..]));
        let stale = (b'E', &b"SERROR\0VERROR\0C26000\0Mgone\0\0"[..]);
        for (asked, answered, again) in [
            (
                vec![(b'P', &b"a\0SELECT f()\0\0\0"[..]), SYNC],
                vec![(b'1', &b""[..]), (b'Z', b"I")],
                None,
            ),
            (
                vec![bind, describe, EXECUTE, SYNC],
                // PostgreSQL sends an error at once, and what is behind it later.
                vec![stale],
                Some([describe, EXECUTE, SYNC]),
            ),
        ] {
            let (asked, answered) = (messages(&asked), messages(&answered));
            let (mut composed, mut to_client) = (Vec::new(), Vec::new());
            let mut out = Outbox::new(&asked, &mut composed);
            let taken =
                session.on_client_bytes(&asked, u32::MAX, &mut server, &mut out, &mut to_client);
            assert_eq!(taken.map(|it| it.consumed), Ok(asked.len()));
            let (mut composed, mut to_server) = (Vec::new(), Vec::new());
            let mut out = Outbox::new(&answered, &mut composed);
            let taken = session.on_server_bytes(&answered, &mut server, &mut out, &mut to_server);
            assert_eq!(taken, Ok(answered.len()));
            if let Some(again) = again {
                assert!(to_server.ends_with(&messages(&again)), "{to_server:?}");
            }
        }
    }
}
