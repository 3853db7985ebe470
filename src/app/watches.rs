//! One watch for each database that has several servers, and the monitor that keeps it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;

use tokio::{sync::watch, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    config::{Config, Database, PoolSettings, Server},
    pool::{
        Cluster, Watch,
        monitor::{self, Plan},
    },
    route::{Host, HostState, Topology},
    server::ServerLogin,
};

/// What is watched, by the name of the database.
#[derive(Debug)]
pub struct Watches {
    watched: Mutex<HashMap<Box<str>, Watched>>,
    /// Every monitor.
    tasks: TaskTracker,
    /// Numbers what catalogues were found to know.
    worlds: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Watched {
    servers: Vec<Server>,
    watch: Arc<Watch>,
    /// What the monitor goes by; it ends when this is dropped.
    plan: watch::Sender<Arc<Plan>>,
    /// Since when nobody has had pools of it.
    unused_since: Option<Instant>,
    /// When another login was last tried.
    relieved: Option<Instant>,
}

/// Whose logins a monitor is to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of `monitor_user`.
    Own,
    /// Those of a user who comes.
    Clients,
}

fn user(logins: &[Arc<ServerLogin>]) -> Option<&str> {
    logins.first().map(|login| &*login.target.user)
}

impl Watched {
    /// Whether any of its servers lets the monitor in.
    fn is_seen(&self) -> bool {
        let hosts = self.watch.topology.hosts().iter();
        hosts
            .map(|host| host.state())
            .any(|state| !matches!(state, HostState::Unknown | HostState::Down))
    }
}

/// So long a database is watched that nobody has pools of: one that is about to get them must not lose
/// its monitor.
const LINGER: Duration = Duration::from_secs(60);

impl Watches {
    /// Nothing is watched yet.
    pub fn new(tasks: TaskTracker, worlds: Arc<AtomicU64>) -> Self {
        Self {
            watched: Mutex::default(),
            tasks,
            worlds,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the database's servers; `None` where there is only one. They are watched from
    /// now on, by connections that log in as `logins` say.
    pub fn of(
        &self,
        database: &Database,
        logins: &[Arc<ServerLogin>],
        settings: &Arc<PoolSettings>,
    ) -> Option<Arc<Watch>> {
        let servers: Vec<Server> = database.hosts().cloned().collect();
        let mut watches = self.lock();
        if servers.len() < 2 {
            watches.remove(&*database.name);
            return None;
        }
        if let Some(watched) = watches.get(&*database.name)
            && watched.servers == servers
        {
            return Some(Arc::clone(&watched.watch));
        }
        let hosts = servers.iter().map(Host::of).collect();
        let watch = Watch::new(Topology::new(hosts), Arc::clone(&self.worlds));
        let plan = watch::Sender::new(Arc::new(Plan {
            logins: logins.to_vec(),
            settings: Arc::clone(settings),
        }));
        let name: Box<str> = (*database.name).into();
        let monitor = monitor::run(name.clone(), Arc::clone(&watch), plan.subscribe());
        self.tasks.spawn(monitor);
        let watched = Watched {
            servers,
            watch: Arc::clone(&watch),
            plan,
            unused_since: None,
            relieved: None,
        };
        watches.insert(name, watched);
        Some(watch)
    }

    /// What is known of the database's servers, if they are watched.
    pub fn known(&self, database: &str) -> Option<Arc<Watch>> {
        let watches = self.lock();
        watches.get(database).map(|it| Arc::clone(&it.watch))
    }

    /// The database is watched by these settings from now on, if it is watched at all, and by these logins: where they are those
    /// of a user who comes and another one's are good, that one's are kept.
    pub fn replan(
        &self,
        database: &str,
        (logins, whose): (&[Arc<ServerLogin>], Whose),
        settings: &Arc<PoolSettings>,
    ) {
        if let Some(watched) = self.lock().get(database) {
            let present = Arc::clone(&watched.plan.borrow());
            let is_anothers = user(logins) != user(&present.logins);
            let kept = is_anothers && whose == Whose::Clients && watched.is_seen();
            let logins = if kept { &present.logins } else { logins };
            watched.plan.send_replace(Arc::new(Plan {
                logins: logins.to_vec(),
                settings: Arc::clone(settings),
            }));
        }
    }

    /// Lets a monitor that none of the servers lets in log in as the next one of the users who have pools of its database: the
    /// first who came may be nobody to the servers, and that must not be everybody's loss.
    pub fn relieve(&self, clusters: &[Arc<Cluster>], now: Instant) {
        for (name, watched) in self.lock().iter_mut() {
            let plan = Arc::clone(&watched.plan.borrow());
            let pause = plan.settings.health_check_interval;
            let is_due = watched
                .relieved
                .is_none_or(|at| now.duration_since(at) >= pause);
            if !is_due || !watched.watch.shut_out.load(Ordering::Relaxed) || watched.is_seen() {
                continue;
            }
            let present = user(&plan.logins).map(str::to_owned);
            let mut candidates: Vec<_> = clusters
                .iter()
                .filter(|cluster| cluster.name.database == *name)
                .map(|cluster| {
                    cluster
                        .hosts()
                        .pools
                        .iter()
                        .map(|pool| pool.login())
                        .collect()
                })
                .map(|logins: Vec<_>| (user(&logins).map(str::to_owned), logins))
                .filter(|(user, logins)| *user != present && logins.len() == plan.logins.len())
                .collect();
            candidates.sort_by_key(|(user, _)| (*user < present, user.clone()));
            if let Some((user, logins)) = candidates.into_iter().next() {
                tracing::info!(database = %name, ?user, "monitor logs in as another user");
                watched.relieved = Some(now);
                let settings = Arc::clone(&plan.settings);
                watched
                    .plan
                    .send_replace(Arc::new(Plan { logins, settings }));
            }
        }
    }

    /// Stops watching what nobody has had pools of for a while.
    pub fn forget_unused(&self, is_used: impl Fn(&str) -> bool, now: Instant) {
        self.lock().retain(|name, watched| {
            if is_used(name) {
                watched.unused_since = None;
                return true;
            }
            let since = *watched.unused_since.get_or_insert(now);
            now.duration_since(since) < LINGER
        });
    }

    /// Nothing is watched any more that the configuration does not have.
    pub fn forget_gone(&self, config: &Config) {
        self.lock()
            .retain(|name, _| config.database(name).is_some());
    }
}
