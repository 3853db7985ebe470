//! The expensive step of SCRAM, PBKDF2, as a value that can be carried to another thread, and a bounded memory of its results.
//!
//! 4096 iterations take about a millisecond: on an I/O thread that is a thousand other clients' latency. So nothing in `auth`
//! runs it; a step that needs it returns a [`KdfRequest`], and the caller looks into its [`SaltedKeyCache`] and else
//! calls [`KdfRequest::run`] on a blocking thread.

use super::keys::{Key, SaltedKeys, hmac};
use super::password::Password;
use pbkdf2::pbkdf2_hmac;
use sha2::Sha256;
use std::collections::HashMap;
use std::fmt;

/// Default of the most iterations that a verifier or a server may ask of us. PostgreSQL's default is 4096
/// (`scram_iterations`); without a bound a hostile server stalls its client (CVE-2026-6669, CVE-2026-42198).
pub const DEFAULT_MAX_ITERATIONS: u32 = 100_000;

/// A peer or a secret asks for more key derivation than the limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("SCRAM asks for {asked} iterations; the limit is {limit}")]
pub struct TooManyIterations {
    /// What was asked.
    pub asked: u32,
    /// The limit in force.
    pub limit: u32,
}

/// One key derivation to be done.
#[derive(Clone)]
pub struct KdfRequest {
    user: String,
    password: Password,
    salt: Box<[u8]>,
    iterations: u32,
}

impl KdfRequest {
    /// The only way to ask for one, so that none escapes the limit. `user` serves the cache only.
    pub fn new(
        user: &str,
        password: Password,
        salt: &[u8],
        iterations: u32,
        limit: u32,
    ) -> Result<Self, TooManyIterations> {
        if iterations > limit {
            return Err(TooManyIterations {
                asked: iterations,
                limit,
            });
        }
        Ok(Self {
            user: user.to_owned(),
            password,
            salt: salt.into(),
            iterations,
        })
    }

    /// Does it: `iterations` times two SHA-256 blocks. Not for an I/O thread.
    pub fn run(&self) -> SaltedKeys {
        let mut salted = [0; 32];
        pbkdf2_hmac::<Sha256>(
            &self.password.prepared(),
            &self.salt,
            self.iterations.max(1),
            &mut salted,
        );
        SaltedKeys::of(&salted)
    }
}

impl fmt::Debug for KdfRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KdfRequest")
            .field("user", &self.user)
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

#[derive(PartialEq, Eq, Hash)]
struct CacheKey {
    user: String,
    salt: Box<[u8]>,
    iterations: u32,
    /// Keyed hash of the password: the cache neither keeps passwords nor something that can be searched offline by itself.
    fingerprint: Key,
}

/// Results of [`KdfRequest::run`], keyed by everything that goes into one, the least recently used dropped first.
///
/// Not shared by itself: the owner wraps it in a `std::sync::Mutex` or keeps one per worker.
pub struct SaltedKeyCache {
    entries: HashMap<CacheKey, (SaltedKeys, u64)>,
    capacity: usize,
    used: u64,
    fingerprint_key: Key,
}

impl SaltedKeyCache {
    /// Holds at most `capacity` results. `fingerprint_key` is random, made once per process.
    pub fn new(capacity: usize, fingerprint_key: [u8; 32]) -> Self {
        Self {
            entries: HashMap::new(),
            capacity,
            used: 0,
            fingerprint_key,
        }
    }

    /// The result of an equal request, if it is remembered.
    pub fn lookup(&mut self, request: &KdfRequest) -> Option<SaltedKeys> {
        let key = self.key(request);
        self.used += 1;
        let (keys, used) = self.entries.get_mut(&key)?;
        *used = self.used;
        Some(keys.clone())
    }

    /// Remembers a result. Costs a scan of the cache when it is full, which is nothing beside the derivation just done.
    pub fn insert(&mut self, request: &KdfRequest, keys: SaltedKeys) {
        if self.capacity == 0 {
            return;
        }
        let key = self.key(request);
        self.used += 1;
        let used = self.used;
        self.entries.insert(key, (keys, used));
        if self.entries.len() > self.capacity {
            let oldest = self.entries.values().map(|(_, used)| *used).min();
            self.entries.retain(|_, (_, used)| Some(*used) != oldest);
        }
    }

    /// Number of results held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn key(&self, request: &KdfRequest) -> CacheKey {
        CacheKey {
            user: request.user.clone(),
            salt: request.salt.clone(),
            iterations: request.iterations,
            fingerprint: hmac(&self.fingerprint_key, &[request.password.reveal()]),
        }
    }
}

impl fmt::Debug for SaltedKeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaltedKeyCache")
            .field("len", &self.entries.len())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(user: &str, password: &str) -> KdfRequest {
        KdfRequest::new(user, Password::from(password), b"salt", 2, 100).unwrap()
    }

    #[test]
    fn iterations_are_bounded() {
        let asked = |n| KdfRequest::new("u", Password::from("p"), b"salt", n, 4096).map(|_| ());
        assert_eq!(asked(4096), Ok(()));
        assert_eq!(
            asked(4097),
            Err(TooManyIterations {
                asked: 4097,
                limit: 4096
            })
        );
        assert!(asked(u32::MAX).is_err());
    }

    #[test]
    fn the_cache_is_keyed_by_identity_and_password() {
        let mut cache = SaltedKeyCache::new(8, [7; 32]);
        let alice = request("alice", "pencil");
        cache.insert(&alice, alice.run());
        assert!(cache.lookup(&alice).is_some());
        assert!(cache.lookup(&request("bob", "pencil")).is_none());
        assert!(cache.lookup(&request("alice", "eraser")).is_none());
        assert!(!format!("{cache:?}{alice:?}").contains("pencil"));
    }

    #[test]
    fn the_cache_drops_the_least_recently_used() {
        let mut cache = SaltedKeyCache::new(2, [7; 32]);
        let [a, b, c] = ["a", "b", "c"].map(|user| request(user, "p"));
        cache.insert(&a, a.run());
        cache.insert(&b, b.run());
        assert!(cache.lookup(&a).is_some());
        cache.insert(&c, c.run());
        assert_eq!(cache.len(), 2);
        assert!(cache.lookup(&b).is_none());
        assert!(cache.lookup(&a).is_some() && cache.lookup(&c).is_some());
        let mut none = SaltedKeyCache::new(0, [7; 32]);
        none.insert(&a, a.run());
        assert!(none.is_empty());
    }
}
