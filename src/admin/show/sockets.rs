//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS: connections one by one.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::super::{Console, DATABASE, SessionRecord, timestamp};
use crate::{
    admin::table::{Row, Rows, Value},
    pool::{ClientRecord, ClientState, PoolName, clients::Origin},
    protocol::startup::Replication,
    server::{ServerRecord, ServerState, connection::unix_now},
};

/// A connection's number in an `int4` column. Two that are alive at the same time never share one:
/// there would have to be two billion logins between them.
pub(in crate::admin) fn shown_id(id: u64) -> u64 {
    id & 0x7fff_ffff
}

/// What stands for a connection in `ptr` and `link`: PgBouncer shows an address in memory.
fn client_ptr(id: u64) -> String {
    format!("C{}", shown_id(id))
}

fn server_ptr(id: u64) -> String {
    format!("S{}", shown_id(id))
}

/// The other end of a link; empty for none.
fn link(ptr: fn(u64) -> String, id: u64) -> Value {
    match id {
        0 => "".into(),
        id => ptr(id).into(),
    }
}

/// Address and port of the peer, and ours.
fn addresses(origin: Origin) -> [Value; 4] {
    match origin {
        Origin::Unix => ["unix".into(), 0u16.into(), "unix".into(), 0u16.into()],
        Origin::Tcp { peer, local } => {
            let address = |of: SocketAddr| Value::from(of.ip().to_canonical().to_string());
            [
                address(peer),
                peer.port().into(),
                address(local),
                local.port().into(),
            ]
        }
    }
}

/// The moment and the clock that rows are made against.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) unix: u64,
    /// Of [`crate::pool::Clients::now`].
    pub(super) milliseconds: u64,
}

impl Now {
    pub(super) fn of(console: &Console) -> Self {
        Self {
            unix: unix_now(),
            milliseconds: console.clients.now(),
        }
    }
}

fn client_row(client: &ClientRecord, now: Now, prefix: &str) -> Row {
    let requested_at = client.requested_at.load(Ordering::Relaxed);
    let since = Duration::from_millis(now.milliseconds.saturating_sub(requested_at));
    let request_time = match requested_at {
        0 => client.connected_at_unix,
        _ => now.unix.saturating_sub(since.as_secs()),
    };
    let state = client.state();
    let wait = match state {
        ClientState::Waiting => since,
        ClientState::Idle | ClientState::Active => Duration::ZERO,
    };
    // SHOW SOCKETS knows no idle clients.
    let state = match (prefix, state) {
        ("", state) => state.as_str(),
        (_, ClientState::Waiting) => "cl_waiting",
        _ => "cl_active",
    };
    let PoolName { database, user } = &client.pool.name;
    let [addr, port, local_addr, local_port] = addresses(client.origin);
    vec![
        "C".into(),
        user.into(),
        database.into(),
        client
            .replication
            .map_or("none", Replication::as_str)
            .into(),
        state.into(),
        addr,
        port,
        local_addr,
        local_port,
        timestamp::show(client.connected_at_unix).into(),
        timestamp::show(request_time).into(),
        wait.as_secs().into(),
        u64::from(wait.subsec_micros()).into(),
        false.into(),
        client_ptr(client.id).into(),
        link(server_ptr, client.server.load(Ordering::Relaxed)),
        0usize.into(),
        (&client.tls).into(),
        (&client.application_name).into(),
        client.prepared_statements.load(Ordering::Relaxed).into(),
        shown_id(client.id).into(),
    ]
}

/// A console connection has no server, so it is idle as PgBouncer understands it.
fn session_row(session: &SessionRecord, prefix: &str) -> Row {
    let [addr, port, local_addr, local_port] = addresses(session.login.origin);
    let requested_at = session.requested_at_unix.load(Ordering::Relaxed);
    vec![
        "C".into(),
        (&session.login.user).into(),
        DATABASE.into(),
        "none".into(),
        if prefix.is_empty() {
            "idle"
        } else {
            "cl_active"
        }
        .into(),
        addr,
        port,
        local_addr,
        local_port,
        timestamp::show(session.connected_at_unix).into(),
        timestamp::show(requested_at).into(),
        0usize.into(),
        0usize.into(),
        false.into(),
        client_ptr(session.id).into(),
        "".into(),
        0usize.into(),
        (&session.login.tls).into(),
        (&session.login.application_name).into(),
        0usize.into(),
        shown_id(session.id).into(),
    ]
}

