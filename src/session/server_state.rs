//! What is known of one server connection; it travels with the connection from client to client.

use std::sync::Arc;

use super::{pipeline::Pipeline, settings::Settings, statements::ServerStatements};
use crate::protocol::backend::TransactionStatus;

/// Which unnamed statement a server has: a number that is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnnamedId {
    pub(super) client: u64,
    pub(super) serial: u64,
}

/// What is known of one server connection.
#[derive(Debug)]
pub struct ServerState {
    /// As the last ReadyForQuery told.
    pub status: TransactionStatus,
    /// The replies it owes.
    pub pipeline: Pipeline,
    /// The statements it has.
    pub statements: ServerStatements,
    /// The settings it was given or was found with.
    pub settings: Arc<Settings>,
    /// The unnamed statement it has, if that is known.
    pub(super) unnamed: Unnamed,
    /// A message that is passing through by pieces.
    pub(super) streaming: Option<Streaming>,
    /// Whom the connection logged in as.
    pub login_user: Box<[u8]>,
}

/// The unnamed statement of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// There is none.
    None,
    /// This one.
    Is(UnnamedId),
}

/// The rest of a message that is too large to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Streaming {
    /// Bytes still to come.
    pub(super) remaining: usize,
    /// Whether they are forwarded or dropped.
    pub(super) forward: bool,
}

impl ServerState {
    /// A connection fresh from its login.
    pub fn new(login_user: &[u8], settings: Arc<Settings>, max_prepared_statements: usize) -> Self {
        Self {
            status: TransactionStatus::Idle,
            pipeline: Pipeline::default(),
            statements: ServerStatements::new(max_prepared_statements),
            settings,
            unnamed: Unnamed::None,
            streaming: None,
            login_user: login_user.into(),
        }
    }

    /// Whether it is between transactions, owes nothing and is in the middle of nothing.
    #[inline]
    pub fn is_clean(&self) -> bool {
        self.status == TransactionStatus::Idle
            && self.pipeline.is_quiescent()
            && self.streaming.is_none()
    }
}
