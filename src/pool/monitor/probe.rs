//! The task that keeps one connection to one server, and asks on it what it is told to ask.
//!
//! Knows nothing of the other servers and judges nothing. Whatever it finds it reports, and a connection
//! that breaks it reports at once, asked or not.
//!
//! Invariant: the number of a poll is taken before its query is written.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use super::Plan;
use crate::{
    config::describe,
    pool::Watch,
    route::{HostId, Poll},
    server::{
        ServerLogin,
        connect_error::ConnectFailure,
        observe::{ObserveError, Observer, Position, Sight},
    },
};

/// Before the second attempt to connect; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between attempts at a server that cannot be reached: writes may be waiting for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Asked on this connection only.
    pub(super) link: u64,
    /// Whether the answer is a numbered position of the primary.
    pub(super) is_numbered: bool,
    /// Whether to look at all of it, not only at its position.
    pub(super) is_look: bool,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) host: HostId,
    /// Counts the connections to that host.
    pub(super) link: u64,
    pub(super) finding: Finding,
}

#[derive(Debug)]
pub(super) enum Finding {
    /// A new connection, and the first look.
    Met(Sight),
    /// The answer to a look, or the look that was taken because the role has changed.
    Looked(Sight, Option<Poll>),
    /// The answer to a poll.
    Moved(Position, Option<Poll>),
    /// There is no connection, and why.
    Lost(String),
}

/// See the module.
pub(super) struct Probe {
    pub(super) host: HostId,
    pub(super) watch: Arc<Watch>,
    pub(super) plan: watch::Receiver<Arc<Plan>>,
    pub(super) questions: mpsc::UnboundedReceiver<Question>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
}

impl Probe {
    /// Runs until the monitor is gone.
    pub(super) async fn run(mut self) {
        let mut link = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            link += 1;
            let Some(login) = self.login() else {
                return;
            };
            let limit = self.limit();
            let opened = timeout(limit, Observer::open(&login)).await;
            let opened = opened.unwrap_or(Err(ObserveError::Timeout(limit)));
            let wait = match opened {
                Ok((observer, sight)) => {
                    let since = Instant::now();
                    self.watch.shut_out.store(false, Ordering::Relaxed);
                    self.report(link, Finding::Met(sight));
                    let Some(error) = self.serve(observer, link, sight, &login).await else {
                        return;
                    };
                    self.report(link, Finding::Lost(describe(&error)));
                    // One that keeps breaking is not hammered.
                    if since.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                        continue;
                    }
                    pause
                }
                Err(error) => {
                    self.report(link, Finding::Lost(describe(&error)));
                    if is_personal(&error) {
                        self.watch.shut_out.store(true, Ordering::Relaxed);
                    }
                    // Each time, the server logs it.
                    if is_refused(&error) {
                        self.interval()
                    } else {
                        pause
                    }
                }
            };
            let longest = self.interval().min(LONGEST_PAUSE).max(FIRST_PAUSE);
            pause = (pause * 2).min(longest);
            tokio::select! {
                () = sleep(wait) => {}
                changed = self.plan.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Answers questions until the connection breaks; `None` when the monitor is gone.
    async fn serve(
        &mut self,
        mut observer: Observer,
        link: u64,
        first: Sight,
        login: &Arc<ServerLogin>,
    ) -> Option<ObserveError> {
        let mut in_recovery = first.identity.in_recovery;
        loop {
            let question = tokio::select! {
                question = self.questions.recv() => question?,
                error = observer.broken() => return Some(error),
                changed = self.plan.changed() => {
                    changed.ok()?;
                    if self.login()?.is_same(login) {
                        continue;
                    }
                    return Some(ObserveError::OtherLogin);
                }
            };
            if question.link != link {
                continue;
            }
            let limit = self.limit();
            let answer = timeout(limit, self.ask(&mut observer, question, in_recovery)).await;
            match answer.unwrap_or(Err(ObserveError::Timeout(limit))) {
                Ok(finding) => {
                    if let Finding::Looked(sight, _) = &finding {
                        in_recovery = sight.identity.in_recovery;
                    }
                    self.report(link, finding);
                }
                Err(error) => return Some(error),
            }
        }
    }

    async fn ask(
        &self,
        observer: &mut Observer,
        question: Question,
        in_recovery: bool,
    ) -> Result<Finding, ObserveError> {
        let polls = &self.watch.topology.polls;
        let poll = question.is_numbered.then(|| polls.send());
        if question.is_look {
            return Ok(Finding::Looked(observer.look().await?, poll));
        }
        let position = observer.position().await?;
        if position.in_recovery == in_recovery {
            Ok(Finding::Moved(position, poll))
        } else {
            Ok(Finding::Looked(observer.look().await?, None))
        }
    }

    fn report(&self, link: u64, finding: Finding) {
        let host = self.host;
        let report = Report {
            host,
            link,
            finding,
        };
        // The monitor is gone, and with it the next question.
        drop(self.reports.send(report));
    }

    fn login(&self) -> Option<Arc<ServerLogin>> {
        self.plan.borrow().logins.get(self.host).cloned()
    }

    fn limit(&self) -> Duration {
        self.plan.borrow().settings.health_check_timeout
    }

    fn interval(&self) -> Duration {
        self.plan.borrow().settings.health_check_interval
    }
}

/// It has to do with whom it logs in as: somebody else may do better.
fn is_personal(error: &ObserveError) -> bool {
    let ObserveError::Connect(error) = error else {
        return false;
    };
    match &error.failure {
        ConnectFailure::Authentication(_) | ConnectFailure::ConnectQuery(_) => true,
        ConnectFailure::Refused(_) => !error.sqlstate().is_operator_intervention(),
        _ => false,
    }
}

/// As whom or to what it must not be: the next attempt would do no better.
fn is_refused(error: &ObserveError) -> bool {
    let ObserveError::Connect(error) = error else {
        return false;
    };
    error.refusal().is_some() && matches!(error.sqlstate().class(), "28" | "3D" | "42")
}
