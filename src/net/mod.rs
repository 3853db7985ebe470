//! The only sockets of the program: TCP, Unix and TLS, in both directions.
//!
//! A [`Stream`] is one connection on one worker's reactor; a [`Portable`] is the same connection between two workers.
//! Nothing here knows what a message means: the relay reads and writes bytes, and the handshake phases read whole messages
//! under a cap. TLS is an adapter over rustls that keeps no buffer while a connection is idle.

mod certificate;
mod connect;
mod framed;
mod handshake;
mod listener;
mod options;
mod resolve;
mod socket;
mod socket_file;
mod stream;
#[cfg(test)]
mod test_pki;
#[cfg(test)]
mod test_streams;
mod tls;
mod tls_records;
mod tls_session;
mod verify;

pub use certificate::{TlsInfo, common_name};
pub use connect::{Address, ConnectError, ConnectOptions, Connected, connect};
pub use framed::{Framed, Message, ReadError, TLS_HANDSHAKE};
pub use handshake::{
    HandshakeError, accept_direct_tls, accept_tls, connect_direct_tls, connect_tls,
};
pub use listener::{
    Accepted, BindError, Bound, ListenAddress, ListenOptions, Listener, bind_tcp, bind_unix,
};
pub use options::{Keepalive, TcpOptions};
pub use resolve::{KnownHost, Resolver};
pub use socket_file::{SocketFileError, UnixOptions};
pub use stream::{Peer, Portable, Stream};
pub use tls::{
    AcceptTls, Acceptor, ConnectTls, Connector, Identity, PemFile, Roots, TlsConfigError,
    TlsVersions,
};
pub use verify::Verify;
