//! pgbench as the load: runs it, reads what it prints and the latencies it logs.

use std::{
    fs, iter,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::rig::{Endpoint, Rig, USER};

/// The protocol pgbench speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Simple,
    Extended,
    Prepared,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Simple, Self::Extended, Self::Prepared];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// One run of `pgbench -S`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) protocol: Protocol,
    pub(crate) clients: u32,
    pub(crate) seconds: u64,
}

/// What one run came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) transactions: u64,
    pub(crate) tps: f64,
    /// Sum over all transactions, in seconds.
    latency: f64,
    /// Of one transaction in ten, in microseconds.
    samples: Vec<u32>,
}

impl Load {
    pub(crate) fn run(self, rig: &Rig, endpoint: Endpoint) -> Result<Outcome> {
        let databases: Vec<_> = iter::once(endpoint.database).chain(endpoint.half).collect();
        let processes = u32::try_from(databases.len())?;
        let started: Vec<Child> = databases
            .iter()
            .map(|database| {
                let clients = self.clients / processes;
                pgbench(rig, endpoint)?
                    .args(["-n", "-S", "-M", self.protocol.name()])
                    .args(["-c", &clients.to_string()])
                    .args(["-j", &clients.min(2 / processes).to_string()])
                    .args(["-T", &self.seconds.to_string()])
                    .args(["-l", "--sampling-rate=0.1", "--log-prefix"])
                    .arg(rig.cluster.dir().join("latency"))
                    .arg(database)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .context("starting pgbench")
            })
            .collect::<Result<_>>()?;
        let mut all = Outcome::default();
        for process in started {
            let text = successful(process.wait_with_output()?)?;
            let transactions: u64 = value(&text, "number of transactions actually processed: ")?;
            let tps: f64 = value(&text, "tps = ")?;
            let mean_ms: f64 = value(&text, "latency average = ")?;
            all.transactions += transactions;
            all.tps += tps;
            all.latency += mean_ms / 1e3 * transactions as f64;
        }
        all.samples = take_samples(rig.cluster.dir())?;
        Ok(all)
    }
}

impl Outcome {
    pub(crate) fn mean_ms(&self) -> f64 {
        self.latency / self.transactions as f64 * 1e3
    }

    pub(crate) fn p99_ms(&self) -> f64 {
        let mut samples = self.samples.clone();
        samples.sort_unstable();
        let at = samples.len() * 99 / 100;
        samples.get(at).map_or(f64::NAN, |us| f64::from(*us) / 1e3)
    }
}

/// 16 clients do reads and small transactions that write, nine to one: so many a second, or as fast as
/// they can. Answers how many were reads.
pub(crate) fn mixed(rig: &Rig, endpoint: Endpoint, seconds: u64, rate: Option<u32>) -> Result<u64> {
    let mut command = pgbench(rig, endpoint)?;
    command
        .args(["-n", "-M", "prepared", "-c", "16", "-j", "2"])
        .args(["-b", "select-only@9", "-b", "simple-update@1"])
        .args(["-T", &seconds.to_string()]);
    if let Some(rate) = rate {
        command.args(["-R", &rate.to_string()]);
    }
    let output = command.arg(endpoint.database).output()?;
    // The first of the scripts.
    value(&successful(output)?, "% of total)\n - ")
}

/// Creates and fills pgbench's tables.
pub(crate) fn initialise(rig: &Rig, scale: &str) -> Result<()> {
    let endpoint = rig.endpoint(crate::rig::Subject::Direct);
    let output = pgbench(rig, endpoint)?
        .args(["-i", "-q", "-s", scale, endpoint.database])
        .output()?;
    successful(output).map(drop)
}

fn pgbench(rig: &Rig, endpoint: Endpoint) -> Result<Command> {
    let mut command = Command::new(rig.cluster.binaries().client_program("pgbench")?);
    command
        .args(["-h", "127.0.0.1", "-U", USER, "-p"])
        .arg(endpoint.port.to_string())
        .env("PGSSLMODE", "disable");
    Ok(command)
}

fn successful(output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("pgbench failed: {}", String::from_utf8(output.stderr)?);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The number after `label` in what pgbench printed.
fn value<T: std::str::FromStr>(text: &str, label: &str) -> Result<T> {
    text.split_once(label)
        .and_then(|(_, rest)| rest.split([' ', '/', '\n']).next()?.parse().ok())
        .with_context(|| format!("pgbench printed no {label:?}:\n{text}"))
}

/// Reads and removes pgbench's logs, one a thread: the third column is the latency in microseconds.
fn take_samples(dir: &Path) -> Result<Vec<u32>> {
    let mut samples = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if !name.is_some_and(|name| name.starts_with("latency.")) {
            continue;
        }
        for line in fs::read_to_string(&path)?.lines() {
            let column = line.split(' ').nth(2);
            samples.push(
                column
                    .context("pgbench's log has a third column")?
                    .parse()?,
            );
        }
        fs::remove_file(&path)?;
    }
    Ok(samples)
}
