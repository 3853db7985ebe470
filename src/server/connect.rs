//! One new connection to a PostgreSQL server, from the socket to the first ReadyForQuery.
//!
//! ```text
//! resolve ─ connect ─ [SSLRequest ─ TLS] ─ StartupMessage ─ authentication ─ ParameterStatus, BackendKeyData … ReadyForQuery
//! ```
//!
//! One deadline (`server_connect_timeout`) spans it all. The server is distrusted: messages and their number are bounded, nothing is
//! believed before AuthenticationOk, an error of the server is kept as bytes and never interpreted beyond its code.
//! Knows nothing of pools and of what happens to the connection afterwards.

use super::connect_error::{ConnectError, ConnectFailure, ServerRefusal, Step};
use super::derivations::Derivations;
use crate::auth::{Channel, Credentials, Entropy, ServerExchange, ServerExchangeSetup, ServerStep};
use crate::config::SslMode;
use crate::net::{
    self, Address, ConnectOptions, Connector, Framed, Message, Resolver, Stream, TcpOptions,
};
use crate::protocol::backend::{self, TransactionStatus};
use crate::protocol::read::Reader;
use crate::protocol::startup::{self, ProtocolVersion};
use crate::protocol::{BackendTag, Malformed, SqlState, encode, frame};
use bytes::BytesMut;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Longest message of a server before ReadyForQuery, in bytes; libpq takes errors up to 30,000.
pub const MAX_LOGIN_MESSAGE: u32 = 30_000;
/// Most bytes of a server before ReadyForQuery, in all messages. PostgreSQL sends about 500.
pub const MAX_LOGIN_BYTES: usize = 256 * 1024;

/// What to connect to, as whom, and how.
#[derive(Debug, Clone)]
pub struct ConnectTarget {
    /// Which server; the host's name is what `verify-full` verifies.
    pub address: Address,
    /// Only this one of the host's addresses: where the session is that a CancelRequest is about.
    pub at: Option<SocketAddr>,
    /// As whom.
    pub user: String,
    /// To which of its databases.
    pub database: String,
    /// Further parameters of StartupMessage: `application_name`, `replication`, `client_encoding` …, without NUL.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// `server_tls_sslmode`; of no effect on a Unix socket.
    pub sslmode: SslMode,
    /// TLS settings; needed unless `sslmode` is `disable`.
    pub connector: Option<Connector>,
    /// Socket options.
    pub tcp: TcpOptions,
    /// The version to ask for. An older server answers with its own; a pooler between may not.
    pub protocol: ProtocolVersion,
    /// `server_connect_timeout`, for all of it.
    pub timeout: Duration,
    /// Bound of the SCRAM iterations that the server may ask for.
    pub max_iterations: u32,
}

/// A session, ready for a query.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: Stream,
    /// Which of the host's addresses it is; `None` for a Unix socket.
    pub address: Option<SocketAddr>,
    /// What the server sent behind ReadyForQuery; nearly always nothing.
    pub received: BytesMut,
    /// The version spoken.
    pub version: ProtocolVersion,
    /// Each ParameterStatus, in the server's order.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// BackendKeyData; some servers send none, and cannot be cancelled.
    pub key: Option<BackendKey>,
}

/// What cancels a session's queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendKey {
    /// Process id of the backend.
    pub process_id: i32,
    /// 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub secret: Vec<u8>,
}

/// Connects and logs in. `resolver` is this worker's; `derivations` runs SCRAM's expensive part.
///
/// # Errors
/// The server's own error as it sent it, or at which step what else went wrong.
///
/// # Cancel safety
/// Dropping it closes the connection.
pub async fn connect(
    target: &ConnectTarget,
    resolver: &Resolver,
    credentials: &Credentials,
    derivations: &Derivations,
) -> Result<Connected, ConnectError> {
    let attempt = Attempt::new(target, resolver);
    let mut encryption = attempt.first();
    loop {
        match attempt.run(encryption, credentials, derivations).await {
            Ok(connected) => return Ok(connected),
            Err(failure) => encryption = attempt.next(encryption, failure)?,
        }
    }
}

