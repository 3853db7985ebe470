//! Signals and console requests: reload, pause, and the several ways to end.
//!
//! ```text
//!   SIGHUP              RELOAD                       SIGUSR1 / SIGUSR2   PAUSE / RESUME
//!   SIGTERM             every client is ended at its next transaction boundary, with 57P01
//!   SIGINT              SHUTDOWN WAIT_FOR_SERVERS    a second SIGTERM or SIGINT, SIGQUIT: at once
//! ```

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal as Stream, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};

use super::{
    Pooler, StartError,
    security::{Security, SecurityError},
};
use crate::{
    admin::{ControlRequest, ShutdownMode},
    auth::Credentials,
    config::{Changes, Config, ConfigError, describe},
    pool::Signal,
    stats::Totals,
};

/// Where the process is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// Clients are let in.
    Serving,
    /// Clients are ended as they come to a transaction boundary.
    Draining,
    /// The end comes when all clients have left.
    WaitingForClients,
    /// The end comes when all servers have been given back.
    WaitingForServers,
}

/// A configuration cannot replace the running one.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error("there is no configuration file: the servers were given on the command line")]
    NoFile,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Security(#[from] SecurityError),
}

/// Receives whatever is asked of the process.
#[derive(Debug)]
pub struct Control {
    requests: mpsc::UnboundedReceiver<ControlRequest>,
    signals: Signals,
}

#[derive(Debug)]
struct Signals {
    hangup: Stream,
    terminate: Stream,
    interrupt: Stream,
    quit: Stream,
    user1: Stream,
    user2: Stream,
}

/// What a signal or request asks for.
enum Wish {
    Reload,
    Pause,
    Resume,
    Drain,
    End(ShutdownMode),
    Request(ControlRequest),
}

impl Control {
    /// Listens for signals from now on.
    pub fn start(pooler: &Pooler) -> Result<Self, StartError> {
        let mut requests = pooler
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let listen = |kind| signal(kind).map_err(StartError::Worker);
        Ok(Self {
            requests: requests.take().ok_or(StartError::RunTwice)?,
            signals: Signals {
                hangup: listen(SignalKind::hangup())?,
                terminate: listen(SignalKind::terminate())?,
                interrupt: listen(SignalKind::interrupt())?,
                quit: listen(SignalKind::quit())?,
                user1: listen(SignalKind::user_defined1())?,
                user2: listen(SignalKind::user_defined2())?,
            },
        })
    }

    /// Serves requests until the process is to end. `accepting` are stopped when no more clients are
    /// to come in.
    pub async fn run(mut self, pooler: &Pooler, accepting: Vec<JoinHandle<()>>) {
        let mut accepting = Some(accepting);
        let mut stats = tokio::time::interval(pooler.config().process.stats_period);
        stats.tick().await;
        let mut totals = pooler.pools.sum();
        let mut end: Option<End> = None;
        loop {
            let wish = tokio::select! {
                wish = self.wish() => wish,
                _ = stats.tick() => {
                    pooler.console.roll_averages();
                    if pooler.config().process.log_stats {
                        totals = log_stats(pooler, totals);
                    }
                    continue;
                }
                () = ended(pooler, end.as_mut()), if end.is_some() => return,
            };
            let mode = match wish {
                Wish::Reload => {
                    log_reload(&reload(pooler));
                    continue;
                }
                // Whoever is waited for now would never come to an end.
                Wish::Pause if end.is_some() => {
                    tracing::warn!("not paused: shutting down");
                    continue;
                }
                Wish::Pause => {
                    pooler.pools.pause(None);
                    continue;
                }
                Wish::Resume => {
                    pooler.pools.resume(None);
                    continue;
                }
                Wish::Request(request) => match serve_request(pooler, request) {
                    Some(mode) => Ending::from(mode),
                    None => continue,
                },
                Wish::Drain => Ending::Drain,
                Wish::End(mode) => Ending::from(mode),
            };
            // A second wish to end is for ending at once.
            if end.is_some() || mode == Ending::AtOnce {
                tracing::info!("ending at once");
                return;
            }
            for task in accepting.take().into_iter().flatten() {
                task.abort();
            }
            end = Some(End {
                mode,
                since: Instant::now(),
                cancelled: false,
            });
            begin_end(pooler, mode);
        }
    }

