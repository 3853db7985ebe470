//! All pools of the process, and the limits that some of them share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hashbrown::HashMap;
use tokio::time::Instant;

use super::{Cluster, Limit, Pool, PoolName, Shared, Watch};
use crate::{config::PoolSettings, server::ServerLogin, session::Interners, stats::Totals};

/// All pools.
#[derive(Debug)]
pub struct Pools {
    shared: Arc<Shared>,
    inner: Mutex<Directory>,
}

#[derive(Debug, Default)]
struct Directory {
    clusters: BTreeMap<PoolName, Arc<Cluster>>,
    /// By database and server.
    database_limits: HashMap<(Box<str>, usize), Arc<Limit>>,
    user_limits: HashMap<Box<str>, Arc<Limit>>,
    paused: Paused,
    /// Databases that DISABLE has closed to new clients.
    disabled: BTreeSet<Box<str>>,
    /// What pools have done that are no longer there, by database.
    retired: HashMap<Box<str>, Totals>,
}

/// The servers of a database, for one user.
#[derive(Debug)]
pub struct Servers {
    /// The settings of the pools.
    pub settings: Arc<PoolSettings>,
    /// How each server is logged in to; the home pool's first.
    pub logins: Vec<Arc<ServerLogin>>,
    /// What is known of them; `None` where there is nothing to choose.
    pub watch: Option<Arc<Watch>>,
}

impl Servers {
    /// One server.
    pub fn one(settings: Arc<PoolSettings>, login: Arc<ServerLogin>) -> Self {
        Self {
            settings,
            logins: vec![login],
            watch: None,
        }
    }
}

/// What PAUSE holds.
#[derive(Debug, Default)]
struct Paused {
    all: bool,
    databases: Vec<Box<str>>,
}

impl Pools {
    /// None yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Directory> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all pools share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The pools of that name; made, if they are not there, with what `make` says.
    pub fn cluster(&self, name: &PoolName, make: impl FnOnce() -> Servers) -> Arc<Cluster> {
        let mut directory = self.lock();
        if let Some(cluster) = directory.clusters.get(name) {
            return Arc::clone(cluster);
        }
        let Servers {
            settings,
            logins,
            watch,
        } = make();
        let interners = Arc::new(Interners {
            settings: Arc::clone(&self.shared.settings),
            ..Interners::default()
        });
        let logins = logins.into_iter().enumerate();
        let pools = logins
            .map(|(host, login)| {
                self.make(&mut directory, (name, host), &settings, login, &interners)
            })
            .collect();
        let cluster = Cluster::new(name.clone(), pools, watch);
        directory
            .clusters
            .insert(name.clone(), Arc::clone(&cluster));
        cluster
    }

    fn make(
        &self,
        directory: &mut Directory,
        (name, host): (&PoolName, usize),
        settings: &Arc<PoolSettings>,
        login: Arc<ServerLogin>,
        interners: &Arc<Interners>,
    ) -> Arc<Pool> {
        let database_limit = directory
            .database_limits
            .entry((name.database.clone(), host))
            .or_insert_with(|| Arc::new(Limit::new("max_db_connections")));
        database_limit.set(settings.max_db_connections);
        let database_limit = Arc::clone(database_limit);
        let user_limit = directory
            .user_limits
            .entry(name.user.clone())
            .or_insert_with(|| Arc::new(Limit::new("max_user_connections")));
        user_limit.set(settings.max_user_connections);
        let user_limit = Arc::clone(user_limit);
        let pool = Pool::new(
            name.clone(),
            Arc::clone(settings),
            login,
            Arc::clone(interners),
            Arc::clone(&self.shared),
            (database_limit, user_limit),
        );
        if directory.is_paused(&name.database) {
            pool.pause();
        }
        pool
    }

