//! Listening sockets, TCP and Unix, and accepting from them.
//!
//! Binding needs no runtime, so a start fails before there are any threads; accepting does. What is accepted belongs to
//! the reactor that accepts; another worker gets it as a [`super::Portable`].

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener},
    time::sleep,
};

use super::{
    Stream, TcpOptions,
    socket_file::{SocketFile, SocketFileError, UnixOptions},
};

/// First pause after the process, or the system, ran out of something; doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// `listen_backlog`: connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
    pub backlog: u32,
    /// `so_reuseport`: several processes share the port, each accepting a part.
    pub reuse_port: bool,
    /// Inherited by every accepted TCP connection.
    pub tcp: TcpOptions,
}

/// A socket that clients can connect to; nobody accepts yet.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    address: ListenAddress,
    file: Option<SocketFile>,
}

/// A socket to accept from, on the reactor of one runtime.
#[derive(Debug)]
pub struct Listener {
    socket: TokioListener,
    address: ListenAddress,
    /// Removes the socket file with the listener.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum TokioListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Where clients connect to; `Display` is what the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// With the actual port, also when 0 was asked for.
    Tcp(SocketAddr),
    /// The socket file, or `@name` in the abstract namespace.
    Unix(PathBuf),
}

/// A new client.
#[derive(Debug)]
pub struct Accepted {
    /// With the listener's TCP options.
    pub stream: Stream,
    /// The client's address; `None` over a Unix socket.
    pub peer: Option<SocketAddr>,
}

/// Why nobody can connect.
#[derive(Debug, Error)]
pub enum BindError {
    /// A name in `listen_addr` without an address.
    #[error("cannot translate listen address \"{host}\"")]
    Resolve {
        /// As configured.
        host: String,
        /// The resolver's answer.
        #[source]
        source: io::Error,
    },
    /// The port belongs to somebody else.
    #[error("cannot listen on {address}: the port is in use by another process")]
    InUse {
        /// With the port.
        address: SocketAddr,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// No such address on this machine, no right to the port, …
    #[error("cannot listen on {address}")]
    Tcp {
        /// With the port.
        address: SocketAddr,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The Unix socket.
    #[error("cannot listen on Unix socket \"{}\"", path.display())]
    Unix {
        /// The socket file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SocketFileError,
    },
}

/// Listens on one entry of `listen_addr`: an address, a name, or `*` for all of IPv4 and IPv6.
///
/// A name with several addresses, and `*`, are served as far as the machine has those addresses. With port 0 the kernel
/// chooses one port for all of them.
pub fn bind_tcp(host: &str, port: u16, options: &ListenOptions) -> Result<Vec<Bound>, BindError> {
    let addresses = resolve(host, port).map_err(|source| BindError::Resolve {
        host: host.to_owned(),
        source,
    })?;
    let mut bound: Vec<Bound> = Vec::new();
    let mut absent = None;
    for mut address in addresses {
        if let Some(ListenAddress::Tcp(first)) = bound.first().map(|bound| &bound.address) {
            address.set_port(first.port());
        }
        match bind_address(address, options) {
            Ok(one) => bound.push(one),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                return Err(BindError::InUse { address, source });
            }
            Err(source) if is_absent(&source) => absent = Some((address, source)),
            Err(source) => return Err(BindError::Tcp { address, source }),
        }
    }
    match absent {
        Some((address, source)) if bound.is_empty() => Err(BindError::Tcp { address, source }),
        _ => Ok(bound),
    }
}

/// Listens on the Unix socket of `options.directory` and `port`.
pub fn bind_unix(port: u16, options: &UnixOptions, backlog: u32) -> Result<Bound, BindError> {
    let path = super::connect::socket_path(&options.directory, port);
    match SocketFile::bind(&path, port, options) {
        Ok((socket, file)) => match listen(&socket, backlog) {
            Ok(()) => Ok(Bound {
                socket,
                address: ListenAddress::Unix(path),
                file,
            }),
            Err(source) => Err(BindError::Unix {
                path,
                source: SocketFileError::Bind(source),
            }),
        },
        Err(source) => Err(BindError::Unix { path, source }),
    }
}

impl Bound {
    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Registers with the reactor of the current runtime.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub fn into_listener(self) -> io::Result<Listener> {
        Ok(Listener {
            socket: match self.address {
                ListenAddress::Tcp(_) => {
                    TcpListener::from_std(self.socket.into()).map(TokioListener::Tcp)
                }
                ListenAddress::Unix(_) => {
                    UnixListener::from_std(self.socket.into()).map(TokioListener::Unix)
                }
            }?,
            address: self.address,
            _file: self.file,
        })
    }
}

impl Listener {
    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Gives connections accepted from now on other options. Does nothing for a Unix socket.
    pub fn set_tcp_options(&self, options: &TcpOptions) -> io::Result<()> {
        match &self.socket {
            TokioListener::Tcp(tcp) => options.apply(tcp),
            TokioListener::Unix(_) => Ok(()),
        }
    }

    /// The next client. A client that is gone before it is accepted is nobody's error; when the process runs out of
    /// descriptors or memory, clients wait in the backlog while this pauses and tries again.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no client was taken.
    pub async fn accept(&self) -> Accepted {
        let mut pause = MIN_PAUSE;
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, ?pause, "cannot accept connections");
                    sleep(pause).await;
                    pause = MAX_PAUSE.min(2 * pause);
                }
            }
        }
    }
}

impl TokioListener {
    async fn accept(&self) -> io::Result<Accepted> {
        let (stream, peer) = match self {
            Self::Tcp(tcp) => {
                let (stream, peer) = tcp.accept().await?;
                (Stream::from(stream), Some(peer))
            }
            Self::Unix(unix) => (Stream::from(unix.accept().await?.0), None),
        };
        Ok(Accepted { stream, peer })
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host == "*" {
        return Ok(vec![
            (Ipv4Addr::UNSPECIFIED, port).into(),
            (Ipv6Addr::UNSPECIFIED, port).into(),
        ]);
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host, port).to_socket_addrs()?.collect())
}

fn bind_address(address: SocketAddr, options: &ListenOptions) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart need not wait for the old connections' TIME_WAIT; another listener still keeps the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    options.tcp.apply(&socket)?;
    socket.bind(&SockAddr::from(address))?;
    listen(&socket, options.backlog)?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(Bound {
        socket,
        address: ListenAddress::Tcp(address),
        file: None,
    })
}

fn listen(socket: &Socket, backlog: u32) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// Whether this machine just has no such address (no IPv6, a name that means other hosts too).
fn is_absent(error: &io::Error) -> bool {
    // `socket` answers EAFNOSUPPORT, for which std has no name.
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

#[cfg(target_os = "linux")]
const EAFNOSUPPORT: i32 = 97;
#[cfg(not(target_os = "linux"))]
const EAFNOSUPPORT: i32 = 47;

/// Errors of the connection that was being accepted (accept(2), "Error handling"); all others are ours.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
