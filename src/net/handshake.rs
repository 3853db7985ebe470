//! The TLS handshakes, which turn a plain [`Stream`] into an encrypted one.
//!
//! No byte that arrived in plaintext is ever taken for one that arrived under TLS: whoever sits between the peers could
//! have put it there (CVE-2021-23214, CVE-2021-3935). Timeouts are the caller's.
//!
//! # Cancel safety
//!
//! A handshake that is dropped half-way closes its connection; there is nothing else to clean up.

use std::{future::poll_fn, io};

use thiserror::Error;

use super::{
    stream::Stream,
    tls::{ALPN, Acceptor, Connector},
    tls_session::TlsSession,
};

/// Why there is no encrypted connection.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The client sent more after its SSLRequest than it could before our answer.
    #[error("received unencrypted data after SSL request")]
    PlaintextAfterRequest,
    /// Direct TLS without the ALPN name that tells PostgreSQL from any other protocol.
    #[error("direct SSL connection without ALPN protocol \"postgresql\"")]
    NoAlpn,
    /// `verify-full` of something that is neither a DNS name nor an address.
    #[error("\"{host}\" is not a name that a certificate can be verified against")]
    Name {
        /// What was to be connected.
        host: String,
    },
    /// The peer closed, or the socket failed, in the middle.
    #[error("connection lost during the TLS handshake")]
    Lost(#[source] io::Error),
    /// Its certificate, which is to be verified, is of X.509 version 1: what `openssl x509 -req` makes without extensions.
    #[error(
        "the other side's certificate is of X.509 version 1, which cannot be verified: sign it with extensions \
         (openssl x509 -req -extfile), that makes version 3"
    )]
    CertificateVersion,
    /// TLS itself failed: no common version, a certificate that was refused (by either side), garbage.
    #[error("TLS handshake failed")]
    Tls(#[source] rustls::Error),
}

/// The server's side, after `S` was answered to an SSLRequest. `early` is what had been read behind the request:
/// anything at all refuses the connection.
pub async fn accept_tls(
    stream: Stream,
    early: &[u8],
    acceptor: &Acceptor,
) -> Result<Stream, HandshakeError> {
    if !early.is_empty() {
        return Err(HandshakeError::PlaintextAfterRequest);
    }
    let session = acceptor.session().map_err(HandshakeError::Tls)?;
    handshake(stream, session, false).await
}

/// The server's side of direct TLS: the client's first byte was 0x16, and `received` is all that was read so far.
pub async fn accept_direct_tls(
    stream: Stream,
    received: &[u8],
    acceptor: &Acceptor,
) -> Result<Stream, HandshakeError> {
    let mut session = acceptor.session().map_err(HandshakeError::Tls)?;
    session.feed(received);
    handshake(stream, session, true).await
}

/// The client's side, after the server answered `S`; only that byte may have been read.
pub async fn connect_tls(
    stream: Stream,
    connector: &Connector,
    host: &str,
) -> Result<Stream, HandshakeError> {
    connect(stream, connector, host, false).await
}

/// The client's side of direct TLS (PostgreSQL 17's `sslnegotiation=direct`): the first thing on the connection.
pub async fn connect_direct_tls(
    stream: Stream,
    connector: &Connector,
    host: &str,
) -> Result<Stream, HandshakeError> {
    connect(stream, connector, host, true).await
}

async fn connect(
    stream: Stream,
    connector: &Connector,
    host: &str,
    direct: bool,
) -> Result<Stream, HandshakeError> {
    let name = connector.server_name(host);
    let name = name.ok_or_else(|| HandshakeError::Name {
        host: host.to_owned(),
    })?;
    let session = connector.session(name).map_err(HandshakeError::Tls)?;
    handshake(stream, session, direct).await
}

async fn handshake(
    mut stream: Stream,
    mut session: Box<TlsSession>,
    direct: bool,
) -> Result<Stream, HandshakeError> {
    let socket = stream.socket_mut();
    poll_fn(|cx| session.poll_handshake(socket, cx))
        .await
        .map_err(explain)?;
    if direct && session.state().alpn_protocol() != Some(ALPN) {
        return Err(HandshakeError::NoAlpn);
    }
    Ok(stream.with_tls(session))
}

/// rustls' errors travel inside of `io::Error` through the session.
fn explain(error: io::Error) -> HandshakeError {
    match error.downcast::<rustls::Error>() {
        // The verifier's own error is of no type that can be named here.
        Ok(tls) if format!("{tls:?}").contains("UnsupportedCertVersion") => {
            HandshakeError::CertificateVersion
        }
        Ok(tls) => HandshakeError::Tls(tls),
        Err(lost) => HandshakeError::Lost(lost),
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
