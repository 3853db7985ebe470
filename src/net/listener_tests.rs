use std::{
    error::Error,
    fs::{self, File},
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::Path,
    pin::pin,
    process::Command,
    time::Duration,
};

use super::{BindError, ListenAddress, ListenOptions, bind_tcp, bind_unix};
use crate::net::{
    Address, ConnectOptions, Connected, Peer, Resolver, SocketFileError, TcpOptions, UnixOptions,
    connect,
    test_streams::{read_exact, write},
};

fn options() -> ListenOptions {
    ListenOptions {
        backlog: 128,
        reuse_port: false,
        tcp: TcpOptions::default(),
    }
}

fn unix(directory: &Path) -> UnixOptions {
    UnixOptions {
        directory: directory.to_owned(),
        mode: 0o700,
        group: None,
    }
}

async fn reach(address: &ListenAddress) -> Connected {
    let (host, port) = match address {
        ListenAddress::Tcp(address) => (address.ip().to_string(), address.port()),
        ListenAddress::Unix(path) => {
            let name = path.file_name().unwrap().to_str().unwrap();
            let port = name.strip_prefix(".s.PGSQL.").unwrap().parse().unwrap();
            (path.parent().unwrap().to_str().unwrap().to_owned(), port)
        }
    };
    let options = ConnectOptions {
        tcp: TcpOptions::default(),
        timeout: Duration::from_secs(60),
    };
    let resolver = Resolver::new(Duration::ZERO, Duration::ZERO);
    connect(&Address::new(&host, port), &resolver, &options)
        .await
        .unwrap()
}

#[tokio::test]
async fn tcp_clients_are_accepted_with_the_listeners_options() {
    let options = ListenOptions {
        tcp: TcpOptions {
            user_timeout: Some(Duration::from_secs(7)),
            ..TcpOptions::default()
        },
        ..options()
    };
    let bound = bind_tcp("127.0.0.1", 0, &options).unwrap().remove(0);
    let listener = bound.into_listener().unwrap();
    let ListenAddress::Tcp(address) = *listener.address() else {
        panic!("not TCP")
    };
    assert_ne!(address.port(), 0);

    let mut client = reach(listener.address()).await.stream;
    let accepted = listener.accept().await;
    assert_eq!(accepted.peer, client.local_addr().unwrap());
    let portable = accepted.stream.into_portable().unwrap();
    let socket = portable.tcp().unwrap();
    assert!(socket.tcp_nodelay().unwrap(), "inherited");
    assert!(socket.keepalive().unwrap(), "inherited");
    let timeout = socket.tcp_user_timeout().unwrap();
    assert_eq!(timeout, Some(Duration::from_secs(7)), "inherited");

    let mut stream = portable.into_stream().unwrap();
    write(&mut client, b"hello").await;
    assert_eq!(read_exact(&mut stream, 5).await, b"hello");

    let changed = TcpOptions {
        keepalive: None,
        ..TcpOptions::default()
    };
    listener.set_tcp_options(&changed).unwrap();
    let _client = reach(listener.address()).await;
    let accepted = listener.accept().await;
    let portable = accepted.stream.into_portable().unwrap();
    assert!(!portable.tcp().unwrap().keepalive().unwrap());
}

#[tokio::test]
async fn all_addresses_share_one_port() {
    let bound = bind_tcp("*", 0, &options()).unwrap();
    let ports: Vec<u16> = bound
        .iter()
        .map(|bound| match bound.address() {
            ListenAddress::Tcp(address) => address.port(),
            ListenAddress::Unix(_) => panic!("not TCP"),
        })
        .collect();
    assert!(ports.iter().all(|port| *port == ports[0] && *port != 0));
    let listener = bound.into_iter().next().unwrap().into_listener().unwrap();
    let loopback = ListenAddress::Tcp(([127, 0, 0, 1], ports[0]).into());
    let (_client, _accepted) = tokio::join!(reach(&loopback), listener.accept());
}

#[test]
fn a_port_in_use_is_named() {
    let first = bind_tcp("127.0.0.1", 0, &options()).unwrap().remove(0);
    let ListenAddress::Tcp(address) = *first.address() else {
        panic!("not TCP")
    };
    let refused = bind_tcp("127.0.0.1", address.port(), &options()).unwrap_err();
    assert!(matches!(refused, BindError::InUse { .. }));
    let expected = format!("cannot listen on {address}: the port is in use by another process");
    assert_eq!(refused.to_string(), expected);
    assert!(
        refused
            .source()
            .unwrap()
            .to_string()
            .contains("os error 98")
    );
    // Also where a name has more addresses than the one that is taken.
    assert!(bind_tcp("localhost", address.port(), &options()).is_err());

    // An address of somebody else.
    let refused = bind_tcp("192.0.2.1", 0, &options()).unwrap_err();
    assert!(matches!(refused, BindError::Tcp { .. }));
    let refused = bind_tcp(&"x".repeat(300), 0, &options()).unwrap_err();
    assert!(matches!(refused, BindError::Resolve { .. }));
}

#[tokio::test]
async fn a_port_can_be_shared_on_request() {
    let shared = ListenOptions {
        reuse_port: true,
        ..options()
    };
    let first = bind_tcp("127.0.0.1", 0, &shared).unwrap().remove(0);
    let ListenAddress::Tcp(address) = *first.address() else {
        panic!("not TCP")
    };
    let second = bind_tcp("127.0.0.1", address.port(), &shared)
        .unwrap()
        .remove(0);
    drop(first);
    let listener = second.into_listener().unwrap();
    let (_client, _accepted) = tokio::join!(reach(listener.address()), listener.accept());
}

