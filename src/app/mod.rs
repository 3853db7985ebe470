//! The wiring: what the process owns, and who is told what.
//!
//! Nothing below knows this module. [`Pooler`] is one running pooler; there may be several in a
//! process, as there are no globals.

pub mod serve;
pub mod workers;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    auth::Credentials,
    config::{Config, Database, Host, PoolSettings, SslMode},
    net::{
        AcceptTls, Acceptor, Address, ConnectTls, Connector, Identity, Keepalive, Resolver, Roots,
        TcpOptions, TlsConfigError, TlsVersions, Verify,
    },
    pool::{Clients, Pool, PoolName, Pools, Shared},
    protocol::startup::ProtocolVersion,
    server::{
        ServerLogin,
        connect::ConnectTarget,
        credentials::{server_credentials, server_user},
        derivations::Derivations,
    },
    session::Interners,
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
    /// What sessions share.
    pub interners: Arc<Interners>,
    /// Every task.
    pub tasks: TaskTracker,
    /// Who computes keys.
    pub derivations: Arc<Derivations>,
    resolver: Arc<Resolver>,
    tls: Mutex<Tls>,
}

/// What TLS handshakes need, of both legs.
#[derive(Clone, Default)]
pub struct Tls {
    /// Towards clients; `None` when switched off.
    pub acceptor: Option<Acceptor>,
    /// Towards servers; `None` when switched off.
    pub connector: Option<Connector>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// The pooler cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No random numbers.
    #[error("cannot get random numbers from the operating system")]
    Random(#[from] getrandom::Error),
    /// TLS settings.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsConfigError),
    /// A listener.
    #[error(transparent)]
    Bind(#[from] crate::net::BindError),
    /// A thread or a runtime.
    #[error("cannot start a worker")]
    Worker(#[source] std::io::Error),
    /// Neither TCP nor Unix socket.
    #[error("nothing to listen on: both listen_addr and unix_socket_dir are empty")]
    Nowhere,
}

/// SCRAM iterations that a server may ask for: a hundred times PostgreSQL's default.
const MAX_SERVER_ITERATIONS: u32 = 400_000;

impl Pooler {
    /// A pooler that does not serve anybody yet.
    pub fn new(config: Arc<Config>) -> Result<Arc<Self>, StartError> {
        let mut secrets = [[0; 32]; 2];
        for secret in &mut secrets {
            getrandom::fill(secret)?;
        }
        let [cancel_secret, fingerprint_key] = secrets;
        let interners = Arc::new(Interners::default());
        let defaults = interners
            .settings
            .intern(crate::session::Settings::default());
        let tasks = TaskTracker::new();
        let shared = Arc::new(Shared::new(tasks.clone(), defaults));
        let process = &config.process;
        let resolver = Arc::new(Resolver::new(process.dns_max_ttl, process.dns_nxdomain_ttl));
        let tls = Mutex::new(Tls::load(&config)?);
        Ok(Arc::new(Self {
            config: watch::Sender::new(config),
            pools: Arc::new(Pools::new(shared)),
            clients: Arc::new(Clients::new(cancel_secret)),
            interners,
            tasks,
            derivations: Arc::new(Derivations::new(10_000, 2, fingerprint_key)),
            resolver,
            tls,
        }))
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// TLS in force.
    pub fn tls(&self) -> Tls {
        self.tls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The pool of a client, made if it is not there.
    pub fn pool(&self, database: &Database, user: &str, proved: &Credentials) -> Arc<Pool> {
        let name = PoolName {
            database: (*database.name).into(),
            user: user.into(),
        };
        let config = self.config();
        self.pools.pool(&name, || {
            let settings = config.pool(database, user);
            let login = Arc::new(self.server_login(&config, database, user, proved, &settings));
            (settings, login)
        })
    }

    /// How a pool logs in to its primary.
    fn server_login(
        &self,
        config: &Config,
        database: &Database,
        user: &str,
        proved: &Credentials,
        settings: &PoolSettings,
    ) -> ServerLogin {
        let server = database.primary().unwrap_or(&database.servers[0]);
        let address = match &server.host {
            Host::Tcp(host) => Address::Tcp {
                host: host.clone(),
                port: server.port,
            },
            Host::Unix(directory) => Address::Unix {
                directory: directory.clone(),
                port: server.port,
            },
        };
        let as_user = server_user(database, user);
        let known = config.user(as_user);
        let target = ConnectTarget {
            address,
            at: None,
            user: as_user.to_owned(),
            database: database.server_dbname().to_owned(),
            parameters: Vec::new(),
            sslmode: config.process.server_tls.sslmode,
            connector: self.tls().connector,
            tcp: tcp_options(config),
            protocol: ProtocolVersion::V3_0,
            timeout: settings.server_connect_timeout,
            max_iterations: MAX_SERVER_ITERATIONS,
        };
        ServerLogin {
            target,
            credentials: server_credentials(database, known.as_deref(), proved),
            resolver: Arc::clone(&self.resolver),
            derivations: Arc::clone(&self.derivations),
            cancel_timeout: config.process.cancel_wait_timeout,
            max_prepared_statements: settings.max_prepared_statements,
            connect_query: database.connect_query.clone(),
        }
    }

    /// What has to be done from time to time, until the future is dropped.
    pub async fn tend(&self) {
        let mut tick = tokio::time::interval(TICK);
        let mut ticks = 0u32;
        loop {
            tick.tick().await;
            self.clients.signal_overdue();
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(POOLS_EVERY) {
                self.pools.tend();
            }
        }
    }
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

impl Tls {
    /// Reads what the configuration names.
    pub fn load(config: &Config) -> Result<Self, TlsConfigError> {
        Ok(Self {
            acceptor: Self::acceptor(config)?,
            connector: Self::connector(config)?,
        })
    }

    fn acceptor(config: &Config) -> Result<Option<Acceptor>, TlsConfigError> {
        let tls = &config.process.client_tls;
        let (Some(key_file), Some(cert_file)) = (&tls.key_file, &tls.cert_file) else {
            return Ok(None);
        };
        if tls.sslmode == SslMode::Disable {
            return Ok(None);
        }
        Acceptor::load(&AcceptTls {
            identity: Identity {
                key_file: key_file.clone(),
                cert_file: cert_file.clone(),
            },
            ca_file: tls.ca_file.clone(),
            client_certificate_required: matches!(
                tls.sslmode,
                SslMode::VerifyCa | SslMode::VerifyFull
            ),
            versions: versions(tls.protocols),
        })
        .map(Some)
    }

    fn connector(config: &Config) -> Result<Option<Connector>, TlsConfigError> {
        let tls = &config.process.server_tls;
        if tls.sslmode == SslMode::Disable {
            return Ok(None);
        }
        let identity = match (&tls.key_file, &tls.cert_file) {
            (Some(key_file), Some(cert_file)) => Some(Identity {
                key_file: key_file.clone(),
                cert_file: cert_file.clone(),
            }),
            _ => None,
        };
        Connector::load(&ConnectTls {
            verify: match tls.sslmode {
                SslMode::VerifyFull => Verify::ChainAndName,
                SslMode::VerifyCa => Verify::Chain,
                _ => Verify::Nothing,
            },
            roots: Some(tls.ca_file.clone().map_or(Roots::Public, Roots::File)),
            identity,
            versions: versions(tls.protocols),
        })
        .map(Some)
    }
}

fn versions(protocols: crate::config::TlsProtocols) -> TlsVersions {
    match (protocols.v1_2, protocols.v1_3) {
        (true, false) => TlsVersions::Only12,
        (false, true) => TlsVersions::Only13,
        _ => TlsVersions::Both,
    }
}
