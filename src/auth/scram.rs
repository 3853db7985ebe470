//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), our side as the server of a client.
//!
//! ```text
//! server_first(client-first) ──► AwaitingFinal ──client_final──► ReceivedProof ──check(verifier)──► keys
//! ```
//!
//! One value per state, consumed by its step: nothing can be asked twice or out of order. Knows neither users nor
//! where verifiers come from; the verifier is not needed before the proof is there, so that the key derivation of a plain
//! password does not delay the first answer.

use super::attributes::{Attributes, Malformed, is_nonce, text};
use super::keys::{Key, SaltedKeys, ScramVerifier, hmac, sha256, xor};
use super::secret::parse_key;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use subtle::ConstantTimeEq;

/// Longest SASL message we read, in bytes; PostgreSQL's server has the same bound (`PG_MAX_SASL_MESSAGE_LENGTH`).
pub const MAX_SASL_MESSAGE: usize = 1024;

/// A SASL mechanism that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// Without channel binding.
    ScramSha256,
    /// Bound to the TLS channel by `tls-server-end-point` (RFC 5929).
    ScramSha256Plus,
}

impl Mechanism {
    /// As in AuthenticationSASL.
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
        }
    }

    /// The mechanism of that name.
    pub fn parse(name: &[u8]) -> Option<Self> {
        [Self::ScramSha256, Self::ScramSha256Plus]
            .into_iter()
            .find(|mechanism| mechanism.name().as_bytes() == name)
    }
}

/// Why an exchange ends before a proof could be judged. A wrong proof is no error but a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// Not SCRAM's grammar.
    #[error("malformed SCRAM message: {0}")]
    Malformed(Malformed),
    /// Grammar that we do not serve.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The client can bind to the channel and did not see our offer: somebody took it away.
    #[error(
        "the client supports SCRAM channel binding but thinks that this server does not; it does, so the offer was removed on the way"
    )]
    Downgrade,
    /// The client sees another TLS certificate than the one that we presented, or contradicts itself.
    #[error("SCRAM channel binding check failed")]
    ChannelBinding,
}

/// What makes an exchange for an unknown user look like any other: salts that are always the same for the same name.
#[derive(Clone)]
pub struct MockSecret {
    key: Key,
    iterations: u32,
}

impl MockSecret {
    /// `key` is random, made once per process (instances behind one address should share it);
    /// `iterations` is the setting `scram_iterations`.
    pub fn new(key: [u8; 32], iterations: u32) -> Self {
        Self {
            key,
            iterations: iterations.max(1),
        }
    }

    /// Iterations of users without a stored verifier.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The salt of a user without a stored verifier, known or not. 16 bytes, as PostgreSQL's.
    pub fn salt(&self, user: &str) -> [u8; 16] {
        let mut salt = [0; 16];
        salt.copy_from_slice(&hmac(&self.key, &[b"salt\0", user.as_bytes()])[..16]);
        salt
    }

    /// A verifier that no password fits.
    pub fn verifier(&self, user: &str) -> ScramVerifier {
        ScramVerifier {
            iterations: self.iterations,
            salt: self.salt(user).into(),
            stored_key: hmac(&self.key, &[b"stored key\0", user.as_bytes()]),
            server_key: hmac(&self.key, &[b"server key\0", user.as_bytes()]),
        }
    }
}

impl fmt::Debug for MockSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MockSecret(..)")
    }
}

/// Reads client-first-message and answers it.
///
/// `end_point` is the `tls-server-end-point` hash of the certificate that we presented; `Some` means that
/// SCRAM-SHA-256-PLUS was offered. `nonce` is our part of the nonce, fresh.
pub fn server_first(
    mechanism: Mechanism,
    end_point: Option<&[u8]>,
    client_first: &[u8],
    (salt, iterations): (&[u8], u32),
    nonce: &str,
) -> Result<(AwaitingFinal, Vec<u8>), ScramError> {
    let message = text(client_first, MAX_SASL_MESSAGE).map_err(ScramError::Malformed)?;
    let (header, bare) = gs2_header(message)?;
    let binding = match (header.flag, mechanism, end_point) {
        (Flag::Unsupported, Mechanism::ScramSha256, _) => &[][..],
        (Flag::NotOffered, Mechanism::ScramSha256, None) => &[],
        (Flag::NotOffered, Mechanism::ScramSha256, Some(_)) => return Err(ScramError::Downgrade),
        (Flag::Used, Mechanism::ScramSha256Plus, Some(end_point)) => end_point,
        _ => return Err(ScramError::ChannelBinding),
    };
    let client_nonce = client_first_bare(bare)?;
    let mut binding_input = header.text.as_bytes().to_vec();
    binding_input.extend_from_slice(binding);

    let nonce = format!("{client_nonce}{nonce}");
    let server_first = format!("r={nonce},s={},i={iterations}", STANDARD.encode(salt));
    let awaiting = AwaitingFinal {
        first_messages: format!("{bare},{server_first}"),
        binding: STANDARD.encode(binding_input),
        nonce,
    };
    Ok((awaiting, server_first.into_bytes()))
}

/// The client's stand on channel binding, gs2-cbind-flag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flag {
    /// `n`: the client cannot.
    Unsupported,
    /// `y`: the client can, and saw no offer.
    NotOffered,
    /// `p=tls-server-end-point`.
    Used,
}

