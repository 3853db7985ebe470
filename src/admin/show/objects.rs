//! SHOW DATABASES, USERS, PEERS and PEER_POOLS: what is configured, and how much of it is in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::super::{Console, DATABASE};
use crate::{
    admin::table::{Row, Rows, Value},
    config::{Config, Database, PoolMode},
    pool::{ClientRecord, Pool},
};

/// The databases that are configured, and those that `"*"` serves at present; not the console.
pub(in crate::admin) fn database_names(console: &Console) -> BTreeSet<String> {
    let config = console.config();
    let configured = config.databases().map(|database| database.name.clone());
    let served = console.pools.all();
    let served = served.iter().map(|pool| pool.name.database.to_string());
    configured.chain(served).collect()
}

/// Connections by the name of their database or user.
#[derive(Default)]
struct Counts {
    servers: BTreeMap<Box<str>, usize>,
    clients: BTreeMap<Box<str>, usize>,
}

impl Counts {
    fn by(console: &Console, name: impl Fn(&Pool) -> &Box<str>) -> Self {
        let mut counts = Self::default();
        for pool in console.pools.all() {
            *counts.servers.entry(name(&pool).clone()).or_default() += pool.view().total;
        }
        for client in console.clients.all() {
            let ClientRecord { pool, .. } = &*client;
            *counts.clients.entry(name(pool).clone()).or_default() += 1;
        }
        counts
    }

    fn servers(&self, name: &str) -> Value {
        self.servers.get(name).copied().unwrap_or(0).into()
    }

    fn clients(&self, name: &str) -> Value {
        self.clients.get(name).copied().unwrap_or(0).into()
    }
}

/// One row per database; a database's host is that of its primary.
pub(super) fn databases(console: &Console) -> Rows {
    let config = console.config();
    let counts = Counts::by(console, |pool| &pool.name.database);
    let pools = Arc::clone(&console.pools);
    let own = console_row(console, &config);
    let names = database_names(console).into_iter();
    let rows = names.filter_map(move |name| {
        // A pool may outlive its database for a while.
        let database = config.database(&name)?;
        let held = [pools.is_paused(Some(&name)), pools.is_disabled(&name)];
        Some(database_row(&database, &counts, held))
    });
    Box::new(rows.chain([own]))
}

fn database_row(database: &Database, counts: &Counts, [paused, disabled]: [bool; 2]) -> Row {
    let settings = &database.settings;
    let primary = database.primary().or_else(|| database.servers.first());
    vec![
        database.name.clone().into(),
        primary.map(|server| server.host.to_string()).into(),
        primary.map(|server| server.port).into(),
        database.server_dbname().to_owned().into(),
        database.user.clone().into(),
        settings.pool_size.into(),
        settings.min_pool_size.into(),
        settings.reserve_pool_size.into(),
        settings.server_lifetime.as_secs().into(),
        database.overrides.pool_mode.map(PoolMode::as_str).into(),
        Value::Null,
        settings.max_db_connections.unwrap_or(0).into(),
        counts.servers(&database.name),
        settings.max_db_client_connections.unwrap_or(0).into(),
        counts.clients(&database.name),
        paused.into(),
        disabled.into(),
    ]
}

/// The console, as PgBouncer lists itself.
fn console_row(console: &Console, config: &Config) -> Row {
    vec![
        DATABASE.into(),
        Value::Null,
        config.process.listen_port.into(),
        DATABASE.into(),
        DATABASE.into(),
        2usize.into(),
        0usize.into(),
        0usize.into(),
        config.defaults.server_lifetime.as_secs().into(),
        PoolMode::Statement.as_str().into(),
        Value::Null,
        0usize.into(),
        0usize.into(),
        0usize.into(),
        console.sessions.count().into(),
        0usize.into(),
        0usize.into(),
    ]
}

/// One row per user that the configuration knows; sizes are text, and empty where not the user's own.
pub(super) fn users(console: &Console) -> Rows {
    let config = console.config();
    let counts = Counts::by(console, |pool| &pool.name.user);
    let users: Vec<_> = config.users().map(Arc::clone).collect();
    Box::new(users.into_iter().map(move |user| {
        let own = &user.overrides;
        let padded = |size: Option<usize>| size.map_or_else(String::new, |n| format!("{n:9}"));
        let most = |own: Option<Option<usize>>, general: Option<usize>| {
            Value::from(own.unwrap_or(general).unwrap_or(0))
        };
        let general = &config.defaults;
        vec![
            user.name.clone().into(),
            padded(own.pool_size).into(),
            padded(own.reserve_pool_size).into(),
            own.pool_mode.map(PoolMode::as_str).into(),
            most(own.max_user_connections, general.max_user_connections),
            counts.servers(&user.name),
            most(
                own.max_user_client_connections,
                general.max_user_client_connections,
            ),
            counts.clients(&user.name),
        ]
    }))
}

/// The other processes behind our address. They are asked one at a time, so their pools have no size.
pub(super) fn peers(console: &Console) -> Rows {
    let config = console.config();
    let peers: Vec<_> = config.peers().cloned().collect();
    Box::new(peers.into_iter().map(|peer| {
        vec![
            peer.id.into(),
            peer.host.to_string().into(),
            peer.port.into(),
            0usize.into(),
        ]
    }))
}

/// Cancel requests that are passed on are not kept, so there are none to count.
pub(super) fn peer_pools(console: &Console) -> Rows {
    let config = console.config();
    let ids: Vec<_> = config.peers().map(|peer| peer.id).collect();
    Box::new(ids.into_iter().map(|id| {
        let mut row = vec![Value::from(id)];
        row.resize(5, 0usize.into());
        row
    }))
}
