//! Where all reports come together: what is known of each server, what is to be asked next, what is
//! published.
//!
//! No socket and no wait: reports and times in, questions and facts out.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{
    catalog::Occasion,
    file::File,
    news,
    probe::{Finding, Question, Report},
};
use crate::{
    config::{PoolSettings, PrimaryReads},
    pool::{
        Watch,
        health::{self, Before, Contact, Facts, Ruling, Standing},
    },
    route::{HostId, HostState, Lsn, Poll},
    server::observe::{Position, Sight},
};

/// Between two looks at each server while nobody takes writes: somebody may just be promoted.
const SEARCH: Duration = Duration::from_millis(250);
/// In so many steps a share grows back.
const STEPS: u32 = 50;

/// See the module.
pub(super) struct Desk {
    database: Box<str>,
    watch: Arc<Watch>,
    settings: Arc<PoolSettings>,
    files: Vec<File>,
    /// What was last ruled; `None` when something has changed since.
    ruling: Option<Ruling>,
    /// What a dispute was last about; nothing where there is none.
    dispute: Vec<Standing>,
    /// Where the primary was at the last poll of the present history.
    target: Option<Lsn>,
    /// The primary was found, or found again: positions of before count no more.
    is_blank: bool,
    /// Something was found out that is not told yet.
    is_news: bool,
}

impl Desk {
    pub(super) fn new(
        database: Box<str>,
        watch: Arc<Watch>,
        questions: Vec<mpsc::UnboundedSender<Question>>,
        settings: Arc<PoolSettings>,
    ) -> Self {
        let files = questions.into_iter().zip(watch.topology.hosts());
        let files = files.map(|(questions, host)| File::new(questions, host.incarnation()));
        Self {
            database,
            files: files.collect(),
            watch,
            settings,
            ruling: None,
            dispute: Vec::new(),
            target: None,
            is_blank: true,
            is_news: false,
        }
    }

    pub(super) fn set_settings(&mut self, settings: Arc<PoolSettings>) {
        self.settings = settings;
    }

    // ── What comes in ────────────────────────────────────────────────────────────────────────

    /// Takes note of the doubts of clients whose connections were lost.
    pub(super) fn heed_doubts(&mut self, now: Instant) {
        for (host, file) in self.watch.topology.hosts().iter().zip(&mut self.files) {
            let incarnation = host.incarnation();
            if incarnation != file.incarnation {
                file.on_doubt(incarnation, now, &self.settings);
            }
        }
    }

    /// Takes note of what a probe has found.
    pub(super) fn take(&mut self, report: Report, now: Instant) {
        let Report {
            host,
            link,
            finding,
        } = report;
        let file = &mut self.files[host];
        if link < file.link {
            return;
        }
        file.is_asked = false;
        match finding {
            Finding::Met(sight) => {
                file.on_met(link, sight.identity.started);
                // It may have lost what was not on disk, whether it tells of a restart or not.
                self.is_blank |= self.watch.topology.primary() == Some(host);
                self.on_sight(host, sight, None, now);
            }
            Finding::Looked(sight, poll) => self.on_sight(host, sight, poll, now),
            Finding::Moved(position, poll) => self.on_position(host, position, poll, now),
            Finding::Lost(why) => {
                tracing::debug!(database = %self.database, host, why, "no connection for watching");
                let to = &self.watch.topology.hosts()[host];
                file.on_lost(why, to, now, &self.settings);
                self.ruling = None;
            }
        }
    }

    fn on_sight(&mut self, host: HostId, sight: Sight, poll: Option<Poll>, now: Instant) {
        if self.files[host].on_sight(&sight, now, &self.settings) {
            self.ruling = None;
        }
        self.on_position(host, sight.position, poll, now);
    }

    fn on_position(&mut self, host: HostId, position: Position, poll: Option<Poll>, now: Instant) {
        match (position.in_recovery, position.lsn) {
            (_, None) => {}
            (true, Some(lsn)) => {
                let target = self.target;
                self.is_news |= self.files[host].on_replayed(Lsn(lsn), target, now);
            }
            (false, Some(lsn)) => self.on_insert(host, Lsn(lsn), poll, now),
        }
    }

