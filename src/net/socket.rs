//! A socket of either family, on a reactor or off it.
//!
//! One enum instead of a trait object: a stream stays a few words, and the calls of the hot path are direct.

use std::{
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::BufMut;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, Interest},
    net::{TcpStream, UnixStream},
    task::coop,
};

/// Registered with the reactor of the current worker.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Non-blocking, registered nowhere.
#[derive(Debug)]
pub(super) enum StdSocket {
    Tcp(std::net::TcpStream),
    Unix(StdUnixStream),
}

impl Socket {
    pub(super) fn into_std(self) -> io::Result<StdSocket> {
        match self {
            Self::Tcp(tcp) => tcp.into_std().map(StdSocket::Tcp),
            Self::Unix(unix) => unix.into_std().map(StdSocket::Unix),
        }
    }

    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Unix(unix) => unix.poll_read_ready(cx),
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // Only who fills its buffer may read on at once, and so must give others their turn: behind any other read the reactor
        // has to find the socket readable again.
        if !coop::has_budget_remaining() && coop::poll_proceed(cx).is_pending() {
            return Poll::Pending;
        }
        let wanted = buf.len();
        let read = ready!(self.poll_call(cx, Interest::READABLE, wanted, |socket| {
            let (read, _) = recv(socket, &mut *buf, RecvFlags::empty())?;
            Ok(read)
        }))?;
        if read == wanted
            && let Poll::Ready(turn) = coop::poll_proceed(cx)
        {
            turn.made_progress();
        }
        Poll::Ready(Ok(read))
    }

    /// Appends up to `wanted` bytes to `bytes`, without clearing memory first.
    pub(super) fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Vec<u8>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        bytes.reserve_exact(wanted);
        let mut bytes = bytes.limit(wanted);
        match self {
            Self::Tcp(tcp) => pin!(tcp.read_buf(&mut bytes)).poll(cx),
            Self::Unix(unix) => pin!(unix.read_buf(&mut bytes)).poll(cx),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_call(cx, Interest::WRITABLE, bytes.len(), |socket| {
            Ok(send(socket, bytes, SendFlags::NOSIGNAL)?)
        })
    }

    /// A system call that moves up to `wanted` bytes, as soon as it can move any. The reactor is asked only where there is
    /// nothing to move: its polls cost 100 instructions, four times a transaction.
    ///
    /// Not by libc's function: that one can be cancelled, which in a process of several threads costs atomic operations before
    /// and behind each call, 1 % of what pgbench's transactions cost us. What moves fewer bytes than wanted has found the
    /// socket empty, or full: the reactor is told so, as tokio's own reads and writes do.
    fn poll_call(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        wanted: usize,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut moved = 0;
            let mut attempt = |socket| {
                moved = call(socket)?;
                if 0 < moved && moved < wanted {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(moved)
            };
            let outcome = match self {
                Self::Tcp(tcp) => tcp.try_io(interest, || attempt(tcp.as_fd())),
                Self::Unix(unix) => unix.try_io(interest, || attempt(unix.as_fd())),
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if moved > 0 {
                        return Poll::Ready(Ok(moved));
                    }
                }
                outcome => return Poll::Ready(outcome),
            }
            ready!(match (self, interest.is_readable()) {
                (Self::Tcp(tcp), true) => tcp.poll_read_ready(cx),
                (Self::Tcp(tcp), false) => tcp.poll_write_ready(cx),
                (Self::Unix(unix), true) => unix.poll_read_ready(cx),
                (Self::Unix(unix), false) => unix.poll_write_ready(cx),
            })?;
        }
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, slices),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }

    /// The peek costs a call only when the reactor says "readable", which may be stale: a read that filled its buffer
    /// leaves the flag on.
    pub(super) fn has_pending_input(&self) -> bool {
        is_readable(match self {
            Self::Tcp(tcp) => tcp.try_io(Interest::READABLE, || peek(tcp.as_fd())),
            Self::Unix(unix) => unix.try_io(Interest::READABLE, || peek(unix.as_fd())),
        })
    }
}

impl StdSocket {
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub(super) fn register(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(tcp) => TcpStream::from_std(tcp).map(Socket::Tcp),
            Self::Unix(unix) => UnixStream::from_std(unix).map(Socket::Unix),
        }
    }

    pub(super) fn has_pending_input(&self) -> bool {
        is_readable(match self {
            Self::Tcp(tcp) => peek(tcp.as_fd()),
            Self::Unix(unix) => peek(unix.as_fd()),
        })
    }
}

fn peek(socket: BorrowedFd<'_>) -> io::Result<usize> {
    SockRef::from(&socket).peek(&mut [MaybeUninit::uninit()])
}

fn is_readable(peeked: io::Result<usize>) -> bool {
    !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
