//! One client's password exchange, from the first AuthenticationRequest to the verdict.
//!
//! ```text
//! start ─► Send(CleartextPassword) ─on_message─► [NeedKdf ─on_keys─►]… Done | Denied
//!       ─► Send(Md5Password)       ─on_message─► Done | Denied
//!       ─► Send(Sasl) ─on_message─► Send(SaslContinue) ─on_message─► [NeedKdf ─on_keys─►]… Done | Denied
//! ```
//!
//! A user may have several secrets (rotation). All are checked where the method can: SCRAM names one salt before it sees the
//! proof, so it checks the verifiers that share the first verifier's salt and count, and every plain password.
//!
//! Invariants: an unknown user (no secrets) takes the same path as one whose secrets do not fit; after Done or
//! Denied every further message is Denied.

use super::Entropy;
use super::denied::{Cause, Denied};
use super::kdf::KdfRequest;
use super::keys::{SaltedKeys, ScramKeys, ScramVerifier};
use super::md5::Md5Hash;
use super::password::Password;
use super::scram::{AwaitingFinal, Mechanism, MockSecret, ReceivedProof, server_first};
use super::secret::Secret;
use super::server_exchange::Credentials;
use crate::protocol::encode::{self, Authentication};
use crate::protocol::read::Reader;
use std::fmt;
use std::sync::Arc;

/// How a client is asked to prove itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordMethod {
    /// The password in clear (PgBouncer's `plain`, pg_hba.conf's `password`).
    Plain,
    /// md5; a user who has SCRAM verifiers only, and an unknown one, is asked for SCRAM, as in PostgreSQL.
    Md5,
    /// SCRAM-SHA-256, and -PLUS where the channel allows.
    ScramSha256,
}

/// What a [`ClientExchange`] needs to know.
#[derive(Debug, Clone)]
pub struct ClientExchangeSetup {
    /// The method that configuration or HBA rule demand.
    pub method: PasswordMethod,
    /// The user of the startup packet; fixed before the exchange begins.
    pub user: String,
    /// The user's secrets; empty for an unknown user.
    pub secrets: Arc<[Secret]>,
    /// Makes unknown users look like known ones.
    pub mock: MockSecret,
    /// `tls-server-end-point` hash of the certificate we presented: SCRAM-SHA-256-PLUS is offered.
    pub tls_end_point: Option<Vec<u8>>,
    /// Fresh.
    pub entropy: Entropy,
    /// Bound of any key derivation.
    pub max_iterations: u32,
}

/// An Authentication message for the client (manual, "Message Formats").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthenticationRequest {
    /// AuthenticationCleartextPassword.
    CleartextPassword,
    /// AuthenticationMD5Password.
    Md5Password([u8; 4]),
    /// AuthenticationSASL, the preferred mechanism first.
    Sasl(Vec<Mechanism>),
    /// AuthenticationSASLContinue.
    SaslContinue(Vec<u8>),
    /// AuthenticationSASLFinal; AuthenticationOk follows.
    SaslFinal(Vec<u8>),
}

impl AuthenticationRequest {
    /// Appends the whole message, tag and length included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let names: Vec<&str>;
        let request = match self {
            Self::CleartextPassword => Authentication::CleartextPassword,
            Self::Md5Password(salt) => Authentication::Md5Password(*salt),
            Self::Sasl(mechanisms) => {
                names = mechanisms.iter().map(|m| m.name()).collect();
                Authentication::Sasl(&names)
            }
            Self::SaslContinue(data) => Authentication::SaslContinue(data),
            Self::SaslFinal(data) => Authentication::SaslFinal(data),
        };
        encode::authentication(out, request);
    }
}

/// What the caller does next.
#[derive(Debug)]
pub enum Step {
    /// Send this, then give the next PasswordMessage to [`ClientExchange::on_message`].
    Send(AuthenticationRequest),
    /// Run this off the I/O thread (or find it in the cache) and give the result to [`ClientExchange::on_keys`].
    NeedKdf(KdfRequest),
    /// The client is who it says. `last`, if any, goes before AuthenticationOk.
    Done {
        /// AuthenticationSASLFinal.
        last: Option<AuthenticationRequest>,
        /// What the exchange taught us that logs in to a server as this user.
        proved: Credentials,
    },
    /// It is not; nothing but the error is sent.
    Denied(Denied),
}

