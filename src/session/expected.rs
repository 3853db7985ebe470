//! A reply that a server owes: to what it is owed, what becomes of it, and what is taken back if it does not
//! come.
//!
//! Knows nothing of the order in which replies come; that is the [`Pipeline`](super::pipeline::Pipeline)'s.

use super::{refusal::Refusal, revoke::Revoke, statements::StatementId};

/// A request that a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Query: anything up to ReadyForQuery.
    Query,
    /// FunctionCall: up to ReadyForQuery.
    FunctionCall,
    /// Sync: ReadyForQuery.
    Sync,
    /// Parse: ParseComplete.
    Parse,
    /// Bind: BindComplete.
    Bind,
    /// Describe of a statement: ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    /// Describe of a portal: RowDescription or NoData.
    DescribePortal,
    /// Execute: rows or COPY, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Close: CloseComplete.
    Close,
}

impl Request {
    /// What the server was expected to send, in words.
    pub(super) fn awaited(self) -> &'static str {
        match self {
            Self::Query => "the result of a Query was awaited",
            Self::FunctionCall => "a FunctionCallResponse was awaited",
            Self::Sync => "ReadyForQuery was awaited",
            Self::Parse => "ParseComplete was awaited",
            Self::Bind => "BindComplete was awaited",
            Self::DescribeStatement | Self::DescribePortal => "a description was awaited",
            Self::Execute => "the result of an Execute was awaited",
            Self::Close => "CloseComplete was awaited",
        }
    }
}

/// What becomes of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It goes to the client.
    Forward,
    /// We asked on the client's behalf; it is kept from the client.
    Skip(OnBehalf),
    /// The server was not asked; we answer.
    Fake(Fake),
    /// Something that fails was asked in place of what the client asked; the words are ours.
    Refuse(Refusal),
}

/// Why we ask a server something that no client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBehalf {
    /// To give the server the client's settings, or to clean it. A refusal makes it unusable.
    Settings,
    /// The same, while the client has been told of other ones and must be told of these.
    Restore,
    /// To prepare, or to drop, a statement.
    Statement,
    /// To learn what session state the server is left with.
    Probe,
    /// To learn that nothing else is under way.
    Fence,
    /// To make a Sync end a transaction.
    Commit,
    /// To discard other clients' sequence values.
    Sequences,
}

impl OnBehalf {
    /// Whether a refusal makes the server unusable.
    pub(super) fn is_vital(self) -> bool {
        matches!(self, Self::Settings | Self::Restore)
    }
}

/// A reply of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fake {
    /// ParseComplete: the server has the statement already.
    ParseComplete,
    /// CloseComplete: the server keeps the statement for others.
    CloseComplete,
    /// CommandComplete of `DEALLOCATE ALL` and ReadyForQuery.
    DeallocateAll,
}

/// Which statement a request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Subject {
    /// None, or one that is not ours to manage.
    #[default]
    None,
    /// One of those that are shared.
    Statement(StatementId),
    /// The client's unnamed statement with this serial number is made.
    Unnamed(u64),
}

/// One reply that is owed.
#[derive(Debug)]
pub struct Expected {
    /// What it answers.
    pub request: Request,
    /// What becomes of it.
    pub disposition: Disposition,
    /// Which statement it is about.
    pub(super) subject: Subject,
    /// What is taken back, last one first, if the request is not carried out.
    pub(super) revokes: Vec<Revoke>,
    /// How many CopyDone or CopyFail were sent behind it and before the next request.
    pub(super) copy_ends: u32,
}

impl Expected {
    /// Nothing but a reply.
    #[inline]
    pub fn new(request: Request, disposition: Disposition) -> Self {
        Self {
            request,
            disposition,
            subject: Subject::None,
            revokes: Vec::new(),
            copy_ends: 0,
        }
    }

    /// About a statement.
    #[inline]
    pub(super) fn about(self, subject: Subject) -> Self {
        Self { subject, ..self }
    }

    /// With something to take back.
    #[inline]
    pub(super) fn revoking(mut self, revoke: impl Into<Option<Revoke>>) -> Self {
        self.revokes.extend(revoke.into());
        self
    }

    /// Whether it ends the batch before it.
    #[inline]
    pub(super) fn ends_batch(&self) -> bool {
        matches!(
            self.request,
            Request::Query | Request::FunctionCall | Request::Sync
        )
    }

    /// Whether the client is owed a ReadyForQuery for it.
    #[inline]
    pub(super) fn is_round(&self) -> bool {
        let is_clients = matches!(
            self.disposition,
            Disposition::Forward | Disposition::Refuse(_)
        );
        self.ends_batch() && is_clients
    }

    /// Whether it is one of ours.
    #[inline]
    pub(super) fn is_fake(&self) -> bool {
        matches!(self.disposition, Disposition::Fake(_))
    }
}

/// What is in the queue, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Requests with something to take back, in batches that have been ended.
    pub(super) revocable: usize,
    /// The same in the batch that is open.
    pub(super) open_revocable: usize,
    /// Requests of the client's that end with ReadyForQuery.
    pub(super) rounds: usize,
    /// Syncs.
    pub(super) syncs: usize,
    /// Requests behind the last Sync whose failure makes the server ignore what follows.
    pub(super) unsynced: usize,
}

impl Counts {
    pub(super) fn of<'a>(expected: impl IntoIterator<Item = &'a Expected>) -> Self {
        let mut counts = Self::default();
        for expected in expected {
            counts.enter(expected);
        }
        counts
    }

    /// A request is entered behind all others.
    #[inline]
    pub(super) fn enter(&mut self, expected: &Expected) {
        if !expected.revokes.is_empty() {
            self.open_revocable += 1;
        }
        if expected.ends_batch() {
            self.revocable += std::mem::take(&mut self.open_revocable);
        } else {
            self.unsynced += 1;
        }
        if expected.request == Request::Sync {
            self.syncs += 1;
            self.unsynced = 0;
        }
        if expected.is_round() {
            self.rounds += 1;
        }
    }

    /// The oldest request leaves.
    #[inline]
    pub(super) fn leave(&mut self, expected: &Expected) {
        if !expected.revokes.is_empty() {
            self.forget_revocable();
        }
        if expected.request == Request::Sync {
            self.syncs -= 1;
        } else if self.syncs == 0 && !expected.ends_batch() {
            self.unsynced -= 1;
        }
        if expected.is_round() {
            self.rounds -= 1;
        }
    }

    /// The oldest request with something to take back has nothing any more.
    pub(super) fn forget_revocable(&mut self) {
        if self.revocable > 0 {
            self.revocable -= 1;
        } else {
            self.open_revocable -= 1;
        }
    }
}
