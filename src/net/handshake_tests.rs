use std::{error::Error, future::poll_fn};

use super::{HandshakeError, accept_direct_tls, accept_tls, connect_direct_tls, connect_tls};
use crate::net::{
    AcceptTls, Acceptor, ConnectTls, Connector, Roots, TlsVersions, Verify,
    test_pki::Pki,
    test_streams::{read, read_exact, tcp_pair, tls_over, unix_pair, write},
};

/// Who of (client, server) has a connection, after both tried.
///
/// In TLS 1.3 the client is done before the server has seen its certificate, so the client reads once.
async fn outcome(connect: &ConnectTls, accept: &AcceptTls) -> (Result<(), String>, bool) {
    let connector = Connector::load(connect).unwrap();
    let acceptor = Acceptor::load(accept).unwrap();
    let (client, server) = tls_over(tcp_pair().await, &connector, &acceptor).await;
    let accepted = server.is_ok();
    if let Ok(mut server) = server {
        poll_fn(|cx| server.poll_shutdown(cx)).await.unwrap();
    }
    let told = |error: &dyn Error| error.to_string();
    let connected = match client {
        Err(error) => Err(error.source().map_or_else(|| error.to_string(), told)),
        Ok(mut client) => poll_fn(|cx| client.poll_read(cx, &mut [0]))
            .await
            .map(drop)
            .map_err(|error| error.to_string()),
    };
    (connected, accepted)
}

#[tokio::test]
async fn both_versions_carry_data_both_ways() {
    let pki = Pki::new();
    let acceptor = pki.acceptor();
    for (versions, expected) in [
        (TlsVersions::Only13, "TLSv1.3/TLS_AES_256_GCM_SHA384/ECDH="),
        (
            TlsVersions::Only12,
            "TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384/ECDH=",
        ),
    ] {
        for pair in [tcp_pair().await, unix_pair()] {
            let connect = ConnectTls {
                versions,
                ..pki.connect(Verify::ChainAndName)
            };
            let connector = Connector::load(&connect).unwrap();
            let (client, server) = tls_over(pair, &connector, &acceptor).await;
            let (mut client, mut server) = (client.unwrap(), server.unwrap());

            write(&mut client, b"question").await;
            assert_eq!(read_exact(&mut server, 8).await, b"question");
            write(&mut server, b"answer").await;
            assert_eq!(read_exact(&mut client, 6).await, b"answer");

            for stream in [&client, &server] {
                let tls = stream.tls().unwrap();
                assert!(tls.to_string().starts_with(expected), "{tls}");
                assert!(!tls.resumed);
            }
            assert!(server.peer_certificate().is_none());
            let end_point = client.server_end_point();
            assert!(end_point.as_ref().is_some_and(|hash| hash.len() == 32));
            assert_eq!(end_point, server.server_end_point());

            poll_fn(|cx| client.poll_shutdown(cx)).await.unwrap();
            assert_eq!(read(&mut server, &mut [0; 8]).await, 0);
        }
    }
}

