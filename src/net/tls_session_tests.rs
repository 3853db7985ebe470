use std::{
    future::{Future, poll_fn},
    io::{ErrorKind, IoSlice, Read, Write},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::net::{
    Stream, accept_tls, connect_tls,
    test_pki::Pki,
    test_streams::{read, read_exact, tcp_pair, tls_pair, unix_pair, write},
};

/// Polls once with a waker that does nothing.
fn once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

/// Bytes that show at which place they were taken from.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap())
        .collect()
}

/// A TLS client of rustls' own buffered kind, on a blocking socket in a thread.
fn foreign_client(
    pki: &Pki,
    socket: std::os::unix::net::UnixStream,
    talk: impl FnOnce(&mut rustls::Stream<'_, ClientConnection, std::os::unix::net::UnixStream>)
    + Send
    + 'static,
) -> std::thread::JoinHandle<()> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(pki.ca_file()).unwrap();
    roots.add(authority).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    std::thread::spawn(move || {
        let mut socket = socket;
        let name = "localhost".try_into().unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        talk(&mut rustls::Stream::new(&mut connection, &mut socket));
    })
}

/// Our end as a stream, the other for [`foreign_client`].
fn half_foreign_pair() -> (Stream, std::os::unix::net::UnixStream) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let ours = tokio::net::UnixStream::from_std(ours).unwrap();
    (ours.into(), theirs)
}

/// Handshake and data through a middle man that cuts every record.
#[tokio::test]
async fn records_may_arrive_in_any_pieces() {
    let pki = Pki::new();
    let (connector, acceptor) = (pki.connector(), pki.acceptor());
    for chunk in [1, 2, 7, 1400] {
        let (client, mut left) = tcp_pair().await;
        let (mut right, server) = unix_pair();
        let (mut forth, mut back) = (Vec::new(), Vec::new());
        let through = poll_fn(|cx| {
            let ended = pass(&mut left, &mut forth, &mut right, chunk, cx)
                | pass(&mut right, &mut back, &mut left, chunk, cx);
            if ended {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        let talk = async {
            let (client, server) = tokio::join!(
                connect_tls(client, &connector, "localhost"),
                accept_tls(server, &[], &acceptor)
            );
            let (mut client, mut server) = (client.unwrap(), server.unwrap());
            let sent = pattern(50_000);
            let (_, received) = tokio::join!(
                write(&mut client, &sent),
                read_exact(&mut server, sent.len())
            );
            assert!(received == sent);
            let (_, received) = tokio::join!(
                write(&mut server, &sent),
                read_exact(&mut client, sent.len())
            );
            assert!(received == sent);
        };
        tokio::join!(through, talk);
    }
}

/// Moves what is there in pieces of `chunk` bytes; true at the end of `from`.
fn pass(
    from: &mut Stream,
    held: &mut Vec<u8>,
    to: &mut Stream,
    chunk: usize,
    cx: &mut Context<'_>,
) -> bool {
    let mut buf = vec![0; chunk];
    loop {
        while !held.is_empty() {
            match to.poll_write(cx, held) {
                Poll::Pending => return false,
                Poll::Ready(sent) => drop(held.drain(..sent.unwrap())),
            }
        }
        match from.poll_read(cx, &mut buf) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0) | Err(_)) => return true,
            Poll::Ready(Ok(n)) => held.extend_from_slice(&buf[..n]),
        }
    }
}

