//! What is watched of one database: its servers, and what its catalogue knows.
//!
//! One per database, shared by its monitor, which writes it, and by its clients, which read it and say
//! how new the primary's position has to be. While nobody asks, nothing is polled but each server's
//! health.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use tokio::sync::Notify;

use crate::{
    route::{Decision, Poll, Reason, Topology},
    sql::{Builtins, Knowledge},
    stats::Counter,
};

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
    knowledge: Mutex<Arc<dyn Knowledge>>,
    generation: AtomicU64,
    /// Whether somebody has changed the schema since the catalogue was read.
    stale: AtomicU64,
}

impl Watch {
    /// Nothing is known yet.
    pub fn new(topology: Topology) -> Arc<Self> {
        let counters = || (0..Reason::COUNT).map(|_| Counter::default()).collect();
        Arc::new(Self {
            topology,
            routes: [counters(), counters()],
            wanted: AtomicU64::new(0),
            call: Notify::new(),
            waiting: Mutex::default(),
            knowledge: Mutex::new(Arc::new(Builtins)),
            generation: AtomicU64::new(0),
            stale: AtomicU64::new(0),
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
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
        drop(waiting);
        self.call.notify_one();
    }

    /// Somebody has changed the schema: what the catalogue knows may be outdated.
    pub fn on_schema_change(&self) {
        self.stale.fetch_add(1, Ordering::AcqRel);
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
        self.stale.load(Ordering::Acquire)
    }

    /// The catalogue was read.
    pub fn set_knowledge(&self, knowledge: Arc<dyn Knowledge>) {
        *self
            .knowledge
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = knowledge;
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    // ── What both read ───────────────────────────────────────────────────────────────────────

    /// Counts what the catalogue was found to know.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What the catalogue knows, and its generation.
    pub fn knowledge(&self) -> (Arc<dyn Knowledge>, u64) {
        let knowledge = self
            .knowledge
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&knowledge), self.generation())
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
