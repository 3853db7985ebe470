//! What only newer versions of PostgreSQL can do, and what they do otherwise than older ones. Tests of what the server cannot
//! do yet print a line that says so; `make test-matrix` has every version.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use pgweir::{
    config::SslMode,
    net::{ConnectTls, Connector, Framed, Roots, TlsVersions, Verify},
    protocol::{
        BackendTag,
        backend::{self, ErrorFields},
        encode,
        startup::ProtocolVersion,
    },
    sandbox::Cluster,
    server::{
        CancelTarget, ConnectError, ServerLogin,
        connect::{Connected, connect},
    },
};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use support::{
    Pgweir, login, postgres,
    raw::{PROTOCOL_3_0, PROTOCOL_3_2, Raw, bind, close, execute, parse, query, sync},
    replicated_postgres,
    seats::{Seats, database},
    since,
    tls::{Authority, Identity},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

fn login(port: u16) -> ServerLogin {
    login::trusted(login::tcp(port, "postgres"))
}

async fn log_in(login: &ServerLogin) -> Result<Connected, ConnectError> {
    connect(
        &login.target,
        &login.resolver,
        &login.credentials,
        &login.derivations,
    )
    .await
}

/// The SQLSTATE of the error that a query must end with.
async fn fails(framed: &mut Framed) -> String {
    let known = |tag| BackendTag::from_byte(tag).map(|_| 10_000);
    loop {
        let message = framed.read_message(known).await.unwrap();
        if message.tag == BackendTag::ErrorResponse.byte() {
            return ErrorFields::read(&message.body)
                .sqlstate
                .unwrap()
                .to_string();
        }
        let is_ready = message.tag == BackendTag::ReadyForQuery.byte();
        assert!(!is_ready, "{:?}", backend::ready_for_query(&message.body));
    }
}

/// Also what becomes of the wish where the server is older: that negotiates, and is as good.
#[tokio::test]
async fn our_side_as_a_client_speaks_the_newest_version_that_the_server_has() {
    let primary = postgres().primary();
    let (version, length) = match since(18, "protocol 3.2 with a server") {
        true => (ProtocolVersion::V3_2, 32),
        false => (ProtocolVersion::V3_0, 4),
    };
    let mut login = login(primary.port());
    login.target.protocol = ProtocolVersion::V3_2;
    let connected = log_in(&login).await.unwrap();
    assert_eq!(connected.version, version);
    let key = connected.key.unwrap();
    assert_eq!(key.secret.len(), length);

    let mut framed = Framed::new(connected.stream);
    let mut sleep = Vec::new();
    encode::query(&mut sleep, b"SELECT pg_sleep(600)");
    framed.write(&sleep).await.unwrap();
    let running = format!(
        "EXISTS (SELECT FROM pg_stat_activity WHERE pid = {} AND state = 'active')",
        key.process_id
    );
    primary.wait_until(&running).unwrap();
    let target = CancelTarget {
        login: Arc::new(login),
        at: connected.address,
        process_id: key.process_id,
        secret: key.secret.into(),
    };
    target.cancel().await.unwrap();
    assert_eq!(fails(&mut framed).await, "57014");
}

/// Whatever the servers speak.
#[test]
fn clients_of_protocol_3_2_have_a_key_of_32_bytes_which_cancels() {
    let pooler = Pgweir::builder(postgres()).start();
    let connect = |address, protocol, parameters: &[(&str, &str)]| {
        Raw::try_connect(address, protocol, "postgres", parameters).unwrap()
    };
    let client = connect(pooler.address(), PROTOCOL_3_0, &[]);
    assert_eq!((client.key.len(), client.negotiated), (4 + 4, None));
    let mut client = connect(pooler.address(), PROTOCOL_3_2, &[]);
    assert_eq!((client.key.len(), &client.negotiated), (4 + 32, &None));
    client.send(&query("SELECT pg_sleep(601)"));
    let running = "EXISTS (SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(601)')";
    postgres().primary().wait_until(running).unwrap();
    client.cancel();
    assert_eq!(client.answers()[1..], ["E 57014", "Z I"]);

    if !since(18, "NegotiateProtocolVersion of a server that speaks 3.2") {
        return;
    }
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, postgres().primary().port()));
    for (protocol, parameters) in [
        (PROTOCOL_3_2, &[][..]),
        (PROTOCOL_3_2, &[("_pq_.one", "1"), ("_pq_.two", "")][..]),
        (0x3_0000 + 9999, &[][..]),
        (0x3_0000 + 9999, &[("_pq_.one", "1")][..]),
        (PROTOCOL_3_0, &[("_pq_.one", "1")][..]),
    ] {
        let [ours, theirs] = [pooler.address(), server].map(|it| connect(it, protocol, parameters));
        assert_eq!(
            ours.negotiated, theirs.negotiated,
            "{protocol:x} {parameters:?}"
        );
        assert_eq!(ours.key.len(), theirs.key.len(), "{protocol:x}");
    }
}

