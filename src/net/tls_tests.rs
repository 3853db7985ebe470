use std::{fs, path::PathBuf};

use super::{AcceptTls, Acceptor, ConnectTls, Connector, Identity, TlsConfigError};
use crate::config::describe;
use crate::net::{HandshakeError, Roots, Verify, test_pki::Pki, test_streams};

#[test]
fn each_bad_file_is_named_with_what_is_wrong() {
    let pki = Pki::new();
    let good = pki.accept();
    let (key, cert) = (&good.identity.key_file, &good.identity.cert_file);
    let file = |name: &str, content: &str| -> PathBuf {
        fs::write(pki.path(name), content).unwrap();
        pki.path(name)
    };
    let pem = fs::read_to_string(cert).unwrap();
    let cut = file("cut.pem", &pem[..pem.len() / 2]);
    let empty = file("empty.pem", "");
    let nonsense = file(
        "nonsense.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let encrypted = file(
        "encrypted.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let foreign = pki.identity("foreign", &[]).key_file;
    let absent = pki.path("absent.pem");

    let cases = [
        (
            &absent,
            cert,
            "private key file",
            "absent.pem\": No such file",
        ),
        (
            key,
            &absent,
            "certificate file",
            "absent.pem\": No such file",
        ),
        (
            key,
            &cut,
            "certificate file",
            "cut.pem\" is malformed: missing",
        ),
        (key, &empty, "no certificate in", "empty.pem\""),
        (&empty, cert, "no private key in", "empty.pem\""),
        (&encrypted, cert, "no private key in", "passphrase"),
        (
            key,
            &nonsense,
            "certificate in",
            "nonsense.pem\" cannot be used",
        ),
        (&foreign, cert, "does not belong to", "foreign"),
    ];
    for (key_file, cert_file, what, why) in cases {
        let identity = Identity {
            key_file: key_file.clone(),
            cert_file: cert_file.clone(),
        };
        let accept = AcceptTls {
            identity: identity.clone(),
            ..good.clone()
        };
        let connect = ConnectTls {
            identity: Some(identity),
            ..pki.connect(Verify::Chain)
        };
        let refused = [
            describe(&Acceptor::load(&accept).unwrap_err()),
            describe(&Connector::load(&connect).unwrap_err()),
        ];
        for sentence in refused {
            assert!(sentence.contains(what), "{sentence}");
            assert!(sentence.contains(why), "{sentence}");
        }
    }

    for (ca, why) in [
        (absent, "cannot read the CA certificate file"),
        (nonsense, "nonsense.pem\" cannot be used"),
    ] {
        let accept = AcceptTls {
            ca_file: Some(ca.clone()),
            ..good.clone()
        };
        let connect = ConnectTls {
            roots: Some(Roots::File(ca)),
            ..pki.connect(Verify::Chain)
        };
        assert!(describe(&Acceptor::load(&accept).unwrap_err()).contains(why));
        assert!(describe(&Connector::load(&connect).unwrap_err()).contains(why));
    }
}

#[test]
fn verification_without_an_authority_is_refused() {
    let pki = Pki::new();
    let accept = AcceptTls {
        client_certificate_required: true,
        ..pki.accept()
    };
    assert!(matches!(
        Acceptor::load(&accept),
        Err(TlsConfigError::NoAuthority)
    ));
    for (verify, accepted) in [(Verify::Chain, false), (Verify::Nothing, true)] {
        let connect = ConnectTls {
            roots: None,
            ..pki.connect(verify)
        };
        assert_eq!(Connector::load(&connect).is_ok(), accepted);
    }
    let public = ConnectTls {
        roots: Some(Roots::Public),
        ..pki.connect(Verify::ChainAndName)
    };
    assert!(Connector::load(&public).is_ok());
}

/// `openssl x509 -req` without extensions makes version 1, and the manual's quick start is just that.
#[tokio::test]
async fn a_version_1_certificate_serves_where_no_chain_is_verified() {
    let pki = Pki::new();
    let path = pki.path("v1.pem");
    fs::write(&path, include_str!("x509_version_1.pem")).unwrap();
    let accept = AcceptTls {
        identity: Identity {
            key_file: path.clone(),
            cert_file: path.clone(),
        },
        ..pki.accept()
    };
    let acceptor = Acceptor::load(&accept).unwrap();
    assert!(acceptor.has_channel_binding());
    assert!(acceptor.expires() > 4_000_000_000);
    for (verify, roots, connected) in [
        (Verify::Nothing, None, true),
        (Verify::ChainAndName, Some(Roots::File(path)), true),
        (Verify::Chain, Some(Roots::File(pki.ca_file())), false),
    ] {
        let connect = ConnectTls {
            roots,
            ..pki.connect(verify)
        };
        let connector = Connector::load(&connect).unwrap();
        let pair = test_streams::unix_pair();
        let (client, _) = test_streams::tls_over(pair, &connector, &acceptor).await;
        assert_eq!(client.is_ok(), connected, "{verify:?}: {client:?}");
        let is_told = matches!(client, Err(HandshakeError::CertificateVersion));
        assert_eq!(is_told, !connected, "{client:?}");
    }
}
