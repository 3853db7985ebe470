//! Where all reports come together: what is known of each server, what is to be asked next, what is
//! published.
//!
//! No socket and no wait: reports and times in, questions and facts out.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{
    catalog::Occasion,
    pace::Pace,
    probe::{Finding, Question, Report},
};
use crate::{
    config::{PoolSettings, PrimaryReads},
    pool::{
        Watch,
        fitness::Fitness,
        health::{self, Before, Contact, Facts, Ruling, Standing},
    },
    route::{Host, HostId, HostState, Lsn, Poll},
    server::observe::{Identity, Position, Sight},
};

/// Between two looks at each server while there is no primary: somebody may just be promoted.
const SEARCH: Duration = Duration::from_millis(250);
/// Between two looks because of clients' doubts, which come by the hundred.
const SUSPECT: Duration = Duration::from_millis(20);
/// In so many steps a share grows back.
const STEPS: u32 = 50;

/// See the module.
pub(super) struct Desk {
    database: Box<str>,
    watch: Arc<Watch>,
    settings: Arc<PoolSettings>,
    files: Vec<File>,
    /// Where the primary was at the last poll, in the present history.
    target: Option<Lsn>,
    /// The history has begun anew: nothing is known until its first poll.
    is_blank: bool,
    is_disputed: bool,
    /// Something was found out that is not told yet.
    is_news: bool,
}

/// What is known of one server.
struct File {
    questions: mpsc::UnboundedSender<Question>,
    contact: Contact,
    link: u64,
    /// A question is under way.
    is_asked: bool,
    looked: Option<Instant>,
    pace: Pace,
    replayed: Lsn,
    fitness: Fitness,
    suspicion: Suspicion,
    /// The doubts that were heeded are counted in it.
    incarnation: u32,
    /// When it was last started.
    started: Option<u64>,
    /// Why there is no connection.
    lost: String,
    /// What is published.
    state: HostState,
}

