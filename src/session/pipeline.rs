//! The queue of replies that one server owes, and what becomes of each: the heart of the pooler.
//!
//! ```text
//!   client asked for it          Forward   the reply goes to the client
//!   we asked on its behalf       Skip      the reply is read and kept from the client
//!   we answer it ourselves       Fake      the reply is ours, at its place in the order
//! ```
//!
//! Rules of the protocol that live here (manual, "Extended Query", "COPY Operations"): what completes
//! which request; that an error voids everything up to the next Sync; that a server in copy-in mode
//! swallows Sync and Flush without an answer. A message that fits no rule is a [`Desync`]: the
//! connection is then closed, never repaired.

use std::{collections::VecDeque, sync::Arc};

use super::statements::Statement;
use crate::protocol::BackendTag;

/// A reply that cannot belong to what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("server sent {tag:?} while {expected}")]
pub struct Desync {
    /// What came.
    pub tag: BackendTag,
    /// What was awaited, in words.
    pub expected: &'static str,
}

/// A request that a server answers.
#[derive(Clone, Debug)]
pub enum Request {
    /// Query: anything up to ReadyForQuery.
    Query,
    /// FunctionCall: up to ReadyForQuery.
    FunctionCall,
    /// Sync: ReadyForQuery.
    Sync,
    /// Parse: ParseComplete.
    Parse {
        /// The statement it makes, unless it is the unnamed one or passed through.
        statement: Option<Arc<Statement>>,
        /// The client's name for it, to be taken back when the Parse fails.
        client_name: Option<Box<[u8]>>,
    },
    /// Bind: BindComplete.
    Bind {
        /// The statement bound, if it is one that we manage.
        statement: Option<Arc<Statement>>,
    },
    /// Describe of a statement: ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    /// Describe of a portal: RowDescription or NoData.
    DescribePortal,
    /// Execute: rows or COPY, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Close: CloseComplete.
    Close {
        /// The client's name and statement, to be given back when the Close is voided.
        restore: Option<(Box<[u8]>, Arc<Statement>)>,
    },
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
}

/// Why we ask a server something that no client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBehalf {
    /// To give the server the client's settings.
    Settings,
    /// To prepare, or to drop, a statement.
    Statement,
    /// To learn what session state the server is left with.
    Probe,
}

/// A reply of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fake {
    /// ParseComplete: the server has the statement already.
    ParseComplete,
    /// CloseComplete: the server keeps the statement for others.
    CloseComplete,
    /// CommandComplete of `DEALLOCATE name` and ReadyForQuery.
    Deallocate,
    /// CommandComplete of `DEALLOCATE ALL` and ReadyForQuery.
    DeallocateAll,
}

/// One reply that is owed.
#[derive(Clone, Debug)]
pub struct Expected {
    /// What it answers.
    pub request: Request,
    /// What becomes of it.
    pub disposition: Disposition,
}

/// How a server's message fits.
#[derive(Debug)]
pub enum Step {
    /// Part of the oldest request's reply, which goes on.
    Within(Disposition),
    /// The end of the oldest request's reply.
    Done(Expected),
    /// An error that voids the oldest request and what follows it up to the next Sync.
    Void(Vec<Expected>),
    /// Nobody asked: NoticeResponse, NotificationResponse, ParameterStatus, or an error while
    /// nothing is owed. `Some` is the disposition of the request under way.
    Unsolicited(Option<Disposition>),
}

/// The queue.
#[derive(Debug, Default)]
pub struct Pipeline {
    expected: VecDeque<Expected>,
    phase: Phase,
}

/// What the server does with what is sent to it now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Normal,
    /// An error was seen and its Sync has not been sent yet: the server ignores everything else.
    IgnoringUntilSync,
    /// The server takes COPY data and swallows Sync and Flush.
    CopyIn,
}