/// A server that takes TLS only, its authority's certificate in a file, and the authority.
fn encrypted() -> (Cluster, TempDir, Authority) {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("ca.pem"), &authority.certificate).unwrap();
    let Identity { certificate, key } = authority.server(&["localhost", "127.0.0.1"]);
    let builder = Cluster::builder(support::binaries())
        .setting("ssl", "on")
        .setting("ssl_cert_file", "server.crt")
        .setting("ssl_key_file", "server.key")
        .file("server.crt", certificate)
        .file("server.key", key)
        .hba("local all all trust")
        .hba("hostssl all all 127.0.0.1/32 trust");
    (support::start(builder), dir, authority)
}

fn connector(dir: &TempDir) -> Connector {
    let settings = ConnectTls {
        verify: Verify::ChainAndName,
        roots: Some(Roots::File(dir.path().join("ca.pem"))),
        identity: None,
        versions: TlsVersions::Both,
    };
    Connector::load(&settings).unwrap()
}

/// The pooler before such a server, with direct TLS to it.
fn direct(cluster: &Cluster, dir: &TempDir) -> Pgweir {
    let ca = dir.path().join("ca.pem");
    Pgweir::builder(cluster)
        .pgweir("server_tls_sslmode", "\"verify-full\"")
        .pgweir("server_tls_ca_file", &format!("{ca:?}"))
        .pgweir("server_tls_negotiation", "\"direct\"")
        .start()
}

#[tokio::test]
async fn direct_tls_to_a_server() {
    let (cluster, dir, _authority) = encrypted();
    if !since(17, "direct TLS to a server") {
        // An older server takes the ClientHello for a startup packet.
        let mut login = login(cluster.primary().port());
        login.target.sslmode = SslMode::VerifyFull;
        login.target.connector = Some(connector(&dir).direct(true));
        log_in(&login).await.unwrap_err();
        return;
    }
    let pooler = direct(&cluster, &dir);
    let mut client = Raw::connect(pooler.address(), "postgres");
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(client.value(encrypted), "t");
    // A cancel request goes the same way: nothing else would be let in unencrypted.
    client.send(&query("SELECT pg_sleep(602)"));
    let running = "EXISTS (SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(602)')";
    cluster.primary().wait_until(running).unwrap();
    client.cancel();
    assert_eq!(client.answers()[1..], ["E 57014", "Z I"]);
}

