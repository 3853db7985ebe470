use super::*;
use crate::auth::{Password, ServerExchangeError};
use crate::config::describe;
use crate::net::ReadError;
use crate::net::{ConnectTls, TlsVersions, Verify};
use crate::protocol::encode::{Authentication, Report, Severity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

fn target(host: &str, port: u16) -> ConnectTarget {
    ConnectTarget {
        address: Address::new(host, port),
        at: None,
        user: "alice".to_owned(),
        database: "app".to_owned(),
        parameters: vec![(b"application_name".to_vec(), b"test".to_vec())],
        sslmode: SslMode::Disable,
        connector: None,
        tcp: TcpOptions::default(),
        protocol: ProtocolVersion::V3_0,
        timeout: Duration::from_secs(15),
        max_iterations: 4096,
    }
}

async fn log_in(target: &ConnectTarget) -> Result<Connected, ConnectError> {
    let credentials = Credentials::Password(Password::from("pencil"));
    let derivations = Derivations::new(10, 1, [0; 32]);
    let resolver = Resolver::new(Duration::ZERO, Duration::ZERO);
    connect(target, &resolver, &credentials, &derivations).await
}

/// Logs in to a server that reads the startup packet of each connection and answers with these bytes, one connection for each.
async fn against(
    change: impl FnOnce(&mut ConnectTarget),
    answers: &[&[u8]],
) -> Result<Connected, ConnectError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut target = target("127.0.0.1", port);
    change(&mut target);
    let server = async {
        let mut held = Vec::new();
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let length = socket.read_u32().await.unwrap();
            let mut packet = vec![0; length as usize - 4];
            socket.read_exact(&mut packet).await.unwrap();
            socket.write_all(answer).await.unwrap();
            held.push(socket);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = log_in(&target) => outcome,
        () = server => unreachable!("it waits for ever"),
    }
}

async fn failure(change: impl FnOnce(&mut ConnectTarget), answers: &[&[u8]]) -> ConnectFailure {
    against(change, answers).await.unwrap_err().failure
}

fn welcome(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::authentication(&mut out, Authentication::Ok);
    encode::parameter_status(&mut out, b"server_version", b"16.1");
    encode::backend_key_data(&mut out, 7, key);
    encode::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

fn error(sqlstate: SqlState) -> Vec<u8> {
    let mut out = Vec::new();
    let report = Report {
        severity: Severity::Fatal,
        sqlstate,
        message: "no, thank you",
        detail: "",
        hint: "",
    };
    encode::report(&mut out, &report);
    out
}

fn tls(target: &mut ConnectTarget, sslmode: SslMode) {
    target.sslmode = sslmode;
    let settings = ConnectTls {
        verify: Verify::Nothing,
        roots: None,
        identity: None,
        versions: TlsVersions::Both,
    };
    target.connector = Some(Connector::load(&settings).unwrap());
}

#[tokio::test]
async fn everything_up_to_ready_for_query_is_kept() {
    for key in [&b"abcd"[..], &[7; 32], &[8; 256]] {
        let mut answer = welcome(key);
        encode::parameter_status(&mut answer, b"late", b"one");
        let connected = against(|_| (), &[&answer]).await.unwrap();
        let expected = (b"server_version".to_vec(), b"16.1".to_vec());
        assert_eq!(connected.parameters, [expected]);
        let secret = key.to_vec();
        assert_eq!(
            connected.key,
            Some(BackendKey {
                process_id: 7,
                secret
            })
        );
        assert_eq!(connected.version, ProtocolVersion::V3_0);
        assert!(connected.received.ends_with(b"late\0one\0"));
    }
}

#[tokio::test]
async fn the_servers_own_error_is_kept_as_it_came() {
    let sent = error(SqlState::TOO_MANY_CONNECTIONS);
    for before in [Vec::new(), welcome(b"abcd")[..9].to_vec()] {
        let answer = [before, sent.clone()].concat();
        let error = against(|_| (), &[&answer]).await.unwrap_err();
        assert_eq!(error.refusal().unwrap().message, sent);
        assert_eq!(error.sqlstate(), SqlState::TOO_MANY_CONNECTIONS);
        assert!(
            describe(&error).ends_with(
                "as user \"alice\" to database \"app\": it answered 53300: no, thank you"
            ),
            "{}",
            describe(&error)
        );
    }
    // An ErrorResponse without fields (CVE-2026-6666).
    let error = against(|_| (), &[b"E\0\0\0\x05\0"]).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().sqlstate, None);
    assert_eq!(
        error.sqlstate(),
        SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION
    );
}

