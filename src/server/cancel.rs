//! Cancelling what a server is running, and the fence that keeps it from its next client until the
//! cancel request cannot hit anything any more.
//!
//! PostgreSQL closes the connection of a CancelRequest after it has signalled the backend (manual,
//! "Canceling Requests in Progress"). So a server with a cancel request under way is not returned to
//! its pool before that connection has been closed.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{connect_error::ConnectError, login::ServerLogin};

/// How the queries of one server connection are cancelled.
#[derive(Clone, Debug)]
pub struct CancelTarget {
    /// How connections to the same server are made.
    pub login: Arc<ServerLogin>,
    /// Which of the host's addresses the session is at; `None` for a Unix socket.
    pub at: Option<SocketAddr>,
    /// As BackendKeyData told.
    pub process_id: i32,
    /// As BackendKeyData told: 4 bytes, or up to 256; none if the server cannot cancel.
    pub secret: Box<[u8]>,
}

/// A cancel request did not reach its server.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// The server told no key at login.
    #[error("the server does not support cancel requests")]
    Unsupported,
    /// No connection could be made.
    #[error("cannot connect to send a cancel request")]
    Connect(#[source] ConnectError),
    /// The connection broke.
    #[error("cannot send a cancel request")]
    Io(#[source] io::Error),
    /// It took too long.
    #[error("cancel request not finished within {0:?} (cancel_wait_timeout)")]
    Timeout(Duration),
}

impl CancelTarget {
    /// Sends the request and waits until the server has closed the connection.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; whether the request took effect is then unknown.
    pub async fn cancel(&self) -> Result<(), CancelError> {
        if self.secret.is_empty() {
            return Err(CancelError::Unsupported);
        }
        let exchange = self.login.send_cancel(self);
        match self.login.cancel_timeout {
            None => exchange.await,
            Some(limit) => tokio::time::timeout(limit, exchange)
                .await
                .unwrap_or(Err(CancelError::Timeout(limit))),
        }
    }
}

/// Counts the cancel requests that may still hit a server.
#[derive(Clone, Debug, Default)]
pub struct CancelFence(Option<Arc<Fence>>);

#[derive(Debug, Default)]
struct Fence {
    under_way: AtomicUsize,
    lowered: Notify,
}

/// A cancel request under way; dropping it says that it can hit nothing any more.
#[derive(Debug)]
pub struct CancelUnderWay(Arc<Fence>);

impl CancelFence {
    /// Raises the fence for one cancel request.
    pub fn raise(&mut self) -> CancelUnderWay {
        let fence = Arc::clone(self.0.get_or_insert_default());
        fence.under_way.fetch_add(1, Ordering::AcqRel);
        CancelUnderWay(fence)
    }

    /// Whether no cancel request is under way.
    #[inline]
    pub fn is_down(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|fence| fence.under_way.load(Ordering::Acquire) == 0)
    }

    /// Waits until no cancel request is under way.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn lowered(&self) {
        let Some(fence) = &self.0 else { return };
        loop {
            let notified = fence.lowered.notified();
            if self.is_down() {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for CancelUnderWay {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.lowered.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fence_is_down_only_when_every_cancel_is_over() {
        let mut fence = CancelFence::default();
        assert!(fence.is_down());
        let first = fence.raise();
        let second = fence.raise();
        drop(first);
        assert!(!fence.is_down());
        let waiting = fence.clone();
        let waiter = async { waiting.lowered().await };
        tokio::join!(waiter, async { drop(second) });
        assert!(fence.is_down());
    }
}
