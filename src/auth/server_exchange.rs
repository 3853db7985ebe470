//! Our login to a server: on each Authentication message, what to answer.
//!
//! ```text
//! Start ──Ok──► Authenticated
//!   ├─CleartextPassword, MD5Password──► Answered ──Ok──► Authenticated
//!   └─SASL──► ClientFirst ──SASLContinue──► [NeedKdf] ──► Final ──SASLFinal──► Proved ──Ok──► Authenticated
//! ```
//!
//! Knows no socket. The server is distrusted: it gets one try, its AuthenticationOk counts in the middle of SCRAM only after
//! its own proof, and a password goes out in clear only where the caller allows it.

use super::Entropy;
use super::attributes::Malformed;
use super::kdf::{KdfRequest, TooManyIterations};
use super::keys::{SaltedKeys, ScramKeys};
use super::md5::Md5Hash;
use super::password::Password;
use super::scram::Mechanism;
use super::scram_client::{
    AwaitingServerFinal, Binding, ClientFirst, ScramClientError, ServerFirst,
};
use std::fmt;

/// What logs in to a server as one user.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Nothing: `trust`, `peer`, or a client certificate.
    None,
    /// The password: answers every method.
    Password(Password),
    /// The stored md5 hash: answers md5 only.
    Md5(Md5Hash),
    /// A client's SCRAM keys: answers SCRAM of servers with the same verifier.
    Scram(ScramKeys),
}

impl Credentials {
    fn describe(&self) -> &'static str {
        match self {
            Self::None => "no password of this user is known here",
            Self::Password(_) => "a password cannot answer that",
            Self::Md5(_) => "an md5 hash cannot answer that",
            Self::Scram(_) => "SCRAM keys cannot answer that",
        }
    }
}

/// What a [`ServerExchange`] needs to know.
#[derive(Debug, Clone)]
pub struct ServerExchangeSetup {
    /// The user that we log in as.
    pub user: String,
    /// What we have.
    pub credentials: Credentials,
    /// The channel. Says whether SCRAM can bind to it and whether a password may go over it in clear.
    pub channel: Channel,
    /// Fresh.
    pub entropy: Entropy,
    /// Bound of the iterations that the server may ask for.
    pub max_iterations: u32,
}

/// What the login runs over.
#[derive(Debug, Clone)]
pub enum Channel {
    /// TLS; the hash is `tls-server-end-point` of the server's certificate, if it can be computed.
    Tls {
        /// Used for SCRAM-SHA-256-PLUS when the server offers it.
        end_point: Option<Vec<u8>>,
    },
    /// No TLS, and whoever configured it knows: a Unix socket, or TLS switched off. Cleartext is allowed.
    Open,
    /// No TLS although it was preferred (sslmode `prefer`): anyone on the way may have refused it in the server's name, so a
    /// cleartext password is not sent.
    Downgraded,
}

/// What the caller does next.
#[derive(Debug)]
pub enum ServerStep {
    /// Send this as the body of a `p` message and read on.
    Send(Vec<u8>),
    /// Run this off the I/O thread (or find it in the cache) and give the result to [`ServerExchange::on_keys`].
    NeedKdf(KdfRequest),
    /// Read on.
    Wait,
    /// AuthenticationOk, rightly.
    Authenticated,
}

