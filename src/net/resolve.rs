//! Host names to addresses: the system's resolver behind a small cache.
//!
//! An answer is used for `dns_max_ttl`. When the resolver fails, the last answer serves on: a broken name server must not
//! cut a pooler from servers that are where they were. Of many that wait for one name, one asks.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

/// The names that have been looked up.
#[derive(Debug)]
pub struct Resolver {
    ttl: Mutex<Ttl>,
    hosts: Mutex<HashMap<Box<str>, Arc<Host>>>,
}

/// A name that has been looked up.
#[derive(Clone, Debug)]
pub struct KnownHost {
    /// The name.
    pub name: Box<str>,
    /// What it was last found to be; empty if it never was.
    pub addresses: Arc<[IpAddr]>,
    /// How long that will be used without asking again.
    pub fresh_for: Duration,
}

/// How long an answer is used, and how long a failure.
#[derive(Clone, Copy, Debug)]
struct Ttl {
    max: Duration,
    nxdomain: Duration,
}

#[derive(Debug)]
struct Host {
    /// Held by who asks the system.
    turn: Semaphore,
    answer: Mutex<Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    fresh_until: Option<Instant>,
    /// Of the last success; never empty then.
    addresses: Option<Arc<[IpAddr]>>,
    failure: Option<(io::ErrorKind, String)>,
}

impl Resolver {
    /// `max_ttl` (`dns_max_ttl`) is how long an answer is used, `nxdomain_ttl` (`dns_nxdomain_ttl`) how long a failure.
    #[must_use]
    pub fn new(max_ttl: Duration, nxdomain_ttl: Duration) -> Self {
        Self {
            ttl: Mutex::new(Ttl {
                max: max_ttl,
                nxdomain: nxdomain_ttl,
            }),
            hosts: Mutex::default(),
        }
    }

    /// Changes the times for what is looked up from now on.
    pub fn set_ttl(&self, max_ttl: Duration, nxdomain_ttl: Duration) {
        *lock(&self.ttl) = Ttl {
            max: max_ttl,
            nxdomain: nxdomain_ttl,
        };
    }

    /// All addresses of `host`, in the order in which they are to be tried; an address is its own answer.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the next who waits for the same name asks instead.
    pub async fn resolve(&self, host: &str) -> io::Result<Arc<[IpAddr]>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Arc::new([address]));
        }
        self.resolve_by(host, async || {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
        .await
    }

    /// Every name that has been looked up, sorted.
    pub fn known(&self) -> Vec<KnownHost> {
        let now = Instant::now();
        let mut hosts: Vec<_> = lock(&self.hosts)
            .iter()
            .map(|(name, host)| {
                let answer = lock(&host.answer);
                let until = answer.fresh_until.unwrap_or(now);
                KnownHost {
                    name: name.clone(),
                    addresses: answer.addresses.clone().unwrap_or_default(),
                    fresh_for: until.saturating_duration_since(now),
                }
            })
            .collect();
        hosts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        hosts
    }

    async fn resolve_by(
        &self,
        host: &str,
        ask: impl AsyncFnOnce() -> io::Result<Vec<IpAddr>>,
    ) -> io::Result<Arc<[IpAddr]>> {
        let known = self.host(host);
        if let Some(answer) = known.fresh() {
            return answer;
        }
        let _turn = known
            .turn
            .acquire()
            .await
            .expect("the semaphore is never closed");
        if let Some(answer) = known.fresh() {
            return answer;
        }
        let found = ask().await.and_then(|addresses| {
            if addresses.is_empty() {
                Err(io::Error::new(io::ErrorKind::NotFound, "no address"))
            } else {
                Ok(addresses)
            }
        });
        let mut answer = lock(&known.answer);
        let ttl = match found {
            Ok(addresses) => {
                *answer = Answer {
                    addresses: Some(addresses.into()),
                    ..Answer::default()
                };
                lock(&self.ttl).max
            }
            Err(error) => {
                tracing::warn!(host, %error, "cannot resolve host name");
                answer.failure = Some((error.kind(), error.to_string()));
                lock(&self.ttl).nxdomain
            }
        };
        answer.fresh_until = Some(Instant::now() + ttl);
        answer.best()
    }

    fn host(&self, host: &str) -> Arc<Host> {
        let mut hosts = lock(&self.hosts);
        if let Some(known) = hosts.get(host) {
            return Arc::clone(known);
        }
        let unknown = Arc::new(Host {
            turn: Semaphore::new(1),
            answer: Mutex::default(),
        });
        hosts.insert(host.into(), Arc::clone(&unknown));
        unknown
    }
}

