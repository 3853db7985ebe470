//! SHOW ROUTES and REPLICAS: what the router has decided, and the servers it decides between.

use std::sync::Arc;

use super::{super::Console, objects::database_names};
use crate::{
    admin::{
        known::Known,
        table::{Row, Rows},
    },
    pool::Watch,
    route::{Host, HostId, Lsn, Topology},
};

/// How often each reason has sent a unit of work to the primary, and to replicas.
pub(super) fn routes(console: &Console) -> Rows {
    let databases = databases(console).into_iter();
    Box::new(databases.flat_map(|(database, known)| {
        let routes = known.watch().map(Arc::as_ref).map(Watch::routes);
        let mut rows: Vec<(Row, u64)> = Vec::new();
        for (reason, primary, replicas) in routes.unwrap_or_default() {
            for (target, count) in [("primary", primary), ("replica", replicas)] {
                if count > 0 {
                    let row = vec![
                        database.clone().into(),
                        target.into(),
                        reason.code().into(),
                        count.into(),
                    ];
                    rows.push((row, count));
                }
            }
        }
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        rows.into_iter().map(|(row, _)| row)
    }))
}

/// The servers of databases that have several, as they were last seen.
pub(super) fn replicas(console: &Console) -> Rows {
    let databases = databases(console).into_iter();
    Box::new(databases.flat_map(|(database, known)| {
        let topology = known.topology();
        let hosts = topology.hosts();
        let reads: u64 = hosts.iter().map(Host::reads).sum();
        let rows: Vec<_> = (0..hosts.len())
            .map(|id| server_row(&database, topology, id, reads))
            .collect();
        rows
    }))
}

/// The databases with several servers.
fn databases(console: &Console) -> Vec<(String, Known)> {
    let config = console.config();
    let names = database_names(console).into_iter();
    names
        .filter_map(|name| {
            let known = Known::of(console, &*config.database(&name)?);
            (known.topology().hosts().len() > 1).then_some((name, known))
        })
        .collect()
}

fn server_row(database: &str, topology: &Topology, id: HostId, reads: u64) -> Row {
    let host = &topology.hosts()[id];
    let position = position(topology, id);
    // Of what has no position it is not known how far it is behind.
    let lag = position.is_some().then(|| host.lag());
    let percent = |part: u64, whole: u64| (part * 100).checked_div(whole).unwrap_or(0);
    vec![
        database.to_owned().into(),
        (&host.name).into(),
        host.role.as_str().into(),
        host.state().as_str().into(),
        lag.map(|(bytes, _)| bytes).into(),
        lag.map(|(_, micros)| micros).into(),
        position.into(),
        u64::from(host.timeline()).into(),
        host.active().into(),
        host.served().into(),
        host.reads().into(),
        percent(host.reads(), reads).into(),
        host.latency().into(),
        u64::from(host.weight).into(),
        u64::from(host.share() / 10).into(),
        host.zone.as_ref().map(|zone| zone.to_string()).into(),
        u64::from(host.incarnation()).into(),
    ]
}

/// How far it has come: a standby has replayed so far, the primary was there at its last poll.
fn position(topology: &Topology, id: HostId) -> Option<String> {
    let position = if topology.primary() == Some(id) {
        let polls = &topology.polls;
        let last = polls.last_done();
        polls.position(last).filter(|_| last > 0)
    } else {
        Some(topology.hosts()[id].replayed())
    };
    position
        .filter(|it| *it > Lsn::default())
        .map(|it| it.to_string())
}
