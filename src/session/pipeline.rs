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
//!
//! One case cannot be told from outside: when a COPY fails, the Syncs that were sent before its data
//! may have been swallowed, or may be answered still (a trigger can fail before any data is read;
//! measured on PostgreSQL 15). Such a server is not quiescent until a fence, a request of our own
//! whose answer cannot be mistaken, has come back.

use std::{collections::VecDeque, sync::Arc};

use super::{
    expected::{Counts, Disposition, Expected, Fake, OnBehalf, Request},
    revoke::Revoke,
    statements::Statement,
    unnamed::UnnamedStatement,
};
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

/// How a server's message fits.
#[derive(Debug)]
pub enum Step {
    /// Part of the oldest request's reply, which goes on.
    Within(Disposition),
    /// The end of the oldest request's reply.
    Done(Disposition),
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
    /// Syncs that were sent while, or before it was known that, the server takes COPY data.
    swallowed: u32,
    /// Syncs that may have been swallowed by a COPY that failed, or may yet be answered.
    doubtful: u32,
    /// Whether there are such Syncs, or may be, of which no fence has been sent.
    needs_fence: bool,
    /// Whether the last request that was entered left a batch open.
    is_open: bool,
    counts: Counts,
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
    /// How many replies are owed.
    #[inline]
    pub fn len(&self) -> usize {
        self.expected.len()
    }

