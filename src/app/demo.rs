//! `pgweir demo`: a throw-away PostgreSQL cluster, the pooler before it, and clients that work.
//!
//! ```text
//!   workload threads ──TCP──▶ pooler (a thread of this process) ──Unix socket──▶ primary ─▶ replicas
//!                                        │ counters, as figures
//!                                        ▼
//!                                      screen (this thread), once a second
//! ```
//!
//! The pooler is the real one, in this process; its clients are ordinary ones. Whatever ends it,
//! nothing is left: the [`Cluster`] sees to that even when the process is killed.

mod figures;
mod screen;
mod wire;
mod workload;

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use clap::Args;
use tokio::{
    sync::oneshot,
    time::{Instant, interval_at, sleep},
};

use self::{
    figures::Grouped,
    screen::Screen,
    workload::{CLIENTS, NAME, Workload},
};
use super::{
    Pooler, StartError,
    command_line::{sentence, start_logging},
    run as run_pooler, workers,
};
use crate::{
    admin::{ControlRequest, ShutdownMode},
    config::{Config, LONGEST, parse_duration},
    net::{ListenAddress, ListenOptions, TcpOptions, bind_tcp},
    sandbox::{Binaries, Cluster, Node, SandboxError},
};

/// Connections to each server: fewer than clients, so that it can be seen how they are shared.
const POOL_SIZE: usize = 4;

/// What kind of demo.
#[derive(Debug, Args)]
pub struct Options {
    /// How many streaming replicas the primary has.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(..=8))]
    replicas: u8,
    /// How old a commit is before the replicas apply it, such as 200ms.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    replay_delay: Duration,
    /// Port on 127.0.0.1; 0 lets the system choose one.
    #[arg(long, default_value_t = 6432)]
    port: u16,
    /// End after this time, such as 20s; without it, Ctrl-C ends the demo.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    length: Option<Duration>,
    /// Directory of PostgreSQL's programs (initdb, postgres), if not the usual one.
    #[arg(long, value_name = "DIRECTORY")]
    pg_bin: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).ok_or("expected a time such as 200ms, 20s or 1m30s")
}

/// Runs the demo to its end.
pub fn demo(options: &Options) -> anyhow::Result<()> {
    start_logging("warn")?;
    // Starting PostgreSQL takes seconds: a port that is taken is told before, not after.
    let free = bind_tcp(
        HOST,
        options.port,
        &ListenOptions {
            backlog: 1,
            reuse_port: false,
            tcp: TcpOptions::default(),
        },
    );
    drop(free.map_err(|error| sentence(&error).context("choose another --port"))?);
    let binaries = Binaries::find(options.pg_bin.as_deref()).map_err(|error| sentence(&error))?;
    let nodes = match options.replicas {
        0 => "a primary".to_owned(),
        1 => "a primary and a replica".to_owned(),
        count => format!("a primary and {count} replicas"),
    };
    say(&format!(
        "starting PostgreSQL {}: {nodes} …",
        binaries.version
    ))?;
    let cluster = Cluster::builder(binaries)
        .replicas(options.replicas.into())
        .start()
        .map_err(|error| sentence(&error))?;
    let primary = SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.primary().port()));
    workload::prepare(primary).map_err(|error| sentence(&error))?;
    replicate(&cluster, options.replay_delay).map_err(|error| sentence(&error))?;
    let config = Config::parse(
        &configuration(&cluster, options.port),
        Path::new(""),
        &|_| None,
    )?;
    let pooler = Pooler::new(Arc::new(config)).map_err(|error| sentence(&error))?;
    let workload = Workload::default();
    serve(&pooler, &workload, options.length)?;
    drop(cluster);
    say(&format!(
        "ended: {} transfers, {} reads compared with them, {} stale; the servers and their files are gone",
        Grouped(workload.transfers.value()),
        Grouped(workload.checked.value()),
        Grouped(workload.stale.value())
    ))
}

