//! A stored secret, in the three shapes that PostgreSQL's `rolpassword` and PgBouncer's `auth_file` know.
//!
//! Knows nothing of where it came from. Which exchange can check it is `exchange.rs`'s business.

use super::keys::{KEY_LEN, Key, ScramVerifier};
use super::md5::Md5Hash;
use super::password::Password;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One stored secret of a user.
#[derive(Debug, Clone)]
pub enum Secret {
    /// The password itself.
    Plain(Password),
    /// `md5` + 32 hex digits: MD5 of password and user name.
    Md5(Md5Hash),
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
    Scram(ScramVerifier),
}

/// A text that is no usable secret. Says what is wrong, never the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// PostgreSQL never accepts an empty password.
    #[error("the secret is empty")]
    Empty,
    /// Starts like a verifier and is none. Taken as a plain password it would let in whoever knows this very text.
    #[error(
        "the secret starts with SCRAM-SHA-256$ but is not SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>"
    )]
    Scram,
}

/// What every SCRAM verifier starts with (PostgreSQL manual, `pg_authid`).
const SCRAM_PREFIX: &str = "SCRAM-SHA-256$";

impl Secret {
    /// Reads a secret as PostgreSQL and PgBouncer do: a verifier, an md5 hash (lower-case hex), else a plain password.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        if text.is_empty() {
            return Err(BadSecret::Empty);
        }
        if let Some(rest) = text.strip_prefix(SCRAM_PREFIX) {
            return parse_verifier(rest)
                .map(Self::Scram)
                .ok_or(BadSecret::Scram);
        }
        Ok(match Md5Hash::parse(text) {
            Some(hash) => Self::Md5(hash),
            None => Self::Plain(Password::from(text)),
        })
    }

    /// The verifier's text as PostgreSQL stores it.
    pub fn scram_text(verifier: &ScramVerifier) -> String {
        format!(
            "{SCRAM_PREFIX}{}:{}${}:{}",
            verifier.iterations,
            STANDARD.encode(&verifier.salt),
            STANDARD.encode(verifier.stored_key),
            STANDARD.encode(verifier.server_key)
        )
    }
}

fn parse_verifier(rest: &str) -> Option<ScramVerifier> {
    let (head, keys) = rest.split_once('$')?;
    let (iterations, salt) = head.split_once(':')?;
    let (stored_key, server_key) = keys.split_once(':')?;
    let iterations = parse_count(iterations)?;
    let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
    Some(ScramVerifier {
        iterations,
        salt: salt.into(),
        stored_key: parse_key(stored_key)?,
        server_key: parse_key(server_key)?,
    })
}

/// A positive decimal number without sign or blanks (`str::parse` would take `+1`).
pub(crate) fn parse_count(text: &str) -> Option<u32> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|n| *n > 0)
}

/// A key in base64.
pub(crate) fn parse_key(text: &str) -> Option<Key> {
    let bytes: [u8; KEY_LEN] = STANDARD.decode(text).ok()?.try_into().ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::kdf::KdfRequest;

    // The salt, count and password of the example in RFC 7677 section 3.
    const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn the_three_shapes() {
        assert!(matches!(Secret::parse("pencil"), Ok(Secret::Plain(_))));
        assert!(matches!(Secret::parse("md5sum"), Ok(Secret::Plain(_))));
        let md5 = "md5a6343a68d964ca596d9752250d54bb8a";
        assert!(matches!(Secret::parse(md5), Ok(Secret::Md5(_))));
        assert!(matches!(
            Secret::parse(&md5.replace('a', "A")),
            Ok(Secret::Plain(_))
        ));
        assert!(matches!(Secret::parse(VERIFIER), Ok(Secret::Scram(_))));
        assert!(matches!(Secret::parse(""), Err(BadSecret::Empty)));
    }

    #[test]
    fn a_verifier_is_what_the_kdf_yields_and_prints_as_it_was_read() {
        let Ok(Secret::Scram(verifier)) = Secret::parse(VERIFIER) else {
            panic!("not a verifier");
        };
        let run = |password: &str| {
            KdfRequest::new("u", password.into(), verifier.salt(), 4096, 4096)
                .unwrap()
                .run()
        };
        assert!(verifier.accepts(&run("pencil")));
        assert!(!verifier.accepts(&run("pencils")));
        assert_eq!(Secret::scram_text(&verifier), VERIFIER);
        let again = run("pencil").verifier(verifier.salt(), 4096);
        assert_eq!(Secret::scram_text(&again), VERIFIER);
    }

    #[test]
    fn broken_verifiers_are_refused_and_nothing_is_shown() {
        for broken in [
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$4096",
            "SCRAM-SHA-256$0:c2FsdA==$AAAA:AAAA",
            "SCRAM-SHA-256$+1:c2FsdA==$AAAA:AAAA",
            &VERIFIER.replace("4096", "4294967296"),
            &VERIFIER.replace("W22Z", "W2*Z"),
            &VERIFIER.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
            &VERIFIER[..VERIFIER.len() - 4],
        ] {
            let error = Secret::parse(broken).unwrap_err();
            assert_eq!(error, BadSecret::Scram, "{broken}");
        }
        for shown in [VERIFIER, "pencil", "md5a6343a68d964ca596d9752250d54bb8a"] {
            let debug = format!("{:?}", Secret::parse(shown));
            assert!(
                debug.ends_with("(..))))") || debug.ends_with("(..)))"),
                "{debug}"
            );
        }
    }
}