impl Host {
    fn fresh(&self) -> Option<io::Result<Arc<[IpAddr]>>> {
        let answer = lock(&self.answer);
        let fresh = answer
            .fresh_until
            .is_some_and(|until| Instant::now() < until);
        fresh.then(|| answer.best())
    }
}

impl Answer {
    fn best(&self) -> io::Result<Arc<[IpAddr]>> {
        match (&self.addresses, &self.failure) {
            (Some(addresses), _) => Ok(Arc::clone(addresses)),
            (None, Some((kind, message))) => Err(io::Error::new(*kind, message.clone())),
            (None, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::pending, net::Ipv4Addr};

    use super::*;

    const TTL: Duration = Duration::from_secs(15);
    const NXDOMAIN_TTL: Duration = Duration::from_secs(5);

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn failure() -> io::Result<Vec<IpAddr>> {
        Err(io::Error::other("name server is down"))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_serves_until_it_is_old_and_longer_when_there_is_no_other() {
        let resolver = Resolver::new(TTL, NXDOMAIN_TTL);
        let resolve = |answer: io::Result<Vec<IpAddr>>| resolver.resolve_by("db", async || answer);

        assert_eq!(*resolve(Ok(vec![address(1)])).await.unwrap(), [address(1)]);
        tokio::time::advance(TTL - Duration::from_secs(1)).await;
        assert_eq!(*resolve(Ok(vec![address(2)])).await.unwrap(), [address(1)]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            *resolve(failure()).await.unwrap(),
            [address(1)],
            "last good"
        );
        assert_eq!(*resolve(Ok(vec![address(3)])).await.unwrap(), [address(1)]);
        tokio::time::advance(NXDOMAIN_TTL).await;
        let both = vec![address(3), address(4)];
        assert_eq!(*resolve(Ok(both.clone())).await.unwrap(), *both);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_remembered_shortly() {
        let resolver = Resolver::new(TTL, NXDOMAIN_TTL);
        let resolve = |answer: io::Result<Vec<IpAddr>>| resolver.resolve_by("db", async || answer);
        for answer in [failure(), Ok(vec![address(1)])] {
            let error = resolve(answer).await.unwrap_err();
            assert_eq!(error.to_string(), "name server is down");
        }
        tokio::time::advance(NXDOMAIN_TTL).await;
        assert!(resolve(Ok(vec![])).await.is_err(), "no address at all");
        tokio::time::advance(NXDOMAIN_TTL).await;
        assert!(resolve(Ok(vec![address(1)])).await.is_ok());
    }

    #[tokio::test]
    async fn one_asks_for_all_and_the_next_when_it_gives_up() {
        let resolver = Resolver::new(TTL, NXDOMAIN_TTL);
        let asked = Cell::new(0);
        let never = resolver.resolve_by("db", async || pending().await);
        let ask = || {
            resolver.resolve_by("db", async || {
                asked.set(asked.get() + 1);
                tokio::task::yield_now().await;
                Ok(vec![address(1)])
            })
        };
        let all = async { tokio::join!(ask(), ask(), ask()) };
        let gives_up = async {
            tokio::select! {
                biased;
                _ = never => unreachable!(),
                () = tokio::task::yield_now() => {}
            }
        };
        let (_, answers) = tokio::join!(gives_up, all);
        assert!(answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok());
        assert_eq!(asked.get(), 1);
    }

    #[tokio::test]
    async fn addresses_and_the_hosts_file_need_no_name_server() {
        let resolver = Resolver::new(TTL, NXDOMAIN_TTL);
        assert_eq!(*resolver.resolve("10.0.0.1").await.unwrap(), [address(1)]);
        assert_eq!(resolver.resolve("::1").await.unwrap().len(), 1);
        let localhost = resolver.resolve("localhost").await.unwrap();
        assert!(localhost.iter().all(IpAddr::is_loopback));
    }
}
