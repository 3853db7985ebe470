//! What `auth_query` has answered: one question at a time for each user, remembered for a while.
//!
//! Keyed by database and user, so that no answer ever serves another identity. Shared by all workers; knows neither servers nor
//! how a question is asked. Bounded: unknown names, which anyone can make up, go first when room is needed.

use crate::config::AuthQuery;
use crate::server::{ConnectError, Found, LookupError};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Most answers remembered.
const CAPACITY: usize = 10_000;

/// An answer may be forgotten for a wrong password only when it is older: a client that guesses must not ask the server each time.
const LEAST_AGE: Duration = Duration::from_secs(1);

/// Why nobody knows whether there is such a user.
#[derive(Debug, thiserror::Error)]
pub enum AuthQueryFailure {
    /// The server to ask cannot be connected.
    #[error("the server to ask cannot be connected")]
    Connect(#[source] ConnectError),
    /// It was asked and did not answer properly.
    #[error("the question failed")]
    Lookup(#[source] LookupError),
    /// No answer in time.
    #[error("no answer within auth_query_timeout, {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// `auth_dbname` is no database.
    #[error("auth_dbname \"{0}\" is not configured")]
    NoDatabase(String),
}

/// Asks a server for a user's secret; the caller of a login provides it, with the connections of its own worker.
pub trait SecretSource {
    /// Asks `question` about `user` on an isolated connection (`server::lookup`). Bounded in time by who calls.
    fn ask<'a>(
        &'a self,
        question: &'a AuthQuery,
        user: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Found, AuthQueryFailure>> + 'a>>;
}

/// How long answers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerTtl {
    /// `auth_query_cache_ttl`; `None` asks every time.
    pub found: Option<Duration>,
    /// `auth_query_negative_ttl`: no such user, or no password.
    pub missing: Option<Duration>,
}

/// The answers of all databases. One per process.
#[derive(Default)]
pub struct AuthQueryCache {
    entries: Mutex<HashMap<Key, Entry>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    database: String,
    user: String,
}

type Answer = Result<Found, Arc<AuthQueryFailure>>;

enum Entry {
    Known {
        found: Found,
        asked: Instant,
        until: Instant,
    },
    /// Somebody is asking. Closed without an answer when that client is gone: the next one asks.
    Asking(watch::Receiver<Option<Answer>>),
}

enum Turn {
    Known(Found),
    Wait(watch::Receiver<Option<Answer>>),
    Ask(watch::Sender<Option<Answer>>),
}

impl AuthQueryCache {
    /// The answer for this user of this database: remembered, or being asked for by another, or asked for by `ask`.
    ///
    /// # Cancel safety
    /// When the one who asks is dropped, one of those who wait asks instead.
    pub async fn find(
        &self,
        database: &str,
        user: &str,
        ttl: AnswerTtl,
        ask: impl Future<Output = Result<Found, AuthQueryFailure>>,
    ) -> Result<Found, Arc<AuthQueryFailure>> {
        let key = Key {
            database: database.to_owned(),
            user: user.to_owned(),
        };
        let ask = pin!(ask);
        let sender = loop {
            match self.turn(&key) {
                Turn::Known(found) => return Ok(found),
                Turn::Ask(sender) => break sender,
                Turn::Wait(mut answer) => {
                    if let Ok(answer) = answer.wait_for(Option::is_some).await {
                        return answer.clone().expect("it was waited for");
                    }
                }
            }
        };
        let answer = ask.await.map_err(Arc::new);
        self.remember(key, &answer, ttl);
        sender.send_replace(Some(answer.clone()));
        answer
    }

    /// Forgets the answer for a user whose password turned out to be wrong or changed, unless it is quite fresh: the next
    /// login asks again.
    pub fn forget(&self, database: &str, user: &str) {
        let key = Key {
            database: database.to_owned(),
            user: user.to_owned(),
        };
        let mut entries = self.lock();
        if let Some(Entry::Known { asked, .. }) = entries.get(&key)
            && asked.elapsed() >= LEAST_AGE
        {
            entries.remove(&key);
        }
    }

    /// Forgets everything, as a reload does.
    pub fn clear(&self) {
        self.lock()
            .retain(|_, entry| matches!(entry, Entry::Asking(_)));
    }

    fn turn(&self, key: &Key) -> Turn {
        let mut entries = self.lock();
        match entries.get(key) {
            Some(Entry::Known { found, until, .. }) if Instant::now() < *until => {
                return Turn::Known(found.clone());
            }
            // Closed means that whoever asked is gone.
            Some(Entry::Asking(answer)) if answer.has_changed().is_ok() => {
                return Turn::Wait(answer.clone());
            }
            _ => {}
        }
        make_room(&mut entries);
        let (sender, receiver) = watch::channel(None);
        entries.insert(key.clone(), Entry::Asking(receiver));
        Turn::Ask(sender)
    }