/// Whether clients have complained since it was last looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Suspicion {
    None,
    Raised,
    /// A look is under way.
    Asked,
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
            target: None,
            is_blank: true,
            is_disputed: false,
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
            if incarnation == file.incarnation {
                continue;
            }
            file.incarnation = incarnation;
            // One event fails many clients: it counts once, until the server has been looked at.
            if file.suspicion == Suspicion::None && matches!(file.contact, Contact::Met(_)) {
                file.fitness.on_failure(now, &self.settings);
            }
            file.suspicion = Suspicion::Raised;
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
                file.link = link;
                let is_restarted = file.started.is_some_and(|it| it != sight.identity.started);
                if is_restarted {
                    file.fitness.on_restart();
                }
                file.started = Some(sight.identity.started);
                if self.watch.topology.primary() == Some(host) {
                    // It may have lost what was not on disk, whether it tells of a restart or not.
                    self.is_blank = true;
                }
                self.on_sight(host, sight, None, now);
            }
            Finding::Looked(sight, poll) => self.on_sight(host, sight, poll, now),
            Finding::Moved(position, poll) => self.on_position(host, position, poll, now),
            Finding::Lost(why) => self.on_lost(host, why, now),
        }
    }

    fn on_sight(&mut self, host: HostId, sight: Sight, poll: Option<Poll>, now: Instant) {
        let Sight {
            mut identity,
            position,
            delay,
        } = sight;
        let file = &mut self.files[host];
        if let Contact::Met(known) = file.contact {
            // What a standby tells of its timeline may be forgotten, but not undone.
            let is_same = (known.system, known.started) == (identity.system, identity.started);
            if is_same && known.in_recovery == identity.in_recovery {
                identity.timeline = identity.timeline.max(known.timeline);
            }
        }
        file.contact = Contact::Met(identity);
        file.looked = Some(now);
        file.lost.clear();
        file.fitness.on_delay(delay);
        if file.suspicion == Suspicion::Asked {
            file.suspicion = Suspicion::None;
        } else {
            file.fitness.on_success(now, &self.settings);
        }
        self.on_position(host, position, poll, now);
    }

    fn on_position(&mut self, host: HostId, position: Position, poll: Option<Poll>, now: Instant) {
        let Some(lsn) = position.lsn.map(Lsn) else {
            return;
        };
        if !position.in_recovery {
            self.on_insert(host, lsn, poll, now);
            return;
        }
        let file = &mut self.files[host];
        let is_there = self.target.is_none_or(|target| lsn >= target);
        if is_there || lsn > file.replayed {
            file.pace.on_moved();
        } else {
            file.pace.on_still(now);
        }
        self.is_news |= lsn > file.replayed;
        file.replayed = lsn;
        file.fitness.on_replayed(lsn);
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
        }
    }

    fn on_lost(&mut self, host: HostId, why: String, now: Instant) {
        let file = &mut self.files[host];
        tracing::debug!(database = %self.database, host, why, "no connection for watching");
        file.lost = why;
        file.contact = match file.contact {
            Contact::Met(identity) => {
                file.fitness.on_failure(now, &self.settings);
                file.fitness.forget_positions();
                file.replayed = Lsn::default();
                let doubted = &self.watch.topology.hosts()[host];
                doubted.doubt();
                file.incarnation = doubted.incarnation();
                Contact::Broken(identity)
            }
            _ => Contact::Lost,
        };
    }

    // ── What goes out ────────────────────────────────────────────────────────────────────────

    /// On what occasion the catalogue is to be read.
    pub(super) fn occasion(&self) -> Occasion {
        let primary = self.watch.topology.primary();
        let met = primary.filter(|host| matches!(self.files[*host].contact, Contact::Met(_)));
        Occasion {
            primary: met.map(|host| (host, self.files[host].link)),
            changes: self.watch.schema_changes(),
        }
    }

    /// Says in the topology what is known now; answers whether there is any news for those who wait.
    pub(super) fn publish(&mut self, now: Instant) -> bool {
        let ruling = self.judge();
        let states = self.states(&ruling, now);
        let topology = &self.watch.topology;
        let before = topology.primary();
        self.is_news |= before != ruling.primary;
        let serves = |state| matches!(state, HostState::Replica | HostState::Primary);
        for (host, state) in states.iter().enumerate().filter(|(_, it)| !serves(**it)) {
            self.set_state(host, *state, &ruling);
        }
        self.is_blank |= before != ruling.primary;
        self.begin_history(&ruling);
        let topology = &self.watch.topology;
        topology.set_primary(ruling.primary);
        for (host, state) in states.iter().enumerate() {
            let (file, to) = (&mut self.files[host], &topology.hosts()[host]);
            publish_position(file, to, ruling.standings[host], now);
            if *state == HostState::Replica {
                to.set_share(file.fitness.share(now, &self.settings));
            } else if matches!(state, HostState::Down | HostState::Ejected) {
                file.fitness.on_away(now);
            }
        }
        for (host, state) in states.iter().enumerate().filter(|(_, it)| serves(**it)) {
            self.set_state(host, *state, &ruling);
        }
        self.report_primary(before, &ruling);
        std::mem::take(&mut self.is_news)
    }

    fn judge(&self) -> Ruling {
        let topology = &self.watch.topology;
        let facts = topology.hosts().iter().zip(&self.files);
        let facts = facts.map(|(host, file)| Facts {
            role: host.role,
            contact: file.contact,
        });
        let before = Before {
            primary: topology.primary(),
            history: topology.history(),
        };
        health::judge(&facts.collect::<Vec<_>>(), before)
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
        // Where the primary serves no reads, the last one to fail is better than none.
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

    /// What was found before means nothing to a primary that has just been found, or found again.
    fn begin_history(&mut self, ruling: &Ruling) {
        let topology = &self.watch.topology;
        let is_other = topology.history() != ruling.history;
        let is_met = ruling
            .primary
            .is_some_and(|host| matches!(self.files[host].contact, Contact::Met(_)));
        if !is_other && !(self.is_blank && is_met) {
            return;
        }
        if is_other {
            ruling
                .history
                .into_iter()
                .for_each(|it| topology.set_history(it));
        } else {
            topology.polls.begin_history();
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

    fn set_state(&mut self, host: HostId, state: HostState, ruling: &Ruling) {
        let to = &self.watch.topology.hosts()[host];
        to.set_state(state);
        let file = &mut self.files[host];
        let from = std::mem::replace(&mut file.state, state);
        if from == state {
            return;
        }
        self.is_news = true;
        let why = match state {
            HostState::Down => file.lost.clone(),
            HostState::Lagging => {
                let (bytes, micros) = to.lag();
                let age = Duration::from_micros(micros);
                format!("{age:?} and {bytes} bytes behind (max_lag, max_lag_bytes)")
            }
            HostState::Ejected => "it failed too often (ejection_failures)".to_owned(),
            _ => ruling.standings[host].to_string(),
        };
        let (database, host, from, to) = (&self.database, &to.name, from.as_str(), state.as_str());
        if matches!(state, HostState::Primary | HostState::Replica) {
            tracing::info!(%database, %host, from, to, why, "server changes");
        } else {
            tracing::warn!(%database, %host, from, to, why, "server changes");
        }
    }

    fn report_primary(&mut self, before: Option<HostId>, ruling: &Ruling) {
        let database = &self.database;
        let name = |host: Option<HostId>| {
            let host = host.map(|host| &*self.watch.topology.hosts()[host].name);
            host.unwrap_or("none").to_owned()
        };
        if before != ruling.primary {
            let (from, to) = (name(before), name(ruling.primary));
            tracing::warn!(%database, from, to, "primary changes");
        }
        if ruling.is_disputed && !self.is_disputed {
            let primary = name(ruling.primary);
            tracing::error!(
                %database, primary,
                "several servers take writes and none is newer than the others: \
                 stop all but one of them, or give one role = \"primary\""
            );
        }
        self.is_disputed = ruling.is_disputed;
    }

    // ── What is asked ────────────────────────────────────────────────────────────────────────

    /// Sends the questions that are due; answers when the next one will be, or something else is to be
    /// published.
    pub(super) fn ask_around(&mut self, now: Instant, is_awaited: bool) -> Instant {
        let mut next = now + self.settings.health_check_interval;
        for host in 0..self.files.len() {
            let due = self.due(host, is_awaited, now);
            if let Some((at, question)) = due {
                if at <= now {
                    self.files[host].ask(question, now);
                } else {
                    next = next.min(at);
                }
            }
            let file = &self.files[host];
            if let Some(left) = file.fitness.back_in(now) {
                next = next.min(now + left);
            }
            if let (true, Some(time)) = (file.fitness.is_starting(), self.settings.slow_start) {
                next = next.min(now + (time / STEPS).max(Duration::from_millis(1)));
            }
        }
        next
    }

    /// The next question for a server, and when.
    fn due(&self, host: HostId, is_awaited: bool, now: Instant) -> Option<(Instant, Question)> {
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
        let look = (self.look_due(file, now), question(true));
        let wants = if is_primary {
            self.target.is_none() || self.watch.wanted() > topology.polls.last_done()
        } else {
            let is_behind = self.target.is_some_and(|target| file.replayed < target);
            is_behind && matches!(file.state, HostState::Replica | HostState::Lagging)
        };
        if !wants {
            return Some(look);
        }
        let poll = (file.pace.due(is_awaited, now), question(false));
        Some(if look.0 <= poll.0 { look } else { poll })
    }

    fn look_due(&self, file: &File, now: Instant) -> Instant {
        let Some(looked) = file.looked else {
            return now;
        };
        let interval = self.settings.health_check_interval;
        let interval = match file.suspicion {
            Suspicion::Raised => SUSPECT,
            _ if self.is_searching() => interval.min(SEARCH),
            _ => interval,
        };
        looked + interval
    }

    /// Whether nobody is seen to take writes.
    fn is_searching(&self) -> bool {
        !self.files.iter().any(|file| {
            let is_met = matches!(file.contact, Contact::Met(_));
            is_met && file.state == HostState::Primary
        })
    }
}

impl File {
    fn new(questions: mpsc::UnboundedSender<Question>, incarnation: u32) -> Self {
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

    fn ask(&mut self, question: Question, now: Instant) {
        if question.is_look && self.suspicion == Suspicion::Raised {
            self.suspicion = Suspicion::Asked;
        }
        self.pace.on_asked(now);
        // Without a probe there is no answer either, and nothing more is asked.
        self.is_asked = self.questions.send(question).is_ok();
    }

    fn state_of_standby(
        &mut self,
        has_primary: bool,
        now: Instant,
        settings: &PoolSettings,
    ) -> HostState {
        if self.suspicion != Suspicion::None {
            return HostState::Down;
        }
        if has_primary {
            self.fitness.judge_lag(now, settings);
        }
        if self.fitness.is_ejected(now) {
            HostState::Ejected
        } else if self.fitness.is_lagging() {
            HostState::Lagging
        } else {
            HostState::Replica
        }
    }
}

/// Says how far a server has come, if that compares with anything.
fn publish_position(file: &File, to: &Host, standing: Standing, now: Instant) {
    let identity: Option<Identity> = file.contact.identity();
    let timeline = identity.and_then(|identity| identity.timeline);
    to.set_timeline(timeline.unwrap_or(0));
    let is_known = identity.as_ref().and_then(health::history_of).is_some();
    if standing == Standing::Standby && is_known {
        to.set_replayed(file.replayed);
        let lag = file.fitness.lag(now);
        let micros = u64::try_from(lag.age.as_micros()).unwrap_or(u64::MAX);
        to.set_lag(lag.bytes, micros);
    }
}
