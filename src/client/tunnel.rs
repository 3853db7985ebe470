//! Replication connections: bytes to a server of their own and back, neither looked at nor pooled.
//!
//! The replication protocol is a conversation of two (manual, "Streaming Replication Protocol"): the
//! server connection lives and dies with the client's. Like any client it is counted, shown, killed and drained; its cancel
//! key is ours, for its server's would not find the way back here.

use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use super::{
    error::Failure,
    login::LoggedIn,
    relay::Worker,
    welcome::{Departure, attend},
};
use crate::{
    config::describe,
    net::{Framed, Stream},
    pool::{CancelAsked, CheckoutError, ClientRecord, ClientState, Signal},
    protocol::{backend::TransactionStatus, encode, startup::Replication},
    server::{cancel::CancelTarget, connect, connection},
};

/// Bytes on their way in one direction.
const BUFFER: usize = 16 * 1024;

/// Serves a replication client to its end. Its cancel key is `key`; `record` is how others reach it.
///
/// # Cancel safety
/// Dropping the future closes both connections.
pub async fn serve(
    mut client: LoggedIn,
    replication: Replication,
    (record, key): (&ClientRecord, (i32, &[u8])),
    worker: &Worker,
) {
    let login = record.pool.login();
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
    let connected = attend(
        (&mut client.stream, &mut client.received),
        record,
        connecting,
    )
    .await;
    let mut greeting = client.owed;
    let connected = match connected {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => {
            let failure = Failure::checkout(&CheckoutError::Connect(error));
            return refuse(client.stream, greeting, &failure).await;
        }
        Err(Departure::Sent(failure)) => return refuse(client.stream, greeting, &failure).await,
        Err(Departure::Left) => return,
    };
    record.set_state(ClientState::Active);
    let cancel = connected.key.map(|key| CancelTarget {
        login: Arc::clone(&login),
        at: connected.address,
        process_id: key.process_id,
        secret: key.secret.into(),
    });
    for (name, value) in &connected.parameters {
        encode::parameter_status(&mut greeting, name, value);
    }
    encode::backend_key_data(&mut greeting, key.0, key.1);
    encode::ready_for_query(&mut greeting, TransactionStatus::Idle);
    greeting.extend_from_slice(&connected.received);
    let mut to_client = Direction::new(greeting);
    let mut to_server = Direction::new(client.received.into());
    let (mut client, mut server) = (client.stream, connected.stream);
    let ended = poll_fn(|cx| {
        record.register(cx.waker());
        let signals = record.take_signals();
        if signals.contains(Signal::Kill) || signals.contains(Signal::Drain) {
            // Without a word: it may be in the middle of a message.
            return Poll::Ready(Ok(()));
        }
        if signals.contains(Signal::Cancel) {
            let asked = worker.clients.take_cancels(record.id);
            if let Some(target) = &cancel {
                worker.tasks.spawn(send_cancel(target.clone(), asked));
            }
        }
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

async fn send_cancel(target: CancelTarget, asked: Vec<CancelAsked>) {
    if let Err(error) = target.cancel().await {
        tracing::warn!(reason = describe(&error), "cancel request failed");
    }
    drop(asked);
}

async fn refuse(stream: Stream, mut owed: Vec<u8>, failure: &Failure) {
    owed.extend_from_slice(&failure.farewell());
    if Framed::new(stream).write(&owed).await.is_err() {
        tracing::debug!("replication client was gone before it was refused");
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
