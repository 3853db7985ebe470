//! PostgreSQL's md5 password method (manual, "Protocol Flow", AuthenticationMD5Password): for the clients and servers that
//! still use it. Knows nothing of messages.

use md5::{Digest, Md5};
use std::fmt;
use std::fmt::Write;
use subtle::ConstantTimeEq;

/// `md5` + this is what `pg_authid` stores: the lower-case hex of MD5(password + user).
#[derive(Clone)]
pub struct Md5Hash([u8; 32]);

impl Md5Hash {
    /// The hash of a user's password.
    pub fn of(user: &str, password: &[u8]) -> Self {
        Self(hex(&[password, user.as_bytes()]))
    }

    /// `md5` and 32 lower-case hex digits; PostgreSQL takes everything else as a plain password.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 32] = text.strip_prefix("md5")?.as_bytes().try_into().ok()?;
        digits
            .iter()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            .then_some(Self(digits))
    }

    /// What a PasswordMessage answers to AuthenticationMD5Password with this salt.
    pub fn answer(&self, salt: [u8; 4]) -> Vec<u8> {
        let mut answer = b"md5".to_vec();
        answer.extend_from_slice(&hex(&[&self.0, &salt]));
        answer
    }

    /// Whether a client's answer to this salt is right, in constant time.
    pub fn verifies(&self, answer: &[u8], salt: [u8; 4]) -> bool {
        self.answer(salt).ct_eq(answer).into()
    }

    /// Whether both are the same hash, in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Hash(..)")
    }
}

fn hex(parts: &[&[u8]]) -> [u8; 32] {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    let mut text = String::with_capacity(32);
    for byte in md5.finalize() {
        write!(text, "{byte:02x}").expect("a String takes every write");
    }
    let mut digits = [0; 32];
    digits.copy_from_slice(text.as_bytes());
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_another_implementation() {
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        let hash = Md5Hash::of("md5_user", b"password");
        assert_eq!(
            hash.answer(salt),
            postgres_protocol::authentication::md5_hash(b"md5_user", b"password", salt).as_bytes()
        );
        assert!(hash.verifies(&hash.answer(salt), salt));
        assert!(!hash.verifies(&hash.answer(salt), [0; 4]));
        assert!(!hash.verifies(b"", salt));
        assert!(!Md5Hash::of("other", b"password").matches(&hash));
    }

    #[test]
    fn reads_only_what_postgresql_stores() {
        // select 'md5' || md5('pencil' || 'alice')
        let stored = Md5Hash::of("alice", b"pencil");
        let text = format!("md5{}", std::str::from_utf8(&stored.0).unwrap());
        assert!(Md5Hash::parse(&text).unwrap().matches(&stored));
        assert!(Md5Hash::parse(&text.to_uppercase()).is_none());
        assert!(Md5Hash::parse(&text[..34]).is_none());
        assert!(Md5Hash::parse(&format!("{text}0")).is_none());
    }
}
