//! Making a server usable again after its client has left it in the middle of something.
//!
//! Everything that the client began is ended (a fenced cancel, CopyFail, Sync), every reply is read
//! and dropped, an open transaction is rolled back, and the session's state is discarded. What cannot
//! be done within `server_recovery_timeout` ends with the connection being closed.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use super::{Server, cancel::CancelError};
use crate::session::{ServerFault, Settings, server_state::Cleanup};

/// What the client left behind besides unfinished requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Nothing: the server's settings are those that it was given.
    Nothing,
    /// Session state that is not known exactly.
    SessionState,
}

/// What becomes of what the client's server is still doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// The client said goodbye behind it: PostgreSQL would finish it, and so it is waited for.
    Finish,
    /// The client is gone: it is cancelled.
    Cancel,
}

/// How to clean up.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// What discards session state that is not known.
    pub reset_query: Option<String>,
    /// `server_reset_query`, where it is to be run whatever the client has left.
    pub always: Option<String>,
    /// `server_recovery_timeout`.
    pub timeout: Duration,
    /// The settings of a server that was reset.
    pub defaults: Arc<Settings>,
}

/// A server could not be made usable again.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// It did not end within the time given.
    #[error("not clean within {0:?} (server_recovery_timeout)")]
    Timeout(Duration),
    /// The answer to a few settings has no end.
    #[error("it sent more than {0} bytes")]
    TooMuch(usize),
    /// The connection broke.
    #[error("connection lost")]
    Io(#[source] io::Error),
    /// The server did not follow the protocol, or ended the connection.
    #[error(transparent)]
    Fault(#[from] ServerFault),
    /// The running query could not be cancelled.
    #[error(transparent)]
    Cancel(#[from] CancelError),
}

/// How long a server that was cancelled may go on before it is cancelled again.
const CANCEL_AGAIN: Duration = Duration::from_millis(100);

/// Cleans a server; answers it only when it is proved clean.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn recover(
    mut server: Box<Server>,
    unfinished: Unfinished,
    leftover: Leftover,
    recovery: &Recovery,
) -> Result<Box<Server>, RecoverError> {
    let cleaning = async {
        end_requests(&mut server, unfinished).await?;
        clean(&mut server, leftover, recovery).await?;
        Ok(server)
    };
    tokio::time::timeout(recovery.timeout, cleaning)
        .await
        .unwrap_or(Err(RecoverError::Timeout(recovery.timeout)))
}

async fn end_requests(server: &mut Server, unfinished: Unfinished) -> Result<(), RecoverError> {
    if server.state.cleanup() == Cleanup::Drain {
        let mut out = Vec::new();
        server.state.interrupt(&mut out);
        exchange(server, &out, true).await?;
        while server.state.cleanup() == Cleanup::Drain && unfinished == Unfinished::Cancel {
            let under_way = server.fence.raise();
            server.cancel.cancel().await?;
            drop(under_way);
            server.fence.lowered().await;
            // A request ends one query, and a pipeline may hold several.
            let drained = exchange(server, &[], false);
            if let Ok(outcome) = tokio::time::timeout(CANCEL_AGAIN, drained).await {
                outcome?;
            }
        }
    }
    server.fence.lowered().await;
    exchange(server, &[], false).await
}

async fn clean(
    server: &mut Server,
    leftover: Leftover,
    recovery: &Recovery,
) -> Result<(), RecoverError> {
    if server.state.cleanup() == Cleanup::Rollback {
        run(server, b"ROLLBACK").await?;
    }
    if leftover == Leftover::SessionState
        && let Some(query) = &recovery.reset_query
    {
        run(server, query.as_bytes()).await?;
        server.state.on_discard_all(Arc::clone(&recovery.defaults));
    }
    if let Some(query) = &recovery.always {
        let mut out = Vec::new();
        // What it resets is the operator's affair, so it finds nothing to reset that is known.
        server.state.give_settings(&recovery.defaults, &mut out);
        server.state.ask(query.as_bytes(), &mut out);
        exchange(server, &out, false).await?;
        server.state.on_discard_all(Arc::clone(&recovery.defaults));
    }
    Ok(())
}

/// Runs a query on a server that owes nothing.
pub(super) async fn run(server: &mut Server, text: &[u8]) -> Result<(), RecoverError> {
    let mut out = Vec::new();
    server.state.ask(text, &mut out);
    exchange(server, &out, false).await
}

/// Checks a server that has been idle for long, by running `query` on it.
pub async fn check(
    mut server: Box<Server>,
    query: &str,
    timeout: Duration,
) -> Result<Box<Server>, RecoverError> {
    tokio::time::timeout(timeout, run(&mut server, query.as_bytes()))
        .await
        .unwrap_or(Err(RecoverError::Timeout(timeout)))?;
    Ok(server)
}

/// Sends `out` and reads until nothing is owed; or, with `only_sent`, only until `out` has left and
/// what had arrived by then was read.
async fn exchange(server: &mut Server, out: &[u8], only_sent: bool) -> Result<(), RecoverError> {
    let mut buffer = vec![0; 16 * 1024];
    let mut unsent = out;
    poll_fn(|cx| {
        server
            .send(cx, std::mem::take(&mut unsent))
            .map_err(RecoverError::Io)?;
        loop {
            if server.state.pipeline.is_copy_in() {
                // It has only now said that it waits for data, of which there will be none.
                let mut end = Vec::new();
                server.state.interrupt(&mut end);
                server.send(cx, &end).map_err(RecoverError::Io)?;
            }
            let flushed = server.poll_flush(cx).map_err(RecoverError::Io)?.is_ready();
            if flushed && server.state.cleanup() != Cleanup::Drain {
                return std::task::Poll::Ready(Ok(()));
            }
            match server
                .stream
                .poll_read(cx, &mut buffer)
                .map_err(RecoverError::Io)?
            {
                std::task::Poll::Ready(0) => {
                    let error = io::ErrorKind::UnexpectedEof.into();
                    return std::task::Poll::Ready(Err(RecoverError::Io(error)));
                }
                std::task::Poll::Ready(size) => discard(server, &buffer[..size])?,
                std::task::Poll::Pending if only_sent && flushed => {
                    return std::task::Poll::Ready(Ok(()));
                }
                std::task::Poll::Pending => return std::task::Poll::Pending,
            }
        }
    })
    .await
}

fn discard(server: &mut Server, data: &[u8]) -> Result<(), ServerFault> {
    if server.received.is_empty() {
        let done = server.state.discard(data)?;
        server.received.extend_from_slice(&data[done..]);
    } else {
        server.received.extend_from_slice(data);
        let done = server.state.discard(&server.received)?;
        server.received.drain(..done);
    }
    Ok(())
}
