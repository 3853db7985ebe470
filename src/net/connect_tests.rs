use std::{future::poll_fn, io, net::Ipv4Addr, time::Duration};

use tokio::net::{TcpListener, UnixListener};

use super::{Address, ConnectError, ConnectOptions, connect};
use crate::net::{Keepalive, Resolver, TcpOptions, test_streams::read_exact};

fn options() -> ConnectOptions {
    ConnectOptions {
        tcp: TcpOptions {
            keepalive: Some(Keepalive {
                idle: Some(Duration::from_secs(60)),
                interval: Some(Duration::from_secs(10)),
                count: Some(3),
            }),
            user_timeout: Some(Duration::from_secs(30)),
            socket_buffer: Some(65536),
        },
        timeout: Duration::from_secs(60),
    }
}

fn resolver() -> Resolver {
    Resolver::new(Duration::ZERO, Duration::ZERO)
}

#[tokio::test]
async fn a_host_is_connected_with_its_options() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Whatever else `localhost` is, 127.0.0.1 is one of its addresses.
    let address = Address::new("localhost", port);
    let connected = connect(&address, &resolver(), &options()).await.unwrap();
    assert_eq!(connected.address, Some(listener.local_addr().unwrap()));
    let (accepted, peer) = listener.accept().await.unwrap();
    assert_eq!(connected.stream.local_addr().unwrap(), Some(peer));
    drop(accepted);

    let stream = connected.stream.into_portable().unwrap();
    let socket = stream.tcp().unwrap();
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(
        socket.tcp_keepalive_time().unwrap(),
        Duration::from_secs(60)
    );
    assert_eq!(
        socket.tcp_keepalive_interval().unwrap(),
        Duration::from_secs(10)
    );
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    assert_eq!(
        socket.tcp_user_timeout().unwrap(),
        Some(Duration::from_secs(30))
    );
}

#[tokio::test]
async fn a_socket_directory_is_connected() {
    let directory = tempfile::TempDir::new().unwrap();
    let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5433")).unwrap();
    let address = Address::new(directory.path().to_str().unwrap(), 5433);
    assert!(address.to_string().ends_with("/.s.PGSQL.5433"));
    let mut connected = connect(&address, &resolver(), &options()).await.unwrap();
    assert!(connected.stream.is_unix());
    let (accepted, _) = listener.accept().await.unwrap();
    accepted.try_write(b"hello").unwrap();
    assert_eq!(read_exact(&mut connected.stream, 5).await, b"hello");

    drop((listener, connected));
    let refused = connect(&address, &resolver(), &options()).await;
    assert!(matches!(
        refused,
        Err(ConnectError::Unix { path, source })
            if path.ends_with(".s.PGSQL.5433") && source.kind() == io::ErrorKind::ConnectionRefused
    ));
}

#[tokio::test]
async fn a_refusal_names_host_address_and_errno() {
    // Bound, so that no other test gets the port; not listening, so that it refuses.
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = closed.local_addr().unwrap().port();
    let refused = connect(&Address::new("localhost", port), &resolver(), &options()).await;
    let error = refused.unwrap_err().to_string();
    let expected = format!("127.0.0.1:{port}: Connection refused (os error 111)");
    assert!(
        error.starts_with("could not connect to \"localhost\" ("),
        "{error}"
    );
    assert!(error.contains(&expected), "{error}");
}

#[tokio::test]
async fn a_name_without_address_is_told() {
    // No name server is asked for a name that is too long to be one.
    let host = "x".repeat(300);
    let refused = connect(&Address::new(&host, 5432), &resolver(), &options()).await;
    assert!(matches!(refused, Err(ConnectError::Resolve { host: named, .. }) if named == host));
}

#[tokio::test]
async fn silence_ends_at_the_timeout_and_names_the_address() {
    // A backlog of nothing that is full: the kernel drops further SYNs.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener
        .bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let port = listener.local_addr().unwrap().as_socket().unwrap().port();
    let address = Address::new("127.0.0.1", port);
    let short = ConnectOptions {
        timeout: Duration::from_millis(50),
        ..options()
    };
    let mut waiting = Vec::new();
    let error = loop {
        match connect(&address, &resolver(), &short).await {
            Ok(connected) => waiting.push(connected),
            Err(error) => break error,
        }
        assert!(waiting.len() < 1000, "the backlog never fills");
    };
    let ConnectError::Tcp { attempts, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(attempts[0].1.kind(), io::ErrorKind::TimedOut);
    assert!(
        error
            .to_string()
            .contains(&format!("127.0.0.1:{port}: no answer within"))
    );
}

#[tokio::test]
async fn a_new_connection_has_sent_nothing() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = Address::new("127.0.0.1", port);
    let mut connected = connect(&address, &resolver(), &options()).await.unwrap();
    poll_fn(|cx| connected.stream.poll_shutdown(cx))
        .await
        .unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    accepted.readable().await.unwrap();
    assert_eq!(accepted.try_read(&mut [0; 8]).unwrap(), 0);
}
