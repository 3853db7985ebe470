//! A read that can be run again on another server, as long as its client has heard nothing of it.
//!
//! While a read is at stake, a copy of its messages lies with the server that runs it, and what comes
//! before its first row is held back: ParseComplete, BindComplete, the descriptions. If an error comes
//! instead of a row, nothing has been told, and somebody else may run it. From the first row on, or
//! after any answer that is whole, nothing is at stake any more.
//!
//! Invariant: only a unit that was proved to be a read, stood alone and was outside of a transaction is
//! ever put at stake.

use super::{HOLD_LIMIT, ServerState, Session, revoke::Cause};
use crate::protocol::{BackendTag, SqlState, backend::ErrorFields, frame};

/// The longest unit that is kept, in bytes.
const LIMIT: usize = 8 * 1024;

/// What is at stake on one server.
#[derive(Debug, Default)]
pub struct Stake {
    /// Its memory is used again from unit to unit.
    messages: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Nothing,
    AtStake,
    Refused(SqlState),
}

/// What the beginning of an answer says.
enum FirstAnswer {
    /// Nothing yet.
    Held,
    /// It is to be told to the client, whatever it is.
    Told,
    /// It failed here, and may succeed elsewhere.
    Refused(SqlState),
}

impl Stake {
    /// Whether something is at stake.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.state == State::AtStake
    }

    /// Why it failed here, if it did.
    #[inline]
    pub fn refused(&self) -> Option<SqlState> {
        match self.state {
            State::Refused(sqlstate) => Some(sqlstate),
            State::Nothing | State::AtStake => None,
        }
    }

    /// `unit` is about to be sent and may be run again elsewhere.
    pub fn begin(&mut self, unit: &[u8]) {
        self.end();
        if unit.len() <= LIMIT {
            self.messages.extend_from_slice(unit);
            self.state = State::AtStake;
        }
    }

    /// Nothing is at stake any more.
    #[inline]
    pub fn end(&mut self) {
        self.messages.clear();
        self.state = State::Nothing;
    }

    /// The messages that were at stake.
    pub fn take(&mut self) -> Vec<u8> {
        self.state = State::Nothing;
        std::mem::take(&mut self.messages)
    }

    /// Looks at the beginning of the answer; says whether it is to be told now.
    #[inline]
    pub(super) fn lets_through(&mut self, answer: &[u8]) -> bool {
        match first_answer(answer) {
            FirstAnswer::Held => false,
            FirstAnswer::Told => {
                self.end();
                true
            }
            FirstAnswer::Refused(sqlstate) => {
                self.state = State::Refused(sqlstate);
                false
            }
        }
    }
}

fn first_answer(answer: &[u8]) -> FirstAnswer {
    let mut rest = answer;
    while let Some((first, body, behind)) = frame::whole(rest) {
        match BackendTag::from_byte(first) {
            Some(tag) if is_preface(tag) => rest = behind,
            Some(BackendTag::ErrorResponse) => return first_error(&ErrorFields::read(body)),
            _ => return FirstAnswer::Told,
        }
    }
    let may_be_held = match frame::backend(rest) {
        Ok(None) => true,
        Ok(Some(frame)) => is_preface(frame.tag) || frame.tag == BackendTag::ErrorResponse,
        Err(_) => false,
    };
    if may_be_held && answer.len() < HOLD_LIMIT {
        FirstAnswer::Held
    } else {
        FirstAnswer::Told
    }
}

/// Whether nothing is told that matters, as long as only this is.
#[inline]
fn is_preface(tag: BackendTag) -> bool {
    matches!(
        tag,
        BackendTag::ParseComplete
            | BackendTag::BindComplete
            | BackendTag::ParameterDescription
            | BackendTag::RowDescription
            | BackendTag::NoData
            | BackendTag::NoticeResponse
    )
}

fn first_error(error: &ErrorFields<'_>) -> FirstAnswer {
    match error.sqlstate {
        Some(sqlstate) if may_succeed_elsewhere(sqlstate, error) => FirstAnswer::Refused(sqlstate),
        _ => FirstAnswer::Told,
    }
}

/// Whether the failure of a proved read says something about this server and not about the read. To ask
/// again is harmless in any case: the next server says the same if it is the read's fault.
fn may_succeed_elsewhere(sqlstate: SqlState, error: &ErrorFields<'_>) -> bool {
    // A changed table: the session itself knows what to do about it.
    let is_outdated = error.routine == b"RevalidateCachedQuery";
    !is_outdated
        && (sqlstate.is_refusal_of_standby()
            || sqlstate.is_conflict_with_recovery()
            || sqlstate.is_operator_intervention() && sqlstate != SqlState::QUERY_CANCELED)
}

