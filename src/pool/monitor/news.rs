//! What the log hears of the servers: one line for each change, with the reason.

use std::time::Duration;

use crate::{
    pool::health::{Ruling, Standing},
    route::{Host, HostId, HostState, Topology},
};

/// A server has become something else. `lost` is why there is no connection to it.
pub(super) fn on_state(
    database: &str,
    host: &Host,
    (from, to): (HostState, HostState),
    standing: Standing,
    lost: &str,
) {
    let why = match to {
        HostState::Down if lost.is_empty() => "a client lost its connection".to_owned(),
        HostState::Down => lost.to_owned(),
        HostState::Lagging => {
            let (bytes, micros) = host.lag();
            let age = Duration::from_micros(micros);
            format!("it is {age:?} and {bytes} bytes behind (max_lag, max_lag_bytes)")
        }
        HostState::Ejected => "it failed too often (ejection_failures)".to_owned(),
        _ => standing.to_string(),
    };
    let (host, from) = (&*host.name, from.as_str());
    let is_well = matches!(to, HostState::Primary | HostState::Replica);
    let to = to.as_str();
    if is_well {
        tracing::info!(database, host, from, to, why, "server changes");
    } else {
        tracing::warn!(database, host, from, to, why, "server changes");
    }
}

/// Another one takes writes, or nobody.
pub(super) fn on_primary(database: &str, topology: &Topology, before: Option<HostId>) {
    let (from, to) = (name(topology, before), name(topology, topology.primary()));
    tracing::warn!(database, from, to, "primary changes");
}

/// Nothing tells which one of several is to take writes.
pub(super) fn on_dispute(database: &str, topology: &Topology, ruling: &Ruling) {
    let primary = name(topology, ruling.primary);
    tracing::error!(
        database,
        primary,
        "several servers take writes and none is newer than the others: stop all but one"
    );
}

fn name(topology: &Topology, host: Option<HostId>) -> &str {
    host.map_or("none", |host| &topology.hosts()[host].name)
}