#[tokio::test]
async fn a_hostile_server_is_bounded() {
    use ConnectFailure::{Body, Receive, TooMuch, Unexpected};
    let ok = &welcome(b"abcd")[..9];
    let mut flood = ok.to_vec();
    while flood.len() <= MAX_LOGIN_BYTES {
        encode::parameter_status(&mut flood, b"x", &[b'y'; 20_000]);
    }
    let after_ok = |bytes: &[u8]| [ok, bytes].concat();
    assert!(matches!(failure(|_| (), &[&flood]).await, TooMuch { .. }));
    assert!(matches!(
        failure(|_| (), &[b"R\x7f\xff\xff\xff"]).await,
        Receive { .. }
    ));
    assert!(matches!(
        failure(|_| (), &[b"R\0\0\0\x03"]).await,
        Receive { .. }
    ));
    assert!(matches!(
        failure(|_| (), &[b"HTTP/1.1 400 Bad Request\r\n"]).await,
        Receive { .. }
    ));
    assert!(matches!(
        failure(|_| (), &[b"\x15\x03\x01\x00\x02"]).await,
        Receive { .. }
    ));
    assert!(matches!(
        failure(|_| (), &[b"Z\0\0\0\x05I"]).await,
        Unexpected { tag: b'Z', .. }
    ));
    let failed = failure(|_| (), &[&after_ok(b"Z\0\0\0\x05T")]).await;
    assert!(matches!(failed, Unexpected { tag: b'Z', .. }));
    let failed = failure(|_| (), &[&after_ok(b"K\0\0\0\x0a\0\0\0\0ab")]).await;
    assert!(matches!(
        failed,
        Body {
            message: "BackendKeyData",
            ..
        }
    ));
    let failed = failure(|_| (), &[&after_ok(b"S\0\0\0\x05x")]).await;
    assert!(matches!(
        failed,
        Body {
            message: "ParameterStatus",
            ..
        }
    ));
    let failed = failure(|_| (), &[&after_ok(ok)]).await;
    assert!(matches!(failed, Unexpected { tag: b'R', .. }));
}

#[tokio::test]
async fn older_servers_negotiate_the_version_down_and_never_up() {
    let answer = |version: u32| {
        let mut answer = b"v\0\0\0\x0c".to_vec();
        answer.extend_from_slice(&version.to_be_bytes());
        answer.extend_from_slice(&[0; 4]);
        answer.extend_from_slice(&welcome(b"abcd"));
        answer
    };
    let newer = |target: &mut ConnectTarget| target.protocol = ProtocolVersion::V3_2;
    for older in [0, 0x0003_0000] {
        let connected = against(newer, &[&answer(older)]).await.unwrap();
        assert_eq!(connected.version, ProtocolVersion::V3_0);
    }
    for absurd in [3, 0x0003_0003, 0x0002_0000, 0x0004_0000, u32::MAX] {
        let failed = failure(newer, &[&answer(absurd)]).await;
        assert!(
            matches!(failed, ConnectFailure::Version { .. }),
            "{absurd:x}: {failed:?}"
        );
    }
}

