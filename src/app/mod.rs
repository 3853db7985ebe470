//! The wiring: what the process owns, and who is told what.
//!
//! Nothing below knows this module. [`Pooler`] is one running pooler; there may be several in a
//! process, as there are no globals.

pub mod auth_query;
pub mod command_line;
pub mod control;
pub mod demo;
mod descriptors;
pub mod explain;
mod metrics_http;
mod peers;
pub mod security;
pub mod serve;
pub mod watches;
pub mod workers;

use std::{
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use self::{
    control::Lifecycle,
    security::{Security, SecurityError},
    watches::{Watches, Whose},
};
use crate::{
    admin::{Console, ConsoleParts, ControlRequest},
    auth::Credentials,
    client::auth_query::AuthQueryCache,
    config::{Config, Database, Host, PoolSettings, Server},
    net::{Address, BindError, Keepalive, ListenAddress, Resolver, TcpOptions},
    pool::{Clients, Cluster, PoolName, Pools, Servers, Shared, seats::Seats},
    protocol::startup::ProtocolVersion,
    server::{
        ServerLogin,
        connect::ConnectTarget,
        credentials::{own_credentials, server_credentials, server_user},
        derivations::Derivations,
    },
    session::SettingsInterner,
};

/// A running pooler.
#[derive(Debug)]
pub struct Pooler {
    /// The configuration in force.
    pub config: watch::Sender<Arc<Config>>,
    /// Every pool.
    pub pools: Arc<Pools>,
    /// Every client.
    pub clients: Arc<Clients>,
    /// How many clients there are.
    pub seats: Arc<Seats>,
    /// What sessions share.
    pub settings: Arc<SettingsInterner>,
    /// Every task.
    pub tasks: TaskTracker,
    /// Who computes keys.
    pub derivations: Arc<Derivations>,
    /// Where the process is between its start and its end.
    pub lifecycle: watch::Sender<Lifecycle>,
    /// Clients that have not logged in yet.
    pub logging_in: Arc<AtomicUsize>,
    /// The console of the process.
    pub console: Arc<Console>,
    /// Where whoever wants something of the process says so.
    pub control: mpsc::UnboundedSender<ControlRequest>,
    requests: Mutex<Option<mpsc::UnboundedReceiver<ControlRequest>>>,
    watches: Watches,
    answers: AuthQueryCache,
    asking: auth_query::Places,
    resolver: Arc<Resolver>,
    security: Mutex<Arc<Security>>,
    mock_key: [u8; 32],
    own_uid: u32,
}

/// The pooler cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No random numbers.
    #[error("cannot get random numbers from the operating system")]
    Random(#[from] getrandom::Error),
    /// A file about who may connect.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A thread or a runtime.
    #[error("cannot start a worker")]
    Worker(#[source] std::io::Error),
    /// It has been run before.
    #[error("a pooler can be run once")]
    RunTwice,
    /// Neither TCP nor Unix socket.
    #[error("nothing to listen on: both listen_addr and unix_socket_dir are empty")]
    Nowhere,
}

/// SCRAM iterations that a server, or a stored secret, may ask for: a hundred times PostgreSQL's
/// default.
const MAX_ITERATIONS: u32 = 400_000;
/// Salted keys that are remembered.
const REMEMBERED_KEYS: usize = 10_000;

impl Pooler {
    /// A pooler that does not serve anybody yet.
    pub fn new(config: Arc<Config>) -> Result<Arc<Self>, StartError> {
        let mut secrets = [[0; 32]; 3];
        for secret in &mut secrets {
            getrandom::fill(secret)?;
        }
        let [cancel_secret, fingerprint_key, mock_key] = secrets;
        let settings = Arc::new(SettingsInterner::default());
        let tasks = TaskTracker::new();
        let shared = Arc::new(Shared::new(tasks.clone(), Arc::clone(&settings)));
        let process = &config.process;
        let resolver = Arc::new(Resolver::new(process.dns_max_ttl, process.dns_nxdomain_ttl));
        let security = Mutex::new(Arc::new(Security::load(&config)?));
        let config = watch::Sender::new(config);
        let watches = Watches::new(tasks.clone(), Arc::clone(&shared.worlds));
        let pools = Arc::new(Pools::new(shared));
        let clients = Arc::new(Clients::new(cancel_secret, config.borrow().process.peer_id));
        let logging_in = Arc::default();
        let (control, requests) = mpsc::unbounded_channel();
        let console = Arc::new(Console::new(ConsoleParts {
            pools: Arc::clone(&pools),
            clients: Arc::clone(&clients),
            resolver: Arc::clone(&resolver),
            login_clients: Arc::clone(&logging_in),
            config: config.subscribe(),
            control: control.clone(),
        }));
        Ok(Arc::new(Self {
            config,
            pools,
            clients,
            seats: Arc::default(),
            settings,
            tasks,
            derivations: Arc::new(Derivations::new(REMEMBERED_KEYS, 2, fingerprint_key)),
            lifecycle: watch::Sender::new(Lifecycle::Serving),
            logging_in,
            console,
            control,
            requests: Mutex::new(Some(requests)),
            watches,
            answers: AuthQueryCache::default(),
            asking: auth_query::Places::default(),
            resolver,
            security,
            mock_key,
            own_uid: std::fs::metadata("/proc/self").map_or(u32::MAX, |own| own.uid()),
        }))
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// Who may connect, and how.
    pub fn security(&self) -> Arc<Security> {
        Arc::clone(&self.security.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_security(&self, security: Security) {
        *self.security.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(security);
    }

    /// The pools of a client, made if they are not there. What the client has proved is what they log
    /// in with, where the configuration has nothing better.
    pub fn cluster(&self, database: &Database, user: &str, proved: &Credentials) -> Arc<Cluster> {
        let name = PoolName {
            database: (*database.name).into(),
            user: user.into(),
        };
        let mut is_new = false;
        let cluster = self.pools.cluster(&name, || {
            is_new = true;
            self.servers(&self.config(), database, user, proved)
        });
        if is_new || matches!(proved, Credentials::None) {
            return cluster;
        }
        let hosts = cluster.hosts();
        let config = self.config();
        for (pool, server) in hosts.pools.iter().zip(database.hosts()) {
            let knows_nothing = matches!(pool.login().credentials, Credentials::None);
            if knows_nothing || pool.is_stuck() {
                let to = (database, server);
                let identity = identity(&config, database, user, proved);
                let login = self.server_login(&config, to, identity, &pool.settings());
                pool.set_login(Arc::new(login));
                is_new = true;
            }
        }
        if is_new {
            let logins: Vec<_> = hosts.pools.iter().map(|pool| pool.login()).collect();
            let settings = hosts.home().settings();
            self.replan(&config, database, &logins, &settings);
        }
        cluster
    }

    /// The servers of a database, for one of its users.
    fn servers(
        &self,
        config: &Config,
        database: &Database,
        user: &str,
        proved: &Credentials,
    ) -> Servers {
        let settings = config.pool(database, user);
        let logins: Vec<_> = database
            .hosts()
            .map(|server| {
                let identity = identity(config, database, user, proved);
                Arc::new(self.server_login(config, (database, server), identity, &settings))
            })
            .collect();
        let watch = match self.monitor_logins(config, database, &settings) {
            Some(own) => self.watches.of(database, &own, &settings),
            None => self.watches.of(database, &logins, &settings),
        };
        Servers {
            settings,
            logins,
            watch,
        }
    }

    /// How the monitor logs in to the servers of a database, if it does so as `monitor_user` and not as those who come.
    fn monitor_logins(
        &self,
        config: &Config,
        database: &Database,
        settings: &PoolSettings,
    ) -> Option<Vec<Arc<ServerLogin>>> {
        let user = config.process.monitor_user.as_deref()?;
        let login = |server| {
            let identity = own_identity(config, user);
            Arc::new(self.server_login(config, (database, server), identity, settings))
        };
        Some(database.hosts().map(login).collect())
    }

    /// Tells the monitor of a database that its settings, or the logins of one of its users, are others.
    fn replan(
        &self,
        config: &Config,
        database: &Database,
        logins: &[Arc<ServerLogin>],
        settings: &Arc<PoolSettings>,
    ) {
        let own = self.monitor_logins(config, database, settings);
        let logins = own
            .as_deref()
            .map_or((logins, Whose::Clients), |own| (own, Whose::Own));
        self.watches.replan(&database.name, logins, settings);
    }

    /// How one of a database's servers is logged in to, as whom and with what.
    fn server_login(
        &self,
        config: &Config,
        (database, server): (&Database, &Server),
        (user, credentials): (String, Credentials),
        settings: &PoolSettings,
    ) -> ServerLogin {
        let target = ConnectTarget {
            address: address(&server.host, server.port),
            at: None,
            user,
            database: database.server_dbname().to_owned(),
            parameters: Vec::new(),
            sslmode: config.process.server_tls.sslmode,
            connector: self.security().connector.clone(),
            tcp: tcp_options(config),
            protocol: ProtocolVersion::V3_0,
            timeout: settings.server_connect_timeout,
            max_iterations: MAX_ITERATIONS,
        };
        ServerLogin {
            target,
            credentials,
            resolver: Arc::clone(&self.resolver),
            derivations: Arc::clone(&self.derivations),
            cancel_timeout: config.process.cancel_wait_timeout,
            max_prepared_statements: settings.max_prepared_statements,
            connect_query: database.connect_query.clone(),
        }
    }

    /// Forgets pools of databases that only `"*"` serves, when nobody has used them for long.
    fn forget_unused_pools(&self) {
        let config = self.config();
        let Some(limit) = config.process.autodb_idle_timeout else {
            return;
        };
        let now = Instant::now();
        self.pools.forget(|pool| {
            let is_fallback = config
                .database(&pool.name.database)
                .is_none_or(|database| database.is_fallback);
            is_fallback && pool.unused_for(now) >= limit
        });
        let clusters = self.pools.clusters();
        let is_used = |name: &str| clusters.iter().any(|it| *it.name.database == *name);
        self.watches.forget_unused(is_used, now);
    }

    /// What has to be done from time to time, until the future is dropped.
    async fn tend(&self) {
        let mut tick = tokio::time::interval(TICK);
        let mut ticks = 0u32;
        loop {
            tick.tick().await;
            self.clients.signal_overdue();
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(POOLS_EVERY) {
                let doubtful = self.pools.tend();
                if !doubtful.is_empty() {
                    self.clients.signal_superseded(&doubtful);
                }
                self.forget_unused_pools();
                if self.config().process.monitor_user.is_none() {
                    self.watches.relieve(&self.pools.clusters(), Instant::now());
                }
            }
        }
    }
}

fn address(host: &Host, port: u16) -> Address {
    match host {
        Host::Tcp(host) => Address::Tcp {
            host: host.clone(),
            port,
        },
        Host::Unix(directory) => Address::Unix {
            directory: directory.clone(),
            port,
        },
    }
}

/// As whom a pool logs in to the servers of a database, and with what.
fn identity(
    config: &Config,
    database: &Database,
    user: &str,
    proved: &Credentials,
) -> (String, Credentials) {
    let as_user = server_user(database, user);
    let known = config.user(as_user);
    let credentials = server_credentials(database, known.as_deref(), proved);
    (as_user.to_owned(), credentials)
}

/// The same of a user who asks servers something on our own behalf.
fn own_identity(config: &Config, user: &str) -> (String, Credentials) {
    let known = config.user(user);
    (user.to_owned(), own_credentials(known.as_deref()))
}

/// How exact time limits of clients are.
const TICK: Duration = Duration::from_millis(100);
/// Pools are looked after once in so many ticks.
const POOLS_EVERY: u32 = 10;

fn tcp_options(config: &Config) -> TcpOptions {
    let process = &config.process;
    TcpOptions {
        keepalive: process.tcp_keepalive.then_some(Keepalive {
            idle: process.tcp_keepidle,
            interval: process.tcp_keepintvl,
            count: (process.tcp_keepcnt > 0).then_some(process.tcp_keepcnt),
        }),
        user_timeout: process.tcp_user_timeout,
        socket_buffer: None,
    }
}

/// Runs a pooler to its end, on the present thread and as many others as it is configured for.
///
/// `ready` is told the addresses as soon as clients can connect. It ends when a signal, the console
/// or [`Pooler::control`] says so; a pooler can be run once.
pub fn run(pooler: &Arc<Pooler>, ready: impl FnOnce(Vec<ListenAddress>)) -> Result<(), StartError> {
    let runtime = workers::runtime()?;
    runtime.block_on(async {
        let listeners = serve::listen(pooler)?;
        let metrics = metrics_http::listen(pooler)?;
        let addresses = listeners
            .iter()
            .map(|listener| listener.address().clone())
            .collect();
        let control = control::Control::start(pooler)?;
        let workers = std::rc::Rc::new(workers::Workers::start(pooler)?);
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                let accept = serve::accept(Arc::clone(pooler), workers.clone(), listener);
                tokio::task::spawn_local(accept)
            })
            .collect();
        if let Some(listener) = metrics {
            // Answered until the very end: whoever asks is told that it is coming.
            let serving = metrics_http::serve(Arc::clone(pooler), listener);
            pooler.tasks.spawn_local(serving);
        }
        ready(addresses);
        tokio::select! {
            () = pooler.tend() => {}
            () = control.run(pooler, accepting) => {}
        }
        Ok(())
    })
}