/// Opens a connection as [`connect`] does, but without a login: for a cancel request.
///
/// # Errors
/// At which step what went wrong.
///
/// # Cancel safety
/// Dropping it closes the connection.
pub async fn open(target: &ConnectTarget, resolver: &Resolver) -> Result<Framed, ConnectError> {
    let attempt = Attempt::new(target, resolver);
    let mut encryption = attempt.first();
    loop {
        match attempt.open(encryption).await {
            Ok((framed, _)) => return Ok(framed),
            Err(failure) => encryption = attempt.next(encryption, failure)?,
        }
    }
}

/// One way to try a login, in libpq's sense of `sslmode` (manual section 34.19.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Never,
    IfOffered,
    Always,
}

impl Encryption {
    /// What is tried, the next one only if the one before it failed for lack, or because, of encryption.
    fn tries(target: &ConnectTarget) -> &'static [Self] {
        match (&target.address, target.sslmode) {
            (Address::Unix { .. }, _) | (_, SslMode::Disable) => &[Self::Never],
            (_, SslMode::Allow) => &[Self::Never, Self::Always],
            (_, SslMode::Prefer) => &[Self::IfOffered, Self::Never],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Self::Always],
        }
    }
}

/// Whether the other try of `allow` and `prefer` may go better: the handshake failed, or pg_hba.conf has no rule for a connection
/// with (or without) TLS. A wrong password, a full server would be the same again.
fn is_about_encryption(failure: &ConnectFailure) -> bool {
    match failure {
        ConnectFailure::Tls(_) | ConnectFailure::SslAnswer(_) => true,
        ConnectFailure::Refused(refusal) => {
            refusal.sqlstate == Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
        }
        _ => false,
    }
}

struct Attempt<'a> {
    target: &'a ConnectTarget,
    resolver: &'a Resolver,
    deadline: Instant,
}

type Outcome<T> = Result<T, ConnectFailure>;

impl<'a> Attempt<'a> {
    fn new(target: &'a ConnectTarget, resolver: &'a Resolver) -> Self {
        let deadline = Instant::now() + target.timeout;
        Self {
            target,
            resolver,
            deadline,
        }
    }

    fn first(&self) -> Encryption {
        Encryption::tries(self.target)[0]
    }

    /// What to try after `failed`, if that may go better.
    fn next(
        &self,
        failed: Encryption,
        failure: ConnectFailure,
    ) -> Result<Encryption, ConnectError> {
        let tries = Encryption::tries(self.target).iter();
        let other = tries.skip_while(|tried| **tried != failed).nth(1);
        match other {
            Some(other) if is_about_encryption(&failure) => Ok(*other),
            _ => Err(ConnectError {
                server: self.target.address.to_string().into(),
                user: self.target.user.as_str().into(),
                database: self.target.database.as_str().into(),
                failure,
            }),
        }
    }

    async fn open(&self, encryption: Encryption) -> Outcome<(Framed, Option<SocketAddr>)> {
        let options = ConnectOptions {
            tcp: self.target.tcp,
            timeout: self.deadline.saturating_duration_since(Instant::now()),
        };
        let at = self.target.at;
        let at = at.map(|at| Address::new(&at.ip().to_string(), at.port()));
        let address = at.as_ref().unwrap_or(&self.target.address);
        let opened = net::connect(address, self.resolver, &options).await;
        let net::Connected { stream, address } = opened.map_err(ConnectFailure::Socket)?;
        let framed = Framed::new(stream);
        let framed = match encryption {
            Encryption::Never => framed,
            Encryption::IfOffered | Encryption::Always => self.encrypt(framed, encryption).await?,
        };
        Ok((framed, address))
    }