impl Pipeline {
    /// Whether nothing is owed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.expected.is_empty()
    }

    /// Whether nothing is owed and the server takes any request.
    #[inline]
    pub fn is_quiescent(&self) -> bool {
        self.expected.is_empty() && self.phase == Phase::Normal
    }

    /// Whether the server ignores what is sent until a Sync.
    #[inline]
    pub fn ignores_until_sync(&self) -> bool {
        self.phase == Phase::IgnoringUntilSync
    }

    /// Whether the server takes COPY data.
    #[inline]
    pub fn is_copy_in(&self) -> bool {
        self.phase == Phase::CopyIn
    }

    /// Enters a request that was sent, or that is answered by us.
    #[inline]
    pub fn push(&mut self, request: Request, disposition: Disposition) {
        self.expected.push_back(Expected {
            request,
            disposition,
        });
    }

    /// A Sync was sent. In copy-in mode it is swallowed by the server and nothing is owed for it.
    #[inline]
    pub fn push_sync(&mut self) {
        if self.phase == Phase::CopyIn {
            return;
        }
        self.phase = Phase::Normal;
        self.push(Request::Sync, Disposition::Forward);
    }

    /// CopyDone or CopyFail was sent.
    pub fn end_copy_in(&mut self) {
        if self.phase == Phase::CopyIn {
            self.phase = Phase::Normal;
        }
    }

    /// The oldest reply if it is one of ours, taken out.
    #[inline]
    pub fn next_fake(&mut self) -> Option<Fake> {
        match self.expected.front() {
            Some(Expected {
                disposition: Disposition::Fake(fake),
                ..
            }) => {
                let fake = *fake;
                self.expected.pop_front();
                Some(fake)
            }
            _ => None,
        }
    }

    /// Whether all replies are ours, so that no message of the server's will bring them out.
    #[inline]
    pub fn owes_only_fakes(&self) -> bool {
        self.expected
            .iter()
            .all(|e| matches!(e.disposition, Disposition::Fake(_)))
    }

    /// Whether the oldest reply is that of a probe.
    #[inline]
    pub fn is_probing(&self) -> bool {
        self.expected
            .front()
            .is_some_and(|expected| expected.disposition == Disposition::Skip(OnBehalf::Probe))
    }

    /// How many ReadyForQuery messages the client still awaits, and whether requests are left over
    /// behind the last of them (a batch whose Sync has not been sent).
    pub fn awaited(&self) -> Awaited {
        let mut awaited = Awaited {
            ready_for_query: 0,
            open_batch: false,
        };
        for expected in &self.expected {
            if matches!(expected.disposition, Disposition::Skip(_)) {
                continue;
            }
            match expected.request {
                Request::Query | Request::FunctionCall | Request::Sync => {
                    awaited.ready_for_query += 1;
                    awaited.open_batch = false;
                }
                _ => awaited.open_batch = true,
            }
        }
        awaited.open_batch |= self.phase == Phase::IgnoringUntilSync;
        awaited
    }

    /// Whether the server is left in the middle of a batch whose Sync was not sent.
    pub fn ends_in_open_batch(&self) -> bool {
        let last = self.expected.back().map(|expected| &expected.request);
        self.phase == Phase::IgnoringUntilSync
            || !matches!(
                last,
                None | Some(Request::Query | Request::FunctionCall | Request::Sync)
            )
    }

    /// Fits a server's message to the oldest request.
    #[inline]
    pub fn on_message(&mut self, tag: BackendTag) -> Result<Step, Desync> {
        use BackendTag as B;
        let Some(front) = self.expected.front() else {
            return Self::on_unexpected(tag);
        };
        let disposition = front.disposition;
        let completes = match (&front.request, tag) {
            (_, B::NoticeResponse | B::NotificationResponse | B::ParameterStatus) => {
                return Ok(Step::Unsolicited(Some(disposition)));
            }
            (_, B::ErrorResponse) => return Ok(self.on_error()),
            (Request::Query | Request::FunctionCall | Request::Sync, B::ReadyForQuery)
            | (Request::Parse { .. }, B::ParseComplete)
            | (Request::Bind { .. }, B::BindComplete)
            | (Request::Close { .. }, B::CloseComplete)
            | (
                Request::DescribeStatement | Request::DescribePortal,
                B::NoData | B::RowDescription,
            )
            | (Request::Execute, B::CommandComplete | B::EmptyQueryResponse | B::PortalSuspended) => {
                true
            }
            (Request::Query | Request::Execute, B::CopyInResponse | B::CopyBothResponse) => {
                self.begin_copy_in();
                false
            }
            (
                Request::Query | Request::Execute,
                B::DataRow | B::CopyOutResponse | B::CopyData | B::CopyDone,
            )
            | (Request::Query, B::RowDescription | B::CommandComplete | B::EmptyQueryResponse)
            | (Request::DescribeStatement, B::ParameterDescription)
            | (Request::FunctionCall, B::FunctionCallResponse) => false,
            _ => {
                return Err(Desync {
                    tag,
                    expected: front.request.awaited(),
                });
            }
        };
        if completes {
            if tag == B::ReadyForQuery {
                self.phase = Phase::Normal;
            }
            Ok(self
                .expected
                .pop_front()
                .map_or(Step::Within(disposition), Step::Done))
        } else {
            Ok(Step::Within(disposition))
        }
    }

    fn on_unexpected(tag: BackendTag) -> Result<Step, Desync> {
        match tag {
            BackendTag::NoticeResponse
            | BackendTag::NotificationResponse
            | BackendTag::ParameterStatus
            | BackendTag::ErrorResponse => Ok(Step::Unsolicited(None)),
            _ => Err(Desync {
                tag,
                expected: "nothing was asked of it",
            }),
        }
    }

    fn on_error(&mut self) -> Step {
        let Some(front) = self.expected.front() else {
            return Step::Unsolicited(None);
        };
        if self.phase == Phase::CopyIn {
            self.phase = Phase::Normal;
        }
        if matches!(
            front.request,
            Request::Query | Request::FunctionCall | Request::Sync
        ) {
            return Step::Within(front.disposition);
        }
        let end = self
            .expected
            .iter()
            .position(|expected| matches!(expected.request, Request::Sync))
            .unwrap_or(self.expected.len());
        let voided = self.expected.drain(..end).collect();
        if self.expected.is_empty() {
            self.phase = Phase::IgnoringUntilSync;
        }
        Step::Void(voided)
    }

    /// The server turned to copy-in mode while executing the oldest request. What was sent behind
    /// that request before we knew is swallowed by it: every Sync, up to and including the first
    /// message of another kind, which ends the COPY with an error.
    fn begin_copy_in(&mut self) {
        self.phase = Phase::CopyIn;
        while self.expected.len() > 1 {
            let swallowed = self.expected.remove(1);
            let is_sync = swallowed.is_some_and(|e| matches!(e.request, Request::Sync));
            if !is_sync {
                break;
            }
        }
    }
}

