//! SHOW POOLS: one row per database and user.

use std::collections::BTreeMap;

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
    let mut served: BTreeMap<PoolName, usize> = BTreeMap::new();
    for client in console.clients.all() {
        if client.state() != ClientState::Waiting {
            *served.entry(client.pool.name.clone()).or_default() += 1;
        }
    }
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
    served.insert(own.clone(), console.sessions.count());
    rows.insert(own, (PoolView::default(), PoolMode::Statement));
    Box::new(rows.into_iter().map(move |(name, (view, mode))| {
        let active = served.get(&name).copied().unwrap_or(0);
        row(&name, active, &view, mode)
    }))
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
