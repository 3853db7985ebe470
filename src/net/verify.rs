//! How far a server's certificate is believed: libpq's `require`, `verify-ca` and `verify-full`.
//!
//! Kept apart from rustls' own verifier for what people's servers really present:
//! * a self-signed certificate given as the CA file too (the manual's quick start) is trusted as itself;
//! * a certificate without alternative names is matched by its common name, as libpq does;
//! * without verification, an X.509 version 1 certificate (what `openssl x509 -req` makes) still proves that the peer owns
//!   its key.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::certificate;

/// What of a server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// `allow`, `prefer`, `require`: encryption only, proof of nobody's identity.
    Nothing,
    /// `verify-ca`: signed by a trusted authority, whatever its name.
    Chain,
    /// `verify-full`: and issued to the host that was asked for.
    ChainAndName,
}

#[derive(Debug)]
pub(super) struct ServerVerifier {
    verify: Verify,
    roots: RootCertStore,
    /// Certificates of the CA file, which a server may also present itself.
    pinned: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(
        verify: Verify,
        roots: RootCertStore,
        pinned: Vec<CertificateDer<'static>>,
        provider: &CryptoProvider,
    ) -> Arc<Self> {
        Arc::new(Self {
            verify,
            roots,
            pinned,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// Of TLS 1.2, several curves may go with one scheme; never empty.
    fn algorithms_of(
        &self,
        scheme: SignatureScheme,
    ) -> Result<&'static [&'static dyn SignatureVerificationAlgorithm], Error> {
        let known = self.algorithms.mapping.iter();
        known
            .filter(|(_, algorithms)| !algorithms.is_empty())
            .find(|(named, _)| *named == scheme)
            .map(|(_, algorithms)| *algorithms)
            .ok_or_else(|| PeerIncompatible::NoSignatureSchemesInCommon.into())
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            return verify_dates(end_entity, now);
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.verify != Verify::Nothing {
            self.verify_chain(end_entity, intermediates, now)?;
        }
        if self.verify == Verify::ChainAndName {
            verify_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = self.algorithms_of(dss.scheme)?;
        verify_signature(algorithms, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // TLS 1.3 has done with PKCS #1 here, and a scheme means one curve (RFC 8446, section 4.2.3): the first listed.
        if !is_tls13_scheme(dss.scheme) {
            return Err(PeerIncompatible::NoSignatureSchemesInCommon.into());
        }
        let algorithms = self.algorithms_of(dss.scheme)?;
        verify_signature(&algorithms[..1], message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_tls13_scheme(scheme: SignatureScheme) -> bool {
    !matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
            | SignatureScheme::ECDSA_SHA1_Legacy
    )
}

fn verify_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (not_before, not_after) =
        certificate::validity(certificate).ok_or(CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < not_before {
        Err(CertificateError::NotValidYet.into())
    } else if now > not_after {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

fn verify_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let verified = ParsedCertificate::try_from(certificate)
        .and_then(|parsed| verify_server_name(&parsed, name));
    let Err(refused) = verified else {
        return Ok(());
    };
    let host = name.to_str();
    match certificate::common_name_as_host(certificate) {
        Some(common_name) if certificate::names_host(&common_name, &host) => Ok(()),
        _ => Err(refused),
    }
}

/// Checks with the certificate's key alone, so that the version of the certificate does not matter.
fn verify_signature(
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let key = &parsed.public_key().subject_public_key.data;
    algorithms
        .iter()
        .find(|algorithm| {
            algorithm
                .verify_signature(key, message, signed.signature())
                .is_ok()
        })
        .map(|_| HandshakeSignatureValid::assertion())
        .ok_or_else(|| CertificateError::BadSignature.into())
}