    /// The primary was asked for its position at that poll.
    fn on_insert(&mut self, host: HostId, lsn: Lsn, poll: Option<Poll>, now: Instant) {
        let topology = &self.watch.topology;
        let Some((poll, identity)) = poll.zip(self.files[host].contact.identity()) else {
            return;
        };
        let is_current = topology.primary() == Some(host)
            && health::history_of(&identity) == topology.history()
            && !self.is_blank;
        if !is_current {
            return;
        }
        let position = lsn.of_insert(identity.wal_page);
        topology.polls.answer(poll, position);
        self.target = Some(position);
        self.is_news = true;
        for file in &mut self.files {
            file.fitness.on_primary(position, now);
            if file.replayed < position {
                file.pace.on_demand();
            }
        }
    }

    // ── What goes out ────────────────────────────────────────────────────────────────────────

    /// On what occasion the catalogue is to be read.
    pub(super) fn occasion(&self) -> Occasion {
        let primary = self.watch.topology.primary();
        let met = primary.filter(|host| self.files[*host].is_met());
        Occasion {
            primary: met.map(|host| (host, self.files[host].link)),
            changes: self.watch.schema_changes(),
        }
    }

    /// Says in the topology what is known now; answers whether there is any news for those who wait.
    pub(super) fn publish(&mut self, now: Instant) -> bool {
        let ruling = self.ruling.take().unwrap_or_else(|| self.judge());
        let states = self.states(&ruling, now);
        let serves = |state| matches!(state, HostState::Replica | HostState::Primary);
        for (file, to) in self.files.iter().zip(self.watch.topology.hosts()) {
            file.publish_lag(to, now);
        }
        // Who serves no more is told first, and what was known of the primary is made void before
        // another one is.
        self.set_states(&ruling, &states, |state| !serves(state));
        let before = self.before();
        self.is_blank |= before.primary != ruling.primary;
        self.begin_history(&ruling);
        let topology = &self.watch.topology;
        topology.set_primary(ruling.primary);
        for (host, file) in self.files.iter_mut().enumerate() {
            let what = (ruling.standings[host], states[host]);
            file.publish(&topology.hosts()[host], what, now, &self.settings);
        }
        self.set_states(&ruling, &states, serves);
        let topology = &self.watch.topology;
        if before.primary != ruling.primary {
            self.is_news = true;
            news::on_primary(&self.database, topology, before.primary);
        }
        if !ruling.is_disputed {
            self.dispute.clear();
        } else if self.dispute != ruling.standings {
            news::on_dispute(&self.database, topology, &ruling);
            self.dispute.clone_from(&ruling.standings);
        }
        // Whoever rules, rules from what holds now.
        self.ruling = (before == self.before()).then_some(ruling);
        std::mem::take(&mut self.is_news)
    }

    fn judge(&self) -> Ruling {
        let topology = &self.watch.topology;
        let facts = topology.hosts().iter().zip(&self.files);
        let facts = facts.map(|(host, file)| Facts {
            role: host.role,
            contact: file.contact,
        });
        health::judge(&facts.collect::<Vec<_>>(), self.before())
    }

    fn before(&self) -> Before {
        let topology = &self.watch.topology;
        Before {
            primary: topology.primary(),
            history: topology.history(),
        }
    }

    fn states(&mut self, ruling: &Ruling, now: Instant) -> Vec<HostState> {
        let settings = &self.settings;
        let has_primary = ruling.standings.contains(&Standing::Primary);
        let standings = ruling.standings.iter().zip(&mut self.files);
        let mut states: Vec<_> = standings
            .map(|(standing, file)| match standing {
                Standing::Unknown => HostState::Unknown,
                Standing::Primary => HostState::Primary,
                Standing::Down => HostState::Down,
                Standing::Fenced(_) => HostState::Fenced,
                Standing::Foreign(_) => HostState::Foreign,
                Standing::Standby => file.state_of_standby(has_primary, now, settings),
            })
            .collect();
        // Where the primary serves no reads, the best of those left out is better than none.
        let is_served = states.contains(&HostState::Replica);
        if settings.primary_reads == PrimaryReads::Never && !is_served {
            let ejected = (0..states.len()).filter(|host| states[*host] == HostState::Ejected);
            let back_in = |host: &HostId| self.files[*host].fitness.back_in(now);
            if let Some(best) = ejected.min_by_key(back_in) {
                states[best] = HostState::Replica;
            }
        }
        states
    }