struct Gs2Header<'a> {
    flag: Flag,
    /// Including its last comma.
    text: &'a str,
}

fn gs2_header(message: &str) -> Result<(Gs2Header<'_>, &str), ScramError> {
    const TRUNCATED: ScramError = ScramError::Malformed("the GS2 header is incomplete");
    let (flag, rest) = message.split_once(',').ok_or(TRUNCATED)?;
    let flag = match flag {
        "n" => Flag::Unsupported,
        "y" => Flag::NotOffered,
        "p=tls-server-end-point" => Flag::Used,
        other if other.starts_with("p=") => {
            return Err(ScramError::Unsupported("this SCRAM channel-binding type"));
        }
        _ => return Err(ScramError::Malformed("unknown channel-binding flag")),
    };
    let (authzid, bare) = rest.split_once(',').ok_or(TRUNCATED)?;
    if authzid.starts_with("a=") {
        return Err(ScramError::Unsupported("a SCRAM authorization identity"));
    }
    if !authzid.is_empty() {
        return Err(ScramError::Malformed("unexpected text in the GS2 header"));
    }
    let text = &message[..message.len() - bare.len()];
    Ok((Gs2Header { flag, text }, bare))
}

/// The client's nonce. Its user name is ignored: the one of the startup packet counts (manual, "SASL Authentication").
fn client_first_bare(bare: &str) -> Result<&str, ScramError> {
    if bare.starts_with("m=") {
        return Err(ScramError::Unsupported("a mandatory SCRAM extension"));
    }
    let mut attributes = Attributes::new(bare);
    let mut nonce = || {
        attributes.expect('n', "the user name is missing")?;
        let nonce = attributes.expect('r', "the nonce is missing")?;
        if !is_nonce(nonce) {
            return Err("the nonce has unprintable characters");
        }
        extensions(&mut attributes)?;
        Ok(nonce)
    };
    nonce().map_err(ScramError::Malformed)
}

/// Optional extensions are ignored; what is none, or comes twice, is refused.
fn extensions(attributes: &mut Attributes<'_>) -> Result<(), Malformed> {
    while let Some((name, _)) = attributes.next()? {
        if "amnrcsipve".contains(name) {
            return Err("an attribute is repeated or out of place");
        }
    }
    Ok(())
}

/// server-first-message is out; the client's proof is to come.
pub struct AwaitingFinal {
    /// client-first-message-bare and server-first-message, of which the AuthMessage begins.
    first_messages: String,
    /// What `c=` must say.
    binding: String,
    nonce: String,
}

impl AwaitingFinal {
    /// Reads client-final-message. The channel binding and the nonce are checked here, the proof is not.
    pub fn client_final(self, message: &[u8]) -> Result<ReceivedProof, ScramError> {
        let message = text(message, MAX_SASL_MESSAGE).map_err(ScramError::Malformed)?;
        // The proof is the last attribute, and base64 has no comma.
        let (without_proof, proof) = message
            .rsplit_once(",p=")
            .ok_or(ScramError::Malformed("the proof is missing"))?;
        let mut attributes = Attributes::new(without_proof);
        let binding = attributes
            .expect('c', "the channel binding is missing")
            .map_err(ScramError::Malformed)?;
        let nonce = attributes
            .expect('r', "the nonce is missing")
            .map_err(ScramError::Malformed)?;
        extensions(&mut attributes).map_err(ScramError::Malformed)?;
        let proof = parse_key(proof).ok_or(ScramError::Malformed("the proof is not a key"))?;

        if !bool::from(binding.as_bytes().ct_eq(self.binding.as_bytes())) {
            return Err(ScramError::ChannelBinding);
        }
        if !bool::from(nonce.as_bytes().ct_eq(self.nonce.as_bytes())) {
            return Err(ScramError::Malformed(
                "the nonce is not the one of this exchange",
            ));
        }
        Ok(ReceivedProof {
            auth_message: format!("{},{without_proof}", self.first_messages),
            proof,
        })
    }
}

impl fmt::Debug for AwaitingFinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitingFinal(..)")
    }
}

/// A well-formed client-final-message, to be held against verifiers of the salt and count that server-first named.
pub struct ReceivedProof {
    auth_message: String,
    proof: Key,
}

impl ReceivedProof {
    /// The client's keys if it knows the verifier's password, else `None`. The same work either way.
    pub fn check(&self, verifier: &ScramVerifier) -> Option<SaltedKeys> {
        let signature = hmac(&verifier.stored_key, &[self.auth_message.as_bytes()]);
        let client_key = xor(&self.proof, &signature);
        let fits: bool = sha256(&client_key).ct_eq(&verifier.stored_key).into();
        fits.then_some(SaltedKeys {
            client_key,
            server_key: verifier.server_key,
        })
    }

    /// server-final-message, by which we prove to know the verifier too.
    pub fn server_final(&self, keys: &SaltedKeys) -> Vec<u8> {
        let signature = hmac(&keys.server_key, &[self.auth_message.as_bytes()]);
        format!("v={}", STANDARD.encode(signature)).into_bytes()
    }
}

impl fmt::Debug for ReceivedProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReceivedProof(..)")
    }
}

#[cfg(test)]
#[path = "scram_tests.rs"]
mod tests;
