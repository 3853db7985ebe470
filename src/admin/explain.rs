//! EXPLAIN ROUTE: where a statement would go if a new session sent it now, why, and what that rests on.
//!
//! Asks [`route::decide()`] what clients ask it, with the facts as they are. Runs nothing, waits for nothing
//! and changes nothing: where a client would wait, it says for what.

use std::sync::{Arc, atomic::Ordering};

use super::{
    Console,
    command::ExplainRoute,
    is_console,
    known::{Known, clusters_of},
    refusal::Refusal,
    show::database_names,
    table::{Column, Row, Rows, Value, s},
};
use crate::{
    config::{ConsistencyScope, Database, OnLag, PoolMode, PoolSettings, RouteTo},
    protocol::encode,
    route::{
        self, Candidacy, Chance, Decision, Freshness, Host, Need, Patience, Policy, Poll, Question,
        Reason, Token, Topology, Verdict, Wishes,
    },
    session::{Interners, Mode, Session, Settings, Unit},
    sql::{self, Facts},
};

/// What is told, the answer, and what there is to say about it.
pub(super) const COLUMNS: &[Column] = &[s("item"), s("value"), s("detail")];

/// Explains.
pub(super) fn rows(console: &Console, asked: &ExplainRoute) -> Result<Rows, Refusal> {
    let explained = Explained::new(console, asked)?;
    Ok(Box::new(explained.rows(&asked.statement).into_iter()))
}

/// A decision with all that went into it.
struct Explained {
    database: Arc<Database>,
    user: Option<String>,
    settings: Arc<PoolSettings>,
    known: Known,
    facts: Facts,
    /// Why the statement is what it is.
    own: Reason,
    need: Need,
    wishes: Wishes,
    freshness: Freshness,
    shared: Poll,
}

impl Explained {
    fn new(console: &Console, asked: &ExplainRoute) -> Result<Self, Refusal> {
        let database = database(console, asked.database.as_deref())?;
        let known = Known::of(console, &database);
        let settings = match &asked.user {
            Some(user) => console.config().pool(&database, user),
            None => Arc::clone(&database.settings),
        };
        let session = new_session(console, &database, &settings, &known);
        let text = asked.statement.as_bytes();
        let facts = session.look(text);
        let mut data = Vec::new();
        encode::query(&mut data, text);
        let unit = session.unit(&data);
        let own = match unit.reason {
            Some(reason) => Reason::Statement(reason),
            None if settings.pool_mode == PoolMode::Session => Reason::SessionMode,
            None => Reason::Unseen,
        };
        let mut wishes = Wishes {
            route: settings.route,
            consistency: settings.consistency,
            by_comment: false,
        };
        let mut freshness = Freshness::default();
        if let Some(hints) = &unit.hints {
            wishes.hint(hints.route.as_deref(), hints.consistency.as_deref());
            freshness.token = hints.token.as_deref().map(Token::read);
        }
        Ok(Self {
            shared: shared_write(console, &known, &settings, (&database, asked, &unit)),
            need: Need::of(unit.kind, own),
            user: asked.user.clone(),
            database,
            settings,
            known,
            facts,
            own,
            wishes,
            freshness,
        })
    }