    fn set_states(
        &mut self,
        ruling: &Ruling,
        states: &[HostState],
        which: impl Fn(HostState) -> bool,
    ) {
        for (host, file) in self.files.iter_mut().enumerate() {
            let state = states[host];
            if !which(state) {
                continue;
            }
            let to = &self.watch.topology.hosts()[host];
            // Always, for a client's doubt may have changed it.
            to.set_state(state);
            let from = std::mem::replace(&mut file.state, state);
            if from != state {
                self.is_news = true;
                let standing = ruling.standings[host];
                news::on_state(&self.database, to, (from, state), standing, &file.lost);
            }
        }
    }

    /// What was found before means nothing to a primary that has just been found, or found again.
    fn begin_history(&mut self, ruling: &Ruling) {
        let topology = &self.watch.topology;
        let is_met = ruling.primary.is_some_and(|host| self.files[host].is_met());
        match ruling.history.filter(|it| topology.history() != Some(*it)) {
            Some(history) => topology.set_history(history),
            None if self.is_blank && is_met => topology.polls.begin_history(),
            None => return,
        }
        self.is_blank = !is_met;
        self.target = None;
        for (file, standing) in self.files.iter_mut().zip(&ruling.standings) {
            file.fitness.forget_positions();
            if *standing == Standing::Standby {
                file.fitness.on_replayed(file.replayed);
            }
        }
    }

    // ── What is asked ────────────────────────────────────────────────────────────────────────

    /// Sends the questions that are due; answers when the next one will be, or something else is to be
    /// published.
    pub(super) fn ask_around(&mut self, now: Instant, is_awaited: bool) -> Instant {
        let interval = self.interval();
        let mut next = now + interval;
        for host in 0..self.files.len() {
            match self.due(host, interval, is_awaited, now) {
                Some((at, question)) if at <= now => self.files[host].ask(question, now),
                Some((at, _)) => next = next.min(at),
                None => {}
            }
            let fitness = &self.files[host].fitness;
            if let Some(left) = fitness.back_in(now) {
                next = next.min(now + left);
            }
            if let (true, Some(time)) = (fitness.is_starting(), self.settings.slow_start) {
                next = next.min(now + (time / STEPS).max(Duration::from_millis(1)));
            }
        }
        next
    }

    /// The next question for a server, and when.
    fn due(
        &self,
        host: HostId,
        interval: Duration,
        is_awaited: bool,
        now: Instant,
    ) -> Option<(Instant, Question)> {
        let file = &self.files[host];
        let Contact::Met(identity) = file.contact else {
            return None;
        };
        if file.is_asked {
            return None;
        }
        let topology = &self.watch.topology;
        let is_primary = topology.primary() == Some(host)
            && !identity.in_recovery
            && health::history_of(&identity).is_some();
        let question = |is_look| Question {
            link: file.link,
            is_numbered: is_primary,
            is_look,
        };
        let look = (file.look_due(interval, now), question(true));
        let is_wanted = if is_primary {
            self.target.is_none() || self.watch.wanted() > topology.polls.last_done()
        } else {
            let is_behind = self.target.is_some_and(|target| file.replayed < target);
            is_behind && matches!(file.state, HostState::Replica | HostState::Lagging)
        };
        let poll = (file.pace.due(is_awaited, now), question(false));
        Some(if is_wanted && poll.0 < look.0 {
            poll
        } else {
            look
        })
    }

    /// Between two looks at a server.
    fn interval(&self) -> Duration {
        let interval = self.settings.health_check_interval;
        let is_primary = |file: &File| file.is_met() && file.state == HostState::Primary;
        if self.files.iter().any(is_primary) {
            interval
        } else {
            interval.min(SEARCH)
        }
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