    async fn wish(&mut self) -> Wish {
        let signals = &mut self.signals;
        tokio::select! {
            _ = signals.hangup.recv() => Wish::Reload,
            _ = signals.terminate.recv() => Wish::Drain,
            _ = signals.interrupt.recv() => Wish::End(ShutdownMode::WaitForServers),
            _ = signals.quit.recv() => Wish::End(ShutdownMode::Immediate),
            _ = signals.user1.recv() => Wish::Pause,
            _ = signals.user2.recv() => Wish::Resume,
            Some(request) = self.requests.recv() => Wish::Request(request),
        }
    }
}

/// Logs what all pools have done since `before`; answers what they had done by now.
fn log_stats(pooler: &Pooler, before: Totals) -> Totals {
    let now = pooler.pools.sum();
    let period = pooler.config().process.stats_period.as_secs().max(1);
    let done = now - before;
    tracing::info!(
        xacts_per_s = done.xact_count / period,
        queries_per_s = done.query_count / period,
        in_bytes_per_s = done.bytes_received / period,
        out_bytes_per_s = done.bytes_sent / period,
        xact_us = done.xact_time.checked_div(done.xact_count).unwrap_or(0),
        wait_us = done
            .wait_time
            .checked_div(done.server_assignment_count)
            .unwrap_or(0),
        clients = pooler.clients.len(),
        "stats"
    );
    now
}

/// An end under way.
#[derive(Debug)]
struct End {
    mode: Ending,
    since: Instant,
    /// Whether `shutdown_timeout` has passed and what still runs was cancelled.
    cancelled: bool,
}

/// A way to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Drain,
    WaitForClients,
    WaitForServers,
    AtOnce,
}

impl From<ShutdownMode> for Ending {
    fn from(mode: ShutdownMode) -> Self {
        match mode {
            ShutdownMode::Immediate => Self::AtOnce,
            ShutdownMode::WaitForServers => Self::WaitForServers,
            ShutdownMode::WaitForClients => Self::WaitForClients,
        }
    }
}

fn begin_end(pooler: &Pooler, ending: Ending) {
    tracing::info!(?ending, clients = pooler.clients.len(), "shutting down");
    let lifecycle = match ending {
        Ending::Drain | Ending::AtOnce => Lifecycle::Draining,
        Ending::WaitForClients => Lifecycle::WaitingForClients,
        Ending::WaitForServers => Lifecycle::WaitingForServers,
    };
    pooler.lifecycle.send_replace(lifecycle);
    match ending {
        Ending::WaitForClients | Ending::AtOnce => {}
        Ending::WaitForServers => pooler.pools.shut_down(),
        Ending::Drain => {
            pooler.pools.shut_down_paused();
            for client in pooler.clients.all() {
                client.signal(Signal::Drain);
            }
        }
    }
}

/// How often it is looked whether the end has come.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until nothing is left that the end waits for.
///
/// # Cancel safety
/// It can be dropped and called again: what it knows is in `end`.
async fn ended(pooler: &Pooler, end: Option<&mut End>) {
    let Some(end) = end else { return };
    let process = &pooler.config().process;
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let is_over = match end.mode {
            Ending::WaitForServers => !pooler.pools.has_servers(None),
            _ => pooler.clients.is_empty(),
        };
        if is_over {
            return;
        }
        if end.mode != Ending::Drain {
            continue;
        }
        let Some(limit) = process.shutdown_timeout else {
            continue;
        };
        if !end.cancelled && end.since.elapsed() >= limit {
            end.cancelled = true;
            tracing::warn!(?limit, "shutdown_timeout: cancelling what still runs");
            for client in pooler.clients.all() {
                client.signal(Signal::Cancel);
            }
        }
        if end.since.elapsed() >= limit + process.shutdown_cancel_timeout {
            tracing::warn!(
                clients = pooler.clients.len(),
                "ending with clients connected"
            );
            return;
        }
    }
}