    fn question(&self) -> Question<'_> {
        let waits_long =
            self.settings.on_lag == OnLag::Wait || self.wishes.route == RouteTo::Replica;
        Question {
            need: self.need,
            wishes: self.wishes,
            freshness: &self.freshness,
            shared: self.shared,
            asked: self.topology().polls.next(),
            is_pinned: false,
            avoid: None,
            patience: if waits_long {
                Patience::Lag
            } else if self.settings.catch_up_wait.is_zero() {
                Patience::None
            } else {
                Patience::Moment
            },
        }
    }

    fn topology(&self) -> &Topology {
        self.known.topology()
    }

    fn rows(&self, statement: &str) -> Vec<Row> {
        let question = self.question();
        let policy = Policy::of(&self.settings);
        let chance = Chance {
            turn: 0,
            dice: 0,
            client: 0,
        };
        let verdict = route::decide(&question, &policy, self.topology(), chance);
        let candidates = route::candidates(&question, &policy, self.topology());
        let mut rows = vec![
            row(
                "database",
                self.database.name.clone(),
                self.about_database(),
            ),
            row("class", self.facts.class.code(), self.about_class()),
        ];
        if let Some(user) = &self.user {
            rows.insert(1, row("user", user.clone(), "its settings count"));
        }
        rows.extend(self.about_verdict(verdict, &candidates));
        rows.push(self.evidence(statement));
        rows.extend(self.wished());
        rows.push(self.needed());
        rows.push(self.catalogue());
        rows.extend(self.servers(&candidates));
        rows
    }

    // ── What it is ───────────────────────────────────────────────────────────────────────────

    fn about_database(&self) -> &'static str {
        let servers = self.topology().hosts().len();
        match self.known {
            _ if servers == 1 => "it has one server: there is nothing to choose",
            _ if self.settings.shadow => {
                "shadow: all of it goes to the primary, this is only counted"
            }
            Known::Configured(_) => "its servers are watched from when its first client comes",
            Known::Watched(_) => "",
        }
    }

    fn about_class(&self) -> String {
        match self.facts.statements {
            0 | 1 => String::new(),
            count => format!("{count} statements"),
        }
    }

    fn evidence(&self, statement: &str) -> Row {
        let span = self.facts.evidence;
        let bytes = span.of(statement.as_bytes());
        // A span ends where a token does, and tokens do not cut characters.
        match str::from_utf8(bytes) {
            Ok("") | Err(_) => row("evidence", "", ""),
            Ok(text) => row(
                "evidence",
                text.to_owned(),
                format!("from byte {} of the statement", span.start),
            ),
        }
    }

    // ── Where it goes ────────────────────────────────────────────────────────────────────────

    fn about_verdict(&self, verdict: Verdict, candidates: &[Candidacy]) -> [Row; 2] {
        let (target, about, reason) = match verdict {
            Verdict::Go(decision) => {
                let (target, about) = self.about_target(decision, candidates);
                (target, about, self.reason(decision))
            }
            Verdict::Wait { poll, reason } => ("wait", self.about_wait(poll), reason),
            Verdict::NoPrimary => {
                let limit = self.settings.primary_wait_timeout.unwrap_or_default();
                let about = format!(
                    "no server takes writes: it waits for one, fails after {limit:?} \
                     (primary_wait_timeout)"
                );
                let reason = match self.need {
                    Need::Primary(reason) => reason,
                    _ => Reason::NoReplica,
                };
                ("none", about, reason)
            }
            Verdict::NoReplica => {
                let about = "no replica can have it, and the primary must not: it fails";
                ("none", about.to_owned(), Reason::NoReplica)
            }
        };
        [
            row("target", target, about),
            row("reason", reason.code(), reason.about()),
        ]
    }

    /// As it is counted: what may run anywhere may do so for a reason of its own.
    fn reason(&self, decision: Decision) -> Reason {
        match decision.reason {
            Reason::Statement(sql::Reason::ProvedRead) => self.own,
            reason => reason,
        }
    }

    fn about_target(&self, decision: Decision, candidates: &[Candidacy]) -> (&'static str, String) {
        let name = self.topology().hosts()[decision.host].name.to_string();
        if self.topology().primary() == Some(decision.host) {
            return ("primary", name);
        }
        let eligible = candidates.iter().filter(|it| **it == Candidacy::Eligible);
        let about = match eligible.count() {
            0 | 1 => name,
            count => format!(
                "{name}, or another of {count}: {}",
                self.settings.load_balance
            ),
        };
        ("replica", about)
    }

    fn about_wait(&self, poll: Poll) -> String {
        let what = match poll {
            0 => "a replica comes so far".to_owned(),
            poll => format!("a replica has replayed what poll {poll} of the primary will find"),
        };
        let otherwise = if self.wishes.route == RouteTo::Replica {
            "then it fails"
        } else {
            "then it goes to the primary"
        };
        let limit = match self.question().patience {
            Patience::Lag => format!(
                "for {:?} (lag_wait_timeout)",
                self.settings.lag_wait_timeout
            ),
            _ => format!("for {:?} (catch_up_wait)", self.settings.catch_up_wait),
        };
        format!("until {what}, {limit} at most; {otherwise}")
    }

    // ── What that rests on ───────────────────────────────────────────────────────────────────

    fn wished(&self) -> [Row; 2] {
        let Wishes {
            route,
            consistency,
            by_comment,
        } = self.wishes;
        let by = |comment| if comment { "a comment says so" } else { "" };
        [
            row("route", route.as_str(), by(by_comment)),
            row(
                "consistency",
                consistency.as_str(),
                by(consistency != self.settings.consistency),
            ),
        ]
    }

    /// How far a replica must have come for it.
    fn needed(&self) -> Row {
        if let Some(token) = self.freshness.token {
            let about = match self.topology().history() {
                Some(history) if history == token.history => "the token in its comment",
                _ => "the token in its comment belongs to no history that is known",
            };
            return row("freshness", token.position.to_string(), about);
        }
        if self.shared == 0 {
            return row(
                "freshness",
                "any",
                "a new session has written and read nothing",
            );
        }
        let about = format!(
            "others have written (consistency_scope = {})",
            self.settings.consistency_scope
        );
        let value = match self.topology().position(self.shared) {
            Some(position) => position.to_string(),
            None => format!("poll {}", self.shared),
        };
        row("freshness", value, about)
    }

    fn catalogue(&self) -> Row {
        match self.known.watch().map(|watch| watch.generation()) {
            None | Some(0) => row(
                "catalogue",
                "not read yet",
                "a function that is not built in counts as a write",
            ),
            Some(generation) => row("catalogue", format!("generation {generation}"), ""),
        }
    }

    fn servers(&self, candidates: &[Candidacy]) -> Vec<Row> {
        let topology = self.topology();
        let hosts = topology.hosts().iter().zip(candidates).enumerate();
        hosts
            .map(|(id, (host, candidacy))| {
                let name = host.name.to_string();
                if topology.primary() == Some(id) {
                    row("primary", name, self.about_primary(host, *candidacy))
                } else {
                    row("replica", name, about_replica(host, *candidacy))
                }
            })
            .collect()
    }

    fn about_primary(&self, host: &Host, candidacy: Candidacy) -> String {
        let polls = &self.topology().polls;
        let reads = match (candidacy, self.settings.primary_reads) {
            (Candidacy::Eligible, _) => "eligible".to_owned(),
            (_, reads) => format!("primary_reads = {reads}"),
        };
        let position = match (polls.last_done(), polls.position(polls.last_done())) {
            (poll @ 1.., Some(position)) => format!(", was at {position} at poll {poll}"),
            _ => String::new(),
        };
        format!("{reads}; {}{position}", host.state().as_str())
    }
}

