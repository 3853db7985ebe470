//! One connection: a socket, and TLS on top where it was negotiated.
//!
//! Reads and writes are polls over borrowed buffers, so an idle connection owns none. A plain `poll_read` is one `recv`;
//! a short read tells the reactor that the socket is drained, so there is no second call that only finds `EAGAIN`.
//!
//! Knows nothing of messages, of timeouts, or of who may connect.

use std::{
    io,
    net::SocketAddr,
    os::unix::net::UnixStream as StdUnixStream,
    task::{Context, Poll},
};

use tokio::net::{TcpStream, UnixStream};

use super::{
    certificate::{self, TlsInfo},
    socket::{Socket, StdSocket},
    tls_session::TlsSession,
};

/// A connection that is registered with the reactor of the current worker.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    tls: Option<Box<TlsSession>>,
}

/// A client that is connected and idle costs little more than this and its task.
const _: () = assert!(size_of::<Stream>() <= 64);

/// A connection between two workers: it belongs to no reactor and can be sent to another thread.
#[derive(Debug)]
pub struct Portable {
    socket: StdSocket,
    tls: Option<Box<TlsSession>>,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Connected over TCP from (or, on the server leg, to) this address.
    Tcp(SocketAddr),
    /// Connected over a Unix socket; the kernel vouches for the user (`SO_PEERCRED`).
    Unix {
        /// Effective user id of the peer when it connected (or called `listen`).
        uid: u32,
    },
}

impl Stream {
    pub(super) fn with_tls(self, tls: Box<TlsSession>) -> Self {
        Self {
            socket: self.socket,
            tls: Some(tls),
        }
    }

    pub(super) fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Receives into `buf`; 0 is the end of the stream (or an empty `buf`).
    ///
    /// Under TLS it also pushes ciphertext that an earlier write left behind. Never ready with 0 for a record without data.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut self.tls {
            None => self.socket.poll_read(cx, buf),
            Some(tls) => tls.poll_read(&mut self.socket, cx, buf),
        }
    }

    /// Takes what can be sent of `bytes` now, and says how much. Follow with [`Self::poll_flush`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.tls {
            None => self.socket.poll_write(cx, bytes),
            Some(tls) => tls.poll_write(&mut self.socket, cx, bytes),
        }
    }

    /// As [`Self::poll_write`], for several slices in one call (and, under TLS, in one record).
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.tls {
            None => self.socket.poll_write_vectored(cx, slices),
            Some(tls) => tls.poll_write_vectored(&mut self.socket, cx, slices),
        }
    }

    /// Sends ciphertext that a write took and the socket did not. Always ready, and free, without TLS.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => tls.poll_flush(&mut self.socket, cx),
        }
    }

    /// Ends our direction: everything pending is sent, then close_notify under TLS, then FIN.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.tls {
            None => self.socket.poll_shutdown(cx),
            Some(tls) => tls.poll_shutdown(&mut self.socket, cx),
        }
    }

    /// Waits, without a buffer, until something (bytes, end or error) can be read. May be spuriously ready, so the next
    /// step is [`Self::poll_read`].
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tls) = &mut self.tls {
            if tls.is_readable() {
                return Poll::Ready(Ok(()));
            }
            // What is left to send is often the question whose answer is awaited.
            if let Poll::Ready(sent) = tls.poll_flush(&mut self.socket, cx) {
                sent?;
            }
        }
        self.socket.poll_readable(cx)
    }

    /// Whether something (bytes, end or error) has arrived and was not read.
    ///
    /// Asks the reactor first: no system call while it has seen nothing since the last short read. What the kernel has
    /// and the reactor was not told yet is not seen. Under TLS a session ticket or half a record counts too: whether there
    /// is data in it only [`Self::poll_read`] can tell.
    #[must_use]
    pub fn has_pending_input(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.has_buffered_input())
            || self.socket.has_pending_input()
    }

    /// Takes the connection off this worker's reactor.
    pub fn into_portable(self) -> io::Result<Portable> {
        Ok(Portable {
            socket: self.socket.into_std()?,
            tls: self.tls,
        })
    }

    /// The other end. A system call: ask once.
    pub fn peer(&self) -> io::Result<Peer> {
        match &self.socket {
            Socket::Tcp(tcp) => Ok(Peer::Tcp(tcp.peer_addr()?)),
            Socket::Unix(unix) => Ok(Peer::Unix {
                uid: unix.peer_cred()?.uid(),
            }),
        }
    }

    /// Our end; `None` for a Unix socket. A system call: ask once.
    pub fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        match &self.socket {
            Socket::Tcp(tcp) => tcp.local_addr().map(Some),
            Socket::Unix(_) => Ok(None),
        }
    }

    /// Whether this is a Unix socket.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        matches!(self.socket, Socket::Unix(_))
    }

    /// What TLS negotiated; `None` without TLS.
    #[must_use]
    pub fn tls(&self) -> Option<TlsInfo> {
        self.tls.as_ref().map(|tls| TlsInfo::of(tls.state()))
    }

    /// The peer's own certificate, in DER. A client's is there only if it was verified against the configured CA;
    /// a server's was verified as far as its settings ask.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let certificates = self.tls.as_ref()?.state().peer_certificates()?;
        certificates.first().map(AsRef::as_ref)
    }

    /// The `tls-server-end-point` channel binding (RFC 5929): hash of the certificate of whichever side is the TLS
    /// server. `None` without TLS, and for a certificate whose signature algorithm names no hash.
    #[must_use]
    pub fn server_end_point(&self) -> Option<Vec<u8>> {
        let tls = self.tls.as_ref()?;
        if tls.is_tls_server() {
            tls.own_end_point().map(|hash| hash.to_vec())
        } else {
            certificate::end_point_hash(self.peer_certificate()?)
        }
    }
}

#[cfg(test)]
impl Stream {
    pub(super) fn tls_session(&self) -> Option<&TlsSession> {
        self.tls.as_deref()
    }

    /// The bare socket under TLS, for peers that break the rules.
    pub(super) fn without_tls(self) -> Self {
        Self { tls: None, ..self }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self {
            socket: Socket::Tcp(tcp),
            tls: None,
        }
    }
}

impl From<UnixStream> for Stream {
    fn from(unix: UnixStream) -> Self {
        Self {
            socket: Socket::Unix(unix),
            tls: None,
        }
    }
}

impl Portable {
    /// Registers the connection with the reactor of the current runtime.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub fn into_stream(self) -> io::Result<Stream> {
        Ok(Stream {
            socket: self.socket.register()?,
            tls: self.tls,
        })
    }

    /// As [`Stream::has_pending_input`], but asks the kernel: a fresh registration knows nothing yet.
    #[must_use]
    pub fn has_pending_input(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.has_buffered_input())
            || self.socket.has_pending_input()
    }
}

#[cfg(test)]
impl Portable {
    /// The TCP socket, to look at its options.
    pub(super) fn tcp(&self) -> Option<socket2::SockRef<'_>> {
        match &self.socket {
            StdSocket::Tcp(tcp) => Some(tcp.into()),
            StdSocket::Unix(_) => None,
        }
    }
}

/// The socket must be in non-blocking mode.
impl From<std::net::TcpStream> for Portable {
    fn from(tcp: std::net::TcpStream) -> Self {
        Self {
            socket: StdSocket::Tcp(tcp),
            tls: None,
        }
    }
}

/// The socket must be in non-blocking mode.
impl From<StdUnixStream> for Portable {
    fn from(unix: StdUnixStream) -> Self {
        Self {
            socket: StdSocket::Unix(unix),
            tls: None,
        }
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
