//! What was entered in advance for a request, and has to be taken back when it is not carried out.
//!
//! A statement counts as prepared, or a name as free, from the moment that the message is on its way:
//! the messages behind it in the same batch rely on it. If the server then refuses that message, or
//! ignores it because of an earlier error, what it stood for has not happened. Entries are taken back
//! newest first, so that the state before the first of them comes out. Messages of a later batch never
//! rely on entries that may yet be taken back: they are held until it is settled.

use std::sync::Arc;

use super::{
    Session,
    expected::{Disposition, Expected, Request, Subject},
    sequences::Sequences,
    server_state::{ServerState, Unnamed},
    statements::{ClientStatements, Presence, Statement},
    unnamed::UnnamedStatement,
};
use crate::protocol::SqlState;

/// What a request that is not carried out has to give back.
#[derive(Debug)]
pub(super) enum Revoke {
    /// A statement that is being prepared.
    Prepared {
        /// The statement.
        statement: Arc<Statement>,
        /// The client's new name for it, if it gets one.
        client_name: Option<Box<[u8]>>,
        /// How the server stood to it before, if the server is asked at all.
        before: Option<Presence>,
    },
    /// A name that the client gives up.
    Named {
        /// The client's name.
        client_name: Box<[u8]>,
        /// What it meant.
        statement: Arc<Statement>,
    },
    /// All names of the client.
    Names(ClientStatements),
    /// A statement that leaves the server to make room.
    Evicted(Arc<Statement>),
    /// The unnamed statement is being replaced, or dropped.
    Unnamed {
        /// The client's new one.
        serial: u64,
        /// The client's old one.
        previous: UnnamedStatement,
        /// That of the server.
        before: Unnamed,
    },
    /// The server is being given the client's unnamed statement, or rid of another's. This is what it had.
    ServerUnnamed(Unnamed),
    /// Other clients' sequence values are being discarded.
    Sequences(Sequences),
    /// Nothing. The client's name is taken, and the server, which knows it by another, is to say so.
    Taken(Box<[u8]>),
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The server refused it.
    Refused(Option<SqlState>),
    /// The server ignored it, because it had refused an earlier one; or is gone.
    Ignored,
}

/// The server's answer when a statement would now return other columns than when it was prepared.
const OUTDATED: Cause = Cause::Refused(Some(SqlState::FEATURE_NOT_SUPPORTED));

impl Cause {
    /// Whether it shows that the server does not have the statements that it was believed to have,
    /// or not as they have to be now.
    fn casts_doubt(self) -> bool {
        matches!(
            self,
            Self::Refused(Some(
                SqlState::INVALID_SQL_STATEMENT_NAME
                    | SqlState::DUPLICATE_PREPARED_STATEMENT
                    | SqlState::FEATURE_NOT_SUPPORTED
            ))
        )
    }
}

impl Revoke {
    /// What was entered has come to be: a server accepts this statement.
    pub(super) fn accept(&self) {
        if let Self::Prepared { statement, .. } = self {
            statement.accept();
        }
    }

    /// The unnamed statement with this serial number never came to be: `instead` is what comes out if
    /// this is taken back.
    pub(super) fn replace_unnamed(&mut self, serial: u64, instead: &mut UnnamedStatement) {
        if let Self::Unnamed { previous, .. } = self
            && previous.serial == serial
        {
            *previous = std::mem::take(instead);
        }
    }
}

impl Session {
    /// Takes back what was entered for requests of which the server refused the first.
    pub(super) fn take_back(
        &mut self,
        voided: Vec<Expected>,
        sqlstate: Option<SqlState>,
        server: &mut ServerState,
    ) {
        let first = voided.len().saturating_sub(1);
        let refused = voided.first();
        if let Some(Subject::Statement(id)) = refused.map(|it| it.subject)
            && Cause::Refused(sqlstate) == OUTDATED
            && let Some(statement) = server.statements.held(id)
        {
            self.interners.statements.retire(statement);
        }
        for (distance, mut expected) in voided.into_iter().rev().enumerate() {
            let cause = if distance == first {
                Cause::Refused(sqlstate)
            } else {
                Cause::Ignored
            };
            server.take_back(&expected, cause);
            self.hand_down_unnamed(&mut expected, cause, server);
            self.take_back_one(&mut expected, cause);
        }
    }

