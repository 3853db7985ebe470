//! Threads that serve clients: each a runtime of its own, so that a query never crosses threads.
//!
//! The first worker is the thread that runs the pooler; it also accepts connections and hands them to
//! the worker with the fewest clients.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
    thread,
};

use tokio::{
    runtime::{Builder, Handle, LocalOptions, LocalRuntime},
    sync::mpsc,
};

use super::{Pooler, StartError, serve};
use crate::{
    client::{buffers::Buffers, relay::Worker},
    net::{Accepted, Portable},
    session::Texts,
};

/// Where accepted connections go.
#[derive(Debug)]
pub struct Workers {
    others: Vec<Desk>,
    own: Rc<Worker>,
    own_clients: Arc<AtomicUsize>,
}

/// A worker on a thread of its own.
#[derive(Debug)]
struct Desk {
    connections: mpsc::UnboundedSender<Handed>,
    clients: Arc<AtomicUsize>,
}

/// A new client on its way to another worker.
#[derive(Debug)]
struct Handed {
    connection: Portable,
    peer: Option<SocketAddr>,
}

impl Handed {
    fn over(accepted: Accepted) -> io::Result<Self> {
        Ok(Self {
            connection: accepted.stream.into_portable()?,
            peer: accepted.peer,
        })
    }

    fn arrive(self) -> io::Result<Accepted> {
        Ok(Accepted {
            stream: self.connection.into_stream()?,
            peer: self.peer,
        })
    }
}

/// Counts a client of a worker for as long as it lives.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// One more, until it is dropped.
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A runtime of the kind that every worker has. It stays on this thread.
pub fn runtime() -> Result<LocalRuntime, StartError> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(StartError::Worker)
}

fn worker(pooler: &Pooler) -> Rc<Worker> {
    Rc::new(Worker {
        id: Handle::current().id(),
        buffers: Buffers::default(),
        texts: Texts::of_worker(),
        tasks: pooler.tasks.clone(),
        clients: Arc::clone(&pooler.clients),
    })
}

impl Workers {
    /// Starts the threads beyond the present one, which must be in a runtime.
    pub fn start(pooler: &Arc<Pooler>) -> Result<Self, StartError> {
        let count = pooler.config().process.workers.max(1);
        let others = (1..count)
            .map(|number| Desk::start(pooler, number))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            others,
            own: worker(pooler),
            own_clients: Arc::default(),
        })
    }

    /// Gives a connection to the worker with the fewest clients.
    pub fn assign(&self, pooler: &Arc<Pooler>, accepted: Accepted) {
        let own_load = self.own_clients.load(Ordering::Relaxed);
        let least = self
            .others
            .iter()
            .min_by_key(|desk| desk.clients.load(Ordering::Relaxed));
        match least {
            Some(desk) if desk.clients.load(Ordering::Relaxed) < own_load => desk.hand(accepted),
            _ => {
                let counted = Counted::new(&self.own_clients);
                let worker = Rc::clone(&self.own);
                let serving = serve::connection(Arc::clone(pooler), worker, accepted, counted);
                pooler.tasks.spawn_local(serving);
            }
        }
    }
}

impl Desk {
    fn start(pooler: &Arc<Pooler>, number: usize) -> Result<Self, StartError> {
        let (connections, handed) = mpsc::unbounded_channel();
        let clients: Arc<AtomicUsize> = Arc::default();
        let count = Arc::clone(&clients);
        let pooler = Arc::clone(pooler);
        let (report, outcome) = sync_channel(1);
        thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                let runtime = runtime();
                let runtime = runtime.map_err(|error| report.send(error));
                drop(report);
                if let Ok(runtime) = runtime {
                    runtime.block_on(work(pooler, handed, count));
                }
            })
            .map_err(StartError::Worker)?;
        if let Ok(error) = outcome.recv() {
            return Err(error);
        }
        Ok(Self {
            connections,
            clients,
        })
    }

    fn hand(&self, accepted: Accepted) {
        let peer = accepted.peer;
        match Handed::over(accepted) {
            Ok(handed) => {
                if self.connections.send(handed).is_err() {
                    tracing::error!(?peer, "worker is gone, connection dropped");
                }
            }
            Err(error) => tracing::error!(?peer, %error, "cannot serve client"),
        }
    }
}

/// Serves the connections that a worker of its own is given.
async fn work(
    pooler: Arc<Pooler>,
    mut connections: mpsc::UnboundedReceiver<Handed>,
    count: Arc<AtomicUsize>,
) {
    let worker = worker(&pooler);
    while let Some(handed) = connections.recv().await {
        let peer = handed.peer;
        let accepted = match handed.arrive() {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(?peer, %error, "cannot serve client");
                continue;
            }
        };
        let counted = Counted::new(&count);
        let (own, worker) = (Arc::clone(&pooler), Rc::clone(&worker));
        let serving = serve::connection(own, worker, accepted, counted);
        pooler.tasks.spawn_local(serving);
    }
}
