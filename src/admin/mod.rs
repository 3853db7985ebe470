//! The psql console: the databases `pgbouncer` and `pgweir`.
//!
//! Answers PgBouncer's commands in PgBouncer's shapes, so that its exporters, dashboards and runbooks
//! work unchanged; what is ours is in commands of its own. Unlike PgBouncer's it also speaks the
//! extended query protocol.
//!
//! ```text
//!   connection   messages in, bytes out                     knows no command
//!   session      simple and extended query, errors          knows no command's meaning
//!   command      text → Command        access   who may run it
//!   show         the tables            control  everything else
//!   explain      where a statement would go     known    what is known of a database's servers
//!   metrics      the tables of SHOW, in Prometheus' text format
//! ```
//!
//! Does not know who runs the process: what the console cannot do by itself (RELOAD, SET, SHUTDOWN)
//! is a [`ControlRequest`] to whoever made the [`Console`]. A console connection owns small buffers
//! only, however long a table is.

mod access;
mod command;
mod connection;
mod control;
mod explain;
mod known;
mod metrics;
mod refusal;
mod session;
mod sessions;
mod show;
mod table;
#[cfg(test)]
mod test_console;
mod timestamp;

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::BytesMut;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

pub use self::{
    access::Role,
    command::ShutdownMode,
    sessions::{SessionRecord, Sessions},
};
use crate::{
    config::Config,
    net::{Resolver, Stream},
    pool::{Clients, Pools, clients::Origin},
    stats::averages::{ByDatabase, Snapshot, Window},
};

/// The database that the console is shown as, whichever of its names was asked for.
pub const DATABASE: &str = "pgbouncer";

/// Whether a database of this name is the console.
pub fn is_console(database: &str) -> bool {
    [DATABASE, "pgweir"].contains(&database)
}

/// The console's ParameterStatus `server_version`: tools take PgBouncer's features from it.
pub const SERVER_VERSION: &str = "1.25.2/bouncer";

/// What the console asks of whoever runs the process.
#[derive(Debug)]
pub enum ControlRequest {
    /// Read the configuration again. Answered with what the operator should know, one sentence each
    /// (settings that wait for a restart …), or with why nothing has changed.
    Reload(oneshot::Sender<Result<Vec<String>, String>>),
    /// Change one setting. Answered in the same way.
    Set {
        /// The setting.
        key: String,
        /// Its value.
        value: String,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Vec<String>, String>>,
    },
    /// End the process.
    Shutdown(ShutdownMode),
}

/// What all console connections of a process see and control.
#[derive(Debug)]
pub struct Console {
    /// Every pool.
    pub pools: Arc<Pools>,
    /// Every client.
    pub clients: Arc<Clients>,
    /// Every console connection.
    pub sessions: Sessions,
    /// The names that were looked up.
    pub resolver: Arc<Resolver>,
    /// How many connections have not logged in yet.
    pub login_clients: Arc<AtomicUsize>,
    config: watch::Receiver<Arc<Config>>,
    control: mpsc::UnboundedSender<ControlRequest>,
    window: Mutex<Window>,
}

/// What a [`Console`] is made of.
#[derive(Debug)]
pub struct ConsoleParts {
    /// Every pool.
    pub pools: Arc<Pools>,
    /// Every client.
    pub clients: Arc<Clients>,
    /// The names that were looked up.
    pub resolver: Arc<Resolver>,
    /// How many connections have not logged in yet.
    pub login_clients: Arc<AtomicUsize>,
    /// The configuration in force.
    pub config: watch::Receiver<Arc<Config>>,
    /// Who serves [`ControlRequest`]s.
    pub control: mpsc::UnboundedSender<ControlRequest>,
}

/// Who has logged in to the console.
#[derive(Clone, Debug)]
pub struct ConsoleLogin {
    /// Under which name.
    pub user: Box<str>,
    /// What it may do.
    pub role: Role,
    /// Where it comes from.
    pub origin: Origin,
    /// TLS protocol and cipher; empty without TLS.
    pub tls: Box<str>,
    /// What it calls itself.
    pub application_name: Box<str>,
}

/// One console connection's share of the process.
#[derive(Debug)]
pub struct ConsoleContext {
    /// The process.
    pub console: Arc<Console>,
    /// Who asks.
    pub login: ConsoleLogin,
}

impl Console {
    /// The console of a process; averages begin now.
    pub fn new(parts: ConsoleParts) -> Self {
        Self {
            pools: parts.pools,
            clients: parts.clients,
            sessions: Sessions::default(),
            resolver: parts.resolver,
            login_clients: parts.login_clients,
            config: parts.config,
            control: parts.control,
            window: Mutex::new(Window::new(Instant::now())),
        }
    }

    /// To be called every `stats_period`: the averages move on.
    pub fn roll_averages(&self) {
        let now = self.snapshot();
        self.window().roll(now);
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each database has done: those that are configured, those that `"*"` serves, and the console.
    fn snapshot(&self) -> Snapshot {
        let mut totals = self.pools.totals();
        for database in self.config().databases() {
            totals.entry((*database.name).into()).or_default();
        }
        totals.insert(DATABASE.into(), self.sessions.stats.totals());
        Snapshot {
            at: Instant::now(),
            totals,
        }
    }

    /// The totals of each database, and their averages.
    fn stats(&self) -> (ByDatabase, ByDatabase) {
        let now = self.snapshot();
        let averages = self.window().averages(&now);
        (now.totals, averages)
    }

    fn login_clients(&self) -> usize {
        self.login_clients.load(Ordering::Relaxed)
    }
}

/// Serves a console connection to its end. `owed` are bytes that the login has not sent yet
/// (AuthenticationOk), `received` what was read behind it.
///
/// # Cancel safety
/// Dropping the future closes the connection and undoes a PAUSE that has not been answered yet.
///
/// # Errors
/// The connection broke.
pub async fn serve(
    stream: Stream,
    owed: Vec<u8>,
    received: BytesMut,
    context: ConsoleContext,
) -> io::Result<()> {
    session::serve(stream, owed, received, context).await
}
