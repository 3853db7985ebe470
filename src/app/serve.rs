//! Accepting clients and serving each to its end.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use super::{
    MAX_ITERATIONS, Pooler, StartError,
    auth_query::Asker,
    control::Lifecycle,
    peers,
    workers::{Counted, Workers},
};
use crate::{
    admin::{self, ConsoleContext, ConsoleLogin, Role},
    client::{
        error::{Cause, Failure},
        login::{ConsoleRole, LoggedIn, Login, LoginContext, login},
        relay::{Ended, Relay, Worker},
        routing::Routing,
        tunnel,
        welcome::{self, Departure},
    },
    config::{Config, Database},
    net::{Accepted, ListenOptions, Listener, Peer, Stream, UnixOptions, bind_tcp, bind_unix},
    pool::{
        ClientRecord, Pool, Signal,
        clients::{ClientKey, LONG_SECRET, NewClient, Origin, SHORT_SECRET},
        seats::{Full, Most, Seat},
    },
    protocol::startup::ProtocolVersion,
    server::connection::unix_now,
    session::{Session, Settings},
};

/// What a client calls itself.
const APPLICATION_NAME: &[u8] = b"application_name";

/// Opens every listener that the configuration asks for.
pub fn listen(pooler: &Pooler) -> Result<Vec<Listener>, StartError> {
    let config = pooler.config();
    let process = &config.process;
    let options = listen_options(&config);
    let mut bound = Vec::new();
    for address in &process.listen_addr {
        bound.extend(bind_tcp(address, process.listen_port, &options)?);
    }
    if let Some(directory) = &process.unix_socket_dir {
        let options = UnixOptions {
            directory: directory.clone(),
            mode: process.unix_socket_mode.0,
            group: process.unix_socket_group.clone(),
        };
        bound.push(bind_unix(
            process.listen_port,
            &options,
            process.listen_backlog,
        )?);
    }
    if bound.is_empty() {
        return Err(StartError::Nowhere);
    }
    bound
        .into_iter()
        .map(|bound| bound.into_listener().map_err(StartError::Worker))
        .collect()
}

/// How to listen on TCP.
pub(super) fn listen_options(config: &Config) -> ListenOptions {
    ListenOptions {
        backlog: config.process.listen_backlog,
        reuse_port: config.process.so_reuseport,
        tcp: super::tcp_options(config),
    }
}

/// Accepts clients until the future is dropped.
pub async fn accept(pooler: Arc<Pooler>, workers: Rc<Workers>, listener: Listener) {
    tracing::info!("listening on {}", listener.address());
    loop {
        let accepted = listener.accept().await;
        workers.assign(&pooler, accepted);
    }
}

/// A client that is served.
pub struct Client {
    relay: Relay,
    entry: Entry,
    _counted: Counted,
    _seat: Seat,
}

/// A client's place in the registry, until it is dropped.
struct Entry {
    pooler: Arc<Pooler>,
    record: Arc<ClientRecord>,
    key: ClientKey,
}

impl Entry {
    /// Its cancel key, as it is told it.
    fn key(&self) -> (i32, &[u8]) {
        let length = usize::from(self.record.secret_length);
        (self.key.process_id, &self.key.secret[..length])
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.pooler.clients.leave(&self.key);
    }
}

/// Serves one connection to its end.
///
/// The future is as small as it can be: what a login needs is boxed and gone when it is over, what a
/// session needs is one box.
pub fn connection(
    pooler: Arc<Pooler>,
    worker: Rc<Worker>,
    accepted: Accepted,
    counted: Counted,
) -> impl Future<Output = ()> {
    let login = Box::pin(log_in(pooler, worker, accepted, counted));
    async {
        if let Some(mut client) = login.await {
            let ended = (&mut client.relay).await;
            Box::pin(finish(client, ended)).await;
        }
    }
}

async fn finish(mut client: Box<Client>, ended: Ended) {
    client.relay.end(&ended).await;
    log_end(&client.entry.pooler, &client.entry.record, &ended);
}

fn log_end(pooler: &Pooler, client: &ClientRecord, ended: &Ended) {
    if let Ended::Failed(failure) | Ended::Cut(failure) = ended
        && pooler.config().process.log_pooler_errors
    {
        failure.log(client);
    }
    if pooler.config().process.log_disconnections {
        let reason = match ended {
            Ended::Terminated => "it said goodbye".to_owned(),
            Ended::Lost(None) => "it closed the connection".to_owned(),
            Ended::Lost(Some(error)) => error.to_string(),
            Ended::SessionLost => "its session was lost with its server".to_owned(),
            Ended::Failed(failure) | Ended::Cut(failure) => failure.to_string(),
        };
        tracing::info!(client = client.id, pool = %client.pool.name, reason, "client left");
    }
}

