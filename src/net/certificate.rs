//! What is read out of certificates and out of a finished handshake.
//!
//! Knows DER and names; decides about nobody's identity (that is `auth`) and verifies no chain (that is `verify`).

use std::fmt;

use rustls::{CipherSuite, CommonState, HandshakeKind, NamedGroup, ProtocolVersion};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_parser::{
    asn1_rs::{Oid, oid},
    certificate::X509Certificate,
    extensions::GeneralName,
    oid_registry as registry,
    prelude::FromDer,
    signature_algorithm::SignatureAlgorithm,
    x509::SubjectPublicKeyInfo,
};

const ECDSA_WITH_SHA1: Oid<'_> = oid!(1.2.840.10045.4.1);

/// What was negotiated; `Display` is the `tls` column of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsInfo {
    /// As OpenSSL writes it: `TLSv1.3`.
    pub version: &'static str,
    /// As OpenSSL writes it: `TLS_AES_256_GCM_SHA384`, `ECDHE-RSA-AES256-GCM-SHA384`.
    pub cipher: &'static str,
    /// Key exchange, as OpenSSL writes it: `X25519`; empty when a TLS 1.2 session was resumed.
    pub group: &'static str,
    /// Whether an earlier session was resumed: no certificate was exchanged this time.
    pub resumed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl TlsInfo {
    pub(super) fn of(state: &CommonState) -> Self {
        let suite = state.negotiated_cipher_suite().map(|suite| suite.suite());
        let group = state.negotiated_key_exchange_group();
        Self {
            version: match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLS",
            },
            cipher: suite.map_or("unknown", cipher_name),
            group: group.map_or("", |group| group_name(group.name())),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

impl fmt::Display for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.version, self.cipher)?;
        if !self.group.is_empty() {
            write!(f, "/ECDH={}", self.group)?;
        }
        Ok(())
    }
}

/// The hash of a certificate that binds a SCRAM exchange to its TLS connection (RFC 5929, section 4.1): that of the
/// certificate's signature, but SHA-256 in place of MD5 and SHA-1.
///
/// `None` where the RFC names no hash (Ed25519), or for bytes that are no certificate. PostgreSQL does the same.
pub(super) fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let algorithm = &parsed.signature_algorithm;
    let hash = match SignatureAlgorithm::try_from(algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => hash_of(parameters.hash_algorithm_oid()),
        _ => hash_of(&algorithm.algorithm),
    }?;
    Some(match hash {
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

fn hash_of(algorithm: &Oid<'_>) -> Option<Hash> {
    const SHA256: &[Oid<'_>] = &[
        registry::OID_PKCS1_MD5WITHRSAENC,
        registry::OID_PKCS1_SHA1WITHRSA,
        ECDSA_WITH_SHA1,
        registry::OID_HASH_SHA1,
        registry::OID_PKCS1_SHA256WITHRSA,
        registry::OID_SIG_ECDSA_WITH_SHA256,
        registry::OID_NIST_HASH_SHA256,
    ];
    const SHA384: &[Oid<'_>] = &[
        registry::OID_PKCS1_SHA384WITHRSA,
        registry::OID_SIG_ECDSA_WITH_SHA384,
        registry::OID_NIST_HASH_SHA384,
    ];
    const SHA512: &[Oid<'_>] = &[
        registry::OID_PKCS1_SHA512WITHRSA,
        registry::OID_SIG_ECDSA_WITH_SHA512,
        registry::OID_NIST_HASH_SHA512,
    ];
    [
        (SHA256, Hash::Sha256),
        (SHA384, Hash::Sha384),
        (SHA512, Hash::Sha512),
    ]
    .into_iter()
    .find(|(algorithms, _)| algorithms.contains(algorithm))
    .map(|(_, hash)| hash)
}

/// The subject's common name; `None` if there is none, or none that is text without NUL (PostgreSQL refuses those too:
/// a name that two readers end at different places names two people).
#[must_use]
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.contains('\0')).then(|| name.to_owned())
}

/// The common name where it may stand for a host name: libpq looks at it only if the certificate has no alternative
/// names for hosts.
pub(super) fn common_name_as_host(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names_hosts = parsed
        .subject_alternative_name()
        .ok()?
        .is_some_and(|names| {
            names
                .value
                .general_names
                .iter()
                .any(|name| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
        });
    if names_hosts {
        return None;
    }
    common_name(certificate)
}

/// Whether a common name, perhaps with a wildcard for its whole first label, names `host` (RFC 6125, section 6.4.3).
pub(super) fn names_host(common_name: &str, host: &str) -> bool {
    if let Some(domain) = common_name.strip_prefix("*.") {
        return host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain))
            && host.parse::<std::net::IpAddr>().is_err();
    }
    common_name.eq_ignore_ascii_case(host)
}

/// First and last second of validity, as Unix times.
pub(super) fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    Some((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

/// The bits of a certificate's public key.
pub(super) fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().subject_public_key.data.to_vec())
}

/// The bits of a SubjectPublicKeyInfo.
pub(super) fn key_bits(info: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = SubjectPublicKeyInfo::from_der(info).ok()?;
    Some(parsed.subject_public_key.data.to_vec())
}

/// OpenSSL's names, which operators know and PgBouncer's console shows.
fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "unknown",
    }
}

fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "prime256v1",
        NamedGroup::secp384r1 => "secp384r1",
        _ => "unknown",
    }
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
