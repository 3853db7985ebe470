//! A throw-away certification authority and what it signs, as PEM files for the tests of `net`.

use std::{cell::Cell, fs, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use tempfile::TempDir;

use super::{AcceptTls, Acceptor, ConnectTls, Connector, Identity, Roots, TlsVersions, Verify};

pub(super) struct Pki {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
    issued: Cell<u32>,
}

impl Pki {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = subject("test authority");
        let key = KeyPair::generate().unwrap();
        let pki = Self {
            directory: TempDir::new().unwrap(),
            authority: CertifiedIssuer::self_signed(params, key).unwrap(),
            issued: Cell::new(0),
        };
        fs::write(pki.ca_file(), pki.authority.pem()).unwrap();
        pki
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A certificate for `common_name`, with `hosts` as alternative names.
    pub(super) fn identity(&self, common_name: &str, hosts: &[&str]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params(common_name, hosts)
            .signed_by(&key, &self.authority)
            .unwrap();
        self.write(common_name, &certificate.pem(), &key)
    }

    /// As `openssl req -x509` makes them: signed by itself, and an authority.
    pub(super) fn self_signed(&self, common_name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = params(common_name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        self.write(common_name, &certificate.pem(), &key)
    }

    /// Settings of the client leg with a good certificate for `localhost`.
    pub(super) fn accept(&self) -> AcceptTls {
        AcceptTls {
            identity: self.identity("localhost", &["localhost"]),
            ca_file: None,
            client_certificate_required: false,
            versions: TlsVersions::Both,
        }
    }

    /// Settings of the server leg that trust this authority.
    pub(super) fn connect(&self, verify: Verify) -> ConnectTls {
        ConnectTls {
            verify,
            roots: Some(Roots::File(self.ca_file())),
            identity: None,
            versions: TlsVersions::Both,
        }
    }

    pub(super) fn acceptor(&self) -> Acceptor {
        Acceptor::load(&self.accept()).unwrap()
    }

    pub(super) fn connector(&self) -> Connector {
        Connector::load(&self.connect(Verify::ChainAndName)).unwrap()
    }

    fn write(&self, name: &str, certificate: &str, key: &KeyPair) -> Identity {
        self.issued.set(self.issued.get() + 1);
        let number = self.issued.get();
        let identity = Identity {
            key_file: self.path(&format!("{name}-{number}.key")),
            cert_file: self.path(&format!("{name}-{number}.crt")),
        };
        fs::write(&identity.cert_file, certificate).unwrap();
        fs::write(&identity.key_file, key.serialize_pem()).unwrap();
        identity
    }
}

fn params(common_name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = subject(common_name);
    params
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    subject
}
