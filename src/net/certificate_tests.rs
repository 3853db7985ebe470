use sha2::{Digest, Sha256, Sha384};

use super::{common_name, common_name_as_host, end_point_hash, names_host};

fn self_signed(algorithm: &'static rcgen::SignatureAlgorithm, hosts: &[&str]) -> Vec<u8> {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut params = rcgen::CertificateParams::new(hosts).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "db.example.com");
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

#[test]
fn the_end_point_hash_follows_the_signature() {
    let p256 = self_signed(&rcgen::PKCS_ECDSA_P256_SHA256, &[]);
    assert_eq!(
        end_point_hash(&p256).unwrap(),
        Sha256::digest(&p256).to_vec()
    );
    let p384 = self_signed(&rcgen::PKCS_ECDSA_P384_SHA384, &[]);
    assert_eq!(
        end_point_hash(&p384).unwrap(),
        Sha384::digest(&p384).to_vec()
    );
    assert_eq!(
        end_point_hash(&self_signed(&rcgen::PKCS_ED25519, &[])),
        None
    );
    assert_eq!(end_point_hash(b"no certificate"), None);
}

#[test]
fn common_names_count_as_hosts_only_alone() {
    let alone = self_signed(&rcgen::PKCS_ECDSA_P256_SHA256, &[]);
    assert_eq!(common_name(&alone).as_deref(), Some("db.example.com"));
    assert_eq!(
        common_name_as_host(&alone).as_deref(),
        Some("db.example.com")
    );
    let with_hosts = self_signed(&rcgen::PKCS_ECDSA_P256_SHA256, &["x.example.com"]);
    assert_eq!(common_name(&with_hosts).as_deref(), Some("db.example.com"));
    assert_eq!(common_name_as_host(&with_hosts), None);
    assert_eq!(common_name(b""), None);
}

#[test]
fn a_wildcard_is_one_label() {
    for (name, host, matches) in [
        ("db.example.com", "DB.example.com", true),
        ("db.example.com", "db2.example.com", false),
        ("*.example.com", "db.example.com", true),
        ("*.example.com", "a.b.example.com", false),
        ("*.example.com", "example.com", false),
        ("*.example.com", ".example.com", false),
        ("*.0.0.1", "127.0.0.1", false),
        ("127.0.0.1", "127.0.0.1", true),
        ("*", "localhost", false),
    ] {
        assert_eq!(names_host(name, host), matches, "{name} {host}");
    }
}
