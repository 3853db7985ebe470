//! The measurements, each of which fills rows of the report.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    Plan,
    client::{Login, Scram, Session, tls_client},
    load::{self, Load, Outcome, Protocol},
    pgbouncer::HAS_PREPARED,
    process::{CpuTime, SyscallCounter, memory as memory_of},
    report::{Report, Table},
    rig::{Auth, DATABASE, Endpoint, PATIENT, Rig, SCRAM_PASSWORD, SCRAM_USER, Subject, USER},
};

/// pgbench: transactions per second, latency, and the pooler's CPU time for each transaction.
pub(crate) fn transactions(plan: &Plan, rig: &Rig, report: &mut Report) -> Result<()> {
    let subjects: Vec<_> = rig
        .subjects
        .iter()
        .map(|s| (*s, rig.endpoint(*s)))
        .collect();
    run_cells(plan, rig, &subjects, &plan.clients, &mut report.main)
}

/// The same of pgweir with a primary alone, with two replicas between which the clients divide their reads, and with
/// all three.
pub(crate) fn routing(plan: &Plan, rig: &Rig, report: &mut Report) -> Result<()> {
    let several = plan.clients.iter().copied().filter(|clients| *clients > 1);
    let several: Vec<_> = several.collect();
    let table = &mut report.routing;
    rig.with_and_without_routing(|all| run_cells(plan, rig, &all, &several, table))
}

/// Where the reads of sessions go that also write.
pub(crate) fn reads_beside_writes(plan: &Plan, rig: &Rig, report: &mut Report) -> Result<()> {
    for (rate, database, how) in [
        (Some(1600), DATABASE, "1,600 transactions/s"),
        (None, DATABASE, "as many as can be"),
        (None, PATIENT, "as many as can be with on_lag = wait"),
    ] {
        eprintln!("reads on replicas beside writes, {how}");
        let before = rig.lookups_on_replicas()?;
        let reads = rig.with_and_without_routing(|[.., (_, routed)]| {
            let endpoint = Endpoint { database, ..routed };
            load::mixed(rig, endpoint, plan.seconds, rate)
        })?;
        let lookups = rig.lookups_on_replicas()? - before;
        let row = format!("90 % reads, 10 % writes, {how}: reads on replicas, %");
        report
            .routing
            .set(&row, Subject::Routed, lookups as f64 / reads as f64 * 100.0);
    }
    Ok(())
}

fn run_cells(
    plan: &Plan,
    rig: &Rig,
    subjects: &[(Subject, Endpoint)],
    clients: &[u32],
    table: &mut Table,
) -> Result<()> {
    for protocol in Protocol::ALL {
        for &clients in clients {
            let load = Load {
                protocol,
                clients,
                seconds: plan.seconds,
            };
            for (subject, rounds) in take_turns(plan, rig, subjects, load)? {
                let mut set = |what: &str, figure: &dyn Fn(&Round) -> Option<f64>| {
                    let row = format!("{}, {}: {what}", protocol.name(), people(clients));
                    if let Some(value) = median(rounds.iter().filter_map(figure)) {
                        table.set(&row, subject, value);
                    }
                };
                let each = |round: &Round, time: Duration| {
                    micros(time) / round.outcome.transactions as f64
                };
                set("transactions/s", &|round| Some(round.outcome.tps));
                set("mean latency, ms", &|round| Some(round.outcome.mean_ms()));
                set("p99 latency, ms", &|round| Some(round.outcome.p99_ms()));
                set("pooler's CPU/transaction, µs", &|round| {
                    Some(each(round, round.cpu?.total))
                });
                set("… of it in the kernel, µs", &|round| {
                    Some(each(round, round.cpu?.system))
                });
            }
        }
    }
    Ok(())
}

/// System calls for each transaction, in short runs of their own: counting is not free.
pub(crate) fn syscalls(plan: &Plan, rig: &Rig, report: &mut Report) -> Result<()> {
    for protocol in Protocol::ALL {
        for &clients in plan.clients.iter().filter(|clients| **clients <= 16) {
            let load = Load {
                protocol,
                clients,
                seconds: 1,
            };
            for &subject in &rig.subjects {
                let endpoint = rig.endpoint(subject);
                let Some(pid) = endpoint.pid.filter(|_| supported(rig, subject, protocol)) else {
                    continue;
                };
                let Some(counter) = SyscallCounter::attach(pid)? else {
                    eprintln!("neither perf nor strace: no system calls are counted");
                    return Ok(());
                };
                let outcome = load.run(rig, endpoint)?;
                let calls = counter.finish()?;
                let name = format!(
                    "{}, {}: pooler's system calls/transaction",
                    protocol.name(),
                    people(clients)
                );
                report
                    .main
                    .set(&name, subject, calls as f64 / outcome.transactions as f64);
            }
        }
    }
    Ok(())
}

/// What an idle client costs a newly started pooler.
pub(crate) fn memory(_plan: &Plan, rig: &Rig, report: &mut Report) -> Result<()> {
    rig.with_fresh_poolers(Auth::Trust, |subject, endpoint| {
        let Some(pid) = endpoint.pid else {
            return Ok(());
        };
        let login = trusted(endpoint);
        // The first login makes the pool and its server connection.
        drop(login.connect()?);
        let empty = memory_of(pid)?;
        report
            .main
            .set("memory without clients, MB", subject, empty as f64 / 1e6);
        let mut sessions: Vec<Session> = Vec::new();
        for count in [1000, 5000] {
            eprintln!("{subject:?}: {count} idle clients");
            while sessions.len() < count {
                sessions.push(login.connect()?);
            }
            let more = memory_of(pid)?.saturating_sub(empty);
            let row = format!("memory/idle client at {count}, bytes");
            report.main.set(&row, subject, more as f64 / count as f64);
        }
        Ok(())
    })
}