#[tokio::test]
async fn a_server_is_verified_as_far_as_asked() {
    let (pki, other) = (Pki::new(), Pki::new());
    let right = pki.accept();
    let with = |identity| AcceptTls {
        identity,
        ..right.clone()
    };
    let wrong_name = with(pki.identity("elsewhere", &["elsewhere.test"]));
    let wrong_authority = with(other.identity("localhost", &["localhost"]));

    for (accept, verify, trusted) in [
        (&right, Verify::ChainAndName, true),
        (&wrong_name, Verify::ChainAndName, false),
        (&wrong_name, Verify::Chain, true),
        (&wrong_authority, Verify::Chain, false),
        (&wrong_authority, Verify::ChainAndName, false),
        (&wrong_authority, Verify::Nothing, true),
    ] {
        let (connected, _) = outcome(&pki.connect(verify), accept).await;
        assert_eq!(connected.is_ok(), trusted, "{verify:?}: {connected:?}");
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_proves_nothing() {
    let pki = Pki::new();
    let stolen = pki.accept().identity;
    let impostor = crate::net::tls::impostor(&stolen, &pki.identity("own", &[]));
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        for verify in [Verify::Nothing, Verify::Chain, Verify::ChainAndName] {
            let connect = ConnectTls {
                versions,
                ..pki.connect(verify)
            };
            let connector = Connector::load(&connect).unwrap();
            let (client, _) = tls_over(tcp_pair().await, &connector, &impostor).await;
            assert!(
                matches!(client, Err(HandshakeError::Tls(_))),
                "{verify:?} {versions:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_common_name_stands_in_for_missing_alternative_names() {
    let pki = Pki::new();
    let with = |common_name: &str, hosts: &[&str]| AcceptTls {
        identity: pki.identity(common_name, hosts),
        ..pki.accept()
    };
    let full = pki.connect(Verify::ChainAndName);
    assert!(outcome(&full, &with("localhost", &[])).await.0.is_ok());
    assert!(outcome(&full, &with("elsewhere", &[])).await.0.is_err());
    let ignored = with("localhost", &["elsewhere.test"]);
    assert!(outcome(&full, &ignored).await.0.is_err());
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_as_itself() {
    let pki = Pki::new();
    let accept = AcceptTls {
        identity: pki.self_signed("localhost"),
        ..pki.accept()
    };
    let mut connect = ConnectTls {
        roots: Some(Roots::File(accept.identity.cert_file.clone())),
        ..pki.connect(Verify::ChainAndName)
    };
    assert_eq!(outcome(&connect, &accept).await, (Ok(()), true));

    connect.roots = Some(Roots::File(pki.self_signed("other").cert_file));
    assert!(outcome(&connect, &accept).await.0.is_err());
}

#[tokio::test]
async fn a_client_certificate_is_verified() {
    let (pki, other) = (Pki::new(), Pki::new());
    let required = AcceptTls {
        ca_file: Some(pki.ca_file()),
        client_certificate_required: true,
        ..pki.accept()
    };
    let optional = AcceptTls {
        client_certificate_required: false,
        ..required.clone()
    };
    let with = |identity, versions| ConnectTls {
        identity,
        versions,
        ..pki.connect(Verify::ChainAndName)
    };
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        let good = with(Some(pki.identity("alice", &[])), versions);
        let foreign = with(Some(other.identity("alice", &[])), versions);
        let none = with(None, versions);

        assert_eq!(outcome(&good, &required).await, (Ok(()), true));
        assert_eq!(outcome(&good, &optional).await, (Ok(()), true));
        assert_eq!(outcome(&none, &optional).await, (Ok(()), true));
        for (connect, accept) in [
            (&none, &required),
            (&foreign, &required),
            (&foreign, &optional),
        ] {
            let (connected, accepted) = outcome(connect, accept).await;
            assert!(!accepted);
            let told = connected.unwrap_err();
            assert!(told.contains("alert"), "the client is told: {told}");
        }

        let connector = Connector::load(&good).unwrap();
        let acceptor = Acceptor::load(&required).unwrap();
        let (_client, server) = tls_over(tcp_pair().await, &connector, &acceptor).await;
        let server = server.unwrap();
        let certificate = server.peer_certificate().unwrap();
        assert_eq!(
            crate::net::common_name(certificate).as_deref(),
            Some("alice")
        );
    }
}

#[tokio::test]
async fn a_session_is_resumed_under_the_same_settings_only() {
    let pki = Pki::new();
    let accept = AcceptTls {
        ca_file: Some(pki.ca_file()),
        client_certificate_required: true,
        ..pki.accept()
    };
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        let connect = ConnectTls {
            versions,
            identity: Some(pki.identity("alice", &[])),
            ..pki.connect(Verify::ChainAndName)
        };
        let connector = Connector::load(&connect).unwrap();
        let (acceptor, reloaded) = (
            Acceptor::load(&accept).unwrap(),
            Acceptor::load(&accept).unwrap(),
        );
        for (acceptor, resumed) in [(&acceptor, false), (&acceptor, true), (&reloaded, false)] {
            let (client, server) = tls_over(tcp_pair().await, &connector, acceptor).await;
            let (mut client, mut server) = (client.unwrap(), server.unwrap());
            write(&mut server, b"x").await;
            assert_eq!(read_exact(&mut client, 1).await, b"x");
            assert_eq!(client.tls().unwrap().resumed, resumed, "{versions:?}");
            assert_eq!(server.tls().unwrap().resumed, resumed, "{versions:?}");
            assert!(server.peer_certificate().is_some());
        }
    }
}

#[tokio::test]
async fn plaintext_behind_the_request_is_refused() {
    let pki = Pki::new();
    let (client, server) = tcp_pair().await;
    drop(client);
    let refused = accept_tls(server, b"injected", &pki.acceptor()).await;
    assert!(matches!(
        refused,
        Err(HandshakeError::PlaintextAfterRequest)
    ));

    // What was not read before is not taken for TLS either.
    let (mut client, server) = tcp_pair().await;
    write(&mut client, b"Q\0\0\0\x0dDROP TABLE").await;
    let refused = accept_tls(server, &[], &pki.acceptor()).await;
    assert!(matches!(refused, Err(HandshakeError::Tls(_))));

    // The server leg: bytes behind `S`.
    let (client, mut server) = tcp_pair().await;
    write(&mut server, b"E\0\0\0\x0anot TLS").await;
    let refused = connect_tls(client, &pki.connector(), "localhost").await;
    assert!(matches!(refused, Err(HandshakeError::Tls(_))));
}

#[tokio::test]
async fn direct_tls_starts_with_bytes_already_read() {
    let pki = Pki::new();
    let (client, mut server) = tcp_pair().await;
    let (connector, acceptor) = (pki.connector(), pki.acceptor());
    let accepted = async {
        let mut received = [0; 100];
        let n = read(&mut server, &mut received).await;
        assert_eq!(received[0], 0x16);
        accept_direct_tls(server, &received[..n], &acceptor).await
    };
    let (client, server) = tokio::join!(
        connect_direct_tls(client, &connector, "localhost"),
        accepted
    );
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    write(&mut client, b"startup").await;
    assert_eq!(read_exact(&mut server, 7).await, b"startup");
}

#[tokio::test]
async fn direct_tls_needs_the_protocol_name() {
    let pki = Pki::new();
    let (client, server) = tcp_pair().await;
    let config = crate::net::tls::without_alpn(&pki.connector());
    let acceptor = pki.acceptor();
    let (_client, refused) = tokio::join!(
        connect_tls(client, &config, "localhost"),
        accept_direct_tls(server, &[], &acceptor)
    );
    assert!(matches!(refused, Err(HandshakeError::NoAlpn)));
}

#[tokio::test]
async fn a_peer_that_goes_away_is_told_from_one_that_lies() {
    let pki = Pki::new();
    let (client, server) = tcp_pair().await;
    drop(client);
    let lost = accept_tls(server, &[], &pki.acceptor()).await;
    assert!(matches!(lost, Err(HandshakeError::Lost(_))));

    let (mut client, server) = tcp_pair().await;
    write(&mut client, &[0x16, 3, 1, 2, 0, 1, 0, 0xff]).await;
    drop(client);
    let lost = accept_tls(server, &[], &pki.acceptor()).await;
    assert!(matches!(lost, Err(HandshakeError::Lost(_))));
}

#[tokio::test]
async fn a_host_that_no_certificate_can_name_is_refused_by_verify_full_only() {
    let pki = Pki::new();
    let acceptor = pki.acceptor();
    for (verify, accepted) in [(Verify::ChainAndName, false), (Verify::Chain, true)] {
        let connector = Connector::load(&pki.connect(verify)).unwrap();
        let (client, server) = tcp_pair().await;
        let (client, _server) = tokio::join!(
            connect_tls(client, &connector, "not a name"),
            accept_tls(server, &[], &acceptor)
        );
        assert_eq!(client.is_ok(), accepted, "{verify:?}");
    }
}

#[tokio::test]
async fn a_client_that_speaks_and_goes_is_heard() {
    let pki = Pki::new();
    let (connector, acceptor) = (pki.connector(), pki.acceptor());
    let (client, server) = unix_pair();
    let speak_and_go = async {
        let mut client = connect_tls(client, &connector, "localhost").await.unwrap();
        write(&mut client, b"CancelRequest").await;
    };
    let (accepted, ()) = tokio::join!(accept_tls(server, &[], &acceptor), speak_and_go);
    assert_eq!(
        read_exact(&mut accepted.unwrap(), 13).await,
        b"CancelRequest"
    );
}