#[tokio::test]
async fn many_records_of_one_read_are_all_delivered_without_a_stall() {
    let (mut client, mut server) = tls_pair().await;
    for n in 0..100_u8 {
        write(&mut client, &[n]).await;
    }
    poll_fn(|cx| server.poll_readable(cx)).await.unwrap();
    // The first read takes all hundred records from the socket; nothing more will ever arrive there.
    let mut first = [0; 3];
    assert_eq!(read(&mut server, &mut first).await, 3);
    for expected in 3..100 {
        assert!(server.has_pending_input());
        assert!(once(|cx| server.poll_readable(cx)).is_ready());
        let mut one = [0];
        let polled = once(|cx| server.poll_read(cx, &mut one));
        assert!(matches!(polled, Poll::Ready(Ok(1))), "record {expected}");
        assert_eq!(one[0], expected);
    }
    assert!(!server.has_pending_input());
    assert!(once(|cx| server.poll_read(cx, &mut first)).is_pending());
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back() {
    let (mut client, mut server) = tls_pair().await;
    let block = pattern(1 << 20);
    let mut taken = 0;
    while let Poll::Ready(sent) = once(|cx| client.poll_write(cx, &block)) {
        taken += sent.unwrap();
        assert!(taken < 1 << 28, "nothing holds the writer back");
    }
    let tls = client.tls_session().unwrap();
    assert!(
        tls.sealed_out.rest().len()
            <= super::MAX_WRITE + 5 * crate::net::tls_records::RECORD_OVERHEAD
    );
    assert!(once(|cx| client.poll_flush(cx)).is_pending());

    // Reading on the other side lets the writer go on; every byte arrives once.
    let received = async {
        let received = read_exact(&mut server, taken).await;
        let expected = block.iter().cycle().take(super::MAX_WRITE);
        assert!(received.iter().take(super::MAX_WRITE).eq(expected));
    };
    let flushed = poll_fn(|cx| client.poll_flush(cx));
    let (_, flushed) = tokio::join!(received, flushed);
    flushed.unwrap();
    assert_eq!(client.tls_session().unwrap().sealed_out.bytes.capacity(), 0);
}

#[tokio::test]
async fn both_directions_at_once_lose_nothing() {
    let (mut client, mut server) = tls_pair().await;
    let sent = pattern(5_000_000);
    // Each side reads into a large buffer while its own ciphertext is stuck: reading has to push it.
    async fn exchange(stream: &mut Stream, sent: &[u8]) -> Vec<u8> {
        let (mut at, mut received) = (0, Vec::new());
        let mut buf = vec![0; 65536];
        poll_fn(|cx| {
            loop {
                let mut moved = false;
                if at < sent.len()
                    && let Poll::Ready(taken) = stream.poll_write(cx, &sent[at..])
                {
                    at += taken.unwrap();
                    moved = true;
                }
                if let Poll::Ready(n) = stream.poll_read(cx, &mut buf) {
                    let n = n.unwrap();
                    assert!(n > 0);
                    received.extend_from_slice(&buf[..n]);
                    moved = true;
                }
                let flushed = stream.poll_flush(cx).is_ready();
                if at == sent.len() && received.len() == sent.len() && flushed {
                    return Poll::Ready(());
                }
                if !moved {
                    return Poll::Pending;
                }
            }
        })
        .await;
        received
    }
    let (a, b) = tokio::join!(exchange(&mut client, &sent), exchange(&mut server, &sent));
    assert!(a == sent && b == sent);
}

/// The clock is virtual: it runs only when nothing else can.
#[tokio::test(start_paused = true)]
async fn a_read_alone_pushes_what_a_write_left_behind() {
    let (mut client, mut server) = tls_pair().await;
    let block = pattern(1 << 20);
    let mut taken = 0;
    while let Poll::Ready(sent) = once(|cx| client.poll_write(cx, &block)) {
        taken += sent.unwrap();
    }
    let question = async {
        // No flush, no further write: only waiting for the answer.
        let mut answer = [0; 6];
        assert_eq!(read(&mut client, &mut answer).await, 6);
    };
    let answer = async {
        read_exact(&mut server, taken).await;
        write(&mut server, b"answer").await;
    };
    let all = async { tokio::join!(question, answer) };
    tokio::time::timeout(Duration::from_secs(3600), all)
        .await
        .expect("ciphertext is stuck");
}

#[tokio::test]
async fn slices_are_sent_as_one_record() {
    let (mut client, mut server) = tls_pair().await;
    let slices = [
        IoSlice::new(b"Bind"),
        IoSlice::new(b"Execute"),
        IoSlice::new(b"Sync"),
    ];
    let sent = poll_fn(|cx| client.poll_write_vectored(cx, &slices)).await;
    assert_eq!(sent.unwrap(), 15);
    let mut raw = [0; 256];
    poll_fn(|cx| server.poll_readable(cx)).await.unwrap();
    let n = read(&mut server, &mut raw).await;
    assert_eq!(&raw[..n], b"BindExecuteSync");
    assert_eq!(
        poll_fn(|cx| client.poll_write_vectored(cx, &[]))
            .await
            .unwrap(),
        0
    );

    let big = pattern(100_000);
    let slices = [IoSlice::new(&big), IoSlice::new(b"tail")];
    let sent = poll_fn(|cx| client.poll_write_vectored(cx, &slices)).await;
    let sent = sent.unwrap();
    assert!(read_exact(&mut server, sent).await == big[..sent]);
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut client, mut server) = tls_pair().await;
    write(&mut client, &pattern(100_000)).await;
    read_exact(&mut server, 100_000).await;
    assert!(once(|cx| server.poll_read(cx, &mut [0; 65536])).is_pending());
    for stream in [&client, &server] {
        let tls = stream.tls_session().unwrap();
        assert_eq!(tls.sealed_in.capacity(), 0);
        assert_eq!(tls.opened.bytes.capacity(), 0);
        assert_eq!(tls.sealed_out.bytes.capacity(), 0);
    }
}

