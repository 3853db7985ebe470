//! The task that watches the servers of one database, and says in its [`Watch`] what they are and how
//! far they have come.
//!
//! ```text
//! probe, one a server ── reports ──▶ monitor ──▶ health, fitness ──▶ Watch (topology, polls) ──▶ sessions
//!        ▲                             │  ▲                                                       │
//!        └───────── questions ─────────┘  └────────────────── want, wait, doubt ─── ─────────────┘
//! ```
//!
//! Positions are asked for on demand: the primary's while somebody wants a newer one than the last, then
//! each standby's until it has reached it. Each server has a connection and a task of its own, so none
//! waits for another. While nobody wants anything there is one look at each server in
//! `health_check_interval`.
//!
//! Invariants: a server that serves no more is marked before another history begins, and another history
//! begins before the new primary is asked for its first position. A position is told only while the
//! server it was asked of is the primary, on the connection on which it was seen to be that.

mod catalog;
mod desk;
mod file;
mod news;
mod pace;
mod probe;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{catalog::Occasion, desk::Desk, probe::Probe};
use super::Watch;
use crate::{config::PoolSettings, server::ServerLogin};

/// Who waits looks at the time at least so often, whether anything was found out or not.
const TELL: Duration = Duration::from_millis(10);

/// What an operator can change while a monitor runs.
#[derive(Debug)]
pub struct Plan {
    /// How to log in to each of the servers, in the order of the topology.
    pub logins: Vec<Arc<ServerLogin>>,
    /// The settings of the database.
    pub settings: Arc<PoolSettings>,
}

/// Watches the servers of `database` until the sender of `plan` is dropped, or the future.
pub async fn run(database: Box<str>, watch: Arc<Watch>, plan: watch::Receiver<Arc<Plan>>) {
    let (reporter, reports) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let mut ask = Vec::new();
    for host in 0..watch.topology.hosts().len() {
        let (questions, asked) = mpsc::unbounded_channel();
        ask.push(questions);
        let probe = Probe {
            host,
            watch: Arc::clone(&watch),
            plan: plan.clone(),
            questions: asked,
            reports: reporter.clone(),
        };
        tasks.spawn(probe.run());
    }
    let (occasions, occasion) = watch::channel(Occasion::default());
    let reader = catalog::run(database.clone(), Arc::clone(&watch), plan.clone(), occasion);
    tasks.spawn(reader);
    let settings = Arc::clone(&plan.borrow().settings);
    let mut desk = Desk::new(database, Arc::clone(&watch), ask, settings);
    preside(&mut desk, &watch, plan, reports, &occasions).await;
    // The tasks are dropped with their set, and their connections with them.
}

async fn preside(
    desk: &mut Desk,
    watch: &Watch,
    mut plan: watch::Receiver<Arc<Plan>>,
    mut reports: mpsc::UnboundedReceiver<probe::Report>,
    occasions: &watch::Sender<Occasion>,
) {
    let mut told = Instant::now();
    loop {
        let now = Instant::now();
        desk.heed_doubts(now);
        let is_news = desk.publish(now);
        let is_awaited = watch.is_awaited();
        if is_news || (is_awaited && now.saturating_duration_since(told) >= TELL) {
            watch.tell();
            told = now;
        }
        let occasion = desk.occasion();
        occasions.send_if_modified(|known| std::mem::replace(known, occasion) != occasion);
        let mut next = desk.ask_around(now, is_awaited);
        if is_awaited {
            next = next.min(told + TELL);
        }
        tokio::select! {
            report = reports.recv() => {
                let Some(report) = report else { return };
                let now = Instant::now();
                desk.take(report, now);
                while let Ok(report) = reports.try_recv() {
                    desk.take(report, now);
                }
            }
            () = watch.call.notified() => {}
            () = sleep_until(next) => {}
            changed = plan.changed() => {
                if changed.is_err() {
                    return;
                }
                let settings = Arc::clone(&plan.borrow_and_update().settings);
                desk.set_settings(settings);
            }
        }
    }
}
