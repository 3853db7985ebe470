//! Who a client is, and how we prove to a server who we are: verdicts from bytes.
//!
//! Everything here is pure: no socket, no clock, no random numbers of its own (the caller hands in [`Entropy`]), so each
//! exchange can be replayed in a test. The expensive part, PBKDF2, never runs inside an exchange: a step that needs
//! it answers with a [`KdfRequest`] and the caller chooses the thread, after a look into its [`SaltedKeyCache`].
//!
//! ```text
//! client leg    ClientExchange   one of hba::Method's password methods, against any number of Secrets
//! server leg    ServerExchange   answers AuthenticationXxx with Credentials
//! ```
//!
//! Invariants:
//! * An unknown user takes the same steps, sees the same kind of salt, and fails with the same words as a known one
//!   with a wrong password.
//! * Secrets are never printed: every type that holds one has a `Debug` that hides it.
//! * Comparisons of secrets and proofs take the same time wherever they differ.
//! * Both peers are hostile: every length and count is checked against a constant or a setting before it costs anything.

pub mod denied;
pub mod exchange;
pub mod hba;
pub mod ident;
pub mod kdf;
pub mod keys;
pub mod md5;
pub mod password;
pub mod scram;
pub mod scram_client;
pub mod secret;
pub mod server_exchange;

mod attributes;

pub use denied::{Cause, Denied};
pub use exchange::{
    AuthenticationRequest, ClientExchange, ClientExchangeSetup, PasswordMethod, Step,
};
pub use kdf::{KdfRequest, SaltedKeyCache, TooManyIterations};
pub use keys::{SaltedKeys, ScramKeys, ScramVerifier};
pub use md5::Md5Hash;
pub use password::Password;
pub use scram::MockSecret;
pub use secret::{BadSecret, Secret};
pub use server_exchange::{
    Channel, Credentials, ServerExchange, ServerExchangeError, ServerExchangeSetup, ServerStep,
};

/// Fresh random bytes for one exchange, filled by the caller from the operating system: the nonce and the md5 salt are
/// cut from it. Using one value twice makes recorded logins replayable.
#[derive(Clone)]
pub struct Entropy(pub [u8; Self::LEN]);

impl Entropy {
    /// Number of random bytes one exchange uses.
    pub const LEN: usize = 32;
    const NONCE: usize = 18;

    /// 24 printable characters for a SCRAM nonce, as many as PostgreSQL's own (`SCRAM_RAW_NONCE_LEN` 18, in base64).
    fn nonce(&self) -> String {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(&self.0[..Self::NONCE])
    }

    /// The salt of AuthenticationMD5Password.
    fn md5_salt(&self) -> [u8; 4] {
        let mut salt = [0; 4];
        salt.copy_from_slice(&self.0[Self::NONCE..Self::NONCE + 4]);
        salt
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy(..)")
    }
}
