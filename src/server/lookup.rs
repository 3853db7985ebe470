//! `auth_query`: asks a server for the secret of one user.
//!
//! The user's name goes as a parameter, never into the text. Knows no cache and no policy.

use super::connect::MAX_LOGIN_MESSAGE;
use super::inquiry::{Inquiry, InquiryError, Rows};

/// What the server knows of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No row.
    NoSuchUser,
    /// A row whose password is NULL: none is set, or it has expired (VALID UNTIL).
    NoPassword,
    /// The text of the secret.
    Secret(SecretText),
}

/// A secret's text as the server keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// The text in clear.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// Why the secret is not known.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The server's own error, or no answer.
    #[error("auth_query failed")]
    Inquiry(#[source] InquiryError),
    /// Not `user, password`, at most one row.
    #[error("auth_query must return at most one row of two columns, user name and password: {0}")]
    Shape(&'static str),
}

/// Asks for the secret of `user`. The caller bounds it in time (`auth_query_timeout`).
///
/// # Cancel safety
/// As [`Inquiry::ask`].
pub async fn look_up(inquiry: &mut Inquiry, query: &str, user: &str) -> Result<Found, LookupError> {
    let rows = inquiry.ask_about(query, user, MAX_LOGIN_MESSAGE).await;
    verdict(&rows.map_err(LookupError::Inquiry)?, user)
}

fn verdict(rows: &Rows, user: &str) -> Result<Found, LookupError> {
    let Some(row) = rows.at(0) else {
        return Ok(Found::NoSuchUser);
    };
    if rows.len() > 1 {
        return Err(LookupError::Shape("it returned several rows"));
    }
    if row.columns() < 2 {
        return Err(LookupError::Shape("it returned one column"));
    }
    match (row.bytes(0), row.bytes(1)) {
        (None, _) => Ok(Found::NoSuchUser),
        // The answer for one name must never serve another.
        (Some(name), _) if name != user.as_bytes() => {
            Err(LookupError::Shape("it returned another user's name"))
        }
        (Some(_), None | Some([])) => Ok(Found::NoPassword),
        (Some(_), Some(_)) => match row.text(1) {
            Some(text) => Ok(Found::Secret(SecretText(text.to_owned()))),
            None => Err(LookupError::Shape("the password is not UTF-8")),
        },
    }
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
