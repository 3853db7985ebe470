//! Borrowed views of the few frontend messages that the pooler looks into.
//!
//! Each view is read from one whole message body, or, for Bind, from the beginning of one: the
//! parameters behind the two names are never looked at.

use memchr::memchr;

use super::read::{Malformed, Reader};

/// The text of a Query message (encoding: the client's).
#[inline]
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    match body.split_last() {
        // A NUL in the middle would end the text early for the server: what follows it would be
        // seen by us and not by PostgreSQL.
        Some((0, text)) if memchr(0, text).is_none() => Ok(text),
        Some((0, _)) => Err(Malformed::TrailingBytes),
        _ => Err(Malformed::UnterminatedString),
    }
}

/// A Parse message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Name of the statement; empty for the unnamed one.
    pub name: &'a [u8],
    /// The statement's text.
    pub text: &'a [u8],
    /// Parameter type OIDs, still as sent: a 16-bit count and that many 32-bit words.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads a whole body.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let name = reader.cstr()?;
        let text = reader.long_cstr()?;
        let types = reader.rest();
        let count = reader.u16()?;
        reader.bytes(usize::from(count) * 4)?;
        reader.end()?;
        Ok(Self { name, text, types })
    }
}

/// The beginning of a Bind message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Name of the portal; empty for the unnamed one.
    pub portal: &'a [u8],
    /// Name of the statement; empty for the unnamed one.
    pub statement: &'a [u8],
    /// What is at hand of formats and parameters.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the names from what is at hand of a body.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let portal = reader.cstr()?;
        let statement = reader.cstr()?;
        Ok(Self {
            portal,
            statement,
            rest: reader.rest(),
        })
    }
}

/// What a Describe or Close message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    /// Reads a whole body of Describe or Close.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let kind = reader.u8()?;
        let name = reader.cstr()?;
        reader.end()?;
        match kind {
            b'S' => Ok(Self::Statement(name)),
            b'P' => Ok(Self::Portal(name)),
            _ => Err(Malformed::UndefinedValue("kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_is_one_terminated_string() {
        assert_eq!(query(b"select 1\0"), Ok(&b"select 1"[..]));
        assert_eq!(query(b"\0"), Ok(&b""[..]));
        assert_eq!(query(b"select 1"), Err(Malformed::UnterminatedString));
        assert_eq!(query(b""), Err(Malformed::UnterminatedString));
        assert_eq!(
            query(b"select 1\0; drop table t\0"),
            Err(Malformed::TrailingBytes)
        );
    }

    #[test]
    fn parse_bind_describe() {
        assert_eq!(
            Parse::read(b"s\0select $1\0\0\x01\0\0\0\x17"),
            Ok(Parse {
                name: b"s",
                text: b"select $1",
                types: b"\0\x01\0\0\0\x17"
            })
        );
        assert_eq!(
            Parse::read(b"s\0select 1\0\0\x01"),
            Err(Malformed::Truncated)
        );
        assert_eq!(
            Parse::read(b"s\0select 1\0\0\0x"),
            Err(Malformed::TrailingBytes)
        );
        assert_eq!(
            Bind::read(b"p\0s\0\0\0"),
            Ok(Bind {
                portal: b"p",
                statement: b"s",
                rest: b"\0\0"
            })
        );
        assert_eq!(Target::read(b"Ss1\0"), Ok(Target::Statement(b"s1")));
        assert_eq!(Target::read(b"P\0"), Ok(Target::Portal(b"")));
        assert_eq!(
            Target::read(b"Xs1\0"),
            Err(Malformed::UndefinedValue("kind"))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_view_panic(bytes: Vec<u8>) {
            let _ = query(&bytes);
            let _ = Parse::read(&bytes);
            let _ = Bind::read(&bytes);
            let _ = Target::read(&bytes);
        }
    }
}
