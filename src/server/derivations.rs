//! Runs key derivations off the I/O threads: remembered, bounded in number, shared by both legs.
//!
//! A login storm of one application is one password many times: whoever waits for a turn looks into the memory again before it
//! computes.

use crate::auth::{KdfRequest, SaltedKeyCache, SaltedKeys};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// One per process.
pub struct Derivations {
    cache: Mutex<SaltedKeyCache>,
    turns: Semaphore,
}

impl Derivations {
    /// Remembers `capacity` results and computes `parallel` at a time. `fingerprint_key` is random.
    pub fn new(capacity: usize, parallel: usize, fingerprint_key: [u8; 32]) -> Self {
        Self {
            cache: Mutex::new(SaltedKeyCache::new(capacity, fingerprint_key)),
            turns: Semaphore::new(parallel.max(1)),
        }
    }

    /// The keys, from memory or computed on a blocking thread.
    ///
    /// # Cancel safety
    /// Dropping it loses a computation that has begun; nothing else.
    pub async fn derive(&self, request: KdfRequest) -> SaltedKeys {
        if let Some(keys) = self.lookup(&request) {
            return keys;
        }
        let _turn = self.turns.acquire().await;
        if let Some(keys) = self.lookup(&request) {
            return keys;
        }
        let job = request.clone();
        let computed = tokio::task::spawn_blocking(move || job.run()).await;
        // No thread is to be had only while the runtime shuts down.
        let keys = computed.unwrap_or_else(|_| request.run());
        self.lock().insert(&request, keys.clone());
        keys
    }

    fn lookup(&self, request: &KdfRequest) -> Option<SaltedKeys> {
        self.lock().lookup(request)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SaltedKeyCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Derivations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derivations").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_storm_of_one_password_is_computed_once() {
        let derivations = Derivations::new(10, 1, [0; 32]);
        let request =
            || KdfRequest::new("u", "pencil".into(), b"salt", 4096, 4096).expect("below the limit");
        let verifier = request().run().verifier(b"salt", 4096);
        let (a, b) = tokio::join!(derivations.derive(request()), derivations.derive(request()));
        assert!(verifier.accepts(&a) && verifier.accepts(&b));
        assert_eq!(derivations.lock().len(), 1);
    }
}
