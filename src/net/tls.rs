//! TLS settings of both legs, loaded from their files into what a handshake needs.
//!
//! A reload loads again and swaps the result: what fails to load names the file and changes nothing. Sessions of the old
//! settings are not resumed under the new ones, because tickets and session caches live and die with them.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    client::UnbufferedClientConnection,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject},
    server::{UnbufferedServerConnection, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use thiserror::Error;

use super::{
    certificate,
    tls_records::Side,
    tls_session::TlsSession,
    verify::{ServerVerifier, Verify},
};

/// The ALPN name of PostgreSQL's protocol (manual, "Direct SSL").
pub(super) const ALPN: &[u8] = b"postgresql";

/// TLS towards clients (`client_tls_*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptTls {
    /// Our certificate and its key.
    pub identity: Identity,
    /// Authorities of client certificates. With it every client is asked for a certificate, and one that is
    /// presented must be good (as PostgreSQL's `ssl_ca_file`).
    pub ca_file: Option<PathBuf>,
    /// `verify-ca`, `verify-full`: a client without a certificate is refused.
    pub client_certificate_required: bool,
    /// Versions to offer.
    pub versions: TlsVersions,
}

/// TLS towards servers (`server_tls_*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectTls {
    /// How far a server is verified.
    pub verify: Verify,
    /// Who is trusted to vouch for servers; needed to verify anything.
    pub roots: Option<Roots>,
    /// Our certificate, for servers that ask for one.
    pub identity: Option<Identity>,
    /// Versions to offer.
    pub versions: TlsVersions,
}

/// A certificate (with its intermediates after it) and its key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key_file: PathBuf,
    /// Own certificate first.
    pub cert_file: PathBuf,
}

/// Trusted authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// PEM file of CA certificates.
    File(PathBuf),
    /// The public web's authorities, as compiled in (libpq's `sslrootcert=system`).
    Public,
}

/// TLS versions to offer; older ones than 1.2 are not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersions {
    /// `secure`: 1.2 and 1.3.
    #[default]
    Both,
    /// `tlsv1.2`.
    Only12,
    /// `tlsv1.3`.
    Only13,
}

/// The TLS server of the client leg. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
    expires: i64,
}

/// The TLS client of the server leg. Cheap to clone; one session cache for all clones.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    verify: Verify,
    is_direct: bool,
}

