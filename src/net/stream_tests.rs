use std::{future::poll_fn, io::IoSlice, task::Poll};

use super::{Peer, Portable};
use crate::net::test_streams::{read, tcp_pair, unix_pair, write};

#[tokio::test]
async fn bytes_pass_and_end_is_zero() {
    for (mut a, mut b) in [tcp_pair().await, unix_pair()] {
        let mut buf = [0; 16];
        write(&mut a, b"hello").await;
        assert_eq!(read(&mut b, &mut buf).await, 5);
        assert_eq!(&buf[..5], b"hello");

        let slices = [IoSlice::new(b"two "), IoSlice::new(b"parts")];
        let sent = poll_fn(|cx| b.poll_write_vectored(cx, &slices)).await;
        assert_eq!(sent.unwrap(), 9);
        assert_eq!(read(&mut a, &mut buf).await, 9);

        poll_fn(|cx| a.poll_shutdown(cx)).await.unwrap();
        assert_eq!(read(&mut b, &mut buf).await, 0);
    }
}

#[tokio::test]
async fn pending_input_is_seen_and_stale_readiness_is_not_believed() {
    for (mut a, mut b) in [tcp_pair().await, unix_pair()] {
        assert!(!b.has_pending_input());
        write(&mut a, b"four").await;
        poll_fn(|cx| b.poll_readable(cx)).await.unwrap();
        assert!(b.has_pending_input());

        // The buffer is filled to the brim, so the reactor still says "readable".
        assert_eq!(read(&mut b, &mut [0; 4]).await, 4);
        assert!(!b.has_pending_input());

        drop(a);
        poll_fn(|cx| b.poll_readable(cx)).await.unwrap();
        assert!(b.has_pending_input(), "the end is input too");
    }
}

#[tokio::test]
async fn who_reads_on_and_on_gives_others_their_turn() {
    const SENT: usize = 16 * 1024;
    for (mut a, mut b) in [tcp_pair().await, unix_pair()] {
        write(&mut a, &[7; SENT]).await;
        let (mut read, mut turns) = (0, 0);
        poll_fn(|cx| {
            turns += 1;
            while read < SENT {
                match b.poll_read(cx, &mut [0; 4]) {
                    Poll::Ready(size) => read += size.unwrap(),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(())
        })
        .await;
        assert!(turns > 10, "{turns}");
    }
}

#[test]
fn a_connection_moves_to_another_runtime() {
    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap()
    }
    let here = runtime();
    let (mut a, b) = here.block_on(tcp_pair());
    let b: Portable = here.block_on(async { b.into_portable() }).unwrap();
    assert!(!b.has_pending_input());
    here.block_on(write(&mut a, b"after the move"));

    let echo = std::thread::spawn(move || {
        runtime().block_on(async {
            while !b.has_pending_input() {
                std::thread::yield_now();
            }
            let mut b = b.into_stream().unwrap();
            let mut buf = [0; 64];
            let n = read(&mut b, &mut buf).await;
            write(&mut b, &buf[..n]).await;
        });
    });
    let mut buf = [0; 64];
    let n = here.block_on(read(&mut a, &mut buf));
    assert_eq!(&buf[..n], b"after the move");
    echo.join().unwrap();
}

#[tokio::test]
async fn peers_are_named() {
    let (a, b) = tcp_pair().await;
    assert_eq!(
        a.peer().unwrap(),
        Peer::Tcp(b.local_addr().unwrap().unwrap())
    );
    assert!(!a.is_unix());

    let (a, _b) = unix_pair();
    let Peer::Unix { uid } = a.peer().unwrap() else {
        panic!("not a Unix socket")
    };
    let own = std::fs::metadata("/proc/self").unwrap();
    assert_eq!(uid, std::os::unix::fs::MetadataExt::uid(&own));
    assert!(a.is_unix());
    assert_eq!(a.local_addr().unwrap(), None);
}
