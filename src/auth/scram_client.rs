//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, our side as the client of a server.
//!
//! ```text
//! ClientFirst::new ──► server_first ──► ServerFirst ──prove(keys)──► AwaitingServerFinal ──verify──► done
//! ```
//!
//! The keys come from a password (by `kdf.rs`) or from a client that logged in to us (pass-through). The server is distrusted:
//! lengths and the iteration count are bounded before they cost anything, and nobody is logged in before the
//! server has proved to know the verifier.

use super::attributes::{Attributes, Malformed, is_nonce, text};
use super::kdf::TooManyIterations;
use super::keys::{Key, SaltedKeys, hmac, sha256, xor};
use super::scram::{MAX_SASL_MESSAGE, Mechanism};
use super::secret::{parse_count, parse_key};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use subtle::ConstantTimeEq;

/// Longest nonce, client's and server's part together, that we accept. PostgreSQL's is 48 characters.
const MAX_NONCE: usize = 256;
/// Longest salt that we accept, in bytes. PostgreSQL's is 16.
const MAX_SALT: usize = 128;

/// Why a server is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramClientError {
    /// Not SCRAM's grammar, or beyond its bounds.
    #[error("malformed SCRAM message from the server: {0}")]
    Malformed(Malformed),
    /// More work than the limit allows.
    #[error(transparent)]
    Iterations(#[from] TooManyIterations),
    /// The server does not know the verifier it claims to check against.
    #[error("the server's SCRAM signature is wrong: it does not know this user's secret")]
    WrongSignature,
    /// `e=` in server-final-message.
    #[error("the server refused the SCRAM proof: {0}")]
    Refused(String),
}

/// Which channel the exchange runs over, and what the server offered on it.
#[derive(Debug, Clone, Copy)]
pub enum Binding<'a> {
    /// No TLS, or no hash of the certificate: we cannot bind.
    Impossible,
    /// We could, and the server did not offer it: said with `y`, so that a removed offer is found out.
    NotOffered,
    /// Bind to this `tls-server-end-point` hash.
    EndPoint(&'a [u8]),
}

/// client-first-message is made; server-first-message is to come.
pub struct ClientFirst {
    bare: String,
    nonce: String,
    /// base64 of gs2-header and channel-binding data, for `c=`.
    binding: String,
}

impl ClientFirst {
    /// The state, the mechanism to select and client-first-message. `nonce` is fresh.
    pub fn new(binding: Binding<'_>, nonce: String) -> (Self, Mechanism, Vec<u8>) {
        let (mechanism, header, data) = match binding {
            Binding::Impossible => (Mechanism::ScramSha256, "n,,", &[][..]),
            Binding::NotOffered => (Mechanism::ScramSha256, "y,,", &[][..]),
            Binding::EndPoint(hash) => {
                (Mechanism::ScramSha256Plus, "p=tls-server-end-point,,", hash)
            }
        };
        // The server takes the name of the startup packet, as libpq relies on.
        let bare = format!("n=,r={nonce}");
        let message = format!("{header}{bare}").into_bytes();
        let first = Self {
            bare,
            nonce,
            binding: STANDARD.encode([header.as_bytes(), data].concat()),
        };
        (first, mechanism, message)
    }

    /// Reads server-first-message. `limit` bounds the iterations.
    pub fn server_first(self, message: &[u8], limit: u32) -> Result<ServerFirst, ScramClientError> {
        let message = text(message, MAX_SASL_MESSAGE).map_err(ScramClientError::Malformed)?;
        let (nonce, salt, iterations) =
            parse_server_first(message, &self.nonce).map_err(ScramClientError::Malformed)?;
        if iterations > limit {
            return Err(TooManyIterations {
                asked: iterations,
                limit,
            }
            .into());
        }
        let without_proof = format!("c={},r={nonce}", self.binding);
        Ok(ServerFirst {
            auth_message: format!("{},{message},{without_proof}", self.bare),
            without_proof,
            salt,
            iterations,
        })
    }
}

fn parse_server_first<'m>(
    message: &'m str,
    ours: &str,
) -> Result<(&'m str, Vec<u8>, u32), Malformed> {
    let mut attributes = Attributes::new(message);
    let nonce = attributes.expect('r', "the nonce is missing")?;
    if !is_nonce(nonce) || nonce.len() > MAX_NONCE {
        return Err("the nonce is too long or has unprintable characters");
    }
    if nonce.len() <= ours.len() || !nonce.starts_with(ours) {
        return Err("the nonce does not continue ours");
    }
    let salt = attributes.expect('s', "the salt is missing")?;
    let salt = STANDARD
        .decode(salt)
        .ok()
        .filter(|salt| !salt.is_empty() && salt.len() <= MAX_SALT)
        .ok_or("the salt is not base64 of 1 to 128 bytes")?;
    let iterations = attributes.expect('i', "the iteration count is missing")?;
    let iterations = parse_count(iterations).ok_or("the iteration count is not a number")?;
    while let Some((name, _)) = attributes.next()? {
        if "amnrcsipve".contains(name) {
            return Err("an attribute is repeated or out of place");
        }
    }
    Ok((nonce, salt, iterations))
}

/// server-first-message is read: the salt and count are known, the keys are needed.
pub struct ServerFirst {
    auth_message: String,
    without_proof: String,
    salt: Vec<u8>,
    iterations: u32,
}

impl ServerFirst {
    /// The salt of the server's verifier.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Its iteration count, within the limit.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// client-final-message.
    pub fn prove(self, keys: &SaltedKeys) -> (AwaitingServerFinal, Vec<u8>) {
        let signature = hmac(&sha256(&keys.client_key), &[self.auth_message.as_bytes()]);
        let proof = STANDARD.encode(xor(&keys.client_key, &signature));
        let message = format!("{},p={proof}", self.without_proof);
        let awaiting = AwaitingServerFinal {
            signature: hmac(&keys.server_key, &[self.auth_message.as_bytes()]),
        };
        (awaiting, message.into_bytes())
    }
}

/// client-final-message is out; the server's own proof is to come.
pub struct AwaitingServerFinal {
    signature: Key,
}

impl AwaitingServerFinal {
    /// Reads server-final-message and believes the server only if its signature is right.
    pub fn verify(self, message: &[u8]) -> Result<(), ScramClientError> {
        let message = text(message, MAX_SASL_MESSAGE).map_err(ScramClientError::Malformed)?;
        if let Some(error) = message.strip_prefix("e=") {
            return Err(ScramClientError::Refused(
                error
                    .chars()
                    .filter(char::is_ascii_graphic)
                    .take(64)
                    .collect(),
            ));
        }
        let signature = message
            .strip_prefix("v=")
            .and_then(|rest| rest.split(',').next())
            .and_then(parse_key)
            .ok_or(ScramClientError::Malformed("the signature is missing"))?;
        if signature.ct_eq(&self.signature).into() {
            Ok(())
        } else {
            Err(ScramClientError::WrongSignature)
        }
    }
}

macro_rules! hide {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )*};
}
hide!(ClientFirst, ServerFirst, AwaitingServerFinal);

#[cfg(test)]
#[path = "scram_client_tests.rs"]
mod tests;