    /// All databases and users that have pools.
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        self.lock().clusters.values().map(Arc::clone).collect()
    }

    /// All pools, by database and user.
    pub fn all(&self) -> Vec<Arc<Pool>> {
        let clusters = self.clusters();
        let hosts = clusters.iter().map(|cluster| cluster.hosts());
        hosts.flat_map(|hosts| hosts.pools.to_vec()).collect()
    }

    /// The pools of one database, or of all.
    pub fn of(&self, database: Option<&str>) -> Vec<Arc<Pool>> {
        let mut pools = self.all();
        pools.retain(|pool| database.is_none_or(|name| *pool.name.database == *name));
        pools
    }

    /// New settings for the pools of one database and user, and for the limits they share. Where
    /// there are more or fewer servers than before, pools come and go.
    pub fn reconfigure(&self, cluster: &Cluster, servers: Servers) {
        let Servers {
            settings,
            logins,
            watch,
        } = servers;
        let mut directory = self.lock();
        let name = &cluster.name;
        for ((database, _), limit) in &directory.database_limits {
            if *database == name.database {
                limit.set(settings.max_db_connections);
            }
        }
        if let Some(limit) = directory.user_limits.get(&name.user) {
            limit.set(settings.max_user_connections);
        }
        let before = cluster.hosts();
        let interners = &before.home().interners;
        let mut pools = Vec::with_capacity(logins.len());
        let mut reconfigured = Vec::new();
        for (host, login) in logins.into_iter().enumerate() {
            match before.pools.get(host) {
                Some(pool) => {
                    reconfigured.push((Arc::clone(pool), login));
                    pools.push(Arc::clone(pool));
                }
                None => {
                    pools.push(self.make(
                        &mut directory,
                        (name, host),
                        &settings,
                        login,
                        interners,
                    ));
                }
            }
        }
        drop(directory);
        for (pool, login) in reconfigured {
            pool.reconfigure(Arc::clone(&settings), login);
        }
        let left = pools.len();
        cluster.replace(pools, watch);
        // Not before: who is sent away here is to find that the servers are others, and choose again.
        before.pools.iter().skip(left).for_each(Pool::shut_down);
    }

    /// PAUSE of one database, or of all. Pools that come later are paused as well.
    pub fn pause(&self, database: Option<&str>) {
        let mut directory = self.lock();
        match database {
            None => directory.paused.all = true,
            Some(name) if !directory.paused.databases.iter().any(|d| **d == *name) => {
                directory.paused.databases.push(name.into());
            }
            Some(_) => {}
        }
        drop(directory);
        self.of(database).iter().for_each(Pool::pause);
    }

    /// RESUME of one database, or of all that is held; answers whether anything was.
    pub fn resume(&self, database: Option<&str>) -> bool {
        self.unpause(|paused| match database {
            None => {
                let held = paused.all || !paused.databases.is_empty();
                *paused = Paused::default();
                held
            }
            Some(name) => paused.remove(name),
        })
    }

    /// Takes back one PAUSE and leaves the others.
    pub fn undo_pause(&self, database: Option<&str>) {
        self.unpause(|paused| match database {
            None => std::mem::take(&mut paused.all),
            Some(name) => paused.remove(name),
        });
    }

    fn unpause(&self, change: impl FnOnce(&mut Paused) -> bool) -> bool {
        let mut directory = self.lock();
        let changed = change(&mut directory.paused);
        let free = |cluster: &&Arc<Cluster>| !directory.is_paused(&cluster.name.database);
        let free: Vec<_> = directory.clusters.values().filter(free).cloned().collect();
        drop(directory);
        for cluster in free {
            cluster.hosts().pools.iter().for_each(Pool::resume);
        }
        changed
    }

    /// DISABLE and ENABLE: whether new clients of a database are let in.
    pub fn set_disabled(&self, database: &str, disabled: bool) {
        let mut directory = self.lock();
        if disabled {
            directory.disabled.insert(database.into());
        } else {
            directory.disabled.remove(database);
        }
    }

    /// Whether DISABLE keeps new clients from a database.
    pub fn is_disabled(&self, database: &str) -> bool {
        self.lock().disabled.contains(database)
    }

    /// Whether PAUSE holds a database, or (`None`) all of them.
    pub fn is_paused(&self, database: Option<&str>) -> bool {
        let directory = self.lock();
        database.map_or(directory.paused.all, |name| directory.is_paused(name))
    }

    /// RECONNECT of one database, or of all.
    pub fn reconnect(&self, database: Option<&str>) {
        self.of(database).iter().for_each(Pool::reconnect);
    }

    /// Whether any server connection is left, of one database or of all.
    pub fn has_servers(&self, database: Option<&str>) -> bool {
        self.of(database).iter().any(|pool| pool.view().total > 0)
    }

    /// Tells every waiting client that this is the end.
    pub fn shut_down(&self) {
        self.all().iter().for_each(Pool::shut_down);
    }

    /// As [`Pools::shut_down`], for what PAUSE holds: there would be no end to the wait.
    pub fn shut_down_paused(&self) {
        let paused = |pool: &&Arc<Pool>| self.is_paused(Some(&pool.name.database));
        self.all().iter().filter(paused).for_each(Pool::shut_down);
    }

    /// What time brings. Answers the servers whose clients are to look whether they may keep them.
    pub fn tend(&self) -> Vec<u64> {
        let now = Instant::now();
        let mut doubtful = Vec::new();
        for cluster in self.clusters() {
            doubtful.extend(cluster.follow_roles());
            for pool in &cluster.hosts().pools {
                pool.tend(now);
                doubtful.extend(pool.to_close_fast());
            }
        }
        doubtful
    }

    /// Forgets pools that `unwanted` picks and that have neither connections nor clients.
    pub fn forget(&self, unwanted: impl Fn(&Pool) -> bool) {
        let mut directory = self.lock();
        let Directory {
            clusters, retired, ..
        } = &mut *directory;
        clusters.retain(|name, cluster| {
            let hosts = cluster.hosts();
            // One reference is ours: nobody else has it.
            let is_unused = |pool: &Arc<Pool>| {
                Arc::strong_count(pool) == 1 && pool.is_unused() && unwanted(pool)
            };
            let forget = Arc::strong_count(cluster) == 1 && hosts.pools.iter().all(is_unused);
            if forget {
                let totals = retired.entry(name.database.clone()).or_default();
                *totals = *totals + hosts.home().stats.totals();
            }
            !forget
        });
    }

    /// Takes away the pools of a database that is no longer configured, and ends them: one of the same name that is
    /// configured later gets pools of its own.
    pub fn remove(&self, name: &PoolName) {
        let mut directory = self.lock();
        let Some(cluster) = directory.clusters.remove(name) else {
            return;
        };
        let hosts = cluster.hosts();
        let totals = directory.retired.entry(name.database.clone()).or_default();
        *totals = *totals + hosts.home().stats.totals();
        drop(directory);
        hosts.pools.iter().for_each(Pool::shut_down);
    }

    /// What all pools have done together.
    pub fn sum(&self) -> Totals {
        self.totals()
            .into_values()
            .fold(Totals::default(), |sum, one| sum + one)
    }

    /// What the pools of each database have done, those that are gone included.
    pub fn totals(&self) -> BTreeMap<Box<str>, Totals> {
        let directory = self.lock();
        let mut totals: BTreeMap<Box<str>, Totals> = directory
            .retired
            .iter()
            .map(|(name, totals)| (name.clone(), *totals))
            .collect();
        for cluster in directory.clusters.values() {
            let sum = totals.entry(cluster.name.database.clone()).or_default();
            *sum = *sum + cluster.hosts().home().stats.totals();
        }
        totals
    }
}

impl Directory {
    fn is_paused(&self, database: &str) -> bool {
        self.paused.all || self.paused.databases.iter().any(|name| **name == *database)
    }
}

impl Paused {
    fn remove(&mut self, database: &str) -> bool {
        let before = self.databases.len();
        self.databases.retain(|name| **name != *database);
        self.databases.len() < before
    }
}