/// Why TLS settings cannot be used.
#[derive(Debug, Error)]
pub enum TlsConfigError {
    /// The operating system refused the file.
    #[error("cannot read the {what} file \"{}\"", path.display())]
    Unreadable {
        /// Which setting.
        what: PemFile,
        /// Its value.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// Not PEM, or cut short.
    #[error("the {what} file \"{}\" is malformed", path.display())]
    Malformed {
        /// Which setting.
        what: PemFile,
        /// Its value.
        path: PathBuf,
        /// Where it goes wrong.
        #[source]
        source: pem::Error,
    },
    /// PEM, but not of what is needed.
    #[error("there is no {what} in the file \"{}\"{hint}", path.display())]
    Missing {
        /// Which setting.
        what: PemFile,
        /// Its value.
        path: PathBuf,
        /// What may help.
        hint: &'static str,
    },
    /// Well-formed, but rustls cannot work with it.
    #[error("the {what} in the file \"{}\" cannot be used", path.display())]
    Unusable {
        /// Which setting.
        what: PemFile,
        /// Its value.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A key for another certificate.
    #[error("the private key \"{}\" does not belong to the certificate \"{}\"", key.display(), certificate.display())]
    KeyMismatch {
        /// The key file.
        key: PathBuf,
        /// The certificate file.
        certificate: PathBuf,
    },
    /// Verification without anybody to trust.
    #[error("verifying certificates needs a CA file")]
    NoAuthority,
    /// No version in common with the cryptography compiled in, or no randomness.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Which file an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PemFile {
    /// `*_tls_key_file`.
    PrivateKey,
    /// `*_tls_cert_file`.
    Certificate,
    /// `*_tls_ca_file`.
    Authority,
}

impl Acceptor {
    /// Reads the files and checks that they belong together.
    pub fn load(settings: &AcceptTls) -> Result<Self, TlsConfigError> {
        let provider = Arc::new(ring::default_provider());
        let certified = settings.identity.load(&provider)?;
        let certificate = &certified.cert[0];
        let end_point = certificate::end_point_hash(certificate);
        let expires = certificate::validity(certificate).map_or(i64::MAX, |(_, until)| until);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(settings.versions.offered())
            .map_err(TlsConfigError::Setup)?;
        let builder = match &settings.ca_file {
            None if settings.client_certificate_required => {
                return Err(TlsConfigError::NoAuthority);
            }
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(trust(path, &read_certificates(PemFile::Authority, path)?)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = if settings.client_certificate_required {
                    verifier.build()
                } else {
                    verifier.allow_unauthenticated().build()
                };
                builder.with_client_cert_verifier(verifier.map_err(|error| {
                    TlsConfigError::Setup(rustls::Error::General(error.to_string()))
                })?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Tickets instead of a cache: no memory, no lock, for clients that never come back.
        config.ticketer = ring::Ticketer::new().map_err(TlsConfigError::Setup)?;
        config.send_tls13_tickets = 1;
        Ok(Self {
            config: Arc::new(config),
            end_point: end_point.map(Arc::from),
            expires,
        })
    }

    /// When our certificate expires, as Unix time in seconds.
    #[must_use]
    pub fn expires(&self) -> i64 {
        self.expires
    }

    /// Whether `tls-server-end-point` can be offered (SCRAM-SHA-256-PLUS).
    #[must_use]
    pub fn has_channel_binding(&self) -> bool {
        self.end_point.is_some()
    }

    pub(super) fn session(&self) -> Result<Box<TlsSession>, rustls::Error> {
        let side = UnbufferedServerConnection::new(Arc::clone(&self.config))?;
        let end_point = self.end_point.clone();
        Ok(Box::new(TlsSession::new(Side::Server(side), end_point)))
    }
}

impl Connector {
    /// TLS begins at once, without an SSLRequest (PostgreSQL 17's `sslnegotiation=direct`).
    #[must_use]
    pub fn direct(mut self, is_direct: bool) -> Self {
        self.is_direct = is_direct;
        self
    }

    /// Whether TLS begins without an SSLRequest.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Reads the files and checks that they belong together.
    pub fn load(settings: &ConnectTls) -> Result<Self, TlsConfigError> {
        let provider = Arc::new(ring::default_provider());
        let (roots, pinned) = match &settings.roots {
            None if settings.verify == Verify::Nothing => (RootCertStore::empty(), Vec::new()),
            None => return Err(TlsConfigError::NoAuthority),
            Some(Roots::Public) => (
                webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
                Vec::new(),
            ),
            Some(Roots::File(path)) => {
                let certificates = read_certificates(PemFile::Authority, path)?;
                (trust(path, &certificates)?, certificates)
            }
        };
        let verifier = ServerVerifier::new(settings.verify, roots, pinned, &provider);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(settings.versions.offered())
            .map_err(TlsConfigError::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let certified = identity.load(builder.crypto_provider())?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            config: Arc::new(config),
            verify: settings.verify,
            is_direct: false,
        })
    }

    /// `None` for a host that no certificate could name although it must.
    pub(super) fn server_name(&self, host: &str) -> Option<ServerName<'static>> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Some(name),
            // An address is not sent as SNI, and nothing will compare it.
            Err(_) if self.verify != Verify::ChainAndName => {
                Some(ServerName::from(std::net::Ipv4Addr::UNSPECIFIED))
            }
            Err(_) => None,
        }
    }

    pub(super) fn session(
        &self,
        name: ServerName<'static>,
    ) -> Result<Box<TlsSession>, rustls::Error> {
        let side = UnbufferedClientConnection::new(Arc::clone(&self.config), name)?;
        Ok(Box::new(TlsSession::new(Side::Client(side), None)))
    }
}

impl Identity {
    /// Not by rustls' own constructors, which know only certificates of X.509 version 3.
    fn load(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsConfigError> {
        let chain = read_certificates(PemFile::Certificate, &self.cert_file)?;
        let key = provider
            .key_provider
            .load_private_key(self.read_key()?)
            .map_err(|source| TlsConfigError::Unusable {
                what: PemFile::PrivateKey,
                path: self.key_file.clone(),
                source,
            })?;
        let certified_key =
            certificate::public_key(&chain[0]).ok_or_else(|| TlsConfigError::Unusable {
                what: PemFile::Certificate,
                path: self.cert_file.clone(),
                source: rustls::CertificateError::BadEncoding.into(),
            })?;
        let own_key = key
            .public_key()
            .and_then(|spki| certificate::key_bits(&spki));
        // A key that cannot tell is not a key that contradicts.
        if own_key.is_some_and(|own_key| own_key != certified_key) {
            return Err(TlsConfigError::KeyMismatch {
                key: self.key_file.clone(),
                certificate: self.cert_file.clone(),
            });
        }
        Ok(CertifiedKey::new(chain, key))
    }

    fn read_key(&self) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
        let what = PemFile::PrivateKey;
        let path = &self.key_file;
        let pem = read(what, path)?;
        PrivateKeyDer::from_pem_slice(&pem).map_err(|source| match source {
            pem::Error::NoItemsFound => TlsConfigError::Missing {
                what,
                path: path.clone(),
                hint: if pem.windows(9).any(|word| word == b"ENCRYPTED") {
                    " (it is encrypted with a passphrase, which is not supported)"
                } else {
                    ""
                },
            },
            source => TlsConfigError::Malformed {
                what,
                path: path.clone(),
                source,
            },
        })
    }
}

impl TlsVersions {
    fn offered(self) -> &'static [&'static SupportedProtocolVersion] {
        use rustls::version::{TLS12, TLS13};
        const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
        match self {
            Self::Both => BOTH,
            Self::Only13 => &BOTH[..1],
            Self::Only12 => &BOTH[1..],
        }
    }
}

fn read(what: PemFile, path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    fs::read(path).map_err(|source| TlsConfigError::Unreadable {
        what,
        path: path.to_owned(),
        source,
    })
}

fn read_certificates(
    what: PemFile,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let certificates = CertificateDer::pem_slice_iter(&read(what, path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsConfigError::Malformed {
            what,
            path: path.to_owned(),
            source,
        })?;
    if certificates.is_empty() {
        return Err(TlsConfigError::Missing {
            what,
            path: path.to_owned(),
            hint: "",
        });
    }
    Ok(certificates)
}

fn trust(
    path: &Path,
    certificates: &[CertificateDer<'static>],
) -> Result<RootCertStore, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate.clone())
            .map_err(|source| TlsConfigError::Unusable {
                what: PemFile::Authority,
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(roots)
}

impl fmt::Display for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PrivateKey => "private key",
            Self::Certificate => "certificate",
            Self::Authority => "CA certificate",
        })
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

/// A client that does not name its protocol, as older drivers.
#[cfg(test)]
pub(super) fn without_alpn(connector: &Connector) -> Connector {
    let mut config = (*connector.config).clone();
    config.alpn_protocols.clear();
    Connector {
        config: Arc::new(config),
        verify: connector.verify,
        is_direct: connector.is_direct,
    }
}

/// A server that shows a certificate whose key it does not have.
#[cfg(test)]
pub(super) fn impostor(stolen: &Identity, own: &Identity) -> Acceptor {
    let provider = Arc::new(ring::default_provider());
    let certificate = stolen.load(&provider).unwrap().cert;
    let key = own.load(&provider).unwrap().key;
    let pair = SingleCertAndKey::from(CertifiedKey::new(certificate, key));
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(TlsVersions::Both.offered())
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(pair));
    Acceptor {
        config: Arc::new(config),
        end_point: None,
        expires: 0,
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
