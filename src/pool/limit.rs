//! A cap that several pools share: server connections of one database, or of one user.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::Pool;

/// A cap on server connections over several pools.
#[derive(Debug)]
pub struct Limit {
    /// The setting that decides it, for error messages.
    pub setting: &'static str,
    /// At most so many; 0 is no limit.
    most: AtomicUsize,
    used: AtomicUsize,
    /// Whether somebody waits for a connection to be closed.
    contended: AtomicBool,
    pools: Mutex<Vec<Weak<Pool>>>,
}

impl Limit {
    /// No cap yet; `setting` decides it.
    pub fn new(setting: &'static str) -> Self {
        Self {
            setting,
            most: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            contended: AtomicBool::new(false),
            pools: Mutex::new(Vec::new()),
        }
    }

    /// Changes the cap; connections above it are not closed.
    pub fn set(&self, most: Option<usize>) {
        self.most.store(most.unwrap_or(0), Ordering::Relaxed);
    }

    /// How many connections count.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn add_pool(&self, pool: &Arc<Pool>) {
        self.pools().push(Arc::downgrade(pool));
    }

    fn pools(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody of these pools waits for a connection to be closed.
    #[inline]
    pub(super) fn is_contended(&self) -> bool {
        self.contended.load(Ordering::SeqCst)
    }

    /// Says whether somebody does. Whoever says so tries once more afterwards: either it sees what was given
    /// back meanwhile, or who gave it back sees that it is waited for.
    pub(super) fn set_contended(&self, contended: bool) {
        self.contended.store(contended, Ordering::SeqCst);
    }

    /// Counts one more connection, if there is room for it.
    pub(super) fn take(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                (most == 0 || used < most).then_some(used + 1)
            })
            .is_ok()
    }

    /// Counts one less.
    pub(super) fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::SeqCst);
    }

    /// The pools under this cap that still exist.
    pub(super) fn siblings(&self) -> Vec<Arc<Pool>> {
        let mut pools = self.pools();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.iter().filter_map(Weak::upgrade).collect()
    }
}
