//! Why a client was not let in: what it is told, and what only the log may know.

use super::attributes::Malformed;
use super::kdf::TooManyIterations;
use super::scram::ScramError;
use crate::protocol::SqlState;

/// Why a client is not let in. `Display` is for the client and the same for every wrong secret and unknown user; the log
/// may add [`Cause`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// 28P01.
    #[error("password authentication failed for user \"{user}\"")]
    Password {
        /// The user of the startup packet.
        user: String,
        /// For the log only.
        cause: Cause,
    },
    /// 08P01.
    #[error("malformed password message: {0}")]
    Malformed(Malformed),
    /// 08P01, 0A000 or 28000.
    #[error(transparent)]
    Scram(#[from] ScramError),
}

impl Denied {
    /// The code for the client, as PostgreSQL's own in the same place.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::Password { .. } => SqlState::INVALID_PASSWORD,
            Self::Malformed(_) | Self::Scram(ScramError::Malformed(_)) => {
                SqlState::PROTOCOL_VIOLATION
            }
            Self::Scram(ScramError::Unsupported(_)) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::Scram(ScramError::Downgrade | ScramError::ChannelBinding) => {
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION
            }
        }
    }
}

/// The truth behind [`Denied::Password`], never told to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// No secret is known for this name.
    #[error("no such user, or no secret is stored for it")]
    NoSecret,
    /// There are secrets, and none that this method can check.
    #[error("none of the user's secrets can be checked by this method")]
    NoUsableSecret,
    /// None fits.
    #[error("wrong password")]
    WrongPassword,
    /// PostgreSQL accepts no empty password.
    #[error("the client sent an empty password")]
    EmptyPassword,
    /// The stored verifier is beyond the limit of iterations.
    #[error(transparent)]
    Iterations(TooManyIterations),
}