fn server_row(pool: &PoolName, server: &ServerRecord, prefix: &str) -> Row {
    let used_at = Duration::from_micros(server.used_at.load(Ordering::Relaxed));
    let request_time = server.connected_at_unix.saturating_add(used_at.as_secs());
    let is_unix = server.host.starts_with(['/', '@']);
    let (addr, port) = match is_unix {
        true => ("unix".to_owned(), 0),
        false => (server.host.clone(), server.port),
    };
    let (local_addr, local_port) = match is_unix {
        true => ("unix".to_owned(), 0),
        false => server.local.clone(),
    };
    let process_id = u64::try_from(server.process_id).unwrap_or(0);
    vec![
        "S".into(),
        (&pool.user).into(),
        (&pool.database).into(),
        "none".into(),
        format!("{prefix}{}", server.state().as_str()).into(),
        addr.into(),
        port.into(),
        local_addr.into(),
        local_port.into(),
        timestamp::show(server.connected_at_unix).into(),
        timestamp::show(request_time).into(),
        0usize.into(),
        0usize.into(),
        server.is_close_needed().into(),
        server_ptr(server.id).into(),
        link(client_ptr, server.client.load(Ordering::Relaxed)),
        process_id.into(),
        server.tls.clone().into(),
        "".into(),
        server.prepared_statements.load(Ordering::Relaxed).into(),
        shown_id(server.id).into(),
    ]
}

pub(super) fn all_clients(console: &Console) -> Vec<Arc<ClientRecord>> {
    let mut clients = console.clients.all();
    clients.sort_unstable_by_key(|client| client.id);
    clients
}

fn client_rows(console: &Console, prefix: &'static str) -> Rows {
    let now = Now::of(console);
    let clients = all_clients(console).into_iter();
    let mut sessions = console.sessions.all();
    sessions.sort_unstable_by_key(|session| session.id);
    let sessions = sessions.into_iter();
    Box::new(
        clients
            .map(move |client| client_row(&client, now, prefix))
            .chain(sessions.map(move |session| session_row(&session, prefix))),
    )
}

fn server_rows(console: &Console, prefix: &'static str, wanted: fn(ServerState) -> bool) -> Rows {
    Box::new(console.pools.all().into_iter().flat_map(move |pool| {
        let mut servers = pool.view().servers;
        servers.retain(|server| wanted(server.state()));
        servers.sort_unstable_by_key(|server| server.id);
        let rows = servers.into_iter();
        rows.map(move |server| server_row(&pool.name, &server, prefix))
    }))
}

/// Every client, those of the console too.
pub(super) fn clients(console: &Console) -> Rows {
    client_rows(console, "")
}

/// Every server connection.
pub(super) fn servers(console: &Console) -> Rows {
    server_rows(console, "", |_| true)
}

/// Every connection, with PgBouncer's positions in its buffers; an idle connection of ours has none,
/// and those of a worker belong to no connection, so they are 0.
pub(super) fn sockets(console: &Console) -> Rows {
    let rows = client_rows(console, "cl_").chain(server_rows(console, "sv_", |_| true));
    Box::new(rows.map(with_buffers))
}

/// The connections in use: clients that have a server or wait for one, and servers that are not idle.
pub(super) fn active_sockets(console: &Console) -> Rows {
    let now = Now::of(console);
    let clients = all_clients(console).into_iter();
    let clients = clients
        .filter(|client| client.state() != ClientState::Idle)
        .map(move |client| client_row(&client, now, "cl_"));
    let servers = server_rows(console, "sv_", |state| state != ServerState::Idle);
    Box::new(clients.chain(servers).map(with_buffers))
}

fn with_buffers(mut row: Row) -> Row {
    row.resize(row.len() + 7, 0usize.into());
    row
}
