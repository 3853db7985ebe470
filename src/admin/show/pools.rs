//! SHOW POOLS: one row per database and user.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use super::super::{Console, DATABASE};
use crate::{
    admin::table::{Row, Rows, Value},
    config::PoolMode,
    pool::{ClientState, PoolName, PoolView},
    server::ServerState,
};

/// Every pool, and the console as PgBouncer lists itself. Several pools of one database and user (a
/// primary's and its replicas') are one row, because exporters take the two names as a key.
pub(super) fn pools(console: &Console) -> Rows {
    let mut clients = clients(console);
    let mut rows: BTreeMap<PoolName, (PoolView, PoolMode)> = BTreeMap::new();
    for pool in console.pools.all() {
        let view = pool.view();
        let mode = pool.settings().pool_mode;
        rows.entry(pool.name.clone())
            .and_modify(|(known, _)| join(known, &view))
            .or_insert((view, mode));
    }
    let own = PoolName {
        database: DATABASE.into(),
        user: DATABASE.into(),
    };
    let sessions = ClientCounts {
        active: console.sessions.count(),
        ..ClientCounts::default()
    };
    clients.insert(own.clone(), sessions);
    rows.insert(own, (PoolView::default(), PoolMode::Statement));
    Box::new(rows.into_iter().map(move |(name, (mut view, mode))| {
        let clients = clients.remove(&name).unwrap_or_default();
        // Who is still logging in waits in a queue and is no client yet; who waits until it is known
        // which server it may have is in no queue.
        view.waiting = view.waiting.max(clients.waiting);
        view.max_wait = view.max_wait.max(clients.max_wait);
        row(&name, clients.active, &view, mode)
    }))
}

/// The clients of one database and user.
#[derive(Default)]
struct ClientCounts {
    active: usize,
    waiting: usize,
    max_wait: Duration,
}

fn clients(console: &Console) -> BTreeMap<PoolName, ClientCounts> {
    let mut counts: BTreeMap<PoolName, ClientCounts> = BTreeMap::new();
    let now = console.clients.now();
    for client in console.clients.all() {
        let counts = counts.entry(client.pool.name.clone()).or_default();
        if client.state() == ClientState::Waiting {
            let since = client.requested_at.load(Ordering::Relaxed);
            let waits = Duration::from_millis(now.saturating_sub(since));
            counts.waiting += 1;
            counts.max_wait = counts.max_wait.max(waits);
        } else {
            counts.active += 1;
        }
    }
    counts
}

fn join(known: &mut PoolView, other: &PoolView) {
    known.idle += other.idle;
    known.connecting += other.connecting;
    known.total += other.total;
    known.waiting += other.waiting;
    known.max_wait = known.max_wait.max(other.max_wait);
    known.servers.extend_from_slice(&other.servers);
}

fn row(name: &PoolName, active: usize, view: &PoolView, mode: PoolMode) -> Row {
    let servers = |state| {
        let servers = view.servers.iter();
        Value::from(servers.filter(|server| server.state() == state).count())
    };
    // Cancel requests go over connections of their own, which are in no pool; a server is checked
    // when it is wanted, so none is "used".
    let none = || Value::from(0usize);
    vec![
        (&name.database).into(),
        (&name.user).into(),
        active.into(),
        view.waiting.into(),
        none(),
        none(),
        servers(ServerState::Active),
        none(),
        servers(ServerState::BeingCanceled),
        servers(ServerState::Idle),
        none(),
        servers(ServerState::Tested),
        view.connecting.into(),
        view.max_wait.as_secs().into(),
        u64::from(view.max_wait.subsec_micros()).into(),
        mode.as_str().into(),
        Value::Null,
    ]
}