    /// A later batch may have replaced what this Parse was to make, and be taken back in its turn: to what
    /// was there before, or to nothing if the Parse was refused, which drops that.
    fn hand_down_unnamed(&self, gone: &mut Expected, cause: Cause, server: &mut ServerState) {
        let pipeline = &mut server.pipeline;
        match (cause, gone.subject) {
            (Cause::Ignored, _) => {
                for revoke in &mut gone.revokes {
                    if let Revoke::Unnamed {
                        serial, previous, ..
                    } = revoke
                        && self.unnamed.serial != *serial
                    {
                        pipeline.replace_unnamed(*serial, previous);
                    }
                }
            }
            (Cause::Refused(_), Subject::Unnamed(serial))
                if gone.disposition == Disposition::Forward =>
            {
                pipeline.replace_unnamed(serial, &mut UnnamedStatement::default());
            }
            (Cause::Refused(_), _) => {}
        }
    }

    /// Takes back the client's part.
    pub(super) fn take_back_one(&mut self, expected: &mut Expected, cause: Cause) {
        if let (Subject::Unnamed(serial), Cause::Refused(_)) = (expected.subject, cause) {
            // A Parse that fails has dropped the unnamed statement before it.
            if self.unnamed.serial == serial && expected.disposition == Disposition::Forward {
                self.unnamed = self.next_unnamed();
            }
        }
        for revoke in expected.revokes.drain(..).rev() {
            match revoke {
                Revoke::Prepared {
                    statement,
                    client_name: Some(name),
                    ..
                } => self.statements.remove_if(&name, statement.id),
                Revoke::Named {
                    client_name,
                    statement,
                } => self.statements.insert(&client_name, statement),
                Revoke::Names(names) => self.statements.restore(names),
                Revoke::Unnamed {
                    serial, previous, ..
                } if cause == Cause::Ignored && self.unnamed.serial == serial => {
                    self.unnamed = previous;
                }
                _ => {}
            }
        }
    }
}

impl ServerState {
    /// Takes back the server's part.
    pub(super) fn take_back(&mut self, expected: &Expected, cause: Cause) {
        match expected.subject {
            // Parsed anew, it would answer with columns that its clients do not know of.
            Subject::Statement(_) if cause == OUTDATED && expected.request != Request::Query => {}
            Subject::Statement(id) if cause.casts_doubt() => self.statements.doubt(id),
            Subject::Unnamed(serial)
                if cause != Cause::Ignored
                    && matches!(self.unnamed, Unnamed::Is(id) if id.serial == serial) =>
            {
                self.unnamed = Unnamed::None;
            }
            _ => {}
        }
        for revoke in expected.revokes.iter().rev() {
            match revoke {
                Revoke::Prepared {
                    statement,
                    before: Some(before),
                    ..
                } => {
                    let may_be_there = match cause {
                        Cause::Refused(_) => cause.casts_doubt(),
                        Cause::Ignored => *before != Presence::Absent,
                    };
                    if may_be_there {
                        self.statements.doubt(statement.id);
                    } else {
                        self.statements.remove(statement.id);
                    }
                }
                Revoke::Evicted(statement) => self.statements.insert_doubtful(statement),
                Revoke::Sequences(before) => self.sequences = *before,
                Revoke::Unnamed { serial, before, .. } if cause == Cause::Ignored => {
                    self.restore_unnamed(*before, *serial);
                }
                Revoke::ServerUnnamed(before) if cause == Cause::Ignored => {
                    let serial = match expected.subject {
                        Subject::Unnamed(serial) => serial,
                        Subject::None | Subject::Statement(_) => u64::MAX,
                    };
                    self.restore_unnamed(*before, serial);
                }
                _ => {}
            }
        }
    }

    /// The unnamed statement with this serial number was not given to the server, or not dropped: it still has what it had
    /// before. If a later batch has given it another one since, that holds; if one has dropped it, this is no client's any more.
    fn restore_unnamed(&mut self, before: Unnamed, serial: u64) {
        if !matches!(self.unnamed, Unnamed::Is(id) if id.serial > serial) {
            self.unnamed = before;
        }
    }
}
