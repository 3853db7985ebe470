use std::pin::pin;

use super::{Framed, Message, ReadError, TLS_HANDSHAKE};
use crate::net::{
    HandshakeError, Stream,
    test_pki::Pki,
    test_streams::{unix_pair, write},
};

fn pair() -> (Stream, Framed) {
    let (peer, stream) = unix_pair();
    (peer, Framed::new(stream))
}

/// What a password may be, and nothing else.
fn only_p(tag: u8) -> Option<u32> {
    (tag == b'p').then_some(1000)
}

#[tokio::test]
async fn messages_are_cut_and_the_rest_is_handed_over() {
    let (mut peer, mut framed) = pair();
    write(
        &mut peer,
        b"\0\0\0\x0c\0\x03\0\0abcdp\0\0\0\x06pwp\0\0\0\x04Q\0\0",
    )
    .await;
    assert_eq!(framed.first_byte().await.unwrap(), 0);
    let packet = framed.read_startup(10_000).await.unwrap();
    assert_eq!(&packet[..], b"\0\x03\0\0abcd");
    for body in [&b"pw"[..], b""] {
        let message = framed.read_message(only_p).await.unwrap();
        assert_eq!(
            message,
            Message {
                tag: b'p',
                body: body.into()
            }
        );
    }
    let (_, rest) = framed.into_parts();
    assert_eq!(&rest[..], b"Q\0\0");
}

#[tokio::test]
async fn a_message_may_arrive_byte_by_byte_and_a_read_may_be_dropped() {
    let (mut peer, mut framed) = pair();
    for byte in b"\0\0\0\x0a\x04\xd2\x16\x2f!!".iter().take(9) {
        write(&mut peer, &[*byte]).await;
        let mut reading = pin!(framed.read_startup(10_000));
        tokio::select! {
            biased;
            _ = &mut reading => panic!("half a packet was taken for a whole one"),
            () = tokio::task::yield_now() => {}
        }
    }
    write(&mut peer, b"!").await;
    let packet = framed.read_startup(10_000).await.unwrap();
    assert_eq!(&packet[..], b"\x04\xd2\x16\x2f!!");
}

#[tokio::test]
async fn a_lying_length_is_refused_at_its_last_byte_and_costs_no_memory() {
    for (sent, expected) in [
        (&b"\x7f\xff\xff\xff"[..], 0x7fff_ffff),
        (b"\xff\xff\xff\xff", u32::MAX),
        (b"\0\0\x27\x11", 10_001),
        (b"\0\0\0\x07", 7),
        (b"\0\0\0\0", 0),
    ] {
        let (mut peer, mut framed) = pair();
        write(&mut peer, sent).await;
        drop(peer);
        let refused = framed.read_startup(10_000).await;
        assert!(
            matches!(refused, Err(ReadError::Length { length, limit: 10_000 }) if length == expected)
        );
    }
    for length in [0_u32, 3, 1001, 0x8000_0000] {
        let (mut peer, mut framed) = pair();
        write(&mut peer, b"p").await;
        write(&mut peer, &length.to_be_bytes()).await;
        drop(peer);
        let refused = framed.read_message(only_p).await;
        assert!(matches!(
            refused,
            Err(ReadError::Length { limit: 1000, .. })
        ));
    }
    // The largest that is allowed, of which only a little arrives.
    let (mut peer, mut framed) = pair();
    write(&mut peer, b"p\x7f\0\0\0little").await;
    drop(peer);
    let cut = framed.read_message(|_| Some(u32::MAX)).await;
    assert!(matches!(cut, Err(ReadError::Cut)));
    assert!(framed.received.capacity() < 2 * super::CHUNK);
}

#[tokio::test]
async fn an_unexpected_message_is_refused_by_its_first_byte() {
    let (mut peer, mut framed) = pair();
    write(&mut peer, b"Q").await;
    let refused = framed.read_message(only_p).await;
    assert!(matches!(refused, Err(ReadError::Unexpected { tag: b'Q' })));
}

#[tokio::test]
async fn the_end_is_told_from_a_cut() {
    let (peer, mut framed) = pair();
    drop(peer);
    assert!(matches!(framed.first_byte().await, Err(ReadError::Closed)));

    let (mut peer, mut framed) = pair();
    write(&mut peer, b"\0\0").await;
    drop(peer);
    let cut = framed.read_startup(100).await;
    assert!(matches!(cut, Err(ReadError::Cut)));
}

#[tokio::test]
async fn tls_takes_over_only_where_nothing_was_smuggled_in() {
    let pki = Pki::new();
    let (acceptor, connector) = (pki.acceptor(), pki.connector());
    let request = b"\0\0\0\x08\x04\xd2\x16\x2f";

    // The whole of libpq's negotiation.
    let (peer, mut framed) = pair();
    let client = async {
        let mut client = Framed::new(peer);
        client.write(request).await.unwrap();
        assert_eq!(client.read_answer().await.unwrap(), b'S');
        let mut client = client.connect_tls(&connector, "localhost").await.unwrap();
        client.write(b"\0\0\0\x08\0\x03\0\0").await.unwrap();
    };
    let server = async {
        assert_eq!(
            &framed.read_startup(10_000).await.unwrap()[..],
            &request[4..]
        );
        framed.write(b"S").await.unwrap();
        let mut framed = framed.accept_tls(&acceptor).await.unwrap();
        let packet = framed.read_startup(10_000).await.unwrap();
        assert_eq!(&packet[..], b"\0\x03\0\0");
        assert!(framed.stream().tls().is_some());
    };
    tokio::join!(client, server);

    // A startup packet in plaintext behind the request (CVE-2021-3935).
    let (mut peer, mut framed) = pair();
    write(&mut peer, b"\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x08\0\x03\0\0").await;
    framed.read_startup(10_000).await.unwrap();
    let refused = framed.accept_tls(&acceptor).await;
    assert!(matches!(
        refused,
        Err(HandshakeError::PlaintextAfterRequest)
    ));

    // The server leg never takes more than the answer (CVE-2021-43767).
    let (mut peer, mut framed) = pair();
    write(&mut peer, b"SE\0\0\0\x05!").await;
    assert_eq!(framed.read_answer().await.unwrap(), b'S');
    let refused = framed.connect_tls(&connector, "localhost").await;
    assert!(matches!(refused, Err(HandshakeError::Tls(_))));
}

#[tokio::test]
async fn direct_tls_is_recognised_by_its_first_byte() {
    let pki = Pki::new();
    let (acceptor, connector) = (pki.acceptor(), pki.connector());
    let (peer, mut framed) = pair();
    let client = Framed::new(peer).connect_direct_tls(&connector, "localhost");
    let server = async {
        assert_eq!(framed.first_byte().await.unwrap(), TLS_HANDSHAKE);
        framed.accept_direct_tls(&acceptor).await
    };
    let (client, server) = tokio::join!(client, server);
    assert!(client.is_ok() && server.is_ok());
}
