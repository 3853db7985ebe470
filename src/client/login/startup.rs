//! The packets before authentication, as a strict machine: at most one SSLRequest and one GSSENCRequest, then exactly one
//! StartupMessage or CancelRequest. Whoever is to be authenticated is fixed here and never changes (CVE-2026-107350).

use super::failure::LoginFailure;
use super::options::{self, is_name};
use super::wire::Wire;
use crate::net::{Acceptor, Framed, TLS_HANDSHAKE};
use crate::protocol::startup::{
    MAX_STARTUP_PACKET_LENGTH, ProtocolVersion, Replication, StartupPacket,
};
use crate::session::Settings;

/// What a client begins with.
#[derive(Debug)]
pub(super) enum Opening {
    Session(Hello),
    Cancel { process_id: i32, secret: Vec<u8> },
}

/// A StartupMessage, checked.
#[derive(Debug)]
pub(super) struct Hello {
    /// The version that both speak.
    pub(super) version: ProtocolVersion,
    /// `_pq_.` options that we do not know; with them, or with a newer version, the client is told what we speak.
    pub(super) unknown: Vec<Vec<u8>>,
    pub(super) is_newer: bool,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) replication: Option<Replication>,
    /// All parameters that are settings of the session, those of `options` first.
    pub(super) settings: Settings,
}

/// Reads up to the StartupMessage or CancelRequest. `acceptor` is `None` where TLS is not to be had (also on a Unix socket).
pub(super) async fn open(
    wire: &mut Wire,
    acceptor: Option<&Acceptor>,
) -> Result<Opening, LoginFailure> {
    if wire.first_byte().await? == TLS_HANDSHAKE {
        let acceptor = acceptor.ok_or(LoginFailure::NoTls)?;
        wire.encrypt(async |framed| framed.accept_direct_tls(acceptor).await)
            .await?;
    }
    let (mut tls_asked, mut gss_asked) = (wire.is_encrypted(), wire.is_encrypted());
    loop {
        let packet = wire.startup_packet(MAX_STARTUP_PACKET_LENGTH).await?;
        match StartupPacket::read(&packet).map_err(LoginFailure::Startup)? {
            StartupPacket::SslRequest if tls_asked => {
                return Err(LoginFailure::Repeated("SSLRequest"));
            }
            StartupPacket::SslRequest => {
                tls_asked = true;
                wire.expect_silence("SSLRequest")?;
                match acceptor {
                    None => wire.send(b"N").await?,
                    Some(acceptor) => {
                        wire.send(b"S").await?;
                        wire.encrypt(async |framed: Framed| framed.accept_tls(acceptor).await)
                            .await?;
                        gss_asked = true;
                    }
                }
            }
            StartupPacket::GssEncRequest if gss_asked => {
                return Err(LoginFailure::Repeated("GSSENCRequest"));
            }
            StartupPacket::GssEncRequest => {
                gss_asked = true;
                wire.expect_silence("GSSENCRequest")?;
                wire.send(b"N").await?;
            }
            StartupPacket::CancelRequest { process_id, secret } => {
                let secret = secret.to_vec();
                return Ok(Opening::Cancel { process_id, secret });
            }
            StartupPacket::Startup {
                version,
                parameters,
            } => return hello(version, &parameters).map(Opening::Session),
        }
    }
}

fn hello(asked: ProtocolVersion, parameters: &[(&[u8], &[u8])]) -> Result<Hello, LoginFailure> {
    if asked.major != ProtocolVersion::V3_2.major {
        return Err(LoginFailure::Version(asked));
    }
    let (mut user, mut database, mut replication) = (None, None, None);
    let (mut unknown, mut settings, mut direct) = (Vec::new(), Settings::default(), Vec::new());
    for (name, value) in parameters {
        match *name {
            b"user" => user = Some(text("user", value)?),
            b"database" => database = Some(text("database", value)?),
            b"replication" => replication = parse_replication(value)?,
            b"options" => {
                for (name, value) in options::parse(value)? {
                    settings.insert(&name, &value);
                }
            }
            name if name.starts_with(b"_pq_.") => unknown.push(name.to_vec()),
            name if is_name(name) => direct.push((name, value)),
            name => return Err(LoginFailure::Parameter(name.escape_ascii().to_string())),
        }
    }
    // As in PostgreSQL, a parameter of its own counts more than one in `options`, wherever it stands.
    for (name, value) in direct {
        settings.insert(name, value);
    }
    let user = user
        .filter(|user| !user.is_empty())
        .ok_or(LoginFailure::NoUser)?;
    let database = database.filter(|database| !database.is_empty());
    Ok(Hello {
        version: asked.min(ProtocolVersion::V3_2),
        unknown,
        is_newer: asked > ProtocolVersion::V3_2,
        database: database.unwrap_or_else(|| user.clone()),
        user,
        replication,
        settings,
    })
}

fn text(name: &'static str, value: &[u8]) -> Result<String, LoginFailure> {
    std::str::from_utf8(value)
        .map(str::to_owned)
        .map_err(|_| LoginFailure::NotUtf8(name))
}

/// `database`, or a boolean as PostgreSQL spells them (`parse_bool`: any beginning of a word that tells it from the others).
fn parse_replication(value: &[u8]) -> Result<Option<Replication>, LoginFailure> {
    let lower = value.to_ascii_lowercase();
    let begins =
        |word: &str, least: usize| lower.len() >= least && word.as_bytes().starts_with(&lower);
    if lower == b"database" {
        return Ok(Some(Replication::Logical));
    }
    if begins("true", 1) || begins("yes", 1) || lower == b"on" || lower == b"1" {
        return Ok(Some(Replication::Physical));
    }
    if begins("false", 1) || begins("no", 1) || begins("off", 2) || lower == b"0" {
        return Ok(None);
    }
    Err(LoginFailure::Replication(value.escape_ascii().to_string()))
}