/// What a client is still waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// ReadyForQuery messages.
    pub ready_for_query: usize,
    /// Whether a batch has begun whose Sync has not been sent.
    pub open_batch: bool,
}

impl Request {
    fn awaited(&self) -> &'static str {
        match self {
            Self::Query => "the result of a Query was awaited",
            Self::FunctionCall => "a FunctionCallResponse was awaited",
            Self::Sync => "ReadyForQuery was awaited",
            Self::Parse { .. } => "ParseComplete was awaited",
            Self::Bind { .. } => "BindComplete was awaited",
            Self::DescribeStatement | Self::DescribePortal => "a description was awaited",
            Self::Execute => "the result of an Execute was awaited",
            Self::Close { .. } => "CloseComplete was awaited",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(requests: impl IntoIterator<Item = Request>) -> Pipeline {
        let mut pipeline = Pipeline::default();
        for request in requests {
            pipeline.push(request, Disposition::Forward);
        }
        pipeline
    }

    fn bind() -> Request {
        Request::Bind { statement: None }
    }

    fn done(pipeline: &mut Pipeline, tag: BackendTag) -> bool {
        matches!(pipeline.on_message(tag), Ok(Step::Done(_)))
    }

    #[test]
    fn replies_complete_their_requests_in_order() {
        let mut pipeline = batch([
            bind(),
            Request::DescribePortal,
            Request::Execute,
            Request::Sync,
        ]);
        assert!(done(&mut pipeline, BackendTag::BindComplete));
        assert!(done(&mut pipeline, BackendTag::RowDescription));
        assert!(!done(&mut pipeline, BackendTag::DataRow));
        assert!(done(&mut pipeline, BackendTag::CommandComplete));
        assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
        assert!(pipeline.is_quiescent());
    }

    #[test]
    fn an_error_voids_up_to_the_next_sync_and_not_beyond() {
        let mut pipeline = batch([
            bind(),
            Request::Execute,
            Request::Sync,
            bind(),
            Request::Sync,
        ]);
        match pipeline.on_message(BackendTag::ErrorResponse) {
            Ok(Step::Void(voided)) => assert_eq!(voided.len(), 2),
            other => panic!("{other:?}"),
        }
        assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
        assert!(done(&mut pipeline, BackendTag::BindComplete));
        assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
    }

    #[test]
    fn an_error_before_its_sync_was_sent_makes_the_server_ignore_the_rest() {
        let mut pipeline = batch([bind()]);
        assert!(matches!(
            pipeline.on_message(BackendTag::ErrorResponse),
            Ok(Step::Void(_))
        ));
        assert!(pipeline.ignores_until_sync() && !pipeline.is_quiescent());
        pipeline.push_sync();
        assert!(!pipeline.ignores_until_sync());
        assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
    }

    #[test]
    fn a_sync_sent_before_copy_in_was_known_is_swallowed() {
        let mut pipeline = batch([Request::Execute, Request::Sync]);
        assert!(!done(&mut pipeline, BackendTag::CopyInResponse));
        assert!(pipeline.is_copy_in());
        pipeline.push_sync(); // swallowed as well
        pipeline.end_copy_in();
        pipeline.push_sync(); // this one is answered
        assert!(done(&mut pipeline, BackendTag::CommandComplete));
        assert!(done(&mut pipeline, BackendTag::ReadyForQuery));
        assert!(pipeline.is_quiescent());
    }

    #[test]
    fn what_was_not_asked_for_is_a_desync() {
        assert!(batch([]).on_message(BackendTag::DataRow).is_err());
        assert!(batch([]).on_message(BackendTag::ReadyForQuery).is_err());
        assert!(
            batch([bind()])
                .on_message(BackendTag::ParseComplete)
                .is_err()
        );
        assert!(
            batch([Request::Sync])
                .on_message(BackendTag::CommandComplete)
                .is_err()
        );
        assert!(matches!(
            batch([]).on_message(BackendTag::NotificationResponse),
            Ok(Step::Unsolicited(None))
        ));
    }

    #[test]
    fn what_the_client_awaits_leaves_out_what_we_asked() {
        let mut pipeline = Pipeline::default();
        pipeline.push(Request::Query, Disposition::Skip(OnBehalf::Settings));
        pipeline.push(Request::Query, Disposition::Forward);
        pipeline.push(bind(), Disposition::Forward);
        assert_eq!(
            pipeline.awaited(),
            Awaited {
                ready_for_query: 1,
                open_batch: true
            }
        );
    }
}