/// Direct TLS of clients needs nothing of the server. ALPN has to say what is spoken.
#[tokio::test]
async fn direct_tls_of_a_client() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    let Identity { certificate, key } = authority.server(&["localhost", "127.0.0.1"]);
    for (name, text) in [
        ("ca.pem", &authority.certificate),
        ("crt", &certificate),
        ("key", &key),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let file = |name: &str| format!("{:?}", dir.path().join(name));
    let pooler = Pgweir::builder(postgres())
        .pgweir("client_tls_sslmode", "\"require\"")
        .pgweir("client_tls_cert_file", &file("crt"))
        .pgweir("client_tls_key_file", &file("key"))
        .start();

    // Our own side of it, which asks for ALPN `postgresql`.
    let mut login = login(pooler.port());
    login.target.sslmode = SslMode::VerifyFull;
    login.target.connector = Some(connector(&dir).direct(true));
    let connected = log_in(&login).await.unwrap();
    assert!(connected.stream.tls().is_some());
    let mut framed = Framed::new(connected.stream);
    let mut wrong = Vec::new();
    encode::query(&mut wrong, b"SELECT 1/0");
    framed.write(&wrong).await.unwrap();
    assert_eq!(fails(&mut framed).await, "22012");

    for (alpn, is_let_in) in [
        (Some("postgresql"), true),
        (Some("http/1.1"), false),
        (None, false),
    ] {
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config
            .alpn_protocols
            .extend(alpn.map(|name| name.as_bytes().to_vec()));
        let name = ServerName::try_from("localhost").unwrap();
        let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(pooler.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = rustls::StreamOwned::new(session, socket);
        let startup = support::wire::startup(&[("user", "postgres"), ("database", "postgres")]);
        let mut first = [0];
        let answered = stream
            .write_all(&startup)
            .and_then(|()| stream.read_exact(&mut first))
            .is_ok();
        assert_eq!(answered && first == *b"R", is_let_in, "{alpn:?}");
    }
}

#[test]
fn the_servers_transaction_timeout_ends_the_session_and_spares_the_next() {
    if !since(17, "transaction_timeout of the server") {
        return;
    }
    let mut seats = Seats::new();
    let mut client = seats.client();
    client.run("SET transaction_timeout = '1h'");
    seats.switch();
    assert_eq!(client.value("SHOW transaction_timeout"), "1h");
    let mut next = seats.client();
    assert_eq!(next.value("SHOW transaction_timeout"), "0");
    assert_eq!(client.value("SHOW transaction_timeout"), "1h");

    client.run("SET transaction_timeout = '50ms'");
    client.run("BEGIN");
    assert_eq!(client.answer(), "E 25P04", "{}", client.last_error);
    assert_eq!(client.answer(), "closed");
    // On a server that is still there, or a new one.
    assert_eq!(next.value("SHOW transaction_timeout"), "0");
}

/// PostgreSQL 18 reports `search_path`, as `application_name` always was.
#[test]
fn each_client_is_told_of_its_own_search_path() {
    if !since(18, "ParameterStatus of search_path") {
        return;
    }
    let mut seats = Seats::new();
    let mut plain = seats.client();
    let mut own = seats.client_with(&[("search_path", "one")]);
    assert_eq!(plain.parameters["search_path"], "\"$user\", public");
    assert_eq!(own.parameters["search_path"], "one");
    for _ in 0..2 {
        assert_eq!(own.value("SHOW search_path"), "one");
        assert_eq!(plain.value("SHOW search_path"), "\"$user\", public");
        seats.switch();
    }
    own.run("SET search_path = two");
    assert_eq!(own.parameters["search_path"], "two");
    seats.switch();
    assert_eq!(plain.value("SHOW search_path"), "\"$user\", public");
    assert_eq!(own.value("SHOW search_path"), "two");
    assert_eq!(plain.reports, [""; 0]);
    assert_eq!(own.reports, ["search_path=two"]);
}

/// Since PostgreSQL 18 a Query behind an Execute leaves its transaction open until the Sync, and that Sync leaves a server
/// behind on which the next statement fails.
#[test]
fn a_query_in_a_batch_costs_nobody_anything() {
    let pooler = Pgweir::builder(postgres()).pool_size(1).start();
    let database = database();
    let mut client = Raw::connect(pooler.address(), &database);
    let mut next = Raw::connect(pooler.address(), &database);
    client.run("CREATE TABLE t (a int)");
    let status = if since(18, "a Query that joins a batch") {
        "Z T"
    } else {
        "Z I"
    };
    let insert = [
        parse("", "INSERT INTO t VALUES (1)"),
        bind("", &[]),
        execute(),
    ]
    .concat();
    let join = query("INSERT INTO t VALUES (2)");
    let inserted = ["1", "2", "C INSERT 0 1"];
    for behind in [Vec::new(), close(b'P', "x")] {
        // In one piece, and in three.
        client.send(&[&insert[..], &join, &behind, &sync()].concat());
        assert_eq!(
            client.answers(),
            [&inserted[..], &["C INSERT 0 1", status]].concat()
        );
        let closed = if behind.is_empty() {
            &["Z I"][..]
        } else {
            &["3", "Z I"]
        };
        assert_eq!(client.answers(), closed);
        assert_eq!(next.value("SELECT count(*) FROM t"), "2");
        client.send(&[&insert[..], &join].concat());
        assert_eq!(
            client.answers(),
            [&inserted[..], &["C INSERT 0 1", status]].concat()
        );
        client.send(&behind);
        client.send(&sync());
        assert_eq!(client.answers(), closed);
        assert_eq!(next.value("SELECT count(*) FROM t"), "4");
        next.run("TRUNCATE t");
    }
    // Whoever leaves before the Sync has not committed where the Query did not.
    client.send(&[&insert[..], &join].concat());
    assert_eq!(client.answers().last().unwrap(), status);
    client.vanish();
    let kept = if status == "Z T" { "0" } else { "2" };
    assert_eq!(next.value("SELECT count(*) FROM t"), kept);
}

/// The same with reads that a replica runs: the Close behind the Query is answered at the Sync only.
#[test]
fn a_query_in_a_batch_of_reads_is_answered() {
    let pooler = Pgweir::builder(replicated_postgres()).start();
    let mut client = Raw::connect(pooler.address(), "postgres");
    let read = [parse("", "SELECT 1"), bind("", &[]), execute()].concat();
    for behind in [Vec::new(), close(b'P', "x")] {
        for _ in 0..20 {
            client.send(&[&read[..], &query("SELECT 2"), &behind, &sync()].concat());
            let answers = [client.answers(), client.answers()].concat();
            assert_eq!(answers[..4], ["1", "2", "D 1", "C SELECT 1"]);
            assert_eq!(answers.last().unwrap(), "Z I");
        }
    }
}

/// Statements that older servers cannot parse go where they can run.
#[test]
fn new_statements_are_routed() {
    let cluster = replicated_postgres();
    let pooler = Pgweir::builder(cluster).start();
    let mut client = Raw::connect(pooler.address(), "postgres");
    let ask = |client: &mut Raw, sql: &str, rows: &[&str]| {
        assert_eq!(client.rows(sql), rows, "{sql}");
    };
    if !since(17, "MERGE with RETURNING") {
        return;
    }
    client.run("CREATE TABLE goods (id int PRIMARY KEY, price int)");
    ask(
        &mut client,
        "MERGE INTO goods USING (VALUES (1, 10)) v (id, price) ON goods.id = v.id \
         WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.price) RETURNING merge_action(), goods.id",
        &["INSERT|1"],
    );
    ask(
        &mut client,
        "WITH m AS (MERGE INTO goods USING (VALUES (1)) v (id) ON goods.id = v.id \
         WHEN MATCHED THEN UPDATE SET price = price + 1 RETURNING price) SELECT * FROM m",
        &["11"],
    );
    ask(
        &mut client,
        "SELECT * FROM JSON_TABLE('[1,2]', '$[*]' COLUMNS (n int PATH '$')) t",
        &["1", "2"],
    );
    if !since(
        18,
        "RETURNING of old and new rows, virtual generated columns",
    ) {
        return;
    }
    ask(
        &mut client,
        "UPDATE goods SET price = 20 RETURNING old.price, new.price",
        &["11|20"],
    );
    client.run("ALTER TABLE goods ADD COLUMN gross int GENERATED ALWAYS AS (price * 2) VIRTUAL");
    ask(&mut client, "SELECT gross FROM goods", &["40"]);
    ask(
        &mut client,
        "DELETE FROM goods RETURNING WITH (OLD AS o) o.gross",
        &["40"],
    );
}