fn about_replica(host: &Host, candidacy: Candidacy) -> String {
    let why = match candidacy {
        Candidacy::Eligible => "eligible".to_owned(),
        Candidacy::PrimaryOnly(reason) | Candidacy::Behind(reason) => {
            format!("not eligible: {}", reason.code())
        }
        Candidacy::State(state) => format!("not eligible: {}", state.as_str()),
        Candidacy::NoWeight => "not eligible: weight = 0".to_owned(),
        Candidacy::Failed => "not eligible: it has failed".to_owned(),
    };
    let (bytes, micros) = host.lag();
    format!(
        "{why}; {}, replayed {}, {bytes} bytes and {} ms behind",
        host.state().as_str(),
        host.replayed(),
        micros / 1000
    )
}

fn row(item: &'static str, value: impl Into<Value>, detail: impl Into<Value>) -> Row {
    vec![item.into(), value.into(), detail.into()]
}

/// The database that is meant.
fn database(console: &Console, name: Option<&str>) -> Result<Arc<Database>, Refusal> {
    let config = console.config();
    if let Some(name) = name {
        if is_console(name) {
            return Err(Refusal::new(format!("cannot explain admin db: {name}")));
        }
        let found = config.database(name);
        return found.ok_or_else(|| Refusal::new(format!("no such database: {name}")));
    }
    let names: Vec<_> = database_names(console).into_iter().collect();
    if let [only] = &*names
        && let Some(database) = config.database(only)
    {
        return Ok(database);
    }
    let refusal = Refusal::new("which database? EXPLAIN ROUTE FOR database statement");
    Err(refusal.with_detail(format!("There are: {}.", names.join(", "))))
}

/// A session as one that has just logged in, without settings of its own.
fn new_session(
    console: &Console,
    database: &Database,
    settings: &PoolSettings,
    known: &Known,
) -> Session {
    let mode = match settings.pool_mode {
        PoolMode::Session => Mode::Session,
        PoolMode::Transaction => Mode::Transaction,
        PoolMode::Statement => Mode::Statement,
    };
    let own = Arc::<Settings>::default();
    let clusters = clusters_of(console, &database.name);
    let hosts: Vec<_> = clusters.iter().map(|cluster| cluster.hosts()).collect();
    let told = hosts
        .iter()
        .flat_map(|hosts| hosts.pools.iter())
        .find_map(|pool| pool.welcome(&own))
        .unwrap_or_default();
    let mut session = Session::new(0, mode, Arc::<Interners>::default(), own)
        .told(told.iter().map(|(name, value)| (&**name, &**value)));
    if let Some(world) = known.watch().and_then(|watch| watch.world()) {
        session.set_world(world);
    }
    session
}

/// The poll behind the last write of those with whom the session would share its freshness.
fn shared_write(
    console: &Console,
    known: &Known,
    settings: &PoolSettings,
    (database, asked, unit): (&Database, &ExplainRoute, &Unit),
) -> Poll {
    let Some(watch) = known.watch() else { return 0 };
    let by_scope = match settings.consistency_scope {
        ConsistencyScope::Session | ConsistencyScope::Key => 0,
        ConsistencyScope::Database => watch.written.poll(),
        ConsistencyScope::User => clusters_of(console, &database.name)
            .iter()
            .filter(|it| asked.user.as_deref() == Some(&*it.name.user))
            .map(|it| it.written.load(Ordering::Acquire))
            .max()
            .unwrap_or(0),
    };
    let key = unit.hints.as_ref().and_then(|hints| hints.key.as_deref());
    by_scope.max(key.map_or(0, |key| watch.written_by(key)))
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
