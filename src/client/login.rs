//! A client's login: from its first byte to the moment at which it is owed AuthenticationOk.
//!
//! ```text
//! accepted ─ [SSLRequest, TLS | GSSENCRequest] ─ StartupMessage ─ authentication ─► Session | Console
//!                                              └ CancelRequest ────────────────────► Cancel
//! ```
//!
//! One deadline (`client_login_timeout`) spans it all, and nothing before it ends takes more than 10 kB. Knows which databases and
//! users there are; knows no pools, and sends no ParameterStatus: what is owed is returned unsent, so that the caller's
//! welcome goes out in the same write. A client that fails has been told why before [`login`] returns.

mod authenticate;
mod failure;
mod options;
mod startup;
mod wire;

use std::sync::Arc;

use bytes::BytesMut;

pub use failure::{LoginError, LoginFailure};
pub use options::OptionsError;

use self::authenticate::{Proof, authenticate};
use self::startup::{Hello, Opening};
use self::wire::Wire;
use super::auth_query::{AuthQueryCache, SecretSource};
use crate::auth::Credentials;
use crate::auth::hba::{Method, Rules};
use crate::auth::ident::IdentMaps;
use crate::config::{Config, Database, SslMode};
use crate::net::{Acceptor, Peer, Stream};
use crate::protocol::encode;
use crate::protocol::startup::{ProtocolVersion, Replication};
use crate::server::Derivations;
use crate::session::Settings;

/// The databases that are the console.
pub const CONSOLE_DATABASES: [&str; 2] = ["pgbouncer", "pgweir"];

/// What a login needs to know.
#[derive(Clone, Copy)]
pub struct LoginContext<'a> {
    /// Who is at the other end.
    pub peer: Peer,
    /// Databases, users and settings.
    pub config: &'a Config,
    /// Of `auth_hba_file`; without rules `auth_type = "hba"` lets nobody in.
    pub hba: Option<&'a Rules>,
    /// Of `auth_ident_file`.
    pub ident: &'a IdentMaps,
    /// TLS towards clients; `None` answers SSLRequest with `N`.
    pub acceptor: Option<&'a Acceptor>,
    /// Random, the same for all of the process: makes unknown users look like known ones.
    pub mock_key: [u8; 32],
    /// Bound of the SCRAM iterations that a stored secret may ask of us; never below `scram_iterations`.
    pub max_iterations: u32,
    /// Computes keys.
    pub derivations: &'a Derivations,
    /// Answers of `auth_query`.
    pub answers: &'a AuthQueryCache,
    /// Asks `auth_query`; `None` asks nobody.
    pub secret_source: Option<&'a dyn SecretSource>,
    /// Our own user id: over a Unix socket it may use the console without a password, as in PgBouncer.
    pub own_uid: u32,
}

/// A login that succeeded.
#[derive(Debug)]
pub enum Login {
    /// A session of this database.
    Session(Box<LoggedIn>, Arc<Database>),
    /// The console.
    Console(Box<LoggedIn>, ConsoleRole),
    /// A cancel request. The connection is to be kept until it has been carried out, for its end tells the client so.
    Cancel {
        /// The connection; nothing is ever said on it.
        stream: Stream,
        /// As our BackendKeyData said.
        process_id: i32,
        /// As our BackendKeyData said; 4 to 256 bytes.
        secret: Vec<u8>,
    },
}

/// What someone may do in the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleRole {
    /// Everything.
    Admin,
    /// SHOW.
    Stats,
}

/// A client that is who it says.
#[derive(Debug)]
pub struct LoggedIn {
    /// The connection.
    pub stream: Stream,
    /// What came behind the login; it belongs to the session.
    pub received: BytesMut,
    /// Unsent: NegotiateProtocolVersion, AuthenticationSASLFinal, AuthenticationOk.
    pub owed: Vec<u8>,
    /// Its name.
    pub user: String,
    /// The database it asked for.
    pub database: String,
    /// The version it speaks: decides the length of its cancel key.
    pub version: ProtocolVersion,
    /// Its parameters, also those in `options`: the defaults of its session.
    pub settings: Settings,
    /// Whether it speaks the replication protocol.
    pub replication: Option<Replication>,
    /// What it has proved, to log in to servers in its name.
    pub credentials: Credentials,
    /// How it has proved it.
    pub method: Method,
}

