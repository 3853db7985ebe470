//! Host names to addresses: the system's resolver behind a small cache, one per worker.
//!
//! An answer is used for `dns_max_ttl`. When the resolver fails, the last answer serves on: a broken name server must not
//! cut a pooler from servers that are where they were. Of many that wait for one name, one asks.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::IpAddr,
    rc::Rc,
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

/// The names that one worker has looked up.
#[derive(Debug)]
pub struct Resolver {
    max_ttl: Cell<Duration>,
    nxdomain_ttl: Cell<Duration>,
    hosts: RefCell<HashMap<Box<str>, Rc<Host>>>,
}

#[derive(Debug)]
struct Host {
    /// Held by who asks the system.
    turn: Semaphore,
    answer: RefCell<Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    fresh_until: Option<Instant>,
    /// Of the last success; never empty then.
    addresses: Option<Rc<[IpAddr]>>,
    failure: Option<(io::ErrorKind, String)>,
}

impl Resolver {
    /// `max_ttl` (`dns_max_ttl`) is how long an answer is used, `nxdomain_ttl` (`dns_nxdomain_ttl`) how long a failure.
    #[must_use]
    pub fn new(max_ttl: Duration, nxdomain_ttl: Duration) -> Self {
        Self {
            max_ttl: Cell::new(max_ttl),
            nxdomain_ttl: Cell::new(nxdomain_ttl),
            hosts: RefCell::default(),
        }
    }

    /// Changes the times for what is looked up from now on.
    pub fn set_ttl(&self, max_ttl: Duration, nxdomain_ttl: Duration) {
        self.max_ttl.set(max_ttl);
        self.nxdomain_ttl.set(nxdomain_ttl);
    }

    /// All addresses of `host`, in the order in which they are to be tried; an address is its own answer.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the next who waits for the same name asks instead.
    pub async fn resolve(&self, host: &str) -> io::Result<Rc<[IpAddr]>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Rc::new([address]));
        }
        self.resolve_by(host, async || {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
        .await
    }

    async fn resolve_by(
        &self,
        host: &str,
        ask: impl AsyncFnOnce() -> io::Result<Vec<IpAddr>>,
    ) -> io::Result<Rc<[IpAddr]>> {
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
        let mut answer = known.answer.borrow_mut();
        let ttl = match found {
            Ok(addresses) => {
                *answer = Answer {
                    addresses: Some(addresses.into()),
                    ..Answer::default()
                };
                self.max_ttl.get()
            }
            Err(error) => {
                tracing::warn!(host, %error, "cannot resolve host name");
                answer.failure = Some((error.kind(), error.to_string()));
                self.nxdomain_ttl.get()
            }
        };
        answer.fresh_until = Some(Instant::now() + ttl);
        answer.best()
    }

    fn host(&self, host: &str) -> Rc<Host> {
        let mut hosts = self.hosts.borrow_mut();
        if let Some(known) = hosts.get(host) {
            return Rc::clone(known);
        }
        let unknown = Rc::new(Host {
            turn: Semaphore::new(1),
            answer: RefCell::default(),
        });
        hosts.insert(host.into(), Rc::clone(&unknown));
        unknown
    }
}

impl Host {
    fn fresh(&self) -> Option<io::Result<Rc<[IpAddr]>>> {
        let answer = self.answer.borrow();
        let fresh = answer
            .fresh_until
            .is_some_and(|until| Instant::now() < until);
        fresh.then(|| answer.best())
    }
}

impl Answer {
    fn best(&self) -> io::Result<Rc<[IpAddr]>> {
        match (&self.addresses, &self.failure) {
            (Some(addresses), _) => Ok(Rc::clone(addresses)),
            (None, Some((kind, message))) => Err(io::Error::new(*kind, message.clone())),
            (None, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, net::Ipv4Addr};

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