    async fn run(
        &self,
        encryption: Encryption,
        credentials: &Credentials,
        derivations: &Derivations,
    ) -> Outcome<Connected> {
        let (framed, address) = self.open(encryption).await?;
        let mut login = Login {
            framed,
            attempt: self,
            credentials,
            derivations,
            taken: 0,
        };
        login.start().await?;
        let version = login.authenticate().await?;
        let connected = login.settle(version).await?;
        Ok(Connected {
            address,
            ..connected
        })
    }

    /// Bounds one wait by the deadline of the whole login.
    async fn within<T>(&self, step: Step, wait: impl Future<Output = T>) -> Outcome<T> {
        let limit = self.target.timeout;
        timeout_at(self.deadline, wait)
            .await
            .map_err(|_| ConnectFailure::Timeout { step, limit })
    }

    async fn encrypt(&self, mut framed: Framed, encryption: Encryption) -> Outcome<Framed> {
        let step = Step::Encrypting;
        let connector = self.target.connector.as_ref();
        let (Some(connector), Address::Tcp { host, .. }) = (connector, &self.target.address) else {
            return Err(ConnectFailure::NoConnector);
        };
        if connector.is_direct() {
            return self
                .within(step, framed.connect_direct_tls(connector, host))
                .await?
                .map_err(ConnectFailure::Tls);
        }
        let request = startup::ssl_request();
        let sent = self.within(step, framed.write(&request)).await?;
        sent.map_err(|source| ConnectFailure::Send { step, source })?;
        let answer = self.within(step, framed.read_answer()).await?;
        match answer.map_err(|source| ConnectFailure::Receive { step, source })? {
            b'S' => self
                .within(step, framed.connect_tls(connector, host))
                .await?
                .map_err(ConnectFailure::Tls),
            b'N' if encryption == Encryption::IfOffered => Ok(framed),
            b'N' => Err(ConnectFailure::NoTls(self.target.sslmode)),
            // An error here is not the server's for certain, and is not shown (CVE-2024-10977).
            other => Err(ConnectFailure::SslAnswer(other)),
        }
    }

    /// What may go over this stream.
    fn channel(&self, stream: &Stream) -> Channel {
        if stream.tls().is_some() {
            let end_point = stream.server_end_point();
            Channel::Tls { end_point }
        } else if self.target.sslmode == SslMode::Prefer && !stream.is_unix() {
            Channel::Downgraded
        } else {
            Channel::Open
        }
    }
}

struct Login<'a> {
    framed: Framed,
    attempt: &'a Attempt<'a>,
    credentials: &'a Credentials,
    derivations: &'a Derivations,
    taken: usize,
}

