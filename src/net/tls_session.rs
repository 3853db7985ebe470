//! TLS over a socket: rustls driven by polls, with no buffer while the connection is idle.
//!
//! ```text
//!   socket ──recv──▶ sealed_in ──records opened──▶ caller's buffer, and what does not fit into `opened`
//!   socket ◀──send── sealed_out ◀──records sealed── caller's bytes, handshake, alerts
//! ```
//!
//! Invariants:
//! * `sealed_in` holds the beginning of one record or handshake message at most: everything complete is opened at once, so
//!   no plaintext waits where no poll would look for it.
//! * Application data is accepted only while `sealed_out` is empty, which bounds it to [`MAX_WRITE`] plus overhead.
//! * After a failure nothing more is opened or sealed; plaintext that came before it is still delivered.
//!
//! rustls' unbuffered interface is used because its other one keeps 4 KiB a connection and reads 4 KiB a call.

use std::{
    fmt, io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::CommonState;

use super::{
    socket::Socket,
    tls_records::{MIN_READ, Pending, RECORD, Seal, Side, Sink},
};

/// Most bytes that one write takes: four records.
const MAX_WRITE: usize = 4 * RECORD;
/// Most bytes that one read asks the socket for; two records.
const MAX_READ: usize = 2 * RECORD;
/// A handshake message has 64 KiB at most (rustls checks that), in records of any size.
const MAX_SEALED_IN: usize = 128 * 1024;

/// The TLS state of one connection; boxed by its owner, so that a plain connection pays one pointer.
pub(super) struct TlsSession {
    side: Side,
    sealed_in: Vec<u8>,
    opened: Pending,
    sealed_out: Pending,
    input: Input,
    /// Hash of our own certificate, on the client leg (RFC 5929).
    own_end_point: Option<Arc<[u8]>>,
}

enum Input {
    Open,
    /// close_notify or the end of the TCP stream.
    Ended,
    Failed(rustls::Error),
}

impl TlsSession {
    pub(super) fn new(side: Side, own_end_point: Option<Arc<[u8]>>) -> Self {
        Self {
            side,
            sealed_in: Vec::new(),
            opened: Pending::default(),
            sealed_out: Pending::default(),
            input: Input::Open,
            own_end_point,
        }
    }

    /// Hands over bytes of the handshake that were read from the socket before.
    pub(super) fn feed(&mut self, received: &[u8]) {
        self.sealed_in.extend_from_slice(received);
    }

    /// Ready when the handshake is done.
    ///
    /// Its last bytes may still be here: reads and writes push them. They are not waited for, because a client that sends
    /// its CancelRequest and is gone must be heard although it takes no session ticket. Application data that arrived with
    /// the last message is kept for the first read.
    pub(super) fn poll_handshake(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            self.advance(&mut [], Seal::Nothing);
            self.push_sealed(socket, cx);
            if let Input::Failed(error) = &self.input {
                return Poll::Ready(Err(broken(error)));
            }
            if !self.side.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_receive(socket, cx, MIN_READ))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    pub(super) fn poll_read(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.push_sealed(socket, cx);
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if !self.opened.is_empty() {
                return Poll::Ready(Ok(self.opened.take_into(buf)));
            }
            match &self.input {
                Input::Open => {}
                Input::Ended => return Poll::Ready(Ok(0)),
                Input::Failed(error) => return Poll::Ready(Err(broken(error))),
            }
            if ready!(self.poll_receive(socket, cx, buf.len()))? == 0 {
                return Poll::Ready(self.end_of_stream());
            }
            let opened = self.advance(buf, Seal::Nothing);
            self.push_sealed(socket, cx);
            if opened > 0 {
                return Poll::Ready(Ok(opened));
            }
        }
    }

    pub(super) fn poll_write(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(socket, cx))?;
        if let Input::Failed(error) = &self.input {
            return Poll::Ready(Err(broken(error)));
        }
        let accepted = &bytes[..bytes.len().min(MAX_WRITE)];
        self.advance(&mut [], Seal::Data(accepted));
        if let Input::Failed(error) = &self.input {
            return Poll::Ready(Err(broken(error)));
        }
        match self.poll_flush(socket, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(accepted.len())),
        }
    }

    /// Gathers small slices, so that a message in pieces is one record.
    pub(super) fn poll_write_vectored(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices {
            [] => Poll::Ready(Ok(0)),
            [one] => self.poll_write(socket, cx, one),
            [first, ..] if first.len() >= RECORD => self.poll_write(socket, cx, first),
            many => {
                ready!(self.poll_flush(socket, cx))?;
                let mut gathered = Vec::new();
                for slice in many {
                    let room = RECORD - gathered.len();
                    gathered.extend_from_slice(&slice[..slice.len().min(room)]);
                }
                self.poll_write(socket, cx, &gathered)
            }
        }
    }

    pub(super) fn poll_flush(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.sealed_out.is_empty() {
            let sent = ready!(socket.poll_write(cx, self.sealed_out.rest()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sealed_out.consume(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is pending, then close_notify (once), then FIN.
    pub(super) fn poll_shutdown(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !matches!(self.input, Input::Failed(_)) {
            self.advance(&mut [], Seal::CloseNotify);
        }
        ready!(self.poll_flush(socket, cx))?;
        socket.poll_shutdown(cx)
    }

    /// Whether something is here already that a read would return or that belongs to an unfinished record.
    pub(super) fn has_buffered_input(&self) -> bool {
        self.is_readable() || !self.sealed_in.is_empty()
    }

    /// Whether a read would return without asking the socket.
    pub(super) fn is_readable(&self) -> bool {
        !self.opened.is_empty() || !matches!(self.input, Input::Open)
    }

    pub(super) fn state(&self) -> &CommonState {
        &self.side
    }

    pub(super) fn is_tls_server(&self) -> bool {
        matches!(self.side, Side::Server(_))
    }

    pub(super) fn own_end_point(&self) -> Option<&Arc<[u8]>> {
        self.own_end_point.as_ref()
    }

    /// Reading drives pending ciphertext too: a caller that only waits for an answer must not wait for one whose question
    /// is still here. A send error is left to the next write, since there may be something to read before it.
    fn push_sealed(&mut self, socket: &mut Socket, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(_)) = self.poll_flush(socket, cx) {
            self.sealed_out = Pending::default();
        }
    }

    fn poll_receive(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        let room = MAX_SEALED_IN.saturating_sub(self.sealed_in.len());
        if room == 0 {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "TLS handshake message too long",
            )));
        }
        // Memory is taken only when there is something to put there.
        ready!(socket.poll_readable(cx))?;
        let wanted = wanted.clamp(MIN_READ, MAX_READ).min(room);
        let received = socket.poll_read_into(cx, &mut self.sealed_in, wanted);
        if received.is_pending() {
            self.sealed_in.shrink_to_fit();
        }
        received
    }

    /// An end without close_notify is an end: PostgreSQL's messages tell by themselves whether one was cut, and libpq
    /// has clients that just close. An end within a record is not.
    fn end_of_stream(&mut self) -> io::Result<usize> {
        self.input = Input::Ended;
        if self.sealed_in.is_empty() {
            Ok(0)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Opens all that is complete in `sealed_in` and seals `seal`; returns how many bytes were opened into `buf`.
    fn advance(&mut self, buf: &mut [u8], seal: Seal<'_>) -> usize {
        let mut sink = Sink {
            buf,
            filled: 0,
            overflow: &mut self.opened,
        };
        let advanced =
            self.side
                .advance(&mut self.sealed_in, &mut sink, &mut self.sealed_out, seal);
        match advanced {
            Ok(false) => {}
            Ok(true) => self.input = Input::Ended,
            Err(error) => self.input = Input::Failed(error),
        }
        sink.filled
    }
}

fn broken(error: &rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.clone())
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession")
            .field("version", &self.side.protocol_version())
            .field("sealed_in", &self.sealed_in.len())
            .field("opened", &self.opened.rest().len())
            .field("sealed_out", &self.sealed_out.rest().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tls_session_tests.rs"]
mod tests;