/// One client's exchange. Drive it with [`start`](Self::start), [`on_message`](Self::on_message) and
/// [`on_keys`](Self::on_keys) as [`Step`] says.
pub struct ClientExchange {
    setup: ClientExchangeSetup,
    state: State,
}

enum State {
    Start,
    Cleartext,
    Md5 {
        salt: [u8; 4],
    },
    /// AuthenticationSASL is out.
    Mechanism {
        salt: Box<[u8]>,
        iterations: u32,
    },
    /// The mechanism came without client-first-message; an empty challenge is out.
    ClientFirst {
        mechanism: Mechanism,
        salt: Box<[u8]>,
        iterations: u32,
    },
    ClientFinal {
        scram: AwaitingFinal,
        salt: Box<[u8]>,
        iterations: u32,
    },
    /// A cleartext password is held against verifiers, one derivation each, the last one first.
    Derive {
        given: Password,
        verifiers: Vec<ScramVerifier>,
    },
    /// A proof is held against plain passwords, one derivation each, the last one first.
    Prove {
        proof: ReceivedProof,
        salt: Box<[u8]>,
        iterations: u32,
        passwords: Vec<Password>,
    },
    Over,
}

impl ClientExchange {
    /// Nothing happens before [`start`](Self::start).
    pub fn new(setup: ClientExchangeSetup) -> Self {
        Self {
            setup,
            state: State::Start,
        }
    }

    /// The first request.
    pub fn start(&mut self) -> Step {
        let has = |wanted: fn(&Secret) -> bool| self.setup.secrets.iter().any(wanted);
        let md5 = has(|secret| !matches!(secret, Secret::Scram(_)));
        match self.setup.method {
            PasswordMethod::Plain => {
                self.state = State::Cleartext;
                Step::Send(AuthenticationRequest::CleartextPassword)
            }
            PasswordMethod::Md5 if md5 => {
                let salt = self.setup.entropy.md5_salt();
                self.state = State::Md5 { salt };
                Step::Send(AuthenticationRequest::Md5Password(salt))
            }
            PasswordMethod::Md5 | PasswordMethod::ScramSha256 => self.start_scram(),
        }
    }

    fn start_scram(&mut self) -> Step {
        let (salt, iterations) = challenge(&self.setup.user, &self.setup.secrets, &self.setup.mock);
        self.state = State::Mechanism { salt, iterations };
        let mut offered = vec![Mechanism::ScramSha256];
        if self.setup.tls_end_point.is_some() {
            offered.insert(0, Mechanism::ScramSha256Plus);
        }
        Step::Send(AuthenticationRequest::Sasl(offered))
    }

    /// Takes the body of a PasswordMessage, SASLInitialResponse or SASLResponse (all have the tag `p`). The caller's framer has
    /// bounded its length.
    pub fn on_message(&mut self, body: &[u8]) -> Step {
        let next = match std::mem::replace(&mut self.state, State::Over) {
            State::Cleartext => self.on_cleartext(body),
            State::Md5 { salt } => self.on_md5(body, salt),
            State::Mechanism { salt, iterations } => self.on_initial(body, salt, iterations),
            State::ClientFirst {
                mechanism,
                salt,
                iterations,
            } => self.on_client_first(mechanism, body, salt, iterations),
            State::ClientFinal {
                scram,
                salt,
                iterations,
            } => self.on_client_final(scram, body, salt, iterations),
            State::Start | State::Derive { .. } | State::Prove { .. } | State::Over => Err(
                Denied::Malformed("a password message where none was asked for"),
            ),
        };
        next.unwrap_or_else(Step::Denied)
    }

    /// Takes the result of the derivation that [`Step::NeedKdf`] asked for.
    pub fn on_keys(&mut self, keys: &SaltedKeys) -> Step {
        let next = match std::mem::replace(&mut self.state, State::Over) {
            State::Derive {
                given,
                mut verifiers,
            } => match verifiers.pop() {
                Some(verifier) if verifier.accepts(keys) => Ok(done(Credentials::Password(given))),
                _ => self.derive_next(given, verifiers, Cause::WrongPassword),
            },
            State::Prove {
                proof,
                salt,
                iterations,
                mut passwords,
            } => match (
                passwords.pop(),
                proof.check(&keys.verifier(&salt, iterations)),
            ) {
                (Some(password), Some(keys)) => Ok(Step::Done {
                    last: Some(AuthenticationRequest::SaslFinal(proof.server_final(&keys))),
                    proved: Credentials::Password(password),
                }),
                _ => self.prove_next(proof, salt, iterations, passwords),
            },
            _ => Err(Denied::Malformed("keys where none were asked for")),
        };
        next.unwrap_or_else(Step::Denied)
    }