impl Login<'_> {
    async fn start(&mut self) -> Outcome<()> {
        let target = self.attempt.target;
        let own = [
            (&b"user"[..], target.user.as_bytes()),
            (b"database", target.database.as_bytes()),
        ];
        let further = target.parameters.iter();
        let further = further.map(|(name, value)| (&name[..], &value[..]));
        let packet = startup::startup_message(target.protocol, own.into_iter().chain(further));
        self.send(Step::Authenticating, &packet).await
    }

    /// Up to AuthenticationOk; yields the version that is spoken.
    async fn authenticate(&mut self) -> Outcome<ProtocolVersion> {
        let mut entropy = Entropy([0; Entropy::LEN]);
        getrandom::fill(&mut entropy.0).map_err(ConnectFailure::Random)?;
        let target = self.attempt.target;
        let mut exchange = ServerExchange::new(ServerExchangeSetup {
            user: target.user.clone(),
            credentials: self.credentials.clone(),
            channel: self.attempt.channel(self.framed.stream()),
            entropy,
            max_iterations: target.max_iterations,
        });
        let mut version = target.protocol;
        loop {
            let message = self.next(Step::Authenticating).await?;
            let mut step = match BackendTag::from_byte(message.tag) {
                Some(BackendTag::Authentication) => exchange.on_authentication(&message.body)?,
                Some(BackendTag::NegotiateProtocolVersion) => {
                    version = negotiated(&message.body, target.protocol)?;
                    continue;
                }
                Some(BackendTag::NoticeResponse) => continue,
                _ => return Err(refused_or_unexpected(&message, Step::Authenticating)),
            };
            if let ServerStep::NeedKdf(request) = step {
                let derive = self.derivations.derive(request);
                let keys = self.attempt.within(Step::Authenticating, derive).await?;
                step = exchange.on_keys(&keys)?;
            }
            match step {
                ServerStep::Send(body) => {
                    let mut out = Vec::new();
                    encode::password(&mut out, &body);
                    self.send(Step::Authenticating, &out).await?;
                }
                ServerStep::Authenticated => return Ok(version),
                ServerStep::Wait | ServerStep::NeedKdf(_) => {}
            }
        }
    }

    /// Up to ReadyForQuery.
    async fn settle(mut self, version: ProtocolVersion) -> Outcome<Connected> {
        let mut parameters = Vec::new();
        let mut key = None;
        loop {
            let message = self.next(Step::Settling).await?;
            let malformed = |message| move |source| ConnectFailure::Body { message, source };
            match BackendTag::from_byte(message.tag) {
                Some(BackendTag::ParameterStatus) => {
                    let (name, value) = backend::parameter_status(&message.body)
                        .map_err(malformed("ParameterStatus"))?;
                    parameters.push((name.to_vec(), value.to_vec()));
                }
                Some(BackendTag::BackendKeyData) => {
                    let (process_id, secret) = backend::backend_key_data(&message.body)
                        .map_err(malformed("BackendKeyData"))?;
                    let secret = secret.to_vec();
                    key = Some(BackendKey { process_id, secret });
                }
                Some(BackendTag::ReadyForQuery)
                    if backend::ready_for_query(&message.body) == Ok(TransactionStatus::Idle) =>
                {
                    let (stream, received) = self.framed.into_parts();
                    return Ok(Connected {
                        stream,
                        address: None,
                        received,
                        version,
                        parameters,
                        key,
                    });
                }
                Some(BackendTag::NoticeResponse) => {}
                _ => return Err(refused_or_unexpected(&message, Step::Settling)),
            }
        }
    }

    async fn send(&mut self, step: Step, bytes: &[u8]) -> Outcome<()> {
        let sent = self.attempt.within(step, self.framed.write(bytes)).await?;
        sent.map_err(|source| ConnectFailure::Send { step, source })
    }

    async fn next(&mut self, step: Step) -> Outcome<Message> {
        let known = |tag| BackendTag::from_byte(tag).map(|_| MAX_LOGIN_MESSAGE);
        let read = self.attempt.within(step, self.framed.read_message(known));
        let message = read.await?;
        let message = message.map_err(|source| ConnectFailure::Receive { step, source })?;
        self.taken += message.body.len() + frame::HEADER;
        match self.taken > MAX_LOGIN_BYTES {
            true => Err(ConnectFailure::TooMuch {
                step,
                limit: MAX_LOGIN_BYTES,
            }),
            false => Ok(message),
        }
    }
}

fn refused_or_unexpected(message: &Message, step: Step) -> ConnectFailure {
    let tag = message.tag;
    match BackendTag::from_byte(tag) {
        Some(BackendTag::ErrorResponse) => ConnectFailure::Refused(ServerRefusal::of(message)),
        _ => ConnectFailure::Unexpected { tag, step },
    }
}

/// The version in NegotiateProtocolVersion. The manual says it is the minor version alone; servers send both numbers.
fn negotiated(body: &[u8], asked: ProtocolVersion) -> Outcome<ProtocolVersion> {
    let mut reader = Reader::new(body);
    let read = reader.i32().map(|newest| {
        let [a, b, c, d] = newest.to_be_bytes();
        (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    });
    let (major, minor) = read.map_err(|source: Malformed| ConnectFailure::Body {
        message: "NegotiateProtocolVersion",
        source,
    })?;
    let version = ProtocolVersion {
        major: if major == 0 { asked.major } else { major },
        minor,
    };
    if version.major != asked.major || version > asked {
        return Err(ConnectFailure::Version {
            major: version.major,
            minor,
        });
    }
    Ok(version)
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
