//! `make bench`: pgweir beside PgBouncer and bare PostgreSQL, on one machine, in one run.
//!
//! The subjects take turns, so that what else the machine does hits all of them alike. The table
//! goes to stdout and to `docs/benchmarks.md`. Numbers depend on the machine; the ratios are what
//! is worth comparing, and of them the CPU time per transaction least depends on the rest.
//!
//! Environment: `BENCH_SECONDS` (of one pgbench run, 2), `BENCH_ROUNDS` (7), `BENCH_CLIENTS`
//! (`1,16,64`), `BENCH_POOL_SIZE` (20), `BENCH_ONLY` (some of `pgbench,syscalls,routing,
//! mixed,memory,logins,copy`),
//! `BENCH_SUBJECTS` (some of `direct,pgweir,pgbouncer`), `PGBOUNCER` (its path).
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a measuring program: takes its plan from the environment, keeps real time, prints"
)]
#![allow(
    clippy::allow_attributes,
    clippy::cast_precision_loss,
    reason = "counts and durations become ratios"
)]

mod client;
mod load;
mod measure;
mod pgbouncer;
mod process;
mod report;
mod rig;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{env, fs, time::Duration};

use anyhow::{Context, Result};

use report::Report;
use rig::{Rig, Subject};

/// What to run, and for how long.
struct Plan {
    seconds: u64,
    rounds: u32,
    clients: Vec<u32>,
    pool_size: usize,
    only: Option<Vec<String>>,
    subjects: Vec<Subject>,
}

fn main() -> Result<()> {
    // `cargo test --benches` runs this too, without the argument.
    if !env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let plan = Plan::from_environment()?;
    let mut report = Report::new(&plan);
    let routes = plan.runs("routing") || plan.runs("mixed");
    let replicas = if routes { 2 } else { 0 };
    let rig = Rig::start(plan.pool_size, &plan.subjects, replicas)?;
    let sections: [(&str, Section); 7] = [
        ("pgbench", measure::transactions),
        ("syscalls", measure::syscalls),
        ("routing", measure::routing),
        ("mixed", measure::reads_beside_writes),
        ("memory", measure::memory),
        ("logins", measure::logins),
        ("copy", measure::copy),
    ];
    for (name, section) in sections {
        if plan.runs(name) {
            section(&plan, &rig, &mut report).with_context(|| format!("measuring {name}"))?;
        }
    }
    let table = report.render(&rig);
    println!("\n{table}");
    if plan.only.is_none() && plan.subjects.len() == Subject::ALL.len() {
        let path = "docs/benchmarks.md";
        let old = fs::read_to_string(path).unwrap_or_default();
        fs::create_dir_all("docs")?;
        fs::write(path, report::insert(&old, &table)).context("writing docs/benchmarks.md")?;
        eprintln!("written to {path}");
    }
    Ok(())
}

type Section = fn(&Plan, &Rig, &mut Report) -> Result<()>;

impl Plan {
    fn from_environment() -> Result<Self> {
        let subjects = match words("BENCH_SUBJECTS") {
            None => Subject::ALL.to_vec(),
            Some(names) => names
                .iter()
                .map(|name| Subject::parse(name).with_context(|| format!("BENCH_SUBJECTS: {name}")))
                .collect::<Result<_>>()?,
        };
        let clients = match words("BENCH_CLIENTS") {
            None => vec![1, 16, 64],
            Some(counts) => counts
                .iter()
                .map(|n| n.parse().context("BENCH_CLIENTS is a list of numbers"))
                .collect::<Result<_>>()?,
        };
        Ok(Self {
            seconds: number("BENCH_SECONDS", 2)?,
            rounds: u32::try_from(number("BENCH_ROUNDS", 7)?)?,
            clients,
            pool_size: usize::try_from(number("BENCH_POOL_SIZE", 20)?)?,
            only: words("BENCH_ONLY"),
            subjects,
        })
    }

    fn runs(&self, section: &str) -> bool {
        let only = self.only.as_ref();
        only.is_none_or(|names| names.iter().any(|name| name == section))
    }

    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn words(name: &str) -> Option<Vec<String>> {
    let value = env::var(name).ok().filter(|v| !v.is_empty())?;
    Some(value.split(',').map(|w| w.trim().to_owned()).collect())
}

fn number(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Ok(value) if !value.is_empty() => {
            value.parse().with_context(|| format!("{name} is a number"))
        }
        _ => Ok(default),
    }
}