#[tokio::test]
async fn sslmode_is_what_libpq_makes_of_it() {
    use ConnectFailure::{NoTls, Receive, SslAnswer, Tls};
    let require = |target: &mut ConnectTarget| tls(target, SslMode::Require);
    let prefer = |target: &mut ConnectTarget| tls(target, SslMode::Prefer);
    let allow = |target: &mut ConnectTarget| tls(target, SslMode::Allow);
    let no_rule = error(SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
    let full = error(SqlState::TOO_MANY_CONNECTIONS);

    assert!(matches!(
        failure(require, &[b"N"]).await,
        NoTls(SslMode::Require)
    ));
    assert!(matches!(
        failure(require, &[&no_rule]).await,
        SslAnswer(b'E')
    ));
    assert!(matches!(
        failure(require, &[b"Sgarbage in plain text"]).await,
        Tls(_)
    ));
    // prefer: a failed handshake leads to a second connection without TLS.
    assert!(
        against(prefer, &[b"Sgarbage in plain text", &welcome(b"abcd")])
            .await
            .is_ok()
    );
    // allow: first without, then with TLS, if there is no rule without.
    assert!(against(allow, &[&welcome(b"abcd")]).await.is_ok());
    assert!(matches!(
        failure(allow, &[&no_rule, b"N"]).await,
        NoTls(SslMode::Allow)
    ));
    let refused = against(allow, &[&full]).await.unwrap_err();
    assert_eq!(refused.sqlstate(), SqlState::TOO_MANY_CONNECTIONS);

    let closed = async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = target("127.0.0.1", port);
        let (outcome, ()) = tokio::join!(log_in(&target), async {
            let mut socket = listener.accept().await.unwrap().0;
            // All of the packet, or the close would be a reset.
            let length = socket.read_u32().await.unwrap();
            socket
                .read_exact(&mut vec![0; length as usize - 4])
                .await
                .unwrap();
        });
        outcome.unwrap_err().failure
    };
    assert!(matches!(
        closed.await,
        Receive {
            step: Step::Authenticating,
            source: ReadError::Closed,
        }
    ));
}

#[tokio::test]
async fn a_password_in_clear_is_not_given_to_whoever_refuses_tls() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut target = target("127.0.0.1", port);
    tls(&mut target, SslMode::Prefer);
    let server = async {
        let mut socket = listener.accept().await.unwrap().0;
        socket.read_exact(&mut [0; 8]).await.unwrap();
        socket.write_all(b"N").await.unwrap();
        let length = socket.read_u32().await.unwrap();
        socket
            .read_exact(&mut vec![0; length as usize - 4])
            .await
            .unwrap();
        socket.write_all(b"R\0\0\0\x08\0\0\0\x03").await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (outcome, answer) = tokio::join!(log_in(&target), server);
    assert!(matches!(
        outcome.unwrap_err().failure,
        ConnectFailure::Authentication(ServerExchangeError::CleartextRefused)
    ));
    assert_eq!(answer, b"");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left_and_the_error_says_where_and_when() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
    let target = target(directory.path().to_str().unwrap(), 5432);
    let text = describe(&log_in(&target).await.unwrap_err());
    let path = directory.path().join(".s.PGSQL.5432");
    assert_eq!(
        text,
        format!(
            "cannot connect to server {} as user \"alice\" to database \"app\": timed out while authenticating: server_connect_timeout is 15 s",
            path.display()
        )
    );
    drop(listener);
    let error = log_in(&target).await.unwrap_err();
    assert!(matches!(error.failure, ConnectFailure::Socket(_)));
}

#[tokio::test]
async fn a_cancel_goes_to_the_very_address_of_its_session() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut target = target("db.invalid", 1);
    target.at = Some(listener.local_addr().unwrap());
    let resolver = Resolver::new(Duration::ZERO, Duration::ZERO);
    let (opened, accepted) = tokio::join!(open(&target, &resolver), listener.accept());
    opened.unwrap().write(b"cancel").await.unwrap();
    let mut heard = [0; 6];
    accepted.unwrap().0.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"cancel");
}

#[tokio::test]
async fn direct_tls_is_the_first_thing_that_is_sent() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut target = target("127.0.0.1", listener.local_addr().unwrap().port());
    for is_direct in [true, false] {
        tls(&mut target, SslMode::Require);
        target.connector = target.connector.map(|it| it.direct(is_direct));
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.read_u8().await.unwrap()
        };
        let first = tokio::select! {
            outcome = log_in(&target) => panic!("{outcome:?}"),
            first = server => first,
        };
        assert_eq!(first == net::TLS_HANDSHAKE, is_direct);
    }
}
