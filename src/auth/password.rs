//! A password in clear, and its preparation for SCRAM.
//!
//! Knows nothing of users or methods. The bytes are whatever the peer sent: PostgreSQL does not demand UTF-8 of a password.

use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt;
use subtle::ConstantTimeEq;

/// A password in clear. Hidden from `Debug`; compared in constant time.
#[derive(Clone)]
pub struct Password(Box<[u8]>);

impl Password {
    /// Keeps the bytes as they are.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes in clear.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the empty string, which PostgreSQL never accepts as a password.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Equality whose time depends on the lengths only through the hash of each side, never on where they differ.
    pub fn matches(&self, other: &[u8]) -> bool {
        Sha256::digest(&self.0).ct_eq(&Sha256::digest(other)).into()
    }

    /// The bytes SCRAM hashes: SASLprep (RFC 4013) where it applies, else the password as it is. PostgreSQL falls back in
    /// the same way for bytes that are not UTF-8, prohibited characters, and a result that is empty
    /// (`src/common/saslprep.c`); a stricter reading would lock out users whom the server lets in.
    pub fn prepared(&self) -> Cow<'_, [u8]> {
        let prepared = std::str::from_utf8(&self.0)
            .ok()
            .and_then(|text| stringprep::saslprep(text).ok());
        match prepared {
            Some(Cow::Owned(text)) if !text.is_empty() => Cow::Owned(text.into_bytes()),
            _ => Cow::Borrowed(&self.0),
        }
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sasl_prep_falls_back_to_the_raw_bytes() {
        let prepared = |bytes: &[u8]| Password::new(bytes).prepared().into_owned();
        assert_eq!(prepared(b"pencil"), b"pencil");
        assert_eq!(prepared("I\u{ad}X".as_bytes()), b"IX"); // RFC 4013 section 3, soft hyphen
        assert_eq!(prepared("\u{2168}".as_bytes()), b"IX"); // NFKC of ROMAN NUMERAL NINE
        assert_eq!(prepared(b"bell\x07"), b"bell\x07"); // prohibited
        assert_eq!(
            prepared("\u{627}\u{31}".as_bytes()),
            "\u{627}\u{31}".as_bytes()
        ); // bad bidi
        assert_eq!(prepared("\u{ad}".as_bytes()), "\u{ad}".as_bytes()); // would be empty
        assert_eq!(prepared(b"latin1 \xe9"), b"latin1 \xe9");
    }

    #[test]
    fn comparison_and_debug() {
        let password = Password::from("secret");
        assert!(password.matches(b"secret"));
        assert!(!password.matches(b"secret "));
        assert!(!password.matches(b""));
        assert_eq!(format!("{password:?}"), "Password(..)");
    }
}