impl Session {
    /// What was at stake on `server` has failed there: everything that was entered for it is taken back,
    /// and the messages are answered, to be taken anew. The server is of no more use.
    pub fn take_back_stake(&mut self, server: &mut ServerState) -> Vec<u8> {
        for mut expected in server.pipeline.take_all().into_iter().rev() {
            self.take_back_one(&mut expected, Cause::Ignored);
        }
        self.batch = super::Batch::Closed;
        self.scanned = 0;
        self.stalled = super::stall::Stall::No;
        self.forget_attachment();
        self.forget_writes();
        server.stake.take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        protocol::encode::{self, Report, Severity},
        session::{Mode, Outbox, Settings},
    };

    fn message(tag: BackendTag, body: &[u8]) -> Vec<u8> {
        let mut message = vec![tag.byte()];
        let length = u32::try_from(body.len() + 4).expect("short");
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        message
    }

    fn error(sqlstate: SqlState) -> Vec<u8> {
        let mut out = Vec::new();
        encode::report(
            &mut out,
            &Report {
                severity: Severity::Error,
                sqlstate,
                message: "no",
                detail: "",
                hint: "",
            },
        );
        out
    }

    fn after(parts: &[Vec<u8>]) -> (bool, Stake) {
        let mut stake = Stake::default();
        stake.begin(b"unit");
        let told = stake.lets_through(&parts.concat());
        (told, stake)
    }

    #[test]
    fn nothing_is_told_before_the_first_row() {
        let description = message(BackendTag::RowDescription, &[0, 0]);
        let bound = message(BackendTag::BindComplete, b"");
        let (told, stake) = after(&[bound.clone(), description.clone()]);
        assert!(!told && stake.is_on());
        let half = description[..5].to_vec();
        assert!(!after(&[bound.clone(), half]).0);
        let row = message(BackendTag::DataRow, &[0, 0]);
        let (told, stake) = after(&[bound, description, row]);
        assert!(told && !stake.is_on());
    }

    #[test]
    fn a_refusal_of_the_standby_is_not_told() {
        let description = message(BackendTag::RowDescription, &[0, 0]);
        let refusal = error(SqlState::READ_ONLY_SQL_TRANSACTION);
        let (told, mut stake) = after(&[description.clone(), refusal]);
        assert!(!told);
        assert_eq!(stake.refused(), Some(SqlState::READ_ONLY_SQL_TRANSACTION));
        assert_eq!(stake.take(), b"unit");
        let own_fault = error(SqlState::INVALID_SQL_STATEMENT_NAME);
        assert!(after(&[description, own_fault]).0);
    }

    #[test]
    fn a_session_holds_a_description_back_and_tells_what_a_row_begins() {
        let (description, row) = (
            message(BackendTag::RowDescription, &[0, 0]),
            message(BackendTag::DataRow, &[0, 0]),
        );
        let refusal = error(SqlState::READ_ONLY_SQL_TRANSACTION);
        for (answer, told) in [
            (description.clone(), 0),
            ([description.clone(), refusal].concat(), 0),
            (
                [description.clone(), row.clone()].concat(),
                description.len() + row.len(),
            ),
        ] {
            let settings = Arc::<Settings>::default();
            let mut session = Session::new(1, Mode::Transaction, Arc::default(), settings);
            let mut server = ServerState::new(b"u", Arc::default(), 100);
            let mut unit = Vec::new();
            encode::query(&mut unit, b"SELECT 1");
            server.stake.begin(&unit);
            let (mut composed, mut rest) = (Vec::new(), Vec::new());
            let mut out = Outbox::new(&unit, &mut composed);
            let taken = session.on_client_bytes(&unit, u32::MAX, &mut server, &mut out, &mut rest);
            assert_eq!(taken.map(|it| it.consumed), Ok(unit.len()));
            let mut out = Outbox::new(&answer, &mut composed);
            let taken = session.on_server_bytes(&answer, &mut server, &mut out, &mut rest);
            assert_eq!(taken, Ok(told));
            assert_eq!(out.finish(), &answer[..told]);
        }
    }

    #[test]
    fn a_refusal_behind_a_row_is_told() {
        let row = message(BackendTag::DataRow, &[0, 0]);
        let refusal = error(SqlState::READ_ONLY_SQL_TRANSACTION);
        assert!(after(&[row, refusal]).0);
    }

    #[test]
    fn what_is_long_is_not_at_stake() {
        let mut stake = Stake::default();
        stake.begin(&vec![0; LIMIT + 1]);
        assert!(!stake.is_on());
        let notice = message(BackendTag::NoticeResponse, &vec![0; HOLD_LIMIT]);
        assert!(after(&[notice]).0, "held for ever");
        assert!(after(&[b"?\0\0\0\x04".to_vec()]).0, "no message at all");
        let lie = [BackendTag::RowDescription.byte(), 0, 0, 0, 3];
        assert!(after(&[lie.to_vec()]).0, "a length that nothing has");
    }
}
