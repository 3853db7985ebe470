//! The only sockets of the program: TCP, Unix and TLS, in both directions.
//!
//! A [`Stream`] is one connection on one worker's reactor; a [`Portable`] is the same connection between two workers.
//! Nothing here knows what a message means: the relay reads and writes bytes, and the handshake phases read whole messages
//! under a cap. TLS is an adapter over rustls that keeps no buffer while a connection is idle.

mod options;
mod stream;

pub use options::{Keepalive, TcpOptions};
pub use stream::{Peer, Portable, Stream};
