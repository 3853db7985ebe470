//! Connecting to a server: over TCP, to each of its addresses in turn, or over a Unix socket.
//!
//! Knows no TLS, no login and no pool; an error says where it wanted to go and what the operating system answered.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::{
    net::{TcpSocket, UnixStream},
    time::{Instant, timeout},
};

use super::{Resolver, Stream, TcpOptions};

/// Where a server listens, as `host` and `port` say it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or an IP address.
    Tcp {
        /// As configured.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// The directory of `.s.PGSQL.<port>`; in the abstract namespace when it begins with `@`.
        directory: PathBuf,
        /// Part of the file's name.
        port: u16,
    },
}

/// How to connect.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions {
    /// Options of TCP sockets.
    pub tcp: TcpOptions,
    /// `server_connect_timeout`, for name and all addresses together: each of several addresses gets an equal part of
    /// what is left, so that the first one cannot swallow it all by its silence.
    pub timeout: Duration,
}

/// A new connection.
#[derive(Debug)]
pub struct Connected {
    /// Nothing has been sent yet.
    pub stream: Stream,
    /// Which of the host's addresses answered; `None` for a Unix socket.
    pub address: Option<SocketAddr>,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The host's name has no address.
    #[error("could not translate host name \"{host}\" to address")]
    Resolve {
        /// As configured.
        host: String,
        /// The resolver's answer.
        #[source]
        source: io::Error,
    },
    /// Every address refused or was silent.
    #[error("could not connect to \"{host}\" ({})", Attempts(attempts))]
    Tcp {
        /// As configured.
        host: String,
        /// Each address with the operating system's answer, in order.
        attempts: Vec<(SocketAddr, io::Error)>,
    },
    /// The socket file is missing, or nobody listens there.
    #[error("could not connect to socket \"{}\"", path.display())]
    Unix {
        /// The socket file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
}

impl Address {
    /// A host that begins with `/` or `@` is the directory of a Unix socket, as everywhere in PostgreSQL.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        if host.starts_with(['/', '@']) {
            Self::Unix {
                directory: host.into(),
                port,
            }
        } else {
            Self::Tcp {
                host: host.to_owned(),
                port,
            }
        }
    }
}

/// `host:port`, or the path of the socket file.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { directory, port } => {
                write!(f, "{}", socket_path(directory, *port).display())
            }
        }
    }
}

/// Connects within `options.timeout`.
///
/// # Cancel safety
///
/// A dropped attempt closes its socket.
pub async fn connect(
    address: &Address,
    resolver: &Resolver,
    options: &ConnectOptions,
) -> Result<Connected, ConnectError> {
    match address {
        Address::Tcp { host, port } => connect_tcp(host, *port, resolver, options).await,
        Address::Unix { directory, port } => {
            let path = socket_path(directory, *port);
            match connect_unix(&path) {
                Ok(stream) => Ok(Connected {
                    stream,
                    address: None,
                }),
                Err(source) => Err(ConnectError::Unix { path, source }),
            }
        }
    }
}

/// Where PostgreSQL, and we, put the socket of a directory and port.
pub(super) fn socket_path(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

/// The kernel's form of a path; `@` stands for the NUL of the abstract namespace.
pub(super) fn unix_address(path: &Path) -> io::Result<SockAddr> {
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => SockAddr::unix(format!("\0{name}")),
        None => SockAddr::unix(path),
    }
}

async fn connect_tcp(
    host: &str,
    port: u16,
    resolver: &Resolver,
    options: &ConnectOptions,
) -> Result<Connected, ConnectError> {
    let deadline = Instant::now() + options.timeout;
    let found = within(options.timeout, resolver.resolve(host)).await;
    let addresses = found.map_err(|source| ConnectError::Resolve {
        host: host.to_owned(),
        source,
    })?;
    let mut attempts = Vec::new();
    for (tried, ip) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let address = SocketAddr::new(*ip, port);
        match within(share, attempt(address, &options.tcp)).await {
            Ok(stream) => {
                return Ok(Connected {
                    stream,
                    address: Some(address),
                });
            }
            Err(error) => attempts.push((address, error)),
        }
    }
    Err(ConnectError::Tcp {
        host: host.to_owned(),
        attempts,
    })
}

async fn attempt(address: SocketAddr, options: &TcpOptions) -> io::Result<Stream> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    options.apply(&socket)?;
    let stream = socket.connect(address).await?;
    // Without a listener, the kernel may pick the port that is called as the caller's own, and connect it to itself.
    if address.ip().is_loopback() && stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream.into())
}

/// A Unix socket connects at once or fails at once; a full backlog is `EAGAIN`.
fn connect_unix(path: &Path) -> io::Result<Stream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&unix_address(path)?)?;
    Ok(UnixStream::from_std(StdUnixStream::from(socket))?.into())
}

async fn within<T>(limit: Duration, act: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(limit, act).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {limit:.1?}"),
        )),
    }
}

struct Attempts<'a>(&'a [(SocketAddr, io::Error)]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (address, error)) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