#[tokio::test]
async fn half_a_record_and_silence_hold_no_more_than_was_sent() {
    let (client, mut server) = tls_pair().await;
    let mut raw = client.without_tls();
    write(&mut raw, &[0x17, 3, 3, 0x40, 0x11, 1, 2, 3, 4]).await;
    poll_fn(|cx| server.poll_readable(cx)).await.unwrap();
    assert!(once(|cx| server.poll_read(cx, &mut [0; 65536])).is_pending());
    assert!(server.has_pending_input(), "something unread is here");
    assert!(server.tls_session().unwrap().sealed_in.capacity() <= 64);

    // The end within a record is not the end of the conversation.
    drop(raw);
    let cut = poll_fn(|cx| server.poll_read(cx, &mut [0; 16])).await;
    assert_eq!(cut.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_end() {
    let (mut client, mut server) = tls_pair().await;
    write(&mut client, b"last").await;
    drop(client);
    assert_eq!(read_exact(&mut server, 4).await, b"last");
    for _ in 0..2 {
        assert_eq!(read(&mut server, &mut [0; 16]).await, 0);
    }
}

#[tokio::test]
async fn data_before_a_forged_record_is_delivered_and_the_forger_is_told() {
    let (mut client, mut server) = tls_pair().await;
    write(&mut client, b"true").await;
    let mut raw = client.without_tls();
    let mut forged = vec![0x17, 3, 3, 0, 40];
    forged.extend_from_slice(&[7; 40]);
    write(&mut raw, &forged).await;

    assert_eq!(read_exact(&mut server, 4).await, b"true");
    for _ in 0..2 {
        let refused = poll_fn(|cx| server.poll_read(cx, &mut [0; 16])).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidData);
    }
    let written = poll_fn(|cx| server.poll_write(cx, b"more")).await;
    assert!(written.is_err());
    assert_eq!(read(&mut raw, &mut [0; 64]).await, 24, "one sealed alert");
}

#[tokio::test]
async fn garbage_of_any_kind_ends_the_connection() {
    for garbage in [
        &b"\x17\x03\x03\xff\xff"[..],
        b"\x99\x03\x03\x00\x01x",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ] {
        let (client, mut server) = tls_pair().await;
        let mut raw = client.without_tls();
        write(&mut raw, garbage).await;
        let refused = poll_fn(|cx| server.poll_read(cx, &mut [0; 16])).await;
        assert!(refused.is_err(), "{garbage:?}");
    }
}

#[tokio::test]
async fn keys_are_updated_under_way() {
    let pki = Pki::new();
    let (server, socket) = half_foreign_pair();
    let peer = foreign_client(&pki, socket, |tls| {
        for _ in 0..3 {
            tls.write_all(b"before").unwrap();
            tls.conn.refresh_traffic_keys().unwrap();
            tls.write_all(b"after").unwrap();
            let mut answer = [0; 6];
            tls.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"answer");
        }
        tls.conn.send_close_notify();
        tls.flush().unwrap();
        // Data behind close_notify is not data.
        tls.sock.write_all(b"\x17\x03\x03\x00\x20junk").unwrap();
        assert_eq!(tls.read(&mut [0; 8]).unwrap(), 0);
    });
    let mut server = accept_tls(server, &[], &pki.acceptor()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(read_exact(&mut server, 11).await, b"beforeafter");
        write(&mut server, b"answer").await;
    }
    assert_eq!(read(&mut server, &mut [0; 16]).await, 0);
    assert_eq!(read(&mut server, &mut [0; 16]).await, 0);
    poll_fn(|cx| server.poll_shutdown(cx)).await.unwrap();
    peer.join().unwrap();
}

#[test]
fn a_connection_moves_between_runtimes_in_mid_session() {
    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap()
    }
    let here = runtime();
    let (mut client, server) = here.block_on(async {
        let (mut client, mut server) = tls_pair().await;
        write(&mut client, b"one").await;
        write(&mut client, b"two").await;
        // "two" is decrypted already and travels with the connection.
        assert_eq!(read(&mut server, &mut [0; 3]).await, 3);
        (client, server.into_portable().unwrap())
    });
    assert!(server.has_pending_input());
    let there = std::thread::spawn(move || {
        runtime().block_on(async {
            let mut server = server.into_stream().unwrap();
            assert_eq!(read_exact(&mut server, 8).await, b"twothree");
            write(&mut server, &pattern(300_000)).await;
            server.into_portable().unwrap()
        })
    });
    here.block_on(async {
        write(&mut client, b"three").await;
        assert!(read_exact(&mut client, 300_000).await == pattern(300_000));
    });
    let back = there.join().unwrap();
    assert!(!back.has_pending_input());
    here.block_on(async {
        let mut server = back.into_stream().unwrap();
        write(&mut client, b"home").await;
        assert_eq!(read_exact(&mut server, 4).await, b"home");
    });
}

#[tokio::test]
async fn shutdown_waits_for_pending_ciphertext() {
    let (mut client, mut server) = tls_pair().await;
    let block = pattern(1 << 20);
    let mut taken = 0;
    while let Poll::Ready(sent) = once(|cx| client.poll_write(cx, &block)) {
        taken += sent.unwrap();
    }
    {
        let mut closing = pin!(poll_fn(|cx| client.poll_shutdown(cx)));
        assert!(once(|cx| closing.as_mut().poll(cx)).is_pending());
        let (closed, _) = tokio::join!(closing, read_exact(&mut server, taken));
        closed.unwrap();
    }
    assert_eq!(read(&mut server, &mut [0; 16]).await, 0);
    // The other direction is still open.
    write(&mut server, b"thanks").await;
    assert_eq!(read_exact(&mut client, 6).await, b"thanks");
}
