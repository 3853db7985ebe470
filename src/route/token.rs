//! Tokens: how fresh a session is, in a form that it can hand to another one.
//!
//! `SHOW pgweir.token` tells it, `SET pgweir.token` makes a session at least that fresh, on whatever
//! connection, process or host. Opaque to clients; not secret and not proof of anything: a forged one
//! can only make its own session's reads fresher than they need be.

use std::fmt;

use super::Lsn;

/// What positions belong to: they compare only within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// The system identifier of the cluster.
    pub system: u64,
    /// The timeline.
    pub timeline: u32,
    /// When the primary was started, in microseconds since 2000; a crash may have taken back
    /// positions that were seen before.
    pub started: u64,
}

/// A position that a session must be able to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it belongs to.
    pub history: History,
    /// The position.
    pub position: Lsn,
}

/// The first character of every token: the version of this form.
const VERSION: &str = "1";

impl Token {
    /// As fresh as both: where they are of different histories, only the primary is.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        if self.history != other.history {
            return Self::BEYOND_ALL;
        }
        Self {
            position: self.position.max(other.position),
            ..self
        }
    }

    /// Nothing is as fresh as that.
    pub const BEYOND_ALL: Self = Self {
        history: History {
            system: 0,
            timeline: 0,
            started: 0,
        },
        position: Lsn(u64::MAX),
    };

    /// Reads a token. What is none is one that nothing is fresh enough for but the primary: whoever
    /// hands it on must not get older data for that.
    pub fn read(text: &[u8]) -> Self {
        Self::parse(text).unwrap_or(Self::BEYOND_ALL)
    }

    /// Reads a token; `None` if it is none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        let mut parts = text.split('.');
        let mut number = |is_first| {
            let part = parts.next()?;
            if is_first {
                return (part == VERSION).then_some(0);
            }
            let is_hex = !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
            is_hex.then(|| u64::from_str_radix(part, 16).ok())?
        };
        number(true)?;
        let history = History {
            system: number(false)?,
            timeline: number(false)?.try_into().ok()?,
            started: number(false)?,
        };
        let position = Lsn(number(false)?);
        parts.next().is_none().then_some(Self { history, position })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let History {
            system,
            timeline,
            started,
        } = self.history;
        let position = self.position.0;
        write!(
            f,
            "{VERSION}.{system:x}.{timeline:x}.{started:x}.{position:x}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_token_is_read_back(system: u64, timeline: u32, started: u64, position: u64) {
            let history = History { system, timeline, started };
            let token = Token { history, position: Lsn(position) };
            prop_assert_eq!(Token::parse(token.to_string().as_bytes()), Some(token));
        }

        #[test]
        fn anything_else_is_no_token(bytes: Vec<u8>) {
            if let Some(token) = Token::parse(&bytes) {
                prop_assert_eq!(Token::parse(token.to_string().as_bytes()), Some(token));
            }
        }
    }

    #[test]
    fn what_is_left_out_or_too_much_is_no_token() {
        for text in [
            "",
            "1",
            "1.1.1.1",
            "2.1.1.1.1",
            "1.1.1.1.1.1",
            "1.+1.1.1.1",
            "1.1.100000000.1.1",
        ] {
            assert_eq!(Token::parse(text.as_bytes()), None, "{text}");
        }
    }
}