#[tokio::test]
async fn a_unix_socket_has_its_rights_and_goes_with_its_listener() {
    let directory = tempfile::TempDir::new().unwrap();
    let group = fs::metadata(directory.path()).unwrap().gid();
    let options = UnixOptions {
        mode: 0o770,
        group: Some(group.to_string()),
        ..unix(directory.path())
    };
    let listener = bind_unix(6432, &options, 128)
        .unwrap()
        .into_listener()
        .unwrap();
    let path = directory.path().join(".s.PGSQL.6432");
    let lock = directory.path().join(".s.PGSQL.6432.lock");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o770);
    assert_eq!(fs::metadata(&path).unwrap().gid(), group);
    let text = fs::read_to_string(&lock).unwrap();
    assert_eq!(text.lines().next(), Some(&*std::process::id().to_string()));
    assert_eq!(text.lines().nth(3), Some("6432"));

    let _client = reach(listener.address()).await;
    let accepted = listener.accept().await;
    assert_eq!(accepted.peer, None);
    assert!(matches!(accepted.stream.peer().unwrap(), Peer::Unix { .. }));

    drop(listener);
    assert!(!path.exists() && !lock.exists());
}

#[test]
fn a_socket_in_use_is_left_alone_and_a_dead_one_replaced() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join(".s.PGSQL.6432");
    let in_use = |owner| {
        let refused = bind_unix(6432, &unix(directory.path()), 128).unwrap_err();
        assert!(refused.to_string().contains(path.to_str().unwrap()));
        matches!(refused, BindError::Unix { source: SocketFileError::InUse { owner: told }, .. } if told == owner)
    };

    let first = bind_unix(6432, &unix(directory.path()), 128).unwrap();
    assert!(in_use(Some(std::process::id())), "by the lock");
    drop(first);

    // PostgreSQL takes no lock, but it listens.
    let postgres = UnixListener::bind(&path).unwrap();
    fs::write(directory.path().join(".s.PGSQL.6432.lock"), "4711\n/data\n").unwrap();
    assert!(in_use(Some(4711)), "by its answer");
    assert!(path.exists());
    drop(postgres);

    // The file of a process that was killed, and its lock file, are nobody's.
    let bound = bind_unix(6432, &unix(directory.path()), 128).unwrap();
    // Whoever removes ours and makes his own keeps his.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(bound);
    assert!(path.exists());
    drop(other);

    fs::remove_file(&path).unwrap();
    File::create(&path).unwrap();
    let refused = bind_unix(6432, &unix(directory.path()), 128).unwrap_err();
    let BindError::Unix { source, .. } = refused else {
        panic!("{refused}")
    };
    assert!(matches!(source, SocketFileError::NotASocket));
    assert!(path.is_file());
}

#[test]
fn what_cannot_be_made_is_told() {
    let directory = tempfile::TempDir::new().unwrap();
    let missing = unix(&directory.path().join("missing"));
    let long = unix(&directory.path().join("x".repeat(120)));
    let group = UnixOptions {
        group: Some("no such group".into()),
        ..unix(directory.path())
    };
    for (options, expected) in [
        (missing, "cannot write lock file"),
        (long, "cannot create it"),
        (group, "there is no group \"no such group\""),
    ] {
        let refused = bind_unix(6432, &options, 128).unwrap_err();
        let why = refused.source().unwrap().to_string();
        assert!(why.starts_with(expected), "{why}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_abstract_namespace_has_no_file() {
    let name = format!("@pgweir-test-{}", std::process::id());
    let bound = bind_unix(6432, &unix(Path::new(&name)), 128).unwrap();
    let refused = bind_unix(6432, &unix(Path::new(&name)), 128).unwrap_err();
    let BindError::Unix { source, .. } = refused else {
        panic!("{refused}")
    };
    assert!(matches!(source, SocketFileError::InUse { owner: None }));
    assert!(!Path::new(&name).exists());

    let listener = bound.into_listener().unwrap();
    let (_client, _accepted) = tokio::join!(reach(listener.address()), listener.accept());
}

/// Runs [`without_descriptors`] in a process that has few of them.
#[test]
fn accepting_waits_while_there_are_no_descriptors() {
    let status = Command::new("sh")
        .arg("-c")
        .arg("ulimit -n 40; exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--test-threads=1"])
        .arg("net::listener::tests::without_descriptors")
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test(start_paused = true)]
#[ignore = "run by accepting_waits_while_there_are_no_descriptors"]
async fn without_descriptors() {
    let bound = bind_tcp("127.0.0.1", 0, &options()).unwrap().remove(0);
    let listener = bound.into_listener().unwrap();
    let _client = reach(listener.address()).await;
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
        assert!(hoard.len() < 100, "descriptors are not limited");
    }
    let mut accepting = pin!(listener.accept());
    // The clock is virtual, and stands still for whoever spins: then this never ends.
    tokio::select! {
        _ = &mut accepting => panic!("accepted without a descriptor"),
        () = tokio::time::sleep(Duration::from_secs(10)) => {}
    }
    drop(hoard);
    accepting.await;
}