/// Logins per second of two clients that log in again and again.
pub(crate) fn logins(plan: &Plan, rig: &Rig, report: &mut Report) -> Result<()> {
    let tls = tls_client(&rig.authority.certificate)?;
    for (name, auth, tls) in [
        ("trust", Auth::Trust, None),
        ("SCRAM", Auth::Scram, None),
        ("trust over TLS", Auth::Trust, Some(tls)),
    ] {
        rig.with_fresh_poolers(auth, |subject, endpoint| {
            eprintln!("{subject:?}: logins with {name}");
            let mut login = trusted(endpoint);
            login.tls.clone_from(&tls);
            if auth == Auth::Scram {
                login.user = SCRAM_USER;
                login.scram = Some(Scram::new(SCRAM_PASSWORD));
            }
            drop(login.connect()?);
            let before = endpoint.pid.map(CpuTime::of).transpose()?;
            let start = Instant::now();
            let count = log_in_repeatedly(&login, plan.duration())?;
            let rate = count as f64 / start.elapsed().as_secs_f64();
            report
                .main
                .set(&format!("logins/s with {name}"), subject, rate);
            if let Some((pid, before)) = endpoint.pid.zip(before) {
                let cpu = micros(CpuTime::of(pid)?.since(before).total);
                let row = format!("pooler's CPU/login with {name}, µs");
                report.main.set(&row, subject, cpu / count as f64);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// One client that reads 300 MB in rows of 1 kB.
pub(crate) fn copy(plan: &Plan, rig: &Rig, report: &mut Report) -> Result<()> {
    const SQL: &str = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 300000)) TO STDOUT";
    let mut totals = vec![(0.0, 0.0, CpuTime::default()); rig.subjects.len()];
    for round in 0..=plan.rounds {
        for (subject, (bytes, seconds, cpu)) in rig.subjects.iter().zip(&mut totals) {
            let endpoint = rig.endpoint(*subject);
            let session = trusted(endpoint).connect()?;
            let before = endpoint.pid.map(CpuTime::of).transpose()?;
            let start = Instant::now();
            let copied = session.copy_out(SQL)?;
            // The first round warms up.
            if round > 0 {
                *bytes += copied as f64;
                *seconds += start.elapsed().as_secs_f64();
                if let Some((pid, before)) = endpoint.pid.zip(before) {
                    cpu.add(CpuTime::of(pid)?.since(before));
                }
            }
        }
    }
    for (subject, (bytes, seconds, cpu)) in rig.subjects.iter().zip(totals) {
        report
            .main
            .set("COPY TO STDOUT, MB/s", *subject, bytes / 1e6 / seconds);
        if *subject != Subject::Direct {
            let ms = cpu.total.as_secs_f64() * 1e3 / (bytes / 1e9);
            report.main.set("pooler's CPU/GB of COPY, ms", *subject, ms);
        }
    }
    Ok(())
}

/// What one subject came to in one round.
struct Round {
    outcome: Outcome,
    cpu: Option<CpuTime>,
}

/// Runs `load` on each subject in turn, several rounds; every other one the other way round.
fn take_turns(
    plan: &Plan,
    rig: &Rig,
    subjects: &[(Subject, Endpoint)],
    load: Load,
) -> Result<Vec<(Subject, Vec<Round>)>> {
    let subjects = subjects.iter().copied();
    let subjects: Vec<_> = subjects
        .filter(|(subject, _)| supported(rig, *subject, load.protocol))
        .collect();
    let mut results: Vec<_> = subjects.iter().map(|(it, _)| (*it, Vec::new())).collect();
    for number in 0..plan.rounds {
        let mut turns: Vec<_> = subjects.iter().zip(&mut results).collect();
        if number % 2 == 1 {
            turns.reverse();
        }
        for ((_, endpoint), (subject, rounds)) in turns {
            let before = endpoint.pid.map(CpuTime::of).transpose()?;
            let outcome = load.run(rig, *endpoint)?;
            let cpu = match endpoint.pid.zip(before) {
                Some((pid, before)) => Some(CpuTime::of(pid)?.since(before)),
                None => None,
            };
            eprintln!(
                "{}, {}, round {}: {subject:?} {:.0}/s",
                load.protocol.name(),
                people(load.clients),
                number + 1,
                outcome.tps
            );
            rounds.push(Round { outcome, cpu });
        }
    }
    Ok(results)
}

/// The one in the middle: what happens to a single round does not count.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Whether the subject has prepared statements in transaction mode at all.
fn supported(rig: &Rig, subject: Subject, protocol: Protocol) -> bool {
    subject != Subject::PgBouncer
        || protocol != Protocol::Prepared
        || rig.pgbouncer_version >= Some(HAS_PREPARED)
}

fn log_in_repeatedly(login: &Login, time: Duration) -> Result<u64> {
    let end = Instant::now() + time;
    let count = AtomicU64::new(0);
    let work = || -> Result<()> {
        while Instant::now() < end {
            drop(login.connect()?);
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(work);
        work()?;
        other.join().expect("it does not panic")
    })?;
    Ok(count.into_inner())
}

fn trusted(endpoint: Endpoint) -> Login {
    Login {
        port: endpoint.port,
        user: USER,
        database: endpoint.database,
        scram: None,
        tls: None,
    }
}

fn people(clients: u32) -> String {
    match clients {
        1 => "1 client".to_owned(),
        n => format!("{n} clients"),
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
