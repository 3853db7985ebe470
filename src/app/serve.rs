//! Accepting clients and serving each to its end.

use std::{rc::Rc, sync::Arc};

use super::{Pooler, StartError, workers::Workers};
use crate::{
    auth::Credentials,
    client::{
        error::Failure,
        relay::{Relay, Worker},
        welcome,
    },
    net::{Accepted, Framed, ListenOptions, Listener, UnixOptions, bind_tcp, bind_unix},
    pool::{
        Signal,
        clients::{NewClient, Origin, SHORT_SECRET},
    },
    protocol::{
        encode::{self, Authentication},
        startup::StartupPacket,
    },
    server::connection::unix_now,
    session::{Session, Settings},
};

/// Opens every listener that the configuration asks for.
pub fn listen(pooler: &Pooler) -> Result<Vec<Listener>, StartError> {
    let config = pooler.config();
    let process = &config.process;
    let options = ListenOptions {
        backlog: process.listen_backlog,
        reuse_port: process.so_reuseport,
        tcp: super::tcp_options(&config),
    };
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

/// Accepts clients until the future is dropped.
pub async fn accept(pooler: Arc<Pooler>, workers: Rc<Workers>, listener: Listener) {
    tracing::info!("listening on {}", listener.address());
    loop {
        let accepted = listener.accept().await;
        workers.assign(&pooler, accepted);
    }
}

/// Serves one client to its end.
pub async fn client(pooler: Arc<Pooler>, worker: Rc<Worker>, accepted: Accepted) {
    let peer = accepted.peer;
    let stream = match accepted.connection.into_stream() {
        Ok(stream) => stream,
        Err(error) => {
            tracing::error!(?peer, %error, "cannot serve client");
            return;
        }
    };
    // Boxed, so that a client that has logged in does not keep the room for it.
    let Some(relay) = Box::pin(log_in(&pooler, &worker, stream)).await else {
        return;
    };
    let ended = relay.run().await;
    tracing::debug!(?peer, ?ended, "client left");
}

async fn log_in(
    pooler: &Arc<Pooler>,
    worker: &Rc<Worker>,
    stream: crate::net::Stream,
) -> Option<Relay> {
    let mut framed = Framed::new(stream);
    loop {
        let packet = framed.read_startup(10_000).await.ok()?;
        match StartupPacket::read(&packet).ok()? {
            StartupPacket::SslRequest | StartupPacket::GssEncRequest => {
                framed.write(b"N").await.ok()?;
            }
            StartupPacket::CancelRequest { process_id, secret } => {
                pooler
                    .clients
                    .by_cancel_key(process_id, secret)?
                    .signal(Signal::Cancel);
                return None;
            }
            StartupPacket::Startup { parameters, .. } => {
                let value =
                    |name: &[u8]| parameters.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
                let user = str::from_utf8(value(b"user")?).ok()?;
                let database =
                    str::from_utf8(value(b"database").unwrap_or(user.as_bytes())).ok()?;
                let startup: Settings = parameters
                    .iter()
                    .filter(|(n, _)| ![&b"user"[..], b"database"].contains(n))
                    .copied()
                    .collect();
                let config = pooler.config();
                let database = config.database(database)?;
                let pool = pooler.pool(&database, user, &Credentials::None);
                let told =
                    match welcome::parameters(&pool, worker, &startup, &pooler.interners.settings)
                        .await
                    {
                        Ok(told) => told,
                        Err(failure) => {
                            framed.write(&failure.farewell()).await.ok()?;
                            return None;
                        }
                    };
                let (record, key) = pooler.clients.enter(NewClient {
                    pool: Arc::clone(&pool),
                    origin: Origin::Unix,
                    tls: "".into(),
                    application_name: "".into(),
                    connected_at_unix: unix_now(),
                });
                let mut out = Vec::new();
                encode::authentication(&mut out, Authentication::Ok);
                let secret = &key.secret[..SHORT_SECRET];
                welcome::greet(&mut out, &told, &startup, (key.process_id, secret));
                framed.write(&out).await.ok()?;
                let settings = pool.settings();
                let session = Session::new(
                    record.id,
                    Relay::mode(&settings),
                    Arc::clone(&pooler.interners),
                    pooler.interners.settings.intern(startup),
                );
                let (stream, received) = framed.into_parts();
                let _ = Failure::io;
                return Some(Relay::new(
                    Rc::clone(worker),
                    record,
                    stream,
                    session,
                    received.into(),
                    0x3fff_ffff,
                ));
            }
        }
    }
}
