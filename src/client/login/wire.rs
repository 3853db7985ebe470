//! A client's connection during its login: every wait is bounded by one deadline, and the last words are sent whatever happened.

use super::failure::LoginFailure;
use crate::net::{Framed, HandshakeError, ReadError, Stream};
use crate::protocol::FrontendTag;
use bytes::BytesMut;
use std::future::{Future, poll_fn};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Time for an error to reach a client that was refused; then the connection is closed in any case.
const FAREWELL: Duration = Duration::from_secs(1);
/// Most bytes that are read of a refused client, so that a reset does not overtake the error.
const FAREWELL_BYTES: usize = 64 * 1024;

pub(super) struct Wire {
    /// `None` after a TLS handshake that failed: then there is nobody to talk to.
    framed: Option<Framed>,
    limit: Option<Duration>,
    deadline: Option<Instant>,
}

type Outcome<T> = Result<T, LoginFailure>;

impl Wire {
    pub(super) fn new(stream: Stream, limit: Option<Duration>) -> Self {
        Self {
            framed: Some(Framed::new(stream)),
            limit,
            deadline: limit.map(|limit| Instant::now() + limit),
        }
    }

    /// Bounds one wait by what is left of `client_login_timeout`.
    pub(super) async fn within<T>(&self, wait: impl Future<Output = T>) -> Outcome<T> {
        bounded(self.deadline, self.limit, wait).await
    }

    pub(super) async fn first_byte(&mut self) -> Outcome<u8> {
        let (deadline, limit) = (self.deadline, self.limit);
        let read = bounded(deadline, limit, self.framed()?.first_byte()).await?;
        read.map_err(LoginFailure::Receive)
    }

    pub(super) async fn startup_packet(&mut self, longest: u32) -> Outcome<BytesMut> {
        let (deadline, limit) = (self.deadline, self.limit);
        let read = bounded(deadline, limit, self.framed()?.read_startup(longest)).await?;
        read.map_err(LoginFailure::Receive)
    }

    /// The body of the next message, which must be a PasswordMessage or one of its kin.
    pub(super) async fn password(&mut self) -> Outcome<BytesMut> {
        let (deadline, limit) = (self.deadline, self.limit);
        let password = |tag| match FrontendTag::from_byte(tag) {
            Some(FrontendTag::Password) => Some(FrontendTag::Password.length_limit()),
            _ => None,
        };
        let read = bounded(deadline, limit, self.framed()?.read_message(password)).await?;
        match read {
            Ok(message) => Ok(message.body),
            // Terminate: it takes its leave.
            Err(ReadError::Unexpected { tag }) if tag == FrontendTag::Terminate.byte() => {
                Err(LoginFailure::Receive(ReadError::Closed))
            }
            Err(error) => Err(LoginFailure::Receive(error)),
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Outcome<()> {
        let (deadline, limit) = (self.deadline, self.limit);
        let sent = bounded(deadline, limit, self.framed()?.write(bytes)).await?;
        sent.map_err(LoginFailure::Send)
    }

    /// Nothing may have come behind the request that is being answered.
    pub(super) fn expect_silence(&mut self, request: &'static str) -> Outcome<()> {
        let (stream, early) = self.take()?.into_parts();
        self.framed = Some(Framed::new(stream));
        match early.is_empty() {
            true => Ok(()),
            false => Err(LoginFailure::PlaintextAfter(request)),
        }
    }

    /// Puts TLS in place by `handshake`.
    pub(super) async fn encrypt(
        &mut self,
        handshake: impl AsyncFnOnce(Framed) -> Result<Framed, HandshakeError>,
    ) -> Outcome<()> {
        let plain = self.take()?;
        let (deadline, limit) = (self.deadline, self.limit);
        let encrypted = bounded(deadline, limit, handshake(plain)).await?;
        self.framed = Some(encrypted.map_err(LoginFailure::Tls)?);
        Ok(())
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.stream().is_some_and(|stream| stream.tls().is_some())
    }

    pub(super) fn stream(&self) -> Option<&Stream> {
        self.framed.as_ref().map(Framed::stream)
    }

    /// The connection, and what came behind the last message that was read.
    pub(super) fn into_parts(mut self) -> Outcome<(Stream, BytesMut)> {
        self.take().map(Framed::into_parts)
    }

    /// Sends the error and closes, within a second.
    pub(super) async fn say_farewell(self, failure: &LoginFailure) {
        let Some(mut framed) = self.framed else {
            return;
        };
        let talk = async {
            framed.write(&failure.farewell()).await?;
            framed.shutdown().await?;
            drain(framed.into_parts().0).await
        };
        // Best effort: the client may be long gone, or may not listen.
        drop(timeout(FAREWELL, talk).await);
    }

    fn framed(&mut self) -> Outcome<&mut Framed> {
        self.framed.as_mut().ok_or_else(gone)
    }

    fn take(&mut self) -> Outcome<Framed> {
        self.framed.take().ok_or_else(gone)
    }
}

fn gone() -> LoginFailure {
    LoginFailure::Receive(ReadError::Closed)
}

async fn bounded<T>(
    deadline: Option<Instant>,
    limit: Option<Duration>,
    wait: impl Future<Output = T>,
) -> Outcome<T> {
    match (deadline, limit) {
        (Some(deadline), Some(limit)) => timeout_at(deadline, wait)
            .await
            .map_err(|_| LoginFailure::Timeout(limit)),
        _ => Ok(wait.await),
    }
}

/// Reads on while something is waiting to be read: closing then would reset the connection, and the reset may overtake the
/// error.
async fn drain(mut stream: Stream) -> std::io::Result<()> {
    let mut drained = 0;
    while drained < FAREWELL_BYTES && stream.has_pending_input() {
        let read = poll_fn(|cx| stream.poll_read(cx, &mut [0; 1024])).await?;
        if read == 0 {
            break;
        }
        drained += read;
    }
    Ok(())
}
