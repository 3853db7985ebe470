//! One connection: a socket, and TLS on top where it was negotiated.
//!
//! Reads and writes are polls over borrowed buffers, so an idle connection owns none. A plain `poll_read` is one `recv`;
//! a short read tells the reactor that the socket is drained, so there is no second call that only finds `EAGAIN`.
//!
//! Knows nothing of messages, of timeouts, or of who may connect.

use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// A connection that is registered with the reactor of the current worker.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
}

/// A connection between two workers: it belongs to no reactor and can be sent to another thread.
#[derive(Debug)]
pub struct Portable {
    socket: StdSocket,
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

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

#[derive(Debug)]
enum StdSocket {
    Tcp(std::net::TcpStream),
    Unix(StdUnixStream),
}

impl Stream {
    /// Receives into `buf`; 0 is the end of the stream (or an empty `buf`).
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_read(cx, buf)
    }

    /// Sends what the socket takes of `bytes` now, and says how much.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, bytes)
    }

    /// As [`Self::poll_write`], for several slices in one call.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write_vectored(cx, slices)
    }

    /// Sends ciphertext that `poll_write` accepted but the socket did not take yet. Always ready without TLS.
    pub fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends our direction: everything pending is sent, then close_notify under TLS, then FIN.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_shutdown(cx)
    }

    /// Waits, without a buffer, until something (bytes, end or error) can be read. May be spuriously ready.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.socket {
            Socket::Tcp(tcp) => tcp.poll_read_ready(cx),
            Socket::Unix(unix) => unix.poll_read_ready(cx),
        }
    }

    /// Whether something (bytes, end or error) has arrived and was not read.
    ///
    /// Asks the reactor first: no system call while it has seen nothing since the last short read. What the kernel has
    /// and the reactor was not told yet is not seen.
    pub fn has_pending_input(&mut self) -> bool {
        self.socket.has_pending_input()
    }

    /// Takes the connection off this worker's reactor.
    pub fn into_portable(self) -> io::Result<Portable> {
        Ok(Portable {
            socket: match self.socket {
                Socket::Tcp(tcp) => StdSocket::Tcp(tcp.into_std()?),
                Socket::Unix(unix) => StdSocket::Unix(unix.into_std()?),
            },
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
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self {
            socket: Socket::Tcp(tcp),
        }
    }
}

impl From<UnixStream> for Stream {
    fn from(unix: UnixStream) -> Self {
        Self {
            socket: Socket::Unix(unix),
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
            socket: match self.socket {
                StdSocket::Tcp(tcp) => Socket::Tcp(TcpStream::from_std(tcp)?),
                StdSocket::Unix(unix) => Socket::Unix(UnixStream::from_std(unix)?),
            },
        })
    }

    /// As [`Stream::has_pending_input`], but asks the kernel: a fresh registration knows nothing yet.
    #[must_use]
    pub fn has_pending_input(&self) -> bool {
        match &self.socket {
            StdSocket::Tcp(tcp) => is_readable(peek(tcp.as_fd())),
            StdSocket::Unix(unix) => is_readable(peek(unix.as_fd())),
        }
    }
}

/// The sockets must be in non-blocking mode.
impl From<std::net::TcpStream> for Portable {
    fn from(tcp: std::net::TcpStream) -> Self {
        Self {
            socket: StdSocket::Tcp(tcp),
        }
    }
}

/// The sockets must be in non-blocking mode.
impl From<StdUnixStream> for Portable {
    fn from(unix: StdUnixStream) -> Self {
        Self {
            socket: StdSocket::Unix(unix),
        }
    }
}

impl Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        let read = match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, &mut buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, &mut buf),
        };
        read.map_ok(|()| buf.filled().len())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, slices),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }

    /// The peek costs a call only when the reactor says "readable", which may be stale: a read that filled its buffer
    /// leaves the flag on.
    fn has_pending_input(&self) -> bool {
        is_readable(match self {
            Self::Tcp(tcp) => tcp.try_io(Interest::READABLE, || peek(tcp.as_fd())),
            Self::Unix(unix) => unix.try_io(Interest::READABLE, || peek(unix.as_fd())),
        })
    }
}

fn peek(socket: BorrowedFd<'_>) -> io::Result<usize> {
    SockRef::from(&socket).peek(&mut [MaybeUninit::uninit()])
}

fn is_readable(peeked: io::Result<usize>) -> bool {
    !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