/// Why the login cannot go on. None of them says anything about the password.
#[derive(Debug, thiserror::Error)]
pub enum ServerExchangeError {
    /// We have nothing that answers the server's method.
    #[error("the server asks for {asked}; {have}")]
    CannotAnswer {
        /// The server's method.
        asked: &'static str,
        /// What we have.
        have: &'static str,
    },
    /// See [`Channel::Downgraded`].
    #[error(
        "the server asks for the password in clear on a connection without TLS that server_tls_sslmode wanted with TLS; set it to \"require\", or to \"disable\" to allow this"
    )]
    CleartextRefused,
    /// A method that we do not speak.
    #[error("the server asks for authentication method {0}, which is not supported")]
    Unsupported(&'static str),
    /// The secret was changed on one side only.
    #[error(
        "the server's SCRAM secret has another salt or iteration count than the one that the client proved to us; both must hold the identical secret"
    )]
    VerifierDiffers,
    /// Not the protocol's grammar.
    #[error("malformed Authentication message: {0}")]
    Malformed(Malformed),
    /// A right message at the wrong time.
    #[error("the server sent {0} out of order")]
    OutOfOrder(&'static str),
    /// SCRAM went wrong.
    #[error(transparent)]
    Scram(#[from] ScramClientError),
}

/// One login. Give each Authentication message's body to [`on_authentication`](Self::on_authentication).
pub struct ServerExchange {
    setup: ServerExchangeSetup,
    state: State,
}

enum State {
    Start,
    Answered,
    ClientFirst(ClientFirst),
    Derive(ServerFirst),
    Final(AwaitingServerFinal),
    Proved,
    Over,
}

type Result<T> = std::result::Result<T, ServerExchangeError>;

impl ServerExchange {
    /// At the point where StartupMessage has been sent.
    pub fn new(setup: ServerExchangeSetup) -> Self {
        Self {
            setup,
            state: State::Start,
        }
    }

    /// Takes the body of an `R` message.
    pub fn on_authentication(&mut self, body: &[u8]) -> Result<ServerStep> {
        let (code, data) = body
            .split_first_chunk::<4>()
            .ok_or(ServerExchangeError::Malformed(
                "it is shorter than its code",
            ))?;
        match (
            i32::from_be_bytes(*code),
            std::mem::replace(&mut self.state, State::Over),
        ) {
            (0, State::Start | State::Answered | State::Proved) => Ok(ServerStep::Authenticated),
            (0, _) => Err(ServerExchangeError::OutOfOrder("AuthenticationOk")),
            (3, State::Start) => self.cleartext(),
            (5, State::Start) => self.md5(data),
            (10, State::Start) => self.sasl(data),
            (11, State::ClientFirst(first)) => self.sasl_continue(first, data),
            (12, State::Final(awaiting)) => {
                awaiting.verify(data)?;
                self.state = State::Proved;
                Ok(ServerStep::Wait)
            }
            (2, _) => Err(ServerExchangeError::Unsupported("Kerberos V5")),
            (7 | 8, _) => Err(ServerExchangeError::Unsupported("GSSAPI")),
            (9, _) => Err(ServerExchangeError::Unsupported("SSPI")),
            (3 | 5 | 10..=12, _) => {
                Err(ServerExchangeError::OutOfOrder("an Authentication request"))
            }
            _ => Err(ServerExchangeError::Malformed("its code is unknown")),
        }
    }

    /// Takes the result of the derivation that [`ServerStep::NeedKdf`] asked for.
    pub fn on_keys(&mut self, keys: &SaltedKeys) -> Result<ServerStep> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Derive(first) => Ok(self.prove(first, keys)),
            _ => Err(ServerExchangeError::OutOfOrder("keys")),
        }
    }

    fn cleartext(&mut self) -> Result<ServerStep> {
        let Credentials::Password(password) = &self.setup.credentials else {
            return Err(self.cannot_answer("a cleartext password"));
        };
        if matches!(self.setup.channel, Channel::Downgraded) {
            return Err(ServerExchangeError::CleartextRefused);
        }
        self.state = State::Answered;
        Ok(ServerStep::Send(terminated(password.reveal().to_vec())))
    }

    fn md5(&mut self, data: &[u8]) -> Result<ServerStep> {
        let salt = data
            .try_into()
            .map_err(|_| ServerExchangeError::Malformed("the md5 salt is not 4 bytes"))?;
        let hash = match &self.setup.credentials {
            Credentials::Password(password) => Md5Hash::of(&self.setup.user, password.reveal()),
            Credentials::Md5(hash) => hash.clone(),
            Credentials::None | Credentials::Scram(_) => {
                return Err(self.cannot_answer("an md5 password"));
            }
        };
        self.state = State::Answered;
        Ok(ServerStep::Send(terminated(hash.answer(salt))))
    }

    fn sasl(&mut self, data: &[u8]) -> Result<ServerStep> {
        if !matches!(
            self.setup.credentials,
            Credentials::Password(_) | Credentials::Scram(_)
        ) {
            return Err(self.cannot_answer("SCRAM-SHA-256"));
        }
        let list = data
            .strip_suffix(b"\0\0")
            .ok_or(ServerExchangeError::Malformed(
                "the list of SASL mechanisms is unterminated",
            ))?;
        let offers = |wanted: Mechanism| {
            list.split(|b| *b == 0)
                .any(|name| Mechanism::parse(name) == Some(wanted))
        };
        let binding = match &self.setup.channel {
            Channel::Tls {
                end_point: Some(hash),
            } => match offers(Mechanism::ScramSha256Plus) {
                true => Binding::EndPoint(hash),
                false => Binding::NotOffered,
            },
            Channel::Tls { end_point: None } | Channel::Open | Channel::Downgraded => {
                Binding::Impossible
            }
        };
        let (first, mechanism, message) = ClientFirst::new(binding, self.setup.entropy.nonce());
        if !offers(mechanism) {
            return Err(ServerExchangeError::Unsupported(
                "SASL without SCRAM-SHA-256",
            ));
        }
        self.state = State::ClientFirst(first);
        let mut body = terminated(mechanism.name().into());
        let length = u32::try_from(message.len()).expect("our own messages are short");
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(&message);
        Ok(ServerStep::Send(body))
    }

    fn sasl_continue(&mut self, first: ClientFirst, data: &[u8]) -> Result<ServerStep> {
        // With a client's keys nothing is derived, so no count can cost us anything.
        let limit = match &self.setup.credentials {
            Credentials::Scram(_) => u32::MAX,
            _ => self.setup.max_iterations,
        };
        let first = first.server_first(data, limit)?;
        match &self.setup.credentials {
            Credentials::Scram(keys) if keys.fits(first.salt(), first.iterations()) => {
                let keys = keys.keys.clone();
                Ok(self.prove(first, &keys))
            }
            Credentials::Scram(_) => Err(ServerExchangeError::VerifierDiffers),
            Credentials::Password(password) => {
                let request = KdfRequest::new(
                    &self.setup.user,
                    password.clone(),
                    first.salt(),
                    first.iterations(),
                    limit,
                )
                .map_err(|error: TooManyIterations| ScramClientError::from(error))?;
                self.state = State::Derive(first);
                Ok(ServerStep::NeedKdf(request))
            }
            Credentials::None | Credentials::Md5(_) => Err(self.cannot_answer("SCRAM-SHA-256")),
        }
    }

    fn prove(&mut self, first: ServerFirst, keys: &SaltedKeys) -> ServerStep {
        let (awaiting, message) = first.prove(keys);
        self.state = State::Final(awaiting);
        ServerStep::Send(message)
    }

    fn cannot_answer(&self, asked: &'static str) -> ServerExchangeError {
        ServerExchangeError::CannotAnswer {
            asked,
            have: self.setup.credentials.describe(),
        }
    }
}

impl fmt::Debug for ServerExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerExchange")
            .field("user", &self.setup.user)
            .finish_non_exhaustive()
    }
}

fn terminated(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.push(0);
    bytes
}

#[cfg(test)]
#[path = "server_exchange_tests.rs"]
mod tests;
