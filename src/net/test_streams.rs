//! Pairs of connected streams, and reads and writes in one line, for the tests of `net`.

use std::{future::poll_fn, net::Ipv4Addr};

use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::{Acceptor, Connector, HandshakeError, Stream, accept_tls, connect_tls};

pub(super) async fn tcp_pair() -> (Stream, Stream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    (ours.unwrap().into(), theirs.unwrap().0.into())
}

pub(super) fn unix_pair() -> (Stream, Stream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours.into(), theirs.into())
}

/// (TLS client, TLS server) over `pair`, or both errors.
pub(super) async fn tls_over(
    pair: (Stream, Stream),
    connector: &Connector,
    acceptor: &Acceptor,
) -> (
    Result<Stream, HandshakeError>,
    Result<Stream, HandshakeError>,
) {
    tokio::join!(
        connect_tls(pair.0, connector, "localhost"),
        accept_tls(pair.1, &[], acceptor)
    )
}

/// (TLS client, TLS server) with the default settings of a fresh authority, nothing left unread on either side.
///
/// Over a Unix socket, which delivers at once what was written.
pub(super) async fn tls_pair() -> (Stream, Stream) {
    let pki = super::test_pki::Pki::new();
    let (client, server) = tls_over(unix_pair(), &pki.connector(), &pki.acceptor()).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    write(&mut server, b".").await;
    read_exact(&mut client, 1).await;
    (client, server)
}

pub(super) async fn read(stream: &mut Stream, buf: &mut [u8]) -> usize {
    poll_fn(|cx| stream.poll_read(cx, buf)).await.unwrap()
}

pub(super) async fn read_exact(stream: &mut Stream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut filled = 0;
    while filled < count {
        let n = read(stream, &mut bytes[filled..]).await;
        assert!(n > 0, "the stream ended after {filled} of {count} bytes");
        filled += n;
    }
    bytes
}

pub(super) async fn write(stream: &mut Stream, bytes: &[u8]) {
    let mut sent = 0;
    while sent < bytes.len() {
        sent += poll_fn(|cx| stream.poll_write(cx, &bytes[sent..]))
            .await
            .unwrap();
    }
    poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
}
