//! How a test logs in to a server of its own, as pgweir does: plainly, and with time enough.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ::pgweir::{
    auth::Credentials,
    config::SslMode,
    net::{Address, Resolver, TcpOptions},
    protocol::startup::ProtocolVersion,
    sandbox::Node,
    server::{Derivations, ServerLogin, connect::ConnectTarget},
};

/// Over TCP, to the database `postgres`.
pub fn tcp(port: u16, user: &str) -> ConnectTarget {
    let at = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    target(Address::new("localhost", port), at, user, "postgres")
}

/// Over the Unix socket of a node.
pub fn unix(node: &Node, user: &str, database: &str) -> ConnectTarget {
    let address = Address::Unix {
        directory: node.socket_dir(),
        port: node.port(),
    };
    target(address, None, user, database)
}

fn target(address: Address, at: Option<SocketAddr>, user: &str, database: &str) -> ConnectTarget {
    ConnectTarget {
        address,
        at,
        user: user.to_owned(),
        database: database.to_owned(),
        parameters: Vec::new(),
        sslmode: SslMode::Disable,
        connector: None,
        tcp: TcpOptions::default(),
        protocol: ProtocolVersion::V3_0,
        timeout: Duration::from_secs(60),
        max_iterations: 100_000,
    }
}

/// Without a proof of who it is.
pub fn trusted(target: ConnectTarget) -> ServerLogin {
    ServerLogin {
        target,
        credentials: Credentials::None,
        resolver: Arc::new(Resolver::new(Duration::ZERO, Duration::ZERO)),
        derivations: Arc::new(Derivations::new(100, 1, [1; 32])),
        cancel_timeout: None,
        max_prepared_statements: 0,
        connect_query: None,
    }
}