/// Waits until the replicas have the database, which the pooler would not find there otherwise; only then
/// are they made to lag.
fn replicate(cluster: &Cluster, replay_delay: Duration) -> Result<(), SandboxError> {
    for replica in cluster.replicas() {
        replica.wait_caught_up(cluster.primary())?;
        if !replay_delay.is_zero() {
            replica.set_replay_delay(replay_delay)?;
        }
    }
    Ok(())
}

const HOST: &str = "127.0.0.1";

/// The file that a user would write for these servers.
fn configuration(cluster: &Cluster, port: u16) -> String {
    let server = |node: &Node, role: &str| {
        let host = node.socket_dir();
        let host = toml::Value::from(host.display().to_string());
        format!(
            "  {{ host = {host}, port = {}, role = \"{role}\" }},\n",
            node.port()
        )
    };
    let mut servers = server(cluster.primary(), "primary");
    for replica in cluster.replicas() {
        servers.push_str(&server(replica, "replica"));
    }
    format!(
        "[pgweir]\n\
         listen_addr = \"{HOST}\"\n\
         listen_port = {port}\n\
         auth_type = \"trust\"\n\
         admin_users = [\"{NAME}\"]\n\
         [pool]\n\
         default_pool_size = {POOL_SIZE}\n\
         [databases.{NAME}]\n\
         servers = [\n{servers}]\n"
    )
}

/// Runs the pooler and its clients, and shows them, until one of them ends.
fn serve(
    pooler: &Arc<Pooler>,
    workload: &Workload,
    length: Option<Duration>,
) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let (ready, addresses) = mpsc::channel();
        let (ending, ended) = oneshot::channel();
        let running = scope.spawn(move || {
            let outcome = run_pooler(pooler, move |addresses| {
                // Whoever waits for it is the other end of this function.
                drop(ready.send(addresses));
            });
            // Dropped by a panic as well.
            drop::<oneshot::Sender<()>>(ending);
            outcome
        });
        // None when it could not start: then its outcome says why.
        let shown = match addresses.recv().as_deref() {
            Ok([ListenAddress::Tcp(address), ..]) => {
                let address = *address;
                for number in 0..CLIENTS {
                    scope.spawn(move || workload.run(address, number));
                }
                introduce(address).and_then(|()| show(pooler, workload, length, ended))
            }
            _ => Ok(()),
        };
        workload.stop();
        // It may have ended by itself.
        drop(
            pooler
                .control
                .send(ControlRequest::Shutdown(ShutdownMode::Immediate)),
        );
        let ran = running.join().unwrap_or_else(|panic| resume_unwind(panic));
        ran.map_err(|error| sentence(&error))?;
        shown
    })
}

fn introduce(address: SocketAddr) -> anyhow::Result<()> {
    let url = format!("postgres://{NAME}@{address}");
    say(&format!(
        "pgweir listens on {address}: {CLIENTS} clients work on {POOL_SIZE} connections to each server\n\
         \n  psql {url}/{NAME}\
         \n  DATABASE_URL={url}/{NAME}\
         \n  psql {url}/pgweir -c 'SHOW REPLICAS'   (the console)\n"
    ))
}

/// Shows once a second what happens, until the time is over or the pooler begins to end: by Ctrl-C,
/// another signal, or the console.
fn show(
    pooler: &Pooler,
    workload: &Workload,
    length: Option<Duration>,
    mut ended: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let runtime = workers::runtime().map_err(|error: StartError| sentence(&error))?;
    runtime.block_on(async {
        let mut screen = Screen::new(pooler);
        let mut lifecycle = pooler.lifecycle.subscribe();
        let mut second = interval_at(Instant::now() + SECOND, SECOND);
        let mut over = std::pin::pin!(sleep(length.unwrap_or(LONGEST)));
        loop {
            tokio::select! {
                biased;
                _ = second.tick() => match screen.show(pooler, workload) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    shown => shown?,
                },
                () = &mut over => return Ok(()),
                _ = lifecycle.changed() => return Ok(()),
                _ = &mut ended => return Ok(()),
            }
        }
    })
}

const SECOND: Duration = Duration::from_secs(1);

/// Prints for people; nobody listening any more is no error.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        said => Ok(said?),
    }
}
