//! What is watched of one database: its servers, and what its catalogue knows.
//!
//! One per database, shared by its monitor, which writes it, and by its clients, which read it and say
//! how new the primary's position has to be. While nobody asks, nothing is polled but each server's
//! health.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
};

use tokio::sync::Notify;

use hashbrown::HashMap;

use crate::{
    route::{Decision, HostId, Poll, Reason, Topology},
    session::World,
    sql::Knowledge,
    stats::Counter,
};

/// The poll behind the last write of sessions that share their freshness.
#[derive(Debug, Default)]
pub struct SharedWrite(AtomicU64);

impl SharedWrite {
    /// That poll; 0 if none has written.
    #[inline]
    pub fn poll(&self) -> Poll {
        self.0.load(Ordering::Acquire)
    }

    /// One of them has written.
    pub fn on_write(&self, poll: Poll) {
        self.0.fetch_max(poll, Ordering::AcqRel);
    }
}

/// Freshness by key (`pgweir.key`).
#[derive(Debug, Default)]
struct Keys {
    writes: HashMap<Box<[u8]>, Arc<SharedWrite>>,
    /// What was known of keys that have been forgotten: a key that is new may be one of them.
    forgotten: Poll,
}

/// So many keys are remembered; then those that nobody uses are forgotten.
const MAX_KEYS: usize = 100_000;

/// See the module.
pub struct Watch {
    /// The servers.
    pub topology: Topology,
    /// What was decided, by reason: for the primary, and for replicas.
    routes: [Box<[Counter]>; 2],
    wanted: AtomicU64,
    /// Wakes the monitor.
    pub call: Notify,
    waiting: Mutex<Vec<Waker>>,
    world: Mutex<Option<Arc<World>>>,
    /// The number of that world; 0 while there is none.
    generation: AtomicU64,
    worlds: Arc<AtomicU64>,
    /// How often somebody has changed the schema.
    schema_changes: AtomicU64,
    /// The last write of any session of the database.
    pub written: SharedWrite,
    keys: Mutex<Keys>,
    /// Whether the last attempt to log in to one of the servers was refused for who it was.
    pub shut_out: AtomicBool,
}

impl Watch {
    /// Nothing is known yet. `worlds` numbers what catalogues of the process were found to know.
    pub fn new(topology: Topology, worlds: Arc<AtomicU64>) -> Arc<Self> {
        let counters = || (0..Reason::COUNT).map(|_| Counter::default()).collect();
        Arc::new(Self {
            topology,
            routes: [counters(), counters()],
            wanted: AtomicU64::new(0),
            call: Notify::new(),
            waiting: Mutex::default(),
            world: Mutex::default(),
            generation: AtomicU64::new(0),
            worlds,
            schema_changes: AtomicU64::new(0),
            written: SharedWrite::default(),
            keys: Mutex::default(),
            shut_out: AtomicBool::new(false),
        })
    }

    // ── What sessions say ────────────────────────────────────────────────────────────────────

    /// Somebody needs the position that this poll will find.
    #[inline]
    pub fn want(&self, poll: Poll) {
        if self.wanted.fetch_max(poll, Ordering::AcqRel) < poll {
            self.call.notify_one();
        }
    }

    /// Wakes `waker` when something has been found out, whatever it is.
    pub fn wait(&self, waker: &Waker) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Who is here twice is woken twice, which is cheaper than to look.
        waiting.push(waker.clone());
        drop(waiting);
        self.call.notify_one();
    }

    /// A connection to this host was lost: the monitor looks at it again before it serves anything.
    pub fn doubt(&self, host: HostId) {
        if let Some(host) = self.topology.hosts().get(host) {
            host.doubt();
        }
        self.call.notify_one();
    }

    /// Somebody has changed the schema: what the catalogue knows may be outdated.
    pub fn on_schema_change(&self) {
        self.schema_changes.fetch_add(1, Ordering::AcqRel);
        self.call.notify_one();
    }

    /// Counts a decision.
    #[inline]
    pub fn count(&self, decision: Decision) {
        let is_replica = self.topology.primary() != Some(decision.host);
        self.routes[usize::from(is_replica)][decision.reason.index()].add(1);
    }

    // ── What the monitor says ────────────────────────────────────────────────────────────────

    /// The newest poll that anybody needs.
    pub fn wanted(&self) -> Poll {
        self.wanted.load(Ordering::Acquire)
    }

    /// Whether anybody waits for something to be found out.
    pub fn is_awaited(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        !waiting.is_empty()
    }

    /// Something has been found out: everybody who waits looks again.
    pub fn tell(&self) {
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// How often the schema was changed through us.
    pub fn schema_changes(&self) -> u64 {
        self.schema_changes.load(Ordering::Acquire)
    }

    /// The catalogue was read.
    pub fn set_knowledge(&self, knowledge: Arc<dyn Knowledge>) {
        let number = self.worlds.fetch_add(1, Ordering::AcqRel) + 1;
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        *world = Some(Arc::new(World { number, knowledge }));
        self.generation.store(number, Ordering::Release);
    }

    // ── What both read ───────────────────────────────────────────────────────────────────────

    /// The number of what the catalogue was found to know; 0 before it was read.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What the catalogue was found to know; `None` before it was read.
    pub fn world(&self) -> Option<Arc<World>> {
        let world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.clone()
    }

    /// The freshness of those with this key.
    pub fn shared(&self, key: &[u8]) -> Arc<SharedWrite> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = keys.writes.get(key) {
            return Arc::clone(known);
        }
        if keys.writes.len() >= MAX_KEYS {
            let Keys { writes, forgotten } = &mut *keys;
            writes.retain(|_, write| {
                let is_used = Arc::strong_count(write) > 1;
                if !is_used {
                    *forgotten = (*forgotten).max(write.poll());
                }
                is_used
            });
        }
        let shared = Arc::new(SharedWrite::default());
        shared.on_write(keys.forgotten);
        keys.writes.insert(key.into(), Arc::clone(&shared));
        shared
    }

    /// The poll behind the last write of those with this key, without remembering the key.
    pub fn written_by(&self, key: &[u8]) -> Poll {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let known = keys.writes.get(key);
        known.map_or(keys.forgotten, |write| write.poll())
    }

    /// How often each reason decided: for the primary, and for replicas; those that never did are left
    /// out.
    pub fn routes(&self) -> Vec<(Reason, u64, u64)> {
        let [primary, replicas] = &self.routes;
        Reason::all()
            .map(|reason| {
                let count = |counters: &[Counter]| counters[reason.index()].value();
                (reason, count(primary), count(replicas))
            })
            .filter(|(_, primary, replicas)| primary + replicas > 0)
            .collect()
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("topology", &self.topology)
            .finish_non_exhaustive()
    }
}
