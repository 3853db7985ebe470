//! Replication connections: bytes to a server of their own and back, neither looked at nor pooled.
//!
//! The replication protocol is a conversation of two (manual, "Streaming Replication Protocol"): the
//! server connection lives and dies with the client's.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
};

use super::login::{LoggedIn, Replication};
use crate::{
    config::describe,
    net::{Framed, Stream},
    pool::CheckoutError,
    protocol::{backend::TransactionStatus, encode},
    server::{ServerLogin, connect, connection},
};

/// Bytes on their way in one direction.
const BUFFER: usize = 16 * 1024;

/// Serves a replication client to its end.
///
/// # Cancel safety
/// Dropping the future closes both connections.
pub async fn serve(client: LoggedIn, replication: Replication, login: &ServerLogin) {
    let mut target = login.target.clone();
    let own = (
        b"replication".to_vec(),
        replication.value().as_bytes().to_vec(),
    );
    let settings = client
        .settings
        .iter()
        .map(|(name, value)| (name.to_vec(), value.to_vec()));
    target.parameters = settings.chain([own]).collect();
    let (resolver, derivations) = (&login.resolver, &login.derivations);
    let connecting = connect::connect(&target, resolver, &login.credentials, derivations);
    let mut framed = Framed::new(client.stream);
    let mut greeting = client.owed;
    let connected = match connecting.await {
        Ok(connected) => connected,
        Err(error) => {
            let failure = super::error::Failure::checkout(&CheckoutError::Connect(error));
            greeting.extend_from_slice(&failure.farewell());
            if framed.write(&greeting).await.is_err() {
                tracing::debug!("replication client was gone before it was refused");
            }
            return;
        }
    };
    for (name, value) in &connected.parameters {
        encode::parameter_status(&mut greeting, name, value);
    }
    if let Some(key) = &connected.key {
        encode::backend_key_data(&mut greeting, key.process_id, &key.secret);
    }
    encode::ready_for_query(&mut greeting, TransactionStatus::Idle);
    greeting.extend_from_slice(&connected.received);
    let (stream, _) = framed.into_parts();
    let mut to_client = Direction::new(greeting);
    let mut to_server = Direction::new(client.received.into());
    let (mut client, mut server) = (stream, connected.stream);
    let ended = poll_fn(|cx| {
        let down = to_client.pump(cx, &mut server, &mut client)?;
        let up = to_server.pump(cx, &mut client, &mut server)?;
        if down.is_ready() || up.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await;
    if let Err::<(), io::Error>(error) = ended {
        tracing::info!(reason = describe(&error), "replication connection broke");
    }
}

/// One direction: what was read and is not written yet.
struct Direction {
    unsent: Vec<u8>,
    buffer: Box<[u8]>,
}

impl Direction {
    fn new(unsent: Vec<u8>) -> Self {
        Self {
            unsent,
            buffer: vec![0; BUFFER].into(),
        }
    }

    /// Moves what can be moved; ready at the end of the stream.
    fn pump(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(connection::flush(to, &mut self.unsent, cx))?;
            match ready!(from.poll_read(cx, &mut self.buffer))? {
                0 => return Poll::Ready(Ok(())),
                size => connection::send(to, &mut self.unsent, cx, &self.buffer[..size])?,
            }
        }
    }
}
