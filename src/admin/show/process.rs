//! SHOW VERSION, STATE, CONFIG, LISTS, MEM and DNS_HOSTS: the process as a whole.

use std::net::IpAddr;

use super::{super::Console, objects, one};
use crate::{
    admin::{SERVER_VERSION, SessionRecord, table::Rows},
    config::{Database, User},
    pool::{ClientRecord, Pool},
    server::ServerRecord,
};

/// Ours behind PgBouncer's: tools look for the word PgBouncer, and take the first `x.y.z` for what the
/// console can do.
pub(super) fn version(_: &Console) -> Rows {
    let (compatible, _) = SERVER_VERSION
        .split_once('/')
        .unwrap_or((SERVER_VERSION, ""));
    one(format!(
        "PgBouncer {compatible} (pgweir {})",
        env!("CARGO_PKG_VERSION")
    ))
}

/// Whether all of it is held. There is no SUSPEND.
pub(super) fn state(console: &Console) -> Rows {
    let paused = console.pools.is_paused(None);
    let states = [
        ("active", !paused),
        ("paused", paused),
        ("suspended", false),
    ];
    let yes_no = |yes| if yes { "yes" } else { "no" };
    Box::new(
        states
            .into_iter()
            .map(move |(key, yes)| vec![key.into(), yes_no(yes).into()]),
    )
}

/// Every setting.
pub(super) fn config(console: &Console) -> Rows {
    let settings = console.config().settings();
    Box::new(settings.into_iter().map(|setting| {
        vec![
            setting.key.into(),
            setting.value.into(),
            setting.default.into(),
            if setting.changeable { "yes" } else { "no" }.into(),
        ]
    }))
}

/// Counts of things. What PgBouncer keeps and we do not have is 0.
pub(super) fn lists(console: &Console) -> Rows {
    let config = console.config();
    let views: Vec<_> = console.pools.all().iter().map(|pool| pool.view()).collect();
    let idle: usize = views.iter().map(|view| view.idle).sum();
    let total: usize = views.iter().map(|view| view.total).sum();
    let peers = config.peers().count();
    let lists = [
        ("databases", objects::database_names(console).len() + 1),
        ("users", config.users().count()),
        ("peers", peers),
        // Those of one database and user are one, as in SHOW POOLS.
        ("pools", console.pools.clusters().len() + 1),
        ("peer_pools", peers),
        ("free_clients", 0),
        (
            "used_clients",
            console.clients.len() + console.sessions.count(),
        ),
        ("login_clients", console.login_clients()),
        ("free_servers", idle),
        ("used_servers", total.saturating_sub(idle)),
        ("dns_names", console.resolver.known().len()),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    Box::new(
        lists
            .into_iter()
            .map(|(list, items)| vec![list.into(), items.into()]),
    )
}

/// What the records of each kind of thing take by themselves; there are no slabs, so nothing is free.
pub(super) fn mem(console: &Console) -> Rows {
    let config = console.config();
    let pools = console.pools.all();
    let servers: usize = pools.iter().map(|pool| pool.view().servers.len()).sum();
    let kinds = [
        ("user_cache", size_of::<User>(), config.users().count()),
        (
            "db_cache",
            size_of::<Database>(),
            config.databases().count(),
        ),
        ("pool_cache", size_of::<Pool>(), pools.len()),
        ("server_cache", size_of::<ServerRecord>(), servers),
        (
            "client_cache",
            size_of::<ClientRecord>(),
            console.clients.len(),
        ),
        (
            "console_cache",
            size_of::<SessionRecord>(),
            console.sessions.count(),
        ),
    ];
    Box::new(kinds.into_iter().map(|(name, size, used)| {
        vec![
            name.into(),
            size.into(),
            used.into(),
            0usize.into(),
            (size * used).into(),
        ]
    }))
}

/// The names that were looked up, and for how many seconds their addresses will be used.
pub(super) fn dns_hosts(console: &Console) -> Rows {
    let known = console.resolver.known();
    Box::new(known.into_iter().map(|host| {
        let addresses: Vec<_> = host.addresses.iter().map(IpAddr::to_string).collect();
        vec![
            (&host.name).into(),
            host.fresh_for.as_secs().into(),
            addresses.join(",").into(),
        ]
    }))
}
