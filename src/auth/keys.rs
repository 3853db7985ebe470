//! SCRAM-SHA-256's keys (RFC 5802 section 3, RFC 7677): what is derived from what.
//!
//! ```text
//! SaltedPassword = PBKDF2(password, salt, iterations)         kdf.rs; expensive
//! ClientKey      = HMAC(SaltedPassword, "Client Key")         proves a client; kept for pass-through
//! StoredKey      = SHA-256(ClientKey)                         recognises a client
//! ServerKey      = HMAC(SaltedPassword, "Server Key")         proves a server
//! ```
//!
//! Knows nothing of messages.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// Length of every key, signature and proof of SCRAM-SHA-256.
pub const KEY_LEN: usize = 32;

/// One key, signature or proof.
pub(crate) type Key = [u8; KEY_LEN];

/// ClientKey and ServerKey, as the key derivation yields them.
#[derive(Clone)]
pub struct SaltedKeys {
    pub(crate) client_key: Key,
    pub(crate) server_key: Key,
}

impl SaltedKeys {
    /// From RFC 5802's SaltedPassword.
    pub(crate) fn of(salted_password: &Key) -> Self {
        Self {
            client_key: hmac(salted_password, &[b"Client Key"]),
            server_key: hmac(salted_password, &[b"Server Key"]),
        }
    }

    /// What a verifier of the same password under this salt and count holds.
    pub fn verifier(&self, salt: &[u8], iterations: u32) -> ScramVerifier {
        ScramVerifier {
            iterations,
            salt: salt.into(),
            stored_key: sha256(&self.client_key),
            server_key: self.server_key,
        }
    }
}

/// What PostgreSQL keeps in `pg_authid.rolpassword`: enough to recognise a client and to prove itself, not to log in.
#[derive(Clone)]
pub struct ScramVerifier {
    pub(crate) iterations: u32,
    pub(crate) salt: Box<[u8]>,
    pub(crate) stored_key: Key,
    pub(crate) server_key: Key,
}

impl ScramVerifier {
    /// PBKDF2 iteration count.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The salt, decoded.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Whether `keys` were derived from this verifier's password (under its own salt and iterations).
    pub fn accepts(&self, keys: &SaltedKeys) -> bool {
        (sha256(&keys.client_key).ct_eq(&self.stored_key) & keys.server_key.ct_eq(&self.server_key))
            .into()
    }
}

/// The keys of a client that has logged in to us, good to log in to every server that holds the *same* verifier
/// (pass-through: no password needed). The salt and count say which verifier that is.
#[derive(Clone)]
pub struct ScramKeys {
    pub(crate) keys: SaltedKeys,
    pub(crate) salt: Box<[u8]>,
    pub(crate) iterations: u32,
}

impl ScramKeys {
    /// Whether a server that asks with this salt and count holds the verifier that these keys belong to.
    pub(crate) fn fits(&self, salt: &[u8], iterations: u32) -> bool {
        *self.salt == *salt && self.iterations == iterations
    }

    /// Whether these keys log in wherever `verifier` is held: false after the password was changed.
    pub fn match_verifier(&self, verifier: &ScramVerifier) -> bool {
        self.fits(&verifier.salt, verifier.iterations) && verifier.accepts(&self.keys)
    }
}

/// HMAC-SHA-256 over the concatenation of `parts`.
pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(crate) fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

/// ClientProof = ClientKey XOR ClientSignature, and back.
pub(crate) fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
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
hide!(SaltedKeys, ScramVerifier, ScramKeys);
