//! How a client's bytes are to be read as SQL.

use crate::sql::{Env, Knowledge};

/// What the reported parameters say about string literals and characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    standard_conforming_strings: bool,
    ascii_safe_encoding: bool,
    /// Major; 0 until it is known.
    server_version: u16,
}

/// Encodings in which a byte below 0x80 may be the second half of a character (manual, "Character
/// Set Support"; they are client-only for that reason).
const UNSAFE_ENCODINGS: [&[u8]; 7] = [
    b"BIG5",
    b"GB18030",
    b"GBK",
    b"JOHAB",
    b"SHIFT_JIS_2004",
    b"SJIS",
    b"UHC",
];

impl Default for Dialect {
    fn default() -> Self {
        Self {
            standard_conforming_strings: true,
            ascii_safe_encoding: true,
            server_version: 0,
        }
    }
}

impl Dialect {
    /// Takes a ParameterStatus.
    pub(super) fn on_parameter_status(&mut self, name: &[u8], value: &[u8]) {
        if name.eq_ignore_ascii_case(b"standard_conforming_strings") {
            self.standard_conforming_strings = value == b"on";
        } else if name.eq_ignore_ascii_case(b"client_encoding") {
            let is_unsafe = |encoding: &&[u8]| value.eq_ignore_ascii_case(encoding);
            self.ascii_safe_encoding = !UNSAFE_ENCODINGS.iter().any(is_unsafe);
        } else if name == b"server_version" {
            let digits = value.iter().take_while(|b| b.is_ascii_digit()).take(4);
            self.server_version = digits.fold(0, |number, b| number * 10 + u16::from(b - b'0'));
        }
    }

    /// Stands for everything that the meaning of a text depends on, in this world.
    #[inline]
    pub(super) fn key(self, world: u64) -> u64 {
        let flags =
            u64::from(self.standard_conforming_strings) | u64::from(self.ascii_safe_encoding) << 1;
        world << 16 | u64::from(self.server_version & 0x3fff) << 2 | flags
    }

    /// For the classifier.
    pub(super) fn env(self, knowledge: &dyn Knowledge) -> Env<'_> {
        Env {
            standard_conforming_strings: self.standard_conforming_strings,
            ascii_safe_encoding: self.ascii_safe_encoding,
            server_version: self.server_version,
            max_len: super::HOLD_LIMIT,
            knowledge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Builtins;

    #[test]
    fn reported_parameters_decide_how_text_is_read() {
        let mut dialect = Dialect::default();
        dialect.on_parameter_status(b"client_encoding", b"SJIS");
        dialect.on_parameter_status(b"standard_conforming_strings", b"off");
        let env = dialect.env(&Builtins);
        assert!(!env.ascii_safe_encoding && !env.standard_conforming_strings);
        dialect.on_parameter_status(b"client_encoding", b"UTF8");
        dialect.on_parameter_status(b"standard_conforming_strings", b"on");
        assert_eq!(dialect, Dialect::default());
        dialect.on_parameter_status(b"server_version", b"15.18 (Debian 15.18-0+deb12u1)");
        assert_eq!(dialect.env(&Builtins).server_version, 15);
    }
}
