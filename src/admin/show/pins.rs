//! SHOW PINS: clients that cannot go where others could, why, and since when.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hashbrown::HashMap;

use super::{
    super::{Console, timestamp},
    sockets::{Now, all_clients, shown_id},
};
use crate::{
    admin::table::{Row, Rows},
    pool::{ClientRecord, PoolName, Watch},
    route::Reason,
};

/// Clients that keep their server beyond the transaction, and those whose reads need the primary because
/// of what they wrote.
pub(super) fn pins(console: &Console) -> Rows {
    let now = Now::of(console);
    let clusters = console.pools.clusters();
    let watches: HashMap<PoolName, Arc<Watch>> = clusters
        .iter()
        .filter_map(|it| Some((it.name.clone(), it.hosts().watch.clone()?)))
        .collect();
    let clients = all_clients(console).into_iter();
    Box::new(clients.flat_map(move |client| {
        let kept = to_server(&client);
        let watch = watches.get(&client.pool.name);
        let dirty = watch.and_then(|watch| to_primary(&client, watch, now));
        let pins = [("server", kept), ("primary", dirty)].into_iter();
        let rows: Vec<_> = pins
            .filter_map(|(pin, found)| Some(row(&client, pin, found?, now)))
            .collect();
        rows
    }))
}

/// Why, and since when in milliseconds of [`crate::pool::Clients::now`].
type Found = (String, u64);

fn to_server(client: &ClientRecord) -> Option<Found> {
    let reasons: Vec<_> = client.pin_reasons().collect();
    let since = client.pinned_at.load(Ordering::Relaxed);
    (!reasons.is_empty()).then(|| (reasons.join(","), since))
}

fn to_primary(client: &ClientRecord, watch: &Watch, now: Now) -> Option<Found> {
    let written = client.written.load(Ordering::Relaxed);
    if written == 0 {
        return None;
    }
    let since = client.written_at.load(Ordering::Relaxed);
    let age = Duration::from_millis(now.milliseconds.saturating_sub(since));
    let time = client.pool.settings().pin_after_write;
    let by_time_alone = time.is_some() && watch.topology.hides_positions();
    let reason = if time.is_some_and(|time| age < time) {
        Reason::PinAfterWrite
    } else if !by_time_alone && !watch.topology.is_replayed(written) {
        Reason::OwnWrites
    } else {
        return None;
    };
    Some((reason.code().to_owned(), since))
}

fn row(client: &ClientRecord, pin: &'static str, (reasons, since): Found, now: Now) -> Row {
    let PoolName { database, user } = &client.pool.name;
    let age = now.milliseconds.saturating_sub(since);
    vec![
        shown_id(client.id).into(),
        user.into(),
        database.into(),
        pin.into(),
        timestamp::show(now.unix.saturating_sub(age / 1000)).into(),
        age.into(),
        reasons.into(),
    ]
}
