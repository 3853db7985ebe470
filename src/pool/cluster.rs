//! The pools of one database and user: one for each server of the database.
//!
//! The first is the *home* pool: that of the server that the configuration calls the primary. Clients
//! are counted there. Where there is only one server, it is all there is, and nothing is watched.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::{Pool, PoolName, Watch};
use crate::route::{HostId, HostState, Poll};

/// The pools of one database and user.
#[derive(Debug)]
pub struct Cluster {
    /// Whose they are.
    pub name: PoolName,
    hosts: Mutex<Arc<Hosts>>,
    version: AtomicU64,
    /// The poll behind the last write of any session of this user here.
    pub written: AtomicU64,
}

/// The servers of a database, as one user has them.
#[derive(Debug)]
pub struct Hosts {
    /// One for each server, the home pool first; indices are those of the topology.
    pub pools: Box<[Arc<Pool>]>,
    /// What is known of the servers; `None` where there is nothing to choose.
    pub watch: Option<Arc<Watch>>,
    /// Counts changes of the servers.
    pub version: u64,
    /// The topology's epoch under which the idle connections were last looked at.
    epoch: AtomicU64,
}

impl Cluster {
    /// Pools for one user. There is at least one.
    pub(super) fn new(
        name: PoolName,
        pools: Vec<Arc<Pool>>,
        watch: Option<Arc<Watch>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            hosts: Mutex::new(Hosts::new(pools, watch, 0)),
            version: AtomicU64::new(0),
            written: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Hosts>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers now.
    pub fn hosts(&self) -> Arc<Hosts> {
        Arc::clone(&self.lock())
    }

    /// Whether these are still the servers.
    #[inline]
    pub fn is_current(&self, hosts: &Hosts) -> bool {
        self.version.load(Ordering::Acquire) == hosts.version
    }

    /// Other servers from now on.
    pub(super) fn replace(&self, pools: Vec<Arc<Pool>>, watch: Option<Arc<Watch>>) {
        let mut hosts = self.lock();
        let version = hosts.version + 1;
        let before = std::mem::replace(&mut *hosts, Hosts::new(pools, watch, version));
        self.version.store(version, Ordering::Release);
        drop(hosts);
        // Nobody else tells those who wait for what the old watch finds out.
        if let Some(watch) = &before.watch {
            watch.tell();
        }
    }

    /// Some session of this user has written.
    pub fn on_write(&self, poll: Poll) {
        self.written.fetch_max(poll, Ordering::AcqRel);
    }

    /// Does what follows from what the monitor has seen.
    ///
    /// Connections that were made to a server before another one became the primary are replaced when
    /// they are next given back, and who waits for one chooses again: what their server is now was not
    /// looked at when they were made. And no pool goes on waiting after failed connects to a server that
    /// is there again. Answers the connections that were there when the roles changed: who has one must
    /// look whether it is still the right one.
    pub(super) fn follow_roles(&self) -> Vec<u64> {
        let hosts = self.hosts();
        let Some(watch) = &hosts.watch else {
            return Vec::new();
        };
        for (pool, host) in hosts.pools.iter().zip(watch.topology.hosts()) {
            if matches!(host.state(), HostState::Primary | HostState::Replica) {
                pool.forgive();
            }
        }
        let epoch = watch.topology.epoch();
        if hosts.epoch.swap(epoch, Ordering::AcqRel) == epoch {
            return Vec::new();
        }
        for pool in &hosts.pools {
            pool.reconnect();
            pool.wake_waiters();
        }
        hosts.pools.iter().flat_map(|pool| pool.servers()).collect()
    }
}

impl Hosts {
    fn new(pools: Vec<Arc<Pool>>, watch: Option<Arc<Watch>>, version: u64) -> Arc<Self> {
        let epoch = watch.as_ref().map_or(0, |watch| watch.topology.epoch());
        Arc::new(Self {
            pools: pools.into(),
            watch,
            version,
            epoch: AtomicU64::new(epoch),
        })
    }

    /// Where clients are counted.
    pub fn home(&self) -> &Arc<Pool> {
        &self.pools[0]
    }

    /// The pool of this server; the home pool, if there is none.
    #[inline]
    pub fn pool(&self, host: HostId) -> &Arc<Pool> {
        self.pools.get(host).unwrap_or(&self.pools[0])
    }
}
