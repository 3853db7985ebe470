//! Everything about who may connect that is read from files: TLS of both legs, HBA rules, user maps.
//!
//! Loaded as a whole and swapped as a whole: a reload with one bad file changes nothing.

use std::{fs, io, path::Path, path::PathBuf};

use crate::{
    auth::{
        hba::{HbaError, Rules},
        ident::IdentMaps,
    },
    config::{Config, SslMode, SslNegotiation, TlsProtocols},
    net::{
        AcceptTls, Acceptor, ConnectTls, Connector, Identity, Roots, TlsConfigError, TlsVersions,
        Verify,
    },
};

/// What logins and connects need.
#[derive(Default)]
pub struct Security {
    /// TLS towards clients; `None` when switched off.
    pub acceptor: Option<Acceptor>,
    /// TLS towards servers; `None` when switched off.
    pub connector: Option<Connector>,
    /// Of `auth_hba_file`.
    pub hba: Option<Rules>,
    /// Of `auth_ident_file`.
    pub ident: IdentMaps,
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security").finish_non_exhaustive()
    }
}

/// One of the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// A file of rules cannot be read.
    #[error("{setting}: cannot read \"{}\"", path.display())]
    Read {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A file of rules is wrong.
    #[error("{setting}: \"{}\"", path.display())]
    Rules {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        #[source]
        source: HbaError,
    },
}

impl Security {
    /// Reads what the configuration names.
    pub fn load(config: &Config) -> Result<Self, SecurityError> {
        let process = &config.process;
        let hba = process.auth_hba_file.as_deref().map(read_hba).transpose()?;
        let ident = process
            .auth_ident_file
            .as_deref()
            .map(read_ident)
            .transpose()?;
        Ok(Self {
            acceptor: acceptor(config)?,
            connector: connector(config)?,
            hba,
            ident: ident.unwrap_or_default(),
        })
    }
}

fn read_hba(path: &Path) -> Result<Rules, SecurityError> {
    let setting = "auth_hba_file";
    let directory = path.parent().unwrap_or_else(|| Path::new(""));
    let mut include =
        |name: &str| fs::read_to_string(directory.join(name)).map_err(|error| error.to_string());
    Rules::parse(&read(setting, path)?, &mut include).map_err(|source| SecurityError::Rules {
        setting,
        path: path.into(),
        source,
    })
}

fn read_ident(path: &Path) -> Result<IdentMaps, SecurityError> {
    let setting = "auth_ident_file";
    IdentMaps::parse(&read(setting, path)?).map_err(|source| SecurityError::Rules {
        setting,
        path: path.into(),
        source,
    })
}

fn read(setting: &'static str, path: &Path) -> Result<String, SecurityError> {
    fs::read_to_string(path).map_err(|source| SecurityError::Read {
        setting,
        path: path.into(),
        source,
    })
}

fn identity(key: Option<&PathBuf>, cert: Option<&PathBuf>) -> Option<Identity> {
    Some(Identity {
        key_file: key?.clone(),
        cert_file: cert?.clone(),
    })
}

fn acceptor(config: &Config) -> Result<Option<Acceptor>, TlsConfigError> {
    let tls = &config.process.client_tls;
    let identity = identity(tls.key_file.as_ref(), tls.cert_file.as_ref());
    let Some(identity) = identity.filter(|_| tls.sslmode != SslMode::Disable) else {
        return Ok(None);
    };
    Acceptor::load(&AcceptTls {
        identity,
        ca_file: tls.ca_file.clone(),
        client_certificate_required: tls.sslmode >= SslMode::VerifyCa,
        versions: versions(tls.protocols),
    })
    .map(Some)
}

fn connector(config: &Config) -> Result<Option<Connector>, TlsConfigError> {
    let tls = &config.process.server_tls;
    if tls.sslmode == SslMode::Disable {
        return Ok(None);
    }
    Connector::load(&ConnectTls {
        verify: match tls.sslmode {
            SslMode::VerifyFull => Verify::ChainAndName,
            SslMode::VerifyCa => Verify::Chain,
            _ => Verify::Nothing,
        },
        roots: Some(tls.ca_file.clone().map_or(Roots::Public, Roots::File)),
        identity: identity(tls.key_file.as_ref(), tls.cert_file.as_ref()),
        versions: versions(tls.protocols),
    })
    .map(|connector| Some(connector.direct(tls.negotiation == SslNegotiation::Direct)))
}

fn versions(protocols: TlsProtocols) -> TlsVersions {
    match (protocols.v1_2, protocols.v1_3) {
        (true, false) => TlsVersions::Only12,
        (false, true) => TlsVersions::Only13,
        _ => TlsVersions::Both,
    }
}