    /// Whether nothing is owed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.expected.is_empty()
    }

    /// Whether nothing is owed, and the server is between batches and takes any request.
    #[inline]
    pub fn is_quiescent(&self) -> bool {
        self.expected.is_empty()
            && !self.is_open
            && self.phase == Phase::Normal
            && self.doubtful == 0
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

    /// Whether an earlier batch may yet take back what was entered for it.
    #[inline]
    pub fn may_revoke(&self) -> bool {
        self.counts.revocable > 0
    }

    /// Whether the client awaits the end of an earlier batch, so that the transaction's status is not
    /// known.
    #[inline]
    pub fn is_status_open(&self) -> bool {
        self.counts.rounds > 0
    }

    /// Enters a request that was sent, or that is answered by us.
    #[inline]
    pub fn push(&mut self, request: Request, disposition: Disposition) {
        self.push_expected(Expected::new(request, disposition));
    }

    /// Enters a request that was sent, or that is answered by us.
    #[inline]
    pub fn push_expected(&mut self, expected: Expected) {
        self.counts.enter(&expected);
        self.is_open = !expected.ends_batch();
        self.expected.push_back(expected);
    }

    /// A Sync was sent. In copy-in mode it is swallowed by the server and nothing is owed for it;
    /// answers whether something is.
    #[inline]
    pub fn push_sync(&mut self, disposition: Disposition) -> bool {
        if self.phase == Phase::CopyIn {
            self.swallow();
            return false;
        }
        self.phase = Phase::Normal;
        self.push(Request::Sync, disposition);
        true
    }

    /// CopyDone or CopyFail was sent.
    pub fn end_copy_in(&mut self) {
        if self.phase == Phase::CopyIn {
            self.phase = Phase::Normal;
        } else if let Some(last) = self.expected.iter_mut().rfind(|e| !e.is_fake()) {
            // It may belong to a COPY of which we do not know yet, with Syncs before it.
            last.copy_ends = last.copy_ends.saturating_add(1);
            self.needs_fence |= last.request == Request::Sync;
        }
    }

    /// Whether a fence is to be sent behind what has been sent so far, where a batch ends. It must not
    /// get among the data of a COPY.
    #[inline]
    pub fn wants_fence(&self) -> bool {
        self.needs_fence && self.phase == Phase::Normal && !self.may_copy_in()
    }

    /// Whether something is under way that may turn out to be a COPY whose data has not ended.
    fn may_copy_in(&self) -> bool {
        let running = self.expected.iter().filter(|expected| {
            matches!(expected.request, Request::Query | Request::Execute) && !expected.is_fake()
        });
        running.count() > usize::from(self.doubtful == 0)
    }

    /// A fence was sent: a Close of something that does not exist, and a Sync.
    pub fn push_fence(&mut self) {
        self.needs_fence = false;
        let on_behalf = Disposition::Skip(OnBehalf::Fence);
        self.push(Request::Close, on_behalf);
        self.push(Request::Sync, on_behalf);
    }

    /// The oldest reply if it is one of ours, taken out.
    #[inline]
    pub fn next_fake(&mut self) -> Option<Fake> {
        match self.expected.front()?.disposition {
            Disposition::Fake(fake) => {
                self.pop();
                Some(fake)
            }
            Disposition::Forward | Disposition::Skip(_) | Disposition::Refuse(_) => None,
        }
    }

    /// Whether any reply goes to the client.
    #[inline]
    pub(super) fn owes_client(&self) -> bool {
        let is_clients =
            |expected: &Expected| !matches!(expected.disposition, Disposition::Skip(_));
        self.expected.iter().any(is_clients)
    }

    /// Whether anything is owed but that a server takes the settings of the client that has just got it.
    #[inline]
    pub(super) fn owes_more_than_settings(&self) -> bool {
        let settings = Disposition::Skip(OnBehalf::Settings);
        let mut expected = self.expected.iter();
        expected.any(|expected| expected.disposition != settings)
    }

    /// The oldest reply, that of a Sync, is kept from the client after all.
    pub(super) fn keep_from_client(&mut self) {
        if let Some(front) = self.expected.front_mut() {
            if front.is_round() {
                self.counts.rounds -= 1;
            }
            front.disposition = Disposition::Skip(OnBehalf::Statement);
        }
    }

    /// Whether the oldest reply is one of ours.
    #[inline]
    pub fn owes_fake(&self) -> bool {
        self.expected.front().is_some_and(Expected::is_fake)
    }

    /// Whether what is sent now may be ignored by the server, because an extended-query message
    /// before it, and behind the last Sync, may be refused. A Query between them ends no batch.
    #[inline]
    pub(super) fn may_be_ignored(&self) -> bool {
        self.counts.unsynced > 0
    }

    /// The unnamed statement with this serial number never came to be: whatever is owed and taken back
    /// brings back `instead`.
    pub(super) fn replace_unnamed(&mut self, serial: u64, instead: &mut UnnamedStatement) {
        let revokes = self.expected.iter_mut().flat_map(|it| &mut it.revokes);
        revokes.for_each(|revoke| revoke.replace_unnamed(serial, instead));
    }

    /// Whether the oldest reply is one of ours, and the client waits for nothing else.
    #[inline]
    pub fn owes_faked_round(&self) -> bool {
        self.expected
            .front()
            .is_some_and(|front| front.is_fake() && front.ends_batch())
    }

    /// Whether the oldest reply is that of a probe.
    #[inline]
    pub fn is_probing(&self) -> bool {
        self.under_way() == Some(Disposition::Skip(OnBehalf::Probe))
    }

    /// What becomes of the oldest reply.
    #[inline]
    pub(super) fn under_way(&self) -> Option<Disposition> {
        self.expected.front().map(|expected| expected.disposition)
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
            if expected.ends_batch() {
                awaited.ready_for_query += 1;
                awaited.open_batch = false;
            } else {
                awaited.open_batch = true;
            }
        }
        awaited.open_batch |= self.phase == Phase::IgnoringUntilSync;
        awaited
    }

    /// Whether the server is left in the middle of a batch whose Sync was not sent.
    pub fn ends_in_open_batch(&self) -> bool {
        self.is_open || self.phase == Phase::IgnoringUntilSync
    }

    /// Takes out all that is owed: the server will not answer any more.
    pub fn take_all(&mut self) -> Vec<Expected> {
        std::mem::take(self).expected.into()
    }

    /// What the oldest request has to give back and is about, taken from it: it was refused, and its
    /// reply goes on.
    pub(super) fn take_failing(&mut self) -> Option<Expected> {
        let front = self.expected.front_mut()?;
        let failing = Expected {
            revokes: std::mem::take(&mut front.revokes),
            ..Expected::new(front.request, front.disposition).about(front.subject)
        };
        if !failing.revokes.is_empty() {
            self.counts.forget_revocable();
        }
        Some(failing)
    }

    /// Whether the client's names were taken away for the oldest request.
    pub(super) fn has_taken_names(&self) -> bool {
        self.expected.front().is_some_and(|front| {
            let is_names = |revoke: &Revoke| matches!(revoke, Revoke::Names(_));
            front.revokes.iter().any(is_names)
        })
    }

    /// The names that the client gives to statements by requests that are not answered.
    pub(super) fn names_to_come(&self) -> impl Iterator<Item = (&[u8], &Arc<Statement>)> {
        let revokes = self.expected.iter().flat_map(|expected| &expected.revokes);
        revokes.filter_map(|revoke| match revoke {
            Revoke::Prepared {
                statement,
                client_name: Some(name),
                ..
            } => Some((&**name, statement)),
            _ => None,
        })
    }

    /// What the client called a statement, by the server's name, that it has given up by a request which is not answered.
    pub(super) fn name_given_up(&self, server_name: &[u8]) -> Option<&[u8]> {
        let revokes = self.expected.iter().flat_map(|expected| &expected.revokes);
        let mut names = revokes.filter_map(|revoke| match revoke {
            Revoke::Named {
                client_name,
                statement,
            } => (*statement.name == *server_name).then_some(&**client_name),
            Revoke::Names(names) => names.client_name(server_name),
            _ => None,
        });
        names.next()
    }

    /// Whether the oldest reply goes to the client and may hold rows, which say nothing else about it; and, if so, whether
    /// their description may be among them.
    #[inline(always)]
    pub(super) fn forwards_rows(&self) -> Option<bool> {
        let front = self.expected.front()?;
        match front.request {
            _ if front.disposition != Disposition::Forward => None,
            Request::Query => Some(true),
            Request::Execute => Some(false),
            _ => None,
        }
    }

    /// Fits a server's message to the oldest request. As a function of its own it would cost 50 instructions more, a message.
    #[inline(always)]
    pub fn on_message(&mut self, tag: BackendTag) -> Result<Step, Desync> {
        use BackendTag as B;
        let Some(front) = self.expected.front() else {
            return self.on_unexpected(tag);
        };
        let disposition = front.disposition;
        let completes = match (front.request, tag) {
            (_, B::NoticeResponse | B::NotificationResponse | B::ParameterStatus) => {
                return Ok(Step::Unsolicited(Some(disposition)));
            }
            (_, B::ErrorResponse) => return Ok(self.on_error()),
            (Request::Query | Request::FunctionCall | Request::Sync, B::ReadyForQuery)
            | (Request::Parse, B::ParseComplete)
            | (Request::Bind, B::BindComplete)
            | (Request::Close, B::CloseComplete)
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
            (_, B::ReadyForQuery) if self.doubtful > 0 => return Ok(self.on_doubtful_sync()),
            (request, _) => {
                return Err(Desync {
                    tag,
                    expected: request.awaited(),
                });
            }
        };
        if tag == B::CommandComplete {
            // The COPY went well: what was sent before the end of its data has been swallowed.
            self.swallowed = 0;
            self.needs_fence &= self.doubtful > 0;
        }
        if !completes {
            return Ok(Step::Within(disposition));
        }
        if tag == B::ReadyForQuery {
            self.phase = Phase::Normal;
        }
        if disposition == Disposition::Skip(OnBehalf::Fence) && tag == B::CloseComplete {
            self.doubtful = 0;
        }
        if let Some(done) = self.pop()
            && tag == B::ParseComplete
        {
            done.revokes.iter().for_each(Revoke::accept);
        }
        Ok(Step::Done(disposition))
    }

    fn on_unexpected(&mut self, tag: BackendTag) -> Result<Step, Desync> {
        match tag {
            BackendTag::NoticeResponse
            | BackendTag::NotificationResponse
            | BackendTag::ParameterStatus
            | BackendTag::ErrorResponse => Ok(Step::Unsolicited(None)),
            BackendTag::ReadyForQuery if self.doubtful > 0 => Ok(self.on_doubtful_sync()),
            _ => Err(Desync {
                tag,
                expected: "nothing was asked of it",
            }),
        }
    }

    /// One of the Syncs was not swallowed after all. The client sent it and gets its answer.
    fn on_doubtful_sync(&mut self) -> Step {
        self.doubtful -= 1;
        self.is_open &= !self.expected.is_empty();
        self.phase = Phase::Normal;
        Step::Done(Disposition::Forward)
    }

    fn on_error(&mut self) -> Step {
        self.doubtful += std::mem::take(&mut self.swallowed);
        if self.phase == Phase::CopyIn {
            self.phase = Phase::Normal;
        }
        let Some(front) = self.expected.front() else {
            return Step::Unsolicited(None);
        };
        if front.ends_batch() {
            return Step::Within(front.disposition);
        }
        let end = self
            .expected
            .iter()
            .position(|expected| expected.request == Request::Sync)
            .unwrap_or(self.expected.len());
        let mut voided = Vec::with_capacity(end);
        for _ in 0..end {
            voided.extend(self.pop());
        }
        if self.expected.is_empty() {
            self.phase = Phase::IgnoringUntilSync;
        }
        Step::Void(voided)
    }

    /// The server turned to copy-in mode while executing the oldest request. What was sent behind
    /// that request before we knew is swallowed by it: every Sync, up to the end of the data, or to
    /// the first message of another kind, which is an error (since PostgreSQL 14 the end of the
    /// connection).
    fn begin_copy_in(&mut self) {
        self.phase = Phase::CopyIn;
        if let Some(front) = self.expected.front_mut()
            && front.copy_ends > 0
        {
            front.copy_ends -= 1;
            self.phase = Phase::Normal;
            return;
        }
        let (mut end, mut syncs, mut copy_ends) = (1, 0, 0);
        while let Some(next) = self.expected.get(end)
            && copy_ends == 0
            && (next.is_fake() || next.request == Request::Sync)
        {
            if !next.is_fake() {
                syncs += 1;
                copy_ends = next.copy_ends;
            }
            end += 1;
        }
        if syncs == 0 {
            return;
        }
        let mut behind = self.expected.split_off(end);
        self.expected
            .retain(|expected| expected.is_fake() || expected.request != Request::Sync);
        if let Some(last) = self.expected.back_mut()
            && copy_ends > 0
        {
            last.copy_ends += copy_ends - 1;
            self.phase = Phase::Normal;
        }
        self.expected.append(&mut behind);
        self.swallowed += syncs;
        let is_fence = |e: &Expected| e.disposition == Disposition::Skip(OnBehalf::Fence);
        self.needs_fence = !self.expected.iter().any(is_fence);
        self.counts = Counts::of(&self.expected);
        self.is_open = self.expected.back().is_some_and(|last| !last.ends_batch());
    }

    fn swallow(&mut self) {
        self.swallowed += 1;
        self.needs_fence = true;
    }

    #[inline]
    fn pop(&mut self) -> Option<Expected> {
        let expected = self.expected.pop_front()?;
        self.counts.leave(&expected);
        Some(expected)
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

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
