//! All pools of the process, and the limits that some of them share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hashbrown::HashMap;
use tokio::time::Instant;

use super::{Limit, Pool, PoolName, Shared};
use crate::{config::PoolSettings, server::ServerLogin, stats::Totals};

/// All pools.
#[derive(Debug)]
pub struct Pools {
    shared: Arc<Shared>,
    inner: Mutex<Directory>,
}

#[derive(Debug, Default)]
struct Directory {
    pools: BTreeMap<PoolName, Arc<Pool>>,
    database_limits: HashMap<Box<str>, Arc<Limit>>,
    user_limits: HashMap<Box<str>, Arc<Limit>>,
    paused: Paused,
    /// Databases that DISABLE has closed to new clients.
    disabled: BTreeSet<Box<str>>,
    /// What pools have done that are no longer there, by database.
    retired: HashMap<Box<str>, Totals>,
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

    /// The pool of that name; made, if it is not there, with what `make` says.
    pub fn pool(
        &self,
        name: &PoolName,
        make: impl FnOnce() -> (Arc<PoolSettings>, Arc<ServerLogin>),
    ) -> Arc<Pool> {
        let mut directory = self.lock();
        if let Some(pool) = directory.pools.get(name) {
            return Arc::clone(pool);
        }
        let (settings, login) = make();
        let database_limit = directory
            .database_limits
            .entry(name.database.clone())
            .or_insert_with(|| Arc::new(Limit::new("max_db_connections")));
        database_limit.set(settings.max_db_connections);
        let database_limit = Arc::clone(database_limit);
        let user_limit = directory
            .user_limits
            .entry(name.user.clone())
            .or_insert_with(|| Arc::new(Limit::new("max_user_connections")));
        user_limit.set(settings.max_user_connections);
        let user_limit = Arc::clone(user_limit);
        let limits = (database_limit, user_limit);
        let pool = Pool::new(
            name.clone(),
            settings,
            login,
            Arc::clone(&self.shared),
            limits,
        );
        if directory.is_paused(&name.database) {
            pool.pause();
        }
        directory.pools.insert(name.clone(), Arc::clone(&pool));
        pool
    }

    /// The pool of that name, if it is there.
    pub fn existing(&self, name: &PoolName) -> Option<Arc<Pool>> {
        self.lock().pools.get(name).map(Arc::clone)
    }

    /// All pools, by database and user.
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.lock().pools.values().map(Arc::clone).collect()
    }

    /// The pools of one database, or of all.
    pub fn of(&self, database: Option<&str>) -> Vec<Arc<Pool>> {
        let mut pools = self.all();
        pools.retain(|pool| database.is_none_or(|name| *pool.name.database == *name));
        pools
    }

    /// New settings for a pool, and for the limits it shares.
    pub fn reconfigure(
        &self,
        pool: &Arc<Pool>,
        settings: Arc<PoolSettings>,
        login: Arc<ServerLogin>,
    ) {
        let directory = self.lock();
        if let Some(limit) = directory.database_limits.get(&pool.name.database) {
            limit.set(settings.max_db_connections);
        }
        if let Some(limit) = directory.user_limits.get(&pool.name.user) {
            limit.set(settings.max_user_connections);
        }
        drop(directory);
        pool.reconfigure(settings, login);
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
        let free = |pool: &&Arc<Pool>| !directory.is_paused(&pool.name.database);
        let free: Vec<_> = directory.pools.values().filter(free).cloned().collect();
        drop(directory);
        free.iter().for_each(Pool::resume);
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

    /// What time brings.
    pub fn tend(&self) {
        let now = Instant::now();
        for pool in self.all() {
            pool.tend(now);
        }
    }

    /// Forgets pools that `unwanted` picks and that have neither connections nor clients.
    pub fn forget(&self, unwanted: impl Fn(&Pool) -> bool) {
        let mut directory = self.lock();
        let Directory { pools, retired, .. } = &mut *directory;
        pools.retain(|name, pool| {
            // One reference is ours: nobody else has it.
            let forget = Arc::strong_count(pool) == 1 && pool.is_unused() && unwanted(pool);
            if forget {
                let totals = retired.entry(name.database.clone()).or_default();
                *totals = *totals + pool.stats.totals();
            }
            !forget
        });
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
        for pool in directory.pools.values() {
            let sum = totals.entry(pool.name.database.clone()).or_default();
            *sum = *sum + pool.stats.totals();
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