    fn remember(&self, key: Key, answer: &Answer, ttl: AnswerTtl) {
        let ttl = match answer {
            Ok(Found::Secret(_)) => ttl.found,
            Ok(Found::NoSuchUser | Found::NoPassword) => ttl.missing,
            Err(_) => None,
        };
        let mut entries = self.lock();
        match (answer, ttl) {
            (Ok(found), Some(ttl)) => {
                let asked = Instant::now();
                let known = Entry::Known {
                    found: found.clone(),
                    asked,
                    until: asked + ttl,
                };
                entries.insert(key, known);
            }
            _ => {
                entries.remove(&key);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(entries: &mut HashMap<Key, Entry>) {
    if entries.len() < CAPACITY {
        return;
    }
    let now = Instant::now();
    entries.retain(|_, entry| match entry {
        Entry::Known { until, .. } => now < *until,
        Entry::Asking(answer) => answer.has_changed().is_ok(),
    });
    if entries.len() < CAPACITY {
        return;
    }
    entries.retain(|_, entry| {
        matches!(
            entry,
            Entry::Asking(_)
                | Entry::Known {
                    found: Found::Secret(_),
                    ..
                }
        )
    });
    while entries.len() >= CAPACITY {
        let Some(any) = entries.keys().next().cloned() else {
            return;
        };
        entries.remove(&any);
    }
}

impl fmt::Debug for AuthQueryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthQueryCache")
            .field("len", &self.lock().len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::sync::oneshot;

    const TTL: AnswerTtl = AnswerTtl {
        found: Some(Duration::from_secs(30)),
        missing: Some(Duration::from_secs(5)),
    };

    fn secret(text: &str) -> Found {
        Found::Secret(text.to_owned().into())
    }

    /// Asks and counts.
    async fn find(cache: &AuthQueryCache, user: &str, asked: &Cell<u32>, answer: Found) -> Found {
        let ask = async {
            asked.set(asked.get() + 1);
            Ok(answer)
        };
        cache.find("app", user, TTL, ask).await.expect("an answer")
    }

    #[tokio::test(start_paused = true)]
    async fn answers_hold_for_their_time_and_for_one_identity() {
        let (cache, asked) = (AuthQueryCache::default(), Cell::new(0));
        assert_eq!(
            find(&cache, "alice", &asked, secret("a")).await,
            secret("a")
        );
        assert_eq!(
            find(&cache, "bob", &asked, Found::NoSuchUser).await,
            Found::NoSuchUser
        );
        assert_eq!(asked.get(), 2);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(
            find(&cache, "alice", &asked, secret("new")).await,
            secret("a")
        );
        assert_eq!(asked.get(), 2);
        assert_eq!(find(&cache, "bob", &asked, secret("b")).await, secret("b"));
        let other = cache
            .find("other", "alice", TTL, async { Ok(secret("o")) })
            .await;
        assert_eq!(other.unwrap(), secret("o"));
        tokio::time::advance(Duration::from_secs(25)).await;
        assert_eq!(
            find(&cache, "alice", &asked, secret("new")).await,
            secret("new")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_password_lets_the_next_login_ask_again_but_not_too_often() {
        let (cache, asked) = (AuthQueryCache::default(), Cell::new(0));
        find(&cache, "alice", &asked, secret("a")).await;
        cache.forget("app", "alice");
        assert_eq!(
            find(&cache, "alice", &asked, secret("b")).await,
            secret("a")
        );
        tokio::time::advance(LEAST_AGE).await;
        cache.forget("app", "alice");
        assert_eq!(
            find(&cache, "alice", &asked, secret("b")).await,
            secret("b")
        );
        cache.clear();
        assert_eq!(
            find(&cache, "alice", &asked, secret("c")).await,
            secret("c")
        );
        assert_eq!(asked.get(), 3);
    }

    #[tokio::test]
    async fn of_many_only_one_asks_and_all_get_its_answer_or_failure() {
        let (cache, asked) = (AuthQueryCache::default(), Cell::new(0));
        let (a, b) = tokio::join!(
            async {
                let slow = async {
                    tokio::task::yield_now().await;
                    asked.set(asked.get() + 1);
                    Ok(secret("a"))
                };
                cache.find("app", "alice", TTL, slow).await.unwrap()
            },
            find(&cache, "alice", &asked, secret("b")),
        );
        assert_eq!((a, b, asked.get()), (secret("a"), secret("a"), 1));

        let failing = async {
            tokio::task::yield_now().await;
            Err(AuthQueryFailure::Timeout(Duration::ZERO))
        };
        let unasked = async { unreachable!("another asks") };
        let (a, b) = tokio::join!(
            cache.find("app", "bob", TTL, failing),
            cache.find("app", "bob", TTL, unasked),
        );
        assert!(a.is_err() && b.is_err());
        // A failure is not remembered.
        assert_eq!(find(&cache, "bob", &asked, secret("b")).await, secret("b"));
    }

    #[tokio::test]
    async fn when_the_one_who_asks_is_gone_the_next_one_asks() {
        let (cache, asked) = (AuthQueryCache::default(), Cell::new(0));
        let (gone, wait) = oneshot::channel::<()>();
        let hanging = cache.find("app", "alice", TTL, std::future::pending());
        let first = async {
            tokio::select! {
                _ = hanging => unreachable!("it hangs"),
                _ = wait => {}
            }
        };
        let second = async {
            let waiting = find(&cache, "alice", &asked, secret("a"));
            let mut waiting = pin!(waiting);
            let early = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(waiting.as_mut().poll(cx).is_ready())
            });
            assert!(!early.await, "it waits for the first");
            gone.send(()).unwrap();
            waiting.await
        };
        let ((), found) = tokio::join!(first, second);
        assert_eq!((found, asked.get()), (secret("a"), 1));
    }

    #[tokio::test]
    async fn made_up_names_make_room_for_real_ones() {
        let (cache, asked) = (AuthQueryCache::default(), Cell::new(0));
        find(&cache, "alice", &asked, secret("a")).await;
        for i in 0..CAPACITY + 10 {
            find(&cache, &format!("guess {i}"), &asked, Found::NoSuchUser).await;
        }
        assert!(cache.lock().len() <= CAPACITY);
        let before = asked.get();
        find(&cache, "alice", &asked, secret("b")).await;
        assert_eq!(asked.get(), before, "alice is still known");
    }
}