    fn on_cleartext(&mut self, body: &[u8]) -> Result<Step, Denied> {
        let given = cstring(body)?;
        if given.is_empty() {
            return Err(self.wrong(Cause::EmptyPassword));
        }
        let mut cheap = false;
        let mut verifiers = Vec::new();
        for secret in self.setup.secrets.iter().rev() {
            match secret {
                Secret::Plain(password) => cheap |= password.matches(given),
                Secret::Md5(hash) => {
                    cheap |= hash.matches(&Md5Hash::of(&self.setup.user, given));
                }
                Secret::Scram(verifier) => verifiers.push(verifier.clone()),
            }
        }
        let given = Password::new(given);
        if cheap {
            return Ok(done(Credentials::Password(given)));
        }
        let cause = match self.setup.secrets.is_empty() {
            true => Cause::NoSecret,
            false => Cause::WrongPassword,
        };
        self.derive_next(given, verifiers, cause)
    }

    /// Asks for the next verifier's derivation, or gives up with `cause`.
    fn derive_next(
        &mut self,
        given: Password,
        verifiers: Vec<ScramVerifier>,
        cause: Cause,
    ) -> Result<Step, Denied> {
        let Some(verifier) = verifiers.last() else {
            return Err(self.wrong(cause));
        };
        let request = self.kdf(&given, &verifier.salt, verifier.iterations)?;
        self.state = State::Derive { given, verifiers };
        Ok(Step::NeedKdf(request))
    }

    fn on_md5(&self, body: &[u8], salt: [u8; 4]) -> Result<Step, Denied> {
        let answer = cstring(body)?;
        let mut proved = None;
        for secret in self.setup.secrets.iter() {
            let hash = match secret {
                Secret::Plain(password) => Md5Hash::of(&self.setup.user, password.reveal()),
                Secret::Md5(hash) => hash.clone(),
                Secret::Scram(_) => continue,
            };
            if hash.verifies(answer, salt) {
                proved = Some(match secret {
                    Secret::Plain(password) => Credentials::Password(password.clone()),
                    Secret::Md5(_) | Secret::Scram(_) => Credentials::Md5(hash),
                });
            }
        }
        match proved {
            Some(proved) => Ok(done(proved)),
            None => Err(self.wrong(Cause::WrongPassword)),
        }
    }

    /// SASLInitialResponse: mechanism, length, client-first-message.
    fn on_initial(
        &mut self,
        body: &[u8],
        salt: Box<[u8]>,
        iterations: u32,
    ) -> Result<Step, Denied> {
        let mut reader = Reader::new(body);
        let mechanism = reader
            .cstr()
            .map_err(|_| Denied::Malformed("the SASL mechanism is unterminated"))?;
        let mechanism = Mechanism::parse(mechanism)
            .filter(|mechanism| {
                *mechanism == Mechanism::ScramSha256 || self.setup.tls_end_point.is_some()
            })
            .ok_or(Denied::Malformed(
                "the SASL mechanism is not one that was offered",
            ))?;
        let length = reader
            .i32()
            .map_err(|_| Denied::Malformed("the SASL response has no length"))?;
        let data = reader.rest();
        match length {
            -1 if data.is_empty() => {
                self.state = State::ClientFirst {
                    mechanism,
                    salt,
                    iterations,
                };
                Ok(Step::Send(AuthenticationRequest::SaslContinue(Vec::new())))
            }
            length if usize::try_from(length) == Ok(data.len()) => {
                self.on_client_first(mechanism, data, salt, iterations)
            }
            _ => Err(Denied::Malformed(
                "the SASL response is not as long as it says",
            )),
        }
    }

    fn on_client_first(
        &mut self,
        mechanism: Mechanism,
        data: &[u8],
        salt: Box<[u8]>,
        iterations: u32,
    ) -> Result<Step, Denied> {
        let (scram, answer) = server_first(
            mechanism,
            self.setup.tls_end_point.as_deref(),
            data,
            (&salt, iterations),
            &self.setup.entropy.nonce(),
        )?;
        self.state = State::ClientFinal {
            scram,
            salt,
            iterations,
        };
        Ok(Step::Send(AuthenticationRequest::SaslContinue(answer)))
    }

