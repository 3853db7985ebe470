//! What a client is told when it has logged in: the parameters that a server of its pool reports.
//!
//! The first client of a pool, and the first with new startup settings, waits for a server to say so;
//! a setting that the server refuses is refused at login, in the server's own words. A client that leaves meanwhile, or is
//! sent away, does not stay in a queue: clients that give up and come again are not to fill the pooler.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::{
    error::{Cause, Failure},
    relay::Worker,
};
use crate::{
    net::Stream,
    pool::{ClientRecord, ClientState, Hosts, Pool, Signal, Ticket},
    protocol::{
        backend::{ErrorFields, TransactionStatus},
        encode,
    },
    server::{Server, login::Parameters, recover::RecoverError},
    session::{ServerFault, Settings, SettingsInterner},
};

/// It is accepted whatever its value and nearly always different: not worth a question.
const APPLICATION_NAME: &[u8] = b"application_name";

/// Most bytes that are taken of a client before it has been welcomed; what it does behind them is not seen.
const MOST_EARLY: usize = 16 << 10;

/// Why a client is not waited for any longer.
#[derive(Debug)]
pub enum Departure {
    /// It has left.
    Left,
    /// It is sent away.
    Sent(Failure),
}

/// Waits for what a client needs before it can be served, for as long as it is there and nobody ends it. What it sends
/// meanwhile is appended to `received`.
///
/// # Cancel safety
/// May be dropped at any time, if `wait` may be.
pub async fn attend<T>(
    (stream, received): (&mut Stream, &mut BytesMut),
    record: &ClientRecord,
    wait: impl Future<Output = T>,
) -> Result<T, Departure> {
    let mut wait = pin!(wait);
    poll_fn(|cx| {
        record.register(cx.waker());
        let signals = record.take_signals();
        if signals.contains(Signal::Kill) {
            return Poll::Ready(Err(Departure::Sent(Failure::new(Cause::Killed))));
        }
        if signals.contains(Signal::Drain) {
            return Poll::Ready(Err(Departure::Sent(Failure::new(Cause::Shutdown))));
        }
        if let Poll::Ready(done) = wait.as_mut().poll(cx) {
            record.set_state(ClientState::Idle);
            return Poll::Ready(Ok(done));
        }
        record.set_state(ClientState::Waiting);
        poll_left(stream, received, cx).map(|()| Err(Departure::Left))
    })
    .await
}

/// Ready when the client has left.
fn poll_left(stream: &mut Stream, received: &mut BytesMut, cx: &mut Context<'_>) -> Poll<()> {
    while received.len() < MOST_EARLY {
        let mut chunk = [0; 1024];
        match stream.poll_read(cx, &mut chunk) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(size)) => received.extend_from_slice(&chunk[..size]),
        }
    }
    Poll::Pending
}

/// The parameters for a client with the settings `startup`: as the primary tells them, or if that
/// cannot be connected, as another server does, since reads go on without it.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn parameters(
    hosts: &Hosts,
    worker: &Worker,
    startup: &Settings,
    interner: &SettingsInterner,
) -> Result<Parameters, Failure> {
    let checked = startup.without(APPLICATION_NAME);
    let mut asked: Vec<&Arc<Pool>> = hosts.pools.iter().collect();
    let primary = hosts.watch.as_ref().and_then(|it| it.topology.primary());
    if let Some(primary) = primary.filter(|host| *host < hosts.pools.len()) {
        asked.swap(0, primary);
    }
    if let Some(parameters) = asked.iter().find_map(|pool| pool.welcome(&checked)) {
        return Ok(parameters);
    }
    let settings = interner.intern(checked);
    let mut first_failure = None;
    for pool in asked {
        match tell(pool, worker, &settings).await {
            Ok(parameters) => return Ok(parameters),
            Err(Silence::Lasting(failure)) => return Err(failure),
            Err(Silence::OfOne(failure)) => first_failure = first_failure.or(Some(failure)),
        }
    }
    Err(first_failure.unwrap_or_else(|| Failure::new(Cause::Shutdown)))
}

/// Why a server does not tell its parameters.
enum Silence {
    /// Another one might.
    OfOne(Failure),
    /// No other would, or there is no time to ask it.
    Lasting(Failure),
}

/// The parameters as one server tells them. It is asked once more if its connection breaks, for that may
/// have been dead already.
async fn tell(
    pool: &Arc<Pool>,
    worker: &Worker,
    settings: &Arc<Settings>,
) -> Result<Parameters, Silence> {
    let mut is_second = false;
    loop {
        let server = checkout(pool, worker).await?;
        match pool.prove(server, settings).await {
            Ok(parameters) => return Ok(parameters),
            Err(error) if is_refusal(&error) => {
                return Err(Silence::Lasting(Failure::login(pool, &error)));
            }
            Err(error) if is_second => return Err(Silence::OfOne(Failure::login(pool, &error))),
            Err(_) => is_second = true,
        }
    }
}

/// Whether a server has refused the settings, and has not just been stopped.
fn is_refusal(error: &RecoverError) -> bool {
    match error {
        RecoverError::Fault(ServerFault::SettingsRefused(body)) => {
            let sqlstate = ErrorFields::read(body).sqlstate;
            sqlstate.is_none_or(|it| !it.is_operator_intervention())
        }
        _ => false,
    }
}

/// Waits for a server.
///
/// # Cancel safety
/// May be dropped at any time: the place in the queue is given up.
async fn checkout(pool: &Arc<Pool>, worker: &Worker) -> Result<Box<Server>, Silence> {
    if let Some(server) = pool.try_checkout(worker.id, Instant::now()) {
        return Ok(server);
    }
    let mut place = Place {
        pool,
        ticket: Arc::default(),
        is_queued: false,
    };
    let served = poll_fn(|cx| {
        if !place.is_queued {
            place.is_queued = true;
            pool.wait(&place.ticket, cx.waker(), Instant::now());
        }
        Pool::poll_wait(&place.ticket, cx)
    });
    let served = match pool.settings().query_wait_timeout {
        Some(limit) => timeout(limit, served)
            .await
            .map_err(|_| Silence::Lasting(Failure::wait(Cause::QueryWait, limit, pool)))?,
        None => served.await,
    };
    place.is_queued = false;
    served
        .map_err(|error| Silence::OfOne(Failure::checkout(&error)))
        .and_then(|server| {
            worker
                .adopt(server, pool)
                .map_err(|error| Silence::OfOne(Failure::io(&error)))
        })
}

/// A place in the queue that is given up when it is dropped.
struct Place<'a> {
    pool: &'a Arc<Pool>,
    ticket: Arc<Ticket>,
    is_queued: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.is_queued {
            self.pool.give_up(&self.ticket);
        }
    }
}

/// Appends ParameterStatus messages, BackendKeyData and the first ReadyForQuery.
pub fn greet(
    out: &mut Vec<u8>,
    parameters: &Parameters,
    startup: &Settings,
    (process_id, secret): (i32, &[u8]),
) {
    let own_name = startup.value(APPLICATION_NAME);
    for (name, value) in parameters.iter() {
        let value = own_name
            .filter(|_| **name == *APPLICATION_NAME)
            .unwrap_or(value);
        encode::parameter_status(out, name, value);
    }
    encode::backend_key_data(out, process_id, secret);
    encode::ready_for_query(out, TransactionStatus::Idle);
}