/// Logs a client in, or tells it why not.
///
/// # Errors
/// For the log; the client has been told.
///
/// # Cancel safety
/// Dropping it closes the connection without a word.
pub async fn login(stream: Stream, context: &LoginContext<'_>) -> Result<Login, LoginError> {
    let mut wire = Wire::new(stream, context.config.process.client_login_timeout);
    let mut names = (None, None);
    let failure = match run(&mut wire, context, &mut names).await {
        Ok(Outcome::Cancel { process_id, secret }) => match wire.into_parts() {
            Ok((stream, _)) => {
                return Ok(Login::Cancel {
                    stream,
                    process_id,
                    secret,
                });
            }
            Err(failure) => failure,
        },
        Ok(Outcome::In(hello, proof, place)) => match wire.into_parts() {
            Ok((stream, received)) => {
                let client = Box::new(LoggedIn {
                    stream,
                    received,
                    owed: proof.owed,
                    user: hello.user,
                    database: hello.database,
                    version: hello.version,
                    settings: hello.settings,
                    replication: hello.replication,
                    credentials: proof.credentials,
                    method: proof.method,
                });
                return Ok(match place {
                    Place::Database(database) => Login::Session(client, database),
                    Place::Console(role) => Login::Console(client, role),
                });
            }
            Err(failure) => failure,
        },
        Err(failure) => {
            if !failure.is_departure() {
                wire.say_farewell(&failure).await;
            }
            failure
        }
    };
    let (user, database) = names;
    Err(LoginError {
        user,
        database,
        failure,
    })
}

enum Outcome {
    In(Box<Hello>, Proof, Place),
    Cancel { process_id: i32, secret: Vec<u8> },
}

/// Where a client goes.
enum Place {
    Database(Arc<Database>),
    Console(ConsoleRole),
}

async fn run(
    wire: &mut Wire,
    context: &LoginContext<'_>,
    names: &mut (Option<String>, Option<String>),
) -> Result<Outcome, LoginFailure> {
    let is_unix = matches!(context.peer, Peer::Unix { .. });
    let acceptor = context.acceptor.filter(|_| !is_unix);
    let hello = match startup::open(wire, acceptor).await? {
        Opening::Session(hello) => Box::new(hello),
        Opening::Cancel { process_id, secret } => {
            return Ok(Outcome::Cancel { process_id, secret });
        }
    };
    *names = (Some(hello.user.clone()), Some(hello.database.clone()));
    let sslmode = context.config.process.client_tls.sslmode;
    if sslmode >= SslMode::Require && !is_unix && !wire.is_encrypted() {
        return Err(LoginFailure::TlsRequired(sslmode));
    }
    let greeting = greeting(&hello);
    if CONSOLE_DATABASES.contains(&hello.database.as_str()) {
        if is_ourselves(context, &hello) {
            return Ok(Outcome::In(
                hello,
                trusted(greeting),
                Place::Console(ConsoleRole::Admin),
            ));
        }
        let proof = authenticate(wire, context, &hello, None, greeting).await?;
        let role = console_role(context.config, &hello.user)
            .ok_or_else(|| LoginFailure::NotForConsole(hello.user.clone()))?;
        return Ok(Outcome::In(hello, proof, Place::Console(role)));
    }
    let database = context.config.database(&hello.database);
    let proof = authenticate(wire, context, &hello, database.as_deref(), greeting).await?;
    // Not before the client is known: who may not log in does not learn which databases there are.
    let database = database.ok_or_else(|| LoginFailure::NoDatabase(hello.database.clone()))?;
    Ok(Outcome::In(hello, proof, Place::Database(database)))
}

/// NegotiateProtocolVersion, where the client asked for more than we have.
fn greeting(hello: &Hello) -> Vec<u8> {
    let mut out = Vec::new();
    if hello.is_newer || !hello.unknown.is_empty() {
        let unknown: Vec<&[u8]> = hello.unknown.iter().map(Vec::as_slice).collect();
        encode::negotiate_protocol_version(&mut out, hello.version, &unknown);
    }
    out
}

/// Whether an administrator of this machine, by a Unix socket, calls itself what PgBouncer lets in: same user id as the process,
/// user `pgbouncer` (or `pgweir`).
fn is_ourselves(context: &LoginContext<'_>, hello: &Hello) -> bool {
    let same = matches!(context.peer, Peer::Unix { uid } if uid == context.own_uid);
    same && CONSOLE_DATABASES.contains(&hello.user.as_str())
}

fn trusted(mut owed: Vec<u8>) -> Proof {
    encode::authentication(&mut owed, encode::Authentication::Ok);
    Proof {
        method: Method::Peer,
        credentials: Credentials::None,
        owed,
    }
}

fn console_role(config: &Config, user: &str) -> Option<ConsoleRole> {
    let names = |users: &[String]| users.iter().any(|known| known == user);
    if names(&config.process.admin_users) {
        Some(ConsoleRole::Admin)
    } else if names(&config.process.stats_users) {
        Some(ConsoleRole::Stats)
    } else {
        None
    }
}

#[cfg(test)]
#[path = "login/tests.rs"]
mod tests;