async fn log_in(
    pooler: Arc<Pooler>,
    worker: Rc<Worker>,
    accepted: Accepted,
    counted: Counted,
) -> Option<Box<Client>> {
    let Accepted { stream, peer } = accepted;
    let (peer, origin) = match ends(&stream, peer) {
        Ok(ends) => ends,
        Err(error) => {
            tracing::error!(?peer, %error, "cannot serve client");
            return None;
        }
    };
    let logging_in = Counted::new(&pooler.logging_in);
    let outcome = authenticate(&pooler, stream, peer).await;
    drop(logging_in);
    match outcome? {
        Login::Cancel {
            stream,
            process_id,
            secret,
        } => {
            let (secret, is_passed_on) = peers::unmarked(&secret);
            match pooler.clients.cancel(process_id, secret) {
                // Its sender may take the end of the connection for the end of the request, as PostgreSQL means it.
                Some(over) => over.wait().await,
                None if pooler.console.sessions.cancel(process_id, secret) => {}
                None if is_passed_on => tracing::debug!("cancel request with an unknown key"),
                None => peers::pass_on(&pooler, process_id, secret).await,
            }
            drop(stream);
            None
        }
        Login::Console(client, role) => {
            let role = match role {
                ConsoleRole::Admin => Role::Admin,
                ConsoleRole::Stats => Role::Stats,
            };
            serve_console(&pooler, *client, role, origin).await;
            None
        }
        Login::Session(client, database) => {
            begin_session(pooler, worker, *client, &database, (origin, counted)).await
        }
    }
}

/// Who the client is, and where it comes from; `peer` is what is known of that already.
fn ends(stream: &Stream, peer: Option<SocketAddr>) -> io::Result<(Peer, Origin)> {
    let peer = peer.map_or_else(|| stream.peer(), |address| Ok(Peer::Tcp(address)))?;
    let origin = match (peer, stream.local_addr()?) {
        (Peer::Tcp(peer), Some(local)) => Origin::Tcp { peer, local },
        _ => Origin::Unix,
    };
    Ok((peer, origin))
}

async fn authenticate(pooler: &Arc<Pooler>, stream: Stream, peer: Peer) -> Option<Login> {
    let config = pooler.config();
    let security = pooler.security();
    let asker = Asker(Arc::clone(pooler));
    let context = LoginContext {
        peer,
        config: &config,
        hba: security.hba.as_ref(),
        ident: &security.ident,
        acceptor: security.acceptor.as_ref(),
        mock_key: pooler.mock_key,
        max_iterations: MAX_ITERATIONS.max(config.process.scram_iterations),
        derivations: &pooler.derivations,
        answers: &pooler.answers,
        secret_source: Some(&asker),
        own_uid: pooler.own_uid,
    };
    match login(stream, &context).await {
        Ok(login) => Some(login),
        Err(error) => {
            if config.process.log_pooler_errors {
                tracing::info!(?peer, reason = error.chain(), "login failed");
            }
            None
        }
    }
}

async fn serve_console(pooler: &Pooler, client: LoggedIn, role: Role, origin: Origin) {
    let application_name = client.settings.value(APPLICATION_NAME).unwrap_or_default();
    let context = ConsoleContext {
        console: Arc::clone(&pooler.console),
        login: ConsoleLogin {
            user: client.user.as_str().into(),
            role,
            origin,
            tls: tls(&client.stream),
            application_name: printable(application_name),
        },
    };
    if let Err(error) = admin::serve(client.stream, client.owed, client.received, context).await {
        tracing::debug!(%error, "console connection broke");
    }
}

fn tls(stream: &Stream) -> Box<str> {
    stream
        .tls()
        .map_or_else(Box::default, |tls| tls.to_string().into())
}

fn printable(bytes: &[u8]) -> Box<str> {
    match str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.escape_ascii().to_string().into(),
    }
}