    fn on_client_final(
        &mut self,
        scram: AwaitingFinal,
        data: &[u8],
        salt: Box<[u8]>,
        iterations: u32,
    ) -> Result<Step, Denied> {
        let proof = scram.client_final(data)?;
        let mut passwords = Vec::new();
        let mut verifiers = Vec::new();
        for secret in self.setup.secrets.iter().rev() {
            match secret {
                Secret::Scram(verifier)
                    if *verifier.salt == *salt && verifier.iterations == iterations =>
                {
                    verifiers.push(verifier);
                }
                Secret::Plain(password) => passwords.push(password.clone()),
                Secret::Scram(_) | Secret::Md5(_) => {}
            }
        }
        let mock = self.setup.mock.verifier(&self.setup.user);
        let verifiers = match verifiers.is_empty() {
            // An unknown user costs what a known one costs.
            true => vec![&mock],
            false => verifiers,
        };
        // No early exit, so that the time does not say which of them fits.
        let found = verifiers
            .into_iter()
            .fold(None, |found, verifier| proof.check(verifier).or(found));
        let Some(keys) = found else {
            return self.prove_next(proof, salt, iterations, passwords);
        };
        Ok(Step::Done {
            last: Some(AuthenticationRequest::SaslFinal(proof.server_final(&keys))),
            proved: Credentials::Scram(ScramKeys {
                keys,
                salt,
                iterations,
            }),
        })
    }

    /// Asks for the next plain password's derivation, or gives up.
    fn prove_next(
        &mut self,
        proof: ReceivedProof,
        salt: Box<[u8]>,
        iterations: u32,
        passwords: Vec<Password>,
    ) -> Result<Step, Denied> {
        let Some(password) = passwords.last() else {
            let md5_only = |secret: &Secret| matches!(secret, Secret::Md5(_));
            return Err(self.wrong(match &*self.setup.secrets {
                [] => Cause::NoSecret,
                secrets if secrets.iter().all(md5_only) => Cause::NoUsableSecret,
                _ => Cause::WrongPassword,
            }));
        };
        let request = self.kdf(password, &salt, iterations)?;
        self.state = State::Prove {
            proof,
            salt,
            iterations,
            passwords,
        };
        Ok(Step::NeedKdf(request))
    }

    fn kdf(&self, password: &Password, salt: &[u8], iterations: u32) -> Result<KdfRequest, Denied> {
        KdfRequest::new(
            &self.setup.user,
            password.clone(),
            salt,
            iterations,
            self.setup.max_iterations,
        )
        .map_err(|error| self.wrong(Cause::Iterations(error)))
    }

    fn wrong(&self, cause: Cause) -> Denied {
        Denied::Password {
            user: self.setup.user.clone(),
            cause,
        }
    }
}

impl fmt::Debug for ClientExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientExchange")
            .field("user", &self.setup.user)
            .finish_non_exhaustive()
    }
}

/// The salt and count that SCRAM names for this user: those of the first verifier, else made up, the same each time.
fn challenge(user: &str, secrets: &[Secret], mock: &MockSecret) -> (Box<[u8]>, u32) {
    secrets
        .iter()
        .find_map(|secret| match secret {
            Secret::Scram(verifier) => Some((verifier.salt.clone(), verifier.iterations)),
            Secret::Plain(_) | Secret::Md5(_) => None,
        })
        .unwrap_or_else(|| (mock.salt(user).into(), mock.iterations()))
}

/// The derivations that SCRAM logins of this user will ask for, to be run ahead: then the first login of a user with a plain
/// password takes no longer than that of an unknown one, and a login storm after a start costs no PBKDF2.
pub fn derivations_ahead(
    user: &str,
    secrets: &[Secret],
    mock: &MockSecret,
    limit: u32,
) -> Vec<KdfRequest> {
    let (salt, iterations) = challenge(user, secrets, mock);
    secrets
        .iter()
        .filter_map(|secret| match secret {
            Secret::Plain(password) => {
                KdfRequest::new(user, password.clone(), &salt, iterations, limit).ok()
            }
            Secret::Md5(_) | Secret::Scram(_) => None,
        })
        .collect()
}

fn done(proved: Credentials) -> Step {
    Step::Done { last: None, proved }
}

/// The string of a PasswordMessage, which must fill the body.
fn cstring(body: &[u8]) -> Result<&[u8], Denied> {
    match body.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Denied::Malformed(
            "the password is not one terminated string",
        )),
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
