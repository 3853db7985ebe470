//! What the monitor knows of one server, and what it has asked it.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};

use super::{pace::Pace, probe::Question};
use crate::{
    config::PoolSettings,
    pool::{
        fitness::{Fitness, Lag},
        health::{self, Contact, Standing},
    },
    route::{Host, HostState, Lsn},
    server::observe::{Identity, Sight},
};

/// Between two looks because of clients' doubts, which come by the hundred.
const SUSPECT: Duration = Duration::from_millis(20);
/// Between two looks at a standby that has yet to be seen on the primary's timeline.
const FOREIGN: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct File {
    questions: mpsc::UnboundedSender<Question>,
    pub(super) contact: Contact,
    /// Counts the connections.
    pub(super) link: u64,
    /// A question is under way.
    pub(super) is_asked: bool,
    /// When it was last looked at.
    pub(super) looked: Option<Instant>,
    pub(super) pace: Pace,
    pub(super) replayed: Lsn,
    pub(super) fitness: Fitness,
    suspicion: Suspicion,
    /// The doubts that were heeded are counted in it.
    pub(super) incarnation: u32,
    /// When it was last started.
    started: Option<u64>,
    /// Why there is no connection.
    pub(super) lost: String,
    /// What is published.
    pub(super) state: HostState,
}

/// Whether clients have lost connections to it since it was last looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Suspicion {
    None,
    Raised,
    /// A look is under way.
    Asked,
}

impl File {
    pub(super) fn new(questions: mpsc::UnboundedSender<Question>, incarnation: u32) -> Self {
        Self {
            questions,
            contact: Contact::Never,
            link: 0,
            is_asked: false,
            looked: None,
            pace: Pace::default(),
            replayed: Lsn::default(),
            fitness: Fitness::default(),
            suspicion: Suspicion::None,
            incarnation,
            started: None,
            lost: String::new(),
            state: HostState::Unknown,
        }
    }

    pub(super) fn is_met(&self) -> bool {
        matches!(self.contact, Contact::Met(_))
    }

    /// Clients have lost connections to it. One event fails many of them: it counts once, until it has
    /// been looked at.
    pub(super) fn on_doubt(&mut self, incarnation: u32, now: Instant, settings: &PoolSettings) {
        self.incarnation = incarnation;
        self.replayed = Lsn::default();
        if self.suspicion == Suspicion::None && self.is_met() {
            self.fitness.on_failure(now, settings);
        }
        self.suspicion = Suspicion::Raised;
    }

    /// There is a new connection.
    pub(super) fn on_met(&mut self, link: u64, started: u64) {
        self.link = link;
        self.suspicion = Suspicion::None;
        if self.started.is_some_and(|before| before != started) {
            self.fitness.on_restart();
        }
        self.started = Some(started);
    }

    /// It was looked at; answers whether it has become something else.
    pub(super) fn on_sight(
        &mut self,
        sight: &Sight,
        now: Instant,
        settings: &PoolSettings,
    ) -> bool {
        let mut identity = sight.identity;
        if let Contact::Met(known) = self.contact {
            let key = |it: &Identity| (it.system, it.started, it.in_recovery);
            // What a standby tells of its timeline may be forgotten, but not undone.
            if key(&known) == key(&identity) {
                identity.timeline = identity.timeline.max(known.timeline);
            }
        }
        self.looked = Some(now);
        self.lost.clear();
        self.fitness.on_delay(sight.delay);
        if self.suspicion == Suspicion::Asked {
            self.suspicion = Suspicion::None;
        } else {
            self.fitness.on_success(now, settings);
        }
        let before = std::mem::replace(&mut self.contact, Contact::Met(identity));
        before != self.contact
    }

    /// It has replayed so far, and should have come to `target`; answers whether that is news.
    pub(super) fn on_replayed(&mut self, position: Lsn, target: Option<Lsn>, now: Instant) -> bool {
        let has_moved = position > self.replayed;
        let is_there = target.is_none_or(|target| position >= target);
        if has_moved || is_there {
            self.pace.on_moved();
        } else {
            self.pace.on_still(now);
        }
        self.replayed = position;
        self.fitness.on_replayed(position);
        has_moved
    }

    /// There is no connection. The first time in a row, it is made again at once.
    pub(super) fn on_lost(
        &mut self,
        why: String,
        host: &Host,
        now: Instant,
        settings: &PoolSettings,
    ) {
        self.lost = why;
        self.contact = match self.contact {
            Contact::Met(identity) => {
                self.fitness.on_failure(now, settings);
                self.fitness.forget_positions();
                self.replayed = Lsn::default();
                host.doubt();
                self.incarnation = host.incarnation();
                Contact::Broken(identity)
            }
            _ => Contact::Lost,
        };
    }

    /// What kind of standby it is. Lag is judged only where there is a primary.
    pub(super) fn state_of_standby(
        &mut self,
        has_primary: bool,
        now: Instant,
        settings: &PoolSettings,
    ) -> HostState {
        if has_primary {
            self.fitness.judge_lag(now, settings);
        }
        if self.suspicion != Suspicion::None {
            HostState::Down
        } else if self.fitness.is_ejected(now) {
            HostState::Ejected
        } else if self.fitness.is_lagging() {
            HostState::Lagging
        } else {
            HostState::Replica
        }
    }

    /// Says how far it is behind: a primary is not.
    pub(super) fn publish_lag(&self, to: &Host, now: Instant) {
        let identity = self.contact.identity();
        let is_standby = identity.is_some_and(|identity| identity.in_recovery);
        let lag = if is_standby {
            self.fitness.lag(now)
        } else {
            Lag::default()
        };
        let micros = u64::try_from(lag.age.as_micros()).unwrap_or(u64::MAX);
        to.set_lag(lag.bytes, micros);
    }

    /// Says how far it has come, if that compares with anything, and what share it has.
    pub(super) fn publish(
        &mut self,
        to: &Host,
        (standing, state): (Standing, HostState),
        now: Instant,
        settings: &PoolSettings,
    ) {
        let identity = self.contact.identity();
        let timeline = identity.and_then(|identity| identity.timeline);
        to.set_timeline(timeline.unwrap_or(0));
        let is_known = identity.as_ref().and_then(health::history_of).is_some();
        if standing == Standing::Standby && is_known {
            to.set_replayed(self.replayed);
        }
        match state {
            HostState::Replica => to.set_share(self.fitness.share(now, settings)),
            HostState::Down | HostState::Ejected => self.fitness.on_away(now),
            _ => {}
        }
    }

    /// When it is to be looked at next, if that is to be after `interval`.
    pub(super) fn look_due(&self, interval: Duration, now: Instant) -> Instant {
        let interval = match (self.suspicion, self.state) {
            (Suspicion::Raised, _) => SUSPECT,
            (_, HostState::Foreign) => interval.min(FOREIGN),
            _ => interval,
        };
        self.looked.map_or(now, |looked| looked + interval)
    }

    /// Sends a question.
    pub(super) fn ask(&mut self, question: Question, now: Instant) {
        if question.is_look && self.suspicion == Suspicion::Raised {
            self.suspicion = Suspicion::Asked;
        }
        self.pace.on_asked(now);
        // Without a probe there is no answer either, and nothing more is asked.
        self.is_asked = self.questions.send(question).is_ok();
    }
}
