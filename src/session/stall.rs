//! A client's message that cannot be taken before the server has answered earlier ones.
//!
//! Each reason is a condition that only the server's answers end. It is asked for when the message comes,
//! and again before the message is taken: whoever may go on does not stop at once for the same reason.

use super::{Batch, LastRun, ServerState, Session, probe::StateCheck};
use crate::protocol::{Frame, FrontendTag, frontend::Bind};

/// How many replies a server may owe before the client has to wait.
const OWED_LIMIT: usize = 4096;

/// Why a whole message of the client's waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stall {
    /// It does not.
    #[default]
    No,
    /// The server owes as much as it may.
    Full,
    /// A Query in the middle of the batch may leave a transaction open, which decides what this Sync does.
    QueryInBatch,
    /// What it runs on may have been changed, and the server has not said how.
    StateCheck,
    /// What it names may yet be taken back.
    Revocable,
    /// It is not known if the transaction has failed in which others' sequence values would be discarded.
    SequenceStatus,
    /// It must not follow what the server does.
    MustNotFollow,
}

impl Session {
    /// Whether a whole message of the client's waits for an answer of the server's. Until then no
    /// more should be read from the client.
    pub fn is_stalled(&self) -> bool {
        self.stalled != Stall::No
    }

    /// Whether the message that waited can be taken now, by `server` or, without one, by
    /// [`Session::plan`].
    pub fn can_resume(&self, server: Option<&ServerState>) -> bool {
        let lasts = |server| match self.stalled {
            Stall::No => true,
            Stall::Full => is_full(server),
            Stall::QueryInBatch => self.awaits_query_in_batch(server),
            Stall::StateCheck => self.awaits_state_check(server),
            Stall::Revocable => Self::may_revoke(server),
            Stall::SequenceStatus => Self::awaits_status_for_sequences(server),
            Stall::MustNotFollow => self.waits_to_follow(server),
        };
        self.is_stalled() && !server.is_some_and(lasts)
    }

    /// Why the message that `rest` begins with has to wait, if so.
    pub(super) fn stall(
        &self,
        frame: &Frame<'_, FrontendTag>,
        rest: &[u8],
        server: &ServerState,
    ) -> Stall {
        let is_answered = !matches!(
            frame.tag,
            FrontendTag::CopyData
                | FrontendTag::CopyDone
                | FrontendTag::CopyFail
                | FrontendTag::Flush
        );
        let is_request = is_answered && frame.tag != FrontendTag::Sync;
        if is_answered && server.pipeline.len() >= OWED_LIMIT && !server.pipeline.is_copy_in() {
            Stall::Full
        } else if frame.tag == FrontendTag::Sync && self.awaits_query_in_batch(server) {
            Stall::QueryInBatch
        } else if is_request && self.awaits_state_check(server) {
            Stall::StateCheck
        } else if self.tracks() && Self::may_revoke(server) && self.rests_on_names(frame) {
            Stall::Revocable
        } else if self.tracks()
            && Self::awaits_status_for_sequences(server)
            && self.may_discard_sequences(frame)
        {
            Stall::SequenceStatus
        } else if self.must_not_follow(rest, server) {
            Stall::MustNotFollow
        } else {
            Stall::No
        }
    }

    /// Whether what the message means depends on names that earlier messages gave or took.
    fn rests_on_names(&self, frame: &Frame<'_, FrontendTag>) -> bool {
        let body = frame.body();
        match frame.tag {
            FrontendTag::Parse => body.first() != Some(&0),
            FrontendTag::Bind => match Bind::read(body) {
                Ok(bind) => !(bind.statement.is_empty() && self.unnamed.is_of_batch),
                Err(_) => false,
            },
            FrontendTag::Describe | FrontendTag::Close => body.first() == Some(&b'S'),
            FrontendTag::Query => true,
            _ => false,
        }
    }

    /// Whether the unit before may have changed the session's state and the server has not said how:
    /// what comes next may have to run on other settings than it would find now.
    fn awaits_state_check(&self, server: &ServerState) -> bool {
        let is_unchecked = match self.check {
            StateCheck::None => !self.touched.is_empty() && !server.pipeline.is_empty(),
            StateCheck::Probing(_) | StateCheck::Due { .. } | StateCheck::Mending => true,
        };
        is_unchecked && self.batch == Batch::Closed && !server.pipeline.is_copy_in()
    }

    /// Whether a Query in the middle of a batch has yet to tell if it left a transaction open.
    fn awaits_query_in_batch(&self, server: &ServerState) -> bool {
        self.last_run == LastRun::Query
            && server.pipeline.is_status_open()
            && !server.pipeline.is_copy_in()
            && !server.pipeline.ignores_until_sync()
    }

    /// Whether what was entered for an earlier batch may yet be taken back.
    fn may_revoke(server: &ServerState) -> bool {
        let pipeline = &server.pipeline;
        pipeline.may_revoke() && !pipeline.is_copy_in() && !pipeline.ignores_until_sync()
    }
}

/// Whether a server owes so much that a client which had to wait goes on waiting. It is let in again where half is
/// answered, lest it stops at every message.
fn is_full(server: &ServerState) -> bool {
    server.pipeline.len() > OWED_LIMIT / 2 && !server.pipeline.is_copy_in()
}