/// Serves a request; answers how to end, if that is what it asks for.
fn serve_request(pooler: &Pooler, request: ControlRequest) -> Option<ShutdownMode> {
    match request {
        ControlRequest::Shutdown(mode) => return Some(mode),
        ControlRequest::Reload(reply) => {
            let outcome = reload(pooler);
            log_reload(&outcome);
            // Who asked may be gone.
            drop(reply.send(outcome.map_err(|error| describe(&error))));
        }
        ControlRequest::Set { key, value, reply } => {
            let outcome = set(pooler, &key, &value);
            drop(reply.send(outcome));
        }
    }
    None
}

fn log_reload(outcome: &Result<Vec<String>, ReloadError>) {
    match outcome {
        Ok(changes) => tracing::info!(?changes, "configuration reloaded"),
        Err(error) => {
            tracing::error!(reason = describe(error), "configuration not reloaded");
        }
    }
}

/// Reads the configuration again; a bad one changes nothing.
fn reload(pooler: &Pooler) -> Result<Vec<String>, ReloadError> {
    let running = pooler.config();
    let path = running.source.as_deref().ok_or(ReloadError::NoFile)?;
    let (config, changes) = Config::load(path)?.replacing(&running);
    let security = Security::load(&config)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    apply(pooler, config, security, &changes);
    Ok(changes.describe())
}

fn set(pooler: &Pooler, key: &str, value: &str) -> Result<Vec<String>, String> {
    let running = pooler.config();
    let config = running
        .with_setting(key, value)
        .map_err(|error| describe(&error))?;
    let (config, changes) = config.replacing(&running);
    let security = Security::load(&config).map_err(|error| describe(&error))?;
    apply(pooler, config, security, &changes);
    Ok(changes.describe())
}

/// Puts a configuration in force, for pools that exist as well.
fn apply(pooler: &Pooler, config: Config, security: Security, changes: &Changes) {
    pooler.set_security(security);
    let process = &config.process;
    pooler
        .resolver
        .set_ttl(process.dns_max_ttl, process.dns_nxdomain_ttl);
    let config = Arc::new(config);
    pooler.config.send_replace(Arc::clone(&config));
    pooler.answers.clear();
    for cluster in pooler.pools.clusters() {
        let hosts = cluster.hosts();
        let Some(database) = config.database(&cluster.name.database) else {
            pooler.pools.remove(&cluster.name);
            end_clients(pooler, hosts.home());
            continue;
        };
        let is_other_login = changes.is_other_login(&database);
        // A password that the configuration no longer has is nobody's proof.
        let proved = if is_other_login {
            Credentials::None
        } else {
            hosts.home().login().credentials.clone()
        };
        let servers = pooler.servers(&config, &database, &cluster.name.user, &proved);
        pooler.replan(&config, &database, &servers.logins, &servers.settings);
        pooler.pools.reconfigure(&cluster, servers);
        if is_other_login || changes.server_tls {
            hosts.pools.iter().for_each(crate::pool::Pool::reconnect);
        }
    }
    for client in pooler.clients.all() {
        client.signal(Signal::Settings);
    }
    pooler.watches.forget_gone(&config);
}

/// The database of this pool is no longer configured.
fn end_clients(pooler: &Pooler, pool: &Arc<crate::pool::Pool>) {
    for client in pooler.clients.all() {
        if Arc::ptr_eq(&client.pool, pool) {
            client.signal(Signal::Kill);
        }
    }
}