async fn begin_session(
    pooler: Arc<Pooler>,
    worker: Rc<Worker>,
    mut client: LoggedIn,
    database: &Database,
    (origin, counted): (Origin, Counted),
) -> Option<Box<Client>> {
    let config = pooler.config();
    let cluster = pooler.cluster(database, &client.user, &client.credentials);
    let hosts = cluster.hosts();
    let pool = Arc::clone(hosts.home());
    let seat = match admit(&pooler, &config, &pool) {
        Ok(seat) => seat,
        Err(failure) => {
            refuse(client, &failure).await;
            return None;
        }
    };
    let ignored = &pool.settings().ignore_startup_parameters;
    for name in ignored {
        client.settings = client
            .settings
            .without(name.to_ascii_lowercase().as_bytes());
    }
    if pool.settings().application_name_add_host {
        add_host(&mut client.settings, origin);
    }
    let entry = enter(&pooler, &pool, &client, origin);
    if config.process.log_connections {
        tracing::info!(client = entry.record.id, pool = %pool.name, ?origin, "client logged in");
    }
    if let Some(replication) = client.replication {
        let key = entry.key();
        tunnel::serve(client, replication, (&entry.record, key), &worker).await;
        return None;
    }
    let interner = &pooler.settings;
    let record = Arc::clone(&entry.record);
    let wait = welcome::parameters(&hosts, &worker, &client.settings, interner);
    let waited = welcome::attend((&mut client.stream, &mut client.received), &record, wait).await;
    let told = match waited {
        Ok(Ok(told)) => told,
        Ok(Err(failure)) | Err(Departure::Sent(failure)) => {
            refuse(client, &failure).await;
            return None;
        }
        Err(Departure::Left) => {
            tracing::info!(client = record.id, pool = %pool.name, "client left before it was served");
            return None;
        }
    };
    let mut greeting = client.owed;
    welcome::greet(&mut greeting, &told, &client.settings, entry.key());
    let session = Session::new(
        record.id,
        Relay::mode(&pool.settings()),
        Arc::clone(&pool.interners),
        interner.intern(client.settings),
    )
    .refusing(Relay::refusals(&pool.settings()))
    .sharing(worker.texts.clone())
    .told(told.iter().map(|(name, value)| (&**name, &**value)));
    let routing = Routing::new(&cluster, &pool.settings(), &session, &record);
    let max_packet_size = u32::try_from(config.process.max_packet_size).unwrap_or(u32::MAX);
    let own = Arc::clone(&record);
    let mut relay = Relay::new(
        worker,
        own,
        (client.stream, session, routing),
        max_packet_size,
    );
    // A copy of what is there, usually nothing: the login's buffer is larger.
    relay.begin(client.received.to_vec(), greeting);
    Some(Box::new(Client {
        relay,
        entry,
        _counted: counted,
        _seat: seat,
    }))
}

fn enter(pooler: &Arc<Pooler>, pool: &Arc<Pool>, client: &LoggedIn, origin: Origin) -> Entry {
    let application_name = client.settings.value(APPLICATION_NAME).unwrap_or_default();
    let (record, key) = pooler.clients.enter(NewClient {
        pool: Arc::clone(pool),
        origin,
        tls: tls(&client.stream),
        application_name: printable(application_name),
        replication: client.replication,
        secret_length: match client.version < ProtocolVersion::V3_2 {
            true => SHORT_SECRET,
            false => LONG_SECRET,
        },
        connected_at_unix: unix_now(),
    });
    record
        .requested_at
        .store(pooler.clients.now(), Ordering::Relaxed);
    if *pooler.lifecycle.borrow() == Lifecycle::Draining {
        record.signal(Signal::Drain);
    }
    Entry {
        pooler: Arc::clone(pooler),
        record,
        key,
    }
}

/// Adds the client's address to what it calls itself.
fn add_host(settings: &mut Settings, origin: Origin) {
    let from = match origin {
        Origin::Tcp { peer, .. } => peer.to_string(),
        Origin::Unix => "unix".to_owned(),
    };
    let name = settings.value(APPLICATION_NAME).unwrap_or(b"app").to_vec();
    let full = [&*name, b" - ", from.as_bytes()].concat();
    settings.insert(APPLICATION_NAME, &full);
}

/// Whether one more client is let in, and there is room for it.
fn admit(pooler: &Pooler, config: &Config, pool: &Arc<Pool>) -> Result<Seat, Failure> {
    if pooler.pools.is_disabled(&pool.name.database) {
        return Err(Failure::disabled(&pool.name.database));
    }
    if *pooler.lifecycle.borrow() != Lifecycle::Serving {
        return Err(Failure::new(Cause::Shutdown));
    }
    let settings = pool.settings();
    let most = Most {
        all: config.process.max_client_conn,
        database: settings.max_db_client_connections,
        user: settings.max_user_client_connections,
    };
    pooler
        .seats
        .take(pool, most)
        .map_err(|Full { setting, most }| Failure::too_many(setting, most))
}

/// Sends a client away that has proved who it is.
async fn refuse(client: LoggedIn, failure: &Failure) {
    let mut out = client.owed;
    out.extend_from_slice(&failure.farewell());
    tracing::info!(
        user = client.user,
        database = client.database,
        reason = %failure,
        "client refused after its login"
    );
    let mut framed = crate::net::Framed::new(client.stream);
    if framed.write(&out).await.is_ok() && framed.shutdown().await.is_err() {
        tracing::debug!("client was gone before it was refused");
    }
}
